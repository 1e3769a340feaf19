/* What is special to the libev adapter: which calls of a loop return when and what they count, both orders of ending,
 * children, loops that cannot be had. What every loop must do is in tests/conformance. */
#include "faults/allocations.h"
#include "support/loop_scene.h"

#include <aflock/libev.h>

#include <ev.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

/* ------------------------------------------------------------------------------------------------------- the scene */

static struct ev_loop *loop;

static aflock_ctx *make_context(void)
{
    aflock_ctx *made;
    ck_assert_int_eq(aflock_libev_new(&made, loop, NULL), 0);
    return made;
}

static void begin_with(unsigned backend)
{
    loop_begin();
    loop = ev_loop_new(backend);
    ck_assert_ptr_nonnull(loop);
    loop_context = make_context();
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

static void end(void)
{
    ck_assert_int_eq(aflock_ctx_free(loop_context, 30 * AFLOCK_SECOND), 0);
    ck_assert_int_eq(ev_run(loop, EVRUN_NOWAIT), 0);
    end_loop();
    loop_require_nothing_left();
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

static int new_context(aflock_ctx **made, const void *options)
{
    return aflock_libev_new(made, loop, options);
}

static void run_to_end(void)
{
    ck_assert_int_eq(ev_run(loop, 0), 0);
}

static void run_once(void)
{
    ev_run(loop, EVRUN_ONCE);
}

static void run_nowait(void)
{
    ev_run(loop, EVRUN_NOWAIT);
}

static void require_clean(long alive)
{
    ck_assert_int_eq(allocations_alive(), alive);
    ck_assert_int_eq(ev_run(loop, EVRUN_NOWAIT), 0);
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

static void close_outside(struct ev_loop *in, ev_timer *timer, int events)
{
    (void)in, (void)timer, (void)events;
    close(loop_outside);
}

START_TEST(test_a_waiting_request_keeps_alive)
{
    ev_timer timer;
    begin();
    loop_outside = loop_hold_outside("lock");
    loop_lock = loop_open(loop_context, "lock", AFLOCK_IO_AUTO, 5 * AFLOCK_MILLISECOND);
    loop_acquire(loop_lock, &loop_pending);
    loop_pass();
    ck_assert_int_eq(ev_run(loop, EVRUN_NOWAIT), 1); /* what libev counts */
    after(&timer, close_outside, 20, NULL);
    ck_assert_int_eq(ev_run(loop, 0), 0);
    ck_assert_int_eq(loop_pending.count, 1);
    ck_assert_int_eq(loop_pending.status, 0);
    end();
}
END_TEST

/* A second request keeps the loop alive: EVRUN_ONCE returns because the first was answered. */
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
        ev_run(loop, EVRUN_NOWAIT);
    ck_assert_int_eq(first.count, 1);
    loop_acquire(loop_lock, &loop_pending); /* behind the first */
    for (int i = 0; i < 10; i++)
        ck_assert_int_ge(ev_run(loop, EVRUN_NOWAIT), 1);
    ck_assert_int_eq(loop_pending.count, 0);
    ck_assert_int_eq(aflock_release(loop_lock, first.req, NULL, NULL), 0);
    loop_run_until_answered(&loop_pending);
    ck_assert_int_eq(loop_pending.status, 0);
    end();
}
END_TEST

/* ---------------------------------------------------------------------------------------------- beside the program's
 */

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
    loop_lock = loop_open(loop_context, "lock", AFLOCK_IO_INLINE, LOOP_NEVER);
    loop_pending.then = loop_again;
    loop_acquire(loop_lock, &loop_pending);
    while (loop_pending.count < LOOP_CHAIN)
        ev_run(loop, EVRUN_ONCE);
    ck_assert_int_ge(reads, LOOP_CHAIN / 64);
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

static void free_other(struct ev_loop *in, ev_timer *timer, int events)
{
    (void)in, (void)events;
    loop_free_context(timer->data);
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
    loop_answer waits = {0};
    ev_timer timer;
    begin();
    loop_outside = loop_hold_outside("other");
    loop_lock = loop_open(loop_context, "lock", AFLOCK_IO_INLINE, LOOP_NEVER);
    loop_pending.then = loop_make_inside;
    loop_acquire(loop_lock, &loop_pending);
    loop_run_until_answered(&loop_pending);
    loop_acquire(loop_open(loop_made_inside, "other", AFLOCK_IO_INLINE, AFLOCK_MILLISECOND), &waits);
    after(&timer, free_other, 10, &loop_made_inside);
    ck_assert_int_eq(ev_run(loop, 0), 0); /* then nothing keeps it alive */
    ck_assert_ptr_null(loop_made_inside);
    ck_assert_int_eq(waits.count, 1);
    ck_assert_int_eq(waits.status, AFLOCK_ECLOSED);
    close(loop_outside);
    end();
}
END_TEST

/* ------------------------------------------------------------------------------------------------------- the ending */

START_TEST(test_context_first)
{
    loop_state state = (loop_state)_i;
    begin();
    loop_enter(state);
    ck_assert_int_ge(aflock_ctx_free(loop_context, 0), 0);
    ck_assert_int_eq(ev_run(loop, EVRUN_NOWAIT), 0);
    loop_require_ended(state);
}
END_TEST

START_TEST(test_loop_first)
{
    loop_answer late = {0};
    loop_state state = (loop_state)_i;
    begin();
    loop_enter(state);
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

/* The kit's descriptor has the first number that was free. Of libev's backends only this one looks, and goes on. */
START_TEST(test_closed_under_the_loop)
{
    begin_with(EVBACKEND_SELECT);
    ck_assert_int_eq(aflock_ctx_free(loop_context, 0), 0);
    int next = loop_next_descriptor();
    loop_context = make_context();
    loop_enter((loop_state)_i);
    close(next);
    ev_loop_fork(loop);
    ev_run(loop, EVRUN_NOWAIT);
    ck_assert_int_eq(ev_run(loop, 0), 0);              /* it does not wait for what will never come */
    int taken = open("taken", O_RDWR | O_CREAT, 0666); /* so that the context does not close what is somebody's */
    ck_assert_int_eq(taken, next);
    ck_assert_int_ge(aflock_ctx_free(loop_context, 0), 0);
    loop_require_ended((loop_state)_i);
}
END_TEST

/* --------------------------------------------------------------------------------------------------------- children */

/* What the child does about the loop. */
enum child { ABANDONS, FORKS_AND_ABANDONS, ABANDONS_AND_FORKS, DESTROYS_AND_ABANDONS, CHILDREN };

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
    loop_require_forked();
    if (order == FORKS_AND_ABANDONS)
        ev_loop_fork(loop);
    if (order == DESTROYS_AND_ABANDONS)
        end_loop();
    ck_assert_int_eq(aflock_ctx_abandon(loop_context), 0);
    if (order == ABANDONS_AND_FORKS)
        ev_loop_fork(loop);
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
    ev_timer timer;
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

static void fork_in_timer(struct ev_loop *in, ev_timer *timer, int events)
{
    (void)in, (void)timer, (void)events;
    loop_fork();
}

/* In a timer of the program's; the child goes on from there. */
START_TEST(test_fork_inside_a_timer)
{
    begin();
    loop_outside = loop_hold_outside("token");
    aflock_token *token = loop_wait_with_token("token", &loop_pending);
    ev_timer timer;
    after(&timer, fork_in_timer, 0, NULL);
    while (loop_forked < 0)
        ev_run(loop, EVRUN_ONCE);
    if (loop_forked == 0) {
        require_loop_works();
        end_loop();
        exit(0);
    }
    loop_require_unharmed(loop_forked);
    aflock_token_free(token);
    close(loop_outside);
    end();
}
END_TEST

/* ------------------------------------------------------------------------------------------------- what goes wrong */

START_TEST(test_bad_arguments)
{
    aflock_libev_options options;
    aflock_pool_options pool;
    aflock_ctx_options ctx_options;
    begin();
    aflock_ctx *made = loop_context;
    aflock_libev_options_init(NULL);
    ck_assert_int_eq(aflock_libev_new(NULL, loop, NULL), AFLOCK_EINVAL);
    for (size_t size = 0; size <= sizeof options + 1; size += size == 0 ? sizeof options + 1 : 1) {
        aflock_libev_options_init(&options);
        options.size = size;
        loop_require_refused(&options, AFLOCK_EINVAL);
    }
    aflock_libev_options_init(&options);
    aflock_pool_options_init(&pool);
    pool.threads = 0;
    options.pool = &pool;
    loop_require_refused(&options, AFLOCK_EINVAL);

    int closed = 0;
    aflock_executor executor = loop_executor(&closed);
    aflock_libev_options_init(&options);
    aflock_ctx_options_init(&ctx_options);
    ctx_options.size = 0;
    options.ctx = &ctx_options;
    options.executor = &executor;
    loop_require_refused(&options, AFLOCK_EINVAL);
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
    begin();
    loop_run_out_of_descriptors();
    end();
}
END_TEST

/* Each allocation of ours; libev ends the program for want of memory. */
START_TEST(test_out_of_memory)
{
    begin();
    loop_run_out_of_memory(NULL);
    end();
}
END_TEST

/* NULL is the default loop, where there can be one. */
START_TEST(test_the_default_loop)
{
    static const char NO_SUCH_BACKEND[] = "32"; /* Solaris' */
    begin();
    aflock_ctx *made = loop_context;
    ck_assert_int_eq(setenv("LIBEV_FLAGS", NO_SUCH_BACKEND, 1), 0);
    ck_assert_int_eq(aflock_libev_new(&made, NULL, NULL), AFLOCK_EINVAL);
    ck_assert_ptr_null(made);
    ck_assert_int_eq(unsetenv("LIBEV_FLAGS"), 0);
    ck_assert_int_eq(aflock_libev_new(&made, NULL, NULL), 0);
    loop_acquire(loop_open(made, "lock", AFLOCK_IO_POOL, LOOP_NEVER), &loop_pending);
    ck_assert_int_eq(ev_run(EV_DEFAULT_UC, 0), 0);
    ck_assert_int_eq(loop_pending.count, 1);
    ck_assert_int_eq(aflock_ctx_free(made, 30 * AFLOCK_SECOND), 0);
    ev_loop_destroy(EV_DEFAULT_UC);
    end();
}
END_TEST

/* ------------------------------------------------------------------------------------------------------------- main */

static Suite *make_suite(void)
{
    Suite *suite = suite_create("libev");
    TCase *running = loop_case(suite, "running");
    tcase_add_loop_test(running, test_only_requests_keep_alive, 0, AFLOCK_IO_POOL + 1);
    tcase_add_test(running, test_a_waiting_request_keeps_alive);
    tcase_add_test(running, test_once_returns_after_a_callback);
    tcase_add_test(running, test_nowait_does_not_wait);
    tcase_add_test(running, test_the_program_has_its_turn);
    tcase_add_test(running, test_eight_contexts);
    tcase_add_test(running, test_made_and_freed_inside);

    TCase *ending = loop_case(suite, "ending");
    tcase_add_loop_test(ending, test_context_first, 0, LOOP_STATES);
    tcase_add_loop_test(ending, test_loop_first, 0, LOOP_STATES);
    tcase_add_loop_test(ending, test_closed_under_the_loop, 0, LOOP_STATES);

    TCase *children = loop_case(suite, "children");
    tcase_add_loop_test(children, test_child, 0, CHILDREN * LOOP_TRYING);
    tcase_add_loop_test(children, test_child_that_goes_on, 0, 2);
    tcase_add_test(children, test_fork_inside_a_timer);

    TCase *mishaps = loop_case(suite, "mishaps");
    tcase_add_test(mishaps, test_bad_arguments);
    tcase_add_test(mishaps, test_too_many_open_files);
    tcase_add_test(mishaps, test_out_of_memory);
    tcase_add_test(mishaps, test_the_default_loop);
    return suite;
}

int main(void)
{
    return loop_main(make_suite());
}
