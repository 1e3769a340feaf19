/* The file system of stall.h: `stallfs MOUNT-POINT BACKING-FOLDER DESCRIPTOR`, the last being the shared memory.
 *
 * Each request goes through `meet` first, which finds the rule for it. Locks are taken on descriptors of the backing
 * files, one for each file that somebody opened, so that the mount excludes like a local file system, and so that a
 * test can look at the backing file without being stalled.
 */
#define FUSE_USE_VERSION 312
#include "stall.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fuse.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

enum { THREADS = 256 }; /* as many requests may hang at one time */

static stall *fs;
static int root;

/* ------------------------------------------------------------------------------------------------------- the rules */

/* What is to become of this request; counts it, and uses the rule up. */
static stall_rule rule_of(stall_call call, const char *path)
{
    stall_rule found = {.calls = 0};
    fs->count[call]++;
    fs->by_watched += fuse_get_context()->pid == fs->watched;
    for (int i = 0; i < STALL_RULES; i++) {
        stall_rule *rule = &fs->rules[i];
        if (rule->times == 0 || !strstr(path, rule->fragment))
            continue;
        if (rule->after & STALL_BIT(call))
            rule->after = 0;
        if (rule->after || !(rule->calls & STALL_BIT(call)))
            continue;
        if (rule->times > 0)
            rule->times--;
        found = *rule;
        break;
    }
    return found;
}

static void hang(void)
{
    unsigned since = fs->era;
    fs->hung++;
    pthread_cond_broadcast(&fs->changed);
    while (since == fs->era)
        pthread_cond_wait(&fs->changed, &fs->mutex);
    fs->hung--;
    pthread_cond_broadcast(&fs->changed);
}

static void suffer(const stall_rule *rule)
{
    if (rule->hang) {
        pthread_mutex_lock(&fs->mutex);
        hang();
        pthread_mutex_unlock(&fs->mutex);
    }
    struct timespec delay = {.tv_sec = (time_t)(rule->delay / 1000000000u),
                             .tv_nsec = (long)(rule->delay % 1000000000u)};
    while (rule->delay > 0 && clock_nanosleep(CLOCK_MONOTONIC, 0, &delay, &delay) == EINTR)
        ;
}

/* Before a request is served. True: it is to be done. */
static bool meet(stall_call call, const char *path, stall_rule *rule)
{
    pthread_mutex_lock(&fs->mutex);
    *rule = rule_of(call, path ? path : "");
    pthread_mutex_unlock(&fs->mutex);
    if (!rule->done)
        suffer(rule);
    return rule->done || !(rule->error || rule->lies);
}

/* After it: its answer, 0 or -errno. */
static int part(const stall_rule *rule, int answer)
{
    if (rule->done)
        suffer(rule);
    return rule->error ? -rule->error : answer;
}

/* One request: `expression` does it and returns -1 with errno on failure. */
#define SERVE(call, path, expression)                          \
    do {                                                       \
        stall_rule rule;                                       \
        int answer = 0;                                        \
        if (meet((call), (path), &rule) && (expression) == -1) \
            answer = -errno;                                   \
        return part(&rule, answer);                            \
    } while (0)

/* ------------------------------------------------------------------------------------------------------ the requests
 */

static const char *below(const char *path)
{
    return path && path[1] ? path + 1 : ".";
}

static int file_of(const struct fuse_file_info *info)
{
    return (int)info->fh;
}

static int serve_getattr(const char *path, struct stat *st, struct fuse_file_info *info)
{
    SERVE(STALL_LOOKUP, path, info ? fstat(file_of(info), st) : fstatat(root, below(path), st, AT_SYMLINK_NOFOLLOW));
}

static int serve_readlink(const char *path, char *target, size_t size)
{
    ssize_t length = 0;
    memset(target, 0, size);
    SERVE(STALL_OTHER, path, (length = readlinkat(root, below(path), target, size - 1)));
}

static int serve_mkdir(const char *path, mode_t mode)
{
    SERVE(STALL_MKDIR, path, mkdirat(root, below(path), mode));
}

static int serve_unlink(const char *path)
{
    SERVE(STALL_UNLINK, path, unlinkat(root, below(path), 0));
}

static int serve_rmdir(const char *path)
{
    SERVE(STALL_UNLINK, path, unlinkat(root, below(path), AT_REMOVEDIR));
}

static int serve_rename(const char *from, const char *to, unsigned flags)
{
    SERVE(STALL_UNLINK, from, renameat2(root, below(from), root, below(to), flags));
}

static int serve_link(const char *from, const char *to)
{
    SERVE(STALL_OTHER, from, linkat(root, below(from), root, below(to), 0));
}

static int serve_symlink(const char *target, const char *path)
{
    SERVE(STALL_OTHER, path, symlinkat(target, root, below(path)));
}

static int serve_chmod(const char *path, mode_t mode, struct fuse_file_info *info)
{
    SERVE(STALL_OTHER, path, info ? fchmod(file_of(info), mode) : fchmodat(root, below(path), mode, 0));
}

static int serve_truncate(const char *path, off_t size, struct fuse_file_info *info)
{
    if (!info)
        return -EOPNOTSUPP;
    SERVE(STALL_OTHER, path, ftruncate(file_of(info), size));
}

static int serve_utimens(const char *path, const struct timespec times[2], struct fuse_file_info *info)
{
    SERVE(STALL_OTHER, path,
          info ? futimens(file_of(info), times) : utimensat(root, below(path), times, AT_SYMLINK_NOFOLLOW));
}

static int open_file(const char *path, int flags, mode_t mode, struct fuse_file_info *info)
{
    int fd = openat(root, below(path), flags | O_CLOEXEC, mode);
    info->fh = fd < 0 ? 0 : (uint64_t)fd;
    return fd;
}

static int serve_open(const char *path, struct fuse_file_info *info)
{
    SERVE(STALL_OPEN, path, open_file(path, info->flags, 0, info));
}

static int serve_create(const char *path, mode_t mode, struct fuse_file_info *info)
{
    SERVE(STALL_CREATE, path, open_file(path, info->flags | O_CREAT, mode, info));
}

static int serve_read(const char *path, char *buffer, size_t size, off_t at, struct fuse_file_info *info)
{
    stall_rule rule;
    ssize_t length = meet(STALL_OTHER, path, &rule) ? pread(file_of(info), buffer, size, at) : 0;
    return part(&rule, length < 0 ? -errno : (int)length);
}

static int serve_write(const char *path, const char *buffer, size_t size, off_t at, struct fuse_file_info *info)
{
    stall_rule rule;
    ssize_t length = meet(STALL_OTHER, path, &rule) ? pwrite(file_of(info), buffer, size, at) : 0;
    return part(&rule, length < 0 ? -errno : (int)length);
}

static int serve_statfs(const char *path, struct statvfs *st)
{
    SERVE(STALL_OTHER, path, fstatvfs(root, st));
}

static int serve_flush(const char *path, struct fuse_file_info *info)
{
    (void)info;
    SERVE(STALL_FLUSH, path, 0);
}

static int serve_release(const char *path, struct fuse_file_info *info)
{
    stall_rule rule;
    meet(STALL_RELEASE, path, &rule);
    close(file_of(info)); /* nobody hears of an error */
    return part(&rule, 0);
}

static int serve_readdir(const char *path, void *buffer, fuse_fill_dir_t fill, off_t at, struct fuse_file_info *info,
                         enum fuse_readdir_flags flags)
{
    (void)at, (void)info, (void)flags;
    stall_rule rule;
    if (!meet(STALL_OTHER, path, &rule))
        return part(&rule, 0);
    int fd = openat(root, below(path), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *folder = fd < 0 ? NULL : fdopendir(fd);
    if (!folder)
        return part(&rule, -errno);
    for (const struct dirent *e; (e = readdir(folder)) != NULL;)
        fill(buffer, e->d_name, NULL, 0, 0);
    closedir(folder);
    return part(&rule, 0);
}

static int serve_flock(const char *path, struct fuse_file_info *info, int operation)
{
    SERVE(operation & LOCK_UN ? STALL_UNLOCK : STALL_FLOCK, path, flock(file_of(info), operation));
}

static int serve_lock(const char *path, struct fuse_file_info *info, int command, struct flock *lock)
{
    int ours = command == F_GETLK ? F_OFD_GETLK : command == F_SETLK ? F_OFD_SETLK : F_OFD_SETLKW;
    lock->l_pid = 0;
    SERVE(lock->l_type == F_UNLCK ? STALL_UNLOCK : STALL_SETLK, path, fcntl(file_of(info), ours, lock));
}

/* ------------------------------------------------------------------------------------------------------- the program
 */

static void *serve_init(struct fuse_conn_info *connection, struct fuse_config *config)
{
    (void)connection;
    config->use_ino = 1;
    config->hard_remove = 1;
    config->entry_timeout = config->attr_timeout = config->negative_timeout = fs->cache;
    pthread_mutex_lock(&fs->mutex);
    fs->mounted = true;
    pthread_cond_broadcast(&fs->changed);
    pthread_mutex_unlock(&fs->mutex);
    return NULL;
}

static const struct fuse_operations OPERATIONS = {
    .init = serve_init,
    .getattr = serve_getattr,
    .readlink = serve_readlink,
    .mkdir = serve_mkdir,
    .unlink = serve_unlink,
    .rmdir = serve_rmdir,
    .rename = serve_rename,
    .link = serve_link,
    .symlink = serve_symlink,
    .chmod = serve_chmod,
    .truncate = serve_truncate,
    .utimens = serve_utimens,
    .open = serve_open,
    .create = serve_create,
    .read = serve_read,
    .write = serve_write,
    .statfs = serve_statfs,
    .flush = serve_flush,
    .release = serve_release,
    .readdir = serve_readdir,
    .flock = serve_flock,
    .lock = serve_lock,
};

static int run(const char *point)
{
    char name[] = "stallfs", option[] = "-ofsname=stallfs";
    char *arguments[] = {name, option, NULL};
    struct fuse_args all = FUSE_ARGS_INIT(2, arguments);
    struct fuse *fuse = fuse_new(&all, &OPERATIONS, sizeof OPERATIONS, NULL);
    struct fuse_loop_config *config = fuse_loop_cfg_create();
    fuse_loop_cfg_set_max_threads(config, THREADS);
    fuse_loop_cfg_set_idle_threads(config, THREADS);
    if (!fuse || fuse_mount(fuse, point) != 0)
        return 1;
    return fuse_loop_mt(fuse, config);
}

int main(int argc, char **argv)
{
    if (argc != 4)
        return 2;
    int memory = atoi(argv[3]);
    fs = mmap(NULL, sizeof *fs, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
    root = open(argv[2], O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (fs == MAP_FAILED || root < 0)
        return 1;
    close(memory);
    umask(0);
    return run(argv[1]);
}
