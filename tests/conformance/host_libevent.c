/* The libevent adapter. HOST_METHOD, a name: no other of libevent's methods is used. HOST_LOCKED: bases have locks. */
#include "host_real.h"

#include <aflock/libevent.h>
#include <event2/event.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#ifdef HOST_LOCKED
#include <event2/thread.h>
#endif

#ifndef HOST_NAME
#define HOST_NAME "libevent"
#endif

struct loop {
    struct event_base *base;
    struct event *limit; /* ends the waiting */
    struct timer *timers;
    pid_t pid;
};

struct timer {
    struct loop *loop;
    struct event *event;
    uint64_t deadline;
    void (*fire)(void *user);
    void *user;
    struct timer *next;
};

static struct timeval timeval_of(uint64_t time)
{
    uint64_t microseconds = (time + US - 1) / US;
    return (struct timeval){.tv_sec = (time_t)(microseconds / 1000000), .tv_usec = (long)(microseconds % 1000000)};
}

static void on_limit(evutil_socket_t fd, short what, void *user)
{
    (void)fd;
    (void)what;
    (void)user;
}

static const char **methods; /* all of them; libevent makes the list anew at each call, and frees the last one */

static void start_libevent(void)
{
    methods = event_get_supported_methods();
#ifdef HOST_LOCKED
    require(evthread_use_pthreads() == 0);
#endif
}

static struct event_base *make_base(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, start_libevent);
    struct event_config *config = event_config_new();
    require(config != NULL && methods != NULL);
#ifdef HOST_METHOD
    for (int i = 0; methods[i] != NULL; i++)
        if (strcmp(methods[i], HOST_METHOD) != 0)
            event_config_avoid_method(config, methods[i]);
#endif
    struct event_base *base = event_base_new_with_config(config);
    event_config_free(config);
    require(base != NULL);
#ifdef HOST_METHOD
    require(strcmp(event_base_get_method(base), HOST_METHOD) == 0);
#endif
    return base;
}

static void *loop_make(void)
{
    struct loop *loop = calloc(1, sizeof *loop);
    require(loop != NULL);
    loop->base = make_base();
    loop->limit = event_new(loop->base, -1, 0, on_limit, NULL);
    loop->pid = getpid();
    return loop;
}

static void free_timer(struct timer *timer)
{
    struct timer **link = &timer->loop->timers;
    while (*link != timer)
        link = &(*link)->next;
    *link = timer->next;
    event_free(timer->event);
    free(timer);
}

static void loop_destroy(void *self)
{
    struct loop *loop = self;
    while (loop->timers != NULL)
        free_timer(loop->timers);
    event_free(loop->limit);
    event_base_free(loop->base);
    free(loop);
}

static int loop_context(void *self, const aflock_ctx_options *options, aflock_ctx **out)
{
    const struct loop *loop = self;
    aflock_libevent_options libevent_options;
    aflock_libevent_options_init(&libevent_options);
    libevent_options.ctx = options;
    return aflock_libevent_new(out, loop->base, &libevent_options);
}

static bool loop_run(void *self, bool (*done)(void *user), void *user, uint64_t limit)
{
    const struct loop *loop = self;
    uint64_t end = real_now(NULL) + limit;
    bool is_done;
    while (!(is_done = done(user))) {
        uint64_t now = real_now(NULL);
        if (now >= end || getpid() != loop->pid)
            break;
        struct timeval delay = timeval_of(end - now);
        event_add(loop->limit, &delay);
        event_base_loop(loop->base, EVLOOP_ONCE);
    }
    event_del(loop->limit);
    return is_done;
}

static void loop_run_out(void *self)
{
    const struct loop *loop = self;
    require(event_base_dispatch(loop->base) >= 0);
}

/* libevent's clock may be coarse. */
static void on_timer(evutil_socket_t fd, short what, void *user)
{
    (void)fd;
    (void)what;
    struct timer *timer = user;
    uint64_t now = real_now(NULL);
    if (now < timer->deadline) {
        struct timeval delay = timeval_of(timer->deadline - now);
        event_add(timer->event, &delay);
        return;
    }
    void (*fire)(void *) = timer->fire;
    void *fire_user = timer->user;
    free_timer(timer);
    fire(fire_user);
}

static void loop_timer(void *self, uint64_t delay, void (*fire)(void *user), void *user)
{
    struct loop *loop = self;
    struct timer *timer = malloc(sizeof *timer);
    require(timer != NULL);
    *timer = (struct timer){loop, NULL, real_now(NULL) + delay, fire, user, loop->timers};
    loop->timers = timer;
    timer->event = event_new(loop->base, -1, 0, on_timer, timer);
    struct timeval time = timeval_of(delay);
    require(timer->event != NULL && event_add(timer->event, &time) == 0);
}

static const conformance_gap GAPS[] = {
    REAL_GAP,
    {"the_loop_goes_first", "not with libevent; that it is said, and does no harm, is a test of the adapter"},
    {NULL, NULL},
};

const conformance_host conformance_host_under_test = {
    .name = HOST_NAME,
    .properties = HOST_HAS_THREADS | HOST_SHARES | HOST_FORKS | HOST_ENDS,
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
