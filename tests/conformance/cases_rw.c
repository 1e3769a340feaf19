/* Readers and writers: a writer who waits keeps others out by a claim, which ends with the wait, however that ends.
 * Each way to wait, and each place where attempts run. */
#include "conformance.h"

#include <fcntl.h>
#include <unistd.h>

enum { PENDING = 0x40000000, RANGE = PENDING + 2, RANGE_BYTES = 510 }; /* SQLite's */

static const aflock_wait WAYS[] = {AFLOCK_WAIT_AUTO, AFLOCK_WAIT_NOTIFY, AFLOCK_WAIT_POLL, AFLOCK_WAIT_PARK};
enum { WAYS_COUNT = sizeof WAYS / sizeof WAYS[0], SCENES = 3 * WAYS_COUNT };

/* Another program: the descriptor with its lock, or -1: it would have to wait. */
static int another(const rig *r, short type, off_t start, off_t length)
{
    char path[PATH_MAX];
    struct flock range = {.l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = length};
    rig_path(r, "db", path);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    require(fd >= 0);
    if (fcntl(fd, F_OFD_SETLK, &range) == 0)
        return fd;
    close(fd);
    return -1;
}

static int another_reader(const rig *r)
{
    return another(r, F_RDLCK, RANGE, RANGE_BYTES);
}

static bool is_open(const rig *r, short type, off_t start, off_t length)
{
    int fd = another(r, type, start, length);
    if (fd >= 0)
        close(fd);
    return fd >= 0;
}

static bool lets_readers_in(const rig *r)
{
    return is_open(r, F_RDLCK, PENDING, 1);
}

static bool keeps_readers_out(void *r)
{
    return !lets_readers_in(r);
}

static bool has_let_readers_in(void *r)
{
    return lets_readers_in(r);
}

static bool is_all_free(void *r)
{
    return is_open(r, F_WRLCK, PENDING, RANGE + RANGE_BYTES - PENDING);
}

/* The scene's way and place. */
static aflock *open_rw(rig *r, unsigned scene)
{
    char path[PATH_MAX];
    aflock *lock;
    aflock_options o;
    aflock_options_init(&o);
    o.protocol = AFLOCK_RW;
    o.wait = WAYS[scene / 3];
    o.io = (aflock_io)(scene % 3);
    rig_path(r, "db", path);
    require_status(aflock_open(&lock, r->ctx, path, &o), 0);
    return lock;
}

static void ask(rig *r, aflock *lock, aflock_mode mode, uint64_t timeout, answer *a)
{
    aflock_acquire_options o = rig_options(timeout);
    o.mode = mode;
    require_status(rig_acquire(r, lock, &o, a), 0);
}

static bool has_claimed_or_left(void *user)
{
    const answer *a = user;
    return a->count > 0 || !lets_readers_in(a->rig);
}

/* A writer who has claimed, and waits for the reader who is returned; or his time is over before anybody looked. */
static int wait_with_a_claim(rig *r, unsigned scene, uint64_t timeout, aflock **lock, answer *a)
{
    int reader = another_reader(r);
    require(reader >= 0);
    *lock = open_rw(r, scene);
    ask(r, *lock, AFLOCK_EXCLUSIVE, timeout, a);
    rig_await_ticking(r, has_claimed_or_left, a);
    return reader;
}

static void end_scene(rig *r, aflock *lock)
{
    rig_await_ticking(r, is_all_free, r);
    require_status(rig_close(r, lock), 0);
}

static void a_waiting_writer_lets_no_reader_in(rig *r)
{
    for (unsigned i = 0; i < SCENES; i++) {
        answer a = {.count = 0}, late = {.count = 0};
        aflock *lock;
        int reader = wait_with_a_claim(r, i, AFLOCK_FOREVER, &lock, &a);
        ask(r, lock, AFLOCK_SHARED, AFLOCK_FOREVER, &late);
        rig_pass(r, 5 * MS);
        require(a.count == 0 && late.count == 0 && !lets_readers_in(r));
        close(reader);
        rig_await_status(r, &a, 0);
        require(!lets_readers_in(r) && late.count == 0);
        rig_let_go(r, lock, a.req);
        rig_await_status(r, &late, 0);
        require(lets_readers_in(r) && a.order < late.order);
        rig_let_go(r, lock, late.req);
        end_scene(r, lock);
    }
}

/* It is there that the claim has to be won first. */
static void a_writer_waits_for_a_writer_who_waits(rig *r)
{
    for (unsigned i = 0; i < SCENES; i++) {
        answer a = {.count = 0};
        int reader = another_reader(r), claim = another(r, F_WRLCK, PENDING, RANGE - PENDING);
        aflock *lock = open_rw(r, i);
        ask(r, lock, AFLOCK_EXCLUSIVE, AFLOCK_FOREVER, &a);
        rig_pass(r, 5 * MS);
        require(reader >= 0 && claim >= 0 && is_open(r, F_RDLCK, RANGE, RANGE_BYTES));
        close(claim);
        rig_await_ticking(r, keeps_readers_out, r);
        require(a.count == 0);
        close(reader);
        rig_await_status(r, &a, 0);
        rig_let_go(r, lock, a.req);
        end_scene(r, lock);
    }
}

/* Readers come in as soon as nobody waits: the other program's reader is still there. */
static void a_claim_ends_with_its_request(rig *r)
{
    for (unsigned i = 0; i < 2 * SCENES; i++) {
        answer a = {.count = 0}, late = {.count = 0};
        const bool cancelled = i % 2;
        aflock *lock;
        uint64_t began = rig_now(r);
        int reader = wait_with_a_claim(r, i / 2, cancelled ? AFLOCK_FOREVER : 20 * MS, &lock, &a);
        ask(r, lock, AFLOCK_SHARED, AFLOCK_FOREVER, &late);
        if (cancelled)
            require_status(rig_cancel(r, lock, a.req), 0);
        rig_await_status(r, &a, cancelled ? AFLOCK_ECANCELED : AFLOCK_ETIMEDOUT);
        require(cancelled || a.at - began >= 20 * MS);
        rig_await_status(r, &late, 0);
        require(is_open(r, F_WRLCK, PENDING, RANGE - PENDING)); /* nothing of the claim is left */
        rig_let_go(r, lock, late.req);
        close(reader);
        end_scene(r, lock);
    }
}

/* Nobody comes after it: what withdraws the claim is nothing but the loop. */
static void a_claim_ends_by_itself(rig *r)
{
    for (unsigned i = 0; i < SCENES; i++) {
        answer a = {.count = 0};
        aflock *lock;
        int reader = wait_with_a_claim(r, i, 20 * MS, &lock, &a);
        rig_await_status(r, &a, AFLOCK_ETIMEDOUT);
        rig_await_ticking(r, has_let_readers_in, r);
        require_status(rig_close(r, lock), 0);
        close(reader);
        rig_await_ticking(r, is_all_free, r);
    }
}

static void freed_with_a_claim(rig *r)
{
    for (unsigned i = 0; i < SCENES; i++) {
        answer a = {.count = 0};
        aflock *lock;
        int reader = wait_with_a_claim(r, i, AFLOCK_FOREVER, &lock, &a);
        require_status(rig_free(r, 5 * SEC), 0);
        require(a.count == 1 && a.result.status == AFLOCK_ECLOSED);
        require(lets_readers_in(r));
        close(reader);
        require(is_all_free(r));
        require_status(rig_context(r, &r->ctx), 0);
    }
}

const conformance_case cases_rw[] = {
    {"a_waiting_writer_lets_no_reader_in", a_waiting_writer_lets_no_reader_in, 0},
    {"a_writer_waits_for_a_writer_who_waits", a_writer_waits_for_a_writer_who_waits, 0},
    {"a_claim_ends_with_its_request", a_claim_ends_with_its_request, 0},
    {"a_claim_ends_by_itself", a_claim_ends_by_itself, 0},
    {"freed_with_a_claim", freed_with_a_claim, 0},
    {NULL, NULL, 0},
};
