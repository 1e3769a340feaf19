/* Exclusion between processes in good health (tests/storm has the others) under load, and on a path whose file is
 * unlinked again and again. Each process stamps the clock into shared memory after each grant and before each release;
 * the parent sorts the stamps and looks for an overlap. A run in which hardly anybody had to wait proves nothing and
 * fails. */
#include "support/scene.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { WORKERS = 8, STAMPS_MAX = 4000, HOLD = 40000, THINK = 300000 }; /* ns */

struct stamp {
    uint64_t start, end;
    bool waited;
};

static struct board {
    atomic_int ready, used;
    long counter; /* not atomic on purpose: the lock protects it */
    struct stamp stamps[STAMPS_MAX];
} * board;

/* What a worker does. */
struct job {
    aflock_io io;
    int holds;       /* how often */
    int queued;      /* requests at one time */
    int unlink_each; /* before each so manieth release the file goes; 0: never */
};

struct worker {
    struct job job;
    int asked, done;
    unsigned seed;
};

static uint64_t clock_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * AFLOCK_SECOND + (uint64_t)t.tv_nsec;
}

/* ------------------------------------------------------------------------------------------------------- one worker */

static aflock *lock;

static void ask(aflock_ctx *ctx, void *user);

static void on_lock(aflock *l, const aflock_result *result, void *user)
{
    uint64_t start = clock_now();
    struct worker *w = user;
    ck_assert_int_eq(result->status, 0);
    struct stamp *s = &board->stamps[board->used++];
    s->start = start;
    s->waited = result->attempts != 1;
    long counter = board->counter;
    nanosleep(&(struct timespec){.tv_nsec = HOLD}, NULL); /* so that others try meanwhile, on one core too */
    board->counter = counter + 1;
    w->done++;
    s->end = clock_now(); /* what has no name is nobody's: the hold ends with it */
    if (w->job.unlink_each && w->done % w->job.unlink_each == 0)
        ck_assert_int_eq(unlink("lock"), 0);
    ck_assert_int_eq(aflock_release(l, result->req, NULL, NULL), 0);
    if (w->asked < w->job.holds)
        ck_assert_int_eq(aflock_epoll_timer(scene, (uint64_t)rand_r(&w->seed) % THINK, ask, w), 0);
}

static void ask(aflock_ctx *ctx, void *user)
{
    struct worker *w = user;
    (void)ctx;
    if (w->asked == w->job.holds) /* another timer was quicker */
        return;
    w->asked++;
    ck_assert_int_eq(aflock_acquire(lock, NULL, on_lock, w, NULL), 0);
}

static void work(const struct job *job, int number)
{
    struct worker w = {.job = *job, .seed = (unsigned)number};
    aflock_options o;
    scene_make_context();
    aflock_options_init(&o);
    o.io = job->io;
    o.poll_interval = 200 * AFLOCK_MICROSECOND;
    ck_assert_int_eq(aflock_open(&lock, scene, "lock", &o), 0);
    for (board->ready++; board->ready < WORKERS;)
        usleep(100);
    for (int i = 0; i < job->queued; i++)
        ask(scene, &w);
    ck_assert_int_eq(aflock_epoll_run(scene), 0);
    ck_assert_int_eq(w.done, job->holds);
    ck_assert_int_eq(aflock_close(lock), 0);
    scene_free_context();
    _exit(0);
}

static pid_t start(const struct job *job, int number)
{
    pid_t pid = fork();
    ck_assert_int_ge(pid, 0);
    if (pid == 0)
        work(job, number);
    return pid;
}

/* ------------------------------------------------------------------------------------------------------- the judgement
 */

static void make_board(void)
{
    scene_free_context();
    board = mmap(NULL, sizeof *board, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    ck_assert(board != MAP_FAILED);
}

static int by_start(const void *a, const void *b)
{
    uint64_t x = ((const struct stamp *)a)->start, y = ((const struct stamp *)b)->start;
    return (x > y) - (x < y);
}

/* No two holds overlap; and many had to wait. */
static void judge(int expected)
{
    uint64_t last = 0; /* end so far */
    int waited = 0;
    ck_assert_int_eq(board->used, expected);
    qsort(board->stamps, (size_t)expected, sizeof board->stamps[0], by_start);
    for (int i = 0; i < expected; i++) {
        const struct stamp *s = &board->stamps[i];
        ck_assert_msg(s->start >= last, "hold %d began %lu ns before another ended", i,
                      (unsigned long)(last - s->start));
        last = s->end;
        waited += s->waited;
    }
    ck_assert_int_eq(board->counter, expected);
    ck_assert_msg(waited >= expected / 4, "only %d of %d had to wait", waited, expected);
}

static void run(struct job (*job_of)(int number))
{
    pid_t pids[WORKERS];
    int expected = 0;
    make_board();
    for (int i = 0; i < WORKERS; i++) {
        struct job job = job_of(i);
        expected += job.holds;
        pids[i] = start(&job, i);
    }
    for (int i = 0; i < WORKERS; i++) {
        int status;
        ck_assert_int_eq(waitpid(pids[i], &status, 0), pids[i]);
        ck_assert_int_eq(status, 0);
    }
    judge(expected);
    scene_make_context();
}

/* ------------------------------------------------------------------------------------------------------------ the runs
 */

static struct job mixed(int number)
{
    static const aflock_io IO[] = {AFLOCK_IO_INLINE, AFLOCK_IO_POOL, AFLOCK_IO_AUTO, AFLOCK_IO_POOL};
    return (struct job){.io = IO[number % 4], .holds = 250, .queued = number < 4 ? 1 : 2};
}

START_TEST(eight_processes)
{
    run(mixed);
}
END_TEST

/* Holders that unlink the file: whoever opened it before holds nothing. */
static struct job unlinking(int number)
{
    struct job job = mixed(number);
    job.queued = 1; /* a hand-off looks at the path now and then only */
    job.holds = 60;
    job.unlink_each = 2 + number % 2;
    return job;
}

START_TEST(the_file_goes_again_and_again)
{
    run(unlinking);
}
END_TEST

int main(void)
{
    const TTest *const once[] = {
        eight_processes,
        the_file_goes_again_and_again,
        NULL,
    };
    return scene_main("exclusion", once, NULL);
}
