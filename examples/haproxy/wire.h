/* The data of SPOP, the protocol between HAProxy and its agents (SPOE.txt of HAProxy's documentation, section 3.1):
 * variable-length integers, strings, typed values.
 *
 * Pure: no input and output, no allocation. What is read may be any bytes; a reader never looks beyond its end, and
 * what it hands out points into what it reads. A writer never writes beyond its end, and says so.
 */
#ifndef AFLOCK_SPOA_WIRE_H
#define AFLOCK_SPOA_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct wire_bytes {
    const uint8_t *at;
    size_t size;
} wire_bytes;

typedef enum wire_type {
    WIRE_NULL,
    WIRE_BOOL,
    WIRE_INT32,
    WIRE_UINT32,
    WIRE_INT64,
    WIRE_UINT64,
    WIRE_IPV4,
    WIRE_IPV6,
    WIRE_STRING,
    WIRE_BINARY
} wire_type;

typedef struct wire_value {
    wire_type type;
    uint64_t number;  /* of a boolean or an integer; those with a sign as two's complement in 64 bits */
    wire_bytes bytes; /* of an address, a string or binary data */
} wire_value;

typedef struct wire_reader {
    const uint8_t *at, *end;
} wire_reader;

typedef struct wire_writer {
    uint8_t *at, *end;
    bool full; /* something had no room; what was written before is whole */
} wire_writer;

enum { WIRE_VARINT_MOST = 10 }; /* bytes of an integer of 64 bits */

/* False: the bytes end too early, or are not what they have to be. The reader is of no use then. */
bool wire_read_byte(wire_reader *r, uint8_t *out);
bool wire_read_u32(wire_reader *r, uint32_t *out); /* four bytes, the highest first */
bool wire_read_varint(wire_reader *r, uint64_t *out);
bool wire_read_string(wire_reader *r, wire_bytes *out);
bool wire_read_value(wire_reader *r, wire_value *out);

void wire_write_byte(wire_writer *w, uint8_t byte);
void wire_write_u32(wire_writer *w, uint32_t number);
void wire_write_varint(wire_writer *w, uint64_t number);
void wire_write_string(wire_writer *w, const void *text, size_t size);
void wire_write_value(wire_writer *w, const wire_value *value);

/* Is it this text? */
bool wire_is(wire_bytes bytes, const char *text);

#endif
