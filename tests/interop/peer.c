/* A process that locks one file with aflock, as it is told on its standard input, for tests against other programs.
 *
 *   peer [-o|-r|-d|-t|-p] FILE   -o: open-file-description locks; -r: as SQLite locks a database; -d: a data file, read
 *                                or appended to; -t: a temporary lock file; -p: a pid file
 *
 * Commands, one per line: "try MODE", "wait MODE" and "release", MODE being "exclusive" or "shared". Each is answered
 * by one line: OK, or the name of an error. A wait that finds the file taken says "waiting" first. Ends with its input,
 * and lets go of what it holds.
 */
#include <aflock/epoll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static aflock *lock;
static aflock_req req;
static int waiting, data;

static void say(const char *text)
{
    printf("%s\n", text);
    fflush(stdout);
}

static void on_trace(aflock_trace_event event, const char *path, aflock_req r, int64_t value, void *user)
{
    (void)path, (void)r, (void)value, (void)user;
    if (event == AFLOCK_TRACE_CONTENDED && waiting) {
        waiting = 0;
        say("waiting");
    }
}

static void on_answer(aflock *l, const aflock_result *result, void *user)
{
    (void)l, (void)user;
    waiting = 0;
    say(aflock_error_name(result->status));
}

static void obey(char *line)
{
    aflock_acquire_options o;
    aflock_acquire_options_init(&o);
    const char *command = strtok(line, " \n"), *mode = strtok(NULL, " \n");
    int status = AFLOCK_EINVAL;
    if (mode)
        o.mode = strcmp(mode, "shared") == 0 ? AFLOCK_SHARED : AFLOCK_EXCLUSIVE;
    if (data)
        o.flags = o.mode == AFLOCK_SHARED ? AFLOCK_DATA_READ : AFLOCK_DATA_APPEND;
    if (command && strcmp(command, "try") == 0) {
        o.timeout = 0;
        status = aflock_acquire(lock, &o, on_answer, NULL, &req);
    } else if (command && strcmp(command, "wait") == 0) {
        waiting = 1;
        status = aflock_acquire(lock, &o, on_answer, NULL, &req);
    } else if (command && strcmp(command, "release") == 0) {
        status = aflock_release(lock, req, on_answer, NULL);
    }
    if (status)
        say(aflock_error_name(status));
}

static int open_peer(aflock_ctx **ctx, const char *file, char kind)
{
    aflock_ctx_options c;
    aflock_epoll_options e;
    aflock_options o;
    aflock_ctx_options_init(&c);
    aflock_epoll_options_init(&e);
    aflock_options_init(&o);
    c.trace = on_trace;
    e.ctx = &c;
    o.protocol = kind == 'o' ? AFLOCK_OFD : kind == 'r' ? AFLOCK_RW : kind == 'p' ? AFLOCK_PIDFILE : AFLOCK_NATIVE;
    o.temporary = kind == 't';
    data = kind == 'd';
    o.poll_interval = AFLOCK_MILLISECOND;
    int status = aflock_epoll_new(ctx, &e);
    return status ? status : aflock_open(&lock, *ctx, file, &o);
}

/* Writers send one line at a time and wait for its answer. */
static void on_input(aflock_ctx *ctx, int fd, unsigned events, void *user)
{
    char line[64];
    (void)events;
    ssize_t n = read(fd, line, sizeof line - 1);
    if (n <= 0) {
        *(int *)user = 1;
        aflock_epoll_watch(ctx, fd, 0, NULL, NULL);
        return;
    }
    line[n] = '\0';
    obey(line);
}

int main(int argc, char **argv)
{
    aflock_ctx *ctx;
    int ended = 0;
    const char *kind = argc == 3 && strlen(argv[1]) == 2 && strchr("ordtp", argv[1][1]) ? argv[1] : NULL;
    if (argc != (kind ? 3 : 2))
        return 2;
    int status = open_peer(&ctx, argv[argc - 1], kind ? kind[1] : '-');
    if (!status)
        status = aflock_epoll_watch(ctx, STDIN_FILENO, AFLOCK_EPOLL_READ, on_input, &ended);
    while (!status && !ended)
        status = aflock_epoll_run_once(ctx, AFLOCK_FOREVER);
    if (status) {
        fprintf(stderr, "peer: %s\n", aflock_strerror(status));
        return 1;
    }
    return aflock_ctx_free(ctx, AFLOCK_SECOND) == 0 ? 0 : 1;
}
