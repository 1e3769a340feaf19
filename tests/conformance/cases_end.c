/* The end: a context freed in each state of its requests, drained, outliving its loop; and that nothing is left. The
 * rig looks for descriptors, memory and answers after every case. */
#include "conformance.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

static void require_closed(const answer *a)
{
    require(a->count == 1);
    require_status(a->result.status, AFLOCK_ECLOSED);
}

/* --------------------------------------------------------------------------------------------- freed in each state */

static void freed_without_having_been_used(rig *r)
{
    aflock_token *token;
    rig_open(r, "lock", AFLOCK_IO_AUTO);
    require_status(aflock_token_new(&token, r->ctx), 0);
    aflock_token_free(token);
    require_status(rig_free(r, 0), 0);
}

static void freed_before_the_first_turn(rig *r)
{
    answer a = {.count = 0}, b = {.count = 0};
    require_status(rig_acquire(r, rig_open(r, "inline", AFLOCK_IO_INLINE), NULL, &a), 0);
    require_status(rig_acquire(r, rig_open(r, "pool", AFLOCK_IO_POOL), NULL, &b), 0);
    require_status(rig_free(r, SEC), 0);
    require_closed(&a);
    require_closed(&b);
    require(rig_is_free(r, "inline"));
    rig_await_free(r, "pool");
}

static void freed_while_requests_wait(rig *r)
{
    answer held = {.count = 0}, queue[3] = {{.count = 0}}, foreign = {.count = 0};
    int holder = rig_foreign(r, "foreign");
    aflock *lock = rig_open(r, "lock", AFLOCK_IO_AUTO);
    rig_hold(r, lock, NULL, &held);
    aflock_acquire_options o = rig_options(SEC);
    for (int i = 0; i < 3; i++)
        require_status(rig_acquire(r, lock, &o, &queue[i]), 0);
    require_status(rig_acquire(r, rig_open(r, "foreign", AFLOCK_IO_AUTO), &o, &foreign), 0);
    rig_pass(r, 2 * MS);
    require_status(rig_free(r, SEC), 0);
    require_closed(&foreign);
    for (int i = 0; i < 3; i++)
        require_closed(&queue[i]);
    require(rig_is_free(r, "lock"));
    close(holder);
}

/* The context goes at once; the worker gives back what it has won when it comes to itself. */
static void freed_while_a_worker_tries(rig *r)
{
    answer a = {.count = 0};
    obstacle wall = OBSTACLE;
    aflock *lock = rig_open(r, "lock", AFLOCK_IO_POOL);
    aflock_acquire_options o = rig_options(AFLOCK_FOREVER);
    o.on_acquired = obstacle_meet;
    o.on_acquired_user = &wall;
    require_status(rig_acquire(r, lock, &o, &a), 0);
    obstacle_await(r, &wall, 1);
    int unreleased = rig_free(r, MS);
    require(unreleased == 1);
    require_closed(&a);
    require(!rig_is_free(r, "lock"));
    obstacle_remove(&wall);
    rig_await_free(r, "lock");
}

static void *remove_later(void *user)
{
    usleep(5000);
    obstacle_remove(user);
    return NULL;
}

/* With enough grace nothing is left behind. */
static void freed_with_a_grace_for_its_worker(rig *r)
{
    answer a = {.count = 0};
    pthread_t thread;
    obstacle wall = OBSTACLE;
    aflock *lock = rig_open(r, "lock", AFLOCK_IO_POOL);
    aflock_acquire_options o = rig_options(AFLOCK_FOREVER);
    o.on_acquired = obstacle_meet;
    o.on_acquired_user = &wall;
    require_status(rig_acquire(r, lock, &o, &a), 0);
    obstacle_await(r, &wall, 1);
    require(pthread_create(&thread, NULL, remove_later, &wall) == 0);
    require_status(rig_free(r, AFLOCK_FOREVER), 0);
    require_closed(&a);
    require(rig_is_free(r, "lock"));
    require(pthread_join(thread, NULL) == 0);
}

static void freed_while_it_holds(rig *r)
{
    static const aflock_io IO[] = {AFLOCK_IO_INLINE, AFLOCK_IO_POOL, AFLOCK_IO_AUTO};
    static const char *const NAMES[] = {"inline", "pool", "auto"};
    answer a[3] = {{.count = 0}}, again = {.count = 0};
    int owner;
    aflock_acquire_options o = rig_options(AFLOCK_FOREVER);
    o.owner = &owner;
    for (int i = 0; i < 3; i++)
        rig_hold(r, rig_open(r, NAMES[i], IO[i]), &o, &a[i]);
    rig_hold(r, rig_open(r, "pool", IO[1]), &o, &again);
    require_status(rig_free(r, SEC), 0);
    for (int i = 0; i < 3; i++)
        require(a[i].count == 1 && rig_is_free(r, NAMES[i]));
}

static void freed_while_it_releases(rig *r)
{
    answer a = {.count = 0}, b = {.count = 0}, released = {.count = 0};
    aflock *lock = rig_open(r, "lock", AFLOCK_IO_POOL), *other = rig_open(r, "other", AFLOCK_IO_POOL);
    rig_hold(r, lock, NULL, &a);
    rig_hold(r, other, NULL, &b);
    require_status(rig_release(r, lock, a.req, &released), 0);
    require_status(rig_release(r, other, b.req, NULL), 0);
    require_status(rig_close(r, other), 0);
    require_status(rig_free(r, SEC), 0);
    require(released.count == 1);
    require_status(released.result.status, 0);
    require(rig_is_free(r, "lock") && rig_is_free(r, "other"));
}

static void close_and_open(answer *a, aflock *lock)
{
    require_status(a->result.status, AFLOCK_ECLOSED);
    require_status(rig_acquire(a->rig, lock, NULL, a), AFLOCK_ECLOSED);
    require_status(aflock_ctx_free(aflock_context(lock), 0), AFLOCK_EBUSY);
    require_status(rig_close(a->rig, lock), 0);
}

static void freed_with_callbacks_that_go_on_calling(rig *r)
{
    answer a = {.then = close_and_open}, b = {.then = close_and_open};
    int holder = rig_foreign(r, "lock");
    require_status(rig_acquire(r, rig_open(r, "lock", AFLOCK_IO_AUTO), NULL, &a), 0);
    require_status(rig_acquire(r, rig_open(r, "lock", AFLOCK_IO_AUTO), NULL, &b), 0);
    rig_pass(r, MS);
    require_status(rig_free(r, SEC), 0);
    require_closed(&a);
    require_closed(&b);
    close(holder);
}

static void free_in_timer(void *user)
{
    rig *r = user;
    require_status(rig_free(r, SEC), 0);
}

static bool is_freed(void *user)
{
    const rig *r = user;
    return r->ctx == NULL;
}

/* The loop's own functions are not callbacks. */
static void freed_by_a_timer_of_the_loop(rig *r)
{
    answer a = {.count = 0}, b = {.count = 0};
    int holder = rig_foreign(r, "foreign");
    require_status(rig_acquire(r, rig_open(r, "foreign", AFLOCK_IO_AUTO), NULL, &a), 0);
    rig_hold(r, rig_open(r, "lock", AFLOCK_IO_AUTO), NULL, &b);
    r->host->timer(r->loop, MS, free_in_timer, r);
    require(r->host->run(r->loop, is_freed, r, RIG_NEVER));
    require_closed(&a);
    require(rig_is_free(r, "lock"));
    close(holder);
}

/* -------------------------------------------------------------------------------------------------- other contexts */

static void freed_beside_another_context(rig *r)
{
    answer a = {.count = 0}, b = {.count = 0};
    aflock_ctx *other;
    require_status(rig_context(r, &other), 0);
    aflock *lock = rig_open_in(r, other, "lock", AFLOCK_IO_POOL);
    rig_hold(r, rig_open(r, "lock", AFLOCK_IO_AUTO), NULL, &a);
    require_status(rig_acquire(r, lock, NULL, &b), 0);
    rig_pass(r, MS);
    require(b.count == 0);
    require_status(rig_free(r, SEC), 0);
    rig_await_status(r, &b, 0);
    require_status(rig_free_context(r, other, SEC), 0);
    require(rig_is_free(r, "lock"));
}

static void a_new_context_follows_on_the_same_loop(rig *r)
{
    for (int i = 0; i < 10; i++) {
        answer a = {.count = 0};
        rig_hold(r, rig_open(r, "lock", i % 2 ? AFLOCK_IO_POOL : AFLOCK_IO_AUTO), NULL, &a);
        require_status(rig_free(r, SEC), 0);
        require(rig_is_free(r, "lock"));
        require_status(rig_context(r, &r->ctx), 0);
    }
}

/* From then on no call needs the loop. */
static void the_loop_goes_first(rig *r)
{
    answer held = {.count = 0}, waits = {.count = 0}, never_asked = {.count = 0};
    aflock *lock = rig_open(r, "lock", AFLOCK_IO_AUTO);
    rig_hold(r, lock, NULL, &held);
    require_status(rig_acquire(r, lock, NULL, &waits), 0);
    r->host->destroy(r->loop);
    r->loop = NULL;
    require_status(rig_acquire(r, lock, NULL, &never_asked), 0);
    require_status(rig_cancel(r, lock, never_asked.req), 0);
    require_status(rig_free(r, SEC), 0);
    require_closed(&waits);
    require(never_asked.count == 1);
    require_status(never_asked.result.status, AFLOCK_ECANCELED);
    require(rig_is_free(r, "lock"));
}

/* ----------------------------------------------------------------------------------------------------------- drain */

struct drained {
    rig *rig;
    unsigned count;
    unsigned after; /* so many answers had come */
};

static void on_drained(aflock_ctx *ctx, void *user)
{
    struct drained *drained = user;
    require(drained->rig->freeing > 0 || (drained->rig->calls == 0 && drained->rig->callbacks == 0));
    require_status(aflock_ctx_free(ctx, 0), AFLOCK_EBUSY);
    drained->count++;
    drained->after = drained->rig->answers;
}

static int drain(rig *r, struct drained *drained)
{
    r->calls++;
    int status = aflock_ctx_drain(r->ctx, on_drained, drained);
    r->calls--;
    return status;
}

static void release_it(answer *a, aflock *lock)
{
    require_status(rig_release(a->rig, lock, a->req, NULL), 0);
}

static void a_drain_waits_for_all_and_lets_nobody_in(rig *r)
{
    struct drained drained = {.rig = r};
    answer held = {.count = 0}, waits = {.then = release_it}, never = {.count = 0};
    aflock *lock = rig_open(r, "lock", AFLOCK_IO_POOL);
    rig_hold(r, lock, NULL, &held);
    require_status(rig_acquire(r, lock, NULL, &waits), 0);
    require_status(drain(r, &drained), 0);
    require_status(drain(r, &drained), AFLOCK_EBUSY);
    require_status(rig_acquire(r, lock, NULL, &never), AFLOCK_ECLOSED);
    rig_pass(r, 2 * MS);
    require(drained.count == 0);
    rig_let_go(r, lock, held.req);
    rig_await(r, &drained.count, 1);
    require(waits.count == 1 && waits.result.status == 0);
    require(drained.after == r->answers);
    require(rig_is_free(r, "lock"));
}

static void a_drain_with_nothing_to_wait_for(rig *r)
{
    struct drained drained = {.rig = r};
    require_status(drain(r, &drained), 0);
    require(drained.count == 0);
    rig_await(r, &drained.count, 1);
    require(drained.count == 1);
}

struct held {
    rig *rig;
    aflock *lock;
    aflock_req req;
};

static void release_in_timer(void *user)
{
    const struct held *held = user;
    require_status(rig_release(held->rig, held->lock, held->req, NULL), 0);
}

static void a_drain_that_is_due_keeps_the_loop_alive(rig *r)
{
    struct drained drained = {.rig = r};
    require_status(drain(r, &drained), 0);
    rig_run_out(r);
    require(drained.count == 1);
}

/* A hold alone lets the loop end, a hold that is drained does not. */
static void a_drain_keeps_the_loop_alive(rig *r)
{
    struct drained drained = {.rig = r};
    answer a = {.count = 0};
    aflock *lock = rig_open(r, "lock", AFLOCK_IO_POOL);
    rig_hold(r, lock, NULL, &a);
    struct held held = {r, lock, a.req};
    require_status(drain(r, &drained), 0);
    r->host->timer(r->loop, 2 * MS, release_in_timer, &held);
    rig_run_out(r);
    require(drained.count == 1);
}

static void a_drain_is_answered_at_the_end(rig *r)
{
    struct drained drained = {.rig = r};
    answer a = {.count = 0};
    rig_hold(r, rig_open(r, "lock", AFLOCK_IO_AUTO), NULL, &a);
    require_status(drain(r, &drained), 0);
    require_status(rig_free(r, SEC), 0);
    require(drained.count == 1);
}

/* --------------------------------------------------------------------------------------------------------- hygiene */

static unsigned count_descriptors(void)
{
    unsigned count = 0;
    for (int fd = 0; fd < 256; fd++)
        count += fcntl(fd, F_GETFD) >= 0;
    return count;
}

/* A context that works for long needs no more descriptors than one that begins; each of them closes on exec. */
static void descriptors_do_not_pile_up(rig *r)
{
    answer a = {.count = 0};
    unsigned before = count_descriptors();
    for (int i = 0; i < 50; i++) {
        aflock *lock = rig_open(r, i % 2 ? "a" : "b", i % 3 ? AFLOCK_IO_AUTO : AFLOCK_IO_POOL);
        rig_hold(r, lock, NULL, &a);
        require(count_descriptors() == before + 1);
        for (int fd = 3; fd < 256; fd++)
            if (fcntl(fd, F_GETFD) >= 0 && !(r->descriptors[fd / 64] >> fd % 64 & 1))
                require(fcntl(fd, F_GETFD) & FD_CLOEXEC);
        rig_let_go(r, lock, a.req);
        require_status(rig_close(r, lock), 0);
    }
    require(count_descriptors() == before);
}

/* In a program without standard streams, what it prints and reads must not meet anything of ours. */
static void standard_streams_are_left_alone(rig *r)
{
    answer a = {.count = 0};
    aflock_ctx *other = NULL;
    int kept[3];
    bool taken = false;
    for (int fd = 0; fd < 3; fd++) {
        kept[fd] = fcntl(fd, F_DUPFD_CLOEXEC, 3);
        close(fd);
    }
    int status = rig_context(r, &other);
    aflock *lock = rig_open_in(r, other, "lock", AFLOCK_IO_AUTO);
    int asked = rig_acquire(r, lock, NULL, &a);
    rig_await(r, &a.count, 1);
    for (int fd = 0; fd < 3; fd++)
        taken |= fcntl(fd, F_GETFD) >= 0;
    int unreleased = rig_free_context(r, other, SEC);
    for (int fd = 0; fd < 3; fd++) { /* so that a failure can be told */
        if (kept[fd] >= 0)
            dup2(kept[fd], fd);
        close(kept[fd]);
    }
    require_status(status, 0);
    require_status(asked, 0);
    require_status(a.result.status, 0);
    require(unreleased == 0);
    require(!taken);
}

const conformance_case cases_end[] = {
    {"freed_without_having_been_used", freed_without_having_been_used, 0},
    {"freed_before_the_first_turn", freed_before_the_first_turn, 0},
    {"freed_while_requests_wait", freed_while_requests_wait, 0},
    {"freed_while_a_worker_tries", freed_while_a_worker_tries, 0},
    {"freed_with_a_grace_for_its_worker", freed_with_a_grace_for_its_worker, 0},
    {"freed_while_it_holds", freed_while_it_holds, 0},
    {"freed_while_it_releases", freed_while_it_releases, 0},
    {"freed_with_callbacks_that_go_on_calling", freed_with_callbacks_that_go_on_calling, 0},
    {"freed_by_a_timer_of_the_loop", freed_by_a_timer_of_the_loop, 0},
    {"freed_beside_another_context", freed_beside_another_context, HOST_SHARES},
    {"a_new_context_follows_on_the_same_loop", a_new_context_follows_on_the_same_loop, 0},
    {"the_loop_goes_first", the_loop_goes_first, HOST_OUTLIVED},
    {"a_drain_waits_for_all_and_lets_nobody_in", a_drain_waits_for_all_and_lets_nobody_in, 0},
    {"a_drain_with_nothing_to_wait_for", a_drain_with_nothing_to_wait_for, 0},
    {"a_drain_that_is_due_keeps_the_loop_alive", a_drain_that_is_due_keeps_the_loop_alive, HOST_ENDS},
    {"a_drain_keeps_the_loop_alive", a_drain_keeps_the_loop_alive, HOST_ENDS},
    {"a_drain_is_answered_at_the_end", a_drain_is_answered_at_the_end, 0},
    {"descriptors_do_not_pile_up", descriptors_do_not_pile_up, 0},
    {"standard_streams_are_left_alone", standard_streams_are_left_alone, HOST_SHARES},
    {NULL, NULL, 0},
};
