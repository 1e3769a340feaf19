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
    return sim_fs_lock_ofd(task, fd, mode == AFLOCK_SHARED ? F_RDLCK : F_WRLCK);
}

static int ofd_unlock(sim_task *task, int fd)
{
    return sim_fs_lock_ofd(task, fd, F_UNLCK);
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
    return mode_of(file->ofd, any);
}

const sim_protocol sim_protocols[] = {
    {"native", AFLOCK_NATIVE, true, flock_lock, flock_unlock, flock_held},
    {"ofd", AFLOCK_OFD, true, ofd_lock, ofd_unlock, ofd_held},
};
const unsigned sim_protocol_count = sizeof sim_protocols / sizeof sim_protocols[0];
