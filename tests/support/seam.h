/* The table of system calls with a meter in it: afl_sys_linux, with each call counted together with the thread that
 * made it, and calls that fail, hang, are judged or observed as a test says. The one home of this in the tests;
 * fake_host.h and scene.h put it into their contexts.
 *
 * One state per process, as the table has no argument of its own; libcheck gives each test a process. Any thread.
 */
#ifndef AFL_TEST_SEAM_H
#define AFL_TEST_SEAM_H

#include <aflock/aflock.h>
#include <stdbool.h>
#include <stdint.h>

typedef enum seam_call {
    SEAM_OPEN,    /* without O_CREAT */
    SEAM_CREATE,  /* open with O_CREAT */
    SEAM_TMPFILE, /* open with O_TMPFILE */
    SEAM_OPEN_CACHED,
    SEAM_CLOSE, /* closes, even if it is to fail: as Linux does */
    SEAM_LOCK,  /* flock or F_OFD_SETLK */
    SEAM_UNLOCK,
    SEAM_FSTAT,
    SEAM_STAT,
    SEAM_IDENTIFY,
    SEAM_FCHMOD,
    SEAM_FTRUNCATE,
    SEAM_TOUCH,
    SEAM_SYNC,
    SEAM_WRITE,
    SEAM_UNLINK,
    SEAM_RENAME,
    SEAM_LINK,
    SEAM_LIST, /* reading a directory */
    SEAM_RANDOM,
    SEAM_MKDIR,
    SEAM_READ,
    SEAM_READ_HEAD,
    SEAM_READLINK,
    SEAM_DUP, /* from here on: calls that reach no file system */
    SEAM_REWIND,
    SEAM_GETCWD,
    SEAM_GETFD,
    SEAM_HOSTNAME, /* from here on: who holds a marker */
    SEAM_PROBE,
    SEAM_PIDFD,
    SEAM_CALLS
} seam_call;

const char *seam_name(seam_call call); /* "open", ... */

/* Puts the table into a context. The thread of the first call counts as the loop's. */
void seam_install(aflock_ctx *ctx);

/* Lets `after` calls through, then `times` calls fail with `error` and do nothing. */
void seam_fail(seam_call call, int after, int times, int error);

/* Runs before each such call, on the thread that makes it; NULL: nothing. */
void seam_before(seam_call call, void (*hook)(void));

/* Calls of this kind on a file whose path contains `fragment` hang, before they do anything, until seam_resume. On the
 * loop's thread such a call fails the test. At most 4. A descriptor that was opened without a name counts for each. */
void seam_hang(seam_call call, const char *fragment);
void seam_resume(void);
void seam_await_hung(unsigned count); /* waits until so many calls hang */

/* Files below a directory whose path contains `fragment` seem to be on device `dev`. */
void seam_device(const char *fragment, uint64_t dev);

/* All file systems seem to be of this type to contexts that look at them for the first time; NULL: what they are. */
void seam_file_systems(const char *type);

/* Judges every call before it is made: an errno makes it fail, 0 lets it through. `fd` is -1 or `path` NULL; of a call
 * in a directory that is open, `path` is the name in it (of two, the new one). And observes every call after it:
 * `result` is what the library gets. One at a time, whatever the thread; they must not call anything of this file.
 * NULL: nobody. */
typedef int (*seam_judge)(seam_call call, int fd, const char *path);
typedef void (*seam_observer)(seam_call call, int fd, int result);
void seam_judge_by(seam_judge judge, seam_observer observer);

/* Runs instead of the futex wait in which aflock_ctx_free waits for workers; NULL: the real one. */
extern void (*seam_waits)(uint64_t timeout);

void seam_forget(void); /* the counts */
void seam_reset(void);  /* and failures and hooks */

int seam_count(seam_call call);   /* calls made, failed ones included */
int seam_on_loop(seam_call call); /* those of them on the loop's thread */
int seam_total(void);             /* all calls that reach a file system */
int seam_total_on_loop(void);
int seam_total_elsewhere(void);

#endif
