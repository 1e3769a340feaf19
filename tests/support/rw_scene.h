/* What tests of AFLOCK_RW have in common, on top of scene.h: the lock "db" in the scene's folder. */
#ifndef AFL_TEST_RW_SCENE_H
#define AFL_TEST_RW_SCENE_H

#include "support/scene.h"

/* SQLite's lock bytes. */
enum { PENDING_BYTE = 0x40000000, SHARED_FIRST = PENDING_BYTE + 2, SHARED_BYTES = 510 };

/* Would somebody with a descriptor of his own get these bytes (F_RDLCK, F_WRLCK)? */
bool bytes_are_free(const char *path, short type, off_t start, off_t length);
bool all_is_free(const char *path);

/* Nothing is polled for: who is not woken waits until the watchdog barks. */
aflock_options rw_options(int io);
aflock *rw_open(int io);
aflock *rw_open_with(const aflock_options *o);

aflock_acquire_options rw_request(aflock_mode mode);
aflock_req rw_hold(aflock *lock, aflock_mode mode);
answer rw_try(aflock *lock, aflock_mode mode); /* one attempt */
void rw_let_go(aflock *lock, aflock_req req);

/* Asks, and runs until so many attempts in all have found it taken. */
aflock_req rw_wait(aflock *lock, aflock_mode mode, answer *a, int contended);

/* Runs until nothing of the library's is under way any more: what was answered may have to be given back yet. */
void rw_come_to_rest(void);

/* Another context, in which a run of hand-offs has no end. */
void rw_hand_on_for_ever(void);

/* What aflock_inspect says. */
aflock_holder rw_look(aflock *lock);
bool rw_comes_to_be_seen_by(aflock *lock, uint32_t count);

#endif
