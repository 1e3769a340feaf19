/* The command: forked and waited for, or executed in place.
 *
 * It gets the signal mask and dispositions that aflock was started with. Signals sent to aflock alone are passed on;
 * those from the terminal reach the command by themselves, since it stays in aflock's process group. The child waits at
 * a gate until aflock has seen that no signal came before the fork: one from the terminal would be lost otherwise, seen
 * by aflock as already delivered to a command that did not exist yet.
 */
#include "run.h"

#include "lock.h"
#include "message.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <sysexits.h>
#include <unistd.h>

/* Returns only if it failed. Signals that came while aflock was busy with the lock act here. */
static int execute(const options *o, const signals *s)
{
    int error;

    signals_restore(s);
    execvp(o->command[0], o->command);
    error = errno;
    complain("failed to execute '%s': %s", o->command[0], strerror(error));
    return error == ENOMEM ? EX_OSERR : EX_UNAVAILABLE;
}

static _Noreturn void be_the_child(const options *o, const signals *s, const int gate[2])
{
    char go;
    ssize_t n;

    close(gate[1]); /* or the gate would outlive aflock */
    do {
        n = read(gate[0], &go, 1);
    } while (n < 0 && errno == EINTR);
    if (n != 1)
        _exit(EX_OSERR); /* aflock is gone */
    _exit(execute(o, s));
}

static void reap(pid_t child, int *status)
{
    while (waitpid(child, status, 0) < 0 && errno == EINTR)
        ;
}

/* Lets the child execute the command, unless a signal has come: that ends both, as before the fork. The signal, or 0.
 */
static int open_gate(pid_t child, const signals *s, int gate)
{
    int number = signals_next_ending(s);
    int status;

    if (number != 0) {
        (void)kill(child, SIGKILL);
        reap(child, &status);
        return number;
    }
    while (write(gate, "", 1) < 0 && errno == EINTR)
        ;
    return 0;
}

/* The lease was lost: the command has to end, and is given some time to do so. */
static void end_command(pid_t child, int event)
{
    (void)kill(child, event == LOCK_LOST ? SIGTERM : SIGKILL);
    if (event == LOCK_LOST)
        (void)kill(child, SIGCONT); /* a stopped one hears nothing */
}

/* Waits for the child; passes signals on. `seen` collects those that aflock got. */
static int wait_for_command(pid_t child, const signals *s, sigset_t *seen, int *status)
{
    siginfo_t info;
    pid_t reaped;
    int number, error;

    sigemptyset(seen);
    while ((reaped = waitpid(child, status, WNOHANG)) == 0) {
        number = lock_wait(s, &info); /* CHLD ends the wait too */
        if (number == 0 || number == SIGCHLD)
            continue;
        if (number < 0) {
            end_command(child, number);
            continue;
        }
        sigaddset(seen, number);
        if (signals_for_us_alone(&info))
            (void)kill(child, number); /* not reaped yet, so the pid is still its own */
    }
    error = reaped == child ? 0 : errno;
    while ((number = signals_next_ending(s)) != 0) /* one that ended the command, too fast to be seen above */
        sigaddset(seen, number);
    return error;
}

static int command_status(const sigset_t *seen, int status, int *ended_by)
{
    if (lock_is_lost())
        return EX_TEMPFAIL;
    if (WIFEXITED(status))
        return WEXITSTATUS(status);
    /* What ended the command was meant for aflock as well. Shells stop a script and service managers call a stop clean
     * only if they see the signal itself. */
    if (sigismember(seen, WTERMSIG(status)))
        *ended_by = WTERMSIG(status);
    return 128 + WTERMSIG(status);
}

static int supervise(pid_t child, const signals *s, int *ended_by)
{
    sigset_t seen;
    int status = 0;
    int error = wait_for_command(child, s, &seen, &status);

    if (error == 0)
        return command_status(&seen, status, ended_by);
    complain("cannot wait for the command: waitpid: %s", strerror(error));
    return EXIT_FAILURE;
}

static int fork_command(const options *o, const signals *s, int *ended_by)
{
    int gate[2];
    pid_t child;

    if (pipe2(gate, O_CLOEXEC) != 0) {
        complain("cannot run '%s': pipe: %s", o->command[0], strerror(errno));
        return EX_OSERR;
    }
    child = fork();
    if (child == 0)
        be_the_child(o, s, gate);
    close(gate[0]);
    if (child < 0)
        complain("cannot run '%s': fork: %s", o->command[0], strerror(errno));
    else
        *ended_by = open_gate(child, s, gate[1]);
    close(gate[1]);
    return child < 0 || *ended_by ? EX_OSERR : supervise(child, s, ended_by);
}

int run_command(const options *o, const signals *s, int *ended_by)
{
    *ended_by = 0;
    if (o->verbose)
        report("executing %s", o->command[0]);
    (void)signal(SIGCHLD, SIG_DFL); /* ignored, it would make the command's status vanish */
    return o->no_fork ? execute(o, s) : fork_command(o, s, ended_by);
}
