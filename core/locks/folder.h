/* What a strict lock has on disk: the sentinel at its path, and beside that the folder of claims. How one gets there,
 * how records are published so that nobody ever sees half of one, and how claims are read. Nothing is decided here; who
 * may hold the lock is strict.c's.
 *
 *     path                     the sentinel, for ever
 *     path.filelock/claims/    the claims
 *
 * Directories are opened once for each attempt, without following links, and everything is done in them by name: what
 * is put in the place of a parent meanwhile does not matter. Any thread.
 */
#ifndef AFL_FOLDER_H
#define AFL_FOLDER_H

#include "locks/claim.h"
#include "locks/protocol.h"

/* Why something cannot be done. */
typedef struct afl_refusal {
    int status; /* AFLOCK_E...; 0: nothing was refused */
    int error;  /* errno, or 0 */
    const char *step;
    char *detail; /* which file, and what is wrong with it; malloc's, the caller frees it; NULL: nothing to add */
} afl_refusal;

typedef struct afl_folder {
    const afl_sys *sys;
    const char *path; /* of the lock, absolute; the caller's */
    const char *name; /* its last component */
    int parent;       /* the directory of that; only to look names up in */
    int claims;       /* -1: it is not there */
    uint64_t dev, ino;
    bool local; /* see afl_work; set by whoever publishes */
    afl_refusal why;
} afl_folder;

/* Where things are, as in names of details. */
#define AFL_COORDINATION ".filelock"
#define AFL_CLAIMS AFL_COORDINATION "/claims"

/* Opens parent and claims. make: what is missing is made, of the parents only if `parents`. False: why says why; if it
 * says nothing, something has just gone, or is missing and was not to be made. afl_folder_close in each case. */
bool afl_folder_open(afl_folder *f, const afl_sys *sys, const char *path, bool make, bool parents);
void afl_folder_close(afl_folder *f);

/* The parent alone. Links on the way to it are followed: it is that one from here on. make: it is made if it is
 * missing. False: why says why. afl_folder_close in each case. */
bool afl_folder_begin(afl_folder *f, const afl_sys *sys, const char *path, bool make);

/* Opens a real directory of a protocol, which stands behind the lock's path as `where` says; make: a missing one is
 * made with these rights. -1: f->why says why, unless it is missing or has just gone. The caller closes it. */
int afl_folder_directory(afl_folder *f, int dir, const char *name, int flags, const mode_t *make, const char *where);

/* Fills in f->why, unless that says something already. A step failed; or what is on disk does not follow the protocol:
 * `where` is put behind the lock's path ("", AFL_CLAIMS), `name` may be NULL. A lack of descriptors or memory (`error`)
 * is not what is on disk. Both return false. */
bool afl_folder_fail(afl_folder *f, const char *step, int error);
bool afl_folder_protest(afl_folder *f, const char *step, int error, const char *where, const char *name,
                        const char *reason);

/* 32 random digits. False: f->why says why. */
bool afl_folder_token(afl_folder *f, char token[AFL_TOKEN_TEXT]);

/* ------------------------------------------------------------------------------------------------------- publishing */

typedef enum afl_publication {
    AFL_PUBLISHED,
    AFL_TAKEN,       /* there is something else of that name */
    AFL_RECLAIMED,   /* somebody has taken our private record for one that was left: another try */
    AFL_UNPUBLISHED, /* f->why says why; it is not there */
    AFL_UNCERTAIN    /* f->why says why; it may be there */
} afl_publication;

/* Makes `name` in the directory `dir` with this content, all at once, or not at all. *made: which file it is. */
afl_publication afl_folder_publish(afl_folder *f, int dir, const char *name, const char *text, size_t size, mode_t mode,
                                   struct stat *made);

/* Gives the file `made`, whose name is `from`, another name in the folder. RECLAIMED: `from` is gone. */
afl_publication afl_folder_link(afl_folder *f, int dir, const char *from, const char *to, const struct stat *made);

/* ---------------------------------------------------------------------------------------------------------- reading */

typedef enum afl_sentinel_state {
    AFL_SENTINEL_THERE,
    AFL_SENTINEL_ANOTHER, /* the path is something else: to be left alone */
    AFL_SENTINEL_MISSING,
    AFL_SENTINEL_FAILED /* f->why says why */
} afl_sentinel_state;

afl_sentinel_state afl_folder_sentinel(afl_folder *f);

/* Publishes it. False: f->why says why, or that it has to be tried again if it says nothing. */
bool afl_folder_make_sentinel(afl_folder *f, mode_t mode);

/* What has a public name in the folder. */
typedef struct afl_seen {
    const char *name;
    afl_claim_name key;
    afl_claim claim;
    uint64_t dev, ino;
    uint64_t changed;   /* ns since 1970 */
    const char *reason; /* not NULL: it is no claim, and why; what else is said does not count */
    int error;          /* of what could not be read; 0: it was read */
    bool unread;        /* only for the moment, perhaps */
} afl_seen;

/* Calls `each` for everything that has a public name, until that returns false. tidy: removes private records that were
 * left there. 0, or the errno with which the folder could not be read. */
int afl_folder_read(afl_folder *f, bool tidy, bool (*each)(const afl_seen *seen, void *user), void *user);

#endif
