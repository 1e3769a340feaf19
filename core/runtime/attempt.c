/* Attempts: carries out what the machine asks for, on the loop's thread or through the executor.
 *
 * Each place has one attempt, made with it, that serves all its operations in turn, because at most one is in flight.
 * Where an operation runs: POOL and INLINE force it. AUTO runs on the loop's thread what cannot sleep: on a local file
 * system a look-up that the kernel answers from its cache, lock, unlock and close; the rest goes to the executor.
 */
#include "runtime/runtime.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static void dispatch(afl_place *p);

/* ---------------------------------------------------------------------------------------------------------- memory */

static void run_job(aflock_job *job);
static void finish_job(aflock_ctx *ctx, aflock_job *job);
static void orphan_job(aflock_job *job);

afl_attempt *afl_attempt_new(afl_place *p)
{
    const size_t fallen = p->protocol->falls_to ? p->protocol->falls_to->state_size : 0;
    const size_t state = p->protocol->state_size > fallen ? p->protocol->state_size : fallen;
    afl_attempt *t = calloc(1, sizeof *t + state); /* a worker may be the last to use it */
    if (!t)
        return NULL;
    t->job.run = run_job;
    t->job.finish = finish_job;
    t->job.orphan = orphan_job;
    t->place = p;
    t->work.protocol = p->protocol;
    t->work.sys = p->ctx->sys;
    t->work.fd = t->work.holder = -1;
    t->work.state = state ? t + 1 : NULL;
    t->work.duration = p->terms.duration;
    atomic_init(&t->users, 1);
    return t;
}

void afl_attempt_free(afl_attempt *t)
{
    free(t->work.detail);
    free(t);
}

/* ----------------------------------------------------------------------------------------------- what came of it */

static void trace_outcome(aflock_ctx *ctx, const afl_place *p, const afl_outcome *o)
{
    if (!ctx->options.trace)
        return;
    const char *path = p->attempt->spelling->text;
    if (p->path.op == AFL_OP_TRY && (o->answer == AFL_CONTENDED || o->answer == AFL_PENDING))
        afl_trace(ctx, AFLOCK_TRACE_CONTENDED, NULL, path, 0);
    if (p->path.op == AFL_OP_RELEASE)
        afl_trace(ctx, AFLOCK_TRACE_UNLOCKED, NULL, path, o->answer == AFL_ERROR ? o->sys_errno : 0);
}

/* What a failure has to say goes to the request that will hear of it. */
static void pass_detail(afl_place *p)
{
    afl_work *w = &p->attempt->work;
    afl_request *r = p->path.op_for ? p->path.op_for : p->path.releaser;
    if (r && w->detail)
        afl_entry_explain(p->ctx, AFL_CONTAINER(afl_entry, request, r), w->detail);
    else
        free(w->detail);
    w->detail = NULL;
}

/* Tells the machine. The place may be gone afterwards. The time is that of the turn or call: it is read again after
 * what may have slept on this thread only, because reading it costs as much as a system call on some machines. */
static void tell(afl_place *p)
{
    aflock_ctx *ctx = p->ctx;
    const afl_outcome *o = &p->attempt->work.outcome;
    uint64_t now = ctx->now, pause = p->path.pause_until;
    bool undo = p->path.op == AFL_OP_RELEASE || p->path.op == AFL_OP_WITHDRAW;
    trace_outcome(ctx, p, o);
    if (p->path.op == AFL_OP_TRY) {
        p->holder_pid = p->attempt->work.holder_pid;
        afl_place_tried(p, o);
        afl_place_told(p, o);
    }
    if (undo && o->answer == AFL_ERROR && !p->path.releaser)
        afl_log(ctx, AFLOCK_LOG_ERROR, "%s: %s: %s; trying again", p->attempt->spelling->text, o->step,
                strerror(o->sys_errno));
    else if (undo && p->protocol->temporary && o->cleanup_errno && !p->path.releaser)
        afl_log(ctx, AFLOCK_LOG_WARN, "%s: the file stays: %s", p->attempt->spelling->text, strerror(o->cleanup_errno));
    if (p->path.op == AFL_OP_TRY && p->attempt->work.again)
        afl_machine_hint(&ctx->machine, &p->path, AFL_HINT_AGAIN, now);
    afl_lease_done(p);
    pass_detail(p);
    afl_machine_done(&ctx->machine, &p->path, o, now);
    afl_place_watch_holder(p);
    if (p->path.pause_until != pause)
        afl_trace(ctx, AFLOCK_TRACE_PAUSE, NULL, p->attempt->spelling->text, (int64_t)(p->path.pause_until - now));
    afl_place_tidy(p);
}

/* The kernel has no such locks there: the same attempt begins anew with a marker, if whom it was for still waits. */
static void fall(afl_place *p)
{
    afl_attempt *t = p->attempt;
    t->work.falls = false;
    t->fell = p->path.grip == AFL_GRIP_KEPT;
    afl_place_fall(p);
    if (p->path.op_for) {
        dispatch(p);
        return;
    }
    t->work.again = true;
    tell(p);
}

static void complete(afl_place *p)
{
    afl_attempt *t = p->attempt;
    if (p->path.op == AFL_OP_TRY && t->work.falls) {
        fall(p);
        return;
    }
    t->work.outcome.renewed |= t->fell && t->work.outcome.grip == AFL_GRIP_KEPT;
    t->fell = false;
    tell(p);
}

void afl_work_done(afl_work *w)
{
    afl_attempt *t = AFL_CONTAINER(afl_attempt, work, w);
    aflock_ctx *ctx = t->place->ctx;
    complete(t->place);
    afl_settle(ctx);
}

/* The operation could not even begin: what was ours stays as it is. */
static void fail(afl_place *p, int status, const char *step, int error)
{
    afl_work *w = &p->attempt->work;
    afl_work_fail(w, (afl_grip)p->path.grip, step, error);
    w->outcome.status = status;
    complete(p);
}

/* ------------------------------------------------------------------------------------------------- where a path leads
 */

static bool identify(afl_attempt *t, bool cached)
{
    afl_work *w = &t->work;
    t->fault = (afl_fault){NULL, 0};
    bool parents = w->flags & AFLOCK_CREATE && w->flags & AFLOCK_MAKE_PARENTS;
    if (w->path)
        return afl_identify_parent(w->sys, w->path, cached, parents, &t->where, &t->fault);
    if (w->sys->identify(w->fd, &t->where) == 0)
        return true;
    t->fault = (afl_fault){"stat", errno};
    return false;
}

/* The place's attempt found out where its path leads. False: nothing is left to do for this operation. */
static bool resolved(afl_place *p)
{
    p->kind = p->attempt->kind;
    return afl_place_resolved(p, &p->attempt->where, p->ctx->now);
}

/* ------------------------------------------------------------------------------------------------------ the executor
 */

/* [W] */
static void run_job(aflock_job *job)
{
    afl_attempt *t = AFL_CONTAINER(afl_attempt, job, job);
    if (!t->resolve) {
        t->work.protocol->run(&t->work);
        return;
    }
    t->kind = AFL_CLASS_UNKNOWN;
    if (identify(t, false))
        t->kind = afl_classify_mount(t->work.sys, t->where.mount, NULL);
}

static void orphan_job(aflock_job *job)
{
    afl_attempt_leave(AFL_CONTAINER(afl_attempt, job, job));
}

/* Functions that run while it holds may outlive it. */
void afl_attempt_leave(afl_attempt *t)
{
    if (atomic_fetch_sub(&t->users, 1) != 1)
        return;
    t->work.protocol->reconcile(&t->work);
    afl_spelling_unref(t->spelling);
    afl_attempt_free(t);
}

static void unlink_detached(aflock_ctx *ctx, const afl_attempt *t)
{
    *(t->prev ? &t->prev->next : &ctx->detached) = t->next;
    if (t->next)
        t->next->prev = t->prev;
}

/* It has given back what it got; one that was dropped has an open file. */
static void end_detached(aflock_ctx *ctx, afl_attempt *t)
{
    unlink_detached(ctx, t);
    t->work.protocol->reconcile(&t->work);
    afl_attempt_free(t);
}

static void finish_job(aflock_ctx *ctx, aflock_job *job)
{
    afl_attempt *t = AFL_CONTAINER(afl_attempt, job, job);
    afl_place *p = t->place;
    afl_admission_returned(ctx, job);
    afl_attempt_unlisten(t, ctx);
    afl_spelling_unref(t->spelling);
    if (!p) {
        end_detached(ctx, t);
    } else if (job->dropped) {
        fail(p, AFLOCK_ESYS, "executor", job->dropped);
    } else if (!t->resolve) {
        complete(p);
    } else if (t->fault.error) {
        fail(p, afl_status_of(t->fault.error), t->fault.step, t->fault.error);
    } else {
        t->resolve = false;
        afl_mount_learn(ctx, &t->where, t->kind);
        if (resolved(p))
            dispatch(p);
    }
}

static void send(afl_place *p)
{
    afl_attempt *t = p->attempt;
    aflock_ctx *ctx = p->ctx;
    if (ctx->trying && p->path.op_for == &ctx->trying->request) {
        fail(p, AFLOCK_ENOTINLINE, NULL, 0);
        return;
    }
    t->work.inline_only = false;
    t->work.local = p->kind == AFL_CLASS_LOCAL;
    atomic_fetch_add(&t->spelling->refs, 1);
    afl_trace(ctx, AFLOCK_TRACE_ATTEMPT, NULL, t->spelling->text, 0);
    /* What is ours is not kept waiting by what others would like to have. */
    bool ours = t->work.op == AFL_OP_RELEASE || t->work.op == AFL_OP_WITHDRAW || t->work.op == AFL_OP_BEAT;
    afl_admission_submit(ctx, &t->job, p->device, t->work.path, ours ? AFLOCK_LANE_RELEASE : AFLOCK_LANE_TRY);
}

/* ------------------------------------------------------------------------------------------------------------ parked
 */

bool afl_attempt_is_parked(const afl_attempt *t)
{
    return t->work.park;
}

/* Does the path still name the file for which an attempt is parked? Asked where attempts run. */
struct afl_glance {
    aflock_job job;
    afl_query query;
    afl_place *place; /* NULL: it has gone */
    afl_spelling *spelling;
};

static void free_glance(afl_glance *g)
{
    free(g->query.detail);
    afl_spelling_unref(g->spelling);
    free(g);
}

static void run_glance(aflock_job *job)
{
    afl_query *q = &AFL_CONTAINER(afl_glance, job, job)->query;
    q->protocol->verify(q);
}

static void detach(afl_place *p);

static void leave_astray(afl_place *p)
{
    p->attempt->astray = true;
    afl_machine_hint(&p->ctx->machine, &p->path, AFL_HINT_AGAIN, p->ctx->now); /* it is tried again at once */
    detach(p);
}

static bool is_parked_for(const afl_place *p, const afl_query *q)
{
    return p->path.parked && p->attempt->dev == q->dev && p->attempt->ino == q->ino;
}

static void finish_glance(aflock_ctx *ctx, aflock_job *job)
{
    afl_glance *g = AFL_CONTAINER(afl_glance, job, job);
    afl_place *p = g->place;
    bool replaced = !job->dropped && g->query.status == AFLOCK_EREPLACED;
    afl_admission_returned(ctx, job);
    if (p)
        p->glance = NULL;
    if (p && replaced && is_parked_for(p, &g->query))
        leave_astray(p);
    free_glance(g);
}

static void orphan_glance(aflock_job *job)
{
    free_glance(AFL_CONTAINER(afl_glance, job, job));
}

static void glance(afl_place *p)
{
    const afl_attempt *t = p->attempt;
    aflock_ctx *ctx = p->ctx;
    bool follow = (t->work.flags & AFLOCK_FOLLOW) != 0;
    afl_query query = {.protocol = p->protocol, .sys = ctx->sys, .path = t->spelling->text, .follow = follow, .fd = -1};
    query.dev = t->dev;
    query.ino = t->ino;
    if (p->io != AFLOCK_IO_POOL && p->kind == AFL_CLASS_LOCAL) {
        p->protocol->verify(&query);
        free(query.detail);
        if (query.status == AFLOCK_EREPLACED)
            leave_astray(p);
        return;
    }
    afl_glance *g = calloc(1, sizeof *g); /* a worker may be the last to use it */
    if (!g)
        return;
    g->job.run = run_glance;
    g->job.finish = finish_glance;
    g->job.orphan = orphan_glance;
    g->query = query;
    g->place = p;
    g->spelling = t->spelling;
    atomic_fetch_add(&g->spelling->refs, 1);
    p->glance = g;
    afl_admission_submit(ctx, &g->job, p->device, query.path, AFLOCK_LANE_TRY);
}

/* It may wait for a file that is not the path's any more. */
static void look_after(afl_place *p)
{
    if (p->path.parked && p->path.head && !p->glance)
        glance(p);
}

static void heard(aflock_ctx *ctx, afl_ear *ear, unsigned what, const char *name)
{
    afl_attempt *t = AFL_CONTAINER(afl_attempt, ear, ear);
    (void)ctx, (void)what, (void)name;
    if (t->place)
        look_after(t->place);
}

/* Not for its close: the kernel tells of that. */
static void listen_parked(afl_attempt *t, aflock_ctx *ctx)
{
    t->ear = (afl_ear){.notify = {.fd = t->work.fd, .what = AFLOCK_ON_MARKER}, .heard = heard};
    t->listening = ctx->notifier && ctx->notifier->add(ctx->notifier->self, &t->ear.notify) == 0;
}

void afl_attempt_unlisten(afl_attempt *t, aflock_ctx *ctx)
{
    if (t->listening)
        ctx->notifier->del(ctx->notifier->self, &t->ear.notify);
    t->listening = false;
}

void afl_glance_forget(afl_place *p, bool forked)
{
    afl_glance *g = p->glance;
    p->glance = NULL;
    if (!g)
        return;
    g->place = NULL;
    if (forked)
        free(g);
    else if (afl_admission_unqueue(p->ctx, &g->job))
        free_glance(g);
}

/* One that was parked for the place, in the head's mode, and was left behind by a head in another one. */
static afl_attempt *left_behind(const afl_place *p)
{
    afl_attempt *t = p->ctx->detached;
    while (t && (t->astray || t->spelling != p->attempt->spelling || t->work.mode != p->attempt->work.mode))
        t = t->next;
    return t;
}

/* A head that would park takes over what was left behind, with its place in the kernel's queue, instead of trying. */
static bool reattach(afl_place *p)
{
    afl_attempt *fresh = p->attempt, *t = left_behind(p);
    const afl_request *r = p->path.op_for; /* NULL: it has left while the path was looked for */
    int left = AFL_PARKED_LEFT;
    if (!p->protocol->park || fresh->work.op != AFL_OP_TRY || fresh->work.fd >= 0 || !r || !r->parks || r->once || !t ||
        !atomic_compare_exchange_strong(&t->work.parked, &left, AFL_PARKED_WANTED))
        return false;
    unlink_detached(p->ctx, t);
    t->place = p;
    p->attempt = t;
    afl_attempt_free(fresh);
    atomic_store_explicit(&t->work.left, false, memory_order_relaxed);
    p->path.parked = true;
    look_after(p); /* it may have been replaced since */
    return true;
}

/* The file is held, and the head would rather wait in the kernel than listen. */
static void park(afl_place *p)
{
    afl_attempt *t = p->attempt;
    aflock_ctx *ctx = p->ctx;
    t->work.inline_only = false;
    atomic_store(&t->work.parked, AFL_PARKED_WANTED);
    atomic_fetch_add(&t->spelling->refs, 1);
    t->dev = t->work.dev; /* the thread's from now on */
    t->ino = t->work.ino;
    t->astray = false;
    listen_parked(t, ctx);
    if (afl_admission_park(ctx, &t->job, p->device)) {
        p->path.parked = true;
        afl_trace(ctx, AFLOCK_TRACE_ATTEMPT, NULL, t->spelling->text, 2);
        return;
    }
    afl_spelling_unref(t->spelling);
    afl_attempt_unlisten(t, ctx);
    t->work.park = false;
    afl_place_unparked(p);
    afl_work_contended(&t->work, AFL_GRIP_KEPT); /* as the last attempt found it */
    complete(p);
}

static void take_over(afl_place *p)
{
    int left = AFL_PARKED_LEFT;
    atomic_compare_exchange_strong(&p->attempt->work.parked, &left, AFL_PARKED_WANTED);
    atomic_store_explicit(&p->attempt->work.left, false, memory_order_relaxed);
    look_after(p); /* it may have been replaced since */
}

/* The parked attempt goes on without the place, which gets a new one. */
static void detach(afl_place *p)
{
    aflock_ctx *ctx = p->ctx;
    int wanted = AFL_PARKED_WANTED;
    afl_attempt *t = p->attempt;
    atomic_compare_exchange_strong(&t->work.parked, &wanted, AFL_PARKED_LEFT);
    if (atomic_load(&t->work.parked) == AFL_PARKED_WON)
        return; /* it is on its way back */
    afl_attempt *fresh = afl_attempt_new(p);
    if (!fresh)
        return;
    fresh->spelling = t->spelling;
    p->attempt = fresh;
    t->place = NULL;
    t->prev = NULL;
    t->next = ctx->detached;
    if (t->next)
        t->next->prev = t;
    ctx->detached = t;
    afl_work_contended(&fresh->work, AFL_GRIP_NONE);
    complete(p);
}

void afl_attempts_abandon(aflock_ctx *ctx)
{
    while (ctx->detached) {
        afl_attempt *t = ctx->detached;
        ctx->detached = t->next;
        t->work.protocol->abandon(&t->work);
        afl_attempt_free(t);
    }
}

/* ------------------------------------------------------------------------------------------------------------ inline
 */

static void run_here(afl_place *p, bool inline_only)
{
    afl_attempt *t = p->attempt;
    afl_trace(p->ctx, AFLOCK_TRACE_ATTEMPT, NULL, t->spelling->text, 1);
    t->work.inline_only = inline_only;
    t->work.local = p->kind == AFL_CLASS_LOCAL;
    t->work.not_inline = false;
    p->ctx->in_hook = true; /* on_acquired must not call in */
    t->work.protocol->run(&t->work);
    p->ctx->in_hook = false;
    if (!inline_only)
        p->ctx->now = afl_now(p->ctx);
    if (t->work.not_inline)
        send(p);
    else
        complete(p);
}

static void resolve_and_run_here(afl_place *p)
{
    afl_attempt *t = p->attempt;
    if (!p->resolved) {
        bool known;
        if (!identify(t, false)) {
            p->ctx->now = afl_now(p->ctx);
            fail(p, afl_status_of(t->fault.error), t->fault.step, t->fault.error);
            return;
        }
        t->kind = afl_mount_known(p->ctx, &t->where, &known);
        if (!known) {
            t->kind = afl_classify_mount(t->work.sys, t->where.mount, NULL);
            afl_mount_learn(p->ctx, &t->where, t->kind);
        }
        if (!resolved(p))
            return;
    }
    run_here(p, false);
}

/* AUTO: what can sleep goes to the executor. */
static void dispatch_auto(afl_place *p)
{
    afl_attempt *t = p->attempt;
    const afl_work *w = &t->work;
    if (!p->resolved) {
        bool known = identify(t, true);
        if (known)
            t->kind = afl_mount_known(p->ctx, &t->where, &known);
        if (!known) {
            t->resolve = true;
            send(p);
            return;
        }
        if (!resolved(p))
            return;
    }
    bool wishes = w->op == AFL_OP_ADOPT && p->path.op_for && p->path.op_for->adopt &&
                  (w->on_acquired || w->file_mode != AFLOCK_MODE_DEFAULT || w->flags & AFLOCK_TRUNCATE);
    if (p->kind != AFL_CLASS_LOCAL || wishes || p->protocol->marker)
        send(p);
    else
        run_here(p, true);
}

/* A pool lock on the path keeps all file-system calls for it off the loop's thread. What is done for no request in
 * particular (release, withdraw) is done as it was for the last one. */
static aflock_io io_of(afl_place *p)
{
    if (p->path.op_for)
        p->io = AFL_CONTAINER(afl_entry, request, p->path.op_for)->lock->io;
    if (p->io_locks[AFLOCK_IO_POOL])
        p->io = AFLOCK_IO_POOL;
    return p->io;
}

static void dispatch(afl_place *p)
{
    if (p->protocol->start) {
        p->protocol->start(&p->attempt->work);
        return;
    }
    if (reattach(p))
        return;
    if (p->attempt->work.park) {
        park(p);
        return;
    }
    switch (io_of(p)) {
    case AFLOCK_IO_INLINE:
        resolve_and_run_here(p);
        break;
    case AFLOCK_IO_POOL:
        p->attempt->resolve = !p->resolved;
        send(p);
        break;
    case AFLOCK_IO_AUTO:
        dispatch_auto(p);
        break;
    }
}

/* ---------------------------------------------------------------------------------------------------------- the orders
 */

static void take_order(afl_place *p, const afl_action *a)
{
    afl_attempt *t = p->attempt;
    afl_work *w = &t->work;
    afl_place_unwatch_holder(p);
    w->op = a->op;
    w->again = false;
    w->look_again = AFLOCK_FOREVER;
    w->verify = a->verify;
    w->convert = a->convert;
    w->joins = p->path.holders != NULL;
    w->keep = p->path.keep && !p->path.stale; /* what was replaced is of no use to the next one */
    w->park = a->op == AFL_OP_TRY && afl_place_parks(p);
    t->resolve = false;
    atomic_store_explicit(&w->left, false, memory_order_relaxed);
    if (a->op == AFL_OP_BEAT)
        afl_lease_beats(p);
    if (a->request) {
        const afl_entry *e = AFL_CONTAINER(afl_entry, request, a->request);
        const afl_extras *x = e->extras;
        w->mode = (aflock_mode)e->request.mode;
        w->flags = e->flags;
        w->file_mode = x ? x->file_mode : AFLOCK_MODE_DEFAULT;
        w->on_acquired = x ? x->on_acquired : NULL;
        w->on_acquired_user = x ? x->on_acquired_user : NULL;
        w->lifetime = e->lock->lifetime;
        w->break_empty = e->lock->break_empty;
        t->spelling = e->lock->spelling;
        w->path = p->caller_fd >= 0 ? NULL : t->spelling->text;
    } else if (p->path.releaser) {
        uint32_t report = AFL_CONTAINER(afl_entry, request, p->path.releaser)->flags & AFLOCK_REPORT_CLOSE;
        w->flags = (w->flags & ~(uint32_t)AFLOCK_REPORT_CLOSE) | report;
    }
}

void afl_attempts_pump(aflock_ctx *ctx)
{
    if (ctx->pumping)
        return; /* called by what an operation did; the loop below goes on */
    ctx->pumping = true;
    afl_action a = {.op = AFL_OP_NONE};
    while (afl_machine_next(&ctx->machine, ctx->now, &a)) {
        afl_place *p = AFL_CONTAINER(afl_place, path, a.path);
        if (a.op == AFL_OP_WATCH) {
            afl_place_listen(p);
        } else if (a.op == AFL_OP_UNWATCH) {
            afl_place_unlisten(p);
        } else if (a.op == AFL_OP_INHERIT) {
            take_over(p);
        } else if (a.op == AFL_OP_DETACH) {
            detach(p);
        } else {
            take_order(p, &a);
            dispatch(p);
        }
    }
    ctx->pumping = false;
}

void afl_attempt_note_left(afl_place *p)
{
    int wanted = AFL_PARKED_WANTED;
    if (!p->path.op || p->path.op_for)
        return;
    atomic_store(&p->attempt->work.left, true);
    if (p->attempt->work.park)
        atomic_compare_exchange_strong(&p->attempt->work.parked, &wanted, AFL_PARKED_LEFT);
}

int afl_work_watch(afl_work *w, afl_watcher *watcher)
{
    const aflock_loop *loop = AFL_CONTAINER(afl_attempt, work, w)->place->ctx->loop;
    return loop->watch(loop->self, &watcher->watch);
}

void afl_work_unwatch(afl_work *w, afl_watcher *watcher)
{
    const aflock_loop *loop = AFL_CONTAINER(afl_attempt, work, w)->place->ctx->loop;
    loop->unwatch(loop->self, &watcher->watch);
}
