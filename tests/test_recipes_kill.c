/* aflock/file.h under kill -9: eight processes replace, update, create and append while a parent kills them in the
 * middle, and others read without any lock. Nobody ever sees a mixture, no line that was reported is lost or cut, and
 * the next call leaves nothing of the dead behind. */
#include "support/fixture.h"

#include <aflock/epoll.h>
#include <aflock/file.h>
#include <check.h>
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { WORKERS = 8, READERS = 2, KILLS = 120, LARGEST = 100000 };

/* Shared by all processes. */
typedef struct board {
    atomic_uint reported[WORKERS]; /* the last line that was called back as written */
    atomic_uint begun[WORKERS];    /* the last line that was asked for */
    atomic_uint failures;
    atomic_uint reads, updates;
    atomic_bool ends;
} board;

static board *shared;

static void complain(const char *what)
{
    fprintf(stderr, "%s\n", what);
    atomic_fetch_add(&shared->failures, 1);
}

/* ------------------------------------------------------------------------------------- content that can be checked */

static unsigned checksum(const char *data, size_t length)
{
    unsigned sum = 2166136261u;
    for (size_t i = 0; i < length; i++)
        sum = (sum ^ (unsigned char)data[i]) * 16777619u;
    return sum;
}

/* A number, characters that depend on it, and the sum of all that. malloc's. */
static char *make_content(unsigned number, size_t *length)
{
    size_t body = 20 + number * 7919u % LARGEST;
    char *text = malloc(body + 9);
    if (!text)
        abort();
    memset(text, 'a' + (int)(number % 26), body);
    text[snprintf(text, body, "%010u ", number)] = ' ';
    snprintf(text + body, 9, "%08x", checksum(text, body));
    *length = body + 8;
    return text;
}

/* The number; 0: it is no such content. */
static unsigned number_of(const char *text, size_t length)
{
    char sum[9];
    if (length < 28)
        return 0;
    snprintf(sum, sizeof sum, "%08x", checksum(text, length - 8));
    return memcmp(sum, text + length - 8, 8) == 0 ? (unsigned)strtoul(text, NULL, 10) : 0;
}

/* --------------------------------------------------------------------------------------------------------- workers */

static aflock_ctx *ctx;
static int answers;

static void on_done(const aflock_file_result *r, void *user)
{
    int *status = user;
    *status = r->status;
    if (r->status != 0 && !(r->sys_errno == 17 && strcmp(r->step, "create") == 0)) {
        fprintf(stderr, "%s: %s: errno %d\n", r->path, r->step ? r->step : aflock_strerror(r->status), r->sys_errno);
        atomic_fetch_add(&shared->failures, 1);
    }
    answers++;
}

static bool is_done(int asked)
{
    int status = asked;
    if (status != 0)
        complain("refused");
    int before = answers;
    while (status == 0 && answers == before && aflock_epoll_run_once(ctx, AFLOCK_SECOND) == 0)
        ;
    return status == 0;
}

static int next_number(const aflock_file_content *before, aflock_file_content *after, void *user)
{
    (void)user;
    unsigned number = before->exists ? number_of(before->data, before->length) : 1;
    if (number == 0)
        complain("a mixture was read under the lock");
    after->data = make_content(number + 1, &after->length);
    return 0;
}

static void append_line(unsigned worker, const aflock_file_options *o)
{
    char line[128];
    int status = 1;
    unsigned number = atomic_fetch_add(&shared->begun[worker], 1) + 1;
    int length = snprintf(line, sizeof line, "%u %u ", worker, number);
    while (length < 90 + (int)(number % 30))
        line[length++] = 'x';
    length += snprintf(line + length, sizeof line - (size_t)length, "%08x", checksum(line, (size_t)length));
    if (is_done(aflock_file_append(ctx, "log", line, (size_t)length, o, on_done, &status)) && status == 0)
        atomic_store(&shared->reported[worker], number);
}

static void work(unsigned worker)
{
    int status;
    aflock_file_options o;
    aflock_file_options_init(&o);
    srand((unsigned)getpid());
    if (aflock_epoll_new(&ctx, NULL) != 0)
        abort();
    while (!atomic_load(&shared->ends)) {
        o.no_sync = rand() % 4 != 0;
        switch (rand() % 4) {
        case 0:
            is_done(aflock_file_create(ctx, "once", "whole", 5, &o, on_done, &status));
            if (rand() % 4 == 0)
                unlink("once");
            break;
        case 1:
            is_done(aflock_file_update(ctx, "data", next_number, &o, on_done, &status));
            atomic_fetch_add(&shared->updates, 1);
            break;
        default:
            append_line(worker, &o);
        }
    }
    _exit(aflock_ctx_free(ctx, 30 * AFLOCK_SECOND) == 0 ? EXIT_SUCCESS : EXIT_FAILURE);
}

/* Without any lock: what the path names is whole, and never older than what was seen before. */
static void watch(void)
{
    static char text[LARGEST + 64];
    unsigned last = 0;
    while (!atomic_load(&shared->ends)) {
        int fd = open("data", O_RDONLY | O_CLOEXEC);
        if (fd < 0)
            continue;
        size_t length = 0;
        for (ssize_t count; (count = read(fd, text + length, sizeof text - length)) > 0;)
            length += (size_t)count;
        close(fd);
        unsigned number = number_of(text, length);
        if (number == 0)
            complain("a mixture was read without a lock");
        else if (number < last)
            complain("an update was lost");
        last = number;
        atomic_fetch_add(&shared->reads, 1);
        usleep(200);
    }
    _exit(EXIT_SUCCESS);
}

static pid_t start(int number)
{
    pid_t pid = fork();
    ck_assert_int_ge(pid, 0);
    if (pid == 0 && number < WORKERS)
        work((unsigned)number);
    if (pid == 0)
        watch();
    return pid;
}

/* ---------------------------------------------------------------------------------------------------- what is left */

/* Each line is whole, none is there twice, and none that was reported is missing. */
static void check_log(void)
{
    static char line[256];
    unsigned next[WORKERS] = {0}, seen[WORKERS] = {0};
    FILE *log = fopen("log", "re");
    ck_assert_ptr_nonnull(log);
    while (fgets(line, sizeof line, log)) {
        unsigned worker, number;
        size_t length = strlen(line);
        ck_assert_msg(length > 10 && line[length - 1] == '\n', "cut: %s", line);
        ck_assert_uint_eq(strtoul(line + length - 9, NULL, 16), checksum(line, length - 9));
        ck_assert_int_eq(sscanf(line, "%u %u", &worker, &number), 2);
        ck_assert_uint_lt(worker, WORKERS);
        ck_assert_uint_gt(number, next[worker]);
        next[worker] = number;
        seen[worker]++;
    }
    fclose(log);
    for (unsigned i = 0; i < WORKERS; i++) {
        ck_assert_uint_ge(next[i], atomic_load(&shared->reported[i]));
        ck_assert_uint_gt(seen[i], 0);
    }
}

/* Whose number is missing was asked for, and never reported: at most one for each kill. */
static unsigned lines_of_log(void)
{
    unsigned count = 0;
    FILE *log = fopen("log", "re");
    ck_assert_ptr_nonnull(log);
    for (int c; (c = getc(log)) != EOF;)
        count += c == '\n';
    fclose(log);
    return count;
}

static void check_folder(void)
{
    static const char *const EXPECTED[] = {".", "..", "data", "data.lock", "log", "log.lock", "once", "once.lock"};
    DIR *folder = opendir(".");
    ck_assert_ptr_nonnull(folder);
    for (const struct dirent *e; (e = readdir(folder)) != NULL;) {
        bool known = false;
        for (size_t i = 0; i < sizeof EXPECTED / sizeof EXPECTED[0]; i++)
            known |= strcmp(e->d_name, EXPECTED[i]) == 0;
        ck_assert_msg(known, "left behind: %s", e->d_name);
    }
    closedir(folder);
}

static void call_once_more(void)
{
    int status;
    ck_assert_int_eq(aflock_epoll_new(&ctx, NULL), 0);
    ck_assert(is_done(aflock_file_update(ctx, "data", next_number, NULL, on_done, &status)));
    ck_assert(is_done(aflock_file_read(ctx, "log", NULL, on_done, &status)));
    ck_assert(is_done(aflock_file_read(ctx, "once", NULL, on_done, &status)));
    ck_assert_int_eq(aflock_ctx_free(ctx, 30 * AFLOCK_SECOND), 0);
}

START_TEST(killed_at_any_moment)
{
    pid_t pids[WORKERS + READERS];
    unsigned asked = 0;
    int status;
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    ck_assert_ptr_ne(shared, MAP_FAILED);
    srand((unsigned)getpid());
    for (int i = 0; i < WORKERS + READERS; i++)
        pids[i] = start(i);
    for (int i = 0; i < KILLS; i++) {
        int victim = rand() % WORKERS;
        usleep((useconds_t)(rand() % 20000));
        ck_assert_int_eq(kill(pids[victim], SIGKILL), 0);
        ck_assert_int_eq(waitpid(pids[victim], &status, 0), pids[victim]);
        ck_assert(WIFSIGNALED(status));
        pids[victim] = start(victim);
    }
    for (bool all = false; !all; usleep(1000)) { /* on a busy machine, too, each gets a turn */
        all = atomic_load(&shared->reads) > 0 && atomic_load(&shared->updates) > 0;
        for (int i = 0; i < WORKERS; i++)
            all &= atomic_load(&shared->reported[i]) > 0;
    }
    atomic_store(&shared->ends, true);
    for (int i = 0; i < WORKERS + READERS; i++) {
        ck_assert_int_eq(waitpid(pids[i], &status, 0), pids[i]);
        ck_assert_int_eq(status, 0);
    }
    call_once_more();
    ck_assert_uint_eq(atomic_load(&shared->failures), 0);
    check_log();
    for (int i = 0; i < WORKERS; i++)
        asked += atomic_load(&shared->begun[i]);
    ck_assert_uint_le(asked - lines_of_log(), KILLS);
    check_folder();
    printf("figure: recipes: %u updates, %u lines, %u reads, %d kills\n", atomic_load(&shared->updates), asked,
           atomic_load(&shared->reads), KILLS);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("recipes: killed");
    TCase *tcase = tcase_create("killed");
    tcase_set_timeout(tcase, 60);
    tcase_add_unchecked_fixture(tcase, fixture_enter_folder, fixture_leave_folder);
    tcase_add_test(tcase, killed_at_any_moment);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
