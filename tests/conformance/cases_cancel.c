/* Cancelling, in each state of a request; tokens, from everywhere. */
#include "conformance.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* What was cancelled with success says so, once, and leaves nothing locked. */
static void require_cancelled(rig *r, const answer *a)
{
    rig_await_status(r, a, AFLOCK_ECANCELED);
    rig_pass(r, 2 * MS);
    require(a->count == 1);
}

static void cancelled_before_the_first_turn(rig *r)
{
    static const aflock_io IO[] = {AFLOCK_IO_INLINE, AFLOCK_IO_POOL, AFLOCK_IO_AUTO};
    for (int i = 0; i < 3; i++) {
        answer a = {.count = 0};
        aflock *lock = rig_open(r, "lock", IO[i]);
        require_status(rig_acquire(r, lock, NULL, &a), 0); /* inline: it has the lock already */
        require_status(rig_cancel(r, lock, a.req), 0);
        require_status(rig_cancel(r, lock, a.req), 0); /* as it will say */
        require_cancelled(r, &a);
        rig_await_free(r, "lock");
    }
}

static void cancelled_in_the_queue(rig *r)
{
    answer held = {.count = 0}, queue[3] = {{.count = 0}};
    aflock *lock = rig_open(r, "lock", AFLOCK_IO_AUTO);
    rig_hold(r, lock, NULL, &held);
    for (int i = 0; i < 3; i++)
        require_status(rig_acquire(r, lock, NULL, &queue[i]), 0);
    require_status(rig_cancel(r, lock, queue[1].req), 0);
    require_cancelled(r, &queue[1]);
    require_status(rig_cancel(r, lock, queue[0].req), 0);
    require_cancelled(r, &queue[0]);
    rig_let_go(r, lock, held.req);
    rig_await_status(r, &queue[2], 0);
    rig_let_go(r, lock, queue[2].req);
}

static void cancelled_while_another_process_holds(rig *r)
{
    answer a = {.count = 0};
    int holder = rig_foreign(r, "lock");
    aflock *lock = rig_open(r, "lock", AFLOCK_IO_AUTO);
    require_status(rig_acquire(r, lock, NULL, &a), 0);
    rig_pass(r, 5 * MS);
    require(a.count == 0);
    require_status(rig_cancel(r, lock, a.req), 0);
    require_cancelled(r, &a);
    close(holder);
    rig_pass(r, 2 * MS);
    require(rig_is_free(r, "lock"));
}

/* The answer does not wait for the worker; what the worker wins is given back, or serves the next one. */
static void cancelled_while_a_worker_tries(rig *r)
{
    answer a = {.count = 0}, next = {.count = 0};
    obstacle wall = OBSTACLE;
    aflock *lock = rig_open(r, "lock", AFLOCK_IO_POOL);
    aflock_acquire_options o = rig_options(AFLOCK_FOREVER);
    o.on_acquired = obstacle_meet;
    o.on_acquired_user = &wall;
    require_status(rig_acquire(r, lock, &o, &a), 0);
    obstacle_await(r, &wall, 1);
    require_status(rig_cancel(r, lock, a.req), 0);
    require_cancelled(r, &a);
    require(!rig_is_free(r, "lock"));
    require_status(rig_acquire(r, lock, NULL, &next), 0);
    rig_pass(r, 2 * MS);
    require(next.count == 0);
    obstacle_remove(&wall);
    rig_await_status(r, &next, 0);
    rig_let_go(r, lock, next.req);
    require(rig_is_free(r, "lock"));
}

static void cancelled_too_late(rig *r)
{
    answer a = {.count = 0}, released = {.count = 0};
    aflock *lock = rig_open(r, "lock", AFLOCK_IO_POOL);
    require_status(rig_cancel(r, lock, (aflock_req){0}), AFLOCK_ESTALE);
    rig_hold(r, lock, NULL, &a);
    require_status(rig_cancel(r, lock, a.req), AFLOCK_EHELD);
    require_status(rig_release(r, lock, a.req, &released), 0);
    require(rig_cancel(r, lock, a.req) < 0); /* it is being released */
    rig_await_status(r, &released, 0);
    require_status(rig_cancel(r, lock, a.req), AFLOCK_ESTALE);
}

static void cancel_the_other(answer *a, aflock *lock)
{
    answer *other = a->user;
    if (other->count == 0)
        require_status(rig_cancel(a->rig, lock, other->req), 0);
}

/* Both are granted when the turn begins; whose callback comes first cancels the other. */
static void cancelled_by_the_callback_before(rig *r)
{
    answer a = {.then = cancel_the_other}, b = {.then = cancel_the_other};
    aflock *lock = rig_open(r, "lock", AFLOCK_IO_INLINE);
    aflock_acquire_options o = rig_options(AFLOCK_FOREVER);
    o.mode = AFLOCK_SHARED;
    a.user = &b;
    b.user = &a;
    require_status(rig_acquire(r, lock, &o, &a), 0);
    require_status(rig_acquire(r, lock, &o, &b), 0);
    rig_await_status(r, &a, 0);
    require_cancelled(r, &b);
    require(aflock_depth(lock, NULL) == 1);
    rig_let_go(r, lock, a.req);
    require(rig_is_free(r, "lock"));
}

static void cancel_own(answer *a, aflock *lock)
{
    require_status(rig_cancel(a->rig, lock, a->req), a->result.status == 0 ? AFLOCK_EHELD : AFLOCK_ESTALE);
}

static void cancelled_by_its_own_callback(rig *r)
{
    answer a = {.then = cancel_own}, b = {.then = cancel_own};
    aflock *lock = rig_open(r, "lock", AFLOCK_IO_AUTO);
    rig_hold(r, lock, NULL, &a);
    aflock_acquire_options o = rig_options(MS);
    require_status(rig_acquire(r, lock, &o, &b), 0);
    rig_await_status(r, &b, AFLOCK_ETIMEDOUT);
    rig_let_go(r, lock, a.req);
}

/* ---------------------------------------------------------------------------------------------------------- tokens */

static aflock_token *make_token(rig *r)
{
    aflock_token *token;
    require_status(aflock_token_new(&token, r->ctx), 0);
    return token;
}

/* Nothing but the token ends its wait: the interval is too long to help. */
static void ask_with_token(rig *r, aflock *lock, aflock_token *token, answer *a)
{
    aflock_acquire_options o = rig_options(AFLOCK_FOREVER);
    o.token = token;
    require_status(aflock_set_poll_interval(lock, 60 * SEC), 0);
    require_status(rig_acquire(r, lock, &o, a), 0);
}

static void a_token_cancels_all_its_requests(rig *r)
{
    enum { REQUESTS = 6 };
    answer held = {.count = 0}, answers[REQUESTS] = {{.count = 0}}, other = {.count = 0}, never = {.count = 0};
    int holder = rig_foreign(r, "foreign");
    aflock_token *token = make_token(r);
    aflock *locks[] = {rig_open(r, "lock", AFLOCK_IO_AUTO), rig_open(r, "foreign", AFLOCK_IO_POOL)};
    rig_hold(r, locks[0], NULL, &held);
    for (int i = 0; i < REQUESTS; i++)
        ask_with_token(r, locks[i % 2], token, &answers[i]);
    require_status(rig_acquire(r, locks[0], NULL, &other), 0);
    rig_pass(r, 2 * MS);
    require(!aflock_token_fired(token));
    aflock_token_fire(token);
    aflock_token_fire(token);
    require(aflock_token_fired(token));
    for (int i = 0; i < REQUESTS; i++)
        rig_await_status(r, &answers[i], AFLOCK_ECANCELED);
    aflock_acquire_options o = rig_options(AFLOCK_FOREVER);
    o.token = token;
    require_status(rig_acquire(r, locks[0], &o, &never), AFLOCK_ECANCELED);
    aflock_token_free(token);
    rig_let_go(r, locks[0], held.req);
    rig_await_status(r, &other, 0);
    rig_let_go(r, locks[0], other.req);
    close(holder);
}

static void pause_for(long nanoseconds)
{
    nanosleep(&(struct timespec){.tv_nsec = nanoseconds}, NULL);
}

static void *fire_later(void *token)
{
    pause_for(5 * 1000 * 1000);
    aflock_token_fire(token);
    return NULL;
}

/* The loop sleeps, and has to be woken up. */
static void a_token_is_fired_by_another_thread(rig *r)
{
    answer a = {.count = 0};
    pthread_t thread;
    int holder = rig_foreign(r, "lock");
    aflock *lock = rig_open(r, "lock", AFLOCK_IO_INLINE);
    aflock_token *token = make_token(r);
    ask_with_token(r, lock, token, &a);
    rig_pass(r, 2 * MS);
    require(pthread_create(&thread, NULL, fire_later, token) == 0);
    rig_await_status(r, &a, AFLOCK_ECANCELED);
    require(pthread_join(thread, NULL) == 0);
    aflock_token_free(token);
    close(holder);
}

static aflock_token *token_of_handler;

static void on_signal(int number)
{
    (void)number;
    aflock_token_fire(token_of_handler);
}

static void *interrupt_later(void *thread)
{
    pause_for(5 * 1000 * 1000);
    require(pthread_kill(*(const pthread_t *)thread, SIGUSR1) == 0);
    return NULL;
}

static void a_token_is_fired_by_a_signal_handler(rig *r)
{
    answer a = {.count = 0};
    pthread_t thread;
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART}, before;
    int holder = rig_foreign(r, "lock");
    aflock *lock = rig_open(r, "lock", AFLOCK_IO_INLINE);
    token_of_handler = make_token(r);
    require(sigaction(SIGUSR1, &action, &before) == 0);
    ask_with_token(r, lock, token_of_handler, &a);
    rig_pass(r, 2 * MS);
    require(pthread_create(&thread, NULL, interrupt_later, &r->thread) == 0);
    rig_await_status(r, &a, AFLOCK_ECANCELED);
    require(pthread_join(thread, NULL) == 0);
    require(sigaction(SIGUSR1, &before, NULL) == 0);
    aflock_token_free(token_of_handler);
    close(holder);
}

static void fire_the_token(answer *a, aflock *lock)
{
    (void)lock;
    aflock_token_fire(a->user);
}

/* All are granted when the turn begins. The flag is looked at before each answer. */
static void a_token_is_fired_by_a_callback(rig *r)
{
    enum { REQUESTS = 4 };
    aflock_token *token = make_token(r);
    answer first = {.then = fire_the_token, .user = token}, others[REQUESTS] = {{.count = 0}};
    aflock *lock = rig_open(r, "lock", AFLOCK_IO_INLINE);
    aflock_acquire_options o = rig_options(AFLOCK_FOREVER);
    o.mode = AFLOCK_SHARED;
    require_status(rig_acquire(r, lock, &o, &first), 0);
    o.token = token;
    for (int i = 0; i < REQUESTS; i++)
        require_status(rig_acquire(r, lock, &o, &others[i]), 0);
    rig_await_status(r, &first, 0);
    for (int i = 0; i < REQUESTS; i++)
        rig_await_status(r, &others[i], AFLOCK_ECANCELED);
    aflock_token_free(token);
    rig_let_go(r, lock, first.req);
}

static void a_token_outlives_its_context(rig *r)
{
    answer a = {.count = 0};
    aflock_token *token = make_token(r), *unused = make_token(r);
    int holder = rig_foreign(r, "lock");
    ask_with_token(r, rig_open(r, "lock", AFLOCK_IO_AUTO), token, &a);
    require_status(rig_free(r, SEC), 0);
    require(a.count == 1 && a.result.status == AFLOCK_ECLOSED);
    aflock_token_fire(token);
    require(aflock_token_fired(token) && !aflock_token_fired(unused));
    aflock_token_free(token);
    aflock_token_free(unused);
    close(holder);
}

/* -------------------------------- many tokens, fired from several threads while requests come, go and are answered */

enum { FIRING = 3, TOKENS = 64 };

struct volley {
    aflock_token *tokens[TOKENS];
    answer answers[TOKENS];
};

static void *fire_all(void *user)
{
    const struct volley *volley = user;
    for (int i = 0; i < TOKENS; i++) {
        aflock_token_fire(volley->tokens[i]);
        pause_for(10 * 1000);
    }
    return NULL;
}

static void release_or_nothing(answer *a, aflock *lock)
{
    if (a->result.status == 0)
        require_status(rig_release(a->rig, lock, a->req, NULL), 0);
    else
        require_status(a->result.status, AFLOCK_ECANCELED);
}

static void tokens_are_fired_by_several_threads(rig *r)
{
    pthread_t threads[FIRING];
    struct volley *volley = calloc(1, sizeof *volley);
    aflock *locks[] = {rig_open(r, "a", AFLOCK_IO_AUTO), rig_open(r, "b", AFLOCK_IO_POOL)};
    require(volley != NULL);
    for (int i = 0; i < TOKENS; i++) {
        aflock_acquire_options o = rig_options(AFLOCK_FOREVER);
        o.token = volley->tokens[i] = make_token(r);
        volley->answers[i].then = release_or_nothing;
        require_status(rig_acquire(r, locks[i % 2], &o, &volley->answers[i]), 0);
    }
    for (int i = 0; i < FIRING; i++)
        require(pthread_create(&threads[i], NULL, fire_all, volley) == 0);
    rig_await(r, &r->answers, r->promised);
    for (int i = 0; i < FIRING; i++)
        require(pthread_join(threads[i], NULL) == 0);
    for (int i = 0; i < TOKENS; i++) {
        require(volley->answers[i].count == 1);
        aflock_token_free(volley->tokens[i]);
    }
    free(volley);
}

const conformance_case cases_cancel[] = {
    {"cancelled_before_the_first_turn", cancelled_before_the_first_turn, 0},
    {"cancelled_in_the_queue", cancelled_in_the_queue, 0},
    {"cancelled_while_another_process_holds", cancelled_while_another_process_holds, 0},
    {"cancelled_while_a_worker_tries", cancelled_while_a_worker_tries, 0},
    {"cancelled_too_late", cancelled_too_late, 0},
    {"cancelled_by_the_callback_before", cancelled_by_the_callback_before, 0},
    {"cancelled_by_its_own_callback", cancelled_by_its_own_callback, 0},
    {"a_token_cancels_all_its_requests", a_token_cancels_all_its_requests, 0},
    {"a_token_is_fired_by_another_thread", a_token_is_fired_by_another_thread, 0},
    {"a_token_is_fired_by_a_signal_handler", a_token_is_fired_by_a_signal_handler, 0},
    {"a_token_is_fired_by_a_callback", a_token_is_fired_by_a_callback, 0},
    {"a_token_outlives_its_context", a_token_outlives_its_context, 0},
    {"tokens_are_fired_by_several_threads", tokens_are_fired_by_several_threads, 0},
    {NULL, NULL, 0},
};
