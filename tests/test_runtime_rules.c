/* The rules of the public functions that no promise names: the wrong thread, stale requests, closing, try, the dump,
 * what the host is told (keep-alive, the timer), a poll interval that changes. */
#include "support/fake_host.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

static fake_host h;
static fake_answer a, b, c;
static aflock *lock;
static aflock_req held;

/* --------------------------------------------------------------------------------------------- the wrong thread */

static void inspected(aflock *l, const aflock_holder *holder, void *user)
{
    (void)l, (void)holder, (void)user;
    ck_abort();
}

static int dumped(const aflock_dump_entry *entry, void *user)
{
    (void)entry, (void)user;
    ck_abort();
    return 1;
}

static void drained(aflock_ctx *ctx, void *user)
{
    (void)ctx, (void)user;
    ck_abort();
}

static void *from_another_thread(void *unused)
{
    aflock *other;
    aflock_req req;
    aflock_token *token;
    ck_assert_int_eq(aflock_open(&other, h.ctx, "f", NULL), AFLOCK_ETHREAD);
    ck_assert_int_eq(aflock_open_fd(&other, h.ctx, 0, NULL), AFLOCK_ETHREAD);
    ck_assert_int_eq(aflock_close(lock), AFLOCK_ETHREAD);
    ck_assert_int_eq(aflock_set_poll_interval(lock, SEC), AFLOCK_ETHREAD);
    ck_assert_int_eq(fake_acquire(lock, NULL, &b, &req), AFLOCK_ETHREAD);
    ck_assert_int_eq(aflock_try(lock, NULL, &req, NULL), AFLOCK_ETHREAD);
    ck_assert_int_eq(fake_cancel(lock, held), AFLOCK_ETHREAD);
    ck_assert_int_eq(fake_release(lock, held, &b), AFLOCK_ETHREAD);
    ck_assert_int_eq(aflock_release_all(lock, held, NULL, NULL), AFLOCK_ETHREAD);
    ck_assert_int_eq(aflock_fd(lock, held), AFLOCK_ETHREAD);
    ck_assert_int_eq(aflock_depth(lock, NULL), AFLOCK_ETHREAD);
    ck_assert_int_eq(aflock_verify(lock, held, fake_answered, &b), AFLOCK_ETHREAD);
    ck_assert_int_eq(aflock_inspect(lock, inspected, NULL), AFLOCK_ETHREAD);
    ck_assert_int_eq(aflock_token_new(&token, h.ctx), AFLOCK_ETHREAD);
    ck_assert_int_eq(aflock_dump(h.ctx, dumped, NULL), AFLOCK_ETHREAD);
    ck_assert_int_eq(aflock_ctx_drain(h.ctx, drained, NULL), AFLOCK_ETHREAD);
    ck_assert_int_eq(aflock_ctx_free(h.ctx, 0), AFLOCK_ETHREAD);
    ck_assert_int_eq(aflock_host_check(h.ctx), AFLOCK_ETHREAD);
    ck_assert_int_eq(aflock_ctx_abandon(h.ctx), AFLOCK_EINVAL);
    aflock_host_turn(h.ctx);
    aflock_host_timer(h.ctx);
    return unused;
}

START_TEST(another_thread_is_refused)
{
    pthread_t thread;
    fake_start(&h, 4, false, NULL);
    lock = fake_open_lock(&h, "f", AFLOCK_IO_INLINE);
    held = fake_hold(&h, lock, &a, NULL);
    ck_assert_int_eq(fake_acquire(lock, NULL, &c, NULL), 0);
    ck_assert_int_eq(pthread_create(&thread, NULL, from_another_thread, NULL), 0);
    fake_join(thread);
    ck_assert_int_ge(aflock_fd(lock, held), 0);
    ck_assert_uint_eq(b.count + c.count, 0);
    ck_assert_int_eq(fake_free(&h, 0), 0);
    ck_answered(c, AFLOCK_ECLOSED);
}
END_TEST

/* ------------------------------------------------------------------------------------------- requests and locks */

START_TEST(a_stale_request_is_refused_and_never_followed)
{
    aflock_req none = {0}, fresh, garbage = {UINT64_MAX};
    fake_start(&h, 4, false, NULL);
    lock = fake_open_lock(&h, "f", AFLOCK_IO_INLINE);
    held = fake_hold(&h, lock, &a, NULL);
    ck_assert_int_eq(fake_release(lock, held, NULL), 0);
    fresh = fake_hold(&h, lock, &b, NULL); /* in the memory of the old one */
    ck_assert_uint_ne(fresh.id, held.id);
    aflock_req refused[] = {held, none, garbage, {fresh.id + 1}};
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        ck_assert_int_eq(fake_release(lock, refused[i], &c), AFLOCK_ESTALE);
        ck_assert_int_eq(fake_cancel(lock, refused[i]), AFLOCK_ESTALE);
        ck_assert_int_eq(aflock_fd(lock, refused[i]), AFLOCK_ESTALE);
        ck_assert_int_eq(aflock_verify(lock, refused[i], fake_answered, &c), AFLOCK_ESTALE);
    }
    ck_assert_int_ge(aflock_fd(lock, fresh), 0);
    ck_assert_int_eq(fake_free(&h, 0), 0);
    ck_assert_uint_eq(c.count, 0);
}
END_TEST

START_TEST(what_is_not_held_is_not_released)
{
    aflock_req req;
    fake_start(&h, 4, false, NULL);
    lock = fake_open_lock(&h, "f", AFLOCK_IO_POOL);
    ck_assert_int_eq(fake_acquire(lock, NULL, &a, &req), 0);
    ck_assert_int_eq(fake_release(lock, req, &b), AFLOCK_ENOTHELD);
    ck_assert_int_eq(aflock_release_all(lock, req, fake_answered, &b), AFLOCK_ENOTHELD);
    ck_assert_int_eq(aflock_fd(lock, req), AFLOCK_ENOTHELD);
    ck_assert_int_eq(aflock_verify(lock, req, fake_answered, &b), AFLOCK_ENOTHELD);
    ck_assert_int_eq(aflock_depth(lock, NULL), 0);
    fake_work(&h);
    ck_answered(a, 0);
    ck_assert_uint_eq(b.count, 0);
    ck_assert_int_eq(fake_free(&h, 0), 1);
}
END_TEST

START_TEST(a_lock_in_use_cannot_be_closed)
{
    aflock_req req;
    fake_start(&h, 4, false, NULL);
    lock = fake_open_lock(&h, "f", AFLOCK_IO_POOL);
    ck_assert_int_eq(fake_acquire(lock, NULL, &a, &req), 0);
    ck_assert_int_eq(aflock_close(lock), AFLOCK_EBUSY); /* waits */
    fake_work(&h);
    ck_assert_int_eq(aflock_close(lock), AFLOCK_EBUSY); /* holds */
    ck_assert_int_eq(aflock_verify(lock, req, fake_answered, &b), 0);
    ck_assert_int_eq(fake_release(lock, req, &c), 0);
    ck_assert_int_eq(aflock_close(lock), AFLOCK_EBUSY); /* a question is out */
    fake_run(&h, 0);
    fake_settle(&h);
    ck_answered(b, 0);
    ck_assert_int_eq(aflock_close(lock), 0); /* only a release is under way: the memory follows */
    ck_assert_int_eq(fake_acquire(lock, NULL, &a, NULL), AFLOCK_ECLOSED);
    ck_assert_int_eq(aflock_close(lock), AFLOCK_ECLOSED);
    fake_work(&h);
    ck_answered(c, 0);
    ck_assert_ptr_null(h.ctx->places);
    ck_assert_int_eq(aflock_close(NULL), 0);
    ck_assert_int_eq(fake_free(&h, 0), 0);
}
END_TEST

START_TEST(a_release_that_fails_is_held_as_before)
{
    fake_start(&h, 4, false, NULL);
    lock = fake_open_lock(&h, "f", AFLOCK_IO_INLINE);
    held = fake_hold(&h, lock, &a, NULL);
    seam_fail(SEAM_UNLOCK, 0, 1, EIO);
    ck_assert_int_eq(fake_release(lock, held, &b), 0);
    fake_settle(&h);
    ck_answered(b, AFLOCK_ESYS);
    ck_assert_int_eq(b.result.sys_errno, EIO);
    ck_assert_str_eq(b.result.step, "unlock");
    ck_assert_uint_eq(b.result.req.id, held.id);
    ck_assert_int_eq(aflock_fd(lock, held), a.result.fd);
    ck_assert_int_eq(aflock_close(lock), AFLOCK_EBUSY);
    ck_assert_int_eq(fake_release(lock, held, &c), 0);
    fake_settle(&h);
    ck_answered(c, 0);
    ck_assert(fake_is_free(fake_path("f")));
    ck_assert_int_eq(aflock_close(lock), 0);
    ck_assert_int_eq(fake_free(&h, 0), 0);
}
END_TEST

static unsigned warnings;

static void logged(aflock_log_level level, const char *message, void *user)
{
    (void)user;
    ck_assert_ptr_nonnull(strstr(message, "unlock"));
    warnings += level >= AFLOCK_LOG_WARN;
}

START_TEST(a_release_that_fails_and_that_nobody_hears_of_is_logged_and_tried_again)
{
    aflock_ctx_options options;
    aflock_ctx_options_init(&options);
    options.log = logged;
    fake_start(&h, 4, false, &options);
    lock = fake_open_lock(&h, "f", AFLOCK_IO_INLINE);
    held = fake_hold(&h, lock, &a, NULL);
    seam_fail(SEAM_UNLOCK, 0, 1, EIO);
    ck_assert_int_eq(fake_release(lock, held, NULL), 0);
    ck_assert_uint_eq(warnings, 1);
    ck_assert(h.alive);
    ck_assert(!fake_is_free(fake_path("f")));
    fake_advance(&h, SEC);
    ck_assert(fake_is_free(fake_path("f")));
    ck_assert(!h.alive);
    ck_assert_int_eq(fake_free(&h, 0), 0);
}
END_TEST

/* --------------------------------------------------------------------------------------------------------- try */

START_TEST(try_is_answered_at_once)
{
    aflock_result result;
    aflock_req req, none;
    fake_start(&h, 4, false, NULL);
    lock = fake_open_lock(&h, "f", AFLOCK_IO_INLINE);
    ck_assert_int_eq(aflock_try(lock, NULL, &req, &result), 0);
    ck_assert_int_eq(aflock_fd(lock, req), result.fd);
    ck_assert_uint_eq(result.req.id, req.id);
    ck_assert_uint_eq(result.attempts, 1);
    ck_assert_uint_eq(h.defers, 0);
    ck_assert(!h.alive);
    ck_assert(!fake_is_free(fake_path("f")));
    ck_assert_int_eq(aflock_try(lock, NULL, &none, NULL), AFLOCK_EWOULDBLOCK); /* held by ourselves */
    ck_assert_uint_eq(none.id, 0);
    ck_assert_int_eq(aflock_try(lock, NULL, NULL, NULL), AFLOCK_EINVAL);
    ck_assert_int_eq(fake_acquire(lock, NULL, &a, NULL), 0);
    ck_assert_int_eq(fake_release(lock, req, NULL), 0);
    ck_assert_int_eq(aflock_try(lock, NULL, &none, NULL), AFLOCK_EWOULDBLOCK); /* it does not overtake */
    fake_settle(&h);
    ck_answered(a, 0);
    ck_assert_int_eq(fake_release(lock, a.result.req, NULL), 0);

    int foreign = fake_foreign(fake_path("f"));
    unsigned descriptors = fake_descriptors();
    ck_assert_int_eq(aflock_try(lock, NULL, &none, &result), AFLOCK_EWOULDBLOCK);
    ck_assert_int_eq(result.status, AFLOCK_EWOULDBLOCK);
    ck_assert_int_eq(result.fd, -1);
    ck_assert_uint_eq(fake_descriptors(), descriptors);
    close(foreign);
    ck_assert_int_eq(aflock_close(lock), 0);
    fake_settle(&h);
    ck_assert_int_eq(fake_free(&h, 0), 0);
}
END_TEST

START_TEST(try_behind_an_attempt_that_is_under_way)
{
    aflock_req req, waiting;
    fake_start(&h, 4, false, NULL);
    aflock *pool = fake_open_lock(&h, "f", AFLOCK_IO_POOL);
    ck_assert_int_eq(fake_acquire(pool, NULL, &a, &waiting), 0);
    ck_assert_int_eq(fake_cancel(pool, waiting), 0);
    fake_settle(&h);
    ck_assert_int_eq(aflock_close(pool), 0); /* its attempt is out, nobody waits */
    lock = fake_open_lock(&h, "f", AFLOCK_IO_INLINE);
    ck_assert_int_eq(aflock_try(lock, NULL, &req, NULL), AFLOCK_EWOULDBLOCK);
    fake_work(&h);
    ck_assert_int_eq(aflock_try(lock, NULL, &req, NULL), 0);
    ck_assert_int_eq(fake_free(&h, 0), 0);
}
END_TEST

/* --------------------------------------------------------------------------------------------------- the dump */

static struct {
    aflock_dump_entry entries[8];
    size_t count, stop_at;
} dump;

static int take(const aflock_dump_entry *entry, void *user)
{
    ck_assert_ptr_eq(user, &dump);
    ck_assert_uint_eq(entry->size, sizeof *entry);
    dump.entries[dump.count++] = *entry;
    return dump.count == dump.stop_at ? 42 : 0;
}

static int calls_in(const aflock_dump_entry *entry, void *user)
{
    (void)user;
    ck_assert_int_eq(aflock_release(lock, entry->req, NULL, NULL), AFLOCK_EBUSY);
    ck_assert_int_eq(aflock_cancel(lock, entry->req), AFLOCK_EBUSY);
    ck_assert_int_eq(aflock_close(lock), AFLOCK_EBUSY);
    ck_assert_int_eq(aflock_ctx_free(h.ctx, 0), AFLOCK_EBUSY);
    ck_assert_int_eq(aflock_dump(h.ctx, take, &dump), AFLOCK_EBUSY);
    return 0;
}

static int traces;

static void traced(aflock_trace_event event, const char *path, aflock_req req, int64_t value, void *user)
{
    (void)event, (void)path, (void)value, (void)user;
    traces++;
    ck_assert_int_eq(aflock_ctx_free(h.ctx, 0), AFLOCK_EBUSY);
    if (lock)
        ck_assert_int_eq(aflock_release(lock, req, NULL, NULL), AFLOCK_EBUSY);
}

static int acquired_calls_in(int fd, void *user)
{
    (void)fd, (void)user;
    ck_assert_int_eq(aflock_close(lock), AFLOCK_EBUSY);
    return 0;
}

/* They run in the middle of things. */
START_TEST(hooks_must_not_call_in)
{
    aflock_ctx_options options;
    aflock_ctx_options_init(&options);
    options.trace = traced;
    lock = NULL;
    fake_start(&h, 4, false, &options);
    lock = fake_open_lock(&h, "f", AFLOCK_IO_INLINE);
    aflock_acquire_options o = fake_options(AFLOCK_FOREVER);
    o.on_acquired = acquired_calls_in;
    held = fake_hold(&h, lock, &a, &o);
    ck_assert_int_eq(fake_acquire(lock, NULL, &b, NULL), 0);
    ck_assert_int_eq(aflock_dump(h.ctx, calls_in, NULL), 0);
    ck_assert_int_gt(traces, 2);
    ck_assert_int_eq(fake_release(lock, held, NULL), 0);
    fake_settle(&h);
    ck_answered(b, 0);
    ck_assert_int_eq(fake_free(&h, 0), 0);
}
END_TEST

/* Also where there was nothing to try. */
START_TEST(a_try_always_fills_its_result)
{
    aflock_req req;
    aflock_result result;
    fake_start(&h, 4, false, NULL);
    lock = fake_open_lock(&h, "f", AFLOCK_IO_POOL);
    memset(&result, 0x5a, sizeof result);
    ck_assert_int_eq(aflock_try(lock, NULL, &req, &result), AFLOCK_ENOTINLINE);
    ck_assert_int_eq(result.status, AFLOCK_ENOTINLINE);
    ck_assert_int_eq(result.fd, -1);
    ck_assert_str_eq(result.path, fake_path("f"));
    memset(&result, 0x5a, sizeof result);
    ck_assert_int_eq(aflock_try(NULL, NULL, &req, &result), AFLOCK_EINVAL);
    ck_assert_int_eq(result.status, AFLOCK_EINVAL);
    ck_assert_ptr_null(result.path);
    ck_assert_int_eq(fake_free(&h, 0), 0);
}
END_TEST

START_TEST(the_dump_shows_holders_and_waiters)
{
    aflock_req second, third;
    char owner;
    fake_start(&h, 4, false, NULL);
    lock = fake_open_lock(&h, "f", AFLOCK_IO_INLINE);
    aflock_acquire_options o = fake_options(SEC);
    o.owner = &owner;
    held = fake_hold(&h, lock, &a, &o);
    fake_advance(&h, 100 * MS);
    ck_assert_int_eq(fake_acquire(lock, NULL, &b, &second), 0);
    o = fake_options(300 * MS);
    o.mode = AFLOCK_SHARED;
    ck_assert_int_eq(fake_acquire(lock, &o, &c, &third), 0);
    fake_advance(&h, 100 * MS);
    ck_assert_int_eq(aflock_dump(h.ctx, take, &dump), 0);
    ck_assert_uint_eq(dump.count, 3);
    const aflock_dump_entry *e = dump.entries;
    ck_assert_uint_eq(e[0].req.id, held.id);
    ck_assert_int_eq(e[0].held, 1);
    ck_assert_ptr_eq(e[0].owner, &owner);
    ck_assert_str_eq(e[0].path, fake_path("f"));
    ck_assert_uint_eq(e[0].age, 200 * MS);
    ck_assert_uint_eq(e[0].remaining, AFLOCK_FOREVER);
    ck_assert_uint_eq(e[0].attempts, 1);
    ck_assert_uint_eq(e[1].req.id, second.id);
    ck_assert_int_eq(e[1].held, 0);
    ck_assert_uint_eq(e[1].position, 0);
    ck_assert_uint_eq(e[1].remaining, AFLOCK_FOREVER);
    ck_assert_uint_eq(e[2].req.id, third.id);
    ck_assert_uint_eq(e[2].position, 1);
    ck_assert_int_eq(e[2].mode, AFLOCK_SHARED);
    ck_assert_uint_eq(e[2].remaining, 200 * MS);

    dump.count = 0;
    dump.stop_at = 2;
    ck_assert_int_eq(aflock_dump(h.ctx, take, &dump), 42);
    ck_assert_uint_eq(dump.count, 2);
    ck_assert_int_eq(aflock_dump(h.ctx, NULL, NULL), AFLOCK_EINVAL);
    ck_assert_int_eq(aflock_dump(NULL, take, NULL), AFLOCK_EINVAL);
    ck_assert_int_eq(fake_free(&h, 0), 0);
}
END_TEST

/* -------------------------------------------------------------------------------------------- what the host hears */

START_TEST(what_keeps_the_loop_alive)
{
    fake_start(&h, 4, false, NULL);
    lock = fake_open_lock(&h, "f", AFLOCK_IO_POOL);
    ck_assert(!h.alive);
    ck_assert_int_eq(fake_acquire(lock, NULL, &a, &held), 0);
    ck_assert(h.alive); /* waits */
    while (h.job_count) {
        fake_run(&h, 0);
        ck_assert(h.alive);
        fake_turn(&h);
    }
    ck_answered(a, 0);
    ck_assert(!h.alive); /* a hold does not */
    ck_assert_uint_eq(h.alive_changes, 2);
    ck_assert_int_eq(fake_release(lock, held, NULL), 0);
    ck_assert(h.alive); /* is being released */
    fake_work(&h);
    ck_assert(!h.alive);
    aflock *here = fake_open_lock(&h, "g", AFLOCK_IO_INLINE);
    ck_assert_int_eq(fake_acquire(here, NULL, &b, NULL), 0);
    ck_assert(h.alive); /* won, and not delivered */
    fake_settle(&h);
    ck_assert(!h.alive);
    ck_assert_int_eq(aflock_verify(here, b.result.req, fake_answered, &c), 0);
    ck_assert(h.alive); /* a question */
    fake_work(&h);
    ck_assert(!h.alive);
    ck_assert_int_eq(fake_free(&h, 0), 0);
}
END_TEST

START_TEST(the_timer_is_set_to_what_comes_first)
{
    fake_start(&h, 4, false, NULL);
    int foreign = fake_foreign(fake_path("f"));
    lock = fake_open_lock(&h, "f", AFLOCK_IO_INLINE);
    uint64_t start = h.now;
    aflock_acquire_options o = fake_options(10 * SEC);
    ck_assert_int_eq(fake_acquire(lock, &o, &a, NULL), 0);
    ck_assert_uint_eq(h.timer, start + 50 * MS); /* the next attempt */
    o = fake_options(20 * MS);
    ck_assert_int_eq(fake_acquire(lock, &o, &b, NULL), 0);
    ck_assert_uint_eq(h.timer, start + 20 * MS);
    unsigned calls = h.timer_calls;
    o = fake_options(30 * MS);
    ck_assert_int_eq(fake_acquire(lock, &o, &c, NULL), 0);
    ck_assert_uint_eq(h.timer_calls, calls); /* not again for what comes later */
    fake_advance(&h, 20 * MS);
    ck_answered(b, AFLOCK_ETIMEDOUT);
    ck_assert_uint_eq(c.count, 0);
    ck_assert_uint_eq(h.timer, start + 30 * MS);
    fake_advance(&h, 10 * MS);
    ck_answered(c, AFLOCK_ETIMEDOUT);
    fake_advance(&h, 10 * SEC);
    ck_answered(a, AFLOCK_ETIMEDOUT);
    ck_assert_uint_eq(a.result.waited, 10 * SEC);
    ck_assert_uint_eq(h.timer, AFLOCK_FOREVER);
    close(foreign);
    ck_assert_int_eq(fake_free(&h, 0), 0);
}
END_TEST

START_TEST(a_new_poll_interval_re_arms_the_wait)
{
    fake_start(&h, 4, false, NULL);
    int foreign = fake_foreign(fake_path("f"));
    lock = fake_open_lock(&h, "f", AFLOCK_IO_INLINE);
    ck_assert_int_eq(aflock_set_poll_interval(lock, 999), AFLOCK_EINVAL);
    ck_assert_int_eq(aflock_set_poll_interval(lock, 3600 * SEC), 0);
    uint64_t start = h.now;
    ck_assert_int_eq(fake_acquire(lock, NULL, &a, NULL), 0);
    ck_assert_uint_eq(h.timer, start + 3600 * SEC);
    close(foreign);
    fake_advance(&h, 10 * MS);
    ck_assert_uint_eq(a.count, 0);
    ck_assert_int_eq(aflock_set_poll_interval(lock, 25 * MS), 0);
    ck_assert_uint_eq(h.timer, start + 25 * MS); /* counted from the last attempt */
    fake_advance(&h, 15 * MS - 1);
    ck_assert_uint_eq(a.count, 0);
    fake_advance(&h, 1);
    ck_answered(a, 0);
    ck_assert_uint_eq(a.result.attempts, 2);
    ck_assert_uint_eq(a.result.waited, 25 * MS);
    ck_assert_int_eq(fake_free(&h, 0), 0);
}
END_TEST

#define PART(member)                                                   \
    {                                                                  \
        offsetof(fake_host, member), sizeof((fake_host *)NULL)->member \
    }
static const struct {
    size_t offset, size;
} needed[] = {PART(loop.size),       PART(loop.name),      PART(loop.now),        PART(loop.timer),
              PART(loop.defer),      PART(loop.wake),      PART(loop.keep_alive), PART(loop.watch),
              PART(loop.unwatch),    PART(loop.close),     PART(executor.size),   PART(executor.width),
              PART(executor.submit), PART(executor.close), PART(notifier.size),   PART(notifier.add),
              PART(notifier.del),    PART(notifier.close)};

START_TEST(an_incomplete_host_is_refused)
{
    aflock_ctx *ctx;
    aflock_ctx_options options;
    fake_start(&h, 4, true, NULL);
    ck_assert_int_eq(aflock_ctx_new(NULL, &h.host, NULL), AFLOCK_EINVAL);
    ck_assert_int_eq(aflock_ctx_new(&ctx, NULL, NULL), AFLOCK_EINVAL);
    fake_host broken = h;
    broken.host = (aflock_host){sizeof broken.host, &broken.loop, &broken.executor, &broken.notifier};
    for (size_t i = 0; i < sizeof needed / sizeof needed[0]; i++) { /* 0 is no size, no width, no pointer */
        broken.loop = h.loop;
        broken.executor = h.executor;
        broken.notifier = h.notifier;
        memset((char *)&broken + needed[i].offset, 0, needed[i].size);
        ck_assert_int_eq(aflock_ctx_new(&ctx, &broken.host, NULL), AFLOCK_EINVAL);
    }
    aflock_ctx_options_init(&options);
    options.size = 0;
    ck_assert_int_eq(aflock_ctx_new(&ctx, &h.host, &options), AFLOCK_EINVAL);
    aflock_ctx_options_init(&options);
    options.handoff_grants = 0;
    ck_assert_int_eq(aflock_ctx_new(&ctx, &h.host, &options), AFLOCK_EINVAL);
    ck_assert_ptr_null(ctx);
    ck_assert_int_eq(broken.closed, 0);
    ck_assert_int_eq(fake_free(&h, 0), 0);
}
END_TEST

START_TEST(every_error_has_a_name_and_a_message)
{
    static const struct {
        int number;
        const char *name, *message;
    } errors[] = {
#define ROW(name, number, message) {AFLOCK_##name, "AFLOCK_" #name, message},
        AFLOCK_ERRORS(ROW)
#undef ROW
    };
    for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++) {
        ck_assert_str_eq(aflock_error_name(errors[i].number), errors[i].name);
        ck_assert_str_eq(aflock_strerror(errors[i].number), errors[i].message);
    }
    ck_assert_str_eq(aflock_error_name(0), "OK");
    ck_assert_str_eq(aflock_strerror(42), "success");
    ck_assert_str_eq(aflock_error_name(-1), "unknown");
    ck_assert_str_eq(aflock_strerror(-1), "unknown error");
    ck_assert_str_eq(aflock_version(), AFLOCK_VERSION);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {another_thread_is_refused,
                                  a_stale_request_is_refused_and_never_followed,
                                  what_is_not_held_is_not_released,
                                  a_lock_in_use_cannot_be_closed,
                                  a_release_that_fails_is_held_as_before,
                                  a_release_that_fails_and_that_nobody_hears_of_is_logged_and_tried_again,
                                  hooks_must_not_call_in,
                                  a_try_always_fills_its_result,
                                  try_is_answered_at_once,
                                  try_behind_an_attempt_that_is_under_way,
                                  the_dump_shows_holders_and_waiters,
                                  what_keeps_the_loop_alive,
                                  the_timer_is_set_to_what_comes_first,
                                  a_new_poll_interval_re_arms_the_wait,
                                  an_incomplete_host_is_refused,
                                  every_error_has_a_name_and_a_message,
                                  NULL};
    return fake_main("runtime: rules", tests);
}
