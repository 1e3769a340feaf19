/* One instance of a program: what is on disk while the lock is held and after it, what others learn, what is taken over
 * and what is refused, calls that fail, and processes that are killed, fork, and execute programs. */
#include "support/marks.h"
#include "support/rivals.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static aflock_options pidfile_options(int io)
{
    aflock_options o;
    aflock_options_init(&o);
    o.protocol = AFLOCK_PIDFILE;
    o.io = scene_io(io);
    o.poll_interval = 500 * AFLOCK_MICROSECOND;
    return o;
}

static aflock *open_with(const aflock_options *o)
{
    aflock *lock;
    ck_assert_int_eq(aflock_open(&lock, scene, "d.pid", o), 0);
    return lock;
}

static aflock *open_pidfile(int io)
{
    const aflock_options o = pidfile_options(io);
    return open_with(&o);
}

/* The bytes, and no more. */
static void must_name(pid_t pid)
{
    char expected[32];
    snprintf(expected, sizeof expected, "%d", (int)pid);
    must_read("d.pid", expected);
    ck_assert_int_eq(scene_size("d.pid"), (long)strlen(expected));
}

static aflock_req hold(aflock *lock)
{
    aflock_req req = scene_hold(lock, NULL);
    must_name(getpid());
    ck_assert(!scene_is_free("d.pid.lock", LOCK_SH));
    ck_assert_int_eq(scene_entries("."), 2);
    return req;
}

static void let_go(aflock *lock, aflock_req req)
{
    answer a = scene_release(lock, req);
    ck_assert_int_eq(a.result.status, 0);
    ck_assert_int_eq(a.result.cleanup_errno, 0);
    ck_assert_int_eq(scene_entries("."), 0);
}

static void must_come_and_go(aflock *lock)
{
    let_go(lock, hold(lock));
}

/* Another process that holds it, by this library, until it is killed. */
static pid_t instance(uint32_t flags, void (*then)(void))
{
    int ready[2];
    char byte;
    ck_assert_int_eq(pipe2(ready, O_CLOEXEC), 0);
    pid_t pid = fork();
    ck_assert_int_ge(pid, 0);
    if (pid == 0) {
        scene = NULL;
        scene_make_context();
        aflock_acquire_options o = scene_options(flags, 0);
        if (scene_acquire(open_pidfile(AFLOCK_IO_POOL), &o).result.status != 0 || write(ready[1], "", 1) != 1)
            _exit(1);
        if (then)
            then();
        for (;;)
            pause();
    }
    close(ready[1]);
    ck_assert_int_eq(read(ready[0], &byte, 1), 1);
    close(ready[0]);
    return pid;
}

static void await_entries(int expected)
{
    for (int i = 0; i < 5000 && scene_entries(".") != expected; i++)
        usleep(1000);
    ck_assert_int_eq(scene_entries("."), expected);
}

/* Which of the two files the step failed on. */
static void must_blame(const answer *a, const char *name)
{
    char folder[PATH_MAX], expected[PATH_MAX + 64];
    ck_assert_ptr_nonnull(getcwd(folder, sizeof folder));
    snprintf(expected, sizeof expected, "%s/%s: %s failed", folder, name, a->step);
    ck_assert_str_eq(a->detail, expected);
    ck_assert_str_eq(strrchr(a->path, '/'), "/d.pid");
}

static void come_to_rest(void)
{
    while (aflock_epoll_alive(scene))
        ck_assert_int_eq(aflock_epoll_run_once(scene, AFLOCK_SECOND), 0);
}

/* ------------------------------------------------------------------------------------------------- what is on disk */

static char order[512];

static int note_call(seam_call call, int fd, const char *path)
{
    (void)fd;
    const char *name = path ? strrchr(path, '/') : NULL;
    if (call == SEAM_UNLINK || call == SEAM_UNLOCK || call == SEAM_LOCK || call == SEAM_SYNC || call == SEAM_WRITE ||
        call == SEAM_CREATE)
        snprintf(order + strlen(order), sizeof order - strlen(order), "%s%s ", seam_name(call), name ? name : "");
    return 0;
}

START_TEST(the_order_of_things)
{
    aflock *lock = open_pidfile(_i);
    must_come_and_go(lock);
    seam_judge_by(note_call, NULL);
    aflock_req req = hold(lock);
    ck_assert_str_eq(order, "create/d.pid.lock lock create/d.pid write fsync ");
    order[0] = '\0';
    let_go(lock, req);
    ck_assert_str_eq(order, "unlink/d.pid lock unlink/d.pid.lock unlock ");
    seam_judge_by(NULL, NULL);
}
END_TEST

START_TEST(the_loop_does_not_touch_the_disk)
{
    aflock *lock = open_pidfile(AFLOCK_IO_AUTO);
    must_come_and_go(lock);
    aflock_req req;
    seam_forget();
    ck_assert_int_eq(aflock_try(lock, NULL, &req, NULL), AFLOCK_ENOTINLINE);
    let_go(lock, hold(lock));
    seam_forget();
    req = scene_hold(lock, NULL);
    ck_assert_int_eq(scene_release(lock, req).result.status, 0);
    ck_assert_int_eq(seam_on_loop(SEAM_CREATE) + seam_on_loop(SEAM_UNLINK) + seam_on_loop(SEAM_LOCK), 0);
    ck_assert_int_gt(seam_count(SEAM_CREATE), 0);
}
END_TEST

START_TEST(modes)
{
    aflock *lock = open_pidfile(_i);
    aflock_acquire_options o = scene_options(0, 0);
    o.file_mode = 0604;
    const mode_t before = umask(077);
    aflock_req req = scene_hold(lock, &o);
    ck_assert_uint_eq(scene_mode("d.pid"), 0604);
    ck_assert_uint_eq(scene_mode("d.pid.lock"), 0604);
    let_go(lock, req);
    req = scene_hold(lock, NULL);
    ck_assert_uint_eq(scene_mode("d.pid"), 0600);
    let_go(lock, req);
    umask(before);
}
END_TEST

START_TEST(what_was_left_is_replaced)
{
    static const char *const LEFT[] = {"",   "\n",          "1",   "1 2",
                                       "-5", "99999999999", "pid", "a very long text, longer than all"};
    for (size_t i = 0; i < sizeof LEFT / sizeof LEFT[0]; i++) {
        aflock *lock = open_pidfile(_i);
        scene_write("d.pid", LEFT[i]);
        scene_write("d.pid.lock", i % 2 ? "something" : "");
        must_come_and_go(lock);
        ck_assert_int_eq(aflock_close(lock), 0);
    }
}
END_TEST

/* Who had linked something there keeps what it is linked to. */
START_TEST(nothing_is_written_through_links)
{
    aflock *lock = open_pidfile(_i);
    scene_write("precious", "text");
    ck_assert_int_eq(link("precious", "d.pid"), 0);
    aflock_req req = scene_hold(lock, NULL);
    must_read("precious", "text");
    ck_assert_int_eq(scene_release(lock, req).result.status, 0);
    ck_assert_int_eq(scene_entries("."), 1);
    ck_assert_int_eq(symlink("precious", "d.pid"), 0);
    answer a = scene_acquire(lock, NULL);
    ck_assert_int_eq(a.result.status, AFLOCK_ELOOP);
    must_blame(&a, "d.pid");
    ck_assert_int_eq(symlink("precious", "d.pid.lock"), 0);
    a = scene_acquire(lock, NULL);
    ck_assert_int_eq(a.result.status, AFLOCK_ELOOP);
    must_blame(&a, "d.pid.lock");
    must_read("precious", "text");
    ck_assert_int_eq(scene_entries("."), 3);
}
END_TEST

static void make_node(int kind)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "d.pid"};
    if (kind == 0) {
        ck_assert_int_eq(mkdir("d.pid", 0777), 0);
    } else if (kind == 1) {
        ck_assert_int_eq(mkfifo("d.pid", 0666), 0);
    } else {
        int fd = socket(AF_UNIX, SOCK_STREAM, 0);
        ck_assert_int_eq(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
        close(fd);
    }
}

START_TEST(what_is_no_file_is_refused)
{
    static const int STATUS[] = {AFLOCK_EISDIR, AFLOCK_ENOTFILE, AFLOCK_ENOTFILE};
    aflock *lock = open_pidfile(_i);
    for (int kind = 0; kind < 3; kind++) {
        make_node(kind);
        answer a = scene_acquire(lock, NULL);
        ck_assert_int_eq(a.result.status, STATUS[kind]);
        ck_assert_str_eq(a.step, "open");
        ck_assert_int_eq(scene_entries("."), 1); /* it is still there, and the lock file is not */
        ck_assert_int_eq(kind == 0 ? rmdir("d.pid") : unlink("d.pid"), 0);
        ck_assert_int_eq(mkfifo("d.pid.lock", 0666), 0);
        ck_assert_int_eq(scene_acquire(lock, NULL).result.status, AFLOCK_ENOTFILE);
        ck_assert_int_eq(unlink("d.pid.lock"), 0);
    }
    must_come_and_go(lock);
}
END_TEST

START_TEST(what_others_put_there_stays)
{
    aflock *lock = open_pidfile(_i);
    aflock_req req = hold(lock);
    ck_assert_int_eq(rename("d.pid", "moved"), 0);
    scene_write("d.pid", "theirs");
    ck_assert_int_eq(scene_release(lock, req).result.status, 0);
    must_read("d.pid", "theirs");
    ck_assert_int_eq(scene_entries("."), 2);
    ck_assert_int_eq(unlink("moved"), 0);
    must_come_and_go(lock);
}
END_TEST

/* Another one's file may get the number that ours had, when somebody has removed that. */
START_TEST(what_names_another_process_stays)
{
    static const char *const TEXTS[] = {"1", ""};
    for (int i = 0; i < 2; i++) {
        aflock *lock = open_pidfile(_i);
        answer a = scene_acquire(lock, NULL);
        ck_assert_int_eq(a.result.status, 0);
        scene_write("d.pid", TEXTS[i]);
        ck_assert_int_eq(scene_release(lock, a.result.req).result.status, 0);
        ck_assert_int_eq(access("d.pid", F_OK), 0);
        ck_assert_int_eq(unlink("d.pid"), 0);
        ck_assert_int_eq(scene_entries("."), 0);
        ck_assert_int_eq(aflock_close(lock), 0);
    }
}
END_TEST

START_TEST(what_cannot_be_removed_stays)
{
    aflock *lock = open_pidfile(_i);
    for (int which = 0; which < 2; which++) {
        aflock_req req = hold(lock);
        seam_fail(SEAM_UNLINK, which, 1, EROFS);
        answer a = scene_release(lock, req);
        ck_assert_int_eq(a.result.status, 0);
        ck_assert_int_eq(a.result.cleanup_errno, EROFS);
        ck_assert_int_eq(scene_entries("."), 1);
        must_come_and_go(lock);
    }
}
END_TEST

START_TEST(what_cannot_be_released_is_held_as_before)
{
    aflock *lock = open_pidfile(_i);
    aflock_req req = hold(lock);
    seam_fail(SEAM_UNLINK, 1, 1, EIO);
    seam_fail(SEAM_UNLOCK, 0, 1, EIO);
    answer a = scene_release(lock, req);
    ck_assert_int_eq(a.result.status, AFLOCK_ESYS);
    must_blame(&a, "d.pid.lock");
    must_name(getpid());
    ck_assert(!scene_is_free("d.pid.lock", LOCK_SH));
    let_go(lock, req);
}
END_TEST

START_TEST(it_goes_with_the_context)
{
    hold(open_pidfile(_i));
    scene_free_context();
    ck_assert_int_eq(scene_entries("."), 0);
}
END_TEST

START_TEST(it_goes_after_the_context)
{
    answer a = {0};
    aflock *lock = open_pidfile(AFLOCK_IO_POOL);
    must_come_and_go(lock); /* where the path leads is known */
    seam_hang(SEAM_WRITE, "d.pid");
    scene_expect(1);
    ck_assert_int_eq(aflock_acquire(lock, NULL, scene_answer, &a, NULL), 0);
    seam_await_hung(1);
    aflock_ctx_free(scene, 0);
    scene = NULL;
    ck_assert_int_eq(a.result.status, AFLOCK_ECLOSED);
    ck_assert_int_eq(scene_entries("."), 2);
    seam_resume();
    await_entries(0);
}
END_TEST

/* ------------------------------------------------------------------------------------------------ what others learn */

START_TEST(who_comes_second_learns_whose_it_is)
{
    pid_t other = instance(0, NULL);
    aflock *lock = open_pidfile(_i);
    aflock_acquire_options o = scene_options(0, 0);
    o.timeout = 0;
    answer a = scene_acquire(lock, &o);
    ck_assert_int_eq(a.result.status, AFLOCK_EWOULDBLOCK);
    ck_assert_int_eq(a.result.pid, other);
    o.timeout = 20 * AFLOCK_MILLISECOND;
    a = scene_acquire(lock, &o);
    ck_assert_int_eq(a.result.status, AFLOCK_ETIMEDOUT);
    ck_assert_int_eq(a.result.pid, other);
    sight s = look(lock);
    ck_assert_int_eq(s.holder.status, 0);
    ck_assert_int_eq(s.holder.held, 1);
    ck_assert_int_eq(s.holder.pid, other);
    ck_assert_int_eq(s.holder.here, 1);
    ck_assert_int_eq(s.holder.gone, 0);
    ck_assert_int_eq(s.holder.record, AFLOCK_RECORD_PID);
    must_name(other);
    scene_holder_end(other);
    s = look(lock);
    ck_assert_int_eq(s.holder.held, 0);
    ck_assert_int_eq(s.holder.pid, other);
    ck_assert_int_eq(s.holder.gone, 1);
    a = scene_acquire(lock, NULL);
    ck_assert_int_eq(a.result.status, 0);
    ck_assert_int_eq(a.result.pid, 0);
    must_name(getpid());
    let_go(lock, a.result.req);
    s = look(lock);
    ck_assert_int_eq(s.holder.held, 0);
    ck_assert_int_eq(s.holder.pid, 0);
    ck_assert_int_eq(s.holder.record, AFLOCK_RECORD_NONE);
}
END_TEST

START_TEST(who_waits_behind_ourselves_learns_that)
{
    aflock *lock = open_pidfile(_i);
    aflock_req req = hold(lock);
    aflock_acquire_options o = scene_options(0, 0);
    o.timeout = 5 * AFLOCK_MILLISECOND;
    answer a = scene_acquire(lock, &o);
    ck_assert_int_eq(a.result.status, AFLOCK_ETIMEDOUT);
    ck_assert_int_eq(a.result.pid, getpid());
    let_go(lock, req);
}
END_TEST

/* Written by hand, as by the peer; and what is no pid, or that of nobody. */
START_TEST(what_the_file_may_say)
{
    const struct {
        const char *text;
        pid_t pid;
        aflock_record record;
        bool gone;
    } says[] = {{"1", 1, AFLOCK_RECORD_PID, false},
                {" 1\r\n", 1, AFLOCK_RECORD_PID, false},
                {"2147483647", 0, AFLOCK_RECORD_PID, true},
                {"2147483648", 0, AFLOCK_RECORD_MALFORMED, false},
                {"0", 0, AFLOCK_RECORD_MALFORMED, false},
                {"-1", 0, AFLOCK_RECORD_MALFORMED, false},
                {"1 1", 0, AFLOCK_RECORD_MALFORMED, false},
                {"00000000000000000000000000001", 0, AFLOCK_RECORD_MALFORMED, false},
                {"", 0, AFLOCK_RECORD_EMPTY, false}};
    pid_t other = scene_holder("d.pid.lock", O_RDWR | O_CREAT, LOCK_EX);
    aflock *lock = open_pidfile(_i);
    aflock_acquire_options o = scene_options(0, 0);
    o.timeout = 0;
    ck_assert_int_eq(scene_acquire(lock, &o).result.pid, 0); /* there is no such file yet */
    for (size_t i = 0; i < sizeof says / sizeof says[0]; i++) {
        scene_write("d.pid", says[i].text);
        answer a = scene_acquire(lock, &o);
        ck_assert_int_eq(a.result.status, AFLOCK_EWOULDBLOCK);
        ck_assert_int_eq(a.result.pid, says[i].pid);
        sight s = look(lock);
        ck_assert_int_eq(s.holder.held, 1);
        ck_assert_int_eq(s.holder.record, (int)says[i].record);
        ck_assert_int_eq(s.holder.gone, says[i].gone);
    }
    ck_assert_int_eq(unlink("d.pid"), 0);
    ck_assert_int_eq(mkfifo("d.pid", 0666), 0);
    alarm(60); /* who waits for a writer waits for ever */
    ck_assert_int_eq(scene_acquire(lock, &o).result.pid, 0);
    ck_assert_int_eq(look(lock).holder.record, AFLOCK_RECORD_NONE);
    alarm(0);
    ck_assert_int_eq(unlink("d.pid"), 0);
    scene_holder_end(other);
    must_come_and_go(lock);
}
END_TEST

START_TEST(verified)
{
    answer a = {0};
    aflock *lock = open_pidfile(_i);
    aflock_req req = hold(lock);
    for (int i = 0; i < 2; i++) {
        scene_expect(1);
        ck_assert_int_eq(aflock_verify(lock, req, scene_answer, &a), 0);
        scene_run_until(&a.count, i + 1);
        ck_assert_int_eq(a.result.status, i ? AFLOCK_EREPLACED : 0);
        if (i == 1)
            ck_assert_ptr_nonnull(strstr(a.detail, "/d.pid.lock: it was removed or replaced"));
        else
            ck_assert_int_eq(unlink("d.pid.lock"), 0);
    }
    let_go(lock, req);
}
END_TEST

START_TEST(questions_that_fail)
{
    answer a = {0};
    aflock *lock = open_pidfile(AFLOCK_IO_POOL);
    aflock_req req = hold(lock);
    seam_fail(SEAM_STAT, 0, 1, EIO);
    scene_expect(1);
    ck_assert_int_eq(aflock_verify(lock, req, scene_answer, &a), 0);
    scene_run_until(&a.count, 1);
    ck_assert_int_eq(a.result.status, AFLOCK_ESYS);
    must_blame(&a, "d.pid.lock");
    let_go(lock, req);
}
END_TEST

/* --------------------------------------------------------------------------------------------------------- waiting */

static const aflock_wait WAITS[] = {AFLOCK_WAIT_NOTIFY, AFLOCK_WAIT_POLL, AFLOCK_WAIT_PARK};

START_TEST(who_waits_takes_over)
{
    for (size_t i = 0; i < sizeof WAITS / sizeof WAITS[0]; i++) {
        answer a = {0};
        pid_t other = instance(0, NULL);
        aflock_options o = pidfile_options(_i);
        o.wait = WAITS[i];
        if (o.wait == AFLOCK_WAIT_NOTIFY)
            o.poll_interval = AFLOCK_FOREVER;
        aflock *lock = open_with(&o);
        scene_expect(1);
        ck_assert_int_eq(aflock_acquire(lock, NULL, scene_answer, &a, NULL), 0);
        for (int turn = 0; turn < 20; turn++)
            ck_assert_int_eq(aflock_epoll_run_once(scene, AFLOCK_MILLISECOND), 0);
        ck_assert_int_eq(a.count, 0);
        scene_holder_end(other);
        scene_run_until(&a.count, 1);
        ck_assert_int_eq(a.result.status, 0);
        must_name(getpid());
        let_go(lock, a.result.req);
        ck_assert_int_eq(aflock_close(lock), 0);
    }
}
END_TEST

START_TEST(a_thread_that_comes_late_leaves_nothing)
{
    pid_t other = instance(0, NULL);
    aflock_options o = pidfile_options(AFLOCK_IO_AUTO);
    o.wait = AFLOCK_WAIT_PARK;
    aflock *lock = open_with(&o);
    answer a = {0};
    aflock_req req;
    scene_expect(1);
    ck_assert_int_eq(aflock_acquire(lock, NULL, scene_answer, &a, &req), 0);
    scene_await_blocked("d.pid.lock");
    ck_assert_int_eq(aflock_cancel(lock, req), 0);
    scene_run_until(&a.count, 1);
    ck_assert_int_eq(a.result.status, AFLOCK_ECANCELED);
    ck_assert_int_eq(a.result.pid, 0);
    scene_holder_end(other);
    await_entries(1); /* the dead one's pid: the lock file is gone with the thread */
    ck_assert_int_eq(scene_size("d.pid.lock"), -1);
    must_come_and_go(lock);
}
END_TEST

/* The pid is the same: nothing is written. */
START_TEST(handed_on)
{
    answer a = {0};
    aflock *lock = open_pidfile(_i);
    aflock_req req = hold(lock);
    scene_hand_on_for_ever();
    scene_expect(1);
    ck_assert_int_eq(aflock_acquire(lock, NULL, scene_answer, &a, NULL), 0);
    seam_forget();
    ck_assert_int_eq(aflock_release(lock, req, NULL, NULL), 0);
    scene_run_until(&a.count, 1);
    ck_assert_int_eq(seam_total(), 0);
    must_name(getpid());
    let_go(lock, a.result.req);
}
END_TEST

/* ------------------------------------------------------------------------------------------------------ what fails */

/* Each call of a cycle fails, once. Nothing is left, nothing is open, and the lock works. */
START_TEST(each_call_fails)
{
    static const seam_call CALLS[] = {SEAM_OPEN, SEAM_CREATE, SEAM_LOCK,   SEAM_FSTAT,  SEAM_STAT, SEAM_WRITE,
                                      SEAM_SYNC, SEAM_UNLINK, SEAM_UNLOCK, SEAM_FCHMOD, SEAM_CLOSE};
    static const int ERRORS[] = {EIO, ENOSPC, EACCES, EINTR, EINVAL};
    aflock *lock = open_pidfile(_i);
    must_come_and_go(lock);
    const int descriptors = scene_descriptors();
    int failures = 0;
    for (size_t c = 0; c < sizeof CALLS / sizeof CALLS[0]; c++) {
        for (size_t e = 0; e < sizeof ERRORS / sizeof ERRORS[0]; e++) {
            for (int after = 0; after < 4; after++) {
                scene_write("d.pid", "12345678");
                aflock_acquire_options o = scene_options(0, 0);
                o.timeout = 0;
                o.file_mode = 0644;
                seam_fail(CALLS[c], after, 1, ERRORS[e]);
                answer a = scene_acquire(lock, &o);
                if (a.result.status == 0)
                    must_name(getpid());
                else if (scene_size("d.pid") >= 0)
                    must_read("d.pid", "12345678"); /* never a part of another */
                failures += a.result.status != 0;
                while (a.result.status == 0 && scene_release(lock, a.result.req).result.status != 0)
                    ;
                seam_fail(CALLS[c], 0, 0, 0);
                scene_await_descriptors(descriptors);
                ck_assert_int_eq(aflock_depth(lock, NULL), 0);
                must_come_and_go(lock);
            }
        }
    }
    ck_assert_int_gt(failures, 40);
}
END_TEST

/* The path of the lock is that of the pid file, whichever of the two it is about. */
static void fails_at(aflock *lock, seam_call call, int error, int status, const char *step, const char *name)
{
    seam_fail(call, 0, 1, error);
    answer a = scene_acquire(lock, NULL);
    ck_assert_int_eq(a.result.status, status);
    ck_assert_int_eq(a.result.sys_errno, error);
    ck_assert_str_eq(a.step, step);
    must_blame(&a, name);
}

START_TEST(what_is_said)
{
    aflock *lock = open_pidfile(_i);
    must_come_and_go(lock);
    fails_at(lock, SEAM_LOCK, ENOLCK, AFLOCK_ESYS, "flock", "d.pid.lock");
    must_come_and_go(lock);
    fails_at(lock, SEAM_WRITE, ENOSPC, AFLOCK_ENOSPC, "write", "d.pid");
    fails_at(lock, SEAM_SYNC, EIO, AFLOCK_ESYS, "fsync", "d.pid");
    fails_at(lock, SEAM_SYNC, EDQUOT, AFLOCK_ENOSPC, "fsync", "d.pid");
    fails_at(lock, SEAM_CREATE, EROFS, AFLOCK_EROFS, "open", "d.pid.lock");
    ck_assert_int_eq(scene_entries("."), 0);
    seam_fail(SEAM_SYNC, 0, 1, EINVAL);
    must_come_and_go(lock);
    seam_fail(SEAM_SYNC, 0, 1, ENOTSUP);
    must_come_and_go(lock);
    seam_fail(SEAM_FSTAT, 1, 1, EIO); /* of the pid file: not even then it stays */
    ck_assert_int_eq(scene_acquire(lock, NULL).result.status, AFLOCK_ESYS);
    ck_assert_int_eq(scene_entries("."), 0);
    seam_fail(SEAM_CREATE, 1, 1, EACCES);
    answer a = scene_acquire(lock, NULL);
    ck_assert_int_eq(a.result.status, AFLOCK_EACCES);
    must_blame(&a, "d.pid");
    ck_assert_int_eq(scene_entries("."), 0);
}
END_TEST

START_TEST(what_is_refused)
{
    char name[300];
    aflock *lock = open_pidfile(_i), *other;
    aflock_options o = pidfile_options(_i);
    o.keep_open = 1;
    ck_assert_int_eq(aflock_open(&other, scene, "other", &o), AFLOCK_EINVAL);
    o = pidfile_options(_i);
    ck_assert_int_eq(aflock_open_fd(&other, scene, 0, &o), AFLOCK_EINVAL);
    ck_assert_int_eq(aflock_open(&other, scene, "/", &o), AFLOCK_EISDIR);
    ck_assert_int_eq(aflock_open(&other, scene, "..", &o), AFLOCK_EISDIR);
    memset(name, 'x', sizeof name);
    name[251] = '\0';
    ck_assert_int_eq(aflock_open(&other, scene, name, &o), AFLOCK_ENAMETOOLONG);
    name[250] = '\0';
    ck_assert_int_eq(aflock_open(&other, scene, name, &o), 0);
    ck_assert_int_eq(scene_release(other, scene_hold(other, NULL)).result.status, 0);
    o.lifetime = 1;
    ck_assert_int_eq(aflock_open(&other, scene, "other", &o), AFLOCK_EINVAL);
    o = pidfile_options(_i);
    o.protocol = AFLOCK_NATIVE;
    ck_assert_int_eq(aflock_open(&other, scene, "d.pid", &o), AFLOCK_EMISMATCH);
    const uint32_t wrong[] = {AFLOCK_READ_ONLY, AFLOCK_FOLLOW, AFLOCK_DIRECTORY,
                              AFLOCK_TRUNCATE,  AFLOCK_APPEND, AFLOCK_REWIND};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        aflock_acquire_options a = scene_options(wrong[i], 0);
        ck_assert_int_eq(aflock_acquire(lock, &a, scene_answer, NULL, NULL), AFLOCK_EINVAL);
    }
    aflock_acquire_options a = scene_options(0, AFLOCK_CREATE);
    ck_assert_int_eq(aflock_acquire(lock, &a, scene_answer, NULL, NULL), AFLOCK_EINVAL);
    a = scene_options(0, 0);
    a.mode = AFLOCK_SHARED;
    ck_assert_int_eq(aflock_acquire(lock, &a, scene_answer, NULL, NULL), AFLOCK_ENOTSUP);
    ck_assert_int_eq(aflock_break(lock, scene_answer, NULL), AFLOCK_ENOTSUP);
}
END_TEST

/* --------------------------------------------------------------------------------------------------- other processes
 */

/* A child shares the lock until it abandons the context. */
START_TEST(forked_later)
{
    int gate[2], status;
    char byte;
    ck_assert_int_eq(pipe(gate), 0);
    aflock *lock = open_pidfile(AFLOCK_IO_POOL);
    aflock_req req = hold(lock);
    pid_t pid = fork();
    ck_assert_int_ge(pid, 0);
    if (pid == 0) {
        close(gate[1]);
        _exit(read(gate[0], &byte, 1) == 0 && aflock_ctx_abandon(scene) == 0 ? 0 : 1);
    }
    must_name(getpid());
    let_go(lock, req); /* the unlock counts for the child, too */
    hold(lock);
    close(gate[1]);
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ck_assert_int_eq(status, 0);
    ck_assert(!scene_is_free("d.pid.lock", LOCK_SH)); /* and abandoning takes nothing away */
    must_name(getpid());
    close(gate[0]);
}
END_TEST

static void leave_it_to_a_child(void)
{
    pid_t pid = fork();
    if (pid == 0)
        for (;;)
            pause();
    scene_write("child", "");
    dprintf(open("child", O_WRONLY | O_CLOEXEC), "%d", (int)pid);
    kill(getpid(), SIGKILL);
}

/* A daemon that forks after it has acquired: the child has the lock, and the file names the parent. */
START_TEST(a_child_that_outlives_its_parent_holds_it)
{
    char text[16] = "";
    int status;
    pid_t parent = instance(0, leave_it_to_a_child);
    ck_assert_int_eq(waitpid(parent, &status, 0), parent);
    int fd = open("child", O_RDONLY | O_CLOEXEC);
    ck_assert_int_gt(read(fd, text, sizeof text - 1), 0);
    close(fd);
    ck_assert_int_eq(unlink("child"), 0);
    aflock *lock = open_pidfile(_i);
    aflock_acquire_options o = scene_options(0, 0);
    o.timeout = 0;
    answer a = scene_acquire(lock, &o);
    ck_assert_int_eq(a.result.status, AFLOCK_EWOULDBLOCK);
    ck_assert_int_eq(a.result.pid, 0); /* nobody has it */
    sight s = look(lock);
    ck_assert_int_eq(s.holder.held, 1);
    ck_assert_int_eq(s.holder.pid, parent);
    ck_assert_int_eq(s.holder.gone, 1);
    ck_assert_int_eq(kill(atoi(text), SIGKILL), 0);
    must_come_and_go(lock);
}
END_TEST

static void become_a_program(void)
{
    execl("/bin/sleep", "sleep", "600", NULL);
    _exit(1);
}

START_TEST(executed_programs)
{
    aflock *lock = open_pidfile(_i);
    aflock_acquire_options o = scene_options(0, 0);
    o.timeout = 0;
    pid_t pid = instance(AFLOCK_INHERIT, become_a_program);
    char exe[64] = "", link[64];
    snprintf(link, sizeof link, "/proc/%d/exe", (int)pid);
    for (int i = 0; i < 5000 && !strstr(exe, "sleep") && !strstr(exe, "coreutils"); i++) {
        usleep(1000);
        ck_assert_int_gt(readlink(link, exe, sizeof exe - 1), 0);
    }
    answer a = scene_acquire(lock, &o);
    ck_assert_int_eq(a.result.status, AFLOCK_EWOULDBLOCK);
    ck_assert_int_eq(a.result.pid, pid);
    scene_holder_end(pid);
    pid = instance(0, become_a_program); /* without: free at once */
    ck_assert_int_eq(scene_acquire(lock, NULL).result.status, 0);
    must_name(getpid());
    scene_free_context();
    ck_assert_int_eq(scene_entries("."), 0);
    scene_holder_end(pid);
}
END_TEST

enum { KILLS = 80, PATIENCE_S = 80 };

static aflock *open_as_rival(int self)
{
    aflock_options o = pidfile_options(self % SCENE_IO_COUNT);
    o.wait = WAITS[self / 2];
    o.poll_interval = 2 * AFLOCK_MILLISECOND;
    return open_with(&o);
}

static bool names_me(void)
{
    char text[32] = "";
    int fd = open("d.pid", O_RDONLY | O_CLOEXEC);
    const bool is = fd >= 0 && read(fd, text, sizeof text - 1) > 0 && atoi(text) == getpid();
    close(fd);
    return is;
}

START_TEST(holders_are_killed)
{
    const rivals six = {.count = 6,
                        .patience_s = PATIENCE_S,
                        .hold_us = 100,
                        .others_us = 100,
                        .open = open_as_rival,
                        .agrees = names_me};
    rivals_begin(&six);
    rivals_await(10);
    const int held = rivals_kill(KILLS);
    rivals_end();
    ck_assert_int_ge(held, KILLS / 8);
    must_come_and_go(open_pidfile(AFLOCK_IO_INLINE));
    come_to_rest();
}
END_TEST

int main(void)
{
    const TTest *const once[] = {the_loop_does_not_touch_the_disk,
                                 questions_that_fail,
                                 it_goes_after_the_context,
                                 a_thread_that_comes_late_leaves_nothing,
                                 forked_later,
                                 holders_are_killed,
                                 NULL};
    const TTest *const each[] = {the_order_of_things,
                                 modes,
                                 what_was_left_is_replaced,
                                 nothing_is_written_through_links,
                                 what_is_no_file_is_refused,
                                 what_others_put_there_stays,
                                 what_names_another_process_stays,
                                 what_cannot_be_removed_stays,
                                 what_cannot_be_released_is_held_as_before,
                                 it_goes_with_the_context,
                                 who_comes_second_learns_whose_it_is,
                                 who_waits_behind_ourselves_learns_that,
                                 what_the_file_may_say,
                                 verified,
                                 who_waits_takes_over,
                                 handed_on,
                                 each_call_fails,
                                 what_is_said,
                                 what_is_refused,
                                 a_child_that_outlives_its_parent_holds_it,
                                 executed_programs,
                                 NULL};
    return scene_main_within(4 * PATIENCE_S, "pidfile", once, each);
}
