/* Lock files that are removed with the lock: when they go and when they stay, in which order, what those who wait make
 * of it, and that never two hold the path, however often the file comes and goes and whoever is killed. */
#include "support/rivals.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static aflock_options temporary_options(int io)
{
    aflock_options o;
    aflock_options_init(&o);
    o.io = scene_io(io);
    o.poll_interval = 500 * AFLOCK_MICROSECOND;
    o.temporary = 1;
    return o;
}

static aflock *open_with(const aflock_options *o)
{
    aflock *lock;
    ck_assert_int_eq(aflock_open(&lock, scene, "lock", o), 0);
    return lock;
}

static aflock *open_temporary(int io)
{
    const aflock_options o = temporary_options(io);
    return open_with(&o);
}

/* It can be had, and nothing is left of it. */
static void must_come_and_go(aflock *lock)
{
    aflock_req req = scene_hold(lock, NULL);
    ck_assert(!scene_is_free("lock", LOCK_SH));
    answer a = scene_release(lock, req);
    ck_assert_int_eq(a.result.status, 0);
    ck_assert_int_eq(a.result.cleanup_errno, 0);
    ck_assert_int_eq(scene_entries("."), 0);
}

static void await_entries(int expected)
{
    for (int i = 0; i < 5000 && scene_entries(".") != expected; i++)
        usleep(1000);
    ck_assert_int_eq(scene_entries("."), expected);
}

/* --------------------------------------------------------------------------------------------------- when it goes */

static char order[256];

static void note_call(seam_call call, int fd, int result)
{
    (void)fd, (void)result;
    if (call == SEAM_UNLINK || call == SEAM_UNLOCK)
        snprintf(order + strlen(order), sizeof order - strlen(order), "%s ", seam_name(call));
}

START_TEST(it_goes_before_it_is_unlocked)
{
    aflock *lock = open_temporary(_i);
    aflock_req req = scene_hold(lock, NULL);
    ck_assert_int_eq(scene_size("lock"), 0);
    seam_judge_by(NULL, note_call);
    ck_assert_int_eq(scene_release(lock, req).result.status, 0);
    seam_judge_by(NULL, NULL);
    ck_assert_str_eq(order, "unlink unlock ");
    must_come_and_go(lock);
}
END_TEST

START_TEST(the_loop_does_not_remove_it_itself)
{
    aflock *lock = open_temporary(AFLOCK_IO_AUTO);
    must_come_and_go(lock);
    aflock_req req = scene_hold(lock, NULL);
    seam_forget();
    ck_assert_int_eq(scene_release(lock, req).result.status, 0);
    ck_assert_int_eq(seam_count(SEAM_UNLINK), 1);
    ck_assert_int_eq(seam_total_on_loop(), 0);
}
END_TEST

START_TEST(it_goes_with_the_context)
{
    aflock *lock = open_temporary(_i);
    scene_hold(lock, NULL);
    scene_free_context();
    ck_assert_int_eq(scene_entries("."), 0);
}
END_TEST

/* The removal hangs for longer than the grace: whoever comes back from it finishes it. */
START_TEST(it_goes_after_the_context)
{
    aflock *lock = open_temporary(AFLOCK_IO_POOL);
    scene_hold(lock, NULL);
    seam_hang(SEAM_UNLINK, "lock");
    ck_assert_int_eq(aflock_ctx_free(scene, 0), 1);
    scene = NULL;
    ck_assert_int_eq(scene_entries("."), 1);
    seam_resume();
    await_entries(0);
}
END_TEST

/* Won when the context is gone already. */
START_TEST(it_goes_when_the_context_went_before)
{
    answer a = {0};
    aflock *lock = open_temporary(AFLOCK_IO_POOL);
    must_come_and_go(lock); /* where the path leads is known */
    seam_hang(SEAM_LOCK, "lock");
    scene_expect(1);
    ck_assert_int_eq(aflock_acquire(lock, NULL, scene_answer, &a, NULL), 0);
    seam_await_hung(1);
    aflock_ctx_free(scene, 0);
    scene = NULL;
    ck_assert_int_eq(a.result.status, AFLOCK_ECLOSED);
    ck_assert_int_eq(scene_entries("."), 1);
    seam_resume();
    await_entries(0);
}
END_TEST

START_TEST(who_gives_up_leaves_it_to_its_holder)
{
    pid_t holder = scene_holder("lock", O_RDWR | O_CREAT, LOCK_EX);
    aflock *lock = open_temporary(_i);
    aflock_acquire_options o = scene_options(0, 0);
    o.timeout = 10 * AFLOCK_MILLISECOND;
    ck_assert_int_eq(scene_acquire(lock, &o).result.status, AFLOCK_ETIMEDOUT);
    o.timeout = 0;
    ck_assert_int_eq(scene_acquire(lock, &o).result.status, AFLOCK_EWOULDBLOCK);
    ck_assert_int_eq(aflock_close(lock), 0);
    ck_assert_int_eq(scene_size("lock"), 0);
    ck_assert(!scene_is_free("lock", LOCK_SH));
    scene_holder_end(holder);
    must_come_and_go(open_temporary(_i)); /* what the dead left goes, too */
}
END_TEST

static int refuse(int fd, void *user)
{
    (void)fd, (void)user;
    return EPERM;
}

START_TEST(it_goes_when_nothing_comes_of_it)
{
    aflock *lock = open_temporary(_i);
    aflock_acquire_options o = scene_options(0, 0);
    o.on_acquired = refuse;
    ck_assert_int_eq(scene_acquire(lock, &o).result.status, AFLOCK_EREFUSED);
    ck_assert_int_eq(scene_entries("."), 0);
    must_come_and_go(lock);
}
END_TEST

/* The request is cancelled while the attempt that wins it hangs. */
START_TEST(it_goes_when_nobody_wants_it_any_more)
{
    answer a = {0};
    aflock_req req;
    aflock *lock = open_temporary(AFLOCK_IO_POOL);
    seam_hang(SEAM_LOCK, "lock");
    scene_expect(1);
    ck_assert_int_eq(aflock_acquire(lock, NULL, scene_answer, &a, &req), 0);
    while (scene_size("lock") < 0)
        ck_assert_int_eq(aflock_epoll_run_once(scene, AFLOCK_MILLISECOND), 0);
    ck_assert_int_eq(aflock_cancel(lock, req), 0);
    seam_resume();
    scene_run_until(&a.count, 1);
    ck_assert_int_eq(a.result.status, AFLOCK_ECANCELED);
    while (aflock_epoll_alive(scene))
        ck_assert_int_eq(aflock_epoll_run_once(scene, AFLOCK_SECOND), 0);
    scene_free_context();
    ck_assert_int_eq(scene_entries("."), 0);
}
END_TEST

/* A thread that waits in the kernel gets it when nobody waits for that any more. */
START_TEST(it_goes_when_a_thread_comes_late)
{
    aflock_options options = temporary_options(AFLOCK_IO_AUTO);
    options.wait = AFLOCK_WAIT_PARK;
    aflock *lock = open_with(&options);
    answer a = {0};
    aflock_req req;
    pid_t holder = scene_holder("lock", O_RDWR | O_CREAT, LOCK_EX);
    scene_expect(1);
    ck_assert_int_eq(aflock_acquire(lock, NULL, scene_answer, &a, &req), 0);
    scene_await_blocked("lock");
    ck_assert_int_eq(aflock_cancel(lock, req), 0);
    scene_run_until(&a.count, 1);
    ck_assert_int_eq(a.result.status, AFLOCK_ECANCELED);
    scene_holder_end(holder);
    await_entries(0);
    must_come_and_go(lock);
}
END_TEST

START_TEST(in_a_child_it_stays)
{
    aflock *lock = open_temporary(_i);
    aflock_req req = scene_hold(lock, NULL);
    int status;
    pid_t pid = fork();
    ck_assert_int_ge(pid, 0);
    if (pid == 0)
        _exit(aflock_ctx_abandon(scene) == 0 ? 0 : 1);
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ck_assert_int_eq(status, 0);
    ck_assert_int_eq(scene_size("lock"), 0);
    ck_assert(!scene_is_free("lock", LOCK_SH));
    ck_assert_int_eq(scene_release(lock, req).result.status, 0);
    ck_assert_int_eq(scene_entries("."), 0);
}
END_TEST

/* -------------------------------------------------------------------------------------------------- when it stays */

START_TEST(it_stays_while_it_is_handed_on)
{
    answer a[3] = {{0}};
    aflock *lock = open_temporary(_i);
    aflock_req req = scene_hold(lock, NULL);
    scene_hand_on_for_ever();
    for (int i = 0; i < 3; i++) {
        scene_expect(1);
        ck_assert_int_eq(aflock_acquire(lock, NULL, scene_answer, &a[i], NULL), 0);
    }
    seam_forget();
    for (int i = 0; i < 3; i++) {
        ck_assert_int_eq(aflock_release(lock, req, NULL, NULL), 0);
        scene_run_until(&a[i].count, 1);
        ck_assert_int_eq(a[i].result.status, 0);
        req = a[i].result.req;
    }
    ck_assert_int_eq(seam_count(SEAM_UNLINK), 0);
    ck_assert_int_eq(scene_release(lock, req).result.status, 0);
    ck_assert_int_eq(scene_entries("."), 0);
}
END_TEST

/* Who goes first leaves it to the others: removed, it would be made anew and locked beside them. */
START_TEST(it_stays_while_it_is_shared)
{
    aflock *lock = open_temporary(_i);
    aflock_acquire_options o = scene_options(0, 0);
    o.mode = AFLOCK_SHARED;
    aflock_req req = scene_hold(lock, &o);
    pid_t holder = scene_holder("lock", O_RDWR, LOCK_SH);
    answer a = scene_release(lock, req);
    ck_assert_int_eq(a.result.status, 0);
    ck_assert_int_eq(a.result.cleanup_errno, 0);
    ck_assert_int_eq(scene_size("lock"), 0);
    ck_assert(!scene_is_free("lock", LOCK_EX));
    scene_holder_end(holder);
    req = scene_hold(lock, &o);
    ck_assert_int_eq(scene_release(lock, req).result.status, 0);
    ck_assert_int_eq(scene_entries("."), 0);
}
END_TEST

START_TEST(anothers_file_stays)
{
    aflock *lock = open_temporary(_i);
    aflock_req req = scene_hold(lock, NULL);
    ck_assert_int_eq(rename("lock", "moved"), 0);
    scene_write("lock", "theirs");
    ck_assert_int_eq(scene_release(lock, req).result.status, 0);
    ck_assert_int_eq(scene_size("lock"), 6);
    ck_assert_int_eq(scene_size("moved"), 0);
    req = scene_hold(lock, NULL);
    ck_assert_int_eq(unlink("lock"), 0);
    answer a = scene_release(lock, req);
    ck_assert_int_eq(a.result.status, 0);
    ck_assert_int_eq(a.result.cleanup_errno, 0); /* it is gone: all is well */
    ck_assert_int_eq(scene_entries("."), 1);
}
END_TEST

/* It is unlocked all the same: it keeps nobody out. */
START_TEST(what_cannot_be_removed_stays)
{
    aflock *lock = open_temporary(_i);
    aflock_req req = scene_hold(lock, NULL);
    seam_fail(SEAM_UNLINK, 0, 1, EACCES);
    answer a = scene_release(lock, req);
    ck_assert_int_eq(a.result.status, 0);
    ck_assert_int_eq(a.result.cleanup_errno, EACCES);
    ck_assert(scene_is_free("lock", LOCK_EX));
    req = scene_hold(lock, NULL);
    seam_fail(SEAM_UNLINK, 0, 1, EROFS);
    ck_assert_int_eq(aflock_release(lock, req, NULL, NULL), 0);
    while (aflock_epoll_alive(scene))
        ck_assert_int_eq(aflock_epoll_run_once(scene, AFLOCK_SECOND), 0);
    ck_assert_int_eq(scene_logged, 1);
    ck_assert_ptr_nonnull(strstr(scene_message, strerror(EROFS)));
    must_come_and_go(lock);
}
END_TEST

/* Removed and not unlocked it keeps nobody out; neither removed nor unlocked it is still held. */
START_TEST(failed_unlocks)
{
    aflock *lock = open_temporary(_i);
    int descriptors = scene_descriptors();
    aflock_req req = scene_hold(lock, NULL);
    seam_fail(SEAM_UNLOCK, 0, 1, EIO);
    answer a = scene_release(lock, req);
    ck_assert_int_eq(a.result.status, 0);
    ck_assert_int_eq(a.result.cleanup_errno, EIO);
    ck_assert_int_eq(scene_entries("."), 0);
    req = scene_hold(lock, NULL);
    seam_fail(SEAM_UNLINK, 0, 1, EIO);
    seam_fail(SEAM_UNLOCK, 0, 1, EIO);
    a = scene_release(lock, req);
    ck_assert_int_eq(a.result.status, AFLOCK_ESYS);
    ck_assert(!scene_is_free("lock", LOCK_SH));
    ck_assert_int_eq(scene_release(lock, req).result.status, 0);
    ck_assert_int_eq(scene_entries("."), 0);
    scene_await_descriptors(descriptors);
    must_come_and_go(lock);
}
END_TEST

/* -------------------------------------------------------------------------------------------------- what is failing */

/* Each call of a cycle fails, once. Whatever becomes of it: nothing is held or open, and the lock works. */
START_TEST(each_call_fails)
{
    static const seam_call CALLS[] = {SEAM_OPEN_CACHED, SEAM_CREATE, SEAM_LOCK,   SEAM_FSTAT,
                                      SEAM_STAT,        SEAM_UNLINK, SEAM_UNLOCK, SEAM_CLOSE};
    static const int ERRORS[] = {EIO, ENOSPC, ENOLCK, ESTALE, EACCES, EPERM, EINTR};
    aflock *lock = open_temporary(_i);
    must_come_and_go(lock);
    const int descriptors = scene_descriptors();
    for (size_t c = 0; c < sizeof CALLS / sizeof CALLS[0]; c++) {
        for (size_t e = 0; e < sizeof ERRORS / sizeof ERRORS[0]; e++) {
            for (int after = 0; after < 3; after++) {
                seam_fail(CALLS[c], after, 1, ERRORS[e]);
                aflock_acquire_options o = scene_options(0, 0);
                o.timeout = 0;
                answer a = scene_acquire(lock, &o);
                while (a.result.status == 0 && scene_release(lock, a.result.req).result.status != 0)
                    ;
                seam_fail(CALLS[c], 0, 0, 0);
                scene_await_descriptors(descriptors);
                ck_assert_int_eq(aflock_depth(lock, NULL), 0);
                must_come_and_go(lock);
            }
        }
    }
}
END_TEST

START_TEST(what_is_refused)
{
    aflock *lock = open_temporary(_i), *other;
    aflock_options o = temporary_options(_i);
    o.keep_open = 1;
    ck_assert_int_eq(aflock_open(&other, scene, "other", &o), AFLOCK_EINVAL);
    o = temporary_options(_i);
    o.soft_fallback = 1;
    ck_assert_int_eq(aflock_open(&other, scene, "other", &o), AFLOCK_EINVAL);
    o = temporary_options(_i);
    o.protocol = AFLOCK_OFD;
    ck_assert_int_eq(aflock_open(&other, scene, "other", &o), AFLOCK_EINVAL);
    o = temporary_options(_i);
    ck_assert_int_eq(aflock_open_fd(&other, scene, 0, &o), AFLOCK_EINVAL);
    o.temporary = 0;
    ck_assert_int_eq(aflock_open(&other, scene, "lock", &o), AFLOCK_EMISMATCH);
    const uint32_t wrong[] = {AFLOCK_FOLLOW, AFLOCK_DIRECTORY};
    for (int i = 0; i < 2; i++) {
        aflock_acquire_options a = scene_options(wrong[i], 0);
        ck_assert_int_eq(aflock_acquire(lock, &a, scene_answer, NULL, NULL), AFLOCK_EINVAL);
    }
    ck_assert_int_eq(mkdir("dir", 0777), 0);
    ck_assert_int_eq(symlink("nothing", "link"), 0);
    o = temporary_options(_i);
    ck_assert_int_eq(aflock_open(&other, scene, "dir", &o), 0);
    ck_assert_int_eq(scene_acquire(other, NULL).result.status, AFLOCK_EISDIR);
    ck_assert_int_eq(aflock_open(&other, scene, "link", &o), 0);
    ck_assert_int_eq(scene_acquire(other, NULL).result.status, AFLOCK_ELOOP);
    ck_assert_int_eq(scene_entries("."), 2);
}
END_TEST

/* --------------------------------------------------------------------------------------------------- other processes
 */

enum { KILLS = 80, PATIENCE_S = 80 };

/* As another program that follows the two rules. */
static void take_turn_by_hand(int self)
{
    struct stat mine, there;
    int fd;
    for (;;) {
        fd = open("lock", O_RDWR | O_CREAT | O_CLOEXEC, 0666);
        ck_assert_int_ge(fd, 0);
        ck_assert_int_eq(flock(fd, LOCK_EX), 0);
        ck_assert_int_eq(fstat(fd, &mine), 0);
        if (stat("lock", &there) == 0 && there.st_ino == mine.st_ino)
            break;
        close(fd);
    }
    rivals_hold(self);
    ck_assert_int_eq(unlink("lock"), 0);
    close(fd);
}

/* Each in another way: where attempts run, and how it waits. One of them leaves the file, and one is another program.
 */
static aflock *open_as_rival(int self)
{
    aflock_options o = temporary_options(self % SCENE_IO_COUNT);
    const aflock_wait waits[] = {AFLOCK_WAIT_NOTIFY, AFLOCK_WAIT_PARK, AFLOCK_WAIT_POLL};
    o.wait = waits[self / 2];
    o.poll_interval = 2 * AFLOCK_MILLISECOND;
    o.temporary = self != 4;
    return open_with(&o);
}

static void take_turn(aflock *lock, int self)
{
    if (self == 5)
        take_turn_by_hand(self);
    else
        rivals_turn(lock, self);
}

static const rivals six = {
    .count = 6, .patience_s = PATIENCE_S, .hold_us = 100, .others_us = 100, .open = open_as_rival, .turn = take_turn};

START_TEST(they_contend)
{
    rivals_begin(&six);
    rivals_await(10);
    rivals_end();
    must_come_and_go(open_temporary(AFLOCK_IO_INLINE));
}
END_TEST

START_TEST(holders_are_killed)
{
    rivals_begin(&six);
    rivals_await(1);
    const int held = rivals_kill(KILLS);
    rivals_end();
    must_come_and_go(open_temporary(AFLOCK_IO_INLINE));
    ck_assert_int_ge(held, KILLS / 8);
}
END_TEST

int main(void)
{
    const TTest *const once[] = {the_loop_does_not_remove_it_itself,
                                 it_goes_after_the_context,
                                 it_goes_when_the_context_went_before,
                                 it_goes_when_nobody_wants_it_any_more,
                                 it_goes_when_a_thread_comes_late,
                                 they_contend,
                                 holders_are_killed,
                                 NULL};
    const TTest *const each[] = {it_goes_before_it_is_unlocked,
                                 it_goes_with_the_context,
                                 who_gives_up_leaves_it_to_its_holder,
                                 it_goes_when_nothing_comes_of_it,
                                 in_a_child_it_stays,
                                 it_stays_while_it_is_handed_on,
                                 it_stays_while_it_is_shared,
                                 anothers_file_stays,
                                 what_cannot_be_removed_stays,
                                 failed_unlocks,
                                 each_call_fails,
                                 what_is_refused,
                                 NULL};
    return scene_main_within(4 * PATIENCE_S, "temporary", once, each);
}
