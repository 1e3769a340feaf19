/* The nginx adapter: a connection and two events around the kit.
 *
 * `connection` has the kit's descriptor for as long as the context lives, and its read event says when that is
 * readable. `turn` is a posted event: what the library wants soon comes in the next round, after everybody else's
 * events, and costs no system call. `linger` is what keeps a worker alive that is told to quit, as nginx leaves when no
 * timer is left but cancelable ones: a timer that is always set, far away, and cancelable or not.
 */
#include "tasks.h"

#include "../common/internal.h"

#include <aflock/kit.h>
#include <aflock/nginx.h>

#include <stdlib.h>

enum { LINGER_MS = 24 * 60 * 60 * 1000 };

struct adapter {
    aflock_kit *kit;
    aflock_ctx *ctx;
    ngx_log_t *log;
    aflock_executor executor; /* on nginx's pool, if it was asked for */
    ngx_connection_t *connection;
    ngx_event_t turn;
    ngx_event_t linger;
    int over; /* nothing keeps the worker alive any more: worker_shutdown_timeout has passed */
};

/* ------------------------------------------------------------------------------------------------------- the events */

static void on_ready(ngx_event_t *event)
{
    ngx_connection_t *connection = event->data;
    struct adapter *adapter = connection->data;
    if (aflock_host_check(adapter->ctx) == AFLOCK_EFORKED)
        return; /* what is not read here stays readable, for the worker */
    if (connection->close) {
        adapter->over = 1;
        adapter->linger.cancelable = 1;
    }
    aflock_kit_process(adapter->kit, adapter->ctx);
}

static void on_write(ngx_event_t *event)
{
    (void)event;
}

static struct adapter *adapter_of(const ngx_event_t *event)
{
    const ngx_connection_t *connection = event->data; /* nginx logs its descriptor */
    return connection->data;
}

static void on_turn(ngx_event_t *event)
{
    aflock_host_turn(adapter_of(event)->ctx);
}

static void on_linger(ngx_event_t *event)
{
    ngx_add_timer(event, LINGER_MS);
}

/* ------------------------------------------------------------------------------------------------ what the kit calls
 */

static void on_defer(void *self)
{
    struct adapter *adapter = self;
    ngx_post_event(&adapter->turn, &ngx_posted_next_events);
}

static void on_keep_alive(void *self, int on)
{
    struct adapter *adapter = self;
    adapter->linger.cancelable = !on || adapter->over;
}

/* In a child the epoll instance is the worker's; other methods keep their events in the process. */
static void stop_watching(ngx_connection_t *connection, int forked)
{
    if (connection->read->active && !(forked && (ngx_event_flags & NGX_USE_EPOLL_EVENT)))
        ngx_del_event(connection->read, NGX_READ_EVENT, 0);
    if (connection->read->posted) {
        ngx_delete_posted_event(connection->read);
    }
}

/* Not ngx_close_connection: the descriptor is the kit's. */
static void leave_loop(struct adapter *adapter, int forked)
{
    ngx_connection_t *connection = adapter->connection;
    stop_watching(connection, forked);
    if (adapter->turn.posted) {
        ngx_delete_posted_event(&adapter->turn);
    }
    if (adapter->linger.timer_set)
        ngx_del_timer(&adapter->linger);
    connection->read->closed = connection->write->closed = 1;
    ngx_free_connection(connection);
    connection->fd = (ngx_socket_t)-1;
}

static void on_closed(void *self, int forked)
{
    struct adapter *adapter = self;
    if (adapter->connection != NULL)
        leave_loop(adapter, forked);
    free(adapter);
}

static void on_log(aflock_log_level level, const char *message, void *user)
{
    static const ngx_uint_t levels[] = {NGX_LOG_DEBUG, NGX_LOG_INFO, NGX_LOG_WARN, NGX_LOG_ERR};
    ngx_log_error(levels[level], (ngx_log_t *)user, 0, "aflock: %s", message);
}

/* ------------------------------------------------------------------------------------------------------- making one */

void aflock_nginx_options_init(aflock_nginx_options *options)
{
    if (options != NULL)
        *options = (aflock_nginx_options){.size = sizeof *options};
}

static void init_event(struct adapter *adapter, ngx_event_t *event, ngx_event_handler_pt handler)
{
    event->data = adapter->connection;
    event->handler = handler;
    event->log = adapter->log;
}

static int enter_loop(struct adapter *adapter)
{
    ngx_connection_t *connection = ngx_get_connection(aflock_kit_fd(adapter->kit), adapter->log);
    if (connection == NULL) {
        ngx_log_error(NGX_LOG_ERR, adapter->log, 0, "aflock: no connection is free: see worker_connections");
        errno = EMFILE;
        return AFLOCK_EMFILE;
    }
    if (ngx_cycle->free_connection_n == 0) /* a worker that starts needs one more after its modules */
        ngx_log_error(NGX_LOG_WARN, adapter->log, 0, "aflock: takes the last connection: see worker_connections");
    adapter->connection = connection;
    connection->data = adapter;
    init_event(adapter, connection->read, on_ready);
    init_event(adapter, connection->write, on_write);
    init_event(adapter, &adapter->turn, on_turn);
    init_event(adapter, &adapter->linger, on_linger);
    if (ngx_add_event(connection->read, NGX_READ_EVENT, NGX_LEVEL_EVENT) != NGX_OK)
        return afl_status(errno);
    adapter->linger.cancelable = 1;
    on_linger(&adapter->linger);
    return 0;
}

static int make_kit(struct adapter *adapter, aflock_host *host, const aflock_nginx_options *options)
{
    aflock_kit_options kit_options = {
        .size = sizeof kit_options,
        .pool = options->pool,
        .executor = options->executor,
        .name = "nginx",
        .adapter = adapter,
        .defer = on_defer,
        .keep_alive = on_keep_alive,
        .closed = on_closed,
    };
    if (options->thread_pool != NULL && ngx_process != NGX_PROCESS_HELPER) {
        int status = afl_nginx_tasks_new(&adapter->executor, options->thread_pool, options->pool, adapter->log);
        if (status != 0)
            return status;
        kit_options.executor = &adapter->executor;
    }
    return aflock_kit_new(&adapter->kit, host, &kit_options);
}

static int make(struct adapter *adapter, const aflock_nginx_options *options, const aflock_ctx_options *ctx_options)
{
    aflock_host host;
    int status = make_kit(adapter, &host, options);
    if (status == 0)
        status = enter_loop(adapter);
    if (status == 0)
        status = aflock_ctx_new(&adapter->ctx, &host, ctx_options);
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

/* nginx has no symbol that says it, but every module does, its own first one, too. */
static int is_our_nginx(const ngx_cycle_t *cycle)
{
    const ngx_module_t *core = cycle->modules[0];
    if (core->version == nginx_version && strcmp(core->signature, NGX_MODULE_SIGNATURE) == 0)
        return 1;
    ngx_log_error(NGX_LOG_ERR, cycle->log, 0, "aflock: built for nginx %s (%s), and this one is %ui (%s)",
                  NGINX_VERSION, NGX_MODULE_SIGNATURE, core->version, core->signature);
    return 0;
}

/* Not in the master, nor before the events of this process are set up. */
static int has_loop(const ngx_cycle_t *cycle)
{
    if (ngx_event_actions.add != NULL)
        return 1;
    ngx_log_error(NGX_LOG_ERR, cycle->log, 0,
                  "aflock: no loop runs in this process: contexts are made in init_process");
    return 0;
}

int aflock_nginx_new(aflock_ctx **out, struct ngx_cycle_s *cycle, const aflock_nginx_options *given)
{
    aflock_nginx_options options;
    aflock_ctx_options ctx_options;
    aflock_nginx_options_init(&options);
    aflock_ctx_options_init(&ctx_options);
    if (out != NULL)
        *out = NULL;
    if (out == NULL || cycle == NULL || afl_options_read(&options, sizeof options, given) != 0 ||
        afl_options_read(&ctx_options, sizeof ctx_options, options.ctx) != 0 ||
        (options.thread_pool != NULL && options.executor != NULL))
        return AFLOCK_EINVAL;
    if (!is_our_nginx(cycle))
        return AFLOCK_ENOTSUP;
    if (!has_loop(cycle))
        return AFLOCK_EINVAL;
    ctx_options.size = sizeof ctx_options; /* what an older one lacks was filled in */
    if (ctx_options.log == NULL) {
        ctx_options.log = on_log;
        ctx_options.log_user = cycle->log;
    }
    struct adapter *adapter = calloc(1, sizeof *adapter);
    if (adapter == NULL)
        return AFLOCK_ENOMEM;
    adapter->log = cycle->log;
    int status = make(adapter, &options, &ctx_options);
    if (status == 0)
        *out = adapter->ctx;
    return status;
}
