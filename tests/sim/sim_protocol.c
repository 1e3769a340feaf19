/* The lock protocols, as programs without the library speak them. */
#include "sim_world.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>

static int flock_lock(sim_task *task, int fd, aflock_mode mode)
{
    return sim_fs_flock(task, fd, (mode == AFLOCK_SHARED ? LOCK_SH : LOCK_EX) | LOCK_NB);
}

static int flock_unlock(sim_task *task, int fd)
{
    return sim_fs_flock(task, fd, LOCK_UN);
}

static int ofd_lock(sim_task *task, int fd, aflock_mode mode)
{
    return sim_fs_lock_ofd(task, fd, mode == AFLOCK_SHARED ? F_RDLCK : F_WRLCK, 0, 0);
}

static int ofd_unlock(sim_task *task, int fd)
{
    return sim_fs_lock_ofd(task, fd, F_UNLCK, 0, 0);
}

enum { PENDING = 0x40000000, RANGE = PENDING + 2, RANGE_BYTES = 510 }; /* SQLite's */
enum { RANGE_ZONE = 3 };

static int rw_unlock(sim_task *task, int fd)
{
    return sim_fs_lock_ofd(task, fd, F_UNLCK, PENDING, RANGE + RANGE_BYTES - PENDING);
}

/* Through the doorway, or with a claim. One attempt: it leaves nothing. */
static int rw_lock(sim_task *task, int fd, aflock_mode mode)
{
    const bool reads = mode == AFLOCK_SHARED;
    int result = sim_fs_lock_ofd(task, fd, reads ? F_RDLCK : F_WRLCK, PENDING, reads ? 1 : RANGE - PENDING);
    if (result == 0)
        result = sim_fs_lock_ofd(task, fd, reads ? F_RDLCK : F_WRLCK, RANGE, RANGE_BYTES);
    if (result < 0)
        rw_unlock(task, fd);
    else if (reads)
        sim_fs_lock_ofd(task, fd, F_UNLCK, PENDING, 1);
    return result;
}

static aflock_mode mode_of(uint8_t type, bool *any)
{
    *any = type != F_UNLCK;
    return type == F_WRLCK ? AFLOCK_EXCLUSIVE : AFLOCK_SHARED;
}

static aflock_mode flock_held(const sim_file *file, bool *any)
{
    return mode_of(file->flock, any);
}

static aflock_mode ofd_held(const sim_file *file, bool *any)
{
    return mode_of(file->ofd[0], any);
}

static aflock_mode rw_held(const sim_file *file, bool *any)
{
    return mode_of(file->ofd[RANGE_ZONE], any);
}

const sim_protocol sim_protocols[] = {
    {"native", AFLOCK_NATIVE, true, false, flock_lock, flock_unlock, flock_held},
    {"ofd", AFLOCK_OFD, true, false, ofd_lock, ofd_unlock, ofd_held},
    {"rw", AFLOCK_RW, true, true, rw_lock, rw_unlock, rw_held},
};
const unsigned sim_protocol_count = sizeof sim_protocols / sizeof sim_protocols[0];
