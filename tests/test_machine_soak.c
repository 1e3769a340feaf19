/* The machine in large worlds, at random: 10 requests whose attributes change on 3 paths. What small worlds can do is
 * visited completely by test_machine_walk.
 *
 * Each step lists the moves that are possible now, takes one, lets the machine decide, and relies on the driver's
 * checks (driver_check). At the end everybody leaves, the file system does as it is told, and nothing may be left.
 */
#include "support/machine_driver.h"

#include <stdlib.h>

/* A number below n. */
static unsigned choose(uint64_t *random, unsigned n)
{
    *random ^= *random << 13; /* xorshift */
    *random ^= *random >> 7;
    *random ^= *random << 17;
    return (unsigned)(*random >> 33) % n;
}

/* ----------------------------------------------------------------------------------------------------------- moves */

typedef enum move_kind {
    MOVE_SUBMIT,
    MOVE_CANCEL,
    MOVE_RELEASE,
    MOVE_RELEASE_ANSWERED,
    MOVE_FINISH, /* an operation, with the outcome `variant` */
    MOVE_TIMER,  /* to the next time that was asked for */
    MOVE_PASS,   /* some time */
    MOVE_HINT,
    MOVE_LOST,
    MOVE_REPOLL,
    MOVE_DELIVER,
    MOVE_MERGE
} move_kind;

typedef struct move {
    move_kind kind;
    size_t index; /* of a request or path */
    unsigned variant;
} move;

enum { MOVES = 512, OUTCOMES = 8 };

typedef struct world {
    driver d;
    uint64_t random;
    uint64_t digest;
} world;

static char owners[3];

/* What an operation in flight can come to; returns how many. */
static unsigned outcomes(const driver_path *dp, afl_outcome *o)
{
    const afl_path *p = &dp->path;
    unsigned n = 0;
    bool exclusive = p->tried_mode == EXCLUSIVE;
    switch ((afl_op)p->op) {
    case AFL_OP_TRY:
        o[n] = WON;
        o[n++].have = dp->tried_need;
        o[n++] = KEPT;
        o[n++] = FAILED(AFL_GRIP_NONE);
        if (exclusive)
            o[n++] = PENDING;
        o[n++] = CONTENDED;
        break;
    case AFL_OP_ADOPT:
        o[n++] = WON;
        o[n++] = STALE;
        o[n++] = FAILED(AFL_GRIP_HELD);
        if (p->convert)
            o[n++] = KEPT;
        break;
    case AFL_OP_WITHDRAW:
    case AFL_OP_RELEASE:
        o[n++] = DONE;
        o[n++] = FAILED((afl_grip)p->grip);
        break;
    default:
        if (p->grip == AFL_GRIP_HELD) {
            o[n++] = REFRESHED;
            o[n++] = NOT_REFRESHED;
            o[n++] = FAILED(AFL_GRIP_HELD);
            break;
        }
        o[n++] = BEATEN;
        o[n++] = FAILED(AFL_GRIP_NONE);
        o[n++] = FAILED(AFL_GRIP_PENDING);
    }
    return n;
}

static bool can_merge(const world *w, size_t i)
{
    const afl_path *into = &w->d.paths[0].path, *from = &w->d.paths[i].path;
    return i > 0 && from->head && from->grip == AFL_GRIP_NONE && (from->op == AFL_OP_NONE || from->op == AFL_OP_TRY) &&
           into->op != AFL_OP_ADOPT && w->d.machine.undelivered == 0;
}

static size_t request_moves(const world *w, size_t i, move *moves)
{
    const afl_request *r = &w->d.requests[i].request;
    size_t n = 0;
    switch ((afl_state)r->state) {
    case AFL_IDLE:
        moves[n++] = (move){MOVE_SUBMIT, i, 0};
        break;
    case AFL_HELD:
        moves[n++] = (move){MOVE_RELEASE, i, 0};
        moves[n++] = (move){MOVE_RELEASE_ANSWERED, i, 0};
        break;
    case AFL_WAITING:
    case AFL_FAILING:
    case AFL_GRANTED:
        moves[n++] = (move){MOVE_CANCEL, i, 0};
        break;
    default:
        break;
    }
    return n;
}

static size_t path_moves(const world *w, size_t i, move *moves)
{
    const afl_path *p = &w->d.paths[i].path;
    afl_outcome o[OUTCOMES];
    size_t n = 0;
    for (unsigned k = p->op == AFL_OP_NONE ? 0 : outcomes(&w->d.paths[i], o); k > 0; k--)
        moves[n++] = (move){MOVE_FINISH, i, k - 1};
    if (p->head)
        moves[n++] = (move){MOVE_HINT, i, 0};
    if (p->watching)
        moves[n++] = (move){MOVE_LOST, i, 0};
    if (p->head)
        moves[n++] = (move){MOVE_REPOLL, i, 0};
    if (can_merge(w, i))
        moves[n++] = (move){MOVE_MERGE, i, 0};
    return n;
}

static size_t possible_moves(const world *w, move *moves)
{
    size_t n = 0;
    for (size_t i = 0; i < w->d.request_count; i++)
        n += request_moves(w, i, moves + n);
    for (size_t i = 0; i < w->d.path_count; i++)
        n += path_moves(w, i, moves + n);
    if (afl_machine_deadline(&w->d.machine) != AFLOCK_FOREVER)
        moves[n++] = (move){MOVE_TIMER, 0, 0};
    if (w->d.machine.undelivered)
        moves[n++] = (move){MOVE_DELIVER, 0, 0};
    moves[n++] = (move){MOVE_PASS, 0, 0};
    return n;
}

/* ------------------------------------------------------------------------------------------------------ one step */

static void choose_attributes(world *w, afl_request *r)
{
    static const uint64_t TIMEOUTS[] = {AFLOCK_FOREVER, AFLOCK_FOREVER, 0, 30 * US, 3 * MS, 120 * MS};
    unsigned owner = choose(&w->random, 6);
    r->owner = owner < 3 ? &owners[owner] : NULL;
    r->mode = (uint8_t)choose(&w->random, 2);
    r->timeout = TIMEOUTS[choose(&w->random, 6)];
    r->once = choose(&w->random, 5) == 0;
    r->adopt = choose(&w->random, 4) == 0;
    r->need = choose(&w->random, 4) ? 0 : choose(&w->random, 4);
    r->spelling = choose(&w->random, 8) == 0;
}

static void submit(world *w, afl_request *r)
{
    driver *d = &w->d;
    choose_attributes(w, r);
    driver_request *dr = (driver_request *)(void *)r;
    afl_path *p = &d->paths[choose(&w->random, (unsigned)d->path_count)].path;
    int status = afl_machine_submit(&d->machine, p, r, d->now);
    must(status == 0 || (status == AFLOCK_EWOULDBLOCK && r->once) ||
         ((status == AFLOCK_EDEADLK || (status == AFLOCK_ECOMPROMISED && r->path->lost)) && r->owner));
    dr->owed = status == 0;
    dr->cancelled = false;
}

/* After `expire` nobody waits beyond its deadline. */
static void expire(world *w)
{
    driver *d = &w->d;
    afl_machine_expire(&d->machine, d->now);
    for (size_t i = 0; i < d->request_count; i++) {
        const afl_request *r = &d->requests[i].request;
        if (r->state == AFL_WAITING || r->state == AFL_FAILING)
            must(r->timeout == AFLOCK_FOREVER || d->now - r->submitted < r->timeout);
    }
    uint64_t next = afl_machine_deadline(&d->machine);
    must(next > d->now);
}

static void make_move(world *w, move m)
{
    static const uint64_t TIMES[] = {0, 1, 20 * US, 250 * US, 2 * MS, 11 * MS, 60 * MS};
    driver *d = &w->d;
    afl_request *r = &d->requests[m.index].request;
    afl_path *p = &d->paths[m.kind < MOVE_FINISH ? 0 : m.index].path;
    afl_outcome o[OUTCOMES];
    switch (m.kind) {
    case MOVE_SUBMIT:
        submit(w, r);
        break;
    case MOVE_CANCEL:
        driver_cancel(d, r, 0);
        break;
    case MOVE_RELEASE:
    case MOVE_RELEASE_ANSWERED:
        driver_release(d, r, m.kind == MOVE_RELEASE_ANSWERED);
        break;
    case MOVE_FINISH:
        outcomes(&d->paths[m.index], o);
        driver_done(d, p, o[m.variant]);
        break;
    case MOVE_TIMER:
        d->now = afl_machine_deadline(&d->machine);
        expire(w);
        break;
    case MOVE_PASS:
        d->now += TIMES[choose(&w->random, sizeof TIMES / sizeof TIMES[0])];
        expire(w);
        break;
    case MOVE_HINT:
    case MOVE_LOST:
        afl_machine_hint(&d->machine, p, m.kind == MOVE_LOST, d->now);
        break;
    case MOVE_REPOLL:
        d->poll = (1 + choose(&w->random, 60)) * MS;
        afl_machine_repoll(&d->machine, p, d->now);
        break;
    case MOVE_DELIVER:
        driver_collect_answers(d);
        break;
    case MOVE_MERGE:
        afl_machine_merge(&d->machine, &d->paths[0].path, p, d->now);
        break;
    }
}

static void digest(world *w)
{
    for (const char *c = w->d.text; *c; c++)
        w->digest = (w->digest ^ (uint64_t)(unsigned char)*c) * UINT64_C(0x100000001b3);
    driver_clear(&w->d);
}

static void step(world *w)
{
    move moves[MOVES];
    size_t n = possible_moves(w, moves);
    must(n <= MOVES);
    make_move(w, moves[choose(&w->random, (unsigned)n)]);
    driver_collect_actions(&w->d);
    driver_check(&w->d);
    digest(w);
}

/* Everybody leaves. */
static void leave(world *w)
{
    driver *d = &w->d;
    for (size_t i = 0; i < d->request_count; i++) {
        afl_request *r = &d->requests[i].request;
        if (r->state == AFL_WAITING || r->state == AFL_FAILING || r->state == AFL_GRANTED)
            driver_cancel(d, r, 0);
    }
    driver_serve(d);
    for (size_t i = 0; i < d->request_count; i++)
        if (d->requests[i].request.state == AFL_HELD)
            driver_release(d, &d->requests[i].request, true);
    driver_serve(d);
    while (afl_machine_deadline(&d->machine) != AFLOCK_FOREVER) { /* roll-backs that are to be tried again */
        d->now = afl_machine_deadline(&d->machine);
        afl_machine_expire(&d->machine, d->now);
        driver_serve(d);
    }
    driver_finish(d);
}

/* --------------------------------------------------------------------------------------------------------- random */

static uint64_t soak(uint64_t seed, unsigned steps)
{
    static world w;
    w.random = seed * UINT64_C(0x9E3779B97F4A7C15);
    w.digest = UINT64_C(0xcbf29ce484222325);
    driver_start(&w.d);
    for (unsigned i = 0; i < 3; i++) {
        static const char *const NAMES[] = {"p", "q", "s"};
        afl_path *p = driver_path_new(&w.d, NAMES[i]);
        p->hand_on = (seed + i) % 4 != 0;
        p->notify = (seed + i) % 2 != 0;
        p->beat_interval = (seed + i) % 3 == 0 ? 20 * MS : 0;
        w.d.paths[i].watchable = (seed + i) % 5 != 0;
    }
    for (unsigned i = 0; i < 10; i++) {
        const char name[] = {(char)('a' + i), '\0'};
        driver_request_new(&w.d, name, EXCLUSIVE, NULL);
    }
    for (unsigned i = 0; i < steps; i++)
        step(&w);
    leave(&w);
    return w.digest;
}

START_TEST(random_worlds)
{
    soak((uint64_t)_i, 5000);
}
END_TEST

START_TEST(same_inputs_same_outputs)
{
    uint64_t seed = (uint64_t)_i, digest_of_seed = soak(seed, 500);
    ck_assert_uint_eq(soak(seed, 500), digest_of_seed);
    ck_assert_uint_ne(soak(seed + 1, 500), digest_of_seed);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("machine: soak");
    TCase *random = tcase_create("random");
    tcase_set_timeout(random, 60);
    tcase_add_loop_test(random, random_worlds, 1, 61); /* the number in a report is the seed */
    tcase_add_loop_test(random, same_inputs_same_outputs, 100, 110);
    suite_add_tcase(s, random);
    return driver_run_suite(s);
}
