/* Any one of a list. */
#include "several/several.h"

static void on_won(pick *p, pick_lock *l, const aflock_result *r)
{
    aflock_several *s = p->user;
    s->entries[l->index]->hold = r->req;
    s->turn[0] = l->index;
    s->taken = 1;
    several_answer(s, 0, l->index, r);
}

static void on_failed(pick *p, pick_lock *l, const aflock_result *r)
{
    several_answer(p->user, r->status, l->index, r);
}

/* Waits, unless each was to be tried only once. */
static int go_on(aflock_several *s, int status)
{
    return status == AFLOCK_EWOULDBLOCK && s->timeout > 0 ? pick_wait(&s->pick) : status;
}

static void on_taken(pick *p, int status)
{
    aflock_several *s = p->user;
    status = go_on(s, status);
    if (status)
        several_answer(s, status, 0, NULL);
}

int several_begin_any(aflock_several *s)
{
    s->phase = PICKING;
    s->pick.won = on_won;
    s->pick.failed = on_failed;
    s->pick.taken = on_taken;
    return go_on(s, pick_sweep(&s->pick));
}
