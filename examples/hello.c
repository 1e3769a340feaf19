/* The shortest useful program: take a lock, do something, give it back. */
#include <aflock/epoll.h>
#include <stdio.h>

static void on_lock(aflock *lock, const aflock_result *result, void *user)
{
    int *answer = user;
    *answer = result->status;
    if (result->status != 0)
        return; /* AFLOCK_ETIMEDOUT, for example */
    printf("we hold %s\n", result->path);
    *answer = aflock_release(lock, result->req, NULL, NULL);
}

int main(void)
{
    aflock_ctx *ctx = NULL;
    aflock *lock;
    int answer = 0;
    aflock_acquire_options options;
    aflock_acquire_options_init(&options);
    options.timeout = 5 * AFLOCK_SECOND;

    int status = aflock_epoll_new(&ctx, NULL);
    if (status == 0)
        status = aflock_open(&lock, ctx, "work.lock", NULL);
    if (status == 0)
        status = aflock_acquire(lock, &options, on_lock, &answer, NULL); /* returns at once */
    if (status == 0)
        status = aflock_epoll_run(ctx); /* the loop: on_lock runs in here */
    if (status == 0)
        status = answer;
    if (status != 0)
        fprintf(stderr, "work.lock: %s\n", aflock_strerror(status));
    aflock_ctx_free(ctx, AFLOCK_SECOND);
    return status != 0;
}
