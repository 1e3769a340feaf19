/* Requests from beginning to end: exactly one answer, on a fresh stack; order, modes, owners; wherever attempts run. */
#include "conformance.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const aflock_io ALL_IO[] = {AFLOCK_IO_AUTO, AFLOCK_IO_INLINE, AFLOCK_IO_POOL};
enum { IO_COUNT = sizeof ALL_IO / sizeof *ALL_IO };

static void acquired_and_released(rig *r)
{
    answer a;
    memset(&a, 0, sizeof a);
    aflock *lock = rig_open(r, "lock", AFLOCK_IO_AUTO);
    rig_hold(r, lock, NULL, &a);
    require(fcntl(a.result.fd, F_GETFD) >= 0);
    require(a.result.mode == AFLOCK_EXCLUSIVE);
    require(strcmp(a.result.path, aflock_path(lock)) == 0);
    require(!rig_is_free(r, "lock"));
    rig_let_go(r, lock, a.req);
    require(rig_is_free(r, "lock"));
    require_status(rig_close(r, lock), 0);
}

/* The first creates the file, the second finds it, the third is handed the lock. */
static void acquired_wherever_attempts_run(rig *r)
{
    static const char *const NAMES[] = {"auto", "inline", "pool"};
    for (int i = 0; i < IO_COUNT; i++) {
        answer a = {.count = 0}, b = {.count = 0};
        aflock *lock = rig_open(r, NAMES[i], ALL_IO[i]);
        rig_hold(r, lock, NULL, &a);
        rig_let_go(r, lock, a.req);
        rig_hold(r, lock, NULL, &a);
        require_status(rig_acquire(r, lock, NULL, &b), 0);
        require(!rig_is_free(r, NAMES[i]));
        rig_let_go(r, lock, a.req);
        rig_await_status(r, &b, 0);
        rig_let_go(r, lock, b.req);
        require(rig_is_free(r, NAMES[i]));
    }
}

static void a_try_is_answered_at_once(rig *r)
{
    aflock_req req;
    aflock_result result;
    answer a = {.count = 0};
    aflock *lock = rig_open(r, "lock", AFLOCK_IO_INLINE);
    require_status(aflock_try(lock, NULL, &req, &result), 0);
    require_status(rig_acquire(r, lock, NULL, &a), 0);
    require_status(aflock_try(lock, NULL, &req, NULL), AFLOCK_EWOULDBLOCK);
    rig_let_go(r, lock, result.req);
    rig_await_status(r, &a, 0);
    rig_let_go(r, lock, a.req);
    aflock *pool = rig_open(r, "other", AFLOCK_IO_POOL);
    require_status(aflock_try(pool, NULL, &req, NULL), AFLOCK_ENOTINLINE);
}

/* If it were closed in between, its number would be another one's. */
static void a_file_stays_open_from_hold_to_hold(rig *r)
{
    static const char *const NAMES[] = {"auto", "inline", "pool"};
    for (int i = 0; i < IO_COUNT; i++) {
        answer a = {.count = 0};
        aflock *lock = rig_open_kept(r, NAMES[i], ALL_IO[i]);
        rig_hold(r, lock, NULL, &a);
        int fd = a.result.fd;
        rig_let_go(r, lock, a.req);
        require(rig_is_free(r, NAMES[i]));
        int other = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 0);
        require(other >= 0 && other != fd);
        for (int turn = 0; turn < 3; turn++) {
            rig_hold(r, lock, NULL, &a);
            require(a.result.fd == fd && !rig_is_free(r, NAMES[i]));
            rig_let_go(r, lock, a.req);
            require(rig_is_free(r, NAMES[i]));
        }
        close(other);
        require_status(rig_close(r, lock), 0);
    }
}

/* What can be answered at once is answered later all the same. rig_answered looks at the stack. */
static void callbacks_have_a_fresh_stack(rig *r)
{
    answer a = {.count = 0}, b = {.count = 0}, c = {.count = 0}, d = {.count = 0};
    aflock_token *token;
    aflock *lock = rig_open(r, "lock", AFLOCK_IO_INLINE);
    require_status(rig_acquire(r, lock, NULL, &a), 0);
    require(a.count == 0 && !rig_is_free(r, "lock"));
    rig_await_status(r, &a, 0);
    require_status(rig_acquire(r, lock, NULL, &b), 0);
    require_status(rig_cancel(r, lock, b.req), 0);
    require(b.count == 0);
    require_status(aflock_token_new(&token, r->ctx), 0);
    aflock_acquire_options o = rig_options(AFLOCK_FOREVER);
    o.token = token;
    require_status(rig_acquire(r, lock, &o, &c), 0);
    aflock_token_fire(token);
    aflock_token_free(token);
    require(c.count == 0);
    require_status(rig_release(r, lock, a.req, &d), 0);
    require(d.count == 0);
    rig_await_status(r, &b, AFLOCK_ECANCELED);
    rig_await_status(r, &c, AFLOCK_ECANCELED);
    rig_await_status(r, &d, 0);
    rig_await_free(r, "lock");
}

static void refused_requests_are_never_answered(rig *r)
{
    answer a = {.count = 0}, never = {.count = 0};
    aflock_token *token;
    int owner;
    aflock *lock = rig_open(r, "lock", AFLOCK_IO_AUTO);
    aflock_acquire_options o = rig_options(AFLOCK_FOREVER);
    o.owner = &owner;
    rig_hold(r, lock, &o, &a);
    o.mode = AFLOCK_SHARED;
    require_status(rig_acquire(r, lock, &o, &never), AFLOCK_EDEADLK);
    o = rig_options(0);
    require_status(rig_acquire(r, lock, &o, &never), AFLOCK_EWOULDBLOCK);
    o.size = 0;
    require_status(rig_acquire(r, lock, &o, &never), AFLOCK_EINVAL);
    require_status(aflock_token_new(&token, r->ctx), 0);
    aflock_token_fire(token);
    o = rig_options(AFLOCK_FOREVER);
    o.token = token;
    require_status(rig_acquire(r, lock, &o, &never), AFLOCK_ECANCELED);
    aflock_token_free(token);
    require_status(rig_release(r, lock, (aflock_req){0}, &never), AFLOCK_ESTALE);
    rig_let_go(r, lock, a.req);
    require_status(rig_release(r, lock, a.req, &never), AFLOCK_ESTALE);
    rig_pass(r, 5 * MS);
    require(never.count == 0);
}

/* ------------------------------------------------------------------------------------------------- order and modes */

enum { QUEUE = 20 };

static void release_own(answer *a, aflock *lock)
{
    if (a->result.status == 0)
        require_status(rig_release(a->rig, lock, a->req, NULL), 0);
}

static void the_lock_is_handed_on_in_order(rig *r)
{
    for (int io = 0; io < IO_COUNT; io++) {
        answer first = {.count = 0}, queue[QUEUE] = {{.count = 0}};
        aflock *lock = rig_open(r, "lock", ALL_IO[io]);
        rig_hold(r, lock, NULL, &first);
        for (int i = 0; i < QUEUE; i++) {
            queue[i].then = release_own;
            require_status(rig_acquire(r, lock, NULL, &queue[i]), 0);
        }
        rig_let_go(r, lock, first.req);
        rig_await_status(r, &queue[QUEUE - 1], 0);
        for (int i = 0; i < QUEUE; i++) {
            require(queue[i].count == 1 && queue[i].result.status == 0);
            require(i == 0 || queue[i].order > queue[i - 1].order);
        }
        rig_await_free(r, "lock");
    }
}

/* Readers share; a writer that waits stops later readers. */
static void readers_share_and_writers_do_not(rig *r)
{
    answer readers[3] = {{.count = 0}}, writer = {.count = 0}, late = {.count = 0};
    aflock *lock = rig_open(r, "lock", AFLOCK_IO_AUTO);
    aflock_acquire_options shared = rig_options(AFLOCK_FOREVER);
    shared.mode = AFLOCK_SHARED;
    for (int i = 0; i < 3; i++)
        require_status(rig_acquire(r, lock, &shared, &readers[i]), 0);
    require_status(rig_acquire(r, lock, NULL, &writer), 0);
    require_status(rig_acquire(r, lock, &shared, &late), 0);
    rig_await_status(r, &readers[2], 0);
    require(readers[0].count == 1 && readers[1].count == 1);
    require(aflock_depth(lock, NULL) == 3);
    for (int i = 0; i < 3; i++) {
        require(writer.count == 0 && late.count == 0);
        rig_let_go(r, lock, readers[i].req);
    }
    rig_await_status(r, &writer, 0);
    rig_pass(r, 2 * MS);
    require(late.count == 0);
    rig_let_go(r, lock, writer.req);
    rig_await_status(r, &late, 0);
    rig_let_go(r, lock, late.req);
}

static void owners_are_re_entrant(rig *r)
{
    answer a = {.count = 0}, b = {.count = 0}, other = {.count = 0};
    int owner;
    aflock *lock = rig_open(r, "lock", AFLOCK_IO_AUTO);
    aflock *same = rig_open(r, "lock", AFLOCK_IO_AUTO);
    aflock_acquire_options o = rig_options(AFLOCK_FOREVER);
    o.owner = &owner;
    rig_hold(r, lock, &o, &a);
    require_status(rig_acquire(r, same, NULL, &other), 0);
    rig_hold(r, same, &o, &b); /* past the other, who waits */
    require(aflock_depth(lock, &owner) == 2);
    rig_let_go(r, lock, a.req);
    require(aflock_depth(lock, &owner) == 1 && other.count == 0);
    rig_let_go(r, same, b.req);
    rig_await_status(r, &other, 0);
    require(aflock_depth(lock, &owner) == 0);
    rig_let_go(r, same, other.req);
}

/* Each waits for what the other has: the second is refused, nobody hangs. */
static void owners_do_not_wait_for_each_other(rig *r)
{
    answer a = {.count = 0}, b = {.count = 0}, waits = {.count = 0}, never = {.count = 0};
    int one, two;
    aflock *first = rig_open(r, "first", AFLOCK_IO_AUTO), *second = rig_open(r, "second", AFLOCK_IO_POOL);
    aflock_acquire_options o = rig_options(AFLOCK_FOREVER);
    o.owner = &one;
    rig_hold(r, first, &o, &a);
    o.owner = &two;
    rig_hold(r, second, &o, &b);
    require_status(rig_acquire(r, first, &o, &waits), 0);
    o.owner = &one;
    require_status(rig_acquire(r, second, &o, &never), AFLOCK_EDEADLK);
    rig_let_go(r, first, a.req);
    rig_await_status(r, &waits, 0);
    rig_let_go(r, first, waits.req);
    rig_let_go(r, second, b.req);
}

static void all_holds_of_an_owner_end_together(rig *r)
{
    answer a[3] = {{.count = 0}}, released = {.rig = r};
    int owner;
    aflock *lock = rig_open(r, "lock", AFLOCK_IO_POOL);
    aflock_acquire_options o = rig_options(AFLOCK_FOREVER);
    o.owner = &owner;
    for (int i = 0; i < 3; i++)
        rig_hold(r, lock, &o, &a[i]);
    r->calls++;
    require_status(aflock_release_all(lock, a[0].req, rig_answered, &released), 0);
    r->calls--;
    r->promised++;
    require(aflock_depth(lock, &owner) == 0);
    rig_await_status(r, &released, 0);
    require(rig_is_free(r, "lock"));
    require_status(rig_release(r, lock, a[2].req, NULL), AFLOCK_ESTALE);
}

/* ------------------------------------------------------------------------------------------------------- questions */

/* One file system whose calls hang does not stop what else is to be done, releases least of all. */
static void a_worker_that_hangs_stops_nobody_else(rig *r)
{
    answer held = {.count = 0}, hangs = {.count = 0}, other = {.count = 0};
    obstacle wall = OBSTACLE;
    aflock *lock = rig_open(r, "lock", AFLOCK_IO_POOL), *slow = rig_open(r, "slow", AFLOCK_IO_POOL);
    rig_hold(r, lock, NULL, &held);
    aflock_acquire_options o = rig_options(AFLOCK_FOREVER);
    o.on_acquired = obstacle_meet;
    o.on_acquired_user = &wall;
    require_status(rig_acquire(r, slow, &o, &hangs), 0);
    obstacle_await(r, &wall, 1);
    rig_let_go(r, lock, held.req);
    rig_hold(r, rig_open(r, "other", AFLOCK_IO_POOL), NULL, &other);
    require(hangs.count == 0);
    obstacle_remove(&wall);
    rig_await_status(r, &hangs, 0);
}

struct holder {
    rig *rig;
    unsigned count;
    int status, held;
};

static void on_inspected(aflock *lock, const aflock_holder *holder, void *user)
{
    (void)lock;
    struct holder *h = user;
    require(h->rig->calls == 0 && h->rig->callbacks == 0);
    h->count++;
    h->status = holder->status;
    h->held = holder->held;
}

static void questions_are_answered_from_a_turn(rig *r)
{
    answer a = {.count = 0}, verified = {.rig = r};
    struct holder holder = {.rig = r};
    aflock *lock = rig_open(r, "lock", AFLOCK_IO_AUTO);
    rig_hold(r, lock, NULL, &a);
    r->calls++;
    require_status(aflock_verify(lock, a.req, rig_answered, &verified), 0);
    require_status(aflock_inspect(lock, on_inspected, &holder), 0);
    r->calls--;
    r->promised++;
    rig_await_status(r, &verified, 0);
    rig_await(r, &holder.count, 1);
    require_status(holder.status, 0);
    require(holder.held == 1);
    rig_let_go(r, lock, a.req);
}

/* ---------------------------------------------------------------------------------------------------------- crowds */

static answer *make_answers(unsigned count)
{
    answer *answers = calloc(count, sizeof *answers);
    require(answers != NULL);
    return answers;
}

static void release_and_count(answer *a, aflock *lock)
{
    unsigned *inside = a->user;
    require_status(a->result.status, 0);
    require(++*inside == 1); /* nobody else holds it */
    require_status(rig_release(a->rig, lock, a->req, NULL), 0);
    --*inside;
}

static void ten_thousand_requests_for_one_path(rig *r)
{
    unsigned inside = 0, count = r->many;
    answer first = {.count = 0}, *answers = make_answers(count);
    aflock *lock = rig_open(r, "lock", AFLOCK_IO_AUTO);
    rig_hold(r, lock, NULL, &first);
    for (unsigned i = 0; i < count; i++) {
        answers[i].then = release_and_count;
        answers[i].user = &inside;
        require_status(rig_acquire(r, lock, NULL, &answers[i]), 0);
    }
    rig_let_go(r, lock, first.req);
    rig_await(r, &r->answers, r->promised);
    for (unsigned i = 0; i < count; i++)
        require(answers[i].count == 1 && answers[i].order == answers[0].order + i);
    free(answers);
    rig_await_free(r, "lock");
}

enum { PATHS = 64 };

/* Of three requests, one is cancelled, one may run out of time, one waits. */
static void ask_one_of_many(rig *r, aflock *const locks[PATHS], answer *answers, unsigned i)
{
    aflock_acquire_options o = rig_options(i % 3 == 1 ? (i % 7) * MS + 1 : AFLOCK_FOREVER);
    answers[i].then = release_own;
    require_status(rig_acquire(r, locks[i % PATHS], &o, &answers[i]), 0);
    if (i % 3 == 2)
        require_status(rig_cancel(r, locks[i % PATHS], answers[i].req), 0);
}

static void check_one_of_many(const answer *a, unsigned i)
{
    require(a->count == 1);
    if (i % 3 == 2)
        require_status(a->result.status, AFLOCK_ECANCELED);
    else if (i % 3 == 0 || a->result.status != AFLOCK_ETIMEDOUT)
        require_status(a->result.status, 0);
}

static void ten_thousand_requests_for_many_paths(rig *r)
{
    unsigned count = r->many;
    answer *answers = make_answers(count);
    aflock *locks[PATHS];
    for (int i = 0; i < PATHS; i++) {
        char name[16] = {'p', (char)('0' + i / 10), (char)('0' + i % 10)};
        locks[i] = rig_open(r, name, ALL_IO[i % IO_COUNT]);
    }
    for (unsigned i = 0; i < count; i++)
        ask_one_of_many(r, locks, answers, i);
    rig_await(r, &r->answers, r->promised);
    for (unsigned i = 0; i < count; i++)
        check_one_of_many(&answers[i], i);
    free(answers);
}

/* What a function of the caller saw, and what was said about it. */
typedef struct errand {
    rig *rig;
    pthread_t thread;
    unsigned count;
    int fd, value, status;
} errand;

static int run_errand(int fd, void *user)
{
    errand *e = user;
    e->thread = pthread_self();
    e->fd = fd;
    return write(fd, "x", 1) == 1 ? 42 : -1;
}

static void errand_ran(aflock *lock, const aflock_result *result, int value, void *user)
{
    errand *e = user;
    require(e->rig->calls == 0 && pthread_equal(pthread_self(), e->rig->thread));
    require(strcmp(result->path, aflock_path(lock)) == 0);
    e->value = value;
    e->status = result->status;
    e->count++;
}

/* On a worker, and the release that is asked for meanwhile comes after it. */
static void a_function_runs_while_it_is_held(rig *r)
{
    static const char *const NAMES[] = {"auto", "inline", "pool"};
    for (int i = 0; i < IO_COUNT; i++) {
        answer a = {.count = 0}, released = {.count = 0};
        errand e = {.rig = r, .thread = r->thread};
        aflock *lock = rig_open(r, NAMES[i], ALL_IO[i]);
        rig_hold(r, lock, NULL, &a);
        r->calls++;
        int status = aflock_run(lock, a.req, run_errand, errand_ran, &e);
        r->calls--;
        require_status(status, 0);
        require_status(rig_release(r, lock, a.req, &released), 0);
        rig_await_status(r, &released, 0);
        require(e.count == 1 && e.value == 42 && e.fd == a.result.fd);
        require_status(e.status, 0);
        require(!pthread_equal(e.thread, r->thread) && rig_is_free(r, NAMES[i]));
        require_status(rig_close(r, lock), 0);
    }
}

const conformance_case cases_requests[] = {
    {"acquired_and_released", acquired_and_released, 0},
    {"acquired_wherever_attempts_run", acquired_wherever_attempts_run, 0},
    {"a_file_stays_open_from_hold_to_hold", a_file_stays_open_from_hold_to_hold, 0},
    {"a_try_is_answered_at_once", a_try_is_answered_at_once, 0},
    {"callbacks_have_a_fresh_stack", callbacks_have_a_fresh_stack, 0},
    {"refused_requests_are_never_answered", refused_requests_are_never_answered, 0},
    {"the_lock_is_handed_on_in_order", the_lock_is_handed_on_in_order, 0},
    {"readers_share_and_writers_do_not", readers_share_and_writers_do_not, 0},
    {"owners_are_re_entrant", owners_are_re_entrant, 0},
    {"owners_do_not_wait_for_each_other", owners_do_not_wait_for_each_other, 0},
    {"all_holds_of_an_owner_end_together", all_holds_of_an_owner_end_together, 0},
    {"questions_are_answered_from_a_turn", questions_are_answered_from_a_turn, 0},
    {"a_worker_that_hangs_stops_nobody_else", a_worker_that_hangs_stops_nobody_else, 0},
    {"ten_thousand_requests_for_one_path", ten_thousand_requests_for_one_path, 0},
    {"ten_thousand_requests_for_many_paths", ten_thousand_requests_for_many_paths, 0},
    {"a_function_runs_while_it_is_held", a_function_runs_while_it_is_held, 0},
    {NULL, NULL, 0},
};
