/* aflock, the command: runs a program under a file lock; a drop-in for flock(1). aflock.1 describes it.
 *
 *   options.c   reads the command line             progress.c  shows the wait
 *   lock.c      gets the lock, in an event loop    signals.c   signals without handlers
 *   waiter.c    ... or says why not                many.c      several of them
 *   run.c       runs the command meanwhile         message.c   what is said, where
 *   look.c      looks at what is on a path         status.c    `status` and `break`
 *   actions.c   ... that begins with a word        values.c    values in it
 *   work.c      file work under a lock             append.c, replace.c, update.c: on top of that
 *   input.c     standard input                     filter.c    a command in between
 *   verify.c    `verify`                           trial.c     one trial of it
 *   json.c      texts as JSON                      help.c      --help
 *
 * Uses the library through aflock/aflock.h, aflock/epoll.h and aflock/file.h only, like any other program.
 */
#include "files.h"
#include "lock.h"
#include "message.h"
#include "run.h"
#include "status.h"
#include "verify.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

/* A standard descriptor that the caller closed must not be taken by the lock file or the event loop, which would then
 * get messages written into them. The command finds it closed again. Messages go nowhere (O_RDWR), or are errors, as
 * they ought to be where they are all that is wanted (O_PATH). 0, or an errno. */
static int occupy_standard_descriptors(int access)
{
    int fd;

    do {
        fd = open("/dev/null", access | O_CLOEXEC);
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

/* `access`: of standard descriptors that are closed. */
static int prepare(signals *s, int access)
{
    int error = occupy_standard_descriptors(access);

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
        status = prepare(&s, O_RDWR);
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

/* What is read from a standard input that is closed would be nothing, and that is a content, too. */
static int check_input(const options *o)
{
    if (o->action == ACTION_UPDATE || fcntl(STDIN_FILENO, F_GETFD) >= 0)
        return GO_ON;
    complain("cannot read standard input: %s", strerror(errno));
    return EX_NOINPUT;
}

static int work_with_signals(const options *o)
{
    static signals s;
    int status = o->action == ACTION_VERIFY ? GO_ON : check_input(o);

    if (status == GO_ON)
        status = prepare(&s, o->action == ACTION_VERIFY ? O_PATH : O_RDWR);
    if (status != GO_ON)
        return status;
    switch (o->action) {
    case ACTION_APPEND:
        return files_append(o, &s);
    case ACTION_REPLACE:
        return files_replace(o, &s);
    case ACTION_VERIFY:
        return verify(o, &s);
    default:
        return files_update(o, &s);
    }
}

static int look(const options *o)
{
    int error = occupy_standard_descriptors(O_PATH);

    if (error == 0)
        return o->action == ACTION_STATUS ? status_show(o) : status_break(o);
    complain("cannot start: %s", strerror(error));
    return EX_OSERR;
}

int main(int argc, char **argv)
{
    static options o; /* the waiter points here, too */
    int status = options_parse(&o, argc, argv);

    if (status != GO_ON)
        return closing_status(status, EXIT_FAILURE);
    switch (o.action) {
    case ACTION_LOCK:
        return closing_status(lock_and_run(&o), EXIT_FAILURE);
    case ACTION_STATUS:
    case ACTION_BREAK:
        return closing_status(look(&o), EX_IOERR);
    default:
        return closing_status(work_with_signals(&o), EX_IOERR);
    }
}
