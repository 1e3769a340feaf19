/* The machine: owners. Re-entrant holds, what an owner may not wait for, and cycles of owners. */
#include "support/machine_driver.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static driver d;
static afl_path *p, *q, *s;
static char A, B, C, Z; /* owners */

static void setup(void)
{
    driver_start(&d);
    p = driver_path_new(&d, "p");
    q = driver_path_new(&d, "q");
    s = driver_path_new(&d, "s");
}

static afl_request *request(const char *name, int mode, void *owner)
{
    return driver_request_new(&d, name, mode, owner);
}

/* A request of `owner` that holds `path`. */
static afl_request *held(const char *name, afl_path *path, int mode, void *owner)
{
    afl_request *r = request(name, mode, owner);
    driver_hold(&d, path, r);
    return r;
}

/* A request of `owner` that waits for `path`. */
static afl_request *waiting(const char *name, afl_path *path, int mode, void *owner)
{
    afl_request *r = request(name, mode, owner);
    driver_submit(&d, path, r, 0);
    driver_see(&d, "");
    return r;
}

static void refused(afl_path *path, int mode, void *owner)
{
    afl_request *r = request("refused", mode, owner);
    driver_submit(&d, path, r, AFLOCK_EDEADLK);
    driver_see(&d, "");
    ck_assert_int_eq(r->state, AFL_IDLE);
}

/* ------------------------------------------------------------------------------------------------------ re-entrant */

START_TEST(same_owner_same_mode_is_granted_at_once_and_counted)
{
    afl_request *r[5];
    r[0] = held("r0", p, EXCLUSIVE, &A);
    for (int i = 1; i < 5; i++) {
        r[i] = request("again", EXCLUSIVE, &A);
        driver_submit(&d, p, r[i], 0);
        driver_see(&d, "again held");
        ck_assert_uint_eq(r[i]->attempts, 0);
    }
    ck_assert_uint_eq(d.machine.holding, 5);
    for (int i = 0; i < 4; i++) {
        driver_release(&d, r[(i + 2) % 5], i % 2);
        driver_see(&d, i % 2 ? i == 3 ? "r0 released" : "again released" : "");
    }
    ck_assert_uint_eq(d.machine.holding, 1);
    driver_release(&d, r[1], false); /* the last one gives the file up */
    driver_see(&d, "release p");
    driver_done(&d, p, DONE);
    driver_finish(&d);
}
END_TEST

START_TEST(no_owner_excludes_itself)
{
    held("a", p, EXCLUSIVE, NULL);
    waiting("b", p, EXCLUSIVE, NULL);
}
END_TEST

START_TEST(another_owner_waits)
{
    held("a", p, EXCLUSIVE, &A);
    waiting("b", p, EXCLUSIVE, &B);
}
END_TEST

START_TEST(same_owner_other_mode_is_refused)
{
    held("a", p, EXCLUSIVE, &A);
    refused(p, SHARED, &A);
    held("b", q, SHARED, &A);
    refused(q, EXCLUSIVE, &A);
    afl_request *foreign = held("c", s, EXCLUSIVE, &B);
    waiting("d", s, SHARED, &A); /* while it waits, too */
    refused(s, EXCLUSIVE, &A);
    driver_release(&d, foreign, false);
    driver_see(&d, "adopt+convert s d");
}
END_TEST

START_TEST(same_owner_other_descriptor_is_refused)
{
    held("a", p, EXCLUSIVE, &A);
    afl_request *r = request("b", EXCLUSIVE, &A);
    r->need = 8;
    driver_submit(&d, p, r, AFLOCK_EDEADLK);
}
END_TEST

START_TEST(same_owner_jumps_the_queue)
{
    held("a", p, SHARED, &A);
    afl_request *writer = waiting("writer", p, EXCLUSIVE, NULL);
    afl_request *again = request("again", SHARED, &A);
    driver_submit(&d, p, again, 0);
    driver_see(&d, "again held");
    ck_assert_ptr_eq(p->head, writer);
    waiting("other", p, SHARED, &B); /* others do not */
}
END_TEST

START_TEST(same_owner_once_jumps_the_queue)
{
    held("a", p, EXCLUSIVE, &A);
    waiting("writer", p, EXCLUSIVE, NULL);
    afl_request *again = request("again", EXCLUSIVE, &A);
    again->once = true;
    driver_submit(&d, p, again, 0);
    driver_see(&d, "again held");
}
END_TEST

START_TEST(same_owner_waiting_twice_is_granted_together)
{
    afl_request *a = held("a", p, EXCLUSIVE, NULL);
    waiting("b1", p, EXCLUSIVE, &B);
    waiting("c", p, EXCLUSIVE, &C);
    waiting("b2", p, EXCLUSIVE, &B);
    waiting("b3", p, EXCLUSIVE, &B);
    ck_assert_ptr_eq(p->head->next->next->next->owner, &C); /* beside each other */
    driver_release(&d, a, false);
    driver_see(&d, "b1 held; b2 held; b3 held");
}
END_TEST

START_TEST(same_owner_stays_in_order_when_one_leaves)
{
    afl_request *a = held("a", p, EXCLUSIVE, NULL);
    afl_request *b1 = waiting("b1", p, EXCLUSIVE, &B);
    waiting("b2", p, EXCLUSIVE, &B);
    waiting("b3", p, EXCLUSIVE, &B);
    driver_cancel(&d, b1, 0);
    driver_see(&d, "b1 ECANCELED");
    driver_release(&d, a, false);
    driver_see(&d, "b2 held; b3 held");
}
END_TEST

START_TEST(same_owner_waiting_for_another_descriptor_is_refused_with_the_grant)
{
    afl_request *a = held("a", p, EXCLUSIVE, NULL);
    waiting("b1", p, EXCLUSIVE, &B);
    afl_request *b2 = request("b2", EXCLUSIVE, &B);
    b2->need = 8;
    driver_submit(&d, p, b2, 0);
    waiting("b3", p, EXCLUSIVE, &B);
    driver_release(&d, a, false);
    driver_see(&d, "b1 held; b2 EDEADLK; b3 held"); /* it would wait for b1, whose owner it has */
}
END_TEST

START_TEST(re_entrant_requests_are_granted_in_order)
{
    afl_request *a = request("a", EXCLUSIVE, &A), *b = request("b", EXCLUSIVE, &A), *c = request("c", EXCLUSIVE, &A);
    a->adopt = true;
    held("first", p, EXCLUSIVE, &A);
    driver_submit(&d, p, a, 0);
    driver_see(&d, "adopt p a");
    driver_submit(&d, p, b, 0);
    driver_submit(&d, p, c, 0);
    driver_done(&d, p, WON);
    driver_see(&d, "a held; b held; c held");
}
END_TEST

START_TEST(an_owner_that_releases_is_gone)
{
    afl_request *a = held("a", p, EXCLUSIVE, &A);
    driver_release(&d, a, true);
    driver_see(&d, "release p");
    afl_request *other = request("other", SHARED, &A);
    driver_submit(&d, p, other, 0); /* no EDEADLK: the hold is over */
    driver_done(&d, p, DONE);
    driver_see(&d, "try p other; a released");
}
END_TEST

START_TEST(the_owner_table_can_grow)
{
    enum { OWNERS = 50 };
    char owners[OWNERS];
    static afl_request *tables[2][64];
    afl_request *first = held("first", p, EXCLUSIVE, NULL);
    ck_assert_uint_eq(d.machine.owner_buckets, 1);
    for (int i = 0; i < OWNERS; i++) {
        if (i == 10)
            ck_assert_ptr_null(afl_machine_owner_table(&d.machine, tables[0], 8));
        if (i == 20)
            ck_assert_ptr_eq(afl_machine_owner_table(&d.machine, tables[1], 64), tables[0]);
        waiting("one", p, EXCLUSIVE, &owners[i]);
    }
    ck_assert_uint_eq(d.machine.owned, OWNERS);
    for (int i = 0; i < OWNERS; i++)
        refused(p, SHARED, &owners[i % 2 ? i : OWNERS - 1 - i]);
    driver_release(&d, first, false);
    driver_see(&d, "one held");
}
END_TEST

START_TEST(a_grown_table_keeps_the_order)
{
    static afl_request *tables[3][16];
    afl_request *a = held("a", p, EXCLUSIVE, NULL);
    waiting("b1", p, EXCLUSIVE, &B);
    waiting("b2", p, EXCLUSIVE, &B);
    waiting("c", p, EXCLUSIVE, &C);
    waiting("b3", p, EXCLUSIVE, &B);
    afl_machine_owner_table(&d.machine, tables[0], 2);
    waiting("b4", p, EXCLUSIVE, &B);
    afl_machine_owner_table(&d.machine, tables[1], 16);
    afl_machine_owner_table(&d.machine, tables[2], 4); /* or shrink */
    driver_release(&d, a, false);
    driver_see(&d, "b1 held; b2 held; b3 held; b4 held");
}
END_TEST

/* -------------------------------------------------------------------------------------------------------- cycles */

START_TEST(two_owners)
{
    held("a", p, EXCLUSIVE, &A);
    held("b", q, EXCLUSIVE, &B);
    waiting("aq", q, EXCLUSIVE, &A);
    refused(p, EXCLUSIVE, &B);
    refused(p, SHARED, &B);
    ck_assert_uint_eq(d.machine.waiting, 1);
}
END_TEST

START_TEST(a_refusal_leaves_everything_usable)
{
    held("a", p, EXCLUSIVE, &A);
    afl_request *b = held("b", q, EXCLUSIVE, &B);
    waiting("aq", q, EXCLUSIVE, &A);
    refused(p, EXCLUSIVE, &B);
    driver_release(&d, b, false);
    driver_see(&d, "aq held");
    waiting("bp", p, EXCLUSIVE, &B); /* now nobody waits for B */
}
END_TEST

START_TEST(three_owners)
{
    held("a", p, EXCLUSIVE, &A);
    held("b", q, EXCLUSIVE, &B);
    held("c", s, EXCLUSIVE, &C);
    waiting("aq", q, EXCLUSIVE, &A);
    waiting("bs", s, EXCLUSIVE, &B);
    refused(p, EXCLUSIVE, &C);
    waiting("zp", p, EXCLUSIVE, &Z); /* one that nobody waits for may join */
}
END_TEST

START_TEST(many_owners)
{
    enum { RING = 20 };
    char owners[RING];
    afl_path *paths[RING];
    for (int i = 0; i < RING; i++) {
        paths[i] = driver_path_new(&d, "ring");
        held("holder", paths[i], EXCLUSIVE, &owners[i]);
    }
    for (int i = 0; i < RING - 1; i++)
        waiting("next", paths[i + 1], EXCLUSIVE, &owners[i]);
    refused(paths[0], EXCLUSIVE, &owners[RING - 1]);
}
END_TEST

START_TEST(through_a_queue)
{
    held("n", q, EXCLUSIVE, NULL);
    held("b", p, EXCLUSIVE, &B);
    waiting("zq", q, EXCLUSIVE, &Z);
    waiting("bq", q, EXCLUSIVE, &B); /* behind Z, who holds nothing */
    refused(p, EXCLUSIVE, &Z);
}
END_TEST

START_TEST(through_a_queue_of_requests_without_owner)
{
    held("a", p, SHARED, &A);
    held("c", q, EXCLUSIVE, &C);
    waiting("n", p, EXCLUSIVE, NULL);
    waiting("aq", q, EXCLUSIVE, &A);
    refused(p, SHARED, &C); /* behind n, which waits for A, who waits for C */
    refused(p, EXCLUSIVE, &C);
}
END_TEST

START_TEST(through_a_reader_that_needs_another_descriptor)
{
    held("a", p, SHARED, &A);
    held("c", q, EXCLUSIVE, &C);
    afl_request *n = request("n", SHARED, NULL);
    n->need = 8;
    driver_submit(&d, p, n, 0);
    waiting("aq", q, EXCLUSIVE, &A);
    refused(p, SHARED, &C); /* could join A, but does not overtake n */
}
END_TEST

START_TEST(a_reader_waits_for_a_reader_with_a_lesser_descriptor)
{
    held("n", p, EXCLUSIVE, NULL);
    held("c", q, EXCLUSIVE, &C);
    waiting("a", p, SHARED, &A);
    waiting("aq", q, EXCLUSIVE, &A);
    afl_request *c = request("c", SHARED, &C);
    c->need = 1;
    driver_submit(&d, p, c, AFLOCK_EDEADLK);
}
END_TEST

START_TEST(a_reader_waits_for_a_reader_where_nothing_is_handed_on)
{
    p->hand_on = false;
    held("n", p, EXCLUSIVE, NULL);
    held("c", q, EXCLUSIVE, &C);
    waiting("a", p, SHARED, &A);
    waiting("aq", q, EXCLUSIVE, &A);
    refused(p, SHARED, &C);
}
END_TEST

START_TEST(readers_do_not_wait_for_each_other)
{
    held("a", p, SHARED, &A);
    held("b", q, SHARED, &B);
    waiting("aq", q, EXCLUSIVE, &A);
    afl_request *b = request("b", SHARED, &B);
    driver_submit(&d, p, b, 0);
    driver_see(&d, "b held");
}
END_TEST

START_TEST(readers_in_a_queue_do_not_wait_for_each_other)
{
    held("n", p, EXCLUSIVE, NULL);
    held("b", q, EXCLUSIVE, &B);
    waiting("a", p, SHARED, &A);
    waiting("aq", q, EXCLUSIVE, &A);
    waiting("b", p, SHARED, &B); /* will be granted together with a */
}
END_TEST

START_TEST(a_writer_waits_for_each_reader)
{
    held("n", p, SHARED, NULL);
    afl_request *a = request("a", SHARED, &A);
    driver_submit(&d, p, a, 0);
    driver_see(&d, "a held");
    held("b", q, EXCLUSIVE, &B);
    waiting("aq", q, SHARED, &A);
    refused(p, EXCLUSIVE, &B);
}
END_TEST

START_TEST(a_holder_without_owner_ends_the_chain)
{
    held("n", p, EXCLUSIVE, NULL);
    held("b", q, EXCLUSIVE, &B);
    waiting("nq", q, EXCLUSIVE, NULL);
    waiting("b", p, EXCLUSIVE, &B);
}
END_TEST

START_TEST(an_owner_waits_for_all_it_asked_for)
{
    held("n", s, EXCLUSIVE, NULL);
    held("a", p, EXCLUSIVE, &A);
    held("b", q, EXCLUSIVE, &B);
    waiting("as", s, EXCLUSIVE, &A);
    waiting("aq", q, EXCLUSIVE, &A);
    refused(p, EXCLUSIVE, &B);
}
END_TEST

START_TEST(a_released_hold_is_waited_for_by_nobody)
{
    afl_request *a = held("a", p, EXCLUSIVE, &A);
    held("b", q, EXCLUSIVE, &B);
    waiting("aq", q, EXCLUSIVE, &A);
    driver_release(&d, a, true);
    driver_see(&d, "release p");
    waiting("b", p, EXCLUSIVE, &B);
}
END_TEST

START_TEST(a_hold_that_stayed_may_close_a_cycle)
{
    afl_request *a = held("a", p, EXCLUSIVE, &A);
    held("b", q, EXCLUSIVE, &B);
    waiting("aq", q, EXCLUSIVE, &A);
    driver_release(&d, a, true);
    driver_see(&d, "release p");
    waiting("b", p, EXCLUSIVE, &B);
    driver_done(&d, p, FAILED(AFL_GRIP_HELD));
    driver_see(&d, "a reheld; b EDEADLK");
}
END_TEST

/* ---------------------------------------------------------------------------- against a reference, on random graphs
 *
 * The reference plays the future: everybody releases what it holds once it waits for nothing any more, requests without
 * owner are everybody of their own, queues are served in order. Who is not served in the end is in a deadlock.
 */

enum { GRAPH_PATHS = 4, GRAPH_OWNERS = 5, GRAPH_LIMIT = 40 };

typedef struct entry {
    const void *owner;
    int path, mode;
    bool holds, gone;
} entry;

static bool has_to_wait(const entry *entries, size_t n, size_t i)
{
    for (size_t j = 0; j < n; j++) {
        const entry *other = &entries[j];
        if (other->path != entries[i].path || other->gone || j == i)
            continue;
        if (!other->holds && j < i)
            return true; /* before it in the queue */
        bool alike = other->mode == SHARED && entries[i].mode == SHARED;
        if (other->holds && !alike && !(other->owner && other->owner == entries[i].owner))
            return true;
    }
    return false;
}

static bool waits_somewhere(const entry *entries, size_t n, const void *owner)
{
    for (size_t j = 0; owner && j < n; j++)
        if (entries[j].owner == owner && !entries[j].holds && !entries[j].gone)
            return true;
    return false;
}

static bool is_served_in_the_end(entry *entries, size_t n, size_t last)
{
    for (bool progress = true; progress;) {
        progress = false;
        for (size_t i = 0; i < n; i++) {
            entry *e = &entries[i];
            if (e->gone)
                continue;
            if (!e->holds && !has_to_wait(entries, n, i))
                e->holds = progress = true;
            if (e->holds && !waits_somewhere(entries, n, e->owner))
                e->gone = progress = true;
        }
    }
    return entries[last].holds;
}

static size_t snapshot(entry *entries)
{
    size_t n = 0;
    for (int i = 0; i < GRAPH_PATHS; i++) {
        for (const afl_request *r = d.paths[i].path.holders; r; r = r->next)
            entries[n++] = (entry){.owner = r->owner, .path = i, .mode = r->mode, .holds = true};
        for (const afl_request *r = d.paths[i].path.head; r; r = r->next)
            entries[n++] = (entry){.owner = r->owner, .path = i, .mode = r->mode};
    }
    return n;
}

/* What a request of `owner` must be told; *known: by the rules for one path alone. */
static int expected_status(int path, int mode, const void *owner, bool *known)
{
    entry entries[GRAPH_LIMIT + 1];
    size_t n = snapshot(entries);
    *known = false;
    for (size_t i = 0; owner && i < n; i++) {
        if (entries[i].path == path && entries[i].owner == owner) {
            *known = true;
            return entries[i].mode == mode ? 0 : AFLOCK_EDEADLK;
        }
    }
    entries[n] = (entry){.owner = owner, .path = path, .mode = mode};
    return is_served_in_the_end(entries, n + 1, n) ? 0 : AFLOCK_EDEADLK;
}

static void random_graph(unsigned seed, unsigned *deadlocks)
{
    static char owners[GRAPH_OWNERS];
    srand(seed);
    driver_start(&d);
    d.machine.config.handoff_grants = UINT32_MAX;
    d.machine.config.handoff_time = d.machine.config.check_interval = AFLOCK_FOREVER;
    for (int i = 0; i < GRAPH_PATHS; i++)
        driver_path_new(&d, "path");
    for (int i = 0; i < GRAPH_LIMIT; i++)
        driver_request_new(&d, "r", EXCLUSIVE, NULL);
    for (int i = 0; i < 400; i++) {
        afl_request *r = &d.requests[rand() % GRAPH_LIMIT].request;
        if (r->state == AFL_WAITING && rand() % 3 == 0) {
            driver_cancel(&d, r, 0);
        } else if (r->state == AFL_HELD && rand() % 3 == 0) {
            driver_release(&d, r, rand() % 2);
        } else if (r->state == AFL_IDLE) {
            int path = rand() % GRAPH_PATHS, owner = rand() % (GRAPH_OWNERS + 2);
            bool known;
            r->owner = owner < GRAPH_OWNERS ? &owners[owner] : NULL;
            r->mode = rand() % 2 ? SHARED : EXCLUSIVE;
            int expected = expected_status(path, r->mode, r->owner, &known);
            driver_submit(&d, &d.paths[path].path, r, expected);
            *deadlocks += expected != 0 && !known;
        }
        driver_serve(&d);
    }
}

START_TEST(random_graphs)
{
    unsigned deadlocks = 0;
    for (unsigned seed = 1; seed <= 150; seed++)
        random_graph(seed, &deadlocks);
    ck_assert_uint_gt(deadlocks, 1000); /* the comparison meant something */
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {
        same_owner_same_mode_is_granted_at_once_and_counted,
        no_owner_excludes_itself,
        another_owner_waits,
        same_owner_other_mode_is_refused,
        same_owner_other_descriptor_is_refused,
        same_owner_jumps_the_queue,
        same_owner_once_jumps_the_queue,
        same_owner_waiting_twice_is_granted_together,
        same_owner_stays_in_order_when_one_leaves,
        same_owner_waiting_for_another_descriptor_is_refused_with_the_grant,
        re_entrant_requests_are_granted_in_order,
        an_owner_that_releases_is_gone,
        the_owner_table_can_grow,
        a_grown_table_keeps_the_order,
        two_owners,
        a_refusal_leaves_everything_usable,
        three_owners,
        many_owners,
        through_a_queue,
        through_a_queue_of_requests_without_owner,
        through_a_reader_that_needs_another_descriptor,
        a_reader_waits_for_a_reader_with_a_lesser_descriptor,
        a_reader_waits_for_a_reader_where_nothing_is_handed_on,
        readers_do_not_wait_for_each_other,
        readers_in_a_queue_do_not_wait_for_each_other,
        a_writer_waits_for_each_reader,
        a_holder_without_owner_ends_the_chain,
        an_owner_waits_for_all_it_asked_for,
        a_released_hold_is_waited_for_by_nobody,
        a_hold_that_stayed_may_close_a_cycle,
        random_graphs,
        NULL,
    };
    return driver_run("machine: owners", setup, tests);
}
