/* All of a list, one after the other, in the order that order.c finds. */
#include "several/several.h"

#include <stdlib.h>

static int take_next(aflock_several *s);

static entry *next_entry(const aflock_several *s)
{
    return s->entries[s->turn[s->taken]];
}

static void on_answer(aflock *lock, const aflock_result *r, void *user)
{
    entry *e = user;
    aflock_several *s = e->of;
    (void)lock;
    if (r->req.id == e->pick.asked.id) { /* else it was cancelled, and has not been won */
        int status = r->status;
        e->pick.asked.id = 0;
        if (status == 0) {
            e->hold = r->req;
            s->taken++;
            status = s->taken < s->turns ? take_next(s) : 0;
        }
        if (status || s->taken == s->turns)
            several_answer(s, status, s->taken < s->turns ? next_entry(s)->pick.index : 0, r);
    }
    life_leave(&s->life);
}

/* One that is lost while others are waited for ends it all. */
static void on_compromise(aflock *lock, aflock_req req, const aflock_compromise *what, void *user)
{
    entry *e = user;
    aflock_several *s = e->of;
    life_enter(&s->life);
    if (s->phase == TAKING) {
        const aflock_result r = {.sys_errno = what->sys_errno, .step = what->step};
        several_answer(s, AFLOCK_ECOMPROMISED, e->pick.index, &r);
    } else if (s->phase == HELD && s->on_compromise) {
        s->on_compromise(lock, req, what, s->on_compromise_user);
    }
    life_leave(&s->life);
}

static int take_next(aflock_several *s)
{
    entry *e = next_entry(s);
    aflock_acquire_options o;
    pick_options(&s->pick, &e->pick, s->timeout ? AFLOCK_FOREVER : 0, &o);
    if (e->pick.is_lease) {
        o.on_compromise = on_compromise;
        o.on_compromise_user = e;
    }
    int status = aflock_acquire(e->pick.lock, &o, on_answer, e, &e->pick.asked);
    if (!status)
        life_enter(&s->life);
    return status;
}

static int begin_taking(aflock_several *s)
{
    s->phase = TAKING;
    s->taken = 0;
    return take_next(s);
}

/* Each stands for those that are the same, in the mode that serves them all. */
static int take_order(aflock_several *s, const order *o, size_t *index)
{
    for (size_t i = 0; i < s->count; i++) {
        entry *e = s->entries[i], *same = s->entries[o->paths[i].same];
        if (e->protocol != same->protocol) {
            *index = i;
            return AFLOCK_EMISMATCH;
        }
        e->same = o->paths[i].same;
        if (e->mode == AFLOCK_EXCLUSIVE)
            same->pick.mode = AFLOCK_EXCLUSIVE;
    }
    for (s->turns = 0; s->turns < o->turns; s->turns++)
        s->turn[s->turns] = o->turn[s->turns];
    return 0;
}

static void on_ordered(aflock *lock, const aflock_result *r, int value, void *user)
{
    order *o = user;
    aflock_several *s = o->of;
    int status = r->status ? r->status : value ? AFLOCK_ENOMEM : 0;
    size_t index = 0;
    (void)lock;
    guard_left(&s->guard);
    if (s->order == o) { /* else nobody waits for it any more */
        s->order = NULL;
        if (!status)
            status = take_order(s, o, &index);
        if (!status) {
            status = begin_taking(s);
            index = next_entry(s)->pick.index;
        }
        if (status)
            several_answer(s, status, index, r);
    }
    if (r->status != 0 && r->status != AFLOCK_EBUSY)
        order_leave(o); /* the worker's share: it never began */
    order_leave(o);
    life_leave(&s->life);
}

static bool follows(const aflock_several *s, const entry *e)
{
    return s->pick.options.flags & AFLOCK_FOLLOW || e->protocol == AFLOCK_RW;
}

static int begin_ordering(aflock_several *s)
{
    order *o = order_new(s->count);
    if (!o)
        return AFLOCK_ENOMEM;
    int status = 0;
    for (size_t i = 0; i < s->count && !status; i++)
        if (!order_set(o, i, aflock_path(s->entries[i]->pick.lock), follows(s, s->entries[i])))
            status = AFLOCK_ENOMEM;
    o->of = s;
    atomic_fetch_add(&o->users, 1);
    if (!status)
        status = guard_run(&s->guard, order_find, on_ordered, o);
    if (status) {
        order_leave(o);
        order_leave(o);
        return status;
    }
    s->phase = ORDERING;
    s->order = o;
    return 0;
}

int several_begin_all(aflock_several *s)
{
    if (s->count > 1)
        return begin_ordering(s);
    s->turn[0] = 0;
    s->turns = 1;
    return begin_taking(s);
}
