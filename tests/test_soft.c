/* Soft locks on real files: what a marker says and who breaks it, every call that fails, and processes that contend and
 * are killed. Others' markers are written by hand. Nothing is polled unless a test says so: who is not woken waits
 * until the watchdog barks. */
#include "runtime/runtime.h"
#include "support/rivals.h"
#include "support/soft_scene.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static bool named; /* files must have names: markers can be left empty */

/* ------------------------------------------------------------------------------------------------------- the marker */

START_TEST(what_is_written)
{
    aflock *lock = open_soft(_i);
    umask(027);
    answer a = scene_acquire(lock, NULL);
    ck_assert_int_eq(a.result.status, 0);
    ck_assert_int_eq(a.result.fd, -1);
    ck_assert_int_eq(aflock_fd(lock, a.result.req), AFLOCK_ENOTSUP);
    must_be_ours_soft("lock");
    ck_assert_uint_eq(scene_mode("lock"), 0640);
    must_release(lock, a.result.req);
    aflock_acquire_options o = scene_options(0, 0);
    o.file_mode = 0600;
    a = scene_acquire(lock, &o);
    ck_assert_uint_eq(scene_mode("lock"), 0600);
    ck_assert_int_eq(seam_count(SEAM_FCHMOD), 0);
    must_release(lock, a.result.req);
    ck_assert_int_eq(scene_entries("."), 0);
}
END_TEST

/* Who we are is found out once. */
START_TEST(what_is_read_once)
{
    aflock *lock = open_soft(_i);
    must_get_soft(lock);
    const int before = seam_count(SEAM_READ);
    aflock_req req = must_hold_soft(lock);
    must_release(lock, req);
    ck_assert_int_eq(seam_count(SEAM_READ), before);
}
END_TEST

START_TEST(parents_are_made)
{
    aflock_options o = soft_options(_i);
    aflock *lock;
    ck_assert_int_eq(aflock_open(&lock, scene, "a/b/lock", &o), 0);
    answer a = scene_acquire(lock, NULL);
    ck_assert_int_eq(a.result.status, 0);
    must_be_ours_soft("a/b/lock");
    must_release(lock, a.result.req);
    ck_assert_int_eq(scene_entries("a/b"), 0);
}
END_TEST

START_TEST(handed_on)
{
    answer a = {0}, b = {0};
    aflock *lock = open_soft(_i);
    ck_assert_int_eq(aflock_acquire(lock, NULL, scene_answer, &a, NULL), 0);
    ck_assert_int_eq(aflock_acquire(lock, NULL, scene_answer, &b, NULL), 0);
    scene_expect(2);
    scene_run_until(&a.count, 1);
    ck_assert_int_eq(aflock_release(lock, a.result.req, NULL, NULL), 0);
    scene_run_until(&b.count, 1);
    ck_assert_int_eq(b.result.status, 0);
    ck_assert_int_eq(seam_count(SEAM_UNLINK), 0);
    ck_assert_int_eq(seam_count(SEAM_LINK) + seam_count(SEAM_CREATE), 1);
    must_release(lock, b.result.req);
    ck_assert_int_eq(scene_entries("."), 0);
}
END_TEST

/* The next one of the queue does not get what was lost meanwhile. */
START_TEST(what_was_lost_is_not_handed_on)
{
    answer a = {0}, b = {0};
    pid_t other = sleeper();
    aflock *lock = open_soft(_i);
    aflock_req req = must_hold_soft(lock);
    ck_assert_int_eq(aflock_verify(lock, req, scene_answer, &a), 0);
    scene_expect(1);
    scene_run_until(&a.count, 1);
    ck_assert_int_eq(a.result.status, 0);
    ck_assert_int_eq(unlink("lock"), 0);
    mark("lock", other);
    ck_assert_int_eq(aflock_verify(lock, req, scene_answer, &a), 0);
    scene_expect(1);
    scene_run_until(&a.count, 2);
    ck_assert_int_eq(a.result.status, AFLOCK_EREPLACED);
    must_release(lock, req); /* somebody else's is not unlinked */
    ck_assert_int_eq(scene_entries("."), 1);
    wait_for(lock, &b);
    ck_assert_int_eq(b.count, 0);
    ck_assert_int_eq(unlink("lock"), 0);
    must_be_woken(lock, &b);
    scene_holder_end(other);
}
END_TEST

START_TEST(timeout_zero)
{
    aflock *lock = open_soft(_i);
    pid_t other = sleeper();
    mark("lock", other);
    ck_assert_int_eq(try_for(lock, 0).result.status, AFLOCK_EWOULDBLOCK);
    scene_holder_end(other);
    ck_assert_int_eq(try_for(lock, 0).result.status, AFLOCK_EWOULDBLOCK); /* it breaks the marker, and no more */
    answer a = try_for(lock, 0);
    ck_assert_int_eq(a.result.status, 0);
    must_release(lock, a.result.req);
}
END_TEST

START_TEST(tried_on_the_spot)
{
    aflock_req req;
    aflock_result r;
    aflock *lock = open_soft(_i);
    const int status = aflock_try(lock, NULL, &req, &r);
    if (scene_io(_i) != AFLOCK_IO_INLINE) {
        ck_assert_int_eq(status, AFLOCK_ENOTINLINE);
        return;
    }
    ck_assert_int_eq(status, 0);
    ck_assert_int_eq(r.fd, -1);
    must_be_ours_soft("lock");
    must_release(lock, req);
    mark("lock", getppid());
    ck_assert_int_eq(aflock_try(lock, NULL, &req, &r), AFLOCK_EWOULDBLOCK);
}
END_TEST

/* ----------------------------------------------------------------------------------------------------- who is broken
 */

START_TEST(the_dead)
{
    mark_without_token("lock", dead_pid(), host_name());
    must_get_soft(open_soft(_i));
}
END_TEST

/* The pid is that of a later process. */
START_TEST(who_had_the_pid_before)
{
    char text[1024];
    record_of(getpid(), text, sizeof text);
    char *last = strchr(text, '\0') - 2;
    *last = *last == '1' ? '2' : '1';
    scene_write("lock", text);
    must_get_soft(open_soft(_i));
}
END_TEST

START_TEST(not_the_living)
{
    aflock *lock = open_soft(_i);
    pid_t other = sleeper();
    mark("lock", other);
    make_older("lock", 1000000);
    must_respect(lock);
    mark_without_token("lock", other, host_name());
    must_respect(lock);
    scene_holder_end(other);
    must_get_soft(lock);
}
END_TEST

START_TEST(not_those_of_another_host)
{
    aflock *lock = open_soft(_i);
    mark_without_token("lock", dead_pid(), "elsewhere.example");
    make_older("lock", 1000000);
    must_respect(lock);
    mark_without_token("lock", dead_pid(), "");
    must_respect(lock);
}
END_TEST

START_TEST(not_the_sentinel)
{
    aflock_options o = soft_options(_i);
    o.lifetime = AFLOCK_SECOND;
    o.break_empty = 1;
    scene_write("lock", "1\nfilelock-strict-v1\0\n0\n");
    int fd = open("lock", O_WRONLY | O_TRUNC | O_CLOEXEC);
    ck_assert_int_eq(write(fd, "1\nfilelock-strict-v1\0\n0\n", 24), 24);
    close(fd);
    make_older("lock", 1000000);
    must_respect(open_soft_with(&o));
}
END_TEST

START_TEST(not_a_lease_that_lives)
{
    char text[1024];
    aflock *lock = open_soft(_i);
    pid_t other = sleeper();
    static const char *const FORMAT = "filelock/2\npid=%d\nhost=%s\nmode=%s\ntoken=%032d\nduration=1\n";
    snprintf(text, sizeof text, FORMAT, (int)other, host_name(), "lease", 7);
    scene_write("lock", text);
    make_older("lock", 1000000);
    must_respect(lock);
    scene_holder_end(other);
    must_get_soft(lock);
    snprintf(text, sizeof text, FORMAT, (int)other, host_name(), "unheard-of", 7);
    scene_write("lock", text);
    make_older("lock", 1000000);
    must_respect(lock);
}
END_TEST

START_TEST(the_empty_only_if_asked)
{
    aflock_options o = soft_options(_i);
    aflock *lock = open_soft_with(&o);
    scene_write("lock", "");
    make_older("lock", 1000000);
    must_respect(lock);
    o.break_empty = 1;
    lock = open_soft_with(&o);
    make_older("lock", 0);
    must_respect(lock);
    make_older("lock", 2);
    must_get_soft(lock);
}
END_TEST

START_TEST(what_is_no_record)
{
    static const char *const texts[] = {"x", "1\n", "0\nhost\n", "1\nhost\n2\n3\n", "\n\n"};
    aflock *lock = open_soft(_i);
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        scene_write("lock", texts[i]);
        must_respect(lock);
        make_older("lock", -1000000); /* the clock was set back */
        must_respect(lock);
        make_older("lock", 2);
        must_get_soft(lock);
    }
}
END_TEST

/* It is waited for as long as it takes, and broken then. */
START_TEST(what_becomes_old_meanwhile)
{
    scene_write("lock", "x");
    make_older("lock", 1);
    must_get_soft(open_soft(_i));
}
END_TEST

START_TEST(what_exceeds_its_lifetime)
{
    aflock_options o = soft_options(_i);
    o.lifetime = 60 * AFLOCK_SECOND;
    aflock *lock = open_soft_with(&o);
    ck_assert_int_eq(scene_logged, 1);
    pid_t other = sleeper();
    mark("lock", other);
    make_older("lock", 30);
    must_respect(lock);
    make_older("lock", 60);
    must_get_soft(lock);
    scene_write("lock", "");
    make_older("lock", 60);
    must_get_soft(lock);
    scene_holder_end(other);
    o.protocol = AFLOCK_NATIVE;
    ck_assert_int_eq(aflock_open(&lock, scene, "other", &o), AFLOCK_EINVAL);
}
END_TEST

static void make_socket(const char *path)
{
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    snprintf(at.sun_path, sizeof at.sun_path, "%s", path);
    ck_assert_int_eq(bind(fd, (struct sockaddr *)&at, sizeof at), 0);
    close(fd);
}

START_TEST(what_is_no_file)
{
    aflock *lock = open_soft(_i);
    for (int kind = 0; kind < 4; kind++) {
        if (kind == 0)
            ck_assert_int_eq(mkfifo("lock", 0666), 0);
        if (kind == 1)
            make_socket("lock");
        if (kind > 1)
            ck_assert_int_eq(symlink(kind == 2 ? "/etc/passwd" : "nowhere", "lock"), 0);
        make_older("lock", 60); /* as old as it may be */
        answer a = scene_acquire(lock, NULL);
        ck_assert_int_eq(a.result.status, kind > 1 ? AFLOCK_ELOOP : AFLOCK_ENOTFILE);
        ck_assert_str_eq(a.step, "open");
        ck_assert_int_eq(scene_entries("."), 1);
        ck_assert_int_eq(unlink("lock"), 0);
    }
    ck_assert_int_gt(scene_size("/etc/passwd"), 0);
    must_get_soft(lock);
}
END_TEST

START_TEST(what_cannot_be_a_marker)
{
    aflock *lock = open_soft(_i);
    ck_assert_int_eq(mkdir("lock", 0777), 0);
    ck_assert_int_eq(scene_acquire(lock, NULL).result.status, AFLOCK_EISDIR);
    ck_assert_int_eq(rmdir("lock"), 0);
    mark_without_token("lock", dead_pid(), host_name());
    ck_assert_int_eq(chmod("lock", 0444), 0);
    answer a = scene_acquire(lock, NULL);
    ck_assert_int_eq(a.result.status, AFLOCK_EACCES);
    ck_assert_str_eq(a.step, "open");
    ck_assert_int_eq(chmod("lock", 0222), 0);
    must_get_soft(lock);
}
END_TEST

/* ------------------------------------------------------------------------------------------------------ who is woken
 */

START_TEST(by_the_unlink)
{
    answer a = {0};
    aflock *lock = open_soft(_i);
    pid_t other = sleeper();
    mark("lock", other);
    wait_for(lock, &a);
    ck_assert_int_eq(unlink("lock"), 0);
    must_be_woken(lock, &a);
    scene_holder_end(other);
    ck_assert_int_eq(scene_logged, 0);
}
END_TEST

START_TEST(by_death)
{
    answer a = {0};
    aflock *lock = open_soft(_i);
    pid_t other = sleeper();
    mark("lock", other);
    wait_for(lock, &a);
    scene_holder_end(other);
    must_be_woken(lock, &a);
}
END_TEST

/* The process has ended, and its parent takes its time: few looks, and no loop that turns and turns. */
START_TEST(by_one_that_is_not_waited_for)
{
    answer a = {0};
    struct timespec now;
    aflock *lock = open_soft(_i);
    pid_t other = sleeper();
    mark("lock", other);
    wait_for(lock, &a);
    const int contended = scene_contended;
    ck_assert_int_eq(clock_gettime(CLOCK_MONOTONIC, &now), 0);
    const long long began = now.tv_sec * 1000LL + now.tv_nsec / 1000000;
    ck_assert_int_eq(kill(other, SIGKILL), 0);
    scene_run_until(&scene_contended, contended + 12);
    ck_assert_int_eq(clock_gettime(CLOCK_MONOTONIC, &now), 0);
    ck_assert_int_ge(now.tv_sec * 1000LL + now.tv_nsec / 1000000 - began, 3 * 50);
    ck_assert_int_eq(a.count, 0);
    ck_assert_int_eq(waitpid(other, NULL, 0), other);
    must_be_woken(lock, &a);
}
END_TEST

/* That one holder has ended says nothing about the next: he is listened to, not polled. */
START_TEST(by_the_death_of_the_next)
{
    answer a = {0};
    aflock *lock = open_soft(_i);
    pid_t first = sleeper(), second = sleeper();
    mark("lock", first);
    wait_for(lock, &a);
    mark("new", second);
    const int contended = scene_contended;
    ck_assert_int_eq(kill(first, SIGKILL), 0);
    scene_run_until(&scene_contended, contended + 2);
    ck_assert_int_eq(rename("new", "lock"), 0);
    ck_assert_int_eq(waitpid(first, NULL, 0), first);
    const int before = seam_count(SEAM_PIDFD);
    while (seam_count(SEAM_PIDFD) == before)
        ck_assert_int_eq(aflock_epoll_run_once(scene, AFLOCK_SECOND), 0);
    for (int i = 0; i < 20; i++) /* what is under way comes to its end */
        ck_assert_int_eq(aflock_epoll_run_once(scene, 10 * AFLOCK_MILLISECOND), 0);
    const int settled = scene_contended;
    for (int i = 0; i < 30; i++)
        ck_assert_int_eq(aflock_epoll_run_once(scene, 10 * AFLOCK_MILLISECOND), 0);
    ck_assert_int_eq(scene_contended, settled);
    scene_holder_end(second);
    must_be_woken(lock, &a);
}
END_TEST

/* No descriptor for the process: it is looked at again. */
START_TEST(by_a_death_that_nobody_tells)
{
    answer a = {0};
    aflock *lock = open_soft(_i);
    pid_t other = sleeper();
    seam_fail(SEAM_PIDFD, 0, 1000000, EMFILE);
    mark("lock", other);
    wait_for(lock, &a);
    scene_holder_end(other);
    must_be_woken(lock, &a);
}
END_TEST

static int refuse_watch(void *self, aflock_watch *watch)
{
    (void)self, (void)watch;
    return -1;
}

static void watch_nothing(void *self, aflock_watch *watch)
{
    (void)self, (void)watch;
    ck_abort_msg("nothing was watched");
}

START_TEST(by_a_death_that_the_loop_does_not_watch)
{
    answer a = {0};
    aflock_loop deaf = *scene->loop;
    const aflock_loop *loop = scene->loop;
    deaf.watch = refuse_watch;
    deaf.unwatch = watch_nothing;
    aflock *lock = open_soft(_i);
    pid_t other = sleeper();
    mark("lock", other);
    scene->loop = &deaf;
    wait_for(lock, &a);
    scene_holder_end(other);
    scene_run_until(&a.count, 1);
    scene->loop = loop;
    must_be_woken(lock, &a);
}
END_TEST

/* Made and written in one tick of the clock: the record is not taken for the empty file that was read before. */
START_TEST(by_the_death_of_a_slow_writer)
{
    answer a = {0};
    struct stat made;
    aflock *lock = open_soft(_i);
    pid_t other = sleeper();
    scene_write("lock", "");
    ck_assert_int_eq(lstat("lock", &made), 0);
    wait_for(lock, &a);
    mark("lock", other);
    const struct timespec times[2] = {made.st_atim, made.st_mtim};
    ck_assert_int_eq(utimensat(AT_FDCWD, "lock", times, 0), 0);
    scene_holder_end(other);
    must_be_woken(lock, &a);
}
END_TEST

START_TEST(a_record_is_read_once)
{
    answer a = {0};
    aflock_options o = soft_options(_i);
    o.wait = AFLOCK_WAIT_POLL;
    o.poll_interval = AFLOCK_MILLISECOND;
    aflock *lock = open_soft_with(&o);
    pid_t other = sleeper();
    mark("lock", other);
    wait_for(lock, &a);
    const int contended = scene_contended, reads = seam_count(SEAM_READ);
    scene_run_until(&scene_contended, contended + 20);
    ck_assert_int_eq(seam_count(SEAM_READ), reads);
    scene_holder_end(other);
    must_be_woken(lock, &a);
}
END_TEST

START_TEST(a_cancelled_wait_keeps_nothing)
{
    answer a = {0};
    aflock *lock = open_soft(_i);
    pid_t other = sleeper();
    mark("lock", other);
    aflock_req req;
    scene_run_until(&scene_contended, 0);
    ck_assert_int_eq(aflock_acquire(lock, NULL, scene_answer, &a, &req), 0);
    scene_expect(1);
    scene_run_until(&scene_contended, 2);
    const int open = scene_descriptors();
    ck_assert_int_eq(aflock_cancel(lock, req), 0);
    scene_run_until(&a.count, 1);
    ck_assert_int_eq(a.result.status, AFLOCK_ECANCELED);
    while (aflock_epoll_alive(scene))
        ck_assert_int_eq(aflock_epoll_run_once(scene, AFLOCK_SECOND), 0);
    scene_await_descriptors(open - 3); /* the marker, the process, and our marker, which has no name yet */
    must_respect(lock);
    scene_holder_end(other);
}
END_TEST

/* ------------------------------------------------------------------------------------------------- two who break it */

/* Somebody has broken it after it was judged, and holds it now. */
START_TEST(what_was_broken_is_not_broken_again)
{
    answer a = {0};
    aflock *lock = open_soft(_i);
    newcomer = sleeper();
    mark_without_token("lock", dead_pid(), host_name());
    seam_before(SEAM_LOCK, replace_it);
    ck_assert_int_eq(aflock_acquire(lock, NULL, scene_answer, &a, NULL), 0);
    scene_expect(1);
    scene_run_until(&scene_contended, 2);
    ck_assert_int_eq(seam_count(SEAM_RENAME), 0);
    char text[1024];
    record_of(newcomer, text, sizeof text);
    must_read("lock", text);
    scene_holder_end(newcomer);
    must_be_woken(lock, &a);
}
END_TEST

START_TEST(one_breaks_at_a_time)
{
    answer a = {0};
    aflock *lock = open_soft(_i);
    mark_without_token("lock", dead_pid(), host_name());
    int fd = open("lock", O_RDONLY | O_CLOEXEC);
    ck_assert_int_eq(flock(fd, LOCK_EX), 0);
    wait_for(lock, &a);
    ck_assert_int_eq(seam_count(SEAM_RENAME), 0);
    close(fd);
    must_be_woken(lock, &a);
    ck_assert_int_eq(scene_entries("."), 0);
}
END_TEST

START_TEST(without_kernel_locks_too)
{
    seam_fail(SEAM_LOCK, 0, 1000, ENOLCK);
    mark_without_token("lock", dead_pid(), host_name());
    must_get_soft(open_soft(_i));
}
END_TEST

/* In the last moment: whoever was put aside in error is left where he is. */
START_TEST(who_was_put_aside_in_error)
{
    aflock *lock = open_soft(_i);
    newcomer = sleeper();
    mark_without_token("lock", dead_pid(), host_name());
    seam_before(SEAM_RENAME, replace_it);
    aflock_req req = must_hold_soft(lock);
    ck_assert_int_eq(scene_entries("."), 2);
    must_release(lock, req);
    ck_assert_int_eq(scene_entries("."), 1);
    scene_holder_end(newcomer);
}
END_TEST

/* ------------------------------------------------------------------------------------------------------ what fails */

/* What cannot be judged is held, and looked at again. */
START_TEST(it_cannot_be_judged)
{
    static const struct {
        seam_call call;
        int error;
    } cases[] = {{SEAM_OPEN, EACCES},  {SEAM_OPEN, ESTALE},  {SEAM_OPEN, EMFILE},   {SEAM_FSTAT, ESTALE},
                 {SEAM_READ, EIO},     {SEAM_STAT, ESTALE},  {SEAM_RENAME, EACCES}, {SEAM_RENAME, ENAMETOOLONG},
                 {SEAM_RENAME, EINTR}, {SEAM_RANDOM, ENOSYS}};
    aflock *lock = open_soft(_i);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        answer a = {0};
        mark_without_token("lock", dead_pid(), host_name());
        if (cases[i].call == SEAM_RANDOM)
            seam_fail(SEAM_RANDOM, 0, 1000000, cases[i].error);
        else
            make_fail(cases[i].call, cases[i].error);
        wait_for(lock, &a);
        const int before = scene_contended;
        for (int turn = 0; turn < 10; turn++)
            ck_assert_int_eq(aflock_epoll_run_once(scene, 10 * AFLOCK_MILLISECOND), 0);
        ck_assert_int_le(scene_contended - before, 10); /* no loop that turns and turns */
        ck_assert_int_eq(a.count, 0);
        ck_assert_int_eq(scene_entries("."), 1);
        make_fail(SEAM_CALLS, 0);
        seam_fail(SEAM_RANDOM, 0, 0, 0);
        must_be_woken(lock, &a);
        ck_assert_int_eq(scene_entries("."), 0);
    }
}
END_TEST

/* Somebody was listened to before: his end is not enough any more. */
START_TEST(it_cannot_be_found_for_a_while)
{
    answer a = {0};
    aflock *lock = open_soft(_i);
    pid_t other = sleeper();
    mark("lock", other);
    wait_for(lock, &a);
    const int contended = scene_contended;
    make_fail(SEAM_STAT, ESTALE);
    scene_holder_end(other);
    scene_run_until(&scene_contended, contended + 10);
    make_fail(SEAM_CALLS, 0);
    must_be_woken(lock, &a);
}
END_TEST

START_TEST(interrupted_calls_are_repeated)
{
    static const seam_call calls[] = {SEAM_TMPFILE, SEAM_LINK,   SEAM_FSTAT, SEAM_STAT,
                                      SEAM_WRITE,   SEAM_UNLINK, SEAM_READ};
    aflock *lock = open_soft(_i);
    for (size_t i = 0; i < sizeof calls / sizeof calls[0]; i++) {
        mark_without_token("lock", dead_pid(), host_name());
        seam_fail(calls[i], 0, 1, EINTR);
        must_get_soft(lock);
    }
}
END_TEST

START_TEST(a_release_that_fails)
{
    static const seam_call calls[] = {SEAM_UNLINK, SEAM_STAT};
    aflock *lock = open_soft(_i);
    for (size_t i = 0; i < 2; i++) {
        aflock_req req = must_hold_soft(lock);
        make_fail(calls[i], EIO);
        answer a = scene_release(lock, req);
        make_fail(SEAM_CALLS, 0);
        ck_assert_int_eq(a.result.status, AFLOCK_ESYS);
        ck_assert_int_eq(a.result.sys_errno, EIO);
        ck_assert_str_eq(a.step, "unlink");
        must_be_ours_soft("lock");
        must_release(lock, req);
        ck_assert_int_eq(scene_entries("."), 0);
    }
}
END_TEST

/* ----------------------------------------------------------------------------------------- looking and taking away */

START_TEST(who_holds_it)
{
    aflock *lock = open_soft(_i);
    ck_assert_int_eq(look(lock).holder.held, 0);
    aflock_req req = must_hold_soft(lock);
    sight s = look(lock);
    ck_assert(s.holder.held == 1 && s.holder.pid == getpid() && s.holder.here == 1 && s.holder.gone == 0);
    ck_assert_str_eq(s.host, host_name());
    must_release(lock, req);
    pid_t gone = dead_pid();
    mark_without_token("lock", gone, host_name());
    make_older("lock", 100);
    s = look(lock);
    ck_assert(s.holder.held == 1 && s.holder.pid == gone && s.holder.here == 1 && s.holder.gone == 1);
    ck_assert_uint_ge(s.holder.age, 100 * AFLOCK_SECOND);
    mark_without_token("lock", gone, "elsewhere.example");
    s = look(lock);
    ck_assert(s.holder.held == 1 && s.holder.pid == gone && s.holder.here == 0 && s.holder.gone == 0);
    ck_assert_str_eq(s.host, "elsewhere.example");
    scene_write("lock", "");
    s = look(lock);
    ck_assert(s.holder.held == 1 && s.holder.pid == 0 && s.holder.gone == 0);
    ck_assert_str_eq(s.host, "");
}
END_TEST

static int status_of_break(aflock *lock)
{
    answer a = {0};
    ck_assert_int_eq(aflock_break(lock, scene_answer, &a), 0);
    scene_expect(1);
    scene_run_until(&a.count, 1);
    ck_assert_int_eq(scene_entries("."), 1);
    return a.result.status;
}

/* What is no marker stays, whoever asks. */
START_TEST(not_taken_away)
{
    aflock *lock = open_soft(_i);
    ck_assert_int_eq(mkdir("lock", 0777), 0);
    ck_assert_int_eq(status_of_break(lock), AFLOCK_EPROTO);
    ck_assert_int_eq(rmdir("lock"), 0);
    ck_assert_int_eq(symlink("nowhere", "lock"), 0);
    ck_assert_int_eq(status_of_break(lock), AFLOCK_EPROTO);
    ck_assert_int_eq(unlink("lock"), 0);
    int fd = open("lock", O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    ck_assert_int_eq(write(fd, "1\nfilelock-strict-v1\0\n0\n", 24), 24);
    ck_assert_int_eq(status_of_break(lock), AFLOCK_EPROTO);
    ck_assert_int_eq(ftruncate(fd, 0), 0);
    ck_assert_int_eq(flock(fd, LOCK_SH), 0);
    ck_assert_int_eq(status_of_break(lock), AFLOCK_EBUSY);
    ck_assert_int_eq(unlink("lock"), 0);
    close(fd);
}
END_TEST

START_TEST(taken_away)
{
    answer a = {0};
    aflock *lock = open_soft(_i), *native;
    mark("lock", getppid());
    ck_assert_int_eq(aflock_break(lock, NULL, NULL), AFLOCK_EINVAL);
    for (int i = 0; i < 2; i++) { /* the second time there is none */
        ck_assert_int_eq(aflock_break(lock, scene_answer, &a), 0);
        scene_expect(1);
        scene_run_until(&a.count, i + 1);
        ck_assert_int_eq(a.result.status, 0);
        ck_assert_int_eq(scene_entries("."), 0);
    }
    mark("lock", getppid());
    make_fail(SEAM_RENAME, EACCES);
    ck_assert_int_eq(aflock_break(lock, scene_answer, &a), 0);
    scene_expect(1);
    scene_run_until(&a.count, 3);
    make_fail(SEAM_CALLS, 0);
    ck_assert_int_eq(a.result.status, AFLOCK_EACCES);
    ck_assert_str_eq(a.step, "rename");
    ck_assert_int_eq(aflock_open(&native, scene, "native", NULL), 0);
    ck_assert_int_eq(aflock_break(native, scene_answer, NULL), AFLOCK_ENOTSUP);
}
END_TEST

/* --------------------------------------------------------------------------------------------------------- arguments
 */

static int accept_all(int fd, void *user)
{
    (void)fd, (void)user;
    return 0;
}

START_TEST(what_means_nothing_here)
{
    static const uint32_t flags[] = {AFLOCK_READ_ONLY, AFLOCK_FOLLOW, AFLOCK_DIRECTORY, AFLOCK_INHERIT,
                                     AFLOCK_TRUNCATE};
    aflock *lock = open_soft(_i), *other;
    aflock_acquire_options o;
    for (size_t i = 0; i < sizeof flags / sizeof flags[0]; i++) {
        o = scene_options(flags[i], 0);
        ck_assert_int_eq(aflock_acquire(lock, &o, scene_answer, NULL, NULL), AFLOCK_EINVAL);
    }
    o = scene_options(0, AFLOCK_CREATE);
    ck_assert_int_eq(aflock_acquire(lock, &o, scene_answer, NULL, NULL), AFLOCK_EINVAL);
    o = scene_options(0, 0), o.file_mode = 0444;
    ck_assert_int_eq(aflock_acquire(lock, &o, scene_answer, NULL, NULL), AFLOCK_EINVAL);
    o = scene_options(0, 0), o.mode = AFLOCK_SHARED;
    ck_assert_int_eq(aflock_acquire(lock, &o, scene_answer, NULL, NULL), AFLOCK_ENOTSUP);
    o = scene_options(0, 0), o.on_acquired = accept_all;
    ck_assert_int_eq(aflock_acquire(lock, &o, scene_answer, NULL, NULL), AFLOCK_ENOTSUP);
    aflock_options p = soft_options(_i);
    ck_assert_int_eq(aflock_open_fd(&other, scene, 0, &p), AFLOCK_EINVAL);
    p.protocol = AFLOCK_NATIVE;
    ck_assert_int_eq(aflock_open(&other, scene, "lock", &p), AFLOCK_EMISMATCH);
    static const aflock_protocol MARKERS[] = {AFLOCK_SOFT, AFLOCK_LEASE, AFLOCK_STRICT, AFLOCK_SOFT_RW};
    static const char *const nameless[] = {"/", "//", "..", "folder/..", "/.."};
    for (size_t i = 0; i < sizeof MARKERS / sizeof MARKERS[0]; i++) {
        p.protocol = MARKERS[i];
        for (size_t n = 0; n < sizeof nameless / sizeof nameless[0]; n++)
            ck_assert_int_eq(aflock_open(&other, scene, nameless[n], &p), AFLOCK_EISDIR);
        ck_assert_int_eq(aflock_open(&other, scene, "..name", &p), 0);
        ck_assert_int_eq(aflock_close(other), 0);
    }
    ck_assert_int_eq(scene_entries("."), 0);
    must_get_soft(lock);
}
END_TEST

/* The name of what is put aside has to fit, too. */
START_TEST(long_names)
{
    char name[202];
    aflock *lock;
    aflock_options o = soft_options(_i);
    memset(name, 'n', sizeof name);
    name[201] = '\0';
    ck_assert_int_eq(aflock_open(&lock, scene, name, &o), AFLOCK_ENAMETOOLONG);
    name[200] = '\0';
    ck_assert_int_eq(aflock_open(&lock, scene, name, &o), 0);
    mark_without_token(name, dead_pid(), host_name());
    answer a = scene_acquire(lock, NULL);
    ck_assert_int_eq(a.result.status, 0);
    must_be_ours_soft(name);
    must_release(lock, a.result.req);
    ck_assert_int_eq(scene_entries("."), 0);
}
END_TEST

/* ------------------------------------------------------------------------------------------- contexts and processes */

START_TEST(the_context_goes)
{
    for (int grace = 0; grace < 2; grace++) {
        aflock_ctx *ctx;
        aflock *lock;
        answer a = {0}, b = {0};
        pid_t other = sleeper();
        aflock_options o = soft_options(_i);
        ck_assert_int_eq(aflock_epoll_new(&ctx, NULL), 0);
        ck_assert_int_eq(aflock_open(&lock, ctx, "lock", &o), 0);
        ck_assert_int_eq(aflock_acquire(lock, NULL, scene_answer, &a, NULL), 0);
        while (a.count == 0)
            ck_assert_int_eq(aflock_epoll_run_once(ctx, AFLOCK_SECOND), 0);
        mark("other", other);
        ck_assert_int_eq(aflock_open(&lock, ctx, "other", &o), 0);
        ck_assert_int_eq(aflock_acquire(lock, NULL, scene_answer, &b, NULL), 0);
        scene_expect(2);
        for (int i = 0; i < 10; i++)
            ck_assert_int_eq(aflock_epoll_run_once(ctx, AFLOCK_MILLISECOND), 0);
        ck_assert_int_ge(aflock_ctx_free(ctx, (uint64_t)grace * 5 * AFLOCK_SECOND), 0);
        ck_assert_int_eq(b.result.status, AFLOCK_ECLOSED);
        scene_await(access("lock", F_OK) != 0); /* a worker does it */
        ck_assert_int_eq(access("other", F_OK), 0);
        ck_assert_int_eq(unlink("other"), 0);
        scene_holder_end(other);
    }
}
END_TEST

static void leave_it_to_the_parent(void)
{
    ck_assert_int_eq(aflock_ctx_abandon(scene), 0);
    scene = NULL;
    char link[64], target[PATH_MAX];
    for (int fd = 0; fd < 64; fd++) {
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        ssize_t n = readlink(link, target, sizeof target - 1);
        target[n < 0 ? 0 : n] = '\0';
        ck_assert_msg(strncmp(target, scene_directory, strlen(scene_directory)) != 0 && !strstr(target, "pidfd"),
                      "%s is left", target);
    }
}

START_TEST(a_child_abandons)
{
    answer a = {0};
    aflock *lock = open_soft(_i);
    aflock_req req = must_hold_soft(lock);
    scene_in_child(leave_it_to_the_parent);
    must_be_ours_soft("lock");
    must_release(lock, req);
    pid_t other = sleeper();
    mark("lock", other);
    wait_for(lock, &a);
    scene_in_child(leave_it_to_the_parent);
    scene_holder_end(other);
    must_be_woken(lock, &a);
}
END_TEST

static void print_into_nothing(void)
{
    scene = NULL;
    scene_make_context();
    if (named)
        seam_fail(SEAM_TMPFILE, 0, 1, EOPNOTSUPP);
    aflock *lock = open_soft(AFLOCK_IO_INLINE);
    for (int fd = 0; fd < 3; fd++)
        close(fd);
    aflock_req req = must_hold_soft(lock);
    for (int fd = 0; fd < 3; fd++) {
        ck_assert_int_eq(fcntl(fd, F_GETFD), -1);
        ck_assert_int_eq(write(fd, "x", 1), -1);
    }
    must_be_ours_soft("lock");
    must_release(lock, req);
    answer a = {0};
    mark("lock", getppid());
    wait_for(lock, &a);
    for (int fd = 0; fd < 3; fd++)
        ck_assert_int_eq(fcntl(fd, F_GETFD), -1);
}

START_TEST(no_standard_stream)
{
    (void)_i;
    for (int i = 0; i < 2; i++) {
        named = i;
        scene_in_child(print_into_nothing);
        ck_assert_int_eq(unlink("lock"), 0);
    }
}
END_TEST

/* python3-filelock of Debian: its markers are empty, and it takes any marker for a holder. */
static int python(const char *code, pid_t *running)
{
    int status;
    const char *interpreter = getenv("PYTHON");
    pid_t pid = fork();
    ck_assert_int_ge(pid, 0);
    if (pid == 0) {
        execlp(interpreter ? interpreter : "/usr/bin/python3", "python3", "-c", code, (char *)NULL);
        _exit(2);
    }
    if (running) {
        *running = pid;
        return 0;
    }
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

START_TEST(python_waits_for_us)
{
    static const char *const code = "import filelock, sys\n"
                                    "try:\n"
                                    "    with filelock.SoftFileLock('lock', timeout=0.1): sys.exit(0)\n"
                                    "except filelock.Timeout: sys.exit(7)\n";
    aflock *lock = open_soft(_i);
    aflock_req req = must_hold_soft(lock);
    ck_assert_int_eq(python(code, NULL), 7);
    must_release(lock, req);
    ck_assert_int_eq(python(code, NULL), 0);
    must_get_soft(lock);
}
END_TEST

START_TEST(we_wait_for_python)
{
    static const char *const code = "import filelock, os, time\n"
                                    "lock = filelock.SoftFileLock('lock')\n"
                                    "lock.acquire()\n"
                                    "while not os.path.exists('go'): time.sleep(0.01)\n"
                                    "lock.release()\n";
    answer a = {0};
    pid_t other;
    int status;
    aflock *lock = open_soft(_i);
    python(code, &other);
    scene_await(access("lock", F_OK) == 0);
    wait_for(lock, &a);
    ck_assert_int_eq(a.count, 0);
    scene_write("go", "");
    must_be_woken(lock, &a);
    ck_assert_int_eq(waitpid(other, &status, 0), other);
    ck_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}
END_TEST

/* -------------------------------------------------------------------------------------------------------- the storm */

enum { KILLS = 200 };

static aflock *open_as_rival(int self)
{
    (void)self;
    aflock_options o = soft_options(AFLOCK_IO_INLINE);
    o.break_empty = named;
    if (named)
        seam_fail(SEAM_TMPFILE, 0, 1, EOPNOTSUPP);
    return open_soft_with(&o);
}

static void kill_holders(void)
{
    const rivals four = {.count = 4, .patience_s = 30, .hold_us = 200, .others_us = 1000, .open = open_as_rival};
    rivals_begin(&four);
    rivals_await(1);
    const int held = rivals_kill(KILLS);
    rivals_await(1);
    rivals_end();
    printf("%d kills, %d of them of holders\n", KILLS, held);
    ck_assert_int_ge(held, KILLS / 4);
}

START_TEST(holders_are_killed)
{
    (void)_i;
    kill_holders();
}
END_TEST

START_TEST(holders_are_killed_where_files_have_names)
{
    (void)_i;
    named = true;
    kill_holders();
}
END_TEST

int main(void)
{
    const TTest *const once[] = {no_standard_stream, holders_are_killed, holders_are_killed_where_files_have_names,
                                 NULL};
    const TTest *const each[] = {what_is_written,
                                 what_is_read_once,
                                 parents_are_made,
                                 handed_on,
                                 what_was_lost_is_not_handed_on,
                                 timeout_zero,
                                 tried_on_the_spot,
                                 the_dead,
                                 who_had_the_pid_before,
                                 not_the_living,
                                 not_those_of_another_host,
                                 not_the_sentinel,
                                 not_a_lease_that_lives,
                                 the_empty_only_if_asked,
                                 what_is_no_record,
                                 what_becomes_old_meanwhile,
                                 what_exceeds_its_lifetime,
                                 what_is_no_file,
                                 what_cannot_be_a_marker,
                                 by_the_unlink,
                                 by_death,
                                 by_one_that_is_not_waited_for,
                                 by_the_death_of_the_next,
                                 by_a_death_that_nobody_tells,
                                 by_a_death_that_the_loop_does_not_watch,
                                 by_the_death_of_a_slow_writer,
                                 a_record_is_read_once,
                                 a_cancelled_wait_keeps_nothing,
                                 what_was_broken_is_not_broken_again,
                                 one_breaks_at_a_time,
                                 without_kernel_locks_too,
                                 who_was_put_aside_in_error,
                                 it_cannot_be_judged,
                                 it_cannot_be_found_for_a_while,
                                 interrupted_calls_are_repeated,
                                 a_release_that_fails,
                                 who_holds_it,
                                 not_taken_away,
                                 taken_away,
                                 what_means_nothing_here,
                                 long_names,
                                 the_context_goes,
                                 a_child_abandons,
                                 python_waits_for_us,
                                 we_wait_for_python,
                                 NULL};
    return scene_main("soft", once, each);
}
