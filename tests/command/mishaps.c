/* To be preloaded: what cannot be had otherwise happens to a program, as the variable MISHAP says.
 *
 *   NFS        flock(2) refuses an exclusive lock on a descriptor that is open for reading only
 *   EAGAIN     there are too many processes to fork another
 *   INTERRUPT  a SIGINT as the terminal sends it arrives at the last moment before a fork
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
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
    return (int)syscall(SYS_flock, fd, operation);
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
