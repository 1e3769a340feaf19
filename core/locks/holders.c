/* Who holds a file by the kernel's locks, and who is blocked in the kernel for it: /proc/locks. */
#include "locks/kernel.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/sysmacros.h>

/* The kernel gives /proc/locks out in pieces, and while others lock and unlock an entry can come twice, or not at all:
 * a process counts once, and a file that nobody seems to hold is looked for again. */
enum { PROCESSES = 64, LOOKS = 3 };

typedef struct lock_search {
    afl_query *query;
    const char *device;
    long long seen[PROCESSES];
} lock_search;

static bool seen_before(lock_search *search, long long pid)
{
    uint32_t known = search->query->count < PROCESSES ? search->query->count : PROCESSES;
    for (uint32_t i = 0; i < known; i++)
        if (pid > 0 && search->seen[i] == pid)
            return true;
    if (known < PROCESSES)
        search->seen[known] = pid;
    return false;
}

/* A line of /proc/locks, see proc(5): "1: FLOCK  ADVISORY  WRITE 708 08:01:13567 0 EOF"; "->" marks a waiter. */
#define LOCK_LINE "%15s%*[ ]%*s %15s%*[ ]%lld%*[ ]%x:%x:%llu"

static void note_holder(afl_query *q, bool exclusive, long long pid)
{
    q->held = 1;
    q->count++;
    if (q->count > 1 && q->pid > 0)
        return;
    q->pid = pid > 0 ? pid : 0;
    q->here = true;
    q->mode = exclusive ? AFLOCK_EXCLUSIVE : AFLOCK_SHARED;
}

static bool lock_line(char *text, void *user)
{
    lock_search *search = user;
    afl_query *q = search->query;
    char kind[16], access[16];
    unsigned major, minor;
    long long pid;
    unsigned long long ino, first = 0, last = ULLONG_MAX;
    if (sscanf(text, "%*s " LOCK_LINE "%*[ ]%llu%*[ ]%llu", kind, access, &pid, &major, &minor, &ino, &first, &last) <
        6)
        return true;
    char device[32];
    snprintf(device, sizeof device, "%u:%u", major, minor);
    if (ino != q->ino || strcmp(device, search->device) != 0)
        return true;
    afl_lock_entry entry = {.kind = kind, .exclusive = strcmp(access, "WRITE") == 0, .first = first, .last = last};
    afl_concern concern = q->protocol->kernel->concern(&entry);
    if (concern != AFL_NO_CONCERN && !afl_is_rw(&entry))
        q->outside = 1;
    if (concern == AFL_CLAIMS)
        q->pending = 1;
    if (concern == AFL_HOLDS && !seen_before(search, pid))
        note_holder(q, entry.exclusive, pid);
    return true;
}

void afl_kernel_inspect(afl_query *q)
{
    afl_identity id;
    char device[32];
    int fd = q->fd;
    if (q->path)
        fd = afl_open(q->sys, q->path, O_PATH | O_CLOEXEC | (q->follow ? 0 : O_NOFOLLOW), 0);
    if (fd < 0) {
        if (errno != ENOENT) /* nothing there: nobody holds it */
            afl_query_fail(q, "open", errno);
        return;
    }
    if (q->sys->identify(fd, &id) != 0) {
        afl_query_fail(q, "stat", errno);
    } else {
        q->ino = id.ino;
        afl_classify_mount(q->sys, id.mount, device); /* the device as /proc/locks prints it; btrfs has others too */
        if (!device[0])
            snprintf(device, sizeof device, "%u:%u", (unsigned)(id.dev >> 32), (unsigned)id.dev);
        lock_search search = {.query = q, .device = device};
        int error = 0;
        for (int i = 0; i < LOOKS && !error && !q->held; i++)
            error = afl_read_lines(q->sys, "/proc/locks", lock_line, &search);
        if (error)
            afl_query_fail(q, "read /proc/locks", error);
    }
    if (q->path)
        q->sys->close(fd);
}

static bool waiter_line(char *text, void *user)
{
    lock_search *search = user;
    afl_query *q = search->query;
    char kind[16], access[16], device[32];
    unsigned major, minor;
    long long pid;
    unsigned long long ino;
    if (sscanf(text, "%*s -> " LOCK_LINE, kind, access, &pid, &major, &minor, &ino) != 6)
        return true;
    snprintf(device, sizeof device, "%u:%u", major, minor);
    if (q->but_ours && pid == q->sys->getpid())
        return true;
    if (q->protocol->kernel->blocks(kind) && ino == q->ino && strcmp(device, search->device) == 0)
        q->count++;
    return true;
}

/* Asks nothing of the file or its system. Only file systems without a block device of their own may have files with
 * others (btrfs): then the directory's mount tells it as /proc/locks prints it, unless a symbolic link leads away. */
void afl_kernel_waiters(afl_query *q)
{
    char device[32] = "";
    if (major(q->dev) == 0 && q->where.dev == ((uint64_t)major(q->dev) << 32 | minor(q->dev)))
        afl_classify_mount(q->sys, q->where.mount, device);
    if (!device[0])
        snprintf(device, sizeof device, "%u:%u", major(q->dev), minor(q->dev));
    lock_search search = {.query = q, .device = device};
    afl_read_lines(q->sys, "/proc/locks", waiter_line, &search);
}
