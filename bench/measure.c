/* Measuring: two sides in short alternating slices, so that whatever else the machine does meets both. */
#include "bench.h"

#include <math.h>
#include <sched.h>
#include <stdlib.h>
#include <time.h>

enum { MAX_SLICES = 64 };

bench_settings bench = {.blocks = 7, .slices = 15};

static uint64_t read_clock(clockid_t id)
{
    struct timespec ts;
    clock_gettime(id, &ts);
    return (uint64_t)ts.tv_sec * AFLOCK_SECOND + (uint64_t)ts.tv_nsec;
}

uint64_t bench_wall(void)
{
    return read_clock(CLOCK_MONOTONIC);
}

uint64_t bench_cpu(void)
{
    return read_clock(CLOCK_THREAD_CPUTIME_ID);
}

static cpu_set_t everywhere;

void bench_pin(void)
{
    cpu_set_t one;
    bench_check_errno(sched_getaffinity(0, sizeof everywhere, &everywhere) == 0, "sched_getaffinity");
    size_t last = CPU_SETSIZE - 1; /* interrupts tend to go to the first */
    while (!CPU_ISSET(last, &everywhere))
        last--;
    CPU_ZERO(&one);
    CPU_SET(last, &one);
    bench_check_errno(sched_setaffinity(0, sizeof one, &one) == 0, "sched_setaffinity");
}

void bench_unpin(void)
{
    bench_check_errno(sched_setaffinity(0, sizeof everywhere, &everywhere) == 0, "sched_setaffinity");
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double bench_median(double *values, size_t count)
{
    qsort(values, count, sizeof *values, compare);
    return count % 2 ? values[count / 2] : (values[count / 2 - 1] + values[count / 2]) / 2;
}

/* A block: the median slice of each side. Who begins changes from slice to slice. */
static void run_block(const bench_slice side[], size_t sides, void *state, double result[])
{
    double slices[3][MAX_SLICES];
    for (size_t i = 0; i < bench.slices; i++) {
        for (size_t k = 0; k < sides; k++) {
            size_t at = (i + k) % sides;
            slices[at][i] = side[at](state);
        }
    }
    for (size_t k = 0; k < sides; k++)
        result[k] = bench_median(slices[k], bench.slices);
}

void bench_compare(bench_line *line, bench_slice ours, bench_slice theirs, void *state)
{
    const bench_slice side[] = {ours, theirs, theirs};
    double mine[MAX_BLOCKS], other[MAX_BLOCKS];
    ours(state); /* warm */
    theirs(state);
    line->blocks = bench.blocks;
    for (size_t b = 0; b < bench.blocks; b++) {
        double result[3];
        run_block(side, 3, state, result);
        mine[b] = result[0];
        other[b] = result[1];
        line->ratio[b] = line->difference ? result[0] - result[1] : result[0] / result[1];
        line->control[b] = line->difference ? result[2] - result[1] : result[2] / result[1];
        line->spread = fmax(line->spread, fabs(line->control[b] - (line->difference ? 0 : 1)));
    }
    line->ours = bench_median(mine, bench.blocks);
    line->theirs = bench_median(other, bench.blocks);
    bench_add(line);
}

void bench_measure(bench_line *line, bench_slice ours, void *state)
{
    double result[MAX_BLOCKS];
    ours(state);
    line->blocks = bench.blocks;
    for (size_t b = 0; b < bench.blocks; b++) {
        run_block(&ours, 1, state, &result[b]);
        line->ratio[b] = result[b];
    }
    line->ours = bench_median(result, bench.blocks);
    bench_add(line);
}
