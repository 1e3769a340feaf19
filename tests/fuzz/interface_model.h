/* The model beside which interface.c drives the library: what each request may be answered, who may hold what, and what
 * has to be left when a context is gone. It knows the library from the outside: from the answers, and from what the
 * kernel says of the locked descriptors. Of the inside it looks only at which locks share a place.
 *
 * Everything happens on one thread: workers are jobs that run when the input says so.
 */
#ifndef FUZZ_INTERFACE_MODEL_H
#define FUZZ_INTERFACE_MODEL_H

#include "fuzz/fuzz.h"
#include "support/fake_host.h"

enum { WORLDS = 2, LOCKS = 12, REQUESTS = 48, QUESTIONS = 12, TOKENS = 8, FOREIGN = 4, HUNG = 6, OWN = 2 };

/* A context with its host. */
typedef struct world {
    fake_host host; /* host.ctx NULL: none */
    bool forked, ending, draining, drain_pending, answering;
    aflock_ctx_options options;
    long blocks;        /* that its allocator has given out */
    unsigned fail_in;   /* the allocation that fails; 0: none */
    bool out_of_memory; /* an allocation has failed */
} world;

typedef struct lock_slot {
    aflock *lock; /* NULL: none */
    world *world;
    aflock_options options;
    bool own; /* on a descriptor of the caller's */
} lock_slot;

typedef enum stage { UNUSED, PENDING, HELD, RELEASING, ENDED } stage;

typedef struct request {
    stage stage;
    world *world;
    aflock *lock;
    aflock_protocol protocol;
    aflock_req req;
    aflock_acquire_options options;
    bool cancelled; /* or its token fired: never acquired */
    bool let_go;    /* its release was asked for: it is told of nobody any more */
    bool told[AFLOCK_WANTED_ELSEWHERE + 1];
    uint64_t submitted; /* on the clock of its host */
    uint64_t dev, ino;  /* of the held file */
    int fd;
} request;

typedef struct question {
    bool pending;
    world *world;
    aflock *lock;
    aflock_req req; /* of aflock_verify and aflock_run */
    bool running;   /* a function that did not return yet, under a hold of this file */
    bool own;
    int fd;
    aflock_protocol protocol;
} question;

typedef struct token_slot {
    aflock_token *token; /* NULL: none; no slot is used twice */
    const aflock_ctx *ctx;
    bool fired, given_back;
} token_slot;

typedef struct hung_job {
    aflock_job *job; /* NULL: none */
    aflock_ctx *ctx;
} hung_job;

typedef struct model {
    fuzz_input in;
    world worlds[WORLDS];
    lock_slot locks[LOCKS];
    request requests[REQUESTS];
    question questions[QUESTIONS];
    token_slot tokens[TOKENS];
    hung_job hung[HUNG];  /* jobs that a worker has begun */
    int foreign[FOREIGN]; /* descriptors of somebody else's, or -1 */
    int own[WORLDS][OWN]; /* those that aflock_open_fd is given */
    unsigned calling;     /* calls into the library on the stack in which no callback may run */
    bool in_job;          /* a worker is running */
    bool lazy;            /* a lock polls so seldom that it may never hear of anything */
} model;

extern model the_model;

static inline unsigned below(unsigned count)
{
    return fuzz_below(&the_model.in, count);
}

/* The callbacks; `user` is the request, the question, the world. What they do besides is `act_in_callback`. */
void on_answer(aflock *lock, const aflock_result *result, void *user);
void on_wanted(aflock *lock, aflock_req req, aflock_wanted who, void *user);
void on_verified(aflock *lock, const aflock_result *result, void *user);
void on_inspected(aflock *lock, const aflock_holder *holder, void *user);
int on_worker(int fd, void *user); /* the function of aflock_run, */
void on_ran(aflock *lock, const aflock_result *result, int value, void *user);
void on_drained(aflock_ctx *ctx, void *user);
void act_in_callback(world *w);

bool is_status(int status); /* 0, or an error of the table */
bool has_state(const aflock *lock, stage wanted);
bool is_active(const aflock *lock);    /* a request waits or holds, or a question is open: it cannot be closed */
bool is_releasing(const aflock *lock); /* a release of it will be answered */
bool owes_answers(const world *w);     /* callbacks that have to come */
bool is_fired(const aflock_token *token);
lock_slot *slot_of(const aflock *lock);
request *free_request(void); /* NULL: none */

/* A request got the lock: may it? And does the kernel agree? */
void became_holder(request *r, int fd);
bool kernel_holds(int fd, aflock_protocol protocol);

/* The context has gone: nothing of it may be left. */
void world_gone(world *w, bool abandoned);

#endif
