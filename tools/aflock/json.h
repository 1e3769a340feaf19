/* Texts as JSON. */
#ifndef AFLOCK_COMMAND_JSON_H
#define AFLOCK_COMMAND_JSON_H

#include <stdio.h>

/* As a string of UTF-8 and escapes; a byte that is not of UTF-8 becomes U+FFFD. */
void json_string(FILE *out, const char *text);

#endif
