/* Makes calls fail, chosen by number or by name: what tests have in common that go through all of them. On top of
 * seam.h; one choice at a time, which replaces the judge of the seam. */
#ifndef AFL_TEST_FAILURES_H
#define AFL_TEST_FAILURES_H

#include "support/seam.h"

#include <stdbool.h>

enum { FAILURES_FOR_EVER = 1000000, FAILURES_ERRORS = 10 };
extern const int failures_errors[FAILURES_ERRORS]; /* what any call may answer */

/* Lets n calls through, then so many fail with `error`. Only those count for which that would be a failure and no lie:
 * NULL, or what else is one. */
void failures_from(int n, int times, int error, bool (*is_lie)(seam_call call, int error));
void failures_stop(void); /* the rest goes well */
bool failures_end(void);  /* the same, and nothing is judged any more. Did any fail? */
seam_call failures_met(void);

/* So many calls of this kind fail, on names in which there is this text, or that begin or end with it. */
void failures_on(seam_call call, const char *text, int error, int times);
void failures_on_start(seam_call call, const char *text, int error, int times);
void failures_on_end(seam_call call, const char *text, int error, int times);
void failures_none(void);
int failures_left(void);

#endif
