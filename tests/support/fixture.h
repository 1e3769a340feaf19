/* What libcheck sets up around tests. */
#ifndef AFL_TEST_FIXTURE_H
#define AFL_TEST_FIXTURE_H

/* A new folder that becomes the working directory, and its end. To be unchecked fixtures: they run outside of the
 * tests, which may crash. */
void fixture_enter_folder(void);
void fixture_leave_folder(void);

/* Its path. */
const char *fixture_folder(void);

#endif
