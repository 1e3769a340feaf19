/* Waiting with the library: a context, a lock, and requests that let go as soon as they have it. */
#include "bench.h"

#include <aflock/epoll.h>

#include <fcntl.h>
#include <string.h>
#include <sys/file.h>

void bench_waiter_open(bench_waiter *w, uint64_t poll_interval)
{
    aflock_options o;
    aflock_options_init(&o);
    o.poll_interval = poll_interval;
    memset(w, 0, sizeof *w);
    bench_check(aflock_epoll_new(&w->ctx, NULL), "aflock_epoll_new");
    bench_check(aflock_open(&w->lock, w->ctx, bench_file(0), &o), "aflock_open");
}

void bench_waiter_close(const bench_waiter *w)
{
    bench_check(aflock_ctx_free(w->ctx, AFLOCK_SECOND), "aflock_ctx_free");
}

static void on_arrival(aflock *lock, const aflock_result *result, void *user)
{
    bench_waiter *w = user;
    if (result->status == AFLOCK_ECLOSED)
        return;
    bench_check(result->status, "acquire");
    w->arrived = bench_wall();
    if (w->first == 0)
        w->first = w->arrived;
    if (--w->left == 0)
        aflock_epoll_stop(w->ctx);
    bench_check(aflock_release(lock, result->req, NULL, NULL), "aflock_release");
}

void bench_waiter_ask(bench_waiter *w, size_t count)
{
    w->left = count;
    w->first = 0;
    for (size_t i = 0; i < count; i++)
        bench_check(aflock_acquire(w->lock, NULL, on_arrival, w, NULL), "aflock_acquire");
}

void bench_waiter_run(const bench_waiter *w)
{
    bench_check(aflock_epoll_run(w->ctx), "aflock_epoll_run");
}

static void stop_waiting(aflock_ctx *ctx, void *user)
{
    (void)user;
    aflock_epoll_stop(ctx);
}

void bench_waiter_pass(const bench_waiter *w, uint64_t duration)
{
    bench_check(aflock_epoll_timer(w->ctx, duration, stop_waiting, NULL), "aflock_epoll_timer");
    bench_waiter_run(w);
}

int bench_hold_file(void)
{
    int fd = open(bench_file(0), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    bench_check_errno(fd >= 0 && flock(fd, LOCK_EX) == 0, "flock");
    return fd;
}
