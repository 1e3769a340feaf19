/* The command: which rows, where the files are, where the results go. */
#include "bench.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct {
    const char *name;
    void (*run)(void);
    const char *text;
} ROWS[] = {
    {"cycle", row_cycle, "acquire, callback, release against the raw calls"},
    {"try", row_try, "aflock_try, release against the raw calls"},
    {"system-calls", row_system_calls, "system calls of the two"},
    {"allocations", row_allocations, "allocations of the two"},
    {"handoff", row_handoff, "from holder to waiter inside a process"},
    {"pool", row_pool, "round trips through the thread pool against libuv's"},
    {"append", row_append, "a line appended under the lock against a worker that locks and writes"},
    {"keyed", row_keyed, "the lock of a warm key against a lock that stays open"},
    {"semaphore", row_semaphore, "a semaphore with a free slot against the lock of its file"},
    {"loops", row_loops, "acquire, callback, release on libevent, libev and libuv against the epoll adapter"},
    {"lateness", row_lateness, "how late deadlines are answered on each loop"},
    {"health", row_health, "an HTTP server answers while others wait for its lock, against one without a lock"},
    {"waiters", row_waiters, "10,000 waiters on one path: memory, system calls, processor"},
    {"stall", row_stall, "a loop while every file-system call takes 200 ms, against one without locks"},
    {"waiting", row_waiting, "what waiting costs, and how soon a crowd has what it waited for"},
    {"holders", row_holders, "how soon it is ours: behind killed holders, flock(1), py-filelock, portalocker"},
    {"greedy", row_greedy, "processes with deep queues share a lock: shares, longest wait"},
    {"contend", row_contend, "1 to 100 processes contend, against raw inotify waiters, blocked ones and Python"},
    {"processes", row_processes, "from holder to waiter between processes against a blocked flock, and raw inotify"},
    {"park", row_park, "the same with AFLOCK_WAIT_PARK"},
    {"kept", row_kept, "acquire, callback, release with the file kept open against the raw calls"},
    {"kept-handoff", row_kept_handoff, "from a holder that keeps the file open to a waiter between processes"},
    {"rw", row_rw, "acquire, callback, release of readers and writers against the raw calls"},
    {"rw-crowd", row_rw_crowd, "16 readers and a writer of one context, against one alone"},
    {"rw-handoff", row_rw_handoff, "from a writer or the last reader to a writer between processes"},
    {"soft", row_soft, "acquire, callback, release of a soft lock against the raw calls"},
    {"marker-handoff", row_marker_handoff, "from holder to waiter between processes: soft, lease, strict"},
    {"strict", row_strict, "acquire, callback, release of a strict lock against the raw calls"},
    {"soft-crowd", row_soft_crowd, "how often 60 contexts look at the marker that they wait for"},
    {"leases", row_leases, "1,000 held leases: processor at rest"},
    {"nginx-static", row_nginx_static, "what file_lock adds to a small file of nginx, against the raw calls"},
    {"nginx-contended", row_nginx_contended, "a backend of 2 ms behind a contended file_lock, against it alone"},
    {"nginx-health", row_nginx_health, "nginx answers while 1,000 requests wait for a lock, against none"},
    {"many", row_many, "100,000 locks open in one context: cycles in random order, memory"},
};
enum { ROW_COUNT = sizeof ROWS / sizeof ROWS[0], MAX_FILES = 64 };

char bench_directory[200];

const char *bench_file(unsigned number)
{
    static char path[256];
    snprintf(path, sizeof path, "%s/%u.lock", bench_directory, number);
    return path;
}

/* Its path is absolute: others are told it, who work elsewhere. */
static void make_directory(const char *where)
{
    if (!where)
        where = getenv("TMPDIR");
    char *absolute = realpath(where ? where : "/tmp", NULL);
    bench_check_errno(absolute != NULL, where ? where : "/tmp");
    int length = snprintf(bench_directory, sizeof bench_directory, "%s/aflock-bench.XXXXXX", absolute);
    free(absolute);
    bench_check_errno(length < (int)sizeof bench_directory, "the directory's name is too long");
    bench_check_errno(mkdtemp(bench_directory) != NULL, bench_directory);
}

static void remove_directory(void)
{
    for (unsigned i = 0; i < MAX_FILES; i++)
        unlink(bench_file(i));
    rmdir(bench_directory);
}

static void fail(const char *what, const char *why)
{
    fprintf(stderr, "bench: %s: %s\n", what, why);
    remove_directory();
    exit(EXIT_FAILURE);
}

void bench_check(int status, const char *what)
{
    if (status != 0)
        fail(what, aflock_strerror(status));
}

void bench_check_errno(bool good, const char *what)
{
    if (!good)
        fail(what, strerror(errno));
}

static void usage(FILE *to)
{
    fprintf(to, "bench [--rows NAME]... [--json FILE] [--dir DIRECTORY] [--quick]\n"
                "Measures aflock against the raw calls. Exit status 1: a bar was missed.\n\n"
                "  --rows NAME      only these rows (may be given more than once)\n"
                "  --json FILE      writes the results there too\n"
                "  --dir DIRECTORY  where the lock files are made; default $TMPDIR or /tmp\n"
                "  --quick          fewer and shorter blocks: to see that it works\n\n"
                "AFLOCK_BENCH_FILELOCK=FOLDER takes Python's filelock from there (it goes in front of PYTHONPATH).\n\n"
                "rows:\n");
    for (size_t i = 0; i < ROW_COUNT; i++)
        fprintf(to, "  %-16s %s\n", ROWS[i].name, ROWS[i].text);
}

static void choose(bool chosen[ROW_COUNT], const char *name)
{
    for (size_t i = 0; i < ROW_COUNT; i++) {
        if (strcmp(ROWS[i].name, name) == 0) {
            chosen[i] = true;
            return;
        }
    }
    fprintf(stderr, "bench: no row is called %s\n", name);
    usage(stderr);
    exit(2);
}

int main(int argc, char **argv)
{
    enum { ROW = 'r', JSON = 'j', DIRECTORY = 'd', QUICK = 'q', HELP = 'h' };
    static const struct option OPTIONS[] = {
        {"rows", required_argument, NULL, ROW},      {"json", required_argument, NULL, JSON},
        {"dir", required_argument, NULL, DIRECTORY}, {"quick", no_argument, NULL, QUICK},
        {"help", no_argument, NULL, HELP},           {NULL, 0, NULL, 0}};
    bool chosen[ROW_COUNT] = {false}, all = true;
    const char *json = NULL, *where = NULL;
    for (int option; (option = getopt_long(argc, argv, "h", OPTIONS, NULL)) != -1;) {
        switch (option) {
        case ROW:
            choose(chosen, optarg);
            all = false;
            break;
        case JSON:
            json = optarg;
            break;
        case DIRECTORY:
            where = optarg;
            break;
        case QUICK:
            bench = (bench_settings){.blocks = 5, .slices = 3, .quick = true};
            break;
        case HELP:
            usage(stdout);
            return 0;
        default:
            usage(stderr);
            return 2;
        }
    }
    if (optind != argc) {
        usage(stderr);
        return 2;
    }
    make_directory(where);
    size_t wanted = 0, done = 0;
    for (size_t i = 0; i < ROW_COUNT; i++)
        wanted += all || chosen[i];
    for (size_t i = 0; i < ROW_COUNT; i++) {
        if (!all && !chosen[i])
            continue;
        fprintf(stderr, "%zu of %zu: %s\n", ++done, wanted, ROWS[i].name);
        ROWS[i].run();
    }
    remove_directory();
    bool good = bench_print();
    if (json && !bench_write_json(json))
        return 2;
    return good ? 0 : 1;
}
