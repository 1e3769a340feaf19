/* The protocol `soft`: whoever creates the marker holds the lock, and its existence is the lock (py-filelock's
 * SoftFileLock, version 3.32; the marker's content is described in record.h).
 *
 * One attempt: create the marker (O_EXCL) and write who we are. If there is one, it is read once for each inode and
 * time of modification, and judged: it is broken when its holder is provably gone, when it is no record and 2 s old,
 * or, if that is asked for, when it is older than a life time. To break is to rename it to a name of our own, to look
 * whether that was the one that was judged, and then to unlink it; whoever breaks does not take the lock in the same
 * attempt. Nothing is ever done to a live holder's marker on doubt.
 *
 * Of two who judge the same marker the second must not take away what somebody has made since the first broke it. So
 * whoever breaks has the judged file flocked meanwhile, and looks once more whether the path still names it. That
 * settles it among us, where the file system has such locks; the peer has only the look at what was renamed.
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
#include <sys/file.h>

#define MALFORMED_AGE (2 * AFLOCK_SECOND)
#define LOOK_AGAIN (50 * AFLOCK_MILLISECOND) /* at a holder that has ended and still has a process id */

/* What was read of the marker on which afl_work.fd is open. */
typedef struct soft_state {
    bool known; /* dev, ino, changed, bytes and record are those of a marker */
    bool held;  /* the marker is ours */
    bool ended; /* its holder's process has ended, and is still there */
    struct timespec changed;
    off_t length; /* of the file; `size` bytes of it were read */
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

/* Whoever closes or replaces a standard stream means another one. -1: no number is left. */
static int above_streams(const afl_sys *sys, int fd)
{
    if (fd < 0 || fd > 2)
        return fd;
    int high = sys->dup_above(fd, true);
    sys->close(fd);
    return high;
}

static bool is(const struct stat *there, const afl_work *w)
{
    return there->st_dev == w->dev && there->st_ino == w->ino;
}

static int unlink_path(const afl_sys *sys, const char *path)
{
    int rc;
    do
        rc = sys->unlink(path);
    while (rc != 0 && errno == EINTR);
    return rc;
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
    return unlink_path(w->sys, w->path) == 0 || errno == ENOENT ? 0 : errno;
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

/* A network file system may keep what was written to itself until a close, and tell only then that there is no room. To
 * others the marker would be empty until the lock is released, and who finds it so may break it. So one of two
 * descriptors is closed at once. What stays is no standard stream: nothing that is printed ends in the record. */
static int flush(afl_work *w)
{
    int first = w->fd, second = w->sys->dup_above(first, true);
    if (second < 0)
        return errno;
    w->fd = second;
    return w->sys->close(first) == 0 || errno == EINTR ? 0 : errno;
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

/* Makes the new marker say who we are. 0; or errno, and the step that failed. */
static int fill_in(afl_work *w, const struct stat *mine, const char **step)
{
    char text[AFL_RECORD_SIZE];
    *step = "umask";
    if (!(mine->st_mode & S_IWUSR)) /* it would look like a file that nobody may lock */
        return EACCES;
    *step = "gethostname";
    const size_t size = own_record(w, text, sizeof text);
    if (size == 0)
        return EINVAL;
    *step = "write";
    const int error = write_all(w->sys, w->fd, text, size);
    if (error)
        return error;
    *step = "close";
    return flush(w);
}

/* The marker was created, and nothing says which file it is: it is left as one that anybody breaks in 2 s. */
static void disown(afl_work *w, int fd, int error)
{
    int undone = write_all(w->sys, fd, "?", 1);
    int closed = w->sys->close(fd) == 0 || errno == EINTR ? 0 : errno;
    afl_work_fail(w, AFL_GRIP_NONE, "fstat", error);
    w->outcome.cleanup_errno = undone ? undone : closed;
}

/* The marker was created: it is held as soon as it says by whom. Otherwise it goes again. Who is stopped for 2 s before
 * that may have lost it meanwhile. */
static void publish(afl_work *w, int fd)
{
    struct stat mine, there;
    const char *step;
    if (afl_fstat(w->sys, fd, &mine) != 0) {
        disown(w, fd, errno);
        return;
    }
    w->fd = fd;
    w->dev = mine.st_dev;
    w->ino = mine.st_ino;
    const int error = fill_in(w, &mine, &step);
    if (!error && (afl_stat(w->sys, w->path, &there, false) == 0 ? is(&there, w) : errno != ENOENT)) {
        state_of(w)->held = true;
        w->have = UINT32_MAX;
        afl_work_won(w);
        return;
    }
    int undone = 0;
    if (error) {
        afl_work_fail(w, AFL_GRIP_NONE, step, error);
        undone = unlink_ours(w);
    } else {
        w->again = true;
        afl_work_contended(w, AFL_GRIP_NONE);
    }
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

/* Is it the file that was judged, unchanged? */
static bool is_still(const struct stat *there, const struct stat *judged)
{
    return there->st_ino == judged->st_ino && there->st_dev == judged->st_dev && there->st_size == judged->st_size &&
           same_time(&there->st_mtim, &judged->st_mtim);
}

/* Gives the marker that was judged a name of its own, and takes it away if it is that one. Whoever else it is has lost
 * the path, and it is left to him. False: it could not be renamed. */
static bool put_aside(const afl_work *w, const struct stat *judged)
{
    char aside[PATH_MAX + 64];
    uint64_t dice[2];
    struct stat there;
    if (w->sys->random(dice, sizeof dice) != 0)
        return false;
    snprintf(aside, sizeof aside, "%s.break.%ld.%016" PRIx64 "%016" PRIx64, w->path, (long)w->sys->getpid(), dice[0],
             dice[1]);
    if (w->sys->rename(w->path, aside) != 0)
        return errno == ENOENT; /* somebody else has */
    if (afl_stat(w->sys, aside, &there, false) == 0 && is_still(&there, judged))
        unlink_path(w->sys, aside);
    return true;
}

/* Breaks the marker that was judged, unless somebody else is about to. What has changed is judged again. */
static void break_marker(afl_work *w, const struct stat *judged)
{
    struct stat there;
    const bool guarded = w->fd >= 0 && w->sys->flock(w->fd, LOCK_EX | LOCK_NB) == 0;
    if (!guarded && w->fd >= 0 && errno == EWOULDBLOCK) {
        w->look_again = LOOK_AGAIN;
        return;
    }
    if (afl_stat(w->sys, w->path, &there, false) != 0)
        w->again = errno == ENOENT;
    else
        w->again = !is_still(&there, judged) || put_aside(w, judged);
    if (guarded) /* a child that was forked meanwhile has the descriptor, too */
        w->sys->flock(w->fd, LOCK_UN);
    if (!w->again) {
        w->look_again = LOOK_AGAIN;
        return;
    }
    forget_holder(w);
    drop(w);
}

/* Reads the marker, unless it is the one that was read last. False: it cannot be read now. */
static bool read_marker(afl_work *w, const struct stat *there)
{
    soft_state *s = state_of(w);
    struct stat st;
    /* A file that was made and written in one tick of the clock is told by its size. */
    if (s->known && is(there, w) && same_time(&there->st_mtim, &s->changed) && there->st_size == s->length)
        return true;
    forget_holder(w);
    drop(w);
    int fd = afl_open(w->sys, w->path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC, 0);
    w->again = fd < 0 && errno == ENOENT;
    fd = above_streams(w->sys, fd);
    if (fd < 0) {
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
    s->length = s->size < sizeof s->bytes ? (off_t)s->size : st.st_size;
    s->known = true;
    return true;
}

static bool is_of_this_host(const afl_sys *sys, const afl_record *r)
{
    char host[AFL_HOST_NAME];
    return afl_host_name(sys, host) && afl_text_equal(r->host, (afl_text){host, strlen(host)});
}

/* Is the holder gone? While it lives its process is watched, if it is here. */
static bool is_gone(afl_work *w)
{
    soft_state *s = state_of(w);
    if (w->holder >= 0)
        return false; /* the very process is there */
    if (!s->ended) {
        const afl_watch watch = afl_owner_watch(w->sys, &s->record, &w->holder);
        w->holder = watch == AFL_WATCH_OPEN ? above_streams(w->sys, w->holder) : -1;
        if (w->holder >= 0 || watch == AFL_WATCH_GONE)
            return watch == AFL_WATCH_GONE;
    }
    if (!is_of_this_host(w->sys, &s->record))
        return false;
    w->look_again = LOOK_AGAIN; /* nobody tells when it is gone, or when somebody waits for the process */
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

/* A record that is not complete may become so at any time, and nobody tells. */
static bool is_no_record(afl_work *w, const struct stat *there)
{
    if (is_older(w, there, MALFORMED_AGE))
        return true;
    if (LOOK_AGAIN < w->look_again)
        w->look_again = LOOK_AGAIN;
    return false;
}

/* May what is at the path be broken? */
static bool is_void(afl_work *w, const struct stat *there)
{
    const soft_state *s = state_of(w);
    const bool regular = S_ISREG(there->st_mode);
    const bool known = regular && read_marker(w, there);
    if (!regular) {
        forget_holder(w);
        drop(w);
    }
    if (known && s->record.kind == AFL_RECORD_SENTINEL)
        return false;
    if (w->lifetime && is_older(w, there, w->lifetime))
        return true;
    if (!regular)
        return is_older(w, there, MALFORMED_AGE);
    if (!known)
        return false;
    switch (s->record.kind) {
    case AFL_RECORD_EMPTY:
        return is_no_record(w, there) && w->break_empty;
    case AFL_RECORD_MALFORMED:
        return is_no_record(w, there);
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
        w->look_again = LOOK_AGAIN;
    } else if (is_void(w, &there)) {
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
    if (w->holder_ended) { /* perhaps nobody has waited for the process yet */
        w->holder_ended = false;
        forget_holder(w);
        state_of(w)->ended = true;
    }
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
    q->here = is_of_this_host(q->sys, r);
    q->gone = afl_owner_gone(q->sys, r);
}

/* What is there may be a marker, and not that of the strict protocol, nor the file of somebody's kernel lock. */
static bool may_remove(afl_query *q, afl_work *w, const struct stat *there)
{
    if (!S_ISREG(there->st_mode) || (read_marker(w, there) && state_of(w)->record.kind == AFL_RECORD_SENTINEL)) {
        afl_query_fail(q, "read", 0);
        q->status = AFLOCK_EPROTO;
        return false;
    }
    if (w->fd < 0) {
        if (!w->again)
            afl_query_fail(q, "open", errno);
        return false;
    }
    if (w->sys->flock(w->fd, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK)
        return true;
    afl_query_fail(q, "flock", errno);
    q->status = AFLOCK_EBUSY;
    return false;
}

/* Only what was looked at is taken away. */
static void remove_marker(afl_query *q)
{
    soft_state s = {.known = false};
    afl_work w = {.sys = q->sys, .path = q->path, .fd = -1, .holder = -1, .state = &s};
    struct stat there;
    if (afl_stat(q->sys, q->path, &there, false) != 0) {
        if (errno != ENOENT)
            afl_query_fail(q, "stat", errno);
        return;
    }
    if (may_remove(q, &w, &there) && !put_aside(&w, &there))
        afl_query_fail(q, "rename", errno);
    drop(&w); /* and the lock with it: nobody else has this descriptor */
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
