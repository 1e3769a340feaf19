/* What all.c and any.c share of a list. */
#ifndef AFL_RECIPES_SEVERAL_H
#define AFL_RECIPES_SEVERAL_H

#include "several/guard.h"
#include "several/order.h"
#include "several/pick.h"

#include <aflock/several.h>

typedef enum phase { IDLE, ORDERING, TAKING, PICKING, HELD, RELEASING } phase;

/* One lock. Addresses of these are with callbacks, so they stay where they are. */
typedef struct entry {
    pick_lock pick; /* `asked` is also what all.c waits for */
    aflock_several *of;
    aflock_mode mode; /* as it was added; that of `pick` is as it is taken */
    aflock_protocol protocol;
    size_t same; /* the index of the one that stands for it */
    aflock_req hold;
} entry;

struct aflock_several {
    life life;
    guard guard;
    aflock_req watch; /* of the guard */
    phase phase;
    entry **entries;
    pick_lock **locks; /* the same, for `pick` */
    size_t count, room;
    size_t *turn; /* all: in which they are taken */
    size_t turns, taken;
    order *order;
    pick pick;

    aflock_several_callback callback;
    void *user;
    void (*on_compromise)(aflock *lock, aflock_req req, const aflock_compromise *what, void *user);
    void *on_compromise_user;
    uint64_t timeout, started;

    size_t releasing; /* so many are not given up yet */
    aflock_several_result released;
};

/* The answer: what is held is kept with status 0, and given back otherwise. `index`: of the lock that it is about;
 * `r`: what the library said of it, or NULL. The last thing that is done in a callback. */
void several_answer(aflock_several *s, int status, size_t index, const aflock_result *r);

/* Begins, or goes on; 0, or an error. */
int several_begin_all(aflock_several *s);
int several_begin_any(aflock_several *s);

#endif
