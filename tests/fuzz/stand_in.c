/* tests/support reports through libcheck, which needs a test that runs. In a fuzz target there is none: linked with
 * --wrap, its two entry points come here. */
#include "fuzz/fuzz.h"

_Noreturn void __wrap__ck_assert_failed(const char *file, int line, const char *expression, const char *message, ...);
void __wrap__mark_point(const char *file, int line);

_Noreturn void __wrap__ck_assert_failed(const char *file, int line, const char *expression, const char *message, ...)
{
    (void)fprintf(stderr, "%s:%d: %s (%s)\n", file, line, expression, message ? message : "");
    abort();
}

void __wrap__mark_point(const char *file, int line)
{
    (void)file, (void)line;
}
