/* aflock_run under a lease: who loses it while his function runs is told at once, and again when it has returned. The
 * boot-time clock is the test's own. */
#include "support/lease_scene.h"

#include <aflock/host.h>

#include <stdatomic.h>
#include <unistd.h>

#define DUE (10 * AFLOCK_SECOND)
#define START (UINT64_C(1000) * AFLOCK_SECOND)

static atomic_bool hangs;
static atomic_uint began;
static int count, status, value;

static int work(int fd, void *user)
{
    (void)user;
    atomic_fetch_add(&began, 1);
    while (atomic_load(&hangs))
        usleep(500);
    return fd == -1 ? 42 : 0;
}

static void ran(aflock *lock, const aflock_result *result, int returned, void *user)
{
    (void)lock, (void)user;
    count++;
    status = result->status;
    value = returned;
}

/* A function is running. */
static aflock *begin(told *t, aflock_req *req)
{
    stop_clocks(START, 0);
    aflock *lock = open_lease(AFLOCK_IO_AUTO);
    *req = must_hold_for(lock, NULL, t);
    atomic_store(&hangs, true);
    ck_assert_int_eq(aflock_run(lock, *req, work, ran, NULL), 0);
    while (!atomic_load(&began))
        usleep(500);
    return lock;
}

/* The marker is gone, and a heartbeat finds that out. */
static void lose(void)
{
    ck_assert_int_eq(unlink("lock"), 0);
    pass_boottime(DUE);
    aflock_host_timer(scene);
}

START_TEST(a_lease_that_is_lost_meanwhile)
{
    told t = {0};
    aflock_req req;
    aflock *lock = begin(&t, &req);
    lose();
    scene_run_until(&t.count, 1);
    ck_assert_int_eq(t.what.reason, AFLOCK_MARKER_MISSING);
    ck_assert_int_eq(count, 0);
    ck_assert_int_eq(aflock_run(lock, req, work, ran, NULL), AFLOCK_ECOMPROMISED);
    atomic_store(&hangs, false);
    scene_run_until(&count, 1);
    ck_assert_int_eq(status, AFLOCK_ECOMPROMISED);
    ck_assert_int_eq(value, 42);
    must_release(lock, req);
    must_get(lock);
}
END_TEST

/* It was released, as far as its holder is concerned. */
START_TEST(lost_after_its_release_was_asked_for)
{
    told t = {0};
    answer a = {0};
    aflock_req req;
    aflock *lock = begin(&t, &req);
    ck_assert_int_eq(aflock_release(lock, req, scene_answer, &a), 0);
    scene_expect(1);
    pass_boottime(3 * DUE);
    run_turns(5);
    ck_assert_int_eq(t.count, 0);
    ck_assert_int_eq(a.count, 0);
    atomic_store(&hangs, false);
    scene_run_until(&a.count, 1);
    ck_assert_int_eq(a.result.status, 0);
    ck_assert_int_eq(status, AFLOCK_ECOMPROMISED);
    ck_assert_int_eq(t.count, 0);
    must_get(lock);
}
END_TEST

/* The marker is refreshed meanwhile, and stays after the release was asked for. */
START_TEST(a_lease_that_is_kept_meanwhile)
{
    told t = {0};
    aflock_req req;
    aflock *lock = begin(&t, &req);
    ck_assert_int_eq(aflock_release(lock, req, NULL, NULL), 0);
    for (int i = 0; i < 5; i++) {
        const int before = seam_count(SEAM_TOUCH);
        pass_boottime(DUE);
        aflock_host_timer(scene);
        await_touches(before + 1);
        ck_assert_int_eq(access("lock", F_OK), 0);
    }
    atomic_store(&hangs, false);
    scene_run_until(&count, 1);
    ck_assert_int_eq(status, 0);
    ck_assert_int_eq(t.count, 0);
    must_get(lock);
}
END_TEST

int main(void)
{
    const TTest *const once[] = {a_lease_that_is_lost_meanwhile, lost_after_its_release_was_asked_for,
                                 a_lease_that_is_kept_meanwhile, NULL};
    return scene_main("leases and functions", once, NULL);
}
