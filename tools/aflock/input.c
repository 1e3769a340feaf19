/* Reading is waited for together with signals; what is read is never more than is there, so that lines are passed on
 * when they come. Nothing is set on the descriptor, which others share. Where a read waits all the same, since another
 * process was faster, signals act at once.
 */
#include "input.h"

#include "message.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

enum { CHUNK = 64 << 10 };

void input_begin(input *in, const signals *s, size_t limit)
{
    *in = (input){.signals = s, .limit = limit};
}

void input_end(input *in)
{
    free(in->data);
}

/* 1: there is something to read, or the end; 0: not yet; INPUT_SIGNAL; or -errno. */
static int wait_for_input(const input *in, int timeout, int *number)
{
    struct pollfd fds[] = {{.fd = in->signals->fd, .events = POLLIN}, {.fd = STDIN_FILENO, .events = POLLIN}};

    if (poll(fds, 2, timeout) < 0)
        return errno == EINTR ? 0 : -errno;
    if (fds[0].revents && (*number = signals_next_ending(in->signals)) != 0)
        return INPUT_SIGNAL;
    if (fds[0].revents) {
        siginfo_t info;
        (void)signals_next(in->signals, &info, 0); /* of a child that somebody has left to us */
    }
    return fds[1].revents != 0;
}

static int make_room(input *in)
{
    size_t room = in->room ? 2 * in->room : 4 * (size_t)CHUNK;
    char *data;

    if (in->room - in->length >= CHUNK || in->room >= in->limit)
        return 0;
    if (room > in->limit)
        room = in->limit;
    data = realloc(in->data, room);
    if (!data)
        return ENOMEM;
    in->data = data;
    in->room = room;
    return 0;
}

static ssize_t read_unblocked(input *in)
{
    sigset_t blocked;
    ssize_t count;
    int error;

    (void)sigprocmask(SIG_SETMASK, &in->signals->inherited, &blocked);
    count = read(STDIN_FILENO, in->data + in->length, in->room - in->length);
    error = errno;
    (void)sigprocmask(SIG_SETMASK, &blocked, NULL);
    errno = error;
    return count;
}

int input_read(input *in, size_t wanted, int *number)
{
    size_t before = in->length;
    int ready = 0, error;

    if (in->length >= in->limit)
        return INPUT_FULL;
    while (!in->ended && in->length - before < wanted && in->length < in->limit) {
        ssize_t count;

        ready = wait_for_input(in, in->length == before ? -1 : 0, number);
        if (ready < 0)
            return ready == INPUT_SIGNAL ? INPUT_SIGNAL : -ready;
        if (ready == 0 && in->length > before)
            break;
        if (ready == 0)
            continue;
        if ((error = make_room(in)) != 0)
            return error;
        count = read_unblocked(in);
        if (count < 0 && errno != EINTR && errno != EAGAIN)
            return errno;
        in->ended = count == 0;
        in->length += count > 0 ? (size_t)count : 0;
    }
    return INPUT_OK;
}

void input_drop(input *in, size_t length)
{
    in->length -= length;
    memmove(in->data, in->data + length, in->length);
}

int input_failed(int error)
{
    complain("cannot read standard input: %s", strerror(error));
    return error == ENOMEM ? EX_OSERR : EX_NOINPUT;
}
