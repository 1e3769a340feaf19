/* Waiting for other processes' locks, with real files and real changes. Nothing is polled here unless a test says so:
 * whoever is not woken by a change waits until the watchdog barks. */
#include "support/instances.h"
#include "support/scene.h"

#include <aflock/kit.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* ------------------------------------------------------------------------------------------------ the other process */

typedef struct party {
    pid_t pid;
    int orders, reports;
} party;

static int orders, reports; /* the party's ends */

static void say(void)
{
    if (write(reports, "", 1) != 1)
        _exit(1);
}

/* Waits for an order; it ends with its parent. */
static void hear(void)
{
    char byte;
    if (read(orders, &byte, 1) != 1)
        _exit(0);
}

static void require(bool condition)
{
    if (!condition)
        _exit(1);
}

static void await(const party *p)
{
    char byte;
    ck_assert_int_eq(read(p->reports, &byte, 1), 1);
}

static void tell(const party *p)
{
    ck_assert_int_eq(write(p->orders, "\n", 1), 1);
}

/* To be called while nothing is waited for: a child would inherit what is kept meanwhile. Returns when it has said that
 * it is ready. */
static party start(void (*play)(void))
{
    int down[2], up[2];
    party p;
    ck_assert_int_eq(pipe2(down, O_CLOEXEC), 0);
    ck_assert_int_eq(pipe2(up, O_CLOEXEC), 0);
    p = (party){.orders = down[1], .reports = up[0]};
    p.pid = fork();
    ck_assert_int_ge(p.pid, 0);
    if (p.pid == 0) {
        close(p.orders);
        close(p.reports);
        orders = down[0];
        reports = up[1];
        play();
        say();
        hear();
        _exit(0);
    }
    close(down[0]);
    close(up[1]);
    await(&p);
    return p;
}

static void finish(const party *p)
{
    int status;
    close(p->orders);
    ck_assert_int_eq(waitpid(p->pid, &status, 0), p->pid);
    ck_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    close(p->reports);
}

static void slay(const party *p)
{
    scene_holder_end(p->pid);
    close(p->orders);
    close(p->reports);
}

/* --------------------------------------------------------------------------------------------------- what they play */

static int lock_it(const char *path, int flags, int operation)
{
    int fd = open(path, flags | O_CREAT | O_CLOEXEC, 0666);
    require(fd >= 0 && flock(fd, operation) == 0);
    say();
    hear();
    return fd;
}

static void close_it(void)
{
    close(lock_it("lock", O_RDWR, LOCK_EX));
}

static void close_read_only(void)
{
    close(lock_it("lock", O_RDONLY, LOCK_EX));
}

static void close_shared(void)
{
    close(lock_it("lock", O_RDONLY, LOCK_SH));
}

/* No close: the descriptor stays open until the end. */
static void unlock_and_touch(void)
{
    int fd = lock_it("lock", O_RDWR, LOCK_EX);
    require(flock(fd, LOCK_UN) == 0 && futimens(fd, NULL) == 0);
}

/* What nobody can listen to. */
static void only_unlock(void)
{
    require(flock(lock_it("lock", O_RDWR, LOCK_EX), LOCK_UN) == 0);
}

static void unlink_and_close(void)
{
    int fd = lock_it("lock", O_RDWR, LOCK_EX);
    require(unlink("lock") == 0);
    close(fd);
}

static void close_under_another_name(void)
{
    close(open("lock", O_RDWR | O_CREAT | O_CLOEXEC, 0666));
    require(link("lock", "other") == 0);
    close(lock_it("other", O_RDWR, LOCK_EX));
}

static void close_new_one(void)
{
    close(lock_it("new", O_RDWR, LOCK_EX));
}

/* One of ours whose file is to stay open, and does until the end unless neither a touch nor an open is permitted. */
static void keep_open(bool touch, bool open)
{
    aflock *lock;
    aflock_options o;
    aflock_options_init(&o);
    o.io = AFLOCK_IO_INLINE;
    o.keep_open = 1;
    scene = NULL; /* the parent's */
    scene_make_context();
    require(aflock_open(&lock, scene, "lock", &o) == 0);
    aflock_req req = scene_hold(lock, NULL);
    int descriptors = scene_descriptors();
    say();
    hear();
    seam_forget();
    seam_fail(SEAM_TOUCH, 0, !touch, EPERM);
    seam_fail(SEAM_OPEN, 0, !open, EMFILE);
    require(scene_release(lock, req).result.status == 0);
    require(seam_count(SEAM_TOUCH) == 1 && seam_count(SEAM_OPEN) == !touch);
    require(scene_descriptors() == descriptors - !open);
}

static void leave_it_open(void)
{
    keep_open(true, true);
}

static void leave_it_open_untouched(void)
{
    keep_open(false, true);
}

static void close_what_was_to_stay_open(void)
{
    keep_open(false, false);
}

/* The pipes as standard input and output, for another program. */
static void take_streams(void)
{
    require(dup2(orders, STDIN_FILENO) >= 0 && dup2(reports, STDOUT_FILENO) >= 0);
}

/* python3-filelock; it lives on after the release. */
static void be_python(void)
{
    static const char *const code = "import filelock, sys\n"
                                    "lock = filelock.FileLock('lock')\n"
                                    "lock.acquire()\n"
                                    "print(end='x', flush=True)\n"
                                    "sys.stdin.read(1)\n"
                                    "lock.release()\n"
                                    "sys.stdin.read(1)\n";
    const char *python = getenv("PYTHON");
    take_streams();
    execlp(python ? python : "/usr/bin/python3", "python3", "-c", code, (char *)NULL);
    _exit(1);
}

static void be_flock(void)
{
    take_streams();
    execlp("flock", "flock", "lock", "sh", "-c", "printf x; read order", (char *)NULL);
    _exit(1);
}

/* ------------------------------------------------------------------------------------------------------- our side */

static aflock *open_lock(aflock_ctx *ctx, const char *path, aflock_io io, uint64_t poll)
{
    aflock *lock;
    aflock_options o;
    aflock_options_init(&o);
    o.io = io;
    o.wait = AFLOCK_WAIT_NOTIFY;
    o.poll_interval = poll;
    ck_assert_int_eq(aflock_open(&lock, ctx, path, &o), 0);
    return lock;
}

static aflock *open_listener(aflock_io io)
{
    return open_lock(scene, "lock", io, AFLOCK_FOREVER);
}

/* Asks for what somebody else holds, until it is listened to: and after the last attempt before a change. */
static aflock_req wait_for(aflock *lock, answer *a, uint64_t timeout)
{
    aflock_req req;
    aflock_acquire_options o = scene_options(0, 0);
    o.timeout = timeout;
    int contended = scene_contended, watches = inotify_watches();
    ck_assert_int_eq(aflock_acquire(lock, &o, scene_answer, a, &req), 0);
    scene_expect(1);
    scene_run_until(&scene_contended, contended + 2);
    ck_assert_int_eq(inotify_watches(), watches + 1);
    ck_assert_int_eq(aflock_wait_mode(lock, NULL), AFLOCK_WAIT_NOTIFY);
    return req;
}

static void must_get(aflock *lock, const answer *a)
{
    scene_run_until(&a->count, 1);
    ck_assert_msg(a->result.status == 0, "%s", aflock_error_name(a->result.status));
    ck_assert(!scene_is_free("lock", LOCK_SH));
    ck_assert_int_eq(scene_release(lock, a->result.req).result.status, 0);
    ck_assert_int_eq(inotify_watches(), 0);
}

static void become_idle(void)
{
    while (aflock_epoll_alive(scene))
        ck_assert_int_eq(aflock_epoll_run_once(scene, AFLOCK_SECOND), 0);
}

/* Is got as soon as the other one has done what he does when he is told. */
static void woken_by(void (*play)(void), int io)
{
    answer a = {0};
    party other = start(play);
    aflock *lock = open_listener(scene_io(io));
    wait_for(lock, &a, AFLOCK_FOREVER);
    tell(&other);
    must_get(lock, &a);
    finish(&other);
    ck_assert_int_eq(scene_logged, 0);
}

/* ------------------------------------------------------------------------------------------------------ what wakes us
 */

START_TEST(by_a_close)
{
    woken_by(close_it, _i);
}
END_TEST

START_TEST(by_a_close_of_a_reader)
{
    woken_by(close_read_only, _i);
}
END_TEST

START_TEST(by_a_shared_holder)
{
    woken_by(close_shared, _i);
}
END_TEST

START_TEST(by_a_touch_after_the_unlock)
{
    woken_by(unlock_and_touch, _i);
}
END_TEST

START_TEST(by_one_that_leaves_it_open)
{
    woken_by(leave_it_open, _i);
}
END_TEST

START_TEST(by_one_that_leaves_it_open_and_may_not_touch_it)
{
    woken_by(leave_it_open_untouched, _i);
}
END_TEST

START_TEST(by_one_that_cannot_leave_it_open)
{
    woken_by(close_what_was_to_stay_open, _i);
}
END_TEST

/* Two of ours that keep it open, one after the other, again and again: each hears of the other. */
START_TEST(by_one_another)
{
    enum { TURNS = 20 };
    aflock_ctx *second;
    aflock *locks[2];
    answer a[2] = {{0}, {0}};
    ck_assert_int_eq(aflock_epoll_new(&second, NULL), 0);
    aflock_options o;
    aflock_options_init(&o);
    o.io = scene_io(_i);
    o.wait = AFLOCK_WAIT_NOTIFY;
    o.poll_interval = AFLOCK_FOREVER;
    o.keep_open = 1;
    ck_assert_int_eq(aflock_open(&locks[0], scene, "lock", &o), 0);
    ck_assert_int_eq(aflock_open(&locks[1], second, "lock", &o), 0);
    time_t limit = scene_limit();
    for (int i = 0; i < 2; i++)
        ck_assert_int_eq(aflock_acquire(locks[i], NULL, scene_answer, &a[i], NULL), 0);
    scene_expect(2 * TURNS);
    for (int left = 2 * TURNS, seen[2] = {0, 0}; left > 0;) {
        scene_turn(limit, "both get their turns");
        ck_assert_int_eq(aflock_epoll_run_once(second, AFLOCK_MILLISECOND), 0);
        for (int i = 0; i < 2; i++) {
            if (a[i].count == seen[i])
                continue;
            seen[i]++;
            left--;
            ck_assert_int_eq(a[i].result.status, 0);
            if (seen[i] < TURNS) /* the other one first: there is a pause */
                ck_assert_int_eq(aflock_acquire(locks[i], NULL, scene_answer, &a[i], NULL), 0);
            ck_assert_int_eq(aflock_release(locks[i], a[i].result.req, NULL, NULL), 0);
        }
    }
    ck_assert_int_eq(aflock_ctx_free(second, 30 * AFLOCK_SECOND), 0);
}
END_TEST

START_TEST(by_another_name)
{
    woken_by(close_under_another_name, _i);
}
END_TEST

START_TEST(by_python)
{
    woken_by(be_python, _i);
}
END_TEST

START_TEST(by_flock)
{
    woken_by(be_flock, _i);
}
END_TEST

START_TEST(by_death)
{
    answer a = {0};
    party other = start(close_it);
    aflock *lock = open_listener(scene_io(_i));
    wait_for(lock, &a, AFLOCK_FOREVER);
    slay(&other);
    must_get(lock, &a);
}
END_TEST

/* The file's watch ends while an attempt is under way that makes a new file: that is no reason to stop listening. */
START_TEST(by_an_unlink_before_the_close)
{
    for (int i = 0; i < 10; i++) {
        answer a = {0};
        party other = start(unlink_and_close);
        aflock *lock = open_listener(scene_io(_i));
        wait_for(lock, &a, AFLOCK_FOREVER);
        tell(&other);
        must_get(lock, &a);
        finish(&other);
        ck_assert_int_eq(aflock_wait_mode(lock, NULL), AFLOCK_WAIT_NOTIFY);
        ck_assert_int_eq(aflock_close(lock), 0);
        become_idle();
    }
    ck_assert_int_eq(scene_logged, 0);
}
END_TEST

/* The holder goes on to hold what has no name any more. */
START_TEST(by_an_unlink)
{
    answer a = {0};
    party other = start(close_it);
    aflock *lock = open_listener(scene_io(_i));
    wait_for(lock, &a, AFLOCK_FOREVER);
    ck_assert_int_eq(unlink("lock"), 0);
    must_get(lock, &a);
    slay(&other);
}
END_TEST

START_TEST(by_a_rename)
{
    answer a = {0};
    party other = start(close_it);
    aflock *lock = open_listener(scene_io(_i));
    wait_for(lock, &a, AFLOCK_FOREVER);
    ck_assert_int_eq(rename("lock", "old"), 0);
    must_get(lock, &a);
    slay(&other);
}
END_TEST

/* What it finds then is somebody else's again: the new file is listened to, the old one is not. */
START_TEST(by_a_rename_over_it)
{
    answer a = {0};
    party first = start(close_it), second = start(close_new_one);
    aflock *lock = open_listener(scene_io(_i));
    wait_for(lock, &a, AFLOCK_FOREVER);
    int contended = scene_contended;
    ck_assert_int_eq(rename("new", "lock"), 0);
    scene_run_until(&scene_contended, contended + 2);
    ck_assert_int_eq(inotify_watches(), 1);
    slay(&first);
    ck_assert_int_eq(aflock_epoll_run_once(scene, 20 * AFLOCK_MILLISECOND), 0);
    ck_assert_int_eq(a.count, 0);
    tell(&second);
    must_get(lock, &a);
    finish(&second);
}
END_TEST

/* The same; the old file lives on under another name, and the kernel's cache does not have the new one, so that a
 * worker opens it for an attempt that began on the loop. */
START_TEST(by_a_rename_that_a_worker_finds)
{
    answer a = {0};
    party first = start(close_it), second = start(close_new_one);
    aflock *lock = open_listener(scene_io(_i));
    wait_for(lock, &a, AFLOCK_FOREVER);
    ck_assert_int_eq(link("lock", "old"), 0);
    seam_fail(SEAM_OPEN_CACHED, 0, 1000, EAGAIN);
    int contended = scene_contended;
    ck_assert_int_eq(rename("new", "lock"), 0);
    scene_run_until(&scene_contended, contended + 2);
    while (aflock_epoll_run_once(scene, 20 * AFLOCK_MILLISECOND) == 0 && scene_contended > contended)
        contended = scene_contended; /* what follows the rename up */
    ck_assert_int_eq(inotify_watches(), 1);
    tell(&second);
    must_get(lock, &a);
    finish(&second);
    slay(&first);
}
END_TEST

/* Neither knows of the other. */
START_TEST(by_another_context)
{
    answer held = {0}, given = {0}, a = {0};
    aflock_ctx *second;
    int descriptors = scene_descriptors();
    ck_assert_int_eq(aflock_epoll_new(&second, NULL), 0);
    aflock *theirs = open_lock(second, "lock", scene_io(_i), AFLOCK_FOREVER), *ours = open_listener(scene_io(_i));
    ck_assert_int_eq(aflock_acquire(theirs, NULL, scene_answer, &held, NULL), 0);
    while (held.count == 0)
        ck_assert_int_eq(aflock_epoll_run_once(second, AFLOCK_SECOND), 0);
    wait_for(ours, &a, AFLOCK_FOREVER);
    ck_assert_int_eq(aflock_release(theirs, held.result.req, scene_answer, &given), 0);
    while (given.count == 0)
        ck_assert_int_eq(aflock_epoll_run_once(second, AFLOCK_SECOND), 0);
    scene_expect(2);
    must_get(ours, &a);
    ck_assert_int_eq(aflock_ctx_free(second, 0), 0);
    ck_assert_int_eq(aflock_close(ours), 0);
    become_idle();
    scene_await_descriptors(descriptors + 1); /* ours listens with one */
}
END_TEST

/* ------------------------------------------------------------------------------------------------------------- many */

enum { MANY = 50 };

static const char *name_of(int i)
{
    static char name[16];
    snprintf(name, sizeof name, "lock%d", i);
    return name;
}

static void lock_many(void)
{
    for (int i = 0; i < MANY; i++) {
        int fd = open(name_of(i), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
        require(fd >= 0 && flock(fd, LOCK_EX) == 0);
    }
}

START_TEST(fifty_at_once)
{
    static answer a[MANY];
    aflock *locks[MANY];
    party other = start(lock_many);
    for (int i = 0; i < MANY; i++)
        locks[i] = open_lock(scene, name_of(i), scene_io(_i), AFLOCK_FOREVER);
    for (int i = 0; i < MANY; i++)
        wait_for(locks[i], &a[i], AFLOCK_FOREVER);
    ck_assert_int_eq(inotify_watches(), MANY);
    ck_assert_int_eq(inotify_instances(), 1);
    slay(&other);
    for (int i = 0; i < MANY; i++) {
        scene_run_until(&a[i].count, 1);
        ck_assert_int_eq(a[i].result.status, 0);
    }
    ck_assert_int_eq(inotify_watches(), 0);
    for (int i = 0; i < MANY; i++)
        ck_assert_int_eq(scene_release(locks[i], a[i].result.req).result.status, 0);
}
END_TEST

/* ----------------------------------------------------------------------------------------------------- the end of it
 */

START_TEST(a_cancelled_wait_listens_to_nothing)
{
    answer a = {0};
    party other = start(close_it);
    aflock *lock = open_listener(scene_io(_i));
    aflock_req req = wait_for(lock, &a, AFLOCK_FOREVER);
    ck_assert_int_eq(aflock_cancel(lock, req), 0);
    scene_run_until(&a.count, 1);
    ck_assert_int_eq(a.result.status, AFLOCK_ECANCELED);
    become_idle();
    ck_assert_int_eq(inotify_watches(), 0);
    a.count = 0;
    wait_for(lock, &a, AFLOCK_FOREVER); /* and again */
    tell(&other);
    must_get(lock, &a);
    finish(&other);
}
END_TEST

START_TEST(a_wait_that_timed_out_listens_to_nothing)
{
    answer a = {0};
    party other = start(close_it);
    aflock *lock = open_listener(scene_io(_i));
    wait_for(lock, &a, AFLOCK_SECOND / 2);
    scene_run_until(&a.count, 1);
    ck_assert_int_eq(a.result.status, AFLOCK_ETIMEDOUT);
    become_idle();
    ck_assert_int_eq(inotify_watches(), 0);
    finish(&other);
}
END_TEST

START_TEST(the_context_goes)
{
    answer a = {0};
    scene_free_context();
    party other = start(close_it);
    scene_make_context();
    wait_for(open_listener(scene_io(_i)), &a, AFLOCK_FOREVER);
    scene_free_context(); /* checks the descriptors, too */
    ck_assert_int_eq(a.result.status, AFLOCK_ECLOSED);
    ck_assert_int_eq(inotify_instances(), 0);
    slay(&other);
    scene_make_context();
}
END_TEST

static void abandon(void)
{
    ck_assert_int_eq(aflock_ctx_abandon(scene), 0);
    ck_assert_int_eq(inotify_instances(), 0);
}

START_TEST(a_child_goes)
{
    answer a = {0};
    party other = start(close_it);
    aflock *lock = open_listener(scene_io(_i));
    wait_for(lock, &a, AFLOCK_FOREVER);
    scene_in_child(abandon);
    ck_assert_int_eq(inotify_watches(), 1);
    tell(&other);
    must_get(lock, &a);
    finish(&other);
}
END_TEST

/* ------------------------------------------------------------------------------------------------------ how, and why
 */

START_TEST(the_mode_is_told)
{
    const char *reason;
    party other = start(close_it);
    answer a = {0};
    aflock *lock;
    ck_assert_int_eq(aflock_open(&lock, scene, "lock", NULL), 0);
    ck_assert_int_eq(aflock_wait_mode(lock, &reason), AFLOCK_WAIT_AUTO);
    ck_assert_ptr_nonnull(strstr(reason, "not known yet"));
    ck_assert_int_eq(aflock_set_poll_interval(lock, AFLOCK_FOREVER), 0);
    wait_for(lock, &a, AFLOCK_FOREVER);
    ck_assert_int_eq(aflock_wait_mode(lock, &reason), AFLOCK_WAIT_NOTIFY);
    ck_assert_str_eq(reason, "a local file system");
    tell(&other);
    must_get(lock, &a);
    finish(&other);
}
END_TEST

/* What could be network for all that is known is polled, and can be listened to if that is asked for. */
START_TEST(an_unknown_file_system)
{
    const char *reason;
    aflock *lock;
    aflock_options o;
    aflock_options_init(&o);
    aflock_acquire_options shared = scene_options(AFLOCK_DIRECTORY | AFLOCK_READ_ONLY, AFLOCK_CREATE);
    shared.mode = AFLOCK_SHARED;
    ck_assert_int_eq(aflock_open(&lock, scene, "/proc/sys", &o), 0);
    ck_assert_int_eq(scene_release(lock, scene_hold(lock, &shared)).result.status, 0);
    ck_assert_int_eq(aflock_wait_mode(lock, &reason), AFLOCK_WAIT_POLL);
    ck_assert_ptr_nonnull(strstr(reason, "unknown"));
    o.wait = AFLOCK_WAIT_NOTIFY;
    ck_assert_int_eq(aflock_open(&lock, scene, "/proc/sys", &o), 0);
    ck_assert_int_eq(aflock_wait_mode(lock, &reason), AFLOCK_WAIT_NOTIFY);
    ck_assert_str_eq(reason, "asked for");
}
END_TEST

/* There are descriptors for the file, and none to listen with. */
START_TEST(too_many_open_files)
{
    const char *reason;
    struct rlimit before, limit;
    answer a = {0};
    party other = start(close_it);
    scene_write("known", "");
    aflock *known = scene_open("known", AFLOCK_IO_INLINE);
    scene_must_work(known); /* so that the table of mounts need not be read */
    aflock *lock = open_lock(scene, "lock", AFLOCK_IO_INLINE, 500 * AFLOCK_MICROSECOND);
    int contended = scene_contended, next = dup(0);
    close(next);
    ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &before), 0);
    limit = before;
    limit.rlim_cur = (rlim_t)next + 1;
    ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
    ck_assert_int_eq(aflock_acquire(lock, NULL, scene_answer, &a, NULL), 0);
    scene_expect(1);
    scene_run_until(&scene_contended, contended + 5);
    ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &before), 0);
    ck_assert_int_eq(inotify_instances(), 0);
    ck_assert_int_eq(aflock_wait_mode(lock, &reason), AFLOCK_WAIT_POLL);
    ck_assert_ptr_nonnull(strstr(reason, "no watch"));
    ck_assert_int_eq(scene_logged, 1);
    tell(&other);
    must_get(lock, &a);
    finish(&other);
    ck_assert_int_eq(scene_logged, 1);
}
END_TEST

/* ----------------------------------------------------------------------------------------------------------- a storm
 */

static struct weather {
    atomic_bool over;
    atomic_ulong changes;
} * weather;

static void storm(void)
{
    say();
    hear();
    while (!weather->over) {
        close(open("lock", O_RDONLY | O_CLOEXEC));
        weather->changes++;
    }
}

static uint64_t clock_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * AFLOCK_SECOND + (uint64_t)t.tv_nsec;
}

/* Somebody opens and closes the file as fast as he can: that costs little, and what comes after it is heard. */
START_TEST(a_storm_of_changes)
{
    enum { AT_ONCE = 64, TRIES_A_CHANGE = 6, TRIES_A_MILLISECOND = 7, STORM = 300 /* ms */ };
    weather = mmap(NULL, sizeof *weather, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    ck_assert(weather != MAP_FAILED);
    answer a = {0};
    party other = start(close_it), wind = start(storm);
    aflock *lock = open_listener(scene_io(_i));
    uint64_t began = clock_now();
    wait_for(lock, &a, AFLOCK_FOREVER);
    tell(&wind);
    for (uint64_t end = clock_now() + STORM * AFLOCK_MILLISECOND; clock_now() < end;)
        ck_assert_int_eq(aflock_epoll_run_once(scene, AFLOCK_MILLISECOND), 0);
    ck_assert_int_eq(a.count, 0);
    weather->over = true;
    await(&wind);
    finish(&wind);
    tell(&other);
    scene_run_until(&a.count, 1);
    uint64_t milliseconds = (clock_now() - began) / AFLOCK_MILLISECOND + 1;
    ck_assert_uint_lt(a.result.attempts, AT_ONCE * TRIES_A_CHANGE + TRIES_A_MILLISECOND * milliseconds);
    if (weather->changes > 4 * TRIES_A_MILLISECOND * milliseconds) /* else he did not get many turns himself */
        ck_assert_uint_lt(2 * a.result.attempts, weather->changes);
    must_get(lock, &a);
    finish(&other);
    ck_assert_int_eq(munmap(weather, sizeof *weather), 0);
}
END_TEST

/* ----------------------------------------------------------------------------------------- waiting in the kernel */

/* How many processes wait for the file in the kernel. It gives the list out in pieces: while others lock and unlock, an
 * entry can come twice. */
static int in_the_kernel(const char *path)
{
    enum { MOST = 16 };
    struct stat st;
    char line[256], inode[64];
    int pids[MOST], count = 0;
    ck_assert_int_eq(stat(path, &st), 0);
    snprintf(inode, sizeof inode, " %02x:%02x:%llu ", major(st.st_dev), minor(st.st_dev),
             (unsigned long long)st.st_ino);
    FILE *locks = fopen("/proc/locks", "r");
    ck_assert_ptr_nonnull(locks);
    while (count < MOST && fgets(line, sizeof line, locks)) {
        const char *waiter = strstr(line, "->");
        int pid = 0, known = 0;
        if (!waiter || !strstr(line, inode) || sscanf(waiter + 2, "%*s %*s %*s %d", &pid) != 1)
            continue;
        while (known < count && pids[known] != pid)
            known++;
        if (known == count)
            pids[count++] = pid;
    }
    fclose(locks);
    return count;
}

/* Until so many do; the watchdog barks otherwise. */
static void await_in_the_kernel(const char *path, int count)
{
    while (in_the_kernel(path) != count)
        ck_assert_int_eq(aflock_epoll_run_once(scene, AFLOCK_MILLISECOND), 0);
}

static aflock *open_parking(aflock_ctx *ctx, const char *path, aflock_io io)
{
    aflock *lock;
    aflock_options o;
    aflock_options_init(&o);
    o.io = io;
    o.wait = AFLOCK_WAIT_PARK;
    o.poll_interval = AFLOCK_FOREVER;
    ck_assert_int_eq(aflock_open(&lock, ctx, path, &o), 0);
    return lock;
}

static void ask_for(aflock *lock, answer *a, uint64_t timeout)
{
    aflock_acquire_options o = scene_options(0, 0);
    o.timeout = timeout;
    ck_assert_int_eq(aflock_acquire(lock, &o, scene_answer, a, NULL), 0);
    scene_expect(1);
}

static void park(aflock *lock, answer *a)
{
    ask_for(lock, a, AFLOCK_FOREVER);
    await_in_the_kernel("lock", 1);
    ck_assert_int_eq(aflock_wait_mode(lock, NULL), AFLOCK_WAIT_PARK);
}

/* The same for a while, which is longer where a thread gets its turn late. */
static void park_until_timed_out(aflock *lock, answer *a)
{
    bool parked = false;
    for (uint64_t timeout = 300 * AFLOCK_MILLISECOND; !parked; timeout *= 2) {
        *a = (answer){0};
        ask_for(lock, a, timeout);
        while (a->count == 0) {
            parked = parked || in_the_kernel("lock") == 1;
            ck_assert_int_eq(aflock_epoll_run_once(scene, AFLOCK_MILLISECOND), 0);
        }
        ck_assert_int_eq(a->result.status, AFLOCK_ETIMEDOUT);
    }
}

START_TEST(by_an_unlock_that_nobody_can_listen_to)
{
    answer a = {0};
    party other = start(only_unlock);
    aflock *lock = open_parking(scene, "lock", scene_io(_i));
    park(lock, &a);
    tell(&other);
    must_get(lock, &a);
    finish(&other);
}
END_TEST

/* By an unlink, or by another file in its place (_i): the thread goes on to wait for the old one. */
START_TEST(a_parked_wait_for_a_file_that_goes)
{
    answer a = {0};
    party other = start(only_unlock);
    aflock *lock = open_parking(scene, "lock", scene_io(_i));
    park(lock, &a);
    if (_i == 0) {
        ck_assert_int_eq(unlink("lock"), 0);
    } else {
        scene_write("new", "");
        ck_assert_int_eq(rename("new", "lock"), 0);
    }
    scene_run_until(&a.count, 1);
    ck_assert_int_eq(a.result.status, 0);
    ck_assert(!scene_is_free("lock", LOCK_EX));
    tell(&other);
    await(&other);
    finish(&other);
}
END_TEST

START_TEST(a_parked_wait_that_timed_out)
{
    answer a = {0};
    party other = start(only_unlock);
    aflock *lock = open_parking(scene, "lock", scene_io(_i));
    park_until_timed_out(lock, &a);
    ck_assert(!aflock_epoll_alive(scene));
    await_in_the_kernel("lock", 1);
    if (_i == 0) {
        ck_assert_int_eq(aflock_ctx_free(scene, AFLOCK_FOREVER), 0); /* does not wait for it either */
        scene = NULL;
    }
    tell(&other);
    await(&other);
    while (in_the_kernel("lock") > 0 || !scene_is_free("lock", LOCK_EX)) /* nobody turns the loop */
        usleep(200);
    finish(&other);
}
END_TEST

static struct {
    atomic_int count;
    int order[8];
} * arrivals;

/* A program that waits in the kernel for its turn. */
static void queue_up(int number)
{
    aflock_ctx *ctx;
    answer a = {0};
    require(aflock_epoll_new(&ctx, NULL) == 0);
    aflock *lock = open_parking(ctx, "lock", AFLOCK_IO_AUTO);
    require(aflock_acquire(lock, NULL, scene_answer, &a, NULL) == 0);
    say();
    while (a.count == 0)
        require(aflock_epoll_run_once(ctx, AFLOCK_SECOND) == 0);
    require(a.result.status == 0);
    arrivals->order[arrivals->count++] = number;
    require(aflock_ctx_free(ctx, AFLOCK_FOREVER) == 0);
}

static void be_first(void)
{
    queue_up(1);
}

static void be_second(void)
{
    queue_up(2);
}

static void be_third(void)
{
    queue_up(3);
}

START_TEST(in_the_order_of_asking)
{
    void (*const parts[])(void) = {be_first, be_second, be_third};
    party others[3];
    arrivals = mmap(NULL, sizeof *arrivals, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    ck_assert(arrivals != MAP_FAILED);
    party holder = start(only_unlock);
    for (int i = 0; i < 3; i++) {
        others[i] = start(parts[i]);
        await_in_the_kernel("lock", i + 1);
    }
    tell(&holder);
    for (int i = 0; i < 3; i++)
        await(&others[i]);
    ck_assert_int_eq(arrivals->count, 3);
    for (int i = 2; i >= 0; i--) { /* each has the pipes of those before it */
        ck_assert_int_eq(arrivals->order[i], i + 1);
        finish(&others[i]);
    }
    finish(&holder);
    ck_assert_int_eq(munmap(arrivals, sizeof *arrivals), 0);
}
END_TEST

START_TEST(so_many_threads_and_no_more)
{
    aflock_pool_options pool;
    aflock_epoll_options o;
    aflock_ctx *ctx;
    answer a = {0}, b = {0};
    const char *reason;
    aflock_pool_options_init(&pool);
    aflock_epoll_options_init(&o);
    pool.max_parked = 1;
    o.pool = &pool;
    ck_assert_int_eq(aflock_epoll_new(&ctx, &o), 0);
    int first = open("lock", O_RDWR | O_CREAT | O_CLOEXEC, 0666),
        second = open("b", O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    ck_assert_int_eq(flock(first, LOCK_EX) | flock(second, LOCK_EX), 0);
    aflock *one = open_parking(ctx, "lock", AFLOCK_IO_INLINE), *other = open_parking(ctx, "b", AFLOCK_IO_INLINE);
    ck_assert_int_eq(aflock_acquire(one, NULL, scene_answer, &a, NULL), 0);
    ck_assert_int_eq(aflock_acquire(other, NULL, scene_answer, &b, NULL), 0);
    scene_expect(2);
    await_in_the_kernel("lock", 1);
    ck_assert_int_eq(aflock_wait_mode(one, NULL), AFLOCK_WAIT_PARK);
    ck_assert_int_eq(aflock_wait_mode(other, &reason), AFLOCK_WAIT_NOTIFY);
    ck_assert_ptr_nonnull(strstr(reason, "max_parked"));
    close(first);
    close(second);
    while (a.count + b.count < 2)
        ck_assert_int_eq(aflock_epoll_run_once(ctx, AFLOCK_SECOND), 0);
    ck_assert_int_eq(a.result.status | b.result.status, 0);
    ck_assert_int_eq(aflock_ctx_free(ctx, AFLOCK_FOREVER), 0);
}
END_TEST

int main(void)
{
    const TTest *const once[] = {in_the_order_of_asking, so_many_threads_and_no_more, the_mode_is_told,
                                 an_unknown_file_system, too_many_open_files,         NULL};
    const TTest *const each[] = {by_a_close,
                                 by_a_close_of_a_reader,
                                 by_a_shared_holder,
                                 by_a_touch_after_the_unlock,
                                 by_one_that_leaves_it_open,
                                 by_one_that_leaves_it_open_and_may_not_touch_it,
                                 by_one_that_cannot_leave_it_open,
                                 by_one_another,
                                 by_another_name,
                                 by_python,
                                 by_flock,
                                 by_death,
                                 by_an_unlink_before_the_close,
                                 by_an_unlink,
                                 by_a_rename,
                                 by_a_rename_over_it,
                                 by_a_rename_that_a_worker_finds,
                                 by_another_context,
                                 fifty_at_once,
                                 a_cancelled_wait_listens_to_nothing,
                                 a_wait_that_timed_out_listens_to_nothing,
                                 the_context_goes,
                                 a_child_goes,
                                 a_storm_of_changes,
                                 by_an_unlock_that_nobody_can_listen_to,
                                 a_parked_wait_for_a_file_that_goes,
                                 a_parked_wait_that_timed_out,
                                 NULL};
    return scene_main("wait", once, each);
}
