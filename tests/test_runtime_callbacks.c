/* Promise 1: a request that was accepted is answered exactly once, on a fresh stack, at most 64 in a turn; and a
 * callback may do anything but free the context. That no callback runs inside a call is checked by fake_answered. */
#include "support/fake_host.h"

#include <string.h>
#include <unistd.h>

static fake_host h;
static fake_answer a, b, c;

START_TEST(an_answer_waits_for_the_turn)
{
    fake_start(&h, 4, false, NULL);
    fake_touch(fake_path("f"));
    aflock *lock = fake_open_lock(&h, "f", AFLOCK_IO_INLINE);
    aflock_req req;
    ck_assert_int_eq(fake_acquire(lock, NULL, &a, &req), 0);
    ck_assert(!fake_is_free(fake_path("f"))); /* decided, but not delivered */
    ck_assert_uint_eq(a.count, 0);
    ck_assert_uint_eq(h.defers, 1);
    fake_settle(&h);
    ck_answered(a, 0);
    ck_assert_int_eq(aflock_fd(lock, req), a.result.fd);

    ck_assert_int_eq(fake_release(lock, req, &b), 0);
    ck_assert_uint_eq(b.count, 0);
    ck_assert(fake_is_free(fake_path("f")));
    fake_settle(&h);
    ck_answered(b, 0);
    fake_advance(&h, 10 * SEC);
    ck_assert_uint_eq(a.count + b.count, 2);
    ck_assert_int_eq(fake_free(&h, 0), 0);
    ck_assert_uint_eq(a.count + b.count, 2);
}
END_TEST

START_TEST(a_refused_request_is_never_answered)
{
    fake_start(&h, 4, false, NULL);
    aflock *lock = fake_open_lock(&h, "f", AFLOCK_IO_INLINE);
    aflock_acquire_options o = fake_options(0);
    aflock_req req = fake_hold(&h, lock, &a, NULL), none;
    ck_assert_int_eq(fake_acquire(lock, &o, &b, &none), AFLOCK_EWOULDBLOCK);
    ck_assert_uint_eq(none.id, 0);
    o = fake_options(SEC);
    o.size = 1;
    ck_assert_int_eq(fake_acquire(lock, &o, &b, NULL), AFLOCK_EINVAL);
    o = fake_options(SEC);
    o.flags = 1u << 31;
    ck_assert_int_eq(fake_acquire(lock, &o, &b, NULL), AFLOCK_EINVAL);
    o = fake_options(SEC);
    o.mode = (aflock_mode)7;
    ck_assert_int_eq(fake_acquire(lock, &o, &b, NULL), AFLOCK_EINVAL);
    ck_assert_int_eq(aflock_acquire(lock, NULL, NULL, NULL, NULL), AFLOCK_EINVAL);
    ck_assert_int_eq(fake_acquire(NULL, NULL, &b, NULL), AFLOCK_EINVAL);
    ck_assert_int_eq(fake_release(lock, none, &b), AFLOCK_ESTALE);
    ck_assert_int_eq(aflock_ctx_drain(h.ctx, (aflock_drained)NULL, NULL), AFLOCK_EINVAL);
    fake_advance(&h, 10 * SEC);
    ck_assert_int_eq(fake_release(lock, req, NULL), 0);
    ck_assert_int_eq(fake_free(&h, 0), 0);
    ck_assert_uint_eq(b.count, 0);
}
END_TEST

static int questions[3], asked;

static void note_question(aflock *lock, const aflock_holder *holder, void *user)
{
    (void)lock;
    ck_assert_int_eq(holder->status, 0);
    questions[asked++] = *(int *)user;
}

START_TEST(questions_are_answered_in_order)
{
    int names[] = {1, 2, 3};
    fake_start(&h, 4, false, NULL);
    aflock *lock = fake_open_lock(&h, "f", AFLOCK_IO_INLINE);
    asked = 0;
    for (int i = 0; i < 3; i++)
        ck_assert_int_eq(aflock_inspect(lock, note_question, &names[i]), 0);
    ck_assert_int_eq(asked, 0);
    fake_settle(&h);
    ck_assert_int_eq(asked, 3);
    ck_assert_mem_eq(questions, names, sizeof names);
    ck_assert_int_eq(fake_free(&h, 0), 0);
}
END_TEST

START_TEST(at_most_64_callbacks_in_a_turn)
{
    enum { COUNT = 150 };
    static fake_answer many[COUNT];
    fake_start(&h, 4, false, NULL);
    aflock *lock = fake_open_lock(&h, "f", AFLOCK_IO_INLINE);
    aflock_acquire_options o = fake_options(AFLOCK_FOREVER);
    o.mode = AFLOCK_SHARED;
    for (int i = 0; i < COUNT; i++)
        ck_assert_int_eq(fake_acquire(lock, &o, &many[i], NULL), 0);
    unsigned expected[] = {64, 128, COUNT};
    for (int turn = 0; turn < 3; turn++) {
        ck_assert(h.turn_due); /* the library asks for each turn that it needs */
        fake_turn(&h);
        for (unsigned i = 0; i < COUNT; i++)
            ck_assert_uint_eq(many[i].count, i < expected[turn]);
    }
    ck_assert(!h.turn_due);
    for (unsigned i = 0; i < COUNT; i++)
        ck_assert_uint_eq(many[i].order, i + 1);
    ck_assert_int_eq(fake_free(&h, 0), 0);
}
END_TEST

static unsigned rounds;

static void again(fake_answer *answer, aflock *lock)
{
    ck_assert_int_eq(fake_release(lock, answer->result.req, NULL), 0);
    if (++rounds < 1000)
        ck_assert_int_eq(fake_acquire(lock, NULL, answer, NULL), 0);
}

/* Answers that callbacks bring about count, so that a chain of them cannot keep the loop from its own work. */
START_TEST(a_chain_of_callbacks_lets_the_loop_go_on)
{
    fake_start(&h, 4, false, NULL);
    aflock *lock = fake_open_lock(&h, "f", AFLOCK_IO_INLINE);
    a.then = again;
    ck_assert_int_eq(fake_acquire(lock, NULL, &a, NULL), 0);
    for (int i = 0; i < 2000 && rounds < 1000; i++)
        fake_advance(&h, MS); /* the run of hand-offs ends now and then with a pause */
    ck_assert_uint_eq(rounds, 1000);
    ck_assert_uint_eq(a.count, 1000);
    ck_assert_uint_le(h.most_in_turn, 64);
    ck_assert_uint_ge(h.most_in_turn, 1);
    ck_assert_int_eq(fake_free(&h, 0), 0);
}
END_TEST

/* ------------------------------------------------------------------------------------- what a callback may do */

static void release_and_close(fake_answer *answer, aflock *lock)
{
    ck_assert_int_eq(fake_release(lock, answer->result.req, NULL), 0);
    ck_assert_int_eq(aflock_close(lock), 0);
    ck_assert_ptr_nonnull(h.ctx->places); /* lives until the callback returns: fake_answered looks at the path */
}

START_TEST(a_callback_releases_and_closes_its_own_lock)
{
    fake_start(&h, 4, false, NULL);
    aflock *lock = fake_open_lock(&h, "f", AFLOCK_IO_INLINE);
    a.then = release_and_close;
    ck_assert_int_eq(fake_acquire(lock, NULL, &a, NULL), 0);
    fake_settle(&h);
    ck_answered(a, 0);
    ck_assert(fake_is_free(fake_path("f")));
    ck_assert_ptr_null(h.ctx->places); /* nothing of it is left */
    ck_assert_int_eq(fake_free(&h, 0), 0);
}
END_TEST

static void close_it(fake_answer *answer, aflock *lock)
{
    (void)answer;
    ck_assert_int_eq(aflock_close(lock), 0);
}

START_TEST(a_callback_closes_its_lock_when_refused_or_released)
{
    fake_start(&h, 4, false, NULL);
    int foreign = fake_foreign(fake_path("f"));
    aflock *lock = fake_open_lock(&h, "f", AFLOCK_IO_INLINE);
    aflock_acquire_options o = fake_options(0);
    a.then = close_it;
    ck_assert_int_eq(fake_acquire(lock, &o, &a, NULL), 0);
    fake_settle(&h);
    ck_answered(a, AFLOCK_EWOULDBLOCK);
    close(foreign);

    lock = fake_open_lock(&h, "f", AFLOCK_IO_INLINE);
    aflock_req req = fake_hold(&h, lock, &b, NULL);
    c.then = close_it;
    ck_assert_int_eq(fake_release(lock, req, &c), 0);
    fake_settle(&h);
    ck_answered(c, 0);
    ck_assert_ptr_null(h.ctx->places);
    ck_assert_int_eq(fake_free(&h, 0), 0);
}
END_TEST

static aflock *other_lock;
static aflock_req other_req;
static fake_answer other;

static void do_everything(fake_answer *answer, aflock *lock)
{
    aflock *fresh;
    aflock_req req;
    ck_assert_int_eq(fake_cancel(other_lock, other_req), 0);
    ck_assert_int_eq(aflock_close(other_lock), AFLOCK_EBUSY); /* not delivered yet */
    ck_assert_int_eq(aflock_open(&fresh, h.ctx, fake_path("fresh"), NULL), 0);
    ck_assert_int_eq(fake_acquire(fresh, NULL, answer->user, &req), 0);
    ck_assert_int_eq(fake_cancel(fresh, req), 0);
    ck_assert_int_eq(fake_acquire(lock, NULL, &c, NULL), 0);
    ck_assert_int_eq(fake_release(lock, answer->result.req, NULL), 0);
    ck_assert_int_eq(aflock_ctx_free(h.ctx, 0), AFLOCK_EBUSY);
    ck_assert_int_eq(aflock_host_check(h.ctx), AFLOCK_EBUSY);
    aflock_host_turn(h.ctx); /* a turn inside of a turn does nothing */
}

START_TEST(a_callback_acquires_releases_cancels_and_closes)
{
    fake_start(&h, 4, false, NULL);
    aflock *lock = fake_open_lock(&h, "f", AFLOCK_IO_INLINE);
    other_lock = fake_open_lock(&h, "other", AFLOCK_IO_INLINE);
    a.then = do_everything;
    a.user = &b;
    ck_assert_int_eq(fake_acquire(lock, NULL, &a, NULL), 0);
    ck_assert_int_eq(fake_acquire(other_lock, NULL, &other, &other_req), 0); /* won, and not delivered */
    fake_work(&h);
    ck_answered(a, 0);
    ck_answered(b, AFLOCK_ECANCELED);
    ck_answered(c, 0);
    ck_answered(other, AFLOCK_ECANCELED);
    ck_assert(fake_is_free(fake_path("other")));
    ck_assert_int_eq(aflock_host_check(h.ctx), 0);
    ck_assert_int_eq(fake_free(&h, 0), 0);
    ck_assert(fake_is_free(fake_path("f")));
}
END_TEST

static unsigned drains;

static void drained(aflock_ctx *ctx, void *user)
{
    ck_assert_ptr_eq(user, &drains);
    ck_assert_int_eq(aflock_ctx_free(ctx, 0), AFLOCK_EBUSY);
    ck_assert(h.turning);
    drains++;
}

static void verified(fake_answer *answer, aflock *lock)
{
    (void)answer;
    ck_assert_int_eq(aflock_ctx_free(aflock_context(lock), 0), AFLOCK_EBUSY);
}

START_TEST(freeing_is_refused_in_every_kind_of_callback)
{
    fake_start(&h, 4, false, NULL);
    aflock *lock = fake_open_lock(&h, "f", AFLOCK_IO_INLINE);
    aflock_req req = fake_hold(&h, lock, &a, NULL);
    b.then = verified;
    ck_assert_int_eq(aflock_verify(lock, req, fake_answered, &b), 0);
    fake_settle(&h);
    ck_answered(b, 0);
    ck_assert_int_eq(aflock_ctx_drain(h.ctx, drained, &drains), 0);
    fake_settle(&h);
    ck_assert_uint_eq(drains, 0);
    ck_assert_int_eq(fake_release(lock, req, NULL), 0);
    fake_settle(&h);
    ck_assert_uint_eq(drains, 1);
    ck_assert_int_eq(fake_free(&h, 0), 0);
    ck_assert_uint_eq(drains, 1);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {an_answer_waits_for_the_turn,
                                  a_refused_request_is_never_answered,
                                  questions_are_answered_in_order,
                                  at_most_64_callbacks_in_a_turn,
                                  a_chain_of_callbacks_lets_the_loop_go_on,
                                  a_callback_releases_and_closes_its_own_lock,
                                  a_callback_closes_its_lock_when_refused_or_released,
                                  a_callback_acquires_releases_cancels_and_closes,
                                  freeing_is_refused_in_every_kind_of_callback,
                                  NULL};
    return fake_main("runtime: callbacks", tests);
}
