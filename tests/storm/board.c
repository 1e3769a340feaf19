/* See board.h. */
#include "board.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

board *the_board;

void board_make(void)
{
    the_board =
        mmap(NULL, sizeof *the_board, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    require(the_board != MAP_FAILED);
}

void board_reset(void)
{
    require(madvise(the_board, sizeof *the_board, MADV_REMOVE) == 0); /* zeros again */
    the_board->began = now_ns();
}

/* ----------------------------------------------------------------------------------------------------------- a hold */

/* The start comes last: before it, a process that is killed has written nothing. */
interval *interval_begin(uint64_t start, const interval *what)
{
    ledger *s = &the_board->seats[what->seat];
    unsigned number = atomic_fetch_add(&s->used, 1);
    if (number >= INTERVALS)
        return NULL;
    interval *i = &s->log[number];
    i->life = what->life;
    i->group = what->group;
    i->seat = what->seat;
    i->shared = what->shared;
    i->where = what->where;
    i->kind = what->kind;
    atomic_store(&i->last, start);
    atomic_store(&i->start, start);
    return i;
}

void interval_stamp(interval *i)
{
    if (i)
        atomic_store(&i->last, now_ns());
}

void hold_begin(hold *h, uint64_t start, const interval *what, bool writes)
{
    *h = (hold){.at = interval_begin(start, what), .writes = writes, .counter = atomic_load(&the_board->counter)};
    for (unsigned i = 0; i < WORDS; i++) {
        if (writes)
            atomic_store(&the_board->words[i], (uint64_t)(what->seat + 1) << 56 | (start & (UINT64_MAX >> 8)));
        h->words[i] = atomic_load(&the_board->words[i]);
    }
    hold_stamp(h);
}

static void check_words(const hold *h)
{
    for (unsigned i = 0; i < WORDS; i++) {
        uint64_t found = atomic_load(&the_board->words[i]);
        if (found != h->words[i])
            fail("%s held the lock from %.6f s on, and now word %u is of process %d (was: %d)",
                 h->at && h->at->shared ? "shared:" : "exclusive:",
                 h->at ? (double)(h->at->start - the_board->began) / 1e9 : 0.0, i, (int)(found >> 56) - 1,
                 (int)(h->words[i] >> 56) - 1);
    }
}

void hold_stamp(hold *h)
{
    check_words(h);
    interval_stamp(h->at);
}

void hold_end(hold *h)
{
    hold_stamp(h);
    if (h->at && h->writes) {
        atomic_store(&h->at->counted, 1);
        atomic_store(&the_board->counter, h->counter + 1);
        atomic_store(&h->at->counted, 2);
        for (unsigned i = 0; i < WORDS; i++)
            atomic_store(&the_board->words[i], 0);
    }
    if (h->at)
        atomic_store(&h->at->ended, 1);
    interval_stamp(h->at);
}

/* ----------------------------------------------------------------------------------------------------- the judgement
 */

static const char *where_name(unsigned where)
{
    static const char *const NAMES[] = {"auto", "inline", "pool"};
    return where == STRANGER ? "a stranger" : NAMES[where];
}

static void print(const interval *i)
{
    static const char *const KINDS[] = {"hold", "hold, handed on", "on_acquired"};
    fprintf(stderr, "  process %u, life %u: %s, %s, %s, group %u: %.6f s .. %.6f s%s\n", i->seat, i->life,
            i->shared ? "shared" : "exclusive", where_name(i->where), KINDS[i->kind], i->group,
            (double)(i->start - the_board->began) / 1e9, (double)(i->last - the_board->began) / 1e9,
            i->ended ? "" : " (its process was killed)");
}

static bool may_overlap(const interval *a, const interval *b)
{
    if (a->shared && b->shared)
        return true;
    return a->group && a->group == b->group && a->seat == b->seat && a->life == b->life;
}

static int by_start(const void *a, const void *b)
{
    uint64_t x = (*(interval *const *)a)->start, y = (*(interval *const *)b)->start;
    return (x > y) - (x < y);
}

/* Compares each interval with those that were not over when it began. */
static uint64_t compare(interval **sorted, size_t count)
{
    enum { ACTIVE = 1024 };
    interval *active[ACTIVE];
    size_t actives = 0;
    uint64_t pairs = 0;
    for (size_t n = 0; n < count; n++) {
        size_t left = 0;
        for (size_t k = 0; k < actives; k++) {
            if (active[k]->last <= sorted[n]->start)
                continue;
            pairs++;
            if (!may_overlap(active[k], sorted[n])) {
                print(active[k]);
                print(sorted[n]);
                fail("two holders at one time, for %.6f s at least",
                     (double)((active[k]->last < sorted[n]->last ? active[k]->last : sorted[n]->last) -
                              sorted[n]->start) /
                         1e9);
            }
            active[left++] = active[k];
        }
        require(left < ACTIVE);
        active[left++] = sorted[n];
        actives = left;
    }
    return pairs;
}

/* The begun intervals of all seats. */
static interval **collect(verdict *v, size_t *count, uint64_t *least, uint64_t *most)
{
    interval **all = malloc(sizeof *all * SEATS * INTERVALS);
    require(all);
    *count = 0;
    for (unsigned n = 0; n < SEATS; n++) {
        ledger *s = &the_board->seats[n];
        if (s->used > INTERVALS)
            fail("%u intervals of process %u had no room", s->used - INTERVALS, n);
        v->waits += s->waits;
        for (unsigned k = 0; k < s->used; k++) {
            interval *i = &s->log[k];
            if (!i->start)
                continue; /* killed a moment before it was written down */
            all[(*count)++] = i;
            *least += i->counted == 2;
            *most += i->counted != 0;
            v->grants += i->kind != ON_ACQUIRED;
            v->on_acquired += i->kind == ON_ACQUIRED;
            v->cut_short += !i->ended;
            v->strangers += i->where == STRANGER;
        }
    }
    return all;
}

void judge(verdict *v)
{
    size_t count;
    uint64_t least = 0, most = 0, counter = the_board->counter;
    interval **all = collect(v, &count, &least, &most);
    qsort(all, count, sizeof(interval *), by_start);
    v->pairs += compare(all, count);
    v->intervals += count;
    free(all);
    if (counter < least || counter > most)
        fail("%s increments made, and the counter says %s", thousands(least), thousands(counter));
}
