/* The table of fake_sys.h. */
#include "support/fake_sys.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

enum { HANGS = 4, FRAGMENT = 64, WATCHDOG_S = 10 };

void (*fake_sys_waits)(uint64_t timeout);

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static pthread_t loop_thread;
static unsigned counts[FAKE_CALLS], here, elsewhere;
static struct {
    fake_call call;
    unsigned in; /* 0: not set */
    int error;
} failure;
static struct {
    fake_call call;
    char fragment[FRAGMENT];
} hangs[HANGS];
static unsigned hang_count, hung, era;
static char device_fragment[FRAGMENT];
static uint64_t device_number;

/* ------------------------------------------------------------------------------------------------- the test's side */

void fake_sys_forget(void)
{
    pthread_mutex_lock(&mutex);
    memset(counts, 0, sizeof counts);
    here = elsewhere = 0;
    pthread_mutex_unlock(&mutex);
}

static unsigned read_locked(const unsigned *value)
{
    pthread_mutex_lock(&mutex);
    unsigned copy = *value;
    pthread_mutex_unlock(&mutex);
    return copy;
}

unsigned fake_sys_count(fake_call call)
{
    return read_locked(&counts[call]);
}

unsigned fake_sys_here(void)
{
    return read_locked(&here);
}

unsigned fake_sys_elsewhere(void)
{
    return read_locked(&elsewhere);
}

void fake_sys_fail(fake_call call, unsigned nth, int error)
{
    pthread_mutex_lock(&mutex);
    failure.call = call;
    failure.in = nth;
    failure.error = error;
    pthread_mutex_unlock(&mutex);
}

void fake_sys_hang(fake_call call, const char *fragment)
{
    pthread_mutex_lock(&mutex);
    ck_assert_uint_lt(hang_count, HANGS);
    hangs[hang_count].call = call;
    snprintf(hangs[hang_count].fragment, FRAGMENT, "%s", fragment);
    hang_count++;
    pthread_mutex_unlock(&mutex);
}

void fake_sys_resume(void)
{
    pthread_mutex_lock(&mutex);
    hang_count = 0;
    era++;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&mutex);
}

void fake_sys_await_hung(unsigned count)
{
    struct timespec limit;
    clock_gettime(CLOCK_REALTIME, &limit);
    limit.tv_sec += WATCHDOG_S;
    pthread_mutex_lock(&mutex);
    int error = 0;
    while (hung < count && error == 0)
        error = pthread_cond_timedwait(&changed, &mutex, &limit);
    unsigned seen = hung;
    pthread_mutex_unlock(&mutex);
    ck_assert_msg(seen >= count, "%u calls hang, not %u", seen, count);
}

void fake_sys_device(const char *fragment, uint64_t dev)
{
    pthread_mutex_lock(&mutex);
    snprintf(device_fragment, FRAGMENT, "%s", fragment);
    device_number = dev;
    pthread_mutex_unlock(&mutex);
}

/* ----------------------------------------------------------------------------------------------- the library's side */

static void path_of(int fd, char target[PATH_MAX])
{
    char entry[64];
    snprintf(entry, sizeof entry, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(entry, target, PATH_MAX - 1);
    target[length > 0 ? length : 0] = '\0';
}

/* `path` NULL: that of the descriptor. */
static bool hangs_now(fake_call call, const char *path, int fd)
{
    char found[PATH_MAX];
    for (unsigned i = 0; i < hang_count; i++) {
        if (hangs[i].call != call)
            continue;
        if (!path)
            path_of(fd, found);
        if (strstr(path ? path : found, hangs[i].fragment))
            return true;
    }
    return false;
}

/* Writes the call down, lets it hang, and says whether it may happen: true, or errno is set. */
static bool note_call(fake_call call, const char *path, int fd)
{
    bool mine = pthread_equal(pthread_self(), loop_thread);
    pthread_mutex_lock(&mutex);
    counts[call]++;
    *(mine ? &here : &elsewhere) += 1;
    bool hang = hangs_now(call, path, fd);
    unsigned since = era;
    hung += hang && !mine;
    if (hang && !mine)
        pthread_cond_broadcast(&changed);
    while (hang && !mine && since == era)
        pthread_cond_wait(&changed, &mutex);
    hung -= hang && !mine;
    int error = failure.in && failure.call == call && --failure.in == 0 ? failure.error : 0;
    pthread_mutex_unlock(&mutex);
    if (hang && mine)
        ck_abort_msg("the loop's thread hangs in call %d", (int)call);
    if (!error)
        return true;
    errno = error;
    return false;
}

static bool note(fake_call call, const char *path)
{
    return note_call(call, path, -1);
}

static bool note_fd(fake_call call, int fd)
{
    return note_call(call, NULL, fd);
}

static int fake_open(const char *path, int flags, mode_t mode)
{
    return note(FAKE_OPEN, path) ? afl_sys_linux.open(path, flags, mode) : -1;
}

static int fake_open_cached(const char *path, int flags)
{
    if (!note(FAKE_OPEN_CACHED, path))
        return -1;
    int fd = afl_sys_linux.open_cached(path, flags);
    return fd < 0 && errno == ENOSYS ? afl_sys_linux.open(path, flags, 0) : fd; /* valgrind does not know openat2 */
}

static int fake_close(int fd)
{
    bool fails = !note_fd(FAKE_CLOSE, fd);
    int error = errno, rc = afl_sys_linux.close(fd); /* the descriptor is gone in any case */
    if (!fails)
        return rc;
    errno = error;
    return -1;
}

static int fake_flock(int fd, int operation)
{
    fake_call call = operation & LOCK_UN ? FAKE_UNLOCK : FAKE_LOCK;
    return note_fd(call, fd) ? afl_sys_linux.flock(fd, operation) : -1;
}

static int fake_lock_ofd(int fd, short type)
{
    fake_call call = type == F_UNLCK ? FAKE_UNLOCK : FAKE_LOCK;
    return note_fd(call, fd) ? afl_sys_linux.lock_ofd(fd, type) : -1;
}

static int fake_fstat(int fd, struct stat *st)
{
    return note_fd(FAKE_FSTAT, fd) ? afl_sys_linux.fstat(fd, st) : -1;
}

static int fake_stat(const char *path, struct stat *st, bool follow)
{
    return note(FAKE_STAT, path) ? afl_sys_linux.stat(path, st, follow) : -1;
}

static int fake_identify(int fd, afl_identity *id)
{
    char path[PATH_MAX] = "";
    if (!note_fd(FAKE_IDENTIFY, fd) || afl_sys_linux.identify(fd, id) != 0)
        return -1;
    pthread_mutex_lock(&mutex);
    if (device_fragment[0])
        path_of(fd, path);
    if (device_fragment[0] && strstr(path, device_fragment))
        id->dev = device_number;
    pthread_mutex_unlock(&mutex);
    return 0;
}

static int fake_fchmod(int fd, mode_t mode)
{
    return note_fd(FAKE_FCHMOD, fd) ? afl_sys_linux.fchmod(fd, mode) : -1;
}

static int fake_ftruncate(int fd, off_t length)
{
    return note_fd(FAKE_FTRUNCATE, fd) ? afl_sys_linux.ftruncate(fd, length) : -1;
}

static int fake_mkdir(const char *path, mode_t mode)
{
    return note(FAKE_MKDIR, path) ? afl_sys_linux.mkdir(path, mode) : -1;
}

static ssize_t fake_read(int fd, void *buffer, size_t size)
{
    return note_fd(FAKE_READ, fd) ? afl_sys_linux.read(fd, buffer, size) : -1;
}

static void fake_wait(uint32_t *word, uint32_t expected, uint64_t timeout)
{
    if (fake_sys_waits)
        fake_sys_waits(timeout);
    else
        afl_sys_linux.wait(word, expected, timeout);
}

void fake_sys_use(aflock_ctx *ctx)
{
    static afl_sys table;
    if (!table.open) {
        table = afl_sys_linux;
        table.open = fake_open;
        table.open_cached = fake_open_cached;
        table.close = fake_close;
        table.flock = fake_flock;
        table.lock_ofd = fake_lock_ofd;
        table.fstat = fake_fstat;
        table.stat = fake_stat;
        table.identify = fake_identify;
        table.fchmod = fake_fchmod;
        table.ftruncate = fake_ftruncate;
        table.mkdir = fake_mkdir;
        table.read = fake_read;
        table.wait = fake_wait;
        loop_thread = pthread_self();
    }
    ctx->sys = &table;
    ctx->gate->sys = &table;
}
