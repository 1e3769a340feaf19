/* A file system that stalls and fails when a test says so: libfuse, a pass-through of a directory, tests only.
 *
 * stallfs.c is the file system, a program of its own; stall.c mounts it for a test and tells it what to do; what the
 * two share is one block of memory, `stall`. Rules say what becomes of a request: by kind and path, so many times.
 *
 * Nothing is left behind, whatever happens to the test: the mount is in a mount namespace of its own, which ends with
 * the test, and the program dies with the thread that started it. With it the kernel ends the connection, and whoever
 * hangs in a request gets an error.
 */
#ifndef AFL_TEST_STALL_H
#define AFL_TEST_STALL_H

#include <limits.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* Requests as the kernel makes them: a path that is looked up makes one STALL_LOOKUP for each component below the
 * mount.
 */
typedef enum stall_call {
    STALL_LOOKUP, /* and stat */
    STALL_OPEN,
    STALL_CREATE,
    STALL_FLOCK,   /* but unlocking */
    STALL_SETLK,   /* F_OFD_SETLK, but unlocking */
    STALL_UNLOCK,  /* either */
    STALL_FLUSH,   /* close, while it waits */
    STALL_RELEASE, /* close, afterwards */
    STALL_MKDIR,
    STALL_UNLINK, /* and rename */
    STALL_OTHER,  /* link, chmod, truncate, read, write, statfs ... */
    STALL_CALLS
} stall_call;

#define STALL_BIT(call) (1u << (call))
#define STALL_LOCK (STALL_BIT(STALL_FLOCK) | STALL_BIT(STALL_SETLK))
#define STALL_ALL (STALL_BIT(STALL_CALLS) - 1)

enum { STALL_RULES = 8, STALL_TEXT = 128, STALL_ALWAYS = -1 };

typedef struct stall_rule {
    unsigned calls;            /* STALL_BITs */
    char fragment[STALL_TEXT]; /* of the path below the mount; "": all */
    int times;                 /* left; STALL_ALWAYS */
    uint64_t delay;            /* ns */
    bool hang;                 /* until stall_resume */
    int error;                 /* the answer, instead of doing it */
    unsigned after;            /* only once one of these requests was made for a path with the fragment */
    bool done;                 /* it is done nevertheless, and the delay, hanging or error comes after it */
    bool lies;                 /* it is not done, and the answer says that it was; for locks */
} stall_rule;

typedef struct stall {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    bool mounted;
    double cache; /* seconds that the kernel may keep a look-up; 0 */
    stall_rule rules[STALL_RULES];
    unsigned count[STALL_CALLS]; /* requests so far */
    unsigned hung;               /* that hang now */
    unsigned era;                /* of hanging: ends with stall_resume */
    pid_t watched;               /* a thread, */
    unsigned by_watched;         /* and the requests that it made */
    /* stall.c */
    pid_t server;
    char point[PATH_MAX];
} stall;

/* Into a mount namespace of this thread, and of the threads that it will start. False: not permitted. */
bool stall_enter_namespace(void);

/* Whether the file system can be mounted here. */
bool stall_is_possible(void);

/* Mounts it on the folder `point`, showing the folder `backing`; with requests of this thread watched. NULL: errno. */
stall *stall_mount(const char *point, const char *backing);

/* Ends it: what hangs gets an error. NULL: nothing. */
void stall_unmount(stall *fs);

/* Rules are looked at in the order of setting; the first that fits decides. */
void stall_set(stall *fs, stall_rule rule);
void stall_delay(stall *fs, uint64_t delay);                                 /* each request */
void stall_hang(stall *fs, unsigned calls, const char *fragment);            /* before it is done */
void stall_fail(stall *fs, unsigned calls, const char *fragment, int error); /* the next one */
void stall_lie(stall *fs, unsigned calls, const char *fragment);             /* from now on */
void stall_resume(stall *fs);                                                /* forgets all rules */

bool stall_await_hung(stall *fs, unsigned count); /* false: not within 30 s */
unsigned stall_hung(stall *fs);
unsigned stall_count(stall *fs, stall_call call);
unsigned stall_total(stall *fs);
unsigned stall_by_watched(stall *fs);

#endif
