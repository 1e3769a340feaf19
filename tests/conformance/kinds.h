/* What every exclusive lock does on every loop, wherever attempts run: written once, for kinds of locks that differ in
 * how they are opened, how another program takes them, and what is on disk meanwhile. */
#ifndef AFL_CONFORMANCE_KINDS_H
#define AFL_CONFORMANCE_KINDS_H

#include "conformance.h"

typedef struct kind kind;

/* What is done by hand, and what must be there. */
typedef struct kind_methods {
    int (*take)(const rig *r, const kind *k); /* another program; its descriptor, if it is what holds */
    void (*give)(const rig *r, const kind *k, int fd);

    void (*look)(rig *r, const kind *k, const answer *a); /* while we hold it */
    void (*look_after)(rig *r, const kind *k);            /* nobody holds it */
    void (*clear)(rig *r, const kind *k);                 /* NULL, or removes what stays for good */
} kind_methods;

struct kind {
    const kind_methods *methods;
    aflock_protocol protocol;
    int temporary;
    aflock_wait wait;
    const char *name; /* of the path */
    const char *held; /* what is there while somebody has it */
};

bool kind_is_there(const rig *r, const char *name);
void kind_use_once(rig *r, const kind *k, aflock *lock);

/* `body` with a lock of each kind, wherever attempts run: it works before and afterwards. */
void kind_each(rig *r, const kind *kinds, size_t count, void (*body)(rig *r, const kind *k, aflock *lock));

/* Bodies. */
void kind_wait_for_it(rig *r, const kind *k, aflock *lock);
void kind_hand_it_on(rig *r, const kind *k, aflock *lock);
void kind_give_the_wait_up(rig *r, const kind *k, aflock *lock);

/* The context ends while it has one of each. */
void kind_free_while_held(rig *r, const kind *kinds, size_t count);

#endif
