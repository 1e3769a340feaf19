/* Several processes increment one counter file, each from its own event loop.
 *
 * Reading a number and writing it back a moment later loses updates, unless only one process at a time does it. Here
 * each process asks for the lock, reads, lets its loop run for a millisecond, writes, and gives the lock back; nothing
 * ever waits but the loops. With --no-lock the processes do the same without asking: they meet before each read and
 * before each write, so that every round loses updates, not only an unlucky one.
 *
 * A worker is a chain of callbacks: next_round -> on_lock -> read_number -> write_number -> on_released -> next_round.
 */
#include "timeline.h"

#include <aflock/epoll.h>

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define WORK AFLOCK_MILLISECOND           /* between read and write */
#define REST AFLOCK_MILLISECOND           /* between two rounds of a worker */
#define POLL (2 * AFLOCK_MILLISECOND)     /* holds are short here: look more often than by default */
#define GLANCE (100 * AFLOCK_MICROSECOND) /* between two looks whether everybody is at the meeting */

enum { MAX_PROCESSES = 64, MAX_TIMES = 10000, EXIT_USAGE = 2 };

_Static_assert(ATOMIC_INT_LOCK_FREE == 2, "an atomic int works between processes");

struct job {
    const char *path; /* of the counter; the lock is beside it */
    char *lock_path;
    const char *timeline; /* where to draw, or NULL */
    int processes;
    int times;
    int locked;
};

/* Seen by all processes. */
struct shared {
    atomic_int arrived;           /* at all meetings together */
    struct timeline_span spans[]; /* of the first worker, of the second, ... */
};

struct worker {
    const struct job *job;
    struct shared *shared;
    struct timeline_span *spans; /* its own */
    int counter;                 /* a descriptor of the counter file */
    aflock_ctx *ctx;
    aflock *lock;
    aflock_req hold;
    int round;
    int number; /* what it read */
    int meetings;
    void (*after_meeting)(aflock_ctx *ctx, void *user);
    int failed;
};

static uint64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * AFLOCK_SECOND + (uint64_t)time.tv_nsec;
}

static struct timeline_span *spans_of(const struct job *job, struct shared *shared, int index)
{
    return shared->spans + (ptrdiff_t)index * job->times;
}

/* ------------------------------------------------------------------------------------------------ the counter file */

/* The number in the file; an empty file counts as 0. -1 and errno if there is something else in it. */
static int counter_read(int fd, int *number)
{
    char text[32];
    ssize_t size = pread(fd, text, sizeof text - 1, 0);
    if (size < 0)
        return -1;
    text[size] = '\0';
    char *end = text;
    long value = strtol(text, &end, 10); /* too large is LONG_MAX; of an empty text some C libraries say EINVAL */
    if ((*end == '\0' || strcmp(end, "\n") == 0) && value >= 0 && value < INT_MAX / 2) {
        *number = (int)value;
        return 0;
    }
    errno = EINVAL;
    return -1;
}

static int counter_write(int fd, int number)
{
    char text[32];
    int size = snprintf(text, sizeof text, "%d\n", number);
    ssize_t written = pwrite(fd, text, (size_t)size, 0);
    if (written == size)
        return ftruncate(fd, size);
    if (written >= 0)
        errno = ENOSPC;
    return -1;
}

/* ------------------------------------------------------------------------------------------------------ the workers */

static void next_round(aflock_ctx *ctx, void *user);

static void fail(struct worker *worker, const char *step, const char *reason)
{
    fprintf(stderr, "counter: process %jd: %s: %s\n", (intmax_t)getpid(), step, reason);
    worker->failed = 1;
    if (worker->ctx != NULL)
        aflock_epoll_stop(worker->ctx);
}

static void check(struct worker *worker, const char *step, int status)
{
    if (status != 0)
        fail(worker, step, aflock_strerror(status));
}

static void look_around(aflock_ctx *ctx, void *user)
{
    struct worker *worker = user;
    if (atomic_load(&worker->shared->arrived) >= worker->meetings * worker->job->processes)
        worker->after_meeting(ctx, worker);
    else
        check(worker, "timer", aflock_epoll_timer(ctx, GLANCE, look_around, worker));
}

/* Goes on when all workers have come here as often as this one. */
static void meet(struct worker *worker, void (*after)(aflock_ctx *ctx, void *user))
{
    worker->after_meeting = after;
    worker->meetings++;
    atomic_fetch_add(&worker->shared->arrived, 1);
    look_around(worker->ctx, worker);
}

static void rest(struct worker *worker)
{
    worker->round++;
    check(worker, "timer", aflock_epoll_timer(worker->ctx, REST, next_round, worker));
}

static void on_released(aflock *lock, const aflock_result *result, void *user)
{
    (void)lock;
    struct worker *worker = user;
    if (result->status != 0)
        fail(worker, "release", aflock_strerror(result->status));
    else
        rest(worker);
}

static void write_number(aflock_ctx *ctx, void *user)
{
    (void)ctx;
    struct worker *worker = user;
    struct timeline_span *span = &worker->spans[worker->round];
    if (counter_write(worker->counter, worker->number + 1) != 0) {
        fail(worker, "write", strerror(errno));
        return;
    }
    span->value = worker->number + 1;
    span->released = now();
    if (worker->job->locked)
        check(worker, "release", aflock_release(worker->lock, worker->hold, on_released, worker));
    else
        rest(worker);
}

static void after_work(aflock_ctx *ctx, void *user)
{
    struct worker *worker = user;
    if (worker->job->locked)
        write_number(ctx, worker);
    else
        meet(worker, write_number);
}

static void read_number(aflock_ctx *ctx, void *user)
{
    struct worker *worker = user;
    worker->spans[worker->round].granted = now();
    if (counter_read(worker->counter, &worker->number) != 0)
        fail(worker, "read", strerror(errno));
    else
        check(worker, "timer", aflock_epoll_timer(ctx, WORK, after_work, worker));
}

static void on_lock(aflock *lock, const aflock_result *result, void *user)
{
    struct worker *worker = user;
    worker->hold = result->req;
    if (result->status != 0)
        fail(worker, result->path, aflock_strerror(result->status));
    else
        read_number(aflock_context(lock), worker);
}

static void next_round(aflock_ctx *ctx, void *user)
{
    (void)ctx;
    struct worker *worker = user;
    if (worker->round == worker->job->times)
        return; /* nothing keeps the loop alive any more: it ends */
    worker->spans[worker->round].asked = now();
    if (worker->job->locked)
        check(worker, "acquire", aflock_acquire(worker->lock, NULL, on_lock, worker, NULL));
    else
        meet(worker, read_number);
}

static int worker_open(struct worker *worker)
{
    aflock_options options;
    aflock_options_init(&options);
    options.poll_interval = POLL;
    worker->counter = open(worker->job->path, O_RDWR | O_CLOEXEC);
    if (worker->counter < 0) {
        fail(worker, worker->job->path, strerror(errno));
        return -1;
    }
    int status = aflock_epoll_new(&worker->ctx, NULL);
    if (status == 0)
        status = aflock_open(&worker->lock, worker->ctx, worker->job->lock_path, &options);
    check(worker, "open", status);
    return status;
}

/* The whole life of one process. */
static int work(const struct job *job, struct shared *shared, int index)
{
    struct worker worker = {.job = job, .shared = shared, .spans = spans_of(job, shared, index)};
    if (worker_open(&worker) == 0) {
        meet(&worker, next_round); /* all start together */
        check(&worker, "loop", aflock_epoll_run(worker.ctx));
    }
    if (worker.ctx != NULL)
        aflock_ctx_free(worker.ctx, AFLOCK_SECOND);
    if (worker.counter >= 0)
        close(worker.counter);
    return worker.failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

/* ------------------------------------------------------------------------------------------------------- the parent */

static pid_t start_worker(const struct job *job, struct shared *shared, int index)
{
    pid_t parent = getpid();
    pid_t pid = fork();
    if (pid != 0)
        return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* no worker outlives the parent ... */
    if (getppid() != parent)          /* ... not even one that ended before the line above */
        _exit(EXIT_FAILURE);
    exit(work(job, shared, index));
}

static void end_workers(const pid_t *pids, int count)
{
    for (int i = 0; i < count; i++) {
        if (pids[i] > 0)
            kill(pids[i], SIGKILL);
    }
}

/* Waits for all; the first that fails ends the others, who would wait for it at the next meeting. */
static int await_workers(const pid_t *pids, int count)
{
    pid_t running[MAX_PROCESSES];
    memcpy(running, pids, (size_t)count * sizeof *pids);
    int failed = 0;
    for (int left = count; left > 0; left--) {
        int status = 0;
        pid_t pid = wait(&status);
        if (pid < 0) /* no handler interrupts us: there are none */
            return -1;
        for (int i = 0; i < count; i++)
            running[i] = running[i] == pid ? 0 : running[i];
        if (status != 0 && !failed) {
            failed = 1;
            fprintf(stderr, "counter: process %jd failed\n", (intmax_t)pid);
            end_workers(running, count);
        }
    }
    return failed ? -1 : 0;
}

static int run_workers(const struct job *job, struct shared *shared, pid_t *pids)
{
    fflush(stdout); /* or each child would print it again */
    for (int i = 0; i < job->processes; i++) {
        pids[i] = start_worker(job, shared, i);
        if (pids[i] < 0) {
            perror("counter: fork");
            end_workers(pids, i);
            await_workers(pids, i);
            return -1;
        }
    }
    return await_workers(pids, job->processes);
}

static void report(const struct job *job, struct shared *shared, const pid_t *pids)
{
    for (int i = 0; i < job->processes && job->locked; i++) {
        uint64_t total = 0, longest = 0;
        for (int round = 0; round < job->times; round++) {
            const struct timeline_span *span = &spans_of(job, shared, i)[round];
            uint64_t waited = span->granted - span->asked;
            total += waited;
            longest = waited > longest ? waited : longest;
        }
        printf("process %d (pid %jd): waited %.1f ms on average, %.1f ms at most\n", i + 1, (intmax_t)pids[i],
               (double)total / job->times / 1e6, (double)longest / 1e6);
    }
}

static int draw(const struct job *job, const struct shared *shared, const pid_t *pids, const char *outcome)
{
    char subtitle[256];
    snprintf(subtitle, sizeof subtitle, "%d processes, %d increments each, every one from its own event loop. %s",
             job->processes, job->times, outcome);
    const struct timeline timeline = {
        .title =
            job->locked ? "One counter file, incremented under a lock" : "One counter file, incremented WITHOUT a lock",
        .subtitle = subtitle,
        .locked = job->locked,
        .rows = job->processes,
        .spans_per_row = job->times,
        .pids = pids,
        .spans = shared->spans,
    };
    if (timeline_write(job->timeline, &timeline) == 0)
        return 0;
    fprintf(stderr, "counter: %s: %s\n", job->timeline, strerror(errno));
    return -1;
}

/* Runs the workers on a file that holds `start`, and says whether every increment is in it. */
static int count_up(const struct job *job, struct shared *shared, int fd, int start)
{
    pid_t pids[MAX_PROCESSES];
    int got = 0;
    if (run_workers(job, shared, pids) != 0)
        return EXIT_FAILURE;
    if (counter_read(fd, &got) != 0) {
        fprintf(stderr, "counter: %s: %s\n", job->path, strerror(errno));
        return EXIT_FAILURE;
    }
    int expected = start + job->processes * job->times;
    int correct = got == expected;
    char outcome[96];
    snprintf(outcome, sizeof outcome, "Expected: %d | Got: %d | Correct: %s", expected, got,
             correct ? "True" : "False");
    report(job, shared, pids);
    puts(outcome);
    if (job->timeline != NULL && draw(job, shared, pids, outcome) != 0)
        return EXIT_FAILURE;
    return correct ? EXIT_SUCCESS : EXIT_FAILURE;
}

static int run_on(const struct job *job, int fd)
{
    int start = 0;
    if (counter_read(fd, &start) != 0) {
        fprintf(stderr, "counter: %s: holds no number: %s\n", job->path, strerror(errno));
        return EXIT_FAILURE;
    }
    size_t spans = (size_t)job->processes * (size_t)job->times;
    size_t size = sizeof(struct shared) + spans * sizeof(struct timeline_span);
    struct shared *shared = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED) {
        perror("counter: mmap");
        return EXIT_FAILURE;
    }
    printf("%d processes increment %s %d times each%s\n", job->processes, job->path, job->times,
           job->locked ? " under a lock" : ", without a lock");
    int result = count_up(job, shared, fd, start);
    munmap(shared, size);
    return result;
}

static int run(struct job *job)
{
    int fd = open(job->path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (fd < 0) {
        fprintf(stderr, "counter: %s: %s\n", job->path, strerror(errno));
        return EXIT_FAILURE;
    }
    int result = EXIT_FAILURE;
    if (asprintf(&job->lock_path, "%s.lock", job->path) < 0) {
        fprintf(stderr, "counter: out of memory\n");
    } else {
        result = run_on(job, fd);
        free(job->lock_path);
    }
    close(fd);
    return result;
}

/* ------------------------------------------------------------------------------------------------ the command line */

static const char usage[] =
    "usage: counter [--no-lock] [--processes N] [--times N] [--timeline FILE.svg] FILE\n"
    "Processes increment the number in FILE (made if missing, starting from 0) under the lock FILE.lock.\n"
    "  --no-lock        without the lock: updates are lost\n"
    "  --processes N    so many processes (4)\n"
    "  --times N        so many increments by each (5)\n"
    "  --timeline FILE  draw the waits and holds as an SVG picture\n"
    "Exit status: 0 if every increment is in FILE, 1 if not, 2 for a wrong command line.\n";

static int parse_count(const char *text, int most, int *out)
{
    char *end = NULL;
    errno = 0;
    long value = strtol(text, &end, 10);
    if (errno != 0 || end == text || *end != '\0' || value < 1 || value > most) {
        fprintf(stderr, "counter: %s: not a number from 1 to %d\n", text, most);
        return -1;
    }
    *out = (int)value;
    return 0;
}

/* -1: go on; otherwise the exit status. */
static int parse(struct job *job, int argc, char **argv)
{
    static const struct option options[] = {
        {"no-lock", no_argument, NULL, 'L'},     {"processes", required_argument, NULL, 'p'},
        {"times", required_argument, NULL, 't'}, {"timeline", required_argument, NULL, 's'},
        {"help", no_argument, NULL, 'h'},        {0},
    };
    int option;
    while ((option = getopt_long(argc, argv, "h", options, NULL)) != -1) {
        int bad = 0;
        switch (option) {
        case 'L':
            job->locked = 0;
            break;
        case 'p':
            bad = parse_count(optarg, MAX_PROCESSES, &job->processes);
            break;
        case 't':
            bad = parse_count(optarg, MAX_TIMES, &job->times);
            break;
        case 's':
            job->timeline = optarg;
            break;
        case 'h':
            fputs(usage, stdout);
            return EXIT_SUCCESS;
        default:
            bad = -1;
        }
        if (bad != 0) {
            fputs(usage, stderr);
            return EXIT_USAGE;
        }
    }
    if (optind != argc - 1) {
        fputs(usage, stderr);
        return EXIT_USAGE;
    }
    job->path = argv[optind];
    return -1;
}

int main(int argc, char **argv)
{
    struct job job = {.processes = 4, .times = 5, .locked = 1};
    int status = parse(&job, argc, argv);
    return status >= 0 ? status : run(&job);
}
