/* The storm of markers and claims: eight processes take a lock some hundred times each, and one of them is killed every
 * 50 ms, mostly the one that holds it. No two may hold it at a time, and nobody may be stuck: what the dead leave is
 * broken by the others (soft, lease), or by name as an operator does it (strict).
 *
 * Each seat has to come to its number of holds, in as many lives as that takes. The board (board.h) is judged at the
 * end. Which decisions are taken follows from the seed; when they happen does not.
 */
#include "board.h"

#include <aflock/epoll.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { KILL_EACH = 50000000, STEP_MOST = 150000, THINK_MOST = 400000 }; /* ns */

#define FOLDER LOCK_FILE ".filelock"

static const char HELP[] =
    "usage: storm-markers [--protocol soft|lease|strict] [--holds N] [--processes 1..8] [--seed N]\n"
    "\n"
    "Processes take a lock N times each, while one of them is killed every 50 ms. Fails if two\n"
    "hold it at a time, or if nobody gets it any more.\n";

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
    bool waits;
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
    return o;
}

static void hold_it(void)
{
    const interval what = {.life = w.life, .seat = (uint8_t)w.seat, .kind = HOLD};
    hold h;
    hold_begin(&h, now_ns(), &what, true);
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

static void work(unsigned seat)
{
    w.dice = dice_of(s.seed, seat, lives[seat]);
    w.seat = seat;
    w.life = lives[seat];
    const aflock_options o = options_of_lock((aflock_io)(w.life % 3));
    require_status(aflock_epoll_new(&w.ctx, NULL), 0);
    require_status(aflock_open(&w.lock, w.ctx, LOCK_FILE, &o), 0);
    while (the_board->seats[seat].calm < s.holds) {
        w.waits = true;
        require_status(aflock_acquire(w.lock, NULL, on_lock, NULL, NULL), 0);
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

/* Half the time the one that holds it. */
static unsigned choose(void)
{
    const uint64_t holder = the_board->words[0] >> 56;
    const unsigned seat = dice_below(&fate, s.processes);
    return holder != 0 && dice_percent(&fate, 50) ? (unsigned)holder - 1 : seat;
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
    const bool held = the_board->words[0] >> 56 == seat + 1;
    if (!bury(seat))
        return;
    kills++;
    kills_of_holders += held && the_board->words[0] >> 56 == seat + 1;
    if (spoken->number == AFLOCK_STRICT)
        break_claims_of(dead);
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

/* Records that were private when their writer was killed may be left; claims may not. */
static void leave_nothing(void)
{
    if (spoken->number != AFLOCK_STRICT) {
        require(access(LOCK_FILE, F_OK) != 0);
        directory_end((const char *const[]){LOCK_FILE ".break.", NULL});
        return;
    }
    require(chdir(FOLDER "/claims") == 0);
    directory_empty((const char *const[]){".held-v1-.", ".intent-v1-.", NULL});
    require(chdir("../..") == 0 && rmdir(FOLDER "/claims") == 0 && rmdir(FOLDER) == 0);
    directory_end((const char *const[]){LOCK_FILE, "." LOCK_FILE ".", NULL});
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
           "%u claims broken\n",
           s.protocol, s.processes, thousands(v.grants), thousands(v.waits), kills, kills_of_holders, claims_broken);
    require(kills > 0 && v.cut_short > 0);
    return 0;
}
