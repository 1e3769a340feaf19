/* What soft readers and writers have that is ours: the state lock, and the marker of a reader or a writer; got, made
 * and given back. Whether it may be is soft_rw.c's. The thread rules are those of protocol.h.
 */
#ifndef AFL_RWOWN_H
#define AFL_RWOWN_H

#include "locks/existence.h"
#include "locks/rwdir.h"

typedef struct afl_rwown_state {
    afl_work state; /* what there is of the state lock */
    afl_existence existence;
    bool inside;                  /* it is ours: within an operation, and after one that could not give it back */
    unsigned outside;             /* operations in a row that did not get it */
    bool reading, writing;        /* a marker of ours is there, or may be; its token is afl_work.token, */
    bool unfinished;              /* ... if it says anything: it could neither be filled in nor taken away */
    uint64_t dev, ino;            /* of what afl_work.fd is open on, ... */
    bool folder;                  /* ... which is the readers' folder, or the writer's marker */
    char watched[AFL_TOKEN_TEXT]; /* in the marker of the process that afl_work.holder is, or was */
    bool ended;                   /* it has ended, and is still there */
} afl_rwown_state;

afl_rwown_state *afl_rwown(const afl_work *w);

/* After so long something may have changed that nobody tells of. */
void afl_rwown_look_again(afl_work *w, uint64_t delay);

typedef enum afl_rwown_entrance {
    AFL_RW_INSIDE,
    AFL_RW_OUTSIDE, /* somebody else has it for a moment */
    AFL_RW_NO_WAY   /* f->why says why */
} afl_rwown_entrance;

/* Takes the state lock, unless it is ours; and gives it back, if it is: 0, or the errno that keeps it there. */
afl_rwown_entrance afl_rwown_enter(afl_work *w, afl_folder *f);
int afl_rwown_leave(afl_work *w);

/* The name of our reader's marker. */
void afl_rwown_name(const afl_work *w, char name[AFL_READER_NAME]);

/* Makes our marker, inside, with a token that nobody else has. 0; EEXIST, of a writer's; or errno, and f.why says why.
 */
int afl_rwown_make(afl_work *w, afl_rwdir *d, bool reader);

/* Takes our reader's marker away, or our writer's, inside, if there is one. 0, or errno. */
int afl_rwown_stop_reading(afl_work *w, const afl_rwdir *d);
int afl_rwown_stop_writing(afl_work *w, const afl_rwdir *d);

typedef struct afl_rwown_undoing {
    bool later;      /* the state lock is not to be had now */
    afl_refusal why; /* what could not be taken away; status 0: all was. `detail` is the caller's */
} afl_rwown_undoing;

/* Takes all away that is ours; the second for those who cannot come back. */
afl_rwown_undoing afl_rwown_take_back(afl_work *w);
void afl_rwown_take_back_now(afl_work *w);

#endif
