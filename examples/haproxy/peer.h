/* Connections of HAProxy: bytes in, frames through spop.h, orders to the tickets, acknowledgements out.
 *
 * Everything is bounded. A connection has room for one frame of the agreed size; one whose peer does not read what it
 * is sent is not read from until he does. A peer that does not finish what it has begun (HELLO, a frame, taking an
 * answer) within `patience` is refused, one that is idle for `idle` is sent away; one that is gone without a word is
 * found by the kernel (keep-alive).
 *
 * When a connection ends, what still waits is cancelled, and so is what was granted and has not left yet. What was
 * answered goes on.
 */
#ifndef AFLOCK_SPOA_PEER_H
#define AFLOCK_SPOA_PEER_H

#include "tickets.h"

#include <ev.h>

typedef struct peer peer;

typedef struct peers {
    struct ev_loop *loop;
    tickets *tickets;
    ev_tstamp patience, idle; /* s */
    unsigned most, count;
    bool is_draining; /* answers no health checks any more */
    peer *first;
} peers;

/* Takes over the descriptor of a new connection. `name` is for the log. */
void peer_accept(peers *all, int fd, const char *name);

/* Tells all of them the status, as far as they can take it at once, and closes them. */
void peers_close(peers *all, spop_status status);

#endif
