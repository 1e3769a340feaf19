/* The names of files: the calls that give them and take them away. */
#include "sim_clock.h"
#include "sim_fs.h"

#include <errno.h>
#include <string.h>

static sim_entry entries[SIM_ENTRIES];
static unsigned entries_used; /* never used: beyond these */
static sim_entry *free_entries;

void sim_names_start(void)
{
    entries_used = 0;
    free_entries = NULL;
}

/* Gives the inode a name; NULL: no space. */
static sim_entry *add_name(sim_inode *directory, const char *name, sim_inode *inode)
{
    sim_entry *e = free_entries;
    if (e)
        free_entries = e->next;
    else if (entries_used < SIM_ENTRIES)
        e = &entries[entries_used++];
    else
        return NULL;
    memcpy(e->name, name, SIM_NAME);
    e->inode = inode;
    e->next = directory->entries;
    directory->entries = e;
    return e;
}

static void take_name(sim_inode *directory, const char *name)
{
    sim_entry **link = &directory->entries;
    while (strcmp((*link)->name, name) != 0)
        link = &(*link)->next;
    sim_entry *e = *link;
    *link = e->next;
    e->inode->lost_at = sim_now;
    e->next = free_entries;
    free_entries = e;
}

/* A new inode at a place that has none. */
int sim_inode_create(sim_place *p, mode_t mode)
{
    if (p->directory->links == 0)
        return -ENOENT;
    sim_inode *inode = sim_inode_new(p->directory->volume, mode);
    if (!inode)
        return -ENOSPC;
    inode->links = 1;
    if (!add_name(p->directory, p->name, inode)) {
        inode->mode = 0;
        return -ENOSPC;
    }
    if (S_ISDIR(mode)) {
        inode->links = 2;
        inode->parent = p->directory;
        p->directory->links++;
    }
    p->inode = inode;
    return 0;
}

int sim_fs_mkdir(sim_task *task, const char *path, mode_t mode)
{
    sim_place p;
    int status = sim_path_find(task, path, false, &p);
    if (status)
        return status;
    return p.inode ? -EEXIST : sim_inode_create(&p, S_IFDIR | (mode & 0777 & ~task->umask));
}

int sim_fs_symlink(sim_task *task, const char *target, const char *path)
{
    sim_place p;
    int status = sim_path_find(task, path, false, &p);
    if (status)
        return status;
    if (p.inode)
        return -EEXIST;
    if (strlen(target) >= sizeof p.inode->target)
        return -ENAMETOOLONG;
    status = sim_inode_create(&p, S_IFLNK | 0777);
    if (status)
        return status;
    memcpy(p.inode->target, target, strlen(target) + 1);
    p.inode->size = (off_t)strlen(target);
    return 0;
}

int sim_fs_readlink(sim_task *task, const char *path, char *target, size_t size)
{
    sim_place p;
    int status = sim_path_find(task, path, false, &p);
    if (status)
        return status;
    if (!p.inode)
        return -ENOENT;
    if (!S_ISLNK(p.inode->mode))
        return -EINVAL;
    size_t length = strlen(p.inode->target);
    memcpy(target, p.inode->target, length < size ? length : size);
    return (int)(length < size ? length : size);
}

int sim_fs_unlink(sim_task *task, const char *path)
{
    sim_place p;
    int status = sim_path_find(task, path, false, &p);
    if (status)
        return status;
    if (!p.inode)
        return -ENOENT;
    if (S_ISDIR(p.inode->mode))
        return -EISDIR;
    take_name(p.directory, p.name);
    p.inode->links--;
    sim_inode_changed(task->view, p.inode);
    sim_inode_tidy(p.inode);
    return 0;
}

int sim_fs_link(sim_task *task, const char *from, const char *to)
{
    sim_place a, b;
    int status = sim_path_find(task, from, false, &a);
    if (status == 0 && !a.inode)
        status = -ENOENT;
    if (status == 0)
        status = sim_path_find(task, to, false, &b);
    if (status)
        return status;
    if (b.inode)
        return -EEXIST;
    if (a.inode->volume != b.directory->volume)
        return -EXDEV;
    if (S_ISDIR(a.inode->mode))
        return -EPERM;
    if (b.directory->links == 0)
        return -ENOENT;
    if (!add_name(b.directory, b.name, a.inode))
        return -ENOSPC;
    a.inode->links++;
    sim_inode_changed(task->view, a.inode);
    return 0;
}

/* Of files only; directories stay where they are. */
int sim_fs_rename(sim_task *task, const char *from, const char *to)
{
    sim_place a, b;
    int status = sim_path_find(task, from, false, &a);
    if (status == 0)
        status = sim_path_find(task, to, false, &b);
    if (status)
        return status;
    if (!a.inode)
        return -ENOENT;
    if (a.inode->volume != b.directory->volume)
        return -EXDEV;
    if (S_ISDIR(a.inode->mode))
        return -EBUSY;
    for (const sim_inode *above = a.directory; above != above->volume->root; above = above->parent)
        if (above == b.inode)
            return -ENOTEMPTY;
    if (a.inode == b.inode)
        return 0;
    if (b.inode && S_ISDIR(b.inode->mode))
        return -EISDIR;
    if (b.inode)
        sim_fs_unlink(task, to);
    take_name(a.directory, a.name);
    add_name(b.directory, b.name, a.inode);
    sim_inode_changed(task->view, a.inode);
    return 0;
}
