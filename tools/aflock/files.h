/* `aflock append`, `aflock replace` and `aflock update`. */
#ifndef AFLOCK_COMMAND_FILES_H
#define AFLOCK_COMMAND_FILES_H

#include "options.h"
#include "signals.h"

/* Each returns the status to exit with, everything having been said. They do not return when a signal ends them. */
int files_append(const options *o, const signals *s);
int files_replace(const options *o, const signals *s);
int files_update(const options *o, const signals *s);

#endif
