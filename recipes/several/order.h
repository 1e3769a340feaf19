/* The order in which several locks are taken, and which of them are the same. It asks the file system, so a worker does
 * it. Knows no lock and no loop. */
#ifndef AFL_RECIPES_ORDER_H
#define AFL_RECIPES_ORDER_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

/* What tells a file from others; `exists` false: there is none. */
typedef struct order_file {
    bool exists;
    dev_t device;
    ino_t inode;
} order_file;

typedef struct order_path {
    char *text;  /* absolute */
    bool follow; /* a symbolic link at the end is followed */

    char *resolved;
    order_file file, directory;
    size_t index; /* in the list */
    size_t leads; /* another one that is the same, or itself */
    bool chosen;  /* ... whose first one is known */
    size_t same;  /* the one of those that comes first in the order */
} order_path;

typedef struct order {
    atomic_uint users; /* the loop, and the worker */
    void *of;          /* for the loop */
    size_t count;
    order_path *paths; /* as they were given */
    size_t *turn;      /* indexes of those to take, in this order */
    size_t turns;
} order;

order *order_new(size_t count); /* NULL: no memory */
bool order_set(order *o, size_t index, const char *text, bool follow);
void order_leave(order *o);

/* For aflock_run: 0, or ENOMEM; the worker leaves it. */
int order_find(int fd, void *user);

#endif
