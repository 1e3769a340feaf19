/* What is special to the libevent adapter: which calls of a base return when, its order of ending, its debug mode,
 * bases with locks and with priorities, and children. What every loop must do is in tests/conformance. libevent's
 * memory is counted with ours. */
#include "faults/allocations.h"
#include "support/folder.h"

#include <aflock/kit.h>
#include <aflock/libevent.h>

#include <check.h>
#include <errno.h>
#include <event2/event.h>
#include <event2/thread.h>
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
static struct event_base *base;
static aflock_ctx *ctx;
static aflock *lock;
static struct answer pending; /* of `lock` */
static int logged;
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
    event_set_mem_functions(lib_malloc, lib_realloc, free);
    pending = (struct answer){0};
    logged = 0;
    descriptors_before = descriptors();
    blocks_before = allocations_alive();
    base = event_base_new();
    ck_assert_ptr_nonnull(base);
}

static void begin(void)
{
    begin_without_context();
    ctx = make_context();
}

static void end_base(void)
{
    if (base != NULL)
        event_base_free(base);
    base = NULL;
    libevent_global_shutdown();
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
    end_base();
    require_nothing_left();
    ck_assert_int_eq(logged, 0);
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
        ck_assert_int_eq(event_base_loop(base, EVLOOP_ONCE), 0);
}

static void pass(void)
{
    for (int i = 0; i < 5; i++) {
        ck_assert_int_ge(event_base_loop(base, EVLOOP_NONBLOCK), 0);
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
    end_base();
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
    enum { NOTHING_TO_DO = 1 };
    begin();
    ck_assert_int_eq(event_base_dispatch(base), NOTHING_TO_DO);
    lock = open_lock(ctx, "lock", (aflock_io)_i, AFLOCK_MILLISECOND);
    for (int round = 1; round <= 3; round++) {
        acquire(lock, &pending);
        ck_assert_int_eq(event_base_dispatch(base), NOTHING_TO_DO);
        ck_assert_int_eq(pending.count, 2 * round - 1);
        ck_assert_int_eq(pending.status, 0);
        ck_assert_int_eq(event_base_dispatch(base), NOTHING_TO_DO); /* for a hold */
        ck_assert_int_eq(aflock_release(lock, pending.req, on_answer, &pending), 0);
        ck_assert_int_eq(event_base_dispatch(base), NOTHING_TO_DO);
        ck_assert_int_eq(pending.count, 2 * round);
    }
    ck_assert_int_eq(event_base_get_num_events(base, EVENT_BASE_COUNT_ADDED | EVENT_BASE_COUNT_ACTIVE), 0);
    end();
}
END_TEST

static void close_outside(evutil_socket_t fd, short what, void *user)
{
    (void)fd, (void)what, (void)user;
    close(outside);
}

START_TEST(test_a_waiting_request_keeps_alive)
{
    begin();
    struct event *timer = new_timer(close_outside, NULL);
    outside = hold_outside("lock");
    lock = open_lock(ctx, "lock", AFLOCK_IO_AUTO, 5 * AFLOCK_MILLISECOND);
    acquire(lock, &pending);
    after(timer, 20);
    ck_assert_int_eq(event_base_dispatch(base), 1);
    ck_assert_int_eq(pending.count, 1);
    ck_assert_int_eq(pending.status, 0);
    event_free(timer);
    end();
}
END_TEST

/* A second request keeps the base alive: EVLOOP_ONCE returns because the first was answered. */
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
            ck_assert_int_eq(event_base_loop(base, EVLOOP_ONCE), 0);
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

START_TEST(test_nonblock_does_not_wait)
{
    struct answer first = {0};
    begin();
    lock = open_lock(ctx, "lock", AFLOCK_IO_INLINE, NEVER);
    acquire(lock, &first);
    ck_assert_int_ge(event_base_loop(base, EVLOOP_NONBLOCK), 0);
    ck_assert_int_eq(first.count, 1);
    acquire(lock, &pending); /* behind the first */
    for (int i = 0; i < 10; i++)
        ck_assert_int_eq(event_base_loop(base, EVLOOP_NONBLOCK), 0);
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
    lock = open_lock(ctx, "lock", AFLOCK_IO_INLINE, NEVER);
    pending.then = again;
    acquire(lock, &pending);
    ck_assert_int_eq(raise(SIGUSR1), 0);
    while (pending.count < CHAIN)
        ck_assert_int_eq(event_base_loop(base, EVLOOP_ONCE), 0);
    ck_assert_int_ge(reads, CHAIN / 64);
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

static aflock_ctx *made_inside;

static void make_inside(aflock *l)
{
    (void)l;
    made_inside = make_context();
}

static void free_other(evutil_socket_t fd, short what, void *user)
{
    (void)fd, (void)what;
    aflock_ctx **other = user;
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
    int granted = 0;
    while (granted < CONTEXTS) {
        ck_assert_int_eq(event_base_loop(base, EVLOOP_ONCE), 0);
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
    struct answer waits = {0};
    begin();
    outside = hold_outside("other");
    lock = open_lock(ctx, "lock", AFLOCK_IO_INLINE, NEVER);
    pending.then = make_inside;
    acquire(lock, &pending);
    run_until_answered(&pending);
    acquire(open_lock(made_inside, "other", AFLOCK_IO_INLINE, AFLOCK_MILLISECOND), &waits);
    struct event *timer = new_timer(free_other, &made_inside);
    after(timer, 10);
    ck_assert_int_eq(event_base_dispatch(base), 1); /* then nothing keeps it alive */
    ck_assert_ptr_null(made_inside);
    ck_assert_int_eq(waits.count, 1);
    ck_assert_int_eq(waits.status, AFLOCK_ECLOSED);
    event_free(timer);
    close(outside);
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
static void end_in_order(enum state state)
{
    begin();
    enter(state);
    ck_assert_int_ge(aflock_ctx_free(ctx, 0), 0);
    ck_assert_int_eq(logged, 0);
    ck_assert_int_eq(event_base_get_num_events(base, EVENT_BASE_COUNT_ADDED | EVENT_BASE_COUNT_ACTIVE), 0);
    require_ended(state);
}

static void end_base_first(enum state state)
{
    struct answer late = {0};
    begin();
    enter(state);
    event_base_free(base);
    base = NULL;
    aflock *unused = open_lock(ctx, "other", AFLOCK_IO_INLINE, NEVER);
    acquire(unused, &late); /* taken, not answered */
    if (state == HELD)
        ck_assert_int_eq(aflock_release(lock, pending.req, NULL, NULL), 0);
    ck_assert_int_eq(late.count, 0);
    ck_assert_int_eq(logged, 0);
    ck_assert_int_ge(aflock_ctx_free(ctx, 0), 0);
    ck_assert_int_eq(logged, 1);
    ck_assert_int_eq(late.count, 1);
    ck_assert_int_eq(late.status, AFLOCK_ECLOSED);
    require_ended(state);
}

START_TEST(test_context_first)
{
    end_in_order((enum state)_i);
}
END_TEST

START_TEST(test_base_first)
{
    end_base_first((enum state)_i);
}
END_TEST

START_TEST(test_context_first_debugged)
{
    use_debug_mode();
    end_in_order((enum state)_i);
}
END_TEST

START_TEST(test_base_first_debugged)
{
    use_debug_mode();
    end_base_first((enum state)_i);
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
    ck_assert_int_eq(aflock_libevent_new(&ctx, base, NULL), 0);
    event_base_free(base);
    base = NULL;
    ck_assert_int_eq(aflock_ctx_free(ctx, 0), 0);
    end_base();
    require_nothing_left();
}
END_TEST

/* --------------------------------------------------------------------------------------------------------- children */

/* What the child does about the base. */
enum child { ABANDONS, REINITS_AND_ABANDONS, ABANDONS_AND_REINITS, FREES_BASE_AND_ABANDONS, CHILDREN };

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
    ck_assert_int_eq(aflock_acquire(lock, NULL, on_answer, &pending, NULL), AFLOCK_EFORKED);
    ck_assert_int_eq(aflock_close(lock), AFLOCK_EFORKED);
    ck_assert_int_eq(aflock_ctx_free(ctx, 0), AFLOCK_EFORKED);
    if (order == REINITS_AND_ABANDONS || order == FREES_BASE_AND_ABANDONS)
        ck_assert_int_eq(event_reinit(base), 0);
    if (order == FREES_BASE_AND_ABANDONS)
        end_base();
    ck_assert_int_eq(aflock_ctx_abandon(ctx), 0);
    ck_assert_int_eq(logged, order == FREES_BASE_AND_ABANDONS);
    if (order == ABANDONS_AND_REINITS)
        ck_assert_int_eq(event_reinit(base), 0);
    if (base != NULL)
        require_base_works();
    end_base();
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
    struct event *timer = new_timer(count_event, &over);
    after(timer, CHILD_LIVES_MS);
    long before = cpu_milliseconds();
    for (; !over; rounds++)
        ck_assert_int_eq(event_base_loop(base, EVLOOP_ONCE), 0);
    ck_assert_int_le(rounds, 20);
    ck_assert_int_le(cpu_milliseconds() - before, CHILD_LIVES_MS / 2);
    ck_assert_int_eq(pending.count, 0);
    event_free(timer);
    ck_assert_int_eq(aflock_ctx_abandon(ctx), 0);
    ck_assert_int_eq(logged, 0);
    end_base();
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

static void fork_in_event(evutil_socket_t fd, short what, void *user)
{
    (void)fd, (void)what, (void)user;
    fflush(NULL);
    forked = fork();
    ck_assert_int_ge(forked, 0);
    if (forked == 0)
        ck_assert_int_eq(aflock_ctx_abandon(ctx), 0);
}

/* In an event of the program's; the child goes on from there. */
START_TEST(test_fork_inside_an_event)
{
    begin();
    forked = -1;
    outside = hold_outside("token");
    aflock_token *token = wait_with_token("token", &pending);
    struct event *timer = new_timer(fork_in_event, NULL);
    after(timer, 0);
    while (forked < 0)
        ck_assert_int_ge(event_base_loop(base, EVLOOP_ONCE), 0);
    event_free(timer);
    if (forked == 0) {
        require_base_works();
        end_base();
        exit(0);
    }
    require_good_end(forked);
    aflock_token_free(token);
    require_wakes();
    close(outside);
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
    lock = open_lock(ctx, "lock", AFLOCK_IO_POOL, NEVER);
    pending.then = again;
    acquire(lock, &pending);
    while (pending.count < CHAIN)
        ck_assert_int_eq(event_base_loop(base, EVLOOP_ONCE), 0);
    atomic_store(&busy, 0);
    for (int i = 0; i < THREADS; i++)
        ck_assert_int_eq(pthread_join(threads[i], NULL), 0);
    ck_assert_int_ge(activated, 1);
    event_free(event);
    ck_assert_int_eq(aflock_ctx_free(ctx, AFLOCK_SECOND), 0);
    event_base_free(base);
    while (descriptors() != descriptors_before) /* libevent keeps memory for its locks */
        pause_briefly();
}
END_TEST

static char order[8];

static void note(evutil_socket_t fd, short what, void *user)
{
    (void)fd, (void)what;
    strcat(order, user);
}

static void note_and_activate(evutil_socket_t fd, short what, void *user)
{
    note(fd, what, "h");
    event_active(user, EV_READ, 0);
}

static void note_lock(aflock *l)
{
    (void)l;
    strcat(order, "L");
}

START_TEST(test_the_middle_priority)
{
    begin_without_context();
    order[0] = '\0';
    ck_assert_int_eq(event_base_priority_init(base, 3), 0);
    ctx = make_context();
    struct event *low = event_new(base, -1, 0, note, "l"), *next = event_new(base, -1, 0, note, "n");
    struct event *high = event_new(base, -1, 0, note_and_activate, next);
    ck_assert_int_eq(event_priority_set(high, 0), 0);
    ck_assert_int_eq(event_priority_set(next, 0), 0);
    ck_assert_int_eq(event_priority_set(low, 2), 0);
    pending.then = note_lock;
    acquire(open_lock(ctx, "lock", AFLOCK_IO_INLINE, NEVER), &pending);
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

static void require_refused(const aflock_libevent_options *options, int status)
{
    aflock_ctx *made = (aflock_ctx *)folder;
    int descriptors_now = descriptors();
    long blocks_now = allocations_alive();
    ck_assert_int_eq(aflock_libevent_new(&made, base, options), status);
    ck_assert_ptr_null(made);
    ck_assert_int_eq(descriptors(), descriptors_now);
    ck_assert_int_eq(allocations_alive(), blocks_now);
}

START_TEST(test_bad_arguments)
{
    aflock_libevent_options options;
    aflock_pool_options pool;
    aflock_ctx_options ctx_options;
    aflock_ctx *made = ctx;
    begin();
    aflock_libevent_options_init(NULL);
    ck_assert_int_eq(aflock_libevent_new(NULL, base, NULL), AFLOCK_EINVAL);
    ck_assert_int_eq(aflock_libevent_new(&made, NULL, NULL), AFLOCK_EINVAL);
    ck_assert_ptr_null(made);
    ck_assert_int_eq(aflock_ctx_free(make_context(), 0), 0); /* libevent keeps a little memory per descriptor */
    for (size_t size = 0; size <= sizeof options + 1; size += size == 0 ? sizeof options + 1 : 1) {
        aflock_libevent_options_init(&options);
        options.size = size;
        require_refused(&options, AFLOCK_EINVAL);
    }
    aflock_libevent_options_init(&options);
    aflock_pool_options_init(&pool);
    pool.threads = 0;
    options.pool = &pool;
    require_refused(&options, AFLOCK_EINVAL);

    int closed = 0;
    aflock_executor executor = {
        .size = sizeof executor, .self = &closed, .width = 1, .submit = refuse_job, .close = ignore_close};
    aflock_libevent_options_init(&options);
    aflock_ctx_options_init(&ctx_options);
    ctx_options.size = 0;
    options.ctx = &ctx_options;
    options.executor = &executor;
    require_refused(&options, AFLOCK_EINVAL);
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

/* Each allocation of ours and of libevent's, one after the other. */
START_TEST(test_out_of_memory)
{
    int failures = 0;
    for (unsigned n = 1;; n++) {
        begin_without_context();
        allocations_fail(n);
        int status = aflock_libevent_new(&ctx, base, NULL);
        unsigned failed = allocations_failed();
        allocations_fail(0);
        if (status == 0)
            ck_assert_int_eq(aflock_ctx_free(ctx, 0), 0);
        else
            ck_assert_ptr_null(ctx);
        end_base();
        require_nothing_left();
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
    struct answer first = {0};
    begin();
    event_set_mem_functions(lib_malloc, lib_realloc_or_not, free);
    const struct timeval hour = {.tv_sec = 3600};
    refuse_libevent = true;
    do
        timers[count] = new_timer(count_event, &fired);
    while (event_add(timers[count++], &hour) == 0 && count < MOST);
    ck_assert_int_lt(count, MOST);
    acquire(open_lock(ctx, "free", AFLOCK_IO_INLINE, NEVER), &first);
    run_until_answered(&first);
    outside = hold_outside("lock");
    lock = open_lock(ctx, "lock", AFLOCK_IO_INLINE, AFLOCK_MILLISECOND);
    acquire(lock, &pending);
    for (int i = 0; i < 10; i++)
        ck_assert_int_eq(event_base_loop(base, EVLOOP_NONBLOCK), 0);
    for (int i = 0; i < count; i++)
        event_free(timers[i]);
    ck_assert_int_eq(event_base_loop(base, EVLOOP_NONBLOCK), 0); /* 1: nothing keeps it alive */
    close(outside);
    ck_assert_int_eq(event_base_dispatch(base), 1);
    ck_assert_int_eq(pending.count, 1);
    ck_assert_int_eq(pending.status, 0);
    ck_assert_int_eq(fired, 0);
    refuse_libevent = false;
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
    Suite *suite = suite_create("libevent");
    TCase *debugged = add_case(suite, "debug mode"); /* first, for CK_FORK=no */
    tcase_add_loop_test(debugged, test_context_first_debugged, 0, STATES);
    tcase_add_loop_test(debugged, test_base_first_debugged, 0, STATES);
    tcase_add_test(debugged, test_many_contexts_debugged);

    TCase *running = add_case(suite, "running");
    tcase_add_loop_test(running, test_only_requests_keep_alive, 0, AFLOCK_IO_POOL + 1);
    tcase_add_test(running, test_a_waiting_request_keeps_alive);
    tcase_add_test(running, test_once_returns_after_a_callback);
    tcase_add_test(running, test_nonblock_does_not_wait);
    tcase_add_test(running, test_the_program_has_its_turn);
    tcase_add_test(running, test_eight_contexts);
    tcase_add_test(running, test_made_and_freed_inside);

    TCase *ending = add_case(suite, "ending");
    tcase_add_loop_test(ending, test_context_first, 0, STATES);
    tcase_add_loop_test(ending, test_base_first, 0, STATES);
    tcase_add_test(ending, test_base_first_without_log);

    TCase *children = add_case(suite, "children");
    tcase_add_loop_test(children, test_child, 0, CHILDREN * TRYING);
    tcase_add_loop_test(children, test_child_that_goes_on, 0, 2);
    tcase_add_test(children, test_fork_inside_an_event);

    TCase *mishaps = add_case(suite, "mishaps");
    tcase_add_test(mishaps, test_bad_arguments);
    tcase_add_test(mishaps, test_too_many_open_files);

    TCase *bases = add_case(suite, "bases");
    tcase_add_test(bases, test_the_middle_priority);
    tcase_add_test(bases, test_out_of_memory);
    tcase_add_test(bases, test_no_memory_for_timers);
    tcase_add_test(bases, test_bases_with_locks); /* last, for CK_FORK=no */
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
