/* Those who ask a semaphore for a slot: a table by permit, and a queue, first come, first served. */
#ifndef AFL_RECIPES_TAKERS_H
#define AFL_RECIPES_TAKERS_H

#include <aflock/semaphore.h>
#include <stdbool.h>

typedef enum taker_place {
    UNUSED,
    QUEUED,
    LEAVING, /* the answer is on its way: by the guard, or in the queue's first place by the attempt that was cancelled
              */
    HOLDING,
    RELEASING
} taker_place;

/* One request. It never moves, as its address is with callbacks. */
typedef struct taker {
    aflock_semaphore *of;
    struct taker *next, *previous; /* in the queue; or the next unused one */
    taker_place place;
    bool once;        /* each slot is tried once */
    int verdict;      /* instead of what the guard says */
    aflock_req watch; /* of the guard */
    aflock_token *token;
    aflock_semaphore_callback callback;
    void *user;
    uint64_t started;
    unsigned slot;
    uint32_t index, generation;
} taker;

typedef struct takers {
    taker *head, *tail; /* the queue */
    taker **all;        /* by index */
    uint32_t count, room;
    taker *unused;
} takers;

taker *takers_new(takers *t, aflock_semaphore *of); /* NULL: no memory */
void takers_drop(takers *t, taker *one);            /* its permit is stale from now on */
void takers_free(takers *t);

taker *takers_find(const takers *t, aflock_permit permit); /* NULL: it is stale */
aflock_permit taker_permit(const taker *one);

void takers_enqueue(takers *t, taker *one);
void takers_dequeue(takers *t, taker *one);

#endif
