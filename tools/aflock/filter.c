/* Feeds the command and reads what it writes at the same time: neither pipe can fill up and stop both sides. Nothing
 * but this thread knows the process id, so that a signal never reaches another process that was given it meanwhile; the
 * loop passes signals on through a pipe. One that comes while the command is about to be started is passed on in any
 * case: what the terminal has sent before was not for a process that did not exist.
 */
#include "filter.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

enum { CHUNK = 64 << 10, FROM_TERMINAL = 0x80 };

static void close_end(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

int filter_begin(filter *f, const signals *s, char **command, size_t limit)
{
    *f = (filter){.command = command, .signals = s, .limit = limit, .news = {-1, -1}, .to = -1, .from = -1};
    return pipe2(f->news, O_CLOEXEC | O_NONBLOCK) == 0 ? 0 : errno;
}

void filter_end(filter *f)
{
    close_end(&f->news[0]);
    close_end(&f->news[1]);
    free(f->data);
}

void filter_tell(filter *f, int number, int for_us_alone)
{
    const unsigned char news = (unsigned char)(for_us_alone ? number : number | FROM_TERMINAL);

    (void)write(f->news[1], &news, 1); /* full: it has been told thousands of times */
}

/* ------------------------------------------------------------------------------------------------------- the process
 */

/* 0, or an errno: f->step says of what. */
static int spawn(filter *f, int in, int out)
{
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    int error;

    f->step = "posix_spawn";
    if ((error = posix_spawn_file_actions_init(&actions)) != 0)
        return error;
    if ((error = posix_spawnattr_init(&attributes)) != 0) {
        posix_spawn_file_actions_destroy(&actions);
        return error;
    }
    error = posix_spawn_file_actions_adddup2(&actions, in, STDIN_FILENO);
    if (error == 0)
        error = posix_spawn_file_actions_adddup2(&actions, out, STDOUT_FILENO);
    if (error == 0)
        error = posix_spawnattr_setsigmask(&attributes, &f->signals->inherited);
    if (error == 0)
        error = posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
    if (error == 0) {
        f->step = NULL;
        error = posix_spawnp(&f->pid, f->command[0], &actions, &attributes, f->command, environ);
    }
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&actions);
    return error;
}

static int start(filter *f)
{
    int in[2] = {-1, -1}, out[2] = {-1, -1}, error = 0;

    f->step = "pipe";
    if (pipe2(in, O_CLOEXEC) != 0 || pipe2(out, O_CLOEXEC) != 0 || fcntl(in[1], F_SETFL, O_NONBLOCK) != 0 ||
        fcntl(out[0], F_SETFL, O_NONBLOCK) != 0)
        error = errno;
    if (error == 0)
        error = spawn(f, in[0], out[1]);
    close_end(&in[0]);
    close_end(&out[1]);
    f->to = in[1];
    f->from = out[0];
    return error;
}

/* Takes what the loop has told. `is_new`: the command may have missed a signal of the terminal. */
static void hear(filter *f, int is_new)
{
    unsigned char news[64];
    ssize_t count;

    while ((count = read(f->news[0], news, sizeof news)) > 0) {
        for (ssize_t i = 0; i < count; i++) {
            const int number = news[i] & ~FROM_TERMINAL;

            if (number == SIGCHLD)
                continue;
            f->is_interrupted = 1;
            if (f->pid > 0 && !f->ended && (is_new || !(news[i] & FROM_TERMINAL)))
                (void)kill(f->pid, number);
        }
    }
    if (f->pid > 0 && !f->ended && waitpid(f->pid, &f->status, WNOHANG) == f->pid)
        f->ended = 1;
}

/* --------------------------------------------------------------------------------------------------------- the pipes
 */

/* A command that does not read all of it has had enough. */
static void feed(filter *f, const char *content, size_t length)
{
    ssize_t count = write(f->to, content + f->written, length - f->written);

    if (count > 0)
        f->written += (size_t)count;
    if (f->written == length || (count < 0 && errno != EAGAIN && errno != EINTR))
        close_end(&f->to);
}

static int make_room(filter *f)
{
    size_t room = f->room ? 2 * f->room : 2 * (size_t)CHUNK;
    char *data;

    if (f->room - f->length >= CHUNK)
        return 0;
    data = realloc(f->data, room);
    if (!data)
        return ENOMEM;
    f->data = data;
    f->room = room;
    return 0;
}

static void give_up(filter *f, int error)
{
    f->io_errno = error;
    close_end(&f->from);
    if (!f->ended)
        (void)kill(f->pid, SIGKILL);
}

static void collect(filter *f)
{
    int error = make_room(f);
    ssize_t count = error ? -1 : read(f->from, f->data + f->length, f->room - f->length);

    if (error || (count < 0 && errno != EAGAIN && errno != EINTR)) {
        give_up(f, error ? error : errno);
        return;
    }
    if (count == 0)
        close_end(&f->from);
    f->length += count > 0 ? (size_t)count : 0;
    f->is_too_much = f->length > f->limit;
    if (f->is_too_much)
        give_up(f, 0);
}

static int has_failed(const filter *f)
{
    return f->is_interrupted || f->is_too_much || f->io_errno || (f->ended && f->status != 0);
}

/* What it has started may go on writing when it has ended; what has failed is not waited for. */
static int is_over(const filter *f)
{
    return f->ended && (f->from < 0 || has_failed(f));
}

/* CHLD is among the news, so there is nothing to poll for. */
static void pump(filter *f, const char *content, size_t length)
{
    hear(f, 1);
    while (!is_over(f)) {
        struct pollfd fds[] = {
            {.fd = f->news[0], .events = POLLIN}, {.fd = f->to, .events = POLLOUT}, {.fd = f->from, .events = POLLIN}};

        if (poll(fds, 3, -1) < 0)
            continue;
        if (fds[0].revents)
            hear(f, 0);
        if (f->to >= 0 && fds[1].revents)
            feed(f, content, length);
        if (f->from >= 0 && fds[2].revents)
            collect(f);
    }
}

int filter_run(filter *f, const char *content, size_t length)
{
    hear(f, 0);
    if (f->is_interrupted)
        return 0;
    f->start_errno = start(f);
    if (f->start_errno == 0)
        pump(f, content, length);
    close_end(&f->to);
    close_end(&f->from);
    return f->start_errno == 0 && !has_failed(f);
}
