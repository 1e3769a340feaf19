/* The simulated file systems: inodes, names, open files, descriptors, and locks with the meaning that they have on
 * Linux. Pure: no time passes here and nothing fails by chance; sim_sys.c puts that around it.
 *
 * A volume is a file system. A view is what one host has mounted, with a cache of attributes for remote volumes. A task
 * is the part of a process that the kernel keeps: descriptors and the working directory. Calls return 0 or more, or
 * -errno. A further system call is one function here, one entry in the table of sim_sys.c, and one operation of
 * test_sim_fs.c, which compares it with the real kernel.
 */
#ifndef SIM_FS_H
#define SIM_FS_H

#include "sys/sys.h"

#include <stddef.h>

enum {
    SIM_VOLUMES = 12,
    SIM_INODES = 512,
    SIM_ENTRIES = 768,
    SIM_FILES = 512,
    SIM_NAME = 28,
    SIM_MOUNTS = 4,
    SIM_DESCRIPTORS = 96,
    SIM_CACHED = 16,
    SIM_ZONES = 5,  /* of a file: what open-file-description locks cover wholly or not at all (sim_lock.c) */
    SIM_TEXT = 4096 /* of a file of /proc */
};

typedef struct sim_inode sim_inode;
typedef struct sim_file sim_file;
typedef struct sim_view sim_view;

typedef struct sim_volume {
    const char *type; /* as mountinfo prints it */
    bool remote;      /* a server's: locks of one space, cached attributes, no events from other hosts */
    bool loose;       /* converting a lock is not one step, as flock(2) warns */
    unsigned major, minor;
    sim_inode *root;
    uint64_t unreachable_until; /* calls hang until then */
} sim_volume;

typedef struct sim_entry {
    char name[SIM_NAME];
    sim_inode *inode;
    struct sim_entry *next;
} sim_entry;

struct sim_inode {
    sim_volume *volume;
    mode_t mode; /* type included; 0: not in use */
    unsigned links, opens;
    off_t size;
    sim_inode *parent;         /* of a directory */
    sim_entry *entries;        /* of a directory */
    char target[2 * SIM_NAME]; /* of a symbolic link */
    uint64_t lost_at;          /* when a name of it was last taken away */
};

/* An open file description. */
struct sim_file {
    sim_inode *inode; /* NULL: a file of /proc, if `proc` */
    const char *proc;
    unsigned refs; /* descriptors; 0: not in use */
    int flags;     /* of open */
    off_t offset;
    const sim_view *view;
    int pid;
    uint8_t flock, ofd[SIM_ZONES]; /* F_UNLCK, F_RDLCK, F_WRLCK */
    uint64_t locked_at;            /* since when it has some lock */
};

typedef struct sim_mount {
    sim_inode *covers; /* NULL: the root */
    sim_volume *volume;
    const char *path; /* for mountinfo */
    unsigned id;
} sim_mount;

typedef struct sim_cached {
    const sim_inode *directory;
    char name[SIM_NAME];
    uint64_t until;
    bool there;
    struct stat st;
} sim_cached;

struct sim_view {
    sim_mount mounts[SIM_MOUNTS];
    unsigned mount_count;
    uint64_t cache_time; /* how long attributes of remote files may be stale; 0: never */
    sim_cached cache[SIM_CACHED];
};

typedef struct sim_task {
    sim_view *view;
    sim_inode *cwd;
    const char *cwd_path;
    int pid;
    int lowest; /* descriptors below are in use by others */
    int limit;  /* so many at most */
    mode_t umask;
    struct {
        sim_file *file; /* NULL: closed */
        bool close_on_exec;
    } fds[SIM_DESCRIPTORS];
} sim_task;

/* Something happened to a file, seen by listeners of the view's host. */
extern void (*sim_fs_changed)(const sim_view *view, const sim_inode *inode);

void sim_fs_start(void); /* nothing exists */
sim_volume *sim_fs_volume(const char *type, bool remote);
void sim_fs_mount(sim_view *view, const char *path, sim_volume *volume); /* "/" first */
void sim_fs_task(sim_task *task, sim_view *view, int pid);
int sim_fs_chdir(sim_task *task, const char *path);

int sim_fs_open(sim_task *task, const char *path, int flags, mode_t mode);
int sim_fs_dup_above(sim_task *task, int fd, bool close_on_exec);
sim_file *sim_fs_detach(sim_task *task, int fd); /* a close in two steps; NULL: EBADF */
void sim_fs_put(sim_file *file);
int sim_fs_close(sim_task *task, int fd);
int sim_fs_flock(sim_task *task, int fd, int operation);                            /* LOCK_NB is taken for granted */
int sim_fs_lock_ofd(sim_task *task, int fd, short type, off_t start, off_t length); /* length 0: to the end */
int sim_fs_fstat(sim_task *task, int fd, struct stat *st);
int sim_fs_stat(sim_task *task, const char *path, struct stat *st, bool follow);
int sim_fs_identify(sim_task *task, int fd, afl_identity *id);
int sim_fs_fchmod(sim_task *task, int fd, mode_t mode);
int sim_fs_ftruncate(sim_task *task, int fd, off_t length);
int sim_fs_touch(sim_task *task, int fd);
int sim_fs_mkdir(sim_task *task, const char *path, mode_t mode);
int sim_fs_unlink(sim_task *task, const char *path);
int sim_fs_rename(sim_task *task, const char *from, const char *to);
int sim_fs_link(sim_task *task, const char *from, const char *to);
int sim_fs_symlink(sim_task *task, const char *target, const char *path);
int sim_fs_readlink(sim_task *task, const char *path, char *target, size_t size);
int sim_fs_read(sim_task *task, int fd, void *buffer, size_t size);
int sim_fs_read_head(sim_task *task, int fd, void *buffer, size_t size); /* there are only zeros */
int sim_fs_getcwd(sim_task *task, char *buffer, size_t size);
int sim_fs_descriptor_flags(sim_task *task, int fd);

/* What a test may know. */
sim_file *sim_fs_file(const sim_task *task, int fd);            /* NULL: not open */
sim_volume *sim_fs_volume_at(sim_task *task, const char *path); /* that the path leads to, as far as it exists */
sim_inode *sim_fs_named(sim_task *task, const char *path);      /* past symbolic links and caches; or NULL */
unsigned sim_fs_descriptors(const sim_task *task);              /* open */
unsigned sim_fs_locks(void);                                    /* open files with a lock */
void sim_fs_note_locks(void);                                   /* who has them, and for how long */
unsigned sim_fs_files(void);                                    /* open files */
size_t sim_fs_text(const sim_view *view, const char *proc, char text[SIM_TEXT]); /* sim_proc.c: a file of /proc */

/* sim_path.c: from a path to an inode. */
typedef struct sim_place {
    sim_inode *directory; /* of the last component */
    char name[SIM_NAME];  /* of it; "" for "/", "." and ".." */
    sim_inode *inode;     /* NULL: there is none */
    const sim_mount *mount;
} sim_place;
int sim_path_find(const sim_task *task, const char *path, bool follow, sim_place *place);
sim_entry *sim_path_entry(const sim_inode *directory, const char *name);

/* Between sim_fs.c and sim_names.c. */
sim_inode *sim_inode_new(sim_volume *volume, mode_t mode); /* without a name; NULL: no space */
void sim_inode_tidy(sim_inode *inode);                     /* its number is free when nothing leads to it */
void sim_inode_changed(const sim_view *view, const sim_inode *inode);
int sim_inode_create(sim_place *place, mode_t mode); /* at a place that has none */
void sim_names_start(void);

/* sim_lock.c: locks. */
int sim_lock_flock(sim_file *file, int operation);
int sim_lock_ofd(sim_file *file, short type, off_t start, off_t length);
void sim_lock_drop(sim_file *file); /* all that it has */
bool sim_lock_any(const sim_file *file);
extern const off_t sim_lock_bounds[SIM_ZONES + 1]; /* where zones begin; the last one has no end */

extern sim_file sim_files[SIM_FILES];
extern unsigned sim_files_used; /* the others were never used */

#endif
