/* Runs the command under the lock. */
#ifndef AFLOCK_COMMAND_RUN_H
#define AFLOCK_COMMAND_RUN_H

#include "options.h"
#include "signals.h"

/* Runs the command of `o` and returns the status to exit with. `*ended_by` is set to the signal to die by instead, when
 * one ended the command and had been sent to aflock too, or came before the command began; else to 0. With --no-fork
 * returns only if the command could not be executed. */
int run_command(const options *o, const signals *s, int *ended_by);

#endif
