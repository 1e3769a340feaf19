/* The machine: one attempt after the other for the head of a queue; deadlines, cancel, retries, watches. */
#include "support/machine_driver.h"

static driver d;
static afl_path *p;
static afl_request *a, *b, *c;

static void setup(void)
{
    driver_start(&d);
    p = driver_path_new(&d, "p");
    a = driver_request_new(&d, "a", EXCLUSIVE, NULL);
    b = driver_request_new(&d, "b", EXCLUSIVE, NULL);
    c = driver_request_new(&d, "c", EXCLUSIVE, NULL);
}

/* p is held by a foreign process: a waits, and an attempt was made for it just now. */
static void a_waits(afl_outcome outcome)
{
    driver_submit(&d, p, a, 0);
    driver_see(&d, "try p a");
    driver_done(&d, p, outcome);
    driver_see(&d, "");
}

/* ------------------------------------------------------------------------------------------------- one attempt */

START_TEST(try_won)
{
    driver_submit(&d, p, a, 0);
    ck_assert_uint_eq(a->submitted, d.now);
    driver_want(&d, "try p a");
    driver_pass(&d, 3 * US);
    driver_done(&d, p, WON);
    driver_want(&d, "");
    ck_assert_int_eq(a->state, AFL_GRANTED);
    ck_assert_uint_eq(d.machine.holding, 1);
    ck_assert_uint_eq(d.machine.undelivered, 1);
    driver_see(&d, "a held");
    ck_assert_int_eq(a->state, AFL_HELD);
    ck_assert_uint_eq(a->attempts, 1);
    ck_assert_uint_eq(a->decided - a->submitted, 3 * US);
    driver_no_timer(&d);

    driver_release(&d, a, false);
    driver_see(&d, "release p");
    ck_assert_uint_eq(d.machine.releasing, 1);
    driver_done(&d, p, DONE);
    driver_finish(&d);
}
END_TEST

START_TEST(try_contended_is_retried_at_the_poll_interval)
{
    a_waits(CONTENDED);
    for (int i = 0; i < 3; i++) {
        driver_next_timer(&d, 50 * MS);
        driver_see(&d, "try p a");
        driver_pass(&d, 7 * US); /* the interval counts from the end of the attempt */
        driver_done(&d, p, CONTENDED);
        driver_see(&d, "");
    }
    ck_assert_uint_eq(a->attempts, 4);
    driver_next_timer(&d, 50 * MS);
    driver_see(&d, "try p a");
    driver_done(&d, p, WON);
    driver_see(&d, "a held");
}
END_TEST

START_TEST(try_error_is_the_answer)
{
    driver_submit(&d, p, a, 0);
    driver_see(&d, "try p a");
    afl_outcome failed = FAILED(AFL_GRIP_NONE);
    failed.status = AFLOCK_EROFS;
    failed.cleanup_errno = 9;
    driver_done(&d, p, failed);
    driver_see(&d, "a EROFS");
    ck_assert_int_eq(a->status, AFLOCK_EROFS);
    ck_assert_int_eq(a->sys_errno, 5);
    ck_assert_int_eq(a->cleanup_errno, 9);
    ck_assert_str_eq(a->step, "the test's step");
    driver_finish(&d);
}
END_TEST

START_TEST(try_error_that_leaves_a_descriptor_is_cleaned_up)
{
    driver_submit(&d, p, a, 0);
    driver_see(&d, "try p a");
    driver_done(&d, p, FAILED(AFL_GRIP_KEPT));
    driver_see(&d, "withdraw p; a ESYS");
    driver_done(&d, p, DONE);
    driver_finish(&d);
}
END_TEST

START_TEST(each_head_gets_its_own_error)
{
    driver_submit(&d, p, a, 0);
    driver_submit(&d, p, b, 0);
    driver_see(&d, "try p a");
    driver_done(&d, p, FAILED(AFL_GRIP_NONE));
    driver_see(&d, "try p b; a ESYS");
    driver_done(&d, p, FAILED(AFL_GRIP_NONE));
    driver_see(&d, "b ESYS");
    driver_finish(&d);
}
END_TEST

START_TEST(an_old_error_is_forgotten)
{
    driver_submit(&d, p, a, 0);
    driver_see(&d, "try p a");
    driver_done(&d, p, FAILED(AFL_GRIP_NONE));
    driver_see(&d, "a ESYS");
    driver_hold(&d, p, a);
    ck_assert_int_eq(a->status, 0);
    ck_assert_int_eq(a->sys_errno, 0);
    ck_assert_ptr_null(a->step);
    ck_assert_uint_eq(a->attempts, 1);
}
END_TEST

START_TEST(only_the_head_is_tried_for)
{
    a_waits(CONTENDED);
    driver_submit(&d, p, b, 0);
    driver_submit(&d, p, c, 0);
    driver_see(&d, "");
    ck_assert_uint_eq(p->waiting, 3);
    driver_next_timer(&d, 50 * MS);
    driver_see(&d, "try p a");
    ck_assert_uint_eq(b->attempts + c->attempts, 0);
}
END_TEST

START_TEST(first_come_first_served)
{
    afl_request *many[20];
    driver_hold(&d, p, a);
    for (int i = 0; i < 20; i++) {
        char name[8] = {'r', (char)('A' + i)};
        many[i] = driver_request_new(&d, name, EXCLUSIVE, NULL);
        driver_submit(&d, p, many[i], 0);
    }
    afl_request *holder = a;
    p->paused = true; /* no pause in this test: there was one just now, and nobody foreign since */
    p->last_pause = d.now;
    for (int i = 0; i < 20; i++) {
        char expected[] = "rA held";
        expected[1] = (char)('A' + i);
        driver_see(&d, "");
        driver_release(&d, holder, false);
        driver_see(&d, expected);
        holder = many[i];
        ck_assert_uint_eq(holder->attempts, 0);
    }
}
END_TEST

/* --------------------------------------------------------------------------------------------------- deadlines */

START_TEST(a_deadline_is_never_early_and_exact)
{
    driver_hold(&d, p, a);
    b->timeout = 10 * MS;
    driver_submit(&d, p, b, 0);
    driver_see(&d, "");
    driver_next_timer(&d, 10 * MS); /* looks one nanosecond before, too */
    driver_see(&d, "b ETIMEDOUT");
    ck_assert_uint_eq(b->decided - b->submitted, 10 * MS);
    driver_no_timer(&d);
}
END_TEST

START_TEST(a_deadline_far_away_does_not_wrap)
{
    driver_hold(&d, p, a);
    b->timeout = AFLOCK_FOREVER - 1;
    driver_submit(&d, p, b, 0);
    driver_see(&d, "");
    driver_pass(&d, 1000 * AFLOCK_SECOND);
    driver_see(&d, "");
}
END_TEST

START_TEST(deadlines_come_in_order_and_ties_in_submission_order)
{
    driver_hold(&d, p, a);
    afl_request *r[4];
    const uint64_t timeouts[] = {7 * MS, 5 * MS, 7 * MS, 5 * MS};
    const char *const names[] = {"w", "x", "y", "z"};
    for (int i = 0; i < 4; i++) {
        r[i] = driver_request_new(&d, names[i], EXCLUSIVE, NULL);
        r[i]->timeout = timeouts[i];
        driver_submit(&d, p, r[i], 0);
    }
    driver_pass(&d, 20 * MS);
    driver_see(&d, "x ETIMEDOUT; z ETIMEDOUT; w ETIMEDOUT; y ETIMEDOUT");
    ck_assert_uint_eq(r[1]->decided - r[1]->submitted, 5 * MS);
}
END_TEST

START_TEST(a_deadline_does_not_wait_for_the_attempt)
{
    a->timeout = 1 * MS;
    driver_submit(&d, p, a, 0);
    driver_see(&d, "try p a");
    driver_next_timer(&d, 1 * MS);
    driver_see(&d, "a ETIMEDOUT");
    ck_assert_int_eq(p->op, AFL_OP_TRY);
    driver_done(&d, p, WON);
    driver_see(&d, "release p");
    driver_done(&d, p, DONE);
    driver_finish(&d);
}
END_TEST

START_TEST(a_granted_request_has_no_deadline)
{
    a->timeout = 1 * MS;
    driver_submit(&d, p, a, 0);
    driver_want(&d, "try p a");
    driver_done(&d, p, WON);
    driver_want(&d, "");
    driver_no_timer(&d);
    driver_pass(&d, 5 * MS);
    driver_see(&d, "a held");
}
END_TEST

/* ------------------------------------------------------------------------------------------------ one attempt only */

START_TEST(once_won)
{
    a->once = true;
    driver_submit(&d, p, a, 0);
    driver_see(&d, "try p a");
    driver_done(&d, p, WON);
    driver_see(&d, "a held");
}
END_TEST

START_TEST(once_contended)
{
    a->once = true;
    driver_submit(&d, p, a, 0);
    driver_see(&d, "try p a");
    driver_done(&d, p, KEPT);
    driver_see(&d, "withdraw p; a EWOULDBLOCK");
    driver_done(&d, p, DONE);
    ck_assert_uint_eq(a->attempts, 1);
    driver_finish(&d);
}
END_TEST

START_TEST(once_pending)
{
    a->once = true;
    driver_submit(&d, p, a, 0);
    driver_see(&d, "try p a");
    driver_done(&d, p, PENDING);
    driver_see(&d, "withdraw p; a EWOULDBLOCK");
    driver_done(&d, p, DONE);
    driver_finish(&d);
}
END_TEST

START_TEST(once_behind_a_holder_is_refused)
{
    driver_hold(&d, p, a);
    b->once = true;
    driver_submit(&d, p, b, AFLOCK_EWOULDBLOCK);
    driver_see(&d, "");
    ck_assert_uint_eq(d.machine.waiting, 0);
}
END_TEST

START_TEST(once_behind_a_queue_is_refused)
{
    a_waits(CONTENDED);
    b->once = true;
    driver_submit(&d, p, b, AFLOCK_EWOULDBLOCK);
    driver_see(&d, "");
}
END_TEST

START_TEST(once_joins_shared_holders)
{
    a->mode = b->mode = c->mode = SHARED;
    driver_hold(&d, p, a);
    b->once = true;
    driver_submit(&d, p, b, 0);
    driver_see(&d, "b held");
    ck_assert_uint_eq(b->attempts, 0);

    afl_request *writer = driver_request_new(&d, "writer", EXCLUSIVE, NULL);
    driver_submit(&d, p, writer, 0);
    c->once = true;
    driver_submit(&d, p, c, AFLOCK_EWOULDBLOCK); /* the writer waits */
}
END_TEST

START_TEST(once_that_hangs_is_answered_at_its_limit)
{
    a->once = true;
    a->timeout = 5 * AFLOCK_SECOND;
    driver_submit(&d, p, a, 0);
    driver_see(&d, "try p a");
    driver_next_timer(&d, 5 * AFLOCK_SECOND);
    driver_see(&d, "a EWOULDBLOCK"); /* never ETIMEDOUT */
    driver_done(&d, p, CONTENDED);
    driver_finish(&d);
}
END_TEST

START_TEST(once_after_an_attempt_left_behind_makes_its_own)
{
    driver_submit(&d, p, a, 0);
    driver_see(&d, "try p a");
    driver_cancel(&d, a, 0);
    b->once = true;
    driver_submit(&d, p, b, 0);
    driver_see(&d, "a ECANCELED");
    driver_done(&d, p, CONTENDED);
    driver_see(&d, "try p b");
    driver_done(&d, p, CONTENDED);
    driver_see(&d, "b EWOULDBLOCK");
    ck_assert_uint_eq(b->attempts, 1);
    driver_finish(&d);
}
END_TEST

START_TEST(once_gives_way_to_those_behind_it)
{
    a->once = true;
    p->notify = true;
    driver_submit(&d, p, a, 0);
    driver_submit(&d, p, b, 0);
    driver_see(&d, "try p a");
    driver_done(&d, p, KEPT);
    driver_see(&d, "watch p; try p b; a EWOULDBLOCK");
}
END_TEST

START_TEST(once_does_not_wait_for_a_hold_that_stayed)
{
    driver_hold(&d, p, a);
    driver_release(&d, a, true);
    driver_see(&d, "release p");
    b->once = true;
    driver_submit(&d, p, b, 0);
    driver_see(&d, "");
    driver_done(&d, p, FAILED(AFL_GRIP_HELD));
    driver_see(&d, "a reheld; b EWOULDBLOCK");
}
END_TEST

START_TEST(once_does_not_wait_for_holders_it_cannot_join)
{
    a->mode = b->mode = SHARED;
    driver_hold(&d, p, a);
    b->once = b->adopt = true;
    driver_submit(&d, p, b, 0);
    driver_see(&d, "adopt p b");
    driver_done(&d, p, STALE);
    driver_see(&d, "b EWOULDBLOCK");
    ck_assert(a->state == AFL_HELD && p->grip == AFL_GRIP_HELD);
}
END_TEST

START_TEST(once_won_and_not_adopted_is_not_tried_again)
{
    a->once = a->adopt = true;
    driver_submit(&d, p, a, 0);
    driver_see(&d, "try p a");
    driver_done(&d, p, WON);
    driver_see(&d, "adopt p a");
    driver_done(&d, p, STALE);
    driver_see(&d, "release p; a EWOULDBLOCK");
    driver_done(&d, p, DONE);
    driver_finish(&d);
}
END_TEST

/* --------------------------------------------------------------------------------------------------------- cancel */

START_TEST(cancel_waiting_behind)
{
    driver_hold(&d, p, a);
    driver_submit(&d, p, b, 0);
    driver_submit(&d, p, c, 0);
    driver_cancel(&d, b, 0);
    ck_assert_int_eq(b->state, AFL_ANSWERED);
    driver_cancel(&d, b, 0); /* not delivered yet: still "will never say acquired" */
    driver_see(&d, "b ECANCELED");
    ck_assert_int_eq(b->state, AFL_IDLE);
    driver_cancel(&d, b, AFLOCK_ESTALE);
    driver_release(&d, a, false);
    driver_see(&d, "c held");
}
END_TEST

START_TEST(cancel_with_another_reason)
{
    a_waits(CONTENDED);
    ck_assert_int_eq(afl_machine_cancel(&d.machine, a, AFLOCK_ECLOSED, d.now), 0);
    driver_see(&d, "a ECLOSED");
    driver_finish(&d);
}
END_TEST

START_TEST(cancel_granted_takes_the_hold_back)
{
    driver_submit(&d, p, a, 0);
    driver_want(&d, "try p a");
    driver_done(&d, p, WON);
    driver_want(&d, "");
    driver_cancel(&d, a, 0);
    driver_see(&d, "release p; a ECANCELED");
    ck_assert_uint_eq(d.machine.holding, 0);
    driver_done(&d, p, DONE);
    driver_finish(&d);
}
END_TEST

START_TEST(cancel_granted_serves_the_next)
{
    driver_submit(&d, p, a, 0);
    driver_submit(&d, p, b, 0);
    driver_want(&d, "try p a");
    driver_done(&d, p, WON);
    driver_want(&d, "");
    driver_cancel(&d, a, 0);
    driver_see(&d, "a ECANCELED; b held");
}
END_TEST

START_TEST(cancel_held_is_refused)
{
    driver_hold(&d, p, a);
    driver_cancel(&d, a, AFLOCK_EHELD);
    driver_release(&d, a, true);
    driver_cancel(&d, a, AFLOCK_ESTALE);
    driver_want(&d, "release p");
    driver_done(&d, p, FAILED(AFL_GRIP_HELD));
    driver_want(&d, "");
    ck_assert_int_eq(a->state, AFL_REHELD);
    driver_cancel(&d, a, AFLOCK_EHELD);
    driver_see(&d, "a reheld");
    driver_release(&d, a, true);
    driver_want(&d, "release p");
    driver_done(&d, p, DONE);
    driver_want(&d, "");
    ck_assert_int_eq(a->state, AFL_RELEASED);
    driver_cancel(&d, a, AFLOCK_ESTALE);
    driver_see(&d, "a released");
    driver_finish(&d);
}
END_TEST

START_TEST(cancel_failing_is_answered_at_once)
{
    a->adopt = true;
    driver_submit(&d, p, a, 0);
    driver_see(&d, "try p a");
    driver_done(&d, p, WON);
    driver_see(&d, "adopt p a");
    driver_done(&d, p, FAILED(AFL_GRIP_HELD));
    driver_see(&d, "release p");
    ck_assert_int_eq(a->state, AFL_FAILING);
    driver_cancel(&d, a, 0);
    driver_see(&d, "a ECANCELED");
    driver_done(&d, p, DONE);
    driver_finish(&d);
}
END_TEST

START_TEST(a_deadline_while_failing_keeps_the_reason)
{
    a->adopt = true;
    a->timeout = 2 * MS;
    driver_submit(&d, p, a, 0);
    driver_see(&d, "try p a");
    driver_done(&d, p, WON);
    driver_see(&d, "adopt p a");
    driver_done(&d, p, FAILED(AFL_GRIP_HELD));
    driver_see(&d, "release p");
    driver_next_timer(&d, 2 * MS); /* the roll-back hangs */
    driver_see(&d, "a ESYS");
    driver_done(&d, p, DONE);
    driver_finish(&d);
}
END_TEST

START_TEST(what_cannot_be_released)
{
    driver_submit(&d, p, a, 0);
    ck_assert_int_eq(afl_machine_release(&d.machine, a, false, d.now), AFLOCK_ENOTHELD);
    driver_want(&d, "try p a");
    driver_done(&d, p, WON);
    driver_want(&d, "");
    ck_assert_int_eq(afl_machine_release(&d.machine, a, false, d.now), AFLOCK_ENOTHELD); /* not delivered */
    driver_see(&d, "a held");
    driver_release(&d, a, true);
    ck_assert_int_eq(afl_machine_release(&d.machine, a, true, d.now), AFLOCK_ESTALE);
    driver_see(&d, "release p");
    driver_done(&d, p, DONE);
    driver_see(&d, "a released");
    ck_assert_int_eq(afl_machine_release(&d.machine, a, true, d.now), AFLOCK_ESTALE);
    driver_finish(&d);
}
END_TEST

/* ------------------------------------------------------------------------------------------- attempts left behind */

START_TEST(left_behind_won_serves_the_next_head)
{
    driver_submit(&d, p, a, 0);
    driver_submit(&d, p, b, 0);
    driver_see(&d, "try p a");
    driver_cancel(&d, a, 0);
    driver_see(&d, "a ECANCELED");
    driver_done(&d, p, WON);
    driver_see(&d, "b held");
    ck_assert_uint_eq(b->attempts, 0);
}
END_TEST

START_TEST(left_behind_won_serves_a_later_request)
{
    driver_submit(&d, p, a, 0);
    driver_see(&d, "try p a");
    driver_cancel(&d, a, 0);
    driver_see(&d, "a ECANCELED");
    driver_submit(&d, p, b, 0);
    driver_see(&d, "");
    driver_done(&d, p, WON);
    driver_see(&d, "b held");
}
END_TEST

START_TEST(left_behind_won_in_the_wrong_mode_is_given_up)
{
    a->mode = SHARED;
    driver_submit(&d, p, a, 0);
    driver_submit(&d, p, b, 0);
    driver_see(&d, "try p a");
    driver_cancel(&d, a, 0);
    driver_see(&d, "a ECANCELED");
    driver_done(&d, p, WON);
    driver_see(&d, "release p");
    driver_done(&d, p, DONE);
    driver_see(&d, "try p b");
}
END_TEST

START_TEST(left_behind_won_by_a_lesser_descriptor_is_given_up)
{
    driver_submit(&d, p, a, 0);
    b->need = 8;
    driver_submit(&d, p, b, 0);
    driver_see(&d, "try p a");
    driver_cancel(&d, a, 0);
    driver_see(&d, "a ECANCELED");
    driver_done(&d, p, WON); /* offers 7 */
    driver_see(&d, "release p");
    driver_done(&d, p, DONE);
    driver_see(&d, "try p b");
    afl_outcome won = WON;
    won.have = 8;
    driver_done(&d, p, won);
    driver_see(&d, "b held");
}
END_TEST

START_TEST(left_behind_contended_gives_the_next_head_its_own)
{
    driver_submit(&d, p, a, 0);
    driver_submit(&d, p, b, 0);
    driver_see(&d, "try p a");
    driver_cancel(&d, a, 0);
    driver_see(&d, "a ECANCELED");
    driver_done(&d, p, CONTENDED);
    driver_see(&d, "try p b");
    driver_done(&d, p, CONTENDED);
    driver_see(&d, "");
    driver_next_timer(&d, 50 * MS);
    driver_see(&d, "try p b");
}
END_TEST

START_TEST(left_behind_error_is_nobodys)
{
    driver_submit(&d, p, a, 0);
    driver_submit(&d, p, b, 0);
    driver_see(&d, "try p a");
    driver_cancel(&d, a, 0);
    driver_see(&d, "a ECANCELED");
    driver_done(&d, p, FAILED(AFL_GRIP_NONE));
    driver_see(&d, "try p b");
}
END_TEST

START_TEST(left_behind_and_nobody_waits)
{
    driver_submit(&d, p, a, 0);
    driver_see(&d, "try p a");
    driver_cancel(&d, a, 0);
    driver_see(&d, "a ECANCELED");
    ck_assert_uint_eq(d.machine.releasing, 0); /* keeps no loop alive */
    driver_done(&d, p, KEPT);
    driver_see(&d, "withdraw p");
    ck_assert_uint_eq(d.machine.releasing, 1);
    driver_done(&d, p, DONE);
    driver_finish(&d);
}
END_TEST

START_TEST(a_new_head_is_tried_for_at_once)
{
    uint64_t hour = 3600 * AFLOCK_SECOND;
    a->poll = &hour;
    a_waits(CONTENDED);
    driver_submit(&d, p, b, 0);
    driver_pass(&d, 5 * MS);
    driver_see(&d, "");
    driver_cancel(&d, a, 0);
    driver_see(&d, "try p b; a ECANCELED");
    driver_done(&d, p, CONTENDED);
    driver_see(&d, "");
    driver_next_timer(&d, 50 * MS); /* its own interval */
}
END_TEST

/* ---------------------------------------------------------------------------------------------------- how to wait */

START_TEST(the_poll_interval_of_the_head_counts)
{
    uint64_t poll = 3 * MS;
    a->poll = &poll;
    a_waits(CONTENDED);
    driver_next_timer(&d, 3 * MS);
    driver_see(&d, "try p a");
}
END_TEST

START_TEST(the_poll_interval_can_change)
{
    a_waits(CONTENDED);
    driver_pass(&d, 10 * MS);
    d.poll = 30 * MS;
    afl_machine_repoll(&d.machine, p, d.now);
    driver_see(&d, "");
    driver_next_timer(&d, 20 * MS); /* 30 ms after the attempt */
    driver_see(&d, "try p a");
    d.poll = 80 * MS;
    afl_machine_repoll(&d.machine, p, d.now); /* during an attempt */
    driver_see(&d, "");
    driver_done(&d, p, CONTENDED);
    driver_see(&d, "");
    driver_pass(&d, 10 * MS);
    d.poll = 200 * MS;
    afl_machine_repoll(&d.machine, p, d.now); /* longer */
    driver_see(&d, "");
    driver_pass(&d, 10 * MS);
    d.poll = 5 * MS;
    afl_machine_repoll(&d.machine, p, d.now); /* shorter than what has passed */
    driver_see(&d, "try p a");
}
END_TEST

START_TEST(changing_the_poll_interval_of_an_idle_path)
{
    afl_machine_repoll(&d.machine, p, d.now);
    driver_hold(&d, p, a);
    driver_submit(&d, p, b, 0);
    driver_see(&d, "");
    afl_machine_repoll(&d.machine, p, d.now);
    driver_see(&d, "");
    driver_no_timer(&d);
}
END_TEST

START_TEST(watch_then_try_again_then_wait)
{
    p->notify = true;
    driver_submit(&d, p, a, 0);
    driver_see(&d, "try p a");
    driver_done(&d, p, KEPT);
    driver_see(&d, "watch p; try p a");
    ck_assert(p->watching);
    driver_done(&d, p, KEPT);
    driver_see(&d, "");
    driver_next_timer(&d, 50 * MS); /* the fallback poll */
    driver_see(&d, "try p a");
    driver_done(&d, p, WON);
    driver_see(&d, "unwatch p; a held");
    ck_assert(!p->watching);
}
END_TEST

START_TEST(a_watch_that_is_refused_means_polling)
{
    p->notify = true;
    d.paths[0].watchable = false;
    driver_submit(&d, p, a, 0);
    driver_see(&d, "try p a");
    driver_done(&d, p, KEPT);
    driver_see(&d, "watch p; try p a");
    driver_done(&d, p, KEPT);
    driver_see(&d, "");
    driver_next_timer(&d, 50 * MS);
    driver_see(&d, "try p a");
    driver_done(&d, p, KEPT);
    driver_see(&d, "");
}
END_TEST

START_TEST(nothing_kept_is_not_watched)
{
    p->notify = true;
    a_waits(CONTENDED);
    ck_assert(!p->watching);
}
END_TEST

START_TEST(the_watch_ends_with_what_it_watches)
{
    p->notify = true;
    driver_submit(&d, p, a, 0);
    driver_see(&d, "try p a");
    driver_done(&d, p, KEPT);
    driver_see(&d, "watch p; try p a");
    driver_done(&d, p, CONTENDED); /* the kept descriptor named another file */
    driver_see(&d, "unwatch p");
    driver_next_timer(&d, 50 * MS);
    driver_see(&d, "try p a");
    driver_done(&d, p, KEPT);
    driver_see(&d, "watch p; try p a");
    driver_done(&d, p, KEPT);
    driver_see(&d, "");
    driver_cancel(&d, a, 0);
    driver_see(&d, "unwatch p; withdraw p; a ECANCELED");
    driver_done(&d, p, DONE);
    driver_finish(&d);
}
END_TEST

START_TEST(a_watch_for_nobody_is_not_asked_for)
{
    p->notify = true;
    driver_submit(&d, p, a, 0);
    driver_see(&d, "try p a");
    driver_done(&d, p, KEPT);
    driver_cancel(&d, a, 0);
    driver_see(&d, "withdraw p; a ECANCELED");
    driver_done(&d, p, DONE);
    driver_finish(&d);
}
END_TEST

START_TEST(a_watch_that_comes_too_late_is_ended)
{
    afl_machine_watched(&d.machine, p, true, d.now);
    driver_see(&d, "unwatch p");
    driver_finish(&d);
}
END_TEST

/* a waits, p is watched. */
static void a_listens(void)
{
    p->notify = true;
    driver_submit(&d, p, a, 0);
    driver_see(&d, "try p a");
    driver_done(&d, p, KEPT);
    driver_see(&d, "watch p; try p a");
    driver_done(&d, p, KEPT);
    driver_see(&d, "");
}

START_TEST(a_hint_tries_at_once_and_then_on_the_ladder)
{
    static const uint64_t LADDER[] = {20 * US, 50 * US, 100 * US, 500 * US, 2 * MS, 50 * MS, 50 * MS};
    a_listens();
    driver_pass(&d, 4 * MS);
    afl_machine_hint(&d.machine, p, false, d.now);
    driver_see(&d, "try p a");
    for (size_t i = 0; i < sizeof LADDER / sizeof LADDER[0]; i++) {
        driver_done(&d, p, KEPT);
        driver_see(&d, "");
        driver_next_timer(&d, LADDER[i]);
        driver_see(&d, "try p a");
    }
}
END_TEST

START_TEST(the_ladder_collapses_below_the_resolution)
{
    static const uint64_t LADDER[] = {500 * US, 2 * MS, 50 * MS};
    p->resolution = 200 * US;
    a_listens();
    afl_machine_hint(&d.machine, p, false, d.now);
    driver_see(&d, "try p a");
    for (size_t i = 0; i < sizeof LADDER / sizeof LADDER[0]; i++) {
        driver_done(&d, p, KEPT);
        driver_see(&d, "");
        driver_next_timer(&d, LADDER[i]);
        driver_see(&d, "try p a");
    }
}
END_TEST

START_TEST(a_coarse_timer_has_no_ladder)
{
    p->resolution = 4 * MS;
    a_listens();
    afl_machine_hint(&d.machine, p, false, d.now);
    driver_see(&d, "try p a");
    driver_done(&d, p, KEPT);
    driver_see(&d, "");
    driver_next_timer(&d, 50 * MS);
}
END_TEST

START_TEST(a_hint_during_an_attempt_is_not_lost)
{
    a_listens();
    driver_next_timer(&d, 50 * MS);
    driver_see(&d, "try p a");
    afl_machine_hint(&d.machine, p, false, d.now);
    driver_see(&d, "");
    driver_done(&d, p, KEPT);
    driver_see(&d, "try p a");
    driver_done(&d, p, KEPT);
    driver_see(&d, "");
    driver_next_timer(&d, 20 * US);
}
END_TEST

START_TEST(a_hint_during_an_attempt_left_behind_is_not_lost)
{
    a_listens();
    driver_submit(&d, p, b, 0);
    driver_next_timer(&d, 50 * MS);
    driver_see(&d, "try p a");
    driver_cancel(&d, a, 0);
    afl_machine_hint(&d.machine, p, false, d.now);
    driver_see(&d, "a ECANCELED");
    driver_done(&d, p, KEPT);
    driver_see(&d, "try p b");
    driver_done(&d, p, KEPT);
    driver_see(&d, "");
    driver_next_timer(&d, 20 * US);
}
END_TEST

START_TEST(a_hint_during_a_beat_is_not_lost)
{
    p->beat_interval = 10 * MS;
    a_waits(PENDING);
    driver_next_timer(&d, 10 * MS);
    driver_see(&d, "beat p");
    afl_machine_hint(&d.machine, p, false, d.now);
    driver_see(&d, "");
    driver_done(&d, p, BEATEN);
    driver_see(&d, "try p a");
}
END_TEST

START_TEST(a_hint_for_nobody_is_nothing)
{
    afl_machine_hint(&d.machine, p, false, d.now);
    driver_see(&d, "");
    driver_hold(&d, p, a);
    afl_machine_hint(&d.machine, p, false, d.now);
    driver_see(&d, "");
    driver_submit(&d, p, b, 0);
    afl_machine_hint(&d.machine, p, false, d.now);
    driver_see(&d, ""); /* behind our own holder */
    driver_no_timer(&d);
}
END_TEST

START_TEST(a_lost_watch_means_try_then_poll)
{
    a_listens();
    driver_pass(&d, 4 * MS);
    afl_machine_hint(&d.machine, p, true, d.now);
    driver_see(&d, "unwatch p; try p a");
    driver_done(&d, p, KEPT);
    driver_see(&d, ""); /* no new watch */
    driver_next_timer(&d, 50 * MS);
    driver_see(&d, "try p a");
    driver_done(&d, p, KEPT);
    driver_see(&d, "");
}
END_TEST

START_TEST(a_new_poll_interval_leaves_the_ladder_alone)
{
    a_listens();
    afl_machine_hint(&d.machine, p, false, d.now);
    driver_see(&d, "try p a");
    driver_done(&d, p, KEPT);
    driver_see(&d, "");
    d.poll = AFLOCK_SECOND;
    afl_machine_repoll(&d.machine, p, d.now);
    driver_see(&d, "");
    driver_next_timer(&d, 20 * US);
}
END_TEST

/* -------------------------------------------------------------------------------------------------- several paths */

START_TEST(paths_do_not_wait_for_each_other)
{
    afl_path *q = driver_path_new(&d, "q");
    driver_submit(&d, p, a, 0);
    driver_submit(&d, q, b, 0);
    driver_see(&d, "try p a; try q b");
    driver_done(&d, q, WON);
    driver_see(&d, "b held");
    driver_submit(&d, q, c, 0);
    driver_release(&d, b, true);
    driver_see(&d, "b released; c held");
    driver_done(&d, p, CONTENDED);
    driver_see(&d, "");
    driver_next_timer(&d, 50 * MS);
    driver_see(&d, "try p a");
}
END_TEST

START_TEST(answers_come_in_the_order_of_decision)
{
    afl_path *q = driver_path_new(&d, "q");
    driver_submit(&d, p, a, 0);
    driver_submit(&d, q, b, 0);
    driver_submit(&d, q, c, 0);
    driver_want(&d, "try p a; try q b");
    driver_cancel(&d, c, 0);
    driver_done(&d, q, WON);
    driver_want(&d, "");
    driver_done(&d, p, FAILED(AFL_GRIP_NONE));
    driver_see(&d, "c ECANCELED; b held; a ESYS");
}
END_TEST

START_TEST(answers_can_be_delivered_out_of_order)
{
    afl_path *q = driver_path_new(&d, "q"), *s = driver_path_new(&d, "s");
    driver_submit(&d, p, a, 0);
    driver_submit(&d, q, b, 0);
    driver_submit(&d, s, c, 0);
    driver_want(&d, "try p a; try q b; try s c");
    driver_done(&d, p, WON);
    driver_done(&d, q, WON);
    driver_done(&d, s, WON);
    driver_want(&d, "");
    afl_machine_deliver(&d.machine, b);
    driver_check(&d);
    afl_machine_deliver(&d.machine, c);
    driver_check(&d);
    driver_see(&d, "a held");
    ck_assert(b->state == AFL_HELD && c->state == AFL_HELD);
}
END_TEST

START_TEST(a_forgotten_path_leaves_no_trace)
{
    afl_path *q = driver_path_new(&d, "q"), *s = driver_path_new(&d, "s");
    driver_submit(&d, p, a, 0);
    driver_submit(&d, q, b, 0);
    driver_submit(&d, s, c, 0);
    ck_assert(q->is_ready);
    driver_cancel(&d, b, 0);
    driver_cancel(&d, c, 0);
    afl_machine_forget(&d.machine, q); /* from the middle of the list */
    afl_machine_forget(&d.machine, s); /* from its end */
    ck_assert(!q->is_ready && !s->is_ready);
    driver_submit(&d, q, driver_request_new(&d, "e", EXCLUSIVE, NULL), 0);
    driver_see(&d, "try p a; try q e; b ECANCELED; c ECANCELED");
}
END_TEST

START_TEST(a_path_can_be_forgotten_while_it_gives_up)
{
    driver_hold(&d, p, a);
    driver_release(&d, a, false);
    driver_see(&d, "release p");
    driver_done(&d, p, FAILED(AFL_GRIP_HELD));
    driver_see(&d, "");
    ck_assert_uint_eq(d.machine.releasing, 1);
    afl_machine_forget(&d.machine, p); /* the context goes away; what is left is the protocol's */
    ck_assert_uint_eq(d.machine.releasing, 0);
    driver_no_timer(&d);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {
        try_won,
        try_contended_is_retried_at_the_poll_interval,
        try_error_is_the_answer,
        try_error_that_leaves_a_descriptor_is_cleaned_up,
        each_head_gets_its_own_error,
        an_old_error_is_forgotten,
        only_the_head_is_tried_for,
        first_come_first_served,
        a_deadline_is_never_early_and_exact,
        a_deadline_far_away_does_not_wrap,
        deadlines_come_in_order_and_ties_in_submission_order,
        a_deadline_does_not_wait_for_the_attempt,
        a_granted_request_has_no_deadline,
        once_won,
        once_contended,
        once_pending,
        once_behind_a_holder_is_refused,
        once_behind_a_queue_is_refused,
        once_joins_shared_holders,
        once_that_hangs_is_answered_at_its_limit,
        once_after_an_attempt_left_behind_makes_its_own,
        once_gives_way_to_those_behind_it,
        once_does_not_wait_for_a_hold_that_stayed,
        once_does_not_wait_for_holders_it_cannot_join,
        once_won_and_not_adopted_is_not_tried_again,
        cancel_waiting_behind,
        cancel_with_another_reason,
        cancel_granted_takes_the_hold_back,
        cancel_granted_serves_the_next,
        cancel_held_is_refused,
        cancel_failing_is_answered_at_once,
        a_deadline_while_failing_keeps_the_reason,
        what_cannot_be_released,
        left_behind_won_serves_the_next_head,
        left_behind_won_serves_a_later_request,
        left_behind_won_in_the_wrong_mode_is_given_up,
        left_behind_won_by_a_lesser_descriptor_is_given_up,
        left_behind_contended_gives_the_next_head_its_own,
        left_behind_error_is_nobodys,
        left_behind_and_nobody_waits,
        a_new_head_is_tried_for_at_once,
        the_poll_interval_of_the_head_counts,
        the_poll_interval_can_change,
        changing_the_poll_interval_of_an_idle_path,
        watch_then_try_again_then_wait,
        a_watch_that_is_refused_means_polling,
        nothing_kept_is_not_watched,
        the_watch_ends_with_what_it_watches,
        a_watch_for_nobody_is_not_asked_for,
        a_watch_that_comes_too_late_is_ended,
        a_hint_tries_at_once_and_then_on_the_ladder,
        the_ladder_collapses_below_the_resolution,
        a_coarse_timer_has_no_ladder,
        a_hint_during_an_attempt_is_not_lost,
        a_hint_during_an_attempt_left_behind_is_not_lost,
        a_hint_during_a_beat_is_not_lost,
        a_hint_for_nobody_is_nothing,
        a_lost_watch_means_try_then_poll,
        a_new_poll_interval_leaves_the_ladder_alone,
        paths_do_not_wait_for_each_other,
        answers_come_in_the_order_of_decision,
        answers_can_be_delivered_out_of_order,
        a_forgotten_path_leaves_no_trace,
        a_path_can_be_forgotten_while_it_gives_up,
        NULL,
    };
    return driver_run("machine: queue", setup, tests);
}
