/* See guard.h. */
#include "several/guard.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

void guard_init(guard *g, aflock_ctx *ctx, life *l)
{
    *g = (guard){.ctx = ctx, .life = l, .fd = -1};
}

/* In a child closing the lock is refused; the descriptor is its own copy. */
void guard_end(guard *g)
{
    if (!g->lock)
        return;
    aflock_close(g->lock);
    close(g->fd);
    g->lock = NULL;
}

static int make_lock(guard *g)
{
    int ends[2];
    aflock_options o;
    aflock_options_init(&o);
    o.io = AFLOCK_IO_INLINE; /* there is nothing that could be waited for */
    if (pipe2(ends, O_CLOEXEC) != 0)
        return errno == EMFILE || errno == ENFILE ? AFLOCK_EMFILE : AFLOCK_ESYS;
    close(ends[1]);
    int status = aflock_open_fd(&g->lock, g->ctx, ends[0], &o);
    if (status)
        close(ends[0]);
    else
        g->fd = ends[0];
    return status;
}

/* A hold would make a drain wait, so there is one only as long as it is needed. */
static int enter(guard *g)
{
    int status = g->lock ? 0 : make_lock(g);
    if (!status && g->users == 0)
        status = aflock_try(g->lock, NULL, &g->hold, NULL);
    if (status)
        return status;
    g->users++;
    life_enter(g->life);
    return 0;
}

void guard_left(guard *g)
{
    if (--g->users == 0)
        aflock_release(g->lock, g->hold, NULL, NULL);
}

/* What was entered did not begin. */
static int refuse(guard *g, int status)
{
    if (status) {
        guard_left(g);
        life_leave(g->life);
    }
    return status;
}

int guard_ask(guard *g, uint64_t timeout, aflock_token *token, aflock_callback callback, void *user, aflock_req *req)
{
    aflock_acquire_options o;
    aflock_acquire_options_init(&o);
    o.timeout = timeout;
    o.token = token;
    int status = enter(g);
    return status ? status : refuse(g, aflock_acquire(g->lock, &o, callback, user, req));
}

void guard_cancel(guard *g, aflock_req *req)
{
    if (req->id)
        aflock_cancel(g->lock, *req);
    req->id = 0;
}

int guard_run(guard *g, int (*function)(int fd, void *user), aflock_ran callback, void *user)
{
    int status = enter(g);
    return status ? status : refuse(g, aflock_run(g->lock, g->hold, function, callback, user));
}
