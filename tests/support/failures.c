#include "support/failures.h"

#include <errno.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>

const int failures_errors[FAILURES_ERRORS] = {EIO,    ENOSPC, EACCES, ESTALE, ENOENT,
                                              EEXIST, EINTR,  EMFILE, EROFS,  ENOSYS};

/* What calls are to fail; changed only while nothing is judged, as a worker may be looking. */
static int chosen_error;
static atomic_int times_left;

/* --------------------------------------------------------------------------------------------------- by their number
 */

static int countdown;
static bool (*also_lies)(seam_call call, int error);
static seam_call met;
static bool failed;

static bool is_plausible(seam_call call, int error)
{
    if (call == SEAM_UNLINK && error == ENOENT)
        return false; /* to believe it is right */
    if (also_lies && also_lies(call, error))
        return false;
    if (call == SEAM_HOSTNAME || call == SEAM_RANDOM)
        return error == EIO;
    return call != SEAM_OPEN_CACHED && call != SEAM_IDENTIFY && call != SEAM_READLINK && call != SEAM_GETCWD &&
           call != SEAM_GETFD && call != SEAM_PROBE && call != SEAM_PIDFD;
}

static int fail_in_turn(seam_call call, int fd, const char *path)
{
    (void)fd, (void)path;
    if (!is_plausible(call, chosen_error) || countdown-- > 0 || times_left == 0)
        return 0;
    times_left--;
    failed = true;
    met = call;
    return chosen_error;
}

void failures_from(int n, int times, int error, bool (*is_lie)(seam_call call, int error))
{
    seam_judge_by(NULL, NULL);
    countdown = n;
    times_left = times;
    chosen_error = error;
    also_lies = is_lie;
    failed = false;
    seam_judge_by(fail_in_turn, NULL);
}

void failures_stop(void)
{
    times_left = 0;
}

bool failures_end(void)
{
    failures_none();
    return failed;
}

seam_call failures_met(void)
{
    return met;
}

/* --------------------------------------------------------------------------------------------------------- by a name
 */

typedef enum place { ANYWHERE, START, END } place;

static seam_call chosen_call;
static const char *chosen_text;
static place chosen_place;

static bool is_named(const char *path)
{
    const size_t length = strlen(path), wanted = strlen(chosen_text);
    if (chosen_place == START)
        return strncmp(path, chosen_text, wanted) == 0;
    if (chosen_place == END)
        return length >= wanted && strcmp(path + length - wanted, chosen_text) == 0;
    return strstr(path, chosen_text) != NULL;
}

static int fail_by_name(seam_call call, int fd, const char *path)
{
    (void)fd;
    if (call != chosen_call || times_left == 0 || !path || !is_named(path))
        return 0;
    times_left--;
    return chosen_error;
}

static void choose(seam_call call, const char *text, int error, int times, place where)
{
    seam_judge_by(NULL, NULL);
    chosen_call = call;
    chosen_text = text;
    chosen_error = error;
    times_left = times;
    chosen_place = where;
    seam_judge_by(fail_by_name, NULL);
}

void failures_on(seam_call call, const char *text, int error, int times)
{
    choose(call, text, error, times, ANYWHERE);
}

void failures_on_start(seam_call call, const char *text, int error, int times)
{
    choose(call, text, error, times, START);
}

void failures_on_end(seam_call call, const char *text, int error, int times)
{
    choose(call, text, error, times, END);
}

void failures_none(void)
{
    seam_judge_by(NULL, NULL);
    times_left = 0;
}

int failures_left(void)
{
    return times_left;
}
