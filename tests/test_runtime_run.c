/* Runs: jobs change hands between the loop and a worker, each is carried out once or taken back, and the last one that
 * comes back says that it was the last. */
#include "support/fake_host.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>

enum { ROUNDS = 2000, JOBS = 64 };

/* A run whose executor is this test: posted jobs come back through a gate of its own. */
static afl_gate *gate;
static afl_run run;

struct counted {
    aflock_job job;
    atomic_uint begun;
    unsigned back;
};

static struct counted jobs[JOBS];

static void wake(void *self)
{
    (void)self;
}

static const aflock_loop loop = {.wake = wake};

static void begin(aflock_job *job)
{
    atomic_fetch_add(&((struct counted *)job)->begun, 1);
}

static aflock_job *make_job(unsigned number)
{
    struct counted *c = &jobs[number];
    *c = (struct counted){.job = {.run = begin, .gate = gate}};
    atomic_fetch_add(&gate->refs, 1);
    return &c->job;
}

static void start(void)
{
    gate = afl_gate_new(&loop, &afl_sys_linux);
    ck_assert_ptr_nonnull(gate);
}

/* How many came back; whether the last one of them ended the run. */
static unsigned collect(bool *ended)
{
    unsigned count = 0;
    *ended = false;
    for (aflock_job *job = afl_gate_take_jobs(gate); job; job = job->next) {
        ck_assert(!*ended); /* nothing comes after the last */
        ((struct counted *)job)->back++;
        *ended = job->ends_run;
        run.left--;
        count++;
    }
    return count;
}

START_TEST(jobs_are_carried_out_in_their_order)
{
    bool ended;
    start();
    afl_run_begin(&run, make_job(0));
    for (unsigned i = 1; i <= AFL_RUN_SLOTS; i++)
        ck_assert(afl_run_add(&run, make_job(i)));
    ck_assert(!afl_run_add(&run, make_job(AFL_RUN_SLOTS + 1))); /* it is full */
    afl_gate_unref(gate);
    ck_assert_uint_eq(run.left, AFL_RUN_SLOTS + 1);
    aflock_job_run(&jobs[0].job);
    aflock_job *back = afl_gate_take_jobs(gate);
    for (unsigned i = 0; i <= AFL_RUN_SLOTS; i++, back = back->next) {
        ck_assert_ptr_eq(back, &jobs[i].job);
        ck_assert_uint_eq(atomic_load(&jobs[i].begun), 1);
        ck_assert(back->ends_run == (i == AFL_RUN_SLOTS));
    }
    ck_assert_ptr_null(back);
    ck_assert(!afl_run_add(&run, make_job(0))); /* it has ended */
    afl_gate_unref(gate);

    afl_run_begin(&run, make_job(0)); /* used again */
    ck_assert(afl_run_add(&run, make_job(1)));
    aflock_job_run(&jobs[0].job);
    ck_assert_uint_eq(collect(&ended), 2);
    ck_assert(ended && run.left == 0);
    afl_gate_unref(gate);
}
END_TEST

START_TEST(jobs_are_taken_back)
{
    bool ended;
    start();
    afl_run_begin(&run, make_job(0));
    for (unsigned i = 1; i <= AFL_RUN_SLOTS; i++)
        ck_assert(afl_run_add(&run, make_job(i)));
    ck_assert(!afl_run_take_back(&jobs[0].job)); /* it may have begun */
    ck_assert(afl_run_take_back(&jobs[3].job));
    ck_assert(!afl_run_take_back(&jobs[3].job));
    ck_assert_ptr_eq(afl_run_take_back_first(&run), &jobs[1].job);
    ck_assert_ptr_eq(afl_run_take_back_first(&run), &jobs[2].job);
    ck_assert_ptr_eq(afl_run_take_back_first(&run), &jobs[4].job);
    ck_assert_uint_eq(run.left, AFL_RUN_SLOTS - 3);
    for (int i = 0; i < 4; i++)
        afl_gate_unref(gate);
    aflock_job_run(&jobs[0].job);
    ck_assert_uint_eq(collect(&ended), AFL_RUN_SLOTS - 3);
    ck_assert(ended && run.left == 0);
    ck_assert_ptr_null(afl_run_take_back_first(&run));
    afl_gate_unref(gate);
}
END_TEST

/* Nobody is left who could free the run: valgrind and LeakSanitizer look. */
START_TEST(a_run_without_a_context_frees_itself)
{
    start();
    afl_run *own = calloc(1, sizeof *own);
    ck_assert_ptr_nonnull(own);
    for (unsigned i = 0; i < 3; i++)
        make_job(i)->orphan = begin;
    afl_run_begin(own, &jobs[0].job);
    ck_assert(afl_run_add(own, &jobs[1].job) && afl_run_add(own, &jobs[2].job));
    afl_gate_close(gate);
    aflock_job_run(&jobs[0].job);
    for (unsigned i = 0; i < 3; i++)
        ck_assert_uint_eq(atomic_load(&jobs[i].begun), 2); /* carried out, and orphaned */
    afl_gate_unref(gate);
}
END_TEST

static void *work(void *job)
{
    aflock_job_run(job);
    return NULL;
}

/* The loop adds and takes back while the worker works, and now and then comes too late. */
START_TEST(jobs_change_hands_between_threads)
{
    unsigned long added = 0, taken = 0, refused = 0;
    start();
    for (unsigned round = 0; round < ROUNDS; round++) {
        pthread_t thread;
        bool is_out[JOBS] = {true}, ended = false;
        afl_run_begin(&run, make_job(0));
        ck_assert_int_eq(pthread_create(&thread, NULL, work, &jobs[0].job), 0);
        while (round % 4 != 0 && atomic_load(&jobs[0].begun) == 0)
            sched_yield();
        for (unsigned i = 1; i < JOBS; i++) {
            if (!afl_run_add(&run, make_job(i))) {
                afl_gate_unref(gate);
                refused++;
                continue;
            }
            is_out[i] = true;
            added++;
            if (i % 3 == 0 && afl_run_take_back(&jobs[i - i % 2].job)) {
                is_out[i - i % 2] = false;
                afl_gate_unref(gate);
                taken++;
            }
        }
        for (aflock_job *job; round % 2 && (job = afl_run_take_back_first(&run)) != NULL; taken++) {
            is_out[(struct counted *)job - jobs] = false;
            afl_gate_unref(gate);
        }
        ck_assert_int_eq(pthread_join(thread, NULL), 0);
        collect(&ended);
        ck_assert(ended);
        ck_assert_uint_eq(run.left, 0);
        for (unsigned i = 0; i < JOBS; i++) {
            ck_assert_uint_eq(atomic_load(&jobs[i].begun), is_out[i]);
            ck_assert_uint_eq(jobs[i].back, is_out[i]);
        }
    }
    ck_assert_uint_eq(atomic_load(&gate->refs), 1);
    afl_gate_unref(gate);
    ck_assert_uint_gt(refused, 0);
    printf("figure: runs: %d, %lu jobs added meanwhile, %lu taken back, %lu too late\n", ROUNDS, added, taken, refused);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {jobs_are_carried_out_in_their_order, jobs_are_taken_back,
                                  a_run_without_a_context_frees_itself, jobs_change_hands_between_threads, NULL};
    return fake_main("runtime: runs", tests);
}
