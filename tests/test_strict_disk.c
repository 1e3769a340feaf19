/* What else can be found where a strict lock has its files: at its path, in the place of its directories, among its
 * claims. Either it keeps everybody out, or it is said which file is wrong and how; it never blocks, is never followed,
 * never repaired and never passed over. And what others leave who end in the middle of publishing. */
#include "runtime/runtime.h"
#include "support/failures.h"
#include "support/strict_scene.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

static char claim[64]; /* the name of HIGH's */

static void make_socket(const char *path)
{
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    snprintf(at.sun_path, sizeof at.sun_path, "%s", path);
    ck_assert_int_eq(bind(fd, (struct sockaddr *)&at, sizeof at), 0);
    close(fd);
}

enum { FIFO, SOCKET, TO_FILE, TO_NOTHING, TO_DIRECTORY, DIRECTORY, PLAIN, KINDS };

static void make_node(int kind, const char *path)
{
    switch (kind) {
    case FIFO:
        ck_assert_int_eq(mkfifo(path, 0666), 0);
        break;
    case SOCKET:
        make_socket(path);
        break;
    case TO_FILE:
        scene_write("target", "x");
        ck_assert_int_eq(symlink(strncmp(path, FOLDER "/", sizeof FOLDER) == 0 ? "../../target" : "target", path), 0);
        break;
    case TO_NOTHING:
        ck_assert_int_eq(symlink("nowhere", path), 0);
        break;
    case TO_DIRECTORY:
        ck_assert_int_eq(symlink("/tmp", path), 0);
        break;
    case DIRECTORY:
        ck_assert_int_eq(mkdir(path, 0777), 0);
        break;
    default:
        scene_write(path, "x");
    }
}

static void remove_node(const char *path)
{
    ck_assert(unlink(path) == 0 || rmdir(path) == 0);
}

/* Contention: nobody gets it, and the node stays what it is. */
static void must_be_left(aflock *lock, const char *path)
{
    struct stat before, after;
    ck_assert_int_eq(lstat(path, &before), 0);
    ck_assert_int_eq(strict_try(lock, 0).result.status, AFLOCK_EWOULDBLOCK);
    ck_assert_int_eq(strict_try(lock, A_MOMENT).result.status, AFLOCK_ETIMEDOUT);
    ck_assert_int_eq(lstat(path, &after), 0);
    ck_assert(before.st_ino == after.st_ino && before.st_mtim.tv_nsec == after.st_mtim.tv_nsec);
    ck_assert_int_eq(seam_count(SEAM_RENAME), 0);
}

/* The request fails: with this file in its detail, and a reason. */
static void must_be_named(aflock *lock, const char *file, const char *reason)
{
    char expected[PATH_MAX + 300];
    answer a = strict_try(lock, 30 * AFLOCK_SECOND);
    ck_assert_msg(a.result.status == AFLOCK_EPROTO, "%s %s", aflock_error_name(a.result.status), a.detail);
    ck_assert_str_ne(a.step, "");
    snprintf(expected, sizeof expected, "%s/%s: %s", scene_directory, file, reason);
    ck_assert_str_eq(a.detail, expected);
}

/* -------------------------------------------------------------------------------------------------------- the path */

START_TEST(another_node_at_the_path)
{
    aflock *lock = strict_open(_i);
    for (int kind = 0; kind < KINDS; kind++) {
        make_node(kind, "lock");
        must_be_left(lock, "lock");
        strict_sight s = strict_look(lock);
        ck_assert(s.holder.status == 0 && s.holder.held == 1 && s.holder.pid == 0 && s.holder.claim_count == 0);
        remove_node("lock");
        (void)unlink("target");
        strict_must_get(lock);
        ck_assert_int_eq(unlink("lock"), 0);
    }
}
END_TEST

static void write_sentinel(const char *bytes, size_t size)
{
    int fd = open("lock", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(write(fd, bytes, size), (ssize_t)size);
    close(fd);
}

START_TEST(nearly_the_sentinel)
{
    char bytes[SENTINEL_SIZE + 2] = SENTINEL;
    aflock *lock = strict_open(_i);
    for (size_t size = 0; size < SENTINEL_SIZE + 2; size++) {
        if (size == SENTINEL_SIZE)
            continue;
        write_sentinel(bytes, size);
        ck_assert_int_eq(strict_try(lock, 0).result.status, AFLOCK_EWOULDBLOCK);
        ck_assert_int_eq(scene_size("lock"), (long)size);
    }
    for (size_t i = 0; i < SENTINEL_SIZE; i++) {
        bytes[i] ^= 1;
        write_sentinel(bytes, SENTINEL_SIZE);
        ck_assert_int_eq(strict_try(lock, 0).result.status, AFLOCK_EWOULDBLOCK);
        bytes[i] ^= 1;
    }
    write_sentinel(bytes, SENTINEL_SIZE);
    strict_must_get(lock);
}
END_TEST

/* Who waits for something else to go is told of nothing, and looks again. */
START_TEST(the_path_becomes_free)
{
    answer a = {0};
    aflock *lock = strict_open(_i);
    scene_write("lock", "data");
    strict_wait_for(lock, &a);
    ck_assert_int_eq(unlink("lock"), 0);
    strict_must_be_woken(lock, &a);
}
END_TEST

static seam_call failing;
static int failing_error;

static int fail_exactly(seam_call call, int fd, const char *path)
{
    (void)fd;
    return call == failing && path && strcmp(path, "lock") == 0 ? failing_error : 0;
}

START_TEST(a_path_that_cannot_be_read)
{
    static const seam_call calls[] = {SEAM_STAT, SEAM_OPEN};
    static const int errors[] = {EACCES, EIO, ESTALE, ELOOP};
    aflock *lock = strict_open(_i);
    strict_must_get(lock);
    for (int i = 0; i < 8; i++) {
        failing = calls[i % 2];
        failing_error = errors[i / 2];
        seam_judge_by(fail_exactly, NULL);
        ck_assert_int_eq(strict_try(lock, 0).result.status, AFLOCK_EWOULDBLOCK);
        failing_error = EMFILE; /* that is our own fault */
        if (failing == SEAM_OPEN)
            ck_assert_int_eq(strict_try(lock, 0).result.status, AFLOCK_EMFILE);
        seam_judge_by(NULL, NULL);
        strict_must_get(lock);
    }
}
END_TEST

/* -------------------------------------------------------------------------------------------------- the directories */

START_TEST(no_directories)
{
    static const char *const paths[] = {"lock.filelock", FOLDER};
    aflock *lock = strict_open(_i);
    for (int i = 0; i < 2; i++) {
        for (int kind = 0; kind < KINDS; kind++) {
            if (kind == DIRECTORY)
                continue;
            strict_lay_out();
            ck_assert_int_eq(rmdir(FOLDER), 0);
            if (i == 0)
                ck_assert_int_eq(rmdir("lock.filelock"), 0);
            make_node(kind, paths[i]);
            must_be_named(lock, paths[i], "it is no real directory");
            strict_sight s = strict_look(lock);
            ck_assert_int_eq(s.holder.status, AFLOCK_EPROTO);
            ck_assert_ptr_ne(strstr(s.detail, paths[i]), NULL);
            answer a = strict_break(lock, "x");
            ck_assert_int_eq(a.result.status, AFLOCK_EPROTO);
            ck_assert_ptr_ne(strstr(a.detail, paths[i]), NULL);
            remove_node(paths[i]);
            (void)unlink("target");
            strict_must_get(lock);
        }
    }
}
END_TEST

/* ---------------------------------------------------------------------------------------------------------- claims */

START_TEST(no_file_for_a_claim)
{
    char path[PATH_MAX];
    aflock *lock = strict_open(_i);
    strict_lay_out();
    snprintf(claim, sizeof claim, "%s", strict_claim_name("held", HIGH));
    snprintf(path, sizeof path, FOLDER "/%s", claim);
    for (int kind = 0; kind < PLAIN; kind++) {
        make_node(kind, path);
        must_be_named(lock, path, "it is not a regular file");
        strict_sight s = strict_look(lock);
        ck_assert_int_eq(s.holder.status, AFLOCK_EPROTO);
        ck_assert_uint_eq(s.holder.claim_count, 1);
        ck_assert_str_eq(s.claims[0].name, claim);
        ck_assert_str_eq(s.claims[0].token, "");
        ck_assert_ptr_ne(strstr(s.detail, claim), NULL);
        strict_must_have(1);
        if (kind == DIRECTORY)
            ck_assert_int_eq(strict_break(lock, claim).result.status, AFLOCK_EISDIR);
        else
            ck_assert_int_eq(strict_break(lock, claim).result.status, 0);
        (void)rmdir(path);
        (void)unlink("target");
        strict_must_get(lock);
    }
}
END_TEST

START_TEST(unknown_names)
{
    static const char *const names[] = {
        "x",
        "held-v2-" HIGH ".claim",
        "held-v1-" HIGH,
        "held-v1-" HIGH ".claims",
        "Held-v1-" HIGH ".claim",
        "intent-v1-FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF.claim",
        "held-v1-ffffffffffffffffffffffffffffffff0.claim",
        "held-v1-fffffffffffffffffffffffffffffff.claim",
        "held-v1--" HIGH ".claim",
        "held-v1-" HIGH ".claim~",
        "\xff\xfe",
    };
    char path[PATH_MAX], text[1024];
    aflock *lock = strict_open(_i);
    const size_t size = strict_record(text, sizeof text, HIGH, 7, "elsewhere", "");
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        strict_write(names[i], text, size);
        snprintf(path, sizeof path, FOLDER "/%s", names[i]);
        must_be_named(lock, path, "its name is not that of a claim");
        ck_assert_int_eq(strict_break(lock, names[i]).result.status, 0);
        strict_must_get(lock);
    }
}
END_TEST

START_TEST(malformed_records)
{
    char text[4096], path[PATH_MAX];
    aflock *lock = strict_open(_i);
    snprintf(claim, sizeof claim, "%s", strict_claim_name("held", HIGH));
    snprintf(path, sizeof path, FOLDER "/%s", claim);
    const size_t size = strict_record(text, sizeof text, HIGH, 7, "elsewhere", "12345");
    for (size_t cut = 0; cut < size; cut++) {
        strict_write(claim, text, cut);
        must_be_named(lock, path, "its record is malformed");
    }
    strict_write(claim, text, size);
    ck_assert_int_eq(strict_try(lock, 0).result.status, AFLOCK_EWOULDBLOCK);
    strict_write(claim, text, strict_record(text, sizeof text, LOW, 7, "elsewhere", ""));
    must_be_named(lock, path, "its record is malformed"); /* of another claim */
    memset(text, 'x', sizeof text);
    strict_write(claim, text, 1024);
    must_be_named(lock, path, "its record is malformed");
    strict_write(claim, text, 1025);
    must_be_named(lock, path, "its record is longer than 1024 bytes");
    strict_write(claim, text, 4096);
    must_be_named(lock, path, "its record is longer than 1024 bytes");
    strict_unclaim("held", HIGH);
    strict_must_get(lock);
}
END_TEST

static const char *late_name;
static int lists_before;

static void come_late(void)
{
    if (lists_before-- == 0)
        strict_write(late_name, "x", 1);
}

/* Also when it comes while we are in the doorway: then what is ours is taken away again. */
START_TEST(what_is_wrong_in_between)
{
    aflock *lock = strict_open(_i);
    strict_must_get(lock);
    for (int before = 2; before <= 4; before += 2) {
        late_name = "rubbish";
        lists_before = before;
        seam_before(SEAM_LIST, come_late);
        must_be_named(lock, FOLDER "/rubbish", "its name is not that of a claim");
        seam_before(SEAM_LIST, NULL);
        strict_must_have(1);
        ck_assert_int_eq(unlink(FOLDER "/rubbish"), 0);
    }
    strict_must_get(lock);
}
END_TEST

/* Each of those who wait gets an answer of his own. */
START_TEST(everybody_is_told)
{
    answer a = {0}, b = {0};
    aflock *lock = strict_open(_i);
    strict_write("rubbish", "x", 1);
    ck_assert_int_eq(aflock_acquire(lock, NULL, scene_answer, &a, NULL), 0);
    ck_assert_int_eq(aflock_acquire(lock, NULL, scene_answer, &b, NULL), 0);
    scene_expect(2);
    scene_run_until(&a.count, 1);
    scene_run_until(&b.count, 1);
    ck_assert(a.result.status == AFLOCK_EPROTO && b.result.status == AFLOCK_EPROTO);
    ck_assert_ptr_ne(strstr(a.detail, "rubbish"), NULL);
    ck_assert_str_eq(a.detail, b.detail);
    ck_assert_int_eq(unlink(FOLDER "/rubbish"), 0);
    strict_must_get(lock);
}
END_TEST

/* ------------------------------------------------------------------------------------- what cannot be read just now */

/* However slow the machine is: the half second does not pass. */
static uint64_t standing_clock(void)
{
    return AFLOCK_SECOND;
}

START_TEST(it_is_read_again_for_a_while)
{
    static afl_sys table;
    table = *scene->sys;
    table.boottime = standing_clock;
    scene->sys = &table;
    static const int errors[] = {EACCES, EPERM, ESTALE};
    static const seam_call calls[] = {SEAM_OPEN, SEAM_STAT};
    aflock *lock = strict_open(_i);
    for (int i = 0; i < 6; i++) {
        answer a = {0};
        strict_claim("held", HIGH, 7, "elsewhere");
        failures_on(calls[i % 2], HIGH, errors[i / 2], 5);
        strict_wait_for(lock, &a);
        while (failures_left() > 0)
            ck_assert_int_eq(aflock_epoll_run_once(scene, AFLOCK_SECOND), 0);
        failures_none();
        ck_assert_int_eq(a.count, 0);
        strict_unclaim("held", HIGH);
        strict_must_be_woken(lock, &a);
    }
}
END_TEST

static atomic_int reads_that_fail;

static int fail_to_read(seam_call call, int fd, const char *path)
{
    char link[32], target[PATH_MAX];
    (void)path;
    if (call != SEAM_READ || atomic_load(&reads_that_fail) <= 0)
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, target, sizeof target - 1);
    target[length > 0 ? length : 0] = '\0';
    return strstr(target, HIGH) && atomic_fetch_sub(&reads_that_fail, 1) > 0 ? ENOENT : 0;
}

/* As where another mount of a file system has removed it in between. */
START_TEST(what_goes_while_it_is_read)
{
    answer a = {0};
    aflock *lock = strict_open(_i);
    strict_claim("held", HIGH, 7, "elsewhere");
    reads_that_fail = 3;
    seam_judge_by(fail_to_read, NULL);
    strict_wait_for(lock, &a);
    while (atomic_load(&reads_that_fail) > 0)
        ck_assert_int_eq(aflock_epoll_run_once(scene, AFLOCK_SECOND), 0);
    seam_judge_by(NULL, NULL);
    ck_assert_int_eq(a.count, 0);
    strict_unclaim("held", HIGH);
    strict_must_be_woken(lock, &a);
}
END_TEST

START_TEST(in_the_end_it_is_an_error)
{
    char path[PATH_MAX];
    aflock *lock = strict_open(_i);
    strict_claim("held", HIGH, 7, "elsewhere");
    snprintf(path, sizeof path, FOLDER "/%s", strict_claim_name("held", HIGH));
    for (int i = 0; i < 2; i++) { /* each has its time */
        failures_on(SEAM_OPEN, HIGH, EACCES, FAILURES_FOR_EVER);
        ck_assert_int_eq(strict_try(lock, 0).result.status, AFLOCK_EWOULDBLOCK);
        const uint64_t began = scene->sys->boottime();
        must_be_named(lock, path, "it cannot be read");
        ck_assert_uint_ge(scene->sys->boottime() - began + 100 * AFLOCK_MILLISECOND, AFLOCK_SECOND / 2);
        failures_none();
    }
    strict_unclaim("held", HIGH);
    strict_must_get(lock);
}
END_TEST

/* A server that has forgotten it for so long has no such file. */
START_TEST(in_the_end_a_stale_one_is_gone)
{
    aflock *lock = strict_open(_i);
    strict_claim("held", HIGH, 7, "elsewhere");
    failures_on(SEAM_OPEN, HIGH, ESTALE, FAILURES_FOR_EVER);
    answer a = strict_try(lock, 30 * AFLOCK_SECOND);
    ck_assert_int_eq(a.result.status, 0);
    failures_none();
    strict_release(lock, a.result.req);
    strict_unclaim("held", HIGH);
}
END_TEST

/* What we lack ourselves is not what is wrong on disk. */
START_TEST(we_lack_descriptors)
{
    aflock *lock = strict_open(_i);
    strict_claim("held", HIGH, 7, "elsewhere");
    failures_on(SEAM_OPEN, HIGH, EMFILE, 1);
    answer a = strict_try(lock, AFLOCK_SECOND);
    ck_assert_int_eq(a.result.status, AFLOCK_EMFILE);
    failures_on(SEAM_OPEN, HIGH, EIO, 1);
    a = strict_try(lock, AFLOCK_SECOND);
    ck_assert_int_eq(a.result.status, AFLOCK_EPROTO);
    ck_assert_int_eq(a.result.sys_errno, EIO);
    failures_none();
    strict_unclaim("held", HIGH);
    strict_must_get(lock);
}
END_TEST

/* -------------------------------------------------------------------------------------------------- private records */

static void make_older(const char *path, int seconds)
{
    struct timespec times[2];
    ck_assert_int_eq(clock_gettime(CLOCK_REALTIME, &times[0]), 0);
    times[0].tv_sec -= seconds;
    times[1] = times[0];
    ck_assert_int_eq(utimensat(AT_FDCWD, path, times, AT_SYMLINK_NOFOLLOW), 0);
}

#define STRAY_CLAIM FOLDER "/.held-v1-" HIGH ".claim.private-v1-" LOW ".tmp"
#define STRAY_SENTINEL ".lock.private-v1-" LOW ".tmp"

static void hold_and_release(aflock *lock)
{
    answer a = strict_try(lock, 30 * AFLOCK_SECOND);
    ck_assert_int_eq(a.result.status, 0);
    strict_release(lock, a.result.req);
}

START_TEST(private_claims)
{
    static const char *const others[] = {FOLDER "/.hidden", FOLDER "/.held-v1-" HIGH ".claim.private-v1-" LOW,
                                         FOLDER "/.x.private-v1-" LOW ".tmp"};
    aflock *lock = strict_open(_i);
    strict_lay_out();
    scene_write(STRAY_CLAIM, "half of a");
    hold_and_release(lock);
    strict_must_have(1); /* young: its owner may be about to publish it */
    make_older(STRAY_CLAIM, -FAILURES_FOR_EVER);
    hold_and_release(lock);
    strict_must_have(1);
    make_older(STRAY_CLAIM, 2);
    strict_look(lock);
    strict_must_have(1); /* who only asks changes nothing */
    hold_and_release(lock);
    strict_must_have(0);
    for (int i = 0; i < 3; i++) { /* what is private in another way is nobody's business */
        scene_write(others[i], "x");
        make_older(others[i], 1000);
    }
    hold_and_release(lock);
    strict_must_have(3);
    for (int i = 0; i < 3; i++)
        ck_assert_int_eq(unlink(others[i]), 0);
    strict_claim("held", HIGH, 7, "elsewhere"); /* published, and its owner ended before he had tidied */
    ck_assert_int_eq(link(FOLDER "/held-v1-" HIGH ".claim", STRAY_CLAIM), 0);
    ck_assert_int_eq(strict_try(lock, 0).result.status, AFLOCK_EWOULDBLOCK);
    strict_must_have(1);
    strict_unclaim("held", HIGH);
    ck_assert_int_eq(symlink("/etc/passwd", STRAY_CLAIM), 0); /* no record */
    make_older(STRAY_CLAIM, 1000);
    hold_and_release(lock);
    strict_must_have(1);
}
END_TEST

START_TEST(private_sentinels)
{
    aflock *lock = strict_open(_i);
    scene_write(STRAY_SENTINEL, "x");
    scene_write(".other.private-v1-" LOW ".tmp", "x");
    make_older(".other.private-v1-" LOW ".tmp", 1000);
    hold_and_release(lock);
    ck_assert_int_eq(scene_entries("."), 4);
    ck_assert_int_eq(unlink("lock"), 0);
    make_older(STRAY_SENTINEL, 2);
    hold_and_release(lock);
    ck_assert_int_eq(access(STRAY_SENTINEL, F_OK), -1);
    ck_assert_int_eq(scene_entries("."), 3);
}
END_TEST

int main(void)
{
    const TTest *const each[] = {another_node_at_the_path,
                                 nearly_the_sentinel,
                                 the_path_becomes_free,
                                 a_path_that_cannot_be_read,
                                 no_directories,
                                 no_file_for_a_claim,
                                 unknown_names,
                                 malformed_records,
                                 what_is_wrong_in_between,
                                 everybody_is_told,
                                 it_is_read_again_for_a_while,
                                 what_goes_while_it_is_read,
                                 in_the_end_it_is_an_error,
                                 in_the_end_a_stale_one_is_gone,
                                 we_lack_descriptors,
                                 private_claims,
                                 private_sentinels,
                                 NULL};
    return scene_main("strict disk", NULL, each);
}
