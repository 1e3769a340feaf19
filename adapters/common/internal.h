/* What the kit, the pool and the adapters share; not installed.
 *
 * Everything here is inline: kit and adapters are libraries of their own and see only each other's public symbols.
 */
#ifndef AFLOCK_COMMON_INTERNAL_H
#define AFLOCK_COMMON_INTERNAL_H

#include <aflock/host.h>

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

/* ------------------------------------------------------------------------------------------- options and errors */

/* Lays what the caller gave over the defaults in `options`. A caller compiled against an older header gives less. */
static inline int afl_options_read(void *options, size_t known, const void *given)
{
    size_t size;
    if (given == NULL)
        return 0;
    memcpy(&size, given, sizeof size);
    if (size < sizeof size || size > known)
        return AFLOCK_EINVAL;
    memcpy(options, given, size);
    return 0;
}

static inline int afl_status(int error)
{
    if (error == ENOMEM)
        return AFLOCK_ENOMEM;
    return error == EMFILE || error == ENFILE ? AFLOCK_EMFILE : AFLOCK_ESYS;
}

/* A new descriptor of ours (or -1) that is none of the standard streams: in a program that has closed those, what it
 * reads would be our wake-ups, and what it prints would wake us. */
static inline int afl_beyond_streams(int fd)
{
    if (fd < 0 || fd > STDERR_FILENO)
        return fd;
    int other = fcntl(fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
    int error = errno;
    close(fd);
    errno = error;
    return other;
}

/* Where an adapter says what it cannot return: the log hook of its context, which may be gone by then. */
struct afl_log_hook {
    void (*log)(aflock_log_level level, const char *message, void *user); /* NULL: nowhere */
    void *user;
};

static inline struct afl_log_hook afl_log_hook_of(const aflock_ctx_options *options)
{
    const size_t needed = offsetof(aflock_ctx_options, log_user) + sizeof options->log_user;
    if (options == NULL || options->size < needed)
        return (struct afl_log_hook){.log = NULL};
    return (struct afl_log_hook){.log = options->log, .user = options->log_user};
}

static inline void afl_log_error(const struct afl_log_hook *hook, const char *message)
{
    if (hook->log != NULL)
        hook->log(AFLOCK_LOG_ERROR, message, hook->user);
}

/* ---------------------------------------------------------------------------------------------------------- time */

static inline uint64_t afl_clock(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * AFLOCK_SECOND + (uint64_t)now.tv_nsec;
}

static inline uint64_t afl_monotonic(void)
{
    return afl_clock(CLOCK_MONOTONIC);
}

/* For how long the machine was suspended since it started, or a little more. */
static inline uint64_t afl_asleep(void)
{
    uint64_t awake = afl_monotonic();
    return afl_clock(CLOCK_BOOTTIME) - awake;
}

/* AFLOCK_FOREVER if the sum is too large. */
static inline uint64_t afl_later(uint64_t time, uint64_t delay)
{
    return delay < AFLOCK_FOREVER - time ? time + delay : AFLOCK_FOREVER;
}

static inline struct timespec afl_timespec(uint64_t ns)
{
    return (struct timespec){.tv_sec = (time_t)(ns / AFLOCK_SECOND), .tv_nsec = (long)(ns % AFLOCK_SECOND)};
}

/* ------------------------------------------------------------------------------------------------------ directions */

static inline uint32_t afl_epoll_wanted(unsigned events)
{
    return ((events & AFLOCK_READ) ? (uint32_t)EPOLLIN : 0) | ((events & AFLOCK_WRITE) ? (uint32_t)EPOLLOUT : 0);
}

#ifndef __GLIBC__ /* not every C library has it */
static inline int afl_epoll_pwait2(int fd, struct epoll_event *events, int most, const struct timespec *time,
                                   const sigset_t *mask)
{
    const int64_t kernel_time[] = {time->tv_sec, time->tv_nsec}; /* of 64 bit on every machine */
    return (int)syscall(SYS_epoll_pwait2, fd, events, most, kernel_time, mask, (size_t)8);
}
#define epoll_pwait2 afl_epoll_pwait2
#endif

/* An error or a hang-up is for whoever watches, in each direction: the next read or write says what happened. */
static inline unsigned afl_epoll_ready(uint32_t events)
{
    if (events & (EPOLLERR | EPOLLHUP))
        return AFLOCK_READ | AFLOCK_WRITE;
    return ((events & EPOLLIN) ? (unsigned)AFLOCK_READ : 0) | ((events & EPOLLOUT) ? (unsigned)AFLOCK_WRITE : 0);
}

/* As epoll_wait, in nanoseconds, never too short. */
static inline int afl_epoll_wait(int fd, struct epoll_event *events, int most, uint64_t timeout)
{
    if (timeout == 0 || timeout == AFLOCK_FOREVER)
        return epoll_wait(fd, events, most, timeout == 0 ? 0 : -1);
    struct timespec time = afl_timespec(timeout);
    int count = epoll_pwait2(fd, events, most, &time, NULL);
    if (count >= 0 || (errno != ENOSYS && errno != EPERM)) /* EPERM: what some sandboxes say */
        return count;
    uint64_t milliseconds = (timeout - 1) / AFLOCK_MILLISECOND + 1;
    return epoll_wait(fd, events, most, milliseconds < INT32_MAX ? (int)milliseconds : INT32_MAX);
}

/* ----------------------------------------------------------------------------------------------------- the alarm */

/* A timerfd that is set as seldom as possible. Deadlines are set far more often than they are met: almost every request
 * ends before its own. So a later deadline, or none, leaves the descriptor armed for the earlier one; when that comes,
 * the alarm is set anew for what is wanted then. Each setting costs at most one wake-up too many, whatever happens in
 * between, and a program that keeps asking with the same time-out sets the timer once per time-out.
 *
 * Deadlines are of the monotonic clock, which stands still while the machine is suspended. The descriptor's does not:
 * it wakes the loop as soon as the machine is awake, if a deadline has passed by the clock on the wall. What expires by
 * that one, as leases do, is heard of at once; who asks for what is due finds nothing. */
struct afl_alarm {
    int fd;
    uint64_t wanted; /* AFLOCK_FOREVER: nothing */
    uint64_t armed;  /* what the descriptor is set to; never later than `wanted` */
};

#define AFL_ALARM_NONE ((struct afl_alarm){.fd = -1, .wanted = AFLOCK_FOREVER, .armed = AFLOCK_FOREVER})

static inline int afl_alarm_open(struct afl_alarm *alarm)
{
    *alarm = AFL_ALARM_NONE;
    alarm->fd = afl_beyond_streams(timerfd_create(CLOCK_BOOTTIME, TFD_CLOEXEC | TFD_NONBLOCK));
    return alarm->fd >= 0 ? 0 : afl_status(errno);
}

static inline int afl_alarm_set(struct afl_alarm *alarm, uint64_t deadline)
{
    alarm->wanted = deadline;
    if (alarm->armed <= deadline)
        return 0;
    uint64_t asleep = afl_asleep();
    uint64_t at = deadline < UINT64_MAX - asleep ? deadline + asleep : deadline;
    /* A time of 0 would disarm; 1 ns is just as much in the past. */
    struct itimerspec when = {.it_value = afl_timespec(at != 0 ? at : 1)};
    if (timerfd_settime(alarm->fd, TFD_TIMER_ABSTIME, &when, NULL) != 0)
        return AFLOCK_ESYS;
    alarm->armed = deadline;
    return 0;
}

/* To be called when the descriptor is readable: 1 if the deadline has come, which is then forgotten, or the machine was
 * suspended and it has not. In any case the alarm is to be set again for what is wanted. */
static inline int afl_alarm_due(struct afl_alarm *alarm)
{
    enum { SLACK = AFLOCK_MILLISECOND }; /* two clocks are not read at one time */
    uint64_t expirations, armed = alarm->armed;
    if (read(alarm->fd, &expirations, sizeof expirations) != (ssize_t)sizeof expirations)
        return 0; /* set again since it was seen to be readable */
    alarm->armed = AFLOCK_FOREVER;
    uint64_t now = afl_monotonic();
    int suspended = now < armed && armed - now > SLACK;
    if (alarm->wanted > now && !suspended)
        return 0;
    alarm->wanted = AFLOCK_FOREVER;
    return 1;
}

#endif
