/* Soft readers and writers on two hosts, as far as one machine can be two: a process with a host name and process ids
 * of its own holds, and is stopped for longer than its marker counts. Somebody else gets in then, and it learns of that
 * before anything else when it goes on. On real clocks: a slow machine makes things come later. Needs root. */
#include "support/soft_rw_scene.h"

#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SKIPPED = 77 };
#define SHORT (300 * AFLOCK_MILLISECOND)
#define FRESH (50 * AFLOCK_MILLISECOND) /* after he was stopped: he had refreshed it, or been told */

static struct {
    atomic_int ready, count;
    char order[16]; /* "!": told that it is lost, "t": a time-out */
    _Atomic pid_t pid;
} * his;

static aflock *open_short(void)
{
    aflock_options o = soft_rw_options(AFLOCK_IO_AUTO);
    o.stale_after = SHORT;
    return open_with(&o);
}

static void enter(char what)
{
    const int i = atomic_load(&his->count);
    his->order[i] = what;
    atomic_store(&his->count, i + 1);
}

static void he_timed_out(aflock *lock, const aflock_result *r, void *user)
{
    (void)lock, (void)r, (void)user;
    enter('t');
}

static void he_is_told(aflock *lock, aflock_req req, const aflock_compromise *what, void *user)
{
    (void)what, (void)user;
    enter('!');
    ck_assert_int_eq(aflock_release(lock, req, NULL, NULL), 0);
}

/* Waits for something else at the same time, which times out while he is stopped. */
static void hold_until_told(aflock_mode mode)
{
    scene = NULL;
    scene_make_context();
    aflock *lock = open_short(), *native = scene_open("native", AFLOCK_IO_INLINE);
    aflock_acquire_options p = scene_options(0, 0);
    p.mode = mode;
    p.on_compromise = he_is_told;
    answer a;
    do /* a slow machine loses it before it is told */
        a = scene_acquire(lock, &p);
    while (a.result.status == AFLOCK_ECOMPROMISED);
    ck_assert_int_eq(a.result.status, 0);
    scene_hold(native, NULL);
    p = scene_options(0, 0);
    p.timeout = 150 * AFLOCK_MILLISECOND;
    ck_assert_int_eq(aflock_acquire(native, &p, he_timed_out, NULL, NULL), 0);
    atomic_store(&his->ready, 1);
    while (atomic_load(&his->count) < 2)
        ck_assert_int_eq(aflock_epoll_run_once(scene, AFLOCK_SECOND), 0);
    soft_rw_rest();
    _exit(0);
}

/* A process with a host name and process ids of its own. The number is ours of whoever waits for it. */
static pid_t begin_elsewhere(aflock_mode mode)
{
    const pid_t keeper = fork();
    ck_assert_int_ge(keeper, 0);
    if (keeper > 0)
        return keeper;
    if (unshare(CLONE_NEWUTS | CLONE_NEWPID) != 0 || sethostname(ELSEWHERE, strlen(ELSEWHERE)) != 0)
        _exit(2);
    const pid_t holder = fork();
    if (holder == 0)
        hold_until_told(mode);
    atomic_store(&his->pid, holder);
    int status;
    _exit(waitpid(holder, &status, 0) == holder && WIFEXITED(status) ? WEXITSTATUS(status) : 3);
}

static void await_flag(atomic_int *flag, int value)
{
    scene_await(atomic_load(flag) >= value);
}

static uint64_t now(void)
{
    struct timespec t;
    ck_assert_int_eq(clock_gettime(CLOCK_MONOTONIC, &t), 0);
    return (uint64_t)t.tv_sec * AFLOCK_SECOND + (uint64_t)t.tv_nsec;
}

/* False: the machine was so slow that something had come before he was stopped. */
static bool overtake(aflock_mode mode)
{
    int status;
    memset(his, 0, sizeof *his);
    const pid_t keeper = begin_elsewhere(mode);
    await_flag(&his->ready, 1);
    scene_await(his->pid > 0); /* his keeper writes it down */
    const uint64_t began = now();
    ck_assert_int_eq(kill(his->pid, SIGSTOP), 0);
    usleep(1000);
    const bool in_time = atomic_load(&his->count) == 0;
    aflock *lock = open_short();
    answer a = soft_rw_try(lock, AFLOCK_EXCLUSIVE, 0);
    const bool fresh = in_time && now() - began < FRESH;
    if (fresh || a.result.status != 0) {
        ck_assert_int_eq(a.result.status, AFLOCK_EWOULDBLOCK);
        a = soft_rw_try(lock, AFLOCK_EXCLUSIVE, 30 * AFLOCK_SECOND);
    }
    ck_assert_int_eq(a.result.status, 0);
    ck_assert_int_eq(kill(his->pid, SIGCONT), 0);
    ck_assert_int_eq(waitpid(keeper, &status, 0), keeper);
    ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0, "he ended with %d", status);
    ck_assert_ptr_nonnull(strchr(his->order, '!'));
    if (in_time)
        ck_assert_int_eq(his->order[0], '!');
    must_be_ours_soft_rw(WRITER, a.token); /* his release has left ours alone */
    must_release(lock, a.result.req);
    ck_assert_int_eq(aflock_close(lock), 0);
    ck_assert_int_eq(unlink("native"), 0);
    return in_time;
}

static void stop_one(aflock_mode mode)
{
    his = mmap(NULL, sizeof *his, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    ck_assert_ptr_ne(his, MAP_FAILED);
    stop_clocks(AFLOCK_SECOND, 0); /* we do not lose ours; he has his own */
    for (int i = 0; i < 5 && !overtake(mode); i++)
        ;
    ck_assert_int_eq(scene_entries("."), 1);
}

START_TEST(a_reader_is_stopped)
{
    stop_one(AFLOCK_SHARED);
}
END_TEST

START_TEST(a_writer_is_stopped)
{
    stop_one(AFLOCK_EXCLUSIVE);
}
END_TEST

int main(void)
{
    const TTest *const once[] = {a_reader_is_stopped, a_writer_is_stopped, NULL};
    if (geteuid() == 0)
        return scene_main("soft rw hosts", once, NULL);
    printf("another host needs root\n");
    return SKIPPED;
}
