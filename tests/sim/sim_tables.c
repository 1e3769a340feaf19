/* The host's three tables (aflock/host.h) on the simulated clock: a loop whose timers and wake-ups are late, an
 * executor whose jobs are fibers, a notifier that loses and invents reports. What the library must not do with a table
 * is checked here. */
#include "sim_host.h"
#include "sim_trace.h"
#include "sim_world.h"

#include "runtime/runtime.h"

#include <string.h>

static sim_context contexts[SIM_CONTEXTS];
static unsigned context_count;
static sim_job jobs[SIM_JOBS];
static sim_job *free_jobs;

static uint64_t soon(uint64_t most)
{
    return sim_now + sim_below(most + 1);
}

static void check_loop_thread(const sim_context *c)
{
    sim_require(!c->closed, "nothing is asked of a loop that was closed");
    sim_require(sim_on_loop() && sim_current() == c->process, "only the loop's thread asks the loop for this");
}

/* ------------------------------------------------------------------------------------------------------- the loop */

static uint64_t loop_now(void *self)
{
    sim_context *c = self;
    sim_process *p = c->process;
    check_loop_thread(c);
    return p->dead ? SIM_NEVER / 4 + (p->dead_clock += SIM_SECOND) : sim_clock_of(p);
}

static int loop_timer(void *self, uint64_t deadline)
{
    sim_context *c = self;
    check_loop_thread(c);
    c->timer = deadline;
    c->lateness = sim_below(sim_weather_now.lateness + 1);
    return 0;
}

static void loop_defer(void *self)
{
    sim_context *c = self;
    check_loop_thread(c);
    uint64_t at = soon(sim_weather_now.latency);
    if (at < c->turn_at)
        c->turn_at = at;
}

/* From any thread: others run before it takes effect. */
static void loop_wake(void *self)
{
    sim_context *c = self;
    sim_process *p = c->process;
    if (p->dead)
        return;
    if (sim_current() == p && !sim_on_loop())
        sim_delay(sim_below(5 * SIM_US));
    sim_require(!c->closed, "a loop that was closed is not woken");
    uint64_t at = soon(sim_weather_now.latency);
    if (at < c->turn_at)
        c->turn_at = at;
    sim_wake_loop(p, at);
}

static void loop_keep_alive(void *self, int on)
{
    sim_context *c = self;
    check_loop_thread(c);
    c->alive = on;
}

static int loop_watch(void *self, aflock_watch *w)
{
    (void)self;
    (void)w;
    return AFLOCK_ENOTSUP;
}

static void loop_unwatch(void *self, aflock_watch *w)
{
    (void)self;
    (void)w;
}

static void loop_close(void *self, int forked)
{
    sim_context *c = self;
    check_loop_thread(c);
    sim_require(!forked && c->executor_closed && c->notifier_closed, "the loop is closed last");
    c->closed = true;
}

/* --------------------------------------------------------------------------------------------------- the executor */

static void start_jobs(sim_context *c);

static void free_job(sim_job *j)
{
    j->next = free_jobs;
    free_jobs = j;
}

static void job_body(sim_fiber *fiber)
{
    sim_job *j = fiber->argument;
    sim_context *c = j->context;
    aflock_job_run(j->job);
    free_job(j);
    c->running--;
    start_jobs(c);
    sim_fiber_ends();
}

static void park_body(sim_fiber *fiber)
{
    sim_job *j = fiber->argument;
    sim_context *c = j->context;
    aflock_job_run(j->job);
    free_job(j);
    c->parked--;
    sim_fiber_ends();
}

static void drop_body(sim_fiber *fiber)
{
    sim_job *j = fiber->argument;
    sim_context *c = j->context;
    aflock_job_drop(j->job);
    free_job(j);
    c->running--;
    start_jobs(c);
    sim_fiber_ends();
}

static sim_job *take_first(sim_context *c)
{
    sim_job *j = c->first;
    c->first = j->next;
    return j;
}

static void start_jobs(sim_context *c)
{
    while (c->first && c->running < c->places) {
        sim_job *j = take_first(c);
        c->running++;
        sim_spawn(c->process, job_body, j, soon(sim_weather_now.latency));
    }
}

static void push(sim_context *c, sim_job *j)
{
    j->next = NULL;
    *(c->first ? &c->last->next : &c->first) = j;
    c->last = j;
}

static int executor_submit(void *self, aflock_job *job, aflock_lane lane)
{
    sim_context *c = self;
    check_loop_thread(c);
    sim_require(!c->executor_closed, "no job is given to an executor that was closed");
    if (c->process->dead || !free_jobs)
        return AFLOCK_EBUSY;
    if (sim_chance(sim_weather_now.refuse)) {
        sim_count.refused++;
        c->refused = true;
        sim_note("refuses", lane, 0, NULL);
        return AFLOCK_EBUSY;
    }
    sim_job *j = free_jobs;
    free_jobs = j->next;
    *j = (sim_job){.job = job, .context = c, .lane = lane};
    if (lane == AFLOCK_LANE_PARK) {
        c->parked++;
        sim_spawn(c->process, park_body, j, soon(sim_weather_now.latency));
        return 0;
    }
    push(c, j);
    start_jobs(c);
    return 0;
}

static void executor_stalled(void *self)
{
    sim_context *c = self;
    check_loop_thread(c);
    if (!c->replaces)
        return;
    c->places++;
    start_jobs(c);
}

/* Queued tries are dropped on a thread; releases still run. */
static void executor_close(void *self, int forked)
{
    sim_context *c = self;
    (void)forked;
    check_loop_thread(c);
    sim_require(!c->executor_closed, "an executor is closed once");
    c->executor_closed = true;
    sim_job *list = c->first;
    c->first = NULL;
    for (sim_job *next; list; list = next) {
        next = list->next;
        if (list->lane == AFLOCK_LANE_RELEASE && !c->process->dead) {
            push(c, list);
        } else if (c->process->dead) {
            aflock_job_drop(list->job);
            free_job(list);
        } else {
            c->running++;
            sim_spawn(c->process, drop_body, list, soon(sim_weather_now.latency));
        }
    }
    start_jobs(c);
}

/* --------------------------------------------------------------------------------------------------- the notifier */

static int notifier_add(void *self, aflock_notify *n)
{
    sim_context *c = self;
    check_loop_thread(c);
    sim_require(!c->notifier_closed, "nothing is asked of a notifier that was closed");
    const sim_file *f = sim_fs_file(&c->process->task, n->fd);
    if (c->process->dead || c->listening_count == SIM_LISTENERS || sim_chance(sim_weather_now.deaf))
        return AFLOCK_ESYS;
    sim_require(f && f->inode, "what is listened to is open");
    for (unsigned i = 0; i < c->listening_count; i++)
        sim_require(c->listening[i].notify != n, "nothing is listened to twice");
    c->listening[c->listening_count].notify = n;
    c->listening[c->listening_count++].inode = f->inode;
    return 0;
}

static void forget_reports(sim_context *c, const aflock_notify *n)
{
    for (unsigned i = 0; i < c->report_count;) {
        if (c->reports[i].notify == n)
            c->reports[i] = c->reports[--c->report_count];
        else
            i++;
    }
}

static void notifier_del(void *self, aflock_notify *n)
{
    sim_context *c = self;
    check_loop_thread(c);
    unsigned i = 0;
    while (i < c->listening_count && c->listening[i].notify != n)
        i++;
    sim_require(i < c->listening_count, "only what is listened to is given up");
    c->listening[i] = c->listening[--c->listening_count];
    forget_reports(c, n);
}

static void notifier_close(void *self, int forked)
{
    sim_context *c = self;
    (void)forked;
    check_loop_thread(c);
    sim_require(!c->notifier_closed && c->listening_count == 0, "a notifier is closed once, and when it is idle");
    c->notifier_closed = true;
}

static void report(sim_context *c, aflock_notify *n, unsigned what)
{
    if (sim_chance(sim_weather_now.lost)) {
        sim_count.lost++;
        return;
    }
    if (c->report_count == SIM_REPORTS)
        return;
    if (sim_chance(sim_weather_now.overflow))
        what = AFLOCK_ON_LOST;
    uint64_t at = soon(sim_weather_now.latency);
    c->reports[c->report_count].notify = n;
    c->reports[c->report_count].what = what;
    c->reports[c->report_count++].at = at;
    sim_wake_loop(c->process, at);
}

void sim_tell_listeners(const sim_view *view, const sim_inode *inode)
{
    for (unsigned i = 0; i < context_count; i++) {
        sim_context *c = &contexts[i];
        if (c->closed || c->process->dead || &c->process->host->view != view)
            continue;
        for (unsigned j = 0; j < c->listening_count; j++) {
            bool concerned = c->listening[j].inode == inode;
            if (!concerned && !sim_chance(sim_weather_now.spurious))
                continue;
            sim_count.spurious += !concerned;
            report(c, c->listening[j].notify, AFLOCK_ON_FILE);
        }
    }
}

/* --------------------------------------------------------------------------------------------------- the contexts */

void sim_contexts_start(void)
{
    context_count = 0;
    free_jobs = NULL;
    for (int i = SIM_JOBS; i-- > 0;)
        free_job(&jobs[i]);
}

sim_context *sim_context_new(sim_process *p, unsigned width, bool notifier, const aflock_ctx_options *options)
{
    sim_require(context_count < SIM_CONTEXTS, "fewer contexts");
    sim_context *c = &contexts[context_count++];
    *c = (sim_context){
        .loop = {.size = sizeof c->loop,
                 .self = c,
                 .name = "simulated",
                 .resolution = sim_chance(500000) ? 1 : SIM_MS,
                 .now = loop_now,
                 .timer = loop_timer,
                 .defer = loop_defer,
                 .wake = loop_wake,
                 .keep_alive = loop_keep_alive,
                 .watch = loop_watch,
                 .unwatch = loop_unwatch,
                 .close = loop_close},
        .executor = {.size = sizeof c->executor,
                     .self = c,
                     .width = width,
                     .submit = executor_submit,
                     .close = executor_close,
                     .stalled = sim_chance(500000) ? executor_stalled : NULL},
        .notifier =
            {.size = sizeof c->notifier, .self = c, .add = notifier_add, .del = notifier_del, .close = notifier_close},
        .process = p,
        .turn_always = sim_chance(500000),
        .replaces = sim_chance(700000),
        .notifier_closed = !notifier,
        .turn_at = SIM_NEVER,
        .timer = AFLOCK_FOREVER,
        .places = width,
    };
    aflock_host host = {sizeof host, &c->loop, &c->executor, notifier ? &c->notifier : NULL};
    int status = aflock_ctx_new(&c->ctx, &host, options);
    if (status) {
        sim_require(status == AFLOCK_ENOMEM, "a context is made: %s", aflock_error_name(status));
        c->closed = true;
        return NULL;
    }
    c->ctx->sys = &sim_sys;
    c->ctx->gate->sys = &sim_sys;
    p->context = c;
    return c;
}

int sim_context_free(sim_context *c, uint64_t grace)
{
    sim_process *p = c->process;
    sim_count.frees++;
    uint64_t began = sim_now, paused = p->pauses;
    p->in_free = true;
    int left = aflock_ctx_free(c->ctx, grace);
    p->in_free = false;
    p->context = NULL;
    /* What it does itself takes its time, too, and more if it may be blocked. */
    uint64_t own = 100 * (sim_weather_now.local + sim_weather_now.lateness + sim_weather_now.latency + SIM_MS);
    if (c->refused) /* what the executor does not take is given back here */
        own += 100 * sim_weather_now.remote;
    bool undisturbed =
        !p->dead && !p->inline_too && p->pauses == paused && p->paused_until <= began && grace < SIM_NEVER - sim_now;
    sim_require(!undisturbed || sim_now - began <= grace + own, "a context is freed in time: %llu ms more than %llu ms",
                (unsigned long long)((sim_now - began - grace) / SIM_MS), (unsigned long long)(grace / SIM_MS));
    sim_require(c->closed, "the loop is closed when its context is freed");
    return left;
}

bool sim_jobs_linger(const sim_process *p)
{
    for (unsigned i = 0; i < context_count; i++)
        if (contexts[i].process == p && contexts[i].closed && (contexts[i].running || contexts[i].first))
            return true;
    return false;
}

bool sim_jobs_are_parked(const sim_process *p)
{
    for (unsigned i = 0; i < context_count; i++)
        if (contexts[i].process == p && contexts[i].closed && contexts[i].parked)
            return true;
    return false;
}
