/* Processes: their fibers, their death, their pauses, and the loop that waits for what comes next. The three tables of
 * a context are in sim_tables.c. */
#include "sim_host.h"
#include "sim_trace.h"
#include "sim_world.h"

#include <string.h>

static sim_process processes[SIM_PROCESSES];
static unsigned process_count;

/* ------------------------------------------------------------------------------------------------ files that linger */

typedef struct closing_file {
    sim_event event;
    sim_file *file;
} closing_file;

static closing_file closing_files[SIM_FILES];

static void close_now(sim_event *event)
{
    closing_file *c = SIM_CONTAINER(closing_file, event, event);
    sim_fs_put(c->file);
    c->file = NULL;
}

void sim_close_later(sim_file *file, uint64_t at)
{
    closing_file *c = closing_files;
    while (c->file)
        c++;
    *c = (closing_file){.file = file, .event.run = close_now};
    sim_schedule(&c->event, at);
}

void sim_close_all(void)
{
    for (closing_file *c = closing_files; c < closing_files + SIM_FILES; c++)
        if (c->file)
            sim_schedule(&c->event, sim_now);
}

/* -------------------------------------------------------------------------------------------------------- fibers */

void sim_hosts_start(void)
{
    process_count = 0;
    sim_fs_changed = sim_tell_listeners;
}

sim_process *sim_process_at(unsigned index)
{
    return index < process_count ? &processes[index] : NULL;
}

sim_fiber *sim_spawn(sim_process *p, void (*body)(sim_fiber *), void *argument, uint64_t at)
{
    sim_fiber *f = sim_fiber_new(body, p, argument, &p->paused_until);
    f->next = p->fibers;
    if (f->next)
        f->next->prev = f;
    p->fibers = f;
    sim_wake(f, at);
    return f;
}

void sim_fiber_ends(void)
{
    sim_fiber *f = sim_running;
    sim_process *p = sim_current();
    *(f->prev ? &f->prev->next : &p->fibers) = f->next;
    if (f->next)
        f->next->prev = f->prev;
}

bool sim_delay(uint64_t duration)
{
    const sim_process *p = sim_current();
    uint64_t until = sim_now + duration;
    if (duration == 0)
        return !p->dead;
    do
        sim_sleep_until(until);
    while (sim_now < until && !p->dead);
    return !p->dead;
}

/* -------------------------------------------------------------------------------------------------------- their end */

/* Resumes every fiber of a dead process until it has ended; the jobs first, because the loop may wait for them. */
static void reap(sim_event *event)
{
    sim_process *p = SIM_CONTAINER(sim_process, reaper, event);
    for (sim_fiber *f; (f = p->fibers) != NULL;) {
        if (f == p->main && f->next)
            f = f->next;
        sim_resume(f);
    }
}

void sim_kill(sim_process *p)
{
    if (p->dead || p->finished)
        return;
    sim_note("dies", p->pid, 0, NULL);
    p->dead = true;
    p->paused_until = 0;
    sim_count.crashes++;
    if (p->died)
        p->died(p);
    for (int fd = 0; fd < SIM_DESCRIPTORS; fd++) {
        sim_file *f = sim_fs_detach(&p->task, fd);
        if (!f)
            continue;
        /* The server hears of it later than the kernel, sometimes much. */
        bool remote = f->inode && f->inode->volume->remote;
        uint64_t delay = sim_chance(500000) ? 0 : sim_magnitude(SIM_US, remote ? 10 * SIM_SECOND : SIM_MS);
        sim_close_later(f, sim_now + (sim_the_world.calm ? 0 : delay));
    }
    p->reaper.run = reap;
    sim_schedule(&p->reaper, sim_now);
    if (sim_running && sim_current() == p)
        sim_sleep_until(SIM_NEVER); /* the reaper resumes it */
}

static void main_body(sim_fiber *fiber)
{
    sim_process *p = fiber->owner;
    p->live(p);
    p->main = NULL;
    sim_require(!p->context, "a process frees its context before it ends");
    if (!p->dead) { /* threads that hang in a call do not keep a process from ending */
        p->dead = p->finished = true;
        for (int fd = 0; fd < SIM_DESCRIPTORS; fd++)
            sim_fs_close(&p->task, fd);
        p->reaper.run = reap;
        sim_schedule(&p->reaper, sim_now);
    }
    p->finished = true;
    sim_the_world.living--;
    sim_fiber_ends();
}

sim_process *sim_process_new(sim_host *host, void (*live)(sim_process *), void *role, uint64_t at)
{
    sim_require(process_count < SIM_PROCESSES, "fewer processes");
    sim_process *p = &processes[process_count++];
    *p = (sim_process){.pid = process_count, .host = host, .live = live, .role = role, .act_at = SIM_NEVER};
    sim_fs_task(&p->task, &host->view, (int)p->pid);
    sim_the_world.living++;
    p->main = sim_spawn(p, main_body, NULL, at);
    return p;
}

/* ------------------------------------------------------------------------------------------------------ the loop */

void sim_pause(sim_process *p, uint64_t until)
{
    if (p->dead || until <= p->paused_until)
        return;
    p->paused_until = until;
    p->pauses++;
}

uint64_t sim_clock_of(const sim_process *p)
{
    return sim_now + p->host->clock;
}

void sim_wake_loop(sim_process *p, uint64_t at)
{
    if (p->idle && !p->dead)
        sim_wake(p->main, at);
}

uint64_t sim_timer_at(const sim_context *c)
{
    if (c->timer == AFLOCK_FOREVER)
        return SIM_NEVER;
    uint64_t clock = c->process->host->clock;
    return c->timer > clock ? c->timer - clock : 0;
}

static uint64_t timer_due(const sim_context *c)
{
    uint64_t at = sim_timer_at(c);
    return at == SIM_NEVER ? at : at + c->lateness;
}

static uint64_t first_report(const sim_context *c)
{
    uint64_t at = SIM_NEVER;
    for (unsigned i = 0; i < c->report_count; i++)
        if (c->reports[i].at < at)
            at = c->reports[i].at;
    return at;
}

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static uint64_t next_due(const sim_process *p)
{
    uint64_t at = p->act_at;
    const sim_context *c = p->context;
    return c ? least(least(at, c->turn_at), least(timer_due(c), first_report(c))) : at;
}

static void run_timer(sim_process *p)
{
    sim_context *c = p->context;
    if (!c || timer_due(c) > sim_now)
        return;
    c->timer = AFLOCK_FOREVER;
    aflock_host_timer(c->ctx);
}

static void run_reports(sim_process *p)
{
    sim_context *c = p->context;
    for (unsigned i = 0; c && i < c->report_count;) {
        if (c->reports[i].at > sim_now) {
            i++;
            continue;
        }
        aflock_notify *n = c->reports[i].notify;
        unsigned what = c->reports[i].what;
        c->reports[i] = c->reports[--c->report_count];
        aflock_host_changed(c->ctx, n, what, NULL);
        i = 0; /* the list may have changed */
    }
}

static void run_act(sim_process *p)
{
    if (p->act_at > sim_now)
        return;
    p->act_at = SIM_NEVER;
    p->act(p);
}

static void run_turn(sim_process *p)
{
    sim_context *c = p->context;
    if (!c || (c->turn_at > sim_now && !c->turn_always && !sim_chance(10000)))
        return;
    c->turn_at = SIM_NEVER;
    uint64_t clock = sim_clock_of(p);
    p->in_turn = true;
    p->callbacks = 0;
    aflock_host_turn(c->ctx);
    p->in_turn = false;
    if (p->after_turn && !p->dead)
        p->after_turn(p, clock);
}

void sim_loop_once(sim_process *p)
{
    static void (*const WAYS[])(sim_process *) = {run_timer, run_reports, run_act};
    enum { COUNT = sizeof WAYS / sizeof WAYS[0] };
    for (uint64_t at; (at = next_due(p)) > sim_now && !p->dead;) {
        p->idle = true;
        sim_sleep_until(at);
        p->idle = false;
    }
    uint64_t first = sim_below(COUNT);
    for (uint64_t i = 0; i < COUNT && !p->dead; i++)
        WAYS[(first + i) % COUNT](p);
    if (!p->dead)
        run_turn(p);
}
