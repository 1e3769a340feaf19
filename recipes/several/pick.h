/* Any one of several locks: each is tried once, then all are waited for. Who wants what is won, and what a failure
 * means, is decided by whom it belongs to; nothing is cancelled unasked, so that what waits can go on for the next one.
 */
#ifndef AFL_RECIPES_PICK_H
#define AFL_RECIPES_PICK_H

#include "several/life.h"

#include <aflock/aflock.h>
#include <stddef.h>

typedef struct pick pick;

typedef struct pick_lock {
    pick *of;
    size_t index;
    aflock *lock;
    aflock_mode mode;
    bool is_lease;    /* can be told of a loss */
    bool is_taken;    /* by ourselves: it need not be tried */
    aflock_req asked; /* {0}: nothing */
} pick_lock;

struct pick {
    life *life; /* of whom it belongs to */
    void *user;
    pick_lock **locks;
    size_t count;
    aflock_acquire_options options; /* of each request; mode and timeout are set for each */

    size_t first;           /* is tried first */
    size_t looked;          /* so many were tried */
    bool sweeping, waiting; /* or nothing is under way */
    bool interrupted;       /* the attempt of the sweep was cancelled */

    /* From a turn. The sweep is over with `won` and `failed`; what waits goes on. */
    void (*won)(pick *p, pick_lock *l, const aflock_result *r);
    void (*failed)(pick *p, pick_lock *l, const aflock_result *r);
    void (*taken)(pick *p, int status); /* the sweep is over: AFLOCK_EWOULDBLOCK, or why it could not go on */
};

/* How a lock is asked for. */
void pick_options(const pick *p, const pick_lock *l, uint64_t timeout, aflock_acquire_options *o);

/* Tries each, until one is won. 0: this is under way; AFLOCK_EWOULDBLOCK: all are taken, as is known already; or an
 * error. */
int pick_sweep(pick *p);
int pick_sweep_on(pick *p); /* goes on after `failed` */

/* Waits for all; or an error, and nothing is under way. */
int pick_wait(pick *p);
int pick_wait_for(pick *p, pick_lock *l); /* one more; that is what was won or has failed */

/* Cancels the attempt of a sweep, which is over then: it is told as `failed`, whatever it says. */
int pick_interrupt(pick *p);

/* Cancels all that is under way. */
void pick_stop(pick *p);

#endif
