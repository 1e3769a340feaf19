/* A hand-written poll(2) loop that hosts aflock: how to fill in the tables of aflock/host.h without the kit.
 *
 * Read it as a pattern for a loop that has no adapter yet. The first half is the loop: one function for each entry of
 * aflock_loop, and a round that waits, reports, and lets the library take its turn. The second half is a program on
 * it: it takes a lock, lets another request time out behind it, releases the lock, and takes it again, while a timer
 * of its own ticks. No call below ever waits for a lock; only ppoll waits (build with -D_GNU_SOURCE for it).
 */
#include <aflock/aflock.h>
#include <aflock/host.h>
#include <aflock/kit.h> /* for the thread pool only */

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

/* =============================================================================================== the loop's half */

enum { MAX_WATCHES = 32 };

struct loop {
    aflock_loop table;        /* what the library calls; lives as long as the context */
    aflock_executor executor; /* a thread pool, for calls that may block */
    aflock_ctx *ctx;

    int wake_fd;                        /* an eventfd: ends the waiting from another thread */
    int turn_wanted;                    /* the library asked for a turn: do not wait */
    int kept_alive;                     /* the library has something to do: go on running */
    uint64_t deadline;                  /* the library's one timer */
    aflock_watch *watches[MAX_WATCHES]; /* the library's descriptors; NULL: free place */

    uint64_t tick_interval; /* the program's own timer */
    uint64_t next_tick;
    void (*on_tick)(void *user);
    void *user;
};

/* The clock is read at each call: a cached time could make the library believe that a deadline has not come. */
static uint64_t loop_now(void *self)
{
    (void)self;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * AFLOCK_SECOND + (uint64_t)now.tv_nsec;
}

/* One timer, an absolute time. Remembering it is enough: the next round computes how long to wait. */
static int loop_timer(void *self, uint64_t deadline)
{
    struct loop *loop = self;
    loop->deadline = deadline;
    return 0;
}

/* "Call aflock_host_turn soon, on a fresh stack": from the next round, never from here. */
static void loop_defer(void *self)
{
    struct loop *loop = self;
    loop->turn_wanted = 1;
}

/* The same from worker threads and signal handlers: async-signal-safe, keeps errno, touches nothing of the loop's but
 * the descriptor. A full counter is no error: it is readable already. */
static void loop_wake(void *self)
{
    const struct loop *loop = self;
    int saved = errno;
    uint64_t one = 1;
    ssize_t written = write(loop->wake_fd, &one, sizeof one);
    (void)written;
    errno = saved;
}

static void loop_keep_alive(void *self, int on)
{
    struct loop *loop = self;
    loop->kept_alive = on;
}

/* `host` is ours: it points to the place of the watch. A second call with the same watch has changed `events`, which
 * the next round reads anyway. */
static int loop_watch(void *self, aflock_watch *watch)
{
    struct loop *loop = self;
    for (int i = 0; i < MAX_WATCHES && watch->host == NULL; i++) {
        if (loop->watches[i] == NULL) {
            loop->watches[i] = watch;
            watch->host = &loop->watches[i];
        }
    }
    return watch->host != NULL ? 0 : AFLOCK_ENOMEM;
}

/* Afterwards nothing may be reported, not even what the present round has already seen to be ready. */
static void loop_unwatch(void *self, aflock_watch *watch)
{
    (void)self;
    aflock_watch **place = watch->host;
    if (place != NULL)
        *place = NULL;
    watch->host = NULL;
}

/* The last call of all. In a forked child (`forked`) nothing may change that the parent shares; closing does not. */
static void loop_close(void *self, int forked)
{
    (void)forked;
    const struct loop *loop = self;
    close(loop->wake_fd);
}

static int loop_open(struct loop *loop)
{
    *loop = (struct loop){
        .table = {.size = sizeof loop->table,
                  .self = loop,
                  .name = "poll",
                  .resolution = 50 * AFLOCK_MICROSECOND, /* how late Linux lets ppoll end (its timer slack) */
                  .now = loop_now,
                  .timer = loop_timer,
                  .defer = loop_defer,
                  .wake = loop_wake,
                  .keep_alive = loop_keep_alive,
                  .watch = loop_watch,
                  .unwatch = loop_unwatch,
                  .close = loop_close},
        .deadline = AFLOCK_FOREVER,
        .next_tick = AFLOCK_FOREVER,
    };
    loop->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (loop->wake_fd < 0)
        return AFLOCK_ESYS;
    int status = aflock_pool_new(&loop->executor, NULL);
    if (status != 0) {
        close(loop->wake_fd);
        return status;
    }
    const aflock_host host = {.size = sizeof host, .loop = &loop->table, .executor = &loop->executor};
    status = aflock_ctx_new(&loop->ctx, &host, NULL);
    if (status != 0) { /* nothing of the tables was called: they are still ours to close */
        loop->executor.close(loop->executor.self, 0);
        close(loop->wake_fd);
    }
    return status;
}

static struct timespec time_to_wait(const struct loop *loop)
{
    uint64_t until = loop->deadline < loop->next_tick ? loop->deadline : loop->next_tick;
    uint64_t now = loop_now(NULL);
    uint64_t wait = loop->turn_wanted || until <= now ? 0 : until - now;
    return (struct timespec){.tv_sec = (time_t)(wait / AFLOCK_SECOND), .tv_nsec = (long)(wait % AFLOCK_SECOND)};
}

static void report(struct loop *loop, const struct pollfd *fds)
{
    for (int i = 0; i < MAX_WATCHES; i++) {
        aflock_watch *watch = loop->watches[i]; /* looked up anew: it may be gone since, or be another one */
        if (watch == NULL || watch->fd != fds[i].fd || fds[i].revents == 0)
            continue;
        unsigned ready = 0;
        if (fds[i].revents & (POLLIN | POLLHUP | POLLERR))
            ready |= AFLOCK_READ;
        if (fds[i].revents & (POLLOUT | POLLHUP | POLLERR))
            ready |= AFLOCK_WRITE;
        if (ready & watch->events)
            aflock_host_ready(loop->ctx, watch, ready & watch->events);
    }
}

/* Always before the turn: what was posted with these wake-ups is seen by it, and a later one wakes us again. */
static void take_wakes(const struct loop *loop)
{
    uint64_t count;
    ssize_t size = read(loop->wake_fd, &count, sizeof count);
    (void)size; /* nothing there: as good as something */
}

/* One round: wait, then the program's own work, then the library's; its turn comes last. */
static int loop_round(struct loop *loop)
{
    struct pollfd fds[MAX_WATCHES + 1];
    for (int i = 0; i < MAX_WATCHES; i++) {
        const aflock_watch *watch = loop->watches[i];
        fds[i] = (struct pollfd){.fd = watch != NULL ? watch->fd : -1}; /* poll skips -1 */
        if (watch != NULL)
            fds[i].events =
                (short)((watch->events & AFLOCK_READ ? POLLIN : 0) | (watch->events & AFLOCK_WRITE ? POLLOUT : 0));
    }
    fds[MAX_WATCHES] = (struct pollfd){.fd = loop->wake_fd, .events = POLLIN};

    struct timespec timeout = time_to_wait(loop);
    if (ppoll(fds, MAX_WATCHES + 1, &timeout, NULL) < 0)
        return errno == EINTR ? 0 : AFLOCK_ESYS;
    if (fds[MAX_WATCHES].revents != 0)
        take_wakes(loop);

    if (loop_now(NULL) >= loop->next_tick) {
        loop->next_tick += loop->tick_interval;
        loop->on_tick(loop->user);
    }
    report(loop, fds);
    if (loop_now(NULL) >= loop->deadline) {
        loop->deadline = AFLOCK_FOREVER;
        aflock_host_timer(loop->ctx);
    }
    loop->turn_wanted = 0; /* the turn may set it again */
    aflock_host_turn(loop->ctx);
    return 0;
}

static int loop_run(struct loop *loop)
{
    int status = 0;
    while (status == 0 && loop->kept_alive)
        status = loop_round(loop);
    return status;
}

static void loop_tick(struct loop *loop, uint64_t interval, void (*on_tick)(void *user), void *user)
{
    loop->tick_interval = interval;
    loop->next_tick = loop_now(NULL) + interval;
    loop->on_tick = on_tick;
    loop->user = user;
}

/* ============================================================================================ the program's half */

#define TIMEOUT (100 * AFLOCK_MILLISECOND)

struct program {
    aflock_req first;
    int ticks;
    int timed_out; /* the request behind the first did, and not too early, while the loop went on ticking */
    int again;     /* the lock was taken again after the release */
    int status;    /* what went wrong, or 0 */
};

static void on_tick(void *user)
{
    struct program *program = user;
    program->ticks++;
}

static void on_again(aflock *lock, const aflock_result *result, void *user)
{
    struct program *program = user;
    program->status = result->status;
    if (result->status != 0)
        return;
    printf("taken again after the release\n");
    program->again = 1;
    program->status = aflock_release(lock, result->req, NULL, NULL);
}

static void on_released(aflock *lock, const aflock_result *result, void *user)
{
    struct program *program = user;
    program->status = result->status;
    if (result->status == 0)
        program->status = aflock_acquire(lock, NULL, on_again, program, NULL);
}

static void on_second(aflock *lock, const aflock_result *result, void *user)
{
    struct program *program = user;
    printf("a second request: %s after %.1f ms; the loop ticked %d times meanwhile\n", aflock_strerror(result->status),
           (double)result->waited / 1e6, program->ticks);
    program->timed_out = result->status == AFLOCK_ETIMEDOUT && result->waited >= TIMEOUT && program->ticks > 0;
    program->status = aflock_release(lock, program->first, on_released, program);
}

static void on_first(aflock *lock, const aflock_result *result, void *user)
{
    struct program *program = user;
    program->status = result->status;
    if (result->status != 0)
        return;
    printf("we hold %s\n", result->path);
    program->first = result->req;
    program->ticks = 0;

    aflock_acquire_options options;
    aflock_acquire_options_init(&options);
    options.timeout = TIMEOUT;
    program->status = aflock_acquire(lock, &options, on_second, program, NULL);
}

static int run_program(struct loop *loop, const char *path)
{
    struct program program = {0};
    aflock *lock;
    aflock_options options;
    aflock_options_init(&options);
    options.io = AFLOCK_IO_POOL; /* so that the executor and the wake-up have something to do */
    int status = aflock_open(&lock, loop->ctx, path, &options);
    if (status == 0)
        status = aflock_acquire(lock, NULL, on_first, &program, NULL);
    if (status == 0) {
        loop_tick(loop, 10 * AFLOCK_MILLISECOND, on_tick, &program);
        status = loop_run(loop);
    }
    if (status == 0)
        status = program.status;
    if (status != 0)
        fprintf(stderr, "poll_loop: %s: %s\n", path, aflock_strerror(status));
    return status == 0 && program.timed_out && program.again ? EXIT_SUCCESS : EXIT_FAILURE;
}

static int run_on_path(const char *path)
{
    struct loop loop;
    int status = loop_open(&loop);
    if (status != 0) {
        fprintf(stderr, "poll_loop: %s\n", aflock_strerror(status));
        return EXIT_FAILURE;
    }
    int result = run_program(&loop, path);
    aflock_ctx_free(loop.ctx, AFLOCK_SECOND); /* closes the lock, then the tables */
    return result;
}

static int run_on_temporary_file(void)
{
    char path[] = "/tmp/poll_loop.XXXXXX";
    int fd = mkstemp(path);
    if (fd < 0) {
        perror("poll_loop: mkstemp");
        return EXIT_FAILURE;
    }
    close(fd);
    int result = run_on_path(path);
    unlink(path);
    return result;
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "--help") == 0) {
        printf("usage: poll_loop [FILE]\n"
               "Takes the lock FILE (by default a temporary file) from a hand-written poll(2) loop, lets a second\n"
               "request time out behind it, releases it and takes it again. Exit status 0 if all that happened.\n");
        return EXIT_SUCCESS;
    }
    if (argc > 2 || (argc == 2 && argv[1][0] == '-')) {
        fprintf(stderr, "usage: poll_loop [FILE]\n");
        return 2;
    }
    return argc == 2 ? run_on_path(argv[1]) : run_on_temporary_file();
}
