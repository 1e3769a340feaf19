/* The libev adapter. HOST_BACKEND: which of libev's; HOST_DEFAULT: the first loop is the default one. */
#include "host_real.h"

#include <aflock/libev.h>
#include <ev.h>
#include <stdlib.h>
#include <unistd.h>

#ifndef HOST_NAME
#define HOST_NAME "libev"
#endif
#ifndef HOST_BACKEND
#define HOST_BACKEND EVFLAG_AUTO
#endif

struct loop {
    struct ev_loop *ev;
    ev_timer limit; /* ends the waiting */
    struct timer *timers;
    pid_t pid;
};

struct timer {
    ev_timer watcher;
    struct loop *loop;
    uint64_t deadline;
    void (*fire)(void *user);
    void *user;
    struct timer *next;
};

static ev_tstamp seconds(uint64_t time)
{
    return (ev_tstamp)time / 1e9;
}

static void on_limit(struct ev_loop *ev, ev_timer *watcher, int events)
{
    (void)ev;
    (void)watcher;
    (void)events;
}

static struct ev_loop *make_ev(void)
{
#ifdef HOST_DEFAULT
    static atomic_flag taken = ATOMIC_FLAG_INIT;
    if (!atomic_flag_test_and_set(&taken))
        return ev_default_loop(HOST_BACKEND);
#endif
    return ev_loop_new(HOST_BACKEND);
}

static void *loop_make(void)
{
    struct loop *loop = calloc(1, sizeof *loop);
    require(loop != NULL);
    loop->ev = make_ev();
    require(loop->ev != NULL);
    ev_timer_init(&loop->limit, on_limit, 0., 0.);
    loop->pid = getpid();
    return loop;
}

static void free_timer(struct timer *timer)
{
    struct timer **link = &timer->loop->timers;
    while (*link != timer)
        link = &(*link)->next;
    *link = timer->next;
    ev_timer_stop(timer->loop->ev, &timer->watcher);
    free(timer);
}

static void loop_destroy(void *self)
{
    struct loop *loop = self;
    while (loop->timers != NULL)
        free_timer(loop->timers);
    ev_loop_destroy(loop->ev);
    free(loop);
}

static int loop_context(void *self, const aflock_ctx_options *options, aflock_ctx **out)
{
    const struct loop *loop = self;
    aflock_libev_options libev_options;
    aflock_libev_options_init(&libev_options);
    libev_options.ctx = options;
    return aflock_libev_new(out, loop->ev, &libev_options);
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
        ev_timer_stop(loop->ev, &loop->limit);
        ev_timer_set(&loop->limit, seconds(end - now), 0.);
        ev_timer_start(loop->ev, &loop->limit);
        ev_run(loop->ev, EVRUN_ONCE);
    }
    ev_timer_stop(loop->ev, &loop->limit);
    return is_done;
}

static void loop_run_out(void *self)
{
    const struct loop *loop = self;
    ev_run(loop->ev, 0);
}

/* A loop's time is that of the round's beginning. */
static void on_timer(struct ev_loop *ev, ev_timer *watcher, int events)
{
    (void)events;
    struct timer *timer = watcher->data;
    uint64_t now = real_now(NULL);
    if (now < timer->deadline) {
        ev_timer_set(watcher, seconds(timer->deadline - now), 0.);
        ev_timer_start(ev, watcher);
        return;
    }
    void (*fire)(void *) = timer->fire;
    void *user = timer->user;
    free_timer(timer);
    fire(user);
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
    timer->next = loop->timers;
    loop->timers = timer;
    ev_timer_init(&timer->watcher, on_timer, seconds(delay), 0.);
    timer->watcher.data = timer;
    ev_timer_start(loop->ev, &timer->watcher);
}

static const conformance_gap GAPS[] = {REAL_GAP, {NULL, NULL}};

const conformance_host conformance_host_under_test = {
    .name = HOST_NAME,
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
