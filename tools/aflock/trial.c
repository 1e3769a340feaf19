/* The processes are children of aflock that share a board with it: when who held the lock, by the one clock of the
 * machine. An interval begins after the grant and ends before the release, so intervals that overlap are locks that
 * did. Whoever looks at them trusts nothing that the library says about itself.
 *
 * A trial lasts until each process has had the lock some times, so that a loaded machine does not make it say nothing.
 */
#include "trial.h"

#include "progress.h"

#include <aflock/epoll.h>
#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { PROCESSES = 4, INTERVALS = 1 << 15, ENOUGH = 3 };
#define PATIENCE (20 * AFLOCK_SECOND) /* beyond the duration: who has not had the lock by then hangs */
#define LONGEST_HOLD AFLOCK_MILLISECOND
#define LOOK_INTERVAL 20 /* ms */

typedef struct interval {
    uint64_t begin, end;
    aflock_mode mode;
} interval;

typedef struct process {
    atomic_uint count; /* intervals that are complete */
    interval intervals[INTERVALS];
    int status, sys_errno; /* why it gave up, or 0 */
    char step[32];
    int wait;
    char why_wait[96];
    pid_t pid; /* 0: it has ended */
} process;

typedef struct board {
    atomic_uint ready;
    atomic_int ends;
    process processes[PROCESSES];
} board;

/* Of a process that gave up; one whose request was cancelled at the end did not. */
static int has_problem(const process *p)
{
    return p->status != 0 && p->status != AFLOCK_ECANCELED;
}

/* ----------------------------------------------------------------------------------------------------- in a process */

typedef struct asker {
    const trial *trial;
    board *board;
    process *process;
    aflock_ctx *ctx;
    aflock *lock;
    uint64_t dice;
    int answered;
    aflock_req req;
} asker;

static uint64_t throw(asker * a, uint64_t below)
{
    a->dice = a->dice * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (a->dice >> 33) % below;
}

static void rest(uint64_t ns)
{
    const struct timespec t = {.tv_nsec = (long)ns};

    nanosleep(&t, NULL);
}

static void on_answer(aflock *lock, const aflock_result *result, void *user)
{
    asker *a = user;

    (void)lock;
    a->answered = 1;
    a->req = result->req;
    a->process->status = result->status;
    a->process->sys_errno = result->sys_errno;
    snprintf(a->process->step, sizeof a->process->step, "%s", result->step ? result->step : "");
}

/* Until it is answered. When the trial ends the request is cancelled. */
static int await(asker *a, int status)
{
    int cancelled = 0;

    a->process->status = status;
    while (status == 0 && !a->answered) {
        status = aflock_epoll_run_once(a->ctx, LOOK_INTERVAL * AFLOCK_MILLISECOND);
        if (!cancelled && !a->answered && atomic_load(&a->board->ends))
            cancelled = aflock_cancel(a->lock, a->req) == 0;
    }
    if (status != 0)
        a->process->status = status;
    return a->process->status == 0;
}

static int acquire(asker *a, aflock_mode mode)
{
    aflock_acquire_options o;

    if (a->trial->kind == TRIAL_UNLOCKED)
        return 1;
    aflock_acquire_options_init(&o);
    o.mode = mode;
    a->answered = 0;
    return await(a, aflock_acquire(a->lock, &o, on_answer, a, &a->req));
}

static int release(asker *a)
{
    if (a->trial->kind == TRIAL_UNLOCKED)
        return 1;
    a->answered = 0;
    return await(a, aflock_release(a->lock, a->req, on_answer, a));
}

static int hold_once(asker *a)
{
    const unsigned count = atomic_load(&a->process->count);
    interval *i = &a->process->intervals[count];

    i->mode = a->trial->kind == TRIAL_SHARED && throw(a, 2) ? AFLOCK_SHARED : AFLOCK_EXCLUSIVE;
    if (!acquire(a, i->mode))
        return 0;
    i->begin = monotonic_now();
    rest(1 + throw(a, LONGEST_HOLD));
    i->end = monotonic_now();
    atomic_store(&a->process->count, count + 1);
    return release(a);
}

static void open_lock(asker *a, const char *path)
{
    aflock_options o;

    aflock_options_init(&o);
    o.protocol = a->trial->protocol;
    a->process->status = aflock_epoll_new(&a->ctx, NULL);
    if (a->process->status == 0 && a->trial->kind != TRIAL_UNLOCKED)
        a->process->status = aflock_open(&a->lock, a->ctx, path, &o);
}

static void note_wait(asker *a)
{
    const char *why = NULL;

    if (!a->lock)
        return;
    a->process->wait = aflock_wait_mode(a->lock, &why);
    snprintf(a->process->why_wait, sizeof a->process->why_wait, "%s", why ? why : "");
}

static _Noreturn void be_a_process(const trial *t, board *b, unsigned number)
{
    asker a = {.trial = t, .board = b, .process = &b->processes[number], .dice = (uint64_t)getpid() * 2654435761u};

    open_lock(&a, t->paths[number % 2]);
    atomic_fetch_add(&b->ready, 1);
    while (atomic_load(&b->ready) < PROCESSES && !atomic_load(&b->ends))
        rest(AFLOCK_MILLISECOND / 2);
    while (a.process->status == 0 && !atomic_load(&b->ends) && atomic_load(&a.process->count) < INTERVALS &&
           hold_once(&a))
        rest(1 + throw(&a, LONGEST_HOLD / 2));
    note_wait(&a);
    (void)aflock_ctx_free(a.ctx, has_problem(a.process) ? AFLOCK_SECOND : 5 * AFLOCK_SECOND);
    _exit(EXIT_SUCCESS);
}

/* ------------------------------------------------------------------------------------------------------ the children
 */

static void start(trial *t, board *b)
{
    const pid_t parent = getpid();

    for (unsigned i = 0; i < PROCESSES; i++) {
        const pid_t pid = fork();

        if (pid == 0) {
            (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
            if (getppid() != parent)
                _exit(EXIT_FAILURE);
            be_a_process(t, b, i);
        }
        if (pid < 0) {
            snprintf(t->problem, sizeof t->problem, "fork: %s", strerror(errno));
            atomic_store(&b->ends, 1);
            return;
        }
        b->processes[i].pid = pid;
    }
}

static int reap(board *b)
{
    int left = 0, status;

    for (unsigned i = 0; i < PROCESSES; i++) {
        process *p = &b->processes[i];

        if (p->pid > 0 && waitpid(p->pid, &status, WNOHANG) == p->pid) {
            p->pid = 0;
            if (status != 0 && p->status == 0) {
                p->status = AFLOCK_ESYS;
                snprintf(p->step, sizeof p->step, "process");
            }
        }
        left += p->pid > 0;
    }
    return left;
}

static void kill_all(const board *b)
{
    for (unsigned i = 0; i < PROCESSES; i++) {
        if (b->processes[i].pid > 0)
            (void)kill(b->processes[i].pid, SIGKILL);
    }
}

/* Who gave up may have left what the others cannot get over, for the same reason: they are not waited for. */
static int is_enough(const board *b)
{
    unsigned done = 0;

    for (unsigned i = 0; i < PROCESSES; i++) {
        const process *p = &b->processes[i];

        if (p->pid == 0 && has_problem(p))
            return 1;
        done += p->pid == 0 || atomic_load(&p->count) >= ENOUGH;
    }
    return done == PROCESSES;
}

/* Nobody can be waited for who hangs in the file system for ever: he is told of, and left. */
static void watch(trial *t, board *b, const signals *s, void (*show)(void *user), void *user)
{
    const uint64_t begun = monotonic_now();
    uint64_t killed = 0;

    while (reap(b) > 0) {
        struct pollfd fd = {.fd = s->fd, .events = POLLIN};
        const uint64_t now = monotonic_now();
        siginfo_t info;
        int number;

        if (now - begun >= t->duration && is_enough(b))
            atomic_store(&b->ends, 1);
        if (!killed && (t->signal || now - begun >= t->duration + PATIENCE)) {
            kill_all(b);
            killed = now;
        }
        if (killed && now - killed > 2 * AFLOCK_SECOND)
            break;
        if (killed && !t->signal)
            snprintf(t->problem, sizeof t->problem, "a process waited for more than %d s",
                     (int)(PATIENCE / AFLOCK_SECOND));
        show(user);
        (void)poll(&fd, 1, LOOK_INTERVAL);
        if ((number = signals_next(s, &info, 0)) != 0 && number != SIGCHLD)
            t->signal = number;
    }
}

/* -------------------------------------------------------------------------------------------------------- the verdict
 */

static int by_begin(const void *one, const void *other)
{
    const interval *a = one, *b = other;

    return a->begin < b->begin ? -1 : a->begin > b->begin;
}

/* All intervals, by their beginning; malloc's. */
static interval *gather(const board *b, size_t *count)
{
    interval *all;

    *count = 0;
    for (unsigned i = 0; i < PROCESSES; i++)
        *count += atomic_load(&b->processes[i].count);
    all = malloc((*count + 1) * sizeof *all);
    if (!all)
        return NULL;
    *count = 0;
    for (unsigned i = 0; i < PROCESSES; i++) {
        const unsigned more = atomic_load(&b->processes[i].count);

        memcpy(all + *count, b->processes[i].intervals, more * sizeof *all);
        *count += more;
    }
    qsort(all, *count, sizeof *all, by_begin);
    return all;
}

/* How many begin while another one lasts that must not. */
static uint64_t count_overlaps(const interval *all, size_t count)
{
    uint64_t overlaps = 0, end_of_exclusive = 0, end_of_any = 0;

    for (size_t i = 0; i < count; i++) {
        overlaps += all[i].begin < (all[i].mode == AFLOCK_SHARED ? end_of_exclusive : end_of_any);
        if (all[i].end > end_of_any)
            end_of_any = all[i].end;
        if (all[i].mode == AFLOCK_EXCLUSIVE && all[i].end > end_of_exclusive)
            end_of_exclusive = all[i].end;
    }
    return overlaps;
}

static int is_unsupported(const process *p)
{
    return p->status == AFLOCK_ENOTSUP || p->sys_errno == ENOLCK ||
           (strcmp(p->step, "link") == 0 && p->sys_errno == EPERM);
}

static const process *find_problem(const board *b)
{
    for (unsigned i = 0; i < PROCESSES; i++) {
        if (has_problem(&b->processes[i]))
            return &b->processes[i];
    }
    return NULL;
}

static int have_all_had_it(const board *b)
{
    for (unsigned i = 0; i < PROCESSES; i++) {
        if (atomic_load(&b->processes[i].count) < ENOUGH)
            return 0;
    }
    return 1;
}

static void judge(trial *t, const board *b)
{
    const process *problem = find_problem(b);
    size_t count;
    interval *all = gather(b, &count);

    t->grants = count;
    t->overlaps = all ? count_overlaps(all, count) : 0;
    if (!all)
        snprintf(t->problem, sizeof t->problem, "%s", strerror(ENOMEM));
    free(all);
    if (problem && !*t->problem)
        snprintf(t->problem, sizeof t->problem, "%s%s%s", problem->step, *problem->step ? ": " : "",
                 problem->sys_errno ? strerror(problem->sys_errno) : aflock_strerror(problem->status));
    if (t->overlaps > 0)
        t->result = TRIAL_OVERLAPS;
    else if (problem && is_unsupported(problem))
        t->result = TRIAL_UNSUPPORTED;
    else if (!*t->problem && have_all_had_it(b))
        t->result = TRIAL_EXCLUDES;
    for (unsigned i = 0; i < PROCESSES && t->wait == AFLOCK_WAIT_AUTO; i++) {
        t->wait = b->processes[i].wait;
        snprintf(t->why_wait, sizeof t->why_wait, "%s", b->processes[i].why_wait);
    }
}

void trial_run(trial *t, const signals *s, void (*show)(void *user), void *user)
{
    board *b = mmap(NULL, sizeof *b, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    t->wait = AFLOCK_WAIT_AUTO;
    if (b == MAP_FAILED) {
        snprintf(t->problem, sizeof t->problem, "mmap: %s", strerror(errno));
        return;
    }
    start(t, b);
    watch(t, b, s, show, user);
    judge(t, b);
    (void)munmap(b, sizeof *b);
}
