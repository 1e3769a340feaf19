/* aflock/semaphore.h: at most N holders at a time, over all processes.
 *
 * A semaphore is N slots; who holds one of them has a permit. A slot is an exclusive native lock on the file
 * DIRECTORY/NAME.NN.lock, NN being 00, 01, ... (at least two digits): what portalocker's BoundedSemaphore and
 * NamedBoundedSemaphore use, so these and this library count together. The directory has to exist; the files are
 * created when they are missing, and stay. All who use a semaphore must agree on the maximum: with a smaller one not
 * all slots are seen, with a larger one more hold.
 *
 * Who gets a slot
 *   Slots are tried one after the other, that which this context gave up last first, then in the order of their
 *   numbers. If all are taken they are waited for all at once, as aflock_acquire waits: a release is heard of, and so
 * is the end of a process, whose slots are free then.
 *
 *   Within a context: first come, first served. Only the first request waits for slots, the others cost memory only;
 *   what is released here is handed on as aflock_options and aflock_ctx_options say for any lock, and other processes
 *   get their turn. Between processes there is no order.
 *
 * Errors
 *   A slot whose flock(2) fails counts as taken, and is tried again each poll_interval. Another failure (a directory
 *   that is missing, a file that may not be opened) is answered to the first one who waits.
 *
 * Callbacks, threads and durations are as in aflock/aflock.h: a call that returns 0 calls back exactly once, later,
 * from a turn; otherwise never. A semaphore belongs to the thread of its context. The first one who waits counts as up
 * to `maximum` waiting requests (max_waiters), each other one as one; a semaphore that has to wait uses a descriptor of
 * its own (a pipe that is locked in this process alone; aflock_dump shows it as "fd:N"). When a drain begins
 * (aflock_ctx_drain), who waits may be answered AFLOCK_ECLOSED. In a forked child only aflock_semaphore_free may be
 * called.
 */
#ifndef AFLOCK_SEMAPHORE_H
#define AFLOCK_SEMAPHORE_H

#include <aflock/aflock.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct aflock_semaphore aflock_semaphore;

enum { AFLOCK_SEMAPHORE_LIMIT = 10000 }; /* of the maximum */

typedef struct aflock_semaphore_options {
    size_t size;
    const aflock_options *lock; /* of each slot: where attempts run, how is waited; the protocol must be AFLOCK_NATIVE;
                                   borrowed during the call; NULL: defaults */
    uint32_t flags;             /* of each request, as aflock_acquire_options.flags; default AFLOCK_CREATE */
    uint32_t file_mode;         /* as aflock_acquire_options.file_mode; default AFLOCK_MODE_DEFAULT */
} aflock_semaphore_options;

AFLOCK_API void aflock_semaphore_options_init(aflock_semaphore_options *options);

/* The semaphore `name` in `directory` (relative to the present working directory) with so many slots. Touches no file
 * system. AFLOCK_EINVAL: a name that is empty or has a "/" in it, a maximum that is 0 or above AFLOCK_SEMAPHORE_LIMIT;
 * AFLOCK_ENOMEM; what aflock_open answers. [loop's thread] */
AFLOCK_API int aflock_semaphore_new(aflock_semaphore **out, aflock_ctx *ctx, const char *directory, const char *name,
                                    unsigned maximum, const aflock_semaphore_options *options);

/* Names one request, and the slot that it gets. A value, free to copy; one that has ended is refused with
 * AFLOCK_ESTALE. {0} names none. */
typedef struct aflock_permit {
    uint64_t id;
} aflock_permit;

/* What a callback learns. Pointers live until it returns. */
typedef struct aflock_semaphore_result {
    size_t size;
    int status;        /* 0, or AFLOCK_E... */
    int sys_errno;     /* what the system said, or 0 */
    int cleanup_errno; /* as in aflock_result */
    int fd;            /* when held: the locked descriptor, borrowed until the release; or -1 */
    unsigned slot;     /* when held, or of the slot that failed: its number, from 0 */
    aflock_permit permit;
    const char *step; /* the failing step, or NULL */
    const char *path; /* of the slot's file; NULL if it is about none */
    uint64_t waited;  /* ns since the acquire */
} aflock_semaphore_result;

/* Runs once, from a turn, on the loop's thread; may call anything but aflock_ctx_free. */
typedef void (*aflock_semaphore_callback)(aflock_semaphore *semaphore, const aflock_semaphore_result *result,
                                          void *user);

/* Asks for a slot. `timeout`: ns, AFLOCK_FOREVER, or 0: each slot is tried once. `token`: of the same context, or NULL.
 * Returns 0: `callback` will run once, and `permit`, if not NULL, names the request. Otherwise an error:
 * AFLOCK_EWOULDBLOCK (timeout 0, and that is known at once, or others wait), AFLOCK_EMFILE, AFLOCK_ESYS (errno; no
 * descriptor could be made), or what aflock_acquire answers. The callback's status is that of aflock_acquire.
 * [loop's thread] */
AFLOCK_API int aflock_semaphore_acquire(aflock_semaphore *semaphore, uint64_t timeout, aflock_token *token,
                                        aflock_semaphore_callback callback, void *user, aflock_permit *permit);

/* Cancels a request that waits. 0: its callback will say AFLOCK_ECANCELED (or another failure), never "acquired".
 * AFLOCK_EHELD: it was delivered, release it. AFLOCK_ESTALE. [loop's thread] */
AFLOCK_API int aflock_semaphore_cancel(aflock_semaphore *semaphore, aflock_permit permit);

/* Gives a slot back. `callback` may be NULL; otherwise it runs once: status 0, or why the slot's file could not be
 * unlocked, which is tried again until it is done. AFLOCK_ENOTHELD: still waiting. AFLOCK_ESTALE. [loop's thread] */
AFLOCK_API int aflock_semaphore_release(aflock_semaphore *semaphore, aflock_permit permit,
                                        aflock_semaphore_callback callback, void *user);

AFLOCK_API unsigned aflock_semaphore_maximum(const aflock_semaphore *semaphore); /* NULL: 0 */

/* The lock of a slot, for aflock_path and aflock_inspect (who holds it). Never close, acquire or release it. NULL: no
 * such slot. [loop's thread] */
AFLOCK_API aflock *aflock_semaphore_lock(const aflock_semaphore *semaphore, unsigned number);

/* Ends the semaphore; it must not be used any more. Who waits is cancelled (the callbacks still come), what is held is
 * released. Call it before the context is freed. In a forked child it frees memory and descriptors only. NULL: nothing.
 * [loop's thread] */
AFLOCK_API void aflock_semaphore_free(aflock_semaphore *semaphore);

#ifdef __cplusplus
}
#endif
#endif
