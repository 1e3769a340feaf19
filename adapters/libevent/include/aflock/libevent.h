/* aflock/libevent.h: file locks in a program that runs a libevent loop (2.1 or newer).
 *
 *   struct event_base *base = event_base_new();
 *   aflock_libevent_new(&ctx, base, NULL);
 *   ... open, acquire: callbacks run in event_base_dispatch(base) ...
 *   aflock_ctx_free(ctx, grace);
 *   event_base_free(base);
 *
 * Works with every method of libevent (epoll, poll, select), with bases that have locks (evthread_use_pthreads) and
 * bases that have none. Timers are exact whatever the base's are: they are the library's own.
 *
 * Staying alive: event_base_dispatch goes on while a request waits, is undelivered or is being released. It does not go
 * on for a context without requests, nor for a hold. event_base_loop(base, EVLOOP_ONCE) returns when callbacks have
 * run, as after any other event: call it until what you wait for is there.
 *
 * Priorities: set them (event_base_priority_init) before contexts are made.
 *
 * Linking: a program that uses libev, too, has to name libevent first (-levent_core -lev).
 *
 * Order of ending: aflock_ctx_free first, event_base_free second. The other way round is an error, which
 * aflock_ctx_free reports to the log hook; it still gives everything up. Until then requests are taken and not
 * answered.
 *
 * Threads: the context belongs to the thread that made it, and the base has to run there.
 *
 * Fork: in a child all calls answer AFLOCK_EFORKED; aflock_ctx_abandon(ctx) frees what is left there. It calls
 * event_reinit(base), so that the parent's loop does not notice; whether the child has done so before makes no
 * difference. The base is free to be used or freed in the child afterwards.
 */
#ifndef AFLOCK_LIBEVENT_H
#define AFLOCK_LIBEVENT_H

#include <aflock/aflock.h>

#ifdef __cplusplus
extern "C" {
#endif

struct event_base;
struct aflock_pool_options; /* aflock/kit.h */
struct aflock_executor;     /* aflock/host.h */

typedef struct aflock_libevent_options {
    size_t size;
    const aflock_ctx_options *ctx;          /* NULL: defaults */
    const struct aflock_pool_options *pool; /* NULL: defaults */
    const struct aflock_executor *executor; /* instead of the built-in pool; NULL: built-in */
} aflock_libevent_options;

AFLOCK_API void aflock_libevent_options_init(aflock_libevent_options *options);

/* Makes a context on `base`, which stays the caller's; several contexts may share one. Options NULL: defaults. Every
 * event has the base's middle priority. AFLOCK_EINVAL, AFLOCK_ENOMEM, AFLOCK_EMFILE, AFLOCK_ESYS (errno says why).
 * [loop's thread] */
AFLOCK_API int aflock_libevent_new(aflock_ctx **out, struct event_base *base, const aflock_libevent_options *options);

#ifdef __cplusplus
}
#endif
#endif
