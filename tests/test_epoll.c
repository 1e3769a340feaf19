/* What is special to the epoll adapter, on the real library: running and stopping its loop, the caller's watches and
 * timers, life inside another loop. What every loop must do is in tests/conformance. */
#include <aflock/epoll.h>
#include <aflock/kit.h>

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { LONG = 10000 }; /* ms: a watchdog */

static char folder[] = "/tmp/test_epoll.XXXXXX";
static char path[sizeof folder + 16];
static aflock_ctx *ctx;
static aflock *lock;
static int callbacks;

/* ----------------------------------------------------------------------------------------------------- helpers */

static int descriptors(void)
{
    int count = 0;
    for (int fd = 0; fd < 1024; fd++)
        count += fcntl(fd, F_GETFD) >= 0;
    return count;
}

static void setup(void)
{
    memcpy(folder + sizeof folder - sizeof "XXXXXX", "XXXXXX", sizeof "XXXXXX"); /* also without forking */
    ck_assert_ptr_nonnull(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/lock", folder);
    callbacks = 0;
    ck_assert_int_eq(aflock_epoll_new(&ctx, NULL), 0);
    ck_assert_int_eq(aflock_open(&lock, ctx, path, NULL), 0);
}

static void teardown(void)
{
    ck_assert_int_eq(aflock_ctx_free(ctx, 30 * AFLOCK_SECOND), 0);
    unlink(path);
    rmdir(folder);
}

static uint64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * AFLOCK_SECOND + (uint64_t)time.tv_nsec;
}

static int readable(int milliseconds)
{
    struct pollfd poll_fd = {.fd = aflock_epoll_fd(ctx), .events = POLLIN};
    ck_assert_int_ge(poll_fd.fd, 0);
    return poll(&poll_fd, 1, milliseconds);
}

static void make_pipe(int ends[2])
{
    ck_assert_int_eq(pipe2(ends, O_CLOEXEC | O_NONBLOCK), 0);
}

static void on_lock(aflock *l, const aflock_result *result, void *user)
{
    ck_assert_ptr_eq(l, lock);
    callbacks++;
    *(int *)user = result->status;
}

static void on_lock_release(aflock *l, const aflock_result *result, void *user)
{
    on_lock(l, result, user);
    ck_assert_int_eq(aflock_release(l, result->req, NULL, NULL), 0);
}

static void acquire(aflock_callback callback, int *status)
{
    *status = 1;
    ck_assert_int_eq(aflock_acquire(lock, NULL, callback, status, NULL), 0);
}

/* --------------------------------------------------------------------------------------------- making and checking */

START_TEST(test_bad_options)
{
    aflock_ctx *made;
    aflock_epoll_options options;
    aflock_pool_options pool;
    aflock_ctx_options ctx_options;
    int before = descriptors();
    ck_assert_int_eq(aflock_epoll_new(NULL, NULL), AFLOCK_EINVAL);
    aflock_epoll_options_init(&options);
    options.size = 0;
    ck_assert_int_eq(aflock_epoll_new(&made, &options), AFLOCK_EINVAL);
    options.size = sizeof options + 1;
    ck_assert_int_eq(aflock_epoll_new(&made, &options), AFLOCK_EINVAL);

    aflock_epoll_options_init(&options);
    aflock_pool_options_init(&pool);
    pool.threads = 0;
    options.pool = &pool;
    ck_assert_int_eq(aflock_epoll_new(&made, &options), AFLOCK_EINVAL);

    aflock_epoll_options_init(&options);
    aflock_ctx_options_init(&ctx_options);
    ctx_options.size = 0;
    options.ctx = &ctx_options;
    ck_assert_int_eq(aflock_epoll_new(&made, &options), AFLOCK_EINVAL);
    ck_assert_int_eq(descriptors(), before);
    aflock_epoll_options_init(NULL);
}
END_TEST

START_TEST(test_too_many_open_files)
{
    struct rlimit before, limit;
    ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &before), 0);
    int open_before = descriptors(), next = dup(0);
    close(next);
    for (int free_descriptors = 0; free_descriptors < 4; free_descriptors++) {
        limit = before;
        limit.rlim_cur = (rlim_t)(next + free_descriptors);
        ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
        ck_assert_int_eq(aflock_epoll_new(&ctx, NULL), AFLOCK_EMFILE);
    }
    ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &before), 0);
    ck_assert_int_eq(descriptors(), open_before);
}
END_TEST

static void ignore_ready(aflock_ctx *c, int fd, unsigned events, void *user)
{
    (void)c, (void)fd, (void)events, (void)user;
}

static void ignore_fire(aflock_ctx *c, void *user)
{
    (void)c, (void)user;
}

/* Each function with a context that it must refuse. Returns how many answered something else. */
static int refusals(aflock_ctx *c, int status)
{
    aflock_epoll_stop(c);
    return (aflock_epoll_run(c) != status) + (aflock_epoll_run_once(c, 0) != status) +
           (aflock_epoll_process(c) != status) + (aflock_epoll_fd(c) != status) + (aflock_epoll_alive(c) != status) +
           (aflock_epoll_watch(c, 0, AFLOCK_EPOLL_READ, ignore_ready, NULL) != status) +
           (aflock_epoll_timer(c, 0, ignore_fire, NULL) != status) +
           (aflock_epoll_timer_cancel(c, ignore_fire, NULL) != status);
}

START_TEST(test_foreign_context)
{
    aflock_kit *kit;
    aflock_host host;
    aflock_ctx *foreign;
    aflock_kit_options options;
    aflock_kit_options_init(&options);
    char name[] = "epoll"; /* the same text is not enough */
    options.name = name;
    ck_assert_int_eq(aflock_kit_new(&kit, &host, &options), 0);
    ck_assert_int_eq(aflock_ctx_new(&foreign, &host, NULL), 0);
    ck_assert_int_eq(refusals(foreign, AFLOCK_EINVAL), 0);
    ck_assert_int_eq(aflock_ctx_free(foreign, 0), 0);
    ck_assert_int_eq(refusals(NULL, AFLOCK_EINVAL), 0);
}
END_TEST

/* aflock_epoll_stop is the one that works. */
static void *refused_in_thread(void *result)
{
    *(int *)result = refusals(ctx, AFLOCK_ETHREAD);
    return NULL;
}

START_TEST(test_wrong_thread)
{
    pthread_t thread;
    int result = -1;
    ck_assert_int_eq(pthread_create(&thread, NULL, refused_in_thread, &result), 0);
    ck_assert_int_eq(pthread_join(thread, NULL), 0);
    ck_assert_int_eq(result, 0);
}
END_TEST

static void on_fire(aflock_ctx *c, void *user)
{
    ck_assert_ptr_eq(c, ctx);
    ++*(int *)user;
}

START_TEST(test_stop_in_a_forked_child)
{
    int status;
    pid_t child = fork();
    ck_assert_int_ge(child, 0);
    if (child == 0) {
        aflock_epoll_stop(ctx);
        _exit(0);
    }
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert_int_eq(status, 0);
    ck_assert_int_eq(readable(0), 0); /* the parent was not woken up */
}
END_TEST

START_TEST(test_forked_child)
{
    int fired = 0, status, child_status;
    ck_assert_int_eq(aflock_epoll_timer(ctx, 50 * AFLOCK_MILLISECOND, on_fire, &fired), 0);
    acquire(on_lock_release, &status);
    pid_t child = fork();
    ck_assert_int_ge(child, 0);
    if (child == 0) {
        int wrong = refusals(ctx, AFLOCK_EFORKED);
        _exit(wrong + (aflock_ctx_abandon(ctx) != 0));
    }
    ck_assert_int_eq(waitpid(child, &child_status, 0), child);
    ck_assert_int_eq(child_status, 0);
    ck_assert_int_eq(aflock_epoll_run(ctx), 0);
    ck_assert_int_eq(status, 0);
    ck_assert_int_eq(fired, 1);
}
END_TEST

/* ----------------------------------------------------------------------------------------------------- the loop */

START_TEST(test_run_with_nothing_to_do)
{
    ck_assert_int_eq(aflock_epoll_alive(ctx), 0);
    ck_assert_int_eq(aflock_epoll_run(ctx), 0);
    ck_assert_int_eq(aflock_epoll_run_once(ctx, 0), 0);
    ck_assert_int_eq(aflock_epoll_process(ctx), 0);
}
END_TEST

START_TEST(test_alive)
{
    int status;
    acquire(on_lock, &status);
    ck_assert_int_eq(aflock_epoll_alive(ctx), 1);
    ck_assert_int_eq(callbacks, 0);
    ck_assert_int_eq(aflock_epoll_run(ctx), 0);
    ck_assert_int_eq(callbacks, 1);
    ck_assert_int_eq(status, 0);
    ck_assert_int_eq(aflock_depth(lock, NULL), 1);
    ck_assert_int_eq(aflock_epoll_alive(ctx), 0);
}
END_TEST

static void on_many(aflock *l, const aflock_result *result, void *user)
{
    int *left = user;
    ck_assert_int_eq(result->status, 0);
    callbacks++;
    ck_assert_int_eq(aflock_release(l, result->req, NULL, NULL), 0);
    if (--*left > 0)
        ck_assert_int_eq(aflock_acquire(l, NULL, on_many, user, NULL), 0);
}

START_TEST(test_run_once_waits)
{
    ck_assert_int_eq(aflock_epoll_run_once(ctx, 1), 0);
    uint64_t begin = now();
    ck_assert_int_eq(aflock_epoll_run_once(ctx, 5 * AFLOCK_MILLISECOND + 1), 0);
    ck_assert_uint_ge(now() - begin, 5 * AFLOCK_MILLISECOND);
}
END_TEST

static atomic_int signals;

static void count_signal(int number)
{
    (void)number;
    atomic_fetch_add(&signals, 1);
}

static void set_interval(suseconds_t microseconds)
{
    struct itimerval interval = {.it_interval.tv_usec = microseconds, .it_value.tv_usec = microseconds};
    ck_assert_int_eq(setitimer(ITIMER_REAL, &interval, NULL), 0);
}

/* A signal ends the waiting, but not the running. */
START_TEST(test_signals_interrupt)
{
    int fired = 0;
    struct sigaction action = {.sa_handler = count_signal, .sa_flags = SA_RESTART};
    ck_assert_int_eq(sigaction(SIGALRM, &action, NULL), 0);
    set_interval(5000);
    ck_assert_int_eq(aflock_epoll_run_once(ctx, AFLOCK_FOREVER), 0);
    ck_assert_int_ge(atomic_load(&signals), 1);
    ck_assert_int_eq(aflock_epoll_timer(ctx, 30 * AFLOCK_MILLISECOND, on_fire, &fired), 0);
    ck_assert_int_eq(aflock_epoll_run(ctx), 0);
    ck_assert_int_eq(fired, 1);
    set_interval(0);
}
END_TEST

static void call_inside(void)
{
    ck_assert_int_eq(aflock_epoll_run(ctx), AFLOCK_EBUSY);
    ck_assert_int_eq(aflock_epoll_run_once(ctx, 0), AFLOCK_EBUSY);
    ck_assert_int_eq(aflock_epoll_process(ctx), AFLOCK_EBUSY);
    ck_assert_int_ge(aflock_epoll_fd(ctx), 0);
    ck_assert_int_ge(aflock_epoll_alive(ctx), 0);
    ck_assert_int_eq(aflock_epoll_timer(ctx, AFLOCK_FOREVER, ignore_fire, NULL), 0);
    ck_assert_int_eq(aflock_epoll_timer_cancel(ctx, ignore_fire, NULL), 0);
    callbacks++;
}

static void on_lock_inside(aflock *l, const aflock_result *result, void *user)
{
    (void)l, (void)result, (void)user;
    call_inside();
}

static void on_ready_inside(aflock_ctx *c, int fd, unsigned events, void *user)
{
    (void)user, (void)events;
    call_inside();
    ck_assert_int_eq(aflock_epoll_watch(c, fd, 0, NULL, NULL), 0);
}

static void on_fire_inside(aflock_ctx *c, void *user)
{
    (void)c, (void)user;
    call_inside();
}

START_TEST(test_no_loop_inside_the_loop)
{
    int ends[2];
    make_pipe(ends);
    ck_assert_int_eq(aflock_epoll_watch(ctx, ends[1], AFLOCK_EPOLL_WRITE, on_ready_inside, NULL), 0);
    ck_assert_int_eq(aflock_epoll_timer(ctx, 0, on_fire_inside, NULL), 0);
    ck_assert_int_eq(aflock_acquire(lock, NULL, on_lock_inside, NULL, NULL), 0);
    ck_assert_int_eq(aflock_epoll_run(ctx), 0);
    ck_assert_int_eq(callbacks, 3);
}
END_TEST

/* --------------------------------------------------------------------------------------------------------- stop */

static void stop_from_timer(aflock_ctx *c, void *user)
{
    (void)user;
    aflock_epoll_stop(c);
}

START_TEST(test_stop)
{
    int fired = 0;
    ck_assert_int_eq(aflock_epoll_timer(ctx, AFLOCK_FOREVER, on_fire, &fired), 0);
    ck_assert_int_eq(aflock_epoll_timer(ctx, 0, stop_from_timer, NULL), 0);
    ck_assert_int_eq(aflock_epoll_run(ctx), 0);
    ck_assert_int_eq(aflock_epoll_alive(ctx), 1);
    aflock_epoll_stop(ctx); /* before it runs: the next run ends at once, and the one after it does not */
    ck_assert_int_eq(aflock_epoll_run(ctx), 0);
    ck_assert_int_eq(aflock_epoll_timer_cancel(ctx, on_fire, &fired), 0);
    ck_assert_int_eq(aflock_epoll_timer(ctx, AFLOCK_MILLISECOND, on_fire, &fired), 0);
    ck_assert_int_eq(aflock_epoll_run(ctx), 0);
    ck_assert_int_eq(fired, 1);
}
END_TEST

static void *stop_from_thread(void *unused)
{
    nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
    aflock_epoll_stop(ctx);
    return unused;
}

START_TEST(test_stop_from_thread)
{
    pthread_t thread;
    ck_assert_int_eq(aflock_epoll_timer(ctx, AFLOCK_FOREVER, ignore_fire, NULL), 0);
    ck_assert_int_eq(pthread_create(&thread, NULL, stop_from_thread, NULL), 0);
    ck_assert_int_eq(aflock_epoll_run(ctx), 0);
    ck_assert_int_eq(pthread_join(thread, NULL), 0);
}
END_TEST

static void stop_from_handler(int number)
{
    (void)number;
    aflock_epoll_stop(ctx);
}

START_TEST(test_stop_from_signal_handler)
{
    struct sigaction action = {.sa_handler = stop_from_handler};
    ck_assert_int_eq(sigaction(SIGALRM, &action, NULL), 0);
    ck_assert_int_eq(aflock_epoll_timer(ctx, AFLOCK_FOREVER, ignore_fire, NULL), 0);
    set_interval(5000);
    ck_assert_int_eq(aflock_epoll_run(ctx), 0);
    set_interval(0);
}
END_TEST

/* ------------------------------------------------------------------------------------------------------- timers */

/* When it was set is known up to the time that setting it took. */
struct alarm_clock {
    uint64_t earliest;
    uint64_t latest;
};

static const struct alarm_clock *rung[8];
static int rings;

static void on_ring(aflock_ctx *c, void *user)
{
    const struct alarm_clock *clock = user;
    ck_assert_ptr_eq(c, ctx);
    ck_assert_uint_ge(now(), clock->earliest);
    if (rings > 0)
        ck_assert_uint_le(rung[rings - 1]->earliest, clock->latest);
    rung[rings++] = clock;
}

static void ring_in(struct alarm_clock *clock, uint64_t delay)
{
    clock->earliest = now() + delay;
    ck_assert_int_eq(aflock_epoll_timer(ctx, delay, on_ring, clock), 0);
    clock->latest = now() + delay;
}

START_TEST(test_timers_fire_in_order)
{
    rings = 0;
    struct alarm_clock clocks[4];
    ring_in(&clocks[2], 20 * AFLOCK_MILLISECOND);
    ring_in(&clocks[0], 0);
    ring_in(&clocks[3], 30 * AFLOCK_MILLISECOND);
    ring_in(&clocks[1], 10 * AFLOCK_MILLISECOND);
    ck_assert_int_eq(aflock_epoll_alive(ctx), 1);
    ck_assert_int_eq(aflock_epoll_run(ctx), 0);
    ck_assert_int_eq(rings, 4);
    ck_assert_int_eq(aflock_epoll_alive(ctx), 0);
}
END_TEST

START_TEST(test_timer_cancel)
{
    rings = 0;
    struct alarm_clock first, second, third;
    ring_in(&first, AFLOCK_MILLISECOND);
    ring_in(&second, 2 * AFLOCK_MILLISECOND);
    ring_in(&third, 3 * AFLOCK_MILLISECOND);
    ck_assert_int_eq(aflock_epoll_timer_cancel(ctx, on_ring, &first), 0);
    ck_assert_int_eq(aflock_epoll_timer_cancel(ctx, on_ring, &third), 0);
    ck_assert_int_eq(aflock_epoll_timer_cancel(ctx, on_ring, &third), AFLOCK_ESTALE);
    ck_assert_int_eq(aflock_epoll_timer_cancel(ctx, on_fire, &second), AFLOCK_ESTALE);
    ck_assert_int_eq(aflock_epoll_run(ctx), 0);
    ck_assert_int_eq(rings, 1);
    ck_assert_ptr_eq(rung[0], &second);
    ck_assert_int_eq(aflock_epoll_timer(ctx, 0, NULL, NULL), AFLOCK_EINVAL);
}
END_TEST

static void cancel_the_other(aflock_ctx *c, void *user)
{
    ck_assert_int_eq(aflock_epoll_timer_cancel(c, on_ring, user), 0);
}

START_TEST(test_timer_cancelled_by_one_that_is_due_too)
{
    rings = 0;
    struct alarm_clock other;
    ck_assert_int_eq(aflock_epoll_timer(ctx, 0, cancel_the_other, &other), 0);
    ring_in(&other, 1);
    nanosleep(&(struct timespec){.tv_nsec = 50000}, NULL);
    ck_assert_int_eq(aflock_epoll_run(ctx), 0);
    ck_assert_int_eq(rings, 0);
}
END_TEST

static void start_again(aflock_ctx *c, void *user)
{
    int *left = user;
    callbacks++;
    if (--*left > 0)
        ck_assert_int_eq(aflock_epoll_timer(c, 0, start_again, user), 0);
}

/* One a round at most: a timer that starts itself cannot keep the library from its turn. */
static void on_lock_count(aflock *l, const aflock_result *result, void *user)
{
    (void)l, (void)result;
    *(int *)user = callbacks;
}

START_TEST(test_timer_that_starts_itself)
{
    int left = 5000, seen = 0;
    ck_assert_int_eq(aflock_epoll_timer(ctx, 0, start_again, &left), 0);
    ck_assert_int_eq(aflock_acquire(lock, NULL, on_lock_count, &seen, NULL), 0);
    ck_assert_int_eq(aflock_epoll_run(ctx), 0);
    ck_assert_int_eq(callbacks, 5000);
    ck_assert_int_lt(seen, callbacks);
}
END_TEST

/* Later deadlines first, most of them cancelled: what is left comes, and not too early. */
START_TEST(test_many_timers)
{
    enum { TIMERS = 1000 };
    static struct alarm_clock clocks[TIMERS];
    rings = 0;
    for (int i = 0; i < TIMERS; i++)
        ring_in(&clocks[i], (uint64_t)(TIMERS - i) * 20 * AFLOCK_MICROSECOND);
    for (int i = 0; i < TIMERS; i++)
        if (i % 200 != 0)
            ck_assert_int_eq(aflock_epoll_timer_cancel(ctx, on_ring, &clocks[i]), 0);
    ck_assert_int_eq(aflock_epoll_run(ctx), 0);
    ck_assert_int_eq(rings, 5);
}
END_TEST

/* ------------------------------------------------------------------------------------------------------ watches */

struct seen {
    int count;
    unsigned events;
};

static void on_ready(aflock_ctx *c, int fd, unsigned events, void *user)
{
    struct seen *seen = user;
    ck_assert_ptr_eq(c, ctx);
    ck_assert_int_ge(fd, 0);
    seen->count++;
    seen->events |= events;
}

static void watch(int fd, unsigned events, struct seen *seen)
{
    ck_assert_int_eq(aflock_epoll_watch(ctx, fd, events, on_ready, seen), 0);
}

static void once(void)
{
    ck_assert_int_eq(aflock_epoll_run_once(ctx, 0), 0);
}

START_TEST(test_watch)
{
    int ends[2];
    struct seen seen = {0, 0}, other = {0, 0};
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends), 0);
    watch(ends[0], AFLOCK_EPOLL_READ, &seen);
    ck_assert_int_eq(aflock_epoll_alive(ctx), 0);
    once();
    ck_assert_int_eq(seen.count, 0);
    ck_assert_int_eq(write(ends[1], "x", 1), 1);
    once();
    once(); /* level-triggered */
    ck_assert_int_eq(seen.count, 2);
    ck_assert_uint_eq(seen.events, AFLOCK_EPOLL_READ);

    watch(ends[0], AFLOCK_EPOLL_READ | AFLOCK_EPOLL_WRITE, &other); /* replaces */
    once();
    ck_assert_int_eq(seen.count, 2);
    ck_assert_uint_eq(other.events, AFLOCK_EPOLL_READ | AFLOCK_EPOLL_WRITE);

    ck_assert_int_eq(aflock_epoll_watch(ctx, ends[0], 0, NULL, NULL), 0);
    ck_assert_int_eq(aflock_epoll_watch(ctx, ends[0], 0, NULL, NULL), 0); /* harmless */
    once();
    ck_assert_int_eq(other.count, 1);

    watch(ends[0], AFLOCK_EPOLL_WRITE, &seen); /* again */
    close(ends[1]);
    seen = (struct seen){0, 0};
    once();
    ck_assert_uint_eq(seen.events, AFLOCK_EPOLL_WRITE); /* a hang-up, in the watched direction */
}
END_TEST

START_TEST(test_bad_watches)
{
    ck_assert_int_eq(aflock_epoll_watch(ctx, -1, AFLOCK_EPOLL_READ, on_ready, NULL), AFLOCK_EINVAL);
    ck_assert_int_eq(aflock_epoll_watch(ctx, 0, 4, on_ready, NULL), AFLOCK_EINVAL);
    ck_assert_int_eq(aflock_epoll_watch(ctx, 0, AFLOCK_EPOLL_READ, NULL, NULL), AFLOCK_EINVAL);
    ck_assert_int_eq(aflock_epoll_watch(ctx, 1000, 0, NULL, NULL), 0);
    ck_assert_int_eq(aflock_epoll_watch(ctx, 1000, AFLOCK_EPOLL_READ, on_ready, NULL), AFLOCK_ESYS);
    ck_assert_int_eq(errno, EBADF);
    int file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    ck_assert_int_eq(aflock_epoll_watch(ctx, file, AFLOCK_EPOLL_READ, on_ready, NULL), AFLOCK_ESYS);
    ck_assert_int_eq(errno, EPERM);
    close(file);
}
END_TEST

static int two[2][2];

static void remove_the_other(aflock_ctx *c, int fd, unsigned events, void *user)
{
    (void)events, (void)user;
    callbacks++;
    int other = fd == two[0][0] ? two[1][0] : two[0][0];
    ck_assert_int_eq(aflock_epoll_watch(c, other, 0, NULL, NULL), 0);
}

/* Removes the other, and watches something new that has its number. */
static void replace_the_other(aflock_ctx *c, int fd, unsigned events, void *user)
{
    remove_the_other(c, fd, events, user);
    int other = fd == two[0][0] ? 1 : 0, fresh[2];
    int number = two[other][0];
    make_pipe(fresh);
    ck_assert_int_eq(dup2(fresh[0], number), number);
    ck_assert_int_eq(aflock_epoll_watch(c, number, AFLOCK_EPOLL_READ, replace_the_other, NULL), 0);
}

static void make_two_ready(void (*ready)(aflock_ctx *, int, unsigned, void *))
{
    for (int i = 0; i < 2; i++) {
        make_pipe(two[i]);
        ck_assert_int_eq(write(two[i][1], "x", 1), 1);
        ck_assert_int_eq(aflock_epoll_watch(ctx, two[i][0], AFLOCK_EPOLL_READ, ready, NULL), 0);
    }
}

START_TEST(test_removed_while_ready)
{
    make_two_ready(remove_the_other);
    once();
    ck_assert_int_eq(callbacks, 1);
}
END_TEST

START_TEST(test_replaced_while_ready)
{
    make_two_ready(replace_the_other);
    once();
    ck_assert_int_eq(callbacks, 1);
}
END_TEST

/* The table of watches grows under the one that is being called. */
static void watch_more(aflock_ctx *c, int fd, unsigned events, void *user)
{
    (void)events, (void)user;
    callbacks++;
    int high = fcntl(fd, F_DUPFD_CLOEXEC, 900);
    ck_assert_int_ge(high, 900);
    ck_assert_int_eq(aflock_epoll_watch(c, high, AFLOCK_EPOLL_READ, on_ready_inside, NULL), 0);
    ck_assert_int_eq(aflock_epoll_watch(c, fd, 0, NULL, NULL), 0);
}

START_TEST(test_watch_inside)
{
    int ends[2];
    make_pipe(ends);
    ck_assert_int_eq(write(ends[1], "x", 1), 1);
    ck_assert_int_eq(aflock_epoll_watch(ctx, ends[0], AFLOCK_EPOLL_READ, watch_more, NULL), 0);
    once();
    once();
    ck_assert_int_eq(callbacks, 2);
}
END_TEST

static void acquire_when_ready(aflock_ctx *c, int fd, unsigned events, void *user)
{
    (void)events;
    ck_assert_int_eq(aflock_epoll_watch(c, fd, 0, NULL, NULL), 0);
    acquire(on_lock_release, user);
}

START_TEST(test_library_used_inside)
{
    int ends[2], status;
    make_pipe(ends);
    ck_assert_int_eq(aflock_epoll_watch(ctx, ends[1], AFLOCK_EPOLL_WRITE, acquire_when_ready, &status), 0);
    once();
    ck_assert_int_eq(aflock_epoll_run(ctx), 0);
    ck_assert_int_eq(status, 0);
}
END_TEST

/* ------------------------------------------------------------------------------- freeing the context in a function */

static void free_in_timer(aflock_ctx *c, void *user)
{
    ++*(int *)user;
    ck_assert_int_eq(aflock_ctx_free(c, 30 * AFLOCK_SECOND), 0);
}

static void free_when_ready(aflock_ctx *c, int fd, unsigned events, void *user)
{
    (void)fd, (void)events;
    free_in_timer(c, user);
}

static void new_context(void)
{
    ck_assert_int_eq(aflock_epoll_new(&ctx, NULL), 0);
}

START_TEST(test_free_inside)
{
    int freed = 0, before = descriptors();
    new_context();
    ck_assert_int_eq(aflock_epoll_timer(ctx, 0, free_in_timer, &freed), 0);
    ck_assert_int_eq(aflock_epoll_timer(ctx, 0, free_in_timer, &freed), 0);
    ck_assert_int_eq(aflock_epoll_run(ctx), 0);
    ck_assert_int_eq(freed, 1);

    new_context();
    aflock_epoll_stop(ctx); /* the kit is ready before them */
    make_two_ready(ignore_ready);
    for (int i = 0; i < 2; i++)
        ck_assert_int_eq(aflock_epoll_watch(ctx, two[i][0], AFLOCK_EPOLL_READ, free_when_ready, &freed), 0);
    ck_assert_int_eq(aflock_epoll_run_once(ctx, AFLOCK_FOREVER), 0);
    ck_assert_int_eq(freed, 2);
    for (int i = 0; i < 4; i++)
        close(two[i / 2][i % 2]);
    ck_assert_int_eq(descriptors(), before);
}
END_TEST

START_TEST(test_free_with_timers_and_watches)
{
    int fired = 0, ends[2];
    struct seen seen = {0, 0};
    new_context();
    make_pipe(ends);
    watch(ends[0], AFLOCK_EPOLL_READ, &seen);
    ck_assert_int_eq(aflock_epoll_timer(ctx, 0, on_fire, &fired), 0);
    ck_assert_int_eq(aflock_epoll_timer(ctx, AFLOCK_SECOND, on_fire, &fired), 0);
    ck_assert_int_eq(aflock_ctx_free(ctx, 0), 0);
    ck_assert_int_eq(fired, 0);
}
END_TEST

/* ----------------------------------------------------------------------------------------- inside another loop */

/* A loop that knows the one descriptor only. */
static void embed_until(const int *count, int wanted)
{
    while (*count < wanted) {
        ck_assert_int_eq(readable(LONG), 1);
        ck_assert_int_eq(aflock_epoll_process(ctx), 0);
    }
}

START_TEST(test_embedded_watch_and_timer)
{
    int ends[2], fired = 0;
    struct seen seen = {0, 0};
    make_pipe(ends);
    watch(ends[0], AFLOCK_EPOLL_READ, &seen);
    ck_assert_int_eq(aflock_epoll_timer(ctx, AFLOCK_MILLISECOND, on_fire, &fired), 0);
    embed_until(&fired, 1);
    ck_assert_int_eq(write(ends[1], "x", 1), 1);
    embed_until(&seen.count, 1);
}
END_TEST

/* What the loop's own rounds leave undone makes the descriptor readable for another's. */
START_TEST(test_from_one_loop_to_another)
{
    int left = 500;
    ck_assert_int_eq(aflock_acquire(lock, NULL, on_many, &left, NULL), 0);
    while (callbacks == 0)
        ck_assert_int_eq(aflock_epoll_run_once(ctx, AFLOCK_FOREVER), 0);
    once();
    ck_assert_int_lt(callbacks, 500);
    embed_until(&callbacks, 500);
}
END_TEST

/* ------------------------------------------------------------------------------------------------ the executor */

static int submitted, executor_closed;
static aflock_executor built_in;

static int count_submit(void *self, aflock_job *job, aflock_lane lane)
{
    submitted++;
    return built_in.submit(self, job, lane);
}

static void count_close(void *self, int forked)
{
    executor_closed++;
    built_in.close(self, forked);
}

START_TEST(test_foreign_executor)
{
    int status;
    aflock_options lock_options;
    aflock_epoll_options options;
    ck_assert_int_eq(aflock_pool_new(&built_in, NULL), 0);
    aflock_executor executor = built_in;
    executor.submit = count_submit;
    executor.close = count_close;
    aflock_epoll_options_init(&options);
    options.executor = &executor;
    aflock_ctx *before = ctx;
    aflock *lock_before = lock;
    ck_assert_int_eq(aflock_epoll_new(&ctx, &options), 0);
    aflock_options_init(&lock_options);
    lock_options.io = AFLOCK_IO_POOL;
    ck_assert_int_eq(aflock_open(&lock, ctx, path, &lock_options), 0);
    acquire(on_lock_release, &status);
    ck_assert_int_eq(aflock_epoll_run(ctx), 0);
    ck_assert_int_eq(status, 0);
    ck_assert_int_ge(submitted, 2);
    ck_assert_int_eq(aflock_ctx_free(ctx, 30 * AFLOCK_SECOND), 0);
    ck_assert_int_eq(executor_closed, 1);
    ctx = before;
    lock = lock_before;
}
END_TEST

/* ---------------------------------------------------------------------------------------------------------- suite */

static TCase *add_case(Suite *suite, const char *name)
{
    TCase *tests = tcase_create(name);
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_set_timeout(tests, 60);
    suite_add_tcase(suite, tests);
    return tests;
}

static pid_t forked;

static void fork_here(aflock *taken, const aflock_result *result, void *user)
{
    (void)taken, (void)user;
    ck_assert_int_eq(result->status, 0);
    forked = fork();
}

/* The callback returns twice; in the child the loop ends with an error, it does not wait. */
START_TEST(test_run_ends_in_the_child_of_a_callback)
{
    char name[] = "/tmp/aflock-epoll-XXXXXX";
    int status, fd = mkstemp(name);
    aflock_ctx *loop;
    aflock *one;
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(aflock_epoll_new(&loop, NULL), 0);
    ck_assert_int_eq(aflock_open(&one, loop, name, NULL), 0);
    ck_assert_int_eq(aflock_acquire(one, NULL, fork_here, NULL, NULL), 0);
    int ran = aflock_epoll_run(loop);
    ck_assert_int_ge(forked, 0);
    if (forked == 0) {
        aflock_ctx_abandon(loop);
        _exit(ran == AFLOCK_EFORKED ? 0 : 1);
    }
    ck_assert_int_eq(ran, 0);
    ck_assert_int_eq(waitpid(forked, &status, 0), forked);
    ck_assert(WIFEXITED(status));
    ck_assert_int_eq(WEXITSTATUS(status), 0);
    ck_assert_int_eq(aflock_ctx_free(loop, 30 * AFLOCK_SECOND), 0);
    close(fd);
    unlink(name);
}
END_TEST

static void fork_when_ready(aflock_ctx *c, int fd, unsigned events, void *user)
{
    int *status = user;
    (void)events;
    ck_assert_int_eq(aflock_epoll_watch(c, fd, 0, NULL, NULL), 0);
    forked = fork();
    if (forked > 0)
        ck_assert_int_eq(waitpid(forked, status, 0), forked);
}

/* The child of the function does not go on with the round: the timer that is due is the parent's. */
START_TEST(test_child_of_a_function_takes_nothing)
{
    int ends[2], status = -1, fired = 0;
    forked = -1;
    make_pipe(ends);
    ck_assert_int_eq(write(ends[1], "x", 1), 1);
    ck_assert_int_eq(aflock_epoll_watch(ctx, ends[0], AFLOCK_EPOLL_READ, fork_when_ready, &status), 0);
    ck_assert_int_eq(aflock_epoll_timer(ctx, 0, on_fire, &fired), 0);
    nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    int ran = aflock_epoll_run_once(ctx, 0);
    if (forked == 0)
        _exit(ran == AFLOCK_EFORKED && fired == 0 ? 0 : 1);
    ck_assert_int_eq(status, 0);
    ck_assert_int_eq(ran, 0);
    ck_assert_int_eq(aflock_epoll_run(ctx), 0);
    ck_assert_int_eq(fired, 1);
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("epoll");
    TCase *making = tcase_create("making");
    tcase_add_test(making, test_run_ends_in_the_child_of_a_callback);
    tcase_add_test(making, test_bad_options);
    tcase_add_test(making, test_too_many_open_files);
    tcase_add_test(making, test_foreign_context);
    tcase_add_test(making, test_free_inside);
    tcase_add_test(making, test_free_with_timers_and_watches);
    suite_add_tcase(suite, making);

    TCase *checks = add_case(suite, "checks");
    tcase_add_test(checks, test_wrong_thread);
    tcase_add_test(checks, test_forked_child);
    tcase_add_test(checks, test_stop_in_a_forked_child);
    tcase_add_test(checks, test_no_loop_inside_the_loop);
    tcase_add_test(checks, test_foreign_executor);

    TCase *loop = add_case(suite, "loop");
    tcase_add_test(loop, test_run_with_nothing_to_do);
    tcase_add_test(loop, test_alive);
    tcase_add_test(loop, test_run_once_waits);
    tcase_add_test(loop, test_signals_interrupt);
    tcase_add_test(loop, test_stop);
    tcase_add_test(loop, test_stop_from_thread);
    tcase_add_test(loop, test_stop_from_signal_handler);

    TCase *timers = add_case(suite, "timers");
    tcase_add_test(timers, test_timers_fire_in_order);
    tcase_add_test(timers, test_timer_cancel);
    tcase_add_test(timers, test_timer_cancelled_by_one_that_is_due_too);
    tcase_add_test(timers, test_timer_that_starts_itself);
    tcase_add_test(timers, test_many_timers);

    TCase *watches = add_case(suite, "watches");
    tcase_add_test(watches, test_watch);
    tcase_add_test(watches, test_bad_watches);
    tcase_add_test(watches, test_removed_while_ready);
    tcase_add_test(watches, test_replaced_while_ready);
    tcase_add_test(watches, test_watch_inside);
    tcase_add_test(watches, test_library_used_inside);
    tcase_add_test(watches, test_child_of_a_function_takes_nothing);

    TCase *embedded = add_case(suite, "embedded");
    tcase_add_test(embedded, test_embedded_watch_and_timer);
    tcase_add_test(embedded, test_from_one_loop_to_another);
    return suite;
}

int main(void)
{
    SRunner *runner = srunner_create(make_suite());
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
