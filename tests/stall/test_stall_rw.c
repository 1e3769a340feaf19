/* Soft readers and writers on a disk that hangs at each request of theirs, one after the other: time-outs are answered,
 * the context ends, holders are told, and nothing is left when the disk goes on. */
#include "stall_scene.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MS AFLOCK_MILLISECOND
#define BEHIND "m.files/f"
#define SOFT_RW (&STALL_PROTOCOLS[STALL_PROTOCOL_COUNT - 1])

enum { IOS = 2, MODES = 2, COMBINATIONS = IOS * MODES, FEWEST = 8, TIMEOUT = 20, CLAIM = 60 };

static aflock *lock;
static aflock_mode mode;

static void begin_with(int i)
{
    mode = i / IOS ? AFLOCK_SHARED : AFLOCK_EXCLUSIVE;
    ck_assert_int_eq(SOFT_RW->protocol, AFLOCK_SOFT_RW);
    lock = stall_open(SOFT_RW, "m/f", i % IOS ? AFLOCK_IO_POOL : AFLOCK_IO_AUTO);
}

/* All requests after the first `number` of them hang. */
static void hang_at(unsigned number)
{
    if (number > 0)
        stall_set(m, (stall_rule){.calls = STALL_ALL, .times = (int)number});
    stall_set(m, (stall_rule){.calls = STALL_ALL, .times = STALL_ALWAYS, .hang = true});
}

static aflock_req ask(uint64_t timeout, answer *a)
{
    aflock_req req;
    aflock_acquire_options o = scene_options(0, 0);
    o.mode = mode;
    o.timeout = timeout;
    *a = (answer){.count = 0};
    ck_assert_int_eq(aflock_acquire(lock, &o, scene_answer, a, &req), 0);
    scene_expect(1);
    return req;
}

static void let_go(aflock_req req)
{
    answer a = {.count = 0};
    ck_assert_int_eq(aflock_release(lock, req, scene_answer, &a), 0);
    scene_expect(1);
    stall_run_until_answered(&a);
    ck_assert_int_eq(a.result.status, 0);
    ck_assert(stall_is_free(SOFT_RW, BEHIND));
}

static void must_work(void)
{
    answer a;
    aflock_req req = ask(AFLOCK_FOREVER, &a);
    stall_run_until_answered(&a);
    ck_assert_msg(a.result.status == 0, "%s at %s", aflock_error_name(a.result.status), a.step);
    ck_assert(!stall_is_free(SOFT_RW, BEHIND));
    let_go(req);
}

static bool hangs_or_answered(const void *user)
{
    return stall_hung(m) > 0 || ((const answer *)user)->count > 0;
}

/* -------------------------------------------------------------------------------------------------------- the tests */

/* False: it came to its end before that request. */
static bool time_out_at(unsigned number)
{
    answer a;
    hang_at(number);
    aflock_req req = ask(TIMEOUT * MS, &a);
    stall_run_until_answered(&a);
    const bool hung = stall_hung(m) > 0;
    if (a.result.status != 0) {
        ck_assert_int_eq(a.result.status, AFLOCK_ETIMEDOUT);
        ck_assert_uint_ge(a.result.waited, TIMEOUT * MS);
    }
    stall_resume(m);
    if (a.result.status == 0)
        let_go(req);
    stall_run_until_free(SOFT_RW, BEHIND); /* what came too late is undone */
    return hung || a.result.status != 0;
}

START_TEST(an_attempt_that_hangs)
{
    unsigned number = 0;
    begin_with(_i);
    while (time_out_at(number))
        number++;
    ck_assert_uint_gt(number, FEWEST);
    must_work();
    check_loop_is_free();
}
END_TEST

static bool release_at(unsigned number)
{
    answer a, b = {.count = 0};
    aflock_req req = ask(AFLOCK_FOREVER, &a);
    stall_run_until_answered(&a);
    ck_assert_int_eq(a.result.status, 0);
    hang_at(number);
    ck_assert_int_eq(aflock_release(lock, req, scene_answer, &b), 0);
    scene_expect(1);
    stall_run_until(hangs_or_answered, &b);
    const bool hung = b.count == 0;
    stall_resume(m);
    stall_run_until_answered(&b);
    ck_assert_int_eq(b.result.status, 0);
    ck_assert(stall_is_free(SOFT_RW, BEHIND));
    return hung;
}

START_TEST(a_release_that_hangs)
{
    unsigned number = 0;
    begin_with(_i);
    while (release_at(number))
        number++;
    ck_assert_uint_gt(number, FEWEST / 4);
    must_work();
    check_loop_is_free();
}
END_TEST

/* With an attempt under way, or with the hold if it came to that. */
static bool end_at(unsigned number, int i)
{
    answer a;
    stall_scene_context(NULL);
    begin_with(i);
    hang_at(number);
    ask(AFLOCK_FOREVER, &a);
    stall_run_until(hangs_or_answered, &a);
    const bool hung = a.count == 0;
    const int left = stall_scene_free(10 * MS);
    ck_assert_int_eq(a.count, 1);
    ck_assert_int_eq(a.result.status, hung ? AFLOCK_ECLOSED : 0);
    ck_assert_int_le(left, !hung);
    stall_resume(m);
    stall_run_until_closed(0);
    ck_assert(stall_is_free(SOFT_RW, BEHIND));
    return hung;
}

START_TEST(a_context_that_ends_meanwhile)
{
    unsigned number = 0;
    while (end_at(number, _i))
        number++;
    ck_assert_uint_gt(number, FEWEST);
    ck_assert_uint_eq(stall_by_watched(m), 0);
}
END_TEST

static int told;

static void on_compromise(aflock *l, aflock_req req, const aflock_compromise *what, void *user)
{
    (void)user;
    ck_assert_int_eq(what->reason, AFLOCK_REFRESH_FAILED);
    told++;
    ck_assert_int_eq(aflock_release(l, req, NULL, NULL), 0);
}

static bool is_told(const void *user)
{
    (void)user;
    return told > 0;
}

/* No heartbeat comes to an end: whoever holds is told in time, by his own clock. */
START_TEST(a_heartbeat_that_hangs)
{
    answer a = {.count = 0};
    aflock_options o;
    aflock_acquire_options p = scene_options(0, 0);
    begin_with(_i);
    ck_assert_int_eq(aflock_close(lock), 0);
    aflock_options_init(&o);
    o.protocol = AFLOCK_SOFT_RW;
    o.io = _i % IOS ? AFLOCK_IO_POOL : AFLOCK_IO_AUTO;
    o.stale_after = AFLOCK_SECOND;
    o.heartbeat = 500 * MS;
    ck_assert_int_eq(aflock_open(&lock, scene, "m/f", &o), 0);
    p.mode = mode;
    p.on_compromise = on_compromise;
    ck_assert_int_eq(aflock_acquire(lock, &p, scene_answer, &a, NULL), 0);
    scene_expect(1);
    stall_run_until_answered(&a);
    told = a.result.status != 0; /* on a machine that is so slow */
    hang_at(0);
    stall_run_until(is_told, NULL);
    ck_assert_int_eq(told, 1);
    stall_resume(m);
    stall_run_until_free(SOFT_RW, BEHIND);
    check_loop_is_free();
}
END_TEST

/* Others read: the claim hangs where it may, and is gone when its request is. It tries on and on. */
START_TEST(a_claim_that_hangs)
{
    begin_with(_i % IOS);
    ck_assert_int_eq(mkdir(BEHIND ".readers", 0700), 0);
    for (unsigned number = (unsigned)_i; number < CLAIM; number += COMBINATIONS) {
        answer a;
        int fd = open(BEHIND ".readers/f0.1", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
        ck_assert_int_ge(fd, 0);
        hang_at(number);
        ask(TIMEOUT * MS, &a);
        stall_run_until_answered(&a);
        ck_assert_int_eq(a.result.status, AFLOCK_ETIMEDOUT);
        ck_assert_uint_ge(a.result.waited, TIMEOUT * MS);
        stall_resume(m);
        close(fd);
        ck_assert_int_eq(unlink(BEHIND ".readers/f0.1"), 0);
        stall_run_until_free(SOFT_RW, BEHIND);
    }
    must_work();
    check_loop_is_free();
}
END_TEST

int main(void)
{
    const TTest *const each[] = {an_attempt_that_hangs,  a_release_that_hangs, a_context_that_ends_meanwhile,
                                 a_heartbeat_that_hangs, a_claim_that_hangs,   NULL};
    return stall_main("stall, soft rw", 60, NULL, each, COMBINATIONS);
}
