/* See wraps.h. The errnos are those of the manual pages that can happen to a call with sane arguments. */
#include "faults/wraps.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/timerfd.h>
#include <unistd.h>

enum { MADE = 4096, FAILED = 64 };

static const int PLAUSIBLE[WRAP_CALLS][5] = {
    [WRAP_epoll_create1] = {EMFILE, ENFILE, ENOMEM},
    [WRAP_epoll_ctl] = {ENOMEM, ENOSPC},
    [WRAP_epoll_wait] = {EINTR},
    [WRAP_epoll_pwait2] = {EINTR, ENOSYS, EPERM},
    [WRAP_eventfd] = {EMFILE, ENFILE, ENODEV, ENOMEM},
    [WRAP_timerfd_create] = {EMFILE, ENFILE, ENODEV, ENOMEM},
    [WRAP_timerfd_settime] = {EINVAL},
    [WRAP_read] = {EAGAIN, EINTR},
    [WRAP_dup] = {EMFILE},
    [WRAP_mmap] = {ENOMEM, EPERM},
    [WRAP_madvise] = {EINVAL},
    [WRAP_pthread_create] = {EAGAIN, EPERM},
    [WRAP_pthread_attr_init] = {ENOMEM},
    [WRAP_pthread_attr_setstacksize] = {EINVAL},
    [WRAP_pthread_mutex_init] = {EAGAIN, ENOMEM},
    [WRAP_pthread_cond_init] = {EAGAIN, ENOMEM},
    [WRAP_pthread_condattr_init] = {ENOMEM},
    [WRAP_pthread_condattr_setclock] = {EINVAL},
};

static _Thread_local bool counting;
static unsigned count, first, last, failures;
static int beginning;
static wrapped_call made[MADE];
static struct {
    wrapped_call call;
    int error;
} failed[FAILED];
static atomic_long mapped;

const char *wraps_name(wrapped_call call)
{
    static const char *const NAMES[] = {
#define WRAPPED_NAME(name) #name,
        WRAPPED_CALLS(WRAPPED_NAME)
#undef WRAPPED_NAME
    };
    return NAMES[call];
}

int wraps_errno(wrapped_call call, int which)
{
    return PLAUSIBLE[call][which];
}

void wraps_fail(unsigned at, unsigned times, int which)
{
    counting = true;
    count = failures = 0;
    first = at;
    last = at == 0 ? 0 : times > UINT32_MAX - at ? UINT32_MAX : at + times - 1;
    beginning = which;
}

unsigned wraps_rest(void)
{
    counting = false;
    return count < MADE ? count : MADE - 1;
}

wrapped_call wraps_made(unsigned number)
{
    return made[number];
}

unsigned wraps_failed(void)
{
    return failures;
}

bool wraps_failed_with(int error)
{
    bool found = false;
    for (unsigned i = 0; i < failures && i < FAILED; i++)
        found |= failed[i].error == error;
    return found;
}

bool wraps_failed_in(wrapped_call call)
{
    bool found = false;
    for (unsigned i = 0; i < failures && i < FAILED; i++)
        found |= failed[i].call == call;
    return found;
}

long wraps_mapped(void)
{
    return atomic_load(&mapped);
}

static int choose_error(wrapped_call call)
{
    int which = count == first ? beginning : 0;
    int error = PLAUSIBLE[call][which] ? PLAUSIBLE[call][which] : PLAUSIBLE[call][0];
    if (failures < FAILED) {
        failed[failures].call = call;
        failed[failures].error = error;
    }
    failures++;
    return error;
}

/* 0: the call is to be made; else the errno with which it fails. */
static int meet(wrapped_call call)
{
    if (!counting)
        return 0;
    count++;
    if (count < MADE)
        made[count] = call;
    return first != 0 && count >= first && count <= last ? choose_error(call) : 0;
}

/* A call that tells by errno. */
static bool may(wrapped_call call)
{
    int error = meet(call);
    if (error)
        errno = error;
    return error == 0;
}

/* ------------------------------------------------------------------------------------------------------- the wraps */

#define WRAP(type, name, ...)        \
    type __real_##name(__VA_ARGS__); \
    type __wrap_##name(__VA_ARGS__); \
    type __wrap_##name(__VA_ARGS__)

WRAP(int, epoll_create1, int flags)
{
    return may(WRAP_epoll_create1) ? __real_epoll_create1(flags) : -1;
}

/* Taking something out of the set needs nothing. */
WRAP(int, epoll_ctl, int set, int operation, int fd, struct epoll_event *event)
{
    return operation == EPOLL_CTL_DEL || may(WRAP_epoll_ctl) ? __real_epoll_ctl(set, operation, fd, event) : -1;
}

WRAP(int, epoll_wait, int set, struct epoll_event *events, int most, int timeout)
{
    return may(WRAP_epoll_wait) ? __real_epoll_wait(set, events, most, timeout) : -1;
}

WRAP(int, epoll_pwait2, int set, struct epoll_event *events, int most, const struct timespec *timeout,
     const sigset_t *mask)
{
    return may(WRAP_epoll_pwait2) ? __real_epoll_pwait2(set, events, most, timeout, mask) : -1;
}

WRAP(int, eventfd, unsigned value, int flags)
{
    return may(WRAP_eventfd) ? __real_eventfd(value, flags) : -1;
}

WRAP(int, timerfd_create, int clock, int flags)
{
    return may(WRAP_timerfd_create) ? __real_timerfd_create(clock, flags) : -1;
}

WRAP(int, timerfd_settime, int fd, int flags, const struct itimerspec *when, struct itimerspec *before)
{
    return may(WRAP_timerfd_settime) ? __real_timerfd_settime(fd, flags, when, before) : -1;
}

/* Timers and wake-ups; files are the core's. */
WRAP(ssize_t, read, int fd, void *buffer, size_t size)
{
    return size != sizeof(uint64_t) || may(WRAP_read) ? __real_read(fd, buffer, size) : -1;
}

int __real_fcntl64(int fd, int command, ...);
int __wrap_fcntl64(int fd, int command, ...);
int __wrap_fcntl64(int fd, int command, ...)
{
    va_list list;
    va_start(list, command);
    void *argument = va_arg(list, void *);
    va_end(list);
    return command != F_DUPFD_CLOEXEC || may(WRAP_dup) ? __real_fcntl64(fd, command, argument) : -1;
}

void *__real_mmap64(void *address, size_t size, int protection, int flags, int fd, off_t offset);
void *__wrap_mmap64(void *address, size_t size, int protection, int flags, int fd, off_t offset);
void *__wrap_mmap64(void *address, size_t size, int protection, int flags, int fd, off_t offset)
{
    void *memory = may(WRAP_mmap) ? __real_mmap64(address, size, protection, flags, fd, offset) : MAP_FAILED;
    if (memory != MAP_FAILED)
        atomic_fetch_add(&mapped, 1);
    return memory;
}

WRAP(int, munmap, void *address, size_t size)
{
    atomic_fetch_sub(&mapped, 1);
    return __real_munmap(address, size);
}

WRAP(int, madvise, void *address, size_t size, int advice)
{
    return may(WRAP_madvise) ? __real_madvise(address, size, advice) : -1;
}

/* What follows tells by its value. */
WRAP(int, pthread_create, pthread_t *thread, const pthread_attr_t *attributes, void *(*start)(void *), void *argument)
{
    int error = meet(WRAP_pthread_create);
    return error ? error : __real_pthread_create(thread, attributes, start, argument);
}

WRAP(int, pthread_attr_init, pthread_attr_t *attributes)
{
    int error = meet(WRAP_pthread_attr_init);
    return error ? error : __real_pthread_attr_init(attributes);
}

WRAP(int, pthread_attr_setstacksize, pthread_attr_t *attributes, size_t size)
{
    int error = meet(WRAP_pthread_attr_setstacksize);
    return error ? error : __real_pthread_attr_setstacksize(attributes, size);
}

WRAP(int, pthread_mutex_init, pthread_mutex_t *which, const pthread_mutexattr_t *attributes)
{
    int error = meet(WRAP_pthread_mutex_init);
    return error ? error : __real_pthread_mutex_init(which, attributes);
}

WRAP(int, pthread_cond_init, pthread_cond_t *condition, const pthread_condattr_t *attributes)
{
    int error = meet(WRAP_pthread_cond_init);
    return error ? error : __real_pthread_cond_init(condition, attributes);
}

WRAP(int, pthread_condattr_init, pthread_condattr_t *attributes)
{
    int error = meet(WRAP_pthread_condattr_init);
    return error ? error : __real_pthread_condattr_init(attributes);
}

WRAP(int, pthread_condattr_setclock, pthread_condattr_t *attributes, clockid_t clock)
{
    int error = meet(WRAP_pthread_condattr_setclock);
    return error ? error : __real_pthread_condattr_setclock(attributes, clock);
}
