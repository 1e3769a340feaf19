/* What can be asked about soft readers and writers. None of it makes, breaks or judges anything, and it needs no state
 * lock: an answer is as old as the moment in which it was looked at, in any case. */
#include "locks/identity.h"
#include "locks/rwdir.h"
#include "locks/soft_rw.h"

#include <errno.h>
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

static void name_holder(afl_query *q, const afl_rwseen *seen)
{
    char host[AFL_HOST_NAME];
    q->age = seen->error ? 0 : afl_rwseen_age(q->sys, seen);
    if (!seen->formed)
        return;
    q->pid = seen->mark.pid;
    (void)snprintf(q->host, sizeof q->host, "%s", seen->mark.host);
    (void)snprintf(q->token, sizeof q->token, "%s", seen->mark.token);
    q->here = afl_host_name(q->sys, host) && strcmp(host, seen->mark.host) == 0;
    q->gone = afl_rwseen_is_gone(q->sys, seen);
}

typedef struct crowd {
    afl_query *q;
    int readers;
    bool writer; /* is named already */
} crowd;

static bool count_reader(const char *name, void *user)
{
    crowd *c = user;
    afl_rwseen seen;
    afl_rwdir_read(c->q->sys, c->readers, name, &seen, NULL);
    if (seen.error == ENOENT)
        return true;
    if (!c->writer && !c->q->pid) /* the first who says who he is */
        name_holder(c->q, &seen);
    c->q->count++;
    return true;
}

static void look_around(afl_query *q, const afl_rwdir *d)
{
    afl_rwseen writer = {.error = ENOENT};
    if (d->f.parent >= 0)
        afl_rwdir_read(q->sys, d->f.parent, d->writer, &writer, NULL);
    crowd c = {.q = q, .readers = d->readers, .writer = writer.error != ENOENT};
    if (c.writer)
        name_holder(q, &writer);
    const int error = d->readers >= 0 ? afl_rwdir_readers(q->sys, d->readers, count_reader, &c) : 0;
    if (error)
        afl_query_fail(q, "list", error);
    q->mode = q->count > 0 ? AFLOCK_SHARED : AFLOCK_EXCLUSIVE;
    q->pending = c.writer && q->count > 0;
    q->held = c.writer || q->count > 0;
    q->count = q->count > 0 ? q->count : c.writer;
}

void afl_soft_rw_inspect(afl_query *q)
{
    afl_rwdir d;
    (void)open_directories(q, &d);
    if (!q->status)
        look_around(q, &d);
    afl_rwdir_close(&d);
}
