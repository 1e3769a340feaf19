/* Soft locks and leases: a cycle of making and unlinking a marker, and what a crowd behind one costs.
 *
 * The raw side of the cycle makes the same kind of marker, complete before it has its name.
 */
#include "bench.h"

#include "runtime/runtime.h"

#include <aflock/epoll.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { CYCLES = 200, WAITERS = 60, SETTLE = 1, SECONDS = 4, QUICK_SECONDS = 1 };

typedef struct cycle {
    aflock_ctx *ctx;
    aflock *lock;
    size_t left;
    char path[256], record[512];
} cycle;

static aflock_options marker_options(aflock_protocol protocol)
{
    aflock_options o;
    aflock_options_init(&o);
    o.protocol = protocol;
    o.io = AFLOCK_IO_INLINE;
    return o;
}

/* --------------------------------------------------------------------------------------------------------- the cycle
 */

static void on_lock(aflock *lock, const aflock_result *result, void *user)
{
    cycle *c = user;
    bench_check(result->status, "acquire");
    bench_check(aflock_release(lock, result->req, NULL, NULL), "aflock_release");
    if (--c->left > 0)
        bench_check(aflock_acquire(lock, NULL, on_lock, c, NULL), "aflock_acquire");
}

static void acquire_cycles(cycle *c, size_t count)
{
    c->left = count;
    bench_check(aflock_acquire(c->lock, NULL, on_lock, c, NULL), "aflock_acquire");
    bench_check(aflock_epoll_run(c->ctx), "aflock_epoll_run");
}

static double soft_slice(void *state)
{
    uint64_t start = bench_cpu();
    acquire_cycles(state, CYCLES);
    return (double)(bench_cpu() - start) / CYCLES;
}

/* Is it still ours, before it is unlinked? */
static void raw_cycle(const cycle *c)
{
    struct stat mine, there;
    char unnamed[64];
    size_t size = strlen(c->record);
    int fd = open(bench_directory, O_TMPFILE | O_WRONLY | O_CLOEXEC, 0666);
    bench_check_errno(fd >= 0, "open");
    bench_check_errno(fstat(fd, &mine) == 0, "fstat");
    bench_check_errno(write(fd, c->record, size) == (ssize_t)size, "write");
    snprintf(unnamed, sizeof unnamed, "/proc/self/fd/%d", fd);
    bench_check_errno(linkat(AT_FDCWD, unnamed, AT_FDCWD, c->path, AT_SYMLINK_FOLLOW) == 0, "linkat");
    bench_check_errno(lstat(c->path, &there) == 0, "lstat");
    bench_check_errno(mine.st_ino == there.st_ino && mine.st_dev == there.st_dev, "the same file");
    bench_check_errno(unlink(c->path) == 0, "unlink");
    bench_check_errno(close(fd) == 0, "close");
}

static double raw_slice(void *state)
{
    uint64_t start = bench_cpu();
    for (size_t i = 0; i < CYCLES; i++)
        raw_cycle(state);
    return (double)(bench_cpu() - start) / CYCLES;
}

static void compare_cycles(aflock_protocol protocol, const char *what, const char *record)
{
    cycle c = {.left = 0};
    const aflock_options o = marker_options(protocol);
    bench_pin();
    snprintf(c.path, sizeof c.path, "%s", bench_file(0));
    snprintf(c.record, sizeof c.record, "%s", record);
    unlink(c.path);
    bench_check(aflock_epoll_new(&c.ctx, NULL), "aflock_epoll_new");
    bench_check(aflock_open(&c.lock, c.ctx, c.path, &o), "aflock_open");
    acquire_cycles(&c, 100);
    bench_compare(&(bench_line){.row = "soft",
                                .what = what,
                                .against = "tmpfile fstat write link stat unlink close",
                                .unit = "ns",
                                .bar = 1.3,
                                .judged = true},
                  soft_slice, raw_slice, &c);
    bench_check(aflock_close(c.lock), "aflock_close");
    bench_check(aflock_ctx_free(c.ctx, AFLOCK_SECOND), "aflock_ctx_free");
    bench_unpin();
}

void row_soft(void)
{
    char record[512];
    snprintf(record, sizeof record, "%ld\nhost\n%032d\n", (long)getpid(), 1);
    compare_cycles(AFLOCK_SOFT, "acquire, callback, release of a soft lock (inline)", record);
    snprintf(record, sizeof record,
             "filelock/2\npid=%ld\nhost=host\nmode=lease\ntoken=%032d\nduration=30\nstart=%055d\n", (long)getpid(), 1,
             1);
    compare_cycles(AFLOCK_LEASE, "acquire, callback, release of a lease (inline)", record);
}

/* --------------------------------------------------------------------------------------------------------- the crowd
 */

static atomic_uint reads, looks;

static int counted_open(const char *path, int flags, mode_t mode)
{
    if (strncmp(path, bench_directory, strlen(bench_directory)) == 0)
        atomic_fetch_add(&reads, 1);
    return afl_sys_linux.open(path, flags, mode);
}

static int counted_stat(const char *path, struct stat *st, bool follow)
{
    atomic_fetch_add(&looks, 1);
    return afl_sys_linux.stat(path, st, follow);
}

static void put_in_the_seam(aflock_ctx *ctx)
{
    static afl_sys table;
    table = afl_sys_linux;
    table.open = counted_open;
    table.stat = counted_stat;
    ctx->sys = &table;
    ctx->gate->sys = &table;
}

static void never(aflock *lock, const aflock_result *result, void *user)
{
    (void)lock, (void)user;
    bench_check(result->status == AFLOCK_ECLOSED ? 0 : AFLOCK_EBUSY, "a waiter got the marker");
}

/* A process that holds the marker and does nothing. */
static pid_t hold_marker(void)
{
    int ready[2];
    char byte = 0;
    bench_check_errno(pipe2(ready, O_CLOEXEC) == 0, "pipe");
    pid_t pid = fork();
    bench_check_errno(pid >= 0, "fork");
    if (pid == 0) {
        cycle c = {.left = 0};
        const aflock_options o = marker_options(AFLOCK_SOFT);
        bench_check(aflock_epoll_new(&c.ctx, NULL), "aflock_epoll_new");
        bench_check(aflock_open(&c.lock, c.ctx, bench_file(0), &o), "aflock_open");
        bench_check(aflock_try(c.lock, NULL, &(aflock_req){0}, NULL), "aflock_try");
        bench_check_errno(write(ready[1], &byte, 1) == 1, "write");
        for (;;)
            pause();
    }
    bench_check_errno(read(ready[0], &byte, 1) == 1, "a holder");
    close(ready[0]);
    close(ready[1]);
    return pid;
}

/* One thread turns all loops, every 2 ms. */
static void turn_all(aflock_ctx *const ctx[], double seconds)
{
    const struct timespec pause = {.tv_nsec = 2000000};
    const uint64_t end = bench_wall() + (uint64_t)(seconds * 1e9);
    while (bench_wall() < end) {
        for (int i = 0; i < WAITERS; i++)
            bench_check(aflock_epoll_run_once(ctx[i], 0), "aflock_epoll_run_once");
        nanosleep(&pause, NULL);
    }
}

void row_soft_crowd(void)
{
    aflock_ctx *ctx[WAITERS];
    aflock *lock;
    const aflock_options o = marker_options(AFLOCK_SOFT);
    const int seconds = bench.quick ? QUICK_SECONDS : SECONDS;
    unlink(bench_file(0));
    pid_t holder = hold_marker();
    for (int i = 0; i < WAITERS; i++) {
        bench_check(aflock_epoll_new(&ctx[i], NULL), "aflock_epoll_new");
        put_in_the_seam(ctx[i]);
        bench_check(aflock_open(&lock, ctx[i], bench_file(0), &o), "aflock_open");
        bench_check(aflock_acquire(lock, NULL, never, NULL, NULL), "aflock_acquire");
    }
    turn_all(ctx, SETTLE);
    atomic_store(&reads, 0);
    atomic_store(&looks, 0);
    turn_all(ctx, seconds);
    const double opened = (double)atomic_load(&reads) / seconds, looked = (double)atomic_load(&looks) / seconds;
    for (int i = 0; i < WAITERS; i++)
        bench_check(aflock_ctx_free(ctx[i], AFLOCK_SECOND), "aflock_ctx_free");
    kill(holder, SIGKILL);
    waitpid(holder, NULL, 0);
    unlink(bench_file(0));
    bench_add(&(bench_line){.row = "soft-crowd",
                            .what = "60 contexts behind a marker: records read a second",
                            .unit = "reads",
                            .ours = opened,
                            .bar = 200,
                            .judged = true});
    bench_add(&(bench_line){.row = "soft-crowd",
                            .what = "60 contexts behind a marker: looks at it a second",
                            .unit = "stats",
                            .ours = looked});
}
