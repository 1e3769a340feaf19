/* Markers: files whose existence is the lock and whose content says who holds it. What `soft` and `lease` share is
 * here; they differ in what they write, and in when they break what is there. The thread rules are those of protocol.h.
 */
#ifndef AFL_EXISTENCE_H
#define AFL_EXISTENCE_H

#include "locks/marker.h"
#include "locks/record.h"

#include <time.h>

/* What was read of the marker on which afl_work.fd is open; a protocol's state. */
typedef struct afl_existence {
    bool known;    /* dev, ino, changed, bytes and record are those of a marker */
    bool held;     /* the marker is ours */
    bool ended;    /* its holder's process has ended, and is still there */
    bool prepared; /* `spare` is a marker of ours without a name, made while we wait: it costs what making a file costs
                      when somebody else holds the lock, not between his release and our hold */
    afl_marker spare;
    uint32_t spare_mode; /* afl_work.file_mode */
    char spare_token[33];
    afl_marker_way way;
    uint64_t busy_since; /* boot time: our marker could not be taken away, as somebody has it flocked; 0: it could */
    struct timespec changed;
    off_t length; /* of the file; `size` bytes of it were read */
    size_t size;
    afl_record record;
    char bytes[AFL_RECORD_SIZE + 1];
} afl_existence;

typedef enum afl_verdict {
    AFL_MARKER_STANDS,
    AFL_MARKER_VOID, /* it is to be broken */
    AFL_MARKER_ALIEN /* whoever made it has agreed to something else than we have */
} afl_verdict;

typedef struct afl_existence_kind {
    afl_marker_print print;
    /* What about the one that is there? `record` is what was read of it; NULL: it is no regular file, or cannot be read
     * now. May lower afl_work.look_again. */
    afl_verdict (*judge)(afl_work *w, const struct stat *there, const afl_record *record);
} afl_existence_kind;

/* All orders of the machine but BEAT. */
void afl_existence_run(afl_work *w, const afl_existence_kind *kind);
void afl_existence_reconcile(afl_work *w);
void afl_existence_abandon(afl_work *w);
void afl_existence_inspect(afl_query *q);
void afl_existence_remove(afl_query *q);

/* For judges. */

/* How soft locks judge. */
afl_verdict afl_existence_judge(afl_work *w, const struct stat *there, const afl_record *record);
/* Is the holder that was read provably gone? While it lives its process is watched, if it is here. */
bool afl_existence_is_gone(afl_work *w);
/* Is it so old? If not, it is looked at again when it is. */
bool afl_existence_is_older(afl_work *w, const struct stat *there, uint64_t limit);

/* What the path names is our marker: 0; another one's; or errno: ENOENT, or why it cannot be told. */
enum { AFL_MARKER_IS_ANOTHER = -1 };
int afl_existence_check(const afl_work *w);

#endif
