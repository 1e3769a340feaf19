/* Processes that contend for one lock, and are killed, mostly while they hold it: there are never two, and everybody
 * gets a turn. On top of scene.h. */
#ifndef AFL_TEST_RIVALS_H
#define AFL_TEST_RIVALS_H

#include "support/scene.h"

enum { RIVALS_MAX = 8 };

typedef struct rivals {
    int count;          /* of processes, at most RIVALS_MAX */
    int patience_s;     /* whoever waits longer waits for ever */
    unsigned hold_us;   /* how long a hold lasts at least, */
    unsigned others_us; /* ... and the time for others after it */

    aflock *(*open)(int self);              /* in a process, whose `scene` is a context of its own */
    void (*turn)(aflock *lock, int self);   /* takes the lock and gives it back; NULL: rivals_turn */
    bool (*agrees)(void);                   /* NULL, or what must be true as well while one holds */
    void (*buried)(pid_t pid, bool holder); /* NULL, or what is done about one that was killed */
} rivals;

void rivals_begin(const rivals *r); /* stays the caller's until the end */
void rivals_await(int turns);       /* everybody has had so many turns from now on */
void rivals_turns(int turns[RIVALS_MAX]);

/* So many, one after the other, three of four of them the one who holds. Each is replaced. How many of them held. */
int rivals_kill(int kills);

/* They end, and there never were two. */
void rivals_end(void);

/* A turn, and what makes it one while the lock is held. */
void rivals_turn(aflock *lock, int self);
void rivals_hold(int self);

#endif
