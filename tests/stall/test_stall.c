/* The loop never waits, while each call on the file system takes its time, and a call that fails says so and leaves
 * nothing behind. Real epoll, real pool, a file system of our own. */
#include "stall_scene.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#define MS AFLOCK_MILLISECOND

enum {
    IOS = 2, /* AUTO and POOL */
    COMBINATIONS = STALL_PROTOCOL_COUNT * IOS,
    KERNEL_COMBINATIONS = STALL_KERNEL_PROTOCOL_COUNT * IOS,
    SHORT_COMBINATIONS = COMBINATIONS - 2 * IOS, /* strict and soft-rw, the last ones, make some dozens of requests */
    DELAY_MS = STALL_CALL_MS,                    /* 200; less where the code is slow, too */
    TICK_MS = 5,
    DEADLINE_MS = 500
};

static const stall_protocol *protocol_of(int i)
{
    return &STALL_PROTOCOLS[i / IOS];
}

static aflock_io io_of(int i)
{
    return i % IOS ? AFLOCK_IO_POOL : AFLOCK_IO_AUTO;
}

/* -------------------------------------------------------------------------------------------------- calls of 200 ms */

/* A lock file for each combination, on the mount and as it is behind it. */
typedef struct subject {
    const stall_protocol *protocol;
    char path[64], behind[64];
    aflock *lock;
    answer got, second, given;
    aflock_req req, next;
    int foreign;
} subject;

static subject subjects[COMBINATIONS];
static int subject_count;

#define EACH_SUBJECT              \
    subject *s = subjects;        \
    s < subjects + subject_count; \
    s++

/* The first `count` combinations. */
static void open_subjects(int count, int keep_open)
{
    subject_count = count;
    for (int i = 0; i < count; i++) {
        subject *s = &subjects[i];
        s->protocol = protocol_of(i);
        snprintf(s->path, sizeof s->path, "m/%s/%d", s->protocol->name, i);
        snprintf(s->behind, sizeof s->behind, "m.files/%s/%d", s->protocol->name, i);
        s->lock = stall_open_with(s->protocol, s->path, io_of(i), keep_open);
    }
}

static void ask(subject *s, uint64_t timeout, answer *a, aflock_req *req)
{
    aflock_acquire_options o = scene_options(0, 0);
    o.timeout = timeout;
    *a = (answer){.count = 0};
    ck_assert_int_eq(aflock_acquire(s->lock, &o, scene_answer, a, req), 0);
    scene_expect(1);
}

static void await(const answer *a, int status)
{
    stall_run_until_answered(a);
    ck_assert_msg(a->result.status == status, "%s: %s at %s: %s", a->path, aflock_error_name(a->result.status), a->step,
                  strerror(a->result.sys_errno));
}

static int inspections;

static void on_inspected(aflock *lock, const aflock_holder *holder, void *user)
{
    (void)lock, (void)user;
    ck_assert_int_eq(holder->status, 0);
    inspections++;
}

static bool all_inspected(const void *user)
{
    (void)user;
    return inspections == subject_count;
}

static void acquire_all(void)
{
    for (EACH_SUBJECT)
        ask(s, AFLOCK_FOREVER, &s->got, &s->req);
    for (EACH_SUBJECT) {
        await(&s->got, 0);
        ck_assert(!stall_is_free(s->protocol, s->behind));
    }
}

static void release_all(void)
{
    for (EACH_SUBJECT) {
        s->given = (answer){.count = 0};
        ck_assert_int_eq(aflock_release(s->lock, s->req, scene_answer, &s->given), 0);
        scene_expect(1);
    }
    for (EACH_SUBJECT) {
        await(&s->given, 0);
        ck_assert(stall_is_free(s->protocol, s->behind));
    }
}

static void ask_questions(void)
{
    for (EACH_SUBJECT) {
        s->second = (answer){.count = 0};
        ck_assert_int_eq(aflock_verify(s->lock, s->req, scene_answer, &s->second), 0);
        scene_expect(1);
        ck_assert_int_eq(aflock_inspect(s->lock, on_inspected, NULL), 0);
    }
    for (EACH_SUBJECT)
        await(&s->second, 0);
    stall_run_until(all_inspected, NULL);
}

/* Held by others: one request of each times out, another is cancelled, while attempts are under way. */
static void contend(void)
{
    for (EACH_SUBJECT) {
        s->foreign = stall_foreign(s->protocol, s->behind);
        ask(s, DEADLINE_MS * MS, &s->got, NULL);
        ask(s, AFLOCK_FOREVER, &s->second, &s->next);
        ck_assert_int_eq(aflock_cancel(s->lock, s->next), 0);
    }
    for (EACH_SUBJECT)
        await(&s->second, AFLOCK_ECANCELED);
    for (EACH_SUBJECT) /* a cancel is answered at once, a deadline not before its time, if that has not come by now */
        ck_assert(s->got.count == 0 || s->got.result.waited >= DEADLINE_MS * MS);
    for (EACH_SUBJECT)
        await(&s->got, AFLOCK_ETIMEDOUT);
    for (EACH_SUBJECT)
        ask(s, AFLOCK_FOREVER, &s->got, &s->req);
    for (EACH_SUBJECT)
        stall_foreign_end(s->protocol, s->behind, s->foreign);
    for (EACH_SUBJECT)
        await(&s->got, 0);
}

START_TEST(while_calls_take_200_ms)
{
    stall_delay(m, DELAY_MS * MS);
    stall_tick(TICK_MS * MS);
    open_subjects(SHORT_COMBINATIONS, 0);
    acquire_all(); /* and makes the folders */
    ask_questions();
    release_all();
    contend();
    for (EACH_SUBJECT)
        ask(s, AFLOCK_FOREVER, &s->second, NULL); /* in the queue behind the own hold */
    check_loop_is_free();
    unsigned requests = stall_total(m), ticks = stall_ticks;
    int seen = seam_total();
    ck_assert_int_eq(stall_scene_free(60 * AFLOCK_SECOND), 0);
    ck_assert_uint_eq(stall_by_watched(m), 0);
    for (EACH_SUBJECT) {
        ck_assert_int_eq(s->second.count, 1);
        ck_assert_int_eq(s->second.result.status, AFLOCK_ECLOSED);
        ck_assert(stall_is_free(s->protocol, s->behind));
    }
    stall_run_until_closed(0);
    printf("figure: stall: %u requests of %d ms, %d calls of the library, 0 on the loop's thread, %u ticks of %d ms\n",
           requests, DELAY_MS, seen, ticks, TICK_MS);
    /* Four requests at a time take so many ticks; a busy machine may miss three of four. */
    ck_assert_uint_gt(ticks, requests * DELAY_MS / 4 / TICK_MS / 4);
}
END_TEST

/* The touch, or what there is instead of it, is a request like any other, and so is the close in the end. */
START_TEST(a_file_that_stays_open)
{
    stall_delay(m, DELAY_MS * MS / 4);
    stall_tick(TICK_MS * MS);
    open_subjects(KERNEL_COMBINATIONS, 1);
    acquire_all();
    release_all();
    int opened = seam_count(SEAM_OPEN) + seam_count(SEAM_CREATE), touched = seam_count(SEAM_TOUCH);
    ck_assert_int_eq(touched, KERNEL_COMBINATIONS);
    acquire_all();
    ck_assert_int_eq(seam_count(SEAM_OPEN) + seam_count(SEAM_CREATE), opened);
    release_all();
    for (EACH_SUBJECT)
        ck_assert_int_eq(aflock_close(s->lock), 0);
    ck_assert_int_eq(seam_count(SEAM_TOUCH), 2 * touched);
    ck_assert_int_eq(stall_scene_free(60 * AFLOCK_SECOND), 0);
    check_loop_is_free();
}
END_TEST

/* ------------------------------------------------------------------------------------------------ failing on demand */

/* For one test: a lock m/f, which is there and was locked before. */
static const stall_protocol *protocol;
static aflock *lock;

static void begin_with(int i)
{
    protocol = protocol_of(i);
    scene_write("m.files/f", "");
    lock = stall_open(protocol, "m/f", io_of(i));
}

static answer acquire(uint64_t timeout)
{
    answer a = {.count = 0};
    aflock_acquire_options o = scene_options(0, 0);
    o.timeout = timeout;
    ck_assert_int_eq(aflock_acquire(lock, &o, scene_answer, &a, NULL), 0);
    scene_expect(1);
    stall_run_until_answered(&a);
    return a;
}

static answer release(aflock_req req)
{
    answer a = {.count = 0};
    ck_assert_int_eq(aflock_release(lock, req, scene_answer, &a), 0);
    scene_expect(1);
    stall_run_until_answered(&a);
    return a;
}

/* The lock can be taken, others are locked out meanwhile, and nothing is open afterwards. */
static void must_work(const char *behind)
{
    answer a = acquire(AFLOCK_FOREVER);
    ck_assert_int_eq(a.result.status, 0);
    ck_assert(!stall_is_free(protocol, behind));
    ck_assert_int_eq(release(a.result.req).result.status, 0);
    stall_run_until_free(protocol, behind);
}

static void must_fail(int status, int error, const char *step)
{
    int descriptors = scene_descriptors();
    answer a = acquire(AFLOCK_FOREVER);
    ck_assert_str_eq(aflock_error_name(a.result.status), aflock_error_name(status));
    ck_assert_int_eq(a.result.sys_errno, error);
    ck_assert_str_eq(a.step, step);
    ck_assert_str_eq(a.path, aflock_path(lock));
    ck_assert_int_eq(a.result.cleanup_errno, 0);
    ck_assert_int_eq(scene_descriptors(), descriptors);
    ck_assert_int_eq(aflock_depth(lock, NULL), 0);
    stall_resume(m);
}

static void fail_always(unsigned calls, unsigned after, const char *fragment, int error)
{
    stall_rule rule = {.calls = calls, .after = after, .times = STALL_ALWAYS, .error = error};
    snprintf(rule.fragment, sizeof rule.fragment, "%s", fragment);
    stall_set(m, rule);
}

static const struct {
    int error, status;
} ERRORS[] = {
    {ENOLCK, AFLOCK_ESYS},     {EIO, AFLOCK_ESYS},    {ENOSYS, AFLOCK_ENOTSUP},
    {ENOTSUP, AFLOCK_ENOTSUP}, {ESTALE, AFLOCK_ESYS},
};
enum { ERROR_COUNT = sizeof ERRORS / sizeof ERRORS[0] };

START_TEST(the_lock_call_fails)
{
    begin_with(_i);
    for (int i = 0; i < ERROR_COUNT; i++) {
        stall_fail(m, STALL_LOCK, "/f", ERRORS[i].error);
        int status = ERRORS[i].error == ENOLCK ? protocol->unknown : ERRORS[i].status;
        must_fail(status, ERRORS[i].error, protocol->step);
        stall_run_until_free(protocol, "m.files/f");
    }
    must_work("m.files/f");
    check_loop_is_free();
}
END_TEST

/* The server has taken the lock, and its answer is an error: nobody holds it, so nobody may be locked out. */
START_TEST(the_lock_call_fails_and_locks)
{
    begin_with(_i);
    stall_set(m, (stall_rule){.calls = STALL_LOCK, .times = 1, .error = EIO, .done = true});
    must_fail(AFLOCK_ESYS, EIO, protocol->step);
    stall_run_until_free(protocol, "m.files/f");
    must_work("m.files/f");
    check_loop_is_free();
}
END_TEST

/* ENOSYS is not among the errors: of an open it says that the file system does not want to be asked any more. */
START_TEST(open_fails)
{
    static const struct {
        unsigned call;
        const char *path, *step;
        int error, status;
    } CASES[] = {
        {STALL_BIT(STALL_OPEN), "m/f", "open", EIO, AFLOCK_ESYS},
        {STALL_BIT(STALL_OPEN), "m/f", "open", ESTALE, AFLOCK_ESYS},
        {STALL_BIT(STALL_OPEN), "m/f", "open", ENOTSUP, AFLOCK_ENOTSUP},
        {STALL_BIT(STALL_OPEN), "m/f", "open", ENOLCK, AFLOCK_ESYS},
        {STALL_BIT(STALL_LOOKUP), "m/f", "open", EIO, AFLOCK_ESYS},
        {STALL_BIT(STALL_CREATE), "m/g", "open", EIO, AFLOCK_ESYS},
        {STALL_BIT(STALL_CREATE), "m/g", "open", ENOSPC, AFLOCK_ENOSPC},
        {STALL_BIT(STALL_CREATE), "m/g", "open", EROFS, AFLOCK_EROFS},
        {STALL_BIT(STALL_LOOKUP), "m/d/g", "open parent", EIO, AFLOCK_ESYS},
        {STALL_BIT(STALL_LOOKUP), "m/d/g", "open parent", EACCES, AFLOCK_EACCES},
        {STALL_BIT(STALL_MKDIR), "m/d/g", "mkdir", EIO, AFLOCK_ESYS},
        {STALL_BIT(STALL_MKDIR), "m/d/g", "mkdir", ENOSPC, AFLOCK_ENOSPC},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof CASES[0]; i++) {
        begin_with(_i);
        if (strcmp(CASES[i].path, "m/f") != 0)
            lock = stall_open(protocol, CASES[i].path, io_of(_i));
        fail_always(CASES[i].call, 0, CASES[i].path + 1, CASES[i].error);
        if (strstr(CASES[i].path, "/d/")) {
            stall_resume(m);
            fail_always(CASES[i].call, 0, "/d", CASES[i].error);
        }
        must_fail(CASES[i].status, CASES[i].error, CASES[i].step);
    }
    must_work("m.files/d/g");
    lock = stall_open(protocol, "m/g", io_of(_i));
    must_work("m.files/g");
    check_loop_is_free();
}
END_TEST

/* The look whether the path still names the locked file. */
START_TEST(stat_fails_after_the_lock)
{
    begin_with(_i);
    fail_always(STALL_BIT(STALL_LOOKUP), STALL_LOCK, "/f", EIO);
    must_fail(AFLOCK_ESYS, EIO, "stat");
    stall_run_until_free(protocol, "m.files/f");
    must_work("m.files/f");

    /* A handle that has become stale, or a file that has gone, is opened again. */
    static const int GONE[] = {ESTALE, ENOENT};
    for (int i = 0; i < 2; i++) {
        stall_set(m, (stall_rule){.calls = STALL_BIT(STALL_LOOKUP), .after = STALL_LOCK, .times = 2, .error = GONE[i]});
        must_work("m.files/f");
        stall_resume(m);
    }
    check_loop_is_free();
}
END_TEST

START_TEST(unlock_and_close_fail)
{
    begin_with(_i);
    answer a = acquire(AFLOCK_FOREVER), b;
    stall_fail(m, STALL_BIT(STALL_UNLOCK), "/f", EIO);
    b = release(a.result.req);
    ck_assert_int_eq(b.result.status, AFLOCK_ESYS);
    ck_assert_int_eq(b.result.sys_errno, EIO);
    ck_assert_str_eq(b.step, "unlock");
    ck_assert_int_eq(aflock_fd(lock, a.result.req), a.result.fd); /* held as before */
    ck_assert(!stall_is_free(protocol, "m.files/f"));
    stall_fail(m, STALL_BIT(STALL_FLUSH), "/f", EDQUOT); /* a close whose error nobody wants */
    ck_assert_int_eq(release(a.result.req).result.status, 0);
    ck_assert(stall_is_free(protocol, "m.files/f"));
    must_work("m.files/f");
    check_loop_is_free();
}
END_TEST

/* ---------------------------------------------------------------------------------------------------- late success */

/* An attempt hangs in the lock call, before the server has locked or after it. */
static void hang_in_lock(bool locked)
{
    stall_set(m, (stall_rule){.calls = STALL_LOCK, .times = STALL_ALWAYS, .hang = true, .done = locked});
}

static bool was_unlocked(const void *user)
{
    return seam_count(SEAM_UNLOCK) > *(const int *)user;
}

/* What it won is undone, by unlocking and not by a mere close: another process gets the lock. */
static void undone(void)
{
    int unlocks = seam_count(SEAM_UNLOCK);
    stall_resume(m);
    stall_run_until(was_unlocked, &unlocks);
    stall_run_until_free(protocol, "m.files/f");
}

static void late_success(int i, bool locked, bool cancel)
{
    aflock_req req;
    answer a = {.count = 0};
    aflock_acquire_options o = scene_options(0, 0);
    begin_with(i);
    hang_in_lock(locked);
    o.timeout = cancel ? AFLOCK_FOREVER : 200 * MS;
    ck_assert_int_eq(aflock_acquire(lock, &o, scene_answer, &a, &req), 0);
    scene_expect(1);
    while (stall_hung(m) == 0)
        ck_assert_int_eq(aflock_epoll_run_once(scene, MS), 0);
    if (cancel)
        ck_assert_int_eq(aflock_cancel(lock, req), 0);
    stall_run_until_answered(&a);
    ck_assert_int_eq(a.result.status, cancel ? AFLOCK_ECANCELED : AFLOCK_ETIMEDOUT);
    ck_assert_uint_eq(stall_hung(m), 1); /* it still hangs */
    ck_assert_int_eq(stall_is_free(protocol, "m.files/f"), !locked);
    undone();
    check_loop_is_free();
    must_work("m.files/f");
    ck_assert_int_eq(a.count, 1);
}

START_TEST(a_late_success_after_a_cancel_is_undone)
{
    late_success(_i, false, true);
    late_success(_i, true, true);
}
END_TEST

START_TEST(a_late_success_after_the_deadline_is_undone)
{
    late_success(_i, false, false);
    late_success(_i, true, false);
}
END_TEST

/* It serves the next one in the queue, if there is one. */
START_TEST(a_late_success_is_for_the_next)
{
    aflock_req req;
    answer a = {.count = 0}, b = {.count = 0};
    begin_with(_i);
    hang_in_lock(false);
    ck_assert_int_eq(aflock_acquire(lock, NULL, scene_answer, &a, &req), 0);
    ck_assert_int_eq(aflock_acquire(lock, NULL, scene_answer, &b, NULL), 0);
    scene_expect(2);
    while (stall_hung(m) == 0)
        ck_assert_int_eq(aflock_epoll_run_once(scene, MS), 0);
    ck_assert_int_eq(aflock_cancel(lock, req), 0);
    stall_run_until_answered(&a);
    stall_resume(m);
    stall_run_until_answered(&b);
    ck_assert_int_eq(b.result.status, 0);
    ck_assert_uint_eq(stall_count(m, protocol->lock), protocol->calls);
    ck_assert_int_eq(release(b.result.req).result.status, 0);
    stall_run_until_free(protocol, "m.files/f");
    check_loop_is_free();
}
END_TEST

/* The context goes while the attempt hangs. */
static void late_for_the_context(int i, bool locked)
{
    answer a = {.count = 0};
    begin_with(i);
    hang_in_lock(locked);
    ck_assert_int_eq(aflock_acquire(lock, NULL, scene_answer, &a, NULL), 0);
    while (stall_hung(m) == 0)
        ck_assert_int_eq(aflock_epoll_run_once(scene, MS), 0);
    ck_assert_int_eq(stall_scene_free(20 * MS), 0);
    ck_assert_int_eq(a.count, 1);
    ck_assert_int_eq(a.result.status, AFLOCK_ECLOSED);
    ck_assert_uint_eq(stall_hung(m), 1);
    undone();
    stall_run_until_closed(0);
    check_loop_is_free();
}

START_TEST(a_late_success_after_the_end_is_undone)
{
    late_for_the_context(_i, false);
}
END_TEST

START_TEST(a_lock_whose_answer_comes_after_the_end_is_undone)
{
    late_for_the_context(_i, true);
}
END_TEST

/* ---------------------------------------------------------------------------------------------------------- markers */

static void begin_with_a_marker(int i)
{
    protocol = &STALL_PROTOCOLS[STALL_KERNEL_PROTOCOL_COUNT];
    lock = stall_open(protocol, "m/f", io_of(i));
}

/* An attempt hangs while it makes the marker, before the server has made it or after that. */
static void hang_in_making(bool made)
{
    stall_set(m, (stall_rule){.calls = STALL_BIT(STALL_CREATE), .times = STALL_ALWAYS, .hang = true, .done = made});
}

static void undone_later(void)
{
    stall_resume(m);
    stall_run_until_closed(0);
    ck_assert(stall_is_free(protocol, "m.files/f"));
}

static bool was_unlinked(const void *user)
{
    (void)user;
    return seam_count(SEAM_UNLINK) > 0;
}

static void late_marker(int i, bool made)
{
    aflock_req req;
    answer a = {.count = 0};
    begin_with_a_marker(i);
    hang_in_making(made);
    ck_assert_int_eq(aflock_acquire(lock, NULL, scene_answer, &a, &req), 0);
    scene_expect(1);
    while (stall_hung(m) == 0)
        ck_assert_int_eq(aflock_epoll_run_once(scene, MS), 0);
    ck_assert_int_eq(aflock_cancel(lock, req), 0);
    stall_run_until_answered(&a);
    ck_assert_int_eq(a.result.status, AFLOCK_ECANCELED);
    ck_assert_uint_eq(stall_hung(m), 1);
    stall_resume(m);
    stall_run_until(was_unlinked, NULL);
    stall_run_until_free(protocol, "m.files/f");
    check_loop_is_free();
    must_work("m.files/f");
}

START_TEST(a_marker_that_is_made_late_is_unlinked)
{
    late_marker(_i, false);
    late_marker(_i, true);
}
END_TEST

START_TEST(a_marker_that_is_made_after_the_end_is_unlinked)
{
    answer a = {.count = 0};
    begin_with_a_marker(_i);
    hang_in_making(false);
    ck_assert_int_eq(aflock_acquire(lock, NULL, scene_answer, &a, NULL), 0);
    while (stall_hung(m) == 0)
        ck_assert_int_eq(aflock_epoll_run_once(scene, MS), 0);
    ck_assert_int_eq(stall_scene_free(20 * MS), 0);
    ck_assert_int_eq(a.result.status, AFLOCK_ECLOSED);
    ck_assert_uint_eq(stall_hung(m), 1);
    undone_later();
    ck_assert_int_gt(seam_count(SEAM_UNLINK), 0);
    check_loop_is_free();
}
END_TEST

/* The steps of a release, and of making a marker. */
START_TEST(requests_for_a_marker_fail)
{
    begin_with_a_marker(_i);
    static const int errors[] = {EIO, ENOSPC, EROFS, ESTALE};
    for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++) {
        fail_always(STALL_BIT(STALL_CREATE), 0, "/f", errors[i]);
        answer a = acquire(AFLOCK_FOREVER);
        ck_assert_int_eq(a.result.sys_errno, errors[i]);
        ck_assert_str_eq(a.step, "open");
        stall_resume(m);
        ck_assert(stall_is_free(protocol, "m.files/f"));
    }
    answer a = acquire(AFLOCK_FOREVER), b;
    stall_fail(m, STALL_BIT(STALL_UNLINK), "/f", EIO);
    b = release(a.result.req);
    ck_assert_int_eq(b.result.status, AFLOCK_ESYS);
    ck_assert_str_eq(b.step, "unlink");
    ck_assert(!stall_is_free(protocol, "m.files/f"));
    ck_assert_int_eq(release(a.result.req).result.status, 0);
    ck_assert(stall_is_free(protocol, "m.files/f"));
    must_work("m.files/f");
    check_loop_is_free();
}
END_TEST

int main(void)
{
    const TTest *const once[] = {while_calls_take_200_ms, a_file_that_stays_open, NULL};
    const TTest *const each[] = {
        the_lock_call_fails,
        the_lock_call_fails_and_locks,
        open_fails,
        stat_fails_after_the_lock,
        unlock_and_close_fail,
        a_late_success_after_a_cancel_is_undone,
        a_late_success_after_the_deadline_is_undone,
        a_late_success_is_for_the_next,
        a_late_success_after_the_end_is_undone,
        a_lock_whose_answer_comes_after_the_end_is_undone,
        a_marker_that_is_made_late_is_unlinked,
        a_marker_that_is_made_after_the_end_is_unlinked,
        requests_for_a_marker_fail,
        NULL,
    };
    return stall_main("stall", 60, once, each, KERNEL_COMBINATIONS);
}
