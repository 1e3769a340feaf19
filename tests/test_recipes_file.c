/* aflock/file.h in one process: what each call does to the file, which files it refuses, what it leaves and what it
 * tells. */
#include "support/scene.h"

#include <aflock/file.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* What a callback said. */
typedef struct told {
    int count;
    aflock_file_result result;
    char step[32], path[PATH_MAX], data[256];
} told;

static void tell(const aflock_file_result *r, void *user)
{
    told *t = user;
    ck_assert_uint_eq(r->size, sizeof *r);
    t->count++;
    t->result = *r;
    snprintf(t->step, sizeof t->step, "%s", r->step ? r->step : "");
    snprintf(t->path, sizeof t->path, "%s", r->path);
    if (r->data) {
        ck_assert_int_eq(((const char *)r->data)[r->length], '\0');
        snprintf(t->data, sizeof t->data, "%s", (const char *)r->data);
    }
}

static aflock_file_options options;
static told last;

/* Starts with `last` empty, and waits for it. */
#define CALL(call)                       \
    do {                                 \
        last = (told){.count = 0};       \
        ck_assert_int_eq((call), 0);     \
        ck_assert_int_eq(last.count, 0); \
        scene_run_until(&last.count, 1); \
        ck_assert_int_eq(last.count, 1); \
    } while (0)

#define ck_told(expected, at_step)                        \
    do {                                                  \
        ck_assert_int_eq(last.result.status, (expected)); \
        ck_assert_str_eq(last.step, (at_step));           \
    } while (0)

static void read_it(void)
{
    CALL(aflock_file_read(scene, "f", &options, tell, &last));
}

static void replace(const char *text)
{
    CALL(aflock_file_replace(scene, "f", text, strlen(text), &options, tell, &last));
}

static void create(const char *text)
{
    CALL(aflock_file_create(scene, "f", text, strlen(text), &options, tell, &last));
}

static void append(const char *line)
{
    CALL(aflock_file_append(scene, "f", line, strlen(line), &options, tell, &last));
}

static void update(aflock_file_change change)
{
    CALL(aflock_file_update(scene, "f", change, &options, tell, &last));
}

static void must_contain(const char *path, const char *text)
{
    char content[256] = "";
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ck_assert_int_ge(fd, 0);
    ssize_t length = read(fd, content, sizeof content - 1);
    ck_assert_int_ge(length, 0);
    content[length] = '\0';
    close(fd);
    ck_assert_str_eq(content, text);
}

/* The file and its lock, which is free. */
static void must_be_tidy(int entries)
{
    ck_assert_int_eq(scene_entries("."), entries);
    ck_assert_int_eq(access("f.lock.tmp", F_OK), -1);
    ck_assert(scene_is_free("f.lock", LOCK_EX));
}

static void begin(void)
{
    scene_begin();
    aflock_file_options_init(&options);
}

/* ------------------------------------------------------------------------------------------------- what is done */

START_TEST(a_file_is_replaced_and_read)
{
    char expected[PATH_MAX + 8];
    read_it();
    ck_told(0, "");
    ck_assert_int_eq(last.result.exists, 0);
    ck_assert_uint_eq(last.result.length, 0);
    replace("one");
    ck_told(0, "");
    snprintf(expected, sizeof expected, "%s/f", scene_directory);
    ck_assert_str_eq(last.path, expected);
    must_contain("f", "one");
    replace("another");
    must_contain("f", "another");
    read_it();
    ck_told(0, "");
    ck_assert_int_eq(last.result.exists, 1);
    ck_assert_uint_eq(last.result.length, 7);
    ck_assert_str_eq(last.data, "another");
    replace("");
    must_contain("f", "");
    must_be_tidy(2);
}
END_TEST

/* Who may read the file and its lock, and change neither. */
START_TEST(readers_need_not_be_writers)
{
    int status;
    replace("text");
    ck_assert_int_eq(chmod(scene_directory, 0755), 0);
    ck_assert(chmod("f", 0644) == 0 && chmod("f.lock", 0644) == 0);
    pid_t reader = fork();
    ck_assert_int_ge(reader, 0);
    if (reader == 0) {
        if (geteuid() == 0 && setuid(65534) != 0)
            _exit(2);
        if (aflock_epoll_new(&scene, NULL) != 0)
            _exit(3);
        last.count = 0;
        if (aflock_file_read(scene, "f", &options, tell, &last) != 0 || aflock_epoll_run(scene) != 0)
            _exit(4);
        _exit(last.count == 1 && last.result.status == 0 && last.result.length == 4 ? 0 : 5);
    }
    ck_assert_int_eq(waitpid(reader, &status, 0), reader);
    ck_assert_int_eq(status, 0);
}
END_TEST

/* Only who writes makes directories. */
START_TEST(reading_makes_no_directories)
{
    last.count = 0;
    ck_assert_int_eq(aflock_file_read(scene, "new/deep/f", &options, tell, &last), 0);
    scene_run_until(&last.count, 1);
    ck_told(AFLOCK_ENOENT, "open parent");
    ck_assert_int_eq(scene_entries("."), 0);
}
END_TEST

START_TEST(a_file_is_created_once)
{
    create("mine");
    ck_told(0, "");
    must_contain("f", "mine");
    create("not mine");
    ck_told(AFLOCK_ESYS, "create");
    ck_assert_int_eq(last.result.sys_errno, EEXIST);
    must_contain("f", "mine");
    must_be_tidy(2);
}
END_TEST

START_TEST(lines_are_appended)
{
    append("one");
    append("");
    append("three");
    ck_told(0, "");
    must_contain("f", "one\n\nthree\n");
    ck_assert_int_eq(aflock_file_append(scene, "f", "a\nb", 3, &options, tell, &last), AFLOCK_EINVAL);
    ck_assert_int_eq(aflock_file_append(scene, "f", "ab\n", 3, &options, tell, &last), AFLOCK_EINVAL);
    scene_write("f", "cut off");
    append("whole");
    must_contain("f", "cut off\nwhole\n");
    must_be_tidy(2);
}
END_TEST

/* The last line need not be ended by who came before; who appends lines ends his own. */
START_TEST(many_lines_are_appended)
{
    CALL(aflock_file_append_lines(scene, "f", "one\n\nthree\n", 11, &options, tell, &last));
    ck_told(0, "");
    CALL(aflock_file_append_lines(scene, "f", "\n", 1, &options, tell, &last));
    must_contain("f", "one\n\nthree\n\n");
    ck_assert_int_eq(aflock_file_append_lines(scene, "f", "a\nb", 3, &options, tell, &last), AFLOCK_EINVAL);
    ck_assert_int_eq(aflock_file_append_lines(scene, "f", "", 0, &options, tell, &last), AFLOCK_EINVAL);
    ck_assert_int_eq(aflock_file_append_lines(scene, "f", NULL, 0, &options, tell, &last), AFLOCK_EINVAL);
    scene_write("f", "cut off");
    CALL(aflock_file_append_lines(scene, "f", "a\nb\n", 4, &options, tell, &last));
    must_contain("f", "cut off\na\nb\n");
    must_be_tidy(2);
}
END_TEST

static int add_one(const aflock_file_content *before, aflock_file_content *after, void *user)
{
    (void)user;
    if (before->exists != (before->length > 0) || ((char *)before->data)[before->length] != '\0')
        return EPROTO;
    char *text = malloc(16);
    if (!text)
        return ENOMEM;
    after->length = (size_t)snprintf(text, 16, "%ld", strtol(before->data, NULL, 10) + 1);
    after->data = text;
    return 0;
}

static int keep(const aflock_file_content *before, aflock_file_content *after, void *user)
{
    (void)before, (void)user;
    after->data = malloc(5); /* is freed all the same */
    after->length = 5;
    return AFLOCK_FILE_KEEP;
}

static int refuse(const aflock_file_content *before, aflock_file_content *after, void *user)
{
    keep(before, after, user);
    return EDOM;
}

static int run_out_of_memory(const aflock_file_content *before, aflock_file_content *after, void *user)
{
    (void)before, (void)user;
    after->length = 5;
    return 0;
}

static int empty(const aflock_file_content *before, aflock_file_content *after, void *user)
{
    (void)before, (void)after, (void)user;
    return 0;
}

START_TEST(a_file_is_updated)
{
    struct stat before, after;
    for (int i = 0; i < 3; i++)
        update(add_one);
    ck_told(0, "");
    must_contain("f", "3");
    ck_assert_int_eq(stat("f", &before), 0);
    update(keep);
    ck_told(0, "");
    update(refuse);
    ck_told(AFLOCK_EREFUSED, "change");
    ck_assert_int_eq(last.result.sys_errno, EDOM);
    update(run_out_of_memory);
    ck_told(AFLOCK_EREFUSED, "change");
    ck_assert_int_eq(last.result.sys_errno, EINVAL);
    ck_assert_int_eq(stat("f", &after), 0);
    ck_assert_uint_eq(before.st_ino, after.st_ino);
    must_contain("f", "3");
    update(empty);
    ck_told(0, "");
    must_contain("f", "");
    must_be_tidy(2);
}
END_TEST

/* -------------------------------------------------------------------------------------------- modes, limits, kinds */

START_TEST(mode_and_owner_stay)
{
    struct stat st;
    umask(022);
    replace("x");
    ck_assert_uint_eq(scene_mode("f"), 0644);
    ck_assert_int_eq(chmod("f", 0640), 0);
    if (geteuid() == 0)
        ck_assert_int_eq(chown("f", 12345, 54321), 0);
    replace("y");
    update(add_one);
    ck_told(0, "");
    ck_assert_uint_eq(scene_mode("f"), 0640);
    ck_assert_int_eq(stat("f", &st), 0);
    ck_assert_uint_eq(st.st_uid, geteuid() == 0 ? 12345 : geteuid());
    options.mode = 0600;
    ck_assert_int_eq(unlink("f"), 0);
    append("x");
    ck_assert_uint_eq(scene_mode("f"), 0600);
    options.mode = 010000;
    ck_assert_int_eq(aflock_file_read(scene, "f", &options, tell, &last), AFLOCK_EINVAL);
}
END_TEST

START_TEST(what_is_too_large_is_refused)
{
    options.max_size = 4;
    replace("1234");
    ck_told(0, "");
    read_it();
    ck_told(0, "");
    replace("12345");
    ck_told(AFLOCK_ESYS, "write");
    ck_assert_int_eq(last.result.sys_errno, EFBIG);
    must_contain("f", "1234");
    scene_write("f", "12345");
    read_it();
    ck_told(AFLOCK_ESYS, "read");
    ck_assert_int_eq(last.result.sys_errno, EFBIG);
    ck_assert_ptr_null(last.result.data);
    update(add_one);
    ck_told(AFLOCK_ESYS, "read");
    options.max_size = 0;
    update(empty);
    ck_told(AFLOCK_ESYS, "read");
    append("x");
    ck_told(0, "");
    must_be_tidy(2);
}
END_TEST

static void must_refuse(int status)
{
    read_it();
    ck_assert_int_eq(last.result.status, status);
    ck_assert(last.step[0] && last.result.sys_errno);
    replace("x");
    ck_assert_int_eq(last.result.status, status);
    append("x");
    ck_assert_int_eq(last.result.status, status);
    update(add_one);
    ck_assert_int_eq(last.result.status, status);
    create("x");
    ck_assert_int_eq(last.result.sys_errno, EEXIST);
    must_be_tidy(2);
}

START_TEST(a_link_is_refused)
{
    scene_write("target", "old");
    ck_assert_int_eq(symlink("target", "f"), 0);
    read_it();
    ck_told(AFLOCK_ELOOP, "open");
    ck_assert_int_eq(unlink("target"), 0);
    must_refuse(AFLOCK_ELOOP);
    ck_assert_int_eq(access("target", F_OK), -1);
}
END_TEST

START_TEST(a_directory_is_refused)
{
    ck_assert_int_eq(mkdir("f", 0777), 0);
    must_refuse(AFLOCK_EISDIR);
    static const char *const NO_FILES[] = {"", "f/", ".", "..", "x/.", "x/.."};
    for (size_t i = 0; i < sizeof NO_FILES / sizeof NO_FILES[0]; i++)
        ck_assert_int_eq(aflock_file_read(scene, NO_FILES[i], &options, tell, &last), AFLOCK_EINVAL);
}
END_TEST

/* Nobody is at its other end: who waits for it waits for ever. */
START_TEST(a_fifo_is_refused_at_once)
{
    ck_assert_int_eq(mkfifo("f", 0666), 0);
    must_refuse(AFLOCK_ENOTFILE);
}
END_TEST

/* ----------------------------------------------------------------------------------------------- leftovers, locking */

START_TEST(what_the_dead_left_is_removed)
{
    scene_write("f.lock.tmp", "half a file");
    replace("x");
    ck_told(0, "");
    must_be_tidy(2);
    scene_write("f.lock.tmp", "half a file");
    append("y");
    must_be_tidy(2);
    scene_write("f.lock.tmp", "half a file");
    read_it();
    must_be_tidy(2);
    scene_write("f.lock.tmp", "half a file");
    update(keep);
    must_be_tidy(2);
    must_contain("f", "x\ny\n");
}
END_TEST

START_TEST(a_leftover_that_cannot_be_removed)
{
    ck_assert_int_eq(mkdir("f.lock.tmp", 0777), 0);
    replace("x");
    ck_told(AFLOCK_EISDIR, "unlink");
    ck_assert_ptr_nonnull(strstr(last.path, "/f.lock.tmp"));
    ck_assert_int_eq(access("f", F_OK), -1);
    ck_assert(scene_is_free("f.lock", LOCK_EX));
}
END_TEST

START_TEST(the_lock_is_waited_for)
{
    aflock_acquire_options a;
    aflock_acquire_options_init(&a);
    a.timeout = 20 * AFLOCK_MILLISECOND;
    options.acquire = &a;
    pid_t holder = scene_holder("f.lock", O_RDWR | O_CREAT, LOCK_EX);
    replace("x");
    ck_assert_int_eq(last.result.status, AFLOCK_ETIMEDOUT);
    ck_assert_ptr_nonnull(strstr(last.path, "/f.lock"));
    read_it();
    ck_assert_int_eq(last.result.status, AFLOCK_ETIMEDOUT);
    ck_assert_int_eq(access("f", F_OK), -1);
    ck_assert_int_eq(aflock_token_new(&a.token, scene), 0);
    a.timeout = AFLOCK_FOREVER;
    last = (told){.count = 0};
    ck_assert_int_eq(aflock_file_replace(scene, "f", "x", 1, &options, tell, &last), 0);
    aflock_token_fire(a.token);
    scene_run_until(&last.count, 1);
    ck_assert_int_eq(last.result.status, AFLOCK_ECANCELED);
    ck_assert_int_eq(aflock_file_read(scene, "f", &options, tell, &last), AFLOCK_ECANCELED);
    aflock_token_free(a.token);
    options.acquire = NULL;
    last = (told){.count = 0};
    ck_assert_int_eq(aflock_file_replace(scene, "f", "x", 1, &options, tell, &last), 0);
    scene_holder_end(holder);
    scene_run_until(&last.count, 1);
    ck_told(0, "");
    holder = scene_holder("f.lock", O_RDWR, LOCK_SH);
    read_it(); /* beside other readers */
    ck_told(0, "");
    scene_holder_end(holder);
}
END_TEST

/* The lock is locked while a change is made, and another call waits for it. */
static int look_at_lock(const aflock_file_content *before, aflock_file_content *after, void *user)
{
    if (scene_is_free("f.lock", LOCK_SH))
        return EPROTO;
    return add_one(before, after, user);
}

START_TEST(the_lock_is_held_meanwhile)
{
    told all[20] = {{.count = 0}};
    for (int i = 0; i < 20; i++)
        ck_assert_int_eq(aflock_file_update(scene, "f", look_at_lock, &options, tell, &all[i]), 0);
    for (int i = 0; i < 20; i++) {
        scene_run_until(&all[i].count, 1);
        ck_assert_int_eq(all[i].result.status, 0);
    }
    must_contain("f", "20");
    must_be_tidy(2);
}
END_TEST

START_TEST(locked_by_a_marker)
{
    aflock_options o;
    aflock_options_init(&o);
    o.protocol = AFLOCK_SOFT;
    options.lock = &o;
    replace("x");
    ck_told(0, "");
    read_it();
    ck_assert_str_eq(last.data, "x");
    scene_free_context(); /* the release is under way */
    ck_assert_int_eq(scene_entries("."), 1);
}
END_TEST

/* The context goes first: what has begun is done, everything is answered. */
START_TEST(the_context_is_freed)
{
    told all[4] = {{.count = 0}};
    for (int i = 0; i < 4; i++)
        ck_assert_int_eq(aflock_file_update(scene, "f", add_one, &options, tell, &all[i]), 0);
    scene_free_context();
    for (int i = 0; i < 4; i++) {
        ck_assert_int_eq(all[i].count, 1);
        ck_assert(all[i].result.status == 0 || all[i].result.status == AFLOCK_ECLOSED);
    }
    ck_assert(scene_is_free("f.lock", LOCK_EX) || access("f.lock", F_OK) != 0);
}
END_TEST

static int count_entries(void)
{
    int count = 0;
    DIR *folder = opendir(".");
    ck_assert_ptr_nonnull(folder);
    while (readdir(folder))
        count++;
    closedir(folder);
    return count;
}

/* FILE.lock has a name that is possible; FILE.lock.tmp has none. */
START_TEST(a_name_that_is_too_long)
{
    enum { LONGEST = NAME_MAX - 9 };
    char name[NAME_MAX + 1];
    const int before = count_entries();
    memset(name, 'x', sizeof name);
    for (size_t length = LONGEST + 1; length <= NAME_MAX; length++) {
        name[length] = '\0';
        ck_assert_int_eq(aflock_file_append(scene, name, "x", 1, NULL, tell, &last), AFLOCK_ENAMETOOLONG);
        ck_assert_int_eq(aflock_file_replace(scene, name, "x", 1, NULL, tell, &last), AFLOCK_ENAMETOOLONG);
        ck_assert_int_eq(aflock_file_create(scene, name, "x", 1, NULL, tell, &last), AFLOCK_ENAMETOOLONG);
        ck_assert_int_eq(aflock_file_update(scene, name, add_one, NULL, tell, &last), AFLOCK_ENAMETOOLONG);
        ck_assert_int_eq(aflock_file_read(scene, name, NULL, tell, &last), AFLOCK_ENAMETOOLONG);
        name[length] = 'x';
    }
    ck_assert_int_eq(count_entries(), before);
    name[LONGEST] = '\0';
    CALL(aflock_file_replace(scene, name, "x", 1, NULL, tell, &last));
    ck_told(0, "");
}
END_TEST

/* The same of the whole path, which is absolute inside: one byte more than there is room for beside it. */
START_TEST(a_path_that_is_too_long)
{
    char folder[201], start[PATH_MAX], at[PATH_MAX];
    ck_assert_ptr_nonnull(getcwd(start, sizeof start));
    memset(folder, 'd', sizeof folder - 1);
    folder[sizeof folder - 1] = '\0';
    do {
        ck_assert_int_eq(mkdir(folder, 0700), 0);
        ck_assert_int_eq(chdir(folder), 0);
        ck_assert_ptr_nonnull(getcwd(at, sizeof at));
    } while (strlen(at) + 2 * sizeof folder < PATH_MAX);
    const int before = count_entries();
    const size_t longest = PATH_MAX - 1 - strlen("/.lock.tmp") - strlen(at);
    for (size_t length = longest + 1; length <= longest + 4; length++) {
        const size_t first = length / 2; /* two components, none of them too long */
        char name[PATH_MAX];
        memset(name, 'x', length);
        name[first] = '/';
        name[length] = '\0';
        ck_assert_int_eq(aflock_file_append(scene, name, "x", 1, NULL, tell, &last), AFLOCK_ENAMETOOLONG);
    }
    ck_assert_int_eq(count_entries(), before);
    ck_assert_int_eq(chdir(start), 0);
}
END_TEST

START_TEST(arguments)
{
    aflock_acquire_options a;
    aflock_acquire_options_init(&a);
    ck_assert_int_eq(aflock_file_read(NULL, "f", &options, tell, &last), AFLOCK_EINVAL);
    ck_assert_int_eq(aflock_file_read(scene, NULL, &options, tell, &last), AFLOCK_EINVAL);
    ck_assert_int_eq(aflock_file_read(scene, "f", &options, NULL, &last), AFLOCK_EINVAL);
    ck_assert_int_eq(aflock_file_update(scene, "f", NULL, &options, tell, &last), AFLOCK_EINVAL);
    ck_assert_int_eq(aflock_file_replace(scene, "f", NULL, 1, &options, tell, &last), AFLOCK_EINVAL);
    ck_assert_int_eq(aflock_file_replace(scene, "f", "x", SIZE_MAX, &options, tell, &last), AFLOCK_ENOMEM);
    options.size++;
    ck_assert_int_eq(aflock_file_read(scene, "f", &options, tell, &last), AFLOCK_EINVAL);
    aflock_file_options_init(&options);
    a.on_acquired = (int (*)(int, void *))(void (*)(void))add_one;
    options.acquire = &a;
    ck_assert_int_eq(aflock_file_read(scene, "f", &options, tell, &last), AFLOCK_EINVAL);
    a.on_acquired = NULL;
    a.size = 0;
    ck_assert_int_eq(aflock_file_read(scene, "f", &options, tell, &last), AFLOCK_EINVAL);
    CALL(aflock_file_replace(scene, "f", NULL, 0, NULL, tell, &last));
    ck_told(0, "");
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {a_file_is_replaced_and_read,
                                  readers_need_not_be_writers,
                                  reading_makes_no_directories,
                                  a_file_is_created_once,
                                  lines_are_appended,
                                  many_lines_are_appended,
                                  a_file_is_updated,
                                  mode_and_owner_stay,
                                  what_is_too_large_is_refused,
                                  a_link_is_refused,
                                  a_directory_is_refused,
                                  a_fifo_is_refused_at_once,
                                  what_the_dead_left_is_removed,
                                  a_leftover_that_cannot_be_removed,
                                  the_lock_is_waited_for,
                                  the_lock_is_held_meanwhile,
                                  locked_by_a_marker,
                                  the_context_is_freed,
                                  a_name_that_is_too_long,
                                  a_path_that_is_too_long,
                                  arguments};
    Suite *suite = suite_create("recipes: files");
    TCase *tcase = tcase_create("file");
    scene_folder(tcase);
    tcase_add_checked_fixture(tcase, begin, scene_end);
    tcase_set_timeout(tcase, 60);
    for (size_t i = 0; i < sizeof tests / sizeof tests[0]; i++)
        tcase_add_test(tcase, tests[i]);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
