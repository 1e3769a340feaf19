/* Who has asked for which lock, by the id that came with the question: waiting, held, or ended a moment ago.
 *
 * A ticket begins with a message `lock`. It waits as long as the connection of that message lives; once it is granted
 * it belongs to its id alone, and ends by `unlock` from wherever, when its hold has lasted as long as it may, or when
 * the library loses the lock (leases). If `lock` asked for it, a grant has to be confirmed soon, or it ends: that is
 * how a grant ends whose answer nobody waits for any more.
 *
 * An id that ended otherwise than by `unlock`, and one that was unlocked before it was asked for, is remembered for a
 * minute, so that who comes late is told what happened, and does not get what was given up already.
 */
#ifndef AFLOCK_SPOA_TICKETS_H
#define AFLOCK_SPOA_TICKETS_H

#include "order.h"

#include <aflock/aflock.h>

struct ev_loop;

typedef struct tickets tickets;
typedef struct ticket ticket;

typedef struct tickets_options {
    const char *directory;
    aflock_options lock;               /* of each lock */
    uint64_t timeout, hold, most_hold; /* ms: where a message does not say; no hold is longer than most_hold */
    unsigned max_waiting, max_holds;   /* a `lock` beyond is answered TICKET_BUSY */
} tickets_options;

typedef enum ticket_status { TICKET_GRANTED, TICKET_TIMEOUT, TICKET_BUSY, TICKET_ERROR } ticket_status;

typedef struct ticket_answer {
    ticket_status status;
    const char *reason; /* of TICKET_BUSY and TICKET_ERROR, else NULL; lives until the callback returns */
    uint64_t waited;    /* ms */
} ticket_answer;

typedef void (*ticket_callback)(void *user, const ticket_answer *answer);

/* `options` are copied, but for the text. `loop` and `ctx` stay the caller's. AFLOCK_E... */
int tickets_new(tickets **out, struct ev_loop *loop, aflock_ctx *ctx, const tickets_options *options);

/* Does what an order of the kind ORDER_LOCK says. True: `callback` will be called once, from a turn of the loop, unless
 * ticket_abandon comes before; *handle is the ticket, and set to NULL when it ends. False: *answer says it at once. */
bool tickets_lock(tickets *t, const order *o, ticket **handle, ticket_callback callback, void *user,
                  ticket_answer *answer);

/* What became of it: "held", or why it is not: "expired", "lost", "unknown". */
const char *tickets_confirm(tickets *t, wire_bytes id);

/* "released", or "cancelled" if it waited, or why there was nothing to do: "expired", "lost", "unknown". */
const char *tickets_unlock(tickets *t, wire_bytes id);

/* The answer has left: the ticket is its id's alone from here on. */
void ticket_delivered(ticket *k);

/* The answer will never leave: gives up what it waits for or holds. */
void ticket_abandon(ticket *k);

/* Those who wait are answered TICKET_ERROR, and so is everybody who comes now; what is held goes on. `callback` runs
 * once when nothing waits or holds any more, perhaps within this call. */
void tickets_drain(tickets *t, void (*callback)(void *user), void *user);

unsigned tickets_held(const tickets *t);
unsigned tickets_waiting(const tickets *t);

/* Gives everything up, with no further callback, and frees `ctx` and itself. The number of locks that could not be
 * given up. NULL: nothing. */
int tickets_free(tickets *t);

#endif
