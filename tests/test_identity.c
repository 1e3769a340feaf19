/* Is the holder of a marker gone? Asked about real processes: alive, dead, dead and not waited for, somebody else's,
 * and with names that look like the rest of a line of /proc; then with a system that fails. Only a proof is a yes. */
#include "locks/identity.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

static const afl_sys *const sys = &afl_sys_linux;
static char our_name[AFL_HOST_NAME];

enum { WATCHDOG_MS = 30000 };

/* --------------------------------------------------------------------------------------------------------- processes
 */

/* A child that does nothing until it is killed. */
static pid_t start_child(const char *name)
{
    int ready[2];
    char byte = 0;
    ck_assert_int_eq(pipe(ready), 0);
    const pid_t pid = fork();
    ck_assert_int_ge(pid, 0);
    if (pid == 0) {
        if (name && prctl(PR_SET_NAME, name) != 0)
            _exit(1);
        if (write(ready[1], "r", 1) != 1)
            _exit(1);
        for (;;)
            pause();
    }
    close(ready[1]);
    ck_assert_int_eq(read(ready[0], &byte, 1), 1);
    close(ready[0]);
    return pid;
}

static void kill_child(pid_t pid)
{
    siginfo_t info;
    ck_assert_int_eq(kill(pid, SIGKILL), 0);
    ck_assert_int_eq(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT), 0); /* dead, and not waited for */
}

static void bury(pid_t pid)
{
    ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
}

static void end_child(pid_t pid)
{
    kill_child(pid);
    bury(pid);
}

/* What a process writes into its marker, here and now. */
static afl_record record_of(pid_t pid)
{
    afl_record r = {.kind = AFL_RECORD_SOFT, .pid = pid, .has_start = true};
    ck_assert(afl_host_name(sys, our_name));
    r.host = (afl_text){our_name, strlen(our_name)};
    ck_assert(afl_process_start(sys, pid, &r.start));
    return r;
}

static afl_record started_otherwise(pid_t pid)
{
    afl_record r = record_of(pid);
    r.start.part[0]++;
    return r;
}

/* ------------------------------------------------------------------------------------------------------ who we are */

START_TEST(our_name_is_the_hosts)
{
    char name[AFL_HOST_NAME], expected[AFL_HOST_NAME] = "";
    ck_assert_int_eq(gethostname(expected, sizeof expected - 1), 0);
    ck_assert(afl_host_name(sys, name));
    ck_assert_str_eq(name, expected);
}
END_TEST

/* What the peer writes, (boot id << 64) | start time, said by Python. */
START_TEST(our_token_is_the_peers)
{
    static const char code[] =
        "import sys\n"
        "pid, token = map(int, sys.argv[1:])\n"
        "boot = int(open('/proc/sys/kernel/random/boot_id').read().strip().replace('-', ''), 16)\n"
        "ticks = int(open(f'/proc/{pid}/stat').read().rpartition(')')[2].split()[19])\n"
        "sys.exit(token != boot << 64 | ticks)\n";
    char number[32], token[AFL_START_TEXT];
    const char *python = getenv("PYTHON");
    int status;
    const pid_t pid = start_child("a (b) c");
    const afl_record r = record_of(pid);
    ck_assert_uint_gt(afl_start_print(&r.start, token), 20);
    snprintf(number, sizeof number, "%d", (int)pid);
    const pid_t peer = fork();
    if (peer == 0) {
        execl(python ? python : "/usr/bin/python3", "python3", "-I", "-c", code, number, token, (char *)NULL);
        _exit(127);
    }
    ck_assert_int_eq(waitpid(peer, &status, 0), peer);
    ck_assert_msg(status == 0, "not the peer's: %s", token);
    end_child(pid);
}
END_TEST

/* A name may be whatever it likes, also what the fields after it look like. */
/* What a process has found out about itself is no news of its child, which starts later. */
START_TEST(a_child_is_another)
{
    afl_self self = {.pid = 0};
    afl_start ours, again, known;
    int status;
    ck_assert(afl_own_start(sys, &self, &ours) && afl_own_start(sys, &self, &again));
    ck_assert(afl_process_start(sys, getpid(), &known));
    ck_assert(afl_start_equal(&ours, &known) && afl_start_equal(&again, &known));
    usleep(50000); /* start times are counted in hundredths */
    pid_t child = fork();
    ck_assert_int_ge(child, 0);
    if (child == 0) {
        bool told = afl_own_start(sys, &self, &again) && afl_process_start(sys, getpid(), &known);
        _exit(told && afl_start_equal(&again, &known) && !afl_start_equal(&again, &ours) ? 0 : 1);
    }
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}
END_TEST

START_TEST(a_name_does_not_move_the_fields)
{
    static const char *const names[] = {"a b c d", ")", "(", "a) S 1 1 1", ") R 1 2 3 4 5 6", "\n1 2 3", "((((((", ""};
    const pid_t me = getpid();
    const afl_record before = record_of(me);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        ck_assert_int_eq(prctl(PR_SET_NAME, names[i]), 0);
        const afl_record now = record_of(me);
        ck_assert(afl_start_equal(&before.start, &now.start));
        ck_assert(!afl_owner_gone(sys, &before));
    }
}
END_TEST

/* ------------------------------------------------------------------------------------------------------ who is gone */

START_TEST(alive_dead_and_waited_for)
{
    const pid_t pid = start_child(NULL);
    afl_record r = record_of(pid), plain = r;
    plain.has_start = false;
    ck_assert(!afl_owner_gone(sys, &r) && !afl_owner_gone(sys, &plain));
    kill_child(pid);
    ck_assert(!afl_owner_gone(sys, &r) && !afl_owner_gone(sys, &plain));
    bury(pid);
    ck_assert(afl_owner_gone(sys, &r) && afl_owner_gone(sys, &plain));
    r.kind = AFL_RECORD_LEASE;
    ck_assert(afl_owner_gone(sys, &r));
}
END_TEST

START_TEST(we_are_not_gone)
{
    afl_record r = record_of(getpid());
    ck_assert(!afl_owner_gone(sys, &r));
    r.kind = AFL_RECORD_LEASE;
    ck_assert(!afl_owner_gone(sys, &r));
}
END_TEST

START_TEST(a_later_process_with_the_pid_is_another)
{
    afl_record r = started_otherwise(getpid());
    ck_assert(afl_owner_gone(sys, &r));
    for (int part = 0; part < 6; part++) {
        r = record_of(getpid());
        r.start.part[part] ^= 1;
        ck_assert(afl_owner_gone(sys, &r));
    }
    r = record_of(getpid());
    r.start = (afl_start){.beyond = true};
    ck_assert(afl_owner_gone(sys, &r));
    r.has_start = false; /* what is there then does not matter */
    ck_assert(!afl_owner_gone(sys, &r));
}
END_TEST

/* A process that sees no boot id writes 0 for it. */
START_TEST(without_boot_id_the_start_time_counts)
{
    afl_record r = record_of(getpid());
    memset(r.start.part + 2, 0, 4 * sizeof r.start.part[0]);
    ck_assert(!afl_owner_gone(sys, &r));
    r.start.part[0]++;
    ck_assert(afl_owner_gone(sys, &r));
}
END_TEST

START_TEST(other_hosts_are_alive)
{
    const pid_t pid = start_child(NULL);
    afl_record r = record_of(pid);
    char longer[AFL_HOST_NAME + 1], changed[AFL_HOST_NAME];
    const size_t length = strlen(our_name);
    end_child(pid);
    ck_assert(afl_owner_gone(sys, &r));
    snprintf(longer, sizeof longer, "%sx", our_name);
    snprintf(changed, sizeof changed, "%s", our_name);
    changed[length - 1] ^= 1;
    const afl_text names[] = {{longer, length + 1}, {our_name, length - 1}, {changed, length}, {our_name, 0}};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        int fd = -1;
        r.host = names[i];
        ck_assert(!afl_owner_gone(sys, &r));
        ck_assert_int_eq(afl_owner_watch(sys, &r, &fd), AFL_WATCH_NONE);
    }
}
END_TEST

START_TEST(other_records_are_nobodys)
{
    static const afl_record_kind kinds[] = {AFL_RECORD_EMPTY, AFL_RECORD_SENTINEL, AFL_RECORD_OTHER,
                                            AFL_RECORD_MALFORMED};
    const pid_t pid = start_child(NULL);
    afl_record r = record_of(pid);
    end_child(pid);
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        int fd = -1;
        r.kind = kinds[i];
        ck_assert(!afl_owner_gone(sys, &r));
        ck_assert_int_eq(afl_owner_watch(sys, &r, &fd), AFL_WATCH_NONE);
    }
}
END_TEST

START_TEST(the_first_process_is_alive)
{
    const afl_record r = record_of(1), other = started_otherwise(1);
    ck_assert(!afl_owner_gone(sys, &r));
    ck_assert(afl_owner_gone(sys, &other));
}
END_TEST

/* Somebody who may not send us signals may ask all the same: EPERM says that we are there, the token who we are. */
START_TEST(processes_of_another_user)
{
    int status;
    const pid_t pid = start_child(NULL);
    const afl_record r = record_of(pid), other = started_otherwise(pid);
    afl_record plain = other;
    plain.has_start = false;
    ck_assert_msg(geteuid() == 0, "needs root");
    const pid_t asking = fork();
    if (asking == 0) {
        if (setgid(65534) != 0 || setuid(65534) != 0)
            _exit(10);
        if (kill(pid, 0) == 0 || errno != EPERM)
            _exit(11);
        _exit((afl_owner_gone(sys, &r) ? 1 : 0) | (afl_owner_gone(sys, &plain) ? 2 : 0) |
              (afl_owner_gone(sys, &other) ? 0 : 4));
    }
    ck_assert_int_eq(waitpid(asking, &status, 0), asking);
    ck_assert_int_eq(status, 0);
    end_child(pid);
}
END_TEST

/* ----------------------------------------------------------------------------------------------- a system that fails
 */

/* A table whose files of /proc say and do what a test wants. State of one test, as libcheck forks for each. */
static struct {
    const char *stat, *boot;                                                /* instead of the contents */
    int open_stat, open_boot, read_stat, read_boot, probe, hostname, pidfd; /* an errno: fails */
    int interrupted_opens, interrupted_reads;                               /* so many are interrupted first */
    size_t piece;                                                           /* a read delivers no more */
    int opened, probes;
    int stat_fd, boot_fd;
    size_t at;
    void (*after_pidfd)(void);
} world;

static bool fails(int error, int *interrupted)
{
    errno = *interrupted > 0 ? EINTR : error;
    return (*interrupted)-- > 0 || error;
}

static bool is_boot(const char *path)
{
    return strcmp(path, "/proc/sys/kernel/random/boot_id") == 0;
}

static int world_open(const char *path, int flags, mode_t mode)
{
    if (fails(is_boot(path) ? world.open_boot : world.open_stat, &world.interrupted_opens))
        return -1;
    const int fd = sys->open(path, flags, mode);
    ck_assert_int_eq(flags, O_RDONLY | O_CLOEXEC);
    *(is_boot(path) ? &world.boot_fd : &world.stat_fd) = fd;
    world.at = 0;
    world.opened += fd >= 0;
    return fd;
}

static ssize_t world_read(int fd, void *buffer, size_t size)
{
    const bool boot = fd == world.boot_fd;
    const char *text = boot ? world.boot : world.stat;
    ck_assert_uint_gt(size, 0);
    if (fails(boot ? world.read_boot : world.read_stat, &world.interrupted_reads))
        return -1;
    if (world.piece && size > world.piece)
        size = world.piece;
    if (!text)
        return sys->read(fd, buffer, size);
    if (size > strlen(text) - world.at)
        size = strlen(text) - world.at;
    memcpy(buffer, text + world.at, size);
    world.at += size;
    return (ssize_t)size;
}

static int world_close(int fd)
{
    world.opened--;
    if (fd == world.boot_fd)
        world.boot_fd = -1;
    return sys->close(fd);
}

static int world_probe(pid_t pid)
{
    ck_assert_int_gt(pid, 0);
    world.probes++;
    errno = world.probe;
    return world.probe ? -1 : sys->probe(pid);
}

static int world_gethostname(char *name, size_t size)
{
    ck_assert_uint_ge(size, 65);
    errno = world.hostname;
    return world.hostname ? -1 : sys->gethostname(name, size);
}

static int world_pidfd_open(pid_t pid)
{
    errno = world.pidfd;
    const int fd = world.pidfd ? -1 : sys->pidfd_open(pid);
    world.opened += fd >= 0;
    if (world.after_pidfd)
        world.after_pidfd();
    return fd;
}

static const afl_sys *failing(void)
{
    static afl_sys table;
    table = afl_sys_linux;
    table.open = world_open;
    table.read = world_read;
    table.close = world_close;
    table.probe = world_probe;
    table.gethostname = world_gethostname;
    table.pidfd_open = world_pidfd_open;
    memset(&world, 0, sizeof world);
    world.boot_fd = -1;
    return &table;
}

START_TEST(on_doubt_alive)
{
    static const int errors[] = {ENOENT, EACCES, EMFILE, ENFILE, ENOMEM, EIO, ESRCH};
    const afl_sys *table = failing();
    afl_record r = started_otherwise(getpid()), boot = record_of(getpid());
    afl_start start;
    boot.start.part[3]++;
    ck_assert(afl_owner_gone(table, &r) && afl_owner_gone(table, &boot));
    for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++) {
        const int error = errors[i];
        failing();
        world.open_stat = error;
        ck_assert(!afl_owner_gone(table, &r) && !afl_process_start(table, getpid(), &start));
        failing();
        world.read_stat = error;
        ck_assert(!afl_owner_gone(table, &r) && !afl_process_start(table, getpid(), &start));
        failing();
        world.open_boot = error;
        ck_assert(!afl_owner_gone(table, &boot) && !afl_process_start(table, getpid(), &start));
        failing();
        world.read_boot = error;
        ck_assert(!afl_owner_gone(table, &boot) && !afl_process_start(table, getpid(), &start));
        failing();
        world.hostname = error;
        ck_assert(!afl_owner_gone(table, &r));
        ck_assert_int_eq(world.probes, 0);
        failing();
        world.probe = error;
        world.open_stat = EACCES;
        ck_assert(afl_owner_gone(table, &r) == (error == ESRCH));
        ck_assert_int_eq(world.opened, 0);
    }
}
END_TEST

/* With no boot id to be had, a start time that is another one is proof enough. */
START_TEST(another_start_time_needs_no_boot_id)
{
    const afl_sys *table = failing();
    const afl_record r = started_otherwise(getpid());
    world.open_boot = EACCES;
    ck_assert(afl_owner_gone(table, &r));
}
END_TEST

#define BOOT "01234567-89ab-cdef-fedc-ba9876543210\n"
#define NINETEEN " S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18"

START_TEST(what_the_files_may_say)
{
    static const struct {
        const char *stat, *boot, *token; /* NULL: there is none */
    } rows[] = {
        {"7 (a)" NINETEEN " 12345 0\n", BOOT, "27898229935051914480226618602452055722311711214681468985"},
        {"7 (a)" NINETEEN " 12345", "0123456789abcdeffedcba9876543210",
         "27898229935051914480226618602452055722311711214681468985"},
        {"7 (a)  b) c)" NINETEEN " 12345 0\n", BOOT, "27898229935051914480226618602452055722311711214681468985"},
        {"7 (a)" NINETEEN " 18446744073709551615 0\n", "00000000-0000-0000-0000-000000000001\n",
         "36893488147419103231"},
        {"7 (a)" NINETEEN " 18446744073709551616 0\n", BOOT, NULL},
        {"7 (a)" NINETEEN " -5 0\n", BOOT, NULL},
        {"7 (a)" NINETEEN " x 0\n", BOOT, NULL},
        {"7 (a)" NINETEEN "\n", BOOT, NULL},
        {"7 (a)" NINETEEN " ", BOOT, NULL},
        {"7 (a) S 1", BOOT, NULL},
        {"7 (a)", BOOT, NULL},
        {"7 (a" NINETEEN " 12345 0\n", BOOT, NULL},
        {"", BOOT, NULL},
        {"7 (a)" NINETEEN " 12345 0\n", "", NULL},
        {"7 (a)" NINETEEN " 12345 0\n", "\n", NULL},
        {"7 (a)" NINETEEN " 12345 0\n", "01234567-89ab-cdef-fedc-ba987654321\n", NULL},
        {"7 (a)" NINETEEN " 12345 0\n", "01234567-89ab-cdef-fedc-ba98765432100\n", NULL},
        {"7 (a)" NINETEEN " 12345 0\n", "01234567-89ab-cdef-fedc-ba987654321g\n", NULL},
        {"7 (a)" NINETEEN " 12345 0\n", "00000000-0000-0000-0000-000000000000\n", NULL},
    };
    const afl_sys *table = failing();
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        for (size_t piece = 0; piece <= 7; piece++) {
            char text[AFL_START_TEXT];
            afl_start start;
            failing();
            world.stat = rows[i].stat;
            world.boot = rows[i].boot;
            world.piece = piece;
            world.interrupted_opens = world.interrupted_reads = (int)piece;
            ck_assert_msg(afl_process_start(table, getpid(), &start) == (rows[i].token != NULL), "row %zu", i);
            ck_assert_int_eq(world.opened, 0);
            if (!rows[i].token)
                continue;
            afl_start_print(&start, text);
            ck_assert_str_eq(text, rows[i].token);
        }
    }
}
END_TEST

/* A file that does not end where it should is not believed. */
START_TEST(files_without_end)
{
    static char endless[100000];
    const afl_sys *table = failing();
    const afl_record r = started_otherwise(getpid());
    memset(endless, '1', sizeof endless - 1);
    memcpy(endless, "7 (a)" NINETEEN " 12345 ", sizeof NINETEEN + 11);
    world.stat = endless;
    ck_assert(!afl_owner_gone(table, &r));
    ck_assert_int_eq(world.opened, 0);
}
END_TEST

START_TEST(pids_that_mean_many_are_not_asked)
{
    static const int pids[] = {0, -1, -2, INT32_MIN};
    const afl_sys *table = failing();
    afl_record r = record_of(getpid());
    for (size_t i = 0; i < sizeof pids / sizeof pids[0]; i++) {
        int fd = -1;
        r.pid = pids[i];
        ck_assert(!afl_owner_gone(table, &r));
        ck_assert_int_eq(afl_owner_watch(table, &r, &fd), AFL_WATCH_NONE);
    }
    ck_assert_int_eq(world.probes + world.opened, 0);
}
END_TEST

/* --------------------------------------------------------------------------------------------------------- watching */

static int is_readable(int fd, int milliseconds)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    return poll(&p, 1, milliseconds);
}

START_TEST(a_watch_tells_the_end)
{
    const pid_t pid = start_child(NULL);
    const afl_record r = record_of(pid);
    int fd = -1;
    ck_assert_int_eq(afl_owner_watch(sys, &r, &fd), AFL_WATCH_OPEN);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(fcntl(fd, F_GETFD), FD_CLOEXEC);
    ck_assert_int_eq(is_readable(fd, 0), 0);
    kill_child(pid);
    ck_assert_int_eq(is_readable(fd, WATCHDOG_MS), 1);
    ck_assert(!afl_owner_gone(sys, &r)); /* nobody waited for it */
    bury(pid);
    ck_assert(afl_owner_gone(sys, &r));
    close(fd);
    ck_assert_int_eq(afl_owner_watch(sys, &r, &fd), AFL_WATCH_GONE);
}
END_TEST

START_TEST(nobody_is_watched_in_the_place_of_another)
{
    const afl_sys *table = failing();
    const afl_record r = started_otherwise(getpid());
    int fd = -1;
    ck_assert_int_eq(afl_owner_watch(table, &r, &fd), AFL_WATCH_GONE);
    ck_assert_int_eq(world.opened, 0);
}
END_TEST

static pid_t between;

static void dies_between(void)
{
    end_child(between);
}

static void is_another_between(void)
{
    world.stat = "7 (a)" NINETEEN " 12345 0\n";
}

/* Whoever takes over the pid before the descriptor is there is not watched in the holder's place. */
START_TEST(a_holder_that_dies_while_it_is_looked_for)
{
    const afl_sys *table = failing();
    int fd = -1;
    between = start_child(NULL);
    const afl_record child = record_of(between), me = record_of(getpid());
    world.after_pidfd = dies_between;
    ck_assert_int_eq(afl_owner_watch(table, &child, &fd), AFL_WATCH_GONE);
    ck_assert_int_eq(world.opened, 0);
    failing();
    world.after_pidfd = is_another_between;
    ck_assert_int_eq(afl_owner_watch(table, &me, &fd), AFL_WATCH_GONE);
    ck_assert_int_eq(world.opened, 0);
}
END_TEST

START_TEST(no_watch_is_no_proof)
{
    static const int errors[] = {ENOSYS, EMFILE, ENFILE, ENOMEM, EPERM, EINVAL, ESRCH};
    const afl_sys *table = failing();
    const afl_record r = record_of(getpid()), other = started_otherwise(getpid());
    for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++) {
        int fd = -1;
        world.pidfd = errors[i];
        ck_assert_int_eq(afl_owner_watch(table, &r, &fd), AFL_WATCH_NONE);
        ck_assert_int_eq(afl_owner_watch(table, &other, &fd), AFL_WATCH_GONE);
    }
    ck_assert_int_eq(world.opened, 0);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {our_name_is_the_hosts,
                                  our_token_is_the_peers,
                                  a_child_is_another,
                                  a_name_does_not_move_the_fields,
                                  alive_dead_and_waited_for,
                                  we_are_not_gone,
                                  a_later_process_with_the_pid_is_another,
                                  without_boot_id_the_start_time_counts,
                                  other_hosts_are_alive,
                                  other_records_are_nobodys,
                                  the_first_process_is_alive,
                                  processes_of_another_user,
                                  on_doubt_alive,
                                  another_start_time_needs_no_boot_id,
                                  what_the_files_may_say,
                                  files_without_end,
                                  pids_that_mean_many_are_not_asked,
                                  a_watch_tells_the_end,
                                  nobody_is_watched_in_the_place_of_another,
                                  a_holder_that_dies_while_it_is_looked_for,
                                  no_watch_is_no_proof};
    Suite *suite = suite_create("identity");
    TCase *tcase = tcase_create("holders");
    tcase_set_timeout(tcase, 60);
    for (size_t i = 0; i < sizeof tests / sizeof tests[0]; i++)
        tcase_add_test(tcase, tests[i]);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
