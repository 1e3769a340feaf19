/* Steps on files that every protocol needs, on top of the table of sys.h: opening with parents, where a path leads,
 * and what kind of file system that is. They report by afl_fault: which step failed, and the errno. Any thread. */
#ifndef AFL_FILES_H
#define AFL_FILES_H

#include "sys/sys.h"

typedef struct afl_fault {
    const char *step;
    int error; /* errno; 0: none */
} afl_fault;

typedef enum afl_class {
    AFL_CLASS_UNKNOWN, /* not known, or neither of the others (FUSE, clusters): treated as remote */
    AFL_CLASS_LOCAL,
    AFL_CLASS_REMOTE
} afl_class;

/* Makes the missing parents of `path` (0777 less the umask). false: fault says why. */
bool afl_make_parents(const afl_sys *sys, const char *path, afl_fault *fault);

/* The directory that holds the last component of the absolute `path`. cached: only if that cannot sleep, else EAGAIN.
 * parents: make them when they are missing. */
bool afl_identify_parent(const afl_sys *sys, const char *path, bool cached, bool parents, afl_identity *id,
                         afl_fault *fault);

/* What kind of file system the mount is on, read from /proc/self/mountinfo (never statfs, which can hang). `device`, if
 * not NULL, becomes "major:minor" of it as the kernel prints it, or "". */
afl_class afl_classify_mount(const afl_sys *sys, uint64_t mount, char device[32]);

/* The device that the absolute `path` seems to be on, as in afl_identity.dev, from /proc/self/mountinfo; 0: that cannot
 * be read. look: symbolic links are followed, as far as they are on local file systems, and no other file system is
 * asked anything. Otherwise none is, and the path is taken as it is written. Good for a guess only. */
uint64_t afl_guess_device(const afl_sys *sys, const char *path, bool look);

/* Reads a file of /proc line by line. `line` returns false to stop. 0 or errno. */
int afl_read_lines(const afl_sys *sys, const char *path, bool (*line)(char *text, void *user), void *user);

/* These repeat after EINTR: some file systems let themselves be interrupted by a program's signals in all of them. */
int afl_open(const afl_sys *sys, const char *path, int flags, mode_t mode);
int afl_stat(const afl_sys *sys, const char *path, struct stat *st, bool follow);
int afl_fstat(const afl_sys *sys, int fd, struct stat *st);
int afl_unlink(const afl_sys *sys, const char *path);
int afl_link(const afl_sys *sys, int fd, const char *path); /* afl_sys.link_fd */

/* How old a file is that was changed then: this host's clock less that; 0 if it is of the future. */
uint64_t afl_age(const afl_sys *sys, const struct timespec *changed);

/* Whoever closes or replaces a standard stream means another file than ours: the same descriptor with another number,
 * if need be. -1: none is left, and it is closed. */
int afl_above_streams(const afl_sys *sys, int fd);

/* The same in a directory; what is opened is no standard stream, even if the program has closed those. */
int afl_open_at(const afl_sys *sys, int dir, const char *name, int flags, mode_t mode);
int afl_stat_at(const afl_sys *sys, int dir, const char *name, struct stat *st);
int afl_unlink_at(const afl_sys *sys, int dir, const char *name);

/* Writes all of it. 0 or errno. */
int afl_write_all(const afl_sys *sys, int fd, const char *text, size_t size);

/* Reads up to `size` bytes, to the end of the file. The count, or -1. */
ssize_t afl_read_all(const afl_sys *sys, int fd, char *text, size_t size);

/* Calls `name` for each name in a directory that was just opened, but for "." and "..", until that returns false. The
 * names may come and go meanwhile. 0 or errno. */
int afl_read_names(const afl_sys *sys, int dir, bool (*name)(const char *name, void *user), void *user);

#endif
