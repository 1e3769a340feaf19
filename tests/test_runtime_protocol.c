/* A protocol without files and threads: it asks a server at the other end of a socketpair, and its attempts are
 * answered later, when the loop's watch says that the server has spoken. What host.h's watch, `start`, `stop` and
 * afl_work_done are for; also the claims that stay while a request waits (pending, beaten, withdrawn).
 *
 * One letter goes out per operation: T(ry), R(elease), W(ithdraw), B(eat); one comes back: w(on), c(ontended),
 * p(ending), n(ot won, an error), k (done). The test plays the server. */
#include "support/fake_host.h"

#include <aflock/epoll.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static fake_host h;
static fake_answer a, b, c;

/* -------------------------------------------------------------------------------------------------- the protocol */

typedef struct wire {
    afl_watcher watcher;
    afl_work *work; /* under way */
    afl_grip grip;
} wire;

static int client_end = -1, server_end = -1;
static unsigned starts, stops, reconciled, abandoned;

static void answer(wire *s, char letter)
{
    afl_work *w = s->work;
    switch (letter) {
    case 'w':
        w->have = UINT32_MAX;
        afl_work_won(w);
        break;
    case 'c':
        afl_work_contended(w, AFL_GRIP_NONE);
        break;
    case 'p':
        afl_work_contended(w, AFL_GRIP_PENDING);
        break;
    case 'n':
        afl_work_fail(w, w->op == AFL_OP_TRY ? AFL_GRIP_NONE : s->grip, "server", EPROTO);
        break;
    default:
        w->outcome = (afl_outcome){.answer = AFL_WON, .grip = w->op == AFL_OP_BEAT ? s->grip : AFL_GRIP_NONE};
    }
    s->grip = w->outcome.grip;
    s->work = NULL;
    afl_work_unwatch(w, &s->watcher);
    afl_work_done(w);
}

static void heard(afl_watcher *watcher, unsigned events)
{
    char letter;
    wire *s = (wire *)(void *)watcher;
    ck_assert_uint_ne(events & AFLOCK_READ, 0);
    ck_assert_ptr_nonnull(s->work);
    if (read(watcher->watch.fd, &letter, 1) == 1)
        answer(s, letter);
}

static void wire_start(afl_work *w)
{
    static const char LETTERS[] = {
        [AFL_OP_TRY] = 'T', [AFL_OP_WITHDRAW] = 'W', [AFL_OP_RELEASE] = 'R', [AFL_OP_BEAT] = 'B'};
    wire *s = w->state;
    starts++;
    ck_assert_ptr_null(s->work);
    s->work = w;
    s->watcher.watch.fd = client_end;
    s->watcher.watch.events = AFLOCK_READ;
    s->watcher.ready = heard;
    ck_assert_int_eq(afl_work_watch(w, &s->watcher), 0);
    ck_assert_int_eq(write(client_end, &LETTERS[w->op], 1), 1);
}

static void wire_stop(afl_work *w)
{
    wire *s = w->state;
    stops++;
    ck_assert_ptr_eq(s->work, w);
    afl_work_unwatch(w, &s->watcher);
    s->work = NULL;
}

static void wire_reconcile(afl_work *w)
{
    wire *s = w->state;
    ck_assert_ptr_null(s->work);
    reconciled += s->grip != AFL_GRIP_NONE;
}

static void wire_abandon(afl_work *w)
{
    (void)w;
    abandoned++;
    close(client_end);
}

static const afl_protocol WIRE = {.name = "wire",
                                  .hand_on = true,
                                  .beat_interval = 10 * MS,
                                  .state_size = sizeof(wire),
                                  .start = wire_start,
                                  .stop = wire_stop,
                                  .reconcile = wire_reconcile,
                                  .abandon = wire_abandon};

static aflock *open_wire(aflock_ctx *ctx)
{
    int ends[2];
    aflock *lock;
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends), 0);
    client_end = ends[0];
    server_end = ends[1];
    ck_assert_int_eq(afl_open_protocol(&lock, ctx, "/wire", &WIRE, NULL), 0);
    return lock;
}

/* --------------------------------------------------------------------------------------------------- the server */

/* What the client has asked, or 0. */
static char asked(void)
{
    char letter;
    return read(server_end, &letter, 1) == 1 ? letter : '\0';
}

static void tell(char letter)
{
    ck_assert_int_eq(write(server_end, &letter, 1), 1);
    ck_assert_ptr_nonnull(h.watch);
    aflock_host_ready(h.ctx, h.watch, AFLOCK_READ);
    fake_settle(&h);
}

static void expect(char letter, char reply)
{
    ck_assert_int_eq(asked(), letter);
    tell(reply);
}

/* -------------------------------------------------------------------------------------------- on a scripted host */

START_TEST(an_attempt_is_answered_later_without_a_thread)
{
    fake_start(&h, 4, false, NULL);
    aflock *lock = open_wire(h.ctx);
    ck_assert_int_eq(fake_acquire(lock, NULL, &a, NULL), 0);
    fake_settle(&h);
    ck_assert_uint_eq(a.count, 0);
    ck_assert(h.alive);
    expect('T', 'w');
    ck_answered(a, 0);
    ck_assert_ptr_null(h.watch);
    ck_assert_int_eq(fake_release(lock, a.result.req, &b), 0);
    fake_settle(&h);
    ck_assert_uint_eq(b.count, 0);
    ck_assert(h.alive);
    expect('R', 'k');
    ck_answered(b, 0);
    ck_assert(!h.alive);
    ck_assert_uint_eq(h.submits, 0);
    ck_assert_int_eq(seam_total_on_loop() + seam_total_elsewhere(), 0);
    ck_assert_int_eq(aflock_close(lock), 0);
    ck_assert_int_eq(fake_free(&h, 0), 0);
    ck_assert_uint_eq(stops, 0);
}
END_TEST

START_TEST(contended_attempts_are_repeated_and_errors_end_the_request)
{
    fake_start(&h, 4, false, NULL);
    aflock *lock = open_wire(h.ctx);
    ck_assert_int_eq(fake_acquire(lock, NULL, &a, NULL), 0);
    expect('T', 'c');
    ck_assert_int_eq(asked(), '\0');
    fake_advance(&h, 50 * MS);
    expect('T', 'n');
    ck_answered(a, AFLOCK_ESYS);
    ck_assert_int_eq(a.result.sys_errno, EPROTO);
    ck_assert_str_eq(a.result.step, "server");
    ck_assert_uint_eq(a.result.attempts, 2);
    ck_assert_int_eq(fake_free(&h, 0), 0);
}
END_TEST

START_TEST(deadlines_and_cancels_do_not_wait_for_the_server)
{
    aflock_req req;
    fake_start(&h, 4, false, NULL);
    aflock *lock = open_wire(h.ctx);
    aflock_acquire_options o = fake_options(100 * MS);
    ck_assert_int_eq(fake_acquire(lock, &o, &a, NULL), 0);
    fake_advance(&h, 100 * MS - 1);
    ck_assert_uint_eq(a.count, 0);
    fake_advance(&h, 1);
    ck_answered(a, AFLOCK_ETIMEDOUT);
    ck_assert_int_eq(fake_acquire(lock, NULL, &b, &req), 0);
    ck_assert_int_eq(fake_cancel(lock, req), 0);
    fake_settle(&h);
    ck_answered(b, AFLOCK_ECANCELED);
    ck_assert_uint_eq(starts, 1);
    expect('T', 'w'); /* late: nobody wants it */
    expect('R', 'k');
    ck_assert_int_eq(fake_free(&h, 0), 0);
}
END_TEST

/* A claim of ours stays on the server while we wait: it is beaten, serves the next head, and is withdrawn. */
START_TEST(a_pending_claim_is_beaten_inherited_and_withdrawn)
{
    aflock_req first, second;
    fake_start(&h, 4, false, NULL);
    aflock *lock = open_wire(h.ctx);
    ck_assert_int_eq(fake_acquire(lock, NULL, &a, &first), 0);
    ck_assert_int_eq(fake_acquire(lock, NULL, &b, &second), 0);
    expect('T', 'p');
    fake_advance(&h, 10 * MS - 1);
    ck_assert_int_eq(asked(), '\0');
    fake_advance(&h, 1);
    expect('B', 'k');
    ck_assert_int_eq(fake_cancel(lock, first), 0);
    fake_settle(&h);
    ck_answered(a, AFLOCK_ECANCELED);
    expect('T', 'p'); /* the next head has the claim, and tries at once */
    ck_assert_int_eq(fake_cancel(lock, second), 0);
    fake_settle(&h);
    ck_answered(b, AFLOCK_ECANCELED);
    ck_assert(h.alive);
    expect('W', 'k');
    ck_assert(!h.alive);
    ck_assert_int_eq(fake_free(&h, 0), 0);
    ck_assert_uint_eq(reconciled, 0);
}
END_TEST

/* ------------------------------------------------------------------------------------------------------ teardown */

START_TEST(the_end_stops_what_is_under_way)
{
    fake_start(&h, 4, false, NULL);
    uint64_t before = h.now;
    aflock *lock = open_wire(h.ctx);
    ck_assert_int_eq(fake_acquire(lock, NULL, &a, NULL), 0);
    ck_assert_int_eq(fake_free(&h, 100 * SEC), 0);
    ck_answered(a, AFLOCK_ECLOSED);
    ck_assert_uint_eq(stops, 1);
    ck_assert_ptr_null(h.watch);
    ck_assert_uint_eq(h.now, before); /* nothing comes without the loop: no use in waiting for it */
}
END_TEST

START_TEST(the_end_of_a_hold_and_of_a_release)
{
    fake_start(&h, 4, false, NULL);
    aflock *lock = open_wire(h.ctx);
    ck_assert_int_eq(fake_acquire(lock, NULL, &a, NULL), 0);
    expect('T', 'w');
    ck_answered(a, 0);
    ck_assert_int_eq(fake_free(&h, SEC), 1); /* asked for, and not heard of */
    ck_assert_int_eq(asked(), 'R');
    ck_assert_uint_eq(stops, 1);

    fake_start(&h, 4, false, NULL);
    lock = open_wire(h.ctx);
    a = (fake_answer){.count = 0};
    ck_assert_int_eq(fake_acquire(lock, NULL, &a, NULL), 0);
    expect('T', 'w');
    ck_assert_int_eq(fake_release(lock, a.result.req, &b), 0);
    ck_assert_int_eq(fake_free(&h, SEC), 1);
    ck_answered(b, AFLOCK_ECLOSED);
    ck_assert_uint_eq(stops, 2);
}
END_TEST

/* A release that failed and is due again later: nothing is under way, but something is still ours. */
START_TEST(the_end_between_two_attempts_to_release)
{
    fake_start(&h, 4, false, NULL);
    aflock *lock = open_wire(h.ctx);
    ck_assert_int_eq(fake_acquire(lock, NULL, &a, NULL), 0);
    expect('T', 'w');
    ck_assert_int_eq(fake_release(lock, a.result.req, NULL), 0);
    expect('R', 'n');
    ck_assert_int_eq(fake_free(&h, 0), 1);
    ck_assert_uint_eq(stops + reconciled, 1);
}
END_TEST

/* ------------------------------------------------------------------------------------------------ on a real loop */

static aflock_ctx *real;

/* Whatever else is asked on a slow machine, as heartbeats are, is done. */
static void serve(char letter, char reply)
{
    for (char other = asked(); other != letter; other = asked()) {
        if (other)
            ck_assert_int_eq(write(server_end, "k", 1), 1);
        ck_assert_int_eq(aflock_epoll_run_once(real, MS), 0);
    }
    ck_assert_int_eq(write(server_end, &reply, 1), 1);
}

static void run_for(const fake_answer *answered)
{
    while (answered->count == 0)
        ck_assert_int_eq(aflock_epoll_run_once(real, SEC), 0);
}

START_TEST(the_same_on_the_epoll_adapter)
{
    ck_assert_int_eq(aflock_epoll_new(&real, NULL), 0);
    aflock *lock = open_wire(real);
    ck_assert_int_eq(fake_acquire(lock, NULL, &a, NULL), 0);
    ck_assert_int_eq(fake_acquire(lock, NULL, &b, NULL), 0);
    serve('T', 'c');
    serve('T', 'w');
    run_for(&a);
    ck_answered(a, 0);
    ck_assert_uint_eq(b.count, 0);
    ck_assert_int_eq(fake_release(lock, a.result.req, NULL), 0);
    while (b.count == 0) { /* handed on, or given up first */
        const char letter = asked();
        if (letter)
            ck_assert_int_eq(write(server_end, letter == 'T' ? "w" : "k", 1), 1);
        ck_assert_int_eq(aflock_epoll_run_once(real, MS), 0);
    }
    ck_answered(b, 0);
    ck_assert_int_eq(fake_release(lock, b.result.req, &c), 0);
    serve('R', 'k');
    run_for(&c);
    ck_answered(c, 0);
    a = (fake_answer){.count = 0};
    ck_assert_int_eq(fake_acquire(lock, NULL, &a, NULL), 0);
    ck_assert_int_eq(aflock_ctx_free(real, 0), 0);
    ck_answered(a, AFLOCK_ECLOSED);
    ck_assert_uint_eq(stops, 1);
}
END_TEST

/* The child closes its copies; the parent's watch goes on. */
START_TEST(a_child_leaves_the_parents_watch_alone)
{
    int status;
    ck_assert_int_eq(aflock_epoll_new(&real, NULL), 0);
    aflock *lock = open_wire(real);
    ck_assert_int_eq(fake_acquire(lock, NULL, &a, NULL), 0);
    pid_t child = fork();
    ck_assert_int_ge(child, 0);
    if (child == 0) {
        ck_assert_int_eq(aflock_ctx_abandon(real), 0);
        ck_assert_uint_eq(abandoned, 1);
        ck_assert_uint_eq(stops, 0);
        _exit(0);
    }
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert_int_eq(status, 0);
    serve('T', 'w');
    run_for(&a);
    ck_answered(a, 0);
    ck_assert_int_eq(aflock_ctx_free(real, 0), 1);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {an_attempt_is_answered_later_without_a_thread,
                                  contended_attempts_are_repeated_and_errors_end_the_request,
                                  deadlines_and_cancels_do_not_wait_for_the_server,
                                  a_pending_claim_is_beaten_inherited_and_withdrawn,
                                  the_end_stops_what_is_under_way,
                                  the_end_of_a_hold_and_of_a_release,
                                  the_end_between_two_attempts_to_release,
                                  the_same_on_the_epoll_adapter,
                                  a_child_leaves_the_parents_watch_alone,
                                  NULL};
    return fake_main("runtime: a protocol of its own", tests);
}
