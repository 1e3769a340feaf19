/* The thread pool: runs the library's jobs that may block.
 *
 * Two first-in first-out queues, of which releases are served first; threads start when there is work for them and end
 * when they are idle. Jobs that wait for a lock go to a pool of their own, made with the first of them, that queues
 * nothing: each has its thread at once, or is refused. A job may hang for ever, so nobody ever waits for a thread:
 * threads are detached, and the pool is counted memory that the last of them frees. The mutex is held for a few
 * instructions (and to start a thread), never while a job runs or is dropped.
 *
 * submit, stalled and close are called on the loop's thread only, so that nothing competes with them but workers.
 */
#include "internal.h"

#include <aflock/kit.h>

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>

/* A job has the text of some paths and a piece of a file of /proc on its stack, and may call the user's on_acquired. */
enum { LANES = 2, SLAB_NODES = 62, STACK_LEAST = 64 * 1024 };

struct node {
    struct node *next;
    aflock_job *job;
};

/* Nodes are never given back one by one, so that a steady stream of jobs allocates nothing. */
struct slab {
    struct slab *next;
    struct node nodes[SLAB_NODES];
};

struct queue {
    struct node *first;
    struct node *last;
};

/* A thread with a job; lives on its stack. In the list of its pool in the order in which the jobs were started. */
struct worker {
    struct worker *prev;
    struct worker *next;
    int stalled; /* its job was reported: somebody else may do its work */
};

struct aflock_pool {
    pthread_mutex_t mutex;
    pthread_cond_t work;
    struct queue queues[LANES];
    unsigned queued;
    unsigned live;    /* threads */
    unsigned busy;    /* of these: with a job */
    unsigned stalled; /* of these: with a job that was reported */
    struct worker *first_busy;
    struct worker *last_busy;
    struct node *spare;
    struct slab *slabs;
    int closed;
    int queues_nothing;
    struct aflock_pool *parking; /* or NULL; the loop's thread only */
    aflock_pool_options options;
    atomic_uint references; /* of the owner, and of each thread */
};

/* ---------------------------------------------------------------------------------------------------- memory */

static void free_memory(aflock_pool *pool)
{
    while (pool->slabs != NULL) {
        struct slab *slab = pool->slabs;
        pool->slabs = slab->next;
        free(slab);
    }
    free(pool);
}

static void unref(aflock_pool *pool)
{
    if (atomic_fetch_sub(&pool->references, 1) != 1)
        return;
    pthread_cond_destroy(&pool->work);
    pthread_mutex_destroy(&pool->mutex);
    free_memory(pool);
}

static void put_node(aflock_pool *pool, struct node *node)
{
    node->next = pool->spare;
    pool->spare = node;
}

static struct node *get_node(aflock_pool *pool)
{
    if (pool->spare == NULL) {
        struct slab *slab = malloc(sizeof *slab);
        if (slab == NULL)
            return NULL;
        slab->next = pool->slabs;
        pool->slabs = slab;
        for (size_t i = 0; i < SLAB_NODES; i++)
            put_node(pool, &slab->nodes[i]);
    }
    struct node *node = pool->spare;
    pool->spare = node->next;
    return node;
}

/* ---------------------------------------------------------------------------------------------------- the queues */

static void push(aflock_pool *pool, aflock_lane lane, struct node *node, aflock_job *job)
{
    struct queue *queue = &pool->queues[lane];
    *node = (struct node){.job = job};
    if (queue->first == NULL)
        queue->first = node;
    else
        queue->last->next = node;
    queue->last = node;
    pool->queued++;
}

/* The next job, and what to do with it: after the end of the pool tries are only dropped. */
static aflock_job *take(aflock_pool *pool, void (**what)(aflock_job *job))
{
    struct queue *queue = &pool->queues[AFLOCK_LANE_RELEASE];
    *what = aflock_job_run;
    if (queue->first == NULL) {
        queue = &pool->queues[AFLOCK_LANE_TRY];
        if (pool->closed)
            *what = aflock_job_drop;
    }
    struct node *node = queue->first;
    if (node == NULL)
        return NULL;
    queue->first = node->next;
    pool->queued--;
    aflock_job *job = node->job;
    put_node(pool, node);
    return job;
}

/* ----------------------------------------------------------------------------------------------------- a thread */

/* How many threads there may be: each stalled one is replaced. */
static unsigned target(const aflock_pool *pool)
{
    unsigned wanted = pool->options.threads + pool->stalled;
    return wanted < pool->options.max_threads ? wanted : pool->options.max_threads;
}

/* The next job, or NULL if this thread is to end: it is one too many since a stalled one came back, there is nothing
 * more to come, or nothing came for too long. */
static aflock_job *next_job(aflock_pool *pool, void (**what)(aflock_job *job))
{
    uint64_t until = 0;
    int timed_out = 0;
    for (;;) {
        if (pool->live > target(pool) && !pool->closed)
            return NULL;
        aflock_job *job = take(pool, what);
        if (job != NULL || pool->closed || timed_out)
            return job;
        if (until == 0)
            until = afl_later(afl_monotonic(), pool->options.idle);
        if (until == AFLOCK_FOREVER) {
            pthread_cond_wait(&pool->work, &pool->mutex);
        } else {
            struct timespec time = afl_timespec(until);
            timed_out = pthread_cond_timedwait(&pool->work, &pool->mutex, &time) == ETIMEDOUT;
        }
    }
}

static void run(aflock_pool *pool, aflock_job *job, void (*what)(aflock_job *job))
{
    struct worker self = {.prev = pool->last_busy};
    *(self.prev != NULL ? &self.prev->next : &pool->first_busy) = &self;
    pool->last_busy = &self;
    pool->busy++;

    pthread_mutex_unlock(&pool->mutex);
    what(job);
    pthread_mutex_lock(&pool->mutex);

    *(self.prev != NULL ? &self.prev->next : &pool->first_busy) = self.next;
    *(self.next != NULL ? &self.next->prev : &pool->last_busy) = self.prev;
    pool->busy--;
    if (self.stalled)
        pool->stalled--;
}

static void *thread_main(void *argument)
{
    aflock_pool *pool = argument;
    aflock_job *job;
    void (*what)(aflock_job * job);
    pthread_setname_np(pthread_self(), "aflock");
    pthread_mutex_lock(&pool->mutex);
    while ((job = next_job(pool, &what)) != NULL)
        run(pool, job, what);
    pool->live--;
    pthread_mutex_unlock(&pool->mutex);
    unref(pool);
    return NULL;
}

/* stack_size 0: the system's default. */
static int create_thread(aflock_pool *pool, size_t stack_size)
{
    pthread_t thread;
    pthread_attr_t attributes;
    int error = pthread_attr_init(&attributes);
    if (error != 0)
        return error;
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    if (stack_size != 0)
        error = pthread_attr_setstacksize(&attributes, stack_size);
    if (error == 0)
        error = pthread_create(&thread, &attributes, thread_main, pool);
    pthread_attr_destroy(&attributes);
    return error;
}

/* Returns 0 or an errno. The thread inherits the blocked signals: the program's handlers never run on it. */
static int start_thread(aflock_pool *pool)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pool->live++;
    atomic_fetch_add(&pool->references, 1);
    int error = create_thread(pool, pool->options.stack_size);
    if (error == EINVAL) /* thread-local variables of the program live on the stack too, and do not fit */
        error = create_thread(pool, 0);
    if (error != 0) {
        pool->live--;
        atomic_fetch_sub(&pool->references, 1);
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return error;
}

/* Starts a thread if `jobs` are more than the threads at hand; one a time is enough, as jobs come one at a time. */
static int grow(aflock_pool *pool, unsigned jobs)
{
    if (jobs <= pool->live - pool->busy || pool->live >= target(pool))
        return 0;
    return start_thread(pool);
}

/* ------------------------------------------------------------------------------------------------------ making one */

static int init_condition(pthread_cond_t *condition)
{
    pthread_condattr_t attributes;
    int error = pthread_condattr_init(&attributes);
    if (error != 0)
        return error;
    error = pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    if (error == 0)
        error = pthread_cond_init(condition, &attributes);
    pthread_condattr_destroy(&attributes);
    return error;
}

static int init_locks(aflock_pool *pool)
{
    int error = init_condition(&pool->work);
    if (error != 0)
        return error;
    error = pthread_mutex_init(&pool->mutex, NULL);
    if (error != 0)
        pthread_cond_destroy(&pool->work);
    return error;
}

static aflock_pool *new_pool(const aflock_pool_options *options, int *error)
{
    aflock_pool *pool = calloc(1, sizeof *pool);
    if (pool == NULL) {
        *error = ENOMEM;
        return NULL;
    }
    pool->options = *options;
    atomic_init(&pool->references, 1);
    *error = init_locks(pool);
    if (*error == 0)
        return pool;
    free(pool);
    return NULL;
}

/* -------------------------------------------------------------------------------------------- the executor's table */

static int submit(aflock_pool *pool, aflock_job *job, aflock_lane lane)
{
    pthread_mutex_lock(&pool->mutex);
    int status = 0, error = 0;
    struct node *node = get_node(pool);
    if (node == NULL) {
        status = AFLOCK_ENOMEM;
    } else if (pool->queues_nothing && pool->busy + pool->queued >= pool->options.threads) {
        status = AFLOCK_EFULL;
        put_node(pool, node);
    } else if ((error = grow(pool, pool->queued + 1)) != 0 && (pool->live == 0 || pool->queues_nothing)) {
        status = AFLOCK_ESYS; /* with any thread alive another job just takes longer */
        put_node(pool, node);
    } else {
        push(pool, lane, node, job);
        /* Inside the mutex: else the threads that are awake empty the queue during this system call and fall asleep,
         * and the next job has to wake one again (with 64 jobs out: twice the futex calls, half the throughput). */
        pthread_cond_signal(&pool->work);
    }
    pthread_mutex_unlock(&pool->mutex);
    if (status == AFLOCK_ESYS)
        errno = error;
    return status;
}

static int park(aflock_pool *pool, aflock_job *job)
{
    if (pool->parking == NULL) {
        aflock_pool_options options = pool->options;
        options.threads = options.max_threads = pool->options.max_parked;
        int error = ENOTSUP;
        if (options.threads > 0)
            pool->parking = new_pool(&options, &error);
        if (pool->parking == NULL) {
            errno = error;
            return options.threads > 0 ? afl_status(error) : AFLOCK_ENOTSUP;
        }
        pool->parking->queues_nothing = 1;
    }
    return submit(pool->parking, job, AFLOCK_LANE_TRY);
}

static int pool_submit(void *self, aflock_job *job, aflock_lane lane)
{
    aflock_pool *pool = self;
    return lane == AFLOCK_LANE_PARK ? park(pool, job) : submit(pool, job, lane);
}

/* Which job it is nobody says, but none is longer under way than the one that was started first. */
static void pool_stalled(void *self)
{
    aflock_pool *pool = self;
    pthread_mutex_lock(&pool->mutex);
    struct worker *worker = pool->first_busy;
    while (worker != NULL && worker->stalled)
        worker = worker->next;
    if (worker != NULL) {
        worker->stalled = 1;
        pool->stalled++;
        grow(pool, pool->queued); /* if that fails, the next submit tries again */
    }
    pthread_mutex_unlock(&pool->mutex);
}

static void pool_close(void *self, int forked)
{
    aflock_pool *pool = self;
    if (pool->parking != NULL)
        pool_close(pool->parking, forked);
    if (forked) {
        free_memory(pool); /* the threads are not there, and one of them may have held the mutex */
        return;
    }
    pthread_mutex_lock(&pool->mutex);
    pool->closed = 1;
    /* All threads may hang for ever: what is queued gets one more. If that fails it waits for one that comes back. */
    if (pool->queued > 0 && pool->live == pool->busy && pool->live < pool->options.max_threads)
        start_thread(pool);
    pthread_cond_broadcast(&pool->work);
    pthread_mutex_unlock(&pool->mutex);
    unref(pool);
}

void aflock_pool_options_init(aflock_pool_options *options)
{
    if (options == NULL)
        return;
    *options = (aflock_pool_options){
        .size = sizeof *options,
        .threads = 4,
        .max_threads = 64,
        .stack_size = 128 * 1024,
        .idle = 10 * AFLOCK_SECOND,
        .max_parked = 32,
    };
}

int aflock_pool_new(aflock_executor *out, const aflock_pool_options *given)
{
    aflock_pool_options options;
    aflock_pool_options_init(&options);
    if (out == NULL || afl_options_read(&options, sizeof options, given) != 0)
        return AFLOCK_EINVAL;
    if (options.threads == 0 || options.max_threads < options.threads)
        return AFLOCK_EINVAL;
    if (options.stack_size < STACK_LEAST)
        options.stack_size = STACK_LEAST;

    int error;
    aflock_pool *pool = new_pool(&options, &error);
    if (pool == NULL) {
        errno = error;
        return afl_status(error);
    }
    *out = (aflock_executor){
        .size = sizeof *out,
        .self = pool,
        .width = options.threads,
        .submit = pool_submit,
        .close = pool_close,
        .stalled = pool_stalled,
    };
    return 0;
}
