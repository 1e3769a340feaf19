/* The storm of markers and claims: eight processes take a lock some hundred times each, and one of them is killed every
 * 50 ms, mostly the one that holds it. No two may hold it at a time, but readers (soft-rw), who have to, now and then;
 * and nobody may be stuck: what the dead leave is broken by the others (soft, lease, soft-rw), or by name as an
 * operator does it (strict).
 *
 * Each seat has to come to its number of holds, in as many lives as that takes. The board (board.h) is judged at the
 * end. Which decisions are taken follows from the seed; when they happen does not.
 */
#include "board.h"

#include <aflock/epoll.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { KILL_EACH = 50000000, STEP_MOST = 150000, THINK_MOST = 400000 }; /* ns */
enum { READS_PERCENT = 70 };

#define FOLDER LOCK_FILE ".filelock"
#define WRITER LOCK_FILE ".write"
#define READERS LOCK_FILE ".readers"

static const char HELP[] =
    "usage: storm-markers [--protocol soft|lease|strict|soft-rw] [--holds N] [--processes 1..8] [--seed N]\n"
    "\n"
    "Processes take a lock N times each, while one of them is killed every 50 ms. Fails if two\n"
    "hold it at a time (and are not both readers), or if nobody gets it any more.\n";

static settings s = {.protocol = "soft", .processes = 8, .seed = 1, .holds = 500};
static const protocol *spoken;
static pid_t pids[SEATS]; /* 0: it is through */
static unsigned lives[SEATS];
static dice fate;
static unsigned kills, kills_of_holders, claims_broken, unfinished;

/* -------------------------------------------------------------------------------------------------------- a worker */

static struct {
    dice dice;
    unsigned seat, life;
    aflock_ctx *ctx;
    aflock *lock;
    bool waits, reads;
} w;

static aflock_options options_of_lock(aflock_io io)
{
    aflock_options o;
    aflock_options_init(&o);
    o.protocol = spoken->number;
    o.io = io;
    o.poll_interval = 5 * AFLOCK_MILLISECOND;
    if (spoken->number == AFLOCK_LEASE)
        o.duration = 20 * AFLOCK_SECOND; /* no slow machine loses it */
    if (spoken->number == AFLOCK_SOFT_RW)
        o.stale_after = 600 * AFLOCK_SECOND; /* nothing goes by age alone */
    return o;
}

static void hold_it(void)
{
    const interval what = {.life = w.life, .seat = (uint8_t)w.seat, .shared = w.reads, .kind = HOLD};
    hold h;
    hold_begin(&h, now_ns(), &what, !w.reads);
    for (unsigned steps = dice_below(&w.dice, 4); steps > 0; steps--) {
        sleep_ns(dice_up_to(&w.dice, STEP_MOST));
        hold_stamp(&h);
    }
    hold_end(&h);
}

static void on_lock(aflock *lock, const aflock_result *result, void *user)
{
    (void)user;
    if (result->status != 0)
        fail("answered %s at %s: %s", aflock_error_name(result->status), result->step ? result->step : "-",
             strerror(result->sys_errno));
    hold_it();
    require_status(aflock_release(lock, result->req, NULL, NULL), 0);
    atomic_fetch_add(&the_board->seats[w.seat].calm, 1);
    atomic_fetch_add(&the_board->seats[w.seat].waits, result->attempts != 1);
    w.waits = false;
}

static void ask(void)
{
    aflock_acquire_options o;
    aflock_acquire_options_init(&o);
    w.reads = spoken->number == AFLOCK_SOFT_RW && dice_percent(&w.dice, READS_PERCENT);
    o.mode = w.reads ? AFLOCK_SHARED : AFLOCK_EXCLUSIVE;
    w.waits = true;
    require_status(aflock_acquire(w.lock, &o, on_lock, NULL, NULL), 0);
}

static void work(unsigned seat)
{
    w.dice = dice_of(s.seed, seat, lives[seat]);
    w.seat = seat;
    w.life = lives[seat];
    const aflock_options o = options_of_lock((aflock_io)(w.life % 3));
    require_status(aflock_epoll_new(&w.ctx, NULL), 0);
    require_status(aflock_open(&w.lock, w.ctx, LOCK_FILE, &o), 0);
    while (the_board->seats[seat].calm < s.holds) {
        ask();
        while (w.waits)
            require_status(aflock_epoll_run_once(w.ctx, AFLOCK_SECOND), 0);
        sleep_ns(dice_up_to(&w.dice, THINK_MOST)); /* the release goes on, on the pool */
    }
    require_status(aflock_epoll_run(w.ctx), 0);
    require(aflock_ctx_free(w.ctx, WATCHDOG * AFLOCK_SECOND) == 0);
    exit(0);
}

/* ------------------------------------------------------------------------------------------------------- the killer */

static void give_up(void)
{
    on_failure = NULL;
    for (unsigned i = 0; i < SEATS; i++)
        if (pids[i] > 0 && kill(pids[i], SIGKILL) == 0)
            waitpid(pids[i], NULL, 0);
}

static void start(unsigned seat)
{
    const pid_t parent = getpid();
    lives[seat]++;
    pids[seat] = fork();
    require(pids[seat] >= 0);
    if (pids[seat] > 0)
        return;
    on_failure = NULL;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    require(getppid() == parent);
    set_name("process %u, life %u", seat, lives[seat]);
    work(seat);
}

typedef struct claims {
    char names[8][256];
    unsigned count;
    pid_t dead;
    bool seen, broken;
} claims;

static void see(aflock *lock, const aflock_holder *holder, void *user)
{
    claims *c = user;
    (void)lock;
    require_status(holder->status, 0);
    c->seen = true;
    for (uint32_t i = 0; i < holder->claim_count && c->count < 8; i++)
        if (holder->claims[i].pid == c->dead)
            snprintf(c->names[c->count++], sizeof c->names[0], "%s", holder->claims[i].name);
}

static void on_broken(aflock *lock, const aflock_result *result, void *user)
{
    (void)lock;
    require_status(result->status, 0);
    ((claims *)user)->broken = true;
}

/* Held first, as claims are sorted. The context is made for this only: none is inherited by those who are forked. */
static void break_claims_of(pid_t dead)
{
    claims c = {.dead = dead};
    aflock_ctx *ctx;
    aflock *lock;
    const aflock_options o = options_of_lock(AFLOCK_IO_INLINE);
    require_status(aflock_epoll_new(&ctx, NULL), 0);
    require_status(aflock_open(&lock, ctx, LOCK_FILE, &o), 0);
    require_status(aflock_inspect(lock, see, &c), 0);
    while (!c.seen)
        require_status(aflock_epoll_run_once(ctx, AFLOCK_SECOND), 0);
    require(c.count <= 2);
    for (unsigned i = 0; i < c.count; i++, claims_broken++) {
        c.broken = false;
        require_status(aflock_break_claim(lock, c.names[i], on_broken, &c), 0);
        while (!c.broken)
            require_status(aflock_epoll_run_once(ctx, AFLOCK_SECOND), 0);
    }
    require(aflock_ctx_free(ctx, AFLOCK_SECOND) == 0);
}

/* Who is killed before he has written what he made leaves a marker that counts until it is old: it is made old here.
 * One that is about to be written becomes fresh by that, and none may be written between the look and the ageing. */
static void age_unwritten(int folder, const char *name)
{
    const struct timespec then[2] = {{.tv_sec = 1}, {.tv_sec = 1}};
    struct stat st;
    if (fstatat(folder, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode) && st.st_size == 0)
        (void)utimensat(folder, name, then, AT_SYMLINK_NOFOLLOW);
}

static void stop_all(void)
{
    siginfo_t info;
    for (unsigned i = 0; i < s.processes; i++)
        require(pids[i] == 0 || kill(pids[i], SIGSTOP) == 0);
    for (unsigned i = 0; i < s.processes; i++)
        require(pids[i] == 0 || waitid(P_PID, (id_t)pids[i], &info, WSTOPPED | WEXITED | WNOWAIT) == 0);
}

static void continue_all(void)
{
    for (unsigned i = 0; i < s.processes; i++)
        require(pids[i] == 0 || kill(pids[i], SIGCONT) == 0);
}

static void age_all_unwritten(void)
{
    stop_all();
    DIR *readers = opendir(READERS);
    for (const struct dirent *e; readers && (e = readdir(readers)) != NULL;)
        age_unwritten(dirfd(readers), e->d_name);
    if (readers)
        closedir(readers);
    age_unwritten(AT_FDCWD, WRITER);
    continue_all();
}

static bool has_it(unsigned seat)
{
    const ledger *l = &the_board->seats[seat];
    const unsigned used = l->used;
    if (used == 0 || used > INTERVALS)
        return false;
    const interval *last = &l->log[used - 1];
    return last->life == lives[seat] && last->start && !last->ended;
}

/* Half the time one that holds it. */
static unsigned choose(void)
{
    const unsigned seat = dice_below(&fate, s.processes);
    const unsigned tries = dice_percent(&fate, 50) ? s.processes : 0;
    for (unsigned i = 0; i < tries; i++)
        if (has_it((seat + i) % s.processes))
            return (seat + i) % s.processes;
    return seat;
}

/* False: it is through by itself. */
static bool bury(unsigned seat)
{
    int status;
    const pid_t pid = pids[seat];
    require(waitpid(pid, &status, 0) == pid);
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL)
        return true;
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        fail("process %u, life %u ended with status 0x%x", seat, lives[seat], (unsigned)status);
    pids[seat] = 0;
    unfinished--;
    return false;
}

static void strike(unsigned seat)
{
    if (pids[seat] == 0)
        return;
    require(kill(pids[seat], SIGKILL) == 0);
    const pid_t dead = pids[seat];
    if (!bury(seat))
        return;
    pids[seat] = 0;
    kills++;
    kills_of_holders += has_it(seat);
    if (spoken->number == AFLOCK_STRICT)
        break_claims_of(dead);
    if (spoken->number == AFLOCK_SOFT_RW)
        age_all_unwritten();
    start(seat);
}

static unsigned holds(void)
{
    unsigned sum = 0;
    for (unsigned i = 0; i < s.processes; i++)
        sum += the_board->seats[i].calm;
    return sum;
}

static void storm(void)
{
    unsigned before = 0;
    uint64_t since = now_ns(), next = since + KILL_EACH;
    for (unsigned i = 0; i < s.processes; i++, unfinished++)
        start(i);
    while (unfinished > 0) {
        siginfo_t info;
        sleep_ns(AFLOCK_MILLISECOND);
        for (unsigned i = 0; i < s.processes; i++) {
            info.si_pid = 0;
            if (pids[i] > 0 && waitid(P_PID, (id_t)pids[i], &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid)
                require(!bury(i));
        }
        if (holds() != before) {
            before = holds();
            since = now_ns();
        } else if (now_ns() > since + WATCHDOG * AFLOCK_SECOND) {
            fail("nobody gets the lock any more");
        }
        if (now_ns() >= next) {
            strike(choose());
            next = now_ns() + KILL_EACH;
        }
    }
}

static void leave_no_marker(void)
{
    require(access(LOCK_FILE, F_OK) != 0);
    directory_end((const char *const[]){LOCK_FILE ".break.", NULL});
}

/* What was put aside counts for nobody. */
static bool is_put_aside(const char *name)
{
    return strstr(name, ".break.") != NULL;
}

static void on_last(aflock *lock, const aflock_result *result, void *user)
{
    (void)user;
    require_status(result->status, 0);
    require_status(aflock_release(lock, result->req, NULL, NULL), 0);
}

/* A reader's marker whose process was killed goes when a writer comes. */
static void write_once(void)
{
    aflock_ctx *ctx;
    aflock *lock;
    const aflock_options o = options_of_lock(AFLOCK_IO_INLINE);
    require_status(aflock_epoll_new(&ctx, NULL), 0);
    require_status(aflock_open(&lock, ctx, LOCK_FILE, &o), 0);
    require_status(aflock_acquire(lock, NULL, on_last, NULL, NULL), 0);
    require_status(aflock_epoll_run(ctx), 0);
    require(aflock_ctx_free(ctx, WATCHDOG * AFLOCK_SECOND) == 0);
}

static void leave_no_reader(void)
{
    write_once();
    DIR *readers = opendir(READERS);
    require(readers);
    for (const struct dirent *e; (e = readdir(readers)) != NULL;) {
        if (e->d_name[0] == '.')
            continue;
        if (!is_put_aside(e->d_name))
            fail("left in the folder: %s", e->d_name);
        require(unlinkat(dirfd(readers), e->d_name, 0) == 0);
    }
    closedir(readers);
    directory_end((const char *const[]){READERS, WRITER ".break.", LOCK_FILE ".state.break.", NULL});
}

/* Records that were private when their writer was killed may be left; claims may not. */
static void leave_no_claim(void)
{
    require(chdir(FOLDER "/claims") == 0);
    directory_empty((const char *const[]){".held-v1-.", ".intent-v1-.", NULL});
    require(chdir("../..") == 0 && rmdir(FOLDER "/claims") == 0 && rmdir(FOLDER) == 0);
    directory_end((const char *const[]){LOCK_FILE, "." LOCK_FILE ".", NULL});
}

static void leave_nothing(void)
{
    if (spoken->number == AFLOCK_STRICT)
        leave_no_claim();
    else if (spoken->number == AFLOCK_SOFT_RW)
        leave_no_reader();
    else
        leave_no_marker();
}

int main(int argc, char **argv)
{
    verdict v = {0};
    settings_read(&s, argc, argv, HELP);
    spoken = protocol_named(s.protocol);
    require(spoken->marker);
    set_name("storm-markers --protocol %s", s.protocol);
    fate = dice_of(s.seed, SEATS, 0);
    directory_begin();
    on_failure = give_up;
    board_make();
    board_reset();
    storm();
    judge(&v);
    require(v.grants >= s.holds * s.processes);
    leave_nothing();
    printf("figure: storm of markers, %s: %u processes, %s holds, %s waited for, %u kills (%u of holders), "
           "%u claims broken, %s pairs of readers at a time\n",
           s.protocol, s.processes, thousands(v.grants), thousands(v.waits), kills, kills_of_holders, claims_broken,
           thousands(v.pairs));
    require(kills > 0 && v.cut_short > 0);
    require(spoken->number != AFLOCK_SOFT_RW || v.pairs > 0);
    return 0;
}
