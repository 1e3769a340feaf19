/* The other side: a free lock with the raw calls. And of waiting: a program that locks with them and listens with
 * inotify, as carefully as the library does. After an event it tries again, and again a little later, because a holder
 * that dies or closes without unlocking is heard before the kernel drops the lock. */
#include "bench.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

void bench_raw_open(bench_raw *raw)
{
    *raw = (bench_raw){.queue = inotify_init1(IN_NONBLOCK | IN_CLOEXEC), .watch = -1};
    bench_check_errno(raw->queue >= 0, "inotify_init1");
}

void bench_raw_close(const bench_raw *raw)
{
    close(raw->queue);
}

static bool names_this(int fd, const char *path)
{
    struct stat mine, there;
    return fstat(fd, &mine) == 0 && stat(path, &there) == 0 && mine.st_ino == there.st_ino &&
           mine.st_dev == there.st_dev;
}

void bench_raw_cycle(const char *path)
{
    int fd = open(path, O_RDWR | O_CLOEXEC);
    bench_check_errno(fd >= 0, "open");
    bench_check_errno(flock(fd, LOCK_EX | LOCK_NB) == 0, "flock");
    bench_check_errno(names_this(fd, path), "the same file");
    bench_check_errno(flock(fd, LOCK_UN) == 0, "flock");
    bench_check_errno(close(fd) == 0, "close");
}

static void read_all(const bench_raw *raw)
{
    char events[4096];
    while (read(raw->queue, events, sizeof events) > 0) {
    }
}

/* Waits for an event; whether the lock is ours after one of the tries that follow it. */
static bool listen_and_try(const bench_raw *raw, int fd)
{
    static const long LADDER[] = {0, 20, 50, 100, 500, 2000}; /* us */
    struct pollfd ready = {.fd = raw->queue, .events = POLLIN};
    poll(&ready, 1, 50);
    read_all(raw);
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

int bench_raw_lock(bench_raw *raw, const char *path)
{
    for (;;) {
        int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
        bench_check_errno(fd >= 0, "open");
        bool ours = flock(fd, LOCK_EX | LOCK_NB) == 0;
        if (!ours) {
            raw->watch = inotify_add_watch(raw->queue, path, IN_CLOSE | IN_ATTRIB | IN_MOVE_SELF | IN_DELETE_SELF);
            ours = flock(fd, LOCK_EX | LOCK_NB) == 0;
            while (!ours && names_this(fd, path))
                ours = listen_and_try(raw, fd);
        }
        if (ours && names_this(fd, path))
            return fd;
        bench_raw_unlock(raw, fd);
    }
}

/* The watch ends last: nobody has to wait for that. */
void bench_raw_unlock(bench_raw *raw, int fd)
{
    flock(fd, LOCK_UN);
    close(fd);
    if (raw->watch < 0)
        return;
    inotify_rm_watch(raw->queue, raw->watch);
    raw->watch = -1;
    read_all(raw);
}
