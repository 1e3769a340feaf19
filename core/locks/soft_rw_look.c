/* What can be asked about soft readers and writers. None of it makes, breaks or judges anything, and it needs no state
 * lock: an answer is as old as the moment in which it was looked at, in any case. */
#include "locks/existence.h"
#include "locks/identity.h"
#include "locks/rwdir.h"
#include "locks/soft_rw.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* False: there are no directories (status 0), or they cannot be opened. The parent may be open all the same. */
static bool open_directories(afl_query *q, afl_rwdir *d)
{
    const bool open = afl_rwdir_open(d, q->sys, q->path, false, false);
    const afl_refusal *why = &d->f.why;
    if (why->status && why->status != AFLOCK_ENOENT && why->status != AFLOCK_ENOTDIR) {
        q->status = why->status;
        q->sys_errno = why->error;
        q->step = why->step;
    }
    q->detail = why->detail;
    return open;
}

/* ------------------------------------------------------------------------------------------------------------ verify
 */

static bool find(const afl_query *q, int dir, const char *name, int *error)
{
    afl_rwseen seen;
    afl_rwdir_read(q->sys, dir, name, &seen, NULL);
    if (seen.error && seen.error != ENOENT)
        *error = seen.error;
    return afl_rwseen_is(&seen, q->token);
}

void afl_soft_rw_verify(afl_query *q)
{
    char name[AFL_READER_NAME];
    afl_rwdir d;
    int error = 0;
    afl_reader_name_print(q->token, (int32_t)q->sys->getpid(), name);
    (void)open_directories(q, &d);
    const bool there = (d.f.parent >= 0 && find(q, d.f.parent, d.writer, &error)) ||
                       (d.readers >= 0 && find(q, d.readers, name, &error));
    afl_rwdir_close(&d);
    if (q->status || there)
        return;
    if (error) {
        afl_query_fail(q, "open", error);
        return;
    }
    q->status = AFLOCK_EREPLACED;
    q->step = "open";
}

/* ----------------------------------------------------------------------------------------------------------- inspect
 */

static bool is_of_this_host(const afl_query *q, const afl_rwseen *seen)
{
    char host[AFL_HOST_NAME];
    return seen->formed && afl_host_name(q->sys, host) && strcmp(host, seen->mark.host) == 0;
}

static bool is_ours(const afl_query *q, const afl_rwseen *seen)
{
    return is_of_this_host(q, seen) && seen->mark.pid == (int32_t)q->sys->getpid();
}

static void name_holder(afl_query *q, const afl_rwseen *seen)
{
    q->age = seen->error ? 0 : afl_rwseen_age(q->sys, seen);
    if (!seen->formed)
        return;
    q->pid = seen->mark.pid;
    (void)snprintf(q->host, sizeof q->host, "%s", seen->mark.host);
    (void)snprintf(q->token, sizeof q->token, "%s", seen->mark.token);
    q->here = is_of_this_host(q, seen);
    q->gone = afl_rwseen_is_gone(q->sys, seen);
}

typedef struct crowd {
    afl_query *q;
    int readers;
    bool named; /* the writer is */
} crowd;

static bool count_reader(const char *name, void *user)
{
    crowd *c = user;
    afl_rwseen seen;
    afl_rwdir_read(c->q->sys, c->readers, name, &seen, NULL);
    if (seen.error == ENOENT)
        return true;
    if (!c->named && !c->q->pid) /* the first who says who he is */
        name_holder(c->q, &seen);
    c->q->count++;
    return true;
}

/* What is no file holds nothing, and gets an error to those in whose way it is. */
static bool is_node(afl_query *q, afl_rwdir *d, const char *where)
{
    char path[PATH_MAX + 16];
    struct stat there;
    (void)snprintf(path, sizeof path, "%s%s", q->path, where);
    if (afl_stat(q->sys, path, &there, false) != 0 || S_ISREG(there.st_mode))
        return false;
    afl_rwdir_refuse(d, where, &there);
    q->status = d->f.why.status;
    q->sys_errno = d->f.why.error;
    q->step = d->f.why.step;
    q->detail = d->f.why.detail;
    return true;
}

static void look_around(afl_query *q, afl_rwdir *d)
{
    afl_rwseen writer = {.error = ENOENT};
    if (d->f.parent >= 0)
        afl_rwdir_read(q->sys, d->f.parent, d->writer, &writer, NULL);
    if (writer.error != ENOENT && !writer.regular && is_node(q, d, AFL_RW_WRITER))
        writer.error = ENOENT;
    const bool written = writer.error != ENOENT;
    /* Who waits wants to know for whom, not that it is he himself. */
    crowd c = {.q = q, .readers = d->readers, .named = written && !is_ours(q, &writer)};
    if (c.named)
        name_holder(q, &writer);
    const int error = d->readers >= 0 ? afl_rwdir_readers(q->sys, d->readers, count_reader, &c) : 0;
    if (error)
        afl_query_fail(q, "list", error);
    if (written && !c.named && q->count == 0)
        name_holder(q, &writer);
    q->mode = q->count > 0 ? AFLOCK_SHARED : AFLOCK_EXCLUSIVE;
    q->pending = c.named && q->count > 0;
    q->held = written || q->count > 0;
    q->count = q->count > 0 ? q->count : written;
}

/* Who has the state lock is named if there is nobody else to be named. */
static void look_at_state(afl_query *q, afl_rwdir *d)
{
    char path[PATH_MAX + sizeof AFL_RW_STATE];
    afl_query state = {.sys = q->sys, .path = path};
    (void)snprintf(path, sizeof path, "%s" AFL_RW_STATE, q->path);
    afl_existence_inspect(&state);
    if (state.status && state.sys_errno != ENOTDIR)
        afl_query_fail(q, state.step, state.sys_errno);
    if (state.held && state.record == AFLOCK_RECORD_NONE && is_node(q, d, AFL_RW_STATE))
        return;
    q->blocked = state.held;
    if (!state.held || q->held)
        return;
    q->held = 1;
    q->pid = state.pid;
    q->age = state.age;
    q->here = state.here;
    q->gone = state.gone;
    memcpy(q->host, state.host, sizeof q->host);
}

void afl_soft_rw_inspect(afl_query *q)
{
    afl_rwdir d;
    (void)open_directories(q, &d);
    if (!q->status)
        look_around(q, &d);
    if (!q->status)
        look_at_state(q, &d);
    afl_rwdir_close(&d);
}
