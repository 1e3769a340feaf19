/* Errands: what is done about a path beside locking it (verify, inspect, break, run). They run where attempts run, the
 * caller's functions always on the executor, and are answered from a turn like everything else. They do not go through
 * the machine: nothing of ours changes. */
#include "runtime/runtime.h"

#include <stdlib.h>
#include <string.h>

static void run_errand(aflock_job *job)
{
    afl_errand *e = AFL_CONTAINER(afl_errand, job, job);
    if (e->function)
        e->value = e->function(e->query.fd, e->user);
    else
        e->ask(&e->query);
}

static void finish_errand(aflock_ctx *ctx, aflock_job *job)
{
    afl_errand *e = AFL_CONTAINER(afl_errand, job, job);
    afl_admission_returned(ctx, job);
    if (job->dropped) {
        e->query.status = AFLOCK_ESYS;
        e->query.sys_errno = job->dropped;
        e->query.step = "executor";
    }
    e->done = true;
}

void afl_errand_free(afl_errand *e)
{
    free(e->query.detail);
    free(e->query.claims);
    free(e);
}

static void free_errand(afl_errand *e)
{
    afl_spelling_unref(e->spelling);
    afl_errand_free(e);
}

/* The context is gone; what is held was left to the last function that runs. */
static void orphan_errand(aflock_job *job)
{
    afl_errand *e = AFL_CONTAINER(afl_errand, job, job);
    if (e->attempt)
        afl_attempt_leave(e->attempt);
    free_errand(e);
}

static void unlink_errand(aflock_ctx *ctx, afl_errand *e)
{
    *(e->prev ? &e->prev->next : &ctx->errands) = e->next;
    *(e->next ? &e->next->prev : &ctx->errands_last) = e->prev;
}

afl_errand *afl_errand_next(const aflock_ctx *ctx)
{
    afl_errand *e = ctx->errands;
    while (e && !e->done)
        e = e->next;
    return e;
}

static void tell(afl_errand *e)
{
    const afl_query *q = &e->query;
    if (e->answered || e->ran) {
        aflock_result r = {.size = sizeof r,
                           .status = q->status,
                           .sys_errno = q->sys_errno,
                           .fd = q->fd,
                           .req = e->req,
                           .step = q->step,
                           .path = e->spelling->text,
                           .detail = q->status ? q->detail : NULL};
        if (e->ran)
            e->ran(e->lock, &r, e->value, e->user);
        else
            e->answered(e->lock, &r, e->user);
        return;
    }
    aflock_holder h = {.size = sizeof h,
                       .status = q->status,
                       .sys_errno = q->sys_errno,
                       .held = q->held,
                       .mode = q->mode,
                       .pid = q->pid,
                       .count = q->count,
                       .host = q->host,
                       .age = q->age,
                       .here = q->here,
                       .gone = q->gone,
                       .record = q->record,
                       .duration = q->duration,
                       .token = q->token,
                       .claims = q->claims,
                       .claim_count = q->claim_count,
                       .claims_left_out = q->claims_left_out,
                       .detail = q->status ? q->detail : NULL,
                       .pending = q->pending,
                       .outside = q->outside,
                       .blocked = q->blocked};
    e->inspected(e->lock, &h, e->user);
}

/* A function has come back, or never began: its hold may go. */
static void end_function(aflock_ctx *ctx, const afl_errand *e)
{
    atomic_fetch_sub(&e->attempt->users, 1);
    afl_entry_ran(ctx, afl_entry_of(ctx, e->req));
}

/* The context goes, and a function goes on: a release that waits for it is not lived to see. */
static void leave_function(aflock_ctx *ctx, aflock_req req)
{
    afl_entry *held = afl_entry_of(ctx, req);
    held->running--;
    if (!held->running && held->release_waits)
        afl_deliver_postponed(ctx, held);
}

static int status_of_function(const afl_errand *e)
{
    return !e->query.status && e->lock->place->path.lost ? AFLOCK_ECOMPROMISED : e->query.status;
}

/* Ends an errand and calls back from a copy. While a worker still uses the errand (running), only what does not change
 * is read, and the worker frees it. */
static void answer_errand(aflock_ctx *ctx, afl_errand *e, int status, bool running)
{
    afl_errand copy = {.lock = e->lock,
                       .spelling = e->spelling,
                       .req = e->req,
                       .answered = e->answered,
                       .inspected = e->inspected,
                       .ran = e->ran,
                       .user = e->user,
                       .query = {.fd = -1}};
    aflock *lock = copy.lock;
    if (!running) {
        copy.query = e->query;
        copy.value = e->value;
        e->query.detail = NULL;
        e->query.claims = NULL;
        if (e->attempt) {
            copy.query.status = status_of_function(e);
            end_function(ctx, e);
        }
    }
    if (status)
        copy.query.status = status;
    atomic_fetch_add(&copy.spelling->refs, 1);
    if (!running) {
        unlink_errand(ctx, e);
        free_errand(e);
    }
    lock->active--;
    lock->pinned++;
    ctx->in_callback = true;
    tell(&copy);
    ctx->in_callback = false;
    lock->pinned--;
    free(copy.query.detail);
    free(copy.query.claims);
    if (copy.ran && running && !afl_gate_forked(ctx->gate))
        leave_function(ctx, copy.req);
    afl_spelling_unref(copy.spelling);
    afl_lock_tidy(lock);
}

void afl_errand_deliver(aflock_ctx *ctx, afl_errand *e)
{
    answer_errand(ctx, e, 0, false);
}

/* Workers free what they still use. They cannot before the gate is closed: until then it is in the list, as in a child
 * of a callback there is no worker to do it. */
void afl_errands_end(aflock_ctx *ctx)
{
    for (afl_errand *e = ctx->errands, *next; e && !afl_gate_forked(ctx->gate); e = next) {
        next = e->next;
        bool running = !e->done && !afl_admission_unqueue(ctx, &e->job);
        answer_errand(ctx, e, e->done ? 0 : running && e->function ? AFLOCK_EBUSY : AFLOCK_ECLOSED, running);
    }
    while (ctx->errands && !afl_gate_forked(ctx->gate))
        unlink_errand(ctx, ctx->errands);
}

void afl_functions_end(aflock_ctx *ctx)
{
    for (afl_errand *e = ctx->errands; e; e = e->next) {
        if (!e->function || e->done || !afl_admission_unqueue(ctx, &e->job))
            continue;
        e->query.status = AFLOCK_ECLOSED;
        e->done = true;
    }
}

/* --------------------------------------------------------------------------------------------------------- asking */

static int enter(aflock *lock)
{
    if (!lock)
        return AFLOCK_EINVAL;
    int status = afl_enter(lock->ctx);
    if (status)
        return status;
    return lock->closing || lock->ctx->closing ? AFLOCK_ECLOSED : 0;
}

static afl_errand *errand_new(aflock *lock, void *user)
{
    aflock_ctx *ctx = lock->ctx;
    afl_errand *e = calloc(1, sizeof *e); /* a worker may be the last to use it */
    if (!e)
        return NULL;
    e->job.run = run_errand;
    e->job.finish = finish_errand;
    e->job.orphan = orphan_errand;
    e->lock = lock;
    e->user = user;
    e->spelling = lock->spelling;
    atomic_fetch_add(&e->spelling->refs, 1);
    afl_query *q = &e->query;
    q->protocol = lock->place->protocol;
    q->sys = ctx->sys;
    q->path = lock->place->caller_fd >= 0 ? NULL : e->spelling->text;
    q->fd = lock->place->caller_fd;
    e->prev = ctx->errands_last;
    *(e->prev ? &e->prev->next : &ctx->errands) = e;
    ctx->errands_last = e;
    lock->active++;
    return e;
}

static void send_errand(aflock *lock, afl_errand *e)
{
    if (lock->io == AFLOCK_IO_INLINE && !lock->place->io_locks[AFLOCK_IO_POOL]) {
        run_errand(&e->job);
        e->done = true;
    } else {
        afl_admission_submit(lock->ctx, &e->job, lock->place->device, e->query.path, AFLOCK_LANE_TRY);
    }
    afl_settle(lock->ctx);
}

/* The hold that an errand is about. */
static int find_hold(aflock *lock, aflock_req req, afl_entry **held)
{
    afl_entry *e = afl_entry_on(lock, req);
    if (!e)
        return AFLOCK_ESTALE;
    if (!afl_entry_is_held(e))
        return AFLOCK_ENOTHELD;
    if (lock->place->protocol->lease)
        afl_leases_look(lock->ctx);
    *held = e;
    return lock->place->path.lost ? AFLOCK_ECOMPROMISED : 0;
}

int aflock_verify(aflock *lock, aflock_req req, aflock_callback callback, void *user)
{
    int status = enter(lock);
    if (status)
        return status;
    if (!callback)
        return AFLOCK_EINVAL;
    if (!lock->place->protocol->verify || lock->place->caller_fd >= 0)
        return AFLOCK_ENOTSUP;
    afl_entry *held;
    status = find_hold(lock, req, &held);
    if (status)
        return status;
    afl_errand *e = errand_new(lock, user);
    if (!e)
        return AFLOCK_ENOMEM;
    const afl_work *w = &lock->place->attempt->work;
    e->ask = lock->place->protocol->verify;
    e->answered = callback;
    e->req = req;
    e->query.fd = w->fd;
    e->query.dev = w->dev;
    e->query.ino = w->ino;
    memcpy(e->query.token, w->token, sizeof w->token);
    e->query.follow = (held->flags & AFLOCK_FOLLOW) != 0;
    send_errand(lock, e);
    return 0;
}

int aflock_inspect(aflock *lock, aflock_inspected callback, void *user)
{
    int status = enter(lock);
    if (status)
        return status;
    if (!callback)
        return AFLOCK_EINVAL;
    if (!lock->place->protocol->inspect)
        return AFLOCK_ENOTSUP;
    afl_errand *e = errand_new(lock, user);
    if (!e)
        return AFLOCK_ENOMEM;
    e->ask = lock->place->protocol->inspect;
    e->inspected = callback;
    e->query.follow = true;
    send_errand(lock, e);
    return 0;
}

/* An answer that says how it went. */
static int send_removal(aflock *lock, afl_errand *e, void (*ask)(afl_query *q), aflock_callback callback)
{
    if (!e)
        return AFLOCK_ENOMEM;
    e->ask = ask;
    e->answered = callback;
    e->query.fd = -1;
    send_errand(lock, e);
    return 0;
}

int aflock_break(aflock *lock, aflock_callback callback, void *user)
{
    int status = enter(lock);
    if (status)
        return status;
    if (!callback)
        return AFLOCK_EINVAL;
    const afl_protocol *protocol = lock->place->protocol;
    return protocol->remove ? send_removal(lock, errand_new(lock, user), protocol->remove, callback) : AFLOCK_ENOTSUP;
}

int aflock_break_claim(aflock *lock, const char *name, aflock_callback callback, void *user)
{
    int status = enter(lock);
    if (status)
        return status;
    if (!callback || !name || !*name || *name == '.' || strchr(name, '/'))
        return AFLOCK_EINVAL;
    const afl_protocol *protocol = lock->place->protocol;
    if (!protocol->remove_claim)
        return AFLOCK_ENOTSUP;
    const size_t length = strlen(name);
    if (length >= sizeof(((afl_query *)NULL)->claim))
        return AFLOCK_ENAMETOOLONG;
    afl_errand *e = errand_new(lock, user);
    if (e)
        memcpy(e->query.claim, name, length + 1);
    return send_removal(lock, e, protocol->remove_claim, callback);
}

/* ------------------------------------------------------------------------------------------------------- functions */

/* The descriptor stays what it is as long as the hold lasts, and it lasts until end_function. */
static int send_function(aflock *lock, afl_entry *held, afl_errand *e)
{
    aflock_ctx *ctx = lock->ctx;
    afl_place *p = lock->place;
    afl_device *device = afl_device_of_functions(ctx, p->device);
    if (!device)
        return AFLOCK_ENOMEM;
    e->attempt = p->attempt;
    e->query.fd = p->protocol->marker ? -1 : p->attempt->work.fd;
    atomic_fetch_add(&p->attempt->users, 1);
    held->running++;
    afl_admission_submit(ctx, &e->job, device, NULL, AFLOCK_LANE_TRY);
    afl_device_put(ctx, device);
    afl_settle(ctx);
    return 0;
}

int aflock_run(aflock *lock, aflock_req req, int (*function)(int fd, void *user), aflock_ran callback, void *user)
{
    afl_entry *held;
    int status = enter(lock);
    if (status)
        return status;
    if (!function || !callback)
        return AFLOCK_EINVAL;
    if (!lock->place->protocol->run)
        return AFLOCK_ENOTSUP;
    status = find_hold(lock, req, &held);
    if (status)
        return status;
    afl_errand *e = errand_new(lock, user);
    if (!e)
        return AFLOCK_ENOMEM;
    e->function = function;
    e->ran = callback;
    e->req = req;
    status = send_function(lock, held, e);
    if (status) {
        unlink_errand(lock->ctx, e);
        lock->active--;
        free_errand(e);
    }
    return status;
}
