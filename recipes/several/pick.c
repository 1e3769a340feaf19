/* See pick.h. */
#include "several/pick.h"

static void judge(pick *p, pick_lock *l, const aflock_result *r)
{
    bool goes_on = p->sweeping && !p->interrupted;
    p->sweeping = p->interrupted = false;
    if (r->status == 0) {
        p->won(p, l, r);
    } else if (goes_on && r->status == AFLOCK_EWOULDBLOCK) {
        int status = pick_sweep_on(p);
        if (status)
            p->taken(p, status);
    } else {
        p->failed(p, l, r);
    }
}

static void on_answer(aflock *lock, const aflock_result *r, void *user)
{
    pick_lock *l = user;
    pick *p = l->of;
    life *owner = p->life;
    (void)lock;
    if (r->req.id == l->asked.id) { /* else it was cancelled, and has not been won */
        l->asked.id = 0;
        judge(p, l, r);
    }
    life_leave(owner);
}

void pick_options(const pick *p, const pick_lock *l, uint64_t timeout, aflock_acquire_options *o)
{
    *o = p->options;
    o->timeout = timeout;
    o->mode = l->mode;
    if (!l->is_lease)
        o->on_compromise = NULL;
}

static int ask(pick *p, pick_lock *l, uint64_t timeout)
{
    aflock_acquire_options o;
    pick_options(p, l, timeout, &o);
    int status = aflock_acquire(l->lock, &o, on_answer, l, &l->asked);
    if (!status)
        life_enter(p->life);
    return status;
}

/* The one to begin with, then the others in their order. */
static size_t next_index(const pick *p)
{
    if (p->looked == 0)
        return p->first;
    return p->looked <= p->first ? p->looked - 1 : p->looked;
}

int pick_sweep_on(pick *p)
{
    int status = AFLOCK_EWOULDBLOCK;
    while (status == AFLOCK_EWOULDBLOCK && p->looked < p->count) {
        pick_lock *l = p->locks[next_index(p)];
        p->looked++;
        if (!l->is_taken)
            status = ask(p, l, 0);
    }
    p->sweeping = status == 0;
    return status;
}

int pick_sweep(pick *p)
{
    p->looked = 0;
    return pick_sweep_on(p);
}

int pick_wait_for(pick *p, pick_lock *l)
{
    return ask(p, l, AFLOCK_FOREVER);
}

int pick_wait(pick *p)
{
    int status = 0;
    p->waiting = true;
    for (size_t i = 0; i < p->count && !status; i++)
        status = pick_wait_for(p, p->locks[i]);
    if (status)
        pick_stop(p);
    return status;
}

int pick_interrupt(pick *p)
{
    p->interrupted = true;
    for (size_t i = 0; i < p->count; i++)
        if (p->locks[i]->asked.id)
            return aflock_cancel(p->locks[i]->lock, p->locks[i]->asked);
    return AFLOCK_ESTALE;
}

void pick_stop(pick *p)
{
    for (size_t i = 0; i < p->count; i++) {
        if (p->locks[i]->asked.id)
            aflock_cancel(p->locks[i]->lock, p->locks[i]->asked);
        p->locks[i]->asked.id = 0;
    }
    p->sweeping = p->waiting = p->interrupted = false;
}
