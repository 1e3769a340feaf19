/* The machine: what is held is refreshed while somebody holds it, and may be lost. */
#include "support/machine_driver.h"

static driver d;
static afl_path *p;
static afl_request *a, *a2, *a3, *b, *c;
static int owner, stranger;

static void setup(void)
{
    driver_start(&d);
    p = driver_path_new(&d, "p");
    p->hand_on = false;
    p->beat_interval = 80 * MS;
    a = driver_request_new(&d, "a", EXCLUSIVE, &owner);
    a2 = driver_request_new(&d, "a2", EXCLUSIVE, &owner);
    a3 = driver_request_new(&d, "a3", EXCLUSIVE, &owner);
    b = driver_request_new(&d, "b", EXCLUSIVE, &stranger);
    c = driver_request_new(&d, "c", EXCLUSIVE, NULL);
}

static void a_beats(void)
{
    driver_hold(&d, p, a);
    driver_next_timer(&d, 80 * MS);
    driver_see(&d, "beat p");
}

/* ---------------------------------------------------------------------------------------------------- when it beats */

START_TEST(once_each_interval)
{
    a_beats();
    driver_no_timer(&d); /* none while it is under way */
    driver_pass(&d, 5 * MS);
    driver_done(&d, p, REFRESHED);
    driver_see(&d, "");
    driver_next_timer(&d, 80 * MS);
    driver_see(&d, "beat p");
    driver_done(&d, p, REFRESHED);
    driver_see(&d, "");
    driver_next_timer(&d, 80 * MS);
    driver_see(&d, "beat p");
}
END_TEST

START_TEST(not_without_an_interval)
{
    p->beat_interval = 0;
    driver_hold(&d, p, a);
    driver_no_timer(&d);
    afl_machine_hint(&d.machine, p, AFL_HINT_CHANGED, d.now);
    driver_see(&d, "");
}
END_TEST

START_TEST(sooner_after_one_that_failed)
{
    a_beats();
    for (int i = 0; i < 3; i++) {
        driver_pass(&d, 5 * MS);
        driver_done(&d, p, NOT_REFRESHED);
        driver_see(&d, "");
        driver_next_timer(&d, 10 * MS);
        driver_see(&d, "beat p");
    }
    driver_done(&d, p, REFRESHED);
    driver_see(&d, "");
    driver_next_timer(&d, 80 * MS);
}
END_TEST

START_TEST(at_once_if_asked)
{
    driver_hold(&d, p, a);
    driver_pass(&d, 7 * MS);
    driver_see(&d, "");
    afl_machine_beat(&d.machine, p, d.now);
    driver_see(&d, "beat p");
    afl_machine_beat(&d.machine, p, d.now); /* it is under way */
    driver_see(&d, "");
    driver_done(&d, p, REFRESHED);
    driver_see(&d, "");
    driver_next_timer(&d, 80 * MS);
    driver_see(&d, "beat p");
    driver_done(&d, p, REFRESHED);
    driver_release(&d, a, true);
    driver_see(&d, "release p");
    afl_machine_beat(&d.machine, p, d.now);
    driver_done(&d, p, DONE);
    afl_machine_beat(&d.machine, p, d.now); /* nobody holds it */
    driver_see(&d, "a released");
    driver_finish(&d);
}
END_TEST

START_TEST(while_others_wait)
{
    driver_hold(&d, p, a);
    driver_submit(&d, p, b, 0);
    driver_see(&d, "");
    driver_next_timer(&d, 80 * MS);
    driver_see(&d, "beat p");
    driver_submit(&d, p, a2, 0); /* its owner's others join meanwhile */
    driver_done(&d, p, REFRESHED);
    driver_see(&d, "a2 held");
    driver_next_timer(&d, 80 * MS);
    driver_see(&d, "beat p");
}
END_TEST

START_TEST(as_long_as_somebody_holds)
{
    driver_hold(&d, p, a);
    driver_submit(&d, p, a2, 0);
    driver_see(&d, "a2 held");
    driver_release(&d, a, false);
    driver_see(&d, "");
    driver_next_timer(&d, 80 * MS);
    driver_see(&d, "beat p");
    driver_done(&d, p, REFRESHED);
    driver_release(&d, a2, false);
    driver_see(&d, "release p");
    driver_pass(&d, 200 * MS);
    driver_see(&d, "");
    driver_done(&d, p, DONE);
    driver_no_timer(&d);
    driver_finish(&d);
}
END_TEST

START_TEST(one_that_is_under_way_delays_the_release)
{
    const afl_outcome outcomes[] = {REFRESHED, NOT_REFRESHED, FAILED(AFL_GRIP_HELD)};
    for (size_t i = 0; i < 3; i++) {
        a_beats();
        driver_release(&d, a, true);
        driver_see(&d, "");
        driver_done(&d, p, outcomes[i]);
        driver_see(&d, "release p");
        driver_done(&d, p, DONE);
        driver_see(&d, "a released");
        ck_assert(!p->lost);
        driver_no_timer(&d);
    }
}
END_TEST

START_TEST(a_release_that_failed_is_refreshed_again)
{
    driver_hold(&d, p, a);
    driver_pass(&d, 79 * MS);
    driver_release(&d, a, true);
    driver_see(&d, "release p");
    driver_pass(&d, 50 * MS);
    driver_see(&d, "");
    driver_done(&d, p, FAILED(AFL_GRIP_HELD));
    driver_see(&d, "beat p; a reheld");
}
END_TEST

/* Nobody's any more, and still not given up: it is not kept alive. */
START_TEST(not_for_nobody)
{
    driver_hold(&d, p, a);
    driver_release(&d, a, false);
    driver_see(&d, "release p");
    driver_done(&d, p, FAILED(AFL_GRIP_HELD));
    driver_see(&d, "");
    for (int i = 0; i < 12; i++) {
        driver_pass(&d, 700 * MS);
        driver_see(&d, "release p");
        driver_done(&d, p, FAILED(AFL_GRIP_HELD));
        driver_see(&d, "");
    }
}
END_TEST

/* ---------------------------------------------------------------------------------------------------- when it is lost
 */

START_TEST(nobody_joins_what_is_lost)
{
    a_beats();
    driver_submit(&d, p, b, 0);
    driver_done(&d, p, FAILED(AFL_GRIP_HELD));
    driver_see(&d, ""); /* it is not refreshed any more, and who waits waits */
    ck_assert(p->lost);
    driver_no_timer(&d);
    driver_submit(&d, p, a2, AFLOCK_ECOMPROMISED);
    driver_submit(&d, p, c, 0);
    driver_see(&d, "");
    driver_release(&d, a, true);
    driver_see(&d, "release p");
    driver_submit(&d, p, a2, 0); /* its owner holds nothing any more */
    driver_done(&d, p, DONE);
    ck_assert(!p->lost);
    driver_see(&d, "try p b; a released");
    driver_done(&d, p, WON);
    driver_see(&d, "b held");
    driver_next_timer(&d, 80 * MS); /* and is refreshed as usual */
    driver_see(&d, "beat p");
}
END_TEST

/* Told from outside: time is over. */
START_TEST(lost_by_time)
{
    driver_hold(&d, p, a);
    driver_submit(&d, p, a2, 0);
    driver_see(&d, "a2 held");
    driver_submit(&d, p, b, 0);
    driver_submit(&d, p, a3, 0);
    driver_see(&d, "a3 held");
    afl_machine_lose(&d.machine, p, d.now);
    driver_see(&d, "");
    afl_machine_lose(&d.machine, p, d.now);
    driver_see(&d, "");
    driver_no_timer(&d);
    driver_release(&d, a, false);
    driver_release(&d, a2, false);
    driver_see(&d, "");
    driver_release(&d, a3, false);
    driver_see(&d, "release p");
    driver_done(&d, p, DONE);
    driver_see(&d, "try p b");
}
END_TEST

START_TEST(lost_while_a_beat_is_under_way)
{
    const afl_outcome outcomes[] = {REFRESHED, NOT_REFRESHED, FAILED(AFL_GRIP_HELD)};
    for (size_t i = 0; i < 3; i++) {
        a_beats();
        afl_machine_lose(&d.machine, p, d.now);
        driver_done(&d, p, outcomes[i]);
        driver_see(&d, "");
        ck_assert(p->lost);
        driver_no_timer(&d);
        driver_release(&d, a, false);
        driver_see(&d, "release p");
        driver_done(&d, p, DONE);
        driver_see(&d, "");
    }
    driver_finish(&d);
}
END_TEST

START_TEST(lost_while_a_release_fails)
{
    driver_hold(&d, p, a);
    driver_release(&d, a, true);
    driver_see(&d, "release p");
    afl_machine_lose(&d.machine, p, d.now);
    driver_done(&d, p, FAILED(AFL_GRIP_HELD));
    driver_see(&d, "a reheld");
    ck_assert(p->lost);
    driver_submit(&d, p, a2, AFLOCK_ECOMPROMISED);
    driver_no_timer(&d);
    driver_release(&d, a, true);
    driver_see(&d, "release p");
    driver_done(&d, p, DONE);
    driver_see(&d, "a released");
    driver_finish(&d);
}
END_TEST

/* A single attempt beside a hold that is lost is answered as beside any other. */
START_TEST(once_beside_what_is_lost)
{
    driver_hold(&d, p, a);
    afl_machine_lose(&d.machine, p, d.now);
    b->once = true;
    driver_submit(&d, p, b, AFLOCK_EWOULDBLOCK);
    a2->once = true;
    driver_submit(&d, p, a2, AFLOCK_ECOMPROMISED);
}
END_TEST

/* Won, and lost before anybody holds it: it is given up, and tried anew. */
START_TEST(lost_before_it_is_granted)
{
    driver_submit(&d, p, a, 0);
    driver_see(&d, "try p a");
    driver_done(&d, p, WON);
    afl_machine_lose(&d.machine, p, d.now);
    driver_see(&d, "release p");
    driver_done(&d, p, DONE);
    driver_see(&d, "try p a");
    driver_done(&d, p, WON);
    driver_see(&d, "a held");
}
END_TEST

START_TEST(nothing_is_lost_that_is_not_held)
{
    afl_machine_lose(&d.machine, p, d.now);
    ck_assert(!p->lost);
    driver_submit(&d, p, a, 0);
    driver_see(&d, "try p a");
    afl_machine_lose(&d.machine, p, d.now);
    driver_done(&d, p, WON);
    driver_see(&d, "a held");
    ck_assert(!p->lost);
}
END_TEST

/* ------------------------------------------------------------------------------------------- readers, and who makes
 * way
 */

static afl_request *r1, *r2;

static void readers(void)
{
    p->join = true;
    r1 = driver_request_new(&d, "r1", SHARED, NULL);
    r2 = driver_request_new(&d, "r2", SHARED, NULL);
}

START_TEST(readers_join)
{
    readers();
    driver_submit(&d, p, r1, 0);
    driver_submit(&d, p, r2, 0);
    driver_see(&d, "try p r1");
    driver_done(&d, p, WON);
    driver_see(&d, "r1 held; r2 held");
    driver_submit(&d, p, b, 0);
    driver_see(&d, "");
    driver_release(&d, r1, false);
    driver_see(&d, "");
    driver_release(&d, r2, false);
    driver_see(&d, "release p");
    driver_done(&d, p, DONE);
    driver_see(&d, "try p b");
}
END_TEST

/* It was one for those who held it. */
START_TEST(what_readers_had_is_not_handed_on)
{
    readers();
    driver_hold(&d, p, r1);
    driver_release(&d, r1, false);
    driver_submit(&d, p, r2, 0);
    driver_see(&d, "release p");
    driver_done(&d, p, DONE);
    driver_see(&d, "try p r2");
}
END_TEST

/* The release is answered when it was to be had; each time it is asked for after twice as long, but for a limit. */
START_TEST(others_are_in_the_way_of_a_release)
{
    driver_hold(&d, p, a);
    driver_submit(&d, p, b, 0);
    driver_release(&d, a, true);
    driver_see(&d, "release p");
    for (int i = 1; i < 10; i++) {
        driver_done(&d, p, NOT_YET(AFL_GRIP_HELD));
        driver_see(&d, "");
        driver_next_timer(&d, (1U << (i < 7 ? i : 7)) * MS);
        driver_see(&d, "release p");
    }
    driver_done(&d, p, DONE);
    driver_see(&d, "try p b; a released");
}
END_TEST

START_TEST(others_are_in_the_way_of_a_withdrawal)
{
    driver_submit(&d, p, a, 0);
    driver_see(&d, "try p a");
    driver_done(&d, p, PENDING);
    driver_cancel(&d, a, 0);
    driver_see(&d, "withdraw p; a ECANCELED");
    driver_done(&d, p, NOT_YET(AFL_GRIP_PENDING));
    driver_see(&d, "");
    ck_assert_uint_eq(d.machine.releasing, 1);
    driver_next_timer(&d, 2 * MS);
    driver_see(&d, "withdraw p");
    driver_done(&d, p, DONE);
    driver_see(&d, "");
    driver_finish(&d);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {
        once_each_interval,
        not_without_an_interval,
        sooner_after_one_that_failed,
        at_once_if_asked,
        while_others_wait,
        as_long_as_somebody_holds,
        one_that_is_under_way_delays_the_release,
        a_release_that_failed_is_refreshed_again,
        not_for_nobody,
        nobody_joins_what_is_lost,
        lost_by_time,
        lost_while_a_beat_is_under_way,
        lost_while_a_release_fails,
        once_beside_what_is_lost,
        lost_before_it_is_granted,
        nothing_is_lost_that_is_not_held,
        readers_join,
        what_readers_had_is_not_handed_on,
        others_are_in_the_way_of_a_release,
        others_are_in_the_way_of_a_withdrawal,
        NULL,
    };
    return driver_run("machine: lease", setup, tests);
}
