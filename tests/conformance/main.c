/* The driver: runs the cases on a host (the one that host_NAME.c defines) with libcheck, each in a process and with an
 * empty directory of its own. */
#include "conformance.h"

#include "support/folder.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { WATCHDOG_S = 60, MANY = 10000, ENOUGH = 4 };

extern const conformance_host conformance_host_under_test;

static const conformance_host *const HOST = &conformance_host_under_test;
static unsigned many = MANY;
static char directory[PATH_MAX];
static pid_t process;
static pthread_t thread;
static atomic_uint *failures; /* shared by all processes */

/* libcheck hears of it only from where the case runs; a thread or a child of the case ends its process. */
static void note_failure(const char *file, int line, const char *what)
{
    atomic_fetch_add(failures, 1);
    if (getpid() == process && pthread_equal(pthread_self(), thread))
        ck_abort_msg("%s:%d: %s", file, line, what);
    fprintf(stderr, "%s:%d: %s\n", file, line, what);
    _exit(EXIT_FAILURE);
}

static void make_directory(void)
{
    ck_assert(folder_make(directory, NULL));
}

static void remove_directory(void)
{
    folder_remove(directory);
}

static void run_case(int number)
{
    rig r;
    process = getpid();
    thread = pthread_self();
    conformance_failed = note_failure;
    if (atomic_load(failures) >= ENOUGH) /* each may have waited for long */
        ck_abort_msg("not run: enough others failed");
    rig_begin(&r, HOST, directory, many);
    conformance_case_at((unsigned)number)->run(&r);
    rig_end(&r);
}

static bool is_wanted(const conformance_case *c, char *const *names, unsigned excluded)
{
    if (conformance_gap_of(HOST, c) != NULL)
        return false;
    if ((c->needs & excluded) != 0) {
        printf("not run: %s on %s: it is left out by an option\n", c->name, HOST->name);
        return false;
    }
    if (*names == NULL)
        return true;
    for (; *names != NULL; names++)
        if (strcmp(*names, c->name) == 0)
            return true;
    return false;
}

/* One test of libcheck for each case; they stay. */
static Suite *make_suite(char *const *names, unsigned excluded)
{
    static TTest tests[256];
    Suite *suite = suite_create(HOST->name);
    const conformance_case *c;
    for (int i = 0; (c = conformance_case_at((unsigned)i)) != NULL; i++) {
        if (!is_wanted(c, names, excluded))
            continue;
        tests[i] = (TTest){.name = c->name, .fn = run_case, .file = __FILE__, .line = __LINE__};
        TCase *tcase = tcase_create(c->name);
        tcase_add_unchecked_fixture(tcase, make_directory, remove_directory); /* also after a test that failed */
        tcase_set_timeout(tcase, WATCHDOG_S);
        tcase_add_loop_test(tcase, &tests[i], i, i + 1);
        suite_add_tcase(suite, tcase);
    }
    return suite;
}

static int usage(const char *program, int status)
{
    fprintf(status == 0 ? stdout : stderr,
            "usage: %s [--list] [--many NUMBER] [--no-forks] [CASE...]\n"
            "Runs the cases of the conformance suite on the host %s.\n"
            "  --list         the names of all cases\n"
            "  --many NUMBER  how many requests the large cases make (default %d): fewer, where code runs slowly\n"
            "  --no-forks     leaves out the cases that fork: what workers use is lost in a child, and a checker of\n"
            "                 memory says so\n",
            program, HOST->name, MANY);
    return status;
}

static int list(void)
{
    const conformance_case *c;
    for (unsigned i = 0; (c = conformance_case_at(i)) != NULL; i++)
        puts(c->name);
    return EXIT_SUCCESS;
}

static bool is_known(const char *name)
{
    const conformance_case *c;
    for (unsigned i = 0; (c = conformance_case_at(i)) != NULL; i++)
        if (strcmp(c->name, name) == 0)
            return true;
    fprintf(stderr, "There is no case '%s'; --list has the names.\n", name);
    return false;
}

static int run_suite(char *const *names, unsigned excluded)
{
    unsigned run, not_run;
    for (char *const *name = names; *name != NULL; name++)
        if (!is_known(*name))
            return 2;
    if (!conformance_review(HOST, &run, &not_run))
        return EXIT_FAILURE;
    failures = mmap(NULL, sizeof *failures, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (failures == MAP_FAILED)
        return EXIT_FAILURE;
    SRunner *runner = srunner_create(make_suite(names, excluded));
    srunner_run_all(runner, CK_ENV);
    int count = srunner_ntests_run(runner), failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    printf("figure: conformance %s: %d cases, large ones with %u requests, %u not run\n", HOST->name, count, many,
           not_run);
    return failed == 0 && count > 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

int main(int argc, char **argv)
{
    unsigned excluded = 0;
    int next = 1;
    (void)argc;
    for (; argv[next] != NULL && argv[next][0] == '-'; next++) {
        if (strcmp(argv[next], "--help") == 0)
            return usage(argv[0], EXIT_SUCCESS);
        if (strcmp(argv[next], "--list") == 0)
            return list();
        if (strcmp(argv[next], "--no-forks") == 0)
            excluded |= HOST_FORKS;
        else if (strcmp(argv[next], "--many") == 0 && argv[next + 1] != NULL)
            many = (unsigned)strtoul(argv[++next], NULL, 10);
        else
            return usage(argv[0], 2);
    }
    return run_suite(argv + next, excluded);
}
