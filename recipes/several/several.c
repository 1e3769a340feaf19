/* aflock/several.h: lists, and what all.c and any.c have in common. Each operation has one request of the guard, which
 * brings its deadline, its token and its cancel, and requests of the locks, which have no deadline. */
#include "several/several.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { ATTEMPT_SECONDS = 5 }; /* as aflock_ctx_options.attempt_limit */

static uint64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * AFLOCK_SECOND + (uint64_t)t.tv_nsec;
}

/* What a call from another thread or a child is answered. */
static int check(const aflock_several *s)
{
    if (!s)
        return AFLOCK_EINVAL;
    int mode = s->count ? aflock_wait_mode(s->entries[0]->pick.lock, NULL) : 0;
    return mode < 0 ? mode : 0;
}

static bool is_waiting(const aflock_several *s)
{
    return s->phase == ORDERING || s->phase == TAKING || s->phase == PICKING;
}

/* ---------------------------------------------------------------------------------------------------------- the list
 */

static void destroy(void *thing)
{
    aflock_several *s = thing;
    for (size_t i = 0; i < s->count; i++) {
        aflock_close(s->entries[i]->pick.lock); /* in a child that is refused */
        free(s->entries[i]);
    }
    guard_end(&s->guard);
    free(s->entries);
    free(s->locks);
    free(s->turn);
    free(s);
}

int aflock_several_new(aflock_several **out, aflock_ctx *ctx)
{
    if (out)
        *out = NULL;
    if (!out)
        return AFLOCK_EINVAL;
    aflock_token *token; /* whether this thread gets one is whether it may call */
    int status = aflock_token_new(&token, ctx);
    if (status)
        return status;
    aflock_token_free(token);
    aflock_several *s = calloc(1, sizeof *s);
    if (!s)
        return AFLOCK_ENOMEM;
    s->life = (life){.destroy = destroy, .thing = s};
    guard_init(&s->guard, ctx, &s->life);
    s->pick = (pick){.life = &s->life, .user = s};
    *out = s;
    return 0;
}

static bool grow(void **block, size_t count, size_t size)
{
    void *larger = realloc(*block, count * size);
    if (larger)
        *block = larger;
    return larger;
}

/* Also if something fails after it: the array may have moved. */
static bool make_room(aflock_several *s)
{
    size_t room = s->room ? 2 * s->room : 8;
    if (s->count < s->room)
        return true;
    if (!grow((void **)&s->locks, room, sizeof(pick_lock *)))
        return false;
    s->pick.locks = s->locks;
    if (!grow((void **)&s->entries, room, sizeof(entry *)) || !grow((void **)&s->turn, room, sizeof *s->turn))
        return false;
    s->room = room;
    return true;
}

/* As aflock_open has accepted them. */
static aflock_protocol protocol_of(const aflock_options *given)
{
    aflock_options o;
    aflock_options_init(&o);
    if (given)
        memcpy(&o, given, given->size);
    return o.protocol;
}

int aflock_several_add(aflock_several *s, const char *path, aflock_mode mode, const aflock_options *options)
{
    int status = check(s);
    if (status)
        return status;
    if (s->phase != IDLE)
        return AFLOCK_EBUSY;
    if (mode != AFLOCK_EXCLUSIVE && mode != AFLOCK_SHARED)
        return AFLOCK_EINVAL;
    entry *e = make_room(s) ? calloc(1, sizeof *e) : NULL;
    if (!e)
        return AFLOCK_ENOMEM;
    status = aflock_open(&e->pick.lock, s->guard.ctx, path, options);
    if (status) {
        free(e);
        return status;
    }
    e->of = s;
    e->mode = mode;
    e->same = s->count;
    e->protocol = protocol_of(options);
    e->pick.of = &s->pick;
    e->pick.index = s->count;
    e->pick.is_lease = e->protocol == AFLOCK_LEASE || e->protocol == AFLOCK_SOFT_RW;
    s->entries[s->count] = e;
    s->locks[s->count] = &e->pick;
    s->pick.count = ++s->count;
    return (int)e->pick.index;
}

size_t aflock_several_count(const aflock_several *s)
{
    return s ? s->count : 0;
}

static const entry *entry_of(const aflock_several *s, size_t index)
{
    if (!s || index >= s->count)
        return NULL;
    return s->entries[s->phase == HELD ? s->entries[index]->same : index];
}

aflock *aflock_several_lock(const aflock_several *s, size_t index)
{
    const entry *e = entry_of(s, index);
    return e ? e->pick.lock : NULL;
}

aflock_req aflock_several_req(const aflock_several *s, size_t index)
{
    const entry *e = entry_of(s, index);
    return e && s->phase == HELD ? e->hold : (aflock_req){0};
}

void aflock_several_free(aflock_several *s)
{
    if (!s)
        return;
    if (check(s) == AFLOCK_EFORKED) {
        destroy(s); /* the callbacks are the parent's */
        return;
    }
    aflock_several_cancel(s);
    aflock_several_release(s, NULL, NULL);
    life_end(&s->life);
}

/* -------------------------------------------------------------------------------------------------------- operations
 */

/* Nothing is asked for any more. */
static void stop(aflock_several *s)
{
    pick_stop(&s->pick);
    s->order = NULL;
}

/* The last one that was taken first. */
static void give_back(aflock_several *s, aflock_callback callback)
{
    for (size_t i = s->taken; i-- > 0;) {
        entry *e = s->entries[s->turn[i]];
        if (callback && aflock_release(e->pick.lock, e->hold, callback, e) == 0) {
            life_enter(&s->life);
            s->releasing++;
        } else if (!callback) {
            aflock_release(e->pick.lock, e->hold, NULL, NULL);
        }
        e->hold = (aflock_req){0};
    }
    s->taken = 0;
}

void several_answer(aflock_several *s, int status, size_t index, const aflock_result *r)
{
    aflock_several_result result = {.size = sizeof result,
                                    .status = status,
                                    .index = index,
                                    .path = aflock_path(s->entries[index]->pick.lock),
                                    .waited = now() - s->started};
    if (r) {
        result.sys_errno = r->sys_errno;
        result.cleanup_errno = r->cleanup_errno;
        result.step = r->step;
        result.detail = r->detail;
    }
    stop(s);
    guard_cancel(&s->guard, &s->watch);
    s->phase = status ? IDLE : HELD;
    if (status)
        give_back(s, NULL);
    s->callback(s, &result, s->user);
}

/* Which one is waited for; of any there is no such thing. */
static size_t waited_for(const aflock_several *s)
{
    return s->phase == TAKING ? s->turn[s->taken] : 0;
}

/* The time is over, the token was fired, or the list was cancelled. */
static void on_watch(aflock *lock, const aflock_result *r, void *user)
{
    aflock_several *s = user;
    int status = r->status;
    (void)lock;
    guard_left(&s->guard);
    if (r->req.id == s->watch.id) {
        s->watch.id = 0;
        if (s->timeout == 0 && status == AFLOCK_ETIMEDOUT)
            status = AFLOCK_EWOULDBLOCK;
        several_answer(s, status, waited_for(s), NULL);
    }
    life_leave(&s->life);
}

/* Zeros are not defaults, and a caller that was compiled against an older header gives less. */
static int take_options(aflock_several *s, const aflock_acquire_options *given)
{
    aflock_acquire_options *o = &s->pick.options;
    aflock_acquire_options_init(o);
    if (given) {
        if (given->size < sizeof given->size || given->size > sizeof *o)
            return AFLOCK_EINVAL;
        memcpy(o, given, given->size);
        o->size = sizeof *o;
    }
    s->timeout = o->timeout;
    s->on_compromise = o->on_compromise;
    s->on_compromise_user = o->on_compromise_user;
    bool has_leases = !o->on_compromise;
    for (size_t i = 0; i < s->count && !has_leases; i++)
        has_leases = s->entries[i]->pick.is_lease;
    return has_leases ? 0 : AFLOCK_EINVAL;
}

static int begin(aflock_several *s, const aflock_acquire_options *options, int (*first_step)(aflock_several *),
                 aflock_several_callback callback, void *user)
{
    int status = check(s);
    if (status)
        return status;
    if (s->phase != IDLE)
        return AFLOCK_EBUSY;
    status = callback && s->count ? take_options(s, options) : AFLOCK_EINVAL;
    if (status)
        return status;
    for (size_t i = 0; i < s->count; i++) {
        s->entries[i]->pick.mode = s->entries[i]->mode;
        s->entries[i]->same = i;
    }
    s->callback = callback;
    s->user = user;
    s->started = now();
    status = guard_ask(&s->guard, s->timeout ? s->timeout : ATTEMPT_SECONDS * AFLOCK_SECOND, s->pick.options.token,
                       on_watch, s, &s->watch);
    if (status)
        return status;
    status = first_step(s);
    if (status) {
        stop(s);
        guard_cancel(&s->guard, &s->watch);
        s->phase = IDLE;
    }
    return status;
}

int aflock_several_all(aflock_several *s, const aflock_acquire_options *options, aflock_several_callback callback,
                       void *user)
{
    return begin(s, options, several_begin_all, callback, user);
}

int aflock_several_any(aflock_several *s, const aflock_acquire_options *options, aflock_several_callback callback,
                       void *user)
{
    return begin(s, options, several_begin_any, callback, user);
}

/* The answer comes by the guard, and until then nothing can be won any more. */
int aflock_several_cancel(aflock_several *s)
{
    int status = check(s);
    if (status)
        return status;
    if (!is_waiting(s))
        return s->phase == HELD ? AFLOCK_EHELD : AFLOCK_ESTALE;
    status = aflock_cancel(s->guard.lock, s->watch);
    if (!status)
        stop(s);
    return status;
}

/* ------------------------------------------------------------------------------------------------------------ release
 */

static void on_released(aflock *lock, const aflock_result *r, void *user)
{
    entry *e = user;
    aflock_several *s = e->of;
    aflock_several_result *all = &s->released;
    if (r->status) {
        if (!all->status)
            *all = (aflock_several_result){
                .status = r->status, .sys_errno = r->sys_errno, .step = r->step, .index = e->pick.index};
        aflock_release(lock, r->req, NULL, NULL);
    }
    if (!all->cleanup_errno)
        all->cleanup_errno = r->cleanup_errno;
    if (--s->releasing == 0) {
        aflock_several_result result = *all;
        result.size = sizeof result;
        result.path = aflock_path(s->entries[result.index]->pick.lock);
        s->phase = IDLE;
        s->callback(s, &result, s->user);
    }
    life_leave(&s->life);
}

int aflock_several_release(aflock_several *s, aflock_several_callback callback, void *user)
{
    int status = check(s);
    if (status)
        return status;
    if (s->phase != HELD)
        return is_waiting(s) ? AFLOCK_ENOTHELD : AFLOCK_ESTALE;
    s->phase = callback ? RELEASING : IDLE;
    s->callback = callback;
    s->user = user;
    s->released = (aflock_several_result){.status = 0};
    give_back(s, callback ? on_released : NULL);
    if (!callback || s->releasing)
        return 0;
    s->phase = IDLE;
    return AFLOCK_ESTALE; /* somebody has released them one by one */
}
