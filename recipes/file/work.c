/* See work.h. Every call may fail, be interrupted or do a part only; whatever happens the file has its old or its new
 * content, and FILE.lock.tmp goes away as far as that is possible. */
#include "file/work.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* False, for a tail call. */
static bool fail(file_work *w, const char *step, const char *at, int error)
{
    w->step = step;
    w->at = at;
    w->sys_errno = error;
    return false;
}

/* --------------------------------------------------------------------------------------------------- system calls */

/* Not every libc has renameat2. */
static int rename_new(const char *from, const char *to)
{
    enum { NOREPLACE = 1 };
    return (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, NOREPLACE);
}

/* Interrupted calls are made again. */
#define AGAIN(result, call) \
    do                      \
        (result) = (call);  \
    while ((result) < 0 && errno == EINTR)

#define AGAIN_CALL(name, parameters, arguments) \
    static int again_##name parameters          \
    {                                           \
        int result;                             \
        AGAIN(result, name arguments);          \
        return result;                          \
    }

AGAIN_CALL(fsync, (int fd), (fd))
AGAIN_CALL(fstat, (int fd, struct stat *st), (fd, st))
AGAIN_CALL(lstat, (const char *path, struct stat *st), (path, st))
AGAIN_CALL(fchmod, (int fd, mode_t mode), (fd, mode))
AGAIN_CALL(fchown, (int fd, uid_t user, gid_t group), (fd, user, group))
AGAIN_CALL(ftruncate, (int fd, off_t length), (fd, length))
AGAIN_CALL(unlink, (const char *path), (path))
AGAIN_CALL(link, (const char *from, const char *to), (from, to))
AGAIN_CALL(rename, (const char *from, const char *to), (from, to))
AGAIN_CALL(rename_new, (const char *from, const char *to), (from, to))

/* Without following a link at the end, and without waiting for the other end of a FIFO. */
static int open_file(const char *path, int flags, mode_t mode)
{
    int fd;
    AGAIN(fd, open(path, flags | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC | O_NOCTTY, mode));
    return fd;
}

static ssize_t read_some(int fd, void *buffer, size_t length, off_t at)
{
    ssize_t count;
    AGAIN(count, pread(fd, buffer, length, at));
    return count;
}

static ssize_t write_once(int fd, const void *data, size_t length)
{
    ssize_t count;
    AGAIN(count, write(fd, data, length));
    return count;
}

static bool write_all(int fd, const char *data, size_t length)
{
    while (length > 0) {
        ssize_t count = write_once(fd, data, length);
        if (count < 0)
            return false;
        data += count;
        length -= (size_t)count;
    }
    return true;
}

/* 0, or the errno with which others are refused. */
static int error_of_type(const struct stat *st)
{
    return S_ISREG(st->st_mode) ? 0 : S_ISLNK(st->st_mode) ? ELOOP : S_ISDIR(st->st_mode) ? EISDIR : ENXIO;
}

/* ---------------------------------------------------------------------------------------------------------- reading */

static bool read_open_file(file_work *w, int fd)
{
    struct stat st;
    if (again_fstat(fd, &st) != 0)
        return fail(w, "stat", w->path, errno);
    if (error_of_type(&st))
        return fail(w, "open", w->path, error_of_type(&st));
    if ((uint64_t)st.st_size > w->max_size)
        return fail(w, "read", w->path, EFBIG);
    size_t room = (size_t)st.st_size, length = 0;
    char *data = malloc(room + 1);
    if (!data)
        return fail(w, "read", w->path, ENOMEM);
    while (length < room) { /* the file is nobody else's while we hold the lock: it does not grow */
        ssize_t count = read_some(fd, data + length, room - length, (off_t)length);
        if (count < 0) {
            int error = errno;
            free(data);
            return fail(w, "read", w->path, error);
        }
        if (count == 0)
            break;
        length += (size_t)count;
    }
    data[length] = '\0';
    w->content = (aflock_file_content){.data = data, .length = length, .exists = 1};
    return true;
}

/* What is missing is read as nothing. */
static bool read_file(file_work *w)
{
    int fd = open_file(w->path, O_RDONLY, 0);
    if (fd < 0 && errno == ENOENT) {
        w->content.data = calloc(1, 1);
        return w->content.data ? true : fail(w, "read", w->path, ENOMEM);
    }
    if (fd < 0)
        return fail(w, "open", w->path, errno);
    bool done = read_open_file(w, fd);
    close(fd);
    return done;
}

/* --------------------------------------------------------------------------------------------------------- replacing
 */

/* Nobody else writes while we hold the lock: what is there was left by a program that was killed. */
static bool remove_leftover(file_work *w)
{
    return again_unlink(w->temporary) == 0 || errno == ENOENT ? true : fail(w, "unlink", w->temporary, errno);
}

static bool sync_directory(file_work *w)
{
    if (!w->sync)
        return true;
    int fd = open_file(w->directory, O_RDONLY | O_DIRECTORY, 0);
    if (fd < 0)
        return fail(w, "open", w->directory, errno);
    int error = again_fsync(fd) == 0 || errno == EINVAL ? 0 : errno; /* EINVAL: this file system has no such thing */
    close(fd);
    return error ? fail(w, "fsync", w->directory, error) : true;
}

/* The new file gets what the old one had. The owner first: changing it may clear bits of the mode. */
static bool keep_properties(file_work *w, int fd, const struct stat *old)
{
    struct stat st;
    if (again_fstat(fd, &st) != 0)
        return fail(w, "stat", w->temporary, errno);
    if ((st.st_uid != old->st_uid || st.st_gid != old->st_gid) && again_fchown(fd, old->st_uid, old->st_gid) != 0)
        return fail(w, "chown", w->temporary, errno);
    if (again_fchmod(fd, old->st_mode & 07777) != 0)
        return fail(w, "chmod", w->temporary, errno);
    return true;
}

static bool fill_temporary(file_work *w, int fd, const struct stat *old)
{
    if (old && !keep_properties(w, fd, old))
        return false;
    if (!write_all(fd, w->data, w->length))
        return fail(w, "write", w->temporary, errno);
    if (w->sync && again_fsync(fd) != 0)
        return fail(w, "fsync", w->temporary, errno);
    return true;
}

/* `old` NULL: there is none. What replaces a file is nobody else's to read before it has its mode. */
static bool write_temporary(file_work *w, const struct stat *old)
{
    int fd = open_file(w->temporary, O_WRONLY | O_CREAT | O_EXCL, old ? 0600 : (mode_t)w->mode);
    if (fd < 0)
        return fail(w, "create", w->temporary, errno);
    bool done = fill_temporary(w, fd, old);
    if (close(fd) != 0 && done && errno != EINTR) /* a file server may tell only now */
        done = fail(w, "close", w->temporary, errno);
    return done;
}

static void give_up_temporary(file_work *w)
{
    if (again_unlink(w->temporary) != 0 && errno != ENOENT)
        w->cleanup_errno = errno;
}

static bool publish_over(file_work *w)
{
    return again_rename(w->temporary, w->path) == 0 ? true : fail(w, "rename", w->path, errno);
}

/* Without hard links there may still be a rename that replaces nothing. */
static bool publish_new(file_work *w)
{
    if (again_link(w->temporary, w->path) == 0) {
        give_up_temporary(w);
        return true;
    }
    if (errno != EPERM && errno != EOPNOTSUPP && errno != ENOSYS)
        return fail(w, "link", w->path, errno);
    return again_rename_new(w->temporary, w->path) == 0 ? true : fail(w, "rename", w->path, errno);
}

static bool replace_file(file_work *w)
{
    struct stat st;
    bool there = again_lstat(w->path, &st) == 0;
    if (!there && errno != ENOENT)
        return fail(w, "stat", w->path, errno);
    if (there && w->kind == FILE_CREATE)
        return fail(w, "create", w->path, EEXIST);
    if (there && error_of_type(&st))
        return fail(w, "open", w->path, error_of_type(&st));
    if (w->length > w->max_size)
        return fail(w, "write", w->path, EFBIG);
    if (!write_temporary(w, there ? &st : NULL) || !(w->kind == FILE_CREATE ? publish_new(w) : publish_over(w))) {
        give_up_temporary(w);
        return false;
    }
    return sync_directory(w);
}

/* ---------------------------------------------------------------------------------------------------------- updating
 */

static bool take_change(file_work *w, int answer, aflock_file_content *after)
{
    if (answer == 0 && !after->data && after->length > 0)
        answer = EINVAL; /* memory that nobody has looked whether he got it */
    if (answer == 0) {
        w->data = after->data;
        w->length = after->length;
        return true;
    }
    free(after->data);
    if (answer != AFLOCK_FILE_KEEP) {
        w->refused = true;
        fail(w, "change", w->path, answer);
    }
    return false;
}

static void update_file(file_work *w)
{
    aflock_file_content after = {.data = NULL};
    if (!read_file(w))
        return;
    int answer = w->change(&w->content, &after, w->user);
    free(w->content.data);
    w->content = (aflock_file_content){.data = NULL};
    if (take_change(w, answer, &after))
        replace_file(w);
}

/* --------------------------------------------------------------------------------------------------------- appending
 */

/* Whether the file ends in the middle of a line. */
static bool look_at_end(file_work *w, int fd, off_t size, bool *cut)
{
    char last = '\n';
    if (size > 0 && read_some(fd, &last, 1, size - 1) < 0)
        return fail(w, "read", w->path, errno);
    *cut = last != '\n';
    return true;
}

/* Of a write that did a part only: the next one fails, and says which limit it was. One byte does; it is taken back
 * with the rest. */
static int error_behind(int fd, const char *rest)
{
    return write_once(fd, rest, 1) < 0 ? errno : ENOSPC; /* there was no room a moment ago */
}

/* w->data begins with a newline, for the case that one is missing. */
static bool append_to(file_work *w, int fd)
{
    struct stat st;
    bool cut;
    if (again_fstat(fd, &st) != 0)
        return fail(w, "stat", w->path, errno);
    if (error_of_type(&st))
        return fail(w, "open", w->path, error_of_type(&st));
    if (!look_at_end(w, fd, st.st_size, &cut))
        return false;
    const char *data = w->data + !cut;
    size_t length = w->length - !cut;
    ssize_t count = write_once(fd, data, length);
    if (count < 0 || (size_t)count != length) {
        int error = count < 0 ? errno : error_behind(fd, data + count);
        if (count > 0 && again_ftruncate(fd, st.st_size) != 0)
            w->cleanup_errno = errno;
        return fail(w, "write", w->path, error);
    }
    return !w->sync || again_fsync(fd) == 0 ? true : fail(w, "fsync", w->path, errno);
}

static void append_line(file_work *w)
{
    bool created = false;
    int fd = open_file(w->path, O_RDWR | O_APPEND, 0);
    if (fd < 0 && errno == ENOENT) {
        fd = open_file(w->path, O_RDWR | O_APPEND | O_CREAT, (mode_t)w->mode);
        created = true;
    }
    if (fd < 0) {
        fail(w, "open", w->path, errno);
        return;
    }
    bool done = append_to(w, fd);
    if (close(fd) != 0 && done && errno != EINTR)
        done = fail(w, "close", w->path, errno);
    if (done && created)
        sync_directory(w);
}

/* ----------------------------------------------------------------------------------------------------------- the order
 */

void file_work_carry_out(file_work *w)
{
    if (w->kind == FILE_READ) {
        again_unlink(w->temporary); /* who only reads may not be permitted to */
        read_file(w);
        return;
    }
    if (!remove_leftover(w))
        return;
    switch (w->kind) {
    case FILE_APPEND:
        append_line(w);
        break;
    case FILE_UPDATE:
        update_file(w);
        break;
    default:
        replace_file(w);
    }
}
