/* An executor on libuv's global thread pool.
 *
 * A job takes a slot with libuv's request for as long as the loop knows of it, which is a little longer than the
 * library does: slots are made when none is free, and kept. The last one that comes back to a closed queue frees it.
 */
#include "queue.h"

#include <stdatomic.h>
#include <stdlib.h>

struct queue;

struct slot {
    uv_work_t work;
    struct queue *queue;
    aflock_job *job;
    aflock_lane lane;
    struct slot *next; /* that is free */
};

struct queue {
    const uv_handle_t *handle;
    uv_loop_t *loop;
    struct slot *free;
    unsigned busy; /* slots that the loop knows of */
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

/* On a worker. The job's context may be gone afterwards. */
static void on_work(uv_work_t *work)
{
    const struct slot *slot = work->data;
    if (slot->lane == AFLOCK_LANE_TRY && atomic_load(&slot->queue->closed))
        aflock_job_drop(slot->job);
    else
        aflock_job_run(slot->job);
}

static void after_work(uv_work_t *work, int status)
{
    struct slot *slot = work->data;
    struct queue *queue = slot->queue;
    if (status != 0)
        aflock_job_drop(slot->job); /* somebody cancelled it (uv_cancel) */
    slot->next = queue->free;
    queue->free = slot;
    if (--queue->busy == 0 && atomic_load(&queue->closed))
        free_queue(queue);
}

static int queue_submit(void *self, aflock_job *job, aflock_lane lane)
{
    struct queue *queue = self;
    if (uv_is_closing(queue->handle))
        return AFLOCK_ECLOSED;
    if (lane == AFLOCK_LANE_PARK)
        return AFLOCK_ENOTSUP; /* it would keep one of the loop's threads from everybody else */
    struct slot *slot = queue->free;
    if (slot != NULL)
        queue->free = slot->next;
    else
        slot = malloc(sizeof *slot);
    if (slot == NULL)
        return AFLOCK_ENOMEM;
    *slot = (struct slot){.queue = queue, .job = job, .lane = lane};
    slot->work.data = slot;
    uv_queue_work(queue->loop, &slot->work, on_work, after_work);
    queue->busy++;
    return 0;
}

/* In a child, slots that are out stay where the loop knows them. */
static void queue_close(void *self, int forked)
{
    (void)forked;
    struct queue *queue = self;
    atomic_store(&queue->closed, 1);
    if (queue->busy == 0)
        free_queue(queue);
}

int afl_uv_queue_new(aflock_executor *out, const uv_handle_t *handle, unsigned threads)
{
    struct queue *queue = calloc(1, sizeof *queue);
    if (queue == NULL)
        return AFLOCK_ENOMEM;
    queue->handle = handle;
    queue->loop = uv_handle_get_loop(handle);
    *out = (aflock_executor){
        .size = sizeof *out,
        .self = queue,
        .width = threads,
        .submit = queue_submit,
        .close = queue_close,
    };
    return 0;
}
