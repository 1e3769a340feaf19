/* What is on a path, and who holds which lock there, without taking one. */
#ifndef AFLOCK_COMMAND_LOOK_H
#define AFLOCK_COMMAND_LOOK_H

#include <aflock/aflock.h>
#include <limits.h>
#include <stddef.h>
#include <sys/stat.h>

typedef enum marker {
    MARKER_NONE,   /* nothing there that could be one: no file, or no regular one */
    MARKER_UNREAD, /* a file that may not be read */
    MARKER_NOBODY, /* a file that names no holder: that of a native lock, most likely, or any other */
    MARKER_HOLDER, /* names its holder */
    MARKER_STRICT  /* says that there are claims of a strict lock beside it, or may be */
} marker;

/* A claim of a strict lock, and the whole of them. */
typedef struct look_claim {
    char name[256];
    int held;            /* or an intent */
    int valid;           /* 0: it is none, by its name or its content, and what is said of its owner does not count */
    aflock_holder owner; /* pid, host, age, here, gone */
    char host[512];      /* owner.host */
} look_claim;

enum { LOOK_HOST = 256, LOOK_TOKEN = 64, LOOK_COMMAND = 4096 };

typedef struct look {
    const char *path;
    aflock_ctx *ctx;
    int fd;         /* O_PATH: keeps what was seen from being replaced unnoticed; -1: nothing is there */
    struct stat st; /* of that */
    marker marker;
    aflock_holder holder; /* with MARKER_HOLDER */
    aflock_holder native, ofd, rw;
    aflock_holder pidfile;       /* held: PATH.lock is locked by the process that the path names */
    int lock_file_held;          /* PATH.lock is locked, by whomever */
    aflock_holder soft_rw;       /* by markers beside the path, which need not be there, */
    char soft_rw_path[PATH_MAX]; /* ... or beside this one, of which the path is a marker, if it is not "" */
    char soft_rw_problem[8192];  /* what is beside it and does not follow the protocol, or "" */
    aflock_holder state;         /* with soft_rw.blocked: who has PATH.state */
    char host[LOOK_HOST];        /* holder.host, */
    char token[LOOK_TOKEN];      /* ... and its token */
    char soft_rw_host[LOOK_HOST], soft_rw_token[LOOK_TOKEN], state_host[LOOK_HOST], state_token[LOOK_TOKEN];

    /* with MARKER_STRICT */
    look_claim *claims; /* by name */
    size_t claim_count;
    uint32_t left_out;  /* and so many more */
    char problem[8192]; /* what among them does not follow the protocol, or "" */
} look;

/* Looks, without following a symbolic link at the path and without opening the file, but to read it if it is a regular
 * one. Returns GO_ON, or the status to exit with, the reason having been said. look_end in both cases. */
int look_at(look *l, const char *path);
void look_end(look *l);

/* Of locks on ranges of bytes: is it one of readers and writers (SQLite's bytes), is there any other? */
int look_has_rw(const look *l);
int look_has_ofd(const look *l);

/* Is the file what a soft-rw lock has beside its path, as far as its name and what is there tell: the writer's marker,
 * or the state lock, whatever is in that? */
int look_is_of_soft_rw(const look *l);

/* ".state" or ".write", if the name is one of those and the file is none by which a soft-rw lock can work; or NULL. */
const char *look_obstacle(const look *l);

/* Does the path name another file by now, or one that was written since? */
int look_is_stale(const look *l);

/* Takes the marker, or a claim of a strict lock, away. 0, or an errno. */
int look_break(look *l);
int look_break_claim(look *l, const char *name);

/* The words of a process of this host, each with a zero behind it; LOOK_COMMAND bytes of them at most. Their length; 0:
 * it has none or they cannot be read. */
size_t look_command(const aflock_holder *holder, char words[LOOK_COMMAND + 1]);

#endif
