/* aflock/nginx.h: file locks in a module for nginx (1.22 or newer, on Linux).
 *
 *   static ngx_int_t init_process(ngx_cycle_t *cycle)      // of the module: in each worker, after the fork
 *   {
 *       return aflock_nginx_new(&ctx, cycle, NULL) == 0 ? NGX_OK : NGX_ERROR;
 *   }
 *   ... open, acquire: callbacks run in the worker's event loop, where a request may be gone on with ...
 *   static void exit_process(ngx_cycle_t *cycle)
 *   {
 *       aflock_ctx_free(ctx, AFLOCK_SECOND);
 *   }
 *
 * Works with every event method of nginx. Takes one of the worker's connections (worker_connections), and warns in the
 * error log if that was the last one. Timers are exact to well below a millisecond, whatever timer_resolution says:
 * they are the library's own.
 *
 * Staying alive: a worker that was told to quit gracefully goes on while a request of the library waits, is undelivered
 * or is being released. It does not go on for a hold: what nginx does meanwhile keeps it. When worker_shutdown_timeout
 * is over nothing of the library's keeps it any more.
 *
 * Order of ending: the context first, in exit_process at the latest. nginx says "open socket left in connection" of one
 * that a worker leaves behind. A worker that is killed or ends without it leaves no kernel lock, but may leave markers.
 *
 * Helper processes (cache manager and loader) call init_process, too, and never exit_process: a module that has nothing
 * to lock there returns early if ngx_process is NGX_PROCESS_HELPER. A reload makes new workers with contexts of their
 * own; they and those that still quit exclude each other as any two processes do.
 *
 * Threads: the context belongs to the worker's one loop. Nothing is to be made before the fork, in the master.
 *
 * Fork: in a child all calls answer AFLOCK_EFORKED; aflock_ctx_abandon(ctx) frees what is left there. A child shares
 * nginx's epoll instance with the worker and must not run its loop.
 *
 * Linking: there is only a static library, to be linked into the module, as nginx's functions are found when nginx has
 * loaded that, and structs are those of the nginx that it was built for. A module must never be unloaded (the linker's
 * -z nodelete): a thread may come back from a call that hung while nginx was ending. The package says both to CMake and
 * pkg-config, and keeps the library's names out of other modules' way (--exclude-libs).
 */
#ifndef AFLOCK_NGINX_H
#define AFLOCK_NGINX_H

#include <aflock/aflock.h>

#ifdef __cplusplus
extern "C" {
#endif

struct ngx_cycle_s;
struct ngx_thread_pool_s;
struct aflock_pool_options; /* aflock/kit.h */
struct aflock_executor;     /* aflock/host.h */

typedef struct aflock_nginx_options {
    size_t size;
    const aflock_ctx_options *ctx;          /* NULL: defaults. Without a `log` the library logs to nginx's error log */
    const struct aflock_pool_options *pool; /* NULL: defaults */
    const struct aflock_executor *executor; /* instead of the built-in pool; NULL: built-in */

    /* One of nginx's (`thread_pool NAME threads=N;`, ngx_thread_pool_get) for what may block; NULL: the built-in pool.
     * At most pool->threads (default 4) jobs are with it at a time. Otherwise than with the built-in pool
     *   - the pool's other users wait for our calls and ours for theirs; a call that hangs keeps a thread of nginx's
     *     for good, and nginx itself then waits for it at its end, busily;
     *   - AFLOCK_WAIT_PARK is not to be had: waits are as with AUTO.
     * What nginx's pool refuses (its max_queue is reached) goes to the built-in pool, as does everything once the
     * worker is told to end (nginx's pool ends before modules hear of it), and in helper processes, which have no
     * pools. Not together with `executor`. */
    struct ngx_thread_pool_s *thread_pool;
} aflock_nginx_options;

AFLOCK_API void aflock_nginx_options_init(aflock_nginx_options *options);

/* Makes a context on the loop of this process: in init_process of a module, or later. `cycle` is what init_process was
 * given. Several contexts may share the loop. Options NULL: defaults. AFLOCK_EINVAL, also in the master, which has no
 * loop; AFLOCK_ENOMEM, AFLOCK_ESYS (errno says why); AFLOCK_EMFILE, also if no connection is free; AFLOCK_ENOTSUP: the
 * library was built for another nginx, or a pool was given and it was built without threads. What was wrong with nginx
 * is in the error log, too. [loop's thread] */
AFLOCK_API int aflock_nginx_new(aflock_ctx **out, struct ngx_cycle_s *cycle, const aflock_nginx_options *options);

#ifdef __cplusplus
}
#endif
#endif
