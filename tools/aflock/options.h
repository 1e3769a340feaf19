/* The command line of aflock, read. */
#ifndef AFLOCK_COMMAND_OPTIONS_H
#define AFLOCK_COMMAND_OPTIONS_H

#include <aflock/aflock.h>

typedef enum action {
    ACTION_LOCK,
    ACTION_STATUS,
    ACTION_BREAK,
    ACTION_APPEND,
    ACTION_REPLACE,
    ACTION_UPDATE,
    ACTION_VERIFY
} action;

typedef struct options {
    action action; /* not LOCK: only what is said to be of it counts, and `file` */
    aflock_mode mode;
    aflock_protocol protocol;
    uint64_t duration;   /* ns; --lease, --soft-rw; 0: the default; VERIFY: of each trial */
    int soft_fallback;   /* a marker where the file system has no flock(2) */
    int maximum;         /* --semaphore: so many hold at a time; 0: it is none */
    char **paths;        /* --all: `file` and the others, */
    int path_count;      /* ... so many; 0: one path */
    int temporary;       /* the lock file is removed with the lock */
    int unlock;          /* -u: no lock is taken, a lock on the descriptor is dropped */
    uint64_t timeout;    /* ns; 0: one attempt; AFLOCK_FOREVER; also APPEND, REPLACE, UPDATE */
    int conflict_status; /* what to exit with when somebody else holds the lock; also these */
    int close;           /* the command does not inherit the lock */
    int no_fork;
    int verbose;        /* also these */
    int no_sync;        /* these: the change is not made durable */
    int create;         /* REPLACE: the file must not exist */
    int json;           /* STATUS, VERIFY: for programs */
    int force;          /* break: also when the holder may be alive */
    const char *claim;  /* break: of a strict lock, by its name; NULL: the marker of a soft one */
    const char *file;   /* NULL in the descriptor form */
    const char *second; /* VERIFY: the same directory by another mount, or NULL */
    int fd;             /* descriptor form */
    char **command;     /* NULL in the descriptor form; of UPDATE the filter */
    char *shell[4];     /* the command, when it is a string for a shell */
} options;

/* Does aflock take something away in the end? Then it holds the lock itself, and no descriptor of the command carries
 * it.
 */
int is_by_marker(const options *o);

/* Can it be lost while the command runs? */
int may_be_lost(const options *o);

enum { GO_ON = -1 }; /* no exit status yet */

/* Fills in `o`. Returns GO_ON, or the status to exit with when everything was said already (help, errors). Strings
 * point into argv and the environment. */
int options_parse(options *o, int argc, char **argv);

#endif
