/* The epoll adapter's caller: watches and timers of the program's own, in the same loop.
 *
 * Their functions run between the waiting and the library's turn, never inside the library. Each may add and remove
 * anything, close what it was called for, and free the context: nothing is kept in a variable over a call.
 */
#include "epoll_loop.h"

#include <stdlib.h>

_Static_assert((int)AFLOCK_EPOLL_READ == (int)AFLOCK_READ && (int)AFLOCK_EPOLL_WRITE == (int)AFLOCK_WRITE,
               "the directions of a caller's watch are those of host.h");

/* These work inside callbacks too. */
static int find(aflock_ctx *ctx, struct afl_epoll **out)
{
    int status = afl_epoll_find(ctx, out);
    return status == AFLOCK_EBUSY ? 0 : status;
}

/* After a function of the caller's. If it has forked, its child must not go on: what it reads and sets is its parent's.
 */
static int may_go_on(const struct afl_epoll *epoll)
{
    return epoll->closed ? 0 : aflock_host_check(epoll->ctx);
}

int afl_epoll_complete(struct afl_epoll *epoll)
{
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = AFL_MARK_KIT};
    if (!epoll->complete && epoll_ctl(epoll->epoll, EPOLL_CTL_ADD, aflock_kit_fd(epoll->kit), &event) != 0)
        return afl_status(errno);
    epoll->complete = 1;
    return 0;
}

/* ------------------------------------------------------------------------------------------------------- watches */

static int reserve_watch(struct afl_epoll *epoll, size_t fd)
{
    if (fd < epoll->watches_size)
        return 0;
    size_t size = epoll->watches_size != 0 ? epoll->watches_size : 16;
    while (size <= fd)
        size *= 2;
    struct afl_caller_watch *watches = realloc(epoll->watches, size * sizeof *watches);
    if (watches == NULL)
        return AFLOCK_ENOMEM;
    memset(watches + epoll->watches_size, 0, (size - epoll->watches_size) * sizeof *watches);
    epoll->watches = watches;
    epoll->watches_size = size;
    return 0;
}

static int set_watch(struct afl_epoll *epoll, int fd, const struct afl_caller_watch *wanted)
{
    int status = afl_epoll_complete(epoll);
    if (status == 0)
        status = reserve_watch(epoll, (size_t)fd);
    if (status != 0)
        return status;
    struct afl_caller_watch *watch = &epoll->watches[fd];
    struct epoll_event event = {.events = afl_epoll_wanted(wanted->events),
                                .data.u64 = (uint64_t)watch->generation << 32 | (uint32_t)fd};
    if (epoll_ctl(epoll->epoll, watch->events != 0 ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, fd, &event) != 0)
        return afl_status(errno);
    watch->ready = wanted->ready;
    watch->user = wanted->user;
    watch->events = wanted->events;
    return 0;
}

static void remove_watch(struct afl_epoll *epoll, int fd)
{
    if ((size_t)fd >= epoll->watches_size || epoll->watches[fd].events == 0)
        return;
    epoll_ctl(epoll->epoll, EPOLL_CTL_DEL, fd, NULL);
    epoll->watches[fd].events = 0;
    epoll->watches[fd].generation++;
}

int aflock_epoll_watch(aflock_ctx *ctx, int fd, unsigned events,
                       void (*ready)(aflock_ctx *ctx, int fd, unsigned events, void *user), void *user)
{
    struct afl_epoll *epoll;
    int status = find(ctx, &epoll);
    if (status != 0)
        return status;
    if (fd < 0 || (events & ~(unsigned)(AFLOCK_EPOLL_READ | AFLOCK_EPOLL_WRITE)) != 0)
        return AFLOCK_EINVAL;
    if (events == 0) {
        remove_watch(epoll, fd);
        return 0;
    }
    if (ready == NULL)
        return AFLOCK_EINVAL;
    return set_watch(epoll, fd, &(struct afl_caller_watch){.ready = ready, .user = user, .events = events});
}

static void report_watch(struct afl_epoll *epoll, const struct epoll_event *event)
{
    int fd = (int)(event->data.u64 & UINT32_MAX);
    struct afl_caller_watch watch = epoll->watches[fd];
    unsigned events = afl_epoll_ready(event->events) & watch.events;
    if (events != 0 && watch.generation == event->data.u64 >> 32)
        watch.ready(epoll->ctx, fd, events, watch.user);
}

/* -------------------------------------------------------------------------------------------------------- timers */

/* Looked for from the end: the time-outs of a program are often all of one length. Equal deadlines keep their order. */
static void insert_timer(struct afl_epoll *epoll, struct afl_caller_timer *timer)
{
    timer->prev = epoll->last_timer;
    while (timer->prev != NULL && timer->prev->deadline > timer->deadline)
        timer->prev = timer->prev->prev;
    timer->next = timer->prev != NULL ? timer->prev->next : epoll->first_timer;
    *(timer->prev != NULL ? &timer->prev->next : &epoll->first_timer) = timer;
    *(timer->next != NULL ? &timer->next->prev : &epoll->last_timer) = timer;
}

static void remove_timer(struct afl_epoll *epoll, struct afl_caller_timer *timer)
{
    *(timer->prev != NULL ? &timer->prev->next : &epoll->first_timer) = timer->next;
    *(timer->next != NULL ? &timer->next->prev : &epoll->last_timer) = timer->prev;
    free(timer);
}

static int set_alarm(struct afl_epoll *epoll)
{
    return afl_alarm_set(&epoll->alarm, epoll->first_timer != NULL ? epoll->first_timer->deadline : AFLOCK_FOREVER);
}

static int open_alarm(struct afl_epoll *epoll)
{
    if (epoll->alarm.fd >= 0)
        return 0;
    int status = afl_epoll_complete(epoll);
    if (status == 0)
        status = afl_alarm_open(&epoll->alarm);
    if (status != 0)
        return status;
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = AFL_MARK_ALARM};
    if (epoll_ctl(epoll->epoll, EPOLL_CTL_ADD, epoll->alarm.fd, &event) == 0)
        return 0;
    status = afl_status(errno);
    close(epoll->alarm.fd);
    epoll->alarm.fd = -1;
    return status;
}

int aflock_epoll_timer(aflock_ctx *ctx, uint64_t delay, void (*fire)(aflock_ctx *ctx, void *user), void *user)
{
    struct afl_epoll *epoll;
    int status = find(ctx, &epoll);
    if (status != 0)
        return status;
    if (fire == NULL)
        return AFLOCK_EINVAL;
    status = open_alarm(epoll);
    if (status != 0)
        return status;
    struct afl_caller_timer *timer = malloc(sizeof *timer);
    if (timer == NULL)
        return AFLOCK_ENOMEM;
    *timer = (struct afl_caller_timer){.deadline = afl_later(afl_monotonic(), delay), .fire = fire, .user = user};
    insert_timer(epoll, timer);
    status = set_alarm(epoll);
    if (status != 0) {
        remove_timer(epoll, timer);
        set_alarm(epoll); /* for the others: it is set for them already */
    }
    return status;
}

int aflock_epoll_timer_cancel(aflock_ctx *ctx, void (*fire)(aflock_ctx *ctx, void *user), void *user)
{
    struct afl_epoll *epoll;
    int status = find(ctx, &epoll);
    if (status != 0)
        return status;
    for (struct afl_caller_timer *timer = epoll->first_timer; timer != NULL; timer = timer->next) {
        if (timer->fire == fire && timer->user == user) {
            remove_timer(epoll, timer);
            return set_alarm(epoll);
        }
    }
    return AFLOCK_ESTALE;
}

/* Those that are due now; not those that they start. If the context is freed by one, none is left. */
static int fire_timers(struct afl_epoll *epoll)
{
    uint64_t now = afl_monotonic();
    int status = 0;
    while (status == 0 && epoll->first_timer != NULL && epoll->first_timer->deadline <= now) {
        struct afl_caller_timer timer = *epoll->first_timer;
        remove_timer(epoll, epoll->first_timer);
        timer.fire(epoll->ctx, timer.user);
        status = may_go_on(epoll);
    }
    return status != 0 ? status : set_alarm(epoll);
}

/* --------------------------------------------------------------------------------------------------- for epoll.c */

int afl_callers_report(struct afl_epoll *epoll, const struct epoll_event *event)
{
    if (event->data.u64 == AFL_MARK_ALARM)
        return afl_alarm_due(&epoll->alarm) ? fire_timers(epoll) : set_alarm(epoll);
    report_watch(epoll, event);
    return may_go_on(epoll);
}

void afl_callers_free(struct afl_epoll *epoll)
{
    while (epoll->first_timer != NULL)
        remove_timer(epoll, epoll->first_timer);
    free(epoll->watches);
    if (epoll->alarm.fd >= 0)
        close(epoll->alarm.fd);
}
