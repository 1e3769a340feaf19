/* The epoll adapter, in its two ways. On its own: one context runs its loop; where there are several, or none, they are
 * embedded. Embedded (built with HOST_EMBEDDED): a loop around poll(2) that knows nothing but their descriptors. Timers
 * are those of the first context. */
#include "host_real.h"

#include <aflock/epoll.h>
#include <poll.h>
#include <stdlib.h>

enum { CONTEXTS = 8 };

#ifdef HOST_EMBEDDED
#define NAME "embedded"
static const bool EMBEDDED = true;
#else
#define NAME "epoll"
static const bool EMBEDDED = false;
#endif

struct timer {
    void (*fire)(void *user);
    void *user;
    struct timer *next;
};

struct loop {
    aflock_ctx *contexts[CONTEXTS]; /* that live */
    unsigned count;
    struct timer *timers; /* all that were ever made: the adapter has their addresses */
};

static void *loop_make(void)
{
    return calloc(1, sizeof(struct loop));
}

static void loop_destroy(void *self)
{
    struct loop *loop = self;
    while (loop->timers != NULL) {
        struct timer *timer = loop->timers;
        loop->timers = timer->next;
        free(timer);
    }
    free(loop);
}

static int loop_context(void *self, const aflock_ctx_options *options, aflock_ctx **out)
{
    struct loop *loop = self;
    aflock_epoll_options epoll_options;
    aflock_epoll_options_init(&epoll_options);
    epoll_options.ctx = options;
    require(loop->count < CONTEXTS);
    int status = aflock_epoll_new(out, &epoll_options);
    if (status == 0)
        loop->contexts[loop->count++] = *out;
    return status;
}

static void loop_forget(void *self, aflock_ctx *ctx)
{
    struct loop *loop = self;
    unsigned i = 0;
    while (i < loop->count && loop->contexts[i] != ctx)
        i++;
    require(i < loop->count);
    loop->count--;
    for (; i < loop->count; i++)
        loop->contexts[i] = loop->contexts[i + 1];
}

/* The callbacks of one may free another. */
static int embedded_round(const struct loop *loop, uint64_t longest)
{
    struct pollfd fds[CONTEXTS];
    aflock_ctx *ready[CONTEXTS];
    unsigned count = loop->count, found = 0;
    for (unsigned i = 0; i < count; i++) {
        int fd = aflock_epoll_fd(loop->contexts[i]);
        if (fd < 0)
            return fd; /* in a child */
        fds[i] = (struct pollfd){.fd = fd, .events = POLLIN};
    }
    poll(fds, count, real_milliseconds(longest));
    for (unsigned i = 0; i < count; i++)
        if (fds[i].revents != 0)
            ready[found++] = loop->contexts[i];
    int status = 0;
    for (unsigned i = 0; i < found && status == 0; i++)
        for (unsigned j = 0; j < loop->count && status == 0; j++)
            if (loop->contexts[j] == ready[i])
                status = aflock_epoll_process(ready[i]);
    return status;
}

static int one_round(const struct loop *loop, uint64_t longest)
{
    return EMBEDDED || loop->count != 1 ? embedded_round(loop, longest)
                                        : aflock_epoll_run_once(loop->contexts[0], longest);
}

static bool loop_run(void *self, bool (*done)(void *user), void *user, uint64_t limit)
{
    const struct loop *loop = self;
    uint64_t end = real_now(NULL) + limit;
    while (!done(user)) {
        uint64_t now = real_now(NULL);
        if (now >= end || one_round(loop, end - now) != 0)
            return false;
    }
    return true;
}

static bool is_alive(const struct loop *loop)
{
    for (unsigned i = 0; i < loop->count; i++)
        if (aflock_epoll_alive(loop->contexts[i]) == 1)
            return true;
    return false;
}

static void loop_run_out(void *self)
{
    const struct loop *loop = self;
    if (!EMBEDDED && loop->count == 1)
        require_status(aflock_epoll_run(loop->contexts[0]), 0);
    while (is_alive(loop))
        require_status(embedded_round(loop, AFLOCK_FOREVER), 0);
}

static void timer_fires(aflock_ctx *ctx, void *user)
{
    (void)ctx;
    const struct timer *timer = user;
    timer->fire(timer->user);
}

static void loop_timer(void *self, uint64_t delay, void (*fire)(void *user), void *user)
{
    struct loop *loop = self;
    struct timer *timer = malloc(sizeof *timer);
    require(timer != NULL);
    *timer = (struct timer){fire, user, loop->timers};
    loop->timers = timer;
    require(loop->count > 0);
    require_status(aflock_epoll_timer(loop->contexts[0], delay, timer_fires, timer), 0);
}

static const conformance_gap GAPS[] = {
    REAL_GAP,
    {"the_loop_goes_first", "the loop is the context"},
    {NULL, NULL},
};

const conformance_host conformance_host_under_test = {
    .name = NAME,
    .properties = HOST_HAS_THREADS | HOST_SHARES | HOST_FORKS | HOST_ENDS,
    .gaps = GAPS,
    .make = loop_make,
    .destroy = loop_destroy,
    .context = loop_context,
    .forget = loop_forget,
    .run = loop_run,
    .run_out = loop_run_out,
    .timer = loop_timer,
    .now = real_now,
    .block = real_block,
};
