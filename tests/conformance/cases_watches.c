/* The loop's watches, used as a lock protocol uses them that talks to a server instead of calling the system: it asks
 * with a letter, and its attempt goes on when the watch says that the answer has come.
 *
 * One letter goes out per operation, T(ry) or R(elease); one comes back, w(on), c(ontended) or k (done). The case plays
 * the server, from a timer of the loop. */
#include "conformance.h"

#include "locks/protocol.h"

#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---------------------------------------------------------------------------------------------------- the protocol */

enum { WIRES = 20 };

/* A connection. `wires` finds it by the last characters of the lock's path. */
typedef struct wire {
    int client, server;
    unsigned heard;    /* reports with READ */
    unsigned writable; /* with WRITE */
    unsigned patience; /* so many reports are left unread: they must come again */
    unsigned watch_for;
    struct wire *silences; /* when it hears something, that one is stopped */
    afl_work *work;        /* under way */
    afl_watcher watcher;
    bool watched;
} wire;

static wire wires[WIRES];

static void stop_listening(wire *w)
{
    if (!w->watched)
        return;
    afl_work_unwatch(w->work, &w->watcher);
    w->watched = false;
}

static void finish(wire *w, char letter)
{
    afl_work *work = w->work;
    stop_listening(w);
    w->work = NULL;
    if (letter == 'w') {
        work->have = UINT32_MAX;
        afl_work_won(work);
    } else if (letter == 'c') {
        afl_work_contended(work, AFL_GRIP_NONE);
    } else {
        work->outcome = (afl_outcome){.answer = AFL_WON, .grip = AFL_GRIP_NONE};
    }
    afl_work_done(work);
}

static void heard(afl_watcher *watcher, unsigned events)
{
    wire *w = (wire *)(void *)((char *)watcher - offsetof(wire, watcher));
    char letter;
    require(w->watched); /* nothing is reported after unwatch */
    require(events != 0 && (events & ~w->watcher.watch.events) == 0);
    w->writable += (events & AFLOCK_WRITE) != 0;
    if (!(events & AFLOCK_READ)) {
        w->watcher.watch.events = AFLOCK_READ; /* a change of what is watched */
        require_status(afl_work_watch(w->work, watcher), 0);
        return;
    }
    w->heard++;
    if (w->silences != NULL)
        stop_listening(w->silences);
    if (w->patience > 0)
        w->patience--;
    else if (read(w->client, &letter, 1) == 1)
        finish(w, letter);
    else
        finish(w, w->work->op == AFL_OP_TRY ? 'w' : 'k'); /* the server has hung up: nobody else has it */
}

static void wire_start(afl_work *work)
{
    unsigned number = (unsigned)strtoul(work->path + strlen("/wire/"), NULL, 10);
    wire *w = &wires[number];
    require(number < WIRES && w->work == NULL && (work->op == AFL_OP_TRY || work->op == AFL_OP_RELEASE));
    w->work = work;
    w->watcher = (afl_watcher){.watch = {.fd = w->client, .events = w->watch_for}, .ready = heard};
    require_status(afl_work_watch(work, &w->watcher), 0);
    w->watched = true;
    if (send(w->client, work->op == AFL_OP_TRY ? "T" : "R", 1, MSG_NOSIGNAL) != 1)
        return; /* the server has hung up, which the watch reports */
}

static void wire_stop(afl_work *work)
{
    for (int i = 0; i < WIRES; i++) {
        if (wires[i].work != work)
            continue;
        stop_listening(&wires[i]);
        wires[i].work = NULL;
    }
}

static void wire_nothing(afl_work *work)
{
    (void)work;
}

static const afl_protocol WIRE = {.name = "wire",
                                  .hand_on = true,
                                  .start = wire_start,
                                  .stop = wire_stop,
                                  .reconcile = wire_nothing,
                                  .abandon = wire_nothing};

static aflock *open_wire(rig *r, unsigned number)
{
    int ends[2];
    aflock *lock;
    char path[32];
    require(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) == 0);
    wires[number] = (wire){.client = ends[0], .server = ends[1], .watch_for = AFLOCK_READ};
    snprintf(path, sizeof path, "/wire/%u", number);
    require_status(afl_open_protocol(&lock, r->ctx, path, &WIRE, NULL), 0);
    return lock;
}

static void close_wire(unsigned number)
{
    close(wires[number].client);
    if (wires[number].server >= 0)
        close(wires[number].server);
}

/* ------------------------------------------------------------------------------------------------------ the server */

static bool has_asked(void *user)
{
    const wire *w = user;
    char letter;
    return recv(w->server, &letter, 1, MSG_PEEK) == 1;
}

static void serve(rig *r, wire *w, char expected, char reply)
{
    char letter = '\0';
    rig_await_ticking(r, has_asked, w);
    require(read(w->server, &letter, 1) == 1);
    require(letter == expected);
    require(write(w->server, &reply, 1) == 1);
}

struct serving {
    const wire *wire;
    const answer *until;
};

static bool serve_or_end(void *user)
{
    const struct serving *s = user;
    char letter;
    if (read(s->wire->server, &letter, 1) == 1)
        require(write(s->wire->server, letter == 'T' ? "w" : "k", 1) == 1);
    return s->until->count > 0;
}

/* Says yes to everything until there is an answer. */
static void serve_until(rig *r, const wire *w, const answer *a)
{
    struct serving serving = {w, a};
    rig_await_ticking(r, serve_or_end, &serving);
}

/* ------------------------------------------------------------------------------------------------------- the cases */

static void a_watch_carries_an_attempt(rig *r)
{
    answer a = {.count = 0}, b = {.count = 0}, released = {.count = 0};
    aflock *lock = open_wire(r, 0);
    require_status(rig_acquire(r, lock, NULL, &a), 0);
    require_status(rig_acquire(r, lock, NULL, &b), 0);
    rig_pass(r, 2 * MS);
    require(a.count == 0 && wires[0].heard == 0);
    serve(r, &wires[0], 'T', 'c'); /* then it is tried again */
    serve(r, &wires[0], 'T', 'w');
    rig_await_status(r, &a, 0);
    require(a.result.attempts == 2 && !wires[0].watched);
    require_status(rig_release(r, lock, a.req, NULL), 0);
    serve_until(r, &wires[0], &b); /* handed on, or, where all is slow, given up first */
    rig_await_status(r, &b, 0);
    require_status(rig_release(r, lock, b.req, &released), 0);
    serve_until(r, &wires[0], &released);
    rig_await_status(r, &released, 0);
    require(wires[0].heard >= 3 && !wires[0].watched);
    require_status(rig_close(r, lock), 0);
    close_wire(0);
}

static void watches_are_level_triggered(rig *r)
{
    answer a = {.count = 0};
    aflock *lock = open_wire(r, 0);
    wires[0].patience = 5;
    require_status(rig_acquire(r, lock, NULL, &a), 0);
    serve(r, &wires[0], 'T', 'w');
    rig_await_status(r, &a, 0);
    require(wires[0].heard == 6);
    require_status(rig_release(r, lock, a.req, NULL), 0);
    serve(r, &wires[0], 'R', 'k');
    rig_await(r, &wires[0].heard, 7);
    close_wire(0);
}

/* Watched for both directions at first: it is writable at once, and then watched for the answer only. */
static void a_watch_changes_its_directions(rig *r)
{
    answer a = {.count = 0};
    aflock *lock = open_wire(r, 0);
    wires[0].watch_for = AFLOCK_READ | AFLOCK_WRITE;
    require_status(rig_acquire(r, lock, NULL, &a), 0);
    rig_await(r, &wires[0].writable, 1);
    rig_pass(r, 2 * MS);
    require(wires[0].writable == 1 && wires[0].heard == 0);
    serve(r, &wires[0], 'T', 'w');
    rig_await_status(r, &a, 0);
    require_status(rig_release(r, lock, a.req, NULL), 0);
    serve(r, &wires[0], 'R', 'k');
    rig_await(r, &wires[0].heard, 2);
    close_wire(0);
}

static void a_watch_reports_a_hang_up(rig *r)
{
    answer a = {.count = 0};
    aflock *lock = open_wire(r, 0);
    require_status(rig_acquire(r, lock, NULL, &a), 0);
    rig_pass(r, MS);
    close(wires[0].server);
    wires[0].server = -1;
    rig_await_status(r, &a, 0);
    require_status(rig_release(r, lock, a.req, NULL), 0);
    rig_await(r, &wires[0].heard, 2);
    close_wire(0);
}

/* A batch of events at once. */
static void many_watches_are_ready_at_once(rig *r)
{
    answer answers[WIRES] = {{.count = 0}};
    for (unsigned i = 0; i < WIRES; i++)
        require_status(rig_acquire(r, open_wire(r, i), NULL, &answers[i]), 0);
    rig_pass(r, MS);
    for (unsigned i = 0; i < WIRES; i++)
        serve(r, &wires[i], 'T', 'w');
    for (unsigned i = 0; i < WIRES; i++) {
        rig_await_status(r, &answers[i], 0);
        require(wires[i].heard == 1);
    }
    require(rig_free(r, MS) == WIRES); /* asked to release, and not heard of */
    for (unsigned i = 0; i < WIRES; i++)
        close_wire(i);
}

/* Both are ready in the same round; whichever is reported first silences the other, for good. */
static void a_watch_that_is_ended_is_not_reported(rig *r)
{
    answer answers[2] = {{.count = 0}};
    for (unsigned i = 0; i < 2; i++) {
        require_status(rig_acquire(r, open_wire(r, i), NULL, &answers[i]), 0);
        wires[i].silences = &wires[1 - i];
    }
    rig_pass(r, MS);
    for (unsigned i = 0; i < 2; i++) {
        char letter;
        require(read(wires[i].server, &letter, 1) == 1);
        require(write(wires[i].server, "w", 1) == 1);
    }
    rig_await(r, &r->answers, 1);
    rig_pass(r, 2 * MS);
    require(wires[0].heard + wires[1].heard == 1);
    require(answers[0].count + answers[1].count == 1);
    require(rig_free(r, MS) == 1);
    for (unsigned i = 0; i < 2; i++)
        close_wire(i);
}

/* Two watches on one descriptor, as two paths at one server would have. */
static void one_descriptor_is_watched_twice(rig *r)
{
    answer answers[2] = {{.count = 0}};
    aflock *locks[] = {open_wire(r, 0), open_wire(r, 1)};
    int spare[2] = {wires[1].client, wires[1].server};
    wires[1].client = wires[0].client;
    wires[0].patience = wires[1].patience = 1;
    for (unsigned i = 0; i < 2; i++)
        require_status(rig_acquire(r, locks[i], NULL, &answers[i]), 0);
    rig_pass(r, MS);
    require(write(wires[0].server, "w", 1) == 1);
    rig_await(r, &wires[0].heard, 1);
    rig_await(r, &wires[1].heard, 1); /* both have heard, neither has read */
    require(write(wires[0].server, "w", 1) == 1);
    for (unsigned i = 0; i < 2; i++)
        rig_await_status(r, &answers[i], 0);
    require(rig_free(r, MS) == 2);
    close(spare[0]);
    close(spare[1]);
    close_wire(0);
}

/* The context goes while its watches are set; the loop goes on. */
static void freed_while_descriptors_are_watched(rig *r)
{
    answer answers[3] = {{.count = 0}};
    for (unsigned i = 0; i < 3; i++)
        require_status(rig_acquire(r, open_wire(r, i), NULL, &answers[i]), 0);
    rig_pass(r, MS);
    require_status(rig_free(r, SEC), 0);
    for (unsigned i = 0; i < 3; i++) {
        require(answers[i].count == 1 && answers[i].result.status == AFLOCK_ECLOSED);
        require(!wires[i].watched);
        close_wire(i);
    }
    require_status(rig_context(r, &r->ctx), 0);
    rig_pass(r, MS);
}

/* The child closes its copies; the parent's watch goes on. */
static void a_child_leaves_the_watches_alone(rig *r)
{
    answer a = {.count = 0};
    int status = -1;
    require_status(rig_acquire(r, open_wire(r, 0), NULL, &a), 0);
    rig_pass(r, MS);
    pid_t child = fork();
    if (child == 0) {
        if (r->host->forget != NULL)
            r->host->forget(r->loop, r->ctx);
        require_status(aflock_ctx_abandon(r->ctx), 0);
        _exit(0);
    }
    require(child > 0 && waitpid(child, &status, 0) == child && status == 0);
    serve(r, &wires[0], 'T', 'w');
    rig_await_status(r, &a, 0);
    require(rig_free(r, MS) == 1);
    close_wire(0);
}

const conformance_case cases_watches[] = {
    {"a_watch_carries_an_attempt", a_watch_carries_an_attempt, 0},
    {"watches_are_level_triggered", watches_are_level_triggered, 0},
    {"a_watch_changes_its_directions", a_watch_changes_its_directions, 0},
    {"a_watch_reports_a_hang_up", a_watch_reports_a_hang_up, 0},
    {"many_watches_are_ready_at_once", many_watches_are_ready_at_once, 0},
    {"a_watch_that_is_ended_is_not_reported", a_watch_that_is_ended_is_not_reported, 0},
    {"one_descriptor_is_watched_twice", one_descriptor_is_watched_twice, 0},
    {"freed_while_descriptors_are_watched", freed_while_descriptors_are_watched, 0},
    {"a_child_leaves_the_watches_alone", a_child_leaves_the_watches_alone, HOST_FORKS},
    {NULL, NULL, 0},
};
