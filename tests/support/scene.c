/* See scene.h. */
#include "support/scene.h"

#include "runtime/runtime.h"
#include "support/folder.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { WATCHDOG = 30 }; /* seconds: on a busy machine a thread may wait long for its turn */

aflock_ctx *scene;
char scene_directory[PATH_MAX];
int scene_contended, scene_inline, scene_pooled, scene_logged;
char scene_message[512];

static char all_scenes[PATH_MAX]; /* what tests that crash leave is removed with it */
static int descriptors_before;
static int asked, answered;

/* ----------------------------------------------------------------------------------------------------- the fixture */

static void on_trace(aflock_trace_event event, const char *path, aflock_req req, int64_t value, void *user)
{
    (void)path, (void)req, (void)user;
    if (event == AFLOCK_TRACE_CONTENDED)
        scene_contended++;
    if (event == AFLOCK_TRACE_ATTEMPT)
        *(value == 1 ? &scene_inline : &scene_pooled) += 1;
}

static void on_log(aflock_log_level level, const char *message, void *user)
{
    (void)level, (void)user;
    scene_logged++;
    snprintf(scene_message, sizeof scene_message, "%s", message);
}

void scene_make_context(void)
{
    aflock_ctx_options o;
    aflock_epoll_options e;
    aflock_ctx_options_init(&o);
    aflock_epoll_options_init(&e);
    o.trace = on_trace;
    o.log = on_log;
    e.ctx = &o;
    scene_contended = scene_inline = scene_pooled = scene_logged = 0;
    asked = answered = 0;
    descriptors_before = scene_descriptors();
    ck_assert_int_eq(aflock_epoll_new(&scene, &e), 0);
    seam_install(scene);
    seam_reset();
}

void scene_free_context(void)
{
    if (scene) {
        ck_assert_int_eq(aflock_ctx_free(scene, WATCHDOG * AFLOCK_SECOND), 0);
        scene = NULL;
        ck_assert_int_eq(answered, asked);
    }
    scene_await_descriptors(descriptors_before); /* of the workers of a context that a test ended itself, too */
}

void scene_begin(void)
{
    ck_assert(folder_make(scene_directory, all_scenes[0] ? all_scenes : NULL));
    ck_assert_int_eq(chdir(scene_directory), 0);
    scene_make_context();
}

void scene_end(void)
{
    scene_free_context();
    ck_assert_int_eq(chdir("/"), 0);
    ck_assert(folder_remove(scene_directory));
}

/* ------------------------------------------------------------------------------------------------------- the calls */

aflock *scene_open(const char *path, aflock_io io)
{
    aflock *lock;
    aflock_options o;
    aflock_options_init(&o);
    o.io = io;
    o.poll_interval = 500 * AFLOCK_MICROSECOND;
    ck_assert_int_eq(aflock_open(&lock, scene, path, &o), 0);
    return lock;
}

aflock_acquire_options scene_options(uint32_t more_flags, uint32_t fewer_flags)
{
    aflock_acquire_options o;
    aflock_acquire_options_init(&o);
    o.flags = (o.flags | more_flags) & ~fewer_flags;
    return o;
}

void scene_answer(aflock *lock, const aflock_result *result, void *user)
{
    answer *a = user;
    (void)lock;
    a->count++;
    answered++;
    a->result = *result;
    a->result.step = NULL; /* the callback's only */
    a->result.path = NULL;
    a->result.detail = NULL;
    strncpy(a->step, result->step ? result->step : "", sizeof a->step - 1);
    strncpy(a->path, result->path, sizeof a->path - 1);
    snprintf(a->detail, sizeof a->detail, "%s", result->detail ? result->detail : "");
    a->result.token = NULL;
    snprintf(a->token, sizeof a->token, "%s", result->token ? result->token : "");
}

void scene_hand_on_for_ever(void)
{
    afl_machine_config *config = &scene->machine.config;
    config->handoff_grants = UINT32_MAX;
    config->handoff_time = config->check_interval = AFLOCK_FOREVER;
}

void scene_expect(int answers)
{
    asked += answers;
}

static time_t seconds(void)
{
    struct timespec t;
    ck_assert_int_eq(clock_gettime(CLOCK_MONOTONIC, &t), 0);
    return t.tv_sec;
}

/* Where tests have to fail (scripts/mutate) nobody wants to wait so long for it. */
time_t scene_limit(void)
{
    const char *chosen = getenv("AFLOCK_TEST_WATCHDOG");
    return seconds() + (chosen ? atoi(chosen) : WATCHDOG);
}

void scene_nap(time_t limit, const char *what)
{
    ck_assert_msg(seconds() < limit, "it never came that %s", what);
    usleep(1000);
}

void scene_turn(time_t limit, const char *what)
{
    ck_assert_msg(seconds() < limit, "it never came that %s", what);
    ck_assert_int_eq(aflock_epoll_run_once(scene, 5 * AFLOCK_MILLISECOND), 0);
}

void scene_run_until(const int *counter, int value)
{
    for (time_t limit = scene_limit(); *counter < value;) {
        ck_assert_int_eq(aflock_epoll_run_once(scene, AFLOCK_SECOND), 0);
        ck_assert_msg(seconds() < limit, "nothing came");
    }
}

answer scene_acquire(aflock *lock, const aflock_acquire_options *options)
{
    answer a = {0};
    aflock_req req;
    ck_assert_int_eq(aflock_acquire(lock, options, scene_answer, &a, &req), 0);
    asked++;
    ck_assert_int_eq(a.count, 0);
    scene_run_until(&a.count, 1);
    ck_assert_int_eq(a.count, 1);
    ck_assert(a.result.req.id == req.id);
    ck_assert_str_eq(a.path, aflock_path(lock));
    return a;
}

aflock_req scene_hold(aflock *lock, const aflock_acquire_options *options)
{
    answer a = scene_acquire(lock, options);
    ck_assert_msg(a.result.status == 0, "%s at %s: %s", aflock_error_name(a.result.status), a.step,
                  strerror(a.result.sys_errno));
    ck_assert_int_ge(a.result.fd, 0);
    ck_assert_int_eq(a.result.fd, aflock_fd(lock, a.result.req));
    return a.result.req;
}

answer scene_release(aflock *lock, aflock_req req)
{
    answer a = {0};
    ck_assert_int_eq(aflock_release(lock, req, scene_answer, &a), 0);
    asked++;
    scene_run_until(&a.count, 1);
    return a;
}

void scene_must_work(aflock *lock)
{
    aflock_req req = scene_hold(lock, NULL);
    ck_assert(!scene_is_free(aflock_path(lock), LOCK_SH));
    ck_assert_int_eq(scene_release(lock, req).result.status, 0);
    ck_assert(scene_is_free(aflock_path(lock), LOCK_EX));
    ck_assert_int_eq(aflock_depth(lock, NULL), 0);
}

/* -------------------------------------------------------------------------------------------------- other processes */

bool scene_is_free(const char *path, int operation)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    ck_assert_int_ge(fd, 0);
    int rc = flock(fd, operation | LOCK_NB);
    ck_assert(rc == 0 || errno == EWOULDBLOCK);
    close(fd);
    return rc == 0;
}

static bool is_blocked(const char *path)
{
    char line[256], inode[32];
    struct stat st;
    bool found = false;
    FILE *locks = fopen("/proc/locks", "re");
    ck_assert_ptr_nonnull(locks);
    ck_assert_int_eq(stat(path, &st), 0);
    snprintf(inode, sizeof inode, ":%lu ", (unsigned long)st.st_ino);
    while (fgets(line, sizeof line, locks))
        found |= strstr(line, "-> FLOCK") && strstr(line, inode);
    fclose(locks);
    return found;
}

void scene_await_blocked(const char *path)
{
    time_t end = time(NULL) + WATCHDOG;
    while (!is_blocked(path)) {
        ck_assert_int_eq(aflock_epoll_run_once(scene, AFLOCK_MILLISECOND), 0);
        ck_assert_msg(time(NULL) < end, "nobody is blocked");
    }
}

pid_t scene_holder(const char *path, int flags, int operation)
{
    int ready[2];
    char byte;
    ck_assert_int_eq(pipe2(ready, O_CLOEXEC), 0);
    pid_t pid = fork();
    ck_assert_int_ge(pid, 0);
    if (pid == 0) {
        int fd = open(path, flags, 0666);
        if (fd < 0 || flock(fd, operation) != 0 || write(ready[1], "", 1) != 1)
            _exit(1);
        for (;;)
            pause();
    }
    close(ready[1]);
    ck_assert_int_eq(read(ready[0], &byte, 1), 1);
    close(ready[0]);
    return pid;
}

void scene_holder_end(pid_t pid)
{
    int status;
    ck_assert_int_eq(kill(pid, SIGKILL), 0);
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ck_assert(WIFSIGNALED(status));
}

void scene_in_child(void (*body)(void))
{
    int status;
    pid_t pid = fork();
    ck_assert_int_ge(pid, 0);
    if (pid == 0) {
        body();
        _exit(0); /* a failed assertion exits with 1 */
    }
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ck_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* ---------------------------------------------------------------------------------------------------------- looking */

int scene_entries(const char *folder)
{
    int count = 0;
    DIR *d = opendir(folder);
    ck_assert_ptr_nonnull(d);
    for (const struct dirent *e; (e = readdir(d)) != NULL;)
        count += strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
    closedir(d);
    return count;
}

int scene_descriptors(void)
{
    return scene_entries("/proc/self/fd") - 1; /* the one that reads the folder */
}

void scene_await_descriptors(int expected)
{
    for (time_t limit = scene_limit(); scene_descriptors() != expected && seconds() < limit;)
        usleep(1000);
    ck_assert_int_eq(scene_descriptors(), expected);
}

void scene_write(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    close(fd);
}

long scene_size(const char *path)
{
    struct stat st;
    return lstat(path, &st) == 0 ? (long)st.st_size : -1;
}

unsigned scene_mode(const char *path)
{
    struct stat st;
    ck_assert_int_eq(lstat(path, &st), 0);
    return (unsigned)st.st_mode & 07777;
}

void scene_long_path(char *path, size_t length)
{
    for (size_t i = 0; i < length; i++)
        path[i] = i % 2 ? '/' : 'x';
    path[length] = '\0';
}

static void make_folder(void)
{
    ck_assert(folder_make(all_scenes, NULL));
    ck_assert_int_eq(chmod(all_scenes, 0755), 0); /* some tests give up root's rights */
}

static void remove_folder(void)
{
    folder_remove(all_scenes);
}

void scene_folder(TCase *tcase)
{
    tcase_add_unchecked_fixture(tcase, make_folder, remove_folder);
}

int scene_main_with(void (*begin)(void), void (*end)(void), int seconds, const char *name, const TTest *const once[],
                    const TTest *const each[])
{
    Suite *suite = suite_create(name);
    TCase *tcase = tcase_create(name);
    tcase_set_timeout(tcase, seconds);
    scene_folder(tcase);
    tcase_add_checked_fixture(tcase, begin, end);
    for (size_t i = 0; once && once[i]; i++)
        tcase_add_test(tcase, once[i]);
    for (size_t i = 0; each && each[i]; i++)
        tcase_add_loop_test(tcase, each[i], 0, SCENE_IO_COUNT);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

int scene_main_within(int seconds, const char *name, const TTest *const once[], const TTest *const each[])
{
    return scene_main_with(scene_begin, scene_end, seconds, name, once, each);
}

int scene_main(const char *name, const TTest *const once[], const TTest *const each[])
{
    return scene_main_within(3 * WATCHDOG, name, once, each);
}
