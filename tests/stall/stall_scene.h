/* A scene (support/scene.h) with two mounts of stall.h in it: `m`, which shows the folder m.files, and `n`, which shows
 * n.files. */
#ifndef AFL_TEST_STALL_SCENE_H
#define AFL_TEST_STALL_SCENE_H

#include "stall.h"
#include "support/scene.h"

extern stall *m, *n;

/* What the tests speak. A protocol more is a line more. */
typedef struct stall_protocol {
    const char *name;
    aflock_protocol protocol;
    stall_call lock;  /* the request that takes the lock */
    const char *step; /* as the library calls it */
    unsigned calls;   /* of it, for one exclusive lock */
    int unknown;      /* the status where the file system says ENOLCK */
    bool marker;      /* the lock is that the file exists */
} stall_protocol;

/* First those on the kernel's locks, then those with markers. */
extern const stall_protocol STALL_PROTOCOLS[];
enum { STALL_PROTOCOL_COUNT = 7, STALL_KERNEL_PROTOCOL_COUNT = 3 };

void stall_scene_begin(void);
void stall_scene_end(void);

/* A context with these options in the place of the one that there is. */
void stall_scene_context(const aflock_ctx_options *options);

extern int stall_descriptors; /* open in this process without a context */

/* Frees the context early. */
int stall_scene_free(uint64_t grace);

aflock *stall_open_with(const stall_protocol *p, const char *path, aflock_io io, int keep_open);
aflock *stall_open(const stall_protocol *p, const char *path, aflock_io io);

/* Whether another process would get the lock now. Not to be asked about a path on a mount. */
bool stall_is_free(const stall_protocol *p, const char *path);

/* Takes it: the descriptor; and gives it back. */
int stall_foreign(const stall_protocol *p, const char *path);
void stall_foreign_end(const stall_protocol *p, const char *path, int fd);

/* Runs the loop, if there is one, until the condition holds; a watchdog fails the test. */
void stall_run_until(bool (*holds)(const void *user), const void *user);
void stall_run_until_answered(const answer *a);
void stall_run_until_free(const stall_protocol *p, const char *path);
void stall_run_until_closed(int more); /* no worker is there, and what is open is `stall_descriptors` and `more` */

/* No request came from this thread. What the seam saw on it is what the kernel answers from its cache alone, and that
 * only with AUTO. */
void check_loop_is_free(void);

/* A timer of the loop that goes on for ever: the loop is not blocked while this grows. */
extern unsigned stall_ticks;
void stall_tick(uint64_t interval);

/* A program's tests: `once`, and `each`, run `count` times. Lists end with NULL, or are NULL. A test that takes more
 * than `limit` seconds hangs. Returns the exit status of main. */
int stall_main(const char *name, double limit, const TTest *const once[], const TTest *const each[], int count);

#endif
