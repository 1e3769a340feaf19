/* A program on the loop of poll_loop.c: it takes a lock, lets another request time out behind it, releases the lock,
 * and takes it again, while a timer of its own ticks.
 */
#include "poll_loop.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TIMEOUT (100 * AFLOCK_MILLISECOND)
#define TICK (10 * AFLOCK_MILLISECOND)

struct program {
    struct poll_loop *loop;
    aflock_req first;
    int ticks;
    int timed_out; /* the request behind the first did, and not too early, while the loop went on ticking */
    int again;     /* the lock was taken again after the release */
    int status;    /* what went wrong, or 0 */
};

/* A pending timer keeps the loop running, so that it stops when there is nothing more to see. */
static void on_tick(void *user)
{
    struct program *program = user;
    program->ticks++;
    if (program->status == 0 && !program->again)
        program->status = poll_loop_timer(program->loop, TICK, on_tick, program);
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

static int run_program(struct program *program, aflock_ctx *ctx, const char *path)
{
    aflock *lock;
    aflock_options options;
    aflock_options_init(&options);
    options.io = AFLOCK_IO_POOL; /* so that the executor and the wake-up have something to do */
    int status = aflock_open(&lock, ctx, path, &options);
    if (status == 0)
        status = aflock_acquire(lock, NULL, on_first, program, NULL);
    if (status == 0)
        status = poll_loop_timer(program->loop, TICK, on_tick, program);
    if (status == 0)
        status = poll_loop_run(program->loop);
    return status != 0 ? status : program->status;
}

static int run_on_path(const char *path)
{
    struct program program = {.loop = poll_loop_new()};
    if (program.loop == NULL) {
        perror("poll_loop");
        return EXIT_FAILURE;
    }
    aflock_ctx *ctx;
    int status = poll_loop_context(program.loop, NULL, &ctx);
    if (status == 0)
        status = run_program(&program, ctx, path);
    if (status != 0)
        fprintf(stderr, "poll_loop: %s: %s\n", path, aflock_strerror(status));
    aflock_ctx_free(ctx, AFLOCK_SECOND); /* closes the lock */
    poll_loop_free(program.loop);
    return status == 0 && program.timed_out && program.again ? EXIT_SUCCESS : EXIT_FAILURE;
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
