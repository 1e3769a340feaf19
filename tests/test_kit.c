/* The kit alone: the library is played by the functions below, which write down what they are told. */
#include "../adapters/common/internal.h"

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
#include <unistd.h>

enum { LONG = 10000, SHORT = 30 }; /* ms: a watchdog; long enough to see that nothing comes */

/* --------------------------------------------------------------------------------------------- the library's side */

struct report {
    aflock_watch *watch;
    unsigned events;
};

struct change {
    aflock_notify *notify;
    unsigned what;
    char name[16];
};

struct aflock_ctx {
    int timers;
    uint64_t fired; /* when the last one did */
    int turns;
    int turn_is_last;
    int check;
    int reports;
    struct report report[512];
    int changes;
    struct change change[512];
    void (*on_change)(aflock_notify *notify, unsigned what);
    void (*on_ready)(aflock_watch *watch, unsigned events);
    void (*on_turn)(void);
};

static aflock_ctx ctx;
static aflock_kit *kit;
static aflock_host host;
static const aflock_loop *loop;

void aflock_host_timer(aflock_ctx *c)
{
    c->timers++;
    c->fired = loop->now(loop->self);
    c->turn_is_last = 0;
}

void aflock_host_ready(aflock_ctx *c, aflock_watch *watch, unsigned events)
{
    ck_assert_int_lt(c->reports, (int)(sizeof c->report / sizeof c->report[0]));
    c->report[c->reports++] = (struct report){watch, events};
    c->turn_is_last = 0;
    if (c->on_ready != NULL)
        c->on_ready(watch, events);
}

void aflock_host_changed(aflock_ctx *c, aflock_notify *notify, unsigned what, const char *name)
{
    ck_assert_int_lt(c->changes, (int)(sizeof c->change / sizeof c->change[0]));
    struct change *change = &c->change[c->changes++];
    *change = (struct change){.notify = notify, .what = what};
    if (name != NULL)
        snprintf(change->name, sizeof change->name, "%s", name);
    c->turn_is_last = 0;
    if (c->on_change != NULL)
        c->on_change(notify, what);
}

void aflock_host_turn(aflock_ctx *c)
{
    c->turns++;
    c->turn_is_last = 1;
    if (c->on_turn != NULL)
        c->on_turn();
}

int aflock_host_check(const aflock_ctx *c)
{
    return c->check;
}

struct aflock_job {
    int runs;
};

void aflock_job_run(aflock_job *job)
{
    job->runs++;
}

void aflock_job_drop(aflock_job *job)
{
    (void)job;
}

/* ----------------------------------------------------------------------------------------------------- helpers */

static int closed_calls, closed_fd_was_open, closed_forked, foreign_closed;
static int adapter_deferred, adapter_alive;

static void make(const aflock_kit_options *options)
{
    memset(&ctx, 0, sizeof ctx);
    closed_calls = foreign_closed = adapter_deferred = 0;
    ck_assert_int_eq(aflock_kit_new(&kit, &host, options), 0);
    loop = host.loop;
}

static void setup(void)
{
    make(NULL);
}

/* As the library ends a context. */
static void teardown(void)
{
    host.executor->close(host.executor->self, 0);
    loop->close(loop->self, 0);
}

static int readable(int milliseconds)
{
    struct pollfd poll_fd = {.fd = aflock_kit_fd(kit), .events = POLLIN};
    int count;
    while ((count = poll(&poll_fd, 1, milliseconds)) < 0 && errno == EINTR) {
    }
    return count;
}

/* One dispatch of a loop that watches the kit. */
static void process(void)
{
    int turns = ctx.turns;
    ck_assert_int_eq(readable(LONG), 1);
    aflock_kit_process(kit, &ctx);
    ck_assert_int_eq(ctx.turns, turns + 1);
    ck_assert(ctx.turn_is_last);
}

static void await_timer(void)
{
    while (ctx.timers == 0)
        process();
}

static uint64_t in_ms(uint64_t milliseconds)
{
    return loop->now(loop->self) + milliseconds * AFLOCK_MILLISECOND;
}

static int descriptors(void)
{
    int count = 0;
    for (int fd = 0; fd < 1024; fd++)
        count += fcntl(fd, F_GETFD) >= 0;
    return count;
}

static void make_pipe(int ends[2])
{
    ck_assert_int_eq(pipe2(ends, O_CLOEXEC | O_NONBLOCK), 0);
}

static void watch(aflock_watch *w, int fd, unsigned events)
{
    *w = (aflock_watch){.fd = fd, .events = events};
    ck_assert_int_eq(loop->watch(loop->self, w), 0);
}

static void unwatch(aflock_watch *w)
{
    loop->unwatch(loop->self, w);
}

static unsigned reported(const aflock_watch *w)
{
    unsigned events = 0;
    for (int i = 0; i < ctx.reports; i++)
        if (ctx.report[i].watch == w)
            events |= ctx.report[i].events;
    return events;
}

/* --------------------------------------------------------------------------------------------- making and ending */

static void on_closed(void *adapter, int forked)
{
    (void)adapter;
    closed_calls++;
    closed_forked = forked;
    closed_fd_was_open = fcntl(aflock_kit_fd(kit), F_GETFD) >= 0;
}

START_TEST(test_bad_options)
{
    aflock_kit_options options;
    aflock_pool_options pool;
    ck_assert_int_eq(aflock_kit_new(NULL, &host, NULL), AFLOCK_EINVAL);
    ck_assert_int_eq(aflock_kit_new(&kit, NULL, NULL), AFLOCK_EINVAL);
    aflock_kit_options_init(&options);
    options.size = 0;
    ck_assert_int_eq(aflock_kit_new(&kit, &host, &options), AFLOCK_EINVAL);
    options.size = sizeof options + 1;
    ck_assert_int_eq(aflock_kit_new(&kit, &host, &options), AFLOCK_EINVAL);
    aflock_kit_options_init(&options);
    aflock_pool_options_init(&pool);
    pool.threads = 0;
    options.pool = &pool;
    options.closed = on_closed;
    int before = descriptors();
    ck_assert_int_eq(aflock_kit_new(&kit, &host, &options), AFLOCK_EINVAL);
    ck_assert_int_eq(closed_calls, 0);
    ck_assert_int_eq(descriptors(), before);
    aflock_kit_options_init(NULL);
    aflock_kit_free(NULL);
}
END_TEST

START_TEST(test_host_is_filled_in)
{
    int adapter;
    aflock_kit_options options;
    aflock_kit_options_init(&options);
    options.name = "name";
    options.adapter = &adapter;
    make(&options);
    ck_assert_uint_eq(host.size, sizeof host);
    ck_assert_uint_eq(loop->size, sizeof *loop);
    ck_assert_str_eq(loop->name, "name");
    ck_assert_uint_ge(loop->resolution, 1);
    ck_assert_uint_eq(host.executor->width, 4);
    ck_assert_ptr_nonnull(host.notifier);
    ck_assert_ptr_eq(aflock_kit_adapter(kit), &adapter);
    teardown();
}
END_TEST

START_TEST(test_descriptors_close_on_exec_and_never_block)
{
    char before[1024];
    for (int fd = 0; fd < 1024; fd++)
        before[fd] = fcntl(fd, F_GETFD) >= 0;
    setup();
    int made = 0;
    for (int fd = 0; fd < 1024; fd++) {
        if (before[fd] || fcntl(fd, F_GETFD) < 0)
            continue;
        made++;
        ck_assert_int_eq(fcntl(fd, F_GETFD), FD_CLOEXEC);
        ck_assert(fd == aflock_kit_fd(kit) || (fcntl(fd, F_GETFL) & O_NONBLOCK));
    }
    ck_assert_int_eq(made, 3); /* epoll, eventfd, timerfd */
    teardown();
    for (int fd = 0; fd < 1024; fd++)
        ck_assert_int_eq(fcntl(fd, F_GETFD) >= 0, before[fd]);
}
END_TEST

START_TEST(test_closed_is_called_before_closing)
{
    aflock_kit_options options;
    aflock_kit_options_init(&options);
    options.closed = on_closed;
    make(&options);
    int fd = aflock_kit_fd(kit);
    teardown();
    ck_assert_int_eq(closed_calls, 1);
    ck_assert(closed_fd_was_open);
    ck_assert_int_eq(closed_forked, 0);
    ck_assert_int_lt(fcntl(fd, F_GETFD), 0);
}
END_TEST

static void foreign_close(void *self, int forked)
{
    (void)self, (void)forked;
    foreign_closed++;
}

/* A kit without a context: its pool ends with it, somebody else's executor does not. */
START_TEST(test_free_without_context)
{
    aflock_kit_options options;
    aflock_executor foreign = {.size = sizeof foreign, .close = foreign_close};
    aflock_kit_options_init(&options);
    options.closed = on_closed;
    make(&options);
    ck_assert_ptr_ne(host.executor, &foreign);
    aflock_kit_free(kit);
    ck_assert_int_eq(closed_calls, 1);

    options.executor = &foreign;
    make(&options);
    ck_assert_ptr_eq(host.executor, &foreign);
    aflock_kit_free(kit);
    ck_assert_int_eq(closed_calls, 1);
    ck_assert_int_eq(foreign_closed, 0);
}
END_TEST

START_TEST(test_too_many_open_files)
{
    struct rlimit before, limit;
    ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &before), 0);
    int open_before = descriptors();
    int next = dup(0);
    close(next);
    for (int free_descriptors = 0; free_descriptors < 3; free_descriptors++) {
        limit = before;
        limit.rlim_cur = (rlim_t)(next + free_descriptors);
        ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
        errno = 0;
        ck_assert_int_eq(aflock_kit_new(&kit, &host, NULL), AFLOCK_EMFILE);
        ck_assert_int_eq(errno, EMFILE);
    }
    ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &before), 0);
    ck_assert_int_eq(descriptors(), open_before);
}
END_TEST

/* --------------------------------------------------------------------------------------------------------- timer */

START_TEST(test_timer_is_never_early)
{
    for (int i = 0; i < 20; i++) {
        uint64_t deadline = loop->now(loop->self) + (uint64_t)i * 100 * AFLOCK_MICROSECOND;
        ctx.timers = 0;
        ck_assert_int_eq(loop->timer(loop->self, deadline), 0);
        await_timer();
        ck_assert_int_eq(ctx.timers, 1);
        ck_assert_uint_ge(ctx.fired, deadline);
        ck_assert_int_eq(readable(0), 0); /* one-shot */
    }
}
END_TEST

static uint64_t set_in_turn[3];

static void set_deadlines(void)
{
    for (int i = 0; i < 3; i++)
        ck_assert_int_eq(loop->timer(loop->self, set_in_turn[i]), 0);
    ctx.on_turn = NULL;
}

/* The last of several deadlines counts. */
START_TEST(test_deadlines_set_in_a_turn)
{
    ck_assert_int_eq(loop->timer(loop->self, in_ms(100 * LONG)), 0);
    set_in_turn[0] = in_ms(100 * LONG);
    set_in_turn[1] = in_ms(1);
    uint64_t deadline = set_in_turn[2] = in_ms(10);
    ctx.on_turn = set_deadlines;
    loop->wake(loop->self);
    await_timer();
    ck_assert_int_eq(ctx.timers, 1);
    ck_assert_uint_ge(ctx.fired, deadline);
}
END_TEST

static void interrupt(int number)
{
    (void)number;
}

/* Waiting in the kit: never too short, woken by what wakes a loop, and by signals. */
START_TEST(test_wait)
{
    uint64_t start = loop->now(loop->self), deadline = start + 5 * AFLOCK_MILLISECOND;
    ck_assert_int_eq(aflock_kit_wait(kit, &ctx, 5 * AFLOCK_MILLISECOND), 0);
    ck_assert_uint_ge(loop->now(loop->self), deadline);
    ck_assert(ctx.turns == 1 && ctx.timers == 0);
    ck_assert_int_eq(aflock_kit_wait(kit, &ctx, 0), 0);
    ck_assert_int_eq(ctx.turns, 2);
    loop->wake(loop->self);
    ck_assert_int_eq(aflock_kit_wait(kit, &ctx, AFLOCK_FOREVER), 0);
    ck_assert_int_eq(ctx.turns, 3);
    ck_assert_int_eq(readable(0), 0);
    deadline = in_ms(5);
    ck_assert_int_eq(loop->timer(loop->self, deadline), 0);
    while (ctx.timers == 0)
        ck_assert_int_eq(aflock_kit_wait(kit, &ctx, AFLOCK_FOREVER), 0);
    ck_assert_uint_ge(ctx.fired, deadline);

    struct sigaction action = {.sa_handler = interrupt}, before;
    ck_assert_int_eq(sigaction(SIGALRM, &action, &before), 0);
    struct itimerval often = {.it_interval = {.tv_usec = 10000}, .it_value = {.tv_usec = 10000}}, never = {0};
    ck_assert_int_eq(setitimer(ITIMER_REAL, &often, NULL), 0);
    int turns = ctx.turns;
    ck_assert_int_eq(aflock_kit_wait(kit, &ctx, AFLOCK_FOREVER), 0);
    ck_assert_int_eq(setitimer(ITIMER_REAL, &never, NULL), 0);
    ck_assert_int_eq(sigaction(SIGALRM, &before, NULL), 0);
    ck_assert_int_eq(ctx.turns, turns + 1);

    ctx.check = AFLOCK_EFORKED;
    loop->wake(loop->self);
    ck_assert_int_eq(aflock_kit_wait(kit, &ctx, AFLOCK_FOREVER), AFLOCK_EFORKED);
    ck_assert_int_eq(ctx.turns, turns + 1);
    ck_assert_int_eq(readable(0), 1); /* it is for the parent */
}
END_TEST

START_TEST(test_past_deadline_fires)
{
    const uint64_t past[] = {loop->now(loop->self) - 1, AFLOCK_SECOND, 1, 0};
    for (int i = 0; i < 4; i++) {
        ctx.timers = 0;
        ck_assert_int_eq(loop->timer(loop->self, past[i]), 0);
        await_timer();
        ck_assert_int_eq(ctx.timers, 1);
    }
}
END_TEST

START_TEST(test_earlier_deadline_replaces)
{
    uint64_t deadline = in_ms(5);
    ck_assert_int_eq(loop->timer(loop->self, in_ms(100 * LONG)), 0);
    ck_assert_int_eq(loop->timer(loop->self, deadline), 0);
    await_timer();
    ck_assert_uint_ge(ctx.fired, deadline);
}
END_TEST

/* The descriptor may wake up for the deadline that was replaced; the library is not told of it. */
START_TEST(test_later_deadline_replaces)
{
    uint64_t deadline = in_ms(20);
    ck_assert_int_eq(loop->timer(loop->self, in_ms(2)), 0);
    ck_assert_int_eq(loop->timer(loop->self, deadline), 0);
    await_timer();
    ck_assert_int_eq(ctx.timers, 1);
    ck_assert_uint_ge(ctx.fired, deadline);
    ck_assert_int_le(ctx.turns, 2); /* one, if both have passed before anybody looked */
}
END_TEST

/* What the kernel says about a timerfd. */
static int clock_of(int fd)
{
    char path[64], line[128];
    int clock = -1;
    snprintf(path, sizeof path, "/proc/self/fdinfo/%d", fd);
    FILE *info = fopen(path, "r");
    ck_assert_ptr_nonnull(info);
    while (fgets(line, sizeof line, info))
        sscanf(line, "clockid: %d", &clock);
    fclose(info);
    return clock;
}

static void await_alarm(const struct afl_alarm *alarm)
{
    struct pollfd p = {.fd = alarm->fd, .events = POLLIN};
    ck_assert_int_eq(poll(&p, 1, LONG), 1);
}

/* The descriptor's clock goes on while the machine is suspended, the deadline's does not. */
START_TEST(test_alarm_after_a_suspension)
{
    struct afl_alarm alarm;
    ck_assert_int_eq(afl_alarm_open(&alarm), 0);
    ck_assert_int_eq(clock_of(alarm.fd), CLOCK_BOOTTIME);
    ck_assert_int_eq(afl_alarm_set(&alarm, afl_monotonic() + AFLOCK_MILLISECOND), 0);
    alarm.armed = alarm.wanted = afl_monotonic() + 1000 * AFLOCK_SECOND; /* as if that had been asked for */
    await_alarm(&alarm);
    ck_assert_int_eq(afl_alarm_due(&alarm), 1);
    ck_assert_uint_eq(alarm.wanted, AFLOCK_FOREVER);
    ck_assert_int_eq(afl_alarm_set(&alarm, afl_monotonic() + AFLOCK_MILLISECOND), 0);
    ck_assert_int_eq(afl_alarm_set(&alarm, afl_monotonic() + 50 * AFLOCK_MILLISECOND), 0);
    uint64_t wanted = alarm.wanted;
    await_alarm(&alarm);
    if (!afl_alarm_due(&alarm)) {
        ck_assert_int_eq(afl_alarm_set(&alarm, alarm.wanted), 0);
        await_alarm(&alarm);
        ck_assert_int_eq(afl_alarm_due(&alarm), 1);
    }
    ck_assert_uint_ge(afl_monotonic(), wanted);
    close(alarm.fd);
}
END_TEST

START_TEST(test_disarmed_timer_wakes_once_at_most)
{
    ck_assert_int_eq(loop->timer(loop->self, in_ms(1)), 0);
    ck_assert_int_eq(loop->timer(loop->self, AFLOCK_FOREVER), 0);
    for (int wakeups = 0; readable(SHORT); wakeups++) {
        ck_assert_int_lt(wakeups, 1);
        aflock_kit_process(kit, &ctx);
    }
    ck_assert_int_eq(ctx.timers, 0);
}
END_TEST

START_TEST(test_spurious_process)
{
    ck_assert_int_eq(loop->timer(loop->self, in_ms(LONG)), 0);
    aflock_kit_process(kit, &ctx);
    ck_assert_int_eq(ctx.timers, 0);
    ck_assert_int_eq(ctx.turns, 1);
}
END_TEST

/* ------------------------------------------------------------------------------------------------------- wake-up */

static atomic_int posted;
static int seen;

static void look_for_posts(void)
{
    seen = atomic_load(&posted);
}

static void *wake_often(void *unused)
{
    (void)unused;
    for (int i = 0; i < 20000; i++) {
        atomic_fetch_add(&posted, 1);
        loop->wake(loop->self);
    }
    return NULL;
}

/* None is lost: after the last wake-up the loop finds out about the last post. */
START_TEST(test_wake_from_threads)
{
    pthread_t threads[3];
    ctx.on_turn = look_for_posts;
    for (int i = 0; i < 3; i++)
        ck_assert_int_eq(pthread_create(&threads[i], NULL, wake_often, NULL), 0);
    while (seen < 3 * 20000)
        process();
    for (int i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
}
END_TEST

static void wake_handler(int number)
{
    (void)number;
    loop->wake(loop->self);
}

START_TEST(test_wake_from_signal_handler)
{
    struct sigaction action = {.sa_handler = wake_handler};
    ck_assert_int_eq(sigaction(SIGUSR1, &action, NULL), 0);
    errno = 12345;
    ck_assert_int_eq(raise(SIGUSR1), 0);
    ck_assert_int_eq(errno, 12345);
    ck_assert_int_eq(raise(SIGUSR1), 0);
    process();
    ck_assert_int_eq(readable(0), 0);
    ck_assert_int_eq(raise(SIGUSR1), 0);
    process();
}
END_TEST

START_TEST(test_defer_makes_readable)
{
    loop->defer(loop->self);
    loop->defer(loop->self);
    process();
    ck_assert_int_eq(readable(0), 0);
}
END_TEST

static void defer_again(void)
{
    if (ctx.turns < 3)
        loop->defer(loop->self);
}

START_TEST(test_defer_in_a_turn)
{
    ctx.on_turn = defer_again;
    loop->defer(loop->self);
    process();
    process();
    process();
    ck_assert_int_eq(readable(0), 0);
}
END_TEST

static void adapter_defer(void *adapter)
{
    ck_assert_ptr_eq(adapter, &ctx);
    adapter_deferred++;
}

static void adapter_keep_alive(void *adapter, int on)
{
    ck_assert_ptr_eq(adapter, &ctx);
    adapter_alive = on;
}

START_TEST(test_adapter_functions)
{
    loop->keep_alive(loop->self, 1); /* nobody is interested */
    teardown();
    aflock_kit_options options;
    aflock_kit_options_init(&options);
    options.adapter = &ctx;
    options.defer = adapter_defer;
    options.keep_alive = adapter_keep_alive;
    make(&options);
    loop->defer(loop->self);
    loop->keep_alive(loop->self, 1);
    ck_assert_int_eq(adapter_deferred, 1);
    ck_assert_int_eq(adapter_alive, 1);
    loop->keep_alive(loop->self, 0);
    ck_assert_int_eq(adapter_alive, 0);
    ck_assert_int_eq(readable(0), 0);
}
END_TEST

/* ------------------------------------------------------------------------------------------------------- watches */

START_TEST(test_watch_reports_level)
{
    int ends[2];
    aflock_watch w;
    make_pipe(ends);
    watch(&w, ends[0], AFLOCK_READ);
    ck_assert_int_eq(readable(0), 0);
    ck_assert_int_eq(write(ends[1], "x", 1), 1);
    process();
    process(); /* nobody has read it */
    ck_assert_int_eq(ctx.reports, 2);
    ck_assert_uint_eq(reported(&w), AFLOCK_READ);
    unwatch(&w);
    ck_assert_ptr_null(w.host);
    ck_assert_int_eq(readable(0), 0);
    unwatch(&w); /* harmless */
}
END_TEST

START_TEST(test_watch_changes_events)
{
    int ends[2];
    aflock_watch w;
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends), 0);
    watch(&w, ends[0], AFLOCK_READ);
    ck_assert_int_eq(readable(0), 0);
    w.events = AFLOCK_READ | AFLOCK_WRITE;
    ck_assert_int_eq(loop->watch(loop->self, &w), 0);
    process();
    ck_assert_uint_eq(reported(&w), AFLOCK_WRITE);
    w.events = AFLOCK_READ;
    ck_assert_int_eq(loop->watch(loop->self, &w), 0);
    ck_assert_int_eq(readable(0), 0);
    unwatch(&w);
}
END_TEST

START_TEST(test_hang_up_is_for_every_direction)
{
    int ends[2], write_end[2];
    aflock_watch reader, writer;
    make_pipe(ends);
    make_pipe(write_end);
    watch(&reader, ends[0], AFLOCK_READ);
    close(ends[1]); /* EPOLLHUP alone */
    watch(&writer, write_end[1], AFLOCK_WRITE);
    close(write_end[0]); /* EPOLLERR */
    process();
    ck_assert_uint_eq(reported(&reader), AFLOCK_READ);
    ck_assert_uint_eq(reported(&writer), AFLOCK_WRITE);
    unwatch(&reader);
    unwatch(&writer);
}
END_TEST

static aflock_watch pair[2];

static void unwatch_the_other(aflock_watch *w, unsigned events)
{
    (void)events;
    unwatch(w == &pair[0] ? &pair[1] : &pair[0]);
}

START_TEST(test_unwatch_inside_a_report)
{
    int ends[2][2];
    for (int i = 0; i < 2; i++) {
        make_pipe(ends[i]);
        ck_assert_int_eq(write(ends[i][1], "x", 1), 1);
        watch(&pair[i], ends[i][0], AFLOCK_READ);
    }
    ctx.on_ready = unwatch_the_other;
    process();
    ck_assert_int_eq(ctx.reports, 1);
    unwatch(&pair[0]);
    unwatch(&pair[1]);
    ck_assert_int_eq(readable(0), 0);
}
END_TEST

static void unwatch_itself(aflock_watch *w, unsigned events)
{
    (void)events;
    unwatch(w);
}

static void watch_anew(aflock_watch *w, unsigned events)
{
    unwatch(w);
    watch(w, w->fd, events);
}

START_TEST(test_unwatch_itself)
{
    int ends[2];
    aflock_watch w;
    make_pipe(ends);
    ck_assert_int_eq(write(ends[1], "x", 1), 1);
    watch(&w, ends[0], AFLOCK_READ);
    ctx.on_ready = watch_anew;
    process();
    ck_assert_int_eq(ctx.reports, 1);
    ctx.on_ready = unwatch_itself;
    process();
    ck_assert_int_eq(ctx.reports, 2);
    ck_assert_int_eq(readable(0), 0);
}
END_TEST

START_TEST(test_two_watches_on_one_descriptor)
{
    int ends[2];
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends), 0);
    ck_assert_int_eq(write(ends[1], "x", 1), 1);
    watch(&pair[0], ends[0], AFLOCK_READ);
    watch(&pair[1], ends[0], AFLOCK_WRITE);
    process();
    ck_assert_int_eq(ctx.reports, 2);
    ck_assert_uint_eq(reported(&pair[0]), AFLOCK_READ);
    ck_assert_uint_eq(reported(&pair[1]), AFLOCK_WRITE);

    pair[1].events = AFLOCK_READ;
    ck_assert_int_eq(loop->watch(loop->self, &pair[1]), 0);
    ctx.reports = 0;
    process();
    ck_assert_int_eq(ctx.reports, 2);
    ck_assert_uint_eq(reported(&pair[1]), AFLOCK_READ);

    unwatch(&pair[0]);
    ctx.reports = 0;
    process();
    ck_assert_int_eq(ctx.reports, 1);
    ck_assert_uint_eq(reported(&pair[1]), AFLOCK_READ);
    unwatch(&pair[1]);
    ck_assert_int_eq(readable(0), 0);

    watch(&pair[0], ends[0], AFLOCK_READ); /* and again from nothing */
    process();
    unwatch(&pair[0]);
}
END_TEST

/* What only the one that went wanted wakes nobody up any more. */
START_TEST(test_unwatch_of_one_direction)
{
    int ends[2];
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends), 0);
    watch(&pair[0], ends[0], AFLOCK_READ);
    watch(&pair[1], ends[0], AFLOCK_WRITE);
    process();
    unwatch(&pair[1]);
    ck_assert_int_eq(readable(0), 0);
    unwatch(&pair[0]);
}
END_TEST

START_TEST(test_unwatch_of_a_mate_inside_a_report)
{
    int ends[2];
    make_pipe(ends);
    ck_assert_int_eq(write(ends[1], "x", 1), 1);
    watch(&pair[0], ends[0], AFLOCK_READ);
    watch(&pair[1], ends[0], AFLOCK_READ);
    ctx.on_ready = unwatch_the_other;
    process();
    ck_assert_int_eq(ctx.reports, 1);
    process();
    ck_assert_int_eq(ctx.reports, 2);
    ck_assert_ptr_eq(ctx.report[0].watch, ctx.report[1].watch);
    unwatch(&pair[0]);
    unwatch(&pair[1]);
}
END_TEST

static void unwatch_both(aflock_watch *w, unsigned events)
{
    (void)w, (void)events;
    unwatch(&pair[0]);
    unwatch(&pair[1]);
}

START_TEST(test_unwatch_of_both_inside_a_report)
{
    int ends[2];
    make_pipe(ends);
    ck_assert_int_eq(write(ends[1], "x", 1), 1);
    watch(&pair[0], ends[0], AFLOCK_READ);
    watch(&pair[1], ends[0], AFLOCK_READ);
    ctx.on_ready = unwatch_both;
    process();
    ck_assert_int_eq(ctx.reports, 1);
    ck_assert_int_eq(readable(0), 0);
}
END_TEST

START_TEST(test_many_ready_at_once)
{
    enum { PIPES = 200 };
    int ends[PIPES][2];
    aflock_watch watches[PIPES];
    for (int i = 0; i < PIPES; i++) {
        make_pipe(ends[i]);
        ck_assert_int_eq(write(ends[i][1], "x", 1), 1);
        watch(&watches[i], ends[i][0], AFLOCK_READ);
    }
    ctx.on_ready = unwatch_itself;
    while (readable(0))
        aflock_kit_process(kit, &ctx);
    ck_assert_int_eq(ctx.reports, PIPES);
    for (int i = 0; i < PIPES; i++)
        ck_assert_uint_eq(reported(&watches[i]), AFLOCK_READ);
}
END_TEST

START_TEST(test_bad_watches)
{
    aflock_watch w = {.fd = 0, .events = 0};
    ck_assert_int_eq(loop->watch(loop->self, &w), AFLOCK_EINVAL);
    w.events = 4;
    ck_assert_int_eq(loop->watch(loop->self, &w), AFLOCK_EINVAL);
    w = (aflock_watch){.fd = -1, .events = AFLOCK_READ};
    ck_assert_int_eq(loop->watch(loop->self, &w), AFLOCK_ESYS);
    ck_assert_int_eq(errno, EBADF);
    w.fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC); /* a file is always ready, and epoll refuses it */
    ck_assert_int_eq(loop->watch(loop->self, &w), AFLOCK_ESYS);
    ck_assert_int_eq(errno, EPERM);
    ck_assert_ptr_null(w.host);
    unwatch(&w);
    close(w.fd);
}
END_TEST

/* What the library leaves is freed with the kit. */
START_TEST(test_close_with_watches)
{
    int ends[2];
    make_pipe(ends);
    watch(&pair[0], ends[0], AFLOCK_READ);
    watch(&pair[1], ends[0], AFLOCK_READ);
    close(ends[0]);
    close(ends[1]);
    pair[0].host = pair[1].host = NULL; /* so that a leak is seen as one */
}
END_TEST

/* ---------------------------------------------------------------------------------------------------------- fork */

START_TEST(test_close_in_a_child_disturbs_nobody)
{
    int ends[2];
    aflock_watch w;
    make_pipe(ends);
    watch(&w, ends[0], AFLOCK_READ);
    uint64_t deadline = in_ms(100);
    ck_assert_int_eq(loop->timer(loop->self, deadline), 0);
    pid_t child = fork();
    ck_assert_int_ge(child, 0);
    if (child == 0) {
        int open_before = descriptors();
        host.executor->close(host.executor->self, 1);
        loop->close(loop->self, 1);
        _exit(open_before - descriptors()); /* epoll, eventfd, timerfd */
    }
    int status;
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert_int_eq(WEXITSTATUS(status), 3);

    ck_assert_int_eq(write(ends[1], "x", 1), 1);
    ctx.on_ready = unwatch_itself;
    await_timer();
    ck_assert_uint_ge(ctx.fired, deadline);
    ck_assert_int_eq(ctx.timers, 1);
    ck_assert_int_eq(ctx.reports, 1);
    loop->wake(loop->self);
    process();
    ck_assert_int_eq(readable(0), 0);
}
END_TEST

/* The wake-up is the parent's: a child that goes on with its loop must not read it away. */
START_TEST(test_process_in_a_child_takes_nothing)
{
    loop->wake(loop->self);
    ctx.check = AFLOCK_EFORKED;
    aflock_kit_process(kit, &ctx);
    ck_assert_int_eq(ctx.turns, 0);
    ctx.check = 0;
    ck_assert_int_eq(readable(0), 1);
    process();
    ck_assert_int_eq(ctx.turns, 1);
    ck_assert_int_eq(readable(0), 0);
}
END_TEST

/* ---------------------------------------------------------------------------------------------------------- suite */

static Suite *make_suite(void)
{
    Suite *suite = suite_create("kit");
    TCase *making = tcase_create("making");
    tcase_add_test(making, test_bad_options);
    tcase_add_test(making, test_host_is_filled_in);
    tcase_add_test(making, test_descriptors_close_on_exec_and_never_block);
    tcase_add_test(making, test_closed_is_called_before_closing);
    tcase_add_test(making, test_free_without_context);
    tcase_add_test(making, test_too_many_open_files);
    suite_add_tcase(suite, making);

    TCase *timer = tcase_create("timer");
    tcase_add_checked_fixture(timer, setup, teardown);
    tcase_set_timeout(timer, 60);
    tcase_add_test(timer, test_timer_is_never_early);
    tcase_add_test(timer, test_past_deadline_fires);
    tcase_add_test(timer, test_deadlines_set_in_a_turn);
    tcase_add_test(timer, test_wait);
    tcase_add_test(timer, test_earlier_deadline_replaces);
    tcase_add_test(timer, test_later_deadline_replaces);
    tcase_add_test(timer, test_disarmed_timer_wakes_once_at_most);
    tcase_add_test(timer, test_alarm_after_a_suspension);
    tcase_add_test(timer, test_spurious_process);
    suite_add_tcase(suite, timer);

    TCase *wake = tcase_create("wake");
    tcase_add_checked_fixture(wake, setup, teardown);
    tcase_set_timeout(wake, 60);
    tcase_add_test(wake, test_wake_from_threads);
    tcase_add_test(wake, test_wake_from_signal_handler);
    tcase_add_test(wake, test_defer_makes_readable);
    tcase_add_test(wake, test_defer_in_a_turn);
    tcase_add_test(wake, test_adapter_functions);
    suite_add_tcase(suite, wake);

    TCase *watches = tcase_create("watches");
    tcase_add_checked_fixture(watches, setup, teardown);
    tcase_set_timeout(watches, 60);
    tcase_add_test(watches, test_watch_reports_level);
    tcase_add_test(watches, test_watch_changes_events);
    tcase_add_test(watches, test_hang_up_is_for_every_direction);
    tcase_add_test(watches, test_unwatch_inside_a_report);
    tcase_add_test(watches, test_unwatch_itself);
    tcase_add_test(watches, test_two_watches_on_one_descriptor);
    tcase_add_test(watches, test_unwatch_of_one_direction);
    tcase_add_test(watches, test_unwatch_of_a_mate_inside_a_report);
    tcase_add_test(watches, test_unwatch_of_both_inside_a_report);
    tcase_add_test(watches, test_many_ready_at_once);
    tcase_add_test(watches, test_bad_watches);
    tcase_add_test(watches, test_close_with_watches);
    suite_add_tcase(suite, watches);

    TCase *forking = tcase_create("fork");
    tcase_add_checked_fixture(forking, setup, teardown);
    tcase_set_timeout(forking, 60);
    tcase_add_test(forking, test_close_in_a_child_disturbs_nobody);
    tcase_add_test(forking, test_process_in_a_child_takes_nothing);
    suite_add_tcase(suite, forking);
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
