/* Frames of SPOP 2.0 as an agent sees them (SPOE.txt of HAProxy's documentation, section 3.2), and in which order they
 * may come.
 *
 * Pure, as wire.h: whole frames come in, what is to be done comes out; frames are written into memory of the caller.
 * Everything that is read is checked before anything of it is handed out, so that what an agent acts upon is whole.
 *
 * What this agent can do: pipelining. It announces neither fragmentation (a payload in several frames is refused with
 * status 10) nor async (an acknowledgement goes where its NOTIFY came from).
 */
#ifndef AFLOCK_SPOA_SPOP_H
#define AFLOCK_SPOA_SPOP_H

#include "wire.h"

enum {
    SPOP_PREFIX = 4,       /* bytes before each frame: its length, the highest first */
    SPOP_LEAST = 7,        /* bytes of the shortest frame: type, flags, two integers */
    SPOP_SMALL = 256,      /* each peer takes frames of this size */
    SPOP_MOST = 16384 - 4, /* the longest that this agent takes: what HAProxy asks for by default */
    SPOP_TEXT = 128        /* the longest text in a frame of ours: a frame is never longer than SPOP_SMALL */
};

/* Status codes of a DISCONNECT frame. */
typedef enum spop_status {
    SPOP_NORMAL = 0,
    SPOP_IO = 1,
    SPOP_TIMEOUT = 2,
    SPOP_TOO_BIG = 3,
    SPOP_INVALID = 4,
    SPOP_NO_VERSION = 5,
    SPOP_NO_SIZE = 6,
    SPOP_NO_CAPABILITIES = 7,
    SPOP_BAD_VERSION = 8,
    SPOP_BAD_SIZE = 9,
    SPOP_FRAGMENTED = 10,
    SPOP_RESOURCES = 13,
    SPOP_ENDING = 100 /* of ours: the agent is about to end, and answers no health check any more */
} spop_status;

const char *spop_status_text(spop_status status);

/* One connection. Zeros: nothing has come. */
typedef struct spop_session {
    bool is_open;      /* the HELLO was answered */
    uint32_t max_size; /* of frames, as agreed then */
} spop_session;

typedef enum spop_kind {
    SPOP_HELLO,  /* answer it with spop_put_hello; if `healthcheck`, close */
    SPOP_NOTIFY, /* do what `messages` say, and answer with spop_put_ack */
    SPOP_BYE,    /* HAProxy disconnects: `status` and `text` are its reasons; answer with spop_put_disconnect, close */
    SPOP_SKIP,   /* of a type that is not known: nothing to do */
    SPOP_REFUSED /* send a DISCONNECT with `status` and close; `text` is what is wrong, for the log */
} spop_kind;

typedef struct spop_event {
    spop_kind kind;
    spop_status status;
    wire_bytes text;
    bool healthcheck;
    uint64_t stream, frame;
    wire_reader messages; /* for spop_next_message */
} spop_event;

/* May a frame be so long? SPOP_NORMAL, or the status to refuse it with, before anything of it is read. */
spop_status spop_check_size(const spop_session *session, uint32_t size);

/* One whole frame, without its prefix. */
spop_event spop_receive(spop_session *session, const uint8_t *frame, size_t size);

/* A message, and an argument of it. False: there is none left. What is walked through was checked by spop_receive. */
typedef struct spop_message {
    wire_bytes name;
    unsigned count;
    wire_reader arguments;
} spop_message;

typedef struct spop_argument {
    wire_bytes name;
    wire_value value;
} spop_argument;

bool spop_next_message(wire_reader *messages, spop_message *out);
bool spop_next_argument(spop_message *message, spop_argument *out);

/* A variable to be set in the scope of the transaction. Name and value are short: all that an agent sets by one ACK
 * fits into a frame of SPOP_SMALL bytes, or what does not is left out. */
typedef struct spop_variable {
    const char *name;
    wire_value value;
} spop_variable;

/* These write a frame with its prefix to `to`, which has room for SPOP_PREFIX + SPOP_SMALL bytes, and return its size.
 * A message of a DISCONNECT that is longer than SPOP_TEXT is cut. */
size_t spop_put_hello(const spop_session *session, uint8_t *to);
size_t spop_put_disconnect(uint8_t *to, spop_status status, const char *message);
size_t spop_put_ack(uint8_t *to, uint64_t stream, uint64_t frame, const spop_variable *variables, size_t count);

#endif
