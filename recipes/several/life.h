/* How long a thing lives that has given its address to callbacks: until it was ended and the last of them has run. */
#ifndef AFL_RECIPES_LIFE_H
#define AFL_RECIPES_LIFE_H

#include <stdbool.h>

typedef struct life {
    unsigned pending; /* callbacks that will run, or are running */
    bool ended;
    void (*destroy)(void *thing);
    void *thing;
} life;

static inline void life_enter(life *l)
{
    l->pending++;
}

/* The last use of the thing, maybe. */
static inline void life_leave(life *l)
{
    if (--l->pending == 0 && l->ended)
        l->destroy(l->thing);
}

static inline void life_end(life *l)
{
    life_enter(l);
    l->ended = true;
    life_leave(l);
}

#endif
