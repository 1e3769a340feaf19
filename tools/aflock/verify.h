/* `aflock verify`. */
#ifndef AFLOCK_COMMAND_VERIFY_H
#define AFLOCK_COMMAND_VERIFY_H

#include "options.h"
#include "signals.h"

/* Returns the status to exit with, everything having been said. Does not return when a signal ends it. */
int verify(const options *o, const signals *s);

#endif
