/* The questions about a strict lock (strict_look.c), for its table (strict.c). [W or L] */
#ifndef AFL_STRICT_H
#define AFL_STRICT_H

#include "locks/protocol.h"

void afl_strict_verify(afl_query *q);       /* are both claims of the hold there? */
void afl_strict_inspect(afl_query *q);      /* whose claims are there? */
void afl_strict_remove_claim(afl_query *q); /* takes the claim q->claim away, whosever it is */

#endif
