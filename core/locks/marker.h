/* Markers, the files of soft locks and leases: made, with a record of who we are in it, and taken away. Any thread; the
 * caller remembers the way.
 *
 * Where the file system has files without names (O_TMPFILE) the record is written before the marker gets its name:
 * whoever is killed on the way leaves nothing, or a complete record. Elsewhere the file is created (O_EXCL) and written
 * then; who is killed in between leaves an empty one.
 */
#ifndef AFL_MARKER_H
#define AFL_MARKER_H

#include "locks/protocol.h"
#include "locks/record.h"

/* How markers are made in a folder. */
typedef enum afl_marker_way {
    AFL_MARKER_UNKNOWN, /* nobody has tried */
    AFL_MARKER_WHOLE,   /* it has files without names */
    AFL_MARKER_NAMED    /* it has none */
} afl_marker_way;

typedef enum afl_made {
    AFL_MADE,        /* and open */
    AFL_MADE_EXISTS, /* there is one */
    AFL_MADE_LOST,   /* it was taken away before it said anything */
    AFL_MADE_FAILED  /* `fault` says why; nothing is left behind unless `cleanup_errno` says so */
} afl_made;

typedef struct afl_marker {
    int fd; /* of it, and no standard stream; -1 */
    uint64_t dev, ino;
    afl_fault fault;
    int cleanup_errno;
} afl_marker;

/* Writes our record, whose pid, host and start are there. The length; 0: it cannot be written, for want of a random
 * number if errno is set. */
typedef size_t (*afl_marker_print)(afl_work *w, afl_record *own, char *text, size_t size);

/* Makes the marker w->path, with w->file_mode, and its parents if w->flags say so. */
afl_made afl_marker_make(afl_work *w, afl_marker_print print, afl_marker_way *way, afl_marker *m);

/* The same in two steps, where markers are whole: makes one without a name, for somebody who waits for the path, */
bool afl_marker_prepare(afl_work *w, afl_marker_print print, afl_marker *m);
/* ... and gives it the name when the path is free, from when on it counts. AFL_MADE_FAILED: it cannot be used; it is
 * to be dropped, and another one made. */
afl_made afl_marker_name(const afl_work *w, const afl_marker *m);
/* Of one that has no name. */
void afl_marker_drop(const afl_work *w, afl_marker *m);

/* Finds out whether markers are whole here, if that is not known. */
bool afl_marker_is_whole(const afl_work *w, afl_marker_way *way);

/* If the path names the file dev, ino: unlinks it. 0, or errno. */
int afl_marker_unlink(const afl_sys *sys, const char *path, uint64_t dev, uint64_t ino);

/* Opens the marker w->dev, w->ino anew, to keep it; -1: the path is another one's by now, or it cannot be opened. */
int afl_marker_open(const afl_work *w);

#endif
