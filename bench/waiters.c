/* 10,000 requests that wait for one path which somebody else holds: what they weigh, and what their waiting costs. */
#include "bench.h"

#include <aflock/epoll.h>

#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <unistd.h>

enum { WAITERS = 10000 };

typedef struct crowd {
    size_t count;
    aflock_ctx *ctx;
    aflock *lock;
    int holder; /* a descriptor of its own: to the kernel somebody else */
    char owners[WAITERS];
} crowd;

static void on_end(aflock *lock, const aflock_result *result, void *user)
{
    (void)lock;
    (void)result;
    (void)user;
}

static void crowd_open(crowd *c, bool hooks)
{
    aflock_epoll_options e;
    aflock_ctx_options o;
    aflock_epoll_options_init(&e);
    aflock_ctx_options_init(&o);
    if (hooks)
        bench_hook_memory(&o);
    e.ctx = &o;
    c->holder = open(bench_file(0), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    bench_check_errno(c->holder >= 0 && flock(c->holder, LOCK_EX | LOCK_NB) == 0, "flock");
    bench_check(aflock_epoll_new(&c->ctx, &e), "aflock_epoll_new");
    bench_check(aflock_open(&c->lock, c->ctx, bench_file(0), NULL), "aflock_open");
}

static void crowd_gather(crowd *c, bool owners)
{
    aflock_acquire_options a;
    aflock_acquire_options_init(&a);
    a.timeout = 3600 * AFLOCK_SECOND;
    for (size_t i = 0; i < c->count; i++) {
        a.owner = owners ? &c->owners[i] : NULL;
        bench_check(aflock_acquire(c->lock, &a, on_end, NULL, NULL), "aflock_acquire");
    }
}

static void crowd_close(crowd *c)
{
    bench_check(aflock_ctx_free(c->ctx, AFLOCK_SECOND), "aflock_ctx_free");
    close(c->holder);
}

/* Without a timer of the bench's own: each call is the library's. */
static void wait_a_while(const crowd *c, uint64_t time)
{
    for (uint64_t until = bench_wall() + time; bench_wall() < until;)
        bench_check(aflock_epoll_run_once(c->ctx, AFLOCK_FOREVER), "aflock_epoll_run_once");
}

/* ------------------------------------------------------------------------------------------------------- the measures
 */

static void report_bytes(crowd *c, bool owners)
{
    crowd_open(c, true);
    size_t before = bench_hooked.bytes;
    crowd_gather(c, owners);
    bench_add(
        &(bench_line){.row = "waiters",
                      .what = owners ? "10,000 waiters, an owner each: memory of one" : "10,000 waiters: memory of one",
                      .unit = "bytes",
                      .ours = (double)(bench_hooked.bytes - before) / WAITERS,
                      .bar = 256,
                      .judged = true});
    crowd_close(c);
}

static uint64_t while_of(void)
{
    return (bench.quick ? 1 : 3) * AFLOCK_SECOND;
}

static void counted_wait(void *state)
{
    crowd *c = state;
    crowd_open(c, false);
    crowd_gather(c, false);
    wait_a_while(c, AFLOCK_SECOND / 5); /* the first attempt is over */
    bench_trap_begin();
    wait_a_while(c, while_of());
    bench_trap_end();
}

static void report_calls(crowd *c)
{
    long calls = bench_count_calls(counted_wait, c);
    if (calls < 0)
        bench_skip("waiters", "system calls cannot be counted here (ptrace)");
    else
        bench_add(&(bench_line){.row = "waiters",
                                .what = "10,000 waiters: system calls a second",
                                .unit = "calls",
                                .ours = (double)calls * (double)AFLOCK_SECOND / (double)while_of(),
                                .bar = 120,
                                .judged = true});
}

static void report_processor(crowd *c)
{
    crowd_open(c, false);
    crowd_gather(c, false);
    wait_a_while(c, AFLOCK_SECOND / 5);
    uint64_t wall = bench_wall(), cpu = bench_cpu();
    wait_a_while(c, while_of());
    cpu = bench_cpu() - cpu;
    wall = bench_wall() - wall;
    bench_add(&(bench_line){.row = "waiters",
                            .what = "10,000 waiters: processor time",
                            .unit = "%",
                            .ours = 100 * (double)cpu / (double)wall,
                            .bar = 1,
                            .judged = true});
    crowd_close(c);
}

/* What fewer of them cost: for the picture. */
static void report_fewer(crowd *c)
{
    static const size_t COUNTS[] = {10, 100, 1000};
    static char what[2 * sizeof COUNTS / sizeof *COUNTS][64];
    for (size_t i = 0; i < sizeof COUNTS / sizeof *COUNTS; i++) {
        c->count = COUNTS[i];
        crowd_open(c, true);
        size_t before = bench_hooked.bytes;
        crowd_gather(c, false);
        snprintf(what[2 * i], sizeof what[0], "%zu waiters: memory of one", c->count);
        bench_add(&(bench_line){.row = "waiters",
                                .what = what[2 * i],
                                .unit = "bytes",
                                .ours = (double)(bench_hooked.bytes - before) / (double)c->count});
        crowd_close(c);
        long calls = bench_count_calls(counted_wait, c);
        snprintf(what[2 * i + 1], sizeof what[0], "%zu waiters: system calls a second", c->count);
        if (calls >= 0)
            bench_add(&(bench_line){.row = "waiters",
                                    .what = what[2 * i + 1],
                                    .unit = "calls",
                                    .ours = (double)calls * (double)AFLOCK_SECOND / (double)while_of()});
    }
    c->count = WAITERS;
}

void row_waiters(void)
{
    static crowd c = {.count = WAITERS};
    report_fewer(&c);
    report_bytes(&c, false);
    report_bytes(&c, true);
    report_calls(&c);
    report_processor(&c);
}
