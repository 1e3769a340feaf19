/* The machine's transitions; machine.h says what they are for.
 *
 * Every input changes the state, puts the path on the ready list and returns; afl_machine_next lets `step` decide,
 * which is the only place that grants and that starts operations. So the order of decisions does not depend on who
 * called.
 */
#include "machine/machine.h"

#include <stddef.h>
#include <string.h>

#define MILLISECOND UINT64_C(1000000)

/* Retries after a change on disk: the close event comes before the kernel drops the lock of a holder that died. */
static const uint64_t RUNG[] = {20000, 50000, 100000, 500000, 2000000};
enum { RUNGS = sizeof RUNG / sizeof RUNG[0] };

static uint64_t add(uint64_t a, uint64_t b)
{
    return a > UINT64_MAX - b ? UINT64_MAX : a + b;
}

static uint64_t later(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/* ------------------------------------------------------------------------------------------- lists and tables */

void afl_machine_init(afl_machine *m, const afl_machine_config *config)
{
    memset(m, 0, sizeof *m);
    m->config = *config;
    m->ready_tail = &m->ready;
    m->owners = &m->owner_single;
    m->owner_buckets = 1;
}

void afl_path_init(afl_path *p)
{
    memset(p, 0, sizeof *p);
    p->resolution = 1;
    p->rung = RUNGS;
    afl_timer_init(&p->timer, 0);
}

static void make_ready(afl_machine *m, afl_path *p)
{
    if (p->is_ready)
        return;
    p->is_ready = true;
    p->ready_next = NULL;
    *m->ready_tail = p;
    m->ready_tail = &p->ready_next;
}

void afl_machine_forget(afl_machine *m, afl_path *p)
{
    afl_heap_disarm(&m->timers, &p->timer);
    if (p->counted)
        m->releasing--;
    p->counted = false;
    if (!p->is_ready)
        return;
    afl_path **link = &m->ready;
    while (*link != p)
        link = &(*link)->ready_next;
    *link = p->ready_next;
    if (m->ready_tail == &p->ready_next)
        m->ready_tail = link;
    p->is_ready = false;
}

static size_t bucket(const afl_machine *m, const void *owner)
{
    uint64_t hash = (uint64_t)(uintptr_t)owner * UINT64_C(0x9E3779B97F4A7C15);
    return (size_t)(hash >> 32) & (m->owner_buckets - 1);
}

afl_request *afl_machine_owned(const afl_machine *m, const void *owner)
{
    return m->owners[bucket(m, owner)];
}

static void own(afl_machine *m, afl_request *r)
{
    if (!r->owner)
        return;
    afl_request **head = &m->owners[bucket(m, r->owner)];
    r->owner_next = *head;
    r->owner_link = head;
    if (*head)
        (*head)->owner_link = &r->owner_next;
    *head = r;
    m->owned++;
}

static void disown(afl_machine *m, afl_request *r)
{
    if (!r->owner_link)
        return;
    *r->owner_link = r->owner_next;
    if (r->owner_next)
        r->owner_next->owner_link = r->owner_link;
    r->owner_link = NULL;
    m->owned--;
}

afl_request **afl_machine_owner_table(afl_machine *m, afl_request **memory, size_t buckets)
{
    afl_request **old = m->owners;
    size_t count = m->owner_buckets;
    m->owners = memory;
    m->owner_buckets = buckets;
    m->owned = 0;
    for (size_t i = 0; i < count; i++) {
        afl_request *oldest = NULL; /* a chain is newest first, and stays so */
        for (afl_request *r = old[i], *next; r; r = next) {
            next = r->owner_next;
            r->owner_next = oldest;
            oldest = r;
        }
        for (afl_request *next; oldest; oldest = next) {
            next = oldest->owner_next;
            own(m, oldest);
        }
    }
    return old == &m->owner_single ? NULL : old;
}

/* Puts r before `at`; at NULL: last. */
static void enqueue(afl_path *p, afl_request *r, afl_request *at)
{
    r->next = at;
    r->prev = at ? at->prev : p->tail;
    *(r->prev ? &r->prev->next : &p->head) = r;
    *(at ? &at->prev : &p->tail) = r;
    p->waiting++;
}

static void dequeue(afl_path *p, afl_request *r)
{
    *(r->prev ? &r->prev->next : &p->head) = r->next;
    *(r->next ? &r->next->prev : &p->tail) = r->prev;
    r->next = r->prev = NULL;
    p->waiting--;
}

static void hold(afl_machine *m, afl_path *p, afl_request *r)
{
    r->prev = NULL;
    r->next = p->holders;
    if (p->holders)
        p->holders->prev = r;
    p->holders = r;
    m->holding++;
}

static void unhold(afl_machine *m, afl_path *p, afl_request *r)
{
    *(r->prev ? &r->prev->next : &p->holders) = r->next;
    if (r->next)
        r->next->prev = r->prev;
    r->next = r->prev = NULL;
    m->holding--;
}

/* ------------------------------------------------------------------------------------------------------ answers */

static void push_done(afl_machine *m, afl_request *r)
{
    r->done_next = NULL;
    r->done_prev = m->done_tail;
    *(m->done_tail ? &m->done_tail->done_next : &m->done) = r;
    m->done_tail = r;
    m->undelivered++;
}

static void answer(afl_machine *m, afl_request *r, afl_state state, int status, uint64_t now)
{
    afl_heap_disarm(&m->deadlines, &r->timer);
    r->state = (uint8_t)state;
    r->status = status;
    r->decided = now;
    push_done(m, r);
}

/* Ends a request that does not hold; it is in no list any more. */
static void refuse(afl_machine *m, afl_request *r, int status, uint64_t now)
{
    disown(m, r);
    answer(m, r, AFL_ANSWERED, status, now);
}

/* Takes a waiting request out of the queue. What is under way for it goes on without it. */
static void leave(afl_machine *m, afl_path *p, afl_request *r)
{
    if (p->head == r)
        p->retry_at = 0; /* the next head tries at once, and then at its own pace */
    dequeue(p, r);
    m->waiting--;
    if (p->op_for == r)
        p->op_for = NULL;
    if (!p->head) {
        p->rung = RUNGS;
        p->hinted = p->watch = false;
    }
    make_ready(m, p);
}

/* The one attempt of r failed, or could only be made after waiting for a holder. */
static void end_once(afl_machine *m, afl_path *p, afl_request *r, uint64_t now)
{
    leave(m, p, r);
    refuse(m, r, AFLOCK_EWOULDBLOCK, now);
}

static void blame(afl_request *r, const afl_outcome *o)
{
    r->sys_errno = o->sys_errno;
    r->cleanup_errno = o->cleanup_errno;
    r->step = o->step;
}

static void answer_failing(afl_machine *m, afl_path *p, int cleanup_errno, uint64_t now)
{
    afl_request *r = p->failing;
    if (!r)
        return;
    p->failing = NULL;
    if (cleanup_errno)
        r->cleanup_errno = cleanup_errno;
    refuse(m, r, r->status, now);
}

/* The hold of the last holder is over: handed on, given up or lost. */
static void answer_releaser(afl_machine *m, afl_path *p, int cleanup_errno, uint64_t now)
{
    afl_request *r = p->releaser;
    if (!r)
        return;
    p->releaser = NULL;
    disown(m, r);
    r->sys_errno = 0;
    r->step = NULL;
    r->cleanup_errno = cleanup_errno;
    answer(m, r, AFL_RELEASED, 0, now);
}

afl_request *afl_machine_peek(const afl_machine *m)
{
    return m->done;
}

void afl_machine_deliver(afl_machine *m, afl_request *r)
{
    *(r->done_prev ? &r->done_prev->done_next : &m->done) = r->done_next;
    *(r->done_next ? &r->done_next->done_prev : &m->done_tail) = r->done_prev;
    m->undelivered--;
    bool held = r->state == AFL_GRANTED || r->state == AFL_REHELD;
    r->state = held ? AFL_HELD : AFL_IDLE;
}

/* ---------------------------------------------------------------------------------------------- who fits to what */

static bool holds(const afl_request *r)
{
    return r->state == AFL_GRANTED || r->state == AFL_HELD || r->state == AFL_REHELD;
}

bool afl_machine_owner_holds(const afl_machine *m, const afl_path *p, const afl_request *r)
{
    if (!r->owner || !p->holders)
        return false;
    for (const afl_request *o = afl_machine_owned(m, r->owner); o; o = o->owner_next)
        if (o->owner == r->owner && o->path == p && o->mode == r->mode && holds(o))
            return true;
    return false;
}

bool afl_path_conflict(const afl_path *p, const afl_request *r, const afl_request *other)
{
    if (r->owner && r->owner == other->owner)
        return false;
    if (r->mode == AFLOCK_EXCLUSIVE || other->mode == AFLOCK_EXCLUSIVE)
        return true;
    /* Shared holds share one descriptor: a request that needs another kind has to wait its turn. */
    if (!p->hand_on && !p->join)
        return true;
    return holds(other) ? p->stale || (r->need & ~p->have) != 0 : (r->need & ~other->need) != 0;
}

/* Can the head have the file that we hold? */
static bool fits(const afl_machine *m, const afl_path *p, const afl_request *r)
{
    if (afl_machine_owner_holds(m, p, r))
        return true;
    if (p->stale || (r->need & ~p->have) != 0)
        return false;
    if (p->holders)
        return (p->hand_on || p->join) && r->mode == AFLOCK_SHARED && p->mode == AFLOCK_SHARED;
    if (p->op_for == r) /* it was won for it */
        return true;
    return p->hand_on && (p->mode == r->mode || p->mode == AFLOCK_EXCLUSIVE);
}

typedef enum { REST, TRY, GRANT, WITHDRAW, RELEASE } step_kind;
enum { NOBODY, FITS, MISFIT };

static step_kind settle(const afl_machine *m, const afl_path *p)
{
    enum { HELD_UNUSED = AFL_GRIP_HELD + 1 };
    static const step_kind TABLE[][3] = {
        [AFL_GRIP_NONE] = {REST, TRY, TRY},
        [AFL_GRIP_KEPT] = {WITHDRAW, TRY, TRY},
        [AFL_GRIP_PENDING] = {WITHDRAW, TRY, WITHDRAW},
        [AFL_GRIP_HELD] = {REST, GRANT, REST},
        [HELD_UNUSED] = {RELEASE, GRANT, RELEASE},
    };
    size_t row = p->grip;
    if (p->grip == AFL_GRIP_HELD && !p->holders)
        row = HELD_UNUSED;
    if (p->keep && p->grip == AFL_GRIP_KEPT && !p->head)
        return REST;
    int column = NOBODY;
    if (p->head) {
        bool fit = p->grip == AFL_GRIP_HELD      ? fits(m, p, p->head)
                   : p->grip == AFL_GRIP_PENDING ? p->head->mode == AFLOCK_EXCLUSIVE
                                                 : true;
        column = fit ? FITS : MISFIT;
    }
    return TABLE[row][column];
}

/* -------------------------------------------------------------------------------------------------- the next step */

static void wait_until(afl_machine *m, afl_path *p, uint64_t at)
{
    if (at == AFLOCK_FOREVER)
        afl_heap_disarm(&m->timers, &p->timer);
    else
        afl_heap_arm(&m->timers, &p->timer, at);
}

static bool begin(afl_machine *m, afl_path *p, afl_op op, afl_request *r, afl_action *a)
{
    afl_heap_disarm(&m->timers, &p->timer);
    p->op = (uint8_t)op;
    p->op_for = r;
    *a = (afl_action){.op = op, .path = p, .request = r};
    return true;
}

static bool start_try(afl_machine *m, afl_path *p, uint64_t now, afl_action *a)
{
    bool pending = p->grip == AFL_GRIP_PENDING && p->beat_interval;
    uint64_t due = later(p->retry_at, p->pause_until);
    if (now < due) {
        if (pending && p->beat_at <= now)
            return begin(m, p, AFL_OP_BEAT, NULL, a);
        wait_until(m, p, pending && p->beat_at < due ? p->beat_at : due);
        return false;
    }
    p->tried_mode = p->head->mode;
    p->spelling = p->head->spelling;
    p->hinted = false;
    p->head->attempts++;
    return begin(m, p, AFL_OP_TRY, p->head, a);
}

/* Nothing to do but to keep alive what is held. */
static bool start_rest(afl_machine *m, afl_path *p, uint64_t now, afl_action *a)
{
    bool beats = p->beat_interval && p->grip == AFL_GRIP_HELD && !p->lost;
    if (beats && p->beat_at <= now)
        return begin(m, p, AFL_OP_BEAT, NULL, a);
    wait_until(m, p, beats ? p->beat_at : AFLOCK_FOREVER);
    return false;
}

static bool start_undo(afl_machine *m, afl_path *p, afl_op op, uint64_t now, afl_action *a)
{
    if (now < p->release_at) {
        wait_until(m, p, p->release_at);
        return false;
    }
    return begin(m, p, op, NULL, a);
}

/* Is the run of hand-offs over, so that the file has to be given up? Starts a new run when nobody foreign is there.
 *
 * Many short holds could be over in no time. Then the other side would not meet us: it pauses, too, and would find the
 * file free each time. So a run lasts longer than a pause. */
static bool run_is_over(afl_machine *m, afl_path *p, uint64_t now)
{
    const afl_machine_config *c = &m->config;
    if (p->fresh)
        return false;
    uint64_t age = now - p->run_started;
    if (age < c->handoff_time && (p->run_grants < c->handoff_grants || age < c->handoff_least))
        return false;
    if (p->foreign || !p->paused || now - p->last_pause >= c->pause_interval)
        return true;
    p->run_grants = 0;
    p->run_started = now;
    return false;
}

/* Requests of one owner, which are in one mode, are granted together; one that needs another descriptor would wait for
 * its own owner. Newest first to the front leaves the oldest in front. */
static void bring_owner_forward(afl_machine *m, afl_path *p, const afl_request *r, uint64_t now)
{
    if (!r->owner || !p->head)
        return;
    for (afl_request *o = afl_machine_owned(m, r->owner), *next; o; o = next) {
        next = o->owner_next;
        if (o->owner != r->owner || o->path != p || o->state != AFL_WAITING)
            continue;
        if (o->need & ~p->have) {
            leave(m, p, o);
            refuse(m, o, AFLOCK_EDEADLK, now);
        } else {
            dequeue(p, o);
            enqueue(p, o, p->head);
        }
    }
}

static void grant(afl_machine *m, afl_path *p, afl_request *r, uint64_t now)
{
    dequeue(p, r);
    m->waiting--;
    p->op_for = NULL;
    hold(m, p, r);
    p->fresh = false;
    p->run_grants++;
    r->sys_errno = r->cleanup_errno = 0;
    r->step = NULL;
    answer_releaser(m, p, 0, now);
    answer_failing(m, p, 0, now);
    answer(m, r, AFL_GRANTED, 0, now);
    bring_owner_forward(m, p, r, now);
}

/* Grants to the head; true: an ADOPT has to come first. */
static bool start_grant(afl_machine *m, afl_path *p, uint64_t now, afl_action *a)
{
    afl_request *r = p->head;
    bool joins = p->holders != NULL;
    bool convert = !joins && p->mode != r->mode;
    bool old = !p->fresh && now - p->checked >= m->config.check_interval;
    bool verify = !afl_machine_owner_holds(m, p, r) && (old || r->spelling != p->spelling);
    if (!r->adopt && !convert && !verify) {
        grant(m, p, r, now);
        return false;
    }
    begin(m, p, AFL_OP_ADOPT, r, a);
    a->verify = p->verify = verify;
    a->convert = p->convert = convert;
    return true;
}

/* A TRY is parked for somebody who has left. Whoever wants the file in the same way takes it over, with its place among
 * those whom the kernel lets wait. */
static bool step_parked(afl_path *p, afl_action *a)
{
    afl_request *head = p->head;
    if (!p->parked || p->op_for || !head)
        return false;
    bool fits = head->mode == p->tried_mode && !head->once && head->parks;
    *a = (afl_action){.op = fits ? AFL_OP_INHERIT : AFL_OP_DETACH, .path = p, .request = fits ? head : NULL};
    if (fits) {
        p->op_for = head;
        head->attempts++;
    } else {
        p->parked = false; /* asked once */
    }
    return true;
}

/* Decides until there is something to do for the caller (true), or nothing more now (false). */
static bool step(afl_machine *m, afl_path *p, uint64_t now, afl_action *a)
{
    for (;;) {
        if (p->unwatch) {
            p->unwatch = p->watching = false;
            *a = (afl_action){.op = AFL_OP_UNWATCH, .path = p};
            return true;
        }
        if (p->op)
            return step_parked(p, a);
        if (p->watch) {
            p->watch = false;
            *a = (afl_action){.op = AFL_OP_WATCH, .path = p};
            return true;
        }
        step_kind kind = settle(m, p);
        if (kind == GRANT && !p->holders && (p->give_up || run_is_over(m, p, now))) {
            p->give_up = true;
            kind = RELEASE;
        }
        switch (kind) {
        case REST:
            if (p->head && p->head->once) {
                end_once(m, p, p->head, now);
                continue;
            }
            if (p->watching && !p->head) {
                p->unwatch = true;
                continue;
            }
            return start_rest(m, p, now, a);
        case TRY:
            return start_try(m, p, now, a);
        case WITHDRAW:
            if (p->watching) {
                p->unwatch = true;
                continue;
            }
            return start_undo(m, p, AFL_OP_WITHDRAW, now, a);
        case RELEASE:
            return start_undo(m, p, AFL_OP_RELEASE, now, a);
        default: /* GRANT */
            if (start_grant(m, p, now, a))
                return true;
        }
    }
}

/* Keeps the count of paths that give something up: they keep a loop alive. */
static void count_releasing(afl_machine *m, afl_path *p)
{
    bool counts =
        p->op == AFL_OP_RELEASE || p->op == AFL_OP_WITHDRAW || p->releaser ||
        (p->grip == AFL_GRIP_HELD && !p->holders) ||
        (!p->head && (p->grip == AFL_GRIP_PENDING || (p->grip == AFL_GRIP_KEPT && !p->keep)) && p->op != AFL_OP_TRY);
    if (counts == p->counted)
        return;
    p->counted = counts;
    m->releasing = counts ? m->releasing + 1 : m->releasing - 1;
}

bool afl_machine_next(afl_machine *m, uint64_t now, afl_action *action)
{
    while (m->ready) {
        afl_path *p = m->ready;
        bool something = step(m, p, now, action);
        count_releasing(m, p);
        if (something)
            return true;
        m->ready = p->ready_next;
        if (!m->ready)
            m->ready_tail = &m->ready;
        p->is_ready = false;
    }
    return false;
}

/* ---------------------------------------------------------------------------------------------- who may wait where */

/* What the other requests of its owner on the path mean for r: 0, AFLOCK_EDEADLK, AFLOCK_ECOMPROMISED. *held: one of
 * them holds; *beside: the newest that waits. */
static int check_owner(const afl_machine *m, const afl_path *p, const afl_request *r, bool *held, afl_request **beside)
{
    *held = false;
    *beside = NULL;
    if (!r->owner)
        return 0;
    for (afl_request *o = afl_machine_owned(m, r->owner); o; o = o->owner_next) {
        if (o == r || o->owner != r->owner || o->path != p || !(o->state == AFL_WAITING || holds(o)))
            continue;
        if (o->mode != r->mode || (holds(o) && (r->need & ~p->have)))
            return AFLOCK_EDEADLK;
        if (holds(o) && p->lost)
            return AFLOCK_ECOMPROMISED;
        if (holds(o))
            *held = true;
        else if (!*beside)
            *beside = o;
    }
    return 0;
}

/* May r, which is in no queue, wait on p? 0 and *at: before whom (NULL: last); its owner's other requests stand beside
 * each other, and in front if one of them holds. */
static int admit(afl_machine *m, afl_path *p, afl_request *r, afl_request **at)
{
    bool held;
    afl_request *beside;
    int status = check_owner(m, p, r, &held, &beside);
    if (status)
        return status;
    *at = beside ? beside->next : held ? p->head : NULL;
    if (held)
        return 0;
    if (r->once && (p->head || (p->holders && !fits(m, p, r))))
        return AFLOCK_EWOULDBLOCK;
    return !beside && afl_machine_cycle(m, p, r) ? AFLOCK_EDEADLK : 0;
}

/* Merges two lists that are linked by `next`, in submission order. */
static afl_request *interleave(afl_request *a, afl_request *b)
{
    afl_request *first = NULL, **link = &first;
    while (a && b) {
        afl_request **least = a->timer.order < b->timer.order ? &a : &b;
        *link = *least;
        link = &(*least)->next;
        *least = *link;
    }
    *link = a ? a : b;
    return first;
}

/* Puts a list in submission order: a merge sort whose bin i has 2^i requests or none. */
static afl_request *in_order(afl_request *list)
{
    afl_request *bins[32] = {NULL};
    for (afl_request *next; list; list = next) {
        next = list->next;
        list->next = NULL;
        size_t i = 0;
        for (; bins[i]; bins[i++] = NULL)
            list = interleave(bins[i], list);
        bins[i] = list;
    }
    afl_request *all = NULL;
    for (size_t i = 0; i < sizeof bins / sizeof bins[0]; i++)
        all = interleave(bins[i], all);
    return all;
}

/* Takes everybody out of p's queue, to be admitted again. */
static afl_request *detach(afl_path *p)
{
    afl_request *list = p->head;
    for (afl_request *r = list; r; r = r->next)
        r->state = AFL_IDLE;
    p->head = p->tail = NULL;
    p->waiting = 0;
    return list;
}

/* Lets those who wait on p, and `more`, wait as if they had asked just now, in the order in which they did: who would
 * have been refused is refused. */
static void readmit(afl_machine *m, afl_path *p, afl_request *more, uint64_t now)
{
    const afl_request *old = p->head;
    afl_request *list = in_order(interleave(detach(p), more));
    for (afl_request *next; list; list = next) {
        afl_request *at = NULL;
        next = list->next;
        list->path = p;
        int status = admit(m, p, list, &at);
        enqueue(p, list, at);
        list->state = AFL_WAITING;
        if (status) {
            leave(m, p, list);
            refuse(m, list, status, now);
        }
    }
    if (p->head != old)
        p->retry_at = 0;
}

/* ----------------------------------------------------------------------------------------------- what came of it */

/* Is there something of ours to listen to while waiting? */
static bool is_audible(const afl_path *p)
{
    return p->grip == AFL_GRIP_KEPT || p->grip == AFL_GRIP_PENDING;
}

/* After an attempt that was made for r (NULL: for one that left) and won nothing. A head that it was not made for gets
 * its own at once. */
static void schedule_retry(afl_path *p, const afl_request *r, bool at_once, uint64_t now)
{
    if (!p->head)
        return;
    if (p->hinted)
        p->rung = 0;
    if (p->hinted || at_once || (p->head != r && p->head->attempts == 0)) {
        p->hinted = false;
        p->retry_at = now;
        return;
    }
    while (p->rung < RUNGS && RUNG[p->rung] < p->resolution)
        p->rung++;
    p->retry_at = add(now, p->rung < RUNGS ? RUNG[p->rung++] : *p->head->poll);
}

static void tried_won(afl_path *p, const afl_outcome *o, uint64_t now)
{
    p->mode = p->tried_mode;
    p->have = o->have;
    p->stale = p->lost = false;
    p->fresh = true;
    p->beat_at = add(now, p->beat_interval);
    p->give_up = false;
    p->run_grants = 0;
    p->run_started = p->checked = now;
    p->retry_at = 0;
    p->rung = RUNGS;
    p->failures = 0;
    p->release_at = 0;
}

/* Somebody who wakes up too late for one pause is there for the next. */
static void meet_foreign(const afl_machine *m, afl_path *p)
{
    p->foreign = m->config.foreign_pauses > 0 ? m->config.foreign_pauses : 1;
}

static void tried_contended(afl_machine *m, afl_path *p, afl_request *r, uint64_t now)
{
    p->op_for = NULL;
    meet_foreign(m, p);
    if (p->grip == AFL_GRIP_PENDING)
        p->beat_at = add(now, p->beat_interval);
    if (r && r->once)
        end_once(m, p, r, now);
    p->watch = p->notify && is_audible(p) && settle(m, p) == TRY && (!p->watching || p->unwatch);
    schedule_retry(p, r, p->watch, now); /* who released between the try and the watch is not heard: try again */
}

static void done_try(afl_machine *m, afl_path *p, const afl_outcome *o, uint64_t now)
{
    afl_request *r = p->op_for;
    p->grip = (uint8_t)o->grip;
    p->tried = now;
    if (p->watching && (!is_audible(p) || o->renewed))
        p->unwatch = true;
    if (o->answer == AFL_WON) {
        tried_won(p, o, now);
    } else if (o->answer != AFL_ERROR) {
        tried_contended(m, p, r, now);
    } else if (r) {
        leave(m, p, r);
        blame(r, o);
        refuse(m, r, o->status, now);
        schedule_retry(p, NULL, true, now); /* the next head makes its own attempt and gets its own error */
    } else {
        schedule_retry(p, NULL, false, now);
    }
}

static void done_adopt(afl_machine *m, afl_path *p, const afl_outcome *o, uint64_t now)
{
    afl_request *r = p->op_for;
    p->grip = (uint8_t)o->grip;
    if (p->convert && o->grip == AFL_GRIP_HELD) { /* whatever failed: nobody holds it exclusively any more */
        p->mode = AFLOCK_SHARED;
        answer_releaser(m, p, 0, now);
    }
    if (o->answer == AFL_WON) {
        if (p->verify)
            p->checked = now;
        if (p->verify && r)
            p->spelling = r->spelling;
        if (r)
            grant(m, p, r, now);
        return;
    }
    p->op_for = NULL;
    if (o->answer == AFL_ERROR && r) {
        answer_failing(m, p, 0, now);
        leave(m, p, r);
        blame(r, o);
        r->status = o->status;
        r->state = AFL_FAILING;
        p->failing = r;
        if (p->holders)
            answer_failing(m, p, 0, now);
    } else if (o->answer == AFL_CONTENDED) {
        p->stale = p->grip == AFL_GRIP_HELD;
        p->retry_at = now;
        if (r && r->once && r->attempts)
            end_once(m, p, r, now);
        if (p->stale && p->holders)
            readmit(m, p, NULL, now); /* who could have joined the holders waits for them now: it may be a cycle */
    }
    if (p->grip != AFL_GRIP_HELD) { /* lost while it was converted: nothing is left to give up */
        meet_foreign(m, p);
        answer_failing(m, p, 0, now);
        answer_releaser(m, p, 0, now);
    }
}

/* The file could not be given up: whoever asked for an answer holds it as before, else it is tried again later. */
static void undo_failed(afl_machine *m, afl_path *p, const afl_outcome *o, uint64_t now)
{
    afl_request *r = p->releaser;
    answer_failing(m, p, o->sys_errno, now);
    if (r) {
        p->releaser = NULL;
        hold(m, p, r);
        p->give_up = false; /* until it is released again */
        blame(r, o);
        answer(m, r, AFL_REHELD, o->status, now);
        readmit(m, p, NULL, now);
        return;
    }
    if (p->failures < 7)
        p->failures++;
    p->release_at = add(now, (UINT64_C(5) << p->failures) * MILLISECOND);
}

static void done_undo(afl_machine *m, afl_path *p, const afl_outcome *o, uint64_t now)
{
    bool released = p->op == AFL_OP_RELEASE;
    p->grip = (uint8_t)o->grip;
    if (o->answer == AFL_CONTENDED) {
        if (p->failures < 7)
            p->failures++;
        p->release_at = add(now, (UINT64_C(1) << p->failures) * MILLISECOND);
        return;
    }
    if (o->answer == AFL_ERROR && o->grip != AFL_GRIP_NONE) {
        undo_failed(m, p, o, now);
        return;
    }
    p->failures = 0;
    p->release_at = 0;
    p->stale = p->lost = false;
    answer_failing(m, p, o->cleanup_errno, now);
    answer_releaser(m, p, o->cleanup_errno, now);
    p->retry_at = 0;
    if (released && p->give_up) {
        p->pause_until = add(now, m->config.handoff_pause);
        p->last_pause = now;
        p->paused = true;
        if (p->foreign > 0)
            p->foreign--;
    }
    p->give_up = false;
}

void afl_machine_lose(afl_machine *m, afl_path *p, uint64_t now)
{
    if (p->grip != AFL_GRIP_HELD || p->lost)
        return;
    p->stale = p->lost = true;
    readmit(m, p, NULL, now); /* as after an ADOPT that found it replaced */
    make_ready(m, p);
}

void afl_machine_beat(afl_machine *m, afl_path *p, uint64_t now)
{
    if (p->beat_at <= now)
        return;
    p->beat_at = now;
    make_ready(m, p);
}

/* One that was not done is tried again soon: there is time for some. */
static void done_beat(afl_machine *m, afl_path *p, const afl_outcome *o, uint64_t now)
{
    p->grip = (uint8_t)o->grip;
    p->beat_at = add(now, o->answer == AFL_CONTENDED ? p->beat_interval / 8 : p->beat_interval);
    if (p->watching && !is_audible(p))
        p->unwatch = true;
    if (o->answer != AFL_ERROR)
        return;
    p->retry_at = now;
    afl_machine_lose(m, p, now);
}

void afl_machine_done(afl_machine *m, afl_path *p, const afl_outcome *o, uint64_t now)
{
    switch ((afl_op)p->op) {
    case AFL_OP_TRY:
        done_try(m, p, o, now);
        break;
    case AFL_OP_ADOPT:
        done_adopt(m, p, o, now);
        break;
    case AFL_OP_RELEASE:
    case AFL_OP_WITHDRAW:
        done_undo(m, p, o, now);
        break;
    case AFL_OP_BEAT:
        done_beat(m, p, o, now);
        break;
    default: /* nothing is in flight */
        return;
    }
    p->op = AFL_OP_NONE;
    p->parked = false;
    make_ready(m, p);
}

void afl_machine_watched(afl_machine *m, afl_path *p, bool watching, uint64_t now)
{
    p->watching = watching;
    p->notify = watching; /* refused once: poll */
    if (p->watching && !p->head)
        p->unwatch = true;
    p->retry_at = p->head ? now : 0;
    make_ready(m, p);
}

void afl_machine_unwatched(afl_machine *m, afl_path *p)
{
    p->unwatch |= p->watching;
    make_ready(m, p);
}

void afl_machine_hint(afl_machine *m, afl_path *p, afl_hint hint, uint64_t now)
{
    if (hint == AFL_HINT_LOST && p->watching) {
        p->unwatch = true;
        p->notify = false;
    }
    if (!p->head) {
        make_ready(m, p);
        return;
    }
    if (p->op && p->op != AFL_OP_BEAT) { /* what comes of it decides when to try again */
        p->hinted = true;
        return;
    }
    p->rung = hint == AFL_HINT_CHANGED ? 0 : hint == AFL_HINT_AGAIN ? RUNGS - 1 : RUNGS;
    p->retry_at = now;
    make_ready(m, p);
}

void afl_machine_yield(afl_machine *m, afl_path *p)
{
    if (p->grip != AFL_GRIP_HELD)
        return;
    meet_foreign(m, p);
    p->give_up = true;
}

void afl_machine_repoll(afl_machine *m, afl_path *p, uint64_t now)
{
    if (!p->head || p->retry_at <= now || p->rung < RUNGS)
        return;
    p->retry_at = add(p->tried, *p->head->poll);
    make_ready(m, p);
}

/* --------------------------------------------------------------------------------------------------- the requests */

int afl_machine_submit(afl_machine *m, afl_path *p, afl_request *r, uint64_t now)
{
    afl_request *at;
    r->path = p;
    r->mark = 0;
    r->state = AFL_IDLE;
    int status = admit(m, p, r, &at);
    if (status)
        return status;
    r->attempts = 0;
    r->status = r->sys_errno = r->cleanup_errno = 0;
    r->step = NULL;
    r->submitted = r->decided = now;
    r->owner_link = NULL;
    afl_timer_init(&r->timer, ++m->sequence);
    r->state = AFL_WAITING;
    own(m, r);
    enqueue(p, r, at);
    m->waiting++;
    if (r->timeout != AFLOCK_FOREVER)
        afl_heap_arm(&m->deadlines, &r->timer, add(now, r->timeout));
    make_ready(m, p);
    return 0;
}

int afl_machine_cancel(afl_machine *m, afl_request *r, int status, uint64_t now)
{
    afl_path *p = r->path;
    switch ((afl_state)r->state) {
    case AFL_WAITING:
        leave(m, p, r);
        refuse(m, r, status, now);
        return 0;
    case AFL_FAILING:
        p->failing = NULL;
        refuse(m, r, status, now);
        make_ready(m, p);
        return 0;
    case AFL_GRANTED: /* keeps its place among the answers */
        unhold(m, p, r);
        disown(m, r);
        r->state = AFL_ANSWERED;
        r->status = status;
        r->decided = now;
        make_ready(m, p);
        return 0;
    case AFL_ANSWERED:
        return 0;
    case AFL_HELD:
    case AFL_REHELD:
        return AFLOCK_EHELD;
    default:
        return AFLOCK_ESTALE;
    }
}

int afl_machine_release(afl_machine *m, afl_request *r, bool want_answer, uint64_t now)
{
    afl_path *p = r->path;
    if (r->state != AFL_HELD)
        return r->state == AFL_WAITING || r->state == AFL_FAILING || r->state == AFL_GRANTED ? AFLOCK_ENOTHELD
                                                                                             : AFLOCK_ESTALE;
    unhold(m, p, r);
    p->release_at = 0; /* an earlier failure does not delay this one */
    make_ready(m, p);
    if (!want_answer) {
        disown(m, r);
        r->state = AFL_IDLE;
        return 0;
    }
    r->state = AFL_RELEASING;
    p->releaser = r;
    if (p->holders)
        answer_releaser(m, p, 0, now);
    return 0;
}

void afl_machine_end_release(afl_machine *m, afl_path *p, int status, uint64_t now)
{
    afl_request *r = p->releaser;
    answer_releaser(m, p, 0, now);
    if (r)
        r->status = status;
    make_ready(m, p);
}

void afl_machine_keep(afl_machine *m, afl_path *p, bool keep)
{
    p->keep = keep;
    make_ready(m, p);
}

uint64_t afl_machine_deadline(const afl_machine *m)
{
    uint64_t at = m->deadlines.root ? m->deadlines.root->at : AFLOCK_FOREVER;
    if (m->timers.root && m->timers.root->at < at)
        at = m->timers.root->at;
    return at;
}

#define CONTAINER(type, member, pointer) ((type *)(void *)((char *)(pointer)-offsetof(type, member)))

void afl_machine_expire(afl_machine *m, uint64_t now)
{
    while (m->deadlines.root && m->deadlines.root->at <= now) {
        afl_request *r = CONTAINER(afl_request, timer, m->deadlines.root);
        int status = r->state == AFL_FAILING ? r->status : r->once ? AFLOCK_EWOULDBLOCK : AFLOCK_ETIMEDOUT;
        afl_machine_cancel(m, r, status, now);
    }
    while (m->timers.root && m->timers.root->at <= now) {
        afl_path *p = CONTAINER(afl_path, timer, m->timers.root);
        afl_heap_disarm(&m->timers, &p->timer);
        make_ready(m, p);
    }
}

/* ------------------------------------------------------------------------------------------------------- the merge */

void afl_machine_merge(afl_machine *m, afl_path *into, afl_path *from, uint64_t now)
{
    if (from->op_for)
        from->op_for->attempts--; /* it found out where the path leads, and tried nothing */
    from->op = AFL_OP_NONE;
    from->op_for = NULL;
    from->retry_at = 0;
    from->rung = RUNGS;
    from->hinted = from->watch = false;
    readmit(m, into, detach(from), now);
    make_ready(m, into);
    make_ready(m, from);
}
