/* Fuzz target: random sequences of all public functions (aflock.h, host.h) on contexts over the simulated host.
 *
 * The input is a list of orders of a few bytes each: calls with right and wrong arguments, what the host does (turns,
 * timers, jobs that run, hang or are dropped), what others do to the files, and failures of system calls and of the
 * allocator. Callbacks carry out orders too. After each order, and at the end, the model of interface_model.h has to
 * agree with what the library did.
 */
#include "fuzz/interface_model.h"

#include "support/folder.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

static char directory[PATH_MAX];

/* Below the directory. The first are ordinary files, which are free at the end of each input. */
enum { ORDINARY = 3 };
static const char *const names[] = {"a",  "b",    "sub/c",  "./a",      "sub/../a", "link/a", "to_a", "new/dir/d",
                                    "a/", "fifo", "link/b", "a/inside", "sub",      "sub/.",  "",     NULL};
enum { NAMES = sizeof names / sizeof names[0] };

static const char *path_named(unsigned i)
{
    static char texts[2][PATH_MAX + 1024];
    static unsigned next;
    char *text = texts[next++ % 2];
    if (names[i])
        snprintf(text, sizeof texts[0], "%s/%s", directory, names[i]);
    else
        snprintf(text, sizeof texts[0], "%s/%0300d", directory, 7); /* a name that no file can have */
    return text;
}

/* ------------------------------------------------------------------------------------------------ the allocator, hooks
 */

static bool refuses(world *w)
{
    bool fails = w->fail_in && --w->fail_in == 0;
    w->out_of_memory |= fails;
    return fails;
}

static void *allocate(size_t size, void *user)
{
    world *w = user;
    void *block = refuses(w) ? NULL : malloc(size);
    w->blocks += block != NULL;
    return block;
}

static void *reallocate(void *block, size_t size, void *user)
{
    return refuses(user) ? NULL : realloc(block, size);
}

static void release(void *block, void *user)
{
    ((world *)user)->blocks--;
    free(block);
}

/* A hook on the loop's thread runs in the middle of a call: whatever it asks is refused. */
static void call_from_hook(world *w)
{
    if (the_model.in_job || !w->host.ctx)
        return;
    fuzz_require(aflock_host_check(w->host.ctx) == AFLOCK_EBUSY);
    fuzz_require(aflock_dump(w->host.ctx, NULL, NULL) == AFLOCK_EBUSY);
    fuzz_require(aflock_ctx_free(w->host.ctx, 0) == AFLOCK_EBUSY);
}

static void on_log(aflock_log_level level, const char *message, void *user)
{
    fuzz_require(level <= AFLOCK_LOG_ERROR && *message);
    call_from_hook(user);
}

static void on_trace(aflock_trace_event event, const char *path, aflock_req req, int64_t value, void *user)
{
    (void)req, (void)value;
    fuzz_require(event <= AFLOCK_TRACE_PAUSE && *path);
    call_from_hook(user);
}

static int on_acquired(int fd, void *user)
{
    const request *r = user; /* NULL: the options were those of an older header */
    fuzz_require(fcntl(fd, F_GETFD) >= 0 && (!r || kernel_holds(fd, r->protocol)));
    if (r)
        call_from_hook(r->world);
    return below(4) == 3 ? EPERM : 0;
}

/* ------------------------------------------------------------------------------------------------------ arguments */

/* A struct of options as a caller would give it: mostly whole, sometimes as long as an older or a newer header has it,
 * in a block of just that size. *used: what of it counts; 0: its size is not one. */
static void *sized(const void *options, size_t known, size_t *used)
{
    static const int changes[] = {0, 0, 0, 0, 0, -8, 8, -1000};
    int change = changes[below(sizeof changes / sizeof changes[0])];
    size_t size = change == -1000 ? below(sizeof(size_t)) : (size_t)((long)known + change);
    unsigned char *copy = malloc(size < sizeof size ? sizeof size : size);
    fuzz_require(copy);
    memset(copy, 0, size < sizeof size ? sizeof size : size);
    memcpy(copy, options, size < known ? size : known);
    memcpy(copy, &size, sizeof size);
    *used = size < sizeof size || size > known ? 0 : size;
    return copy;
}

static uint64_t duration(void)
{
    static const uint64_t durations[] = {AFLOCK_FOREVER, 0, 1, US, 3 * MS, 60 * MS, 100 * MS, AFLOCK_FOREVER - 1};
    return durations[below(sizeof durations / sizeof durations[0])];
}

static lock_slot *some_lock(const world *w)
{
    static lock_slot none;
    lock_slot *slot = &the_model.locks[below(LOCKS)];
    return slot->lock && slot->world == w ? slot : &none;
}

static request *some_request(void)
{
    return &the_model.requests[below(REQUESTS)];
}

/* A request by its name, as seen from a lock: NULL if the library has to call it stale. */
static request *named(const aflock *lock, aflock_req req)
{
    for (int i = 0; i < REQUESTS; i++) {
        request *r = &the_model.requests[i];
        if (r->lock == lock && r->req.id == req.id && r->stage != UNUSED && r->stage != ENDED)
            return r;
    }
    return NULL;
}

static aflock_req some_name(void)
{
    unsigned kind = below(16);
    aflock_req req = some_request()->req;
    if (kind == 0)
        req.id = 0;
    if (kind == 1)
        req.id ^= UINT64_C(1) << below(64);
    return req;
}

/* What each call answers in a child, and on a lock that is not there. */
static bool is_barred(const world *w, const aflock *lock, int status)
{
    if (!lock)
        fuzz_require(status == AFLOCK_EINVAL);
    else if (w->forked)
        fuzz_require(status == AFLOCK_EFORKED);
    return !lock || w->forked;
}

/* ------------------------------------------------------------------------------------------------------- contexts */

static void virtual_wait(uint64_t timeout);

static void context_options(world *w, aflock_ctx_options *o)
{
    static const uint64_t limits[] = {100 * MS, 10 * MS, 1, AFLOCK_FOREVER};
    aflock_ctx_options_init(o);
    o->allocate = allocate;
    o->reallocate = reallocate;
    o->release = release;
    o->allocate_user = o->log_user = o->trace_user = w;
    o->attempt_limit = limits[below(3)];
    unsigned hooks = below(8);
    o->log = hooks & 1 ? on_log : NULL;
    o->trace = hooks & 2 ? on_trace : NULL;
    if (hooks & 4)
        return;
    o->max_waiters = below(4);
    o->handoff_grants = 1 + below(3);
    o->handoff_time = limits[below(4)];
    o->handoff_pause = limits[below(3)];
    o->pause_interval = limits[below(4)];
    o->stall_after = limits[below(4)];
}

static void start_world(world *w)
{
    if (w->host.ctx)
        return;
    memset(w, 0, sizeof *w);
    context_options(w, &w->options);
    unsigned width = 1 + below(8);
    bool notifier = below(2);
    fuzz_require(fake_start(&w->host, width, notifier, &w->options));
    w->host.no_threads = true;
    seam_waits = virtual_wait;
}

/* Contexts that cannot be made: nothing of the host may be called. */
static void start_wrongly(world *w)
{
    static fake_host h;
    size_t used;
    aflock_ctx *ctx = (aflock_ctx *)&h;
    aflock_ctx_options o = w->options;
    if (!w->host.ctx)
        return;
    h = (fake_host){.loop = w->host.loop, .executor = w->host.executor, .notifier = w->host.notifier};
    h.loop.self = h.executor.self = h.notifier.self = &h;
    h.host = (aflock_host){sizeof h.host, &h.loop, &h.executor, &h.notifier};
    aflock_ctx_options_init(&o);
    unsigned what = below(12);
    switch (what) {
    case 0:
        h.host.size++;
        break;
    case 1:
        h.host.loop = NULL;
        break;
    case 2:
        h.host.executor = NULL;
        break;
    case 3:
        h.loop.size--;
        break;
    case 4:
        h.loop.defer = NULL;
        break;
    case 5:
        h.loop.close = NULL;
        break;
    case 6:
        h.executor.width = 0;
        break;
    case 7:
        h.executor.submit = NULL;
        break;
    case 8:
        h.notifier.del = NULL;
        break;
    case 9:
        o.allocate = allocate;
        break;
    case 10:
        o.stall_after = 0;
        break;
    default:
        o.handoff_grants = 0;
        break;
    }
    void *given = sized(&o, sizeof o, &used);
    if (used == sizeof o || used == 0)
        fuzz_require(aflock_ctx_new(&ctx, what == 3 ? NULL : &h.host, given) == AFLOCK_EINVAL && !ctx);
    fuzz_require(aflock_ctx_new(NULL, &h.host, NULL) == AFLOCK_EINVAL);
    free(given);
    fuzz_require(h.closed == 0 && h.executor_closed == 0);
}

static void end_world(world *w, uint64_t grace)
{
    fake_host *h = &w->host;
    bool abandoned = w->forked;
    if (!h->ctx)
        return;
    if (!w->forked) {
        w->ending = true;
        h->turning = true;
        int status = aflock_ctx_free(h->ctx, grace);
        h->turning = false;
        abandoned = w->forked;
        fuzz_require(abandoned ? status == AFLOCK_EFORKED : status >= 0);
    }
    if (abandoned) {
        fuzz_require(aflock_ctx_free(h->ctx, grace) == AFLOCK_EFORKED);
        fuzz_require(aflock_ctx_abandon(h->ctx) == 0);
    }
    world_gone(w, abandoned);
}

/* ---------------------------------------------------------------------------------------- orders: contexts and locks
 */

static void order_open(world *w)
{
    size_t used;
    aflock_options o, effective;
    lock_slot *slot = &the_model.locks[below(LOCKS)];
    const unsigned what = below(32);
    aflock_options_init(&o);
    effective = o;
    o.io = (aflock_io)below(3);
    o.protocol = below(4) == 3 ? AFLOCK_OFD : AFLOCK_NATIVE;
    if (what & 1)
        o.poll_interval = 10 * MS;
    if (what == 2)
        o.poll_interval = 999;
    if (what == 4)
        o.poll_interval = AFLOCK_FOREVER;
    if (what == 6)
        o.io = (aflock_io)17;
    if (what == 8)
        o.protocol = (aflock_protocol)99;
    if (what == 10)
        o.max_waiters = 1 + below(2);
    if (what == 12 || what == 14)
        o.wait = what == 12 ? AFLOCK_WAIT_NOTIFY : AFLOCK_WAIT_POLL;
    if (what == 16)
        o.wait = (aflock_wait)4;
    if (what == 18)
        o.wait = AFLOCK_WAIT_PARK;
    o.keep_open = (int)below(3) - 1;
    if (slot->lock)
        return;
    void *given = sized(&o, sizeof o, &used);
    memcpy(&effective, given, used);
    aflock *lock = (aflock *)&o;
    const bool own = what >= 28;
    int status;
    if (own) {
        int fd = the_model.own[w - the_model.worlds][below(OWN)];
        status = aflock_open_fd(&lock, w->host.ctx, fd, given);
    } else {
        status = aflock_open(&lock, w->host.ctx, path_named(below(NAMES)), given);
    }
    free(given);
    fuzz_require(is_status(status) && (status == 0) == (lock != NULL));
    if (w->forked || !w->host.ctx || w->draining || w->ending)
        fuzz_require(status == (!w->host.ctx ? AFLOCK_EINVAL : w->forked ? AFLOCK_EFORKED : AFLOCK_ECLOSED));
    else if (used == 0 || what == 2 || what == 6 || what == 8 || (what == 16 && used == sizeof o))
        fuzz_require(status == AFLOCK_EINVAL || used == sizeof(size_t));
    else
        fuzz_require(status != AFLOCK_ENOMEM || w->out_of_memory);
    if (status != 0)
        return;
    *slot = (lock_slot){lock, w, effective, own};
    the_model.lazy |= effective.poll_interval == AFLOCK_FOREVER;
    fuzz_require(aflock_context(lock) == w->host.ctx && aflock_path(lock)[0] == (own ? 'f' : '/'));
}

static void order_open_wrongly(world *w)
{
    aflock *lock = (aflock *)w;
    const char *path = path_named(0);
    int expected = w->forked ? AFLOCK_EFORKED : AFLOCK_EINVAL;
    fuzz_require(aflock_open(NULL, w->host.ctx, path, NULL) == AFLOCK_EINVAL);
    fuzz_require(aflock_open(&lock, NULL, path, NULL) == AFLOCK_EINVAL && !lock);
    fuzz_require(aflock_open(&lock, w->host.ctx, NULL, NULL) == AFLOCK_EINVAL && !lock);
    fuzz_require(!w->host.ctx || aflock_open_fd(&lock, w->host.ctx, -1, NULL) == expected);
    fuzz_require(!w->host.ctx || aflock_open_fd(&lock, w->host.ctx, 4000, NULL) == expected);
    fuzz_require(aflock_path(NULL) == NULL && aflock_context(NULL) == NULL && aflock_host_loop(NULL) == NULL);
    fuzz_require(aflock_close(NULL) == 0 && aflock_ctx_free(NULL, 0) == 0);
    fuzz_require(!w->host.ctx || aflock_host_loop(w->host.ctx) == &w->host.loop);
}

static void order_close(world *w)
{
    lock_slot *slot = some_lock(w);
    aflock *lock = slot->lock;
    if (!lock)
        return;
    bool active = is_active(lock), releasing = is_releasing(lock);
    int status = aflock_close(lock);
    if (is_barred(w, lock, status))
        return;
    fuzz_require(status == (active ? AFLOCK_EBUSY : 0));
    if (status == 0 && releasing)
        fuzz_require(aflock_depth(lock, NULL) == AFLOCK_ECLOSED);
    if (status == 0)
        slot->lock = NULL;
}

static void order_poll_interval(world *w)
{
    static const uint64_t intervals[] = {10 * MS, 50 * MS, 999, 0, AFLOCK_FOREVER};
    const lock_slot *slot = some_lock(w);
    uint64_t interval = intervals[below(sizeof intervals / sizeof intervals[0])];
    int status = aflock_set_poll_interval(slot->lock, interval);
    if (!is_barred(w, slot->lock, status))
        fuzz_require(status == (interval < US ? AFLOCK_EINVAL : 0));
    the_model.lazy |= interval == AFLOCK_FOREVER;
}

/* ------------------------------------------------------------------------------------------------- orders: requests */

static void acquire_options(world *w, aflock_acquire_options *o, request *r)
{
    static char owners[3];
    static const uint32_t flags[] = {AFLOCK_CREATE | AFLOCK_MAKE_PARENTS,
                                     AFLOCK_READ_ONLY,
                                     AFLOCK_FOLLOW,
                                     AFLOCK_DIRECTORY,
                                     AFLOCK_INHERIT,
                                     AFLOCK_TRUNCATE | AFLOCK_REWIND,
                                     AFLOCK_REPORT_CLOSE | AFLOCK_APPEND,
                                     1u << 10};
    aflock_acquire_options_init(o);
    const unsigned what = fuzz_byte(&the_model.in), owner = below(8);
    o->timeout = duration();
    o->mode = (aflock_mode)(what & 1);
    o->owner = owner < 3 ? &owners[owner] : NULL;
    if (what & 2)
        o->flags ^= flags[below(8)];
    if (what & 4)
        o->flags ^= flags[below(8)];
    if ((what & 0x38) == 0x38)
        o->token = the_model.tokens[below(TOKENS)].token;
    if (o->token)
        for (int i = 0; i < TOKENS; i++)
            if (the_model.tokens[i].token == o->token && the_model.tokens[i].given_back)
                o->token = NULL;
    if ((what & 0xc0) == 0xc0)
        o->on_acquired = on_acquired;
    o->on_acquired_user = r;
    if (what & 8)
        o->on_wanted = on_wanted;
    o->on_wanted_user = r;
    if ((what & 0xc0) == 0x80)
        o->file_mode = below(8) ? 0600 : 010000;
    if (what == 0x40)
        o->mode = (aflock_mode)2;
    (void)w;
}

static bool is_sane(const world *w, const lock_slot *slot, const aflock_acquire_options *o)
{
    bool is_foreign = false;
    for (int i = 0; i < TOKENS; i++)
        is_foreign |= o->token && the_model.tokens[i].token == o->token && the_model.tokens[i].ctx != w->host.ctx;
    return o->mode <= AFLOCK_SHARED && o->flags < 1u << 10 && !is_foreign &&
           (o->file_mode == AFLOCK_MODE_DEFAULT || o->file_mode <= 07777) &&
           !(o->flags & AFLOCK_READ_ONLY && o->flags & (AFLOCK_TRUNCATE | AFLOCK_APPEND)) &&
           !(slot->own &&
             (o->flags & (AFLOCK_TRUNCATE | AFLOCK_APPEND | AFLOCK_REWIND) || o->file_mode != AFLOCK_MODE_DEFAULT));
}

/* May a request be refused so, when it is made? */
static bool may_refuse(const world *w, const lock_slot *slot, const aflock_acquire_options *o, int status)
{
    switch (status) {
    case 0:
        return true;
    case AFLOCK_EDEADLK:
        return o->owner != NULL;
    case AFLOCK_EFULL:
        return w->options.max_waiters || slot->options.max_waiters;
    case AFLOCK_ENOMEM:
        return w->out_of_memory;
    default:
        return false;
    }
}

static void begin_request(request *r, world *w, const lock_slot *slot, const aflock_acquire_options *o)
{
    *r = (request){.stage = PENDING,
                   .world = w,
                   .lock = slot->lock,
                   .protocol = slot->options.protocol,
                   .options = *o,
                   .submitted = w->host.now};
}

static void order_acquire(world *w)
{
    size_t used;
    const lock_slot *slot = some_lock(w);
    request *r = free_request();
    if (!r)
        return;
    aflock_acquire_options o, effective;
    acquire_options(w, &o, r);
    aflock_acquire_options_init(&effective);
    void *given = sized(&o, sizeof o, &used);
    memcpy(&effective, given, used);
    effective.size = sizeof effective;
    begin_request(r, w, slot, &effective);
    bool sane = used && is_sane(w, slot, &effective), no_callback = below(32) == 31, fired = is_fired(effective.token);
    int status = aflock_acquire(slot->lock, given, no_callback ? NULL : on_answer, r, &r->req);
    free(given);
    if (status != 0) {
        fuzz_require(r->req.id == 0);
        r->stage = UNUSED;
    }
    if (is_barred(w, slot->lock, status))
        return;
    if (no_callback)
        fuzz_require(status == AFLOCK_EINVAL);
    else if (w->draining || w->ending)
        fuzz_require(status == AFLOCK_ECLOSED);
    else if (!sane)
        fuzz_require(status == AFLOCK_EINVAL);
    else if (fired)
        fuzz_require(status == AFLOCK_ECANCELED);
    else
        fuzz_require(may_refuse(w, slot, &effective, status) ||
                     (status == AFLOCK_EWOULDBLOCK && effective.timeout == 0));
    if (status == 0)
        fuzz_require(r->req.id != 0 && named(slot->lock, r->req) == r);
}

static void order_try(world *w)
{
    const lock_slot *slot = some_lock(w);
    request *r = free_request();
    aflock_acquire_options o;
    aflock_result result = {.fd = 99};
    if (!r)
        return;
    acquire_options(w, &o, r);
    begin_request(r, w, slot, &o);
    const bool tell = below(4) != 3;
    int status = aflock_try(slot->lock, &o, &r->req, tell ? &result : NULL);
    fuzz_require(is_status(status) && (status == 0) == (r->req.id != 0));
    if (tell)
        fuzz_require(result.size == sizeof result && result.status == status && (status == 0) == (result.fd >= 0));
    r->stage = UNUSED;
    if (is_barred(w, slot->lock, status))
        return;
    if (w->draining || w->ending)
        fuzz_require(status == AFLOCK_ECLOSED);
    else if (!is_sane(w, slot, &o))
        fuzz_require(status == AFLOCK_EINVAL);
    fuzz_require(status != AFLOCK_ETIMEDOUT && status != AFLOCK_ECANCELED);
    if (status == 0)
        became_holder(r, aflock_fd(slot->lock, r->req));
    fuzz_require(aflock_try(slot->lock, &o, NULL, NULL) == AFLOCK_EINVAL);
}

static void order_cancel(world *w)
{
    const lock_slot *slot = some_lock(w);
    const request *example = some_request();
    aflock *lock = example->stage == PENDING && example->world == w && below(8) ? example->lock : slot->lock;
    aflock_req req = lock == slot->lock ? some_name() : example->req;
    if (!slot_of(lock) || !lock)
        return;
    request *r = named(lock, req);
    int status = aflock_cancel(lock, req);
    if (is_barred(w, lock, status))
        return;
    if (!r || r->stage == RELEASING) /* one that is held again, untold as yet, too */
        fuzz_require(status == AFLOCK_ESTALE || (r && status == AFLOCK_EHELD));
    else
        fuzz_require(status == (r->stage == HELD ? AFLOCK_EHELD : 0));
    if (status == 0)
        r->cancelled = true;
}

static void end_holds_of_owner(const request *r)
{
    for (int i = 0; i < REQUESTS; i++) {
        request *other = &the_model.requests[i];
        if (other != r && other->stage == HELD && other->world == r->world && r->options.owner &&
            other->options.owner == r->options.owner && other->lock->place == r->lock->place)
            other->stage = ENDED;
    }
}

static void order_release(world *w)
{
    request *r = some_request();
    const lock_slot *slot = some_lock(w);
    const unsigned what = below(8);
    aflock *lock = r->stage == HELD && r->world == w && what ? r->lock : slot->lock;
    aflock_req req = r->req;
    if (!lock || !slot_of(lock))
        return;
    r = named(lock, req);
    const stage before = r ? r->stage : ENDED;
    const bool told = what & 1, all = (what & 6) == 6;
    if (before == HELD && !w->ending) /* else it may be released already */
        fuzz_require(kernel_holds(r->fd, r->protocol));
    int status = all ? aflock_release_all(lock, req, told ? on_answer : NULL, r)
                     : aflock_release(lock, req, told ? on_answer : NULL, r);
    if (is_barred(w, lock, status))
        return;
    if (before == HELD)
        fuzz_require(status == 0 || (w->ending && status == AFLOCK_ESTALE)); /* the end of the context releases it */
    else if (before == PENDING)
        fuzz_require(status == AFLOCK_ENOTHELD || (r->cancelled && status == AFLOCK_ESTALE) || status == AFLOCK_ESTALE);
    else
        fuzz_require(status == AFLOCK_ESTALE);
    if (status != 0)
        return;
    if (all)
        end_holds_of_owner(r);
    r->let_go = true;
    r->stage = told ? RELEASING : ENDED;
}

static void check_wait_mode(const world *w, const aflock *lock)
{
    const char *reason = NULL;
    int mode = aflock_wait_mode(lock, &reason);
    if (is_barred(w, lock, mode) || !lock)
        return;
    aflock_wait asked = slot_of(lock)->options.wait;
    fuzz_require(reason && *reason && mode == aflock_wait_mode(lock, NULL));
    fuzz_require(mode >= AFLOCK_WAIT_AUTO && mode <= AFLOCK_WAIT_PARK);
    fuzz_require(mode == AFLOCK_WAIT_POLL || (asked != AFLOCK_WAIT_POLL && w->host.host.notifier) ||
                 mode == AFLOCK_WAIT_PARK);
    fuzz_require(mode != AFLOCK_WAIT_PARK || asked == AFLOCK_WAIT_PARK);
    fuzz_require(mode != AFLOCK_WAIT_AUTO || (asked == AFLOCK_WAIT_AUTO && !lock->place->resolved));
}

static void order_look(world *w)
{
    const lock_slot *slot = some_lock(w);
    request *example = some_request();
    aflock *lock =
        example->stage != UNUSED && example->world == w && slot_of(example->lock) ? example->lock : slot->lock;
    const request *r = lock ? named(lock, example->req) : NULL;
    int fd = aflock_fd(lock, example->req), depth = aflock_depth(lock, example->options.owner);
    check_wait_mode(w, lock);
    if (is_barred(w, lock, fd) || !lock)
        return;
    if (w->ending && fd == AFLOCK_ESTALE)
        return; /* the end of the context releases what is held */
    if (!r)
        fuzz_require(fd == AFLOCK_ESTALE);
    else
        fuzz_require(r->stage == HELD ? fd == r->fd : fd == AFLOCK_ENOTHELD);
    int count = 0;
    for (int i = 0; i < REQUESTS; i++) {
        const request *other = &the_model.requests[i];
        count += other->stage == HELD && other->world == w && other->lock->place == lock->place &&
                 (!example->options.owner || other->options.owner == example->options.owner);
    }
    fuzz_require(depth == count || (w->ending && depth < count));
}

/* ------------------------------------------------------------------------------------ orders: questions, tokens, dump
 */

static question *free_question(void)
{
    for (int i = 0; i < QUESTIONS; i++)
        if (!the_model.questions[i].pending && !the_model.questions[i].running)
            return &the_model.questions[i];
    return NULL;
}

static void order_run(world *w, question *q, aflock *lock, const request *r)
{
    const request *held = lock ? named(lock, r->req) : NULL;
    int expected = !held ? AFLOCK_ESTALE : held->stage != HELD ? AFLOCK_ENOTHELD : 0;
    *q = (question){.pending = true, .running = true, .world = w, .lock = lock, .req = r->req};
    q->own = lock && slot_of(lock)->own;
    if (held) {
        q->fd = held->fd;
        q->protocol = held->protocol;
    }
    int status = aflock_run(lock, r->req, on_worker, on_ran, q);
    q->pending = q->running = status == 0;
    if (is_barred(w, lock, status))
        return;
    if (w->ending)
        fuzz_require(status == AFLOCK_ECLOSED);
    else
        fuzz_require(status == expected || (status == AFLOCK_ENOMEM && w->out_of_memory));
    fuzz_require(aflock_run(lock, r->req, NULL, on_ran, q) == (w->ending ? AFLOCK_ECLOSED : AFLOCK_EINVAL));
}

static void order_ask(world *w)
{
    const request *r = some_request();
    question *q = free_question();
    const bool verify = below(2);
    aflock *lock = r->stage == HELD && r->world == w ? r->lock : some_lock(w)->lock;
    if (!q || !slot_of(lock))
        return;
    if (verify && (q - the_model.questions) % 2) {
        order_run(w, q, lock, r);
        return;
    }
    const bool own = lock && slot_of(lock)->own;
    const request *held = lock ? named(lock, r->req) : NULL;
    int expected = own ? AFLOCK_ENOTSUP : !held ? AFLOCK_ESTALE : held->stage != HELD ? AFLOCK_ENOTHELD : 0;
    *q = (question){.pending = true, .world = w, .lock = lock, .req = r->req};
    int status = verify ? aflock_verify(lock, r->req, on_verified, q) : aflock_inspect(lock, on_inspected, q);
    q->pending = status == 0;
    if (!is_barred(w, lock, status))
        fuzz_require(w->ending ? status == AFLOCK_ECLOSED : status == (verify ? expected : 0));
    if (!lock)
        fuzz_require(aflock_verify(lock, r->req, NULL, q) == AFLOCK_EINVAL);
    else if (!w->forked)
        fuzz_require(aflock_inspect(lock, NULL, q) == (w->ending ? AFLOCK_ECLOSED : AFLOCK_EINVAL));
    status = aflock_break(lock, on_verified, q); /* there is no marker to take away */
    if (!is_barred(w, lock, status))
        fuzz_require(status == (w->ending ? AFLOCK_ECLOSED : AFLOCK_ENOTSUP));
    status = aflock_break_claim(lock, "claim", on_verified, q);
    if (!is_barred(w, lock, status))
        fuzz_require(status == (w->ending ? AFLOCK_ECLOSED : AFLOCK_ENOTSUP));
}

static void order_token_new(world *w)
{
    for (int i = 0; i < TOKENS; i++) {
        token_slot *t = &the_model.tokens[i];
        if (t->token)
            continue;
        int status = aflock_token_new(&t->token, w->host.ctx);
        fuzz_require(status == (!w->host.ctx ? AFLOCK_EINVAL : w->forked ? AFLOCK_EFORKED : 0));
        fuzz_require((status == 0) == (t->token != NULL) && aflock_token_new(NULL, w->host.ctx) == AFLOCK_EINVAL);
        t->ctx = w->host.ctx;
        return;
    }
}

static void order_token_use(world *w)
{
    (void)w;
    token_slot *t = &the_model.tokens[below(TOKENS)];
    if (t->given_back)
        return;
    fuzz_require(aflock_token_fired(t->token) == t->fired);
    if (below(4) == 3) {
        aflock_token_free(t->token);
        t->given_back = t->token != NULL;
    } else {
        aflock_token_fire(t->token);
        t->fired = t->token != NULL;
    }
}

typedef struct looking {
    world *world;
    unsigned seen, stop_at, position;
} looking;

static int on_entry(const aflock_dump_entry *entry, void *user)
{
    looking *l = user;
    const request *r = NULL;
    for (int i = 0; i < REQUESTS && !r; i++)
        if (the_model.requests[i].world == l->world && the_model.requests[i].req.id == entry->req.id &&
            (the_model.requests[i].stage == PENDING || the_model.requests[i].stage == HELD ||
             the_model.requests[i].stage == RELEASING)) /* that failed, and was not told yet */
            r = &the_model.requests[i];
    fuzz_require(r && entry->size == sizeof *entry && *entry->path);
    fuzz_require(entry->owner == r->options.owner && entry->mode == r->options.mode);
    fuzz_require(strcmp(entry->path, aflock_path(r->lock)) == 0 && entry->age == l->world->host.now - r->submitted);
    fuzz_require(entry->held || r->stage == PENDING);
    l->position = entry->held ? 0 : entry->position == 0 ? 1 : l->position + 1;
    fuzz_require(entry->held || entry->position + 1 == l->position);
    call_from_hook(l->world);
    return ++l->seen == l->stop_at ? 42 : 0;
}

static void order_dump(world *w)
{
    looking l = {.world = w, .stop_at = below(8)};
    int status = aflock_dump(w->host.ctx, on_entry, &l);
    if (!w->host.ctx || w->forked)
        fuzz_require(status == (w->forked ? AFLOCK_EFORKED : AFLOCK_EINVAL));
    else
        fuzz_require(status == (l.stop_at && l.seen == l.stop_at ? 42 : 0));
    fuzz_require(!w->host.ctx || w->forked || aflock_dump(w->host.ctx, NULL, NULL) == AFLOCK_EINVAL);
}

/* ------------------------------------------------------------------------------------------- orders: the rest */

static void order_drain(world *w)
{
    if (below(4) || !w->host.ctx)
        return;
    int status = aflock_ctx_drain(w->host.ctx, on_drained, w);
    if (w->forked)
        fuzz_require(status == AFLOCK_EFORKED);
    else
        fuzz_require(status == (w->draining || w->ending ? AFLOCK_EBUSY : 0));
    if (status != 0)
        return;
    w->draining = w->drain_pending = true;
    fuzz_require(aflock_ctx_drain(w->host.ctx, NULL, w) == AFLOCK_EINVAL);
}

/* What a fork does to the child's memory. The parent is not looked at any more. */
static void order_fork(world *w)
{
    if (below(16) < 15 || !w->host.ctx || w->forked || !w->host.ctx->gate->guard)
        return;
    fuzz_require(aflock_ctx_abandon(w->host.ctx) == AFLOCK_EINVAL);
    *w->host.ctx->gate->guard = 0;
    w->forked = true;
}

static void order_fail_call(world *w)
{
    (void)w;
    static const int errors[] = {EIO,    ENOMEM, EACCES, ENOENT, EINTR, EMFILE, ENOSPC, ENOSYS,
                                 ESTALE, ENOLCK, EPERM,  EISDIR, ELOOP, ENXIO,  EAGAIN, ENOTDIR};
    seam_call call = (seam_call)below(SEAM_HOSTNAME); /* a context makes none of the rest */
    int after = (int)below(4);
    seam_fail(call, after, 1, errors[below(sizeof errors / sizeof errors[0])]);
}

static void order_fail_host(world *w)
{
    switch (below(4)) {
    case 0:
        w->fail_in = 1 + below(8);
        break;
    case 1:
        w->host.refusals = below(4);
        break;
    case 2:
        w->host.refuse_add = below(2);
        break;
    default:
        w->fail_in = 0;
    }
}

static void lock_foreignly(int *fd)
{
    if (*fd >= 0) {
        close(*fd);
        *fd = -1;
        return;
    }
    const char *path = path_named(below(ORDINARY));
    *fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    fuzz_require(*fd >= 0 || errno == EISDIR);
    if (*fd >= 0 && flock(*fd, (below(2) ? LOCK_EX : LOCK_SH) | LOCK_NB) != 0) {
        close(*fd);
        *fd = -1;
    }
}

/* What others do to the files. */
static void order_foreign(world *w)
{
    (void)w;
    switch (below(8)) {
    case 0:
        unlink(path_named(below(ORDINARY)));
        break;
    case 1:
        (void)rename(path_named(0), path_named(1));
        break;
    case 2:
        close(open(path_named(below(ORDINARY)), O_RDWR | O_CREAT | O_CLOEXEC, 0666));
        break;
    default:
        lock_foreignly(&the_model.foreign[below(FOREIGN)]);
    }
}

/* --------------------------------------------------------------------------------------------- orders of the host */

static void run_job(aflock_job *job)
{
    the_model.in_job = true;
    aflock_job_run(job);
    the_model.in_job = false;
}

static aflock_job *take_job(fake_host *h, unsigned index)
{
    aflock_job *job = h->jobs[index].job;
    memmove(&h->jobs[index], &h->jobs[index + 1], (--h->job_count - index) * sizeof *h->jobs);
    return job;
}

static void order_job(world *w)
{
    fake_host *h = &w->host;
    const unsigned what = below(4);
    hung_job *slot = &the_model.hung[below(HUNG)];
    if (!h->job_count || w->forked)
        return;
    unsigned index = below((unsigned)h->job_count);
    if (what == 0) {
        aflock_job_drop(take_job(h, index));
    } else if (what == 1 && !slot->job) {
        slot->ctx = h->ctx;
        slot->job = take_job(h, index);
    } else {
        run_job(take_job(h, index));
    }
}

/* A worker's call returns, perhaps after its context has gone. */
static void resume(hung_job *slot)
{
    aflock_job *job = slot->job;
    for (int i = 0; i < WORLDS; i++)
        if (slot->ctx && the_model.worlds[i].forked && the_model.worlds[i].host.ctx == slot->ctx)
            return; /* it is in the parent */
    slot->job = NULL;
    if (job)
        run_job(job);
}

static void order_resume(world *w)
{
    (void)w;
    resume(&the_model.hung[below(HUNG)]);
}

/* aflock_ctx_free waits for workers: one comes back, or time goes by. */
static void virtual_wait(uint64_t timeout)
{
    if (below(2))
        order_resume(NULL);
    for (int i = 0; i < WORLDS; i++)
        if (the_model.worlds[i].ending)
            the_model.worlds[i].host.now += timeout;
}

static void order_turn(world *w)
{
    if (!w->host.ctx)
        return;
    if (below(4))
        fake_settle(&w->host);
    else
        fake_turn(&w->host);
}

static void order_advance(world *w)
{
    static const uint64_t steps[] = {1, US, 20 * US, MS, 5 * MS, 50 * MS, 100 * MS, 110 * MS};
    if (w->host.ctx && !w->forked)
        fake_advance(&w->host, steps[below(8)]);
}

static void order_settle(world *w)
{
    fake_host *h = &w->host;
    if (!h->ctx || w->forked)
        return;
    fake_settle(h);
    while (h->job_count && !w->forked) {
        run_job(take_job(h, 0));
        fake_settle(h);
    }
}

static void order_host(world *w)
{
    fake_host *h = &w->host;
    switch (below(4)) {
    case 0:
        aflock_host_timer(h->ctx); /* too early */
        break;
    case 1:
        aflock_host_ready(h->ctx, NULL, below(4));
        aflock_host_changed(h->ctx, NULL, below(8), NULL);
        break;
    case 2:
        if (h->listening_count)
            aflock_host_changed(h->ctx, h->listening[below((unsigned)h->listening_count)], 1 + below(5), "name");
        break;
    default:
        fuzz_require(aflock_host_check(h->ctx) == (!h->ctx        ? AFLOCK_EINVAL
                                                   : w->forked    ? AFLOCK_EFORKED
                                                   : w->answering ? AFLOCK_EBUSY
                                                                  : 0));
    }
}

static void order_end(world *w)
{
    static const uint64_t graces[] = {0, MS, 2 * SEC, AFLOCK_FOREVER};
    if (below(4))
        return;
    /* For ever, only if whoever is waited for can come. */
    end_world(w, graces[below(3)]);
    start_world(w);
}

/* -------------------------------------------------------------------------------------------------------- the orders
 */

typedef void (*order)(world *w);

static const order anywhere[] = {order_acquire, order_acquire,   order_release,   order_release,       order_cancel,
                                 order_open,    order_close,     order_try,       order_look,          order_ask,
                                 order_dump,    order_token_new, order_token_use, order_poll_interval, order_drain,
                                 order_fork,    order_foreign,   order_fail_call, order_fail_host,     order_host};
static const order outside[] = {order_turn,   order_turn, order_advance, order_settle, order_job,  order_job,
                                order_resume, order_end,  start_wrongly, order_settle, order_turn, order_open_wrongly};
enum { ANYWHERE = sizeof anywhere / sizeof anywhere[0], OUTSIDE = sizeof outside / sizeof outside[0] };

static void carry_out(world *w, order one)
{
    the_model.calling++;
    one(w);
    the_model.calling--;
}

void act_in_callback(world *w)
{
    for (unsigned count = below(4); count > 0 && !w->forked; count--)
        carry_out(w, anywhere[below(ANYWHERE)]);
    the_model.calling++;
    if (!w->forked) {
        fuzz_require(aflock_ctx_free(w->host.ctx, 0) == AFLOCK_EBUSY);
        aflock_host_turn(w->host.ctx); /* does nothing */
    }
    the_model.calling--;
}

static void check_world(const world *w)
{
    if (w->host.ctx && !w->forked)
        fuzz_require(!owes_answers(w) || w->host.alive);
}

/* ------------------------------------------------------------------------------------------------------ each input */

/* Everybody else goes home, workers come back, and time goes by: whoever can be answered is. */
static void let_all_happen(void)
{
    seam_reset();
    for (int i = 0; i < FOREIGN; i++) {
        if (the_model.foreign[i] >= 0)
            close(the_model.foreign[i]);
        the_model.foreign[i] = -1;
    }
    for (int round = 0; round < 8; round++) {
        for (int i = 0; i < HUNG; i++)
            resume(&the_model.hung[i]);
        for (int i = 0; i < WORLDS; i++) {
            world *w = &the_model.worlds[i];
            w->host.refusals = w->fail_in = 0;
            order_settle(w);
            if (w->host.ctx && !w->forked)
                fake_advance(&w->host, 60 * MS);
        }
    }
}

static void check_liveness(void)
{
    bool held = the_model.lazy;
    for (int i = 0; i < REQUESTS; i++)
        held |= the_model.requests[i].stage == HELD || the_model.requests[i].stage == RELEASING;
    for (int i = 0; i < REQUESTS; i++) {
        const request *r = &the_model.requests[i];
        if (r->stage != PENDING || r->world->forked)
            continue;
        fuzz_require(held);
        fuzz_require(r->options.timeout >= AFLOCK_FOREVER - 1 || r->world->options.stall_after == AFLOCK_FOREVER);
    }
}

/* Nobody holds anything: not we, and not what was ours. */
static void check_free(void)
{
    for (unsigned i = 0; i < ORDINARY; i++) {
        struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
        int fd = open(path_named(i), O_RDWR | O_CLOEXEC);
        if (fd < 0)
            continue;
        fuzz_require(flock(fd, LOCK_EX | LOCK_NB) == 0);
        fuzz_require(fcntl(fd, F_OFD_SETLK, &whole) == 0);
        close(fd);
    }
}

static void remove_directory(void)
{
    folder_remove(directory);
}

static void make_directory(void)
{
    fuzz_require(folder_make(directory, getenv("TMPDIR") ? NULL : "/dev/shm"));
    atexit(remove_directory);
    fuzz_require(mkdir(path_named(12), 0777) == 0 && mkfifo(path_named(9), 0666) == 0);
    char link[PATH_MAX + 16];
    snprintf(link, sizeof link, "%s/link", directory);
    fuzz_require(symlink(".", link) == 0 && symlink("a", path_named(6)) == 0);
}

static void clean_directory(void)
{
    static const char *const folders[] = {"new/dir", "new", "a"};
    unlink(path_named(7));
    unlink(path_named(11));
    for (unsigned i = 0; i < ORDINARY; i++)
        unlink(path_named(i));
    for (size_t i = 0; i < sizeof folders / sizeof folders[0]; i++) {
        char path[PATH_MAX + 16];
        snprintf(path, sizeof path, "%s/%s", directory, folders[i]);
        rmdir(path);
    }
}

static void begin_input(const uint8_t *data, size_t size)
{
    memset(&the_model, 0, sizeof the_model);
    the_model.in = (fuzz_input){data, data + size};
    for (int i = 0; i < FOREIGN; i++)
        the_model.foreign[i] = -1;
    for (int i = 0; i < WORLDS; i++) {
        start_world(&the_model.worlds[i]);
        for (int j = 0; j < OWN; j++) {
            the_model.own[i][j] = open(path_named((unsigned)j), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
            fuzz_require(the_model.own[i][j] > 2);
        }
    }
}

static void end_input(void)
{
    for (int i = 0; i < WORLDS; i++)
        end_world(&the_model.worlds[i], i ? SEC : 0);
    for (int i = 0; i < HUNG; i++)
        resume(&the_model.hung[i]);
    for (int i = 0; i < TOKENS; i++)
        if (!the_model.tokens[i].given_back)
            aflock_token_free(the_model.tokens[i].token);
    for (int i = 0; i < WORLDS; i++)
        for (int j = 0; j < OWN; j++)
            close(the_model.own[i][j]);
    check_free();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!directory[0])
        make_directory();
    unsigned descriptors = fake_descriptors();
    begin_input(data, size);
    while (the_model.in.at < the_model.in.end) {
        uint8_t byte = fuzz_byte(&the_model.in);
        world *w = &the_model.worlds[byte >> 7];
        unsigned which = (byte & 0x7f) % (ANYWHERE + OUTSIDE);
        if (which < ANYWHERE)
            carry_out(w, anywhere[which]);
        else
            outside[which - ANYWHERE](w);
        check_world(&the_model.worlds[0]);
        check_world(&the_model.worlds[1]);
    }
    let_all_happen();
    check_liveness();
    end_input();
    fuzz_require(fake_descriptors() == descriptors);
    clean_directory();
    return 0;
}
