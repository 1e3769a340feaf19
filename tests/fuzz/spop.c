/* Fuzz target: what HAProxy sends to the agent of examples/haproxy (wire.c, spop.c, order.c). The input is frames, each
 * behind its length in two bytes; its first byte says whether the HELLO was already there. What is handed out lies in
 * the frame; a second reading, by sums of limbs and without the reader, comes to the same integers; what is read as a
 * value can be written and read again; what is answered is a whole frame of at most 256 bytes.
 */
#include "spop.h"
#include "fuzz/fuzz.h"
#include "order.h"

enum { LIMBS = 4 };

/* The integer at the beginning of the bytes, by the table of the specification: the first byte and those behind it,
 * each times its place, in limbs of 32 bits. False: it does not end, or has more than 64 bits. */
static bool add_up(const uint8_t *at, size_t size, uint64_t *number, size_t *used)
{
    uint64_t limbs[LIMBS] = {0};
    for (size_t i = 0; i < size && i < WIRE_VARINT_MOST; i++) {
        const size_t place = i == 0 ? 0 : 4 + 7 * (i - 1);
        uint64_t part = (uint64_t)at[i] << place % 32;
        for (size_t k = place / 32; k < LIMBS; k++) {
            limbs[k] += part & UINT32_MAX;
            part = (part >> 32) + (limbs[k] >> 32);
            limbs[k] &= UINT32_MAX;
        }
        if (at[i] >= (i == 0 ? 240 : 128))
            continue;
        *number = limbs[0] | limbs[1] << 32;
        *used = i + 1;
        return limbs[2] == 0 && limbs[3] == 0;
    }
    return false;
}

static void check_integer(const uint8_t *at, size_t size)
{
    uint8_t again[WIRE_VARINT_MOST];
    wire_reader r = {.at = at, .end = at + size};
    wire_writer w = {.at = again, .end = again + sizeof again};
    uint64_t number = 0, sum = 0;
    size_t used = 0;
    const bool is_read = wire_read_varint(&r, &number);
    fuzz_require(is_read == add_up(at, size, &sum, &used));
    if (!is_read)
        return;
    fuzz_require(number == sum && r.at == at + used);
    wire_write_varint(&w, number);
    fuzz_require(!w.full && w.at == again + used && memcmp(again, at, used) == 0);
}

static bool is_same(const wire_value *a, const wire_value *b)
{
    return a->type == b->type && a->number == b->number && a->bytes.size == b->bytes.size &&
           (a->bytes.size == 0 || memcmp(a->bytes.at, b->bytes.at, a->bytes.size) == 0);
}

static void check_value(const wire_value *value)
{
    const size_t room = value->bytes.size + 2 + WIRE_VARINT_MOST;
    uint8_t *written = malloc(room);
    fuzz_require(written != NULL);
    wire_writer w = {.at = written, .end = written + room};
    wire_value again;
    wire_write_value(&w, value);
    wire_reader r = {.at = written, .end = w.at};
    fuzz_require(!w.full && wire_read_value(&r, &again) && r.at == r.end && is_same(value, &again));
    wire_writer small = {.at = written, .end = w.at - 1};
    wire_write_value(&small, value);
    fuzz_require(small.full && small.at == written);
    free(written);
}

static void require_inside(wire_bytes part, const uint8_t *frame, size_t size)
{
    fuzz_require(!part.at || (part.at >= frame && part.size <= size && part.at + part.size <= frame + size));
}

static void check_order(const spop_message *message, const uint8_t *frame, size_t size)
{
    order o;
    order_read(*message, &o);
    require_inside(o.id, frame, size);
    if (o.key.at != (const uint8_t *)o.key_text)
        require_inside(o.key, frame, size);
    else
        fuzz_require(o.key.size > 0 && o.key.size < sizeof o.key_text);
    if (o.wrong)
        return;
    fuzz_require(o.kind != ORDER_UNKNOWN && o.id.size > 0 && o.id.size <= ORDER_ID_MOST);
    fuzz_require((o.key.at != NULL) == (o.kind == ORDER_LOCK));
}

static void check_messages(const spop_event *event, const uint8_t *frame, size_t size)
{
    wire_reader messages = event->messages;
    spop_message message;
    while (spop_next_message(&messages, &message)) {
        spop_message walk = message;
        spop_argument argument;
        require_inside(message.name, frame, size);
        while (spop_next_argument(&walk, &argument)) {
            require_inside(argument.name, frame, size);
            require_inside(argument.value.bytes, frame, size);
            check_value(&argument.value);
        }
        fuzz_require(walk.count == 0);
        check_order(&message, frame, size);
    }
    fuzz_require(messages.at == frame + size);
}

/* What the agent would say. */
static size_t answer(const spop_event *event, const spop_session *session, uint8_t *to)
{
    const spop_variable variables[] = {
        {"status", {.type = WIRE_STRING, .bytes = event->text}},
        {"wait", {.type = WIRE_UINT32, .number = event->stream & UINT32_MAX}},
    };
    switch (event->kind) {
    case SPOP_HELLO:
        return spop_put_hello(session, to);
    case SPOP_NOTIFY:
        return spop_put_ack(to, event->stream, event->frame, variables, 2);
    case SPOP_SKIP:
        return 0;
    default:
        return spop_put_disconnect(to, event->status, spop_status_text(event->status));
    }
}

static void check_answer(const spop_event *event, const spop_session *session)
{
    uint8_t to[SPOP_PREFIX + SPOP_SMALL], type;
    const size_t size = answer(event, session, to);
    wire_reader r = {.at = to, .end = to + size};
    uint32_t length, flags;
    uint64_t stream, id;
    fuzz_require(size <= sizeof to);
    if (size == 0)
        return;
    fuzz_require(wire_read_u32(&r, &length) && length == size - SPOP_PREFIX && wire_read_byte(&r, &type) && type > 100);
    fuzz_require(wire_read_u32(&r, &flags) && flags == 1 && wire_read_varint(&r, &stream) && wire_read_varint(&r, &id));
    fuzz_require(event->kind != SPOP_NOTIFY || (stream == event->stream && id == event->frame));
}

static bool check_frame(spop_session *session, const uint8_t *frame, size_t size)
{
    const bool was_open = session->is_open;
    check_integer(frame, size);
    if (spop_check_size(session, (uint32_t)size) != SPOP_NORMAL)
        return false;
    const spop_event event = spop_receive(session, frame, size);
    fuzz_require(session->is_open == (was_open || event.kind == SPOP_HELLO));
    fuzz_require(!session->is_open || (session->max_size >= SPOP_SMALL && session->max_size <= SPOP_MOST));
    fuzz_require(event.kind != SPOP_NOTIFY || was_open);
    fuzz_require(event.kind != SPOP_REFUSED || (event.status != SPOP_NORMAL && event.text.size > 0));
    if (event.kind == SPOP_BYE)
        require_inside(event.text, frame, size);
    if (event.kind == SPOP_NOTIFY)
        check_messages(&event, frame, size);
    check_answer(&event, session);
    return event.kind != SPOP_REFUSED && event.kind != SPOP_BYE;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_input in = {.at = data, .end = data + size};
    spop_session session = {0};
    if (fuzz_byte(&in) & 1)
        session = (spop_session){.is_open = true, .max_size = SPOP_MOST};
    for (bool goes_on = true; goes_on && in.at < in.end;) {
        size_t length = (size_t)fuzz_byte(&in) << 8;
        length |= fuzz_byte(&in);
        if (length > (size_t)(in.end - in.at))
            length = (size_t)(in.end - in.at);
        uint8_t *frame = malloc(length ? length : 1); /* of its own size, so that each byte beyond it is noticed */
        fuzz_require(frame != NULL);
        memcpy(frame, in.at, length);
        in.at += length;
        goes_on = check_frame(&session, frame, length);
        free(frame);
    }
    return 0;
}
