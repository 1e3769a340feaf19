/* aflock/epoll.h: aflock with nothing but libc: a loop of its own, or one descriptor inside any other loop.
 *
 * As a loop of its own:            Inside another loop:
 *   aflock_epoll_new(&ctx, NULL);    aflock_epoll_new(&ctx, NULL);
 *   ... open, acquire ...            watch aflock_epoll_fd(ctx) for reading;
 *   aflock_epoll_run(ctx);           when it is readable: aflock_epoll_process(ctx);
 *   aflock_ctx_free(ctx, grace);
 *
 * ctx must come from aflock_epoll_new; all functions [loop's thread] unless noted.
 */
#ifndef AFLOCK_EPOLL_H
#define AFLOCK_EPOLL_H

#include <aflock/aflock.h>

#ifdef __cplusplus
extern "C" {
#endif

struct aflock_pool_options; /* aflock/kit.h */
struct aflock_executor;     /* aflock/host.h */

typedef struct aflock_epoll_options {
    size_t size;
    const aflock_ctx_options *ctx;          /* NULL: defaults */
    const struct aflock_pool_options *pool; /* NULL: defaults */
    const struct aflock_executor *executor; /* instead of the built-in pool; NULL: built-in */
} aflock_epoll_options;

AFLOCK_API void aflock_epoll_options_init(aflock_epoll_options *options);

/* Makes a context. AFLOCK_EINVAL, AFLOCK_ENOMEM, AFLOCK_EMFILE, AFLOCK_ESYS (errno says why). */
AFLOCK_API int aflock_epoll_new(aflock_ctx **out, const aflock_epoll_options *options);

/* Runs until nothing keeps the loop alive (a request that waits, is undelivered or is being released; timers of the
 * caller; not: holds) or aflock_epoll_stop was called. Returns 0, or a negative code. AFLOCK_EBUSY inside a callback.
 */
AFLOCK_API int aflock_epoll_run(aflock_ctx *ctx);

/* Waits at most `timeout` ns (AFLOCK_FOREVER: until something happens) and processes what is ready once. Returns 0, or
 * a negative code. AFLOCK_EBUSY inside a callback. */
AFLOCK_API int aflock_epoll_run_once(aflock_ctx *ctx, uint64_t timeout);

/* Makes aflock_epoll_run return after the present turn; called before a run, it ends the next one at once. [any thread,
 * signal handlers] as long as ctx lives. */
AFLOCK_API void aflock_epoll_stop(aflock_ctx *ctx);

/* The one descriptor, readable when there is something to process; borrowed. Asked for the first time, it may
 * fail for want of memory: AFLOCK_ENOMEM, AFLOCK_ESYS. */
AFLOCK_API int aflock_epoll_fd(aflock_ctx *ctx);
AFLOCK_API int aflock_epoll_process(aflock_ctx *ctx); /* never blocks */
AFLOCK_API int aflock_epoll_alive(aflock_ctx *ctx);   /* 1: something keeps the loop alive */

/* A caller's own descriptor in this loop: `ready` runs from a turn-like fresh stack when `fd` is ready for any of
 * `events` (AFLOCK_EPOLL_READ, AFLOCK_EPOLL_WRITE), level-triggered. events 0 removes it (also inside `ready`; 0 if
 * there is none). Watched descriptors do not keep the loop alive. The descriptor is the caller's; remove it before
 * closing it. */
enum { AFLOCK_EPOLL_READ = 1, AFLOCK_EPOLL_WRITE = 2 };
AFLOCK_API int aflock_epoll_watch(aflock_ctx *ctx, int fd, unsigned events,
                                  void (*ready)(aflock_ctx *ctx, int fd, unsigned events, void *user), void *user);

/* A caller's own one-shot timer in this loop: `fire` runs once, `delay` ns from now or later. A pending timer keeps the
 * loop alive. Any number may be pending; timers that are pending when the context is freed do not fire. `user` names
 * it for aflock_epoll_timer_cancel, which returns 0 if one with this function and user was pending, else AFLOCK_ESTALE.
 * `ready` and `fire` are the loop's own, not turns: they may free the context; aflock_epoll_run, _run_once and _process
 * answer AFLOCK_EBUSY inside them. */
AFLOCK_API int aflock_epoll_timer(aflock_ctx *ctx, uint64_t delay, void (*fire)(aflock_ctx *ctx, void *user),
                                  void *user);
AFLOCK_API int aflock_epoll_timer_cancel(aflock_ctx *ctx, void (*fire)(aflock_ctx *ctx, void *user), void *user);

#ifdef __cplusplus
}
#endif
#endif
