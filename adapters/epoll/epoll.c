/* The epoll adapter: a loop of its own around the kit, or one descriptor inside any other loop.
 *
 * The loop's descriptor is an epoll instance that contains the kit's and what the caller adds; a round waits for it,
 * calls the caller's functions, and lets the kit process last. The kit's is not added before somebody needs the two
 * together: until then a round waits for it alone. An instance within another is one more to be woken and asked. A
 * turn that the library asks for costs no system call while the loop runs: the next round does not wait. Outside,
 * somebody else's loop must hear of it: the kit's descriptor is made readable.
 *
 * The caller's functions may free the context. The rest of the round then touches nothing but `closed`.
 */
#include "epoll_loop.h"

#include <stdlib.h>

enum { BATCH = 64 };

/* A context is ours if its loop's name is this very string. */
static const char loop_name[] = "epoll";

/* ----------------------------------------------------------------------------------------- what the kit calls */

static void make_readable(const struct afl_epoll *epoll)
{
    epoll->loop->wake(epoll->loop->self);
}

static void on_defer(void *adapter)
{
    struct afl_epoll *epoll = adapter;
    epoll->deferred = 1;
    if (!epoll->inside)
        make_readable(epoll);
}

static void on_keep_alive(void *adapter, int on)
{
    struct afl_epoll *epoll = adapter;
    epoll->wanted = on;
}

/* The same in a child process: closing and freeing disturbs nobody. */
static void on_closed(void *adapter, int forked)
{
    (void)forked;
    struct afl_epoll *epoll = adapter;
    afl_callers_free(epoll);
    if (epoll->epoll >= 0)
        close(epoll->epoll);
    epoll->closed = 1;
    if (!epoll->inside)
        free(epoll);
}

/* -------------------------------------------------------------------------------------------------- making one */

void aflock_epoll_options_init(aflock_epoll_options *options)
{
    if (options != NULL)
        *options = (aflock_epoll_options){.size = sizeof *options};
}

static int make_kit(struct afl_epoll *epoll, aflock_host *host, const aflock_epoll_options *options)
{
    aflock_kit_options kit_options;
    aflock_kit_options_init(&kit_options);
    kit_options.pool = options->pool;
    kit_options.executor = options->executor;
    kit_options.name = loop_name;
    kit_options.adapter = epoll;
    kit_options.defer = on_defer;
    kit_options.keep_alive = on_keep_alive;
    kit_options.closed = on_closed;
    int status = aflock_kit_new(&epoll->kit, host, &kit_options);
    if (status == 0)
        epoll->loop = host->loop;
    return status;
}

static int make_context(struct afl_epoll *epoll, const aflock_epoll_options *options)
{
    aflock_host host;
    epoll->epoll = afl_beyond_streams(epoll_create1(EPOLL_CLOEXEC));
    if (epoll->epoll < 0)
        return afl_status(errno);
    int status = make_kit(epoll, &host, options);
    return status != 0 ? status : aflock_ctx_new(&epoll->ctx, &host, options->ctx);
}

int aflock_epoll_new(aflock_ctx **out, const aflock_epoll_options *given)
{
    aflock_epoll_options options;
    aflock_epoll_options_init(&options);
    if (out != NULL)
        *out = NULL;
    if (out == NULL || afl_options_read(&options, sizeof options, given) != 0)
        return AFLOCK_EINVAL;
    struct afl_epoll *epoll = calloc(1, sizeof *epoll);
    if (epoll == NULL)
        return AFLOCK_ENOMEM;
    epoll->epoll = -1;
    epoll->alarm = AFL_ALARM_NONE;
    int status = make_context(epoll, &options);
    if (status == 0) {
        *out = epoll->ctx;
        return 0;
    }
    int error = errno;
    if (epoll->kit != NULL)
        aflock_kit_free(epoll->kit); /* calls on_closed */
    else
        on_closed(epoll, 0);
    errno = error;
    return status;
}

int afl_epoll_find(aflock_ctx *ctx, struct afl_epoll **out)
{
    int status = aflock_host_check(ctx);
    if (status != 0 && status != AFLOCK_EBUSY)
        return status;
    const aflock_loop *loop = aflock_host_loop(ctx);
    if (loop->name != loop_name)
        return AFLOCK_EINVAL;
    *out = aflock_kit_adapter(loop->self);
    return status;
}

/* ---------------------------------------------------------------------------------------------------- the rounds */

/* Nothing but the library is in the loop. No callback of its can free the context. */
static int do_plain_round(struct afl_epoll *epoll, uint64_t timeout)
{
    int deferred = epoll->deferred;
    epoll->deferred = 0;
    int status = aflock_kit_wait(epoll->kit, epoll->ctx, deferred ? 0 : timeout);
    if (status != 0)
        epoll->deferred |= deferred;
    return status != 0 ? status : aflock_host_check(epoll->ctx);
}

static int do_round(struct afl_epoll *epoll, uint64_t timeout)
{
    if (!epoll->complete)
        return do_plain_round(epoll, timeout);
    struct epoll_event events[BATCH];
    int kit_ready = 0, status = afl_alarm_set(&epoll->alarm, epoll->alarm.wanted); /* if that failed before */
    if (status != 0)
        return status;
    int count = afl_epoll_wait(epoll->epoll, events, BATCH, epoll->deferred ? 0 : timeout);
    if (count < 0)
        return errno == EINTR ? 0 : AFLOCK_ESYS;
    for (int i = 0; i < count && status == 0 && !epoll->closed; i++) {
        if (events[i].data.u64 == AFL_MARK_KIT)
            kit_ready = 1;
        else
            status = afl_callers_report(epoll, &events[i]);
    }
    if (epoll->closed)
        return 0;
    int deferred = epoll->deferred;
    epoll->deferred = 0;
    if (kit_ready)
        aflock_kit_process(epoll->kit, epoll->ctx);
    else if (deferred)
        aflock_host_turn(epoll->ctx);
    return status != 0 ? status : aflock_host_check(epoll->ctx); /* the child of a callback that forked must not wait */
}

static int enter(aflock_ctx *ctx, struct afl_epoll **out)
{
    int status = afl_epoll_find(ctx, out);
    if (status == 0 && (*out)->inside)
        status = AFLOCK_EBUSY;
    if (status == 0)
        (*out)->inside = 1;
    return status;
}

static void leave(struct afl_epoll *epoll)
{
    epoll->inside = 0;
    if (epoll->closed)
        free(epoll);
    else if (epoll->deferred)
        make_readable(epoll); /* the caller may go on with another loop */
}

static int is_alive(const struct afl_epoll *epoll)
{
    return epoll->wanted || epoll->first_timer != NULL;
}

int aflock_epoll_run(aflock_ctx *ctx)
{
    struct afl_epoll *epoll;
    int status = enter(ctx, &epoll);
    if (status != 0)
        return status;
    while (status == 0 && !epoll->closed && is_alive(epoll) && !atomic_load(&epoll->stop))
        status = do_round(epoll, AFLOCK_FOREVER);
    atomic_store(&epoll->stop, 0);
    leave(epoll);
    return status;
}

int aflock_epoll_run_once(aflock_ctx *ctx, uint64_t timeout)
{
    struct afl_epoll *epoll;
    int status = enter(ctx, &epoll);
    if (status != 0)
        return status;
    status = do_round(epoll, timeout);
    leave(epoll);
    return status;
}

int aflock_epoll_process(aflock_ctx *ctx)
{
    return aflock_epoll_run_once(ctx, 0);
}

void aflock_epoll_stop(aflock_ctx *ctx)
{
    int status = aflock_host_check(ctx);
    const aflock_loop *loop = aflock_host_loop(ctx);
    if (status == AFLOCK_EINVAL || status == AFLOCK_EFORKED || loop->name != loop_name)
        return;
    struct afl_epoll *epoll = aflock_kit_adapter(loop->self);
    atomic_store(&epoll->stop, 1);
    make_readable(epoll);
}

int aflock_epoll_fd(aflock_ctx *ctx)
{
    struct afl_epoll *epoll;
    int status = afl_epoll_find(ctx, &epoll);
    if (status == 0 || status == AFLOCK_EBUSY)
        status = afl_epoll_complete(epoll);
    return status == 0 ? epoll->epoll : status;
}

int aflock_epoll_alive(aflock_ctx *ctx)
{
    struct afl_epoll *epoll;
    int status = afl_epoll_find(ctx, &epoll);
    return status == 0 || status == AFLOCK_EBUSY ? is_alive(epoll) : status;
}
