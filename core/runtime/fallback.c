/* From locks of the kernel's to markers: what becomes of a path with aflock_options.soft_fallback when the file system
 * turns out to have no flock. The place goes over for as long as it lives, and its attempt begins anew (attempt.c).
 */
#include "runtime/runtime.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

bool afl_marker_serves(uint32_t flags, aflock_mode mode, bool on_acquired, uint32_t file_mode)
{
    return mode == AFLOCK_EXCLUSIVE && !on_acquired && flags & AFLOCK_CREATE && file_mode & S_IWUSR;
}

static bool is_served(const afl_request *r)
{
    const afl_entry *e = AFL_CONTAINER(afl_entry, request, r);
    const afl_extras *x = e->extras;
    return afl_marker_serves(e->flags, (aflock_mode)r->mode, x && x->on_acquired,
                             x ? x->file_mode : AFLOCK_MODE_DEFAULT);
}

void afl_place_refuse_unservable(afl_place *p)
{
    for (afl_request *r = p->path.head, *next; r && p->protocol->guest; r = next) {
        next = r->next;
        if (!is_served(r))
            afl_machine_cancel(&p->ctx->machine, r, AFLOCK_ENOTSUP, p->ctx->now);
    }
}

void afl_place_fall(afl_place *p)
{
    afl_work *w = &p->attempt->work;
    p->protocol = w->protocol = p->protocol->falls_to;
    for (aflock *lock = p->locks; lock; lock = lock->next)
        lock->keep_open = false;
    if (p->keepers)
        afl_machine_keep(&p->ctx->machine, &p->path, false);
    p->keepers = 0;
    w->identified = false;
    w->have = 0;
    afl_log(p->ctx, AFLOCK_LOG_WARN, "%s: the file system has no flock: locked by markers instead (soft_fallback)",
            p->attempt->spelling->text);
    afl_place_refuse_unservable(p);
}

void afl_place_told(afl_place *p, const afl_outcome *o)
{
    if (p->told_no_locks || p->caller_fd >= 0 || p->terms.protocol != &afl_protocol_flock || o->answer != AFL_ERROR ||
        o->sys_errno != ENOSYS || strcmp(o->step, "flock") != 0)
        return;
    p->told_no_locks = true;
    afl_log(p->ctx, AFLOCK_LOG_WARN,
            "%s: the file system has no flock; see aflock_options.soft_fallback (this is said once)",
            p->attempt->spelling->text);
}
