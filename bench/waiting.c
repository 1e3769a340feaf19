/* Waiting for others: what it costs while nothing happens, and how soon a waiter has the lock after somebody was
 * killed, after a program in Python let go, and after another waiter of the same process. */
#include "bench.h"

#include <aflock/epoll.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { ROUNDS = 10, CROWD = 1000 };

typedef struct waiter {
    aflock_ctx *ctx;
    aflock *lock;
    uint64_t arrived, first; /* when the lock was ours: the last time, the first time */
    size_t left;
} waiter;

static void begin(waiter *w, uint64_t poll_interval)
{
    aflock_options o;
    aflock_options_init(&o);
    o.poll_interval = poll_interval;
    memset(w, 0, sizeof *w);
    bench_check(aflock_epoll_new(&w->ctx, NULL), "aflock_epoll_new");
    bench_check(aflock_open(&w->lock, w->ctx, bench_file(0), &o), "aflock_open");
}

static void end(const waiter *w)
{
    bench_check(aflock_ctx_free(w->ctx, AFLOCK_SECOND), "aflock_ctx_free");
}

static void on_arrival(aflock *lock, const aflock_result *result, void *user)
{
    waiter *w = user;
    if (result->status == AFLOCK_ECLOSED)
        return;
    bench_check(result->status, "acquire");
    w->arrived = bench_wall();
    if (w->first == 0)
        w->first = w->arrived;
    if (--w->left == 0)
        aflock_epoll_stop(w->ctx);
    bench_check(aflock_release(lock, result->req, NULL, NULL), "aflock_release");
}

static void ask(waiter *w, size_t count)
{
    w->left = count;
    w->first = 0;
    for (size_t i = 0; i < count; i++)
        bench_check(aflock_acquire(w->lock, NULL, on_arrival, w, NULL), "aflock_acquire");
}

static int hold_file(void)
{
    int fd = open(bench_file(0), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    bench_check_errno(fd >= 0 && flock(fd, LOCK_EX) == 0, "flock");
    return fd;
}

/* The loop goes on for so long. */
static void stop_waiting(aflock_ctx *ctx, void *user)
{
    (void)user;
    aflock_epoll_stop(ctx);
}

static void pass(const waiter *w, uint64_t duration)
{
    bench_check(aflock_epoll_timer(w->ctx, duration, stop_waiting, NULL), "aflock_epoll_timer");
    bench_check(aflock_epoll_run(w->ctx), "aflock_epoll_run");
}

/* ------------------------------------------------------------------------------------------------------------ at rest
 */

static long wake_ups(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_nvcsw;
}

static void rest_behind_a_holder(uint64_t poll_interval, double *cpu_ms, long *woken)
{
    waiter w;
    uint64_t duration = (bench.quick ? 2 : 60) * AFLOCK_SECOND;
    int holder = hold_file();
    begin(&w, poll_interval);
    ask(&w, 1);
    pass(&w, 20 * AFLOCK_MILLISECOND); /* it listens */
    uint64_t cpu = bench_cpu();
    long before = wake_ups();
    pass(&w, duration);
    *woken = wake_ups() - before;
    *cpu_ms = (double)(bench_cpu() - cpu) / 1e6 / ((double)duration / 1e9);
    end(&w);
    close(holder);
}

static void measure_rest(void)
{
    double cpu;
    long woken;
    rest_behind_a_holder(50 * AFLOCK_MILLISECOND, &cpu, &woken);
    bench_add(&(bench_line){.row = "waiting",
                            .what = "behind a held lock: processor, per second",
                            .unit = "ms",
                            .ours = cpu,
                            .bar = 2,
                            .judged = true});
    rest_behind_a_holder(AFLOCK_FOREVER, &cpu, &woken);
    bench_add(&(bench_line){.row = "waiting",
                            .what = "behind a held lock, no polls: wake-ups in all",
                            .unit = "times",
                            .ours = (double)woken,
                            .bar = 5,
                            .judged = true});
}

/* ------------------------------------------------------------------------------------------------------------ killed
 */

static pid_t start_holder(void)
{
    int ready[2];
    char byte;
    bench_check_errno(pipe(ready) == 0, "pipe");
    pid_t pid = fork();
    bench_check_errno(pid >= 0, "fork");
    if (pid == 0) {
        hold_file();
        if (write(ready[1], "", 1) == 1)
            pause();
        _exit(1);
    }
    close(ready[1]);
    bench_check_errno(read(ready[0], &byte, 1) == 1, "the holder");
    close(ready[0]);
    return pid;
}

static double kill_slice(void *state)
{
    waiter *w = state;
    double latency[ROUNDS];
    for (size_t i = 0; i < ROUNDS; i++) {
        pid_t holder = start_holder();
        ask(w, 1);
        pass(w, 10 * AFLOCK_MILLISECOND);
        uint64_t start = bench_wall();
        kill(holder, SIGKILL);
        bench_check(aflock_epoll_run(w->ctx), "aflock_epoll_run");
        latency[i] = (double)(w->arrived - start) / 1000;
        waitpid(holder, NULL, 0);
    }
    return bench_median(latency, ROUNDS);
}

/* ------------------------------------------------------------------------------------------------------------ Python
 */

/* Takes the lock for each line that it is sent, says so, holds it for 20 ms, and tells when it let go. */
static const char PYTHON[] = "import sys, time, filelock\n"
                             "lock = filelock.FileLock(sys.argv[1])\n"
                             "for line in sys.stdin:\n"
                             "    lock.acquire()\n"
                             "    print('taken', flush=True)\n"
                             "    time.sleep(0.02)\n"
                             "    now = time.monotonic_ns()\n"
                             "    lock.release()\n"
                             "    print(now, flush=True)\n";

typedef struct python {
    waiter w;
    FILE *to, *from;
} python;

static double python_slice(void *state)
{
    python *p = state;
    double latency[ROUNDS];
    char line[64];
    for (size_t i = 0; i < ROUNDS; i++) {
        bench_check_errno(fputs("go\n", p->to) >= 0 && fflush(p->to) == 0 && fgets(line, sizeof line, p->from),
                          "Python");
        ask(&p->w, 1);
        bench_check(aflock_epoll_run(p->w.ctx), "aflock_epoll_run");
        bench_check_errno(fgets(line, sizeof line, p->from) != NULL, "Python");
        latency[i] = ((double)p->w.arrived - (double)strtoull(line, NULL, 10)) / 1000;
    }
    return bench_median(latency, ROUNDS);
}

/* Whether Debian's python3-filelock is there. */
static bool has_python(void)
{
    int status;
    pid_t pid = fork();
    bench_check_errno(pid >= 0, "fork");
    if (pid == 0) {
        fclose(stderr);
        execl("/usr/bin/python3", "python3", "-c", "import filelock", (char *)NULL);
        _exit(127);
    }
    return waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static void measure_python(void)
{
    static python p;
    int in[2] = {-1, -1}, out[2] = {-1, -1};
    if (!has_python()) {
        bench_skip("waiting", "there is no python3-filelock");
        return;
    }
    bench_check_errno(pipe(in) == 0 && pipe(out) == 0, "pipe");
    pid_t pid = fork();
    bench_check_errno(pid >= 0, "fork");
    if (pid == 0) {
        dup2(in[0], STDIN_FILENO);
        dup2(out[1], STDOUT_FILENO);
        close(in[1]);
        close(out[0]);
        execl("/usr/bin/python3", "python3", "-c", PYTHON, bench_file(0), (char *)NULL);
        _exit(127);
    }
    close(in[0]);
    close(out[1]);
    p.to = fdopen(in[1], "w");
    p.from = fdopen(out[0], "r");
    bench_check_errno(p.to && p.from, "fdopen");
    begin(&p.w, 50 * AFLOCK_MILLISECOND);
    bench_measure(&(bench_line){.row = "waiting",
                                .what = "behind py-filelock: its release to ours, p50",
                                .unit = "us",
                                .bar = 200,
                                .judged = true},
                  python_slice, &p);
    end(&p.w);
    fclose(p.to);
    fclose(p.from);
    waitpid(pid, NULL, 0);
}

/* ------------------------------------------------------------------------------------------------------------- a crowd
 */

/* From the first to the last of a thousand. */
static double drain_slice(void *state)
{
    waiter *w = state;
    int holder = hold_file();
    ask(w, CROWD);
    pass(w, 5 * AFLOCK_MILLISECOND);
    close(holder);
    bench_check(aflock_epoll_run(w->ctx), "aflock_epoll_run");
    return (double)(w->arrived - w->first) / 1e6;
}

void row_waiting(void)
{
    waiter w;
    bench_settings usual = bench;
    bench.slices = 1;
    measure_rest();
    begin(&w, 50 * AFLOCK_MILLISECOND);
    bench_measure(&(bench_line){.row = "waiting",
                                .what = "behind a holder that is killed: kill -9 to ours, p50",
                                .unit = "us",
                                .bar = 300,
                                .judged = true},
                  kill_slice, &w);
    bench_measure(&(bench_line){.row = "waiting",
                                .what = "1,000 waiters of one process, first to last",
                                .unit = "ms",
                                .bar = 2,
                                .judged = true},
                  drain_slice, &w);
    end(&w);
    measure_python();
    bench = usual;
}
