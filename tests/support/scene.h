/* What tests on the real file system have in common: a directory of their own as working directory, a context on the
 * epoll adapter with the seam in it, answers that are written down, other processes that hold locks, and a look at what
 * is left behind. One scene per test process. */
#ifndef AFL_TEST_SCENE_H
#define AFL_TEST_SCENE_H

#include "support/seam.h"

#include <aflock/aflock.h>
#include <aflock/epoll.h>
#include <check.h>
#include <limits.h>
#include <stdbool.h>
#include <sys/types.h>
#include <time.h>

extern aflock_ctx *scene;
extern char scene_directory[PATH_MAX];
extern int scene_contended;     /* attempts that found the lock taken */
extern int scene_inline;        /* operations that began on the loop's thread */
extern int scene_pooled;        /* operations that were sent to the executor */
extern int scene_logged;        /* messages in the log, */
extern char scene_message[512]; /* ... and the last of them */

/* An answer, or none yet. */
typedef struct answer {
    int count;
    aflock_result result;
    char step[32]; /* "" for NULL */
    char path[PATH_MAX];
    char detail[PATH_MAX]; /* "" for NULL */
    char token[40];        /* "" for NULL */
} answer;

/* Fixtures (checked). scene_end demands that no descriptor and no answer is left. */
void scene_begin(void);
void scene_end(void);

/* A folder around all scenes of the case, so that nothing stays even if tests crash. */
void scene_folder(TCase *tcase);

/* The context alone; begin and end call them. scene_free_context also waits for the workers of one that the test has
 * ended itself (scene is NULL then), so that nobody writes into the folder any more. */
void scene_make_context(void);
void scene_free_context(void);

aflock *scene_open(const char *path, aflock_io io);
aflock_acquire_options scene_options(uint32_t more_flags, uint32_t fewer_flags);

/* The callback of everything below: user is an answer. */
void scene_answer(aflock *lock, const aflock_result *result, void *user);

/* From now on runs of hand-offs do not end, and files that are handed on are not compared with their paths. */
void scene_hand_on_for_ever(void);

/* Says that so many answers more have to come through scene_answer. */
void scene_expect(int answers);

/* Runs the loop until *counter is at least `value`; a watchdog fails the test. */
void scene_run_until(const int *counter, int value);

/* Waits until a condition holds, which somebody else sees to: sleeping, or running the loop. A watchdog fails the test.
 */
#define scene_await(condition)                         \
    for (time_t limit_ = scene_limit(); !(condition);) \
    scene_nap(limit_, #condition)
#define scene_turn_until(condition)                    \
    for (time_t limit_ = scene_limit(); !(condition);) \
    scene_turn(limit_, #condition)
time_t scene_limit(void);
void scene_nap(time_t limit, const char *what);
void scene_turn(time_t limit, const char *what);

/* Acquires and waits for the answer. NULL: defaults. */
answer scene_acquire(aflock *lock, const aflock_acquire_options *options);
/* The same for a lock that must be got. */
aflock_req scene_hold(aflock *lock, const aflock_acquire_options *options);
/* Releases and waits for the answer. */
answer scene_release(aflock *lock, aflock_req req);
/* Acquires, looks whether others are locked out, releases: the object works. */
void scene_must_work(aflock *lock);

/* Whether somebody with a descriptor of his own would get the flock now; `operation`: LOCK_SH or LOCK_EX. */
bool scene_is_free(const char *path, int operation);

/* Runs the loop until somebody is blocked in the kernel for a flock on the path; a watchdog fails the test. */
void scene_await_blocked(const char *path);

/* Another process that opens the path (`flags` for open), flocks it, and holds it until it is told to end. */
pid_t scene_holder(const char *path, int flags, int operation);
void scene_holder_end(pid_t pid); /* kills it with SIGKILL */

/* Runs `body` in a child process and demands that all its assertions hold. */
void scene_in_child(void (*body)(void));

int scene_descriptors(void);                /* open in this process */
void scene_await_descriptors(int expected); /* the kit closes one of its own on a thread */
int scene_entries(const char *folder);      /* names in it */
void scene_write(const char *path, const char *text);
long scene_size(const char *path);               /* -1: it is not there */
unsigned scene_mode(const char *path);           /* permission bits */
void scene_long_path(char *path, size_t length); /* "x/x/x...", `length` characters */

enum { SCENE_IO_COUNT = AFLOCK_IO_POOL + 1 };
static inline aflock_io scene_io(int i)
{
    return (aflock_io)i;
}

/* A program's tests: `once`, and `each`, run with every scene_io(_i). Lists end with NULL, or are NULL. Returns the
 * exit status of main. */
int scene_main(const char *name, const TTest *const once[], const TTest *const each[]);

/* The same for tests that take long: so many seconds each, at most. */
int scene_main_within(int seconds, const char *name, const TTest *const once[], const TTest *const each[]);
/* The same with a fixture of the program's own, which calls scene_begin and scene_end. */
int scene_main_with(void (*begin)(void), void (*end)(void), int seconds, const char *name, const TTest *const once[],
                    const TTest *const each[]);

#endif
