/* The life of a program that uses the library. */
#include "sim_actor.h"
#include "sim_trace.h"

#include <fcntl.h>

/* ---------------------------------------------------------------------------------------------------- its context */

static void tell(aflock_trace_event event, const char *path, aflock_req req, int64_t value, void *user)
{
    const sim_process *p = user;
    if (!p->dead)
        sim_note("trace", event, value, path);
    (void)req;
}

static void context_options(const sim_actor *a, aflock_ctx_options *o)
{
    aflock_ctx_options_init(o);
    o->trace = tell;
    o->trace_user = a->process;
    if (sim_chance(300000))
        o->handoff_grants = (uint32_t)sim_between(1, 4);
    if (sim_chance(200000))
        o->handoff_pause = sim_below(2 * SIM_MS);
    if (sim_chance(60000))
        o->max_waiters = (uint32_t)sim_between(2, 6);
    if (sim_chance(300000))
        o->stall_after = sim_magnitude(10 * SIM_MS, 2 * SIM_SECOND);
    if (sim_chance(300000))
        o->attempt_limit = sim_magnitude(SIM_MS, 10 * SIM_SECOND);
}

static bool begin_context(sim_actor *a)
{
    aflock_ctx_options o;
    context_options(a, &o);
    a->drain_asked = a->drained = false;
    return sim_context_new(a->process, a->width, a->notifier, &o) != NULL;
}

/* Closes descriptors of its own when no thread is left that could use their numbers. */
static void close_left(sim_actor *a)
{
    if (sim_jobs_linger(a->process))
        return;
    while (a->left_count > 0)
        sim_fs_close(&a->process->task, a->left[--a->left_count]);
}

static void forget_locks(sim_actor *a)
{
    for (sim_lock *l = a->locks; l < a->locks + SIM_LOCKS; l++) {
        if (l->fd >= 0 && a->left_count < sizeof a->left / sizeof a->left[0])
            a->left[a->left_count++] = l->fd;
        l->lock = NULL;
        l->fd = -1;
    }
}

/* Ends the context in the middle of whatever is under way; in the calm nothing of it may be left. */
static void end_context(sim_actor *a)
{
    sim_process *p = a->process;
    if (!p->context)
        return;
    const sim_world *w = &sim_the_world;
    bool calm = w->fair || (w->calm && sim_now > w->calm_at + w->settling);
    uint64_t grace = p->dead              ? 0
                     : calm               ? 10 * SIM_SECOND
                     : sim_chance(300000) ? 0
                                          : sim_magnitude(SIM_MS, 2 * SIM_SECOND);
    for (int i = 0; i < SIM_REQUESTS; i++)
        sim_hold_ends(&a->requests[i].hold);
    sim_note("free", (int64_t)grace, 0, NULL);
    int left = sim_context_free(p->context, grace);
    if (!p->dead) {
        sim_note("freed", left, 0, NULL);
        sim_require(left >= 0 && (!calm || left == 0), "a context gives up everything in time: %d left", left);
    }
    sim_requests_end(a, !p->dead);
    forget_locks(a);
    if (p->dead)
        return;
    close_left(a);
    sim_require(sim_jobs_linger(p) || sim_jobs_are_parked(p) || sim_fs_descriptors(&p->task) == 0,
                "no descriptor is left");
}

/* ------------------------------------------------------------------------------------------------------ its locks */

static void open_lock(sim_actor *a, sim_lock *l)
{
    static const aflock_io IO[] = {AFLOCK_IO_AUTO, AFLOCK_IO_POOL, AFLOCK_IO_INLINE};
    sim_process *p = a->process;
    sim_world *w = &sim_the_world;
    aflock_options o;
    aflock_options_init(&o);
    l->target = &w->targets[sim_below(w->target_count)];
    l->path = l->target->spellings[sim_below(l->target->spelling_count)];
    l->poll = o.poll_interval = sim_magnitude(w->poll_most / 16, w->poll_most);
    o.protocol = l->target->protocol->protocol;
    o.io = p->pool_only ? AFLOCK_IO_POOL : IO[sim_below(p->inline_too ? 3 : 2)];
    o.max_waiters = sim_chance(100000) ? 3 : 0;
    if (sim_chance(150000))
        o.wait = AFLOCK_WAIT_PARK;
    o.keep_open = sim_chance(300000);
    if (sim_chance(80000) && !l->target->flags && !l->target->protocol->database) {
        l->fd = sim_fs_open(&p->task, l->path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
        if (l->fd < 0)
            l->fd = -1;
    }
    p->in_call++;
    int status = l->fd >= 0 ? aflock_open_fd(&l->lock, p->context->ctx, l->fd, &o)
                            : aflock_open(&l->lock, p->context->ctx, l->path, &o);
    p->in_call--;
    sim_note("open_lock", l->fd, status, l->path);
    if (status && l->fd >= 0) {
        sim_fs_close(&p->task, l->fd);
        l->fd = -1;
    }
    sim_require(!status || (status == AFLOCK_ENOMEM && sim_weather_now.memory), "a lock is opened: %s",
                aflock_error_name(status));
}

static void close_lock(sim_actor *a, sim_lock *l)
{
    bool used = false, releasing = false;
    for (int i = 0; i < SIM_REQUESTS; i++) {
        const sim_request *r = &a->requests[i];
        used |= r->lock == l && (r->state == SIM_WAITING || r->state == SIM_HOLDING || r->state == SIM_ASKING);
        releasing |= r->lock == l && r->state == SIM_RELEASING;
    }
    if (releasing || l->fd >= 0)
        return; /* the answer would have nobody to go to; the descriptor has to stay open */
    int status = aflock_close(l->lock);
    sim_note("close_lock", used, status, l->path);
    sim_require(status == (used ? AFLOCK_EBUSY : 0), "a lock that is %s: %s", used ? "used" : "not used",
                aflock_error_name(status));
    if (status == 0)
        l->lock = NULL;
}

/* An open lock, opened if need be. NULL: not now. */
static sim_lock *some_lock(sim_actor *a)
{
    sim_lock *l = &a->locks[sim_below(SIM_LOCKS)];
    if (!l->lock && !a->drain_asked)
        open_lock(a, l);
    return l->lock ? l : NULL;
}

/* --------------------------------------------------------------------------------------------------- what it does */

static void do_ask(sim_actor *a)
{
    sim_lock *l = some_lock(a);
    for (uint64_t n = sim_chance(200000) ? sim_between(2, 4) : 1; l && n > 0; n--)
        sim_ask(a, l);
}

static void do_try(sim_actor *a)
{
    sim_lock *l = some_lock(a);
    if (l && !a->drain_asked)
        sim_try(a, l);
}

static void do_cancel(sim_actor *a)
{
    sim_request *r = sim_request_in(a, sim_chance(800000) ? SIM_WAITING : SIM_HOLDING);
    if (r)
        sim_cancel(r);
}

static void do_release(sim_actor *a)
{
    sim_request *r = sim_request_in(a, SIM_HOLDING);
    if (r)
        sim_release(r);
}

static void do_question(sim_actor *a)
{
    sim_lock *l = some_lock(a);
    if (l)
        sim_question(a, l);
}

static void do_close(sim_actor *a)
{
    sim_lock *l = &a->locks[sim_below(SIM_LOCKS)];
    if (l->lock)
        close_lock(a, l);
}

static void do_repoll(sim_actor *a)
{
    sim_lock *l = some_lock(a);
    if (!l)
        return;
    uint64_t most = sim_the_world.poll_most;
    int status = aflock_set_poll_interval(l->lock, sim_magnitude(most / 16, most));
    sim_require(a->process->dead || status == 0, "the poll interval is changed: %s", aflock_error_name(status));
}

/* A thread of the program fires a token some time later. */
static void fire_body(sim_fiber *fiber)
{
    sim_token *t = fiber->argument;
    if (!sim_current()->dead)
        sim_note("fire", 0, 0, NULL);
    aflock_token_fire(t->token);
    t->users--;
    sim_fiber_ends();
}

static void do_fire(sim_actor *a)
{
    sim_token *t = &a->tokens[sim_below(SIM_TOKENS)];
    if (!t->token)
        return;
    if (sim_chance(300000) && !t->users && aflock_token_fired(t->token)) {
        bool used = false; /* the requests keep it alive, but this program wants to ask it later */
        for (int i = 0; i < SIM_REQUESTS; i++)
            used |= a->requests[i].state != SIM_UNUSED && a->requests[i].token == t;
        if (!used) {
            aflock_token_free(t->token);
            t->token = NULL;
        }
        return;
    }
    if (sim_chance(400000)) {
        sim_note("fire", 1, 0, NULL);
        aflock_token_fire(t->token);
        return;
    }
    t->users++;
    sim_spawn(a->process, fire_body, t, sim_now + sim_below(10 * SIM_MS));
}

static void drained(aflock_ctx *ctx, void *user)
{
    sim_actor *a = user;
    (void)ctx;
    if (a->process->dead)
        return;
    sim_note("drained", 0, 0, NULL);
    sim_require(a->drain_asked && !a->drained, "the end of a drain is told once");
    sim_require(a->process->in_free || sim_requests_open(a) == 0, "a drain ends when nobody waits or holds");
    a->drained = true;
}

static void do_drain(sim_actor *a)
{
    bool again = a->drain_asked;
    a->drain_asked = true;
    int status = aflock_ctx_drain(a->process->context->ctx, drained, a);
    sim_note("drain", again, status, NULL);
    sim_require(a->process->dead || status == (again ? AFLOCK_EBUSY : 0), "a drain begins once: %s",
                aflock_error_name(status));
}

static void do_end(sim_actor *a)
{
    a->wants_end = true;
}

/* What is done how often. */
static const struct {
    unsigned weight;
    void (*run)(sim_actor *a);
    bool in_callback; /* too */
} ACTIONS[] = {
    {400, do_ask, true},  {100, do_try, true}, {90, do_cancel, true}, {60, do_release, true}, {60, do_question, true},
    {60, do_close, true}, {60, do_fire, true}, {30, do_repoll, true}, {8, do_drain, true},    {12, do_end, false},
};

static void act(sim_actor *a, bool in_callback)
{
    enum { COUNT = sizeof ACTIONS / sizeof ACTIONS[0] };
    unsigned sum = 0;
    for (int i = 0; i < COUNT; i++)
        sum += ACTIONS[i].weight;
    uint64_t at = sim_below(sum);
    int i = 0;
    while (at >= ACTIONS[i].weight)
        at -= ACTIONS[i++].weight;
    if (ACTIONS[i].in_callback || !in_callback)
        ACTIONS[i].run(a);
}

static bool may_act(sim_actor *a)
{
    unsigned *left = sim_the_world.calm ? &a->calm_actions : &a->actions;
    if (sim_the_world.quiet || *left == 0)
        return false;
    --*left;
    return true;
}

void sim_actor_in_callback(sim_actor *a)
{
    if (sim_chance(20000))
        sim_require(aflock_ctx_free(a->process->context->ctx, 0) == AFLOCK_EBUSY, "no context is freed in a callback");
    if (sim_chance(250000) && may_act(a))
        act(a, true);
}

/* ------------------------------------------------------------------------------------------------------- its life */

/* When it has something to do next: an action, or a hold that is over. */
static uint64_t next_act(const sim_actor *a)
{
    bool more = !sim_the_world.quiet && (sim_the_world.calm ? a->calm_actions : a->actions) > 0;
    uint64_t at = more ? sim_now + sim_magnitude(SIM_US, a->gap_most) : SIM_NEVER;
    for (int i = 0; i < SIM_REQUESTS; i++)
        if (a->requests[i].state == SIM_HOLDING && a->requests[i].release_at < at)
            at = a->requests[i].release_at;
    return a->left_count && at > sim_now + 10 * SIM_MS ? sim_now + 10 * SIM_MS : at;
}

static void release_due(sim_actor *a)
{
    for (int i = 0; i < SIM_REQUESTS && !a->process->dead; i++)
        if (a->requests[i].state == SIM_HOLDING && a->requests[i].release_at <= sim_now)
            sim_release(&a->requests[i]);
}

static void act_now(sim_process *p)
{
    sim_actor *a = p->role;
    close_left(a);
    release_due(a);
    if (!p->dead && p->context && may_act(a))
        act(a, false);
}

static void died(sim_process *p)
{
    sim_requests_end(p->role, false);
}

/* Nothing is left to be done, and everybody was told to come to an end. */
static bool is_over(const sim_actor *a)
{
    return sim_the_world.quiet && sim_requests_open(a) == 0;
}

static void close_all(sim_actor *a)
{
    for (sim_lock *l = a->locks; l < a->locks + SIM_LOCKS; l++)
        if (l->lock && sim_chance(500000))
            close_lock(a, l);
    if (!a->drain_asked && sim_chance(300000))
        do_drain(a);
    while (a->drain_asked && !a->drained && !a->process->dead)
        sim_loop_once(a->process);
}

void sim_actor_live(sim_process *p)
{
    sim_actor *a = p->role;
    a->process = p;
    p->act = act_now;
    p->after_turn = sim_check_turn;
    p->died = died;
    sim_fs_chdir(&p->task, "/data");
    while (!p->dead && !(is_over(a) && !p->context)) {
        if (!p->context && !begin_context(a)) {
            sim_delay(SIM_MS);
            continue;
        }
        if (!p->dead && is_over(a))
            close_all(a);
        if (p->dead || a->wants_end || is_over(a)) {
            a->wants_end = false;
            end_context(a);
            continue;
        }
        p->act_at = next_act(a);
        sim_check_turn(p, 0);
        sim_loop_once(p);
    }
    if (p->dead)
        end_context(a);
    for (sim_token *t = a->tokens; t < a->tokens + SIM_TOKENS; t++) {
        while (t->users)
            sim_delay(SIM_MS);
        aflock_token_free(t->token);
    }
}
