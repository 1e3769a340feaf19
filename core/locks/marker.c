/* Makes markers; see marker.h. A failure of any kind on the way to a whole one, except in writing the record, lets the
 * other way tell what is wrong: it is what everybody knows who makes files, and looks for missing parents.
 */
#include "locks/marker.h"

#include "locks/identity.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

static int close_fd(const afl_sys *sys, int fd)
{
    return sys->close(fd) == 0 || errno == EINTR ? 0 : errno;
}

static bool is(const struct stat *there, uint64_t dev, uint64_t ino)
{
    return there->st_dev == dev && there->st_ino == ino;
}

int afl_marker_unlink(const afl_sys *sys, const char *path, uint64_t dev, uint64_t ino)
{
    struct stat there;
    if (afl_stat(sys, path, &there, false) != 0)
        return errno == ENOENT || errno == ENOTDIR || errno == ESTALE ? 0 : errno;
    if (!is(&there, dev, ino))
        return 0; /* somebody has broken it, and it is another one's now */
    return afl_unlink(sys, path) == 0 || errno == ENOENT ? 0 : errno;
}

int afl_marker_open(const afl_work *w)
{
    struct stat st;
    const int access = w->protocol->lease ? O_WRONLY | O_NOCTTY | O_NONBLOCK : O_PATH; /* a lease is touched by it */
    int fd = afl_open(w->sys, w->path, access | O_NOFOLLOW | O_CLOEXEC, 0);
    fd = afl_above_streams(w->sys, fd);
    if (fd < 0 || (afl_fstat(w->sys, fd, &st) == 0 && is(&st, w->dev, w->ino)))
        return fd;
    close_fd(w->sys, fd);
    return -1;
}

/* ------------------------------------------------------------------------------------------------------- the record */

/* A network file system may keep what was written to itself until a close, and tell only then that there is no room. To
 * others the marker would be empty until the lock is released, and who finds it so may break it. So one of two
 * descriptors is closed at once. What stays is no standard stream: nothing that is printed ends in the record. */
static int flush(const afl_work *w, afl_marker *m)
{
    if (w->local && m->fd > 2)
        return 0;
    int first = m->fd, second = w->sys->dup_above(first, true);
    if (second < 0)
        return errno;
    m->fd = second;
    return close_fd(w->sys, first);
}

/* Who we are. 0: that cannot be told, the fault says why. */
static size_t own_record(afl_work *w, afl_marker_print print, char *text, size_t size, afl_fault *fault)
{
    char host[AFL_HOST_NAME];
    *fault = (afl_fault){"gethostname", EINVAL};
    if (!afl_host_name(w->sys, host))
        return 0;
    afl_record own = {.pid = (int32_t)w->sys->getpid(), .host = {host, strlen(host)}};
    own.has_start = afl_own_start(w->sys, &w->self, &own.start);
    errno = 0;
    const size_t length = print(w, &own, text, size);
    if (length == 0 && errno)
        *fault = (afl_fault){"random", errno};
    return length;
}

static bool identify(const afl_sys *sys, afl_marker *m, mode_t *mode)
{
    struct stat st;
    if (afl_fstat(sys, m->fd, &st) != 0) {
        m->fault = (afl_fault){"fstat", errno};
        return false;
    }
    m->dev = st.st_dev;
    m->ino = st.st_ino;
    *mode = st.st_mode;
    return true;
}

/* Makes the new file say who we are. */
static bool fill_in(afl_work *w, afl_marker_print print, afl_marker *m, mode_t mode)
{
    const afl_sys *sys = w->sys;
    char text[AFL_RECORD_SIZE];
    m->fault = (afl_fault){"umask", EACCES};
    if (!(mode & S_IWUSR)) /* it would look like a file that nobody may lock */
        return false;
    const size_t size = own_record(w, print, text, sizeof text, &m->fault);
    if (size == 0)
        return false;
    m->fault = (afl_fault){"write", afl_write_all(sys, m->fd, text, size)};
    if (m->fault.error)
        return false;
    m->fault = (afl_fault){"close", flush(w, m)};
    return m->fault.error == 0;
}

static int drop(const afl_sys *sys, afl_marker *m)
{
    int fd = m->fd;
    m->fd = -1;
    return close_fd(sys, fd);
}

/* ----------------------------------------------------------------------------------------------------- the two ways */

/* Opens a new file, and makes the marker's parents if asked. False: the fault says why. */
static bool open_new(const afl_work *w, const char *path, int flags, afl_marker *m)
{
    const mode_t mode = w->file_mode == AFLOCK_MODE_DEFAULT ? 0666 : (mode_t)(w->file_mode & 07777);
    m->fault = (afl_fault){"open", 0};
    for (int i = 0; i < 2; i++) {
        m->fd = afl_open(w->sys, path, flags | O_WRONLY | O_CLOEXEC, mode);
        if (m->fd >= 0)
            return true;
        m->fault.error = errno;
        if (m->fault.error != ENOENT || i > 0 || !(w->flags & AFLOCK_MAKE_PARENTS) ||
            !afl_make_parents(w->sys, w->path, &m->fault))
            return false;
        m->fault.step = "open";
    }
    return false;
}

/* What file systems and kernels say that do not know the call. Anything else may be different the next time. */
static bool is_unknown(int error)
{
    return error == EOPNOTSUPP || error == ENOSYS || error == EINVAL;
}

static bool open_whole(const afl_work *w, afl_marker_way *way, afl_marker *m)
{
    char folder[PATH_MAX];
    const char *slash = strrchr(w->path, '/');
    snprintf(folder, sizeof folder, "%.*s", slash == w->path ? 1 : (int)(slash - w->path), w->path);
    if (open_new(w, folder, O_TMPFILE, m))
        return true;
    if (is_unknown(m->fault.error) || m->fault.error == EISDIR)
        *way = AFL_MARKER_NAMED;
    return false;
}

/* Gives the file its name. 0, or errno. A call that was interrupted, or whose answer was lost, may have done it: then
 * what is in the way is our own. */
static int name_it(const afl_work *w, const afl_marker *m)
{
    struct stat there;
    if (afl_link(w->sys, m->fd, w->path) == 0)
        return 0;
    const int error = errno;
    const bool ours = error == EEXIST && afl_stat(w->sys, w->path, &there, false) == 0 && is(&there, m->dev, m->ino);
    return ours ? 0 : error;
}

bool afl_marker_prepare(afl_work *w, afl_marker_print print, afl_marker *m)
{
    afl_marker_way way = AFL_MARKER_WHOLE;
    mode_t mode;
    *m = (afl_marker){.fd = -1};
    if (!open_whole(w, &way, m))
        return false;
    if (identify(w->sys, m, &mode) && fill_in(w, print, m, mode))
        return true;
    drop(w->sys, m);
    return false;
}

/* It says by its time how old the hold is. */
afl_made afl_marker_name(const afl_work *w, const afl_marker *m)
{
    if (w->sys->touch(m->fd) != 0)
        return AFL_MADE_FAILED;
    const int error = name_it(w, m);
    return error == 0 ? AFL_MADE : error == EEXIST ? AFL_MADE_EXISTS : AFL_MADE_FAILED;
}

void afl_marker_drop(const afl_work *w, afl_marker *m)
{
    const int before = errno;
    if (m->fd >= 0)
        drop(w->sys, m);
    errno = before;
}

/* False: the other way is to be taken. */
static bool make_whole(afl_work *w, afl_marker_print print, afl_marker_way *way, afl_marker *m, afl_made *made)
{
    mode_t mode;
    if (!open_whole(w, way, m))
        return false;
    if (!identify(w->sys, m, &mode) || !fill_in(w, print, m, mode)) {
        m->cleanup_errno = drop(w->sys, m);
        *made = AFL_MADE_FAILED;
        return true;
    }
    const int error = name_it(w, m);
    *made = error ? AFL_MADE_EXISTS : AFL_MADE;
    if (error)
        drop(w->sys, m);
    if (error == 0 || error == EEXIST)
        *way = AFL_MARKER_WHOLE;
    else if (is_unknown(error) || error == EPERM || error == EXDEV)
        *way = AFL_MARKER_NAMED;
    return error == 0 || error == EEXIST;
}

/* Nothing says which file it is: it is left as one that anybody breaks in 2 s. */
static void disown(const afl_sys *sys, afl_marker *m)
{
    int undone = afl_write_all(sys, m->fd, "?", 1);
    int closed = drop(sys, m);
    m->cleanup_errno = undone ? undone : closed;
}

/* It is a marker as soon as it says whose. Who is stopped for 2 s before that may have lost it meanwhile. */
static afl_made make_named(afl_work *w, afl_marker_print print, afl_marker *m)
{
    struct stat there;
    mode_t mode;
    if (!open_new(w, w->path, O_CREAT | O_EXCL | O_NOFOLLOW | O_NOCTTY, m))
        return m->fault.error == EEXIST ? AFL_MADE_EXISTS : AFL_MADE_FAILED;
    if (!identify(w->sys, m, &mode)) {
        disown(w->sys, m);
        return AFL_MADE_FAILED;
    }
    const bool filled = fill_in(w, print, m, mode);
    if (filled && (afl_stat(w->sys, w->path, &there, false) == 0 ? is(&there, m->dev, m->ino) : errno != ENOENT))
        return AFL_MADE;
    int undone = filled ? 0 : afl_marker_unlink(w->sys, w->path, m->dev, m->ino);
    int closed = drop(w->sys, m);
    m->cleanup_errno = undone ? undone : closed;
    return filled ? AFL_MADE_LOST : AFL_MADE_FAILED;
}

bool afl_marker_is_whole(const afl_work *w, afl_marker_way *way)
{
    afl_marker m;
    if (*way == AFL_MARKER_UNKNOWN && open_whole(w, way, &m)) {
        *way = AFL_MARKER_WHOLE;
        close_fd(w->sys, m.fd);
    }
    return *way == AFL_MARKER_WHOLE;
}

afl_made afl_marker_make(afl_work *w, afl_marker_print print, afl_marker_way *way, afl_marker *m)
{
    *m = (afl_marker){.fd = -1};
    afl_made made;
    if (*way == AFL_MARKER_NAMED || !make_whole(w, print, way, m, &made))
        made = make_named(w, print, m);
    return made;
}
