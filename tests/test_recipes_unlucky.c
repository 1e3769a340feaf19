/* Semaphores and several locks that run out of memory, or whose system calls fail, at each point: what was accepted is
 * answered once, nothing is held by nobody, and the next time all works. The linker leads the allocations here. */
#include "faults/allocations.h"
#include "support/scene.h"

#include <aflock/semaphore.h>
#include <aflock/several.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum { TAKERS = 6, SLOTS = 2, LAST = 10000 };

static int accepted, answered, good;

static bool may_fail; /* something may, in this play */

static void count(int status)
{
    answered++;
    good += status == 0;
    ck_assert_msg(may_fail || status == 0 || status == AFLOCK_EWOULDBLOCK || status == AFLOCK_ECANCELED, "%s",
                  aflock_error_name(status));
}

/* ---------------------------------------------------------------------------------------------------------- the play
 */

static void on_returned(aflock_semaphore *s, const aflock_semaphore_result *r, void *user)
{
    (void)s, (void)user;
    count(r->status);
}

static void on_slot(aflock_semaphore *s, const aflock_semaphore_result *r, void *user)
{
    bool told = user;
    count(r->status);
    if (r->status == 0) {
        int status = aflock_semaphore_release(s, r->permit, told ? on_returned : NULL, NULL);
        ck_assert_int_eq(status, 0);
        accepted += told;
    }
}

static void on_given_up(aflock_several *s, const aflock_several_result *r, void *user)
{
    (void)s, (void)user;
    count(r->status);
}

static void on_list(aflock_several *s, const aflock_several_result *r, void *user)
{
    (void)user;
    count(r->status);
    if (r->status == 0) {
        ck_assert_int_eq(aflock_several_release(s, on_given_up, NULL), 0);
        accepted++;
    }
}

static bool is_accepted(int status)
{
    ck_assert(status == 0 || may_fail || status == AFLOCK_EWOULDBLOCK);
    accepted += status == 0;
    return status == 0;
}

static void await_answers(void)
{
    while (answered < accepted)
        scene_run_until(&answered, accepted);
    ck_assert_int_eq(answered, accepted);
}

static void play_semaphore(aflock_io io)
{
    static const uint64_t TIMEOUTS[TAKERS] = {AFLOCK_FOREVER, 60 * AFLOCK_SECOND, 0,
                                              AFLOCK_FOREVER, AFLOCK_FOREVER,     60 * AFLOCK_SECOND};
    aflock_semaphore *s;
    aflock_semaphore_options o;
    aflock_options lock;
    aflock_permit permit;
    aflock_semaphore_options_init(&o);
    aflock_options_init(&lock);
    lock.io = io;
    lock.poll_interval = AFLOCK_MILLISECOND;
    o.lock = &lock;
    int status = aflock_semaphore_new(&s, scene, ".", "s", SLOTS, &o);
    if (status != 0) {
        ck_assert(may_fail);
        return;
    }
    for (int i = 0; i < TAKERS; i++) {
        status = aflock_semaphore_acquire(s, TIMEOUTS[i], NULL, on_slot, i % 2 ? s : NULL, &permit);
        if (is_accepted(status) && i == 4)
            ck_assert_int_eq(aflock_semaphore_cancel(s, permit), 0);
    }
    await_answers();
    aflock_semaphore_free(s);
}

static void play_lists(aflock_io io)
{
    static const char *const PATHS[] = {"l/b", "l/a", "l/./b", "l/c"};
    aflock_several *list;
    aflock_options o;
    aflock_acquire_options a;
    aflock_options_init(&o);
    aflock_acquire_options_init(&a);
    o.io = io;
    o.poll_interval = AFLOCK_MILLISECOND;
    a.timeout = 60 * AFLOCK_SECOND;
    int status = aflock_several_new(&list, scene);
    if (status != 0) {
        ck_assert(may_fail);
        return;
    }
    for (size_t i = 0; i < sizeof PATHS / sizeof PATHS[0]; i++)
        if (aflock_several_add(list, PATHS[i], i == 1 ? AFLOCK_SHARED : AFLOCK_EXCLUSIVE, &o) < 0)
            ck_assert(may_fail);
    if (is_accepted(aflock_several_all(list, &a, on_list, NULL)))
        await_answers();
    if (is_accepted(aflock_several_any(list, NULL, on_list, NULL)))
        await_answers();
    aflock_several_free(list);
}

static void play(aflock_io io)
{
    accepted = answered = good = 0;
    play_semaphore(io);
    play_lists(io);
}

/* What is still given back by the library itself comes to its end. */
static void settle(void)
{
    for (int i = 0; i < 3 || aflock_epoll_alive(scene); i++)
        ck_assert_int_eq(aflock_epoll_run_once(scene, AFLOCK_MILLISECOND), 0);
}

static void must_be_free(const char *path)
{
    ck_assert_msg(access(path, F_OK) != 0 || scene_is_free(path, LOCK_EX), "%s is held by nobody", path);
}

static void check_files(void)
{
    static const char *const FILES[] = {"s.00.lock", "s.01.lock", "l/a", "l/b", "l/c"};
    for (size_t i = 0; i < sizeof FILES / sizeof FILES[0]; i++)
        must_be_free(FILES[i]);
}

static void remove_files(void)
{
    unlink("s.00.lock");
    unlink("s.01.lock");
    unlink("l/a");
    unlink("l/b");
    unlink("l/c");
}

/* ------------------------------------------------------------------------------------------------------ allocations */

static aflock_io io_of(int i)
{
    return scene_io(i);
}

START_TEST(every_allocation_fails)
{
    unsigned failures = 0;
    scene_free_context();
    for (unsigned n = 1, more = 1; more; n++) {
        ck_assert_uint_lt(n, LAST);
        scene_make_context();
        may_fail = true;
        allocations_fail(n);
        play(io_of(_i));
        more = allocations_failed();
        failures += more;
        allocations_fail(0);
        settle();
        check_files();
        may_fail = false;
        play(io_of(_i));
        ck_assert_int_ge(good, 7);
        settle();
        scene_free_context();
        check_files();
    }
    ck_assert_uint_gt(failures, 20);
    scene_make_context();
}
END_TEST

/* ----------------------------------------------------------------------------------------------------- system calls */

static int countdown, in_a_row, chosen_error;
static bool failed;

/* Of the locks, which are files and directories, not of what the recipes need for themselves. */
static int fail_some(seam_call call, int fd, const char *path)
{
    struct stat st;
    (void)path;
    if (call == SEAM_IDENTIFY || call == SEAM_GETFD || call == SEAM_GETCWD || call == SEAM_READLINK ||
        call == SEAM_OPEN_CACHED)
        return 0;
    if (fd >= 0 && fstat(fd, &st) == 0 && S_ISFIFO(st.st_mode))
        return 0;
    if (in_a_row == 0 || countdown-- > 0)
        return 0;
    in_a_row--;
    failed = true;
    return chosen_error;
}

static unsigned fail_each(aflock_io io, int times, int error)
{
    unsigned failures = 0;
    for (int n = 0, more = 1; more; n++) {
        ck_assert_int_lt(n, LAST);
        if (n % 2)
            remove_files();
        countdown = n;
        in_a_row = times;
        chosen_error = error;
        failed = false;
        may_fail = true;
        seam_judge_by(fail_some, NULL);
        play(io);
        in_a_row = 0;
        settle();
        seam_judge_by(NULL, NULL);
        check_files();
        more = failed;
        failures += failed;
        may_fail = false;
        play(io);
        ck_assert_int_ge(good, 7);
        settle();
        check_files();
    }
    return failures;
}

START_TEST(every_call_fails)
{
    static const int ERRORS[] = {EIO, ENOLCK, EACCES, EMFILE};
    unsigned failures = 0;
    for (size_t e = 0; e < sizeof ERRORS / sizeof ERRORS[0]; e++)
        failures += fail_each(AFLOCK_IO_INLINE, _i ? 3 : 1, ERRORS[e]);
    ck_assert_uint_gt(failures, 100);
}
END_TEST

/* ------------------------------------------------------------------------------------------------------ descriptors */

int __real_pipe2(int ends[2], int flags);
int __wrap_pipe2(int ends[2], int flags);
static int no_pipe;

int __wrap_pipe2(int ends[2], int flags)
{
    if (!no_pipe)
        return __real_pipe2(ends, flags);
    errno = no_pipe;
    return -1;
}

START_TEST(no_descriptor_is_left)
{
    static const struct {
        int error, status;
    } CASES[] = {{EMFILE, AFLOCK_EMFILE}, {ENFILE, AFLOCK_EMFILE}, {ENOMEM, AFLOCK_ESYS}};
    aflock_several *list;
    aflock_semaphore *s;
    ck_assert_int_eq(aflock_several_new(&list, scene), 0);
    ck_assert_int_eq(aflock_several_add(list, "a", AFLOCK_EXCLUSIVE, NULL), 0);
    ck_assert_int_eq(aflock_semaphore_new(&s, scene, ".", "s", 1, NULL), 0);
    accepted = answered = good = 0;
    for (size_t i = 0; i < sizeof CASES / sizeof CASES[0]; i++) {
        no_pipe = CASES[i].error;
        ck_assert_int_eq(aflock_several_all(list, NULL, on_list, NULL), CASES[i].status);
        ck_assert_int_eq(aflock_semaphore_acquire(s, 1, NULL, on_slot, NULL, NULL), CASES[i].status);
        ck_assert(is_accepted(aflock_semaphore_acquire(s, AFLOCK_FOREVER, NULL, on_slot, NULL, NULL))); /* is free */
        await_answers();
    }
    no_pipe = 0;
    ck_assert(is_accepted(aflock_several_all(list, NULL, on_list, NULL)));
    ck_assert(is_accepted(aflock_semaphore_acquire(s, AFLOCK_SECOND, NULL, on_slot, NULL, NULL)));
    await_answers();
    aflock_several_free(list);
    aflock_semaphore_free(s);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("recipes: unlucky");
    TCase *tcase = tcase_create("unlucky");
    tcase_set_timeout(tcase, 120);
    scene_folder(tcase);
    tcase_add_checked_fixture(tcase, scene_begin, scene_end);
    tcase_add_loop_test(tcase, every_allocation_fails, 0, SCENE_IO_COUNT);
    tcase_add_loop_test(tcase, every_call_fails, 0, 2);
    tcase_add_test(tcase, no_descriptor_is_left);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int bad = srunner_ntests_failed(runner);
    srunner_free(runner);
    return bad == 0 ? 0 : 1;
}
