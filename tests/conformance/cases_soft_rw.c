/* Readers and writers by markers: who is in with whom, a claim that ends with its request, heartbeats, holds that are
 * lost, and a state lock that somebody has. Each way to wait, and each place where attempts run. Others' markers are
 * written by hand; they name the parent of this process, which outlives it. */
#include "conformance.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define WRITER "lock.write"
#define READERS "lock.readers"
#define STATE "lock.state"
#define A_READER READERS "/00000000000000000000000000000000.1"

static const aflock_wait WAYS[] = {AFLOCK_WAIT_AUTO, AFLOCK_WAIT_NOTIFY, AFLOCK_WAIT_POLL};
enum { WAYS_COUNT = sizeof WAYS / sizeof WAYS[0], SCENES = 3 * WAYS_COUNT, MODES = 2, HEARTBEAT = 10 };

/* Somebody else's marker; of the state lock it is two lines shorter. */
static void write_by_hand(const rig *r, const char *name)
{
    char path[PATH_MAX], host[256] = "", text[512];
    rig_path(r, READERS, path);
    require(mkdir(path, 0700) == 0 || access(path, F_OK) == 0);
    require(gethostname(host, sizeof host - 1) == 0);
    snprintf(text, sizeof text, "%s%d\n%s\n", strcmp(name, STATE) == 0 ? "" : "ffffffffffffffffffffffffffffffff\n",
             (int)getppid(), host);
    rig_path(r, name, path);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    require(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
    close(fd);
}

static void unlink_by_hand(const rig *r, const char *name)
{
    char path[PATH_MAX];
    rig_path(r, name, path);
    require(unlink(path) == 0);
}

static bool is_there(const rig *r, const char *name)
{
    char path[PATH_MAX];
    rig_path(r, name, path);
    return access(path, F_OK) == 0;
}

static bool is_claimed(const rig *r)
{
    return is_there(r, WRITER);
}

/* The folder has nothing in it if it can be removed. */
static bool is_all_free(void *user)
{
    char path[PATH_MAX];
    rig_path(user, READERS, path);
    if (is_there(user, WRITER) || is_there(user, STATE) || rmdir(path) != 0)
        return false;
    require(mkdir(path, 0700) == 0);
    return true;
}

/* The scene's way and place. */
static aflock *open_soft_rw(rig *r, unsigned scene)
{
    char path[PATH_MAX];
    aflock *lock;
    aflock_options o;
    aflock_options_init(&o);
    o.protocol = AFLOCK_SOFT_RW;
    o.wait = WAYS[scene / 3];
    o.io = (aflock_io)(scene % 3);
    o.poll_interval = 5 * MS;
    o.heartbeat = HEARTBEAT * MS;
    o.stale_after = 600 * SEC; /* nothing goes by age */
    rig_path(r, "lock", path);
    require_status(aflock_open(&lock, r->ctx, path, &o), 0);
    return lock;
}

static void ask(rig *r, aflock *lock, aflock_mode mode, uint64_t timeout, answer *a)
{
    aflock_acquire_options o = rig_options(timeout);
    o.mode = mode;
    require_status(rig_acquire(r, lock, &o, a), 0);
}

static void end_scene(rig *r, aflock *lock)
{
    rig_await_ticking(r, is_all_free, r);
    require_status(rig_close(r, lock), 0);
}

static bool has_claimed_or_left(void *user)
{
    const answer *a = user;
    return a->count > 0 || is_claimed(a->rig);
}

/* A writer of ours who has claimed, and waits for the other reader; or his time is over before anybody looked. */
static aflock *wait_with_a_claim(rig *r, unsigned scene, uint64_t timeout, answer *a)
{
    aflock *lock = open_soft_rw(r, scene);
    write_by_hand(r, A_READER);
    ask(r, lock, AFLOCK_EXCLUSIVE, timeout, a);
    rig_await_ticking(r, has_claimed_or_left, a);
    return lock;
}

static void readers_are_in_together(rig *r)
{
    for (unsigned i = 0; i < SCENES; i++) {
        answer a = {.count = 0}, b = {.count = 0}, writer = {.count = 0};
        aflock *lock = open_soft_rw(r, i);
        write_by_hand(r, A_READER);
        ask(r, lock, AFLOCK_SHARED, AFLOCK_FOREVER, &a);
        ask(r, lock, AFLOCK_SHARED, AFLOCK_FOREVER, &b);
        rig_await_status(r, &a, 0);
        rig_await_status(r, &b, 0);
        ask(r, lock, AFLOCK_EXCLUSIVE, AFLOCK_FOREVER, &writer);
        rig_pass(r, 5 * MS);
        rig_let_go(r, lock, a.req);
        rig_let_go(r, lock, b.req);
        rig_pass(r, 5 * MS);
        require(writer.count == 0); /* the other one reads still */
        unlink_by_hand(r, A_READER);
        rig_await_status(r, &writer, 0);
        rig_let_go(r, lock, writer.req);
        end_scene(r, lock);
    }
}

static void a_waiting_soft_writer_lets_no_reader_in(rig *r)
{
    for (unsigned i = 0; i < SCENES; i++) {
        answer a = {.count = 0}, late = {.count = 0};
        aflock *lock = wait_with_a_claim(r, i, AFLOCK_FOREVER, &a);
        ask(r, lock, AFLOCK_SHARED, AFLOCK_FOREVER, &late);
        rig_pass(r, 5 * MS);
        require(a.count == 0 && late.count == 0 && is_claimed(r));
        unlink_by_hand(r, A_READER);
        rig_await_status(r, &a, 0);
        require(is_claimed(r) && late.count == 0);
        rig_let_go(r, lock, a.req);
        rig_await_status(r, &late, 0);
        require(!is_claimed(r) && a.order < late.order);
        rig_let_go(r, lock, late.req);
        end_scene(r, lock);
    }
}

static void nobody_comes_in_beside_a_writer(rig *r)
{
    for (unsigned i = 0; i < MODES * SCENES; i++) {
        answer a = {.count = 0};
        aflock *lock = open_soft_rw(r, i / MODES);
        write_by_hand(r, WRITER);
        ask(r, lock, i % MODES ? AFLOCK_SHARED : AFLOCK_EXCLUSIVE, AFLOCK_FOREVER, &a);
        rig_pass(r, 5 * MS);
        require(a.count == 0);
        unlink_by_hand(r, WRITER);
        rig_await_status(r, &a, 0);
        rig_let_go(r, lock, a.req);
        end_scene(r, lock);
    }
}

/* Readers come in as soon as nobody waits: the other one is still there. */
static void a_soft_claim_ends_with_its_request(rig *r)
{
    for (unsigned i = 0; i < 2 * SCENES; i++) {
        answer a = {.count = 0}, late = {.count = 0};
        const bool cancelled = i % 2;
        const uint64_t began = rig_now(r);
        aflock *lock = wait_with_a_claim(r, i / 2, cancelled ? AFLOCK_FOREVER : 20 * MS, &a);
        ask(r, lock, AFLOCK_SHARED, AFLOCK_FOREVER, &late);
        if (cancelled)
            require_status(rig_cancel(r, lock, a.req), 0);
        rig_await_status(r, &a, cancelled ? AFLOCK_ECANCELED : AFLOCK_ETIMEDOUT);
        require(cancelled || a.at - began >= 20 * MS);
        rig_await_status(r, &late, 0);
        require(!is_claimed(r));
        rig_let_go(r, lock, late.req);
        unlink_by_hand(r, A_READER);
        end_scene(r, lock);
    }
}

static bool is_unclaimed_and_left(void *user)
{
    return !is_claimed(user) && !is_there(user, STATE);
}

/* Nobody comes after it: what withdraws the claim is nothing but the loop. */
static void a_soft_claim_ends_by_itself(rig *r)
{
    for (unsigned i = 0; i < SCENES; i++) {
        answer a = {.count = 0};
        aflock *lock = wait_with_a_claim(r, i, 20 * MS, &a);
        rig_await_status(r, &a, AFLOCK_ETIMEDOUT);
        rig_await_ticking(r, is_unclaimed_and_left, r);
        unlink_by_hand(r, A_READER);
        end_scene(r, lock);
    }
}

static void freed_with_a_soft_claim(rig *r)
{
    for (unsigned i = 0; i < SCENES; i++) {
        answer a = {.count = 0};
        wait_with_a_claim(r, i, AFLOCK_FOREVER, &a);
        require_status(rig_free(r, 5 * SEC), 0);
        require(a.count == 1 && a.result.status == AFLOCK_ECLOSED);
        require(!is_claimed(r));
        unlink_by_hand(r, A_READER);
        require(is_all_free(r));
        require_status(rig_context(r, &r->ctx), 0);
    }
}

static bool is_unclaimed(void *r)
{
    return !is_claimed(r);
}

/* While somebody has the state lock, and has it until the grace is over: a writer's hold ends without. */
static void freed_while_the_state_lock_is_taken(rig *r)
{
    for (unsigned i = 0; i < MODES * SCENES; i++) {
        answer a = {.count = 0};
        const aflock_mode mode = i % MODES ? AFLOCK_SHARED : AFLOCK_EXCLUSIVE;
        aflock *lock = open_soft_rw(r, i / MODES);
        ask(r, lock, mode, AFLOCK_FOREVER, &a);
        rig_await_status(r, &a, 0);
        write_by_hand(r, STATE);
        require(rig_free(r, mode == AFLOCK_SHARED ? 5 * SEC : 20 * MS) == (mode == AFLOCK_EXCLUSIVE));
        require_status(rig_context(r, &r->ctx), 0);
        rig_await_ticking(r, is_unclaimed, r);
        unlink_by_hand(r, STATE);
        require(is_all_free(r));
    }
}

/* A writer's release is answered when it is done, and no earlier; a reader's needs no leave. */
static void a_release_waits_for_the_state_lock(rig *r)
{
    for (unsigned i = 0; i < SCENES; i++) {
        answer a = {.count = 0}, released = {.count = 0};
        aflock *lock = open_soft_rw(r, i);
        ask(r, lock, AFLOCK_SHARED, AFLOCK_FOREVER, &a);
        rig_await_status(r, &a, 0);
        write_by_hand(r, STATE);
        rig_let_go(r, lock, a.req);
        unlink_by_hand(r, STATE);
        a = (answer){.count = 0};
        ask(r, lock, AFLOCK_EXCLUSIVE, AFLOCK_FOREVER, &a);
        rig_await_status(r, &a, 0);
        write_by_hand(r, STATE);
        require_status(rig_release(r, lock, a.req, &released), 0);
        rig_pass(r, 20 * MS);
        require(released.count == 0 && is_claimed(r));
        unlink_by_hand(r, STATE);
        rig_await_status(r, &released, 0);
        require(!is_claimed(r));
        end_scene(r, lock);
    }
}

/* ------------------------------------------------------------------------------------------------------- heartbeats */

typedef struct holder {
    rig *rig;
    char path[PATH_MAX]; /* of the marker */
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

/* The only reader's marker. */
static void find_reader(const rig *r, char path[PATH_MAX])
{
    char folder[PATH_MAX], name[PATH_MAX] = "";
    rig_path(r, READERS, folder);
    DIR *d = opendir(folder);
    require(d);
    for (const struct dirent *e; (e = readdir(d)) != NULL;)
        if (e->d_name[0] != '.')
            snprintf(name, sizeof name, READERS "/%s", e->d_name);
    closedir(d);
    require(name[0]);
    rig_path(r, name, path);
}

static aflock *hold_it(rig *r, unsigned scene, aflock_mode mode, holder *h, answer *a)
{
    aflock_acquire_options o = rig_options(AFLOCK_FOREVER);
    aflock *lock = open_soft_rw(r, scene);
    o.mode = mode;
    o.on_compromise = on_compromise;
    o.on_compromise_user = h;
    rig_hold(r, lock, &o, a);
    *h = (holder){.rig = r};
    if (mode == AFLOCK_SHARED)
        find_reader(r, h->path);
    else
        rig_path(r, WRITER, h->path);
    return lock;
}

/* Refreshed at least once since it was made so old. */
static bool is_fresh(void *user)
{
    const holder *h = user;
    struct stat st;
    return stat(h->path, &st) == 0 && st.st_mtim.tv_sec > 1;
}

static void await_heartbeat(rig *r, holder *h)
{
    const struct timespec old[2] = {{1, 0}, {1, 0}};
    require(utimensat(AT_FDCWD, h->path, old, 0) == 0);
    rig_await_ticking(r, is_fresh, h);
}

static void soft_markers_are_refreshed(rig *r)
{
    for (unsigned i = 0; i < MODES * SCENES; i++) {
        holder h;
        answer a = {.count = 0};
        aflock *lock = hold_it(r, i / MODES, i % MODES ? AFLOCK_SHARED : AFLOCK_EXCLUSIVE, &h, &a);
        await_heartbeat(r, &h);
        await_heartbeat(r, &h);
        rig_let_go(r, lock, a.req);
        require(h.told == 0);
        end_scene(r, lock);
    }
}

/* So is that of a writer who waits. */
static void a_soft_claim_is_refreshed(rig *r)
{
    for (unsigned i = 0; i < SCENES; i++) {
        holder h = {.rig = r};
        answer a = {.count = 0};
        aflock *lock = wait_with_a_claim(r, i, AFLOCK_FOREVER, &a);
        rig_path(r, WRITER, h.path);
        await_heartbeat(r, &h);
        require(a.count == 0);
        unlink_by_hand(r, A_READER);
        rig_await_status(r, &a, 0);
        rig_let_go(r, lock, a.req);
        end_scene(r, lock);
    }
}

/* Nothing else makes the loop turn. */
static void who_lost_a_soft_marker_is_told(rig *r)
{
    for (unsigned i = 0; i < MODES * SCENES; i++) {
        holder h;
        answer a = {.count = 0};
        aflock *lock = hold_it(r, i / MODES, i % MODES ? AFLOCK_SHARED : AFLOCK_EXCLUSIVE, &h, &a);
        require(unlink(h.path) == 0);
        rig_await(r, &h.told, 1);
        require(h.reason == AFLOCK_MARKER_MISSING);
        rig_pass(r, 3 * HEARTBEAT * MS);
        require(h.told == 1);
        end_scene(r, lock);
    }
}

const conformance_case cases_soft_rw[] = {
    {"readers_are_in_together", readers_are_in_together, 0},
    {"a_waiting_soft_writer_lets_no_reader_in", a_waiting_soft_writer_lets_no_reader_in, 0},
    {"nobody_comes_in_beside_a_writer", nobody_comes_in_beside_a_writer, 0},
    {"a_soft_claim_ends_with_its_request", a_soft_claim_ends_with_its_request, 0},
    {"a_soft_claim_ends_by_itself", a_soft_claim_ends_by_itself, 0},
    {"freed_with_a_soft_claim", freed_with_a_soft_claim, 0},
    {"freed_while_the_state_lock_is_taken", freed_while_the_state_lock_is_taken, 0},
    {"a_release_waits_for_the_state_lock", a_release_waits_for_the_state_lock, 0},
    {"soft_markers_are_refreshed", soft_markers_are_refreshed, 0},
    {"a_soft_claim_is_refreshed", a_soft_claim_is_refreshed, 0},
    {"who_lost_a_soft_marker_is_told", who_lost_a_soft_marker_is_told, 0},
    {NULL, NULL, 0},
};
