/* main.c: what an outside program does with aflock: it acquires a lock, releases it, and says so. */
#include <aflock/epoll.h>
#include <aflock/kit.h>
#include <stdio.h>

static void on_lock(aflock *lock, const aflock_result *result, void *user)
{
    *(int *)user = result->status;
    if (result->status == 0)
        aflock_release(lock, result->req, NULL, NULL);
}

int main(int argc, char **argv)
{
    if (argc != 2)
        return 2;

    aflock_pool_options pool;
    aflock_pool_options_init(&pool);
    pool.threads = 1;
    aflock_epoll_options options;
    aflock_epoll_options_init(&options);
    options.pool = &pool;

    aflock_ctx *ctx;
    aflock *lock;
    int answer = 1;
    int status = aflock_epoll_new(&ctx, &options);
    if (status == 0 && (status = aflock_open(&lock, ctx, argv[1], NULL)) == 0 &&
        (status = aflock_acquire(lock, NULL, on_lock, &answer, NULL)) == 0)
        status = aflock_epoll_run(ctx);
    if (status != 0 || answer != 0) {
        fprintf(stderr, "aflock: %s, %s\n", aflock_strerror(status), aflock_strerror(answer));
        return 1;
    }
    printf("aflock %s: acquired and released\n", aflock_version());
    return aflock_ctx_free(ctx, AFLOCK_SECOND) == 0 ? 0 : 1;
}
