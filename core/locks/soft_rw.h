/* The questions about soft readers and writers (soft_rw_look.c), for their table (soft_rw.c). [W or L] */
#ifndef AFL_SOFT_RW_H
#define AFL_SOFT_RW_H

#include "locks/protocol.h"

void afl_soft_rw_verify(afl_query *q);  /* is there a marker with the token q->token? */
void afl_soft_rw_inspect(afl_query *q); /* whose markers are there? */

#endif
