/* Signals, taken synchronously: they are blocked and fetched, there are no handlers and no dispositions to put back.
 *
 * What the parent had ignored (nohup) or blocked is left alone, here and in the command.
 */
#include "signals.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

static const int ending_signals[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT};

static int is_ignored(int number)
{
    struct sigaction action;

    return sigaction(number, NULL, &action) == 0 && action.sa_handler == SIG_IGN;
}

int signals_block(signals *s)
{
    sigset_t blocked;

    if (sigprocmask(SIG_BLOCK, NULL, &s->inherited) != 0)
        return errno;
    sigemptyset(&s->ending);
    for (size_t i = 0; i < sizeof ending_signals / sizeof ending_signals[0]; i++) {
        if (!is_ignored(ending_signals[i]) && !sigismember(&s->inherited, ending_signals[i]))
            sigaddset(&s->ending, ending_signals[i]);
    }
    s->watched = s->ending;
    sigaddset(&s->watched, SIGCHLD);
    blocked = s->watched;
    sigaddset(&blocked, SIGPIPE); /* a report that nobody reads must not keep the command from running */
    s->fd = signalfd(-1, &s->watched, SFD_CLOEXEC | SFD_NONBLOCK);
    if (s->fd < 0)
        return errno;
    return sigprocmask(SIG_BLOCK, &blocked, NULL) == 0 ? 0 : errno;
}

static int take(const sigset_t *set, siginfo_t *info, int wait)
{
    static const struct timespec at_once = {0, 0};
    int number;

    do {
        number = sigtimedwait(set, info, wait ? NULL : &at_once);
    } while (number < 0 && errno == EINTR);
    return number > 0 ? number : 0;
}

void signals_restore(const signals *s)
{
    sigset_t pipe_only;

    sigemptyset(&pipe_only);
    sigaddset(&pipe_only, SIGPIPE);
    if (!sigismember(&s->inherited, SIGPIPE))
        (void)take(&pipe_only, NULL, 0);
    (void)sigprocmask(SIG_SETMASK, &s->inherited, NULL);
}

int signals_next(const signals *s, siginfo_t *info, int wait)
{
    return take(&s->watched, info, wait);
}

int signals_next_ending(const signals *s)
{
    return take(&s->ending, NULL, 0);
}

int signals_for_us_alone(const siginfo_t *info)
{
    /* The kernel itself sends these to whole process groups, with one exception: a terminal that hangs up tells the
     * leader of its session, nobody else. */
    if (info->si_code != SI_KERNEL)
        return 1;
    return info->si_signo == SIGHUP && getsid(0) == getpid();
}

_Noreturn void die_by(const signals *s, int number)
{
    sigset_t set;

    (void)prctl(PR_SET_DUMPABLE, 0, 0, 0, 0); /* a core of aflock says nothing and could overwrite the command's */
    (void)signal(number, SIG_DFL);
    sigemptyset(&set);
    sigaddset(&set, number);
    (void)raise(number);
    (void)sigprocmask(SIG_SETMASK, &s->inherited, NULL);
    (void)sigprocmask(SIG_UNBLOCK, &set, NULL);
    _exit(128 + number); /* not reached unless the kernel refuses to kill us (the init of a pid namespace) */
}
