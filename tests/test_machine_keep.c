/* The machine: a file that stays open from one hold to the next. What is kept rests when nobody waits, counts as
 * nothing that is under way, and goes when it is no longer to be kept. */
#include "support/machine_driver.h"

static driver d;
static afl_path *p;
static afl_request *a, *b;

static void setup(void)
{
    driver_start(&d);
    p = driver_path_new(&d, "p");
    a = driver_request_new(&d, "a", EXCLUSIVE, NULL);
    b = driver_request_new(&d, "b", EXCLUSIVE, NULL);
    afl_machine_keep(&d.machine, p, true);
}

/* Nothing is under way, and nothing is due. */
static void must_rest(void)
{
    driver_see(&d, "");
    driver_no_timer(&d);
    ck_assert_uint_eq(d.machine.releasing, 0);
    ck_assert_int_eq(p->grip, AFL_GRIP_KEPT);
}

/* a has held the file, which is open still. */
static void leave_open(void)
{
    driver_hold(&d, p, a);
    driver_release(&d, a, false);
    driver_see(&d, "release p");
    driver_done(&d, p, LEFT_OPEN);
    must_rest();
}

/* It is not to be kept any more: it goes, and that is under way. */
static void let_go(void)
{
    afl_machine_keep(&d.machine, p, false);
    driver_see(&d, "withdraw p");
    ck_assert_uint_eq(d.machine.releasing, 1);
    driver_done(&d, p, DONE);
    driver_finish(&d);
}

START_TEST(what_is_left_open_rests)
{
    leave_open();
    driver_pass(&d, 10 * AFLOCK_SECOND);
    must_rest();
    let_go();
}
END_TEST

START_TEST(the_release_is_answered)
{
    driver_hold(&d, p, a);
    driver_release(&d, a, true);
    driver_see(&d, "release p");
    ck_assert_uint_eq(d.machine.releasing, 1);
    driver_done(&d, p, LEFT_OPEN);
    driver_see(&d, "a released");
    must_rest();
    let_go();
}
END_TEST

START_TEST(the_next_one_tries_at_once_in_any_mode)
{
    leave_open();
    b->mode = SHARED;
    driver_submit(&d, p, b, 0);
    driver_see(&d, "try p b");
    driver_done(&d, p, WON);
    driver_see(&d, "b held");
    driver_release(&d, b, false);
    driver_see(&d, "release p");
    driver_done(&d, p, LEFT_OPEN);
    must_rest();
    let_go();
}
END_TEST

/* One attempt is refused only by somebody, and what is open is nobody. */
START_TEST(one_attempt_is_made)
{
    leave_open();
    b->once = true;
    driver_submit(&d, p, b, 0);
    driver_see(&d, "try p b");
    driver_done(&d, p, KEPT);
    driver_see(&d, "b EWOULDBLOCK");
    must_rest();
    let_go();
}
END_TEST

START_TEST(who_stops_waiting_leaves_it_open)
{
    driver_submit(&d, p, a, 0);
    driver_see(&d, "try p a");
    driver_done(&d, p, KEPT);
    driver_see(&d, "");
    driver_cancel(&d, a, 0);
    driver_see(&d, "a ECANCELED");
    must_rest();
    let_go();
}
END_TEST

START_TEST(who_stops_waiting_stops_listening)
{
    p->notify = true;
    ((driver_path *)(void *)p)->watchable = true;
    driver_submit(&d, p, a, 0);
    driver_see(&d, "try p a");
    driver_done(&d, p, KEPT);
    driver_see(&d, "watch p; try p a");
    driver_done(&d, p, KEPT);
    driver_cancel(&d, a, 0);
    driver_see(&d, "unwatch p; a ECANCELED");
    must_rest();
    afl_machine_hint(&d.machine, p, AFL_HINT_CHANGED, d.now); /* is nobody's business now */
    must_rest();
    let_go();
}
END_TEST

START_TEST(an_attempt_that_nobody_waits_for_leaves_it_open)
{
    leave_open();
    driver_submit(&d, p, b, 0);
    driver_see(&d, "try p b");
    driver_cancel(&d, b, 0);
    driver_see(&d, "b ECANCELED");
    driver_done(&d, p, WON);
    driver_see(&d, "release p");
    ck_assert_uint_eq(d.machine.releasing, 1);
    driver_done(&d, p, LEFT_OPEN);
    must_rest();
    let_go();
}
END_TEST

/* The protocol may close it all the same. */
START_TEST(what_is_closed_is_gone)
{
    driver_hold(&d, p, a);
    driver_release(&d, a, false);
    driver_see(&d, "release p");
    driver_done(&d, p, DONE);
    driver_finish(&d);
}
END_TEST

START_TEST(not_kept_any_more_during_the_release)
{
    driver_hold(&d, p, a);
    driver_release(&d, a, true);
    driver_see(&d, "release p");
    afl_machine_keep(&d.machine, p, false);
    driver_see(&d, "");
    driver_done(&d, p, LEFT_OPEN);
    driver_see(&d, "withdraw p; a released");
    ck_assert_uint_eq(d.machine.releasing, 1);
    driver_done(&d, p, DONE);
    driver_finish(&d);
}
END_TEST

START_TEST(not_kept_any_more_during_an_attempt)
{
    leave_open();
    driver_submit(&d, p, b, 0);
    driver_see(&d, "try p b");
    afl_machine_keep(&d.machine, p, false);
    driver_cancel(&d, b, 0);
    driver_see(&d, "b ECANCELED");
    driver_done(&d, p, KEPT);
    driver_see(&d, "withdraw p");
    driver_done(&d, p, DONE);
    driver_finish(&d);
}
END_TEST

START_TEST(not_kept_any_more_while_somebody_waits)
{
    driver_submit(&d, p, a, 0);
    driver_see(&d, "try p a");
    driver_done(&d, p, KEPT);
    afl_machine_keep(&d.machine, p, false);
    driver_see(&d, "");
    driver_next_timer(&d, 50 * MS);
    driver_see(&d, "try p a");
    driver_done(&d, p, WON);
    driver_see(&d, "a held");
    driver_release(&d, a, false);
    driver_see(&d, "release p");
    driver_done(&d, p, DONE);
    driver_finish(&d);
}
END_TEST

/* What is being withdrawn goes; the next one opens it anew. */
START_TEST(kept_again_during_a_withdrawal)
{
    leave_open();
    afl_machine_keep(&d.machine, p, false);
    driver_see(&d, "withdraw p");
    afl_machine_keep(&d.machine, p, true);
    driver_see(&d, "");
    ck_assert_uint_eq(d.machine.releasing, 1);
    driver_done(&d, p, DONE);
    driver_see(&d, "");
    driver_finish(&d);
}
END_TEST

START_TEST(kept_again_after_a_withdrawal_that_failed)
{
    leave_open();
    afl_machine_keep(&d.machine, p, false);
    driver_see(&d, "withdraw p");
    driver_done(&d, p, FAILED(AFL_GRIP_KEPT));
    driver_see(&d, "");
    afl_machine_keep(&d.machine, p, true);
    must_rest();
    driver_pass(&d, 10 * MS);
    let_go();
}
END_TEST

START_TEST(a_failed_release_is_tried_again)
{
    driver_hold(&d, p, a);
    driver_release(&d, a, false);
    driver_see(&d, "release p");
    driver_done(&d, p, FAILED(AFL_GRIP_HELD));
    driver_see(&d, "");
    ck_assert_uint_eq(d.machine.releasing, 1);
    driver_next_timer(&d, 10 * MS);
    driver_see(&d, "release p");
    driver_done(&d, p, LEFT_OPEN);
    must_rest();
    let_go();
}
END_TEST

START_TEST(a_claim_is_withdrawn_all_the_same)
{
    driver_submit(&d, p, a, 0);
    driver_see(&d, "try p a");
    driver_done(&d, p, PENDING);
    driver_cancel(&d, a, 0);
    driver_see(&d, "withdraw p; a ECANCELED");
    ck_assert_uint_eq(d.machine.releasing, 1);
    driver_done(&d, p, DONE);
    driver_finish(&d);
}
END_TEST

/* Others get the file although it stays open. */
START_TEST(a_run_of_hand_offs_ends_in_a_pause)
{
    driver_hold(&d, p, a);
    driver_pass(&d, 5 * MS);
    driver_submit(&d, p, b, 0);
    driver_release(&d, a, false);
    driver_see(&d, "release p");
    driver_done(&d, p, LEFT_OPEN);
    driver_see(&d, "");
    driver_next_timer(&d, 250 * US);
    driver_see(&d, "try p b");
    driver_done(&d, p, WON);
    driver_see(&d, "b held");
}
END_TEST

START_TEST(other_paths_are_not_concerned)
{
    afl_path *q = driver_path_new(&d, "q");
    leave_open();
    driver_submit(&d, q, b, 0);
    driver_see(&d, "try q b");
    driver_done(&d, q, KEPT);
    driver_cancel(&d, b, 0);
    driver_see(&d, "withdraw q; b ECANCELED");
    driver_done(&d, q, DONE);
    let_go();
}
END_TEST

/* Another spelling of the path: those who wait there use what is open here. */
START_TEST(merged_waiters_find_it_open)
{
    afl_path *q = driver_path_new(&d, "q");
    leave_open();
    driver_submit(&d, q, b, 0);
    driver_see(&d, "try q b");
    afl_machine_merge(&d.machine, p, q, d.now);
    driver_see(&d, "try p b");
    driver_done(&d, p, WON);
    driver_see(&d, "b held");
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {
        what_is_left_open_rests,
        the_release_is_answered,
        the_next_one_tries_at_once_in_any_mode,
        one_attempt_is_made,
        who_stops_waiting_leaves_it_open,
        who_stops_waiting_stops_listening,
        an_attempt_that_nobody_waits_for_leaves_it_open,
        what_is_closed_is_gone,
        not_kept_any_more_during_the_release,
        not_kept_any_more_during_an_attempt,
        not_kept_any_more_while_somebody_waits,
        kept_again_during_a_withdrawal,
        kept_again_after_a_withdrawal_that_failed,
        a_failed_release_is_tried_again,
        a_claim_is_withdrawn_all_the_same,
        a_run_of_hand_offs_ends_in_a_pause,
        other_paths_are_not_concerned,
        merged_waiters_find_it_open,
        NULL,
    };
    return driver_run("machine: keep", setup, tests);
}
