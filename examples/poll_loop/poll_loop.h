/* A loop around poll(2) that hosts aflock: what poll_loop.c offers to a program such as main.c.
 *
 * All functions belong to the thread that made the loop. Those that return int: 0, or a negative AFLOCK_E code.
 */
#ifndef POLL_LOOP_H
#define POLL_LOOP_H

#include <aflock/aflock.h>

struct poll_loop;

struct poll_loop *poll_loop_new(void); /* NULL: out of memory */

/* Timers that are pending do not fire. Contexts that are left get no turn any more; aflock_ctx_free ends them as usual.
 */
void poll_loop_free(struct poll_loop *loop);

/* A context whose callbacks run in this loop, one of any number. Ended by aflock_ctx_free. `options` NULL: defaults. */
int poll_loop_context(struct poll_loop *loop, const aflock_ctx_options *options, aflock_ctx **out);

/* Calls `fire` once, `delay` ns from now or later, from the loop; it may free contexts. Until then the loop runs. */
int poll_loop_timer(struct poll_loop *loop, uint64_t delay, void (*fire)(void *user), void *user);

/* Runs until nothing keeps the loop alive: no timer is pending, and no context has anything to wait for. */
int poll_loop_run(struct poll_loop *loop);

/* Waits at most `longest` ns (AFLOCK_FOREVER: until something happens) and does once what is to be done. */
int poll_loop_round(struct poll_loop *loop, uint64_t longest);

int poll_loop_alive(const struct poll_loop *loop); /* 1: something keeps it alive */

#endif
