/* The adapters: the uncontended path through other people's loops against the epoll adapter, and how late deadlines are
 * answered on each. */
#include "loops.h"

#include <aflock/epoll.h>

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

enum { CYCLES = 500, TIMEOUTS = 64 };

/* ------------------------------------------------------------------------------------------------------- epoll */

static aflock_ctx *begin_epoll(void)
{
    aflock_ctx *ctx;
    bench_check(aflock_epoll_new(&ctx, NULL), "aflock_epoll_new");
    return ctx;
}

static void run_epoll(aflock_ctx *ctx)
{
    bench_check(aflock_epoll_run(ctx), "aflock_epoll_run");
}

static void end_epoll(void)
{
}

static const bench_loop EPOLL = {"epoll", begin_epoll, run_epoll, end_epoll};

static const bench_loop *const LOOPS[] = {
    &EPOLL,
#ifdef BENCH_HAVE_LIBEVENT
    &bench_libevent,
#endif
#ifdef BENCH_HAVE_LIBEV
    &bench_libev,
#endif
#ifdef BENCH_HAVE_LIBUV
    &bench_libuv,
#endif
};
enum { LOOP_COUNT = sizeof LOOPS / sizeof LOOPS[0] };

/* -------------------------------------------------------------------------------------------------- one side of a row
 */

typedef struct side {
    const bench_loop *loop;
    aflock_ctx *ctx;
    aflock *lock;
    size_t left;
    double late[TIMEOUTS];
} side;

static void begin(side *s, const bench_loop *loop, unsigned file)
{
    *s = (side){.loop = loop, .ctx = loop->begin()};
    bench_check(aflock_open(&s->lock, s->ctx, bench_file(file), NULL), "aflock_open");
}

static void end(const side *s)
{
    bench_check(aflock_ctx_free(s->ctx, AFLOCK_SECOND), "aflock_ctx_free");
    s->loop->end();
}

/* ------------------------------------------------------------------------------------------------------- the cycle */

static void on_lock(aflock *lock, const aflock_result *result, void *user)
{
    side *s = user;
    bench_check(result->status, "acquire");
    bench_check(aflock_release(lock, result->req, NULL, NULL), "aflock_release");
    if (--s->left > 0)
        bench_check(aflock_acquire(lock, NULL, on_lock, s, NULL), "aflock_acquire");
}

static double cycles(side *s)
{
    uint64_t start = bench_cpu();
    s->left = CYCLES;
    bench_check(aflock_acquire(s->lock, NULL, on_lock, s, NULL), "aflock_acquire");
    s->loop->run(s->ctx);
    return (double)(bench_cpu() - start) / CYCLES;
}

static double this_cycles(void *state)
{
    return cycles((side *)state + 1);
}

static double epoll_cycles(void *state)
{
    return cycles(state);
}

void row_loops(void)
{
    if (LOOP_COUNT == 1)
        bench_skip("loops", "built without libevent, libev and libuv");
    bench_pin();
    for (size_t i = 1; i < LOOP_COUNT; i++) {
        static char what[LOOP_COUNT][80]; /* the report keeps the text */
        side both[2];
        begin(&both[0], LOOPS[0], 0);
        begin(&both[1], LOOPS[i], 1);
        snprintf(what[i], sizeof what[i], "acquire, callback, release on %s", LOOPS[i]->name);
        bench_line line = {
            .row = "loops", .what = what[i], .against = "epoll", .unit = "ns", .bar = 1.3, .judged = true};
        bench_compare(&line, this_cycles, epoll_cycles, both);
        end(&both[0]);
        end(&both[1]);
    }
    bench_unpin();
}

/* ------------------------------------------------------------------------------------------------------- lateness */

static void on_timeout(aflock *lock, const aflock_result *result, void *user);

static void ask(side *s)
{
    aflock_acquire_options o;
    aflock_acquire_options_init(&o);
    o.timeout = AFLOCK_MILLISECOND + s->left % 7 * 130 * AFLOCK_MICROSECOND;
    bench_check(aflock_acquire(s->lock, &o, on_timeout, s, NULL), "aflock_acquire");
}

static void on_timeout(aflock *lock, const aflock_result *result, void *user)
{
    (void)lock;
    side *s = user;
    bench_check(result->status == AFLOCK_ETIMEDOUT ? 0 : AFLOCK_EPROTO, "a time-out");
    uint64_t timeout = AFLOCK_MILLISECOND + s->left % 7 * 130 * AFLOCK_MICROSECOND;
    s->late[--s->left] = (double)(result->waited - timeout) / 1000;
    if (s->left > 0)
        ask(s);
}

static double lateness(void *state)
{
    side *s = state;
    s->left = TIMEOUTS;
    ask(s);
    s->loop->run(s->ctx);
    return bench_median(s->late, TIMEOUTS);
}

/* While somebody else holds the lock. */
void row_lateness(void)
{
    int holder = open(bench_file(0), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    bench_check_errno(holder >= 0 && flock(holder, LOCK_EX) == 0, "flock");
    for (size_t i = 0; i < LOOP_COUNT; i++) {
        static char what[LOOP_COUNT][80];
        side s;
        begin(&s, LOOPS[i], 0);
        snprintf(what[i], sizeof what[i], "deadline on %s: so much late, p50", LOOPS[i]->name);
        bench_line line = {.row = "lateness", .what = what[i], .unit = "us"};
        bench_measure(&line, lateness, &s);
        end(&s);
    }
    close(holder);
}
