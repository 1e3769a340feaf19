/* What a message orders: messages are called `lock`, `confirm` and `unlock`, and have the arguments that README.md
 * names. Pure. */
#ifndef AFLOCK_SPOA_ORDER_H
#define AFLOCK_SPOA_ORDER_H

#include "spop.h"

enum { ORDER_ID_MOST = 128, ORDER_KEY_TEXT = 46 };

typedef enum order_kind { ORDER_LOCK, ORDER_CONFIRM, ORDER_UNLOCK, ORDER_UNKNOWN } order_kind;

typedef struct order_time {
    bool is_given;
    uint64_t ms;
} order_time;

/* Not to be copied: `key` may point into it, else both point into the frame. */
typedef struct order {
    order_kind kind;
    const char *wrong; /* why it cannot be done; NULL: it can */
    wire_bytes id, key;
    order_time timeout, hold, confirm;
    bool is_shared;
    char key_text[ORDER_KEY_TEXT]; /* of a key that is a number or an address */
} order;

void order_read(spop_message message, order *out);

#endif
