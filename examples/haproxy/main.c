/* aflock-spoa: an agent that HAProxy asks for locks (SPOE). README.md says what for, and how it is set up.
 *
 *   main.c       begins and ends: signals, the drain
 *   options.c    the command line
 *   listener.c   the socket, peer.c a connection of HAProxy
 *   spop.c       frames and their order, wire.c the data in them; order.c what messages order
 *   tickets.c    who has asked for which lock, waits, holds, has lost it
 */
#include "listener.h"
#include "log.h"
#include "options.h"

#include <aflock/libev.h>

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct agent {
    options options;
    struct ev_loop *loop;
    tickets *tickets;
    peers peers;
    listener listener;
    ev_signal terminate, interrupt;
    ev_timer drain; /* how long holds may still last */
} agent;

/* ------------------------------------------------------------------------------------------------------------- the end
 */

static void on_drained(void *user)
{
    agent *a = user;
    ev_break(a->loop, EVBREAK_ALL);
}

static void on_drain_ends(struct ev_loop *loop, ev_timer *timer, int events)
{
    (void)events;
    agent *a = timer->data;
    log_line(LOG_WARNING, "%u locks are still held, and given up", tickets_held(a->tickets));
    ev_break(loop, EVBREAK_ALL);
}

/* Who waits is answered. Connections stay, so that holds can be unlocked. */
static void on_signal(struct ev_loop *loop, ev_signal *watcher, int events)
{
    (void)events;
    agent *a = watcher->data;
    if (a->peers.is_draining) {
        log_line(LOG_WARNING, "%u locks are given up", tickets_held(a->tickets));
        ev_break(loop, EVBREAK_ALL);
        return;
    }
    a->peers.is_draining = true;
    log_line(LOG_NOTICE, "ending: %u wait, %u hold", tickets_waiting(a->tickets), tickets_held(a->tickets));
    ev_timer_set(&a->drain, (double)a->options.drain / 1e3, 0.);
    ev_timer_start(loop, &a->drain);
    tickets_drain(a->tickets, on_drained, a);
}

/* ----------------------------------------------------------------------------------------------------------- the begin
 */

static void on_log(aflock_log_level level, const char *message, void *user)
{
    (void)user;
    static const int PRIORITIES[] = {
        [AFLOCK_LOG_DEBUG] = LOG_DEBUG,
        [AFLOCK_LOG_INFO] = LOG_DEBUG,
        [AFLOCK_LOG_WARN] = LOG_WARNING,
        [AFLOCK_LOG_ERROR] = LOG_ERR,
    };
    log_line(PRIORITIES[level], "%s", message);
}

/* Each lock and each connection has a descriptor. */
static void allow_descriptors(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

static tickets_options settings_of(const options *o)
{
    tickets_options t = {
        .directory = o->directory,
        .timeout = o->timeout,
        .hold = o->hold,
        .most_hold = o->max_hold,
        .max_waiting = o->max_waiting,
        .max_holds = o->max_holds,
    };
    aflock_options_init(&t.lock);
    t.lock.protocol = o->protocol;
    t.lock.duration = o->lease * AFLOCK_MILLISECOND;
    t.lock.stale_after = o->lease * AFLOCK_MILLISECOND;
    /* Keys come from outside: files that stay would fill the disk. */
    t.lock.temporary = o->protocol == AFLOCK_NATIVE && !o->keep_files;
    return t;
}

static bool make_tickets(agent *a)
{
    aflock_ctx_options context;
    aflock_ctx_options_init(&context);
    context.log = on_log;
    aflock_libev_options libev;
    aflock_libev_options_init(&libev);
    libev.ctx = &context;
    aflock_ctx *ctx;
    int status = aflock_libev_new(&ctx, a->loop, &libev);
    if (status == 0) {
        const tickets_options settings = settings_of(&a->options);
        status = tickets_new(&a->tickets, a->loop, ctx, &settings);
        if (status != 0)
            aflock_ctx_free(ctx, 0);
    }
    if (status != 0)
        log_line(LOG_ERR, "%s", aflock_strerror(status));
    return status == 0;
}

static void start_signal(agent *a, ev_signal *watcher, int number)
{
    ev_signal_init(watcher, on_signal, number);
    watcher->data = a;
    ev_signal_start(a->loop, watcher);
}

/* Or errno says why not. */
static bool is_usable(const char *directory)
{
    struct stat st;
    if (stat(directory, &st) != 0)
        return false;
    errno = ENOTDIR; /* which root would not be told */
    return S_ISDIR(st.st_mode) && access(directory, R_OK | W_OK | X_OK) == 0;
}

static bool begin(agent *a)
{
    if (!is_usable(a->options.directory)) {
        log_line(LOG_ERR, "%s: %s", a->options.directory, strerror(errno));
        return false;
    }
    allow_descriptors();
    signal(SIGPIPE, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    a->loop = ev_default_loop(0);
    if (!a->loop) {
        log_line(LOG_ERR, "libev does not begin");
        return false;
    }
    if (!make_tickets(a))
        return false;
    a->peers = (peers){
        .loop = a->loop,
        .tickets = a->tickets,
        .patience = (double)a->options.patience / 1e3,
        .idle = (double)a->options.idle / 1e3,
        .most = a->options.max_connections,
    };
    ev_init(&a->drain, on_drain_ends);
    a->drain.data = a;
    start_signal(a, &a->terminate, SIGTERM);
    start_signal(a, &a->interrupt, SIGINT);
    return true;
}

int main(int argc, char **argv)
{
    static agent a;
    const int status = options_parse(&a.options, argc, argv);
    if (status >= 0)
        return status;
    log_begin(a.options.is_verbose);
    bool is_well = begin(&a) && listener_open(&a.listener, &a.peers, a.options.listen);
    if (is_well)
        ev_run(a.loop, 0);
    if (a.listener.peers)
        listener_close(&a.listener);
    if (a.peers.loop)
        peers_close(&a.peers, SPOP_NORMAL);
    const int left = tickets_free(a.tickets);
    if (left != 0) {
        log_line(LOG_ERR, "%d locks could not be given up", left);
        is_well = false;
    }
    if (a.loop)
        ev_loop_destroy(a.loop);
    log_line(LOG_NOTICE, "ended");
    return is_well ? EXIT_SUCCESS : EXIT_FAILURE;
}
