/* aflock/semaphore.h: errors, the end of everything, and portalocker. */
#include "support/semaphore_scene.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---------------------------------------------------------------------------------------------------------- errors */

START_TEST(the_directory_has_to_exist)
{
    told t[2];
    make("missing", MAXIMUM, scene_io(_i), AFLOCK_FOREVER);
    for (int i = 0; i < 2; i++)
        ask(&t[i]);
    for (int i = 0; i < 2; i++) {
        scene_run_until(&t[i].count, 1);
        ck_assert_int_eq(t[i].result.status, AFLOCK_ENOENT);
        ck_assert_int_eq(t[i].result.sys_errno, ENOENT);
        ck_assert_uint_eq(t[i].result.slot, 0);
        ck_assert_str_ne(t[i].path, "");
    }
    ck_assert_int_eq(access("missing", F_OK), -1);
}
END_TEST

/* It is told to the first one who waits; the next one waits on. */
START_TEST(a_slot_goes_bad_while_it_is_waited_for)
{
    told first, second;
    make(".", 2, scene_io(_i), 5 * AFLOCK_MILLISECOND);
    pid_t zero = slot_holder(0), one = slot_holder(1);
    ck_assert_int_eq(mkdir("aside", 0777), 0);
    ask(&first);
    settle();
    ask(&second);
    ck_assert_int_eq(renameat2(AT_FDCWD, "s.01.lock", AT_FDCWD, "aside", RENAME_EXCHANGE), 0);
    scene_run_until(&first.count, 1);
    ck_assert_int_eq(first.result.status, AFLOCK_EISDIR);
    ck_assert_uint_eq(first.result.slot, 1);
    scene_run_until(&second.count, 1);
    ck_assert_int_eq(second.result.status, AFLOCK_EISDIR);
    ck_assert_int_eq(rmdir("s.01.lock"), 0);
    ck_assert_int_eq(aflock_semaphore_acquire(semaphore, 0, NULL, tell, &first, NULL), 0);
    scene_run_until(&first.count, 2);
    ck_assert_int_eq(first.result.status, 0);
    give(first.result.permit);
    scene_holder_end(zero);
    scene_holder_end(one);
}
END_TEST

static atomic_int bad_locks;

/* Of slots, which are files. */
static int judge_lock(seam_call call, int fd, const char *path)
{
    struct stat st;
    (void)path;
    if (call != SEAM_LOCK || fstat(fd, &st) != 0 || !S_ISREG(st.st_mode) || atomic_load(&bad_locks) == 0)
        return 0;
    atomic_fetch_sub(&bad_locks, 1);
    return ENOLCK;
}

START_TEST(what_cannot_be_locked_counts_as_taken)
{
    told t = {.count = 0};
    make(".", 2, scene_io(_i), 2 * AFLOCK_MILLISECOND);
    scene_write("s.00.lock", "");
    scene_write("s.01.lock", "");
    seam_judge_by(judge_lock, NULL);
    atomic_store(&bad_locks, 1);
    ask_for(0, NULL, &t);
    scene_run_until(&t.count, 1);
    ck_assert_int_eq(t.result.status, 0);
    ck_assert_uint_eq(t.result.slot, 1);
    give(t.result.permit);
    atomic_store(&bad_locks, 2);
    ask_for(0, NULL, &t);
    scene_run_until(&t.count, 2);
    ck_assert_int_eq(t.result.status, AFLOCK_EWOULDBLOCK);
    atomic_store(&bad_locks, 20); /* who waits goes on trying */
    t.count = 0;
    ask_for(AFLOCK_FOREVER, NULL, &t);
    scene_run_until(&t.count, 1);
    ck_assert_int_eq(t.result.status, 0);
    give(t.result.permit);
    seam_reset();
    settle();
    ck_assert_int_eq(t.count, 1);
}
END_TEST

START_TEST(a_release_that_fails_is_tried_again)
{
    told t = {.count = 0};
    make(".", 1, scene_io(_i), AFLOCK_FOREVER);
    aflock_permit permit = take(0);
    seam_fail(SEAM_UNLOCK, 0, 2, EIO);
    ck_assert_int_eq(aflock_semaphore_release(semaphore, permit, tell, &t), 0);
    scene_run_until(&t.count, 1);
    ck_assert_int_ne(t.result.status, 0);
    ck_assert_int_eq(t.result.sys_errno, EIO);
    t.count = 0;
    ask_for(10 * AFLOCK_SECOND, NULL, &t);
    scene_run_until(&t.count, 1);
    ck_assert_int_eq(t.result.status, 0);
    give(t.result.permit);
    await_free("s.00.lock");
}
END_TEST

static void must_refuse(int expected, const char *directory, const char *name, unsigned maximum,
                        const aflock_semaphore_options *o)
{
    aflock_semaphore *s = (aflock_semaphore *)&expected;
    ck_assert_int_eq(aflock_semaphore_new(&s, scene, directory, name, maximum, o), expected);
    ck_assert_ptr_null(s);
}

START_TEST(arguments)
{
    aflock_semaphore_options o;
    aflock_options lock;
    told t;
    aflock_semaphore_options_init(&o);
    aflock_options_init(&lock);
    must_refuse(AFLOCK_EINVAL, NULL, "s", 1, NULL);
    must_refuse(AFLOCK_EINVAL, "", "s", 1, NULL);
    must_refuse(AFLOCK_EINVAL, ".", NULL, 1, NULL);
    must_refuse(AFLOCK_EINVAL, ".", "", 1, NULL);
    must_refuse(AFLOCK_EINVAL, ".", "a/b", 1, NULL);
    must_refuse(AFLOCK_EINVAL, ".", "s", 0, NULL);
    must_refuse(AFLOCK_EINVAL, ".", "s", AFLOCK_SEMAPHORE_LIMIT + 1, NULL);
    o.lock = &lock;
    lock.protocol = AFLOCK_SOFT;
    must_refuse(AFLOCK_EINVAL, ".", "s", 1, &o);
    lock.protocol = AFLOCK_NATIVE;
    lock.poll_interval = 0;
    must_refuse(AFLOCK_EINVAL, ".", "s", 3, &o);
    lock.size = 0;
    must_refuse(AFLOCK_EINVAL, ".", "s", 1, &o);
    o.size = sizeof o + 1;
    must_refuse(AFLOCK_EINVAL, ".", "s", 1, &o);
    ck_assert_int_eq(aflock_semaphore_new(NULL, scene, ".", "s", 1, NULL), AFLOCK_EINVAL);
    ck_assert_int_eq(aflock_semaphore_new(&semaphore, NULL, ".", "s", 1, NULL), AFLOCK_EINVAL);
    ck_assert_int_eq(aflock_semaphore_acquire(NULL, 0, NULL, tell, &t, NULL), AFLOCK_EINVAL);
    ck_assert_uint_eq(aflock_semaphore_maximum(NULL), 0);
    ck_assert_ptr_null(aflock_semaphore_lock(NULL, 0));
    aflock_semaphore_free(NULL);
    make_here(AFLOCK_IO_AUTO);
    aflock_permit none = {0};
    ck_assert_int_eq(aflock_semaphore_acquire(semaphore, 0, NULL, NULL, &t, NULL), AFLOCK_EINVAL);
    ck_assert_int_eq(aflock_semaphore_cancel(semaphore, none), AFLOCK_ESTALE);
    ck_assert_int_eq(aflock_semaphore_release(semaphore, none, NULL, NULL), AFLOCK_ESTALE);
    none.id = 7;
    ck_assert_int_eq(aflock_semaphore_release(semaphore, none, NULL, NULL), AFLOCK_ESTALE);
}
END_TEST

/* ---------------------------------------------------------------------------------------------------------- the end */

static void end_semaphore(void)
{
    aflock_semaphore *s = semaphore;
    aflock_semaphore_free(s);
}

/* What waits is answered, what is held is free. */
START_TEST(freed_while_it_is_used)
{
    told t[4];
    make(".", 1, scene_io(_i), AFLOCK_FOREVER);
    if (_i % 2)
        take(0);
    for (int i = 0; i < 4; i++)
        ask(&t[i]);
    if (_i % 2)
        settle();
    end_semaphore();
    for (int i = 0; i < 4; i++) {
        scene_run_until(&t[i].count, 1);
        ck_assert_int_eq(t[i].result.status, AFLOCK_ECANCELED);
    }
    settle();
    semaphore = NULL;
    if (access("s.00.lock", F_OK) == 0)
        await_free("s.00.lock");
}
END_TEST

/* The context is freed in the same breath: each is answered inside of that. */
START_TEST(the_context_ends_with_it)
{
    told t[4], held = {.count = 0};
    make(".", 2, scene_io(_i), AFLOCK_FOREVER);
    aflock_permit permit = take(0);
    take(1);
    for (int i = 0; i < 4; i++)
        ask(&t[i]);
    settle();
    ck_assert_int_eq(aflock_semaphore_release(semaphore, permit, tell, &held), 0);
    end_semaphore();
    scene_free_context();
    semaphore = NULL;
    ck_assert_int_eq(held.count, 1);
    for (int i = 0; i < 4; i++) {
        ck_assert_int_eq(t[i].count, 1);
        ck_assert_int_ne(t[i].result.status, 0);
    }
    ck_assert(scene_is_free("s.00.lock", LOCK_EX) && scene_is_free("s.01.lock", LOCK_EX));
}
END_TEST

static void on_drained(aflock_ctx *ctx, void *user)
{
    (void)ctx;
    ++*(int *)user;
}

START_TEST(a_drain)
{
    told t, other;
    int drained = 0;
    make(".", 1, scene_io(_i), AFLOCK_FOREVER);
    aflock_permit permit = take(0);
    ask(&t);
    settle();
    ck_assert_int_eq(aflock_ctx_drain(scene, on_drained, &drained), 0);
    ck_assert_int_eq(aflock_semaphore_acquire(semaphore, AFLOCK_SECOND, NULL, tell, &other, NULL), AFLOCK_ECLOSED);
    give(permit);
    scene_run_until(&t.count, 1);
    ck_assert(t.result.status == 0 || t.result.status == AFLOCK_ECLOSED);
    ck_assert_int_eq(drained, 0);
    if (t.result.status == 0)
        ck_assert_int_eq(aflock_semaphore_release(semaphore, t.result.permit, NULL, NULL), 0);
    scene_run_until(&drained, 1);
}
END_TEST

START_TEST(a_child)
{
    told t;
    int status;
    make(".", 1, AFLOCK_IO_AUTO, AFLOCK_FOREVER);
    aflock_permit permit = take(0);
    ask(&t);
    settle();
    pid_t child = fork();
    if (child == 0) {
        bool fine = aflock_semaphore_acquire(semaphore, 0, NULL, tell, &t, NULL) == AFLOCK_EFORKED &&
                    aflock_semaphore_release(semaphore, permit, NULL, NULL) == AFLOCK_EFORKED &&
                    aflock_semaphore_cancel(semaphore, permit) == AFLOCK_EFORKED;
        aflock_semaphore_free(semaphore);
        fine &= aflock_ctx_abandon(scene) == 0;
        _exit(fine && t.count == 0 ? EXIT_SUCCESS : EXIT_FAILURE);
    }
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert_int_eq(status, 0);
    ck_assert(!scene_is_free("s.00.lock", LOCK_SH));
    give(permit);
    scene_run_until(&t.count, 1);
    ck_assert_int_eq(t.result.status, 0);
    give(t.result.permit);
}
END_TEST

/* ------------------------------------------------------------------------------------------------------- portalocker
 */

static pid_t python(const char *code)
{
    pid_t pid = fork();
    if (pid == 0) {
        const char *interpreter = getenv("PYTHON");
        close(STDOUT_FILENO); /* Debian's portalocker prints what it does */
        open("/dev/null", O_WRONLY | O_CLOEXEC);
        execlp(interpreter ? interpreter : "/usr/bin/python3", "python3", "-c", code, (char *)NULL);
        _exit(127);
    }
    ck_assert_int_gt(pid, 0);
    return pid;
}

static void python_must(const char *code, int expected)
{
    int status;
    pid_t pid = python(code);
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ck_assert(WIFEXITED(status));
    ck_assert_int_eq(WEXITSTATUS(status), expected);
}

#define PYTHON_ACQUIRES(timeout)                                                                               \
    "import portalocker, sys, os\n"                                                                            \
    "s = portalocker.BoundedSemaphore(2, name='s', directory='.', timeout=" timeout ", check_interval=0.01)\n" \
    "try:\n"                                                                                                   \
    "    s.acquire(fail_when_locked=False)\n"                                                                  \
    "except portalocker.AlreadyLocked:\n"                                                                      \
    "    sys.exit(7)\n"

START_TEST(python_counts_us)
{
    make(".", 2, AFLOCK_IO_AUTO, AFLOCK_FOREVER);
    aflock_permit zero = take(0);
    python_must(PYTHON_ACQUIRES("0.1") "sys.exit(0 if 's.01.lock' in str(s.lock.filename) else 3)\n", 0);
    aflock_permit one = take(1);
    python_must(PYTHON_ACQUIRES("0.1"), 7);
    give(zero);
    python_must(PYTHON_ACQUIRES("0.1") "sys.exit(0 if 's.00.lock' in str(s.lock.filename) else 3)\n", 0);
    give(one);
}
END_TEST

/* It holds both slots; one of them it releases, and with the other one it is killed. */
START_TEST(we_count_python)
{
    told t = {.count = 0}, next;
    make(".", 2, AFLOCK_IO_AUTO, AFLOCK_FOREVER);
    ck_assert_int_eq(mkfifo("go", 0666), 0);
    pid_t other = python(PYTHON_ACQUIRES("5") "one = s; s = portalocker.BoundedSemaphore(2, name='s', directory='.')\n"
                                              "s.acquire()\n"
                                              "open('both', 'w').close()\n"
                                              "open('go').read()\n"
                                              "one.release()\n"
                                              "import time; time.sleep(60)\n");
    for (int i = 0; i < 10000 && access("both", F_OK) != 0; i++)
        usleep(1000);
    ck_assert_int_eq(access("both", F_OK), 0);
    ask_for(0, NULL, &t);
    scene_run_until(&t.count, 1);
    ck_assert_int_eq(t.result.status, AFLOCK_EWOULDBLOCK);
    ask(&t);
    ask(&next);
    settle();
    ck_assert_int_eq(t.count, 0);
    int fd = open("go", O_WRONLY | O_CLOEXEC);
    ck_assert_int_ge(fd, 0);
    close(fd);
    scene_run_until(&t.count, 1);
    ck_assert_int_eq(t.result.status, 0);
    ck_assert_uint_eq(t.result.slot, 0);
    settle();
    ck_assert_int_eq(next.count, 0);
    scene_holder_end(other);
    scene_run_until(&next.count, 1);
    ck_assert_uint_eq(next.result.slot, 1);
    give(t.result.permit);
    give(next.result.permit);
}
END_TEST

int main(void)
{
    const TTest *const once[] = {arguments, a_child, python_counts_us, we_count_python, NULL};
    const TTest *const each[] = {the_directory_has_to_exist,
                                 a_slot_goes_bad_while_it_is_waited_for,
                                 what_cannot_be_locked_counts_as_taken,
                                 a_release_that_fails_is_tried_again,
                                 freed_while_it_is_used,
                                 the_context_ends_with_it,
                                 a_drain,
                                 NULL};
    return semaphore_main("recipes: semaphore, ends", once, each);
}
