/* The thread pool alone: the library's side of it is played by the jobs below. */
#include <aflock/kit.h>

#include <check.h>
#include <dirent.h>
#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MANY = 4000 };

/* --------------------------------------------------------------------------------------------------- the jobs */

struct aflock_job {
    int name;
    int gate; /* a descriptor to read one byte from first, or -1 */
    void (*work)(void);
    atomic_int ran;
    atomic_int dropped;
};

static aflock_executor pool;
static atomic_int started, finished, running, most_running, dropped;
static atomic_int order[64];
static void (*on_drop)(void);

void aflock_job_run(aflock_job *job)
{
    int now_running = atomic_fetch_add(&running, 1) + 1;
    int most = atomic_load(&most_running);
    while (now_running > most && !atomic_compare_exchange_weak(&most_running, &most, now_running)) {
    }
    int place = atomic_fetch_add(&started, 1);
    if (place < (int)(sizeof order / sizeof order[0]))
        atomic_store(&order[place], job->name);
    char byte;
    while (job->gate >= 0 && read(job->gate, &byte, 1) < 0 && errno == EINTR) {
    }
    if (job->work != NULL)
        job->work();
    atomic_fetch_sub(&running, 1);
    atomic_fetch_add(&job->ran, 1);
    atomic_fetch_add(&finished, 1);
}

void aflock_job_drop(aflock_job *job)
{
    if (on_drop != NULL)
        on_drop();
    atomic_fetch_add(&job->dropped, 1);
    atomic_fetch_add(&dropped, 1); /* the test goes on */
}

/* ----------------------------------------------------------------------------------------------------- helpers */

static void pause_briefly(void)
{
    nanosleep(&(struct timespec){.tv_nsec = 200000}, NULL);
}

static time_t seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec;
}

static void await(atomic_int *counter, int wanted)
{
    time_t end = seconds() + 10;
    while (atomic_load(counter) < wanted) {
        ck_assert_msg(seconds() < end, "%d of %d happened", atomic_load(counter), wanted);
        pause_briefly();
    }
}

static void await_ends(int wanted)
{
    time_t end = seconds() + 10;
    while (atomic_load(&finished) + atomic_load(&dropped) < wanted) {
        ck_assert_msg(seconds() < end, "%d jobs have not ended", wanted);
        pause_briefly();
    }
}

/* The state of a thread ("S": it sleeps) if it is a pool's, else 0. Pool threads are known by their name, since a
 * sanitizer has threads of its own. */
static char state_of(const char *task)
{
    char path[64], state = 0;
    snprintf(path, sizeof path, "/proc/self/task/%.20s/stat", task);
    FILE *file = fopen(path, "r");
    if (file == NULL)
        return 0; /* it has just ended */
    if (fscanf(file, "%*d (aflock) %c", &state) != 1)
        state = 0;
    fclose(file);
    return state;
}

/* All threads of pools, or those that sleep only. */
static int count_threads(int sleeping)
{
    DIR *tasks = opendir("/proc/self/task");
    ck_assert_ptr_nonnull(tasks);
    int count = 0;
    for (struct dirent *entry; (entry = readdir(tasks)) != NULL;) {
        char state = state_of(entry->d_name);
        count += sleeping ? state == 'S' : state != 0;
    }
    closedir(tasks);
    return count;
}

static int threads(void)
{
    return count_threads(0);
}

static void await_count(int wanted, int sleeping)
{
    time_t end = seconds() + 10;
    while (count_threads(sleeping) != wanted) {
        ck_assert_msg(seconds() < end, "%d threads, not %d", count_threads(sleeping), wanted);
        pause_briefly();
    }
}

static void await_threads(int wanted)
{
    await_count(wanted, 0);
}

static void await_sleeping(int wanted)
{
    await_count(wanted, 1);
}

static void reset(void)
{
    atomic_int *counters[] = {&started, &finished, &running, &most_running, &dropped};
    for (size_t i = 0; i < sizeof counters / sizeof counters[0]; i++)
        atomic_store(counters[i], 0);
    on_drop = NULL;
}

static void make_pool(unsigned width, unsigned most, uint64_t idle)
{
    reset();
    aflock_pool_options options;
    aflock_pool_options_init(&options);
    options.threads = width;
    options.max_threads = most;
    options.idle = idle;
    ck_assert_int_eq(aflock_pool_new(&pool, &options), 0);
}

static void submit(aflock_job *job, aflock_lane lane)
{
    ck_assert_int_eq(pool.submit(pool.self, job, lane), 0);
}

static void close_pool(void)
{
    pool.close(pool.self, 0);
    await_threads(0);
}

/* A gate for any number of jobs: each passes when a byte was written for it. */
static int gate[2];

static void make_gate(void)
{
    ck_assert_int_eq(pipe(gate), 0);
}

static void open_gate(int jobs)
{
    for (int i = 0; i < jobs; i++)
        ck_assert_int_eq(write(gate[1], "", 1), 1);
}

static aflock_job gated(int name)
{
    return (aflock_job){.name = name, .gate = gate[0]};
}

static aflock_job plain(int name)
{
    return (aflock_job){.name = name, .gate = -1};
}

/* Thread-local variables lie on each thread's stack: more of them than the smallest stack holds. */
static _Thread_local char large[64 * 1024];

static void touch_large(void)
{
    memset(large, 1, sizeof large);
}

/* ------------------------------------------------------------------------------------------------------- options */

START_TEST(test_bad_options)
{
    aflock_pool_options options;
    ck_assert_int_eq(aflock_pool_new(NULL, NULL), AFLOCK_EINVAL);
    aflock_pool_options_init(&options);
    options.size = 0;
    ck_assert_int_eq(aflock_pool_new(&pool, &options), AFLOCK_EINVAL);
    options.size = sizeof options + 1;
    ck_assert_int_eq(aflock_pool_new(&pool, &options), AFLOCK_EINVAL);
    aflock_pool_options_init(&options);
    options.threads = 0;
    ck_assert_int_eq(aflock_pool_new(&pool, &options), AFLOCK_EINVAL);
    aflock_pool_options_init(&options);
    options.max_threads = options.threads - 1;
    ck_assert_int_eq(aflock_pool_new(&pool, &options), AFLOCK_EINVAL);
    aflock_pool_options_init(NULL);
}
END_TEST

START_TEST(test_defaults)
{
    ck_assert_int_eq(aflock_pool_new(&pool, NULL), 0);
    ck_assert_uint_eq(pool.size, sizeof pool);
    ck_assert_uint_eq(pool.width, 4);
    close_pool();
}
END_TEST

/* A caller who knows only the first fields. */
START_TEST(test_older_options)
{
    aflock_pool_options options = {.size = offsetof(aflock_pool_options, max_threads), .threads = 7};
    ck_assert_int_eq(aflock_pool_new(&pool, &options), 0);
    ck_assert_uint_eq(pool.width, 7);
    close_pool();
}
END_TEST

/* ------------------------------------------------------------------------------------------------------- running */

START_TEST(test_starts_on_first_use)
{
    aflock_job first = plain(1);
    make_pool(4, 64, AFLOCK_FOREVER);
    ck_assert_int_eq(threads(), 0);
    submit(&first, AFLOCK_LANE_TRY);
    await(&finished, 1);
    await_threads(1);
    close_pool();
}
END_TEST

START_TEST(test_idle_thread_takes_the_next)
{
    aflock_job jobs[5];
    make_pool(4, 64, AFLOCK_FOREVER);
    for (int i = 0; i < 5; i++) {
        jobs[i] = plain(i);
        submit(&jobs[i], AFLOCK_LANE_TRY);
        await(&finished, i + 1);
        await_sleeping(1);
    }
    ck_assert_int_eq(threads(), 1);
    close_pool();
}
END_TEST

START_TEST(test_releases_go_first)
{
    make_gate();
    make_pool(1, 64, AFLOCK_FOREVER);
    aflock_job first = gated(0), try1 = plain(1), try2 = plain(2), release1 = plain(3), release2 = plain(4);
    submit(&first, AFLOCK_LANE_TRY);
    await(&started, 1);
    submit(&try1, AFLOCK_LANE_TRY);
    submit(&try2, AFLOCK_LANE_TRY);
    submit(&release1, AFLOCK_LANE_RELEASE);
    submit(&release2, AFLOCK_LANE_RELEASE);
    open_gate(1);
    await(&finished, 5);
    const int expected[] = {0, 3, 4, 1, 2};
    for (int i = 0; i < 5; i++)
        ck_assert_int_eq(atomic_load(&order[i]), expected[i]);
    close_pool();
}
END_TEST

static void make_pool_that_parks(unsigned most)
{
    reset();
    aflock_pool_options options;
    aflock_pool_options_init(&options);
    options.threads = options.max_threads = 1;
    options.idle = AFLOCK_FOREVER;
    options.max_parked = most;
    ck_assert_int_eq(aflock_pool_new(&pool, &options), 0);
}

START_TEST(test_parked_jobs_have_threads_of_their_own)
{
    make_gate();
    aflock_job parked[] = {gated(0), gated(1), gated(2), gated(3)}, try = plain(4);
    make_pool_that_parks(3);
    for (int i = 0; i < 3; i++)
        submit(&parked[i], AFLOCK_LANE_PARK);
    await(&started, 3);
    ck_assert_int_eq(pool.submit(pool.self, &parked[3], AFLOCK_LANE_PARK), AFLOCK_EFULL);
    submit(&try, AFLOCK_LANE_TRY);
    await(&finished, 1);
    ck_assert_int_eq(atomic_load(&try.ran), 1);
    ck_assert_int_eq(threads(), 4);
    open_gate(3);
    await(&finished, 4);
    await_sleeping(4); /* a thread that has nothing to do serves the next one */
    submit(&parked[3], AFLOCK_LANE_PARK);
    open_gate(1);
    await(&finished, 5);
    ck_assert_int_eq(threads(), 4);
    close_pool();
}
END_TEST

START_TEST(test_parked_jobs_do_not_hold_up_the_end)
{
    make_gate();
    aflock_job parked = gated(0);
    make_pool_that_parks(1);
    submit(&parked, AFLOCK_LANE_PARK);
    await(&started, 1);
    pool.close(pool.self, 0);
    ck_assert_int_eq(atomic_load(&finished), 0);
    open_gate(1);
    await(&finished, 1);
    await_threads(0);
}
END_TEST

START_TEST(test_parking_can_be_forbidden)
{
    aflock_job job = plain(1);
    make_pool_that_parks(0);
    ck_assert_int_eq(pool.submit(pool.self, &job, AFLOCK_LANE_PARK), AFLOCK_ENOTSUP);
    ck_assert_int_eq(threads(), 0);
    close_pool();
    ck_assert_int_eq(atomic_load(&job.ran) + atomic_load(&job.dropped), 0);
}
END_TEST

START_TEST(test_width)
{
    aflock_job jobs[8];
    make_gate();
    make_pool(3, 64, AFLOCK_FOREVER);
    for (int i = 0; i < 8; i++) {
        jobs[i] = gated(i);
        submit(&jobs[i], AFLOCK_LANE_TRY);
    }
    await(&started, 3);
    ck_assert_int_eq(threads(), 3);
    open_gate(8);
    await(&finished, 8);
    ck_assert_int_eq(atomic_load(&most_running), 3);
    close_pool();
}
END_TEST

static atomic_int signals_blocked;

static void look_at_signals(void)
{
    sigset_t blocked;
    pthread_sigmask(SIG_SETMASK, NULL, &blocked);
    atomic_store(&signals_blocked, sigismember(&blocked, SIGTERM) && sigismember(&blocked, SIGUSR1));
}

START_TEST(test_signals_are_blocked)
{
    aflock_job job = {.gate = -1, .work = look_at_signals};
    sigset_t before, after;
    pthread_sigmask(SIG_SETMASK, NULL, &before);
    make_pool(1, 64, AFLOCK_FOREVER);
    submit(&job, AFLOCK_LANE_TRY);
    await(&finished, 1);
    ck_assert_int_eq(atomic_load(&signals_blocked), 1);
    pthread_sigmask(SIG_SETMASK, NULL, &after);
    for (int number = 1; number < 32; number++)
        ck_assert_int_eq(sigismember(&before, number), sigismember(&after, number));
    close_pool();
}
END_TEST

START_TEST(test_small_stack)
{
    aflock_job job = {.gate = -1, .work = touch_large};
    aflock_pool_options options;
    aflock_pool_options_init(&options);
    options.stack_size = 1;
    reset();
    ck_assert_int_eq(aflock_pool_new(&pool, &options), 0);
    submit(&job, AFLOCK_LANE_TRY);
    await(&finished, 1);
    close_pool();
}
END_TEST

/* In a process that may have no more threads. Returns an exit status. */
static int submit_without_threads(void)
{
    aflock_job job = plain(1);
    struct rlimit none = {0};
    if ((geteuid() == 0 && setuid(65534) != 0) || setrlimit(RLIMIT_NPROC, &none) != 0)
        return 1;
    if (aflock_pool_new(&pool, NULL) != 0)
        return 2;
    errno = 0;
    if (pool.submit(pool.self, &job, AFLOCK_LANE_RELEASE) != AFLOCK_ESYS || errno != EAGAIN)
        return 3;
    pool.close(pool.self, 0);
    return atomic_load(&job.ran) + atomic_load(&job.dropped) == 0 ? 0 : 4;
}

START_TEST(test_no_thread_at_all)
{
    pid_t child = fork();
    ck_assert_int_ge(child, 0);
    if (child == 0)
        _exit(submit_without_threads());
    int status;
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert_int_eq(status, 0);
}
END_TEST

START_TEST(test_idle_threads_end)
{
    aflock_job first = plain(1), second = plain(2);
    make_pool(2, 64, AFLOCK_MILLISECOND);
    submit(&first, AFLOCK_LANE_TRY);
    await(&finished, 1);
    await_threads(0);
    submit(&second, AFLOCK_LANE_TRY);
    await(&finished, 2);
    close_pool();
}
END_TEST

START_TEST(test_steady_state_allocates_nothing)
{
    static aflock_job jobs[MANY];
    make_pool(2, 64, AFLOCK_FOREVER);
    size_t before = 0;
    for (int i = 0; i < MANY; i++) {
        jobs[i] = plain(i);
        submit(&jobs[i], AFLOCK_LANE_TRY);
        await(&finished, i + 1 - 16);
        if (i == MANY / 2)
            before = mallinfo2().uordblks;
    }
    ck_assert_uint_eq(mallinfo2().uordblks, before);
    await(&finished, MANY);
    for (int i = 0; i < MANY; i++)
        ck_assert_int_eq(atomic_load(&jobs[i].ran), 1);
    close_pool();
}
END_TEST

/* ------------------------------------------------------------------------------------------------ stalled threads */

START_TEST(test_stalled_thread_is_replaced)
{
    make_gate();
    make_pool(1, 64, AFLOCK_FOREVER);
    aflock_job hangs = gated(1), next = plain(2), last = plain(3);
    submit(&hangs, AFLOCK_LANE_TRY);
    await(&started, 1);
    submit(&next, AFLOCK_LANE_TRY);
    pool.stalled(pool.self);
    await(&finished, 1);
    ck_assert_int_eq(atomic_load(&next.ran), 1);
    ck_assert_int_eq(threads(), 2);

    open_gate(1);
    await(&finished, 2);
    await_threads(1); /* the surplus ended */
    submit(&last, AFLOCK_LANE_TRY);
    await(&finished, 3);
    close_pool();
}
END_TEST

/* It is the thread that stalled whose return makes one too many, not any other. */
START_TEST(test_others_come_and_go)
{
    make_gate();
    make_pool(2, 64, AFLOCK_FOREVER);
    aflock_job hangs = gated(1);
    submit(&hangs, AFLOCK_LANE_TRY);
    await(&started, 1);
    pool.stalled(pool.self);

    int other[2];
    ck_assert_int_eq(pipe(other), 0);
    aflock_job jobs[2] = {{.gate = other[0]}, {.gate = other[0]}};
    submit(&jobs[0], AFLOCK_LANE_TRY);
    submit(&jobs[1], AFLOCK_LANE_TRY);
    await(&started, 3);
    ck_assert_int_eq(write(other[1], "ab", 2), 2);
    await(&finished, 2);
    ck_assert_int_eq(threads(), 3);

    open_gate(1);
    await(&finished, 3);
    await_threads(2);
    close_pool();
}
END_TEST

START_TEST(test_most_threads)
{
    make_gate();
    make_pool(1, 2, AFLOCK_FOREVER);
    aflock_job hang1 = gated(1), hang2 = gated(2), waits = plain(3);
    submit(&hang1, AFLOCK_LANE_TRY);
    await(&started, 1);
    pool.stalled(pool.self);
    submit(&hang2, AFLOCK_LANE_TRY);
    await(&started, 2);
    submit(&waits, AFLOCK_LANE_TRY);
    pool.stalled(pool.self);
    pool.stalled(pool.self); /* nothing is left that could be stalled */
    ck_assert_int_eq(threads(), 2);
    ck_assert_int_eq(atomic_load(&started), 2);
    open_gate(1);
    await(&finished, 2);
    ck_assert_int_eq(atomic_load(&waits.ran), 1);
    open_gate(1);
    await(&finished, 3);
    await_threads(1);
    close_pool();
}
END_TEST

/* ------------------------------------------------------------------------------------------------------- closing */

/* Takes the pool's mutex: that would never return if it were held while jobs are dropped. */
static void use_pool(void)
{
    pool.stalled(pool.self);
}

START_TEST(test_close_drops_tries_and_runs_releases)
{
    make_gate();
    make_pool(1, 1, AFLOCK_FOREVER);
    aflock_job first = gated(0), try1 = plain(1), release = plain(2), try2 = plain(3);
    submit(&first, AFLOCK_LANE_TRY);
    await(&started, 1);
    submit(&try1, AFLOCK_LANE_TRY);
    submit(&release, AFLOCK_LANE_RELEASE);
    submit(&try2, AFLOCK_LANE_TRY);
    on_drop = use_pool;
    pool.close(pool.self, 0); /* returns although the first job has not */
    ck_assert_int_eq(atomic_load(&started), 1);
    open_gate(1);
    await(&dropped, 2);
    await(&finished, 2);
    await_threads(0);
    ck_assert_int_eq(atomic_load(&first.ran), 1);
    ck_assert_int_eq(atomic_load(&release.ran), 1);
    ck_assert_int_eq(atomic_load(&release.dropped) + atomic_load(&first.dropped), 0);
    ck_assert_int_eq(atomic_load(&try1.ran) + atomic_load(&try2.ran), 0);
}
END_TEST

/* Dropping a job can give back a lock on a file system that hangs: that is a worker's, also if all others hang. */
static pthread_t closer;
static atomic_int dropped_by_closer;
static void look_who_drops(void)
{
    if (pthread_equal(pthread_self(), closer))
        atomic_fetch_add(&dropped_by_closer, 1);
}

START_TEST(test_close_drops_on_a_worker)
{
    closer = pthread_self();
    make_gate();
    make_pool(2, 64, AFLOCK_FOREVER);
    aflock_job hangs[2] = {gated(1), gated(2)}, try1 = plain(3), try2 = plain(4);
    submit(&hangs[0], AFLOCK_LANE_TRY);
    submit(&hangs[1], AFLOCK_LANE_TRY);
    await(&started, 2);
    submit(&try1, AFLOCK_LANE_TRY);
    submit(&try2, AFLOCK_LANE_TRY);
    on_drop = look_who_drops;
    pool.close(pool.self, 0);
    await(&dropped, 2);
    ck_assert_int_eq(atomic_load(&finished), 0);
    open_gate(2);
    await(&finished, 2);
    await_threads(0);
    ck_assert_int_eq(atomic_load(&try1.dropped) + atomic_load(&try2.dropped), 2);
    ck_assert_int_eq(atomic_load(&dropped_by_closer), 0);
}
END_TEST

START_TEST(test_close_under_load)
{
    enum { JOBS = 12 };
    aflock_job jobs[JOBS];
    for (int round = 0; round < 200; round++) {
        make_pool(4, 64, AFLOCK_FOREVER);
        for (int i = 0; i < JOBS; i++) {
            jobs[i] = plain(i);
            submit(&jobs[i], i % 3 == 0 ? AFLOCK_LANE_RELEASE : AFLOCK_LANE_TRY);
        }
        pool.close(pool.self, 0);
        await_ends(JOBS);
        ck_assert_int_eq(atomic_load(&finished) + atomic_load(&dropped), JOBS);
        for (int i = 0; i < JOBS; i++) {
            ck_assert_int_eq(atomic_load(&jobs[i].ran) + atomic_load(&jobs[i].dropped), 1);
            ck_assert(i % 3 != 0 || atomic_load(&jobs[i].ran) == 1);
        }
    }
}
END_TEST

START_TEST(test_close_in_a_child)
{
    make_gate();
    make_pool(2, 64, AFLOCK_FOREVER);
    aflock_job hangs[2] = {gated(1), gated(2)}, waits = plain(3);
    submit(&hangs[0], AFLOCK_LANE_TRY);
    submit(&hangs[1], AFLOCK_LANE_TRY);
    await(&started, 2);
    submit(&waits, AFLOCK_LANE_TRY);
    pid_t child = fork();
    ck_assert_int_ge(child, 0);
    if (child == 0) {
        alarm(10);
        pool.close(pool.self, 1);
        _exit(atomic_load(&dropped)); /* the jobs are the library's memory */
    }
    int status;
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert_int_eq(status, 0);
    open_gate(2);
    await(&finished, 3);
    close_pool();
}
END_TEST

/* ---------------------------------------------------------------------------------------------------------- suite */

int main(void)
{
    Suite *suite = suite_create("pool");
    TCase *options = tcase_create("options");
    tcase_add_test(options, test_bad_options);
    tcase_add_test(options, test_defaults);
    tcase_add_test(options, test_older_options);
    suite_add_tcase(suite, options);

    TCase *run = tcase_create("running");
    tcase_set_timeout(run, 60);
    tcase_add_test(run, test_starts_on_first_use);
    tcase_add_test(run, test_idle_thread_takes_the_next);
    tcase_add_test(run, test_releases_go_first);
    tcase_add_test(run, test_parked_jobs_have_threads_of_their_own);
    tcase_add_test(run, test_parked_jobs_do_not_hold_up_the_end);
    tcase_add_test(run, test_parking_can_be_forbidden);
    tcase_add_test(run, test_width);
    tcase_add_test(run, test_signals_are_blocked);
    tcase_add_test(run, test_small_stack);
    tcase_add_test(run, test_no_thread_at_all);
    tcase_add_test(run, test_idle_threads_end);
    tcase_add_test(run, test_steady_state_allocates_nothing);
    suite_add_tcase(suite, run);

    TCase *stalled = tcase_create("stalled");
    tcase_set_timeout(stalled, 60);
    tcase_add_test(stalled, test_stalled_thread_is_replaced);
    tcase_add_test(stalled, test_others_come_and_go);
    tcase_add_test(stalled, test_most_threads);
    suite_add_tcase(suite, stalled);

    TCase *closing = tcase_create("closing");
    tcase_set_timeout(closing, 60);
    tcase_add_test(closing, test_close_drops_tries_and_runs_releases);
    tcase_add_test(closing, test_close_drops_on_a_worker);
    tcase_add_test(closing, test_close_under_load);
    tcase_add_test(closing, test_close_in_a_child);
    suite_add_tcase(suite, closing);

    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
