/* The conformance suite: what every host must do, whatever its loop.
 *
 * Three sides meet here. A *host* (host_NAME.c) is a loop under test: how to make it, run it and end it, what it can
 * do. The *cases* (cases_*.c) are plain C functions that know aflock.h and a rig, no loop and no test framework, so
 * that they run wherever a loop runs, a server's worker process included. A *driver* runs the cases on a host; main.c
 * does so with libcheck, each case in a process of its own.
 *
 * The *rig* is what a case works with: a loop, a context on it with an allocator that counts, and a directory. It
 * watches over every call and callback: callbacks run on a fresh stack, on the loop's thread, as often as was promised;
 * in the end no memory, no descriptor and no answer is left.
 */
#ifndef CONFORMANCE_H
#define CONFORMANCE_H

#include <aflock/aflock.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#define US AFLOCK_MICROSECOND
#define MS AFLOCK_MILLISECOND
#define SEC AFLOCK_SECOND

/* Of real time. What has not come until then never comes. */
#define RIG_NEVER (40 * SEC)

/* ------------------------------------------------------------------------------------------------------ assertions */

/* Set by the driver. Does not return. */
extern void (*conformance_failed)(const char *file, int line, const char *what);

#define require(condition)                                              \
    do {                                                                \
        if (!(condition))                                               \
            conformance_failed(__FILE__, __LINE__, "not: " #condition); \
    } while (0)

/* For values of status: the message names both. */
#define require_status(expression, expected) \
    conformance_require_status(__FILE__, __LINE__, #expression, (expression), (expected))
void conformance_require_status(const char *file, int line, const char *what, int status, int expected);

/* ----------------------------------------------------------------------------------------------------------- hosts */

/* What a host can do, and a case may need. */
enum {
    HOST_HAS_THREADS = 1 << 0, /* several loops, each on a thread of its own */
    HOST_SHARES = 1 << 1,      /* several contexts on one loop */
    HOST_FORKS = 1 << 2,       /* the process may fork */
    HOST_ENDS = 1 << 3,        /* the loop ends by itself when nothing keeps it alive */
    HOST_IS_EXACT = 1 << 4,    /* its clock stands still while anything runs: timers are exact */
    HOST_OUTLIVED = 1 << 5     /* the loop may be destroyed before its contexts */
};

/* A case that a host does not run, and why. */
typedef struct conformance_gap {
    const char *name;
    const char *reason;
} conformance_gap;

/* A loop under test. All functions belong to the thread that made it. */
typedef struct conformance_host {
    const char *name;
    unsigned properties;
    const conformance_gap *gaps; /* ends with {NULL}: exactly the cases that need what it does not have */

    void *(*make)(void);
    void (*destroy)(void *loop); /* no context is left, or it is HOST_OUTLIVED */
    int (*context)(void *loop, const aflock_ctx_options *options, aflock_ctx **out);
    void (*forget)(void *loop, aflock_ctx *ctx); /* it is about to be freed or abandoned; may be NULL */

    /* Runs rounds until `done`, which is asked before each. False: `limit` ns of real time have passed. Waits without a
     * break between rounds, so that a wake-up that is missing is missed. In a forked child: false. */
    bool (*run)(void *loop, bool (*done)(void *user), void *user, uint64_t limit);

    void (*run_out)(void *loop); /* until it ends by itself; HOST_ENDS */

    /* A one-shot timer of the loop's own, which may keep the loop alive; delay 0: in the next round. */
    void (*timer)(void *loop, uint64_t delay, void (*fire)(void *user), void *user);

    uint64_t (*now)(void *loop);                  /* the clock of its deadlines */
    void (*block)(void *loop, uint64_t duration); /* the loop does nothing for so long */
} conformance_host;

/* --------------------------------------------------------------------------------------------------------- the rig */

typedef struct rig {
    const conformance_host *host;
    void *loop;
    aflock_ctx *ctx;       /* the first one; NULL once it is freed */
    const char *directory; /* empty at first */
    unsigned many;         /* how many requests the large cases make */
    bool alone;            /* nobody else in this process opens and closes descriptors */

    pthread_t thread;
    unsigned calls;     /* into the library, on the stack */
    unsigned callbacks; /* on the stack */
    unsigned freeing;   /* aflock_ctx_free is on the stack: it may answer */
    unsigned answers;   /* that came */
    unsigned promised;  /* that have to come in all */
    size_t blocks;      /* of memory that the contexts have */
    unsigned ticks;     /* of the loop's own timer, see rig_tick */
    uint64_t tick_interval;
    uint64_t descriptors[16]; /* open at the beginning: a bit each */
} rig;

/* An empty directory; the loop and a context. */
void rig_begin(rig *r, const conformance_host *host, const char *directory, unsigned many);
/* Frees the context if it is still there, destroys the loop; demands that nothing is left. */
void rig_end(rig *r);

int rig_context(rig *r, aflock_ctx **out);                     /* another one on the same loop */
int rig_free_context(rig *r, aflock_ctx *ctx, uint64_t grace); /* aflock_ctx_free; answers may come */
int rig_free(rig *r, uint64_t grace);                          /* the same for the first one */

/* ----------------------------------------------------------- running: each fails when nothing comes of it for long */

void rig_await(rig *r, const unsigned *counter, unsigned value);
void rig_pass(rig *r, uint64_t duration);                         /* the loop goes on for so long, or longer */
void rig_tick(rig *r, uint64_t interval);                         /* counts in `ticks` from now on; 0: no more */
void rig_await_ticking(rig *r, bool (*done)(void *), void *user); /* for what another thread does without a wake-up */
void rig_run_out(rig *r);
uint64_t rig_now(rig *r);

/* -------------------------------------------------------------------------------------------------------- requests */

/* What a request is answered; the `user` of rig_answered, of which `then`, if not NULL, runs in the callback. */
typedef struct answer {
    rig *rig;
    unsigned count;
    unsigned order; /* among all answers of the rig, from 1 */
    uint64_t at;    /* when it came */
    aflock_req req; /* as rig_acquire returned it */
    aflock_result result;
    void (*then)(struct answer *a, aflock *lock);
    void *user;
} answer;

void rig_answered(aflock *lock, const aflock_result *result, void *user);

aflock_acquire_options rig_options(uint64_t timeout); /* the defaults, with this timeout */
aflock *rig_open(rig *r, const char *name, aflock_io io);
aflock *rig_open_kept(rig *r, const char *name, aflock_io io); /* keep_open */
aflock *rig_open_in(rig *r, aflock_ctx *ctx, const char *name, aflock_io io);

/* The functions of the library, noted as calls. A callback is promised when they return 0. `a` may be NULL where the
 * callback may; `a` must stay. */
int rig_acquire(rig *r, aflock *lock, const aflock_acquire_options *options, answer *a);
int rig_release(rig *r, aflock *lock, aflock_req req, answer *a);
int rig_cancel(rig *r, aflock *lock, aflock_req req);
int rig_close(rig *r, aflock *lock);

/* Waits for the answer, which has to be `status`; the rest of the answer may be looked at. */
void rig_await_status(rig *r, const answer *a, int status);
void rig_hold(rig *r, aflock *lock, const aflock_acquire_options *options, answer *a); /* acquired, answered with 0 */
void rig_let_go(rig *r, aflock *lock, aflock_req req);                                 /* released, answered with 0 */

/* ----------------------------------------------------------------------------------------------------------- files */

void rig_path(const rig *r, const char *name, char path[PATH_MAX]);
int rig_foreign(const rig *r, const char *name); /* another holder's descriptor, to be closed; -1: it is locked */
bool rig_is_free(const rig *r, const char *name);
void rig_await_free(rig *r, const char *name); /* what a worker gives back; the loop, if any, goes on */

/* --------------------------------------------------------------------------------------------- a worker that hangs */

/* As on_acquired (and on_acquired_user) it hangs on its worker until the obstacle is removed. */
typedef struct obstacle {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    unsigned met;    /* so many workers came */
    unsigned passed; /* and went on */
    bool removed;
} obstacle;

#define OBSTACLE                                                                \
    {                                                                           \
        .mutex = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER \
    }

int obstacle_meet(int fd, void *user);
void obstacle_await(rig *r, obstacle *o, unsigned met); /* runs the loop until so many hang */
void obstacle_remove(obstacle *o);

/* For hosts with a clock of their own: workers that hang at an obstacle. */
unsigned conformance_hanging(void);

/* ------------------------------------------------------------------------------------------------------- the cases */

typedef struct conformance_case {
    const char *name;
    void (*run)(rig *r);
    unsigned needs; /* properties of the host */
} conformance_case;

extern const conformance_case cases_requests[], cases_time[], cases_cancel[], cases_callbacks[], cases_end[],
    cases_lease[], cases_markers[], cases_pidfile[], cases_processes[], cases_rw[], cases_soft_rw[], cases_waiting[],
    cases_wanted[], cases_watches[]; /* each ends with {NULL} */

/* All of them, by number; NULL: there are no more. */
const conformance_case *conformance_case_at(unsigned number);

/* The reason why the host does not run the case; NULL: it does. */
const char *conformance_gap_of(const conformance_host *host, const conformance_case *c);

/* Whether the gaps of the host are exactly the cases for which it lacks a property. Prints what differs, and what is
 * not run. Sets the numbers of cases run and not run. */
bool conformance_review(const conformance_host *host, unsigned *run, unsigned *not_run);

#endif
