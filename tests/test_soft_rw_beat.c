/* Soft readers and writers: heartbeats of what is held and of a writer who waits, and how a hold is lost. */
#include "support/soft_rw_scene.h"

#include <aflock/host.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define READ AFLOCK_SHARED
#define WRITE AFLOCK_EXCLUSIVE

static aflock *open_fast(int io)
{
    aflock_options o = soft_rw_options(io);
    o.heartbeat = 10 * AFLOCK_MILLISECOND;
    o.stale_after = 90 * AFLOCK_SECOND;
    return open_with(&o);
}

static const char *marker_of(aflock_mode mode)
{
    return mode == READ ? own_reader() : WRITER;
}

static time_t changed(const char *path)
{
    struct stat st;
    ck_assert_int_eq(lstat(path, &st), 0);
    return st.st_mtim.tv_sec;
}

START_TEST(what_is_held_is_touched)
{
    stop_clocks(AFLOCK_SECOND, 0);
    aflock *lock = open_fast(_i);
    for (int mode = WRITE; mode <= READ; mode++) {
        told t = {0};
        aflock_req req = soft_rw_hold_for(lock, (aflock_mode)mode, NULL, &t);
        char path[PATH_MAX];
        snprintf(path, sizeof path, "%s", marker_of((aflock_mode)mode));
        for (int i = 0; i < 3; i++) {
            make_older(path, 1000);
            await_beats(2);
            ck_assert_int_gt(changed(path), time(NULL) - 900);
        }
        ck_assert_int_eq(t.count, 0);
        must_release(lock, req);
        const int touches = seam_count(SEAM_TOUCH);
        run_turns(5);
        ck_assert_int_eq(seam_count(SEAM_TOUCH), touches);
    }
}
END_TEST

/* His claim keeps others out as long as he waits. */
START_TEST(the_claim_of_who_waits_is_touched)
{
    answer a = {0};
    stop_clocks(AFLOCK_SECOND, 0);
    aflock *lock = open_fast(_i);
    write_reader("f0.1", getpid(), ELSEWHERE);
    aflock_req req = soft_rw_wait(lock, WRITE, &a);
    for (int i = 0; i < 3; i++) {
        make_older(WRITER, 1000);
        await_beats(2);
        ck_assert_int_gt(changed(WRITER), time(NULL) - 900);
    }
    ck_assert_int_eq(a.count, 0);
    ck_assert_int_eq(aflock_cancel(lock, req), 0);
    soft_rw_rest();
    ck_assert(!is_there(WRITER));
}
END_TEST

/* One that is lost is made anew: nothing was held yet. */
START_TEST(a_claim_that_is_lost)
{
    answer a = {0};
    stop_clocks(AFLOCK_SECOND, 0);
    aflock *lock = open_fast(_i);
    const char *path = write_reader("f0.1", getpid(), ELSEWHERE);
    soft_rw_wait(lock, WRITE, &a);
    ck_assert_int_eq(unlink(WRITER), 0);
    scene_turn_until(is_there(WRITER));
    ck_assert_int_eq(unlink(path), 0);
    soft_rw_must_be_woken(lock, &a);
}
END_TEST

static void must_be_lost(told *t, aflock *lock, aflock_req req, aflock_compromise_reason why)
{
    scene_run_until(&t->count, 1);
    ck_assert_int_eq(t->what.reason, why);
    ck_assert(t->req.id == req.id);
    ck_assert_int_eq(aflock_verify(lock, req, scene_answer, NULL), AFLOCK_ECOMPROMISED);
    must_release(lock, req);
    ck_assert_int_eq(t->count, 1);
}

START_TEST(a_marker_is_taken_away)
{
    stop_clocks(AFLOCK_SECOND, 0);
    aflock *lock = open_fast(_i);
    for (int mode = WRITE; mode <= READ; mode++) {
        told t = {0};
        aflock_req req = soft_rw_hold_for(lock, (aflock_mode)mode, NULL, &t);
        ck_assert_int_eq(unlink(marker_of((aflock_mode)mode)), 0);
        must_be_lost(&t, lock, req, AFLOCK_MARKER_MISSING);
    }
}
END_TEST

/* Whoever has it now keeps it. */
START_TEST(a_marker_is_another_ones)
{
    stop_clocks(AFLOCK_SECOND, 0);
    aflock *lock = open_fast(_i);
    for (int mode = WRITE; mode <= READ; mode++) {
        told t = {0};
        char path[PATH_MAX];
        aflock_req req = soft_rw_hold_for(lock, (aflock_mode)mode, NULL, &t);
        snprintf(path, sizeof path, "%s", marker_of((aflock_mode)mode));
        write_marker("new", TOKEN, getpid(), host_name());
        ck_assert_int_eq(rename("new", path), 0);
        must_be_lost(&t, lock, req, AFLOCK_OWNER_CHANGED);
        ck_assert(mode == READ || is_there(WRITER));
        ck_assert(unlink(path) == 0 || errno == ENOENT);
    }
}
END_TEST

/* The folder that the path leads to is another one: others do not see our marker. */
START_TEST(the_folder_is_another_one)
{
    told t = {0};
    stop_clocks(AFLOCK_SECOND, 0);
    aflock *lock = open_fast(_i);
    aflock_req req = soft_rw_hold_for(lock, READ, NULL, &t);
    ck_assert_int_eq(rename(READERS, "away"), 0);
    ck_assert_int_eq(mkdir(READERS, 0700), 0);
    must_be_lost(&t, lock, req, AFLOCK_MARKER_MISSING);
}
END_TEST

/* The clock goes on, and the loop's timer has heard of it. */
static void pass(uint64_t ns)
{
    pass_boottime(ns);
    aflock_host_timer(scene);
}

/* Others may take what was not touched for stale_after; it is given up one heartbeat before. */
START_TEST(it_is_not_refreshed_in_time)
{
    told t = {0};
    stop_clocks(AFLOCK_SECOND, 0);
    aflock *lock = soft_rw_open(_i);
    aflock_req req = soft_rw_hold_for(lock, WRITE, NULL, &t);
    seam_fail(SEAM_TOUCH, 0, INT_MAX, EIO);
    pass(60 * AFLOCK_SECOND - 1);
    run_turns(3);
    ck_assert_int_eq(t.count, 0);
    pass(1);
    scene_run_until(&t.count, 1);
    ck_assert(t.what.reason == AFLOCK_REFRESH_FAILED || t.what.reason == AFLOCK_LEASE_EXPIRED);
    must_release(lock, req);
    ck_assert(!is_there(WRITER));
}
END_TEST

/* Where there is not a whole heartbeat left between it and the end, half of what is left. */
START_TEST(little_time)
{
    told t = {0};
    stop_clocks(AFLOCK_SECOND, 0);
    aflock_options o = soft_rw_options(_i);
    o.heartbeat = 30 * AFLOCK_SECOND;
    o.stale_after = 40 * AFLOCK_SECOND;
    aflock *lock = open_with(&o);
    aflock_req req = soft_rw_hold_for(lock, READ, NULL, &t);
    seam_fail(SEAM_TOUCH, 0, INT_MAX, EIO);
    pass(35 * AFLOCK_SECOND - 1);
    run_turns(3);
    ck_assert_int_eq(t.count, 0);
    pass(1);
    scene_run_until(&t.count, 1);
    must_release(lock, req);
}
END_TEST

/* All readers of the context are told, and who asks then gets a marker of his own. */
START_TEST(every_reader_is_told)
{
    told t[3] = {{0}};
    int owners[3];
    aflock_req req[3];
    stop_clocks(AFLOCK_SECOND, 0);
    aflock *lock = open_fast(_i);
    for (int i = 0; i < 3; i++)
        req[i] = soft_rw_hold_for(lock, READ, &owners[i], &t[i]);
    ck_assert_int_eq(count_readers(), 1);
    ck_assert_int_eq(unlink(own_reader()), 0);
    for (int i = 0; i < 3; i++)
        scene_run_until(&t[i].count, 1);
    for (int i = 0; i < 3; i++)
        must_release(lock, req[i]);
    soft_rw_must_get(lock, READ);
}
END_TEST

/* The context's own heartbeats are nobody who comes. */
static int wanted;

static void on_wanted(aflock *lock, aflock_req req, aflock_wanted who, void *user)
{
    (void)lock, (void)req, (void)who, (void)user;
    wanted++;
}

START_TEST(beats_are_not_heard)
{
    stop_clocks(AFLOCK_SECOND, 0);
    aflock *lock = open_fast(_i);
    aflock_acquire_options o = scene_options(0, 0);
    o.on_wanted = on_wanted;
    for (int mode = WRITE; mode <= READ; mode++) {
        o.mode = (aflock_mode)mode;
        answer a = scene_acquire(lock, &o);
        ck_assert_int_eq(a.result.status, 0);
        await_beats(3);
        run_turns(3);
        ck_assert_int_eq(wanted, 0);
        must_release(lock, a.result.req);
    }
}
END_TEST

int main(void)
{
    const TTest *const each[] = {what_is_held_is_touched,
                                 the_claim_of_who_waits_is_touched,
                                 a_claim_that_is_lost,
                                 a_marker_is_taken_away,
                                 a_marker_is_another_ones,
                                 the_folder_is_another_one,
                                 it_is_not_refreshed_in_time,
                                 little_time,
                                 every_reader_is_told,
                                 beats_are_not_heard,
                                 NULL};
    return scene_main("soft rw beat", NULL, each);
}
