/* What the processes share is who holds the lock, as they say themselves. Who is to be killed is stopped before: nobody
 * may come to hold the lock between the end of a holder and its being noted. */
#include "support/rivals.h"

#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { KILLS_BETWEEN_TURNS = 10 };

static struct board {
    _Atomic pid_t holder;
    atomic_int two, turns[RIVALS_MAX], stop;
} * board;
static const rivals *rules;
static pid_t pids[RIVALS_MAX];

/* ----------------------------------------------------------------------------------------------------- in a process */

void rivals_hold(int self)
{
    pid_t nobody = 0;
    if (!atomic_compare_exchange_strong(&board->holder, &nobody, getpid()) || (rules->agrees && !rules->agrees()))
        atomic_fetch_add(&board->two, 1);
    usleep(rules->hold_us);
    if (atomic_load(&board->holder) != getpid() || (rules->agrees && !rules->agrees()))
        atomic_fetch_add(&board->two, 1);
    atomic_fetch_add(&board->turns[self], 1);
    atomic_store(&board->holder, 0);
}

void rivals_turn(aflock *lock, int self)
{
    answer a = {0};
    scene_expect(1);
    ck_assert_int_eq(aflock_acquire(lock, NULL, scene_answer, &a, NULL), 0);
    while (a.count == 0)
        ck_assert_int_eq(aflock_epoll_run_once(scene, AFLOCK_SECOND), 0);
    ck_assert_msg(a.result.status == 0, "%s: %s %s", aflock_error_name(a.result.status), a.step, a.detail);
    rivals_hold(self);
    ck_assert_int_eq(scene_release(lock, a.result.req).result.status, 0);
}

static pid_t start(int self)
{
    const pid_t pid = fork();
    ck_assert_int_ge(pid, 0);
    if (pid > 0)
        return pid;
    scene = NULL;
    scene_make_context();
    aflock *lock = rules->open(self);
    while (!atomic_load(&board->stop)) {
        (rules->turn ? rules->turn : rivals_turn)(lock, self);
        usleep(rules->others_us);
    }
    scene_free_context();
    _exit(0);
}

/* ------------------------------------------------------------------------------------------------------ their parent
 */

void rivals_begin(const rivals *r)
{
    ck_assert_int_le(r->count, RIVALS_MAX);
    rules = r;
    board = mmap(NULL, sizeof *board, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    ck_assert_ptr_ne(board, MAP_FAILED);
    for (int i = 0; i < r->count; i++)
        pids[i] = start(i);
}

void rivals_turns(int turns[RIVALS_MAX])
{
    for (int i = 0; i < RIVALS_MAX; i++)
        turns[i] = atomic_load(&board->turns[i]);
}

void rivals_await(int turns)
{
    int before[RIVALS_MAX];
    const time_t end = time(NULL) + rules->patience_s;
    rivals_turns(before);
    for (int i = 0; i < rules->count; i++)
        while (atomic_load(&board->turns[i]) < before[i] + turns) {
            ck_assert_msg(time(NULL) < end, "%d waits for ever", i);
            usleep(1000);
        }
}

static int choose(int kill)
{
    pid_t holder = 0;
    for (int look = 0; look < 10000 && kill % 4 && (holder = atomic_load(&board->holder)) == 0; look++)
        usleep(20);
    for (int i = 0; i < rules->count; i++)
        if (pids[i] == holder)
            return i;
    return kill % rules->count;
}

static bool kill_one(int victim)
{
    const pid_t pid = pids[victim];
    pid_t holder = pid;
    int status;
    ck_assert_int_eq(kill(pid, SIGSTOP), 0);
    ck_assert_int_eq(waitpid(pid, &status, WUNTRACED), pid);
    ck_assert(WIFSTOPPED(status));
    const bool held = atomic_compare_exchange_strong(&board->holder, &holder, 0);
    ck_assert_int_eq(kill(pid, SIGKILL), 0);
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    if (rules->buried)
        rules->buried(pid, held);
    pids[victim] = start(victim);
    return held;
}

int rivals_kill(int kills)
{
    int held = 0;
    for (int i = 0; i < kills; i++) {
        held += kill_one(choose(i));
        if (i % KILLS_BETWEEN_TURNS == KILLS_BETWEEN_TURNS - 1)
            rivals_await(1);
    }
    return held;
}

void rivals_end(void)
{
    int status;
    atomic_store(&board->stop, 1);
    for (int i = 0; i < rules->count; i++) {
        ck_assert_int_eq(waitpid(pids[i], &status, 0), pids[i]);
        ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0, "%d ended with %d", i, status);
    }
    ck_assert_int_eq(atomic_load(&board->two), 0);
}
