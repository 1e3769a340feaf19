/* The protocol `rw`: readers share, a writer is alone, on the bytes by which SQLite locks a database in rollback mode
 * (py-filelock's ReadWriteLock; https://sqlite.org/lockingv3.html), taken with open-file-description locks.
 *
 *   a reader   locks `pending` shared for a moment, which is the doorway, and the shared range
 *   a writer   locks `reserved` and `pending`, which is its claim: there is one, and no reader comes in any more; and
 * the shared range, when those who are in have left
 *
 * The file is SQLite's. It is never written or truncated, and its journal never touched; one that is not in rollback
 * mode is refused, because its readers and writers lock other things.
 */
#include "locks/kernel.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

/* SQLite's lock bytes. Reserved and pending stand beside each other: one call takes both or neither. */
enum {
    PENDING = 0x40000000,
    RESERVED = PENDING + 1,
    SHARED = PENDING + 2,
    SHARED_BYTES = 510,
    END = SHARED + SHARED_BYTES
};

/* ------------------------------------------------------------------------------------------------------- the locks */

/* EBADF: somebody closed our descriptor, and all locks went with it. The number may be another file's by now. */
static int leave(afl_work *w, off_t bytes)
{
    int error = afl_lock_range(w, F_UNLCK, PENDING, bytes, false);
    if (error == EBADF)
        w->fd = -1;
    return error;
}

/* What stays of the doorway would keep writers out: then everything is given back. */
static int take_shared(afl_work *w)
{
    int error = afl_lock_range(w, F_RDLCK, PENDING, 1, false);
    if (error)
        return error;
    error = afl_lock_range(w, F_RDLCK, SHARED, SHARED_BYTES, false);
    int leaving = leave(w, 1);
    w->claimed = leaving && w->fd >= 0;
    return leaving ? leaving : error;
}

static int take_exclusive(afl_work *w)
{
    if (!w->claimed) {
        int error = afl_lock_range(w, F_WRLCK, PENDING, SHARED - PENDING, false);
        if (error)
            return error;
        w->claimed = true;
    }
    int error = afl_lock_range(w, F_WRLCK, SHARED, SHARED_BYTES, false);
    if (!error)
        w->claimed = false; /* it is held */
    return error;
}

static int take(afl_work *w, aflock_mode mode, bool wait)
{
    (void)wait; /* a thread that waits would hold something meanwhile */
    return mode == AFLOCK_SHARED ? take_shared(w) : take_exclusive(w);
}

static int drop(afl_work *w)
{
    return afl_lock_range(w, F_UNLCK, PENDING, END - PENDING, false);
}

/* Nobody comes between: the range is never free. Contended it cannot be; who says so knows nothing of what is left. */
static int share(afl_work *w)
{
    int error = afl_lock_range(w, F_RDLCK, SHARED, SHARED_BYTES, false);
    if (!error)
        error = leave(w, SHARED - PENDING);
    return error == EWOULDBLOCK ? EIO : error;
}

/* ----------------------------------------------------------------------------------------------------- the database */

enum { MAGIC = 16, READ_VERSION = 19, HEAD = 20, WAL = 2 };

static ssize_t read_head(afl_work *w, unsigned char *head)
{
    ssize_t size;
    do
        size = w->sys->read_head(w->fd, head, HEAD, w->inline_only);
    while (size < 0 && errno == EINTR);
    return size;
}

static bool refuse(afl_work *w, const char *what)
{
    afl_work_fail(w, AFL_GRIP_NONE, what, 0);
    w->outcome.status = AFLOCK_EPROTO;
    return false;
}

/* Not locked, its first page may be missing yet: who fills a new database begins with whatever page he likes. */
static bool is_database(const unsigned char *head, ssize_t size, bool locked)
{
    static const unsigned char UNWRITTEN[MAGIC];
    if (size == 0)
        return true;
    if (size < MAGIC)
        return false;
    return memcmp(head, "SQLite format 3", MAGIC) == 0 || (!locked && memcmp(head, UNWRITTEN, MAGIC) == 0);
}

static bool check(afl_work *w, bool locked)
{
    unsigned char head[HEAD] = {0};
    ssize_t size = read_head(w, head);
    if (size < 0 && w->inline_only) {
        w->not_inline = true;
        return false;
    }
    if (size < 0) {
        afl_work_fail(w, AFL_GRIP_NONE, "read", errno);
        return false;
    }
    if (!is_database(head, size, locked))
        return refuse(w, "not a database");
    return head[READ_VERSION] != WAL || refuse(w, "WAL mode");
}

/* ------------------------------------------------------------------------------------------------------ who holds it
 */

static bool blocks(const char *entry)
{
    return strcmp(entry, "OFDLCK") == 0 || strcmp(entry, "POSIX") == 0;
}

/* Of a reader only the range is to be seen for longer than a moment. */
static afl_concern concern(const afl_lock_entry *e)
{
    if (!blocks(e->kind) || e->first >= END || e->last < PENDING)
        return AFL_NO_CONCERN;
    if (e->last >= SHARED)
        return AFL_HOLDS;
    return e->exclusive && e->first <= PENDING ? AFL_CLAIMS : AFL_NO_CONCERN;
}

static const afl_kernel_kind RW = {"fcntl", take, drop, share, check, concern, blocks};

const afl_protocol afl_protocol_rw = {
    .name = "rw",
    .kernel = &RW,
    .database = true,
    .hand_on = true,
    .notify = AFLOCK_ON_FILE,
    .run = afl_kernel_run,
    .reconcile = afl_kernel_reconcile,
    .abandon = afl_kernel_abandon,
    .verify = afl_query_verify,
    .inspect = afl_kernel_inspect,
    .waiters = afl_kernel_waiters,
};
