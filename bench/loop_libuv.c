/* libuv for the rows that compare adapters. */
#include "loops.h"

#include <aflock/libuv.h>
#include <uv.h>

static uv_loop_t uv;

static aflock_ctx *begin(void)
{
    aflock_ctx *ctx;
    bench_check_errno(uv_loop_init(&uv) == 0, "uv_loop_init");
    bench_check(aflock_libuv_new(&ctx, &uv, NULL), "aflock_libuv_new");
    return ctx;
}

static void run(aflock_ctx *ctx)
{
    (void)ctx;
    uv_run(&uv, UV_RUN_DEFAULT);
}

static void end(void)
{
    uv_run(&uv, UV_RUN_DEFAULT);
    bench_check_errno(uv_loop_close(&uv) == 0, "uv_loop_close");
}

const bench_loop bench_libuv = {"libuv", begin, run, end};
