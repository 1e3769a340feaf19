/* Files that stay open from one hold to the next: which calls a cycle makes, what those who listen hear instead of the
 * close, what happens when a call fails, and what becomes of a file that others replace meanwhile. */
#include "support/scene.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static int before; /* descriptors, without that of the file */

static aflock *open_keeper_as(const char *path, aflock_io io, aflock_protocol protocol)
{
    aflock *lock;
    aflock_options o;
    aflock_options_init(&o);
    o.io = io;
    o.protocol = protocol;
    o.poll_interval = 500 * AFLOCK_MICROSECOND;
    o.keep_open = 1;
    ck_assert_int_eq(aflock_open(&lock, scene, path, &o), 0);
    return lock;
}

static aflock *open_keeper(const char *path, aflock_io io)
{
    return open_keeper_as(path, io, AFLOCK_NATIVE);
}

/* Once used, so that pool and path are known; the next hold finds it open. */
static aflock *open_used(const char *path, aflock_io io)
{
    aflock *lock = open_keeper(path, io);
    before = scene_descriptors();
    scene_must_work(lock);
    ck_assert_int_eq(scene_descriptors(), before + 1);
    return lock;
}

static void come_to_rest(void)
{
    while (aflock_epoll_alive(scene))
        ck_assert_int_eq(aflock_epoll_run_once(scene, AFLOCK_SECOND), 0);
}

static int opens(void)
{
    return seam_count(SEAM_OPEN) + seam_count(SEAM_CREATE) + seam_count(SEAM_OPEN_CACHED);
}

static ino_t inode_of_path(const char *path)
{
    struct stat st;
    ck_assert_int_eq(stat(path, &st), 0);
    return st.st_ino;
}

static ino_t inode_of(int fd)
{
    struct stat st;
    ck_assert_int_eq(fstat(fd, &st), 0);
    return st.st_ino;
}

/* ------------------------------------------------------------------------------------------------------ the calls */

static void make_cycles(aflock_protocol protocol, aflock_io io)
{
    aflock *lock = open_keeper_as("lock", io, protocol);
    for (int i = 0; i < 4; i++) {
        aflock_acquire_options o = scene_options(0, 0);
        o.mode = i % 2 ? AFLOCK_SHARED : AFLOCK_EXCLUSIVE;
        seam_forget();
        aflock_req req = scene_hold(lock, &o);
        ck_assert_int_eq(scene_release(lock, req).result.status, 0);
        if (i == 0)
            continue; /* finds out where the path leads, and opens the file */
        ck_assert_int_eq(seam_count(SEAM_LOCK), 1);
        ck_assert_int_eq(seam_count(SEAM_STAT), 1);
        ck_assert_int_eq(seam_count(SEAM_UNLOCK), 1);
        ck_assert_int_eq(seam_count(SEAM_TOUCH), 1);
        ck_assert_int_eq(seam_total(), 4);
        ck_assert_int_eq(seam_total_on_loop(), io == AFLOCK_IO_POOL ? 0 : 4);
    }
    seam_forget();
    ck_assert_int_eq(aflock_close(lock), 0);
    come_to_rest();
    ck_assert_int_eq(seam_count(SEAM_CLOSE), 1);
    ck_assert_int_eq(seam_total(), 1);
    ck_assert_int_eq(seam_total_on_loop(), io == AFLOCK_IO_POOL ? 0 : 1);
}

START_TEST(a_cycle_is_four_calls)
{
    make_cycles(AFLOCK_NATIVE, scene_io(_i));
}
END_TEST

START_TEST(a_cycle_is_four_calls_with_ofd_locks)
{
    make_cycles(AFLOCK_OFD, scene_io(_i));
}
END_TEST

static int try_with_flock(void)
{
    return execlp("flock", "flock", "--nonblock", "--conflict-exit-code", "1", "lock", "true", (char *)NULL);
}

static int try_with_python(void)
{
    static const char *const code = "import fcntl, sys\n"
                                    "try:\n"
                                    "    fcntl.flock(open('lock', 'r+'), fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
                                    "except BlockingIOError:\n"
                                    "    sys.exit(1)\n";
    const char *python = getenv("PYTHON");
    return execlp(python ? python : "/usr/bin/python3", "python3", "-c", code, (char *)NULL);
}

/* 0: another program got it, 1: it did not. */
static int status_of(int (*try)(void))
{
    int status;
    pid_t child = fork();
    ck_assert_int_ge(child, 0);
    if (child == 0) {
        try();
        _exit(2);
    }
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert(WIFEXITED(status));
    return WEXITSTATUS(status);
}

/* Other programs are shut out while it is held, and only then. */
START_TEST(open_is_not_locked)
{
    static int (*const others[])(void) = {try_with_flock, try_with_python};
    aflock *lock = open_used("lock", scene_io(_i));
    for (int i = 0; i < 2; i++) {
        ck_assert_int_eq(status_of(others[i]), 0);
        aflock_req req = scene_hold(lock, NULL);
        ck_assert_int_eq(status_of(others[i]), 1);
        ck_assert_int_eq(scene_release(lock, req).result.status, 0);
        ck_assert_int_eq(status_of(others[i]), 0);
    }
}
END_TEST

START_TEST(the_times_are_set_and_nothing_else)
{
    struct stat was, is;
    scene_write("lock", "text");
    ck_assert_int_eq(chmod("lock", 0640), 0);
    aflock *lock = open_used("lock", scene_io(_i));
    const struct timespec past[2] = {{.tv_sec = 1000}, {.tv_sec = 1000}};
    aflock_req req = scene_hold(lock, NULL);
    ck_assert_int_eq(utimensat(AT_FDCWD, "lock", past, 0), 0);
    ck_assert_int_eq(stat("lock", &was), 0);
    ck_assert_int_eq(scene_release(lock, req).result.status, 0);
    ck_assert_int_eq(stat("lock", &is), 0);
    ck_assert_int_gt(is.st_mtim.tv_sec, 1000);
    ck_assert_int_gt(is.st_atim.tv_sec, 1000);
    ck_assert_int_eq(is.st_size, 4);
    ck_assert_uint_eq(is.st_mode, was.st_mode);
}
END_TEST

/* --------------------------------------------------------------------------------------------- what others hear of it
 */

static int ear;

static void listen_to(const char *path)
{
    ear = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    ck_assert_int_ge(ear, 0);
    ck_assert_int_ge(inotify_add_watch(ear, path, IN_CLOSE | IN_ATTRIB), 0);
}

/* All that was heard. */
static uint32_t heard(void)
{
    union {
        struct inotify_event event;
        char bytes[4096];
    } buffer;
    uint32_t mask = 0;
    ssize_t size;
    while ((size = read(ear, &buffer, sizeof buffer)) > 0)
        for (ssize_t at = 0; at < size; at += (ssize_t)sizeof buffer.event)
            mask |= ((struct inotify_event *)(void *)(buffer.bytes + at))->mask;
    ck_assert_int_eq(errno, EAGAIN);
    return mask;
}

START_TEST(a_release_is_a_touch)
{
    aflock *lock = open_used("lock", scene_io(_i));
    listen_to("lock");
    aflock_req req = scene_hold(lock, NULL);
    ck_assert_uint_eq(heard(), 0);
    ck_assert_int_eq(scene_release(lock, req).result.status, 0);
    ck_assert_uint_eq(heard(), IN_ATTRIB);
    close(ear);
}
END_TEST

/* Whoever hears it finds the file free. */
static bool free_when_touched;

static void look_whether_free(void)
{
    free_when_touched = flock(ear, LOCK_EX | LOCK_NB) == 0;
}

START_TEST(the_touch_comes_after_the_unlock)
{
    aflock *lock = open_used("lock", scene_io(_i));
    ear = open("lock", O_RDWR | O_CLOEXEC);
    aflock_req req = scene_hold(lock, NULL);
    seam_before(SEAM_TOUCH, look_whether_free);
    ck_assert_int_eq(scene_release(lock, req).result.status, 0);
    ck_assert(free_when_touched);
    close(ear);
}
END_TEST

/* Not permitted, or not possible: it is opened and closed once more, and stays open. */
START_TEST(without_the_touch_it_is_opened_and_closed)
{
    static const int errors[] = {EPERM, EACCES, EROFS, EIO, EINTR, ENOSYS};
    aflock *lock = open_used("lock", scene_io(_i));
    listen_to("lock");
    for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++) {
        aflock_req req = scene_hold(lock, NULL);
        int fd = aflock_fd(lock, req);
        seam_forget();
        seam_fail(SEAM_TOUCH, 0, 1, errors[i]);
        answer a = scene_release(lock, req);
        ck_assert_int_eq(a.result.status, 0);
        ck_assert_int_eq(a.result.cleanup_errno, 0);
        ck_assert_int_eq(seam_count(SEAM_OPEN), 1);
        ck_assert_int_eq(seam_count(SEAM_CLOSE), 1);
        ck_assert_int_eq(seam_total(), 4); /* unlock and touch */
        ck_assert_uint_eq(heard(), IN_CLOSE_NOWRITE);
        ck_assert_int_eq(scene_descriptors(), before + 2); /* and the ear */
        ck_assert(scene_is_free("lock", LOCK_EX));
        heard();
        req = scene_hold(lock, NULL);
        ck_assert_int_eq(aflock_fd(lock, req), fd);
        ck_assert_int_eq(scene_release(lock, req).result.status, 0);
        heard();
    }
    ck_assert_int_eq(scene_logged, 0);
    close(ear);
}
END_TEST

/* If nothing else is to be heard, it is the close after all. */
START_TEST(without_either_it_is_closed)
{
    static const int errors[] = {EMFILE, EACCES, ENOENT};
    aflock *lock = open_used("lock", scene_io(_i));
    listen_to("lock");
    for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++) {
        aflock_req req = scene_hold(lock, NULL);
        heard();
        seam_fail(SEAM_TOUCH, 0, 1, EPERM);
        seam_fail(SEAM_OPEN, 0, 1, errors[i]);
        answer a = scene_release(lock, req);
        ck_assert_int_eq(a.result.status, 0);
        ck_assert_int_eq(a.result.cleanup_errno, 0);
        ck_assert_uint_eq(heard(), IN_CLOSE_WRITE);
        ck_assert_int_eq(scene_descriptors(), before + 1); /* the ear */
        ck_assert(scene_is_free("lock", LOCK_EX));
        seam_reset();
        scene_must_work(lock);
        ck_assert_int_eq(scene_descriptors(), before + 2);
    }
    close(ear);
}
END_TEST

/* ---------------------------------------------------------------------------------------------- calls that fail */

START_TEST(a_failed_unlock_is_held_and_not_heard)
{
    aflock *lock = open_used("lock", scene_io(_i));
    aflock_req req = scene_hold(lock, NULL);
    seam_forget();
    seam_fail(SEAM_UNLOCK, 0, 1, EIO);
    answer a = scene_release(lock, req);
    ck_assert_int_eq(a.result.status, AFLOCK_ESYS);
    ck_assert_str_eq(a.step, "unlock");
    ck_assert_int_eq(seam_count(SEAM_TOUCH), 0);
    ck_assert(!scene_is_free("lock", LOCK_SH));
    ck_assert_int_eq(scene_release(lock, req).result.status, 0);
    ck_assert_int_eq(seam_count(SEAM_TOUCH), 1);
    ck_assert(scene_is_free("lock", LOCK_EX));
    ck_assert_int_eq(scene_descriptors(), before + 1);
}
END_TEST

/* Somebody closed our descriptor: its number may be another file's by now. */
START_TEST(a_descriptor_that_was_closed_is_left_alone)
{
    aflock *lock = open_used("lock", scene_io(_i));
    aflock_req req = scene_hold(lock, NULL);
    seam_forget();
    seam_fail(SEAM_UNLOCK, 0, 1, EBADF);
    close(aflock_fd(lock, req));
    answer a = scene_release(lock, req);
    ck_assert_int_eq(a.result.status, 0);
    ck_assert_int_eq(a.result.cleanup_errno, EBADF);
    ck_assert_int_eq(seam_count(SEAM_TOUCH) + seam_count(SEAM_CLOSE), 0);
    scene_must_work(lock);
}
END_TEST

/* It is not tried again with what failed; the next one opens the file anew. */
START_TEST(a_failed_lock_closes_it)
{
    aflock *lock = open_used("lock", scene_io(_i));
    seam_fail(SEAM_LOCK, 0, 1, EIO);
    answer a = scene_acquire(lock, NULL);
    ck_assert_int_eq(a.result.status, AFLOCK_ESYS);
    ck_assert_int_eq(a.result.sys_errno, EIO);
    ck_assert_str_eq(a.step, "flock");
    ck_assert_int_eq(scene_descriptors(), before);
    scene_must_work(lock);
    ck_assert_int_eq(scene_descriptors(), before + 1);
}
END_TEST

START_TEST(a_failed_stat_closes_it)
{
    aflock *lock = open_used("lock", scene_io(_i));
    seam_fail(SEAM_STAT, 0, 1, EIO);
    answer a = scene_acquire(lock, NULL);
    ck_assert_int_eq(a.result.status, AFLOCK_ESYS);
    ck_assert_str_eq(a.step, "stat");
    ck_assert_int_eq(scene_descriptors(), before);
    ck_assert(scene_is_free("lock", LOCK_EX));
    scene_must_work(lock);
}
END_TEST

/* A server has forgotten what is open: the path may name another file, and is opened again. */
START_TEST(a_stale_handle_is_opened_again)
{
    aflock *lock = open_used("lock", scene_io(_i));
    seam_forget();
    seam_fail(SEAM_LOCK, 0, 1, ESTALE);
    scene_must_work(lock);
    ck_assert_int_ge(opens(), 1);
    ck_assert_int_eq(scene_descriptors(), before + 1);
    seam_forget();
    seam_fail(SEAM_LOCK, 0, 2, ESTALE); /* of the new one: that is what is told */
    answer a = scene_acquire(lock, NULL);
    ck_assert_int_eq(a.result.sys_errno, ESTALE);
    ck_assert_int_eq(scene_descriptors(), before);
    scene_must_work(lock);
}
END_TEST

/* ------------------------------------------------------------------------------------------- files that are replaced
 */

static void must_hold_what_the_path_names(aflock *lock)
{
    aflock_req req = scene_hold(lock, NULL);
    ck_assert_uint_eq(inode_of(aflock_fd(lock, req)), inode_of_path("lock"));
    ck_assert(!scene_is_free("lock", LOCK_SH));
    ck_assert_int_eq(scene_release(lock, req).result.status, 0);
    ck_assert(scene_is_free("lock", LOCK_EX));
    ck_assert_int_eq(scene_descriptors(), before + 1);
}

START_TEST(a_file_that_was_replaced)
{
    aflock *lock = open_used("lock", scene_io(_i));
    ck_assert_int_eq(rename("lock", "old"), 0);
    scene_write("lock", "new");
    must_hold_what_the_path_names(lock);
    ck_assert(scene_is_free("old", LOCK_EX));
    ck_assert_int_eq(scene_size("lock"), 3);
}
END_TEST

START_TEST(a_file_that_was_replaced_and_is_held)
{
    aflock *lock = open_used("lock", scene_io(_i));
    ck_assert_int_eq(rename("lock", "old"), 0);
    scene_write("lock", "new");
    pid_t pid = scene_holder("old", O_RDWR, LOCK_EX); /* whose hold is nobody's business */
    must_hold_what_the_path_names(lock);
    scene_holder_end(pid);
}
END_TEST

START_TEST(a_file_that_was_unlinked)
{
    aflock *lock = open_used("lock", scene_io(_i));
    ck_assert_int_eq(unlink("lock"), 0);
    must_hold_what_the_path_names(lock);
    ck_assert_int_eq(unlink("lock"), 0);
    aflock_acquire_options o = scene_options(0, AFLOCK_CREATE);
    answer a = scene_acquire(lock, &o);
    ck_assert_int_eq(a.result.status, AFLOCK_ENOENT);
    ck_assert_int_eq(scene_descriptors(), before);
    ck_assert_int_eq(scene_size("lock"), -1);
    scene_must_work(lock);
}
END_TEST

/* A try drops what is gone, and makes a new one only where it may. */
START_TEST(a_try_finds_it_unlinked)
{
    static const int expected[] = {
        [AFLOCK_IO_AUTO] = AFLOCK_ENOTINLINE, [AFLOCK_IO_INLINE] = 0, [AFLOCK_IO_POOL] = AFLOCK_ENOTINLINE};
    aflock_req req;
    aflock *lock = open_used("lock", scene_io(_i));
    ck_assert_int_eq(unlink("lock"), 0);
    int status = aflock_try(lock, NULL, &req, NULL);
    ck_assert_str_eq(aflock_error_name(status), aflock_error_name(expected[_i]));
    ck_assert_int_eq(scene_size("lock"), status == 0 ? 0 : -1);
    if (status == 0)
        ck_assert_int_eq(scene_release(lock, req).result.status, 0);
    must_hold_what_the_path_names(lock);
    ck_assert_int_eq(aflock_close(lock), 0);
    come_to_rest();
    ck_assert_int_eq(scene_descriptors(), before);
}
END_TEST

/* A forked child has what was open: a close alone would leave it locked as long as the child lives. */
START_TEST(a_replaced_file_is_unlocked_for_a_child_that_has_it)
{
    int end[2];
    char byte;
    aflock *lock = open_used("lock", scene_io(_i));
    ck_assert_int_eq(pipe2(end, O_CLOEXEC), 0);
    pid_t child = fork();
    ck_assert_int_ge(child, 0);
    if (child == 0) {
        close(end[1]);
        _exit(read(end[0], &byte, 1) == 0 ? 0 : 1);
    }
    close(end[0]);
    ck_assert_int_eq(rename("lock", "old"), 0);
    scene_must_work(lock);
    ck_assert(scene_is_free("old", LOCK_EX));
    close(end[1]);
    int status;
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert_int_eq(status, 0);
}
END_TEST

/* --------------------------------------------------------------------------------------------- requests of other kinds
 */

static int access_of(int fd)
{
    return fcntl(fd, F_GETFL) & O_ACCMODE;
}

/* What is open for reading only is opened again for writing, which serves both. */
START_TEST(for_reading_and_then_for_writing)
{
    static const int expected[] = {O_RDONLY, O_RDONLY, O_RDWR, O_RDWR};
    aflock *lock = open_keeper("lock", scene_io(_i));
    for (int i = 0; i < 4; i++) {
        aflock_acquire_options o = scene_options(i == 2 ? 0 : AFLOCK_READ_ONLY, 0);
        seam_forget();
        aflock_req req = scene_hold(lock, &o);
        ck_assert_int_eq(access_of(aflock_fd(lock, req)), expected[i]);
        ck_assert_int_eq(scene_release(lock, req).result.status, 0);
        ck_assert_int_eq(opens() > 0, i == 0 || i == 2);
        ck_assert_int_eq(seam_count(SEAM_TOUCH), 1);
    }
}
END_TEST

/* The next program would inherit it without a hold, and share the later ones. */
START_TEST(what_is_inheritable_is_closed)
{
    aflock *lock = open_used("lock", scene_io(_i));
    aflock_acquire_options o = scene_options(AFLOCK_INHERIT, 0);
    for (int i = 0; i < 2; i++) {
        aflock_req req = scene_hold(lock, &o);
        ck_assert_int_eq(fcntl(aflock_fd(lock, req), F_GETFD), 0);
        ck_assert_int_eq(scene_release(lock, req).result.status, 0);
        ck_assert_int_eq(scene_descriptors(), before);
        scene_must_work(lock);
        ck_assert_int_eq(scene_descriptors(), before + 1);
    }
}
END_TEST

START_TEST(a_directory_stays_open)
{
    ck_assert_int_eq(mkdir("d", 0777), 0);
    aflock *lock = open_keeper("d", scene_io(_i));
    aflock_acquire_options o = scene_options(AFLOCK_DIRECTORY, 0);
    before = scene_descriptors();
    for (int i = 0; i < 2; i++) {
        seam_forget();
        ck_assert_int_eq(scene_release(lock, scene_hold(lock, &o)).result.status, 0);
        ck_assert_int_eq(scene_descriptors(), before + 1);
        ck_assert_int_eq(seam_count(SEAM_TOUCH), 1);
    }
    ck_assert_int_eq(opens(), 0);
    answer a = scene_acquire(lock, NULL); /* does not want one */
    ck_assert_int_eq(a.result.status, AFLOCK_EISDIR);
    ck_assert_int_eq(scene_descriptors(), before);
}
END_TEST

/* What was reached through a link is not for one who follows none. */
START_TEST(through_a_link_and_then_not)
{
    scene_write("target", "text");
    ck_assert_int_eq(symlink("target", "lock"), 0);
    aflock *lock = open_keeper("lock", scene_io(_i));
    aflock_acquire_options o = scene_options(AFLOCK_FOLLOW, 0);
    before = scene_descriptors();
    ck_assert_int_eq(scene_release(lock, scene_hold(lock, &o)).result.status, 0);
    ck_assert_int_eq(scene_descriptors(), before + 1);
    answer a = scene_acquire(lock, NULL);
    ck_assert_int_eq(a.result.status, AFLOCK_ELOOP);
    ck_assert_int_eq(scene_descriptors(), before);
    ck_assert_int_eq(unlink("lock"), 0);
    scene_must_work(lock);
    ck_assert_int_eq(scene_release(lock, scene_hold(lock, &o)).result.status, 0);
    ck_assert_int_eq(scene_descriptors(), before + 1);
}
END_TEST

static int refuse(int fd, void *user)
{
    (void)fd, (void)user;
    return EDOM;
}

/* Wishes are served each time; who is refused leaves it open, and unlocked. */
START_TEST(wishes_are_served_on_it)
{
    aflock *lock = open_used("lock", scene_io(_i));
    aflock_acquire_options o = scene_options(AFLOCK_TRUNCATE, 0);
    scene_write("lock", "text");
    ck_assert_int_eq(scene_release(lock, scene_hold(lock, &o)).result.status, 0);
    ck_assert_int_eq(scene_size("lock"), 0);
    o = scene_options(0, 0);
    o.on_acquired = refuse;
    ck_assert_int_eq(scene_acquire(lock, &o).result.status, AFLOCK_EREFUSED);
    ck_assert(scene_is_free("lock", LOCK_EX));
    ck_assert_int_eq(scene_descriptors(), before + 1);
    scene_must_work(lock);
}
END_TEST

int main(void)
{
    const TTest *const each[] = {
        a_cycle_is_four_calls,
        a_cycle_is_four_calls_with_ofd_locks,
        open_is_not_locked,
        the_times_are_set_and_nothing_else,
        a_release_is_a_touch,
        the_touch_comes_after_the_unlock,
        without_the_touch_it_is_opened_and_closed,
        without_either_it_is_closed,
        a_failed_unlock_is_held_and_not_heard,
        a_descriptor_that_was_closed_is_left_alone,
        a_failed_lock_closes_it,
        a_failed_stat_closes_it,
        a_stale_handle_is_opened_again,
        a_file_that_was_replaced,
        a_file_that_was_replaced_and_is_held,
        a_file_that_was_unlinked,
        a_try_finds_it_unlinked,
        a_replaced_file_is_unlocked_for_a_child_that_has_it,
        for_reading_and_then_for_writing,
        what_is_inheritable_is_closed,
        a_directory_stays_open,
        through_a_link_and_then_not,
        wishes_are_served_on_it,
        NULL,
    };
    return scene_main("native: keep", NULL, each);
}
