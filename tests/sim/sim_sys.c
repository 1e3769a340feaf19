/* The table of system calls that the library gets: the simulated file system, with everything around it that makes
 * calls unpleasant. Each call is a point at which others run, before and after it takes effect; it may hang, fail, or
 * be the last that its process makes. A process that is dead does not notice: its calls fail, and do nothing.
 */
#include "sim_trace.h"
#include "sim_world.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>

enum { ERRORS = 6 };

/* A kind of call: its name, what it may fail with, and whether it may be made on the loop's thread although the file
 * system is remote, because it never asks the server. */
typedef struct call_kind {
    const char *name;
    bool asks_nobody;
    int errors[ERRORS]; /* up to the first 0 */
} call_kind;

static const call_kind OPEN = {"open", false, {EINTR, EIO, EMFILE, ENFILE, ENOMEM, EACCES}};
static const call_kind OPEN_CACHED = {"open_cached", true, {EAGAIN, EMFILE}};
static const call_kind DUP = {"dup", true, {EMFILE}};
static const call_kind CLOSE = {"close", false, {EINTR, EIO}};
static const call_kind FORGET = {"close", true, {0}}; /* of a descriptor that is only a name (O_PATH) */
static const call_kind LOCK = {"lock", false, {EINTR, EIO, ENOLCK, ENOMEM}};
static const call_kind UNLOCK = {"unlock", false, {EINTR, EIO, ENOLCK}};
static const call_kind FSTAT = {"fstat", false, {EIO, ESTALE}};
static const call_kind STAT = {"stat", false, {EIO, ESTALE, ENOMEM}};
static const call_kind IDENTIFY = {"identify", true, {EIO}};
static const call_kind FCHMOD = {"fchmod", false, {EINTR, EIO, EPERM, EROFS}};
static const call_kind FTRUNCATE = {"ftruncate", false, {EINTR, EIO, EROFS}};
static const call_kind TOUCH = {"touch", false, {EINTR, EIO, EACCES, EROFS}};
static const call_kind MKDIR = {"mkdir", false, {EIO, ENOSPC}};
static const call_kind READLINK = {"readlink", false, {EIO, ENOMEM}};
static const call_kind READ = {"read", true, {EINTR, EIO}};
static const call_kind READ_HEAD = {"read_head", false, {EINTR, EIO}};
static const call_kind READ_CACHED = {"read_head", true, {EINTR, EAGAIN}}; /* what is in memory, and nothing else */

/* ------------------------------------------------------------------------------------------------- what can happen */

/* May the loop's thread make this call? */
static void check_thread(const call_kind *k, const sim_process *p, const sim_volume *v, const char *text)
{
    if (!sim_on_loop() || (p->in_free && p->context->refused))
        return; /* what the executor does not take is given back here */
    sim_require(!p->pool_only, "no file system call on the loop of a program that uses AFLOCK_IO_POOL: %s %s", k->name,
                text ? text : "");
    sim_require(p->inline_too || k->asks_nobody || !v || !v->remote, "the loop does not ask a server: %s %s", k->name,
                text ? text : "");
}

static bool may_hang(const sim_process *p)
{
    return !sim_on_loop() || p->inline_too;
}

/* The server does not answer, or something else takes its time. */
static bool hang(const call_kind *k, const sim_process *p, const sim_volume *v)
{
    uint64_t until = 0;
    if (!may_hang(p) || k->asks_nobody)
        return true;
    if (sim_chance(sim_weather_now.stall))
        until = sim_now + sim_magnitude(100 * SIM_MS, sim_weather_now.stall_most);
    if (v && v->unreachable_until > sim_now && v->unreachable_until > until)
        until = v->unreachable_until;
    if (!until)
        return true;
    sim_count.stalls++;
    sim_note("hangs", (int64_t)((until - sim_now) / SIM_MS), 0, k->name);
    while (sim_now < until && !sim_the_world.calm) {
        sim_sleep_until(until);
        if (p->dead)
            return false;
    }
    return true;
}

static bool takes_its_time(const sim_volume *v)
{
    uint64_t most = v && v->remote ? sim_weather_now.remote : sim_weather_now.local;
    return sim_chance(400000) ? sim_delay(0) : sim_delay(sim_magnitude(SIM_US, most));
}

static bool dies(sim_process *p)
{
    if (!sim_chance(sim_weather_now.crash))
        return false;
    sim_kill(p);
    sim_delay(0);
    return true;
}

/* The part before the effect. False: there is none, errno is set. */
static bool begin(const call_kind *k, sim_volume *v, int fd, const char *text)
{
    sim_process *p = sim_current();
    errno = EIO;
    if (p->dead)
        return false;
    sim_count.calls++;
    check_thread(k, p, v, text);
    bool lives = hang(k, p, v) && takes_its_time(v) && !dies(p);
    errno = EIO;
    if (!lives)
        return false;
    if (!sim_chance(sim_weather_now.error))
        return true;
    int count = 0;
    while (count < ERRORS && k->errors[count])
        count++;
    if (count == 0)
        return true;
    int error = k->errors[sim_below((uint64_t)count)];
    sim_count.errors++;
    sim_note(k->name, fd, -error, "by chance");
    errno = error;
    return false;
}

/* The part after the effect. What the call returns. */
static int end(const call_kind *k, const sim_volume *v, int fd, int result, const char *text)
{
    sim_process *p = sim_current();
    sim_note(k->name, fd, result, text);
    if (takes_its_time(v))
        dies(p);
    if (result >= 0)
        return result;
    errno = -result;
    return -1;
}

static sim_volume *volume_of(const sim_process *p, int fd)
{
    const sim_file *f = sim_fs_file(&p->task, fd);
    return f && f->inode ? f->inode->volume : NULL;
}

/* ------------------------------------------------------------------------------------------------------- the calls */

static int sys_open(const char *path, int flags, mode_t mode)
{
    sim_process *p = sim_current();
    sim_volume *v = sim_fs_volume_at(&p->task, path);
    const call_kind *k = strncmp(path, "/proc/", 6) == 0 ? &READ : &OPEN;
    if (!begin(k, v, -1, path))
        return -1;
    return end(&OPEN, v, -1, sim_fs_open(&p->task, path, flags, mode), path);
}

static int sys_open_cached(const char *path, int flags)
{
    sim_process *p = sim_current();
    if (!begin(&OPEN_CACHED, NULL, -1, path))
        return -1;
    bool cold = sim_chance(sim_weather_now.cold);
    return end(&OPEN_CACHED, NULL, -1, cold ? -EAGAIN : sim_fs_open(&p->task, path, flags, 0), path);
}

static int sys_dup_above(int fd, bool close_on_exec)
{
    sim_process *p = sim_current();
    if (!begin(&DUP, NULL, fd, NULL))
        return -1;
    return end(&DUP, NULL, fd, sim_fs_dup_above(&p->task, fd, close_on_exec), NULL);
}

/* Listeners hear of it before the lock goes; and it closes even if it fails. */
static int sys_close(int fd)
{
    sim_process *p = sim_current();
    const sim_file *what = sim_fs_file(&p->task, fd);
    sim_volume *v = volume_of(p, fd);
    const call_kind *k = what && (what->flags & O_PATH || what->proc) ? &FORGET : &CLOSE;
    bool good = begin(k, v, fd, NULL);
    int error = errno;
    if (p->dead)
        return 0;
    sim_file *f = sim_fs_detach(&p->task, fd);
    sim_require(f != NULL, "a descriptor that is closed is open: %d", fd);
    takes_its_time(v);
    sim_fs_put(f);
    return end(k, v, fd, good ? 0 : -error, NULL);
}

/* The kernel wakes who waits some time after the lock is free. False: the process has died. */
static bool wait_in_kernel(void)
{
    sim_require(!sim_on_loop(), "the loop does not wait for a lock");
    sim_count.parked++;
    return sim_delay(sim_magnitude(10 * SIM_US, 10 * SIM_MS));
}

static int sys_flock(int fd, int operation)
{
    sim_process *p = sim_current();
    sim_volume *v = volume_of(p, fd);
    const call_kind *k = operation & LOCK_UN ? &UNLOCK : &LOCK;
    if (!begin(k, v, fd, NULL))
        return p->dead && operation & LOCK_UN ? 0 : -1;
    const sim_file *f = sim_fs_file(&p->task, fd);
    if (f && v && v->loose && k == &LOCK && f->flock != F_UNLCK && sim_chance(700000)) { /* a conversion */
        sim_fs_flock(&p->task, fd, LOCK_UN);
        if (!sim_delay(sim_magnitude(SIM_US, SIM_MS)))
            return -1;
    }
    int result = sim_fs_flock(&p->task, fd, operation);
    while (result == -EWOULDBLOCK && !(operation & LOCK_NB)) {
        if (!wait_in_kernel())
            return -1;
        result = sim_fs_flock(&p->task, fd, operation);
    }
    return end(k, v, fd, result, NULL);
}

static int sys_lock_ofd(int fd, short type, off_t start, off_t length, bool wait)
{
    sim_process *p = sim_current();
    sim_volume *v = volume_of(p, fd);
    const call_kind *k = type == F_UNLCK ? &UNLOCK : &LOCK;
    if (!begin(k, v, fd, NULL))
        return p->dead && type == F_UNLCK ? 0 : -1;
    int result = sim_fs_lock_ofd(&p->task, fd, type, start, length);
    while (result == -EAGAIN && wait) {
        if (!wait_in_kernel())
            return -1;
        result = sim_fs_lock_ofd(&p->task, fd, type, start, length);
    }
    return end(k, v, fd, result, NULL);
}

static int sys_fstat(int fd, struct stat *st)
{
    sim_process *p = sim_current();
    sim_volume *v = volume_of(p, fd);
    return begin(&FSTAT, v, fd, NULL) ? end(&FSTAT, v, fd, sim_fs_fstat(&p->task, fd, st), NULL) : -1;
}

static int sys_stat(const char *path, struct stat *st, bool follow)
{
    sim_process *p = sim_current();
    sim_volume *v = sim_fs_volume_at(&p->task, path);
    return begin(&STAT, v, -1, path) ? end(&STAT, v, -1, sim_fs_stat(&p->task, path, st, follow), path) : -1;
}

static int sys_identify(int fd, afl_identity *id)
{
    sim_process *p = sim_current();
    sim_volume *v = volume_of(p, fd);
    return begin(&IDENTIFY, v, fd, NULL) ? end(&IDENTIFY, v, fd, sim_fs_identify(&p->task, fd, id), NULL) : -1;
}

static int sys_fchmod(int fd, mode_t mode)
{
    sim_process *p = sim_current();
    sim_volume *v = volume_of(p, fd);
    return begin(&FCHMOD, v, fd, NULL) ? end(&FCHMOD, v, fd, sim_fs_fchmod(&p->task, fd, mode), NULL) : -1;
}

static int sys_ftruncate(int fd, off_t length)
{
    sim_process *p = sim_current();
    sim_volume *v = volume_of(p, fd);
    return begin(&FTRUNCATE, v, fd, NULL) ? end(&FTRUNCATE, v, fd, sim_fs_ftruncate(&p->task, fd, length), NULL) : -1;
}

static int sys_touch(int fd)
{
    sim_process *p = sim_current();
    sim_volume *v = volume_of(p, fd);
    return begin(&TOUCH, v, fd, NULL) ? end(&TOUCH, v, fd, sim_fs_touch(&p->task, fd), NULL) : -1;
}

static int sys_mkdir(const char *path, mode_t mode)
{
    sim_process *p = sim_current();
    sim_volume *v = sim_fs_volume_at(&p->task, path);
    return begin(&MKDIR, v, -1, path) ? end(&MKDIR, v, -1, sim_fs_mkdir(&p->task, path, mode), path) : -1;
}

static ssize_t sys_read(int fd, void *buffer, size_t size)
{
    sim_process *p = sim_current();
    return begin(&READ, NULL, fd, NULL) ? end(&READ, NULL, fd, sim_fs_read(&p->task, fd, buffer, size), NULL) : -1;
}

static ssize_t sys_read_head(int fd, void *buffer, size_t size, bool cached)
{
    sim_process *p = sim_current();
    sim_volume *v = volume_of(p, fd);
    const call_kind *k = cached ? &READ_CACHED : &READ_HEAD;
    if (!begin(k, v, fd, NULL))
        return -1;
    bool cold = cached && sim_chance(sim_weather_now.cold);
    return end(k, v, fd, cold ? -EAGAIN : sim_fs_read_head(&p->task, fd, buffer, size), NULL);
}

static ssize_t sys_readlink(const char *path, char *target, size_t size)
{
    sim_process *p = sim_current();
    sim_volume *v = sim_fs_volume_at(&p->task, path);
    return begin(&READLINK, v, -1, path) ? end(&READLINK, v, -1, sim_fs_readlink(&p->task, path, target, size), path)
                                         : -1;
}

static char *sys_getcwd(char *buffer, size_t size)
{
    int result = sim_fs_getcwd(&sim_current()->task, buffer, size);
    if (result >= 0)
        return buffer;
    errno = -result;
    return NULL;
}

static int sys_descriptor_flags(int fd)
{
    int result = sim_fs_descriptor_flags(&sim_current()->task, fd);
    if (result >= 0)
        return result;
    errno = -result;
    return -1;
}

static void sys_guard_unmap(uint32_t *guard)
{
    afl_sys_linux.guard_unmap(guard); /* made before the context had this table */
}

static pid_t sys_getpid(void)
{
    return (pid_t)sim_current()->pid;
}

/* ---------------------------------------------------------------------------------------- waiting for workers */

static void sys_wait(uint32_t *word, uint32_t expected, uint64_t timeout)
{
    sim_process *p = sim_current();
    if (p->dead || *word != expected)
        return;
    p->word = word;
    uint64_t lateness = sim_below(sim_weather_now.lateness + 1);
    sim_sleep_until(timeout > SIM_NEVER / 2 ? SIM_NEVER : sim_now + timeout + lateness);
    p->word = NULL;
}

static void sys_wake(uint32_t *word)
{
    sim_process *p = sim_current();
    uint32_t *changed = word;
    if (!p->dead && p->word == changed)
        sim_wake(p->main, sim_now + sim_below(sim_weather_now.latency + 1));
}

static void sys_yield(void)
{
    sim_delay(sim_below(10 * SIM_US));
}

const afl_sys sim_sys = {
    .open = sys_open,
    .open_cached = sys_open_cached,
    .dup_above = sys_dup_above,
    .close = sys_close,
    .flock = sys_flock,
    .lock_ofd = sys_lock_ofd,
    .fstat = sys_fstat,
    .stat = sys_stat,
    .identify = sys_identify,
    .fchmod = sys_fchmod,
    .ftruncate = sys_ftruncate,
    .touch = sys_touch,
    .mkdir = sys_mkdir,
    .read = sys_read,
    .read_head = sys_read_head,
    .readlink = sys_readlink,
    .getcwd = sys_getcwd,
    .descriptor_flags = sys_descriptor_flags,
    .guard_unmap = sys_guard_unmap,
    .getpid = sys_getpid,
    .wait = sys_wait,
    .wake = sys_wake,
    .yield = sys_yield,
};
