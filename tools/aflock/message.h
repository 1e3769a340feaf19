/* What the command says: errors and notes on standard error, reports of --verbose on standard output. Paths, words and
 * names may contain anything; what could make a terminal do something is shown as an escape (make_printable). */
#ifndef AFLOCK_COMMAND_MESSAGE_H
#define AFLOCK_COMMAND_MESSAGE_H

#include <stddef.h>

/* "NAME: ...\n" on standard error, in one write. Keeps errno. */
__attribute__((format(printf, 1, 2))) void complain(const char *format, ...);

/* "NAME: ...\n" on standard output, at once: nothing stays in a buffer that a fork would copy or an exec drop. */
__attribute__((format(printf, 1, 2))) void report(const char *format, ...);

/* "...\n" on standard output: what was asked for. */
__attribute__((format(printf, 1, 2))) void print_line(const char *format, ...);

/* Text as it is, on standard output. */
void print(const char *text);

/* The status to exit with: `status`, or `failure` with a message when something could not be written to standard
 * output.
 */
int closing_status(int status, int failure);

/* The length of the character of UTF-8 that `text`, which is not empty, starts with; 0: it is none. */
size_t utf8_length(const char *text);

/* Does the character control a terminal? */
int is_control(const char *character);

/* Copies `text` with an escape (\n, \t, \r or \ooo) for each control character and each byte that is not of UTF-8. A
 * text that is printable already stays as it is. Cuts what does not fit, never within a character or an escape. */
void make_printable(char *out, size_t size, const char *text);

#endif
