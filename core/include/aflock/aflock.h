/* aflock: file locks for event-driven programs.
 *
 * Concepts
 *   lock     a path (or a descriptor of the caller's) spoken to in one protocol; `aflock`
 *   request  one acquire; it becomes the hold when it is granted; `aflock_req`, a value
 *   owner    a pointer of the caller's choice that makes holds re-entrant: two requests on one path exclude each
 *            other, also within one program, unless they carry the same non-NULL owner and the same mode
 *   token    cancels any number of requests, from any thread or signal handler
 *   context  everything that belongs to one event loop; `aflock_ctx`, made by an adapter (aflock/epoll.h, ...)
 *   turn     the moment in each round of the loop in which callbacks run
 *
 * Life cycle
 *   make a context with an adapter, open locks, acquire, release, close the locks, free the context. Locks that are
 *   still open when the context is freed are closed by it.
 *
 * Callbacks
 *   A function that takes a callback and returns 0 calls it exactly once: later, on the loop's thread, from a turn,
 *   never from inside a call into the library (aflock_ctx_free excepted, which answers what is pending). When it
 *   returns an error, the callback never runs. A callback may acquire, release, cancel and close anything; only
 *   aflock_ctx_free is refused there (the adapters' own timers and watches are not callbacks in this sense). It must
 *   return: longjmp and exceptions must not leave it. At most 64 callbacks run in one turn, then the loop gets its
 *   own turn.
 *
 * Threads
 *   A context and its locks belong to the thread that made the context; from another thread each call answers
 *   AFLOCK_ETHREAD and does nothing. aflock_token_fire may be called from any thread and any signal handler.
 *
 * Fork
 *   In a child process every call answers AFLOCK_EFORKED; aflock_ctx_abandon frees what the child inherited without
 *   disturbing the parent's locks.
 *
 *   A thread that ends takes the use of its contexts with it: free them first.
 *
 * Structs with a size
 *   Always start from the init function, then change what differs; zeros are not defaults. A struct that is larger than
 *   the library's (the program was built for a newer one) is refused with AFLOCK_EINVAL; a shorter one is an older
 *   version of it, and what it lacks has its default.
 *
 * Errors
 *   0 or positive is success, negative is one of AFLOCK_E...; what the system said is in aflock_result.sys_errno.
 *
 * Durations are nanoseconds (uint64_t) on the monotonic clock. Strings are borrowed: the library copies what it keeps.
 */
#ifndef AFLOCK_AFLOCK_H
#define AFLOCK_AFLOCK_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(AFLOCK_BUILDING) && defined(__GNUC__)
#define AFLOCK_API __attribute__((visibility("default")))
#else
#define AFLOCK_API
#endif

#define AFLOCK_VERSION_MAJOR 0
#define AFLOCK_VERSION_MINOR 1
#define AFLOCK_VERSION_PATCH 0
#define AFLOCK_VERSION "0.1.0"

#define AFLOCK_MICROSECOND UINT64_C(1000)
#define AFLOCK_MILLISECOND UINT64_C(1000000)
#define AFLOCK_SECOND UINT64_C(1000000000)
#define AFLOCK_FOREVER UINT64_MAX /* no limit */

/* Every error: name, number, message. */
#define AFLOCK_ERRORS(X)                                                                    \
    X(ETIMEDOUT, -1001, "the deadline passed before the lock was free")                     \
    X(ECANCELED, -1002, "the request was cancelled")                                        \
    X(EWOULDBLOCK, -1003, "the lock is held by somebody else")                              \
    X(EDEADLK, -1004, "waiting would never end: the owner waits for itself")                \
    X(EMISMATCH, -1005, "the path is already used with another protocol or other settings") \
    X(EPROTO, -1006, "what is on disk does not follow the protocol")                        \
    X(EFORKED, -1007, "the context belongs to the parent process")                          \
    X(ETHREAD, -1008, "the context belongs to another thread")                              \
    X(ECLOSED, -1009, "the context or lock is closing")                                     \
    X(EBUSY, -1010, "not possible now: it is in use")                                       \
    X(ENOENT, -1011, "the file or a directory on its path does not exist")                  \
    X(ENOMEM, -1012, "out of memory")                                                       \
    X(EINVAL, -1013, "an argument is not valid")                                            \
    X(EFULL, -1014, "too many requests are waiting")                                        \
    X(ENOTINLINE, -1015, "the attempt would have to leave the loop's thread")               \
    X(ESYS, -1016, "a system call failed")                                                  \
    X(ENAMETOOLONG, -1017, "the path or its last component is too long")                    \
    X(EISDIR, -1018, "the path names a directory")                                          \
    X(ENOTDIR, -1019, "a component of the path is not a directory")                         \
    X(ELOOP, -1020, "the path names a symbolic link")                                       \
    X(ENOTFILE, -1021, "the path names neither a regular file nor a directory")             \
    X(EACCES, -1022, "permission denied")                                                   \
    X(EROFS, -1023, "the file system is read-only")                                         \
    X(ENOSPC, -1024, "no space left on the file system")                                    \
    X(EMFILE, -1025, "too many open files")                                                 \
    X(ENOTSUP, -1026, "the file system or the protocol cannot do this")                     \
    X(ESTALE, -1027, "the request has ended")                                               \
    X(ENOTHELD, -1028, "the request does not hold the lock")                                \
    X(EHELD, -1029, "the request holds the lock already")                                   \
    X(EREFUSED, -1030, "the caller's on_acquired function refused")                         \
    X(EREPLACED, -1031, "the path no longer names the locked file")                         \
    X(ECOMPROMISED, -1032, "the lease was lost")

enum {
#define AFLOCK_ERROR_ENUM(name, number, message) AFLOCK_##name = (number),
    AFLOCK_ERRORS(AFLOCK_ERROR_ENUM)
#undef AFLOCK_ERROR_ENUM
};

typedef struct aflock_ctx aflock_ctx;
typedef struct aflock aflock;
typedef struct aflock_token aflock_token;

/* Names one request. A value, free to copy; one whose request has ended is refused with AFLOCK_ESTALE, never
 * followed. {0} names no request. */
typedef struct aflock_req {
    uint64_t id;
} aflock_req;

typedef enum aflock_mode { AFLOCK_EXCLUSIVE = 0, AFLOCK_SHARED = 1 } aflock_mode;

/* What is spoken on the path. One path, one protocol. */
typedef enum aflock_protocol {
    AFLOCK_NATIVE = 0, /* flock(2): excludes flock(1), Python's FileLock and portalocker's Lock */
    AFLOCK_OFD = 1,    /* open-file-description lock on the whole file: excludes flock --fcntl and fcntl users;
                          exclusive needs a file open for writing (else AFLOCK_ESYS with EBADF) */
    AFLOCK_SOFT = 2, /* a marker: the lock is that the file exists, and its content says who holds it; excludes Python's
                       SoftFileLock (py-filelock 3.32). For file systems whose kernel locks do not work, and for
                       locks that name their holder. Exclusive only, without a descriptor (AFLOCK_ENOTSUP); what a
                       request says about descriptors is AFLOCK_EINVAL. The marker of a holder that is provably gone
                       is broken: one of this host (by name: hosts, containers too, must have names of their own)
                       whose process does not exist any more. A regular file that is no record is broken when it is 2 s
                       old; nothing else ever is: a symbolic link is AFLOCK_ELOOP, a device, a FIFO or a socket
                       AFLOCK_ENOTFILE. The last component has at most 200 bytes */
    AFLOCK_STRICT = 3, /* claims in a folder; excludes Python's StrictSoftFileLock (py-filelock 3.32). For file systems
                         whose kernel locks do not work, where two holders at a time would be worse than none. Nothing
                         is ever taken from anybody: not by age, nor because a process is gone. What a holder leaves
                         that is killed keeps everybody out until an operator takes it away (aflock_inspect lists the
                         claims, aflock_break_claim removes one). Needs hard links. The path itself becomes a file that
                         stays, as does the directory with the claims, PATH.filelock; if the path is any other file,
                         nobody gets the lock. What does not follow the protocol is never passed over: AFLOCK_EPROTO,
                         and aflock_result.detail names it. Otherwise as AFLOCK_SOFT: exclusive only, without a
                         descriptor, at most 200 bytes. A release that cannot take both claims of the hold away leaves
                         it held if nothing is gone; otherwise it has ended (status 0), cleanup_errno says why the rest
                         still keeps others out, and it is tried again until it is gone */
    AFLOCK_LEASE = 4,  /* a marker that expires: the holder refreshes it (aflock_options.heartbeat), and who finds it
                         aflock_options.duration old takes it, whether the holder lives or not: excludes Python's
                         SoftFileLease (py-filelock 3.32). Two may hold at a time, by contract: the one who lost it is
                         told (aflock_acquire_options.on_compromise), and goes on until he heeds it. All who use the path
                         must agree on the duration; who does not is answered AFLOCK_EMISMATCH. The age of a marker is
                         this host's clock less the file's time: clocks that differ by more than two thirds of the
                         duration break live holders; on a busy virtual machine the clock of files may be late by some
                         10 ms. Otherwise as AFLOCK_SOFT */
    AFLOCK_RW = 5,     /* many readers (AFLOCK_SHARED) or one writer, on the bytes by which SQLite locks a database:
                          excludes Python's ReadWriteLock (py-filelock) and connections of SQLite in rollback mode, a
                          reader as BEGIN and a SELECT, a writer as BEGIN EXCLUSIVE. A writer who waits keeps new readers
                          out, those of other programs, too, but for connections of a process that reads already. The file
                          is a database or empty, and its content stays as it is: symbolic links are followed
                          (AFLOCK_FOLLOW); AFLOCK_TRUNCATE, AFLOCK_DIRECTORY, file_mode, a descriptor of the caller's, and
                          a writer with AFLOCK_READ_ONLY are AFLOCK_EINVAL. AFLOCK_EPROTO, with the step "not a database"
                          or "WAL mode": it is something else, or its connections lock something else. AFLOCK_ENOTSUP: the
                          file system has no open-file-description locks. A process must use SQLite or this library on a
                          file, never both: closing a descriptor drops all locks that SQLite has on the file in this
                          process */

    /* One instance of a program: the path is its pid file, and the lock is a native one on PATH.lock, so that it ends
     * with its holder, however that ends; excludes portalocker's PidFileLock (4.1). Who holds it has written its pid to
     * the path, in decimal and without a newline, and synced it. A release unlinks the path, then PATH.lock, both while
     * locked. A holder that is killed leaves both: the next one takes over, and nothing has to be tidied before. Who
     * does not get the lock learns whose it is: aflock_result.pid. What is at the path when the lock is taken is
     * replaced by a new file: a regular file only, else AFLOCK_EISDIR, AFLOCK_ELOOP (a symbolic link), AFLOCK_ENOTFILE.
     * When writing fails nothing stays behind. aflock_result.fd is that of PATH.lock; file_mode is that of both files.
     * Exclusive only (AFLOCK_ENOTSUP); keep_open, a descriptor of the caller's, and a request with AFLOCK_READ_ONLY,
     * AFLOCK_FOLLOW, AFLOCK_DIRECTORY, AFLOCK_TRUNCATE, AFLOCK_APPEND or AFLOCK_REWIND, or without AFLOCK_CREATE, are
     * AFLOCK_EINVAL; the last component has at most 250 bytes. All of it may sleep: aflock_try needs AFLOCK_IO_INLINE.
     *
     * A daemon forks first, and makes its context and acquires afterwards: the pid is that of the process that
     * acquires. A child that is forked later shares the lock, which lasts until it, too, has ended, executed a program
     * or abandoned the context, but the file goes on naming the parent. A program that the holder executes has its pid,
     * and keeps the lock with AFLOCK_INHERIT; both files stay when it ends. docs/pidfile.md says more. */
    AFLOCK_PIDFILE = 7,

    AFLOCK_SOFT_RW = 6 /* many readers (AFLOCK_SHARED) or one writer, by markers that expire; excludes Python's
                          SoftReadWriteLock and AsyncSoftReadWriteLock (py-filelock 3.32). For file systems whose kernel
                          locks do not work. The path itself is never made or looked at; beside it are PATH.write, the
                          writer's marker, PATH.readers, a directory that stays, with one for each context that reads,
                          and for a moment PATH.state. A writer who waits keeps new readers out. Holders, and the writer
                          who waits, touch their markers (aflock_options.heartbeat); one that was not touched for more
                          than aflock_options.stale_after counts no more, whether its holder lives or not, nor does one
                          whose holder is provably gone (as with AFLOCK_SOFT: hosts, containers too, must have names of
                          their own). So two may hold at a time, by contract: who lost it is told
                          (aflock_acquire_options.on_compromise). All who use the path must agree on stale_after, which
                          is recorded nowhere; clocks of hosts must not differ by more than the time between a heartbeat
                          and that. Markers are 0600 and the directory 0700: for one user. A request with timeout 0 may
                          be answered AFLOCK_EWOULDBLOCK because somebody else is just coming or going. A release that
                          finds PATH.state taken is answered when it is free. What is no directory or file where one has
                          to be is an error (AFLOCK_EPROTO, AFLOCK_EISDIR, AFLOCK_ELOOP, AFLOCK_ENOTFILE), and
                          aflock_result.detail names it. Without a descriptor (AFLOCK_ENOTSUP), the last component has
                          at most 200 bytes; what a request says about descriptors, and file_mode, is AFLOCK_EINVAL */
} aflock_protocol;

/* Where attempts run. If one lock on a path has AFLOCK_IO_POOL, it holds for all of them. */
typedef enum aflock_io {
    AFLOCK_IO_AUTO = 0, /* on the loop's thread if that cannot block (cached lookup, local file system), else POOL */
    AFLOCK_IO_INLINE,   /* always on the loop's thread */
    AFLOCK_IO_POOL      /* always on the executor */
} aflock_io;

/* Properties of a request; aflock_acquire_options.flags. */
enum {
    AFLOCK_CREATE = 1 << 0,       /* create a missing file (default) */
    AFLOCK_MAKE_PARENTS = 1 << 1, /* create missing parent directories (default); they stay */
    AFLOCK_READ_ONLY = 1 << 2,    /* reading is enough; without: open for reading and writing. A file that this context
                                     has open for both is used as it is */
    AFLOCK_FOLLOW = 1 << 3,       /* follow a symbolic link at the path; without: AFLOCK_ELOOP */
    AFLOCK_DIRECTORY = 1 << 4,    /* accept a directory at the path, opened read-only; without: AFLOCK_EISDIR */
    AFLOCK_INHERIT = 1 << 5,      /* without O_CLOEXEC: programs that the caller executes inherit the lock */
    AFLOCK_TRUNCATE = 1 << 6,     /* once locked, truncate a file that is not empty */
    AFLOCK_REPORT_CLOSE = 1 << 7, /* a failed close after a good unlock is reported in cleanup_errno */

    AFLOCK_APPEND = 1 << 8, /* the descriptor appends (O_APPEND) */
    AFLOCK_REWIND = 1 << 9, /* once locked, the descriptor is set to the file's beginning, where a fresh one is, also if
                               it was handed on or kept open; not for who joins others that hold it */

    /* Locking a data file itself, and not a lock file beside it: all flags of a request whose `fd` is for reading or
     * writing the file. For AFLOCK_NATIVE (as portalocker's Lock does, which it excludes) and AFLOCK_OFD. Symbolic
     * links are followed, and no directories are made. The lock is on the file that the path names when it is granted:
     * who replaces the file meanwhile by another one (rename) gives those who wait the new one. A holder keeps the old
     * one, which others then do not respect: replace such a file only while holding the lock, and ask aflock_verify in
     * doubt. A FIFO, device or socket is AFLOCK_ENOTFILE, and is never waited for. The descriptor is borrowed until the
     * release; a duplicate (dup) shares lock and offset, may be kept longer, and is unlocked by the release all the
     * same. */
    AFLOCK_DATA_READ = AFLOCK_FOLLOW | AFLOCK_REWIND | AFLOCK_READ_ONLY, /* "r", usually AFLOCK_SHARED: who joins others
                                                                            shares their offset, so pread is better */
    AFLOCK_DATA_UPDATE = AFLOCK_FOLLOW | AFLOCK_REWIND,                  /* "r+": reads and writes what is there */
    AFLOCK_DATA_APPEND = AFLOCK_FOLLOW | AFLOCK_REWIND | AFLOCK_CREATE | AFLOCK_APPEND, /* "a+" */
    AFLOCK_DATA_WRITE = AFLOCK_FOLLOW | AFLOCK_REWIND | AFLOCK_CREATE | AFLOCK_TRUNCATE /* "w+": emptied once it is
                                                                                           locked, never before */
};

#define AFLOCK_MODE_DEFAULT UINT32_MAX /* 0666 filtered by the umask or the directory's default ACL */

/* What a callback learns. Pointers live until the callback returns. */
typedef struct aflock_result {
    size_t size;       /* of this struct, as the library knows it */
    int status;        /* 0, or AFLOCK_E... */
    int sys_errno;     /* what the system said, or 0 */
    int cleanup_errno; /* why undoing a failed acquisition, or closing, failed; or 0 */
    int fd;            /* when held: the locked descriptor, borrowed until the release: never close or replace it, which
                          the library cannot notice; or -1 */
    aflock_req req;    /* the request; valid as long as it waits or holds */
    aflock_mode mode;
    uint32_t attempts; /* made on disk for this request; 0 = handed on by, or shared with, a holder of this context */
    uint64_t waited;   /* ns from the acquire until it was decided */
    void *owner;
    const char *step;   /* the failing step ("open", "flock", ...), or NULL */
    const char *path;   /* of the lock; "fd:N" for a caller's descriptor */
    const char *detail; /* which file is meant and what is wrong with it, as text ("FILE: REASON"), where the step does
                           not say it: AFLOCK_EPROTO of a strict lock, or which file of a pid file; or NULL */
    const char
        *token; /* when held: 32 hexadecimal digits that name the claim in its record (AFLOCK_LEASE, AFLOCK_STRICT,
                   AFLOCK_SOFT_RW); or NULL. It tells one claim from another and orders none: it is no fencing token */

    /* AFLOCK_PIDFILE, with AFLOCK_EWOULDBLOCK or AFLOCK_ETIMEDOUT: the process that the pid file names, if one of this
     * pid exists; 0: not known, as in the moment in which somebody takes the lock (aflock_inspect tells more). */
    int64_t pid;
} aflock_result;

typedef void (*aflock_callback)(aflock *lock, const aflock_result *result, void *user);

/* ------------------------------------------------------------------------------------------------- the library */

AFLOCK_API const char *aflock_version(void);          /* "0.1.0"; any thread */
AFLOCK_API const char *aflock_strerror(int status);   /* a message for any status; never NULL; any thread */
AFLOCK_API const char *aflock_error_name(int status); /* "AFLOCK_ETIMEDOUT"; "OK" for 0; any thread */

/* -------------------------------------------------------------------------------------------------- the context */

typedef enum aflock_log_level { AFLOCK_LOG_DEBUG, AFLOCK_LOG_INFO, AFLOCK_LOG_WARN, AFLOCK_LOG_ERROR } aflock_log_level;

typedef enum aflock_trace_event {
    AFLOCK_TRACE_ACQUIRE,   /* a request was accepted */
    AFLOCK_TRACE_ATTEMPT,   /* an attempt starts; value: 1 on the loop's thread, 0 on the executor, 2 parked */
    AFLOCK_TRACE_CONTENDED, /* it found the lock taken */
    AFLOCK_TRACE_GRANTED,   /* a request got the lock; value: attempts */
    AFLOCK_TRACE_ANSWERED,  /* a request ends without the lock; value: status */
    AFLOCK_TRACE_RELEASE,   /* a hold ends */
    AFLOCK_TRACE_UNLOCKED,  /* the file was given up; value: 0 or errno */
    AFLOCK_TRACE_PAUSE      /* a run of hand-offs ended; value: ns during which the context does not try */
} aflock_trace_event;

/* Hooks (these, on_acquired, and the function given to aflock_dump) run inside calls into the library, in the middle of
 * things: a call into the context from one of them answers AFLOCK_EBUSY (on a worker AFLOCK_ETHREAD). Tokens may be
 * fired. */
typedef struct aflock_ctx_options {
    size_t size;

    /* Memory: all three or none. free gets exactly what the others returned. Blocks that a worker thread may outlive
     * the context with (attempts, tokens, path text) come from malloc(3) instead. */
    void *(*allocate)(size_t size, void *user);
    void *(*reallocate)(void *block, size_t size, void *user);
    void (*release)(void *block, void *user);
    void *allocate_user;

    /* What cannot be reported to a caller; nothing is printed by itself. NULL: nowhere. */
    void (*log)(aflock_log_level level, const char *message, void *user);
    void *log_user;

    /* Every step of every request, for time lines and debugging. NULL: off. */
    void (*trace)(aflock_trace_event event, const char *path, aflock_req req, int64_t value, void *user);
    void *trace_user;

    uint32_t max_waiters;    /* requests that wait at one time in this context; more get AFLOCK_EFULL; 0: no limit */
    uint32_t handoff_grants; /* a run of hand-offs inside the context ends after so many grants, and at least twice
                                the pause; default 16 ... */
    uint64_t handoff_time;   /* ... or after so long; default 5 ms. Then the file is really given up ... */
    uint64_t handoff_pause;  /* ... and not tried for so long; default 250 us, 0: no pause */
    uint64_t pause_interval; /* if nobody foreign was met since the last pause: at most one pause so often; 10 ms */
    uint64_t attempt_limit;  /* how long the one attempt of a request with timeout 0 may take; default 5 s */
    uint64_t stall_after;    /* an attempt out for so long stops counting for admission; default 1 s */
} aflock_ctx_options;

/* Fills in the defaults. Any thread. */
AFLOCK_API void aflock_ctx_options_init(aflock_ctx_options *options);

/* Ends a context: needs no turn of the loop. Answers what is pending with AFLOCK_ECLOSED (each once, inside this
 * call), releases every hold (a caller's own descriptor is not unlocked), waits at most `grace` ns for what runs on
 * the executor (but not for threads that wait in the kernel), closes all locks and frees everything but what a hung
 * system call still uses; the worker frees that when the call returns, and gives back what it won. Returns the number
 * of locked files that could not be given up in time (0: all were); AFLOCK_EBUSY inside a callback, AFLOCK_ETHREAD,
 * AFLOCK_EFORKED. NULL: returns 0. [loop's thread]
 */
AFLOCK_API int aflock_ctx_free(aflock_ctx *ctx, uint64_t grace);

/* Graceful end: from now on new requests get AFLOCK_ECLOSED; those accepted go on as usual. `callback` runs once, from
 * a turn, when none waits, holds or is being released; the loop is kept alive until then. AFLOCK_EBUSY: already
 * draining. [loop's thread] */
typedef void (*aflock_drained)(aflock_ctx *ctx, void *user);
AFLOCK_API int aflock_ctx_drain(aflock_ctx *ctx, aflock_drained callback, void *user);

/* In a forked child: closes the inherited descriptors and frees the memory, without unlocking or changing anything
 * that the parent shares. No callback runs. A child that was forked in a callback must not return from it afterwards.
 * AFLOCK_EINVAL in the process that made the context. AFLOCK_ETHREAD unless it was the context's own thread that
 * forked: another one may have caught it in the middle of a call; such a child executes a program, or leaves, or keeps
 * what it inherited. */
AFLOCK_API int aflock_ctx_abandon(aflock_ctx *ctx);

/* Calls `each` for every holder, then every waiter in queue order, path by path; from inside the call. Return
 * non-zero from it to stop; that value is returned. [loop's thread] */
typedef struct aflock_dump_entry {
    size_t size;
    const char *path;
    aflock_req req;
    void *owner;
    aflock_mode mode;
    int held;          /* 1: holds, 0: waits */
    uint32_t position; /* of a waiter in its queue, from 0 */
    uint32_t attempts;
    uint64_t age;       /* ns since the acquire */
    uint64_t remaining; /* ns until the deadline; AFLOCK_FOREVER */
} aflock_dump_entry;
AFLOCK_API int aflock_dump(aflock_ctx *ctx, int (*each)(const aflock_dump_entry *entry, void *user), void *user);

/* ---------------------------------------------------------------------------------------------------- the locks */

/* How requests wait while somebody outside of the context holds the lock. Only the first one in a queue does; the
 * others wait for it, and cost memory only. */
typedef enum aflock_wait {
    AFLOCK_WAIT_AUTO,   /* NOTIFY on local file systems, POLL on network, FUSE and unknown ones */
    AFLOCK_WAIT_NOTIFY, /* hears when the file is closed, touched, moved or unlinked, and tries at once; tries each
                           poll_interval besides, for holders that unlock it and keep it open. At most 64 changes at
                           once, then one each millisecond, are followed up, with up to six attempts each: a file that
                           others keep opening and closing costs no more than that. Where no watch is to be had, and for
                           a descriptor of the caller's: POLL */
    AFLOCK_WAIT_POLL, /* tries each poll_interval; on other than local file systems that is made 25 % longer or shorter
                         at random, twice as long after 2 s of waiting, and four times as long after 10 s */
    AFLOCK_WAIT_PARK  /* waits in the kernel, on a thread that does nothing else: in the order in which the processes
                         have asked, woken by the unlock itself. A thread cannot be called back: after a cancel or a
                         time-out it stays there until it gets the lock, which the next such request in the same mode
                         takes over, or which is given back at once. That its file was replaced or unlinked it hears as
                         NOTIFY does; where nothing can be heard, only when the holder of the old file is through.
                         A thread never keeps anybody out: with AFLOCK_RW it waits for writers; a writer who has only
                         readers before it lets no other in and waits for them as AUTO does. Threads are bounded for
                         each context (aflock_pool_options.max_parked); beyond that, on an executor that has none for
                         this, and for a caller's descriptor: AUTO */
} aflock_wait;

typedef struct aflock_options {
    size_t size;
    aflock_protocol protocol; /* default AFLOCK_NATIVE */
    aflock_io io;             /* default AFLOCK_IO_AUTO */
    uint64_t poll_interval;   /* ns between attempts while contended; default 50 ms; at least 1 us; AFLOCK_FOREVER: none
                                 but those that a change of the file calls for */
    uint32_t max_waiters;     /* requests waiting on this path; more get AFLOCK_EFULL; 0: no limit (default) */
    aflock_wait wait;         /* default AFLOCK_WAIT_AUTO */
    int keep_open;      /* not 0: the file stays open from one hold to the next, until the last such lock on the path is
                           closed or the context is freed, which saves the open and the close of each cycle for one
                           descriptor per path. It counts for all locks on the path, and neither keeps the loop alive nor
                           holds up a drain. Who listens for the close hears a touch instead: after the unlock, where
                           attempts run, the file's times are set to now, or, where that is not permitted, it is opened and
                           closed once more; if not even that can be, it is closed. A file that was replaced meanwhile is
                           noticed by the next attempt and left. A hold with AFLOCK_INHERIT is closed all the same. Until it
                           is closed the file keeps its file system mounted, and a child that is forked meanwhile shares it,
                           later holds included, until the child ends, executes a program or abandons the context. No effect
                           on a caller's descriptor. The file's offset and status flags are as the last holder left them.
                           Default 0 */
    uint64_t lifetime;  /* ns; AFLOCK_SOFT only: a marker that is so old is broken even if its holder lives, as
                           SoftFileLock's `lifetime` does: two may hold then. A warning is logged. 0: never (default) */
    int break_empty;    /* AFLOCK_SOFT: not 0: an empty marker is broken when it is 2 s old. Old versions of py-filelock
                           (Debian 12's, too) write nothing and may hold it. A request that is killed leaves none behind
                           on file systems that have files without names (O_TMPFILE: ext4, xfs, btrfs, tmpfs and more):
                           there a marker is complete before it is to be seen. Elsewhere, NFS for one, and with
                           py-filelock everywhere, who is killed after making a marker and before writing it leaves an
                           empty one, which otherwise stays until somebody takes it away. Default 0 */
    uint64_t duration;  /* ns; AFLOCK_LEASE: who finds a marker that was not refreshed for so long takes it; recorded in
                           it: the same for all who use the path, Python's `lease_duration` included. At least 10 ms.
                           Default 30 s */
    uint64_t heartbeat; /* ns; AFLOCK_LEASE: the marker is refreshed so often while it is held, where attempts run, or
                           up to a sixteenth earlier, together with others of the context; at most a third of
                           `duration`, so that there is time for another try; each lock of a context on the path has the
                           same. Default 0: a third. AFLOCK_SOFT_RW: the same, and less than `stale_after`; default 0: a
                           third of that */
    int soft_fallback;  /* AFLOCK_NATIVE on a path only: not 0: where the file system has no flock (ENOSYS) markers are
                           used instead, as by AFLOCK_SOFT, for as long as a lock is open on the path; the log hook
                           hears of it once. Without: AFLOCK_ENOTSUP, ENOSYS, step "flock". All who share the path must
                           do the same: programs without it that use kernel locks fail there, but programs that lock
                           in another way are not excluded. It counts for the path: a lock without it is
                           AFLOCK_EMISMATCH there. The last component has at most 200 bytes. Once markers are used,
                           `fd` is -1 (aflock_fd: AFLOCK_ENOTSUP), and what is said about descriptors (AFLOCK_READ_ONLY,
                           AFLOCK_INHERIT, AFLOCK_TRUNCATE, keep_open, AFLOCK_WAIT_PARK) is without effect; requests
                           that a marker cannot serve (AFLOCK_SHARED, on_acquired, without AFLOCK_CREATE, a file_mode
                           without 0200), those that wait already too, get AFLOCK_ENOTSUP. A file that is there and is
                           no marker is never taken away: it may be one that was locked otherwise before. So an empty
                           one, as kernel locks leave them behind, is waited for until somebody removes it, unless
                           break_empty says otherwise; a symbolic link is AFLOCK_ELOOP. A file that the attempt itself
                           had to create is unlinked; who is killed or fails just then leaves an empty one. Default 0 */
    uint64_t stale_after; /* ns; AFLOCK_SOFT_RW: a marker that was not refreshed for longer counts no more: the same for
                             all who use the path, Python's `stale_threshold` included; each lock of a context on the
                             path has the same. At least 10 ms. Default 0: three heartbeats, or, without `heartbeat`,
                             90 s */

    /* AFLOCK_NATIVE on a path only: not 0: the lock file is removed when the lock is given up, by aflock_ctx_free, too:
     * unlinked while it is still locked, and only if the path still names it and nobody else shares the lock. Those who
     * wait notice and make a new one; so does everybody who compares file and path once it has the lock: this library
     * with or without `temporary`, py-filelock (3.32), portalocker's TemporaryFileLock (4.1). Who does not compare
     * (flock(1), portalocker's Lock, older versions) could hold a file that nobody sees any more, beside another
     * holder, and must not use the path. The path must never name a file that is worth keeping. A holder that is killed
     * leaves the file; the next one takes it, and removes it. So does who fails between making it and locking it. A
     * file that cannot be removed stays, given up all the same: cleanup_errno of the release says why, or the log if
     * nobody asked. What is handed on inside the context is not removed in between. Each lock of a context on the path
     * has the same (AFLOCK_EMISMATCH). AFLOCK_EINVAL with keep_open and soft_fallback; in a request, AFLOCK_FOLLOW and
     * AFLOCK_DIRECTORY are. Default 0 */
    int temporary;
} aflock_options;

AFLOCK_API void aflock_options_init(aflock_options *options);

/* Opens a lock on `path`, relative to the present working directory. Touches no file system and creates nothing: the
 * first attempt does. Any number of locks may be open on one path; they share one queue. Hard links are different
 * paths: they exclude each other through the kernel only. `options` NULL: defaults. AFLOCK_EINVAL (empty path, NULL,
 * bad options), AFLOCK_EISDIR (the path ends in "/" or "/."; write a directory that is to be locked without it; for
 * markers also "/" and what ends in ".."), AFLOCK_ENAMETOOLONG, AFLOCK_EMISMATCH (a lock of another protocol is open on
 * this path, or its last operation has not ended yet; if that is only known later, the request is answered with it),
 * AFLOCK_ENOMEM, AFLOCK_ECLOSED. [loop's thread] */
AFLOCK_API int aflock_open(aflock **out, aflock_ctx *ctx, const char *path, const aflock_options *options);

/* Opens a lock on a descriptor that the caller owns and keeps open as long as the lock is (a number that names another
 * file meanwhile would be granted and unlocked as if it were this one): it is locked and unlocked, never opened,
 * closed, truncated or unlinked. All locks on one descriptor number share one queue; AFLOCK_EMISMATCH for a second
 * protocol. What is about opening a file (file_mode, AFLOCK_TRUNCATE) is AFLOCK_EINVAL in a request, aflock_verify
 * AFLOCK_ENOTSUP. To the kernel, duplicates of a descriptor are one holder: give the library one of them only. An
 * attempt that still hangs when the context is freed may lock it later; closing it ends that, too. [loop's thread] */
AFLOCK_API int aflock_open_fd(aflock **out, aflock_ctx *ctx, int fd, const aflock_options *options);

/* Closes a lock. AFLOCK_EBUSY while a request of it waits, is undelivered or holds, or a question (aflock_verify,
 * aflock_inspect, aflock_run) is not answered; while the last release is under way it succeeds and the memory follows.
 * NULL: 0. [loop's thread] */
AFLOCK_API int aflock_close(aflock *lock);

AFLOCK_API const char *aflock_path(const aflock *lock); /* absolute, as text; lives as long as the lock */
AFLOCK_API aflock_ctx *aflock_context(const aflock *lock);

/* Changes the poll interval; a wait under way is re-armed. AFLOCK_EINVAL below 1 us. [loop's thread] */
AFLOCK_API int aflock_set_poll_interval(aflock *lock, uint64_t interval);

/* How requests of this lock wait: AFLOCK_WAIT_NOTIFY, _POLL or _PARK; AFLOCK_WAIT_AUTO: that is not known before the
 * first attempt. What was asked for is believed until a wait finds that it is not to be had. `reason`, if not NULL, is
 * set to a text that says why; it is constant. [loop's thread] */
AFLOCK_API int aflock_wait_mode(const aflock *lock, const char **reason);

/* -------------------------------------------------------------------------------------------- acquire and release */

/* Why what is held is lost. */
typedef enum aflock_compromise_reason {
    AFLOCK_MARKER_MISSING = 1, /* the marker is not there any more */
    AFLOCK_OWNER_CHANGED,      /* the path names another one: somebody has taken it */
    AFLOCK_REFRESH_FAILED, /* it could not be refreshed in time; `sys_errno` and `step` of the last try, or 0 and NULL
                              if that did not come back yet */
    AFLOCK_LEASE_EXPIRED   /* nobody tried in time: the machine was suspended, or the loop was busy for so long */
} aflock_compromise_reason;

typedef struct aflock_compromise {
    size_t size;
    aflock_compromise_reason reason;
    int sys_errno;
    const char *step;
    const char *path;
    const char *token; /* of the claim, as in aflock_result */
    uint64_t age;      /* ns since it was last refreshed, the time in which the machine was suspended included */
} aflock_compromise;

/* "marker-missing", "owner-changed", "refresh-failed", "expired": as py-filelock names them. Never NULL; any thread. */
AFLOCK_API const char *aflock_compromise_name(aflock_compromise_reason reason);

/* Who waits for what is held. */
typedef enum aflock_wanted {
    AFLOCK_WANTED_HERE,     /* a request of this context waits on the path for the hold to end */
    AFLOCK_WANTED_ELSEWHERE /* somebody who is not on this path of this context seems to want it */
} aflock_wanted;

typedef struct aflock_acquire_options {
    size_t size;
    uint64_t timeout;    /* ns; default AFLOCK_FOREVER; 0: exactly one attempt */
    aflock_mode mode;    /* default AFLOCK_EXCLUSIVE */
    uint32_t flags;      /* AFLOCK_CREATE | AFLOCK_MAKE_PARENTS by default */
    void *owner;         /* default NULL: excludes everybody */
    aflock_token *token; /* of the same context; default NULL */
    uint32_t file_mode;  /* permission bits: given to open, and set again once locked (EPERM and EACCES are ignored);
                            default AFLOCK_MODE_DEFAULT */

    /* Runs when the file is locked and before the request is answered, where attempts run (a worker thread, or the
     * loop's own); may read, write and sync `fd`. It must not call into the library. Non-zero (an errno) rolls the
     * acquisition back and is answered as AFLOCK_EREFUSED with that sys_errno. May run and be rolled back for a
     * request that is cancelled meanwhile. Default NULL. */
    int (*on_acquired)(int fd, void *user);
    void *on_acquired_user;

    /* Tells the holder that somebody waits, so that who holds for long can make way. A callback: it runs from a turn
     * and may acquire, release, cancel and close anything. At most once per hold and kind; after the grant was
     * delivered (or aflock_try has returned); not after the release was asked for, also if that fails; not after
     * aflock_ctx_free began. It does not keep the loop alive. Default NULL: costs nothing.
     *
     * AFLOCK_WANTED_HERE is exact: the first one in the path's queue cannot be granted while this hold lasts, also if
     * it waited before the hold began. Who joins at once (shared, same owner) does not count, nor one that fails at
     * once (timeout 0, aflock_try), nor one that left before the callback ran: then the next one does. Every hold that
     * shares the file and asked is told.
     *
     * AFLOCK_WANTED_ELSEWHERE is what can be known on local file systems (and where AFLOCK_WAIT_NOTIFY was asked for).
     * Once it is heard of, the file is really given up when the last hold of this context on the path ends, and not
     * tried for handoff_pause: who releases and asks again lets others in. It means one of these:
     *
     * Somebody opened the lock file after the grant was delivered: another process, another context, a lock of this
     * context on another name of the file. That may also be one who only reads it, or tried once and left; this
     * program, too, if it opens the file by itself; of a directory, whoever lists it. aflock_verify does not open it,
     * nor does aflock_inspect (on Linux before 6.5 it does). Of a strict lock: somebody looked at its claims, as these
     * two do; of AFLOCK_SOFT_RW: at the markers of its readers. If the kernel lost reports, that is taken for one.
     *
     * Somebody was blocked in the kernel when the grant was delivered (flock(2) or fcntl(2) with waiting): a waiter in
     * /proc/locks, of a process of this pid namespace. Looked up once per hold, where attempts run.
     *
     * Or it was so during a hold of this context on the path that ended not more than eight such holds ago: who was too
     * slow then is not heard again. It may have left meanwhile.
     *
     * Not heard of are waiters that opened the file before the grant was delivered, keep it open, and are not blocked
     * in the kernel, as requests of other contexts and processes that wait for longer than one hold; network, FUSE and
     * unknown file systems; openers where no watch is to be had (a warning is logged once); anybody for a descriptor of
     * the caller's. Who has to be fair to those, too, releases now and then without being told. */
    void (*on_wanted)(aflock *lock, aflock_req req, aflock_wanted who, void *user);
    void *on_wanted_user;

    /* AFLOCK_LEASE, AFLOCK_SOFT_RW: the hold is lost: somebody else may have the lock, or will have it soon. Stop
     * touching what it protects, and release it, which takes nothing away from others. A callback, as on_wanted; at
     * most once per hold, and before any other callback of this context that would run after it was lost. It is lost
     * when a heartbeat finds another marker or none, or when none succeeded for `duration` less `heartbeat`
     * (AFLOCK_SOFT_RW: `stale_after` less `heartbeat`, or less half of what is between them if that is less), on a
     * clock that goes on while the machine is suspended. Before that, in the middle of the time that is left after the
     * first heartbeat that was missed, a warning is logged. Not after the release was asked for: who has to know
     * whether what was done was done under the lease asks aflock_verify before. Until it is released other requests of
     * this context wait; one of the same owner is answered AFLOCK_ECOMPROMISED, as is one that was granted and not yet
     * told. Default NULL: an error is logged instead. AFLOCK_EINVAL with other protocols. */
    void (*on_compromise)(aflock *lock, aflock_req req, const aflock_compromise *what, void *user);
    void *on_compromise_user;
} aflock_acquire_options;

AFLOCK_API void aflock_acquire_options_init(aflock_acquire_options *options);

/* Asks for the lock. Returns 0 and, if `req` is not NULL, stores the request there: `callback` will run exactly once,
 * with status 0 when the lock is held. Otherwise an error, and the callback never runs: AFLOCK_EINVAL,
 * AFLOCK_EWOULDBLOCK (timeout 0 behind a queue or a holder of this context), AFLOCK_EDEADLK (the same owner holds or
 * waits in the other mode, or with flags that need another descriptor, or waiting would close a cycle of owners),
 * AFLOCK_ECOMPROMISED (the same owner holds a lease that is lost),
 * AFLOCK_EFULL, AFLOCK_ENOMEM, AFLOCK_ECLOSED, AFLOCK_ECANCELED (the token was fired before), AFLOCK_ETHREAD,
 * AFLOCK_EFORKED. The callback's status: AFLOCK_ETIMEDOUT, AFLOCK_EWOULDBLOCK (timeout 0), AFLOCK_ECANCELED,
 * AFLOCK_EDEADLK, AFLOCK_EMISMATCH, AFLOCK_ECLOSED, AFLOCK_ECOMPROMISED, or what the attempt met. A deadline is never
 * answered early. Waiting: first come, first served per path. Shared requests hold together if one descriptor serves
 * them all; one that needs another kind (AFLOCK_INHERIT or not; writing beside AFLOCK_READ_ONLY) waits for the others.
 * Where no thread can be started and none is alive, what has to go to the pool is answered AFLOCK_ESYS, EAGAIN, step
 * "executor", after stall_after. `options` NULL: defaults. A time-out limits everything, the first attempt included:
 * one that is shorter than a trip to the executor can pass although the lock is free; to try at least once, use timeout
 * 0 first. [loop's thread] */
AFLOCK_API int aflock_acquire(aflock *lock, const aflock_acquire_options *options, aflock_callback callback, void *user,
                              aflock_req *req);

/* One attempt, answered at once, without a callback: 0 and the lock is held, `*req` names the hold (release it with
 * aflock_release). AFLOCK_EWOULDBLOCK: somebody holds it or waits for it, or this
 * context has just given it up for others and pauses. AFLOCK_ENOTINLINE: the attempt would have to
 * leave this thread (file missing or not in the kernel's cache, path not resolved yet, network file system,
 * AFLOCK_IO_POOL; on_acquired, file_mode or AFLOCK_TRUNCATE without AFLOCK_IO_INLINE; by chance, while somebody mounts
 * a file system): use aflock_acquire with timeout 0. `result` may be NULL, else it is always filled in; its strings
 * live until the next call on this lock. timeout and token are ignored. [loop's thread] */
AFLOCK_API int aflock_try(aflock *lock, const aflock_acquire_options *options, aflock_req *req, aflock_result *result);

/* Cancels a waiting request. 0: its callback will say AFLOCK_ECANCELED (or another failure), never "acquired", even
 * if the lock had just been won. An attempt that is under way goes on without it and does not keep the loop alive: what
 * it wins late is given back in the next turn or by aflock_ctx_free. AFLOCK_EHELD: it was delivered, release it.
 * AFLOCK_ESTALE. [loop's thread] */
AFLOCK_API int aflock_cancel(aflock *lock, aflock_req req);

/* Ends a hold. From this call on the caller must not use the descriptor. Re-entrant holds count: the file is given up
 * with the last; while a function of the hold runs (aflock_run) it is not. `callback` may be NULL; otherwise it runs
 * once: status 0, or the reason why the file could not be unlocked, in which case `req` is held as before and can be
 * released again. Without a callback a failure is logged and retried until it is done. AFLOCK_ENOTHELD: still waiting.
 * AFLOCK_ESTALE. [loop's thread] */
AFLOCK_API int aflock_release(aflock *lock, aflock_req req, aflock_callback callback, void *user);

/* The same, and ends every other hold of the same owner on this path with it, without callbacks: the depth is 0 at
 * once. Requests whose grant is not delivered yet are not holds. */
AFLOCK_API int aflock_release_all(aflock *lock, aflock_req req, aflock_callback callback, void *user);

/* The locked descriptor of a hold, borrowed until the release; or AFLOCK_ENOTHELD, AFLOCK_ESTALE. [loop's thread] */
AFLOCK_API int aflock_fd(aflock *lock, aflock_req req);

/* Holds of `owner` on the lock's path (re-entrancy depth); owner NULL: all holds of this context on the path. Counts
 * what was delivered. [loop's thread] */
AFLOCK_API int aflock_depth(const aflock *lock, const void *owner);

/* Does the path still name the file that `req` holds? Of a strict lock: are both of its claims there? Of
 * AFLOCK_SOFT_RW: is its marker there, with its token? The callback says
 * 0, AFLOCK_EREPLACED, or what the look-up met. result->req is `req`. The file system is asked where attempts run.
 * AFLOCK_ECOMPROMISED: a lease that is lost, or could not be refreshed in time. [loop's thread] */
AFLOCK_API int aflock_verify(aflock *lock, aflock_req req, aflock_callback callback, void *user);

/* Runs `function` on the executor while the hold lasts, AFLOCK_IO_INLINE or not: for file work that must not block the
 * loop and that the lock protects. `fd` is the locked descriptor (-1: a marker), which the function may read, write and
 * sync, but neither close nor unlock. It runs on a worker thread and must not call into the context (AFLOCK_ETHREAD);
 * `user` and what it leads to is the function's from this call until the callback.
 *
 * Returns 0: `callback` will run exactly once, with what the function returned as `value`. result->status:
 *   0                    it ran, and the lock was held from its beginning to its end
 *   AFLOCK_ECOMPROMISED  it ran, and meanwhile the lease was lost (on_compromise says it at once, to whom asked for it;
 *                        the function cannot be stopped: let it look at a flag of yours)
 *   AFLOCK_ESYS          no thread was to be had (step "executor"): it did not run, `value` is 0
 *   AFLOCK_ECLOSED       the context was freed before it began: it will never run
 *   AFLOCK_EBUSY         the context was freed, and it still runs: `user` is the function's until it returns; the file
 *                        is given up only then, and aflock_ctx_free counts it
 * Otherwise an error, and neither runs: AFLOCK_EINVAL (NULL), AFLOCK_ESTALE, AFLOCK_ENOTHELD, AFLOCK_ECOMPROMISED (the
 * lease is lost already), AFLOCK_ENOTSUP (a back end without descriptors or markers), AFLOCK_ENOMEM, AFLOCK_ECLOSED,
 * AFLOCK_ETHREAD, AFLOCK_EFORKED.
 *
 * A release of the hold that is asked for meanwhile is accepted at once and carried out when the function has returned,
 * after `callback`; until then the hold keeps others out, and asking again (release, run, verify) is answered as after
 * a release. aflock_ctx_free takes back what has not begun and waits for the rest within its grace. A drain waits for
 * it.
 *
 * Several functions of one hold, or of holds that share the file, may run at the same time, in any order. Functions
 * take at most half of the executor's width, so that attempts go on (with a width below 3 they take turns); one that
 * runs for longer than aflock_ctx_options.stall_after stops counting, as an attempt does. A child that is forked
 * meanwhile has no such thread: the callback runs in the parent only. [loop's thread] */
typedef void (*aflock_ran)(aflock *lock, const aflock_result *result, int value, void *user);
AFLOCK_API int aflock_run(aflock *lock, aflock_req req, int (*function)(int fd, void *user), aflock_ran callback,
                          void *user);

/* What the file at the path is. */
typedef enum aflock_record {
    AFLOCK_RECORD_NONE,      /* not looked at: the lock is the kernel's; or nothing there, or no regular file */
    AFLOCK_RECORD_EMPTY,     /* a marker without content, as Debian 12's py-filelock writes; or any empty file */
    AFLOCK_RECORD_SOFT,      /* a marker of AFLOCK_SOFT */
    AFLOCK_RECORD_LEASE,     /* ... of AFLOCK_LEASE */
    AFLOCK_RECORD_SENTINEL,  /* a path of py-filelock's strict locks */
    AFLOCK_RECORD_OTHER,     /* of a mode that nobody here knows */
    AFLOCK_RECORD_MALFORMED, /* anything else */

    AFLOCK_RECORD_PID /* AFLOCK_PIDFILE: a process id */
} aflock_record;

/* A claim of a strict lock, as it is in its folder. One that is held, and its intent, have the same token; an intent
 * alone is somebody's on his way in, or was left on it. With an empty token it is no claim (an unknown name or version,
 * a malformed record, or one that cannot be read), which keeps everybody out as well. */
typedef struct aflock_claim {
    size_t size;
    const char *name; /* of the file: what aflock_break_claim takes */
    int held;         /* 1: held, 0: an intent */
    const char *token;
    int64_t pid;      /* 0: not known */
    const char *host; /* "": not known */
    uint64_t age;     /* ns since it was made */
    int here;         /* 1: the pid is one of this host */
    int gone;         /* 1: ... and that process does not exist any more */
} aflock_claim;

/* Who holds the file, as far as the system tells (for kernel locks: /proc/locks of this machine, processes of this pid
 * namespace). Asked where attempts run. [loop's thread]
 *
 * Of a strict lock the holder is that of the lowest claim that is held, and `count` the number of such claims. It is
 * also `held`, by nobody, when the path is not what it has to be, so that nobody can get it. status AFLOCK_EPROTO: not
 * all that is there are claims; the list is filled in all the same. AFLOCK_ENOMEM: it is not complete.
 *
 * Of AFLOCK_SOFT_RW the holder named is the writer, also one who waits for readers (`pending`, and `mode` is that of
 * those who hold), else one of the readers; `age` is since its last heartbeat. If it is this process that waits, one of
 * the readers is named, and nothing is `pending`. Markers that count no more are counted until somebody takes them
 * away. If there are none, and PATH.state is taken, it is `held` with a `count` of 0 by the one who has that, as nobody
 * else can come in. AFLOCK_EISDIR, AFLOCK_ELOOP, AFLOCK_ENOTFILE: what is at PATH.write or PATH.state is no
 * regular file and holds nothing, but writers, or all, get this error; those who read are told all the same.
 *
 * Of AFLOCK_PIDFILE `held` is whether PATH.lock is locked, and `pid`, `gone` and `age` are what the file at the path
 * says (`record`), also if nobody holds the lock: then somebody was killed. If it names nobody, `pid` is that of who
 * took the lock, if that can be told. */
typedef struct aflock_holder {
    size_t size;
    int status; /* 0, or why it could not be asked */
    int sys_errno;
    int held;         /* 1: somebody holds it, this process included */
    aflock_mode mode; /* of the holder named */
    int64_t pid;      /* of one holder; 0: not known */
    uint32_t count;   /* processes seen to hold it; AFLOCK_RW: readers, or 1: about, while others come and go;
                         AFLOCK_SOFT_RW: readers' markers, or 1 */

    const char *host; /* that a marker names, or "" */
    uint64_t age;     /* ns since a marker was written */
    int here;         /* 1: the pid is one of this host */
    int gone;         /* 1: ... and that process does not exist any more */

    aflock_record record;       /* what a marker is */
    uint64_t duration;          /* ns; of a lease; `age` is since its last heartbeat then */
    const char *token;          /* of a lease, or of AFLOCK_SOFT_RW; or "" */
    const aflock_claim *claims; /* AFLOCK_STRICT: what is in the folder, by name; at most 1000, */
    uint32_t claim_count;
    uint32_t claims_left_out; /* ... and so many more are there */
    const char *detail;       /* with `status`: which file, and why ("FILE: REASON"); or NULL */

    int pending; /* AFLOCK_RW, AFLOCK_SOFT_RW: 1: a writer waits for the readers to leave, and lets no other in */
    int outside; /* AFLOCK_OFD, AFLOCK_RW: 1: some of what is locked is not among SQLite's lock bytes: not, or not only,
                    an AFLOCK_RW lock */
    int blocked; /* AFLOCK_SOFT_RW: 1: somebody has PATH.state, as everybody has for a moment: nobody comes in, and no
                    writer leaves. It is a marker of AFLOCK_SOFT; aflock_inspect tells whose */
} aflock_holder;
typedef void (*aflock_inspected)(aflock *lock, const aflock_holder *holder, void *user);
AFLOCK_API int aflock_inspect(aflock *lock, aflock_inspected callback, void *user);

/* Takes a marker (AFLOCK_SOFT) away, whoever holds it. Dangerous: a holder that lives goes on as if it held the lock,
 * and another one gets it. For operators who know that the holder is gone where nobody can prove it (another host). The
 * callback says 0, also if there was none; AFLOCK_EPROTO: it is no marker that may be taken away (no regular file, or
 * the file at the path of a strict lock); AFLOCK_EBUSY: somebody has a kernel lock on the file; or what the
 * removal met. AFLOCK_ENOTSUP for other protocols; of a strict lock one claim can be taken away by its name
 * (aflock_break_claim); markers of AFLOCK_SOFT_RW go by themselves, but for a PATH.state that another host has left,
 * which is a marker of AFLOCK_SOFT, and what is dated in the future. [loop's thread] */
AFLOCK_API int aflock_break(aflock *lock, aflock_callback callback, void *user);

/* Takes one claim of a strict lock away, whoever's it is: the file `name` in the folder of claims, exactly as
 * aflock_claim.name has it. Dangerous: if its owner lives he goes on as if he held the lock, and another one gets it.
 * For operators who know that he does not, on whatever host; nothing here looks whether he is gone. Who was killed
 * leaves two claims at most, of one token: take both away, the one that is held first. The callback says 0;
 * AFLOCK_ENOENT: there is none of that name; or what the removal met. AFLOCK_EINVAL: the name is empty, begins with "."
 * or has a "/" in it; AFLOCK_ENAMETOOLONG; AFLOCK_ENOTSUP for other protocols. [loop's thread] */
AFLOCK_API int aflock_break_claim(aflock *lock, const char *name, aflock_callback callback, void *user);

/* ---------------------------------------------------------------------------------------------------- the tokens */

/* A token for requests of `ctx`. One shot: once fired it stays fired. [loop's thread] */
AFLOCK_API int aflock_token_new(aflock_token **out, aflock_ctx *ctx);

/* Cancels every request that carries the token and was not delivered yet, and each later one. Any thread, any signal
 * handler, also after the context is gone; async-signal-safe; keeps errno. */
AFLOCK_API void aflock_token_fire(aflock_token *token);

AFLOCK_API int aflock_token_fired(const aflock_token *token); /* any thread */

/* Gives the caller's reference back; requests that carry the token keep it alive. Any thread, but not at the same time
 * as another call with this token. NULL: nothing. */
AFLOCK_API void aflock_token_free(aflock_token *token);

#ifdef __cplusplus
}
#endif
#endif
