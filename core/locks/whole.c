/* The kernel's locks, as calls, and the protocols that take them on the whole file: `flock` (py-filelock's FileLock,
 * portalocker's Lock, flock(1)) and `ofd` (open-file-description locks, flock(1) --fcntl). What an attempt is made of,
 * is in kernel.c.
 */
#include "locks/kernel.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>

/* ------------------------------------------------------------------------------------------------------- the calls */

static int result_of(int rc)
{
    if (rc == 0)
        return 0;
    return errno == EAGAIN || errno == EACCES ? EWOULDBLOCK : errno;
}

int afl_lock_range(const afl_work *w, short type, off_t start, off_t length, bool wait)
{
    int rc;
    do
        rc = w->sys->lock_ofd(w->fd, type, start, length, wait);
    while (rc != 0 && errno == EINTR);
    return result_of(rc);
}

static int flock_file(const afl_work *w, int operation)
{
    int rc;
    do
        rc = w->sys->flock(w->fd, operation);
    while (rc != 0 && errno == EINTR); /* also happens without waiting */
    return result_of(rc);
}

/* ------------------------------------------------------------------------------------------------- the whole file */

static int take_flock(afl_work *w, aflock_mode mode, bool wait)
{
    return flock_file(w, (mode == AFLOCK_SHARED ? LOCK_SH : LOCK_EX) | (wait ? 0 : LOCK_NB));
}

static int drop_flock(afl_work *w)
{
    return flock_file(w, LOCK_UN);
}

static int share_flock(afl_work *w)
{
    return take_flock(w, AFLOCK_SHARED, false);
}

static afl_concern concern_flock(const afl_lock_entry *e)
{
    return strcmp(e->kind, "FLOCK") == 0 ? AFL_HOLDS : AFL_NO_CONCERN;
}

static bool blocks_flock(const char *entry)
{
    return strcmp(entry, "FLOCK") == 0;
}

static int take_ofd(afl_work *w, aflock_mode mode, bool wait)
{
    return afl_lock_range(w, mode == AFLOCK_SHARED ? F_RDLCK : F_WRLCK, 0, 0, wait);
}

static int drop_ofd(afl_work *w)
{
    return afl_lock_range(w, F_UNLCK, 0, 0, false);
}

static int share_ofd(afl_work *w)
{
    return take_ofd(w, AFLOCK_SHARED, false);
}

static afl_concern concern_ofd(const afl_lock_entry *e)
{
    return strcmp(e->kind, "OFDLCK") == 0 ? AFL_HOLDS : AFL_NO_CONCERN;
}

/* On open-file-description locks also wait those of processes. */
static bool blocks_ofd(const char *entry)
{
    return strcmp(entry, "OFDLCK") == 0 || strcmp(entry, "POSIX") == 0;
}

const afl_kernel_kind afl_kernel_flock = {"flock", take_flock,    drop_flock,  share_flock,
                                          NULL,    concern_flock, blocks_flock};
static const afl_kernel_kind OFD = {"fcntl", take_ofd, drop_ofd, share_ofd, NULL, concern_ofd, blocks_ofd};

const afl_protocol afl_protocol_flock = {
    .name = "native",
    .kernel = &afl_kernel_flock,
    .hand_on = true,
    .notify = AFLOCK_ON_FILE,
    .park = true,
    .run = afl_kernel_run,
    .reconcile = afl_kernel_reconcile,
    .abandon = afl_kernel_abandon,
    .verify = afl_query_verify,
    .inspect = afl_kernel_inspect,
    .waiters = afl_kernel_waiters,
};

const afl_protocol afl_protocol_flock_or_soft = {
    .name = "native",
    .kernel = &afl_kernel_flock,
    .hand_on = true,
    .falls_to = &afl_protocol_soft_guest,
    .notify = AFLOCK_ON_FILE,
    .park = true,
    .run = afl_kernel_run,
    .reconcile = afl_kernel_reconcile,
    .abandon = afl_kernel_abandon,
    .verify = afl_query_verify,
    .inspect = afl_kernel_inspect,
    .waiters = afl_kernel_waiters,
};

const afl_protocol afl_protocol_temporary = {
    .name = "native",
    .kernel = &afl_kernel_flock,
    .hand_on = true,
    .temporary = true,
    .notify = AFLOCK_ON_FILE,
    .park = true,
    .run = afl_kernel_run,
    .reconcile = afl_kernel_reconcile,
    .abandon = afl_kernel_abandon,
    .verify = afl_query_verify,
    .inspect = afl_kernel_inspect,
    .waiters = afl_kernel_waiters,
};

const afl_protocol afl_protocol_ofd = {
    .name = "ofd",
    .kernel = &OFD,
    .hand_on = true,
    .notify = AFLOCK_ON_FILE,
    .park = true,
    .run = afl_kernel_run,
    .reconcile = afl_kernel_reconcile,
    .abandon = afl_kernel_abandon,
    .verify = afl_query_verify,
    .inspect = afl_kernel_inspect,
    .waiters = afl_kernel_waiters,
};
