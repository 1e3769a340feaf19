/* What tests of AFLOCK_SOFT_RW have in common, on top of marks.h: the lock "lock" in the scene's folder, and others'
 * markers, written by hand from the format and not by the library. */
#ifndef AFL_TEST_SOFT_RW_SCENE_H
#define AFL_TEST_SOFT_RW_SCENE_H

#include "support/lease_scene.h"
#include "support/marks.h"

#define STATE "lock.state"
#define WRITER "lock.write"
#define READERS "lock.readers"
#define TOKEN "0123456789abcdef0123456789abcdef"
#define ELSEWHERE "another-host"

/* Nothing is polled for: who is not woken waits until the watchdog barks. */
aflock_options soft_rw_options(int io);
aflock *soft_rw_open(int io);

/* Our side. */
answer soft_rw_try(aflock *lock, aflock_mode mode, uint64_t timeout);
aflock_req soft_rw_hold(aflock *lock, aflock_mode mode);
aflock_req soft_rw_hold_for(aflock *lock, aflock_mode mode, void *owner, told *t);
void soft_rw_must_get(aflock *lock, aflock_mode mode);              /* and nothing is left but the folder */
aflock_req soft_rw_wait(aflock *lock, aflock_mode mode, answer *a); /* found taken, and listens */
void soft_rw_must_be_woken(aflock *lock, const answer *a);
void soft_rw_rest(void); /* until nothing is under way any more */

/* The marker of a reader of ours; "" if there is none. Until the next call. */
const char *own_reader(void);
void must_be_ours_soft_rw(const char *path, const char *token);

/* The others. A reader's name is any. */
void write_marker(const char *path, const char *token, pid_t pid, const char *host);
void write_writer(pid_t pid, const char *host);
const char *write_reader(const char *name, pid_t pid, const char *host); /* the path, until the next call */
bool is_there(const char *path);
int count_readers(void);

#endif
