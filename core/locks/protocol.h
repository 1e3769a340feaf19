/* What the runtime and a lock protocol say to each other.
 *
 * A protocol is a table. Its `run` does one operation of the machine on the file system: it takes everything from the
 * afl_work, leaves everything in it, and never looks at anything else, because it may run on a worker thread while the
 * loop's thread goes on, and because a work whose context is gone has to be finished by the worker alone (`reconcile`).
 * A protocol that needs no thread (it talks over a socket that the loop watches) has `start` instead of `run`: it is
 * called on the loop's thread, must not block, and calls afl_work_done later or at once.
 */
#ifndef AFL_PROTOCOL_H
#define AFL_PROTOCOL_H

#include "locks/identity.h"
#include "machine/machine.h"
#include "sys/files.h"

#include <aflock/host.h>
#include <stdatomic.h>

typedef struct afl_work afl_work;
typedef struct afl_query afl_query;
typedef struct afl_kernel_kind afl_kernel_kind;

/* Properties of a descriptor (afl_request.need, afl_path.have). */
enum {
    AFL_NEED_WRITE = 1,    /* open for writing */
    AFL_NEED_NOFOLLOW = 2, /* was not reached through a symbolic link */
    AFL_NEED_CLOEXEC = 4,
    AFL_NEED_INHERIT = 8,
    AFL_NEED_FILE = 16,   /* not a directory */
    AFL_NEED_APPEND = 32, /* writes at the end, */
    AFL_NEED_PLACE = 64   /* ... or where the offset is */
};

typedef struct afl_protocol {
    const char *name;
    bool hand_on; /* a hold can pass to another request without giving the file up */
    bool join;    /* a shared request joins those who hold, also without hand_on */
    bool marker;  /* the lock is that a file exists: exclusive (but `join`), no descriptor is lent or kept, and whatever
                     is done  about it may sleep */
    bool lasting; /* a marker that is broken neither by age nor by the death of its holder */
    bool guest;   /* a marker where other locks were meant to be: what is no marker is never taken away */
    bool temporary; /* the file is removed with the lock */
    bool database;  /* the file is SQLite's: links are followed, only its lock bytes are touched, and it is never the
                       caller's descriptor */
    const char *suffix;                  /* of the file's name beside the path's; or NULL */
    const struct afl_protocol *falls_to; /* spoken instead once afl_work.falls says so; or NULL */
    unsigned notify;                     /* what a notifier listens for while waiting (AFLOCK_ON_...); 0: always poll */
    const char *notify_prefix;           /* of the entries of a directory that count; NULL: all do */
    bool park;                           /* TRY can wait in the kernel (afl_work.park) */
    bool lease;                          /* what is held expires unless BEAT refreshes it (afl_work.duration) */
    uint64_t beat_interval;              /* of a pending claim; 0: none, or as the lock says (`lease`) */
    size_t state_size;                   /* memory of its own per path, zeroed: afl_work.state */

    /* Those on the kernel's locks: in what they differ (kernel.h). */
    const afl_kernel_kind *kernel;

    void (*run)(afl_work *w);           /* [W or L] does w->op, fills in w->outcome */
    void (*start)(afl_work *w);         /* [L] instead of run */
    void (*stop)(afl_work *w);          /* [L] with start: the context goes away; end what is under way, undo */
    void (*reconcile)(afl_work *w);     /* [W or L] gives back all that w has; nobody will ask again */
    void (*abandon)(afl_work *w);       /* in a forked child: close what was inherited, touch nothing else */
    void (*verify)(afl_query *q);       /* [W or L] does the path name what is held? */
    void (*inspect)(afl_query *q);      /* [W or L] who holds it? */
    void (*remove)(afl_query *q);       /* [W or L] takes the lock from whoever has it */
    void (*remove_claim)(afl_query *q); /* [W or L] ... the claim q->claim */
    void (*waiters)(afl_query *q); /* [W or L] how many are blocked in the kernel for the file dev, ino? -> count */
} afl_protocol;

/* A TRY that waits in the kernel: whether somebody waits for it. Who wins what nobody waits for gives it back itself.
 */
typedef enum afl_parked { AFL_PARKED_WANTED, AFL_PARKED_LEFT, AFL_PARKED_WON } afl_parked;

/* One path's operation. The memory stays with the path from one operation to the next, and so does what the protocol
 * has: at most one operation is in flight. */
struct afl_work {
    /* the order; set by the runtime */
    const afl_protocol *protocol;
    const afl_sys *sys;
    afl_op op;
    const char *path; /* absolute; NULL: the descriptor is the caller's */
    bool inline_only; /* must not sleep: set not_inline instead of doing what could */
    bool verify, convert;
    bool keep;  /* RELEASE: the descriptor stays; never a caller's */
    bool joins; /* ADOPT: others hold it already */
    bool park; /* TRY: wait in the kernel, on a thread that has nothing else to do, with the descriptor that is there */
    aflock_mode mode;
    uint32_t flags;     /* AFLOCK_CREATE ... */
    uint32_t file_mode; /* AFLOCK_MODE_DEFAULT */
    uint64_t lifetime;  /* of anybody's marker; 0: as long as it likes */
    uint64_t duration;  /* of a lease, or for how long a marker that is not refreshed counts */
    bool break_empty;
    bool local;        /* the file system keeps nothing to itself until a close */
    bool holder_ended; /* `holder` is readable; the protocol resets it */
    int (*on_acquired)(int fd, void *user);
    void *on_acquired_user;
    atomic_bool left;  /* the request has gone meanwhile: no need to serve its wishes */
    atomic_int parked; /* afl_parked */

    /* what came of it; set by the protocol */
    afl_outcome outcome;
    bool not_inline;
    bool again;                   /* TRY: it has to be tried again at once */
    uint64_t look_again;          /* TRY: after so long something may have changed that nobody tells of */
    pid_t holder_pid;             /* TRY: who has the lock, as far as a file says so; 0: not known */
    uint64_t refreshed;           /* TRY, BEAT: the boot-time clock, before what is held was written or refreshed */
    aflock_compromise_reason why; /* BEAT, AFL_ERROR */
    char *detail; /* ERROR: what the step and errno do not say; malloc's, the runtime takes it; NULL: nothing */
    bool falls;   /* TRY: the kernel has no such locks here, and nothing is left behind: protocol->falls_to */

    /* what the protocol has; common to the protocols on descriptors */
    int fd;            /* locked, or kept between attempts; -1 */
    uint32_t have;     /* properties of fd */
    bool identified;   /* dev, ino and have are those of fd */
    bool renewed;      /* fd was opened by the last attempt */
    bool claimed;      /* something of fd is locked while we wait for the rest: a pending claim */
    bool lost_one;     /* an attempt that had one closed it, and goes on elsewhere */
    bool created;      /* the last attempt has created the file that fd is open on */
    uint64_t dev, ino; /* of fd, if it was identified */
    unsigned listen;   /* what fd is listened to for while waiting (AFLOCK_ON_...); 0: protocol->notify */
    int holder;        /* becomes readable when the holder's process ends: watched between attempts; -1 */
    char token[33];    /* of the claim that is held, or "" */
    afl_self self;     /* who we are, for records */
    void *state;
};

/* A question about a path; the same thread rules as afl_work. */
struct afl_query {
    const afl_protocol *protocol;
    const afl_sys *sys;
    const char *path; /* NULL: a caller's descriptor */
    bool follow;
    int fd; /* verify: the held descriptor; inspect: a caller's descriptor, or -1 */
    uint64_t dev, ino;
    afl_identity where; /* waiters: of the directory that the path leads to, */
    bool but_ours;      /* ... and not those of this process */

    int status, sys_errno;
    const char *step;
    int held;
    aflock_mode mode;
    int64_t pid;
    uint32_t count;
    int pending;    /* somebody waits, and keeps others out */
    int outside;    /* what is locked is not only what `rw` locks */
    int blocked;    /* nobody comes or goes */
    uint64_t age;   /* of a marker */
    bool here;      /* the pid is one of this host */
    bool gone;      /* ... and that process is provably not there any more */
    char host[256]; /* that the marker names */
    aflock_record record;
    uint64_t duration;
    char token[64];
    char claim[256];      /* remove_claim: its name */
    char *detail;         /* as afl_work.detail, */
    aflock_claim *claims; /* ... and a list of what was found, with its texts behind it; both malloc's */
    uint32_t claim_count, claims_left_out;
};

extern const afl_protocol afl_protocol_flock;
extern const afl_protocol afl_protocol_flock_or_soft; /* flock, which falls to ... */
extern const afl_protocol afl_protocol_soft_guest;    /* ... this */
extern const afl_protocol afl_protocol_temporary;     /* flock, on a file that is removed with the lock */
extern const afl_protocol afl_protocol_ofd;
extern const afl_protocol afl_protocol_soft;
extern const afl_protocol afl_protocol_lease;
extern const afl_protocol afl_protocol_strict;
extern const afl_protocol afl_protocol_rw;
extern const afl_protocol afl_protocol_soft_rw;
extern const afl_protocol afl_protocol_pidfile;

/* An open lock in a protocol that has no public number; for back ends that bring their own. */
int afl_open_protocol(aflock **out, aflock_ctx *ctx, const char *path, const afl_protocol *protocol,
                      const aflock_options *options);

/* [L] The operation that `start` began is done; w->outcome is filled in. Never from inside a callback of the user. */
void afl_work_done(afl_work *w);

/* [L] Watching a descriptor for a protocol with `start`; ready runs on the loop's thread. */
typedef struct afl_watcher {
    aflock_watch watch; /* first: afl_watcher is found from it */
    void (*ready)(struct afl_watcher *w, unsigned events);
} afl_watcher;
int afl_work_watch(afl_work *w, afl_watcher *watcher);
void afl_work_unwatch(afl_work *w, afl_watcher *watcher);

/* [W] A parked TRY has the lock: is it still wanted? */
bool afl_work_claim(afl_work *w);

/* The properties that a request with these flags (AFLOCK_CREATE ...) needs. */
uint32_t afl_needs(uint32_t flags);

/* What protocols on paths answer alike: does the path name the file dev, ino? */
void afl_query_verify(afl_query *q);
void afl_query_fail(afl_query *q, const char *step, int error);

/* "PATH WHERE/NAME: REASON", without the blanks and, if `name` is NULL, the slash; malloc's; NULL: no memory. */
char *afl_describe(const char *path, const char *where, const char *name, const char *reason);

/* How an operation ends. */
void afl_work_won(afl_work *w);
void afl_work_contended(afl_work *w, afl_grip grip);
void afl_work_fail(afl_work *w, afl_grip grip, const char *step, int error);

#endif
