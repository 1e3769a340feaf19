/* Programs without the library that lock the same files: some follow the rules, some do not. Their system calls take
 * time, and never fail. */
#include "sim_actor.h"
#include "sim_trace.h"

#include <fcntl.h>

enum { ROUNDS = 12, FOREIGNERS = 8 };

typedef struct foreigner {
    sim_process *process;
    sim_target *target;
    const struct manner *manner;
    sim_hold hold;
    int fd;
    aflock_mode mode;
} foreigner;

static bool step(const foreigner *f)
{
    (void)f;
    return sim_delay(sim_magnitude(SIM_US, sim_weather_now.local));
}

/* Does the path name the file that is open? */
static bool is_named(const foreigner *f)
{
    sim_task *task = &f->process->task;
    return sim_fs_named(task, f->target->spellings[0]) == sim_fs_file(task, f->fd)->inode;
}

static void note(const foreigner *f, const char *what)
{
    sim_note(what, f->fd, f->mode, f->target->spellings[0]);
}

/* ------------------------------------------------------------------------------------------- what they do at the end
 */

static void unlock_and_close(foreigner *f)
{
    f->target->protocol->unlock(&f->process->task, f->fd);
    if (step(f))
        sim_fs_close(&f->process->task, f->fd);
}

static void just_close(foreigner *f)
{
    sim_fs_close(&f->process->task, f->fd);
}

/* As some libraries do it, while they hold the lock: who got it on the old file looks whether the path names it. */
static void unlink_and_close(foreigner *f)
{
    if (f->mode == AFLOCK_EXCLUSIVE && is_named(f)) {
        sim_fs_unlink(&f->process->task, f->target->spellings[0]);
        f->target->replaced |= f->target->remote;
        sim_count.replaced++;
        note(f, "unlinks");
    }
    sim_fs_close(&f->process->task, f->fd);
}

/* ------------------------------------------------------------------------------------- what they do without the lock
 */

static void nothing(foreigner *f)
{
    (void)f;
}

static void unlink_it(foreigner *f)
{
    f->target->replaced = true;
    sim_count.replaced++;
    note(f, "unlinks rudely");
    sim_fs_unlink(&f->process->task, f->target->spellings[0]);
}

static void replace_it(foreigner *f)
{
    sim_task *task = &f->process->task;
    const char *other = f->target->remote ? "/nfs/other" : "/data/other";
    int fd = sim_fs_open(task, other, O_CREAT | O_RDWR, 0644);
    if (fd < 0)
        return;
    sim_fs_close(task, fd);
    f->target->replaced = true;
    sim_count.replaced++;
    note(f, "replaces rudely");
    sim_fs_rename(task, other, f->target->spellings[0]);
}

static void move_it(foreigner *f)
{
    f->target->replaced = true;
    sim_count.replaced++;
    note(f, "moves rudely");
    sim_fs_rename(&f->process->task, f->target->spellings[0], f->target->remote ? "/nfs/moved" : "/data/moved");
}

typedef struct manner {
    const char *name;
    bool looks;                  /* whether the path names the file, once it is locked */
    bool replaces;               /* gives the path to other files */
    void (*leave)(foreigner *f); /* with the lock */
    void (*before)(foreigner *f);
} manner;

static const manner MANNERS[] = {
    {"flock", true, false, unlock_and_close, nothing}, {"close", true, false, just_close, nothing},
    {"blind", false, false, just_close, nothing},      {"tidy", true, true, unlink_and_close, nothing},
    {"unlink", false, true, just_close, unlink_it},    {"replace", false, true, just_close, replace_it},
    {"move", false, true, unlock_and_close, move_it},
};

/* -------------------------------------------------------------------------------------------------------- their life
 */

/* Tries until it has the lock. False: not today. */
static bool get_lock(foreigner *f)
{
    sim_task *task = &f->process->task;
    for (int i = 0; i < ROUNDS * 20; i++) {
        int flags = f->target->flags & AFLOCK_DIRECTORY ? O_RDONLY : O_RDWR | O_CREAT;
        f->fd = sim_fs_open(task, f->target->spellings[0], flags, 0644);
        if (f->fd < 0 || !step(f))
            return false;
        bool won = f->target->protocol->lock(task, f->fd, f->mode) == 0;
        if (won && (!f->manner->looks || is_named(f)))
            return true;
        sim_fs_close(task, f->fd);
        if (!sim_delay(sim_magnitude(10 * SIM_US, 5 * SIM_MS)) || sim_the_world.quiet)
            return false;
    }
    return false;
}

static void hold_and_leave(foreigner *f)
{
    sim_process *p = f->process;
    f->hold = (sim_hold){.process = p,
                         .target = f->manner->looks ? f->target : NULL,
                         .host = f->target->remote ? NULL : p->host,
                         .inode = sim_fs_file(&p->task, f->fd)->inode,
                         .mode = f->mode};
    note(f, f->manner->name);
    sim_hold_begins(&f->hold);
    bool lives = sim_delay(sim_magnitude(SIM_US, sim_the_world.hold_most));
    sim_hold_ends(&f->hold);
    if (!lives)
        return;
    note(f, "leaves");
    f->manner->leave(f);
}

static void died(sim_process *p)
{
    foreigner *f = p->role;
    sim_hold_ends(&f->hold);
}

static void live(sim_process *p)
{
    foreigner *f = p->role;
    p->died = died;
    for (int i = 0; i < ROUNDS && !sim_the_world.calm; i++) {
        bool shared = f->target->flags & AFLOCK_DIRECTORY || (f->target->protocol->shared && sim_chance(300000));
        f->mode = shared ? AFLOCK_SHARED : AFLOCK_EXCLUSIVE;
        if (!sim_delay(sim_magnitude(SIM_US, 50 * SIM_MS)))
            return;
        if (!sim_the_world.calm && sim_chance(300000))
            f->manner->before(f);
        if (get_lock(f))
            hold_and_leave(f);
        if (p->dead)
            return;
    }
}

sim_process *sim_foreign_start(sim_host *host, sim_target *target, uint64_t at)
{
    static foreigner foreigners[FOREIGNERS];
    static unsigned used;
    foreigner *f = &foreigners[used++ % FOREIGNERS]; /* as many as a world has at most */
    const manner *m = &MANNERS[sim_below(sizeof MANNERS / sizeof MANNERS[0])];
    if (m->replaces && target->flags)
        m = &MANNERS[0];
    *f = (foreigner){.target = target, .manner = m};
    f->process = sim_process_new(host, live, f, at);
    return f->process;
}
