/* Markers and claims: a cycle of taking and giving back, and what a crowd behind a marker costs.
 *
 * The raw side of a cycle does what the protocol and its promises demand, by the cheapest calls that there are: a
 * marker is complete before it has its name (the line below: without that promise), a strict lock goes through the
 * whole doorway. It knows who it is, and keeps nothing in mind.
 */
#include "bench.h"

#include "runtime/runtime.h"

#include <aflock/epoll.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { CYCLES = 200, WAITERS = 60, SETTLE = 1, SECONDS = 4, QUICK_SECONDS = 1 };

typedef struct cycle {
    aflock_ctx *ctx;
    aflock *lock;
    size_t left;
    char path[256], record[512];
    char *token; /* in the record: another one each time; NULL: there is none */
} cycle;

static aflock_options marker_options(aflock_protocol protocol)
{
    aflock_options o;
    aflock_options_init(&o);
    o.protocol = protocol;
    o.io = AFLOCK_IO_INLINE;
    return o;
}

/* --------------------------------------------------------------------------------------------------------- the cycle
 */

static void on_lock(aflock *lock, const aflock_result *result, void *user)
{
    cycle *c = user;
    bench_check(result->status, "acquire");
    bench_check(aflock_release(lock, result->req, NULL, NULL), "aflock_release");
    if (--c->left > 0)
        bench_check(aflock_acquire(lock, NULL, on_lock, c, NULL), "aflock_acquire");
}

static void acquire_cycles(cycle *c, size_t count)
{
    c->left = count;
    bench_check(aflock_acquire(c->lock, NULL, on_lock, c, NULL), "aflock_acquire");
    bench_check(aflock_epoll_run(c->ctx), "aflock_epoll_run");
}

static double our_slice(void *state)
{
    uint64_t start = bench_cpu();
    acquire_cycles(state, CYCLES);
    return (double)(bench_cpu() - start) / CYCLES;
}

/* Nothing else may be at the path. */
static void raw_look(const cycle *c)
{
    struct stat there;
    uint64_t dice[2];
    char digits[33];
    if (c->token) {
        bench_check_errno(getrandom(dice, sizeof dice, 0) == sizeof dice, "getrandom");
        snprintf(digits, sizeof digits, "%016" PRIx64 "%016" PRIx64, dice[0], dice[1]);
        memcpy(c->token, digits, 32);
    }
    bench_check_errno(lstat(c->path, &there) != 0 && errno == ENOENT, "lstat");
}

/* Closed while it has its name, and unlinked if it is still ours. */
static void raw_release(const cycle *c, int fd, const struct stat *mine)
{
    struct stat there;
    bench_check_errno(lstat(c->path, &there) == 0, "lstat");
    bench_check_errno(mine->st_ino == there.st_ino && mine->st_dev == there.st_dev, "the same file");
    bench_check_errno(close(fd) == 0, "close");
    bench_check_errno(unlink(c->path) == 0, "unlink");
}

/* Complete before it is to be seen. */
static void raw_cycle(const cycle *c)
{
    struct stat mine;
    char unnamed[64];
    size_t size = strlen(c->record);
    raw_look(c);
    int fd = open(bench_directory, O_TMPFILE | O_WRONLY | O_CLOEXEC, 0666);
    bench_check_errno(fd >= 0, "open");
    bench_check_errno(fstat(fd, &mine) == 0, "fstat");
    bench_check_errno(write(fd, c->record, size) == (ssize_t)size, "write");
    snprintf(unnamed, sizeof unnamed, "/proc/self/fd/%d", fd);
    bench_check_errno(linkat(AT_FDCWD, unnamed, AT_FDCWD, c->path, AT_SYMLINK_FOLLOW) == 0, "linkat");
    raw_release(c, fd, &mine);
}

/* As the peer does: who is killed on the way leaves an empty marker. */
static void raw_created_cycle(const cycle *c)
{
    struct stat mine;
    size_t size = strlen(c->record);
    raw_look(c);
    int fd = open(c->path, O_CREAT | O_EXCL | O_NOFOLLOW | O_WRONLY | O_CLOEXEC, 0666);
    bench_check_errno(fd >= 0, "open");
    bench_check_errno(fstat(fd, &mine) == 0, "fstat");
    bench_check_errno(write(fd, c->record, size) == (ssize_t)size, "write");
    raw_release(c, fd, &mine);
}

static double raw_created_slice(void *state)
{
    uint64_t start = bench_cpu();
    for (size_t i = 0; i < CYCLES; i++)
        raw_created_cycle(state);
    return (double)(bench_cpu() - start) / CYCLES;
}

static double raw_slice(void *state)
{
    uint64_t start = bench_cpu();
    for (size_t i = 0; i < CYCLES; i++)
        raw_cycle(state);
    return (double)(bench_cpu() - start) / CYCLES;
}

static void cycle_open(cycle *c, aflock_protocol protocol)
{
    const aflock_options o = marker_options(protocol);
    bench_pin();
    snprintf(c->path, sizeof c->path, "%s", bench_file(0));
    unlink(c->path);
    bench_check(aflock_epoll_new(&c->ctx, NULL), "aflock_epoll_new");
    bench_check(aflock_open(&c->lock, c->ctx, c->path, &o), "aflock_open");
    acquire_cycles(c, 100);
}

static void cycle_close(const cycle *c)
{
    bench_check(aflock_close(c->lock), "aflock_close");
    bench_check(aflock_ctx_free(c->ctx, AFLOCK_SECOND), "aflock_ctx_free");
    bench_unpin();
    unlink(c->path);
}

static void compare_cycles(aflock_protocol protocol, const char *what, const char *record)
{
    cycle c = {.left = 0};
    cycle_open(&c, protocol);
    snprintf(c.record, sizeof c.record, "%s", record);
    c.token = strstr(c.record, "token=");
    if (c.token)
        c.token += strlen("token=");
    bench_compare(&(bench_line){.row = "soft",
                                .what = what,
                                .against = "lstat tmpfile fstat write link lstat close unlink",
                                .unit = "ns",
                                .bar = 1.3,
                                .judged = true},
                  our_slice, raw_slice, &c);
    bench_compare(&(bench_line){.row = "soft",
                                .what = what,
                                .against = "the same, created and then written: a kill may leave it empty",
                                .unit = "ns"},
                  our_slice, raw_created_slice, &c);
    cycle_close(&c);
}

void row_soft(void)
{
    char record[512];
    snprintf(record, sizeof record, "%ld\nhost\n%032d\n", (long)getpid(), 1);
    compare_cycles(AFLOCK_SOFT, "acquire, callback, release of a soft lock (inline)", record);
    snprintf(record, sizeof record,
             "filelock/2\npid=%ld\nhost=host\nmode=lease\ntoken=%032d\nduration=30\nstart=%055d\n", (long)getpid(), 1,
             1);
    compare_cycles(AFLOCK_LEASE, "acquire, callback, release of a lease (inline)", record);
}

/* --------------------------------------------------------------------------------------------------- strict locks */

#define CLAIM "-v1-00000000000000000000000000000000.claim"
enum { SENTINEL_SIZE = 24 };
static const char SENTINEL[SENTINEL_SIZE + 1] = "1\nfilelock-strict-v1\0\n0\n", INTENT[] = "intent" CLAIM,
                                           HELD[] = "held" CLAIM;

/* A directory or a file that must be a real one. */
static int raw_open(int dir, const char *name, int flags)
{
    int fd = openat(dir, name, flags | O_NOFOLLOW | O_CLOEXEC);
    bench_check_errno(fd >= 0, name);
    return fd;
}

/* Looked at before it is opened: opening what is no file may do anything. */
static void raw_read(int dir, const char *name, const void *expected, size_t size)
{
    struct stat seen, st;
    char text[1025];
    bench_check_errno(fstatat(dir, name, &seen, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(seen.st_mode), "fstatat");
    int fd = raw_open(dir, name, O_RDONLY | O_NONBLOCK | O_NOCTTY);
    bench_check_errno(fstat(fd, &st) == 0 && st.st_ino == seen.st_ino, "fstat");
    bench_check_errno(read(fd, text, sizeof text) == (ssize_t)size, "read");
    bench_check_errno(memcmp(text, expected, size) == 0, "what it says");
    close(fd);
}

/* Which claims are there; each is read, as one that says anything else must not be passed over. */
static void raw_list(const cycle *c, int claims, size_t expected)
{
    _Alignas(uint64_t) char buffer[4096];
    size_t found = 0;
    bench_check_errno(lseek(claims, 0, SEEK_SET) == 0, "lseek");
    for (ssize_t size; (size = getdents64(claims, buffer, sizeof buffer)) > 0;) {
        for (ssize_t at = 0; at < size;) {
            const struct dirent64 *entry = (const void *)(buffer + at);
            at += entry->d_reclen;
            if (entry->d_name[0] == '.')
                continue;
            raw_read(claims, entry->d_name, c->record, strlen(c->record));
            found++;
        }
    }
    bench_check_errno(found == expected, "the claims");
}

static void raw_link(int claims, const char *from, const char *to, const struct stat *made)
{
    struct stat there;
    bench_check_errno(linkat(claims, from, claims, to, 0) == 0, "linkat");
    bench_check_errno(fstatat(claims, to, &there, AT_SYMLINK_NOFOLLOW) == 0 && there.st_ino == made->st_ino, "fstatat");
}

/* Under a private name first, so that nobody sees half of it. */
static void raw_publish(const cycle *c, int claims, struct stat *made)
{
    static const char PRIVATE[] = ".intent" CLAIM ".private-v1-00000000000000000000000000000000.tmp";
    const size_t size = strlen(c->record);
    int fd = openat(claims, PRIVATE, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666);
    bench_check_errno(fd >= 0, "open");
    bench_check_errno(write(fd, c->record, size) == (ssize_t)size, "write");
    bench_check_errno(fstat(fd, made) == 0, "fstat");
    raw_link(claims, PRIVATE, INTENT, made);
    close(fd);
    bench_check_errno(unlinkat(claims, PRIVATE, 0) == 0, "unlink");
}

static void raw_strict_cycle(const cycle *c)
{
    struct stat made;
    char name[300];
    int parent = raw_open(AT_FDCWD, bench_directory, O_PATH | O_DIRECTORY);
    snprintf(name, sizeof name, "%s.filelock", strrchr(c->path, '/') + 1);
    int coordination = raw_open(parent, name, O_PATH | O_DIRECTORY);
    int claims = raw_open(coordination, "claims", O_RDONLY | O_DIRECTORY);
    raw_read(parent, strrchr(c->path, '/') + 1, SENTINEL, SENTINEL_SIZE);
    raw_list(c, claims, 0);
    raw_publish(c, claims, &made);
    raw_list(c, claims, 1);
    raw_link(claims, INTENT, HELD, &made);
    raw_list(c, claims, 2);
    bench_check_errno(unlinkat(claims, HELD, 0) == 0, "unlink");
    bench_check_errno(unlinkat(claims, INTENT, 0) == 0, "unlink");
    close(claims);
    close(coordination);
    close(parent);
}

static double raw_strict_slice(void *state)
{
    uint64_t start = bench_cpu();
    for (size_t i = 0; i < CYCLES; i++)
        raw_strict_cycle(state);
    return (double)(bench_cpu() - start) / CYCLES;
}

void row_strict(void)
{
    cycle c = {.left = 0};
    cycle_open(&c, AFLOCK_STRICT);
    snprintf(c.record, sizeof c.record, "filelock-strict-v1\n%032d\n%ld\n686f7374\n%055d\n", 0, (long)getpid(), 1);
    bench_compare(&(bench_line){.row = "strict",
                                .what = "acquire, callback, release of a strict lock (inline)",
                                .against = "the doorway by hand: 4 directories and files, 3 lists, 3 links, 4 unlinks",
                                .unit = "ns",
                                .bar = 1.5,
                                .judged = true},
                  our_slice, raw_strict_slice, &c);
    cycle_close(&c);
}

/* --------------------------------------------------------------------------------------------------------- the crowd
 */

static atomic_uint reads, looks;

static int counted_open(const char *path, int flags, mode_t mode)
{
    if (strncmp(path, bench_directory, strlen(bench_directory)) == 0)
        atomic_fetch_add(&reads, 1);
    return afl_sys_linux.open(path, flags, mode);
}

static int counted_stat(const char *path, struct stat *st, bool follow)
{
    atomic_fetch_add(&looks, 1);
    return afl_sys_linux.stat(path, st, follow);
}

static void put_in_the_seam(aflock_ctx *ctx)
{
    static afl_sys table;
    table = afl_sys_linux;
    table.open = counted_open;
    table.stat = counted_stat;
    ctx->sys = &table;
    ctx->gate->sys = &table;
}

static void never(aflock *lock, const aflock_result *result, void *user)
{
    (void)lock, (void)user;
    bench_check(result->status == AFLOCK_ECLOSED ? 0 : AFLOCK_EBUSY, "a waiter got the marker");
}

/* A process that holds the marker and does nothing. */
static pid_t hold_marker(void)
{
    int ready[2];
    char byte = 0;
    bench_check_errno(pipe2(ready, O_CLOEXEC) == 0, "pipe");
    pid_t pid = fork();
    bench_check_errno(pid >= 0, "fork");
    if (pid == 0) {
        cycle c = {.left = 0};
        const aflock_options o = marker_options(AFLOCK_SOFT);
        bench_check(aflock_epoll_new(&c.ctx, NULL), "aflock_epoll_new");
        bench_check(aflock_open(&c.lock, c.ctx, bench_file(0), &o), "aflock_open");
        bench_check(aflock_try(c.lock, NULL, &(aflock_req){0}, NULL), "aflock_try");
        bench_check_errno(write(ready[1], &byte, 1) == 1, "write");
        for (;;)
            pause();
    }
    bench_check_errno(read(ready[0], &byte, 1) == 1, "a holder");
    close(ready[0]);
    close(ready[1]);
    return pid;
}

/* One thread turns all loops, every 2 ms. */
static void turn_all(aflock_ctx *const ctx[], double seconds)
{
    const struct timespec pause = {.tv_nsec = 2000000};
    const uint64_t end = bench_wall() + (uint64_t)(seconds * 1e9);
    while (bench_wall() < end) {
        for (int i = 0; i < WAITERS; i++)
            bench_check(aflock_epoll_run_once(ctx[i], 0), "aflock_epoll_run_once");
        nanosleep(&pause, NULL);
    }
}

void row_soft_crowd(void)
{
    aflock_ctx *ctx[WAITERS];
    aflock *lock;
    const aflock_options o = marker_options(AFLOCK_SOFT);
    const int seconds = bench.quick ? QUICK_SECONDS : SECONDS;
    unlink(bench_file(0));
    pid_t holder = hold_marker();
    for (int i = 0; i < WAITERS; i++) {
        bench_check(aflock_epoll_new(&ctx[i], NULL), "aflock_epoll_new");
        put_in_the_seam(ctx[i]);
        bench_check(aflock_open(&lock, ctx[i], bench_file(0), &o), "aflock_open");
        bench_check(aflock_acquire(lock, NULL, never, NULL, NULL), "aflock_acquire");
    }
    turn_all(ctx, SETTLE);
    atomic_store(&reads, 0);
    atomic_store(&looks, 0);
    turn_all(ctx, seconds);
    const double opened = (double)atomic_load(&reads) / seconds, looked = (double)atomic_load(&looks) / seconds;
    for (int i = 0; i < WAITERS; i++)
        bench_check(aflock_ctx_free(ctx[i], AFLOCK_SECOND), "aflock_ctx_free");
    kill(holder, SIGKILL);
    waitpid(holder, NULL, 0);
    unlink(bench_file(0));
    bench_add(&(bench_line){.row = "soft-crowd",
                            .what = "60 contexts behind a marker: records read a second",
                            .unit = "reads",
                            .ours = opened,
                            .bar = 200,
                            .judged = true});
    bench_add(&(bench_line){.row = "soft-crowd",
                            .what = "60 contexts behind a marker: looks at it a second",
                            .unit = "stats",
                            .ours = looked});
}
