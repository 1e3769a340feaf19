/* Promise 2: the loop never waits. In pool mode its thread makes no file-system call; deadlines and cancels are
 * answered while a call hangs, never early; and the attempt goes on without its request. */
#include "support/fake_host.h"

#include <aflock/epoll.h>
#include <errno.h>
#include <time.h>
#include <unistd.h>

static fake_host h;
static fake_answer a, b, c, d, e;

static void inspected(aflock *lock, const aflock_holder *holder, void *user)
{
    (void)lock;
    *(aflock_holder *)user = *holder;
}

/* ------------------------------------------------------------------------------------------------- which thread */

START_TEST(pool_mode_leaves_the_loops_thread_alone)
{
    aflock_holder holder;
    fake_start(&h, 4, false, NULL);
    aflock *lock = fake_open_lock(&h, "d/f", AFLOCK_IO_POOL);
    aflock_req req = fake_hold(&h, lock, &a, NULL);
    ck_assert_int_eq(aflock_verify(lock, req, fake_answered, &b), 0);
    ck_assert_int_eq(aflock_inspect(lock, inspected, &holder), 0);
    fake_work(&h);
    ck_answered(b, 0);
    ck_assert_int_eq(holder.held, 1);
    ck_assert_int_eq(fake_release(lock, req, &c), 0);
    fake_work(&h);
    ck_answered(c, 0);

    int foreign = fake_foreign(fake_path("d/f"));
    aflock_acquire_options o = fake_options(SEC);
    a = (fake_answer){.count = 0};
    ck_assert_int_eq(fake_acquire(lock, &o, &a, NULL), 0);
    for (int i = 0; i < 40; i++) {
        fake_advance(&h, 50 * MS);
        fake_work(&h);
    }
    ck_answered(a, AFLOCK_ETIMEDOUT);
    ck_assert_uint_ge(a.result.attempts, 15);
    close(foreign);
    ck_assert_int_eq(aflock_try(lock, NULL, &req, NULL), AFLOCK_ENOTINLINE);
    ck_assert_int_eq(seam_total_on_loop(), 0);
    ck_assert_int_gt(seam_total_elsewhere(), 20);
    ck_assert_int_eq(fake_free(&h, 0), 0);
    ck_assert_int_eq(seam_total_on_loop(), 0);
}
END_TEST

/* What is left to do when a lock is closed still runs where its attempts ran. */
START_TEST(a_closed_pool_lock_leaves_the_loops_thread_alone)
{
    fake_start(&h, 4, false, NULL);
    aflock *lock = fake_open_lock(&h, "f", AFLOCK_IO_POOL);
    aflock_req req = fake_hold(&h, lock, &a, NULL);
    ck_assert_int_eq(fake_release(lock, req, NULL), 0);
    fake_work(&h);
    ck_assert_int_eq(fake_acquire(lock, NULL, &b, &req), 0);
    ck_assert_int_eq(fake_cancel(lock, req), 0);
    fake_settle(&h);
    ck_answered(b, AFLOCK_ECANCELED);
    ck_assert_int_eq(aflock_close(lock), 0); /* the attempt is still out, wins, and is given back */
    fake_work(&h);
    ck_assert(fake_is_free(fake_path("f")));
    ck_assert_int_eq(seam_count(SEAM_UNLOCK), 2);
    ck_assert_int_eq(seam_total_on_loop(), 0);
    ck_assert_ptr_null(h.ctx->places);
    ck_assert_int_eq(fake_free(&h, 0), 0);
}
END_TEST

START_TEST(one_pool_lock_keeps_the_whole_path_on_the_pool)
{
    fake_start(&h, 4, false, NULL);
    aflock *here = fake_open_lock(&h, "f", AFLOCK_IO_INLINE);
    aflock *pool = fake_open_lock(&h, "f", AFLOCK_IO_POOL);
    aflock_req req = fake_hold(&h, here, &a, NULL);
    ck_assert_int_eq(fake_release(here, req, NULL), 0);
    fake_work(&h);
    ck_assert_int_eq(seam_total_on_loop(), 0);
    ck_assert_int_eq(aflock_close(pool), 0);
    unsigned submits = h.submits;
    req = fake_hold(&h, here, &a, NULL);
    ck_assert_int_eq(fake_release(here, req, NULL), 0);
    ck_assert_uint_eq(h.submits, submits);
    ck_assert_int_eq(fake_free(&h, 0), 0);
}
END_TEST

START_TEST(auto_runs_here_what_is_cached_and_elsewhere_what_is_not)
{
    fake_start(&h, 4, false, NULL);
    aflock *lock = fake_open_lock(&h, "f", AFLOCK_IO_AUTO);
    ck_assert_int_eq(seam_total_on_loop() + seam_total_elsewhere(), 0); /* opening touches nothing */
    aflock_req req = fake_hold(&h, lock, &a, NULL);                     /* the file is missing: the pool creates it */
    ck_assert_int_gt(seam_total_elsewhere(), 0);
    ck_assert_uint_gt(h.submits, 0);
    ck_assert_int_eq(fake_release(lock, req, NULL), 0);
    fake_work(&h);

    unsigned submits = h.submits;
    seam_forget();
    req = fake_hold(&h, lock, &a, NULL);
    ck_assert_int_eq(fake_release(lock, req, NULL), 0);
    fake_settle(&h);
    ck_assert_uint_eq(h.submits, submits);
    ck_assert_int_eq(seam_total_elsewhere(), 0);
    ck_assert_int_eq(seam_count(SEAM_OPEN_CACHED), 1);
    ck_assert_int_eq(seam_count(SEAM_OPEN) + seam_count(SEAM_CREATE), 0);

    seam_fail(SEAM_OPEN_CACHED, 0, 1, EAGAIN);
    req = fake_hold(&h, lock, &a, NULL);
    ck_assert_uint_eq(h.submits, submits + 1);
    ck_assert_int_gt(seam_total_elsewhere(), 0);
    ck_assert_int_eq(fake_release(lock, req, NULL), 0);

    aflock_acquire_options o = fake_options(SEC); /* wishes may sleep: they run on the pool */
    o.file_mode = 0600;
    seam_forget();
    fake_hold(&h, lock, &a, &o);
    ck_assert_int_eq(seam_count(SEAM_FCHMOD), 1);
    ck_assert_int_eq(seam_total_elsewhere(), 1);
    ck_assert_int_eq(fake_free(&h, 0), 0);
}
END_TEST

START_TEST(try_never_leaves_the_thread)
{
    aflock_req req;
    fake_start(&h, 4, false, NULL);
    aflock *lock = fake_open_lock(&h, "f", AFLOCK_IO_AUTO);
    ck_assert_int_eq(aflock_try(lock, NULL, &req, NULL), AFLOCK_ENOTINLINE); /* the directory is not known yet */
    ck_assert_int_eq(seam_count(SEAM_OPEN) + seam_count(SEAM_CREATE), 0);
    ck_assert_int_eq(fake_release(lock, fake_hold(&h, lock, &a, NULL), NULL), 0);
    fake_work(&h);
    unsigned submits = h.submits;
    seam_forget();
    ck_assert_int_eq(aflock_try(lock, NULL, &req, NULL), 0); /* now it is, and the file is there */
    ck_assert_int_eq(fake_release(lock, req, NULL), 0);
    ck_assert_int_eq(unlink(fake_path("f")), 0);
    ck_assert_int_eq(aflock_try(lock, NULL, &req, NULL), AFLOCK_ENOTINLINE);
    aflock_acquire_options o = fake_options(0);
    o.flags |= AFLOCK_TRUNCATE;
    ck_assert_int_eq(aflock_try(lock, &o, &req, NULL), AFLOCK_ENOTINLINE);
    ck_assert_int_eq(seam_count(SEAM_OPEN) + seam_count(SEAM_CREATE), 0);
    ck_assert_int_eq(seam_total_elsewhere(), 0);
    ck_assert_uint_eq(h.submits, submits);
    fake_touch(fake_path("f"));
    ck_assert_int_eq(aflock_try(lock, NULL, &req, NULL), 0);
    ck_assert_int_eq(fake_free(&h, 0), 0);
}
END_TEST

/* ------------------------------------------------------------------------------------------------ while calls hang */

START_TEST(a_deadline_is_answered_while_the_job_waits_and_never_early)
{
    fake_start(&h, 4, false, NULL);
    aflock *lock = fake_open_lock(&h, "f", AFLOCK_IO_POOL);
    aflock_acquire_options o = fake_options(100 * MS);
    ck_assert_int_eq(fake_acquire(lock, &o, &a, NULL), 0);
    ck_assert_uint_eq(h.job_count, 1);
    ck_assert_uint_eq(h.timer, h.now + 100 * MS);
    fake_advance(&h, 100 * MS - 1);
    aflock_host_timer(h.ctx); /* an early call is harmless */
    fake_turn(&h);
    ck_assert_uint_eq(a.count, 0);
    fake_advance(&h, 1);
    ck_answered(a, AFLOCK_ETIMEDOUT);
    ck_assert_uint_eq(a.result.waited, 100 * MS);
    ck_assert(!h.alive); /* a call that hangs does not keep the loop running */
    fake_work(&h);
    ck_assert(fake_is_free(fake_path("f")));
    ck_assert_uint_eq(a.count, 1);
    ck_assert_int_eq(fake_free(&h, 0), 0);
}
END_TEST

START_TEST(a_single_attempt_that_hangs_ends_with_the_attempt_limit)
{
    aflock_ctx_options options;
    aflock_ctx_options_init(&options);
    options.attempt_limit = 3 * SEC;
    fake_start(&h, 4, false, &options);
    aflock *lock = fake_open_lock(&h, "f", AFLOCK_IO_POOL);
    aflock_acquire_options o = fake_options(0);
    ck_assert_int_eq(fake_acquire(lock, &o, &a, NULL), 0);
    fake_advance(&h, 3 * SEC - 1);
    ck_assert_uint_eq(a.count, 0);
    fake_advance(&h, 1);
    ck_answered(a, AFLOCK_EWOULDBLOCK);
    fake_work(&h);
    ck_assert_int_eq(fake_free(&h, 0), 0);
}
END_TEST

START_TEST(a_late_success_serves_the_next_head)
{
    aflock_req req;
    fake_start(&h, 4, false, NULL);
    aflock *lock = fake_open_lock(&h, "f", AFLOCK_IO_POOL);
    ck_assert_int_eq(fake_release(lock, fake_hold(&h, lock, &a, NULL), NULL), 0);
    fake_work(&h);
    seam_forget();
    seam_hang(SEAM_LOCK, "/f");
    ck_assert_int_eq(fake_acquire(lock, NULL, &b, &req), 0);
    pthread_t worker = fake_go(&h, 0);
    seam_await_hung(1);
    ck_assert_int_eq(fake_cancel(lock, req), 0);
    fake_settle(&h);
    ck_answered(b, AFLOCK_ECANCELED);
    ck_assert_int_eq(fake_acquire(lock, NULL, &c, NULL), 0);
    fake_settle(&h);
    ck_assert_uint_eq(h.job_count, 0); /* one attempt per path */
    seam_resume();
    fake_join(worker);
    fake_settle(&h);
    ck_answered(c, 0);
    ck_assert_int_eq(seam_count(SEAM_LOCK), 1);
    ck_assert_int_eq(seam_count(SEAM_UNLOCK), 0);
    ck_assert_int_eq(fake_free(&h, SEC), 1); /* the release never ran: nobody ran its job */
}
END_TEST

START_TEST(a_late_success_that_nobody_wants_is_given_back)
{
    aflock_req req;
    fake_start(&h, 4, false, NULL);
    unsigned descriptors = fake_descriptors();
    aflock *lock = fake_open_lock(&h, "f", AFLOCK_IO_POOL);
    seam_hang(SEAM_LOCK, "/f");
    ck_assert_int_eq(fake_acquire(lock, NULL, &a, &req), 0);
    for (int i = 0; i < 2; i++) { /* finds out on which device the path seems to be, and where it leads */
        fake_run(&h, 0);
        fake_settle(&h);
    }
    pthread_t worker = fake_go(&h, 0);
    seam_await_hung(1);
    ck_assert_int_eq(fake_cancel(lock, req), 0);
    fake_settle(&h);
    ck_answered(a, AFLOCK_ECANCELED);
    seam_resume();
    fake_join(worker);
    ck_assert(!fake_is_free(fake_path("f")));
    fake_settle(&h);
    ck_assert_uint_eq(fake_jobs_in(&h, AFLOCK_LANE_RELEASE), 1);
    ck_assert(h.alive); /* something of ours is on disk */
    fake_work(&h);
    ck_assert(fake_is_free(fake_path("f")));
    ck_assert(!h.alive);
    ck_assert_uint_eq(fake_descriptors(), descriptors);
    ck_assert_uint_eq(a.count, 1);
    ck_assert_int_eq(fake_free(&h, 0), 0);
}
END_TEST

/* The wishes of a request that is gone are not served any more. */
static int wished(int fd, void *user)
{
    (void)fd;
    ++*(int *)user;
    return 0;
}

START_TEST(a_request_that_left_has_no_wishes)
{
    aflock_req req;
    int count = 0;
    fake_start(&h, 4, false, NULL);
    aflock *lock = fake_open_lock(&h, "f", AFLOCK_IO_POOL);
    aflock_acquire_options o = fake_options(AFLOCK_FOREVER);
    o.on_acquired = wished;
    o.on_acquired_user = &count;
    ck_assert_int_eq(fake_acquire(lock, &o, &a, &req), 0);
    fake_run(&h, 0);
    fake_settle(&h);
    fake_run(&h, 0); /* the attempt; the wishes are a job of their own */
    fake_settle(&h);
    ck_assert_uint_eq(h.job_count, 1);
    ck_assert_int_eq(fake_cancel(lock, req), 0);
    fake_work(&h);
    ck_answered(a, AFLOCK_ECANCELED);
    ck_assert_int_eq(count, 0);
    ck_assert(fake_is_free(fake_path("f")));
    ck_assert_int_eq(fake_free(&h, 0), 0);
}
END_TEST

/* ------------------------------------------------------------------------------------------ the same on a real pool */

/* Runs the loop until the answer is there. */
static void run_for(aflock_ctx *ctx, const fake_answer *answer)
{
    for (int i = 0; i < 10000 && answer->count == 0; i++)
        ck_assert_int_eq(aflock_epoll_run_once(ctx, 10 * MS), 0);
    ck_assert_uint_eq(answer->count, 1);
}

static uint64_t monotonic(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * SEC + (uint64_t)ts.tv_nsec;
}

START_TEST(a_real_worker_that_hangs_stops_nobody)
{
    aflock_ctx *ctx;
    aflock *lock;
    aflock_req req;
    aflock_options options;
    aflock_options_init(&options);
    options.io = AFLOCK_IO_POOL;
    ck_assert_int_eq(aflock_epoll_new(&ctx, NULL), 0);
    seam_install(ctx);
    ck_assert_int_eq(aflock_open(&lock, ctx, fake_path("f"), &options), 0);
    ck_assert_int_eq(fake_acquire(lock, NULL, &d, &req), 0); /* from now on it is known where the path leads */
    run_for(ctx, &d);
    ck_assert_int_eq(fake_release(lock, req, &e), 0);
    run_for(ctx, &e);
    seam_reset();
    seam_hang(SEAM_LOCK, "/f");
    aflock_acquire_options o = fake_options(30 * MS);
    uint64_t before = monotonic();
    ck_assert_int_eq(fake_acquire(lock, &o, &a, NULL), 0);
    run_for(ctx, &a);
    ck_answered(a, AFLOCK_ETIMEDOUT);
    ck_assert_uint_ge(monotonic() - before, 30 * MS);
    ck_assert_uint_ge(a.result.waited, 30 * MS);
    seam_await_hung(1);

    ck_assert_int_eq(fake_acquire(lock, NULL, &b, &req), 0);
    ck_assert_int_eq(aflock_epoll_run_once(ctx, MS), 0);
    ck_assert_int_eq(fake_cancel(lock, req), 0);
    run_for(ctx, &b);
    ck_answered(b, AFLOCK_ECANCELED);

    ck_assert_int_eq(fake_acquire(lock, NULL, &c, &req), 0);
    seam_resume();
    run_for(ctx, &c);
    ck_answered(c, 0);
    ck_assert_int_eq(seam_count(SEAM_LOCK), 1); /* the one that hung */
    ck_assert_int_eq(seam_total_on_loop(), 0);
    ck_assert_int_eq(aflock_ctx_free(ctx, 5 * SEC), 0);
    ck_assert(fake_is_free(fake_path("f")));
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {pool_mode_leaves_the_loops_thread_alone,
                                  a_closed_pool_lock_leaves_the_loops_thread_alone,
                                  one_pool_lock_keeps_the_whole_path_on_the_pool,
                                  auto_runs_here_what_is_cached_and_elsewhere_what_is_not,
                                  try_never_leaves_the_thread,
                                  a_deadline_is_answered_while_the_job_waits_and_never_early,
                                  a_single_attempt_that_hangs_ends_with_the_attempt_limit,
                                  a_late_success_serves_the_next_head,
                                  a_late_success_that_nobody_wants_is_given_back,
                                  a_request_that_left_has_no_wishes,
                                  a_real_worker_that_hangs_stops_nobody,
                                  NULL};
    return fake_main("runtime: the loop never waits", tests);
}
