/* The system calls of kit, pool and adapters (and the fork guard's), which do not go through the core's table: counted
 * over all kinds, and the n-th ones made to fail. For programs that are linked with --wrap of each of them (CMake:
 * `wrapped`). Only what the thread that says so calls: workers make none of these, a sanitizer does. */
#ifndef FAULTS_WRAPS_H
#define FAULTS_WRAPS_H

#include <stdbool.h>

#define WRAPPED_CALLS(X)         \
    X(epoll_create1)             \
    X(epoll_ctl)                 \
    X(epoll_wait)                \
    X(epoll_pwait2)              \
    X(eventfd)                   \
    X(timerfd_create)            \
    X(timerfd_settime)           \
    X(read)                      \
    X(dup)                       \
    X(mmap)                      \
    X(madvise)                   \
    X(pthread_create)            \
    X(pthread_attr_init)         \
    X(pthread_attr_setstacksize) \
    X(pthread_mutex_init)        \
    X(pthread_cond_init)         \
    X(pthread_condattr_init)     \
    X(pthread_condattr_setclock)

typedef enum wrapped_call {
#define WRAPPED_ENUM(name) WRAP_##name,
    WRAPPED_CALLS(WRAPPED_ENUM)
#undef WRAPPED_ENUM
        WRAP_CALLS
} wrapped_call;

const char *wraps_name(wrapped_call call);

/* The `which`-th errno that is plausible for the call; 0: there are no more. */
int wraps_errno(wrapped_call call, int which);

/* From now on calls are counted, and those from number `at` on (1: the next; 0: none) fail, `times` of them, each with
 * its own errno, beginning with the `which`-th. wraps_rest ends it and returns how many calls there were. */
void wraps_fail(unsigned at, unsigned times, int which);
unsigned wraps_rest(void);

wrapped_call wraps_made(unsigned number); /* of the last count: which call that was */
unsigned wraps_failed(void);              /* since wraps_fail: how many */
bool wraps_failed_with(int error);        /* and whether one was this */
bool wraps_failed_in(wrapped_call call);  /* or in this call */
long wraps_mapped(void);                  /* mappings that are there */

#endif
