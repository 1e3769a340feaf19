/* aflock/libev.h: file locks in a program that runs a libev loop (4.11 or newer).
 *
 *   struct ev_loop *loop = EV_DEFAULT;
 *   aflock_libev_new(&ctx, loop, NULL);
 *   ... open, acquire: callbacks run in ev_run(loop, 0) ...
 *   aflock_ctx_free(ctx, grace);
 *   ev_loop_destroy(loop);
 *
 * Works with every backend of libev, on the default loop and on others. Timers are exact to well below a millisecond
 * whatever the backend's are: they are the library's own. Collect intervals (ev_set_io_collect_interval) delay
 * callbacks like everything else in the loop.
 *
 * Staying alive: ev_run goes on while a request waits, is undelivered or is being released. It does not go on for a
 * context without requests, nor for a hold.
 *
 * Order of ending: either. A context whose loop is destroyed first notices it (by an ev_cleanup watcher), and answers
 * what is pending in aflock_ctx_free. Until then requests are taken and not answered.
 *
 * Threads: the context belongs to the thread that made it, and the loop has to run there.
 *
 * Fork: in a child all calls answer AFLOCK_EFORKED; aflock_ctx_abandon(ctx) frees what is left there. It calls
 * ev_loop_fork(loop), whether the child has done so before or not.
 *
 * Linking: a program that uses libevent, too, has to name that first (-levent_core -lev): libev has functions of the
 * same names.
 *
 * A libev built with EV_MULTIPLICITY=0 has one loop: build the adapter with the same setting, and pass NULL.
 */
#ifndef AFLOCK_LIBEV_H
#define AFLOCK_LIBEV_H

#include <aflock/aflock.h>

#ifdef __cplusplus
extern "C" {
#endif

struct ev_loop;
struct aflock_pool_options; /* aflock/kit.h */
struct aflock_executor;     /* aflock/host.h */

typedef struct aflock_libev_options {
    size_t size;
    const aflock_ctx_options *ctx;          /* NULL: defaults */
    const struct aflock_pool_options *pool; /* NULL: defaults */
    const struct aflock_executor *executor; /* instead of the built-in pool; NULL: built-in */
} aflock_libev_options;

AFLOCK_API void aflock_libev_options_init(aflock_libev_options *options);

/* Makes a context on `loop`, which stays the caller's; several contexts may share one. NULL: the default loop, which is
 * made if there is none. Options NULL: defaults. Every watcher has the priority 0. AFLOCK_EINVAL, AFLOCK_ENOMEM,
 * AFLOCK_EMFILE, AFLOCK_ESYS (errno says why). [loop's thread] */
AFLOCK_API int aflock_libev_new(aflock_ctx **out, struct ev_loop *loop, const aflock_libev_options *options);

#ifdef __cplusplus
}
#endif
#endif
