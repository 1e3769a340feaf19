/* A table of system calls for tests: afl_sys_linux, with every file-system call written down together with the thread
 * that made it, and calls that fail or hang when a test says so.
 *
 * One state per process, as the table has no argument of its own; libcheck gives each test a process. Any thread.
 */
#ifndef FAKE_SYS_H
#define FAKE_SYS_H

#include "runtime/runtime.h"

typedef enum fake_call {
    FAKE_OPEN,
    FAKE_OPEN_CACHED,
    FAKE_CLOSE,
    FAKE_LOCK,
    FAKE_UNLOCK,
    FAKE_FSTAT,
    FAKE_STAT,
    FAKE_IDENTIFY,
    FAKE_FCHMOD,
    FAKE_FTRUNCATE,
    FAKE_MKDIR,
    FAKE_READ,
    FAKE_CALLS
} fake_call;

/* Puts the table into a context. The thread of the first call counts as the loop's. */
void fake_sys_use(aflock_ctx *ctx);

/* What was called since the last fake_sys_forget. */
void fake_sys_forget(void);
unsigned fake_sys_count(fake_call call);
unsigned fake_sys_here(void);      /* all calls that the loop's thread made */
unsigned fake_sys_elsewhere(void); /* and all others */

/* The `nth` next call of this kind (1: the next) fails with `error`, without having done anything. One at a time. */
void fake_sys_fail(fake_call call, unsigned nth, int error);

/* Calls of this kind on a file whose path contains `fragment` hang, before they do anything, until fake_sys_resume.
 * On the loop's thread such a call fails the test. At most 4 kinds. */
void fake_sys_hang(fake_call call, const char *fragment);
void fake_sys_resume(void);
void fake_sys_await_hung(unsigned count); /* waits until so many calls hang */

/* Files below a directory whose path contains `fragment` seem to be on device `dev`. */
void fake_sys_device(const char *fragment, uint64_t dev);

/* Runs instead of the futex wait in which aflock_ctx_free waits for workers; NULL: the real one. */
extern void (*fake_sys_waits)(uint64_t timeout);

#endif
