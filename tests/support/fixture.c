/* The fixtures of fixture.h. */
#include "support/fixture.h"

#include "support/folder.h"

#include <check.h>
#include <unistd.h>

static char folder[PATH_MAX];

void fixture_enter_folder(void)
{
    ck_assert(folder_make(folder, NULL));
    ck_assert_int_eq(chdir(folder), 0);
}

void fixture_leave_folder(void)
{
    ck_assert(folder_remove(folder));
}

const char *fixture_folder(void)
{
    return folder;
}
