/* Soft readers and writers, and processes: who is killed at any call, many that contend and are killed, writers among
 * many readers, and forks. On real clocks: a slow machine makes things come later, and no test fails by that. */
#include "runtime/runtime.h"
#include "support/soft_rw_scene.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
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

#define READ AFLOCK_SHARED
#define WRITE AFLOCK_EXCLUSIVE
enum { PATIENCE_S = 40 };

static void *share(size_t size)
{
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    ck_assert_ptr_ne(memory, MAP_FAILED);
    return memory;
}

static aflock *open_short(int io, uint64_t stale_after)
{
    aflock_options o = soft_rw_options(io);
    o.stale_after = stale_after;
    o.poll_interval = 20 * AFLOCK_MILLISECOND;
    return open_with(&o);
}

/* -------------------------------------------------------------------------------------------------- killed at any call
 */

static int countdown;

static int kill_at(seam_call call, int fd, const char *path)
{
    (void)call, (void)fd, (void)path;
    if (countdown-- == 0)
        kill(getpid(), SIGKILL);
    return 0;
}

/* Acquires, and holds or gives up; then releases. */
static void live_for(int calls, aflock_mode mode, bool waits)
{
    scene = NULL;
    scene_make_context();
    aflock *lock = open_short(AFLOCK_IO_INLINE, 300 * AFLOCK_MILLISECOND);
    countdown = calls;
    seam_judge_by(kill_at, NULL);
    answer a = soft_rw_try(lock, mode, waits ? 10 * AFLOCK_MILLISECOND : 5 * AFLOCK_SECOND);
    if (a.result.status == 0)
        scene_release(lock, a.result.req);
    soft_rw_rest();
    seam_judge_by(NULL, NULL);
    _exit(0);
}

/* False: it came to its end. */
static bool die(int calls, aflock_mode mode, bool waits)
{
    int status;
    const pid_t pid = fork();
    ck_assert_int_ge(pid, 0);
    if (pid == 0)
        live_for(calls, mode, waits);
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ck_assert(WIFSIGNALED(status) || WEXITSTATUS(status) == 0);
    return WIFSIGNALED(status);
}

/* What was put aside counts for nobody, and is left by who is killed then. */
static void sweep(const char *folder)
{
    DIR *d = opendir(folder);
    ck_assert_ptr_nonnull(d);
    for (const struct dirent *e; (e = readdir(d)) != NULL;)
        if (strstr(e->d_name, ".break."))
            ck_assert_int_eq(unlinkat(dirfd(d), e->d_name, 0), 0);
    closedir(d);
}

typedef struct death {
    aflock_mode mode;
    bool stale, waits; /* there is a stale writer; a reader who stays */
} death;

static const death DEATHS[] = {
    {READ, false, false}, {READ, true, false}, {WRITE, false, false}, {WRITE, true, false}, {WRITE, false, true}};

/* Whatever is left, the next one gets in, by the rules: what says whose it is at once, the rest when it is old. */
static int kill_at_each_call(aflock *lock, const death *way)
{
    int n = 0;
    for (bool more = true; more; n++) {
        if (way->stale) {
            write_writer(1, ELSEWHERE);
            make_older(WRITER, 10);
        }
        if (way->waits)
            make_older(write_reader("f0.1", getpid(), ELSEWHERE), -3600);
        more = die(n, way->mode, way->waits);
        if (way->waits)
            ck_assert_int_eq(unlink(READERS "/f0.1"), 0);
        answer a = soft_rw_try(lock, WRITE, 20 * AFLOCK_SECOND);
        ck_assert_msg(a.result.status == 0, "killed at call %d: %s at %s", n, aflock_error_name(a.result.status),
                      a.step);
        must_release(lock, a.result.req);
        sweep(".");
        sweep(READERS);
        ck_assert_int_eq(scene_entries("."), 1);
        ck_assert_int_eq(scene_entries(READERS), 0);
    }
    return n;
}

START_TEST(killed_at_any_call)
{
    stop_clocks(AFLOCK_SECOND, 0); /* we do not lose ours, however slow it is */
    aflock *lock = open_short(AFLOCK_IO_INLINE, 300 * AFLOCK_MILLISECOND);
    for (size_t i = 0; i < sizeof DEATHS / sizeof DEATHS[0]; i++)
        ck_assert_int_gt(kill_at_each_call(lock, &DEATHS[i]), 20);
}
END_TEST

/* ---------------------------------------------------------------------------------------------------------- the storm
 */

enum { RIVALS = 8, KILLS = 60, TURNS = 15 };

typedef struct rival {
    atomic_int holds; /* 0, or the pid of a reader, or that of a writer, negative */
    atomic_int reads, writes;
} rival;

static struct {
    rival rivals[RIVALS];
    atomic_int stop, overlaps;
} * all;

static bool is_alive(int pid)
{
    return kill(pid, 0) == 0 || errno != ESRCH;
}

/* Others who hold, and who live: a dead one's marker goes when it has been waited for. */
static void look_around(int self, aflock_mode mode)
{
    for (int i = 0; i < RIVALS; i++) {
        const int holds = i == self ? 0 : atomic_load(&all->rivals[i].holds);
        if (holds == 0 || (mode == READ && holds > 0) || !is_alive(abs(holds)))
            continue;
        if (atomic_load(&all->rivals[i].holds) == holds)
            atomic_fetch_add(&all->overlaps, 1);
    }
}

static void take_turn(aflock *lock, int self, aflock_mode mode)
{
    answer a = {0};
    aflock_acquire_options o = scene_options(0, 0);
    o.mode = mode;
    scene_expect(1);
    ck_assert_int_eq(aflock_acquire(lock, &o, scene_answer, &a, NULL), 0);
    while (a.count == 0)
        ck_assert_int_eq(aflock_epoll_run_once(scene, AFLOCK_SECOND), 0);
    ck_assert_msg(a.result.status == 0, "%s at %s: %s", aflock_error_name(a.result.status), a.step, a.detail);
    atomic_store(&all->rivals[self].holds, mode == READ ? getpid() : -getpid());
    look_around(self, mode);
    usleep(300);
    look_around(self, mode);
    atomic_store(&all->rivals[self].holds, 0);
    atomic_fetch_add(mode == READ ? &all->rivals[self].reads : &all->rivals[self].writes, 1);
    must_release(lock, a.result.req);
}

/* `writes`: one turn of so many is a writer's; 0: none. */
static pid_t rival_begins(int self, unsigned writes)
{
    static unsigned seed;
    const pid_t pid = fork();
    ck_assert_int_ge(pid, 0);
    seed += 101;
    if (pid > 0)
        return pid;
    scene = NULL;
    scene_make_context();
    scene->sys = &afl_sys_linux;
    aflock_options o = soft_rw_options(self % SCENE_IO_COUNT);
    o.wait = self % 2 ? AFLOCK_WAIT_NOTIFY : AFLOCK_WAIT_POLL;
    o.poll_interval = 5 * AFLOCK_MILLISECOND;
    o.stale_after = 60 * AFLOCK_SECOND; /* nothing goes by age */
    aflock *lock = open_with(&o);
    while (!atomic_load(&all->stop)) {
        take_turn(lock, self, writes && (unsigned)rand_r(&seed) % writes == 0 ? WRITE : READ);
        usleep(200);
    }
    scene_free_context();
    _exit(0);
}

static int turns_of(int self)
{
    return atomic_load(&all->rivals[self].reads) + atomic_load(&all->rivals[self].writes);
}

/* Everybody has had so many turns since. */
static void await_turns(int turns)
{
    int before[RIVALS];
    const time_t end = time(NULL) + PATIENCE_S;
    for (int i = 0; i < RIVALS; i++)
        before[i] = turns_of(i);
    for (int i = 0; i < RIVALS; i++)
        while (turns_of(i) < before[i] + turns) {
            ck_assert_msg(time(NULL) < end, "%d waits for ever", i);
            usleep(1000);
        }
}

static void end(const pid_t pids[RIVALS])
{
    int status, reads = 0, writes = 0;
    atomic_store(&all->stop, 1);
    for (int i = 0; i < RIVALS; i++) {
        ck_assert_int_eq(waitpid(pids[i], &status, 0), pids[i]);
        ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0, "%d ended with %d", i, status);
        reads += atomic_load(&all->rivals[i].reads);
        writes += atomic_load(&all->rivals[i].writes);
    }
    printf("%d reads, %d writes\n", reads, writes);
    ck_assert_int_eq(atomic_load(&all->overlaps), 0);
}

START_TEST(they_contend)
{
    pid_t pids[RIVALS];
    all = share(sizeof *all);
    for (int i = 0; i < RIVALS; i++)
        pids[i] = rival_begins(i, 3);
    await_turns(TURNS);
    end(pids);
    ck_assert_int_eq(scene_entries("."), 1);
    ck_assert_int_eq(count_readers(), 0);
}
END_TEST

/* Who is killed before he has written his marker leaves one that stays for as long as it is fresh: it is made old here.
 * One that is about to be written becomes fresh by that, and none may be written between the look and the ageing. */
static void age_unwritten(int dir, const char *name)
{
    const struct timespec then[2] = {{.tv_sec = 1}, {.tv_sec = 1}};
    struct stat st;
    if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode) && st.st_size == 0)
        (void)utimensat(dir, name, then, AT_SYMLINK_NOFOLLOW);
}

static void stop_or_continue(const pid_t pids[RIVALS], int dead, int number)
{
    for (int i = 0; i < RIVALS; i++)
        ck_assert(i == dead || kill(pids[i], number) == 0);
    for (int i = 0; i < RIVALS && number == SIGSTOP; i++)
        ck_assert(i == dead || waitpid(pids[i], NULL, WUNTRACED) == pids[i]);
}

static void age_all_unwritten(const pid_t pids[RIVALS], int dead)
{
    stop_or_continue(pids, dead, SIGSTOP);
    DIR *d = opendir(READERS);
    ck_assert_ptr_nonnull(d);
    for (const struct dirent *e; (e = readdir(d)) != NULL;)
        age_unwritten(dirfd(d), e->d_name);
    closedir(d);
    age_unwritten(AT_FDCWD, WRITER);
    stop_or_continue(pids, dead, SIGCONT);
}

START_TEST(holders_are_killed)
{
    pid_t pids[RIVALS];
    unsigned seed = 7;
    int held = 0;
    all = share(sizeof *all);
    for (int i = 0; i < RIVALS; i++)
        pids[i] = rival_begins(i, 3);
    await_turns(1);
    for (int i = 0; i < KILLS; i++) {
        int victim = rand_r(&seed) % RIVALS;
        for (int turn = 0; turn < 10000 && i % 4 && atomic_load(&all->rivals[victim].holds) == 0; turn++) {
            victim = rand_r(&seed) % RIVALS;
            usleep(20);
        }
        ck_assert_int_eq(kill(pids[victim], SIGKILL), 0);
        held += atomic_load(&all->rivals[victim].holds) != 0;
        ck_assert_int_eq(waitpid(pids[victim], NULL, 0), pids[victim]);
        age_all_unwritten(pids, victim);
        pids[victim] = rival_begins(victim, 3);
        if (i % 10 == 9)
            await_turns(1);
    }
    end(pids);
    printf("%d kills, %d of them of holders\n", KILLS, held);
    aflock *lock = soft_rw_open(AFLOCK_IO_INLINE);
    must_release(lock, soft_rw_hold(lock, WRITE));
}
END_TEST

/* Readers overlap all the time, and the one writer among them gets in all the same. */
START_TEST(a_writer_among_readers)
{
    pid_t pids[RIVALS];
    all = share(sizeof *all);
    for (int i = 0; i < RIVALS; i++)
        pids[i] = rival_begins(i, i == 0 ? 1 : 0);
    await_turns(TURNS);
    end(pids);
    ck_assert_int_ge(atomic_load(&all->rivals[0].writes), TURNS);
}
END_TEST

/* One turn of a hundred is a writer's, whoever's: he gets it among those who read. */
START_TEST(few_writers_among_many_readers)
{
    pid_t pids[RIVALS];
    const time_t over = time(NULL) + PATIENCE_S;
    all = share(sizeof *all);
    for (int i = 0; i < RIVALS; i++)
        pids[i] = rival_begins(i, 100);
    for (int i = 0; i < RIVALS; i++)
        while (atomic_load(&all->rivals[i].writes) == 0) {
            ck_assert_msg(time(NULL) < over, "%d waits for ever", i);
            usleep(1000);
        }
    end(pids);
}
END_TEST

/* The same of readers of one context, whose hold never ends: those who join it look for a writer now and then. */
typedef struct reader {
    aflock *lock;
    int running;
} reader;

static reader the_reader;

static void read_again(aflock *lock, const aflock_result *r, void *user);

static void ask_again(void)
{
    aflock_acquire_options o = scene_options(0, 0);
    o.mode = READ;
    ck_assert_int_eq(aflock_acquire(the_reader.lock, &o, read_again, NULL, NULL), 0);
}

static void over(aflock_ctx *ctx, void *user)
{
    aflock_req *req = user;
    (void)ctx;
    ck_assert_int_eq(aflock_release(the_reader.lock, *req, NULL, NULL), 0);
    free(req);
}

static void read_again(aflock *lock, const aflock_result *r, void *user)
{
    (void)lock, (void)user;
    if (r->status != 0)
        return;
    aflock_req *req = malloc(sizeof *req);
    ck_assert_ptr_nonnull(req);
    *req = r->req;
    ck_assert_int_eq(aflock_epoll_timer(scene, 10 * AFLOCK_MILLISECOND, over, req), 0);
    the_reader.running++;
    ask_again();
}

static void read_for_ever(void)
{
    scene = NULL;
    scene_make_context();
    the_reader.lock = soft_rw_open(AFLOCK_IO_AUTO);
    ask_again();
    for (;;) {
        ck_assert_int_eq(aflock_epoll_run_once(scene, AFLOCK_SECOND), 0);
        usleep(1000);
    }
}

START_TEST(a_writer_beside_readers_who_join)
{
    const pid_t pid = fork();
    ck_assert_int_ge(pid, 0);
    if (pid == 0)
        read_for_ever();
    scene_await(count_readers() > 0);
    aflock *lock = soft_rw_open(AFLOCK_IO_AUTO);
    for (int i = 0; i < 5; i++) {
        answer a = soft_rw_try(lock, WRITE, 20 * AFLOCK_SECOND);
        ck_assert_int_eq(a.result.status, 0);
        must_release(lock, a.result.req);
        usleep(50000);
    }
    scene_holder_end(pid);
}
END_TEST

/* ------------------------------------------------------------------------------------------------------------- a fork
 */

static void leave_it_to_the_parent(void)
{
    ck_assert_int_eq(aflock_ctx_abandon(scene), 0);
    scene = NULL;
}

START_TEST(a_child_abandons)
{
    aflock_options o = soft_rw_options(_i);
    o.heartbeat = 10 * AFLOCK_MILLISECOND;
    o.stale_after = 60 * AFLOCK_SECOND;
    aflock *lock = open_with(&o);
    for (int mode = WRITE; mode <= READ; mode++) {
        told t = {0};
        aflock_req req = soft_rw_hold_for(lock, (aflock_mode)mode, NULL, &t);
        for (int i = 0; i < 3; i++) {
            await_beats(1);
            scene_in_child(leave_it_to_the_parent); /* a heartbeat may be under way */
        }
        await_beats(2);
        ck_assert_int_eq(t.count, 0);
        must_release(lock, req);
    }
}
END_TEST

int main(void)
{
    const TTest *const once[] = {killed_at_any_call,
                                 they_contend,
                                 holders_are_killed,
                                 a_writer_among_readers,
                                 few_writers_among_many_readers,
                                 a_writer_beside_readers_who_join,
                                 NULL};
    const TTest *const each[] = {a_child_abandons, NULL};
    return scene_main_within(3 * PATIENCE_S, "soft rw processes", once, each);
}
