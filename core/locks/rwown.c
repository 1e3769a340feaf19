/* See rwown.h. */
#include "locks/rwown.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SHORTEST_DELAY AFLOCK_MILLISECOND      /* until the state lock is asked for again, ... */
#define LONGEST_DELAY (5 * AFLOCK_MILLISECOND) /* ... by chance up to this, and twice as long from time to time: */
enum { DOUBLED = 4 };                          /* so often at most; somebody on another host may have died with it */
enum { PATIENCE = 5 };                         /* so often in one operation */

afl_rwown_state *afl_rwown(const afl_work *w)
{
    return w->state;
}

void afl_rwown_look_again(afl_work *w, uint64_t delay)
{
    if (delay < w->look_again)
        w->look_again = delay;
}

/* --------------------------------------------------------------------------------------------------- the state lock */

static const afl_outcome *run_state(afl_work *w, afl_op op)
{
    char path[PATH_MAX + sizeof AFL_RW_STATE];
    afl_rwown_state *s = afl_rwown(w);
    afl_work *g = &s->state;
    if (!g->protocol) {
        g->protocol = &afl_protocol_soft;
        g->fd = g->holder = -1;
        g->state = &s->existence;
        g->file_mode = AFLOCK_MODE_DEFAULT;
        g->break_empty = true; /* versions that write nothing into theirs have no such locks */
    }
    (void)snprintf(path, sizeof path, "%s" AFL_RW_STATE, w->path);
    g->sys = w->sys;
    g->path = path;
    g->op = op;
    g->flags = AFLOCK_CREATE | (w->flags & AFLOCK_MAKE_PARENTS);
    afl_protocol_soft.run(g);
    g->path = NULL;
    return &g->outcome;
}

afl_rwown_entrance afl_rwown_enter(afl_work *w, afl_folder *f)
{
    afl_rwown_state *s = afl_rwown(w);
    for (int i = 0; i < PATIENCE && !s->inside; i++) {
        if (i > 0)
            w->sys->yield();
        const afl_outcome *o = run_state(w, AFL_OP_TRY);
        if (o->answer == AFL_ERROR) {
            const int error = o->sys_errno;
            const bool other = error == EISDIR || error == ELOOP || error == ENXIO;
            afl_folder_protest(f, o->step, error, AFL_RW_STATE, NULL,
                               other ? "it is no regular file" : "it cannot be made");
            f->why.status = o->status;
            return AFL_RW_NO_WAY;
        }
        s->inside = o->answer == AFL_WON;
        if (!s->inside)
            (void)run_state(w, AFL_OP_WITHDRAW);
    }
    if (s->inside) {
        s->outside = 0;
        return AFL_RW_INSIDE;
    }
    s->outside++;
    const unsigned doubled = s->outside / 16 < DOUBLED ? s->outside / 16 : DOUBLED;
    uint64_t dice;
    const bool by_chance = w->sys->random(&dice, sizeof dice) == 0;
    const uint64_t delay = SHORTEST_DELAY + (by_chance ? dice % (LONGEST_DELAY - SHORTEST_DELAY) : 0);
    afl_rwown_look_again(w, delay << doubled);
    return AFL_RW_OUTSIDE;
}

int afl_rwown_leave(afl_work *w)
{
    afl_rwown_state *s = afl_rwown(w);
    if (!s->inside)
        return 0;
    const afl_outcome *o = run_state(w, AFL_OP_RELEASE);
    s->inside = o->answer == AFL_ERROR;
    return s->inside ? o->sys_errno : 0;
}

/* ------------------------------------------------------------------------------------------------------- our marker */

void afl_rwown_name(const afl_work *w, char name[AFL_READER_NAME])
{
    afl_reader_name_print(w->token, (int32_t)w->sys->getpid(), name);
}

int afl_rwown_make(afl_work *w, afl_rwdir *d, bool reader)
{
    afl_rwown_state *s = afl_rwown(w);
    char host[AFL_HOST_NAME], name[AFL_READER_NAME];
    afl_rwmark own = {.pid = (int32_t)w->sys->getpid()};
    afl_fault fault;
    int undone = 0;
    if (!afl_folder_token(&d->f, w->token))
        return d->f.why.error;
    const bool named = afl_host_name(w->sys, host) && strlen(host) < sizeof own.host;
    if (named) /* one that is too long, or empty, is malformed */
        memcpy(own.host, host, sizeof own.host);
    memcpy(own.token, w->token, sizeof own.token);
    afl_rwown_name(w, name);
    w->refreshed = w->sys->boottime(); /* nobody sees a file that is older */
    const int error =
        afl_rwdir_make(w->sys, reader ? d->readers : d->f.parent, reader ? name : d->writer, &own, &fault, &undone);
    *(reader ? &s->reading : &s->writing) = !error || undone;
    s->unfinished = error && undone;
    if (error && (reader || error != EEXIST))
        afl_folder_fail(&d->f, fault.step, fault.error);
    return error;
}

/* The reader's is known by its name; the writer's by its token, which somebody may have put his own in the place of:
 * who takes that away has the state lock. 0, or errno. */
static int unlink_own(afl_work *w, const afl_rwdir *d, bool reader)
{
    afl_rwseen seen;
    if (reader) {
        char name[AFL_READER_NAME];
        afl_rwown_name(w, name);
        return afl_unlink_at(w->sys, d->readers, name) == 0 || errno == ENOENT ? 0 : errno;
    }
    afl_rwdir_read(w->sys, d->f.parent, d->writer, &seen, NULL);
    if (seen.error)
        return seen.error == ENOENT ? 0 : seen.error;
    /* Who has the state lock knows that nobody else is about to fill one in. */
    const bool unfinished = afl_rwown(w)->unfinished && seen.regular && !seen.formed;
    if (!afl_rwseen_is(&seen, w->token) && !unfinished)
        return 0;
    return afl_unlink_at(w->sys, d->f.parent, d->writer) == 0 || errno == ENOENT ? 0 : errno;
}

/* ------------------------------------------------------------------------------------------------------- giving back
 */

/* The directories in which our marker would be, as far as they are there. False: f.why says why that cannot be told. */
static bool open_again(const afl_work *w, afl_rwdir *d)
{
    (void)afl_rwdir_open(d, w->sys, w->path, false, false);
    const int error = d->f.why.status ? d->f.why.error : 0;
    return error == 0 || error == ENOENT || error == ENOTDIR || error == ELOOP;
}

int afl_rwown_stop_reading(afl_work *w, const afl_rwdir *d)
{
    afl_rwown_state *s = afl_rwown(w);
    const int error = s->reading && d->readers >= 0 ? unlink_own(w, d, true) : 0;
    s->reading = error != 0;
    return error;
}

int afl_rwown_stop_writing(afl_work *w, const afl_rwdir *d)
{
    afl_rwown_state *s = afl_rwown(w);
    const int error = s->writing && d->f.parent >= 0 ? unlink_own(w, d, false) : 0;
    s->writing = error != 0;
    return error;
}

afl_rwown_undoing afl_rwown_take_back(afl_work *w)
{
    afl_rwown_state *s = afl_rwown(w);
    afl_rwown_undoing u = {.later = false};
    afl_rwdir d;
    if (!s->reading && !s->writing && !s->inside)
        return u;
    int error = 0;
    if (open_again(w, &d)) {
        afl_rwdir_forgive(&d);
        error = afl_rwown_stop_reading(w, &d);
        const afl_rwown_entrance e = !error && (s->writing || s->inside) ? afl_rwown_enter(w, &d.f) : AFL_RW_OUTSIDE;
        u.later = e == AFL_RW_OUTSIDE && !error && s->writing;
        if (e == AFL_RW_INSIDE) {
            error = afl_rwown_stop_writing(w, &d);
            const int left = afl_rwown_leave(w);
            error = error ? error : left;
        }
    }
    if (error)
        afl_folder_fail(&d.f, "unlink", error);
    u.why = d.f.why;
    afl_rwdir_close(&d);
    return u;
}

/* Nobody breaks a marker that was just refreshed: this one is ours until we have taken it away. For those who cannot
 * come back for the state lock. */
static void stop_writing_outside(afl_work *w, const afl_rwdir *d)
{
    const char *step;
    if (afl_rwown(w)->writing && d->f.parent >= 0 &&
        afl_rwdir_touch(w->sys, d->f.parent, d->writer, w->token, &step) == 0)
        (void)afl_rwown_stop_writing(w, d);
}

/* What could not be given back stays; what is open for it does not. */
static void end_state(const afl_work *w)
{
    char path[PATH_MAX + sizeof AFL_RW_STATE];
    afl_work *g = &afl_rwown(w)->state;
    if (!g->protocol)
        return;
    (void)snprintf(path, sizeof path, "%s" AFL_RW_STATE, w->path);
    g->path = path;
    afl_protocol_soft.reconcile(g);
    g->path = NULL;
}

void afl_rwown_take_back_now(afl_work *w)
{
    afl_rwdir d;
    const afl_rwown_undoing u = afl_rwown_take_back(w);
    free(u.why.detail);
    if (u.later) {
        if (open_again(w, &d))
            stop_writing_outside(w, &d);
        afl_rwdir_forgive(&d);
        afl_rwdir_close(&d);
    }
    end_state(w);
}
