/* See folder.h. */
#include "locks/folder.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PRIVATE_AGE (2 * AFLOCK_SECOND) /* a private record that nobody has published by then was left */

enum { LOOK = O_PATH | O_DIRECTORY | O_CLOEXEC, READ = O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC };

/* --------------------------------------------------------------------------------------------------------- refusals */

/* What we lack ourselves says nothing about what is on disk. */
static bool is_shortage(int error)
{
    return error == EMFILE || error == ENFILE || error == ENOMEM;
}

bool afl_folder_fail(afl_folder *f, const char *step, int error)
{
    if (!f->why.status)
        f->why = (afl_refusal){.status = afl_status_of(error), .error = error, .step = step};
    return false;
}

bool afl_folder_protest(afl_folder *f, const char *step, int error, const char *where, const char *name,
                        const char *reason)
{
    if (f->why.status)
        return false;
    afl_folder_fail(f, step, error);
    if (!is_shortage(error))
        f->why.status = AFLOCK_EPROTO;
    f->why.detail = afl_describe(f->path, where, name, reason);
    return false;
}

/* ------------------------------------------------------------------------------------------------------ directories */

bool afl_folder_begin(afl_folder *f, const afl_sys *sys, const char *path, bool make)
{
    char parent[PATH_MAX];
    const char *slash = strrchr(path, '/');
    *f = (afl_folder){.sys = sys, .path = path, .name = slash ? slash + 1 : path, .parent = -1, .claims = -1};
    const size_t length = f->name - f->path > 1 ? (size_t)(f->name - f->path) - 1 : 1;
    afl_fault fault;
    if (length >= sizeof parent)
        return afl_folder_fail(f, "open parent", ENAMETOOLONG);
    memcpy(parent, f->path, length);
    parent[length] = '\0';
    f->parent = afl_open(f->sys, parent, LOOK, 0);
    if (f->parent < 0 && errno == ENOENT && make) {
        if (!afl_make_parents(f->sys, f->path, &fault))
            return afl_folder_fail(f, fault.step, fault.error);
        f->parent = afl_open(f->sys, parent, LOOK, 0);
    }
    return f->parent >= 0 || afl_folder_fail(f, "open parent", errno);
}

static bool make_directory(afl_folder *f, int dir, const char *name, mode_t mode)
{
    int rc;
    do
        rc = f->sys->mkdir_at(dir, name, mode);
    while (rc != 0 && errno == EINTR);
    return rc == 0 || errno == EEXIST || afl_folder_fail(f, "mkdir", errno);
}

int afl_folder_directory(afl_folder *f, int dir, const char *name, int flags, const mode_t *make, const char *where)
{
    int fd = afl_open_at(f->sys, dir, name, flags, 0);
    if (fd < 0 && errno == ENOENT && make) {
        if (!make_directory(f, dir, name, *make))
            return -1;
        fd = afl_open_at(f->sys, dir, name, flags, 0);
    }
    if (fd < 0 && (errno == ENOTDIR || errno == ELOOP))
        afl_folder_protest(f, "open", errno, where, NULL, "it is no real directory");
    else if (fd < 0 && errno != ENOENT && errno != ESTALE)
        afl_folder_protest(f, "open", errno, where, NULL, "it cannot be opened");
    return fd;
}

static bool open_claims(afl_folder *f, bool make)
{
    static const mode_t MODE = 0777;
    const mode_t *const how = make ? &MODE : NULL;
    char name[NAME_MAX + 1];
    struct stat st;
    (void)snprintf(name, sizeof name, "%s" AFL_COORDINATION, f->name);
    const int coordination = afl_folder_directory(f, f->parent, name, LOOK, how, AFL_COORDINATION);
    if (coordination < 0)
        return false;
    f->claims = afl_folder_directory(f, coordination, "claims", O_RDONLY | O_DIRECTORY | O_CLOEXEC, how, AFL_CLAIMS);
    f->sys->close(coordination);
    if (f->claims < 0)
        return false;
    if (afl_fstat(f->sys, f->claims, &st) != 0)
        return afl_folder_fail(f, "fstat", errno);
    f->dev = st.st_dev;
    f->ino = st.st_ino;
    return true;
}

bool afl_folder_open(afl_folder *f, const afl_sys *sys, const char *path, bool make, bool parents)
{
    return afl_folder_begin(f, sys, path, make && parents) && open_claims(f, make);
}

void afl_folder_close(afl_folder *f)
{
    if (f->parent >= 0)
        f->sys->close(f->parent);
    if (f->claims >= 0)
        f->sys->close(f->claims);
    f->parent = f->claims = -1;
}

bool afl_folder_token(afl_folder *f, char token[AFL_TOKEN_TEXT])
{
    uint64_t bits[2];
    if (f->sys->random(bits, sizeof bits) != 0)
        return afl_folder_fail(f, "random", errno);
    afl_token_print(bits, token);
    return true;
}

/* ------------------------------------------------------------------------------------------------------- publishing */

static bool is_same(const struct stat *a, const struct stat *b)
{
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

/* A network file system may keep what was written to itself until a close, and tell only then that there is no room: so
 * there one of two descriptors is closed before anybody can see the record. The other one keeps the inode's number from
 * being given to another file. */
static bool write_record(afl_folder *f, int *fd, const char *text, size_t size, struct stat *made)
{
    if (afl_fstat(f->sys, *fd, made) != 0)
        return afl_folder_fail(f, "fstat", errno);
    const int error = afl_write_all(f->sys, *fd, text, size);
    if (error)
        return afl_folder_fail(f, "write", error);
    if (f->local)
        return true;
    const int first = *fd, second = f->sys->dup_above(first, true);
    if (second < 0)
        return afl_folder_fail(f, "write", errno);
    *fd = second;
    return f->sys->close(first) == 0 || errno == EINTR || afl_folder_fail(f, "close", errno);
}

static afl_publication linking_failed(afl_folder *f, int dir, const char *from, int error)
{
    struct stat there;
    if (error == EEXIST)
        return AFL_TAKEN;
    if (error == ENOENT && afl_stat_at(f->sys, dir, from, &there) != 0 && errno == ENOENT)
        return AFL_RECLAIMED;
    if (error == EOPNOTSUPP || error == ENOSYS || error == EXDEV)
        afl_folder_protest(f, "link", error, "", NULL, "its file system has no hard links");
    else
        afl_folder_fail(f, "link", error);
    return AFL_UNPUBLISHED;
}

/* Whatever the call says, what counts is which file has the name now: a server that hears a request twice says that the
 * name was there the second time. */
afl_publication afl_folder_link(afl_folder *f, int dir, const char *from, const char *to, const struct stat *made)
{
    struct stat there;
    int rc;
    do
        rc = f->sys->link_at(dir, from, to);
    while (rc != 0 && errno == EINTR);
    const int error = rc != 0 ? errno : 0;
    if (afl_stat_at(f->sys, dir, to, &there) == 0) {
        if (is_same(&there, made))
            return AFL_PUBLISHED;
        return error ? linking_failed(f, dir, from, error) : AFL_RECLAIMED;
    }
    if (errno != ENOENT) {
        afl_folder_fail(f, error ? "link" : "stat", error ? error : errno);
        return AFL_UNCERTAIN;
    }
    return error ? linking_failed(f, dir, from, error) : AFL_RECLAIMED;
}

afl_publication afl_folder_publish(afl_folder *f, int dir, const char *name, const char *text, size_t size, mode_t mode,
                                   struct stat *made)
{
    char token[AFL_TOKEN_TEXT], private_name[AFL_PRIVATE_NAME];
    if (!afl_folder_token(f, token))
        return AFL_UNPUBLISHED;
    afl_private_name_print(name, token, private_name);
    int fd = afl_open_at(f->sys, dir, private_name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOCTTY, mode);
    if (fd < 0 && errno == EEXIST)
        return AFL_RECLAIMED;
    if (fd < 0) {
        afl_folder_fail(f, "open", errno);
        return AFL_UNPUBLISHED;
    }
    afl_publication published = AFL_UNPUBLISHED;
    if (write_record(f, &fd, text, size, made))
        published = afl_folder_link(f, dir, private_name, name, made);
    f->sys->close(fd);
    (void)afl_unlink_at(f->sys, dir, private_name); /* what stays behind is removed by whoever reads the folder */
    return published;
}

/* ---------------------------------------------------------------------------------------------------------- tidying */

static uint64_t time_of(const struct timespec *t)
{
    return t->tv_sec < 0 ? 0 : (uint64_t)t->tv_sec * AFLOCK_SECOND + (uint64_t)t->tv_nsec;
}

/* Who is between link and unlink does not miss the private name of what he has published. */
static void reclaim(const afl_folder *f, int dir, const char *private_name)
{
    struct stat st;
    if (afl_stat_at(f->sys, dir, private_name, &st) != 0 || !S_ISREG(st.st_mode))
        return;
    if (st.st_nlink == 1 && f->sys->realtime() < time_of(&st.st_mtim) + PRIVATE_AGE)
        return;
    (void)afl_unlink_at(f->sys, dir, private_name);
}

static bool reclaim_sentinel(const char *name, void *user)
{
    const afl_folder *f = user;
    char public_name[AFL_PUBLIC_NAME];
    if (afl_private_name_parse(name, public_name) && strcmp(public_name, f->name) == 0)
        reclaim(f, f->parent, name);
    return true;
}

/* --------------------------------------------------------------------------------------------------------- the
 * sentinel
 */

static afl_sentinel_state read_sentinel(afl_folder *f, int fd, const struct stat *seen)
{
    char text[AFL_SENTINEL_SIZE + 1];
    struct stat st;
    if (afl_fstat(f->sys, fd, &st) != 0 || !S_ISREG(st.st_mode) || !is_same(&st, seen) ||
        afl_read_all(f->sys, fd, text, sizeof text) != AFL_SENTINEL_SIZE ||
        memcmp(text, AFL_SENTINEL, AFL_SENTINEL_SIZE) != 0)
        return AFL_SENTINEL_ANOTHER;
    return AFL_SENTINEL_THERE;
}

afl_sentinel_state afl_folder_sentinel(afl_folder *f)
{
    struct stat seen;
    if (afl_stat_at(f->sys, f->parent, f->name, &seen) != 0)
        return errno == ENOENT ? AFL_SENTINEL_MISSING : AFL_SENTINEL_ANOTHER;
    if (!S_ISREG(seen.st_mode))
        return AFL_SENTINEL_ANOTHER;
    const int fd = afl_open_at(f->sys, f->parent, f->name, READ, 0);
    if (fd < 0 && is_shortage(errno)) {
        afl_folder_fail(f, "open", errno);
        return AFL_SENTINEL_FAILED;
    }
    if (fd < 0)
        return errno == ENOENT ? AFL_SENTINEL_MISSING : AFL_SENTINEL_ANOTHER;
    const afl_sentinel_state state = read_sentinel(f, fd, &seen);
    f->sys->close(fd);
    return state;
}

bool afl_folder_make_sentinel(afl_folder *f, mode_t mode)
{
    struct stat made;
    const int dir = afl_open_at(f->sys, f->parent, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
    if (dir >= 0) { /* or it may not be read: then nothing is tidied */
        (void)afl_read_names(f->sys, dir, reclaim_sentinel, f);
        f->sys->close(dir);
    }
    const afl_publication published =
        afl_folder_publish(f, f->parent, f->name, AFL_SENTINEL, AFL_SENTINEL_SIZE, mode, &made);
    return published == AFL_PUBLISHED || published == AFL_TAKEN;
}

/* ------------------------------------------------------------------------------------------------------- the claims */

static void dismiss(afl_seen *seen, const char *reason, int error)
{
    seen->reason = reason;
    seen->error = error;
    /* ENOENT of a file that is open: another mount has removed it, and the file system has no other word for that. */
    seen->unread = error == ESTALE || error == ENOENT || error == EACCES || error == EPERM;
}

/* False: it has just gone. */
static bool read_claim(const afl_folder *f, const struct stat *there, afl_seen *seen)
{
    char text[AFL_CLAIM_SIZE + 1];
    struct stat st;
    const int fd = afl_open_at(f->sys, f->claims, seen->name, READ, 0);
    if (fd < 0 && errno == ENOENT)
        return false;
    if (fd < 0) {
        dismiss(seen, "it cannot be read", errno);
        return true;
    }
    ssize_t size = -1;
    if (afl_fstat(f->sys, fd, &st) != 0 || (size = afl_read_all(f->sys, fd, text, sizeof text)) < 0)
        dismiss(seen, "it cannot be read", errno);
    else if (!S_ISREG(st.st_mode) || !is_same(&st, there))
        dismiss(seen, "it was replaced while it was opened", 0);
    else if (size > AFL_CLAIM_SIZE)
        dismiss(seen, "its record is longer than 1024 bytes", 0);
    else if (!afl_claim_parse(text, (size_t)size, seen->key.token, &seen->claim))
        dismiss(seen, "its record is malformed", 0);
    f->sys->close(fd);
    return true;
}

/* False: it has just gone. */
static bool see(const afl_folder *f, afl_seen *seen)
{
    struct stat there;
    const bool known = afl_claim_name_parse(seen->name, &seen->key);
    if (afl_stat_at(f->sys, f->claims, seen->name, &there) != 0) {
        if (errno == ENOENT)
            return false;
        dismiss(seen, "it cannot be read", errno);
        return true;
    }
    seen->dev = there.st_dev;
    seen->ino = there.st_ino;
    seen->changed = time_of(&there.st_mtim);
    if (!known)
        dismiss(seen, "its name is not that of a claim", 0);
    else if (!S_ISREG(there.st_mode))
        dismiss(seen, "it is not a regular file", 0);
    else
        return read_claim(f, &there, seen);
    return true;
}

typedef struct reading {
    const afl_folder *f;
    bool tidy;
    bool (*each)(const afl_seen *seen, void *user);
    void *user;
} reading;

static bool meet(const char *name, void *user)
{
    const reading *r = user;
    char public_name[AFL_PUBLIC_NAME];
    afl_claim_name key;
    if (name[0] == '.') {
        if (r->tidy && afl_private_name_parse(name, public_name) && afl_claim_name_parse(public_name, &key))
            reclaim(r->f, r->f->claims, name);
        return true;
    }
    afl_seen seen = {.name = name};
    return !see(r->f, &seen) || r->each(&seen, r->user);
}

/* Through a descriptor of its own each time: that makes a network file system ask its server. */
int afl_folder_read(afl_folder *f, bool tidy, bool (*each)(const afl_seen *seen, void *user), void *user)
{
    reading r = {.f = f, .tidy = tidy, .each = each, .user = user};
    const int dir = afl_open_at(f->sys, f->claims, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
    if (dir < 0)
        return errno;
    const int error = afl_read_names(f->sys, dir, meet, &r);
    f->sys->close(dir);
    return error;
}
