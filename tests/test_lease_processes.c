/* Leases and processes: forks, holders that are stopped for longer than their lease, and a storm of both and of kills.
 * On real clocks: a slow machine makes things come later, or loses a lease, and no test fails by that. */
#include "locks/identity.h"
#include "runtime/runtime.h"
#include "support/lease_scene.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void *share(size_t size)
{
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    ck_assert_ptr_ne(memory, MAP_FAILED);
    return memory;
}

/* ------------------------------------------------------------------------------------------------------------- a fork
 */

static void leave_it_to_the_parent(void)
{
    ck_assert_int_eq(aflock_ctx_abandon(scene), 0);
    scene = NULL;
}

START_TEST(a_child_abandons)
{
    told t = {0};
    stop_clocks(AFLOCK_SECOND, 0);
    aflock *lock = open_beating(_i);
    aflock_req req = must_hold_for(lock, NULL, &t);
    sight before = look(lock);
    for (int i = 0; i < 3; i++) {
        await_beats(1);
        scene_in_child(leave_it_to_the_parent); /* a heartbeat may be under way */
        must_be_ours("lock", before.token, "30");
    }
    await_beats(3);
    ck_assert_int_eq(t.count, 0);
    must_release(lock, req);
}
END_TEST

/* A child that lives on with the descriptors keeps nothing alive. */
START_TEST(a_child_of_a_dead_holder)
{
    int ready[2];
    char byte;
    aflock *lock = open_lease(_i);
    ck_assert_int_eq(pipe2(ready, O_CLOEXEC), 0);
    pid_t holder = fork();
    if (holder == 0) {
        scene = NULL;
        scene_make_context();
        must_hold(open_lease(AFLOCK_IO_INLINE));
        if (fork() > 0)
            ck_assert_int_eq(write(ready[1], "", 1), 1);
        else
            alarm(3);
        for (;;)
            pause();
    }
    ck_assert_int_eq(read(ready[0], &byte, 1), 1);
    scene_holder_end(holder);
    must_get(lock);
    close(ready[0]);
    close(ready[1]);
}
END_TEST

/* ------------------------------------------------------------------------------------------- a holder that is stopped
 */

#define SHORT (300 * AFLOCK_MILLISECOND)

typedef struct diary {
    atomic_int count;
    char order[32]; /* "!": told that it is lost, "t": a time-out, "r": released */
    atomic_int ready, stopped;
    atomic_int at_stop; /* of count */
    char token[40];
} diary;
static diary *his;

static void enter(char what)
{
    int i = atomic_load(&his->count);
    his->order[i] = what;
    atomic_store(&his->count, i + 1);
}

static void he_timed_out(aflock *lock, const aflock_result *r, void *user)
{
    (void)lock, (void)user;
    ck_assert_int_eq(r->status, AFLOCK_ETIMEDOUT);
    enter('t');
}

static void he_released(aflock *lock, const aflock_result *r, void *user)
{
    (void)lock, (void)user;
    ck_assert_int_eq(r->status, 0);
    enter('r');
}

static void he_is_told(aflock *lock, aflock_req req, const aflock_compromise *what, void *user)
{
    (void)user;
    enter('!');
    ck_assert_str_eq(what->token, his->token);
    ck_assert_int_eq(aflock_release(lock, req, he_released, NULL), 0);
}

static aflock_options short_lease(int io)
{
    aflock_options o = lease_options(io);
    o.duration = SHORT;
    return o;
}

/* Waits for something else at the same time, which times out while he is stopped. */
static void hold_until_told(int io)
{
    scene = NULL;
    scene_make_context();
    const aflock_options o = short_lease(io);
    aflock *lock = open_with(&o), *native = scene_open("native", AFLOCK_IO_INLINE);
    aflock_acquire_options p = scene_options(0, 0);
    p.on_compromise = he_is_told;
    answer a;
    do /* a slow machine loses it before it is told */
        a = scene_acquire(lock, &p);
    while (a.result.status == AFLOCK_ECOMPROMISED);
    ck_assert_int_eq(a.result.status, 0);
    snprintf(his->token, sizeof his->token, "%s", a.token);
    scene_hold(native, NULL);
    p = scene_options(0, 0);
    p.timeout = 150 * AFLOCK_MILLISECOND;
    ck_assert_int_eq(aflock_acquire(native, &p, he_timed_out, NULL, NULL), 0);
    atomic_store(&his->ready, 1);
    while (atomic_load(&his->count) < 3)
        ck_assert_int_eq(aflock_epoll_run_once(scene, AFLOCK_SECOND), 0);
    _exit(0);
}

static void await_flag(atomic_int *flag, int value)
{
    scene_await(atomic_load(flag) >= value);
}

static uint64_t realtime(void)
{
    struct timespec now;
    ck_assert_int_eq(clock_gettime(CLOCK_REALTIME, &now), 0);
    return (uint64_t)now.tv_sec * AFLOCK_SECOND + (uint64_t)now.tv_nsec;
}

/* False: the machine was so slow that something had come before he was stopped. */
static bool overtake(int io)
{
    struct stat last, ours, later;
    memset(his, 0, sizeof *his);
    pid_t holder = fork();
    if (holder == 0)
        hold_until_told(io);
    await_flag(&his->ready, 1);
    ck_assert_int_eq(kill(holder, SIGSTOP), 0);
    ck_assert_int_eq(waitpid(holder, NULL, WUNTRACED), holder);
    const bool in_time = atomic_load(&his->count) == 0;
    const bool there = lstat("lock", &last) == 0;
    const aflock_options o = short_lease(io);
    aflock *lock = open_with(&o);
    answer a = try_for(lock, 30 * AFLOCK_SECOND);
    ck_assert(a.result.status == 0);
    if (in_time) {
        ck_assert(there);
        const uint64_t made = (uint64_t)last.st_mtim.tv_sec * AFLOCK_SECOND + (uint64_t)last.st_mtim.tv_nsec;
        ck_assert_uint_ge(realtime(), made + SHORT);
    }
    ck_assert_int_eq(lstat("lock", &ours), 0);
    ck_assert_int_eq(kill(holder, SIGCONT), 0);
    int status;
    ck_assert_int_eq(waitpid(holder, &status, 0), holder);
    ck_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    if (in_time)
        ck_assert_int_eq(his->order[0], '!');
    ck_assert_ptr_ne(strchr(his->order, '!'), NULL);
    ck_assert_int_eq(lstat("lock", &later), 0); /* his release has left ours alone */
    ck_assert(ours.st_ino == later.st_ino);
    must_be_ours("lock", a.token, "0.3");
    must_release(lock, a.result.req);
    ck_assert_int_eq(aflock_close(lock), 0);
    ck_assert_int_eq(unlink("native"), 0);
    return in_time;
}

START_TEST(a_holder_that_is_stopped)
{
    his = share(sizeof *his);
    stop_clocks(AFLOCK_SECOND, 0); /* we do not lose ours; he has his own */
    for (int i = 0; i < 5 && !overtake(_i); i++)
        ;
    ck_assert_int_eq(scene_entries("."), 0);
}
END_TEST

/* ---------------------------------------------------------------------------------------------------------- the storm
 *
 * Whoever is called back without having been told holds the lease at that moment, and for one heartbeat from when he
 * called the loop: then others may take it at the earliest. Each notes these times, shortened by what the clock of
 * files is late: it goes on with the ticks of one processor, and was seen 13 ms behind while a virtual one had to wait;
 * a release ends them, and so does a kill. Afterwards no two of different processes may overlap. */

enum { RIVALS = 4, LIVES = 64, NOTES = 4096, SECONDS = 8 };
#define LEASE (480 * AFLOCK_MILLISECOND)
#define BEAT (120 * AFLOCK_MILLISECOND)
#define CLOCKS (60 * AFLOCK_MILLISECOND)

typedef struct claim {
    uint64_t from, to;
    int life;
} claim;

typedef struct rival {
    claim claims[NOTES];
    atomic_int count, life;
    atomic_int grants, told;
} rival;

typedef struct storm {
    rival rivals[RIVALS];
    atomic_int stop;
    atomic_int latest; /* who got it */
} storm;
static storm *all;
static rival *self;
static uint64_t called; /* the loop, at last */
static aflock *wanted_lock;
static aflock_req held;
static bool holds, asked;
static int first_claim;

static void note_claim(void)
{
    const uint64_t now = afl_sys_linux.boottime(), end = called + BEAT - CLOCKS;
    const int i = atomic_load(&self->count);
    if (now >= end || i == NOTES || (i > first_claim && now < self->claims[i - 1].from + 3 * AFLOCK_MILLISECOND))
        return;
    self->claims[i] = (claim){now, end, atomic_load(&self->life)};
    atomic_store(&self->count, i + 1);
}

static void let_go(void)
{
    const uint64_t now = afl_sys_linux.boottime();
    for (int i = first_claim; i < atomic_load(&self->count); i++)
        if (self->claims[i].to > now)
            self->claims[i].to = now;
    holds = false;
    ck_assert_int_eq(aflock_release(wanted_lock, held, NULL, NULL), 0);
}

static void i_am_told(aflock *lock, aflock_req req, const aflock_compromise *what, void *user)
{
    (void)lock, (void)req, (void)what, (void)user;
    atomic_fetch_add(&self->told, 1);
    holds = false;
    ck_assert_int_eq(aflock_release(wanted_lock, held, NULL, NULL), 0);
}

static void i_have_it(aflock *lock, const aflock_result *r, void *user)
{
    (void)lock, (void)user;
    asked = false;
    if (r->status != 0) {
        ck_assert_int_eq(r->status, AFLOCK_ECOMPROMISED);
        return;
    }
    holds = true;
    held = r->req;
    first_claim = atomic_load(&self->count);
    atomic_fetch_add(&self->grants, 1);
    atomic_store(&all->latest, (int)(self - all->rivals));
    note_claim();
}

static void i_look(aflock *lock, const aflock_holder *holder, void *user)
{
    (void)lock, (void)holder, (void)user;
    if (holds)
        note_claim();
}

static void live(int which, unsigned seed)
{
    self = &all->rivals[which];
    scene = NULL;
    scene_make_context();
    scene->sys = &afl_sys_linux;
    aflock_options o = lease_options(which % SCENE_IO_COUNT);
    o.duration = LEASE;
    o.heartbeat = BEAT;
    o.break_empty = 1; /* who is killed before he has written leaves an empty one */
    wanted_lock = open_with(&o);
    aflock_acquire_options p = scene_options(0, 0);
    p.on_compromise = i_am_told;
    for (int turn = 0; !atomic_load(&all->stop); turn++) {
        if (!holds && !asked) {
            ck_assert_int_eq(aflock_acquire(wanted_lock, &p, i_have_it, NULL, NULL), 0);
            asked = true;
        }
        ck_assert_int_eq(aflock_inspect(wanted_lock, i_look, NULL), 0);
        called = afl_sys_linux.boottime();
        ck_assert_int_eq(aflock_epoll_run_once(scene, 2 * AFLOCK_MILLISECOND), 0);
        if (holds && rand_r(&seed) % 16 == 0)
            let_go();
        usleep(500);
    }
    _exit(0);
}

static pid_t rival_begins(int which)
{
    static unsigned seed;
    atomic_fetch_add(&all->rivals[which].life, 1);
    pid_t pid = fork();
    ck_assert_int_ge(pid, 0);
    seed++;
    if (pid == 0)
        live(which, seed);
    return pid;
}

/* Its claims end now, and it with them. */
static void rival_ends(int which, pid_t pid)
{
    rival *r = &all->rivals[which];
    const uint64_t now = afl_sys_linux.boottime();
    ck_assert_int_eq(kill(pid, SIGKILL), 0);
    ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
    for (int i = 0; i < atomic_load(&r->count); i++)
        if (r->claims[i].life == atomic_load(&r->life) && r->claims[i].to > now)
            r->claims[i].to = now;
}

static int by_time(const void *a, const void *b)
{
    const uint64_t left = ((const claim *)a)->from, right = ((const claim *)b)->from;
    return left < right ? -1 : left > right;
}

static void must_not_overlap(void)
{
    static claim claims[RIVALS * NOTES];
    int n = 0, overlaps = 0;
    for (int which = 0; which < RIVALS; which++) {
        const rival *r = &all->rivals[which];
        for (int i = 0; i < atomic_load(&r->count); i++) {
            claims[n] = r->claims[i];
            claims[n++].life = which;
        }
    }
    qsort(claims, (size_t)n, sizeof claims[0], by_time);
    for (int i = 0; i < n; i++)
        for (int k = i + 1; k < n && claims[k].from < claims[i].to; k++)
            overlaps += claims[k].life != claims[i].life;
    printf("%d moments of holding, ", n);
    ck_assert_int_eq(overlaps, 0);
    ck_assert_int_gt(n, 0);
}

static int sum(size_t offset)
{
    int total = 0;
    for (int which = 0; which < RIVALS; which++)
        total += atomic_load((atomic_int *)(void *)((char *)&all->rivals[which] + offset));
    return total;
}

static void await_grants(void)
{
    int before[RIVALS];
    const time_t end = time(NULL) + 30;
    for (int i = 0; i < RIVALS; i++)
        before[i] = atomic_load(&all->rivals[i].grants);
    for (int i = 0; i < RIVALS; i++)
        while (atomic_load(&all->rivals[i].grants) == before[i]) {
            ck_assert_msg(time(NULL) < end, "%d waits for ever", i);
            usleep(1000);
        }
}

START_TEST(a_storm)
{
    pid_t pids[RIVALS];
    unsigned seed = 1;
    int kills = 0, stops = 0;
    all = share(sizeof *all);
    for (int i = 0; i < RIVALS; i++)
        pids[i] = rival_begins(i);
    await_grants();
    const time_t end = time(NULL) + SECONDS;
    while (time(NULL) < end || (sum(offsetof(rival, told)) == 0 && time(NULL) < end + 10)) {
        const int which = rand_r(&seed) % 3 ? atomic_load(&all->latest) : rand_r(&seed) % RIVALS;
        if (rand_r(&seed) % 4 == 0 && kills < LIVES) {
            rival_ends(which, pids[which]);
            pids[which] = rival_begins(which);
            kills++;
        } else {
            ck_assert_int_eq(kill(pids[which], SIGSTOP), 0);
            usleep((useconds_t)(rand_r(&seed) % 900) * 1000);
            ck_assert_int_eq(kill(pids[which], SIGCONT), 0);
            stops++;
        }
        usleep((useconds_t)(rand_r(&seed) % 20) * 1000);
    }
    await_grants();
    atomic_store(&all->stop, 1);
    for (int i = 0; i < RIVALS; i++) {
        int status;
        ck_assert_int_eq(waitpid(pids[i], &status, 0), pids[i]);
        ck_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
    must_not_overlap();
    printf("%d grants, %d kills, %d stops, %d told\n", sum(offsetof(rival, grants)), kills, stops,
           sum(offsetof(rival, told)));
    ck_assert_int_gt(sum(offsetof(rival, told)), 0);
}
END_TEST

int main(void)
{
    const TTest *const once[] = {a_storm, NULL};
    const TTest *const each[] = {a_child_abandons, a_child_of_a_dead_holder, a_holder_that_is_stopped, NULL};
    return scene_main("lease-processes", once, each);
}
