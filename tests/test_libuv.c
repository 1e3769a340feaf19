/* What is special to the libuv adapter: which calls of a loop return when and what they count, handles that are closed
 * by whom in which order, children, libuv's own thread pool. What every loop must do is in tests/conformance. */
#include "faults/allocations.h"
#include "support/loop_scene.h"

#include <aflock/libuv.h>

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <uv.h>

/* ------------------------------------------------------------------------------------------------------- the scene */

static uv_loop_t *loop;

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

static void begin_without_context(void)
{
    uv_loop_t first; /* what the process keeps of it is there before anything is counted */
    ck_assert_int_eq(uv_loop_init(&first), 0);
    ck_assert_int_eq(uv_loop_close(&first), 0);
    loop_begin();
    loop = malloc(sizeof *loop);
    ck_assert_ptr_nonnull(loop);
    ck_assert_int_eq(uv_loop_init(loop), 0);
}

static void begin_with(unsigned uv_threads)
{
    begin_without_context();
    loop_context = make_context_with(uv_threads);
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

static void end(void)
{
    ck_assert_int_eq(aflock_ctx_free(loop_context, 30 * AFLOCK_SECOND), 0);
    end_loop();
    loop_require_nothing_left();
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

static int new_context(aflock_ctx **made, const void *options)
{
    return aflock_libuv_new(made, loop, options);
}

static void run_to_end(void)
{
    ck_assert_int_eq(uv_run(loop, UV_RUN_DEFAULT), 0);
}

static void run_once(void)
{
    uv_run(loop, UV_RUN_ONCE);
}

static void run_nowait(void)
{
    uv_run(loop, UV_RUN_NOWAIT);
}

static void require_clean(long alive)
{
    ck_assert_int_eq(uv_loop_alive(loop), allocations_alive() != alive); /* a handle has to be closed first */
    uv_run(loop, UV_RUN_NOWAIT);
    ck_assert_int_eq(allocations_alive(), alive);
}

const struct loop_calls loop_calls = {
    .make_context = make_context,
    .new_context = new_context,
    .run_to_end = run_to_end,
    .run_once = run_once,
    .run_nowait = run_nowait,
    .end = end_loop,
    .require_clean = require_clean,
};

/* ------------------------------------------------------------------------------------------------------- keep-alive */

START_TEST(test_only_requests_keep_alive)
{
    begin();
    loop_only_requests_keep_alive((aflock_io)_i);
    end();
}
END_TEST

static void close_outside(uv_timer_t *timer)
{
    close(loop_outside);
    uv_close((uv_handle_t *)timer, NULL);
}

START_TEST(test_a_waiting_request_keeps_alive)
{
    uv_timer_t timer;
    begin();
    loop_outside = loop_hold_outside("lock");
    loop_lock = loop_open(loop_context, "lock", AFLOCK_IO_AUTO, 5 * AFLOCK_MILLISECOND);
    loop_acquire(loop_lock, &loop_pending);
    loop_pass();
    ck_assert_int_eq(loop->active_handles, 1);
    after(&timer, close_outside, 20, NULL);
    ck_assert_int_eq(uv_run(loop, UV_RUN_DEFAULT), 0);
    ck_assert_int_eq(loop_pending.count, 1);
    ck_assert_int_eq(loop_pending.status, 0);
    end();
}
END_TEST

/* A second request keeps the loop alive: UV_RUN_ONCE returns because the first was answered. */
START_TEST(test_once_returns_after_a_callback)
{
    begin();
    loop_once_returns_after_a_callback();
    end();
}
END_TEST

START_TEST(test_nowait_does_not_wait)
{
    loop_answer first = {0};
    begin();
    loop_lock = loop_open(loop_context, "lock", AFLOCK_IO_INLINE, LOOP_NEVER);
    loop_acquire(loop_lock, &first);
    for (int i = 0; i < 3 && first.count == 0; i++)
        uv_run(loop, UV_RUN_NOWAIT);
    ck_assert_int_eq(first.count, 1);
    loop_acquire(loop_lock, &loop_pending); /* behind the first */
    for (int i = 0; i < 10; i++)
        ck_assert_int_ge(uv_run(loop, UV_RUN_NOWAIT), 1);
    ck_assert_int_eq(loop_pending.count, 0);
    ck_assert_int_eq(aflock_release(loop_lock, first.req, NULL, NULL), 0);
    loop_run_until_answered(&loop_pending);
    ck_assert_int_eq(loop_pending.status, 0);
    end();
}
END_TEST

/* ---------------------------------------------------------------------------------------------- beside the program's
 */

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
    loop_lock = loop_open(loop_context, "lock", AFLOCK_IO_INLINE, LOOP_NEVER);
    loop_pending.then = loop_again;
    loop_acquire(loop_lock, &loop_pending);
    while (loop_pending.count < LOOP_CHAIN)
        uv_run(loop, UV_RUN_ONCE);
    ck_assert_int_ge(reads, LOOP_CHAIN / 64);
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

static void free_other(uv_timer_t *timer)
{
    aflock_ctx **other = timer->data;
    uv_close((uv_handle_t *)timer, NULL);
    loop_free_context(other);
}

START_TEST(test_eight_contexts)
{
    aflock_ctx *contexts[CONTEXTS];
    loop_answer answers[CONTEXTS] = {{0}};
    begin();
    for (int i = 0; i < CONTEXTS; i++) {
        contexts[i] = make_context();
        loop_acquire(loop_open(contexts[i], "lock", i % 2 ? AFLOCK_IO_INLINE : AFLOCK_IO_AUTO, AFLOCK_MILLISECOND),
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
    loop_answer waits = {0};
    uv_timer_t timer;
    begin();
    loop_outside = loop_hold_outside("other");
    loop_lock = loop_open(loop_context, "lock", AFLOCK_IO_INLINE, LOOP_NEVER);
    loop_pending.then = loop_make_inside;
    loop_acquire(loop_lock, &loop_pending);
    loop_run_until_answered(&loop_pending);
    loop_acquire(loop_open(loop_made_inside, "other", AFLOCK_IO_INLINE, AFLOCK_MILLISECOND), &waits);
    after(&timer, free_other, 10, &loop_made_inside);
    ck_assert_int_eq(uv_run(loop, UV_RUN_DEFAULT), 0); /* then nothing keeps it alive */
    ck_assert_ptr_null(loop_made_inside);
    ck_assert_int_eq(waits.count, 1);
    ck_assert_int_eq(waits.status, AFLOCK_ECLOSED);
    close(loop_outside);
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
    blocks_in_callback = allocations_alive() - loop_blocks_before;
}

static void free_in_callback(uv_handle_t *handle)
{
    ck_assert_int_ge(aflock_ctx_free(loop_context, 0), 0);
    loop_context = NULL;
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
    loop_state state = (loop_state)(_i / WAYS / MOMENTS / 4);
    uv_idle_t own;
    begin();
    loop_enter(state);
    close_handles(before, moment, &own, position);
    if (moment != AT_ONCE)
        uv_run(loop, UV_RUN_NOWAIT);
    if (moment != IN_A_CALLBACK)
        ck_assert_int_ge(aflock_ctx_free(loop_context, 0), 0);
    ck_assert_int_eq(loop->active_handles, 0);
    if (state == LOOP_IDLE && moment == IN_A_CALLBACK && (before == CLOSES || before == CLOSES_BACKWARDS))
        ck_assert_int_eq(blocks_in_callback, position == 0 ? LOOP : LOOP_AND_HANDLES);
    loop_require_ended(state);
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
    ck_assert_int_eq(aflock_ctx_free(loop_context, 0), 0);
    uv_run(loop, UV_RUN_NOWAIT);
    ck_assert_int_eq(blocks_in_callback, LOOP_AND_HANDLES);
    end_loop();
    loop_require_nothing_left();
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
    loop_state state = (loop_state)_i;
    begin();
    loop_enter(state);
    ck_assert_int_ge(aflock_ctx_free(loop_context, 0), 0);
    ck_assert_int_eq(uv_loop_close(loop), UV_EBUSY);
    uv_walk(loop, close_any, NULL);
    loop_require_ended(state);
}
END_TEST

/* The loop is closed, and its memory freed. */
START_TEST(test_loop_first)
{
    loop_answer late = {0};
    loop_state state = (loop_state)_i;
    begin();
    loop_enter(state);
    uv_walk(loop, close_any, NULL);
    end_loop();
    loop_acquire(loop_open(loop_context, "other", AFLOCK_IO_INLINE, LOOP_NEVER), &late); /* taken, not answered */
    if (state == LOOP_HELD)
        ck_assert_int_eq(aflock_release(loop_lock, loop_pending.req, NULL, NULL), 0);
    ck_assert_int_eq(late.count, 0);
    ck_assert_int_ge(aflock_ctx_free(loop_context, 0), 0);
    ck_assert_int_eq(late.count, 1);
    ck_assert_int_eq(late.status, AFLOCK_ECLOSED);
    loop_require_ended(state);
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
    int next = loop_next_descriptor();
    loop_context = make_context();
    loop_enter((loop_state)_i);
    ck_assert_int_eq(dup2(ends[1], next), next);
    close(ends[1]);
    ck_assert_int_eq(uv_loop_fork(loop), 0);
    uv_run(loop, UV_RUN_NOWAIT);
    ck_assert_int_eq(uv_run(loop, UV_RUN_DEFAULT), 0); /* it does not wait for what will never come */
    ck_assert_int_ge(aflock_ctx_free(loop_context, 0), 0);
    loop_require_ended((loop_state)_i);
}
END_TEST

/* --------------------------------------------------------------------------------------------------------- children */

/* What the child does about the loop. */
enum child { ABANDONS, FORKS_AND_ABANDONS, ABANDONS_AND_FORKS, CLOSES_AND_ABANDONS, ENDS_AND_ABANDONS, CHILDREN };

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
    loop_require_forked();
    if (order == FORKS_AND_ABANDONS || order >= CLOSES_AND_ABANDONS)
        ck_assert_int_eq(uv_loop_fork(loop), 0);
    if (order >= CLOSES_AND_ABANDONS)
        uv_walk(loop, close_any, NULL);
    if (order == ENDS_AND_ABANDONS)
        end_loop();
    ck_assert_int_eq(aflock_ctx_abandon(loop_context), 0);
    if (order == ABANDONS_AND_FORKS)
        ck_assert_int_eq(uv_loop_fork(loop), 0);
    if (loop != NULL)
        require_loop_works();
    loop_end_in_child();
}

/* _i: what the child does, and what the parent was doing. */
START_TEST(test_child)
{
    begin();
    loop_child_leaves((loop_state)(_i / CHILDREN), leave_as, _i % CHILDREN);
    end();
}
END_TEST

/* The library's descriptor is readable all the time. */
static void go_on(int argument)
{
    (void)argument;
    int over = 0;
    uv_timer_t timer;
    after(&timer, count_timer, LOOP_CHILD_MS, &over);
    loop_require_little_cpu(&over);
    ck_assert_int_eq(aflock_ctx_abandon(loop_context), 0);
    loop_end_in_child();
}

/* _i: the library has also asked for a turn. */
START_TEST(test_child_that_goes_on)
{
    begin();
    loop_child_goes_on(go_on, _i);
    end();
}
END_TEST

static void fork_here(uv_handle_t *handle)
{
    loop_fork();
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
    make_readable_pipe(ends);
    loop_outside = loop_hold_outside("token");
    aflock_token *token = loop_wait_with_token("token", &loop_pending);
    if (_i) {
        ck_assert_int_eq(uv_poll_init(loop, &poll, ends[0]), 0);
        ck_assert_int_eq(uv_poll_start(&poll, UV_READABLE, fork_in_poll), 0);
    } else {
        after(&timer, fork_in_timer, 0, NULL);
    }
    while (loop_forked < 0)
        uv_run(loop, UV_RUN_ONCE);
    if (loop_forked == 0) {
        require_loop_works();
        end_loop();
        exit(0);
    }
    loop_require_unharmed(loop_forked);
    aflock_token_free(token);
    close(loop_outside);
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
    ck_assert_int_eq(read(loop_gate[0], &byte, 1), 0);
}

static void occupy_pool(void)
{
    ck_assert_int_eq(pipe2(loop_gate, O_CLOEXEC), 0);
    atomic_store(&blocked, 0);
    for (int i = 0; i < UV_THREADS; i++)
        ck_assert_int_eq(uv_queue_work(loop, &blockers[i], block, NULL), 0);
    while (atomic_load(&blocked) < UV_THREADS)
        loop_pause();
}

static void leave_pool(void)
{
    close(loop_gate[1]);
    uv_run(loop, UV_RUN_DEFAULT);
    close(loop_gate[0]);
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
    loop_lock = loop_open(loop_context, "lock", AFLOCK_IO_POOL, LOOP_NEVER);
    loop_acquire(loop_lock, &loop_pending);
    loop_run_until_answered(&loop_pending);
    ck_assert_int_eq(loop_pending.status, 0);
    ck_assert_ptr_null(last_work);
    leave_pool();
    end();
}
END_TEST

/* They are few, and everybody's. */
START_TEST(test_none_of_them_waits_for_a_lock)
{
    const char *reason;
    aflock_options o;
    aflock_options_init(&o);
    o.wait = AFLOCK_WAIT_PARK;
    begin_with(UV_THREADS);
    int outside = loop_hold_outside("lock");
    ck_assert_int_eq(aflock_open(&loop_lock, loop_context, "lock", &o), 0);
    loop_acquire(loop_lock, &loop_pending);
    while (aflock_wait_mode(loop_lock, &reason) != AFLOCK_WAIT_NOTIFY)
        uv_run(loop, UV_RUN_ONCE);
    ck_assert_ptr_nonnull(strstr(reason, "max_parked"));
    close(outside);
    loop_run_until_answered(&loop_pending);
    ck_assert_int_eq(loop_pending.status, 0);
    end();
}
END_TEST

START_TEST(test_thousands_of_jobs)
{
    enum { LOCKS = 200 };
    static loop_answer answers[LOCKS];
    char name[16];
    begin_with(UV_THREADS);
    last_work = NULL;
    for (int i = 0; i < LOCKS; i++) {
        answers[i] = (loop_answer){0};
        snprintf(name, sizeof name, "lock-%d", i);
        loop_acquire(loop_open(loop_context, name, AFLOCK_IO_POOL, LOOP_NEVER), &answers[i]);
    }
    loop_pending.then = loop_again;
    loop_acquire(loop_open(loop_context, "lock", AFLOCK_IO_POOL, LOOP_NEVER), &loop_pending);
    uv_run(loop, UV_RUN_DEFAULT);
    ck_assert_int_eq(loop_pending.count, LOOP_CHAIN);
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
        loop_acquire(loop_open(loop_context, "never-tried", AFLOCK_IO_POOL, LOOP_NEVER), &loop_pending);
        uv_run(loop, UV_RUN_NOWAIT);
    } else {
        loop_enter(LOOP_TRYING);
    }
    ck_assert_int_ge(aflock_ctx_free(loop_context, 0), 0);
    ck_assert_int_eq(loop_pending.count, 1);
    ck_assert_int_eq(loop_pending.status, AFLOCK_ECLOSED);
    uv_run(loop, UV_RUN_NOWAIT);
    ck_assert_int_eq(uv_loop_close(loop), UV_EBUSY);
    leave_pool();
    ck_assert(loop_is_free("lock"));
    ck_assert_int_ne(access("never-tried", F_OK), 0);
    end_loop();
    loop_require_nothing_left();
}
END_TEST

/* A hold whose file would be given up by libuv's threads, after the loop has gone. */
START_TEST(test_given_up_without_a_loop)
{
    begin_with(UV_THREADS);
    loop_acquire(loop_open(loop_context, "lock", AFLOCK_IO_POOL, LOOP_NEVER), &loop_pending);
    loop_run_until_answered(&loop_pending);
    ck_assert(!loop_is_free("lock"));
    if (_i) {
        uv_walk(loop, close_any, NULL);
        end_loop();
        loop_answer late = {0};
        loop_acquire(loop_open(loop_context, "other", AFLOCK_IO_POOL, LOOP_NEVER), &late);
        ck_assert_int_eq(aflock_ctx_free(loop_context, 20 * AFLOCK_MILLISECOND), 1); /* as nobody does it */
        ck_assert_int_eq(late.status, AFLOCK_ECLOSED);
    } else {
        ck_assert_int_eq(aflock_ctx_free(loop_context, 30 * AFLOCK_SECOND), 0);
    }
    ck_assert(loop_is_free("lock"));
    end_loop();
    loop_require_nothing_left();
}
END_TEST

/* By the program, with uv_cancel. _i: the context is gone when libuv says so. */
START_TEST(test_a_cancelled_job)
{
    begin_with(UV_THREADS);
    occupy_pool();
    last_work = NULL;
    loop_lock = loop_open(loop_context, "lock", AFLOCK_IO_POOL, LOOP_NEVER);
    loop_acquire(loop_lock, &loop_pending);
    while (last_work == NULL)
        uv_run(loop, UV_RUN_NOWAIT);
    ck_assert_int_eq(uv_cancel((uv_req_t *)last_work), 0);
    if (_i) {
        ck_assert_int_ge(aflock_ctx_free(loop_context, 0), 0);
        ck_assert_int_eq(loop_pending.status, AFLOCK_ECLOSED);
        leave_pool();
        ck_assert(loop_is_free("lock"));
        end_loop();
        loop_require_nothing_left();
        return;
    }
    for (int i = 0; i < 3; i++)
        uv_run(loop, UV_RUN_NOWAIT);
    leave_pool();
    ck_assert_int_eq(loop_pending.count, 1);
    ck_assert_int_eq(loop_pending.status, AFLOCK_ESYS); /* the executor lost it */
    loop_acquire(loop_lock, &loop_pending);
    uv_run(loop, UV_RUN_DEFAULT);
    ck_assert_int_eq(loop_pending.count, 2);
    ck_assert_int_eq(loop_pending.status, 0);
    end();
}
END_TEST

/* ------------------------------------------------------------------------------------------------- what goes wrong */

START_TEST(test_bad_arguments)
{
    aflock_libuv_options options;
    aflock_pool_options pool;
    aflock_ctx_options ctx_options;
    begin();
    aflock_ctx *made = loop_context;
    aflock_libuv_options_init(NULL);
    ck_assert_int_eq(aflock_libuv_new(NULL, loop, NULL), AFLOCK_EINVAL);
    ck_assert_int_eq(aflock_libuv_new(&made, NULL, NULL), AFLOCK_EINVAL);
    ck_assert_ptr_null(made);
    for (size_t size = 0; size <= sizeof options + 1; size += size == 0 ? sizeof options + 1 : 1) {
        aflock_libuv_options_init(&options);
        options.size = size;
        loop_require_refused(&options, AFLOCK_EINVAL);
    }
    aflock_libuv_options_init(&options);
    aflock_pool_options_init(&pool);
    pool.threads = 0;
    options.pool = &pool;
    loop_require_refused(&options, AFLOCK_EINVAL);

    options.uv_threads = 1;
    pool.threads = 1;
    loop_require_refused(&options, AFLOCK_EINVAL);

    int closed = 0;
    aflock_executor executor = loop_executor(&closed);
    aflock_libuv_options_init(&options);
    aflock_ctx_options_init(&ctx_options);
    ctx_options.size = 0;
    options.ctx = &ctx_options;
    options.executor = &executor;
    loop_require_refused(&options, AFLOCK_EINVAL);
    ck_assert_int_eq(closed, 0); /* it stays the caller's */
    options.uv_threads = 1;
    loop_require_refused(&options, AFLOCK_EINVAL);
    options.executor = NULL;
    loop_require_refused(&options, AFLOCK_EINVAL);
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
    begin();
    loop_run_out_of_descriptors();
    end();
}
END_TEST

/* Each allocation of ours; libuv ends the program for want of memory. _i: threads of libuv. */
START_TEST(test_out_of_memory)
{
    aflock_libuv_options options;
    begin();
    aflock_libuv_options_init(&options);
    options.uv_threads = (unsigned)_i;
    loop_run_out_of_memory(&options);
    end();
}
END_TEST

/* Of the slots for libuv's requests. The attempt is made later. */
START_TEST(test_out_of_memory_for_a_job)
{
    for (unsigned n = 1, failed = 1; failed != 0; n++) {
        begin_with(UV_THREADS);
        loop_lock = loop_open(loop_context, "lock", AFLOCK_IO_POOL, AFLOCK_MILLISECOND);
        allocations_fail(n);
        int status = aflock_acquire(loop_lock, NULL, loop_on_answer, &loop_pending, NULL);
        uv_run(loop, UV_RUN_DEFAULT);
        failed = allocations_failed();
        allocations_fail(0);
        ck_assert_int_eq(loop_pending.count, status == 0);
        if (status != 0 || loop_pending.status != 0)
            ck_assert_int_eq(status != 0 ? status : loop_pending.status, AFLOCK_ENOMEM);
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
    aflock_ctx *made = loop_context;
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

static Suite *make_suite(void)
{
    Suite *suite = suite_create("libuv");
    TCase *running = loop_case(suite, "running");
    tcase_add_loop_test(running, test_only_requests_keep_alive, 0, AFLOCK_IO_POOL + 1);
    tcase_add_test(running, test_a_waiting_request_keeps_alive);
    tcase_add_test(running, test_once_returns_after_a_callback);
    tcase_add_test(running, test_nowait_does_not_wait);
    tcase_add_test(running, test_the_program_has_its_turn);
    tcase_add_test(running, test_eight_contexts);
    tcase_add_test(running, test_made_and_freed_inside);

    TCase *ending = loop_case(suite, "ending");
    tcase_add_loop_test(ending, test_handles_closed, 0, WAYS * MOMENTS * 4 * LOOP_STATES);
    tcase_add_loop_test(ending, test_memory_kept_for_all_handles, 0, 3);
    tcase_add_loop_test(ending, test_context_first, 0, LOOP_STATES);
    tcase_add_loop_test(ending, test_loop_first, 0, LOOP_STATES);
    tcase_add_loop_test(ending, test_replaced_under_the_loop, 0, LOOP_STATES);

    TCase *children = loop_case(suite, "children");
    tcase_add_loop_test(children, test_child, 0, CHILDREN * LOOP_TRYING);
    tcase_add_loop_test(children, test_child_that_goes_on, 0, 2);
    tcase_add_loop_test(children, test_fork_inside_a_callback, 0, 2);

    TCase *pool = loop_case(suite, "threads of libuv");
    tcase_add_test(pool, test_the_librarys_threads_are_its_own);
    tcase_add_test(pool, test_none_of_them_waits_for_a_lock);
    tcase_add_test(pool, test_thousands_of_jobs);
    tcase_add_loop_test(pool, test_freed_while_jobs_are_out, 0, 2);
    tcase_add_loop_test(pool, test_given_up_without_a_loop, 0, 2);
    tcase_add_loop_test(pool, test_a_cancelled_job, 0, 2);

    TCase *mishaps = loop_case(suite, "mishaps");
    tcase_add_test(mishaps, test_bad_arguments);
    tcase_add_test(mishaps, test_too_many_open_files);
    tcase_add_loop_test(mishaps, test_out_of_memory, 0, 2);
    tcase_add_test(mishaps, test_out_of_memory_for_a_job);
    tcase_add_test(mishaps, test_number_still_watched);
    return suite;
}

int main(void)
{
    return loop_main(make_suite());
}
