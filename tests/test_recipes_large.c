/* aflock/file.h with much data: lines that four processes append, and a large file that is replaced while others read
 * it. Smaller where code is instrumented: LARGE_MB megabytes of lines. */
#include "support/fixture.h"

#include <aflock/epoll.h>
#include <aflock/file.h>
#include <check.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* The long form: only lines, and many more of them. */
#ifndef LARGE_MB
#define LARGE_MB 64
#endif

enum { PROCESSES = 4, LINE = 4096, LINES = LARGE_MB * (1 << 20) / LINE / PROCESSES, WINDOW = 8, READERS = 4 };
enum { LONG = LARGE_MB > 64, BYTES = LARGE_MB * (1 << 20) / 64 * 10, UPDATES = 12 };

static aflock_ctx *ctx;
static unsigned answered;

static void on_done(const aflock_file_result *r, void *user)
{
    (void)user;
    if (r->status != 0) {
        fprintf(stderr, "%s: %s: %s, errno %d\n", r->path, aflock_strerror(r->status), r->step ? r->step : "-",
                r->sys_errno);
        _exit(EXIT_FAILURE);
    }
    answered++;
}

static void await(unsigned count)
{
    while (answered < count)
        if (aflock_epoll_run_once(ctx, AFLOCK_SECOND) != 0)
            _exit(EXIT_FAILURE);
}

static void options_of(aflock_file_options *o)
{
    aflock_file_options_init(o);
    o->no_sync = 1;
}

/* ----------------------------------------------------------------------------------------------------------- lines */

static _Noreturn void append_all(int process)
{
    char line[LINE];
    aflock_file_options o;
    options_of(&o);
    if (aflock_epoll_new(&ctx, NULL) != 0)
        _exit(EXIT_FAILURE);
    memset(line, 'a' + process, sizeof line);
    for (unsigned i = 0; i < LINES; i++) {
        line[snprintf(line, sizeof line, "%d %08u", process, i)] = ' ';
        if (aflock_file_append(ctx, "log", line, LINE - 1, &o, on_done, NULL) != 0)
            _exit(EXIT_FAILURE);
        await(i < WINDOW ? 0 : i - WINDOW);
    }
    await(LINES);
    _exit(aflock_ctx_free(ctx, 30 * AFLOCK_SECOND));
}

static void await_children(const pid_t *pids, int count)
{
    int status;
    for (int i = 0; i < count; i++) {
        ck_assert_int_eq(waitpid(pids[i], &status, 0), pids[i]);
        ck_assert_int_eq(status, 0);
    }
}

START_TEST(no_line_is_torn)
{
    static char line[LINE + 2];
    pid_t pids[PROCESSES];
    unsigned next[PROCESSES] = {0};
    struct stat st;
    for (int i = 0; i < PROCESSES; i++)
        if ((pids[i] = fork()) == 0)
            append_all(i);
    await_children(pids, PROCESSES);
    ck_assert_int_eq(stat("log", &st), 0);
    ck_assert_int_eq(st.st_size, (off_t)LINE * LINES * PROCESSES);
    FILE *log = fopen("log", "re");
    ck_assert_ptr_nonnull(log);
    while (fgets(line, sizeof line, log)) {
        unsigned process, number;
        if (strlen(line) != LINE || line[LINE - 1] != '\n' || sscanf(line, "%u %u", &process, &number) != 2 ||
            process >= PROCESSES || number != next[process]++)
            ck_abort_msg("torn, or out of its order: %s", line);
        for (size_t i = 11; i < LINE - 1; i++)
            if (line[i] != 'a' + (int)process)
                ck_abort_msg("torn: %s", line);
    }
    fclose(log);
}
END_TEST

/* ---------------------------------------------------------------------------------------------------- a large file */

/* All bytes are the same: each update makes the next letter of them. */
static int next_letter(const aflock_file_content *before, aflock_file_content *after, void *user)
{
    (void)user;
    const char *old = before->data;
    after->data = malloc(BYTES);
    after->length = BYTES;
    if (!after->data)
        return 12;
    memset(after->data, before->exists ? old[0] + 1 : 'A', BYTES);
    return before->exists && (before->length != BYTES || old[BYTES - 1] != old[0]);
}

static void on_read(const aflock_file_result *r, void *user)
{
    const char *data = r->data;
    on_done(r, NULL);
    if (r->length != BYTES || memcmp(data, data + 1, BYTES - 1) != 0 || data[0] < *(char *)user) {
        fprintf(stderr, "a mixture was read, or an older content\n");
        _exit(EXIT_FAILURE);
    }
    *(char *)user = data[0];
}

static _Noreturn void read_all(const atomic_bool *ends)
{
    char last = 'A';
    if (aflock_epoll_new(&ctx, NULL) != 0)
        _exit(EXIT_FAILURE);
    for (unsigned i = 1; !atomic_load(ends); i++) {
        if (aflock_file_read(ctx, "large", NULL, on_read, &last) != 0)
            _exit(EXIT_FAILURE);
        await(i);
        usleep(1000);
    }
    _exit(aflock_ctx_free(ctx, 30 * AFLOCK_SECOND));
}

START_TEST(readers_see_whole_files)
{
    pid_t pids[READERS];
    aflock_file_options o;
    atomic_bool *ends = mmap(NULL, sizeof *ends, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    ck_assert_ptr_ne(ends, MAP_FAILED);
    options_of(&o);
    o.max_size = BYTES;
    ck_assert_int_eq(aflock_epoll_new(&ctx, NULL), 0);
    answered = 0;
    ck_assert_int_eq(aflock_file_update(ctx, "large", next_letter, &o, on_done, NULL), 0);
    await(1);
    ck_assert_int_eq(aflock_ctx_free(ctx, 30 * AFLOCK_SECOND), 0);
    answered = 0;
    for (int i = 0; i < READERS; i++)
        if ((pids[i] = fork()) == 0)
            read_all(ends);
    ck_assert_int_eq(aflock_epoll_new(&ctx, NULL), 0);
    for (unsigned i = 1; i <= UPDATES; i++) {
        ck_assert_int_eq(aflock_file_update(ctx, "large", next_letter, &o, on_done, NULL), 0);
        await(i);
    }
    atomic_store(ends, true);
    await_children(pids, READERS);
    ck_assert_int_eq(aflock_ctx_free(ctx, 30 * AFLOCK_SECOND), 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("recipes: large");
    TCase *tcase = tcase_create("large");
    tcase_add_unchecked_fixture(tcase, fixture_enter_folder, fixture_leave_folder);
    tcase_set_timeout(tcase, LONG ? 1500 : 100);
    tcase_add_test(tcase, no_line_is_torn);
    if (!LONG)
        tcase_add_test(tcase, readers_see_whole_files);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
