/* What soft locks and leases have in common: the lock is that a file exists, the marker, and it says who holds it.
 *
 * One attempt: make the marker (marker.h). If there is one, it is read once for each inode and time of modification,
 * and judged. To break it is to rename it to a name of our own, to look whether that was the one that was judged, and
 * then to unlink it; whoever breaks does not take the lock in the same attempt.
 *
 * Of two who take the same marker away, be it that they break it or that one of them holds it, the second must not take
 * what somebody has made since. So each has the file flocked meanwhile, and looks once more whether the path still
 * names it. That settles it among us, where the file system has such locks; the peer has only the look at what was
 * renamed.
 *
 * While waiting, the descriptor by which the marker was read is kept, to listen to it, and one of the holder's process,
 * if it is on this host. Reading closes nothing that others listen to: they do not listen for closes here. And our own
 * marker is made, but for its name: to make a file may take the file system longer than all the rest.
 */
#include "locks/existence.h"
#include "locks/identity.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>

#define MALFORMED_AGE (2 * AFLOCK_SECOND)
#define BUSY_AT_MOST (2 * AFLOCK_SECOND)
#define LOOK_AGAIN (50 * AFLOCK_MILLISECOND) /* at a holder that has ended and still has a process id */

static afl_existence *state_of(const afl_work *w)
{
    return w->state;
}

/* ------------------------------------------------------------------------------------------------------ descriptors */

/* 0, or errno, which itself stays what it was: who drops something has failed already. */
static int drop(afl_work *w)
{
    int fd = w->fd;
    const int before = errno;
    state_of(w)->known = false;
    if (fd < 0)
        return 0;
    w->fd = -1;
    const int error = w->sys->close(fd) == 0 || errno == EINTR ? 0 : errno;
    errno = before;
    return error;
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

/* -------------------------------------------------------------------------------------------------- somebody else's */

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
        afl_unlink(w->sys, aside);
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
    /* A child that was forked meanwhile has the descriptor, too. EBADF: somebody closed it, and the number may be
     * another file's by now. */
    if (guarded && w->sys->flock(w->fd, LOCK_UN) != 0 && errno == EBADF)
        w->fd = -1;
    if (!w->again) {
        w->look_again = LOOK_AGAIN;
        return;
    }
    forget_holder(w);
    drop(w);
}

/* The same of a regular file. False: it cannot be read now. */
static bool read_marker(afl_work *w, const struct stat *there)
{
    afl_existence *s = state_of(w);
    struct stat st;
    /* A file that was made and written in one tick of the clock is told by its size. */
    if (s->known && is(there, w) && same_time(&there->st_mtim, &s->changed) && there->st_size == s->length)
        return true;
    forget_holder(w);
    drop(w);
    int fd = afl_open(w->sys, w->path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC, 0);
    w->again = fd < 0 && errno == ENOENT;
    fd = afl_above_streams(w->sys, fd);
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

/* Does the record name this host? *known: that can be told. */
static bool is_of_this_host(const afl_sys *sys, const afl_record *r, bool *known)
{
    char host[AFL_HOST_NAME];
    *known = afl_host_name(sys, host);
    return *known && afl_text_equal(r->host, (afl_text){host, strlen(host)});
}

bool afl_existence_is_gone(afl_work *w)
{
    afl_existence *s = state_of(w);
    if (w->holder >= 0)
        return false; /* the very process is there */
    if (!s->ended) {
        const afl_watch watch = afl_owner_watch(w->sys, &s->record, &w->holder);
        w->holder = watch == AFL_WATCH_OPEN ? afl_above_streams(w->sys, w->holder) : -1;
        if (w->holder >= 0 || watch == AFL_WATCH_GONE)
            return watch == AFL_WATCH_GONE;
    }
    bool known;
    if (!is_of_this_host(w->sys, &s->record, &known) && known)
        return false;
    w->look_again = LOOK_AGAIN; /* nobody tells when it is gone, or when somebody waits for the process */
    return afl_owner_gone(w->sys, &s->record);
}

bool afl_existence_is_older(afl_work *w, const struct stat *there, uint64_t limit)
{
    uint64_t age = afl_age(w->sys, &there->st_mtim);
    if (age >= limit)
        return true;
    if (limit - age < w->look_again)
        w->look_again = limit - age;
    return false;
}

/* A record that is not complete may become so at any time, and nobody tells. */
static bool is_no_record(afl_work *w, const struct stat *there)
{
    if (afl_existence_is_older(w, there, MALFORMED_AGE))
        return true;
    if (LOOK_AGAIN < w->look_again)
        w->look_again = LOOK_AGAIN;
    return false;
}

/* What is there, as it was read last or now. */
static const afl_record *record_of(afl_work *w, const struct stat *there)
{
    if (S_ISREG(there->st_mode))
        return read_marker(w, there) ? &state_of(w)->record : NULL;
    forget_holder(w);
    drop(w);
    return NULL;
}

afl_verdict afl_existence_judge(afl_work *w, const struct stat *there, const afl_record *record)
{
    bool is_void;
    if (!S_ISREG(there->st_mode) || (record && record->kind == AFL_RECORD_SENTINEL))
        return AFL_MARKER_STANDS;
    if (w->lifetime && afl_existence_is_older(w, there, w->lifetime))
        return AFL_MARKER_VOID;
    if (!record)
        is_void = false;
    else if (record->kind == AFL_RECORD_EMPTY)
        is_void = is_no_record(w, there) && w->break_empty;
    else if (record->kind == AFL_RECORD_MALFORMED)
        is_void = is_no_record(w, there) && !w->protocol->guest;
    else
        is_void = afl_existence_is_gone(w);
    return is_void ? AFL_MARKER_VOID : AFL_MARKER_STANDS;
}

/* Nobody is waited for any more. 0, or errno. */
static int forget_all(afl_work *w)
{
    forget_holder(w);
    return drop(w);
}

static void fail(afl_work *w, const char *step, int error, int cleanup_errno)
{
    afl_work_fail(w, AFL_GRIP_NONE, step, error);
    w->outcome.cleanup_errno = cleanup_errno;
}

/* Whoever has made the marker counts on something else than we do. */
static void refuse(afl_work *w)
{
    fail(w, "duration", 0, forget_all(w));
    w->outcome.status = AFLOCK_EMISMATCH;
}

static void drop_spare(afl_work *w)
{
    afl_existence *s = state_of(w);
    if (s->prepared)
        afl_marker_drop(w, &s->spare);
    s->prepared = false;
}

/* Who has looked at the marker before, and looks again, waits. Without one the marker is made when the path is free. */
static void prepare(afl_work *w, const afl_existence_kind *kind)
{
    afl_existence *s = state_of(w);
    if (s->prepared && s->spare_mode != w->file_mode)
        drop_spare(w);
    if (s->prepared || s->way != AFL_MARKER_WHOLE)
        return;
    s->prepared = afl_marker_prepare(w, kind->print, &s->spare);
    s->spare_mode = w->file_mode;
    memcpy(s->spare_token, w->token, sizeof s->spare_token);
    w->token[0] = '\0';
}

/* There is a marker. */
static void judge(afl_work *w, const afl_existence_kind *kind, const struct stat *there)
{
    const bool had_one = w->fd >= 0;
    const uint64_t dev = w->dev, ino = w->ino;
    const afl_verdict verdict = kind->judge(w, there, record_of(w, there));
    if (verdict == AFL_MARKER_ALIEN) {
        refuse(w);
        return;
    }
    if (verdict == AFL_MARKER_VOID)
        break_marker(w, there);
    afl_work_contended(w, w->fd >= 0 ? AFL_GRIP_KEPT : AFL_GRIP_NONE);
    w->outcome.renewed = had_one && (w->dev != dev || w->ino != ino);
    if (had_one && w->fd >= 0)
        prepare(w, kind);
}

static void hold(afl_work *w, const afl_marker *m)
{
    w->fd = m->fd;
    w->dev = m->dev;
    w->ino = m->ino;
    w->have = UINT32_MAX;
    state_of(w)->held = true;
    afl_work_won(w);
}

/* There was one a moment ago. */
static void find(afl_work *w, const afl_existence_kind *kind)
{
    struct stat there;
    if (afl_stat(w->sys, w->path, &there, false) == 0) {
        judge(w, kind, &there);
        return;
    }
    w->again = errno == ENOENT; /* it has just gone */
    w->look_again = LOOK_AGAIN;
    afl_work_contended(w, w->fd >= 0 ? AFL_GRIP_KEPT : AFL_GRIP_NONE);
}

static afl_made make_marker(afl_work *w, const afl_existence_kind *kind, afl_marker *m)
{
    afl_existence *s = state_of(w);
    if (s->prepared && s->spare_mode == w->file_mode) {
        const afl_made made = afl_marker_name(w, &s->spare);
        *m = s->spare;
        s->prepared = made == AFL_MADE_EXISTS;
        if (made == AFL_MADE)
            memcpy(w->token, s->spare_token, sizeof w->token);
        if (made != AFL_MADE_FAILED)
            return made;
        afl_marker_drop(w, m);
    }
    return afl_marker_make(w, kind->print, &s->way, m);
}

static void make(afl_work *w, const afl_existence_kind *kind)
{
    afl_marker m;
    w->refreshed = w->sys->boottime(); /* nobody sees a file that is older */
    const afl_made made = make_marker(w, kind, &m);
    if (made == AFL_MADE_EXISTS) {
        find(w, kind);
        return;
    }
    forget_all(w);
    if (made == AFL_MADE) {
        hold(w, &m);
    } else if (made == AFL_MADE_FAILED) {
        fail(w, m.fault.step, m.fault.error, m.cleanup_errno);
    } else {
        w->again = true;
        afl_work_contended(w, AFL_GRIP_NONE);
        w->outcome.cleanup_errno = m.cleanup_errno;
    }
}

/* What can never be a marker, nor what is left of one: the peer takes some of that away when it is old, but whoever has
 * mistaken a device for a lock loses it. 0: it may be a marker. */
static int why_not(const struct stat *there)
{
    if (S_ISDIR(there->st_mode))
        return EISDIR;
    if (!S_ISREG(there->st_mode))
        return S_ISLNK(there->st_mode) ? ELOOP : ENXIO;
    return there->st_mode & S_IWUSR ? 0 : EACCES;
}

static void try_path(afl_work *w, const afl_existence_kind *kind)
{
    struct stat there;
    w->again = false;
    w->look_again = AFLOCK_FOREVER;
    if (w->holder_ended) { /* perhaps nobody has waited for the process yet */
        w->holder_ended = false;
        forget_holder(w);
        state_of(w)->ended = true;
    }
    const bool exists = afl_stat(w->sys, w->path, &there, false) == 0;
    const int error = exists ? why_not(&there) : 0;
    if (error)
        fail(w, "open", error, forget_all(w));
    else if (exists && afl_marker_is_whole(w, &state_of(w)->way))
        judge(w, kind, &there); /* elsewhere what stat says may be old: a server is asked by creating the marker */
    else
        make(w, kind);
    if (w->outcome.grip != AFL_GRIP_KEPT) /* nobody would say that it is not needed any more */
        drop_spare(w);
}

/* ------------------------------------------------------------------------------------------------- the other orders */

int afl_existence_check(const afl_work *w)
{
    struct stat there;
    if (afl_stat(w->sys, w->path, &there, false) != 0)
        return errno;
    return is(&there, w) ? 0 : AFL_MARKER_IS_ANOTHER;
}

static void adopt(afl_work *w)
{
    if (w->verify && afl_existence_check(w) != 0)
        afl_work_contended(w, AFL_GRIP_HELD);
    else
        afl_work_won(w);
}

static bool has_gone(int error)
{
    return error == ENOENT || error == ENOTDIR || error == ESTALE;
}

/* What the path names may be another one's by now. 0, or errno: then it is not known. */
static int look(const afl_work *w, struct stat *there, bool *ours)
{
    *ours = false;
    if (afl_stat(w->sys, w->path, there, false) != 0)
        return has_gone(errno) ? 0 : errno;
    *ours = is(there, w);
    return 0;
}

static int unlink_it(const afl_work *w)
{
    return afl_unlink(w->sys, w->path) == 0 || errno == ENOENT ? 0 : errno;
}

/* Whoever breaks a marker has it flocked, and so have we: between the look and the unlink nobody of ours takes it away,
 * so that the path cannot name the next one's by then. Somebody who has stopped meanwhile, or locks it for another
 * reason, is waited for, but not for ever: then there is only the look, as in the peer. 0, or errno: it is held. */
static int take_away_open(afl_work *w, bool now, bool *later, int *closing)
{
    afl_existence *s = state_of(w);
    struct stat there;
    bool ours;
    const bool guarded = w->sys->flock(w->fd, LOCK_EX | LOCK_NB) == 0, busy = !guarded && errno == EWOULDBLOCK;
    int error = look(w, &there, &ours);
    if (ours && busy && !now) {
        const uint64_t clock = w->sys->boottime();
        if (!s->busy_since)
            s->busy_since = clock;
        *later = clock - s->busy_since < BUSY_AT_MOST;
    }
    if (*later)
        return 0;
    s->busy_since = 0;
    if (ours)
        error = unlink_it(w);
    if (!error)
        *closing = drop(w);
    else if (guarded && w->sys->flock(w->fd, LOCK_UN) != 0 && errno == EBADF)
        w->fd = -1; /* somebody has closed it */
    return error;
}

/* NFS gives what is unlinked while it is open another name, so it is closed before. It is looked at twice: as long as
 * it is open its number is its own, and right before the unlink, as who is stopped in between may have lost it. 0, or
 * errno: then it is held, and open again if it can be. */
static int take_away_closed(afl_work *w, int *closing)
{
    struct stat there;
    bool ours;
    int error = look(w, &there, &ours);
    if (error)
        return error;
    *closing = drop(w);
    if (ours)
        error = look(w, &there, &ours);
    if (ours)
        error = unlink_it(w);
    if (error)
        w->fd = afl_marker_open(w);
    return error;
}

/* Takes our marker away, if it is still there. `closing`: what the close has told. 0, or errno: then it is held, and so
 * it is if it has to be tried again `later`: never `now`. */
static int take_away(afl_work *w, bool now, bool *later, int *closing)
{
    *later = false;
    *closing = 0;
    return w->local && w->fd >= 0 ? take_away_open(w, now, later, closing) : take_away_closed(w, closing);
}

static void give_up(afl_work *w)
{
    int closing;
    bool later;
    const int error = take_away(w, false, &later, &closing);
    if (error) {
        afl_work_fail(w, AFL_GRIP_HELD, "unlink", error);
        return;
    }
    if (later) {
        afl_work_contended(w, AFL_GRIP_HELD);
        return;
    }
    state_of(w)->held = false;
    w->outcome = (afl_outcome){.answer = AFL_WON, .grip = AFL_GRIP_NONE};
    if (w->flags & AFLOCK_REPORT_CLOSE)
        w->outcome.cleanup_errno = closing;
}

void afl_existence_run(afl_work *w, const afl_existence_kind *kind)
{
    w->not_inline = false;
    switch (w->op) {
    case AFL_OP_TRY:
        try_path(w, kind);
        break;
    case AFL_OP_ADOPT:
        adopt(w);
        break;
    case AFL_OP_RELEASE:
        give_up(w);
        break;
    default: /* WITHDRAW: what is kept is another one's marker */
        drop_spare(w);
        forget_holder(w);
        drop(w);
        w->outcome = (afl_outcome){.answer = AFL_WON, .grip = AFL_GRIP_NONE};
    }
}

void afl_existence_reconcile(afl_work *w)
{
    int closing;
    bool later;
    if (state_of(w)->held)
        take_away(w, true, &later, &closing);
    state_of(w)->held = false;
    drop_spare(w);
    forget_holder(w);
    drop(w);
}

void afl_existence_abandon(afl_work *w)
{
    drop_spare(w);
    forget_holder(w);
    drop(w); /* the marker is the parent's */
}

/* ------------------------------------------------------------------------------------------------------- questions */

static aflock_record public_kind(afl_record_kind kind)
{
    static const aflock_record KINDS[] = {
        [AFL_RECORD_EMPTY] = AFLOCK_RECORD_EMPTY, [AFL_RECORD_SENTINEL] = AFLOCK_RECORD_SENTINEL,
        [AFL_RECORD_SOFT] = AFLOCK_RECORD_SOFT,   [AFL_RECORD_LEASE] = AFLOCK_RECORD_LEASE,
        [AFL_RECORD_OTHER] = AFLOCK_RECORD_OTHER, [AFL_RECORD_MALFORMED] = AFLOCK_RECORD_MALFORMED,
    };
    return KINDS[kind];
}

/* Reads what is at the path, without following or blocking. */
void afl_existence_inspect(afl_query *q)
{
    afl_existence s = {.known = false};
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
    q->age = afl_age(q->sys, &there.st_mtim);
    if (!S_ISREG(there.st_mode) || !read_marker(&w, &there))
        return;
    drop(&w);
    const afl_record *r = &s.record;
    q->record = public_kind(r->kind);
    if (r->pid == 0)
        return;
    q->pid = r->pid;
    snprintf(q->host, sizeof q->host, "%.*s", (int)r->host.size, r->host.at);
    bool known;
    q->here = is_of_this_host(q->sys, r, &known);
    q->gone = afl_owner_gone(q->sys, r);
    if (r->kind != AFL_RECORD_LEASE)
        return;
    snprintf(q->token, sizeof q->token, "%.*s", (int)r->token.size, r->token.at);
    q->duration = r->duration < (double)AFLOCK_FOREVER / 1e9 ? (uint64_t)(r->duration * 1e9) : AFLOCK_FOREVER;
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
void afl_existence_remove(afl_query *q)
{
    afl_existence s = {.known = false};
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
