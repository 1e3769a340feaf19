/* What several requests have in common: a deadline, a token, a cancel that is answered at once, and a way to the
 * executor. It is a lock that nobody else can have, on a pipe, and that is held here: a request for it is never
 * granted, so it is answered when its time is over, its token fires or it is cancelled, whatever the other requests
 * hang in. */
#ifndef AFL_RECIPES_GUARD_H
#define AFL_RECIPES_GUARD_H

#include "several/life.h"

#include <aflock/aflock.h>

typedef struct guard {
    aflock_ctx *ctx;
    life *life; /* of whom it belongs to */
    int fd;
    aflock *lock;    /* NULL: not wanted so far */
    aflock_req hold; /* as long as there are users */
    unsigned users;  /* requests and functions that were not called back yet */
} guard;

void guard_init(guard *g, aflock_ctx *ctx, life *l);
void guard_end(guard *g); /* nothing of it is pending any more */

/* `callback` will run once, never with status 0; it begins with guard_left. */
int guard_ask(guard *g, uint64_t timeout, aflock_token *token, aflock_callback callback, void *user, aflock_req *req);
void guard_cancel(guard *g, aflock_req *req); /* and forgets it; {0}: nothing */

/* As aflock_run; `callback` begins with guard_left. */
int guard_run(guard *g, int (*function)(int fd, void *user), aflock_ran callback, void *user);

/* A callback has begun; it ends with life_leave. */
void guard_left(guard *g);

#endif
