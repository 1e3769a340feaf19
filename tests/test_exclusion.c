/* Exclusion between processes under load. Each process stamps the clock into shared memory after each grant and before
 * each release; the parent sorts the stamps and looks for an overlap. A run in which hardly anybody had to wait proves
 * nothing and fails. */
#include "support/scene.h"

#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { WORKERS = 8, STAMPS_MAX = 4000, HOLD = 40000, THINK = 300000 }; /* ns */

struct stamp {
    uint64_t start, end;
    aflock_mode mode;
    bool waited;
};

static struct board {
    atomic_int ready, used;
    long counter; /* not atomic on purpose: the lock protects it */
    struct stamp stamps[STAMPS_MAX];
} * board;

/* What a worker does. */
struct job {
    aflock_protocol protocol;
    aflock_io io;
    aflock_mode mode;
    int holds;       /* how often */
    int queued;      /* requests at one time */
    int unlink_each; /* before each so manieth release the file goes; 0: never */
    bool dies;       /* in its first hold */
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
    s->mode = w->job.mode;
    s->waited = result->attempts != 1;
    long counter = board->counter;
    nanosleep(&(struct timespec){.tv_nsec = HOLD}, NULL); /* so that others try meanwhile, on one core too */
    if (w->job.mode == AFLOCK_EXCLUSIVE)
        board->counter = counter + 1;
    w->done++;
    s->end = clock_now(); /* what has no name is nobody's: the hold ends with it */
    if (w->job.unlink_each && w->done % w->job.unlink_each == 0)
        ck_assert_int_eq(unlink("lock"), 0);
    if (w->job.dies)
        raise(SIGKILL);
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
    aflock_acquire_options o = scene_options(0, 0);
    o.mode = w->job.mode;
    w->asked++;
    ck_assert_int_eq(aflock_acquire(lock, &o, on_lock, w, NULL), 0);
}

static void work(const struct job *job, int number)
{
    struct worker w = {.job = *job, .seed = (unsigned)number};
    aflock_options o;
    scene_make_context();
    aflock_options_init(&o);
    o.protocol = job->protocol;
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

/* No two holds overlap, unless both are shared; and many had to wait. */
static void judge(int expected)
{
    uint64_t last = 0, last_exclusive = 0; /* ends so far */
    int waited = 0, exclusive = 0;
    ck_assert_int_eq(board->used, expected);
    qsort(board->stamps, (size_t)expected, sizeof board->stamps[0], by_start);
    for (int i = 0; i < expected; i++) {
        const struct stamp *s = &board->stamps[i];
        uint64_t bound = s->mode == AFLOCK_EXCLUSIVE ? last : last_exclusive;
        ck_assert_msg(s->start >= bound, "hold %d began %lu ns before another ended", i,
                      (unsigned long)(bound - s->start));
        last = s->end > last ? s->end : last;
        if (s->mode == AFLOCK_EXCLUSIVE) {
            last_exclusive = s->end > last_exclusive ? s->end : last_exclusive;
            exclusive++;
        }
        waited += s->waited;
    }
    ck_assert_int_eq(board->counter, exclusive);
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

static struct job mixed_records(int number)
{
    struct job job = mixed(number);
    job.protocol = AFLOCK_OFD;
    job.holds = 50;
    return job;
}

START_TEST(eight_processes_on_record_locks)
{
    run(mixed_records);
}
END_TEST

static struct job readers_and_writers(int number)
{
    struct job job = mixed(number);
    job.mode = number % 2 ? AFLOCK_SHARED : AFLOCK_EXCLUSIVE;
    job.holds = 50;
    return job;
}

START_TEST(shared_holds_overlap_with_shared_ones_only)
{
    run(readers_and_writers);
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

/* Holders that are killed in the middle of a hold, one after the other. */
START_TEST(holders_die)
{
    enum { DEAD = 30, ALIVE = WORKERS - 1 };
    pid_t pids[ALIVE];
    make_board();
    for (int i = 0; i < ALIVE; i++) {
        struct job job = mixed(i);
        job.holds = 60;
        pids[i] = start(&job, i);
    }
    for (int i = 0; i < DEAD; i++) {
        int status;
        struct job job = mixed(i);
        job.dies = true;
        pid_t pid = start(&job, i);
        ck_assert_int_eq(waitpid(pid, &status, 0), pid);
        ck_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    }
    for (int i = 0; i < ALIVE; i++) {
        int status;
        ck_assert_int_eq(waitpid(pids[i], &status, 0), pids[i]);
        ck_assert_int_eq(status, 0);
    }
    judge(ALIVE * 60 + DEAD);
    scene_make_context();
    aflock *after = scene_open("lock", AFLOCK_IO_AUTO);
    scene_must_work(after);
}
END_TEST

int main(void)
{
    const TTest *const once[] = {
        eight_processes,
        eight_processes_on_record_locks,
        shared_holds_overlap_with_shared_ones_only,
        the_file_goes_again_and_again,
        holders_die,
        NULL,
    };
    return scene_main("exclusion", once, NULL);
}
