/* A pairing heap of timers: intrusive, so that arming a timer allocates nothing. Ties go by `order`.
 * Source: Fredman, Sedgewick, Sleator, Tarjan, "The pairing heap", Algorithmica 1 (1986). */
#ifndef AFL_HEAP_H
#define AFL_HEAP_H

#include <stdbool.h>
#include <stdint.h>

typedef struct afl_timer {
    struct afl_timer *child, *next;
    struct afl_timer *prev; /* the sibling before, or the parent of a first child; itself when not armed */
    uint64_t at;
    uint64_t order;
} afl_timer;

typedef struct afl_heap {
    afl_timer *root;
} afl_heap;

void afl_timer_init(afl_timer *t, uint64_t order);
bool afl_timer_armed(const afl_timer *t);
void afl_heap_arm(afl_heap *h, afl_timer *t, uint64_t at); /* replaces an earlier time */
void afl_heap_disarm(afl_heap *h, afl_timer *t);           /* harmless when not armed */

#endif
