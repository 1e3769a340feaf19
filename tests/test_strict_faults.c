/* Strict locks whose system calls fail: every single one, with what is plausible for it. Whatever fails, nobody holds
 * without both claims, who fails leaves none behind, and the lock works afterwards. */
#include "runtime/runtime.h"
#include "support/failures.h"
#include "support/strict_scene.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ------------------------------------------------------------------------------------------------------- every call */

/* Claims that others would see. `sweep`: removes private records, which may be left when nothing can be unlinked. */
static int look_into(const char *folder, bool sweep)
{
    int count = 0;
    DIR *d = opendir(folder);
    for (const struct dirent *e; d && (e = readdir(d)) != NULL;) {
        count += e->d_name[0] != '.';
        if (sweep && strstr(e->d_name, ".private-v1-"))
            ck_assert_int_eq(unlinkat(dirfd(d), e->d_name, 0), 0);
    }
    if (d)
        closedir(d);
    return count;
}

static int claims(void)
{
    return look_into(FOLDER, false);
}

static void settle(void)
{
    while (aflock_epoll_alive(scene))
        ck_assert_int_eq(aflock_epoll_run_once(scene, AFLOCK_SECOND), 0);
}

/* The n-th call, and so many after it, fail; the rest goes well. False: there are no so many. */
static bool play(aflock *lock, int n, int times, int error)
{
    failures_from(n, times, error, NULL);
    answer a = strict_try(lock, 30 * AFLOCK_SECOND);
    if (a.result.status == 0) {
        ck_assert_int_eq(claims(), 2);
        answer r = scene_release(lock, a.result.req);
        if (r.result.status != 0) {
            ck_assert_int_eq(claims(), 2);
            failures_stop();
            strict_release(lock, a.result.req);
        }
    } else {
        ck_assert_str_ne(a.step, "");
        ck_assert_int_eq(a.result.sys_errno != 0, 1);
    }
    failures_stop();
    settle();
    const bool failed = failures_end();
    ck_assert_msg(failed || a.result.status == 0, "%s at %s: %s", aflock_error_name(a.result.status), a.step, a.detail);
    ck_assert_msg(claims() == 0, "call %d (%s), errno %d: a claim is left", n, seam_name(failures_met()), error);
    a = strict_try(lock, 30 * AFLOCK_SECOND);
    ck_assert_int_eq(a.result.status, 0);
    ck_assert_int_eq(claims(), 2);
    strict_release(lock, a.result.req);
    return failed;
}

static void fail_each(int times)
{
    int played = 0;
    aflock_options o = strict_options(AFLOCK_IO_INLINE);
    o.poll_interval = AFLOCK_MILLISECOND;
    for (size_t e = 0; e < FAILURES_ERRORS; e++) {
        for (int first = 0; first < 2; first++) { /* with everything to be made, and with nothing */
            for (int n = 0, more = 1; more; n++) {
                aflock *lock;
                look_into(".", true);
                look_into(FOLDER, true);
                if (first) {
                    ck_assert(unlink("lock") == 0 || errno == ENOENT);
                    ck_assert(rmdir(FOLDER) == 0 || errno == ENOENT);
                    ck_assert(rmdir("lock.filelock") == 0 || errno == ENOENT);
                }
                ck_assert_int_eq(aflock_open(&lock, scene, "lock", &o), 0);
                more = play(lock, n, times, failures_errors[e]);
                ck_assert_int_eq(aflock_close(lock), 0);
                played++;
            }
        }
    }
    printf("%d runs\n", played);
}

START_TEST(each_call_once)
{
    fail_each(1);
}
END_TEST

START_TEST(each_call_three_times)
{
    fail_each(3);
}
END_TEST

/* --------------------------------------------------------------------------------------------------- one at a time */

/* The first claim cannot be taken away: then nothing is, and it is held as before. */
START_TEST(a_release_that_fails)
{
    aflock *lock = strict_open(_i);
    aflock_req req = strict_hold(lock);
    for (int i = 0; i < 2; i++) {
        failures_on_start(SEAM_UNLINK, "held-", EACCES, FAILURES_FOR_EVER);
        answer a = scene_release(lock, req);
        ck_assert_int_eq(a.result.status, AFLOCK_EACCES);
        ck_assert_int_eq(a.result.sys_errno, EACCES);
        ck_assert_str_eq(a.step, "unlink");
        strict_must_have(2);
        ck_assert_int_eq(aflock_verify(lock, req, scene_answer, &a), 0);
        scene_expect(1);
        scene_run_until(&a.count, 2);
        ck_assert_int_eq(a.result.status, 0);
    }
    failures_none();
    strict_release(lock, req);
    strict_must_have(0);
}
END_TEST

/* The second one cannot: it is not held any more, and keeps others out until it is gone. */
START_TEST(a_release_that_is_not_finished)
{
    answer b = {0};
    aflock *lock = strict_open(_i);
    aflock_req req = strict_hold(lock);
    failures_on_start(SEAM_UNLINK, "intent-", EIO, FAILURES_FOR_EVER);
    answer a = scene_release(lock, req);
    ck_assert_int_eq(a.result.status, 0);
    ck_assert_int_eq(a.result.cleanup_errno, EIO);
    strict_must_have(1);
    ck_assert_int_eq(strict_try(lock, 30 * AFLOCK_SECOND).result.status, AFLOCK_ESYS);
    ck_assert(aflock_epoll_alive(scene));
    const int before = seam_count(SEAM_UNLINK);
    while (seam_count(SEAM_UNLINK) < before + 3) /* it is tried again */
        ck_assert_int_eq(aflock_epoll_run_once(scene, AFLOCK_SECOND), 0);
    ck_assert_int_gt(scene_logged, 0);
    failures_none();
    ck_assert_int_eq(aflock_acquire(lock, NULL, scene_answer, &b, NULL), 0);
    scene_expect(1);
    strict_must_be_woken(lock, &b);
    strict_must_have(0);
}
END_TEST

START_TEST(a_release_that_nobody_waits_for)
{
    aflock *lock = strict_open(_i);
    aflock_req req = strict_hold(lock);
    failures_on_start(SEAM_UNLINK, "held-", EIO, 3);
    ck_assert_int_eq(aflock_release(lock, req, NULL, NULL), 0);
    settle();
    strict_must_have(0);
    ck_assert_int_eq(scene_logged, 3);
}
END_TEST

/* The server has forgotten the folder that is open: it is opened again. */
START_TEST(a_folder_that_is_stale)
{
    aflock *lock = strict_open(_i);
    aflock_req req = strict_hold(lock);
    failures_on_start(SEAM_UNLINK, "held-", ESTALE, 1);
    strict_release(lock, req);
    strict_must_have(0);
    failures_none();
}
END_TEST

static int countdown;

static void come_late(void)
{
    if (countdown-- == 0)
        strict_claim("intent", LOW, 7, "elsewhere");
}

/* What cannot be withdrawn from the doorway is told, and withdrawn as soon as it can be. */
START_TEST(a_doorway_that_stays_blocked)
{
    aflock *lock = strict_open(_i);
    strict_must_get(lock);
    for (int late = 2; late <= 4; late += 2) {
        countdown = late;
        seam_before(SEAM_LIST, come_late);
        failures_on_start(SEAM_UNLINK, late == 2 ? "intent-" : "held-", EIO, FAILURES_FOR_EVER);
        answer a = strict_try(lock, 30 * AFLOCK_SECOND);
        seam_before(SEAM_LIST, NULL);
        ck_assert_int_eq(a.result.status, AFLOCK_ESYS);
        ck_assert_int_eq(a.result.sys_errno, EIO);
        ck_assert_str_eq(a.step, "unlink");
        strict_must_have(late == 2 ? 2 : 3);
        strict_unclaim("intent", LOW);
        ck_assert_int_eq(strict_try(lock, 30 * AFLOCK_SECOND).result.status, AFLOCK_ESYS);
        failures_none();
        settle();
        strict_must_have(0);
    }
    strict_must_get(lock);
}
END_TEST

static int fail_both(seam_call call, int fd, const char *path)
{
    (void)fd;
    if (call == SEAM_LINK && strncmp(path, "held-", 5) == 0)
        return ENOSPC;
    return call == SEAM_UNLINK && strncmp(path, "intent-", 7) == 0 ? EIO : 0;
}

/* An error in the doorway, and then one while withdrawing: the first is the answer. */
START_TEST(two_errors)
{
    aflock *lock = strict_open(_i);
    strict_must_get(lock);
    seam_judge_by(fail_both, NULL);
    answer a = strict_try(lock, 30 * AFLOCK_SECOND);
    ck_assert_int_eq(a.result.status, AFLOCK_ENOSPC);
    ck_assert_str_eq(a.step, "link");
    ck_assert_int_eq(a.result.cleanup_errno, EIO);
    strict_must_have(1);
    seam_judge_by(NULL, NULL);
    settle();
    strict_must_get(lock);
}
END_TEST

static const char *told_late;

/* Of a record that is not published yet. */
static int fail_closing(seam_call call, int fd, const char *path)
{
    char link[64], target[PATH_MAX];
    (void)path;
    if (call != SEAM_CLOSE)
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    const ssize_t n = readlink(link, target, sizeof target - 1);
    target[n < 0 ? 0 : n] = '\0';
    return strstr(target, told_late) && strstr(target, ".private-") ? EDQUOT : 0;
}

/* A server may tell only when a file is closed that it has no room for it: nobody has seen that record. */
START_TEST(what_a_server_tells_late)
{
    static const char *const names[] = {"/.lock.", "/.intent-"};
    seam_file_systems("nfs4");
    for (int i = 0; i < 2; i++) {
        aflock *lock = strict_open(_i);
        told_late = names[i];
        seam_judge_by(fail_closing, NULL);
        answer a = strict_try(lock, 30 * AFLOCK_SECOND);
        seam_judge_by(NULL, NULL);
        ck_assert_int_eq(a.result.status, AFLOCK_ENOSPC);
        ck_assert_int_eq(a.result.sys_errno, EDQUOT);
        ck_assert_str_eq(a.step, "close");
        strict_must_have(0);
        strict_must_get(lock);
    }
}
END_TEST

START_TEST(without_hard_links)
{
    static const int errors[] = {EOPNOTSUPP, ENOSYS, EXDEV, EPERM};
    static const char *const names[] = {"lock", "intent-", "held-"};
    aflock *lock = strict_open(_i);
    for (int i = 0; i < 12; i++) {
        failures_on_start(SEAM_LINK, names[i % 3], errors[i / 3], 1);
        answer a = strict_try(lock, 30 * AFLOCK_SECOND);
        failures_none();
        ck_assert_int_eq(a.result.status, errors[i / 3] == EPERM ? AFLOCK_EACCES : AFLOCK_EPROTO);
        ck_assert_int_eq(a.result.sys_errno, errors[i / 3]);
        ck_assert_str_eq(a.step, "link");
        ck_assert_int_eq(strstr(a.detail, "has no hard links") != NULL, errors[i / 3] != EPERM);
        strict_must_have(0);
        strict_must_get(lock);
        ck_assert_int_eq(unlink("lock"), 0);
    }
}
END_TEST

static const char *heard_twice;

/* The server has done it, its answer was lost, and it hears of it a second time. */
static int link_twice(int dir, const char *from, const char *to)
{
    const int rc = afl_sys_linux.link_at(dir, from, to);
    if (rc != 0 || strncmp(to, heard_twice, strlen(heard_twice)) != 0)
        return rc;
    return afl_sys_linux.link_at(dir, from, to);
}

START_TEST(links_that_are_made_twice)
{
    static const char *const names[] = {"lock", "intent-", "held-"};
    static afl_sys table;
    table = *scene->sys;
    table.link_at = link_twice;
    scene->sys = &table;
    aflock *lock = strict_open(_i);
    for (int i = 0; i < 3; i++) {
        heard_twice = names[i];
        answer a = strict_try(lock, 0);
        ck_assert_int_eq(a.result.status, 0);
        strict_must_have(2);
        strict_release(lock, a.result.req);
        strict_must_have(0);
    }
}
END_TEST

/* Somebody has put a file of his own in the place of our private record. */
static int link_another(int dir, const char *from, const char *to)
{
    if (countdown-- == 0) {
        ck_assert_int_eq(unlinkat(dir, from, 0), 0);
        const int fd = openat(dir, from, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        ck_assert_int_ge(fd, 0);
        close(fd);
    }
    return afl_sys_linux.link_at(dir, from, to);
}

START_TEST(a_record_that_is_replaced)
{
    static afl_sys table;
    table = *scene->sys;
    table.link_at = link_another;
    scene->sys = &table;
    answer a = {0};
    aflock *lock = strict_open(_i);
    countdown = 0; /* the sentinel's stays: it is not ours to repair */
    aflock_req req = strict_wait_for(lock, &a);
    ck_assert_int_eq(scene_size("lock"), 0);
    ck_assert_int_eq(aflock_cancel(lock, req), 0);
    scene_run_until(&a.count, 1);
    settle();
    strict_must_have(0);
    ck_assert_int_eq(unlink("lock"), 0);
    countdown = 1;
    a = strict_try(lock, 30 * AFLOCK_SECOND);
    ck_assert_int_eq(a.result.status, 0);
    strict_release(lock, a.result.req);
    strict_must_have(0);
}
END_TEST

/* Somebody has taken our private record for one that was left. */
static void lose_record(void)
{
    if (countdown-- == 0)
        look_into(FOLDER, true);
}

START_TEST(a_record_that_is_taken_for_a_stray)
{
    aflock *lock = strict_open(_i);
    strict_must_get(lock);
    countdown = 0;
    seam_before(SEAM_LINK, lose_record);
    aflock_req req = strict_hold(lock);
    ck_assert_int_lt(countdown, -1); /* it was made again */
    strict_release(lock, req);
    strict_must_have(0);
}
END_TEST

static void empty_folder(void)
{
    DIR *d = opendir(FOLDER);
    ck_assert_ptr_nonnull(d);
    for (const struct dirent *e; (e = readdir(d)) != NULL;)
        (void)unlinkat(dirfd(d), e->d_name, 0);
    closedir(d);
}

/* The end of the context does not wait for what cannot be done; it counts it. */
START_TEST(the_context_goes)
{
    static const char *const names[] = {"held-", "intent-"};
    for (int i = 0; i < 2; i++) {
        aflock_ctx *ctx = scene;
        strict_hold(strict_open(_i));
        failures_on_start(SEAM_UNLINK, names[i], EIO, FAILURES_FOR_EVER);
        scene = NULL;
        ck_assert_int_eq(aflock_ctx_free(ctx, 100 * AFLOCK_MILLISECOND), 1);
        failures_none();
        scene_free_context(); /* a worker may be at it still */
        empty_folder();
        strict_must_have(0);
        scene_make_context();
    }
}
END_TEST

static ssize_t write_little(int fd, const void *buffer, size_t size)
{
    return write(fd, buffer, size > 3 ? 3 : size);
}

static ssize_t read_little(int fd, void *buffer, size_t size)
{
    return read(fd, buffer, size > 5 ? 5 : size);
}

START_TEST(a_record_in_many_pieces)
{
    static afl_sys table;
    table = *scene->sys;
    table.write = write_little;
    table.read = read_little;
    scene->sys = &table;
    strict_must_get(strict_open(_i));
}
END_TEST

int main(void)
{
    const TTest *const once[] = {each_call_once, each_call_three_times, NULL};
    const TTest *const each[] = {a_record_that_is_replaced,
                                 a_release_that_fails,
                                 a_release_that_is_not_finished,
                                 a_release_that_nobody_waits_for,
                                 a_folder_that_is_stale,
                                 a_doorway_that_stays_blocked,
                                 two_errors,
                                 what_a_server_tells_late,
                                 without_hard_links,
                                 links_that_are_made_twice,
                                 a_record_that_is_taken_for_a_stray,
                                 the_context_goes,
                                 a_record_in_many_pieces,
                                 NULL};
    return scene_main_within(400, "strict faults", once, each);
}
