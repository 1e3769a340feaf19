/* aflock/several.h: several locks at once: all of a list or none, or any one of it.
 *
 * Life cycle
 *   make a list, add paths to it, ask for all or for any, release, ask again as often as you like, free the list. One
 *   list does one thing at a time.
 *
 * All
 *   The locks are taken one after the other, and kept while the next one is waited for, in an order that is the same
 *   for all programs, so that those who do this never wait for each other in a circle: by the bytes of the absolute
 *   path in which the symbolic links of its directories are resolved (and that of the file itself where it would be
 *   followed: AFLOCK_FOLLOW, AFLOCK_RW). Directories that are missing count as they are written. That is found out at
 *   each call, on the executor, if there are more locks than one.
 *
 *   Paths of one list that lead to the same file (another spelling, a symbolic link, another mount of the directory, a
 *   hard link that is there at that moment) are one lock: it is taken once, exclusively if one of them asked for that.
 *   They must agree on the protocol (AFLOCK_EMISMATCH). What a protocol keeps beside the path is no part of that: a
 * list with a pid file and its PATH.lock waits for itself.
 *
 *   Programs that know a file under different names (hard links; containers that see directories elsewhere) may see
 *   another order, as do those that take the same locks one by one in an order of their own: then a time-out ends what
 *   could otherwise be a dead-lock.
 *
 *   If one of them cannot be had, in time or at all, or is lost while others are waited for (AFLOCK_LEASE,
 *   AFLOCK_SOFT_RW), none is kept: what had been taken is being given back when the callback runs.
 *
 * Any
 *   First each is tried once, in the order of the list; if none is free all are waited for at once. The first that can
 *   be had is held, the others are cancelled; one that comes at the same moment or later is given back. An error of one
 *   of them ends it all.
 *
 * Rules
 *   Callbacks, threads and durations are as in aflock/aflock.h: a call that returns 0 calls back exactly once, later,
 *   from a turn; otherwise never. A list belongs to the thread of its context. An operation counts as up to one waiting
 *   request for each lock and one more (max_waiters), and uses a descriptor of its own (a pipe that is locked in this
 *   process alone; aflock_dump shows it as "fd:N"). When a drain begins (aflock_ctx_drain), who waits for several locks
 *   may be answered AFLOCK_ECLOSED. In a forked child only aflock_several_free may be called.
 */
#ifndef AFLOCK_SEVERAL_H
#define AFLOCK_SEVERAL_H

#include <aflock/aflock.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct aflock_several aflock_several;

/* What a callback learns. Pointers live until it returns. */
typedef struct aflock_several_result {
    size_t size;
    int status;        /* 0, or AFLOCK_E... */
    int sys_errno;     /* what the system said, or 0 */
    int cleanup_errno; /* as in aflock_result */
    size_t index;      /* in the order in which they were added, from 0. any: of the one that is held. Otherwise of the
                          one that could not be had, or was waited for; all, with status 0: 0 */
    const char *step;  /* the failing step, or NULL */
    const char *path;  /* of the lock with that index */
    const char *detail;
    uint64_t waited; /* ns since the call */
} aflock_several_result;

/* Runs once, from a turn, on the loop's thread; may call anything but aflock_ctx_free. */
typedef void (*aflock_several_callback)(aflock_several *several, const aflock_several_result *result, void *user);

/* An empty list. AFLOCK_EINVAL, AFLOCK_ENOMEM, AFLOCK_ETHREAD, AFLOCK_EFORKED. [loop's thread] */
AFLOCK_API int aflock_several_new(aflock_several **out, aflock_ctx *ctx);

/* Adds the lock on `path`, as aflock_open opens it (`options` NULL: defaults), to be had in `mode`. Returns its index
 * (0, 1, ...), or an error: AFLOCK_EBUSY while the list waits or holds, AFLOCK_EINVAL, AFLOCK_ENOMEM, what aflock_open
 * answers. [loop's thread] */
AFLOCK_API int aflock_several_add(aflock_several *several, const char *path, aflock_mode mode,
                                  const aflock_options *options);

AFLOCK_API size_t aflock_several_count(const aflock_several *several); /* NULL: 0 */

/* Asks for all locks of the list, or for any one of them.
 *
 * `options` (NULL: defaults) are those of each lock, but: `timeout` and `token` are those of the whole; a timeout of 0
 * is one attempt at each. `mode` is not looked at. on_compromise is for locks that are leases (AFLOCK_LEASE,
 * AFLOCK_SOFT_RW) among others, and runs once all are held; with NULL nobody is told. Release the list then.
 *
 * Returns 0: the callback will run once. Otherwise AFLOCK_EINVAL (an empty list, too), AFLOCK_EBUSY (the list waits or
 * holds), AFLOCK_EMFILE, AFLOCK_ESYS (errno; no descriptor could be made), AFLOCK_EWOULDBLOCK (timeout 0, and that is
 * known at once), or what aflock_acquire answers. The callback's status: that of aflock_acquire; AFLOCK_ECOMPROMISED:
 * one was lost while others were waited for. [loop's thread] */
AFLOCK_API int aflock_several_all(aflock_several *several, const aflock_acquire_options *options,
                                  aflock_several_callback callback, void *user);
AFLOCK_API int aflock_several_any(aflock_several *several, const aflock_acquire_options *options,
                                  aflock_several_callback callback, void *user);

/* Cancels. 0: the callback will say AFLOCK_ECANCELED (or another failure), never that something is held. AFLOCK_EHELD:
 * it is held, release it. AFLOCK_ESTALE: nothing waits. [loop's thread] */
AFLOCK_API int aflock_several_cancel(aflock_several *several);

/* Ends what is held, all with one call, the last one that was taken first. `callback` may be NULL; otherwise it runs
 * when all are given up: status 0, or the first failure; what failed is tried again until it is done. The list may be
 * asked again after it (without a callback: at once). AFLOCK_ENOTHELD: it waits; AFLOCK_ESTALE: nothing is held.
 * [loop's thread] */
AFLOCK_API int aflock_several_release(aflock_several *several, aflock_several_callback callback, void *user);

/* The lock with that index, and the hold that it has while the list holds ({0}: none): for aflock_path, aflock_fd,
 * aflock_verify, aflock_run, aflock_inspect. Never close it, and never release what the list acquired. Of paths that
 * are the same file, the lock that stands for them all while they are held. NULL and {0}: no such index. [loop's
 * thread] */
AFLOCK_API aflock *aflock_several_lock(const aflock_several *several, size_t index);
AFLOCK_API aflock_req aflock_several_req(const aflock_several *several, size_t index);

/* Ends the list; it must not be used any more. What waits is cancelled (its callback still comes), what is held is
 * released. Call it before the context is freed. In a forked child it frees memory and descriptors only. NULL: nothing.
 * [loop's thread] */
AFLOCK_API void aflock_several_free(aflock_several *several);

#ifdef __cplusplus
}
#endif
#endif
