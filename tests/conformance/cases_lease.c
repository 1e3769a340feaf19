/* Leases: the loop's timer brings the heartbeats, workers or the loop's thread make them, and who lost one is told. */
#include "conformance.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct holder {
    rig *rig;
    unsigned told;
    aflock_compromise_reason reason;
} holder;

static void on_compromise(aflock *lock, aflock_req req, const aflock_compromise *what, void *user)
{
    holder *h = user;
    rig *r = h->rig;
    require(r->calls == 0 && r->callbacks == 0 && r->freeing == 0 && pthread_equal(r->thread, pthread_self()));
    h->told++;
    h->reason = what->reason;
    require_status(aflock_release(lock, req, NULL, NULL), 0);
}

static void hold_lease(rig *r, holder *h, aflock_io io, aflock **lock, answer *a)
{
    char path[PATH_MAX];
    aflock_options o;
    aflock_acquire_options p = rig_options(AFLOCK_FOREVER);
    aflock_options_init(&o);
    o.protocol = AFLOCK_LEASE;
    o.io = io;
    o.heartbeat = 10 * MS;
    rig_path(r, "lock", path);
    require_status(aflock_open(lock, r->ctx, path, &o), 0);
    p.on_compromise = on_compromise;
    p.on_compromise_user = h;
    rig_hold(r, *lock, &p, a);
}

/* Refreshed at least once since it was made so old. */
static bool is_fresh(void *user)
{
    struct stat st;
    char path[PATH_MAX];
    rig_path(user, "lock", path);
    return stat(path, &st) == 0 && st.st_mtim.tv_sec > 1;
}

static void a_lease_is_refreshed(rig *r)
{
    const struct timespec old[2] = {{1, 0}, {1, 0}};
    char path[PATH_MAX];
    rig_path(r, "lock", path);
    for (int io = AFLOCK_IO_AUTO; io <= AFLOCK_IO_POOL; io++) {
        holder h = {.rig = r};
        answer a = {.count = 0};
        aflock *lock;
        hold_lease(r, &h, (aflock_io)io, &lock, &a);
        for (int i = 0; i < 3; i++) {
            require(utimensat(AT_FDCWD, path, old, 0) == 0);
            rig_await_ticking(r, is_fresh, r);
        }
        rig_let_go(r, lock, a.req);
        require(h.told == 0 && access(path, F_OK) != 0);
        require_status(rig_close(r, lock), 0);
    }
}

/* Nothing else makes the loop turn. */
static void who_lost_a_lease_is_told(rig *r)
{
    char path[PATH_MAX];
    rig_path(r, "lock", path);
    for (int io = AFLOCK_IO_AUTO; io <= AFLOCK_IO_POOL; io++) {
        holder h = {.rig = r};
        answer a = {.count = 0};
        aflock *lock;
        hold_lease(r, &h, (aflock_io)io, &lock, &a);
        require(unlink(path) == 0);
        rig_await(r, &h.told, 1);
        require(h.reason == AFLOCK_MARKER_MISSING);
        rig_pass(r, 30 * MS);
        require(h.told == 1);
        require_status(rig_close(r, lock), 0);
    }
}

/* With a heartbeat in whatever state. */
static void freed_while_a_lease_is_held(rig *r)
{
    holder h = {.rig = r};
    answer a = {.count = 0};
    char path[PATH_MAX];
    aflock *lock;
    hold_lease(r, &h, AFLOCK_IO_POOL, &lock, &a);
    rig_pass(r, 15 * MS);
    require_status(rig_free(r, SEC), 0);
    rig_path(r, "lock", path);
    require(access(path, F_OK) != 0 && h.told == 0);
    require_status(rig_context(r, &r->ctx), 0);
    rig_pass(r, MS);
}

const conformance_case cases_lease[] = {
    {"a_lease_is_refreshed", a_lease_is_refreshed, 0},
    {"who_lost_a_lease_is_told", who_lost_a_lease_is_told, 0},
    {"freed_while_a_lease_is_held", freed_while_a_lease_is_held, 0},
    {NULL, NULL, 0},
};
