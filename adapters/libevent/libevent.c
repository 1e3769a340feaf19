/* The libevent adapter: three events around the kit.
 *
 * `ready` watches the kit's descriptor for as long as the context lives. It must not keep the base alive, for which
 * libevent has no call; but events that are marked internal are not counted. Nor are their callbacks: a round that ran
 * nothing else makes EVLOOP_ONCE wait on. So `ready` only activates `turn`, in which all the work is done. `turn` is
 * also a timer of no delay: what the library wants soon comes after everybody else's events, and costs no system call.
 * `alive` is a timer that never comes, is pending all the time, and keeps the base going while it is not marked.
 *
 * event_base_free removes all events, and nothing else removes `ready`: if it is not there, the base is gone.
 */
#include "../common/internal.h"

#include <aflock/kit.h>
#include <aflock/libevent.h>

#include <event2/event.h>
#include <event2/event_struct.h>
#include <stdlib.h>

enum { NEVER = 30 * 24 * 60 * 60 }; /* seconds; when it comes, it starts again */

struct adapter {
    aflock_kit *kit;
    aflock_ctx *ctx;
    struct event_base *base; /* NULL: nothing of ours is in it (any more) */
    struct event ready;
    struct event turn;
    struct event alive;
    struct afl_log_hook log;
};

/* ------------------------------------------------------------------------------------------------------- the events */

static int base_is_gone(const struct adapter *adapter)
{
    return (adapter->ready.ev_evcallback.evcb_flags & EVLIST_INSERTED) == 0;
}

/* For libevent's debug mode, which keeps a list of all events. */
static void forget_events(struct adapter *adapter)
{
    event_debug_unassign(&adapter->ready);
    event_debug_unassign(&adapter->turn);
    event_debug_unassign(&adapter->alive);
}

/* In a child the base may still share its epoll instance with the parent: then a removal would be the parent's. */
static void leave_base(struct adapter *adapter, int forked)
{
    if (adapter->base == NULL)
        return;
    if (base_is_gone(adapter)) {
        afl_log_error(&adapter->log, "libevent: the event_base was freed before the context");
    } else {
        if (forked)
            event_reinit(adapter->base);
        event_del(&adapter->ready);
        event_del(&adapter->turn);
        event_del(&adapter->alive);
    }
    adapter->base = NULL;
    forget_events(adapter);
}

static void on_ready(evutil_socket_t fd, short what, void *user)
{
    (void)fd;
    struct adapter *adapter = user;
    event_active(&adapter->turn, what, 0);
}

static void on_turn(evutil_socket_t fd, short what, void *user)
{
    (void)fd;
    struct adapter *adapter = user;
    if (aflock_host_check(adapter->ctx) == AFLOCK_EFORKED)
        leave_base(adapter, 1); /* what is not read here stays readable */
    else if (what & EV_READ)
        aflock_kit_process(adapter->kit, adapter->ctx);
    else
        aflock_host_turn(adapter->ctx);
}

static void on_alive(evutil_socket_t fd, short what, void *user)
{
    (void)fd, (void)what, (void)user;
}

/* To change what is counted, the timer must not be pending. Its place among the timers is still free afterwards: only
 * at first there may be no memory for it. */
static int count_alive(struct adapter *adapter, int on)
{
    const struct timeval delay = {.tv_sec = NEVER};
    short *flags = &adapter->alive.ev_evcallback.evcb_flags;
    event_del(&adapter->alive);
    *flags = (short)(on ? *flags & ~EVLIST_INTERNAL : *flags | EVLIST_INTERNAL);
    return event_add(&adapter->alive, &delay);
}

/* ------------------------------------------------------------------------------------------------ what the kit calls
 */

/* Where there is no memory for a timer the event becomes active at once, for which none is needed. */
static void on_defer(void *self)
{
    struct adapter *adapter = self;
    const struct timeval delay = {.tv_sec = 0};
    if (adapter->base != NULL && !base_is_gone(adapter) && event_add(&adapter->turn, &delay) != 0)
        event_active(&adapter->turn, EV_TIMEOUT, 0);
}

static void on_keep_alive(void *self, int on)
{
    struct adapter *adapter = self;
    if (adapter->base != NULL && !base_is_gone(adapter))
        count_alive(adapter, on);
}

static void on_closed(void *self, int forked)
{
    struct adapter *adapter = self;
    leave_base(adapter, forked);
    free(adapter);
}

/* ------------------------------------------------------------------------------------------------------- making one */

void aflock_libevent_options_init(aflock_libevent_options *options)
{
    if (options != NULL)
        *options = (aflock_libevent_options){.size = sizeof *options};
}

static int enter_base(struct adapter *adapter, struct event_base *base)
{
    int fd = aflock_kit_fd(adapter->kit);
    evutil_make_socket_nonblocking(fd); /* libevent's debug mode insists */
    event_assign(&adapter->ready, base, fd, EV_READ | EV_PERSIST, on_ready, adapter);
    event_assign(&adapter->turn, base, -1, 0, on_turn, adapter);
    event_assign(&adapter->alive, base, -1, EV_PERSIST, on_alive, adapter);
    adapter->ready.ev_evcallback.evcb_flags |= EVLIST_INTERNAL;
    if (event_add(&adapter->ready, NULL) != 0 || count_alive(adapter, 0) != 0) {
        int status = afl_status(errno);
        event_del(&adapter->ready);
        forget_events(adapter);
        return status;
    }
    adapter->base = base;
    return 0;
}

int aflock_libevent_new(aflock_ctx **out, struct event_base *base, const aflock_libevent_options *given)
{
    aflock_libevent_options options;
    aflock_libevent_options_init(&options);
    if (out != NULL)
        *out = NULL;
    if (out == NULL || base == NULL || afl_options_read(&options, sizeof options, given) != 0)
        return AFLOCK_EINVAL;
    struct adapter *adapter = calloc(1, sizeof *adapter);
    if (adapter == NULL)
        return AFLOCK_ENOMEM;
    adapter->log = afl_log_hook_of(options.ctx);
    aflock_kit_options kit_options = {
        .size = sizeof kit_options,
        .pool = options.pool,
        .executor = options.executor,
        .name = "libevent",
        .adapter = adapter,
        .defer = on_defer,
        .keep_alive = on_keep_alive,
        .closed = on_closed,
    };
    aflock_host host;
    int status = aflock_kit_new(&adapter->kit, &host, &kit_options);
    if (status != 0) {
        free(adapter);
        return status;
    }
    status = enter_base(adapter, base);
    if (status == 0)
        status = aflock_ctx_new(&adapter->ctx, &host, options.ctx);
    if (status != 0) {
        int error = errno;
        aflock_kit_free(adapter->kit); /* calls on_closed */
        errno = error;
        return status;
    }
    *out = adapter->ctx;
    return 0;
}
