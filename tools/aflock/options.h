/* The command line of aflock, read. */
#ifndef AFLOCK_COMMAND_OPTIONS_H
#define AFLOCK_COMMAND_OPTIONS_H

#include <aflock/aflock.h>

typedef enum action { ACTION_LOCK, ACTION_STATUS, ACTION_BREAK } action;

typedef struct options {
    action action; /* STATUS and BREAK: only `file`, `json`, `force` and `claim` count */
    aflock_mode mode;
    aflock_protocol protocol;
    uint64_t duration;   /* ns; --lease, --soft-rw; 0: the default */
    int soft_fallback;   /* a marker where the file system has no flock(2) */
    int unlock;          /* -u: no lock is taken, a lock on the descriptor is dropped */
    uint64_t timeout;    /* ns; 0: one attempt; AFLOCK_FOREVER */
    int conflict_status; /* what to exit with when somebody else holds the lock */
    int close;           /* the command does not inherit the lock */
    int no_fork;
    int verbose;
    int json;          /* status: for programs */
    int force;         /* break: also when the holder may be alive */
    const char *claim; /* break: of a strict lock, by its name; NULL: the marker of a soft one */
    const char *file;  /* NULL in the descriptor form */
    int fd;            /* descriptor form */
    char **command;    /* NULL in the descriptor form, STATUS and BREAK */
    char *shell[4];    /* the command, when it is a string for a shell */
} options;

/* Is it locked by what stands on disk, which aflock takes away in the end? No descriptor carries it. */
int is_by_marker(const options *o);

/* Can it be lost while the command runs? */
int may_be_lost(const options *o);

enum { GO_ON = -1 }; /* no exit status yet */

/* Fills in `o`. Returns GO_ON, or the status to exit with when everything was said already (help, errors). Strings
 * point into argv and the environment. */
int options_parse(options *o, int argc, char **argv);

#endif
