/* aflock_options.soft_fallback: where the file system has no flock (the seam says ENOSYS) markers are used instead, and
 * nothing is taken away that somebody else has put at the path; where it has, nothing is different.
 */
#include "runtime/runtime.h"
#include "support/soft_scene.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { ALWAYS = 1000000 };

static aflock_options fallback_options(int io)
{
    aflock_options o = soft_options(io);
    o.protocol = AFLOCK_NATIVE;
    o.soft_fallback = 1;
    return o;
}

static aflock *open_fallback(int io)
{
    const aflock_options o = fallback_options(io);
    return open_soft_with(&o);
}

static void let_flock_be_unknown(void)
{
    seam_fail(SEAM_LOCK, 0, ALWAYS, ENOSYS);
}

/* ------------------------------------------------------------------------------------------------------- the switch */

START_TEST(without_it_the_option_is_named)
{
    aflock *lock = scene_open("lock", scene_io(_i));
    let_flock_be_unknown();
    for (int i = 0; i < 2; i++) {
        answer a = scene_acquire(lock, NULL);
        ck_assert_int_eq(a.result.status, AFLOCK_ENOTSUP);
        ck_assert_int_eq(a.result.sys_errno, ENOSYS);
        ck_assert_str_eq(a.step, "flock");
        ck_assert_int_eq(scene_logged, 1);
    }
    ck_assert_ptr_nonnull(strstr(scene_message, "soft_fallback"));
    ck_assert_ptr_nonnull(strstr(scene_message, aflock_path(lock)));
}
END_TEST

START_TEST(other_failures_do_not_name_it)
{
    aflock_options o = soft_options(_i);
    o.protocol = AFLOCK_OFD;
    aflock *lock = scene_open("lock", scene_io(_i)), *ofd;
    seam_fail(SEAM_LOCK, 0, 1, ENOLCK);
    ck_assert_int_eq(scene_acquire(lock, NULL).result.sys_errno, ENOLCK);
    seam_fail(SEAM_FSTAT, 0, 1, ENOSYS);
    ck_assert_int_eq(scene_acquire(lock, NULL).result.sys_errno, ENOSYS);
    ck_assert_int_eq(aflock_open(&ofd, scene, "ofd", &o), 0);
    let_flock_be_unknown();
    ck_assert_int_eq(scene_acquire(ofd, NULL).result.status, AFLOCK_ENOTSUP);
    ck_assert_int_eq(scene_logged, 0);
}
END_TEST

START_TEST(a_marker_is_used)
{
    const char *reason;
    aflock *lock = open_fallback(_i);
    let_flock_be_unknown();
    answer a = scene_acquire(lock, NULL);
    ck_assert_int_eq(a.result.status, 0);
    ck_assert_int_eq(a.result.fd, -1);
    ck_assert_uint_eq(a.result.attempts, 1);
    ck_assert_int_eq(aflock_fd(lock, a.result.req), AFLOCK_ENOTSUP);
    must_be_ours_soft("lock");
    ck_assert_int_eq(scene_logged, 1);
    ck_assert_ptr_nonnull(strstr(scene_message, "soft_fallback"));
    aflock_wait_mode(lock, &reason);
    ck_assert_ptr_nonnull(strstr(reason, "soft_fallback"));
    must_release(lock, a.result.req);
    ck_assert_int_eq(scene_entries("."), 0);
    must_get_soft(lock);
    ck_assert_int_eq(seam_count(SEAM_LOCK), 1 + 2); /* the first attempt, and the releases of markers */
    ck_assert_int_eq(scene_logged, 1);
}
END_TEST

/* Until the last lock on the path is closed. */
START_TEST(it_begins_anew)
{
    aflock *lock = open_fallback(_i), *second = open_fallback(_i);
    let_flock_be_unknown();
    must_get_soft(lock);
    ck_assert_int_eq(aflock_close(lock), 0);
    must_get_soft(second);
    ck_assert_int_eq(seam_count(SEAM_LOCK), 1 + 2);
    ck_assert_int_eq(aflock_close(second), 0);
    seam_fail(SEAM_LOCK, 0, 0, 0);
    lock = open_fallback(_i);
    scene_must_work(lock);
}
END_TEST

START_TEST(one_attempt_is_enough)
{
    aflock_result r;
    aflock_req req;
    aflock *lock = open_fallback(_i);
    let_flock_be_unknown();
    answer a = try_for(lock, 0);
    ck_assert_int_eq(a.result.status, 0);
    must_release(lock, a.result.req);
    ck_assert_int_eq(aflock_close(lock), 0);
    lock = open_fallback(_i);
    int status = aflock_try(lock, NULL, &req, &r);
    ck_assert_int_eq(status, scene_io(_i) == AFLOCK_IO_INLINE ? 0 : AFLOCK_ENOTINLINE);
    if (status == 0)
        must_release(lock, req);
    ck_assert_int_eq(scene_entries("."), 0);
}
END_TEST

static void make_it(void)
{
    seam_before(SEAM_CREATE, NULL);
    scene_write("folder/lock", "");
}

/* Nothing is different, whoever makes the file. */
START_TEST(where_flock_is_known)
{
    aflock *lock;
    const aflock_options o = fallback_options(_i);
    for (int i = 0; i < 3; i++) {
        ck_assert_int_eq(aflock_open(&lock, scene, i == 2 ? "new/deep/lock" : "folder/lock", &o), 0);
        if (i == 1) {
            ck_assert_int_eq(unlink("folder/lock"), 0);
            seam_before(SEAM_CREATE, make_it);
        }
        scene_must_work(lock);
        scene_must_work(lock);
        ck_assert_int_eq(aflock_close(lock), 0);
    }
    ck_assert_int_eq(scene_mode("folder/lock"), 0644);
    ck_assert_int_eq(scene_logged, 0);
    ck_assert_int_eq(seam_count(SEAM_UNLINK), 0);
}
END_TEST

START_TEST(what_cannot_be_created)
{
    aflock *lock;
    const aflock_options o = fallback_options(_i);
    aflock_acquire_options existing = scene_options(0, AFLOCK_CREATE);
    ck_assert_int_eq(aflock_open(&lock, scene, "lock", &o), 0);
    ck_assert_int_eq(scene_acquire(lock, &existing).result.status, AFLOCK_ENOENT);
    make_fail(SEAM_CREATE, EACCES);
    ck_assert_int_eq(scene_acquire(lock, NULL).result.status, AFLOCK_EACCES);
    ck_assert_int_eq(seam_count(SEAM_CREATE), 1);
    make_fail(SEAM_CALLS, 0);
    scene_must_work(lock);
}
END_TEST

/* ----------------------------------------------------------------------------------------------- what is there already
 */

/* Somebody's marker is left where it is. */
START_TEST(a_marker_that_is_there)
{
    answer a = {0};
    char text[1024];
    aflock *lock = open_fallback(_i);
    pid_t other = sleeper();
    mark("lock", other);
    let_flock_be_unknown();
    wait_for(lock, &a);
    record_of(other, text, sizeof text);
    must_read("lock", text);
    ck_assert_int_eq(seam_count(SEAM_UNLINK), 0);
    scene_holder_end(other);
    must_be_woken(lock, &a);
    ck_assert_int_eq(scene_entries("."), 0);
}
END_TEST

/* He has come between the making of the file and its lock: it is his now. */
START_TEST(a_marker_that_has_just_come)
{
    answer a = {0};
    char text[1024];
    aflock *lock = open_fallback(_i);
    newcomer = sleeper();
    let_flock_be_unknown();
    seam_before(SEAM_LOCK, replace_it);
    wait_for(lock, &a);
    record_of(newcomer, text, sizeof text);
    must_read("lock", text);
    ck_assert_int_eq(seam_count(SEAM_CREATE), 1);
    ck_assert_int_eq(seam_count(SEAM_UNLINK), 0);
    scene_holder_end(newcomer);
    must_be_woken(lock, &a);
}
END_TEST

/* As kernel locks leave it behind: it may also be a holder's of an old version of the peer. */
START_TEST(an_empty_file)
{
    aflock_options o = fallback_options(_i);
    aflock *lock = open_soft_with(&o);
    let_flock_be_unknown();
    scene_write("lock", "");
    make_older("lock", 1000000);
    must_respect(lock);
    ck_assert_int_eq(aflock_close(lock), 0);
    o.break_empty = 1;
    lock = open_soft_with(&o);
    must_get_soft(lock);
}
END_TEST

/* What is in it may be worth something. */
START_TEST(a_file_with_contents)
{
    aflock_options o = fallback_options(_i);
    o.break_empty = 1;
    aflock *lock = open_soft_with(&o);
    let_flock_be_unknown();
    scene_write("lock", "a\nb\nc\nd\n");
    make_older("lock", 1000000);
    must_respect(lock);
    must_read("lock", "a\nb\nc\nd\n");
    ck_assert_int_eq(unlink("lock"), 0);
    must_get_soft(lock);
}
END_TEST

START_TEST(what_is_no_file)
{
    aflock *lock = open_fallback(_i);
    aflock_acquire_options o = scene_options(AFLOCK_FOLLOW | AFLOCK_DIRECTORY, 0);
    let_flock_be_unknown();
    scene_write("target", "");
    for (int gone_over = 0; gone_over < 2; gone_over++) {
        ck_assert_int_eq(symlink("target", "lock"), 0);
        ck_assert_int_eq(scene_acquire(lock, &o).result.status, AFLOCK_ELOOP);
        make_older("lock", 1000000);
        ck_assert_int_eq(scene_acquire(lock, &o).result.status, AFLOCK_ELOOP);
        ck_assert_int_eq(unlink("lock"), 0);
        ck_assert_int_eq(mkfifo("lock", 0666), 0);
        make_older("lock", 1000000);
        ck_assert_int_eq(scene_acquire(lock, &o).result.status, AFLOCK_ENOTFILE);
        ck_assert_int_eq(unlink("lock"), 0);
        ck_assert_int_eq(mkdir("lock", 0777), 0);
        ck_assert_int_eq(scene_acquire(lock, &o).result.status, AFLOCK_EISDIR);
        ck_assert_int_eq(rmdir("lock"), 0);
    }
    ck_assert_int_eq(scene_entries("."), 1);
    must_hold_soft(lock);
}
END_TEST

/* ------------------------------------------------------------------------------------------------- what is asked for
 */

static int accept_all(int fd, void *user)
{
    (void)fd, (void)user;
    return 0;
}

enum { UNSERVABLE = 4 };

static aflock_acquire_options unservable(int i)
{
    aflock_acquire_options o = scene_options(0, i == 0 ? AFLOCK_CREATE : 0);
    if (i == 1)
        o.mode = AFLOCK_SHARED;
    if (i == 2)
        o.on_acquired = accept_all;
    if (i == 3)
        o.file_mode = 0444;
    return o;
}

START_TEST(what_a_marker_cannot_serve)
{
    answer a = {0}, refused[UNSERVABLE] = {{0}};
    aflock *lock = open_fallback(_i);
    let_flock_be_unknown();
    ck_assert_int_eq(aflock_acquire(lock, NULL, scene_answer, &a, NULL), 0);
    scene_expect(1);
    const int known = scene_logged; /* it has gone over on this thread already */
    for (int i = 0; i < UNSERVABLE; i++) {
        const aflock_acquire_options o = unservable(i);
        int status = aflock_acquire(lock, &o, scene_answer, &refused[i], NULL);
        ck_assert_int_eq(status, known ? AFLOCK_ENOTSUP : 0);
        scene_expect(!known);
    }
    scene_run_until(&a.count, 1);
    ck_assert_int_eq(a.result.status, 0);
    for (int i = 0; i < UNSERVABLE; i++) {
        const aflock_acquire_options o = unservable(i);
        scene_run_until(&refused[i].count, !known);
        ck_assert_int_eq(refused[i].result.status, known ? 0 : AFLOCK_ENOTSUP);
        ck_assert_int_eq(aflock_acquire(lock, &o, scene_answer, NULL, NULL), AFLOCK_ENOTSUP);
    }
    must_release(lock, a.result.req);
    must_get_soft(lock);
}
END_TEST

/* It comes first; who waits behind it gets the lock. */
START_TEST(what_comes_first_and_cannot_be_served)
{
    for (int i = 1; i < UNSERVABLE; i++) { /* without creating, a file that is not there is another failure */
        answer a = {0}, b = {0};
        aflock *lock = open_fallback(_i);
        const aflock_acquire_options o = unservable(i);
        let_flock_be_unknown();
        ck_assert_int_eq(aflock_acquire(lock, &o, scene_answer, &a, NULL), 0);
        ck_assert_int_eq(aflock_acquire(lock, NULL, scene_answer, &b, NULL), 0);
        scene_expect(2);
        scene_run_until(&a.count, 1);
        scene_run_until(&b.count, 1);
        ck_assert_int_eq(a.result.status, AFLOCK_ENOTSUP);
        ck_assert_int_eq(b.result.status, 0);
        must_be_ours_soft("lock");
        must_release(lock, b.result.req);
        ck_assert_int_eq(scene_entries("."), 0);
        ck_assert_int_eq(aflock_close(lock), 0);
    }
}
END_TEST

START_TEST(what_is_about_descriptors_has_no_effect)
{
    static const uint32_t flags[] = {AFLOCK_READ_ONLY | AFLOCK_INHERIT, AFLOCK_FOLLOW | AFLOCK_DIRECTORY,
                                     AFLOCK_TRUNCATE};
    aflock *lock = open_fallback(_i);
    let_flock_be_unknown();
    for (size_t i = 0; i < sizeof flags / sizeof flags[0]; i++) {
        aflock_acquire_options o = scene_options(flags[i], 0);
        o.file_mode = 0600;
        answer a = scene_acquire(lock, &o);
        ck_assert_int_eq(a.result.status, 0);
        ck_assert_int_eq(a.result.fd, -1);
        must_be_ours_soft("lock");
        ck_assert_uint_eq(scene_mode("lock"), 0600);
        must_release(lock, a.result.req);
    }
}
END_TEST

START_TEST(one_path_one_setting)
{
    aflock *lock = open_fallback(_i), *other;
    answer a = {0};
    aflock_options o = fallback_options(_i);
    let_flock_be_unknown();
    ck_assert_int_eq(symlink(".", "link"), 0);
    for (int i = 0; i < 2; i++) {
        o.soft_fallback = 0;
        o.protocol = AFLOCK_NATIVE;
        ck_assert_int_eq(aflock_open(&other, scene, "lock", &o), AFLOCK_EMISMATCH);
        o.protocol = AFLOCK_SOFT;
        ck_assert_int_eq(aflock_open(&other, scene, "lock", &o), AFLOCK_EMISMATCH);
        aflock_req req = must_hold_soft(lock);
        o.protocol = AFLOCK_NATIVE;
        ck_assert_int_eq(aflock_open(&other, scene, "link/lock", &o), 0); /* nobody knows yet */
        ck_assert_int_eq(scene_acquire(other, NULL).result.status, AFLOCK_EMISMATCH);
        ck_assert_int_eq(aflock_close(other), 0);
        must_release(lock, req);
    }
    aflock_req req = must_hold_soft(lock);
    const aflock_options same = fallback_options(_i);
    ck_assert_int_eq(aflock_open(&other, scene, "link/lock", &same), 0);
    const aflock_acquire_options shared = unservable(1);
    answer refused = scene_acquire(other, &shared); /* known when the two paths turn out to be one */
    ck_assert_int_eq(refused.result.status, AFLOCK_ENOTSUP);
    ck_assert_int_eq(aflock_acquire(other, NULL, scene_answer, &a, NULL), 0);
    ck_assert_int_eq(a.count, 0);
    scene_expect(1);
    must_release(lock, req);
    scene_run_until(&a.count, 1);
    ck_assert_int_eq(a.result.status, 0);
    must_release(other, a.result.req);
}
END_TEST

START_TEST(what_makes_no_sense)
{
    char name[202];
    aflock *lock;
    aflock_options o = fallback_options(_i);
    o.protocol = AFLOCK_OFD;
    ck_assert_int_eq(aflock_open(&lock, scene, "lock", &o), AFLOCK_EINVAL);
    o.protocol = AFLOCK_SOFT;
    ck_assert_int_eq(aflock_open(&lock, scene, "lock", &o), AFLOCK_EINVAL);
    o.protocol = AFLOCK_NATIVE;
    ck_assert_int_eq(aflock_open_fd(&lock, scene, 0, &o), AFLOCK_EINVAL);
    memset(name, 'n', sizeof name);
    name[201] = '\0';
    ck_assert_int_eq(aflock_open(&lock, scene, name, &o), AFLOCK_ENAMETOOLONG);
    o.lifetime = AFLOCK_SECOND;
    ck_assert_int_eq(aflock_open(&lock, scene, "lock", &o), AFLOCK_EINVAL);
}
END_TEST

/* ------------------------------------------------------------------------------------------------------- ways to wait
 */

/* flock was known when the wait began: the file that was listened to is not the marker. */
START_TEST(in_the_middle_of_a_wait)
{
    for (int keeps = 0; keeps < 2; keeps++) {
        answer a = {0};
        aflock_options o = fallback_options(_i);
        o.keep_open = keeps;
        aflock *lock = open_soft_with(&o);
        scene_must_work(lock);
        pid_t holder = scene_holder("lock", O_RDWR, LOCK_EX), other = sleeper();
        wait_for(lock, &a);
        let_flock_be_unknown();
        mark("new", other);
        ck_assert_int_eq(rename("new", "lock"), 0);
        for (int i = 0; i < 20; i++)
            ck_assert_int_eq(aflock_epoll_run_once(scene, 10 * AFLOCK_MILLISECOND), 0);
        ck_assert_int_eq(a.count, 0);
        ck_assert_int_eq(unlink("lock"), 0);
        must_be_woken(lock, &a);
        must_get_soft(lock);
        scene_holder_end(holder);
        scene_holder_end(other);
        seam_fail(SEAM_LOCK, 0, 0, 0);
        ck_assert_int_eq(aflock_close(lock), 0);
    }
}
END_TEST

START_TEST(whoever_would_park_listens)
{
    answer a = {0};
    aflock_options o = fallback_options(_i);
    o.wait = AFLOCK_WAIT_PARK;
    aflock *lock = open_soft_with(&o);
    pid_t other = sleeper();
    mark("lock", other);
    let_flock_be_unknown();
    wait_for(lock, &a);
    ck_assert_int_eq(aflock_wait_mode(lock, NULL), AFLOCK_WAIT_NOTIFY);
    ck_assert_int_eq(unlink("lock"), 0);
    must_be_woken(lock, &a);
    scene_holder_end(other);
}
END_TEST

static int told;

static void on_wanted(aflock *lock, aflock_req req, aflock_wanted who, void *user)
{
    (void)lock, (void)req, (void)user;
    ck_assert_int_eq(who, AFLOCK_WANTED_HERE);
    told++;
}

START_TEST(a_holder_is_told_who_waits)
{
    answer a = {0};
    aflock *lock = open_fallback(_i);
    aflock_acquire_options o = scene_options(0, 0);
    o.on_wanted = on_wanted;
    let_flock_be_unknown();
    answer first = scene_acquire(lock, &o);
    ck_assert_int_eq(first.result.status, 0);
    ck_assert_int_eq(aflock_acquire(lock, NULL, scene_answer, &a, NULL), 0);
    scene_expect(1);
    scene_run_until(&told, 1);
    must_release(lock, first.result.req);
    scene_run_until(&a.count, 1);
    must_release(lock, a.result.req);
}
END_TEST

/* Nobody waits any more when flock turns out to be unknown: nothing is made. */
START_TEST(cancelled_meanwhile)
{
    aflock_req req;
    answer a = {0};
    if (scene_io(_i) == AFLOCK_IO_INLINE)
        return; /* there is no meanwhile */
    aflock *lock = open_fallback(_i);
    let_flock_be_unknown();
    seam_hang(SEAM_LOCK, "lock");
    ck_assert_int_eq(aflock_acquire(lock, NULL, scene_answer, &a, &req), 0);
    scene_expect(1);
    while (seam_count(SEAM_LOCK) == 0)
        ck_assert_int_eq(aflock_epoll_run_once(scene, AFLOCK_MILLISECOND), 0);
    seam_await_hung(1);
    ck_assert_int_eq(aflock_cancel(lock, req), 0);
    scene_run_until(&a.count, 1);
    seam_resume();
    scene_turn_until(scene_entries(".") == 0);
    must_get_soft(lock);
}
END_TEST

/* ------------------------------------------------------------------------------------------------------ what fails */

static int which, calls;

/* The n-th call fails; flock is not known, and nobody gives the same answer for ever. */
static int fail_once(seam_call call, int fd, const char *path)
{
    (void)fd, (void)path;
    if (call == SEAM_LOCK)
        return ENOSYS;
    return calls++ == which ? EIO : 0;
}

START_TEST(each_call_fails)
{
    for (which = 0;; which++) {
        aflock *lock = open_fallback(_i);
        calls = 0;
        seam_judge_by(fail_once, NULL);
        answer a = try_for(lock, 30 * AFLOCK_SECOND);
        seam_judge_by(NULL, NULL);
        let_flock_be_unknown();
        const bool over = calls <= which;
        if (a.result.status == 0) {
            ck_assert_int_gt(scene_size("lock"), 0); /* perhaps without a start token */
            must_release(lock, a.result.req);
        } else if (scene_size("lock") == 0) {
            /* It was told that the file could not be taken away, or not be known. */
            ck_assert(strcmp(a.step, "unlink") == 0 || strcmp(a.step, "fstat") == 0);
            ck_assert_int_eq(unlink("lock"), 0);
        }
        ck_assert_int_eq(scene_entries("."), 0);
        must_get_soft(lock);
        ck_assert_int_eq(aflock_close(lock), 0);
        if (over)
            break;
    }
    ck_assert_int_ge(which, 15);
}
END_TEST

/* --------------------------------------------------------------------------------------------- several who go over */

enum { RIVALS = 3, CYCLES = 60 };

static struct shared {
    _Atomic pid_t holder;
    atomic_int two, grants;
} * all;

/* Each time it has to find out anew, and makes a file to lock it. */
static void go_over_again_and_again(void)
{
    scene = NULL;
    scene_make_context();
    let_flock_be_unknown();
    for (int i = 0; i < CYCLES; i++) {
        aflock *lock = open_fallback(AFLOCK_IO_INLINE);
        answer a = scene_acquire(lock, NULL);
        ck_assert_int_eq(a.result.status, 0);
        pid_t nobody = 0;
        if (!atomic_compare_exchange_strong(&all->holder, &nobody, getpid()))
            atomic_fetch_add(&all->two, 1);
        usleep(200);
        if (atomic_load(&all->holder) != getpid())
            atomic_fetch_add(&all->two, 1);
        atomic_store(&all->holder, 0);
        atomic_fetch_add(&all->grants, 1);
        must_release(lock, a.result.req);
        ck_assert_int_eq(aflock_close(lock), 0);
    }
    scene_free_context();
}

START_TEST(they_exclude_each_other)
{
    pid_t pids[RIVALS];
    int status;
    (void)_i;
    all = mmap(NULL, sizeof *all, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    ck_assert_ptr_ne(all, MAP_FAILED);
    for (int i = 0; i < RIVALS; i++) {
        pids[i] = fork();
        ck_assert_int_ge(pids[i], 0);
        if (pids[i] == 0) {
            go_over_again_and_again();
            _exit(0);
        }
    }
    for (int i = 0; i < RIVALS; i++) {
        ck_assert_int_eq(waitpid(pids[i], &status, 0), pids[i]);
        ck_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
    ck_assert_int_eq(atomic_load(&all->two), 0);
    ck_assert_int_eq(atomic_load(&all->grants), RIVALS * CYCLES);
    ck_assert_int_eq(scene_entries("."), 0);
}
END_TEST

int main(void)
{
    const TTest *const once[] = {they_exclude_each_other, NULL};
    const TTest *const each[] = {without_it_the_option_is_named,
                                 other_failures_do_not_name_it,
                                 a_marker_is_used,
                                 it_begins_anew,
                                 one_attempt_is_enough,
                                 where_flock_is_known,
                                 what_cannot_be_created,
                                 a_marker_that_is_there,
                                 a_marker_that_has_just_come,
                                 an_empty_file,
                                 a_file_with_contents,
                                 what_is_no_file,
                                 what_a_marker_cannot_serve,
                                 what_comes_first_and_cannot_be_served,
                                 what_is_about_descriptors_has_no_effect,
                                 one_path_one_setting,
                                 what_makes_no_sense,
                                 in_the_middle_of_a_wait,
                                 whoever_would_park_listens,
                                 a_holder_is_told_who_waits,
                                 cancelled_meanwhile,
                                 each_call_fails,
                                 NULL};
    return scene_main("fallback", once, each);
}
