/* The forms of the command line that begin with a word: `aflock WORD ...`. */
#ifndef AFLOCK_COMMAND_ACTIONS_H
#define AFLOCK_COMMAND_ACTIONS_H

#include "options.h"

/* Is it such a word? As a first operand that is not behind "--" it is no file. */
int is_action_word(const char *word);

/* Reads words[0], which is one, and what comes behind it; the last of `words` is NULL. As options_parse. */
int actions_parse(options *o, int count, char **words);

#endif
