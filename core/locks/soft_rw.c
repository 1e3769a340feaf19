/* The protocol `soft rw`: readers share, a writer is alone, by markers that expire (py-filelock's SoftReadWriteLock,
 * version 3.32; rwdir.h has what is where, rwmark.h what is in it).
 *
 *   a reader   makes his marker, if there is no writer's
 *   a writer   makes the one writer's marker, which is his claim: no reader comes in any more; and holds when those
 *              who are in have left
 *
 * All of that, and a writer's release, is done by whoever has the state lock, a soft lock beside the path that nobody
 * keeps for longer than one operation. Who finds it taken comes back in a moment. A reader's release takes one file
 * away and needs nobody's leave.
 *
 * A marker that was not touched for longer than the limit on which all have agreed is broken, and so is one whose
 * holder is provably gone. Holders and the writer who waits touch theirs every now and then, and learn by it that it is
 * not there any more.
 *
 * One who waits for a writer listens to the writer's marker, a writer who waits for readers to their folder.
 */
#include "locks/soft_rw.h"

#include "locks/rwown.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LOOK_AGAIN (50 * AFLOCK_MILLISECOND) /* at a holder that has ended and still has a process id */

/* ------------------------------------------------------------------------------------------------------ descriptors */

static int drop(afl_work *w)
{
    const int fd = w->fd;
    w->fd = -1;
    if (fd < 0)
        return 0;
    return w->sys->close(fd) == 0 || errno == EINTR ? 0 : errno;
}

static void forget_holder(afl_work *w)
{
    if (w->holder >= 0)
        w->sys->close(w->holder);
    w->holder = -1;
}

/* Listens to the folder, or the writer's marker, from now on. */
static void keep(afl_work *w, int fd, bool folder, uint64_t dev, uint64_t ino)
{
    afl_rwown_state *s = afl_rwown(w);
    w->renewed = w->fd >= 0 && (s->folder != folder || s->dev != dev || s->ino != ino);
    drop(w);
    w->fd = fd;
    w->listen = folder ? AFLOCK_ON_DIR : AFLOCK_ON_MARKER;
    s->folder = folder;
    s->dev = dev;
    s->ino = ino;
}

static void keep_folder(afl_work *w, afl_rwdir *d)
{
    keep(w, d->readers, true, d->dev, d->ino);
    d->readers = -1; /* it is w->fd's */
}

/* --------------------------------------------------------------------------------------------------- others' markers
 */

/* One who lives is watched, if nobody is yet. */
static bool is_gone(afl_work *w, const afl_rwseen *seen)
{
    afl_rwown_state *s = afl_rwown(w);
    const bool ended = s->ended && strcmp(s->watched, seen->mark.token) == 0;
    if (ended)
        afl_rwown_look_again(w, LOOK_AGAIN); /* nobody tells when somebody waits for the process */
    if (ended || w->holder >= 0)
        return afl_rwseen_is_gone(w->sys, seen);
    const afl_record owner = afl_rwseen_owner(seen);
    const afl_watch watch = afl_owner_watch(w->sys, &owner, &w->holder);
    w->holder = watch == AFL_WATCH_OPEN ? afl_above_streams(w->sys, w->holder) : -1;
    if (w->holder >= 0) {
        memcpy(s->watched, seen->mark.token, sizeof s->watched);
        s->ended = false;
    }
    return watch == AFL_WATCH_GONE;
}

/* Does it not count any more? What it is, and whose, does not matter once it is too old; what is no file is never
 * taken away. */
static bool is_void(afl_work *w, const afl_rwseen *seen)
{
    if (seen->error || !seen->regular)
        return false;
    const uint64_t age = afl_rwseen_age(w->sys, seen);
    if (age > w->duration || (seen->formed && is_gone(w, seen)))
        return true;
    afl_rwown_look_again(w, w->duration - age + AFLOCK_MILLISECOND);
    return false;
}

/* Does it not count any more? Who has the state lock breaks it then; who has not goes and gets it. */
static bool is_cleared(afl_work *w, int dir, const char *name, const afl_rwseen *seen)
{
    if (!is_void(w, seen))
        return false;
    if (!afl_rwown(w)->inside || afl_rwdir_break(w->sys, dir, name, seen))
        return true;
    afl_rwown_look_again(w, LOOK_AGAIN);
    return false;
}

/* Is there a writer's marker that counts, and not our own? fd: of it, or -1; the caller's. */
static bool writer_is_there(afl_work *w, afl_rwdir *d, afl_rwseen *seen, int *fd)
{
    struct stat there;
    afl_rwdir_read(w->sys, d->f.parent, d->writer, seen, fd);
    if (seen->error == ENOENT)
        return false;
    if (is_cleared(w, d->f.parent, d->writer, seen))
        return false;
    if (!seen->error && seen->regular)
        return true;
    /* As to the peer what is no file is no writer; and no writer gets past it. */
    return afl_stat_at(w->sys, d->f.parent, d->writer, &there) == 0 ? S_ISREG(there.st_mode) : errno != ENOENT;
}

typedef struct crowd {
    afl_work *w;
    const afl_rwdir *d;
    bool anybody;
} crowd;

static bool meet_reader(const char *name, void *user)
{
    crowd *c = user;
    afl_rwseen seen;
    afl_rwdir_read(c->w->sys, c->d->readers, name, &seen, NULL);
    if (seen.error == ENOENT)
        return true;
    if (is_cleared(c->w, c->d->readers, name, &seen))
        return true;
    c->anybody = true;
    return false;
}

/* Are there readers' markers that count? The others are broken as above. False: f.why says why that is not known. */
static bool look_for_readers(afl_work *w, afl_rwdir *d, bool *anybody)
{
    crowd c = {.w = w, .d = d};
    const int error = afl_rwdir_readers(w->sys, d->readers, meet_reader, &c);
    *anybody = c.anybody;
    return !error || c.anybody || afl_folder_fail(&d->f, "list", error);
}

static void fail(afl_work *w, afl_grip grip, const afl_refusal *why)
{
    afl_work_fail(w, grip, why->step, why->error);
    w->outcome.status = why->status;
    w->detail = why->detail;
}

/* RELEASE, WITHDRAW. Without the marker nothing is held any more, whatever becomes of the state lock. */
static void undo(afl_work *w)
{
    const afl_rwown_state *s = afl_rwown(w);
    const afl_rwown_undoing u = afl_rwown_take_back(w);
    const bool ours = s->reading || s->writing, held = ours && w->op == AFL_OP_RELEASE;
    const afl_grip grip = held ? AFL_GRIP_HELD : ours || s->inside ? AFL_GRIP_PENDING : AFL_GRIP_NONE;
    if (u.later) {
        afl_work_contended(w, grip);
        w->outcome.answer = AFL_CONTENDED;
        return;
    }
    if (u.why.status && (ours || w->op != AFL_OP_RELEASE)) {
        fail(w, grip, &u.why);
        return;
    }
    free(u.why.detail);
    w->outcome = (afl_outcome){.answer = AFL_WON, .grip = grip, .cleanup_errno = u.why.error};
    if (grip != AFL_GRIP_NONE)
        return;
    forget_holder(w);
    const int error = drop(w);
    if (w->op == AFL_OP_RELEASE && w->flags & AFLOCK_REPORT_CLOSE)
        w->outcome.cleanup_errno = error;
}

/* ------------------------------------------------------------------------------------------------------- the attempt
 */

typedef enum verdict { WON, CONTENDED, REFUSED } verdict;

/* Waits for the writer whose marker is open as `fd`; who is not to be read is looked at now and then. */
static void wait_for_writer(afl_work *w, const afl_rwseen *seen, int fd)
{
    if (fd >= 0)
        keep(w, fd, false, seen->st.st_dev, seen->st.st_ino);
}

/* Is there a writer's marker that counts? If so it is waited for. */
static bool is_kept_out(afl_work *w, afl_rwdir *d)
{
    afl_rwseen seen;
    int fd;
    if (writer_is_there(w, d, &seen, &fd)) {
        wait_for_writer(w, &seen, fd);
        return true;
    }
    if (fd >= 0)
        w->sys->close(fd);
    return false;
}

static verdict take_shared(afl_work *w, afl_rwdir *d)
{
    if (is_kept_out(w, d))
        return CONTENDED;
    return afl_rwown_make(w, d, true) == 0 ? WON : REFUSED;
}

/* The writer's marker is ours, and fresh. */
static verdict claim(afl_work *w, afl_rwdir *d)
{
    afl_rwown_state *s = afl_rwown(w);
    struct stat there;
    const char *step;
    if (s->writing && s->unfinished) { /* by its token nobody would know it */
        const int left = afl_rwown_stop_writing(w, d);
        if (left) {
            afl_folder_fail(&d->f, "unlink", left);
            return REFUSED;
        }
    }
    if (s->writing) {
        w->refreshed = w->sys->boottime();
        const int error = afl_rwdir_touch(w->sys, d->f.parent, d->writer, w->token, &step);
        if (error != ENOENT && error != ESRCH)
            return error ? CONTENDED : WON;
        s->writing = false; /* somebody has broken it */
    }
    if (is_kept_out(w, d))
        return CONTENDED;
    const int error = afl_rwown_make(w, d, false);
    if (error != EEXIST)
        return error ? REFUSED : WON;
    if (afl_stat_at(w->sys, d->f.parent, d->writer, &there) == 0 && !S_ISREG(there.st_mode)) {
        afl_rwdir_refuse(d, AFL_RW_WRITER, &there);
        return REFUSED;
    }
    afl_rwown_look_again(w, AFLOCK_MILLISECOND);
    return CONTENDED;
}

static verdict take_exclusive(afl_work *w, afl_rwdir *d)
{
    bool anybody;
    const verdict v = claim(w, d);
    if (v != WON)
        return v;
    if (!look_for_readers(w, d, &anybody))
        return REFUSED;
    return anybody ? CONTENDED : WON;
}

/* Would it be of no use to have the state lock? What is seen without it may change, but who makes that change is heard,
 * or looked for again. */
static bool is_hopeless(afl_work *w, afl_rwdir *d)
{
    bool anybody;
    const char *step;
    if (!afl_rwown(w)->writing)
        return is_kept_out(w, d);
    return look_for_readers(w, d, &anybody) && anybody &&
           afl_rwdir_touch(w->sys, d->f.parent, d->writer, w->token, &step) == 0;
}

static verdict attempt(afl_work *w, afl_rwdir *d)
{
    afl_rwown_state *s = afl_rwown(w);
    if (!s->inside && is_hopeless(w, d))
        return CONTENDED;
    afl_rwdir_forgive(d);
    const afl_rwown_entrance e = afl_rwown_enter(w, &d->f);
    if (e != AFL_RW_INSIDE)
        return e == AFL_RW_OUTSIDE ? CONTENDED : REFUSED;
    verdict v = w->mode == AFLOCK_SHARED ? take_shared(w, d) : take_exclusive(w, d);
    if (v == REFUSED)
        (void)afl_rwown_stop_writing(w, d);
    const int left = afl_rwown_leave(w);
    if (!left)
        return v;
    (void)afl_rwown_stop_writing(w, d); /* we are inside still */
    afl_folder_fail(&d->f, "unlink", left);
    return REFUSED;
}

static void conclude(afl_work *w, afl_rwdir *d, verdict v)
{
    const afl_rwown_state *s = afl_rwown(w);
    const int undone = v == REFUSED ? afl_rwown_stop_reading(w, d) : 0;
    const bool left = s->reading || s->writing || s->inside; /* something of ours, or so of an earlier attempt */
    if (v == REFUSED) {
        if (left && d->readers >= 0)
            keep_folder(w, d);
        else if (!left)
            drop(w);
        fail(w, left ? AFL_GRIP_PENDING : AFL_GRIP_NONE, &d->f.why);
        w->outcome.cleanup_errno = undone;
    } else if (v == WON) {
        keep_folder(w, d);
        w->have = UINT32_MAX;
        afl_work_won(w);
    } else {
        afl_rwdir_forgive(d);
        if (left && d->readers >= 0)
            keep_folder(w, d);
        else if (w->fd >= 0 && s->folder)
            drop(w);
        afl_work_contended(w, left ? AFL_GRIP_PENDING : w->fd >= 0 ? AFL_GRIP_KEPT : AFL_GRIP_NONE);
        w->outcome.renewed = w->renewed;
    }
    if (v != CONTENDED)
        forget_holder(w);
}

static verdict begin(afl_work *w, afl_rwdir *d)
{
    const int left = afl_rwown_stop_reading(w, d); /* of an earlier attempt */
    if (!left)
        return attempt(w, d);
    afl_folder_fail(&d->f, "unlink", left);
    return REFUSED;
}

static void try_path(afl_work *w)
{
    afl_rwown_state *s = afl_rwown(w);
    afl_rwdir d;
    w->renewed = w->again = false;
    w->look_again = AFLOCK_FOREVER;
    s->ended = w->holder_ended || (s->ended && w->holder < 0); /* perhaps nobody has waited for the process yet */
    w->holder_ended = false;
    forget_holder(w);
    if (afl_rwdir_open(&d, w->sys, w->path, true, (w->flags & AFLOCK_MAKE_PARENTS) != 0))
        conclude(w, &d, begin(w, &d));
    else
        conclude(w, &d, d.f.why.status && d.f.why.error != ESTALE ? REFUSED : CONTENDED); /* or it has just gone */
    afl_rwdir_close(&d);
}

/* ------------------------------------------------------------------------------------------------- the other orders */

/* Does the path still lead to the folder in which our reader's marker is? 0, ENOENT or errno. */
static int check_folder(const afl_work *w)
{
    char path[PATH_MAX + sizeof AFL_RW_READERS];
    struct stat there;
    (void)snprintf(path, sizeof path, "%s" AFL_RW_READERS, w->path);
    if (afl_stat(w->sys, path, &there, false) != 0)
        return errno == ENOTDIR ? ENOENT : errno;
    return there.st_dev == afl_rwown(w)->dev && there.st_ino == afl_rwown(w)->ino ? 0 : ENOENT;
}

/* Nothing is opened that others listen to: they would take it for somebody who comes. */
static int touch_own(afl_work *w, const char **step)
{
    afl_rwdir d = {.readers = -1};
    char name[AFL_READER_NAME];
    afl_rwown_name(w, name);
    *step = "stat";
    if (afl_rwown(w)->reading) {
        const int error = check_folder(w);
        return error ? error : afl_rwdir_touch(w->sys, w->fd, name, w->token, step);
    }
    afl_rwdir_name(&d, w->path);
    const bool open = afl_folder_begin(&d.f, w->sys, w->path, false);
    *step = open ? *step : d.f.why.step;
    const int error = open ? afl_rwdir_touch(w->sys, d.f.parent, d.writer, w->token, step) : d.f.why.error;
    afl_folder_close(&d.f);
    return error;
}

static void beat(afl_work *w)
{
    const char *step;
    const bool pending = w->claimed;
    const afl_grip grip = pending ? AFL_GRIP_PENDING : AFL_GRIP_HELD;
    const uint64_t began = w->sys->boottime();
    const int error = touch_own(w, &step);
    if (!error) {
        w->refreshed = began;
        w->outcome = (afl_outcome){.answer = AFL_WON, .grip = grip, .have = w->have};
        return;
    }
    afl_work_fail(w, grip, step, error == ESRCH ? 0 : error);
    if (error == ENOENT || error == ESRCH)
        w->why = error == ENOENT ? AFLOCK_MARKER_MISSING : AFLOCK_OWNER_CHANGED;
    else
        w->outcome.answer = AFL_CONTENDED; /* it may be different the next time */
}

/* Another reader is to share our marker: it has to be there, and no writer must have come meanwhile. */
static void adopt(afl_work *w)
{
    const char *step;
    char path[PATH_MAX + sizeof AFL_RW_WRITER];
    struct stat there;
    (void)snprintf(path, sizeof path, "%s" AFL_RW_WRITER, w->path);
    const bool writer =
        w->mode == AFLOCK_SHARED && afl_stat(w->sys, path, &there, false) == 0 && S_ISREG(there.st_mode);
    if (w->verify && (writer || touch_own(w, &step) != 0))
        afl_work_contended(w, AFL_GRIP_HELD);
    else
        afl_work_won(w);
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
    case AFL_OP_BEAT:
        beat(w);
        break;
    default:
        undo(w);
    }
    w->claimed = w->outcome.grip == AFL_GRIP_PENDING;
}

static void reconcile(afl_work *w)
{
    afl_rwown_take_back_now(w);
    forget_holder(w);
    drop(w);
}

/* The markers are the parent's. */
static void abandon(afl_work *w)
{
    afl_rwown_state *s = afl_rwown(w);
    if (s->state.protocol)
        afl_protocol_soft.abandon(&s->state);
    forget_holder(w);
    drop(w);
}

const afl_protocol afl_protocol_soft_rw = {
    .name = "soft-rw",
    .marker = true,
    .join = true,
    .lease = true,
    .notify = AFLOCK_ON_MARKER,
    .state_size = sizeof(afl_rwown_state),
    .run = run,
    .reconcile = reconcile,
    .abandon = abandon,
    .verify = afl_soft_rw_verify,
    .inspect = afl_soft_rw_inspect,
};
