/* aflock/libuv.h: file locks in a program that runs a libuv loop (1.40 or newer).
 *
 *   uv_loop_t *loop = uv_default_loop();
 *   aflock_libuv_new(&ctx, loop, NULL);
 *   ... open, acquire: callbacks run in uv_run(loop, UV_RUN_DEFAULT) ...
 *   aflock_ctx_free(ctx, grace);
 *   uv_run(loop, UV_RUN_DEFAULT);
 *   uv_loop_close(loop);
 *
 * Calls that may block run on threads of the library's own, never on libuv's (unless `uv_threads` asks for it): however
 * many requests wait, uv_fs_*, uv_getaddrinfo and uv_queue_work find their threads. Timers are exact, other than
 * libuv's: they are the library's own.
 *
 * Staying alive: uv_run goes on while a request waits, is undelivered or is being released. It does not go on for a
 * context without requests, nor for a hold.
 *
 * Handles: three, and one more while it ends, closed by aflock_ctx_free and aflock_ctx_abandon. As with every libuv
 * handle their memory is freed when the loop has run once more; uv_loop_close answers UV_EBUSY before. A program that
 * closes all handles of a loop (uv_walk, uv_close) may close ours, too, before or after the context is freed: from then
 * on requests are taken and not answered until aflock_ctx_free, which works even after uv_loop_close. Handles closed by
 * both are gone after two rounds of the loop; uv_run(loop, UV_RUN_DEFAULT) makes them.
 *
 * Threads: the context belongs to the thread that made it, and the loop has to run there.
 *
 * Fork: in a child all calls answer AFLOCK_EFORKED; aflock_ctx_abandon(ctx) frees what is left there. It calls
 * uv_loop_fork(loop), so that the parent's loop does not notice; whether the child has done so before makes no
 * difference.
 */
#ifndef AFLOCK_LIBUV_H
#define AFLOCK_LIBUV_H

#include <aflock/aflock.h>

#ifdef __cplusplus
extern "C" {
#endif

struct uv_loop_s;           /* uv_loop_t */
struct aflock_pool_options; /* aflock/kit.h */
struct aflock_executor;     /* aflock/host.h */

typedef struct aflock_libuv_options {
    size_t size;
    const aflock_ctx_options *ctx;          /* NULL: defaults */
    const struct aflock_pool_options *pool; /* NULL: defaults */
    const struct aflock_executor *executor; /* instead of the built-in pool; NULL: built-in */
    /* Not 0: calls that may block run on libuv's global pool (uv_queue_work), at most so many at once. Then calls that
     * hang take its threads, the loop stays alive until they return, and that of a child that is forked meanwhile for
     * ever; if the handles are closed first, aflock_ctx_free spends its grace in vain and gives up the files itself.
     * Not together with `pool` or `executor`. */
    unsigned uv_threads;
} aflock_libuv_options;

AFLOCK_API void aflock_libuv_options_init(aflock_libuv_options *options);

/* Makes a context on `loop`, which stays the caller's; several contexts may share one. Options NULL: defaults.
 * AFLOCK_EINVAL, AFLOCK_ENOMEM, AFLOCK_EMFILE, AFLOCK_ESYS (errno says why). [loop's thread] */
AFLOCK_API int aflock_libuv_new(aflock_ctx **out, struct uv_loop_s *loop, const aflock_libuv_options *options);

#ifdef __cplusplus
}
#endif
#endif
