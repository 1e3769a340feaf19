/* Deadlines, waiting, the loop's own turn, and what keeps a loop alive. No case looks at how late anything is, except
 * on a host that is exact. */
#include "conformance.h"

#include <fcntl.h>
#include <unistd.h>

enum { DEADLINES = 12 };

/* Deadlines of every size, set in a mixed order, behind a foreign holder who stays. */
static void ask_with_deadlines(rig *r, aflock *lock, answer answers[DEADLINES], uint64_t earliest[DEADLINES])
{
    static const uint64_t TIMEOUTS[DEADLINES] = {20 * MS, 1,      7 * MS,  3 * MS,   1 * MS, 13 * MS,
                                                 17 * MS, 9 * MS, 60 * US, 500 * US, 5 * MS, 11 * MS};
    for (int i = 0; i < DEADLINES; i++) {
        aflock_acquire_options o = rig_options(TIMEOUTS[i]);
        earliest[i] = rig_now(r) + TIMEOUTS[i];
        require_status(rig_acquire(r, lock, &o, &answers[i]), 0);
    }
    rig_await(r, &r->answers, r->promised);
    for (int i = 0; i < DEADLINES; i++) {
        require_status(answers[i].result.status, AFLOCK_ETIMEDOUT);
        require(answers[i].at >= earliest[i]);
        require(answers[i].result.waited >= TIMEOUTS[i]);
    }
}

static void deadlines_are_never_early(rig *r)
{
    static const aflock_io IO[] = {AFLOCK_IO_AUTO, AFLOCK_IO_INLINE, AFLOCK_IO_POOL};
    int holder = rig_foreign(r, "lock");
    for (int i = 0; i < 3; i++) {
        answer answers[DEADLINES] = {{.count = 0}};
        uint64_t earliest[DEADLINES];
        ask_with_deadlines(r, rig_open(r, "lock", IO[i]), answers, earliest);
    }
    close(holder);
}

static void timers_are_exact(rig *r)
{
    answer answers[DEADLINES] = {{.count = 0}};
    uint64_t earliest[DEADLINES];
    int holder = rig_foreign(r, "lock");
    ask_with_deadlines(r, rig_open(r, "lock", AFLOCK_IO_INLINE), answers, earliest);
    for (int i = 0; i < DEADLINES; i++)
        require(answers[i].at == earliest[i]);
    close(holder);
}

/* Behind a holder of the same context, where nothing but the deadlines makes the loop wake up. When exactly a request
 * was made is known up to the time that making it took. */
static void deadlines_come_in_order(rig *r)
{
    enum { COUNT = 5 };
    static const unsigned PLACES[COUNT] = {3, 0, 4, 1, 2};
    answer held = {.count = 0}, answers[COUNT] = {{.count = 0}};
    uint64_t earliest[COUNT], latest[COUNT];
    aflock *lock = rig_open(r, "lock", AFLOCK_IO_AUTO);
    rig_hold(r, lock, NULL, &held);
    for (int i = 0; i < COUNT; i++) {
        unsigned place = PLACES[i];
        aflock_acquire_options o = rig_options((place + 1) * 5 * MS);
        earliest[place] = rig_now(r) + o.timeout;
        require_status(rig_acquire(r, lock, &o, &answers[place]), 0);
        latest[place] = rig_now(r) + o.timeout;
    }
    rig_await(r, &r->answers, r->promised);
    for (int i = 1; i < COUNT; i++)
        require(answers[i].order > answers[i - 1].order || latest[i - 1] >= earliest[i]);
    rig_let_go(r, lock, held.req);
}

/* A nearer deadline replaces a farther one, and the farther is not forgotten when the nearer is cancelled. */
static void deadlines_replace_each_other(rig *r)
{
    answer held = {.count = 0}, far = {.count = 0}, near = {.count = 0}, gone = {.count = 0};
    aflock *lock = rig_open(r, "lock", AFLOCK_IO_AUTO);
    rig_hold(r, lock, NULL, &held);
    aflock_acquire_options o = rig_options(AFLOCK_FOREVER - 1);
    require_status(rig_acquire(r, lock, &o, &far), 0);
    o.timeout = 5 * MS;
    uint64_t begin = rig_now(r);
    require_status(rig_acquire(r, lock, &o, &near), 0);
    o.timeout = 1 * MS;
    require_status(rig_acquire(r, lock, &o, &gone), 0);
    require_status(rig_cancel(r, lock, gone.req), 0);
    rig_await_status(r, &gone, AFLOCK_ECANCELED);
    rig_await_status(r, &near, AFLOCK_ETIMEDOUT);
    require(near.at >= begin + 5 * MS);
    require(far.count == 0);
    rig_let_go(r, lock, held.req);
    rig_await_status(r, &far, 0);
    rig_let_go(r, lock, far.req);
}

static void a_timeout_of_zero_is_one_attempt(rig *r)
{
    answer a = {.count = 0};
    int holder = rig_foreign(r, "lock");
    aflock *lock = rig_open(r, "lock", AFLOCK_IO_AUTO);
    aflock_acquire_options o = rig_options(0);
    require_status(rig_acquire(r, lock, &o, &a), 0);
    rig_await_status(r, &a, AFLOCK_EWOULDBLOCK);
    require(a.result.attempts == 1);
    close(holder);
    rig_hold(r, lock, &o, &a);
    rig_let_go(r, lock, a.req);
}

static void end_holder(void *user)
{
    int *holder = user;
    close(*holder);
    *holder = -1;
}

static void a_waiter_gets_what_another_gives_up(rig *r)
{
    answer a = {.count = 0};
    int holder = rig_foreign(r, "lock");
    aflock *lock = rig_open(r, "lock", AFLOCK_IO_INLINE); /* the first attempt is over when the call returns */
    require_status(rig_acquire(r, lock, NULL, &a), 0);
    r->host->timer(r->loop, 10 * MS, end_holder, &holder);
    rig_await_status(r, &a, 0);
    require(holder == -1);
    require(a.result.attempts > 1);
    rig_let_go(r, lock, a.req);
}

/* A wait under way follows its new interval: with the old one it would not end. */
static void a_new_interval_is_followed_at_once(rig *r)
{
    answer a = {.count = 0};
    int holder = rig_foreign(r, "lock");
    aflock *lock = rig_open(r, "lock", AFLOCK_IO_AUTO);
    require_status(aflock_set_poll_interval(lock, 3600 * SEC), 0);
    require_status(rig_acquire(r, lock, NULL, &a), 0);
    rig_pass(r, 5 * MS);
    close(holder);
    require(a.count == 0);
    uint64_t begin = rig_now(r);
    require_status(aflock_set_poll_interval(lock, 1 * MS), 0);
    rig_await_status(r, &a, 0);
    require(a.at < begin + 3600 * SEC);
    rig_let_go(r, lock, a.req);
}

/* --------------------------------------------------------------------------------------- a loop that does not come */

/* Deadlines that passed meanwhile are late, in order; those that did not pass are not answered. */
static void a_blocked_loop_is_late_but_not_early(rig *r)
{
    answer held = {.count = 0}, first = {.count = 0}, second = {.count = 0}, later = {.count = 0};
    aflock *lock = rig_open(r, "lock", AFLOCK_IO_AUTO);
    rig_hold(r, lock, NULL, &held);
    uint64_t begin = rig_now(r);
    aflock_acquire_options o = rig_options(3 * MS);
    require_status(rig_acquire(r, lock, &o, &first), 0);
    o.timeout = 6 * MS;
    require_status(rig_acquire(r, lock, &o, &second), 0);
    o.timeout = 10000 * SEC;
    require_status(rig_acquire(r, lock, &o, &later), 0);
    r->host->block(r->loop, 20 * MS);
    rig_await_status(r, &second, AFLOCK_ETIMEDOUT);
    require(first.order < second.order && later.count == 0);
    require(first.at >= begin + 20 * MS);
    rig_let_go(r, lock, held.req);
    rig_await_status(r, &later, 0);
    rig_let_go(r, lock, later.req);
}

static void block_the_loop(answer *a, aflock *lock)
{
    (void)lock;
    a->rig->host->block(a->rig->loop, 10 * MS);
}

static void check_time(answer *a, aflock *lock)
{
    (void)lock;
    const uint64_t *earliest = a->user;
    require(a->at >= *earliest);
}

/* A request that is made at the end of a long callback has its full time. */
static void ask_and_note(answer *a, aflock *lock)
{
    answer *next = a->user;
    uint64_t *earliest = next->user;
    block_the_loop(a, lock);
    aflock_acquire_options o = rig_options(5 * MS);
    *earliest = rig_now(a->rig) + o.timeout;
    require_status(rig_acquire(a->rig, lock, &o, next), 0);
}

static void callbacks_that_block_make_nothing_early(rig *r)
{
    uint64_t earliest = 0;
    answer next = {.then = check_time, .user = &earliest};
    answer held = {.then = ask_and_note, .user = &next}, waits = {.then = block_the_loop};
    aflock *lock = rig_open(r, "lock", AFLOCK_IO_AUTO);
    require_status(rig_acquire(r, lock, NULL, &held), 0);
    aflock_acquire_options o = rig_options(4 * MS);
    uint64_t begin = rig_now(r);
    require_status(rig_acquire(r, lock, &o, &waits), 0);
    rig_await_status(r, &held, 0);
    rig_await_status(r, &waits, AFLOCK_ETIMEDOUT);
    require(waits.at >= begin + 4 * MS);
    rig_await_status(r, &next, AFLOCK_ETIMEDOUT);
    rig_let_go(r, lock, held.req);
}

/* ------------------------------------------------------------------------------------------------- the loop's turn */

static void the_loop_goes_on_while_requests_wait(rig *r)
{
    answer a = {.count = 0}, b = {.count = 0};
    obstacle wall = OBSTACLE;
    int holder = rig_foreign(r, "lock");
    aflock *lock = rig_open(r, "lock", AFLOCK_IO_AUTO), *slow = rig_open(r, "slow", AFLOCK_IO_POOL);
    require_status(rig_acquire(r, lock, NULL, &a), 0);
    aflock_acquire_options o = rig_options(AFLOCK_FOREVER);
    o.on_acquired = obstacle_meet;
    o.on_acquired_user = &wall;
    require_status(rig_acquire(r, slow, &o, &b), 0);
    obstacle_await(r, &wall, 1);
    unsigned before = r->ticks;
    rig_tick(r, MS);
    rig_await(r, &r->ticks, before + 20);
    rig_tick(r, 0);
    require(a.count == 0 && b.count == 0);
    obstacle_remove(&wall);
    rig_await_status(r, &b, 0);
    close(holder);
    rig_await_status(r, &a, 0);
    rig_let_go(r, lock, a.req);
    rig_let_go(r, slow, b.req);
}

/* ------------------------------------------------------------------------------------------------------ keep-alive */

static void an_idle_context_lets_the_loop_end(rig *r)
{
    answer a = {.count = 0};
    rig_run_out(r);
    aflock *lock = rig_open(r, "lock", AFLOCK_IO_AUTO);
    rig_run_out(r);
    rig_hold(r, lock, NULL, &a);
    rig_let_go(r, lock, a.req);
    rig_run_out(r);
    require_status(rig_close(r, lock), 0);
    rig_run_out(r);
}

static void a_hold_lets_the_loop_end(rig *r)
{
    answer a = {.count = 0};
    aflock *lock = rig_open(r, "lock", AFLOCK_IO_AUTO);
    rig_hold(r, lock, NULL, &a);
    rig_run_out(r);
    require(!rig_is_free(r, "lock"));
    rig_let_go(r, lock, a.req);
}

static void a_file_that_stays_open_lets_the_loop_end(rig *r)
{
    answer a = {.count = 0};
    aflock *lock = rig_open_kept(r, "lock", AFLOCK_IO_POOL);
    rig_hold(r, lock, NULL, &a);
    require_status(rig_release(r, lock, a.req, NULL), 0);
    rig_run_out(r);
    require(rig_is_free(r, "lock"));
    require(fcntl(a.result.fd, F_GETFD) >= 0);
    require_status(rig_close(r, lock), 0);
    rig_run_out(r);
    require(fcntl(a.result.fd, F_GETFD) < 0); /* that kept it alive */
}

/* Behind a holder of the same context, behind a foreign one, and on the way to its first attempt. */
static void a_waiting_request_keeps_the_loop_alive(rig *r)
{
    answer held = {.count = 0}, a = {.count = 0}, b = {.count = 0}, c = {.count = 0};
    int holder = rig_foreign(r, "foreign");
    aflock *lock = rig_open(r, "lock", AFLOCK_IO_AUTO), *foreign = rig_open(r, "foreign", AFLOCK_IO_AUTO);
    aflock *pool = rig_open(r, "pool", AFLOCK_IO_POOL);
    rig_hold(r, lock, NULL, &held);
    aflock_acquire_options o = rig_options(10 * MS);
    require_status(rig_acquire(r, lock, &o, &a), 0);
    rig_run_out(r);
    require(a.count == 1 && a.result.status == AFLOCK_ETIMEDOUT);
    require_status(rig_acquire(r, foreign, &o, &b), 0);
    rig_run_out(r);
    require(b.count == 1 && b.result.status == AFLOCK_ETIMEDOUT);
    require_status(rig_acquire(r, pool, NULL, &c), 0);
    rig_run_out(r);
    require(c.count == 1 && c.result.status == 0);
    close(holder);
}

static void an_answer_that_is_due_keeps_the_loop_alive(rig *r)
{
    answer a = {.count = 0}, b = {.count = 0};
    aflock *lock = rig_open(r, "lock", AFLOCK_IO_INLINE);
    require_status(rig_acquire(r, lock, NULL, &a), 0);
    require(!rig_is_free(r, "lock"));
    rig_run_out(r);
    require(a.count == 1);
    require_status(rig_acquire(r, lock, NULL, &b), 0);
    require_status(rig_cancel(r, lock, b.req), 0);
    rig_run_out(r);
    require(b.count == 1);
    rig_let_go(r, lock, a.req);
}

static void a_release_keeps_the_loop_alive(rig *r)
{
    answer a = {.count = 0}, released = {.count = 0};
    aflock *lock = rig_open(r, "lock", AFLOCK_IO_POOL);
    rig_hold(r, lock, NULL, &a);
    require_status(rig_release(r, lock, a.req, &released), 0);
    rig_run_out(r);
    require(released.count == 1 && released.result.status == 0);
    rig_hold(r, lock, NULL, &a);
    require_status(rig_release(r, lock, a.req, NULL), 0);
    rig_run_out(r); /* without a callback, too */
    require(rig_is_free(r, "lock"));
}

/* More than the callbacks of one turn, each of which asks for more. */
static void ask_again(answer *a, aflock *lock)
{
    unsigned *left = a->user;
    require_status(rig_release(a->rig, lock, a->req, NULL), 0);
    if (*left > 0)
        require_status(rig_acquire(a->rig, lock, NULL, a), 0);
    *left -= *left > 0;
}

static void every_answer_comes_before_the_loop_ends(rig *r)
{
    enum { CHAINS = 100, LENGTH = 5 };
    unsigned left = CHAINS * LENGTH;
    answer answers[CHAINS] = {{.count = 0}};
    aflock *lock = rig_open(r, "lock", AFLOCK_IO_INLINE);
    for (int i = 0; i < CHAINS; i++) {
        answers[i].then = ask_again;
        answers[i].user = &left;
        require_status(rig_acquire(r, lock, NULL, &answers[i]), 0);
    }
    rig_run_out(r);
    require(left == 0 && r->answers == CHAINS * (LENGTH + 1));
    require(rig_is_free(r, "lock"));
}

const conformance_case cases_time[] = {
    {"deadlines_are_never_early", deadlines_are_never_early, 0},
    {"timers_are_exact", timers_are_exact, HOST_IS_EXACT},
    {"deadlines_come_in_order", deadlines_come_in_order, 0},
    {"deadlines_replace_each_other", deadlines_replace_each_other, 0},
    {"a_timeout_of_zero_is_one_attempt", a_timeout_of_zero_is_one_attempt, 0},
    {"a_waiter_gets_what_another_gives_up", a_waiter_gets_what_another_gives_up, 0},
    {"a_new_interval_is_followed_at_once", a_new_interval_is_followed_at_once, 0},
    {"a_blocked_loop_is_late_but_not_early", a_blocked_loop_is_late_but_not_early, 0},
    {"callbacks_that_block_make_nothing_early", callbacks_that_block_make_nothing_early, 0},
    {"the_loop_goes_on_while_requests_wait", the_loop_goes_on_while_requests_wait, 0},
    {"an_idle_context_lets_the_loop_end", an_idle_context_lets_the_loop_end, HOST_ENDS},
    {"a_hold_lets_the_loop_end", a_hold_lets_the_loop_end, HOST_ENDS},
    {"a_file_that_stays_open_lets_the_loop_end", a_file_that_stays_open_lets_the_loop_end, HOST_ENDS},
    {"a_waiting_request_keeps_the_loop_alive", a_waiting_request_keeps_the_loop_alive, HOST_ENDS},
    {"an_answer_that_is_due_keeps_the_loop_alive", an_answer_that_is_due_keeps_the_loop_alive, HOST_ENDS},
    {"a_release_keeps_the_loop_alive", a_release_keeps_the_loop_alive, HOST_ENDS},
    {"every_answer_comes_before_the_loop_ends", every_answer_comes_before_the_loop_ends, HOST_ENDS},
    {NULL, NULL, 0},
};
