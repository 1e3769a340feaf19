/* The calls of core/sys that speak to the kernel in its own words, because not every C library has them: what is
 * written down there about the kernel's structs is true on this machine, of 32 bit or of 64. */
#include "sys/files.h"
#include "sys/sys.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

static const afl_sys *const sys = &afl_sys_linux;

static uint64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* As /proc tells it; 0: it does not. */
static uint64_t mount_of(int fd)
{
    char path[64], line[128];
    uint64_t mount = 0;
    snprintf(path, sizeof path, "/proc/self/fdinfo/%d", fd);
    FILE *f = fopen(path, "r");
    ck_assert_ptr_nonnull(f);
    while (fgets(line, sizeof line, f))
        if (sscanf(line, "mnt_id: %" SCNu64, &mount) == 1)
            break;
    fclose(f);
    return mount;
}

START_TEST(what_a_file_is)
{
    const char *const files[] = {"/", "/proc/self", "/dev/null", "/etc/passwd"};
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        afl_identity id = {0};
        struct stat st;
        int fd = open(files[i], O_RDONLY | O_CLOEXEC);
        ck_assert_int_ge(fd, 0);
        ck_assert_int_eq(fstat(fd, &st), 0);
        ck_assert_int_eq(sys->identify(fd, &id), 0);
        ck_assert_uint_eq(id.ino, st.st_ino);
        ck_assert_uint_eq(id.dev >> 32, major(st.st_dev));
        ck_assert_uint_eq(id.dev & UINT32_MAX, minor(st.st_dev));
        ck_assert_uint_eq(id.mount, mount_of(fd));
        close(fd);
    }
}
END_TEST

START_TEST(what_a_cached_file_is_opened_with)
{
    int fd = sys->open_cached("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(fcntl(fd, F_GETFD), FD_CLOEXEC);
    ck_assert_int_eq(fcntl(fd, F_GETFL) & O_PATH, O_PATH);
    close(fd);
    ck_assert_int_eq(sys->open_cached("/this file is missing", O_RDONLY), -1);
    ck_assert(errno == ENOENT || errno == EAGAIN);
}
END_TEST

/* It may return before its time, but not all the time: whoever waits in a loop must not burn the processor. */
START_TEST(a_wait_sleeps)
{
    uint32_t word = 7;
    const uint64_t until = now() + 300000000u;
    int returns = 0;
    for (uint64_t t = now(); t < until; t = now(), returns++)
        sys->wait(&word, 7, until - t);
    ck_assert_int_lt(returns, 50);
}
END_TEST

START_TEST(a_wait_for_another_value_does_not_sleep)
{
    uint32_t word = 7;
    for (int i = 0; i < 1000; i++)
        sys->wait(&word, 8, UINT64_C(3600) * 1000000000u);
}
END_TEST

enum { MANY = 300 };

typedef struct reader {
    int times[MANY]; /* each name was met */
    int left;        /* names until it stops */
} reader;

static bool meet_name(const char *name, void *user)
{
    reader *r = user;
    char *end;
    const long number = strtol(name, &end, 10);
    ck_assert_uint_eq(strlen(name), 200);
    ck_assert(*end == 'n' && number >= 0 && number < MANY);
    r->times[number]++;
    return --r->left > 0;
}

/* More than one reading of the kernel's gives; and no more than was asked for. */
START_TEST(what_a_directory_holds)
{
    char folder[] = "/tmp/aflock-names.XXXXXX", name[201];
    reader r = {.left = MANY + 1}, one = {.left = 1};
    ck_assert_ptr_nonnull(mkdtemp(folder));
    const int dir = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    ck_assert_int_ge(dir, 0);
    for (int i = 0; i < MANY; i++) {
        const int length = snprintf(name, sizeof name, "%d", i);
        memset(name + length, 'n', 200 - (size_t)length);
        name[200] = '\0';
        ck_assert_int_eq(close(openat(dir, name, O_WRONLY | O_CREAT | O_CLOEXEC, 0600)), 0);
    }
    ck_assert_int_eq(afl_read_names(&afl_sys_linux, dir, meet_name, &r), 0);
    for (int i = 0; i < MANY; i++)
        ck_assert_int_eq(r.times[i], 1);
    ck_assert_int_eq(lseek(dir, 0, SEEK_SET), 0);
    ck_assert_int_eq(afl_read_names(&afl_sys_linux, dir, meet_name, &one), 0);
    ck_assert_int_eq(one.left, 0);
    for (int i = 0; i < MANY; i++) {
        const int length = snprintf(name, sizeof name, "%d", i);
        memset(name + length, 'n', 200 - (size_t)length);
        ck_assert_int_eq(afl_unlink_at(&afl_sys_linux, dir, name), 0);
    }
    close(dir);
    ck_assert_int_eq(rmdir(folder), 0);
    ck_assert_int_eq(afl_read_names(&afl_sys_linux, -1, meet_name, &r), EBADF);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {what_a_directory_holds, what_a_file_is, what_a_cached_file_is_opened_with,
                                  a_wait_sleeps, a_wait_for_another_value_does_not_sleep};
    Suite *suite = suite_create("sys");
    TCase *tcase = tcase_create("the kernel");
    for (size_t i = 0; i < sizeof tests / sizeof tests[0]; i++)
        tcase_add_test(tcase, tests[i]);
    tcase_set_timeout(tcase, 60);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
