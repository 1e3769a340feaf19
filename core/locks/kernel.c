/* Protocols on the kernel's whole-file locks: `flock` (py-filelock's FileLock, portalocker's Lock, flock(1)) and `ofd`
 * (open-file-description locks, flock(1) --fcntl).
 *
 * One attempt: open (creating the file and its parents if asked), lock without waiting, and check that the path still
 * names the locked inode, because a peer may have unlinked it between the two. A contended descriptor is kept for the
 * next attempt: closing it would wake everybody who listens for the holder's close. Contents and mode are touched only
 * once the lock is held, nothing is ever unlinked, and a caller's own descriptor is only locked and unlocked.
 */
#include "locks/marker.h"
#include "locks/protocol.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/sysmacros.h>

enum { REOPENS = 16 }; /* of a path that others replace under our hands, before it counts as contended */

/* ------------------------------------------------------------------------------------------------------- the locks */

/* 0, or errno; EWOULDBLOCK: contended. wait: until it is free. */
static int lock(const afl_work *w, int fd, aflock_mode mode, bool wait)
{
    int rc;
    do {
        if (w->protocol == &afl_protocol_ofd)
            rc = w->sys->lock_ofd(fd, mode == AFLOCK_SHARED ? F_RDLCK : F_WRLCK, wait);
        else
            rc = w->sys->flock(fd, (mode == AFLOCK_SHARED ? LOCK_SH : LOCK_EX) | (wait ? 0 : LOCK_NB));
    } while (rc != 0 && errno == EINTR); /* also happens without waiting */
    if (rc == 0)
        return 0;
    return errno == EAGAIN || errno == EACCES ? EWOULDBLOCK : errno;
}

/* EBADF: somebody closed our descriptor, and the lock went with it. The number may be another file's by now. */
static int unlock(afl_work *w)
{
    int rc;
    do
        rc = w->protocol == &afl_protocol_ofd ? w->sys->lock_ofd(w->fd, F_UNLCK, false) : w->sys->flock(w->fd, LOCK_UN);
    while (rc != 0 && errno == EINTR);
    if (rc == 0)
        return 0;
    if (errno == EBADF && w->path)
        w->fd = -1;
    return errno;
}

/* Closes our descriptor. Without the lock on it there is nothing to lose: an error is returned, not retried. */
static int drop(afl_work *w)
{
    int fd = w->fd;
    if (!w->path || fd < 0)
        return 0;
    w->fd = -1;
    return w->sys->close(fd) == 0 || errno == EINTR ? 0 : errno;
}

static const char *lock_step(const afl_work *w)
{
    return w->protocol == &afl_protocol_ofd ? "fcntl" : "flock";
}

/* ---------------------------------------------------------------------------------------------------------- opening */

static int open_flags(const afl_work *w)
{
    int flags = w->flags & AFLOCK_READ_ONLY ? O_RDONLY : O_RDWR;
    flags |= O_NONBLOCK | O_NOCTTY; /* a FIFO must not block the open; regular files ignore it */
    if (!(w->flags & AFLOCK_FOLLOW))
        flags |= O_NOFOLLOW;
    if (!(w->flags & AFLOCK_INHERIT))
        flags |= O_CLOEXEC;
    return flags;
}

/* Is the directory that would hold the path there? Then ENOENT from an O_CREAT was a passing one (FUSE, NFS). */
static bool parent_exists(const afl_work *w)
{
    afl_identity id;
    afl_fault fault;
    return afl_identify_parent(w->sys, w->path, false, false, &id, &fault);
}

/* Opens for locking; creates what is allowed. Leaves w->fd, or false and the fault. Where the lock may turn out to be a
 * marker we have to know whether it is we who create the file. */
static bool open_file(afl_work *w, afl_fault *fault)
{
    const bool apart = w->protocol->falls_to != NULL;
    const int may_create = w->flags & AFLOCK_CREATE ? O_CREAT | (apart ? O_EXCL : 0) : 0;
    const mode_t mode = w->file_mode == AFLOCK_MODE_DEFAULT ? 0666 : (mode_t)(w->file_mode & 07777);
    int flags = open_flags(w), create = apart ? 0 : may_create;
    bool parents = !(w->flags & AFLOCK_MAKE_PARENTS); /* they are there, or none of our business */
    fault->step = "open";
    for (int i = 0; i <= REOPENS; i++) {
        w->fd = afl_open(w->sys, w->path, flags | create, mode);
        w->created = w->fd >= 0 && create & O_EXCL;
        if (w->fd >= 0)
            return true;
        fault->error = errno;
        switch (fault->error) {
        case EISDIR:
            if (!(w->flags & AFLOCK_DIRECTORY))
                return false;
            flags = (flags & ~O_ACCMODE) | O_RDONLY | O_DIRECTORY;
            create = 0;
            break;
        case EACCES: /* a sticky directory refuses O_CREAT on another user's file */
        case EPERM:
            if (!create || apart)
                return false;
            create = 0;
            break;
        case EEXIST: /* somebody has made it meanwhile */
            create = 0;
            break;
        case ENOENT:
        case ENOTDIR:
            if (flags & O_DIRECTORY || (fault->error == ENOENT && create != may_create)) {
                flags = open_flags(w); /* what was there has gone meanwhile */
                create = may_create;
            } else if (fault->error == ENOTDIR || !create) {
                return false;
            } else if (!parents) {
                parents = true;
                if (!afl_make_parents(w->sys, w->path, fault))
                    return false;
                fault->step = "open";
            } else if (!parent_exists(w)) {
                return false;
            }
            break;
        default:
            return false;
        }
    }
    return false;
}

/* ------------------------------------------------------------------------------------------------------ the attempt */

typedef enum { SAME, REPLACED, BROKEN } check_result;

/* What the descriptor is open on. Asked once: it never changes. */
static check_result identify(afl_work *w)
{
    struct stat mine;
    if (w->identified)
        return SAME;
    if (afl_fstat(w->sys, w->fd, &mine) != 0) {
        afl_work_fail(w, AFL_GRIP_NONE, "fstat", errno);
        return BROKEN;
    }
    bool directory = S_ISDIR(mine.st_mode);
    if (!S_ISREG(mine.st_mode) && !(directory && w->flags & AFLOCK_DIRECTORY)) {
        afl_work_fail(w, AFL_GRIP_NONE, "open", directory ? EISDIR : ENXIO);
        return BROKEN;
    }
    if (mine.st_nlink == 0)
        return REPLACED;
    w->identified = true;
    w->dev = mine.st_dev;
    w->ino = mine.st_ino;
    w->have = afl_needs(w->flags);
    if (!directory)
        w->have |= AFL_NEED_FILE;
    return SAME;
}

/* Is the descriptor a file that may be locked, and does the path name it? */
static check_result check_file(afl_work *w)
{
    struct stat there;
    check_result result = identify(w);
    if (result != SAME)
        return result;
    if (afl_stat(w->sys, w->path, &there, (w->flags & AFLOCK_FOLLOW) != 0) != 0) {
        if (errno == ENOENT || errno == ENOTDIR || errno == ESTALE)
            return REPLACED;
        afl_work_fail(w, AFL_GRIP_NONE, "stat", errno);
        return BROKEN;
    }
    return there.st_ino == w->ino && there.st_dev == w->dev ? SAME : REPLACED;
}

/* Gives up a lock that is of no use, keeping the outcome and noting what went wrong with it. */
static void undo(afl_work *w)
{
    int error = unlock(w);
    int closing = drop(w);
    w->outcome.cleanup_errno = error ? error : closing;
}

/* In a program that has closed its standard streams, what it prints must not end in a locked file. */
static void leave_standard_streams(afl_work *w)
{
    if (w->fd < 0 || w->fd > 2)
        return;
    int low = w->fd;
    w->fd = w->sys->dup_above(low, !(w->flags & AFLOCK_INHERIT));
    if (w->fd < 0)
        afl_work_fail(w, AFL_GRIP_NONE, "dup", errno);
    w->sys->close(low);
}

/* Opens if need be. False: the outcome is there. */
static bool have_descriptor(afl_work *w)
{
    if (w->fd >= 0 && (afl_needs(w->flags) & ~w->have) == 0)
        return true;
    drop(w);
    w->created = false;
    if (w->inline_only) {
        w->fd = w->sys->open_cached(w->path, open_flags(w));
        w->not_inline = w->fd < 0;
    } else {
        afl_fault fault;
        if (!open_file(w, &fault))
            afl_work_fail(w, AFL_GRIP_NONE, fault.step, fault.error);
    }
    leave_standard_streams(w);
    if (w->fd < 0)
        return false;
    w->identified = false;
    w->renewed = true;
    w->have = afl_needs(w->flags);
    return true;
}

/* The file system has no such locks. A file that this attempt has created would look like somebody's marker; any other
 * may be one. */
static void fall(afl_work *w)
{
    const int error = w->created ? afl_marker_unlink(w->sys, w->path, w->dev, w->ino) : 0;
    w->created = false;
    w->falls = error == 0;
    if (error)
        afl_work_fail(w, AFL_GRIP_NONE, "unlink", error);
    else
        afl_work_contended(w, AFL_GRIP_NONE);
    w->outcome.cleanup_errno = drop(w);
}

static void try_path(afl_work *w)
{
    const bool had_one = w->fd >= 0 || w->lost_one;
    w->renewed = w->lost_one = w->falls = false;
    for (int i = 0; i < REOPENS; i++) {
        bool kept = w->fd >= 0;
        if (!have_descriptor(w)) {
            w->lost_one = had_one && w->not_inline;
            return;
        }
        if (identify(w) == BROKEN) { /* before the lock: what cannot be locked is not waited for */
            w->outcome.cleanup_errno = drop(w);
            return;
        }
        int error = lock(w, w->fd, w->mode, w->park && !w->renewed);
        if (w->park && !error && !w->renewed && !afl_work_claim(w)) {
            afl_work_contended(w, AFL_GRIP_NONE);
            undo(w);
            return;
        }
        if (error == ESTALE && kept) { /* a server has forgotten it: the path may name another one */
            drop(w);
            continue;
        }
        if (error == ENOSYS && w->protocol->falls_to) {
            fall(w);
            return;
        }
        if (error && error != EWOULDBLOCK) {
            afl_work_fail(w, AFL_GRIP_NONE, lock_step(w), error);
            w->outcome.cleanup_errno = drop(w);
            return;
        }
        /* A fresh descriptor that is contended names the path well enough; a kept one may name a file that is gone. */
        check_result result = error && !kept ? SAME : check_file(w);
        if (result == SAME && error)
            afl_work_contended(w, AFL_GRIP_KEPT);
        else if (result == SAME)
            afl_work_won(w);
        else if (result == BROKEN)
            undo(w);
        if (result != REPLACED) {
            w->outcome.renewed = had_one && w->renewed;
            return;
        }
        if (!error)
            unlock(w); /* a forked child may have the descriptor, too */
        drop(w);
    }
    afl_work_contended(w, AFL_GRIP_NONE);
}

static void try_descriptor(afl_work *w)
{
    int error = lock(w, w->fd, w->mode, false);
    w->have = UINT32_MAX;
    if (error == EWOULDBLOCK)
        afl_work_contended(w, AFL_GRIP_NONE);
    else if (error)
        afl_work_fail(w, AFL_GRIP_NONE, lock_step(w), error);
    else
        afl_work_won(w);
}

/* ------------------------------------------------------------------------------------------- adopt, release, the rest
 */

static bool convert_to_shared(afl_work *w)
{
    int error = lock(w, w->fd, AFLOCK_SHARED, false);
    if (!error)
        return true;
    /* The kernel drops the exclusive lock before it asks for the shared one: contended, it is gone. What other failures
     * have left nobody knows, so it is of no use to the next one either. */
    if (error == EWOULDBLOCK) {
        afl_work_contended(w, w->path ? AFL_GRIP_KEPT : AFL_GRIP_NONE);
        return false;
    }
    afl_work_fail(w, AFL_GRIP_NONE, lock_step(w), error);
    undo(w);
    if (!w->path && w->outcome.cleanup_errno)
        w->outcome.grip = AFL_GRIP_HELD; /* a caller's descriptor is not closed: unlocking is tried again */
    return false;
}

static bool still_named(const afl_work *w)
{
    struct stat there;
    if (!w->path)
        return true;
    return afl_stat(w->sys, w->path, &there, (w->flags & AFLOCK_FOLLOW) != 0) == 0 && there.st_dev == w->dev &&
           there.st_ino == w->ino;
}

static bool set_mode(afl_work *w)
{
    int rc;
    do
        rc = w->sys->fchmod(w->fd, (mode_t)w->file_mode & 07777);
    while (rc != 0 && errno == EINTR);
    if (rc == 0 || errno == EPERM || errno == EACCES)
        return true;
    afl_work_fail(w, AFL_GRIP_HELD, "fchmod", errno);
    return false;
}

static bool truncate_file(afl_work *w)
{
    struct stat st;
    int rc;
    if (afl_fstat(w->sys, w->fd, &st) != 0) {
        afl_work_fail(w, AFL_GRIP_HELD, "fstat", errno);
        return false;
    }
    if (!S_ISREG(st.st_mode) || st.st_size == 0)
        return true;
    do
        rc = w->sys->ftruncate(w->fd, 0);
    while (rc != 0 && errno == EINTR);
    if (rc == 0)
        return true;
    afl_work_fail(w, AFL_GRIP_HELD, "ftruncate", errno);
    return false;
}

/* Mode, truncation, on_acquired. False: the outcome is there. */
static bool serve_wishes(afl_work *w)
{
    if (w->path && w->file_mode != AFLOCK_MODE_DEFAULT && !set_mode(w))
        return false;
    if (w->path && w->flags & AFLOCK_TRUNCATE && !truncate_file(w))
        return false;
    int refused = w->on_acquired ? w->on_acquired(w->fd, w->on_acquired_user) : 0;
    if (refused) {
        afl_work_fail(w, AFL_GRIP_HELD, "on_acquired", refused);
        w->outcome.status = AFLOCK_EREFUSED;
        return false;
    }
    return true;
}

static void adopt(afl_work *w)
{
    if (w->convert && !convert_to_shared(w))
        return;
    if ((w->verify || w->convert) && !still_named(w)) /* converting, the kernel lets go for a moment */
        afl_work_contended(w, AFL_GRIP_HELD);
    else if (atomic_load(&w->left) || serve_wishes(w))
        afl_work_won(w);
}

/* Who listens for the close of a file that stays open has to hear something else. False: that is not to be had. */
static bool touch(const afl_work *w)
{
    char path[40];
    if (w->sys->touch(w->fd) == 0)
        return true;
    snprintf(path, sizeof path, "/proc/self/fd/%d", w->fd); /* not ours, or a read-only file system */
    int fd = afl_open(w->sys, path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC, 0);
    if (fd >= 0)
        w->sys->close(fd);
    return fd >= 0;
}

/* The descriptor stays open, and those who wait have heard that it is unlocked. What the next program is to inherit is
 * for this hold only. */
static bool leave_open(const afl_work *w)
{
    return w->keep && !(w->have & AFL_NEED_INHERIT) && touch(w);
}

static void give_up(afl_work *w)
{
    int error = unlock(w);
    if (error && error != EBADF) {
        afl_work_fail(w, AFL_GRIP_HELD, "unlock", error);
        return;
    }
    w->outcome = (afl_outcome){.answer = AFL_WON, .grip = AFL_GRIP_NONE};
    if (error) {
        w->outcome.cleanup_errno = error;
        return;
    }
    if (leave_open(w)) {
        w->outcome.grip = AFL_GRIP_KEPT;
        return;
    }
    error = drop(w);
    if (w->flags & AFLOCK_REPORT_CLOSE)
        w->outcome.cleanup_errno = error;
}

static void run(afl_work *w)
{
    w->not_inline = false;
    switch (w->op) {
    case AFL_OP_TRY:
        if (w->path)
            try_path(w);
        else
            try_descriptor(w);
        break;
    case AFL_OP_ADOPT:
        adopt(w);
        break;
    case AFL_OP_RELEASE:
        give_up(w);
        break;
    default: /* WITHDRAW: a kept descriptor has no lock on it */
        drop(w);
        w->outcome = (afl_outcome){.answer = AFL_WON, .grip = AFL_GRIP_NONE};
    }
}

static void reconcile(afl_work *w)
{
    if (w->fd >= 0 && w->path) {
        unlock(w);
        drop(w);
    }
}

static void abandon(afl_work *w)
{
    drop(w); /* a close in a child leaves the parent's lock alone; an unlock would not */
}

/* ------------------------------------------------------------------------------------------------------- questions */

/* The kernel gives /proc/locks out in pieces, and while others lock and unlock an entry can come twice, or not at all:
 * a process counts once, and a file that nobody seems to hold is looked for again. */
enum { PROCESSES = 64, LOOKS = 3 };

typedef struct lock_search {
    afl_query *query;
    const char *kind, *device;
    long long seen[PROCESSES];
} lock_search;

static bool seen_before(lock_search *search, long long pid)
{
    uint32_t known = search->query->count < PROCESSES ? search->query->count : PROCESSES;
    for (uint32_t i = 0; i < known; i++)
        if (pid > 0 && search->seen[i] == pid)
            return true;
    if (known < PROCESSES)
        search->seen[known] = pid;
    return false;
}

/* A line of /proc/locks, see proc(5): "1: FLOCK  ADVISORY  WRITE 708 08:01:13567 0 EOF"; "->" marks a waiter. */
#define LOCK_LINE "%15s%*[ ]%*s %15s%*[ ]%lld%*[ ]%x:%x:%llu"

static bool lock_line(char *text, void *user)
{
    lock_search *search = user;
    afl_query *q = search->query;
    char kind[16], access[16];
    unsigned major, minor;
    long long pid;
    unsigned long long ino;
    if (sscanf(text, "%*s " LOCK_LINE, kind, access, &pid, &major, &minor, &ino) != 6)
        return true;
    char device[32];
    snprintf(device, sizeof device, "%u:%u", major, minor);
    if (strcmp(kind, search->kind) != 0 || ino != q->ino || strcmp(device, search->device) != 0 ||
        seen_before(search, pid))
        return true;
    q->held = 1;
    q->count++;
    if (q->count == 1 || q->pid <= 0) {
        q->pid = pid > 0 ? pid : 0;
        q->here = true;
        q->mode = strcmp(access, "WRITE") == 0 ? AFLOCK_EXCLUSIVE : AFLOCK_SHARED;
    }
    return true;
}

static const char *lock_kind(const afl_query *q)
{
    return q->protocol == &afl_protocol_ofd ? "OFDLCK" : "FLOCK";
}

static void inspect(afl_query *q)
{
    afl_identity id;
    char device[32];
    int fd = q->fd;
    if (q->path)
        fd = afl_open(q->sys, q->path, O_PATH | O_CLOEXEC | (q->follow ? 0 : O_NOFOLLOW), 0);
    if (fd < 0) {
        if (errno != ENOENT) /* nothing there: nobody holds it */
            afl_query_fail(q, "open", errno);
        return;
    }
    if (q->sys->identify(fd, &id) != 0) {
        afl_query_fail(q, "stat", errno);
    } else {
        q->ino = id.ino;
        afl_classify_mount(q->sys, id.mount, device); /* the device as /proc/locks prints it; btrfs has others too */
        if (!device[0])
            snprintf(device, sizeof device, "%u:%u", (unsigned)(id.dev >> 32), (unsigned)id.dev);
        lock_search search = {.query = q, .kind = lock_kind(q), .device = device};
        int error = 0;
        for (int i = 0; i < LOOKS && !error && !q->held; i++)
            error = afl_read_lines(q->sys, "/proc/locks", lock_line, &search);
        if (error)
            afl_query_fail(q, "read /proc/locks", error);
    }
    if (q->path)
        q->sys->close(fd);
}

/* On open-file-description locks also wait those of processes. */
static bool waiter_line(char *text, void *user)
{
    lock_search *search = user;
    afl_query *q = search->query;
    char kind[16], access[16], device[32];
    unsigned major, minor;
    long long pid;
    unsigned long long ino;
    if (sscanf(text, "%*s -> " LOCK_LINE, kind, access, &pid, &major, &minor, &ino) != 6)
        return true;
    snprintf(device, sizeof device, "%u:%u", major, minor);
    bool conflicts =
        strcmp(kind, search->kind) == 0 || (q->protocol == &afl_protocol_ofd && strcmp(kind, "POSIX") == 0);
    if (q->but_ours && pid == q->sys->getpid())
        return true;
    if (conflicts && ino == q->ino && strcmp(device, search->device) == 0)
        q->count++;
    return true;
}

/* Asks nothing of the file or its system. Only file systems without a block device of their own may have files with
 * others (btrfs): then the directory's mount tells it as /proc/locks prints it, unless a symbolic link leads away. */
static void waiters(afl_query *q)
{
    char device[32] = "";
    if (major(q->dev) == 0 && q->where.dev == ((uint64_t)major(q->dev) << 32 | minor(q->dev)))
        afl_classify_mount(q->sys, q->where.mount, device);
    if (!device[0])
        snprintf(device, sizeof device, "%u:%u", major(q->dev), minor(q->dev));
    lock_search search = {.query = q, .kind = lock_kind(q), .device = device};
    afl_read_lines(q->sys, "/proc/locks", waiter_line, &search);
}

const afl_protocol afl_protocol_flock = {
    .name = "native",
    .hand_on = true,
    .notify = AFLOCK_ON_FILE,
    .park = true,
    .run = run,
    .reconcile = reconcile,
    .abandon = abandon,
    .verify = afl_query_verify,
    .inspect = inspect,
    .waiters = waiters,
};

const afl_protocol afl_protocol_flock_or_soft = {
    .name = "native",
    .hand_on = true,
    .falls_to = &afl_protocol_soft_guest,
    .notify = AFLOCK_ON_FILE,
    .park = true,
    .run = run,
    .reconcile = reconcile,
    .abandon = abandon,
    .verify = afl_query_verify,
    .inspect = inspect,
    .waiters = waiters,
};

const afl_protocol afl_protocol_ofd = {
    .name = "ofd",
    .hand_on = true,
    .notify = AFLOCK_ON_FILE,
    .park = true,
    .run = run,
    .reconcile = reconcile,
    .abandon = abandon,
    .verify = afl_query_verify,
    .inspect = inspect,
    .waiters = waiters,
};
