/* Who is told that a lease is lost, and in which order: before any other callback that would run after it was lost.
 * Also what may be done from inside of on_compromise. The boot-time clock is the test's own. */
#include "runtime/runtime.h"
#include "support/lease_scene.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define START (UINT64_C(1000) * AFLOCK_SECOND)
#define LOST (20 * AFLOCK_SECOND)

/* ------------------------------------------------------------------------------------------------- what came when */

enum { EVENTS = 128 };
static char order[EVENTS]; /* one letter for each callback */
static int events;

static void note(char what)
{
    ck_assert_int_lt(events, EVENTS - 1);
    order[events++] = what;
}

static void must_come(const char *expected)
{
    scene_turn_until(strlen(order) >= strlen(expected));
    run_turns(3);
    ck_assert_str_eq(order, expected);
}

/* "g": granted, "t": timed out, "r": released, "m": anything else */
static void answered(aflock *lock, const aflock_result *r, void *user)
{
    (void)lock;
    note(r->status == 0 ? 'g' : r->status == AFLOCK_ETIMEDOUT ? 't' : 'm');
    if (user)
        pass_boottime(LOST);
}

static void released(aflock *lock, const aflock_result *r, void *user)
{
    (void)lock, (void)user;
    ck_assert_int_eq(r->status, 0);
    note('r');
}

static void inspected(aflock *lock, const aflock_holder *holder, void *user)
{
    (void)lock, (void)holder, (void)user;
    note('i');
}

static void wanted(aflock *lock, aflock_req req, aflock_wanted who, void *user)
{
    (void)lock, (void)req, (void)who, (void)user;
    note('w');
}

static void compromised(aflock *lock, aflock_req req, const aflock_compromise *what, void *user)
{
    note('!');
    if (user)
        lease_told(lock, req, what, user);
}

static aflock *open_native(const char *path)
{
    aflock *lock;
    aflock_options o;
    aflock_options_init(&o);
    o.io = AFLOCK_IO_INLINE;
    ck_assert_int_eq(aflock_open(&lock, scene, path, &o), 0);
    return lock;
}

static aflock_req hold_native(aflock *lock, aflock_acquire_options *o)
{
    answer a = scene_acquire(lock, o);
    ck_assert_int_eq(a.result.status, 0);
    return a.result.req;
}

/* A lease of ours that somebody wants to hear of. */
static aflock_req hold(int io, told *t, aflock **lock)
{
    stop_clocks(START, 0);
    *lock = open_lease(io);
    aflock_acquire_options o = scene_options(0, 0);
    o.on_compromise = compromised;
    o.on_compromise_user = t;
    answer a = scene_acquire(*lock, &o);
    ck_assert_int_eq(a.result.status, 0);
    return a.result.req;
}

static void acquire_noting(aflock *lock, uint64_t timeout, void *user)
{
    aflock_acquire_options o = scene_options(0, 0);
    o.timeout = timeout;
    ck_assert_int_eq(aflock_acquire(lock, &o, answered, user, NULL), 0);
}

/* -------------------------------------------------------------------------------------------------- before all else */

START_TEST(before_a_grant)
{
    told t = {0};
    aflock *lock, *native = open_native("native");
    aflock_req req = hold(_i, &t, &lock);
    acquire_noting(native, AFLOCK_FOREVER, NULL);
    pass_boottime(LOST);
    must_come("!g");
    ck_assert_int_eq(t.what.reason, AFLOCK_LEASE_EXPIRED);
    must_release(lock, req);
}
END_TEST

START_TEST(before_a_time_out)
{
    aflock *lock, *native = open_native("native");
    aflock_req req = hold(_i, NULL, &lock);
    hold_native(native, NULL);
    acquire_noting(native, AFLOCK_MILLISECOND, NULL);
    usleep(2000);
    pass_boottime(LOST);
    must_come("!t");
    must_release(lock, req);
}
END_TEST

START_TEST(before_the_answer_of_a_release)
{
    aflock *lock, *native = open_native("native");
    aflock_req req = hold(_i, NULL, &lock), other = hold_native(native, NULL);
    ck_assert_int_eq(aflock_release(native, other, released, NULL), 0);
    pass_boottime(LOST);
    must_come("!r");
    must_release(lock, req);
}
END_TEST

START_TEST(before_answers_to_questions)
{
    aflock *lock, *native = open_native("native");
    aflock_req req = hold(_i, NULL, &lock);
    ck_assert_int_eq(aflock_inspect(native, inspected, NULL), 0);
    pass_boottime(LOST);
    must_come("!i");
    must_release(lock, req);
}
END_TEST

START_TEST(before_hearing_who_waits)
{
    aflock *lock, *native = open_native("native");
    aflock_acquire_options o = scene_options(0, 0);
    aflock_req req = hold(_i, NULL, &lock);
    o.on_wanted = wanted;
    aflock_req other = hold_native(native, &o);
    acquire_noting(native, AFLOCK_FOREVER, NULL);
    pass_boottime(LOST);
    must_come("!w");
    ck_assert_int_eq(aflock_release(native, other, NULL, NULL), 0);
    must_come("!wg");
    must_release(lock, req);
}
END_TEST

/* Time passes in a callback: who comes next would work with what is not ours any more. */
START_TEST(between_two_callbacks)
{
    static int passes;
    aflock *lock, *natives[3];
    for (int i = 0; i < 3; i++) {
        char name[16];
        snprintf(name, sizeof name, "native%d", i);
        natives[i] = open_native(name);
    }
    aflock_req req = hold(_i, NULL, &lock);
    for (int i = 0; i < 3; i++)
        acquire_noting(natives[i], AFLOCK_FOREVER, i == 1 ? &passes : NULL);
    must_come("gg!g");
    must_release(lock, req);
}
END_TEST

/* What was lost by one place is told before what the other gets; and every place tells its own. */
START_TEST(of_several)
{
    aflock *locks[3], *native = open_native("native");
    aflock_options o = lease_options(_i);
    aflock_acquire_options p = scene_options(0, 0);
    stop_clocks(START, 0);
    p.on_compromise = compromised;
    for (int i = 0; i < 3; i++) {
        char name[16];
        snprintf(name, sizeof name, "lease%d", i);
        ck_assert_int_eq(aflock_open(&locks[i], scene, name, &o), 0);
        ck_assert_int_eq(scene_acquire(locks[i], &p).result.status, 0);
    }
    acquire_noting(native, AFLOCK_FOREVER, NULL);
    pass_boottime(LOST);
    must_come("!!!g");
}
END_TEST

/* The loop need not do anything else: its timer wakes it up. */
START_TEST(by_the_timer)
{
    told t = {0};
    aflock_options o = lease_options(_i);
    aflock_acquire_options p = scene_options(0, 0);
    if (scene_io(_i) == AFLOCK_IO_INLINE)
        return;
    o.duration = 60 * AFLOCK_MILLISECOND;              /* on the real clock */
    scene->options.stall_after = 3600 * AFLOCK_SECOND; /* or that would make it turn */
    aflock *lock = open_with(&o);
    p.on_compromise = lease_told;
    p.on_compromise_user = &t;
    answer a = scene_acquire(lock, &p);
    if (a.result.status == 0) { /* else it took so long that it was lost before */
        seam_hang(SEAM_TOUCH, "/lock");
        scene_run_until(&t.count, 1);
        ck_assert_uint_ge(t.what.age, 40 * AFLOCK_MILLISECOND);
        seam_resume();
        must_release(lock, a.result.req);
    }
    ck_assert_int_eq(scene_entries("."), 0);
}
END_TEST

/* ----------------------------------------------------------------------------------------- what was not delivered yet
 */

static void take_long(void)
{
    pass_boottime(LOST);
    seam_before(SEAM_WRITE, NULL);
}

/* It took so long to get that it is lost: who was granted it is answered so; who was not, makes another attempt. */
START_TEST(a_grant_that_is_lost_already)
{
    told t = {0};
    stop_clocks(START, 0);
    aflock *lock = open_lease(_i);
    aflock_acquire_options o = scene_options(0, 0);
    o.on_compromise = lease_told;
    o.on_compromise_user = &t;
    seam_before(SEAM_WRITE, take_long);
    answer a = scene_acquire(lock, &o);
    if (scene_io(_i) == AFLOCK_IO_INLINE) {
        ck_assert_int_eq(a.result.status, AFLOCK_ECOMPROMISED);
        ck_assert_str_eq(a.token, "");
        while (access("lock", F_OK) == 0)
            run_turns(1);
        ck_assert_int_eq(aflock_depth(lock, NULL), 0);
    } else {
        ck_assert_int_eq(a.result.status, 0);
        ck_assert_int_eq(seam_count(SEAM_LINK), 2);
        must_be_ours("lock", a.token, "30");
        must_release(lock, a.result.req);
    }
    ck_assert_int_eq(t.count, 0);
    ck_assert_int_eq(scene_logged, 0);
    must_get(lock);
}
END_TEST

/* On this thread it is granted before anything is told. */
START_TEST(a_grant_that_waits_for_its_turn)
{
    answer a = {0}, b = {0};
    if (scene_io(_i) != AFLOCK_IO_INLINE)
        return;
    stop_clocks(START, 0);
    aflock *lock = open_lease(_i);
    ck_assert_int_eq(aflock_acquire(lock, NULL, scene_answer, &a, NULL), 0);
    ck_assert_int_eq(aflock_acquire(lock, NULL, scene_answer, &b, NULL), 0);
    scene_expect(2);
    pass_boottime(LOST);
    scene_run_until(&b.count, 1);
    ck_assert_int_eq(a.count, 1);
    ck_assert_int_eq(a.result.status, AFLOCK_ECOMPROMISED);
    ck_assert_int_eq(b.result.status, 0); /* it has a marker of its own */
    must_be_ours("lock", b.token, "30");
    must_release(lock, b.result.req);
    ck_assert_int_eq(scene_logged, 0);
}
END_TEST

/* ------------------------------------------------------------------------------------------------------------ owners
 */

START_TEST(each_hold_of_an_owner_once)
{
    int owner, stranger;
    told first = {0}, second = {0};
    answer a = {0};
    stop_clocks(START, 0);
    aflock *lock = open_lease(_i);
    aflock_req req = must_hold_for(lock, &owner, &first), again = must_hold_for(lock, &owner, &second);
    aflock_acquire_options o = scene_options(0, 0);
    o.owner = &stranger;
    ck_assert_int_eq(aflock_acquire(lock, &o, scene_answer, &a, NULL), 0);
    scene_expect(1);
    pass_boottime(LOST);
    aflock_host_timer(scene);
    scene_run_until(&second.count, 1);
    run_turns(5);
    ck_assert(first.count == 1 && second.count == 1);
    ck_assert(first.req.id == req.id && second.req.id == again.id);
    ck_assert_str_eq(first.token, second.token);
    o.owner = &owner;
    ck_assert_int_eq(aflock_acquire(lock, &o, scene_answer, &a, NULL), AFLOCK_ECOMPROMISED);
    ck_assert_int_eq(aflock_depth(lock, &owner), 2);
    must_release(lock, req);
    run_turns(3);
    ck_assert_int_eq(a.count, 0);
    ck_assert_int_eq(aflock_acquire(lock, &o, scene_answer, &a, NULL), AFLOCK_ECOMPROMISED);
    must_release(lock, again);
    scene_run_until(&a.count, 1);
    ck_assert_int_eq(a.result.status, 0);
    must_be_ours("lock", a.token, "30");
    ck_assert_str_ne(a.token, first.token);
    must_release(lock, a.result.req);
    ck_assert(first.count == 1 && second.count == 1);
    must_hold_for(lock, &owner, &first); /* a new hold, and nothing is said of the old one */
    run_turns(3);
    ck_assert_int_eq(first.count, 1);
    pass_boottime(LOST);
    aflock_host_timer(scene);
    scene_run_until(&first.count, 2);
}
END_TEST

/* Not only when it was told. */
START_TEST(who_asks_again_too_late)
{
    int owner;
    told t = {0};
    aflock_req more;
    stop_clocks(START, 0);
    aflock *lock = open_lease(_i);
    aflock_req req = must_hold_for(lock, &owner, &t);
    aflock_acquire_options o = scene_options(0, 0);
    o.owner = &owner;
    pass_boottime(LOST);
    if (_i == AFLOCK_IO_INLINE)
        ck_assert_int_eq(aflock_try(lock, &o, &more, NULL), AFLOCK_ECOMPROMISED);
    else
        ck_assert_int_eq(aflock_acquire(lock, &o, scene_answer, NULL, NULL), AFLOCK_ECOMPROMISED);
    ck_assert_int_eq(t.count, 0);
    scene_run_until(&t.count, 1);
    must_release(lock, req);
}
END_TEST

/* A further hold was granted and is not told: its owner's others are, it is answered. */
START_TEST(one_that_was_granted_beside)
{
    int owner;
    told t = {0}, none = {0};
    answer a = {0};
    stop_clocks(START, 0);
    aflock *lock = open_lease(_i);
    aflock_req req = must_hold_for(lock, &owner, &t);
    aflock_acquire_options o = scene_options(0, 0);
    o.owner = &owner;
    o.on_compromise = lease_told;
    o.on_compromise_user = &none;
    ck_assert_int_eq(aflock_acquire(lock, &o, scene_answer, &a, NULL), 0);
    scene_expect(1);
    pass_boottime(LOST);
    scene_run_until(&a.count, 1);
    ck_assert_int_eq(a.result.status, AFLOCK_ECOMPROMISED);
    ck_assert(t.count == 1 && none.count == 0);
    ck_assert_int_eq(aflock_depth(lock, &owner), 1);
    must_release(lock, req);
}
END_TEST

/* ---------------------------------------------------------------------------------------------------- while it ends */

START_TEST(who_releases_is_not_told)
{
    told t = {0};
    answer a = {0};
    aflock *lock;
    aflock_req req = hold(_i, &t, &lock);
    ck_assert_int_eq(aflock_release(lock, req, scene_answer, &a), 0);
    scene_expect(1);
    pass_boottime(LOST);
    scene_run_until(&a.count, 1);
    run_turns(3);
    ck_assert_int_eq(a.result.status, 0);
    ck_assert_int_eq(t.count, 0);
    ck_assert_int_eq(scene_logged, 0);
    ck_assert_int_eq(scene_entries("."), 0);
}
END_TEST

static void fails_late(void)
{
    pass_boottime(LOST);
    seam_before(SEAM_UNLINK, NULL);
}

/* His release failed: he holds it again, and it was lost meanwhile. */
START_TEST(unless_he_holds_it_again)
{
    told t = {0};
    answer a = {0};
    aflock *lock;
    aflock_req req = hold(_i, &t, &lock);
    make_fail(SEAM_UNLINK, EIO);
    seam_before(SEAM_UNLINK, fails_late);
    ck_assert_int_eq(aflock_release(lock, req, scene_answer, &a), 0);
    scene_expect(1);
    scene_run_until(&a.count, 1);
    ck_assert_int_eq(a.result.status, AFLOCK_ESYS);
    run_turns(3);
    ck_assert_int_eq(t.count, 1);
    make_fail(SEAM_CALLS, 0);
    must_release(lock, req);
    ck_assert_int_eq(t.count, 1);
}
END_TEST

/* It was lost while a release that fails was under way. */
START_TEST(of_what_was_lost_during_a_release)
{
    told t = {0};
    answer a = {0};
    aflock *lock, *native = open_native("native");
    if (scene_io(_i) == AFLOCK_IO_INLINE)
        return;
    aflock_req req = hold(_i, &t, &lock);
    seam_hang(SEAM_UNLINK, "/lock");
    ck_assert_int_eq(aflock_release(lock, req, scene_answer, &a), 0);
    scene_expect(1);
    seam_await_hung(1);
    pass_boottime(LOST);
    look(native);
    ck_assert_int_eq(t.count, 0);
    make_fail(SEAM_UNLINK, EIO);
    seam_resume();
    scene_run_until(&a.count, 1);
    ck_assert_int_eq(a.result.status, AFLOCK_ESYS);
    ck_assert_int_eq(t.count, 1); /* before the answer */
    make_fail(SEAM_CALLS, 0);
    must_release(lock, req);
    run_turns(2);
    ck_assert_int_eq(t.count, 1);
}
END_TEST

/* ------------------------------------------------------------------------------------------- from inside on_compromise
 */

static answer inner;

static void release_inside(aflock *lock, aflock_req req, const aflock_compromise *what, void *user)
{
    (void)what, (void)user;
    note('!');
    ck_assert_int_eq(aflock_cancel(lock, req), AFLOCK_EHELD);
    ck_assert_int_eq(aflock_close(lock), AFLOCK_EBUSY);
    ck_assert_int_eq(aflock_ctx_free(scene, 0), AFLOCK_EBUSY);
    ck_assert_int_eq(aflock_fd(lock, req), AFLOCK_ENOTSUP);
    ck_assert_int_eq(aflock_release(lock, req, released, NULL), 0);
    ck_assert_int_eq(aflock_release(lock, req, NULL, NULL), AFLOCK_ESTALE);
    ck_assert_int_eq(aflock_acquire(lock, NULL, scene_answer, &inner, NULL), 0);
    scene_expect(1);
}

static void close_inside(aflock *lock, aflock_req req, const aflock_compromise *what, void *user)
{
    (void)user;
    note('!');
    ck_assert_int_eq(aflock_release(lock, req, NULL, NULL), 0);
    ck_assert_int_eq(aflock_close(lock), 0);
    ck_assert_ptr_ne(strstr(what->path, "/lock"), NULL); /* lives as long as the call */
    ck_assert_uint_eq(strlen(what->token), 32);
}

static aflock *hold_with(int io, void (*f)(aflock *, aflock_req, const aflock_compromise *, void *))
{
    stop_clocks(START, 0);
    aflock *lock = open_lease(io);
    aflock_acquire_options o = scene_options(0, 0);
    o.on_compromise = f;
    ck_assert_int_eq(scene_acquire(lock, &o).result.status, 0);
    return lock;
}

START_TEST(a_release_and_a_new_request)
{
    aflock *lock = hold_with(_i, release_inside);
    pass_boottime(LOST);
    aflock_host_timer(scene);
    must_come("!r");
    scene_run_until(&inner.count, 1);
    ck_assert_int_eq(inner.result.status, 0);
    must_be_ours("lock", inner.token, "30");
    must_release(lock, inner.result.req);
    must_come("!r");
}
END_TEST

START_TEST(the_lock_is_closed)
{
    hold_with(_i, close_inside);
    pass_boottime(LOST);
    aflock_host_timer(scene);
    must_come("!");
    scene_turn_until(scene_entries(".") == 0);
}
END_TEST

/* It fires a token of a request that is due next: the flag is looked at before each delivery. */
static aflock_token *token;

static void fire_inside(aflock *lock, aflock_req req, const aflock_compromise *what, void *user)
{
    (void)lock, (void)req, (void)what, (void)user;
    note('!');
    aflock_token_fire(token);
}

START_TEST(a_token_is_fired)
{
    aflock *native = open_native("native"), *lock = hold_with(_i, fire_inside);
    aflock_acquire_options o = scene_options(0, 0);
    ck_assert_int_eq(aflock_token_new(&token, scene), 0);
    o.token = token;
    ck_assert_int_eq(aflock_acquire(native, &o, answered, NULL, NULL), 0);
    pass_boottime(LOST);
    must_come("!m");
    aflock_token_free(token);
    (void)lock;
}
END_TEST

/* --------------------------------------------------------------------------------------------------- the context's end
 */

START_TEST(nobody_is_told_at_the_end)
{
    told t = {0};
    aflock *lock;
    hold(_i, &t, &lock);
    pass_boottime(LOST);
    scene_free_context();
    ck_assert_int_eq(t.count, 0);
    ck_assert_int_eq(scene_entries("."), 0);
}
END_TEST

START_TEST(nor_if_a_release_fails_then)
{
    told t = {0};
    answer a = {0};
    aflock *lock;
    aflock_req req = hold(_i, &t, &lock);
    make_fail(SEAM_UNLINK, EIO);
    ck_assert_int_eq(aflock_release(lock, req, scene_answer, &a), 0);
    pass_boottime(LOST);
    ck_assert_int_eq(aflock_ctx_free(scene, 30 * AFLOCK_MILLISECOND), 1);
    scene = NULL;
    make_fail(SEAM_CALLS, 0);
    ck_assert_int_eq(a.count, 1);
    ck_assert_int_eq(t.count, 0);
}
END_TEST

START_TEST(the_end_while_a_heartbeat_is_out)
{
    told t = {0};
    aflock *lock;
    if (scene_io(_i) == AFLOCK_IO_INLINE)
        return;
    hold(_i, &t, &lock);
    seam_hang(SEAM_TOUCH, "/lock");
    pass_boottime(LOST / 2);
    aflock_host_timer(scene);
    seam_await_hung(1);
    ck_assert_int_eq(aflock_ctx_free(scene, 20 * AFLOCK_MILLISECOND), 1);
    scene = NULL;
    ck_assert_int_eq(scene_entries("."), 1);
    seam_resume(); /* the worker takes the marker away */
    scene_await(scene_entries(".") == 0);
    ck_assert_int_eq(t.count, 0);
}
END_TEST

/* ... and leaves what is another one's by then. */
START_TEST(the_end_while_a_heartbeat_is_out_and_all_is_lost)
{
    aflock *lock;
    if (scene_io(_i) == AFLOCK_IO_INLINE)
        return;
    hold(_i, NULL, &lock);
    const int open = scene_descriptors();
    seam_hang(SEAM_TOUCH, "/lock");
    pass_boottime(LOST / 2);
    aflock_host_timer(scene);
    seam_await_hung(1);
    mark_lease("new", getppid(), "30");
    ck_assert_int_eq(rename("new", "lock"), 0);
    ck_assert_int_eq(aflock_ctx_free(scene, 0), 1);
    scene = NULL;
    seam_resume();
    scene_await(scene_descriptors() < open);
    ck_assert_int_eq(scene_entries("."), 1);
}
END_TEST

int main(void)
{
    const TTest *const each[] = {before_a_grant,
                                 before_a_time_out,
                                 before_the_answer_of_a_release,
                                 before_answers_to_questions,
                                 before_hearing_who_waits,
                                 between_two_callbacks,
                                 of_several,
                                 by_the_timer,
                                 a_grant_that_is_lost_already,
                                 a_grant_that_waits_for_its_turn,
                                 each_hold_of_an_owner_once,
                                 who_asks_again_too_late,
                                 one_that_was_granted_beside,
                                 who_releases_is_not_told,
                                 unless_he_holds_it_again,
                                 of_what_was_lost_during_a_release,
                                 a_release_and_a_new_request,
                                 the_lock_is_closed,
                                 a_token_is_fired,
                                 nobody_is_told_at_the_end,
                                 nor_if_a_release_fails_then,
                                 the_end_while_a_heartbeat_is_out,
                                 the_end_while_a_heartbeat_is_out_and_all_is_lost,
                                 NULL};
    return scene_main("lease-told", NULL, each);
}
