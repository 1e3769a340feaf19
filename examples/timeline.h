/* A time line of who waited for a lock and who held it, as an SVG picture: plain text, no library. */
#ifndef TIMELINE_H
#define TIMELINE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* One hold and the wait before it; times on one clock in ns. */
struct timeline_span {
    uint64_t asked;
    uint64_t granted;
    uint64_t released;
    int value; /* what was written: shown above the hold if there is room */
};

struct timeline {
    const char *title;    /* text without <, > and & */
    const char *subtitle; /* the same */
    bool locked;          /* false: nobody waited or held anything; what overlaps is shown as such */
    int rows;
    int spans_per_row;
    const pid_t *pids;                 /* rows */
    const struct timeline_span *spans; /* rows * spans_per_row, row by row */
};

/* Writes the picture to `path`, over what is there. 0, or -1 and errno. */
int timeline_write(const char *path, const struct timeline *timeline);

#endif
