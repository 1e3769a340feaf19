/* The processes of a storm: those with aflock, and strangers that speak the protocol by themselves. Neither returns. */
#ifndef STORM_WORKER_H
#define STORM_WORKER_H

#include "board.h"

#define LINK_NAME "link" /* a symbolic link to the directory itself: another spelling */

/* Takes the lock again and again until the board says END, then leaves with 0. `life` counts the processes of a seat.
 */
void worker_run(const protocol *p, uint64_t seed, unsigned seat, unsigned life) __attribute__((noreturn));

/* The same without aflock; during the storm it also dies by itself: killed, or with 0 and the lock held. */
void stranger_run(const protocol *p, uint64_t seed, unsigned seat, unsigned life) __attribute__((noreturn));

#endif
