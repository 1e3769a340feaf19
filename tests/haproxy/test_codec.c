/* The data, frames and messages of the agent for HAProxy (examples/haproxy): to the byte, at each bound, cut off at
 * each byte. fuzz.spop has the same for any bytes. */
#include "duration.h"
#include "order.h"
#include "spop.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

#define TEXT(string) ((wire_bytes){(const uint8_t *)(string), sizeof(string) - 1})

/* ------------------------------------------------------------------------------------------------------------ integers
 */

/* First and last of each length, as the specification has them. */
static const struct {
    uint64_t number;
    size_t size;
} BOUNDS[] = {
    {0, 1},
    {239, 1},
    {240, 2},
    {2287, 2},
    {2288, 3},
    {264431, 3},
    {264432, 4},
    {33818863, 4},
    {33818864, 5},
    {UINT64_C(4328786159), 5},
    {UINT64_C(4328786160), 6},
    {INT64_MAX, 10},
    {UINT64_MAX, 10},
};

START_TEST(integers_have_the_lengths_of_the_specification)
{
    uint8_t bytes[WIRE_VARINT_MOST];
    wire_writer w = {.at = bytes, .end = bytes + sizeof bytes};
    uint64_t number;
    wire_write_varint(&w, BOUNDS[_i].number);
    ck_assert(!w.full);
    ck_assert_uint_eq((size_t)(w.at - bytes), BOUNDS[_i].size);
    wire_reader r = {.at = bytes, .end = w.at};
    ck_assert(wire_read_varint(&r, &number));
    ck_assert_uint_eq(number, BOUNDS[_i].number);
    ck_assert_ptr_eq(r.at, r.end);
}
END_TEST

START_TEST(integers_are_cut_off_at_each_byte)
{
    uint8_t bytes[WIRE_VARINT_MOST];
    wire_writer w = {.at = bytes, .end = bytes + sizeof bytes};
    uint64_t number;
    wire_write_varint(&w, BOUNDS[_i].number);
    for (size_t size = 0; size < BOUNDS[_i].size; size++) {
        wire_reader r = {.at = bytes, .end = bytes + size};
        ck_assert(!wire_read_varint(&r, &number));
        wire_writer small = {.at = bytes, .end = bytes + size};
        wire_write_varint(&small, BOUNDS[_i].number);
        ck_assert(small.full);
    }
}
END_TEST

static bool reads(const uint8_t *bytes, size_t size, uint64_t *number)
{
    wire_reader r = {.at = bytes, .end = bytes + size};
    return wire_read_varint(&r, number) && r.at == r.end;
}

START_TEST(integers_beyond_64_bits_are_refused)
{
    uint64_t number;
    uint8_t bytes[12] = {255, 240, 254, 254, 254, 254, 254, 254, 254, 14};
    ck_assert(reads(bytes, 10, &number));
    ck_assert_uint_eq(number, UINT64_MAX);
    bytes[0] = 0xff;
    bytes[1] = 0xf1; /* one step more: 2^64 + 15 */
    ck_assert(!reads(bytes, 10, &number));
    bytes[1] = 0xf0;
    bytes[9] = 16; /* a bit beyond the 64th */
    ck_assert(!reads(bytes, 10, &number));
    memset(bytes, 0xff, sizeof bytes);
    bytes[11] = 0;
    ck_assert(!reads(bytes, 12, &number));
}
END_TEST

/* -------------------------------------------------------------------------------------------------------------- values
 */

static const uint8_t ADDRESS[] = {0xfd, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};

static const wire_value VALUES[] = {
    {.type = WIRE_NULL},
    {.type = WIRE_BOOL, .number = 0},
    {.type = WIRE_BOOL, .number = 1},
    {.type = WIRE_INT32, .number = INT32_MAX},
    {.type = WIRE_INT32, .number = (uint64_t)INT32_MIN},
    {.type = WIRE_UINT32, .number = UINT32_MAX},
    {.type = WIRE_INT64, .number = (uint64_t)INT64_MIN},
    {.type = WIRE_UINT64, .number = UINT64_MAX},
    {.type = WIRE_IPV4, .bytes = {ADDRESS, 4}},
    {.type = WIRE_IPV6, .bytes = {ADDRESS, 16}},
    {.type = WIRE_STRING, .bytes = {(const uint8_t *)"text", 4}},
    {.type = WIRE_STRING, .bytes = {(const uint8_t *)"", 0}},
    {.type = WIRE_BINARY, .bytes = {ADDRESS, 16}},
};

START_TEST(values_come_back_and_are_cut_off_at_each_byte)
{
    const wire_value *value = &VALUES[_i];
    uint8_t bytes[32];
    wire_writer w = {.at = bytes, .end = bytes + sizeof bytes};
    wire_value got;
    wire_write_value(&w, value);
    const size_t size = (size_t)(w.at - bytes);
    wire_reader r = {.at = bytes, .end = bytes + size};
    ck_assert(!w.full && wire_read_value(&r, &got) && r.at == r.end);
    ck_assert_int_eq(got.type, value->type);
    ck_assert_uint_eq(got.number, value->number);
    ck_assert_uint_eq(got.bytes.size, value->bytes.size);
    ck_assert(got.bytes.size == 0 || memcmp(got.bytes.at, value->bytes.at, got.bytes.size) == 0);
    for (size_t cut = 0; cut < size; cut++) {
        r = (wire_reader){.at = bytes, .end = bytes + cut};
        ck_assert(!wire_read_value(&r, &got));
        w = (wire_writer){.at = bytes, .end = bytes + cut};
        wire_write_value(&w, value);
        ck_assert(w.full && w.at == bytes);
    }
}
END_TEST

static bool is_read(const uint8_t *bytes, size_t size, wire_value *value)
{
    wire_reader r = {.at = bytes, .end = bytes + size};
    return wire_read_value(&r, value);
}

START_TEST(values_that_nobody_knows_or_that_are_too_large_are_refused)
{
    wire_value value;
    uint8_t bytes[1 + WIRE_VARINT_MOST];
    for (uint8_t type = WIRE_BINARY + 1; type < 16; type++)
        ck_assert(!is_read(&type, 1, &value));
    for (wire_type type = WIRE_INT32; type <= WIRE_UINT32; type++) {
        wire_writer w = {.at = bytes, .end = bytes + sizeof bytes};
        wire_write_byte(&w, (uint8_t)type);
        wire_write_varint(&w, (uint64_t)UINT32_MAX + 1);
        ck_assert(!is_read(bytes, sizeof bytes, &value));
    }
    wire_writer w = {.at = bytes, .end = bytes + sizeof bytes};
    wire_write_byte(&w, WIRE_STRING);
    wire_write_varint(&w, UINT64_MAX); /* a string that would go round the whole memory */
    ck_assert(!is_read(bytes, sizeof bytes, &value));
    w = (wire_writer){.at = bytes, .end = bytes + sizeof bytes};
    wire_write_byte(&w, WIRE_INT32);
    wire_write_varint(&w, UINT32_MAX); /* -1 in 32 bits */
    ck_assert(is_read(bytes, sizeof bytes, &value));
    ck_assert_int_eq((int64_t)value.number, -1);
}
END_TEST

/* -------------------------------------------------------------------------------------------------------------- frames
 */

typedef struct scene {
    spop_session session;
    uint8_t bytes[512];
    wire_writer w;
} scene;

static void begin_frame(scene *s, uint8_t type, uint32_t flags, uint64_t stream, uint64_t frame)
{
    s->w = (wire_writer){.at = s->bytes, .end = s->bytes + sizeof s->bytes};
    wire_write_byte(&s->w, type);
    wire_write_u32(&s->w, flags);
    wire_write_varint(&s->w, stream);
    wire_write_varint(&s->w, frame);
}

static void put_pair(scene *s, const char *name, const wire_value *value)
{
    wire_write_string(&s->w, name, strlen(name));
    wire_write_value(&s->w, value);
}

static void put_string(scene *s, const char *name, const char *text)
{
    put_pair(s, name, &(wire_value){.type = WIRE_STRING, .bytes = {(const uint8_t *)text, strlen(text)}});
}

static void put_hello(scene *s, const char *versions, uint64_t size)
{
    begin_frame(s, 1, 1, 0, 0);
    put_string(s, "supported-versions", versions);
    put_pair(s, "max-frame-size", &(wire_value){.type = WIRE_UINT32, .number = size});
    put_string(s, "capabilities", "pipelining,async");
}

static void put_message(scene *s, const char *name, uint8_t count)
{
    wire_write_string(&s->w, name, strlen(name));
    wire_write_byte(&s->w, count);
}

static size_t size_of(const scene *s)
{
    ck_assert(!s->w.full);
    return (size_t)(s->w.at - s->bytes);
}

static spop_event receive(scene *s)
{
    return spop_receive(&s->session, s->bytes, size_of(s));
}

static void must_refuse(scene *s, spop_status status)
{
    const bool was_open = s->session.is_open;
    const spop_event event = receive(s);
    ck_assert_int_eq(event.kind, SPOP_REFUSED);
    ck_assert_int_eq(event.status, status);
    ck_assert_uint_gt(event.text.size, 0);
    ck_assert(s->session.is_open == was_open);
}

static void greet(scene *s)
{
    put_hello(s, "2.0", 16380);
    ck_assert_int_eq(receive(s).kind, SPOP_HELLO);
}

START_TEST(hello_agrees_on_version_and_size)
{
    static const char *const GOOD[] = {"2.0", "2.5", "1.0, 2.0", " 2.0 ,3.0", "2.17"};
    for (size_t i = 0; i < sizeof GOOD / sizeof *GOOD; i++) {
        scene s = {0};
        put_hello(&s, GOOD[i], 300 + i);
        ck_assert_int_eq(receive(&s).kind, SPOP_HELLO);
        ck_assert_uint_eq(s.session.max_size, 300 + i);
    }
    scene large = {0};
    put_hello(&large, "2.0", UINT32_MAX);
    ck_assert_int_eq(receive(&large).kind, SPOP_HELLO);
    ck_assert_uint_eq(large.session.max_size, SPOP_MOST);
}
END_TEST

START_TEST(hello_is_answered_to_the_byte)
{
    static const uint8_t WANTED[] = "\0\0\0\x3f\x65\0\0\0\1\0\0"
                                    "\x07version\x08\x03"
                                    "2.0"
                                    "\x0emax-frame-size\x03\xfc\x12"
                                    "\x0c"
                                    "capabilities\x08\x0apipelining";
    uint8_t to[SPOP_PREFIX + SPOP_SMALL];
    const spop_session session = {.is_open = true, .max_size = 540};
    ck_assert_uint_eq(spop_put_hello(&session, to), sizeof WANTED - 1);
    ck_assert_mem_eq(to, WANTED, sizeof WANTED - 1);
}
END_TEST

START_TEST(hello_with_something_wrong_has_the_status_for_it)
{
    static const char *const BAD[] = {"", "1.0", "2", "2.", "2.x", "20.0", "3.0,1.9", ","};
    for (size_t i = 0; i < sizeof BAD / sizeof *BAD; i++) {
        scene s = {0};
        put_hello(&s, BAD[i], 16380);
        must_refuse(&s, SPOP_BAD_VERSION);
    }
    scene s = {0};
    put_hello(&s, "2.0", 255);
    must_refuse(&s, SPOP_BAD_SIZE);
    begin_frame(&s, 1, 1, 0, 0);
    put_string(&s, "capabilities", "");
    must_refuse(&s, SPOP_NO_VERSION);
    put_string(&s, "supported-versions", "2.0");
    must_refuse(&s, SPOP_NO_SIZE);
    put_pair(&s, "max-frame-size", &(wire_value){.type = WIRE_STRING, .bytes = TEXT("300")});
    must_refuse(&s, SPOP_INVALID);
    begin_frame(&s, 1, 1, 0, 0);
    put_string(&s, "supported-versions", "2.0");
    put_pair(&s, "max-frame-size", &(wire_value){.type = WIRE_UINT32, .number = 300});
    must_refuse(&s, SPOP_NO_CAPABILITIES);
}
END_TEST

START_TEST(hello_has_no_ids_and_is_not_in_fragments)
{
    scene s = {0};
    put_hello(&s, "2.0", 300);
    s.bytes[5] = 1;
    must_refuse(&s, SPOP_INVALID);
    s.bytes[5] = 0;
    s.bytes[6] = 1;
    must_refuse(&s, SPOP_INVALID);
    s.bytes[6] = 0;
    s.bytes[4] = 0;
    must_refuse(&s, SPOP_FRAGMENTED);
}
END_TEST

START_TEST(frames_come_in_order)
{
    scene s = {0};
    begin_frame(&s, 3, 1, 1, 1);
    must_refuse(&s, SPOP_INVALID); /* before the HELLO */
    begin_frame(&s, 77, 1, 1, 1);
    must_refuse(&s, SPOP_INVALID);
    greet(&s);
    put_hello(&s, "2.0", 300);
    must_refuse(&s, SPOP_INVALID); /* a second one */
    for (uint8_t type = 101; type <= 103; type++) {
        begin_frame(&s, type, 1, 0, 0);
        must_refuse(&s, SPOP_INVALID);
    }
    begin_frame(&s, 77, 0, 5, 5);
    ck_assert_int_eq(receive(&s).kind, SPOP_SKIP);
    begin_frame(&s, 0, 1, 1, 1);
    must_refuse(&s, SPOP_FRAGMENTED);
    begin_frame(&s, 3, 0, 1, 1);
    must_refuse(&s, SPOP_FRAGMENTED);
    begin_frame(&s, 3, 2, 1, 1);
    must_refuse(&s, SPOP_FRAGMENTED);
    begin_frame(&s, 3, 1, 1, 1);
    ck_assert_int_eq(receive(&s).kind, SPOP_NOTIFY); /* without messages */
}
END_TEST

START_TEST(lengths_are_judged_before_anything_is_read)
{
    spop_session session = {0};
    ck_assert_int_eq(spop_check_size(&session, 0), SPOP_INVALID);
    ck_assert_int_eq(spop_check_size(&session, 6), SPOP_INVALID);
    ck_assert_int_eq(spop_check_size(&session, 7), SPOP_NORMAL);
    ck_assert_int_eq(spop_check_size(&session, SPOP_MOST), SPOP_NORMAL);
    ck_assert_int_eq(spop_check_size(&session, SPOP_MOST + 1), SPOP_TOO_BIG);
    ck_assert_int_eq(spop_check_size(&session, UINT32_MAX), SPOP_TOO_BIG);
    session = (spop_session){.is_open = true, .max_size = 300};
    ck_assert_int_eq(spop_check_size(&session, 300), SPOP_NORMAL);
    ck_assert_int_eq(spop_check_size(&session, 301), SPOP_TOO_BIG);
}
END_TEST

START_TEST(goodbyes_tell_why)
{
    scene s = {0};
    greet(&s);
    begin_frame(&s, 2, 1, 0, 0);
    put_pair(&s, "status-code", &(wire_value){.type = WIRE_UINT32, .number = 2});
    put_string(&s, "message", "late");
    const spop_event event = receive(&s);
    ck_assert_int_eq(event.kind, SPOP_BYE);
    ck_assert_int_eq(event.status, SPOP_TIMEOUT);
    ck_assert(wire_is(event.text, "late"));
    wire_write_byte(&s.w, 1);
    must_refuse(&s, SPOP_INVALID);
}
END_TEST

/* Each ACK fits into the smallest frame that may be agreed on, whatever it says. */
START_TEST(answers_fit_into_the_smallest_frame)
{
    static const uint8_t WANTED[] = "\0\0\0\x1b\x67\0\0\0\1\x05\xf0\x01"
                                    "\1\3\2\x06status\x08\x07granted";
    uint8_t to[SPOP_PREFIX + SPOP_SMALL], letters[300];
    const spop_variable status = {"status", {.type = WIRE_STRING, .bytes = TEXT("granted")}};
    ck_assert_uint_eq(spop_put_ack(to, 5, 256, &status, 1), sizeof WANTED - 1);
    ck_assert_mem_eq(to, WANTED, sizeof WANTED - 1);
    memset(letters, 'x', sizeof letters);
    const spop_variable variables[] = {
        {"status", {.type = WIRE_STRING, .bytes = TEXT("granted")}},
        {"wait", {.type = WIRE_UINT32, .number = UINT32_MAX}},
        {"reason", {.type = WIRE_STRING, .bytes = {letters, SPOP_TEXT}}},
        {"confirm", {.type = WIRE_STRING, .bytes = TEXT("expired")}},
        {"unlock", {.type = WIRE_STRING, .bytes = TEXT("cancelled")}},
    };
    const size_t all = spop_put_ack(to, UINT64_MAX, UINT64_MAX, variables, 5);
    ck_assert_uint_le(all, sizeof to);
    ck_assert_uint_lt(spop_put_ack(to, UINT64_MAX, UINT64_MAX, variables, 4), all); /* nothing was left out */
    const spop_variable huge = {"reason", {.type = WIRE_STRING, .bytes = {letters, sizeof letters}}};
    ck_assert_uint_eq(spop_put_ack(to, 1, 1, &huge, 1), spop_put_ack(to, 1, 1, NULL, 0));
}
END_TEST

/* ------------------------------------------------------------------------------------------------------------ messages
 */

static void put_lock(scene *s)
{
    begin_frame(s, 3, 1, 7, 8);
    put_message(s, "lock", 6);
    put_string(s, "id", "one");
    put_string(s, "key", "user/42");
    put_pair(s, "timeout", &(wire_value){.type = WIRE_INT64, .number = 1500});
    put_string(s, "hold", "30s");
    put_string(s, "confirm", "250ms");
    put_string(s, "mode", "shared");
}

START_TEST(messages_say_what_to_do)
{
    scene s = {0};
    spop_message message;
    order o;
    greet(&s);
    put_lock(&s);
    put_message(&s, "unlock", 1);
    put_string(&s, "id", "two");
    spop_event event = receive(&s);
    ck_assert_int_eq(event.kind, SPOP_NOTIFY);
    ck_assert_uint_eq(event.stream, 7);
    ck_assert_uint_eq(event.frame, 8);
    ck_assert(spop_next_message(&event.messages, &message));
    order_read(message, &o);
    ck_assert_ptr_null(o.wrong);
    ck_assert_int_eq(o.kind, ORDER_LOCK);
    ck_assert(wire_is(o.id, "one") && wire_is(o.key, "user/42") && o.is_shared);
    ck_assert_uint_eq(o.timeout.ms, 1500);
    ck_assert_uint_eq(o.hold.ms, 30000);
    ck_assert_uint_eq(o.confirm.ms, 250);
    ck_assert(spop_next_message(&event.messages, &message));
    order_read(message, &o);
    ck_assert_ptr_null(o.wrong);
    ck_assert_int_eq(o.kind, ORDER_UNLOCK);
    ck_assert(wire_is(o.id, "two") && !o.timeout.is_given);
    ck_assert(!spop_next_message(&event.messages, &message));
}
END_TEST

START_TEST(messages_are_cut_off_at_each_byte)
{
    scene s = {0};
    greet(&s);
    begin_frame(&s, 3, 1, 7, 8);
    const size_t head = size_of(&s);
    put_lock(&s);
    const size_t size = size_of(&s);
    for (size_t cut = 0; cut < size; cut++) {
        uint8_t *frame = malloc(cut ? cut : 1); /* of this size, so that the sanitizers see each byte beyond it */
        ck_assert_ptr_nonnull(frame);
        memcpy(frame, s.bytes, cut);
        const spop_event event = spop_receive(&s.session, frame, cut);
        if (cut == head) /* no messages at all */
            ck_assert_int_eq(event.kind, SPOP_NOTIFY);
        else
            ck_assert(event.kind == SPOP_REFUSED && event.status == SPOP_INVALID);
        free(frame);
    }
}
END_TEST

static const char *wrong_with(const char *message_name, const char *name, const wire_value *value)
{
    static order o;
    scene s = {0};
    spop_message message;
    greet(&s);
    begin_frame(&s, 3, 1, 1, 1);
    put_message(&s, message_name, name ? 3 : 2);
    put_string(&s, "id", "one");
    if (strcmp(message_name, "lock") == 0)
        put_string(&s, "key", "two");
    else
        put_string(&s, "id", "one");
    if (name)
        put_pair(&s, name, value);
    spop_event event = receive(&s);
    ck_assert(spop_next_message(&event.messages, &message));
    order_read(message, &o);
    return o.wrong;
}

START_TEST(arguments_that_are_wrong_are_not_passed_over)
{
    uint8_t letters[129];
    memset(letters, 'x', sizeof letters);
    const struct {
        const char *message, *name;
        wire_value value;
        bool is_wrong;
    } CASES[] = {
        {"lock", NULL, {0}, false},
        {"confirm", NULL, {0}, false},
        {"unlock", NULL, {0}, false},
        {"look", NULL, {0}, true},
        {"", NULL, {0}, true},
        {"unlock", "key", {.type = WIRE_STRING, .bytes = TEXT("k")}, true},
        {"confirm", "timeout", {.type = WIRE_INT64, .number = 1}, true},
        {"lock", "tiemout", {.type = WIRE_INT64, .number = 1}, true},
        {"lock", "", {.type = WIRE_INT64, .number = 1}, true},
        {"lock", "id", {.type = WIRE_NULL}, true},
        {"lock", "id", {.type = WIRE_STRING, .bytes = TEXT("")}, true},
        {"lock", "id", {.type = WIRE_STRING, .bytes = {letters, 128}}, false},
        {"lock", "id", {.type = WIRE_STRING, .bytes = {letters, 129}}, true},
        {"lock", "id", {.type = WIRE_INT64, .number = 5}, true},
        {"lock", "key", {.type = WIRE_NULL}, true},
        {"lock", "key", {.type = WIRE_BOOL}, true},
        {"lock", "key", {.type = WIRE_STRING, .bytes = TEXT("")}, false},
        {"lock", "key", {.type = WIRE_BINARY, .bytes = TEXT("\0/..")}, false},
        {"lock", "mode", {.type = WIRE_STRING, .bytes = TEXT("exclusive")}, false},
        {"lock", "mode", {.type = WIRE_STRING, .bytes = TEXT("share")}, true},
        {"lock", "mode", {.type = WIRE_NULL}, true},
        {"lock", "timeout", {.type = WIRE_NULL}, true},
        {"lock", "timeout", {.type = WIRE_BOOL}, true},
        {"lock", "timeout", {.type = WIRE_INT64, .number = (uint64_t)-1}, true},
        {"lock", "timeout", {.type = WIRE_INT64, .number = DURATION_MOST}, false},
        {"lock", "timeout", {.type = WIRE_INT64, .number = DURATION_MOST + 1}, true},
        {"lock", "hold", {.type = WIRE_STRING, .bytes = TEXT("1.5s")}, true},
        {"lock", "confirm", {.type = WIRE_STRING, .bytes = TEXT("")}, true},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        const char *wrong = wrong_with(CASES[i].message, CASES[i].name, &CASES[i].value);
        ck_assert_msg((wrong != NULL) == CASES[i].is_wrong, "case %zu: %s", i, wrong ? wrong : "nothing is wrong");
    }
}
END_TEST

START_TEST(keys_that_are_no_text_become_text)
{
    static const struct {
        wire_value value;
        const char *text;
    } CASES[] = {
        {{.type = WIRE_INT64, .number = (uint64_t)-42}, "-42"},
        {{.type = WIRE_INT32, .number = 7}, "7"},
        {{.type = WIRE_UINT64, .number = UINT64_MAX}, "18446744073709551615"},
        {{.type = WIRE_IPV4, .bytes = {ADDRESS, 4}}, "253.2.3.4"},
        {{.type = WIRE_IPV6, .bytes = {ADDRESS, 16}}, "fd02:304:506:708:90a:b0c:d0e:f10"},
    };
    scene s = {0};
    spop_message message;
    order o;
    greet(&s);
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        begin_frame(&s, 3, 1, 1, 1);
        put_message(&s, "lock", 2);
        put_pair(&s, "key", &CASES[i].value);
        put_string(&s, "id", "x");
        spop_event event = receive(&s);
        ck_assert(spop_next_message(&event.messages, &message));
        order_read(message, &o);
        ck_assert_ptr_null(o.wrong);
        ck_assert_msg(wire_is(o.key, CASES[i].text), "%.*s", (int)o.key.size, (const char *)o.key.at);
    }
}
END_TEST

START_TEST(durations_are_what_haproxy_takes_for_them)
{
    static const struct {
        const char *text;
        uint64_t ms;
    } GOOD[] = {{"0", 0},
                {"15", 15},
                {"15ms", 15},
                {"007s", 7000},
                {"2m", 120000},
                {"1h", 3600000},
                {"365d", DURATION_MOST},
                {"31536000000", DURATION_MOST}};
    static const char *const BAD[] = {"",
                                      "s",
                                      "-1",
                                      "+1",
                                      " 1",
                                      "1 ",
                                      "1.5s",
                                      "1S",
                                      "1us",
                                      "5x",
                                      "366d",
                                      "31536000001",
                                      "99999999999999999999999999",
                                      "1ms2"};
    uint64_t ms;
    for (size_t i = 0; i < sizeof GOOD / sizeof *GOOD; i++) {
        ck_assert_msg(duration_parse(GOOD[i].text, strlen(GOOD[i].text), &ms), "%s", GOOD[i].text);
        ck_assert_uint_eq(ms, GOOD[i].ms);
    }
    for (size_t i = 0; i < sizeof BAD / sizeof *BAD; i++)
        ck_assert_msg(!duration_parse(BAD[i], strlen(BAD[i]), &ms), "%s", BAD[i]);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("codec");
    TCase *c = tcase_create("codec");
    const int bounds = sizeof BOUNDS / sizeof *BOUNDS, values = sizeof VALUES / sizeof *VALUES;
    tcase_add_loop_test(c, integers_have_the_lengths_of_the_specification, 0, bounds);
    tcase_add_loop_test(c, integers_are_cut_off_at_each_byte, 0, bounds);
    tcase_add_test(c, integers_beyond_64_bits_are_refused);
    tcase_add_loop_test(c, values_come_back_and_are_cut_off_at_each_byte, 0, values);
    tcase_add_test(c, values_that_nobody_knows_or_that_are_too_large_are_refused);
    tcase_add_test(c, hello_agrees_on_version_and_size);
    tcase_add_test(c, hello_is_answered_to_the_byte);
    tcase_add_test(c, hello_with_something_wrong_has_the_status_for_it);
    tcase_add_test(c, hello_has_no_ids_and_is_not_in_fragments);
    tcase_add_test(c, frames_come_in_order);
    tcase_add_test(c, lengths_are_judged_before_anything_is_read);
    tcase_add_test(c, goodbyes_tell_why);
    tcase_add_test(c, answers_fit_into_the_smallest_frame);
    tcase_add_test(c, messages_say_what_to_do);
    tcase_add_test(c, messages_are_cut_off_at_each_byte);
    tcase_add_test(c, arguments_that_are_wrong_are_not_passed_over);
    tcase_add_test(c, keys_that_are_no_text_become_text);
    tcase_add_test(c, durations_are_what_haproxy_takes_for_them);
    suite_add_tcase(suite, c);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
