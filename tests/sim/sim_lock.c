/* Locks as Linux has them: flock on the whole file, open-file-description locks on zones of it, which are the bytes
 * that some protocol locks by themselves. A volume that is remote has one space for both kinds, as NFS does; a local
 * one has two that do not see each other. */
#include "sim_clock.h"
#include "sim_fs.h"
#include "sim_trace.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/file.h>

/* The bytes by which SQLite locks, and what is before and behind them. */
enum { PENDING = 0x40000000 };
const off_t sim_lock_bounds[SIM_ZONES + 1] = {0, PENDING, PENDING + 1, PENDING + 2, PENDING + 512, LONG_MAX};

static bool clash(uint8_t theirs, uint8_t ours)
{
    return theirs != F_UNLCK && (theirs == F_WRLCK || ours == F_WRLCK);
}

static bool clash_in(const sim_file *file, unsigned first, unsigned end, uint8_t ours)
{
    while (first < end && !clash(file->ofd[first], ours))
        first++;
    return first < end;
}

/* Would others' locks be in the way? Of zones that are not open-file-description locks' it is all. */
static bool contended(const sim_file *file, bool ofd, unsigned first, unsigned end, uint8_t type)
{
    bool one_space = file->inode->volume->remote;
    for (unsigned i = 0; i < sim_files_used; i++) {
        const sim_file *other = &sim_files[i];
        if (other == file || other->inode != file->inode || !other->refs)
            continue;
        if ((ofd || one_space) && clash_in(other, first, end, type))
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

bool sim_lock_any(const sim_file *file)
{
    unsigned zone = 0;
    while (zone < SIM_ZONES && file->ofd[zone] == F_UNLCK)
        zone++;
    return file->flock != F_UNLCK || zone < SIM_ZONES;
}

static void set_zones(sim_file *file, unsigned first, unsigned end, uint8_t type)
{
    for (; first < end; first++)
        file->ofd[first] = type;
}

void sim_lock_drop(sim_file *file)
{
    file->flock = F_UNLCK;
    set_zones(file, 0, SIM_ZONES, F_UNLCK);
}

static void note_time(sim_file *file)
{
    if (!sim_lock_any(file))
        file->locked_at = sim_now;
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
    if (contended(file, false, 0, SIM_ZONES, type))
        return -EWOULDBLOCK;
    note_time(file);
    file->flock = type;
    if (converts)
        file->locked_at = since;
    return 0;
}

static unsigned zone_at(off_t at)
{
    unsigned zone = 0;
    while (zone < SIM_ZONES && sim_lock_bounds[zone] != at)
        zone++;
    return zone;
}

/* A conversion that fails leaves the old lock. */
int sim_lock_ofd(sim_file *file, short type, off_t start, off_t length)
{
    unsigned first = zone_at(start), end = length ? zone_at(start + length) : SIM_ZONES;
    sim_require(first < end && (!length || end < SIM_ZONES), "bytes that are locked are zones: %ld, %ld", (long)start,
                (long)length);
    if (type == F_UNLCK) {
        set_zones(file, first, end, F_UNLCK);
        return 0;
    }
    if ((type == F_WRLCK && !writable(file)) || (type == F_RDLCK && !readable(file)))
        return -EBADF;
    if (contended(file, true, first, end, (uint8_t)type))
        return -EAGAIN;
    note_time(file);
    set_zones(file, first, end, (uint8_t)type);
    return 0;
}
