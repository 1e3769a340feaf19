/* What soft readers and writers have on disk (rwmark.h has what is in the markers), and the steps that are made there.
 * Nothing is decided here; who may hold the lock is soft_rw.c's.
 *
 *     path.state      a soft lock: who changes anything of the following has it, and nobody has it for longer
 *     path.write      the writer's marker: it is held, or will be when the readers have left
 *     path.readers/   a marker for each reader
 *
 * Each operation opens the directories anew, without following links, and does everything in them by name. Any thread.
 */
#ifndef AFL_RWDIR_H
#define AFL_RWDIR_H

#include "locks/folder.h"
#include "locks/rwmark.h"

#define AFL_RW_STATE ".state"
#define AFL_RW_WRITER ".write"
#define AFL_RW_READERS ".readers"

typedef struct afl_rwdir {
    afl_folder f;      /* the directory of the path, and why something cannot be done */
    int readers;       /* the folder; -1: it is not there */
    uint64_t dev, ino; /* of that */
    char writer[256];  /* the name of the writer's marker */
    char folder[256];  /* ... and that of the folder */
} afl_rwdir;

/* Opens the directory of the path, and the folder. make: a missing folder is made, and missing parents if `parents`.
 * False: f.why says why; if it says nothing, something has just gone, or is missing and was not to be made.
 * afl_rwdir_close in each case. */
bool afl_rwdir_open(afl_rwdir *d, const afl_sys *sys, const char *path, bool make, bool parents);
void afl_rwdir_close(afl_rwdir *d);

/* Only the names, for who opens the directory of the path alone. */
void afl_rwdir_name(afl_rwdir *d, const char *path);

/* What could not be done does not matter. */
void afl_rwdir_forgive(afl_rwdir *d);

/* Something that is no file, and that nobody takes away, is where a marker ought to be: f.why says so. */
void afl_rwdir_refuse(afl_rwdir *d, const char *where, const struct stat *there);

/* What was found of a marker. */
typedef struct afl_rwseen {
    int error;    /* why it could not be looked at; ENOENT: it is not there */
    bool regular; /* it is a file: only such can be taken away */
    bool formed;  /* ... and `mark` says whose */
    struct stat st;
    afl_rwmark mark;
} afl_rwseen;

/* Reads the marker `name` in `dir`, without following or blocking. fd: NULL, or what becomes a descriptor of the file
 * that was read, -1 if there is none; the caller closes it. */
void afl_rwdir_read(const afl_sys *sys, int dir, const char *name, afl_rwseen *seen, int *fd);

/* Has it this token? */
bool afl_rwseen_is(const afl_rwseen *seen, const char *token);

/* How old it is: this host's clock less the file's time. */
uint64_t afl_rwseen_age(const afl_sys *sys, const afl_rwseen *seen);

/* Is its holder provably gone? */
bool afl_rwseen_is_gone(const afl_sys *sys, const afl_rwseen *seen);

/* The holder of a marker that is `formed`, as identity.h asks for it. The texts are those of `seen`. */
afl_record afl_rwseen_owner(const afl_rwseen *seen);

/* Makes the marker `name`. 0; EEXIST: there is something of that name; or errno, and *fault says which step: nothing is
 * left behind unless *cleanup_errno says why. */
int afl_rwdir_make(const afl_sys *sys, int dir, const char *name, const afl_rwmark *mark, afl_fault *fault,
                   int *cleanup_errno);

/* If the marker `name` is the one that has this token: sets its times to now. 0, ENOENT: it is not there, ESRCH: it is
 * another one, or errno and the step that failed. */
int afl_rwdir_touch(const afl_sys *sys, int dir, const char *name, const char *token, const char **step);

/* Takes away the marker that was seen there, if it has not changed since: it gets a name of its own first, and is
 * looked at again. What turns out to be another one has lost its place, and is left to its owner. False: it could not
 * be renamed. */
bool afl_rwdir_break(const afl_sys *sys, int dir, const char *name, const afl_rwseen *seen);

/* Calls `each` for everything that counts as a reader, until that returns false. 0 or errno. */
int afl_rwdir_readers(const afl_sys *sys, int readers, bool (*each)(const char *name, void *user), void *user);

#endif
