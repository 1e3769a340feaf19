/* An HTTP server that appends to a journal under a lock (examples/libevent_journal) answers /health while clients
 * append and another process keeps taking the lock. Against the same server without the lock. */
#include "bench.h"

#ifndef BENCH_JOURNAL

void row_health(void)
{
    bench_skip("health", "built without libevent, or without the examples");
}

#else

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { CLIENTS = 4, PACE_MS = 5, QUESTIONS = 500 };

static void rest(long microseconds)
{
    struct timespec time = {.tv_nsec = microseconds * 1000};
    nanosleep(&time, NULL);
}

static bench_server start(const char *journal, const char *how)
{
    int out[2];
    char line[32] = "";
    bench_check_errno(pipe(out) == 0, "pipe");
    bench_server s = {.pid = fork()};
    bench_check_errno(s.pid >= 0, "fork");
    if (s.pid == 0) {
        dup2(out[1], STDOUT_FILENO);
        close(out[0]);
        execl(BENCH_JOURNAL, BENCH_JOURNAL, "--journal", journal, "--port", "0", how, (char *)NULL);
        _exit(127);
    }
    close(out[1]);
    FILE *stream = fdopen(out[0], "r");
    bench_check_errno(stream && fgets(line, sizeof line, stream), "the server's port");
    fclose(stream);
    s.port = atoi(line);
    return s;
}

/* Appends, PACE_MS apart or slower, until it is killed. */
static pid_t start_client(const bench_server *s)
{
    pid_t pid = fork();
    bench_check_errno(pid >= 0, "fork");
    if (pid > 0)
        return pid;
    int fd = bench_connect(s->port);
    while (bench_ask(fd, "POST /append HTTP/1.1\r\nHost: bench\r\nContent-Length: 5\r\n\r\nhello"))
        rest(PACE_MS * 1000);
    _exit(1);
}

/* Somebody else who wants the lock half of the time. */
static pid_t start_neighbour(const char *lock)
{
    pid_t pid = fork();
    bench_check_errno(pid >= 0, "fork");
    if (pid > 0)
        return pid;
    for (;;) {
        int fd = open(lock, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
        if (fd < 0 || flock(fd, LOCK_EX) != 0)
            _exit(1);
        rest(2000);
        close(fd);
        rest(2000);
    }
}

/* p99 of how long /health takes, in ms. */
static double measure(const bench_server *s)
{
    static double took[QUESTIONS];
    pid_t clients[CLIENTS];
    for (int i = 0; i < CLIENTS; i++)
        clients[i] = start_client(s);
    int fd = bench_connect(s->port);
    for (int i = 0; i < QUESTIONS; i++) {
        uint64_t start = bench_wall();
        bench_check_errno(bench_ask(fd, "GET /health HTTP/1.1\r\nHost: bench\r\n\r\n"), "/health");
        took[i] = (double)(bench_wall() - start) / 1e6;
        rest(1000);
    }
    close(fd);
    for (int i = 0; i < CLIENTS; i++)
        bench_stop(clients[i], SIGKILL);
    bench_median(took, QUESTIONS); /* sorts */
    return took[QUESTIONS * 99 / 100];
}

static double with_lock(void *servers)
{
    return measure((const bench_server *)servers);
}

static double without_lock(void *servers)
{
    return measure((const bench_server *)servers + 1);
}

void row_health(void)
{
    char journal[2][256], lock[300];
    for (unsigned i = 0; i < 2; i++)
        snprintf(journal[i], sizeof journal[i], "%s", bench_file(i));
    snprintf(lock, sizeof lock, "%s.lock", journal[0]);
    bench_server servers[2] = {start(journal[0], "--hold=1"), start(journal[1], "--no-lock")};
    pid_t neighbour = start_neighbour(lock);
    bench_line line = {.row = "health",
                       .what = "HTTP server with a lock: /health, p99",
                       .against = "without the lock",
                       .unit = "ms",
                       .bar = 1,
                       .judged = true,
                       .difference = true};
    bench_settings usual = bench;
    bench.slices = bench.quick ? 1 : 3;
    bench_compare(&line, with_lock, without_lock, servers);
    bench = usual;
    bench_stop(neighbour, SIGKILL);
    for (int i = 0; i < 2; i++)
        bench_stop(servers[i].pid, SIGTERM);
    unlink(lock);
}

#endif
