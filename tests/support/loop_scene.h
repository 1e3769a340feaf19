/* What the tests of adapters to other people's loops have in common: a directory of their own as working directory, a
 * context that may be doing one thing or another when something ends, answers that are written down, children, and a
 * look at what is left behind. Each program fills in loop_calls, and makes its loop itself. One scene per test process;
 * allocations are counted (faults/allocations.h). */
#ifndef AFL_TEST_LOOP_SCENE_H
#define AFL_TEST_LOOP_SCENE_H

#include <aflock/kit.h>
#include <check.h>
#include <stdbool.h>
#include <sys/types.h>

enum {
    LOOP_CHAIN = 2000,   /* requests, one after the other */
    LOOP_CHILD_MS = 400, /* the life of a child that goes on */
};

#define LOOP_NEVER (600 * AFLOCK_SECOND) /* a poll interval: only wake-ups are left */

/* What a context may be doing. */
typedef enum loop_state { LOOP_IDLE, LOOP_WAITING, LOOP_HELD, LOOP_TRYING, LOOP_STATES } loop_state;

/* An answer, or none yet. */
typedef struct loop_answer {
    int count;
    int status;
    aflock_req req;
    void (*then)(aflock *lock);
} loop_answer;

/* The program's. What is run has to succeed. */
extern const struct loop_calls {
    aflock_ctx *(*make_context)(void);
    int (*new_context)(aflock_ctx **made, const void *options); /* NULL: defaults */
    void (*run_to_end)(void);                                   /* until nothing keeps the loop alive */
    void (*run_once)(void);                                     /* waits until something happens */
    void (*run_nowait)(void);
    void (*end)(void);                 /* the loop's, if there is one */
    void (*require_clean)(long alive); /* of a context that could not be made nothing is left: so many allocations */
} loop_calls;

extern aflock_ctx *loop_context;
extern aflock *loop_lock;        /* of loop_context, on "lock" */
extern loop_answer loop_pending; /* of loop_lock */
extern int loop_outside;         /* the descriptor of somebody else's hold */
extern int loop_gate[2];         /* workers wait at [0] until [1] is closed */
extern int loop_descriptors_before;
extern long loop_blocks_before;

/* Counts what there is before the loop. */
void loop_begin(void);
/* Waits until nothing more is there: workers free what they have used a little later. */
void loop_require_nothing_left(void);

int loop_descriptors(void);     /* open in this process */
int loop_next_descriptor(void); /* the number of the next one */
void loop_pause(void);

aflock *loop_open(aflock_ctx *context, const char *name, aflock_io io, uint64_t poll_interval);
/* The callback of everything below: user is a loop_answer. */
void loop_on_answer(aflock *lock, const aflock_result *result, void *user);
void loop_acquire(aflock *lock, loop_answer *answer);
void loop_run_until_answered(const loop_answer *answer);
void loop_pass(void); /* a few rounds that do not wait */

/* For `then`: loop_pending is released and asked for again, LOOP_CHAIN times. */
void loop_again(aflock *lock);
/* For `then`. */
void loop_make_inside(aflock *lock);
extern aflock_ctx *loop_made_inside;
/* Frees it and sets it to NULL. */
void loop_free_context(aflock_ctx **context);

/* Somebody else's hold; a descriptor to close. */
int loop_hold_outside(const char *name);
bool loop_is_free(const char *name);

/* Brings loop_context there, with loop_lock. */
void loop_enter(loop_state state);
/* Once that context is gone. Ends the loop. */
void loop_require_ended(loop_state state);

/* Waits with a token that can be fired. */
aflock_token *loop_wait_with_token(const char *name, loop_answer *answer);

/* Cases that are the same for all loops, between the beginning and the end of a scene. */
void loop_only_requests_keep_alive(aflock_io io);
void loop_once_returns_after_a_callback(void);
/* Each child runs its function, has to end well, and does not harm the parent. */
void loop_child_leaves(loop_state state, void (*leave)(int how), int how);
void loop_child_goes_on(void (*go_on)(int unused), bool deferred); /* deferred: the library has also asked for a turn */
void loop_run_out_of_descriptors(void);
/* Each allocation of ours fails, one after the other. */
void loop_run_out_of_memory(const void *options);

/* In a child. */
void loop_require_forked(void);                /* calls say so */
void loop_require_little_cpu(const int *over); /* runs until *over */
void loop_end_in_child(void);                  /* of the loop; nothing is left */

/* Forks in a callback of the program's; the child abandons loop_context. */
void loop_fork(void);
extern pid_t loop_forked; /* -1: not yet */
/* The child ended well, and other threads still wake the parent. */
void loop_require_unharmed(pid_t child);

/* Makes no context, and leaves nothing behind. */
void loop_require_refused(const void *options, int status);
/* Takes no job, and counts its ends. */
aflock_executor loop_executor(int *closed);

/* Adds a case whose tests share a folder. */
TCase *loop_case(Suite *suite, const char *name);
/* Returns the exit status of main. */
int loop_main(Suite *suite);

#endif
