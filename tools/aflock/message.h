/* What the command says: errors and notes on standard error, reports of --verbose on standard output. */
#ifndef AFLOCK_COMMAND_MESSAGE_H
#define AFLOCK_COMMAND_MESSAGE_H

#include <stddef.h>

/* "NAME: ...\n" on standard error, in one write. Keeps errno. */
__attribute__((format(printf, 1, 2))) void complain(const char *format, ...);

/* "NAME: ...\n" on standard output, at once: nothing stays in a buffer that a fork would copy or an exec drop. */
__attribute__((format(printf, 1, 2))) void report(const char *format, ...);

/* Text as it is, on standard output. */
void print(const char *text);

/* The status to exit with: `status`, or 1 with a message when something could not be written to standard output. */
int closing_status(int status);

/* Copies `text`, with a '?' for each byte that could move a terminal's cursor. Cuts what does not fit. */
void make_printable(char *out, size_t size, const char *text);

#endif
