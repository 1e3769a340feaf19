/* The walk from a path to an inode: mounts, "..", symbolic links. */
#include "sim_fs.h"

#include <errno.h>
#include <string.h>

enum { LINKS = 40 };

typedef struct walk {
    const sim_task *task;
    sim_place *place;
    sim_inode *here;
    unsigned links;
} walk;

static const sim_mount *mount_of(const sim_view *view, const sim_volume *volume)
{
    for (unsigned i = 0; i < view->mount_count; i++)
        if (view->mounts[i].volume == volume)
            return &view->mounts[i];
    return NULL;
}

sim_entry *sim_path_entry(const sim_inode *directory, const char *name)
{
    for (sim_entry *e = directory->entries; e; e = e->next)
        if (strcmp(e->name, name) == 0)
            return e;
    return NULL;
}

/* What covers a directory, if something is mounted there. */
static sim_inode *on_top(const sim_view *view, sim_inode *inode)
{
    for (unsigned i = 1; i < view->mount_count; i++)
        if (view->mounts[i].covers == inode)
            return view->mounts[i].volume->root;
    return inode;
}

static sim_inode *parent_of(const sim_view *view, sim_inode *directory)
{
    if (directory == directory->volume->root) {
        const sim_mount *m = mount_of(view, directory->volume);
        if (!m || !m->covers)
            return directory;
        directory = m->covers;
    }
    return directory->parent;
}

static int follow_path(walk *w, const char *path, bool follow);

/* One component below w->here. */
static int take(walk *w, const char *name, size_t length, bool last, bool follow)
{
    sim_place *p = w->place;
    sim_inode *directory = w->here;
    if (!directory)
        return -ENOENT;
    if (!S_ISDIR(directory->mode))
        return -ENOTDIR;
    p->name[0] = '\0';
    p->directory = directory;
    if (length == 1 && name[0] == '.')
        return 0;
    if (length == 2 && name[0] == '.' && name[1] == '.') {
        w->here = parent_of(w->task->view, directory);
        return w->here ? 0 : -ENOENT;
    }
    if (length >= SIM_NAME)
        return -ENAMETOOLONG;
    memcpy(p->name, name, length);
    p->name[length] = '\0';
    const sim_entry *e = sim_path_entry(directory, p->name);
    w->here = e ? on_top(w->task->view, e->inode) : NULL;
    if (!e)
        return last ? 0 : -ENOENT;
    if (!S_ISLNK(e->inode->mode) || (last && !follow))
        return 0;
    if (++w->links > LINKS)
        return -ELOOP;
    w->here = directory;
    int status = follow_path(w, e->inode->target, true);
    return status == 0 && !w->here && !last ? -ENOENT : status;
}

static int follow_path(walk *w, const char *path, bool follow)
{
    if (*path == '\0')
        return -ENOENT;
    if (*path == '/') {
        w->here = w->task->view->mounts[0].volume->root;
        w->place->directory = w->here;
        w->place->name[0] = '\0';
    }
    path += strspn(path, "/");
    while (*path) {
        size_t length = strcspn(path, "/");
        const char *rest = path + length + strspn(path + length, "/");
        int status = take(w, path, length, *rest == '\0', follow);
        if (status)
            return status;
        path = rest;
    }
    return 0;
}

int sim_path_find(const sim_task *task, const char *path, bool follow, sim_place *place)
{
    walk w = {.task = task, .place = place, .here = task->cwd};
    *place = (sim_place){.directory = task->cwd};
    int status = follow_path(&w, path, follow);
    if (status)
        return status;
    place->inode = w.here;
    const sim_inode *where = w.here ? w.here : place->directory;
    place->mount = mount_of(task->view, where->volume);
    return 0;
}
