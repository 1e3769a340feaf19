#include "order.h"

#include "duration.h"

#include <arpa/inet.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* Each of these takes a value, or says what is wrong with it. */

static const char *take_id(order *o, const wire_value *value)
{
    if (value->type != WIRE_STRING && value->type != WIRE_BINARY)
        return "the id is no string";
    if (value->bytes.size == 0 || value->bytes.size > ORDER_ID_MOST)
        return "the id is empty or longer than 128 bytes";
    o->id = value->bytes;
    return NULL;
}

static const char *take_key(order *o, const wire_value *value)
{
    switch (value->type) {
    case WIRE_STRING:
    case WIRE_BINARY:
        o->key = value->bytes;
        return NULL;
    case WIRE_INT32:
    case WIRE_INT64:
        snprintf(o->key_text, sizeof o->key_text, "%" PRId64, (int64_t)value->number);
        break;
    case WIRE_UINT32:
    case WIRE_UINT64:
        snprintf(o->key_text, sizeof o->key_text, "%" PRIu64, value->number);
        break;
    case WIRE_IPV4:
        inet_ntop(AF_INET, value->bytes.at, o->key_text, sizeof o->key_text);
        break;
    case WIRE_IPV6:
        inet_ntop(AF_INET6, value->bytes.at, o->key_text, sizeof o->key_text);
        break;
    default:
        return "the key is neither text nor a number nor an address";
    }
    o->key = (wire_bytes){(const uint8_t *)o->key_text, strlen(o->key_text)};
    return NULL;
}

static const char *take_time(order_time *time, const wire_value *value)
{
    const bool is_text = value->type == WIRE_STRING;
    if (!is_text && (value->type < WIRE_INT32 || value->type > WIRE_UINT64))
        return "a duration is neither text nor a number";
    if (is_text ? !duration_parse(value->bytes.at, value->bytes.size, &time->ms) : value->number > DURATION_MOST)
        return "a duration is not valid";
    if (!is_text)
        time->ms = value->number;
    time->is_given = true;
    return NULL;
}

static const char *take_timeout(order *o, const wire_value *value)
{
    return take_time(&o->timeout, value);
}

static const char *take_hold(order *o, const wire_value *value)
{
    return take_time(&o->hold, value);
}

static const char *take_confirm(order *o, const wire_value *value)
{
    return take_time(&o->confirm, value);
}

static const char *take_mode(order *o, const wire_value *value)
{
    o->is_shared = wire_is(value->bytes, "shared");
    return o->is_shared || wire_is(value->bytes, "exclusive") ? NULL : "the mode is neither exclusive nor shared";
}

static const struct {
    const char *name;
    bool for_lock_only;
    const char *(*take)(order *o, const wire_value *value);
} ARGUMENTS[] = {{"id", false, take_id},    {"key", true, take_key},         {"timeout", true, take_timeout},
                 {"hold", true, take_hold}, {"confirm", true, take_confirm}, {"mode", true, take_mode}};

static const char *take(order *o, const spop_argument *argument)
{
    for (size_t i = 0; i < sizeof ARGUMENTS / sizeof *ARGUMENTS; i++)
        if (wire_is(argument->name, ARGUMENTS[i].name) && (o->kind == ORDER_LOCK || !ARGUMENTS[i].for_lock_only))
            return ARGUMENTS[i].take(o, &argument->value);
    return "it has an argument that is not known";
}

static order_kind kind_of(wire_bytes name)
{
    if (wire_is(name, "lock"))
        return ORDER_LOCK;
    if (wire_is(name, "confirm"))
        return ORDER_CONFIRM;
    return wire_is(name, "unlock") ? ORDER_UNLOCK : ORDER_UNKNOWN;
}

void order_read(spop_message message, order *out)
{
    spop_argument argument;
    *out = (order){.kind = kind_of(message.name)};
    if (out->kind == ORDER_UNKNOWN)
        out->wrong = "a message that is not known";
    while (!out->wrong && spop_next_argument(&message, &argument))
        out->wrong = take(out, &argument);
    if (!out->wrong && !out->id.at)
        out->wrong = "there is no id";
    if (!out->wrong && out->kind == ORDER_LOCK && !out->key.at)
        out->wrong = "there is no key";
}
