/* A daemon of which there is one.
 *
 * It forks first and acquires afterwards, so that the pid file names the process that goes on; whoever started it waits
 * for the word on a pipe, and says so with his exit status: 0 started, 3 already running, 1 anything else. It ends with
 * SIGTERM, and takes its pid file along. However it ends, the next one can start:
 *
 *     ./singleton /tmp/singleton.pid && ./singleton /tmp/singleton.pid; kill "$(cat /tmp/singleton.pid)"
 */
#include <aflock/epoll.h>

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

struct word {
    int status;
    long long pid; /* of whoever runs */
    char text[160];
};

struct daemon {
    int told; /* the pipe's end; -1: the word was given */
    int failed;
};

/* Whoever started us returns to his shell. */
static void tell(struct daemon *daemon, const aflock_result *result)
{
    struct word word = {.status = result->status, .pid = result->status == 0 ? getpid() : result->pid};
    snprintf(word.text, sizeof word.text, "%s%s%s", result->step != NULL ? result->step : "",
             result->step != NULL ? ": " : "",
             result->sys_errno != 0 ? strerror(result->sys_errno) : aflock_strerror(result->status));
    if (write(daemon->told, &word, sizeof word) != (ssize_t)sizeof word)
        daemon->failed = 1;
    close(daemon->told);
    daemon->told = -1;
}

static void on_lock(aflock *lock, const aflock_result *result, void *user)
{
    struct daemon *daemon = user;
    tell(daemon, result);
    if (result->status != 0)
        daemon->failed = 1;
    if (daemon->failed)
        aflock_epoll_stop(aflock_context(lock));
}

static void on_signal(aflock_ctx *ctx, int fd, unsigned events, void *user)
{
    struct signalfd_siginfo which;
    (void)events, (void)user;
    if (read(fd, &which, sizeof which) == (ssize_t)sizeof which)
        aflock_epoll_stop(ctx);
}

/* Holding a lock keeps no loop alive; the daemon's own work does. */
static void work(aflock_ctx *ctx, void *user)
{
    aflock_epoll_timer(ctx, AFLOCK_SECOND, work, user);
}

static int serve(struct daemon *daemon, const char *path)
{
    aflock_ctx *ctx = NULL;
    aflock *lock;
    aflock_options options;
    aflock_acquire_options wish;
    sigset_t end;
    aflock_options_init(&options);
    options.protocol = AFLOCK_PIDFILE;
    aflock_acquire_options_init(&wish);
    wish.timeout = 0; /* whoever is there stays */
    sigemptyset(&end);
    sigaddset(&end, SIGTERM);
    sigaddset(&end, SIGINT);
    sigprocmask(SIG_BLOCK, &end, NULL);
    int signals = signalfd(-1, &end, SFD_CLOEXEC);
    int status = signals < 0 ? AFLOCK_ESYS : aflock_epoll_new(&ctx, NULL);
    if (status == 0)
        status = aflock_epoll_watch(ctx, signals, AFLOCK_EPOLL_READ, on_signal, NULL);
    if (status == 0)
        status = aflock_open(&lock, ctx, path, &options);
    if (status == 0)
        status = aflock_acquire(lock, &wish, on_lock, daemon, NULL);
    if (status == 0) {
        work(ctx, NULL);
        status = aflock_epoll_run(ctx);
    }
    if (daemon->told >= 0)
        tell(daemon, &(aflock_result){.status = status});
    return aflock_ctx_free(ctx, AFLOCK_SECOND) != 0 || status != 0 || daemon->failed; /* the pid file goes here */
}

static int leave_terminal(void)
{
    int null = open("/dev/null", O_RDWR);
    if (null < 0 || setsid() < 0)
        return -1;
    for (int fd = 0; fd <= 2; fd++)
        if (dup2(null, fd) < 0)
            return -1;
    return null > 2 ? close(null) : 0;
}

static int await_word(int fd, const char *path)
{
    struct word word;
    if (read(fd, &word, sizeof word) != (ssize_t)sizeof word) {
        fprintf(stderr, "singleton: it ended without a word\n");
        return 1;
    }
    if (word.status == 0) {
        printf("started, pid %lld\n", word.pid);
        return 0;
    }
    if (word.status == AFLOCK_EWOULDBLOCK) {
        if (word.pid != 0)
            printf("already running, pid %lld\n", word.pid);
        else
            printf("already running\n");
        return 3;
    }
    fprintf(stderr, "singleton: %s: %s\n", path, word.text);
    return 1;
}

int main(int argc, char **argv)
{
    int ends[2];
    if (argc != 2 || argv[1][0] == '-') {
        fputs("usage: singleton PID-FILE\n  starts a daemon, unless one with this pid file runs\n", stderr);
        return 2;
    }
    if (pipe2(ends, O_CLOEXEC) != 0) {
        perror("singleton: pipe");
        return 1;
    }
    pid_t pid = fork();
    if (pid < 0) {
        perror("singleton: fork");
        return 1;
    }
    if (pid > 0) {
        close(ends[1]);
        return await_word(ends[0], argv[1]);
    }
    close(ends[0]);
    struct daemon daemon = {.told = ends[1]};
    return leave_terminal() != 0 ? 1 : serve(&daemon, argv[1]);
}
