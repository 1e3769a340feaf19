/* The example host, examples/poll_loop: the tables of host.h filled in by hand. */
#include "host_real.h"

#include "poll_loop/poll_loop.h"

static void *loop_make(void)
{
    return poll_loop_new();
}

static void loop_destroy(void *loop)
{
    poll_loop_free(loop);
}

static int loop_context(void *loop, const aflock_ctx_options *options, aflock_ctx **out)
{
    return poll_loop_context(loop, options, out);
}

static bool loop_run(void *loop, bool (*done)(void *user), void *user, uint64_t limit)
{
    uint64_t end = real_now(NULL) + limit;
    while (!done(user)) {
        uint64_t now = real_now(NULL);
        if (now >= end || poll_loop_round(loop, end - now) != 0)
            return false;
    }
    return true;
}

static void loop_run_out(void *loop)
{
    require_status(poll_loop_run(loop), 0);
}

static void loop_timer(void *loop, uint64_t delay, void (*fire)(void *user), void *user)
{
    require_status(poll_loop_timer(loop, delay, fire, user), 0);
}

static const conformance_gap GAPS[] = {
    REAL_GAP,
    {NULL, NULL},
};

const conformance_host conformance_host_under_test = {
    .name = "poll",
    .properties = HOST_HAS_THREADS | HOST_SHARES | HOST_FORKS | HOST_ENDS | HOST_OUTLIVED,
    .gaps = GAPS,
    .make = loop_make,
    .destroy = loop_destroy,
    .context = loop_context,
    .run = loop_run,
    .run_out = loop_run_out,
    .timer = loop_timer,
    .now = real_now,
    .block = real_block,
};
