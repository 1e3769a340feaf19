/* The nginx adapter, inside a worker: its process has one loop, which is made and destroyed by nginx. HOST_POOL: one of
 * nginx's thread pools runs what may block. */
#include <ngx_config.h>

#include <ngx_core.h>
#include <ngx_event.h>
#include <ngx_thread_pool.h>

#include "host_real.h"

#include <aflock/nginx.h>
#include <stdlib.h>
#include <unistd.h>

struct loop {
    ngx_event_t limit; /* ends the waiting */
    struct timer *timers;
    pid_t pid;
};

struct timer {
    ngx_event_t event; /* first */
    struct loop *loop;
    uint64_t deadline;
    void (*fire)(void *user);
    void *user;
    struct timer *next;
};

static pid_t process; /* that the loop was made for, or that has parted from it */

static ngx_cycle_t *the_cycle(void)
{
    return (ngx_cycle_t *)ngx_cycle; /* of which only pointers are changed */
}

static void round_of_loop(void)
{
    ngx_process_events_and_timers(the_cycle());
}

/* nginx counts from the beginning of a round, which may be long ago; and a timer without delay comes in this one. */
static void set_timer(ngx_event_t *event, uint64_t delay)
{
    static ngx_connection_t nobody = {.fd = (ngx_socket_t)-1};
    event->data = &nobody; /* whose descriptor nginx logs */
    event->log = ngx_cycle->log;
    ngx_time_update();
    if (event->timer_set)
        ngx_del_timer(event);
    if (delay > 0) {
        ngx_add_timer(event, (ngx_msec_t)real_milliseconds(delay));
    } else {
        ngx_post_event(event, &ngx_posted_next_events);
    }
}

static void on_limit(ngx_event_t *event)
{
    (void)event;
}

/* A child that wants a loop parts from what it shares with the worker. */
static void *loop_make(void)
{
    if (process == 0)
        process = getpid();
    if (process != getpid()) {
        process = getpid();
        ngx_done_events(the_cycle());
        require(ngx_event_actions.init(the_cycle(), 0) == NGX_OK);
    }
    struct loop *loop = calloc(1, sizeof *loop);
    require(loop != NULL);
    loop->limit.handler = on_limit;
    loop->pid = getpid();
    return loop;
}

static void free_timer(struct timer *timer)
{
    struct timer **link = &timer->loop->timers;
    while (*link != timer)
        link = &(*link)->next;
    *link = timer->next;
    if (timer->event.timer_set)
        ngx_del_timer(&timer->event);
    if (timer->event.posted) {
        ngx_delete_posted_event(&timer->event);
    }
    free(timer);
}

static void loop_destroy(void *self)
{
    struct loop *loop = self;
    while (loop->timers != NULL)
        free_timer(loop->timers);
    free(loop);
}

static int loop_context(void *self, const aflock_ctx_options *options, aflock_ctx **out)
{
    (void)self;
    aflock_nginx_options nginx_options;
    aflock_nginx_options_init(&nginx_options);
    nginx_options.ctx = options;
#ifdef HOST_POOL
    ngx_str_t name = ngx_string(HOST_POOL);
    nginx_options.thread_pool = ngx_thread_pool_get(the_cycle(), &name);
    require(nginx_options.thread_pool != NULL);
#endif
    return aflock_nginx_new(out, the_cycle(), &nginx_options);
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
        set_timer(&loop->limit, end - now);
        round_of_loop();
    }
    if (loop->limit.timer_set)
        ngx_del_timer(&loop->limit);
    return is_done;
}

/* As long as a worker goes on that is quitting. */
static void loop_run_out(void *self)
{
    (void)self;
    while (ngx_event_no_timers_left() != NGX_OK)
        round_of_loop();
}

static void on_timer(ngx_event_t *event)
{
    struct timer *timer = (struct timer *)event;
    uint64_t now = real_now(NULL);
    if (now < timer->deadline) {
        set_timer(event, timer->deadline - now);
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
    timer->event.handler = on_timer;
    set_timer(&timer->event, delay);
}

#ifdef HOST_POOL
#define LOST "nginx's threads do not survive a fork"
#define PROPERTIES (HOST_SHARES | HOST_ENDS)
#else
#define PROPERTIES (HOST_SHARES | HOST_ENDS | HOST_FORKS)
#endif

static const conformance_gap GAPS[] = {
    REAL_GAP,
    {"four_threads_contend_for_one_path", "a worker has one loop"},
    {"the_loop_goes_first", "the loop ends with its process"},
#ifdef HOST_POOL
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
    .properties = PROPERTIES,
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
