/* See takers.h. */
#include "semaphore/takers.h"

#include <stdlib.h>

enum { FIRST_ROOM = 16 };

aflock_permit taker_permit(const taker *one)
{
    return (aflock_permit){(uint64_t)one->generation << 32 | (one->index + 1)};
}

taker *takers_find(const takers *t, aflock_permit permit)
{
    uint32_t index = (uint32_t)permit.id - 1;
    taker *one = index < t->count ? t->all[index] : NULL;
    return one && one->generation == (uint32_t)(permit.id >> 32) && one->place != UNUSED ? one : NULL;
}

static bool make_room(takers *t)
{
    if (t->count < t->room)
        return true;
    uint32_t room = t->room ? 2 * t->room : FIRST_ROOM;
    taker **all = realloc(t->all, room * sizeof *all);
    if (!all)
        return false;
    t->all = all;
    t->room = room;
    return true;
}

/* What is used again keeps its index and generation. */
taker *takers_new(takers *t, aflock_semaphore *of)
{
    taker *one = t->unused;
    if (one) {
        t->unused = one->next;
        *one = (taker){.of = of, .index = one->index, .generation = one->generation};
        return one;
    }
    one = make_room(t) ? calloc(1, sizeof *one) : NULL;
    if (!one)
        return NULL;
    one->of = of;
    one->index = t->count;
    t->all[t->count++] = one;
    return one;
}

void takers_drop(takers *t, taker *one)
{
    one->place = UNUSED;
    one->generation++;
    one->next = t->unused;
    t->unused = one;
}

void takers_free(takers *t)
{
    for (uint32_t i = 0; i < t->count; i++)
        free(t->all[i]);
    free(t->all);
}

void takers_enqueue(takers *t, taker *one)
{
    one->next = NULL;
    one->previous = t->tail;
    *(t->tail ? &t->tail->next : &t->head) = one;
    t->tail = one;
    one->place = QUEUED;
}

void takers_dequeue(takers *t, taker *one)
{
    *(one->previous ? &one->previous->next : &t->head) = one->next;
    *(one->next ? &one->next->previous : &t->tail) = one->previous;
    one->place = LEAVING;
}
