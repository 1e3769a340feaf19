/* What a program with a libuv loop does: it acquires a lock, releases it, and its loop ends. */
#include <aflock/libuv.h>
#include <stdio.h>
#include <uv.h>

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
    uv_loop_t *loop = uv_default_loop();
    if (argc != 2 || loop == NULL || aflock_libuv_new(&ctx, loop, NULL) != 0)
        return 2;
    if (aflock_open(&lock, ctx, argv[1], NULL) == 0 && aflock_acquire(lock, NULL, on_lock, &answer, NULL) == 0)
        uv_run(loop, UV_RUN_DEFAULT);
    printf("libuv: %s\n", aflock_strerror(answer));
    int left = aflock_ctx_free(ctx, AFLOCK_SECOND);
    uv_run(loop, UV_RUN_DEFAULT); /* closes the handles */
    return answer == 0 && left == 0 && uv_loop_close(loop) == 0 ? 0 : 1;
}
