/* `aflock verify` on file systems that work, that have no locks, and that only say that they lock: it must be able to
 * find an overlap, or what it says of the others is worth nothing. */
#include "stall.h"
#include "support/fixture.h"
#include "support/scene.h"

#include <check.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <sysexits.h>
#include <unistd.h>

enum { SKIPPED = 77, OUTPUT = 1 << 14, OVERLAP = 1 };

static stall *one, *other; /* two mounts of the folder `files` */
static const char *command;
static char output[OUTPUT];

static void begin(void)
{
    command = getenv("AFLOCK_COMMAND");
    ck_assert_ptr_nonnull(command);
    ck_assert(stall_enter_namespace());
    const char *const folders[] = {"files", "one", "other"};
    for (int i = 0; i < 3; i++) /* there if a test before has failed */
        ck_assert(mkdir(folders[i], 0777) == 0 || errno == EEXIST);
    one = stall_mount("one", "files");
    other = stall_mount("other", "files");
    ck_assert(one && other);
}

static bool is_empty(const char *folder)
{
    DIR *d = opendir(folder);
    unsigned entries = 0;
    ck_assert_ptr_nonnull(d);
    while (readdir(d))
        entries++;
    closedir(d);
    return entries == 2;
}

/* Whatever was found nothing is left. */
static void end(void)
{
    stall_resume(one);
    ck_assert(is_empty("files"));
    stall_unmount(one);
    stall_unmount(other);
    ck_assert(rmdir("one") == 0 && rmdir("other") == 0 && rmdir("files") == 0);
}

/* The exit status of `aflock verify --json`, whose output goes to `output`. */
static int verify(const char *first, const char *second)
{
    int ends[2], status;
    size_t length = 0;
    ssize_t count;
    ck_assert_int_eq(pipe2(ends, O_CLOEXEC), 0);
    pid_t pid = fork();
    if (pid == 0) {
        dup2(ends[1], STDOUT_FILENO);
        execl(command, "aflock", "verify", "--json", "--seconds", ".2", first, second, (char *)NULL);
        _exit(127);
    }
    close(ends[1]);
    while ((count = read(ends[0], output + length, sizeof output - 1 - length)) > 0)
        length += (size_t)count;
    close(ends[0]);
    output[length] = '\0';
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ck_assert(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void must_end(const char *first, const char *second, int status)
{
    int got = verify(first, second);
    ck_assert_msg(got == status, "status %d, not %d: %s", got, status, output);
}

static void must_be(const char *protocol, const char *mode, const char *result)
{
    char text[128];
    snprintf(text, sizeof text, "\"protocol\":\"%s\",\"mode\":\"%s\",\"result\":\"%s\"", protocol, mode, result);
    ck_assert_msg(strstr(output, text) != NULL, "%s is not in %s", text, output);
}

static void must_advise(const char *text)
{
    ck_assert_msg(strstr(output, text) != NULL, "%s is not advised: %s", text, output);
}

START_TEST(all_that_works_excludes)
{
    must_end("one", NULL, EX_OK);
    ck_assert_ptr_null(strstr(output, "\"result\":\"overlaps\""));
    ck_assert_ptr_null(strstr(output, "\"result\":\"un"));
    must_be("native", "exclusive", "excludes");
    must_be("soft-rw", "shared", "excludes");
    must_advise("Native locks exclude here");
    must_advise("Name a second mount");
    ck_assert_ptr_nonnull(strstr(output, "\"waiting\":\"poll\""));
    ck_assert_ptr_null(strstr(output, "\"waiting\":\"notify\""));
}
END_TEST

START_TEST(two_mounts_exclude)
{
    must_end("one", "other", EX_OK);
    must_be("native", "shared", "excludes");
    ck_assert_ptr_null(strstr(output, "Name a second mount"));
}
END_TEST

START_TEST(locks_that_are_none_are_found)
{
    stall_lie(one, STALL_BIT(STALL_FLOCK) | STALL_BIT(STALL_UNLOCK), "");
    must_end("one", NULL, OVERLAP);
    must_be("native", "exclusive", "overlaps");
    must_be("native", "shared", "overlaps");
    must_be("soft", "exclusive", "excludes");
    must_be("strict", "exclusive", "excludes");
    must_advise("Do not use what overlaps here");
    ck_assert_ptr_null(strstr(output, "Native locks exclude here"));
}
END_TEST

START_TEST(locks_of_one_mount_only_are_found)
{
    stall_lie(other, STALL_LOCK | STALL_BIT(STALL_UNLOCK), "");
    must_end("one", "other", OVERLAP);
    must_be("native", "exclusive", "overlaps");
    must_be("ofd", "exclusive", "overlaps");
    must_be("rw", "exclusive", "overlaps");
    must_be("lease", "exclusive", "excludes");
    must_advise("aflock --soft");
}
END_TEST

START_TEST(what_is_not_there_is_no_failure)
{
    static const int errors[] = {EOPNOTSUPP, ENOLCK};
    for (int i = 0; i < 2; i++) {
        stall_rule rule = {.calls = STALL_BIT(STALL_FLOCK), .times = STALL_ALWAYS, .error = errors[i]};
        stall_resume(one);
        stall_set(one, rule);
        must_end("one", NULL, EX_OK);
        must_be("native", "exclusive", "unsupported");
        must_be("ofd", "exclusive", "excludes");
        must_advise("aflock --fcntl");
    }
}
END_TEST

START_TEST(what_fails_cannot_be_tested)
{
    stall_rule rule = {.calls = STALL_BIT(STALL_FLOCK), .times = STALL_ALWAYS, .error = EIO};
    stall_set(one, rule);
    must_end("one", NULL, EX_UNAVAILABLE);
    must_be("native", "exclusive", "untested");
    must_be("ofd", "exclusive", "excludes");
    ck_assert_ptr_nonnull(strstr(output, "\"problem\":\"flock: Input/output error\""));
}
END_TEST

/* `aflock append` is here, too, as a release can fail at first on such a file system: it is tried again before more
 * lines are waited for. */
START_TEST(the_lock_is_free_while_lines_are_waited_for)
{
    int ends[2], status;
    ck_assert_int_eq(pipe2(ends, O_CLOEXEC), 0);
    stall_fail(one, STALL_BIT(STALL_UNLOCK), "f.lock", EIO);
    pid_t pid = fork();
    if (pid == 0) {
        dup2(ends[0], STDIN_FILENO);
        execl(command, "aflock", "append", "one/f", (char *)NULL);
        _exit(127);
    }
    ck_assert_int_eq(write(ends[1], "line\n", 5), 5);
    int fd = -1;
    scene_await((fd = open("files/f.lock", O_RDWR | O_CLOEXEC)) >= 0 && access("files/f", F_OK) == 0);
    scene_await(flock(fd, LOCK_EX | LOCK_NB) == 0 && stall_count(one, STALL_UNLOCK) > 1);
    close(fd);
    close(ends[1]);
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ck_assert(WIFEXITED(status));
    ck_assert_int_eq(WEXITSTATUS(status), 0);
    ck_assert(unlink("files/f") == 0 && unlink("files/f.lock") == 0);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {all_that_works_excludes,
                                  two_mounts_exclude,
                                  locks_that_are_none_are_found,
                                  locks_of_one_mount_only_are_found,
                                  what_is_not_there_is_no_failure,
                                  what_fails_cannot_be_tested,
                                  the_lock_is_free_while_lines_are_waited_for};
    if (!stall_is_possible()) {
        printf("skipped: a FUSE file system cannot be mounted here\n");
        return SKIPPED;
    }
    Suite *suite = suite_create("verify");
    TCase *tcase = tcase_create("verify");
    tcase_add_unchecked_fixture(tcase, fixture_enter_folder, fixture_leave_folder);
    tcase_add_checked_fixture(tcase, begin, end);
    tcase_set_timeout(tcase, 120);
    for (size_t i = 0; i < sizeof tests / sizeof tests[0]; i++)
        tcase_add_test(tcase, tests[i]);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
