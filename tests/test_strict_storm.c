/* Strict locks between processes: many that contend, and holders that are killed. Never two at a time, everybody gets a
 * turn, and what the dead leave blocks until it is broken by name: two claims at most. */
#include "support/strict_scene.h"

#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { RIVALS = 6, TURNS = 40, KILLS = 60, PATIENCE_S = 100 };

typedef struct shared {
    _Atomic pid_t holder;
    atomic_int two, grants[RIVALS], stop;
} shared;
static shared *all;

static void take_turn(aflock *lock, int self)
{
    answer a = {0};
    scene_expect(1);
    ck_assert_int_eq(aflock_acquire(lock, NULL, scene_answer, &a, NULL), 0);
    while (a.count == 0)
        ck_assert_int_eq(aflock_epoll_run_once(scene, AFLOCK_SECOND), 0);
    ck_assert_msg(a.result.status == 0, "%s: %s", aflock_error_name(a.result.status), a.detail);
    pid_t nobody = 0;
    if (!atomic_compare_exchange_strong(&all->holder, &nobody, getpid()))
        atomic_fetch_add(&all->two, 1);
    usleep(200);
    if (atomic_load(&all->holder) != getpid())
        atomic_fetch_add(&all->two, 1);
    atomic_fetch_add(&all->grants[self], 1);
    atomic_store(&all->holder, 0);
    strict_release(lock, a.result.req);
}

static pid_t rival(int self)
{
    pid_t pid = fork();
    ck_assert_int_ge(pid, 0);
    if (pid > 0)
        return pid;
    scene = NULL;
    scene_make_context();
    aflock *lock;
    aflock_options o = strict_options(self % SCENE_IO_COUNT);
    o.wait = self % 2 ? AFLOCK_WAIT_NOTIFY : AFLOCK_WAIT_POLL;
    o.poll_interval = 5 * AFLOCK_MILLISECOND;
    ck_assert_int_eq(aflock_open(&lock, scene, "lock", &o), 0);
    while (!atomic_load(&all->stop)) {
        take_turn(lock, self);
        usleep(500); /* others want it, too */
    }
    scene_free_context();
    _exit(0);
}

static void begin(pid_t pids[RIVALS])
{
    all = mmap(NULL, sizeof *all, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    ck_assert_ptr_ne(all, MAP_FAILED);
    for (int i = 0; i < RIVALS; i++)
        pids[i] = rival(i);
}

/* Everybody has had so many turns since. */
static void await_turns(const int before[RIVALS], int turns)
{
    time_t end = time(NULL) + PATIENCE_S;
    for (int i = 0; i < RIVALS; i++) {
        while (atomic_load(&all->grants[i]) < before[i] + turns) {
            ck_assert_msg(time(NULL) < end, "%d waits for ever", i);
            usleep(1000);
        }
    }
}

static void count_turns(int turns[RIVALS])
{
    for (int i = 0; i < RIVALS; i++)
        turns[i] = atomic_load(&all->grants[i]);
}

static void end(const pid_t pids[RIVALS])
{
    int status;
    atomic_store(&all->stop, 1);
    for (int i = 0; i < RIVALS; i++) {
        ck_assert_int_eq(waitpid(pids[i], &status, 0), pids[i]);
        ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0, "%d ended with %d", i, status);
    }
    ck_assert_int_eq(atomic_load(&all->two), 0);
}

START_TEST(they_contend)
{
    const int none[RIVALS] = {0};
    pid_t pids[RIVALS];
    begin(pids);
    await_turns(none, TURNS);
    end(pids);
    strict_must_have(0);
    ck_assert_int_eq(scene_entries("."), 2);
}
END_TEST

/* The claims of a process that is dead, broken by name as an operator does. */
static int break_claims_of(aflock *lock, pid_t dead)
{
    int broken = 0;
    strict_sight s = strict_look(lock);
    ck_assert_msg(s.holder.status == 0, "%s", s.detail);
    for (uint32_t i = 0; i < s.holder.claim_count && i < 8; i++) {
        if (s.claims[i].pid != dead)
            continue;
        ck_assert(s.claims[i].here && s.claims[i].gone);
        ck_assert_int_eq(strict_break(lock, s.claims[i].name).result.status, 0);
        broken++;
    }
    return broken;
}

/* While it is not broken nobody gets it, however often they try. */
static void must_block(void)
{
    int before[RIVALS], after[RIVALS];
    count_turns(before);
    usleep(20000);
    count_turns(after);
    ck_assert_int_eq(memcmp(before, after, sizeof before), 0);
}

START_TEST(holders_are_killed)
{
    pid_t pids[RIVALS];
    int before[RIVALS] = {0}, held = 0, left = 0;
    siginfo_t info;
    aflock *lock = strict_open(AFLOCK_IO_INLINE);
    begin(pids);
    await_turns(before, 1);
    for (int i = 0; i < KILLS; i++) {
        pid_t holder = 0;
        for (int turn = 0; turn < 10000 && i % 4 && (holder = atomic_load(&all->holder)) == 0; turn++)
            usleep(20);
        int victim = i % RIVALS; /* mostly the holder */
        for (int k = 0; k < RIVALS; k++)
            if (pids[k] == holder)
                victim = k;
        ck_assert_int_eq(kill(pids[victim], SIGKILL), 0);
        ck_assert_int_eq(waitid(P_PID, (id_t)pids[victim], &info, WEXITED), 0);
        const pid_t dead = pids[victim];
        pid_t was = dead;
        if (atomic_load(&all->holder) == dead) {
            must_block();
            ck_assert(atomic_compare_exchange_strong(&all->holder, &was, 0));
            held++;
        }
        const int broken = break_claims_of(lock, dead);
        ck_assert_int_le(broken, 2);
        left += broken;
        pids[victim] = rival(victim);
        if (i % 10 == 9) {
            count_turns(before);
            await_turns(before, 1);
        }
    }
    end(pids);
    printf("%d kills, %d of them of holders, %d claims broken\n", KILLS, held, left);
    ck_assert_int_ge(held, KILLS / 4);
    ck_assert_int_ge(left, 2 * held);
    usleep(2100000); /* private records that were left are removed then */
    strict_must_get(lock);
}
END_TEST

int main(void)
{
    const TTest *const once[] = {they_contend, holders_are_killed, NULL};
    return scene_main_within(2 * PATIENCE_S, "strict storm", once, NULL);
}
