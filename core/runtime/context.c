/* The life of a context: making it, ending it in three ways (drain, free, abandon), and looking into it (dump). */
#include "runtime/runtime.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ------------------------------------------------------------------------------------------------- memory, log, clock
 */

static void *default_allocate(size_t size, void *user)
{
    (void)user;
    return malloc(size);
}

static void *default_reallocate(void *block, size_t size, void *user)
{
    (void)user;
    return realloc(block, size);
}

static void default_release(void *block, void *user)
{
    (void)user;
    free(block);
}

void *afl_allocate(aflock_ctx *ctx, size_t size)
{
    void *block = ctx->options.allocate(size, ctx->options.allocate_user);
    return block ? memset(block, 0, size) : NULL;
}

void *afl_reallocate(aflock_ctx *ctx, void *block, size_t size)
{
    return block ? ctx->options.reallocate(block, size, ctx->options.allocate_user)
                 : ctx->options.allocate(size, ctx->options.allocate_user);
}

void afl_release_memory(aflock_ctx *ctx, void *block)
{
    if (block)
        ctx->options.release(block, ctx->options.allocate_user);
}

void afl_log(aflock_ctx *ctx, aflock_log_level level, const char *format, ...)
{
    char message[1024];
    if (!ctx->options.log)
        return;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    bool outer = ctx->in_hook;
    ctx->in_hook = true;
    ctx->options.log(level, message, ctx->options.log_user);
    ctx->in_hook = outer;
}

void afl_tell_tracer(aflock_ctx *ctx, aflock_trace_event event, const afl_entry *e, const char *path, int64_t value)
{
    bool outer = ctx->in_hook;
    ctx->in_hook = true;
    ctx->options.trace(event, path, e ? afl_entry_name(e) : (aflock_req){0}, value, ctx->options.trace_user);
    ctx->in_hook = outer;
}

uint64_t afl_now(const aflock_ctx *ctx)
{
    return ctx->loop->now(ctx->loop->self);
}

const void *afl_thread(void)
{
    /* Signal handlers ask too: the first access must not allocate, in a library loaded at run time either. */
    static _Thread_local char here __attribute__((tls_model("initial-exec")));
    return &here;
}

int afl_check(const aflock_ctx *ctx)
{
    if (!ctx)
        return AFLOCK_EINVAL;
    if (afl_gate_forked(ctx->gate))
        return AFLOCK_EFORKED;
    if (ctx->thread != afl_thread())
        return AFLOCK_ETHREAD;
    return ctx->in_hook ? AFLOCK_EBUSY : 0; /* hooks run in the middle of things */
}

int afl_enter(aflock_ctx *ctx)
{
    int status = afl_check(ctx);
    if (!status)
        ctx->now = afl_now(ctx);
    return status;
}

int aflock_host_check(const aflock_ctx *ctx)
{
    int status = afl_check(ctx);
    if (status)
        return status;
    return ctx->in_callback ? AFLOCK_EBUSY : 0;
}

const aflock_loop *aflock_host_loop(const aflock_ctx *ctx)
{
    return ctx ? ctx->loop : NULL;
}

/* ------------------------------------------------------------------------------------------------------------ making
 */

void aflock_ctx_options_init(aflock_ctx_options *o)
{
    if (!o)
        return;
    *o = (aflock_ctx_options){.size = sizeof *o,
                              .handoff_grants = 16,
                              .handoff_time = 5 * AFLOCK_MILLISECOND,
                              .handoff_pause = 250 * AFLOCK_MICROSECOND,
                              .pause_interval = 10 * AFLOCK_MILLISECOND,
                              .attempt_limit = 5 * AFLOCK_SECOND,
                              .stall_after = AFLOCK_SECOND};
}

bool afl_take_options(void *options, size_t known, const void *given)
{
    size_t size;
    if (!given)
        return true;
    memcpy(&size, given, sizeof size);
    if (size < sizeof size || size > known)
        return false;
    memcpy(options, given, size);
    return true;
}

static int options_for_ctx(aflock_ctx_options *o, const aflock_ctx_options *given)
{
    aflock_ctx_options_init(o);
    if (!afl_take_options(o, sizeof *o, given))
        return AFLOCK_EINVAL;
    int hooks = (o->allocate != NULL) + (o->reallocate != NULL) + (o->release != NULL);
    if ((hooks != 0 && hooks != 3) || o->handoff_grants == 0 || o->attempt_limit == 0 || o->stall_after == 0)
        return AFLOCK_EINVAL;
    if (hooks == 0) {
        o->allocate = default_allocate;
        o->reallocate = default_reallocate;
        o->release = default_release;
    }
    return 0;
}

static bool host_is_complete(const aflock_host *h)
{
    if (!h || h->size != sizeof *h || !h->loop || !h->executor)
        return false;
    const aflock_loop *l = h->loop;
    const aflock_executor *e = h->executor;
    const aflock_notifier *n = h->notifier;
    if (l->size != sizeof *l || !l->name || !l->now || !l->timer || !l->defer || !l->wake || !l->keep_alive ||
        !l->watch || !l->unwatch || !l->close)
        return false;
    if (e->size != sizeof *e || e->width == 0 || !e->submit || !e->close)
        return false;
    return !n || (n->size == sizeof *n && n->add && n->del && n->close);
}

/* forked: there are no workers. */
static void free_tables(aflock_ctx *ctx, bool forked)
{
    afl_entries_free(ctx);
    for (afl_extras *x = ctx->free_extras, *next; x; x = next) {
        next = x->next;
        afl_release_memory(ctx, x);
    }
    if (ctx->machine.owner_buckets > 1)
        afl_release_memory(ctx, ctx->machine.owners);
    afl_places_free(ctx);
    afl_admission_free(ctx, forked);
    aflock_ctx_options o = ctx->options;
    o.release(ctx, o.allocate_user);
}

/* Longer than a pause: see run_is_over in the machine. */
static uint64_t least_run(const aflock_ctx_options *o)
{
    return o->handoff_pause < o->handoff_time / 2 ? 2 * o->handoff_pause : o->handoff_time;
}

int aflock_ctx_new(aflock_ctx **out, const aflock_host *host, const aflock_ctx_options *options)
{
    aflock_ctx_options o;
    if (!out)
        return AFLOCK_EINVAL;
    *out = NULL;
    if (!host_is_complete(host) || options_for_ctx(&o, options) != 0)
        return AFLOCK_EINVAL;
    aflock_ctx *ctx = o.allocate(sizeof *ctx, o.allocate_user);
    if (!ctx)
        return AFLOCK_ENOMEM;
    memset(ctx, 0, sizeof *ctx);
    ctx->options = o;
    ctx->loop = host->loop;
    ctx->executor = host->executor;
    ctx->notifier = host->notifier;
    ctx->sys = &afl_sys_linux;
    ctx->thread = afl_thread();
    ctx->dice = (uint32_t)afl_now(ctx) | 1;
    ctx->armed = AFLOCK_FOREVER;
    afl_machine_init(&ctx->machine, &(afl_machine_config){.handoff_grants = o.handoff_grants,
                                                          .handoff_time = o.handoff_time,
                                                          .handoff_least = least_run(&o),
                                                          .handoff_pause = o.handoff_pause,
                                                          .pause_interval = o.pause_interval,
                                                          .foreign_pauses = 16,
                                                          .check_interval = 5 * AFLOCK_MILLISECOND});
    ctx->gate = afl_gate_new(ctx->loop, ctx->sys);
    if (!ctx->gate || !afl_admission_init(ctx) || !afl_places_init(ctx)) {
        if (ctx->gate)
            afl_gate_unref(ctx->gate);
        free_tables(ctx, false);
        return AFLOCK_ENOMEM;
    }
    *out = ctx;
    return 0;
}

int aflock_ctx_drain(aflock_ctx *ctx, aflock_drained callback, void *user)
{
    int status = afl_enter(ctx);
    if (status)
        return status;
    if (!callback)
        return AFLOCK_EINVAL;
    if (ctx->draining || ctx->closing)
        return AFLOCK_EBUSY;
    ctx->draining = true;
    ctx->drained = callback;
    ctx->drained_user = user;
    afl_settle(ctx);
    return 0;
}

/* ------------------------------------------------------------------------------------------------------------- ending
 */

/* Answers what waits and lets go of what is held; a caller's own descriptor stays as it is. */
static void end_requests(aflock_ctx *ctx, afl_place *p)
{
    afl_machine *m = &ctx->machine;
    afl_machine_keep(m, &p->path, false);
    while (p->path.head)
        afl_machine_cancel(m, p->path.head, AFLOCK_ECLOSED, ctx->now);
    if (p->path.failing)
        afl_machine_cancel(m, p->path.failing, AFLOCK_ECLOSED, ctx->now);
    for (afl_request *r = p->path.holders, *next; r; r = next) {
        next = r->next;
        if (r->state == AFL_GRANTED)
            afl_machine_cancel(m, r, AFLOCK_ECLOSED, ctx->now);
        else if (r->state == AFL_HELD && p->caller_fd < 0)
            afl_entry_release(ctx, AFL_CONTAINER(afl_entry, request, r), NULL, NULL);
    }
}

/* Ends all requests and tells whom it concerns. A release that failed is held again, and ended again without a
 * callback. */
static void end_and_answer(aflock_ctx *ctx)
{
    bool answered;
    do {
        for (afl_place *p = ctx->places; p; p = p->all_next)
            end_requests(ctx, p);
        afl_settle(ctx);
        answered = false;
        while (!afl_gate_forked(ctx->gate) && afl_deliver_one(ctx)) {
            afl_settle(ctx);
            answered = true;
        }
    } while (answered && !afl_gate_forked(ctx->gate));
}

/* Functions of the caller run while it is held. */
static bool has_functions(const afl_place *p)
{
    return p->attempt && atomic_load(&p->attempt->users) > 1;
}

/* Is there something to wait for? What a protocol does through the loop's watches does not go on without the loop. */
static bool is_busy(const afl_place *p)
{
    if (has_functions(p))
        return true;
    if (p->path.op)
        return !p->protocol->start && !afl_attempt_is_parked(p->attempt);
    return p->path.grip != AFL_GRIP_NONE && !(p->caller_fd >= 0 && p->path.holders);
}

/* Runs the context without its host until nothing is under way, or the grace is over. */
static void wind_down(aflock_ctx *ctx, uint64_t deadline)
{
    for (;;) {
        ctx->now = afl_now(ctx);
        afl_collect(ctx);
        afl_expire(ctx);
        end_and_answer(ctx);
        bool busy = false;
        for (const afl_place *p = ctx->places; p; p = p->all_next)
            busy |= is_busy(p);
        if (!busy || ctx->now >= deadline || afl_gate_forked(ctx->gate))
            return;
        uint64_t until = afl_deadline(ctx);
        until = deadline < until ? deadline : until;
        if (until > ctx->now)
            afl_gate_wait(ctx->gate, until - ctx->now < AFLOCK_SECOND ? until - ctx->now : AFLOCK_SECOND);
    }
}

static int count_unreleased(const aflock_ctx *ctx)
{
    int count = 0;
    for (const afl_place *p = ctx->places; p; p = p->all_next)
        if (p->path.op == AFL_OP_RELEASE || p->path.grip == AFL_GRIP_PENDING ||
            (p->path.grip == AFL_GRIP_HELD && p->caller_fd < 0))
            count++;
    return count;
}

/* Releases that did not come back are answered too. */
static void answer_releases(aflock_ctx *ctx)
{
    for (afl_place *p = ctx->places, *next; p; p = next) {
        next = p->all_next;
        afl_machine_end_release(&ctx->machine, &p->path, AFLOCK_ECLOSED, ctx->now);
    }
    while (!afl_gate_forked(ctx->gate) && afl_deliver_one(ctx))
        ;
}

/* The last function that returns gives up what is held, or a worker that has an operation of it after that. */
static void leave_to_functions(afl_place *p, bool at_executor)
{
    afl_attempt *t = p->attempt;
    p->attempt = NULL;
    if (at_executor)
        return;
    if (!p->path.op)
        atomic_fetch_add(&t->spelling->refs, 1); /* as a job has one */
    afl_attempt_leave(t);
}

/* What is at the executor belongs to its worker from now on. Of the rest, what has something to give back goes to the
 * executor, too, by way of `left`, unless it has always been on this thread: the file system may hang. */
static void part_with_attempt(aflock_ctx *ctx, afl_place *p, aflock_job **left)
{
    afl_attempt *t = p->attempt;
    if (p->protocol->start && p->path.op) {
        p->protocol->stop(&t->work);
        return;
    }
    bool at_executor = p->path.op && !afl_admission_unqueue(ctx, &t->job);
    if (has_functions(p)) {
        leave_to_functions(p, at_executor);
        return;
    }
    bool goes_there = !at_executor && p->protocol->run && p->io != AFLOCK_IO_INLINE && t->work.path &&
                      (t->work.fd >= 0 || p->path.grip == AFL_GRIP_HELD); /* a marker may be held without being open */
    if (at_executor || goes_there)
        p->attempt = NULL;
    if (at_executor)
        return;
    if (!goes_there) {
        if (p->path.op)
            afl_spelling_unref(t->spelling);
        p->protocol->reconcile(&t->work);
        return;
    }
    if (!p->path.op)
        atomic_fetch_add(&t->spelling->refs, 1); /* as a job has one */
    t->job.next = *left;
    *left = &t->job;
}

static void run_nothing(aflock_job *job)
{
    (void)job;
}

/* The gate is closed: when a worker has run the job, it is an orphan, and gives back what it has. Only if no executor
 * takes it is that done here. */
static void leave_to_executor(aflock_ctx *ctx, aflock_job *job)
{
    if (job->run_of && job->ends_run)
        free(job->run_of);
    job->run_of = NULL;
    job->path = NULL;
    job->run = run_nothing;
    job->gate = ctx->gate;
    atomic_fetch_add(&ctx->gate->refs, 1);
    if (ctx->executor->submit(ctx->executor->self, job, AFLOCK_LANE_RELEASE) == 0)
        return;
    afl_gate_unref(ctx->gate);
    job->orphan(job);
}

static void leave_all_to_executor(aflock_ctx *ctx, aflock_job *jobs)
{
    for (aflock_job *job = jobs, *next; job; job = next) {
        next = job->next;
        leave_to_executor(ctx, job);
    }
}

static void free_places(aflock_ctx *ctx)
{
    while (ctx->places) {
        afl_place *p = ctx->places;
        while (p->locks) {
            aflock *lock = p->locks;
            p->locks = lock->next;
            free(lock->detail);
            afl_release_memory(ctx, lock);
        }
        afl_place_free(p);
    }
}

static void close_host(aflock_ctx *ctx, int forked)
{
    ctx->executor->close(ctx->executor->self, forked);
    if (ctx->notifier)
        ctx->notifier->close(ctx->notifier->self, forked);
}

/* Those that the loop has not heard of are kept alive by the list alone. */
static void forget_fired_tokens(afl_gate *g)
{
    for (aflock_token *t = afl_gate_take_tokens(g), *next; t; t = next) {
        next = t->next;
        afl_token_unref(t);
    }
}

int aflock_ctx_free(aflock_ctx *ctx, uint64_t grace)
{
    if (!ctx)
        return 0;
    int status = afl_enter(ctx);
    if (status)
        return status;
    if (ctx->in_callback || ctx->in_turn || ctx->closing)
        return AFLOCK_EBUSY;
    ctx->closing = true;
    afl_functions_end(ctx);
    wind_down(ctx, grace > AFLOCK_FOREVER - ctx->now ? AFLOCK_FOREVER : ctx->now + grace);
    int unreleased = count_unreleased(ctx);
    afl_errands_end(ctx);
    answer_releases(ctx);
    afl_wanted_end(ctx);
    if (!afl_gate_forked(ctx->gate))
        afl_deliver_drained(ctx);
    if (afl_gate_forked(ctx->gate))
        return AFLOCK_EFORKED; /* a callback returned twice: the child must not give up what the parent holds */
    afl_admission_flush_releases(ctx);
    aflock_job *left = NULL;
    for (afl_attempt *t = ctx->detached; t; t = t->next)
        afl_attempt_unlisten(t, ctx);
    for (afl_place *p = ctx->places; p; p = p->all_next) {
        afl_place_unlisten(p);
        afl_attempt_unlisten(p->attempt, ctx);
        afl_glance_forget(p, false);
        afl_place_unwatch_holder(p);
        part_with_attempt(ctx, p, &left);
    }
    afl_gate_close(ctx->gate);
    leave_all_to_executor(ctx, left);
    leave_all_to_executor(ctx, afl_gate_take_jobs(ctx->gate));
    forget_fired_tokens(ctx->gate);
    close_host(ctx, 0);
    free_places(ctx);
    const aflock_loop *loop = ctx->loop;
    afl_gate *gate = ctx->gate;
    free_tables(ctx, false);
    loop->close(loop->self, 0);
    afl_gate_unref(gate);
    return unreleased;
}

int aflock_ctx_abandon(aflock_ctx *ctx)
{
    if (!ctx || !afl_gate_forked(ctx->gate))
        return AFLOCK_EINVAL;
    if (ctx->thread != afl_thread())
        return AFLOCK_ETHREAD; /* at the fork its own thread may have been in the middle of anything */
    afl_gate_forget_jobs(ctx->gate);
    forget_fired_tokens(ctx->gate);
    for (afl_place *p = ctx->places; p; p = p->all_next) {
        p->notifying = p->watching_holder = p->attempt->listening = false; /* the parent's */
        afl_glance_forget(p, true);
        p->protocol->abandon(&p->attempt->work);
        for (afl_spelling *s = p->spellings; s; s = s->place_next)
            atomic_store(&s->refs, 1); /* the workers that held the others are not in this process */
    }
    afl_attempts_abandon(ctx);
    while (ctx->errands) {
        afl_errand *e = ctx->errands;
        ctx->errands = e->next;
        afl_errand_free(e);
    }
    afl_wanted_abandon(ctx);
    close_host(ctx, 1);
    free_places(ctx);
    const aflock_loop *loop = ctx->loop;
    afl_gate *gate = ctx->gate;
    free_tables(ctx, true);
    loop->close(loop->self, 1);
    afl_gate_unref(gate);
    return 0;
}

/* --------------------------------------------------------------------------------------------------------- looking in
 */

static int dump_one(aflock_ctx *ctx, const afl_request *r, int held, uint32_t position,
                    int (*each)(const aflock_dump_entry *, void *), void *user)
{
    const afl_entry *e = AFL_CONTAINER(afl_entry, request, r);
    uint64_t gone = ctx->now - r->submitted;
    bool limited = !held && r->timeout != AFLOCK_FOREVER;
    aflock_dump_entry entry = {.size = sizeof entry,
                               .path = e->lock->spelling->text,
                               .req = afl_entry_name(e),
                               .owner = r->owner,
                               .mode = (aflock_mode)r->mode,
                               .held = held,
                               .position = position,
                               .attempts = r->attempts,
                               .age = gone,
                               .remaining = !limited            ? AFLOCK_FOREVER
                                            : r->timeout > gone ? r->timeout - gone
                                                                : 0};
    ctx->in_hook = true;
    int stop = each(&entry, user);
    ctx->in_hook = false;
    return stop;
}

int aflock_dump(aflock_ctx *ctx, int (*each)(const aflock_dump_entry *entry, void *user), void *user)
{
    int status = afl_enter(ctx);
    if (status)
        return status;
    if (!each)
        return AFLOCK_EINVAL;
    for (const afl_place *p = ctx->places; p && !status; p = p->all_next) {
        for (const afl_request *r = p->path.holders; r && !status; r = r->next)
            if (!AFL_CONTAINER(afl_entry, request, r)->release_waits)
                status = dump_one(ctx, r, 1, 0, each, user);
        uint32_t position = 0;
        for (const afl_request *r = p->path.head; r && !status; r = r->next)
            status = dump_one(ctx, r, 0, position++, each, user);
    }
    return status;
}
