/* The machine: what of ours is on the file system. Each cell of the table of machine.h, and each way in which adopt,
 * withdraw, release and beat can end. */
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

/* A try for a ended so, and a waits on. */
static void a_waits(afl_outcome outcome)
{
    driver_submit(&d, p, a, 0);
    driver_see(&d, "try p a");
    driver_done(&d, p, outcome);
    driver_see(&d, "");
}

/* A try for a wins, and its adoption is under way. */
static void a_adopts(void)
{
    a->adopt = true;
    driver_submit(&d, p, a, 0);
    driver_see(&d, "try p a");
    driver_done(&d, p, WON);
    driver_see(&d, "adopt p a");
}

/* --------------------------------------------------------------------------------------------------- the table */

START_TEST(none_nobody_rests)
{
    afl_machine_hint(&d.machine, p, false, d.now); /* any input makes it look */
    driver_finish(&d);
}
END_TEST

START_TEST(none_head_tries)
{
    driver_submit(&d, p, a, 0);
    driver_see(&d, "try p a");
}
END_TEST

START_TEST(kept_nobody_withdraws)
{
    a_waits(KEPT);
    ck_assert_uint_eq(d.machine.releasing, 0);
    driver_cancel(&d, a, 0);
    driver_want(&d, "withdraw p");
    ck_assert_uint_eq(d.machine.releasing, 1);
    driver_done(&d, p, DONE);
    driver_see(&d, "a ECANCELED");
    driver_finish(&d);
}
END_TEST

START_TEST(kept_head_tries_in_any_mode)
{
    b->mode = SHARED;
    a_waits(KEPT);
    driver_submit(&d, p, b, 0);
    driver_cancel(&d, a, 0);
    driver_see(&d, "try p b; a ECANCELED");
}
END_TEST

START_TEST(pending_nobody_withdraws)
{
    a_waits(PENDING);
    driver_cancel(&d, a, 0);
    driver_see(&d, "withdraw p; a ECANCELED"); /* the answer does not wait for it */
    ck_assert_uint_eq(d.machine.releasing, 1);
    driver_done(&d, p, DONE);
    driver_finish(&d);
}
END_TEST

START_TEST(pending_fitting_head_inherits)
{
    a_waits(PENDING);
    driver_submit(&d, p, b, 0);
    driver_cancel(&d, a, 0);
    driver_see(&d, "try p b; a ECANCELED");
    driver_done(&d, p, WON);
    driver_see(&d, "b held");
}
END_TEST

START_TEST(pending_misfit_withdraws_then_tries)
{
    b->mode = SHARED;
    a_waits(PENDING);
    driver_submit(&d, p, b, 0);
    driver_cancel(&d, a, 0);
    driver_see(&d, "withdraw p; a ECANCELED");
    driver_done(&d, p, DONE);
    driver_see(&d, "try p b");
}
END_TEST

START_TEST(held_in_use_nobody_rests)
{
    driver_hold(&d, p, a);
    driver_see(&d, "");
    driver_no_timer(&d);
}
END_TEST

START_TEST(held_in_use_fitting_head_is_granted)
{
    a->mode = b->mode = SHARED;
    driver_hold(&d, p, a);
    driver_submit(&d, p, b, 0);
    driver_see(&d, "b held");
}
END_TEST

START_TEST(held_in_use_misfit_rests)
{
    a->mode = c->mode = SHARED;
    driver_hold(&d, p, a);
    driver_submit(&d, p, b, 0); /* exclusive */
    driver_see(&d, "");
    driver_cancel(&d, b, 0);
    c->need = 8; /* another descriptor */
    driver_submit(&d, p, c, 0);
    driver_see(&d, "b ECANCELED");
    driver_no_timer(&d);
}
END_TEST

START_TEST(held_unused_nobody_releases)
{
    driver_hold(&d, p, a);
    driver_release(&d, a, false);
    driver_see(&d, "release p");
}
END_TEST

START_TEST(held_unused_fitting_head_is_granted)
{
    driver_hold(&d, p, a);
    driver_submit(&d, p, b, 0);
    driver_release(&d, a, false);
    driver_see(&d, "b held");
}
END_TEST

START_TEST(held_unused_misfit_releases)
{
    a->mode = SHARED;
    driver_hold(&d, p, a);
    driver_submit(&d, p, b, 0);
    driver_release(&d, a, true);
    driver_see(&d, "release p");
    driver_done(&d, p, DONE);
    driver_see(&d, "try p b; a released"); /* at once: this is no pause */
}
END_TEST

START_TEST(held_unused_lesser_descriptor_releases)
{
    driver_hold(&d, p, a);
    b->need = 8;
    driver_submit(&d, p, b, 0);
    driver_release(&d, a, false);
    driver_see(&d, "release p");
    driver_done(&d, p, DONE);
    driver_see(&d, "try p b");
}
END_TEST

/* --------------------------------------------------------------------------------------------- a pending claim */

START_TEST(pending_is_retried_at_the_poll_interval)
{
    a_waits(PENDING);
    driver_next_timer(&d, 50 * MS); /* without a beat interval */
    driver_see(&d, "try p a");
    driver_done(&d, p, WON);
    driver_see(&d, "a held");
}
END_TEST

START_TEST(pending_beats)
{
    p->beat_interval = 20 * MS;
    a_waits(PENDING);
    driver_next_timer(&d, 20 * MS);
    driver_see(&d, "beat p");
    driver_pass(&d, 1 * MS);
    driver_done(&d, p, BEATEN);
    driver_see(&d, "");
    driver_next_timer(&d, 20 * MS);
    driver_see(&d, "beat p");
    driver_done(&d, p, BEATEN);
    driver_see(&d, "");
    driver_next_timer(&d, 9 * MS); /* the poll interval, from the attempt */
    driver_see(&d, "try p a");
    driver_done(&d, p, PENDING); /* refreshed the claim */
    driver_see(&d, "");
    driver_next_timer(&d, 20 * MS);
    driver_see(&d, "beat p");
}
END_TEST

START_TEST(a_lost_claim_is_tried_again_at_once)
{
    p->beat_interval = 20 * MS;
    a_waits(PENDING);
    driver_next_timer(&d, 20 * MS);
    driver_see(&d, "beat p");
    driver_done(&d, p, FAILED(AFL_GRIP_NONE));
    driver_see(&d, "try p a");
}
END_TEST

START_TEST(a_beat_left_behind)
{
    p->beat_interval = 20 * MS;
    a_waits(PENDING);
    driver_next_timer(&d, 20 * MS);
    driver_see(&d, "beat p");
    driver_cancel(&d, a, 0);
    driver_see(&d, "a ECANCELED");
    driver_done(&d, p, BEATEN);
    driver_see(&d, "withdraw p");
    driver_done(&d, p, DONE);
    driver_finish(&d);
}
END_TEST

START_TEST(a_new_poll_interval_during_a_beat)
{
    p->beat_interval = 20 * MS;
    a_waits(PENDING);
    driver_next_timer(&d, 20 * MS);
    driver_see(&d, "beat p");
    d.poll = 25 * MS;
    afl_machine_repoll(&d.machine, p, d.now);
    driver_see(&d, "");
    driver_done(&d, p, BEATEN);
    driver_see(&d, "");
    driver_next_timer(&d, 5 * MS);
    driver_see(&d, "try p a");
}
END_TEST

START_TEST(pending_is_listened_to)
{
    p->notify = true;
    driver_submit(&d, p, a, 0);
    driver_see(&d, "try p a");
    driver_done(&d, p, PENDING);
    driver_see(&d, "watch p; try p a"); /* who left between the two is not heard */
    driver_done(&d, p, PENDING);
    driver_see(&d, "");
    afl_machine_hint(&d.machine, p, AFL_HINT_AGAIN, d.now);
    driver_see(&d, "try p a");
    driver_done(&d, p, WON);
    driver_see(&d, "unwatch p; a held");
}
END_TEST

START_TEST(what_was_kept_is_listened_to_as_it_becomes_a_claim)
{
    p->notify = true;
    driver_submit(&d, p, a, 0);
    driver_see(&d, "try p a");
    driver_done(&d, p, KEPT);
    driver_see(&d, "watch p; try p a");
    driver_done(&d, p, PENDING); /* the same descriptor */
    driver_see(&d, "");
    ck_assert(p->watching);
    driver_next_timer(&d, 50 * MS); /* the fallback poll */
    driver_see(&d, "try p a");
    afl_outcome another = PENDING;
    another.renewed = true;
    driver_done(&d, p, another);
    driver_see(&d, "unwatch p; watch p; try p a");
    driver_done(&d, p, PENDING);
    driver_see(&d, "");
    driver_cancel(&d, a, 0);
    driver_see(&d, "unwatch p; withdraw p; a ECANCELED");
    driver_done(&d, p, DONE);
    driver_finish(&d);
}
END_TEST

START_TEST(a_lost_claim_is_not_listened_to)
{
    p->notify = true;
    p->beat_interval = 20 * MS;
    driver_submit(&d, p, a, 0);
    driver_see(&d, "try p a");
    driver_done(&d, p, PENDING);
    driver_see(&d, "watch p; try p a");
    driver_done(&d, p, PENDING);
    driver_see(&d, "");
    driver_next_timer(&d, 20 * MS);
    driver_see(&d, "beat p");
    driver_done(&d, p, FAILED(AFL_GRIP_NONE));
    driver_see(&d, "unwatch p; try p a");
}
END_TEST

START_TEST(pending_is_not_listened_to_for_a_reader)
{
    p->notify = true;
    b->mode = SHARED;
    driver_submit(&d, p, a, 0);
    driver_submit(&d, p, b, 0);
    driver_see(&d, "try p a");
    driver_cancel(&d, a, 0);
    driver_see(&d, "a ECANCELED");
    driver_done(&d, p, PENDING);
    driver_see(&d, "withdraw p");
    driver_done(&d, p, DONE);
    driver_see(&d, "try p b");
}
END_TEST

START_TEST(pending_left_behind_serves_the_next_exclusive_head)
{
    driver_submit(&d, p, a, 0);
    driver_submit(&d, p, b, 0);
    driver_see(&d, "try p a");
    driver_cancel(&d, a, 0);
    driver_see(&d, "a ECANCELED");
    driver_done(&d, p, PENDING);
    driver_see(&d, "try p b");
}
END_TEST

START_TEST(pending_left_behind_is_withdrawn_for_a_reader)
{
    b->mode = SHARED;
    driver_submit(&d, p, a, 0);
    driver_submit(&d, p, b, 0);
    driver_see(&d, "try p a");
    driver_cancel(&d, a, 0);
    driver_see(&d, "a ECANCELED");
    driver_done(&d, p, PENDING);
    driver_see(&d, "withdraw p");
    driver_done(&d, p, DONE);
    driver_see(&d, "try p b");
}
END_TEST

START_TEST(a_request_during_withdraw_tries_afterwards)
{
    a_waits(PENDING);
    driver_cancel(&d, a, 0);
    driver_see(&d, "withdraw p; a ECANCELED");
    driver_submit(&d, p, b, 0);
    driver_see(&d, "");
    driver_done(&d, p, DONE);
    driver_see(&d, "try p b");
}
END_TEST

START_TEST(a_failed_withdraw_is_retried_ever_more_slowly)
{
    a_waits(PENDING);
    driver_cancel(&d, a, 0);
    driver_see(&d, "withdraw p; a ECANCELED");
    static const uint64_t BACK_OFF[] = {10 * MS, 20 * MS, 40 * MS, 80 * MS, 160 * MS, 320 * MS, 640 * MS, 640 * MS};
    for (size_t i = 0; i < sizeof BACK_OFF / sizeof BACK_OFF[0]; i++) {
        driver_done(&d, p, FAILED(AFL_GRIP_PENDING));
        driver_see(&d, "");
        ck_assert_uint_eq(d.machine.releasing, 1);
        driver_next_timer(&d, BACK_OFF[i]);
        driver_see(&d, "withdraw p");
    }
    driver_done(&d, p, DONE);
    driver_finish(&d);
}
END_TEST

START_TEST(a_failed_withdraw_that_left_nothing_is_done)
{
    a_waits(PENDING);
    driver_cancel(&d, a, 0);
    driver_see(&d, "withdraw p; a ECANCELED");
    driver_done(&d, p, FAILED(AFL_GRIP_NONE));
    driver_finish(&d);
}
END_TEST

START_TEST(a_claim_that_could_not_be_withdrawn_is_inherited)
{
    a_waits(PENDING);
    driver_cancel(&d, a, 0);
    driver_see(&d, "withdraw p; a ECANCELED");
    driver_done(&d, p, FAILED(AFL_GRIP_PENDING));
    driver_see(&d, "");
    driver_submit(&d, p, b, 0);
    driver_see(&d, "try p b");
}
END_TEST

/* ------------------------------------------------------------------------------------------------------- adopt */

START_TEST(adopt_won)
{
    a_adopts();
    ck_assert_uint_eq(d.machine.holding, 0);
    driver_done(&d, p, WON);
    driver_see(&d, "a held");
    ck_assert_uint_eq(a->attempts, 1);
}
END_TEST

START_TEST(adopt_finds_another_file)
{
    a_adopts();
    driver_done(&d, p, STALE);
    driver_see(&d, "release p");
    driver_done(&d, p, DONE);
    driver_see(&d, "try p a");
    driver_done(&d, p, WON);
    driver_see(&d, "adopt p a");
    driver_done(&d, p, WON);
    driver_see(&d, "a held");
    ck_assert_uint_eq(a->attempts, 2);
}
END_TEST

START_TEST(adopt_finds_another_file_while_others_hold)
{
    a->mode = b->mode = c->mode = SHARED;
    driver_hold(&d, p, a);
    b->adopt = true;
    driver_submit(&d, p, b, 0);
    driver_submit(&d, p, c, 0);
    driver_see(&d, "adopt p b");
    driver_done(&d, p, STALE);
    driver_see(&d, ""); /* nobody may join a file that the path does not name */
    ck_assert(p->stale);
    driver_release(&d, a, false);
    driver_see(&d, "release p");
    driver_done(&d, p, DONE);
    driver_see(&d, "try p b");
    driver_done(&d, p, WON);
    driver_see(&d, "adopt p b");
    driver_done(&d, p, WON);
    driver_see(&d, "b held; c held");
}
END_TEST

START_TEST(adopt_loses_the_file)
{
    a_adopts();
    driver_done(&d, p, CONTENDED);
    driver_see(&d, "try p a");
    ck_assert(p->foreign);
}
END_TEST

START_TEST(adopt_loses_the_file_and_keeps_the_descriptor)
{
    p->notify = true;
    a_adopts();
    driver_done(&d, p, KEPT);
    driver_see(&d, "try p a");
    driver_done(&d, p, KEPT);
    driver_see(&d, "watch p; try p a");
}
END_TEST

START_TEST(adopt_loses_the_file_of_one_who_releases)
{
    driver_hold(&d, p, a);
    b->adopt = true;
    driver_submit(&d, p, b, 0);
    driver_release(&d, a, true);
    driver_see(&d, "adopt p b");
    ck_assert_int_eq(a->state, AFL_RELEASING);
    driver_done(&d, p, CONTENDED);
    driver_see(&d, "try p b; a released");
}
END_TEST

START_TEST(adopt_error_waits_for_the_roll_back)
{
    a_adopts();
    afl_outcome refused = FAILED(AFL_GRIP_HELD);
    refused.status = AFLOCK_EREFUSED;
    driver_done(&d, p, refused);
    driver_see(&d, "release p");
    ck_assert_uint_eq(d.machine.releasing, 1);
    ck_assert_uint_eq(d.machine.waiting, 0);
    afl_outcome done = DONE;
    done.cleanup_errno = 28;
    driver_done(&d, p, done);
    driver_see(&d, "a EREFUSED");
    ck_assert_int_eq(a->sys_errno, 5);
    ck_assert_int_eq(a->cleanup_errno, 28);
    ck_assert_str_eq(a->step, "the test's step");
    driver_finish(&d);
}
END_TEST

START_TEST(adopt_error_whose_roll_back_fails)
{
    a_adopts();
    driver_done(&d, p, FAILED(AFL_GRIP_HELD));
    driver_see(&d, "release p");
    afl_outcome failed = FAILED(AFL_GRIP_HELD);
    failed.sys_errno = 9;
    driver_done(&d, p, failed);
    driver_see(&d, "a ESYS");
    ck_assert_int_eq(a->sys_errno, 5);
    ck_assert_int_eq(a->cleanup_errno, 9); /* never swallowed */
    driver_next_timer(&d, 10 * MS);
    driver_see(&d, "release p");
    driver_done(&d, p, DONE);
    driver_finish(&d);
}
END_TEST

START_TEST(adopt_error_passes_the_file_on)
{
    a_adopts();
    driver_submit(&d, p, b, 0);
    driver_see(&d, "");
    driver_done(&d, p, FAILED(AFL_GRIP_HELD));
    driver_see(&d, "a ESYS; b held");
}
END_TEST

START_TEST(adopt_errors_one_after_the_other)
{
    a_adopts();
    b->adopt = true;
    driver_submit(&d, p, b, 0);
    driver_see(&d, "");
    driver_done(&d, p, FAILED(AFL_GRIP_HELD));
    driver_see(&d, "adopt p b");
    driver_done(&d, p, FAILED(AFL_GRIP_HELD));
    driver_see(&d, "release p; a ESYS");
    driver_done(&d, p, DONE);
    driver_see(&d, "b ESYS");
    driver_finish(&d);
}
END_TEST

START_TEST(adopt_error_that_lost_the_file)
{
    a_adopts();
    driver_submit(&d, p, b, 0);
    driver_see(&d, "");
    driver_done(&d, p, FAILED(AFL_GRIP_NONE));
    driver_see(&d, "try p b; a ESYS");
}
END_TEST

START_TEST(adopt_error_beside_holders)
{
    a->mode = b->mode = SHARED;
    driver_hold(&d, p, a);
    b->adopt = true;
    driver_submit(&d, p, b, 0);
    driver_see(&d, "adopt p b");
    driver_done(&d, p, FAILED(AFL_GRIP_HELD));
    driver_see(&d, "b ESYS"); /* nothing to roll back */
    ck_assert_int_eq(a->state, AFL_HELD);
}
END_TEST

START_TEST(adopt_left_behind_serves_the_next)
{
    a_adopts();
    driver_submit(&d, p, b, 0);
    driver_cancel(&d, a, 0);
    driver_see(&d, "a ECANCELED");
    driver_done(&d, p, WON);
    driver_see(&d, "b held");
}
END_TEST

START_TEST(adopt_left_behind_is_rolled_back)
{
    const afl_outcome outcomes[] = {WON, STALE, FAILED(AFL_GRIP_HELD)};
    for (size_t i = 0; i < 3; i++) {
        a_adopts();
        driver_cancel(&d, a, 0);
        driver_see(&d, "a ECANCELED");
        driver_done(&d, p, outcomes[i]);
        driver_see(&d, "release p");
        driver_done(&d, p, DONE);
        driver_see(&d, "");
    }
    driver_finish(&d);
}
END_TEST

START_TEST(holders_leave_while_one_joins)
{
    a->mode = b->mode = SHARED;
    driver_hold(&d, p, a);
    b->adopt = true;
    driver_submit(&d, p, b, 0);
    driver_see(&d, "adopt p b");
    driver_release(&d, a, true);
    driver_see(&d, ""); /* the file is handed on, or given up: the answer waits for it */
    driver_done(&d, p, WON);
    driver_see(&d, "a released; b held");
}
END_TEST

START_TEST(holders_leave_while_one_fails_to_join)
{
    a->mode = b->mode = SHARED;
    driver_hold(&d, p, a);
    b->adopt = true;
    driver_submit(&d, p, b, 0);
    driver_see(&d, "adopt p b");
    driver_release(&d, a, true);
    driver_see(&d, "");
    driver_done(&d, p, FAILED(AFL_GRIP_HELD));
    driver_see(&d, "release p");
    driver_done(&d, p, DONE);
    driver_see(&d, "b ESYS; a released");
    driver_finish(&d);
}
END_TEST

/* ----------------------------------------------------------------------------------------------------- release */

START_TEST(release_with_answer)
{
    driver_hold(&d, p, a);
    driver_release(&d, a, true);
    driver_see(&d, "release p");
    ck_assert_int_eq(a->state, AFL_RELEASING);
    ck_assert_uint_eq(d.machine.releasing, 1);
    ck_assert_uint_eq(d.machine.holding, 0);
    afl_outcome done = DONE;
    done.cleanup_errno = 4;
    driver_done(&d, p, done);
    driver_see(&d, "a released");
    ck_assert_int_eq(a->status, 0);
    ck_assert_int_eq(a->cleanup_errno, 4); /* of the close */
    driver_finish(&d);
}
END_TEST

START_TEST(release_of_one_of_several_is_answered_without_the_file)
{
    a->mode = b->mode = SHARED;
    driver_hold(&d, p, a);
    driver_submit(&d, p, b, 0);
    driver_see(&d, "b held");
    driver_release(&d, a, true);
    driver_see(&d, "a released");
    driver_release(&d, b, true);
    driver_see(&d, "release p");
    driver_done(&d, p, DONE);
    driver_see(&d, "b released");
    driver_finish(&d);
}
END_TEST

START_TEST(release_failed_with_answer_is_held_as_before)
{
    driver_hold(&d, p, a);
    driver_release(&d, a, true);
    driver_submit(&d, p, b, 0);
    driver_see(&d, "a released; b held"); /* handed on: the file is not asked */
    driver_release(&d, b, true);
    driver_see(&d, "release p");
    driver_done(&d, p, FAILED(AFL_GRIP_HELD));
    driver_see(&d, "b reheld");
    ck_assert_int_eq(b->status, AFLOCK_ESYS);
    ck_assert_int_eq(b->sys_errno, 5);
    ck_assert_str_eq(b->step, "the test's step");
    ck_assert_int_eq(b->state, AFL_HELD);
    ck_assert_uint_eq(d.machine.holding, 1);
    ck_assert_uint_eq(d.machine.releasing, 0);
    driver_no_timer(&d);
    driver_submit(&d, p, c, 0);
    driver_see(&d, "");
    driver_release(&d, b, true);
    driver_see(&d, "b released; c held");
    ck_assert_int_eq(b->sys_errno, 0);
    driver_release(&d, c, false);
    driver_see(&d, "release p");
    driver_done(&d, p, DONE);
    driver_finish(&d);
}
END_TEST

START_TEST(release_failed_without_answer_is_retried_ever_more_slowly)
{
    driver_hold(&d, p, a);
    driver_release(&d, a, false);
    driver_see(&d, "release p");
    static const uint64_t BACK_OFF[] = {10 * MS, 20 * MS, 40 * MS, 80 * MS, 160 * MS, 320 * MS, 640 * MS, 640 * MS};
    for (size_t i = 0; i < sizeof BACK_OFF / sizeof BACK_OFF[0]; i++) {
        driver_done(&d, p, FAILED(AFL_GRIP_HELD));
        driver_see(&d, "");
        ck_assert_uint_eq(d.machine.releasing, 1); /* keeps the loop alive */
        driver_next_timer(&d, BACK_OFF[i]);
        driver_see(&d, "release p");
    }
    driver_done(&d, p, DONE);
    driver_see(&d, "");

    driver_hold(&d, p, a); /* success forgets the failures */
    driver_release(&d, a, false);
    driver_see(&d, "release p");
    driver_done(&d, p, FAILED(AFL_GRIP_HELD));
    driver_see(&d, "");
    driver_next_timer(&d, 10 * MS);
}
END_TEST

START_TEST(a_release_can_be_answered_before_its_end)
{
    afl_machine_end_release(&d.machine, p, AFLOCK_ECLOSED, d.now); /* nothing to answer */
    driver_see(&d, "");
    driver_hold(&d, p, a);
    driver_release(&d, a, true);
    driver_see(&d, "release p");
    afl_machine_end_release(&d.machine, p, AFLOCK_ECLOSED, d.now);
    driver_see(&d, "a released");
    ck_assert_int_eq(a->status, AFLOCK_ECLOSED);
    driver_done(&d, p, FAILED(AFL_GRIP_HELD)); /* goes on without it */
    driver_see(&d, "");
    driver_next_timer(&d, 10 * MS);
    driver_see(&d, "release p");
    driver_done(&d, p, DONE);
    driver_finish(&d);
}
END_TEST

START_TEST(a_file_that_could_not_be_released_is_handed_on)
{
    driver_hold(&d, p, a);
    driver_release(&d, a, false);
    driver_see(&d, "release p");
    driver_done(&d, p, FAILED(AFL_GRIP_HELD));
    driver_see(&d, "");
    driver_submit(&d, p, b, 0);
    driver_see(&d, "b held");
    driver_release(&d, b, true); /* its own release is not delayed by the failure before */
    driver_see(&d, "release p");
}
END_TEST

START_TEST(a_request_during_release_tries_afterwards)
{
    driver_hold(&d, p, a);
    driver_release(&d, a, true);
    driver_see(&d, "release p");
    driver_submit(&d, p, b, 0);
    driver_see(&d, "");
    driver_done(&d, p, DONE);
    driver_see(&d, "try p b; a released");
}
END_TEST

START_TEST(one_who_waits_during_a_failed_release_waits_on)
{
    driver_hold(&d, p, a);
    driver_release(&d, a, true);
    driver_see(&d, "release p");
    driver_submit(&d, p, b, 0);
    driver_submit(&d, p, c, 0);
    driver_done(&d, p, FAILED(AFL_GRIP_HELD));
    driver_see(&d, "a reheld");
    ck_assert(p->head == b && p->tail == c);
    driver_release(&d, a, false);
    driver_see(&d, "b held");
}
END_TEST

START_TEST(a_hold_that_stayed_meets_its_owners_other_requests)
{
    int owner;
    a->owner = c->owner = &owner;
    afl_request *other_mode = driver_request_new(&d, "other", SHARED, &owner);
    driver_hold(&d, p, a);
    driver_release(&d, a, true);
    driver_see(&d, "release p");
    driver_submit(&d, p, b, 0);
    driver_submit(&d, p, c, 0); /* behind b; but if a's hold stays, it must not wait for it */
    driver_see(&d, "");
    driver_done(&d, p, FAILED(AFL_GRIP_HELD));
    driver_see(&d, "a reheld; c held");
    driver_release(&d, c, false);
    driver_release(&d, a, true);
    driver_see(&d, "a released; b held");

    driver_release(&d, b, false);
    driver_see(&d, "release p");
    driver_done(&d, p, DONE);
    driver_hold(&d, p, a);
    driver_release(&d, a, true);
    driver_see(&d, "release p");
    driver_submit(&d, p, other_mode, 0);
    driver_done(&d, p, FAILED(AFL_GRIP_HELD));
    driver_see(&d, "a reheld; other EDEADLK");
}
END_TEST

/* ------------------------------------------------------------------------------ a protocol that cannot hand on */

START_TEST(without_hand_on_each_gets_its_own)
{
    p->hand_on = false;
    driver_submit(&d, p, a, 0);
    driver_submit(&d, p, b, 0);
    driver_see(&d, "try p a");
    driver_done(&d, p, WON);
    driver_see(&d, "a held");
    driver_release(&d, a, true);
    driver_see(&d, "release p");
    driver_done(&d, p, DONE);
    driver_see(&d, "try p b; a released");
    driver_done(&d, p, WON);
    driver_see(&d, "b held");
}
END_TEST

START_TEST(without_hand_on_readers_do_not_join)
{
    p->hand_on = false;
    a->mode = b->mode = SHARED;
    driver_hold(&d, p, a);
    driver_submit(&d, p, b, 0);
    driver_see(&d, "");
    driver_release(&d, a, false);
    driver_see(&d, "release p");
    driver_done(&d, p, DONE);
    driver_see(&d, "try p b");
}
END_TEST

START_TEST(without_hand_on_a_win_left_behind_is_rolled_back)
{
    p->hand_on = false;
    driver_submit(&d, p, a, 0);
    driver_submit(&d, p, b, 0);
    driver_see(&d, "try p a");
    driver_cancel(&d, a, 0);
    driver_see(&d, "a ECANCELED");
    driver_done(&d, p, WON);
    driver_see(&d, "release p");
    driver_done(&d, p, DONE);
    driver_see(&d, "try p b");
    driver_done(&d, p, WON);
    driver_see(&d, "b held");
}
END_TEST

START_TEST(without_hand_on_an_adoption_is_for_its_request)
{
    p->hand_on = false;
    a_adopts();
    driver_submit(&d, p, b, 0);
    driver_see(&d, "");
    driver_done(&d, p, FAILED(AFL_GRIP_HELD));
    driver_see(&d, "release p");
    driver_done(&d, p, DONE);
    driver_see(&d, "try p b; a ESYS");
}
END_TEST

START_TEST(without_hand_on_owners_still_count)
{
    int owner;
    p->hand_on = false;
    a->owner = b->owner = &owner;
    driver_hold(&d, p, a);
    driver_submit(&d, p, b, 0);
    driver_see(&d, "b held");
    driver_release(&d, a, false);
    driver_see(&d, "");
    driver_release(&d, b, false);
    driver_see(&d, "release p");
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {
        none_nobody_rests,
        none_head_tries,
        kept_nobody_withdraws,
        kept_head_tries_in_any_mode,
        pending_nobody_withdraws,
        pending_fitting_head_inherits,
        pending_misfit_withdraws_then_tries,
        held_in_use_nobody_rests,
        held_in_use_fitting_head_is_granted,
        held_in_use_misfit_rests,
        held_unused_nobody_releases,
        held_unused_fitting_head_is_granted,
        held_unused_misfit_releases,
        held_unused_lesser_descriptor_releases,
        pending_is_retried_at_the_poll_interval,
        pending_beats,
        a_lost_claim_is_tried_again_at_once,
        a_beat_left_behind,
        a_new_poll_interval_during_a_beat,
        pending_is_listened_to,
        what_was_kept_is_listened_to_as_it_becomes_a_claim,
        a_lost_claim_is_not_listened_to,
        pending_is_not_listened_to_for_a_reader,
        pending_left_behind_serves_the_next_exclusive_head,
        pending_left_behind_is_withdrawn_for_a_reader,
        a_request_during_withdraw_tries_afterwards,
        a_failed_withdraw_is_retried_ever_more_slowly,
        a_failed_withdraw_that_left_nothing_is_done,
        a_claim_that_could_not_be_withdrawn_is_inherited,
        adopt_won,
        adopt_finds_another_file,
        adopt_finds_another_file_while_others_hold,
        adopt_loses_the_file,
        adopt_loses_the_file_and_keeps_the_descriptor,
        adopt_loses_the_file_of_one_who_releases,
        adopt_error_waits_for_the_roll_back,
        adopt_error_whose_roll_back_fails,
        adopt_error_passes_the_file_on,
        adopt_errors_one_after_the_other,
        adopt_error_that_lost_the_file,
        adopt_error_beside_holders,
        adopt_left_behind_serves_the_next,
        adopt_left_behind_is_rolled_back,
        holders_leave_while_one_joins,
        holders_leave_while_one_fails_to_join,
        release_with_answer,
        release_of_one_of_several_is_answered_without_the_file,
        release_failed_with_answer_is_held_as_before,
        release_failed_without_answer_is_retried_ever_more_slowly,
        a_release_can_be_answered_before_its_end,
        a_file_that_could_not_be_released_is_handed_on,
        a_request_during_release_tries_afterwards,
        one_who_waits_during_a_failed_release_waits_on,
        a_hold_that_stayed_meets_its_owners_other_requests,
        without_hand_on_each_gets_its_own,
        without_hand_on_readers_do_not_join,
        without_hand_on_a_win_left_behind_is_rolled_back,
        without_hand_on_an_adoption_is_for_its_request,
        without_hand_on_owners_still_count,
        NULL,
    };
    return driver_run("machine: grip", setup, tests);
}
