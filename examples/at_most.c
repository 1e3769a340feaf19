/* At most N programs at a time, of all that are started.
 *
 *     ./at_most N DIRECTORY MILLISECONDS
 *
 * Waits until it is one of at most N that work, says which slot it has, works for so long, and makes way. Python's
 * portalocker.BoundedSemaphore(N, name="work", directory=DIRECTORY) counts with it.
 */
#include <aflock/epoll.h>
#include <aflock/semaphore.h>

#include <stdio.h>
#include <stdlib.h>

struct job {
    aflock_semaphore *semaphore;
    aflock_permit permit;
    uint64_t duration;
    unsigned slot;
    int status;
};

static void say(const struct job *job, const char *what)
{
    printf("%s slot %u\n", what, job->slot);
    fflush(stdout);
}

static void end_work(aflock_ctx *ctx, void *user)
{
    struct job *job = user;
    (void)ctx;
    say(job, "leave");
    job->status = aflock_semaphore_release(job->semaphore, job->permit, NULL, NULL);
}

static void on_slot(aflock_semaphore *semaphore, const aflock_semaphore_result *result, void *user)
{
    struct job *job = user;
    job->status = result->status;
    if (result->status != 0)
        return;
    job->permit = result->permit;
    job->slot = result->slot;
    say(job, "enter");
    job->status = aflock_epoll_timer(aflock_context(aflock_semaphore_lock(semaphore, 0)), job->duration, end_work, job);
}

int main(int argc, char **argv)
{
    aflock_ctx *ctx = NULL;
    struct job job = {.semaphore = NULL};
    if (argc != 4) {
        fprintf(stderr, "usage: at_most N DIRECTORY MILLISECONDS\n");
        return 2;
    }
    job.duration = strtoul(argv[3], NULL, 10) * AFLOCK_MILLISECOND;
    int status = aflock_epoll_new(&ctx, NULL);
    if (status == 0)
        status = aflock_semaphore_new(&job.semaphore, ctx, argv[2], "work", (unsigned)strtoul(argv[1], NULL, 10), NULL);
    if (status == 0)
        status = aflock_semaphore_acquire(job.semaphore, AFLOCK_FOREVER, NULL, on_slot, &job, NULL);
    if (status == 0)
        status = aflock_epoll_run(ctx);
    if (status == 0)
        status = job.status;
    if (status != 0)
        fprintf(stderr, "at_most: %s\n", aflock_strerror(status));
    aflock_semaphore_free(job.semaphore);
    aflock_ctx_free(ctx, AFLOCK_SECOND);
    return status != 0;
}
