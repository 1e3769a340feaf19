/* A mount that hangs blocks no other path, no deadline and no teardown. `m` is dead while the tests look, `n` is well.
 *
 * What is counted is whole cycles on other paths while m is dead, all in folders that nobody has seen before; a
 * watchdog notices when they stop. The long form, test_dead_long, does it for 30 s, and with the stall_after that users
 * have. */
#include "stall_scene.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define MS AFLOCK_MILLISECOND

enum {
    FOLDERS = 24,
    CYCLE_PLACES = 3,
    CYCLES = 60, /* at least */
    CYCLE_EVERY_MS = 5,
    STALLED_LIMIT = 8, /* of one device; when that many have stalled, one more may be under way */
    HELD = 6,
    WANTED = 2 * STALLED_LIMIT
};

static const stall_protocol *protocol;

/* Calls of the library that have not returned. What hangs is counted here and not on the mount, because the kernel lets
 * look-ups in one folder wait for each other. */
static atomic_int outstanding;
static int own_descriptors; /* of the context */

static int on_call(seam_call call, int fd, const char *path)
{
    (void)call, (void)fd, (void)path;
    outstanding++;
    return 0;
}

static void on_return(seam_call call, int fd, int result)
{
    (void)call, (void)fd, (void)result;
    outstanding--;
}

static void begin_with(int i)
{
    aflock_ctx_options o;
    aflock_ctx_options_init(&o);
    if (STALL_DEAD_MS < 10000)
        o.stall_after /= 10;
    stall_scene_context(&o);
    seam_judge_by(on_call, on_return);
    own_descriptors = scene_descriptors();
    protocol = &STALL_PROTOCOLS[i];
}

static uint64_t now(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * AFLOCK_SECOND + (uint64_t)ts.tv_nsec;
}

/* ------------------------------------------------------------------------------------------ requests that get nowhere
 */

/* To the folder `number` of the dead mount: directly, by a link to the mount, by a link of its own, and by a detour. */
static aflock *open_dead(int number, aflock_io io)
{
    static const char *const WAYS[] = {"m/d%d/f", "link/e%d/f", "links/%d/f", "m/../links/../m/g%d/f"};
    char path[PATH_MAX + 32], target[PATH_MAX + 32];
    if (number % 4 == 2) {
        snprintf(path, sizeof path, "links/%d", number);
        snprintf(target, sizeof target, "%s/m/l%d", scene_directory, number);
        ck_assert_int_eq(symlink(target, path), 0);
        snprintf(target, sizeof target, "m.files/l%d", number); /* what a link leads to is not made */
        ck_assert_int_eq(mkdir(target, 0777), 0);
    }
    ck_assert_int_ge(snprintf(path, sizeof path, WAYS[number % 4], number), 0);
    return stall_open(protocol, path, io);
}

typedef struct crowd {
    answer ends[4 * FOLDERS];
    int expected[4 * FOLDERS]; /* status; 0: none before the end */
    int count;
    int questions, replies;
} crowd;

static crowd the;

static void on_inspected(aflock *lock, const aflock_holder *holder, void *user)
{
    (void)lock, (void)holder, (void)user;
    the.replies++;
}

/* Three requests and a question for a folder: one ends by its deadline, one by a cancel, one not at all. */
static void crowd_folder(int number, aflock_io io)
{
    static const int EXPECTED[] = {AFLOCK_ETIMEDOUT, AFLOCK_ECANCELED, 0};
    aflock *lock = open_dead(number, io);
    for (int i = 0; i < 3; i++) {
        aflock_req req;
        aflock_acquire_options o = scene_options(0, 0);
        if (EXPECTED[i] == AFLOCK_ETIMEDOUT)
            o.timeout = (uint64_t)(number + 1) * 10 * MS;
        answer *a = &the.ends[the.count];
        the.expected[the.count++] = EXPECTED[i];
        ck_assert_int_eq(aflock_acquire(lock, &o, scene_answer, a, &req), 0);
        if (EXPECTED[i] == AFLOCK_ECANCELED)
            ck_assert_int_eq(aflock_cancel(lock, req), 0);
    }
    ck_assert_int_eq(aflock_inspect(lock, on_inspected, NULL), 0);
    the.questions++;
}

static bool all_due_answered(const void *user)
{
    (void)user;
    for (int i = 0; i < the.count; i++)
        if (the.expected[i] != 0 && the.ends[i].count == 0)
            return false;
    return true;
}

static void check_crowd(int rest)
{
    for (int i = 0; i < the.count; i++) {
        bool due = the.expected[i] != 0 || rest != 0;
        ck_assert_int_eq(the.ends[i].count, due);
        if (due)
            ck_assert_int_eq(the.ends[i].result.status, the.expected[i] ? the.expected[i] : rest);
        if (the.expected[i] == AFLOCK_ETIMEDOUT)
            ck_assert_uint_ge(the.ends[i].result.waited, (uint64_t)(i / 3 + 1) * 10 * MS); /* never early */
    }
}

/* ------------------------------------------------------------------------------------------------ locks of other paths
 */

static bool are_kept(const void *user)
{
    (void)user;
    return scene_descriptors() == own_descriptors + HELD + 2 * WANTED;
}

static bool so_many_stalled(const void *user)
{
    (void)user;
    return outstanding >= STALLED_LIMIT;
}

/* In turn: a local folder, a local folder through a link, a folder of the other mount. */
static void cycle(int number)
{
    static const char *const PLACES[CYCLE_PLACES] = {"local/%d/f", "local/link/%d/f", "n/%d/f"};
    char path[64];
    answer a = {.count = 0}, b = {.count = 0};
    ck_assert_int_ge(snprintf(path, sizeof path, PLACES[number % CYCLE_PLACES], number), 0);
    aflock *lock = stall_open(protocol, path, number / CYCLE_PLACES % 2 ? AFLOCK_IO_POOL : AFLOCK_IO_AUTO);
    ck_assert_int_eq(aflock_acquire(lock, NULL, scene_answer, &a, NULL), 0);
    stall_run_until_answered(&a);
    ck_assert_int_eq(a.result.status, 0);
    ck_assert_int_eq(aflock_release(lock, a.result.req, scene_answer, &b), 0);
    stall_run_until_answered(&b);
    ck_assert_int_eq(b.result.status, 0);
    ck_assert_int_eq(aflock_close(lock), 0);
}

static void make_folders(void)
{
    ck_assert_int_eq(mkdir("local", 0777), 0);
    ck_assert_int_eq(mkdir("local/there", 0777), 0);
    ck_assert_int_eq(symlink("there", "local/link"), 0);
    ck_assert_int_eq(mkdir("links", 0777), 0);
    ck_assert_int_eq(symlink("links/../m", "link"), 0);
}

/* ----------------------------------------------------------------------------------------------------------- the tests
 */

START_TEST(a_dead_mount_blocks_no_other_path)
{
    int cycles = 0;
    begin_with(_i);
    make_folders();
    memset(&the, 0, sizeof the);
    stall_hang(m, STALL_ALL, "");
    uint64_t start = now(), end = start + STALL_DEAD_MS * MS, longest = 0;
    for (int i = 0; i < CYCLES || now() < end; i++) {
        if (i < FOLDERS)
            crowd_folder(i, i % 3 ? AFLOCK_IO_POOL : AFLOCK_IO_AUTO);
        uint64_t before = now();
        cycle(cycles++);
        longest = now() - before > longest ? now() - before : longest;
        while (now() < before + CYCLE_EVERY_MS * MS) /* so many folders take their time to be removed */
            ck_assert_int_eq(aflock_epoll_run_once(scene, MS), 0);
    }
    stall_run_until(all_due_answered, NULL);
    check_crowd(0);
    ck_assert_int_eq(the.replies, 0);
    stall_run_until(so_many_stalled, NULL);
    ck_assert_int_le(outstanding, STALLED_LIMIT + 1);
    ck_assert_uint_gt(stall_hung(m), 0);
    ck_assert_uint_eq(stall_by_watched(m) + stall_by_watched(n), 0);

    uint64_t freed = now();
    ck_assert_int_eq(stall_scene_free(50 * MS), 0);
    freed = now() - freed;
    check_crowd(AFLOCK_ECLOSED);
    ck_assert_int_eq(the.replies, the.questions);
    stall_resume(m);
    stall_run_until_closed(0);
    printf("figure: dead mount, %s: %d requests and %d questions in %d folders; meanwhile %d cycles elsewhere, the "
           "longest "
           "%u ms; freed in %u ms with a grace of 50\n",
           protocol->name, the.count, the.questions, FOLDERS, cycles, (unsigned)(longest / MS), (unsigned)(freed / MS));
}
END_TEST

/* All at once, before anything is known: the look-ups of local folders stand behind those of dead ones. */
START_TEST(a_crowd_for_a_dead_mount_comes_first)
{
    begin_with(_i);
    make_folders();
    memset(&the, 0, sizeof the);
    stall_hang(m, STALL_ALL, "");
    for (int i = 0; i < FOLDERS; i++)
        crowd_folder(i, i % 3 ? AFLOCK_IO_POOL : AFLOCK_IO_AUTO);
    for (int i = 0; i < 4 * CYCLE_PLACES; i++)
        cycle(i);
    stall_run_until(all_due_answered, NULL);
    check_crowd(0);
    ck_assert_int_eq(stall_scene_free(0), 0);
    check_crowd(AFLOCK_ECLOSED);
    stall_resume(m);
    stall_run_until_closed(0);
}
END_TEST

/* The mount comes back: what hung goes on, and everything works. */
START_TEST(a_mount_that_comes_back)
{
    begin_with(_i);
    make_folders();
    memset(&the, 0, sizeof the);
    stall_hang(m, STALL_ALL, "");
    for (int i = 0; i < FOLDERS; i++)
        crowd_folder(i, AFLOCK_IO_POOL);
    stall_run_until(so_many_stalled, NULL);
    stall_run_until(all_due_answered, NULL);
    stall_resume(m);
    for (int i = 0; i < the.count; i++) {
        stall_run_until_answered(&the.ends[i]);
        ck_assert_int_eq(the.ends[i].result.status, the.expected[i]);
    }
    for (int i = 0; i < FOLDERS; i++)
        cycle(i);
    scene_expect(the.count + 2 * FOLDERS);
}
END_TEST

/* Held locks, contended ones and waiting requests on a mount that dies: the end comes within the grace, tells how many
 * are not given up, and the rest is done when the mount resumes. */
START_TEST(a_teardown_is_not_blocked)
{
    aflock_req req;
    answer got[HELD] = {{.count = 0}}, waiting[HELD + WANTED] = {{.count = 0}};
    int foreign[WANTED];
    char path[64];
    begin_with(_i);
    for (int i = 0; i < HELD + WANTED; i++) {
        snprintf(path, sizeof path, "m.files/%d", i);
        if (i >= HELD)
            foreign[i - HELD] = stall_foreign(protocol, path);
        snprintf(path, sizeof path, "m/%d", i);
        aflock *lock = stall_open(protocol, path, i % 2 ? AFLOCK_IO_POOL : AFLOCK_IO_AUTO);
        if (i < HELD)
            ck_assert_int_eq(aflock_acquire(lock, NULL, scene_answer, &got[i], &req), 0);
        ck_assert_int_eq(aflock_acquire(lock, NULL, scene_answer, &waiting[i], NULL), 0);
    }
    for (int i = 0; i < HELD; i++)
        stall_run_until_answered(&got[i]);
    /* The context's own, the foreign ones, and each that is held or was contended and is kept. */
    stall_run_until(are_kept, NULL);
    stall_hang(m, STALL_ALL, "");
    stall_run_until(so_many_stalled, NULL); /* the others' attempts wait for a place at the executor */
    ck_assert_int_eq(stall_scene_free(50 * MS), HELD);
    ck_assert_uint_eq(stall_by_watched(m), 0);
    for (int i = 0; i < HELD + WANTED; i++) {
        ck_assert_int_eq(waiting[i].count, 1);
        ck_assert_int_eq(waiting[i].result.status, AFLOCK_ECLOSED);
    }
    for (int i = 0; i < WANTED; i++) {
        snprintf(path, sizeof path, "m.files/%d", HELD + i);
        stall_foreign_end(protocol, path, foreign[i]);
    }
    stall_resume(m);
    for (int i = 0; i < HELD + WANTED; i++) {
        snprintf(path, sizeof path, "m.files/%d", i);
        stall_run_until_free(protocol, path);
    }
    stall_run_until_closed(0);
    ck_assert_uint_eq(stall_by_watched(m), 0);
}
END_TEST

int main(void)
{
    const TTest *const each[] = {
        a_dead_mount_blocks_no_other_path,
        a_crowd_for_a_dead_mount_comes_first,
        a_mount_that_comes_back,
        a_teardown_is_not_blocked,
        NULL,
    };
    return stall_main("dead mount", 40 + STALL_DEAD_MS / 1000.0, NULL, each, STALL_PROTOCOL_COUNT);
}
