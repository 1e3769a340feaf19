/* What may be found where a marker should be, for soft locks and leases alike: records of the living cut off at every
 * byte, what is no record, nodes that are no files, and times that jump. Who holds it is never broken on doubt, nothing
 * is followed, and what is broken is old. Each test runs for both protocols, on the loop's thread. */
#include "runtime/runtime.h"
#include "support/marks.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static aflock *open_lock(int which)
{
    aflock *lock;
    aflock_options o;
    aflock_options_init(&o);
    o.protocol = which ? AFLOCK_LEASE : AFLOCK_SOFT;
    o.io = AFLOCK_IO_INLINE;
    o.poll_interval = AFLOCK_FOREVER;
    ck_assert_int_eq(aflock_open(&lock, scene, "lock", &o), 0);
    return lock;
}

static void write_bytes(const void *bytes, size_t size)
{
    int fd = open("lock", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(write(fd, bytes, size), (ssize_t)size);
    close(fd);
}

/* Two attempts: the first would break it, the second get it. */
static void must_stand(aflock *lock, const char *what)
{
    struct stat before, after;
    ck_assert_int_eq(lstat("lock", &before), 0);
    for (int i = 0; i < 2; i++)
        ck_assert_msg(try_for(lock, 0).result.status == AFLOCK_EWOULDBLOCK, "%s", what);
    ck_assert_msg(lstat("lock", &after) == 0 && before.st_ino == after.st_ino, "%s", what);
}

static void must_fall(aflock *lock, const char *what)
{
    ck_assert_msg(try_for(lock, 0).result.status == AFLOCK_EWOULDBLOCK, "%s", what); /* who breaks takes nothing yet */
    answer a = try_for(lock, 0);
    ck_assert_msg(a.result.status == 0, "%s: %s", what, aflock_error_name(a.result.status));
    must_release(lock, a.result.req);
    ck_assert_int_eq(scene_entries("."), 0);
}

/* ---------------------------------------------------------------------------------------------------------- records */

static void living_record(int which, pid_t pid, char *text, size_t size)
{
    if (which)
        lease_of(pid, "0123456789abcdef0123456789abcdef", "30", text, size);
    else
        record_of(pid, text, size);
}

/* A holder that writes slowly, or one on a full disk: nothing of it is taken while it is young, wherever it ends. A
 * number that is cut off may name somebody who is gone, and so is no doubt; the one that is whole names the living. */
START_TEST(cut_off_anywhere)
{
    char text[1024], what[64];
    pid_t other = sleeper();
    aflock *lock = open_lock(_i);
    living_record(_i, other, text, sizeof text);
    const size_t size = strlen(text);
    for (size_t cut = 0; cut <= size; cut++) {
        afl_record r;
        snprintf(what, sizeof what, "%zu of %zu bytes", cut, size);
        write_bytes(text, cut);
        afl_record_parse(text, cut, &r);
        if (r.kind == AFL_RECORD_EMPTY || r.kind == AFL_RECORD_MALFORMED || cut + 1 >= size) {
            must_stand(lock, what);
        }
        ck_assert_int_eq(unlink("lock"), 0);
    }
    write_bytes(text, size);
    set_time("lock", 0);
    if (!_i) /* a lease of that age is over */
        must_stand(lock, "old and alive");
    scene_holder_end(other);
    must_fall(lock, "dead");
}
END_TEST

static const struct {
    const char *bytes;
    size_t size; /* 0: its length */
    bool stands; /* however old it is */
} records[] = {
    {"-1\nhost\n", 0, false},
    {"0\nhost\n", 0, false},
    {"2147483648\nhost\n", 0, false},
    {"99999999999999999999999999999999\nhost\n", 0, false},
    {"1\n\xff\xfe\n", 0, false},
    {"\x80", 1, false},
    {"1\nho\0st\n3\n4\n", 11, false},
    {"2147483647\nelsewhere.example\n", 0, true},
    {"2147483647\nelsewhere.example\n12345\n", 0, true},
    {"filelock/2\npid=-1\nhost=h\nmode=lease\ntoken=x\nduration=30\n", 0, false},
    {"filelock/2\npid=2147483648\nhost=h\nmode=lease\ntoken=x\nduration=30\n", 0, false},
    {"filelock/2\npid=1\nhost=\xff\nmode=lease\ntoken=x\nduration=30\n", 0, false},
    {"filelock/3\npid=1\nhost=h\nmode=lease\ntoken=x\nduration=30\n", 0, false},
    {"filelock/2\npid=1\nhost=elsewhere.example\nmode=later\n", 0, true},
    {"1\nfilelock-strict-v1\0\n0\n", 24, true},
};

START_TEST(what_records_may_say)
{
    aflock *lock = open_lock(_i);
    for (size_t i = 0; i < sizeof records / sizeof records[0]; i++) {
        write_bytes(records[i].bytes, records[i].size ? records[i].size : strlen(records[i].bytes));
        must_stand(lock, records[i].bytes);
        make_older("lock", 1000);
        if (!records[i].stands) {
            must_fall(lock, records[i].bytes);
            continue;
        }
        must_stand(lock, records[i].bytes);
        ck_assert_int_eq(unlink("lock"), 0);
    }
}
END_TEST

/* Only so much of it is read. */
START_TEST(what_is_too_long)
{
    static char bytes[1 << 20];
    static const size_t sizes[] = {1024, 1025, 4096, sizeof bytes};
    char text[1024];
    aflock *lock = open_lock(_i);
    living_record(_i, getpid(), text, sizeof text);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        memset(bytes, 'x', sizes[i]);
        memcpy(bytes, text, strlen(text));
        write_bytes(bytes, sizes[i]);
        seam_forget();
        must_stand(lock, "long and young");
        ck_assert_int_le(seam_count(SEAM_READ), 16);
        ck_assert_int_eq(unlink("lock"), 0);
    }
}
END_TEST

/* ------------------------------------------------------------------------------------------------------------ nodes */

static void make_socket(const char *path)
{
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    snprintf(at.sun_path, sizeof at.sun_path, "%s", path);
    ck_assert_int_eq(bind(fd, (struct sockaddr *)&at, sizeof at), 0);
    close(fd);
}

START_TEST(what_is_no_file)
{
    static const int errors[] = {AFLOCK_ENOTFILE, AFLOCK_ENOTFILE, AFLOCK_ELOOP, AFLOCK_ELOOP, AFLOCK_EISDIR};
    aflock *lock = open_lock(_i);
    scene_write("target", "1\nhost\n");
    for (int kind = 0; kind < 5; kind++) {
        if (kind == 0)
            ck_assert_int_eq(mkfifo("lock", 0666), 0);
        else if (kind == 1)
            make_socket("lock");
        else if (kind == 4)
            ck_assert_int_eq(mkdir("lock", 0777), 0);
        else
            ck_assert_int_eq(symlink(kind == 2 ? "target" : "nowhere", "lock"), 0);
        make_older("lock", 1000);
        answer a = try_for(lock, AFLOCK_SECOND);
        ck_assert_str_eq(aflock_error_name(a.result.status), aflock_error_name(errors[kind]));
        ck_assert_str_eq(a.step, "open");
        ck_assert_int_eq(scene_entries("."), 2);
        ck_assert(unlink("lock") == 0 || rmdir("lock") == 0);
    }
    must_read("target", "1\nhost\n");
    ck_assert_int_eq(unlink("target"), 0);
    must_release(lock, try_for(lock, 0).result.req);
}
END_TEST

/* ----------------------------------------------------------------------------------------------------------- clocks */

#define NOW (UINT64_C(1700000000) * AFLOCK_SECOND)
#define HOUR (3600 * AFLOCK_SECOND)

/* The age of a file is by the clock of files, whoever has set that: back, and it is young; forth, and it is as old as
 * it seems. Back again counts for who looks then. */
START_TEST(what_becomes_young_again)
{
    const uint64_t limit = (_i ? 30 : 2) * AFLOCK_SECOND;
    char text[1024];
    pid_t other = sleeper();
    stop_clocks(AFLOCK_SECOND, NOW);
    aflock *lock = open_lock(_i);
    living_record(1, other, text, sizeof text);
    scene_write("lock", _i ? text : "no record");
    set_time("lock", NOW - limit + AFLOCK_SECOND);
    must_stand(lock, "young");
    pass_realtime(-HOUR);
    must_stand(lock, "of the future");
    pass_realtime(HOUR);
    must_stand(lock, "young as before");
    pass_realtime(AFLOCK_SECOND);
    must_fall(lock, "old");
    scene_holder_end(other);
}
END_TEST

/* The living are not judged by a clock, if they have no lease; who holds one counts by another clock. */
START_TEST(what_no_clock_takes_away)
{
    pid_t other = sleeper();
    stop_clocks(AFLOCK_SECOND, NOW);
    aflock *lock = open_lock(_i);
    answer a = try_for(lock, 0);
    ck_assert_int_eq(a.result.status, 0);
    for (int i = 0; i < 4; i++) {
        pass_realtime(i % 2 ? 2 * HOUR : -HOUR);
        aflock_host_timer(scene);
        for (int turn = 0; turn < 3; turn++)
            ck_assert_int_eq(aflock_epoll_run_once(scene, AFLOCK_MILLISECOND), 0);
    }
    ck_assert_int_eq(scene_logged, 0); /* nothing was lost */
    must_release(lock, a.result.req);
    if (!_i) {
        mark("lock", other);
        for (int i = 0; i < 4; i++) {
            pass_realtime(i % 2 ? 2 * HOUR : -HOUR);
            must_stand(lock, "alive");
        }
        ck_assert_int_eq(unlink("lock"), 0);
    }
    scene_holder_end(other);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("marker-input");
    TCase *tcase = tcase_create("soft and lease");
    scene_folder(tcase);
    tcase_add_checked_fixture(tcase, scene_begin, scene_end);
    tcase_set_timeout(tcase, 60);
    const TTest *const tests[] = {cut_off_anywhere, what_records_may_say,     what_is_too_long,
                                  what_is_no_file,  what_becomes_young_again, what_no_clock_takes_away};
    for (size_t i = 0; i < sizeof tests / sizeof tests[0]; i++)
        tcase_add_loop_test(tcase, tests[i], 0, 2);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
