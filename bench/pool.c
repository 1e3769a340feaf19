/* Round trips through the thread pool: from the loop's thread to a worker, which locks or unlocks a file, and back.
 * Against the same work through libuv's pool. Both have four threads. */
#include "bench.h"

#ifndef BENCH_HAVE_LIBUV

void row_pool(void)
{
    bench_skip("pool", "built without libuv (libuv1-dev)");
}

#else

#include <aflock/epoll.h>

#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>
#include <uv.h>

enum { MOST = 64, TRIPS = 2048 };

struct trips;

/* One lock, which is taken and given back over and over. */
typedef struct traveller {
    struct trips *all;
    int fd;
    uint64_t start;
    aflock *lock;
    uv_work_t work;
    int operation;
} traveller;

typedef struct trips {
    size_t outstanding, count;
    double latency[TRIPS + 2 * MOST];
    aflock_ctx *ctx;
    uv_loop_t loop;
    traveller each[MOST];
} trips;

/* Notes the time of a trip. Whether there is to be another. */
static bool arrived(traveller *t)
{
    trips *all = t->all;
    uint64_t now = bench_wall();
    all->latency[all->count++] = (double)(now - t->start) / 1000;
    t->start = now;
    return all->count < TRIPS;
}

static void on_released(aflock *lock, const aflock_result *result, void *user);

static void on_acquired(aflock *lock, const aflock_result *result, void *user)
{
    traveller *t = user;
    bench_check(result->status, "acquire");
    arrived(t);
    bench_check(aflock_release(lock, result->req, on_released, t), "aflock_release");
}

static void on_released(aflock *lock, const aflock_result *result, void *user)
{
    bench_check(result->status, "release");
    if (arrived(user))
        bench_check(aflock_acquire(lock, NULL, on_acquired, user, NULL), "aflock_acquire");
}

static double ours_slice(void *state)
{
    trips *all = state;
    all->count = 0;
    for (size_t i = 0; i < all->outstanding; i++) {
        traveller *t = &all->each[i];
        t->start = bench_wall();
        bench_check(aflock_acquire(t->lock, NULL, on_acquired, t, NULL), "aflock_acquire");
    }
    bench_check(aflock_epoll_run(all->ctx), "aflock_epoll_run");
    return bench_median(all->latency, all->count);
}

static void uv_run_lock(uv_work_t *work)
{
    traveller *t = work->data;
    bench_check_errno(flock(t->fd, t->operation) == 0, "flock");
}

static void uv_after(uv_work_t *work, int status)
{
    traveller *t = work->data;
    bench_check(status, "uv_queue_work");
    bool locked = t->operation != LOCK_UN;
    if (!arrived(t) && !locked)
        return;
    t->operation = locked ? LOCK_UN : LOCK_EX | LOCK_NB;
    bench_check(uv_queue_work(&t->all->loop, work, uv_run_lock, uv_after), "uv_queue_work");
}

static double theirs_slice(void *state)
{
    trips *all = state;
    all->count = 0;
    for (size_t i = 0; i < all->outstanding; i++) {
        traveller *t = &all->each[i];
        t->start = bench_wall();
        t->operation = LOCK_EX | LOCK_NB;
        bench_check(uv_queue_work(&all->loop, &t->work, uv_run_lock, uv_after), "uv_queue_work");
    }
    uv_run(&all->loop, UV_RUN_DEFAULT);
    return bench_median(all->latency, all->count);
}

static void trips_open(trips *all)
{
    aflock_options o;
    aflock_options_init(&o);
    o.io = AFLOCK_IO_POOL;
    memset(all, 0, sizeof *all);
    bench_check(aflock_epoll_new(&all->ctx, NULL), "aflock_epoll_new");
    bench_check(uv_loop_init(&all->loop), "uv_loop_init");
    for (unsigned i = 0; i < MOST; i++) {
        traveller *t = &all->each[i];
        t->all = all;
        t->work.data = t;
        t->fd = open(bench_file(i), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
        bench_check_errno(t->fd >= 0, "open");
        bench_check(aflock_open_fd(&t->lock, all->ctx, t->fd, &o), "aflock_open_fd");
    }
}

static void trips_close(trips *all)
{
    for (unsigned i = 0; i < MOST; i++) {
        bench_check(aflock_close(all->each[i].lock), "aflock_close");
        close(all->each[i].fd);
    }
    bench_check(aflock_ctx_free(all->ctx, AFLOCK_SECOND), "aflock_ctx_free");
    uv_loop_close(&all->loop);
}

void row_pool(void)
{
    static trips all;
    trips_open(&all);
    all.outstanding = 1;
    bench_line line = {.row = "pool", .against = "uv_queue_work", .unit = "us", .bar = 1.2, .judged = true};
    line.what = "pool round trip, 1 outstanding, p50";
    bench_compare(&line, ours_slice, theirs_slice, &all);
    line = (bench_line){.row = "pool", .against = "uv_queue_work", .unit = "us", .bar = 1.2, .judged = true};
    all.outstanding = MOST;
    line.what = "pool round trip, 64 outstanding, p50";
    bench_compare(&line, ours_slice, theirs_slice, &all);
    trips_close(&all);
}

#endif
