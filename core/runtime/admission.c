/* Admission: which jobs may go to the executor now.
 *
 * At most `width` jobs that are not stalled are out at one time, and tries leave one place to releases. One device gets
 * at most half of the places per lane and leaves one place to others, so a dead mount cannot take them all; a job that
 * is out for `stall_after` counts as stalled: it frees its place for others (the executor replaces its thread), and a
 * device with STALLED_LIMIT of them gets no more.
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
    job->stalled = job->out = job->astray = false;
    job->dropped = 0;
    push(&device->queue[job->lane], job);
    join_round(&ctx->admission, device, job->lane);
}

void afl_admission_submit(aflock_ctx *ctx, aflock_job *job, afl_device *device, const char *path, aflock_lane lane)
{
    job->lane = (uint8_t)lane;
    job->path = device->key == AFL_DEVICE_UNKNOWN ? path : NULL;
    job->guess = 0;
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
    if (!job->astray)
        return false;
    afl_device *device = afl_device_get(ctx, job->guess);
    if (!device) { /* out of memory: the old one has to do */
        device = job->device;
        device->refs++;
        job->path = NULL;
    }
    afl_admission_returned(ctx, job);
    enqueue(ctx, job, device);
    afl_device_put(ctx, device);
    return true;
}

bool afl_admission_unqueue(aflock_ctx *ctx, aflock_job *job)
{
    if (job->out)
        return false;
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
    return a->width < 3 || d->live[AFLOCK_LANE_TRY] + d->live[AFLOCK_LANE_RELEASE] < most;
}

/* A job takes a place, or frees it. */
static void count(afl_admission *a, const aflock_job *job, int change)
{
    a->live += (unsigned)change;
    job->device->live[job->lane] += (unsigned)change;
    if (job->lane == AFLOCK_LANE_TRY)
        a->live_tries += (unsigned)change;
}

static void unlink_out(afl_admission *a, aflock_job *job)
{
    *(job->out_prev ? &job->out_prev->out_next : &a->out_first) = job->out_next;
    *(job->out_next ? &job->out_next->out_prev : &a->out_last) = job->out_prev;
}

/* Hands a job to the executor; false: refused. The device's and the place's counts are those of a running job. */
static bool send(aflock_ctx *ctx, aflock_job *job, uint64_t now)
{
    afl_admission *a = &ctx->admission;
    atomic_fetch_add(&ctx->gate->refs, 1);
    job->gate = ctx->gate;
    job->started = now;
    job->out = true;
    job->out_next = NULL;
    job->out_prev = a->out_last;
    *(a->out_last ? &a->out_last->out_next : &a->out_first) = job;
    a->out_last = job;
    a->outstanding++;
    count(a, job, 1);
    if (ctx->executor->submit(ctx->executor->self, job, (aflock_lane)job->lane) == 0)
        return true;
    unlink_out(a, job);
    job->out = false;
    a->outstanding--;
    count(a, job, -1);
    afl_gate_unref(ctx->gate);
    return false;
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

/* Sends the first job of the device if it may go. */
static bool send_first(aflock_ctx *ctx, afl_device *d, int lane, uint64_t now)
{
    aflock_job *job = d->queue[lane].first;
    if (!job || !may_go(&ctx->admission, d, lane))
        return false;
    aflock_job *next = job->next;
    if (send(ctx, job, now)) {
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
    afl_device *d = job->device;
    if (job->stalled) {
        d->stalled[job->lane]--;
    } else if (job->out) {
        unlink_out(a, job);
        count(a, job, -1);
    }
    a->outstanding -= job->out;
    job->out = false;
    job->device = NULL;
    afl_device_put(ctx, d);
}

void afl_admission_expire(aflock_ctx *ctx, uint64_t now)
{
    afl_admission *a = &ctx->admission;
    while (a->out_first && now - a->out_first->started >= ctx->options.stall_after) {
        aflock_job *job = a->out_first;
        unlink_out(a, job);
        job->stalled = true;
        count(a, job, -1);
        job->device->stalled[job->lane]++;
        afl_log(ctx, AFLOCK_LOG_WARN, "a system call has not returned for %llu ms",
                (unsigned long long)((now - job->started) / AFLOCK_MILLISECOND));
        if (ctx->executor->stalled)
            ctx->executor->stalled(ctx->executor->self);
    }
}

uint64_t afl_admission_deadline(const aflock_ctx *ctx)
{
    const afl_admission *a = &ctx->admission;
    uint64_t at = a->retry_at ? a->retry_at : AFLOCK_FOREVER;
    if (a->out_first && ctx->options.stall_after < AFLOCK_FOREVER - a->out_first->started) {
        uint64_t stalls = a->out_first->started + ctx->options.stall_after;
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
            if (!send(ctx, job, now))
                break;
            d->queue[AFLOCK_LANE_RELEASE].first = next;
        }
    }
}

void afl_devices_free(aflock_ctx *ctx)
{
    for (size_t i = 0; i < DEVICE_BUCKETS; i++) {
        for (afl_device *d = ctx->admission.devices[i], *next; d; d = next) {
            next = d->hash_next;
            afl_release_memory(ctx, d);
        }
    }
}
