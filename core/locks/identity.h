/* Who we are to others, and whether the one whom a record names is gone: host name, boot id, start time of a process.
 * Of others nothing is remembered; everything is read from /proc, which does not hang. Any thread.
 *
 * Nobody is gone on doubt: what cannot be read or asked is alive. Processes that have our host name but live in another
 * pid namespace (containers, cloned machines) look gone, so host names must differ.
 */
#ifndef AFL_IDENTITY_H
#define AFL_IDENTITY_H

#include "locks/record.h"
#include "sys/sys.h"

enum { AFL_HOST_NAME = 256 };

/* This host as records name it, with a zero at the end. False: it cannot be told. */
bool afl_host_name(const afl_sys *sys, char name[AFL_HOST_NAME]);

/* The start token of a process, which may be our own. False: it is gone, or start time or boot id cannot be read; then
 * a record has none. A token without boot id, which the peer would write, is none to others who can read it: they would
 * break a live holder's marker. */
bool afl_process_start(const afl_sys *sys, pid_t pid, afl_start *start);

/* What was found out about this process. All zero at first; a forked child is another process. */
typedef struct afl_self {
    pid_t pid; /* 0: nothing */
    afl_start start;
} afl_self;

/* The start token of this process; /proc is asked once, as nothing of it changes. False: as above, and it is asked
 * again the next time. */
bool afl_own_start(const afl_sys *sys, afl_self *self, afl_start *start);

/* Is the holder of a SOFT or LEASE record provably gone? That is: its host is ours, and its pid does not exist, or that
 * of a process that started at another time. A process that is dead and not waited for still exists. Of two tokens one
 * of which has no boot id (0) only the start times are compared. Other records: false. */
bool afl_owner_gone(const afl_sys *sys, const afl_record *record);

typedef enum afl_watch {
    AFL_WATCH_OPEN, /* *fd is there */
    AFL_WATCH_GONE, /* the holder is provably gone */
    AFL_WATCH_NONE  /* nothing to watch: another host, no such kernel, no descriptor left */
} afl_watch;

/* A descriptor that becomes readable (poll: POLLIN) when the holder of a SOFT or LEASE record ends; close-on-exec, the
 * caller closes it. It is the holder's, not that of a later process with its pid, as far as the record has a start
 * token. It may be readable while afl_owner_gone is still false: the holder has ended, and nobody waited for it yet. */
afl_watch afl_owner_watch(const afl_sys *sys, const afl_record *record, int *fd);

#endif
