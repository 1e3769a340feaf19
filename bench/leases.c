/* Leases that are held: what keeping a thousand of them alive costs, while nothing else happens. */
#include "bench.h"

#include <aflock/epoll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { LEASES = 1000 };
#define HEARTBEAT (10 * AFLOCK_SECOND)
#define DURATION (30 * AFLOCK_SECOND)

typedef struct holder {
    aflock_ctx *ctx;
    aflock *locks[LEASES];
    size_t held;
} holder;

static const char *folder(void)
{
    static char path[256];
    snprintf(path, sizeof path, "%s/leases", bench_directory);
    return path;
}

/* All that this process has used, its workers included. */
static uint64_t used(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * AFLOCK_SECOND + (uint64_t)t.tv_nsec;
}

static void on_lock(aflock *lock, const aflock_result *result, void *user)
{
    holder *h = user;
    (void)lock;
    bench_check(result->status, "acquire");
    h->held++;
}

static void on_compromise(aflock *lock, aflock_req req, const aflock_compromise *what, void *user)
{
    (void)lock, (void)req, (void)user, (void)what;
    bench_check(AFLOCK_ECOMPROMISED, "a lease");
}

static void run_until(const holder *h, uint64_t end)
{
    for (uint64_t now; (now = bench_wall()) < end;)
        bench_check(aflock_epoll_run_once(h->ctx, end - now), "aflock_epoll_run_once");
}

static void take(holder *h, size_t number)
{
    char path[300];
    aflock_options o;
    aflock_acquire_options a;
    aflock_options_init(&o);
    aflock_acquire_options_init(&a);
    o.protocol = AFLOCK_LEASE;
    o.duration = DURATION;
    o.heartbeat = HEARTBEAT;
    a.on_compromise = on_compromise;
    snprintf(path, sizeof path, "%s/%zu", folder(), number);
    bench_check(aflock_open(&h->locks[number], h->ctx, path, &o), "aflock_open");
    bench_check(aflock_acquire(h->locks[number], &a, on_lock, h, NULL), "aflock_acquire");
}

/* over: how long taking them takes; their heartbeats are as far apart. */
static void hold_all(holder *h, uint64_t over)
{
    const uint64_t began = bench_wall();
    h->held = 0;
    bench_check(aflock_epoll_new(&h->ctx, NULL), "aflock_epoll_new");
    bench_check_errno(mkdir(folder(), 0777) == 0, "mkdir");
    for (size_t i = 0; i < LEASES; i++) {
        take(h, i);
        run_until(h, began + over / LEASES * (i + 1));
    }
    while (h->held < LEASES)
        bench_check(aflock_epoll_run_once(h->ctx, AFLOCK_SECOND), "aflock_epoll_run_once");
}

static void measure(const char *what, uint64_t over)
{
    static holder h;
    hold_all(&h, over);
    const uint64_t began = bench_wall(), before = used();
    run_until(&h, began + HEARTBEAT);
    const double share = (double)(used() - before) / (double)(bench_wall() - began);
    bench_check(aflock_ctx_free(h.ctx, 5 * AFLOCK_SECOND), "aflock_ctx_free"); /* unlinks them */
    rmdir(folder());
    bench_add(&(bench_line){
        .row = "leases", .what = what, .unit = "% of a core", .ours = 100 * share, .bar = 1, .judged = true});
}

void row_leases(void)
{
    measure("1,000 leases held, taken at once: processor", 0);
    measure("1,000 leases held, taken over 10 s: processor", HEARTBEAT);
}
