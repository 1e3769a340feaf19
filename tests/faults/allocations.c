/* See allocations.h. */
#include "faults/allocations.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *block, size_t size);
void __real_free(void *block);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *block, size_t size);
void __wrap_free(void *block);
void __real__mark_point(const char *file, int line);
void __wrap__mark_point(const char *file, int line);

static atomic_uint made, failed;
static atomic_long alive;
static atomic_uint fail_at; /* the allocation with this number; 0: none */

static _Thread_local bool in_check;

void __wrap__mark_point(const char *file, int line)
{
    in_check = true;
    __real__mark_point(file, line);
    in_check = false;
}

static bool refused(void)
{
    if (in_check || atomic_fetch_add(&made, 1) + 1 != atomic_load(&fail_at))
        return false;
    atomic_fetch_add(&failed, 1);
    return true;
}

static void *counted(void *block)
{
    if (block && !in_check)
        atomic_fetch_add(&alive, 1);
    return block;
}

void *__wrap_malloc(size_t size)
{
    return refused() ? NULL : counted(__real_malloc(size));
}

void *__wrap_calloc(size_t count, size_t size)
{
    return refused() ? NULL : counted(__real_calloc(count, size));
}

void *__wrap_realloc(void *block, size_t size)
{
    if (refused())
        return NULL;
    void *larger = __real_realloc(block, size);
    return block ? larger : counted(larger);
}

void __wrap_free(void *block)
{
    if (block && !in_check)
        atomic_fetch_sub(&alive, 1);
    __real_free(block);
}

unsigned allocations_made(void)
{
    return atomic_load(&made);
}

long allocations_alive(void)
{
    return atomic_load(&alive);
}

void allocations_fail(unsigned nth)
{
    atomic_store(&failed, 0);
    atomic_store(&fail_at, nth ? allocations_made() + nth : 0);
}

unsigned allocations_failed(void)
{
    return atomic_load(&failed);
}
