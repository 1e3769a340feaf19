/* The socket on which HAProxy finds the agent. */
#ifndef AFLOCK_SPOA_LISTENER_H
#define AFLOCK_SPOA_LISTENER_H

#include "peer.h"

typedef struct listener {
    peers *peers;
    int fd;
    ev_io accepting;
    ev_timer pause;          /* when there are no descriptors left */
    const char *socket_path; /* to be removed in the end; or NULL */
    unsigned long count;     /* of connections */
} listener;

/* HOST:PORT with a numeric host, [HOST]:PORT, or the path of a socket, which has a '/'. NULL, or why it is none. */
const char *listener_check(const char *address);

/* `address`: one that listener_check takes. Port 0: any. Says on which it listens, or why it does not: false. */
bool listener_open(listener *l, peers *all, const char *address);

void listener_close(listener *l);

#endif
