/* What is special to the libev adapter: which calls of a loop return when and what they count, both orders of ending,
 * children, loops that cannot be had. What every loop must do is in tests/conformance. */
#include "faults/allocations.h"
#include "support/folder.h"

#include <aflock/kit.h>
#include <aflock/libev.h>

#include <check.h>
#include <errno.h>
#include <ev.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { WATCHDOG_S = 20 }; /* of libcheck: what does not return fails */

static const uint64_t NEVER = 600 * AFLOCK_SECOND; /* a poll interval: only wake-ups are left */

/* ------------------------------------------------------------------------------------------------------- the scene */

struct answer {
    int count;
    int status;
    aflock_req req;
    void (*then)(aflock *lock);
};

static char folder[PATH_MAX];
static struct ev_loop *loop;
static aflock_ctx *ctx;
static aflock *lock;
static struct answer pending; /* of `lock` */
static int descriptors_before;
static long blocks_before;

static int descriptors(void)
{
    int count = 0;
    for (int fd = 0; fd < 1024; fd++)
        count += fcntl(fd, F_GETFD) >= 0;
    return count;
}

static void pause_briefly(void)
{
    nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

static aflock_ctx *make_context(void)
{
    aflock_ctx *made;
    ck_assert_int_eq(aflock_libev_new(&made, loop, NULL), 0);
    return made;
}

static void folder_begin(void)
{
    ck_assert(folder_make(folder, NULL));
    ck_assert_int_eq(chdir(folder), 0);
}

static void folder_end(void)
{
    ck_assert_int_eq(chdir("/"), 0);
    ck_assert(folder_remove(folder));
}

static void begin_with(unsigned backend)
{
    pending = (struct answer){0};
    descriptors_before = descriptors();
    blocks_before = allocations_alive();
    loop = ev_loop_new(backend);
    ck_assert_ptr_nonnull(loop);
    ctx = make_context();
}

static void begin(void)
{
    begin_with(EVFLAG_AUTO);
}

static void end_loop(void)
{
    if (loop != NULL)
        ev_loop_destroy(loop);
    loop = NULL;
}

/* Workers free what they have used a little later. */
static void require_nothing_left(void)
{
    while (allocations_alive() != blocks_before || descriptors() != descriptors_before)
        pause_briefly();
}

static void end(void)
{
    ck_assert_int_eq(aflock_ctx_free(ctx, AFLOCK_SECOND), 0);
    ck_assert_int_eq(ev_run(loop, EVRUN_NOWAIT), 0);
    end_loop();
    require_nothing_left();
}

static void on_answer(aflock *l, const aflock_result *result, void *user)
{
    struct answer *answer = user;
    answer->count++;
    answer->status = result->status;
    answer->req = result->req;
    if (answer->then != NULL)
        answer->then(l);
}

static aflock *open_lock(aflock_ctx *in, const char *name, aflock_io io, uint64_t poll_interval)
{
    aflock *opened;
    aflock_options options;
    aflock_options_init(&options);
    options.io = io;
    options.poll_interval = poll_interval;
    ck_assert_int_eq(aflock_open(&opened, in, name, &options), 0);
    return opened;
}

static void acquire(aflock *l, struct answer *answer)
{
    ck_assert_int_eq(aflock_acquire(l, NULL, on_answer, answer, NULL), 0);
}

static void run_until_answered(const struct answer *answer)
{
    while (answer->count == 0)
        ev_run(loop, EVRUN_ONCE);
}

static void pass(void)
{
    for (int i = 0; i < 5; i++) {
        ev_run(loop, EVRUN_NOWAIT);
        pause_briefly();
    }
}

/* Somebody else's hold. */
static int hold_outside(const char *name)
{
    int fd = open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(flock(fd, LOCK_EX | LOCK_NB), 0);
    return fd;
}

static bool is_free(const char *name)
{
    int fd = open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    ck_assert_int_ge(fd, 0);
    bool got = flock(fd, LOCK_EX | LOCK_NB) == 0;
    close(fd);
    return got;
}

static void after(ev_timer *timer, void (*function)(struct ev_loop *, ev_timer *, int), int milliseconds, void *user)
{
    ev_timer_init(timer, function, milliseconds / 1e3, 0.);
    timer->data = user;
    ev_timer_start(loop, timer);
}

static void count_timer(struct ev_loop *in, ev_timer *timer, int events)
{
    (void)in, (void)events;
    ++*(int *)timer->data;
}

/* ------------------------------------------------------------------------------------------------------ the states */

/* What a context may be doing. */
enum state { IDLE, WAITING, HELD, TRYING, STATES };

static int outside = -1;
static int gate[2];
static atomic_int inside;

/* On a worker: until somebody closes the other end. */
static int stand_at_gate(int fd, void *user)
{
    (void)fd, (void)user;
    char byte;
    atomic_store(&inside, 1);
    return read(gate[0], &byte, 1) == 0 ? 0 : EIO;
}

static void enter(enum state state)
{
    aflock_acquire_options options;
    aflock_acquire_options_init(&options);
    lock = open_lock(ctx, "lock", state == TRYING ? AFLOCK_IO_POOL : AFLOCK_IO_INLINE, NEVER);
    if (state == WAITING)
        outside = hold_outside("lock");
    if (state == TRYING) {
        ck_assert_int_eq(pipe2(gate, O_CLOEXEC), 0);
        atomic_store(&inside, 0);
        options.on_acquired = stand_at_gate;
    }
    if (state != IDLE)
        ck_assert_int_eq(aflock_acquire(lock, &options, on_answer, &pending, NULL), 0);
    if (state == HELD)
        run_until_answered(&pending);
    do
        pass();
    while (state == TRYING && !atomic_load(&inside));
    ck_assert_int_eq(pending.count, state == HELD);
}

/* Once the context is gone. */
static void require_ended(enum state state)
{
    ck_assert_int_eq(pending.count, state != IDLE);
    if (state == WAITING || state == TRYING)
        ck_assert_int_eq(pending.status, AFLOCK_ECLOSED);
    if (state == WAITING)
        close(outside);
    if (state == TRYING)
        close(gate[1]);
    while (!is_free("lock"))
        pause_briefly();
    end_loop();
    if (state != TRYING) {
        require_nothing_left();
        return;
    }
    descriptors_before++; /* the worker's end, until it has left */
    require_nothing_left();
    close(gate[0]);
}

/* ------------------------------------------------------------------------------------------------------- keep-alive */

START_TEST(test_only_requests_keep_alive)
{
    begin();
    ck_assert_int_eq(ev_run(loop, 0), 0);
    lock = open_lock(ctx, "lock", (aflock_io)_i, AFLOCK_MILLISECOND);
    for (int round = 1; round <= 3; round++) {
        acquire(lock, &pending);
        ck_assert_int_eq(ev_run(loop, 0), 0);
        ck_assert_int_eq(pending.count, 2 * round - 1);
        ck_assert_int_eq(pending.status, 0);
        ck_assert_int_eq(ev_run(loop, 0), 0); /* for a hold */
        ck_assert_int_eq(aflock_release(lock, pending.req, on_answer, &pending), 0);
        ck_assert_int_eq(ev_run(loop, 0), 0);
        ck_assert_int_eq(pending.count, 2 * round);
    }
    end();
}
END_TEST

static void close_outside(struct ev_loop *in, ev_timer *timer, int events)
{
    (void)in, (void)timer, (void)events;
    close(outside);
}

START_TEST(test_a_waiting_request_keeps_alive)
{
    ev_timer timer;
    begin();
    outside = hold_outside("lock");
    lock = open_lock(ctx, "lock", AFLOCK_IO_AUTO, 5 * AFLOCK_MILLISECOND);
    acquire(lock, &pending);
    pass();
    ck_assert_int_eq(ev_run(loop, EVRUN_NOWAIT), 1); /* what libev counts */
    after(&timer, close_outside, 20, NULL);
    ck_assert_int_eq(ev_run(loop, 0), 0);
    ck_assert_int_eq(pending.count, 1);
    ck_assert_int_eq(pending.status, 0);
    end();
}
END_TEST

/* A second request keeps the loop alive: EVRUN_ONCE returns because the first was answered. */
START_TEST(test_once_returns_after_a_callback)
{
    struct answer never = {0}, first = {0};
    begin();
    outside = hold_outside("other");
    acquire(open_lock(ctx, "other", AFLOCK_IO_INLINE, NEVER), &never);
    pass();
    for (int round = 0; round < 3; round++) {
        lock = open_lock(ctx, "lock", round == 2 ? AFLOCK_IO_POOL : AFLOCK_IO_INLINE, NEVER);
        first = (struct answer){0};
        acquire(lock, &first);
        int rounds = 0;
        for (; first.count == 0; rounds++)
            ev_run(loop, EVRUN_ONCE);
        if (round < 2)
            ck_assert_int_eq(rounds, 1);
        ck_assert_int_eq(first.status, 0);
        ck_assert_int_eq(aflock_release(lock, first.req, NULL, NULL), 0);
    }
    ck_assert_int_eq(never.count, 0);
    close(outside);
    ck_assert_int_eq(aflock_ctx_free(ctx, AFLOCK_SECOND), 0);
    ck_assert_int_eq(never.status, AFLOCK_ECLOSED);
    ctx = make_context();
    end();
}
END_TEST

START_TEST(test_nowait_does_not_wait)
{
    struct answer first = {0};
    begin();
    lock = open_lock(ctx, "lock", AFLOCK_IO_INLINE, NEVER);
    acquire(lock, &first);
    for (int i = 0; i < 3 && first.count == 0; i++)
        ev_run(loop, EVRUN_NOWAIT);
    ck_assert_int_eq(first.count, 1);
    acquire(lock, &pending); /* behind the first */
    for (int i = 0; i < 10; i++)
        ck_assert_int_ge(ev_run(loop, EVRUN_NOWAIT), 1);
    ck_assert_int_eq(pending.count, 0);
    ck_assert_int_eq(aflock_release(lock, first.req, NULL, NULL), 0);
    run_until_answered(&pending);
    ck_assert_int_eq(pending.status, 0);
    end();
}
END_TEST

/* ---------------------------------------------------------------------------------------------- beside the program's
 */

enum { CHAIN = 2000 };

static void again(aflock *l)
{
    ck_assert_int_eq(aflock_release(l, pending.req, NULL, NULL), 0);
    if (pending.count < CHAIN)
        acquire(l, &pending);
}

static void count_io(struct ev_loop *in, ev_io *watcher, int events)
{
    (void)in, (void)events;
    ++*(int *)watcher->data;
}

/* Callbacks that ask for the next one without end, and a program's descriptor and timer all the same. */
START_TEST(test_the_program_has_its_turn)
{
    int ends[2], reads = 0, fired = 0;
    ev_io always;
    ev_timer timer;
    begin();
    ck_assert_int_eq(pipe2(ends, O_CLOEXEC), 0);
    ck_assert_int_eq(write(ends[1], "x", 1), 1);
    ev_io_init(&always, count_io, ends[0], EV_READ);
    always.data = &reads;
    ev_io_start(loop, &always);
    after(&timer, count_timer, 0, &fired);
    lock = open_lock(ctx, "lock", AFLOCK_IO_INLINE, NEVER);
    pending.then = again;
    acquire(lock, &pending);
    while (pending.count < CHAIN)
        ev_run(loop, EVRUN_ONCE);
    ck_assert_int_ge(reads, CHAIN / 64);
    ck_assert_int_eq(fired, 1);
    ev_io_stop(loop, &always);
    close(ends[0]);
    close(ends[1]);
    end();
}
END_TEST

/* ---------------------------------------------------------------------------------------------- contexts on one loop
 */

enum { CONTEXTS = 8 };

static aflock_ctx *made_inside;

static void make_inside(aflock *l)
{
    (void)l;
    made_inside = make_context();
}

static void free_other(struct ev_loop *in, ev_timer *timer, int events)
{
    (void)in, (void)events;
    aflock_ctx **other = timer->data;
    ck_assert_int_eq(aflock_ctx_free(*other, AFLOCK_SECOND), 0);
    *other = NULL;
}

START_TEST(test_eight_contexts)
{
    aflock_ctx *contexts[CONTEXTS];
    struct answer answers[CONTEXTS] = {{0}};
    begin();
    for (int i = 0; i < CONTEXTS; i++) {
        contexts[i] = make_context();
        acquire(open_lock(contexts[i], "lock", i % 2 ? AFLOCK_IO_INLINE : AFLOCK_IO_AUTO, AFLOCK_MILLISECOND),
                &answers[i]);
    }
    ev_timer timer;
    int granted = 0;
    while (granted < CONTEXTS) {
        ev_run(loop, EVRUN_ONCE);
        for (int i = 0; i < CONTEXTS; i++)
            if (contexts[i] != NULL && answers[i].count > 0) { /* it holds: its end lets the next one in */
                ck_assert_int_eq(answers[i].status, 0);
                granted++;
                after(&timer, free_other, 0, &contexts[i]);
                while (contexts[i] != NULL)
                    ev_run(loop, EVRUN_ONCE);
            }
    }
    ck_assert_int_eq(ev_run(loop, 0), 0);
    end();
}
END_TEST

START_TEST(test_made_and_freed_inside)
{
    struct answer waits = {0};
    ev_timer timer;
    begin();
    outside = hold_outside("other");
    lock = open_lock(ctx, "lock", AFLOCK_IO_INLINE, NEVER);
    pending.then = make_inside;
    acquire(lock, &pending);
    run_until_answered(&pending);
    acquire(open_lock(made_inside, "other", AFLOCK_IO_INLINE, AFLOCK_MILLISECOND), &waits);
    after(&timer, free_other, 10, &made_inside);
    ck_assert_int_eq(ev_run(loop, 0), 0); /* then nothing keeps it alive */
    ck_assert_ptr_null(made_inside);
    ck_assert_int_eq(waits.count, 1);
    ck_assert_int_eq(waits.status, AFLOCK_ECLOSED);
    close(outside);
    end();
}
END_TEST

/* ------------------------------------------------------------------------------------------------------- the ending */

START_TEST(test_context_first)
{
    enum state state = (enum state)_i;
    begin();
    enter(state);
    ck_assert_int_ge(aflock_ctx_free(ctx, 0), 0);
    ck_assert_int_eq(ev_run(loop, EVRUN_NOWAIT), 0);
    require_ended(state);
}
END_TEST

START_TEST(test_loop_first)
{
    struct answer late = {0};
    enum state state = (enum state)_i;
    begin();
    enter(state);
    end_loop();
    acquire(open_lock(ctx, "other", AFLOCK_IO_INLINE, NEVER), &late); /* taken, not answered */
    if (state == HELD)
        ck_assert_int_eq(aflock_release(lock, pending.req, NULL, NULL), 0);
    ck_assert_int_eq(late.count, 0);
    ck_assert_int_ge(aflock_ctx_free(ctx, 0), 0);
    ck_assert_int_eq(late.count, 1);
    ck_assert_int_eq(late.status, AFLOCK_ECLOSED);
    require_ended(state);
}
END_TEST

/* The kit's descriptor has the first number that was free. Of libev's backends only this one looks, and goes on. */
START_TEST(test_closed_under_the_loop)
{
    begin_with(EVBACKEND_SELECT);
    ck_assert_int_eq(aflock_ctx_free(ctx, 0), 0);
    int next = dup(0);
    close(next);
    ctx = make_context();
    enter((enum state)_i);
    close(next);
    ev_loop_fork(loop);
    ev_run(loop, EVRUN_NOWAIT);
    ck_assert_int_eq(ev_run(loop, 0), 0);              /* it does not wait for what will never come */
    int taken = open("taken", O_RDWR | O_CREAT, 0666); /* so that the context does not close what is somebody's */
    ck_assert_int_eq(taken, next);
    ck_assert_int_ge(aflock_ctx_free(ctx, 0), 0);
    require_ended((enum state)_i);
}
END_TEST

/* --------------------------------------------------------------------------------------------------------- children */

/* What the child does about the loop. */
enum child { ABANDONS, FORKS_AND_ABANDONS, ABANDONS_AND_FORKS, DESTROYS_AND_ABANDONS, CHILDREN };

static pid_t child_of(void (*body)(int argument), int argument)
{
    fflush(NULL);
    pid_t child = fork();
    ck_assert_int_ge(child, 0);
    if (child == 0) {
        body(argument);
        exit(0); /* leaks are looked for; a failed assertion ends otherwise */
    }
    return child;
}

static void require_good_end(pid_t child)
{
    int status;
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert(WIFEXITED(status));
    ck_assert_int_eq(WEXITSTATUS(status), 0);
}

static void require_loop_works(void)
{
    int fired = 0;
    ev_timer timer;
    after(&timer, count_timer, 1, &fired);
    ck_assert_int_eq(ev_run(loop, 0), 0);
    ck_assert_int_eq(fired, 1);
}

static void leave_as(int order)
{
    ck_assert_int_eq(aflock_acquire(lock, NULL, on_answer, &pending, NULL), AFLOCK_EFORKED);
    ck_assert_int_eq(aflock_close(lock), AFLOCK_EFORKED);
    ck_assert_int_eq(aflock_ctx_free(ctx, 0), AFLOCK_EFORKED);
    if (order == FORKS_AND_ABANDONS)
        ev_loop_fork(loop);
    if (order == DESTROYS_AND_ABANDONS)
        end_loop();
    ck_assert_int_eq(aflock_ctx_abandon(ctx), 0);
    if (order == ABANDONS_AND_FORKS)
        ev_loop_fork(loop);
    if (loop != NULL)
        require_loop_works();
    end_loop();
    ck_assert_int_eq(allocations_alive(), blocks_before);
}

static aflock_token *wait_with_token(const char *name, struct answer *answer)
{
    aflock_token *token;
    aflock_acquire_options options;
    aflock_acquire_options_init(&options);
    ck_assert_int_eq(aflock_token_new(&token, ctx), 0);
    options.token = token;
    aflock *other = open_lock(ctx, name, AFLOCK_IO_INLINE, NEVER);
    ck_assert_int_eq(aflock_acquire(other, &options, on_answer, answer, NULL), 0);
    pass();
    ck_assert_int_eq(answer->count, 0);
    return token;
}

/* Other threads still wake the parent: a token, and a job on the pool. */
static void require_wakes(void)
{
    struct answer cancelled = {0}, pooled = {0};
    int holder = hold_outside("wakes");
    aflock_token *token = wait_with_token("wakes", &cancelled);
    aflock_token_fire(token);
    run_until_answered(&cancelled);
    ck_assert_int_eq(cancelled.status, AFLOCK_ECANCELED);
    aflock_token_free(token);
    close(holder);
    acquire(open_lock(ctx, "pooled", AFLOCK_IO_POOL, NEVER), &pooled);
    run_until_answered(&pooled);
    ck_assert_int_eq(pooled.status, 0);
}

/* _i: what the child does, and what the parent was doing. */
START_TEST(test_child)
{
    enum state state = (enum state)(_i / CHILDREN);
    begin();
    enter(state);
    require_good_end(child_of(leave_as, _i % CHILDREN));
    require_wakes();
    ck_assert_int_eq(pending.count, state == HELD);
    ck_assert_int_eq(is_free("lock"), state == IDLE);
    if (state == WAITING)
        close(outside);
    end();
}
END_TEST

static long cpu_milliseconds(void)
{
    struct rusage usage;
    ck_assert_int_eq(getrusage(RUSAGE_SELF, &usage), 0);
    return (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000 +
           (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1000;
}

enum { CHILD_LIVES_MS = 400 };

/* The library's descriptor is readable all the time. */
static void go_on(int argument)
{
    (void)argument;
    int over = 0, rounds = 0;
    ev_timer timer;
    after(&timer, count_timer, CHILD_LIVES_MS, &over);
    long before = cpu_milliseconds();
    for (; !over; rounds++)
        ev_run(loop, EVRUN_ONCE);
    ck_assert_int_le(rounds, 20);
    ck_assert_int_le(cpu_milliseconds() - before, CHILD_LIVES_MS / 2);
    ck_assert_int_eq(pending.count, 0);
    ck_assert_int_eq(aflock_ctx_abandon(ctx), 0);
    end_loop();
    ck_assert_int_eq(allocations_alive(), blocks_before);
}

/* _i: the library has also asked for a turn. */
START_TEST(test_child_that_goes_on)
{
    struct answer deferred = {0};
    begin();
    outside = hold_outside("token");
    aflock_token *token = wait_with_token("token", &pending);
    aflock_token_fire(token);
    if (_i)
        acquire(open_lock(ctx, "lock", AFLOCK_IO_INLINE, NEVER), &deferred);
    aflock_token_free(token);
    require_good_end(child_of(go_on, 0));
    run_until_answered(&pending); /* the wake-up is still there */
    ck_assert_int_eq(pending.status, AFLOCK_ECANCELED);
    if (_i)
        run_until_answered(&deferred);
    require_wakes();
    close(outside);
    end();
}
END_TEST

static pid_t forked;

static void fork_in_timer(struct ev_loop *in, ev_timer *timer, int events)
{
    (void)in, (void)timer, (void)events;
    fflush(NULL);
    forked = fork();
    ck_assert_int_ge(forked, 0);
    if (forked == 0)
        ck_assert_int_eq(aflock_ctx_abandon(ctx), 0);
}

/* In a timer of the program's; the child goes on from there. */
START_TEST(test_fork_inside_a_timer)
{
    begin();
    forked = -1;
    outside = hold_outside("token");
    aflock_token *token = wait_with_token("token", &pending);
    ev_timer timer;
    after(&timer, fork_in_timer, 0, NULL);
    while (forked < 0)
        ev_run(loop, EVRUN_ONCE);
    if (forked == 0) {
        require_loop_works();
        end_loop();
        exit(0);
    }
    require_good_end(forked);
    aflock_token_free(token);
    require_wakes();
    close(outside);
    end();
}
END_TEST

/* ------------------------------------------------------------------------------------------------- what goes wrong */

static void ignore_close(void *self, int child)
{
    (void)child;
    ++*(int *)self;
}

static int refuse_job(void *self, aflock_job *job, aflock_lane lane)
{
    (void)self, (void)job, (void)lane;
    return AFLOCK_ENOMEM;
}

static void require_refused(const aflock_libev_options *options, int status)
{
    aflock_ctx *made = (aflock_ctx *)folder;
    int descriptors_now = descriptors();
    long blocks_now = allocations_alive();
    ck_assert_int_eq(aflock_libev_new(&made, loop, options), status);
    ck_assert_ptr_null(made);
    ck_assert_int_eq(descriptors(), descriptors_now);
    ck_assert_int_eq(allocations_alive(), blocks_now);
}

START_TEST(test_bad_arguments)
{
    aflock_libev_options options;
    aflock_pool_options pool;
    aflock_ctx_options ctx_options;
    aflock_ctx *made = ctx;
    begin();
    aflock_libev_options_init(NULL);
    ck_assert_int_eq(aflock_libev_new(NULL, loop, NULL), AFLOCK_EINVAL);
    for (size_t size = 0; size <= sizeof options + 1; size += size == 0 ? sizeof options + 1 : 1) {
        aflock_libev_options_init(&options);
        options.size = size;
        require_refused(&options, AFLOCK_EINVAL);
    }
    aflock_libev_options_init(&options);
    aflock_pool_options_init(&pool);
    pool.threads = 0;
    options.pool = &pool;
    require_refused(&options, AFLOCK_EINVAL);

    int closed = 0;
    aflock_executor executor = {
        .size = sizeof executor, .self = &closed, .width = 1, .submit = refuse_job, .close = ignore_close};
    aflock_libev_options_init(&options);
    aflock_ctx_options_init(&ctx_options);
    ctx_options.size = 0;
    options.ctx = &ctx_options;
    options.executor = &executor;
    require_refused(&options, AFLOCK_EINVAL);
    ck_assert_int_eq(closed, 0); /* it stays the caller's */
    options.ctx = NULL;
    ck_assert_int_eq(aflock_libev_new(&made, loop, &options), 0);
    ck_assert_int_eq(aflock_ctx_free(made, 0), 0);
    ck_assert_int_eq(closed, 1);
    end();
}
END_TEST

START_TEST(test_too_many_open_files)
{
    struct rlimit before, limit;
    begin();
    ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &before), 0);
    int next = dup(0);
    close(next);
    for (int spare = 0; spare < 4; spare++) {
        limit = before;
        limit.rlim_cur = (rlim_t)(next + spare);
        ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
        if (spare < 3)
            require_refused(NULL, AFLOCK_EMFILE);
    }
    ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &before), 0);
    end();
}
END_TEST

/* Each allocation of ours; libev ends the program for want of memory. */
START_TEST(test_out_of_memory)
{
    unsigned failed;
    begin();
    for (unsigned n = 1;; n++) {
        aflock_ctx *made = (aflock_ctx *)folder;
        long blocks_now = allocations_alive();
        allocations_fail(n);
        int status = aflock_libev_new(&made, loop, NULL);
        failed = allocations_failed();
        allocations_fail(0);
        if (failed == 0) {
            ck_assert_int_gt(n, 4);
            ck_assert_int_eq(aflock_ctx_free(made, 0), 0);
            break;
        }
        ck_assert_int_eq(status, AFLOCK_ENOMEM);
        ck_assert_ptr_null(made);
        ck_assert_int_eq(allocations_alive(), blocks_now);
        ck_assert_int_eq(ev_run(loop, EVRUN_NOWAIT), 0);
    }
    end();
}
END_TEST

/* NULL is the default loop, where there can be one. */
START_TEST(test_the_default_loop)
{
    static const char NO_SUCH_BACKEND[] = "32"; /* Solaris' */
    aflock_ctx *made = (aflock_ctx *)folder;
    begin();
    ck_assert_int_eq(setenv("LIBEV_FLAGS", NO_SUCH_BACKEND, 1), 0);
    ck_assert_int_eq(aflock_libev_new(&made, NULL, NULL), AFLOCK_EINVAL);
    ck_assert_ptr_null(made);
    ck_assert_int_eq(unsetenv("LIBEV_FLAGS"), 0);
    ck_assert_int_eq(aflock_libev_new(&made, NULL, NULL), 0);
    acquire(open_lock(made, "lock", AFLOCK_IO_POOL, NEVER), &pending);
    ck_assert_int_eq(ev_run(EV_DEFAULT_UC, 0), 0);
    ck_assert_int_eq(pending.count, 1);
    ck_assert_int_eq(aflock_ctx_free(made, AFLOCK_SECOND), 0);
    ev_loop_destroy(EV_DEFAULT_UC);
    end();
}
END_TEST

/* ------------------------------------------------------------------------------------------------------------- main */

static TCase *add_case(Suite *suite, const char *name)
{
    TCase *tcase = tcase_create(name);
    tcase_set_timeout(tcase, WATCHDOG_S);
    tcase_add_unchecked_fixture(tcase, folder_begin, folder_end);
    suite_add_tcase(suite, tcase);
    return tcase;
}

static Suite *make_suite(void)
{
    Suite *suite = suite_create("libev");
    TCase *running = add_case(suite, "running");
    tcase_add_loop_test(running, test_only_requests_keep_alive, 0, AFLOCK_IO_POOL + 1);
    tcase_add_test(running, test_a_waiting_request_keeps_alive);
    tcase_add_test(running, test_once_returns_after_a_callback);
    tcase_add_test(running, test_nowait_does_not_wait);
    tcase_add_test(running, test_the_program_has_its_turn);
    tcase_add_test(running, test_eight_contexts);
    tcase_add_test(running, test_made_and_freed_inside);

    TCase *ending = add_case(suite, "ending");
    tcase_add_loop_test(ending, test_context_first, 0, STATES);
    tcase_add_loop_test(ending, test_loop_first, 0, STATES);
    tcase_add_loop_test(ending, test_closed_under_the_loop, 0, STATES);

    TCase *children = add_case(suite, "children");
    tcase_add_loop_test(children, test_child, 0, CHILDREN * TRYING);
    tcase_add_loop_test(children, test_child_that_goes_on, 0, 2);
    tcase_add_test(children, test_fork_inside_a_timer);

    TCase *mishaps = add_case(suite, "mishaps");
    tcase_add_test(mishaps, test_bad_arguments);
    tcase_add_test(mishaps, test_too_many_open_files);
    tcase_add_test(mishaps, test_out_of_memory);
    tcase_add_test(mishaps, test_the_default_loop);
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
