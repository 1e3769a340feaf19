/* aflock, the command: runs a program under a file lock; a drop-in for flock(1). aflock.1 describes it.
 *
 *   options.c   reads the command line             progress.c  shows the wait
 *   lock.c      gets the lock, in an event loop    signals.c   signals without handlers
 *   run.c       runs the command meanwhile         message.c   what is said, where
 *   look.c      looks at what is on a path         status.c    `status` and `break`
 *
 * Uses the library through aflock/aflock.h and aflock/epoll.h only, like any other program.
 */
#include "lock.h"
#include "message.h"
#include "run.h"
#include "status.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

/* A standard descriptor that the caller closed must not be taken by the lock file or the event loop, which would then
 * get messages written into them. The command finds it closed again. 0, or an errno. */
static int occupy_standard_descriptors(void)
{
    int fd;

    do {
        fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    } while (fd >= 0 && fd <= STDERR_FILENO);
    if (fd < 0)
        return errno;
    close(fd);
    return 0;
}

static int check_descriptor(const options *o)
{
    if (o->file || fcntl(o->fd, F_GETFD) >= 0)
        return GO_ON;
    complain("%d: %s", o->fd, strerror(errno));
    return EX_DATAERR;
}

static int prepare(signals *s)
{
    int error = occupy_standard_descriptors();

    if (error == 0)
        error = signals_block(s);
    if (error == 0)
        return GO_ON;
    complain("cannot start: %s", strerror(error));
    return EX_OSERR;
}

/* Holds the lock while the command runs. */
static int lock_and_run(const options *o)
{
    static signals s;                 /* static like the waiter, which points here */
    int status = check_descriptor(o); /* before any descriptor of aflock's own can have its number */
    int ended_by = 0;

    if (status == GO_ON)
        status = prepare(&s);
    if (status == GO_ON)
        status = lock_take(o, &s);
    if (status != GO_ON)
        return status;
    status = o->command ? run_command(o, &s, &ended_by) : EX_OK;
    lock_give_back();
    if (ended_by)
        die_by(&s, ended_by);
    return status;
}

int main(int argc, char **argv)
{
    static options o; /* the waiter points here, too */
    int status = options_parse(&o, argc, argv);

    if (status != GO_ON)
        return closing_status(status, EXIT_FAILURE);
    if (o.action == ACTION_LOCK)
        return closing_status(lock_and_run(&o), EXIT_FAILURE);
    status = occupy_standard_descriptors();
    if (status != 0) {
        complain("cannot start: %s", strerror(status));
        return EX_OSERR;
    }
    return closing_status(o.action == ACTION_STATUS ? status_show(&o) : status_break(&o), EX_IOERR);
}
