/* What hosts have in common whose clock is the machine's. */
#ifndef HOST_REAL_H
#define HOST_REAL_H

#include "conformance.h"

#include <errno.h>
#include <time.h>

static inline uint64_t real_now(void *unused)
{
    (void)unused;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * SEC + (uint64_t)now.tv_nsec;
}

static inline void real_block(void *unused, uint64_t duration)
{
    (void)unused;
    struct timespec time = {.tv_sec = (time_t)(duration / SEC), .tv_nsec = (long)(duration % SEC)};
    while (nanosleep(&time, &time) != 0 && errno == EINTR) /* a loop may live by signals */
        ;
}

/* Rounded up, for loops that count so, and never more than they can count. */
static inline int real_milliseconds(uint64_t time)
{
    return time < 60 * SEC ? (int)((time + MS - 1) / MS) : 60000;
}

#define REAL_GAP                                                                             \
    {                                                                                        \
        "timers_are_exact", "the clock is the machine's: how late it is, the benchmark says" \
    }

extern const conformance_host conformance_host_under_test;

#endif
