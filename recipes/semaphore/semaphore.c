/* aflock/semaphore.h: slots, and a queue of those who wait for one.
 *
 * The queue asks for slots, not who is in it (several/pick.h): first each slot is tried, then all are waited for, and
 * what is won goes to whoever is the first by then. Who waits has a request of the guard (several/guard.h), which
 * brings his deadline, his token and his cancel; only one who finds the queue empty and has neither does without, as
 * long as slots are tried, so that a free slot costs no more than its lock. */
#include "semaphore/takers.h"
#include "several/guard.h"
#include "several/pick.h"

#include <aflock/semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { ATTEMPT_SECONDS = 5 }; /* as aflock_ctx_options.attempt_limit */

typedef struct slot {
    pick_lock pick;
    aflock_req hold; /* of who has it, if it is somebody here */
    aflock_req rest; /* of the guard: it is not asked for until this is over */
} slot;

struct aflock_semaphore {
    life life;
    guard guard;
    pick pick;
    slot *slots;
    unsigned maximum;
    uint64_t poll_interval;
    takers takers;
};

static uint64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * AFLOCK_SECOND + (uint64_t)t.tv_nsec;
}

/* What a call from another thread or a child is answered. */
static int check(const aflock_semaphore *s)
{
    int mode = s ? aflock_wait_mode(s->slots[0].pick.lock, NULL) : AFLOCK_EINVAL;
    return mode < 0 ? mode : 0;
}

/* -------------------------------------------------------------------------------------------------------- answering */

static slot *slot_of(const aflock_semaphore *s, const pick_lock *l)
{
    return &s->slots[l->index];
}

/* `l`: the slot that it is about; `r`: what the library said; or NULL. The taker has left the queue. */
static void answer(taker *t, int status, const pick_lock *l, const aflock_result *r)
{
    aflock_semaphore *s = t->of;
    aflock_semaphore_callback callback = t->callback;
    void *user = t->user;
    aflock_semaphore_result result = {
        .size = sizeof result, .status = status, .fd = -1, .permit = taker_permit(t), .waited = now() - t->started};
    if (l) {
        result.slot = (unsigned)l->index;
        result.path = aflock_path(l->lock);
    }
    if (r) {
        result.sys_errno = r->sys_errno;
        result.cleanup_errno = r->cleanup_errno;
        result.step = r->step;
        result.fd = r->fd;
    }
    guard_cancel(&s->guard, &t->watch);
    if (t->place != HOLDING)
        takers_drop(&s->takers, t);
    callback(s, &result, user);
}

/* Nobody waits any more. */
static void stop(aflock_semaphore *s)
{
    pick_stop(&s->pick);
    for (unsigned i = 0; i < s->maximum; i++)
        guard_cancel(&s->guard, &s->slots[i].rest);
}

static void leave_queue(aflock_semaphore *s, taker *t)
{
    takers_dequeue(&s->takers, t);
    if (!s->takers.head && (s->pick.waiting || s->pick.sweeping))
        stop(s);
}

static void answer_head(aflock_semaphore *s, int status, const pick_lock *l, const aflock_result *r)
{
    taker *t = s->takers.head;
    if (!t)
        return;
    leave_queue(s, t);
    answer(t, status, l, r);
}

/* The first one who may be given something. Whose token was fired is told so by the guard. */
static taker *first_taker(aflock_semaphore *s)
{
    while (s->takers.head && aflock_token_fired(s->takers.head->token))
        leave_queue(s, s->takers.head);
    return s->takers.head;
}

/* ---------------------------------------------------------------------------------------------------- asking for slots
 */

static void on_watch(aflock *lock, const aflock_result *r, void *user);

static int watch(taker *t, uint64_t timeout)
{
    return guard_ask(&t->of->guard, timeout, t->token, on_watch, t, &t->watch);
}

/* All slots are taken: who wanted one try has had it. The head is for the caller to answer. */
static void dismiss_tries(aflock_semaphore *s)
{
    for (taker *t = s->takers.head ? s->takers.head->next : NULL, *next; t; t = next) {
        next = t->next;
        if (!t->once)
            continue;
        takers_dequeue(&s->takers, t);
        t->verdict = AFLOCK_EWOULDBLOCK;
        aflock_cancel(s->guard.lock, t->watch);
    }
}

static int found_taken(aflock_semaphore *s)
{
    taker *t = s->takers.head;
    dismiss_tries(s);
    if (t->once)
        return AFLOCK_EWOULDBLOCK;
    int status = t->watch.id ? 0 : watch(t, AFLOCK_FOREVER);
    return status ? status : pick_wait(&s->pick);
}

/* Somebody waits, and nothing is under way. */
static int start(aflock_semaphore *s)
{
    int status = pick_sweep(&s->pick);
    return status == AFLOCK_EWOULDBLOCK ? found_taken(s) : status;
}

/* In a callback. */
static void proceed(aflock_semaphore *s)
{
    while (s->takers.head && !s->pick.sweeping && !s->pick.waiting) {
        int status = start(s);
        if (status)
            answer_head(s, status, NULL, NULL);
    }
}

static void on_taken(pick *p, int status)
{
    aflock_semaphore *s = p->user;
    if (status == AFLOCK_EWOULDBLOCK)
        status = found_taken(s);
    if (status)
        answer_head(s, status, NULL, NULL);
    proceed(s);
}

/* Others wait on for the slot, which is won or has failed. */
static void wait_again(aflock_semaphore *s, pick_lock *l)
{
    while (s->pick.waiting && !l->asked.id) {
        int status = pick_wait_for(&s->pick, l);
        if (status)
            answer_head(s, status, l, NULL);
    }
}

static void on_won(pick *p, pick_lock *l, const aflock_result *r)
{
    aflock_semaphore *s = p->user;
    taker *t = first_taker(s);
    if (!t) {
        aflock_release(l->lock, r->req, NULL, NULL);
        return;
    }
    leave_queue(s, t);
    t->place = HOLDING;
    t->slot = (unsigned)l->index;
    slot_of(s, l)->hold = r->req;
    l->is_taken = true;
    int status = s->pick.waiting ? pick_wait_for(p, l) : 0; /* before the callback, which may release it */
    answer(t, 0, l, r);
    if (status)
        answer_head(s, status, l, NULL);
    wait_again(s, l);
    proceed(s);
}

/* After a pause, as often as others look. */
static void on_rested(aflock *lock, const aflock_result *r, void *user)
{
    pick_lock *l = user;
    aflock_semaphore *s = l->of->user;
    slot *at = slot_of(s, l);
    (void)lock;
    guard_left(&s->guard);
    if (r->req.id == at->rest.id) {
        at->rest.id = 0;
        wait_again(s, l);
    }
    life_leave(&s->life);
}

/* Whatever is wrong with flock(2) on a slot, others may get it: it counts as taken. */
static bool counts_as_taken(const aflock_result *r)
{
    return r->step && strcmp(r->step, "flock") == 0;
}

static void on_failed(pick *p, pick_lock *l, const aflock_result *r)
{
    aflock_semaphore *s = p->user;
    int status = r->status;
    if (s->takers.head->place == LEAVING) {
        status = AFLOCK_ECANCELED; /* it may have failed before */
    } else if (counts_as_taken(r)) {
        if (!p->waiting)
            status = pick_sweep_on(p);
        else
            status = guard_ask(&s->guard, s->poll_interval, NULL, on_rested, l, &slot_of(s, l)->rest);
        if (status == AFLOCK_EWOULDBLOCK)
            status = found_taken(s);
    }
    if (status) {
        answer_head(s, status, l, r);
        if (!slot_of(s, l)->rest.id)
            wait_again(s, l);
        proceed(s);
    }
}

/* The time is over, the token was fired, or it was cancelled. */
static void on_watch(aflock *lock, const aflock_result *r, void *user)
{
    taker *t = user;
    aflock_semaphore *s = t->of;
    (void)lock;
    guard_left(&s->guard);
    if (r->req.id == t->watch.id) { /* else it was answered before */
        int status = t->verdict ? t->verdict : r->status;
        t->watch.id = 0;
        if (t->once && status == AFLOCK_ETIMEDOUT)
            status = AFLOCK_EWOULDBLOCK;
        if (t->place == QUEUED)
            leave_queue(s, t);
        answer(t, status, NULL, NULL);
    }
    life_leave(&s->life);
}

/* ---------------------------------------------------------------------------------------------------------- the calls
 */

static bool needs_watch(const aflock_semaphore *s, const taker *t, uint64_t timeout)
{
    return s->takers.head || t->token || (timeout != 0 && timeout != AFLOCK_FOREVER);
}

int aflock_semaphore_acquire(aflock_semaphore *s, uint64_t timeout, aflock_token *token,
                             aflock_semaphore_callback callback, void *user, aflock_permit *permit)
{
    if (permit)
        permit->id = 0;
    int status = check(s);
    if (status)
        return status;
    if (!callback)
        return AFLOCK_EINVAL;
    if (timeout == 0 && s->pick.waiting)
        return AFLOCK_EWOULDBLOCK;
    taker *t = takers_new(&s->takers, s);
    if (!t)
        return AFLOCK_ENOMEM;
    t->once = timeout == 0;
    t->token = token;
    t->callback = callback;
    t->user = user;
    t->started = now();
    bool is_first = !s->takers.head;
    if (needs_watch(s, t, timeout))
        status = watch(t, timeout ? timeout : ATTEMPT_SECONDS * AFLOCK_SECOND);
    if (!status) {
        takers_enqueue(&s->takers, t);
        status = is_first ? start(s) : 0; /* who is in the queue has seen to it otherwise */
        if (status)
            leave_queue(s, t);
    }
    if (status) {
        guard_cancel(&s->guard, &t->watch);
        takers_drop(&s->takers, t);
        return status;
    }
    if (permit)
        *permit = taker_permit(t);
    return 0;
}

/* One without a request of the guard is answered when the attempt is. */
static int cancel(aflock_semaphore *s, taker *t)
{
    if (t->place == LEAVING)
        return 0;
    if (!t->watch.id) {
        t->place = LEAVING;
        return pick_interrupt(&s->pick);
    }
    int status = aflock_cancel(s->guard.lock, t->watch);
    if (!status)
        leave_queue(s, t);
    return status;
}

int aflock_semaphore_cancel(aflock_semaphore *s, aflock_permit permit)
{
    int status = check(s);
    if (status)
        return status;
    taker *t = takers_find(&s->takers, permit);
    if (!t || t->place == RELEASING)
        return AFLOCK_ESTALE;
    return t->place == HOLDING ? AFLOCK_EHELD : cancel(s, t);
}

static void on_released(aflock *lock, const aflock_result *r, void *user)
{
    taker *t = user;
    aflock_semaphore *s = t->of;
    if (r->status)
        aflock_release(lock, r->req, NULL, NULL);
    aflock_result told = *r;
    told.fd = -1;
    answer(t, r->status, &s->slots[t->slot].pick, &told);
    life_leave(&s->life);
}

static int release(aflock_semaphore *s, taker *t, aflock_semaphore_callback callback, void *user)
{
    slot *at = &s->slots[t->slot];
    int status = aflock_release(at->pick.lock, at->hold, callback ? on_released : NULL, t);
    if (status)
        return status;
    at->pick.is_taken = false;
    s->pick.first = t->slot;
    if (!callback) {
        takers_drop(&s->takers, t);
        return 0;
    }
    life_enter(&s->life);
    t->place = RELEASING;
    t->callback = callback;
    t->user = user;
    t->started = now();
    return 0;
}

int aflock_semaphore_release(aflock_semaphore *s, aflock_permit permit, aflock_semaphore_callback callback, void *user)
{
    int status = check(s);
    if (status)
        return status;
    taker *t = takers_find(&s->takers, permit);
    if (!t || t->place == RELEASING)
        return AFLOCK_ESTALE;
    return t->place == HOLDING ? release(s, t, callback, user) : AFLOCK_ENOTHELD;
}

unsigned aflock_semaphore_maximum(const aflock_semaphore *s)
{
    return s ? s->maximum : 0;
}

aflock *aflock_semaphore_lock(const aflock_semaphore *s, unsigned number)
{
    return s && number < s->maximum ? s->slots[number].pick.lock : NULL;
}

/* ------------------------------------------------------------------------------------------------------ new and free
 */

void aflock_semaphore_options_init(aflock_semaphore_options *o)
{
    if (o)
        *o = (aflock_semaphore_options){.size = sizeof *o, .flags = AFLOCK_CREATE, .file_mode = AFLOCK_MODE_DEFAULT};
}

static int take_options(aflock_semaphore_options *o, aflock_options *lock, const aflock_semaphore_options *given)
{
    aflock_semaphore_options_init(o);
    aflock_options_init(lock);
    if (given) {
        if (given->size < sizeof given->size || given->size > sizeof *o)
            return AFLOCK_EINVAL;
        memcpy(o, given, given->size);
    }
    if (o->lock) {
        if (o->lock->size < sizeof lock->size || o->lock->size > sizeof *lock)
            return AFLOCK_EINVAL;
        memcpy(lock, o->lock, o->lock->size);
        lock->size = sizeof *lock;
    }
    return lock->protocol == AFLOCK_NATIVE ? 0 : AFLOCK_EINVAL;
}

static void destroy(void *thing)
{
    aflock_semaphore *s = thing;
    for (unsigned i = 0; i < s->maximum; i++)
        aflock_close(s->slots[i].pick.lock); /* in a child that is refused */
    guard_end(&s->guard);
    takers_free(&s->takers);
    free(s->pick.locks);
    free(s->slots);
    free(s);
}

static int open_slot(aflock_semaphore *s, unsigned number, const char *directory, const char *name,
                     const aflock_options *lock)
{
    pick_lock *l = &s->slots[number].pick;
    size_t room = strlen(directory) + strlen(name) + sizeof "/..lock" + 10;
    char *path = malloc(room);
    if (!path)
        return AFLOCK_ENOMEM;
    snprintf(path, room, "%s/%s.%02u.lock", directory, name, number);
    *l = (pick_lock){.of = &s->pick, .index = number, .mode = AFLOCK_EXCLUSIVE};
    s->pick.locks[number] = l;
    int status = aflock_open(&l->lock, s->guard.ctx, path, lock);
    free(path);
    return status;
}

static aflock_semaphore *allocate(aflock_ctx *ctx, unsigned maximum)
{
    aflock_semaphore *s = calloc(1, sizeof *s);
    if (!s)
        return NULL;
    s->life = (life){.destroy = destroy, .thing = s};
    guard_init(&s->guard, ctx, &s->life);
    s->pick =
        (pick){.life = &s->life, .user = s, .count = maximum, .won = on_won, .failed = on_failed, .taken = on_taken};
    s->pick.locks = calloc(maximum, sizeof(pick_lock *));
    s->slots = calloc(maximum, sizeof *s->slots);
    if (s->pick.locks && s->slots)
        return s;
    destroy(s);
    return NULL;
}

int aflock_semaphore_new(aflock_semaphore **out, aflock_ctx *ctx, const char *directory, const char *name,
                         unsigned maximum, const aflock_semaphore_options *options)
{
    aflock_semaphore_options o;
    aflock_options lock;
    if (!out)
        return AFLOCK_EINVAL;
    *out = NULL;
    int status = take_options(&o, &lock, options);
    if (status)
        return status;
    if (!ctx || !directory || !*directory || !name || !*name || strchr(name, '/') || maximum == 0 ||
        maximum > AFLOCK_SEMAPHORE_LIMIT)
        return AFLOCK_EINVAL;
    aflock_semaphore *s = allocate(ctx, maximum);
    if (!s)
        return AFLOCK_ENOMEM;
    s->poll_interval = lock.poll_interval;
    aflock_acquire_options_init(&s->pick.options);
    s->pick.options.flags = o.flags;
    s->pick.options.file_mode = o.file_mode;
    while (s->maximum < maximum && !status)
        status = open_slot(s, s->maximum++, directory, name, &lock);
    if (status) {
        destroy(s);
        return status;
    }
    *out = s;
    return 0;
}

void aflock_semaphore_free(aflock_semaphore *s)
{
    if (!s)
        return;
    if (check(s) == AFLOCK_EFORKED) {
        destroy(s); /* the callbacks are the parent's */
        return;
    }
    for (uint32_t i = 0; i < s->takers.count; i++) {
        taker *t = s->takers.all[i];
        if (t->place == QUEUED)
            cancel(s, t);
        else if (t->place == HOLDING)
            release(s, t, NULL, NULL);
    }
    life_end(&s->life);
}
