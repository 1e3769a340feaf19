/* Leases: what is held expires unless it is refreshed, and its holders are told when it is lost.
 *
 * The machine asks for the heartbeats and the protocol makes them; here is kept when the last one that succeeded began,
 * and how long that lasts. That is measured by the boot-time clock, which goes on while the machine is suspended, and
 * is looked at before each callback as long as there are leases: who wakes up too late learns it first of all. The
 * loop's timer is set to it as well as it can be; the clock of the loop may stand still meanwhile, so it comes too late
 * then, never too early. By the same clock a heartbeat that is due is asked for, if the machine has not begun it yet:
 * it counts from the end of the last one, which may have taken long, and by the clock of the loop.
 *
 * A lease is given up before it expires for others, by one interval: the work that is under way needs time to stop. A
 * claim that is pending is refreshed, too, but nobody holds it yet.
 */
#include "runtime/runtime.h"

#include <string.h>

enum { TOGETHER = 16 }; /* a heartbeat comes earlier by at most this part of its interval, if something else is due */

/* In the order of a lease's life: */
static uint64_t due_at(const afl_place *p)
{
    return p->lease.refreshed + p->terms.heartbeat;
}

/* Where there is little time between a heartbeat and the end, half of that. */
static uint64_t lost_at(const afl_place *p)
{
    const uint64_t rest = (p->terms.duration - p->terms.heartbeat) / 2;
    return p->lease.refreshed + p->terms.duration - (rest < p->terms.heartbeat ? rest : p->terms.heartbeat);
}

static uint64_t warning_at(const afl_place *p)
{
    return due_at(p) + (lost_at(p) - due_at(p)) / 2;
}

/* ------------------------------------------------------------------------------------------------------- losing it */

static void leave_list(afl_place *p)
{
    afl_place **link = &p->ctx->compromised;
    if (!p->lease.listed)
        return;
    p->lease.listed = false;
    while (*link != p)
        link = &(*link)->lease.next;
    *link = p->lease.next;
}

static void enter_list(afl_place *p)
{
    if (p->lease.listed)
        return;
    p->lease.listed = true;
    p->lease.next = p->ctx->compromised;
    p->ctx->compromised = p;
}

static void lose(afl_place *p, aflock_compromise_reason reason, int error, const char *step)
{
    aflock_ctx *ctx = p->ctx;
    afl_lease *l = &p->lease;
    if (l->what.reason)
        return;
    uint64_t now = ctx->sys->boottime();
    l->what = (aflock_compromise){
        .size = sizeof l->what, .reason = reason, .sys_errno = error, .step = step, .age = now - l->refreshed};
    afl_heap_disarm(&ctx->leases, &l->timer);
    enter_list(p);
    afl_machine_lose(&ctx->machine, &p->path, ctx->now);
}

/* Seconds with one decimal, for messages. */
static unsigned long tenths(uint64_t ns)
{
    return (unsigned long)(ns / (AFLOCK_SECOND / 10));
}

static void warn(const afl_place *p, uint64_t now)
{
    const afl_lease *l = &p->lease;
    unsigned long since = tenths(now - l->refreshed), left = tenths(lost_at(p) - now);
    if (!p->path.holders)
        return; /* it is being released */
    const char *why = !l->tried  ? "the loop is late"
                      : l->error ? strerror(l->error)
                                 : "the last try did not return yet";
    afl_log(p->ctx, AFLOCK_LOG_WARN, "%s: the lease was not refreshed for %lu.%lu s (%s%s%s); it is lost in %lu.%lu s",
            p->attempt->spelling->text, since / 10, since % 10, l->error ? l->step : "", l->error ? ": " : "", why,
            left / 10, left % 10);
}

static void expire(afl_place *p, uint64_t now)
{
    afl_lease *l = &p->lease;
    uint64_t next = warning_at(p);
    if (now >= lost_at(p)) {
        lose(p, l->tried ? AFLOCK_REFRESH_FAILED : AFLOCK_LEASE_EXPIRED, l->error, l->step);
        return;
    }
    if (!l->tried)
        afl_machine_beat(&p->ctx->machine, &p->path, p->ctx->now);
    if (now >= next) {
        warn(p, now);
        next = lost_at(p);
    }
    afl_heap_arm(&p->ctx->leases, &l->timer, next);
}

static afl_place *first(const aflock_ctx *ctx)
{
    return ctx->leases.root ? AFL_CONTAINER(afl_place, lease.timer, ctx->leases.root) : NULL;
}

/* A heartbeat that will be due soon: one turn of the loop and one trip to the executor serve those that are together,
 * and once they were they stay so. */
static bool goes_along(const afl_place *p, uint64_t now)
{
    return !p->lease.tried && p->lease.timer.at == due_at(p) &&
           p->lease.timer.at - now <= p->terms.heartbeat / TOGETHER;
}

void afl_leases_expire(aflock_ctx *ctx)
{
    if (!ctx->leases.root)
        return;
    uint64_t now = ctx->sys->boottime();
    if (ctx->leases.root->at > now)
        return;
    afl_collect(ctx); /* a heartbeat may be back */
    for (afl_place *p; (p = first(ctx)) && (p->lease.timer.at <= now || goes_along(p, now));)
        expire(p, now);
}

void afl_leases_look(aflock_ctx *ctx)
{
    afl_leases_expire(ctx);
    if (ctx->compromised)
        afl_settle(ctx);
}

/* Setting the host's timer to an earlier moment costs a system call: the same one must not come out earlier, unless the
 * clocks have gone apart. */
uint64_t afl_leases_deadline(aflock_ctx *ctx)
{
    if (!ctx->leases.root)
        return AFLOCK_FOREVER;
    uint64_t now = ctx->sys->boottime(), at = ctx->leases.root->at, due = afl_now(ctx) + (at > now ? at - now : 0);
    if (due > ctx->lease_due || ctx->lease_due - due > AFLOCK_MILLISECOND)
        ctx->lease_due = due;
    return ctx->lease_due;
}

/* ------------------------------------------------------------------------------------------- what came of operations
 */

static void refreshed(afl_place *p, uint64_t at)
{
    afl_lease *l = &p->lease;
    l->refreshed = at;
    l->tried = false;
    l->error = 0;
    l->step = NULL;
    afl_heap_arm(&p->ctx->leases, &l->timer, due_at(p));
}

static void beaten(afl_place *p, const afl_work *w)
{
    const afl_outcome *o = &w->outcome;
    if (o->answer == AFL_WON) {
        if (!p->lease.what.reason)
            refreshed(p, w->refreshed);
    } else if (o->answer == AFL_ERROR) {
        lose(p, w->why, o->sys_errno, o->step);
    } else {
        p->lease.error = o->sys_errno;
        p->lease.step = o->step;
    }
}

void afl_lease_beats(afl_place *p)
{
    p->lease.tried = true;
}

void afl_lease_done(afl_place *p)
{
    const afl_work *w = &p->attempt->work;
    const afl_outcome *o = &w->outcome;
    if (!p->protocol->lease)
        return;
    if (p->path.op == AFL_OP_BEAT && p->path.grip == AFL_GRIP_PENDING)
        return;
    if (p->path.op == AFL_OP_BEAT) {
        beaten(p, w);
    } else if (p->path.op == AFL_OP_TRY && o->answer == AFL_WON) {
        leave_list(p);
        p->lease.what = (aflock_compromise){.size = 0};
        p->lease.told = false;
        refreshed(p, w->refreshed);
    } else if (o->grip != AFL_GRIP_HELD) {
        afl_lease_end(p);
    } else if (p->path.op == AFL_OP_RELEASE && p->lease.what.reason) {
        enter_list(p); /* who holds it again may not have been told */
    }
}

void afl_lease_end(afl_place *p)
{
    leave_list(p);
    afl_heap_disarm(&p->ctx->leases, &p->lease.timer);
}

/* ------------------------------------------------------------------------------------------------------- telling it */

/* Who was not told yet that he holds it is answered AFLOCK_ECOMPROMISED instead. */
static bool believes_to_hold(const afl_request *r)
{
    return r->state == AFL_REHELD || afl_entry_is_held(AFL_CONTAINER(afl_entry, request, r));
}

static bool is_to_be_told(const afl_request *r)
{
    const afl_extras *x = AFL_CONTAINER(afl_entry, request, r)->extras;
    return believes_to_hold(r) && x && x->on_compromise && !x->compromise_told;
}

static void tell(aflock_ctx *ctx, afl_place *p, afl_entry *e)
{
    aflock *lock = e->lock;
    aflock_compromise what = p->lease.what;
    what.path = lock->spelling->text;
    what.token = p->attempt->work.token;
    e->extras->compromise_told = true;
    p->lease.told = true;
    lock->pinned++;
    ctx->in_callback = true;
    e->extras->on_compromise(lock, afl_entry_name(e), &what, e->extras->on_compromise_user);
    ctx->in_callback = false;
    lock->pinned--;
    afl_lock_tidy(lock);
}

/* Nobody asked to be told. */
static void say_so(afl_place *p)
{
    p->lease.told = true;
    afl_log(p->ctx, AFLOCK_LOG_ERROR, "%s: the lease is lost (%s), and nobody asked to be told",
            p->attempt->spelling->text, aflock_compromise_name(p->lease.what.reason));
}

bool afl_lease_due(const aflock_ctx *ctx)
{
    return ctx->compromised != NULL;
}

/* Before everything else that is due. aflock_ctx_free releases what is held: nobody is told then. */
bool afl_lease_deliver(aflock_ctx *ctx)
{
    if (ctx->closing)
        return false;
    afl_leases_expire(ctx);
    while (ctx->compromised) {
        afl_place *p = ctx->compromised;
        bool held = false;
        for (afl_request *r = p->path.holders; r; r = r->next) {
            held |= believes_to_hold(r);
            if (is_to_be_told(r)) {
                tell(ctx, p, AFL_CONTAINER(afl_entry, request, r));
                return true;
            }
        }
        if (held && !p->lease.told)
            say_so(p);
        leave_list(p);
    }
    return false;
}
