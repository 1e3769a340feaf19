/* Texts as JSON. */
#ifndef AFLOCK_COMMAND_JSON_H
#define AFLOCK_COMMAND_JSON_H

#include <stdio.h>

/* As a string of UTF-8 and escapes; a byte that is not of UTF-8 becomes U+FFFD. */
void json_string(FILE *out, const char *text);

/* Prints at once what `write` writes about `of`. GO_ON, or the status to exit with, the reason having been said. */
int json_print(void (*write)(FILE *out, const void *of), const void *of);

#endif
