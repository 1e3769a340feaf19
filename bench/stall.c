/* A loop while every call on the file system takes 200 ms: no such call is made on the loop's thread, no call of the
 * library takes long, and the loop ticks as one without locks does.
 *
 * How long a call took is the processor time of the loop's thread, for what other programs take does not count; what
 * the thread waits for is counted as calls of the seam, and as requests that reach the file system. */
#include "bench.h"

#ifndef BENCH_HAVE_STALL

void row_stall(void)
{
    bench_skip("stall", "built without the tests (libfuse3-dev)");
}

#else

#include "runtime/runtime.h"
#include "stall.h"

#include <aflock/epoll.h>

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MS AFLOCK_MILLISECOND

enum {
    CALL_MS = 200,
    LOCKS = 16,
    SLICE_TICKS = 50,
    SLICES = 40, /* of a block, per side */
    QUICK_SLICES = 10
};

/* A loop that ticks, with locks or without. */
typedef struct ticker {
    aflock_ctx *ctx;
    uint64_t due;
    size_t count, wanted;
    double late[SLICES * SLICE_TICKS]; /* ms */
    bool stopped;
    double longest; /* ms, of the library's calls in this block */
} ticker;

enum { OURS, THEIRS, CONTROL, SIDES };
static ticker side[SIDES];

/* ----------------------------------------------------------------------------------------------- what the loop calls
 */

static pthread_t loop_thread;
static atomic_uint on_loop, elsewhere;

static void note(void)
{
    atomic_fetch_add(pthread_equal(pthread_self(), loop_thread) ? &on_loop : &elsewhere, 1);
}

static int noted_open(const char *path, int flags, mode_t mode)
{
    note();
    return afl_sys_linux.open(path, flags, mode);
}

static int noted_open_cached(const char *path, int flags)
{
    note();
    return afl_sys_linux.open_cached(path, flags);
}

static int noted_close(int fd)
{
    note();
    return afl_sys_linux.close(fd);
}

static int noted_flock(int fd, int operation)
{
    note();
    return afl_sys_linux.flock(fd, operation);
}

static int noted_fstat(int fd, struct stat *st)
{
    note();
    return afl_sys_linux.fstat(fd, st);
}

static int noted_stat(const char *path, struct stat *st, bool follow)
{
    note();
    return afl_sys_linux.stat(path, st, follow);
}

static int noted_identify(int fd, afl_identity *id)
{
    note();
    return afl_sys_linux.identify(fd, id);
}

static int noted_mkdir(const char *path, mode_t mode)
{
    note();
    return afl_sys_linux.mkdir(path, mode);
}

static ssize_t noted_read(int fd, void *buffer, size_t size)
{
    note();
    return afl_sys_linux.read(fd, buffer, size);
}

static ssize_t noted_readlink(const char *path, char *target, size_t size)
{
    note();
    return afl_sys_linux.readlink(path, target, size);
}

static void put_in_the_seam(aflock_ctx *ctx)
{
    static afl_sys table;
    table = afl_sys_linux;
    table.open = noted_open;
    table.open_cached = noted_open_cached;
    table.close = noted_close;
    table.flock = noted_flock;
    table.fstat = noted_fstat;
    table.stat = noted_stat;
    table.identify = noted_identify;
    table.mkdir = noted_mkdir;
    table.read = noted_read;
    table.readlink = noted_readlink;
    loop_thread = pthread_self();
    ctx->sys = &table;
    ctx->gate->sys = &table;
}

/* ------------------------------------------------------------------------------------------------------- the requests
 */

static uint64_t began(void)
{
    return bench_cpu();
}

static void ended(ticker *t, uint64_t start)
{
    double took = (double)(bench_cpu() - start) / (double)MS;
    t->longest = took > t->longest ? took : t->longest;
}

static void on_end(aflock *lock, const aflock_result *result, void *user);

/* Each lock is asked for over and over, with a deadline that mostly passes while the first calls are under way. */
static void ask(ticker *t, aflock *lock)
{
    aflock_acquire_options o;
    aflock_acquire_options_init(&o);
    o.timeout = 2 * CALL_MS * MS;
    if (t->stopped)
        return;
    uint64_t start = began();
    bench_check(aflock_acquire(lock, &o, on_end, t, NULL), "aflock_acquire");
    ended(t, start);
}

static void on_end(aflock *lock, const aflock_result *result, void *user)
{
    ticker *t = user;
    if (result->status == 0) {
        uint64_t start = began();
        bench_check(aflock_release(lock, result->req, NULL, NULL), "aflock_release");
        ended(t, start);
    } else if (result->status != AFLOCK_ETIMEDOUT && !t->stopped) {
        bench_check(result->status, "acquire");
    }
    ask(t, lock);
}

/* ---------------------------------------------------------------------------------------------------------- the ticks
 */

static void on_tick(aflock_ctx *ctx, void *user)
{
    ticker *t = user;
    uint64_t now = bench_wall();
    t->late[t->count++] = now > t->due ? (double)(now - t->due) / (double)MS : 0;
    if (t->count == t->wanted)
        return;
    t->due = now + MS;
    bench_check(aflock_epoll_timer(ctx, MS, on_tick, t), "aflock_epoll_timer");
}

/* Ticks of 1 ms, whose lateness is added to what is there. */
static void tick(ticker *t)
{
    t->wanted = t->count + SLICE_TICKS;
    t->due = bench_wall() + MS;
    bench_check(aflock_epoll_timer(t->ctx, MS, on_tick, t), "aflock_epoll_timer");
    while (t->count < t->wanted) {
        uint64_t start = began();
        bench_check(aflock_epoll_run_once(t->ctx, AFLOCK_SECOND), "aflock_epoll_run_once");
        ended(t, start);
    }
}

static int upward(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double percentile(ticker *t)
{
    qsort(t->late, t->count, sizeof *t->late, upward);
    return t->late[t->count - 1 - t->count / 1000];
}

/* A block: short slices of each side, because a percentile hangs on few ticks, and what else the machine does has to
 * meet all sides. Who begins changes from slice to slice. */
static void run_block(double result[SIDES])
{
    size_t slices = bench.quick ? QUICK_SLICES : SLICES;
    for (size_t k = 0; k < SIDES; k++) {
        side[k].count = 0;
        side[k].longest = 0;
    }
    for (size_t i = 0; i < slices; i++)
        for (size_t k = 0; k < SIDES; k++)
            tick(&side[(i + k) % SIDES]);
    for (size_t k = 0; k < SIDES; k++)
        result[k] = percentile(&side[k]);
}

/* ----------------------------------------------------------------------------------------------------------- the rows
 */

static void begin(const char *folder)
{
    aflock_options o;
    aflock_options_init(&o);
    o.io = AFLOCK_IO_POOL;
    memset(side, 0, sizeof side);
    for (size_t k = 0; k < SIDES; k++)
        bench_check(aflock_epoll_new(&side[k].ctx, NULL), "aflock_epoll_new");
    put_in_the_seam(side[OURS].ctx);
    for (int i = 0; i < LOCKS; i++) {
        aflock *lock;
        char path[512];
        snprintf(path, sizeof path, "%s/%d/lock", folder, i);
        uint64_t start = began();
        bench_check(aflock_open(&lock, side[OURS].ctx, path, &o), "aflock_open");
        ended(&side[OURS], start);
        ask(&side[OURS], lock);
    }
}

static void end(void)
{
    side[OURS].stopped = true;
    for (size_t k = 0; k < SIDES; k++) {
        uint64_t start = began();
        bench_check(aflock_ctx_free(side[k].ctx, 10 * AFLOCK_SECOND), "aflock_ctx_free");
        ended(&side[k], start);
    }
}

static void measure(stall *fs)
{
    bench_line ticks = {.row = "stall",
                        .what = "calls of 200 ms: tick of the loop, p99.9 late",
                        .against = "the same loop without locks",
                        .unit = "ms",
                        .bar = 1,
                        .judged = true,
                        .difference = true,
                        .blocks = bench.blocks};
    bench_line longest = {.row = "stall",
                          .what = "calls of 200 ms: longest call of the library",
                          .unit = "ms",
                          .bar = 10,
                          .judged = true,
                          .blocks = bench.blocks};
    double result[SIDES], ours[MAX_BLOCKS], theirs[MAX_BLOCKS], maxima[MAX_BLOCKS];
    for (size_t b = 0; b < bench.blocks; b++) {
        run_block(result);
        if (b == bench.blocks - 1)
            end(); /* the longest call of all may be the last */
        ours[b] = result[OURS];
        theirs[b] = result[THEIRS];
        ticks.ratio[b] = result[OURS] - result[THEIRS];
        ticks.control[b] = result[CONTROL] - result[THEIRS];
        ticks.spread = fmax(ticks.spread, fabs(ticks.control[b]));
        maxima[b] = longest.ratio[b] = side[OURS].longest;
    }
    ticks.ours = bench_median(ours, bench.blocks);
    ticks.theirs = bench_median(theirs, bench.blocks);
    longest.ours = bench_median(maxima, bench.blocks);
    bench_add(&ticks);
    bench_add(&longest);
    bench_add(&(bench_line){.row = "stall",
                            .what = "calls of 200 ms: file-system calls on the loop",
                            .unit = "calls",
                            .ours = (double)(on_loop + stall_by_watched(fs)),
                            .judged = true});
    bench_add(&(bench_line){.row = "stall",
                            .what = "calls of 200 ms: file-system calls elsewhere",
                            .unit = "calls",
                            .ours = (double)elsewhere});
}

void row_stall(void)
{
    char point[256], backing[300];
    snprintf(point, sizeof point, "%s/m", bench_directory);
    snprintf(backing, sizeof backing, "%s.files", point);
    bench_check_errno(mkdir(point, 0777) == 0 && mkdir(backing, 0777) == 0, "mkdir");
    stall *fs = stall_is_possible() && stall_enter_namespace() ? stall_mount(point, backing) : NULL;
    if (fs) {
        stall_delay(fs, CALL_MS * MS);
        begin(point);
        measure(fs);
    } else {
        bench_skip("stall", "a FUSE file system cannot be mounted here");
    }
    stall_unmount(fs);
    for (int i = 0; i < LOCKS; i++) {
        char path[400];
        snprintf(path, sizeof path, "%s/%d/lock", backing, i);
        unlink(path);
        *strrchr(path, '/') = '\0';
        rmdir(path);
    }
    rmdir(backing);
    rmdir(point);
}

#endif
