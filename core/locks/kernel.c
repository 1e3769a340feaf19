/* What the protocols on the kernel's locks share: those on the whole file (whole.c) and those on some of its bytes;
 * kernel.h says in what they differ.
 *
 * One attempt: open (creating the file and its parents if asked), lock without waiting, and check that the path still
 * names the locked inode, because a peer may have unlinked it between the two. A contended descriptor is kept for the
 * next attempt: closing it would wake everybody who listens for the holder's close. Contents and mode are touched only
 * once the lock is held, nothing but a temporary file is ever unlinked, and a caller's own descriptor is only locked
 * and unlocked.
 */
#include "locks/kernel.h"
#include "locks/marker.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>

enum { REOPENS = 16 }; /* of a path that others replace under our hands, before it counts as contended */

/* ------------------------------------------------------------------------------------------------------- the locks */

/* 0, or errno; EWOULDBLOCK: contended. wait: until it is free. */
static int lock(afl_work *w, aflock_mode mode, bool wait)
{
    return w->protocol->kernel->lock(w, mode, wait);
}

/* EBADF: somebody closed our descriptor, and the lock went with it. The number may be another file's by now. */
static int unlock(afl_work *w)
{
    int error = w->protocol->kernel->unlock(w);
    if (error && error != EBADF)
        return error;
    w->claimed = false;
    if (error && w->path)
        w->fd = -1;
    return error;
}

/* Closes our descriptor. Without the lock on it there is nothing to lose: an error is returned, not retried. */
static int drop(afl_work *w)
{
    int fd = w->fd;
    if (!w->path || fd < 0)
        return 0;
    w->fd = -1;
    w->claimed = false;
    return w->sys->close(fd) == 0 || errno == EINTR ? 0 : errno;
}

static const char *lock_step(const afl_work *w)
{
    return w->protocol->kernel->step;
}

/* ---------------------------------------------------------------------------------------------------------- opening */

static int open_flags(const afl_work *w)
{
    int flags = w->flags & AFLOCK_READ_ONLY ? O_RDONLY : O_RDWR;
    flags |= O_NONBLOCK | O_NOCTTY; /* a FIFO must not block the open; regular files ignore it */
    if (w->flags & AFLOCK_APPEND)
        flags |= O_APPEND;
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

/* A temporary file goes while it is locked, and by nobody else: who locks it later finds that the path names it no
 * more, and who shares it removes it when it is the last. True: it is to be given up, whatever unlocking says, as it
 * keeps nobody out any more. */
static bool remove_file(afl_work *w, int *error)
{
    *error = 0;
    if (!w->protocol->temporary || !w->identified)
        return false;
    *error = lock(w, AFLOCK_EXCLUSIVE, false);
    if (!*error) {
        *error = afl_marker_unlink(w->sys, w->path, w->dev, w->ino);
        return !*error;
    }
    if (*error == EWOULDBLOCK)
        *error = 0;
    return false;
}

/* Gives up a lock that is of no use, keeping the outcome and noting what went wrong with it. */
void afl_kernel_undo(afl_work *w)
{
    int removing = 0, error = 0;
    if (w->fd >= 0) {
        remove_file(w, &removing);
        error = unlock(w);
    }
    int closing = drop(w);
    w->outcome.cleanup_errno = removing ? removing : error ? error : closing;
}

/* Nothing that was taken stays, also where a forked child has the descriptor, too. */
static int let_go(afl_work *w)
{
    int error = w->claimed ? unlock(w) : 0;
    int closing = drop(w);
    return error ? error : closing;
}

/* Where the kernel or the file system has no such locks, or no lock at all, SQLite cannot work either. */
static void fail_to_lock(afl_work *w, int error)
{
    afl_work_fail(w, AFL_GRIP_NONE, lock_step(w), error);
    if (w->protocol->database && !w->claimed && (error == EINVAL || error == ENOLCK))
        w->outcome.status = AFLOCK_ENOTSUP;
    w->outcome.cleanup_errno = let_go(w);
}

/* Is what is in the file what the protocol is for? */
static check_result check_content(afl_work *w, bool locked)
{
    const afl_kernel_kind *kind = w->protocol->kernel;
    return !kind->check || kind->check(w, locked) ? SAME : BROKEN;
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
    let_go(w);
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
        const bool claimed = w->claimed;
        if (identify(w) == BROKEN) { /* before the lock: what cannot be locked is not waited for */
            w->outcome.cleanup_errno = drop(w);
            return;
        }
        int error = lock(w, w->mode, w->park && !w->renewed);
        const bool took = !error || w->claimed != claimed;
        if (w->park && took && !w->renewed && !afl_work_claim(w)) {
            afl_work_contended(w, AFL_GRIP_NONE);
            afl_kernel_undo(w);
            return;
        }
        if (error == ESTALE && kept) { /* a server has forgotten it: the path may name another one */
            let_go(w);
            continue;
        }
        if (error == ENOSYS && w->protocol->falls_to) {
            fall(w);
            return;
        }
        if (error && error != EWOULDBLOCK) {
            fail_to_lock(w, error);
            return;
        }
        /* A fresh descriptor that is contended names the path well enough; a kept one may name a file that is gone. */
        check_result result = error && !kept ? SAME : check_file(w);
        if (result == SAME && (took || !kept))
            result = check_content(w, !error);
        if (result == SAME && error)
            afl_work_contended(w, w->claimed ? AFL_GRIP_PENDING : AFL_GRIP_KEPT);
        else if (result == SAME)
            afl_work_won(w);
        else if (result == BROKEN)
            afl_kernel_undo(w);
        if (result != REPLACED) {
            w->outcome.renewed = had_one && w->renewed;
            w->lost_one = had_one && w->not_inline;
            return;
        }
        if (!error || w->claimed)
            unlock(w); /* a forked child may have the descriptor, too */
        drop(w);
    }
    afl_work_contended(w, AFL_GRIP_NONE);
}

static void try_descriptor(afl_work *w)
{
    int error = lock(w, w->mode, false);
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
    int error = w->protocol->kernel->share(w);
    if (!error)
        return true;
    /* The kernel drops the exclusive lock before it asks for the shared one: contended, it is gone. What other failures
     * have left nobody knows, so it is of no use to the next one either. */
    if (error == EWOULDBLOCK) {
        afl_work_contended(w, w->path ? AFL_GRIP_KEPT : AFL_GRIP_NONE);
        return false;
    }
    afl_work_fail(w, AFL_GRIP_NONE, lock_step(w), error);
    afl_kernel_undo(w);
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

/* Mode, truncation, offset, on_acquired. False: the outcome is there. */
static bool serve_wishes(afl_work *w)
{
    if (w->path && w->file_mode != AFLOCK_MODE_DEFAULT && !set_mode(w))
        return false;
    if (w->path && w->flags & AFLOCK_TRUNCATE && !truncate_file(w))
        return false;
    if (w->path && w->flags & AFLOCK_REWIND && !w->joins && w->sys->rewind(w->fd) != 0) {
        afl_work_fail(w, AFL_GRIP_HELD, "lseek", errno);
        return false;
    }
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

/* What is kept has no lock on it, unless it is a claim. */
static void withdraw(afl_work *w)
{
    int error = w->claimed ? unlock(w) : 0;
    if (error && error != EBADF) {
        afl_work_fail(w, AFL_GRIP_PENDING, "unlock", error);
        return;
    }
    drop(w);
    w->outcome = (afl_outcome){.answer = AFL_WON, .grip = AFL_GRIP_NONE};
}

static void give_up(afl_work *w)
{
    int removing;
    if (w->inline_only && w->protocol->temporary) {
        w->not_inline = true;
        return;
    }
    const bool removed = remove_file(w, &removing);
    int error = unlock(w);
    if (error && error != EBADF && !removed) {
        afl_work_fail(w, AFL_GRIP_HELD, "unlock", error);
        return;
    }
    w->outcome = (afl_outcome){.answer = AFL_WON, .grip = AFL_GRIP_NONE, .cleanup_errno = removing ? removing : error};
    if (w->fd < 0)
        return;
    if (leave_open(w)) {
        w->outcome.grip = AFL_GRIP_KEPT;
        return;
    }
    error = drop(w);
    if (w->flags & AFLOCK_REPORT_CLOSE && !w->outcome.cleanup_errno)
        w->outcome.cleanup_errno = error;
}

void afl_kernel_run(afl_work *w)
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
    default:
        withdraw(w);
    }
}

void afl_kernel_reconcile(afl_work *w)
{
    int removing;
    if (w->fd >= 0 && w->path) {
        if (w->outcome.grip == AFL_GRIP_HELD)
            remove_file(w, &removing);
        unlock(w);
        drop(w);
    }
}

void afl_kernel_abandon(afl_work *w)
{
    drop(w); /* a close in a child leaves the parent's lock alone; an unlock would not */
}
