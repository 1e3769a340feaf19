/* Durations as HAProxy writes them: a number and a unit, "30s"; without a unit milliseconds. Pure. */
#ifndef AFLOCK_SPOA_DURATION_H
#define AFLOCK_SPOA_DURATION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DURATION_MOST UINT64_C(31536000000) /* ms: a year */

/* In milliseconds. False: it is none, or longer than DURATION_MOST. */
bool duration_parse(const void *text, size_t size, uint64_t *ms);

#endif
