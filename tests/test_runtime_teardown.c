/* Promise 10: freeing a context in every state: what is pending is answered once, what is held is given back, a hung
 * call costs at most the grace and gives back what it wins later. And the graceful end. */
#include "support/fake_host.h"

#include <aflock/epoll.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

static fake_host h;
static fake_answer a, b, c, d, e;

static void inspected(aflock *lock, const aflock_holder *holder, void *user)
{
    ck_assert_ptr_nonnull(lock);
    ck_assert_int_eq(holder->status, AFLOCK_ECLOSED);
    ++*(unsigned *)user;
}

/* ------------------------------------------------------------------------------------------------ state by state */

START_TEST(inline_in_every_state)
{
    aflock_req req;
    int foreign = fake_foreign(fake_path("foreign"));
    fake_start(&h, 4, true, NULL);
    unsigned descriptors = fake_descriptors();
    aflock *held = fake_open_lock(&h, "held", AFLOCK_IO_INLINE), *won = fake_open_lock(&h, "won", AFLOCK_IO_INLINE);
    aflock *waits = fake_open_lock(&h, "foreign", AFLOCK_IO_INLINE);
    fake_hold(&h, held, &a, NULL);
    ck_assert_int_eq(fake_acquire(held, NULL, &b, NULL), 0);  /* behind a hold */
    ck_assert_int_eq(fake_acquire(waits, NULL, &c, NULL), 0); /* contended, listening */
    ck_assert_int_eq(fake_acquire(won, NULL, &d, NULL), 0);   /* won, not delivered */
    ck_assert_int_eq(fake_acquire(waits, NULL, &e, &req), 0); /* cancelled, not delivered */
    ck_assert_int_eq(fake_cancel(waits, req), 0);
    ck_assert_uint_eq(h.listening_count, 1);
    ck_assert_int_eq(fake_free(&h, 0), 0);
    ck_assert_uint_eq(a.count, 1);
    ck_answered(b, AFLOCK_ECLOSED);
    ck_answered(c, AFLOCK_ECLOSED);
    ck_answered(d, AFLOCK_ECLOSED);
    ck_answered(e, AFLOCK_ECANCELED);
    ck_assert(fake_is_free(fake_path("held")));
    ck_assert(fake_is_free(fake_path("won")));
    ck_assert_uint_eq(fake_descriptors(), descriptors);
    close(foreign);
}
END_TEST

/* Nothing that was submitted has run: try, release and questions. */
START_TEST(on_the_pool_with_everything_still_queued)
{
    unsigned count = 0;
    fake_start(&h, 4, false, NULL);
    unsigned descriptors = fake_descriptors();
    aflock *held = fake_open_lock(&h, "held", AFLOCK_IO_POOL), *freed = fake_open_lock(&h, "freed", AFLOCK_IO_POOL);
    aflock *asked = fake_open_lock(&h, "asked", AFLOCK_IO_POOL);
    aflock_req req = fake_hold(&h, held, &a, NULL), other = fake_hold(&h, freed, &b, NULL);
    ck_assert_int_eq(aflock_verify(held, req, fake_answered, &c), 0);
    ck_assert_int_eq(aflock_inspect(asked, inspected, &count), 0);
    ck_assert_int_eq(fake_release(freed, other, &d), 0);
    ck_assert_int_eq(fake_acquire(asked, NULL, &e, NULL), 0);
    ck_assert_int_eq(fake_free(&h, 0), 2); /* one that was held, one whose release was under way */
    ck_answered(c, AFLOCK_ECLOSED);
    ck_answered(d, AFLOCK_ECLOSED);
    ck_answered(e, AFLOCK_ECLOSED);
    ck_assert_uint_eq(count, 1);
    ck_assert(fake_is_free(fake_path("held"))); /* the executor runs queued releases to the end */
    ck_assert(fake_is_free(fake_path("freed")));
    ck_assert_uint_eq(fake_descriptors(), descriptors);
}
END_TEST

/* What workers have finished, and the loop has not seen. */
START_TEST(on_the_pool_with_results_not_collected)
{
    aflock_req req;
    fake_start(&h, 4, false, NULL);
    unsigned descriptors = fake_descriptors();
    aflock *lock = fake_open_lock(&h, "f", AFLOCK_IO_POOL), *other = fake_open_lock(&h, "g", AFLOCK_IO_POOL);
    req = fake_hold(&h, other, &b, NULL);
    ck_assert_int_eq(fake_release(lock, fake_hold(&h, lock, &a, NULL), NULL), 0);
    fake_work(&h);
    a = (fake_answer){.count = 0};
    ck_assert_int_eq(fake_acquire(lock, NULL, &a, NULL), 0);
    ck_assert_int_eq(aflock_verify(other, req, fake_answered, &c), 0);
    ck_assert_int_eq(fake_release(other, req, &d), 0);
    while (h.job_count)
        fake_run(&h, 0);
    ck_assert(!fake_is_free(fake_path("f")));
    ck_assert_int_eq(fake_free(&h, 0), 1); /* the release of f did not come back within the grace */
    ck_answered(a, AFLOCK_ECLOSED);
    ck_answered(c, 0);
    ck_answered(d, 0);
    ck_assert(fake_is_free(fake_path("f")));
    ck_assert(fake_is_free(fake_path("g")));
    ck_assert_uint_eq(fake_descriptors(), descriptors);
}
END_TEST

/* ------------------------------------------------------------------------------------------------------ the grace */

static unsigned waits;

static void work_meanwhile(uint64_t timeout)
{
    ck_assert_uint_le(timeout, SEC);
    h.now += MS;
    waits++;
    if (h.job_count)
        fake_run(&h, 0);
}

START_TEST(the_grace_lets_jobs_come_back)
{
    fake_start(&h, 4, false, NULL);
    seam_waits = work_meanwhile;
    aflock *held = fake_open_lock(&h, "held", AFLOCK_IO_POOL), *tries = fake_open_lock(&h, "tries", AFLOCK_IO_POOL);
    fake_hold(&h, held, &a, NULL);
    ck_assert_int_eq(fake_acquire(tries, NULL, &b, NULL), 0);
    ck_assert_int_eq(fake_free(&h, SEC), 0);
    ck_answered(b, AFLOCK_ECLOSED);
    ck_assert_uint_gt(waits, 1);
    ck_assert_uint_lt(waits, 20);
    ck_assert(fake_is_free(fake_path("held")));
    ck_assert(fake_is_free(fake_path("tries")));
}
END_TEST

START_TEST(a_failed_release_is_tried_again_within_the_grace)
{
    fake_start(&h, 4, false, NULL);
    uint64_t before = h.now;
    aflock *lock = fake_open_lock(&h, "f", AFLOCK_IO_INLINE);
    fake_hold(&h, lock, &a, NULL);
    seam_fail(SEAM_UNLOCK, 0, 1, EIO);
    ck_assert_int_eq(fake_free(&h, SEC), 0);
    ck_assert(fake_is_free(fake_path("f")));
    ck_assert_uint_lt(h.now - before, 200 * MS);
}
END_TEST

/* The release has a callback, which hears that it failed; the hold is then given up without one. */
START_TEST(a_release_that_fails_while_the_context_is_freed)
{
    fake_start(&h, 4, false, NULL);
    seam_waits = work_meanwhile;
    aflock *lock = fake_open_lock(&h, "f", AFLOCK_IO_POOL);
    aflock_req req = fake_hold(&h, lock, &a, NULL);
    ck_assert_int_eq(fake_release(lock, req, &b), 0);
    seam_fail(SEAM_UNLOCK, 0, 1, EIO);
    uint64_t before = h.now;
    ck_assert_int_eq(fake_free(&h, 10 * SEC), 0);
    ck_answered(b, AFLOCK_ESYS);
    ck_assert_int_eq(b.result.sys_errno, EIO);
    ck_assert_uint_lt(h.now - before, SEC);
    ck_assert(fake_is_free(fake_path("f")));
}
END_TEST

START_TEST(a_release_that_never_succeeds_costs_the_grace_and_is_counted)
{
    fake_start(&h, 4, false, NULL);
    uint64_t before = h.now;
    aflock *lock = fake_open_lock(&h, "f", AFLOCK_IO_POOL);
    fake_hold(&h, lock, &a, NULL);
    ck_assert_int_eq(fake_free(&h, 3 * SEC), 1);
    ck_assert_uint_ge(h.now - before, 3 * SEC);
    ck_assert_uint_le(h.now - before, 3 * SEC + 2 * MS);
}
END_TEST

/* ------------------------------------------------------------------------------------- hung calls on a real pool */

static aflock_ctx *real;

static aflock *real_lock(const char *name)
{
    aflock *lock;
    aflock_options options;
    aflock_options_init(&options);
    options.io = AFLOCK_IO_POOL;
    ck_assert_int_eq(aflock_open(&lock, real, fake_path(name), &options), 0);
    return lock;
}

static void real_start(void)
{
    ck_assert_int_eq(aflock_epoll_new(&real, NULL), 0);
    seam_install(real);
}

static void run_for(const fake_answer *answer)
{
    while (answer->count == 0)
        ck_assert_int_eq(aflock_epoll_run_once(real, SEC), 0);
}

/* The worker gives the lock back and closes what it opened, when its call returns. */
static void await_free(const char *path, unsigned descriptors)
{
    while (!fake_is_free(path) || fake_descriptors() > descriptors)
        usleep(1000);
}

START_TEST(a_try_that_hangs_gives_back_what_it_wins_after_the_end)
{
    unsigned descriptors = fake_descriptors();
    real_start();
    aflock *lock = real_lock("f");
    ck_assert_int_eq(fake_acquire(lock, NULL, &a, NULL), 0);
    run_for(&a);
    ck_assert_int_eq(fake_release(lock, a.result.req, &b), 0);
    run_for(&b);
    seam_hang(SEAM_LOCK, "/f");
    ck_assert_int_eq(fake_acquire(lock, NULL, &c, NULL), 0);
    seam_await_hung(1);
    ck_assert_int_eq(aflock_ctx_free(real, 0), 0);
    ck_answered(c, AFLOCK_ECLOSED);
    seam_forget();
    seam_resume();
    while (seam_count(SEAM_UNLOCK) == 0)
        usleep(1000);
    await_free(fake_path("f"), descriptors);
    ck_assert_int_eq(seam_total_on_loop(), 0);
}
END_TEST

START_TEST(a_release_that_hangs_is_counted_and_ends_later)
{
    unsigned descriptors = fake_descriptors();
    real_start();
    aflock *lock = real_lock("f"), *other = real_lock("other");
    ck_assert_int_eq(fake_acquire(lock, NULL, &a, NULL), 0);
    ck_assert_int_eq(fake_acquire(other, NULL, &c, NULL), 0);
    run_for(&a);
    run_for(&c);
    seam_hang(SEAM_UNLOCK, "/f");
    ck_assert_int_eq(fake_release(lock, a.result.req, &b), 0);
    seam_await_hung(1);
    ck_assert_int_eq(aflock_ctx_free(real, 100 * MS), 1); /* the other one is no trouble */
    ck_answered(b, AFLOCK_ECLOSED);
    ck_assert(!fake_is_free(fake_path("f")));
    ck_assert(fake_is_free(fake_path("other")));
    seam_resume();
    await_free(fake_path("f"), descriptors);
}
END_TEST

static void *resume_later(void *unused)
{
    usleep(30000);
    seam_resume();
    return unused;
}

START_TEST(a_call_that_returns_within_the_grace_is_waited_for)
{
    pthread_t thread;
    real_start();
    aflock *lock = real_lock("f");
    ck_assert_int_eq(fake_acquire(lock, NULL, &a, NULL), 0);
    run_for(&a);
    seam_hang(SEAM_UNLOCK, "/f");
    ck_assert_int_eq(pthread_create(&thread, NULL, resume_later, NULL), 0);
    ck_assert_int_eq(aflock_ctx_free(real, 15 * SEC), 0);
    ck_assert(fake_is_free(fake_path("f")));
    fake_join(thread);
}
END_TEST

START_TEST(a_question_that_hangs_is_answered_at_the_end)
{
    unsigned count = 0;
    unsigned descriptors = fake_descriptors();
    real_start();
    aflock *lock = real_lock("f");
    ck_assert_int_eq(fake_acquire(lock, NULL, &a, NULL), 0); /* from now on its device is known */
    run_for(&a);
    ck_assert_int_eq(fake_release(lock, a.result.req, &b), 0);
    run_for(&b);
    seam_hang(SEAM_OPEN, "/f");
    ck_assert_int_eq(aflock_inspect(lock, inspected, &count), 0);
    seam_await_hung(1);
    ck_assert_int_eq(aflock_ctx_free(real, 0), 0);
    ck_assert_uint_eq(count, 1);
    seam_resume();
    await_free(fake_path("f"), descriptors);
}
END_TEST

/* --------------------------------------------------------------------------------- a descriptor of the caller's */

static int fine(int fd, void *user)
{
    (void)fd, (void)user;
    return 0;
}

static aflock *descriptor_lock(int fd)
{
    aflock *lock;
    aflock_options options;
    aflock_options_init(&options);
    options.io = AFLOCK_IO_INLINE;
    ck_assert_int_eq(aflock_open_fd(&lock, h.ctx, fd, &options), 0);
    return lock;
}

START_TEST(a_callers_descriptor_stays_locked_and_open)
{
    fake_touch(fake_path("f"));
    int fd = open(fake_path("f"), O_RDWR | O_CLOEXEC);
    fake_start(&h, 4, false, NULL);
    aflock_acquire_options o = fake_options(AFLOCK_FOREVER);
    o.on_acquired = fine;
    aflock *lock = descriptor_lock(fd);
    fake_hold(&h, lock, &a, &o);
    ck_assert_int_eq(a.result.fd, fd);
    seam_reset(); /* the table of mounts was read */
    ck_assert_int_eq(fake_acquire(lock, NULL, &b, NULL), 0);
    ck_assert_int_eq(fake_free(&h, SEC), 0);
    ck_answered(b, AFLOCK_ECLOSED);
    ck_assert_int_eq(seam_count(SEAM_UNLOCK), 0);
    ck_assert_int_eq(seam_count(SEAM_CLOSE), 0);
    ck_assert(!fake_is_free(fake_path("f")));
    ck_assert_int_eq(close(fd), 0);
    ck_assert(fake_is_free(fake_path("f")));
}
END_TEST

/* Nobody was told that it is locked, so nobody would unlock it. */
START_TEST(a_callers_descriptor_that_was_won_and_not_delivered_is_unlocked)
{
    fake_touch(fake_path("f"));
    int fd = open(fake_path("f"), O_RDWR | O_CLOEXEC);
    fake_start(&h, 4, false, NULL);
    ck_assert_int_eq(fake_acquire(descriptor_lock(fd), NULL, &a, NULL), 0);
    ck_assert(!fake_is_free(fake_path("f")));
    ck_assert_int_eq(fake_free(&h, 0), 0);
    ck_answered(a, AFLOCK_ECLOSED);
    ck_assert(fake_is_free(fake_path("f")));
    ck_assert_int_eq(close(fd), 0);
}
END_TEST

/* -------------------------------------------------------------------------------------- callbacks inside the end */

static void use_everything(fake_answer *answer, aflock *lock)
{
    aflock *other;
    aflock_req req;
    aflock_acquire_options o = fake_options(0);
    ck_assert_int_eq(fake_acquire(lock, NULL, answer->user, NULL), AFLOCK_ECLOSED);
    ck_assert_int_eq(aflock_try(lock, &o, &req, NULL), AFLOCK_ECLOSED);
    ck_assert_int_eq(aflock_open(&other, h.ctx, "x", NULL), AFLOCK_ECLOSED);
    ck_assert_int_eq(aflock_inspect(lock, inspected, NULL), AFLOCK_ECLOSED);
    ck_assert_int_eq(aflock_ctx_free(h.ctx, 0), AFLOCK_EBUSY);
    ck_assert_int_eq(fake_cancel(lock, answer->result.req), AFLOCK_ESTALE);
    ck_assert_int_eq(aflock_close(lock), 0);
}

START_TEST(a_callback_inside_the_end_may_call_anything)
{
    int foreign = fake_foreign(fake_path("f"));
    fake_start(&h, 4, false, NULL);
    aflock *lock = fake_open_lock(&h, "f", AFLOCK_IO_INLINE);
    a.then = use_everything;
    a.user = &b;
    ck_assert_int_eq(fake_acquire(lock, NULL, &a, NULL), 0);
    ck_assert_int_eq(fake_free(&h, 0), 0);
    ck_answered(a, AFLOCK_ECLOSED);
    ck_assert_uint_eq(b.count, 0);
    close(foreign);
}
END_TEST

START_TEST(nothing_to_do)
{
    ck_assert_int_eq(aflock_ctx_free(NULL, SEC), 0);
    fake_start(&h, 4, true, NULL);
    ck_assert_int_eq(fake_free(&h, AFLOCK_FOREVER), 0);
    fake_start(&h, 4, false, NULL);
    fake_open_lock(&h, "f", AFLOCK_IO_AUTO); /* open locks are closed */
    ck_assert_int_eq(fake_free(&h, AFLOCK_FOREVER), 0);
}
END_TEST

/* ------------------------------------------------------------------------------------------------ the graceful end */

static unsigned drains;

static void drained(aflock_ctx *ctx, void *user)
{
    ck_assert_ptr_eq(ctx, h.ctx);
    ck_assert_ptr_eq(user, &drains);
    ck_assert(h.turning);
    drains++;
}

START_TEST(draining_waits_for_what_was_accepted)
{
    aflock *other;
    aflock_req req;
    fake_start(&h, 4, false, NULL);
    aflock *lock = fake_open_lock(&h, "f", AFLOCK_IO_POOL);
    aflock_req held = fake_hold(&h, lock, &a, NULL);
    ck_assert_int_eq(fake_acquire(lock, NULL, &b, NULL), 0);
    ck_assert_int_eq(aflock_ctx_drain(h.ctx, drained, &drains), 0);
    ck_assert_int_eq(aflock_ctx_drain(h.ctx, drained, &drains), AFLOCK_EBUSY);
    ck_assert_int_eq(fake_acquire(lock, NULL, &c, NULL), AFLOCK_ECLOSED);
    ck_assert_int_eq(aflock_try(lock, NULL, &req, NULL), AFLOCK_ECLOSED);
    ck_assert_int_eq(aflock_open(&other, h.ctx, "x", NULL), AFLOCK_ECLOSED);
    ck_assert(h.alive);
    ck_assert_int_eq(fake_release(lock, held, NULL), 0);
    fake_work(&h);
    ck_answered(b, 0);
    ck_assert(h.alive); /* a hold alone would not */
    ck_assert_uint_eq(drains, 0);
    ck_assert_int_eq(fake_release(lock, b.result.req, &d), 0);
    ck_assert_uint_eq(drains, 0);
    fake_work(&h);
    ck_answered(d, 0);
    ck_assert_uint_eq(drains, 1);
    ck_assert(!h.alive);
    ck_assert_int_eq(aflock_ctx_drain(h.ctx, drained, &drains), AFLOCK_EBUSY);
    ck_assert_int_eq(fake_free(&h, 0), 0);
    ck_assert_uint_eq(drains, 1);
    ck_assert_uint_eq(c.count, 0);
}
END_TEST

START_TEST(draining_what_is_idle_answers_from_a_turn)
{
    fake_start(&h, 4, false, NULL);
    ck_assert_int_eq(aflock_ctx_drain(h.ctx, drained, &drains), 0);
    ck_assert_uint_eq(drains, 0);
    ck_assert(h.turn_due);
    fake_settle(&h);
    ck_assert_uint_eq(drains, 1);
    ck_assert_int_eq(fake_free(&h, 0), 0);
}
END_TEST

START_TEST(a_drain_that_is_cut_short_is_answered_too)
{
    fake_start(&h, 4, false, NULL);
    aflock *lock = fake_open_lock(&h, "f", AFLOCK_IO_INLINE);
    fake_hold(&h, lock, &a, NULL);
    ck_assert_int_eq(aflock_ctx_drain(h.ctx, drained, &drains), 0);
    fake_settle(&h);
    ck_assert_uint_eq(drains, 0);
    ck_assert_int_eq(fake_free(&h, 0), 0);
    ck_assert_uint_eq(drains, 1);
    ck_assert(fake_is_free(fake_path("f")));
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {inline_in_every_state,
                                  on_the_pool_with_everything_still_queued,
                                  on_the_pool_with_results_not_collected,
                                  the_grace_lets_jobs_come_back,
                                  a_failed_release_is_tried_again_within_the_grace,
                                  a_release_that_fails_while_the_context_is_freed,
                                  a_release_that_never_succeeds_costs_the_grace_and_is_counted,
                                  a_try_that_hangs_gives_back_what_it_wins_after_the_end,
                                  a_release_that_hangs_is_counted_and_ends_later,
                                  a_call_that_returns_within_the_grace_is_waited_for,
                                  a_question_that_hangs_is_answered_at_the_end,
                                  a_callers_descriptor_stays_locked_and_open,
                                  a_callers_descriptor_that_was_won_and_not_delivered_is_unlocked,
                                  a_callback_inside_the_end_may_call_anything,
                                  nothing_to_do,
                                  draining_waits_for_what_was_accepted,
                                  draining_what_is_idle_answers_from_a_turn,
                                  a_drain_that_is_cut_short_is_answered_too,
                                  NULL};
    return fake_main("runtime: teardown", tests);
}
