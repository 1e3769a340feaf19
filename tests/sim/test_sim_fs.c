/* Is the simulated file system like the real one? Random sequences of calls are made on both, in a directory on the
 * real kernel and in the simulation, and must answer alike, locks included. */
#include "sim_clock.h"
#include "sim_fs.h"
#include "sim_trace.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

enum { SLOTS = 8, SEQUENCES = 600, STEPS = 120 };

static const char *const PATHS[] = {"a",   "b",        "d",      "e",      "d/a", "d/b",      "e/a",  "l",
                                    "l/a", "./d/../a", "../w/a", "nope/x", "a/x", "l/../l/b", "d//b", "e/./a"};
static const char *const TARGETS[] = {"d", "a", "l", "../w/d", "nope", "d/b"};

static sim_view view;
static sim_task task;
static struct {
    int real, simulated; /* -1: none */
} slots[SLOTS];
static char directory[64];
static char said[256]; /* the call at hand */

#define ANY(list) ((list)[sim_below(sizeof(list) / sizeof(list)[0])])

static int outcome(int result)
{
    return result < 0 ? -errno : result;
}

/* Both did the same: 0, or the same error. */
static void compare(int real, int simulated)
{
    if (real > 0)
        real = 0;
    if (simulated > 0)
        simulated = 0;
    if (real != simulated)
        ck_abort_msg("%s: really %d, simulated %d", said, real, simulated);
}

static int some_slot(bool open)
{
    for (int tries = 0; tries < 4 * SLOTS; tries++) {
        int i = (int)sim_below(SLOTS);
        if ((slots[i].real >= 0) == open)
            return i;
    }
    return -1;
}

/* -------------------------------------------------------------------------------------------------------- the calls */

static int some_flags(void)
{
    static const int ACCESS[] = {O_RDONLY, O_WRONLY, O_RDWR};
    int flags = ANY(ACCESS);
    if (sim_chance(100000))
        return O_PATH | (sim_chance(500000) ? O_NOFOLLOW : 0) | (sim_chance(300000) ? O_DIRECTORY : 0);
    if (sim_chance(500000))
        flags |= O_CREAT | (sim_chance(200000) ? O_EXCL : 0);
    else if (sim_chance(150000))
        flags |= O_DIRECTORY;
    if (sim_chance(300000))
        flags |= O_NOFOLLOW;
    if (flags & (O_WRONLY | O_RDWR) && sim_chance(100000))
        flags |= O_TRUNC;
    return flags | (sim_chance(500000) ? O_CLOEXEC : 0);
}

static void do_open(void)
{
    const char *path = ANY(PATHS);
    int i = some_slot(false), flags = some_flags();
    if (i < 0)
        return;
    snprintf(said, sizeof said, "open %s %#x", path, (unsigned)flags);
    int real = outcome(open(path, flags, 0664)), simulated = sim_fs_open(&task, path, flags, 0664);
    compare(real, simulated);
    slots[i].real = real < 0 ? -1 : real;
    slots[i].simulated = simulated < 0 ? -1 : simulated;
}

static void do_close(void)
{
    int i = some_slot(true);
    if (i < 0)
        return;
    snprintf(said, sizeof said, "close %d", i);
    compare(outcome(close(slots[i].real)), sim_fs_close(&task, slots[i].simulated));
    slots[i].real = slots[i].simulated = -1;
}

static void do_dup(void)
{
    int i = some_slot(true), to = some_slot(false);
    if (i < 0 || to < 0)
        return;
    snprintf(said, sizeof said, "dup %d", i);
    slots[to].real = outcome(fcntl(slots[i].real, F_DUPFD_CLOEXEC, 3));
    slots[to].simulated = sim_fs_dup_above(&task, slots[i].simulated, true);
    compare(slots[to].real, slots[to].simulated);
}

static void do_flock(void)
{
    static const int OPERATIONS[] = {LOCK_SH, LOCK_EX, LOCK_UN};
    int i = some_slot(true), operation = ANY(OPERATIONS) | LOCK_NB;
    if (i < 0)
        return;
    snprintf(said, sizeof said, "flock %d %d", i, operation);
    compare(outcome(flock(slots[i].real, operation)), sim_fs_flock(&task, slots[i].simulated, operation));
}

static void do_ofd(void)
{
    static const short TYPES[] = {F_RDLCK, F_WRLCK, F_UNLCK};
    int i = some_slot(true);
    unsigned first = sim_chance(500000) ? 0 : (unsigned)sim_below(SIM_ZONES);
    unsigned end = first + 1 + (unsigned)sim_below(SIM_ZONES - first);
    off_t start = sim_lock_bounds[first], length = end < SIM_ZONES ? sim_lock_bounds[end] - start : 0;
    struct flock range = {.l_type = ANY(TYPES), .l_whence = SEEK_SET, .l_start = start, .l_len = length};
    if (i < 0)
        return;
    short type = range.l_type;
    snprintf(said, sizeof said, "lock_ofd %d %d %ld %ld", i, type, (long)start, (long)length);
    int real = outcome(fcntl(slots[i].real, F_OFD_SETLK, &range));
    compare(real, sim_fs_lock_ofd(&task, slots[i].simulated, type, start, length));
}

static void compare_stat(const struct stat *real, const struct stat *simulated)
{
    bool same = real->st_mode == simulated->st_mode;
    if (!S_ISDIR(real->st_mode))
        same = same && real->st_nlink == simulated->st_nlink && real->st_size == simulated->st_size;
    if (!same)
        ck_abort_msg("%s: mode %o and %o, links %u and %u, size %ld and %ld", said, real->st_mode, simulated->st_mode,
                     (unsigned)real->st_nlink, (unsigned)simulated->st_nlink, (long)real->st_size,
                     (long)simulated->st_size);
}

static void do_stat(void)
{
    const char *path = ANY(PATHS);
    bool follow = sim_chance(500000);
    struct stat real, simulated;
    snprintf(said, sizeof said, "%s %s", follow ? "stat" : "lstat", path);
    int result = outcome(follow ? stat(path, &real) : lstat(path, &real));
    compare(result, sim_fs_stat(&task, path, &simulated, follow));
    if (result == 0)
        compare_stat(&real, &simulated);
}

/* Of two descriptors: the same file, or not. */
static void do_fstat(void)
{
    int i = some_slot(true), j = some_slot(true);
    struct stat real[2], simulated[2];
    if (i < 0 || j < 0)
        return;
    snprintf(said, sizeof said, "fstat %d %d", i, j);
    compare(outcome(fstat(slots[i].real, &real[0])), sim_fs_fstat(&task, slots[i].simulated, &simulated[0]));
    compare(outcome(fstat(slots[j].real, &real[1])), sim_fs_fstat(&task, slots[j].simulated, &simulated[1]));
    compare_stat(&real[0], &simulated[0]);
    if ((real[0].st_ino == real[1].st_ino) != (simulated[0].st_ino == simulated[1].st_ino))
        ck_abort_msg("%s: the same file, or not", said);
}

static void do_unlink(void)
{
    const char *path = ANY(PATHS);
    snprintf(said, sizeof said, "unlink %s", path);
    compare(outcome(unlink(path)), sim_fs_unlink(&task, path));
}

static void do_rename(void)
{
    const char *from = ANY(PATHS), *to = ANY(PATHS);
    struct stat st;
    if (lstat(from, &st) == 0 && S_ISDIR(st.st_mode))
        return; /* directories stay where they are */
    snprintf(said, sizeof said, "rename %s %s", from, to);
    compare(outcome(rename(from, to)), sim_fs_rename(&task, from, to));
}

static void do_link(void)
{
    const char *from = ANY(PATHS), *to = ANY(PATHS);
    snprintf(said, sizeof said, "link %s %s", from, to);
    compare(outcome(link(from, to)), sim_fs_link(&task, from, to));
}

static void do_symlink(void)
{
    const char *target = ANY(TARGETS), *path = ANY(PATHS);
    snprintf(said, sizeof said, "symlink %s %s", target, path);
    compare(outcome(symlink(target, path)), sim_fs_symlink(&task, target, path));
}

static void do_readlink(void)
{
    const char *path = ANY(PATHS);
    char real[64] = "", simulated[64] = "";
    snprintf(said, sizeof said, "readlink %s", path);
    int a = outcome((int)readlink(path, real, sizeof real - 1)),
        b = sim_fs_readlink(&task, path, simulated, sizeof simulated - 1);
    compare(a, b);
    if (a >= 0 && (a != b || memcmp(real, simulated, (size_t)a) != 0))
        ck_abort_msg("%s: '%s' and '%s'", said, real, simulated);
}

static void do_mkdir(void)
{
    const char *path = ANY(PATHS);
    snprintf(said, sizeof said, "mkdir %s", path);
    compare(outcome(mkdir(path, 0777)), sim_fs_mkdir(&task, path, 0777));
}

static void do_truncate(void)
{
    int i = some_slot(true);
    off_t length = (off_t)sim_below(3) * 5;
    if (i < 0)
        return;
    snprintf(said, sizeof said, "ftruncate %d", i);
    compare(outcome(ftruncate(slots[i].real, length)), sim_fs_ftruncate(&task, slots[i].simulated, length));
}

static void do_chmod(void)
{
    int i = some_slot(true);
    mode_t mode = 0600 | (mode_t)sim_below(0100);
    if (i < 0)
        return;
    snprintf(said, sizeof said, "fchmod %d", i);
    compare(outcome(fchmod(slots[i].real, mode)), sim_fs_fchmod(&task, slots[i].simulated, mode));
}

static void do_flags(void)
{
    int i = some_slot(true);
    if (i < 0)
        return;
    snprintf(said, sizeof said, "descriptor flags %d", i);
    ck_assert_int_eq(fcntl(slots[i].real, F_GETFD), sim_fs_descriptor_flags(&task, slots[i].simulated));
}

/* One entry for each call of the simulated file system; how often. */
static const struct {
    unsigned weight;
    void (*run)(void);
} CALLS[] = {{30, do_open}, {10, do_close},   {6, do_dup},    {30, do_flock}, {30, do_ofd},    {6, do_stat},
             {6, do_fstat}, {8, do_unlink},   {5, do_rename}, {4, do_link},   {3, do_symlink}, {2, do_readlink},
             {3, do_mkdir}, {2, do_truncate}, {2, do_chmod},  {1, do_flags}};

static void do_something(void)
{
    enum { COUNT = sizeof CALLS / sizeof CALLS[0] };
    unsigned sum = 0;
    for (int i = 0; i < COUNT; i++)
        sum += CALLS[i].weight;
    uint64_t at = sim_below(sum);
    int i = 0;
    while (at >= CALLS[i].weight)
        at -= CALLS[i++].weight;
    CALLS[i].run();
}

/* ------------------------------------------------------------------------------------------------------ the sequences
 */

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *where)
{
    (void)st, (void)type, (void)where;
    return remove(path);
}

static void clean_up(void)
{
    nftw(directory, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
}

static void begin(uint64_t seed)
{
    sim_random_start(seed);
    sim_trace_start(seed);
    sim_clock_start();
    sim_fs_start();
    view = (sim_view){.cache_time = 0};
    sim_fs_mount(&view, "/", sim_fs_volume("ext4", false));
    sim_fs_task(&task, &view, 1);
    sim_fs_mkdir(&task, "/w", 0755);
    sim_fs_chdir(&task, "/w");
    char work[80];
    snprintf(work, sizeof work, "%s/w", directory);
    ck_assert_int_eq(mkdir(work, 0755), 0);
    ck_assert_int_eq(chdir(work), 0);
    for (int i = 0; i < SLOTS; i++)
        slots[i].real = slots[i].simulated = -1;
}

static void end(void)
{
    for (int i = 0; i < SLOTS; i++)
        if (slots[i].real >= 0)
            close(slots[i].real);
    ck_assert_int_eq(chdir("/"), 0);
    clean_up();
}

START_TEST(the_simulated_file_system_answers_like_the_real_one)
{
    uint64_t calls = 0;
    umask(022);
    for (uint64_t seed = 1; seed <= SEQUENCES; seed++) {
        snprintf(directory, sizeof directory, "/tmp/aflock-sim.XXXXXX");
        ck_assert_ptr_nonnull(mkdtemp(directory));
        begin(seed);
        for (int i = 0; i < STEPS; i++, calls++)
            do_something();
        end();
    }
    printf("figure: simulated file system: %llu calls that the kernel answers alike\n", (unsigned long long)calls);
    fflush(stdout);
}
END_TEST

/* Remote volumes are different on purpose: one lock space for both kinds, exclusive only for writers, names that are
 * believed for a while. */
START_TEST(a_remote_volume_is_one_lock_space_and_stale)
{
    sim_view views[2] = {{.cache_time = SIM_SECOND}, {.cache_time = SIM_SECOND}};
    sim_task tasks[2];
    struct stat st;
    sim_random_start(1);
    sim_clock_start();
    sim_fs_start();
    sim_volume *v = sim_fs_volume("nfs4", true);
    for (int i = 0; i < 2; i++) {
        sim_fs_mount(&views[i], "/", v);
        sim_fs_task(&tasks[i], &views[i], i + 1);
    }
    int a = sim_fs_open(&tasks[0], "/f", O_CREAT | O_RDWR, 0644), b = sim_fs_open(&tasks[1], "/f", O_RDWR, 0);
    int reader = sim_fs_open(&tasks[1], "/f", O_RDONLY, 0);
    ck_assert_int_eq(sim_fs_flock(&tasks[0], a, LOCK_EX), 0);
    ck_assert_int_eq(sim_fs_lock_ofd(&tasks[1], b, F_WRLCK, 0, 0), -EAGAIN);
    ck_assert_int_eq(sim_fs_flock(&tasks[1], reader, LOCK_EX), -EBADF);
    ck_assert_int_eq(sim_fs_unlink(&tasks[0], "/f"), 0);
    ck_assert_int_eq(sim_fs_stat(&tasks[1], "/f", &st, false), 0);
    ck_assert_int_eq(sim_fs_open(&tasks[1], "/f", O_RDWR, 0), -ENOENT);
    ck_assert_int_eq(sim_fs_stat(&tasks[1], "/f", &st, false), -ENOENT);
    sim_now += 2 * SIM_SECOND;
    ck_assert_int_eq(sim_fs_stat(&tasks[0], "/f", &st, false), -ENOENT);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("sim_fs");
    TCase *c = tcase_create("sim_fs");
    tcase_set_timeout(c, 60);
    tcase_add_test(c, the_simulated_file_system_answers_like_the_real_one);
    tcase_add_test(c, a_remote_volume_is_one_lock_space_and_stale);
    suite_add_tcase(s, c);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    if (failed)
        clean_up();
    return failed != 0;
}
