/* The heap of timers, against a plain array. */
#include "machine/heap.h"
#include "support/machine_driver.h"

#include <stdlib.h>

enum { TIMERS = 200 };

static afl_heap heap;
static afl_timer timers[TIMERS];

static void setup(void)
{
    heap = (afl_heap){NULL};
    for (uint64_t i = 0; i < TIMERS; i++)
        afl_timer_init(&timers[i], i);
}

/* The one that is due first, by looking at all. */
static afl_timer *first(void)
{
    afl_timer *least = NULL;
    for (size_t i = 0; i < TIMERS; i++) {
        afl_timer *t = &timers[i];
        if (afl_timer_armed(t) && (!least || t->at < least->at || (t->at == least->at && t->order < least->order)))
            least = t;
    }
    return least;
}

START_TEST(empty)
{
    ck_assert_ptr_null(heap.root);
    ck_assert(!afl_timer_armed(&timers[0]));
    afl_heap_disarm(&heap, &timers[0]);
    ck_assert_ptr_null(heap.root);
}
END_TEST

START_TEST(one)
{
    afl_heap_arm(&heap, &timers[0], 5);
    ck_assert(afl_timer_armed(&timers[0]));
    ck_assert_ptr_eq(heap.root, &timers[0]);
    afl_heap_arm(&heap, &timers[0], 5);
    ck_assert_uint_eq(heap.root->at, 5);
    afl_heap_arm(&heap, &timers[0], 3);
    ck_assert_uint_eq(heap.root->at, 3);
    afl_heap_arm(&heap, &timers[0], 9);
    ck_assert_uint_eq(heap.root->at, 9);
    afl_heap_disarm(&heap, &timers[0]);
    ck_assert_ptr_null(heap.root);
    ck_assert(!afl_timer_armed(&timers[0]));
}
END_TEST

START_TEST(sorts)
{
    for (size_t i = 0; i < TIMERS; i++)
        afl_heap_arm(&heap, &timers[i], i * 7919 % TIMERS);
    for (uint64_t at = 0; at < TIMERS; at++) {
        ck_assert_uint_eq(heap.root->at, at);
        afl_heap_disarm(&heap, heap.root);
    }
    ck_assert_ptr_null(heap.root);
}
END_TEST

START_TEST(ties_go_by_order)
{
    for (size_t i = 0; i < TIMERS; i++)
        afl_heap_arm(&heap, &timers[i * 7919 % TIMERS], i % 2);
    uint64_t last_at = 0, last_order = 0;
    for (size_t i = 0; i < TIMERS; i++) {
        afl_timer *t = heap.root;
        ck_assert(i == 0 || t->at > last_at || (t->at == last_at && t->order > last_order));
        last_at = t->at;
        last_order = t->order;
        afl_heap_disarm(&heap, t);
    }
}
END_TEST

START_TEST(random_operations)
{
    srand(1);
    for (int i = 0; i < 100000; i++) {
        afl_timer *t = &timers[rand() % TIMERS];
        if (rand() % 3)
            afl_heap_arm(&heap, t, (uint64_t)(rand() % 64));
        else
            afl_heap_disarm(&heap, rand() % 2 || !heap.root ? t : heap.root);
        ck_assert_ptr_eq(heap.root, first());
    }
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {empty, one, sorts, ties_go_by_order, random_operations, NULL};
    return driver_run("machine: heap", setup, tests);
}
