/* How a path is waited for: whether its file is listened to, how often it is looked at, and how often changes are
 * followed up.
 */
#include "runtime/runtime.h"

#include <string.h>

enum { HINTS_AT_ONCE = 64, FEW_HINTS = HINTS_AT_ONCE / 2 };
#define HINT_INTERVAL AFLOCK_MILLISECOND
#define DEAF_FOR (10 * AFLOCK_SECOND)
#define UNPARKED_FOR AFLOCK_SECOND
#define DEFAULT_POLL (50 * AFLOCK_MILLISECOND)

/* ------------------------------------------------------------------------------------------------------ the choice */

static bool is_deaf(const afl_place *p)
{
    return p->ctx->now < p->deaf_until;
}

static afl_wait_choice without_a_thread(const afl_place *p, const aflock *lock)
{
    if (lock->wait == AFLOCK_WAIT_POLL)
        return (afl_wait_choice){AFLOCK_WAIT_POLL, "asked for"};
    if (!p->ctx->notifier)
        return (afl_wait_choice){AFLOCK_WAIT_POLL, "the loop cannot listen for changes of files"};
    if (!p->protocol->notify)
        return (afl_wait_choice){AFLOCK_WAIT_POLL, "the protocol has nothing to listen for"};
    if (p->caller_fd >= 0)
        return (afl_wait_choice){AFLOCK_WAIT_POLL, "a descriptor of the caller's"};
    if (is_deaf(p))
        return (afl_wait_choice){AFLOCK_WAIT_POLL, "no watch is to be had (see the limits in /proc/sys/fs/inotify)"};
    if (lock->wait == AFLOCK_WAIT_NOTIFY)
        return (afl_wait_choice){AFLOCK_WAIT_NOTIFY, "asked for"};
    if (!p->resolved)
        return (afl_wait_choice){AFLOCK_WAIT_AUTO, "the file system is not known yet"};
    if (p->kind == AFL_CLASS_LOCAL)
        return (afl_wait_choice){AFLOCK_WAIT_NOTIFY, "a local file system"};
    return (afl_wait_choice){AFLOCK_WAIT_POLL, "a network or unknown file system, where not all changes are heard"};
}

static afl_wait_choice choose(const afl_place *p, const aflock *lock)
{
    bool parks = lock->wait == AFLOCK_WAIT_PARK && p->protocol->park && p->caller_fd < 0;
    if (parks && p->ctx->now >= p->unparked_until)
        return (afl_wait_choice){AFLOCK_WAIT_PARK, "asked for"};
    afl_wait_choice choice = without_a_thread(p, lock);
    if (parks)
        choice.reason = "no thread to wait in the kernel is to be had (see max_parked)";
    return choice;
}

afl_wait_choice afl_choose_wait(const afl_place *p, const aflock *lock)
{
    afl_wait_choice choice = choose(p, lock);
    if (p->protocol != p->terms.protocol)
        choice.reason = "the file system has no flock: markers are used instead (soft_fallback)";
    return choice;
}

/* Who asks a server at the same time as others would do so again the next time: a quarter more or less keeps them
 * apart. */
static uint64_t spread(aflock_ctx *ctx, uint64_t interval)
{
    ctx->dice ^= ctx->dice << 13;
    ctx->dice ^= ctx->dice >> 17;
    ctx->dice ^= ctx->dice << 5;
    return interval - interval / 4 + interval / 2 / 1024 * (ctx->dice % 1025);
}

/* Until the next attempt, if nothing is heard. */
static uint64_t interval(const afl_place *p, const aflock *lock)
{
    if (p->path.notify || p->kind == AFL_CLASS_LOCAL || p->protocol->start || lock->poll_interval > AFLOCK_FOREVER / 8)
        return lock->poll_interval;
    uint64_t waited = p->ctx->now - p->path.head->submitted;
    unsigned times = waited < 2 * AFLOCK_SECOND ? 1 : waited < 10 * AFLOCK_SECOND ? 2 : 4;
    return spread(p->ctx, lock->poll_interval * times);
}

bool afl_place_parks(const afl_place *p)
{
    const afl_request *head = p->path.head;
    if (p->path.grip != AFL_GRIP_KEPT || !head || head->attempts < 2)
        return false; /* a first attempt has to find it held */
    return afl_choose_wait(p, AFL_CONTAINER(afl_entry, request, head)->lock).wait == AFLOCK_WAIT_PARK;
}

void afl_place_unparked(afl_place *p)
{
    aflock_ctx *ctx = p->ctx;
    p->unparked_until = ctx->now + UNPARKED_FOR;
    if (ctx->told_unparked)
        return;
    ctx->told_unparked = true;
    afl_log(ctx, AFLOCK_LOG_WARN,
            "%s: no thread to wait in the kernel is to be had; waiting without one for a while (this is said once)",
            p->attempt->spelling->text);
}

/* How the head will wait, if it has to. Who counts on hearing of changes and cannot listen now looks again when he can:
 * he may have asked for no other attempts. */
static void prepare_wait(afl_place *p, const afl_outcome *o)
{
    const afl_request *head = p->path.head;
    if (!head)
        return;
    aflock *lock = AFL_CONTAINER(afl_entry, request, head)->lock;
    aflock_wait wait = afl_choose_wait(p, lock).wait;
    if (wait == AFLOCK_WAIT_PARK && o->grip == AFL_GRIP_PENDING)
        wait = without_a_thread(p, lock).wait; /* what a thread could wait for it has */
    p->path.notify = wait == AFLOCK_WAIT_NOTIFY;
    lock->next_poll = interval(p, lock);
    if (wait == AFLOCK_WAIT_PARK && o->grip == AFL_GRIP_KEPT)
        lock->next_poll = 0; /* the next attempt waits by itself */
    else if (wait != AFLOCK_WAIT_POLL && o->grip == AFL_GRIP_NONE && lock->next_poll > DEFAULT_POLL)
        lock->next_poll = DEFAULT_POLL; /* others replace it all the time: there is nothing to listen to */
    if (p->attempt->work.look_again < lock->next_poll)
        lock->next_poll = p->attempt->work.look_again;
    if (is_deaf(p) && lock->wait != AFLOCK_WAIT_POLL && lock->next_poll > p->deaf_until - p->ctx->now)
        lock->next_poll = p->deaf_until - p->ctx->now;
}

/* Changes that were worth while cost nothing. */
void afl_place_tried(afl_place *p, const afl_outcome *o)
{
    if (o->answer != AFL_WON) {
        prepare_wait(p, o);
        return;
    }
    p->hints = HINTS_AT_ONCE;
    p->hints_at = p->ctx->now;
}

/* --------------------------------------------------------------------------------------------- a marker's holder */

/* The descriptor of the process tells nothing any more. */
static void look_at_holder(afl_place *p)
{
    p->attempt->work.holder_ended = true;
    afl_machine_hint(&p->ctx->machine, &p->path, AFL_HINT_CHANGED, p->ctx->now);
}

/* The process that holds a marker has ended: whether that is enough the next attempt finds out. */
static void holder_ended(afl_watcher *watcher, unsigned events)
{
    afl_place *p = AFL_CONTAINER(afl_place, holder, watcher);
    (void)events;
    afl_place_unwatch_holder(p);
    look_at_holder(p);
}

void afl_place_watch_holder(afl_place *p)
{
    const aflock_loop *loop = p->ctx->loop;
    const bool waits = p->path.grip == AFL_GRIP_KEPT || p->path.grip == AFL_GRIP_PENDING;
    if (!waits || p->path.op || p->watching_holder || p->attempt->work.holder < 0)
        return;
    p->holder = (afl_watcher){.watch = {.fd = p->attempt->work.holder, .events = AFLOCK_READ}, .ready = holder_ended};
    p->watching_holder = loop->watch(loop->self, &p->holder.watch) == 0;
    if (!p->watching_holder)
        look_at_holder(p); /* now and then, as at one that is not waited for */
}

void afl_place_unwatch_holder(afl_place *p)
{
    const aflock_loop *loop = p->ctx->loop;
    if (p->watching_holder)
        loop->unwatch(loop->self, &p->holder.watch);
    p->watching_holder = false;
}

/* ----------------------------------------------------------------------------------------------- following changes up
 */

/* One hint is earned each interval. */
static void earn(afl_place *p, uint64_t now)
{
    uint64_t earned = (now - p->hints_at) / HINT_INTERVAL;
    if (earned >= HINTS_AT_ONCE - p->hints) {
        p->hints = HINTS_AT_ONCE;
        p->hints_at = now;
    } else {
        p->hints += (uint32_t)earned;
        p->hints_at += earned * HINT_INTERVAL;
    }
}

static void follow_up(afl_place *p, uint64_t now)
{
    p->hints--;
    afl_machine_hint(&p->ctx->machine, &p->path, p->hints < FEW_HINTS ? AFL_HINT_AGAIN : AFL_HINT_CHANGED, now);
}

static void change(afl_place *p, uint64_t now)
{
    aflock_ctx *ctx = p->ctx;
    if (p->muffled || !p->path.notify) /* or the head, unlike an earlier one, only polls */
        return;
    earn(p, now);
    if (p->hints > 0) {
        follow_up(p, now);
        return;
    }
    p->muffled = true;
    p->muffled_next = NULL;
    *(ctx->muffled ? &ctx->muffled_last->muffled_next : &ctx->muffled) = p;
    ctx->muffled_last = p;
}

void afl_place_forget_changes(afl_place *p)
{
    aflock_ctx *ctx = p->ctx;
    afl_place *before = NULL;
    if (!p->muffled)
        return;
    p->muffled = false;
    for (afl_place *q = ctx->muffled; q != p; q = q->muffled_next)
        before = q;
    *(before ? &before->muffled_next : &ctx->muffled) = p->muffled_next;
    if (ctx->muffled_last == p)
        ctx->muffled_last = before;
}

static uint64_t due(const afl_place *p)
{
    return p->hints > 0 ? p->hints_at : p->hints_at + HINT_INTERVAL;
}

void afl_waits_expire(aflock_ctx *ctx, uint64_t now)
{
    while (ctx->muffled && due(ctx->muffled) <= now) {
        afl_place *p = ctx->muffled;
        afl_place_forget_changes(p);
        earn(p, now);
        follow_up(p, now);
    }
}

uint64_t afl_waits_deadline(const aflock_ctx *ctx)
{
    return ctx->muffled ? due(ctx->muffled) : AFLOCK_FOREVER;
}

/* ------------------------------------------------------------------------------------------------------- listening */

static void go_deaf(afl_place *p, const char *why)
{
    aflock_ctx *ctx = p->ctx;
    p->deaf_until = ctx->now + DEAF_FOR;
    if (ctx->told_deaf)
        return;
    ctx->told_deaf = true;
    afl_log(ctx, AFLOCK_LOG_WARN, "%s: %s; polling for a while (this is said once)", p->attempt->spelling->text, why);
}

/* An attempt that is under way may just have let go of a file that was replaced, which ends its watch, and not every
 * host can tell that. It looks at the new one anyway, and listens to that. */
static void lose(afl_place *p)
{
    if (!p->path.op)
        go_deaf(p, "changes of the file were lost");
    afl_machine_hint(&p->ctx->machine, &p->path, AFL_HINT_LOST, p->ctx->now);
}

static void end(afl_place *p)
{
    afl_machine_unwatched(&p->ctx->machine, &p->path);
    change(p, p->ctx->now);
}

/* Does the entry that left say anything to those who wait? */
static bool counts(const afl_protocol *protocol, const char *name)
{
    const char *prefix = protocol->notify_prefix;
    return !prefix || !name || strncmp(name, prefix, strlen(prefix)) == 0;
}

static void heard(aflock_ctx *ctx, afl_ear *ear, unsigned what, const char *name)
{
    afl_place *p = AFL_CONTAINER(afl_place, ear, ear);
    if (what == AFLOCK_ON_LOST)
        lose(p);
    else if (what == AFLOCK_ON_GONE)
        end(p);
    else if (counts(p->protocol, name))
        change(p, ctx->now);
}

void afl_place_listen(afl_place *p)
{
    aflock_ctx *ctx = p->ctx;
    const afl_work *w = &p->attempt->work;
    p->ear = (afl_ear){.notify = {.fd = w->fd, .what = w->listen ? w->listen : p->protocol->notify}, .heard = heard};
    /* A claim may stand while what to listen to could not be opened. */
    p->notifying = w->fd >= 0 && ctx->notifier->add(ctx->notifier->self, &p->ear.notify) == 0;
    if (!p->notifying)
        go_deaf(p, "changes of the file cannot be listened for");
    afl_machine_watched(&ctx->machine, &p->path, p->notifying, ctx->now);
}

void afl_place_unlisten(afl_place *p)
{
    if (p->notifying)
        p->ctx->notifier->del(p->ctx->notifier->self, &p->ear.notify);
    p->notifying = false;
}
