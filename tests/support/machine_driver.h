/* Scripts for the machine: a test plays the runtime, the file system and the clock.
 *
 * A script submits and releases requests, answers operations and moves the virtual time; `driver_see` says what the
 * machine must have asked for and answered since the last look, in order, as one text. Every operation, answer and step
 * is checked against what must hold always (driver_check):
 *
 *   driver_submit(&d, p, a, 0);
 *   driver_see(&d, "try p a");
 *   driver_done(&d, p, WON);
 *   driver_see(&d, "a held");
 *
 * Operations read "try p a", "adopt p a", "adopt+verify p a", "adopt+convert p a", "withdraw p", "release p", "beat p",
 * "watch p", "unwatch p", "inherit p a", "detach p"; answers "a held", "a reheld", "a released" or the name of the
 * error, "a ETIMEDOUT". They are joined by "; ". Watches are answered at once, as the path's `watchable` says.
 */
#ifndef MACHINE_DRIVER_H
#define MACHINE_DRIVER_H

#include "machine/machine.h"

#include <check.h>

enum { DRIVER_PATHS = 24, DRIVER_REQUESTS = 128, DRIVER_TEXT = 8192 };

#define US AFLOCK_MICROSECOND
#define MS AFLOCK_MILLISECOND

#define EXCLUSIVE AFLOCK_EXCLUSIVE
#define SHARED AFLOCK_SHARED

/* libcheck notes each assertion in a file; those that are made after every step are cheap unless they fail. */
#define must(condition)                     \
    do {                                    \
        if (!(condition)) {                 \
            driver_explain();               \
            ck_abort_msg("%s", #condition); \
        }                                   \
    } while (0)

/* Called before such an assertion ends the test, if set: says how it came to that. */
extern void (*driver_explanation)(void);
void driver_explain(void);

typedef struct driver_path {
    afl_path path; /* first: the machine's pointers lead here */
    char name[16];
    bool watchable;
    uint32_t tried_need; /* of the request for which the last attempt was made */
} driver_path;

typedef struct driver_request {
    afl_request request; /* first */
    char name[16];
    bool cancelled; /* since submit, with success */
    unsigned owed;  /* answers that were promised and not delivered */
} driver_request;

typedef struct driver {
    afl_machine machine;
    uint64_t now;
    uint64_t poll; /* of every request, unless a test sets another */
    driver_path paths[DRIVER_PATHS];
    driver_request requests[DRIVER_REQUESTS];
    size_t path_count, request_count;
    char text[DRIVER_TEXT];
    size_t length;
} driver;

/* Outcomes as protocols give them. */
#define WON ((afl_outcome){.answer = AFL_WON, .grip = AFL_GRIP_HELD, .have = 7})
#define DONE ((afl_outcome){.answer = AFL_WON, .grip = AFL_GRIP_NONE})      /* of RELEASE and WITHDRAW */
#define LEFT_OPEN ((afl_outcome){.answer = AFL_WON, .grip = AFL_GRIP_KEPT}) /* of RELEASE */
#define CONTENDED ((afl_outcome){.answer = AFL_CONTENDED, .grip = AFL_GRIP_NONE})
#define KEPT ((afl_outcome){.answer = AFL_CONTENDED, .grip = AFL_GRIP_KEPT})
#define STALE ((afl_outcome){.answer = AFL_CONTENDED, .grip = AFL_GRIP_HELD}) /* of ADOPT */
#define PENDING ((afl_outcome){.answer = AFL_PENDING, .grip = AFL_GRIP_PENDING})
#define BEATEN ((afl_outcome){.answer = AFL_WON, .grip = AFL_GRIP_PENDING})            /* of BEAT */
#define REFRESHED ((afl_outcome){.answer = AFL_WON, .grip = AFL_GRIP_HELD, .have = 7}) /* of BEAT */
#define NOT_REFRESHED ((afl_outcome){.answer = AFL_CONTENDED, .grip = AFL_GRIP_HELD})  /* of BEAT */
#define NOT_YET(left) ((afl_outcome){.answer = AFL_CONTENDED, .grip = (left)})         /* of RELEASE and WITHDRAW */
#define FAILED(left) \
    ((afl_outcome){  \
        .answer = AFL_ERROR, .grip = (left), .status = AFLOCK_ESYS, .sys_errno = 5, .step = "the test's step"})

/* 16 grants or 5 ms, 250 us, 10 ms, check after 5 ms; poll 50 ms; the clock shows 1 s. */
void driver_start(driver *d);
void driver_start_with(driver *d, const afl_machine_config *config);

/* A path of a protocol that hands holds on and has nothing to watch. */
afl_path *driver_path_new(driver *d, const char *name);

/* A request, AFL_IDLE, that waits for ever. Its memory can be submitted again once it is idle. */
afl_request *driver_request_new(driver *d, const char *name, int mode, void *owner);

/* Submits and checks the status. */
void driver_submit(driver *d, afl_path *p, afl_request *r, int status);

/* Answers what is in flight. */
void driver_done(driver *d, afl_path *p, afl_outcome outcome);

void driver_cancel(driver *d, afl_request *r, int status);
void driver_release(driver *d, afl_request *r, bool answer);

/* Lets time pass; everything due on the way is expired at its time. driver_next_timer does so until the next time that
 * the machine asks for, which must be `after` ns from now. */
void driver_pass(driver *d, uint64_t ns);
void driver_next_timer(driver *d, uint64_t after);
void driver_no_timer(const driver *d);

/* Collects what the machine wants and answers, until it wants nothing more; compares it with the text. The first form
 * collects only operations. */
void driver_want(driver *d, const char *expected);
void driver_see(driver *d, const char *expected);

/* The parts of driver_see, for tests that read the text themselves. */
void driver_collect_actions(driver *d);
void driver_collect_answers(driver *d);
void driver_clear(driver *d);

/* A file system on which everything succeeds: answers operations until there are none, delivers, forgets the text. */
void driver_serve(driver *d);

/* The machine's counters and lists agree with each other, and nobody holds who must not. */
void driver_check(const driver *d);

/* The same for tests that have their own world: a machine and its paths; an operation that starts. */
void driver_check_machine(const afl_machine *m, const afl_path *const *paths, size_t count);
void driver_check_action(const afl_action *a);
const char *driver_op_name(afl_op op);
const char *driver_status_name(int status);

/* Everybody is gone and nothing is left. */
void driver_finish(driver *d);

/* Usual beginning: p is held by r, delivered. */
void driver_hold(driver *d, afl_path *p, afl_request *r);

/* Runs tests (NULL at the end) as a suite, each after `setup`; what main returns. */
int driver_run(const char *suite, void (*setup)(void), const TTest *const *tests);
int driver_run_suite(Suite *suite);

#endif
