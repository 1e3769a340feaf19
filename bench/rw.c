/* Readers and writers: a cycle on SQLite's lock bytes against the raw calls, and a crowd of both in one context. */
#include "bench.h"

#include <aflock/epoll.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { CYCLES = 500, READERS = 16, ROUNDS = 200 };
enum { PENDING = 0x40000000, RANGE = PENDING + 2, RANGE_BYTES = 510, HEAD = 20 }; /* SQLite's */

typedef struct cycle {
    aflock_ctx *ctx;
    aflock *lock;
    aflock_acquire_options request;
    size_t left;
    int fd; /* of the raw calls, where the file stays open; or -1 */
    char path[256];
} cycle;

/* -------------------------------------------------------------------------------------------------- the raw calls */

static void bytes(int fd, short type, off_t start, off_t length)
{
    struct flock range = {.l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = length};
    bench_check_errno(fcntl(fd, F_OFD_SETLK, &range) == 0, "fcntl");
}

/* As SQLite takes them; the claim in one call, as its two bytes stand beside each other. */
static void raw_lock(int fd, aflock_mode mode)
{
    if (mode == AFLOCK_SHARED) {
        bytes(fd, F_RDLCK, PENDING, 1);
        bytes(fd, F_RDLCK, RANGE, RANGE_BYTES);
        bytes(fd, F_UNLCK, PENDING, 1);
    } else {
        bytes(fd, F_WRLCK, PENDING, RANGE - PENDING);
        bytes(fd, F_WRLCK, RANGE, RANGE_BYTES);
    }
}

static void raw_check(const cycle *c, int fd, const struct stat *mine)
{
    struct stat there;
    char head[HEAD];
    bench_check_errno(stat(c->path, &there) == 0, "stat");
    bench_check_errno(mine->st_ino == there.st_ino && mine->st_dev == there.st_dev, "the same file");
    bench_check_errno(pread(fd, head, sizeof head, 0) == 0, "pread");
}

static void raw_unlock(int fd)
{
    bytes(fd, F_UNLCK, PENDING, RANGE + RANGE_BYTES - PENDING);
}

static double raw_slice(void *state)
{
    const cycle *c = state;
    uint64_t start = bench_cpu();
    for (size_t i = 0; i < CYCLES; i++) {
        struct stat mine;
        int fd = open(c->path, O_RDWR | O_CLOEXEC);
        bench_check_errno(fd >= 0, "open");
        raw_lock(fd, c->request.mode);
        bench_check_errno(fstat(fd, &mine) == 0, "fstat");
        raw_check(c, fd, &mine);
        raw_unlock(fd);
        bench_check_errno(close(fd) == 0, "close");
    }
    return (double)(bench_cpu() - start) / CYCLES;
}

static double raw_kept_slice(void *state)
{
    const cycle *c = state;
    struct stat mine;
    bench_check_errno(fstat(c->fd, &mine) == 0, "fstat");
    uint64_t start = bench_cpu();
    for (size_t i = 0; i < CYCLES; i++) {
        raw_lock(c->fd, c->request.mode);
        raw_check(c, c->fd, &mine);
        raw_unlock(c->fd);
        bench_check_errno(futimens(c->fd, NULL) == 0, "futimens");
    }
    return (double)(bench_cpu() - start) / CYCLES;
}

/* ----------------------------------------------------------------------------------------------------- the library */

static void on_lock(aflock *lock, const aflock_result *result, void *user)
{
    cycle *c = user;
    bench_check(result->status, "acquire");
    bench_check(aflock_release(lock, result->req, NULL, NULL), "aflock_release");
    if (--c->left > 0)
        bench_check(aflock_acquire(lock, &c->request, on_lock, c, NULL), "aflock_acquire");
}

static void acquire_cycles(cycle *c, size_t count)
{
    c->left = count;
    bench_check(aflock_acquire(c->lock, &c->request, on_lock, c, NULL), "aflock_acquire");
    bench_check(aflock_epoll_run(c->ctx), "aflock_epoll_run");
}

static double acquire_slice(void *state)
{
    uint64_t start = bench_cpu();
    acquire_cycles(state, CYCLES);
    return (double)(bench_cpu() - start) / CYCLES;
}

static void begin(cycle *c, aflock_mode mode, bool keep)
{
    aflock_options o;
    aflock_options_init(&o);
    o.protocol = AFLOCK_RW;
    o.keep_open = keep;
    *c = (cycle){.fd = -1};
    aflock_acquire_options_init(&c->request);
    c->request.mode = mode;
    snprintf(c->path, sizeof c->path, "%s", bench_file(0));
    unlink(c->path);
    bench_check(aflock_epoll_new(&c->ctx, NULL), "aflock_epoll_new");
    bench_check(aflock_open(&c->lock, c->ctx, c->path, &o), "aflock_open");
    acquire_cycles(c, 100); /* the file is there, the path is resolved */
    if (keep)
        c->fd = open(c->path, O_RDWR | O_CLOEXEC);
    bench_check_errno(!keep || c->fd >= 0, "open");
}

static void end(const cycle *c)
{
    if (c->fd >= 0)
        close(c->fd);
    bench_check(aflock_close(c->lock), "aflock_close");
    bench_check(aflock_ctx_free(c->ctx, AFLOCK_SECOND), "aflock_ctx_free");
}

void row_rw(void)
{
    static const struct kind {
        aflock_mode mode;
        bool keep;
        const char *what, *against;
    } KINDS[] = {
        {AFLOCK_SHARED, false, "a reader's acquire, callback, release", "open 3x fcntl fstat stat pread fcntl close"},
        {AFLOCK_EXCLUSIVE, false, "a writer's acquire, callback, release",
         "open 2x fcntl fstat stat pread fcntl close"},
        {AFLOCK_SHARED, true, "a reader's, the file kept open", "3x fcntl stat pread fcntl futimens"},
        {AFLOCK_EXCLUSIVE, true, "a writer's, the file kept open", "2x fcntl stat pread fcntl futimens"},
    };
    bench_pin();
    for (size_t i = 0; i < sizeof KINDS / sizeof KINDS[0]; i++) {
        cycle c;
        begin(&c, KINDS[i].mode, KINDS[i].keep);
        bench_compare(&(bench_line){.row = "rw",
                                    .what = KINDS[i].what,
                                    .against = KINDS[i].against,
                                    .unit = "ns",
                                    .bar = 1.5,
                                    .judged = true},
                      acquire_slice, KINDS[i].keep ? raw_kept_slice : raw_slice, &c);
        end(&c);
    }
    bench_unpin();
}

/* --------------------------------------------------------------------------------------------- readers and a writer */

typedef struct crowd crowd;

/* One of the crowd, who asks again as soon as it has had the lock. */
typedef struct member {
    crowd *of;
    aflock_acquire_options request;
} member;

struct crowd {
    cycle c;
    member members[READERS + 1];
    size_t grants, wanted;
};

static void on_turn(aflock *lock, const aflock_result *result, void *user)
{
    member *m = user;
    bench_check(result->status, "acquire");
    m->of->grants++;
    bench_check(aflock_release(lock, result->req, NULL, NULL), "aflock_release");
    if (m->of->grants + READERS < m->of->wanted)
        bench_check(aflock_acquire(lock, &m->request, on_turn, m, NULL), "aflock_acquire");
}

static double crowd_slice(void *state)
{
    crowd *w = state;
    w->grants = 0;
    w->wanted = ROUNDS * (READERS + 1);
    uint64_t start = bench_wall();
    for (size_t i = 0; i <= READERS; i++) {
        w->members[i] = (member){.of = w, .request = w->c.request};
        w->members[i].request.mode = i == READERS ? AFLOCK_EXCLUSIVE : AFLOCK_SHARED;
        bench_check(aflock_acquire(w->c.lock, &w->members[i].request, on_turn, &w->members[i], NULL), "aflock_acquire");
    }
    bench_check(aflock_epoll_run(w->c.ctx), "aflock_epoll_run");
    return (double)(bench_wall() - start) / (double)w->grants;
}

static double alone_slice(void *state)
{
    const crowd *w = state;
    uint64_t start = bench_wall();
    for (size_t i = 0; i < CYCLES; i++) {
        aflock_req req;
        int status;
        do
            status = aflock_try(w->c.lock, &w->c.request, &req, NULL);
        while (status == AFLOCK_ENOTINLINE || status == AFLOCK_EWOULDBLOCK); /* a pause after the crowd */
        bench_check(status, "aflock_try");
        bench_check(aflock_release(w->c.lock, req, NULL, NULL), "aflock_release");
    }
    return (double)(bench_wall() - start) / CYCLES;
}

/* At least half as many grants a second as one alone gets, whose calls nobody shares. */
void row_rw_crowd(void)
{
    static crowd w;
    bench_pin();
    begin(&w.c, AFLOCK_EXCLUSIVE, false);
    bench_compare(&(bench_line){.row = "rw-crowd",
                                .what = "a grant among 16 readers and a writer of a context",
                                .against = "aflock_try, release, of one who is alone",
                                .unit = "ns",
                                .bar = 2,
                                .judged = true},
                  crowd_slice, alone_slice, &w);
    end(&w.c);
    bench_unpin();
}
