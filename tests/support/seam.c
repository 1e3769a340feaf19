/* See seam.h. One mutex guards everything, also over a fork; real calls, hooks and hanging are outside of it. */
#include "support/seam.h"

#include "runtime/runtime.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

enum { HANGS = 4, FRAGMENT = 64, WATCHDOG_S = 30 };

void (*seam_waits)(uint64_t timeout);

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static pthread_t loop_thread;

static struct meter {
    int count, on_loop;
    int after, times, error;
    void (*hook)(void);
} meters[SEAM_CALLS];

static struct {
    seam_call call;
    char fragment[FRAGMENT];
} hangs[HANGS];
static unsigned hang_count, hung, era;

static char device_fragment[FRAGMENT];
static uint64_t device_number;
static const char *pretended_type;

static seam_judge the_judge;
static seam_observer the_observer;

static void enter(void)
{
    pthread_mutex_lock(&mutex);
}

static void leave(void)
{
    pthread_mutex_unlock(&mutex);
}

/* ------------------------------------------------------------------------------------------------- the test's side */

const char *seam_name(seam_call call)
{
    static const char *const NAMES[SEAM_CALLS] = {
        [SEAM_OPEN] = "open",
        [SEAM_CREATE] = "create",
        [SEAM_TMPFILE] = "tmpfile",
        [SEAM_OPEN_CACHED] = "open_cached",
        [SEAM_CLOSE] = "close",
        [SEAM_LOCK] = "lock",
        [SEAM_UNLOCK] = "unlock",
        [SEAM_FSTAT] = "fstat",
        [SEAM_STAT] = "stat",
        [SEAM_IDENTIFY] = "identify",
        [SEAM_FCHMOD] = "fchmod",
        [SEAM_FTRUNCATE] = "ftruncate",
        [SEAM_TOUCH] = "touch",
        [SEAM_SYNC] = "fsync",
        [SEAM_REWIND] = "lseek",
        [SEAM_WRITE] = "write",
        [SEAM_UNLINK] = "unlink",
        [SEAM_RENAME] = "rename",
        [SEAM_LINK] = "link",
        [SEAM_LIST] = "list",
        [SEAM_RANDOM] = "random",
        [SEAM_MKDIR] = "mkdir",
        [SEAM_READ] = "read",
        [SEAM_READ_HEAD] = "read_head",
        [SEAM_READLINK] = "readlink",
        [SEAM_DUP] = "dup",
        [SEAM_GETCWD] = "getcwd",
        [SEAM_GETFD] = "descriptor_flags",
        [SEAM_HOSTNAME] = "gethostname",
        [SEAM_PROBE] = "probe",
        [SEAM_PIDFD] = "pidfd_open",
    };
    return NAMES[call];
}

void seam_fail(seam_call call, int after, int times, int error)
{
    enter();
    meters[call].after = after;
    meters[call].error = error;
    meters[call].times = times;
    leave();
}

void seam_before(seam_call call, void (*hook)(void))
{
    enter();
    meters[call].hook = hook;
    leave();
}

void seam_hang(seam_call call, const char *fragment)
{
    enter();
    ck_assert_uint_lt(hang_count, HANGS);
    hangs[hang_count].call = call;
    snprintf(hangs[hang_count].fragment, FRAGMENT, "%s", fragment);
    hang_count++;
    leave();
}

void seam_resume(void)
{
    enter();
    hang_count = 0;
    era++;
    pthread_cond_broadcast(&changed);
    leave();
}

void seam_await_hung(unsigned count)
{
    struct timespec limit;
    clock_gettime(CLOCK_REALTIME, &limit);
    limit.tv_sec += WATCHDOG_S;
    enter();
    int error = 0;
    while (hung < count && error == 0)
        error = pthread_cond_timedwait(&changed, &mutex, &limit);
    unsigned seen = hung;
    leave();
    ck_assert_msg(seen >= count, "%u calls hang, not %u", seen, count);
}

void seam_device(const char *fragment, uint64_t dev)
{
    enter();
    snprintf(device_fragment, FRAGMENT, "%s", fragment);
    device_number = dev;
    leave();
}

void seam_file_systems(const char *type)
{
    enter();
    pretended_type = type;
    leave();
}

void seam_judge_by(seam_judge judge, seam_observer observer)
{
    enter();
    the_judge = judge;
    the_observer = observer;
    leave();
}

void seam_forget(void)
{
    enter();
    for (int i = 0; i < SEAM_CALLS; i++)
        meters[i].count = meters[i].on_loop = 0;
    leave();
}

void seam_reset(void)
{
    enter();
    memset(meters, 0, sizeof meters);
    leave();
}

int seam_count(seam_call call)
{
    enter();
    int count = meters[call].count;
    leave();
    return count;
}

int seam_on_loop(seam_call call)
{
    enter();
    int count = meters[call].on_loop;
    leave();
    return count;
}

int seam_total(void)
{
    int total = 0;
    for (int i = 0; i < SEAM_DUP; i++)
        total += seam_count((seam_call)i);
    return total;
}

int seam_total_on_loop(void)
{
    int total = 0;
    for (int i = 0; i < SEAM_DUP; i++)
        total += seam_on_loop((seam_call)i);
    return total;
}

int seam_total_elsewhere(void)
{
    return seam_total() - seam_total_on_loop();
}

/* ----------------------------------------------------------------------------------------------- the library's side */

static void path_of(int fd, char target[PATH_MAX])
{
    char entry[64];
    snprintf(entry, sizeof entry, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(entry, target, PATH_MAX - 1);
    target[length > 0 ? length : 0] = '\0';
}

/* What was made without a name is called so for ever, by its descriptor: it is a marker. */
static bool is_about(const char *path, const char *fragment)
{
    return strstr(path, fragment) || (strstr(path, "/#") && strstr(path, " (deleted)"));
}

static bool hangs_now(seam_call call, int fd, const char *path)
{
    char found[PATH_MAX];
    for (unsigned i = 0; i < hang_count; i++) {
        if (hangs[i].call != call)
            continue;
        if (!path)
            path_of(fd, found);
        if (is_about(path ? path : found, hangs[i].fragment))
            return true;
    }
    return false;
}

static void hang(seam_call call, int fd, const char *path, bool mine)
{
    if (!hangs_now(call, fd, path))
        return;
    if (mine) {
        leave();
        ck_abort_msg("the loop's thread hangs in %s", seam_name(call));
    }
    unsigned since = era;
    hung++;
    pthread_cond_broadcast(&changed);
    while (since == era)
        pthread_cond_wait(&changed, &mutex);
    hung--;
}

static int chosen_error(seam_call call, int fd, const char *path)
{
    struct meter *m = &meters[call];
    int error = the_judge ? the_judge(call, fd, path) : 0;
    if (error || m->times == 0 || m->after-- > 0)
        return error;
    m->times--;
    return m->error;
}

/* Before each call. False: it is to fail, and errno is set. */
static bool begin(seam_call call, int fd, const char *path)
{
    bool mine = pthread_equal(pthread_self(), loop_thread);
    struct meter *m = &meters[call];
    enter();
    void (*hook)(void) = m->hook;
    if (hook) {
        leave();
        hook();
        enter();
    }
    m->count++;
    m->on_loop += mine;
    hang(call, fd, path, mine);
    int error = chosen_error(call, fd, path);
    leave();
    if (error)
        errno = error;
    return error == 0;
}

/* After each call; passes its result on. */
static int end(seam_call call, int fd, int result)
{
    int error = errno;
    enter();
    if (the_observer)
        the_observer(call, fd, result);
    leave();
    errno = error;
    return result;
}

/* The table of mounts with another type in each line. */
static int open_pretended_mounts(const char *type)
{
    char line[4096];
    FILE *real = fopen("/proc/self/mountinfo", "re"), *copy = tmpfile();
    ck_assert(real && copy);
    while (fgets(line, sizeof line, real)) {
        char *at = strstr(line, " - ");
        fprintf(copy, "%.*s - %s none rw\n", at ? (int)(at - line) : 0, line, type);
    }
    rewind(copy);
    int fd = dup(fileno(copy));
    ck_assert_int_ge(fd, 0);
    fclose(real);
    fclose(copy);
    return fd;
}

static int open_for_real(const char *path, int flags, mode_t mode)
{
    enter();
    const char *type = strcmp(path, "/proc/self/mountinfo") == 0 ? pretended_type : NULL;
    leave();
    return type ? open_pretended_mounts(type) : afl_sys_linux.open(path, flags, mode);
}

static int seam_open(const char *path, int flags, mode_t mode)
{
    const bool unnamed = (flags & O_TMPFILE) == O_TMPFILE;
    seam_call call = flags & O_CREAT ? SEAM_CREATE : unnamed ? SEAM_TMPFILE : SEAM_OPEN;
    return end(call, -1, begin(call, -1, path) ? open_for_real(path, flags, mode) : -1);
}

static int seam_open_cached(const char *path, int flags)
{
    int fd = -1;
    if (begin(SEAM_OPEN_CACHED, -1, path)) {
        fd = afl_sys_linux.open_cached(path, flags);
        if (fd < 0 && errno == ENOSYS) /* valgrind does not know openat2 */
            fd = afl_sys_linux.open(path, flags, 0);
    }
    return end(SEAM_OPEN_CACHED, -1, fd);
}

static int seam_dup_above(int fd, bool close_on_exec)
{
    return end(SEAM_DUP, fd, begin(SEAM_DUP, fd, NULL) ? afl_sys_linux.dup_above(fd, close_on_exec) : -1);
}

/* The observer hears of it before the number can be somebody else's. */
static int seam_close(int fd)
{
    bool fails = !begin(SEAM_CLOSE, fd, NULL);
    int error = errno;
    end(SEAM_CLOSE, fd, fails ? -1 : 0);
    int rc = afl_sys_linux.close(fd);
    if (!fails)
        return rc;
    errno = error;
    return -1;
}

static int seam_flock(int fd, int operation)
{
    seam_call call = operation & LOCK_UN ? SEAM_UNLOCK : SEAM_LOCK;
    return end(call, fd, begin(call, fd, NULL) ? afl_sys_linux.flock(fd, operation) : -1);
}

static int seam_lock_ofd(int fd, short type, off_t start, off_t length, bool wait)
{
    seam_call call = type == F_UNLCK ? SEAM_UNLOCK : SEAM_LOCK;
    return end(call, fd, begin(call, fd, NULL) ? afl_sys_linux.lock_ofd(fd, type, start, length, wait) : -1);
}

static int seam_fstat(int fd, struct stat *st)
{
    return end(SEAM_FSTAT, fd, begin(SEAM_FSTAT, fd, NULL) ? afl_sys_linux.fstat(fd, st) : -1);
}

static int seam_stat(const char *path, struct stat *st, bool follow)
{
    return end(SEAM_STAT, -1, begin(SEAM_STAT, -1, path) ? afl_sys_linux.stat(path, st, follow) : -1);
}

static int seam_identify(int fd, afl_identity *id)
{
    char path[PATH_MAX] = "";
    int rc = begin(SEAM_IDENTIFY, fd, NULL) ? afl_sys_linux.identify(fd, id) : -1;
    enter();
    if (rc == 0 && device_fragment[0])
        path_of(fd, path);
    if (path[0] && strstr(path, device_fragment))
        id->dev = device_number;
    leave();
    return end(SEAM_IDENTIFY, fd, rc);
}

static int seam_fchmod(int fd, mode_t mode)
{
    return end(SEAM_FCHMOD, fd, begin(SEAM_FCHMOD, fd, NULL) ? afl_sys_linux.fchmod(fd, mode) : -1);
}

static int seam_ftruncate(int fd, off_t length)
{
    return end(SEAM_FTRUNCATE, fd, begin(SEAM_FTRUNCATE, fd, NULL) ? afl_sys_linux.ftruncate(fd, length) : -1);
}

static int seam_touch(int fd)
{
    return end(SEAM_TOUCH, fd, begin(SEAM_TOUCH, fd, NULL) ? afl_sys_linux.touch(fd) : -1);
}

static int seam_sync(int fd)
{
    return end(SEAM_SYNC, fd, begin(SEAM_SYNC, fd, NULL) ? afl_sys_linux.sync(fd) : -1);
}

static int seam_rewind(int fd)
{
    return end(SEAM_REWIND, fd, begin(SEAM_REWIND, fd, NULL) ? afl_sys_linux.rewind(fd) : -1);
}

static ssize_t seam_write(int fd, const void *buffer, size_t size)
{
    return end(SEAM_WRITE, fd, begin(SEAM_WRITE, fd, NULL) ? (int)afl_sys_linux.write(fd, buffer, size) : -1);
}

static int seam_unlink(const char *path)
{
    return end(SEAM_UNLINK, -1, begin(SEAM_UNLINK, -1, path) ? afl_sys_linux.unlink(path) : -1);
}

static int seam_rename(const char *from, const char *to)
{
    return end(SEAM_RENAME, -1, begin(SEAM_RENAME, -1, from) ? afl_sys_linux.rename(from, to) : -1);
}

static int seam_link_fd(int fd, const char *path)
{
    return end(SEAM_LINK, fd, begin(SEAM_LINK, fd, path) ? afl_sys_linux.link_fd(fd, path) : -1);
}

static int seam_open_at(int dir, const char *name, int flags, mode_t mode)
{
    seam_call call = flags & O_CREAT ? SEAM_CREATE : SEAM_OPEN;
    return end(call, -1, begin(call, -1, name) ? afl_sys_linux.open_at(dir, name, flags, mode) : -1);
}

static int seam_stat_at(int dir, const char *name, struct stat *st)
{
    return end(SEAM_STAT, -1, begin(SEAM_STAT, -1, name) ? afl_sys_linux.stat_at(dir, name, st) : -1);
}

static int seam_mkdir_at(int dir, const char *name, mode_t mode)
{
    return end(SEAM_MKDIR, -1, begin(SEAM_MKDIR, -1, name) ? afl_sys_linux.mkdir_at(dir, name, mode) : -1);
}

static int seam_link_at(int dir, const char *from, const char *to)
{
    return end(SEAM_LINK, -1, begin(SEAM_LINK, -1, to) ? afl_sys_linux.link_at(dir, from, to) : -1);
}

static int seam_unlink_at(int dir, const char *name)
{
    return end(SEAM_UNLINK, -1, begin(SEAM_UNLINK, -1, name) ? afl_sys_linux.unlink_at(dir, name) : -1);
}

static int seam_rename_at(int dir, const char *from, const char *to)
{
    return end(SEAM_RENAME, -1, begin(SEAM_RENAME, -1, from) ? afl_sys_linux.rename_at(dir, from, to) : -1);
}

static ssize_t seam_list(int dir, void *buffer, size_t size)
{
    return end(SEAM_LIST, dir, begin(SEAM_LIST, dir, NULL) ? (int)afl_sys_linux.list(dir, buffer, size) : -1);
}

static int seam_random(void *buffer, size_t size)
{
    return end(SEAM_RANDOM, -1, begin(SEAM_RANDOM, -1, NULL) ? afl_sys_linux.random(buffer, size) : -1);
}

static int seam_mkdir(const char *path, mode_t mode)
{
    return end(SEAM_MKDIR, -1, begin(SEAM_MKDIR, -1, path) ? afl_sys_linux.mkdir(path, mode) : -1);
}

static ssize_t seam_read(int fd, void *buffer, size_t size)
{
    return end(SEAM_READ, fd, begin(SEAM_READ, fd, NULL) ? (int)afl_sys_linux.read(fd, buffer, size) : -1);
}

static ssize_t seam_read_head(int fd, void *buffer, size_t size, bool cached)
{
    bool go = begin(SEAM_READ_HEAD, fd, NULL);
    return end(SEAM_READ_HEAD, fd, go ? (int)afl_sys_linux.read_head(fd, buffer, size, cached) : -1);
}

static ssize_t seam_readlink(const char *path, char *target, size_t size)
{
    bool go = begin(SEAM_READLINK, -1, path);
    return end(SEAM_READLINK, -1, go ? (int)afl_sys_linux.readlink(path, target, size) : -1);
}

static char *seam_getcwd(char *buffer, size_t size)
{
    char *text = begin(SEAM_GETCWD, -1, NULL) ? afl_sys_linux.getcwd(buffer, size) : NULL;
    end(SEAM_GETCWD, -1, text ? 0 : -1);
    return text;
}

static int seam_descriptor_flags(int fd)
{
    return end(SEAM_GETFD, fd, begin(SEAM_GETFD, fd, NULL) ? afl_sys_linux.descriptor_flags(fd) : -1);
}

static int seam_gethostname(char *name, size_t size)
{
    return end(SEAM_HOSTNAME, -1, begin(SEAM_HOSTNAME, -1, NULL) ? afl_sys_linux.gethostname(name, size) : -1);
}

static int seam_probe(pid_t pid)
{
    return end(SEAM_PROBE, -1, begin(SEAM_PROBE, -1, NULL) ? afl_sys_linux.probe(pid) : -1);
}

static int seam_pidfd_open(pid_t pid)
{
    return end(SEAM_PIDFD, -1, begin(SEAM_PIDFD, -1, NULL) ? afl_sys_linux.pidfd_open(pid) : -1);
}

static void seam_wait(uint32_t *word, uint32_t expected, uint64_t timeout)
{
    if (seam_waits)
        seam_waits(timeout);
    else
        afl_sys_linux.wait(word, expected, timeout);
}

void seam_install(aflock_ctx *ctx)
{
    static afl_sys table;
    if (!table.open) {
        table = afl_sys_linux;
        table.open = seam_open;
        table.open_cached = seam_open_cached;
        table.dup_above = seam_dup_above;
        table.close = seam_close;
        table.flock = seam_flock;
        table.lock_ofd = seam_lock_ofd;
        table.fstat = seam_fstat;
        table.stat = seam_stat;
        table.identify = seam_identify;
        table.fchmod = seam_fchmod;
        table.ftruncate = seam_ftruncate;
        table.touch = seam_touch;
        table.sync = seam_sync;
        table.rewind = seam_rewind;
        table.write = seam_write;
        table.unlink = seam_unlink;
        table.rename = seam_rename;
        table.open_at = seam_open_at;
        table.stat_at = seam_stat_at;
        table.mkdir_at = seam_mkdir_at;
        table.link_at = seam_link_at;
        table.unlink_at = seam_unlink_at;
        table.rename_at = seam_rename_at;
        table.list = seam_list;
        table.random = seam_random;
        table.link_fd = seam_link_fd;
        table.mkdir = seam_mkdir;
        table.read = seam_read;
        table.read_head = seam_read_head;
        table.readlink = seam_readlink;
        table.getcwd = seam_getcwd;
        table.descriptor_flags = seam_descriptor_flags;
        table.gethostname = seam_gethostname;
        table.probe = seam_probe;
        table.pidfd_open = seam_pidfd_open;
        table.wait = seam_wait;
        loop_thread = pthread_self();
        pthread_atfork(enter, leave, leave);
    }
    ctx->sys = &table;
    ctx->gate->sys = &table;
}
