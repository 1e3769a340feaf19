/* What is special to the libuv adapter: which calls of a loop return when and what they count, handles that are closed
 * by whom in which order, children, libuv's own thread pool. What every loop must do is in tests/conformance. */
#include "faults/allocations.h"
#include "support/folder.h"

#include <aflock/kit.h>
#include <aflock/libuv.h>

#include <check.h>
#include <errno.h>
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
#include <uv.h>

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
static uv_loop_t *loop;
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

static aflock_ctx *make_context_with(unsigned uv_threads)
{
    aflock_ctx *made;
    aflock_libuv_options options;
    aflock_libuv_options_init(&options);
    options.uv_threads = uv_threads;
    ck_assert_int_eq(aflock_libuv_new(&made, loop, &options), 0);
    return made;
}

static aflock_ctx *make_context(void)
{
    return make_context_with(0);
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

static void begin_without_context(void)
{
    uv_loop_t first; /* what the process keeps of it is there before anything is counted */
    ck_assert_int_eq(uv_loop_init(&first), 0);
    ck_assert_int_eq(uv_loop_close(&first), 0);
    pending = (struct answer){0};
    descriptors_before = descriptors();
    blocks_before = allocations_alive();
    loop = malloc(sizeof *loop);
    ck_assert_ptr_nonnull(loop);
    ck_assert_int_eq(uv_loop_init(loop), 0);
}

static void begin_with(unsigned uv_threads)
{
    begin_without_context();
    ctx = make_context_with(uv_threads);
}

static void begin(void)
{
    begin_with(0);
}

/* All handles have to be closed. */
static void end_loop(void)
{
    if (loop == NULL)
        return;
    uv_run(loop, UV_RUN_DEFAULT);
    ck_assert_int_eq(uv_loop_close(loop), 0);
    memset(loop, 0xa5, sizeof *loop);
    free(loop);
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
        uv_run(loop, UV_RUN_ONCE);
}

static void pass(void)
{
    for (int i = 0; i < 5; i++) {
        uv_run(loop, UV_RUN_NOWAIT);
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

static void after(uv_timer_t *timer, uv_timer_cb function, unsigned milliseconds, void *user)
{
    ck_assert_int_eq(uv_timer_init(loop, timer), 0);
    timer->data = user;
    uv_update_time(loop);
    ck_assert_int_eq(uv_timer_start(timer, function, milliseconds, 0), 0);
}

static void count_timer(uv_timer_t *timer)
{
    ++*(int *)timer->data;
    uv_close((uv_handle_t *)timer, NULL);
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
    ck_assert_int_eq(uv_run(loop, UV_RUN_DEFAULT), 0);
    lock = open_lock(ctx, "lock", (aflock_io)_i, AFLOCK_MILLISECOND);
    for (int round = 1; round <= 3; round++) {
        acquire(lock, &pending);
        ck_assert_int_eq(uv_run(loop, UV_RUN_DEFAULT), 0);
        ck_assert_int_eq(pending.count, 2 * round - 1);
        ck_assert_int_eq(pending.status, 0);
        ck_assert_int_eq(uv_run(loop, UV_RUN_DEFAULT), 0); /* for a hold */
        ck_assert_int_eq(aflock_release(lock, pending.req, on_answer, &pending), 0);
        ck_assert_int_eq(uv_run(loop, UV_RUN_DEFAULT), 0);
        ck_assert_int_eq(pending.count, 2 * round);
    }
    end();
}
END_TEST

static void close_outside(uv_timer_t *timer)
{
    close(outside);
    uv_close((uv_handle_t *)timer, NULL);
}

START_TEST(test_a_waiting_request_keeps_alive)
{
    uv_timer_t timer;
    begin();
    outside = hold_outside("lock");
    lock = open_lock(ctx, "lock", AFLOCK_IO_AUTO, 5 * AFLOCK_MILLISECOND);
    acquire(lock, &pending);
    pass();
    ck_assert_int_eq(loop->active_handles, 1);
    after(&timer, close_outside, 20, NULL);
    ck_assert_int_eq(uv_run(loop, UV_RUN_DEFAULT), 0);
    ck_assert_int_eq(pending.count, 1);
    ck_assert_int_eq(pending.status, 0);
    end();
}
END_TEST

/* A second request keeps the loop alive: UV_RUN_ONCE returns because the first was answered. */
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
            uv_run(loop, UV_RUN_ONCE);
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
        uv_run(loop, UV_RUN_NOWAIT);
    ck_assert_int_eq(first.count, 1);
    acquire(lock, &pending); /* behind the first */
    for (int i = 0; i < 10; i++)
        ck_assert_int_ge(uv_run(loop, UV_RUN_NOWAIT), 1);
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

static void count_poll(uv_poll_t *poll, int status, int events)
{
    ck_assert_int_eq(status, 0);
    ck_assert_int_eq(events, UV_READABLE);
    ++*(int *)poll->data;
}

static void make_readable_pipe(int ends[2])
{
    ck_assert_int_eq(pipe2(ends, O_CLOEXEC), 0);
    ck_assert_int_eq(write(ends[1], "x", 1), 1);
}

static void close_pipe(const int ends[2])
{
    close(ends[0]);
    close(ends[1]);
}

/* Callbacks that ask for the next one without end, and a program's descriptor and timer all the same. */
START_TEST(test_the_program_has_its_turn)
{
    int ends[2], reads = 0, fired = 0;
    uv_poll_t always;
    uv_timer_t timer;
    begin();
    make_readable_pipe(ends);
    ck_assert_int_eq(uv_poll_init(loop, &always, ends[0]), 0);
    always.data = &reads;
    ck_assert_int_eq(uv_poll_start(&always, UV_READABLE, count_poll), 0);
    after(&timer, count_timer, 0, &fired);
    lock = open_lock(ctx, "lock", AFLOCK_IO_INLINE, NEVER);
    pending.then = again;
    acquire(lock, &pending);
    while (pending.count < CHAIN)
        uv_run(loop, UV_RUN_ONCE);
    ck_assert_int_ge(reads, CHAIN / 64);
    ck_assert_int_eq(fired, 1);
    uv_close((uv_handle_t *)&always, NULL);
    uv_run(loop, UV_RUN_NOWAIT);
    close_pipe(ends);
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

static void free_other(uv_timer_t *timer)
{
    aflock_ctx **other = timer->data;
    uv_close((uv_handle_t *)timer, NULL);
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
    uv_timer_t timer;
    int granted = 0;
    while (granted < CONTEXTS) {
        uv_run(loop, UV_RUN_ONCE);
        for (int i = 0; i < CONTEXTS; i++)
            if (contexts[i] != NULL && answers[i].count > 0) { /* it holds: its end lets the next one in */
                ck_assert_int_eq(answers[i].status, 0);
                granted++;
                after(&timer, free_other, 0, &contexts[i]);
                while (contexts[i] != NULL || !uv_is_closing((uv_handle_t *)&timer))
                    uv_run(loop, UV_RUN_ONCE);
                uv_run(loop, UV_RUN_NOWAIT); /* the timer is closed */
            }
    }
    ck_assert_int_eq(uv_run(loop, UV_RUN_DEFAULT), 0);
    end();
}
END_TEST

START_TEST(test_made_and_freed_inside)
{
    struct answer waits = {0};
    uv_timer_t timer;
    begin();
    outside = hold_outside("other");
    lock = open_lock(ctx, "lock", AFLOCK_IO_INLINE, NEVER);
    pending.then = make_inside;
    acquire(lock, &pending);
    run_until_answered(&pending);
    acquire(open_lock(made_inside, "other", AFLOCK_IO_INLINE, AFLOCK_MILLISECOND), &waits);
    after(&timer, free_other, 10, &made_inside);
    ck_assert_int_eq(uv_run(loop, UV_RUN_DEFAULT), 0); /* then nothing keeps it alive */
    ck_assert_ptr_null(made_inside);
    ck_assert_int_eq(waits.count, 1);
    ck_assert_int_eq(waits.status, AFLOCK_ECLOSED);
    close(outside);
    end();
}
END_TEST

/* ------------------------------------------------------------------------------------------------------- the ending */

/* What a program does before it frees the context. */
enum before {
    NOTHING,
    CLOSES, /* its handles, all of them */
    CLOSES_BACKWARDS,
    CLOSES_FIRST, /* one of them only */
    CLOSES_SECOND,
    CLOSES_THIRD,
    CLOSES_OUTER,
    WAYS
};

enum blocks { LOOP = 1, LOOP_AND_HANDLES = 2 };

/* And then. */
enum moment { AT_ONCE, IN_A_CALLBACK, LATER, MOMENTS };

static uv_handle_t *handles[4];
static int handle_count;

static void note_handle(uv_handle_t *handle, void *user)
{
    (void)user;
    ck_assert_int_lt(handle_count, 4);
    handles[handle_count++] = handle;
}

static long blocks_in_callback;

static void count_blocks(uv_handle_t *handle)
{
    (void)handle;
    blocks_in_callback = allocations_alive() - blocks_before;
}

static void free_in_callback(uv_handle_t *handle)
{
    ck_assert_int_ge(aflock_ctx_free(ctx, 0), 0);
    ctx = NULL;
    count_blocks(handle);
}

static bool is_closed_by(enum before before, int i)
{
    return before == CLOSES || before == CLOSES_BACKWARDS || (int)before - CLOSES_FIRST == i ||
           (before == CLOSES_OUTER && i != 1);
}

static void close_handles(enum before before, enum moment moment, uv_idle_t *own, int position)
{
    handle_count = 0;
    uv_walk(loop, note_handle, NULL);
    ck_assert_int_eq(handle_count, 3);
    for (int i = 0; i <= 3; i++) {
        int which = before == CLOSES_BACKWARDS ? 2 - i : i;
        if (moment == IN_A_CALLBACK && i == position) {
            ck_assert_int_eq(uv_idle_init(loop, own), 0);
            uv_close((uv_handle_t *)own, free_in_callback);
        }
        if (i < 3 && is_closed_by(before, which))
            uv_close(handles[which], NULL);
    }
}

/* _i: a way to close handles, a moment, where among them the program's own is closed, and a state. */
START_TEST(test_handles_closed)
{
    enum before before = (enum before)(_i % WAYS);
    enum moment moment = (enum moment)(_i / WAYS % MOMENTS);
    int position = _i / WAYS / MOMENTS % 4;
    enum state state = (enum state)(_i / WAYS / MOMENTS / 4);
    uv_idle_t own;
    begin();
    enter(state);
    close_handles(before, moment, &own, position);
    if (moment != AT_ONCE)
        uv_run(loop, UV_RUN_NOWAIT);
    if (moment != IN_A_CALLBACK)
        ck_assert_int_ge(aflock_ctx_free(ctx, 0), 0);
    ck_assert_int_eq(loop->active_handles, 0);
    if (state == IDLE && moment == IN_A_CALLBACK && (before == CLOSES || before == CLOSES_BACKWARDS))
        ck_assert_int_eq(blocks_in_callback, position == 0 ? LOOP : LOOP_AND_HANDLES);
    require_ended(state);
}
END_TEST

/* What was closed first is finished last: the program's handle still before one of the library's. */
START_TEST(test_memory_kept_for_all_handles)
{
    uv_idle_t own;
    begin();
    handle_count = 0;
    uv_walk(loop, note_handle, NULL);
    uv_close(handles[_i], NULL);
    ck_assert_int_eq(uv_idle_init(loop, &own), 0);
    uv_close((uv_handle_t *)&own, count_blocks);
    ck_assert_int_eq(aflock_ctx_free(ctx, 0), 0);
    uv_run(loop, UV_RUN_NOWAIT);
    ck_assert_int_eq(blocks_in_callback, LOOP_AND_HANDLES);
    end_loop();
    require_nothing_left();
}
END_TEST

static void close_any(uv_handle_t *handle, void *user)
{
    (void)user;
    if (!uv_is_closing(handle))
        uv_close(handle, NULL);
}

/* The context is freed first, and the program closes what is left before the loop has run. */
START_TEST(test_context_first)
{
    enum state state = (enum state)_i;
    begin();
    enter(state);
    ck_assert_int_ge(aflock_ctx_free(ctx, 0), 0);
    ck_assert_int_eq(uv_loop_close(loop), UV_EBUSY);
    uv_walk(loop, close_any, NULL);
    require_ended(state);
}
END_TEST

/* The loop is closed, and its memory freed. */
START_TEST(test_loop_first)
{
    struct answer late = {0};
    enum state state = (enum state)_i;
    begin();
    enter(state);
    uv_walk(loop, close_any, NULL);
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

/* The kit's descriptor has the first number that was free. Another file takes it, one that reports errors; libuv sees
 * that when it is made anew for a child. */
START_TEST(test_replaced_under_the_loop)
{
    int ends[2];
    begin_without_context();
    ck_assert_int_eq(pipe2(ends, O_CLOEXEC), 0);
    close(ends[0]);
    int next = dup(0);
    close(next);
    ctx = make_context();
    enter((enum state)_i);
    ck_assert_int_eq(dup2(ends[1], next), next);
    close(ends[1]);
    ck_assert_int_eq(uv_loop_fork(loop), 0);
    uv_run(loop, UV_RUN_NOWAIT);
    ck_assert_int_eq(uv_run(loop, UV_RUN_DEFAULT), 0); /* it does not wait for what will never come */
    ck_assert_int_ge(aflock_ctx_free(ctx, 0), 0);
    require_ended((enum state)_i);
}
END_TEST

/* --------------------------------------------------------------------------------------------------------- children */

/* What the child does about the loop. */
enum child { ABANDONS, FORKS_AND_ABANDONS, ABANDONS_AND_FORKS, CLOSES_AND_ABANDONS, ENDS_AND_ABANDONS, CHILDREN };

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
    uv_timer_t timer;
    after(&timer, count_timer, 1, &fired);
    ck_assert_int_eq(uv_run(loop, UV_RUN_DEFAULT), 0);
    ck_assert_int_eq(fired, 1);
}

static void leave_as(int order)
{
    ck_assert_int_eq(aflock_acquire(lock, NULL, on_answer, &pending, NULL), AFLOCK_EFORKED);
    ck_assert_int_eq(aflock_close(lock), AFLOCK_EFORKED);
    ck_assert_int_eq(aflock_ctx_free(ctx, 0), AFLOCK_EFORKED);
    if (order == FORKS_AND_ABANDONS || order >= CLOSES_AND_ABANDONS)
        ck_assert_int_eq(uv_loop_fork(loop), 0);
    if (order >= CLOSES_AND_ABANDONS)
        uv_walk(loop, close_any, NULL);
    if (order == ENDS_AND_ABANDONS)
        end_loop();
    ck_assert_int_eq(aflock_ctx_abandon(ctx), 0);
    if (order == ABANDONS_AND_FORKS)
        ck_assert_int_eq(uv_loop_fork(loop), 0);
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
    uv_timer_t timer;
    after(&timer, count_timer, CHILD_LIVES_MS, &over);
    long before = cpu_milliseconds();
    for (; !over; rounds++)
        uv_run(loop, UV_RUN_ONCE);
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

static void fork_here(uv_handle_t *handle)
{
    fflush(NULL);
    forked = fork();
    ck_assert_int_ge(forked, 0);
    if (forked == 0)
        ck_assert_int_eq(aflock_ctx_abandon(ctx), 0);
    uv_close(handle, NULL);
}

static void fork_in_timer(uv_timer_t *timer)
{
    fork_here((uv_handle_t *)timer);
}

static void fork_in_poll(uv_poll_t *poll, int status, int events)
{
    (void)status, (void)events;
    fork_here((uv_handle_t *)poll);
}

/* In a callback of the program's; the child goes on from there. _i: in the middle of libuv's polling. */
START_TEST(test_fork_inside_a_callback)
{
    int ends[2];
    uv_timer_t timer;
    uv_poll_t poll;
    begin();
    forked = -1;
    make_readable_pipe(ends);
    outside = hold_outside("token");
    aflock_token *token = wait_with_token("token", &pending);
    if (_i) {
        ck_assert_int_eq(uv_poll_init(loop, &poll, ends[0]), 0);
        ck_assert_int_eq(uv_poll_start(&poll, UV_READABLE, fork_in_poll), 0);
    } else {
        after(&timer, fork_in_timer, 0, NULL);
    }
    while (forked < 0)
        uv_run(loop, UV_RUN_ONCE);
    if (forked == 0) {
        require_loop_works();
        end_loop();
        exit(0);
    }
    require_good_end(forked);
    aflock_token_free(token);
    require_wakes();
    close(outside);
    close_pipe(ends);
    end();
}
END_TEST

/* ------------------------------------------------------------------------------------------------ libuv's own threads
 */

enum { UV_THREADS = 4 }; /* libuv's default */

static uv_work_t blockers[UV_THREADS];
static atomic_int blocked;

static void block(uv_work_t *work)
{
    (void)work;
    char byte;
    atomic_fetch_add(&blocked, 1);
    ck_assert_int_eq(read(gate[0], &byte, 1), 0);
}

static void occupy_pool(void)
{
    ck_assert_int_eq(pipe2(gate, O_CLOEXEC), 0);
    atomic_store(&blocked, 0);
    for (int i = 0; i < UV_THREADS; i++)
        ck_assert_int_eq(uv_queue_work(loop, &blockers[i], block, NULL), 0);
    while (atomic_load(&blocked) < UV_THREADS)
        pause_briefly();
}

static void leave_pool(void)
{
    close(gate[1]);
    uv_run(loop, UV_RUN_DEFAULT);
    close(gate[0]);
}

static uv_work_t *last_work; /* that was queued */
int __real_uv_queue_work(uv_loop_t *on, uv_work_t *work, uv_work_cb run, uv_after_work_cb done);
int __wrap_uv_queue_work(uv_loop_t *on, uv_work_t *work, uv_work_cb run, uv_after_work_cb done);

int __wrap_uv_queue_work(uv_loop_t *on, uv_work_t *work, uv_work_cb run, uv_after_work_cb done)
{
    last_work = work;
    return __real_uv_queue_work(on, work, run, done);
}

START_TEST(test_the_librarys_threads_are_its_own)
{
    begin();
    occupy_pool();
    last_work = NULL;
    lock = open_lock(ctx, "lock", AFLOCK_IO_POOL, NEVER);
    acquire(lock, &pending);
    run_until_answered(&pending);
    ck_assert_int_eq(pending.status, 0);
    ck_assert_ptr_null(last_work);
    leave_pool();
    end();
}
END_TEST

START_TEST(test_thousands_of_jobs)
{
    enum { LOCKS = 200 };
    static struct answer answers[LOCKS];
    char name[16];
    begin_with(UV_THREADS);
    last_work = NULL;
    for (int i = 0; i < LOCKS; i++) {
        answers[i] = (struct answer){0};
        snprintf(name, sizeof name, "lock-%d", i);
        acquire(open_lock(ctx, name, AFLOCK_IO_POOL, NEVER), &answers[i]);
    }
    pending.then = again;
    acquire(open_lock(ctx, "lock", AFLOCK_IO_POOL, NEVER), &pending);
    uv_run(loop, UV_RUN_DEFAULT);
    ck_assert_int_eq(pending.count, CHAIN);
    for (int i = 0; i < LOCKS; i++) {
        ck_assert_int_eq(answers[i].count, 1);
        ck_assert_int_eq(answers[i].status, 0);
    }
    ck_assert_ptr_nonnull(last_work);
    end();
}
END_TEST

/* Jobs run, or wait in libuv's queue (_i), when the context is freed. */
START_TEST(test_freed_while_jobs_are_out)
{
    begin_with(UV_THREADS);
    if (_i) {
        occupy_pool();
        acquire(open_lock(ctx, "never-tried", AFLOCK_IO_POOL, NEVER), &pending);
        uv_run(loop, UV_RUN_NOWAIT);
    } else {
        enter(TRYING);
    }
    ck_assert_int_ge(aflock_ctx_free(ctx, 0), 0);
    ck_assert_int_eq(pending.count, 1);
    ck_assert_int_eq(pending.status, AFLOCK_ECLOSED);
    uv_run(loop, UV_RUN_NOWAIT);
    ck_assert_int_eq(uv_loop_close(loop), UV_EBUSY);
    leave_pool();
    ck_assert(is_free("lock"));
    ck_assert_int_ne(access("never-tried", F_OK), 0);
    end_loop();
    require_nothing_left();
}
END_TEST

/* A hold whose file would be given up by libuv's threads, after the loop has gone. */
START_TEST(test_given_up_without_a_loop)
{
    begin_with(UV_THREADS);
    acquire(open_lock(ctx, "lock", AFLOCK_IO_POOL, NEVER), &pending);
    run_until_answered(&pending);
    ck_assert(!is_free("lock"));
    if (_i) {
        uv_walk(loop, close_any, NULL);
        end_loop();
        struct answer late = {0};
        acquire(open_lock(ctx, "other", AFLOCK_IO_POOL, NEVER), &late);
        ck_assert_int_eq(aflock_ctx_free(ctx, 20 * AFLOCK_MILLISECOND), 1); /* not in time, as nobody does it */
        ck_assert_int_eq(late.status, AFLOCK_ECLOSED);
    } else {
        ck_assert_int_eq(aflock_ctx_free(ctx, AFLOCK_SECOND), 0);
    }
    ck_assert(is_free("lock"));
    end_loop();
    require_nothing_left();
}
END_TEST

/* By the program, with uv_cancel. _i: the context is gone when libuv says so. */
START_TEST(test_a_cancelled_job)
{
    begin_with(UV_THREADS);
    occupy_pool();
    last_work = NULL;
    lock = open_lock(ctx, "lock", AFLOCK_IO_POOL, NEVER);
    acquire(lock, &pending);
    while (last_work == NULL)
        uv_run(loop, UV_RUN_NOWAIT);
    ck_assert_int_eq(uv_cancel((uv_req_t *)last_work), 0);
    if (_i) {
        ck_assert_int_ge(aflock_ctx_free(ctx, 0), 0);
        ck_assert_int_eq(pending.status, AFLOCK_ECLOSED);
        leave_pool();
        ck_assert(is_free("lock"));
        end_loop();
        require_nothing_left();
        return;
    }
    for (int i = 0; i < 3; i++)
        uv_run(loop, UV_RUN_NOWAIT);
    leave_pool();
    ck_assert_int_eq(pending.count, 1);
    ck_assert_int_eq(pending.status, AFLOCK_ESYS); /* the executor lost it */
    acquire(lock, &pending);
    uv_run(loop, UV_RUN_DEFAULT);
    ck_assert_int_eq(pending.count, 2);
    ck_assert_int_eq(pending.status, 0);
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

static void require_refused(const aflock_libuv_options *options, int status)
{
    aflock_ctx *made = (aflock_ctx *)folder;
    int descriptors_now = descriptors();
    long blocks_now = allocations_alive();
    ck_assert_int_eq(aflock_libuv_new(&made, loop, options), status);
    int error = errno;
    ck_assert_ptr_null(made);
    ck_assert_int_eq(descriptors(), descriptors_now);
    ck_assert_int_eq(uv_loop_alive(loop), allocations_alive() != blocks_now); /* a handle has to be closed first */
    uv_run(loop, UV_RUN_NOWAIT);
    ck_assert_int_eq(allocations_alive(), blocks_now);
    errno = error;
}

START_TEST(test_bad_arguments)
{
    aflock_libuv_options options;
    aflock_pool_options pool;
    aflock_ctx_options ctx_options;
    aflock_ctx *made = ctx;
    begin();
    aflock_libuv_options_init(NULL);
    ck_assert_int_eq(aflock_libuv_new(NULL, loop, NULL), AFLOCK_EINVAL);
    ck_assert_int_eq(aflock_libuv_new(&made, NULL, NULL), AFLOCK_EINVAL);
    ck_assert_ptr_null(made);
    for (size_t size = 0; size <= sizeof options + 1; size += size == 0 ? sizeof options + 1 : 1) {
        aflock_libuv_options_init(&options);
        options.size = size;
        require_refused(&options, AFLOCK_EINVAL);
    }
    aflock_libuv_options_init(&options);
    aflock_pool_options_init(&pool);
    pool.threads = 0;
    options.pool = &pool;
    require_refused(&options, AFLOCK_EINVAL);

    options.uv_threads = 1;
    pool.threads = 1;
    require_refused(&options, AFLOCK_EINVAL);

    int closed = 0;
    aflock_executor executor = {
        .size = sizeof executor, .self = &closed, .width = 1, .submit = refuse_job, .close = ignore_close};
    aflock_libuv_options_init(&options);
    aflock_ctx_options_init(&ctx_options);
    ctx_options.size = 0;
    options.ctx = &ctx_options;
    options.executor = &executor;
    require_refused(&options, AFLOCK_EINVAL);
    ck_assert_int_eq(closed, 0); /* it stays the caller's */
    options.uv_threads = 1;
    require_refused(&options, AFLOCK_EINVAL);
    options.executor = NULL;
    require_refused(&options, AFLOCK_EINVAL);
    options.executor = &executor;
    options.uv_threads = 0;
    options.ctx = NULL;
    ck_assert_int_eq(aflock_libuv_new(&made, loop, &options), 0);
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

/* Each allocation of ours; libuv ends the program for want of memory. _i: threads of libuv. */
START_TEST(test_out_of_memory)
{
    aflock_libuv_options options;
    unsigned failed;
    begin();
    aflock_libuv_options_init(&options);
    options.uv_threads = (unsigned)_i;
    for (unsigned n = 1;; n++) {
        aflock_ctx *made = (aflock_ctx *)folder;
        long blocks_now = allocations_alive();
        allocations_fail(n);
        int status = aflock_libuv_new(&made, loop, &options);
        failed = allocations_failed();
        allocations_fail(0);
        if (failed == 0) {
            ck_assert_int_gt(n, 4);
            ck_assert_int_eq(aflock_ctx_free(made, 0), 0);
            break;
        }
        ck_assert_int_eq(status, AFLOCK_ENOMEM);
        ck_assert_ptr_null(made);
        uv_run(loop, UV_RUN_NOWAIT);
        ck_assert_int_eq(allocations_alive(), blocks_now);
    }
    end();
}
END_TEST

/* Of the slots for libuv's requests. The attempt is made later. */
START_TEST(test_out_of_memory_for_a_job)
{
    for (unsigned n = 1, failed = 1; failed != 0; n++) {
        begin_with(UV_THREADS);
        lock = open_lock(ctx, "lock", AFLOCK_IO_POOL, AFLOCK_MILLISECOND);
        allocations_fail(n);
        int status = aflock_acquire(lock, NULL, on_answer, &pending, NULL);
        uv_run(loop, UV_RUN_DEFAULT);
        failed = allocations_failed();
        allocations_fail(0);
        ck_assert_int_eq(pending.count, status == 0);
        if (status != 0 || pending.status != 0)
            ck_assert_int_eq(status != 0 ? status : pending.status, AFLOCK_ENOMEM);
        end();
    }
}
END_TEST

/* Somebody closed a descriptor that the loop still watches, and the kit's has its number. */
START_TEST(test_number_still_watched)
{
    uv_poll_t stale;
    begin();
    int fd = dup(STDIN_FILENO), ends[2];
    close(fd);
    make_readable_pipe(ends);
    ck_assert_int_eq(ends[0], fd);
    ck_assert_int_eq(uv_poll_init(loop, &stale, ends[0]), 0);
    ck_assert_int_eq(uv_poll_start(&stale, UV_READABLE, count_poll), 0);
    close(ends[0]);
    aflock_ctx *made = (aflock_ctx *)folder;
    long blocks_now = allocations_alive();
    ck_assert_int_eq(aflock_libuv_new(&made, loop, NULL), AFLOCK_ESYS);
    ck_assert_int_eq(errno, EEXIST);
    ck_assert_ptr_null(made);
    uv_close((uv_handle_t *)&stale, NULL);
    uv_run(loop, UV_RUN_NOWAIT);
    ck_assert_int_eq(allocations_alive(), blocks_now);
    close(ends[1]);
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
    Suite *suite = suite_create("libuv");
    TCase *running = add_case(suite, "running");
    tcase_add_loop_test(running, test_only_requests_keep_alive, 0, AFLOCK_IO_POOL + 1);
    tcase_add_test(running, test_a_waiting_request_keeps_alive);
    tcase_add_test(running, test_once_returns_after_a_callback);
    tcase_add_test(running, test_nowait_does_not_wait);
    tcase_add_test(running, test_the_program_has_its_turn);
    tcase_add_test(running, test_eight_contexts);
    tcase_add_test(running, test_made_and_freed_inside);

    TCase *ending = add_case(suite, "ending");
    tcase_add_loop_test(ending, test_handles_closed, 0, WAYS * MOMENTS * 4 * STATES);
    tcase_add_loop_test(ending, test_memory_kept_for_all_handles, 0, 3);
    tcase_add_loop_test(ending, test_context_first, 0, STATES);
    tcase_add_loop_test(ending, test_loop_first, 0, STATES);
    tcase_add_loop_test(ending, test_replaced_under_the_loop, 0, STATES);

    TCase *children = add_case(suite, "children");
    tcase_add_loop_test(children, test_child, 0, CHILDREN * TRYING);
    tcase_add_loop_test(children, test_child_that_goes_on, 0, 2);
    tcase_add_loop_test(children, test_fork_inside_a_callback, 0, 2);

    TCase *pool = add_case(suite, "threads of libuv");
    tcase_add_test(pool, test_the_librarys_threads_are_its_own);
    tcase_add_test(pool, test_thousands_of_jobs);
    tcase_add_loop_test(pool, test_freed_while_jobs_are_out, 0, 2);
    tcase_add_loop_test(pool, test_given_up_without_a_loop, 0, 2);
    tcase_add_loop_test(pool, test_a_cancelled_job, 0, 2);

    TCase *mishaps = add_case(suite, "mishaps");
    tcase_add_test(mishaps, test_bad_arguments);
    tcase_add_test(mishaps, test_too_many_open_files);
    tcase_add_loop_test(mishaps, test_out_of_memory, 0, 2);
    tcase_add_test(mishaps, test_out_of_memory_for_a_job);
    tcase_add_test(mishaps, test_number_still_watched);
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
