/* From holder to waiter: inside a process, where it must cost no system call, and between processes. */
#include "bench.h"

#include <aflock/epoll.h>

#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* --------------------------------------------------------------------------------------------------- in one process */

enum { QUEUE = 1000, RUN = 16 };

typedef struct relay {
    aflock_ctx *ctx;
    aflock *lock;
    size_t count, seen;
    bool trapped;
    uint64_t first, last;
} relay;

static void on_turn(aflock *lock, const aflock_result *result, void *user)
{
    relay *r = user;
    bench_check(result->status, "acquire");
    if (r->seen++ == 0) {
        r->first = bench_cpu();
        if (r->trapped)
            bench_trap_begin();
    }
    if (r->seen == r->count) {
        if (r->trapped)
            bench_trap_end();
        r->last = bench_cpu();
    }
    bench_check(aflock_release(lock, result->req, NULL, NULL), "aflock_release");
}

static void relay_open(relay *r, bool endless)
{
    aflock_epoll_options e;
    aflock_ctx_options o;
    aflock_epoll_options_init(&e);
    aflock_ctx_options_init(&o);
    if (endless) { /* a run of hand-offs does not end: only hand-offs are measured */
        o.handoff_grants = UINT32_MAX;
        o.handoff_time = AFLOCK_FOREVER;
    }
    e.ctx = &o;
    *r = (relay){0};
    bench_check(aflock_epoll_new(&r->ctx, &e), "aflock_epoll_new");
    bench_check(aflock_open(&r->lock, r->ctx, bench_file(0), NULL), "aflock_open");
}

static void relay_run(relay *r, size_t count)
{
    r->count = count;
    r->seen = 0;
    for (size_t i = 0; i < count; i++)
        bench_check(aflock_acquire(r->lock, NULL, on_turn, r, NULL), "aflock_acquire");
    bench_check(aflock_epoll_run(r->ctx), "aflock_epoll_run");
}

static void relay_close(relay *r)
{
    bench_check(aflock_close(r->lock), "aflock_close");
    bench_check(aflock_ctx_free(r->ctx, AFLOCK_SECOND), "aflock_ctx_free");
}

static double relay_slice(void *state)
{
    relay *r = state;
    relay_run(r, QUEUE);
    return (double)(r->last - r->first) / (QUEUE - 1);
}

static void counted_run(void *state)
{
    relay r;
    (void)state;
    relay_open(&r, false);
    relay_run(&r, 1); /* the path is resolved */
    r.trapped = true;
    relay_run(&r, RUN);
    relay_close(&r);
}

void row_handoff(void)
{
    static const char ROW[] = "handoff";
    relay r;
    bench_pin();
    relay_open(&r, true);
    bench_measure(
        &(bench_line){.row = ROW, .what = "hand-off inside a process", .unit = "ns", .bar = 1000, .judged = true},
        relay_slice, &r);
    relay_close(&r);
    bench_unpin();
    long calls = bench_count_calls(counted_run, NULL);
    if (calls < 0)
        bench_skip(ROW, "system calls cannot be counted here (ptrace)");
    else
        bench_add(&(bench_line){.row = ROW,
                                .what = "system calls: a run of 16 grants",
                                .unit = "calls",
                                .ours = (double)calls,
                                .judged = true});
}

/* ------------------------------------------------------------------------------------------------ between processes */

enum { HANDOFFS = 10, SAMPLES = 1024 };

/* Shared with the holder, a child process. */
typedef struct exchange {
    atomic_int wanted; /* the parent asks for the lock to be taken, and then waits for it */
    atomic_int taken;
    atomic_ullong released; /* when the holder began to unlock */
} exchange;

/* All that one side measured. */
typedef struct samples {
    double value[SAMPLES];
    size_t count;
} samples;

enum { OURS, BLOCKED, RAW, KEPT, PARKED, SOFT, LEASE, STRICT, INLINE, WRITER, READER, SETS };
static samples sets[SETS];

static void keep(samples *all, double value)
{
    if (all->count < SAMPLES)
        all->value[all->count++] = value;
}

typedef struct pair {
    exchange *shared;
    pid_t holder;
    aflock_ctx *ctx;
    aflock *lock;
    bench_raw raw;
    samples *ours; /* where ours are kept */
    aflock_protocol protocol;
    aflock_mode held; /* by the holder */
    double latency;
    char path[256];
} pair;

static void sleep_for(uint64_t ns)
{
    struct timespec ts = {.tv_sec = (time_t)(ns / AFLOCK_SECOND), .tv_nsec = (long)(ns % AFLOCK_SECOND)};
    nanosleep(&ts, NULL);
}

/* Holds between 20 and 70 ms, so that the releases meet every phase of a poll of 50 ms. */
static uint64_t length_of(unsigned round)
{
    return (20 + round * 17 % 50) * AFLOCK_MILLISECOND;
}

static void await_wish(exchange *x)
{
    while (!atomic_load(&x->wanted))
        sleep_for(AFLOCK_MILLISECOND / 5);
    atomic_store(&x->wanted, 0);
}

static void hold_on_demand(const pair *p)
{
    exchange *x = p->shared;
    for (unsigned round = 0;; round++) {
        await_wish(x);
        int fd = open(p->path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
        if (fd < 0 || flock(fd, LOCK_EX) != 0)
            _exit(1);
        atomic_store(&x->taken, 1);
        sleep_for(length_of(round));
        atomic_store(&x->released, bench_wall());
        flock(fd, LOCK_UN);
        close(fd);
    }
}

static void let_it_be_taken(const pair *p)
{
    atomic_store(&p->shared->wanted, 1);
    while (!atomic_load(&p->shared->taken))
        sleep_for(AFLOCK_MILLISECOND / 5);
    atomic_store(&p->shared->taken, 0);
}

static double since_release(const pair *p)
{
    return (double)(bench_wall() - atomic_load(&p->shared->released)) / 1000;
}

static void on_arrival(aflock *lock, const aflock_result *result, void *user)
{
    pair *p = user;
    bench_check(result->status, "acquire");
    p->latency = since_release(p);
    bench_check(aflock_release(lock, result->req, NULL, NULL), "aflock_release");
}

static double waiting_slice(void *state)
{
    pair *p = state;
    double latency[HANDOFFS];
    for (size_t i = 0; i < HANDOFFS; i++) {
        let_it_be_taken(p);
        bench_check(aflock_acquire(p->lock, NULL, on_arrival, p, NULL), "aflock_acquire");
        bench_check(aflock_epoll_run(p->ctx), "aflock_epoll_run");
        latency[i] = p->latency;
        keep(p->ours, latency[i]);
    }
    return bench_median(latency, HANDOFFS);
}

static double blocked_slice(void *state)
{
    const pair *p = state;
    double latency[HANDOFFS];
    for (size_t i = 0; i < HANDOFFS; i++) {
        let_it_be_taken(p);
        int fd = open(p->path, O_RDWR | O_CLOEXEC);
        bench_check_errno(fd >= 0 && flock(fd, LOCK_EX) == 0, "flock");
        latency[i] = since_release(p);
        keep(&sets[BLOCKED], latency[i]);
        close(fd);
    }
    return bench_median(latency, HANDOFFS);
}

static double listening_slice(void *state)
{
    pair *p = state;
    double latency[HANDOFFS];
    for (size_t i = 0; i < HANDOFFS; i++) {
        let_it_be_taken(p);
        int fd = bench_raw_lock(&p->raw, p->path);
        latency[i] = since_release(p);
        bench_raw_unlock(&p->raw, fd);
        keep(&sets[RAW], latency[i]);
    }
    return bench_median(latency, HANDOFFS);
}

/* 0 is what is usual. */
typedef struct pairing {
    void (*hold)(const pair *p);
    aflock_protocol protocol;
    aflock_mode held;
    aflock_wait wait;
    aflock_io io;
    samples *ours;
} pairing;

static void pair_begin(pair *p, const pairing *how)
{
    aflock_options o;
    *p = (pair){.holder = -1, .ours = how->ours, .protocol = how->protocol, .held = how->held};
    snprintf(p->path, sizeof p->path, "%s", bench_file(0));
    p->shared = mmap(NULL, sizeof *p->shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    bench_check_errno(p->shared != MAP_FAILED, "mmap");
    p->holder = fork();
    bench_check_errno(p->holder >= 0, "fork");
    if (p->holder == 0)
        how->hold(p);
    aflock_options_init(&o);
    o.wait = how->wait;
    o.io = how->io;
    o.protocol = how->protocol;
    bench_check(aflock_epoll_new(&p->ctx, NULL), "aflock_epoll_new");
    bench_check(aflock_open(&p->lock, p->ctx, p->path, &o), "aflock_open");
    bench_raw_open(&p->raw);
}

static void pair_end(const pair *p)
{
    bench_raw_close(&p->raw);
    bench_check(aflock_close(p->lock), "aflock_close");
    bench_check(aflock_ctx_free(p->ctx, AFLOCK_SECOND), "aflock_ctx_free");
    kill(p->holder, SIGKILL);
    waitpid(p->holder, NULL, 0);
    munmap(p->shared, sizeof *p->shared);
}

static void pair_compare(pair *p, const char *row, const char *what, double bar, bench_slice theirs, const char *why)
{
    bench_settings usual = bench;
    bench = (bench_settings){.blocks = bench.quick ? 2 : 5, .slices = 1, .quick = bench.quick};
    bench_compare(
        &(bench_line){.row = row,
                      .what = what,
                      .against = theirs == blocked_slice ? "a process blocked in flock" : "a raw inotify waiter",
                      .unit = "us",
                      .bar = bar,
                      .judged = bar > 0,
                      .why = why},
        waiting_slice, theirs, p);
    bench = usual;
}

static void draw(const char *row, size_t set, const char *what)
{
    bench_curve(row, what, "us", sets[set].value, sets[set].count);
}

/* Traced with strace -r and stamps in both processes. */
static const char HEARD[] = "A blocked thread is woken by the unlock, inside the lock's own code. A loop hears of the "
                            "close that comes after the "
                            "unlock, through inotify and epoll: whoever waits that way without this library takes as "
                            "long, see the next row. Of "
                            "the time some 60 us are the kernel's wake-up, 7 reading the report, and some 20 the "
                            "attempt, the comparison of the "
                            "path, and the callback.";
/* Traced with the kernel's scheduler events. */
static const char PARKED_TWICE[] =
    "The parked thread is woken as fast as the blocked process, mostly on the holder's own processor, and has the lock "
    "and says so some 40 us after the unlock. Then the loop's thread, on whose stack callbacks run, has to be woken, "
    "and "
    "that is on the other processor, which is idle: to wake an idle virtual processor took 70 to 200 us of the rest on "
    "the machine measured. To wake the loop by the close of the file at the same time gained nothing.";

void row_processes(void)
{
    static const char ROW[] = "processes", WHAT[] = "hand-off between processes, p50";
    pair p;
    pair_begin(&p, &(pairing){hold_on_demand, .ours = &sets[OURS]});
    pair_compare(&p, ROW, WHAT, 1, blocked_slice, HEARD);
    pair_compare(&p, ROW, WHAT, 0, listening_slice, NULL);
    pair_end(&p);
    draw(ROW, OURS, "aflock");
    draw(ROW, BLOCKED, "blocked in flock");
    draw(ROW, RAW, "raw inotify waiter");
}

/* -------------------------------------------------------------------------------------- a thread blocked in flock */

void row_park(void)
{
    pair p;
    pair_begin(&p, &(pairing){hold_on_demand, .wait = AFLOCK_WAIT_PARK, .ours = &sets[PARKED]});
    pair_compare(&p, "park", "hand-off between processes, parked, p50", 1, blocked_slice, PARKED_TWICE);
    pair_end(&p);
    draw("processes", PARKED, "aflock, parked");
}

/* ------------------------------------------------------------------------------------- a holder that keeps it open */

typedef struct keeper {
    const pair *p;
    aflock_ctx *ctx;
    unsigned round;
} keeper;

static void on_kept(aflock *lock, const aflock_result *result, void *user)
{
    keeper *k = user;
    if (result->status != 0)
        _exit(1);
    atomic_store(&k->p->shared->taken, 1);
    sleep_for(length_of(k->round));
    atomic_store(&k->p->shared->released, bench_wall());
    if (aflock_release(lock, result->req, NULL, NULL) != 0)
        _exit(1);
}

/* The same as hold_on_demand, with the library; files stay open. */
static void keep_on_demand(const pair *p)
{
    keeper k = {.p = p};
    aflock *lock;
    aflock_options o;
    aflock_options_init(&o);
    o.keep_open = p->protocol == AFLOCK_NATIVE;
    o.protocol = p->protocol;
    o.io = AFLOCK_IO_INLINE;
    aflock_acquire_options request;
    aflock_acquire_options_init(&request);
    request.mode = p->held;
    if (aflock_epoll_new(&k.ctx, NULL) != 0 || aflock_open(&lock, k.ctx, p->path, &o) != 0)
        _exit(1);
    for (;; k.round++) {
        await_wish(p->shared);
        if (aflock_acquire(lock, &request, on_kept, &k, NULL) != 0 || aflock_epoll_run(k.ctx) != 0)
            _exit(1);
    }
}

void row_kept_handoff(void)
{
    static const char ROW[] = "kept-handoff", WHAT[] = "hand-off behind a holder that keeps the file open, p50";
    pair p;
    sets[RAW].count = 0;
    pair_begin(&p, &(pairing){keep_on_demand, .ours = &sets[KEPT]});
    pair_compare(&p, ROW, WHAT, 0, blocked_slice, NULL);
    pair_compare(&p, ROW, WHAT, 0, listening_slice, NULL);
    pair_end(&p);
    draw("processes", KEPT, "aflock, behind a holder that keeps it open");
}

/* --------------------------------------------------------------------------------- from the call that releases on */

/* Traced with the kernel's scheduler events. */
static const char ON_THE_POOL[] =
    "Three threads are woken one after the other: the loop's by inotify, a worker's, as giving a marker its name may "
    "wait for the disk, and the loop's again, on which callbacks run. Traced: 20 us are the holder's unlink until it "
    "wakes anybody, 20 to 30 the first wake-up, 30 the loop's thread (the report, the hand-over), 7 the second "
    "wake-up, "
    "20 to 60 the third one; an idle virtual processor takes 70 to 200 to wake up. With everything on the loop's "
    "thread two of the wake-ups are saved, which is the next line; the raw side has the one that is left, and makes "
    "its file after it, which on ext4 takes 60 to 400. A strict lock makes two files then";

/* Waits for the path to become free, and makes a file there. */
static int create_when_free(int queue, const char *path)
{
    char report[4096];
    for (;;) {
        int fd = open(path, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0666);
        if (fd >= 0)
            return fd;
        int watch = inotify_add_watch(queue, path, IN_ATTRIB | IN_MOVE_SELF | IN_DELETE_SELF);
        if (watch < 0)
            continue; /* it has just gone */
        if (access(path, F_OK) == 0)
            bench_check_errno(read(queue, report, sizeof report) > 0, "inotify");
        inotify_rm_watch(queue, watch);
    }
}

static double creating_slice(void *state)
{
    const pair *p = state;
    double latency[HANDOFFS];
    int queue = inotify_init1(IN_CLOEXEC);
    bench_check_errno(queue >= 0, "inotify");
    for (size_t i = 0; i < HANDOFFS; i++) {
        let_it_be_taken(p);
        int fd = create_when_free(queue, p->path);
        bench_check_errno(dprintf(fd, "%ld\nhost\n", (long)getpid()) > 0, "write");
        latency[i] = since_release(p);
        unlink(p->path);
        close(fd);
    }
    close(queue);
    return bench_median(latency, HANDOFFS);
}

typedef struct marker_kind {
    aflock_protocol protocol;
    size_t set;
    const char *what, *inline_what, *curve;
} marker_kind;

/* From the call that releases: taking a marker away is part of it. */
static void hand_off_markers(const marker_kind *k, aflock_io io)
{
    const bench_settings usual = bench;
    const bool raw = k->protocol == AFLOCK_SOFT;
    const bool on_the_pool = io == AFLOCK_IO_AUTO;
    bench_line line = {.row = "marker-handoff",
                       .what = on_the_pool ? k->what : k->inline_what,
                       .against = raw ? "inotify, and a file created (inline)" : NULL,
                       .unit = "us",
                       .bar = on_the_pool ? 300 : 0,
                       .judged = on_the_pool,
                       .absolute = raw,
                       .why = on_the_pool ? ON_THE_POOL : NULL};
    pair p;
    unlink(bench_file(0));
    pair_begin(&p, &(pairing){keep_on_demand, .protocol = k->protocol, .io = io,
                              .ours = &sets[on_the_pool ? k->set : INLINE]});
    bench = (bench_settings){.blocks = usual.quick ? 2 : 5, .slices = 1, .quick = usual.quick};
    if (raw)
        bench_compare(&line, waiting_slice, creating_slice, &p);
    else
        bench_measure(&line, waiting_slice, &p);
    bench = usual;
    pair_end(&p);
    unlink(bench_file(0));
    if (on_the_pool)
        draw("markers", k->set, k->curve);
}

void row_marker_handoff(void)
{
    static const marker_kind KINDS[] = {
        {AFLOCK_SOFT, SOFT, "hand-off of a soft lock between processes, p50",
         "hand-off of a soft lock between processes (inline), p50", "aflock, soft"},
        {AFLOCK_LEASE, LEASE, "hand-off of a lease between processes, p50",
         "hand-off of a lease between processes (inline), p50", "aflock, lease"},
        {AFLOCK_STRICT, STRICT, "hand-off of a strict lock between processes, p50",
         "hand-off of a strict lock between processes (inline), p50", "aflock, strict"},
    };
    for (size_t i = 0; i < sizeof KINDS / sizeof KINDS[0]; i++) {
        hand_off_markers(&KINDS[i], AFLOCK_IO_AUTO);
        hand_off_markers(&KINDS[i], AFLOCK_IO_INLINE);
    }
}

typedef struct kind {
    aflock_mode held;
    size_t set;
    const char *what, *curve;
} kind;

/* Traced with strace -r. */
static const char RW_HEARD[] =
    "As behind a native lock: see the row processes, which takes more on a busy machine, too. The holder makes two "
    "calls (fcntl, close), the woken waiter five (epoll_wait, read, fcntl, stat, preadv2), which is one more than for "
    "a native lock: the file has to be a database still. All but some 30 us is the kernel's wake-up.";

static void hand_off_to_writer(const kind *k)
{
    const bench_settings usual = bench;
    pair p;
    unlink(bench_file(0));
    pair_begin(&p, &(pairing){keep_on_demand, .protocol = AFLOCK_RW, .held = k->held, .ours = &sets[k->set]});
    bench = (bench_settings){.blocks = usual.quick ? 2 : 5, .slices = 1, .quick = usual.quick};
    bench_measure(
        &(bench_line){.row = "rw-handoff", .what = k->what, .unit = "us", .bar = 100, .judged = true, .why = RW_HEARD},
        waiting_slice, &p);
    bench = usual;
    pair_end(&p);
    draw("processes", k->set, k->curve);
    unlink(bench_file(0));
}

void row_rw_handoff(void)
{
    static const kind KINDS[] = {
        {AFLOCK_EXCLUSIVE, WRITER, "hand-off from a writer to a writer between processes, p50",
         "aflock, writer to writer"},
        {AFLOCK_SHARED, READER, "hand-off from the last reader to a writer between processes, p50",
         "aflock, last reader to writer"},
    };
    for (size_t i = 0; i < sizeof KINDS / sizeof KINDS[0]; i++)
        hand_off_to_writer(&KINDS[i]);
}
