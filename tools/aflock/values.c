/* The values of values.h. */
#include "values.h"

#include "message.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

int usage_error(void)
{
    complain("try '%s --help' for more", program_invocation_short_name);
    return EX_USAGE;
}

int parse_int(const char *text, int *out)
{
    char *end;
    long value;

    errno = 0;
    value = strtol(text, &end, 10);
    if (end == text || *end)
        return EINVAL;
    if (errno || value < INT_MIN || value > INT_MAX)
        return ERANGE;
    *out = (int)value;
    return 0;
}

int parse_seconds(const char *text, uint64_t *out)
{
    char *end;
    long double seconds = strtold(text, &end);
    long double ns = seconds * 1e9L;

    if (end == text || *end)
        return EINVAL;
    if (!(seconds >= 0 && (double)seconds < 0x1p63)) /* flock(1) reads a double */
        return ERANGE;
    if (ns >= (long double)UINT64_MAX) {
        *out = AFLOCK_FOREVER;
        return 0;
    }
    *out = seconds < 1e-6L ? 0 : (uint64_t)ns;
    if (*out && (long double)*out < ns)
        ++*out;
    return 0;
}

int parse_conflict_status(options *o, const char *text)
{
    int error = parse_int(text, &o->conflict_status);

    if (error)
        complain("invalid exit code: '%s'%s%s", text, error == ERANGE ? ": " : "",
                 error == ERANGE ? strerror(error) : "");
    else if (o->conflict_status < 0 || o->conflict_status > 255)
        complain("exit code out of range (0 to 255): '%s'", text);
    else
        return GO_ON;
    return EX_USAGE;
}

int parse_timeout(waiting *w, const char *text)
{
    int error = parse_seconds(text, &w->timeout);

    w->not_a_time = error == ERANGE ? text : NULL;
    if (error != EINVAL)
        return GO_ON;
    complain("invalid timeout value: '%s'", text);
    return EX_USAGE;
}

int check_timeout(options *o, const waiting *w)
{
    if (w->not_a_time) {
        complain("cannot wait for '%s' seconds: %s", w->not_a_time, strerror(EINVAL));
        return EX_OSERR;
    }
    o->timeout = w->nonblock ? 0 : w->timeout;
    return GO_ON;
}
