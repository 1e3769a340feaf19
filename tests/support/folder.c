/* The folders of folder.h. */
#include "support/folder.h"

#include <errno.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>

bool folder_make(char path[PATH_MAX], const char *parent)
{
    if (!parent)
        parent = getenv("TMPDIR");
    int length = snprintf(path, PATH_MAX, "%s/aflock-test.XXXXXX", parent ? parent : "/tmp");
    if (length < PATH_MAX && mkdtemp(path))
        return true;
    path[0] = '\0';
    return false;
}

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *where)
{
    (void)st, (void)kind, (void)where;
    return remove(path) == 0 || errno == ENOENT ? 0 : -1; /* a worker of a context that is gone may be faster */
}

bool folder_remove(const char *path)
{
    enum { DESCRIPTORS = 16 };
    return !path[0] || nftw(path, remove_one, DESCRIPTORS, FTW_DEPTH | FTW_PHYS) == 0;
}
