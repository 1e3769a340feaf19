/* Recipes. A line that is appended under the lock, against a worker of libuv's pool that opens the file, locks it with
 * flock(2), writes, unlocks and closes. Neither makes it durable.
 * The lock of a key that was used before, against a lock that stays open.
 * A semaphore with a free slot, against the lock of the slot's file. */
#include "bench.h"

#ifndef BENCH_HAVE_RECIPES

void row_keyed(void)
{
    bench_skip("keyed", "built without the recipes");
}

void row_semaphore(void)
{
    bench_skip("semaphore", "built without the recipes");
}

#else

#include <aflock/epoll.h>
#include <aflock/keyed.h>
#include <aflock/semaphore.h>

enum { CYCLES = 500, KEYS = 1000 };

typedef struct keys {
    aflock_ctx *ctx;
    aflock_keyed *keyed;
    aflock *plain[KEYS];
    size_t left;
    bool by_key;
} keys;

static void next_cycle(keys *all);

static void on_lock(aflock *lock, const aflock_result *result, void *user)
{
    keys *all = user;
    bench_check(result->status, "acquire");
    bench_check(aflock_release(lock, result->req, NULL, NULL), "aflock_release");
    if (all->by_key)
        bench_check(aflock_keyed_put(all->keyed, lock), "aflock_keyed_put");
    if (--all->left > 0)
        next_cycle(all);
}

static void next_cycle(keys *all)
{
    unsigned key = (unsigned)(all->left * 7919 % KEYS);
    aflock *lock = all->plain[key];
    if (all->by_key)
        bench_check(aflock_keyed_get(all->keyed, &key, sizeof key, &lock), "aflock_keyed_get");
    bench_check(aflock_acquire(lock, NULL, on_lock, all, NULL), "aflock_acquire");
}

static double cycles(keys *all, bool by_key)
{
    all->by_key = by_key;
    all->left = CYCLES;
    uint64_t start = bench_cpu();
    next_cycle(all);
    bench_check(aflock_epoll_run(all->ctx), "aflock_epoll_run");
    return (double)(bench_cpu() - start) / CYCLES;
}

static double keyed_slice(void *state)
{
    return cycles(state, true);
}

static double plain_slice(void *state)
{
    return cycles(state, false);
}

/* Every file is there, and its path known. */
static void warm_up(keys *all)
{
    for (unsigned key = 0; key < KEYS; key++) {
        bench_check(aflock_open(&all->plain[key], all->ctx, bench_file(key), NULL), "aflock_open");
        for (int by_key = 0; by_key < 2; by_key++) {
            aflock *lock = all->plain[key];
            all->by_key = by_key;
            all->left = 1;
            if (by_key)
                bench_check(aflock_keyed_get(all->keyed, &key, sizeof key, &lock), "aflock_keyed_get");
            bench_check(aflock_acquire(lock, NULL, on_lock, all, NULL), "aflock_acquire");
            bench_check(aflock_epoll_run(all->ctx), "aflock_epoll_run");
        }
    }
}

void row_keyed(void)
{
    static keys all;
    bench_check(aflock_epoll_new(&all.ctx, NULL), "aflock_epoll_new");
    bench_check(aflock_keyed_new(&all.keyed, all.ctx, bench_directory, NULL), "aflock_keyed_new");
    warm_up(&all);
    bench_line line = {.row = "keyed", .against = "a lock that stays open", .unit = "ns", .bar = 1.2, .judged = true};
    line.what = "get, acquire, release, put of a warm key";
    bench_compare(&line, keyed_slice, plain_slice, &all);
    aflock_keyed_free(all.keyed);
    bench_check(aflock_ctx_free(all.ctx, AFLOCK_SECOND), "aflock_ctx_free");
}

typedef struct slots {
    aflock_ctx *ctx;
    aflock_semaphore *semaphore;
    aflock *plain;
    uint64_t timeout;
    size_t left;
} slots;

static void ask_for_slot(slots *all);

static void on_slot(aflock_semaphore *semaphore, const aflock_semaphore_result *result, void *user)
{
    slots *all = user;
    bench_check(result->status, "acquire");
    bench_check(aflock_semaphore_release(semaphore, result->permit, NULL, NULL), "aflock_semaphore_release");
    if (--all->left > 0)
        ask_for_slot(all);
}

static void ask_for_slot(slots *all)
{
    bench_check(aflock_semaphore_acquire(all->semaphore, all->timeout, NULL, on_slot, all, NULL),
                "aflock_semaphore_acquire");
}

static void ask_for_lock(slots *all);

static void on_plain(aflock *lock, const aflock_result *result, void *user)
{
    slots *all = user;
    bench_check(result->status, "acquire");
    bench_check(aflock_release(lock, result->req, NULL, NULL), "aflock_release");
    if (--all->left > 0)
        ask_for_lock(all);
}

static void ask_for_lock(slots *all)
{
    aflock_acquire_options o;
    aflock_acquire_options_init(&o);
    o.timeout = all->timeout;
    bench_check(aflock_acquire(all->plain, &o, on_plain, all, NULL), "aflock_acquire");
}

static double run_cycles(slots *all, void (*ask)(slots *all))
{
    all->left = CYCLES;
    uint64_t start = bench_cpu();
    ask(all);
    bench_check(aflock_epoll_run(all->ctx), "aflock_epoll_run");
    return (double)(bench_cpu() - start) / CYCLES;
}

static double slot_slice(void *state)
{
    return run_cycles(state, ask_for_slot);
}

static double lock_slice(void *state)
{
    return run_cycles(state, ask_for_lock);
}

void row_semaphore(void)
{
    static slots all;
    bench_check(aflock_epoll_new(&all.ctx, NULL), "aflock_epoll_new");
    bench_check(aflock_semaphore_new(&all.semaphore, all.ctx, bench_directory, "semaphore", 3, NULL),
                "aflock_semaphore_new");
    bench_check(aflock_open(&all.plain, all.ctx, bench_file(0), NULL), "aflock_open");
    for (int limited = 0; limited < 2; limited++) {
        all.timeout = limited ? 60 * AFLOCK_SECOND : AFLOCK_FOREVER;
        slot_slice(&all); /* the files are there then */
        lock_slice(&all);
        bench_line line = {.row = "semaphore", .against = "a lock", .unit = "ns", .bar = 1.3, .judged = !limited};
        line.what = limited ? "the same with a time-out" : "semaphore cycle with a free slot";
        bench_compare(&line, slot_slice, lock_slice, &all);
    }
    aflock_semaphore_free(all.semaphore);
    bench_check(aflock_ctx_free(all.ctx, AFLOCK_SECOND), "aflock_ctx_free");
}

#endif

#if !defined(BENCH_HAVE_LIBUV) || !defined(BENCH_HAVE_RECIPES)

void row_append(void)
{
    bench_skip("append", "built without libuv (libuv1-dev), or without the recipes");
}

#else

#include <aflock/file.h>

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>
#include <uv.h>

enum { LINES = 500, LINE = 100 };

typedef struct lines {
    aflock_ctx *ctx;
    aflock_file_options options;
    uv_loop_t loop;
    uv_work_t work;
    size_t left;
    char line[LINE]; /* the newline included */
    char ours[256], theirs[256];
} lines;

static void append_one(lines *all);

static void on_line(const aflock_file_result *result, void *user)
{
    lines *all = user;
    bench_check(result->status, "append");
    if (--all->left > 0)
        append_one(all);
}

static void append_one(lines *all)
{
    bench_check(aflock_file_append(all->ctx, all->ours, all->line, LINE - 1, &all->options, on_line, all),
                "aflock_file_append");
}

static double ours_slice(void *state)
{
    lines *all = state;
    all->left = LINES;
    bench_check_errno(truncate(all->ours, 0) == 0, "truncate");
    uint64_t start = bench_wall();
    append_one(all);
    bench_check(aflock_epoll_run(all->ctx), "aflock_epoll_run");
    return (double)(bench_wall() - start) / 1000 / LINES;
}

static void uv_run_append(uv_work_t *work)
{
    lines *all = work->data;
    int fd = open(all->theirs, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666);
    bench_check_errno(fd >= 0, "open");
    bench_check_errno(flock(fd, LOCK_EX) == 0, "flock");
    bench_check_errno(write(fd, all->line, LINE) == LINE, "write");
    bench_check_errno(flock(fd, LOCK_UN) == 0, "flock");
    close(fd);
}

static void uv_after(uv_work_t *work, int status)
{
    lines *all = work->data;
    bench_check(status, "uv_queue_work");
    if (--all->left > 0)
        bench_check(uv_queue_work(&all->loop, work, uv_run_append, uv_after), "uv_queue_work");
}

static double theirs_slice(void *state)
{
    lines *all = state;
    all->left = LINES;
    bench_check_errno(truncate(all->theirs, 0) == 0, "truncate");
    uint64_t start = bench_wall();
    bench_check(uv_queue_work(&all->loop, &all->work, uv_run_append, uv_after), "uv_queue_work");
    uv_run(&all->loop, UV_RUN_DEFAULT);
    return (double)(bench_wall() - start) / 1000 / LINES;
}

void row_append(void)
{
    static lines all;
    memset(&all, 0, sizeof all);
    memset(all.line, 'x', LINE);
    all.line[LINE - 1] = '\n';
    snprintf(all.ours, sizeof all.ours, "%s", bench_file(0));
    snprintf(all.theirs, sizeof all.theirs, "%s", bench_file(1));
    for (int i = 0; i < 2; i++) {
        int fd = open(i ? all.theirs : all.ours, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
        bench_check_errno(fd >= 0, "open");
        close(fd);
    }
    aflock_file_options_init(&all.options);
    all.options.no_sync = 1;
    all.work.data = &all;
    bench_check(aflock_epoll_new(&all.ctx, NULL), "aflock_epoll_new");
    bench_check(uv_loop_init(&all.loop), "uv_loop_init");
    bench_line line = {.row = "append", .against = "open, flock, write on a pool", .unit = "us", .bar = 1.5};
    line.what = "append a line of 100 bytes";
    line.judged = true;
    bench_compare(&line, ours_slice, theirs_slice, &all);
    uv_loop_close(&all.loop);
    bench_check(aflock_ctx_free(all.ctx, AFLOCK_SECOND), "aflock_ctx_free");
}

#endif
