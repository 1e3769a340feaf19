/* aflock_run: functions of the caller run on the executor while a hold lasts, and the file is never given up under one:
 * releases wait, also that of the end of the context. */
#include "support/fake_host.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static fake_host h;
static fake_answer a, b, c, d;
static unsigned order; /* of what happens, from 1 */

/* A function and what came of it. */
typedef struct work {
    aflock *lock;
    aflock_req req;
    atomic_uint began, returned;
    atomic_bool hangs;
    pthread_t thread;
    int fd;
    int called_in; /* what a call into the library said on the worker */
    unsigned told, told_at;
    int status, sys_errno, value;
    const char *step;
    void (*then)(struct work *w);
} work;

static work one, two;

static int do_work(int fd, void *user)
{
    work *w = user;
    w->thread = pthread_self();
    w->fd = fd;
    w->called_in = aflock_release(w->lock, w->req, NULL, NULL);
    atomic_fetch_add(&w->began, 1);
    while (atomic_load(&w->hangs))
        usleep(500);
    atomic_fetch_add(&w->returned, 1);
    return 42;
}

static void ran(aflock *lock, const aflock_result *result, int value, void *user)
{
    work *w = user;
    ck_assert(h.turning);
    ck_assert_ptr_eq(lock, w->lock);
    ck_assert_uint_eq(result->size, sizeof *result);
    ck_assert_uint_eq(result->req.id, w->req.id);
    ck_assert_str_eq(result->path, aflock_path(lock));
    w->told++;
    w->told_at = ++order;
    w->status = result->status;
    w->sys_errno = result->sys_errno;
    w->step = result->step;
    w->value = value;
    if (w->then)
        w->then(w);
}

static int start_work(work *w, aflock *lock, aflock_req req)
{
    *w = (work){.lock = lock, .req = req, .hangs = w->hangs, .then = w->then};
    return aflock_run(lock, req, do_work, ran, w);
}

/* The first job is the function's. */
static pthread_t go(const work *w)
{
    pthread_t thread = fake_go(&h, 0);
    while (!atomic_load(&w->began))
        usleep(500);
    return thread;
}

#define ck_told(w, expected)                      \
    do {                                          \
        ck_assert_uint_eq((w).told, 1);           \
        ck_assert_int_eq((w).status, (expected)); \
    } while (0)

static void note_order(fake_answer *answer, aflock *lock)
{
    (void)lock;
    *(unsigned *)answer->user = ++order;
}

static const aflock_io IO[] = {AFLOCK_IO_AUTO, AFLOCK_IO_INLINE, AFLOCK_IO_POOL};

/* --------------------------------------------------------------------------------------------------- it runs, once */

START_TEST(it_runs_on_a_worker_and_is_told_once)
{
    fake_start(&h, 4, false, NULL);
    for (size_t i = 0; i < sizeof IO / sizeof IO[0]; i++) {
        aflock *lock = fake_open_lock(&h, "f", IO[i]);
        aflock_req req = fake_hold(&h, lock, &a, NULL);
        ck_assert_int_eq(start_work(&one, lock, req), 0);
        ck_assert(h.alive);
        ck_assert_uint_eq(one.began, 0);
        ck_assert_uint_eq(h.job_count, 1);
        ck_assert_int_eq(h.jobs[0].lane, AFLOCK_LANE_TRY);
        fake_run(&h, 0);
        ck_assert_uint_eq(one.told, 0);
        ck_assert_int_eq(aflock_close(lock), AFLOCK_EBUSY);
        fake_settle(&h);
        ck_told(one, 0);
        ck_assert_int_eq(one.value, 42);
        ck_assert_uint_eq(one.began, 1);
        ck_assert(!pthread_equal(one.thread, pthread_self()));
        ck_assert_int_eq(one.fd, a.result.fd);
        ck_assert_int_eq(one.called_in, AFLOCK_ETHREAD);
        ck_assert(!h.alive);
        ck_assert_int_eq(fake_release(lock, req, NULL), 0);
        fake_work(&h);
        ck_assert_int_eq(aflock_close(lock), 0);
        ck_assert(fake_is_free(fake_path("f")));
    }
    fake_free(&h, 0);
}
END_TEST

START_TEST(what_is_not_held_is_refused)
{
    aflock_req waiting;
    fake_start(&h, 4, false, NULL);
    aflock *lock = fake_open_lock(&h, "f", AFLOCK_IO_INLINE), *other = fake_open_lock(&h, "g", AFLOCK_IO_INLINE);
    aflock_req req = fake_hold(&h, lock, &a, NULL);
    ck_assert_int_eq(fake_acquire(lock, NULL, &b, &waiting), 0);
    ck_assert_int_eq(aflock_run(NULL, req, do_work, ran, &one), AFLOCK_EINVAL);
    ck_assert_int_eq(aflock_run(lock, req, NULL, ran, &one), AFLOCK_EINVAL);
    ck_assert_int_eq(aflock_run(lock, req, do_work, NULL, &one), AFLOCK_EINVAL);
    ck_assert_int_eq(start_work(&one, other, req), AFLOCK_ESTALE);
    ck_assert_int_eq(start_work(&one, lock, (aflock_req){0}), AFLOCK_ESTALE);
    ck_assert_int_eq(start_work(&one, lock, waiting), AFLOCK_ENOTHELD);
    ck_assert_int_eq(fake_release(lock, req, NULL), 0);
    ck_assert_int_eq(start_work(&one, lock, req), AFLOCK_ESTALE);
    ck_assert_int_eq(start_work(&one, lock, waiting), AFLOCK_ENOTHELD); /* granted, and not told yet */
    fake_work(&h);
    ck_answered(b, 0);
    ck_assert_int_eq(start_work(&one, lock, waiting), 0);
    fake_work(&h);
    ck_told(one, 0);
    fake_free(&h, 0);
}
END_TEST

START_TEST(a_marker_has_no_descriptor)
{
    aflock *lock;
    aflock_options o;
    fake_start(&h, 4, false, NULL);
    aflock_options_init(&o);
    o.protocol = AFLOCK_SOFT;
    ck_assert_int_eq(aflock_open(&lock, h.ctx, fake_path("m"), &o), 0);
    aflock_req req = fake_hold(&h, lock, &a, NULL);
    ck_assert_int_eq(start_work(&one, lock, req), 0);
    fake_work(&h);
    ck_told(one, 0);
    ck_assert_int_eq(one.fd, -1);
    fake_free(&h, SEC);
}
END_TEST

/* ---------------------------------------------------------------------------------------------------- releases wait */

static void must_be_released(aflock *lock, aflock_req req)
{
    ck_assert_int_eq(fake_release(lock, req, NULL), AFLOCK_ESTALE);
    ck_assert_int_eq(aflock_release_all(lock, req, NULL, NULL), AFLOCK_ESTALE);
    ck_assert_int_eq(fake_cancel(lock, req), AFLOCK_ESTALE);
    ck_assert_int_eq(aflock_fd(lock, req), AFLOCK_ENOTHELD);
    ck_assert_int_eq(aflock_verify(lock, req, fake_answered, &d), AFLOCK_ENOTHELD);
    ck_assert_int_eq(start_work(&two, lock, req), AFLOCK_ENOTHELD);
    ck_assert_int_eq(aflock_depth(lock, NULL), 0);
    ck_assert_int_eq(aflock_close(lock), AFLOCK_EBUSY);
}

START_TEST(a_release_waits_for_the_function)
{
    unsigned released_at = 0;
    fake_start(&h, 4, false, NULL);
    for (size_t i = 0; i < sizeof IO / sizeof IO[0]; i++) {
        aflock *lock = fake_open_lock(&h, "f", IO[i]);
        aflock_req req = fake_hold(&h, lock, &a, NULL);
        b = (fake_answer){.then = note_order, .user = &released_at};
        ck_assert_int_eq(fake_acquire(lock, NULL, &c, NULL), 0);
        one.hangs = true;
        ck_assert_int_eq(start_work(&one, lock, req), 0);
        pthread_t thread = go(&one);
        ck_assert_int_eq(fake_release(lock, req, &b), 0);
        must_be_released(lock, req);
        fake_settle(&h);
        fake_advance(&h, 10 * SEC);
        ck_assert_uint_eq(h.job_count, 0);
        ck_assert(!fake_is_free(fake_path("f")));
        ck_assert_uint_eq(b.count + one.told + c.count, 0);
        one.hangs = false;
        fake_join(thread);
        fake_work(&h);
        ck_told(one, 0);
        ck_answered(b, 0);
        ck_assert_uint_lt(one.told_at, released_at);
        fake_advance(&h, 10 * MS); /* a run of hand-offs may be over */
        fake_work(&h);
        ck_answered(c, 0);
        ck_assert_int_eq(fake_release(lock, c.result.req, NULL), 0);
        fake_work(&h);
        ck_assert_int_eq(aflock_close(lock), 0);
        c = (fake_answer){.count = 0};
    }
    fake_free(&h, 0);
}
END_TEST

START_TEST(a_release_waits_for_the_last_function)
{
    fake_start(&h, 8, false, NULL);
    aflock *lock = fake_open_lock(&h, "f", AFLOCK_IO_INLINE);
    aflock_req req = fake_hold(&h, lock, &a, NULL);
    ck_assert_int_eq(start_work(&one, lock, req), 0);
    ck_assert_int_eq(start_work(&two, lock, req), 0);
    ck_assert_int_eq(fake_release(lock, req, NULL), 0);
    ck_assert_int_eq(fake_release(lock, req, NULL), AFLOCK_ESTALE);
    ck_assert_int_eq(aflock_fd(lock, req), AFLOCK_ESTALE);
    ck_assert_int_eq(aflock_verify(lock, req, fake_answered, &d), AFLOCK_ESTALE);
    fake_run(&h, 1);
    fake_settle(&h);
    ck_told(two, 0);
    ck_assert(!fake_is_free(fake_path("f")));
    fake_run(&h, 0);
    fake_settle(&h);
    ck_told(one, 0);
    ck_assert(fake_is_free(fake_path("f")));
    fake_free(&h, 0);
}
END_TEST

/* All of an owner's; those under which nothing runs end at once. */
START_TEST(release_all_waits_too)
{
    char owner;
    fake_start(&h, 4, false, NULL);
    aflock_acquire_options o = fake_options(AFLOCK_FOREVER);
    o.owner = &owner;
    aflock *lock = fake_open_lock(&h, "f", AFLOCK_IO_INLINE);
    aflock_req first = fake_hold(&h, lock, &a, &o), second = fake_hold(&h, lock, &a, &o);
    ck_assert_int_eq(start_work(&one, lock, first), 0);
    ck_assert_int_eq(aflock_release_all(lock, second, fake_answered, &b), 0);
    fake_settle(&h);
    ck_answered(b, 0);
    ck_assert_int_eq(aflock_depth(lock, &owner), 0);
    ck_assert(!fake_is_free(fake_path("f")));
    fake_work(&h);
    ck_told(one, 0);
    ck_assert(fake_is_free(fake_path("f")));
    fake_free(&h, 0);
}
END_TEST

static void release_it(work *w)
{
    ck_assert_int_eq(aflock_release(w->lock, w->req, fake_answered, &b), 0);
}

START_TEST(the_callback_may_release)
{
    fake_start(&h, 4, false, NULL);
    aflock *lock = fake_open_lock(&h, "f", AFLOCK_IO_INLINE);
    one.then = release_it;
    ck_assert_int_eq(start_work(&one, lock, fake_hold(&h, lock, &a, NULL)), 0);
    fake_work(&h);
    ck_told(one, 0);
    ck_answered(b, 0);
    ck_assert(fake_is_free(fake_path("f")));
    fake_free(&h, 0);
}
END_TEST

static void on_drained(aflock_ctx *ctx, void *user)
{
    (void)ctx;
    ++*(unsigned *)user;
}

START_TEST(a_drain_waits_for_it)
{
    unsigned drained = 0;
    fake_start(&h, 4, false, NULL);
    aflock *lock = fake_open_lock(&h, "f", AFLOCK_IO_INLINE);
    aflock_req req = fake_hold(&h, lock, &a, NULL);
    ck_assert_int_eq(aflock_ctx_drain(h.ctx, on_drained, &drained), 0);
    ck_assert_int_eq(start_work(&one, lock, req), 0); /* it belongs to what was accepted */
    ck_assert_int_eq(fake_release(lock, req, NULL), 0);
    fake_settle(&h);
    ck_assert_uint_eq(drained, 0);
    fake_work(&h);
    ck_told(one, 0);
    ck_assert_uint_eq(drained, 1);
    fake_free(&h, 0);
}
END_TEST

/* --------------------------------------------------------------------------------------------------- the executor */

START_TEST(an_executor_that_refuses)
{
    fake_start(&h, 4, false, NULL);
    aflock *lock = fake_open_lock(&h, "f", AFLOCK_IO_INLINE);
    aflock_req req = fake_hold(&h, lock, &a, NULL);
    h.refusals = 100000;
    ck_assert_int_eq(start_work(&one, lock, req), 0);
    ck_assert_int_eq(fake_release(lock, req, &b), 0);
    fake_settle(&h);
    ck_assert_uint_eq(one.told, 0);
    fake_advance(&h, 2 * SEC);
    ck_told(one, AFLOCK_ESYS);
    ck_assert_int_eq(one.sys_errno, EAGAIN);
    ck_assert_str_eq(one.step, "executor");
    ck_assert_int_eq(one.value, 0);
    ck_assert_uint_eq(one.began, 0);
    ck_answered(b, 0);
    h.refusals = 0;
    req = fake_hold(&h, lock, &a, NULL);
    ck_assert_int_eq(start_work(&one, lock, req), 0);
    fake_drop(&h, 0);
    fake_settle(&h);
    ck_told(one, AFLOCK_ESYS);
    ck_assert_uint_eq(one.began, 0);
    fake_free(&h, 0);
}
END_TEST

static unsigned logged;

static void on_log(aflock_log_level level, const char *message, void *user)
{
    (void)level, (void)message, (void)user;
    logged++;
}

enum { MANY = 12 };

/* Functions of one file system, long and short: attempts on it go on, and nobody is warned of a call that hangs. */
START_TEST(long_functions_leave_the_attempts_alone)
{
    static work works[MANY];
    static pthread_t threads[MANY];
    unsigned going = 0;
    aflock_ctx_options o;
    aflock_ctx_options_init(&o);
    o.log = on_log;
    fake_start(&h, 4, false, &o);
    aflock *lock = fake_open_lock(&h, "f", AFLOCK_IO_INLINE), *other = fake_open_lock(&h, "g", AFLOCK_IO_POOL);
    aflock_req req = fake_hold(&h, lock, &a, NULL);
    for (int i = 0; i < MANY; i++) {
        works[i].hangs = true;
        ck_assert_int_eq(start_work(&works[i], lock, req), 0);
    }
    for (int round = 0; round < 4; round++) {
        ck_assert_uint_le(h.job_count, 2); /* of four places */
        while (h.job_count)
            threads[going++] = fake_go(&h, 0);
        aflock_req got = fake_hold(&h, other, &b, NULL);
        ck_assert_int_eq(fake_release(other, got, NULL), 0);
        fake_work(&h);
        fake_advance(&h, SEC);
    }
    ck_assert_uint_eq(going, 8);
    ck_assert_uint_eq(logged, 0);
    for (int i = 0; i < MANY; i++)
        works[i].hangs = false;
    for (unsigned i = 0; i < going; i++)
        fake_join(threads[i]);
    fake_work(&h);
    for (int i = 0; i < MANY; i++)
        ck_told(works[i], 0);
    fake_free(&h, 0);
}
END_TEST

/* Functions of several file systems do not take all places together. */
START_TEST(functions_of_two_devices_leave_a_place)
{
    static work works[4];
    aflock_req reqs[2];
    fake_start(&h, 4, false, NULL);
    ck_assert_int_eq(mkdir(fake_path("x"), 0777), 0);
    seam_device("/x", 77);
    aflock *locks[] = {fake_open_lock(&h, "f", AFLOCK_IO_INLINE), fake_open_lock(&h, "x/f", AFLOCK_IO_INLINE)};
    for (int i = 0; i < 2; i++)
        reqs[i] = fake_hold(&h, locks[i], &a, NULL);
    for (int i = 0; i < 4; i++)
        ck_assert_int_eq(start_work(&works[i], locks[i % 2], reqs[i % 2]), 0);
    ck_assert_uint_eq(h.job_count, 2);
    b = (fake_answer){.count = 0};
    ck_assert_int_eq(fake_acquire(fake_open_lock(&h, "g", AFLOCK_IO_POOL), NULL, &b, NULL), 0);
    ck_assert_uint_eq(h.job_count, 3);
    fake_work(&h);
    ck_answered(b, 0);
    for (int i = 0; i < 4; i++)
        ck_told(works[i], 0);
    fake_free(&h, SEC);
}
END_TEST

/* ------------------------------------------------------------------------------------------- the end of the context */

START_TEST(freed_before_it_began)
{
    fake_start(&h, 2, false, NULL);
    aflock *lock = fake_open_lock(&h, "f", AFLOCK_IO_INLINE);
    aflock_req req = fake_hold(&h, lock, &a, NULL);
    h.refusals = 1; /* it stays queued */
    ck_assert_int_eq(start_work(&one, lock, req), 0);
    ck_assert_uint_eq(h.job_count, 0);
    ck_assert_int_eq(fake_release(lock, req, &b), 0);
    ck_assert_int_eq(fake_free(&h, 0), 0);
    ck_told(one, AFLOCK_ECLOSED);
    ck_answered(b, 0);
    ck_assert_uint_eq(one.began, 0);
    ck_assert(fake_is_free(fake_path("f")));
}
END_TEST

static void run_meanwhile(uint64_t timeout)
{
    (void)timeout;
    h.now += MS;
    if (h.job_count)
        fake_run(&h, 0);
}

START_TEST(the_grace_is_for_functions_too)
{
    fake_start(&h, 4, false, NULL);
    seam_waits = run_meanwhile;
    aflock *lock = fake_open_lock(&h, "f", AFLOCK_IO_INLINE);
    ck_assert_int_eq(start_work(&one, lock, fake_hold(&h, lock, &a, NULL)), 0);
    ck_assert_int_eq(fake_free(&h, SEC), 0);
    ck_told(one, 0);
    ck_assert_int_eq(one.value, 42);
    ck_assert(fake_is_free(fake_path("f")));
}
END_TEST

/* What is not given up is waited for, too. */
START_TEST(the_grace_is_for_functions_on_a_callers_descriptor)
{
    aflock *lock;
    fake_start(&h, 4, false, NULL);
    seam_waits = run_meanwhile;
    int fd = open(fake_path("own"), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    ck_assert_int_eq(aflock_open_fd(&lock, h.ctx, fd, NULL), 0);
    ck_assert_int_eq(start_work(&one, lock, fake_hold(&h, lock, &a, NULL)), 0);
    ck_assert_int_eq(fake_free(&h, SEC), 0);
    ck_told(one, 0);
    ck_assert_int_eq(one.fd, fd);
    ck_assert(!fake_is_free(fake_path("own")));
    close(fd);
}
END_TEST

static void await_free(const char *path)
{
    while (!fake_is_free(path))
        usleep(1000);
}

/* The file is given up when the last function returns, and not before. */
START_TEST(freed_while_functions_run)
{
    pthread_t threads[2];
    unsigned descriptors = fake_descriptors();
    fake_start(&h, 8, false, NULL);
    aflock *lock = fake_open_lock(&h, "f", AFLOCK_IO_INLINE);
    aflock_req req = fake_hold(&h, lock, &a, NULL);
    one.hangs = two.hangs = true;
    ck_assert_int_eq(start_work(&one, lock, req), 0);
    ck_assert_int_eq(start_work(&two, lock, req), 0);
    threads[0] = go(&one);
    threads[1] = go(&two);
    ck_assert_int_eq(fake_release(lock, req, &b), 0);
    ck_assert_int_eq(fake_free(&h, 10 * MS), 1);
    ck_told(one, AFLOCK_EBUSY);
    ck_told(two, AFLOCK_EBUSY);
    ck_answered(b, AFLOCK_ECLOSED);
    ck_assert(!fake_is_free(fake_path("f")));
    one.hangs = false;
    fake_join(threads[0]);
    ck_assert_uint_eq(one.returned, 1);
    ck_assert(!fake_is_free(fake_path("f")));
    two.hangs = false;
    fake_join(threads[1]);
    ck_assert_uint_eq(two.returned, 1);
    await_free(fake_path("f"));
    ck_assert_uint_eq(fake_descriptors(), descriptors);
}
END_TEST

/* An operation of the hold is at the executor, too: whichever ends last gives the file up. */
START_TEST(freed_while_a_function_and_an_operation_run)
{
    char owner;
    fake_start(&h, 8, false, NULL);
    aflock_acquire_options o = fake_options(AFLOCK_FOREVER);
    o.owner = &owner;
    aflock *lock = fake_open_lock(&h, "f", AFLOCK_IO_POOL);
    aflock_req req = fake_hold(&h, lock, &a, &o);
    one.hangs = true;
    ck_assert_int_eq(start_work(&one, lock, req), 0);
    pthread_t thread = go(&one);
    o.file_mode = 0600; /* a hold inside the hold that has to be prepared */
    ck_assert_int_eq(fake_acquire(lock, &o, &b, NULL), 0);
    ck_assert_uint_eq(h.job_count, 1);
    ck_assert_int_eq(fake_free(&h, 0), 1);
    ck_told(one, AFLOCK_EBUSY);
    ck_answered(b, AFLOCK_ECLOSED);
    ck_assert(!fake_is_free(fake_path("f")));
    one.hangs = false;
    fake_join(thread);
    await_free(fake_path("f"));
}
END_TEST

/* --------------------------------------------------------------------------------------------------------------- fork
 */

START_TEST(a_child_has_no_function)
{
    int status;
    fake_start(&h, 4, false, NULL);
    aflock *lock = fake_open_lock(&h, "f", AFLOCK_IO_INLINE);
    aflock_req req = fake_hold(&h, lock, &a, NULL);
    one.hangs = true;
    ck_assert_int_eq(start_work(&one, lock, req), 0);
    pthread_t thread = go(&one);
    pid_t child = fork();
    if (child == 0) {
        bool fine = start_work(&two, lock, req) == AFLOCK_EFORKED && aflock_ctx_abandon(h.ctx) == 0 && one.told == 0 &&
                    two.told == 0 && !fake_is_free(fake_path("f"));
        _exit(fine ? EXIT_SUCCESS : EXIT_FAILURE);
    }
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert_int_eq(status, 0);
    one.hangs = false;
    fake_join(thread);
    fake_work(&h);
    ck_told(one, 0);
    fake_free(&h, 0);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {it_runs_on_a_worker_and_is_told_once,
                                  what_is_not_held_is_refused,
                                  a_marker_has_no_descriptor,
                                  a_release_waits_for_the_function,
                                  a_release_waits_for_the_last_function,
                                  release_all_waits_too,
                                  the_callback_may_release,
                                  a_drain_waits_for_it,
                                  an_executor_that_refuses,
                                  long_functions_leave_the_attempts_alone,
                                  functions_of_two_devices_leave_a_place,
                                  freed_before_it_began,
                                  the_grace_is_for_functions_too,
                                  the_grace_is_for_functions_on_a_callers_descriptor,
                                  freed_while_functions_run,
                                  freed_while_a_function_and_an_operation_run,
                                  a_child_has_no_function,
                                  NULL};
    return fake_main("functions", tests);
}
