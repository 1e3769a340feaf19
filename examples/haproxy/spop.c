#include "spop.h"

#include <string.h>

/* Types of frames. */
enum { UNSET = 0, HAPROXY_HELLO = 1, HAPROXY_DISCONNECT = 2, NOTIFY = 3, AGENT_HELLO = 101, AGENT_DISCONNECT, ACK };

enum { FIN = 1 }; /* flags */

enum { SET_VAR = 1, SET_VAR_ARGUMENTS = 3, SCOPE_TRANSACTION = 2 };

#define VERSION "2.0"
#define VERSION_MAJOR "2"
#define CAPABILITIES "pipelining"

const char *spop_status_text(spop_status status)
{
    switch (status) {
    case SPOP_NORMAL:
        return "normal";
    case SPOP_IO:
        return "I/O error";
    case SPOP_TIMEOUT:
        return "a timeout occurred";
    case SPOP_TOO_BIG:
        return "frame is too big";
    case SPOP_INVALID:
        return "invalid frame received";
    case SPOP_NO_VERSION:
        return "version value not found";
    case SPOP_NO_SIZE:
        return "max-frame-size value not found";
    case SPOP_NO_CAPABILITIES:
        return "capabilities value not found";
    case SPOP_BAD_VERSION:
        return "unsupported version";
    case SPOP_BAD_SIZE:
        return "max-frame-size too big or too small";
    case SPOP_FRAGMENTED:
        return "fragmentation not supported";
    case SPOP_RESOURCES:
        return "resource allocation error";
    case SPOP_ENDING:
        return "the agent is ending";
    }
    return "unknown status";
}

/* ------------------------------------------------------------------------------------------------------------- reading
 */

static spop_event refuse(spop_status status, const char *why)
{
    return (spop_event){.kind = SPOP_REFUSED, .status = status, .text = {(const uint8_t *)why, strlen(why)}};
}

spop_status spop_check_size(const spop_session *session, uint32_t size)
{
    if (size > (session->is_open ? session->max_size : SPOP_MOST))
        return SPOP_TOO_BIG;
    return size < SPOP_LEAST ? SPOP_INVALID : SPOP_NORMAL;
}

/* The next of the words that commas separate, without blanks around it. */
static bool next_word(wire_bytes *list, wire_bytes *word)
{
    if (!list->at)
        return false;
    const uint8_t *comma = list->size > 0 ? memchr(list->at, ',', list->size) : NULL;
    *word = (wire_bytes){.at = list->at, .size = comma ? (size_t)(comma - list->at) : list->size};
    list->size -= comma ? word->size + 1 : word->size;
    list->at = comma ? comma + 1 : NULL;
    while (word->size > 0 && word->at[0] == ' ') {
        word->at++;
        word->size--;
    }
    while (word->size > 0 && word->at[word->size - 1] == ' ')
        word->size--;
    return true;
}

static bool is_digit(uint8_t c)
{
    return c >= '0' && c <= '9';
}

/* "2.5": whoever speaks that speaks 2.0. */
static bool is_our_major(wire_bytes version)
{
    const size_t major = sizeof VERSION_MAJOR; /* with the point */
    if (version.size <= major || memcmp(version.at, VERSION_MAJOR ".", major) != 0)
        return false;
    for (size_t i = major; i < version.size; i++)
        if (!is_digit(version.at[i]))
            return false;
    return true;
}

static bool speaks_our_version(wire_bytes versions)
{
    wire_bytes word;
    while (next_word(&versions, &word))
        if (is_our_major(word))
            return true;
    return false;
}

/* What a HELLO says; those that are not there have the type WIRE_NULL. */
typedef struct hello {
    wire_value versions, max_size, capabilities, healthcheck;
} hello;

static bool read_hello(wire_reader *r, hello *out)
{
    *out = (hello){0};
    while (r->at < r->end) {
        wire_bytes name;
        wire_value value;
        if (!wire_read_string(r, &name) || !wire_read_value(r, &value))
            return false;
        if (wire_is(name, "supported-versions"))
            out->versions = value;
        else if (wire_is(name, "max-frame-size"))
            out->max_size = value;
        else if (wire_is(name, "capabilities"))
            out->capabilities = value;
        else if (wire_is(name, "healthcheck"))
            out->healthcheck = value;
    }
    return true;
}

static bool is_of(wire_value value, wire_type type)
{
    return value.type == WIRE_NULL || value.type == type;
}

static spop_event receive_hello(spop_session *session, wire_reader *r)
{
    hello h;
    if (session->is_open)
        return refuse(SPOP_INVALID, "a second HELLO");
    if (!read_hello(r, &h))
        return refuse(SPOP_INVALID, "a HELLO that is cut off or malformed");
    if (!is_of(h.versions, WIRE_STRING) || !is_of(h.max_size, WIRE_UINT32) || !is_of(h.capabilities, WIRE_STRING) ||
        !is_of(h.healthcheck, WIRE_BOOL))
        return refuse(SPOP_INVALID, "a HELLO with a value of a wrong type");
    if (h.versions.type == WIRE_NULL)
        return refuse(SPOP_NO_VERSION, "a HELLO without supported-versions");
    if (h.max_size.type == WIRE_NULL)
        return refuse(SPOP_NO_SIZE, "a HELLO without max-frame-size");
    if (h.capabilities.type == WIRE_NULL)
        return refuse(SPOP_NO_CAPABILITIES, "a HELLO without capabilities");
    if (!speaks_our_version(h.versions.bytes))
        return refuse(SPOP_BAD_VERSION, "a HELLO without version " VERSION);
    if (h.max_size.number < SPOP_SMALL)
        return refuse(SPOP_BAD_SIZE, "a HELLO with a max-frame-size below 256");
    session->is_open = true;
    session->max_size = h.max_size.number < SPOP_MOST ? (uint32_t)h.max_size.number : SPOP_MOST;
    return (spop_event){.kind = SPOP_HELLO, .healthcheck = h.healthcheck.number != 0};
}

static spop_event receive_bye(wire_reader *r)
{
    spop_event event = {.kind = SPOP_BYE, .status = SPOP_NORMAL};
    while (r->at < r->end) {
        wire_bytes name;
        wire_value value;
        if (!wire_read_string(r, &name) || !wire_read_value(r, &value))
            return refuse(SPOP_INVALID, "a DISCONNECT that is cut off or malformed");
        if (wire_is(name, "status-code") && value.type == WIRE_UINT32)
            event.status = (spop_status)value.number;
        else if (wire_is(name, "message") && value.type == WIRE_STRING)
            event.text = value.bytes;
    }
    return event;
}

static bool read_message(wire_reader *r, spop_message *out)
{
    uint8_t count;
    if (!wire_read_string(r, &out->name) || !wire_read_byte(r, &count))
        return false;
    out->count = count;
    out->arguments = *r;
    return true;
}

static bool read_argument(wire_reader *r, spop_argument *out)
{
    return wire_read_string(r, &out->name) && wire_read_value(r, &out->value);
}

/* Behind the message: its arguments were walked through. */
static bool pass_arguments(wire_reader *r, unsigned count)
{
    spop_argument argument;
    while (count > 0 && read_argument(r, &argument))
        count--;
    return count == 0;
}

bool spop_next_argument(spop_message *message, spop_argument *out)
{
    if (message->count == 0 || !read_argument(&message->arguments, out))
        return false;
    message->count--;
    return true;
}

bool spop_next_message(wire_reader *messages, spop_message *out)
{
    return messages->at < messages->end && read_message(messages, out) && pass_arguments(messages, out->count);
}

static spop_event receive_notify(const wire_reader *r, uint64_t stream, uint64_t frame)
{
    wire_reader walk = *r;
    spop_message message;
    while (walk.at < walk.end)
        if (!spop_next_message(&walk, &message))
            return refuse(SPOP_INVALID, "a NOTIFY that is cut off or malformed");
    return (spop_event){.kind = SPOP_NOTIFY, .stream = stream, .frame = frame, .messages = *r};
}

spop_event spop_receive(spop_session *session, const uint8_t *frame, size_t size)
{
    wire_reader r = {.at = frame, .end = frame + size};
    uint8_t type;
    uint32_t flags;
    uint64_t stream, id;
    if (!wire_read_byte(&r, &type) || !wire_read_u32(&r, &flags) || !wire_read_varint(&r, &stream) ||
        !wire_read_varint(&r, &id))
        return refuse(SPOP_INVALID, "a frame whose head is cut off or malformed");
    if (!session->is_open && type != HAPROXY_HELLO && type != HAPROXY_DISCONNECT)
        return refuse(SPOP_INVALID, "a first frame that is no HELLO");
    if (type > NOTIFY && (type < AGENT_HELLO || type > ACK))
        return (spop_event){.kind = SPOP_SKIP};
    if (type == UNSET || (type <= NOTIFY && !(flags & FIN)))
        return refuse(SPOP_FRAGMENTED, "a payload in fragments");
    switch (type) {
    case NOTIFY:
        return receive_notify(&r, stream, id);
    case HAPROXY_HELLO:
    case HAPROXY_DISCONNECT:
        if (stream != 0 || id != 0)
            return refuse(SPOP_INVALID, "a HELLO or DISCONNECT with the id of a stream");
        return type == HAPROXY_HELLO ? receive_hello(session, &r) : receive_bye(&r);
    default:
        return refuse(SPOP_INVALID, "a frame that only agents send");
    }
}

/* ------------------------------------------------------------------------------------------------------------- writing
 */

/* A frame of ours, which has room for everything but what is cut before. */
static wire_writer begin(uint8_t *to, uint8_t type, uint64_t stream, uint64_t frame)
{
    wire_writer w = {.at = to + SPOP_PREFIX + 1, .end = to + SPOP_PREFIX + SPOP_SMALL};
    to[SPOP_PREFIX] = type;
    wire_write_u32(&w, FIN);
    wire_write_varint(&w, stream);
    wire_write_varint(&w, frame);
    return w;
}

static size_t end(uint8_t *to, const wire_writer *w)
{
    const size_t size = (size_t)(w->at - to), length = size - SPOP_PREFIX;
    to[0] = to[1] = 0;
    to[2] = (uint8_t)(length >> 8);
    to[3] = (uint8_t)length;
    return size;
}

static void put_text(wire_writer *w, const char *name, const char *text, size_t size)
{
    const wire_value value = {.type = WIRE_STRING, .bytes = {(const uint8_t *)text, size}};
    wire_write_string(w, name, strlen(name));
    wire_write_value(w, &value);
}

static void put_number(wire_writer *w, const char *name, uint32_t number)
{
    const wire_value value = {.type = WIRE_UINT32, .number = number};
    wire_write_string(w, name, strlen(name));
    wire_write_value(w, &value);
}

size_t spop_put_hello(const spop_session *session, uint8_t *to)
{
    wire_writer w = begin(to, AGENT_HELLO, 0, 0);
    put_text(&w, "version", VERSION, strlen(VERSION));
    put_number(&w, "max-frame-size", session->max_size);
    put_text(&w, "capabilities", CAPABILITIES, strlen(CAPABILITIES));
    return end(to, &w);
}

size_t spop_put_disconnect(uint8_t *to, spop_status status, const char *message)
{
    wire_writer w = begin(to, AGENT_DISCONNECT, 0, 0);
    put_number(&w, "status-code", (uint32_t)status);
    put_text(&w, "message", message, strnlen(message, SPOP_TEXT));
    return end(to, &w);
}

size_t spop_put_ack(uint8_t *to, uint64_t stream, uint64_t frame, const spop_variable *variables, size_t count)
{
    wire_writer w = begin(to, ACK, stream, frame);
    for (size_t i = 0; i < count; i++) {
        wire_writer whole = w;
        wire_write_byte(&whole, SET_VAR);
        wire_write_byte(&whole, SET_VAR_ARGUMENTS);
        wire_write_byte(&whole, SCOPE_TRANSACTION);
        wire_write_string(&whole, variables[i].name, strlen(variables[i].name));
        wire_write_value(&whole, &variables[i].value);
        if (!whole.full)
            w = whole;
    }
    return end(to, &w);
}
