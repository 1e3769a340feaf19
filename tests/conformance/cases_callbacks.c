/* What callbacks may do, and that they leave the loop its turn. */
#include "conformance.h"

#include <stdlib.h>
#include <unistd.h>

/* ---------------------------------------------------------------------------------------------------------- chains */

struct chain {
    answer *next; /* they take turns: one is delivered while the other is asked for */
    unsigned left;
    unsigned done;
};

static void release_and_ask_again(answer *a, aflock *lock)
{
    struct chain *chain = a->user;
    require_status(a->result.status, 0);
    require_status(rig_release(a->rig, lock, a->req, NULL), 0);
    chain->done++;
    if (chain->left == 0)
        return;
    chain->left--;
    answer *next = chain->next;
    chain->next = a;
    require_status(rig_acquire(a->rig, lock, NULL, next), 0);
}

static void run_chain(rig *r, aflock_io io)
{
    enum { LENGTH = 300 };
    struct chain chain = {.left = LENGTH};
    answer a = {.then = release_and_ask_again, .user = &chain}, b = a;
    chain.next = &b;
    require_status(rig_acquire(r, rig_open(r, "lock", io), NULL, &a), 0);
    rig_await(r, &chain.done, LENGTH + 1);
}

static void callbacks_acquire_and_release(rig *r)
{
    run_chain(r, AFLOCK_IO_INLINE);
    run_chain(r, AFLOCK_IO_AUTO);
    run_chain(r, AFLOCK_IO_POOL);
}

struct rounds {
    rig *rig;
    unsigned count;
    bool enough;
};

static void count_round(void *user)
{
    struct rounds *rounds = user;
    rounds->count++;
    if (!rounds->enough)
        rounds->rig->host->timer(rounds->rig->loop, 0, count_round, rounds);
}

/* Each request of the chain is granted at once, and still the loop has its turn. */
static void a_chain_without_end_leaves_the_loop_its_turn(rig *r)
{
    struct rounds rounds = {.rig = r};
    struct chain chain = {.left = UINT_MAX};
    answer a = {.then = release_and_ask_again, .user = &chain}, b = a;
    chain.next = &b;
    r->host->timer(r->loop, 0, count_round, &rounds);
    require_status(rig_acquire(r, rig_open(r, "lock", AFLOCK_IO_INLINE), NULL, &a), 0);
    rig_await(r, &chain.done, 100);
    rig_await(r, &rounds.count, rounds.count + 50);
    chain.left = 0;
    rounds.enough = true;
    rig_await(r, &r->answers, r->promised);
    rig_pass(r, MS); /* for the last round */
}

/* ------------------------------------------------------------------------------------------ at most so many a turn */

enum { CALLBACKS_PER_TURN = 64, CROWD = 640 };

struct turns {
    rig *rig;
    unsigned since; /* callbacks since the loop's last turn */
    unsigned most;
    unsigned rounds;
};

static void look_between_turns(void *user)
{
    struct turns *turns = user;
    turns->rounds++;
    turns->since = 0;
    if (turns->rig->answers < turns->rig->promised)
        turns->rig->host->timer(turns->rig->loop, 0, look_between_turns, turns);
}

static void count_in_turn(answer *a, aflock *lock)
{
    (void)lock;
    struct turns *turns = a->user;
    if (++turns->since > turns->most)
        turns->most = turns->since;
}

/* All are due at the same moment. */
static void at_most_64_callbacks_run_in_a_turn(rig *r)
{
    struct turns turns = {.rig = r};
    answer *answers = calloc(CROWD, sizeof *answers);
    aflock *lock = rig_open(r, "lock", AFLOCK_IO_INLINE);
    aflock_acquire_options o = rig_options(AFLOCK_FOREVER);
    o.mode = AFLOCK_SHARED;
    require(answers != NULL);
    for (unsigned i = 0; i < CROWD; i++) {
        answers[i].then = count_in_turn;
        answers[i].user = &turns;
        require_status(rig_acquire(r, lock, &o, &answers[i]), 0);
    }
    r->host->timer(r->loop, 0, look_between_turns, &turns);
    rig_await(r, &r->answers, CROWD);
    require(turns.most == CALLBACKS_PER_TURN);
    require(turns.rounds >= CROWD / CALLBACKS_PER_TURN - 1);
    for (unsigned i = 0; i < CROWD; i++)
        require_status(rig_release(r, lock, answers[i].req, NULL), 0);
    rig_pass(r, MS); /* for the last look */
    free(answers);
}

/* ------------------------------------------------------------------------------------------------------ everything */

static void release_and_close(answer *a, aflock *lock)
{
    require_status(rig_close(a->rig, lock), AFLOCK_EBUSY);
    require_status(rig_release(a->rig, lock, a->req, NULL), 0);
    require_status(rig_close(a->rig, lock), 0); /* its strings live until this callback returns */
    require(a->result.path[0] == '/');
}

static void callbacks_close_their_lock(rig *r)
{
    static const aflock_io IO[] = {AFLOCK_IO_INLINE, AFLOCK_IO_POOL, AFLOCK_IO_AUTO};
    for (int i = 0; i < 3; i++) {
        answer a = {.then = release_and_close};
        require_status(rig_acquire(r, rig_open(r, "lock", IO[i]), NULL, &a), 0);
        rig_await_status(r, &a, 0);
        rig_await_free(r, "lock");
    }
}

static void close_own(answer *a, aflock *lock)
{
    require_status(rig_close(a->rig, lock), 0);
}

/* The callback of a release, and of a request that failed: nothing of it is left. */
static void callbacks_of_the_end_close_their_lock(rig *r)
{
    answer a = {.count = 0}, released = {.then = close_own}, failed = {.then = close_own};
    int holder = rig_foreign(r, "taken");
    aflock *lock = rig_open(r, "lock", AFLOCK_IO_POOL), *taken = rig_open(r, "taken", AFLOCK_IO_AUTO);
    rig_hold(r, lock, NULL, &a);
    require_status(rig_release(r, lock, a.req, &released), 0);
    rig_await_status(r, &released, 0);
    aflock_acquire_options o = rig_options(MS);
    require_status(rig_acquire(r, taken, &o, &failed), 0);
    rig_await_status(r, &failed, AFLOCK_ETIMEDOUT);
    close(holder);
}

static void open_and_ask(answer *a, aflock *lock)
{
    answer *second = a->user;
    aflock *other = rig_open(a->rig, "other", AFLOCK_IO_AUTO);
    require_status(rig_acquire(a->rig, other, NULL, second), 0);
    require_status(rig_release(a->rig, lock, a->req, NULL), 0);
}

static void callbacks_open_locks(rig *r)
{
    answer second = {.then = release_and_close}, first = {.then = open_and_ask, .user = &second};
    require_status(rig_acquire(r, rig_open(r, "lock", AFLOCK_IO_AUTO), NULL, &first), 0);
    rig_await_status(r, &second, 0);
    rig_await_free(r, "other");
}

static void free_the_context(answer *a, aflock *lock)
{
    require_status(aflock_ctx_free(aflock_context(lock), 0), AFLOCK_EBUSY);
    require_status(aflock_ctx_abandon(aflock_context(lock)), AFLOCK_EINVAL);
    (void)a;
}

static void callbacks_cannot_free_their_context(rig *r)
{
    answer a = {.then = free_the_context}, b = {.then = free_the_context}, released = {.then = free_the_context};
    aflock *lock = rig_open(r, "lock", AFLOCK_IO_AUTO);
    rig_hold(r, lock, NULL, &a);
    require_status(rig_acquire(r, lock, NULL, &b), 0);
    require_status(rig_cancel(r, lock, b.req), 0);
    rig_await_status(r, &b, AFLOCK_ECANCELED);
    require_status(rig_release(r, lock, a.req, &released), 0);
    rig_await_status(r, &released, 0);
}

/* ---------------------------------------------------------------------------------------- two contexts on one loop */

struct two {
    aflock_ctx *ctx;
    aflock *lock;
    answer answer;
};

static void use_the_other(answer *a, aflock *lock)
{
    struct two *two = a->user;
    require_status(rig_acquire(a->rig, two->lock, NULL, &two->answer), 0);
    require_status(rig_release(a->rig, lock, a->req, NULL), 0);
}

static void callbacks_use_another_context(rig *r)
{
    struct two two = {.answer = {.count = 0}};
    answer a = {.then = use_the_other, .user = &two};
    require_status(rig_context(r, &two.ctx), 0);
    two.lock = rig_open_in(r, two.ctx, "lock", AFLOCK_IO_AUTO); /* the same path: they exclude each other */
    require_status(rig_acquire(r, rig_open(r, "lock", AFLOCK_IO_AUTO), NULL, &a), 0);
    rig_await_status(r, &a, 0);
    rig_await_status(r, &two.answer, 0);
    rig_let_go(r, two.lock, two.answer.req);
    require_status(rig_free_context(r, two.ctx, SEC), 0);
}

static void free_the_other(answer *a, aflock *lock)
{
    const struct two *two = a->user;
    require_status(rig_free_context(a->rig, two->ctx, SEC), 0);
    require(two->answer.count == 1);
    require_status(two->answer.result.status, AFLOCK_ECLOSED);
    require_status(rig_release(a->rig, lock, a->req, NULL), 0);
}

static void callbacks_free_another_context(rig *r)
{
    for (int first = 0; first < 2; first++) { /* the later one frees the earlier one, and the other way round */
        aflock_ctx *other;
        struct two two = {.answer = {.count = 0}};
        answer a = {.then = free_the_other, .user = &two};
        require_status(rig_context(r, &other), 0);
        two.ctx = first ? r->ctx : other;
        if (first)
            r->ctx = other;
        int holder = rig_foreign(r, "taken");
        two.lock = rig_open_in(r, two.ctx, "taken", AFLOCK_IO_AUTO);
        require_status(rig_acquire(r, two.lock, NULL, &two.answer), 0);
        require_status(rig_acquire(r, rig_open(r, "lock", AFLOCK_IO_AUTO), NULL, &a), 0);
        rig_await_status(r, &a, 0);
        rig_await_free(r, "lock");
        close(holder);
    }
}

const conformance_case cases_callbacks[] = {
    {"callbacks_acquire_and_release", callbacks_acquire_and_release, 0},
    {"a_chain_without_end_leaves_the_loop_its_turn", a_chain_without_end_leaves_the_loop_its_turn, 0},
    {"at_most_64_callbacks_run_in_a_turn", at_most_64_callbacks_run_in_a_turn, 0},
    {"callbacks_close_their_lock", callbacks_close_their_lock, 0},
    {"callbacks_of_the_end_close_their_lock", callbacks_of_the_end_close_their_lock, 0},
    {"callbacks_open_locks", callbacks_open_locks, 0},
    {"callbacks_cannot_free_their_context", callbacks_cannot_free_their_context, 0},
    {"callbacks_use_another_context", callbacks_use_another_context, HOST_SHARES},
    {"callbacks_free_another_context", callbacks_free_another_context, HOST_SHARES},
    {NULL, NULL, 0},
};
