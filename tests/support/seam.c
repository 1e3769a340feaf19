/* See seam.h. Everything that workers touch is atomic; hooks and failures are set while no worker is busy. */
#include "support/seam.h"

#include "runtime/runtime.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/file.h>

static struct meter {
    atomic_int count, on_loop;
    atomic_int after, times, error;
    void (*_Atomic hook)(void);
} meters[SEAM_CALLS];

static pthread_t loop_thread;

/* True: the call is to fail, and errno is set. */
static bool meets(seam_call call)
{
    struct meter *m = &meters[call];
    void (*hook)(void) = m->hook;
    if (hook)
        hook();
    m->count++;
    if (pthread_equal(pthread_self(), loop_thread))
        m->on_loop++;
    if (m->times == 0 || m->after-- > 0)
        return false;
    m->times--;
    errno = m->error;
    return true;
}

static int seam_open(const char *path, int flags, mode_t mode)
{
    return meets(flags & O_CREAT ? SEAM_CREATE : SEAM_OPEN) ? -1 : afl_sys_linux.open(path, flags, mode);
}

static int seam_open_cached(const char *path, int flags)
{
    return meets(SEAM_OPEN_CACHED) ? -1 : afl_sys_linux.open_cached(path, flags);
}

static int seam_close(int fd)
{
    bool fails = meets(SEAM_CLOSE);
    int error = errno;
    int rc = afl_sys_linux.close(fd);
    if (fails)
        errno = error;
    return fails ? -1 : rc;
}

static int seam_flock(int fd, int operation)
{
    return meets(operation & LOCK_UN ? SEAM_UNLOCK : SEAM_LOCK) ? -1 : afl_sys_linux.flock(fd, operation);
}

static int seam_lock_ofd(int fd, short type)
{
    return meets(type == F_UNLCK ? SEAM_UNLOCK : SEAM_LOCK) ? -1 : afl_sys_linux.lock_ofd(fd, type);
}

static int seam_fstat(int fd, struct stat *st)
{
    return meets(SEAM_FSTAT) ? -1 : afl_sys_linux.fstat(fd, st);
}

static int seam_stat(const char *path, struct stat *st, bool follow)
{
    return meets(SEAM_STAT) ? -1 : afl_sys_linux.stat(path, st, follow);
}

static int seam_identify(int fd, afl_identity *id)
{
    return meets(SEAM_IDENTIFY) ? -1 : afl_sys_linux.identify(fd, id);
}

static int seam_fchmod(int fd, mode_t mode)
{
    return meets(SEAM_FCHMOD) ? -1 : afl_sys_linux.fchmod(fd, mode);
}

static int seam_ftruncate(int fd, off_t length)
{
    return meets(SEAM_FTRUNCATE) ? -1 : afl_sys_linux.ftruncate(fd, length);
}

static int seam_mkdir(const char *path, mode_t mode)
{
    return meets(SEAM_MKDIR) ? -1 : afl_sys_linux.mkdir(path, mode);
}

static ssize_t seam_read(int fd, void *buffer, size_t size)
{
    return meets(SEAM_READ) ? -1 : afl_sys_linux.read(fd, buffer, size);
}

void seam_install(aflock_ctx *ctx)
{
    static afl_sys table;
    table = afl_sys_linux;
    table.open = seam_open;
    table.open_cached = seam_open_cached;
    table.close = seam_close;
    table.flock = seam_flock;
    table.lock_ofd = seam_lock_ofd;
    table.fstat = seam_fstat;
    table.stat = seam_stat;
    table.identify = seam_identify;
    table.fchmod = seam_fchmod;
    table.ftruncate = seam_ftruncate;
    table.mkdir = seam_mkdir;
    table.read = seam_read;
    loop_thread = pthread_self();
    seam_reset();
    ctx->sys = &table;
}

void seam_fail(seam_call call, int after, int times, int error)
{
    meters[call].after = after;
    meters[call].error = error;
    meters[call].times = times;
}

void seam_before(seam_call call, void (*hook)(void))
{
    meters[call].hook = hook;
}

void seam_reset(void)
{
    for (int i = 0; i < SEAM_CALLS; i++) {
        struct meter *m = &meters[i];
        m->count = m->on_loop = m->after = m->times = m->error = 0;
        seam_before((seam_call)i, NULL);
    }
}

int seam_count(seam_call call)
{
    return meters[call].count;
}

int seam_on_loop(seam_call call)
{
    return meters[call].on_loop;
}

int seam_total(void)
{
    int total = 0;
    for (int i = 0; i < SEAM_CALLS; i++)
        total += meters[i].count;
    return total;
}

int seam_total_on_loop(void)
{
    int total = 0;
    for (int i = 0; i < SEAM_CALLS; i++)
        total += meters[i].on_loop;
    return total;
}
