/* libevent for the rows that compare adapters. */
#include "loops.h"

#include <aflock/libevent.h>
#include <event2/event.h>

static struct event_base *base;

static aflock_ctx *begin(void)
{
    aflock_ctx *ctx;
    base = event_base_new();
    bench_check_errno(base != NULL, "event_base_new");
    bench_check(aflock_libevent_new(&ctx, base, NULL), "aflock_libevent_new");
    return ctx;
}

static void run(aflock_ctx *ctx)
{
    (void)ctx;
    event_base_dispatch(base);
}

static void end(void)
{
    event_base_free(base);
}

const bench_loop bench_libevent = {"libevent", begin, run, end};
