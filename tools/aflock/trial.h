/* One trial of `aflock verify`: some processes ask for one lock again and again, and note when they held it. */
#ifndef AFLOCK_COMMAND_TRIAL_H
#define AFLOCK_COMMAND_TRIAL_H

#include "signals.h"

#include <aflock/aflock.h>

/* The last one: each process has what it asks for at once. Only a check that notices it is worth anything. */
typedef enum trial_kind { TRIAL_EXCLUSIVE, TRIAL_SHARED, TRIAL_UNLOCKED } trial_kind;

typedef enum trial_result {
    TRIAL_UNTESTED, /* it could not be found out */
    TRIAL_EXCLUDES,
    TRIAL_OVERLAPS,
    TRIAL_UNSUPPORTED /* the file system, or the library, does not have that */
} trial_result;

typedef struct trial {
    /* the order */
    trial_kind kind; /* SHARED: half of what is asked for is shared */
    aflock_protocol protocol;
    const char *paths[2]; /* of the lock, in the one directory and in the other; or twice the same */
    uint64_t duration;    /* ns, at least */

    /* what came of it */
    trial_result result;
    uint64_t grants, overlaps;
    int wait;          /* AFLOCK_WAIT_NOTIFY, _POLL; AFLOCK_WAIT_AUTO: not known */
    char why_wait[96]; /* ... and why */
    char problem[160]; /* why it is unsupported or untested */
    int signal;        /* that has ended it, or 0 */
} trial;

/* Runs it. `show` is called now and then meanwhile. No process is left. */
void trial_run(trial *t, const signals *s, void (*show)(void *user), void *user);

#endif
