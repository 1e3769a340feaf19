/* The machine: two spellings turn out to be one path. */
#include "support/machine_driver.h"

#include <stdio.h>
#include <stdlib.h>

static driver d;
static afl_path *p, *q; /* q turns out to be p */
static char A, B;       /* owners */

static void setup(void)
{
    driver_start(&d);
    p = driver_path_new(&d, "p");
    q = driver_path_new(&d, "q");
}

static afl_request *request(const char *name, int mode, void *owner)
{
    return driver_request_new(&d, name, mode, owner);
}

static afl_request *asks(const char *name, afl_path *path, int mode, void *owner)
{
    afl_request *r = request(name, mode, owner);
    driver_submit(&d, path, r, 0);
    return r;
}

static void merge(void)
{
    afl_machine_merge(&d.machine, p, q, d.now);
    ck_assert_ptr_null(q->head);
    ck_assert_uint_eq(q->waiting, 0);
    ck_assert_int_eq(q->op, AFL_OP_NONE);
}

static void check_queue(const char *expected)
{
    char text[256] = "";
    size_t length = 0;
    for (const afl_request *r = p->head; r; r = r->next)
        length += (size_t)snprintf(text + length, sizeof text - length, "%s%s", length ? " " : "",
                                   ((const driver_request *)(const void *)r)->name);
    ck_assert_str_eq(text, expected);
}

START_TEST(into_an_idle_path)
{
    afl_request *a = asks("a", q, EXCLUSIVE, NULL);
    asks("b", q, EXCLUSIVE, NULL);
    driver_see(&d, "try q a");
    ck_assert_uint_eq(a->attempts, 1);
    merge();
    ck_assert_uint_eq(a->attempts, 0); /* nothing was tried */
    driver_see(&d, "try p a");
    driver_done(&d, p, WON);
    driver_see(&d, "a held");
    ck_assert_uint_eq(a->attempts, 1);
    check_queue("b");
}
END_TEST

START_TEST(by_submission_number)
{
    asks("a", p, EXCLUSIVE, NULL);
    asks("b", q, EXCLUSIVE, NULL);
    asks("c", q, EXCLUSIVE, NULL);
    asks("e", p, EXCLUSIVE, NULL);
    asks("f", q, EXCLUSIVE, NULL);
    driver_see(&d, "try p a; try q b");
    merge();
    driver_see(&d, "");
    check_queue("a b c e f");
    ck_assert_uint_eq(p->waiting, 5);
    ck_assert_uint_eq(d.machine.waiting, 5);
    driver_done(&d, p, WON);
    driver_see(&d, "a held");
}
END_TEST

START_TEST(many)
{
    enum { MANY = 120 };
    srand(7);
    for (int i = 0; i < MANY; i++) {
        char name[16];
        snprintf(name, sizeof name, "%d", i);
        asks(name, rand() % 3 ? q : p, EXCLUSIVE, NULL);
    }
    merge();
    uint64_t last = 0;
    for (const afl_request *r = p->head; r; r = r->next) {
        ck_assert_uint_gt(r->timer.order, last);
        last = r->timer.order;
    }
    ck_assert_uint_eq(p->waiting, MANY);
    driver_check(&d);
}
END_TEST

START_TEST(a_new_head_is_tried_for_at_once)
{
    asks("a", q, EXCLUSIVE, NULL);
    asks("b", p, EXCLUSIVE, NULL);
    driver_see(&d, "try q a; try p b");
    driver_done(&d, p, CONTENDED);
    driver_see(&d, "");
    merge();
    driver_see(&d, "try p a");
}
END_TEST

START_TEST(an_attempt_for_one_who_is_not_the_head_any_more_serves_the_head)
{
    asks("a", q, EXCLUSIVE, NULL);
    asks("b", p, EXCLUSIVE, NULL);
    driver_see(&d, "try q a; try p b");
    merge();
    driver_see(&d, "");
    driver_done(&d, p, WON);
    driver_see(&d, "a held");
    check_queue("b");
}
END_TEST

START_TEST(a_failed_attempt_for_one_who_is_not_the_head_any_more)
{
    asks("a", q, EXCLUSIVE, NULL);
    asks("b", p, EXCLUSIVE, NULL);
    driver_see(&d, "try q a; try p b");
    merge();
    driver_see(&d, "");
    driver_done(&d, p, CONTENDED);
    driver_see(&d, "try p a");
    driver_done(&d, p, CONTENDED);
    driver_see(&d, "");
    driver_next_timer(&d, 50 * MS);
}
END_TEST

START_TEST(an_error_for_one_who_is_not_the_head_any_more)
{
    asks("a", q, EXCLUSIVE, NULL);
    asks("b", p, EXCLUSIVE, NULL);
    driver_see(&d, "try q a; try p b");
    merge();
    driver_see(&d, "");
    driver_done(&d, p, FAILED(AFL_GRIP_NONE));
    driver_see(&d, "try p a; b ESYS");
}
END_TEST

START_TEST(without_hand_on_an_attempt_serves_its_own_only)
{
    p->hand_on = q->hand_on = false;
    asks("a", q, EXCLUSIVE, NULL);
    asks("b", p, EXCLUSIVE, NULL);
    driver_see(&d, "try q a; try p b");
    merge();
    driver_see(&d, "");
    driver_done(&d, p, WON);
    driver_see(&d, "release p");
    driver_done(&d, p, DONE);
    driver_see(&d, "try p a");
}
END_TEST

START_TEST(an_attempt_left_behind_is_forgotten_too)
{
    afl_request *a = asks("a", q, EXCLUSIVE, NULL);
    driver_see(&d, "try q a");
    driver_cancel(&d, a, 0);
    merge();
    driver_see(&d, "a ECANCELED");
    driver_finish(&d);
}
END_TEST

START_TEST(into_a_held_path)
{
    afl_request *a = request("a", EXCLUSIVE, NULL);
    driver_hold(&d, p, a);
    asks("b", q, EXCLUSIVE, NULL);
    driver_see(&d, "try q b");
    merge();
    driver_see(&d, "");
    driver_no_timer(&d);
    driver_release(&d, a, false);
    driver_see(&d, "b held");
}
END_TEST

START_TEST(readers_join)
{
    driver_hold(&d, p, request("a", SHARED, NULL));
    asks("b", q, SHARED, NULL);
    afl_request *once = request("c", SHARED, NULL);
    driver_see(&d, "try q b");
    driver_cancel(&d, &d.requests[1].request, 0);
    driver_see(&d, "b ECANCELED");
    once->once = true;
    driver_submit(&d, q, once, 0);
    driver_see(&d, "");
    merge();
    driver_see(&d, "c held");
}
END_TEST

START_TEST(deadlines_go_on)
{
    afl_request *b = request("b", EXCLUSIVE, NULL);
    driver_hold(&d, p, request("a", EXCLUSIVE, NULL));
    b->timeout = 5 * MS;
    driver_submit(&d, q, b, 0);
    driver_see(&d, "try q b");
    driver_pass(&d, 2 * MS);
    merge();
    driver_see(&d, "");
    driver_next_timer(&d, 3 * MS);
    driver_see(&d, "b ETIMEDOUT");
}
END_TEST

START_TEST(cancel_goes_on)
{
    driver_hold(&d, p, request("a", EXCLUSIVE, NULL));
    afl_request *b = asks("b", q, EXCLUSIVE, NULL);
    driver_see(&d, "try q b");
    merge();
    driver_cancel(&d, b, 0);
    driver_see(&d, "b ECANCELED");
    ck_assert_uint_eq(p->waiting, 0);
}
END_TEST

START_TEST(once_behind_a_holder)
{
    driver_hold(&d, p, request("a", EXCLUSIVE, NULL));
    afl_request *b = request("b", EXCLUSIVE, NULL);
    b->once = true;
    driver_submit(&d, q, b, 0);
    driver_see(&d, "try q b");
    merge();
    driver_see(&d, "b EWOULDBLOCK");
    ck_assert_uint_eq(b->attempts, 0);
}
END_TEST

START_TEST(once_behind_a_queue)
{
    asks("a", p, EXCLUSIVE, NULL);
    afl_request *b = request("b", EXCLUSIVE, NULL);
    b->once = true;
    driver_submit(&d, q, b, 0);
    driver_see(&d, "try p a; try q b");
    merge();
    driver_see(&d, "b EWOULDBLOCK");
}
END_TEST

START_TEST(once_in_front)
{
    afl_request *a = request("a", EXCLUSIVE, NULL);
    a->once = true;
    driver_submit(&d, q, a, 0);
    asks("b", p, EXCLUSIVE, NULL);
    driver_see(&d, "try q a; try p b");
    driver_done(&d, p, CONTENDED);
    driver_see(&d, "");
    merge();
    driver_see(&d, "try p a");
    driver_done(&d, p, CONTENDED);
    driver_see(&d, "a EWOULDBLOCK");
    driver_next_timer(&d, 50 * MS);
    driver_see(&d, "try p b");
}
END_TEST

START_TEST(the_owner_of_a_holder)
{
    driver_hold(&d, p, request("a", EXCLUSIVE, &A));
    asks("b", p, EXCLUSIVE, NULL);
    asks("a2", q, EXCLUSIVE, &A);
    driver_see(&d, "try q a2");
    merge();
    driver_see(&d, "a2 held");
    check_queue("b");
}
END_TEST

START_TEST(the_owner_of_a_holder_in_the_other_mode)
{
    driver_hold(&d, p, request("a", EXCLUSIVE, &A));
    asks("a2", q, SHARED, &A);
    driver_see(&d, "try q a2");
    merge();
    driver_see(&d, "a2 EDEADLK");
}
END_TEST

START_TEST(one_owner_in_both_queues)
{
    driver_hold(&d, p, request("n", EXCLUSIVE, NULL));
    asks("a1", p, EXCLUSIVE, &A);
    asks("b", p, EXCLUSIVE, NULL);
    asks("a2", q, EXCLUSIVE, &A);
    asks("c", q, EXCLUSIVE, NULL);
    asks("a3", p, EXCLUSIVE, &A);
    driver_see(&d, "try q a2");
    check_queue("a1 a3 b");
    merge();
    driver_see(&d, "");
    check_queue("a1 a2 a3 b c");
}
END_TEST

START_TEST(one_owner_in_both_modes)
{
    driver_hold(&d, p, request("n", EXCLUSIVE, NULL));
    asks("a1", q, SHARED, &A);
    asks("a2", p, EXCLUSIVE, &A);
    driver_see(&d, "try q a1");
    merge();
    driver_see(&d, "a2 EDEADLK"); /* the later one */
    check_queue("a1");
}
END_TEST

START_TEST(a_cycle_that_appears)
{
    afl_path *x = driver_path_new(&d, "x");
    driver_hold(&d, p, request("a", EXCLUSIVE, &A));
    driver_hold(&d, x, request("b", EXCLUSIVE, &B));
    asks("ax", x, EXCLUSIVE, &A);
    asks("bq", q, EXCLUSIVE, &B);
    asks("c", q, EXCLUSIVE, NULL);
    driver_see(&d, "try q bq");
    merge();
    driver_see(&d, "bq EDEADLK");
    check_queue("c");
    ck_assert_uint_eq(d.machine.waiting, 2);
}
END_TEST

START_TEST(a_cycle_through_the_queue_hits_the_later_one)
{
    afl_path *x = driver_path_new(&d, "x");
    driver_hold(&d, p, request("n", EXCLUSIVE, NULL));
    driver_hold(&d, x, request("b", EXCLUSIVE, &B));
    asks("a", q, EXCLUSIVE, &A);
    asks("ax", x, EXCLUSIVE, &A);
    asks("bp", p, EXCLUSIVE, &B);
    driver_see(&d, "try q a");
    merge(); /* bp comes behind a, who waits for B */
    driver_see(&d, "bp EDEADLK");
    check_queue("a");
}
END_TEST

START_TEST(nobody_is_left)
{
    afl_request *a = request("a", EXCLUSIVE, NULL);
    driver_hold(&d, p, a);
    afl_request *b = asks("b", q, EXCLUSIVE, &A), *c = asks("c", q, EXCLUSIVE, &A);
    driver_see(&d, "try q b");
    merge();
    driver_release(&d, a, true);
    driver_see(&d, "a released; b held; c held");
    driver_release(&d, b, true);
    driver_release(&d, c, true);
    driver_see(&d, "release p; b released");
    driver_done(&d, p, DONE);
    driver_see(&d, "c released");
    driver_finish(&d);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {
        into_an_idle_path,
        by_submission_number,
        many,
        a_new_head_is_tried_for_at_once,
        an_attempt_for_one_who_is_not_the_head_any_more_serves_the_head,
        a_failed_attempt_for_one_who_is_not_the_head_any_more,
        an_error_for_one_who_is_not_the_head_any_more,
        without_hand_on_an_attempt_serves_its_own_only,
        an_attempt_left_behind_is_forgotten_too,
        into_a_held_path,
        readers_join,
        deadlines_go_on,
        cancel_goes_on,
        once_behind_a_holder,
        once_behind_a_queue,
        once_in_front,
        the_owner_of_a_holder,
        the_owner_of_a_holder_in_the_other_mode,
        one_owner_in_both_queues,
        one_owner_in_both_modes,
        a_cycle_that_appears,
        a_cycle_through_the_queue_hits_the_later_one,
        nobody_is_left,
        NULL,
    };
    return driver_run("machine: merge", setup, tests);
}
