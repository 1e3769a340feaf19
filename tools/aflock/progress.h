/* What is shown while aflock waits (--verbose): on a terminal one line that counts the seconds, elsewhere one line in
 * all; and how far work has come, on a terminal only. */
#ifndef AFLOCK_COMMAND_PROGRESS_H
#define AFLOCK_COMMAND_PROGRESS_H

#include <aflock/aflock.h>
#include <stddef.h>

typedef struct progress {
    const char *target; /* what is waited for, as the user wrote it */
    int terminal;       /* standard error is one */
    int announced;
    size_t width;      /* of what stands on the terminal's line now */
    char holder[1280]; /* ", held by ...", or empty while it is not known */

    /* the wait for a lock */
    aflock_ctx *ctx;
    aflock *lock;     /* to be asked who holds it */
    uint64_t started; /* monotonic_now; set by the caller, for several requests in one */
    int contended;    /* an attempt found the lock taken */
    int watching;     /* the wait is being shown */
    int asking;       /* who holds the lock is being found out */
    int over;         /* nothing is shown any more */
} progress;

/* Nanoseconds on the monotonic clock. */
uint64_t monotonic_now(void);

void progress_init(progress *p, const char *target);

/* The name of a process of this host, made printable. 0, or -1 when it cannot be read. */
int progress_name(int64_t pid, char *name, size_t size);

/* A request for the lock is going to be made. The wait is over when it is answered, or a signal has come. */
void progress_begin(progress *p, aflock_ctx *ctx, aflock *lock);
void progress_over(progress *p);

/* Hears of attempts that found the lock taken: the context's trace hook, the progress being its user. */
void progress_trace(aflock_trace_event event, const char *path, aflock_req req, int64_t value, void *user);

/* To be called after each turn of the loop: from the first attempt that found it taken on the wait is shown. */
void progress_turn(progress *p);

/* Nothing more is shown of the wait. What asks who holds the lock goes on. */
void progress_end(progress *p);

/* Finds out who holds the lock, for `holder`; `asking` until that is known. */
void progress_ask(progress *p);

/* Shows a text in the place of the line, on a terminal only. */
void progress_tell(progress *p, const char *text);

/* Takes the line off the terminal. */
void progress_clear(progress *p);

#endif
