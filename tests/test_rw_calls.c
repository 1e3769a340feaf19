/* AFLOCK_RW call by call: what is locked between two of them, what is left when one fails, and how requests of one
 * context share what is locked once. Others are plain descriptors here; test_rw has the real SQLite.
 */
#include "support/rw_scene.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <unistd.h>

enum { LISTENS = 2 }; /* attempts, until a change is waited for */

static bool readers_come_in(void)
{
    return bytes_are_free("db", F_RDLCK, PENDING_BYTE, 1) && bytes_are_free("db", F_RDLCK, SHARED_FIRST, SHARED_BYTES);
}

static bool writers_claim(void)
{
    return bytes_are_free("db", F_WRLCK, PENDING_BYTE, SHARED_FIRST - PENDING_BYTE);
}

static int with(short type, off_t start, off_t length)
{
    int fd = open("db", O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    struct flock range = {.l_type = type, .l_start = start, .l_len = length};
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(fcntl(fd, F_OFD_SETLK, &range), 0);
    return fd;
}

/* A reader or writer of another program: a descriptor with the lock on it. */
static int other(short type)
{
    off_t first = type == F_WRLCK ? PENDING_BYTE : SHARED_FIRST;
    return with(type, first, SHARED_FIRST + SHARED_BYTES - first);
}

/* ------------------------------------------------------------------------------------------------- what is locked */

START_TEST(what_is_locked)
{
    aflock *lock = rw_open(_i);
    aflock_req req = rw_hold(lock, AFLOCK_SHARED);
    ck_assert(readers_come_in() && writers_claim());
    ck_assert(!bytes_are_free("db", F_WRLCK, SHARED_FIRST, 1));
    ck_assert(!bytes_are_free("db", F_WRLCK, SHARED_FIRST + SHARED_BYTES - 1, 1));
    rw_let_go(lock, req);
    req = rw_hold(lock, AFLOCK_EXCLUSIVE);
    for (off_t i = 0; i < SHARED_BYTES + 2; i++)
        ck_assert(!bytes_are_free("db", F_RDLCK, PENDING_BYTE + i, 1));
    ck_assert(bytes_are_free("db", F_WRLCK, 0, PENDING_BYTE));
    ck_assert(bytes_are_free("db", F_WRLCK, SHARED_FIRST + SHARED_BYTES, 0));
    rw_let_go(lock, req);
    ck_assert(all_is_free("db"));
}
END_TEST

/* Who waits without a claim has nothing: not the doorway, not half of the claim. */
START_TEST(what_is_not_kept)
{
    answer a = {0}, b = {0};
    aflock *lock = rw_open(_i);
    int mends = with(F_WRLCK, SHARED_FIRST, SHARED_BYTES); /* a journal */
    rw_wait(lock, AFLOCK_SHARED, &a, LISTENS);
    ck_assert(writers_claim());
    close(mends);
    scene_run_until(&a.count, 1);
    rw_let_go(lock, a.result.req);
    for (off_t half = 0; half < 2; half++) {
        int fd = with(half ? F_WRLCK : F_RDLCK, PENDING_BYTE + half, 1); /* reads just now; is about to write */
        b.count = 0;
        scene_contended = 0;
        rw_wait(lock, AFLOCK_EXCLUSIVE, &b, LISTENS);
        ck_assert(bytes_are_free("db", F_WRLCK, PENDING_BYTE + 1 - half, 1));
        ck_assert(readers_come_in());
        close(fd);
        scene_run_until(&b.count, 1);
        ck_assert_int_eq(b.result.status, 0);
        rw_let_go(lock, b.result.req);
    }
}
END_TEST

static bool broken_in;

static void try_to_write(void)
{
    broken_in = broken_in || bytes_are_free("db", F_WRLCK, SHARED_FIRST, SHARED_BYTES);
}

/* From a writer to the readers after it: no writer gets between them, and other readers come in when it is done. */
START_TEST(a_writer_hands_on_to_readers)
{
    answer a = {0}, b = {0};
    rw_hand_on_for_ever();
    aflock *lock = rw_open(_i);
    aflock_req req = rw_hold(lock, AFLOCK_EXCLUSIVE);
    aflock_acquire_options o = rw_request(AFLOCK_SHARED);
    ck_assert_int_eq(aflock_acquire(lock, &o, scene_answer, &a, NULL), 0);
    ck_assert_int_eq(aflock_acquire(lock, &o, scene_answer, &b, NULL), 0);
    scene_expect(2);
    seam_before(SEAM_LOCK, try_to_write);
    seam_before(SEAM_UNLOCK, try_to_write);
    seam_before(SEAM_STAT, try_to_write);
    ck_assert_int_eq(aflock_release(lock, req, NULL, NULL), 0);
    scene_run_until(&a.count, 1);
    scene_run_until(&b.count, 1);
    seam_reset();
    ck_assert(!broken_in);
    ck_assert(a.result.status == 0 && b.result.status == 0);
    ck_assert_int_eq(a.result.fd, b.result.fd);
    ck_assert(readers_come_in() && writers_claim());
    rw_let_go(lock, a.result.req);
    ck_assert(!bytes_are_free("db", F_WRLCK, SHARED_FIRST, SHARED_BYTES));
    rw_let_go(lock, b.result.req);
    ck_assert(all_is_free("db"));
}
END_TEST

/* A writer hands on to a writer without a call. */
START_TEST(a_writer_hands_on_to_a_writer)
{
    answer a = {0};
    rw_hand_on_for_ever();
    aflock *lock = rw_open(_i);
    aflock_req req = rw_hold(lock, AFLOCK_EXCLUSIVE);
    aflock_acquire_options o = rw_request(AFLOCK_EXCLUSIVE);
    ck_assert_int_eq(aflock_acquire(lock, &o, scene_answer, &a, NULL), 0);
    scene_expect(1);
    seam_forget();
    ck_assert_int_eq(aflock_release(lock, req, NULL, NULL), 0);
    scene_run_until(&a.count, 1);
    ck_assert_int_eq(a.result.status, 0);
    ck_assert_int_eq(seam_count(SEAM_LOCK) + seam_count(SEAM_UNLOCK), 0);
    rw_let_go(lock, a.result.req);
}
END_TEST

/* Many readers of a context are one on disk; a writer that waits stops those that come later. */
START_TEST(readers_of_one_context)
{
    enum { READERS = 10 };
    answer a[READERS] = {0}, writer = {0}, late = {0};
    aflock *lock = rw_open(_i);
    aflock_acquire_options o = rw_request(AFLOCK_SHARED);
    for (int i = 0; i < READERS; i++)
        ck_assert_int_eq(aflock_acquire(lock, &o, scene_answer, &a[i], NULL), 0);
    scene_expect(READERS);
    scene_run_until(&a[READERS - 1].count, 1);
    ck_assert_int_eq(seam_count(SEAM_LOCK), 2);
    ck_assert(rw_comes_to_be_seen_by(lock, 1));
    o.mode = AFLOCK_EXCLUSIVE;
    ck_assert_int_eq(aflock_acquire(lock, &o, scene_answer, &writer, NULL), 0);
    o.mode = AFLOCK_SHARED;
    ck_assert_int_eq(aflock_acquire(lock, &o, scene_answer, &late, NULL), 0);
    scene_expect(2);
    for (int i = 0; i < READERS; i++) {
        ck_assert_int_eq(writer.count + late.count, 0);
        rw_let_go(lock, a[i].result.req);
    }
    scene_run_until(&writer.count, 1);
    ck_assert_int_eq(late.count, 0);
    rw_let_go(lock, writer.result.req);
    scene_run_until(&late.count, 1);
    rw_let_go(lock, late.result.req);
}
END_TEST

/* The same whatever the kernel locks by. */
static const aflock_protocol PROTOCOLS[] = {AFLOCK_RW, AFLOCK_OFD, AFLOCK_NATIVE};
enum { PROTOCOL_COUNT = sizeof PROTOCOLS / sizeof PROTOCOLS[0] };

static bool is_free(aflock_protocol protocol)
{
    return protocol == AFLOCK_NATIVE ? scene_is_free("db", LOCK_EX) : all_is_free("db");
}

static aflock *open_as(aflock_protocol protocol, const char *path, int io)
{
    aflock_options o = rw_options(io);
    aflock *lock;
    o.protocol = protocol;
    ck_assert_int_eq(aflock_open(&lock, scene, path, &o), 0);
    return lock;
}

static void own_twice(aflock_protocol protocol, int io)
{
    int someone;
    aflock *lock = open_as(protocol, "db", io);
    for (int mode = AFLOCK_EXCLUSIVE; mode <= AFLOCK_SHARED; mode++) {
        aflock_acquire_options o = rw_request((aflock_mode)mode);
        o.owner = &someone;
        aflock_req first = scene_hold(lock, &o), second = scene_hold(lock, &o);
        ck_assert_int_eq(aflock_depth(lock, &someone), 2);
        o.mode = mode == AFLOCK_SHARED ? AFLOCK_EXCLUSIVE : AFLOCK_SHARED;
        ck_assert_int_eq(aflock_acquire(lock, &o, scene_answer, NULL, NULL), AFLOCK_EDEADLK);
        rw_let_go(lock, second);
        ck_assert(!is_free(protocol));
        rw_let_go(lock, first);
        ck_assert(is_free(protocol));
    }
    rw_come_to_rest();
    ck_assert_int_eq(aflock_close(lock), 0);
}

START_TEST(owners)
{
    for (int i = 0; i < PROTOCOL_COUNT; i++)
        own_twice(PROTOCOLS[i], _i);
}
END_TEST

/* Two owners who each hold what the other one asks for next; readers beside each other wait for nobody. */
static void cross(aflock_protocol protocol, aflock_mode held, int io)
{
    int one, other;
    answer a = {0};
    aflock *left = open_as(protocol, "db", io), *right = open_as(protocol, "other", io);
    aflock_acquire_options o = rw_request(held), p = rw_request(held);
    o.owner = &one;
    p.owner = &other;
    aflock_req first = scene_hold(left, &o), second = scene_hold(right, &p);
    o.mode = p.mode = AFLOCK_EXCLUSIVE;
    ck_assert_int_eq(aflock_acquire(right, &o, scene_answer, &a, NULL), 0);
    ck_assert_int_eq(aflock_acquire(left, &p, scene_answer, NULL, NULL), AFLOCK_EDEADLK);
    scene_expect(1);
    rw_let_go(right, second);
    scene_run_until(&a.count, 1);
    ck_assert_int_eq(a.result.status, 0);
    rw_let_go(right, a.result.req);
    rw_let_go(left, first);
    rw_come_to_rest();
    ck_assert(is_free(protocol));
    ck_assert_int_eq(aflock_close(left), 0);
    ck_assert_int_eq(aflock_close(right), 0);
}

START_TEST(owners_who_wait_for_each_other)
{
    for (int i = 0; i < PROTOCOL_COUNT; i++)
        for (int held = AFLOCK_EXCLUSIVE; held <= AFLOCK_SHARED; held++)
            cross(PROTOCOLS[i], (aflock_mode)held, _i);
}
END_TEST

/* --------------------------------------------------------------------------------------------------- calls that fail
 */

static int lock_calls, fails_at, fails_with;
static seam_call failed;

static int fail_one(seam_call call, int fd, const char *path)
{
    (void)fd, (void)path;
    bool it = call == SEAM_LOCK || call == SEAM_UNLOCK || call == SEAM_READ_HEAD || call == SEAM_FSTAT;
    if (!it || ++lock_calls != fails_at)
        return 0;
    failed = call;
    return fails_with;
}

/* Every call on the way to the lock: the request says so, and nothing stays locked. */
static void fail_each(int io, aflock_mode mode)
{
    static const int ERRORS[] = {EIO, ENOLCK, EINVAL, EINTR};
    aflock *lock = rw_open(io);
    bool done = false;
    for (fails_at = 1; !done; fails_at++) {
        for (size_t i = 0; i < sizeof ERRORS / sizeof ERRORS[0]; i++) {
            lock_calls = 0;
            fails_with = ERRORS[i];
            seam_judge_by(fail_one, NULL);
            answer a = rw_try(lock, mode);
            seam_judge_by(NULL, NULL);
            done = lock_calls < fails_at;
            bool elsewhere = io == AFLOCK_IO_AUTO && failed == SEAM_READ_HEAD; /* it is read again by a worker */
            if (done || fails_with == EINTR || elsewhere) {
                ck_assert_int_eq(a.result.status, 0);
                rw_let_go(lock, a.result.req);
            } else {
                ck_assert_int_eq(a.result.sys_errno, fails_with);
                ck_assert_int_eq(a.result.cleanup_errno, 0);
            }
            rw_come_to_rest();
            ck_assert(all_is_free("db"));
        }
    }
    ck_assert_int_gt(fails_at, mode == AFLOCK_SHARED ? 5 : 4);
}

START_TEST(calls_of_a_reader_fail)
{
    scene_write("db", "");
    fail_each(_i, AFLOCK_SHARED);
}
END_TEST

START_TEST(calls_of_a_writer_fail)
{
    scene_write("db", "");
    fail_each(_i, AFLOCK_EXCLUSIVE);
}
END_TEST

START_TEST(without_such_locks)
{
    static const int ERRORS[] = {EINVAL, ENOLCK, EOPNOTSUPP};
    aflock *lock = rw_open(_i);
    for (int i = 0; i < 6; i++) {
        seam_fail(SEAM_LOCK, 0, 1, ERRORS[i / 2]);
        answer a = rw_try(lock, (aflock_mode)(i % 2));
        ck_assert_int_eq(a.result.status, AFLOCK_ENOTSUP);
        ck_assert_int_eq(a.result.sys_errno, ERRORS[i / 2]);
        ck_assert_str_eq(a.step, "fcntl");
    }
}
END_TEST

/* The range fails for a writer who has the claim: the claim goes, too. */
START_TEST(a_claim_that_fails)
{
    aflock *lock = rw_open(_i);
    answer a = {0};
    int reader = other(F_RDLCK);
    rw_wait(lock, AFLOCK_EXCLUSIVE, &a, LISTENS);
    ck_assert(!readers_come_in());
    seam_fail(SEAM_LOCK, 0, 1, EIO);
    close(open("db", O_RDONLY | O_CLOEXEC)); /* that is heard */
    scene_run_until(&a.count, 1);
    ck_assert_int_eq(a.result.status, AFLOCK_ESYS);
    ck_assert_int_eq(a.result.sys_errno, EIO);
    rw_come_to_rest();
    ck_assert(readers_come_in());
    close(reader);
    ck_assert(all_is_free("db"));
}
END_TEST

/* What of the doorway cannot be given back keeps writers out: the reader is refused. */
START_TEST(a_doorway_that_cannot_be_left)
{
    aflock *lock = rw_open(_i);
    seam_fail(SEAM_UNLOCK, 0, 1, EIO);
    answer a = rw_try(lock, AFLOCK_SHARED);
    ck_assert_int_eq(a.result.status, AFLOCK_ESYS);
    ck_assert_int_eq(a.result.sys_errno, EIO);
    rw_come_to_rest();
    ck_assert(all_is_free("db"));
    int writer = other(F_WRLCK);
    seam_fail(SEAM_UNLOCK, 0, 1, EIO);
    ck_assert_int_ne(rw_try(lock, AFLOCK_SHARED).result.status, 0);
    close(writer);
    rw_come_to_rest();
    ck_assert(all_is_free("db"));
}
END_TEST

/* A claim that cannot be given back is given back later. */
START_TEST(a_withdrawal_that_fails)
{
    aflock *lock = rw_open(_i);
    answer a = {0};
    int reader = other(F_RDLCK);
    aflock_req req = rw_wait(lock, AFLOCK_EXCLUSIVE, &a, LISTENS);
    seam_fail(SEAM_UNLOCK, 0, 2, EIO);
    ck_assert_int_eq(aflock_cancel(lock, req), 0);
    rw_come_to_rest();
    ck_assert_int_eq(a.result.status, AFLOCK_ECANCELED);
    ck_assert_int_eq(seam_count(SEAM_UNLOCK), 3);
    ck_assert(readers_come_in());
    close(reader);
    ck_assert(all_is_free("db"));
}
END_TEST

/* A conversion that fails on its way leaves nothing locked, and the reader hears of it. */
START_TEST(a_conversion_that_fails)
{
    rw_hand_on_for_ever();
    aflock *lock = rw_open(_i);
    for (int i = 0; i < 2; i++) {
        answer a = {0};
        aflock_req req = rw_hold(lock, AFLOCK_EXCLUSIVE);
        aflock_acquire_options o = rw_request(AFLOCK_SHARED);
        ck_assert_int_eq(aflock_acquire(lock, &o, scene_answer, &a, NULL), 0);
        scene_expect(1);
        seam_fail(i ? SEAM_UNLOCK : SEAM_LOCK, 0, 1, i ? EIO : EAGAIN);
        ck_assert_int_eq(aflock_release(lock, req, NULL, NULL), 0);
        scene_run_until(&a.count, 1);
        ck_assert_int_eq(a.result.status, AFLOCK_ESYS);
        ck_assert_int_eq(a.result.sys_errno, EIO);
        rw_come_to_rest();
        ck_assert(all_is_free("db"));
    }
    rw_let_go(lock, rw_hold(lock, AFLOCK_EXCLUSIVE));
}
END_TEST

/* ----------------------------------------------------------------------------------------- what could make a loop wait
 */

static int not_in_memory;

static int on_loop_only(seam_call call, int fd, const char *path)
{
    (void)fd, (void)path;
    if (call != SEAM_READ_HEAD || not_in_memory == 0)
        return 0;
    not_in_memory--;
    return EAGAIN;
}

/* What has to be read from the disk is read by a worker. */
START_TEST(a_database_that_is_not_in_memory)
{
    for (int mode = AFLOCK_EXCLUSIVE; mode <= AFLOCK_SHARED; mode++) {
        scene_write("db", "");
        aflock *lock = rw_open(AFLOCK_IO_AUTO);
        rw_let_go(lock, rw_hold(lock, AFLOCK_EXCLUSIVE)); /* where the path leads is known */
        not_in_memory = 1;
        seam_judge_by(on_loop_only, NULL);
        int pooled = scene_pooled;
        aflock_req req = rw_hold(lock, (aflock_mode)mode);
        ck_assert_int_gt(scene_pooled, pooled);
        rw_let_go(lock, req);
        aflock_acquire_options o = rw_request((aflock_mode)mode);
        not_in_memory = 1;
        ck_assert_int_eq(aflock_try(lock, &o, &req, NULL), AFLOCK_ENOTINLINE);
        seam_judge_by(NULL, NULL);
        rw_come_to_rest();
        ck_assert(all_is_free("db"));
        ck_assert_int_eq(aflock_close(lock), 0);
    }
}
END_TEST

/* ------------------------------------------------------------------------------------------------- other files, forks
 */

START_TEST(a_claim_on_a_file_that_is_replaced)
{
    aflock *lock = rw_open(_i);
    answer a = {0};
    int reader = other(F_RDLCK);
    rw_wait(lock, AFLOCK_EXCLUSIVE, &a, LISTENS);
    ck_assert_int_eq(rename("db", "old"), 0);
    scene_run_until(&a.count, 1);
    ck_assert_int_eq(a.result.status, 0);
    ck_assert(!bytes_are_free("db", F_RDLCK, SHARED_FIRST, 1));
    ck_assert(bytes_are_free("old", F_RDLCK, PENDING_BYTE, 2));
    rw_let_go(lock, a.result.req);
    close(reader);
}
END_TEST

START_TEST(verified)
{
    aflock *lock = rw_open(_i);
    answer a = {0};
    aflock_req req = rw_hold(lock, AFLOCK_SHARED);
    ck_assert_int_eq(aflock_verify(lock, req, scene_answer, &a), 0);
    scene_expect(1);
    scene_run_until(&a.count, 1);
    ck_assert_int_eq(a.result.status, 0);
    ck_assert_int_eq(rename("db", "old"), 0);
    ck_assert_int_eq(aflock_verify(lock, req, scene_answer, &a), 0);
    scene_expect(1);
    scene_run_until(&a.count, 2);
    ck_assert_int_eq(a.result.status, AFLOCK_EREPLACED);
    rw_let_go(lock, req);
}
END_TEST

/* A file that stays open: others who wait hear of the release all the same. */
START_TEST(kept_open)
{
    aflock_options o = rw_options(_i);
    o.keep_open = 1;
    aflock *lock = rw_open_with(&o);
    rw_let_go(lock, rw_hold(lock, AFLOCK_EXCLUSIVE));
    seam_forget();
    rw_let_go(lock, rw_hold(lock, AFLOCK_SHARED));
    ck_assert_int_eq(seam_count(SEAM_LOCK), 2);
    ck_assert_int_eq(seam_count(SEAM_UNLOCK), 2);
    rw_let_go(lock, rw_hold(lock, AFLOCK_EXCLUSIVE));
    ck_assert_int_eq(seam_count(SEAM_LOCK), 4);
    ck_assert_int_eq(seam_count(SEAM_UNLOCK), 3);
    ck_assert_int_eq(seam_count(SEAM_TOUCH), 2);
    ck_assert_int_eq(seam_count(SEAM_READ_HEAD), 2);
    ck_assert_int_eq(seam_count(SEAM_STAT), 2);
    ck_assert_int_eq(seam_count(SEAM_OPEN_CACHED) + seam_count(SEAM_OPEN) + seam_count(SEAM_CLOSE), 0);
    ck_assert(all_is_free("db"));
}
END_TEST

START_TEST(a_child_abandons)
{
    aflock *lock = rw_open(_i);
    answer a = {0};
    int status, reader = other(F_RDLCK);
    rw_wait(lock, AFLOCK_EXCLUSIVE, &a, LISTENS);
    pid_t child = fork();
    if (child == 0)
        _exit(aflock_ctx_abandon(scene) == 0 ? 0 : 1);
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert_int_eq(status, 0);
    ck_assert(!readers_come_in()); /* the claim is still there */
    ck_assert_int_eq(a.count, 0);
    close(reader);
    scene_run_until(&a.count, 1);
    ck_assert_int_eq(a.result.status, 0);
    rw_let_go(lock, a.result.req);
    ck_assert(all_is_free("db"));
}
END_TEST

/* A child that lives on has the descriptor: what is given up is unlocked, not only closed. */
START_TEST(a_child_lives_on)
{
    aflock *lock = rw_open(_i);
    answer a = {0};
    int reader = other(F_RDLCK);
    aflock_req req = rw_wait(lock, AFLOCK_EXCLUSIVE, &a, LISTENS);
    pid_t child = fork();
    if (child == 0) {
        close(reader);
        for (;;)
            pause();
    }
    ck_assert_int_eq(aflock_cancel(lock, req), 0);
    rw_come_to_rest();
    ck_assert(readers_come_in() && writers_claim());
    close(reader);
    req = rw_hold(lock, AFLOCK_EXCLUSIVE);
    rw_let_go(lock, req);
    ck_assert_int_eq(kill(child, SIGKILL), 0);
    ck_assert_int_eq(waitpid(child, NULL, 0), child);
}
END_TEST

/* The context ends while it has a claim. */
START_TEST(the_context_goes)
{
    scene_free_context();
    int reader = other(F_RDLCK); /* not counted among the context's descriptors */
    scene_make_context();
    aflock *lock = rw_open(_i);
    answer a = {0};
    rw_wait(lock, AFLOCK_EXCLUSIVE, &a, LISTENS);
    scene_free_context();
    ck_assert_int_eq(a.result.status, AFLOCK_ECLOSED);
    ck_assert(readers_come_in() && writers_claim());
    close(reader);
    scene_make_context();
}
END_TEST

/* A thread waits for the writer, who says nothing to who listens; test_rw_park has the rest. */
START_TEST(parked)
{
    struct flock all = {.l_type = F_UNLCK};
    aflock_options o = rw_options(_i);
    o.wait = AFLOCK_WAIT_PARK;
    aflock *lock = rw_open_with(&o);
    for (int mode = AFLOCK_EXCLUSIVE; mode <= AFLOCK_SHARED; mode++) {
        answer a = {0};
        int writer = other(F_WRLCK);
        scene_contended = 0;
        rw_wait(lock, (aflock_mode)mode, &a, 1);
        ck_assert_int_eq(aflock_wait_mode(lock, NULL), AFLOCK_WAIT_PARK);
        ck_assert_int_eq(fcntl(writer, F_OFD_SETLK, &all), 0);
        scene_run_until(&a.count, 1);
        ck_assert_int_eq(a.result.status, 0);
        rw_let_go(lock, a.result.req);
        close(writer);
    }
}
END_TEST

static int wanted[2];

static void on_wanted(aflock *lock, aflock_req req, aflock_wanted who, void *user)
{
    (void)lock, (void)req, (void)user;
    wanted[who]++;
}

START_TEST(wanted_by_another_program)
{
    aflock *lock = rw_open(_i);
    aflock_acquire_options o = rw_request(AFLOCK_SHARED);
    o.on_wanted = on_wanted;
    aflock_req req = scene_hold(lock, &o);
    close(open("db", O_RDWR | O_CLOEXEC)); /* as Python does for each attempt */
    scene_run_until(&wanted[AFLOCK_WANTED_ELSEWHERE], 1);
    rw_let_go(lock, req);
}
END_TEST

int main(void)
{
    const TTest *const each[] = {what_is_locked,
                                 what_is_not_kept,
                                 a_writer_hands_on_to_readers,
                                 a_writer_hands_on_to_a_writer,
                                 readers_of_one_context,
                                 owners,
                                 owners_who_wait_for_each_other,
                                 calls_of_a_reader_fail,
                                 calls_of_a_writer_fail,
                                 without_such_locks,
                                 a_claim_that_fails,
                                 a_doorway_that_cannot_be_left,
                                 a_withdrawal_that_fails,
                                 a_conversion_that_fails,
                                 a_database_that_is_not_in_memory,
                                 a_claim_on_a_file_that_is_replaced,
                                 verified,
                                 kept_open,
                                 a_child_abandons,
                                 a_child_lives_on,
                                 the_context_goes,
                                 parked,
                                 wanted_by_another_program,
                                 NULL};
    return scene_main("rw, call by call", NULL, each);
}
