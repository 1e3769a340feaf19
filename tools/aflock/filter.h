/* A command through which a content goes, on a worker thread. */
#ifndef AFLOCK_COMMAND_FILTER_H
#define AFLOCK_COMMAND_FILTER_H

#include "signals.h"

#include <stddef.h>
#include <sys/types.h>

typedef struct filter {
    /* the order */
    char **command;
    const signals *signals;
    size_t limit; /* bytes that it may write */
    int news[2];  /* a pipe from the loop to the worker: signals */

    /* what came of it */
    int start_errno;    /* it could not be started, */
    const char *step;   /* ... since this failed; NULL: executing it */
    int io_errno;       /* what it writes could not be read or kept */
    int is_too_much;    /* it wrote more than `limit` */
    int is_interrupted; /* a signal ended the work */
    int status;         /* of waitpid */
    char *data;         /* malloc's; what it wrote */
    size_t length;

    /* while it runs */
    pid_t pid;
    int ended, to, from; /* descriptors: its standard input and output; or -1 */
    size_t room, written;
} filter;

/* 0, or an errno. filter_end in both cases. */
int filter_begin(filter *f, const signals *s, char **command, size_t limit);
void filter_end(filter *f);

/* [the loop's thread] A signal has come, CHLD included; the command gets it too, if it was for us alone. */
void filter_tell(filter *f, int number, int for_us_alone);

/* [a worker] Runs the command with the content as its standard input, until it has ended and its output is complete.
 * 1: it succeeded. 0: it did not, and is not there any more. */
int filter_run(filter *f, const char *content, size_t length);

#endif
