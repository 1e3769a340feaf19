/* The libev adapter: three watchers around the kit.
 *
 * `ready` watches the kit's descriptor for as long as the context lives; it is counted as what keeps the loop alive
 * only while the library wants that (ev_ref, ev_unref). `turn` is a timer of no delay: what the library wants soon
 * comes in the next round, after everybody else's events, and costs no system call. `cleanup` hears that the loop is
 * destroyed.
 *
 * EV_P, EV_A and their like are libev's own way to have one source for both settings of EV_MULTIPLICITY.
 */
#include "../common/internal.h"

#include <aflock/kit.h>
#include <aflock/libev.h>

#include <ev.h>
#include <stdlib.h>

struct adapter {
    aflock_kit *kit;
    aflock_ctx *ctx;
#if EV_MULTIPLICITY
    struct ev_loop *loop;
#endif
    int entered; /* the watchers are in the loop */
    int counted; /* `ready` keeps the loop alive */
    ev_io ready;
    ev_timer turn;
#if EV_CLEANUP_ENABLE
    ev_cleanup cleanup;
#endif
};

#if EV_MULTIPLICITY
#define LOOP_OF(adapter) struct ev_loop *const loop = (adapter)->loop
#define UNUSED_LOOP (void)loop
#else
#define LOOP_OF(adapter) (void)(adapter)
#define UNUSED_LOOP (void)0
#endif

/* ----------------------------------------------------------------------------------------------------- the watchers */

static void count(struct adapter *adapter, int on)
{
    LOOP_OF(adapter);
    if (adapter->counted == on)
        return;
    adapter->counted = on;
    if (on)
        ev_ref(EV_A);
    else
        ev_unref(EV_A);
}

/* In a child the loop must not share its kernel's side with the parent: ev_loop_fork only says so, the next round acts.
 */
static void leave_loop(struct adapter *adapter, int forked)
{
    LOOP_OF(adapter);
    if (!adapter->entered)
        return;
    adapter->entered = 0;
    if (forked)
        ev_loop_fork(EV_A);
    count(adapter, 1);
    ev_io_stop(EV_A_ & adapter->ready);
    ev_timer_stop(EV_A_ & adapter->turn);
#if EV_CLEANUP_ENABLE
    ev_cleanup_stop(EV_A_ & adapter->cleanup);
#endif
}

static void on_ready(EV_P_ ev_io *watcher, int events)
{
    struct adapter *adapter = watcher->data;
    UNUSED_LOOP;
    if (aflock_host_check(adapter->ctx) == AFLOCK_EFORKED)
        leave_loop(adapter, 1); /* what is not read here stays readable */
    else if (events & EV_ERROR)
        leave_loop(adapter, 0); /* somebody closed the descriptor, so libev has stopped the watcher */
    else
        aflock_kit_process(adapter->kit, adapter->ctx);
}

static void on_turn(EV_P_ ev_timer *watcher, int events)
{
    const struct adapter *adapter = watcher->data;
    UNUSED_LOOP;
    (void)events;
    aflock_host_turn(adapter->ctx);
}

#if EV_CLEANUP_ENABLE
static void on_cleanup(EV_P_ ev_cleanup *watcher, int events)
{
    UNUSED_LOOP;
    (void)events;
    leave_loop(watcher->data, 0);
}
#endif

/* ------------------------------------------------------------------------------------------------ what the kit calls
 */

static void on_defer(void *self)
{
    struct adapter *adapter = self;
    LOOP_OF(adapter);
    if (adapter->entered)
        ev_timer_start(EV_A_ & adapter->turn);
}

static void on_keep_alive(void *self, int on)
{
    struct adapter *adapter = self;
    if (adapter->entered)
        count(adapter, on);
}

static void on_closed(void *self, int forked)
{
    struct adapter *adapter = self;
    leave_loop(adapter, forked);
    free(adapter);
}

/* ------------------------------------------------------------------------------------------------------- making one */

void aflock_libev_options_init(aflock_libev_options *options)
{
    if (options != NULL)
        *options = (aflock_libev_options){.size = sizeof *options};
}

static void enter_loop(struct adapter *adapter)
{
    LOOP_OF(adapter);
    ev_io_init(&adapter->ready, on_ready, aflock_kit_fd(adapter->kit), EV_READ);
    ev_timer_init(&adapter->turn, on_turn, 0., 0.);
    adapter->ready.data = adapter->turn.data = adapter;
    ev_io_start(EV_A_ & adapter->ready);
#if EV_CLEANUP_ENABLE
    ev_cleanup_init(&adapter->cleanup, on_cleanup);
    adapter->cleanup.data = adapter;
    ev_cleanup_start(EV_A_ & adapter->cleanup);
#endif
    adapter->entered = adapter->counted = 1;
    count(adapter, 0);
}

/* 0: there is no loop. */
static int find_loop(struct adapter *adapter, struct ev_loop *given)
{
#if EV_MULTIPLICITY
    adapter->loop = given != NULL ? given : EV_DEFAULT;
    return adapter->loop != NULL;
#else
    (void)adapter;
    return given == NULL && ev_default_loop(0);
#endif
}

static int make(struct adapter *adapter, const aflock_libev_options *options)
{
    aflock_kit_options kit_options = {
        .size = sizeof kit_options,
        .pool = options->pool,
        .executor = options->executor,
        .name = "libev",
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
    enter_loop(adapter);
    status = aflock_ctx_new(&adapter->ctx, &host, options->ctx);
    if (status != 0) {
        int error = errno;
        aflock_kit_free(adapter->kit); /* calls on_closed */
        errno = error;
    }
    return status;
}

int aflock_libev_new(aflock_ctx **out, struct ev_loop *loop, const aflock_libev_options *given)
{
    aflock_libev_options options;
    aflock_libev_options_init(&options);
    if (out != NULL)
        *out = NULL;
    if (out == NULL || afl_options_read(&options, sizeof options, given) != 0)
        return AFLOCK_EINVAL;
    struct adapter *adapter = calloc(1, sizeof *adapter);
    if (adapter == NULL)
        return AFLOCK_ENOMEM;
    if (!find_loop(adapter, loop)) {
        free(adapter);
        return AFLOCK_EINVAL;
    }
    int status = make(adapter, &options);
    if (status == 0)
        *out = adapter->ctx;
    return status;
}
