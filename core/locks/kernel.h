/* In what the protocols on the kernel's locks differ; all else, from opening to releasing, is the same (kernel.c), and
 * so are the questions that /proc/locks answers (holders.c).
 */
#ifndef AFL_KERNEL_H
#define AFL_KERNEL_H

#include "locks/protocol.h"

/* An entry of /proc/locks for the file that is asked about. */
typedef struct afl_lock_entry {
    const char *kind; /* "FLOCK", "OFDLCK", "POSIX" */
    bool exclusive;
    unsigned long long first, last; /* bytes; last of all: ULLONG_MAX */
} afl_lock_entry;

typedef enum afl_concern {
    AFL_NO_CONCERN,
    AFL_HOLDS,
    AFL_CLAIMS /* waits, and keeps others out meanwhile */
} afl_concern;

struct afl_kernel_kind {
    const char *step; /* what failed if a lock could not be taken */

    /* Takes the lock on w->fd, or in a further attempt what was missing. wait: until it is free. 0, errno, or
     * EWOULDBLOCK: it is contended; w->claimed then says whether something of it was taken that is to stay. */
    int (*lock)(afl_work *w, aflock_mode mode, bool wait);

    /* Gives back all that may have been taken; makes it shared what is held exclusively. 0 or errno; EWOULDBLOCK from
     * `share`: there is nothing left of it. */
    int (*unlock)(afl_work *w);
    int (*share)(afl_work *w);

    /* NULL, or: is this a file that may be locked so? False: the outcome is there, or w->not_inline. locked: nobody
     * can change it meanwhile. */
    bool (*check)(afl_work *w, bool locked);

    afl_concern (*concern)(const afl_lock_entry *e);
    bool (*blocks)(const char *entry); /* may a waiter of that kind wait for us? */
};

/* An open-file-description lock on `length` bytes from `start` (0: to the end): F_RDLCK, F_WRLCK, F_UNLCK. Repeated
 * when interrupted, which also happens without waiting. 0, EWOULDBLOCK: contended, errno. */
int afl_lock_range(const afl_work *w, short type, off_t start, off_t length, bool wait);

extern const afl_kernel_kind afl_kernel_flock;

bool afl_is_rw(const afl_lock_entry *e); /* does it lie among the bytes of `rw`? */

void afl_kernel_run(afl_work *w);
void afl_kernel_reconcile(afl_work *w);
void afl_kernel_abandon(afl_work *w);
void afl_kernel_undo(afl_work *w); /* gives up a lock that is of no use; the outcome stays */
void afl_kernel_inspect(afl_query *q);
void afl_kernel_waiters(afl_query *q);

#endif
