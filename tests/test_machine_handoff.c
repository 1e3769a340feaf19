/* The machine: passing a hold on inside the context; how long a run may last, and the pause after it. */
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

/* a and b pass p to each other, both greedy, until the machine asks for something. Returns the number of hand-offs;
 * the one in *holder holds, or released last. Each hold lasts `ns`. */
static unsigned ping_pong(afl_request **holder, uint64_t ns, unsigned most)
{
    unsigned count = 0;
    for (; count < most; count++) {
        afl_request *next = *holder == a ? b : a;
        if (next->state == AFL_IDLE)
            driver_submit(&d, p, next, 0);
        driver_pass(&d, ns);
        driver_release(&d, *holder, false);
        driver_collect_actions(&d);
        if (d.length)
            break;
        driver_collect_answers(&d);
        driver_clear(&d);
        ck_assert_int_eq(next->state, AFL_HELD);
        *holder = next;
    }
    return count;
}

/* What follows a run: the file is given up, nobody tries for 250 us, then the next head does and wins. */
static void pause_and_win(afl_request **holder)
{
    afl_request *next = *holder == a ? b : a;
    driver_see(&d, "release p");
    driver_pass(&d, 3 * US);
    driver_done(&d, p, DONE);
    driver_see(&d, "");
    driver_next_timer(&d, 250 * US); /* counts from the end of the release */
    driver_see(&d, next == a ? "try p a" : "try p b");
    driver_done(&d, p, WON);
    driver_see(&d, next == a ? "a held" : "b held");
    *holder = next;
}

/* ---------------------------------------------------------------------------------------------------- hand-offs */

START_TEST(a_release_is_a_grant)
{
    driver_hold(&d, p, a);
    driver_submit(&d, p, b, 0);
    driver_submit(&d, p, c, 0);
    driver_release(&d, a, true);
    driver_see(&d, "a released; b held");
    ck_assert_uint_eq(b->attempts, 0);
    driver_release(&d, b, false);
    driver_see(&d, "c held");
    driver_release(&d, c, true);
    driver_see(&d, "release p");
    driver_done(&d, p, DONE);
    driver_see(&d, "c released");
    driver_finish(&d);
}
END_TEST

/* Somebody outside wants it. */
START_TEST(a_yield_ends_the_run)
{
    driver_hold(&d, p, a);
    driver_submit(&d, p, b, 0);
    afl_machine_yield(&d.machine, p);
    driver_see(&d, "");
    driver_release(&d, a, false);
    afl_request *holder = a;
    pause_and_win(&holder);
    afl_machine_yield(&d.machine, p); /* nobody waits: the next one comes too soon */
    driver_release(&d, b, false);
    driver_see(&d, "release p");
    driver_done(&d, p, DONE);
    afl_machine_yield(&d.machine, p); /* not held: nothing */
    driver_submit(&d, p, c, 0);
    driver_see(&d, "");
    driver_next_timer(&d, 250 * US);
    driver_see(&d, "try p c");
    driver_done(&d, p, WON);
    driver_see(&d, "c held");
    driver_submit(&d, p, a, 0);
    driver_release(&d, c, false);
    driver_see(&d, "a held"); /* it was for that hold */
    driver_release(&d, a, false);
    driver_serve(&d);
    driver_finish(&d);
}
END_TEST

/* While others of ours hold it, it is shared as before. */
START_TEST(a_yield_takes_nothing_from_holders)
{
    a->mode = b->mode = SHARED;
    driver_hold(&d, p, a);
    afl_machine_yield(&d.machine, p);
    driver_submit(&d, p, b, 0);
    driver_see(&d, "b held");
    driver_submit(&d, p, c, 0);
    driver_release(&d, a, false);
    driver_see(&d, "");
    driver_release(&d, b, false);
    driver_see(&d, "release p");
    driver_done(&d, p, DONE);
    driver_see(&d, "");
    driver_next_timer(&d, 250 * US);
    driver_see(&d, "try p c");
    driver_done(&d, p, WON);
    driver_see(&d, "c held");
    driver_release(&d, c, false);
    driver_serve(&d);
    driver_finish(&d);
}
END_TEST

START_TEST(readers_go_together)
{
    a->mode = b->mode = c->mode = SHARED;
    afl_request *writer = driver_request_new(&d, "writer", EXCLUSIVE, NULL);
    driver_hold(&d, p, writer);
    driver_submit(&d, p, a, 0);
    driver_submit(&d, p, b, 0);
    driver_submit(&d, p, c, 0);
    driver_release(&d, writer, false);
    driver_see(&d, "adopt+convert p a"); /* the writer's lock becomes a shared one */
    driver_done(&d, p, WON);
    driver_see(&d, "a held; b held; c held");
    ck_assert_uint_eq(d.machine.holding, 3);
}
END_TEST

START_TEST(a_waiting_writer_stops_later_readers)
{
    a->mode = c->mode = SHARED;
    driver_hold(&d, p, a);
    driver_submit(&d, p, b, 0);
    driver_submit(&d, p, c, 0);
    driver_see(&d, "");
    driver_release(&d, a, false);
    driver_see(&d, "release p"); /* shared to exclusive: given up and tried for */
    driver_done(&d, p, DONE);
    driver_see(&d, "try p b");
    driver_done(&d, p, WON);
    driver_see(&d, "b held");
    driver_release(&d, b, false);
    driver_see(&d, "adopt+convert p c");
    driver_done(&d, p, WON);
    driver_see(&d, "c held");
}
END_TEST

START_TEST(readers_join_again_when_the_writer_left)
{
    a->mode = c->mode = SHARED;
    driver_hold(&d, p, a);
    b->timeout = 1 * MS;
    driver_submit(&d, p, b, 0);
    driver_submit(&d, p, c, 0);
    driver_see(&d, "");
    driver_next_timer(&d, 1 * MS);
    driver_see(&d, "b ETIMEDOUT; c held");
}
END_TEST

START_TEST(a_conversion_that_loses_the_lock_is_contention)
{
    b->mode = SHARED;
    driver_hold(&d, p, a);
    driver_submit(&d, p, b, 0);
    driver_release(&d, a, true);
    driver_see(&d, "adopt+convert p b");
    driver_done(&d, p, CONTENDED);
    driver_see(&d, "try p b; a released");
    driver_done(&d, p, CONTENDED);
    driver_see(&d, "");
    driver_next_timer(&d, 50 * MS);
}
END_TEST

START_TEST(a_conversion_left_behind_is_no_exclusive_lock_any_more)
{
    b->mode = SHARED;
    driver_hold(&d, p, a);
    driver_submit(&d, p, b, 0);
    driver_submit(&d, p, c, 0);
    driver_release(&d, a, false);
    driver_see(&d, "adopt+convert p b");
    driver_cancel(&d, b, 0);
    driver_see(&d, "b ECANCELED");
    driver_done(&d, p, WON);
    driver_see(&d, "release p");
    driver_done(&d, p, DONE);
    driver_see(&d, "try p c");
}
END_TEST

START_TEST(a_failed_adoption_may_have_converted)
{
    b->mode = SHARED;
    driver_hold(&d, p, a);
    driver_submit(&d, p, b, 0);
    driver_submit(&d, p, c, 0);
    driver_release(&d, a, false);
    driver_see(&d, "adopt+convert p b");
    driver_done(&d, p, FAILED(AFL_GRIP_HELD));
    driver_see(&d, "release p"); /* c needs an exclusive one */
    driver_done(&d, p, DONE);
    driver_see(&d, "try p c; b ESYS");
}
END_TEST

START_TEST(a_converted_hold_does_not_come_back)
{
    const afl_outcome outcomes[] = {WON, STALE, FAILED(AFL_GRIP_HELD)};
    for (size_t i = 0; i < 3; i++) {
        b->mode = SHARED;
        driver_hold(&d, p, a);
        driver_submit(&d, p, b, 0);
        driver_release(&d, a, true);
        driver_see(&d, "adopt+convert p b");
        driver_cancel(&d, b, 0);
        driver_done(&d, p, outcomes[i]);
        driver_see(&d, "release p; b ECANCELED; a released"); /* it was exclusive; what is left is not */
        driver_done(&d, p, FAILED(AFL_GRIP_HELD));
        driver_see(&d, "");
        driver_next_timer(&d, 10 * MS);
        driver_see(&d, "release p");
        driver_done(&d, p, DONE);
    }
    driver_finish(&d);
}
END_TEST

START_TEST(a_file_in_use_is_never_given_up)
{
    d.machine.config.handoff_grants = 1;
    int owner;
    a->owner = c->owner = &owner;
    driver_hold(&d, p, a);
    driver_submit(&d, p, b, 0);
    driver_release(&d, a, true);
    driver_see(&d, "release p"); /* the run is over */
    driver_done(&d, p, FAILED(AFL_GRIP_HELD));
    driver_see(&d, "a reheld");
    driver_submit(&d, p, c, 0); /* re-entrant: must not end the run under the holder */
    driver_see(&d, "c held");
    ck_assert_int_eq(p->op, AFL_OP_NONE);
}
END_TEST

/* --------------------------------------------------------------------------------------------------- verification */

START_TEST(a_long_run_is_verified)
{
    d.machine.config.handoff_time = AFLOCK_FOREVER;
    afl_request *holder = a;
    driver_hold(&d, p, a);
    ck_assert_uint_eq(ping_pong(&holder, 1 * MS, 100), 4); /* after 1, 2, 3 and 4 ms */
    driver_see(&d, "adopt+verify p b");
    driver_done(&d, p, WON);
    driver_see(&d, "b held");
    holder = b;
    ck_assert_uint_eq(ping_pong(&holder, 1 * MS, 100), 4);
    driver_see(&d, "adopt+verify p a");
    driver_done(&d, p, STALE);
    driver_see(&d, "release p");
    driver_done(&d, p, DONE);
    driver_see(&d, "try p a");
}
END_TEST

START_TEST(readers_that_join_late_are_verified)
{
    a->mode = b->mode = c->mode = SHARED;
    driver_hold(&d, p, a);
    driver_pass(&d, 5 * MS - 1);
    driver_submit(&d, p, b, 0);
    driver_see(&d, "b held");
    driver_pass(&d, 1);
    driver_submit(&d, p, c, 0);
    driver_see(&d, "adopt+verify p c");
}
END_TEST

START_TEST(a_fresh_win_is_not_verified)
{
    driver_submit(&d, p, a, 0);
    driver_see(&d, "try p a");
    driver_done(&d, p, WON);
    d.now += AFLOCK_SECOND; /* the loop was busy */
    driver_see(&d, "a held");
}
END_TEST

START_TEST(another_spelling_is_verified)
{
    driver_hold(&d, p, a);
    b->spelling = c->spelling = 1;
    driver_submit(&d, p, b, 0);
    driver_submit(&d, p, c, 0);
    driver_release(&d, a, false);
    driver_see(&d, "adopt+verify p b");
    driver_done(&d, p, WON);
    driver_see(&d, "b held");
    driver_release(&d, b, false);
    driver_see(&d, "c held"); /* the spelling that was verified last */
    driver_submit(&d, p, a, 0);
    driver_release(&d, c, false);
    driver_see(&d, "adopt+verify p a");
}
END_TEST

START_TEST(another_spelling_after_an_attempt_left_behind)
{
    b->spelling = 1;
    driver_submit(&d, p, a, 0);
    driver_submit(&d, p, b, 0);
    driver_see(&d, "try p a");
    driver_cancel(&d, a, 0);
    driver_see(&d, "a ECANCELED");
    driver_done(&d, p, WON);
    driver_see(&d, "adopt+verify p b");
}
END_TEST

START_TEST(an_adoption_without_verification_says_nothing_about_the_spelling)
{
    int owner;
    a->owner = b->owner = &owner;
    b->spelling = c->spelling = 1;
    b->adopt = true;
    driver_hold(&d, p, a);
    driver_submit(&d, p, b, 0);
    driver_see(&d, "adopt p b"); /* its owner holds: nothing to verify */
    driver_done(&d, p, WON);
    driver_see(&d, "b held");
    driver_submit(&d, p, c, 0);
    driver_release(&d, a, false);
    driver_release(&d, b, false);
    driver_see(&d, "adopt+verify p c");
}
END_TEST

START_TEST(one_adoption_does_all_at_once)
{
    b->mode = SHARED;
    b->spelling = 1;
    b->adopt = true;
    driver_hold(&d, p, a);
    driver_submit(&d, p, b, 0);
    driver_release(&d, a, false);
    driver_see(&d, "adopt+verify+convert p b");
    driver_done(&d, p, WON);
    driver_see(&d, "b held");
}
END_TEST

/* ---------------------------------------------------------------------------------------------- run and pause */

/* Who pauses meanwhile meets it. */
START_TEST(a_run_lasts_longer_than_a_pause)
{
    afl_request *holder = a;
    d.machine.config.handoff_least = 500 * US;
    driver_hold(&d, p, a);
    ck_assert_uint_eq(ping_pong(&holder, 10 * US, 100), 49); /* until 500 us are over */
    pause_and_win(&holder);
    d.machine.config.handoff_time = 300 * US;
    driver_pass(&d, 20 * MS); /* a pause is due again */
    ck_assert_uint_le(ping_pong(&holder, 10 * US, 100), 30);
}
END_TEST

/* Who was met once is expected for so many pauses, although he wakes up too late for them. */
START_TEST(somebody_foreign_is_expected_for_a_while)
{
    afl_request *holder = a;
    d.poll = 1 * MS;
    d.machine.config.foreign_pauses = 3;
    driver_hold(&d, p, a);
    ping_pong(&holder, 1 * US, 100);
    afl_request *next = holder == a ? b : a;
    driver_see(&d, "release p");
    driver_done(&d, p, DONE);
    driver_see(&d, "");
    driver_next_timer(&d, 250 * US);
    driver_see(&d, next == a ? "try p a" : "try p b");
    driver_done(&d, p, CONTENDED);
    driver_see(&d, "");
    driver_next_timer(&d, 1 * MS);
    driver_see(&d, next == a ? "try p a" : "try p b");
    driver_done(&d, p, WON);
    driver_see(&d, next == a ? "a held" : "b held");
    holder = next;
    for (int i = 0; i < 3; i++) {
        ck_assert_uint_eq(ping_pong(&holder, 1 * US, 100), 15);
        pause_and_win(&holder);
    }
    ck_assert_uint_gt(ping_pong(&holder, 1 * US, 100), 15);
}
END_TEST

START_TEST(a_run_ends_after_so_many_grants)
{
    afl_request *holder = a;
    driver_hold(&d, p, a);
    ck_assert_uint_eq(ping_pong(&holder, 1 * US, 100), 15); /* with the first one: 16 grants */
    pause_and_win(&holder);
}
END_TEST

START_TEST(a_run_ends_after_so_long)
{
    afl_request *holder = a;
    d.machine.config.check_interval = AFLOCK_FOREVER;
    driver_hold(&d, p, a);
    ck_assert_uint_eq(ping_pong(&holder, 1 * MS, 100), 4);
    pause_and_win(&holder);
}
END_TEST

START_TEST(a_run_ends_for_nobody_else_only)
{
    afl_request *holder = a;
    driver_hold(&d, p, a);
    ping_pong(&holder, 1 * US, 15);
    driver_release(&d, holder, false);
    driver_see(&d, "release p");
    driver_done(&d, p, DONE);
    driver_submit(&d, p, c, 0);
    driver_see(&d, "try p c"); /* no run was cut short: no pause */
}
END_TEST

START_TEST(no_pause_more_often_than_the_interval_while_alone)
{
    afl_request *holder = a;
    d.machine.config.check_interval = AFLOCK_FOREVER;
    driver_hold(&d, p, a);
    ping_pong(&holder, 1 * US, 100);
    for (int i = 0; i < 3; i++) {
        uint64_t paused = d.now;
        pause_and_win(&holder);
        unsigned count = ping_pong(&holder, 100 * US, 1000);
        ck_assert_uint_ge(count, 5 * 16); /* run after run */
        ck_assert_uint_ge(d.now - paused, 10 * MS);
        ck_assert_uint_le(d.now - paused, 10 * MS + 2 * MS);
    }
}
END_TEST

START_TEST(a_pause_each_run_while_somebody_foreign_is_there)
{
    afl_request *holder = a;
    d.poll = 1 * MS;
    driver_hold(&d, p, a);
    ping_pong(&holder, 1 * US, 100);
    afl_request *next = holder == a ? b : a;
    driver_see(&d, "release p");
    driver_done(&d, p, DONE);
    driver_see(&d, "");
    driver_next_timer(&d, 250 * US);
    driver_see(&d, next == a ? "try p a" : "try p b");
    driver_done(&d, p, CONTENDED); /* somebody foreign had it */
    driver_see(&d, "");
    driver_next_timer(&d, 1 * MS);
    driver_see(&d, next == a ? "try p a" : "try p b");
    driver_done(&d, p, WON);
    driver_see(&d, next == a ? "a held" : "b held");
    holder = next;
    ck_assert_uint_eq(ping_pong(&holder, 1 * US, 100), 15);
    pause_and_win(&holder);
    ck_assert_uint_gt(ping_pong(&holder, 1 * US, 100), 15); /* met nobody since */
}
END_TEST

START_TEST(a_hint_does_not_shorten_the_pause)
{
    afl_request *holder = a;
    driver_hold(&d, p, a);
    ping_pong(&holder, 1 * US, 100);
    driver_see(&d, "release p");
    driver_done(&d, p, DONE);
    driver_see(&d, "");
    driver_pass(&d, 100 * US);
    afl_machine_hint(&d.machine, p, false, d.now);
    driver_see(&d, "");
    driver_next_timer(&d, 150 * US);
}
END_TEST

START_TEST(a_newcomer_does_not_shorten_the_pause)
{
    afl_request *holder = a;
    driver_hold(&d, p, a);
    ping_pong(&holder, 1 * US, 100);
    driver_see(&d, "release p");
    driver_done(&d, p, DONE);
    driver_cancel(&d, holder == a ? b : a, 0);
    driver_submit(&d, p, c, 0);
    driver_see(&d, holder == a ? "b ECANCELED" : "a ECANCELED");
    driver_next_timer(&d, 250 * US);
    driver_see(&d, "try p c");
}
END_TEST

START_TEST(a_pause_of_nothing)
{
    d.machine.config.handoff_pause = 0;
    afl_request *holder = a;
    driver_hold(&d, p, a);
    ping_pong(&holder, 1 * US, 100);
    driver_see(&d, "release p");
    driver_done(&d, p, DONE);
    driver_see(&d, holder == a ? "try p b" : "try p a");
}
END_TEST

START_TEST(readers_are_not_interrupted)
{
    a->mode = SHARED;
    driver_hold(&d, p, a);
    for (int i = 0; i < 40; i++) {
        afl_request *r = driver_request_new(&d, "reader", SHARED, NULL);
        driver_submit(&d, p, r, 0);
        driver_see(&d, "reader held");
    }
}
END_TEST

START_TEST(a_release_that_fails_after_a_run_is_still_a_release)
{
    afl_request *holder = a;
    driver_hold(&d, p, a);
    ping_pong(&holder, 1 * US, 100);
    driver_see(&d, "release p");
    driver_done(&d, p, FAILED(AFL_GRIP_HELD));
    driver_see(&d, ""); /* the next one has to wait: the run is over */
    driver_next_timer(&d, 10 * MS);
    pause_and_win(&holder);
}
END_TEST

START_TEST(nobody_is_paused_on_another_path)
{
    afl_path *q = driver_path_new(&d, "q");
    afl_request *holder = a;
    driver_hold(&d, p, a);
    ping_pong(&holder, 1 * US, 100);
    driver_see(&d, "release p");
    driver_done(&d, p, DONE);
    driver_submit(&d, q, c, 0);
    driver_see(&d, "try q c");
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {
        a_release_is_a_grant,
        a_yield_ends_the_run,
        a_yield_takes_nothing_from_holders,
        readers_go_together,
        a_waiting_writer_stops_later_readers,
        readers_join_again_when_the_writer_left,
        a_conversion_that_loses_the_lock_is_contention,
        a_conversion_left_behind_is_no_exclusive_lock_any_more,
        a_failed_adoption_may_have_converted,
        a_converted_hold_does_not_come_back,
        a_file_in_use_is_never_given_up,
        a_long_run_is_verified,
        readers_that_join_late_are_verified,
        a_fresh_win_is_not_verified,
        another_spelling_is_verified,
        another_spelling_after_an_attempt_left_behind,
        an_adoption_without_verification_says_nothing_about_the_spelling,
        one_adoption_does_all_at_once,
        a_run_ends_after_so_many_grants,
        a_run_ends_after_so_long,
        a_run_ends_for_nobody_else_only,
        no_pause_more_often_than_the_interval_while_alone,
        a_run_lasts_longer_than_a_pause,
        somebody_foreign_is_expected_for_a_while,
        a_pause_each_run_while_somebody_foreign_is_there,
        a_hint_does_not_shorten_the_pause,
        a_newcomer_does_not_shorten_the_pause,
        a_pause_of_nothing,
        readers_are_not_interrupted,
        a_release_that_fails_after_a_run_is_still_a_release,
        nobody_is_paused_on_another_path,
        NULL,
    };
    return driver_run("machine: hand-off", setup, tests);
}
