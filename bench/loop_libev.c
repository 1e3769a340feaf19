/* libev for the rows that compare adapters. */
#include "loops.h"

#include <aflock/libev.h>
#include <ev.h>

static struct ev_loop *ev;

static aflock_ctx *begin(void)
{
    aflock_ctx *ctx;
    ev = ev_loop_new(EVFLAG_AUTO);
    bench_check_errno(ev != NULL, "ev_loop_new");
    bench_check(aflock_libev_new(&ctx, ev, NULL), "aflock_libev_new");
    return ctx;
}

static void run(aflock_ctx *ctx)
{
    (void)ctx;
    ev_run(ev, 0);
}

static void end(void)
{
    ev_loop_destroy(ev);
}

const bench_loop bench_libev = {"libev", begin, run, end};
