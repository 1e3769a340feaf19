/* Folders for tests, below $TMPDIR or /tmp. Whoever makes one removes it: outside of the process that may crash. */
#ifndef AFL_TEST_FOLDER_H
#define AFL_TEST_FOLDER_H

#include <limits.h>
#include <stdbool.h>

/* A new folder in `parent` (NULL: $TMPDIR, or /tmp). False: errno says why. */
bool folder_make(char path[PATH_MAX], const char *parent);

/* Removes the folder and what is in it; "" is none. False: something is left. */
bool folder_remove(const char *path);

#endif
