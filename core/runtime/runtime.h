/* The runtime: everything between the public interface and the pure machine. Internal to core/runtime.
 *
 *   request.c    the public functions on locks and requests       errand.c     verify, inspect, run
 *   place.c      from a path as text to the one place (queue)     gate.c       what other threads may touch; tokens
 *   attempt.c    carries out what the machine asks for            context.c    the life of a context
 *   admission.c  which jobs may go to the executor now            turn.c       the turn: due work, callbacks, timers
 *   run.c        what a worker does at one go                     wait.c       how a path is waited for
 *   wanted.c     tells holders that somebody waits                 lease.c      what expires, and who lost it
 *   fallback.c   from kernel locks to markers
 *
 * Everything here runs on the loop's thread, except the functions marked [W] (worker) or [S] (any thread, signal
 * handlers). The loop's thread never waits for a worker; what they share is atomic (gate.c).
 */
#ifndef AFL_RUNTIME_H
#define AFL_RUNTIME_H

#include "locks/protocol.h"
#include "machine/machine.h"
#include "sys/sys.h"

#include <aflock/host.h>
#include <stdatomic.h>
#include <stdbool.h>

typedef struct afl_gate afl_gate;
typedef struct afl_place afl_place;
typedef struct afl_entry afl_entry;
typedef struct afl_device afl_device;
typedef struct afl_extras afl_extras;
typedef struct afl_spelling afl_spelling;
typedef struct afl_errand afl_errand;
typedef struct afl_run afl_run;
typedef struct afl_glance afl_glance;
typedef struct afl_look afl_look;

#define AFL_CONTAINER(type, member, pointer) ((type *)(void *)((char *)(pointer)-offsetof(type, member)))

enum { AFL_CALLBACKS_PER_TURN = 64 };

/* -------------------------------------------------------------------------------------------------- gate.c, tokens */

/* The only part of a context that other threads touch; it outlives the context for as long as a job or token refers
 * to it. Posting goes through the gate, and closing it waits out whoever is inside. */
struct afl_gate {
    atomic_uint refs;       /* of the context, of tokens, of jobs that workers have */
    atomic_uint token_refs; /* those of tokens */
    atomic_uint inside;     /* posters inside; AFL_GATE_CLOSED */
    atomic_uint posted;     /* futex word: counts jobs that came back */
    atomic_bool awaited;
    _Atomic(aflock_job *) jobs;
    _Atomic(aflock_token *) tokens;
    const aflock_loop *loop;
    const afl_sys *sys;
    uint32_t *guard; /* 1, or 0 in a forked child; NULL: compare the process id */
    pid_t pid;
};

struct aflock_token {
    atomic_uint refs;
    atomic_bool fired;
    afl_gate *gate;
    aflock_token *next;  /* in the gate's list */
    afl_extras *members; /* requests not delivered yet; the loop's thread only */
};

afl_gate *afl_gate_new(const aflock_loop *loop, const afl_sys *sys);
void afl_gate_unref(afl_gate *g);
bool afl_gate_forked(const afl_gate *g);
bool afl_gate_post(aflock_job *job);         /* [W] it may be gone afterwards; false: the context was */
void afl_gate_forget_jobs(afl_gate *g);      /* in a forked child: the workers and their references are not there */
void afl_gate_close(afl_gate *g);            /* no wake runs after the return */
aflock_job *afl_gate_take_jobs(afl_gate *g); /* in the order of posting */
aflock_token *afl_gate_take_tokens(afl_gate *g);
void afl_gate_wait(afl_gate *g, uint64_t timeout); /* until a job came back */
void afl_token_unref(aflock_token *t);             /* any thread */
void afl_token_join(aflock_token *t, afl_extras *x);
void afl_token_leave(afl_extras *x);

/* --------------------------------------------------------------------------------------------------------- the jobs */

/* What goes to the executor. Embedded first in attempts and errands. */
struct aflock_job {
    void (*run)(aflock_job *job);                     /* [W] */
    void (*finish)(aflock_ctx *ctx, aflock_job *job); /* back on the loop's thread */
    void (*orphan)(aflock_job *job);                  /* [W] the context is gone: give back, free */
    afl_gate *gate;
    aflock_job *next;            /* in the gate's list, or in a queue */
    afl_run *run_of;             /* NULL: it is not at the executor */
    _Atomic(aflock_job *) *slot; /* in which it was added to its run; NULL: the run began with it */
    afl_device *device;
    const char *path; /* only guessed to lead to the device; NULL: it is known */
    uint64_t guess;   /* key of the device that the path seems to lead to; 0: nobody has looked */
    uint8_t lane;     /* aflock_lane */
    bool ends_run;    /* it came back as the last one of its run */
    bool astray;      /* it came back without having run: it is for another device, */
    bool sent_back;   /* ... or for another run */
    int dropped;      /* errno: it did not run */
};

/* ------------------------------------------------------------------------------------------------------------ run.c */

enum { AFL_RUN_SLOTS = 16 };

/* A place at the executor, and the jobs of one device that a worker carries out there, one after the other. While it is
 * under way jobs may be added: that spares the executor's queue, a worker's falling asleep and its waking up. malloc's:
 * it may outlive the context. */
struct afl_run {
    _Atomic(aflock_job *) slots[AFL_RUN_SLOTS];
    atomic_uint filled; /* jobs that were added, and a bit: it has ended */
    unsigned taken;     /* [W] */
    unsigned left;      /* jobs that did not come back; from here on all is the loop's */
    afl_device *device;
    uint8_t lane;
    bool stalled;
    uint64_t started;     /* its present job, as far as is known */
    afl_run *next, *prev; /* of those under way, of stalled ones, or of idle ones */
    afl_run *sibling;     /* of the same device and lane */
};

void afl_run_begin(afl_run *run, aflock_job *job);
bool afl_run_add(afl_run *run, aflock_job *job);   /* false: it is full, or has ended */
bool afl_run_take_back(aflock_job *job);           /* false: it began, or the run began with it */
aflock_job *afl_run_take_back_first(afl_run *run); /* NULL: nothing is left to be taken back */

/* ---------------------------------------------------------------------------------------------------- admission.c */

typedef struct afl_job_list {
    aflock_job *first, *last;
} afl_job_list;

/* Key of the device of all places whose device nobody knows. A job that is sent to it only looks which one it is for,
 * and comes back to be sent there. */
#define AFL_DEVICE_UNKNOWN UINT64_MAX

/* The jobs of one device. */
struct afl_device {
    uint64_t key;
    uint32_t refs;
    bool functions;               /* its jobs are the caller's functions */
    unsigned live[2], stalled[2]; /* runs, by lane: try, release */
    afl_run *runs[2];             /* those that are live */
    afl_job_list queue[2];
    afl_device *ready_next[2]; /* in the round of devices with queued jobs */
    bool ready[2];
    afl_device *hash_next;
};

typedef struct afl_admission {
    unsigned width;
    unsigned live, live_tries; /* runs under way, not stalled; of these in the try lane, */
    unsigned live_functions;   /* ... and of those the caller's functions */
    afl_run *first, *last;     /* these, in the order in which their present jobs were started */
    afl_run *stalled, *idle;
    afl_device *round[2], *round_last[2];
    afl_device *devices[64];
    uint64_t retry_at;   /* after the executor refused, */
    uint64_t refused_at; /* for the first time then, */
    bool refusing;       /* and has not taken a job since */
    size_t outstanding;  /* runs at the executor */
} afl_admission;

afl_device *afl_device_get(aflock_ctx *ctx, uint64_t key);                      /* NULL: out of memory */
afl_device *afl_device_of_functions(aflock_ctx *ctx, const afl_device *device); /* the same for functions about it */
void afl_device_put(aflock_ctx *ctx, afl_device *device);
bool afl_admission_init(aflock_ctx *ctx); /* false: out of memory */
/* Whatever still refers to it. Runs that are under way belong to their workers; forked: there are none. */
void afl_admission_free(aflock_ctx *ctx, bool forked);
/* `path`: what the job is about, if it leads somewhere; lives as long as the job. */
void afl_admission_submit(aflock_ctx *ctx, aflock_job *job, afl_device *device, const char *path, aflock_lane lane);
bool afl_admission_goes_astray(aflock_job *job);             /* [W] before it runs */
bool afl_admission_resend(aflock_ctx *ctx, aflock_job *job); /* true: it did go astray, and is sent again */
void afl_admission_pump(aflock_ctx *ctx, uint64_t now);
void afl_admission_returned(aflock_ctx *ctx, aflock_job *job);
void afl_admission_expire(aflock_ctx *ctx, uint64_t now); /* jobs that have been out too long stop counting */
uint64_t afl_admission_deadline(const aflock_ctx *ctx);
/* Outside of all limits, on a thread of its own; false: refused. */
bool afl_admission_park(aflock_ctx *ctx, aflock_job *job, afl_device *device);
bool afl_admission_unqueue(aflock_ctx *ctx, aflock_job *job); /* true: it was still waiting for admission */
void afl_admission_flush_releases(aflock_ctx *ctx);           /* hands all queued releases to the executor */

/* ------------------------------------------------------------------------------------------------- place.c, attempt.c
 */

/* A path as text. Shared by the locks that were opened with it and by the operations that use it on workers. */
struct afl_spelling {
    atomic_uint refs;
    uint32_t id;
    afl_place *place;
    afl_spelling *hash_next, *place_next;
    const char *name; /* last component, in text */
    char text[];
};

/* Something that is listened to. */
typedef struct afl_ear {
    aflock_notify notify; /* first: an ear is found from it */
    void (*heard)(aflock_ctx *ctx, struct afl_ear *ear, unsigned what, const char *name);
} afl_ear;

/* One operation with the memory that it needs on a worker; belongs to the place until the context is freed under it. */
typedef struct afl_attempt {
    aflock_job job;
    afl_work work;
    afl_place *place;
    afl_spelling *spelling;          /* of the request it is made for; the job has a reference of its own */
    bool resolve;                    /* find out where the path leads, and nothing else */
    struct afl_attempt *next, *prev; /* of the context's detached ones: `place` is NULL */
    uint64_t dev, ino;               /* of the file for which it is parked, */
    afl_ear ear;                     /* ... and what happens to it */
    bool listening;
    bool astray; /* its path names another file by now */
    bool fell;   /* what was kept when it began, and may be listened to, is gone */
    afl_class kind;
    afl_identity where;
    afl_fault fault;
    atomic_uint users; /* its place, and functions that run while it holds: the last one gives up what it has */
} afl_attempt;

/* What all locks on a path must agree on. */
typedef struct afl_terms {
    const afl_protocol *protocol;
    uint64_t duration, heartbeat; /* of a lease; else 0 */
} afl_terms;

/* What is held for a time only; see lease.c. */
typedef struct afl_lease {
    afl_timer timer;        /* on the boot-time clock */
    uint64_t refreshed;     /* when it was written, or its last good refresh began, by that clock */
    bool tried;             /* a heartbeat has begun since */
    int error;              /* what came of the last that failed since */
    const char *step;       /* ... and where */
    aflock_compromise what; /* reason 0: it is not lost */
    bool told, listed;
    afl_place *next; /* of the context's list: to be told */
} afl_lease;

/* A queue: one file name in one directory, whatever the texts that lead there. */
struct afl_place {
    afl_path path;
    aflock_ctx *ctx;
    const afl_protocol *protocol; /* that is spoken: terms.protocol, or what it has fallen to */
    afl_terms terms;
    afl_lease lease;
    bool told_no_locks; /* the kernel has none there, and what could be done about it was said */
    aflock *locks;
    afl_spelling *spellings;
    uint32_t io_locks[3]; /* locks by aflock_io */
    uint32_t keepers;     /* locks with keep_open */
    aflock_io io;         /* of the last operation */
    int caller_fd;        /* or -1 */
    bool resolved;
    afl_class kind;
    uint64_t dev, ino;   /* of the parent */
    const char *name;    /* in a spelling's text; NULL: it has no key */
    afl_place *key_next; /* hash by (dev, ino, name) */
    afl_place *all_next, *all_prev;
    afl_device *device;
    afl_attempt *attempt;
    afl_ear ear;
    bool notifying;
    afl_watcher holder; /* of the process that holds a marker */
    bool watching_holder;
    bool holder_unwatched;   /* the loop refused the last time */
    bool muffled;            /* changes were not followed up: they are later */
    uint32_t hints;          /* changes that may be followed up at once */
    uint64_t hints_at;       /* when that was so */
    uint64_t deaf_until;     /* no watch was to be had */
    uint64_t unparked_until; /* no thread was to be had */
    afl_glance *glance;      /* whether the path still names the file for which it is parked; under way, or NULL */
    afl_place *muffled_next;
    afl_extras *askers; /* of holds that want to know of waiters of this context, and were not told */
    bool crowded;       /* there were some: in the context's list */
    pid_t holder_pid;   /* who had it at the last attempt; 0: not known */
    uint8_t echoes;     /* so many holds more are told of somebody elsewhere */
    afl_place *crowded_next, *crowded_prev;
};

struct aflock {
    aflock_ctx *ctx;
    afl_spelling *spelling;
    afl_place *place;
    aflock *next, *prev; /* of the place */
    aflock_io io;
    aflock_wait wait;
    bool keep_open;
    bool break_empty;
    uint64_t lifetime;
    uint64_t poll_interval; /* as it was asked for, */
    uint64_t next_poll;     /* ... and for how long the next wait is */
    uint32_t max_waiters;
    uint32_t active;    /* requests that wait, are undelivered or hold, and questions */
    uint32_t releasing; /* requests whose release will be answered */
    uint32_t pinned;    /* callbacks that run on it */
    char *detail;       /* of the last aflock_try; malloc's, or NULL */
    bool closing;
};

/* A hold that wants to know who waits for it; see wanted.c. */
typedef struct afl_wanted {
    void (*tell)(aflock *lock, aflock_req req, aflock_wanted who, void *user); /* NULL: it does not */
    void *user;
    bool asks;                           /* from the delivery of the grant to the release */
    uint8_t told;                        /* 1 << aflock_wanted: it was, or is in a list to be told */
    bool heard;                          /* is in the context's list */
    afl_extras *next, *prev;             /* of the place's askers */
    afl_extras *heard_next, *heard_prev; /* of the context's list: to be told of somebody elsewhere */
    afl_ear ear;
    bool listening;
    afl_look *look; /* under way */
} afl_wanted;

/* What only some requests need. */
struct afl_extras {
    afl_extras *next, *prev; /* of the token; next: of the free list */
    afl_entry *entry;
    aflock_token *token;
    int (*on_acquired)(int fd, void *user);
    void *on_acquired_user;
    void (*on_compromise)(aflock *lock, aflock_req req, const aflock_compromise *what, void *user);
    void *on_compromise_user;
    bool compromise_told;
    uint32_t file_mode;
    char *detail; /* of its failure; malloc's, or NULL */
    afl_wanted wanted;
};

/* A request: the machine's part, and whom to tell. At most 256 bytes. */
struct afl_entry {
    afl_request request; /* first: an entry is found from it */
    aflock *lock;
    aflock_callback callback;
    union {
        void *user;
        afl_entry *free_next; /* of one that is nobody's */
    };
    afl_extras *extras; /* or NULL */
    uint32_t generation;
    uint32_t index;
    uint32_t flags;
    uint32_t release_waits : 1; /* its release was asked for while functions run under the hold, ... */
    uint32_t running : 31;      /* which are so many */
};
_Static_assert(sizeof(afl_entry) <= 240, "the promise is 256 bytes per waiter, its owner and the heap's own included");

bool afl_places_init(aflock_ctx *ctx);
void afl_places_free(aflock_ctx *ctx); /* the tables */
afl_place *afl_place_of_path(aflock_ctx *ctx, const char *path, const afl_terms *terms, afl_spelling **spelling,
                             int *status);
afl_place *afl_place_of_descriptor(aflock_ctx *ctx, int fd, const afl_terms *terms, afl_spelling **spelling,
                                   int *status);
/* The place's path leads to `where`. False: it was merged into another place, or cannot be; the attempt is forgotten.
 */
bool afl_place_resolved(afl_place *place, const afl_identity *where, uint64_t now);
void afl_place_add_lock(afl_place *place, aflock *lock);
void afl_place_remove_lock(afl_place *place, const aflock *lock);
void afl_place_tidy(afl_place *place); /* frees it if nobody needs it */
void afl_place_free(afl_place *place);
void afl_spelling_unref(afl_spelling *s);     /* any thread */
uint64_t afl_directory_key(const char *text); /* any thread; stands for a device that nobody can tell */
afl_class afl_mount_known(const aflock_ctx *ctx, const afl_identity *id, bool *known);
void afl_mount_learn(aflock_ctx *ctx, const afl_identity *id, afl_class kind);

afl_attempt *afl_attempt_new(afl_place *place);
void afl_attempt_free(afl_attempt *attempt);
void afl_attempts_pump(aflock_ctx *ctx); /* carries out all that the machine asks for */
void afl_attempt_note_left(afl_place *place);
void afl_attempt_unlisten(afl_attempt *attempt, aflock_ctx *ctx);
void afl_glance_forget(afl_place *place, bool forked);
void afl_attempt_leave(afl_attempt *attempt); /* any thread; one user less of one that has no place any more */
bool afl_attempt_is_parked(const afl_attempt *attempt); /* it returns when somebody else releases the file */
void afl_attempts_abandon(aflock_ctx *ctx);             /* those that are detached, in a forked child */

/* ------------------------------------------------------------------------------------------------------------- wait.c
 */

typedef struct afl_wait_choice {
    aflock_wait wait;
    const char *reason;
} afl_wait_choice;

afl_wait_choice afl_choose_wait(const afl_place *p, const aflock *lock);
void afl_place_listen(afl_place *p);
void afl_place_unlisten(afl_place *p);
void afl_place_tried(afl_place *p, const afl_outcome *o); /* before the machine hears of it */
bool afl_place_parks(const afl_place *p);                 /* its next attempt waits in the kernel */
void afl_place_unparked(afl_place *p);                    /* no thread was to be had */
void afl_place_forget_changes(afl_place *p);
void afl_place_watch_holder(afl_place *p);
void afl_place_unwatch_holder(afl_place *p);
void afl_waits_expire(aflock_ctx *ctx, uint64_t now);
uint64_t afl_waits_deadline(const aflock_ctx *ctx);

/* --------------------------------------------------------------------------------------------------------- fallback.c
 */

/* Can a marker serve the request that was meant for a lock of the kernel's? */
bool afl_marker_serves(uint32_t flags, aflock_mode mode, bool on_acquired, uint32_t file_mode);
void afl_place_fall(afl_place *p);                       /* from now on protocol->falls_to is spoken */
void afl_place_refuse_unservable(afl_place *p);          /* waiting requests that what is spoken cannot serve */
void afl_place_told(afl_place *p, const afl_outcome *o); /* says once what could be done about a failure */

/* ----------------------------------------------------------------------------------------------------------- wanted.c
 */

void afl_wanted_begin(aflock_ctx *ctx, afl_entry *e); /* its grant is being delivered */
void afl_wanted_stop(aflock_ctx *ctx, afl_entry *e);  /* its release was asked for */
void afl_wanted_crowd(afl_place *p);                  /* somebody may wait there who did not before */
void afl_wanted_forget(afl_place *p);
bool afl_wanted_due(aflock_ctx *ctx);
bool afl_wanted_deliver(aflock_ctx *ctx); /* one callback; false: none is due */
void afl_wanted_end(aflock_ctx *ctx);     /* what is not at a worker */
void afl_wanted_abandon(aflock_ctx *ctx); /* in a forked child */

/* ----------------------------------------------------------------------------------------------------------- lease.c
 */

void afl_lease_beats(afl_place *p); /* a heartbeat begins */
void afl_lease_done(afl_place *p);  /* an operation has ended, before the machine hears of it */
void afl_lease_end(afl_place *p);
void afl_leases_expire(aflock_ctx *ctx);
void afl_leases_look(aflock_ctx *ctx); /* before a decision outside of a turn */
uint64_t afl_leases_deadline(aflock_ctx *ctx);
bool afl_lease_due(const aflock_ctx *ctx);
bool afl_lease_deliver(aflock_ctx *ctx); /* one callback; false: none is due */

/* ---------------------------------------------------------------------------------------------------------- errand.c
 */

struct afl_errand {
    aflock_job job;
    afl_query query;
    afl_errand *next, *prev; /* of the context: all that are not delivered */
    aflock *lock;
    afl_spelling *spelling;
    aflock_req req;
    void (*ask)(afl_query *query);
    aflock_callback answered; /* or */
    aflock_inspected inspected;
    aflock_ran ran;
    int (*function)(int fd, void *user); /* of `ran`, */
    int value;                           /* ... what it returned, */
    afl_attempt *attempt;                /* ... and what holds meanwhile */
    void *user;
    bool done;
};

afl_errand *afl_errand_next(const aflock_ctx *ctx); /* one that is done and not delivered */
void afl_errand_free(afl_errand *e);                /* all but its spelling */
void afl_errand_deliver(aflock_ctx *ctx, afl_errand *e);
void afl_errands_end(aflock_ctx *ctx);   /* answers all that are left with AFLOCK_ECLOSED */
void afl_functions_end(aflock_ctx *ctx); /* takes back those that have not begun */

/* ---------------------------------------------------------------------------------------------------- the context */

typedef struct afl_mount {
    uint64_t mount, dev;
    afl_class kind;
} afl_mount;

/* A directory as text, and the device that it was found on. */
typedef struct afl_directory {
    uint64_t key, dev;
} afl_directory;

struct aflock_ctx {
    const aflock_loop *loop;
    const aflock_executor *executor;
    const aflock_notifier *notifier;
    const afl_sys *sys;
    aflock_ctx_options options;
    const void *thread; /* an address that only the loop's thread has */
    afl_gate *gate;
    afl_machine machine;
    afl_admission admission;

    bool in_turn, in_callback, in_hook, pumping, closing, draining;
    bool deferred, alive, no_timer;
    uint64_t now;   /* of the present call or turn */
    uint64_t armed; /* the host's timer */
    aflock_drained drained;
    void *drained_user;

    afl_place *places;
    afl_place **by_key;
    afl_spelling **by_text;
    size_t key_buckets, text_buckets, key_count, text_count;
    uint32_t spelling_ids;

    afl_entry **slabs;
    size_t slab_count, entries_used;
    afl_entry *free_entries;
    afl_extras *free_extras;

    afl_mount *mounts;
    size_t mount_count;
    afl_directory directories[64];

    afl_place *muffled, *muffled_last; /* in the order in which they may try */
    bool told_deaf, told_unparked, told_mute;
    afl_attempt *detached; /* parked for nobody: they come back when they have got the lock and given it back */
    uint32_t dice;

    afl_heap leases;        /* what is held for a time, on the boot-time clock */
    uint64_t lease_due;     /* when the first of them is due, by the loop's */
    afl_place *compromised; /* whose holders are to be told */

    afl_place *crowded;             /* where somebody asked, and somebody waits */
    afl_extras *heard, *heard_last; /* in the order of hearing */
    afl_look *looks;                /* all that did not come back */

    afl_errand *errands, *errands_last; /* in the order of asking */
    afl_entry *trying;                  /* the request of aflock_try, while it is answered */
};

/* Lays what the caller gave over the defaults in `options`; a caller compiled against an older header gives less.
 * False: its size is not one. */
bool afl_take_options(void *options, size_t known, const void *given);

void *afl_allocate(aflock_ctx *ctx, size_t size); /* zeroed */
void *afl_reallocate(aflock_ctx *ctx, void *block, size_t size);
void afl_release_memory(aflock_ctx *ctx, void *block);
void afl_log(aflock_ctx *ctx, aflock_log_level level, const char *format, ...) __attribute__((format(printf, 3, 4)));
void afl_tell_tracer(aflock_ctx *ctx, aflock_trace_event event, const afl_entry *e, const char *path, int64_t value);
static inline void afl_trace(aflock_ctx *ctx, aflock_trace_event event, const afl_entry *e, const char *path,
                             int64_t value)
{
    if (ctx->options.trace)
        afl_tell_tracer(ctx, event, e, path, value);
}
const void *afl_thread(void);
int afl_enter(aflock_ctx *ctx);       /* afl_check, and reads the clock */
int afl_check(const aflock_ctx *ctx); /* 0, AFLOCK_EINVAL, AFLOCK_EFORKED, AFLOCK_ETHREAD */
uint64_t afl_now(const aflock_ctx *ctx);

/* ------------------------------------------------------------------------------------------------- request.c, turn.c
 */

afl_entry *afl_entry_of(aflock_ctx *ctx, aflock_req req); /* NULL: stale */
afl_entry *afl_entry_on(aflock *lock, aflock_req req);    /* the request of a lock; NULL: stale, or of another lock */
aflock_req afl_entry_name(const afl_entry *e);
void afl_entry_free(aflock_ctx *ctx, afl_entry *e);
void afl_entries_free(aflock_ctx *ctx);               /* the table */
void afl_entry_detach(aflock_ctx *ctx, afl_entry *e); /* from its token */
int afl_entry_release(aflock_ctx *ctx, afl_entry *e, aflock_callback callback, void *user);
bool afl_entry_is_held(const afl_entry *e);        /* delivered, and its release not asked for */
void afl_entry_ran(aflock_ctx *ctx, afl_entry *e); /* a function under it has returned */
void afl_lock_tidy(aflock *lock);                  /* frees a closed lock whose last release is answered */
void afl_lock_free(aflock *lock);
void afl_fill_result(const afl_entry *e, aflock_result *result);
void afl_entry_explain(aflock_ctx *ctx, afl_entry *e, char *detail); /* takes the text; without memory it is lost */
char *afl_entry_take_detail(afl_entry *e);                           /* the caller frees it */

void afl_settle(aflock_ctx *ctx);      /* after each call into the library: carry out, tell the host */
bool afl_deliver_one(aflock_ctx *ctx); /* one callback; false: none is due */
void afl_deliver_postponed(aflock_ctx *ctx, afl_entry *e); /* of a release that is not carried out any more */
void afl_collect(aflock_ctx *ctx);                         /* what came through the gate */
uint64_t afl_deadline(aflock_ctx *ctx);
void afl_expire(aflock_ctx *ctx);          /* timers and stalled jobs */
void afl_deliver_drained(aflock_ctx *ctx); /* the drain's callback, if there is one */
bool afl_is_idle(const aflock_ctx *ctx);   /* nothing waits, is undelivered, held or being released */

#endif
