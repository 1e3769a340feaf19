/* Runs the command under the lock. */
#ifndef AFLOCK_COMMAND_RUN_H
#define AFLOCK_COMMAND_RUN_H

#include "options.h"
#include "signals.h"

/* Runs the command of `o` and returns the status to exit with. Does not return when a signal ended the command and had
 * been sent to aflock too, nor with --no-fork unless the command could not be executed. */
int run_command(const options *o, const signals *s);

#endif
