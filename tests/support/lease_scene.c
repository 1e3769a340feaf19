/* See lease_scene.h. */
#include "support/lease_scene.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

void lease_told(aflock *lock, aflock_req req, const aflock_compromise *what, void *user)
{
    told *t = user;
    ck_assert_uint_eq(what->size, sizeof *what);
    ck_assert_str_eq(what->path, aflock_path(lock));
    t->count++;
    t->req = req;
    t->what = *what;
    t->what.step = t->what.path = t->what.token = NULL; /* the callback's only */
    snprintf(t->step, sizeof t->step, "%s", what->step ? what->step : "");
    snprintf(t->token, sizeof t->token, "%s", what->token ? what->token : "");
}

aflock_options lease_options(int io)
{
    aflock_options o;
    aflock_options_init(&o);
    o.protocol = AFLOCK_LEASE;
    o.io = scene_io(io);
    o.wait = AFLOCK_WAIT_NOTIFY;
    o.poll_interval = AFLOCK_FOREVER;
    return o;
}

aflock *open_with(const aflock_options *o)
{
    aflock *lock;
    ck_assert_int_eq(aflock_open(&lock, scene, "lock", o), 0);
    return lock;
}

aflock *open_lease(int io)
{
    const aflock_options o = lease_options(io);
    return open_with(&o);
}

aflock *open_beating(int io)
{
    aflock_options o = lease_options(io);
    o.heartbeat = 10 * AFLOCK_MILLISECOND;
    return open_with(&o);
}

void must_be_ours(const char *path, const char *token, const char *duration)
{
    char text[1024];
    lease_of(getpid(), token, duration, text, sizeof text);
    must_read(path, text);
}

aflock_req must_hold_for(aflock *lock, void *owner, told *t)
{
    aflock_acquire_options o = scene_options(0, 0);
    o.timeout = 30 * AFLOCK_SECOND;
    o.owner = owner;
    o.on_compromise = t ? lease_told : NULL;
    o.on_compromise_user = t;
    answer a = scene_acquire(lock, &o);
    ck_assert_msg(a.result.status == 0, "%s at %s", aflock_error_name(a.result.status), a.step);
    ck_assert_int_eq(a.result.fd, -1);
    must_be_ours(aflock_path(lock), a.token, "30");
    return a.result.req;
}

aflock_req must_hold(aflock *lock)
{
    return must_hold_for(lock, NULL, NULL);
}

void must_get(aflock *lock)
{
    aflock_req req = must_hold(lock);
    ck_assert_int_eq(scene_entries("."), 1);
    must_release(lock, req);
    ck_assert_int_eq(scene_entries("."), 0);
}

void await_touches(int total)
{
    scene_turn_until(seam_count(SEAM_TOUCH) >= total);
}

void await_beats(int count)
{
    await_touches(seam_count(SEAM_TOUCH) + count);
}

void run_turns(int count)
{
    for (int i = 0; i < count; i++)
        ck_assert_int_eq(aflock_epoll_run_once(scene, 10 * AFLOCK_MILLISECOND), 0);
}
