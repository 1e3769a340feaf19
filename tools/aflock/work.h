/* Work on a file under its lock FILE.lock, by the functions of aflock/file.h, one call after the other. */
#ifndef AFLOCK_COMMAND_WORK_H
#define AFLOCK_COMMAND_WORK_H

#include "options.h"
#include "progress.h"
#include "signals.h"

#include <aflock/file.h>
#include <limits.h>

enum { WORK_CONTENT_LIMIT = 1 << 30 }; /* bytes of a content that is kept in memory */

typedef struct work {
    const options *options;
    const signals *signals;
    const char *verb; /* "append to", for messages */
    aflock_ctx *ctx;
    aflock *lock;                                            /* FILE.lock, to be asked who holds it */
    aflock_token *token;                                     /* ends the waiting when a signal comes */
    int signal;                                              /* the first one, or 0 */
    void (*heard)(int number, int for_us_alone, void *user); /* a signal, CHLD included; or NULL */
    void *user;
    progress progress;

    /* the answer of the call under way */
    int answered;
    int status; /* 0 or AFLOCK_E... */
    int sys_errno, cleanup_errno;
    char step[32], path[PATH_MAX];
} work;

/* Makes the loop. `verb` says in messages what is done to the file. GO_ON, or the status to exit with, everything
 * having been said; work_end in both cases. */
int work_begin(work *w, const options *o, const signals *s, const char *verb);
void work_end(work *w);

/* One of the functions of aflock/file.h, called with `fo`, with work_answer and `w` as its user. */
typedef int (*work_call)(work *w, const aflock_file_options *fo, void *data);
void work_answer(const aflock_file_result *result, void *user);

/* Has it done, and waits for it. GO_ON, or the status to exit with, everything having been said, but that a function
 * of the caller's has refused (w->status is AFLOCK_EREFUSED). A signal that comes meanwhile ends the waiting for the
 * lock; what has begun is finished. Then, or at a second one, does not return. */
int work_do(work *w, work_call call, void *data);

#endif
