/* aflock/host.h: what the library needs of an event loop; for authors of adapters.
 *
 * A host is three tables: the loop, an executor for calls that may block, and (optionally) a notifier for changes of
 * files. The library calls the tables; the host calls the aflock_host_* and aflock_job_* functions below. Most
 * adapters fill the tables with the kit (aflock/kit.h), which puts timer, wake-up, watches and thread pool behind one
 * pollable descriptor, and add only `defer` and `keep_alive`. examples/poll_loop implements the loop table by hand.
 *
 * Threads: [L] the loop's thread, the one that called aflock_ctx_new   [W] a worker   [S] any thread, signal handlers
 * The library never calls a table from inside a table's own function.
 */
#ifndef AFLOCK_HOST_H
#define AFLOCK_HOST_H

#include <aflock/aflock.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Directions of a watch. */
enum { AFLOCK_READ = 1, AFLOCK_WRITE = 2 };

/* What a notifier listens for. */
enum {
    AFLOCK_ON_FILE = 1,   /* closed, touched, moved, unlinked */
    AFLOCK_ON_MARKER = 2, /* touched, moved, unlinked; never closed */
    AFLOCK_ON_DIR = 3,    /* an entry left; its name is passed */
    AFLOCK_ON_LOST = 4,   /* reported only: overflow, or the watch is gone; the library tries, then polls */
    AFLOCK_ON_OPEN = 5,   /* opened, as by somebody who wants the lock; a notifier that cannot tell refuses it */
    AFLOCK_ON_GONE = 6    /* reported only: the file has no name any more, which has ended the watch; the library tries,
                             and listens to what is there then */
};

/* Lanes of the executor. The library admits at most `width` jobs at a time (one place is kept for releases and
 * heartbeats), so a plain first-in first-out pool is enough; a pool with threads to spare may use the lane. A job of
 * AFLOCK_LANE_PARK comes on top of that, and takes as long as somebody else holds a lock: it gets a thread of its own
 * at once, or is refused. */
typedef enum aflock_lane { AFLOCK_LANE_TRY, AFLOCK_LANE_RELEASE, AFLOCK_LANE_PARK } aflock_lane;

typedef struct aflock_job aflock_job; /* the library's; opaque */

/* Embedded in the library's objects; `host` is the host's to use, NULL before the first call. */
typedef struct aflock_watch {
    int fd;
    unsigned events; /* AFLOCK_READ | AFLOCK_WRITE */
    void *host;
} aflock_watch;

typedef struct aflock_notify {
    int fd; /* open on what is listened to */
    unsigned what;
    void *host;
} aflock_notify;

/* The loop. Functions that return int: 0, or a negative AFLOCK_E code. */
typedef struct aflock_loop {
    size_t size;
    void *self;
    const char *name;
    uint64_t resolution;                          /* of the timer in ns */
    uint64_t (*now)(void *self);                  /* [L] CLOCK_MONOTONIC in ns, read anew at each call */
    int (*timer)(void *self, uint64_t deadline);  /* [L] the one timer: call aflock_host_timer at `deadline` (absolute)
                                                     or later; replaces the last one; AFLOCK_FOREVER disarms */
    void (*defer)(void *self);                    /* [L] call aflock_host_turn soon, on a fresh stack */
    void (*wake)(void *self);                     /* [S] the same from anywhere; async-signal-safe, keeps errno */
    void (*keep_alive)(void *self, int on);       /* [L] whether the loop has to go on running; off at first */
    int (*watch)(void *self, aflock_watch *w);    /* [L] level-triggered; again with other events = change; no
                                                     events: AFLOCK_EINVAL */
    void (*unwatch)(void *self, aflock_watch *w); /* [L] nothing is reported after the return; comes before the
                                                     descriptor is closed */
    void (*close)(void *self, int forked);        /* [L] last call of all; the tables may be freed. forked != 0: in a
                                                     child: close descriptors and free memory, change nothing that is
                                                     shared with the parent (no epoll_ctl, no timerfd_settime) */
} aflock_loop;

/* The executor. */
typedef struct aflock_executor {
    size_t size;
    void *self;
    unsigned width;                                               /* jobs that may run at once; at least 1 */
    int (*submit)(void *self, aflock_job *job, aflock_lane lane); /* [L] never blocks. 0: aflock_job_run or
                                                     aflock_job_drop will be called exactly once. May refuse */
    void (*close)(void *self, int forked); /* [L] never joins. Queued jobs of the try lane are dropped, better by a
                                                     worker than here: that can give back a lock on a file system that
                                                     hangs. Those of the release lane still run. forked: threads and
                                                     their locks are not there any more: free memory only */
    void (*stalled)(void *self); /* [L] may be NULL: a job has been out for aflock_ctx_options.stall_after; a pool
                                                     replaces its thread so that `width` others can run */
} aflock_executor;

/* The notifier; a host without one passes NULL and waits are polled. One counted watch per inode. */
typedef struct aflock_notifier {
    size_t size;
    void *self;
    int (*add)(void *self, aflock_notify *n);  /* [L] must not touch the file system (use /proc/self/fd/N) */
    void (*del)(void *self, aflock_notify *n); /* [L] nothing is reported after the return */
    void (*close)(void *self, int forked);     /* [L] */
} aflock_notifier;

typedef struct aflock_host {
    size_t size;
    const aflock_loop *loop;
    const aflock_executor *executor;
    const aflock_notifier *notifier; /* may be NULL */
} aflock_host;

/* Makes a context. The tables must live until loop->close was called; the three structs themselves too. On failure no
 * table function is called, close included. AFLOCK_EINVAL, AFLOCK_ENOMEM, AFLOCK_ESYS. [L] */
AFLOCK_API int aflock_ctx_new(aflock_ctx **out, const aflock_host *host, const aflock_ctx_options *options);

/* The loop table of a context, for adapters to find their own data again (loop->self). NULL for NULL. Works in a forked
 * child too. */
AFLOCK_API const aflock_loop *aflock_host_loop(const aflock_ctx *ctx);

/* Whether this thread may work with the context now: 0, AFLOCK_EINVAL (NULL), AFLOCK_EFORKED, AFLOCK_ETHREAD,
 * AFLOCK_EBUSY inside a callback. Any thread, signal handlers. */
AFLOCK_API int aflock_host_check(const aflock_ctx *ctx);

/* The time given to loop->timer has come; early calls are harmless. [L] */
AFLOCK_API void aflock_host_timer(aflock_ctx *ctx);

/* `w` is ready for `events`. [L] */
AFLOCK_API void aflock_host_ready(aflock_ctx *ctx, aflock_watch *w, unsigned events);

/* Something changed: `what` as above, `name` for AFLOCK_ON_DIR or NULL. [L] */
AFLOCK_API void aflock_host_changed(aflock_ctx *ctx, aflock_notify *n, unsigned what, const char *name);

/* Runs what is due: finished jobs, timers, at most 64 callbacks. Call it last in each dispatch, on a fresh stack: it is
 * the only place where callbacks run. Asks for another turn (loop->defer) if something is left. The context may be
 * freed between turns only. [L] */
AFLOCK_API void aflock_host_turn(aflock_ctx *ctx);

/* Runs the job. The job, and even the context, may be gone afterwards. [W] */
AFLOCK_API void aflock_job_run(aflock_job *job);

/* The job was accepted and will never run. [L] or [W] */
AFLOCK_API void aflock_job_drop(aflock_job *job);

#ifdef __cplusplus
}
#endif
#endif
