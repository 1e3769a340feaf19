/* The event queue is a binary heap; fibers switch with setjmp and longjmp, which unlike swapcontext make no system
 * call. A context of ucontext.h is only used to get onto a new stack. */
#if defined(_FORTIFY_SOURCE)
#undef _FORTIFY_SOURCE /* its longjmp does not allow to change stacks */
#endif
#include "sim_clock.h"
#include "sim_trace.h"

#include <setjmp.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#if defined(__SANITIZE_ADDRESS__)
#define WITH_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define WITH_ASAN 1
#endif
#endif
#ifdef WITH_ASAN
#include <sanitizer/common_interface_defs.h>
#define STACK_SIZE ((size_t)512 * 1024)
#else
#define STACK_SIZE ((size_t)96 * 1024)
#endif

enum { EVENTS = 4096, PAGE = 4096 };

uint64_t sim_now;

/* ------------------------------------------------------------------------------------------------------- chance */

static uint64_t state;

void sim_random_start(uint64_t seed)
{
    state = seed * UINT64_C(0xD1342543DE82EF95) + 1;
}

uint64_t sim_random(void)
{
    uint64_t z = state += UINT64_C(0x9E3779B97F4A7C15); /* splitmix64 */
    z = (z ^ z >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ z >> 27) * UINT64_C(0x94D049BB133111EB);
    return z ^ z >> 31;
}

uint64_t sim_below(uint64_t count)
{
    return count ? sim_random() % count : 0;
}

uint64_t sim_between(uint64_t least, uint64_t most)
{
    return least + sim_below(most - least + 1);
}

uint64_t sim_magnitude(uint64_t least, uint64_t most)
{
    unsigned doublings = 0;
    while (least << doublings < most)
        doublings++;
    uint64_t top = least << sim_below(doublings + 1);
    uint64_t value = sim_between(top / 2, top);
    return value < least ? least : value > most ? most : value;
}

bool sim_chance(unsigned per_million)
{
    return per_million && sim_below(1000000) < per_million;
}

/* ------------------------------------------------------------------------------------------------------- events */

static sim_event *queue[EVENTS + 1]; /* from 1 */
static size_t queued;

static bool before(const sim_event *a, const sim_event *b)
{
    return a->at != b->at ? a->at < b->at : a->order < b->order;
}

static void put(sim_event *event, size_t slot)
{
    queue[slot] = event;
    event->slot = slot;
}

/* Moves the event from `slot` to where it belongs. */
static void sift(sim_event *event, size_t slot)
{
    while (slot > 1 && before(event, queue[slot / 2])) {
        put(queue[slot / 2], slot);
        slot /= 2;
    }
    for (size_t child; (child = slot * 2) <= queued; slot = child) {
        if (child < queued && before(queue[child + 1], queue[child]))
            child++;
        if (!before(queue[child], event))
            break;
        put(queue[child], slot);
    }
    put(event, slot);
}

void sim_clock_start(void)
{
    queued = 0;
    sim_now = 0;
}

void sim_schedule(sim_event *event, uint64_t at)
{
    if (!event->slot) {
        sim_require(queued < EVENTS, "fewer than %d events at one time", EVENTS);
        event->slot = ++queued;
    }
    event->at = at < sim_now ? sim_now : at;
    event->order = sim_random();
    sift(event, event->slot);
}

void sim_unschedule(sim_event *event)
{
    size_t slot = event->slot;
    if (!slot)
        return;
    event->slot = 0;
    sim_event *last = queue[queued--];
    if (last != event)
        sift(last, slot);
}

bool sim_step(void)
{
    if (!queued)
        return false;
    sim_event *event = queue[1];
    sim_unschedule(event);
    sim_now = event->at;
    event->run(event);
    return true;
}

/* ------------------------------------------------------------------------------------------------------- fibers */

/* A stack serves one fiber after the other; the fiber lives at its upper end. */
typedef struct sim_stack {
    jmp_buf here;
    sim_fiber fiber;
    ucontext_t first;
    char *memory;
    bool entered, ended;
    void *fake; /* the sanitizer's */
    struct sim_stack *next;
} sim_stack;

sim_fiber *sim_running;
static jmp_buf outside;
static sim_stack *unused;
static size_t alive;

#ifdef WITH_ASAN
static const void *outer_bottom;
static size_t outer_size;
static void *outer_fake;
#endif

/* From the fiber to whoever resumed it. */
static void switch_out(sim_stack *s)
{
#ifdef WITH_ASAN
    __sanitizer_start_switch_fiber(&s->fake, outer_bottom, outer_size);
#else
    (void)s;
#endif
    if (_setjmp(s->here) == 0)
        _longjmp(outside, 1);
#ifdef WITH_ASAN
    __sanitizer_finish_switch_fiber(s->fake, &outer_bottom, &outer_size);
#endif
}

/* Serves fibers for ever: a new one takes over where the last one ended. */
static void serve(void)
{
    sim_stack *s = sim_running->stack;
#ifdef WITH_ASAN
    __sanitizer_finish_switch_fiber(s->fake, &outer_bottom, &outer_size);
#endif
    for (;;) {
        s->fiber.body(&s->fiber);
        s->ended = true;
        switch_out(s);
    }
}

static sim_stack *stack_new(void)
{
    size_t size = STACK_SIZE + sizeof(sim_stack);
    char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    sim_require(memory != MAP_FAILED, "memory for a stack");
    mprotect(memory, PAGE, PROT_NONE);
    sim_stack *s = (sim_stack *)(void *)(memory + STACK_SIZE);
    s->memory = memory;
    getcontext(&s->first);
    s->first.uc_stack.ss_sp = memory + PAGE;
    s->first.uc_stack.ss_size = STACK_SIZE - PAGE;
    s->first.uc_link = NULL;
    makecontext(&s->first, serve, 0);
    return s;
}

static void wake_up(sim_event *event)
{
    sim_fiber *fiber = SIM_CONTAINER(sim_fiber, wake, event);
    if (fiber->not_before && *fiber->not_before > sim_now)
        sim_schedule(event, *fiber->not_before + sim_below(100 * SIM_US));
    else
        sim_resume(fiber);
}

sim_fiber *sim_fiber_new(void (*body)(sim_fiber *), void *owner, void *argument, const uint64_t *not_before)
{
    sim_stack *s = unused;
    if (s)
        unused = s->next;
    else
        s = stack_new();
    s->ended = false;
    s->fiber = (sim_fiber){
        .body = body, .owner = owner, .argument = argument, .not_before = not_before, .wake.run = wake_up, .stack = s};
    alive++;
    return &s->fiber;
}

void sim_wake(sim_fiber *fiber, uint64_t at)
{
    if (!fiber->wake.slot || at < fiber->wake.at)
        sim_schedule(&fiber->wake, at);
}

void sim_sleep_until(uint64_t at)
{
    sim_fiber *me = sim_running;
    if (at != SIM_NEVER)
        sim_schedule(&me->wake, at);
    switch_out(me->stack);
}

/* To the fiber; back when it switches out. */
static void switch_in(sim_stack *s)
{
#ifdef WITH_ASAN
    __sanitizer_start_switch_fiber(&outer_fake, s->memory + PAGE, STACK_SIZE - PAGE);
#endif
    if (_setjmp(outside) == 0) {
        if (s->entered)
            _longjmp(s->here, 1);
        s->entered = true;
        setcontext(&s->first);
    }
#ifdef WITH_ASAN
    __sanitizer_finish_switch_fiber(outer_fake, NULL, NULL);
#endif
}

void sim_resume(sim_fiber *fiber)
{
    sim_stack *s = fiber->stack;
    sim_unschedule(&fiber->wake);
    sim_running = fiber;
    switch_in(s);
    sim_running = NULL;
    if (!s->ended)
        return;
    sim_unschedule(&s->fiber.wake);
    s->next = unused;
    unused = s;
    alive--;
}

size_t sim_fiber_count(void)
{
    return alive;
}

void sim_fibers_free(void)
{
    while (unused) {
        sim_stack *s = unused;
        unused = s->next;
        munmap(s->memory, STACK_SIZE + sizeof *s);
    }
}
