/* What tests of semaphores share: one of them, in the working directory, and answers that are written down. */
#ifndef AFL_TEST_SEMAPHORE_SCENE_H
#define AFL_TEST_SEMAPHORE_SCENE_H

#include "support/scene.h"

#include <aflock/semaphore.h>

enum { MAXIMUM = 3 };

typedef struct told {
    int count;
    aflock_semaphore_result result;
    char path[PATH_MAX], step[32]; /* "" for NULL */
    int *order;                    /* counts those who were answered; `place` is its value then */
    int place;
    bool releases; /* at once */
} told;

extern aflock_semaphore *semaphore;

void tell(aflock_semaphore *s, const aflock_semaphore_result *r, void *user);
void make(const char *directory, unsigned maximum, aflock_io io, uint64_t poll_interval);
/* Waiting is for what is heard of. */
void make_here(aflock_io io);
aflock_permit ask_for(uint64_t timeout, aflock_token *token, told *t);
aflock_permit ask(told *t);
aflock_permit take(unsigned expected);
void give(aflock_permit permit);
/* Lets what was cancelled or is given back come to its end, and anything that ought not to come, come. */
void settle(void);
/* By a worker, it may be. */
void await_free(const char *path);
void end(void);
pid_t slot_holder(unsigned slot);

/* A program's tests: `once`, and `each`, run with every scene_io(_i). Lists end with NULL. The exit status of main. */
int semaphore_main(const char *name, const TTest *const once[], const TTest *const each[]);

#endif
