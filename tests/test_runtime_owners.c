/* Promises 7 and 8 seen from outside: owners and their depth, deadlock refused, contexts that exclude each other; first
 * come first served, bounded hand-offs, back-pressure. Virtual time; the real file system. */
#include "support/fake_host.h"

#include <unistd.h>

static fake_host h, other;
static fake_answer a, b, c, d;
static char me, you;

static aflock_acquire_options owned(void *owner, aflock_mode mode)
{
    aflock_acquire_options o = fake_options(AFLOCK_FOREVER);
    o.owner = owner;
    o.mode = mode;
    return o;
}

/* ------------------------------------------------------------------------------------------------------- owners */

START_TEST(requests_exclude_each_other_without_an_owner)
{
    fake_start(&h, 4, false, NULL);
    aflock *lock = fake_open_lock(&h, "f", AFLOCK_IO_INLINE);
    aflock_req held = fake_hold(&h, lock, &a, NULL);
    ck_assert_int_eq(fake_acquire(lock, NULL, &b, NULL), 0);
    fake_advance(&h, 10 * SEC);
    ck_assert_uint_eq(b.count, 0);
    ck_assert_int_eq(aflock_depth(lock, NULL), 1);
    ck_assert_int_eq(fake_release(lock, held, NULL), 0);
    fake_advance(&h, MS); /* the file was held for long: there is a pause before the next one gets it */
    ck_answered(b, 0);
    ck_assert_int_eq(fake_free(&h, 0), 0);
}
END_TEST

START_TEST(an_owner_re_enters_and_is_counted)
{
    fake_start(&h, 4, false, NULL);
    aflock *lock = fake_open_lock(&h, "f", AFLOCK_IO_INLINE), *same = fake_open_lock(&h, "f", AFLOCK_IO_INLINE);
    aflock_acquire_options mine = owned(&me, AFLOCK_EXCLUSIVE), yours = owned(&you, AFLOCK_EXCLUSIVE);
    aflock_req one = fake_hold(&h, lock, &a, &mine), two, three;
    ck_assert_int_eq(fake_acquire(lock, &yours, &d, NULL), 0); /* waits, and does not stand in the owner's way */
    seam_forget();
    two = fake_hold(&h, lock, &b, &mine);
    three = fake_hold(&h, same, &c, &mine);
    ck_assert_int_eq(seam_total_on_loop() + seam_total_elsewhere(), 0);
    ck_assert_uint_eq(c.result.attempts, 0);
    ck_assert_ptr_eq(c.result.owner, &me);
    ck_assert_int_eq(aflock_depth(lock, &me), 3);
    ck_assert_int_eq(aflock_depth(same, &me), 3);
    ck_assert_int_eq(aflock_depth(lock, &you), 0);
    ck_assert_int_eq(fake_release(lock, three, NULL), AFLOCK_ESTALE); /* of another lock object */
    ck_assert_int_eq(fake_release(lock, one, NULL), 0);
    ck_assert_int_eq(fake_release(lock, two, NULL), 0);
    fake_settle(&h);
    ck_assert_int_eq(aflock_depth(lock, NULL), 1);
    ck_assert_uint_eq(d.count, 0);
    ck_assert_int_eq(fake_release(same, three, NULL), 0);
    fake_settle(&h);
    ck_answered(d, 0);
    ck_assert_int_eq(fake_free(&h, 0), 0);
}
END_TEST

START_TEST(the_other_mode_is_a_deadlock)
{
    aflock_req req;
    fake_start(&h, 4, false, NULL);
    aflock *lock = fake_open_lock(&h, "f", AFLOCK_IO_INLINE);
    aflock_acquire_options write = owned(&me, AFLOCK_EXCLUSIVE), read = owned(&me, AFLOCK_SHARED);
    aflock_req held = fake_hold(&h, lock, &a, &read);
    ck_assert_int_eq(fake_acquire(lock, &write, &b, &req), AFLOCK_EDEADLK);
    ck_assert_uint_eq(req.id, 0);
    ck_assert_int_eq(fake_release(lock, held, NULL), 0);
    fake_hold(&h, lock, &a, &write);
    ck_assert_int_eq(fake_acquire(lock, &read, &b, NULL), AFLOCK_EDEADLK);
    ck_assert_int_eq(aflock_try(lock, &read, &req, NULL), AFLOCK_EDEADLK);
    fake_advance(&h, SEC);
    ck_assert_uint_eq(b.count, 0);
    ck_assert_int_eq(fake_free(&h, 0), 0);
}
END_TEST

START_TEST(release_all_ends_every_hold_of_the_owner)
{
    fake_start(&h, 4, false, NULL);
    aflock *lock = fake_open_lock(&h, "f", AFLOCK_IO_INLINE), *same = fake_open_lock(&h, "f", AFLOCK_IO_INLINE);
    aflock_acquire_options mine = owned(&me, AFLOCK_SHARED), yours = owned(&you, AFLOCK_SHARED);
    aflock_req one = fake_hold(&h, lock, &a, &mine), two = fake_hold(&h, same, &b, &mine);
    aflock_req foreign = fake_hold(&h, lock, &c, &yours);
    ck_assert_int_eq(aflock_release_all(lock, one, fake_answered, &d), 0);
    ck_assert_int_eq(aflock_depth(lock, &me), 0); /* at once */
    ck_assert_int_eq(aflock_depth(lock, &you), 1);
    fake_settle(&h);
    ck_answered(d, 0);
    ck_assert_int_eq(fake_release(same, two, NULL), AFLOCK_ESTALE);
    ck_assert_int_eq(aflock_close(same), 0);
    ck_assert(!fake_is_free(fake_path("f")));
    ck_assert_int_eq(aflock_release_all(lock, foreign, NULL, NULL), 0);
    ck_assert(fake_is_free(fake_path("f")));
    ck_assert_int_eq(fake_free(&h, 0), 0);
}
END_TEST

START_TEST(a_cycle_of_owners_is_refused_when_it_would_close)
{
    fake_start(&h, 4, false, NULL);
    aflock *one = fake_open_lock(&h, "one", AFLOCK_IO_INLINE), *two = fake_open_lock(&h, "two", AFLOCK_IO_INLINE);
    aflock_acquire_options mine = owned(&me, AFLOCK_EXCLUSIVE), yours = owned(&you, AFLOCK_EXCLUSIVE);
    aflock_req first = fake_hold(&h, one, &a, &mine);
    fake_hold(&h, two, &b, &yours);
    ck_assert_int_eq(fake_acquire(one, &yours, &c, NULL), 0);
    ck_assert_int_eq(fake_acquire(two, &mine, &d, NULL), AFLOCK_EDEADLK);
    ck_assert_int_eq(fake_release(one, first, NULL), 0);
    fake_settle(&h);
    ck_answered(c, 0);
    ck_assert_int_eq(fake_acquire(two, &mine, &d, NULL), 0); /* no cycle any more */
    ck_assert_int_eq(fake_free(&h, 0), 0);
    ck_answered(d, AFLOCK_ECLOSED);
}
END_TEST

/* Two contexts know nothing of each other: the kernel keeps them apart. */
START_TEST(two_contexts_of_one_process_exclude_each_other)
{
    fake_start(&h, 4, false, NULL);
    fake_start(&other, 4, false, NULL);
    aflock *here = fake_open_lock(&h, "f", AFLOCK_IO_INLINE), *there = fake_open_lock(&other, "f", AFLOCK_IO_INLINE);
    aflock_acquire_options mine = owned(&me, AFLOCK_EXCLUSIVE);
    aflock_req held = fake_hold(&h, here, &a, &mine);
    ck_assert_int_eq(fake_acquire(there, &mine, &b, NULL), 0);
    fake_advance(&other, SEC);
    ck_assert_uint_eq(b.count, 0);
    ck_assert_int_eq(fake_release(here, held, NULL), 0);
    fake_advance(&other, 50 * MS);
    ck_answered(b, 0);
    ck_assert_uint_gt(b.result.attempts, 1);
    ck_assert_int_eq(fake_free(&h, 0), 0);
    ck_assert_int_eq(fake_free(&other, 0), 0);
}
END_TEST

/* ------------------------------------------------------------------------------------------------------ fairness */

#define HOLD_TIME (40 * US)

enum { MANY = 40 };
static fake_answer many[MANY];
static unsigned granted;

static void pass_on(fake_answer *answer, aflock *lock)
{
    if (answer->result.status != 0)
        return;
    granted++;
    h.now += HOLD_TIME;
    ck_assert_int_eq(aflock_depth(lock, NULL), 1);
    ck_assert_int_eq(fake_release(lock, answer->result.req, NULL), 0);
}

static void ask_many(aflock *locks[2])
{
    for (int i = 0; i < MANY; i++) {
        many[i].then = pass_on;
        ck_assert_int_eq(fake_acquire(locks[i % 2], NULL, &many[i], NULL), 0);
    }
}

START_TEST(first_come_first_served_over_all_locks_of_a_path)
{
    fake_start(&h, 4, false, NULL);
    aflock *locks[2] = {fake_open_lock(&h, "f", AFLOCK_IO_INLINE), fake_open_lock(&h, "f", AFLOCK_IO_INLINE)};
    ask_many(locks);
    fake_advance(&h, SEC);
    for (unsigned i = 0; i < MANY; i++) {
        ck_answered(many[i], 0);
        ck_assert_uint_eq(many[i].order, i + 1);
    }
    ck_assert_int_eq(fake_free(&h, 0), 0);
}
END_TEST

/* A hold that is handed on costs no system call. After 16, which took longer than two pauses, the file is really given
 * up, and not tried for 250 us. */
START_TEST(a_run_of_hand_offs_makes_no_system_call_and_ends)
{
    fake_start(&h, 4, false, NULL);
    aflock *lock = fake_open_lock(&h, "f", AFLOCK_IO_INLINE), *locks[2] = {lock, lock};
    ask_many(locks);
    seam_forget();
    fake_settle(&h);
    ck_assert_uint_eq(granted, 16);
    ck_assert_int_eq(seam_count(SEAM_UNLOCK), 1);
    ck_assert_int_eq(seam_count(SEAM_CLOSE), 1);
    ck_assert_int_eq(seam_total_on_loop(), 2);
    ck_assert_uint_eq(many[1].result.attempts, 0);
    ck_assert(fake_is_free(fake_path("f")));
    fake_advance(&h, 250 * US - 1);
    ck_assert_uint_eq(granted, 16);
    fake_advance(&h, 1);
    ck_assert_uint_gt(granted, 16);
    ck_assert_int_eq(seam_count(SEAM_LOCK), 1);
    fake_advance(&h, SEC);
    ck_assert_uint_eq(granted, MANY);
    ck_assert_int_eq(fake_free(&h, 0), 0);
}
END_TEST

START_TEST(somebody_foreign_gets_the_file_during_the_pause)
{
    fake_start(&h, 4, false, NULL);
    aflock *lock = fake_open_lock(&h, "f", AFLOCK_IO_INLINE), *locks[2] = {lock, lock};
    ask_many(locks);
    fake_settle(&h);
    int foreign = fake_foreign(fake_path("f"));
    ck_assert_int_ge(foreign, 0);
    fake_advance(&h, SEC);
    ck_assert_uint_eq(granted, 16);
    close(foreign);
    fake_advance(&h, 50 * MS);
    ck_assert_uint_gt(granted, 16);
    ck_assert_int_eq(fake_free(&h, 0), 0);
}
END_TEST

START_TEST(a_waiting_writer_stops_later_readers)
{
    fake_start(&h, 4, false, NULL);
    aflock *lock = fake_open_lock(&h, "f", AFLOCK_IO_INLINE);
    aflock_acquire_options read = owned(NULL, AFLOCK_SHARED);
    aflock_req held = fake_hold(&h, lock, &a, &read), second = fake_hold(&h, lock, &b, &read);
    ck_assert_uint_eq(b.result.attempts, 0); /* shares the hold */
    ck_assert_int_eq(b.result.fd, a.result.fd);
    ck_assert_int_eq(fake_acquire(lock, NULL, &c, NULL), 0);
    ck_assert_int_eq(fake_acquire(lock, &read, &d, NULL), 0);
    fake_advance(&h, SEC);
    ck_assert_uint_eq(c.count + d.count, 0);
    ck_assert_int_eq(fake_release(lock, held, NULL), 0);
    ck_assert_int_eq(fake_release(lock, second, NULL), 0);
    fake_advance(&h, SEC);
    ck_answered(c, 0);
    ck_assert_uint_eq(d.count, 0);
    ck_assert_int_eq(fake_release(lock, c.result.req, NULL), 0);
    fake_advance(&h, SEC);
    ck_answered(d, 0);
    ck_assert_int_eq(fake_free(&h, 0), 0);
}
END_TEST

/* -------------------------------------------------------------------------------------------------- back-pressure */

START_TEST(a_full_context_and_a_full_path)
{
    aflock_ctx_options options;
    aflock_options lock_options;
    aflock *one, *two;
    aflock_ctx_options_init(&options);
    options.max_waiters = 3;
    fake_start(&h, 4, false, &options);
    aflock_options_init(&lock_options);
    lock_options.io = AFLOCK_IO_INLINE;
    lock_options.max_waiters = 2;
    ck_assert_int_eq(aflock_open(&one, h.ctx, fake_path("one"), &lock_options), 0);
    lock_options.max_waiters = 0;
    ck_assert_int_eq(aflock_open(&two, h.ctx, fake_path("two"), &lock_options), 0);
    aflock_req held = fake_hold(&h, one, &a, NULL), last;
    fake_hold(&h, two, &a, NULL);
    ck_assert_int_eq(fake_acquire(one, NULL, &b, NULL), 0);
    ck_assert_int_eq(fake_acquire(one, NULL, &c, &last), 0);
    ck_assert_int_eq(fake_acquire(one, NULL, &d, NULL), AFLOCK_EFULL); /* the path is full */
    ck_assert_int_eq(fake_acquire(two, NULL, &many[0], NULL), 0);
    ck_assert_int_eq(fake_acquire(two, NULL, &d, NULL), AFLOCK_EFULL); /* the context is */
    ck_assert_int_eq(fake_cancel(one, last), 0);
    ck_assert_int_eq(fake_acquire(two, NULL, &many[1], NULL), 0);
    ck_assert_int_eq(fake_release(one, held, NULL), 0);
    fake_settle(&h);
    ck_answered(b, 0);
    ck_assert_int_eq(fake_acquire(one, NULL, &many[2], NULL), 0);
    ck_assert_int_eq(fake_free(&h, 0), 0);
    ck_assert_uint_eq(d.count, 0);
}
END_TEST

/* It is granted without waiting. */
START_TEST(a_full_queue_lets_its_owner_in_again)
{
    aflock_options options;
    aflock_acquire_options again = fake_options(AFLOCK_FOREVER);
    aflock *lock;
    again.owner = &options;
    fake_start(&h, 4, false, NULL);
    aflock_options_init(&options);
    options.io = AFLOCK_IO_INLINE;
    options.max_waiters = 1;
    ck_assert_int_eq(aflock_open(&lock, h.ctx, fake_path("one"), &options), 0);
    fake_hold(&h, lock, &a, &again);
    ck_assert_int_eq(fake_acquire(lock, NULL, &b, NULL), 0);
    ck_assert_int_eq(fake_acquire(lock, NULL, &c, NULL), AFLOCK_EFULL);
    ck_assert_int_eq(fake_acquire(lock, &again, &d, NULL), 0);
    fake_settle(&h);
    ck_answered(d, 0);
    ck_assert_int_eq(fake_free(&h, 0), 0);
    ck_assert_uint_eq(c.count, 0);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {requests_exclude_each_other_without_an_owner,
                                  an_owner_re_enters_and_is_counted,
                                  the_other_mode_is_a_deadlock,
                                  release_all_ends_every_hold_of_the_owner,
                                  a_cycle_of_owners_is_refused_when_it_would_close,
                                  two_contexts_of_one_process_exclude_each_other,
                                  first_come_first_served_over_all_locks_of_a_path,
                                  a_run_of_hand_offs_makes_no_system_call_and_ends,
                                  somebody_foreign_gets_the_file_during_the_pause,
                                  a_waiting_writer_stops_later_readers,
                                  a_full_context_and_a_full_path,
                                  a_full_queue_lets_its_owner_in_again,
                                  NULL};
    return fake_main("runtime: owners and order", tests);
}
