/* What exists in a world, and what happens to it as a whole. */
#include "sim_world.h"
#include "sim_actor.h"
#include "sim_trace.h"

#include <fcntl.h>
#include <string.h>

enum { ACTORS = 5, FOREIGN = 4, FUSE = 4000000 };

sim_world sim_the_world;
sim_weather sim_weather_now;
sim_counters sim_count;

static sim_actor actors[ACTORS];
static sim_process *foreign[FOREIGN];
static unsigned actor_count;
static sim_volume *server;
static struct {
    sim_event event;
    unsigned actor;
} restarts[ACTORS];
static sim_event mishap_event, calm_event, quiet_event, end_event;
static uint64_t mishap_gap;

/* ------------------------------------------------------------------------------------------------------ the weather */

static unsigned sometimes(unsigned most)
{
    return sim_chance(500000) ? 0 : (unsigned)sim_magnitude(most / 64, most);
}

static void calm_weather(void)
{
    sim_weather_now =
        (sim_weather){.local = 20 * SIM_US, .remote = SIM_MS, .lateness = 100 * SIM_US, .latency = 50 * SIM_US};
}

static void draw_weather(void)
{
    if (sim_the_world.fair) {
        calm_weather();
        sim_weather_now.local = sim_magnitude(2 * SIM_US, 5 * SIM_MS);
        sim_weather_now.remote = sim_magnitude(50 * SIM_US, 20 * SIM_MS);
        return;
    }
    sim_weather_now = (sim_weather){
        .error = sometimes(150000),
        .stall = sometimes(50000),
        .crash = sometimes(3000),
        .memory = sim_chance(700000) ? 0 : sometimes(200000),
        .cold = sometimes(800000),
        .refuse = sometimes(300000),
        .deaf = sometimes(300000),
        .lost = sometimes(500000),
        .spurious = sometimes(500000),
        .overflow = sometimes(100000),
        .stall_most = sim_magnitude(200 * SIM_MS, 60 * SIM_SECOND),
        .local = sim_magnitude(2 * SIM_US, 20 * SIM_MS),
        .remote = sim_magnitude(50 * SIM_US, 100 * SIM_MS),
        .lateness = sim_magnitude(SIM_US, 100 * SIM_MS),
        .latency = sim_magnitude(SIM_US, 20 * SIM_MS),
    };
}

/* ------------------------------------------------------------------------------------------------------- the files */

/* Kinds of targets: the paths, which flags they need, whether each kind of lock can be exclusive on them. */
static const struct {
    const char *spellings[SIM_SPELLINGS];
    uint32_t flags;
    bool remote;
    bool native_only;
} TARGETS[] = {
    {{"/data/a.lock", "/link/a.lock", "a.lock", "/data/../data/./a.lock"}, 0, false, false},
    {{"/data/b.lock", "b.lock"}, 0, false, false},
    {{"/data/new/deep/c.lock", "new/deep/c.lock"}, 0, false, false},
    {{"/nfs/n.lock", "/nfs/dir/../n.lock"}, 0, true, false},
    {{"/nfs/new/m.lock", "/nfs/new/m.lock"}, 0, true, false},
    {{"/user/u.lock"}, 0, false, false},
    {{"/data/sym"}, AFLOCK_FOLLOW, false, false},
    {{"/data/dir"}, AFLOCK_DIRECTORY | AFLOCK_READ_ONLY, false, true},
    {{"/data/hard"}, AFLOCK_FOLLOW, false, false}, /* another name of the file that "sym" leads to */
};

static void make_host(sim_host *h)
{
    sim_task task;
    sim_fs_mount(&h->view, "/", sim_fs_volume("ext4", false));
    sim_fs_task(&task, &h->view, 0);
    static const char *const FOLDERS[] = {"/data", "/data/dir", "/nfs", "/user"};
    for (size_t i = 0; i < sizeof FOLDERS / sizeof FOLDERS[0]; i++)
        sim_fs_mkdir(&task, FOLDERS[i], 0755);
    sim_fs_symlink(&task, "/data", "/link");
    sim_fs_symlink(&task, "real", "/data/sym");
    int fd = sim_fs_open(&task, "/data/real", O_CREAT | O_RDWR, 0644);
    sim_fs_close(&task, fd);
    sim_fs_link(&task, "/data/real", "/data/hard");
    sim_fs_mount(&h->view, "/nfs", server);
    sim_fs_mount(&h->view, "/user", sim_fs_volume("fuse.user", false));
    sim_fs_mkdir(&task, "/nfs/dir", 0755);
    h->view.cache_time = sim_chance(500000) ? 0 : sim_magnitude(SIM_MS, 2 * SIM_SECOND);
    h->clock = sim_between(SIM_SECOND, 1000000 * SIM_SECOND);
}

static void draw_target(sim_target *t)
{
    size_t kind = sim_below(sizeof TARGETS / sizeof TARGETS[0]);
    *t = (sim_target){.flags = TARGETS[kind].flags, .remote = TARGETS[kind].remote};
    for (; t->spelling_count < SIM_SPELLINGS && TARGETS[kind].spellings[t->spelling_count]; t->spelling_count++)
        t->spellings[t->spelling_count] = TARGETS[kind].spellings[t->spelling_count];
    t->protocol = &sim_protocols[TARGETS[kind].native_only ? 0 : sim_below(sim_protocol_count)];
}

static bool is_known(const sim_target *t)
{
    for (const sim_target *other = sim_the_world.targets; other < t; other++)
        if (other->spellings[0] == t->spellings[0])
            return true;
    return false;
}

static void make_files(void)
{
    sim_world *w = &sim_the_world;
    server = sim_fs_volume("nfs4", true);
    w->host_count = sim_chance(500000) ? 1 : (unsigned)sim_between(2, 3);
    for (unsigned i = 0; i < w->host_count; i++)
        make_host(&w->hosts[i]);
    unsigned wanted = sim_chance(500000) ? 1 : (unsigned)sim_between(2, 4);
    const sim_protocol *one = NULL; /* where one file has several names, they speak the same */
    while (w->target_count < wanted) {
        sim_target *t = &w->targets[w->target_count];
        draw_target(t);
        if (is_known(t))
            continue;
        if (t->flags == AFLOCK_FOLLOW) {
            one = one ? one : t->protocol;
            t->protocol = one;
        }
        w->target_count++;
    }
}

/* ------------------------------------------------------------------------------------------------------ the people */

static void start_actor(unsigned i, uint64_t at)
{
    sim_world *w = &sim_the_world;
    sim_actor *a = &actors[i];
    unsigned actions = a->actions, calm_actions = a->calm_actions;
    uint64_t gap = a->gap_most;
    *a = (sim_actor){.actions = actions, .calm_actions = calm_actions, .gap_most = gap};
    a->width = (unsigned)sim_magnitude(1, 8);
    a->notifier = sim_chance(600000);
    for (int l = 0; l < SIM_LOCKS; l++)
        a->locks[l].fd = -1;
    sim_process *p = sim_process_new(&w->hosts[sim_below(w->host_count)], sim_actor_live, a, at);
    a->process = p;
    p->inline_too = sim_chance(300000);
    p->pool_only = !p->inline_too && sim_chance(300000);
    if (sim_chance(50000))
        p->task.lowest = 0; /* without standard streams */
    if (!w->faultless && sim_chance(50000))
        p->task.limit = 12;
}

static void restart(sim_event *event)
{
    unsigned i = (unsigned)((size_t)((char *)event - (char *)restarts) / sizeof restarts[0]);
    const sim_process *p = actors[i].process;
    if (sim_the_world.quiet || !p->finished)
        return;
    sim_count.restarts++;
    start_actor(i, sim_now);
}

static void make_people(uint64_t chaos)
{
    sim_world *w = &sim_the_world;
    actor_count = (unsigned)sim_between(sim_chance(100000) ? 1 : 2, ACTORS);
    for (unsigned i = 0; i < actor_count; i++) {
        actors[i] = (sim_actor){.actions = (unsigned)sim_between(10, 100),
                                .calm_actions = (unsigned)sim_between(2, 10),
                                .gap_most = sim_magnitude(100 * SIM_US, chaos / 2)};
        start_actor(i, sim_below(chaos / 8));
        restarts[i].event = (sim_event){.run = restart};
    }
    unsigned count = sim_chance(400000) ? 0 : (unsigned)sim_between(1, FOREIGN);
    for (unsigned i = 0; i < FOREIGN; i++) {
        foreign[i] = NULL;
        if (i >= count)
            continue;
        sim_host *h = &w->hosts[sim_below(w->host_count)];
        sim_target *t = &w->targets[sim_below(w->target_count)];
        foreign[i] = sim_foreign_start(h, t, sim_below(chaos)); /* compilers differ in the order of arguments */
    }
}

/* ------------------------------------------------------------------------------------------------------- mishaps */

static sim_process *someone(void)
{
    uint64_t i = sim_below(actor_count + FOREIGN);
    return i < actor_count ? actors[i].process : foreign[i - actor_count];
}

/* SIGKILL. */
static void kill_one(void)
{
    sim_process *p = someone();
    if (p && !p->dead)
        sim_kill(p);
}

/* Everybody on it dies; the server hears of it later. */
static void crash_host(void)
{
    const sim_host *h = &sim_the_world.hosts[sim_below(sim_the_world.host_count)];
    sim_process *p;
    for (unsigned i = 0; (p = sim_process_at(i)) != NULL; i++)
        if (p->host == h && !p->dead)
            sim_kill(p);
}

/* SIGSTOP, then SIGCONT. */
static void pause_one(void)
{
    sim_process *p = someone();
    if (!p)
        return;
    sim_count.pauses++;
    sim_pause(p, sim_now + sim_magnitude(SIM_MS, 20 * SIM_SECOND));
}

/* Everybody sleeps; the clock goes on meanwhile, or it does not. */
static void suspend_host(void)
{
    sim_host *h = &sim_the_world.hosts[sim_below(sim_the_world.host_count)];
    uint64_t duration = sim_magnitude(10 * SIM_MS, 60 * SIM_SECOND);
    sim_count.pauses++;
    sim_note("suspend", (int64_t)(duration / SIM_MS), 0, NULL);
    sim_process *p;
    for (unsigned i = 0; (p = sim_process_at(i)) != NULL; i++)
        if (p->host == h)
            sim_pause(p, sim_now + duration);
}

static void jump_clock(void)
{
    sim_host *h = &sim_the_world.hosts[sim_below(sim_the_world.host_count)];
    uint64_t jump = sim_magnitude(SIM_MS, 3600 * SIM_SECOND);
    sim_count.jumps++;
    sim_note("clock jumps", (int64_t)(jump / SIM_MS), 0, NULL);
    h->clock += jump;
    sim_process *p;
    for (unsigned i = 0; (p = sim_process_at(i)) != NULL; i++)
        sim_wake_loop(p, sim_now); /* its timer may be due */
}

static void cut_server(void)
{
    sim_count.outages++;
    server->unreachable_until = sim_now + sim_magnitude(10 * SIM_MS, 60 * SIM_SECOND);
    sim_note("outage", (int64_t)((server->unreachable_until - sim_now) / SIM_MS), 0, NULL);
}

static void mishap(sim_event *event)
{
    static void (*const KINDS[])(void) = {kill_one,     kill_one,   pause_one,  pause_one,
                                          suspend_host, jump_clock, cut_server, crash_host};
    sim_schedule(event, sim_now + sim_magnitude(SIM_US, mishap_gap));
    KINDS[sim_below(sizeof KINDS / sizeof KINDS[0])]();
}

/* Whoever died comes back some time later. */
static void restart_the_dead(void)
{
    for (unsigned i = 0; i < actor_count; i++)
        if (actors[i].process->finished && !restarts[i].event.slot && !sim_the_world.quiet)
            sim_schedule(&restarts[i].event, sim_now + sim_magnitude(SIM_MS, 2 * SIM_SECOND));
}

/* ------------------------------------------------------------------------------------------------------- the phases */

static void wake_all_fibers(void)
{
    sim_process *p;
    for (unsigned i = 0; (p = sim_process_at(i)) != NULL; i++) {
        p->paused_until = 0;
        for (sim_fiber *f = p->fibers; f; f = f->next)
            if (f->wake.slot) /* whoever sleeps for a good reason goes to sleep again */
                sim_wake(f, sim_now + sim_below(SIM_MS));
    }
}

/* Its plans change now. */
static void let_act(sim_process *p)
{
    p->act_at = sim_now;
    sim_wake_loop(p, sim_now);
}

/* Nothing goes wrong any more: servers answer, calls that hang return, the locks of the dead are given up. */
static void begin_calm(sim_event *event)
{
    sim_world *w = &sim_the_world;
    (void)event;
    sim_note("calm", 0, 0, NULL);
    calm_weather();
    w->calm = true;
    w->calm_at = sim_now;
    server->unreachable_until = 0;
    sim_unschedule(&mishap_event);
    sim_close_all();
    wake_all_fibers();
    for (unsigned i = 0; i < actor_count; i++) {
        actors[i].process->task.limit = SIM_DESCRIPTORS;
        actors[i].gap_most = sim_magnitude(SIM_MS, SIM_SECOND);
        let_act(actors[i].process);
    }
    sim_schedule(&quiet_event, sim_now + w->settling + sim_below(SIM_SECOND));
}

/* How long those who wait now may have to wait, when nobody asks any more: whoever is next is served when the one
 * before has held the lock for as long as anybody does, and has let it go, and the next attempt is due. */
static uint64_t bound_of_waiting(void)
{
    const sim_world *w = &sim_the_world;
    uint64_t open = 1;
    for (unsigned i = 0; i < actor_count; i++)
        open += sim_requests_open(&actors[i]);
    return open * (w->hold_most + w->poll_most + 20 * SIM_MS) + SIM_SECOND;
}

static void begin_quiet(sim_event *event)
{
    (void)event;
    sim_note("quiet", 0, 0, NULL);
    sim_the_world.quiet = true;
    sim_schedule(&end_event, sim_now + bound_of_waiting());
    for (unsigned i = 0; i < actor_count; i++)
        let_act(actors[i].process);
}

static void too_late(sim_event *event)
{
    (void)event;
    sim_fs_note_locks();
    for (unsigned i = 0; i < actor_count; i++)
        for (int r = 0; r < SIM_REQUESTS; r++)
            sim_require(actors[i].requests[r].state == SIM_UNUSED,
                        "nobody waits for ever: request %llu of process %u, in state %d",
                        (unsigned long long)actors[i].requests[r].order, actors[i].process->pid,
                        (int)actors[i].requests[r].state);
}

static void make_world(uint64_t seed)
{
    sim_world *w = &sim_the_world;
    sim_random_start(seed);
    sim_trace_start(seed);
    sim_clock_start();
    sim_fs_start();
    sim_hosts_start();
    sim_contexts_start();
    sim_oracle_start();
    memset(w, 0, sizeof *w);
    w->fair = sim_chance(200000);
    draw_weather();
    w->faultless = !sim_weather_now.error && !sim_weather_now.memory && !sim_weather_now.refuse;
    w->settling = 3 * SIM_SECOND;
    uint64_t chaos = sim_magnitude(50 * SIM_MS, 30 * SIM_SECOND);
    w->hold_most = sim_magnitude(100 * SIM_US, chaos / 10);
    w->poll_most = sim_magnitude(chaos / 200 > SIM_MS ? chaos / 200 : SIM_MS, 300 * SIM_MS);
    make_files();
    make_people(chaos);
    calm_event.run = begin_calm;
    quiet_event.run = begin_quiet;
    end_event.run = too_late;
    mishap_event.run = mishap;
    sim_schedule(&calm_event, chaos);
    mishap_gap = chaos;
    if (!w->fair && sim_chance(600000))
        sim_schedule(&mishap_event, sim_below(chaos));
}

/* Everybody is gone: nothing may be left. */
static void check_the_end(void)
{
    sim_unschedule(&end_event);
    for (unsigned i = 0; i < actor_count; i++)
        sim_unschedule(&restarts[i].event);
    while (sim_step())
        ;
    sim_require(sim_fiber_count() == 0, "no job is left: %zu", sim_fiber_count());
    sim_require(sim_holds() == 0, "no hold is left");
    sim_require(sim_fs_locks() == 0 && sim_fs_files() == 0, "no lock (%u) and no open file (%u) is left",
                sim_fs_locks(), sim_fs_files());
    sim_require(sim_heap_blocks() == 0, "no block of memory is left: %ld", sim_heap_blocks());
}

uint64_t sim_run(uint64_t seed)
{
    make_world(seed);
    unsigned events = 0;
    while (sim_the_world.living > 0 || !sim_the_world.quiet) {
        sim_require(sim_step(), "something happens");
        sim_require(++events < FUSE, "a world comes to an end");
        restart_the_dead();
    }
    check_the_end();
    sim_count.seeds++;
    sim_count.switches += events;
    sim_count.virtual_time += sim_now;
    return sim_digest();
}
