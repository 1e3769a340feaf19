/* A program that uses the library, through its public functions only: it opens locks, asks, cancels, holds, releases,
 * questions, closes and ends by chance, and checks every answer against what was promised. */
#ifndef SIM_ACTOR_H
#define SIM_ACTOR_H

#include "sim_oracle.h"

enum { SIM_LOCKS = 5, SIM_REQUESTS = 16, SIM_TOKENS = 3, SIM_OWNERS = 3 };

typedef struct sim_actor sim_actor;

typedef struct sim_lock {
    aflock *lock; /* NULL: not open */
    sim_target *target;
    const char *path;
    int fd; /* the actor's own, locked in place; or -1 */
    uint64_t poll;
} sim_lock;

typedef struct sim_token {
    aflock_token *token;
    unsigned users; /* threads that are about to fire it */
} sim_token;

typedef enum sim_request_state { SIM_UNUSED, SIM_WAITING, SIM_HOLDING, SIM_RELEASING, SIM_ASKING } sim_request_state;

/* A request from the acquire until the release is answered; or a question about a lock. */
typedef struct sim_request {
    sim_actor *actor;
    sim_request_state state;
    sim_lock *lock;
    aflock_req req;
    aflock_mode mode;
    void *owner;
    sim_token *token;
    uint64_t asked, timeout; /* on the host's clock */
    uint64_t asked_at;       /* virtual time */
    uint64_t release_at;     /* virtual time */
    uint64_t order;          /* of asking, in this context */
    bool once, cancelled;
    bool odd;     /* may be refused: asked with flags that do not suit the path, or on_acquired refuses */
    bool settled; /* asked when everything had calmed down, or nothing fails at all: only good answers */
    sim_hold hold;
    bool let_go; /* its release was asked for: it is told of nobody any more */
    bool told[AFLOCK_WANTED_ELSEWHERE + 1];
    const struct sim_request *about; /* of a question: the hold that it is about, ... */
    uint64_t about_order;            /* ... as long as it is this one */
} sim_request;

struct sim_actor {
    sim_process *process;
    sim_lock locks[SIM_LOCKS];
    sim_request requests[SIM_REQUESTS];
    sim_token tokens[SIM_TOKENS];
    char owners[SIM_OWNERS];
    uint64_t asked;          /* requests so far */
    unsigned actions;        /* left in the chaos */
    unsigned calm_actions;   /* left in the calm */
    uint64_t gap_most;       /* between two actions */
    int left[SIM_LOCKS * 8]; /* descriptors of its own that a thread may still be using */
    unsigned left_count;
    unsigned width;
    bool notifier;
    bool wants_end, drain_asked, drained;
};

/* sim_request.c: asking, and what is answered. */
void sim_ask(sim_actor *a, sim_lock *l);                            /* acquire */
void sim_try(sim_actor *a, sim_lock *l);                            /* aflock_try */
void sim_cancel(sim_request *r);                                    /* aflock_cancel */
void sim_release(sim_request *r);                                   /* by chance with an answer, or all of its owner */
void sim_question(sim_actor *a, sim_lock *l);                       /* verify or inspect */
void sim_check_turn(sim_process *p, uint64_t began);                /* who should have been answered by now? */
void sim_requests_end(sim_actor *a, bool freed);                    /* the context is gone: nobody is left waiting */
sim_request *sim_request_in(sim_actor *a, sim_request_state state); /* one of them; NULL: none */
unsigned sim_requests_open(const sim_actor *a);

/* sim_actor.c */
void sim_actor_live(sim_process *p);
void sim_actor_in_callback(sim_actor *a); /* what a callback does beside */

/* sim_foreign.c: programs without the library. */
sim_process *sim_foreign_start(sim_host *host, sim_target *target, uint64_t at);

#endif
