/* Many processes that want one lock: how often it changes hands, and whether everybody gets it.
 *
 * Greedy ones have a deep queue and never stop asking: what matters is the share of each, and how long it waits. The
 * others ask again as soon as they have given up what they had; they are compared with processes that do the same with
 * the raw calls, listen with inotify, and try again after an event as we do. */
#include "bench.h"

#include <aflock/epoll.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/stat.h>
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
    uint64_t until, last;
    aflock_ctx *ctx;
    aflock *lock;
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

static bool names_this(int fd, const char *path)
{
    struct stat mine, there;
    return fstat(fd, &mine) == 0 && stat(path, &there) == 0 && mine.st_ino == there.st_ino &&
           mine.st_dev == there.st_dev;
}

/* Waits for an event; whether the lock is ours after one of the tries that follow it. */
static bool listen_and_try(int queue, int fd)
{
    static const long LADDER[] = {0, 20, 50, 100, 500, 2000}; /* us */
    char events[4096];
    struct pollfd ready = {.fd = queue, .events = POLLIN};
    poll(&ready, 1, 50);
    while (read(queue, events, sizeof events) > 0) {
    }
    for (size_t i = 0; i < sizeof LADDER / sizeof *LADDER; i++) {
        struct timespec time = {.tv_nsec = LADDER[i] * 1000};
        if (LADDER[i] > 0)
            ppoll(&ready, 1, &time, NULL); /* an event ends it: the ladder begins again */
        if (flock(fd, LOCK_EX | LOCK_NB) == 0)
            return true;
        if (LADDER[i] > 0 && poll(&ready, 1, 0) > 0)
            return false;
    }
    return false;
}

static void contend_raw(contender *c)
{
    char path[256];
    snprintf(path, sizeof path, "%s", bench_file(0));
    int queue = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    bench_check_errno(queue >= 0, "inotify_init1");
    bool again = true;
    while (again) {
        int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
        bench_check_errno(fd >= 0, "open");
        if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
            int watch = inotify_add_watch(queue, path, IN_CLOSE | IN_ATTRIB | IN_MOVE_SELF | IN_DELETE_SELF);
            if (flock(fd, LOCK_EX | LOCK_NB) != 0)
                while (!listen_and_try(queue, fd)) {
                }
            inotify_rm_watch(queue, watch);
        }
        bench_check_errno(names_this(fd, path), "the same file");
        again = granted(c);
        flock(fd, LOCK_UN);
        close(fd);
    }
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
        atomic_fetch_add(&all->started, 1);
        while (!atomic_load(&all->go))
            poll(NULL, 0, 1);
        contender c = {.all = all, .number = i, .depth = depth, .last = bench_wall()};
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
    bench_line wait = {.row = "greedy", .unit = "ms", .bar = 50, .judged = true, .blocks = bench.blocks};
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

typedef struct crowd {
    scores *all;
    unsigned count;
    uint64_t fewest; /* grants of one process */
} crowd;

/* ns a grant */
static double measure(crowd *c, void (*how)(contender *c), uint64_t *fewest)
{
    uint64_t duration = AFLOCK_SECOND / (bench.quick ? 4 : 1), total = 0;
    compete(c->all, c->count, 1, duration, how);
    for (unsigned i = 0; i < c->count; i++) {
        total += c->all->of[i].grants;
        if (c->all->of[i].grants < *fewest)
            *fewest = c->all->of[i].grants;
    }
    return (double)duration / (double)total;
}

static double crowd_ours(void *state)
{
    crowd *c = state;
    return measure(c, contend, &c->fewest);
}

static double crowd_raw(void *state)
{
    uint64_t fewest = UINT64_MAX;
    return measure(state, contend_raw, &fewest);
}

void row_contend(void)
{
    static const unsigned COUNTS[] = {1, 2, 10, 100};
    static char what[2 * sizeof COUNTS / sizeof *COUNTS][80];
    scores *all = share_scores();
    bench_settings usual = bench;
    bench.slices = 1;
    for (size_t i = 0; i < sizeof COUNTS / sizeof *COUNTS; i++) {
        crowd c = {.all = all, .count = COUNTS[i], .fewest = UINT64_MAX};
        snprintf(what[2 * i], sizeof what[0], "%u processes contend: time for a grant", COUNTS[i]);
        snprintf(what[2 * i + 1], sizeof what[0], "%u processes contend: fewest grants of one", COUNTS[i]);
        bench_compare(&(bench_line){.row = "contend",
                                    .what = what[2 * i],
                                    .against = "raw inotify waiters",
                                    .unit = "ns",
                                    .bar = 1 / 0.9,
                                    .judged = COUNTS[i] == 100},
                      crowd_ours, crowd_raw, &c);
        bench_add(&(bench_line){.row = "contend", .what = what[2 * i + 1], .unit = "grants", .ours = (double)c.fewest});
    }
    bench = usual;
    munmap(all, sizeof *all);
}
