/* The pairing heap of heap.h. The root has prev == NULL; a timer that is not armed points to itself. */
#include "machine/heap.h"

#include <stddef.h>

static bool before(const afl_timer *a, const afl_timer *b)
{
    return a->at != b->at ? a->at < b->at : a->order < b->order;
}

/* Makes the later of two roots the first child of the other. */
static afl_timer *meld(afl_timer *a, afl_timer *b)
{
    if (!a || !b)
        return a ? a : b;
    if (before(b, a)) {
        afl_timer *swap = a;
        a = b;
        b = swap;
    }
    b->prev = a;
    b->next = a->child;
    if (a->child)
        a->child->prev = b;
    a->child = b;
    a->next = NULL;
    a->prev = NULL;
    return a;
}

/* Melds a list of siblings: pairs from left to right, then the pairs from right to left. */
static afl_timer *meld_siblings(afl_timer *first)
{
    afl_timer *pairs = NULL;
    while (first) {
        afl_timer *a = first, *b = first->next;
        first = b ? b->next : NULL;
        a->next = a->prev = NULL;
        if (b)
            b->next = b->prev = NULL;
        a = meld(a, b);
        a->next = pairs;
        pairs = a;
    }
    afl_timer *root = NULL;
    while (pairs) {
        afl_timer *next = pairs->next;
        pairs->next = NULL;
        root = meld(root, pairs);
        pairs = next;
    }
    return root;
}

void afl_timer_init(afl_timer *t, uint64_t order)
{
    t->child = t->next = NULL;
    t->prev = t;
    t->at = 0;
    t->order = order;
}

bool afl_timer_armed(const afl_timer *t)
{
    return t->prev != t;
}

void afl_heap_disarm(afl_heap *h, afl_timer *t)
{
    if (!afl_timer_armed(t))
        return;
    afl_timer *orphans = meld_siblings(t->child);
    if (h->root == t) {
        h->root = orphans;
    } else {
        if (t->prev->child == t)
            t->prev->child = t->next;
        else
            t->prev->next = t->next;
        if (t->next)
            t->next->prev = t->prev;
        h->root = meld(h->root, orphans);
    }
    t->child = t->next = NULL;
    t->prev = t;
}

void afl_heap_arm(afl_heap *h, afl_timer *t, uint64_t at)
{
    if (afl_timer_armed(t)) {
        if (t->at == at)
            return;
        afl_heap_disarm(h, t);
    }
    t->at = at;
    t->prev = NULL;
    h->root = meld(h->root, t);
}
