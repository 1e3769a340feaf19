/* The steps of files.h. */
#include "sys/files.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
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
        if (sys->mkdir(text, 0777) != 0 && errno != EEXIST)
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
    bool more = true;
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
            more = line(start, user);
            start = end + 1;
        }
        used -= (size_t)(start - buffer);
        memmove(buffer, start, used);
        if (used == CHUNK - 1)
            used = 0; /* a line longer than any of the kernel's: not one of ours */
    }
    sys->close(fd);
    return error;
}

/* ------------------------------------------------------------------------------------------------------ mount points
 */

typedef struct mount_search {
    uint64_t mount;
    afl_class kind;
    char *device;
} mount_search;

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

/* A line of mountinfo, see proc(5): "36 35 98:0 /root /mount options [fields] - type source options". */
static bool mount_line(char *text, void *user)
{
    mount_search *search = user;
    char *end;
    if (strtoull(text, &end, 10) != search->mount || *end != ' ')
        return true;
    char *type = strstr(end, " - ");
    char *device = strchr(end + 1, ' ');
    if (!type || !device)
        return true;
    type += 3;
    type[strcspn(type, " ")] = '\0';
    search->kind = class_of(type);
    device++;
    size_t length = strcspn(device, " ");
    if (search->device && length < 32) {
        memcpy(search->device, device, length);
        search->device[length] = '\0';
    }
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
