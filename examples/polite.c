/* A long job that makes way.
 *
 * It works in steps and holds its lock from one step to the next, which costs nothing. Only when somebody wants the
 * lock, in this program or another, it gives it back between two steps, asks for it again, and goes on when it is its
 * turn:
 *
 *     ./polite /tmp/polite.lock 1000 &
 *     flock /tmp/polite.lock echo "it let me in"
 */
#include <aflock/epoll.h>

#include <stdio.h>
#include <stdlib.h>

#define STEP (10 * AFLOCK_MILLISECOND)

struct job {
    aflock *lock;
    aflock_req hold;
    long step, steps;
    int wanted;
    int status;
};

static void ask(struct job *job);

static void end(struct job *job, const char *what, int status)
{
    if (status != 0)
        fprintf(stderr, "polite: %s: %s\n", what, aflock_strerror(status));
    job->status = status;
}

/* Between two steps the work can be left as it is. */
static void work(aflock_ctx *ctx, void *user)
{
    struct job *job = user;
    int status = 0;
    if (++job->step == job->steps) {
        end(job, "release", aflock_release(job->lock, job->hold, NULL, NULL));
        return;
    }
    if (!job->wanted) {
        status = aflock_epoll_timer(ctx, STEP, work, job);
        if (status != 0)
            end(job, "timer", status);
        return;
    }
    printf("made way after step %ld\n", job->step);
    fflush(stdout);
    status = aflock_release(job->lock, job->hold, NULL, NULL);
    if (status != 0)
        end(job, "release", status);
    else
        ask(job); /* whoever wants it gets it first */
}

static void on_lock(aflock *lock, const aflock_result *result, void *user)
{
    struct job *job = user;
    int status = result->status;
    job->hold = result->req;
    if (status == 0)
        status = aflock_epoll_timer(aflock_context(lock), STEP, work, job);
    if (status != 0)
        end(job, "acquire", status);
}

static void on_wanted(aflock *lock, aflock_req req, aflock_wanted who, void *user)
{
    (void)lock, (void)req, (void)who;
    ((struct job *)user)->wanted = 1;
}

static void ask(struct job *job)
{
    aflock_acquire_options options;
    aflock_acquire_options_init(&options);
    options.on_wanted = on_wanted;
    options.on_wanted_user = job;
    job->wanted = 0;
    int status = aflock_acquire(job->lock, &options, on_lock, job, NULL);
    if (status != 0)
        end(job, "acquire", status);
}

int main(int argc, char **argv)
{
    struct job job = {.steps = argc == 3 ? strtol(argv[2], NULL, 10) : 0};
    aflock_ctx *ctx = NULL;
    if (job.steps <= 0) {
        fputs("usage: polite LOCK-FILE STEPS\n  works STEPS times 10 ms under the lock, and makes way for whoever "
              "wants it\n",
              stderr);
        return 2;
    }
    int status = aflock_epoll_new(&ctx, NULL);
    if (status == 0)
        status = aflock_open(&job.lock, ctx, argv[1], NULL);
    if (status == 0)
        ask(&job);
    else
        end(&job, argv[1], status);
    aflock_epoll_run(ctx);
    if (ctx != NULL && aflock_ctx_free(ctx, AFLOCK_SECOND) != 0)
        return 1;
    if (job.status == 0)
        printf("done after %ld steps\n", job.step);
    return job.status == 0 ? 0 : 1;
}
