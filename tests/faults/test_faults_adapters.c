/* Kit, pool and epoll adapter when the n-th of their own system calls fails, or the n-th allocation: constructors say
 * why and leave nothing behind; a loop that runs goes on, and every request, timer and watch is served all the same.
 * scripts/symbols' lists of public functions are what tests/faults/complete demands of this file.
 *
 *   test_faults_adapters [--stride N]     every N-th case only */
#include "faults/allocations.h"
#include "faults/wraps.h"
#include "support/fake_host.h"

#include <aflock/epoll.h>
#include <aflock/kit.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <unistd.h>

enum { ROW = 3, PATIENCE = 30000, WATCHDOG_S = 60 };

static unsigned stride = 1;
static struct counts {
    atomic_uint cases, calls[WRAP_CALLS], allocations;
} * counts;

/* ------------------------------------------------------------------------------------------------ what went wrong */

static bool allocating; /* else a system call fails */

/* Is the status what a failure of now has to be called? */
static bool is_explained(int status)
{
    if (allocating)
        return status == AFLOCK_ENOMEM && allocations_failed() > 0;
    if (status == AFLOCK_ENOMEM)
        return wraps_failed_with(ENOMEM);
    if (status == AFLOCK_EMFILE)
        return wraps_failed_with(EMFILE) || wraps_failed_with(ENFILE);
    return status == AFLOCK_ESYS && wraps_failed() > 0;
}

static bool took(int status)
{
    fake_require(status == 0 || is_explained(status));
    return status == 0;
}

/* What needs memory, but no call that fails here, or one that is repeated or done without. */
static bool took_memory(int status)
{
    fake_require(status == 0 || (allocating && is_explained(status)));
    return status == 0;
}

/* A round fails when the caller's timers cannot be set, and the next one goes on. */
static void check_round(int status)
{
    fake_require(status == 0 || (status == AFLOCK_ESYS && !allocating && wraps_failed_in(WRAP_timerfd_settime)));
}

/* ------------------------------------------------------------------------------------------------------ the parts */

static void play_pool(void)
{
    aflock_executor executor = {.self = NULL};
    aflock_pool_options options;
    aflock_pool_options_init(&options);
    options.threads = 2;
    errno = 0;
    if (took(aflock_pool_new(&executor, &options)))
        executor.close(executor.self, 0);
    else
        fake_require(executor.self == NULL && (allocating || wraps_failed_with(errno)));
}

static void count_close(void *adapter, int forked)
{
    fake_require(!forked);
    ++*(int *)adapter;
}

static void play_kit(void)
{
    int closed = 0, ends[2];
    aflock_kit *kit = NULL;
    aflock_host host;
    aflock_kit_options options;
    aflock_kit_options_init(&options);
    options.adapter = &closed;
    options.closed = count_close;
    errno = 0;
    if (!took(aflock_kit_new(&kit, &host, &options))) {
        fake_require(kit == NULL && closed == 0 && (allocating || wraps_failed_with(errno)));
        return;
    }
    fake_require(aflock_kit_fd(kit) >= 0 && aflock_kit_adapter(kit) == &closed);
    fake_require(pipe2(ends, O_CLOEXEC) == 0);
    const aflock_loop *loop = host.loop;
    aflock_watch first = {.fd = ends[0], .events = AFLOCK_READ}, second = {.fd = ends[0], .events = AFLOCK_READ};
    bool watched = took(loop->watch(loop->self, &first));
    fake_require(watched == (first.host != NULL));
    fake_require(took(loop->watch(loop->self, &second)) == (second.host != NULL)); /* joins the first */
    first.events = AFLOCK_READ | AFLOCK_WRITE;
    if (watched)
        took(loop->watch(loop->self, &first));
    loop->unwatch(loop->self, &first);
    loop->unwatch(loop->self, &second);
    took(loop->timer(loop->self, loop->now(loop->self) + MS));
    close(ends[0]);
    close(ends[1]);
    aflock_ctx *ctx;
    if (took_memory(aflock_ctx_new(&ctx, &host, NULL))) {
        aflock_kit_process(kit, ctx);
        fake_require(aflock_kit_wait(kit, ctx, MS) == 0);
        fake_require(aflock_ctx_free(ctx, 0) == 0);
    } else {
        aflock_kit_free(kit);
    }
    fake_require(closed == 1);
}

/* ------------------------------------------------------------------------------------------------------- the loop */

static aflock_ctx *ctx;
static unsigned ready_count, fired, answered;
static int statuses[8];

static void on_ready(aflock_ctx *of, int fd, unsigned events, void *user)
{
    char byte;
    (void)user;
    fake_require(of == ctx && events == AFLOCK_EPOLL_READ);
    if (read(fd, &byte, 1) == 1)
        ready_count++;
}

static void on_fire(aflock_ctx *of, void *user)
{
    (void)user;
    fake_require(of == ctx);
    fired++;
}

static void on_answer(aflock *lock, const aflock_result *r, void *user)
{
    (void)lock, (void)user;
    fake_require(answered < 8);
    statuses[answered++] = r->status;
}

static void on_inspected(aflock *lock, const aflock_holder *holder, void *user)
{
    (void)lock, (void)user;
    fake_require(answered < 8);
    statuses[answered++] = holder->status;
}

/* Rounds until *counter has the value. */
static void run_until(const unsigned *counter, unsigned value)
{
    for (int i = 0; *counter < value; i++) {
        fake_require(i < PATIENCE);
        check_round(i % 2 ? aflock_epoll_run(ctx) : aflock_epoll_run_once(ctx, SEC));
    }
}

/* Leaving the standard streams, the core makes a call that fails here. */
static void answer_comes(int status, unsigned before, int expected)
{
    if (!took_memory(status))
        return;
    run_until(&answered, before + 1);
    status = statuses[before];
    bool excused = allocating ? is_explained(status) : status == AFLOCK_EMFILE && wraps_failed_in(WRAP_dup);
    fake_require(status == expected || excused);
}

static void play_lock(aflock *lock, const char *path)
{
    aflock_acquire_options o;
    aflock_req req;
    aflock_acquire_options_init(&o);
    answered = 0;
    answer_comes(aflock_acquire(lock, NULL, on_answer, NULL, &req), 0, 0);
    if (answered == 1 && statuses[0] == 0) {
        fake_require(!fake_is_free(path));
        answer_comes(aflock_release(lock, req, on_answer, NULL), 1, 0);
        fake_require(fake_is_free(path));
    }
    int holder = fake_foreign(path);
    o.timeout = 2 * MS;
    unsigned before = answered;
    answer_comes(aflock_acquire(lock, &o, on_answer, NULL, NULL), before, AFLOCK_ETIMEDOUT);
    before = answered;
    answer_comes(aflock_inspect(lock, on_inspected, NULL), before, 0);
    close(holder);
}

static void play_callers(void)
{
    int ends[2];
    ready_count = fired = 0;
    fake_require(pipe2(ends, O_CLOEXEC | O_NONBLOCK) == 0);
    bool watched = took(aflock_epoll_watch(ctx, ends[0], AFLOCK_EPOLL_READ, on_ready, NULL));
    unsigned timers = took(aflock_epoll_timer(ctx, MS, on_fire, NULL));
    if (took(aflock_epoll_timer(ctx, 2 * MS, on_fire, &timers)) &&
        aflock_epoll_timer_cancel(ctx, on_fire, &timers) != 0)
        timers++; /* it remains */
    timers += took(aflock_epoll_timer(ctx, 0, on_fire, NULL));
    fake_require(write(ends[1], "", 1) == 1);
    fake_require(aflock_epoll_alive(ctx) == (timers > 0));
    if (watched)
        run_until(&ready_count, 1);
    run_until(&fired, timers);
    fake_require(aflock_epoll_watch(ctx, ends[0], 0, NULL, NULL) == 0);
    aflock_epoll_stop(ctx);
    check_round(aflock_epoll_run(ctx));
    check_round(aflock_epoll_process(ctx));
    close(ends[0]);
    close(ends[1]);
}

static void play_epoll(aflock_io io)
{
    aflock *lock;
    aflock_epoll_options options;
    aflock_pool_options pool;
    aflock_options o;
    aflock_epoll_options_init(&options);
    aflock_pool_options_init(&pool);
    pool.threads = 1;
    options.pool = &pool;
    errno = 0;
    if (!took(aflock_epoll_new(&ctx, &options))) {
        fake_require(ctx == NULL && (allocating || wraps_failed_with(errno)));
        return;
    }
    int fd = aflock_epoll_fd(ctx);
    fake_require(fd >= 0 || is_explained(fd));
    play_callers();
    aflock_options_init(&o);
    o.io = io;
    o.poll_interval = MS;
    if (took_memory(aflock_open(&lock, ctx, fake_path("f"), &o)))
        play_lock(lock, fake_path("f"));
    fake_require(aflock_ctx_free(ctx, 5 * SEC) == 0);
}

static void play_inline(void)
{
    play_epoll(AFLOCK_IO_INLINE);
}

static void play_pooled(void)
{
    play_epoll(AFLOCK_IO_POOL);
}

/* The same in a program that has closed its standard input. */
static void play_without_stdin(void)
{
    int saved = fcntl(STDIN_FILENO, F_DUPFD, 100);
    close(STDIN_FILENO);
    play_kit();
    fake_require(fcntl(STDIN_FILENO, F_GETFD) < 0);
    play_inline();
    fake_require(dup2(saved, STDIN_FILENO) == STDIN_FILENO);
    close(saved);
}

static const struct part {
    const char *name;
    void (*play)(void);
} PARTS[] = {
    {"pool", play_pool},
    {"kit", play_kit},
    {"epoll, inline", play_inline},
    {"epoll, pool", play_pooled},
    {"without stdin", play_without_stdin},
};
enum { PART_COUNT = sizeof PARTS / sizeof PARTS[0] };

/* ------------------------------------------------------------------------------------------------------- the cases */

/* Threads end when they like after the pool was closed, and give their memory back then. */
static void await_rest(long blocks, unsigned descriptors, long mapped)
{
    for (int i = 0; i < PATIENCE && (allocations_alive() != blocks || fake_descriptors() != descriptors); i++)
        usleep(1000);
    fake_require(allocations_alive() == blocks);
    fake_require(fake_descriptors() == descriptors);
    fake_require(wraps_mapped() == mapped);
}

static void play(const struct part *part, const char *what, unsigned n, int which, unsigned times)
{
    long blocks = allocations_alive(), mapped = wraps_mapped();
    unsigned descriptors = fake_descriptors();
    snprintf(fake_context, sizeof fake_context, "(%s: the %u. %s, errno number %d, %u times)", part->name, n, what,
             which, times);
    alarm(WATCHDOG_S);
    wraps_fail(n, times, which);
    part->play();
    wraps_rest();
    await_rest(blocks, descriptors, mapped);
    atomic_fetch_add(&counts->cases, 1);
}

START_TEST(every_call_fails)
{
    wrapped_call made[512];
    const struct part *part = &PARTS[_i];
    unsigned number = 0;
    play(part, "call", 0, 0, 0);
    unsigned calls = wraps_rest();
    ck_assert_uint_gt(calls, 0);
    ck_assert_uint_lt(calls, 512);
    for (unsigned n = 1; n <= calls; n++)
        made[n] = wraps_made(n);
    for (unsigned n = 1; n <= calls; n++) {
        for (int which = 0; wraps_errno(made[n], which); which++) {
            for (unsigned times = 1; times <= ROW; times += ROW - 1) {
                if (number++ % stride)
                    continue;
                play(part, wraps_name(made[n]), n, which, times);
                atomic_fetch_add(&counts->calls[made[n]], 1);
            }
        }
    }
}
END_TEST

START_TEST(every_allocation_fails)
{
    const struct part *part = &PARTS[_i];
    allocating = true;
    unsigned n = 1, failed = 1;
    for (; failed; n++) {
        long blocks = allocations_alive(), mapped = wraps_mapped();
        unsigned descriptors = fake_descriptors();
        snprintf(fake_context, sizeof fake_context, "(%s: the %u. allocation)", part->name, n);
        alarm(WATCHDOG_S);
        allocations_fail(n);
        part->play();
        failed = allocations_failed();
        allocations_fail(0);
        await_rest(blocks, descriptors, mapped);
        atomic_fetch_add(&counts->allocations, failed);
    }
    ck_assert_uint_gt(n, 1);
}
END_TEST

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "--stride") == 0 && atoi(argv[2]) > 0)
        stride = (unsigned)atoi(argv[2]);
    counts = mmap(NULL, sizeof *counts, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (counts == MAP_FAILED)
        return EXIT_FAILURE;
    const TTest *const tests[] = {every_call_fails, every_allocation_fails, NULL};
    int status = fake_main_each("faults: adapters", tests, PART_COUNT, 300);
    printf("figure: faults: adapters: %u runs, every %u. case; failures of", atomic_load(&counts->cases), stride);
    for (int i = 0; i < WRAP_CALLS; i++)
        printf(" %s %u,", wraps_name((wrapped_call)i), atomic_load(&counts->calls[i]));
    printf(" allocations %u\n", atomic_load(&counts->allocations));
    return status;
}
