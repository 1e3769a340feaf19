/* The program of the simulation: runs seeds. */
#include "sim_trace.h"
#include "sim_world.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char HELP[] = "Runs the library in simulated worlds. A seed decides all that happens in one of them.\n"
                           "\n"
                           "  sim --seeds FROM COUNT [--progress]   many worlds; the first broken promise ends it\n"
                           "  sim --seed N [--trace]                one world; --trace prints everything that happens\n"
                           "  sim --same FROM COUNT                 runs each twice: a seed always leads to the same\n";

enum { WATCHDOG = 60 }; /* seconds for one world, which takes milliseconds */

static void too_long(int signal)
{
    (void)signal;
    sim_fail("a call into the library returns");
}

static uint64_t run_one(uint64_t seed)
{
    alarm(WATCHDOG);
    return sim_run(seed);
}

static int usage(void)
{
    fputs(HELP, stderr);
    return 2;
}

static bool number(const char *text, uint64_t *value)
{
    char *end;
    *value = strtoull(text, &end, 10);
    return *text >= '0' && *text <= '9' && *end == '\0';
}

/* 1234567 as "1,234,567". */
static const char *grouped(uint64_t value)
{
    static char text[4][32];
    static unsigned turn;
    char *end = text[turn++ % 4] + 31;
    *end = '\0';
    for (int digits = 0; digits == 0 || value; digits++, value /= 10) {
        if (digits && digits % 3 == 0)
            *--end = ',';
        *--end = (char)('0' + value % 10);
    }
    return end;
}

static void print_figures(void)
{
    printf("figure: simulation: %s seeds, %s s of virtual time, longest wait in the calm %s ms",
           grouped(sim_count.seeds), grouped(sim_count.virtual_time / SIM_SECOND),
           grouped(sim_count.longest_wait / SIM_MS));
    const struct {
        const char *name;
        uint64_t value;
    } COUNTERS[] = {
#define SIM_COUNTER(name, text) {text, sim_count.name},
        SIM_COUNTERS(SIM_COUNTER)
#undef SIM_COUNTER
    };
    for (size_t i = 1; i < sizeof COUNTERS / sizeof COUNTERS[0]; i++)
        printf("%s%s %s", (i - 1) % 7 ? ", " : "\nfigure: simulation: ", grouped(COUNTERS[i].value), COUNTERS[i].name);
    printf("\n");
}

static void run_many(uint64_t from, uint64_t count, bool twice, bool progress)
{
    for (uint64_t i = 0; i < count; i++) {
        uint64_t digest = run_one(from + i);
        if (twice && run_one(from + i) != digest) {
            fprintf(stderr, "seed %" PRIu64 " does not always lead to the same\n", from + i);
            exit(1);
        }
        if (progress && i % 500 == 499)
            fprintf(stderr, "\r%" PRIu64 " of %" PRIu64, i + 1, count);
    }
    if (progress)
        fputc('\n', stderr);
    print_figures();
}

int main(int argc, char **argv)
{
    uint64_t from, count;
    bool progress = isatty(2);
    if (argc > 1 && strcmp(argv[argc - 1], "--progress") == 0) {
        progress = true;
        argc--;
    }
    if (argc == 2 && strcmp(argv[1], "--help") == 0) {
        fputs(HELP, stdout);
        return 0;
    }
    signal(SIGALRM, too_long);
    if (argc < 3 || argc > 4 || !number(argv[2], &from))
        return usage();
    if (strcmp(argv[1], "--seed") == 0) {
        if (argc == 4 && strcmp(argv[3], "--trace") != 0)
            return usage();
        sim_trace_all = argc == 4;
        printf("seed %" PRIu64 ": ", from);
        uint64_t digest = run_one(from);
        printf("digest %016" PRIx64 "\n", digest);
    } else if (argc == 4 && number(argv[3], &count)) {
        bool twice = strcmp(argv[1], "--same") == 0;
        if (!twice && strcmp(argv[1], "--seeds") != 0)
            return usage();
        run_many(from, count, twice, progress);
    } else {
        return usage();
    }
    sim_fibers_free();
    return 0;
}
