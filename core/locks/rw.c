/* The protocol `rw`: readers share, a writer is alone, on the bytes by which SQLite locks a database in rollback mode
 * (py-filelock's ReadWriteLock; https://sqlite.org/lockingv3.html), taken with open-file-description locks.
 *
 *   a reader   locks `pending` shared for a moment, which is the doorway, and the shared range
 *   a writer   locks `reserved` and `pending`, which is its claim: there is one, and no reader comes in any more; and
 * the shared range, when those who are in have left
 *
 * A thread that waits in the kernel (AFLOCK_WAIT_PARK) has nothing locked, because it cannot be called back: who comes
 * to hold what nobody wants any more gives it back, however late, and until then it is in nobody's way. So
 *
 *   a reader   waits for `pending`, goes through, and if the range is taken all the same (who mends a database claims
 *              nothing), leaves, waits for the range, drops it, and begins anew
 *   a writer   waits for `reserved` and `pending` in one call. With them it has a claim, and comes back: for the range
 * it waits as everybody does, without a thread
 *
 * A thread could wait for the range, too: another one can unlock the claim meanwhile. But what it is granted late is
 * granted to the open file, and so to whoever goes on with that, without a conflict: giving it back would unlock
 * theirs. And without the claim it would wait behind all readers, so that nobody could take it over.
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

/* What cannot be given back would keep others out: then everything is to be given back. EBADF: somebody closed our
 * descriptor, and all locks went with it. The number may be another file's by now. */
static int leave(afl_work *w, off_t start, off_t bytes)
{
    int error = afl_lock_range(w, F_UNLCK, start, bytes, false);
    if (error == EBADF)
        w->fd = -1;
    w->claimed = error && w->fd >= 0;
    return error;
}

static int take_shared(afl_work *w, bool wait)
{
    int error = afl_lock_range(w, F_RDLCK, PENDING, 1, wait);
    if (error)
        return error;
    error = afl_lock_range(w, F_RDLCK, SHARED, SHARED_BYTES, false);
    int leaving = leave(w, PENDING, 1);
    return leaving ? leaving : error;
}

/* Until nobody has the range, which is not kept: no writer was asked whether a reader may come in. */
static int wait_for_range(afl_work *w)
{
    int error = afl_lock_range(w, F_RDLCK, SHARED, SHARED_BYTES, true);
    return error ? error : leave(w, SHARED, SHARED_BYTES);
}

static int wait_shared(afl_work *w)
{
    int error;
    while ((error = take_shared(w, true)) == EWOULDBLOCK && !(error = wait_for_range(w)))
        ;
    return error;
}

static int take_exclusive(afl_work *w, bool wait)
{
    if (!w->claimed) {
        int error = afl_lock_range(w, F_WRLCK, PENDING, SHARED - PENDING, wait);
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
    if (mode == AFLOCK_EXCLUSIVE)
        return take_exclusive(w, wait);
    return wait ? wait_shared(w) : take_shared(w, false);
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
        error = leave(w, PENDING, SHARED - PENDING);
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

bool afl_is_rw(const afl_lock_entry *e)
{
    return e->first >= PENDING && e->last < END;
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
    .park = true,
    .run = afl_kernel_run,
    .reconcile = afl_kernel_reconcile,
    .abandon = afl_kernel_abandon,
    .verify = afl_query_verify,
    .inspect = afl_kernel_inspect,
    .waiters = afl_kernel_waiters,
};
