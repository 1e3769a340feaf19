/* What tests of soft locks have in common, on top of marks.h: locks in the protocol that poll for nothing, and what
 * must be true of the marker "lock" in the scene's folder.
 */
#ifndef AFL_TEST_SOFT_SCENE_H
#define AFL_TEST_SOFT_SCENE_H

#include "support/marks.h"

aflock_options soft_options(int io);
aflock *open_soft_with(const aflock_options *o);
aflock *open_soft(int io);

aflock_req must_hold_soft(aflock *lock);
void must_get_soft(aflock *lock); /* and nothing else is left in the folder */
void must_be_ours_soft(const char *path);
void must_be_woken(aflock *lock, const answer *a); /* what has to come of a change, see wait_for */

/* A hook for seam_before: the marker becomes that of the newcomer, once. */
extern pid_t newcomer;
void replace_it(void);

#endif
