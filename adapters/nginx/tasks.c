/* An executor on one of nginx's thread pools, and on one of ours for what that does not take.
 *
 * nginx ends its pools before modules hear that the worker ends. It waits until all that was posted has run, but what
 * is posted afterwards never would, and may find the pool's mutex gone. So nothing is posted from the moment on when
 * nginx is told to end.
 *
 * A job takes a slot with nginx's task for as long as nginx knows of it, which is until the loop hears that it is
 * complete: slots are made when none is free, and kept. The last one that comes back to a closed queue frees it. What
 * nginx's pool completes while it ends nobody hears of: its slots end with the process.
 */
#include "tasks.h"

#include <aflock/kit.h>

#if (NGX_THREADS)

#include <ngx_thread_pool.h>
#include <stdatomic.h>
#include <stdlib.h>

struct queue;

struct slot {
    ngx_thread_task_t task;
    struct queue *queue;
    aflock_job *job;
    aflock_lane lane;
    struct slot *next; /* that is free */
};

struct queue {
    ngx_thread_pool_t *pool;
    ngx_log_t *log;
    aflock_executor ours;
    struct slot *free;
    unsigned busy; /* slots that nginx knows of */
    atomic_int closed;
};

static void free_queue(struct queue *queue)
{
    while (queue->free != NULL) {
        struct slot *slot = queue->free;
        queue->free = slot->next;
        free(slot);
    }
    free(queue);
}

static void put_slot(struct slot *slot)
{
    struct queue *queue = slot->queue;
    slot->next = queue->free;
    queue->free = slot;
}

/* On a thread of nginx's. The job's context may be gone afterwards. */
static void on_task(void *self, ngx_log_t *log)
{
    const struct slot *slot = self;
    (void)log;
    if (slot->lane == AFLOCK_LANE_TRY && atomic_load(&slot->queue->closed))
        aflock_job_drop(slot->job);
    else
        aflock_job_run(slot->job);
}

static void on_complete(ngx_event_t *event)
{
    struct slot *slot = event->data;
    struct queue *queue = slot->queue;
    put_slot(slot);
    if (--queue->busy == 0 && atomic_load(&queue->closed))
        free_queue(queue);
}

static struct slot *get_slot(struct queue *queue)
{
    struct slot *slot = queue->free;
    if (slot != NULL)
        queue->free = slot->next;
    else
        slot = malloc(sizeof *slot);
    return slot;
}

/* 0: it was not taken. */
static int post(struct queue *queue, aflock_job *job, aflock_lane lane)
{
    if (ngx_exiting || ngx_quit || ngx_terminate)
        return 0;
    struct slot *slot = get_slot(queue);
    if (slot == NULL)
        return 0;
    *slot = (struct slot){.queue = queue, .job = job, .lane = lane};
    slot->task.ctx = slot;
    slot->task.handler = on_task;
    slot->task.event.data = slot;
    slot->task.event.handler = on_complete;
    slot->task.event.log = queue->log;
    queue->busy++;
    if (ngx_thread_task_post(queue->pool, &slot->task) == NGX_OK)
        return 1;
    queue->busy--;
    put_slot(slot);
    return 0;
}

static int queue_submit(void *self, aflock_job *job, aflock_lane lane)
{
    struct queue *queue = self;
    if (lane == AFLOCK_LANE_PARK)
        return AFLOCK_ENOTSUP; /* it would keep a thread of nginx's from everybody else */
    return post(queue, job, lane) ? 0 : queue->ours.submit(queue->ours.self, job, lane);
}

static void queue_stalled(void *self)
{
    const struct queue *queue = self;
    queue->ours.stalled(queue->ours.self);
}

/* In a child, slots that are out stay where nginx knows them. */
static void queue_close(void *self, int forked)
{
    struct queue *queue = self;
    queue->ours.close(queue->ours.self, forked);
    atomic_store(&queue->closed, 1);
    if (queue->busy == 0)
        free_queue(queue);
}

int afl_nginx_tasks_new(aflock_executor *out, struct ngx_thread_pool_s *pool, const aflock_pool_options *options,
                        ngx_log_t *log)
{
    struct queue *queue = calloc(1, sizeof *queue);
    if (queue == NULL)
        return AFLOCK_ENOMEM;
    int status = aflock_pool_new(&queue->ours, options);
    if (status != 0) {
        free(queue);
        return status;
    }
    queue->pool = pool;
    queue->log = log;
    *out = (aflock_executor){
        .size = sizeof *out,
        .self = queue,
        .width = queue->ours.width,
        .submit = queue_submit,
        .close = queue_close,
        .stalled = queue_stalled,
    };
    return 0;
}

#else

int afl_nginx_tasks_new(aflock_executor *out, struct ngx_thread_pool_s *pool, const aflock_pool_options *options,
                        ngx_log_t *log)
{
    (void)out;
    (void)pool;
    (void)options;
    ngx_log_error(NGX_LOG_ERR, log, 0, "aflock: a thread pool was given, but nginx was built without threads");
    return AFLOCK_ENOTSUP;
}

#endif
