/* Would waiting close a cycle of owners? A walk over "waits for", without recursion or memory of its own.
 *
 * A waiting request waits until the holders of its path that it conflicts with and the conflicting requests before it
 * in the queue are through with the lock, and until every request before it got it: nobody overtakes. An owner waits
 * for what its waiting requests wait for. A hold without owner ends a chain: nothing says that it belongs to the same
 * activity as anything else; a waiting request without owner does not. Waiting requests of one owner on one path stand
 * beside each other. Each request is visited once (mark), each queue is walked at most twice: once for the exclusive
 * requests in it and once for all.
 */
#include "machine/machine.h"

#include <stddef.h>

enum { VISITED = 1, WALKED_EXCLUSIVE = 2, WALKED_ALL = 4, BITS = 8 };

typedef struct walk {
    const afl_machine *machine;
    const void *origin; /* the owner that must not be reached */
    afl_request *stack;
    uint64_t epoch; /* a multiple of BITS; older marks count as none */
} walk;

static uint64_t marks(const walk *w, const afl_request *r)
{
    return r->mark >= w->epoch ? r->mark - w->epoch : 0;
}

static void set_mark(const walk *w, afl_request *r, uint64_t bit)
{
    r->mark = w->epoch + (marks(w, r) | bit);
}

/* What r waits for has to be looked at. */
static void visit(walk *w, afl_request *r)
{
    if (marks(w, r) & VISITED)
        return;
    set_mark(w, r, VISITED);
    r->mark_next = w->stack;
    w->stack = r;
}

/* Everything that `owner` waits for has to be looked at. True: it is the origin. */
static bool reach(walk *w, const void *owner)
{
    if (!owner)
        return false;
    if (owner == w->origin)
        return true;
    for (afl_request *r = afl_machine_owned(w->machine, owner); r; r = r->owner_next) {
        if (r->owner == owner && r->state == AFL_WAITING)
            visit(w, r);
    }
    return false;
}

/* Reaches the owners of the holders that `r` waits for. All holders of a path hold in the same way: `r` waits for all
 * but its own, or for none. So they are looked at once; the first one's mark says so. */
static bool walk_holders(walk *w, const afl_path *p, const afl_request *r)
{
    bool all = p->holders && !(marks(w, p->holders) & WALKED_ALL);
    for (afl_request *h = all ? p->holders : NULL; h; h = h->next) {
        if (!afl_path_conflict(p, r, h)) {
            all = false;
            if (!r->owner || h->owner != r->owner)
                break;
        } else if (reach(w, h->owner)) {
            return true;
        }
    }
    if (all)
        set_mark(w, p->holders, WALKED_ALL);
    return false;
}

/* Reaches what `r` waits for on `p`, `before` being the last request before it in the queue. */
static bool walk_path(walk *w, const afl_path *p, const afl_request *r, afl_request *before)
{
    if (walk_holders(w, p, r))
        return true;
    uint64_t bit = r->mode == AFLOCK_EXCLUSIVE ? WALKED_ALL : WALKED_EXCLUSIVE;
    for (afl_request *a = before; a && !(marks(w, a) & (bit | WALKED_ALL)); a = a->prev) {
        set_mark(w, a, bit);
        visit(w, a);
        if (afl_path_conflict(p, r, a) && reach(w, a->owner))
            return true;
    }
    return false;
}

bool afl_machine_cycle(afl_machine *m, afl_path *p, afl_request *r)
{
    if (!r->owner)
        return false;
    /* Nobody waits for an owner that has nothing but this request: the usual case costs one look-up. */
    const afl_request *other = afl_machine_owned(m, r->owner);
    while (other && (other->owner != r->owner || other == r))
        other = other->owner_next;
    if (!other)
        return false;

    m->mark += BITS;
    walk w = {.machine = m, .origin = r->owner, .epoch = m->mark};
    walk_path(&w, p, r, p->tail); /* what it waits for itself is never its own owner's */
    while (w.stack) {
        afl_request *next = w.stack;
        w.stack = next->mark_next;
        if (walk_path(&w, next->path, next, next->prev))
            return true;
    }
    return false;
}
