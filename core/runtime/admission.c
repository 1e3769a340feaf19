/* Admission: which jobs may go to the executor now.
 *
 * At most `width` runs that are not stalled are out at one time, and tries leave one place to releases. One device gets
 * at most half of the places per lane and leaves one place to others, so a dead mount cannot take them all; a run whose
 * job takes `stall_after` counts as stalled: it frees its place for others (the executor replaces its thread), and a
 * device with STALLED_LIMIT of them gets no more.
 *
 * A device that has its share, while no other one waits for a place in the lane, adds its further jobs to its runs, the
 * shortest first. They are taken back when their run stalls, and when another run of the device has nothing to do: none
 * waits behind a hung one while there is a free worker for it. Tries are not added where a release may have to wait for
 * their place.
 *
 * The caller's functions (aflock_run) are jobs like others, but of a device of their own beside that of the file, as
 * they may take as long as they like: attempts are never added behind one, and eight that are stalled do not stop the
 * attempts. All together they get at most half of the places.
 *
 * Which device an attempt is for is known once its path was resolved, and finding that out can hang. So a job for a
 * path of which nothing is known goes to a device of its own first, AFL_DEVICE_UNKNOWN, and there it only looks at the
 * table of mounts. It comes back with a guess, is sent to that device, and looks once more before it runs, now also at
 * symbolic links on local file systems. That way all that is on a dead mount, or behind a link to it, shares its
 * limits, and nothing on the way to the guess can hang. A wrong guess does no harm beyond that: a few jobs count for
 * the wrong device.
 */
#include "runtime/runtime.h"

#include <errno.h>
#include <stdlib.h>

enum { STALLED_LIMIT = 8, RETRY_MS = 5 };

/* ---------------------------------------------------------------------------------------------------------- devices */

enum { DEVICE_BUCKETS = sizeof((afl_admission *)0)->devices / sizeof((afl_admission *)0)->devices[0] };

static afl_device **device_bucket(aflock_ctx *ctx, uint64_t key)
{
    return &ctx->admission.devices[(key * UINT64_C(0x9E3779B97F4A7C15) >> 32) % DEVICE_BUCKETS];
}

afl_device *afl_device_get(aflock_ctx *ctx, uint64_t key)
{
    afl_device **bucket = device_bucket(ctx, key);
    for (afl_device *d = *bucket; d; d = d->hash_next) {
        if (d->key == key) {
            d->refs++;
            return d;
        }
    }
    afl_device *d = afl_allocate(ctx, sizeof *d);
    if (!d)
        return NULL;
    d->key = key;
    d->refs = 1;
    d->hash_next = *bucket;
    *bucket = d;
    return d;
}

afl_device *afl_device_of_functions(aflock_ctx *ctx, const afl_device *device)
{
    afl_device *d = afl_device_get(ctx, ~device->key ^ UINT64_C(0x66756E6374696F6E));
    if (d)
        d->functions = true;
    return d;
}

void afl_device_put(aflock_ctx *ctx, afl_device *device)
{
    if (!device || --device->refs > 0)
        return;
    afl_device **link = device_bucket(ctx, device->key);
    while (*link != device)
        link = &(*link)->hash_next;
    *link = device->hash_next;
    afl_release_memory(ctx, device);
}

/* ----------------------------------------------------------------------------------------------------------- queues */

static void push(afl_job_list *list, aflock_job *job)
{
    job->next = NULL;
    if (list->first)
        list->last->next = job;
    else
        list->first = job;
    list->last = job;
}

static aflock_job *pop(afl_job_list *list)
{
    aflock_job *job = list->first;
    list->first = job->next;
    return job;
}

static void join_round(afl_admission *a, afl_device *d, int lane)
{
    if (d->ready[lane])
        return;
    d->ready[lane] = true;
    d->refs++;
    d->ready_next[lane] = NULL;
    if (a->round[lane])
        a->round_last[lane]->ready_next[lane] = d;
    else
        a->round[lane] = d;
    a->round_last[lane] = d;
}

static void enqueue(aflock_ctx *ctx, aflock_job *job, afl_device *device)
{
    job->device = device;
    device->refs++;
    job->astray = job->sent_back = false;
    job->dropped = 0;
    push(&device->queue[job->lane], job);
    join_round(&ctx->admission, device, job->lane);
}

void afl_admission_submit(aflock_ctx *ctx, aflock_job *job, afl_device *device, const char *path, aflock_lane lane)
{
    job->lane = (uint8_t)lane;
    job->path = device->key == AFL_DEVICE_UNKNOWN ? path : NULL;
    job->guess = 0;
    job->run_of = NULL;
    enqueue(ctx, job, device);
}

bool afl_admission_goes_astray(aflock_job *job)
{
    if (!job->path)
        return false;
    uint64_t before = job->guess;
    job->guess = afl_guess_device(job->gate->sys, job->path, before != 0);
    if (!job->guess)
        job->guess = afl_directory_key(job->path);
    return job->guess != before;
}

bool afl_admission_resend(aflock_ctx *ctx, aflock_job *job)
{
    if (!job->astray && !job->sent_back)
        return false;
    afl_device *device = job->astray ? afl_device_get(ctx, job->guess) : NULL;
    if (!device) {
        device = job->device;
        device->refs++;
        if (job->astray)
            job->path = NULL; /* out of memory: the old one has to do */
    }
    afl_admission_returned(ctx, job);
    enqueue(ctx, job, device);
    afl_device_put(ctx, device);
    return true;
}

static bool take_back(aflock_ctx *ctx, aflock_job *job)
{
    if (!afl_run_take_back(job))
        return false;
    afl_gate_unref(ctx->gate);
    afl_device_put(ctx, job->device);
    job->device = NULL;
    return true;
}

bool afl_admission_unqueue(aflock_ctx *ctx, aflock_job *job)
{
    if (job->lane == AFLOCK_LANE_PARK)
        return false;
    if (job->run_of)
        return take_back(ctx, job);
    afl_device *d = job->device;
    afl_job_list *list = &d->queue[job->lane], rest = {NULL, NULL};
    while (list->first) {
        aflock_job *other = pop(list);
        if (other != job)
            push(&rest, other);
    }
    *list = rest; /* an empty queue leaves the round at the next pump */
    job->device = NULL;
    afl_device_put(ctx, d);
    return true;
}

/* -------------------------------------------------------------------------------------------------------- admission */

static bool may_go(const afl_admission *a, const afl_device *d, int lane)
{
    unsigned most = a->width > 1 ? a->width - 1 : 1; /* tries; jobs of one device, if there are places to spare */
    unsigned share = a->width > 1 ? a->width / 2 : 1;
    if (a->live >= a->width || d->live[lane] >= share || d->stalled[lane] >= STALLED_LIMIT)
        return false;
    if (lane == AFLOCK_LANE_TRY && a->live_tries >= most)
        return false;
    if (d->functions && a->live_functions >= share)
        return false;
    return a->width < 3 || d->live[AFLOCK_LANE_TRY] + d->live[AFLOCK_LANE_RELEASE] < most;
}

/* A run takes a place, or frees it. */
static void count(afl_admission *a, const afl_run *run, int change)
{
    a->live += (unsigned)change;
    run->device->live[run->lane] += (unsigned)change;
    if (run->lane == AFLOCK_LANE_TRY)
        a->live_tries += (unsigned)change;
    if (run->device->functions)
        a->live_functions += (unsigned)change;
}

/* Last in the order of starts. */
static void link_run(afl_admission *a, afl_run *run, uint64_t now)
{
    run->started = now;
    run->next = NULL;
    run->prev = a->last;
    *(a->last ? &a->last->next : &a->first) = run;
    a->last = run;
}

static void unlink_run(afl_admission *a, afl_run *run)
{
    *(run->prev ? &run->prev->next : run->stalled ? &a->stalled : &a->first) = run->next;
    if (run->next)
        run->next->prev = run->prev;
    else if (!run->stalled)
        a->last = run->prev;
}

static void link_sibling(afl_run *run)
{
    run->sibling = run->device->runs[run->lane];
    run->device->runs[run->lane] = run;
}

static void unlink_sibling(const afl_run *run)
{
    afl_run **link = &run->device->runs[run->lane];
    while (*link != run)
        link = &(*link)->sibling;
    *link = run->sibling;
}

/* An idle one, or NULL: out of memory. The context was made with one: then others are under way, and come back. */
static afl_run *get_run(afl_admission *a, uint64_t now)
{
    afl_run *run = a->idle;
    if (run) {
        a->idle = run->next;
        return run;
    }
    run = calloc(1, sizeof *run);
    if (!run)
        a->retry_at = now + RETRY_MS * AFLOCK_MILLISECOND;
    return run;
}

static void put_run(afl_admission *a, afl_run *run)
{
    run->next = a->idle;
    a->idle = run;
}

/* For a worker, each job holds the gate. */
static void open_gate(aflock_ctx *ctx, aflock_job *job)
{
    job->gate = ctx->gate;
    atomic_fetch_add(&ctx->gate->refs, 1);
}

bool afl_admission_park(aflock_ctx *ctx, aflock_job *job, afl_device *device)
{
    job->path = NULL; /* it knows its device */
    job->lane = AFLOCK_LANE_PARK;
    job->run_of = NULL;
    job->astray = job->sent_back = false;
    job->dropped = 0;
    open_gate(ctx, job);
    if (ctx->executor->submit(ctx->executor->self, job, AFLOCK_LANE_PARK) != 0) {
        afl_gate_unref(ctx->gate);
        return false;
    }
    job->device = device;
    device->refs++;
    return true;
}

/* Hands a job to the executor as the first of a run; false: refused. */
static bool send(aflock_ctx *ctx, afl_run *run, aflock_job *job, uint64_t now)
{
    afl_admission *a = &ctx->admission;
    run->device = job->device;
    run->lane = job->lane;
    afl_run_begin(run, job);
    open_gate(ctx, job);
    link_run(a, run, now);
    link_sibling(run);
    a->outstanding++;
    count(a, run, 1);
    if (ctx->executor->submit(ctx->executor->self, job, (aflock_lane)job->lane) == 0)
        return true;
    unlink_run(a, run);
    unlink_sibling(run);
    put_run(a, run);
    job->run_of = NULL;
    a->outstanding--;
    count(a, run, -1);
    afl_gate_unref(ctx->gate);
    return false;
}

/* Adds a job to a run of its device and lane that is under way. */
static bool feed(aflock_ctx *ctx, const afl_device *d, aflock_job *job)
{
    afl_run *shortest = d->runs[job->lane];
    if (!shortest)
        return false;
    for (afl_run *run = shortest->sibling; run; run = run->sibling)
        if (run->left < shortest->left)
            shortest = run;
    open_gate(ctx, job);
    if (afl_run_add(shortest, job))
        return true;
    afl_gate_unref(ctx->gate);
    return false;
}

/* Whether the lane's places are not wanted by anybody else. */
static bool may_feed(const afl_admission *a, int lane)
{
    return !a->round[lane] && (lane == AFLOCK_LANE_RELEASE || (a->width > 1 && !a->round[AFLOCK_LANE_RELEASE]));
}

/* Back into the queue, before all others. */
static void take_back_all(aflock_ctx *ctx, afl_run *run)
{
    afl_job_list *queue = &run->device->queue[run->lane], taken = {NULL, NULL};
    for (aflock_job *job; (job = afl_run_take_back_first(run)) != NULL;) {
        afl_gate_unref(ctx->gate);
        push(&taken, job);
    }
    if (!taken.first)
        return;
    taken.last->next = queue->first;
    queue->first = taken.first;
    if (!taken.last->next)
        queue->last = taken.last;
    join_round(&ctx->admission, run->device, run->lane);
}

/* Its last job has come back. Where nothing is queued for the device there may be something behind a job that hangs. */
static void end_run(aflock_ctx *ctx, afl_run *run)
{
    afl_admission *a = &ctx->admission;
    afl_device *d = run->device;
    unlink_run(a, run);
    a->outstanding--;
    a->retry_at = 0; /* what was missing may be there now */
    if (run->stalled) {
        d->stalled[run->lane]--;
    } else {
        unlink_sibling(run);
        count(a, run, -1);
        if (!d->queue[run->lane].first)
            for (afl_run *other = d->runs[run->lane]; other; other = other->sibling)
                take_back_all(ctx, other);
    }
    put_run(a, run);
}

/* The executor refuses (no thread can be started): try again soon. If nothing is out whose end could change that, a try
 * is failed after a while; releases go on for ever. */
static void refused(aflock_ctx *ctx, afl_device *d, int lane, uint64_t now)
{
    afl_admission *a = &ctx->admission;
    if (!a->refusing) {
        a->refusing = true;
        a->refused_at = now;
        afl_log(ctx, AFLOCK_LOG_WARN, "the executor refuses work; trying again");
    }
    a->retry_at = now + RETRY_MS * AFLOCK_MILLISECOND;
    if (lane != AFLOCK_LANE_TRY || a->outstanding > 0 || now - a->refused_at < ctx->options.stall_after)
        return;
    aflock_job *job = pop(&d->queue[lane]);
    job->dropped = EAGAIN;
    job->finish(ctx, job);
}

/* Sends the first job of the device if it may go, or gives it to those that went. */
static bool send_first(aflock_ctx *ctx, afl_device *d, int lane, uint64_t now)
{
    aflock_job *job = d->queue[lane].first;
    if (!job)
        return false;
    aflock_job *next = job->next;
    if (!may_go(&ctx->admission, d, lane)) {
        if (!may_feed(&ctx->admission, lane) || !feed(ctx, d, job))
            return false;
        d->queue[lane].first = next;
        return true;
    }
    afl_run *run = get_run(&ctx->admission, now);
    if (!run)
        return false;
    if (send(ctx, run, job, now)) {
        ctx->admission.refusing = false;
        d->queue[lane].first = next;
        return true;
    }
    refused(ctx, d, lane, now);
    return false;
}

/* Devices take turns, one job each, until a whole round sends nothing. */
static void pump_lane(aflock_ctx *ctx, int lane, uint64_t now)
{
    afl_admission *a = &ctx->admission;
    bool sent = true;
    while (sent && !a->retry_at) {
        sent = false;
        afl_device *last = a->round[lane] ? a->round_last[lane] : NULL;
        while (last && !a->retry_at) {
            afl_device *d = a->round[lane];
            a->round[lane] = d->ready_next[lane];
            d->ready[lane] = false;
            sent |= send_first(ctx, d, lane, now);
            if (d->queue[lane].first)
                join_round(a, d, lane);
            bool ends = d == last;
            afl_device_put(ctx, d);
            if (ends)
                break;
        }
    }
}

void afl_admission_pump(aflock_ctx *ctx, uint64_t now)
{
    afl_admission *a = &ctx->admission;
    if (now < a->retry_at)
        return;
    a->retry_at = 0;
    if (a->round[AFLOCK_LANE_RELEASE])
        pump_lane(ctx, AFLOCK_LANE_RELEASE, now);
    if (a->round[AFLOCK_LANE_TRY] && !a->retry_at)
        pump_lane(ctx, AFLOCK_LANE_TRY, now);
}

void afl_admission_returned(aflock_ctx *ctx, aflock_job *job)
{
    afl_admission *a = &ctx->admission;
    afl_run *run = job->run_of;
    job->run_of = NULL;
    if (run) {
        run->left--;
        if (job->ends_run) {
            end_run(ctx, run);
        } else if (!run->stalled) {
            unlink_run(a, run);
            link_run(a, run, ctx->now);
        }
    }
    afl_device *d = job->device;
    job->device = NULL;
    afl_device_put(ctx, d);
}

void afl_admission_expire(aflock_ctx *ctx, uint64_t now)
{
    afl_admission *a = &ctx->admission;
    while (a->first && now - a->first->started >= ctx->options.stall_after) {
        afl_run *run = a->first;
        unlink_run(a, run);
        unlink_sibling(run);
        count(a, run, -1);
        run->stalled = true;
        run->device->stalled[run->lane]++;
        run->prev = NULL;
        run->next = a->stalled;
        if (run->next)
            run->next->prev = run;
        a->stalled = run;
        take_back_all(ctx, run);
        if (!run->device->functions)
            afl_log(ctx, AFLOCK_LOG_WARN, "a system call has not returned for %llu ms",
                    (unsigned long long)((now - run->started) / AFLOCK_MILLISECOND));
        if (ctx->executor->stalled)
            ctx->executor->stalled(ctx->executor->self);
    }
}

uint64_t afl_admission_deadline(const aflock_ctx *ctx)
{
    const afl_admission *a = &ctx->admission;
    uint64_t at = a->retry_at ? a->retry_at : AFLOCK_FOREVER;
    if (a->first && ctx->options.stall_after < AFLOCK_FOREVER - a->first->started) {
        uint64_t stalls = a->first->started + ctx->options.stall_after;
        if (stalls < at)
            at = stalls;
    }
    return at;
}

void afl_admission_flush_releases(aflock_ctx *ctx)
{
    afl_admission *a = &ctx->admission;
    uint64_t now = afl_now(ctx);
    for (afl_device *d = a->round[AFLOCK_LANE_RELEASE]; d; d = d->ready_next[AFLOCK_LANE_RELEASE]) {
        while (d->queue[AFLOCK_LANE_RELEASE].first) {
            aflock_job *job = d->queue[AFLOCK_LANE_RELEASE].first;
            aflock_job *next = job->next;
            afl_run *run = get_run(a, now);
            if (!run || !send(ctx, run, job, now))
                break;
            d->queue[AFLOCK_LANE_RELEASE].first = next;
        }
    }
}

static void free_list(afl_run *run)
{
    for (afl_run *next; run; run = next) {
        next = run->next;
        free(run);
    }
}

bool afl_admission_init(aflock_ctx *ctx)
{
    ctx->admission.width = ctx->executor->width;
    ctx->admission.idle = calloc(1, sizeof *ctx->admission.idle);
    return ctx->admission.idle != NULL;
}

void afl_admission_free(aflock_ctx *ctx, bool forked)
{
    afl_admission *a = &ctx->admission;
    for (size_t i = 0; i < DEVICE_BUCKETS; i++) {
        for (afl_device *d = a->devices[i], *next; d; d = next) {
            next = d->hash_next;
            afl_release_memory(ctx, d);
        }
    }
    free_list(a->idle);
    if (!forked)
        return;
    free_list(a->first);
    free_list(a->stalled);
}
