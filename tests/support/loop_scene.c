/* See loop_scene.h. */
#include "support/loop_scene.h"

#include "faults/allocations.h"
#include "support/folder.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { WATCHDOG_S = 60 }; /* of libcheck: what does not return fails */

aflock_ctx *loop_context, *loop_made_inside;
aflock *loop_lock;
loop_answer loop_pending;
int loop_outside = -1;
int loop_gate[2];
int loop_descriptors_before;
long loop_blocks_before;
pid_t loop_forked;

static char folder[PATH_MAX];
static atomic_int inside; /* a worker is at the gate */

/* ----------------------------------------------------------------------------------------------------- the fixture */

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

void loop_begin(void)
{
    loop_pending = (loop_answer){0};
    loop_forked = -1;
    loop_descriptors_before = loop_descriptors();
    loop_blocks_before = allocations_alive();
}

void loop_require_nothing_left(void)
{
    while (allocations_alive() != loop_blocks_before || loop_descriptors() != loop_descriptors_before)
        loop_pause();
}

int loop_descriptors(void)
{
    int count = 0;
    for (int fd = 0; fd < 1024; fd++)
        count += fcntl(fd, F_GETFD) >= 0;
    return count;
}

int loop_next_descriptor(void)
{
    int next = dup(STDIN_FILENO);
    close(next);
    return next;
}

void loop_pause(void)
{
    nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

/* ------------------------------------------------------------------------------------------------------- the calls */

aflock *loop_open(aflock_ctx *context, const char *name, aflock_io io, uint64_t poll_interval)
{
    aflock *opened;
    aflock_options options;
    aflock_options_init(&options);
    options.io = io;
    options.poll_interval = poll_interval;
    ck_assert_int_eq(aflock_open(&opened, context, name, &options), 0);
    return opened;
}

void loop_on_answer(aflock *lock, const aflock_result *result, void *user)
{
    loop_answer *answer = user;
    answer->count++;
    answer->status = result->status;
    answer->req = result->req;
    if (answer->then != NULL)
        answer->then(lock);
}

void loop_acquire(aflock *lock, loop_answer *answer)
{
    ck_assert_int_eq(aflock_acquire(lock, NULL, loop_on_answer, answer, NULL), 0);
}

void loop_run_until_answered(const loop_answer *answer)
{
    while (answer->count == 0)
        loop_calls.run_once();
}

void loop_pass(void)
{
    for (int i = 0; i < 5; i++) {
        loop_calls.run_nowait();
        loop_pause();
    }
}

void loop_again(aflock *lock)
{
    ck_assert_int_eq(aflock_release(lock, loop_pending.req, NULL, NULL), 0);
    if (loop_pending.count < LOOP_CHAIN)
        loop_acquire(lock, &loop_pending);
}

void loop_make_inside(aflock *lock)
{
    (void)lock;
    loop_made_inside = loop_calls.make_context();
}

void loop_free_context(aflock_ctx **context)
{
    ck_assert_int_eq(aflock_ctx_free(*context, 30 * AFLOCK_SECOND), 0);
    *context = NULL;
}

int loop_hold_outside(const char *name)
{
    int fd = open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(flock(fd, LOCK_EX | LOCK_NB), 0);
    return fd;
}

bool loop_is_free(const char *name)
{
    int fd = open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    ck_assert_int_ge(fd, 0);
    bool got = flock(fd, LOCK_EX | LOCK_NB) == 0;
    close(fd);
    return got;
}

/* ------------------------------------------------------------------------------------------------------ the states */

/* On a worker: until somebody closes the other end. */
static int stand_at_gate(int fd, void *user)
{
    (void)fd, (void)user;
    char byte;
    atomic_store(&inside, 1);
    return read(loop_gate[0], &byte, 1) == 0 ? 0 : EIO;
}

void loop_enter(loop_state state)
{
    aflock_acquire_options options;
    aflock_acquire_options_init(&options);
    loop_lock = loop_open(loop_context, "lock", state == LOOP_TRYING ? AFLOCK_IO_POOL : AFLOCK_IO_INLINE, LOOP_NEVER);
    if (state == LOOP_WAITING)
        loop_outside = loop_hold_outside("lock");
    if (state == LOOP_TRYING) {
        ck_assert_int_eq(pipe2(loop_gate, O_CLOEXEC), 0);
        atomic_store(&inside, 0);
        options.on_acquired = stand_at_gate;
    }
    if (state != LOOP_IDLE)
        ck_assert_int_eq(aflock_acquire(loop_lock, &options, loop_on_answer, &loop_pending, NULL), 0);
    if (state == LOOP_HELD)
        loop_run_until_answered(&loop_pending);
    do
        loop_pass();
    while (state == LOOP_TRYING && !atomic_load(&inside));
    ck_assert_int_eq(loop_pending.count, state == LOOP_HELD);
}

void loop_require_ended(loop_state state)
{
    ck_assert_int_eq(loop_pending.count, state != LOOP_IDLE);
    if (state == LOOP_WAITING || state == LOOP_TRYING)
        ck_assert_int_eq(loop_pending.status, AFLOCK_ECLOSED);
    if (state == LOOP_WAITING)
        close(loop_outside);
    if (state == LOOP_TRYING)
        close(loop_gate[1]);
    while (!loop_is_free("lock"))
        loop_pause();
    loop_calls.end();
    if (state != LOOP_TRYING) {
        loop_require_nothing_left();
        return;
    }
    loop_descriptors_before++; /* the worker's end, until it has left */
    loop_require_nothing_left();
    close(loop_gate[0]);
}

/* --------------------------------------------------------------------------------------------------------- running */

void loop_only_requests_keep_alive(aflock_io io)
{
    loop_calls.run_to_end();
    loop_lock = loop_open(loop_context, "lock", io, AFLOCK_MILLISECOND);
    for (int round = 1; round <= 3; round++) {
        loop_acquire(loop_lock, &loop_pending);
        loop_calls.run_to_end();
        ck_assert_int_eq(loop_pending.count, 2 * round - 1);
        ck_assert_int_eq(loop_pending.status, 0);
        loop_calls.run_to_end(); /* for a hold */
        ck_assert_int_eq(aflock_release(loop_lock, loop_pending.req, loop_on_answer, &loop_pending), 0);
        loop_calls.run_to_end();
        ck_assert_int_eq(loop_pending.count, 2 * round);
    }
}

/* A second request keeps the loop alive: a round returns because the first was answered. */
void loop_once_returns_after_a_callback(void)
{
    loop_answer never = {0};
    loop_outside = loop_hold_outside("other");
    loop_acquire(loop_open(loop_context, "other", AFLOCK_IO_INLINE, LOOP_NEVER), &never);
    loop_pass();
    for (int round = 0; round < 3; round++) {
        loop_answer first = {0};
        loop_lock = loop_open(loop_context, "lock", round == 2 ? AFLOCK_IO_POOL : AFLOCK_IO_INLINE, LOOP_NEVER);
        loop_acquire(loop_lock, &first);
        int rounds = 0;
        for (; first.count == 0; rounds++)
            loop_calls.run_once();
        if (round < 2)
            ck_assert_int_eq(rounds, 1);
        ck_assert_int_eq(first.status, 0);
        ck_assert_int_eq(aflock_release(loop_lock, first.req, NULL, NULL), 0);
    }
    ck_assert_int_eq(never.count, 0);
    close(loop_outside);
    loop_free_context(&loop_context);
    ck_assert_int_eq(never.status, AFLOCK_ECLOSED);
    loop_context = loop_calls.make_context();
}

/* -------------------------------------------------------------------------------------------------------- children */

static pid_t make_child(void)
{
    fflush(NULL);
    pid_t child = fork();
    ck_assert_int_ge(child, 0);
    return child;
}

static pid_t child_of(void (*body)(int argument), int argument)
{
    pid_t child = make_child();
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

aflock_token *loop_wait_with_token(const char *name, loop_answer *answer)
{
    aflock_token *token;
    aflock_acquire_options options;
    aflock_acquire_options_init(&options);
    ck_assert_int_eq(aflock_token_new(&token, loop_context), 0);
    options.token = token;
    aflock *lock = loop_open(loop_context, name, AFLOCK_IO_INLINE, LOOP_NEVER);
    ck_assert_int_eq(aflock_acquire(lock, &options, loop_on_answer, answer, NULL), 0);
    loop_pass();
    ck_assert_int_eq(answer->count, 0);
    return token;
}

/* Other threads still wake the loop: a token, and a job on the pool. */
static void require_wakes(void)
{
    loop_answer cancelled = {0}, pooled = {0};
    int holder = loop_hold_outside("wakes");
    aflock_token *token = loop_wait_with_token("wakes", &cancelled);
    aflock_token_fire(token);
    loop_run_until_answered(&cancelled);
    ck_assert_int_eq(cancelled.status, AFLOCK_ECANCELED);
    aflock_token_free(token);
    close(holder);
    loop_acquire(loop_open(loop_context, "pooled", AFLOCK_IO_POOL, LOOP_NEVER), &pooled);
    loop_run_until_answered(&pooled);
    ck_assert_int_eq(pooled.status, 0);
}

void loop_require_unharmed(pid_t child)
{
    require_good_end(child);
    require_wakes();
}

void loop_child_leaves(loop_state state, void (*leave)(int how), int how)
{
    loop_enter(state);
    loop_require_unharmed(child_of(leave, how));
    ck_assert_int_eq(loop_pending.count, state == LOOP_HELD);
    ck_assert_int_eq(loop_is_free("lock"), state == LOOP_IDLE);
    if (state == LOOP_WAITING)
        close(loop_outside);
}

/* The library's descriptor is readable all the time. */
void loop_child_goes_on(void (*go_on)(int unused), bool deferred)
{
    loop_answer asked = {0};
    loop_outside = loop_hold_outside("token");
    aflock_token *token = loop_wait_with_token("token", &loop_pending);
    aflock_token_fire(token);
    if (deferred)
        loop_acquire(loop_open(loop_context, "lock", AFLOCK_IO_INLINE, LOOP_NEVER), &asked);
    aflock_token_free(token);
    require_good_end(child_of(go_on, 0));
    loop_run_until_answered(&loop_pending); /* the wake-up is still there */
    ck_assert_int_eq(loop_pending.status, AFLOCK_ECANCELED);
    if (deferred)
        loop_run_until_answered(&asked);
    require_wakes();
    close(loop_outside);
}

void loop_require_forked(void)
{
    ck_assert_int_eq(aflock_acquire(loop_lock, NULL, loop_on_answer, &loop_pending, NULL), AFLOCK_EFORKED);
    ck_assert_int_eq(aflock_close(loop_lock), AFLOCK_EFORKED);
    ck_assert_int_eq(aflock_ctx_free(loop_context, 0), AFLOCK_EFORKED);
}

static long cpu_milliseconds(void)
{
    struct rusage usage;
    ck_assert_int_eq(getrusage(RUSAGE_SELF, &usage), 0);
    return (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000 +
           (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1000;
}

void loop_require_little_cpu(const int *over)
{
    int rounds = 0;
    long before = cpu_milliseconds();
    for (; !*over; rounds++)
        loop_calls.run_once();
    ck_assert_int_le(rounds, 20);
    ck_assert_int_le(cpu_milliseconds() - before, LOOP_CHILD_MS / 2);
    ck_assert_int_eq(loop_pending.count, 0);
}

void loop_end_in_child(void)
{
    loop_calls.end();
    ck_assert_int_eq(allocations_alive(), loop_blocks_before);
}

void loop_fork(void)
{
    loop_forked = make_child();
    if (loop_forked == 0)
        ck_assert_int_eq(aflock_ctx_abandon(loop_context), 0);
}

/* ------------------------------------------------------------------------------------------------ what goes wrong */

void loop_require_refused(const void *options, int status)
{
    aflock_ctx *made = loop_context;
    int descriptors = loop_descriptors();
    long blocks = allocations_alive();
    ck_assert_int_eq(loop_calls.new_context(&made, options), status);
    ck_assert_ptr_null(made);
    ck_assert_int_eq(loop_descriptors(), descriptors);
    loop_calls.require_clean(blocks);
}

static int refuse_job(void *self, aflock_job *job, aflock_lane lane)
{
    (void)self, (void)job, (void)lane;
    return AFLOCK_ENOMEM;
}

static void count_close(void *self, int child)
{
    (void)child;
    ++*(int *)self;
}

aflock_executor loop_executor(int *closed)
{
    return (aflock_executor){
        .size = sizeof(aflock_executor), .self = closed, .width = 1, .submit = refuse_job, .close = count_close};
}

void loop_run_out_of_descriptors(void)
{
    struct rlimit before, limit;
    ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &before), 0);
    int next = loop_next_descriptor();
    for (int spare = 0; spare < 4; spare++) {
        limit = before;
        limit.rlim_cur = (rlim_t)(next + spare);
        ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
        if (spare < 3)
            loop_require_refused(NULL, AFLOCK_EMFILE);
    }
    ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &before), 0);
}

void loop_run_out_of_memory(const void *options)
{
    for (unsigned n = 1;; n++) {
        aflock_ctx *made = loop_context;
        long blocks = allocations_alive();
        allocations_fail(n);
        int status = loop_calls.new_context(&made, options);
        unsigned failed = allocations_failed();
        allocations_fail(0);
        if (failed == 0) {
            ck_assert_int_gt(n, 4);
            ck_assert_int_eq(aflock_ctx_free(made, 0), 0);
            return;
        }
        ck_assert_int_eq(status, AFLOCK_ENOMEM);
        ck_assert_ptr_null(made);
        loop_calls.require_clean(blocks);
    }
}

/* ------------------------------------------------------------------------------------------------------------ main */

TCase *loop_case(Suite *suite, const char *name)
{
    TCase *tcase = tcase_create(name);
    tcase_set_timeout(tcase, WATCHDOG_S);
    tcase_add_unchecked_fixture(tcase, folder_begin, folder_end);
    suite_add_tcase(suite, tcase);
    return tcase;
}

int loop_main(Suite *suite)
{
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
