#include "tickets.h"

#include "log.h"

#include <aflock/keyed.h>

#include <ev.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { BUCKETS = 16384, REMEMBERED_MOST = 1024 };
#define REMEMBERED_FOR 60. /* s */
#define GRACE (5 * AFLOCK_SECOND)

typedef enum phase {
    WAITING,
    HELD,
    /* From here on nothing is locked, and the ticket is only remembered. */
    EXPIRED,
    LOST,
    UNWANTED /* unlocked before it was asked for */
} phase;

struct ticket {
    tickets *all;
    ticket *next;          /* of the bucket */
    ticket *newer, *older; /* of those that are remembered */
    phase phase;
    aflock *lock;
    aflock_req req;
    ev_timer timer;         /* of HELD: until it expires; remembered: until it is forgotten */
    double since;           /* of HELD: when it was granted, as `now` has it */
    uint64_t hold, confirm; /* ms; a grant that needs no confirmation: `confirm` is not below `hold` */
    ticket **handle;        /* of who waits for the answer, or to whom it is on its way; or NULL */
    ticket_callback callback;
    void *user;
    size_t id_size;
    uint8_t id[];
};

struct tickets {
    struct ev_loop *loop;
    aflock_ctx *ctx;
    aflock_keyed *keyed;
    tickets_options options;
    ticket *newest, *oldest; /* of those that are remembered */
    unsigned waiting, held, remembered;
    bool is_draining, is_closing;
    void (*on_drained)(void *user);
    void *drained_user;
    ticket *buckets[BUCKETS];
};

/* ----------------------------------------------------------------------------------------------------------- the table
 */

static ticket **bucket_of(tickets *t, wire_bytes id)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325); /* FNV-1a */
    for (size_t i = 0; i < id.size; i++)
        hash = (hash ^ id.at[i]) * UINT64_C(0x100000001b3);
    return &t->buckets[(hash ^ hash >> 32) % BUCKETS];
}

static wire_bytes id_of(const ticket *k)
{
    return (wire_bytes){.at = k->id, .size = k->id_size};
}

static ticket *find(tickets *t, wire_bytes id)
{
    ticket *k = *bucket_of(t, id);
    while (k && (k->id_size != id.size || memcmp(k->id, id.at, id.size) != 0))
        k = k->next;
    return k;
}

static ticket *add(tickets *t, wire_bytes id)
{
    ticket *k = calloc(1, sizeof *k + id.size), **bucket = bucket_of(t, id);
    if (!k)
        return NULL;
    k->all = t;
    k->id_size = id.size;
    memcpy(k->id, id.at, id.size);
    k->next = *bucket;
    *bucket = k;
    return k;
}

static void detach(ticket *k)
{
    if (k->handle)
        *k->handle = NULL;
    k->handle = NULL;
}

static void leave_remembered(ticket *k)
{
    tickets *t = k->all;
    *(k->newer ? &k->newer->older : &t->newest) = k->older;
    *(k->older ? &k->older->newer : &t->oldest) = k->newer;
    t->remembered--;
}

static void forget(ticket *k)
{
    ticket **link = bucket_of(k->all, id_of(k));
    while (*link != k)
        link = &(*link)->next;
    *link = k->next;
    if (k->phase >= EXPIRED)
        leave_remembered(k);
    ev_timer_stop(k->all->loop, &k->timer);
    detach(k);
    free(k);
}

static void on_forget(struct ev_loop *loop, ev_timer *timer, int events)
{
    (void)loop;
    (void)events;
    forget(timer->data);
}

/* It has ended, and who asks what became of it is told for a while. */
static void remember(ticket *k, phase how)
{
    tickets *t = k->all;
    k->phase = how;
    k->older = t->newest;
    *(t->newest ? &t->newest->newer : &t->oldest) = k;
    t->newest = k;
    t->remembered++;
    detach(k);
    ev_timer_stop(t->loop, &k->timer);
    ev_timer_init(&k->timer, on_forget, REMEMBERED_FOR, 0.);
    k->timer.data = k;
    ev_timer_start(t->loop, &k->timer);
    if (t->remembered > REMEMBERED_MOST)
        forget(t->oldest);
}

/* Seconds. Not the loop's, which goes by the clock on the wall. */
static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static const char *name_of(const ticket *k)
{
    const char *path = aflock_path(k->lock), *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* --------------------------------------------------------------------------------------------------------- the holds
 */

static void tell_if_drained(tickets *t)
{
    if (!t->is_draining || t->waiting + t->held > 0 || !t->on_drained)
        return;
    void (*callback)(void *user) = t->on_drained;
    t->on_drained = NULL;
    callback(t->drained_user);
}

/* The file is given up; the ticket is still there. A release that fails is tried again, and logged, by the library. */
static void give_up(ticket *k)
{
    tickets *t = k->all;
    aflock_release(k->lock, k->req, NULL, NULL);
    aflock_keyed_put(t->keyed, k->lock);
    k->lock = NULL;
    t->held--;
}

/* A hold ends by itself. */
static void end(ticket *k, phase how)
{
    tickets *t = k->all;
    give_up(k);
    remember(k, how);
    tell_if_drained(t);
}

static void expire(ticket *k)
{
    char id[LOG_TEXT];
    const bool unconfirmed = k->confirm < k->hold;
    log_line(unconfirmed ? LOG_DEBUG : LOG_NOTICE, "%s: %s has held it for %llu ms: %s", name_of(k),
             log_text(id_of(k), id), (unsigned long long)(unconfirmed ? k->confirm : k->hold),
             unconfirmed ? "not confirmed" : "expired");
    end(k, EXPIRED);
}

static void on_expired(struct ev_loop *loop, ev_timer *timer, int events)
{
    (void)loop;
    (void)events;
    expire(timer->data);
}

static void lose(ticket *k, aflock_compromise_reason why)
{
    char id[LOG_TEXT];
    log_line(LOG_ERR, "%s: %s has lost it: %s", name_of(k), log_text(id_of(k), id), aflock_compromise_name(why));
    end(k, LOST);
}

static void on_compromise(aflock *lock, aflock_req req, const aflock_compromise *what, void *user)
{
    (void)lock;
    (void)req;
    lose(user, what->reason);
}

static bool is_lease(const tickets *t)
{
    return t->options.lock.protocol == AFLOCK_LEASE || t->options.lock.protocol == AFLOCK_SOFT_RW;
}

/* The ticket may be gone. What the file says is told by on_compromise, too. */
static void on_verified(aflock *lock, const aflock_result *result, void *user)
{
    (void)lock;
    (void)result;
    (void)user;
}

/* Ends a hold that is over and was not told so: after a sleep of the machine or of the agent the question may be read
 * before the timer is, and somebody else may have the lock by now. */
static void end_if_over(ticket *k)
{
    const uint64_t most = k->confirm < k->hold ? k->confirm : k->hold;
    if (now() - k->since >= (double)most / 1e3)
        expire(k);
    else if (is_lease(k->all) && aflock_verify(k->lock, k->req, on_verified, NULL) == AFLOCK_ECOMPROMISED)
        lose(k, AFLOCK_LEASE_EXPIRED);
}

/* The loop's idea of now may be old; a hold must not end early. */
static void start_timer(ticket *k, double after)
{
    ev_now_update(k->all->loop);
    ev_timer_init(&k->timer, on_expired, after > 0. ? after : 0., 0.);
    k->timer.data = k;
    ev_timer_start(k->all->loop, &k->timer);
}

static void begin_hold(ticket *k)
{
    tickets *t = k->all;
    k->phase = HELD;
    t->held++;
    k->since = now();
    start_timer(k, (double)(k->confirm < k->hold ? k->confirm : k->hold) / 1e3);
}

/* -------------------------------------------------------------------------------------------------------------- `lock`
 */

static ticket_answer refuse(ticket_status status, const char *reason)
{
    return (ticket_answer){.status = status, .reason = reason};
}

static ticket_status status_of(int error)
{
    switch (error) {
    case 0:
        return TICKET_GRANTED;
    case AFLOCK_ETIMEDOUT:
    case AFLOCK_EWOULDBLOCK:
        return TICKET_TIMEOUT;
    case AFLOCK_EFULL:
        return TICKET_BUSY;
    default:
        return TICKET_ERROR;
    }
}

/* NULL: there is nothing to explain. */
static const char *reason_of(const tickets *t, const aflock_result *result, char *text, size_t size)
{
    const ticket_status status = status_of(result->status);
    if (status == TICKET_GRANTED || status == TICKET_TIMEOUT)
        return NULL;
    if (result->status == AFLOCK_ECANCELED)
        return t->is_draining ? "the agent is ending" : "it was given up";
    const char *why = result->sys_errno ? strerror(result->sys_errno) : aflock_strerror(result->status);
    if (result->detail || result->step)
        snprintf(text, size, "%s: %s", result->detail ? result->detail : result->step, why);
    else
        snprintf(text, size, "%s", why);
    return text;
}

static void log_answer(const ticket *k, const aflock_result *result, const ticket_answer *answer)
{
    char id[LOG_TEXT];
    const bool is_failure =
        answer->status == TICKET_ERROR && result->status != AFLOCK_ECANCELED && result->status != AFLOCK_ECLOSED;
    const char *what = answer->status == TICKET_GRANTED ? "granted" : "timed out";
    log_line(is_failure ? LOG_ERR : LOG_DEBUG, "%s: %s: %s after %llu ms", name_of(k), log_text(id_of(k), id),
             answer->reason ? answer->reason : what, (unsigned long long)answer->waited);
}

static void on_lock(aflock *lock, const aflock_result *result, void *user)
{
    ticket *k = user;
    tickets *t = k->all;
    char reason[256];
    const ticket_answer answer = {
        .status = status_of(result->status),
        .reason = reason_of(t, result, reason, sizeof reason),
        .waited = result->waited / AFLOCK_MILLISECOND,
    };
    log_answer(k, result, &answer);
    const ticket_callback callback = k->handle ? k->callback : NULL;
    void *callback_user = k->user;
    t->waiting--;
    if (result->status == 0) {
        begin_hold(k);
    } else {
        if (!t->is_closing)
            aflock_keyed_put(t->keyed, lock);
        forget(k);
    }
    if (callback)
        callback(callback_user, &answer);
    tell_if_drained(t);
}

static uint64_t or_default(order_time time, uint64_t ms)
{
    return time.is_given ? time.ms : ms;
}

static int acquire(ticket *k, const order *o)
{
    const tickets_options *options = &k->all->options;
    aflock_acquire_options a;
    aflock_acquire_options_init(&a);
    a.timeout = or_default(o->timeout, options->timeout) * AFLOCK_MILLISECOND;
    a.mode = o->is_shared ? AFLOCK_SHARED : AFLOCK_EXCLUSIVE;
    /* A directory that is not there any more, perhaps with what was mounted, is not to be replaced by an empty one. */
    a.flags &= ~(uint32_t)AFLOCK_MAKE_PARENTS;
    if (is_lease(k->all)) {
        a.on_compromise = on_compromise;
        a.on_compromise_user = k;
    }
    int status = aflock_keyed_get(k->all->keyed, o->key.at, o->key.size, &k->lock);
    if (status != 0)
        return status;
    status = aflock_acquire(k->lock, &a, on_lock, k, &k->req);
    if (status != 0)
        aflock_keyed_put(k->all->keyed, k->lock);
    return status;
}

/* NULL: the id is free, also of what was remembered. */
static const char *claim_id(tickets *t, wire_bytes id)
{
    ticket *k = find(t, id);
    if (!k)
        return NULL;
    if (k->phase < EXPIRED)
        return "the id is in use";
    const bool unwanted = k->phase == UNWANTED;
    forget(k);
    return unwanted ? "it was given up before it came" : NULL;
}

bool tickets_lock(tickets *t, const order *o, ticket **handle, ticket_callback callback, void *user,
                  ticket_answer *answer)
{
    const tickets_options *options = &t->options;
    char text[LOG_TEXT];
    const char *wrong = claim_id(t, o->id);
    if (t->is_draining)
        wrong = "the agent is ending";
    if (wrong) {
        *answer = refuse(TICKET_ERROR, wrong);
        return false;
    }
    if (t->waiting >= options->max_waiting || t->held >= options->max_holds) {
        *answer = refuse(TICKET_BUSY, t->held >= options->max_holds ? "too many hold locks" : "too many wait");
        return false;
    }
    ticket *k = add(t, o->id);
    const int status = k ? acquire(k, o) : AFLOCK_ENOMEM;
    if (status != 0) {
        if (k)
            forget(k);
        *answer = (ticket_answer){.status = status_of(status)};
        if (answer->status != TICKET_TIMEOUT)
            answer->reason = aflock_strerror(status);
        return false;
    }
    t->waiting++;
    k->hold = or_default(o->hold, options->hold);
    if (k->hold > options->most_hold)
        k->hold = options->most_hold;
    k->confirm = or_default(o->confirm, k->hold);
    k->handle = handle;
    k->callback = callback;
    k->user = user;
    *handle = k;
    log_line(LOG_DEBUG, "%s: %s: asks", name_of(k), log_text(o->id, text));
    return true;
}

/* ------------------------------------------------------------------------------------------- `confirm` and `unlock`
 */

static ticket *find_now(tickets *t, wire_bytes id)
{
    ticket *k = find(t, id);
    if (k && k->phase == HELD)
        end_if_over(k);
    return k;
}

static const char *how_it_ended(const ticket *k)
{
    return !k || k->phase == UNWANTED ? "unknown" : k->phase == LOST ? "lost" : "expired";
}

const char *tickets_confirm(tickets *t, wire_bytes id)
{
    ticket *k = find_now(t, id);
    if (!k || k->phase != HELD)
        return k && k->phase == WAITING ? "unknown" : how_it_ended(k);
    if (k->confirm < k->hold) {
        k->confirm = k->hold;
        ev_timer_stop(t->loop, &k->timer);
        start_timer(k, k->since + (double)k->hold / 1e3 - now());
    }
    return "held";
}

/* Nobody knows the id yet. That may be because `unlock` came before `lock`, on another connection. */
static void expect(tickets *t, wire_bytes id)
{
    ticket *k = add(t, id);
    if (k)
        remember(k, UNWANTED);
}

const char *tickets_unlock(tickets *t, wire_bytes id)
{
    ticket *k = find_now(t, id);
    char text[LOG_TEXT];
    if (!k)
        expect(t, id);
    if (!k || k->phase >= EXPIRED)
        return how_it_ended(k);
    if (k->phase == WAITING) {
        aflock_cancel(k->lock, k->req); /* on_lock answers */
        return "cancelled";
    }
    log_line(LOG_DEBUG, "%s: %s: released", name_of(k), log_text(id, text));
    give_up(k);
    forget(k);
    tell_if_drained(t);
    return "released";
}

void ticket_delivered(ticket *k)
{
    detach(k);
}

void ticket_abandon(ticket *k)
{
    tickets *t = k->all;
    detach(k);
    if (k->phase == WAITING) {
        aflock_cancel(k->lock, k->req);
        return;
    }
    give_up(k);
    forget(k);
    tell_if_drained(t);
}

/* ---------------------------------------------------------------------------------------------------- begin and end
 */

int tickets_new(tickets **out, struct ev_loop *loop, aflock_ctx *ctx, const tickets_options *options)
{
    aflock_keyed_options keyed;
    aflock_keyed_options_init(&keyed);
    keyed.lock = &options->lock;
    tickets *t = calloc(1, sizeof *t);
    if (!t)
        return AFLOCK_ENOMEM;
    const int status = aflock_keyed_new(&t->keyed, ctx, options->directory, &keyed);
    if (status != 0) {
        free(t);
        return status;
    }
    t->loop = loop;
    t->ctx = ctx;
    t->options = *options;
    *out = t;
    return 0;
}

/* `each` may free the ticket that it gets. */
static void for_each(tickets *t, void (*each)(ticket *k))
{
    for (size_t i = 0; i < BUCKETS; i++) {
        for (ticket *k = t->buckets[i], *next; k; k = next) {
            next = k->next;
            each(k);
        }
    }
}

static void cancel_if_waiting(ticket *k)
{
    if (k->phase == WAITING)
        aflock_cancel(k->lock, k->req);
}

void tickets_drain(tickets *t, void (*callback)(void *user), void *user)
{
    t->is_draining = true;
    t->on_drained = callback;
    t->drained_user = user;
    for_each(t, cancel_if_waiting);
    tell_if_drained(t);
}

unsigned tickets_held(const tickets *t)
{
    return t->held;
}

unsigned tickets_waiting(const tickets *t)
{
    return t->waiting;
}

/* What waits is freed by the end of the context, which answers it. */
static void let_go(ticket *k)
{
    detach(k);
    if (k->phase == WAITING)
        return;
    if (k->phase == HELD)
        give_up(k);
    forget(k);
}

int tickets_free(tickets *t)
{
    if (!t)
        return 0;
    t->on_drained = NULL;
    t->is_closing = true;
    for_each(t, let_go);
    aflock_keyed_free(t->keyed);
    const int left = aflock_ctx_free(t->ctx, GRACE);
    free(t);
    return left;
}
