/* A host for tests: the three tables of aflock/host.h by hand, on a virtual clock.
 *
 * Nothing happens by itself. Time stands still until fake_advance; a turn runs when fake_turn or fake_settle says so
 * and the library has asked for one; a job that was submitted stays in `jobs` until the test runs it on a thread of
 * its own, or drops it. Everything the library tells the host is written down.
 *
 * Also here: what the answers of requests are checked with, and a directory for each test.
 */
#ifndef FAKE_HOST_H
#define FAKE_HOST_H

#include "runtime/runtime.h"
#include "support/seam.h"

#include <aflock/host.h>
#include <check.h>
#include <pthread.h>

enum { FAKE_JOBS = 64, FAKE_NOTIFIES = 64 };

#define US AFLOCK_MICROSECOND
#define MS AFLOCK_MILLISECOND
#define SEC AFLOCK_SECOND

typedef struct fake_job {
    aflock_job *job;
    aflock_lane lane;
} fake_job;

typedef struct fake_host {
    aflock_loop loop;
    aflock_executor executor;
    aflock_notifier notifier;
    aflock_host host;
    aflock_ctx *ctx;

    uint64_t now;
    uint64_t timer; /* AFLOCK_FOREVER: off */
    unsigned timer_calls;
    unsigned defers;
    bool turn_due; /* asked for by defer */
    atomic_uint wakes;
    atomic_bool woken;
    bool alive;
    unsigned alive_changes;
    bool turning; /* aflock_host_turn is on the stack */
    unsigned turns;
    unsigned most_in_turn; /* callbacks of one turn, at most */
    aflock_watch *watch;   /* the one there is */
    int closed;            /* calls of loop->close; of them: in a child */
    int closed_forked;

    fake_job jobs[FAKE_JOBS]; /* submitted, not run yet */
    size_t job_count;
    unsigned submits;
    unsigned refusals; /* so many submits are refused */
    bool no_threads;   /* fake_run runs jobs on the test's own thread: faster */
    bool no_parking;   /* nothing waits in the kernel; implied by no_threads */
    unsigned stalls;
    int executor_closed;

    aflock_notify *listening[FAKE_NOTIFIES];
    size_t listening_count;
    unsigned adds, dels;
    bool refuse_add;
    int notifier_closed;
} fake_host;

/* Makes the tables, without a notifier unless asked, and a context on them that uses seam.h. options NULL:
 * defaults. The clock of the latest host also goes on when aflock_ctx_free waits. */
aflock_ctx *fake_start(fake_host *h, unsigned width, bool notifier, const aflock_ctx_options *options);

void fake_turn(fake_host *h);                    /* one turn, whether it is due or not */
void fake_settle(fake_host *h);                  /* turns as long as they are due */
void fake_advance(fake_host *h, uint64_t delay); /* timers and turns that are due meanwhile */
void fake_work(fake_host *h);                    /* runs jobs and turns until nothing is left */

/* Jobs by their place in `jobs`. fake_run waits for the end of the job, fake_go does not: it returns the thread. */
void fake_run(fake_host *h, size_t index);
pthread_t fake_go(fake_host *h, size_t index);
void fake_drop(fake_host *h, size_t index);
void fake_join(pthread_t thread);
size_t fake_jobs_in(const fake_host *h, aflock_lane lane);

/* ---------------------------------------------------------------------------------------------------- the answers */

/* An assertion for what runs often: those of libcheck write to a file each time. It also tells what the test says that
 * it is doing. */
#define fake_require(condition)                                   \
    do {                                                          \
        if (!(condition))                                         \
            ck_abort_msg("not: %s %s", #condition, fake_context); \
    } while (0)

extern char fake_context[256];

/* What a request is answered; the `user` of fake_answered, of which `then`, if not NULL, runs in the callback. */
typedef struct fake_answer {
    unsigned count;
    unsigned order; /* among all answers, from 1 */
    aflock_result result;
    void (*then)(struct fake_answer *a, aflock *lock);
    void *user;
} fake_answer;

/* The callback. Fails the test outside of a turn (or of fake_free), inside of a call, and on another thread. */
void fake_answered(aflock *lock, const aflock_result *result, void *user);

/* The public functions, noted as calls in whose course no callback may run. */
int fake_acquire(aflock *lock, const aflock_acquire_options *options, fake_answer *answer, aflock_req *req);
int fake_release(aflock *lock, aflock_req req, fake_answer *answer); /* answer may be NULL */
int fake_cancel(aflock *lock, aflock_req req);
int fake_free(fake_host *h, uint64_t grace); /* callbacks may run */

aflock_acquire_options fake_options(uint64_t timeout); /* the defaults, with this timeout */

/* Acquires and waits for the answer, which has to be success. */
aflock_req fake_hold(fake_host *h, aflock *lock, fake_answer *answer, const aflock_acquire_options *options);

#define ck_answered(answer, expected)                         \
    do {                                                      \
        ck_assert_uint_eq((answer).count, 1);                 \
        ck_assert_int_eq((answer).result.status, (expected)); \
    } while (0)

/* ------------------------------------------------------------------------------------------------------ the files */

const char *fake_path(const char *name); /* in the directory of the test; lives as long as the test */
void fake_touch(const char *path);

/* A foreign holder of the file: another open file description. The descriptor, or -1: it is locked. */
int fake_foreign(const char *path);
bool fake_is_free(const char *path);

unsigned fake_descriptors(void); /* open ones of this process */

/* Opens a lock on fake_path(name). */
aflock *fake_open_lock(fake_host *h, const char *name, aflock_io io);

/* Runs the tests (NULL ends the list), each in a process and with an empty directory of its own. The value of main.
 * The second form runs each test for _i from 0 to count - 1, and allows it so many seconds. */
int fake_main(const char *name, const TTest *const tests[]);
int fake_main_each(const char *name, const TTest *const tests[], int count, double seconds);

#endif
