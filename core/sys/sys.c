/* The table of sys.h for Linux. */
#include "sys/sys.h"

#include <aflock/aflock.h>

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

/* What the kernel takes and gives, in its own words, because not every C library has them (musl), nor are the kernel's
 * headers everywhere. */
enum {
    WAIT_PRIVATE = 128, /* FUTEX_WAIT, FUTEX_WAKE of this process alone */
    WAKE_PRIVATE = 129,
    RESOLVE_ONLY_CACHED = 0x20,
    ASK_INO = 0x100, /* statx */
    ASK_MOUNT = 0x1000,
    DONT_SYNC = 0x4000,
    READ_ONLY_CACHED = 8 /* preadv2 */
};

typedef struct open_request {
    uint64_t flags, mode, resolve;
} open_request;

typedef struct file_facts { /* struct statx */
    uint32_t mask, unused_until_ino[7];
    uint64_t ino, unused_until_dev[12];
    uint32_t dev_major, dev_minor;
    uint64_t mount, unused[13];
} file_facts;
_Static_assert(sizeof(file_facts) == 256, "the kernel fills in 256 bytes");

typedef struct duration {
    int64_t seconds, nanoseconds;
} duration;

#ifdef SYS_futex_time64 /* 32 bit: the older call takes another duration */
#define SYS_FUTEX SYS_futex_time64
#else
#define SYS_FUTEX SYS_futex
#endif

static int sys_open(const char *path, int flags, mode_t mode)
{
    return open(path, flags, mode);
}

static int sys_open_cached(const char *path, int flags)
{
    open_request how = {.flags = (uint64_t)(unsigned)flags, .resolve = RESOLVE_ONLY_CACHED};
    return (int)syscall(SYS_openat2, AT_FDCWD, path, &how, sizeof how);
}

static int sys_flock(int fd, int operation)
{
    return flock(fd, operation);
}

static int sys_lock_ofd(int fd, short type, off_t start, off_t length, bool wait)
{
    struct flock range;
    memset(&range, 0, sizeof range); /* l_pid has to be 0 */
    range.l_type = type;
    range.l_whence = SEEK_SET;
    range.l_start = start;
    range.l_len = length;
    return fcntl(fd, wait ? F_OFD_SETLKW : F_OFD_SETLK, &range);
}

static ssize_t sys_read_head(int fd, void *buffer, size_t size, bool cached)
{
    struct iovec part = {.iov_base = buffer, .iov_len = size};
    return cached ? syscall(SYS_preadv2, fd, &part, 1, 0, 0, READ_ONLY_CACHED) : pread(fd, buffer, size, 0);
}

/* The C library asks by an empty path, which the kernel has to look at first; where its struct is the kernel's, the
 * plain call does the same in less time. */
static int sys_fstat(int fd, struct stat *st)
{
#if defined(__x86_64__) && defined(__LP64__)
    return (int)syscall(SYS_fstat, fd, st);
#else
    return fstat(fd, st);
#endif
}

static int sys_stat(const char *path, struct stat *st, bool follow)
{
    return follow ? stat(path, st) : lstat(path, st);
}

static int sys_identify(int fd, afl_identity *id)
{
    file_facts facts;
    if (syscall(SYS_statx, fd, "", AT_EMPTY_PATH | DONT_SYNC, ASK_INO | ASK_MOUNT, &facts) != 0)
        return -1;
    id->dev = (uint64_t)facts.dev_major << 32 | facts.dev_minor;
    id->ino = facts.ino;
    id->mount = facts.mask & ASK_MOUNT ? facts.mount : 0;
    return 0;
}

static int sys_touch(int fd)
{
    return futimens(fd, NULL);
}

static int sys_rewind(int fd)
{
    return lseek(fd, 0, SEEK_SET) == 0 ? 0 : -1;
}

static int sys_dup_above(int fd, bool close_on_exec)
{
    return fcntl(fd, close_on_exec ? F_DUPFD_CLOEXEC : F_DUPFD, 3);
}

static int sys_descriptor_flags(int fd)
{
    return fcntl(fd, F_GETFD);
}

static int sys_probe(pid_t pid)
{
    return kill(pid, 0);
}

static int sys_pidfd_open(pid_t pid)
{
    return (int)syscall(SYS_pidfd_open, pid, 0);
}

static int sys_link_fd(int fd, const char *path)
{
    char name[40];
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    return linkat(AT_FDCWD, name, AT_FDCWD, path, AT_SYMLINK_FOLLOW);
}

static int sys_open_at(int dir, const char *name, int flags, mode_t mode)
{
    return openat(dir, name, flags | O_NOFOLLOW, mode);
}

static int sys_stat_at(int dir, const char *name, struct stat *st)
{
    return fstatat(dir, name, st, AT_SYMLINK_NOFOLLOW);
}

static int sys_link_at(int dir, const char *from, const char *to)
{
    return linkat(dir, from, dir, to, 0);
}

static int sys_unlink_at(int dir, const char *name)
{
    return unlinkat(dir, name, 0);
}

static int sys_rename_at(int dir, const char *from, const char *to)
{
    return renameat(dir, from, dir, to);
}

static ssize_t sys_list(int dir, void *buffer, size_t size)
{
    return (ssize_t)syscall(SYS_getdents64, dir, buffer, size);
}

static int sys_random(void *buffer, size_t size)
{
    return getrandom(buffer, size, 0) == (ssize_t)size ? 0 : -1;
}

static uint64_t read_clock(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * AFLOCK_SECOND + (uint64_t)now.tv_nsec;
}

static uint64_t sys_boottime(void)
{
    return read_clock(CLOCK_BOOTTIME);
}

static uint64_t sys_realtime(void)
{
    return read_clock(CLOCK_REALTIME);
}

static uint32_t *sys_guard_map(void)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    void *memory = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return NULL;
    if (madvise(memory, page, MADV_WIPEONFORK) != 0) {
        munmap(memory, page);
        return NULL;
    }
    return memory;
}

static void sys_guard_unmap(uint32_t *guard)
{
    munmap(guard, (size_t)sysconf(_SC_PAGESIZE));
}

static void sys_wait(uint32_t *word, uint32_t expected, uint64_t timeout)
{
    duration d = {.seconds = (int64_t)(timeout / AFLOCK_SECOND), .nanoseconds = (int64_t)(timeout % AFLOCK_SECOND)};
    syscall(SYS_FUTEX, word, WAIT_PRIVATE, expected, &d, NULL, 0);
}

static void sys_wake(uint32_t *word)
{
    syscall(SYS_FUTEX, word, WAKE_PRIVATE, 1, NULL, NULL, 0);
}

static void sys_yield(void)
{
    sched_yield();
}

const afl_sys afl_sys_linux = {
    .open = sys_open,
    .open_cached = sys_open_cached,
    .dup_above = sys_dup_above,
    .close = close,
    .flock = sys_flock,
    .lock_ofd = sys_lock_ofd,
    .fstat = sys_fstat,
    .stat = sys_stat,
    .identify = sys_identify,
    .fchmod = fchmod,
    .ftruncate = ftruncate,
    .touch = sys_touch,
    .sync = fsync,
    .rewind = sys_rewind,
    .mkdir = mkdir,
    .read = read,
    .read_head = sys_read_head,
    .write = write,
    .unlink = unlink,
    .link_fd = sys_link_fd,
    .rename = rename,
    .open_at = sys_open_at,
    .stat_at = sys_stat_at,
    .mkdir_at = mkdirat,
    .link_at = sys_link_at,
    .unlink_at = sys_unlink_at,
    .rename_at = sys_rename_at,
    .list = sys_list,
    .random = sys_random,
    .realtime = sys_realtime,
    .boottime = sys_boottime,
    .readlink = readlink,
    .getcwd = getcwd,
    .descriptor_flags = sys_descriptor_flags,
    .gethostname = gethostname,
    .probe = sys_probe,
    .pidfd_open = sys_pidfd_open,
    .guard_map = sys_guard_map,
    .guard_unmap = sys_guard_unmap,
    .getpid = getpid,
    .wait = sys_wait,
    .wake = sys_wake,
    .yield = sys_yield,
};

int afl_status_of(int error)
{
    switch (error) {
    case 0:
        return 0;
    case ENOENT:
        return AFLOCK_ENOENT;
    case ENOMEM:
        return AFLOCK_ENOMEM;
    case EINVAL:
        return AFLOCK_ESYS; /* of the system call, not of the caller's argument */
    case ENAMETOOLONG:
        return AFLOCK_ENAMETOOLONG;
    case EISDIR:
        return AFLOCK_EISDIR;
    case ENOTDIR:
        return AFLOCK_ENOTDIR;
    case ELOOP:
        return AFLOCK_ELOOP;
    case ENXIO: /* a socket, or a FIFO without reader */
    case ENODEV:
        return AFLOCK_ENOTFILE;
    case EACCES:
    case EPERM:
        return AFLOCK_EACCES;
    case EROFS:
        return AFLOCK_EROFS;
    case ENOSPC:
    case EDQUOT:
        return AFLOCK_ENOSPC;
    case EMFILE:
    case ENFILE:
        return AFLOCK_EMFILE;
    case ENOSYS:
    case EOPNOTSUPP:
        return AFLOCK_ENOTSUP;
    default:
        return AFLOCK_ESYS;
    }
}
