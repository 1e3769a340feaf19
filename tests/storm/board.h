/* The board: what the processes of a storm write down, in memory that they share and that survives them.
 *
 * Each process has a seat with a log of intervals. The start is stamped after the grant, the last moment again and
 * again while the lock is held, and for the last time before the release. Whoever is killed leaves an interval that
 * ends at its last stamp, and the kernel takes the locks of the dead away later than that. So two intervals that
 * overlap, and are not both shared, are two holders.
 *
 * The lock also protects data: words that a writer fills and finds unchanged at each stamp, as a reader finds them, and
 * a counter from which no increment may be lost.
 */
#ifndef STORM_BOARD_H
#define STORM_BOARD_H

#include "common.h"

#include <stdatomic.h>
#include <stddef.h>

enum { SEATS = 10, STRANGERS = 2, INTERVALS = 1 << 16, WORDS = 4 };

typedef enum phase {
    STORM, /* anything may happen to anybody */
    CALM,  /* nobody is harmed, and everybody must get the lock once more */
    END    /* nobody asks any more */
} phase;

/* One hold, or one on_acquired function, which runs while the file is locked. */
typedef struct interval {
    atomic_uint_least64_t start; /* 0: not begun */
    atomic_uint_least64_t last;
    uint32_t life;  /* of the process in this seat */
    uint32_t group; /* within one life, holds with the same non-zero group may overlap: those of one owner */
    uint8_t seat;
    uint8_t shared;
    uint8_t where; /* aflock_io, or STRANGER */
    uint8_t kind;
    atomic_uchar ended;
    atomic_uchar counted; /* 1: about to increase the counter, 2: has done so */
} interval;

enum { STRANGER = 100 };               /* interval.where */
enum { HOLD, HANDED_ON, ON_ACQUIRED }; /* interval.kind */

typedef struct ledger {
    atomic_uint used;  /* intervals; more than INTERVALS: some were lost */
    atomic_uint calm;  /* grants since the calm began */
    atomic_uint waits; /* grants that were not to be had at once */
    interval log[INTERVALS];
} ledger;

typedef struct board {
    atomic_int phase;
    uint64_t began;
    atomic_uint_least64_t words[WORDS]; /* of the writer: its seat + 1 in the highest byte; 0: none */
    atomic_uint_least64_t counter;      /* read and written, never added to: the lock makes it one step */
    ledger seats[SEATS];
} board;

extern board *the_board;

void board_make(void);  /* before the processes */
void board_reset(void); /* when they are gone */

/* A hold in this process. */
typedef struct hold {
    interval *at; /* NULL: the log is full */
    bool writes;
    uint64_t words[WORDS]; /* what they have to be */
    uint64_t counter;
} hold;

/* Only with the lock, right after the grant, with `start` read first of all. `what`: life, group, seat, shared, where
 * and kind. A writer is alone, groups included. */
void hold_begin(hold *h, uint64_t start, const interval *what, bool writes);
void hold_stamp(hold *h); /* still held: nobody else has written meanwhile */
void hold_end(hold *h);   /* right before the release */

/* An interval without data, from any thread. */
interval *interval_begin(uint64_t start, const interval *what);
void interval_stamp(interval *i);

/* What a round came to. */
typedef struct verdict {
    uint64_t grants, intervals, pairs, on_acquired, waits, cut_short, strangers;
} verdict;

/* Fails if two intervals overlap, or an increment is lost; otherwise adds to `v`. */
void judge(verdict *v);

#endif
