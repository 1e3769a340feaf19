/* The system calls of the library, as a table: the one seam through which core/ reaches the system, so that tests can
 * count, delay and fail each call and record the thread that made it. No other file of core/ calls the system. Each
 * entry behaves as its manual page says (result, errno); what is special is said here. Any thread.
 */
#ifndef AFL_SYS_H
#define AFL_SYS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>

/* What a look-up of a directory or descriptor learns without asking a file server (statx, AT_STATX_DONT_SYNC). */
typedef struct afl_identity {
    uint64_t dev;
    uint64_t ino;
    uint64_t mount; /* id of the mount; 0: the kernel does not tell */
} afl_identity;

typedef struct afl_sys {
    int (*open)(const char *path, int flags, mode_t mode);
    int (*open_cached)(const char *path, int flags); /* never sleeps: EAGAIN (openat2 RESOLVE_CACHED, Linux 5.12) */
    int (*dup_above)(int fd, bool close_on_exec);    /* the same descriptor, with a number above 2 */
    int (*close)(int fd);
    int (*flock)(int fd, int operation);
    int (*lock_ofd)(int fd, short type, off_t start, off_t length,
                    bool wait); /* F_OFD_SETLK or F_OFD_SETLKW;
                                   length 0: to the end, wherever it is */
    int (*fstat)(int fd, struct stat *st);
    int (*stat)(const char *path, struct stat *st, bool follow);
    int (*identify)(int fd, afl_identity *id);
    int (*fchmod)(int fd, mode_t mode);
    int (*ftruncate)(int fd, off_t length);
    int (*touch)(int fd); /* both times to now */
    int (*sync)(int fd);
    int (*rewind)(int fd); /* the offset to the beginning; asks no file system */
    int (*mkdir)(const char *path, mode_t mode);
    ssize_t (*read)(int fd, void *buffer, size_t size);
    ssize_t (*read_head)(int fd, void *buffer, size_t size,
                         bool cached); /* pread from 0. cached: never sleeps, EAGAIN if
                                          it is not in memory (RWF_NOWAIT, Linux 4.14) */
    ssize_t (*write)(int fd, const void *buffer, size_t size);
    int (*unlink)(const char *path);
    int (*link_fd)(int fd, const char *path); /* gives a file without a name (O_TMPFILE) one; EEXIST */
    int (*rename)(const char *from, const char *to);

    /* In the directory that is open as `dir`; the name itself is never followed. */
    int (*open_at)(int dir, const char *name, int flags, mode_t mode);
    int (*stat_at)(int dir, const char *name, struct stat *st);
    int (*mkdir_at)(int dir, const char *name, mode_t mode);
    int (*link_at)(int dir, const char *from, const char *to);
    int (*unlink_at)(int dir, const char *name);
    int (*rename_at)(int dir, const char *from, const char *to);
    ssize_t (*list)(int dir, void *buffer, size_t size); /* getdents64: see afl_read_names */

    int (*random)(void *buffer, size_t size); /* getrandom; 0 or -1 */
    uint64_t (*realtime)(void);               /* CLOCK_REALTIME in ns: the clock of files */
    uint64_t (*boottime)(void);               /* CLOCK_BOOTTIME in ns: goes on while the machine is suspended */
    ssize_t (*readlink)(const char *path, char *target, size_t size);
    char *(*getcwd)(char *buffer, size_t size);
    int (*descriptor_flags)(int fd); /* F_GETFD: is it open? */

    /* Who holds a marker, and whether he is gone. */
    int (*gethostname)(char *name, size_t size);
    int (*probe)(pid_t pid);      /* kill(pid, 0) */
    int (*pidfd_open)(pid_t pid); /* Linux 5.3 */

    /* Memory that a fork wipes; NULL: not available, the process id serves instead. */
    uint32_t *(*guard_map)(void);
    void (*guard_unmap)(uint32_t *guard);
    pid_t (*getpid)(void);

    /* Waiting for workers while a context is freed: futex on `word`, at most `timeout` ns; spurious returns allowed. */
    void (*wait)(uint32_t *word, uint32_t expected, uint64_t timeout);
    void (*wake)(uint32_t *word);
    void (*yield)(void);
} afl_sys;

extern const afl_sys afl_sys_linux;

/* AFLOCK_E... for an errno: its own name, or AFLOCK_ESYS. */
int afl_status_of(int error);

#endif
