/* Asking for locks, and checking what is answered. */
#include "sim_actor.h"
#include "sim_trace.h"

#include <errno.h>
#include <fcntl.h>

#define CALL(process, expression) \
    ((process)->in_call++, result_of_call = (expression), (process)->in_call--, result_of_call)

enum { CALLBACKS_PER_TURN = 64 };

static int result_of_call; /* of the public function that was called last; each process takes it at once */

/* ---------------------------------------------------------------------------------------------------- the requests */

sim_request *sim_request_in(sim_actor *a, sim_request_state state)
{
    uint64_t first = sim_below(SIM_REQUESTS);
    for (uint64_t i = 0; i < SIM_REQUESTS; i++) {
        sim_request *r = &a->requests[(first + i) % SIM_REQUESTS];
        if (r->state == state)
            return r;
    }
    return NULL;
}

unsigned sim_requests_open(const sim_actor *a)
{
    unsigned count = 0;
    for (int i = 0; i < SIM_REQUESTS; i++)
        count += a->requests[i].state != SIM_UNUSED;
    return count;
}

static bool is_remote(const sim_request *r)
{
    return r->lock->target->remote;
}

/* ---------------------------------------------------------------------------------------------------- the answers */

/* First come, first served: who asked earlier for the same path, and like this one excludes everybody, is not waiting.
 */
static void check_order(const sim_request *r)
{
    if (r->mode != AFLOCK_EXCLUSIVE || r->owner)
        return;
    for (int i = 0; i < SIM_REQUESTS; i++) {
        const sim_request *other = &r->actor->requests[i];
        bool earlier = other->state == SIM_WAITING && other->order < r->order && other->lock->path == r->lock->path;
        sim_require(!earlier || other->mode != AFLOCK_EXCLUSIVE || other->owner || other->lock->fd != r->lock->fd,
                    "first come, first served");
    }
}

static void begin_hold(sim_request *r, int fd, bool named)
{
    sim_process *p = r->actor->process;
    const sim_file *f = sim_fs_file(&p->task, fd);
    const sim_target *t = r->lock->target;
    sim_require(f != NULL, "a hold has a descriptor that is open: %d", fd);
    r->state = SIM_HOLDING;
    r->hold = (sim_hold){.process = p,
                         .context = p->context,
                         .target = r->lock->fd < 0 ? t : NULL,
                         .host = t->remote ? NULL : p->host,
                         .inode = f->inode,
                         .mode = r->mode,
                         .owner = r->owner};
    r->release_at = sim_now + (sim_chance(200000) ? 0 : sim_magnitude(SIM_US, sim_the_world.hold_most));
    sim_hold_is_real(&r->hold, t->protocol, fd);
    if (named && r->lock->fd < 0 && !t->replaced)
        sim_hold_is_named(&r->hold, fd, t->spellings[0]);
    sim_hold_begins(&r->hold);
}

static void check_refusal(const sim_request *r, int status, int sys_errno)
{
    const sim_process *p = r->actor->process;
    bool fired = r->token && aflock_token_fired(r->token->token);
    switch (status) {
    case AFLOCK_ETIMEDOUT:
        sim_require(!r->once && r->timeout != AFLOCK_FOREVER, "only a deadline that was given passes");
        sim_require(sim_clock_of(p) - r->asked >= r->timeout, "a deadline is never early");
        sim_count.timeouts++;
        return;
    case AFLOCK_EWOULDBLOCK:
        sim_require(r->once, "only one attempt: EWOULDBLOCK");
        return;
    case AFLOCK_ECANCELED:
        sim_require(r->cancelled || fired, "ECANCELED only after a cancel");
        return;
    case AFLOCK_ECLOSED:
        sim_require(p->in_free, "ECLOSED only when the context is freed");
        return;
    case AFLOCK_EDEADLK:
        sim_require(r->owner != NULL, "EDEADLK only with an owner");
        return;
    case AFLOCK_EREFUSED:
        sim_require(r->odd, "only on_acquired refuses");
        return;
    default:
        sim_require(r->odd || r->cancelled || fired || !r->settled, "no error when nothing goes wrong: %s, errno %d",
                    aflock_error_name(status), sys_errno);
    }
}

static void answered(aflock *lock, const aflock_result *result, void *user)
{
    sim_request *r = user;
    sim_process *p = r->actor->process;
    if (p->dead)
        return;
    p->callbacks++;
    sim_note("answer", (int64_t)r->order, result->status, result->step);
    sim_require(sim_on_loop() && p->in_call == 0 && (p->in_turn || p->in_free), "callbacks run from a turn");
    sim_require(r->state == SIM_WAITING && r->lock->lock == lock && r->req.id == result->req.id, "one answer to each");
    if (result->status != 0) {
        check_refusal(r, result->status, result->sys_errno);
        r->state = SIM_UNUSED;
    } else {
        sim_require(!r->cancelled, "who was cancelled is not told that it holds the lock");
        sim_require(!r->token || !aflock_token_fired(r->token->token), "a fired token lets nobody through");
        sim_require(!p->in_free, "nobody is granted anything while the context is freed");
        sim_count.grants++;
        check_order(r);
        begin_hold(r, result->fd, result->attempts > 0);
        if (r->settled && sim_the_world.calm && sim_now - r->asked_at > sim_count.longest_wait)
            sim_count.longest_wait = sim_now - r->asked_at;
    }
    if (!p->in_free)
        sim_actor_in_callback(r->actor);
}

static void released(aflock *lock, const aflock_result *result, void *user)
{
    sim_request *r = user;
    sim_process *p = r->actor->process;
    if (p->dead)
        return;
    p->callbacks++;
    sim_note("released", (int64_t)r->order, result->status, result->step);
    sim_require(sim_on_loop() && p->in_call == 0 && (p->in_turn || p->in_free), "callbacks run from a turn");
    sim_require(r->state == SIM_RELEASING && r->lock->lock == lock, "one answer to each release");
    if (result->status == 0 || result->status == AFLOCK_ECLOSED) {
        sim_require(result->status == 0 || p->in_free, "ECLOSED only when the context is freed");
        r->state = SIM_UNUSED;
        return;
    }
    sim_require(!r->settled, "a release fails only when something is wrong");
    if (p->in_free) { /* held again, and released again by the end of the context */
        r->state = SIM_UNUSED;
        return;
    }
    begin_hold(r, result->fd, false);
}

/* --------------------------------------------------------------------------------------------------------- asking */

static int on_acquired(int fd, void *user)
{
    const sim_request *r = user;
    const sim_process *p = r->actor->process;
    if (p->dead)
        return EIO;
    sim_require(sim_fs_file(&p->task, fd) != NULL, "on_acquired gets a descriptor that is open");
    sim_delay(sim_below(SIM_MS));
    return sim_chance(300000) ? EACCES : 0;
}

/* Every other one makes way. */
static void wanted(aflock *lock, aflock_req req, aflock_wanted who, void *user)
{
    sim_request *r = user;
    sim_process *p = r->actor->process;
    if (p->dead)
        return;
    p->callbacks++;
    sim_note("wanted", (int64_t)r->order, who, NULL);
    sim_require(sim_on_loop() && p->in_call == 0 && p->in_turn && !p->in_free, "who holds is told from a turn");
    sim_require(r->state == SIM_HOLDING && !r->let_go, "only who holds is told, until the release");
    sim_require(r->lock->lock == lock && r->req.id == req.id && !r->told[who], "a hold is told once of each kind");
    sim_require(who != AFLOCK_WANTED_HERE || sim_request_in(r->actor, SIM_WAITING), "somebody here waits");
    r->told[who] = true;
    sim_count.wanted++;
    if (r->order % 2)
        r->release_at = sim_now;
    sim_actor_in_callback(r->actor);
}

static uint64_t timeout_by_chance(void)
{
    if (sim_chance(200000))
        return 0;
    return sim_chance(400000) ? AFLOCK_FOREVER : sim_magnitude(100 * SIM_US, 2 * SIM_SECOND);
}

static void choose_wishes(sim_request *r, aflock_acquire_options *o)
{
    const bool database = r->lock->target->protocol->database;
    o->flags |= r->lock->target->flags;
    if (sim_chance(30000)) {
        o->flags ^= sim_chance(500000) ? AFLOCK_FOLLOW : AFLOCK_CREATE;
        r->odd = true;
    }
    if (sim_chance(30000) && !(database && o->mode == AFLOCK_EXCLUSIVE)) {
        o->flags |= AFLOCK_READ_ONLY; /* exclusive locks of some protocols need more */
        r->odd = true;
    } else if (r->lock->fd < 0 && !(o->flags & AFLOCK_READ_ONLY) && !database && sim_chance(30000)) {
        o->flags |= AFLOCK_TRUNCATE;
    }
    if (sim_chance(50000))
        o->flags |= AFLOCK_INHERIT;
    if (r->lock->fd < 0 && !database && sim_chance(30000))
        o->file_mode = 0640;
    if (sim_chance(50000)) {
        o->on_acquired = on_acquired;
        o->on_acquired_user = r;
        r->odd = true;
    }
}

static sim_token *token_by_chance(sim_actor *a)
{
    sim_token *t = &a->tokens[sim_below(SIM_TOKENS)];
    if (!sim_chance(250000))
        return NULL;
    if (!t->token && aflock_token_new(&t->token, a->process->context->ctx) != 0)
        return NULL;
    return t;
}

/* Fills in a request by chance. NULL: no more at one time. */
static sim_request *request_new(sim_actor *a, sim_lock *l, aflock_acquire_options *o)
{
    const sim_world *w = &sim_the_world;
    sim_request *r = sim_request_in(a, SIM_UNUSED);
    if (!r)
        return NULL;
    *r = (sim_request){
        .actor = a, .lock = l, .order = ++a->asked, .asked = sim_clock_of(a->process), .asked_at = sim_now};
    aflock_acquire_options_init(o);
    bool shared = l->target->protocol->shared && sim_chance(l->target->flags & AFLOCK_DIRECTORY ? 900000 : 300000);
    o->mode = r->mode = shared ? AFLOCK_SHARED : AFLOCK_EXCLUSIVE;
    o->timeout = r->timeout = timeout_by_chance();
    r->once = o->timeout == 0;
    o->owner = r->owner = sim_chance(250000) ? &a->owners[sim_below(SIM_OWNERS)] : NULL;
    r->token = token_by_chance(a);
    o->token = r->token ? r->token->token : NULL;
    r->settled = w->faultless || (w->calm && sim_now > w->calm_at + w->settling);
    r->odd = (l->target->flags & AFLOCK_DIRECTORY) != 0;
    choose_wishes(r, o);
    if (r->order % 3 == 0) {
        o->on_wanted = wanted;
        o->on_wanted_user = r;
    }
    return r;
}

static bool may_refuse_call(const sim_request *r, int status)
{
    switch (status) {
    case AFLOCK_EWOULDBLOCK:
        return r->once;
    case AFLOCK_EDEADLK:
        return r->owner != NULL;
    case AFLOCK_ECANCELED:
        return r->token && aflock_token_fired(r->token->token);
    case AFLOCK_ENOMEM:
        return sim_weather_now.memory != 0;
    case AFLOCK_ECLOSED:
        return r->actor->drain_asked;
    case AFLOCK_EINVAL:
        return r->token != NULL; /* of an earlier context */
    default:
        return status == AFLOCK_EFULL;
    }
}

void sim_ask(sim_actor *a, sim_lock *l)
{
    aflock_acquire_options o;
    sim_process *p = a->process;
    sim_request *r = request_new(a, l, &o);
    if (!r)
        return;
    sim_note("acquire", (int64_t)r->order, r->mode, l->path);
    r->state = SIM_WAITING;
    sim_count.requests++;
    int status = CALL(p, aflock_acquire(l->lock, &o, answered, r, &r->req));
    if (p->dead || status == 0)
        return;
    sim_note("refused", (int64_t)r->order, status, NULL);
    r->state = SIM_UNUSED;
    sim_require(may_refuse_call(r, status), "a request is not refused: %s", aflock_error_name(status));
}

void sim_try(sim_actor *a, sim_lock *l)
{
    aflock_acquire_options o;
    aflock_result result;
    sim_process *p = a->process;
    sim_request *r = request_new(a, l, &o);
    if (!r)
        return;
    r->once = true;
    r->token = NULL;
    r->odd = true; /* whatever errors there are */
    sim_note("try", (int64_t)r->order, r->mode, l->path);
    r->state = SIM_WAITING;
    sim_count.requests++;
    int status = CALL(p, aflock_try(l->lock, &o, &r->req, &result));
    if (p->dead)
        return;
    sim_note("tried", (int64_t)r->order, status, NULL);
    sim_require(result.status == status, "aflock_try says the same twice");
    r->state = SIM_UNUSED;
    if (status)
        return;
    sim_count.grants++; /* who asked earlier and is answered, but was not told yet, does not wait */
    begin_hold(r, result.fd, result.attempts > 0);
}

void sim_cancel(sim_request *r)
{
    sim_process *p = r->actor->process;
    int status = CALL(p, aflock_cancel(r->lock->lock, r->req));
    if (p->dead)
        return;
    sim_note("cancel", (int64_t)r->order, status, NULL);
    sim_count.cancels++;
    if (status == 0)
        r->cancelled = true;
    sim_require(r->state != SIM_WAITING || status == 0, "who waits can be cancelled: %s", aflock_error_name(status));
    sim_require(r->state != SIM_HOLDING || status == AFLOCK_EHELD, "who holds cannot be cancelled: %s",
                aflock_error_name(status));
}

/* The others of its owner on the same path, which are released with it. */
static void end_others(const sim_request *r)
{
    for (int i = 0; i < SIM_REQUESTS; i++) {
        sim_request *other = &r->actor->requests[i];
        if (other == r || other->state != SIM_HOLDING || other->owner != r->owner ||
            other->hold.inode != r->hold.inode || other->lock->target != r->lock->target ||
            (other->lock->fd >= 0) != (r->lock->fd >= 0) || other->lock->fd != r->lock->fd)
            continue;
        sim_hold_ends(&other->hold);
        other->state = SIM_UNUSED;
    }
}

void sim_release(sim_request *r)
{
    sim_process *p = r->actor->process;
    int fd = CALL(p, aflock_fd(r->lock->lock, r->req));
    sim_hold_is_real(&r->hold, r->lock->target->protocol, fd);
    bool told = sim_chance(500000), all = r->owner && sim_chance(200000);
    sim_note("release", (int64_t)r->order, told, all ? "all" : NULL);
    sim_hold_ends(&r->hold);
    r->let_go = true;
    if (all)
        end_others(r);
    r->state = told ? SIM_RELEASING : SIM_UNUSED;
    aflock_callback callback = told ? released : NULL;
    int status = all ? CALL(p, aflock_release_all(r->lock->lock, r->req, callback, r))
                     : CALL(p, aflock_release(r->lock->lock, r->req, callback, r));
    sim_require(p->dead || status == 0, "who holds can release: %s", aflock_error_name(status));
}

/* -------------------------------------------------------------------------------------------------------- questions */

static void question_ends(sim_request *r)
{
    sim_process *p = r->actor->process;
    p->callbacks++;
    sim_require(sim_on_loop() && p->in_call == 0 && (p->in_turn || p->in_free), "callbacks run from a turn");
    sim_require(r->state == SIM_ASKING, "one answer to each question");
    r->state = SIM_UNUSED;
}

static void verified(aflock *lock, const aflock_result *result, void *user)
{
    sim_request *r = user;
    (void)lock;
    if (r->actor->process->dead)
        return;
    sim_note("verified", (int64_t)r->order, result->status, result->step);
    question_ends(r);
    bool held = r->about->state == SIM_HOLDING && r->about->order == r->about_order;
    bool may_be = r->lock->target->replaced || is_remote(r) || r->odd;
    sim_require(result->status != AFLOCK_EREPLACED || may_be || !held, "what is held and not replaced is not replaced");
}

static void inspected(aflock *lock, const aflock_holder *holder, void *user)
{
    sim_request *r = user;
    (void)lock;
    if (r->actor->process->dead)
        return;
    sim_note("inspected", (int64_t)r->order, holder->status, NULL);
    question_ends(r);
}

void sim_question(sim_actor *a, sim_lock *l)
{
    sim_process *p = a->process;
    const sim_request *held = sim_request_in(a, SIM_HOLDING);
    sim_request *r = sim_request_in(a, SIM_UNUSED);
    if (!r)
        return;
    *r = (sim_request){.actor = a, .lock = held ? held->lock : l, .order = ++a->asked, .state = SIM_ASKING};
    r->odd = held && held->odd;
    r->about = held;
    r->about_order = held ? held->order : 0;
    bool verify = held && held->lock->fd < 0 && sim_chance(600000);
    int status = verify ? CALL(p, aflock_verify(r->lock->lock, held->req, verified, r))
                        : CALL(p, aflock_inspect(r->lock->lock, inspected, r));
    sim_note(verify ? "verify" : "inspect", (int64_t)r->order, status, r->lock->path);
    if (p->dead || status == 0)
        return;
    r->state = SIM_UNUSED;
    sim_require(status == AFLOCK_ENOMEM, "a question is not refused: %s", aflock_error_name(status));
}

/* ------------------------------------------------------------------------------------------------------ the checks */

/* After a turn, and when the loop goes to sleep. */
void sim_check_turn(sim_process *p, uint64_t began)
{
    const sim_actor *a = p->role;
    const sim_context *c = p->context;
    bool wants = false;
    if (!c)
        return;
    for (int i = 0; i < SIM_REQUESTS; i++) {
        const sim_request *r = &a->requests[i];
        wants |= r->state == SIM_WAITING || r->state == SIM_RELEASING || r->state == SIM_ASKING;
        if (r->state != SIM_WAITING || r->once || r->timeout > AFLOCK_FOREVER - r->asked)
            continue;
        uint64_t deadline = r->asked + r->timeout;
        sim_require(deadline > began || p->callbacks >= CALLBACKS_PER_TURN, "a deadline is answered in the first turn");
        sim_require(c->timer <= deadline || c->turn_at != SIM_NEVER, "the loop's timer is set for a deadline");
    }
    sim_require(!wants || c->alive, "the loop is kept alive while something is asked for");
}

void sim_requests_end(sim_actor *a, bool freed)
{
    for (int i = 0; i < SIM_REQUESTS; i++) {
        sim_request *r = &a->requests[i];
        sim_hold_ends(&r->hold);
        sim_require(!freed || r->state == SIM_UNUSED || r->state == SIM_HOLDING,
                    "all are answered when a context is freed");
        r->state = SIM_UNUSED;
    }
}
