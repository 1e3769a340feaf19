/* What tests of several locks share: a list, answers that are written down, and a look at who holds what. */
#ifndef AFL_TEST_SEVERAL_SCENE_H
#define AFL_TEST_SEVERAL_SCENE_H

#include "support/scene.h"

#include <aflock/several.h>

typedef struct told {
    int count;
    aflock_several_result result;
    char path[PATH_MAX], step[32]; /* "" for NULL */
} told;

extern aflock_several *list;

void tell(aflock_several *s, const aflock_several_result *r, void *user);
void add(const char *path, aflock_mode mode, aflock_io io);
void add_each(aflock_io io, const char *names);
aflock_acquire_options within(uint64_t timeout);
void ask_all(uint64_t timeout, told *t);
void ask_any(uint64_t timeout, told *t);
void must_say(told *t, int status);
void take_all(void);
void take_any(size_t expected);
void give(void);
void settle(void);
/* "ab": a is held, b is not: "+-". */
bool is_so(const char *names, const char *expected);
/* At last: a worker may have to do it. */
void must_be(const char *names, const char *expected);
/* None is held any more. */
void must_become_free(const char *names);
pid_t holder_of(const char *path);
void begin(void);
void end(void);

/* A program's tests: `once`, and `each`, run with every scene_io(_i). Lists end with NULL. The exit status of main. */
int several_main(const char *name, const TTest *const once[], const TTest *const each[]);

#endif
