/* What a program with a libevent loop does: it acquires a lock, releases it, and its loop ends. */
#include <aflock/libevent.h>
#include <event2/event.h>
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
    struct event_base *base = event_base_new();
    if (argc != 2 || base == NULL || aflock_libevent_new(&ctx, base, NULL) != 0)
        return 2;
    if (aflock_open(&lock, ctx, argv[1], NULL) == 0 && aflock_acquire(lock, NULL, on_lock, &answer, NULL) == 0)
        event_base_dispatch(base);
    printf("libevent: %s\n", aflock_strerror(answer));
    int left = aflock_ctx_free(ctx, AFLOCK_SECOND);
    event_base_free(base);
    return answer == 0 && left == 0 ? 0 : 1;
}
