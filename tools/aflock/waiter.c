/* Why there is no lock: what is said, and the exit status. */
#include "waiter.h"

#include "message.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

void waiter_answer(waiter *w, int status, int sys_errno, const char *step)
{
    w->answered = 1;
    progress_over(&w->progress);
    w->status = status;
    w->sys_errno = sys_errno;
    w->cleanup_errno = 0;
    w->detail[0] = '\0';
    snprintf(w->step, sizeof w->step, "%s", step ? step : "");
}

/* Was it the locking that failed, not the opening? */
int waiter_lock_failed(const waiter *w)
{
    static const char *const steps[] = {"flock", "fcntl", "acquire", "duration", "event loop"};

    for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
        if (strcmp(w->step, steps[i]) == 0)
            return 1;
    }
    return !w->options->file;
}

/* The exit status that flock(1) has for this failure. */
static int failure_status(const waiter *w)
{
    if (w->status == AFLOCK_EPROTO)
        return EX_DATAERR;
    switch (w->sys_errno ? w->sys_errno : w->status) {
    case ENOMEM:
    case AFLOCK_ENOMEM:
        return EX_OSERR;
    case AFLOCK_EPROTO:
        return EX_DATAERR;
    case ENOLCK:
        return waiter_lock_failed(w) ? EX_OSERR : EX_NOINPUT;
    case EMFILE:
    case ENFILE:
    case AFLOCK_EMFILE:
        return waiter_lock_failed(w) ? EX_DATAERR : EX_OSERR;
    case EROFS:
    case ENOSPC:
        return waiter_lock_failed(w) ? EX_DATAERR : EX_CANTCREAT;
    default:
        return waiter_lock_failed(w) ? EX_DATAERR : EX_NOINPUT;
    }
}

const char *waiter_target(const options *o)
{
    static char number[16];

    if (o->file)
        return o->file;
    snprintf(number, sizeof number, "%d", o->fd);
    return number;
}

int waiter_is_conflict(const waiter *w)
{
    return w->status == AFLOCK_EWOULDBLOCK || w->status == AFLOCK_ETIMEDOUT;
}

const char *waiter_reason(const waiter *w)
{
    if (strcmp(w->step, "fcntl") == 0 && w->sys_errno == EBADF) /* record locks need access, unlike those of flock(2) */
        return w->options->mode == AFLOCK_EXCLUSIVE ? "it is not open for writing" : "it is not open for reading";
    return w->sys_errno ? strerror(w->sys_errno) : aflock_strerror(w->status);
}

/* What a detail leaves to be said: not what is wrong with the file that it names, but that the system refused. */
static const char *cause(const waiter *w)
{
    static const int REFUSALS[] = {EACCES, EPERM, EROFS, ENOSPC, EDQUOT, EIO, EMFILE, ENFILE, ENOMEM};
    static char text[128];

    if (w->options->protocol == AFLOCK_PIDFILE) { /* its details name a step */
        snprintf(text, sizeof text, ": %s", waiter_reason(w));
        return text;
    }
    for (size_t i = 0; i < sizeof REFUSALS / sizeof REFUSALS[0]; i++)
        if (w->sys_errno == REFUSALS[i]) {
            snprintf(text, sizeof text, ": %s", strerror(w->sys_errno));
            return text;
        }
    return "";
}

/* What would have helped. */
static const char *advice(const waiter *w)
{
    return strcmp(w->step, "flock") == 0 && w->sys_errno == ENOSYS && w->options->file ? "; see --soft-fallback" : "";
}

int waiter_failure(const waiter *w)
{
    const options *o = w->options;
    const char *target = w->which ? w->which : waiter_target(o);

    if (waiter_is_conflict(w)) {
        if (o->verbose)
            complain("%s: %s%s",
                     w->status == AFLOCK_EWOULDBLOCK ? "failed to get lock" : "timeout while waiting to get lock",
                     target, w->progress.holder);
        return o->conflict_status;
    }
    if (w->status == AFLOCK_EPROTO && o->protocol == AFLOCK_RW)
        complain("cannot lock '%s': %s", target,
                 strcmp(w->step, "WAL mode") == 0 ? "its connections lock something else, as it is in WAL mode"
                                                  : "it is neither a database nor empty");
    else if (w->status == AFLOCK_EMISMATCH && strcmp(w->step, "duration") == 0)
        complain("cannot lock '%s': the lease that is there has another duration", target);
    else if (w->detail[0])
        complain("cannot lock '%s': %s%s", target, w->detail, cause(w));
    else if (strcmp(w->step, "open") == 0)
        complain("cannot open lock file '%s': %s", target, waiter_reason(w));
    else
        complain("cannot %s '%s': %s: %s%s", waiter_lock_failed(w) ? "lock" : "open lock file", target, w->step,
                 waiter_reason(w), advice(w));
    return failure_status(w);
}
