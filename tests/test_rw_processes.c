/* AFLOCK_RW among processes that all use the library: who is in together with whom, and that a writer gets in among
 * readers without end. Every second process waits in the kernel. Nothing is measured: what counts is the order.
 */
#include "support/rw_scene.h"

#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { PROCESSES = 8, HOLDS = 40, READERS = 4, ROUNDS = 5, RATIO = 99 };

typedef struct interval {
    uint64_t begin, end;
    bool shared;
} interval;

/* What the processes tell each other. */
typedef struct board {
    atomic_int inside; /* readers that wait for each other with the lock */
    atomic_int turn;   /* whose turn it is to leave and ask again */
    atomic_bool over;
    atomic_uint grants[PROCESSES], asked[PROCESSES];
    interval log[PROCESSES][HOLDS];
} board;
static board *all;

static pid_t children[PROCESSES];

static uint64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * AFLOCK_SECOND + (uint64_t)t.tv_nsec;
}

static void nap(uint64_t ns)
{
    const struct timespec t = {.tv_nsec = (long)ns};
    nanosleep(&t, NULL);
}

static void make_board(void)
{
    scene_write("db", "");
    all = mmap(NULL, sizeof *all, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    ck_assert_ptr_ne(all, MAP_FAILED);
    atomic_store(&all->turn, -1);
}

static aflock *open_in(int number, int io)
{
    aflock_options o = rw_options(io);
    o.wait = number % 2 ? AFLOCK_WAIT_PARK : AFLOCK_WAIT_AUTO;
    return rw_open_with(&o);
}

static void start(int count, int io, void (*body)(int number, aflock *lock))
{
    for (int i = 0; i < count; i++) {
        children[i] = fork();
        ck_assert_int_ge(children[i], 0);
        if (children[i] > 0)
            continue;
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        scene = NULL; /* the parent's */
        scene_make_context();
        body(i, open_in(i, io));
        scene_free_context();
        _exit(0);
    }
}

static void join(int count)
{
    int status;
    for (int i = 0; i < count; i++) {
        ck_assert_int_eq(waitpid(children[i], &status, 0), children[i]);
        ck_assert_int_eq(status, 0);
    }
    ck_assert(all_is_free("db"));
}

static unsigned grants_of_all(void)
{
    unsigned sum = 0;
    for (int i = 0; i < PROCESSES; i++)
        sum += atomic_load(&all->grants[i]);
    return sum;
}

/* ------------------------------------------------------------------------------------------ who is in with whom */

/* First everybody reads at one time; then readers and writers come as they like. */
static void come_and_go(int number, aflock *lock)
{
    aflock_req req = rw_hold(lock, AFLOCK_SHARED);
    atomic_fetch_add(&all->inside, 1);
    while (atomic_load(&all->inside) < PROCESSES)
        nap(100 * AFLOCK_MICROSECOND);
    rw_let_go(lock, req);
    for (int i = 0; i < HOLDS; i++) {
        interval *log = &all->log[number][i];
        log->shared = (number + i) % 4 != 0;
        req = rw_hold(lock, log->shared ? AFLOCK_SHARED : AFLOCK_EXCLUSIVE);
        log->begin = now();
        nap((uint64_t)(number * 37 + i * 53) % 300 * AFLOCK_MICROSECOND);
        log->end = now();
        rw_let_go(lock, req);
    }
}

static void must_be_apart(const interval *a, const interval *b)
{
    ck_assert((a->shared && b->shared) || a->end <= b->begin || b->end <= a->begin);
}

START_TEST(readers_share_and_writers_are_alone)
{
    const interval *flat;
    make_board();
    start(PROCESSES, _i, come_and_go);
    join(PROCESSES);
    flat = &all->log[0][0];
    for (int i = 0; i < PROCESSES * HOLDS; i++)
        for (int j = 0; j < i; j++)
            must_be_apart(&flat[i], &flat[j]);
}
END_TEST

/* --------------------------------------------------------------------------------------------- behind readers */

static int granted;

static void on_second(aflock *lock, const aflock_result *result, void *user)
{
    (void)lock;
    ck_assert_int_eq(result->status, 0);
    *(aflock_req *)user = result->req;
    granted++;
}

/* Reads until it is its turn, and asks again at once. */
static void read_twice(int number, aflock *lock)
{
    aflock_acquire_options o = rw_request(AFLOCK_SHARED);
    aflock_req first = rw_hold(lock, AFLOCK_SHARED), second;
    atomic_store(&all->grants[number], 1);
    while (atomic_load(&all->turn) != number)
        nap(100 * AFLOCK_MICROSECOND);
    rw_let_go(lock, first);
    ck_assert_int_eq(aflock_acquire(lock, &o, on_second, &second, NULL), 0);
    atomic_store(&all->asked[number], 1);
    scene_run_until(&granted, 1);
    atomic_store(&all->grants[number], 2);
    rw_let_go(lock, second);
}

/* It comes after those who were there, and before those who have come since: the same ones again. */
START_TEST(a_writer_behind_readers)
{
    answer a = {0};
    make_board();
    start(READERS, _i, read_twice);
    while (grants_of_all() < READERS)
        nap(100 * AFLOCK_MICROSECOND);
    aflock *lock = open_in(0, _i);
    rw_wait(lock, AFLOCK_EXCLUSIVE, &a, 2);
    for (int i = 0; i < READERS; i++) {
        ck_assert_int_eq(a.count, 0);
        atomic_store(&all->turn, i);
        while (!atomic_load(&all->asked[i]))
            nap(100 * AFLOCK_MICROSECOND);
    }
    scene_run_until(&a.count, 1);
    ck_assert_int_eq(a.result.status, 0);
    ck_assert_uint_eq(grants_of_all(), READERS);
    rw_let_go(lock, a.result.req);
    join(READERS);
    ck_assert_uint_eq(grants_of_all(), 2 * READERS);
}
END_TEST

/* --------------------------------------------------------------------------------------------- readers without end */

static void read_on_and_on(int number, aflock *lock)
{
    while (!atomic_load(&all->over)) {
        aflock_req req = rw_hold(lock, AFLOCK_SHARED);
        atomic_fetch_add(&all->grants[number], 1);
        nap((uint64_t)(300 + number * 50) * AFLOCK_MICROSECOND);
        rw_let_go(lock, req);
    }
}

static bool has_claimed(void)
{
    return !bytes_are_free("db", F_RDLCK, PENDING_BYTE, 1);
}

/* From the claim on each reader comes in once more at most: if it was past the doorway, and had not said so yet. */
static void write_among_them(aflock *lock)
{
    answer a = {0};
    unsigned before[PROCESSES];
    aflock_acquire_options o = rw_request(AFLOCK_EXCLUSIVE);
    ck_assert_int_eq(aflock_acquire(lock, &o, scene_answer, &a, NULL), 0);
    scene_expect(1);
    while (!has_claimed())
        ck_assert_int_eq(aflock_epoll_run_once(scene, AFLOCK_MILLISECOND), 0);
    for (int i = 0; i < PROCESSES; i++)
        before[i] = atomic_load(&all->grants[i]);
    scene_run_until(&a.count, 1);
    ck_assert_int_eq(a.result.status, 0);
    for (int i = 0; i < PROCESSES; i++)
        ck_assert_uint_le(atomic_load(&all->grants[i]) - before[i], 1);
    rw_let_go(lock, a.result.req);
}

START_TEST(a_writer_among_readers_without_end)
{
    make_board();
    start(PROCESSES, _i, read_on_and_on);
    aflock *lock = open_in(0, _i);
    for (unsigned round = 1; round <= ROUNDS; round++) {
        while (grants_of_all() < RATIO * round)
            nap(AFLOCK_MILLISECOND);
        write_among_them(lock);
    }
    atomic_store(&all->over, true);
    join(PROCESSES);
}
END_TEST

int main(void)
{
    const TTest *const each[] = {readers_share_and_writers_are_alone, a_writer_behind_readers,
                                 a_writer_among_readers_without_end, NULL};
    return scene_main("rw, processes", NULL, each);
}
