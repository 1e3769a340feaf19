#include "duration.h"

#include <string.h>

static const struct {
    const char *name;
    uint64_t ms;
} UNITS[] = {{"", 1}, {"ms", 1}, {"s", 1000}, {"m", 60000}, {"h", 3600000}, {"d", 86400000}};

bool duration_parse(const void *text, size_t size, uint64_t *ms)
{
    const char *c = text, *end = c + size;
    uint64_t number = 0;
    if (size == 0 || *c < '0' || *c > '9')
        return false;
    for (; c < end && *c >= '0' && *c <= '9'; c++) {
        number = 10 * number + (uint64_t)(*c - '0');
        if (number > DURATION_MOST)
            return false;
    }
    const size_t left = (size_t)(end - c);
    for (size_t i = 0; i < sizeof UNITS / sizeof *UNITS; i++) {
        if (left == strlen(UNITS[i].name) && memcmp(c, UNITS[i].name, left) == 0) {
            *ms = number * UNITS[i].ms;
            return number <= DURATION_MOST / UNITS[i].ms;
        }
    }
    return false;
}
