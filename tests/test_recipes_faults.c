/* aflock/file.h's work on files, with every system call of it failing, in turn, in each way that is plausible, doing a
 * part only, or being interrupted. Whatever happens the file has its old or its new content, the failure is told with
 * step, path and errno, and the next call finds nothing that disturbs it. The linker leads the calls here. */
#include "file/work.h"
#include "support/fixture.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { LENGTH = 10000, CALLS = 64 };

/* ------------------------------------------------------------------------------------------------------ the seam */

static bool counting;
static char calls[512];          /* those that were made, by their names */
static int made, bad, bad_error; /* the call of this number fails; PART: it does a part only, */
static int next_error;           /* ... and the one behind it fails, unless this is 0 */
static const char *bad_call;
enum { PART = -1 };

/* 0: the call is made. */
static int judge(const char *call)
{
    if (!counting)
        return 0;
    snprintf(calls + strlen(calls), sizeof calls - strlen(calls), "%s ", call);
    if (++made != bad)
        return made == bad + 1 ? next_error : 0;
    bad_call = call;
    return bad_error;
}

#define FAILS(call)          \
    int error = judge(call); \
    if (error > 0) {         \
        errno = error;       \
        return -1;           \
    }

#define WRAP(type, name, parameters, arguments) \
    type __real_##name parameters;              \
    type __wrap_##name parameters;              \
    type __wrap_##name parameters               \
    {                                           \
        FAILS(#name)                            \
        return __real_##name arguments;         \
    }

WRAP(int, fsync, (int fd), (fd))
WRAP(int, unlink, (const char *path), (path))
WRAP(int, rename, (const char *from, const char *to), (from, to))
WRAP(int, link, (const char *from, const char *to), (from, to))
WRAP(int, fchmod, (int fd, mode_t mode), (fd, mode))
WRAP(int, fchown, (int fd, uid_t user, gid_t group), (fd, user, group))
WRAP(int, ftruncate64, (int fd, off_t length), (fd, length))
WRAP(int, fstat64, (int fd, struct stat *st), (fd, st))
WRAP(int, lstat64, (const char *path, struct stat *st), (path, st))

int __real_open64(const char *path, int flags, mode_t mode);
int __wrap_open64(const char *path, int flags, mode_t mode);
int __wrap_open64(const char *path, int flags, mode_t mode)
{
    FAILS("open")
    return __real_open64(path, flags, mode);
}

/* It closes all the same, as Linux does. */
int __real_close(int fd);
int __wrap_close(int fd);
int __wrap_close(int fd)
{
    int error = judge("close"), result = __real_close(fd);
    if (error <= 0)
        return result;
    errno = error;
    return -1;
}

ssize_t __real_pread64(int fd, void *buffer, size_t length, off_t at);
ssize_t __wrap_pread64(int fd, void *buffer, size_t length, off_t at);
ssize_t __wrap_pread64(int fd, void *buffer, size_t length, off_t at)
{
    FAILS("pread")
    return __real_pread64(fd, buffer, error == PART && length > 1 ? length / 2 : length, at);
}

ssize_t __real_write(int fd, const void *data, size_t length);
ssize_t __wrap_write(int fd, const void *data, size_t length);
ssize_t __wrap_write(int fd, const void *data, size_t length)
{
    FAILS("write")
    return __real_write(fd, data, error == PART && length > 1 ? length / 2 : length);
}

/* -------------------------------------------------------------------------------------------------------- the work */

static char directory[PATH_MAX];
static char path[PATH_MAX + 8], temporary[PATH_MAX + 24];

static int upper(const aflock_file_content *before, aflock_file_content *after, void *user)
{
    (void)user;
    char *data = malloc(before->length + 1);
    if (!data)
        return ENOMEM;
    memset(data, 'B', before->length);
    after->data = data;
    after->length = before->length;
    return 0;
}

static void set_content(const char *file, char letter, size_t length)
{
    static char data[LENGTH];
    memset(data, letter, sizeof data);
    int fd = open(file, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0640);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(write(fd, data, length), (ssize_t)length);
    close(fd);
}

/* 'A': old, 'B': new, '-': there is none; or the test fails. Of a file that is appended to, 'B' is the old content and
 * a line. */
static char content_of(file_kind kind)
{
    static char data[LENGTH + 64];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return '-';
    ssize_t length = read(fd, data, sizeof data);
    close(fd);
    if (kind == FILE_APPEND) {
        bool whole = length == LENGTH + 6 && memcmp(data + LENGTH, "\nline\n", 6) == 0;
        ck_assert_msg(whole || length == LENGTH, "%zd bytes after %s", length, bad_call);
        return whole ? 'B' : 'A';
    }
    ck_assert_int_eq(length, LENGTH);
    for (ssize_t i = 1; i < length; i++)
        ck_assert_int_eq(data[i], data[0]);
    return data[0];
}

static void carry_out(file_kind kind, file_work *w)
{
    size_t length = kind == FILE_APPEND ? 6 : LENGTH;
    *w = (file_work){.kind = kind,
                     .path = path,
                     .temporary = temporary,
                     .directory = directory,
                     .max_size = 2 * LENGTH,
                     .mode = 0666,
                     .sync = true,
                     .change = upper};
    if (kind != FILE_READ && kind != FILE_UPDATE) {
        w->data = malloc(length);
        ck_assert_ptr_nonnull(w->data);
        memset(w->data, 'B', length);
        w->length = length;
        if (kind == FILE_APPEND)
            memcpy(w->data, "\nline\n", length);
    }
    file_work_carry_out(w);
    free(w->data);
    free(w->content.data);
}

/* A leftover is there to begin with; a file is there if it is not to be created. */
static void prepare(file_kind kind)
{
    set_content(temporary, 'x', 100);
    if (kind == FILE_CREATE)
        unlink(path);
    else
        set_content(path, 'A', LENGTH);
    ck_assert(kind == FILE_CREATE || (chmod(path, 0604) == 0 && (geteuid() != 0 || chown(path, 1, 1) == 0)));
}

static int descriptors(void)
{
    int count = 0;
    for (int fd = 0; fd < 64; fd++)
        count += fcntl(fd, F_GETFD) >= 0;
    return count;
}

/* May the file be the new one although the call has failed? Only its durability is in doubt then. */
static bool is_late(const file_work *w, file_kind kind)
{
    if (strcmp(w->at, directory) == 0)
        return true;
    return kind == FILE_APPEND && (strcmp(w->step, "fsync") == 0 || strcmp(w->step, "close") == 0);
}

static void check(file_kind kind, const file_work *w, char before)
{
    char content = content_of(kind);
    if (kind == FILE_READ)
        ck_assert_int_eq(content, 'A');
    else if (!w->step)
        ck_assert_int_eq(content, 'B');
    else
        ck_assert_msg(content == (is_late(w, kind) ? 'B' : before) || w->cleanup_errno,
                      "%c after a failed %s (told: %s)", content, bad_call, w->step);
    ck_assert(!w->step || (w->sys_errno > 0 && w->at));
    ck_assert_msg(!w->step || bad_error == PART || w->sys_errno == bad_error ||
                      (w->sys_errno == EIO && bad_error == EPERM),
                  "%s: errno %d told as %d", bad_call, bad_error, w->sys_errno);
    bool left = access(temporary, F_OK) == 0;
    ck_assert_msg(!left || strcmp(bad_call, "unlink") == 0, "a leftover after a failed %s", bad_call);
    if (content == 'B' && kind != FILE_CREATE) {
        struct stat st;
        ck_assert_int_eq(stat(path, &st), 0);
        ck_assert_uint_eq(st.st_mode & 07777, 0604);
        ck_assert_uint_eq(st.st_uid, geteuid() == 0 ? 1 : geteuid());
    }
}

/* Those that are got over: nobody is told. */
static bool is_got_over(void)
{
    return bad_error == EINTR || (bad_error == PART && strcmp(bad_call, "write") != 0) ||
           strcmp(bad_call, "unlink") == 0;
}

static const file_kind KINDS[] = {FILE_READ, FILE_REPLACE, FILE_CREATE, FILE_APPEND, FILE_UPDATE};
static const int ERRORS[] = {EIO, ENOSPC, EPERM, EDQUOT, EINTR, PART};

START_TEST(every_call_fails_once)
{
    file_kind kind = KINDS[_i];
    unsigned failures = 0, told = 0;
    int open_before = descriptors();
    for (size_t e = 0; e < sizeof ERRORS / sizeof ERRORS[0]; e++) {
        for (int number = 1; number <= CALLS; number++) {
            file_work w;
            prepare(kind);
            made = 0;
            calls[0] = '\0';
            bad = number;
            bad_error = ERRORS[e];
            bad_call = NULL;
            counting = true;
            carry_out(kind, &w);
            counting = false;
            if (!bad_call)
                break; /* there are no more calls */
            failures++;
            told += w.step != NULL;
            check(kind, &w, kind == FILE_CREATE ? '-' : 'A');
            if (!w.step && bad_error > 0 && bad_error != EINTR && kind != FILE_READ)
                ck_assert_msg(strcmp(bad_call, "unlink") == 0 || strcmp(bad_call, "close") == 0 ||
                                  strcmp(bad_call, "link") == 0,
                              "nobody is told that %s failed with %d", bad_call, bad_error);
            if (w.step && is_got_over() && strcmp(bad_call, "unlink") != 0)
                ck_abort_msg("%s with %d is told", bad_call, bad_error);
            /* the next one works, and leaves nothing */
            if (kind == FILE_CREATE)
                unlink(path);
            carry_out(kind == FILE_READ || kind == FILE_APPEND ? FILE_REPLACE : kind, &w);
            ck_assert_ptr_null(w.step);
            ck_assert_int_eq(access(temporary, F_OK), -1);
        }
    }
    ck_assert_uint_gt(failures, 20);
    ck_assert_uint_gt(told, 10);
    ck_assert_int_eq(descriptors(), open_before);
}
END_TEST

/* What is durable when: the content before it gets its name, and the name before the caller is told. */
START_TEST(the_order_of_calls)
{
    static const struct {
        file_kind kind;
        const char *calls;
    } ORDERS[] = {{FILE_REPLACE, "unlink lstat64 open fstat64 fchmod write fsync close rename open fsync close "},
                  {FILE_CREATE, "unlink lstat64 open write fsync close link unlink open fsync close "},
                  {FILE_APPEND, "unlink open fstat64 pread write fsync close "},
                  {FILE_UPDATE,
                   "unlink open fstat64 pread close lstat64 open fstat64 fchmod write fsync close rename open fsync "
                   "close "},
                  {FILE_READ, "unlink open fstat64 pread close "}};
    for (size_t i = 0; i < sizeof ORDERS / sizeof ORDERS[0]; i++) {
        file_work w;
        unlink(path);
        if (ORDERS[i].kind != FILE_CREATE)
            set_content(path, 'A', LENGTH);
        made = bad = 0;
        calls[0] = '\0';
        counting = true;
        carry_out(ORDERS[i].kind, &w);
        counting = false;
        ck_assert_ptr_null(w.step);
        ck_assert_str_eq(calls, ORDERS[i].calls);
    }
}
END_TEST

/* A write that does a part only has no errno: what stopped it is asked for, and nothing of the line stays. */
START_TEST(a_part_is_explained)
{
    static const int REASONS[] = {EDQUOT, EFBIG, EIO, ENOSPC, 0};
    for (size_t i = 0; i < sizeof REASONS / sizeof REASONS[0]; i++) {
        file_work w;
        set_content(path, 'A', LENGTH);
        made = 0;
        calls[0] = '\0';
        bad = 5;
        bad_error = PART;
        next_error = REASONS[i];
        counting = true;
        carry_out(FILE_APPEND, &w);
        counting = false;
        next_error = 0;
        ck_assert_str_eq(calls, "unlink open fstat64 pread write write ftruncate64 close ");
        ck_assert_str_eq(w.step, "write");
        ck_assert_int_eq(w.sys_errno, REASONS[i] ? REASONS[i] : ENOSPC);
        ck_assert_int_eq(content_of(FILE_APPEND), 'A');
    }
}
END_TEST

/* A line of which only a part could be written, and that could not be taken back: it is told, and ended by the next. */
START_TEST(a_cut_line_is_ended)
{
    file_work w;
    char text[32] = "";
    set_content(path, 'A', 3);
    carry_out(FILE_APPEND, &w);
    ck_assert_ptr_null(w.step);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ck_assert_int_eq(read(fd, text, sizeof text - 1), 9);
    close(fd);
    ck_assert_str_eq(text, "AAA\nline\n");
}
END_TEST

static void make_directory(void)
{
    fixture_enter_folder();
    snprintf(directory, sizeof directory, "%s", fixture_folder());
    snprintf(path, sizeof path, "%s/f", directory);
    snprintf(temporary, sizeof temporary, "%s/f.lock.tmp", directory);
}

int main(void)
{
    Suite *suite = suite_create("recipes: faults");
    TCase *tcase = tcase_create("faults");
    tcase_add_unchecked_fixture(tcase, make_directory, fixture_leave_folder);
    tcase_set_timeout(tcase, 60);
    tcase_add_loop_test(tcase, every_call_fails_once, 0, (int)(sizeof KINDS / sizeof KINDS[0]));
    tcase_add_test(tcase, the_order_of_calls);
    tcase_add_test(tcase, a_part_is_explained);
    tcase_add_test(tcase, a_cut_line_is_ended);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
