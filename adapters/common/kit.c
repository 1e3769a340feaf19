/* The kit: the library's timer, wake-up, watches and notifier behind one descriptor.
 *
 * The descriptor is an epoll instance with a timerfd, an eventfd, an inotify instance and what the library watches. It
 * never blocks, never calls back into the adapter except through the functions of its options, and runs the turn last;
 * only watches that nobody uses any more end after it. Closing it only closes descriptors and frees memory, which is
 * why it is the same in a child process: nothing that is shared with the parent changes.
 */
#include "listener.h"

#include <aflock/kit.h>

#include <stdatomic.h>
#include <stdlib.h>
#include <sys/eventfd.h>

enum { BATCH = 64 };

_Static_assert(ATOMIC_INT_LOCK_FREE == 2, "wake is called in signal handlers");

/* One watch of the library (its `host`). */
struct node {
    aflock_watch *watch;
    struct source *source;
    struct node *next; /* on the same descriptor */
};

/* One descriptor: epoll takes each only once, the library may watch it twice. */
struct source {
    int fd;
    struct node *nodes;
    struct source *prev;
    struct source *next;
};

struct aflock_kit {
    aflock_loop loop;
    aflock_executor pool; /* the built-in one; `self` is NULL if it is not used */
    aflock_kit_options options;
    int epoll;
    int event;
    atomic_int woken; /* `event` was written, or is about to be, since the last turn began */
    struct afl_alarm alarm;
    int dispatching; /* what is ready is being reported, or the turn runs: the alarm is set once, when that is over */
    struct source *sources;
    struct afl_listener listener;

    /* What is being reported. Watches come and go meanwhile. */
    struct epoll_event batch[BATCH];
    int at;
    int count;
    struct node *cursor;
};

/* ----------------------------------------------------------------------------------------------- timer and wake-up */

static uint64_t kit_now(void *self)
{
    (void)self;
    return afl_monotonic();
}

static int kit_timer(void *self, uint64_t deadline)
{
    aflock_kit *kit = self;
    if (!kit->dispatching)
        return afl_alarm_set(&kit->alarm, deadline);
    kit->alarm.wanted = deadline;
    return 0;
}

/* One write until the next turn, however many wake-ups. Whoever finds the flag set may rely on it: the turn looks for
 * work after the flag was cleared. */
static void kit_wake(void *self)
{
    aflock_kit *kit = self;
    int saved = errno;
    uint64_t one = 1;
    if (atomic_exchange(&kit->woken, 1) == 0) {
        ssize_t written = write(kit->event, &one, sizeof one);
        (void)written; /* it cannot fail: the counter is 0, and nothing interrupts a write that does not wait */
    }
    errno = saved;
}

/* In this order. Cleared first, the flag could be set again by a wake-up whose write is then read away. */
static void take_wakes(aflock_kit *kit)
{
    uint64_t count;
    if (read(kit->event, &count, sizeof count) == (ssize_t)sizeof count)
        atomic_exchange(&kit->woken, 0);
}

static void kit_defer(void *self)
{
    aflock_kit *kit = self;
    if (kit->options.defer != NULL)
        kit->options.defer(kit->options.adapter);
    else
        kit_wake(kit);
}

static void kit_keep_alive(void *self, int on)
{
    aflock_kit *kit = self;
    if (kit->options.keep_alive != NULL)
        kit->options.keep_alive(kit->options.adapter, on);
}

/* ----------------------------------------------------------------------------------------------------- the watches */

/* Adds or changes a descriptor so that it reports what any of its watches wants. */
static int control(const aflock_kit *kit, int operation, struct source *source)
{
    struct epoll_event event = {.data.ptr = source};
    for (const struct node *node = source->nodes; node != NULL; node = node->next)
        event.events |= afl_epoll_wanted(node->watch->events);
    return epoll_ctl(kit->epoll, operation, source->fd, &event) == 0 ? 0 : afl_status(errno);
}

static struct source *find_source(const aflock_kit *kit, int fd)
{
    struct source *source = kit->sources;
    while (source != NULL && source->fd != fd)
        source = source->next;
    return source;
}

/* The descriptor is watched already: `node` joins in. */
static int join_source(aflock_kit *kit, struct node *node)
{
    struct source *source = find_source(kit, node->watch->fd);
    if (source == NULL)
        return AFLOCK_ESYS; /* it is one of the kit's own */
    node->source = source;
    node->next = source->nodes;
    source->nodes = node;
    int status = control(kit, EPOLL_CTL_MOD, source);
    if (status != 0)
        source->nodes = node->next;
    return status;
}

/* Asking epoll first spares a search among all descriptors: two watches on one are rare. */
static int add_source(aflock_kit *kit, struct node *node)
{
    struct source *source = calloc(1, sizeof *source);
    if (source == NULL)
        return AFLOCK_ENOMEM;
    *source = (struct source){.fd = node->watch->fd, .nodes = node, .next = kit->sources};
    int status = control(kit, EPOLL_CTL_ADD, source);
    if (status != 0) {
        int error = errno;
        free(source);
        errno = error;
        return error == EEXIST ? join_source(kit, node) : status;
    }
    node->source = source;
    if (source->next != NULL)
        source->next->prev = source;
    kit->sources = source;
    return 0;
}

static void remove_source(aflock_kit *kit, struct source *source)
{
    epoll_ctl(kit->epoll, EPOLL_CTL_DEL, source->fd, NULL);
    for (int i = kit->at; i < kit->count; i++)
        if (kit->batch[i].data.ptr == source)
            kit->batch[i].data.ptr = NULL;
    *(source->prev != NULL ? &source->prev->next : &kit->sources) = source->next;
    if (source->next != NULL)
        source->next->prev = source->prev;
    free(source);
}

static int kit_watch(void *self, aflock_watch *watch)
{
    aflock_kit *kit = self;
    if (watch->events == 0 || (watch->events & ~(unsigned)(AFLOCK_READ | AFLOCK_WRITE)) != 0)
        return AFLOCK_EINVAL;
    struct node *node = watch->host;
    if (node != NULL)
        return control(kit, EPOLL_CTL_MOD, node->source);

    node = calloc(1, sizeof *node);
    if (node == NULL)
        return AFLOCK_ENOMEM;
    node->watch = watch;
    int status = add_source(kit, node);
    if (status == 0)
        watch->host = node;
    else
        free(node);
    return status;
}

static void kit_unwatch(void *self, aflock_watch *watch)
{
    aflock_kit *kit = self;
    struct node *node = watch->host;
    if (node == NULL)
        return;
    watch->host = NULL;
    if (kit->cursor == node)
        kit->cursor = node->next;
    struct source *source = node->source;
    struct node **link = &source->nodes;
    while (*link != node)
        link = &(*link)->next;
    *link = node->next;
    free(node);
    if (source->nodes == NULL)
        remove_source(kit, source);
    else
        control(kit, EPOLL_CTL_MOD, source); /* if it fails, what nobody wants any more is reported to nobody */
}

static void report(aflock_kit *kit, aflock_ctx *ctx, const struct source *source, unsigned ready)
{
    kit->cursor = source->nodes;
    while (kit->cursor != NULL) {
        struct node *node = kit->cursor;
        kit->cursor = node->next;
        unsigned events = ready & node->watch->events;
        if (events != 0)
            aflock_host_ready(ctx, node->watch, events);
    }
}

/* In the child of a callback that forked nothing may be changed: it is its parent's, too. */
static void settle(aflock_kit *kit, aflock_ctx *ctx)
{
    kit->dispatching = 0;
    if (aflock_host_check(ctx) == AFLOCK_EFORKED)
        return;
    if (afl_alarm_set(&kit->alarm, kit->alarm.wanted) != 0)
        kit_wake(kit); /* the next one tries again: rather round and round than too late */
    afl_listener_tidy(&kit->listener);
}

/* One batch a call: what does not fit keeps the descriptor readable, and epoll starts with it next time. */
static void dispatch(aflock_kit *kit, aflock_ctx *ctx, int count)
{
    kit->dispatching = kit->listener.dispatching = 1;
    kit->count = count > 0 ? count : 0;
    for (kit->at = 0; kit->at < kit->count; kit->at++) {
        const struct epoll_event *event = &kit->batch[kit->at];
        if (event->data.ptr == &kit->event)
            take_wakes(kit);
        else if (event->data.ptr == &kit->listener)
            afl_listener_report(&kit->listener, ctx);
        else if (event->data.ptr != &kit->alarm && event->data.ptr != NULL)
            report(kit, ctx, event->data.ptr, afl_epoll_ready(event->events));
        else if (event->data.ptr != NULL && afl_alarm_due(&kit->alarm))
            aflock_host_timer(ctx);
    }
    kit->count = 0;
    aflock_host_turn(ctx);
    settle(kit, ctx);
}

void aflock_kit_process(aflock_kit *kit, aflock_ctx *ctx)
{
    if (aflock_host_check(ctx) != AFLOCK_EFORKED) /* what a child reads here is missing in its parent */
        dispatch(kit, ctx, epoll_wait(kit->epoll, kit->batch, BATCH, 0));
}

int aflock_kit_wait(aflock_kit *kit, aflock_ctx *ctx, uint64_t timeout)
{
    if (aflock_host_check(ctx) == AFLOCK_EFORKED)
        return AFLOCK_EFORKED;
    int count = afl_epoll_wait(kit->epoll, kit->batch, BATCH, timeout);
    if (count < 0 && errno != EINTR)
        return AFLOCK_ESYS;
    dispatch(kit, ctx, count);
    return 0;
}

/* ---------------------------------------------------------------------------------------------- making and ending */

static void close_descriptor(int fd)
{
    if (fd >= 0)
        close(fd);
}

static void kit_close(void *self, int forked)
{
    aflock_kit *kit = self;
    if (kit->options.closed != NULL)
        kit->options.closed(kit->options.adapter, forked);
    while (kit->sources != NULL) {
        struct source *source = kit->sources;
        kit->sources = source->next;
        while (source->nodes != NULL) {
            struct node *node = source->nodes;
            source->nodes = node->next;
            free(node);
        }
        free(source);
    }
    afl_listener_close(&kit->listener, forked); /* if there was no context to do it */
    close_descriptor(kit->alarm.fd);
    close_descriptor(kit->event);
    close_descriptor(kit->epoll);
    free(kit);
}

void aflock_kit_options_init(aflock_kit_options *options)
{
    if (options != NULL)
        *options = (aflock_kit_options){.size = sizeof *options, .name = "kit"};
}

static int add_own(const aflock_kit *kit, int fd, void *mark)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = mark};
    return epoll_ctl(kit->epoll, EPOLL_CTL_ADD, fd, &event) == 0 ? 0 : afl_status(errno);
}

static int open_descriptors(aflock_kit *kit)
{
    kit->epoll = afl_beyond_streams(epoll_create1(EPOLL_CLOEXEC));
    if (kit->epoll < 0)
        return afl_status(errno);
    afl_listener_init(&kit->listener, kit->epoll);
    kit->event = afl_beyond_streams(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (kit->event < 0)
        return afl_status(errno);
    int status = afl_alarm_open(&kit->alarm);
    if (status == 0)
        status = add_own(kit, kit->event, &kit->event);
    if (status == 0)
        status = add_own(kit, kit->alarm.fd, &kit->alarm);
    return status;
}

static aflock_kit *make_kit(const aflock_kit_options *options)
{
    aflock_kit *kit = calloc(1, sizeof *kit);
    if (kit == NULL)
        return NULL;
    struct timespec resolution = {0};
    clock_getres(CLOCK_MONOTONIC, &resolution);
    kit->options = *options;
    kit->epoll = kit->event = -1;
    kit->alarm = AFL_ALARM_NONE;
    kit->listener.fd = -1;
    kit->loop = (aflock_loop){
        .size = sizeof kit->loop,
        .self = kit,
        .name = options->name,
        .resolution = (uint64_t)resolution.tv_sec * AFLOCK_SECOND + (uint64_t)resolution.tv_nsec,
        .now = kit_now,
        .timer = kit_timer,
        .defer = kit_defer,
        .wake = kit_wake,
        .keep_alive = kit_keep_alive,
        .watch = kit_watch,
        .unwatch = kit_unwatch,
        .close = kit_close,
    };
    return kit;
}

int aflock_kit_new(aflock_kit **out, aflock_host *host, const aflock_kit_options *given)
{
    aflock_kit_options options;
    aflock_kit_options_init(&options);
    if (out == NULL || host == NULL || afl_options_read(&options, sizeof options, given) != 0)
        return AFLOCK_EINVAL;
    aflock_kit *kit = make_kit(&options);
    if (kit == NULL)
        return AFLOCK_ENOMEM;
    int status = open_descriptors(kit);
    if (status == 0 && options.executor == NULL)
        status = aflock_pool_new(&kit->pool, options.pool);
    if (status != 0) {
        int error = errno;
        kit->options.closed = NULL; /* there was no kit */
        kit_close(kit, 0);
        errno = error;
        return status;
    }
    *host = (aflock_host){
        .size = sizeof *host,
        .loop = &kit->loop,
        .executor = options.executor != NULL ? options.executor : &kit->pool,
        .notifier = &kit->listener.notifier,
    };
    *out = kit;
    return 0;
}

void aflock_kit_free(aflock_kit *kit)
{
    if (kit == NULL)
        return;
    if (kit->pool.self != NULL)
        kit->pool.close(kit->pool.self, 0);
    kit_close(kit, 0);
}

void *aflock_kit_adapter(const aflock_kit *kit)
{
    return kit->options.adapter;
}

int aflock_kit_fd(const aflock_kit *kit)
{
    return kit->epoll;
}
