/* The libuv adapter: handles around the kit.
 *
 * `ready` watches the kit's descriptor for as long as the context lives; it is referenced, that is, keeps the loop
 * alive, only while the library wants that. When the library wants something soon, `soon` keeps the loop from waiting,
 * and `turn` does it after the polling, where UV_RUN_ONCE has it done and returns. Both stay referenced.
 *
 * Handles may be freed only once their closing is finished, and a program may close those of others (uv_walk, uv_close)
 * without a callback of ours. There is one sign: a handle that is closed has lost its reference. So `ready`, which has
 * none to lose, was made between two that have: when a walk closes all handles, it is not the last. Where the end is
 * not there yet, a handle of our own is closed too, whose callback hears of it.
 */
#include "queue.h"

#include "../common/internal.h"

#include <aflock/kit.h>
#include <aflock/libuv.h>

#include <stdlib.h>
#include <uv.h>

struct adapter {
    aflock_kit *kit;
    aflock_ctx *ctx;
    aflock_executor executor; /* libuv's pool, if it was asked for */
    int entered;              /* all handles are made, not only `soon` */
    int kit_ready;            /* the next turn has to process the kit */
    int others;               /* 1: the program has closed handles of ours */
    uv_idle_t soon;
    uv_poll_t ready;
    uv_check_t turn;
    uv_idle_t end; /* closed only to hear of the others */
};

/* ------------------------------------------------------------------------------------------------------ the handles */

static uv_handle_t *as_handle(void *handle)
{
    return handle;
}

static int is_closing(const void *handle)
{
    return uv_is_closing(handle);
}

static void close_handle(void *handle)
{
    if (!is_closing(handle))
        uv_close(handle, NULL);
}

static int is_closed(const void *handle)
{
    return is_closing(handle) && !uv_has_ref(handle);
}

static void on_end(uv_handle_t *end);

static void close_end(struct adapter *adapter)
{
    uv_idle_init(uv_handle_get_loop(as_handle(&adapter->soon)), &adapter->end);
    adapter->end.data = adapter;
    uv_close(as_handle(&adapter->end), on_end);
}

/* What somebody else began to close may be behind `end`, but no longer in the next round. */
static void on_end(uv_handle_t *end)
{
    struct adapter *adapter = end->data;
    if (adapter->others-- > 0)
        close_end(adapter);
    else
        free(adapter);
}

static void close_handles(struct adapter *adapter)
{
    if (is_closed(&adapter->soon) && is_closed(&adapter->turn) && is_closing(&adapter->ready)) {
        free(adapter); /* the loop may be gone, too */
        return;
    }
    adapter->others = is_closing(&adapter->soon) || is_closing(&adapter->ready) || is_closing(&adapter->turn);
    close_end(adapter); /* first, as libuv begins with what was closed last */
    close_handle(&adapter->soon);
    close_handle(&adapter->ready);
    close_handle(&adapter->turn);
}

/* In a child the loop may still share its epoll instance with the parent: then a removal would be the parent's. */
static void part_from_parent(struct adapter *adapter)
{
    uv_loop_fork(uv_handle_get_loop(as_handle(&adapter->soon)));
}

static void on_soon(uv_idle_t *soon)
{
    (void)soon;
}

static void on_turn(uv_check_t *turn)
{
    struct adapter *adapter = turn->data;
    int kit_ready = adapter->kit_ready;
    adapter->kit_ready = 0;
    uv_check_stop(turn); /* the library may want another one */
    uv_idle_stop(&adapter->soon);
    if (aflock_host_check(adapter->ctx) == AFLOCK_EFORKED) {
        part_from_parent(adapter);
        uv_poll_stop(&adapter->ready); /* what is not read here stays readable */
    } else if (kit_ready) {
        aflock_kit_process(adapter->kit, adapter->ctx);
    } else {
        aflock_host_turn(adapter->ctx);
    }
}

static void start_turn(struct adapter *adapter)
{
    if (is_closing(&adapter->soon) || is_closing(&adapter->turn))
        return;
    uv_idle_start(&adapter->soon, on_soon);
    uv_check_start(&adapter->turn, on_turn);
}

/* One turn a round: if there will be one, there is time until then. A child's loop cannot be parted from the parent's
 * here, in the middle of libuv's polling. */
static void on_ready(uv_poll_t *ready, int status, int events)
{
    struct adapter *adapter = ready->data;
    (void)events;
    if (aflock_host_check(adapter->ctx) == AFLOCK_EFORKED)
        start_turn(adapter);
    else if (uv_is_active(as_handle(&adapter->turn)))
        adapter->kit_ready = 1;
    else if (status == 0) /* else somebody closed the descriptor, and libuv has stopped the handle */
        aflock_kit_process(adapter->kit, adapter->ctx);
}

/* ------------------------------------------------------------------------------------------------ what the kit calls
 */

static void on_defer(void *self)
{
    start_turn(self);
}

static void on_keep_alive(void *self, int on)
{
    struct adapter *adapter = self;
    if (!is_closing(&adapter->ready))
        (on ? uv_ref : uv_unref)(as_handle(&adapter->ready));
}

static void on_closed(void *self, int forked)
{
    struct adapter *adapter = self;
    if (!adapter->entered) {
        uv_close(as_handle(&adapter->soon), on_end);
        return;
    }
    if (forked && !is_closing(&adapter->ready))
        part_from_parent(adapter);
    close_handles(adapter);
}

/* ------------------------------------------------------------------------------------------------------- making one */

void aflock_libuv_options_init(aflock_libuv_options *options)
{
    if (options != NULL)
        *options = (aflock_libuv_options){.size = sizeof *options};
}

static int make_kit(struct adapter *adapter, aflock_host *host, const aflock_libuv_options *options)
{
    aflock_kit_options kit_options = {
        .size = sizeof kit_options,
        .pool = options->pool,
        .executor = options->executor,
        .name = "libuv",
        .adapter = adapter,
        .defer = on_defer,
        .keep_alive = on_keep_alive,
        .closed = on_closed,
    };
    if (options->uv_threads != 0) {
        int status = afl_uv_queue_new(&adapter->executor, as_handle(&adapter->soon), options->uv_threads);
        if (status != 0)
            return status;
        kit_options.executor = &adapter->executor;
    }
    return aflock_kit_new(&adapter->kit, host, &kit_options);
}

/* The handle `soon` is there already. */
static int enter_loop(struct adapter *adapter, uv_loop_t *loop)
{
    errno = -uv_poll_init(loop, &adapter->ready, aflock_kit_fd(adapter->kit));
    if (errno != 0)
        return afl_status(errno);
    adapter->entered = 1;
    uv_check_init(loop, &adapter->turn);
    adapter->ready.data = adapter->turn.data = adapter;
    uv_poll_start(&adapter->ready, UV_READABLE, on_ready);
    uv_unref(as_handle(&adapter->ready));
    return 0;
}

static int make(struct adapter *adapter, uv_loop_t *loop, const aflock_libuv_options *options)
{
    aflock_host host;
    uv_idle_init(loop, &adapter->soon);
    adapter->soon.data = adapter;
    int status = make_kit(adapter, &host, options);
    if (status == 0)
        status = enter_loop(adapter, loop);
    if (status == 0)
        status = aflock_ctx_new(&adapter->ctx, &host, options->ctx);
    if (status == 0)
        return 0;
    int error = errno;
    if (adapter->executor.self != NULL)
        adapter->executor.close(adapter->executor.self, 0);
    if (adapter->kit != NULL)
        aflock_kit_free(adapter->kit); /* calls on_closed */
    else
        on_closed(adapter, 0);
    errno = error;
    return status;
}

int aflock_libuv_new(aflock_ctx **out, struct uv_loop_s *loop, const aflock_libuv_options *given)
{
    aflock_libuv_options options;
    aflock_libuv_options_init(&options);
    if (out != NULL)
        *out = NULL;
    if (out == NULL || loop == NULL || afl_options_read(&options, sizeof options, given) != 0 ||
        (options.uv_threads != 0 && (options.pool != NULL || options.executor != NULL)))
        return AFLOCK_EINVAL;
    struct adapter *adapter = calloc(1, sizeof *adapter);
    if (adapter == NULL)
        return AFLOCK_ENOMEM;
    int status = make(adapter, loop, &options);
    if (status == 0)
        *out = adapter->ctx;
    return status;
}
