/* Many processes that want one lock: how often it changes hands, and whether everybody gets it.
 *
 * Greedy ones have a deep queue and never stop asking: what matters is the share of each, and how long it waits. The
 * others ask again as soon as they have given up what they had; they are compared with processes that do the same with
 * the raw calls: that listen with inotify and try again after an event as we do, or that sleep in flock; and with
 * programs in Python. */
#include "bench.h"

#include <aflock/epoll.h>

#include <fcntl.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MOST = 100, DEPTH = 16 };

/* What the processes tell. */
typedef struct scores {
    atomic_int started;
    atomic_int go;
    struct {
        uint64_t grants, longest; /* ns between two grants */
    } of[MOST];
} scores;

typedef struct contender {
    scores *all;
    unsigned number;
    unsigned depth;
    uint64_t duration, until, last;
    aflock_ctx *ctx;
    aflock *lock;
    int to, from; /* Python */
} contender;

static scores *share_scores(void)
{
    scores *all = mmap(NULL, sizeof *all, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    bench_check_errno(all != MAP_FAILED, "mmap");
    return all;
}

static bool granted(contender *c)
{
    uint64_t now = bench_wall(), gap = now - c->last;
    if (gap > c->all->of[c->number].longest)
        c->all->of[c->number].longest = gap;
    c->last = now;
    c->all->of[c->number].grants++;
    return now < c->until;
}

/* ------------------------------------------------------------------------------------------------------------ ours */

static void on_grant(aflock *lock, const aflock_result *result, void *user)
{
    contender *c = user;
    bench_check(result->status, "acquire");
    bool again = granted(c);
    bench_check(aflock_release(lock, result->req, NULL, NULL), "aflock_release");
    if (again)
        bench_check(aflock_acquire(lock, NULL, on_grant, c, NULL), "aflock_acquire");
}

static void contend(contender *c)
{
    bench_check(aflock_epoll_new(&c->ctx, NULL), "aflock_epoll_new");
    bench_check(aflock_open(&c->lock, c->ctx, bench_file(0), NULL), "aflock_open");
    for (unsigned i = 0; i < c->depth; i++)
        bench_check(aflock_acquire(c->lock, NULL, on_grant, c, NULL), "aflock_acquire");
    bench_check(aflock_epoll_run(c->ctx), "aflock_epoll_run");
}

/* ---------------------------------------------------------------------------------------------------------- theirs */

static void contend_raw(contender *c)
{
    bench_raw raw;
    bench_raw_open(&raw);
    for (bool again = true; again;) {
        int fd = bench_raw_lock(&raw, bench_file(0));
        again = granted(c);
        bench_raw_unlock(&raw, fd);
    }
    bench_raw_close(&raw);
}

/* As flock(1) does, without starting a command. */
static void contend_blocked(contender *c)
{
    for (bool again = true; again;) {
        int fd = bench_hold_file();
        again = granted(c);
        close(fd);
    }
}

/* Python starts before the others do, and says when it is there. */
static const char PYTHON[] = "import os, sys, time, filelock\n"
                             "lock = filelock.FileLock(sys.argv[1])\n"
                             "print(flush=True)\n"
                             "sys.stdin.readline()\n"
                             "until = time.monotonic() + float(sys.argv[2])\n"
                             "grants = 0\n"
                             "while time.monotonic() < until:\n"
                             "    with lock:\n"
                             "        grants += 1\n"
                             "print(grants, flush=True)\n";

static void start_python(contender *c)
{
    char seconds[32], byte;
    int in[2] = {-1, -1}, out[2] = {-1, -1};
    snprintf(seconds, sizeof seconds, "%.3f", (double)c->duration / 1e9);
    bench_check_errno(pipe2(in, O_CLOEXEC) == 0 && pipe2(out, O_CLOEXEC) == 0, "pipe");
    pid_t pid = fork();
    bench_check_errno(pid >= 0, "fork");
    if (pid == 0) {
        dup2(in[0], STDIN_FILENO);
        dup2(out[1], STDOUT_FILENO);
        bench_choose_filelock();
        execl("/usr/bin/python3", "python3", "-c", PYTHON, bench_file(0), seconds, (char *)NULL);
        _exit(127);
    }
    close(in[0]);
    close(out[1]);
    bench_check_errno(read(out[0], &byte, 1) == 1, "Python");
    c->to = in[1];
    c->from = out[0];
}

static void contend_python(contender *c)
{
    char line[32] = "";
    bench_check_errno(write(c->to, "\n", 1) == 1, "Python");
    bench_check_errno(read(c->from, line, sizeof line - 1) > 0, "Python");
    c->all->of[c->number].grants = strtoull(line, NULL, 10);
}

/* ------------------------------------------------------------------------------------------------------ a competition
 */

/* `count` processes for so long. */
static void compete(scores *all, unsigned count, unsigned depth, uint64_t duration, void (*how)(contender *c))
{
    pid_t pids[MOST];
    memset(all, 0, sizeof *all);
    for (unsigned i = 0; i < count; i++) {
        pids[i] = fork();
        bench_check_errno(pids[i] >= 0, "fork");
        if (pids[i] != 0)
            continue;
        contender c = {.all = all, .number = i, .depth = depth, .duration = duration};
        if (how == contend_python)
            start_python(&c);
        atomic_fetch_add(&all->started, 1);
        while (!atomic_load(&all->go))
            poll(NULL, 0, 1);
        c.last = bench_wall();
        c.until = c.last + duration;
        how(&c);
        _exit(0);
    }
    while (atomic_load(&all->started) < (int)count)
        poll(NULL, 0, 1);
    atomic_store(&all->go, 1);
    for (unsigned i = 0; i < count; i++) {
        int status;
        waitpid(pids[i], &status, 0);
        if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
            bench_check(AFLOCK_EPROTO, "a contending process");
    }
}

/* --------------------------------------------------------------------------------------------------------- greedy ones
 */

static void greedy(scores *all, unsigned count, double most)
{
    static char what[6][80];
    static unsigned used;
    bench_line share = {.row = "greedy", .unit = "%", .bar = most, .judged = true, .blocks = bench.blocks};
    bench_line least = {.row = "greedy", .unit = "x", .judged = true, .blocks = bench.blocks};
    bench_line wait = {.row = "greedy", .unit = "ms", .bar = 50, .judged = count == 2, .blocks = bench.blocks};
    double largest[MAX_BLOCKS], smallest[MAX_BLOCKS], longest[MAX_BLOCKS];
    for (size_t b = 0; b < bench.blocks; b++) {
        compete(all, count, DEPTH, (bench.quick ? 1 : 10) * AFLOCK_SECOND, contend);
        uint64_t total = 0, high = 0, low = UINT64_MAX, gap = 0;
        for (unsigned i = 0; i < count; i++) {
            uint64_t grants = all->of[i].grants;
            total += grants;
            high = grants > high ? grants : high;
            low = grants < low ? grants : low;
            gap = all->of[i].longest > gap ? all->of[i].longest : gap;
        }
        largest[b] = share.ratio[b] = 100. * (double)high / (double)total;
        smallest[b] = least.ratio[b] = (double)total / count / (double)low;
        longest[b] = wait.ratio[b] = (double)gap / 1e6;
    }
    share.ours = bench_median(largest, bench.blocks);
    least.ours = bench_median(smallest, bench.blocks);
    least.bar = 1 / (count * (2. / count - most / 100)); /* the bars are as far below the fair share as above it */
    wait.ours = bench_median(longest, bench.blocks);
    bench_line *const lines[] = {&share, &least, &wait};
    static const char *const texts[] = {"%u greedy processes: largest share of the grants",
                                        "%u greedy processes: fair share, over the smallest",
                                        "%u greedy processes: longest wait"};
    for (size_t i = 0; i < 3; i++) {
        snprintf(what[used], sizeof what[used], texts[i], count);
        lines[i]->what = what[used++];
        bench_add(lines[i]);
    }
}

void row_greedy(void)
{
    scores *all = share_scores();
    greedy(all, 2, 60);
    greedy(all, 4, 32);
    munmap(all, sizeof *all);
}

/* ------------------------------------------------------------------------------------------------------ many of them
 */

enum { SIDES = 4 };

typedef struct crowd {
    scores *all;
    unsigned count;
    uint64_t fewest[SIDES]; /* grants of one process */
} crowd;

typedef struct rival {
    const char *name;
    void (*how)(contender *c);
} rival;

static const rival RIVALS[SIDES] = {{"aflock", contend},
                                    {"raw inotify waiters", contend_raw},
                                    {"blocked in flock", contend_blocked},
                                    {"py-filelock", contend_python}};

/* ns a grant */
static double measure(crowd *c, size_t side)
{
    uint64_t duration = AFLOCK_SECOND / (bench.quick ? 4 : 1), total = 0;
    compete(c->all, c->count, 1, duration, RIVALS[side].how);
    for (unsigned i = 0; i < c->count; i++) {
        total += c->all->of[i].grants;
        if (c->all->of[i].grants < c->fewest[side])
            c->fewest[side] = c->all->of[i].grants;
    }
    return (double)duration / (double)total;
}

static double ours_slice(void *state)
{
    return measure(state, 0);
}

static double raw_slice(void *state)
{
    return measure(state, 1);
}

static double blocked_slice(void *state)
{
    return measure(state, 2);
}

static double python_slice(void *state)
{
    return measure(state, 3);
}

static bool has_filelock(void)
{
    int status;
    pid_t pid = fork();
    bench_check_errno(pid >= 0, "fork");
    if (pid == 0) {
        fclose(stderr);
        bench_choose_filelock();
        execl("/usr/bin/python3", "python3", "-c", "import filelock", (char *)NULL);
        _exit(127);
    }
    return waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

/* What a profile of both sides says. Fewer follow-ups of changes that were in vain (16 and 8 at once instead of 64)
 * change nothing that can be told from noise. */
static const char CROWD[] =
    "more than half of both sides is the kernel telling 99 listeners of each close; of the rest, "
    "waking in vain is dearer in a loop (epoll, inotify and timer descriptors) than in poll(2)";

/* One count against one kind of others. */
static void confront(scores *all, unsigned count, size_t side)
{
    static const bench_slice SLICES[SIDES] = {ours_slice, raw_slice, blocked_slice, python_slice};
    enum { LINES = 16 };
    static char what[LINES][64];
    static size_t used;
    crowd c = {.all = all, .count = count};
    for (size_t i = 0; i < SIDES; i++)
        c.fewest[i] = UINT64_MAX;
    bench_check(used + 2 <= LINES ? 0 : AFLOCK_EINVAL, "too many lines");
    snprintf(what[used], sizeof what[0], "%u processes contend: time for a grant", count);
    snprintf(what[used + 1], sizeof what[0], "%u processes contend: fewest grants of one", count);
    bench_compare(&(bench_line){.row = "contend",
                                .what = what[used],
                                .against = RIVALS[side].name,
                                .unit = "ns",
                                .bar = 1 / 0.9,
                                .judged = side == 1 && count == 100,
                                .why = side == 1 && count == 100 ? CROWD : NULL},
                  ours_slice, SLICES[side], &c);
    bench_add(&(bench_line){.row = "contend",
                            .what = what[used + 1],
                            .against = RIVALS[side].name,
                            .unit = "grants",
                            .ours = (double)c.fewest[0],
                            .theirs = (double)c.fewest[side],
                            .bar = 1, /* nobody starves */
                            .judged = true,
                            .absolute = true,
                            .at_least = true});
    used += 2;
}

void row_contend(void)
{
    static const unsigned COUNTS[] = {1, 2, 10, 100};
    scores *all = share_scores();
    bench_settings usual = bench;
    bool python = has_filelock();
    bench.slices = 1;
    for (size_t i = 0; i < sizeof COUNTS / sizeof *COUNTS; i++) {
        confront(all, COUNTS[i], 1);
        if (COUNTS[i] != 2 && COUNTS[i] != 10)
            continue;
        confront(all, COUNTS[i], 2);
        if (python)
            confront(all, COUNTS[i], 3);
    }
    if (!python)
        bench_skip("contend", "there is no python3-filelock");
    bench = usual;
    munmap(all, sizeof *all);
}
