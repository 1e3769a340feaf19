/* The uncontended path: a whole acquisition and release on a file that nobody else wants, and what it costs beyond the
 * calls that anybody has to make. */
#include "bench.h"

#include <aflock/epoll.h>

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum { CYCLES = 500 };

typedef struct cycle {
    aflock_ctx *ctx;
    aflock *lock;
    size_t left;
    char path[256];
} cycle;

/* -------------------------------------------------------------------------------------------------- the raw calls */

static void raw_cycles(const cycle *c, size_t count)
{
    for (size_t i = 0; i < count; i++)
        bench_raw_cycle(c->path);
}

static double raw_slice(void *state)
{
    uint64_t start = bench_cpu();
    raw_cycles(state, CYCLES);
    return (double)(bench_cpu() - start) / CYCLES;
}

/* ---------------------------------------------------------------------------------------- acquire, callback, release
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

static double acquire_slice(void *state)
{
    uint64_t start = bench_cpu();
    acquire_cycles(state, CYCLES);
    return (double)(bench_cpu() - start) / CYCLES;
}

/* ------------------------------------------------------------------------------------------------------ aflock_try */

/* A mount or rename elsewhere on the machine makes the kernel's cache refuse an answer: then it is asked again. */
static void try_cycles(const cycle *c, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        aflock_req req;
        int status;
        do
            status = aflock_try(c->lock, NULL, &req, NULL);
        while (status == AFLOCK_ENOTINLINE);
        bench_check(status, "aflock_try");
        bench_check(aflock_release(c->lock, req, NULL, NULL), "aflock_release");
    }
}

static double try_slice(void *state)
{
    uint64_t start = bench_cpu();
    try_cycles(state, CYCLES);
    return (double)(bench_cpu() - start) / CYCLES;
}

/* ---------------------------------------------------------------------------------------------------------- the rows
 */

static void begin_with(cycle *c, const aflock_options *options, bool count_memory)
{
    aflock_epoll_options e;
    aflock_ctx_options o;
    aflock_epoll_options_init(&e);
    aflock_ctx_options_init(&o);
    if (count_memory)
        bench_hook_memory(&o);
    e.ctx = &o;
    memset(c, 0, sizeof *c);
    snprintf(c->path, sizeof c->path, "%s", bench_file(0));
    bench_check(aflock_epoll_new(&c->ctx, &e), "aflock_epoll_new");
    bench_check(aflock_open(&c->lock, c->ctx, c->path, options), "aflock_open");
    acquire_cycles(c, 100); /* the file is there, the path is resolved */
}

static void begin(cycle *c, aflock_io io, bool count_memory)
{
    aflock_options l;
    aflock_options_init(&l);
    l.io = io;
    begin_with(c, &l, count_memory);
}

static void end(cycle *c)
{
    bench_check(aflock_close(c->lock), "aflock_close");
    bench_check(aflock_ctx_free(c->ctx, AFLOCK_SECOND), "aflock_ctx_free");
}

static const char RAW[] = "open flock fstat stat unlock close";

void row_cycle(void)
{
    cycle c;
    bench_pin();
    begin(&c, AFLOCK_IO_AUTO, false);
    bench_compare(&(bench_line){.row = "cycle",
                                .what = "acquire, callback, release (auto, taken inline)",
                                .against = RAW,
                                .unit = "ns",
                                .bar = 1.3,
                                .judged = true},
                  acquire_slice, raw_slice, &c);
    end(&c);
    begin(&c, AFLOCK_IO_INLINE, false);
    bench_compare(&(bench_line){.row = "cycle",
                                .what = "acquire, callback, release (inline)",
                                .against = RAW,
                                .unit = "ns",
                                .bar = 1.3,
                                .judged = true},
                  acquire_slice, raw_slice, &c);
    end(&c);
    bench_unpin();
}

/* Profiled; openat2 and open were timed beside each other. */
static const char OWN_CODE[] =
    "both sides make the same six system calls, and openat2 takes as long as open; the rest is the library's own "
    "code (some 6 % of the samples) and readings of the clock; from one run to another it is 1.13x to 1.20x";

void row_try(void)
{
    cycle c;
    bench_pin();
    begin(&c, AFLOCK_IO_AUTO, false);
    bench_compare(&(bench_line){.row = "try",
                                .what = "aflock_try, release (auto, taken inline)",
                                .against = RAW,
                                .unit = "ns",
                                .bar = 1.15,
                                .judged = true,
                                .why = OWN_CODE},
                  try_slice, raw_slice, &c);
    end(&c);
    begin(&c, AFLOCK_IO_INLINE, false);
    bench_compare(&(bench_line){.row = "try",
                                .what = "aflock_try, release (inline)",
                                .against = RAW,
                                .unit = "ns",
                                .bar = 1.15,
                                .judged = true,
                                .why = OWN_CODE},
                  try_slice, raw_slice, &c);
    end(&c);
    bench_unpin();
}

/* ------------------------------------------------------------------------------------- what the calls cannot tell */

static void counted_acquires(void *state)
{
    cycle c;
    (void)state;
    begin(&c, AFLOCK_IO_AUTO, false);
    bench_trap_begin();
    acquire_cycles(&c, CYCLES);
    bench_trap_end();
}

static void counted_tries(void *state)
{
    cycle c;
    (void)state;
    begin(&c, AFLOCK_IO_AUTO, false);
    bench_trap_begin();
    try_cycles(&c, CYCLES);
    bench_trap_end();
}

static double system_calls(void (*work)(void *state), const char *row)
{
    long calls = bench_count_calls(work, NULL);
    if (calls < 0)
        bench_skip(row, "system calls cannot be counted here (ptrace)");
    return calls < 0 ? -1 : (double)calls / CYCLES;
}

void row_system_calls(void)
{
    static const char ROW[] = "system-calls";
    double acquires = system_calls(counted_acquires, ROW);
    if (acquires < 0)
        return;
    bench_add(&(bench_line){.row = ROW,
                            .what = "system calls: acquire, callback, release",
                            .unit = "calls",
                            .ours = acquires,
                            .bar = 6.1, /* the six, and the loop once in 64 callbacks */
                            .judged = true});
    bench_add(&(bench_line){.row = ROW,
                            .what = "system calls: aflock_try, release",
                            .unit = "calls",
                            .ours = system_calls(counted_tries, ROW),
                            .bar = 6.1, /* the six, and what had to be asked again */
                            .judged = true});
}

void row_allocations(void)
{
    cycle c;
    begin(&c, AFLOCK_IO_AUTO, true);
    size_t before = bench_hooked.calls + bench_malloced.calls;
    acquire_cycles(&c, CYCLES);
    try_cycles(&c, CYCLES);
    size_t after = bench_hooked.calls + bench_malloced.calls;
    end(&c);
    bench_add(&(bench_line){.row = "allocations",
                            .what = "allocations: 500 acquires, 500 tries",
                            .unit = "calls",
                            .ours = (double)(after - before),
                            .judged = true});
}

/* ------------------------------------------------------------------------------------------ with the file kept open
 */

typedef struct kept {
    cycle c;
    int fd; /* of the raw calls */
} kept;

/* What a careful program does that keeps its file open: those who wait hear of the touch. */
static double raw_kept_slice(void *state)
{
    const kept *k = state;
    struct stat mine, there;
    bench_check_errno(fstat(k->fd, &mine) == 0, "fstat");
    uint64_t start = bench_cpu();
    for (size_t i = 0; i < CYCLES; i++) {
        bench_check_errno(flock(k->fd, LOCK_EX | LOCK_NB) == 0, "flock");
        bench_check_errno(stat(k->c.path, &there) == 0, "stat");
        bench_check_errno(mine.st_ino == there.st_ino && mine.st_dev == there.st_dev, "the same file");
        bench_check_errno(flock(k->fd, LOCK_UN) == 0, "flock");
        bench_check_errno(futimens(k->fd, NULL) == 0, "futimens");
    }
    return (double)(bench_cpu() - start) / CYCLES;
}

static double kept_slice(void *state)
{
    kept *k = state;
    return acquire_slice(&k->c);
}

void row_kept(void)
{
    kept k;
    aflock_options o;
    aflock_options_init(&o);
    o.keep_open = 1;
    bench_pin();
    begin_with(&k.c, &o, false);
    k.fd = open(k.c.path, O_RDWR | O_CLOEXEC);
    bench_check_errno(k.fd >= 0, "open");
    bench_compare(&(bench_line){.row = "kept",
                                .what = "acquire, callback, release, the file kept open",
                                .against = "flock stat unlock futimens",
                                .unit = "ns",
                                .bar = 1.4,
                                .judged = true},
                  kept_slice, raw_kept_slice, &k);
    close(k.fd);
    end(&k.c);
    bench_unpin();
}
