/* See rwdir.h. */
#include "locks/rwdir.h"

#include "locks/identity.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { READ = O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC, MAKE = O_WRONLY | O_CREAT | O_EXCL | O_NOCTTY | O_CLOEXEC };

/* ------------------------------------------------------------------------------------------------------ directories */

/* A folder of somebody else, for one, follows the protocol: the system says what is wrong. */
static void say_why(afl_folder *f)
{
    if (f->why.status == AFLOCK_EPROTO && f->why.error != ENOTDIR && f->why.error != ELOOP)
        f->why.status = afl_status_of(f->why.error);
}

static bool open_readers(afl_rwdir *d, bool make)
{
    static const mode_t PRIVATE = 0700;
    struct stat st;
    d->readers = afl_folder_directory(&d->f, d->f.parent, d->folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC,
                                      make ? &PRIVATE : NULL, AFL_RW_READERS);
    const int error = errno;
    say_why(&d->f);
    if (d->readers < 0)
        return !d->f.why.status && error != ENOENT ? afl_folder_fail(&d->f, "open", error) : false;
    if (afl_fstat(d->f.sys, d->readers, &st) != 0)
        return afl_folder_fail(&d->f, "fstat", errno);
    d->dev = st.st_dev;
    d->ino = st.st_ino;
    return true;
}

void afl_rwdir_name(afl_rwdir *d, const char *path)
{
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    (void)snprintf(d->writer, sizeof d->writer, "%.200s" AFL_RW_WRITER, name);
    (void)snprintf(d->folder, sizeof d->folder, "%.200s" AFL_RW_READERS, name);
}

void afl_rwdir_refuse(afl_rwdir *d, const char *where, const struct stat *there)
{
    const int error = S_ISDIR(there->st_mode) ? EISDIR : S_ISLNK(there->st_mode) ? ELOOP : ENXIO;
    afl_folder_protest(&d->f, "open", error, where, NULL, "it is no regular file");
    d->f.why.status = afl_status_of(error);
}

void afl_rwdir_forgive(afl_rwdir *d)
{
    free(d->f.why.detail);
    d->f.why = (afl_refusal){.status = 0};
}

bool afl_rwdir_open(afl_rwdir *d, const afl_sys *sys, const char *path, bool make, bool parents)
{
    d->readers = -1;
    afl_rwdir_name(d, path);
    return afl_folder_begin(&d->f, sys, path, make && parents) && open_readers(d, make);
}

void afl_rwdir_close(afl_rwdir *d)
{
    if (d->readers >= 0)
        d->f.sys->close(d->readers);
    d->readers = -1;
    afl_folder_close(&d->f);
}

/* ----------------------------------------------------------------------------------------------------------- looking
 */

/* Of what is open: that it is not there would mean something else. */
static int why_not(void)
{
    return errno == ENOENT ? EIO : errno;
}

static void read_open(const afl_sys *sys, int fd, afl_rwseen *seen)
{
    char text[AFL_RWMARK_SIZE + 1];
    ssize_t size = 0;
    if (afl_fstat(sys, fd, &seen->st) != 0) {
        seen->error = why_not();
        return;
    }
    seen->regular = S_ISREG(seen->st.st_mode);
    if (seen->regular)
        size = afl_read_all(sys, fd, text, sizeof text);
    if (size < 0)
        seen->error = why_not();
    else if (seen->regular)
        seen->formed = afl_rwmark_parse(text, (size_t)size, &seen->mark);
}

void afl_rwdir_read(const afl_sys *sys, int dir, const char *name, afl_rwseen *seen, int *fd)
{
    *seen = (afl_rwseen){.error = 0};
    const int opened = afl_open_at(sys, dir, name, READ, 0);
    if (fd)
        *fd = opened;
    if (opened < 0) {
        seen->error = errno;
        return;
    }
    read_open(sys, opened, seen);
    if (!fd)
        sys->close(opened);
}

bool afl_rwseen_is(const afl_rwseen *seen, const char *token)
{
    return seen->error == 0 && seen->formed && strcmp(seen->mark.token, token) == 0;
}

uint64_t afl_rwseen_age(const afl_sys *sys, const afl_rwseen *seen)
{
    return afl_age(sys, &seen->st.st_mtim);
}

afl_record afl_rwseen_owner(const afl_rwseen *seen)
{
    const afl_rwmark *m = &seen->mark;
    return (afl_record){.kind = AFL_RECORD_SOFT, .pid = m->pid, .host = {m->host, strlen(m->host)}};
}

bool afl_rwseen_is_gone(const afl_sys *sys, const afl_rwseen *seen)
{
    const afl_record owner = afl_rwseen_owner(seen);
    return seen->formed && afl_owner_gone(sys, &owner);
}

typedef struct reading {
    bool (*each)(const char *name, void *user);
    void *user;
} reading;

static bool meet(const char *name, void *user)
{
    const reading *r = user;
    return !afl_reader_counts(name) || r->each(name, r->user);
}

/* Through a descriptor of its own each time: that makes a network file system ask its server. */
int afl_rwdir_readers(const afl_sys *sys, int readers, bool (*each)(const char *name, void *user), void *user)
{
    reading r = {.each = each, .user = user};
    const int dir = afl_open_at(sys, readers, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
    if (dir < 0)
        return errno;
    const int error = afl_read_names(sys, dir, meet, &r);
    sys->close(dir);
    return error;
}

/* ------------------------------------------------------------------------------------------------- making, taking */

static bool is_same(const struct stat *a, const struct stat *b)
{
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

/* What was made and cannot be filled in. Nobody else makes anything of that name meanwhile. */
static int unmake(const afl_sys *sys, int dir, const char *name, const struct stat *made)
{
    struct stat there;
    if (afl_stat_at(sys, dir, name, &there) != 0)
        return errno == ENOENT ? 0 : errno;
    if (!is_same(&there, made))
        return 0;
    return afl_unlink_at(sys, dir, name) == 0 || errno == ENOENT ? 0 : errno;
}

int afl_rwdir_make(const afl_sys *sys, int dir, const char *name, const afl_rwmark *mark, afl_fault *fault,
                   int *cleanup_errno)
{
    char text[AFL_RWMARK_SIZE];
    struct stat made;
    *cleanup_errno = 0;
    const size_t size = afl_rwmark_print(mark, text, sizeof text);
    *fault = (afl_fault){"gethostname", size == 0 ? EINVAL : 0};
    if (fault->error)
        return fault->error;
    const int fd = afl_open_at(sys, dir, name, MAKE, 0600);
    if (fd < 0) {
        *fault = (afl_fault){"open", errno};
        return fault->error;
    }
    const bool known = afl_fstat(sys, fd, &made) == 0;
    *fault = (afl_fault){"fstat", known ? 0 : errno};
    if (known)
        *fault = (afl_fault){"write", afl_write_all(sys, fd, text, size)};
    if (sys->close(fd) != 0 && errno != EINTR && !fault->error) /* a server may tell only now that there is no room */
        *fault = (afl_fault){"close", errno};
    if (fault->error)
        *cleanup_errno = known ? unmake(sys, dir, name, &made) : afl_unlink_at(sys, dir, name) == 0 ? 0 : errno;
    return fault->error == EEXIST ? EIO : fault->error;
}

int afl_rwdir_touch(const afl_sys *sys, int dir, const char *name, const char *token, const char **step)
{
    afl_rwseen seen;
    int fd;
    *step = "open";
    afl_rwdir_read(sys, dir, name, &seen, &fd);
    int error = seen.error;
    if (!error && !afl_rwseen_is(&seen, token))
        error = ESRCH;
    if (!error && sys->touch(fd) != 0) {
        *step = "touch";
        error = errno;
        error = error == ENOENT || error == ESRCH ? EIO : error; /* these two mean something else here */
    }
    if (fd >= 0)
        sys->close(fd);
    return error;
}

/* ---------------------------------------------------------------------------------------------------------- breaking
 */

static bool is_later(const struct timespec *a, const struct timespec *b)
{
    return a->tv_sec != b->tv_sec ? a->tv_sec > b->tv_sec : a->tv_nsec > b->tv_nsec;
}

/* Not one that was made or refreshed meanwhile. */
static bool is_still(const afl_rwseen *now, const afl_rwseen *then)
{
    if (now->error || !now->regular || is_later(&now->st.st_mtim, &then->st.st_mtim))
        return false;
    return then->formed ? afl_rwseen_is(now, then->mark.token) : is_same(&now->st, &then->st);
}

bool afl_rwdir_break(const afl_sys *sys, int dir, const char *name, const afl_rwseen *seen)
{
    char aside[NAME_MAX + 1], token[AFL_TOKEN_TEXT];
    uint64_t bits[2];
    afl_rwseen now;
    if (sys->random(bits, sizeof bits) != 0)
        return false;
    afl_token_print(bits, token);
    const int length = snprintf(aside, sizeof aside, "%s.break.%ld.%s", name, (long)sys->getpid(), token);
    if (length < 0 || length >= (int)sizeof aside)
        return false;
    if (sys->rename_at(dir, name, aside) != 0)
        return errno == ENOENT; /* somebody else has */
    afl_rwdir_read(sys, dir, aside, &now, NULL);
    if (is_still(&now, seen))
        (void)afl_unlink_at(sys, dir, aside);
    return true;
}
