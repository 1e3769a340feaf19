/* Who waits for a lock, from the question to the answer, and what is said of that. */
#ifndef AFLOCK_COMMAND_WAITER_H
#define AFLOCK_COMMAND_WAITER_H

#include "options.h"
#include "progress.h"
#include "signals.h"

#include <aflock/semaphore.h>
#include <aflock/several.h>
#include <limits.h>

typedef struct waiter {
    const options *options;
    const signals *signals;
    aflock_ctx *ctx;
    aflock *lock;                /* NULL with `several` */
    aflock_semaphore *semaphore; /* --semaphore */
    aflock_several *several;     /* --all */
    const char *which;           /* of several paths: what the answer is about, or NULL */
    aflock_req req;
    int threadless; /* no thread could be started: everything happens in the loop */
    int marker;     /* what is held is a marker */
    int signal;     /* that ended the wait, or 0 */
    int running;    /* the command is: signals are not for the loop */
    int ended;      /* the command has */
    int lost;       /* the lease was: LOCK_LOST, until it was told, then 1 */
    int overdue;    /* LOCK_OVERDUE, until it was told */
    int answered;
    int status; /* the answer: 0 or AFLOCK_E... */
    int sys_errno;
    int cleanup_errno;
    char step[32];
    char detail[2 * PATH_MAX]; /* what the library says of files that are not as they have to be, or "" */
    progress progress;
} waiter;

/* It is answered: 0 or AFLOCK_E... */
void waiter_answer(waiter *w, int status, int sys_errno, const char *step);

/* The file, or the number of the descriptor, as the user wrote it. */
const char *waiter_target(const options *o);

/* Does somebody else hold the lock? */
int waiter_is_conflict(const waiter *w);

/* Was it the locking that failed, not the opening? */
int waiter_lock_failed(const waiter *w);

/* Why, in words. */
const char *waiter_reason(const waiter *w);

/* Says why the lock was not to be had. Returns the exit status that flock(1) has for it. */
int waiter_failure(const waiter *w);

#endif
