/* The rig, and the list of all cases; see conformance.h. */
#include "conformance.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

void (*conformance_failed)(const char *file, int line, const char *what);

void conformance_require_status(const char *file, int line, const char *what, int status, int expected)
{
    char message[512];
    if (status == expected)
        return;
    snprintf(message, sizeof message, "%s is %d (%s) instead of %d (%s)", what, status, aflock_error_name(status),
             expected, aflock_error_name(expected));
    conformance_failed(file, line, message);
}

/* ------------------------------------------------------------------------------------------------------ the memory */

static void *count_allocate(size_t size, void *user)
{
    rig *r = user;
    r->blocks++;
    return malloc(size);
}

static void *count_reallocate(void *block, size_t size, void *user)
{
    (void)user;
    return realloc(block, size);
}

static void count_release(void *block, void *user)
{
    rig *r = user;
    r->blocks--;
    free(block);
}

/* ------------------------------------------------------------------------------------------------- the descriptors */

static void note_descriptors(uint64_t noted[16])
{
    memset(noted, 0, 16 * sizeof *noted);
    for (int fd = 0; fd < 16 * 64; fd++)
        if (fcntl(fd, F_GETFD) >= 0)
            noted[fd / 64] |= UINT64_C(1) << (fd % 64);
}

static uint64_t real_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * SEC + (uint64_t)now.tv_nsec;
}

static void sleep_a_little(void)
{
    nanosleep(&(struct timespec){.tv_nsec = 200 * 1000}, NULL);
}

/* A worker whose context is gone may be about to close its own. */
static void await_descriptors(const rig *r)
{
    uint64_t now[16], end = real_now() + RIG_NEVER;
    note_descriptors(now);
    while (memcmp(now, r->descriptors, sizeof now) != 0 && real_now() < end) {
        sleep_a_little();
        note_descriptors(now);
    }
    require(memcmp(now, r->descriptors, sizeof now) == 0);
}

/* ----------------------------------------------------------------------------------------------- beginning and end */

/* No stall is noticed: its timer would wake a loop that nobody else wakes. */
int rig_context(rig *r, aflock_ctx **out)
{
    aflock_ctx_options options;
    aflock_ctx_options_init(&options);
    options.allocate = count_allocate;
    options.reallocate = count_reallocate;
    options.release = count_release;
    options.allocate_user = r;
    options.stall_after = 3600 * SEC;
    return r->host->context(r->loop, &options, out);
}

void rig_begin(rig *r, const conformance_host *host, const char *directory, unsigned many)
{
    *r = (rig){.host = host, .directory = directory, .many = many, .alone = true, .thread = pthread_self()};
    note_descriptors(r->descriptors);
    r->loop = host->make();
    require(r->loop != NULL);
    require_status(rig_context(r, &r->ctx), 0);
}

int rig_free_context(rig *r, aflock_ctx *ctx, uint64_t grace)
{
    if (r->host->forget != NULL && r->loop != NULL)
        r->host->forget(r->loop, ctx);
    r->freeing++;
    int unreleased = aflock_ctx_free(ctx, grace);
    r->freeing--;
    return unreleased;
}

int rig_free(rig *r, uint64_t grace)
{
    aflock_ctx *ctx = r->ctx;
    r->ctx = NULL;
    return rig_free_context(r, ctx, grace);
}

void rig_end(rig *r)
{
    r->tick_interval = 0;
    if (r->ctx != NULL)
        require_status(rig_free(r, SEC), 0);
    if (r->loop != NULL)
        r->host->destroy(r->loop);
    require(r->answers == r->promised);
    require(r->blocks == 0);
    if (r->alone)
        await_descriptors(r);
}

/* --------------------------------------------------------------------------------------------------------- running */

struct wanted {
    const unsigned *counter;
    unsigned value;
};

static bool has_come(void *user)
{
    const struct wanted *wanted = user;
    return *wanted->counter >= wanted->value;
}

void rig_await(rig *r, const unsigned *counter, unsigned value)
{
    struct wanted wanted = {counter, value};
    require(r->host->run(r->loop, has_come, &wanted, RIG_NEVER));
}

static void count_up(void *user)
{
    ++*(unsigned *)user;
}

void rig_pass(rig *r, uint64_t duration)
{
    unsigned passed = 0;
    r->host->timer(r->loop, duration, count_up, &passed);
    rig_await(r, &passed, 1);
}

static void tick(void *user)
{
    rig *r = user;
    require(r->calls == 0 && r->callbacks == 0);
    if (r->tick_interval == 0)
        return;
    r->ticks++;
    r->host->timer(r->loop, r->tick_interval, tick, r);
}

/* The timer that is pending when it ends is waited for: its user must stay. */
void rig_tick(rig *r, uint64_t interval)
{
    uint64_t before = r->tick_interval;
    r->tick_interval = interval;
    if (before == 0)
        r->host->timer(r->loop, interval, tick, r);
    else if (interval == 0)
        rig_pass(r, 2 * before);
}

void rig_await_ticking(rig *r, bool (*done)(void *), void *user)
{
    rig_tick(r, MS);
    require(r->host->run(r->loop, done, user, RIG_NEVER));
    rig_tick(r, 0);
}

void rig_run_out(rig *r)
{
    r->host->run_out(r->loop);
}

uint64_t rig_now(rig *r)
{
    return r->host->now(r->loop);
}

/* -------------------------------------------------------------------------------------------------------- requests */

void rig_answered(aflock *lock, const aflock_result *result, void *user)
{
    answer *a = user;
    rig *r = a->rig;
    require(pthread_equal(r->thread, pthread_self()));
    require(r->freeing > 0 || (r->calls == 0 && r->callbacks == 0)); /* a fresh stack */
    require(result->size == sizeof *result);
    a->count++;
    a->order = ++r->answers;
    a->at = r->loop != NULL ? rig_now(r) : 0;
    a->result = *result;
    r->callbacks++;
    if (a->then != NULL)
        a->then(a, lock);
    r->callbacks--;
}

aflock_acquire_options rig_options(uint64_t timeout)
{
    aflock_acquire_options options;
    aflock_acquire_options_init(&options);
    options.timeout = timeout;
    return options;
}

void rig_path(const rig *r, const char *name, char path[PATH_MAX])
{
    int length = snprintf(path, PATH_MAX, "%s/%s", r->directory, name);
    require(length > 0 && length < PATH_MAX);
}

static aflock *open_lock(rig *r, aflock_ctx *ctx, const char *name, aflock_io io, int keep_open)
{
    aflock *lock;
    aflock_options options;
    char path[PATH_MAX];
    aflock_options_init(&options);
    options.io = io;
    options.keep_open = keep_open;
    rig_path(r, name, path);
    r->calls++;
    require_status(aflock_open(&lock, ctx, path, &options), 0);
    r->calls--;
    return lock;
}

aflock *rig_open_in(rig *r, aflock_ctx *ctx, const char *name, aflock_io io)
{
    return open_lock(r, ctx, name, io, 0);
}

aflock *rig_open_kept(rig *r, const char *name, aflock_io io)
{
    return open_lock(r, r->ctx, name, io, 1);
}

aflock *rig_open(rig *r, const char *name, aflock_io io)
{
    return rig_open_in(r, r->ctx, name, io);
}

int rig_acquire(rig *r, aflock *lock, const aflock_acquire_options *options, answer *a)
{
    a->rig = r;
    r->calls++;
    int status = aflock_acquire(lock, options, rig_answered, a, &a->req);
    r->calls--;
    r->promised += status == 0;
    return status;
}

int rig_release(rig *r, aflock *lock, aflock_req req, answer *a)
{
    if (a != NULL)
        a->rig = r;
    r->calls++;
    int status = aflock_release(lock, req, a != NULL ? rig_answered : NULL, a);
    r->calls--;
    r->promised += status == 0 && a != NULL;
    return status;
}

int rig_cancel(rig *r, aflock *lock, aflock_req req)
{
    r->calls++;
    int status = aflock_cancel(lock, req);
    r->calls--;
    return status;
}

int rig_close(rig *r, aflock *lock)
{
    r->calls++;
    int status = aflock_close(lock);
    r->calls--;
    return status;
}

void rig_await_status(rig *r, const answer *a, int status)
{
    rig_await(r, &a->count, 1);
    require(a->count == 1);
    require_status(a->result.status, status);
}

void rig_hold(rig *r, aflock *lock, const aflock_acquire_options *options, answer *a)
{
    *a = (answer){.then = a->then, .user = a->user};
    require_status(rig_acquire(r, lock, options, a), 0);
    rig_await_status(r, a, 0);
    require(a->result.req.id == a->req.id);
}

void rig_let_go(rig *r, aflock *lock, aflock_req req)
{
    answer released = {.count = 0};
    require_status(rig_release(r, lock, req, &released), 0);
    rig_await_status(r, &released, 0);
}

/* ----------------------------------------------------------------------------------------------------------- files */

int rig_foreign(const rig *r, const char *name)
{
    char path[PATH_MAX];
    rig_path(r, name, path);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    require(fd >= 0);
    if (flock(fd, LOCK_EX | LOCK_NB) == 0)
        return fd;
    require(errno == EWOULDBLOCK);
    close(fd);
    return -1;
}

bool rig_is_free(const rig *r, const char *name)
{
    int fd = rig_foreign(r, name);
    if (fd >= 0)
        close(fd);
    return fd >= 0;
}

void rig_await_free(rig *r, const char *name)
{
    uint64_t end = real_now() + RIG_NEVER;
    while (!rig_is_free(r, name)) {
        require(real_now() < end);
        if (r->ctx != NULL)
            rig_pass(r, MS);
        else
            sleep_a_little();
    }
}

/* ------------------------------------------------------------------------------------------------------- obstacles */

static atomic_uint hanging;

unsigned conformance_hanging(void)
{
    return atomic_load(&hanging);
}

/* Who removes an obstacle counts its workers as running again at once: they are about to. */
int obstacle_meet(int fd, void *user)
{
    (void)fd;
    obstacle *o = user;
    pthread_mutex_lock(&o->mutex);
    bool stopped = !o->removed;
    if (stopped) {
        o->met++;
        atomic_fetch_add(&hanging, 1);
    }
    while (!o->removed)
        pthread_cond_wait(&o->changed, &o->mutex);
    o->passed += stopped;
    pthread_cond_broadcast(&o->changed);
    pthread_mutex_unlock(&o->mutex);
    return 0;
}

void obstacle_remove(obstacle *o)
{
    pthread_mutex_lock(&o->mutex);
    if (!o->removed)
        atomic_fetch_sub(&hanging, o->met);
    o->removed = true;
    pthread_cond_broadcast(&o->changed);
    while (o->passed < o->met) /* the obstacle may go out of scope now */
        pthread_cond_wait(&o->changed, &o->mutex);
    pthread_mutex_unlock(&o->mutex);
}

struct meeting {
    obstacle *obstacle;
    unsigned wanted;
};

static bool has_met(void *user)
{
    const struct meeting *meeting = user;
    pthread_mutex_lock(&meeting->obstacle->mutex);
    bool met = meeting->obstacle->met >= meeting->wanted;
    pthread_mutex_unlock(&meeting->obstacle->mutex);
    return met;
}

void obstacle_await(rig *r, obstacle *o, unsigned met)
{
    struct meeting meeting = {o, met};
    rig_await_ticking(r, has_met, &meeting);
}

/* ------------------------------------------------------------------------------------------------------- the cases */

static const conformance_case *const GROUPS[] = {
    cases_requests, cases_time,    cases_cancel, cases_callbacks, cases_end,     cases_processes, cases_waiting,
    cases_wanted,   cases_watches, cases_lease,  cases_markers,   cases_pidfile, cases_rw,        cases_soft_rw};

const conformance_case *conformance_case_at(unsigned number)
{
    for (unsigned group = 0; group < sizeof GROUPS / sizeof *GROUPS; group++)
        for (const conformance_case *c = GROUPS[group]; c->name != NULL; c++)
            if (number-- == 0)
                return c;
    return NULL;
}

const char *conformance_gap_of(const conformance_host *host, const conformance_case *c)
{
    for (const conformance_gap *gap = host->gaps; gap->name != NULL; gap++)
        if (strcmp(gap->name, c->name) == 0)
            return gap->reason;
    return NULL;
}

static bool review_case(const conformance_host *host, const conformance_case *c)
{
    const char *reason = conformance_gap_of(host, c);
    bool lacking = (c->needs & ~host->properties) != 0;
    if (reason != NULL)
        printf("not run: %s on %s: %s\n", c->name, host->name, reason);
    if (lacking != (reason != NULL))
        printf("%s on %s: %s\n", c->name, host->name,
               lacking ? "the host lacks what it needs, and its table does not say why"
                       : "the host's table says that it is not run, and nothing is lacking");
    return lacking == (reason != NULL);
}

static bool is_case(const char *name)
{
    const conformance_case *c;
    for (unsigned i = 0; (c = conformance_case_at(i)) != NULL; i++)
        if (strcmp(c->name, name) == 0)
            return true;
    return false;
}

bool conformance_review(const conformance_host *host, unsigned *run, unsigned *not_run)
{
    const conformance_case *c;
    bool right = true;
    *run = *not_run = 0;
    for (unsigned i = 0; (c = conformance_case_at(i)) != NULL; i++) {
        right &= review_case(host, c);
        ++*(conformance_gap_of(host, c) != NULL ? not_run : run);
    }
    for (const conformance_gap *gap = host->gaps; gap->name != NULL; gap++) {
        if (is_case(gap->name))
            continue;
        printf("%s: there is no case %s\n", host->name, gap->name);
        right = false;
    }
    return right;
}
