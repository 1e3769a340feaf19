/* The protocol `pidfile`: one instance of a program (portalocker's PidFileLock). The lock is a temporary native one on
 * PATH.lock (kernel.c); PATH holds the pid of its holder and is only touched while that is locked. docs/pidfile.md has
 * the format.
 *
 * The pid file is made anew each time, exclusively: what an earlier holder left is unlinked, and nobody's file is
 * written through a link. Whoever does not get the lock reads it.
 */
#include "locks/kernel.h"
#include "locks/marker.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

enum { PID_TEXT = 24 };

typedef struct pidfile {
    uint64_t dev, ino; /* of the file with our pid; ino 0: there is none */
    pid_t pid;         /* what it says */
} pidfile;

/* The name of the file that is locked. False: it is too long. */
static bool name_lock(const afl_protocol *protocol, const char *path, char name[PATH_MAX])
{
    return snprintf(name, PATH_MAX, "%s%s", path, protocol->suffix) < PATH_MAX;
}

/* ------------------------------------------------------------------------------------------------------- reading it */

/* White space around the digits is for those who write it by hand. 0: that is no process id. */
static pid_t parse(const char *text)
{
    static const char BLANKS[] = " \t\r\n";
    long long pid = 0;
    text += strspn(text, BLANKS);
    const size_t digits = strspn(text, "0123456789");
    if (digits == 0 || digits > 10 || text[digits + strspn(text + digits, BLANKS)])
        return 0;
    for (size_t i = 0; i < digits; i++)
        pid = pid * 10 + (text[i] - '0');
    return pid <= INT_MAX ? (pid_t)pid : 0;
}

/* What the file says; *record is what it is. 0: no process id. */
static pid_t read_pid(const afl_sys *sys, const char *path, struct stat *st, aflock_record *record)
{
    char text[PID_TEXT + 1] = "";
    *record = AFLOCK_RECORD_NONE;
    int fd = afl_open(sys, path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC, 0);
    fd = afl_above_streams(sys, fd);
    if (fd < 0)
        return 0;
    const bool regular = afl_fstat(sys, fd, st) == 0 && S_ISREG(st->st_mode);
    const ssize_t size = regular ? afl_read_all(sys, fd, text, PID_TEXT) : -1;
    sys->close(fd);
    if (size < 0)
        return 0;
    const pid_t pid = size < PID_TEXT ? parse(text) : 0;
    *record = pid ? AFLOCK_RECORD_PID : size ? AFLOCK_RECORD_MALFORMED : AFLOCK_RECORD_EMPTY;
    return pid;
}

static bool exists(const afl_sys *sys, pid_t pid)
{
    return sys->probe(pid) == 0 || errno != ESRCH;
}

/* ------------------------------------------------------------------------------------------------------- writing it */

static bool failed(afl_fault *fault, const char *step, int error)
{
    *fault = (afl_fault){step, error};
    return false;
}

/* What was left there goes, if it is a file. */
static bool clear(const afl_work *w, const char *path, afl_fault *fault)
{
    struct stat st;
    if (afl_stat(w->sys, path, &st, false) != 0)
        return errno == ENOENT || failed(fault, "stat", errno);
    if (!S_ISREG(st.st_mode))
        return failed(fault, "open", S_ISDIR(st.st_mode) ? EISDIR : S_ISLNK(st.st_mode) ? ELOOP : ENXIO);
    return afl_unlink(w->sys, path) == 0 || errno == ENOENT || failed(fault, "unlink", errno);
}

static bool set_mode(const afl_work *w, int fd)
{
    int rc;
    do
        rc = w->sys->fchmod(fd, (mode_t)w->file_mode & 07777);
    while (rc != 0 && errno == EINTR);
    return rc == 0 || errno == EPERM || errno == EACCES;
}

/* Some file systems cannot, and need not. */
static bool sync_file(const afl_work *w, int fd)
{
    int rc;
    do
        rc = w->sys->sync(fd);
    while (rc != 0 && errno == EINTR);
    return rc == 0 || errno == EINVAL || errno == ENOTSUP || errno == EROFS;
}

static bool fill(afl_work *w, int fd, afl_fault *fault)
{
    char text[PID_TEXT];
    struct stat st;
    pidfile *own = w->state;
    own->pid = w->sys->getpid();
    const int length = snprintf(text, sizeof text, "%lld", (long long)own->pid);
    if (afl_fstat(w->sys, fd, &st) != 0)
        return failed(fault, "fstat", errno);
    own->dev = st.st_dev;
    own->ino = st.st_ino;
    if (w->file_mode != AFLOCK_MODE_DEFAULT && !set_mode(w, fd))
        return failed(fault, "fchmod", errno);
    const int error = afl_write_all(w->sys, fd, text, (size_t)length);
    if (error)
        return failed(fault, "write", error);
    return sync_file(w, fd) || failed(fault, "fsync", errno);
}

/* Whether the disk is full a network file system may tell at the close only. */
static bool write_pid(afl_work *w, const char *path, afl_fault *fault)
{
    const mode_t mode = w->file_mode == AFLOCK_MODE_DEFAULT ? 0666 : (mode_t)(w->file_mode & 07777);
    if (!clear(w, path, fault))
        return false;
    int fd = afl_open(w->sys, path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_NOCTTY | O_CLOEXEC, mode);
    const bool made = fd >= 0;
    fd = afl_above_streams(w->sys, fd);
    bool done = fd >= 0 ? fill(w, fd, fault) : failed(fault, made ? "dup" : "open", errno);
    if (fd >= 0 && w->sys->close(fd) != 0 && errno != EINTR && done)
        done = failed(fault, "close", errno);
    if (made && !done && !((const pidfile *)w->state)->ino)
        afl_unlink(w->sys, path); /* not identified, but made by us a moment ago */
    return done;
}

/* If somebody has removed both files meanwhile, another one may hold the lock by now, and his file may have the number
 * that ours had. */
static bool names_another(const afl_work *w, const char *path)
{
    struct stat st;
    aflock_record record;
    const pid_t pid = read_pid(w->sys, path, &st, &record);
    return pid ? pid != ((const pidfile *)w->state)->pid : record == AFLOCK_RECORD_EMPTY;
}

/* 0 or errno. */
static int remove_pid(afl_work *w, const char *path, bool whole)
{
    pidfile *own = w->state;
    int error = 0;
    if (own->ino && !(whole && names_another(w, path)))
        error = afl_marker_unlink(w->sys, path, own->dev, own->ino);
    own->ino = 0;
    return error;
}

/* ------------------------------------------------------------------------------------------------------ the operation
 */

/* Of which of the two files a step has failed: PATH and `suffix`. */
static char *blame(const char *path, const char *suffix, const char *step)
{
    char reason[64];
    (void)snprintf(reason, sizeof reason, "%s failed", step);
    return afl_describe(path, suffix, NULL, reason);
}

/* The lock is ours; without the pid it is of no use. */
static void publish(afl_work *w, const char *path)
{
    afl_fault fault;
    if (write_pid(w, path, &fault))
        return;
    const int removing = remove_pid(w, path, false);
    afl_work_fail(w, AFL_GRIP_NONE, fault.step, fault.error);
    w->detail = blame(path, "", fault.step);
    afl_kernel_undo(w);
    if (removing)
        w->outcome.cleanup_errno = removing;
}

static void note_holder(afl_work *w, const char *path)
{
    struct stat st;
    aflock_record record;
    const pid_t pid = read_pid(w->sys, path, &st, &record);
    w->holder_pid = pid && exists(w->sys, pid) ? pid : 0;
}

static void operate(afl_work *w, const char *path)
{
    afl_fault fault;
    const int removing = w->op == AFL_OP_RELEASE ? remove_pid(w, path, true) : 0;
    afl_kernel_run(w);
    if (w->outcome.answer == AFL_ERROR && w->outcome.status != AFLOCK_EREFUSED)
        w->detail = blame(path, w->protocol->suffix, w->outcome.step);
    if (w->op == AFL_OP_RELEASE && w->outcome.answer == AFL_ERROR)
        write_pid(w, path, &fault); /* it is held as before */
    if (removing && w->outcome.answer == AFL_WON)
        w->outcome.cleanup_errno = removing;
    if (w->op != AFL_OP_TRY)
        return;
    w->holder_pid = 0;
    if (w->outcome.answer == AFL_WON)
        publish(w, path);
    else if (w->outcome.answer == AFL_CONTENDED)
        note_holder(w, path);
}

static void run(afl_work *w)
{
    char name[PATH_MAX];
    const char *path = w->path;
    w->not_inline = w->inline_only;
    if (w->inline_only)
        return;
    if (!name_lock(w->protocol, path, name)) {
        afl_work_fail(w, AFL_GRIP_NONE, "open", ENAMETOOLONG);
        w->detail = blame(path, w->protocol->suffix, "open");
        return;
    }
    w->path = name;
    operate(w, path);
    w->path = path;
}

static void reconcile(afl_work *w)
{
    char name[PATH_MAX];
    const char *path = w->path;
    if (w->fd < 0 || !name_lock(w->protocol, path, name))
        return;
    w->path = name;
    remove_pid(w, path, true);
    afl_kernel_reconcile(w);
    w->path = path;
}

/* ----------------------------------------------------------------------------------------------------- the questions
 */

static void ask_of_lock(afl_query *q, void (*ask)(afl_query *q))
{
    char name[PATH_MAX];
    const char *path = q->path;
    q->path = name;
    q->follow = false;
    if (name_lock(q->protocol, path, name))
        ask(q);
    else
        afl_query_fail(q, "open", ENAMETOOLONG);
    q->path = path;
    if (q->status == AFLOCK_EREPLACED)
        q->detail = afl_describe(path, q->protocol->suffix, NULL, "it was removed or replaced");
    else if (q->status)
        q->detail = blame(path, q->protocol->suffix, q->step);
}

static void verify(afl_query *q)
{
    ask_of_lock(q, afl_query_verify);
}

/* Who took the lock may have forked, and may not be of this pid namespace: what the file says counts. */
static void inspect(afl_query *q)
{
    struct stat st;
    ask_of_lock(q, afl_kernel_inspect);
    const pid_t pid = read_pid(q->sys, q->path, &st, &q->record);
    if (!pid)
        return;
    q->pid = pid;
    q->here = true;
    q->gone = !exists(q->sys, pid);
    q->age = afl_age(q->sys, &st.st_mtim);
}

const afl_protocol afl_protocol_pidfile = {
    .name = "pidfile",
    .kernel = &afl_kernel_flock,
    .hand_on = true,
    .temporary = true,
    .suffix = ".lock",
    .notify = AFLOCK_ON_FILE,
    .park = true,
    .state_size = sizeof(pidfile),
    .run = run,
    .reconcile = reconcile,
    .abandon = afl_kernel_abandon,
    .verify = verify,
    .inspect = inspect,
    .waiters = afl_kernel_waiters,
};
