/* The storm: processes that hold one lock are killed, stopped, continued and restarted at random moments. Nobody may
 * hold the lock together with somebody else, and when the storm is over everybody gets it once more.
 *
 * A round: everybody is started; some seconds of storm; the calm; the end, when all leave by themselves and nothing may
 * be left: no lock, no file, no process. Then the board is judged (board.h). Which decisions are taken follows from the
 * seed; when they happen does not.
 */
#include "worker.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { ROUND = 5, STOPPED_MOST = 3 };
enum { TICK_MOST = 6000000, STOP_MOST = 20000000, BRIEF_STOP = 2000000, DOWN_MOST = 10000000 }; /* ns */

static const char HELP[] = "usage: storm [--protocol native|ofd|rw|soft] [--seconds N] [--processes 1..8] [--seed N]\n"
                           "\n"
                           "Kills, stops and restarts processes that share a lock; fails if two hold it at one time,\n"
                           "or if somebody never gets it again. Prints what it did; a failure prints the seed.\n";

/* A process and what is to happen to it. */
typedef struct victim {
    pid_t pid; /* 0: down */
    unsigned life;
    bool stopped;
    uint64_t due; /* when to start or continue it */
} victim;

static settings s = {.protocol = "native", .seconds = 10, .processes = 8, .seed = 1};
static const protocol *spoken;
static victim victims[SEATS];
static dice fate;
static unsigned rounds;
static uint64_t kills, kills_of_holders, stops, restarts;

/* ------------------------------------------------------------------------------------------------------- processes */

static bool is_stranger(unsigned seat)
{
    return seat >= SEATS - STRANGERS;
}

static bool is_used(unsigned seat)
{
    return seat < s.processes || is_stranger(seat);
}

static void give_up(void)
{
    on_failure = NULL;
    for (unsigned i = 0; i < SEATS; i++) {
        if (victims[i].pid > 0 && kill(victims[i].pid, SIGKILL) == 0)
            waitpid(victims[i].pid, NULL, 0);
    }
    directory_drop();
}

static void start(unsigned seat)
{
    victim *v = &victims[seat];
    pid_t parent = getpid();
    *v = (victim){.life = v->life + 1};
    v->pid = fork();
    require(v->pid >= 0);
    if (v->pid != 0)
        return;
    on_failure = NULL;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    require(getppid() == parent);
    set_name("process %u, life %u", seat, v->life);
    (is_stranger(seat) ? stranger_run : worker_run)(spoken, s.seed, seat, v->life);
}

/* Strangers die by themselves, everybody leaves at the end, and nothing else happens without us. */
static void bury(unsigned seat, int status)
{
    victim *v = &victims[seat];
    bool left = WIFEXITED(status) && WEXITSTATUS(status) == 0;
    bool died = left || (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    bool may = the_board->phase == END ? left : is_stranger(seat) && died;
    v->pid = 0;
    if (!may)
        fail("process %u, life %u ended with status 0x%x", seat, v->life, (unsigned)status);
    v->due = now_ns() + dice_up_to(&fate, DOWN_MOST);
}

static void look_after_all(void)
{
    int status;
    for (unsigned i = 0; i < SEATS; i++) {
        if (victims[i].pid > 0 && waitpid(victims[i].pid, &status, WNOHANG) == victims[i].pid)
            bury(i, status);
    }
}

/* ------------------------------------------------------------------------------------------------------- the weather
 */

static void strike(unsigned seat)
{
    int status;
    victim *v = &victims[seat];
    bool holder = the_board->words[0] >> 56 == seat + 1;
    require(kill(v->pid, SIGKILL) == 0);
    require(waitpid(v->pid, &status, 0) == v->pid);
    if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL) {
        bury(seat, status); /* it was quicker */
        return;
    }
    kills++;
    kills_of_holders += holder && the_board->words[0] >> 56 == seat + 1;
    *v = (victim){.life = v->life, .due = now_ns() + dice_up_to(&fate, DOWN_MOST)};
}

static void wake(victim *v)
{
    v->stopped = false;
    require(kill(v->pid, SIGCONT) == 0);
}

static void stop(victim *v)
{
    require(kill(v->pid, SIGSTOP) == 0);
    stops++;
    v->stopped = true;
    v->due = now_ns() + (dice_up_to(&fate, dice_percent(&fate, 20) ? STOP_MOST : BRIEF_STOP));
}

/* One process of each round lives to see its end: what goes wrong slowly needs time. */
static bool is_spared(unsigned seat)
{
    return seat == rounds % s.processes;
}

/* Whose turn it is: half the time the one that holds the lock exclusively. */
static unsigned choose(void)
{
    uint64_t holder = the_board->words[0] >> 56;
    unsigned seat = dice_below(&fate, SEATS);
    if (holder != 0 && dice_percent(&fate, 50))
        seat = (unsigned)holder - 1;
    return seat;
}

static void tick(void)
{
    unsigned stopped = 0;
    uint64_t now = now_ns();
    look_after_all();
    for (unsigned i = 0; i < SEATS; i++) {
        victim *v = &victims[i];
        if (is_used(i) && v->pid == 0 && now >= v->due) {
            start(i);
            restarts++;
        } else if (v->stopped && now >= v->due) {
            wake(v);
        }
        stopped += v->stopped;
    }
    unsigned seat = choose();
    victim *v = &victims[seat];
    if (v->pid == 0)
        return;
    if (!is_spared(seat) && dice_percent(&fate, 35))
        strike(seat);
    else if (!v->stopped && stopped < STOPPED_MOST)
        stop(v);
}

static void storm(uint64_t seconds)
{
    uint64_t until = now_ns() + seconds * AFLOCK_SECOND;
    /* Longer if need be, on a machine with other things to do: a storm that hits nobody proves nothing. */
    bool hit = false;
    while (now_ns() < until || (!hit && now_ns() < until + WATCHDOG * AFLOCK_SECOND)) {
        hit = kills_of_holders > 0 && stops > 0;
        tick();
        sleep_ns(dice_up_to(&fate, TICK_MOST));
    }
}

/* --------------------------------------------------------------------------------------------------------- the calm */

/* Who was killed and holds the lock for ever, says /proc/locks. */
static void print_locks(void)
{
    char line[256];
    struct stat st;
    FILE *f = fopen("/proc/locks", "re");
    if (!f || stat(LOCK_FILE, &st) != 0)
        return;
    char inode[32];
    snprintf(inode, sizeof inode, ":%lu ", (unsigned long)st.st_ino);
    while (fgets(line, sizeof line, f))
        if (strstr(line, inode))
            fprintf(stderr, "  /proc/locks: %s", line);
    fclose(f);
    for (unsigned i = 0; i < SEATS; i++)
        fprintf(stderr, "  process %u, life %u: pid %d\n", i, victims[i].life, victims[i].pid);
}

static void calm(void)
{
    for (unsigned i = 0; i < SEATS; i++) {
        if (victims[i].stopped)
            wake(&victims[i]);
    }
    look_after_all(); /* before the calm nobody's death is a surprise */
    the_board->phase = CALM;
    uint64_t until = now_ns() + WATCHDOG * AFLOCK_SECOND;
    for (unsigned i = 0; i < SEATS;) {
        look_after_all();
        if (is_used(i) && victims[i].pid == 0) { /* a stranger that had made up its mind before */
            start(i);
            restarts++;
        }
        if (!is_used(i) || the_board->seats[i].calm > 0) {
            i++;
        } else if (now_ns() >= until) {
            print_locks();
            fail("process %u, life %u does not get the lock any more", i, victims[i].life);
        } else {
            sleep_ns(AFLOCK_MILLISECOND);
        }
    }
}

static bool somebody_is_there(void)
{
    for (unsigned i = 0; i < SEATS; i++)
        if (victims[i].pid > 0)
            return true;
    return false;
}

static void end(void)
{
    the_board->phase = END;
    uint64_t until = now_ns() + WATCHDOG * AFLOCK_SECOND;
    while (somebody_is_there()) {
        look_after_all();
        if (now_ns() >= until) {
            print_locks();
            fail("somebody does not come to an end");
        }
        sleep_ns(AFLOCK_MILLISECOND);
    }
    require(waitpid(-1, NULL, WNOHANG) < 0 && errno == ECHILD);
    if (!is_free(spoken, LOCK_FILE)) {
        print_locks();
        fail("the lock is held, and nobody is left");
    }
}

/* ---------------------------------------------------------------------------------------------------------- the round
 */

static void run_round(uint64_t seconds, verdict *v)
{
    board_reset();
    for (unsigned i = 0; i < SEATS; i++) {
        if (is_used(i))
            start(i);
    }
    storm(seconds);
    calm();
    end();
    judge(v);
    rounds++;
}

int main(int argc, char **argv)
{
    verdict v = {0};
    settings_read(&s, argc, argv, HELP);
    spoken = protocol_named(s.protocol);
    require(spoken->take);
    set_name("storm --protocol %s", s.protocol);
    fate = dice_of(s.seed, SEATS, 0);
    require(prctl(PR_SET_CHILD_SUBREAPER, 1) == 0); /* nobody gets away */
    directory_begin();
    on_failure = give_up;
    require(symlink(".", LINK_NAME) == 0);
    board_make();
    for (unsigned done = 0; done < s.seconds; done += ROUND)
        run_round(s.seconds - done < ROUND ? s.seconds - done : ROUND, &v);
    /* Who is killed while it breaks a marker leaves that under a name of its own. */
    directory_end((const char *const[]){spoken->marker ? LOCK_FILE ".break." : LOCK_FILE, LINK_NAME, NULL});

    printf("figure: storm %s: %u s, %s grants (%s had to wait), %s on_acquired, %s kills (%s of writers), %s stops, "
           "%s restarts, ",
           s.protocol, s.seconds, thousands(v.grants), thousands(v.waits), thousands(v.on_acquired), thousands(kills),
           thousands(kills_of_holders), thousands(stops), thousands(restarts));
    printf("%s intervals compared (%s cut short, %s of strangers, %s pairs shared a moment)\n", thousands(v.intervals),
           thousands(v.cut_short), thousands(v.strangers), thousands(v.pairs));
    require(spoken->marker || v.pairs > 0); /* readers beside each other */
    require(kills_of_holders > 0 && stops > 0 && v.cut_short > 0 && v.waits > v.grants / 10);
    return 0;
}
