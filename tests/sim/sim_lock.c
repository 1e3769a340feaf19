/* Whole-file locks as Linux has them. A volume that is remote has one space for both kinds, as NFS does; a local one
 * has two that do not see each other. */
#include "sim_clock.h"
#include "sim_fs.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>

static bool clash(uint8_t theirs, uint8_t ours)
{
    return theirs != F_UNLCK && (theirs == F_WRLCK || ours == F_WRLCK);
}

/* Would others' locks be in the way? */
static bool contended(const sim_file *file, bool ofd, uint8_t type)
{
    bool one_space = file->inode->volume->remote;
    for (unsigned i = 0; i < sim_files_used; i++) {
        const sim_file *other = &sim_files[i];
        if (other == file || other->inode != file->inode || !other->refs)
            continue;
        if ((ofd || one_space) && clash(other->ofd, type))
            return true;
        if ((!ofd || one_space) && clash(other->flock, type))
            return true;
    }
    return false;
}

static bool writable(const sim_file *file)
{
    return (file->flags & O_ACCMODE) != O_RDONLY;
}

static bool readable(const sim_file *file)
{
    return (file->flags & O_ACCMODE) != O_WRONLY;
}

static void set(sim_file *file, uint8_t *which, uint8_t type)
{
    if (file->flock == F_UNLCK && file->ofd == F_UNLCK)
        file->locked_at = sim_now;
    *which = type;
}

/* A conversion gives the old lock up before it tries to get the new one. */
int sim_lock_flock(sim_file *file, int operation)
{
    int kind = operation & ~LOCK_NB;
    if (kind == LOCK_UN) {
        file->flock = F_UNLCK;
        return 0;
    }
    if (kind != LOCK_SH && kind != LOCK_EX)
        return -EINVAL;
    uint8_t type = kind == LOCK_SH ? F_RDLCK : F_WRLCK;
    if (file->inode->volume->remote && type == F_WRLCK && !writable(file))
        return -EBADF;
    if (file->flock == type)
        return 0;
    uint64_t since = file->locked_at;
    bool converts = file->flock != F_UNLCK;
    file->flock = F_UNLCK;
    if (contended(file, false, type))
        return -EWOULDBLOCK;
    set(file, &file->flock, type);
    if (converts)
        file->locked_at = since;
    return 0;
}

/* A conversion that fails leaves the old lock. */
int sim_lock_ofd(sim_file *file, short type)
{
    if (type == F_UNLCK) {
        file->ofd = F_UNLCK;
        return 0;
    }
    if ((type == F_WRLCK && !writable(file)) || (type == F_RDLCK && !readable(file)))
        return -EBADF;
    if (contended(file, true, (uint8_t)type))
        return -EAGAIN;
    set(file, &file->ofd, (uint8_t)type);
    return 0;
}
