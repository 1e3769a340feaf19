/* Pid files and temporary lock files: waited for, handed on, given up and freed on every loop, wherever attempts run;
 * in the end nothing of them is left. Each way to wait. */
#include "kinds.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/file.h>
#include <unistd.h>

static void must_be_gone(rig *r, const kind *k)
{
    (void)k;
    require(!kind_is_there(r, "pid"));
    require(!kind_is_there(r, "pid.lock"));
}

static void look(rig *r, const kind *k, const answer *a)
{
    char path[PATH_MAX], text[32] = "";
    (void)a;
    rig_path(r, "pid", path);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    require(fd >= 0);
    require(k->temporary || (read(fd, text, sizeof text - 1) > 0 && atoi(text) == getpid()));
    close(fd);
    require(!rig_is_free(r, k->held));
}

/* As another program that does not remove it. */
static int take_by_hand(const rig *r, const kind *k)
{
    char path[PATH_MAX];
    rig_path(r, k->held, path);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    require(fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0);
    return fd;
}

static void give_by_hand(const rig *r, const kind *k, int fd)
{
    (void)r;
    (void)k;
    close(fd);
}

static const kind_methods GOING = {take_by_hand, give_by_hand, look, must_be_gone, NULL};
static const kind KINDS[] = {
    {&GOING, AFLOCK_PIDFILE, 0, AFLOCK_WAIT_AUTO, "pid", "pid.lock"},
    {&GOING, AFLOCK_PIDFILE, 0, AFLOCK_WAIT_POLL, "pid", "pid.lock"},
    {&GOING, AFLOCK_PIDFILE, 0, AFLOCK_WAIT_PARK, "pid", "pid.lock"},
    {&GOING, AFLOCK_NATIVE, 1, AFLOCK_WAIT_AUTO, "pid", "pid"},
    {&GOING, AFLOCK_NATIVE, 1, AFLOCK_WAIT_POLL, "pid", "pid"},
    {&GOING, AFLOCK_NATIVE, 1, AFLOCK_WAIT_PARK, "pid", "pid"},
};
enum { KIND_COUNT = sizeof KINDS / sizeof KINDS[0] };

static void a_pid_file_is_waited_for(rig *r)
{
    kind_each(r, KINDS, KIND_COUNT, kind_wait_for_it);
}

/* Who waits has the file open that goes. */
static void find_it_replaced(rig *r, const kind *k, aflock *lock)
{
    char path[PATH_MAX];
    answer a = {.count = 0};
    int fd = take_by_hand(r, k);
    require_status(rig_acquire(r, lock, NULL, &a), 0);
    rig_pass(r, 10 * MS);
    rig_path(r, k->held, path);
    require(unlink(path) == 0);
    if (aflock_wait_mode(lock, NULL) == AFLOCK_WAIT_PARK)
        flock(fd, LOCK_UN);     /* without a notifier a thread hears of nothing else */
    rig_await_status(r, &a, 0); /* otherwise the old one is still locked */
    look(r, k, &a);
    close(fd);
    rig_let_go(r, lock, a.req);
}

static void a_pid_file_goes_while_it_is_waited_for(rig *r)
{
    kind_each(r, KINDS, KIND_COUNT, find_it_replaced);
}

static void a_pid_file_is_handed_on(rig *r)
{
    kind_each(r, KINDS, KIND_COUNT, kind_hand_it_on);
}

static void a_wait_for_a_pid_file_is_cancelled(rig *r)
{
    kind_each(r, KINDS, KIND_COUNT, kind_give_the_wait_up);
}

static void freed_while_a_pid_file_is_held(rig *r)
{
    kind_free_while_held(r, KINDS, KIND_COUNT);
}

const conformance_case cases_pidfile[] = {
    {"a_pid_file_is_waited_for", a_pid_file_is_waited_for, 0},
    {"a_pid_file_goes_while_it_is_waited_for", a_pid_file_goes_while_it_is_waited_for, 0},
    {"a_pid_file_is_handed_on", a_pid_file_is_handed_on, 0},
    {"a_wait_for_a_pid_file_is_cancelled", a_wait_for_a_pid_file_is_cancelled, 0},
    {"freed_while_a_pid_file_is_held", freed_while_a_pid_file_is_held, 0},
    {NULL, NULL, 0},
};
