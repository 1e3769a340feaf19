/* For tests of locks that are markers: others' markers, written by hand, the processes that they name, calls on the
 * marker that fail, and clocks that go when the test says so. On top of scene.h. */
#ifndef AFL_TEST_MARKS_H
#define AFL_TEST_MARKS_H

#include "support/scene.h"

#define A_MOMENT (30 * AFLOCK_MILLISECOND)

pid_t sleeper(void);  /* a process that lives until scene_holder_end */
pid_t dead_pid(void); /* of one that nobody has waited for any more */
const char *host_name(void);

/* What soft locks write for the process; and a marker that says so. */
void record_of(pid_t pid, char *text, size_t size);
void mark(const char *path, pid_t pid);
void mark_without_token(const char *path, pid_t pid, const char *host);

/* The same for a lease; `duration` as it stands there. */
void lease_of(pid_t pid, const char *token, const char *duration, char *text, size_t size);
void mark_lease(const char *path, pid_t pid, const char *duration);

void make_older(const char *path, int seconds); /* than now; negative: it is of the future */
void set_time(const char *path, uint64_t realtime);
void must_read(const char *path, const char *expected);

/* Calls of this kind on the marker "lock" fail, those on /proc and on folders do not. 0: none. */
void make_fail(seam_call call, int error);
void make_fail_once(seam_call call, int error);

/* Our side: acquires with a time-out; releases, without any trouble; finds that others' marker stays what it is. */
answer try_for(aflock *lock, uint64_t timeout);
void must_release(aflock *lock, aflock_req req);
void must_respect(aflock *lock);
/* Acquires, and returns when the marker is listened to, after the last attempt before a change. */
void wait_for(aflock *lock, answer *a);

/* What aflock_inspect says. */
typedef struct sight {
    int count;
    aflock_holder holder;
    char host[256], token[64];
} sight;
sight look(aflock *lock);
sight look_in_vain(aflock *lock, int status); /* that is what is answered */

/* The context's boot-time clock stands still at `boot`, and its clock of files at `real` (0: it goes). To be called
 * before the first lock is opened. Another process has its own. */
void stop_clocks(uint64_t boot, uint64_t real);
void pass_boottime(uint64_t ns);
void pass_realtime(uint64_t ns);

#endif
