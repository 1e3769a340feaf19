/* What happened: a trace of the last events, a digest of all, and the end of a run that broke a promise. */
#ifndef SIM_TRACE_H
#define SIM_TRACE_H

#include <stdbool.h>
#include <stdint.h>

extern bool sim_trace_all; /* print every event at once */

void sim_trace_start(uint64_t seed);
void sim_note(const char *what, int64_t a, int64_t b, const char *text); /* text: or NULL */
uint64_t sim_digest(void);                                               /* of all that was noted */

/* Prints why, and the trace, and ends the program. */
_Noreturn void sim_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* The text says what must be true. */
#define sim_require(condition, ...) \
    do {                            \
        if (!(condition))           \
            sim_fail(__VA_ARGS__);  \
    } while (0)

#endif
