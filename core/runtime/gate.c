/* The gate: what other threads may touch of a context, and the tokens.
 *
 * Workers post finished jobs, anybody fires tokens; both are lock-free pushes followed by one wake of the loop. The
 * gate is reference-counted and outlives the context; once it is closed nothing is pushed and no wake runs any more, so
 * that the host can go. All memory is malloc's: it is freed on whatever thread comes last.
 */
#include "runtime/runtime.h"

#include <errno.h>
#include <stdlib.h>

#define CLOSED 0x80000000u

afl_gate *afl_gate_new(const aflock_loop *loop, const afl_sys *sys)
{
    afl_gate *g = calloc(1, sizeof *g);
    if (!g)
        return NULL;
    atomic_init(&g->refs, 1);
    g->loop = loop;
    g->sys = sys;
    g->pid = sys->getpid();
    g->guard = sys->guard_map ? sys->guard_map() : NULL;
    if (g->guard)
        *g->guard = 1;
    return g;
}

void afl_gate_unref(afl_gate *g)
{
    if (atomic_fetch_sub(&g->refs, 1) != 1)
        return;
    if (g->guard)
        g->sys->guard_unmap(g->guard);
    free(g);
}

bool afl_gate_forked(const afl_gate *g)
{
    return g->guard ? *(volatile const uint32_t *)g->guard == 0 : g->sys->getpid() != g->pid;
}

void afl_gate_forget_jobs(afl_gate *g)
{
    afl_gate_take_jobs(g);
    atomic_store(&g->refs, 1 + atomic_load(&g->token_refs));
}

static bool enter(afl_gate *g)
{
    if ((atomic_fetch_add(&g->inside, 1) & CLOSED) == 0)
        return true;
    atomic_fetch_sub(&g->inside, 1);
    return false;
}

static void leave(afl_gate *g)
{
    atomic_fetch_sub(&g->inside, 1);
}

void afl_gate_close(afl_gate *g)
{
    atomic_fetch_or(&g->inside, CLOSED);
    while (atomic_load(&g->inside) != CLOSED)
        g->sys->yield(); /* a wake is one write */
}

/* Lets go of the job's reference to the gate. */
bool afl_gate_post(aflock_job *job)
{
    afl_gate *g = job->gate;
    if (!enter(g)) {
        job->orphan(job);
        afl_gate_unref(g);
        return false;
    }
    aflock_job *first = atomic_load(&g->jobs);
    do
        job->next = first;
    while (!atomic_compare_exchange_weak(&g->jobs, &first, job));
    if (!first)
        g->loop->wake(g->loop->self); /* whoever made the list non-empty has woken the loop already */
    atomic_fetch_add(&g->posted, 1);
    if (atomic_load(&g->awaited))
        g->sys->wake((uint32_t *)(void *)&g->posted);
    leave(g);
    afl_gate_unref(g);
    return true;
}

aflock_job *afl_gate_take_jobs(afl_gate *g)
{
    if (!atomic_load_explicit(&g->jobs, memory_order_relaxed))
        return NULL;
    aflock_job *newest = atomic_exchange(&g->jobs, NULL), *oldest = NULL;
    while (newest) {
        aflock_job *next = newest->next;
        newest->next = oldest;
        oldest = newest;
        newest = next;
    }
    return oldest;
}

void afl_gate_wait(afl_gate *g, uint64_t timeout)
{
    uint32_t seen = atomic_load(&g->posted);
    atomic_store(&g->awaited, true);
    if (!atomic_load(&g->jobs))
        g->sys->wait((uint32_t *)(void *)&g->posted, seen, timeout);
    atomic_store(&g->awaited, false);
}

/* ------------------------------------------------------------------------------------------------------- the tokens */

int aflock_token_new(aflock_token **out, aflock_ctx *ctx)
{
    if (!out)
        return AFLOCK_EINVAL;
    *out = NULL;
    int status = afl_check(ctx);
    if (status)
        return status;
    aflock_token *t = calloc(1, sizeof *t);
    if (!t)
        return AFLOCK_ENOMEM;
    atomic_init(&t->refs, 1);
    t->gate = ctx->gate;
    atomic_fetch_add(&t->gate->token_refs, 1);
    atomic_fetch_add_explicit(&t->gate->refs, 1, memory_order_relaxed);
    *out = t;
    return 0;
}

void afl_token_unref(aflock_token *t)
{
    if (atomic_fetch_sub(&t->refs, 1) != 1)
        return;
    atomic_fetch_sub(&t->gate->token_refs, 1);
    afl_gate_unref(t->gate);
    free(t);
}

void aflock_token_free(aflock_token *t)
{
    if (t)
        afl_token_unref(t);
}

int aflock_token_fired(const aflock_token *t)
{
    return t && atomic_load(&t->fired);
}

/* Async-signal-safe: atomics and one write. The list holds a reference until the loop has seen the token. */
void aflock_token_fire(aflock_token *t)
{
    if (!t || atomic_exchange(&t->fired, true))
        return;
    afl_gate *g = t->gate;
    if (afl_gate_forked(g) || !enter(g))
        return;
    int error = errno;
    atomic_fetch_add(&t->refs, 1);
    aflock_token *first = atomic_load(&g->tokens);
    do
        t->next = first;
    while (!atomic_compare_exchange_weak(&g->tokens, &first, t));
    g->loop->wake(g->loop->self);
    leave(g);
    errno = error;
}

aflock_token *afl_gate_take_tokens(afl_gate *g)
{
    if (!atomic_load_explicit(&g->tokens, memory_order_relaxed))
        return NULL;
    return atomic_exchange(&g->tokens, NULL);
}

void afl_token_join(aflock_token *t, afl_extras *x)
{
    atomic_fetch_add(&t->refs, 1);
    x->token = t;
    x->prev = NULL;
    x->next = t->members;
    if (x->next)
        x->next->prev = x;
    t->members = x;
}

void afl_token_leave(afl_extras *x)
{
    aflock_token *t = x->token;
    *(x->prev ? &x->prev->next : &t->members) = x->next;
    if (x->next)
        x->next->prev = x->prev;
    x->token = NULL;
    afl_token_unref(t);
}
