/* Tells those who hold that somebody waits (aflock_acquire_options.on_wanted).
 *
 * Waiters of this context are known. A place is `crowded` when it has both holds that want to be told and a queue; what
 * is said is decided at the moment of saying it, so a waiter that has left is not told of.
 *
 * Others are not known: what is heard is that somebody opens the file (a watch of its own for each such hold, ended
 * when it has said something), and what is looked up once is who is blocked in the kernel (a job, as questions are).
 * Nothing here tries to lock or opens the file: each close would wake everybody who waits for it.
 *
 * A hold that did not ask costs the comparison of a pointer.
 */
#include "runtime/runtime.h"

#include <stdlib.h>

/* Who was heard may be too slow when the hold ends, and is not heard again: so many of the holds that follow are told
 * of him, too. That costs them a pause each if he has left. */
enum { ECHOES = 8 };

static uint8_t bit(aflock_wanted who)
{
    return (uint8_t)(1U << who);
}

static bool wants(const afl_extras *x, aflock_wanted who)
{
    return x->wanted.asks && !(x->wanted.told & bit(who));
}

/* -------------------------------------------------------------------------------------------- waiters of this context
 */

static void join_askers(afl_place *p, afl_extras *x)
{
    x->wanted.prev = NULL;
    x->wanted.next = p->askers;
    if (x->wanted.next)
        x->wanted.next->wanted.prev = x;
    p->askers = x;
}

static void leave_askers(afl_place *p, const afl_extras *x)
{
    *(x->wanted.prev ? &x->wanted.prev->wanted.next : &p->askers) = x->wanted.next;
    if (x->wanted.next)
        x->wanted.next->wanted.prev = x->wanted.prev;
}

void afl_wanted_crowd(afl_place *p)
{
    aflock_ctx *ctx = p->ctx;
    if (!p->askers || p->crowded)
        return;
    p->crowded = true;
    p->crowded_prev = NULL;
    p->crowded_next = ctx->crowded;
    if (p->crowded_next)
        p->crowded_next->crowded_prev = p;
    ctx->crowded = p;
}

void afl_wanted_forget(afl_place *p)
{
    if (!p->crowded)
        return;
    p->crowded = false;
    *(p->crowded_prev ? &p->crowded_prev->crowded_next : &p->ctx->crowded) = p->crowded_next;
    if (p->crowded_next)
        p->crowded_next->crowded_prev = p->crowded_prev;
}

/* A hold that somebody here waits for. The machine has decided: a head that it neither grants nor prepares to grant
 * while somebody holds is one that does not fit. */
static afl_extras *wanted_here(aflock_ctx *ctx)
{
    for (afl_place *p = ctx->crowded, *next; p; p = next) {
        next = p->crowded_next;
        if (!p->askers || !p->path.head)
            afl_wanted_forget(p);
        else if (!p->path.op)
            return p->askers;
    }
    return NULL;
}

/* ------------------------------------------------------------------------------------------------------- of others */

static void stop_listening(aflock_ctx *ctx, afl_wanted *w)
{
    if (w->listening)
        ctx->notifier->del(ctx->notifier->self, &w->ear.notify);
    w->listening = false;
}

static void leave_heard(aflock_ctx *ctx, const afl_wanted *w)
{
    *(w->heard_prev ? &w->heard_prev->wanted.heard_next : &ctx->heard) = w->heard_next;
    *(w->heard_next ? &w->heard_next->wanted.heard_prev : &ctx->heard_last) = w->heard_prev;
}

/* To be told in the next turn. From now on the path is in a hurry: or who asks again at once would get it again. */
static void note(aflock_ctx *ctx, afl_extras *x)
{
    afl_wanted *w = &x->wanted;
    if (!wants(x, AFLOCK_WANTED_ELSEWHERE))
        return;
    w->told |= bit(AFLOCK_WANTED_ELSEWHERE);
    w->heard = true;
    w->heard_next = NULL;
    w->heard_prev = ctx->heard_last;
    *(w->heard_prev ? &w->heard_prev->wanted.heard_next : &ctx->heard) = x;
    ctx->heard_last = x;
    afl_machine_yield(&ctx->machine, x->entry->request.path);
}

static void hear(aflock_ctx *ctx, afl_extras *x)
{
    x->entry->lock->place->echoes = ECHOES;
    stop_listening(ctx, &x->wanted);
    note(ctx, x);
}

/* A file that is open does not go away under its watch: what was lost is reports, perhaps of somebody who opened it. */
static void heard(aflock_ctx *ctx, afl_ear *ear, unsigned what, const char *name)
{
    (void)what, (void)name;
    hear(ctx, AFL_CONTAINER(afl_extras, wanted.ear, ear));
}

static void listen(aflock_ctx *ctx, const afl_place *p, afl_wanted *w)
{
    if (!ctx->notifier)
        return;
    w->ear = (afl_ear){.notify = {.fd = p->attempt->work.fd, .what = AFLOCK_ON_OPEN}, .heard = heard};
    w->listening = ctx->notifier->add(ctx->notifier->self, &w->ear.notify) == 0;
    if (w->listening || ctx->told_mute)
        return;
    ctx->told_mute = true;
    afl_log(ctx, AFLOCK_LOG_WARN, "%s: that somebody opens the file cannot be listened for (this is said once)",
            p->attempt->spelling->text);
}

/* --------------------------------------------------------------------------------------- who is blocked in the kernel
 */

/* A look into the kernel's table of locks. It names its hold, which may have ended when it comes back. */
struct afl_look {
    aflock_job job;
    afl_query query;
    atomic_bool left; /* nobody wants to know any more */
    aflock_req req;
    afl_look *next, *prev; /* of the context */
};

static void run_look(aflock_job *job)
{
    afl_look *look = AFL_CONTAINER(afl_look, job, job);
    if (!atomic_load_explicit(&look->left, memory_order_relaxed))
        look->query.protocol->waiters(&look->query);
}

static void unlink_look(aflock_ctx *ctx, afl_look *look)
{
    *(look->prev ? &look->prev->next : &ctx->looks) = look->next;
    if (look->next)
        look->next->prev = look->prev;
}

static void finish_look(aflock_ctx *ctx, aflock_job *job)
{
    afl_look *look = AFL_CONTAINER(afl_look, job, job);
    afl_admission_returned(ctx, job);
    const afl_entry *e = afl_entry_of(ctx, look->req);
    if (e && e->extras && e->extras->wanted.look == look) {
        e->extras->wanted.look = NULL;
        if (!job->dropped && look->query.count > 0)
            hear(ctx, e->extras);
    }
    unlink_look(ctx, look);
    free(look);
}

static void orphan_look(aflock_job *job)
{
    free(AFL_CONTAINER(afl_look, job, job));
}

static afl_look *look_new(aflock_ctx *ctx)
{
    afl_look *look = calloc(1, sizeof *look); /* a worker may be the last to use it */
    if (!look)
        return NULL;
    look->job.run = run_look;
    look->job.finish = finish_look;
    look->job.orphan = orphan_look;
    look->next = ctx->looks;
    if (look->next)
        look->next->prev = look;
    ctx->looks = look;
    return look;
}

static void look_around(aflock_ctx *ctx, const afl_entry *e)
{
    const aflock *lock = e->lock;
    const afl_place *p = lock->place;
    const afl_work *w = &p->attempt->work;
    afl_query query = {.protocol = p->protocol, .sys = ctx->sys, .dev = w->dev, .ino = w->ino};
    query.where = p->attempt->where;
    query.but_ours = p->path.parked || ctx->detached;
    if (lock->io == AFLOCK_IO_INLINE && !p->io_locks[AFLOCK_IO_POOL]) {
        p->protocol->waiters(&query);
        if (query.count > 0)
            hear(ctx, e->extras);
        return;
    }
    afl_look *look = look_new(ctx);
    if (!look)
        return;
    look->query = query;
    look->req = afl_entry_name(e);
    e->extras->wanted.look = look;
    afl_admission_submit(ctx, &look->job, p->device, NULL, AFLOCK_LANE_TRY);
}

/* What it finds is of no use any more. */
static void stop_looking(aflock_ctx *ctx, afl_wanted *w)
{
    afl_look *look = w->look;
    w->look = NULL;
    if (!look)
        return;
    atomic_store_explicit(&look->left, true, memory_order_relaxed);
    if (!afl_admission_unqueue(ctx, &look->job))
        return;
    unlink_look(ctx, look);
    free(look);
}

/* ------------------------------------------------------------------------------------------------- a hold's life time
 */

/* Where opening and waiting can be heard of, and mean something. */
static bool can_hear(const aflock *lock)
{
    const afl_place *p = lock->place;
    return p->protocol->waiters && p->caller_fd < 0 && p->attempt->work.fd >= 0 &&
           (p->kind == AFL_CLASS_LOCAL || lock->wait == AFLOCK_WAIT_NOTIFY);
}

/* It listens first: who comes between is both heard and found. */
void afl_wanted_begin(aflock_ctx *ctx, afl_entry *e)
{
    afl_extras *x = e->extras;
    if (!x || !x->wanted.tell)
        return;
    x->wanted.asks = true;
    join_askers(e->lock->place, x);
    afl_wanted_crowd(e->lock->place);
    if (!can_hear(e->lock))
        return;
    if (e->lock->place->echoes > 0) {
        e->lock->place->echoes--;
        note(ctx, x);
    }
    listen(ctx, e->lock->place, &x->wanted);
    look_around(ctx, e);
}

void afl_wanted_stop(aflock_ctx *ctx, afl_entry *e)
{
    afl_extras *x = e->extras;
    if (!x || !x->wanted.asks)
        return;
    afl_wanted *w = &x->wanted;
    if (wants(x, AFLOCK_WANTED_HERE))
        leave_askers(e->lock->place, x);
    if (w->heard)
        leave_heard(ctx, w);
    w->asks = w->heard = false;
    stop_listening(ctx, w);
    stop_looking(ctx, w);
}

/* ------------------------------------------------------------------------------------------------------ telling it */

bool afl_wanted_due(aflock_ctx *ctx)
{
    return ctx->heard || wanted_here(ctx);
}

static void tell(aflock_ctx *ctx, const afl_extras *x, aflock_wanted who)
{
    const afl_wanted *w = &x->wanted;
    aflock *lock = x->entry->lock;
    lock->pinned++;
    ctx->in_callback = true;
    w->tell(lock, afl_entry_name(x->entry), who, w->user);
    ctx->in_callback = false;
    lock->pinned--;
    afl_lock_tidy(lock);
}

/* aflock_ctx_free ends requests and holds before it delivers anything: then nothing is due. */
bool afl_wanted_deliver(aflock_ctx *ctx)
{
    if (!ctx->crowded && !ctx->heard)
        return false;
    afl_settle(ctx); /* the queue is as it was before the last callback, or the token that was fired */
    afl_extras *x = wanted_here(ctx);
    if (x) {
        leave_askers(x->entry->lock->place, x);
        x->wanted.told |= bit(AFLOCK_WANTED_HERE);
        tell(ctx, x, AFLOCK_WANTED_HERE);
        return true;
    }
    x = ctx->heard;
    if (!x)
        return false;
    leave_heard(ctx, &x->wanted);
    x->wanted.heard = false;
    tell(ctx, x, AFLOCK_WANTED_ELSEWHERE);
    return true;
}

/* --------------------------------------------------------------------------------------------- the end of the context
 */

/* Workers free what they still use. */
void afl_wanted_end(aflock_ctx *ctx)
{
    for (afl_look *look = ctx->looks, *next; look && !afl_gate_forked(ctx->gate); look = next) {
        next = look->next;
        if (afl_admission_unqueue(ctx, &look->job))
            free(look);
    }
    if (!afl_gate_forked(ctx->gate))
        ctx->looks = NULL;
}

void afl_wanted_abandon(aflock_ctx *ctx)
{
    while (ctx->looks) {
        afl_look *look = ctx->looks;
        ctx->looks = look->next;
        free(look);
    }
}
