/* What a program with a libev loop does: it acquires a lock, releases it, and its loop ends. */
#include <aflock/libev.h>
#include <ev.h>
#include <stdio.h>

static void on_lock(aflock *lock, const aflock_result *result, void *user)
{
    *(int *)user = result->status;
    if (result->status == 0)
        aflock_release(lock, result->req, NULL, NULL);
}

int main(int argc, char **argv)
{
    aflock_ctx *ctx;
    aflock *lock;
    int answer = 1;
    struct ev_loop *loop = EV_DEFAULT;
    if (argc != 2 || loop == NULL || aflock_libev_new(&ctx, loop, NULL) != 0)
        return 2;
    if (aflock_open(&lock, ctx, argv[1], NULL) == 0 && aflock_acquire(lock, NULL, on_lock, &answer, NULL) == 0)
        ev_run(loop, 0);
    printf("libev: %s\n", aflock_strerror(answer));
    int left = aflock_ctx_free(ctx, AFLOCK_SECOND);
    ev_loop_destroy(loop);
    return answer == 0 && left == 0 ? 0 : 1;
}
