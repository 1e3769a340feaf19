/* What all protocols share: how an operation ends, and what a request's flags ask of a descriptor. */
#include "locks/protocol.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

uint32_t afl_needs(uint32_t flags)
{
    return (flags & AFLOCK_READ_ONLY ? 0u : AFL_NEED_WRITE) | (flags & AFLOCK_FOLLOW ? 0u : AFL_NEED_NOFOLLOW) |
           (flags & AFLOCK_INHERIT ? AFL_NEED_INHERIT : AFL_NEED_CLOEXEC) |
           (flags & AFLOCK_DIRECTORY ? 0u : AFL_NEED_FILE) |
           (flags & AFLOCK_READ_ONLY ? 0u
            : flags & AFLOCK_APPEND  ? AFL_NEED_APPEND
                                     : AFL_NEED_PLACE);
}

void afl_work_won(afl_work *w)
{
    w->outcome = (afl_outcome){.answer = AFL_WON, .grip = AFL_GRIP_HELD, .have = w->have};
}

void afl_work_contended(afl_work *w, afl_grip grip)
{
    afl_answer answer = grip == AFL_GRIP_PENDING ? AFL_PENDING : AFL_CONTENDED;
    w->outcome = (afl_outcome){.answer = answer, .grip = grip};
}

bool afl_work_claim(afl_work *w)
{
    int wanted = AFL_PARKED_WANTED;
    return atomic_compare_exchange_strong(&w->parked, &wanted, AFL_PARKED_WON);
}

void afl_work_fail(afl_work *w, afl_grip grip, const char *step, int error)
{
    w->outcome = (afl_outcome){
        .answer = AFL_ERROR, .grip = grip, .status = afl_status_of(error), .sys_errno = error, .step = step};
}

char *afl_describe(const char *path, const char *where, const char *name, const char *reason)
{
    static const char FORMAT[] = "%s%s%s%s: %s";
    name = name ? name : "";
    const char *slash = *name ? "/" : "";
    const int length = snprintf(NULL, 0, FORMAT, path, where, slash, name, reason);
    char *text = length < 0 ? NULL : malloc((size_t)length + 1);
    if (text)
        (void)snprintf(text, (size_t)length + 1, FORMAT, path, where, slash, name, reason);
    return text;
}

void afl_query_fail(afl_query *q, const char *step, int error)
{
    q->status = afl_status_of(error);
    q->sys_errno = error;
    q->step = step;
}

void afl_query_verify(afl_query *q)
{
    struct stat there;
    if (afl_stat(q->sys, q->path, &there, q->follow) != 0) {
        afl_query_fail(q, "stat", errno);
        if (q->sys_errno == ENOENT)
            q->status = AFLOCK_EREPLACED;
    } else if (there.st_dev != q->dev || there.st_ino != q->ino) {
        q->status = AFLOCK_EREPLACED;
        q->step = "stat";
    }
}
