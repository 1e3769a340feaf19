/* The oracle: who holds what, as the programs themselves see it, from the moment they are told until the moment they
 * give it back or die. It knows nothing of the library.
 *
 * Two holds exclude each other if they are on the same file, or on the same path: unless both are shared, or belong to
 * one owner in one context. Once somebody who follows no rule has given the path to another file while it was locked,
 * the path stands for two files, and only the file counts (sim_target.replaced). So it is as well on a remote volume
 * after any unlink, because a client may not see it for a while.
 */
#ifndef SIM_ORACLE_H
#define SIM_ORACLE_H

#include "sim_world.h"

typedef struct sim_hold {
    const sim_process *process;
    const sim_context *context; /* NULL: of a program without the library */
    const sim_target *target;   /* NULL: only the file counts */
    const sim_host *host;       /* whose path it is; NULL: everybody's */
    const sim_inode *inode;
    aflock_mode mode;
    const void *owner;
    struct sim_hold *next, *prev;
    bool held;
} sim_hold;

void sim_oracle_start(void);

/* A hold begins: nobody may hold against it. */
void sim_hold_begins(sim_hold *hold);
void sim_hold_ends(sim_hold *hold);
unsigned sim_holds(void);

/* The kernel has the lock that the hold needs. `fd` of the process. */
void sim_hold_is_real(const sim_hold *hold, const sim_protocol *protocol, int fd);

/* Whoever has just got the lock: did the path name the file at some time after it was locked? */
void sim_hold_is_named(const sim_hold *hold, int fd, const char *path);

#endif
