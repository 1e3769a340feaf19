/* What is special to the libevent adapter: which calls of a base return when, its order of ending, its debug mode,
 * bases with locks and with priorities, and children. What every loop must do is in tests/conformance. libevent's
 * memory is counted with ours. */
#include "faults/allocations.h"
#include "support/loop_scene.h"

#include <aflock/libevent.h>

#include <errno.h>
#include <event2/event.h>
#include <event2/thread.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ------------------------------------------------------------------------------------------------------- the scene */

static struct event_base *base;
static int logged;

static void *lib_malloc(size_t size)
{
    void *block = malloc(size);
    if (block == NULL)
        errno = ENOMEM;
    return block;
}

static void *lib_realloc(void *block, size_t size)
{
    void *larger = realloc(block, size);
    if (larger == NULL)
        errno = ENOMEM;
    return larger;
}

static void on_log(aflock_log_level level, const char *message, void *user)
{
    ck_assert_ptr_eq(user, &logged);
    if (strncmp(message, "libevent", strlen("libevent")) != 0)
        return;
    ck_assert_int_eq(level, AFLOCK_LOG_ERROR);
    ck_assert_str_eq(message, "libevent: the event_base was freed before the context");
    logged++;
}

static aflock_ctx *make_context(void)
{
    aflock_ctx *made;
    aflock_ctx_options ctx_options;
    aflock_libevent_options options;
    aflock_ctx_options_init(&ctx_options);
    ctx_options.log = on_log;
    ctx_options.log_user = &logged;
    aflock_libevent_options_init(&options);
    options.ctx = &ctx_options;
    ck_assert_int_eq(aflock_libevent_new(&made, base, &options), 0);
    return made;
}

static void begin_without_context(void)
{
    event_set_mem_functions(lib_malloc, lib_realloc, free);
    logged = 0;
    loop_begin();
    base = event_base_new();
    ck_assert_ptr_nonnull(base);
}

static void begin(void)
{
    begin_without_context();
    loop_context = make_context();
}

static void end_base(void)
{
    if (base != NULL)
        event_base_free(base);
    base = NULL;
    libevent_global_shutdown();
}

static void end(void)
{
    ck_assert_int_eq(aflock_ctx_free(loop_context, 30 * AFLOCK_SECOND), 0);
    end_base();
    loop_require_nothing_left();
    ck_assert_int_eq(logged, 0);
}

static void after(struct event *timer, int milliseconds)
{
    struct timeval delay = {.tv_sec = milliseconds / 1000, .tv_usec = (long)(milliseconds % 1000) * 1000};
    ck_assert_int_eq(event_add(timer, &delay), 0);
}

static struct event *new_timer(event_callback_fn function, void *user)
{
    struct event *timer = event_new(base, -1, 0, function, user);
    ck_assert_ptr_nonnull(timer);
    return timer;
}

static void count_event(evutil_socket_t fd, short what, void *user)
{
    (void)fd, (void)what;
    ++*(int *)user;
}

static int new_context(aflock_ctx **made, const void *options)
{
    return aflock_libevent_new(made, base, options);
}

static void run_to_end(void)
{
    enum { NOTHING_TO_DO = 1 };
    ck_assert_int_eq(event_base_dispatch(base), NOTHING_TO_DO);
}

static void run_once(void)
{
    ck_assert_int_eq(event_base_loop(base, EVLOOP_ONCE), 0);
}

static void run_nowait(void)
{
    ck_assert_int_ge(event_base_loop(base, EVLOOP_NONBLOCK), 0);
}

static void require_clean(long alive)
{
    ck_assert_int_eq(allocations_alive(), alive);
}

const struct loop_calls loop_calls = {
    .make_context = make_context,
    .new_context = new_context,
    .run_to_end = run_to_end,
    .run_once = run_once,
    .run_nowait = run_nowait,
    .end = end_base,
    .require_clean = require_clean,
};

/* ------------------------------------------------------------------------------------------------------- keep-alive */

START_TEST(test_only_requests_keep_alive)
{
    begin();
    loop_only_requests_keep_alive((aflock_io)_i);
    ck_assert_int_eq(event_base_get_num_events(base, EVENT_BASE_COUNT_ADDED | EVENT_BASE_COUNT_ACTIVE), 0);
    end();
}
END_TEST

static void close_outside(evutil_socket_t fd, short what, void *user)
{
    (void)fd, (void)what, (void)user;
    close(loop_outside);
}

START_TEST(test_a_waiting_request_keeps_alive)
{
    begin();
    struct event *timer = new_timer(close_outside, NULL);
    loop_outside = loop_hold_outside("lock");
    loop_lock = loop_open(loop_context, "lock", AFLOCK_IO_AUTO, 5 * AFLOCK_MILLISECOND);
    loop_acquire(loop_lock, &loop_pending);
    after(timer, 20);
    ck_assert_int_eq(event_base_dispatch(base), 1);
    ck_assert_int_eq(loop_pending.count, 1);
    ck_assert_int_eq(loop_pending.status, 0);
    event_free(timer);
    end();
}
END_TEST

/* A second request keeps the base alive: EVLOOP_ONCE returns because the first was answered. */
START_TEST(test_once_returns_after_a_callback)
{
    begin();
    loop_once_returns_after_a_callback();
    end();
}
END_TEST

START_TEST(test_nonblock_does_not_wait)
{
    loop_answer first = {0};
    begin();
    loop_lock = loop_open(loop_context, "lock", AFLOCK_IO_INLINE, LOOP_NEVER);
    loop_acquire(loop_lock, &first);
    ck_assert_int_ge(event_base_loop(base, EVLOOP_NONBLOCK), 0);
    ck_assert_int_eq(first.count, 1);
    loop_acquire(loop_lock, &loop_pending); /* behind the first */
    for (int i = 0; i < 10; i++)
        ck_assert_int_eq(event_base_loop(base, EVLOOP_NONBLOCK), 0);
    ck_assert_int_eq(loop_pending.count, 0);
    ck_assert_int_eq(aflock_release(loop_lock, first.req, NULL, NULL), 0);
    loop_run_until_answered(&loop_pending);
    ck_assert_int_eq(loop_pending.status, 0);
    end();
}
END_TEST

/* ---------------------------------------------------------------------------------------------- beside the program's
 */

static void on_signal(evutil_socket_t number, short what, void *user)
{
    (void)what;
    ck_assert_int_eq(number, SIGUSR1);
    ++*(int *)user;
}

/* Callbacks that ask for the next one without end, and a program's descriptor, signal and timers all the same. */
START_TEST(test_the_program_has_its_turn)
{
    int ends[2], reads = 0, signals = 0, fired = 0;
    begin();
    ck_assert_int_eq(pipe2(ends, O_CLOEXEC), 0);
    ck_assert_int_eq(write(ends[1], "x", 1), 1);
    struct event *always = event_new(base, ends[0], EV_READ | EV_PERSIST, count_event, &reads);
    struct event *signal_event = evsignal_new(base, SIGUSR1, on_signal, &signals);
    struct event *timer = new_timer(count_event, &fired);
    ck_assert_int_eq(event_add(always, NULL), 0);
    ck_assert_int_eq(event_add(signal_event, NULL), 0);
    after(timer, 0);
    loop_lock = loop_open(loop_context, "lock", AFLOCK_IO_INLINE, LOOP_NEVER);
    loop_pending.then = loop_again;
    loop_acquire(loop_lock, &loop_pending);
    ck_assert_int_eq(raise(SIGUSR1), 0);
    while (loop_pending.count < LOOP_CHAIN)
        ck_assert_int_eq(event_base_loop(base, EVLOOP_ONCE), 0);
    ck_assert_int_ge(reads, LOOP_CHAIN / 64);
    ck_assert_int_eq(signals, 1);
    ck_assert_int_eq(fired, 1);
    event_free(always);
    event_free(signal_event);
    event_free(timer);
    close(ends[0]);
    close(ends[1]);
    end();
}
END_TEST

/* ---------------------------------------------------------------------------------------------- contexts on one base
 */

enum { CONTEXTS = 8 };

static void free_other(evutil_socket_t fd, short what, void *user)
{
    (void)fd, (void)what;
    loop_free_context(user);
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
    int granted = 0;
    while (granted <
           CONTEXTS) { /* 1: an earlier one was granted while a later one ended, and there is nothing to wait for */
        ck_assert_int_ge(event_base_loop(base, EVLOOP_ONCE), 0);
        for (int i = 0; i < CONTEXTS; i++)
            if (contexts[i] != NULL && answers[i].count > 0) { /* it holds: its end lets the next one in */
                ck_assert_int_eq(answers[i].status, 0);
                granted++;
                struct event *timer = new_timer(free_other, &contexts[i]);
                after(timer, 0);
                while (contexts[i] != NULL)
                    ck_assert_int_ge(event_base_loop(base, EVLOOP_ONCE), 0);
                event_free(timer);
            }
    }
    ck_assert_int_eq(event_base_dispatch(base), 1);
    end();
}
END_TEST

START_TEST(test_made_and_freed_inside)
{
    loop_answer waits = {0};
    begin();
    loop_outside = loop_hold_outside("other");
    loop_lock = loop_open(loop_context, "lock", AFLOCK_IO_INLINE, LOOP_NEVER);
    loop_pending.then = loop_make_inside;
    loop_acquire(loop_lock, &loop_pending);
    loop_run_until_answered(&loop_pending);
    loop_acquire(loop_open(loop_made_inside, "other", AFLOCK_IO_INLINE, AFLOCK_MILLISECOND), &waits);
    struct event *timer = new_timer(free_other, &loop_made_inside);
    after(timer, 10);
    ck_assert_int_eq(event_base_dispatch(base), 1); /* then nothing keeps it alive */
    ck_assert_ptr_null(loop_made_inside);
    ck_assert_int_eq(waits.count, 1);
    ck_assert_int_eq(waits.status, AFLOCK_ECLOSED);
    event_free(timer);
    close(loop_outside);
    end();
}
END_TEST

/* ------------------------------------------------------------------------------------------------------- the ending */

static void use_debug_mode(void)
{
    static bool used; /* libevent takes it once, and only at first */
    if (!used)
        event_enable_debug_mode();
    used = true;
}

/* _i: a state */
static void end_in_order(loop_state state)
{
    begin();
    loop_enter(state);
    ck_assert_int_ge(aflock_ctx_free(loop_context, 0), 0);
    ck_assert_int_eq(logged, 0);
    ck_assert_int_eq(event_base_get_num_events(base, EVENT_BASE_COUNT_ADDED | EVENT_BASE_COUNT_ACTIVE), 0);
    loop_require_ended(state);
}

static void end_base_first(loop_state state)
{
    loop_answer late = {0};
    begin();
    loop_enter(state);
    event_base_free(base);
    base = NULL;
    aflock *unused = loop_open(loop_context, "other", AFLOCK_IO_INLINE, LOOP_NEVER);
    loop_acquire(unused, &late); /* taken, not answered */
    if (state == LOOP_HELD)
        ck_assert_int_eq(aflock_release(loop_lock, loop_pending.req, NULL, NULL), 0);
    ck_assert_int_eq(late.count, 0);
    ck_assert_int_eq(logged, 0);
    ck_assert_int_ge(aflock_ctx_free(loop_context, 0), 0);
    ck_assert_int_eq(logged, 1);
    ck_assert_int_eq(late.count, 1);
    ck_assert_int_eq(late.status, AFLOCK_ECLOSED);
    loop_require_ended(state);
}

START_TEST(test_context_first)
{
    end_in_order((loop_state)_i);
}
END_TEST

START_TEST(test_base_first)
{
    end_base_first((loop_state)_i);
}
END_TEST

START_TEST(test_context_first_debugged)
{
    use_debug_mode();
    end_in_order((loop_state)_i);
}
END_TEST

START_TEST(test_base_first_debugged)
{
    use_debug_mode();
    end_base_first((loop_state)_i);
}
END_TEST

enum { SIZES = 64 };

static void make_and_free_eight(void)
{
    aflock_ctx *contexts[CONTEXTS];
    for (int i = 0; i < CONTEXTS; i++)
        contexts[i] = make_context();
    for (int i = 0; i < CONTEXTS; i++)
        ck_assert_int_eq(aflock_ctx_free(contexts[i], 0), 0);
}

/* Its list of events does not grow, also when contexts are not where former ones were. */
START_TEST(test_many_contexts_debugged)
{
    void *taken[SIZES][CONTEXTS];
    use_debug_mode();
    begin();
    make_and_free_eight();
    long blocks = allocations_alive();
    for (int i = 0; i < SIZES; i++)
        for (int j = 0; j < CONTEXTS; j++)
            taken[i][j] = malloc((size_t)i * 16 + 8);
    make_and_free_eight();
    for (int i = 0; i < SIZES; i++)
        for (int j = 0; j < CONTEXTS; j++)
            free(taken[i][j]);
    ck_assert_int_eq(allocations_alive(), blocks);
    end();
}
END_TEST

/* With nowhere to say it. */
START_TEST(test_base_first_without_log)
{
    begin_without_context();
    ck_assert_int_eq(aflock_libevent_new(&loop_context, base, NULL), 0);
    event_base_free(base);
    base = NULL;
    ck_assert_int_eq(aflock_ctx_free(loop_context, 0), 0);
    end_base();
    loop_require_nothing_left();
}
END_TEST

/* --------------------------------------------------------------------------------------------------------- children */

/* What the child does about the base. */
enum child { ABANDONS, REINITS_AND_ABANDONS, ABANDONS_AND_REINITS, FREES_BASE_AND_ABANDONS, CHILDREN };

static void require_base_works(void)
{
    int fired = 0;
    struct event *timer = new_timer(count_event, &fired);
    after(timer, 1);
    ck_assert_int_eq(event_base_dispatch(base), 1);
    ck_assert_int_eq(fired, 1);
    event_free(timer);
}

static void leave_as(int order)
{
    loop_require_forked();
    if (order == REINITS_AND_ABANDONS || order == FREES_BASE_AND_ABANDONS)
        ck_assert_int_eq(event_reinit(base), 0);
    if (order == FREES_BASE_AND_ABANDONS)
        end_base();
    ck_assert_int_eq(aflock_ctx_abandon(loop_context), 0);
    ck_assert_int_eq(logged, order == FREES_BASE_AND_ABANDONS);
    if (order == ABANDONS_AND_REINITS)
        ck_assert_int_eq(event_reinit(base), 0);
    if (base != NULL)
        require_base_works();
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
    struct event *timer = new_timer(count_event, &over);
    after(timer, LOOP_CHILD_MS);
    loop_require_little_cpu(&over);
    event_free(timer);
    ck_assert_int_eq(aflock_ctx_abandon(loop_context), 0);
    ck_assert_int_eq(logged, 0);
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

static void fork_in_event(evutil_socket_t fd, short what, void *user)
{
    (void)fd, (void)what, (void)user;
    loop_fork();
}

/* In an event of the program's; the child goes on from there. */
START_TEST(test_fork_inside_an_event)
{
    begin();
    loop_outside = loop_hold_outside("token");
    aflock_token *token = loop_wait_with_token("token", &loop_pending);
    struct event *timer = new_timer(fork_in_event, NULL);
    after(timer, 0);
    while (loop_forked < 0)
        ck_assert_int_ge(event_base_loop(base, EVLOOP_ONCE), 0);
    event_free(timer);
    if (loop_forked == 0) {
        require_base_works();
        end_base();
        exit(0);
    }
    loop_require_unharmed(loop_forked);
    aflock_token_free(token);
    close(loop_outside);
    end();
}
END_TEST

/* --------------------------------------------------------------------------------------------- locks and priorities */

static atomic_int busy;

static void *activate(void *event)
{
    while (atomic_load(&busy))
        event_active(event, EV_READ, 0);
    return NULL;
}

START_TEST(test_bases_with_locks)
{
    enum { THREADS = 2 };
    pthread_t threads[THREADS];
    int activated = 0;
    ck_assert_int_eq(evthread_use_pthreads(), 0);
    begin();
    atomic_store(&busy, 1);
    struct event *event = event_new(base, -1, EV_PERSIST, count_event, &activated);
    for (int i = 0; i < THREADS; i++)
        ck_assert_int_eq(pthread_create(&threads[i], NULL, activate, event), 0);
    loop_lock = loop_open(loop_context, "lock", AFLOCK_IO_POOL, LOOP_NEVER);
    loop_pending.then = loop_again;
    loop_acquire(loop_lock, &loop_pending);
    while (loop_pending.count < LOOP_CHAIN)
        ck_assert_int_eq(event_base_loop(base, EVLOOP_ONCE), 0);
    atomic_store(&busy, 0);
    for (int i = 0; i < THREADS; i++)
        ck_assert_int_eq(pthread_join(threads[i], NULL), 0);
    ck_assert_int_ge(activated, 1);
    event_free(event);
    ck_assert_int_eq(aflock_ctx_free(loop_context, 30 * AFLOCK_SECOND), 0);
    event_base_free(base);
    while (loop_descriptors() != loop_descriptors_before) /* libevent keeps memory for its locks */
        loop_pause();
}
END_TEST

static char order[8];

static void append(const char *text)
{
    size_t length = strlen(order);
    snprintf(order + length, sizeof order - length, "%s", text);
}

static void note(evutil_socket_t fd, short what, void *user)
{
    (void)fd, (void)what;
    append(user);
}

static void note_and_activate(evutil_socket_t fd, short what, void *user)
{
    note(fd, what, "h");
    event_active(user, EV_READ, 0);
}

static void note_lock(aflock *l)
{
    (void)l;
    append("L");
}

START_TEST(test_the_middle_priority)
{
    begin_without_context();
    order[0] = '\0';
    ck_assert_int_eq(event_base_priority_init(base, 3), 0);
    loop_context = make_context();
    struct event *low = event_new(base, -1, 0, note, "l"), *next = event_new(base, -1, 0, note, "n");
    struct event *high = event_new(base, -1, 0, note_and_activate, next);
    ck_assert_int_eq(event_priority_set(high, 0), 0);
    ck_assert_int_eq(event_priority_set(next, 0), 0);
    ck_assert_int_eq(event_priority_set(low, 2), 0);
    loop_pending.then = note_lock;
    loop_acquire(loop_open(loop_context, "lock", AFLOCK_IO_INLINE, LOOP_NEVER), &loop_pending);
    event_active(low, EV_READ, 0);
    event_active(high, EV_READ, 0);
    ck_assert_int_eq(event_base_dispatch(base), 1);
    ck_assert_str_eq(order, "hnLl");
    event_free(high);
    event_free(next);
    event_free(low);
    end();
}
END_TEST

/* ------------------------------------------------------------------------------------------------- what goes wrong */

START_TEST(test_bad_arguments)
{
    aflock_libevent_options options;
    aflock_pool_options pool;
    aflock_ctx_options ctx_options;
    begin();
    aflock_ctx *made = loop_context;
    aflock_libevent_options_init(NULL);
    ck_assert_int_eq(aflock_libevent_new(NULL, base, NULL), AFLOCK_EINVAL);
    ck_assert_int_eq(aflock_libevent_new(&made, NULL, NULL), AFLOCK_EINVAL);
    ck_assert_ptr_null(made);
    ck_assert_int_eq(aflock_ctx_free(make_context(), 0), 0); /* libevent keeps a little memory per descriptor */
    for (size_t size = 0; size <= sizeof options + 1; size += size == 0 ? sizeof options + 1 : 1) {
        aflock_libevent_options_init(&options);
        options.size = size;
        loop_require_refused(&options, AFLOCK_EINVAL);
    }
    aflock_libevent_options_init(&options);
    aflock_pool_options_init(&pool);
    pool.threads = 0;
    options.pool = &pool;
    loop_require_refused(&options, AFLOCK_EINVAL);

    int closed = 0;
    aflock_executor executor = loop_executor(&closed);
    aflock_libevent_options_init(&options);
    aflock_ctx_options_init(&ctx_options);
    ctx_options.size = 0;
    options.ctx = &ctx_options;
    options.executor = &executor;
    loop_require_refused(&options, AFLOCK_EINVAL);
    ck_assert_int_eq(closed, 0); /* it stays the caller's */
    options.ctx = NULL;
    ck_assert_int_eq(aflock_libevent_new(&made, base, &options), 0);
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

/* Each allocation of ours and of libevent's, one after the other. */
START_TEST(test_out_of_memory)
{
    int failures = 0;
    for (unsigned n = 1;; n++) {
        begin_without_context();
        allocations_fail(n);
        int status = aflock_libevent_new(&loop_context, base, NULL);
        unsigned failed = allocations_failed();
        allocations_fail(0);
        if (status == 0)
            ck_assert_int_eq(aflock_ctx_free(loop_context, 0), 0);
        else
            ck_assert_ptr_null(loop_context);
        end_base();
        loop_require_nothing_left();
        if (failed == 0)
            break;
        ck_assert_int_eq(status, AFLOCK_ENOMEM);
        failures++;
    }
    ck_assert_int_ge(failures, 4);
}
END_TEST

static bool refuse_libevent;

static void *lib_realloc_or_not(void *block, size_t size)
{
    if (!refuse_libevent)
        return lib_realloc(block, size);
    errno = ENOMEM;
    return NULL;
}

/* libevent has no memory for one more timer: turns come all the same, and the base stays alive, and ends. */
START_TEST(test_no_memory_for_timers)
{
    enum { MOST = 100 };
    struct event *timers[MOST];
    int fired = 0, count = 0;
    loop_answer first = {0};
    begin();
    event_set_mem_functions(lib_malloc, lib_realloc_or_not, free);
    const struct timeval hour = {.tv_sec = 3600};
    refuse_libevent = true;
    do
        timers[count] = new_timer(count_event, &fired);
    while (event_add(timers[count++], &hour) == 0 && count < MOST);
    ck_assert_int_lt(count, MOST);
    loop_acquire(loop_open(loop_context, "free", AFLOCK_IO_INLINE, LOOP_NEVER), &first);
    loop_run_until_answered(&first);
    loop_outside = loop_hold_outside("lock");
    loop_lock = loop_open(loop_context, "lock", AFLOCK_IO_INLINE, AFLOCK_MILLISECOND);
    loop_acquire(loop_lock, &loop_pending);
    for (int i = 0; i < 10; i++)
        ck_assert_int_eq(event_base_loop(base, EVLOOP_NONBLOCK), 0);
    for (int i = 0; i < count; i++)
        event_free(timers[i]);
    ck_assert_int_eq(event_base_loop(base, EVLOOP_NONBLOCK), 0); /* 1: nothing keeps it alive */
    close(loop_outside);
    ck_assert_int_eq(event_base_dispatch(base), 1);
    ck_assert_int_eq(loop_pending.count, 1);
    ck_assert_int_eq(loop_pending.status, 0);
    ck_assert_int_eq(fired, 0);
    refuse_libevent = false;
    end();
}
END_TEST

/* ------------------------------------------------------------------------------------------------------------- main */

static Suite *make_suite(void)
{
    Suite *suite = suite_create("libevent");
    TCase *debugged = loop_case(suite, "debug mode"); /* first, for CK_FORK=no */
    tcase_add_loop_test(debugged, test_context_first_debugged, 0, LOOP_STATES);
    tcase_add_loop_test(debugged, test_base_first_debugged, 0, LOOP_STATES);
    tcase_add_test(debugged, test_many_contexts_debugged);

    TCase *running = loop_case(suite, "running");
    tcase_add_loop_test(running, test_only_requests_keep_alive, 0, AFLOCK_IO_POOL + 1);
    tcase_add_test(running, test_a_waiting_request_keeps_alive);
    tcase_add_test(running, test_once_returns_after_a_callback);
    tcase_add_test(running, test_nonblock_does_not_wait);
    tcase_add_test(running, test_the_program_has_its_turn);
    tcase_add_test(running, test_eight_contexts);
    tcase_add_test(running, test_made_and_freed_inside);

    TCase *ending = loop_case(suite, "ending");
    tcase_add_loop_test(ending, test_context_first, 0, LOOP_STATES);
    tcase_add_loop_test(ending, test_base_first, 0, LOOP_STATES);
    tcase_add_test(ending, test_base_first_without_log);

    TCase *children = loop_case(suite, "children");
    tcase_add_loop_test(children, test_child, 0, CHILDREN * LOOP_TRYING);
    tcase_add_loop_test(children, test_child_that_goes_on, 0, 2);
    tcase_add_test(children, test_fork_inside_an_event);

    TCase *mishaps = loop_case(suite, "mishaps");
    tcase_add_test(mishaps, test_bad_arguments);
    tcase_add_test(mishaps, test_too_many_open_files);

    TCase *bases = loop_case(suite, "bases");
    tcase_add_test(bases, test_the_middle_priority);
    tcase_add_test(bases, test_out_of_memory);
    tcase_add_test(bases, test_no_memory_for_timers);
    tcase_add_test(bases, test_bases_with_locks); /* last, for CK_FORK=no */
    return suite;
}

int main(void)
{
    return loop_main(make_suite());
}
