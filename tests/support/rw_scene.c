/* See rw_scene.h. */
#include "support/rw_scene.h"

#include <fcntl.h>
#include <unistd.h>

aflock_options rw_options(int io)
{
    aflock_options o;
    aflock_options_init(&o);
    o.protocol = AFLOCK_RW;
    o.io = (aflock_io)io;
    o.poll_interval = AFLOCK_FOREVER;
    return o;
}

aflock *rw_open_with(const aflock_options *o)
{
    aflock *lock;
    ck_assert_int_eq(aflock_open(&lock, scene, "db", o), 0);
    return lock;
}

aflock *rw_open(int io)
{
    aflock_options o = rw_options(io);
    return rw_open_with(&o);
}

aflock_acquire_options rw_request(aflock_mode mode)
{
    aflock_acquire_options o = scene_options(0, 0);
    o.mode = mode;
    return o;
}

aflock_req rw_hold(aflock *lock, aflock_mode mode)
{
    aflock_acquire_options o = rw_request(mode);
    return scene_hold(lock, &o);
}

answer rw_try(aflock *lock, aflock_mode mode)
{
    aflock_acquire_options o = rw_request(mode);
    o.timeout = 0;
    return scene_acquire(lock, &o);
}

void rw_let_go(aflock *lock, aflock_req req)
{
    ck_assert_int_eq(scene_release(lock, req).result.status, 0);
}

aflock_req rw_wait(aflock *lock, aflock_mode mode, answer *a, int contended)
{
    aflock_acquire_options o = rw_request(mode);
    aflock_req req;
    ck_assert_int_eq(aflock_acquire(lock, &o, scene_answer, a, &req), 0);
    scene_expect(1);
    scene_run_until(&scene_contended, contended);
    return req;
}

void rw_come_to_rest(void)
{
    while (aflock_epoll_alive(scene))
        ck_assert_int_eq(aflock_epoll_run_once(scene, AFLOCK_SECOND), 0);
}

void rw_hand_on_for_ever(void)
{
    aflock_ctx_options o;
    aflock_epoll_options e;
    aflock_ctx_options_init(&o);
    aflock_epoll_options_init(&e);
    o.handoff_grants = UINT32_MAX;
    o.handoff_time = AFLOCK_FOREVER / 4;
    e.ctx = &o;
    scene_free_context();
    ck_assert_int_eq(aflock_epoll_new(&scene, &e), 0);
    seam_install(scene);
    seam_reset();
}

static int looked;
static aflock_holder seen;

static void see(aflock *lock, const aflock_holder *holder, void *user)
{
    (void)lock, (void)user;
    seen = *holder;
    looked++;
}

aflock_holder rw_look(aflock *lock)
{
    ck_assert_int_eq(aflock_inspect(lock, see, NULL), 0);
    scene_run_until(&looked, looked + 1);
    ck_assert_int_eq(seen.status, 0);
    return seen;
}

/* Locks on open file descriptions name no process, so that one which /proc/locks shows twice, because others on this
 * machine lock and unlock meanwhile, counts twice. */
bool rw_comes_to_be_seen_by(aflock *lock, uint32_t count)
{
    enum { LOOKS = 200 };
    for (int i = 0; i < LOOKS; i++)
        if (rw_look(lock).count == count)
            return true;
    return false;
}

bool bytes_are_free(const char *path, short type, off_t start, off_t length)
{
    int fd = open(path, O_RDWR | O_CLOEXEC);
    ck_assert_int_ge(fd, 0);
    struct flock range = {.l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = length};
    int rc = fcntl(fd, F_OFD_SETLK, &range);
    close(fd);
    return rc == 0;
}

bool all_is_free(const char *path)
{
    return bytes_are_free(path, F_WRLCK, 0, 0);
}
