/* The calls of sim_fs.h, but for those that change names (sim_names.c). */
#include "sim_fs.h"
#include "sim_clock.h"
#include "sim_trace.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/sysmacros.h>

void (*sim_fs_changed)(const sim_view *view, const sim_inode *inode);
sim_file sim_files[SIM_FILES];
unsigned sim_files_used;
static sim_inode inodes[SIM_INODES];
static sim_volume volumes[SIM_VOLUMES];
static unsigned inodes_used, volumes_used; /* never used: beyond these */

void sim_inode_changed(const sim_view *view, const sim_inode *inode)
{
    if (sim_fs_changed)
        sim_fs_changed(view, inode);
}

/* ----------------------------------------------------------------------------------------------- making a world */

void sim_fs_start(void)
{
    memset(inodes, 0, inodes_used * sizeof *inodes);
    memset(sim_files, 0, sim_files_used * sizeof *sim_files);
    memset(volumes, 0, sizeof volumes);
    inodes_used = sim_files_used = volumes_used = 0;
    sim_names_start();
}

/* The lowest number that is free, so that numbers come back soon, as they do on real file systems. */
sim_inode *sim_inode_new(sim_volume *volume, mode_t mode)
{
    unsigned i = 0;
    while (i < inodes_used && inodes[i].mode)
        i++;
    if (i == SIM_INODES)
        return NULL;
    if (i == inodes_used)
        inodes_used++;
    inodes[i] = (sim_inode){.volume = volume, .mode = mode};
    return &inodes[i];
}

void sim_inode_tidy(sim_inode *inode)
{
    if (inode->links == 0 && inode->opens == 0)
        inode->mode = 0;
}

sim_volume *sim_fs_volume(const char *type, bool remote)
{
    bool loose = remote || strncmp(type, "fuse", 4) == 0;
    sim_require(volumes_used < SIM_VOLUMES, "fewer volumes");
    sim_volume *v = &volumes[volumes_used++];
    *v = (sim_volume){.type = type, .remote = remote, .loose = loose, .major = remote ? 0 : 8, .minor = volumes_used};
    v->root = sim_inode_new(v, S_IFDIR | 0755);
    v->root->links = 2;
    v->root->parent = v->root;
    return v;
}

void sim_fs_mount(sim_view *view, const char *path, sim_volume *volume)
{
    sim_mount *m = &view->mounts[view->mount_count];
    *m = (sim_mount){.volume = volume, .path = path, .id = 20 + view->mount_count};
    if (view->mount_count > 0) {
        sim_task task = {.view = view, .cwd = view->mounts[0].volume->root};
        sim_place place;
        sim_require(sim_path_find(&task, path, true, &place) == 0 && place.inode, "a mount point at %s", path);
        m->covers = place.inode;
    }
    view->mount_count++;
}

void sim_fs_task(sim_task *task, sim_view *view, int pid)
{
    *task = (sim_task){.view = view,
                       .cwd = view->mounts[0].volume->root,
                       .cwd_path = "/",
                       .pid = pid,
                       .lowest = 3,
                       .limit = SIM_DESCRIPTORS,
                       .umask = 022};
}

int sim_fs_chdir(sim_task *task, const char *path)
{
    sim_place place;
    int status = sim_path_find(task, path, true, &place);
    if (status)
        return status;
    if (!place.inode)
        return -ENOENT;
    task->cwd = place.inode;
    task->cwd_path = path;
    return 0;
}

/* -------------------------------------------------------------------------------------------------- descriptors */

sim_file *sim_fs_file(const sim_task *task, int fd)
{
    return fd >= 0 && fd < SIM_DESCRIPTORS ? task->fds[fd].file : NULL;
}

/* An open file that is more than a name (O_PATH). */
static sim_file *real_file(const sim_task *task, int fd)
{
    sim_file *f = sim_fs_file(task, fd);
    return f && !(f->flags & O_PATH) ? f : NULL;
}

static int unused_descriptor(const sim_task *task, int least)
{
    for (int fd = least; fd < task->limit; fd++)
        if (!task->fds[fd].file)
            return fd;
    return -EMFILE;
}

static sim_file *file_new(const sim_task *task, sim_inode *inode, int flags)
{
    unsigned i = 0;
    while (i < sim_files_used && sim_files[i].refs)
        i++;
    if (i == SIM_FILES)
        return NULL;
    if (i == sim_files_used)
        sim_files_used++;
    sim_files[i] = (sim_file){.inode = inode, .refs = 1, .flags = flags, .view = task->view, .pid = task->pid};
    sim_lock_drop(&sim_files[i]);
    if (inode)
        inode->opens++;
    return &sim_files[i];
}

static int open_proc(sim_task *task, const char *path, int fd)
{
    sim_file *f = file_new(task, NULL, O_RDONLY);
    if (!f)
        return -ENFILE;
    f->proc = path;
    task->fds[fd].file = f;
    task->fds[fd].close_on_exec = true;
    return fd;
}

/* May the inode be opened like this? */
static int check_open(const sim_inode *inode, int flags)
{
    if ((flags & O_CREAT) && S_ISDIR(inode->mode) && !(flags & O_PATH))
        return -EISDIR;
    if ((flags & O_DIRECTORY) && !S_ISDIR(inode->mode))
        return -ENOTDIR;
    if (flags & O_PATH)
        return 0;
    if (S_ISLNK(inode->mode))
        return -ELOOP;
    return S_ISDIR(inode->mode) && (flags & O_ACCMODE) != O_RDONLY ? -EISDIR : 0;
}

static void remember(sim_view *view, const sim_place *p);

int sim_fs_open(sim_task *task, const char *path, int flags, mode_t mode)
{
    static const char *const PROC[] = {"/proc/self/mountinfo", "/proc/locks"};
    int fd = unused_descriptor(task, task->lowest);
    if (fd < 0)
        return fd;
    for (size_t i = 0; i < sizeof PROC / sizeof PROC[0]; i++)
        if (strcmp(path, PROC[i]) == 0)
            return open_proc(task, PROC[i], fd);
    bool creates = flags & O_CREAT && !(flags & O_PATH), only_new = creates && flags & O_EXCL;
    sim_place p;
    int status = sim_path_find(task, path, !(flags & O_NOFOLLOW) && !only_new, &p);
    if (status)
        return status;
    if (p.inode)
        status = only_new ? -EEXIST : check_open(p.inode, flags);
    else
        status = creates ? sim_inode_create(&p, S_IFREG | (mode & 07777 & ~task->umask)) : -ENOENT;
    remember(task->view, &p);
    if (status)
        return status;
    sim_file *f = file_new(task, p.inode, flags);
    if (!f)
        return -ENFILE;
    task->fds[fd].file = f;
    task->fds[fd].close_on_exec = flags & O_CLOEXEC;
    if (flags & O_TRUNC && !(flags & O_PATH))
        p.inode->size = 0;
    return fd;
}

int sim_fs_dup_above(sim_task *task, int fd, bool close_on_exec)
{
    sim_file *f = sim_fs_file(task, fd);
    if (!f)
        return -EBADF;
    int copy = unused_descriptor(task, 3);
    if (copy < 0)
        return copy;
    f->refs++;
    task->fds[copy].file = f;
    task->fds[copy].close_on_exec = close_on_exec;
    return copy;
}

sim_file *sim_fs_detach(sim_task *task, int fd)
{
    sim_file *f = sim_fs_file(task, fd);
    if (!f)
        return NULL;
    task->fds[fd].file = NULL;
    if (f->refs == 1 && f->inode && !(f->flags & O_PATH))
        sim_inode_changed(f->view, f->inode); /* comes before the lock goes */
    return f;
}

void sim_fs_put(sim_file *f)
{
    if (--f->refs > 0)
        return;
    sim_lock_drop(f);
    if (!f->inode)
        return;
    f->inode->opens--;
    sim_inode_tidy(f->inode);
    f->inode = NULL;
}

int sim_fs_close(sim_task *task, int fd)
{
    sim_file *f = sim_fs_detach(task, fd);
    if (!f)
        return -EBADF;
    sim_fs_put(f);
    return 0;
}

int sim_fs_flock(sim_task *task, int fd, int operation)
{
    sim_file *f = real_file(task, fd);
    return f && f->inode ? sim_lock_flock(f, operation) : -EBADF;
}

int sim_fs_lock_ofd(sim_task *task, int fd, short type, off_t start, off_t length)
{
    sim_file *f = real_file(task, fd);
    return f && f->inode ? sim_lock_ofd(f, type, start, length) : -EBADF;
}

int sim_fs_descriptor_flags(sim_task *task, int fd)
{
    return sim_fs_file(task, fd) ? task->fds[fd].close_on_exec ? FD_CLOEXEC : 0 : -EBADF;
}

/* --------------------------------------------------------------------------------------------------- attributes */

static void describe(const sim_inode *inode, struct stat *st)
{
    *st = (struct stat){.st_dev = makedev(inode->volume->major, inode->volume->minor),
                        .st_ino = (ino_t)(inode - inodes) + 2,
                        .st_mode = inode->mode,
                        .st_nlink = inode->links,
                        .st_size = inode->size};
}

static sim_cached *cache_slot(sim_view *view, const sim_inode *directory, const char *name)
{
    sim_cached *oldest = &view->cache[0];
    for (sim_cached *c = view->cache; c < view->cache + SIM_CACHED; c++) {
        if (c->directory == directory && strcmp(c->name, name) == 0)
            return c;
        if (c->until < oldest->until)
            oldest = c;
    }
    return oldest;
}

/* The host has seen what is at the place, and believes it for a while. */
static void remember(sim_view *view, const sim_place *p)
{
    if (!view->cache_time || !p->directory->volume->remote || !p->name[0])
        return;
    sim_cached *c = cache_slot(view, p->directory, p->name);
    c->directory = p->directory;
    memcpy(c->name, p->name, SIM_NAME);
    c->until = sim_now + view->cache_time;
    c->there = p->inode != NULL;
    if (p->inode)
        describe(p->inode, &c->st);
}

static const sim_cached *recall(sim_view *view, const sim_place *p)
{
    if (!view->cache_time || !p->directory->volume->remote)
        return NULL;
    const sim_cached *c = cache_slot(view, p->directory, p->name);
    bool known = c->directory == p->directory && strcmp(c->name, p->name) == 0 && c->until > sim_now;
    return known ? c : NULL;
}

int sim_fs_stat(sim_task *task, const char *path, struct stat *st, bool follow)
{
    sim_place p;
    int status = sim_path_find(task, path, follow, &p);
    if (status)
        return status;
    const sim_cached *c = recall(task->view, &p);
    if (c && c->there)
        *st = c->st;
    if (c)
        return c->there ? 0 : -ENOENT;
    remember(task->view, &p);
    if (!p.inode)
        return -ENOENT;
    describe(p.inode, st);
    return 0;
}

int sim_fs_fstat(sim_task *task, int fd, struct stat *st)
{
    const sim_file *f = sim_fs_file(task, fd);
    if (!f || !f->inode)
        return -EBADF;
    describe(f->inode, st);
    return 0;
}

int sim_fs_identify(sim_task *task, int fd, afl_identity *id)
{
    struct stat st;
    int status = sim_fs_fstat(task, fd, &st);
    if (status)
        return status;
    const sim_volume *v = sim_fs_file(task, fd)->inode->volume;
    *id = (afl_identity){.dev = (uint64_t)v->major << 32 | v->minor, .ino = st.st_ino};
    for (unsigned i = 0; i < task->view->mount_count; i++)
        if (task->view->mounts[i].volume == v)
            id->mount = task->view->mounts[i].id;
    return 0;
}

int sim_fs_fchmod(sim_task *task, int fd, mode_t mode)
{
    const sim_file *f = real_file(task, fd);
    if (!f || !f->inode)
        return -EBADF;
    f->inode->mode = (f->inode->mode & S_IFMT) | (mode & 07777);
    sim_inode_changed(f->view, f->inode);
    return 0;
}

int sim_fs_ftruncate(sim_task *task, int fd, off_t length)
{
    const sim_file *f = real_file(task, fd);
    if (!f || !f->inode)
        return -EBADF;
    if (!S_ISREG(f->inode->mode) || (f->flags & O_ACCMODE) == O_RDONLY || length < 0)
        return -EINVAL;
    f->inode->size = length;
    sim_inode_changed(f->view, f->inode);
    return 0;
}

int sim_fs_touch(sim_task *task, int fd)
{
    const sim_file *f = real_file(task, fd);
    if (!f || !f->inode)
        return -EBADF;
    sim_inode_changed(f->view, f->inode);
    return 0;
}

int sim_fs_read(sim_task *task, int fd, void *buffer, size_t size)
{
    char text[SIM_TEXT];
    sim_file *f = real_file(task, fd);
    if (!f || (f->flags & O_ACCMODE) == O_WRONLY)
        return -EBADF;
    if (!f->proc)
        return S_ISDIR(f->inode->mode) ? -EISDIR : 0;
    size_t length = sim_fs_text(task->view, f->proc, text), at = (size_t)f->offset;
    size_t count = at >= length ? 0 : length - at < size ? length - at : size;
    memcpy(buffer, text + at, count);
    f->offset += (off_t)count;
    return (int)count;
}

int sim_fs_read_head(sim_task *task, int fd, void *buffer, size_t size)
{
    const sim_file *f = real_file(task, fd);
    if (!f || !f->inode || (f->flags & O_ACCMODE) == O_WRONLY)
        return -EBADF;
    if (S_ISDIR(f->inode->mode))
        return -EISDIR;
    if (f->inode->size < (off_t)size)
        size = (size_t)f->inode->size;
    memset(buffer, 0, size);
    return (int)size;
}

int sim_fs_getcwd(sim_task *task, char *buffer, size_t size)
{
    size_t length = strlen(task->cwd_path) + 1;
    if (length > size)
        return -ERANGE;
    memcpy(buffer, task->cwd_path, length);
    return (int)length;
}

/* ------------------------------------------------------------------------------------------- what a test may know */

sim_volume *sim_fs_volume_at(sim_task *task, const char *path)
{
    sim_place p;
    if (sim_path_find(task, path, true, &p) == 0)
        return p.inode ? p.inode->volume : p.directory->volume;
    for (unsigned i = task->view->mount_count; i-- > 1;)
        if (strncmp(path, task->view->mounts[i].path, strlen(task->view->mounts[i].path)) == 0)
            return task->view->mounts[i].volume;
    return task->view->mounts[0].volume;
}

sim_inode *sim_fs_named(sim_task *task, const char *path)
{
    sim_place p;
    return sim_path_find(task, path, true, &p) == 0 ? p.inode : NULL;
}

unsigned sim_fs_descriptors(const sim_task *task)
{
    unsigned count = 0;
    for (int fd = 0; fd < SIM_DESCRIPTORS; fd++)
        count += task->fds[fd].file != NULL;
    return count;
}

unsigned sim_fs_locks(void)
{
    unsigned count = 0;
    for (unsigned i = 0; i < sim_files_used; i++)
        count += sim_files[i].refs && sim_lock_any(&sim_files[i]);
    return count;
}

unsigned sim_fs_files(void)
{
    unsigned count = 0;
    for (unsigned i = 0; i < sim_files_used; i++)
        count += sim_files[i].refs != 0;
    return count;
}
