/* The machine: who waits, who holds, what is due. Pure.
 *
 * It makes no system call, reads no clock, takes no mutex, allocates nothing and knows no path: time and results come
 * in as arguments, actions go out through afl_machine_next, answers through afl_machine_peek. Same inputs, same
 * outputs. All memory (paths, requests, the owner table) belongs to the caller; the structs are public to it so that it
 * can embed them, but only the fields above "private" are the caller's to set.
 *
 * A path has a queue of waiting requests, a list of holders, at most one operation in flight, and a grip: what of ours
 * is on the file system. After each input `settle` (machine.c) looks at grip and head in one table and decides the
 * path's next step:
 *
 *   grip           nobody waits   the head fits     the head does not fit
 *   none           rest           try               try
 *   kept           withdraw       try               try         (a descriptor kept between attempts; `keep`: rest)
 *   pending        withdraw       try               withdraw    (a claim of ours that blocks others)
 *   held, in use   rest           grant             rest
 *   held, unused   release        grant             release     (grant becomes release when a run of hand-offs is over)
 *
 * A head fits a pending claim if it is exclusive, and a held file if the descriptor offers what it needs and the modes
 * agree (see `fits`). While a head waits, what is kept or pending is listened to (WATCH), if the path is worth it
 * (`notify`): a claim is won when somebody leaves, as a lock is.
 *
 * Attempts belong to the path, not to a request: a request that is cancelled or times out while an operation runs is
 * answered at once, and what the operation brings serves the next head or is rolled back.
 */
#ifndef AFL_MACHINE_H
#define AFL_MACHINE_H

#include <aflock/aflock.h>
#include <stdbool.h>

#include "machine/heap.h"

typedef struct afl_machine afl_machine;
typedef struct afl_path afl_path;
typedef struct afl_request afl_request;

/* What of ours is on the file system. */
typedef enum afl_grip { AFL_GRIP_NONE, AFL_GRIP_KEPT, AFL_GRIP_PENDING, AFL_GRIP_HELD } afl_grip;

/* What a lock protocol can be asked to do; one at a time per path. */
typedef enum afl_op {
    AFL_OP_NONE,
    AFL_OP_TRY,      /* one non-blocking attempt for `request` */
    AFL_OP_ADOPT,    /* the file is ours: prepare it for `request` (mode, checks, what the new holder asked for) */
    AFL_OP_WITHDRAW, /* remove what we keep while waiting */
    AFL_OP_RELEASE,  /* give the file up */
    AFL_OP_BEAT,     /* refresh the pending claim, or what is held */
    AFL_OP_WATCH,    /* listen for changes; answered by afl_machine_watched, not an operation in flight */
    AFL_OP_UNWATCH,  /* stop listening; not answered */
    AFL_OP_INHERIT,  /* the parked TRY is for `request` from now on; not answered */
    AFL_OP_DETACH    /* forget the parked TRY, for which nobody waits, and answer it with AFL_CONTENDED and no grip; if
                        that    cannot be, it is answered when it returns */
} afl_op;

typedef enum afl_answer {
    AFL_WON,       /* TRY: the file is ours. The others: done */
    AFL_CONTENDED, /* TRY: not now. ADOPT: not handed on; `grip` says whether the file is still ours. BEAT: not done.
                      RELEASE, WITHDRAW: others are in the way for a moment: it is asked for again */
    AFL_PENDING,   /* TRY: not now, and a claim of ours stays */
    AFL_ERROR /* TRY, ADOPT: the request cannot be served. RELEASE, WITHDRAW: not done. BEAT: the claim is lost; what
                 was held is not ours any more, but whoever holds it does not know yet (`grip` stays held) */
} afl_answer;

typedef struct afl_outcome {
    afl_answer answer;
    afl_grip grip;     /* what is left of ours */
    bool renewed;      /* TRY: what is kept is another file than before: a watch listens to the wrong one */
    uint32_t have;     /* WON: what the descriptor offers (afl_request.need) */
    int status;        /* ERROR: AFLOCK_E... */
    int sys_errno;     /* what the system said */
    int cleanup_errno; /* a roll-back inside the operation failed */
    const char *step;  /* the failing step */
} afl_outcome;

typedef struct afl_action {
    afl_op op;
    afl_path *path;
    afl_request *request; /* for TRY, ADOPT; lives at least until the operation started */
    bool verify;          /* ADOPT: check that the path still names our file */
    bool convert;         /* ADOPT: turn the exclusive grip into a shared one first */
} afl_action;

typedef enum afl_state {
    AFL_IDLE,      /* the caller's */
    AFL_WAITING,   /* in the queue */
    AFL_FAILING,   /* refused; the answer waits for the roll-back */
    AFL_GRANTED,   /* holds; the answer is not delivered yet */
    AFL_HELD,      /* holds */
    AFL_RELEASING, /* its release is under way and will be answered */
    AFL_ANSWERED,  /* ended without the lock; the answer is not delivered yet */
    AFL_RELEASED,  /* released; the answer is not delivered yet */
    AFL_REHELD     /* the release failed; holds as before, the answer is not delivered yet */
} afl_state;

struct afl_request {
    /* the caller's, set before submit */
    void *owner;
    const uint64_t *poll; /* interval between attempts while this request is the head */
    uint64_t timeout;     /* ns from submit; AFLOCK_FOREVER */
    uint32_t need;        /* descriptor properties it needs, as bits */
    uint32_t spelling;    /* requests with another spelling of the path make ADOPT verify */
    uint8_t mode;         /* aflock_mode */
    bool once;            /* exactly one attempt; `timeout` then only bounds it */
    bool adopt;           /* needs ADOPT before it is granted */
    bool parks;           /* may take over a parked TRY */

    /* to be read */
    uint8_t state; /* afl_state */
    int status;    /* of the answer */
    int sys_errno;
    int cleanup_errno;
    uint32_t attempts;
    const char *step;
    uint64_t submitted; /* time of submit */
    uint64_t decided;   /* time of the answer */
    afl_path *path;

    /* private */
    afl_timer timer;                    /* its deadline; `order` is the submission number */
    afl_request *next, *prev;           /* queue, or holders */
    afl_request *done_next, *done_prev; /* answers to deliver */
    afl_request *owner_next, **owner_link;
    afl_request *mark_next;
    uint64_t mark;
};

struct afl_path {
    /* the caller's, set before use and unchanged while in use */
    bool hand_on;           /* the protocol can pass a hold to another request without giving the file up */
    bool join;              /* shared requests join those who hold; with hand_on they always do */
    bool notify;            /* WATCH is worth asking for */
    bool keep;              /* what is kept stays when nobody waits (afl_machine_keep) */
    uint64_t beat_interval; /* BEAT is due so often while pending, or held by somebody; 0: never */
    uint64_t resolution;    /* retry rungs below it collapse */

    /* the caller's to set while a TRY is in flight */
    bool parked; /* it returns when whoever has the file is through: a head that it does not fit must not wait for it */

    /* to be read */
    afl_request *head, *tail; /* waiting, in order */
    afl_request *holders;
    uint32_t waiting;
    uint8_t grip; /* afl_grip */
    uint8_t op;   /* afl_op in flight */
    uint8_t mode; /* of a grip that is held */
    bool stale;   /* what is held is for those who hold it now only */
    bool lost;    /* ... and not even theirs any more (afl_machine_lose) */
    bool watching;

    /* private */
    afl_timer timer;
    afl_path *ready_next;
    afl_request *op_for;   /* the request the operation in flight is for, if it still waits */
    afl_request *failing;  /* waits for the roll-back */
    afl_request *releaser; /* the last holder; its release is to be answered */
    uint32_t have;
    uint32_t spelling;
    bool is_ready, counted; /* in the machine's ready list; in its `releasing` */
    bool watch, unwatch;    /* to be asked for */
    bool hinted;            /* something changed while an operation ran */
    bool fresh;             /* won by a try, nobody got it yet */
    bool give_up;           /* the run of hand-offs is over with the last hold: release, then pause */
    bool paused;            /* there was a pause */
    uint8_t foreign;        /* pauses for which it counts that somebody foreign was met */
    bool verify, convert;   /* of the ADOPT in flight */
    uint8_t tried_mode;     /* of the TRY in flight */
    uint8_t rung;           /* of the retry ladder; RUNGS: off */
    uint8_t failures;       /* of RELEASE or WITHDRAW in a row */
    uint32_t run_grants;
    uint64_t run_started;
    uint64_t checked;
    uint64_t tried; /* end of the last attempt */
    uint64_t retry_at;
    uint64_t pause_until;
    uint64_t last_pause;
    uint64_t release_at;
    uint64_t beat_at;
};

typedef struct afl_machine_config {
    uint32_t handoff_grants;
    uint64_t handoff_time;
    uint64_t handoff_least; /* a run is not over before, unless handoff_time is */
    uint64_t handoff_pause;
    uint64_t pause_interval;
    uint8_t foreign_pauses;  /* how many those are; 0: 1 */
    uint64_t check_interval; /* of hand-offs after which ADOPT verifies */
} afl_machine_config;

struct afl_machine {
    afl_machine_config config;

    /* to be read */
    uint64_t waiting;     /* requests in queues */
    uint64_t undelivered; /* answers not delivered */
    uint64_t holding;     /* holds, delivered or not */
    uint64_t releasing;   /* paths that give up or withdraw something */

    /* private */
    afl_heap deadlines, timers;
    afl_path *ready, **ready_tail;
    afl_request *done, *done_tail;
    afl_request **owners; /* hash table from owner to requests, the caller's memory */
    size_t owner_buckets; /* a power of two */
    size_t owned;
    afl_request *owner_single; /* the table that is used until the caller gives a larger one */
    uint64_t sequence;
    uint64_t mark;
};

void afl_machine_init(afl_machine *m, const afl_machine_config *config);
void afl_path_init(afl_path *p);

/* Gives the machine a larger owner table: `memory` for `buckets` (a power of two) pointers, zeroed. Returns the old
 * table (NULL: the first one, which is the machine's own). Wanted when `owned` exceeds twice `owner_buckets`. */
afl_request **afl_machine_owner_table(afl_machine *m, afl_request **memory, size_t buckets);

/* Does the owner of `r` (owner and mode are set) hold the path in the same mode? Then r is granted without waiting. */
bool afl_machine_owner_holds(const afl_machine *m, const afl_path *p, const afl_request *r);

/* A request asks for a path. 0, AFLOCK_EWOULDBLOCK (once, and not alone), AFLOCK_EDEADLK, AFLOCK_ECOMPROMISED (its
 * owner holds what is lost). */
int afl_machine_submit(afl_machine *m, afl_path *p, afl_request *r, uint64_t now);

/* Ends a request that was not delivered as held: it will be answered with `status`. 0, AFLOCK_EHELD, AFLOCK_ESTALE. */
int afl_machine_cancel(afl_machine *m, afl_request *r, int status, uint64_t now);

/* Ends a delivered hold. answer: the release will be answered (state RELEASED or REHELD); otherwise the request is
 * AFL_IDLE on return. 0, AFLOCK_ENOTHELD (waits), AFLOCK_ESTALE (already releasing). */
int afl_machine_release(afl_machine *m, afl_request *r, bool answer, uint64_t now);

/* The next thing to do; false: nothing now. TRY, ADOPT, WITHDRAW, RELEASE and BEAT are in flight until
 * afl_machine_done. */
bool afl_machine_next(afl_machine *m, uint64_t now, afl_action *action);
void afl_machine_done(afl_machine *m, afl_path *p, const afl_outcome *outcome, uint64_t now);

/* Whether WATCH succeeded, before the next afl_machine_next. */
void afl_machine_watched(afl_machine *m, afl_path *p, bool watching, uint64_t now);

typedef enum afl_hint {
    AFL_HINT_CHANGED, /* something changed on disk: now is the time to try, and to try again a little later */
    AFL_HINT_LOST,    /* ... and what changes after it will not be heard */
    AFL_HINT_AGAIN    /* it has changed so often that one try has to do, and a last one a little later */
} afl_hint;
void afl_machine_hint(afl_machine *m, afl_path *p, afl_hint hint, uint64_t now);

/* What was listened to has ended, and the watch with it; the hint comes apart. */
void afl_machine_unwatched(afl_machine *m, afl_path *p);

/* Somebody outside wants what is held: once nobody holds it any more it is given up, as when a run of hand-offs is
 * over, and not tried for a pause. */
void afl_machine_yield(afl_machine *m, afl_path *p);

/* What is held is to be refreshed now, and not only when the interval is over. */
void afl_machine_beat(afl_machine *m, afl_path *p, uint64_t now);

/* What is held is not ours any more, as a BEAT may find out, too: nobody joins its holders, and it is not beaten. */
void afl_machine_lose(afl_machine *m, afl_path *p, uint64_t now);

/* The head's poll interval changed. */
void afl_machine_repoll(afl_machine *m, afl_path *p, uint64_t now);

/* When afl_machine_expire has to be called; AFLOCK_FOREVER. */
uint64_t afl_machine_deadline(const afl_machine *m);
void afl_machine_expire(afl_machine *m, uint64_t now);

/* The oldest answer that is not delivered, or NULL; and: it is delivered now (GRANTED and REHELD become HELD, the
 * others IDLE). The request need not be the oldest. */
afl_request *afl_machine_peek(const afl_machine *m);
void afl_machine_deliver(afl_machine *m, afl_request *r);

/* `from` turned out to be the same path as `into`: its waiting requests join the other queue in submission order, as if
 * all had asked for `into`; who would have been refused there is answered so. Only while `from` has no grip and no
 * holder; a TRY of it that is in flight is forgotten (do not answer it). */
void afl_machine_merge(afl_machine *m, afl_path *into, afl_path *from, uint64_t now);

/* A release under way is answered now, with `status`, whatever comes of it. */
void afl_machine_end_release(afl_machine *m, afl_path *p, int status, uint64_t now);

/* Whether what is kept between attempts stays when nobody waits. Off: it is withdrawn. */
void afl_machine_keep(afl_machine *m, afl_path *p, bool keep);

/* Forgets a path with no request, before its memory is freed. */
void afl_machine_forget(afl_machine *m, afl_path *p);

/* Would waiting as `r`, which is in no queue yet, close a cycle of owners? (cycle.c) */
bool afl_machine_cycle(afl_machine *m, afl_path *p, afl_request *r);

/* Does a request have to wait for another one of the same path? (shared with cycle.c) */
bool afl_path_conflict(const afl_path *p, const afl_request *r, const afl_request *holder);
afl_request *afl_machine_owned(const afl_machine *m, const void *owner); /* first of its bucket: compare `owner` */

#endif
