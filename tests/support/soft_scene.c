/* See soft_scene.h. */
#include "support/soft_scene.h"

#include <stdio.h>
#include <unistd.h>

void must_be_ours_soft(const char *path)
{
    char text[1024];
    record_of(getpid(), text, sizeof text);
    must_read(path, text);
}

/* --------------------------------------------------------------------------------------------------------- our side */

aflock_options soft_options(int io)
{
    aflock_options o;
    aflock_options_init(&o);
    o.protocol = AFLOCK_SOFT;
    o.io = scene_io(io);
    o.wait = AFLOCK_WAIT_NOTIFY;
    o.poll_interval = AFLOCK_FOREVER;
    return o;
}

aflock *open_soft_with(const aflock_options *o)
{
    aflock *lock;
    ck_assert_int_eq(aflock_open(&lock, scene, "lock", o), 0);
    return lock;
}

aflock *open_soft(int io)
{
    const aflock_options o = soft_options(io);
    return open_soft_with(&o);
}

aflock_req must_hold_soft(aflock *lock)
{
    answer a = try_for(lock, 30 * AFLOCK_SECOND);
    ck_assert_msg(a.result.status == 0, "%s at %s", aflock_error_name(a.result.status), a.step);
    ck_assert_int_eq(a.result.fd, -1);
    must_be_ours_soft("lock");
    return a.result.req;
}

/* The lock is got, and nothing else is left in the folder. */
void must_get_soft(aflock *lock)
{
    aflock_req req = must_hold_soft(lock);
    ck_assert_int_eq(scene_entries("."), 1);
    must_release(lock, req);
    ck_assert_int_eq(scene_entries("."), 0);
}

void must_be_woken(aflock *lock, const answer *a)
{
    scene_run_until(&a->count, 1);
    ck_assert_int_eq(a->result.status, 0);
    must_be_ours_soft("lock");
    must_release(lock, a->result.req);
}

/* ------------------------------------------------------------------------------------------ at a certain moment */

pid_t newcomer;

void replace_it(void)
{
    seam_before(SEAM_LOCK, NULL);
    seam_before(SEAM_RENAME, NULL);
    seam_before(SEAM_WRITE, NULL);
    seam_before(SEAM_LINK, NULL);
    mark("new", newcomer);
    ck_assert_int_eq(rename("new", "lock"), 0);
}
