/* Runs an event loop around one call of aflock/file.h at a time, shows the wait, and says what went wrong.
 *
 * The first signal cancels the waiting for the lock; if the work has begun already it is finished, so that the file has
 * its old or its new content and nothing is left beside it. A second signal does not wait for that.
 */
#include "work.h"

#include "message.h"

#include <aflock/epoll.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sysexits.h>

/* ---------------------------------------------------------------------------------------------------- begin and end */

static void on_signal(aflock_ctx *ctx, int fd, unsigned events, void *user)
{
    work *w = user;
    siginfo_t info;
    int number;

    (void)ctx;
    (void)fd;
    (void)events;
    while ((number = signals_next(w->signals, &info, 0)) != 0) {
        if (w->heard)
            w->heard(number, signals_for_us_alone(&info), w->user);
        if (number == SIGCHLD)
            continue;
        if (w->signal) {
            progress_clear(&w->progress);
            die_by(w->signals, number);
        }
        w->signal = number;
        progress_over(&w->progress);
        aflock_token_fire(w->token);
    }
}

static int open_lock(work *w)
{
    const char *file = w->options->file;
    char *path;
    int status;

    if (asprintf(&path, "%s.lock", file) < 0)
        return AFLOCK_ENOMEM;
    status = aflock_open(&w->lock, w->ctx, path, NULL);
    free(path);
    return status;
}

static int names_a_file(const char *path)
{
    size_t length = strlen(path);

    return length > 0 && path[length - 1] != '/';
}

/* Why it is refused before a lock file is made beside it, or NULL; what comes there later the library refuses. Signals
 * act at once meanwhile: a file system that hangs can take for ever. */
static const char *refusal(const options *o, const signals *s)
{
    struct stat st;
    sigset_t blocked;
    int error;

    if (!names_a_file(o->file))
        return "it names no file";
    (void)sigprocmask(SIG_SETMASK, &s->inherited, &blocked);
    error = lstat(o->file, &st);
    (void)sigprocmask(SIG_SETMASK, &blocked, NULL);
    if (error || S_ISREG(st.st_mode) || o->create) /* what must not exist is an error of its own */
        return NULL;
    return S_ISDIR(st.st_mode)   ? "it is a directory"
           : S_ISLNK(st.st_mode) ? "it is a symbolic link"
                                 : "it is no regular file";
}

int work_begin(work *w, const options *o, const signals *s, const char *verb)
{
    aflock_ctx_options co;
    aflock_epoll_options eo;
    const char *why = refusal(o, s);
    int status;

    *w = (work){.options = o, .signals = s, .verb = verb};
    if (why) {
        complain("cannot %s '%s': %s", verb, o->file, why);
        return EX_NOINPUT;
    }
    progress_init(&w->progress, o->file);
    aflock_ctx_options_init(&co);
    co.trace = progress_trace;
    co.trace_user = &w->progress;
    aflock_epoll_options_init(&eo);
    eo.ctx = &co;
    status = aflock_epoll_new(&w->ctx, &eo);
    if (status == 0)
        status = aflock_epoll_watch(w->ctx, s->fd, AFLOCK_EPOLL_READ, on_signal, w);
    if (status == 0)
        status = aflock_token_new(&w->token, w->ctx);
    if (status != 0) {
        complain("cannot make an event loop: %s", aflock_strerror(status));
        return EX_OSERR;
    }
    status = open_lock(w);
    if (status == 0)
        return GO_ON;
    complain("cannot %s '%s': open the lock: %s", verb, o->file, aflock_strerror(status));
    return status == AFLOCK_ENOMEM ? EX_OSERR : EX_NOINPUT;
}

void work_end(work *w)
{
    progress_clear(&w->progress);
    (void)aflock_ctx_free(w->ctx, AFLOCK_SECOND);
    aflock_token_free(w->token);
}

/* ---------------------------------------------------------------------------------------------------------- the call
 */

void work_answer(const aflock_file_result *result, void *user)
{
    work *w = user;

    w->answered = 1;
    progress_over(&w->progress);
    w->status = result->status;
    w->sys_errno = result->sys_errno;
    w->cleanup_errno = result->cleanup_errno;
    snprintf(w->step, sizeof w->step, "%s", result->step ? result->step : "");
    snprintf(w->path, sizeof w->path, "%s", result->path ? result->path : w->options->file);
}

static void fail(work *w, int status, const char *step)
{
    const aflock_file_result result = {
        .status = status, .sys_errno = status == AFLOCK_ESYS ? errno : 0, .step = step, .path = w->options->file};

    work_answer(&result, w);
}

/* Until the call is answered, and its lock given back: the next one is to find it free. */
static void run(work *w)
{
    while (!w->answered) {
        int status = aflock_epoll_run_once(w->ctx, AFLOCK_FOREVER);
        if (status != 0) {
            fail(w, status, "event loop");
        } else if (w->options->verbose && w->options->timeout > 0) {
            progress_turn(&w->progress);
        }
    }
    progress_end(&w->progress);
    while (aflock_epoll_alive(w->ctx) == 1 && aflock_epoll_run_once(w->ctx, AFLOCK_FOREVER) == 0)
        ;
}

static void ask(work *w, work_call call, void *data, uint64_t timeout)
{
    const options *o = w->options;
    aflock_acquire_options ao;
    aflock_file_options fo;
    int status;

    w->answered = 0;
    progress_begin(&w->progress, w->ctx, w->lock);
    aflock_acquire_options_init(&ao);
    ao.flags = AFLOCK_CREATE; /* a directory that is missing was not meant, most likely */
    ao.timeout = timeout;
    ao.token = w->token;
    aflock_file_options_init(&fo);
    fo.acquire = &ao;
    fo.max_size = WORK_CONTENT_LIMIT;
    fo.no_sync = o->no_sync;
    status = call(w, &fo, data);
    if (status != 0)
        fail(w, status, "");
    run(w);
}

/* -------------------------------------------------------------------------------------------------------- the answer
 */

static int is_conflict(const work *w)
{
    return w->status == AFLOCK_EWOULDBLOCK || w->status == AFLOCK_ETIMEDOUT;
}

static int is_one_of(const char *word, const char *const *words)
{
    while (*words && strcmp(word, *words) != 0)
        words++;
    return *words != NULL;
}

static int failure_status(const work *w)
{
    static const char *const writing[] = {"write", "fsync", "rename", "chown", "chmod",
                                          "close", "link",  "unlink", NULL};

    switch (w->sys_errno ? w->sys_errno : w->status) {
    case ENOMEM:
    case EMFILE:
    case ENFILE:
    case EAGAIN:
    case AFLOCK_ENOMEM:
    case AFLOCK_EMFILE:
        return EX_OSERR;
    case EFBIG:
        return strcmp(w->step, "read") == 0 ? EX_DATAERR : EX_IOERR;
    case EROFS:
    case ENOSPC:
    case EDQUOT:
    case EIO:
        return EX_IOERR;
    default:
        return is_one_of(w->step, writing) ? EX_IOERR : EX_NOINPUT;
    }
}

/* Only whether it is durable is in doubt then: everything is where it has to be. */
static int is_done_already(const work *w)
{
    static const char temporary[] = ".lock.tmp";
    size_t length = strlen(w->path), end = sizeof temporary - 1;

    return strcmp(w->step, "fsync") == 0 && !(length > end && strcmp(w->path + length - end, temporary) == 0);
}

static int failure(const work *w)
{
    const options *o = w->options;

    if (is_conflict(w)) {
        if (o->verbose)
            complain("%s: %s.lock%s",
                     w->status == AFLOCK_EWOULDBLOCK ? "failed to get lock" : "timeout while waiting to get lock",
                     o->file, w->progress.holder);
        return o->conflict_status;
    }
    if (w->sys_errno == EEXIST) {
        complain("cannot %s '%s': it exists already", w->verb, o->file);
        return EX_CANTCREAT;
    }
    complain("cannot %s '%s': %s '%s': %s%s", w->verb, o->file, *w->step ? w->step : "lock", w->path,
             w->sys_errno ? strerror(w->sys_errno) : aflock_strerror(w->status),
             is_done_already(w) ? "; it is done, but a crash of the machine may undo it" : "");
    if (w->cleanup_errno)
        complain("cannot clean up after that: %s; the next call will try", strerror(w->cleanup_errno));
    return failure_status(w);
}

/* What is left of the time-out: never 0, which would be no time-out but a single attempt. */
static uint64_t remaining(const work *w)
{
    uint64_t timeout = w->options->timeout, waited = monotonic_now() - w->progress.started;

    return waited < timeout ? timeout - waited : 1;
}

int work_do(work *w, work_call call, void *data)
{
    uint64_t timeout = w->options->timeout;

    w->progress.started = monotonic_now();
    ask(w, call, data, timeout == AFLOCK_FOREVER ? timeout : 0); /* a lock that is free is had, however short it is */
    if (timeout > 0 && w->status == AFLOCK_EWOULDBLOCK && !w->signal)
        ask(w, call, data, remaining(w));
    if (w->signal && w->status == 0)
        complain("'%s' was changed before the signal", w->options->file);
    if (w->signal)
        die_by(w->signals, w->signal);
    if (w->status == 0)
        return GO_ON;
    return w->status == AFLOCK_EREFUSED ? EX_SOFTWARE : failure(w);
}
