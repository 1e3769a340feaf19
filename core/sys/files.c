/* The steps of files.h. */
#include "sys/files.h"

#include <aflock/aflock.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int afl_open(const afl_sys *sys, const char *path, int flags, mode_t mode)
{
    int fd;
    do
        fd = sys->open(path, flags, mode);
    while (fd < 0 && errno == EINTR);
    return fd;
}

int afl_stat(const afl_sys *sys, const char *path, struct stat *st, bool follow)
{
    int rc;
    do
        rc = sys->stat(path, st, follow);
    while (rc != 0 && errno == EINTR);
    return rc;
}

int afl_fstat(const afl_sys *sys, int fd, struct stat *st)
{
    int rc;
    do
        rc = sys->fstat(fd, st);
    while (rc != 0 && errno == EINTR);
    return rc;
}

int afl_unlink(const afl_sys *sys, const char *path)
{
    int rc;
    do
        rc = sys->unlink(path);
    while (rc != 0 && errno == EINTR);
    return rc;
}

int afl_link(const afl_sys *sys, int fd, const char *path)
{
    int rc;
    do
        rc = sys->link_fd(fd, path);
    while (rc != 0 && errno == EINTR);
    return rc;
}

uint64_t afl_age(const afl_sys *sys, const struct timespec *changed)
{
    const uint64_t now = sys->realtime();
    if (changed->tv_sec < 0)
        return now;
    const uint64_t then = (uint64_t)changed->tv_sec * AFLOCK_SECOND + (uint64_t)changed->tv_nsec;
    return now > then ? now - then : 0;
}

int afl_above_streams(const afl_sys *sys, int fd)
{
    if (fd < 0 || fd > 2)
        return fd;
    int high = sys->dup_above(fd, true);
    int error = errno;
    sys->close(fd);
    errno = error;
    return high;
}

int afl_open_at(const afl_sys *sys, int dir, const char *name, int flags, mode_t mode)
{
    int fd;
    do
        fd = sys->open_at(dir, name, flags, mode);
    while (fd < 0 && errno == EINTR);
    return afl_above_streams(sys, fd);
}

int afl_stat_at(const afl_sys *sys, int dir, const char *name, struct stat *st)
{
    int rc;
    do
        rc = sys->stat_at(dir, name, st);
    while (rc != 0 && errno == EINTR);
    return rc;
}

int afl_unlink_at(const afl_sys *sys, int dir, const char *name)
{
    int rc;
    do
        rc = sys->unlink_at(dir, name);
    while (rc != 0 && errno == EINTR);
    return rc;
}

int afl_write_all(const afl_sys *sys, int fd, const char *text, size_t size)
{
    while (size > 0) {
        ssize_t written = sys->write(fd, text, size);
        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0)
            return errno;
        if (written == 0)
            return EIO;
        text += written;
        size -= (size_t)written;
    }
    return 0;
}

ssize_t afl_read_all(const afl_sys *sys, int fd, char *text, size_t size)
{
    size_t used = 0;
    while (used < size) {
        ssize_t got = sys->read(fd, text + used, size - used);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return -1;
        if (got == 0)
            break;
        used += (size_t)got;
    }
    return (ssize_t)used;
}

/* What the kernel fills in, see getdents(2). */
struct directory_entry {
    uint64_t inode;
    int64_t position;
    uint16_t size;
    uint8_t type;
    char name[];
};

int afl_read_names(const afl_sys *sys, int dir, bool (*name)(const char *name, void *user), void *user)
{
    _Alignas(struct directory_entry) char buffer[4096];
    bool more = true;
    while (more) {
        const ssize_t size = sys->list(dir, buffer, sizeof buffer);
        if (size < 0 && errno == EINTR)
            continue;
        if (size <= 0)
            return size < 0 ? errno : 0;
        for (ssize_t at = 0; more && at < size;) {
            const struct directory_entry *entry = (const void *)(buffer + at);
            at += entry->size;
            more = strcmp(entry->name, ".") == 0 || strcmp(entry->name, "..") == 0 || name(entry->name, user);
        }
    }
    return 0;
}

static int make_directory(const afl_sys *sys, const char *path)
{
    int rc;
    do
        rc = sys->mkdir(path, 0777);
    while (rc != 0 && errno == EINTR);
    return rc;
}

static bool failed(afl_fault *fault, const char *step, int error)
{
    fault->step = step;
    fault->error = error;
    return false;
}

/* From the top: mkdir answers EEXIST for what is there, before it looks at permissions. */
bool afl_make_parents(const afl_sys *sys, const char *path, afl_fault *fault)
{
    char text[PATH_MAX];
    size_t length = strlen(path);
    if (length >= sizeof text)
        return failed(fault, "mkdir", ENAMETOOLONG);
    memcpy(text, path, length + 1);
    for (char *slash = strchr(text + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        if (make_directory(sys, text) != 0 && errno != EEXIST)
            return failed(fault, "mkdir", errno);
        *slash = '/';
    }
    return true;
}

static bool parent_of(const char *path, char parent[PATH_MAX])
{
    const char *slash = strrchr(path, '/');
    size_t length = slash && slash > path ? (size_t)(slash - path) : 1;
    if (length >= PATH_MAX)
        return false;
    memcpy(parent, path, length);
    parent[length] = '\0';
    return true;
}

bool afl_identify_parent(const afl_sys *sys, const char *path, bool cached, bool parents, afl_identity *id,
                         afl_fault *fault)
{
    char parent[PATH_MAX];
    if (!parent_of(path, parent))
        return failed(fault, "open parent", ENAMETOOLONG);
    int flags = O_PATH | O_DIRECTORY | O_CLOEXEC;
    int fd = cached ? sys->open_cached(parent, flags) : afl_open(sys, parent, flags, 0);
    if (fd < 0 && cached)
        return failed(fault, "open parent", EAGAIN);
    if (fd < 0 && errno == ENOENT && parents) {
        if (!afl_make_parents(sys, path, fault))
            return false;
        fd = afl_open(sys, parent, flags, 0);
    }
    if (fd < 0)
        return failed(fault, "open parent", errno);
    bool done = sys->identify(fd, id) == 0;
    if (!done)
        failed(fault, "stat parent", errno);
    sys->close(fd);
    return done;
}

int afl_read_lines(const afl_sys *sys, const char *path, bool (*line)(char *text, void *user), void *user)
{
    enum { CHUNK = 8192 };
    char buffer[CHUNK]; /* no malloc: a child that forks off while a worker is here would never free it */
    int fd = afl_open(sys, path, O_RDONLY | O_CLOEXEC, 0);
    if (fd < 0)
        return errno;
    int error = 0;
    size_t used = 0;
    bool more = true, whole = true; /* what is in the buffer begins with the begin of a line */
    while (more) {
        ssize_t n = sys->read(fd, buffer + used, CHUNK - 1 - used);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            error = errno;
        if (n <= 0)
            break;
        used += (size_t)n;
        buffer[used] = '\0';
        char *start = buffer, *end;
        while (more && (end = strchr(start, '\n')) != NULL) {
            *end = '\0';
            more = !whole || line(start, user);
            whole = true;
            start = end + 1;
        }
        used -= (size_t)(start - buffer);
        memmove(buffer, start, used);
        if (used == CHUNK - 1) { /* a line longer than those that we look for: left out, to its end */
            used = 0;
            whole = false;
        }
    }
    sys->close(fd);
    return error;
}

/* ------------------------------------------------------------------------------------------------------ mount points
 */

static bool is_one_of(const char *word, const char *const list[])
{
    for (; *list; list++)
        if (strcmp(word, *list) == 0)
            return true;
    return false;
}

static afl_class class_of(const char *type)
{
    static const char *const LOCAL[] = {"ext2",      "ext3",     "ext4",    "xfs",   "btrfs",    "f2fs",  "tmpfs",
                                        "ramfs",     "devtmpfs", "overlay", "zfs",   "bcachefs", "jfs",   "reiserfs",
                                        "nilfs2",    "vfat",     "exfat",   "msdos", "ntfs3",    "erofs", "squashfs",
                                        "hugetlbfs", "udf",      "iso9660", "minix", "hfsplus",  "ubifs", NULL};
    static const char *const REMOTE[] = {"nfs",  "nfs4",  "cifs",   "smb3", "smbfs", "9p",       "ceph", "afs",
                                         "gfs2", "ocfs2", "lustre", "coda", "gpfs",  "orangefs", NULL};
    if (is_one_of(type, LOCAL))
        return AFL_CLASS_LOCAL;
    return is_one_of(type, REMOTE) ? AFL_CLASS_REMOTE : AFL_CLASS_UNKNOWN;
}

typedef struct mount_entry {
    uint64_t mount;
    char *device; /* "major:minor" */
    char *point;
    afl_class kind;
} mount_entry;

/* What ends a field in mountinfo is written in octal inside of one: "\040" is a space. */
static void unescape(char *text)
{
    char *to = text;
    for (; *text; text++) {
        if (*text == '\\' && strspn(text + 1, "01234567") >= 3) {
            *to++ = (char)((text[1] - '0') << 6 | (text[2] - '0') << 3 | (text[3] - '0'));
            text += 3;
        } else {
            *to++ = *text;
        }
    }
    *to = '\0';
}

/* A line of mountinfo, see proc(5): "36 35 98:0 /root /mount options [fields] - type source options". */
static bool parse_mount(char *text, mount_entry *m)
{
    enum { MOUNT, PARENT, DEVICE, ROOT, POINT, FIELDS };
    char *fields[FIELDS], *rest = NULL;
    for (int i = 0; i < FIELDS; i++) {
        fields[i] = strtok_r(i == 0 ? text : NULL, " ", &rest);
        if (!fields[i])
            return false;
    }
    char *type = strstr(rest, " - ");
    if (!type)
        return false;
    type += 3;
    type[strcspn(type, " ")] = '\0';
    unescape(fields[POINT]);
    *m = (mount_entry){strtoull(fields[MOUNT], NULL, 10), fields[DEVICE], fields[POINT], class_of(type)};
    return true;
}

typedef struct mount_search {
    uint64_t mount;
    afl_class kind;
    char *device;
} mount_search;

static bool mount_line(char *text, void *user)
{
    mount_search *search = user;
    mount_entry m;
    if (!parse_mount(text, &m) || m.mount != search->mount)
        return true;
    search->kind = m.kind;
    size_t length = strlen(m.device);
    if (search->device && length < 32)
        memcpy(search->device, m.device, length + 1);
    return false;
}

afl_class afl_classify_mount(const afl_sys *sys, uint64_t mount, char device[32])
{
    mount_search search = {.mount = mount, .kind = AFL_CLASS_UNKNOWN, .device = device};
    if (device)
        device[0] = '\0';
    if (mount)
        afl_read_lines(sys, "/proc/self/mountinfo", mount_line, &search);
    return search.kind;
}

/* ---------------------------------------------------------------------------------- the device that a path seems to be
 * on
 */

typedef struct mounts_on_path {
    const char *path;
    size_t longest; /* mount point: length */
    uint64_t dev;   /* of that one */
    size_t foreign; /* the first mount point that is not local: length */
} mounts_on_path;

static bool path_line(char *text, void *user)
{
    mounts_on_path *found = user;
    mount_entry m;
    unsigned major, minor;
    if (!parse_mount(text, &m) || sscanf(m.device, "%u:%u", &major, &minor) != 2)
        return true;
    size_t length = strcmp(m.point, "/") == 0 ? 0 : strlen(m.point);
    if (strncmp(found->path, m.point, length) != 0 || (found->path[length] != '/' && found->path[length] != '\0'))
        return true;
    if (length >= found->longest) { /* of two on one point the later one is on top */
        found->longest = length;
        found->dev = (uint64_t)major << 32 | minor;
    }
    if (m.kind != AFL_CLASS_LOCAL && length < found->foreign)
        found->foreign = length;
    return true;
}

/* Puts "/insert" in the place of text[from..to); nothing, if that is empty. */
static bool substitute(char text[PATH_MAX], size_t from, size_t to, const char *insert)
{
    char joined[PATH_MAX];
    insert += strspn(insert, "/");
    int length = snprintf(joined, sizeof joined, "%.*s%s%s%s", (int)from, text, *insert ? "/" : "", insert, text + to);
    if (length < 0 || length >= (int)sizeof joined)
        return false;
    memcpy(text, joined, (size_t)length + 1);
    return true;
}

/* Takes the first ".", ".." or symbolic link out of the text; what is before `done` has none. False: there is none in
 * the first `end` characters. */
static bool straighten(const afl_sys *sys, char text[PATH_MAX], size_t *done, size_t end)
{
    char target[PATH_MAX];
    while (text[*done]) {
        size_t name = *done + 1, next = name + strcspn(text + name, "/"), length = next - name;
        if (next >= end)
            return false;
        if (length == 0 || (length == 1 && text[name] == '.'))
            return substitute(text, *done, next, "");
        if (length == 2 && strncmp(text + name, "..", 2) == 0) {
            while (*done > 0 && text[--*done] != '/')
                ;
            return substitute(text, *done, next, "");
        }
        char after = text[next];
        text[next] = '\0';
        ssize_t link = sys->readlink(text, target, sizeof target - 1);
        bool goes_on = link >= 0 || errno == EINVAL;
        text[next] = after;
        if (!goes_on)
            return false;
        if (link >= 0) {
            target[link] = '\0';
            *done = target[0] == '/' ? 0 : *done;
            return substitute(text, *done, next, target);
        }
        *done = next;
    }
    return false;
}

uint64_t afl_guess_device(const afl_sys *sys, const char *path, bool look)
{
    enum { TURNS = 64 };
    char text[PATH_MAX];
    size_t length = strlen(path), done = 0;
    if (length >= sizeof text)
        return 0;
    memcpy(text, path, length + 1);
    mounts_on_path found;
    int turns = TURNS;
    do {
        found = (mounts_on_path){.path = text, .foreign = SIZE_MAX};
        if (afl_read_lines(sys, "/proc/self/mountinfo", path_line, &found) != 0)
            return 0;
    } while (look && turns-- > 0 && straighten(sys, text, &done, found.foreign));
    return found.dev;
}
