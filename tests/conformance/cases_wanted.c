/* Holders are told that somebody waits: by the context itself, by the notifier if the host has one, and from a worker.
 */
#include "conformance.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct listener {
    rig *rig;
    unsigned here, elsewhere;
    bool releases;
} listener;

static void on_wanted(aflock *lock, aflock_req req, aflock_wanted who, void *user)
{
    listener *l = user;
    rig *r = l->rig;
    require(r->calls == 0 && r->callbacks == 0 && r->freeing == 0 && pthread_equal(r->thread, pthread_self()));
    require(aflock_fd(lock, req) >= 0);
    *(who == AFLOCK_WANTED_HERE ? &l->here : &l->elsewhere) += 1;
    if (l->releases)
        require_status(aflock_release(lock, req, NULL, NULL), 0);
}

static aflock_acquire_options asking(listener *l, aflock_mode mode)
{
    aflock_acquire_options o = rig_options(AFLOCK_FOREVER);
    o.mode = mode;
    o.on_wanted = on_wanted;
    o.on_wanted_user = l;
    return o;
}

/* On whatever file system the tests run. */
static aflock *open_notified(rig *r)
{
    char path[PATH_MAX];
    aflock *lock;
    aflock_options o;
    aflock_options_init(&o);
    o.wait = AFLOCK_WAIT_NOTIFY;
    rig_path(r, "lock", path);
    require_status(aflock_open(&lock, r->ctx, path, &o), 0);
    return lock;
}

static void a_holder_is_told_of_a_waiter_here(rig *r)
{
    listener l = {.rig = r, .releases = true};
    answer a = {.count = 0}, b = {.count = 0};
    aflock *lock = rig_open(r, "lock", AFLOCK_IO_AUTO);
    aflock_acquire_options o = asking(&l, AFLOCK_EXCLUSIVE);
    rig_hold(r, lock, &o, &a);
    rig_pass(r, 2 * MS);
    require(l.here == 0);
    require_status(rig_acquire(r, lock, NULL, &b), 0);
    require(l.here == 0);
    rig_await_status(r, &b, 0); /* it made way */
    require(l.here == 1);
    rig_let_go(r, lock, b.req);
}

static void a_holder_is_told_of_who_opens_the_file(rig *r)
{
    listener l = {.rig = r};
    answer a = {.count = 0};
    char path[PATH_MAX];
    aflock *lock = open_notified(r);
    aflock_acquire_options o = asking(&l, AFLOCK_EXCLUSIVE);
    rig_hold(r, lock, &o, &a);
    rig_pass(r, 2 * MS);
    require(l.elsewhere == 0);
    rig_path(r, "lock", path);
    close(open(path, O_RDWR | O_CLOEXEC));
    if (aflock_wait_mode(lock, NULL) == AFLOCK_WAIT_NOTIFY)
        rig_await(r, &l.elsewhere, 1);
    close(open(path, O_RDWR | O_CLOEXEC)); /* once is enough; and where there is no notifier, nothing is heard */
    rig_pass(r, 2 * MS);
    require(l.elsewhere == (aflock_wait_mode(lock, NULL) == AFLOCK_WAIT_NOTIFY));
    rig_let_go(r, lock, a.req);
}

/* ------------------------------------------------------------------------------------------- blocked in the kernel */

static void *wait_in_the_kernel(void *user)
{
    const int *fd = user;
    require(flock(*fd, LOCK_EX) == 0);
    require(flock(*fd, LOCK_UN) == 0);
    return NULL;
}

static bool somebody_is_blocked(void *user)
{
    const int *fd = user;
    struct stat st;
    char line[256], inode[32];
    bool found = false;
    require(fstat(*fd, &st) == 0);
    snprintf(inode, sizeof inode, ":%llu ", (unsigned long long)st.st_ino);
    FILE *locks = fopen("/proc/locks", "re");
    require(locks != NULL);
    while (fgets(line, sizeof line, locks) != NULL)
        found |= strstr(line, "->") != NULL && strstr(line, inode) != NULL;
    fclose(locks);
    return found;
}

typedef struct patience {
    const listener *listener;
    int ticks;
} patience;

static bool is_told_or_tired(void *user)
{
    patience *p = user;
    return p->listener->elsewhere > 0 || p->ticks++ > 200;
}

/* Holds until it is told: the system can leave out who is blocked when others lock and unlock meanwhile, and is asked
 * once in a hold. */
static void hold_until_told(rig *r, aflock *lock, const aflock_acquire_options *o, const listener *l, answer *a)
{
    for (;;) {
        patience p = {l, 0};
        rig_hold(r, lock, o, a);
        rig_await_ticking(r, is_told_or_tired, &p);
        if (l->elsewhere > 0)
            return;
        rig_let_go(r, lock, a->req);
        *a = (answer){.count = 0};
    }
}

/* A writer waits for another reader; then we read, too. */
static void a_holder_is_told_of_who_is_blocked_in_the_kernel(rig *r)
{
    listener l = {.rig = r};
    answer a = {.count = 0};
    pthread_t thread;
    char path[PATH_MAX];
    aflock *lock = open_notified(r);
    aflock_acquire_options o = asking(&l, AFLOCK_SHARED);
    rig_path(r, "lock", path);
    int reader = open(path, O_RDONLY | O_CREAT | O_CLOEXEC, 0666), writer = open(path, O_RDWR | O_CLOEXEC);
    require(reader >= 0 && writer >= 0 && flock(reader, LOCK_SH | LOCK_NB) == 0);
    require(pthread_create(&thread, NULL, wait_in_the_kernel, &writer) == 0);
    rig_await_ticking(r, somebody_is_blocked, &writer);
    hold_until_told(r, lock, &o, &l, &a);
    require(l.elsewhere == 1 && l.here == 0);
    close(reader);
    rig_let_go(r, lock, a.req);
    require(pthread_join(thread, NULL) == 0);
    close(writer);
}

/* ------------------------------------------------------------------------------------------------------- the ends */

static void who_is_to_be_told_does_not_keep_the_loop_alive(rig *r)
{
    listener l = {.rig = r};
    answer a = {.count = 0};
    aflock *lock = open_notified(r);
    aflock_acquire_options o = asking(&l, AFLOCK_EXCLUSIVE);
    rig_hold(r, lock, &o, &a);
    rig_run_out(r);
    rig_let_go(r, lock, a.req);
    require(l.here + l.elsewhere == 0);
}

/* With the look at the kernel's waiters in whatever state. */
static void freed_while_a_holder_is_to_be_told(rig *r)
{
    listener l = {.rig = r};
    answer a = {.count = 0}, b = {.count = 0};
    aflock *lock = open_notified(r);
    aflock_acquire_options o = asking(&l, AFLOCK_EXCLUSIVE);
    rig_hold(r, lock, &o, &a);
    require_status(rig_acquire(r, lock, NULL, &b), 0);
    require_status(rig_free(r, SEC), 0);
    require(b.count == 1 && b.result.status == AFLOCK_ECLOSED);
    require(l.here + l.elsewhere == 0);
    require_status(rig_context(r, &r->ctx), 0);
    rig_pass(r, MS);
}

const conformance_case cases_wanted[] = {
    {"a_holder_is_told_of_a_waiter_here", a_holder_is_told_of_a_waiter_here, 0},
    {"a_holder_is_told_of_who_opens_the_file", a_holder_is_told_of_who_opens_the_file, 0},
    {"a_holder_is_told_of_who_is_blocked_in_the_kernel", a_holder_is_told_of_who_is_blocked_in_the_kernel, 0},
    {"who_is_to_be_told_does_not_keep_the_loop_alive", who_is_to_be_told_does_not_keep_the_loop_alive, HOST_ENDS},
    {"freed_while_a_holder_is_to_be_told", freed_while_a_holder_is_to_be_told, 0},
    {NULL, NULL, 0},
};
