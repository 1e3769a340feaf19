/* Waits for the lock, in an event loop that also hears of signals and of the seconds that pass.
 *
 * A lock on a file is never unlocked here: as with flock(1) it lives in the open file description, which the command
 * and all that it starts may inherit, and ends when the last of them closes it. So after a success on a path the
 * context is kept until the process ends (aflock_ctx_free would unlock). With a descriptor of the caller's it is freed
 * at once. A marker, asked for or fallen back to, or a file that goes with the lock, is taken away when the command has
 * ended; while that runs, the loop goes on refreshing a lease.
 */
#include "lock.h"

#include "many.h"
#include "message.h"
#include "progress.h"
#include "waiter.h"

#include <aflock/epoll.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sysexits.h>
#include <unistd.h>

#define PATIENCE (5 * AFLOCK_SECOND) /* with a command that was told to end */

/* Process-wide on purpose: what it points to must be reachable until the process ends. */
static waiter the_waiter;

/* --------------------------------------------------------------------------------------------------------- the wait */

static void on_signal(aflock_ctx *ctx, int fd, unsigned events, void *user)
{
    waiter *w = user;
    siginfo_t info;
    int number;

    (void)ctx;
    (void)fd;
    (void)events;
    while (!w->running && !w->signal && (number = signals_next(w->signals, &info, 0)) != 0) {
        if (number == SIGCHLD) /* of a child that whoever became aflock had started before */
            continue;
        w->signal = number;
        progress_over(&w->progress);
    }
}

static void on_lock(aflock *lock, const aflock_result *result, void *user)
{
    waiter *w = user;

    (void)lock;
    w->marker = result->status == 0 && (result->fd < 0 || is_by_marker(w->options));
    waiter_answer(w, result->status, result->sys_errno, result->step);
    snprintf(w->detail, sizeof w->detail, "%s", result->detail ? result->detail : "");
}

static void on_release(aflock *lock, const aflock_result *result, void *user)
{
    waiter *w = user;

    (void)lock;
    waiter_answer(w, result->status, result->sys_errno, result->step);
    w->cleanup_errno = result->cleanup_errno;
    snprintf(w->detail, sizeof w->detail, "%s", result->detail ? result->detail : "");
}

static int may_be_a_marker(const options *o)
{
    return is_by_marker(o) || o->soft_fallback;
}

/* What is left of the time-out: never 0, which would be no time-out but a single attempt. */
static uint64_t remaining(const waiter *w)
{
    uint64_t timeout = w->options->timeout, waited = monotonic_now() - w->progress.started;

    return waited < timeout ? timeout - waited : 1;
}

/* Runs the loop until the request is answered or a signal ends the wait. */
static void run(waiter *w)
{
    while (!w->answered && !w->signal) {
        int status = aflock_epoll_run_once(w->ctx, AFLOCK_FOREVER);
        if (status != 0) {
            waiter_answer(w, status, status == AFLOCK_ESYS ? errno : 0, "event loop");
        } else if (w->options->verbose && w->options->timeout > 0) {
            progress_turn(&w->progress);
        }
    }
    progress_end(&w->progress);
}

/* What an earlier request has used, which was answered. */
static void close_lock(waiter *w)
{
    if (is_many(w->options))
        many_close(w);
    else
        (void)aflock_close(w->lock);
    w->lock = NULL;
}

static int open_lock(waiter *w, const char *path, int fd, uint32_t flags)
{
    aflock_options lo;

    aflock_options_init(&lo);
    lo.protocol = w->options->protocol;
    if (w->options->protocol == AFLOCK_LEASE)
        lo.duration = w->options->duration;
    if (w->options->protocol == AFLOCK_SOFT_RW)
        lo.stale_after = w->options->duration;
    lo.temporary = w->options->temporary;
    lo.soft_fallback = path && w->options->soft_fallback;
    if (w->threadless)
        lo.io = AFLOCK_IO_INLINE;
    if (is_many(w->options))
        return many_open(w, &lo, flags);
    return path ? aflock_open(&w->lock, w->ctx, path, &lo) : aflock_open_fd(&w->lock, w->ctx, fd, &lo);
}

static void on_patience_with_command_ended(aflock_ctx *ctx, void *user)
{
    waiter *w = user;

    (void)ctx;
    w->overdue = LOCK_OVERDUE;
}

static void tell_of_loss(const waiter *w, const char *reason, int sys_errno)
{
    complain("the %s '%s' is lost: %s%s%s; %s", w->options->protocol == AFLOCK_LEASE ? "lease of" : "lock on",
             w->options->file, reason, sys_errno ? ": " : "", sys_errno ? strerror(sys_errno) : "",
             w->ended ? "the command has ended since" : "ending the command");
}

/* Whoever has it now knows nothing of the command. */
static void on_compromise(aflock *lock, aflock_req req, const aflock_compromise *what, void *user)
{
    waiter *w = user;

    (void)lock;
    (void)req;
    tell_of_loss(w, aflock_compromise_name(what->reason), what->sys_errno);
    w->lost = LOCK_LOST;
    if (aflock_epoll_timer(w->ctx, PATIENCE, on_patience_with_command_ended, w) != 0)
        w->overdue = LOCK_OVERDUE;
}

static int request(waiter *w, const aflock_acquire_options *ao)
{
    return is_many(w->options) ? many_ask(w, ao) : aflock_acquire(w->lock, ao, on_lock, w, &w->req);
}

/* One request, from its start to its answer. */
static void ask(waiter *w, uint32_t flags, uint64_t timeout)
{
    aflock_acquire_options ao;
    int status;

    w->answered = 0;
    progress_begin(&w->progress, w->ctx, w->lock);
    aflock_acquire_options_init(&ao);
    ao.timeout = timeout;
    ao.mode = w->options->mode;
    ao.flags = flags;
    if (may_be_lost(w->options)) {
        ao.on_compromise = on_compromise;
        ao.on_compromise_user = w;
    }
    status = request(w, &ao);
    if (status != 0)
        waiter_answer(w, status, status == AFLOCK_ESYS ? errno : 0, "acquire");
    run(w);
}

/* Opens the lock on `path` or, if that is NULL, on `fd`, and waits for it. A time-out must not pass before a first
 * attempt was made, however short it is: a lock that is free is always had. */
static void open_and_ask(waiter *w, const char *path, int fd, uint32_t flags)
{
    uint64_t timeout = w->options->timeout;
    int status;

    close_lock(w);
    status = open_lock(w, path, fd, flags);
    if (status != 0) {
        waiter_answer(w, status, 0, "open");
        return;
    }
    ask(w, flags, timeout == AFLOCK_FOREVER ? timeout : 0);
    if (timeout == 0 && w->status == AFLOCK_EWOULDBLOCK && !w->signal && may_be_a_marker(w->options))
        ask(w, flags, 0); /* the attempt that breaks the marker of somebody who is gone does not take the lock */
    if (timeout > 0 && w->status == AFLOCK_EWOULDBLOCK && !w->signal)
        ask(w, flags, remaining(w));
}

/* The library makes some attempts on a thread. Where none can be started (a limit on processes), aflock makes them
 * itself, as flock(1) does: a file system that hangs then blocks signals and time-outs. */
static void wait_for(waiter *w, const char *path, int fd, uint32_t flags)
{
    open_and_ask(w, path, fd, flags);
    if (w->signal || w->threadless || w->status != AFLOCK_ESYS || strcmp(w->step, "executor") != 0)
        return;
    if (w->options->verbose)
        complain("cannot start a thread: %s; going on without", strerror(w->sys_errno));
    w->threadless = 1;
    open_and_ask(w, path, fd, flags);
}

static void on_patience_ended(aflock_ctx *ctx, void *user)
{
    waiter *w = user;

    (void)ctx;
    w->progress.asking = 0;
}

/* Finds out who holds the lock that was not to be had, within a second. */
static void find_holder(waiter *w)
{
    progress_ask(&w->progress);
    if (aflock_epoll_timer(w->ctx, AFLOCK_SECOND, on_patience_ended, w) != 0)
        return;
    while (w->progress.asking && !w->signal) {
        if (aflock_epoll_run_once(w->ctx, AFLOCK_FOREVER) != 0)
            return;
    }
}

static void report_time(const options *o, uint64_t waited)
{
    uint64_t us = waited / AFLOCK_MICROSECOND;

    if (o->verbose)
        report("getting lock took %llu.%06llu seconds", (unsigned long long)(us / 1000000),
               (unsigned long long)(us % 1000000));
}

/* ---------------------------------------------------------------------------------------- files that aflock opens */

/* The command is to find the descriptor as open(2) usually makes it. */
static void make_blocking(int fd)
{
    int flags = fcntl(fd, F_GETFL);

    if (flags >= 0)
        (void)fcntl(fd, F_SETFL, flags & ~O_NONBLOCK);
}

/* Opens what the library does not: anything can be locked, devices too. Without waiting for the other end of a FIFO or
 * for a line's carrier; to write as well as to read where writing is needed, since a FIFO that nobody reads cannot be
 * opened for writing only. Signals act at once meanwhile: a file system that hangs can take for ever. -1: errno says
 * why. */
static int open_anything(const waiter *w)
{
    const options *o = w->options;
    int access = o->protocol == AFLOCK_OFD && o->mode == AFLOCK_EXCLUSIVE && !o->unlock ? O_RDWR : O_RDONLY;
    int flags = O_NOCTTY | O_NONBLOCK | (o->close ? O_CLOEXEC : 0);
    sigset_t blocked;
    int fd, error;

    sigprocmask(SIG_SETMASK, &w->signals->inherited, &blocked);
    fd = open(o->file, access | flags | O_CREAT, 0666);
    if (fd < 0 && errno == EISDIR) /* O_CREAT is refused for directories */
        fd = open(o->file, O_RDONLY | flags);
    error = errno;
    sigprocmask(SIG_SETMASK, &blocked, NULL);
    if (fd >= 0)
        make_blocking(fd);
    errno = error;
    return fd;
}

static int open_failed(waiter *w)
{
    waiter_answer(w, AFLOCK_ESYS, errno, "open");
    return waiter_failure(w);
}

/* -u: there is nothing to wait for, and on a file that was just opened nothing to drop. */
static int drop(waiter *w)
{
    const options *o = w->options;
    struct flock whole_file = {.l_type = F_UNLCK, .l_whence = SEEK_SET};
    int fd = o->file ? open_anything(w) : o->fd;
    uint64_t started = monotonic_now();

    if (fd < 0 && o->file)
        return open_failed(w);
    if (o->protocol == AFLOCK_OFD ? fcntl(fd, F_OFD_SETLK, &whole_file) != 0 : flock(fd, LOCK_UN) != 0) {
        waiter_answer(w, AFLOCK_ESYS, errno, o->protocol == AFLOCK_OFD ? "fcntl" : "flock");
        return waiter_failure(w);
    }
    report_time(o, monotonic_now() - started);
    return GO_ON;
}

/* --------------------------------------------------------------------------------------------------------- the lock */

static uint32_t file_flags(const options *o)
{
    uint32_t flags = AFLOCK_CREATE | AFLOCK_FOLLOW;

    if (o->protocol != AFLOCK_RW)
        flags |= AFLOCK_DIRECTORY;
    if (!o->close)
        flags |= AFLOCK_INHERIT;
    if ((o->protocol != AFLOCK_OFD && o->protocol != AFLOCK_RW) ||
        o->mode == AFLOCK_SHARED) /* only these exclusive locks need to write */
        flags |= AFLOCK_READ_ONLY;
    return flags;
}

/* On NFS flock(2) is a record lock, which an exclusive holder must be able to write. */
static int wants_write_access(const waiter *w)
{
    return !w->signal && waiter_lock_failed(w) && (w->sys_errno == EBADF || w->sys_errno == EIO) &&
           w->options->mode == AFLOCK_EXCLUSIVE && access(w->options->file, R_OK | W_OK) == 0;
}

/* "d/" and "d/." are directories or errors; the library takes what comes after "d" for superfluous. */
static int insists_on_directory(const char *path)
{
    size_t length = strlen(path);

    if (length > 1 && path[length - 1] == '.' && path[length - 2] == '/')
        length--;
    return length > 0 && path[length - 1] == '/';
}

static int take_opened(waiter *w)
{
    int fd = open_anything(w); /* never closed: it carries the lock */

    if (fd < 0)
        return open_failed(w);
    wait_for(w, NULL, fd, 0);
    return GO_ON;
}

static int take_file(waiter *w)
{
    const char *path = w->options->file;
    uint32_t flags = file_flags(w->options);

    if (is_by_marker(w->options)) {
        wait_for(w, path, -1, AFLOCK_CREATE);
        return GO_ON;
    }
    if (is_many(w->options)) {
        wait_for(w, path, -1, flags);
        return GO_ON;
    }
    if (w->options->protocol != AFLOCK_RW && (!*path || insists_on_directory(path)))
        return take_opened(w);
    wait_for(w, path, -1, flags);
    if (w->options->protocol == AFLOCK_RW)
        return GO_ON;
    if ((flags & AFLOCK_READ_ONLY) && wants_write_access(w))
        wait_for(w, path, -1, flags & ~(uint32_t)AFLOCK_READ_ONLY);
    return !w->signal && w->status == AFLOCK_ENOTFILE ? take_opened(w) : GO_ON;
}

static int start(waiter *w)
{
    aflock_ctx_options co;
    aflock_epoll_options eo;
    uint64_t timeout = w->options->timeout;
    int status;

    aflock_ctx_options_init(&co);
    co.trace = progress_trace;
    co.trace_user = &w->progress;
    if (timeout > 0 && timeout != AFLOCK_FOREVER) /* the first attempt, as of -n, may take the whole time or a second */
        co.attempt_limit = timeout > AFLOCK_SECOND ? timeout : AFLOCK_SECOND;
    aflock_epoll_options_init(&eo);
    eo.ctx = &co;
    status = aflock_epoll_new(&w->ctx, &eo);
    if (status == 0)
        status = aflock_epoll_watch(w->ctx, w->signals->fd, AFLOCK_EPOLL_READ, on_signal, w);
    if (status == 0)
        return GO_ON;
    complain("cannot make an event loop: %s", aflock_strerror(status));
    (void)aflock_ctx_free(w->ctx, 0);
    return EX_OSERR;
}

/* What is on its way when the wait ends may be a marker that was just made: it is given time to go again. */
static uint64_t grace(const options *o)
{
    return may_be_a_marker(o) ? AFLOCK_SECOND : 0;
}

int lock_take(const options *o, const signals *s)
{
    waiter *w = &the_waiter;
    int status;

    *w = (waiter){.options = o, .signals = s};
    if (o->unlock)
        return drop(w);
    if ((status = start(w)) != GO_ON)
        return status;
    progress_init(&w->progress, waiter_target(o));
    w->progress.started = monotonic_now();
    if (o->file)
        status = take_file(w);
    else
        wait_for(w, NULL, o->fd, 0);
    if (o->verbose && waiter_is_conflict(w) && !w->signal)
        find_holder(w);
    if (w->signal || w->status != 0 || !o->file) {
        many_close(w);
        (void)aflock_ctx_free(w->ctx, grace(o));
    }
    if (w->signal)
        die_by(s, w->signal);
    if (status == GO_ON && w->status != 0)
        status = waiter_failure(w);
    if (status == GO_ON && w->marker && o->soft_fallback && o->verbose)
        report("the file system has no flock: locked by a marker");
    if (status == GO_ON)
        report_time(o, monotonic_now() - w->progress.started);
    return status;
}

int lock_wait(const signals *s, siginfo_t *info)
{
    waiter *w = &the_waiter;
    int number;

    if (!may_be_lost(w->options))
        return signals_next(s, info, 1);
    w->running = 1;
    if (w->lost != LOCK_LOST && !w->overdue) {
        if ((number = signals_next(s, info, 0)) != 0)
            return number;
        (void)aflock_epoll_run_once(w->ctx, AFLOCK_FOREVER);
    }
    if (w->lost == LOCK_LOST) {
        w->lost = 1;
        return LOCK_LOST;
    }
    if (w->overdue) {
        w->overdue = 0;
        return LOCK_OVERDUE;
    }
    return signals_next(s, info, 0);
}

/* The next heartbeat would have found out, too late for who wants to know what the command's work is worth. */
static void look_for_marker(waiter *w)
{
    w->answered = 0;
    if (aflock_verify(w->lock, w->req, on_release, w) != 0)
        return;
    run(w);
    if (!w->answered || w->lost || (w->status != AFLOCK_EREPLACED && w->status != AFLOCK_ECOMPROMISED))
        return;
    tell_of_loss(w, "somebody has taken its marker away", 0);
    w->lost = 1;
}

int lock_is_lost(void)
{
    waiter *w = &the_waiter;

    w->ended = 1;
    if (!may_be_lost(w->options))
        return 0;
    (void)aflock_epoll_run_once(w->ctx, 0); /* aflock may have been stopped longer than the command ran */
    if (!w->lost)
        look_for_marker(w);
    return w->lost != 0;
}

static const char *left_name(const options *o)
{
    return o->protocol == AFLOCK_STRICT    ? "claims on"
           : o->protocol == AFLOCK_PIDFILE ? "pid file"
           : o->temporary                  ? "lock file"
                                           : "marker";
}

void lock_give_back(void)
{
    waiter *w = &the_waiter;
    int status;

    if (!w->marker)
        return;
    w->running = 0;
    w->answered = 0;
    status = aflock_release(w->lock, w->req, on_release, w);
    if (status != 0)
        waiter_answer(w, status, 0, "release");
    run(w);
    if (w->answered && w->status != 0)
        complain("cannot remove the %s '%s': %s: %s", left_name(w->options), waiter_target(w->options), w->step,
                 waiter_reason(w));
    else if (w->answered && w->cleanup_errno && w->options->protocol == AFLOCK_STRICT)
        complain("cannot remove a claim on '%s' yet: %s", waiter_target(w->options), strerror(w->cleanup_errno));
    else if (w->answered && w->cleanup_errno)
        complain("cannot remove the %s '%s': %s", left_name(w->options), waiter_target(w->options),
                 strerror(w->cleanup_errno));
    (void)aflock_ctx_free(w->ctx, grace(w->options));
    if (w->signal)
        die_by(w->signals, w->signal);
}
