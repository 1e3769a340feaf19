/* aflock/semaphore.h: who gets which slot and when, what is answered, and what is left on disk and in memory. */
#include "support/semaphore_scene.h"

#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

/* -------------------------------------------------------------------------------------------------------- the slots */

START_TEST(slots_are_files_in_order)
{
    aflock_permit permits[MAXIMUM];
    make_here(scene_io(_i));
    for (unsigned i = 0; i < MAXIMUM; i++)
        permits[i] = take(i);
    ck_assert_int_eq(scene_entries("."), MAXIMUM);
    ck_assert_int_eq(access("s.00.lock", F_OK) | access("s.01.lock", F_OK) | access("s.02.lock", F_OK), 0);
    for (unsigned i = 0; i < MAXIMUM; i++)
        give(permits[i]);
    ck_assert(scene_is_free("s.00.lock", LOCK_EX) && scene_is_free("s.01.lock", LOCK_EX));
    ck_assert_int_eq(scene_entries("."), MAXIMUM);
}
END_TEST

START_TEST(the_last_one_is_tried_first)
{
    make_here(AFLOCK_IO_AUTO);
    aflock_permit zero = take(0), one = take(1);
    give(zero);
    give(one);
    int before = scene_inline + scene_pooled;
    give(take(1));
    ck_assert_int_eq(scene_inline + scene_pooled - before, 2); /* a try and a release */
    aflock_permit again = take(1);
    ck_assert_int_eq(aflock_semaphore_cancel(semaphore, one), AFLOCK_ESTALE); /* and not that it is held */
    give(take(0));                                                            /* then in their order */
    give(again);
}
END_TEST

START_TEST(two_digits_at_least)
{
    make("/somewhere/else", 101, AFLOCK_IO_AUTO, AFLOCK_FOREVER);
    ck_assert_str_eq(aflock_path(aflock_semaphore_lock(semaphore, 7)), "/somewhere/else/s.07.lock");
    ck_assert_str_eq(aflock_path(aflock_semaphore_lock(semaphore, 100)), "/somewhere/else/s.100.lock");
    ck_assert_ptr_null(aflock_semaphore_lock(semaphore, 101));
}
END_TEST

/* ------------------------------------------------------------------------------------------------------- all taken */

START_TEST(one_try)
{
    told t = {.count = 0};
    make_here(scene_io(_i));
    pid_t others[MAXIMUM];
    for (unsigned i = 0; i < MAXIMUM; i++)
        others[i] = slot_holder(i);
    ask_for(0, NULL, &t);
    scene_run_until(&t.count, 1);
    ck_assert_int_eq(t.result.status, AFLOCK_EWOULDBLOCK);
    ck_assert_int_eq(t.result.fd, -1);
    scene_holder_end(others[2]);
    ask_for(0, NULL, &t);
    scene_run_until(&t.count, 2);
    ck_assert_int_eq(t.result.status, 0);
    ck_assert_uint_eq(t.result.slot, 2);
    give(t.result.permit);
    scene_holder_end(others[0]);
    scene_holder_end(others[1]);
}
END_TEST

/* All are our own, or others wait: that is known at once. */
START_TEST(one_try_that_is_known)
{
    told t = {.count = 0}, waiting;
    aflock_permit permits[MAXIMUM];
    make_here(scene_io(_i));
    for (unsigned i = 0; i < MAXIMUM; i++)
        permits[i] = take(i);
    ck_assert_int_eq(aflock_semaphore_acquire(semaphore, 0, NULL, tell, &t, NULL), AFLOCK_EWOULDBLOCK);
    aflock_permit other = ask(&waiting);
    ck_assert_int_eq(aflock_semaphore_acquire(semaphore, 0, NULL, tell, &t, NULL), AFLOCK_EWOULDBLOCK);
    give(permits[1]);
    scene_run_until(&waiting.count, 1);
    ck_assert_uint_eq(waiting.result.slot, 1);
    give(other);
    give(permits[0]);
    give(permits[2]);
    ck_assert_int_eq(t.count, 0);
}
END_TEST

/* Those who ask while a slot is being tried get what is left. */
START_TEST(several_tries_at_once)
{
    told t[MAXIMUM + 2];
    int fine = 0, taken = 0;
    make_here(scene_io(_i));
    for (unsigned i = 0; i < MAXIMUM + 2; i++) {
        t[i] = (told){.count = 0};
        ask_for(0, NULL, &t[i]);
    }
    for (unsigned i = 0; i < MAXIMUM + 2; i++) {
        scene_run_until(&t[i].count, 1);
        fine += t[i].result.status == 0;
        taken += t[i].result.status == AFLOCK_EWOULDBLOCK;
    }
    ck_assert_int_eq(fine, MAXIMUM);
    ck_assert_int_eq(taken, 2);
    for (unsigned i = 0; i < MAXIMUM; i++)
        give(t[i].result.permit);
}
END_TEST

/* Who asks for one try while another one's is under way is told with that: it does not wait. */
START_TEST(one_try_behind_one_who_waits)
{
    told first, once = {.count = 0};
    make(".", 1, scene_io(_i), AFLOCK_FOREVER);
    pid_t other = slot_holder(0);
    ask(&first);
    ask_for(0, NULL, &once);
    settle();
    scene_holder_end(other);
    scene_run_until(&first.count, 1);
    give(first.result.permit);
    scene_run_until(&once.count, 1);
    ck_assert_int_eq(once.result.status, AFLOCK_EWOULDBLOCK);
}
END_TEST

START_TEST(a_holder_that_dies_frees_its_slot)
{
    told t;
    pid_t others[MAXIMUM];
    make_here(scene_io(_i));
    for (unsigned i = 0; i < MAXIMUM; i++)
        others[i] = slot_holder(i);
    ask(&t);
    settle();
    ck_assert_int_eq(t.count, 0);
    scene_holder_end(others[1]);
    scene_run_until(&t.count, 1);
    ck_assert_int_eq(t.result.status, 0);
    ck_assert_uint_eq(t.result.slot, 1);
    give(t.result.permit);
    scene_holder_end(others[0]);
    scene_holder_end(others[2]);
}
END_TEST

/* Who waits here costs nothing there, and is served in order. */
START_TEST(first_come_first_served)
{
    enum { CROWD = 200 };
    static told t[CROWD];
    int order = 0;
    pid_t others[MAXIMUM];
    make_here(scene_io(_i));
    for (unsigned i = 0; i < MAXIMUM; i++)
        others[i] = slot_holder(i);
    ask(&t[0]);
    settle();
    int attempts = scene_inline + scene_pooled;
    t[0].order = &order;
    t[0].releases = true;
    for (int i = 1; i < CROWD; i++) {
        t[i] = (told){.order = &order, .releases = true};
        ask_for(i % 2 ? AFLOCK_FOREVER : 30 * AFLOCK_SECOND, NULL, &t[i]);
    }
    settle();
    ck_assert_int_lt(scene_inline + scene_pooled - attempts, CROWD / 2);
    scene_holder_end(others[0]);
    for (int i = 0; i < CROWD; i++) {
        scene_run_until(&t[i].count, 1);
        ck_assert_int_eq(t[i].result.status, 0);
        ck_assert_int_eq(t[i].place, i + 1);
    }
    settle();
    for (int i = 0; i < CROWD; i++)
        ck_assert_int_eq(t[i].count, 1);
    await_free("s.00.lock");
    scene_holder_end(others[1]);
    scene_holder_end(others[2]);
}
END_TEST

/* One waits, and all slots become free at the same moment: one is kept. */
START_TEST(what_comes_late_is_given_back)
{
    told t;
    make_here(scene_io(_i));
    aflock_permit permits[MAXIMUM];
    for (unsigned i = 0; i < MAXIMUM; i++)
        permits[i] = take(i);
    ask(&t);
    settle();
    for (unsigned i = 0; i < MAXIMUM; i++)
        ck_assert_int_eq(aflock_semaphore_release(semaphore, permits[i], NULL, NULL), 0);
    scene_run_until(&t.count, 1);
    ck_assert_int_eq(t.result.status, 0);
    settle();
    ck_assert_int_eq(t.count, 1);
    for (unsigned i = 0; i < MAXIMUM; i++)
        if (i != t.result.slot)
            await_free(aflock_path(aflock_semaphore_lock(semaphore, i)));
    ck_assert(!scene_is_free(t.path, LOCK_SH));
    give(t.result.permit);
}
END_TEST

START_TEST(a_release_is_for_the_next_one)
{
    told first, second;
    make(".", 1, scene_io(_i), AFLOCK_FOREVER);
    aflock_permit permit = take(0);
    ask(&first);
    ask(&second);
    settle();
    ck_assert_int_eq(first.count + second.count, 0);
    give(permit);
    scene_run_until(&first.count, 1);
    ck_assert_int_eq(second.count, 0);
    give(first.result.permit);
    scene_run_until(&second.count, 1);
    give(second.result.permit);
}
END_TEST

/* ------------------------------------------------------------------------------------------------------- giving up */

static uint64_t clock_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * AFLOCK_SECOND + (uint64_t)t.tv_nsec;
}

START_TEST(never_early)
{
    told first = {.count = 0}, second = {.count = 0};
    make(".", 1, scene_io(_i), AFLOCK_FOREVER);
    pid_t other = slot_holder(0);
    uint64_t start = clock_now();
    ask_for(30 * AFLOCK_MILLISECOND, NULL, &first);
    ask_for(20 * AFLOCK_MILLISECOND, NULL, &second);
    scene_run_until(&second.count, 1);
    ck_assert_uint_ge(clock_now() - start, 20 * AFLOCK_MILLISECOND);
    scene_run_until(&first.count, 1);
    ck_assert_uint_ge(clock_now() - start, 30 * AFLOCK_MILLISECOND);
    ck_assert_int_eq(first.result.status, AFLOCK_ETIMEDOUT);
    ck_assert_int_eq(second.result.status, AFLOCK_ETIMEDOUT);
    ck_assert_uint_ge(first.result.waited, 30 * AFLOCK_MILLISECOND);
    scene_holder_end(other);
    give(take(0));
}
END_TEST

/* While the slot is tried, while it is waited for, behind another one, held, and afterwards. */
START_TEST(cancel_at_each_point)
{
    told t, behind;
    make(".", 1, scene_io(_i), AFLOCK_FOREVER);
    aflock_permit permit = ask(&t);
    ck_assert_int_eq(aflock_semaphore_cancel(semaphore, permit), 0);
    ck_assert_int_eq(aflock_semaphore_release(semaphore, permit, NULL, NULL), AFLOCK_ENOTHELD);
    ck_assert_int_eq(aflock_semaphore_cancel(semaphore, permit), 0);
    scene_run_until(&t.count, 1);
    ck_assert_int_eq(t.result.status, AFLOCK_ECANCELED);
    ck_assert_int_eq(aflock_semaphore_cancel(semaphore, permit), AFLOCK_ESTALE);
    ck_assert_int_eq(aflock_semaphore_release(semaphore, permit, NULL, NULL), AFLOCK_ESTALE);
    t = (told){.count = 0};
    permit = ask_for(AFLOCK_SECOND, NULL, &t); /* with a deadline */
    ck_assert_int_eq(aflock_semaphore_cancel(semaphore, permit), 0);
    scene_run_until(&t.count, 1);
    ck_assert_int_eq(t.result.status, AFLOCK_ECANCELED);
    settle();
    permit = take(0);
    ck_assert_int_eq(aflock_semaphore_cancel(semaphore, permit), AFLOCK_EHELD);
    give(permit);

    pid_t other = slot_holder(0);
    permit = ask(&t);
    settle();
    aflock_permit second = ask(&behind);
    ck_assert_int_eq(aflock_semaphore_cancel(semaphore, second), 0);
    scene_run_until(&behind.count, 1);
    ck_assert_int_eq(behind.result.status, AFLOCK_ECANCELED);
    ck_assert_int_eq(aflock_semaphore_cancel(semaphore, permit), 0);
    ck_assert_int_eq(t.count, 0);
    scene_run_until(&t.count, 1);
    ck_assert_int_eq(t.result.status, AFLOCK_ECANCELED);
    scene_holder_end(other);
    settle();
    await_free("s.00.lock");
    ck_assert_int_eq(t.count + behind.count, 2);
}
END_TEST

/* One slot is taken, which is not told yet; the other one is free and must not be tried any more. */
START_TEST(a_cancelled_sweep_is_over)
{
    told t, next;
    make(".", 2, scene_io(_i), AFLOCK_FOREVER);
    pid_t other = slot_holder(0);
    give(take(1));
    scene_holder_end(other);
    other = slot_holder(1); /* is tried first, and at once where that may be */
    aflock_permit permit = ask(&t);
    ck_assert_int_eq(aflock_semaphore_cancel(semaphore, permit), 0);
    ask(&next);
    scene_run_until(&t.count, 1);
    ck_assert_int_eq(t.result.status, AFLOCK_ECANCELED);
    scene_run_until(&next.count, 1);
    ck_assert_int_eq(next.result.status, 0);
    ck_assert_uint_eq(next.result.slot, 0);
    give(next.result.permit);
    scene_holder_end(other);
}
END_TEST

/* The slot is won, and that is not told yet. */
START_TEST(cancel_beats_a_grant)
{
    told t, next;
    make(".", 1, scene_io(_i), AFLOCK_FOREVER);
    aflock_permit permit = take(0);
    aflock_permit waiting = ask(&t);
    settle();
    ck_assert_int_eq(aflock_semaphore_release(semaphore, permit, NULL, NULL), 0);
    ck_assert_int_eq(aflock_semaphore_cancel(semaphore, waiting), 0);
    ask(&next);
    scene_run_until(&next.count, 1);
    scene_run_until(&t.count, 1);
    ck_assert_int_eq(t.result.status, AFLOCK_ECANCELED);
    ck_assert_int_eq(next.result.status, 0);
    give(next.result.permit);
}
END_TEST

/* The first one leaves; what was asked for is for the second. */
START_TEST(the_next_one_waits_on)
{
    told first, second;
    make(".", 1, scene_io(_i), AFLOCK_FOREVER);
    pid_t other = slot_holder(0);
    aflock_permit permit = ask(&first);
    settle();
    ask(&second);
    ck_assert_int_eq(aflock_semaphore_cancel(semaphore, permit), 0);
    scene_run_until(&first.count, 1);
    scene_holder_end(other);
    scene_run_until(&second.count, 1);
    ck_assert_int_eq(second.result.status, 0);
    give(second.result.permit);
}
END_TEST

/* Between the decision that somebody gets the slot and its being told: the slot is handed on. */
static void fire(aflock *lock, const aflock_result *r, void *user)
{
    aflock_token_fire(user);
    ck_assert_int_eq(aflock_release(lock, r->req, NULL, NULL), 0);
}

START_TEST(tokens)
{
    told t[3] = {{.count = 0}};
    aflock_token *token;
    make(".", 1, scene_io(_i), AFLOCK_FOREVER);
    ck_assert_int_eq(aflock_token_new(&token, scene), 0);
    aflock *before = scene_open("before", AFLOCK_IO_INLINE);
    scene_must_work(before);
    aflock_permit permit = take(0);
    ask_for(AFLOCK_FOREVER, token, &t[0]);
    ask_for(AFLOCK_FOREVER, NULL, &t[1]);
    ask_for(AFLOCK_SECOND, token, &t[2]);
    ck_assert_int_eq(aflock_acquire(before, NULL, fire, token, NULL), 0);
    ck_assert_int_eq(aflock_semaphore_release(semaphore, permit, NULL, NULL), 0);
    for (int i = 0; i < 3; i++) {
        scene_run_until(&t[i].count, 1);
        ck_assert_int_eq(t[i].result.status, i == 1 ? 0 : AFLOCK_ECANCELED);
    }
    give(t[1].result.permit);
    ck_assert_int_eq(aflock_semaphore_acquire(semaphore, 0, token, tell, &t[0], NULL), AFLOCK_ECANCELED);
    give(take(0));
    aflock_token_free(token);
}
END_TEST

int main(void)
{
    const TTest *const once[] = {the_last_one_is_tried_first, two_digits_at_least, NULL};
    const TTest *const each[] = {slots_are_files_in_order,
                                 one_try,
                                 one_try_that_is_known,
                                 several_tries_at_once,
                                 one_try_behind_one_who_waits,
                                 a_holder_that_dies_frees_its_slot,
                                 first_come_first_served,
                                 what_comes_late_is_given_back,
                                 a_release_is_for_the_next_one,
                                 never_early,
                                 cancel_at_each_point,
                                 a_cancelled_sweep_is_over,
                                 cancel_beats_a_grant,
                                 the_next_one_waits_on,
                                 tokens,
                                 NULL};
    return semaphore_main("recipes: semaphore", once, each);
}
