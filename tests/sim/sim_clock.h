/* Virtual time, chance, and fibers: what makes a simulated run a function of its seed.
 *
 * There is one thread. Everything that is to happen is an event in one queue, ordered by virtual time and, at the same
 * time, by lot. A fiber is a piece of code with a stack of its own that can sleep; while it sleeps, others run.
 * One simulation at a time: the state is the program's.
 */
#ifndef SIM_CLOCK_H
#define SIM_CLOCK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SIM_US UINT64_C(1000)
#define SIM_MS UINT64_C(1000000)
#define SIM_SECOND UINT64_C(1000000000)
#define SIM_NEVER UINT64_MAX

#define SIM_CONTAINER(type, member, pointer) ((type *)(void *)((char *)(pointer)-offsetof(type, member)))

extern uint64_t sim_now; /* virtual ns */

/* ------------------------------------------------------------------------------------------------------- chance */

void sim_random_start(uint64_t seed);
uint64_t sim_random(void);
uint64_t sim_below(uint64_t count);                    /* 0 .. count - 1 */
uint64_t sim_between(uint64_t least, uint64_t most);   /* all alike */
uint64_t sim_magnitude(uint64_t least, uint64_t most); /* small ones as likely as large ones; least > 0 */
bool sim_chance(unsigned per_million);

/* ------------------------------------------------------------------------------------------------------- events */

/* Embedded in what it belongs to. */
typedef struct sim_event {
    uint64_t at;
    uint64_t order; /* by lot, among those of one time */
    size_t slot;    /* in the queue, from 1; 0: not in it */
    void (*run)(struct sim_event *event);
} sim_event;

void sim_clock_start(void);
void sim_schedule(sim_event *event, uint64_t at); /* or moves it */
void sim_unschedule(sim_event *event);
bool sim_step(void); /* runs the next event; false: there is none */

/* ------------------------------------------------------------------------------------------------------- fibers */

typedef struct sim_fiber sim_fiber;
struct sim_fiber {
    sim_event wake;
    void (*body)(sim_fiber *fiber);
    void *owner;                /* whoever made it */
    void *argument;             /* of the body */
    const uint64_t *not_before; /* it does not run before this time */
    sim_fiber *next, *prev;     /* the owner's list */
    struct sim_stack *stack;
};

extern sim_fiber *sim_running; /* NULL: nobody, events are handled */

/* Makes a fiber that sleeps until it is woken; it is gone when `body` returns. */
sim_fiber *sim_fiber_new(void (*body)(sim_fiber *), void *owner, void *argument, const uint64_t *not_before);
void sim_wake(sim_fiber *fiber, uint64_t at); /* at the latest then */
void sim_sleep_until(uint64_t at);            /* the running fiber; may be woken earlier */
void sim_resume(sim_fiber *fiber);            /* now, from outside of fibers; back when it sleeps or ends */
size_t sim_fiber_count(void);                 /* alive */
void sim_fibers_free(void);                   /* gives back the memory of those that ended */

#endif
