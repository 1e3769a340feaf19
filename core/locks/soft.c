/* The protocol `soft`: whoever creates the marker holds the lock, and its existence is the lock (py-filelock's
 * SoftFileLock, version 3.32; the marker's content is described in record.h).
 *
 * One attempt: create the marker (O_EXCL) and write who we are. If there is one, it is read once for each inode and
 * time of modification, and judged: it is broken when its holder is provably gone, when it is no record and 2 s old,
 * or, if that is asked for, when it is older than a life time. To break is to rename it to a name of our own, to look
 * whether that was the one that was judged, and then to unlink it; whoever breaks does not take the lock in the same
 * attempt. Nothing is ever done to a live holder's marker on doubt.
 *
 * While waiting, the descriptor by which the marker was read is kept, to listen to it, and one of the holder's process,
 * if it is on this host. Reading closes nothing that others listen to: they do not listen for closes here.
 */
#include "locks/identity.h"
#include "locks/protocol.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#define MALFORMED_AGE (2 * AFLOCK_SECOND)
#define LOOK_AGAIN (50 * AFLOCK_MILLISECOND) /* at a holder that has ended and still has a process id */

/* What was read of the marker on which afl_work.fd is open. */
typedef struct soft_state {
    bool known; /* dev, ino, changed, bytes and record are those of a marker */
    bool held;  /* the marker is ours */
    bool ended; /* its holder's process has ended, and is still there */
    struct timespec changed;
    size_t size;
    afl_record record;
    char bytes[AFL_RECORD_SIZE + 1];
} soft_state;

static soft_state *state_of(const afl_work *w)
{
    return w->state;
}

/* ------------------------------------------------------------------------------------------------------ descriptors */

static int drop(afl_work *w)
{
    int fd = w->fd;
    state_of(w)->known = false;
    if (fd < 0)
        return 0;
    w->fd = -1;
    return w->sys->close(fd) == 0 || errno == EINTR ? 0 : errno;
}

static void forget_holder(afl_work *w)
{
    state_of(w)->ended = false;
    if (w->holder >= 0)
        w->sys->close(w->holder);
    w->holder = -1;
}

static bool is(const struct stat *there, const afl_work *w)
{
    return there->st_dev == w->dev && there->st_ino == w->ino;
}

/* ------------------------------------------------------------------------------------------------------- the marker */

/* The path names our marker: unlinks it. 0, or errno. */
static int unlink_ours(const afl_work *w)
{
    struct stat there;
    if (afl_stat(w->sys, w->path, &there, false) != 0)
        return errno == ENOENT || errno == ENOTDIR || errno == ESTALE ? 0 : errno;
    if (!is(&there, w))
        return 0; /* somebody has broken it, and it is another one's now */
    return w->sys->unlink(w->path) == 0 || errno == ENOENT ? 0 : errno;
}

static int write_all(const afl_sys *sys, int fd, const char *text, size_t size)
{
    while (size > 0) {
        ssize_t written = sys->write(fd, text, size);
        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0)
            return errno;
        if (written == 0)
            return EIO;
        text += written;
        size -= (size_t)written;
    }
    return 0;
}

/* Who we are. 0: that cannot be told. */
static size_t own_record(const afl_work *w, char *text, size_t size)
{
    char host[AFL_HOST_NAME];
    if (!afl_host_name(w->sys, host))
        return 0;
    afl_record own = {.kind = AFL_RECORD_SOFT, .pid = (int32_t)w->sys->getpid(), .host = {host, strlen(host)}};
    own.has_start = afl_process_start(w->sys, own.pid, &own.start);
    return afl_record_print_soft(&own, text, size);
}

/* The marker was created: it is held as soon as it says by whom. Otherwise it goes again. */
static void publish(afl_work *w, int fd)
{
    char text[AFL_RECORD_SIZE];
    struct stat mine;
    const char *step = "fstat";
    int error = afl_fstat(w->sys, fd, &mine) == 0 ? 0 : errno;
    w->fd = fd;
    w->dev = mine.st_dev;
    w->ino = mine.st_ino;
    if (!error && !(mine.st_mode & S_IWUSR)) { /* a umask that makes it look like a file that nobody may lock */
        step = "umask";
        error = EACCES;
    }
    size_t size = 0;
    if (!error && (size = own_record(w, text, sizeof text)) == 0) {
        step = "gethostname";
        error = EINVAL;
    }
    if (!error) {
        step = "write";
        error = write_all(w->sys, fd, text, size);
    }
    if (!error) {
        state_of(w)->held = true;
        w->have = UINT32_MAX;
        afl_work_won(w);
        return;
    }
    afl_work_fail(w, AFL_GRIP_NONE, step, error);
    int undone = strcmp(step, "fstat") == 0 ? 0 : unlink_ours(w);
    int closed = drop(w);
    w->outcome.cleanup_errno = undone ? undone : closed;
}

/* Opens a new marker, and makes the parents if asked. The descriptor, or -1 and the fault; EEXIST: there is one. */
static int create(const afl_work *w, afl_fault *fault)
{
    const mode_t mode = w->file_mode == AFLOCK_MODE_DEFAULT ? 0666 : (mode_t)(w->file_mode & 07777);
    *fault = (afl_fault){"open", 0};
    for (int i = 0; i < 2; i++) {
        int fd = afl_open(w->sys, w->path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC | O_NOCTTY, mode);
        if (fd >= 0)
            return fd;
        fault->error = errno;
        if (fault->error != ENOENT || i > 0 || !(w->flags & AFLOCK_MAKE_PARENTS) ||
            !afl_make_parents(w->sys, w->path, fault))
            return -1;
        fault->step = "open";
    }
    return -1;
}

/* -------------------------------------------------------------------------------------------------- somebody else's */

static uint64_t age_of(const afl_work *w, const struct timespec *changed)
{
    uint64_t now = w->sys->realtime();
    if (changed->tv_sec < 0)
        return now;
    uint64_t then = (uint64_t)changed->tv_sec * AFLOCK_SECOND + (uint64_t)changed->tv_nsec;
    return now > then ? now - then : 0;
}

static bool same_time(const struct timespec *a, const struct timespec *b)
{
    return a->tv_sec == b->tv_sec && a->tv_nsec == b->tv_nsec;
}

/* Gives the marker that was judged a name of its own, and takes it away if it is that one. Whoever else it is has lost
 * the path, and it is left to him. */
static void break_marker(afl_work *w, const struct stat *judged)
{
    char aside[PATH_MAX + 64];
    uint64_t dice[2];
    struct stat there;
    w->again = true;
    if (w->sys->random(dice, sizeof dice) != 0)
        return;
    snprintf(aside, sizeof aside, "%s.break.%ld.%016" PRIx64 "%016" PRIx64, w->path, (long)w->sys->getpid(), dice[0],
             dice[1]);
    if (w->sys->rename(w->path, aside) != 0) {
        w->again = errno == ENOENT;
        return;
    }
    if (afl_stat(w->sys, aside, &there, false) == 0 && there.st_ino == judged->st_ino &&
        there.st_dev == judged->st_dev && same_time(&there.st_mtim, &judged->st_mtim))
        w->sys->unlink(aside);
}

/* Reads the marker, unless it is the one that was read last. False: it cannot be read now. */
static bool read_marker(afl_work *w, const struct stat *there)
{
    soft_state *s = state_of(w);
    struct stat st;
    if (s->known && is(there, w) && same_time(&there->st_mtim, &s->changed))
        return true;
    forget_holder(w);
    drop(w);
    int fd = afl_open(w->sys, w->path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC, 0);
    if (fd < 0) {
        w->again = errno == ENOENT;
        return false;
    }
    w->fd = fd;
    if (afl_fstat(w->sys, fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        drop(w);
        return false;
    }
    s->size = 0;
    while (s->size < sizeof s->bytes) {
        ssize_t got = w->sys->read(fd, s->bytes + s->size, sizeof s->bytes - s->size);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0) {
            drop(w);
            return false;
        }
        if (got == 0)
            break;
        s->size += (size_t)got;
    }
    afl_record_parse(s->bytes, s->size, &s->record);
    w->dev = st.st_dev;
    w->ino = st.st_ino;
    s->changed = st.st_mtim;
    s->known = true;
    return true;
}

/* Is the holder gone? While it lives its process is watched, if it is here. */
static bool is_gone(afl_work *w)
{
    soft_state *s = state_of(w);
    if (w->holder < 0 && !s->ended && afl_owner_watch(w->sys, &s->record, &w->holder) == AFL_WATCH_GONE)
        return true;
    if (w->holder_ended) { /* perhaps nobody has waited for the process yet */
        w->holder_ended = false;
        forget_holder(w);
        s->ended = true;
    }
    if (s->ended)
        w->look_again = LOOK_AGAIN;
    else if (w->holder >= 0)
        return false; /* the very process is there */
    return afl_owner_gone(w->sys, &s->record);
}

/* When it is so old, the marker may be broken. True: it is. */
static bool is_older(afl_work *w, const struct stat *there, uint64_t limit)
{
    uint64_t age = age_of(w, &there->st_mtim);
    if (age >= limit)
        return true;
    if (limit - age < w->look_again)
        w->look_again = limit - age;
    return false;
}

/* May what is at the path be broken? */
static bool is_void(afl_work *w, const struct stat *there)
{
    const soft_state *s = state_of(w);
    if (w->lifetime && is_older(w, there, w->lifetime))
        return true;
    if (!S_ISREG(there->st_mode)) {
        forget_holder(w);
        drop(w);
        return is_older(w, there, MALFORMED_AGE);
    }
    if (!read_marker(w, there))
        return false;
    switch (s->record.kind) {
    case AFL_RECORD_SENTINEL:
        return false;
    case AFL_RECORD_EMPTY:
        return w->break_empty && is_older(w, there, MALFORMED_AGE);
    case AFL_RECORD_MALFORMED:
        return is_older(w, there, MALFORMED_AGE);
    default:
        return is_gone(w);
    }
}

/* There is a marker. */
static void judge(afl_work *w)
{
    struct stat there;
    const bool had_one = w->fd >= 0;
    const uint64_t dev = w->dev, ino = w->ino;
    if (afl_stat(w->sys, w->path, &there, false) != 0) {
        w->again = errno == ENOENT; /* it has just gone */
    } else if (is_void(w, &there)) {
        forget_holder(w);
        drop(w);
        break_marker(w, &there);
    }
    afl_work_contended(w, w->fd >= 0 ? AFL_GRIP_KEPT : AFL_GRIP_NONE);
    w->outcome.renewed = had_one && (w->dev != dev || w->ino != ino);
}

static void try_path(afl_work *w)
{
    struct stat there;
    afl_fault fault;
    w->again = false;
    w->look_again = AFLOCK_FOREVER;
    if (afl_stat(w->sys, w->path, &there, false) == 0) {
        int error = S_ISDIR(there.st_mode) ? EISDIR : there.st_mode & S_IWUSR ? 0 : EACCES;
        if (error) {
            forget_holder(w);
            int closed = drop(w);
            afl_work_fail(w, AFL_GRIP_NONE, "open", error);
            w->outcome.cleanup_errno = closed;
            return;
        }
    }
    int fd = create(w, &fault);
    if (fd >= 0) {
        forget_holder(w);
        drop(w);
        publish(w, fd);
    } else if (fault.error == EEXIST) {
        judge(w);
    } else {
        forget_holder(w);
        drop(w);
        afl_work_fail(w, AFL_GRIP_NONE, fault.step, fault.error);
    }
}

/* ------------------------------------------------------------------------------------------------- the other orders */

static void adopt(afl_work *w)
{
    struct stat there;
    bool lost = w->verify && (afl_stat(w->sys, w->path, &there, false) != 0 || !is(&there, w));
    if (lost)
        afl_work_contended(w, AFL_GRIP_HELD);
    else
        afl_work_won(w);
}

static void give_up(afl_work *w)
{
    int error = unlink_ours(w);
    if (error) {
        afl_work_fail(w, AFL_GRIP_HELD, "unlink", error);
        return;
    }
    state_of(w)->held = false;
    error = drop(w);
    w->outcome = (afl_outcome){.answer = AFL_WON, .grip = AFL_GRIP_NONE};
    if (w->flags & AFLOCK_REPORT_CLOSE)
        w->outcome.cleanup_errno = error;
}

static void run(afl_work *w)
{
    w->not_inline = false;
    switch (w->op) {
    case AFL_OP_TRY:
        try_path(w);
        break;
    case AFL_OP_ADOPT:
        adopt(w);
        break;
    case AFL_OP_RELEASE:
        give_up(w);
        break;
    default: /* WITHDRAW: what is kept is another one's marker */
        forget_holder(w);
        drop(w);
        w->outcome = (afl_outcome){.answer = AFL_WON, .grip = AFL_GRIP_NONE};
    }
}

static void reconcile(afl_work *w)
{
    if (state_of(w)->held)
        unlink_ours(w);
    state_of(w)->held = false;
    forget_holder(w);
    drop(w);
}

static void abandon(afl_work *w)
{
    forget_holder(w);
    drop(w); /* the marker is the parent's */
}

/* ------------------------------------------------------------------------------------------------------- questions */

/* Reads what is at the path, without following or blocking. */
static void inspect(afl_query *q)
{
    soft_state s = {.known = false};
    afl_work w = {.sys = q->sys, .path = q->path, .fd = -1, .holder = -1, .state = &s};
    struct stat there;
    char host[AFL_HOST_NAME];
    if (afl_stat(q->sys, q->path, &there, false) != 0) {
        if (errno != ENOENT) /* nothing there: nobody holds it */
            afl_query_fail(q, "stat", errno);
        return;
    }
    q->held = 1;
    q->count = 1;
    q->mode = AFLOCK_EXCLUSIVE;
    q->age = age_of(&w, &there.st_mtim);
    if (!S_ISREG(there.st_mode) || !read_marker(&w, &there))
        return;
    drop(&w);
    const afl_record *r = &s.record;
    if (r->pid == 0)
        return;
    q->pid = r->pid;
    snprintf(q->host, sizeof q->host, "%.*s", (int)r->host.size, r->host.at);
    q->here =
        afl_host_name(q->sys, host) && strlen(host) == r->host.size && memcmp(host, r->host.at, r->host.size) == 0;
    q->gone = afl_owner_gone(q->sys, r);
}

static void remove_marker(afl_query *q)
{
    if (q->sys->unlink(q->path) != 0 && errno != ENOENT)
        afl_query_fail(q, "unlink", errno);
}

const afl_protocol afl_protocol_soft = {
    .name = "soft",
    .hand_on = true,
    .marker = true,
    .notify = AFLOCK_ON_MARKER,
    .state_size = sizeof(soft_state),
    .run = run,
    .reconcile = reconcile,
    .abandon = abandon,
    .verify = afl_query_verify,
    .inspect = inspect,
    .remove = remove_marker,
};
