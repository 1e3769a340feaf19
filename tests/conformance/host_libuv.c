/* The libuv adapter. HOST_UV_THREADS: calls that may block run on libuv's own pool, so many at once. */
#include "host_real.h"

#include <aflock/libuv.h>
#include <stdlib.h>
#include <unistd.h>
#include <uv.h>

#ifndef HOST_NAME
#define HOST_NAME "libuv"
#endif
#ifndef HOST_UV_THREADS
#define HOST_UV_THREADS 0
#endif

struct loop {
    uv_loop_t uv;
    uv_timer_t limit; /* ends the waiting */
    uv_idle_t busy;   /* active: rounds do not wait */
    unsigned prepared;
    pid_t pid;
};

/* libuv runs a timer without delay in the same round again: such a one is a prepare handle. */
struct timer {
    union {
        uv_timer_t timer;
        uv_prepare_t prepare;
        uv_handle_t handle;
    };
    struct loop *loop;
    uint64_t deadline;
    void (*fire)(void *user);
    void *user;
};

/* What the process keeps of its first loop is there before any descriptors are counted. */
__attribute__((constructor)) static void start_libuv(void)
{
    uv_loop_t first;
    if (uv_loop_init(&first) == 0)
        uv_loop_close(&first);
}

static void on_limit(uv_timer_t *handle)
{
    (void)handle;
}

static void *loop_make(void)
{
    struct loop *loop = calloc(1, sizeof *loop);
    require(loop != NULL && uv_loop_init(&loop->uv) == 0);
    uv_timer_init(&loop->uv, &loop->limit);
    uv_idle_init(&loop->uv, &loop->busy);
    loop->pid = getpid();
    return loop;
}

static void free_handle(uv_handle_t *handle)
{
    free(handle->data);
}

/* Handles of contexts that are still there are closed, too. */
static void close_any(uv_handle_t *handle, void *user)
{
    const struct loop *loop = user;
    if (uv_is_closing(handle))
        return;
    bool is_timer = uv_handle_get_type(handle) == UV_TIMER && handle != (const uv_handle_t *)&loop->limit;
    uv_close(handle, is_timer || uv_handle_get_type(handle) == UV_PREPARE ? free_handle : NULL);
}

static void loop_destroy(void *self)
{
    struct loop *loop = self;
    uv_walk(&loop->uv, close_any, loop);
    uv_run(&loop->uv, UV_RUN_DEFAULT);
    require(uv_loop_close(&loop->uv) == 0);
    free(loop);
}

static int loop_context(void *self, const aflock_ctx_options *options, aflock_ctx **out)
{
    struct loop *loop = self;
    aflock_libuv_options libuv_options;
    aflock_libuv_options_init(&libuv_options);
    libuv_options.ctx = options;
    libuv_options.uv_threads = HOST_UV_THREADS;
    return aflock_libuv_new(out, &loop->uv, &libuv_options);
}

static bool loop_run(void *self, bool (*done)(void *user), void *user, uint64_t limit)
{
    struct loop *loop = self;
    uint64_t end = real_now(NULL) + limit;
    bool is_done;
    while (!(is_done = done(user))) {
        uint64_t now = real_now(NULL);
        if (now >= end || getpid() != loop->pid)
            break;
        uv_update_time(&loop->uv);
        uv_timer_start(&loop->limit, on_limit, (uint64_t)real_milliseconds(end - now), 0);
        uv_run(&loop->uv, UV_RUN_ONCE);
    }
    uv_timer_stop(&loop->limit);
    return is_done;
}

static void loop_run_out(void *self)
{
    struct loop *loop = self;
    uv_run(&loop->uv, UV_RUN_DEFAULT);
}

static void end_timer(struct timer *timer)
{
    uv_close(&timer->handle, free_handle);
    timer->fire(timer->user);
}

static void on_busy(uv_idle_t *busy)
{
    (void)busy;
}

static void on_prepare(uv_prepare_t *prepare)
{
    struct timer *timer = prepare->data;
    if (--timer->loop->prepared == 0)
        uv_idle_stop(&timer->loop->busy);
    end_timer(timer);
}

/* libuv's clock is that of the round's beginning, in milliseconds. */
static void on_timer(uv_timer_t *handle)
{
    struct timer *timer = handle->data;
    uint64_t now = real_now(NULL);
    if (now < timer->deadline)
        uv_timer_start(handle, on_timer, (uint64_t)real_milliseconds(timer->deadline - now), 0);
    else
        end_timer(timer);
}

static void loop_timer(void *self, uint64_t delay, void (*fire)(void *user), void *user)
{
    struct loop *loop = self;
    struct timer *timer = calloc(1, sizeof *timer);
    require(timer != NULL);
    timer->loop = loop;
    timer->deadline = real_now(NULL) + delay;
    timer->fire = fire;
    timer->user = user;
    if (delay == 0) {
        loop->prepared++;
        uv_idle_start(&loop->busy, on_busy);
        uv_prepare_init(&loop->uv, &timer->prepare);
        uv_prepare_start(&timer->prepare, on_prepare);
    } else {
        uv_timer_init(&loop->uv, &timer->timer);
        uv_timer_start(&timer->timer, on_timer, (uint64_t)real_milliseconds(delay), 0);
    }
    timer->handle.data = timer;
}

#if HOST_UV_THREADS
#define PROPERTIES 0
#define LOST "what is out on libuv's pool at a fork is lost to the child, and its loop never ends"
#else
#define PROPERTIES HOST_FORKS
#endif

static const conformance_gap GAPS[] = {
    REAL_GAP,
#if HOST_UV_THREADS
    {"a_child_is_refused_and_abandons", LOST},
    {"a_child_may_have_a_context_of_its_own", LOST},
    {"a_child_in_the_middle_of_things", LOST},
    {"a_child_that_goes_on_takes_nothing", LOST},
    {"a_callback_that_forks", LOST},
    {"a_child_leaves_the_watches_alone", LOST},
    {"a_marker_whose_holder_dies", LOST},
#endif
    {NULL, NULL},
};

const conformance_host conformance_host_under_test = {
    .name = HOST_NAME,
    .properties = PROPERTIES | HOST_HAS_THREADS | HOST_SHARES | HOST_ENDS | HOST_OUTLIVED,
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
