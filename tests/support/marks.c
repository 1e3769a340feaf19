/* See marks.h. */
#include "support/marks.h"

#include "locks/identity.h"
#include "runtime/runtime.h"

#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* ------------------------------------------------------------------------------------------------------- the others */

pid_t sleeper(void)
{
    pid_t pid = fork();
    ck_assert_int_ge(pid, 0);
    if (pid != 0)
        return pid;
    for (;;)
        pause();
}

pid_t dead_pid(void)
{
    pid_t pid = sleeper();
    scene_holder_end(pid);
    return pid;
}

const char *host_name(void)
{
    static char name[AFL_HOST_NAME];
    ck_assert(afl_host_name(&afl_sys_linux, name));
    return name;
}

static void start_of(pid_t pid, char token[AFL_START_TEXT])
{
    afl_start start;
    ck_assert(afl_process_start(&afl_sys_linux, pid, &start));
    ck_assert_uint_gt(afl_start_print(&start, token), 0);
}

void record_of(pid_t pid, char *text, size_t size)
{
    char token[AFL_START_TEXT];
    start_of(pid, token);
    snprintf(text, size, "%d\n%s\n%s\n", (int)pid, host_name(), token);
}

void mark(const char *path, pid_t pid)
{
    char text[1024];
    record_of(pid, text, sizeof text);
    scene_write(path, text);
}

void mark_without_token(const char *path, pid_t pid, const char *host)
{
    char text[1024];
    snprintf(text, sizeof text, "%d\n%s\n", (int)pid, host);
    scene_write(path, text);
}

void lease_of(pid_t pid, const char *token, const char *duration, char *text, size_t size)
{
    char start[AFL_START_TEXT];
    start_of(pid, start);
    snprintf(text, size, "filelock/2\npid=%d\nhost=%s\nmode=lease\ntoken=%s\nduration=%s\nstart=%s\n", (int)pid,
             host_name(), token, duration, start);
}

void mark_lease(const char *path, pid_t pid, const char *duration)
{
    char text[1024];
    lease_of(pid, "0123456789abcdef0123456789abcdef", duration, text, sizeof text);
    scene_write(path, text);
}

static void set_times(const char *path, struct timespec at)
{
    const struct timespec times[2] = {at, at};
    ck_assert_int_eq(utimensat(AT_FDCWD, path, times, AT_SYMLINK_NOFOLLOW), 0);
}

void make_older(const char *path, int seconds)
{
    struct timespec at;
    ck_assert_int_eq(clock_gettime(CLOCK_REALTIME, &at), 0);
    at.tv_sec -= seconds;
    set_times(path, at);
}

void set_time(const char *path, uint64_t realtime)
{
    set_times(path, (struct timespec){.tv_sec = (time_t)(realtime / AFLOCK_SECOND),
                                      .tv_nsec = (long)(realtime % AFLOCK_SECOND)});
}

void must_read(const char *path, const char *expected)
{
    char text[2048] = "";
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_ge(read(fd, text, sizeof text - 1), 0);
    close(fd);
    ck_assert_str_eq(text, expected);
}

/* ------------------------------------------------------------------------------------------------------ what fails */

static seam_call failing;
static int failing_error, failing_times;

static int on_the_marker(seam_call call, int fd, const char *path)
{
    char link[64], target[PATH_MAX] = "";
    if (call != failing)
        return 0;
    if (!path && fd >= 0) {
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        ssize_t n = readlink(link, target, sizeof target - 1);
        path = n < 0 ? "" : target;
    }
    const bool unnamed = path && strstr(path, "/#") && strstr(path, " (deleted)"); /* it has no name yet */
    return path && (unnamed || strstr(path, "/lock")) && failing_times-- > 0 ? failing_error : 0;
}

static void fail_times(seam_call call, int error, int times)
{
    seam_judge_by(NULL, NULL); /* a worker may be looking */
    failing = call;
    failing_error = error;
    failing_times = times;
    if (error)
        seam_judge_by(on_the_marker, NULL);
}

void make_fail(seam_call call, int error)
{
    fail_times(call, error, INT_MAX);
}

void make_fail_once(seam_call call, int error)
{
    fail_times(call, error, 1);
}

/* -------------------------------------------------------------------------------------------------------- our side */

answer try_for(aflock *lock, uint64_t timeout)
{
    aflock_acquire_options o = scene_options(0, 0);
    o.timeout = timeout;
    return scene_acquire(lock, &o);
}

void must_release(aflock *lock, aflock_req req)
{
    answer a = scene_release(lock, req);
    ck_assert_int_eq(a.result.status, 0);
    ck_assert_int_eq(a.result.cleanup_errno, 0);
}

void must_respect(aflock *lock)
{
    struct stat before, after;
    ck_assert_int_eq(lstat("lock", &before), 0);
    answer a = try_for(lock, A_MOMENT);
    ck_assert_int_eq(a.result.status, AFLOCK_ETIMEDOUT);
    ck_assert_int_eq(lstat("lock", &after), 0);
    ck_assert(before.st_ino == after.st_ino && before.st_mtim.tv_nsec == after.st_mtim.tv_nsec);
    ck_assert_int_eq(scene_entries("."), 1);
}

void wait_for(aflock *lock, answer *a)
{
    int contended = scene_contended;
    ck_assert_int_eq(aflock_acquire(lock, NULL, scene_answer, a, NULL), 0);
    scene_expect(1);
    scene_run_until(&scene_contended, contended + 2);
}

/* --------------------------------------------------------------------------------------------------------- looking */

static void see(aflock *lock, const aflock_holder *holder, void *user)
{
    sight *s = user;
    (void)lock;
    s->holder = *holder;
    snprintf(s->host, sizeof s->host, "%s", holder->host);
    snprintf(s->token, sizeof s->token, "%s", holder->token);
    s->count++;
}

sight look_in_vain(aflock *lock, int status)
{
    sight s = {0};
    ck_assert_int_eq(aflock_inspect(lock, see, &s), 0);
    scene_run_until(&s.count, 1);
    ck_assert_int_eq(s.holder.status, status);
    return s;
}

sight look(aflock *lock)
{
    return look_in_vain(lock, 0);
}

/* ----------------------------------------------------------------------------------------------------- the clocks */

static atomic_uint_least64_t boot, real;

static uint64_t boottime(void)
{
    return atomic_load(&boot);
}

static uint64_t realtime(void)
{
    return atomic_load(&real);
}

void stop_clocks(uint64_t at_boot, uint64_t at_real)
{
    static afl_sys table;
    table = *scene->sys;
    atomic_store(&boot, at_boot);
    atomic_store(&real, at_real);
    table.boottime = boottime;
    if (at_real)
        table.realtime = realtime;
    scene->sys = &table;
}

void pass_boottime(uint64_t ns)
{
    atomic_fetch_add(&boot, ns);
}

void pass_realtime(uint64_t ns)
{
    atomic_fetch_add(&real, ns);
}
