/* How soon a waiter has the lock after its holder, another program, has gone or let go: one that is killed, flock(1),
 * and two libraries for Python. The other side waits for the same holders with the raw calls.
 *
 * A holder is a process that takes the lock for each line that it is sent, says so, lets go 20 ms later, and tells when
 * that was. For commands a child of ours does the talking. They are small, as a fork of the bench would not be: the
 * kernel gives up a process's memory first, and its files after that. */
#include "bench.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { ROUNDS = 10, SAMPLES = 512, HOLD = 20 /* ms */ };

static const char ROW[] = "holders";

typedef struct samples {
    double value[SAMPLES];
    size_t count;
} samples;

typedef struct scene {
    bench_waiter w;
    bench_raw raw;
    pid_t holder;
    FILE *to, *from;
    char version[32];
    bool told; /* counts from the moment at which the holder was told to end, and not from its end */
    samples all[3];
} scene;

/* -------------------------------------------------------------------------------------------------------- commands */

/* `flock FILE cat`: it holds the lock as soon as cat answers. */
static pid_t start_command(bool as_itself, int *in)
{
    int to[2] = {-1, -1}, from[2] = {-1, -1};
    char byte = '\n';
    bench_check_errno(pipe2(to, O_CLOEXEC) == 0 && pipe2(from, O_CLOEXEC) == 0, "pipe");
    pid_t pid = fork();
    bench_check_errno(pid >= 0, "fork");
    if (pid == 0) {
        dup2(to[0], STDIN_FILENO);
        dup2(from[1], STDOUT_FILENO);
        if (as_itself)
            execl("/usr/bin/flock", "flock", "--no-fork", bench_file(0), "cat", (char *)NULL);
        else
            execl("/usr/bin/flock", "flock", bench_file(0), "cat", (char *)NULL);
        _exit(127);
    }
    close(to[0]);
    close(from[1]);
    bench_check_errno(write(to[1], &byte, 1) == 1 && read(from[0], &byte, 1) == 1, "flock(1)");
    close(from[0]);
    *in = to[1];
    return pid;
}

static void hold_by_command(bool killed)
{
    char line[16];
    if (access("/usr/bin/flock", X_OK) != 0)
        return;
    printf("-\n");
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {
        const struct timespec hold = {.tv_nsec = HOLD * 1000000L};
        int in;
        pid_t pid = start_command(killed, &in);
        printf("taken\n");
        fflush(stdout);
        nanosleep(&hold, NULL);
        uint64_t told = bench_wall();
        if (killed)
            kill(pid, SIGKILL);
        else
            close(in); /* cat ends, then flock */
        waitpid(pid, NULL, 0);
        uint64_t ended = bench_wall();
        if (killed)
            close(in);
        printf("%llu %llu\n", (unsigned long long)told, (unsigned long long)ended);
        fflush(stdout);
    }
}

static void hold_until_killed(void)
{
    hold_by_command(true);
}

static void hold_until_the_end(void)
{
    hold_by_command(false);
}

/* ---------------------------------------------------------------------------------------------------------- Python */

#define PYTHON(module, lock)                      \
    "import sys, time, " module "\n"              \
    "print(" module ".__version__, flush=True)\n" \
    "lock = " lock "\n"                           \
    "for line in sys.stdin:\n"                    \
    "    lock.acquire()\n"                        \
    "    print('taken', flush=True)\n"            \
    "    time.sleep(0.02)\n"                      \
    "    now = time.monotonic_ns()\n"             \
    "    lock.release()\n"                        \
    "    print(now, now, flush=True)\n"

static void hold_in_python(const char *script)
{
    int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
    dup2(null, STDERR_FILENO);
    bench_choose_filelock();
    execl("/usr/bin/python3", "python3", "-c", script, bench_file(0), (char *)NULL);
    _exit(127);
}

static void hold_by_filelock(void)
{
    hold_in_python(PYTHON("filelock", "filelock.FileLock(sys.argv[1])"));
}

static void hold_by_portalocker(void)
{
    hold_in_python(PYTHON("portalocker", "portalocker.Lock(sys.argv[1], 'a', timeout=60)"));
}

/* Another py-filelock than the system's, if the caller has one. */
void bench_choose_filelock(void)
{
    const char *folder = getenv("AFLOCK_BENCH_FILELOCK"), *before = getenv("PYTHONPATH");
    char path[4096];
    if (!folder || !folder[0])
        return;
    snprintf(path, sizeof path, "%s%s%s", folder, before ? ":" : "", before ? before : "");
    setenv("PYTHONPATH", path, 1);
}

/* ----------------------------------------------------------------------------------------------------- the three sides
 */

static void expect_line(scene *s, char *line, int size)
{
    bench_check_errno(fgets(line, size, s->from) != NULL, "the holder");
}

static void let_it_take(scene *s)
{
    char line[64];
    bench_check_errno(fputs("go\n", s->to) >= 0 && fflush(s->to) == 0, "the holder");
    expect_line(s, line, sizeof line);
    bench_check(strcmp(line, "taken\n") == 0 ? 0 : AFLOCK_EPROTO, "the holder");
}

static double since(scene *s, uint64_t arrived, samples *all)
{
    char line[64], *rest;
    expect_line(s, line, sizeof line);
    uint64_t told = strtoull(line, &rest, 10), ended = strtoull(rest, NULL, 10);
    double us = (double)(int64_t)(arrived - (s->told ? told : ended)) / 1000;
    if (all->count < SAMPLES)
        all->value[all->count++] = us;
    return us;
}

static double ours_slice(void *state)
{
    scene *s = state;
    double latency[ROUNDS];
    for (size_t i = 0; i < ROUNDS; i++) {
        let_it_take(s);
        bench_waiter_ask(&s->w, 1);
        bench_waiter_run(&s->w);
        latency[i] = since(s, s->w.arrived, &s->all[0]);
    }
    return bench_median(latency, ROUNDS);
}

static double raw_slice(void *state)
{
    scene *s = state;
    double latency[ROUNDS];
    for (size_t i = 0; i < ROUNDS; i++) {
        let_it_take(s);
        int fd = bench_raw_lock(&s->raw, bench_file(0));
        uint64_t arrived = bench_wall();
        bench_raw_unlock(&s->raw, fd);
        latency[i] = since(s, arrived, &s->all[1]);
    }
    return bench_median(latency, ROUNDS);
}

static double blocked_slice(void *state)
{
    scene *s = state;
    double latency[ROUNDS];
    for (size_t i = 0; i < ROUNDS; i++) {
        let_it_take(s);
        int fd = bench_hold_file();
        uint64_t arrived = bench_wall();
        close(fd);
        latency[i] = since(s, arrived, &s->all[2]);
    }
    return bench_median(latency, ROUNDS);
}

/* -------------------------------------------------------------------------------------------------------- the scenes
 */

static bool begin(scene *s, void (*hold)(void))
{
    int in[2] = {-1, -1}, out[2] = {-1, -1};
    memset(s, 0, sizeof *s);
    bench_check_errno(pipe2(in, O_CLOEXEC) == 0 && pipe2(out, O_CLOEXEC) == 0, "pipe");
    s->holder = fork();
    bench_check_errno(s->holder >= 0, "fork");
    if (s->holder == 0) {
        dup2(in[0], STDIN_FILENO);
        dup2(out[1], STDOUT_FILENO);
        close(in[1]); /* else its input would never end */
        hold();
        _exit(0);
    }
    close(in[0]);
    close(out[1]);
    s->to = fdopen(in[1], "w");
    s->from = fdopen(out[0], "r");
    bench_check_errno(s->to && s->from, "fdopen");
    bench_waiter_open(&s->w, 50 * AFLOCK_MILLISECOND);
    bench_raw_open(&s->raw);
    if (!fgets(s->version, sizeof s->version, s->from))
        return false;
    s->version[strcspn(s->version, "\n")] = '\0';
    return true;
}

static void end(scene *s)
{
    fclose(s->to);
    fclose(s->from);
    waitpid(s->holder, NULL, 0);
    bench_waiter_close(&s->w);
    bench_raw_close(&s->raw);
}

static const char *const BLOCKED = "a process blocked in flock", *const LISTENS = "a raw inotify waiter";

static void compare(scene *s, const char *what, double bar, bench_slice theirs, const char *why)
{
    bench_compare(&(bench_line){.row = ROW,
                                .what = what,
                                .against = theirs == raw_slice ? LISTENS : BLOCKED,
                                .unit = "us",
                                .bar = bar,
                                .judged = bar > 0,
                                .difference = true,
                                .absolute = true,
                                .why = why},
                  ours_slice, theirs, s);
}

static void draw(scene *s, const char *ours, const char *raw, const char *blocked)
{
    const char *const what[] = {ours, raw, blocked};
    for (size_t i = 0; i < 3; i++)
        if (what[i])
            bench_curve(ROW, what[i], "us", s->all[i].value, s->all[i].count);
}

static void behind_killed(void)
{
    static scene s;
    if (begin(&s, hold_until_killed)) {
        s.told = true;
        compare(
            &s, "behind a holder that is killed: kill -9 to ours, p50", 300, raw_slice,
            "The kernel takes the holder's memory apart before it closes its files, and only then anybody can hear of "
            "it: see what the raw waiter and a blocked process take.");
        compare(&s, "behind a holder that is killed: kill -9 to ours, p50", 0, blocked_slice, NULL);
        draw(&s, "killed: aflock", "killed: raw inotify waiter", "killed: blocked in flock");
    } else {
        bench_skip(ROW, "there is no flock(1) (util-linux)");
    }
    end(&s);
}

static void behind_command(void)
{
    static scene s;
    if (begin(&s, hold_until_the_end)) {
        compare(&s, "behind flock(1): its end, as reaped, to ours, p50", 200, blocked_slice, NULL);
        s.told = true;
        s.all[0].count = s.all[2].count = 0;
        compare(&s, "behind flock(1): its command told to end, to ours, p50", 0, blocked_slice, NULL);
        draw(&s, "flock(1) told to end: aflock", NULL, "flock(1) told to end: blocked in flock");
    }
    end(&s);
}

static void behind_python(void (*hold)(void), const char *name, double bar, char *what, size_t size)
{
    static scene s;
    if (begin(&s, hold)) {
        snprintf(what, size, "behind %s %s: its release to ours, p50", name, s.version);
        compare(&s, what, bar, raw_slice, NULL);
    } else {
        bench_skip(ROW, "there is no python3-%s", strcmp(name, "py-filelock") == 0 ? "filelock" : name);
    }
    end(&s);
}

void row_holders(void)
{
    static char what[2][96];
    bench_settings usual = bench;
    bench.slices = 1;
    behind_killed();
    behind_command();
    behind_python(hold_by_filelock, "py-filelock", 200, what[0], sizeof what[0]);
    behind_python(hold_by_portalocker, "portalocker", 0, what[1], sizeof what[1]);
    bench = usual;
}
