/* See soft_rw_scene.h. */
#include "support/soft_rw_scene.h"

#include "runtime/runtime.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

aflock_options soft_rw_options(int io)
{
    aflock_options o;
    aflock_options_init(&o);
    o.protocol = AFLOCK_SOFT_RW;
    o.io = scene_io(io);
    o.wait = AFLOCK_WAIT_NOTIFY;
    o.poll_interval = AFLOCK_FOREVER;
    return o;
}

aflock *soft_rw_open(int io)
{
    const aflock_options o = soft_rw_options(io);
    return open_with(&o);
}

/* -------------------------------------------------------------------------------------------------------- our side */

static aflock_acquire_options request(aflock_mode mode, void *owner, told *t)
{
    aflock_acquire_options o = scene_options(0, 0);
    o.mode = mode;
    o.owner = owner;
    o.on_compromise = t ? lease_told : NULL;
    o.on_compromise_user = t;
    return o;
}

answer soft_rw_try(aflock *lock, aflock_mode mode, uint64_t timeout)
{
    aflock_acquire_options o = request(mode, NULL, NULL);
    o.timeout = timeout;
    return scene_acquire(lock, &o);
}

const char *own_reader(void)
{
    static char path[PATH_MAX];
    char end[16];
    DIR *d = opendir(READERS);
    path[0] = '\0';
    snprintf(end, sizeof end, ".%d", (int)getpid());
    for (const struct dirent *e; d && (e = readdir(d)) != NULL;)
        if (strlen(e->d_name) == 32 + strlen(end) && strcmp(e->d_name + 32, end) == 0)
            snprintf(path, sizeof path, READERS "/%.60s", e->d_name);
    if (d)
        closedir(d);
    return path;
}

void must_be_ours_soft_rw(const char *path, const char *token)
{
    char text[512];
    ck_assert_uint_eq(strlen(token), 32);
    snprintf(text, sizeof text, "%s\n%d\n%s\n", token, (int)getpid(), host_name());
    must_read(path, text);
    ck_assert_uint_eq(scene_mode(path), 0600);
    ck_assert_uint_eq(scene_mode(READERS), 0700);
}

aflock_req soft_rw_hold_for(aflock *lock, aflock_mode mode, void *owner, told *t)
{
    const aflock_acquire_options o = request(mode, owner, t);
    answer a = scene_acquire(lock, &o);
    ck_assert_msg(a.result.status == 0, "%s at %s (%s): %s", aflock_error_name(a.result.status), a.step,
                  strerror(a.result.sys_errno), a.detail);
    ck_assert_int_eq(a.result.fd, -1);
    ck_assert_int_eq(a.result.mode, mode);
    must_be_ours_soft_rw(mode == AFLOCK_SHARED ? own_reader() : WRITER, a.token);
    return a.result.req;
}

aflock_req soft_rw_hold(aflock *lock, aflock_mode mode)
{
    return soft_rw_hold_for(lock, mode, NULL, NULL);
}

void soft_rw_must_get(aflock *lock, aflock_mode mode)
{
    must_release(lock, soft_rw_hold(lock, mode));
    ck_assert_int_eq(scene_entries(READERS), 0);
    ck_assert_int_eq(scene_entries("."), 1);
}

aflock_req soft_rw_wait(aflock *lock, aflock_mode mode, answer *a)
{
    const int contended = scene_contended;
    const aflock_acquire_options o = request(mode, NULL, NULL);
    aflock_req req;
    ck_assert_int_eq(aflock_acquire(lock, &o, scene_answer, a, &req), 0);
    scene_expect(1);
    scene_run_until(&scene_contended, contended + 2);
    ck_assert_int_eq(a->count, 0);
    return req;
}

void soft_rw_must_be_woken(aflock *lock, const answer *a)
{
    scene_run_until(&a->count, 1);
    ck_assert_msg(a->result.status == 0, "%s at %s: %s", aflock_error_name(a->result.status), a->step, a->detail);
    must_release(lock, a->result.req);
}

/* An attempt whose request has left does not keep the loop alive; what it has made is still to be taken back. */
static bool is_under_way(void)
{
    for (const afl_place *p = scene->places; p; p = p->all_next)
        if (p->path.op || p->path.grip == AFL_GRIP_PENDING)
            return true;
    return false;
}

void soft_rw_rest(void)
{
    while (aflock_epoll_alive(scene) || is_under_way())
        ck_assert_int_eq(aflock_epoll_run_once(scene, AFLOCK_MILLISECOND), 0);
}

/* ------------------------------------------------------------------------------------------------------- the others */

void write_marker(const char *path, const char *token, pid_t pid, const char *host)
{
    char text[1024];
    snprintf(text, sizeof text, "%s\n%d\n%s\n", token, (int)pid, host);
    scene_write(path, text);
}

void write_writer(pid_t pid, const char *host)
{
    write_marker(WRITER, TOKEN, pid, host);
}

const char *write_reader(const char *name, pid_t pid, const char *host)
{
    static char path[PATH_MAX];
    ck_assert(mkdir(READERS, 0700) == 0 || errno == EEXIST);
    snprintf(path, sizeof path, READERS "/%s", name);
    write_marker(path, TOKEN, pid, host);
    return path;
}

bool is_there(const char *path)
{
    struct stat st;
    return lstat(path, &st) == 0;
}

int count_readers(void)
{
    return is_there(READERS) ? scene_entries(READERS) : 0;
}
