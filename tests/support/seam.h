/* The table of system calls with a meter in it: counts the real calls, remembers which thread made them, and makes
 * chosen ones fail. One per test program; a test installs it in its context before it opens locks. */
#ifndef AFL_TEST_SEAM_H
#define AFL_TEST_SEAM_H

#include <aflock/aflock.h>

typedef enum seam_call {
    SEAM_OPEN,   /* without O_CREAT */
    SEAM_CREATE, /* open with O_CREAT */
    SEAM_OPEN_CACHED,
    SEAM_CLOSE, /* closes, even if it is to fail: as Linux does */
    SEAM_LOCK,  /* flock or F_OFD_SETLK */
    SEAM_UNLOCK,
    SEAM_FSTAT,
    SEAM_STAT,
    SEAM_IDENTIFY,
    SEAM_FCHMOD,
    SEAM_FTRUNCATE,
    SEAM_MKDIR,
    SEAM_READ,
    SEAM_CALLS
} seam_call;

/* The calling thread is the loop's. Forgets everything of an earlier context. */
void seam_install(aflock_ctx *ctx);

/* Lets `after` calls through, then `times` calls fail with `error` and do nothing. */
void seam_fail(seam_call call, int after, int times, int error);

/* Runs before each such call, on the thread that makes it; NULL: nothing. */
void seam_before(seam_call call, void (*hook)(void));

/* Forgets counts, failures and hooks. */
void seam_reset(void);

int seam_count(seam_call call);   /* calls made, failed ones included */
int seam_on_loop(seam_call call); /* those of them on the loop's thread */
int seam_total(void);
int seam_total_on_loop(void);

#endif
