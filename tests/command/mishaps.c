/* To be preloaded: what cannot be had otherwise happens to a program, as the variable MISHAP says.
 *
 *   NFS        flock(2) refuses an exclusive lock on a descriptor that is open for reading only
 *   ENOSYS     there is no flock(2)
 *   EAGAIN     there are too many processes to fork another
 *   REPLACED   when a marker is looked at for the last time (fstatat(2)) another one takes its place
 *   FULL       there is no space for what is written to a regular file
 *   FULL-THEN  ... but for the first such write
 *   FSYNC      fsync(2) fails
 *   RENAME     rename(2) fails
 *   INTERRUPT  a SIGINT as the terminal sends it arrives at the last moment before a fork
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static int is_wanted(const char *mishap)
{
    const char *wanted = getenv("MISHAP");

    return wanted && strcmp(wanted, mishap) == 0;
}

int flock(int fd, int operation)
{
    if (is_wanted("NFS") && (operation & LOCK_EX) && (fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDONLY) {
        errno = EBADF;
        return -1;
    }
    if (is_wanted("ENOSYS")) {
        errno = ENOSYS;
        return -1;
    }
    return (int)syscall(SYS_flock, fd, operation);
}

int fstatat64(int folder, const char *path, struct stat64 *st, int flags) /* fstatat, where files may be large */
{
    FILE *file;

    if (is_wanted("REPLACED") && unlinkat(folder, path, 0) == 0 && (file = fopen(path, "w")) != NULL) {
        fputs("1\nelsewhere\n", file);
        fclose(file);
    }
#ifdef SYS_newfstatat
    return (int)syscall(SYS_newfstatat, folder, path, st, flags);
#else /* 32 bit */
    return (int)syscall(SYS_fstatat64, folder, path, st, flags);
#endif
}

ssize_t write(int fd, const void *data, size_t size)
{
    static int written;
    struct stat st;

    if ((is_wanted("FULL") || is_wanted("FULL-THEN")) && fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && fd > 2 &&
        (is_wanted("FULL") || written++ > 0)) {
        errno = ENOSPC;
        return -1;
    }
    return syscall(SYS_write, fd, data, size);
}

int fsync(int fd)
{
    if (is_wanted("FSYNC")) {
        errno = EIO;
        return -1;
    }
    return (int)syscall(SYS_fsync, fd);
}

int rename(const char *from, const char *to)
{
    if (is_wanted("RENAME")) {
        errno = EIO;
        return -1;
    }
    return renameat(AT_FDCWD, from, AT_FDCWD, to);
}

pid_t fork(void)
{
    siginfo_t info = {.si_signo = SIGINT, .si_code = SI_KERNEL};

    if (is_wanted("EAGAIN")) {
        errno = EAGAIN;
        return -1;
    }
    if (is_wanted("INTERRUPT"))
        syscall(SYS_rt_sigqueueinfo, getpid(), SIGINT, &info); /* to itself a process may send any si_code */
    return _Fork();
}
