/* Promise 3: cancel never leaks and never lies, whatever the request is doing and whoever cancels it. */
#include "support/fake_host.h"

#include <aflock/epoll.h>
#include <errno.h>
#include <signal.h>
#include <unistd.h>

static fake_host h;
static fake_answer a, b, c, d;

static aflock_token *new_token(void)
{
    aflock_token *token;
    ck_assert_int_eq(aflock_token_new(&token, h.ctx), 0);
    return token;
}

/* ------------------------------------------------------------------------------------------------- state by state */

START_TEST(a_waiter_and_a_head)
{
    aflock_req holder, head, second;
    fake_start(&h, 4, false, NULL);
    aflock *lock = fake_open_lock(&h, "f", AFLOCK_IO_INLINE);
    holder = fake_hold(&h, lock, &a, NULL);
    ck_assert_int_eq(fake_acquire(lock, NULL, &b, &head), 0);
    ck_assert_int_eq(fake_acquire(lock, NULL, &c, &second), 0);
    ck_assert_int_eq(fake_cancel(lock, second), 0);
    ck_assert_int_eq(fake_cancel(lock, second), 0); /* not delivered yet: it will say so */
    ck_assert_int_eq(fake_cancel(lock, head), 0);
    fake_settle(&h);
    ck_answered(b, AFLOCK_ECANCELED);
    ck_answered(c, AFLOCK_ECANCELED);
    ck_assert_int_eq(fake_cancel(lock, head), AFLOCK_ESTALE);
    ck_assert_int_eq(fake_cancel(lock, holder), AFLOCK_EHELD);
    ck_assert_int_ge(aflock_fd(lock, holder), 0);
    ck_assert_int_eq(fake_free(&h, 0), 0);
}
END_TEST

START_TEST(an_attempt_that_is_not_under_way_yet_or_is)
{
    aflock_req req;
    fake_start(&h, 4, false, NULL);
    aflock *lock = fake_open_lock(&h, "f", AFLOCK_IO_POOL);
    for (int under_way = 0; under_way < 2; under_way++) {
        a = (fake_answer){.count = 0};
        ck_assert_int_eq(fake_acquire(lock, NULL, &a, &req), 0);
        if (under_way)
            fake_run(&h, 0); /* won, and the loop does not know yet */
        ck_assert_int_eq(fake_cancel(lock, req), 0);
        fake_work(&h);
        ck_answered(a, AFLOCK_ECANCELED);
        ck_assert(fake_is_free(fake_path("f")));
    }
    ck_assert_int_eq(fake_free(&h, 0), 0);
}
END_TEST

static int count_calls(int fd, void *user)
{
    (void)fd;
    ++*(int *)user;
    return 0;
}

/* The lock was won, and what the request wishes is on its way to a worker when it leaves. */
START_TEST(the_wishes_of_a_request_leave_with_it)
{
    aflock_req req;
    int calls = 0;
    fake_start(&h, 4, false, NULL);
    aflock *lock = fake_open_lock(&h, "f", AFLOCK_IO_POOL);
    aflock_acquire_options o = fake_options(AFLOCK_FOREVER);
    o.on_acquired = count_calls;
    o.on_acquired_user = &calls;
    fake_release(lock, fake_hold(&h, lock, &a, &o), NULL);
    fake_work(&h);
    ck_assert_int_eq(calls, 1);
    ck_assert_int_eq(fake_acquire(lock, &o, &b, &req), 0);
    fake_run(&h, 0);
    fake_settle(&h);
    ck_assert_uint_eq(h.job_count, 1);
    ck_assert_uint_eq(b.count, 0);
    ck_assert_int_eq(fake_cancel(lock, req), 0);
    fake_settle(&h);
    ck_answered(b, AFLOCK_ECANCELED);
    fake_work(&h);
    ck_assert_int_eq(calls, 1);
    ck_assert(fake_is_free(fake_path("f")));
    ck_assert_int_eq(fake_free(&h, 0), 0);
}
END_TEST

START_TEST(a_grant_that_is_not_delivered)
{
    aflock_req req;
    fake_start(&h, 4, false, NULL);
    unsigned descriptors = fake_descriptors();
    aflock *lock = fake_open_lock(&h, "f", AFLOCK_IO_INLINE);
    ck_assert_int_eq(fake_acquire(lock, NULL, &a, &req), 0);
    ck_assert(!fake_is_free(fake_path("f")));
    ck_assert_int_eq(fake_cancel(lock, req), 0);
    ck_assert(fake_is_free(fake_path("f")));
    fake_settle(&h);
    ck_answered(a, AFLOCK_ECANCELED);
    ck_assert_int_eq(a.result.fd, -1);
    ck_assert_uint_eq(fake_descriptors(), descriptors);
    ck_assert_int_eq(fake_free(&h, 0), 0);
}
END_TEST

START_TEST(a_release_under_way)
{
    fake_start(&h, 4, false, NULL);
    aflock *lock = fake_open_lock(&h, "f", AFLOCK_IO_POOL);
    aflock_req req = fake_hold(&h, lock, &a, NULL);
    ck_assert_int_eq(fake_release(lock, req, &b), 0);
    ck_assert_int_eq(fake_cancel(lock, req), AFLOCK_ESTALE);
    ck_assert_int_eq(fake_release(lock, req, &c), AFLOCK_ESTALE);
    fake_work(&h);
    ck_answered(b, 0);
    ck_assert_int_eq(fake_cancel(lock, req), AFLOCK_ESTALE);
    ck_assert_uint_eq(c.count, 0);
    ck_assert_int_eq(fake_free(&h, 0), 0);
}
END_TEST

static int refuse(int fd, void *user)
{
    (void)fd, (void)user;
    return EBADMSG;
}

START_TEST(a_refused_request_whose_roll_back_is_under_way)
{
    aflock_req req;
    fake_start(&h, 4, false, NULL);
    aflock *lock = fake_open_lock(&h, "f", AFLOCK_IO_POOL);
    aflock_acquire_options o = fake_options(AFLOCK_FOREVER);
    o.on_acquired = refuse;
    ck_assert_int_eq(fake_acquire(lock, &o, &a, &req), 0);
    for (int i = 0; i < 4; i++) { /* the guess, the look-up, the attempt, the wishes */
        fake_run(&h, 0);
        fake_settle(&h);
    }
    ck_assert_uint_eq(fake_jobs_in(&h, AFLOCK_LANE_RELEASE), 1);
    ck_assert_uint_eq(a.count, 0);
    ck_assert_int_eq(fake_cancel(lock, req), 0);
    fake_work(&h);
    ck_answered(a, AFLOCK_ECANCELED);
    ck_assert(fake_is_free(fake_path("f")));

    a = (fake_answer){.count = 0};
    ck_assert_int_eq(fake_acquire(lock, &o, &a, &req), 0);
    fake_work(&h);
    ck_answered(a, AFLOCK_EREFUSED);
    ck_assert_int_eq(a.result.sys_errno, EBADMSG);
    ck_assert_str_eq(a.result.step, "on_acquired");
    ck_assert(fake_is_free(fake_path("f")));
    ck_assert_int_eq(fake_free(&h, 0), 0);
}
END_TEST

/* ------------------------------------------------------------------------------------------------------- tokens */

START_TEST(a_token_cancels_all_its_requests_and_spares_holds)
{
    aflock_req held;
    fake_start(&h, 4, false, NULL);
    aflock *one = fake_open_lock(&h, "one", AFLOCK_IO_INLINE), *two = fake_open_lock(&h, "two", AFLOCK_IO_POOL);
    aflock_acquire_options o = fake_options(AFLOCK_FOREVER);
    o.token = new_token();
    held = fake_hold(&h, one, &a, &o);
    ck_assert_int_eq(fake_acquire(one, &o, &b, NULL), 0);   /* behind it */
    ck_assert_int_eq(fake_acquire(two, &o, &c, NULL), 0);   /* its attempt is queued */
    ck_assert_int_eq(fake_acquire(one, NULL, &d, NULL), 0); /* has no token */
    ck_assert_int_eq(aflock_token_fired(o.token), 0);
    aflock_token_fire(o.token);
    aflock_token_fire(o.token);
    ck_assert_int_eq(aflock_token_fired(o.token), 1);
    ck_assert_uint_eq(b.count + c.count, 0);
    fake_settle(&h);
    ck_answered(b, AFLOCK_ECANCELED);
    ck_answered(c, AFLOCK_ECANCELED);
    ck_assert_uint_eq(d.count, 0);
    ck_assert_int_ge(aflock_fd(one, held), 0);
    fake_answer never = {.count = 0};
    ck_assert_int_eq(fake_acquire(one, &o, &never, NULL), AFLOCK_ECANCELED);
    aflock_token_free(o.token);
    fake_work(&h);
    ck_assert(fake_is_free(fake_path("two")));
    ck_assert_int_eq(fake_free(&h, 0), 0);
    ck_assert_uint_eq(never.count, 0);
    ck_answered(d, AFLOCK_ECLOSED);
}
END_TEST

START_TEST(a_token_of_another_context_is_refused)
{
    static fake_host other;
    fake_start(&h, 4, false, NULL);
    aflock_acquire_options o = fake_options(AFLOCK_FOREVER);
    o.token = new_token();
    fake_start(&other, 4, false, NULL);
    aflock *lock = fake_open_lock(&other, "f", AFLOCK_IO_INLINE);
    aflock_req req;
    ck_assert_int_eq(fake_acquire(lock, &o, &a, NULL), AFLOCK_EINVAL);
    ck_assert_int_eq(aflock_try(lock, &o, &req, NULL), AFLOCK_EINVAL);
    aflock_token_free(o.token);
    ck_assert_int_eq(aflock_token_new(NULL, h.ctx), AFLOCK_EINVAL);
    ck_assert_int_eq(aflock_token_new(&o.token, NULL), AFLOCK_EINVAL);
    aflock_token_fire(NULL);
    aflock_token_free(NULL);
    ck_assert_int_eq(aflock_token_fired(NULL), 0);
    ck_assert_int_eq(fake_free(&h, 0), 0);
    ck_assert_int_eq(fake_free(&other, 0), 0);
}
END_TEST

static void fire(fake_answer *answer, aflock *lock)
{
    (void)lock;
    aflock_token_fire(answer->user);
}

/* Both were won in the same turn; the callback of the first fires the token of the second. */
START_TEST(a_token_is_looked_at_right_before_delivery)
{
    fake_start(&h, 4, false, NULL);
    aflock *one = fake_open_lock(&h, "one", AFLOCK_IO_INLINE), *two = fake_open_lock(&h, "two", AFLOCK_IO_INLINE);
    aflock_acquire_options o = fake_options(AFLOCK_FOREVER);
    a.user = o.token = new_token();
    a.then = fire;
    ck_assert_int_eq(fake_acquire(one, NULL, &a, NULL), 0);
    ck_assert_int_eq(fake_acquire(two, &o, &b, NULL), 0);
    ck_assert(!fake_is_free(fake_path("two")));
    fake_turn(&h);
    ck_answered(a, 0);
    ck_answered(b, AFLOCK_ECANCELED);
    fake_settle(&h);
    ck_assert(fake_is_free(fake_path("two")));
    aflock_token_free(o.token);
    ck_assert_int_eq(fake_free(&h, 0), 0);
}
END_TEST

static aflock_token *handler_token;
static volatile sig_atomic_t errno_after;

static void handler(int signal_number)
{
    (void)signal_number;
    errno = EXDEV;
    aflock_token_fire(handler_token);
    errno_after = errno;
}

static void *fire_from_thread(void *token)
{
    aflock_token_fire(token);
    return NULL;
}

START_TEST(tokens_are_fired_from_threads_and_signal_handlers)
{
    fake_start(&h, 4, false, NULL);
    int foreign = fake_foreign(fake_path("f"));
    aflock *lock = fake_open_lock(&h, "f", AFLOCK_IO_INLINE);
    for (int by_signal = 0; by_signal < 2; by_signal++) {
        aflock_acquire_options o = fake_options(AFLOCK_FOREVER);
        a = (fake_answer){.count = 0};
        o.token = handler_token = new_token();
        ck_assert_int_eq(fake_acquire(lock, &o, &a, NULL), 0);
        unsigned wakes = atomic_load(&h.wakes);
        if (by_signal) {
            ck_assert(signal(SIGUSR1, handler) != SIG_ERR);
            ck_assert_int_eq(raise(SIGUSR1), 0);
            ck_assert_int_eq(errno_after, EXDEV);
        } else {
            pthread_t thread;
            ck_assert_int_eq(pthread_create(&thread, NULL, fire_from_thread, o.token), 0);
            fake_join(thread);
        }
        ck_assert_uint_eq(atomic_load(&h.wakes), wakes + 1);
        fake_settle(&h);
        ck_answered(a, AFLOCK_ECANCELED);
        aflock_token_free(o.token);
    }
    close(foreign);
    ck_assert_int_eq(fake_free(&h, 0), 0);
}
END_TEST

START_TEST(a_token_survives_its_context)
{
    fake_start(&h, 4, false, NULL);
    aflock *lock = fake_open_lock(&h, "f", AFLOCK_IO_POOL);
    aflock_acquire_options o = fake_options(AFLOCK_FOREVER);
    aflock_token *later = o.token = new_token(), *before = new_token();
    ck_assert_int_eq(fake_acquire(lock, &o, &a, NULL), 0);
    aflock_token_fire(before); /* not seen by any turn */
    ck_assert_int_eq(fake_free(&h, 0), 0);
    ck_answered(a, AFLOCK_ECLOSED);
    unsigned wakes = atomic_load(&h.wakes);
    aflock_token_fire(later);
    ck_assert_int_eq(aflock_token_fired(later), 1);
    ck_assert_uint_eq(atomic_load(&h.wakes), wakes);
    aflock_token_free(later);
    aflock_token_free(before);
}
END_TEST

START_TEST(requests_keep_a_token_alive)
{
    aflock_req req;
    fake_start(&h, 4, false, NULL);
    int foreign = fake_foreign(fake_path("f"));
    aflock *lock = fake_open_lock(&h, "f", AFLOCK_IO_INLINE);
    aflock_acquire_options o = fake_options(100 * MS);
    aflock_token *token = o.token = new_token();
    ck_assert_int_eq(fake_acquire(lock, &o, &a, &req), 0);
    ck_assert_int_eq(fake_acquire(lock, &o, &b, NULL), 0);
    aflock_token_free(token);
    ck_assert_int_eq(fake_cancel(lock, req), 0);
    fake_advance(&h, SEC);
    ck_answered(a, AFLOCK_ECANCELED);
    ck_answered(b, AFLOCK_ETIMEDOUT);
    close(foreign);
    ck_assert_int_eq(fake_free(&h, 0), 0);
}
END_TEST

/* ------------------------------------------------------------------------------------------------- real threads */

enum { ROUNDS = 150 };
static aflock_token *tokens[ROUNDS];
static atomic_int armed;

/* Fires each token as soon as it is there, at any moment of its request's life. */
static void *fire_all(void *unused)
{
    (void)unused;
    for (int i = 0; i < ROUNDS; i++) {
        while (atomic_load(&armed) <= i)
            ;
        if (i % 3)
            usleep((useconds_t)(i % 7) * 20);
        aflock_token_fire(tokens[i]);
    }
    return NULL;
}

START_TEST(tokens_race_with_grants)
{
    static fake_answer many[ROUNDS];
    aflock_ctx *ctx;
    aflock *lock;
    pthread_t thread;
    aflock_options options;
    aflock_options_init(&options);
    options.io = AFLOCK_IO_POOL;
    ck_assert_int_eq(aflock_epoll_new(&ctx, NULL), 0);
    ck_assert_int_eq(aflock_open(&lock, ctx, fake_path("f"), &options), 0);
    ck_assert_int_eq(pthread_create(&thread, NULL, fire_all, NULL), 0);
    for (int i = 0; i < ROUNDS; i++) {
        aflock_acquire_options o = fake_options(AFLOCK_FOREVER);
        ck_assert_int_eq(aflock_token_new(&tokens[i], ctx), 0);
        o.token = tokens[i];
        ck_assert_int_eq(fake_acquire(lock, &o, &many[i], NULL), 0);
        atomic_store(&armed, i + 1);
        while (many[i].count == 0)
            ck_assert_int_eq(aflock_epoll_run_once(ctx, SEC), 0);
        ck_assert_uint_eq(many[i].count, 1);
        ck_assert(many[i].result.status == 0 || many[i].result.status == AFLOCK_ECANCELED);
        if (many[i].result.status == 0)
            ck_assert_int_eq(fake_release(lock, many[i].result.req, NULL), 0);
    }
    fake_join(thread);
    ck_assert_int_eq(aflock_epoll_run(ctx), 0);
    for (int i = 0; i < ROUNDS; i++)
        aflock_token_free(tokens[i]);
    ck_assert_int_eq(aflock_ctx_free(ctx, 5 * SEC), 0);
    ck_assert(fake_is_free(fake_path("f"))); /* an attempt of a request that left does not keep the loop going */
}
END_TEST

/* The context goes while another thread fires. */
START_TEST(tokens_race_with_the_end_of_the_context)
{
    pthread_t thread;
    aflock_ctx *ctx;
    ck_assert_int_eq(aflock_epoll_new(&ctx, NULL), 0);
    for (int i = 0; i < ROUNDS; i++)
        ck_assert_int_eq(aflock_token_new(&tokens[i], ctx), 0);
    ck_assert_int_eq(pthread_create(&thread, NULL, fire_all, NULL), 0);
    atomic_store(&armed, ROUNDS);
    usleep(300);
    ck_assert_int_eq(aflock_ctx_free(ctx, 0), 0);
    fake_join(thread);
    for (int i = 0; i < ROUNDS; i++)
        aflock_token_free(tokens[i]);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {a_waiter_and_a_head,
                                  an_attempt_that_is_not_under_way_yet_or_is,
                                  the_wishes_of_a_request_leave_with_it,
                                  a_grant_that_is_not_delivered,
                                  a_release_under_way,
                                  a_refused_request_whose_roll_back_is_under_way,
                                  a_token_cancels_all_its_requests_and_spares_holds,
                                  a_token_of_another_context_is_refused,
                                  a_token_is_looked_at_right_before_delivery,
                                  tokens_are_fired_from_threads_and_signal_handlers,
                                  a_token_survives_its_context,
                                  requests_keep_a_token_alive,
                                  tokens_race_with_grants,
                                  tokens_race_with_the_end_of_the_context,
                                  NULL};
    return fake_main("runtime: cancel", tests);
}
