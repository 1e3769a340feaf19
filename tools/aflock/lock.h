/* Gets the lock for the command. */
#ifndef AFLOCK_COMMAND_LOCK_H
#define AFLOCK_COMMAND_LOCK_H

#include "options.h"
#include "signals.h"

/* Takes (or with -u drops) the lock that `o` describes. Returns GO_ON when the process holds it, and keeps it until it
 * ends; or the status to exit with, the reason having been said. Does not return when a signal ends the wait. */
int lock_take(const options *o, const signals *s);

/* What can happen while the command runs, beside signals. */
enum {
    LOCK_LOST = -1,   /* once: the lease; the reason was said */
    LOCK_OVERDUE = -2 /* once: some seconds later */
};

/* Waits for what happens next, and keeps a lease alive meanwhile: the number of one of s->watched, 0 (nothing, after
 * all), or one of the above. */
int lock_wait(const signals *s, siginfo_t *info);

/* The command has ended: was the lease lost before? */
int lock_is_lost(void);

/* Takes away what is a marker, or claims; other locks end with the descriptors that carry them. Does not return when a
 * signal ends that. */
void lock_give_back(void);

#endif
