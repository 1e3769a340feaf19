/* What the system can do to an attempt: each call failing, interrupted, or overtaken by a peer that replaces the file
 * between two of our calls. Nothing may be left locked or open, and the path must name what we hold. */
#include "support/scene.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

static aflock *open_ofd(const char *path, aflock_io io)
{
    aflock *lock;
    aflock_options o;
    aflock_options_init(&o);
    o.io = io;
    o.protocol = AFLOCK_OFD;
    o.poll_interval = 500 * AFLOCK_MICROSECOND;
    ck_assert_int_eq(aflock_open(&lock, scene, path, &o), 0);
    return lock;
}

/* Runs until nothing of the library's is under way any more. */
static void come_to_rest(void)
{
    while (aflock_epoll_alive(scene))
        ck_assert_int_eq(aflock_epoll_run_once(scene, AFLOCK_SECOND), 0);
}

static void check_failure(answer a, int status, int error, const char *step)
{
    ck_assert_str_eq(aflock_error_name(a.result.status), aflock_error_name(status));
    ck_assert_int_eq(a.result.sys_errno, error);
    ck_assert_str_eq(a.step, step);
}

/* One call of the attempt fails: the request says so, and all is as before. */
static void fails_with(aflock *lock, seam_call call, int error, int status, const char *step)
{
    int descriptors = scene_descriptors();
    seam_fail(call, 0, 1, error);
    answer a = scene_acquire(lock, NULL);
    check_failure(a, status, error, step);
    ck_assert_int_eq(a.result.cleanup_errno, 0);
    ck_assert_int_eq(scene_descriptors(), descriptors);
    ck_assert_int_eq(aflock_depth(lock, NULL), 0);
}

/* -------------------------------------------------------------------------------------------------- single failures */

START_TEST(errors_of_the_lock_call)
{
    aflock *lock = scene_open("lock", scene_io(_i)), *record = open_ofd("record", scene_io(_i));
    fails_with(lock, SEAM_LOCK, ENOLCK, AFLOCK_ESYS, "flock");
    ck_assert(scene_is_free("lock", LOCK_EX));
    fails_with(lock, SEAM_LOCK, ENOSYS, AFLOCK_ENOTSUP, "flock");
    fails_with(lock, SEAM_LOCK, EOPNOTSUPP, AFLOCK_ENOTSUP, "flock");
    fails_with(lock, SEAM_LOCK, EIO, AFLOCK_ESYS, "flock");
    ck_assert_int_eq(scene_size("lock"), 0); /* made, and never unlinked */
    scene_must_work(lock);
    fails_with(record, SEAM_LOCK, ENOLCK, AFLOCK_ESYS, "fcntl");
    fails_with(record, SEAM_LOCK, EIO, AFLOCK_ESYS, "fcntl");
    ck_assert_int_eq(scene_release(record, scene_hold(record, NULL)).result.status, 0);
}
END_TEST

START_TEST(errors_of_other_calls)
{
    aflock *lock = scene_open("a/lock", scene_io(_i));
    fails_with(lock, SEAM_MKDIR, ENOSPC, AFLOCK_ENOSPC, "mkdir");
    ck_assert_int_eq(scene_entries("."), 0);
    fails_with(lock, SEAM_CREATE, EMFILE, AFLOCK_EMFILE, "open");
    fails_with(lock, SEAM_CREATE, ENOSPC, AFLOCK_ENOSPC, "open");
    fails_with(lock, SEAM_CREATE, EROFS, AFLOCK_EROFS, "open");
    fails_with(lock, SEAM_CREATE, ETXTBSY, AFLOCK_ESYS, "open");
    ck_assert_int_eq(scene_entries("a"), 0);
    fails_with(lock, SEAM_FSTAT, EIO, AFLOCK_ESYS, "fstat");
    ck_assert(scene_is_free("a/lock", LOCK_EX));
    fails_with(lock, SEAM_STAT, EIO, AFLOCK_ESYS, "stat");
    ck_assert(scene_is_free("a/lock", LOCK_EX));
    scene_must_work(lock);
}
END_TEST

START_TEST(errors_while_the_parent_is_looked_up)
{
    aflock *lock = scene_open("lock", AFLOCK_IO_POOL);
    int descriptors = scene_descriptors();
    seam_fail(SEAM_OPEN, 0, 3, EMFILE); /* of the mounts, before the job is sent and after, which is done without */
    check_failure(scene_acquire(lock, NULL), AFLOCK_EMFILE, EMFILE, "open parent");
    ck_assert_int_eq(scene_descriptors(), descriptors);
    fails_with(lock, SEAM_IDENTIFY, EIO, AFLOCK_ESYS, "stat parent");
    scene_must_work(lock);
}
END_TEST

START_TEST(interrupted_calls_are_repeated)
{
    static const seam_call CALLS[] = {SEAM_OPEN, SEAM_CREATE,    SEAM_LOCK,   SEAM_UNLOCK, SEAM_STAT,
                                      SEAM_READ, SEAM_FTRUNCATE, SEAM_FCHMOD, SEAM_FSTAT};
    scene_write("lock", "text");
    for (size_t i = 0; i < sizeof CALLS / sizeof CALLS[0]; i++)
        seam_fail(CALLS[i], 0, 3, EINTR);
    aflock_acquire_options o = scene_options(AFLOCK_TRUNCATE, 0);
    o.file_mode = 0600;
    aflock *lock = scene_open("lock", scene_io(_i)), *record = open_ofd("record", scene_io(_i));
    aflock_req req = scene_hold(lock, &o);
    ck_assert_int_eq(scene_size("lock"), 0);
    ck_assert_uint_eq(scene_mode("lock"), 0600);
    answer a = scene_release(lock, req);
    ck_assert_int_eq(a.result.status, 0);
    ck_assert(scene_is_free("lock", LOCK_EX));
    seam_fail(SEAM_LOCK, 0, 3, EINTR);
    seam_fail(SEAM_UNLOCK, 0, 3, EINTR);
    ck_assert_int_eq(scene_release(record, scene_hold(record, NULL)).result.status, 0);
    ck_assert_int_eq(scene_contended, 0); /* an interruption is not contention */
}
END_TEST

START_TEST(an_interrupted_close_is_done)
{
    aflock *lock = scene_open("lock", scene_io(_i));
    aflock_acquire_options o = scene_options(AFLOCK_REPORT_CLOSE, 0);
    aflock_req req = scene_hold(lock, &o);
    int closes = seam_count(SEAM_CLOSE);
    seam_fail(SEAM_CLOSE, 0, 1, EINTR);
    answer a = scene_release(lock, req);
    ck_assert_int_eq(a.result.status, 0);
    ck_assert_int_eq(a.result.cleanup_errno, 0);
    ck_assert_int_eq(seam_count(SEAM_CLOSE), closes + 1); /* the number may be somebody else's by now */
}
END_TEST

/* --------------------------------------------------------------------------------------------------- failed unlocks */

START_TEST(a_failed_unlock_keeps_the_hold)
{
    aflock *lock = scene_open("lock", scene_io(_i));
    aflock_req req = scene_hold(lock, NULL);
    seam_fail(SEAM_UNLOCK, 0, 1, EIO);
    answer a = scene_release(lock, req);
    check_failure(a, AFLOCK_ESYS, EIO, "unlock");
    ck_assert(a.result.req.id == req.id);
    ck_assert(!scene_is_free("lock", LOCK_SH));
    ck_assert_int_eq(aflock_depth(lock, NULL), 1);
    ck_assert_int_eq(a.result.fd, aflock_fd(lock, req));
    ck_assert_int_eq(aflock_close(lock), AFLOCK_EBUSY);
    ck_assert_int_eq(scene_release(lock, req).result.status, 0);
    scene_must_work(lock);
}
END_TEST

START_TEST(a_release_nobody_asks_about_is_repeated)
{
    aflock *lock = scene_open("lock", scene_io(_i));
    aflock_req req = scene_hold(lock, NULL);
    seam_fail(SEAM_UNLOCK, 0, 2, EIO);
    ck_assert_int_eq(aflock_release(lock, req, NULL, NULL), 0);
    come_to_rest();
    ck_assert_int_eq(seam_count(SEAM_UNLOCK), 3);
    ck_assert_int_ge(scene_logged, 1);
    ck_assert(scene_is_free("lock", LOCK_EX));
    scene_must_work(lock);
}
END_TEST

/* ------------------------------------------------------------------------------------------------- replaced in between
 */

static int replacements;
static bool recreate;

static void replace_lock(void)
{
    if (replacements == 0 || unlink("lock") != 0)
        return;
    replacements--;
    if (recreate)
        scene_write("lock", "");
}

static void names_what_we_hold(aflock *lock, aflock_req req)
{
    struct stat mine, there;
    ck_assert_int_eq(fstat(aflock_fd(lock, req), &mine), 0);
    ck_assert_int_eq(stat("lock", &there), 0);
    ck_assert(mine.st_ino == there.st_ino && mine.st_dev == there.st_dev);
    ck_assert(!scene_is_free("lock", LOCK_SH));
}

static void replaced_before(seam_call call, aflock_io io)
{
    aflock *lock = scene_open("lock", io);
    replacements = 3;
    seam_before(call, replace_lock);
    int descriptors = scene_descriptors();
    aflock_req req = scene_hold(lock, NULL);
    ck_assert_int_eq(replacements, 0);
    names_what_we_hold(lock, req);
    ck_assert_int_eq(scene_descriptors(), descriptors + 1);
    seam_before(call, NULL);
    ck_assert_int_eq(scene_release(lock, req).result.status, 0);
    ck_assert_int_eq(aflock_close(lock), 0);
}

START_TEST(replaced_during_the_attempt)
{
    static const seam_call CALLS[] = {SEAM_FSTAT, SEAM_LOCK, SEAM_STAT};
    scene_write("lock", "");
    for (int i = 0; i < 6; i++) {
        recreate = i % 2;
        replaced_before(CALLS[i / 2], scene_io(_i));
    }
}
END_TEST

START_TEST(replaced_again_and_again)
{
    scene_write("lock", "");
    aflock *lock = scene_open("lock", scene_io(_i));
    recreate = true;
    replacements = 100;
    seam_before(SEAM_LOCK, replace_lock);
    aflock_req req = scene_hold(lock, NULL); /* attempts that give up early are contended, and come again */
    ck_assert_int_eq(replacements, 0);
    ck_assert_int_ge(scene_contended, 2);
    names_what_we_hold(lock, req);
    ck_assert_int_eq(scene_release(lock, req).result.status, 0);
}
END_TEST

/* The holder goes on holding what the path does not name any more. */
START_TEST(replaced_while_we_wait)
{
    pid_t pid = scene_holder("lock", O_RDWR | O_CREAT, LOCK_EX);
    aflock *lock = scene_open("lock", scene_io(_i));
    answer a = {0};
    ck_assert_int_eq(aflock_acquire(lock, NULL, scene_answer, &a, NULL), 0);
    scene_expect(1);
    scene_run_until(&scene_contended, 3);
    scene_write("new", "");
    ck_assert_int_eq(rename("new", "lock"), 0);
    scene_run_until(&a.count, 1);
    ck_assert_int_eq(a.result.status, 0);
    names_what_we_hold(lock, a.result.req);
    ck_assert_int_eq(scene_release(lock, a.result.req).result.status, 0);
    scene_holder_end(pid);
}
END_TEST

/* What we waited for is free now, but the path names another file, which is not. */
START_TEST(freed_after_it_was_replaced)
{
    pid_t old = scene_holder("lock", O_RDWR | O_CREAT, LOCK_EX);
    aflock *lock = scene_open("lock", scene_io(_i));
    answer a = {0};
    ck_assert_int_eq(aflock_acquire(lock, NULL, scene_answer, &a, NULL), 0);
    scene_expect(1);
    scene_run_until(&scene_contended, 3);
    pid_t new = scene_holder("new", O_RDWR | O_CREAT, LOCK_EX);
    ck_assert_int_eq(rename("new", "lock"), 0);
    scene_holder_end(old);
    int seen = scene_contended;
    scene_run_until(&scene_contended, seen + 3);
    ck_assert_int_eq(a.count, 0);
    scene_holder_end(new);
    scene_run_until(&a.count, 1);
    ck_assert_int_eq(a.result.status, 0);
    names_what_we_hold(lock, a.result.req);
    ck_assert_int_eq(scene_release(lock, a.result.req).result.status, 0);
}
END_TEST

START_TEST(unlinked_while_we_wait)
{
    pid_t pid = scene_holder("lock", O_RDWR | O_CREAT, LOCK_EX);
    aflock *lock = scene_open("lock", scene_io(_i));
    answer a = {0};
    ck_assert_int_eq(aflock_acquire(lock, NULL, scene_answer, &a, NULL), 0);
    scene_expect(1);
    scene_run_until(&scene_contended, 3);
    ck_assert_int_eq(unlink("lock"), 0);
    scene_run_until(&a.count, 1);
    ck_assert_int_eq(a.result.status, 0);
    names_what_we_hold(lock, a.result.req);
    ck_assert_int_eq(scene_release(lock, a.result.req).result.status, 0);
    scene_holder_end(pid);
}
END_TEST

/* The wrong kind of thing comes to the path while we wait. */
START_TEST(replaced_by_a_fifo_while_we_wait)
{
    pid_t pid = scene_holder("lock", O_RDWR | O_CREAT, LOCK_EX);
    aflock *lock = scene_open("lock", scene_io(_i));
    answer a = {0};
    ck_assert_int_eq(aflock_acquire(lock, NULL, scene_answer, &a, NULL), 0);
    scene_expect(1);
    scene_run_until(&scene_contended, 3);
    ck_assert_int_eq(mkfifo("fifo", 0666), 0);
    ck_assert_int_eq(rename("fifo", "lock"), 0);
    scene_run_until(&a.count, 1);
    check_failure(a, AFLOCK_ENOTFILE, ENXIO, "open");
    scene_holder_end(pid);
    ck_assert_int_eq(unlink("lock"), 0);
    scene_must_work(lock);
}
END_TEST

/* Whoever spelled the path in another way may mean another file by now. */
START_TEST(handed_on_only_while_the_path_names_it)
{
    ck_assert_int_eq(mkdir("d", 0777), 0);
    aflock *lock = scene_open("lock", scene_io(_i)), *other = scene_open("d/../lock", scene_io(_i));
    scene_must_work(lock);
    scene_must_work(other); /* one queue from here on */
    aflock_req req = scene_hold(lock, NULL);
    answer a = {0}, same = {0};
    ck_assert_int_eq(aflock_acquire(other, NULL, scene_answer, &same, NULL), 0);
    scene_expect(1);
    ck_assert_int_eq(scene_release(lock, req).result.status, 0);
    scene_run_until(&same.count, 1);
    ck_assert_int_eq(same.result.status, 0);
    ck_assert_int_eq(scene_release(other, same.result.req).result.status, 0);

    req = scene_hold(lock, NULL);
    ck_assert_int_eq(aflock_acquire(other, NULL, scene_answer, &a, NULL), 0);
    scene_expect(1);
    ck_assert_int_eq(unlink("lock"), 0);
    ck_assert_int_eq(scene_release(lock, req).result.status, 0);
    scene_run_until(&a.count, 1);
    ck_assert_int_eq(a.result.status, 0);
    names_what_we_hold(other, a.result.req);
    ck_assert_int_eq(scene_release(other, a.result.req).result.status, 0);
}
END_TEST

/* ------------------------------------------------------------------------------------------------ strange file systems
 */

/* FUSE and NFS: creating is not atomic, and the answer is a passing ENOENT. */
START_TEST(missing_although_its_parent_is_there)
{
    aflock *lock = scene_open("lock", scene_io(_i));
    aflock_acquire_options o = scene_options(0, AFLOCK_MAKE_PARENTS);
    seam_fail(SEAM_CREATE, 0, 2, ENOENT);
    aflock_req req = scene_hold(lock, &o);
    ck_assert_int_eq(seam_count(SEAM_CREATE), 3);
    ck_assert_int_eq(scene_release(lock, req).result.status, 0);
    ck_assert_int_eq(unlink("lock"), 0);
    seam_fail(SEAM_CREATE, 0, 2, ENOENT);
    scene_must_work(lock); /* the same when parents may be made */
}
END_TEST

START_TEST(missing_for_ever)
{
    aflock *lock = scene_open("lock", scene_io(_i));
    seam_fail(SEAM_CREATE, 0, 1000, ENOENT);
    answer a = scene_acquire(lock, NULL);
    check_failure(a, AFLOCK_ENOENT, ENOENT, "open");
    ck_assert_int_le(seam_count(SEAM_CREATE), 50);
    seam_reset();
    scene_must_work(lock);
}
END_TEST

/* A sticky directory refuses O_CREAT on somebody else's file. */
START_TEST(creating_is_refused_for_a_file_that_is_there)
{
    static const int REFUSALS[] = {EACCES, EPERM};
    for (int i = 0; i < 2; i++) {
        scene_write("lock", "text");
        aflock *lock = scene_open("lock", scene_io(_i));
        seam_reset();
        seam_fail(SEAM_CREATE, 0, 1000, REFUSALS[i]);
        aflock_req req = scene_hold(lock, NULL);
        ck_assert_int_eq(scene_release(lock, req).result.status, 0);
        ck_assert_int_eq(unlink("lock"), 0);
        answer a = scene_acquire(lock, NULL); /* now it would have to be made */
        check_failure(a, AFLOCK_EACCES, REFUSALS[i], "open");
        ck_assert_int_eq(scene_size("lock"), -1);
        ck_assert_int_eq(aflock_close(lock), 0);
    }
}
END_TEST

static void unlink_lock_once(void)
{
    if (replacements-- > 0)
        unlink("lock");
}

START_TEST(gone_after_creating_was_refused)
{
    scene_write("lock", "text");
    aflock *lock = scene_open("lock", scene_io(_i)), *other = scene_open("other", scene_io(_i));
    scene_must_work(other); /* the folder is known */
    replacements = 1;
    seam_before(SEAM_CREATE, unlink_lock_once);
    seam_fail(SEAM_OPEN_CACHED, 0, 1000, EAGAIN);
    seam_fail(SEAM_CREATE, 0, 1, EACCES);
    aflock_req req = scene_hold(lock, NULL);
    names_what_we_hold(lock, req);
    ck_assert_int_eq(scene_release(lock, req).result.status, 0);
}
END_TEST

/* What was a directory when it was opened for writing is a file when it is opened for reading. */
START_TEST(a_directory_that_turns_into_a_file)
{
    scene_write("lock", "text");
    aflock *lock = scene_open("lock", scene_io(_i));
    aflock_acquire_options o = scene_options(AFLOCK_DIRECTORY, 0);
    seam_fail(SEAM_OPEN_CACHED, 0, 1000, EAGAIN);
    seam_fail(SEAM_CREATE, 0, 1, EISDIR);
    aflock_req req = scene_hold(lock, &o);
    ck_assert_int_eq(fcntl(aflock_fd(lock, req), F_GETFL) & O_ACCMODE, O_RDWR);
    ck_assert_int_eq(scene_release(lock, req).result.status, 0);

    ck_assert_int_eq(unlink("lock"), 0); /* and the same with a directory that goes */
    seam_fail(SEAM_CREATE, 0, 1, EISDIR);
    req = scene_hold(lock, &o);
    ck_assert_int_eq(fcntl(aflock_fd(lock, req), F_GETFL) & O_ACCMODE, O_RDWR);
    ck_assert_int_eq(scene_release(lock, req).result.status, 0);
}
END_TEST

/* ---------------------------------------------------------------------------------------------------------- converting
 */

/* An exclusive hold that is released, with a reader waiting: the kernel can lose the lock while it is converted. */
static answer convert_with(aflock *lock, int error)
{
    aflock_acquire_options o = scene_options(0, 0);
    o.mode = AFLOCK_SHARED;
    answer a = {0};
    aflock_req req = scene_hold(lock, NULL);
    ck_assert_int_eq(aflock_acquire(lock, &o, scene_answer, &a, NULL), 0);
    scene_expect(1);
    if (error)
        seam_fail(SEAM_LOCK, 0, 1, error);
    ck_assert_int_eq(scene_release(lock, req).result.status, 0);
    scene_run_until(&a.count, 1);
    return a;
}

START_TEST(an_exclusive_hold_becomes_a_shared_one)
{
    aflock *lock = scene_open("lock", scene_io(_i));
    answer a = convert_with(lock, 0);
    ck_assert_int_eq(a.result.status, 0);
    ck_assert_int_eq(a.result.attempts, 0);
    ck_assert(scene_is_free("lock", LOCK_SH));
    ck_assert(!scene_is_free("lock", LOCK_EX));
    ck_assert_int_eq(scene_release(lock, a.result.req).result.status, 0);
    ck_assert(scene_is_free("lock", LOCK_EX));
}
END_TEST

/* While the kernel converts a lock nobody has it: long enough for somebody to replace the file. */
START_TEST(replaced_during_a_conversion)
{
    aflock *lock = scene_open("lock", scene_io(_i));
    aflock_acquire_options o = scene_options(0, 0);
    o.mode = AFLOCK_SHARED;
    answer a = {0};
    aflock_req req = scene_hold(lock, NULL);
    ck_assert_int_eq(aflock_acquire(lock, &o, scene_answer, &a, NULL), 0);
    scene_expect(1);
    recreate = true;
    replacements = 1;
    seam_before(SEAM_LOCK, replace_lock);
    ck_assert_int_eq(scene_release(lock, req).result.status, 0);
    scene_run_until(&a.count, 1);
    ck_assert_int_eq(replacements, 0);
    ck_assert_int_eq(a.result.status, 0);
    struct stat mine, there;
    ck_assert_int_eq(fstat(a.result.fd, &mine), 0);
    ck_assert_int_eq(stat("lock", &there), 0);
    ck_assert(mine.st_ino == there.st_ino);
    ck_assert(!scene_is_free("lock", LOCK_EX));
    ck_assert_int_eq(scene_release(lock, a.result.req).result.status, 0);
}
END_TEST

START_TEST(a_lost_conversion_is_contention)
{
    aflock *lock = scene_open("lock", scene_io(_i));
    answer a = convert_with(lock, EWOULDBLOCK);
    ck_assert_int_eq(a.result.status, 0);
    ck_assert_int_ge((int)a.result.attempts, 1);
    ck_assert(scene_is_free("lock", LOCK_SH));
    ck_assert_int_eq(scene_release(lock, a.result.req).result.status, 0);
}
END_TEST

START_TEST(a_failed_conversion_is_an_error)
{
    aflock *lock = scene_open("lock", scene_io(_i));
    answer a = convert_with(lock, EIO);
    check_failure(a, AFLOCK_ESYS, EIO, "flock");
    come_to_rest();
    ck_assert(scene_is_free("lock", LOCK_EX));
    scene_must_work(lock);
}
END_TEST

/* Nobody knows what is left of the lock: the next reader gets one of its own. */
START_TEST(a_failed_conversion_serves_no_other_reader)
{
    aflock *lock = scene_open("lock", scene_io(_i));
    aflock_acquire_options o = scene_options(0, 0);
    o.mode = AFLOCK_SHARED;
    answer a = {0}, b = {0};
    aflock_req req = scene_hold(lock, NULL);
    ck_assert_int_eq(aflock_acquire(lock, &o, scene_answer, &a, NULL), 0);
    ck_assert_int_eq(aflock_acquire(lock, &o, scene_answer, &b, NULL), 0);
    scene_expect(2);
    seam_fail(SEAM_LOCK, 0, 1, EIO);
    ck_assert_int_eq(scene_release(lock, req).result.status, 0);
    scene_run_until(&a.count, 1);
    check_failure(a, AFLOCK_ESYS, EIO, "flock");
    scene_run_until(&b.count, 1);
    ck_assert_int_eq(b.result.status, 0);
    ck_assert_int_ge((int)b.result.attempts, 1);
    ck_assert(scene_is_free("lock", LOCK_SH));
    ck_assert(!scene_is_free("lock", LOCK_EX));
    ck_assert_int_eq(scene_release(lock, b.result.req).result.status, 0);
}
END_TEST

/* --------------------------------------------------------------------------------------------------- a dead holder */

START_TEST(a_killed_holder_frees_the_file_for_a_waiter)
{
    pid_t pid = scene_holder("lock", O_RDWR | O_CREAT, LOCK_EX);
    aflock *lock = scene_open("lock", scene_io(_i));
    answer a = {0};
    ck_assert_int_eq(aflock_acquire(lock, NULL, scene_answer, &a, NULL), 0);
    scene_expect(1);
    scene_run_until(&scene_contended, 5);
    ck_assert_int_eq(a.count, 0);
    scene_holder_end(pid);
    scene_run_until(&a.count, 1);
    ck_assert_int_eq(a.result.status, 0);
    ck_assert_int_gt((int)a.result.attempts, 5);
    ck_assert_int_eq(scene_release(lock, a.result.req).result.status, 0);
}
END_TEST

int main(void)
{
    const TTest *const once[] = {errors_while_the_parent_is_looked_up, NULL};
    const TTest *const each[] = {
        errors_of_the_lock_call,
        errors_of_other_calls,
        interrupted_calls_are_repeated,
        an_interrupted_close_is_done,
        a_failed_unlock_keeps_the_hold,
        a_release_nobody_asks_about_is_repeated,
        replaced_during_the_attempt,
        replaced_again_and_again,
        replaced_while_we_wait,
        freed_after_it_was_replaced,
        unlinked_while_we_wait,
        replaced_by_a_fifo_while_we_wait,
        handed_on_only_while_the_path_names_it,
        missing_although_its_parent_is_there,
        missing_for_ever,
        creating_is_refused_for_a_file_that_is_there,
        gone_after_creating_was_refused,
        a_directory_that_turns_into_a_file,
        an_exclusive_hold_becomes_a_shared_one,
        a_lost_conversion_is_contention,
        a_failed_conversion_is_an_error,
        replaced_during_a_conversion,
        a_failed_conversion_serves_no_other_reader,
        a_killed_holder_frees_the_file_for_a_waiter,
        NULL,
    };
    return scene_main("native: faults", once, each);
}
