/* The markers of soft readers and writers, byte for byte as py-filelock's SoftReadWriteLock writes and reads them: a
 * token that nobody else has, a process and its host. Pure: no system call, no memory of its own, no locale. Any
 * thread.
 *
 * What is malformed to the peer must be malformed here and the other way round: both take such a marker away once it is
 * old, and neither finds its own token in it.
 */
#ifndef AFL_RWMARK_H
#define AFL_RWMARK_H

#include "locks/claim.h"

enum {
    AFL_RWMARK_SIZE = 1024, /* a longer one is malformed: read one byte more than this to know */
    AFL_RWMARK_HOST = 254,  /* the longest host, with an end */
    AFL_READER_NAME = 44    /* of a reader's marker in its folder, with an end */
};

typedef struct afl_rwmark {
    char token[AFL_TOKEN_TEXT];
    int32_t pid; /* 1 ... 2^31 - 1 */
    char host[AFL_RWMARK_HOST];
} afl_rwmark;

/* False: it is malformed, and *mark is not to be used. */
bool afl_rwmark_parse(const void *bytes, size_t size, afl_rwmark *mark);

/* Writes it: no zero at the end. The length; 0: it does not fit into `size`, or would be malformed. */
size_t afl_rwmark_print(const afl_rwmark *mark, char *text, size_t size);

/* Does an entry of the readers' folder count as a reader? All do, whatever they are, but those that are put aside. */
bool afl_reader_counts(const char *name);

/* The name of the marker of the reader who has this token. Others' names have other digits than their tokens; nobody
 * reads them. */
void afl_reader_name_print(const char token[AFL_TOKEN_TEXT], int32_t pid, char name[AFL_READER_NAME]);

#endif
