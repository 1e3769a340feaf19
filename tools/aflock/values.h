/* What the forms of the command line have in common: values of options, and what is said about wrong ones. */
#ifndef AFLOCK_COMMAND_VALUES_H
#define AFLOCK_COMMAND_VALUES_H

#include "options.h"

#include <stdint.h>

/* -n and -w, before they are weighed against each other. */
typedef struct waiting {
    int nonblock;
    const char *not_a_time; /* the argument of -w, if it is a number but no time */
    uint64_t timeout;
} waiting;

/* A whole decimal int; as strict as flock(1): leading white space and a sign, nothing behind. 0, EINVAL or ERANGE. */
int parse_int(const char *text, int *out);

/* Seconds to nanoseconds, rounded up so that a time-out never comes early. flock(1) counts microseconds, and to it less
 * than one is none. EINVAL: not a number; ERANGE: not a time, which flock(1) only finds when it sets its timer. */
int parse_seconds(const char *text, uint64_t *out);

/* These return GO_ON, or the status to exit with, the reason having been said. */
int parse_conflict_status(options *o, const char *text);
int parse_timeout(waiting *w, const char *text);
int check_timeout(options *o, const waiting *w);

/* "try ... --help". Returns the status to exit with. */
int usage_error(void);

/* Shows the help. Returns the status to exit with. */
int show_help(void);

#endif
