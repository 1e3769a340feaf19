/* Soft readers and writers whose system calls fail: every single one, with what is plausible for it. Whatever fails,
 * who holds has a marker, who fails leaves none behind, nor the state lock, and the lock works afterwards. */
#include "support/failures.h"
#include "support/soft_rw_scene.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ------------------------------------------------------------------------------------------------------- every call */

/* What would be a lie and not a failure. */
static bool is_lie(seam_call call, int error)
{
    const bool looks = call == SEAM_STAT || call == SEAM_OPEN || call == SEAM_RENAME;
    if (looks && error == ENOENT)
        return true;                             /* to believe it is right */
    return call == SEAM_STAT && error == ESTALE; /* of a path: the folder is no more */
}

/* Something that counts. What was put aside, and could not be taken away then, does not. */
static int count(const char *folder, bool sweep)
{
    int n = 0;
    DIR *d = opendir(folder);
    for (const struct dirent *e; d && (e = readdir(d)) != NULL;) {
        const bool aside = strstr(e->d_name, ".break.") != NULL;
        n += e->d_name[0] != '.' && !aside;
        if (sweep && aside)
            ck_assert_int_eq(unlinkat(dirfd(d), e->d_name, 0), 0);
    }
    if (d)
        closedir(d);
    return n;
}

typedef enum beginning { NOTHING, THE_FOLDER, STALE_WRITER, STALE_READERS, DEAD_STATE, BEGINNINGS } beginning;

static void begin(beginning b)
{
    static pid_t dead;
    if (!dead)
        dead = dead_pid();
    (void)count(".", true);
    (void)count(READERS, true);
    if (b == NOTHING)
        ck_assert(rmdir(READERS) == 0 || errno == ENOENT);
    else
        ck_assert(mkdir(READERS, 0700) == 0 || errno == EEXIST);
    if (b == STALE_WRITER) {
        write_writer(1, ELSEWHERE);
        make_older(WRITER, 100);
    } else if (b == STALE_READERS) {
        make_older(write_reader("f0.1", 1, ELSEWHERE), 100);
        write_reader("f1.1", dead, host_name());
    } else if (b == DEAD_STATE) {
        mark_without_token(STATE, dead, host_name());
    }
}

static bool has_marker(aflock_mode mode)
{
    return mode == AFLOCK_SHARED ? own_reader()[0] != '\0' : is_there(WRITER);
}

static void must_be_clean(int error)
{
    ck_assert_msg(!is_there(STATE) && !is_there(WRITER) && count(READERS, false) == 0,
                  "%s, errno %d: something is left", seam_name(failures_met()), error);
}

/* The n-th call, and so many after it, fail; the rest goes well. False: there are no so many. */
static bool play(aflock *lock, aflock_mode mode, int n, int times, int error, beginning b)
{
    failures_from(n, times, error, is_lie);
    answer a = soft_rw_try(lock, mode, 30 * AFLOCK_SECOND);
    if (a.result.status == 0) {
        ck_assert(has_marker(mode));
        answer r = scene_release(lock, a.result.req);
        if (r.result.status != 0) {
            ck_assert_msg(has_marker(mode), "%s, errno %d: %s at %s", seam_name(failures_met()), error,
                          aflock_error_name(r.result.status), r.step);
            failures_stop();
            must_release(lock, a.result.req);
        }
    } else {
        ck_assert_str_ne(a.step, "");
        ck_assert_int_ne(a.result.sys_errno, 0);
    }
    failures_stop();
    soft_rw_rest();
    const bool failed = failures_end();
    ck_assert_msg(failed || a.result.status == 0, "%s at %s: %s", aflock_error_name(a.result.status), a.step, a.detail);
    if (a.result.status == 0 && (b == NOTHING || b == THE_FOLDER))
        must_be_clean(error);
    a = soft_rw_try(lock, AFLOCK_EXCLUSIVE, 30 * AFLOCK_SECOND);
    ck_assert_msg(a.result.status == 0, "%s, errno %d: %s at %s", seam_name(failures_met()), error,
                  aflock_error_name(a.result.status), a.step);
    ck_assert_int_eq(count(READERS, false), 0);
    must_release(lock, a.result.req);
    must_be_clean(error);
    return failed;
}

/* Every third errno, from `first` on: each of three tests has its own time limit. */
static void fail_each(int times, int first)
{
    int played = 0;
    aflock_options o = soft_rw_options(AFLOCK_IO_INLINE);
    o.poll_interval = AFLOCK_MILLISECOND;
    for (size_t e = (size_t)first; e < FAILURES_ERRORS; e += 3) {
        for (int i = 0; i < 2 * BEGINNINGS; i++) {
            for (int n = 0, more = 1; more; n++) {
                aflock *lock;
                begin((beginning)(i / 2));
                ck_assert_int_eq(aflock_open(&lock, scene, "lock", &o), 0);
                more = play(lock, i % 2 ? AFLOCK_SHARED : AFLOCK_EXCLUSIVE, n, times, failures_errors[e],
                            (beginning)(i / 2));
                ck_assert_int_eq(aflock_close(lock), 0);
                played++;
            }
        }
    }
    printf("%d runs\n", played);
}

START_TEST(each_call_once)
{
    fail_each(1, _i);
}
END_TEST

START_TEST(each_call_three_times)
{
    fail_each(3, _i);
}
END_TEST

/* --------------------------------------------------------------------------------------------------- one at a time */

/* The marker stays: it is held as before. */
START_TEST(a_release_that_fails)
{
    aflock *lock = soft_rw_open(_i);
    for (int mode = AFLOCK_EXCLUSIVE; mode <= AFLOCK_SHARED; mode++) {
        aflock_req req = soft_rw_hold(lock, (aflock_mode)mode);
        failures_on_end(SEAM_UNLINK, mode == AFLOCK_SHARED ? strrchr(own_reader(), '/') + 1 : ".write", EACCES,
                        FAILURES_FOR_EVER);
        answer a = scene_release(lock, req);
        ck_assert_int_eq(a.result.status, AFLOCK_EACCES);
        ck_assert_str_eq(a.step, "unlink");
        ck_assert(has_marker((aflock_mode)mode) && !is_there(STATE));
        failures_none();
        must_release(lock, req);
        ck_assert(!has_marker((aflock_mode)mode) && !is_there(STATE));
    }
}
END_TEST

/* The marker goes and the state lock stays: it is not held any more, and keeps others out until it is gone. */
START_TEST(a_release_that_is_not_finished)
{
    aflock *lock = soft_rw_open(_i);
    aflock_req req = soft_rw_hold(lock, AFLOCK_EXCLUSIVE);
    failures_on_end(SEAM_UNLINK, ".state", EIO, FAILURES_FOR_EVER);
    answer a = scene_release(lock, req);
    ck_assert_int_eq(a.result.status, 0);
    ck_assert_int_eq(a.result.cleanup_errno, EIO);
    ck_assert(!is_there(WRITER) && is_there(STATE));
    ck_assert(aflock_epoll_alive(scene));
    failures_none();
    soft_rw_rest();
    ck_assert(!is_there(STATE));
    soft_rw_must_get(lock, AFLOCK_SHARED);
}
END_TEST

/* Nobody holds what has left the state lock behind. */
START_TEST(an_attempt_that_cannot_let_go)
{
    aflock *lock = soft_rw_open(_i);
    for (int mode = AFLOCK_EXCLUSIVE; mode <= AFLOCK_SHARED; mode++) {
        failures_on_end(SEAM_UNLINK, ".state", EIO, FAILURES_FOR_EVER);
        answer a = soft_rw_try(lock, (aflock_mode)mode, 30 * AFLOCK_SECOND);
        ck_assert_int_eq(a.result.status, AFLOCK_ESYS);
        ck_assert_int_eq(a.result.sys_errno, EIO);
        ck_assert_str_eq(a.step, "unlink");
        ck_assert(!has_marker((aflock_mode)mode) && is_there(STATE));
        failures_none();
        soft_rw_rest();
        ck_assert(!is_there(STATE));
        soft_rw_must_get(lock, (aflock_mode)mode);
    }
}
END_TEST

static int fail_to_fill_in(seam_call call, int fd, const char *path)
{
    static bool made;
    (void)fd;
    if (call == SEAM_CREATE && path && strstr(path, ".write"))
        made = true;
    else if (call == SEAM_FSTAT && made)
        return EIO;
    return call == SEAM_UNLINK && path && strstr(path, ".write") ? EIO : 0;
}

/* It has no token by which it could be told from another one's. */
START_TEST(a_marker_that_is_neither_filled_in_nor_taken_away)
{
    aflock *lock = soft_rw_open(_i);
    seam_judge_by(fail_to_fill_in, NULL);
    aflock_acquire_options o = scene_options(0, 0);
    answer a = {0}, b = {0};
    ck_assert_int_eq(aflock_acquire(lock, &o, scene_answer, &a, NULL), 0);
    ck_assert_int_eq(aflock_acquire(lock, &o, scene_answer, &b, NULL), 0); /* comes next, with what was left */
    scene_expect(2);
    scene_run_until(&a.count, 1);
    seam_judge_by(NULL, NULL);
    ck_assert_int_eq(a.result.status, AFLOCK_ESYS);
    scene_run_until(&b.count, 1);
    if (b.result.status == 0)
        must_release(lock, b.result.req);
    soft_rw_rest();
    soft_rw_must_get(lock, AFLOCK_EXCLUSIVE);
}
END_TEST

/* The next attempt fails in passing: what the last one has left is not forgotten by that. */
START_TEST(a_state_lock_that_is_left)
{
    aflock *lock = soft_rw_open(_i);
    failures_on_end(SEAM_UNLINK, ".state", EIO, FAILURES_FOR_EVER);
    ck_assert_int_eq(soft_rw_try(lock, AFLOCK_EXCLUSIVE, AFLOCK_FOREVER).result.status, AFLOCK_ESYS);
    ck_assert(is_there(STATE));
    failures_on_end(SEAM_OPEN, ".readers", ESTALE, FAILURES_FOR_EVER);
    ck_assert_int_eq(soft_rw_try(lock, AFLOCK_EXCLUSIVE, 0).result.status, AFLOCK_EWOULDBLOCK);
    failures_none();
    soft_rw_rest();
    ck_assert(!is_there(STATE));
    soft_rw_must_get(lock, AFLOCK_SHARED);
}
END_TEST

/* What the context cannot give back any more it gives back as well as it can. */
START_TEST(the_context_ends_beside_a_state_lock)
{
    pid_t holder = sleeper();
    aflock *lock = soft_rw_open(_i);
    soft_rw_hold(lock, AFLOCK_EXCLUSIVE);
    mark(STATE, holder);
    ck_assert_int_eq(aflock_ctx_free(scene, AFLOCK_MILLISECOND), 1);
    scene = NULL;
    scene_await(!is_there(WRITER));
    scene_free_context();
    scene_holder_end(holder);
}
END_TEST

int main(void)
{
    const TTest *const each[] = {each_call_once,
                                 each_call_three_times,
                                 a_release_that_fails,
                                 a_release_that_is_not_finished,
                                 an_attempt_that_cannot_let_go,
                                 a_marker_that_is_neither_filled_in_nor_taken_away,
                                 a_state_lock_that_is_left,
                                 the_context_ends_beside_a_state_lock,
                                 NULL};
    return scene_main_within(400, "soft rw faults", NULL, each);
}
