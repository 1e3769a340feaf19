/* The turn, and what the host is told after each call into the library.
 *
 * aflock_host_turn is the only place where callbacks run (aflock_ctx_free apart): it collects what came through the
 * gate, lets timers expire, carries out what the machine asks for, and delivers at most 64 answers. Answers given
 * meanwhile wait in the machine's list; a last look at the token decides before each delivery.
 */
#include "runtime/runtime.h"

#include <stdlib.h>

void afl_collect(aflock_ctx *ctx)
{
    for (aflock_job *job = afl_gate_take_jobs(ctx->gate), *next; job; job = next) {
        next = job->next;
        if (!afl_admission_resend(ctx, job))
            job->finish(ctx, job);
    }
    for (aflock_token *t = afl_gate_take_tokens(ctx->gate), *next; t; t = next) {
        next = t->next;
        for (afl_extras *x = t->members; x; x = x->next)
            afl_machine_cancel(&ctx->machine, &x->entry->request, AFLOCK_ECANCELED, ctx->now);
        afl_token_unref(t);
    }
}

uint64_t afl_deadline(aflock_ctx *ctx)
{
    const uint64_t of[] = {afl_machine_deadline(&ctx->machine), afl_admission_deadline(ctx), afl_waits_deadline(ctx),
                           afl_leases_deadline(ctx)};
    uint64_t at = AFLOCK_FOREVER;
    for (size_t i = 0; i < sizeof of / sizeof of[0]; i++)
        at = of[i] < at ? of[i] : at;
    return at;
}

void afl_expire(aflock_ctx *ctx)
{
    afl_leases_expire(ctx);
    afl_machine_expire(&ctx->machine, ctx->now);
    afl_admission_expire(ctx, ctx->now);
    afl_waits_expire(ctx, ctx->now);
}

/* ----------------------------------------------------------------------------------------------------- deliveries */

/* The callback may close the lock, which lives, as the strings of the result do, until it returns. */
static void call(aflock_ctx *ctx, aflock *lock, aflock_callback callback, const aflock_result *result, void *user)
{
    lock->pinned++;
    ctx->in_callback = true;
    callback(lock, result, user);
    ctx->in_callback = false;
    lock->pinned--;
    afl_lock_tidy(lock);
}

/* The end of a request: nothing refers to it any more when its callback runs. */
static void deliver_end(aflock_ctx *ctx, afl_entry *e, const aflock_result *result, bool released)
{
    aflock *lock = e->lock;
    aflock_callback callback = e->callback;
    void *user = e->user;
    char *detail = afl_entry_take_detail(e);
    if (released)
        lock->releasing--;
    else
        lock->active--;
    afl_entry_free(ctx, e);
    call(ctx, lock, callback, result, user);
    free(detail);
}

/* What is lost before all else; then signals of holds: they are no more than two for each answer, so nobody is kept
 * waiting by them. */
bool afl_deliver_one(aflock_ctx *ctx)
{
    if (afl_lease_deliver(ctx) || afl_wanted_deliver(ctx))
        return true;
    afl_request *r = afl_machine_peek(&ctx->machine);
    if (!r) {
        afl_errand *errand = afl_errand_next(ctx);
        if (errand)
            afl_errand_deliver(ctx, errand);
        return errand != NULL;
    }
    afl_entry *e = AFL_CONTAINER(afl_entry, request, r);
    aflock_result result;
    if (r->state == AFL_GRANTED)
        afl_wanted_begin(ctx, e); /* may take a moment: before the last look */
    if (r->state == AFL_GRANTED && e->extras && e->extras->token && aflock_token_fired(e->extras->token)) {
        afl_wanted_stop(ctx, e);
        afl_machine_cancel(&ctx->machine, r, AFLOCK_ECANCELED, ctx->now);
    } else if (r->state == AFL_GRANTED && r->path->lost) {
        afl_wanted_stop(ctx, e);
        afl_machine_cancel(&ctx->machine, r, AFLOCK_ECOMPROMISED, ctx->now);
    }
    afl_state state = (afl_state)r->state;
    afl_entry_detach(ctx, e);
    afl_machine_deliver(&ctx->machine, r);
    afl_fill_result(e, &result);
    switch (state) {
    case AFL_GRANTED:
        afl_trace(ctx, AFLOCK_TRACE_GRANTED, e, result.path, r->attempts);
        call(ctx, e->lock, e->callback, &result, e->user);
        break;
    case AFL_REHELD:
        e->lock->releasing--;
        e->lock->active++;
        call(ctx, e->lock, e->callback, &result, e->user);
        break;
    case AFL_RELEASED:
        deliver_end(ctx, e, &result, true);
        break;
    default:
        afl_attempt_note_left(e->lock->place);
        afl_trace(ctx, AFLOCK_TRACE_ANSWERED, e, result.path, r->status);
        deliver_end(ctx, e, &result, false);
    }
    return true;
}

void afl_deliver_postponed(aflock_ctx *ctx, afl_entry *e)
{
    aflock_result result;
    if (!e->callback)
        return;
    afl_fill_result(e, &result);
    result.status = AFLOCK_ECLOSED;
    result.fd = -1;
    call(ctx, e->lock, e->callback, &result, e->user);
}

void afl_deliver_drained(aflock_ctx *ctx)
{
    if (!ctx->drained)
        return;
    aflock_drained callback = ctx->drained;
    ctx->drained = NULL;
    ctx->in_callback = true;
    callback(ctx, ctx->drained_user);
    ctx->in_callback = false;
}

/* -------------------------------------------------------------------------------------------------------- the host */

bool afl_is_idle(const aflock_ctx *ctx)
{
    const afl_machine *m = &ctx->machine;
    return !m->waiting && !m->undelivered && !m->holding && !m->releasing && !ctx->errands;
}

/* A timer that comes too early is harmless, and setting it costs a system call. False: it cannot be set. */
static bool set_timer(aflock_ctx *ctx)
{
    uint64_t at = afl_deadline(ctx);
    if (at >= ctx->armed)
        return true;
    if (ctx->loop->timer(ctx->loop->self, at) != 0)
        return false;
    ctx->armed = at;
    return true;
}

static void tell_host(aflock_ctx *ctx)
{
    const aflock_loop *loop = ctx->loop;
    const afl_machine *m = &ctx->machine;
    bool alive = m->waiting || m->undelivered || m->releasing || ctx->errands || ctx->drained;
    if (alive != ctx->alive) {
        ctx->alive = alive;
        loop->keep_alive(loop->self, alive);
    }
    bool no_timer = !set_timer(ctx); /* then turn after turn, so that no deadline is missed */
    if (no_timer && !ctx->no_timer)
        afl_log(ctx, AFLOCK_LOG_ERROR, "the loop's timer cannot be set; trying again");
    ctx->no_timer = no_timer;
    bool due = m->undelivered || afl_errand_next(ctx) || afl_wanted_due(ctx) || afl_lease_due(ctx) ||
               (ctx->drained && afl_is_idle(ctx)) || no_timer;
    if (due && !ctx->deferred) {
        ctx->deferred = true;
        loop->defer(loop->self);
    }
}

void afl_settle(aflock_ctx *ctx)
{
    if (ctx->pumping || afl_gate_forked(ctx->gate)) /* a callback that forked returns in the child too */
        return;
    afl_attempts_pump(ctx);
    afl_admission_pump(ctx, ctx->now);
    if (!ctx->in_turn && !ctx->closing && !ctx->trying) /* the answer of a try is taken at once: no turn is due */
        tell_host(ctx);
}

void aflock_host_turn(aflock_ctx *ctx)
{
    if (afl_enter(ctx) != 0 || ctx->in_turn || ctx->closing)
        return;
    ctx->in_turn = true;
    ctx->deferred = false;
    afl_collect(ctx);
    afl_expire(ctx);
    afl_settle(ctx);
    for (int i = 0; i < AFL_CALLBACKS_PER_TURN && !afl_gate_forked(ctx->gate) && afl_deliver_one(ctx); i++)
        ;
    afl_settle(ctx);
    if (afl_is_idle(ctx) && !afl_gate_forked(ctx->gate))
        afl_deliver_drained(ctx);
    ctx->in_turn = false;
    if (!afl_gate_forked(ctx->gate))
        tell_host(ctx);
}

void aflock_host_timer(aflock_ctx *ctx)
{
    if (afl_enter(ctx) != 0 || ctx->closing)
        return;
    ctx->armed = AFLOCK_FOREVER;
    afl_expire(ctx);
    afl_settle(ctx);
}

void aflock_host_ready(aflock_ctx *ctx, aflock_watch *w, unsigned events)
{
    if (afl_enter(ctx) != 0 || !w)
        return;
    afl_watcher *watcher = AFL_CONTAINER(afl_watcher, watch, w);
    watcher->ready(watcher, events);
    afl_settle(ctx);
}

void aflock_host_changed(aflock_ctx *ctx, aflock_notify *n, unsigned what, const char *name)
{
    if (afl_enter(ctx) != 0 || !n)
        return;
    afl_ear *ear = AFL_CONTAINER(afl_ear, notify, n);
    ear->heard(ctx, ear, what, name);
    afl_settle(ctx);
}
