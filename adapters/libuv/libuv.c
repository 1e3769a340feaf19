/* The libuv adapter: handles around the kit.
 *
 * `ready` watches the kit's descriptor for as long as the context lives; it is referenced, that is, keeps the loop
 * alive, only while the library wants that. `turn` is an idle handle: while it is active the loop does not wait, and
 * what the library wants soon comes in its next round. `first` is `turn`, too; `last` is never started. Both stay
 * referenced.
 *
 * Handles may be freed only once their closing is finished, and a program may close those of others (uv_walk, uv_close)
 * without a callback of ours. There is one sign: a handle that is closed has lost its reference. So `ready`, which has
 * none to lose, stands between two that have: in whatever order handles are closed in one go, it is not the last.
 * Where the end is not there yet, a handle of our own is closed too, whose callback looks again.
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
    int entered;              /* all handles are made, not only `turn` */
    int kit_ready;            /* the next turn has to process the kit */
    uv_idle_t turn;
    uv_poll_t ready;
    uv_idle_t last;
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
    if (is_closing(handle))
        return;
    uv_ref(handle);
    uv_close(handle, NULL);
}

static int is_closed(void *handle)
{
    return is_closing(handle) && !uv_has_ref(handle);
}

static void on_end(uv_handle_t *end);

static void close_handles(struct adapter *adapter)
{
    if (is_closed(&adapter->turn) && is_closed(&adapter->last) && is_closing(&adapter->ready)) {
        free(adapter); /* the loop may be gone, too */
        return;
    }
    uv_idle_init(uv_handle_get_loop(as_handle(&adapter->turn)), &adapter->end);
    adapter->end.data = adapter;
    uv_close(as_handle(&adapter->end), on_end); /* first, as libuv begins with what was closed last */
    close_handle(&adapter->turn);
    close_handle(&adapter->ready);
    close_handle(&adapter->last);
}

static void on_end(uv_handle_t *end)
{
    close_handles(end->data);
}

/* In a child the loop may still share its epoll instance with the parent: then a removal would be the parent's. */
static void part_from_parent(struct adapter *adapter)
{
    uv_loop_fork(uv_handle_get_loop(as_handle(&adapter->turn)));
}

static void on_turn(uv_idle_t *turn)
{
    struct adapter *adapter = turn->data;
    int kit_ready = adapter->kit_ready;
    adapter->kit_ready = 0;
    uv_idle_stop(turn); /* the library may want another one */
    if (aflock_host_check(adapter->ctx) == AFLOCK_EFORKED) {
        part_from_parent(adapter);
        uv_poll_stop(&adapter->ready); /* what is not read here stays readable */
    } else if (kit_ready) {
        aflock_kit_process(adapter->kit, adapter->ctx);
    } else {
        aflock_host_turn(adapter->ctx);
    }
}

/* One turn a round: if the next one has its turn, there is time until then. A child's loop cannot be parted from the
 * parent's here, in the middle of libuv's polling. */
static void on_ready(uv_poll_t *ready, int status, int events)
{
    struct adapter *adapter = ready->data;
    (void)events;
    if (aflock_host_check(adapter->ctx) == AFLOCK_EFORKED)
        uv_idle_start(&adapter->turn, on_turn);
    else if (uv_is_active(as_handle(&adapter->turn)))
        adapter->kit_ready = 1;
    else if (status == 0) /* else somebody closed the descriptor, and libuv has stopped the handle */
        aflock_kit_process(adapter->kit, adapter->ctx);
}

/* ------------------------------------------------------------------------------------------------ what the kit calls
 */

static void on_defer(void *self)
{
    struct adapter *adapter = self;
    if (!is_closing(&adapter->turn))
        uv_idle_start(&adapter->turn, on_turn);
}

static void on_keep_alive(void *self, int on)
{
    struct adapter *adapter = self;
    if (is_closing(&adapter->ready))
        return;
    if (on)
        uv_ref(as_handle(&adapter->ready));
    else
        uv_unref(as_handle(&adapter->ready));
}

static void free_alone(uv_handle_t *turn)
{
    free(turn->data);
}

static void on_closed(void *self, int forked)
{
    struct adapter *adapter = self;
    if (!adapter->entered) {
        uv_close(as_handle(&adapter->turn), free_alone);
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
        int status = afl_uv_queue_new(&adapter->executor, as_handle(&adapter->turn), options->uv_threads);
        if (status != 0)
            return status;
        kit_options.executor = &adapter->executor;
    }
    return aflock_kit_new(&adapter->kit, host, &kit_options);
}

/* The handle `turn` is there already. */
static int enter_loop(struct adapter *adapter, uv_loop_t *loop)
{
    int error = uv_poll_init(loop, &adapter->ready, aflock_kit_fd(adapter->kit));
    if (error != 0) {
        errno = -error;
        return afl_status(errno);
    }
    adapter->entered = 1;
    adapter->ready.data = adapter;
    uv_idle_init(loop, &adapter->last);
    adapter->last.data = adapter;
    uv_poll_start(&adapter->ready, UV_READABLE, on_ready);
    uv_unref(as_handle(&adapter->ready));
    return 0;
}

static int make(struct adapter *adapter, uv_loop_t *loop, const aflock_libuv_options *options)
{
    aflock_host host;
    uv_idle_init(loop, &adapter->turn);
    adapter->turn.data = adapter;
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
    if (out == NULL || loop == NULL || afl_options_read(&options, sizeof options, given) != 0)
        return AFLOCK_EINVAL;
    if (options.uv_threads != 0 && (options.pool != NULL || options.executor != NULL))
        return AFLOCK_EINVAL;
    struct adapter *adapter = calloc(1, sizeof *adapter);
    if (adapter == NULL)
        return AFLOCK_ENOMEM;
    int status = make(adapter, loop, &options);
    if (status == 0)
        *out = adapter->ctx;
    return status;
}
