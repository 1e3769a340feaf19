/* Semaphores and several locks among processes: never more holders than slots, slots that come back from the dead, and
 * lists in opposite orders that never wait for each other in a circle. Nothing is measured: what counts is who was in
 * together with whom. */
#include "support/scene.h"

#include <aflock/semaphore.h>
#include <aflock/several.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { PROCESSES = 8, SLOTS = 3, HOLDS = 60, KILLS = 60, MAX_HOLDS = 1000000, LISTS = 6, LOCKS = 5, ROUNDS = 60 };

/* The hold of a process that was killed ends with its last stamp: its slot is free later than that. */
typedef struct interval {
    _Atomic uint64_t begin, end;
} interval;

typedef struct board {
    atomic_uint next; /* of the log */
    atomic_int has[LOCKS];
    atomic_bool over;
    atomic_uint grants[PROCESSES];
    atomic_uint failures;
    interval log[MAX_HOLDS];
} board;

static board *all;
static pid_t children[PROCESSES];

static uint64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * AFLOCK_SECOND + (uint64_t)t.tv_nsec;
}

static void nap(unsigned microseconds)
{
    const struct timespec t = {.tv_nsec = (long)microseconds * 1000};
    nanosleep(&t, NULL);
}

static void make_board(void)
{
    all = mmap(NULL, sizeof *all, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    ck_assert_ptr_ne(all, MAP_FAILED);
}

static void start(int number, void (*body)(int number))
{
    children[number] = fork();
    ck_assert_int_ge(children[number], 0);
    if (children[number] > 0)
        return;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    scene = NULL; /* the parent's */
    scene_make_context();
    srand((unsigned)getpid());
    body(number);
    scene_free_context();
    _exit(atomic_load(&all->failures) ? 1 : 0);
}

static void join(int count)
{
    int status;
    for (int i = 0; i < count; i++) {
        ck_assert_int_eq(waitpid(children[i], &status, 0), children[i]);
        ck_assert_int_eq(status, 0);
    }
}

/* --------------------------------------------------------------------------------------------------------- semaphore
 */

static aflock_semaphore *semaphore;
static int answers;
static aflock_semaphore_result last;

static void on_slot(aflock_semaphore *s, const aflock_semaphore_result *r, void *user)
{
    (void)s, (void)user;
    last = *r;
    answers++;
}

static void make_semaphore(aflock_io io)
{
    aflock_semaphore_options o;
    aflock_options lock;
    aflock_semaphore_options_init(&o);
    aflock_options_init(&lock);
    lock.io = io;
    o.lock = &lock;
    ck_assert_int_eq(aflock_semaphore_new(&semaphore, scene, ".", "s", SLOTS, &o), 0);
}

static void hold_once(int number, int nth)
{
    int before = answers;
    ck_assert_int_eq(aflock_semaphore_acquire(semaphore, AFLOCK_FOREVER, NULL, on_slot, NULL, NULL), 0);
    while (answers == before) /* on a loaded machine, too; the test has a limit of its own */
        ck_assert_int_eq(aflock_epoll_run_once(scene, AFLOCK_SECOND), 0);
    ck_assert_int_eq(last.status, 0);
    unsigned index = atomic_fetch_add(&all->next, 1);
    ck_assert_uint_lt(index, MAX_HOLDS);
    atomic_store(&all->log[index].end, now());
    atomic_store(&all->log[index].begin, atomic_load(&all->log[index].end));
    for (int i = 0; i < 3; i++) {
        nap((unsigned)(number * 37 + nth * 53) % 100);
        atomic_store(&all->log[index].end, now());
    }
    ck_assert_int_eq(aflock_semaphore_release(semaphore, last.permit, NULL, NULL), 0);
    atomic_fetch_add(&all->grants[number], 1);
}

static void come_and_go(int number)
{
    make_semaphore((aflock_io)(number % SCENE_IO_COUNT));
    for (int i = 0; i < HOLDS; i++)
        hold_once(number, i);
    aflock_semaphore_free(semaphore);
}

static void come_until_it_is_over(int number)
{
    make_semaphore((aflock_io)(number % SCENE_IO_COUNT));
    for (int i = 0; !atomic_load(&all->over); i++)
        hold_once(number, i);
    aflock_semaphore_free(semaphore);
}

typedef struct change {
    uint64_t time;
    int by;
} change;

/* Who leaves at the same moment has left. */
static int by_time(const void *a, const void *b)
{
    const change *one = a, *two = b;
    return one->time < two->time ? -1 : one->time > two->time ? 1 : one->by - two->by;
}

static int most_at_a_time(void)
{
    unsigned count = atomic_load(&all->next), changes = 0;
    int inside = 0, most = 0;
    change *list = calloc(2 * (size_t)count, sizeof *list);
    ck_assert_ptr_nonnull(list);
    for (unsigned i = 0; i < count; i++) {
        uint64_t begin = atomic_load(&all->log[i].begin), end = atomic_load(&all->log[i].end);
        if (begin == 0 || begin >= end)
            continue; /* killed before it could say so */
        list[changes++] = (change){begin, 1};
        list[changes++] = (change){end, -1};
    }
    qsort(list, changes, sizeof *list, by_time);
    for (unsigned i = 0; i < changes; i++) {
        inside += list[i].by;
        most = inside > most ? inside : most;
    }
    free(list);
    return most;
}

START_TEST(never_more_than_there_are_slots)
{
    make_board();
    for (int i = 0; i < PROCESSES; i++)
        start(i, come_and_go);
    join(PROCESSES);
    ck_assert_uint_eq(atomic_load(&all->next), PROCESSES * HOLDS);
    ck_assert_int_le(most_at_a_time(), SLOTS);
    ck_assert_int_ge(most_at_a_time(), 2); /* and it does let more than one in */
    ck_assert_int_eq(scene_entries("."), SLOTS);
}
END_TEST

/* All slots can be had. */
static void must_have_all_slots(void)
{
    aflock_permit permits[SLOTS];
    make_semaphore(AFLOCK_IO_AUTO);
    for (int i = 0; i < SLOTS; i++) {
        int before = answers;
        ck_assert_int_eq(aflock_semaphore_acquire(semaphore, 0, NULL, on_slot, NULL, &permits[i]), 0);
        scene_run_until(&answers, before + 1);
        ck_assert_int_eq(last.status, 0);
    }
    for (int i = 0; i < SLOTS; i++)
        ck_assert_int_eq(aflock_semaphore_release(semaphore, permits[i], NULL, NULL), 0);
    aflock_semaphore_free(semaphore);
}

START_TEST(slots_come_back_from_the_dead)
{
    int status;
    make_board();
    srand((unsigned)getpid());
    for (int i = 0; i < PROCESSES; i++)
        start(i, come_until_it_is_over);
    for (int i = 0; i < KILLS; i++) {
        int victim = rand() % PROCESSES;
        nap((unsigned)(rand() % 20000));
        ck_assert_int_eq(kill(children[victim], SIGKILL), 0);
        ck_assert_int_eq(waitpid(children[victim], &status, 0), children[victim]);
        ck_assert(WIFSIGNALED(status));
        start(victim, come_until_it_is_over);
    }
    for (int i = 0; i < PROCESSES; i++)
        for (unsigned before = atomic_load(&all->grants[i]); atomic_load(&all->grants[i]) == before;)
            nap(1000); /* each goes on getting one */
    atomic_store(&all->over, true);
    join(PROCESSES);
    ck_assert_int_le(most_at_a_time(), SLOTS);
    must_have_all_slots();
    printf("figure: semaphore: %u holds of %d slots, %d kills, at most %d at a time\n", atomic_load(&all->next), SLOTS,
           KILLS, most_at_a_time());
}
END_TEST

/* ------------------------------------------------------------------------------------------------------------ lists */

static void on_list(aflock_several *list, const aflock_several_result *r, void *user)
{
    (void)list;
    if (r->status != 0)
        atomic_fetch_add(&all->failures, 1);
    ++*(int *)user;
}

/* Each has an order and a spelling of its own, of most of the locks. */
static void take_lists(int number)
{
    aflock_several *list;
    bool in[LOCKS] = {false};
    char path[64];
    ck_assert_int_eq(aflock_several_new(&list, scene), 0);
    for (int i = 0; i < LOCKS; i++) {
        int lock = (number % 2 ? i : LOCKS - 1 - i) * 3 % LOCKS;
        if (lock == number)
            continue;
        in[lock] = true;
        snprintf(path, sizeof path, "%s/%d",
                 (i + number) % 3 == 0   ? "z"
                 : (i + number) % 3 == 1 ? "d"
                                         : "d/../a",
                 lock);
        ck_assert_int_ge(aflock_several_add(list, path, AFLOCK_EXCLUSIVE, NULL), 0);
    }
    for (int i = 0; i < ROUNDS; i++) {
        int answered = 0;
        ck_assert_int_eq(aflock_several_all(list, NULL, on_list, &answered), 0);
        while (answered == 0)
            ck_assert_int_eq(aflock_epoll_run_once(scene, AFLOCK_SECOND), 0);
        for (int lock = 0; lock < LOCKS; lock++)
            if (in[lock] && atomic_fetch_add(&all->has[lock], 1) != 0)
                atomic_fetch_add(&all->failures, 1);
        nap((unsigned)(rand() % 200));
        for (int lock = 0; lock < LOCKS; lock++)
            if (in[lock])
                atomic_fetch_sub(&all->has[lock], 1);
        ck_assert_int_eq(aflock_several_release(list, NULL, NULL), 0);
    }
    aflock_several_free(list);
}

START_TEST(opposite_orders)
{
    make_board();
    ck_assert_int_eq(mkdir("d", 0777), 0);
    ck_assert_int_eq(symlink("d", "a"), 0);
    ck_assert_int_eq(symlink("d", "z"), 0);
    for (int i = 0; i < LISTS; i++)
        start(i, take_lists);
    join(LISTS);
    ck_assert_uint_eq(atomic_load(&all->failures), 0);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {never_more_than_there_are_slots, slots_come_back_from_the_dead, opposite_orders,
                                  NULL};
    return scene_main_within(60, "recipes: crowds", tests, NULL);
}
