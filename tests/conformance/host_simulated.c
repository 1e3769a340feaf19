/* The simulated host: the tables of support/fake_host.h, run automatically, on a clock that moves only when nothing
 * else can happen.
 *
 * A round reports descriptors that are ready, starts the jobs that were submitted, fires what is due and runs the turns
 * that were asked for. If there was nothing of all that and no worker runs (those that hang at an obstacle do not
 * count), the clock goes to the next deadline. If there is none either, only another thread can help: real time passes.
 * The contexts of one loop share its clock.
 */
#include "conformance.h"

#include "support/fake_host.h"

#include <poll.h>
#include <stdlib.h>
#include <time.h>

enum { MEMBERS = 8, WATCHES = 32, WORKERS = 128 };

struct loop;

/* A context's host. */
struct member {
    fake_host host; /* first: `self` of the tables */
    struct loop *loop;
    aflock_watch *watches[WATCHES];
};

struct timer {
    uint64_t deadline;
    void (*fire)(void *user);
    void *user;
    struct timer *next;
};

struct loop {
    uint64_t now;
    struct member *members[MEMBERS];
    unsigned count;
    struct timer *timers; /* in the order of their deadlines */
    pthread_t workers[WORKERS];
    unsigned running;
    bool gone; /* destroyed; the clock stays for the contexts that are left */
};

static struct loop *the_loop; /* seam_waits has no argument */

static uint64_t real_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * SEC + (uint64_t)now.tv_nsec;
}

static void sleep_a_little(void)
{
    nanosleep(&(struct timespec){.tv_nsec = 20 * 1000}, NULL);
}

static void set_now(struct loop *loop, uint64_t now)
{
    loop->now = now;
    for (unsigned i = 0; i < loop->count; i++)
        loop->members[i]->host.now = now;
}

/* ----------------------------------------------------------------------------------------------------- the workers */

static void start_worker(struct loop *loop, struct member *m)
{
    require(loop->running < WORKERS);
    loop->workers[loop->running++] = fake_go(&m->host, 0);
}

static bool start_workers(struct loop *loop)
{
    bool started = false;
    for (unsigned i = 0; i < loop->count; i++) {
        while (loop->members[i]->host.job_count > 0) {
            start_worker(loop, loop->members[i]);
            started = true;
        }
    }
    return started;
}

static void end_workers(struct loop *loop)
{
    for (unsigned i = 0; i < loop->running;)
        if (pthread_tryjoin_np(loop->workers[i], NULL) == 0)
            loop->workers[i] = loop->workers[--loop->running];
        else
            i++;
}

/* Waits for all but those that hang. */
static void await_workers(struct loop *loop)
{
    end_workers(loop);
    while (loop->running > conformance_hanging()) {
        sleep_a_little();
        end_workers(loop);
    }
}

/* aflock_ctx_free waits: for a worker, or until its grace is over. */
static void wait_at_the_end(uint64_t timeout)
{
    struct loop *loop = the_loop;
    if (start_workers(loop))
        await_workers(loop);
    else
        set_now(loop, loop->now + timeout);
}

/* --------------------------------------------------------------------------------- what fake_host.c does otherwise */

static int member_watch(void *self, aflock_watch *watch)
{
    struct member *m = self;
    if (watch->events == 0)
        return AFLOCK_EINVAL;
    for (int i = 0; i < WATCHES && watch->host == NULL; i++) {
        if (m->watches[i] == NULL) {
            m->watches[i] = watch;
            watch->host = &m->watches[i];
        }
    }
    return watch->host != NULL ? 0 : AFLOCK_ENOMEM;
}

static void member_unwatch(void *self, aflock_watch *watch)
{
    (void)self;
    aflock_watch **place = watch->host;
    if (place != NULL)
        *place = NULL;
    watch->host = NULL;
}

static void free_member(struct loop *loop, unsigned i)
{
    free(loop->members[i]);
    loop->members[i] = loop->members[--loop->count];
}

static void free_closed(struct loop *loop)
{
    for (unsigned i = loop->count; i > 0; i--)
        if (loop->members[i - 1]->host.closed)
            free_member(loop, i - 1);
}

static void free_loop(struct loop *loop)
{
    for (unsigned i = 0; i < loop->running; i++)
        fake_join(loop->workers[i]);
    the_loop = NULL;
    free(loop);
}

/* The memory of a context's host stays until the round is over. */
static void member_close(void *self, int forked)
{
    (void)forked;
    struct member *m = self;
    struct loop *loop = m->loop;
    m->host.closed++;
    if (!loop->gone)
        return;
    free_closed(loop);
    if (loop->count == 0)
        free_loop(loop);
}

static int loop_context(void *self, const aflock_ctx_options *options, aflock_ctx **out)
{
    struct loop *loop = self;
    struct member *m = calloc(1, sizeof *m);
    free_closed(loop);
    require(m != NULL && loop->count < MEMBERS);
    *out = fake_start(&m->host, 4, false, options);
    require(*out != NULL);
    m->host.no_parking = true; /* its clock would stand still as long as somebody waits */
    m->loop = loop;
    m->host.loop.watch = member_watch;
    m->host.loop.unwatch = member_unwatch;
    m->host.loop.close = member_close;
    loop->members[loop->count++] = m;
    set_now(loop, loop->now);
    seam_waits = wait_at_the_end;
    return 0;
}

/* ------------------------------------------------------------------------------------------------------ the rounds */

static bool report_one(struct member *m, unsigned place)
{
    struct pollfd fd = {.fd = m->watches[place]->fd};
    unsigned events = m->watches[place]->events, ready = 0;
    fd.events = (short)((events & AFLOCK_READ ? POLLIN : 0) | (events & AFLOCK_WRITE ? POLLOUT : 0));
    if (poll(&fd, 1, 0) <= 0)
        return false;
    if (fd.revents & (POLLIN | POLLHUP | POLLERR))
        ready |= AFLOCK_READ;
    if (fd.revents & (POLLOUT | POLLHUP | POLLERR))
        ready |= AFLOCK_WRITE;
    if (ready & events)
        aflock_host_ready(m->host.ctx, m->watches[place], ready & events);
    return (ready & events) != 0;
}

static bool report(const struct loop *loop)
{
    bool reported = false;
    for (unsigned i = 0; i < loop->count; i++)
        for (unsigned place = 0; place < WATCHES; place++)
            if (!loop->members[i]->host.closed && loop->members[i]->watches[place] != NULL)
                reported |= report_one(loop->members[i], place);
    return reported;
}

/* Those that are due now; not those that they start. */
static bool fire_timers(struct loop *loop)
{
    struct timer *due = loop->timers, **end = &due;
    while (*end != NULL && (*end)->deadline <= loop->now)
        end = &(*end)->next;
    loop->timers = *end;
    *end = NULL;
    bool fired = due != NULL;
    while (due != NULL) {
        struct timer *timer = due;
        due = timer->next;
        timer->fire(timer->user);
        free(timer);
    }
    return fired;
}

static bool take_turns(const struct loop *loop)
{
    bool taken = false;
    for (unsigned i = 0; i < loop->count; i++) {
        fake_host *h = &loop->members[i]->host;
        if (!h->closed && h->timer <= loop->now) {
            h->timer = AFLOCK_FOREVER;
            aflock_host_timer(h->ctx);
            taken = true;
        }
        if (!h->closed && (h->turn_due || atomic_load(&h->woken))) {
            fake_turn(h);
            taken = true;
        }
    }
    return taken;
}

static uint64_t next_deadline(const struct loop *loop)
{
    uint64_t next = loop->timers != NULL ? loop->timers->deadline : AFLOCK_FOREVER;
    for (unsigned i = 0; i < loop->count; i++)
        if (!loop->members[i]->host.closed && loop->members[i]->host.timer < next)
            next = loop->members[i]->host.timer;
    return next;
}

static void one_round(struct loop *loop)
{
    start_workers(loop);
    await_workers(loop);
    bool busy = report(loop);
    busy |= fire_timers(loop);
    busy |= take_turns(loop);
    free_closed(loop);
    if (busy)
        return;
    uint64_t next = next_deadline(loop);
    if (next == AFLOCK_FOREVER)
        sleep_a_little();
    else if (next > loop->now)
        set_now(loop, next);
}

static bool is_in_child(const struct loop *loop)
{
    return loop->count > 0 && aflock_host_check(loop->members[0]->host.ctx) == AFLOCK_EFORKED;
}

static bool loop_run(void *self, bool (*done)(void *user), void *user, uint64_t limit)
{
    struct loop *loop = self;
    uint64_t end = real_now() + limit;
    free_closed(loop);
    while (!done(user)) {
        if (real_now() >= end || is_in_child(loop))
            return false;
        one_round(loop);
    }
    return true;
}

static bool is_alive(const struct loop *loop)
{
    for (unsigned i = 0; i < loop->count; i++)
        if (!loop->members[i]->host.closed && loop->members[i]->host.alive)
            return true;
    return loop->timers != NULL;
}

static void loop_run_out(void *self)
{
    struct loop *loop = self;
    while (is_alive(loop))
        one_round(loop);
}

/* ------------------------------------------------------------------------------------------------- the host's rest */

static void *loop_make(void)
{
    struct loop *loop = calloc(1, sizeof *loop);
    require(loop != NULL && the_loop == NULL);
    loop->now = 1000 * SEC;
    the_loop = loop;
    return loop;
}

static void loop_destroy(void *self)
{
    struct loop *loop = self;
    while (loop->timers != NULL) {
        struct timer *timer = loop->timers;
        loop->timers = timer->next;
        free(timer);
    }
    free_closed(loop);
    if (loop->count == 0)
        free_loop(loop);
    else
        loop->gone = true;
}

static void loop_timer(void *self, uint64_t delay, void (*fire)(void *user), void *user)
{
    struct loop *loop = self;
    struct timer *timer = malloc(sizeof *timer);
    require(timer != NULL);
    *timer = (struct timer){.deadline = loop->now + delay, .fire = fire, .user = user};
    struct timer **link = &loop->timers;
    while (*link != NULL && (*link)->deadline <= timer->deadline)
        link = &(*link)->next;
    timer->next = *link;
    *link = timer;
}

static uint64_t loop_now(void *self)
{
    return ((const struct loop *)self)->now;
}

static void loop_block(void *self, uint64_t duration)
{
    struct loop *loop = self;
    set_now(loop, loop->now + duration);
}

static const conformance_gap GAPS[] = {
    {"four_threads_contend_for_one_path", "there is one clock, and it has one thread"},
    {NULL, NULL},
};

extern const conformance_host conformance_host_under_test;
const conformance_host conformance_host_under_test = {
    .name = "simulated",
    .properties = HOST_SHARES | HOST_FORKS | HOST_ENDS | HOST_IS_EXACT | HOST_OUTLIVED,
    .gaps = GAPS,
    .make = loop_make,
    .destroy = loop_destroy,
    .context = loop_context,
    .run = loop_run,
    .run_out = loop_run_out,
    .timer = loop_timer,
    .now = loop_now,
    .block = loop_block,
};
