/* Markers and claims: taken, waited for, handed on and given up on every loop, wherever they are made. Somebody else's
 * are written by hand; they name the parent of this process, which outlives it. */
#include "conformance.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define TOKEN "ffffffffffffffffffffffffffffffff"
#define CLAIM "lock.filelock/claims/held-v1-" TOKEN ".claim"

static const struct kind {
    aflock_protocol protocol;
    const char *held; /* what is there while somebody else holds it */
} KINDS[] = {
    {AFLOCK_SOFT, "lock"},
    {AFLOCK_LEASE, "lock"},
    {AFLOCK_STRICT, CLAIM},
};
enum { KIND_COUNT = sizeof KINDS / sizeof KINDS[0] };

static aflock *open_marker(rig *r, const struct kind *k, int io)
{
    char path[PATH_MAX];
    aflock *lock;
    aflock_options o;
    aflock_options_init(&o);
    o.protocol = k->protocol;
    o.io = (aflock_io)io;
    o.poll_interval = 5 * MS;
    rig_path(r, "lock", path);
    require_status(aflock_open(&lock, r->ctx, path, &o), 0);
    return lock;
}

static void use_once(rig *r, aflock *lock)
{
    answer a = {.count = 0};
    rig_hold(r, lock, NULL, &a);
    require(a.result.fd == -1);
    rig_let_go(r, lock, a.req);
}

static void print_record(const struct kind *k, char text[1024])
{
    char host[256] = "", hex[513] = "";
    const int pid = (int)getppid();
    require(gethostname(host, sizeof host - 1) == 0);
    for (size_t i = 0; host[i]; i++)
        snprintf(hex + 2 * i, 3, "%02x", (unsigned char)host[i]);
    if (k->protocol == AFLOCK_SOFT)
        snprintf(text, 1024, "%d\n%s\n", pid, host);
    else if (k->protocol == AFLOCK_LEASE)
        snprintf(text, 1024, "filelock/2\npid=%d\nhost=%s\nmode=lease\ntoken=" TOKEN "\nduration=30\n", pid, host);
    else
        snprintf(text, 1024, "filelock-strict-v1\n" TOKEN "\n%d\n%s\n\n", pid, hex);
}

/* Somebody else takes it. The lock was used before, so that folders are there. */
static void take_by_hand(const rig *r, const struct kind *k)
{
    char path[PATH_MAX], text[1024];
    print_record(k, text);
    rig_path(r, k->held, path);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    require(fd >= 0);
    require(write(fd, text, strlen(text)) == (ssize_t)strlen(text));
    close(fd);
}

static void give_by_hand(const rig *r, const struct kind *k)
{
    char path[PATH_MAX];
    rig_path(r, k->held, path);
    require(unlink(path) == 0);
}

static bool is_there(const rig *r, const char *name)
{
    char path[PATH_MAX];
    rig_path(r, name, path);
    return access(path, F_OK) == 0;
}

/* Nobody has it; the next protocol gets the path. */
static void end_of(rig *r, const struct kind *k, aflock *lock)
{
    char path[PATH_MAX];
    require(!is_there(r, k->held));
    require_status(rig_close(r, lock), 0);
    rig_path(r, "lock", path);
    require(k->protocol != AFLOCK_STRICT || unlink(path) == 0);
}

static void each_kind(rig *r, void (*body)(rig *r, const struct kind *k, aflock *lock))
{
    for (int kind = 0; kind < KIND_COUNT; kind++) {
        for (int io = AFLOCK_IO_AUTO; io <= AFLOCK_IO_POOL; io++) {
            aflock *lock = open_marker(r, &KINDS[kind], io);
            use_once(r, lock);
            body(r, &KINDS[kind], lock);
            use_once(r, lock);
            end_of(r, &KINDS[kind], lock);
        }
    }
}

/* --------------------------------------------------------------------------------------------------------- the cases
 */

static void wait_for_it(rig *r, const struct kind *k, aflock *lock)
{
    answer a = {.count = 0};
    take_by_hand(r, k);
    require_status(rig_acquire(r, lock, NULL, &a), 0);
    rig_pass(r, 10 * MS);
    require(a.count == 0);
    give_by_hand(r, k);
    rig_await_status(r, &a, 0);
    rig_let_go(r, lock, a.req);
}

static void a_marker_is_waited_for(rig *r)
{
    each_kind(r, wait_for_it);
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

static void a_marker_is_handed_on(rig *r)
{
    each_kind(r, hand_it_on);
}

static void give_the_wait_up(rig *r, const struct kind *k, aflock *lock)
{
    answer a = {.count = 0}, b = {.count = 0};
    const aflock_acquire_options o = rig_options(10 * MS);
    take_by_hand(r, k);
    require_status(rig_acquire(r, lock, NULL, &a), 0);
    require_status(rig_acquire(r, lock, &o, &b), 0);
    rig_await_status(r, &b, AFLOCK_ETIMEDOUT);
    require_status(rig_cancel(r, lock, a.req), 0);
    rig_await_status(r, &a, AFLOCK_ECANCELED);
    require(is_there(r, k->held)); /* it is still his */
    give_by_hand(r, k);
}

static void a_wait_for_a_marker_is_cancelled(rig *r)
{
    each_kind(r, give_the_wait_up);
}

/* Nothing is left of one that the context had when it ended. */
static void freed_while_a_marker_is_held(rig *r)
{
    for (int kind = 0; kind < KIND_COUNT; kind++) {
        for (int io = AFLOCK_IO_AUTO; io <= AFLOCK_IO_POOL; io++) {
            answer a = {.count = 0};
            aflock *lock = open_marker(r, &KINDS[kind], io);
            rig_hold(r, lock, NULL, &a);
            require_status(rig_free(r, SEC), 0);
            require_status(rig_context(r, &r->ctx), 0);
            lock = open_marker(r, &KINDS[kind], io);
            use_once(r, lock);
            end_of(r, &KINDS[kind], lock);
        }
    }
}

const conformance_case cases_markers[] = {
    {"a_marker_is_waited_for", a_marker_is_waited_for, 0},
    {"a_marker_is_handed_on", a_marker_is_handed_on, 0},
    {"a_wait_for_a_marker_is_cancelled", a_wait_for_a_marker_is_cancelled, 0},
    {"freed_while_a_marker_is_held", freed_while_a_marker_is_held, 0},
    {NULL, NULL, 0},
};
