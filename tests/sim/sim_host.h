/* Simulated hosts and processes: each process has a loop, an executor and a notifier of its own for its context, and
 * the kernel's part of a process. Its loop and each of its jobs is a fiber, so that between any two system calls
 * everything else can happen, its own death included.
 *
 * The memory of a process that died has to come back: its fibers run on to their ends, but every call of them fails at
 * once and has no effect ("dead"), and its context is freed in the same way.
 */
#ifndef SIM_HOST_H
#define SIM_HOST_H

#include "sim_clock.h"
#include "sim_fs.h"

#include <aflock/host.h>

enum { SIM_JOBS = 512, SIM_LISTENERS = 16, SIM_REPORTS = 32, SIM_PROCESSES = 96, SIM_CONTEXTS = 128, SIM_HOSTS = 4 };

typedef struct sim_host {
    sim_view view;
    uint64_t clock; /* its monotonic clock shows sim_now + clock */
} sim_host;

typedef struct sim_process sim_process;
typedef struct sim_context sim_context;

/* A job that was given to an executor. */
typedef struct sim_job {
    aflock_job *job;
    sim_context *context;
    aflock_lane lane;
    struct sim_job *next;
} sim_job;

/* The tables of one aflock context. */
struct sim_context {
    aflock_loop loop;
    aflock_executor executor;
    aflock_notifier notifier;
    aflock_ctx *ctx;
    sim_process *process;
    bool turn_always; /* the host gives a turn after each dispatch, due or not */
    bool replaces;    /* the executor replaces stalled threads */
    bool closed, executor_closed, notifier_closed;
    bool alive;
    bool refused; /* the executor did not take a job */

    uint64_t turn_at; /* virtual time */
    uint64_t timer;   /* on the host's clock */
    uint64_t lateness;

    sim_job *first, *last; /* queued */
    unsigned running, places, parked;

    struct {
        aflock_notify *notify;
        const sim_inode *inode;
    } listening[SIM_LISTENERS];
    unsigned listening_count;
    struct {
        aflock_notify *notify;
        unsigned what;
        uint64_t at;
    } reports[SIM_REPORTS];
    unsigned report_count;
};

struct sim_process {
    unsigned pid;
    sim_host *host;
    sim_task task;
    sim_context *context;               /* NULL: none now */
    void (*act)(sim_process *process);  /* what the program does by itself, at act_at */
    void (*live)(sim_process *process); /* the body of its loop's fiber */
    void (*died)(sim_process *process);
    void *role;                                               /* of the actor, or of the foreign holder */
    void (*after_turn)(sim_process *process, uint64_t clock); /* clock: when the turn began */
    uint64_t act_at;
    uint64_t paused_until, pauses;
    sim_fiber *main;
    sim_fiber *fibers; /* all of them */
    sim_event reaper;
    uint32_t *word;  /* main sleeps until it changes, while a context is freed */
    bool idle;       /* main sleeps, waiting for something to do */
    bool inline_too; /* some of its locks are AFLOCK_IO_INLINE: its loop may be blocked */
    bool pool_only;  /* all of them are AFLOCK_IO_POOL */
    bool dead, finished;
    uint64_t dead_clock; /* runs fast, so that nothing waits in a dead process */
    bool in_turn, in_free;
    unsigned in_call;
    unsigned callbacks; /* in this turn */
};

/* Whose fiber runs; NULL: nobody's. */
static inline sim_process *sim_current(void)
{
    return sim_running ? sim_running->owner : NULL;
}

static inline bool sim_on_loop(void)
{
    return sim_running && sim_current()->main == sim_running;
}

/* ---------------------------------------------------------------------------------------------------- processes */

void sim_hosts_start(void);
void sim_contexts_start(void);
sim_process *sim_process_new(sim_host *host, void (*live)(sim_process *), void *role, uint64_t at);
sim_process *sim_process_at(unsigned index); /* NULL: no more */
sim_fiber *sim_spawn(sim_process *process, void (*body)(sim_fiber *), void *argument, uint64_t at);
void sim_fiber_ends(void);           /* what each spawned body says at last */
void sim_kill(sim_process *process); /* its locks go, now or a little later */
void sim_wake_loop(sim_process *process, uint64_t at);
void sim_pause(sim_process *process, uint64_t until);
uint64_t sim_clock_of(const sim_process *process); /* that of its host */

/* Sleeps in a call. False: the process died meanwhile. */
bool sim_delay(uint64_t duration);

/* A file that was open in a process that is gone: it is closed at `at`. */
void sim_close_later(sim_file *file, uint64_t at);
void sim_close_all(void); /* such files, now */

/* ----------------------------------------------------------------------------------------------------- contexts */

/* A context with tables of its own that uses the simulated system. NULL: out of memory. */
sim_context *sim_context_new(sim_process *process, unsigned width, bool notifier, const aflock_ctx_options *options);

/* Frees it. What aflock_ctx_free returned. */
int sim_context_free(sim_context *context, uint64_t grace);

/* Are jobs of a context under way that was freed? */
bool sim_jobs_linger(const sim_process *process);
bool sim_jobs_are_parked(const sim_process *process); /* never with a descriptor of the program's */

/* Waits for what comes next, and dispatches it. */
void sim_loop_once(sim_process *process);

/* The loop's timer, if it was not late, in virtual time. */
uint64_t sim_timer_at(const sim_context *context);

/* Something happened to the file: whoever of the view's host listens may hear of it. */
void sim_tell_listeners(const sim_view *view, const sim_inode *inode);

extern const afl_sys sim_sys; /* sim_sys.c */
long sim_heap_blocks(void);   /* sim_heap.c: allocated and not freed */

#endif
