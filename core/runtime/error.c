/* Names and messages of the error codes, from the one table in aflock.h. */
#include <aflock/aflock.h>

#define ERROR_MESSAGE(name, number, message) \
    case AFLOCK_##name:                      \
        return message;
#define ERROR_NAME(name, number, message) \
    case AFLOCK_##name:                   \
        return "AFLOCK_" #name;

const char *aflock_strerror(int status)
{
    switch (status) {
        AFLOCK_ERRORS(ERROR_MESSAGE)
    default:
        return status >= 0 ? "success" : "unknown error";
    }
}

const char *aflock_error_name(int status)
{
    switch (status) {
        AFLOCK_ERRORS(ERROR_NAME)
    default:
        return status >= 0 ? "OK" : "unknown";
    }
}

const char *aflock_compromise_name(aflock_compromise_reason reason)
{
    switch (reason) {
    case AFLOCK_MARKER_MISSING:
        return "marker-missing";
    case AFLOCK_OWNER_CHANGED:
        return "owner-changed";
    case AFLOCK_REFRESH_FAILED:
        return "refresh-failed";
    case AFLOCK_LEASE_EXPIRED:
        return "expired";
    default:
        return "unknown";
    }
}

const char *aflock_version(void)
{
    return AFLOCK_VERSION;
}
