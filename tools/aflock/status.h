/* `aflock status` and `aflock break`. */
#ifndef AFLOCK_COMMAND_STATUS_H
#define AFLOCK_COMMAND_STATUS_H

#include "options.h"

/* Both return the status to exit with, everything having been said. */
int status_show(const options *o);
int status_break(const options *o);

#endif
