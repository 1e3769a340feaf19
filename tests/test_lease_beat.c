/* Heartbeats on real files: that they come, where from, what stops them, what comes of those that fail, and when a
 * lease is lost. The boot-time clock is the test's own: no slow machine loses a lease. */
#include "runtime/runtime.h"
#include "support/lease_scene.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define START (UINT64_C(1000) * AFLOCK_SECOND)
#define DUE (10 * AFLOCK_SECOND)  /* a heartbeat, after the last */
#define LOST (20 * AFLOCK_SECOND) /* without one */
#define WARNING ((DUE + LOST) / 2)

/* Lets boot time pass, and the loop notice it. */
static void pass(uint64_t ns)
{
    pass_boottime(ns);
    aflock_host_timer(scene);
    run_turns(1);
}

static aflock_req hold(int io, told *t, aflock **lock)
{
    stop_clocks(START, 0);
    *lock = open_lease(io);
    return must_hold_for(*lock, NULL, t);
}

static void must_be_told(const told *t, aflock_req req, aflock_compromise_reason reason, int error, const char *step)
{
    scene_run_until(&t->count, 1);
    run_turns(3);
    ck_assert_int_eq(t->count, 1);
    ck_assert(t->req.id == req.id);
    ck_assert_str_eq(aflock_compromise_name(t->what.reason), aflock_compromise_name(reason));
    ck_assert_int_eq(t->what.sys_errno, error);
    ck_assert_str_eq(t->step, step);
}

/* ----------------------------------------------------------------------------------------------------- that they come
 */

START_TEST(they_come)
{
    told t = {0};
    struct stat before, after;
    stop_clocks(START, 0);
    aflock *lock = open_beating(_i);
    aflock_req req = must_hold_for(lock, NULL, &t);
    ck_assert_int_eq(lstat("lock", &before), 0);
    seam_forget();
    for (int i = 0; i < 3; i++) {
        make_older("lock", 1000);
        await_beats(2); /* the first may have been under way */
        ck_assert_int_eq(lstat("lock", &after), 0);
        ck_assert_int_gt(after.st_mtim.tv_sec, before.st_mtim.tv_sec - 500);
        ck_assert(after.st_ino == before.st_ino && after.st_size == before.st_size);
    }
    const int beats = seam_count(SEAM_TOUCH);
    if (scene_io(_i) == AFLOCK_IO_INLINE) {
        ck_assert_int_eq(seam_on_loop(SEAM_TOUCH), beats);
    } else {
        ck_assert_int_eq(seam_on_loop(SEAM_TOUCH), 0);
        ck_assert_int_eq(seam_on_loop(SEAM_STAT), 0);
    }
    must_release(lock, req);
    const int after_release = seam_count(SEAM_TOUCH);
    run_turns(5);
    ck_assert_int_eq(seam_count(SEAM_TOUCH), after_release);
    ck_assert_int_eq(t.count, 0);
    ck_assert_int_eq(scene_logged, 0);
    ck_assert_int_eq(scene_entries("."), 0);
}
END_TEST

/* Of nobody's hold but this one; what waits and what is soft is not touched. */
START_TEST(only_where_it_is_held)
{
    answer a = {0};
    aflock *soft;
    stop_clocks(START, 0);
    aflock *lock = open_beating(_i);
    aflock_options o = lease_options(_i);
    o.protocol = AFLOCK_SOFT;
    o.heartbeat = 10 * AFLOCK_MILLISECOND; /* means nothing there */
    ck_assert_int_eq(aflock_open(&soft, scene, "soft", &o), 0);
    ck_assert_int_eq(scene_acquire(soft, NULL).result.status, 0);
    mark_lease("lock", getppid(), "30");
    wait_for(lock, &a);
    seam_forget();
    run_turns(5);
    ck_assert_int_eq(seam_count(SEAM_TOUCH), 0);
    ck_assert_int_eq(unlink("lock"), 0);
    scene_run_until(&a.count, 1);
    await_beats(2);
    must_release(lock, a.result.req);
}
END_TEST

/* To the nanosecond, by the clock that goes on while the machine is suspended. */
START_TEST(by_boot_time)
{
    aflock *lock;
    aflock_req req = hold(_i, NULL, &lock);
    seam_forget();
    for (int i = 0; i < 3; i++) {
        pass(DUE - 1);
        run_turns(2);
        ck_assert_int_eq(seam_count(SEAM_TOUCH), i);
        pass(1);
        await_touches(i + 1);
        run_turns(2);
        ck_assert_int_eq(seam_count(SEAM_TOUCH), i + 1);
    }
    ck_assert_int_eq(scene_logged, 0);
    must_release(lock, req);
}
END_TEST

static aflock_req hold_at(const char *path, int io, aflock **lock)
{
    aflock_options o = lease_options(io);
    ck_assert_int_eq(aflock_open(lock, scene, path, &o), 0);
    answer a = scene_acquire(*lock, NULL);
    ck_assert_int_eq(a.result.status, 0);
    return a.result.req;
}

static void must_have_beaten(int times)
{
    await_touches(times);
    run_turns(2);
    ck_assert_int_eq(seam_count(SEAM_TOUCH), times);
}

/* Who is due within a sixteenth of the interval goes along with one that is due, and nobody else does. */
START_TEST(they_come_together)
{
    enum { FIRST, ALONG, LATER, LOCKS };
    static const char *const PATHS[LOCKS] = {"first", "along", "later"};
    const uint64_t soon = DUE / 16;
    aflock *locks[LOCKS];
    aflock_req reqs[LOCKS];
    stop_clocks(START, 0);
    for (int i = 0; i < LOCKS; i++) {
        pass(i == ALONG ? soon : i == LATER ? 1 : 0);
        reqs[i] = hold_at(PATHS[i], _i, &locks[i]);
    }
    seam_forget();
    pass(DUE - soon - 2);
    must_have_beaten(0);
    pass(1);
    must_have_beaten(2);
    pass(soon);
    must_have_beaten(2);
    pass(1);
    must_have_beaten(3);
    pass(DUE - soon - 2);
    must_have_beaten(3);
    pass(1); /* the two are due at one time now */
    must_have_beaten(5);
    ck_assert_int_eq(scene_logged, 0);
    for (int i = 0; i < LOCKS; i++)
        must_release(locks[i], reqs[i]);
}
END_TEST

/* What is not a heartbeat does not come earlier because others beat. */
START_TEST(a_warning_does_not_come_along)
{
    const uint64_t between = WARNING - DUE - 1; /* its heartbeat is due 1 ns before the other one's warning */
    aflock *late, *lock;
    stop_clocks(START, 0);
    aflock_req first = hold_at("late", _i, &late);
    pass(between);
    aflock_req second = hold_at("lock", _i, &lock);
    seam_fail(SEAM_TOUCH, 0, INT_MAX, EIO);
    pass(DUE - between);
    await_touches(1);
    pass(between);
    await_touches(2);
    run_turns(2);
    ck_assert_int_eq(scene_logged, 0);
    pass(1);
    ck_assert_int_eq(scene_logged, 1);
    seam_reset();
    must_release(lock, second);
    must_release(late, first);
}
END_TEST

/* No thread is kept busy, no loop kept alive. */
START_TEST(they_keep_nothing_alive)
{
    stop_clocks(START, 0);
    aflock *lock = open_beating(_i);
    must_hold(lock);
    for (int i = 0; i < 5; i++) {
        await_beats(1);
        ck_assert_int_eq(aflock_epoll_alive(scene), 0);
    }
}
END_TEST

/* -------------------------------------------------------------------------------------------------------- what fails
 */

static const struct {
    seam_call call;
    int error;
    const char *step;
} failures[] = {{SEAM_STAT, EIO, "stat"},     {SEAM_STAT, ESTALE, "stat"},  {SEAM_STAT, EACCES, "stat"},
                {SEAM_STAT, ENOTDIR, "stat"}, {SEAM_TOUCH, EIO, "touch"},   {SEAM_TOUCH, ESTALE, "touch"},
                {SEAM_TOUCH, EROFS, "touch"}, {SEAM_TOUCH, EACCES, "touch"}};
enum { FAILURES = sizeof failures / sizeof failures[0] };

static void await_failures(size_t i, int count)
{
    const int before = seam_count(failures[i].call);
    while (seam_count(failures[i].call) - before < count)
        run_turns(1);
}

/* One that succeeds in time makes up for all that did not. */
START_TEST(one_success_is_enough)
{
    told t = {0};
    stop_clocks(START, 0);
    aflock *lock = open_beating(_i);
    aflock_req req = must_hold_for(lock, NULL, &t);
    for (size_t i = 0; i < FAILURES; i++) {
        await_beats(2);
        make_fail(failures[i].call, failures[i].error);
        await_failures(i, 3);
        pass(30 * AFLOCK_SECOND - 10 * AFLOCK_MILLISECOND - 1);
        await_failures(i, 3);
        make_fail(SEAM_CALLS, 0);
        await_beats(2);
        run_turns(1);
    }
    ck_assert_int_eq(t.count, 0);
    must_release(lock, req);
}
END_TEST

START_TEST(none_is_not)
{
    stop_clocks(START, 0);
    for (size_t i = 0; i < FAILURES; i++) {
        told t = {0};
        aflock *lock = open_beating(_i);
        aflock_req req = must_hold_for(lock, NULL, &t);
        await_beats(2);
        make_fail(failures[i].call, failures[i].error);
        await_failures(i, 2);
        pass(30 * AFLOCK_SECOND - 10 * AFLOCK_MILLISECOND);
        must_be_told(&t, req, AFLOCK_REFRESH_FAILED, failures[i].error, failures[i].step);
        ck_assert_uint_eq(t.what.age, 30 * AFLOCK_SECOND - 10 * AFLOCK_MILLISECOND);
        const int beats = seam_count(failures[i].call);
        run_turns(3);
        ck_assert_int_eq(seam_count(failures[i].call), beats); /* what is lost is not refreshed any more */
        make_fail(SEAM_CALLS, 0);
        must_release(lock, req);
        ck_assert_int_eq(scene_entries("."), 0);
        ck_assert_int_eq(aflock_close(lock), 0);
    }
}
END_TEST

/* No thread: the heartbeat could not even begin, and that loses nothing by itself. */
static int refuse(void *self, aflock_job *job, aflock_lane lane)
{
    (void)self, (void)job, (void)lane;
    return -1;
}

START_TEST(without_a_thread)
{
    told t = {0};
    if (scene_io(_i) == AFLOCK_IO_INLINE)
        return;
    stop_clocks(START, 0);
    aflock *lock = open_beating(_i);
    aflock_req req = must_hold_for(lock, NULL, &t);
    await_beats(1);
    run_turns(2);
    aflock_executor full = *scene->executor;
    const aflock_executor *executor = scene->executor;
    full.submit = refuse;
    scene->executor = &full;
    run_turns(5);
    scene->executor = executor;
    await_beats(2);
    ck_assert_int_eq(t.count, 0);
    must_release(lock, req);
}
END_TEST

/* It hangs: the lease is lost meanwhile, and the release is answered when it comes back. */
START_TEST(one_that_hangs)
{
    told t = {0};
    answer a = {0};
    if (scene_io(_i) == AFLOCK_IO_INLINE)
        return;
    aflock *lock, *other;
    aflock_req req = hold(_i, &t, &lock);
    aflock_options o = lease_options(_i);
    ck_assert_int_eq(aflock_open(&other, scene, "other", &o), 0);
    seam_hang(SEAM_TOUCH, "/lock");
    pass(DUE);
    seam_await_hung(1);
    pass(LOST - DUE - 1);
    run_turns(2);
    ck_assert_int_eq(t.count, 0);
    pass(1);
    must_be_told(&t, req, AFLOCK_REFRESH_FAILED, 0, "");
    ck_assert_int_eq(aflock_release(lock, req, scene_answer, &a), 0);
    scene_expect(1);
    run_turns(3);
    ck_assert_int_eq(a.count, 0);
    seam_resume();
    scene_run_until(&a.count, 1);
    ck_assert_int_eq(a.result.status, 0);
    ck_assert_int_eq(scene_entries("."), 0);
    must_get(lock);
}
END_TEST

/* What came back while the loop was busy counts, in a turn and in the loop's timer. */
START_TEST(one_that_came_back_unseen)
{
    told t = {0};
    if (scene_io(_i) == AFLOCK_IO_INLINE)
        return;
    aflock *lock;
    aflock_req req = hold(_i, &t, &lock);
    for (int timer = 0; timer < 2; timer++) {
        const int before = seam_count(SEAM_TOUCH);
        pass_boottime(DUE);
        aflock_host_timer(scene);                     /* begins one */
        scene_await(atomic_load(&scene->gate->jobs)); /* the loop is busy */
        ck_assert_int_eq(seam_count(SEAM_TOUCH), before + 1);
        pass_boottime(LOST - DUE);
        if (timer)
            aflock_host_timer(scene);
        run_turns(3);
        ck_assert_int_eq(t.count, 0);
    }
    must_release(lock, req);
}
END_TEST

/* Tries that hang do not keep it waiting. */
START_TEST(not_behind_tries)
{
    enum { TRIES = 24 };
    aflock *locks[TRIES], *lock;
    answer answers[TRIES] = {{0}};
    if (scene_io(_i) == AFLOCK_IO_INLINE)
        return;
    aflock_options o = lease_options(_i);
    ck_assert_int_eq(mkdir("busy", 0777), 0);
    aflock_req req = hold(_i, NULL, &lock);
    seam_hang(SEAM_LINK, "busy/");
    for (int i = 0; i < TRIES; i++) {
        char name[32];
        snprintf(name, sizeof name, "busy/%d", i);
        ck_assert_int_eq(aflock_open(&locks[i], scene, name, &o), 0);
        ck_assert_int_eq(aflock_acquire(locks[i], NULL, scene_answer, &answers[i], NULL), 0);
    }
    scene_expect(TRIES);
    run_turns(30);
    seam_await_hung(1);
    pass_boottime(DUE);
    aflock_host_timer(scene);
    await_touches(1);
    seam_resume();
    for (int i = 0; i < TRIES; i++)
        scene_run_until(&answers[i].count, 1);
    for (int i = 0; i < TRIES; i++)
        must_release(locks[i], answers[i].result.req);
    must_release(lock, req);
}
END_TEST

/* ------------------------------------------------------------------------------------------------------ what is lost
 */

START_TEST(the_marker_is_missing)
{
    told t = {0};
    aflock *lock;
    aflock_req req = hold(_i, &t, &lock);
    ck_assert_int_eq(unlink("lock"), 0);
    ck_assert_int_eq(t.count, 0);
    pass(DUE);
    must_be_told(&t, req, AFLOCK_MARKER_MISSING, ENOENT, "stat");
    ck_assert_uint_eq(t.what.age, DUE);
    ck_assert_int_eq(seam_count(SEAM_TOUCH), 0);
    must_release(lock, req);
    must_get(lock);
}
END_TEST

START_TEST(somebody_else_has_taken_it)
{
    told t = {0};
    struct stat before, after;
    aflock *lock;
    aflock_req req = hold(_i, &t, &lock);
    pid_t other = sleeper();
    mark_lease("new", other, "30");
    make_older("new", 5);
    ck_assert_int_eq(rename("new", "lock"), 0);
    ck_assert_int_eq(lstat("lock", &before), 0);
    pass(DUE);
    must_be_told(&t, req, AFLOCK_OWNER_CHANGED, 0, "stat");
    must_release(lock, req);
    ck_assert_int_eq(lstat("lock", &after), 0);
    ck_assert(before.st_ino == after.st_ino && before.st_mtim.tv_sec == after.st_mtim.tv_sec &&
              before.st_mtim.tv_nsec == after.st_mtim.tv_nsec);
    must_respect(lock);
    scene_holder_end(other);
    must_get(lock);
}
END_TEST

START_TEST(nobody_tried_in_time)
{
    told t = {0};
    aflock *lock;
    aflock_req req = hold(_i, &t, &lock);
    answer a = {0};
    ck_assert_int_eq(aflock_verify(lock, req, scene_answer, &a), 0);
    scene_expect(1);
    scene_run_until(&a.count, 1);
    pass(LOST);
    must_be_told(&t, req, AFLOCK_LEASE_EXPIRED, 0, "");
    ck_assert_uint_eq(t.what.age, LOST);
    ck_assert_int_eq(seam_count(SEAM_TOUCH), 0);
    sight s = look(lock);
    ck_assert_str_eq(t.token, s.token);
    must_release(lock, req);
    must_get(lock);
}
END_TEST

/* Who asks before the loop has turned, or was told, is not told that all is well. */
START_TEST(verified_too_late)
{
    told t = {0};
    aflock *lock;
    aflock_req req = hold(_i, &t, &lock);
    answer a = {0};
    pass_boottime(LOST);
    ck_assert_int_eq(aflock_verify(lock, req, scene_answer, &a), AFLOCK_ECOMPROMISED);
    must_be_told(&t, req, AFLOCK_LEASE_EXPIRED, 0, "");
    ck_assert_int_eq(aflock_verify(lock, req, scene_answer, &a), AFLOCK_ECOMPROMISED);
    ck_assert_int_eq(a.count, 0);
    must_release(lock, req);
    must_get(lock);
}
END_TEST

START_TEST(one_nanosecond_before)
{
    told t = {0};
    aflock *lock;
    aflock_req req = hold(_i, &t, &lock);
    for (int i = 1; i <= 3; i++) {
        pass(LOST - 1);
        await_touches(i);
        run_turns(2);
        ck_assert_int_eq(t.count, 0);
    }
    must_release(lock, req);
}
END_TEST

/* That which was refreshed counts from when that began, not from when it came back. */
static void hang_on(void)
{
    pass_boottime(LOST);
    seam_before(SEAM_TOUCH, NULL);
}

START_TEST(from_when_it_began)
{
    told t = {0};
    aflock *lock;
    aflock_req req = hold(_i, &t, &lock);
    seam_before(SEAM_TOUCH, hang_on);
    pass(DUE);
    scene_run_until(&t.count, 1);
    ck_assert(t.what.reason == AFLOCK_REFRESH_FAILED || t.what.reason == AFLOCK_LEASE_EXPIRED);
    must_release(lock, req);
}
END_TEST

/* -------------------------------------------------------------------------------------------------------- the log */

START_TEST(a_warning_in_time)
{
    told t = {0};
    aflock *lock;
    aflock_req req = hold(_i, &t, &lock);
    for (int i = 1; i <= 2; i++) {
        make_fail(SEAM_TOUCH, EIO);
        const int before = seam_count(SEAM_TOUCH);
        pass(DUE);
        await_touches(before + 1);
        run_turns(2);
        pass(WARNING - DUE - 1);
        ck_assert_int_eq(scene_logged, i - 1);
        pass(1);
        ck_assert_int_eq(scene_logged, i);
        ck_assert_ptr_ne(strstr(scene_message, "/lock: the lease was not refreshed for 15.0 s (touch: Input/output "
                                               "error); it is lost in 5.0 s"),
                         NULL);
        pass(LOST - WARNING - 1);
        ck_assert_int_eq(scene_logged, i); /* said once */
        make_fail(SEAM_CALLS, 0);
        await_beats(1);
        run_turns(2);
    }
    ck_assert_int_eq(t.count, 0);
    must_release(lock, req);
    ck_assert_int_eq(scene_logged, 2);
}
END_TEST

START_TEST(a_late_loop)
{
    aflock *lock;
    aflock_req req = hold(_i, NULL, &lock);
    pass(WARNING);
    ck_assert_int_eq(scene_logged, 1);
    ck_assert_ptr_ne(strstr(scene_message, "(the loop is late)"), NULL);
    await_touches(1);
    must_release(lock, req);
    ck_assert_int_eq(scene_logged, 1);
}
END_TEST

/* What is being released need not be refreshed. */
START_TEST(no_warning_of_what_is_released)
{
    aflock *lock;
    aflock_req req = hold(_i, NULL, &lock);
    make_fail(SEAM_UNLINK, EIO);
    ck_assert_int_eq(aflock_release(lock, req, NULL, NULL), 0);
    while (scene_logged == 0) /* that it failed */
        run_turns(1);
    ck_assert_ptr_ne(strstr(scene_message, "trying again"), NULL);
    pass(WARNING);
    pass(LOST);
    ck_assert_ptr_ne(strstr(scene_message, "trying again"), NULL);
    make_fail(SEAM_CALLS, 0);
    while (access("lock", F_OK) == 0)
        run_turns(1);
    must_get(lock);
}
END_TEST

START_TEST(nobody_asked_to_be_told)
{
    int owner;
    aflock *lock;
    stop_clocks(START, 0);
    lock = open_lease(_i);
    aflock_req first = must_hold_for(lock, &owner, NULL), second = must_hold_for(lock, &owner, NULL);
    pass(LOST);
    run_turns(2);
    ck_assert_int_eq(scene_logged, 1);
    ck_assert_ptr_ne(strstr(scene_message, "/lock: the lease is lost (expired), and nobody asked to be told"), NULL);
    must_release(lock, first);
    must_release(lock, second);
    ck_assert_int_eq(scene_logged, 1);
    must_get(lock);
}
END_TEST

int main(void)
{
    const TTest *const each[] = {they_come,
                                 only_where_it_is_held,
                                 by_boot_time,
                                 they_come_together,
                                 a_warning_does_not_come_along,
                                 they_keep_nothing_alive,
                                 one_success_is_enough,
                                 none_is_not,
                                 without_a_thread,
                                 one_that_hangs,
                                 one_that_came_back_unseen,
                                 not_behind_tries,
                                 the_marker_is_missing,
                                 somebody_else_has_taken_it,
                                 nobody_tried_in_time,
                                 verified_too_late,
                                 one_nanosecond_before,
                                 from_when_it_began,
                                 a_warning_in_time,
                                 a_late_loop,
                                 no_warning_of_what_is_released,
                                 nobody_asked_to_be_told,
                                 NULL};
    return scene_main("lease-beat", NULL, each);
}
