/* Gets the lock for the command. */
#ifndef AFLOCK_COMMAND_LOCK_H
#define AFLOCK_COMMAND_LOCK_H

#include "options.h"
#include "signals.h"

/* Takes (or with -u drops) the lock that `o` describes. Returns GO_ON when the process holds it, and keeps it until it
 * ends; or the status to exit with, the reason having been said. Does not return when a signal ends the wait. */
int lock_take(const options *o, const signals *s);

/* Takes the marker of --soft away; other locks end with the descriptors that carry them. Does not return when a signal
 * ends that. */
void lock_give_back(void);

#endif
