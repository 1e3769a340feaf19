/* What a marker says about its holder: the records of soft and lease locks, byte for byte as py-filelock writes and
 * reads them. Pure: no system call, no memory of its own, no locale. Any thread.
 *
 * Whoever finds a marker breaks it when it is malformed and old. So the reading is exactly the peer's: what is a holder
 * to it must not be malformed here, or we break what is alive; what is malformed to it must be malformed here, or
 * nobody of ours ever gets past it. The peer reads with Python's means, hence white space, line ends and digits of
 * Unicode.
 */
#ifndef AFL_RECORD_H
#define AFL_RECORD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    AFL_RECORD_SIZE = 1024, /* a longer record is malformed: read one byte more than this to know */
    AFL_START_TEXT = 59,    /* a start token as text, with its end */
    AFL_SECONDS_TEXT = 22   /* a duration as text, with its end */
};

/* A part of a text that belongs to somebody else; no zero ends it. */
typedef struct afl_text {
    const char *at;
    size_t size;
} afl_text;

bool afl_text_equal(afl_text a, afl_text b);

/* The first character of a text that is not empty, and how many bytes it has; 0 bytes: it is not UTF-8. */
uint32_t afl_text_character(afl_text text, size_t *bytes);

/* ------------------------------------------------------------------------------------------------------ start token */

/* When a process started, so that a later one with its number is not taken for it: (boot id << 64) | start time. */
typedef struct afl_start {
    uint32_t part[6]; /* the number, lowest part first: two of the start time, four of the boot id */
    bool beyond;      /* negative, or above 192 bits: a number to the peer, but equal to no start token; parts are 0 */
} afl_start;

afl_start afl_start_make(uint64_t boot_high, uint64_t boot_low, uint64_t time);

/* As Python's int() reads a number: white space around it, a sign, leading zeros, "_" between digits, digits of any
 * script. False: it is none, and *start is unchanged. */
bool afl_start_parse(afl_text text, afl_start *start);

/* Decimal, without leading zeros, and a zero at the end. The length; 0: it is beyond. */
size_t afl_start_print(const afl_start *start, char text[AFL_START_TEXT]);

bool afl_start_equal(const afl_start *a, const afl_start *b);

/* --------------------------------------------------------------------------------------------------------- durations
 */

/* As Python's float() reads a number, infinities and nan included, rounded to the nearest double as it does. False: it
 * is none, and *seconds is unchanged. */
bool afl_seconds_parse(afl_text text, double *seconds);

/* "30", "0.25": exact, shortest, and a zero at the end. The length. What the peer reads from it is what it reads from a
 * user's 30, 30.0 or 0.25. */
size_t afl_seconds_print(uint64_t nanoseconds, char text[AFL_SECONDS_TEXT]);

/* The double to compare with a duration that is recorded. */
double afl_seconds_from(uint64_t nanoseconds);

/* ----------------------------------------------------------------------------------------------------------- records
 */

typedef enum afl_record_kind {
    AFL_RECORD_EMPTY,    /* no byte: malformed to the peer; a holder to Debian's 3.9.0, which writes nothing */
    AFL_RECORD_SENTINEL, /* of the strict protocol: these 24 bytes are never broken */
    AFL_RECORD_SOFT,
    AFL_RECORD_LEASE,
    AFL_RECORD_OTHER, /* of a mode that nobody here knows: a live owner, never reclaimed */
    AFL_RECORD_MALFORMED
} afl_record_kind;

/* All texts lie in the bytes that were parsed. What a kind does not have is 0. */
typedef struct afl_record {
    afl_record_kind kind;
    int32_t pid;   /* SOFT, LEASE, OTHER: 1 ... 2^31 - 1 */
    afl_text host; /* SOFT, LEASE, OTHER; may be empty in SOFT */
    bool has_start;
    afl_start start;
    afl_text token;         /* LEASE: any text, may be empty; OTHER: if it has one */
    afl_text duration_text; /* LEASE; OTHER: if it has one */
    double duration;        /* of that: LEASE: seconds, finite, above 0; OTHER: whatever it says */
} afl_record;

/* Never fails: what is no record is malformed. */
void afl_record_parse(const void *bytes, size_t size, afl_record *record);

/* Writes the record of a holder, pid, host and start (LEASE: token and duration_text, too): no zero at the end. The
 * length; 0: it does not fit into `size`, is longer than AFL_RECORD_SIZE, or would not be read as what it says (a host
 * that ends with a blank, for one). */
size_t afl_record_print_soft(const afl_record *record, char *text, size_t size);
size_t afl_record_print_lease(const afl_record *record, char *text, size_t size);

#endif
