/* What the storm's programs have in common: a clock, random numbers from a seed, an empty directory, failing loudly,
 * and options. Plain C without libcheck, because most of it runs in processes that are killed. */
#ifndef STORM_COMMON_H
#define STORM_COMMON_H

#include <aflock/aflock.h>
#include <stdbool.h>
#include <stdint.h>

enum { WATCHDOG = 30 }; /* seconds without what must come */

/* ------------------------------------------------------------------------------------------------------- the basics */

uint64_t now_ns(void);
void sleep_ns(uint64_t ns);

/* One stream of random numbers. */
typedef struct dice {
    uint64_t state;
} dice;

dice dice_of(uint64_t seed, uint64_t a, uint64_t b); /* another stream for each triple */
uint32_t dice_below(dice *d, uint32_t bound);        /* 0 .. bound - 1 */
uint64_t dice_up_to(dice *d, uint64_t most);         /* 0 .. most, for durations */
bool dice_percent(dice *d, unsigned percent);        /* true in so many of a hundred cases */

/* ------------------------------------------------------------------------------------------------------ the program */

typedef struct settings {
    const char *protocol;
    unsigned seconds;
    unsigned processes;
    unsigned holds; /* of each process; 0: the program has no such number */
    uint64_t seed;
} settings;

/* Reads --protocol, --seconds, --processes, --holds, --seed and --help into `s`, which has the defaults. Exits when
 * there is nothing to do. */
void settings_read(settings *s, int argc, char **argv, const char *help);

/* Runs before a failure ends this process: kills those that it started. */
extern void (*on_failure)(void);

/* Says who failed and why (`start` with the seed, then this), and ends the process with 1. Any thread. */
void fail(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));
void set_name(const char *format, ...) __attribute__((format(printf, 1, 2))); /* for messages */

#define require(condition)                                               \
    do {                                                                 \
        if (!(condition))                                                \
            fail("%s:%d: not: %s", __FILE_NAME__, __LINE__, #condition); \
    } while (0)

#define require_status(call, expected)                                                         \
    do {                                                                                       \
        int status_ = (call);                                                                  \
        if (status_ != (expected))                                                             \
            fail("%s:%d: %s: %s", __FILE_NAME__, __LINE__, #call, aflock_error_name(status_)); \
    } while (0)

/* An empty directory, which becomes the working directory; and its end, which demands that it has only these `names`
 * (NULL ends them; one that ends with a dot stands for all that begin so). */
void directory_begin(void);
void directory_end(const char *const names[]);
void directory_empty(const char *const names[]); /* the same demand on the working directory, which stays */
void directory_drop(void);                       /* the end of a failure: whatever is in it */

int open_descriptors(void); /* of this process */

#define LOCK_FILE "lock"

/* How strangers speak a protocol. Functions return whether it worked; `wait`: as long as it takes. */
typedef struct protocol {
    const char *name;
    aflock_protocol number;
    bool marker;   /* the lock is that LOCK_FILE exists: no descriptor, nothing shared */
    bool database; /* nothing of the file may be changed, and it is nobody's own descriptor */
    bool (*take)(int fd, bool shared, bool wait);
    bool (*drop)(int fd);
} protocol;

extern const protocol protocols[];                /* a NULL name ends them */
const protocol *protocol_named(const char *name); /* NULL: there is none */

/* Whether another open file description would get the whole lock now. */
bool is_free(const protocol *p, const char *path);

const char *thousands(uint64_t value); /* "1,234,567"; of the last eight calls */

#endif
