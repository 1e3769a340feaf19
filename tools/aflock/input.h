/* Standard input, read as it comes. */
#ifndef AFLOCK_COMMAND_INPUT_H
#define AFLOCK_COMMAND_INPUT_H

#include "signals.h"

#include <stddef.h>

typedef struct input {
    const signals *signals;
    char *data;
    size_t length, room;
    size_t limit; /* bytes that are kept at most */
    int ended;
} input;

/* What input_read answers, beside an errno. */
enum { INPUT_OK = 0, INPUT_SIGNAL = -1, INPUT_FULL = -2 };

void input_begin(input *in, const signals *s, size_t limit);
void input_end(input *in);

/* Waits for more, and takes what is there, about `wanted` bytes at most: INPUT_OK (or the end is reached: in->ended),
 * INPUT_FULL: what is kept has reached the limit already; INPUT_SIGNAL: `*number` has come instead; or an errno. */
int input_read(input *in, size_t wanted, int *number);

/* Forgets the first bytes. */
void input_drop(input *in, size_t length);

/* Says that reading has failed. Returns the status to exit with. */
int input_failed(int error);

#endif
