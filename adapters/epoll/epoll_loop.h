/* The inside of the epoll adapter: epoll.c runs the loop, callers.c has the caller's own watches and timers. */
#ifndef AFLOCK_EPOLL_LOOP_H
#define AFLOCK_EPOLL_LOOP_H

#include "../common/internal.h"

#include <aflock/epoll.h>
#include <aflock/kit.h>

#include <stdatomic.h>

/* What a descriptor of the loop is marked with; a caller's: its number and, above it, the generation of its watch. */
#define AFL_MARK_KIT UINT64_MAX
#define AFL_MARK_ALARM (UINT64_MAX - 1)

struct afl_caller_watch {
    void (*ready)(aflock_ctx *ctx, int fd, unsigned events, void *user);
    void *user;
    unsigned events;     /* 0: not watched */
    uint32_t generation; /* counts removals: what was ready before one is not reported after it */
};

struct afl_caller_timer {
    uint64_t deadline;
    void (*fire)(aflock_ctx *ctx, void *user);
    void *user;
    struct afl_caller_timer *prev;
    struct afl_caller_timer *next;
};

struct afl_epoll {
    aflock_ctx *ctx;
    aflock_kit *kit;
    const aflock_loop *loop; /* the kit's table */
    int epoll;               /* what the caller added, and the kit's descriptor, */
    int complete;            /* ... once somebody needs both */
    int wanted;              /* the library keeps the loop alive */
    int deferred;            /* the library wants a turn */
    int inside;              /* run, run_once or process is on the stack */
    int closed;              /* ... while a callback of the caller's freed the context */
    atomic_int stop;

    struct afl_caller_watch *watches; /* by descriptor */
    size_t watches_size;
    struct afl_caller_timer *first_timer; /* in the order of deadlines */
    struct afl_caller_timer *last_timer;
    struct afl_alarm alarm; /* for the first one; made with the first timer */
};

/* Finds what belongs to ctx. AFLOCK_EBUSY inside a callback of the library's, with *out set: some may go on. */
int afl_epoll_find(aflock_ctx *ctx, struct afl_epoll **out);

/* Adds the kit's descriptor, unless it is there. */
int afl_epoll_complete(struct afl_epoll *epoll);

/* Calls the caller's functions for one event. The context may be gone (`closed`) after each call. */
int afl_callers_report(struct afl_epoll *epoll, const struct epoll_event *event);

void afl_callers_free(struct afl_epoll *epoll);

#endif
