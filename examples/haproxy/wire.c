#include "wire.h"

#include <string.h>

/* An integer below this is one byte. From here on the first byte has four bits of what is left, each further one seven,
 * the lowest first, and a byte of at least MORE is not the last one. */
enum { SHORT = 240, MORE = 128 };

bool wire_is(wire_bytes bytes, const char *text)
{
    return bytes.size == strlen(text) && (bytes.size == 0 || memcmp(bytes.at, text, bytes.size) == 0);
}

/* ------------------------------------------------------------------------------------------------------------- reading
 */

static bool take(wire_reader *r, size_t size, wire_bytes *out)
{
    if ((size_t)(r->end - r->at) < size)
        return false;
    *out = (wire_bytes){.at = r->at, .size = size};
    r->at += size;
    return true;
}

bool wire_read_byte(wire_reader *r, uint8_t *out)
{
    if (r->at == r->end)
        return false;
    *out = *r->at++;
    return true;
}

bool wire_read_u32(wire_reader *r, uint32_t *out)
{
    wire_bytes bytes;
    if (!take(r, 4, &bytes))
        return false;
    *out = (uint32_t)bytes.at[0] << 24 | (uint32_t)bytes.at[1] << 16 | (uint32_t)bytes.at[2] << 8 | bytes.at[3];
    return true;
}

bool wire_read_varint(wire_reader *r, uint64_t *out)
{
    uint8_t byte;
    if (!wire_read_byte(r, &byte))
        return false;
    uint64_t number = byte;
    for (unsigned shift = 4; byte >= (shift == 4 ? SHORT : MORE); shift += 7) {
        if (!wire_read_byte(r, &byte))
            return false;
        const uint64_t part = (uint64_t)byte << (shift & 63);
        if (shift >= 64 || part >> shift != byte || number + part < number)
            return false; /* more than 64 bits */
        number += part;
    }
    *out = number;
    return true;
}

bool wire_read_string(wire_reader *r, wire_bytes *out)
{
    uint64_t size;
    return wire_read_varint(r, &size) && size <= (size_t)(r->end - r->at) && take(r, (size_t)size, out);
}

/* 32 bits with a sign come as they are, or with the sign in all of 64. */
static bool narrow(wire_value *value)
{
    if (value->type == WIRE_UINT32)
        return value->number <= UINT32_MAX;
    if (value->type == WIRE_INT32 && value->number <= UINT32_MAX)
        value->number = (uint64_t)(int64_t)(int32_t)(uint32_t)value->number;
    return value->type != WIRE_INT32 || value->number <= INT32_MAX || value->number >= (uint64_t)INT32_MIN;
}

bool wire_read_value(wire_reader *r, wire_value *out)
{
    uint8_t byte;
    if (!wire_read_byte(r, &byte))
        return false;
    *out = (wire_value){.type = byte & 15};
    switch (out->type) {
    case WIRE_NULL:
        return true;
    case WIRE_BOOL:
        out->number = byte >> 4 & 1;
        return true;
    case WIRE_INT32:
    case WIRE_UINT32:
    case WIRE_INT64:
    case WIRE_UINT64:
        return wire_read_varint(r, &out->number) && narrow(out);
    case WIRE_IPV4:
        return take(r, 4, &out->bytes);
    case WIRE_IPV6:
        return take(r, 16, &out->bytes);
    case WIRE_STRING:
    case WIRE_BINARY:
        return wire_read_string(r, &out->bytes);
    default:
        return false; /* a type that nobody knows: its length is not known either */
    }
}

/* ------------------------------------------------------------------------------------------------------------- writing
 */

static void put(wire_writer *w, const void *bytes, size_t size)
{
    if (w->full || (size_t)(w->end - w->at) < size) {
        w->full = true;
        return;
    }
    if (size > 0)
        memcpy(w->at, bytes, size);
    w->at += size;
}

void wire_write_byte(wire_writer *w, uint8_t byte)
{
    put(w, &byte, 1);
}

void wire_write_u32(wire_writer *w, uint32_t number)
{
    const uint8_t bytes[] = {(uint8_t)(number >> 24), (uint8_t)(number >> 16), (uint8_t)(number >> 8), (uint8_t)number};
    put(w, bytes, sizeof bytes);
}

void wire_write_varint(wire_writer *w, uint64_t number)
{
    uint8_t bytes[WIRE_VARINT_MOST];
    size_t size = 0;
    if (number >= SHORT) {
        bytes[size++] = (uint8_t)(number | SHORT);
        for (number = (number - SHORT) >> 4; number >= MORE; number = (number - MORE) >> 7)
            bytes[size++] = (uint8_t)(number | MORE);
    }
    bytes[size++] = (uint8_t)number;
    put(w, bytes, size);
}

/* All of it or nothing. */
void wire_write_string(wire_writer *w, const void *text, size_t size)
{
    uint8_t *begin = w->at;
    wire_write_varint(w, size);
    put(w, text, size);
    if (w->full)
        w->at = begin;
}

void wire_write_value(wire_writer *w, const wire_value *value)
{
    uint8_t *begin = w->at;
    wire_write_byte(w, (uint8_t)(value->type | (value->type == WIRE_BOOL && value->number ? 16 : 0)));
    if (value->type >= WIRE_INT32 && value->type <= WIRE_UINT64)
        wire_write_varint(w, value->number);
    else if (value->type == WIRE_IPV4 || value->type == WIRE_IPV6)
        put(w, value->bytes.at, value->bytes.size);
    else if (value->type == WIRE_STRING || value->type == WIRE_BINARY)
        wire_write_string(w, value->bytes.at, value->bytes.size);
    if (w->full)
        w->at = begin;
}
