/* The public functions on locks and requests: arguments are checked here, what is asked for goes to the machine, and
 * afl_settle carries out what follows. */
#include "runtime/runtime.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { SLAB = 64, MIN_POLL = 1000, MODE_BITS = 07777 };

/* -------------------------------------------------------------------------------------------------------- entries */

afl_entry *afl_entry_of(aflock_ctx *ctx, aflock_req req)
{
    uint32_t index = (uint32_t)req.id - 1;
    if (index / SLAB >= ctx->slab_count)
        return NULL;
    afl_entry *e = &ctx->slabs[index / SLAB][index % SLAB];
    return e->lock && e->generation == (uint32_t)(req.id >> 32) ? e : NULL;
}

aflock_req afl_entry_name(const afl_entry *e)
{
    return (aflock_req){(uint64_t)e->generation << 32 | (e->index + 1)};
}

static bool more_entries(aflock_ctx *ctx)
{
    afl_entry **slabs = afl_reallocate(ctx, ctx->slabs, (ctx->slab_count + 1) * sizeof *slabs);
    if (!slabs)
        return false;
    ctx->slabs = slabs;
    afl_entry *slab = afl_allocate(ctx, SLAB * sizeof *slab);
    if (!slab)
        return false;
    for (uint32_t i = SLAB; i-- > 0;) {
        slab[i].index = (uint32_t)ctx->slab_count * SLAB + i;
        slab[i].free_next = ctx->free_entries;
        ctx->free_entries = &slab[i];
    }
    ctx->slabs[ctx->slab_count++] = slab;
    return true;
}

static afl_entry *entry_new(aflock_ctx *ctx)
{
    if (!ctx->free_entries && !more_entries(ctx))
        return NULL;
    afl_entry *e = ctx->free_entries;
    ctx->free_entries = e->free_next;
    e->running = 0;
    e->extras = NULL;
    return e;
}

void afl_entry_free(aflock_ctx *ctx, afl_entry *e)
{
    if (e->extras) {
        afl_entry_detach(ctx, e);
        free(afl_entry_take_detail(e));
        e->extras->next = ctx->free_extras;
        ctx->free_extras = e->extras;
        e->extras = NULL;
    }
    e->lock = NULL;
    e->generation++;
    e->free_next = ctx->free_entries;
    ctx->free_entries = e;
}

void afl_entry_detach(aflock_ctx *ctx, afl_entry *e)
{
    (void)ctx;
    if (e->extras && e->extras->token)
        afl_token_leave(e->extras);
}

static afl_extras *new_extras(aflock_ctx *ctx, afl_entry *e)
{
    afl_extras *x = ctx->free_extras;
    if (x)
        ctx->free_extras = x->next;
    else if (!(x = afl_allocate(ctx, sizeof *x)))
        return NULL;
    *x = (afl_extras){.entry = e, .file_mode = AFLOCK_MODE_DEFAULT};
    e->extras = x;
    return x;
}

void afl_entry_explain(aflock_ctx *ctx, afl_entry *e, char *detail)
{
    afl_extras *x = e->extras ? e->extras : new_extras(ctx, e);
    if (!x) {
        free(detail);
        return;
    }
    free(x->detail);
    x->detail = detail;
}

char *afl_entry_take_detail(afl_entry *e)
{
    char *detail = e->extras ? e->extras->detail : NULL;
    if (detail)
        e->extras->detail = NULL;
    return detail;
}

/* All of them, those of holds that nobody released included. */
void afl_entries_free(aflock_ctx *ctx)
{
    for (size_t i = 0; i < ctx->slab_count; i++) {
        for (size_t j = 0; j < SLAB; j++)
            if (ctx->slabs[i][j].lock)
                afl_entry_free(ctx, &ctx->slabs[i][j]);
        afl_release_memory(ctx, ctx->slabs[i]);
    }
    afl_release_memory(ctx, ctx->slabs);
}

/* The owner table grows with its load, so that it takes at most 8 bytes a request; without memory the chains do. */
static void grow_owners(aflock_ctx *ctx)
{
    afl_machine *m = &ctx->machine;
    if (m->owned / 2 <= m->owner_buckets)
        return;
    size_t buckets = m->owner_buckets < SLAB ? SLAB : m->owner_buckets * 2;
    afl_request **table = afl_allocate(ctx, buckets * sizeof *table);
    if (table)
        afl_release_memory(ctx, afl_machine_owner_table(m, table, buckets));
}

/* ----------------------------------------------------------------------------------------------------- open, close */

void aflock_options_init(aflock_options *o)
{
    if (o)
        *o = (aflock_options){
            .size = sizeof *o, .poll_interval = 50 * AFLOCK_MILLISECOND, .duration = 30 * AFLOCK_SECOND};
}

static int options_for_open(aflock_options *o, const aflock_options *given)
{
    aflock_options_init(o);
    if (!afl_take_options(o, sizeof *o, given))
        return AFLOCK_EINVAL;
    bool sane = o->protocol >= AFLOCK_NATIVE && o->protocol <= AFLOCK_PIDFILE && o->io >= AFLOCK_IO_AUTO &&
                o->io <= AFLOCK_IO_POOL && o->poll_interval >= MIN_POLL && o->wait >= AFLOCK_WAIT_AUTO &&
                o->wait <= AFLOCK_WAIT_PARK;
    return sane ? 0 : AFLOCK_EINVAL;
}

#define STALE_AFTER (90 * AFLOCK_SECOND)

/* What is not said follows from what is. */
static void terms_of_readers(afl_terms *terms, const aflock_options *o)
{
    const uint64_t stale_after = o->stale_after || o->heartbeat ? o->stale_after : STALE_AFTER;
    terms->heartbeat = o->heartbeat ? o->heartbeat : stale_after / 3;
    terms->duration = stale_after                               ? stale_after
                      : terms->heartbeat <= AFLOCK_FOREVER / 12 ? 3 * terms->heartbeat
                                                                : AFLOCK_FOREVER;
}

/* The least of a lease is what a busy machine can keep to, the most what a clock can count. */
static int terms_for_open(afl_terms *terms, const afl_protocol *protocol, const aflock_options *o)
{
    *terms = (afl_terms){.protocol = protocol};
    if (!protocol->lease)
        return 0;
    if (protocol->join) {
        terms_of_readers(terms, o);
        if (terms->heartbeat >= terms->duration)
            return AFLOCK_EINVAL;
    } else {
        terms->duration = o->duration;
        terms->heartbeat = o->heartbeat ? o->heartbeat : o->duration / 3;
        if (terms->heartbeat > o->duration / 3)
            return AFLOCK_EINVAL;
    }
    const bool sane = terms->duration >= 10 * AFLOCK_MILLISECOND && terms->duration <= AFLOCK_FOREVER / 4 &&
                      terms->heartbeat >= AFLOCK_MILLISECOND;
    return sane && !o->lifetime ? 0 : AFLOCK_EINVAL;
}

static int open_lock(aflock **out, aflock_ctx *ctx, const char *path, int fd, const afl_terms *terms,
                     const aflock_options *o)
{
    int status;
    afl_spelling *spelling;
    aflock *lock = afl_allocate(ctx, sizeof *lock);
    if (!lock)
        return AFLOCK_ENOMEM;
    afl_place *place = path ? afl_place_of_path(ctx, path, terms, &spelling, &status)
                            : afl_place_of_descriptor(ctx, fd, terms, &spelling, &status);
    if (!place) {
        afl_release_memory(ctx, lock);
        return status;
    }
    lock->ctx = ctx;
    lock->spelling = spelling;
    lock->place = place;
    lock->io = o->io;
    lock->poll_interval = lock->next_poll = o->poll_interval;
    lock->wait = o->wait;
    lock->max_waiters = o->max_waiters;
    lock->keep_open = o->keep_open != 0 && path;
    lock->lifetime = o->lifetime;
    lock->break_empty = o->break_empty != 0;
    afl_place_add_lock(place, lock);
    *out = lock;
    return 0;
}

/* Names of markers that are put aside are longer. */
enum { MARKER_NAME = 200 };

static size_t last_component(const char *path)
{
    const char *slash = strrchr(path, '/');
    return strlen(slash ? slash + 1 : path);
}

/* A marker has a name, and what is beside it has names that begin with that one. */
static bool has_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    const char *last = slash ? slash + 1 : path;
    return *last && strcmp(last, "..") != 0;
}

static int open_checked(aflock **out, aflock_ctx *ctx, const char *path, int fd, const afl_protocol *protocol,
                        const aflock_options *given)
{
    aflock_options o;
    if (!out)
        return AFLOCK_EINVAL;
    *out = NULL;
    int status = afl_enter(ctx);
    if (status)
        return status;
    if (ctx->closing || ctx->draining)
        return AFLOCK_ECLOSED;
    status = options_for_open(&o, given);
    if (status)
        return status;
    static const afl_protocol *const PROTOCOLS[] = {
        [AFLOCK_NATIVE] = &afl_protocol_flock,    [AFLOCK_OFD] = &afl_protocol_ofd,
        [AFLOCK_SOFT] = &afl_protocol_soft,       [AFLOCK_STRICT] = &afl_protocol_strict,
        [AFLOCK_LEASE] = &afl_protocol_lease,     [AFLOCK_RW] = &afl_protocol_rw,
        [AFLOCK_SOFT_RW] = &afl_protocol_soft_rw, [AFLOCK_PIDFILE] = &afl_protocol_pidfile};
    if ((o.soft_fallback || o.temporary) && (o.protocol != AFLOCK_NATIVE || !path))
        return AFLOCK_EINVAL;
    if (o.temporary && o.soft_fallback)
        return AFLOCK_EINVAL;
    if (!protocol)
        protocol = o.soft_fallback ? &afl_protocol_flock_or_soft
                   : o.temporary   ? &afl_protocol_temporary
                                   : PROTOCOLS[o.protocol];
    if ((protocol->marker || protocol->database || protocol->temporary) && !path)
        return AFLOCK_EINVAL;
    if (protocol->temporary && o.keep_open)
        return AFLOCK_EINVAL;
    if (o.lifetime && (!protocol->marker || protocol->lasting))
        return AFLOCK_EINVAL;
    if (path && (protocol->marker || protocol->falls_to) && last_component(path) > MARKER_NAME)
        return AFLOCK_ENAMETOOLONG;
    if (path && protocol->suffix && last_component(path) + strlen(protocol->suffix) > NAME_MAX)
        return AFLOCK_ENAMETOOLONG;
    if (path && (protocol->marker || protocol->suffix) && !has_name(path))
        return AFLOCK_EISDIR;
    afl_terms terms;
    status = terms_for_open(&terms, protocol, &o);
    if (!status)
        status = open_lock(out, ctx, path, fd, &terms, &o);
    if (*out && o.lifetime)
        afl_log(ctx, AFLOCK_LOG_WARN, "%s: a lifetime: whoever holds it for longer loses it, and two may hold it",
                (*out)->spelling->text);
    return status;
}

int aflock_open(aflock **out, aflock_ctx *ctx, const char *path, const aflock_options *options)
{
    if (out)
        *out = NULL;
    return path ? open_checked(out, ctx, path, -1, NULL, options) : AFLOCK_EINVAL;
}

int aflock_open_fd(aflock **out, aflock_ctx *ctx, int fd, const aflock_options *options)
{
    if (out)
        *out = NULL;
    int status = afl_check(ctx);
    if (status)
        return status;
    if (fd < 0 || ctx->sys->descriptor_flags(fd) < 0)
        return AFLOCK_EINVAL;
    return open_checked(out, ctx, NULL, fd, NULL, options);
}

int afl_open_protocol(aflock **out, aflock_ctx *ctx, const char *path, const afl_protocol *protocol,
                      const aflock_options *options)
{
    return open_checked(out, ctx, path, -1, protocol, options);
}

void afl_lock_free(aflock *lock)
{
    afl_place *place = lock->place;
    afl_place_remove_lock(place, lock);
    aflock_ctx *ctx = lock->ctx;
    free(lock->detail);
    afl_release_memory(ctx, lock);
    afl_place_tidy(place);
}

void afl_lock_tidy(aflock *lock)
{
    if (lock->closing && !lock->active && !lock->releasing && !lock->pinned)
        afl_lock_free(lock);
}

/* 0 for a lock that the caller may use now. */
static int enter(const aflock *lock)
{
    if (!lock)
        return AFLOCK_EINVAL;
    int status = afl_enter(lock->ctx);
    if (status)
        return status;
    return lock->closing ? AFLOCK_ECLOSED : 0;
}

int aflock_close(aflock *lock)
{
    if (!lock)
        return 0;
    int status = enter(lock);
    if (status)
        return status;
    if (lock->active)
        return AFLOCK_EBUSY;
    aflock_ctx *ctx = lock->ctx;
    lock->closing = true;
    afl_lock_tidy(lock);
    afl_settle(ctx); /* what was kept open for it is closed */
    return 0;
}

const char *aflock_path(const aflock *lock)
{
    return lock ? lock->spelling->text : NULL;
}

aflock_ctx *aflock_context(const aflock *lock)
{
    return lock ? lock->ctx : NULL;
}

int aflock_set_poll_interval(aflock *lock, uint64_t interval)
{
    int status = enter(lock);
    if (status)
        return status;
    if (interval < MIN_POLL)
        return AFLOCK_EINVAL;
    lock->poll_interval = lock->next_poll = interval;
    afl_machine_repoll(&lock->ctx->machine, &lock->place->path, lock->ctx->now);
    afl_settle(lock->ctx);
    return 0;
}

int aflock_wait_mode(const aflock *lock, const char **reason)
{
    int status = lock ? afl_check(lock->ctx) : AFLOCK_EINVAL;
    if (status)
        return status;
    afl_wait_choice choice = afl_choose_wait(lock->place, lock);
    if (reason)
        *reason = choice.reason;
    return (int)choice.wait;
}

/* ------------------------------------------------------------------------------------------------------------ acquire
 */

void aflock_acquire_options_init(aflock_acquire_options *o)
{
    if (o)
        *o = (aflock_acquire_options){.size = sizeof *o,
                                      .timeout = AFLOCK_FOREVER,
                                      .flags = AFLOCK_CREATE | AFLOCK_MAKE_PARENTS,
                                      .file_mode = AFLOCK_MODE_DEFAULT};
}

enum {
    ABOUT_CONTENTS = AFLOCK_TRUNCATE | AFLOCK_APPEND | AFLOCK_REWIND,
    ABOUT_DESCRIPTORS = ABOUT_CONTENTS | AFLOCK_READ_ONLY | AFLOCK_FOLLOW | AFLOCK_DIRECTORY | AFLOCK_INHERIT
};

/* What is about a descriptor means nothing where the lock is that a file exists. */
static int options_for_marker(const aflock_acquire_options *o, bool join)
{
    if ((o->mode != AFLOCK_EXCLUSIVE && !join) || o->on_acquired)
        return AFLOCK_ENOTSUP;
    if (join && o->file_mode != AFLOCK_MODE_DEFAULT)
        return AFLOCK_EINVAL;
    if (o->flags & ABOUT_DESCRIPTORS || !(o->flags & AFLOCK_CREATE) || !(o->file_mode & S_IWUSR))
        return AFLOCK_EINVAL;
    return 0;
}

/* The file is SQLite's, and is not changed. A writer who could only read would be one of several: what SQLite makes a
 * reader silently is refused here. */
static int options_for_database(aflock_acquire_options *o)
{
    if (o->flags & (ABOUT_CONTENTS | AFLOCK_DIRECTORY) || o->file_mode != AFLOCK_MODE_DEFAULT)
        return AFLOCK_EINVAL;
    if (o->mode == AFLOCK_EXCLUSIVE && o->flags & AFLOCK_READ_ONLY)
        return AFLOCK_EINVAL;
    o->flags |= AFLOCK_FOLLOW;
    return 0;
}

/* The descriptor is that of a file beside it, for which nothing is to be chosen. */
static int options_for_pidfile(const aflock_acquire_options *o)
{
    if (o->mode != AFLOCK_EXCLUSIVE)
        return AFLOCK_ENOTSUP;
    return o->flags & ABOUT_DESCRIPTORS & ~(uint32_t)AFLOCK_INHERIT || !(o->flags & AFLOCK_CREATE) ? AFLOCK_EINVAL : 0;
}

static int options_for_acquire(const aflock *lock, aflock_acquire_options *o, const aflock_acquire_options *given)
{
    enum { ALL_FLAGS = (AFLOCK_REWIND << 1) - 1 };
    aflock_acquire_options_init(o);
    if (!afl_take_options(o, sizeof *o, given))
        return AFLOCK_EINVAL;
    if ((o->mode != AFLOCK_EXCLUSIVE && o->mode != AFLOCK_SHARED) || (o->flags & ~(uint32_t)ALL_FLAGS) ||
        (o->file_mode != AFLOCK_MODE_DEFAULT && o->file_mode > MODE_BITS))
        return AFLOCK_EINVAL;
    if ((o->flags & AFLOCK_READ_ONLY) && (o->flags & (AFLOCK_TRUNCATE | AFLOCK_APPEND)))
        return AFLOCK_EINVAL;
    if (o->token && o->token->gate != lock->ctx->gate)
        return AFLOCK_EINVAL;
    if (o->on_compromise && !lock->place->protocol->lease)
        return AFLOCK_EINVAL;
    if (lock->place->protocol->guest)
        return afl_marker_serves(o->flags, o->mode, o->on_acquired, o->file_mode) ? 0 : AFLOCK_ENOTSUP;
    if (lock->place->protocol->marker)
        return options_for_marker(o, lock->place->protocol->join);
    if (lock->place->protocol->database)
        return options_for_database(o);
    if (lock->place->protocol->suffix)
        return options_for_pidfile(o);
    if (lock->place->protocol->temporary && o->flags & (AFLOCK_FOLLOW | AFLOCK_DIRECTORY))
        return AFLOCK_EINVAL; /* it would not be what is removed */
    if (lock->place->caller_fd >= 0 && (o->flags & ABOUT_CONTENTS || o->file_mode != AFLOCK_MODE_DEFAULT))
        return AFLOCK_EINVAL; /* it is the caller's */
    return 0;
}

static bool has_slow_wishes(const aflock_acquire_options *o)
{
    return o->on_acquired || o->file_mode != AFLOCK_MODE_DEFAULT || o->flags & AFLOCK_TRUNCATE;
}

static bool wants_adopt(const aflock_acquire_options *o)
{
    return has_slow_wishes(o) || o->flags & AFLOCK_REWIND;
}

static bool take_extras(aflock_ctx *ctx, afl_entry *e, const aflock_acquire_options *o)
{
    if (!o->token && !o->on_acquired && !o->on_wanted && !o->on_compromise && o->file_mode == AFLOCK_MODE_DEFAULT)
        return true;
    afl_extras *x = new_extras(ctx, e);
    if (!x)
        return false;
    x->on_acquired = o->on_acquired;
    x->on_acquired_user = o->on_acquired_user;
    x->on_compromise = o->on_compromise;
    x->on_compromise_user = o->on_compromise_user;
    x->compromise_told = false;
    x->file_mode = o->file_mode;
    x->wanted = (afl_wanted){.tell = o->on_wanted, .user = o->on_wanted_user};
    if (o->token)
        afl_token_join(o->token, x);
    return true;
}

/* Too many wait already; a re-entrant request does not wait. */
static bool is_full(const aflock *lock, const aflock_acquire_options *o)
{
    const aflock_ctx *ctx = lock->ctx;
    const afl_path *path = &lock->place->path;
    const afl_request r = {.owner = o->owner, .mode = (uint8_t)o->mode};
    bool full = (ctx->options.max_waiters && ctx->machine.waiting >= ctx->options.max_waiters) ||
                (lock->max_waiters && path->waiting >= lock->max_waiters);
    return full && !afl_machine_owner_holds(&ctx->machine, path, &r);
}

/* Makes a request and gives it to the machine. */
static int submit(aflock *lock, const aflock_acquire_options *o, bool once, aflock_callback callback, void *user,
                  afl_entry **out)
{
    aflock_ctx *ctx = lock->ctx;
    if (lock->place->protocol->lease)
        afl_leases_look(ctx); /* it may end up in another place */
    afl_place *place = lock->place;
    if (is_full(lock, o))
        return AFLOCK_EFULL;
    afl_entry *e = entry_new(ctx);
    if (!e)
        return AFLOCK_ENOMEM;
    e->lock = lock;
    e->callback = callback;
    e->user = user;
    e->flags = o->flags;
    afl_request *r = &e->request;
    r->owner = o->owner;
    r->poll = &lock->next_poll;
    r->timeout = o->timeout;
    r->need = place->caller_fd >= 0 ? 0 : afl_needs(o->flags);
    r->spelling = lock->spelling->id;
    r->mode = (uint8_t)o->mode;
    r->once = once;
    r->parks = lock->wait == AFLOCK_WAIT_PARK;
    r->adopt = wants_adopt(o) && !place->protocol->marker;
    int status = AFLOCK_ENOMEM;
    if (take_extras(ctx, e, o))
        status = afl_machine_submit(&ctx->machine, &place->path, r, ctx->now);
    if (status) {
        afl_entry_free(ctx, e);
        return status;
    }
    grow_owners(ctx);
    afl_wanted_crowd(place);
    lock->active++;
    *out = e;
    afl_trace(ctx, AFLOCK_TRACE_ACQUIRE, e, lock->spelling->text, 0);
    return 0;
}

int aflock_acquire(aflock *lock, const aflock_acquire_options *options, aflock_callback callback, void *user,
                   aflock_req *req)
{
    aflock_acquire_options o;
    afl_entry *e;
    if (req)
        req->id = 0;
    int status = enter(lock);
    if (status)
        return status;
    if (!callback)
        return AFLOCK_EINVAL;
    if (lock->ctx->closing || lock->ctx->draining)
        return AFLOCK_ECLOSED;
    status = options_for_acquire(lock, &o, options);
    if (status)
        return status;
    if (aflock_token_fired(o.token))
        return AFLOCK_ECANCELED;
    bool once = o.timeout == 0;
    if (once)
        o.timeout = lock->ctx->options.attempt_limit;
    status = submit(lock, &o, once, callback, user, &e);
    if (status)
        return status;
    if (req)
        *req = afl_entry_name(e);
    afl_settle(lock->ctx);
    return 0;
}

/* Attempts that never run on the loop's thread, whatever the kernel's cache holds. */
static bool never_inline(const aflock *lock, const aflock_acquire_options *o)
{
    if (lock->place->io_locks[AFLOCK_IO_POOL])
        return true;
    return lock->io == AFLOCK_IO_AUTO && (has_slow_wishes(o) || lock->place->protocol->marker);
}

/* aflock_try; *told: the result is filled in. */
static int try_lock(aflock *lock, const aflock_acquire_options *options, aflock_req *req, aflock_result *result,
                    bool *told)
{
    aflock_acquire_options o;
    afl_entry *e;
    int status = enter(lock);
    if (status)
        return status;
    aflock_ctx *ctx = lock->ctx;
    if (ctx->closing || ctx->draining)
        return AFLOCK_ECLOSED;
    status = options_for_acquire(lock, &o, options);
    if (status)
        return status;
    o.token = NULL;
    o.timeout = AFLOCK_FOREVER; /* it is answered before the call returns */
    if (never_inline(lock, &o))
        return AFLOCK_ENOTINLINE;
    status = submit(lock, &o, true, NULL, NULL, &e);
    if (status)
        return status;
    afl_request *r = &e->request;
    ctx->trying = e;
    afl_settle(ctx);
    ctx->trying = NULL;
    if (r->state == AFL_WAITING || r->state == AFL_FAILING) /* an operation of an earlier request is under way */
        afl_machine_cancel(&ctx->machine, r, AFLOCK_EWOULDBLOCK, ctx->now);
    bool held = r->state == AFL_GRANTED;
    afl_machine_deliver(&ctx->machine, r);
    if (result)
        afl_fill_result(e, result);
    free(lock->detail);
    lock->detail = afl_entry_take_detail(e);
    *told = true;
    status = r->status;
    if (held) {
        *req = afl_entry_name(e);
        afl_trace(ctx, AFLOCK_TRACE_GRANTED, e, lock->spelling->text, r->attempts);
        if (e->extras && e->extras->wanted.tell) {
            afl_wanted_begin(ctx, e);
            afl_settle(ctx);
        }
        return 0; /* nothing else has changed */
    }
    lock->active--;
    afl_entry_free(ctx, e);
    afl_settle(ctx);
    return status;
}

int aflock_try(aflock *lock, const aflock_acquire_options *options, aflock_req *req, aflock_result *result)
{
    bool told = false;
    if (req)
        req->id = 0;
    int status = req ? try_lock(lock, options, req, result, &told) : AFLOCK_EINVAL;
    if (result && !told)
        *result = (aflock_result){
            .size = sizeof *result, .status = status, .fd = -1, .path = lock ? lock->spelling->text : NULL};
    return status;
}

/* Whose pid file it is, for who does not get it. */
static int64_t holder_pid(const afl_entry *e)
{
    const afl_place *p = e->lock->place;
    if (!p->protocol->suffix || (e->request.status != AFLOCK_EWOULDBLOCK && e->request.status != AFLOCK_ETIMEDOUT))
        return 0;
    return p->path.grip == AFL_GRIP_HELD ? p->ctx->sys->getpid() : p->holder_pid;
}

void afl_fill_result(const afl_entry *e, aflock_result *result)
{
    const afl_request *r = &e->request;
    const aflock *lock = e->lock;
    const afl_work *w = &lock->place->attempt->work;
    *result = (aflock_result){.size = sizeof *result,
                              .status = r->status,
                              .sys_errno = r->sys_errno,
                              .cleanup_errno = r->cleanup_errno,
                              .fd = r->state == AFL_HELD && !lock->place->protocol->marker ? w->fd : -1,
                              .req = afl_entry_name(e),
                              .mode = (aflock_mode)r->mode,
                              .attempts = r->attempts,
                              .waited = r->decided - r->submitted,
                              .owner = r->owner,
                              .step = r->step,
                              .path = lock->spelling->text,
                              .pid = holder_pid(e),
                              .token = r->state == AFL_HELD && w->token[0] ? w->token : NULL,
                              .detail = r->status && e->extras ? e->extras->detail : NULL};
}

/* -------------------------------------------------------------------------------------------------- cancel, release */

/* One whose release waits without a callback has ended, as far as others are concerned. */
afl_entry *afl_entry_on(aflock *lock, aflock_req req)
{
    afl_entry *e = afl_entry_of(lock->ctx, req);
    return e && e->lock == lock && (!e->release_waits || e->callback) ? e : NULL;
}

int aflock_cancel(aflock *lock, aflock_req req)
{
    int status = enter(lock);
    if (status)
        return status;
    afl_entry *e = afl_entry_on(lock, req);
    if (!e || e->release_waits)
        return AFLOCK_ESTALE;
    status = afl_machine_cancel(&lock->ctx->machine, &e->request, AFLOCK_ECANCELED, lock->ctx->now);
    if (!status) {
        afl_attempt_note_left(lock->place);
        afl_settle(lock->ctx);
    }
    return status;
}

bool afl_entry_is_held(const afl_entry *e)
{
    return e->request.state == AFL_HELD && !e->release_waits;
}

/* Nobody gets the file while a function works on it. */
static void postpone_release(aflock_ctx *ctx, afl_entry *e, aflock_callback callback, void *user)
{
    e->release_waits = true;
    e->callback = callback;
    e->user = user;
    afl_wanted_stop(ctx, e);
}

void afl_entry_ran(aflock_ctx *ctx, afl_entry *e)
{
    e->running--;
    if (e->running || !e->release_waits)
        return;
    e->release_waits = false;
    afl_entry_release(ctx, e, e->callback, e->user);
}

int afl_entry_release(aflock_ctx *ctx, afl_entry *e, aflock_callback callback, void *user)
{
    aflock *lock = e->lock;
    if (e->release_waits)
        return AFLOCK_ESTALE;
    if (e->running) {
        postpone_release(ctx, e, callback, user);
        return 0;
    }
    int status = afl_machine_release(&ctx->machine, &e->request, callback != NULL, ctx->now);
    if (status)
        return status;
    afl_trace(ctx, AFLOCK_TRACE_RELEASE, e, lock->spelling->text, 0);
    afl_wanted_stop(ctx, e);
    lock->active--;
    if (callback) {
        e->callback = callback;
        e->user = user;
        lock->releasing++;
    } else {
        afl_entry_free(ctx, e);
    }
    return 0;
}

static void release_others(aflock_ctx *ctx, const afl_place *place, const afl_request *one)
{
    for (afl_request *r = place->path.holders, *next; r; r = next) {
        next = r->next;
        afl_entry *e = AFL_CONTAINER(afl_entry, request, r);
        if (r != one && r->owner == one->owner && afl_entry_is_held(e))
            afl_entry_release(ctx, e, NULL, NULL);
    }
}

static int release_checked(aflock *lock, aflock_req req, bool all, aflock_callback callback, void *user)
{
    int status = enter(lock);
    if (status)
        return status;
    aflock_ctx *ctx = lock->ctx;
    afl_entry *e = afl_entry_on(lock, req);
    if (!e)
        return AFLOCK_ESTALE;
    if (all && e->request.owner && afl_entry_is_held(e))
        release_others(ctx, lock->place, &e->request);
    status = afl_entry_release(ctx, e, callback, user);
    if (!status)
        afl_settle(ctx);
    return status;
}

int aflock_release(aflock *lock, aflock_req req, aflock_callback callback, void *user)
{
    return release_checked(lock, req, false, callback, user);
}

int aflock_release_all(aflock *lock, aflock_req req, aflock_callback callback, void *user)
{
    return release_checked(lock, req, true, callback, user);
}

static int descriptor_of(const aflock *lock)
{
    return lock->place->protocol->marker ? AFLOCK_ENOTSUP : lock->place->attempt->work.fd;
}

int aflock_fd(aflock *lock, aflock_req req)
{
    int status = enter(lock);
    if (status)
        return status;
    afl_entry *e = afl_entry_on(lock, req);
    if (!e)
        return AFLOCK_ESTALE;
    return afl_entry_is_held(e) ? descriptor_of(lock) : AFLOCK_ENOTHELD;
}

int aflock_depth(const aflock *lock, const void *owner)
{
    int status = enter(lock);
    if (status)
        return status;
    int depth = 0;
    for (const afl_request *r = lock->place->path.holders; r; r = r->next)
        if (afl_entry_is_held(AFL_CONTAINER(afl_entry, request, r)) && (!owner || r->owner == owner))
            depth++;
    return depth;
}
