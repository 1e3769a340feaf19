/* aflock/kit.h: the parts from which adapters are made.
 *
 * The kit implements aflock/host.h on Linux: a timerfd, an eventfd and the library's watches behind ONE descriptor (an
 * epoll instance) that any loop can watch for reading, and a thread pool. An adapter makes a kit, watches
 * aflock_kit_fd(), calls aflock_kit_process() when it is readable, and supplies `defer` and `keep_alive`.
 */
#ifndef AFLOCK_KIT_H
#define AFLOCK_KIT_H

#include <aflock/host.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct aflock_kit aflock_kit;
typedef struct aflock_pool aflock_pool;

/* ------------------------------------------------------------------------------------------------ the thread pool */

typedef struct aflock_pool_options {
    size_t size;
    unsigned threads;     /* default 4; started on first use */
    unsigned max_threads; /* with replacements of stalled threads; default 64 */
    size_t stack_size;    /* of a thread in bytes; default 128 KiB, at least 64 KiB */
    uint64_t idle;        /* ns after which an idle thread ends; default 10 s; AFLOCK_FOREVER: never */
    unsigned max_parked;  /* threads that wait for a lock in the kernel (AFLOCK_WAIT_PARK), on top of the others; each
                             has  a stack; default 32; 0: none */
} aflock_pool_options;

AFLOCK_API void aflock_pool_options_init(aflock_pool_options *options);

/* Makes a pool and fills in `out`. The pool belongs to `out->close`, which returns at once: idle threads end, busy ones
 * end when their call returns, and the last one frees the pool. Threads block every signal. Options NULL: defaults.
 * AFLOCK_EINVAL, AFLOCK_ENOMEM, AFLOCK_ESYS. [loop's thread] */
AFLOCK_API int aflock_pool_new(aflock_executor *out, const aflock_pool_options *options);

/* -------------------------------------------------------------------------------------------------------- the kit */

typedef struct aflock_kit_options {
    size_t size;
    const aflock_pool_options *pool; /* for the built-in pool; NULL: defaults */
    const aflock_executor *executor; /* instead of the built-in pool; its close is called at the end. NULL: built-in */
    const char *name;                /* of the loop, for messages; default "kit" */
    void *adapter;                   /* passed to the functions below */
    void (*defer)(void *adapter);    /* call aflock_kit_process soon, on a fresh stack; NULL: the kit makes its own
                                        descriptor readable */
    void (*keep_alive)(void *adapter, int on); /* may be NULL */
    void (*closed)(void *adapter, int forked); /* the kit is being freed: its descriptor is still open, and after the
                                                  return it is closed; may be NULL */
} aflock_kit_options;

AFLOCK_API void aflock_kit_options_init(aflock_kit_options *options);

/* Makes a kit and fills in `host` for aflock_ctx_new. Freeing the context frees the kit; if aflock_ctx_new fails, call
 * aflock_kit_free. On failure an executor of the options stays the caller's. [loop's thread] */
AFLOCK_API int aflock_kit_new(aflock_kit **out, aflock_host *host, const aflock_kit_options *options);
/* Only for a kit that no context was made with. Calls `closed`; an executor of the options stays the caller's. */
AFLOCK_API void aflock_kit_free(aflock_kit *kit);

AFLOCK_API void *aflock_kit_adapter(const aflock_kit *kit); /* the `adapter` of the options */

AFLOCK_API int aflock_kit_fd(const aflock_kit *kit); /* watch it for reading; borrowed */

/* Reports what is ready to `ctx` and runs its turn; never blocks. Spurious calls are harmless, calls in a forked child
 * do nothing. [loop's thread] */
AFLOCK_API void aflock_kit_process(aflock_kit *kit, aflock_ctx *ctx);

/* The same, but waits for it at most `timeout` ns (AFLOCK_FOREVER: until something happens, a signal included), for
 * adapters without a loop under them. AFLOCK_ESYS (errno says why), AFLOCK_EFORKED: nothing was done. [loop's thread]
 */
AFLOCK_API int aflock_kit_wait(aflock_kit *kit, aflock_ctx *ctx, uint64_t timeout);

#ifdef __cplusplus
}
#endif
#endif
