/* The options of a request on real files: what is made, touched, opened, inherited, called and reported. */
#include "support/scene.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* Acquires, checks that the lock cannot be had, and that nothing of the file changed. */
static void contended_once(aflock *lock, aflock_acquire_options o)
{
    o.timeout = 0;
    answer a = scene_acquire(lock, &o);
    ck_assert_int_eq(a.result.status, AFLOCK_EWOULDBLOCK);
    ck_assert_int_eq(a.result.fd, -1);
}

/* ------------------------------------------------------------------------------------------------- mode and parents */

START_TEST(mode_follows_the_umask)
{
    umask(027);
    aflock *lock = scene_open("a/lock", scene_io(_i));
    scene_must_work(lock);
    ck_assert_uint_eq(scene_mode("a/lock"), 0640);
    ck_assert_uint_eq(scene_mode("a"), 0750);
    ck_assert_uint_eq(umask(027), 027);
    ck_assert_int_eq(seam_count(SEAM_FCHMOD), 0);
}
END_TEST

START_TEST(mode_that_is_asked_for_is_set)
{
    umask(077);
    aflock *lock = scene_open("lock", scene_io(_i));
    aflock_acquire_options o = scene_options(0, 0);
    o.file_mode = 0622;
    aflock_req req = scene_hold(lock, &o);
    ck_assert_uint_eq(scene_mode("lock"), 0622);
    ck_assert_int_eq(scene_release(lock, req).result.status, 0);

    scene_must_work(lock); /* without a wish it stays */
    ck_assert_uint_eq(scene_mode("lock"), 0622);
    ck_assert_int_eq(chmod("lock", 0600), 0);
    req = scene_hold(lock, &o); /* also of a file that is there */
    ck_assert_uint_eq(scene_mode("lock"), 0622);
    ck_assert_int_eq(scene_release(lock, req).result.status, 0);
}
END_TEST

START_TEST(mode_is_not_touched_without_the_lock)
{
    scene_write("lock", "text");
    ck_assert_int_eq(chmod("lock", 0644), 0);
    pid_t pid = scene_holder("lock", O_RDWR, LOCK_SH);
    aflock_acquire_options o = scene_options(0, 0);
    o.file_mode = 0600;
    contended_once(scene_open("lock", scene_io(_i)), o);
    ck_assert_uint_eq(scene_mode("lock"), 0644);
    ck_assert_int_eq(seam_count(SEAM_FCHMOD), 0);
    scene_holder_end(pid);
}
END_TEST

START_TEST(mode_of_somebody_elses_file)
{
    static const int IGNORED[] = {EPERM, EACCES};
    aflock *lock = scene_open("lock", scene_io(_i));
    aflock_acquire_options o = scene_options(0, 0);
    o.file_mode = 0600;
    for (int i = 0; i < 2; i++) {
        seam_fail(SEAM_FCHMOD, 0, 1, IGNORED[i]);
        aflock_req req = scene_hold(lock, &o);
        ck_assert_int_eq(seam_count(SEAM_FCHMOD), i + 1);
        ck_assert_int_eq(scene_release(lock, req).result.status, 0);
    }
    seam_fail(SEAM_FCHMOD, 0, 1, EROFS);
    answer a = scene_acquire(lock, &o);
    ck_assert_int_eq(a.result.status, AFLOCK_EROFS);
    ck_assert_int_eq(a.result.sys_errno, EROFS);
    ck_assert_str_eq(a.step, "fchmod");
    ck_assert(scene_is_free("lock", LOCK_EX));
    scene_must_work(lock);
}
END_TEST

START_TEST(parents_are_made_and_stay)
{
    aflock *lock = scene_open("a/b/../c//./lock", scene_io(_i));
    scene_must_work(lock);
    ck_assert_int_eq(scene_size("a/c/lock"), 0);
    ck_assert_int_eq(scene_entries("a"), 2);
    ck_assert_int_eq(aflock_close(lock), 0);
    ck_assert_int_eq(scene_size("a/c/lock"), 0);
}
END_TEST

/* ---------------------------------------------------------------------------------------------------------- contents
 */

START_TEST(contents_are_left_alone)
{
    scene_write("lock", "text");
    aflock *lock = scene_open("lock", scene_io(_i));
    scene_must_work(lock);
    ck_assert_int_eq(scene_size("lock"), 4);
    ck_assert_int_eq(seam_count(SEAM_FTRUNCATE), 0);
}
END_TEST

START_TEST(truncated_once_locked)
{
    scene_write("lock", "text");
    aflock *lock = scene_open("lock", scene_io(_i));
    aflock_acquire_options o = scene_options(AFLOCK_TRUNCATE, 0);

    pid_t pid = scene_holder("lock", O_RDWR, LOCK_SH);
    contended_once(lock, o);
    ck_assert_int_eq(scene_size("lock"), 4);
    scene_holder_end(pid);

    aflock_req req = scene_hold(lock, &o);
    ck_assert_int_eq(scene_size("lock"), 0);
    ck_assert_int_eq(seam_count(SEAM_FTRUNCATE), 1);
    ck_assert_int_eq(scene_release(lock, req).result.status, 0);
}
END_TEST

START_TEST(an_empty_file_is_not_truncated)
{
    aflock *lock = scene_open("lock", scene_io(_i));
    aflock_acquire_options o = scene_options(AFLOCK_TRUNCATE, 0);
    aflock_req req = scene_hold(lock, &o);
    ck_assert_int_eq(seam_count(SEAM_FTRUNCATE), 0);
    ck_assert_int_eq(scene_release(lock, req).result.status, 0);
}
END_TEST

START_TEST(a_file_that_cannot_be_truncated)
{
    scene_write("lock", "text");
    aflock *lock = scene_open("lock", scene_io(_i));
    aflock_acquire_options o = scene_options(AFLOCK_TRUNCATE, 0);
    seam_fail(SEAM_FTRUNCATE, 0, 1, EIO);
    answer a = scene_acquire(lock, &o);
    ck_assert_int_eq(a.result.status, AFLOCK_ESYS);
    ck_assert_int_eq(a.result.sys_errno, EIO);
    ck_assert_str_eq(a.step, "ftruncate");
    ck_assert(scene_is_free("lock", LOCK_EX));
    ck_assert_int_eq(scene_size("lock"), 4);
    scene_must_work(lock);
}
END_TEST

/* ----------------------------------------------------------------------------------------------------------- opening
 */

static int access_of(int fd)
{
    return fcntl(fd, F_GETFL) & O_ACCMODE;
}

START_TEST(opened_for_writing_unless_read_only)
{
    aflock *lock = scene_open("lock", scene_io(_i));
    aflock_req req = scene_hold(lock, NULL);
    ck_assert_int_eq(access_of(aflock_fd(lock, req)), O_RDWR);
    ck_assert_int_eq(fcntl(aflock_fd(lock, req), F_GETFD), FD_CLOEXEC);
    ck_assert_int_eq(scene_release(lock, req).result.status, 0);
    aflock_acquire_options o = scene_options(AFLOCK_READ_ONLY, 0);
    req = scene_hold(lock, &o);
    ck_assert_int_eq(access_of(aflock_fd(lock, req)), O_RDONLY);
    ck_assert(!scene_is_free("lock", LOCK_SH));
    ck_assert_int_eq(scene_release(lock, req).result.status, 0);
}
END_TEST

START_TEST(read_only_can_create)
{
    aflock *lock = scene_open("lock", scene_io(_i));
    aflock_acquire_options o = scene_options(AFLOCK_READ_ONLY, 0);
    aflock_req req = scene_hold(lock, &o);
    ck_assert_int_eq(scene_size("lock"), 0);
    ck_assert_int_eq(scene_release(lock, req).result.status, 0);
}
END_TEST

/* A hold is not passed on to a request that needs another kind of descriptor. */
START_TEST(each_waiter_gets_the_descriptor_it_asked_for)
{
    aflock *lock = scene_open("lock", scene_io(_i));
    aflock_acquire_options reading = scene_options(AFLOCK_READ_ONLY, 0), heir = scene_options(AFLOCK_INHERIT, 0);
    answer waiting[2] = {0};
    aflock_req req = scene_hold(lock, &reading);
    ck_assert_int_eq(aflock_acquire(lock, NULL, scene_answer, &waiting[0], NULL), 0);
    ck_assert_int_eq(aflock_acquire(lock, &heir, scene_answer, &waiting[1], NULL), 0);
    scene_expect(2);
    ck_assert_int_eq(scene_release(lock, req).result.status, 0);
    scene_run_until(&waiting[0].count, 1);
    ck_assert_int_eq(waiting[0].result.status, 0);
    ck_assert_int_eq(access_of(waiting[0].result.fd), O_RDWR);
    ck_assert_int_eq(scene_release(lock, waiting[0].result.req).result.status, 0);
    scene_run_until(&waiting[1].count, 1);
    ck_assert_int_eq(waiting[1].result.status, 0);
    ck_assert_int_eq(fcntl(waiting[1].result.fd, F_GETFD), 0);
    ck_assert_int_eq(scene_release(lock, waiting[1].result.req).result.status, 0);
}
END_TEST

/* The same, for a descriptor that is kept while others hold the file. */
START_TEST(a_kept_descriptor_is_replaced_if_it_does_not_fit)
{
    pid_t pid = scene_holder("lock", O_RDWR | O_CREAT, LOCK_EX);
    aflock *lock = scene_open("lock", scene_io(_i));
    aflock_acquire_options reading = scene_options(AFLOCK_READ_ONLY, 0);
    answer first = {0}, second = {0};
    aflock_req req;
    ck_assert_int_eq(aflock_acquire(lock, &reading, scene_answer, &first, &req), 0);
    ck_assert_int_eq(aflock_acquire(lock, NULL, scene_answer, &second, NULL), 0);
    scene_expect(2);
    scene_run_until(&scene_contended, 2);
    ck_assert_int_eq(aflock_cancel(lock, req), 0);
    int seen = scene_contended;
    scene_run_until(&scene_contended, seen + 2);
    scene_holder_end(pid);
    scene_run_until(&second.count, 1);
    ck_assert_int_eq(first.result.status, AFLOCK_ECANCELED);
    ck_assert_int_eq(second.result.status, 0);
    ck_assert_int_eq(access_of(second.result.fd), O_RDWR);
    ck_assert_int_eq(scene_release(lock, second.result.req).result.status, 0);
}
END_TEST

START_TEST(follows_links_if_asked)
{
    scene_write("target", "text");
    ck_assert_int_eq(symlink("target", "link"), 0);
    ck_assert_int_eq(symlink("new", "dangling"), 0);
    aflock *lock = scene_open("link", scene_io(_i)), *dangling = scene_open("dangling", scene_io(_i));
    aflock_acquire_options o = scene_options(AFLOCK_FOLLOW, 0);
    aflock_req req = scene_hold(lock, &o);
    ck_assert(!scene_is_free("target", LOCK_SH));
    ck_assert_int_eq(scene_release(lock, req).result.status, 0);
    req = scene_hold(dangling, &o);
    ck_assert_int_eq(scene_size("new"), 0);
    ck_assert(!scene_is_free("new", LOCK_SH));
    ck_assert_int_eq(scene_release(dangling, req).result.status, 0);
}
END_TEST

START_TEST(locks_directories_if_asked)
{
    ck_assert_int_eq(mkdir("d", 0777), 0);
    aflock *lock = scene_open("d", scene_io(_i)), *file = scene_open("file", scene_io(_i));
    aflock_acquire_options o = scene_options(AFLOCK_DIRECTORY | AFLOCK_TRUNCATE, 0);
    aflock_req req = scene_hold(lock, &o);
    struct stat st;
    ck_assert_int_eq(fstat(aflock_fd(lock, req), &st), 0);
    ck_assert(S_ISDIR(st.st_mode));
    ck_assert(!scene_is_free("d", LOCK_SH));
    ck_assert_int_eq(scene_entries("d"), 0);
    ck_assert_int_eq(scene_release(lock, req).result.status, 0);
    ck_assert(scene_is_free("d", LOCK_EX));

    pid_t pid = scene_holder("d", O_RDONLY | O_DIRECTORY, LOCK_EX);
    contended_once(lock, o);
    scene_holder_end(pid);

    req = scene_hold(file, &o); /* accepted, not demanded */
    ck_assert_int_eq(access_of(aflock_fd(file, req)), O_RDWR);
    ck_assert_int_eq(scene_release(file, req).result.status, 0);
}
END_TEST

static uint32_t flags_of_child;
static aflock_io io_of_child;

/* Becomes another program while it holds the lock. */
static void hold_and_execute(void)
{
    scene_make_context();
    aflock_acquire_options o = scene_options(flags_of_child, 0);
    scene_hold(scene_open("lock", io_of_child), &o);
    execlp("sleep", "sleep", "60", (char *)NULL);
    _exit(1);
}

static void check_inheritance(bool inherit)
{
    int executed[2];
    char byte;
    scene_free_context();
    flags_of_child = inherit ? AFLOCK_INHERIT : 0;
    ck_assert_int_eq(pipe2(executed, O_CLOEXEC), 0); /* its end comes when the other program begins */
    pid_t pid = fork();
    ck_assert_int_ge(pid, 0);
    if (pid == 0)
        hold_and_execute();
    close(executed[1]);
    ck_assert_int_eq(read(executed[0], &byte, 1), 0);
    close(executed[0]);
    ck_assert_int_eq(waitpid(pid, NULL, WNOHANG), 0);
    ck_assert(scene_is_free("lock", LOCK_EX) == !inherit);
    scene_holder_end(pid);
    ck_assert(scene_is_free("lock", LOCK_EX));
    scene_make_context();
}

START_TEST(programs_inherit_the_lock_if_asked)
{
    io_of_child = scene_io(_i);
    check_inheritance(true);
}
END_TEST

START_TEST(programs_do_not_inherit_the_lock)
{
    io_of_child = scene_io(_i);
    check_inheritance(false);
}
END_TEST

/* -------------------------------------------------------------------------------------------------------- on_acquired
 */

struct wish {
    pthread_t loop;
    atomic_int calls, on_loop, was_free, writable;
    int answer;
};

static int on_acquired(int fd, void *user)
{
    struct wish *w = user;
    w->calls++;
    w->on_loop += pthread_equal(pthread_self(), w->loop) != 0;
    w->was_free += scene_is_free("lock", LOCK_SH);
    w->writable += write(fd, "mine", 4) == 4;
    return w->answer;
}

static aflock_acquire_options wishing(struct wish *w)
{
    aflock_acquire_options o = scene_options(0, 0);
    w->loop = pthread_self();
    o.on_acquired = on_acquired;
    o.on_acquired_user = w;
    return o;
}

START_TEST(on_acquired_runs_locked_where_attempts_run)
{
    struct wish w = {0};
    aflock_acquire_options o = wishing(&w);
    aflock *lock = scene_open("lock", scene_io(_i));
    aflock_req req = scene_hold(lock, &o);
    ck_assert_int_eq(w.calls, 1);
    ck_assert_int_eq(w.was_free, 0);
    ck_assert_int_eq(w.writable, 1);
    ck_assert_int_eq(w.on_loop, _i == AFLOCK_IO_INLINE);
    ck_assert_int_eq(scene_release(lock, req).result.status, 0);
    ck_assert_int_eq(scene_size("lock"), 4);
}
END_TEST

START_TEST(on_acquired_comes_after_truncation)
{
    struct wish w = {0};
    scene_write("lock", "a longer text");
    aflock_acquire_options o = wishing(&w);
    o.flags |= AFLOCK_TRUNCATE;
    aflock *lock = scene_open("lock", scene_io(_i));
    aflock_req req = scene_hold(lock, &o);
    ck_assert_int_eq(scene_size("lock"), 4);
    ck_assert_int_eq(scene_release(lock, req).result.status, 0);
}
END_TEST

START_TEST(on_acquired_refuses)
{
    struct wish w = {.answer = 42};
    aflock_acquire_options o = wishing(&w);
    aflock *lock = scene_open("lock", scene_io(_i));
    int descriptors = scene_descriptors();
    answer a = scene_acquire(lock, &o);
    ck_assert_int_eq(a.result.status, AFLOCK_EREFUSED);
    ck_assert_int_eq(a.result.sys_errno, 42);
    ck_assert_int_eq(a.result.cleanup_errno, 0);
    ck_assert_str_eq(a.step, "on_acquired");
    ck_assert_int_eq(w.calls, 1);
    ck_assert(scene_is_free("lock", LOCK_EX)); /* already when the answer comes */
    ck_assert_int_eq(scene_descriptors(), descriptors);
    scene_must_work(lock);
}
END_TEST

START_TEST(a_refusal_does_not_concern_the_next)
{
    struct wish w = {.answer = 42};
    aflock_acquire_options o = wishing(&w);
    answer first = {0}, second = {0};
    aflock *lock = scene_open("lock", scene_io(_i));
    aflock_req req = scene_hold(lock, NULL);
    ck_assert_int_eq(aflock_acquire(lock, &o, scene_answer, &first, NULL), 0);
    ck_assert_int_eq(aflock_acquire(lock, NULL, scene_answer, &second, NULL), 0);
    scene_expect(2);
    ck_assert_int_eq(scene_release(lock, req).result.status, 0);
    scene_run_until(&second.count, 1);
    ck_assert_int_eq(first.result.status, AFLOCK_EREFUSED);
    ck_assert_int_eq(second.result.status, 0);
    ck_assert_int_eq(scene_release(lock, second.result.req).result.status, 0);
}
END_TEST

START_TEST(a_failed_roll_back_is_reported_and_made_up_for)
{
    struct wish w = {.answer = 42};
    aflock_acquire_options o = wishing(&w);
    aflock *lock = scene_open("lock", scene_io(_i));
    seam_fail(SEAM_UNLOCK, 0, 2, EIO);
    answer a = scene_acquire(lock, &o);
    ck_assert_int_eq(a.result.status, AFLOCK_EREFUSED);
    ck_assert_int_eq(a.result.sys_errno, 42);
    ck_assert_int_eq(a.result.cleanup_errno, EIO);
    while (aflock_epoll_alive(scene))
        ck_assert_int_eq(aflock_epoll_run_once(scene, AFLOCK_SECOND), 0);
    ck_assert_int_eq(seam_count(SEAM_UNLOCK), 3);
    ck_assert_int_ge(scene_logged, 1);
    ck_assert(scene_is_free("lock", LOCK_EX));
    scene_must_work(lock);
}
END_TEST

/* ---------------------------------------------------------------------------------------------------------- closing */

static answer release_with_a_failing_close(aflock *lock, uint32_t flags)
{
    aflock_acquire_options o = scene_options(flags, 0);
    aflock_req req = scene_hold(lock, &o);
    seam_fail(SEAM_CLOSE, 0, 1, EIO);
    answer a = scene_release(lock, req);
    ck_assert_int_eq(a.result.status, 0);
    ck_assert(scene_is_free("lock", LOCK_EX));
    ck_assert_int_eq(aflock_depth(lock, NULL), 0);
    return a;
}

START_TEST(a_failed_close_is_ignored)
{
    aflock *lock = scene_open("lock", scene_io(_i));
    ck_assert_int_eq(release_with_a_failing_close(lock, 0).result.cleanup_errno, 0);
    scene_must_work(lock);
}
END_TEST

START_TEST(a_failed_close_is_reported_if_asked)
{
    aflock *lock = scene_open("lock", scene_io(_i));
    ck_assert_int_eq(release_with_a_failing_close(lock, AFLOCK_REPORT_CLOSE).result.cleanup_errno, EIO);
    ck_assert_int_eq(release_with_a_failing_close(lock, 0).result.cleanup_errno, 0);
    scene_must_work(lock);
}
END_TEST

/* ------------------------------------------------------------------------------------------- the caller's descriptor
 */

static aflock *open_own(int fd, aflock_io io)
{
    aflock *lock;
    aflock_options o;
    aflock_options_init(&o);
    o.io = io;
    o.poll_interval = 500 * AFLOCK_MICROSECOND;
    ck_assert_int_eq(aflock_open_fd(&lock, scene, fd, &o), 0);
    return lock;
}

START_TEST(own_descriptor_is_locked_and_unlocked)
{
    scene_write("lock", "text");
    int fd = open("lock", O_RDONLY);
    char name[32];
    aflock *lock = open_own(fd, scene_io(_i));
    snprintf(name, sizeof name, "fd:%d", fd);
    ck_assert_str_eq(aflock_path(lock), name);
    aflock_req req = scene_hold(lock, NULL);
    ck_assert_int_eq(aflock_fd(lock, req), fd);
    ck_assert(!scene_is_free("lock", LOCK_SH));
    ck_assert_int_eq(aflock_verify(lock, req, scene_answer, NULL), AFLOCK_ENOTSUP);
    ck_assert_int_eq(scene_release(lock, req).result.status, 0);
    ck_assert(scene_is_free("lock", LOCK_EX));
    ck_assert_int_ne(fcntl(fd, F_GETFD), -1);

    pid_t pid = scene_holder("lock", O_RDWR, LOCK_EX);
    contended_once(lock, scene_options(0, 0));
    answer a = {0};
    ck_assert_int_eq(aflock_acquire(lock, NULL, scene_answer, &a, NULL), 0);
    scene_expect(1);
    scene_run_until(&scene_contended, 3);
    scene_holder_end(pid);
    scene_run_until(&a.count, 1);
    ck_assert_int_eq(a.result.status, 0);
    ck_assert_int_eq(a.result.fd, fd);
    ck_assert_int_eq(scene_release(lock, a.result.req).result.status, 0);

    ck_assert_int_eq(aflock_close(lock), 0);
    ck_assert_int_ne(fcntl(fd, F_GETFD), -1);
    ck_assert_int_eq(scene_size("lock"), 4);
    close(fd);
}
END_TEST

START_TEST(own_descriptor_keeps_its_lock_when_the_context_goes)
{
    scene_write("lock", "text");
    scene_free_context();
    int held = open("lock", O_RDONLY), idle = open("other", O_RDWR | O_CREAT, 0666);
    scene_make_context();
    aflock *lock = open_own(held, scene_io(_i)), *other = open_own(idle, scene_io(_i));
    scene_hold(lock, NULL);
    ck_assert_int_eq(scene_release(other, scene_hold(other, NULL)).result.status, 0);
    scene_free_context();
    ck_assert_int_ne(fcntl(held, F_GETFD), -1);
    ck_assert_int_ne(fcntl(idle, F_GETFD), -1);
    ck_assert(!scene_is_free("lock", LOCK_SH));
    close(held);
    ck_assert(scene_is_free("lock", LOCK_EX));
    close(idle);
    scene_make_context();
}
END_TEST

/* What a program with closed standard streams prints must not end in a locked file. */
START_TEST(no_lock_on_a_standard_stream)
{
    int saved = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3);
    aflock *lock = scene_open("lock", scene_io(_i));
    close(STDIN_FILENO);
    aflock_req req = scene_hold(lock, NULL);
    ck_assert_int_gt(aflock_fd(lock, req), 2);
    ck_assert_int_eq(fcntl(aflock_fd(lock, req), F_GETFD), FD_CLOEXEC);
    ck_assert(!scene_is_free("lock", LOCK_SH));
    ck_assert_int_eq(scene_release(lock, req).result.status, 0);
    ck_assert_int_eq(dup2(saved, STDIN_FILENO), STDIN_FILENO);
    close(saved);
}
END_TEST

/* A mistake of the caller's; the lock went with the descriptor, and the release must not be tried for ever. */
START_TEST(own_descriptor_closed_while_held)
{
    int fd = open("lock", O_RDWR | O_CREAT, 0666);
    aflock *lock = open_own(fd, scene_io(_i));
    aflock_req req = scene_hold(lock, NULL);
    close(fd);
    answer a = scene_release(lock, req);
    ck_assert_int_eq(a.result.status, 0);
    ck_assert_int_eq(a.result.cleanup_errno, EBADF);
    ck_assert(scene_is_free("lock", LOCK_EX));
}
END_TEST

START_TEST(own_descriptor_is_not_changed)
{
    scene_write("lock", "text");
    int fd = open("lock", O_RDWR);
    aflock *lock = open_own(fd, scene_io(_i));
    aflock_acquire_options o = scene_options(AFLOCK_TRUNCATE, 0);
    ck_assert_int_eq(aflock_acquire(lock, &o, scene_answer, NULL, NULL), AFLOCK_EINVAL);
    o = scene_options(0, 0);
    o.file_mode = 0600;
    ck_assert_int_eq(aflock_acquire(lock, &o, scene_answer, NULL, NULL), AFLOCK_EINVAL);

    struct wish w = {.answer = 42};
    o = wishing(&w);
    answer a = scene_acquire(lock, &o);
    ck_assert_int_eq(a.result.status, AFLOCK_EREFUSED);
    ck_assert(scene_is_free("lock", LOCK_EX)); /* rolled back */
    ck_assert_int_ne(fcntl(fd, F_GETFD), -1);
    close(fd);
}
END_TEST

START_TEST(own_descriptor_of_any_kind)
{
    int ends[2];
    ck_assert_int_eq(pipe(ends), 0); /* what flock(2) accepts */
    aflock *lock = open_own(ends[0], scene_io(_i));
    ck_assert_int_eq(scene_release(lock, scene_hold(lock, NULL)).result.status, 0);
    close(ends[0]);
    close(ends[1]);
}
END_TEST

START_TEST(own_descriptor_that_was_closed)
{
    int fd = open("lock", O_RDWR | O_CREAT, 0666);
    aflock *lock = open_own(fd, scene_io(_i));
    close(fd);
    answer a = scene_acquire(lock, NULL);
    ck_assert_int_eq(a.result.status, AFLOCK_ESYS);
    ck_assert_int_eq(a.result.sys_errno, EBADF);
}
END_TEST

/* ------------------------------------------------------------------------------------------------------------- modes
 */

START_TEST(shared_beside_shared)
{
    pid_t pid = scene_holder("lock", O_RDONLY | O_CREAT, LOCK_SH);
    aflock *lock = scene_open("lock", scene_io(_i));
    contended_once(lock, scene_options(0, 0));
    aflock_acquire_options o = scene_options(0, 0);
    o.mode = AFLOCK_SHARED;
    answer a = scene_acquire(lock, &o), b = scene_acquire(lock, &o);
    ck_assert_int_eq(a.result.status, 0);
    ck_assert_int_eq(b.result.status, 0);
    ck_assert_int_eq(a.result.mode, AFLOCK_SHARED);
    ck_assert_int_eq(b.result.attempts, 0); /* joined */
    scene_holder_end(pid);
    ck_assert(scene_is_free("lock", LOCK_SH));
    ck_assert(!scene_is_free("lock", LOCK_EX));
    ck_assert_int_eq(scene_release(lock, a.result.req).result.status, 0);
    ck_assert(!scene_is_free("lock", LOCK_EX));
    ck_assert_int_eq(scene_release(lock, b.result.req).result.status, 0);
    ck_assert(scene_is_free("lock", LOCK_EX));
}
END_TEST

/* ------------------------------------------------------------------------------------------------ verify and inspect
 */

static answer verify(aflock *lock, aflock_req req)
{
    answer a = {0};
    ck_assert_int_eq(aflock_verify(lock, req, scene_answer, &a), 0);
    scene_expect(1);
    ck_assert_int_eq(aflock_close(lock), AFLOCK_EBUSY);
    scene_run_until(&a.count, 1);
    ck_assert(a.result.req.id == req.id);
    return a;
}

START_TEST(verify_sees_a_replaced_file)
{
    aflock *lock = scene_open("a/lock", scene_io(_i));
    aflock_req req = scene_hold(lock, NULL);
    ck_assert_int_eq(verify(lock, req).result.status, 0);
    scene_write("new", "");
    ck_assert_int_eq(rename("a/lock", "old"), 0);
    ck_assert_int_eq(verify(lock, req).result.status, AFLOCK_EREPLACED);
    ck_assert_int_eq(rename("new", "a/lock"), 0);
    ck_assert_int_eq(verify(lock, req).result.status, AFLOCK_EREPLACED);
    ck_assert_int_eq(rename("old", "a/lock"), 0);
    ck_assert_int_eq(verify(lock, req).result.status, 0);
    ck_assert_int_eq(unlink("a/lock"), 0);
    ck_assert_int_eq(rmdir("a"), 0);
    ck_assert_int_eq(verify(lock, req).result.status, AFLOCK_EREPLACED);
    ck_assert_int_eq(scene_release(lock, req).result.status, 0);
    scene_must_work(lock);
}
END_TEST

START_TEST(verify_reports_what_the_look_up_met)
{
    aflock *lock = scene_open("lock", scene_io(_i));
    aflock_req req = scene_hold(lock, NULL);
    seam_fail(SEAM_STAT, 0, 1, EIO);
    answer a = verify(lock, req);
    ck_assert_int_eq(a.result.status, AFLOCK_ESYS);
    ck_assert_int_eq(a.result.sys_errno, EIO);
    ck_assert_str_eq(a.step, "stat");
    ck_assert_int_eq(scene_release(lock, req).result.status, 0);
}
END_TEST

START_TEST(verify_follows_links_if_the_hold_does)
{
    scene_write("target", "");
    scene_write("other", "");
    ck_assert_int_eq(symlink("target", "link"), 0);
    aflock *lock = scene_open("link", scene_io(_i));
    aflock_acquire_options o = scene_options(AFLOCK_FOLLOW, 0);
    aflock_req req = scene_hold(lock, &o);
    ck_assert_int_eq(verify(lock, req).result.status, 0);
    ck_assert_int_eq(unlink("link"), 0);
    ck_assert_int_eq(symlink("other", "link"), 0);
    ck_assert_int_eq(verify(lock, req).result.status, AFLOCK_EREPLACED);
    ck_assert_int_eq(scene_release(lock, req).result.status, 0);
}
END_TEST

struct inspection {
    int count;
    aflock_holder holder;
};

static void on_inspected(aflock *lock, const aflock_holder *holder, void *user)
{
    struct inspection *i = user;
    (void)lock;
    i->count++;
    i->holder = *holder;
}

static aflock_holder inspect(aflock *lock)
{
    struct inspection i = {0};
    ck_assert_int_eq(aflock_inspect(lock, on_inspected, &i), 0);
    scene_run_until(&i.count, 1);
    return i.holder;
}

/* The system lists all its locks in pieces, and programs that lock meanwhile make it repeat a line or leave one out. */
static aflock_holder inspect_until(aflock *lock, uint32_t count)
{
    aflock_holder h = inspect(lock);
    for (int i = 0; i < 100 && h.count != count; i++)
        h = inspect(lock);
    ck_assert_int_eq(h.status, 0);
    ck_assert_uint_eq(h.count, count);
    ck_assert_int_eq(h.held, count > 0);
    return h;
}

static void nobody_holds(aflock *lock)
{
    ck_assert_int_eq(inspect_until(lock, 0).pid, 0);
}

START_TEST(inspect_names_the_holder)
{
    aflock *lock = scene_open("a/lock", scene_io(_i));
    nobody_holds(lock); /* not even the folder is there */
    ck_assert_int_eq(scene_entries("."), 0);
    scene_must_work(lock);
    nobody_holds(lock);

    aflock_req req = scene_hold(lock, NULL);
    aflock_holder h = inspect_until(lock, 1);
    ck_assert_int_eq(h.pid, getpid());
    ck_assert_int_eq(h.mode, AFLOCK_EXCLUSIVE);
    ck_assert_int_eq(scene_release(lock, req).result.status, 0);

    pid_t one = scene_holder("a/lock", O_RDWR, LOCK_EX);
    h = inspect_until(lock, 1);
    ck_assert_int_eq(h.pid, one);
    ck_assert_int_eq(h.mode, AFLOCK_EXCLUSIVE);
    scene_holder_end(one);

    one = scene_holder("a/lock", O_RDWR, LOCK_SH);
    pid_t two = scene_holder("a/lock", O_RDWR, LOCK_SH);
    h = inspect_until(lock, 2);
    ck_assert(h.pid == one || h.pid == two);
    ck_assert_int_eq(h.mode, AFLOCK_SHARED);
    scene_holder_end(one);
    scene_holder_end(two);
    nobody_holds(lock);
}
END_TEST

START_TEST(inspect_asks_about_a_descriptor)
{
    int fd = open("lock", O_RDONLY | O_CREAT, 0666);
    aflock *lock = open_own(fd, scene_io(_i));
    nobody_holds(lock);
    pid_t pid = scene_holder("lock", O_RDWR, LOCK_EX);
    ck_assert_int_eq(inspect_until(lock, 1).pid, pid);
    scene_holder_end(pid);
    ck_assert_int_eq(aflock_close(lock), 0);
    close(fd);
}
END_TEST

START_TEST(inspect_of_a_record_lock)
{
    aflock *lock;
    aflock_options o;
    aflock_options_init(&o);
    o.io = scene_io(_i);
    o.protocol = AFLOCK_OFD;
    scene_write("lock", "");
    pid_t pid = scene_holder("lock", O_RDWR, LOCK_EX); /* another protocol: not seen */
    ck_assert_int_eq(aflock_open(&lock, scene, "lock", &o), 0);
    nobody_holds(lock);
    aflock_req req = scene_hold(lock, NULL);
    aflock_holder h = inspect_until(lock, 1);
    ck_assert_int_eq(h.pid, 0); /* the system does not tell */
    ck_assert_int_eq(scene_release(lock, req).result.status, 0);
    scene_holder_end(pid);
}
END_TEST

START_TEST(inspect_reports_what_it_met)
{
    scene_write("file", "");
    aflock *lock = scene_open("file/lock", scene_io(_i));
    aflock_holder h = inspect(lock);
    ck_assert_int_eq(h.status, AFLOCK_ENOTDIR);
    ck_assert_int_eq(h.sys_errno, ENOTDIR);
    ck_assert_int_eq(h.held, 0);
    lock = scene_open("file", scene_io(_i));
    seam_fail(SEAM_IDENTIFY, 0, 1, EIO);
    h = inspect(lock);
    ck_assert_int_eq(h.status, AFLOCK_ESYS);
    ck_assert_int_eq(h.sys_errno, EIO);
    const int guesses = scene_io(_i) == AFLOCK_IO_INLINE ? 0 : 2; /* of the device, on the way to the executor */
    seam_fail(SEAM_READ, 0, guesses + 2, EIO); /* of the mounts, which is done without, and of the locks */
    h = inspect(lock);
    ck_assert_int_eq(h.status, AFLOCK_ESYS);
    ck_assert_int_eq(h.sys_errno, EIO);
    nobody_holds(lock);
}
END_TEST

int main(void)
{
    const TTest *const each[] = {
        mode_follows_the_umask,
        mode_that_is_asked_for_is_set,
        mode_is_not_touched_without_the_lock,
        mode_of_somebody_elses_file,
        parents_are_made_and_stay,
        contents_are_left_alone,
        truncated_once_locked,
        an_empty_file_is_not_truncated,
        a_file_that_cannot_be_truncated,
        opened_for_writing_unless_read_only,
        read_only_can_create,
        each_waiter_gets_the_descriptor_it_asked_for,
        a_kept_descriptor_is_replaced_if_it_does_not_fit,
        follows_links_if_asked,
        locks_directories_if_asked,
        programs_inherit_the_lock_if_asked,
        programs_do_not_inherit_the_lock,
        on_acquired_runs_locked_where_attempts_run,
        on_acquired_comes_after_truncation,
        on_acquired_refuses,
        a_refusal_does_not_concern_the_next,
        a_failed_roll_back_is_reported_and_made_up_for,
        a_failed_close_is_ignored,
        a_failed_close_is_reported_if_asked,
        own_descriptor_is_locked_and_unlocked,
        own_descriptor_keeps_its_lock_when_the_context_goes,
        own_descriptor_is_not_changed,
        own_descriptor_of_any_kind,
        own_descriptor_that_was_closed,
        shared_beside_shared,
        verify_sees_a_replaced_file,
        verify_reports_what_the_look_up_met,
        verify_follows_links_if_the_hold_does,
        no_lock_on_a_standard_stream,
        own_descriptor_closed_while_held,
        inspect_names_the_holder,
        inspect_asks_about_a_descriptor,
        inspect_of_a_record_lock,
        inspect_reports_what_it_met,
        NULL,
    };
    return scene_main("native: options", NULL, each);
}
