/* Promise 4: a release is never queued behind tries, and one dead mount never stops the locks of another. The executor
 * is scripted: what the library submits stays out until the test lets it run. */
#include "support/fake_host.h"

#include <errno.h>

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MANY = 12 };

static fake_host h;
static fake_answer answers[2 * MANY];

static aflock *lock_in(const char *directory, int number)
{
    char name[64];
    snprintf(name, sizeof name, "%s/f%d", directory, number);
    return fake_open_lock(&h, name, AFLOCK_IO_POOL);
}

static void make(const char *directory)
{
    ck_assert_int_eq(mkdir(fake_path(directory), 0777), 0);
}

/* Finds out which device the directory is on: on `dev`, if that is not 0. */
static void meet(const char *directory, uint64_t dev)
{
    fake_answer answer = {.count = 0};
    make(directory);
    if (dev)
        seam_device(fake_path(directory), dev);
    aflock *lock = lock_in(directory, 2 * MANY);
    aflock_req held = fake_hold(&h, lock, &answer, NULL);
    ck_assert_int_eq(fake_release(lock, held, NULL), 0);
    fake_work(&h);
    ck_assert_int_eq(aflock_close(lock), 0);
}

/* Starts `count` attempts in a directory. */
static void ask(const char *directory, int first, int count)
{
    for (int i = first; i < first + count; i++)
        ck_assert_int_eq(fake_acquire(lock_in(directory, i), NULL, &answers[i], NULL), 0);
}

static aflock *known[2 * MANY];

/* The same for locks that were held before: one job each, since it is known where their paths lead. */
static void ask_again(int first, int count)
{
    for (int i = first; i < first + count; i++) {
        answers[i] = (fake_answer){.count = 0};
        ck_assert_int_eq(fake_acquire(known[i], NULL, &answers[i], NULL), 0);
    }
}

static void know(const char *directory, uint64_t dev, int first, int count)
{
    meet(directory, dev);
    for (int i = first; i < first + count; i++) {
        known[i] = lock_in(directory, i);
        ck_assert_int_eq(fake_release(known[i], fake_hold(&h, known[i], &answers[i], NULL), NULL), 0);
        fake_work(&h);
        answers[i] = (fake_answer){.count = 0};
    }
}

/* Holds `count` locks in a directory. */
static void hold(const char *directory, int first, int count, aflock *locks[], aflock_req held[])
{
    for (int i = 0; i < count; i++) {
        locks[i] = lock_in(directory, first + i);
        held[i] = fake_hold(&h, locks[i], &answers[first + i], NULL);
    }
}

/* ------------------------------------------------------------------------------------------------------ the limits */

START_TEST(tries_leave_one_place_to_releases)
{
    aflock *lock;
    aflock_req held;
    fake_start(&h, 4, false, NULL);
    meet("a", 0), meet("b", 0xb), make("c");
    hold("c", 0, 1, &lock, &held);
    ask("a", 1, 3);
    ask("b", 4, 3);
    ck_assert_uint_eq(h.job_count, 3); /* of 4 */
    ck_assert_uint_eq(fake_jobs_in(&h, AFLOCK_LANE_TRY), 3);
    ck_assert_int_eq(fake_release(lock, held, NULL), 0);
    ck_assert_uint_eq(fake_jobs_in(&h, AFLOCK_LANE_RELEASE), 1);
    ck_assert_uint_eq(h.job_count, 4);
    fake_work(&h);
    for (int i = 1; i < 7; i++)
        ck_answered(answers[i], 0);
    ck_assert_int_eq(fake_free(&h, 0), 6);
}
END_TEST

START_TEST(one_device_gets_half_of_the_places_per_lane)
{
    aflock *locks[4];
    aflock_req held[4];
    make("a");
    fake_start(&h, 8, false, NULL);
    hold("a", 0, 4, locks, held);
    ask("a", 4, 6);
    ck_assert_uint_eq(fake_jobs_in(&h, AFLOCK_LANE_TRY), 4);
    for (int i = 0; i < 4; i++)
        ck_assert_int_eq(fake_release(locks[i], held[i], NULL), 0);
    ck_assert_uint_eq(fake_jobs_in(&h, AFLOCK_LANE_RELEASE), 3); /* and leaves one to others */
    fake_work(&h);
    for (int i = 4; i < 10; i++)
        ck_answered(answers[i], 0);
    ck_assert_int_eq(fake_free(&h, 0), 6);
}
END_TEST

/* Releases go first when a place is free, however long the tries have been waiting. */
START_TEST(a_release_overtakes_queued_tries)
{
    aflock *lock;
    aflock_req held;
    make("a"), make("b");
    fake_start(&h, 2, false, NULL);
    hold("a", 0, 1, &lock, &held);
    ask("b", 1, 4);
    ck_assert_uint_eq(h.job_count, 1);
    ck_assert_int_eq(fake_release(lock, held, NULL), 0);
    ck_assert_uint_eq(h.job_count, 2);
    ck_assert_int_eq(h.jobs[1].lane, AFLOCK_LANE_RELEASE);
    fake_work(&h);
    ck_assert_int_eq(fake_free(&h, 0), 4);
}
END_TEST

START_TEST(an_executor_of_one_place)
{
    aflock *lock;
    aflock_req held;
    make("a");
    fake_start(&h, 1, false, NULL);
    hold("a", 0, 1, &lock, &held);
    ask("a", 1, 3);
    ck_assert_uint_eq(h.job_count, 1);
    ck_assert_int_eq(fake_release(lock, held, NULL), 0);
    ck_assert_uint_eq(h.job_count, 1);
    fake_run(&h, 0);
    fake_settle(&h);
    ck_assert_uint_eq(h.job_count, 1);
    ck_assert_int_eq(h.jobs[0].lane, AFLOCK_LANE_RELEASE); /* before the tries that were queued earlier */
    fake_work(&h);
    for (int i = 1; i < 4; i++)
        ck_answered(answers[i], 0);
    ck_assert_int_eq(fake_free(&h, 0), 3);
}
END_TEST

/* ------------------------------------------------------------------------------------------------------------- runs */

/* Two submissions carry ten jobs. */
START_TEST(further_jobs_go_along)
{
    fake_start(&h, 4, false, NULL);
    know("a", 0, 0, 10);
    unsigned before = h.submits;
    ask_again(0, 10);
    ck_assert_uint_eq(h.job_count, 2);
    fake_run(&h, 0);
    fake_run(&h, 0);
    fake_settle(&h);
    ck_assert_uint_eq(h.submits - before, 2);
    for (int i = 0; i < 10; i++)
        ck_answered(answers[i], 0);
    ck_assert_int_eq(fake_free(&h, 0), 10);
}
END_TEST

/* The first worker never gets anywhere. Who was behind it goes on as soon as the second one has nothing to do. */
START_TEST(nobody_waits_behind_a_job_that_hangs)
{
    fake_start(&h, 4, false, NULL);
    know("a", 0, 0, 9);
    ask_again(0, 9);
    ck_assert_uint_eq(h.job_count, 2);
    fake_run(&h, 1);
    fake_settle(&h);
    unsigned answered = 0;
    for (int i = 0; i < 9; i++)
        answered += answers[i].count;
    ck_assert_uint_eq(answered, 5); /* its share */
    ck_assert_uint_eq(h.job_count, 2);
    for (int i = 0; i < 9 && h.job_count == 2; i++) {
        fake_run(&h, 1);
        fake_settle(&h);
    }
    ck_assert_uint_eq(answers[0].count, 0);
    for (int i = 1; i < 9; i++)
        ck_answered(answers[i], 0);
    fake_work(&h);
    ck_answered(answers[0], 0);
    ck_assert_int_eq(fake_free(&h, 0), 9);
}
END_TEST

START_TEST(what_is_behind_a_stalled_job_goes_on)
{
    fake_start(&h, 4, false, NULL);
    know("a", 0, 0, 6);
    ask_again(0, 6);
    ck_assert_uint_eq(h.job_count, 2);
    fake_advance(&h, SEC);
    ck_assert_uint_eq(h.stalls, 2);
    ck_assert_uint_eq(h.job_count, 4);
    fake_run(&h, 2);
    fake_run(&h, 2);
    fake_settle(&h);
    for (int i = 2; i < 6; i++)
        ck_answered(answers[i], 0);
    ck_assert_uint_eq(answers[0].count + answers[1].count, 0);
    fake_work(&h);
    ck_assert_int_eq(fake_free(&h, 0), 6);
}
END_TEST

/* While another device waits for a place, a run ends with what it has. */
START_TEST(a_place_that_others_want_is_given_up)
{
    fake_start(&h, 4, false, NULL);
    know("a", 0, 0, 8), know("b", 0xb, 8, 1), know("c", 0xc, 9, 1);
    ask_again(8, 1);
    ask_again(0, 2);
    ask_again(9, 1);
    ck_assert_uint_eq(h.job_count, 3); /* and one place is for releases */
    ask_again(2, 6);
    fake_run(&h, 1);
    fake_settle(&h);
    ck_answered(answers[0], 0);
    for (int i = 2; i < 8; i++)
        ck_assert_uint_eq(answers[i].count, 0); /* it did not go along */
    fake_run(&h, 2);                            /* what took the place */
    fake_settle(&h);
    ck_answered(answers[9], 0);
    fake_work(&h);
    ck_assert_int_eq(fake_free(&h, 0), 10);
}
END_TEST

/* A lone place is not kept from a release by tries that go along. */
START_TEST(tries_do_not_go_along_where_a_release_may_wait)
{
    fake_start(&h, 1, false, NULL);
    know("a", 0, 0, 4);
    aflock_req held = fake_hold(&h, known[3], &answers[3], NULL);
    ask_again(0, 3);
    ck_assert_int_eq(fake_release(known[3], held, NULL), 0);
    fake_run(&h, 0);
    fake_settle(&h);
    ck_assert_uint_eq(answers[0].count + answers[1].count + answers[2].count, 1);
    ck_assert_uint_eq(fake_jobs_in(&h, AFLOCK_LANE_RELEASE), 1);
    fake_work(&h);
    ck_assert_int_eq(fake_free(&h, 0), 3);
}
END_TEST

START_TEST(what_goes_along_can_be_cancelled_and_freed)
{
    aflock_req requests[6];
    fake_start(&h, 4, false, NULL);
    know("a", 0, 0, 6);
    for (int i = 0; i < 6; i++)
        ck_assert_int_eq(fake_acquire(known[i], NULL, &answers[i], &requests[i]), 0);
    ck_assert_int_eq(fake_cancel(known[4], requests[4]), 0);
    fake_settle(&h);
    ck_answered(answers[4], AFLOCK_ECANCELED);
    ck_assert_int_eq(fake_free(&h, 0), 0);
    for (int i = 0; i < 6; i++)
        ck_answered(answers[i], i == 4 ? AFLOCK_ECANCELED : AFLOCK_ECLOSED);
    char name[16];
    for (int i = 0; i < 6; i++) {
        snprintf(name, sizeof name, "a/f%d", i);
        ck_assert(fake_is_free(fake_path(name)));
    }
}
END_TEST

/* The executor drops one job; those that came after it are sent again. */
START_TEST(only_what_was_dropped_fails)
{
    fake_start(&h, 4, false, NULL);
    know("a", 0, 0, 6);
    ask_again(0, 6);
    fake_drop(&h, 0);
    fake_settle(&h);
    ck_answered(answers[0], AFLOCK_ESYS);
    fake_work(&h);
    for (int i = 1; i < 6; i++)
        ck_answered(answers[i], 0);
    ck_assert_int_eq(fake_free(&h, 0), 5);
}
END_TEST

/* ------------------------------------------------------------------------------------------------- a dead device */

/* Tries and releases of the dead device are out, as many as it gets; another device is served as if nothing were. */
START_TEST(a_dead_device_does_not_stop_another)
{
    aflock *locks[3], *good;
    aflock_req held[3];
    fake_answer answer;
    make("dead"), make("good");
    fake_start(&h, 4, false, NULL);
    seam_device("/dead", 0xdead);
    hold("dead", 0, 3, locks, held);
    for (int i = 0; i < 3; i++)
        ck_assert_int_eq(fake_release(locks[i], held[i], NULL), 0);
    ask("dead", 3, MANY);
    size_t dead = h.job_count;
    ck_assert_uint_eq(dead, 3);
    good = lock_in("good", 0);
    for (int i = 0; i < 20; i++) {
        answer = (fake_answer){.count = 0};
        ck_assert_int_eq(fake_acquire(good, NULL, &answer, NULL), 0);
        while (answer.count == 0) {
            ck_assert_uint_eq(h.job_count, dead + 1);
            fake_run(&h, dead);
            fake_settle(&h);
        }
        ck_answered(answer, 0);
        ck_assert_int_eq(fake_release(good, answer.result.req, NULL), 0);
        ck_assert_uint_eq(h.job_count, dead + 1);
        fake_run(&h, dead);
        fake_settle(&h);
    }
    fake_work(&h);
    for (int i = 3; i < 3 + MANY; i++)
        ck_answered(answers[i], 0);
    ck_assert_int_eq(fake_free(&h, 0), MANY);
}
END_TEST

/* A job that is out for a second stops counting: the executor is told, and the next ones go. A device with eight of
 * them gets no more until one comes back. */
START_TEST(a_stalled_job_stops_counting)
{
    fake_start(&h, 4, false, NULL);
    meet("good", 0), meet("dead", 0xdead);
    ask("dead", 0, MANY);
    ck_assert_uint_eq(h.job_count, 2);
    fake_advance(&h, SEC - 1);
    ck_assert_uint_eq(h.stalls, 0);
    ck_assert_uint_eq(h.job_count, 2);
    fake_advance(&h, 1);
    ck_assert_uint_eq(h.stalls, 2);
    ck_assert_uint_eq(h.job_count, 4);
    fake_advance(&h, 10 * SEC);
    ck_assert_uint_eq(h.stalls, 8);
    ck_assert_uint_eq(h.job_count, 8);
    ask("good", MANY, 4);
    ck_assert_uint_eq(h.job_count, 10);
    fake_run(&h, 0);
    fake_settle(&h);
    ck_assert_uint_eq(h.job_count, 10); /* one came back, one went */
    fake_work(&h);
    for (int i = 0; i < MANY + 4; i++)
        ck_answered(answers[i], 0);
    ck_assert_int_eq(fake_free(&h, 0), MANY + 4);
}
END_TEST

START_TEST(stalling_can_be_switched_off)
{
    aflock_ctx_options options;
    aflock_ctx_options_init(&options);
    options.stall_after = AFLOCK_FOREVER;
    make("a");
    fake_start(&h, 4, false, &options);
    ask("a", 0, 1);
    ck_assert_uint_eq(h.timer, AFLOCK_FOREVER);
    fake_advance(&h, 1000 * SEC);
    ck_assert_uint_eq(h.stalls, 0);
    fake_work(&h);
    ck_assert_int_eq(fake_free(&h, 0), 1);
}
END_TEST

/* -------------------------------------------------------------------------------------- executors that do not do it */

START_TEST(a_refusing_executor_is_asked_again)
{
    make("a");
    fake_start(&h, 4, false, NULL);
    h.refusals = 3;
    ask("a", 0, 2);
    ck_assert_uint_eq(h.job_count, 0);
    ck_assert(h.alive);
    fake_advance(&h, MS);
    ck_assert_uint_lt(h.submits, 3); /* not in a busy loop */
    fake_advance(&h, SEC / 2);
    ck_assert_uint_eq(h.refusals, 0);
    ck_assert_uint_eq(h.job_count, 2);
    fake_work(&h);
    ck_answered(answers[0], 0);
    ck_answered(answers[1], 0);
    ck_assert_int_eq(fake_free(&h, 0), 2);
}
END_TEST

START_TEST(an_executor_that_always_refuses_stops_neither_deadlines_nor_the_end)
{
    aflock_req req;
    fake_start(&h, 4, false, NULL);
    aflock *lock = fake_open_lock(&h, "f", AFLOCK_IO_POOL);
    req = fake_hold(&h, lock, &answers[0], NULL);
    h.refusals = UINT32_MAX;
    ck_assert_int_eq(fake_release(lock, req, &answers[1]), 0);
    aflock_acquire_options o = fake_options(100 * MS);
    ck_assert_int_eq(fake_acquire(lock, &o, &answers[2], NULL), 0);
    fake_advance(&h, 100 * MS - 1);
    ck_assert_uint_eq(answers[2].count, 0);
    fake_advance(&h, 1);
    ck_answered(answers[2], AFLOCK_ETIMEDOUT);
    ck_assert_uint_eq(answers[1].count, 0);
    ck_assert_int_eq(fake_free(&h, 100 * MS), 1);
    ck_answered(answers[1], AFLOCK_ECLOSED);
    ck_assert(fake_is_free(fake_path("f"))); /* nobody else does it: the last resort */
}
END_TEST

START_TEST(a_try_that_no_executor_takes_is_an_error)
{
    fake_start(&h, 4, false, NULL);
    h.refusals = UINT32_MAX;
    aflock *lock = fake_open_lock(&h, "f", AFLOCK_IO_POOL);
    ck_assert_int_eq(fake_acquire(lock, NULL, &answers[0], NULL), 0);
    fake_advance(&h, SEC - 10 * MS);
    ck_assert_uint_eq(answers[0].count, 0); /* it could pass */
    fake_advance(&h, 20 * MS);
    ck_answered(answers[0], AFLOCK_ESYS);
    ck_assert_int_eq(answers[0].result.sys_errno, EAGAIN);
    ck_assert_str_eq(answers[0].result.step, "executor");
    h.refusals = 0;
    fake_hold(&h, lock, &answers[1], NULL);
    ck_assert_int_eq(fake_free(&h, SEC), 1); /* the scripted executor runs nothing by itself */
}
END_TEST

START_TEST(a_dropped_job_is_an_error_and_leaves_the_lock_usable)
{
    fake_start(&h, 4, false, NULL);
    aflock *lock = fake_open_lock(&h, "f", AFLOCK_IO_POOL);
    for (int i = 0; i < 2; i++) { /* the look-up, then the attempt */
        answers[0] = (fake_answer){.count = 0};
        ck_assert_int_eq(fake_acquire(lock, NULL, &answers[0], NULL), 0);
        if (i == 1) {
            fake_run(&h, 0);
            fake_settle(&h);
        }
        fake_drop(&h, 0);
        fake_settle(&h);
        ck_answered(answers[0], AFLOCK_ESYS);
        ck_assert_str_eq(answers[0].result.step, "executor");
    }
    aflock_req req = fake_hold(&h, lock, &answers[0], NULL);

    ck_assert_int_eq(fake_release(lock, req, &answers[1]), 0);
    fake_drop(&h, 0);
    fake_settle(&h);
    ck_answered(answers[1], AFLOCK_ESYS);
    ck_assert_int_ge(aflock_fd(lock, req), 0); /* held as before */
    ck_assert(!fake_is_free(fake_path("f")));
    ck_assert_int_eq(aflock_verify(lock, req, fake_answered, &answers[2]), 0);
    fake_drop(&h, 0);
    fake_settle(&h);
    ck_answered(answers[2], AFLOCK_ESYS);

    ck_assert_int_eq(fake_release(lock, req, NULL), 0); /* nobody to tell: it is tried until it is done */
    fake_drop(&h, 0);
    fake_settle(&h);
    ck_assert(h.alive);
    fake_advance(&h, SEC);
    fake_work(&h);
    ck_assert(fake_is_free(fake_path("f")));
    ck_assert(!h.alive);
    ck_assert_int_eq(fake_free(&h, 0), 0);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {further_jobs_go_along,
                                  nobody_waits_behind_a_job_that_hangs,
                                  what_is_behind_a_stalled_job_goes_on,
                                  a_place_that_others_want_is_given_up,
                                  tries_do_not_go_along_where_a_release_may_wait,
                                  what_goes_along_can_be_cancelled_and_freed,
                                  only_what_was_dropped_fails,
                                  tries_leave_one_place_to_releases,
                                  one_device_gets_half_of_the_places_per_lane,
                                  a_release_overtakes_queued_tries,
                                  an_executor_of_one_place,
                                  a_dead_device_does_not_stop_another,
                                  a_stalled_job_stops_counting,
                                  stalling_can_be_switched_off,
                                  a_refusing_executor_is_asked_again,
                                  an_executor_that_always_refuses_stops_neither_deadlines_nor_the_end,
                                  a_try_that_no_executor_takes_is_an_error,
                                  a_dropped_job_is_an_error_and_leaves_the_lock_usable,
                                  NULL};
    return fake_main("runtime: admission", tests);
}
