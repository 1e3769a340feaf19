/* Waiting for others: what it costs while nothing happens, and how soon a thousand waiters of one process have all had
 * what they waited for. */
#include "bench.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { CROWD = 1000, POLL = 50 /* ms */ };

/* ------------------------------------------------------------------------------------------------------------ at rest
 */

typedef struct rest {
    bench_waiter w;
    int fd; /* of the other side, on the same file */
    char path[256];
} rest;

static uint64_t while_of(void)
{
    return bench.quick ? AFLOCK_SECOND / 2 : 3 * AFLOCK_SECOND;
}

/* ms of the processor in a second */
static double per_second(uint64_t cpu)
{
    return (double)cpu / 1e6 / ((double)while_of() / 1e9);
}

static double resting_slice(void *state)
{
    const rest *r = state;
    uint64_t cpu = bench_cpu();
    bench_waiter_pass(&r->w, while_of());
    return per_second(bench_cpu() - cpu);
}

/* The least that somebody who polls has to do: to wake up, try, and look whether the path still names the file. */
static double sleeping_slice(void *state)
{
    const rest *r = state;
    const struct timespec interval = {.tv_nsec = POLL * 1000000L};
    struct stat there;
    uint64_t cpu = bench_cpu();
    for (uint64_t times = while_of() / (POLL * AFLOCK_MILLISECOND); times > 0; times--) {
        nanosleep(&interval, NULL);
        bench_check_errno(flock(r->fd, LOCK_EX | LOCK_NB) != 0, "the file is locked");
        bench_check_errno(stat(r->path, &there) == 0, "stat");
    }
    return per_second(bench_cpu() - cpu);
}

static void measure_polls(void)
{
    rest r;
    int holder = bench_hold_file();
    snprintf(r.path, sizeof r.path, "%s", bench_file(0));
    r.fd = open(r.path, O_RDWR | O_CLOEXEC);
    bench_check_errno(r.fd >= 0, "open");
    bench_waiter_open(&r.w, POLL * AFLOCK_MILLISECOND);
    bench_waiter_ask(&r.w, 1);
    bench_waiter_pass(&r.w, 20 * AFLOCK_MILLISECOND); /* it listens */
    bench_compare(&(bench_line){.row = "waiting",
                                .what = "behind a held lock: processor, per second",
                                .against = "sleep, flock, stat, as often",
                                .unit = "ms",
                                .bar = 2,
                                .judged = true,
                                .absolute = true},
                  resting_slice, sleeping_slice, &r);
    bench_waiter_close(&r.w);
    close(r.fd);
    close(holder);
}

static long wake_ups(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_nvcsw;
}

static void measure_silence(void)
{
    bench_waiter w;
    int holder = bench_hold_file();
    bench_waiter_open(&w, AFLOCK_FOREVER);
    bench_waiter_ask(&w, 1);
    bench_waiter_pass(&w, 20 * AFLOCK_MILLISECOND); /* it listens */
    long before = wake_ups();
    bench_waiter_pass(&w, (bench.quick ? 2 : 60) * AFLOCK_SECOND);
    bench_add(&(bench_line){.row = "waiting",
                            .what = "behind a held lock, no polls: wake-ups in all",
                            .unit = "times",
                            .ours = (double)(wake_ups() - before),
                            .bar = 5,
                            .judged = true});
    bench_waiter_close(&w);
    close(holder);
}

/* ------------------------------------------------------------------------------------------------------------- a crowd
 */

/* From the first to the last of a thousand. */
static double drain_slice(void *state)
{
    bench_waiter *w = state;
    int holder = bench_hold_file();
    bench_waiter_ask(w, CROWD);
    bench_waiter_pass(w, 5 * AFLOCK_MILLISECOND);
    close(holder);
    bench_waiter_run(w);
    return (double)(w->arrived - w->first) / 1e6;
}

static void measure_crowd(void)
{
    bench_waiter w;
    bench_waiter_open(&w, POLL * AFLOCK_MILLISECOND);
    bench_measure(&(bench_line){.row = "waiting",
                                .what = "1,000 waiters of one process, first to last",
                                .unit = "ms",
                                .bar = 2,
                                .judged = true},
                  drain_slice, &w);
    bench_waiter_close(&w);
}

void row_waiting(void)
{
    bench_settings usual = bench;
    bench.slices = 1;
    measure_polls();
    measure_silence();
    measure_crowd();
    bench = usual;
}
