/* The command line. */
#ifndef AFLOCK_SPOA_OPTIONS_H
#define AFLOCK_SPOA_OPTIONS_H

#include <aflock/aflock.h>

#include <stdbool.h>

enum { OPTIONS_USAGE = 2 };

typedef struct options {
    const char *listen, *directory;
    aflock_protocol protocol;
    bool is_verbose, keep_files;
    uint64_t lease, timeout, hold, max_hold, drain, patience, idle; /* ms */
    unsigned max_waiting, max_holds, max_connections;
} options;

/* -1: go on; otherwise the exit status: everything was said. */
int options_parse(options *o, int argc, char **argv);

#endif
