/* A hundred thousand locks in one context: what one costs, and whether it is found again as quickly as the kernel finds
 * its file. The files are taken in a random order; each slice draws its own, so that no side finds what the other one
 * has just used in the processor's cache. */
#include "bench.h"

#include <aflock/epoll.h>

#include <fcntl.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MANY = 100000, FEW = 10000, CYCLES = 500, A_FOLDER = 1000 };

typedef struct crowd {
    size_t count, left;
    aflock_ctx *ctx;
    aflock **locks;
    uint32_t dice;
} crowd;

static const char *name(size_t number)
{
    static char path[256];
    snprintf(path, sizeof path, "%s/%zu/%zu.lock", bench_directory, number / A_FOLDER, number % A_FOLDER);
    return path;
}

static const char *folder(size_t number)
{
    static char path[256];
    snprintf(path, sizeof path, "%s/%zu", bench_directory, number);
    return path;
}

static size_t draw(crowd *c)
{
    c->dice ^= c->dice << 13;
    c->dice ^= c->dice >> 17;
    c->dice ^= c->dice << 5;
    return c->dice % c->count;
}

/* ------------------------------------------------------------------------------------------------------- the two sides
 */

static void on_lock(aflock *lock, const aflock_result *result, void *user)
{
    crowd *c = user;
    bench_check(result->status, "acquire");
    bench_check(aflock_release(lock, result->req, NULL, NULL), "aflock_release");
    if (--c->left > 0)
        bench_check(aflock_acquire(c->locks[draw(c)], NULL, on_lock, c, NULL), "aflock_acquire");
}

static double ours_slice(void *state)
{
    crowd *c = state;
    uint64_t start = bench_cpu();
    c->left = CYCLES;
    bench_check(aflock_acquire(c->locks[draw(c)], NULL, on_lock, c, NULL), "aflock_acquire");
    bench_check(aflock_epoll_run(c->ctx), "aflock_epoll_run");
    return (double)(bench_cpu() - start) / CYCLES;
}

static double raw_slice(void *state)
{
    crowd *c = state;
    uint64_t start = bench_cpu();
    for (size_t i = 0; i < CYCLES; i++) {
        struct stat mine, there;
        const char *path = aflock_path(c->locks[draw(c)]); /* one text for both */
        int fd = open(path, O_RDWR | O_CLOEXEC);
        bench_check_errno(fd >= 0, "open");
        bench_check_errno(flock(fd, LOCK_EX | LOCK_NB) == 0, "flock");
        bench_check_errno(fstat(fd, &mine) == 0, "fstat");
        bench_check_errno(stat(path, &there) == 0, "stat");
        bench_check_errno(mine.st_ino == there.st_ino && mine.st_dev == there.st_dev, "the same file");
        bench_check_errno(flock(fd, LOCK_UN) == 0, "flock");
        bench_check_errno(close(fd) == 0, "close");
    }
    return (double)(bench_cpu() - start) / CYCLES;
}

/* --------------------------------------------------------------------------------------------------------- the row */

static void make_files(size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (i % A_FOLDER == 0)
            bench_check_errno(mkdir(folder(i / A_FOLDER), 0777) == 0, "mkdir");
        int fd = open(name(i), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
        bench_check_errno(fd >= 0, "open");
        close(fd);
    }
}

static void remove_files(size_t count)
{
    for (size_t i = 0; i < count; i++)
        unlink(name(i));
    for (size_t i = 0; i < count; i += A_FOLDER)
        rmdir(folder(i / A_FOLDER));
}

static size_t allocated(void)
{
    struct mallinfo2 info = mallinfo2();
    return info.uordblks + info.hblkhd;
}

static void on_first(aflock *lock, const aflock_result *result, void *user)
{
    (void)user;
    bench_check(result->status, "acquire");
    bench_check(aflock_release(lock, result->req, NULL, NULL), "aflock_release");
}

/* Each has been used once: its path is resolved. */
static void open_all(crowd *c)
{
    bench_check(aflock_epoll_new(&c->ctx, NULL), "aflock_epoll_new");
    for (size_t i = 0; i < c->count; i++) {
        bench_check(aflock_open(&c->locks[i], c->ctx, name(i), NULL), "aflock_open");
        bench_check(aflock_acquire(c->locks[i], NULL, on_first, NULL, NULL), "aflock_acquire");
        if (i % 64 == 63 || i + 1 == c->count)
            bench_check(aflock_epoll_run(c->ctx), "aflock_epoll_run");
    }
}

static void measure(size_t count, const char *cycles, const char *memory, double bar)
{
    crowd c = {.count = count, .dice = 2463534242u};
    c.locks = calloc(count, sizeof *c.locks);
    bench_check_errno(c.locks != NULL, "calloc");
    make_files(count);
    size_t before = allocated();
    open_all(&c);
    bench_add(&(bench_line){
        .row = "many", .what = memory, .unit = "bytes", .ours = (double)(allocated() - before) / (double)count});
    bench_pin();
    bench_compare(&(bench_line){.row = "many",
                                .what = cycles,
                                .against = "open flock fstat stat unlock close",
                                .unit = "ns",
                                .bar = bar,
                                .judged = bar > 0},
                  ours_slice, raw_slice, &c);
    bench_unpin();
    bench_check(aflock_ctx_free(c.ctx, AFLOCK_SECOND), "aflock_ctx_free");
    free(c.locks);
    remove_files(count);
    malloc_trim(0); /* what is forked later is small again */
}

void row_many(void)
{
    measure(FEW, "10,000 locks open: acquire, callback, release of any", "10,000 locks open: memory of one", 0);
    measure(MANY, "100,000 locks open: acquire, callback, release of any", "100,000 locks open: memory of one", 1.5);
}
