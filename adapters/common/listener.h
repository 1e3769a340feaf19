/* The notifier of the kit: inotify. Internal to the kit. */
#ifndef AFLOCK_COMMON_LISTENER_H
#define AFLOCK_COMMON_LISTENER_H

#include "internal.h"

enum { AFL_INODE_BUCKETS = 64 };

struct afl_inode;

/* An inotify instance, made when it is needed for the first time. */
struct afl_listener {
    aflock_notifier notifier;                    /* what the library calls */
    int fd;                                      /* -1: there is none yet */
    int epoll;                                   /* in which it is watched, with the listener's address */
    struct afl_inode *inodes[AFL_INODE_BUCKETS]; /* by watch descriptor */
    struct afl_inode *changed;                   /* while it is being reported, */
    struct afl_listening *cursor;                /* and to whom next */
    int dispatching;                             /* set by the kit: watches end in afl_listener_tidy, */
    struct afl_inode *unused;                    /* these, if nobody listens again until then */
};

void afl_listener_init(struct afl_listener *listener, int epoll);

/* Reports what has changed, each file once. To be called when the descriptor is readable; never blocks. */
void afl_listener_report(struct afl_listener *listener, aflock_ctx *ctx);

/* The end of a dispatch: ends the watches that nobody has a use for. Never in a child: they are the parent's. */
void afl_listener_tidy(struct afl_listener *listener);

/* Frees it. Whatever was listened to is forgotten. */
void afl_listener_close(struct afl_listener *listener, int forked);

#endif
