/* The claims of strict locks, byte for byte as py-filelock's StrictSoftFileLock writes and reads them: names, records,
 * and the names under which records are private until they are complete. Pure: no system call, no memory of its own, no
 * locale. Any thread.
 *
 * Nothing here is judged by age or by the death of its owner. What is no claim, by its name or by its content, is an
 * error to whoever meets it, never something to be passed over.
 */
#ifndef AFL_CLAIM_H
#define AFL_CLAIM_H

#include "locks/record.h"

enum {
    AFL_CLAIM_SIZE = 1024,  /* a longer record is malformed: read one byte more than this to know */
    AFL_TOKEN_TEXT = 33,    /* 32 hexadecimal digits, with an end */
    AFL_CLAIM_NAME = 49,    /* of a claim, with an end */
    AFL_CLAIM_HOST = 512,   /* the longest host that a record has room for, with an end */
    AFL_PUBLIC_NAME = 201,  /* the longest name that can be published, with an end */
    AFL_PRIVATE_NAME = 256, /* of such a record while it is private */
    AFL_SENTINEL_SIZE = 24
};

/* What the path of a strict lock holds for ever. */
extern const char AFL_SENTINEL[AFL_SENTINEL_SIZE];

/* 128 bits as 32 lower-case digits. */
void afl_token_print(const uint64_t bits[2], char token[AFL_TOKEN_TEXT]);

/* Does a token begin here? */
bool afl_token_begins(const char *text);

/* Puts `more`, or the digits of a number above 0, at `at`, with a zero at its end; where that is. */
char *afl_put(char *at, const char *more);
char *afl_put_pid(char *at, int32_t pid);

/* ------------------------------------------------------------------------------------------------------------ names */

typedef struct afl_claim_name {
    bool held; /* or only an intent */
    char token[AFL_TOKEN_TEXT];
} afl_claim_name;

/* False: it is no claim of this version, and *claim is unchanged. */
bool afl_claim_name_parse(const char *name, afl_claim_name *claim);
void afl_claim_name_print(const afl_claim_name *claim, char name[AFL_CLAIM_NAME]);

/* The name of the record that is to be published as `name`. */
void afl_private_name_print(const char *name, const char token[AFL_TOKEN_TEXT], char private_name[AFL_PRIVATE_NAME]);

/* Where such a record is to be published; false: it is none, or its name would be longer than AFL_PUBLIC_NAME. */
bool afl_private_name_parse(const char *private_name, char name[AFL_PUBLIC_NAME]);

/* ---------------------------------------------------------------------------------------------------------- records */

typedef struct afl_claim {
    int32_t pid;               /* 1 ... 2^31 - 1 */
    char host[AFL_CLAIM_HOST]; /* may be empty */
    bool has_start;
    afl_start start;
} afl_claim;

/* The record of the claim whose name has this token. False: it is malformed, and *claim is not to be used. */
bool afl_claim_parse(const void *bytes, size_t size, const char token[AFL_TOKEN_TEXT], afl_claim *claim);

/* Writes it: no zero at the end. The length; 0: it would be longer than `size` or AFL_CLAIM_SIZE, or malformed. */
size_t afl_claim_print(const afl_claim *claim, const char token[AFL_TOKEN_TEXT], char *text, size_t size);

#endif
