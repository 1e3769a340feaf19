/* For tests of leases: locks, what was held, and what was told. On top of marks.h. */
#ifndef AFL_TEST_LEASE_SCENE_H
#define AFL_TEST_LEASE_SCENE_H

#include "support/marks.h"

/* What on_compromise said. */
typedef struct told {
    int count;
    aflock_req req;
    aflock_compromise what;
    char step[32], token[40]; /* "" for NULL */
} told;

/* The callback: `user` is a told. */
void lease_told(aflock *lock, aflock_req req, const aflock_compromise *what, void *user);

/* 30 s, and nothing is polled: who is not woken waits until the watchdog barks. */
aflock_options lease_options(int io);
aflock *open_with(const aflock_options *o);
aflock *open_lease(int io);
/* One that beats all the time. Where the boot-time clock stands still no slow machine loses it. */
aflock *open_beating(int io);

/* A hold of ours; its marker is as it has to be. `t`: to be told, or NULL. */
aflock_req must_hold_for(aflock *lock, void *owner, told *t);
aflock_req must_hold(aflock *lock);
void must_be_ours(const char *path, const char *token, const char *duration);
/* The lock is got, and nothing else is left in the folder. */
void must_get(aflock *lock);

/* Turns of the loop, until so many heartbeats were tried since the beginning, or from now on; and so many turns,
 * whatever comes. */
void await_touches(int total);
void await_beats(int count);
void run_turns(int count);

#endif
