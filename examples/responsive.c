/* A loop that waits for a lock goes on doing everything else.
 *
 * Another process holds the lock for a second. Our loop waits for it and ticks every millisecond meanwhile; then the
 * other process takes the lock again, and our loop lets one request time out and has another one cancelled by a thread.
 * Printed: the slowest tick, how long the hand-off took, and how long the two other answers took.
 *
 * Both processes are event-driven and talk over a socket pair: one byte asks the holder to take the lock, one byte
 * answers that it holds it, the end of the connection ends it. When it let go is told in shared memory, because a
 * message would be later than the hand-off.
 */
#include <aflock/epoll.h>

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define HOLD AFLOCK_SECOND
#define TICK AFLOCK_MILLISECOND
#define TIMEOUT (100 * AFLOCK_MILLISECOND)
#define CANCEL_AFTER (50 * AFLOCK_MILLISECOND)

_Static_assert(ATOMIC_LLONG_LOCK_FREE == 2, "a stamp works between processes");

typedef atomic_ullong stamp;

static uint64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * AFLOCK_SECOND + (uint64_t)time.tv_nsec;
}

static double to_ms(uint64_t ns)
{
    return (double)ns / 1e6;
}

static int say(int line)
{
    return send(line, "", 1, MSG_NOSIGNAL) == 1 ? 0 : AFLOCK_ESYS;
}

/* 1: a byte came; 0: the connection has ended. */
static int hear(int line)
{
    char byte;
    return recv(line, &byte, 1, 0) == 1;
}

static void complain(const char *who, const char *step, int status)
{
    fprintf(stderr, "responsive: %s: %s: %s\n", who, step, aflock_strerror(status));
}

/* ------------------------------------------------------------------------------------------------ the other process */

struct holder {
    aflock *lock;
    aflock_req hold;
    stamp *released;
    int line;
    int over;
    int failed;
};

static void holder_check(struct holder *holder, const char *step, int status)
{
    if (status == 0)
        return;
    complain("the other process", step, status);
    holder->failed = holder->over = 1;
}

static void holder_lets_go(aflock_ctx *ctx, void *user)
{
    (void)ctx;
    struct holder *holder = user;
    atomic_store(holder->released, now());
    holder_check(holder, "release", aflock_release(holder->lock, holder->hold, NULL, NULL));
}

static void holder_holds(aflock *lock, const aflock_result *result, void *user)
{
    struct holder *holder = user;
    holder->hold = result->req;
    int status = result->status;
    if (status == 0)
        status = aflock_epoll_timer(aflock_context(lock), HOLD, holder_lets_go, holder);
    if (status == 0)
        status = say(holder->line);
    holder_check(holder, "acquire", status);
}

static void holder_hears(aflock_ctx *ctx, int line, unsigned events, void *user)
{
    (void)ctx;
    (void)events;
    struct holder *holder = user;
    if (hear(line))
        holder_check(holder, "acquire", aflock_acquire(holder->lock, NULL, holder_holds, holder, NULL));
    else
        holder->over = 1;
}

/* The whole life of the other process. Between two holds nothing but the watch is left in its loop, and a watch does
 * not keep a loop alive: it runs round by round. */
static int hold_on_demand(const char *path, int line, stamp *released)
{
    struct holder holder = {.line = line, .released = released};
    aflock_ctx *ctx = NULL;
    int status = aflock_epoll_new(&ctx, NULL);
    if (status == 0)
        status = aflock_open(&holder.lock, ctx, path, NULL);
    if (status == 0)
        status = aflock_epoll_watch(ctx, line, AFLOCK_EPOLL_READ, holder_hears, &holder);
    while (status == 0 && !holder.over)
        status = aflock_epoll_run_once(ctx, AFLOCK_FOREVER);
    holder_check(&holder, "loop", status);
    aflock_ctx_free(ctx, AFLOCK_SECOND);
    return holder.failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

/* ----------------------------------------------------------------------------------------------------- our own loop */

struct waiter {
    aflock_ctx *ctx;
    aflock *lock;
    int line;
    const stamp *released; /* when the other process let go */

    uint64_t last_tick;
    uint64_t slowest_tick;
    int ticks;

    aflock_token *token;
    pthread_t thread;
    int thread_runs;
    stamp fired; /* when the thread fired the token */

    void (*on_held)(struct waiter *waiter); /* what to do when the other process holds the lock */
    int done;
    int failed;
};

static void check(struct waiter *waiter, const char *step, int status)
{
    if (status == 0)
        return;
    complain("our loop", step, status);
    waiter->failed = 1;
    if (waiter->ctx != NULL)
        aflock_epoll_stop(waiter->ctx);
}

static void tick(aflock_ctx *ctx, void *user)
{
    struct waiter *waiter = user;
    uint64_t time = now();
    if (time - waiter->last_tick > waiter->slowest_tick)
        waiter->slowest_tick = time - waiter->last_tick;
    waiter->last_tick = time;
    waiter->ticks++;
    check(waiter, "timer", aflock_epoll_timer(ctx, TICK, tick, waiter));
}

/* The last answer. */
static void on_cancelled(aflock *lock, const aflock_result *result, void *user)
{
    (void)lock;
    uint64_t time = now();
    struct waiter *waiter = user;
    if (result->status != AFLOCK_ECANCELED) {
        check(waiter, "cancel", result->status != 0 ? result->status : AFLOCK_EHELD);
        return;
    }
    printf("cancel:    answered %.2f ms after another thread had asked for it\n",
           to_ms(time - atomic_load(&waiter->fired)));
    waiter->done = 1;
    aflock_epoll_stop(waiter->ctx);
}

static void *fire(void *user)
{
    struct waiter *waiter = user;
    const struct timespec delay = {.tv_nsec = CANCEL_AFTER};
    nanosleep(&delay, NULL);
    atomic_store(&waiter->fired, now());
    aflock_token_fire(waiter->token);
    return NULL;
}

static int start_thread(struct waiter *waiter)
{
    waiter->thread_runs = pthread_create(&waiter->thread, NULL, fire, waiter) == 0;
    return waiter->thread_runs ? 0 : AFLOCK_ESYS;
}

static void ask_and_cancel(struct waiter *waiter)
{
    aflock_acquire_options options;
    aflock_acquire_options_init(&options);
    int status = aflock_token_new(&waiter->token, waiter->ctx);
    options.token = waiter->token;
    if (status == 0)
        status = aflock_acquire(waiter->lock, &options, on_cancelled, waiter, NULL);
    if (status == 0)
        status = start_thread(waiter);
    check(waiter, "cancel", status);
}

static void on_timeout(aflock *lock, const aflock_result *result, void *user)
{
    (void)lock;
    struct waiter *waiter = user;
    if (result->status != AFLOCK_ETIMEDOUT || result->waited < TIMEOUT) {
        check(waiter, "time-out", result->status != 0 ? result->status : AFLOCK_EHELD);
        return;
    }
    printf("time-out:  after %.0f ms, answered after %.2f ms\n", to_ms(TIMEOUT), to_ms(result->waited));
    ask_and_cancel(waiter);
}

static void ask_with_timeout(struct waiter *waiter)
{
    aflock_acquire_options options;
    aflock_acquire_options_init(&options);
    options.timeout = TIMEOUT;
    check(waiter, "time-out", aflock_acquire(waiter->lock, &options, on_timeout, waiter, NULL));
}

static void on_released(aflock *lock, const aflock_result *result, void *user)
{
    (void)lock;
    struct waiter *waiter = user;
    int status = result->status;
    waiter->on_held = ask_with_timeout;
    if (status == 0)
        status = say(waiter->line);
    check(waiter, "release", status);
}

static void on_granted(aflock *lock, const aflock_result *result, void *user)
{
    uint64_t time = now();
    struct waiter *waiter = user;
    if (result->status == 0) {
        printf("wait:      %.0f ms, until the other process let go; meanwhile our loop ticked %d times\n",
               to_ms(result->waited), waiter->ticks);
        printf("ticks:     every %.0f ms; the slowest took %.2f ms\n", to_ms(TICK), to_ms(waiter->slowest_tick));
        printf("hand-off:  %.2f ms from the release there to the callback here\n",
               to_ms(time - atomic_load(waiter->released)));
        check(waiter, "release", aflock_release(lock, result->req, on_released, waiter));
    }
    check(waiter, "acquire", result->status);
}

static void ask(struct waiter *waiter)
{
    waiter->ticks = 0;
    waiter->slowest_tick = 0;
    check(waiter, "acquire", aflock_acquire(waiter->lock, NULL, on_granted, waiter, NULL));
}

static void on_line(aflock_ctx *ctx, int line, unsigned events, void *user)
{
    (void)ctx;
    (void)events;
    struct waiter *waiter = user;
    if (hear(line))
        waiter->on_held(waiter);
    else
        check(waiter, "the other process ended", AFLOCK_ECLOSED);
}

static int waiter_start(struct waiter *waiter, const char *path)
{
    int status = aflock_epoll_new(&waiter->ctx, NULL);
    if (status == 0)
        status = aflock_open(&waiter->lock, waiter->ctx, path, NULL);
    if (status == 0)
        status = aflock_epoll_watch(waiter->ctx, waiter->line, AFLOCK_EPOLL_READ, on_line, waiter);
    if (status == 0)
        status = aflock_epoll_timer(waiter->ctx, TICK, tick, waiter);
    waiter->last_tick = now();
    if (status == 0)
        status = say(waiter->line);
    return status;
}

static int wait_and_tick(const char *path, int line, const stamp *released)
{
    struct waiter waiter = {.line = line, .released = released, .on_held = ask};
    int status = waiter_start(&waiter, path);
    if (status == 0)
        status = aflock_epoll_run(waiter.ctx);
    check(&waiter, "loop", status);
    if (waiter.thread_runs)
        pthread_join(waiter.thread, NULL);
    aflock_ctx_free(waiter.ctx, AFLOCK_SECOND);
    aflock_token_free(waiter.token);
    return waiter.done && !waiter.failed ? EXIT_SUCCESS : EXIT_FAILURE;
}

/* -------------------------------------------------------------------------------------------------------- the start */

/* Forks before there are contexts: a context belongs to the process that made it. */
static int run_both(const char *path, const int lines[2], stamp *released)
{
    pid_t parent = getpid();
    pid_t pid = fork();
    if (pid < 0) {
        perror("responsive: fork");
        close(lines[0]);
        close(lines[1]);
        return EXIT_FAILURE;
    }
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(lines[0]);
        exit(getppid() == parent ? hold_on_demand(path, lines[1], released) : EXIT_FAILURE);
    }
    close(lines[1]);
    int result = wait_and_tick(path, lines[0], released);
    close(lines[0]); /* ends the other process */
    int status = 0;
    if (waitpid(pid, &status, 0) != pid || status != 0)
        result = EXIT_FAILURE;
    return result;
}

static int run(const char *path)
{
    int lines[2];
    stamp *released = mmap(NULL, sizeof *released, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (released == MAP_FAILED) {
        perror("responsive: mmap");
        return EXIT_FAILURE;
    }
    int result = EXIT_FAILURE;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, lines) == 0)
        result = run_both(path, lines, released);
    else
        perror("responsive: socketpair");
    munmap(released, sizeof *released);
    return result;
}

int main(int argc, char **argv)
{
    static const char usage[] =
        "usage: responsive FILE\n"
        "Waits for the lock FILE, which another process holds for a second, in a loop that ticks every millisecond;\n"
        "then lets one request time out and has another one cancelled by a thread. Prints how long each took.\n"
        "Exit status: 0 if every answer was the right one, 1 if not, 2 for a wrong command line.\n";
    if (argc == 2 && strcmp(argv[1], "--help") == 0) {
        fputs(usage, stdout);
        return EXIT_SUCCESS;
    }
    if (argc != 2 || argv[1][0] == '-') {
        fputs(usage, stderr);
        return 2;
    }
    setvbuf(stdout, NULL, _IOLBF, 0); /* each answer is seen when it comes, in a log too */
    return run(argv[1]);
}
