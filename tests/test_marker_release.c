/* Taking the marker of a soft lock away: what is gone by then, what fails, and who breaks it at the same time. */
#include "support/soft_scene.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

static void be_on_a_server(void)
{
    seam_file_systems("nfs4");
    scene_free_context();
    scene_make_context();
}

static bool is_open_here(const char *path)
{
    struct stat there, st;
    ck_assert_int_eq(lstat(path, &there), 0);
    for (int fd = 3; fd < 256; fd++)
        if (fstat(fd, &st) == 0 && st.st_dev == there.st_dev && st.st_ino == there.st_ino)
            return true;
    return false;
}

/* ------------------------------------------------------------------------------------------------------ what fails */

/* It is closed after it was unlinked, so that nobody else's file gets its number. */
START_TEST(what_could_not_be_released_stays_open)
{
    aflock *lock = open_soft(_i);
    aflock_req req = must_hold_soft(lock);
    const int open = scene_descriptors();
    make_fail(SEAM_UNLINK, EIO);
    ck_assert_int_eq(scene_release(lock, req).result.sys_errno, EIO);
    ck_assert(is_open_here("lock"));
    ck_assert(scene_is_free("lock", LOCK_EX)); /* nor is anybody kept from breaking it */
    make_fail(SEAM_CALLS, 0);
    must_release(lock, req);
    ck_assert_int_eq(scene_entries("."), 0);
    ck_assert_int_lt(scene_descriptors(), open);
}
END_TEST

/* Where it has to be closed before, it is opened again. */
START_TEST(what_a_server_did_not_release_is_opened_again)
{
    be_on_a_server();
    aflock *lock = open_soft(_i);
    for (int without = 0; without < 3; without++) {
        aflock_req req = must_hold_soft(lock);
        const int open = scene_descriptors();
        make_fail(SEAM_UNLINK, EIO);
        ck_assert_int_eq(scene_release(lock, req).result.sys_errno, EIO);
        ck_assert(is_open_here("lock"));
        ck_assert_int_eq(scene_descriptors(), open);
        if (without) {
            seam_fail(without == 1 ? SEAM_OPEN : SEAM_FSTAT, 0, 1, EMFILE);
            ck_assert_int_eq(scene_release(lock, req).result.sys_errno, EIO);
            ck_assert(!is_open_here("lock"));
        }
        make_fail(SEAM_CALLS, 0);
        must_release(lock, req);
        ck_assert_int_eq(scene_entries("."), 0);
    }
}
END_TEST

/* Nor is it forgotten if it cannot be opened again and the context ends; and that is nobody's business on the loop. */
static void end_without_release(int io)
{
    make_fail(SEAM_CALLS, 0);
    seam_forget();
    ck_assert_int_eq(aflock_ctx_free(scene, 30 * AFLOCK_SECOND), 0);
    scene = NULL;
    ck_assert_int_eq(scene_entries("."), 0);
    ck_assert_int_eq(seam_count(SEAM_UNLINK), 1);
    ck_assert_int_eq(seam_on_loop(SEAM_UNLINK), io == AFLOCK_IO_INLINE);
}

START_TEST(what_could_not_be_released_goes_with_its_context)
{
    aflock *lock = open_soft(_i);
    aflock_req req = must_hold_soft(lock);
    make_fail(SEAM_UNLINK, EIO);
    ck_assert_int_eq(scene_release(lock, req).result.sys_errno, EIO);
    end_without_release(_i);
}
END_TEST

START_TEST(what_a_server_did_not_release_goes_with_its_context)
{
    be_on_a_server();
    aflock *lock = open_soft(_i);
    aflock_req req = must_hold_soft(lock);
    make_fail(SEAM_UNLINK, EIO);
    seam_fail(SEAM_OPEN, 0, 1, EMFILE);
    ck_assert_int_eq(scene_release(lock, req).result.sys_errno, EIO);
    ck_assert(!is_open_here("lock"));
    end_without_release(_i);
}
END_TEST

/* -------------------------------------------------------------------------------------------- somebody who breaks it
 */

static int looks;

static void nobody_may_break_it(void)
{
    looks++;
    ck_assert(!scene_is_free("lock", LOCK_EX));
}

/* He might be stopped between his look and his unlink, and the path might name the next one's by then. */
START_TEST(nobody_takes_it_away_while_we_do)
{
    aflock *lock = open_soft(_i);
    aflock_req req = must_hold_soft(lock);
    looks = 0;
    seam_before(SEAM_UNLINK, nobody_may_break_it);
    must_release(lock, req);
    ck_assert_int_eq(looks, 1);
    ck_assert_int_eq(scene_entries("."), 0);
}
END_TEST

static int breaker_begins(void)
{
    const int fd = open("lock", O_RDONLY | O_CLOEXEC);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(flock(fd, LOCK_EX | LOCK_NB), 0);
    return fd;
}

/* Asks for it, and runs for a while. */
static void begin_release(aflock *lock, aflock_req req, answer *a)
{
    ck_assert_int_eq(aflock_release(lock, req, scene_answer, a), 0);
    scene_expect(1);
    for (int i = 0; i < 20; i++)
        ck_assert_int_eq(aflock_epoll_run_once(scene, 2 * AFLOCK_MILLISECOND), 0);
    ck_assert_int_eq(a->count, 0);
}

/* What he takes away is ours, and not what comes after it: so ours stays for as long as he needs. */
START_TEST(who_breaks_it_is_waited_for)
{
    for (int breaks = 0; breaks < 2; breaks++) {
        aflock *lock = open_soft(_i);
        aflock_req req = must_hold_soft(lock);
        answer a = {0};
        const int fd = breaker_begins();
        begin_release(lock, req, &a);
        must_be_ours_soft("lock");
        if (breaks) {
            ck_assert_int_eq(rename("lock", "aside"), 0);
            ck_assert_int_eq(unlink("aside"), 0);
            pid_t next = sleeper();
            mark("lock", next);
            scene_run_until(&a.count, 1);
            char text[1024];
            record_of(next, text, sizeof text);
            must_read("lock", text);
            ck_assert_int_eq(unlink("lock"), 0);
            scene_holder_end(next);
        }
        close(fd);
        scene_run_until(&a.count, 1);
        ck_assert_int_eq(a.result.status, 0);
        ck_assert_int_eq(scene_entries("."), 0);
        ck_assert_int_eq(aflock_close(lock), 0);
    }
}
END_TEST

/* He has been stopped, or he is somebody else who locks the file for a reason of his own. */
START_TEST(he_is_not_waited_for_for_ever)
{
    stop_clocks(AFLOCK_SECOND, 0);
    aflock *lock = open_soft(_i);
    for (int i = 0; i < 2; i++) {
        aflock_req req = must_hold_soft(lock);
        answer a = {0};
        const int fd = breaker_begins();
        begin_release(lock, req, &a);
        pass_boottime(2 * AFLOCK_SECOND - 1);
        for (int k = 0; k < 100; k++)
            ck_assert_int_eq(aflock_epoll_run_once(scene, 2 * AFLOCK_MILLISECOND), 0);
        ck_assert_int_eq(a.count, 0);
        pass_boottime(1);
        scene_run_until(&a.count, 1);
        ck_assert_int_eq(a.result.status, 0);
        ck_assert_int_eq(scene_entries("."), 0);
        close(fd);
    }
}
END_TEST

/* Whoever ends his context leaves nobody who could try again. */
START_TEST(a_context_waits_for_him_within_its_grace)
{
    aflock *lock = open_soft(_i);
    must_hold_soft(lock);
    const int fd = breaker_begins();
    ck_assert_int_eq(aflock_ctx_free(scene, 20 * AFLOCK_MILLISECOND), 1);
    scene = NULL;
    for (int i = 0; i < 10000 && scene_entries(".") > 0; i++)
        usleep(1000); /* the worker takes it away */
    ck_assert_int_eq(scene_entries("."), 0);
    close(fd);
}
END_TEST

int main(void)
{
    const TTest *const each[] = {what_could_not_be_released_stays_open,
                                 what_could_not_be_released_goes_with_its_context,
                                 what_a_server_did_not_release_is_opened_again,
                                 what_a_server_did_not_release_goes_with_its_context,
                                 nobody_takes_it_away_while_we_do,
                                 who_breaks_it_is_waited_for,
                                 he_is_not_waited_for_for_ever,
                                 a_context_waits_for_him_within_its_grace,
                                 NULL};
    return scene_main("marker-release", NULL, each);
}
