/* Pid files and temporary lock files: waited for, handed on, given up and freed on every loop, wherever attempts run;
 * in the end nothing of them is left. Each way to wait. */
#include "conformance.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

static const struct kind {
    aflock_protocol protocol;
    int temporary;
    const char *locked; /* the file that the kernel's lock is on */
} KINDS[] = {
    {AFLOCK_PIDFILE, 0, "pid.lock"},
    {AFLOCK_NATIVE, 1, "pid"},
};
static const aflock_wait WAYS[] = {AFLOCK_WAIT_AUTO, AFLOCK_WAIT_POLL, AFLOCK_WAIT_PARK};
enum { KIND_COUNT = sizeof KINDS / sizeof KINDS[0], WAY_COUNT = sizeof WAYS / sizeof WAYS[0] };

static aflock *open_kind(rig *r, const struct kind *k, int io, aflock_wait wait)
{
    char path[PATH_MAX];
    aflock *lock;
    aflock_options o;
    aflock_options_init(&o);
    o.protocol = k->protocol;
    o.temporary = k->temporary;
    o.io = (aflock_io)io;
    o.wait = wait;
    o.poll_interval = 5 * MS;
    rig_path(r, "pid", path);
    require_status(aflock_open(&lock, r->ctx, path, &o), 0);
    return lock;
}

static bool is_there(const rig *r, const char *name)
{
    char path[PATH_MAX];
    rig_path(r, name, path);
    return access(path, F_OK) == 0;
}

static void must_be_gone(const rig *r)
{
    require(!is_there(r, "pid"));
    require(!is_there(r, "pid.lock"));
}

static void must_name_us(const rig *r, const struct kind *k)
{
    char path[PATH_MAX], text[32] = "";
    rig_path(r, "pid", path);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    require(fd >= 0);
    require(k->temporary || (read(fd, text, sizeof text - 1) > 0 && atoi(text) == getpid()));
    close(fd);
}

static void use_once(rig *r, const struct kind *k, aflock *lock)
{
    answer a = {.count = 0};
    rig_hold(r, lock, NULL, &a);
    must_name_us(r, k);
    require(!rig_is_free(r, k->locked));
    rig_let_go(r, lock, a.req);
    must_be_gone(r);
}

/* As another program that does not remove it. */
static int take_by_hand(const rig *r, const struct kind *k)
{
    char path[PATH_MAX];
    rig_path(r, k->locked, path);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    require(fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0);
    return fd;
}

static void each_kind(rig *r, void (*body)(rig *r, const struct kind *k, aflock *lock))
{
    for (int i = 0; i < KIND_COUNT * WAY_COUNT; i++) {
        const struct kind *k = &KINDS[i % KIND_COUNT];
        for (int io = AFLOCK_IO_AUTO; io <= AFLOCK_IO_POOL; io++) {
            aflock *lock = open_kind(r, k, io, WAYS[i / KIND_COUNT]);
            use_once(r, k, lock);
            body(r, k, lock);
            use_once(r, k, lock);
            require_status(rig_close(r, lock), 0);
        }
    }
}

/* --------------------------------------------------------------------------------------------------------- the cases
 */

static void wait_for_it(rig *r, const struct kind *k, aflock *lock)
{
    answer a = {.count = 0};
    int fd = take_by_hand(r, k);
    require_status(rig_acquire(r, lock, NULL, &a), 0);
    rig_pass(r, 10 * MS);
    require(a.count == 0);
    close(fd);
    rig_await_status(r, &a, 0);
    must_name_us(r, k);
    rig_let_go(r, lock, a.req);
    must_be_gone(r);
}

static void a_pid_file_is_waited_for(rig *r)
{
    each_kind(r, wait_for_it);
}

/* Who waits has the file open that goes. */
static void find_it_replaced(rig *r, const struct kind *k, aflock *lock)
{
    char path[PATH_MAX];
    answer a = {.count = 0};
    int fd = take_by_hand(r, k);
    require_status(rig_acquire(r, lock, NULL, &a), 0);
    rig_pass(r, 10 * MS);
    rig_path(r, k->locked, path);
    require(unlink(path) == 0);
    if (aflock_wait_mode(lock, NULL) == AFLOCK_WAIT_PARK)
        flock(fd, LOCK_UN);     /* without a notifier a thread hears of nothing else */
    rig_await_status(r, &a, 0); /* otherwise the old one is still locked */
    must_name_us(r, k);
    close(fd);
    rig_let_go(r, lock, a.req);
}

static void a_pid_file_goes_while_it_is_waited_for(rig *r)
{
    each_kind(r, find_it_replaced);
}

static void give_it_on(answer *a, aflock *lock)
{
    require_status(a->result.status, 0);
    require_status(rig_release(a->rig, lock, a->req, NULL), 0);
}

static void hand_it_on(rig *r, const struct kind *k, aflock *lock)
{
    answer a[4] = {{.count = 0}};
    const unsigned before = r->answers;
    (void)k;
    for (int i = 0; i < 4; i++) {
        a[i].then = give_it_on;
        require_status(rig_acquire(r, lock, NULL, &a[i]), 0);
    }
    for (unsigned i = 0; i < 4; i++) {
        rig_await_status(r, &a[i], 0);
        require(a[i].order == before + i + 1);
    }
}

static void a_pid_file_is_handed_on(rig *r)
{
    each_kind(r, hand_it_on);
}

static void give_the_wait_up(rig *r, const struct kind *k, aflock *lock)
{
    answer a = {.count = 0}, b = {.count = 0};
    const aflock_acquire_options o = rig_options(10 * MS);
    int fd = take_by_hand(r, k);
    require_status(rig_acquire(r, lock, NULL, &a), 0);
    require_status(rig_acquire(r, lock, &o, &b), 0);
    rig_await_status(r, &b, AFLOCK_ETIMEDOUT);
    require_status(rig_cancel(r, lock, a.req), 0);
    rig_await_status(r, &a, AFLOCK_ECANCELED);
    require(is_there(r, k->locked)); /* it is still his */
    close(fd);
}

static void a_wait_for_a_pid_file_is_cancelled(rig *r)
{
    each_kind(r, give_the_wait_up);
}

static void freed_while_a_pid_file_is_held(rig *r)
{
    for (int kind = 0; kind < KIND_COUNT; kind++) {
        for (int io = AFLOCK_IO_AUTO; io <= AFLOCK_IO_POOL; io++) {
            answer a = {.count = 0};
            rig_hold(r, open_kind(r, &KINDS[kind], io, AFLOCK_WAIT_AUTO), NULL, &a);
            require_status(rig_free(r, SEC), 0);
            must_be_gone(r);
            require_status(rig_context(r, &r->ctx), 0);
        }
    }
}

const conformance_case cases_pidfile[] = {
    {"a_pid_file_is_waited_for", a_pid_file_is_waited_for, 0},
    {"a_pid_file_goes_while_it_is_waited_for", a_pid_file_goes_while_it_is_waited_for, 0},
    {"a_pid_file_is_handed_on", a_pid_file_is_handed_on, 0},
    {"a_wait_for_a_pid_file_is_cancelled", a_wait_for_a_pid_file_is_cancelled, 0},
    {"freed_while_a_pid_file_is_held", freed_while_a_pid_file_is_held, 0},
    {NULL, NULL, 0},
};
