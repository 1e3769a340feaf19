/* The heap, seen through the linker's --wrap: allocations fail by chance while a simulated process runs, and those that
 * are not given back are counted. */
#include "sim_trace.h"
#include "sim_world.h"

#include <stdlib.h>

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *block, size_t size);
void __real_free(void *block);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *block, size_t size);
void __wrap_free(void *block);

static long blocks;

static bool fails(void)
{
    if (!sim_running || sim_current()->dead || !sim_chance(sim_weather_now.memory))
        return false;
    sim_count.memory++;
    sim_note("no memory", 0, 0, NULL);
    return true;
}

static void *counted(void *block)
{
    blocks += block != NULL;
    return block;
}

void *__wrap_malloc(size_t size)
{
    return fails() ? NULL : counted(__real_malloc(size));
}

void *__wrap_calloc(size_t count, size_t size)
{
    return fails() ? NULL : counted(__real_calloc(count, size));
}

void *__wrap_realloc(void *block, size_t size)
{
    if (!block)
        return __wrap_malloc(size);
    return fails() ? NULL : __real_realloc(block, size);
}

void __wrap_free(void *block)
{
    blocks -= block != NULL;
    __real_free(block);
}

long sim_heap_blocks(void)
{
    return blocks;
}
