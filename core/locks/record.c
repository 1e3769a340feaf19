/* The reading and writing of record.h. A record is checked as UTF-8 once; what comes after may rely on it.
 *
 * What Python calls white space differs: strip() takes all of it, int() and float() take the four separators 1C ... 1F
 * for garbage, splitlines() ends a line at most of it.
 */
#include "locks/record.h"

#include <float.h>
#include <string.h>

_Static_assert(DBL_MANT_DIG == 53 && DBL_MAX_EXP == 1024, "a double is as Python's float");

bool afl_text_equal(afl_text a, afl_text b)
{
    return a.size == b.size && (a.size == 0 || memcmp(a.at, b.at, a.size) == 0);
}

static bool text_is(afl_text text, const char *word)
{
    return afl_text_equal(text, (afl_text){word, strlen(word)});
}

static afl_text text_from(afl_text text, size_t from)
{
    return (afl_text){text.at + from, text.size - from};
}

/* -------------------------------------------------------------------------------------------------------- characters
 */

static uint32_t character(afl_text text, size_t *bytes)
{
    static const uint32_t LOWEST[] = {0, 0, 0x80, 0x800, 0x10000};
    const unsigned char *at = (const unsigned char *)text.at;
    const size_t count = at[0] < 0x80   ? 1
                         : at[0] < 0xC0 ? 0
                         : at[0] < 0xE0 ? 2
                         : at[0] < 0xF0 ? 3
                         : at[0] < 0xF8 ? 4
                                        : 0;
    uint32_t code = count == 1 ? at[0] : at[0] & (0x7Fu >> count);
    *bytes = 0;
    if (count == 0 || count > text.size)
        return 0;
    for (size_t i = 1; i < count; i++) {
        if ((at[i] & 0xC0) != 0x80)
            return 0;
        code = code << 6 | (at[i] & 0x3Fu);
    }
    if (code < LOWEST[count] || code > 0x10FFFF || (code >= 0xD800 && code < 0xE000))
        return 0;
    *bytes = count;
    return code;
}

uint32_t afl_text_character(afl_text text, size_t *bytes)
{
    return character(text, bytes);
}

static bool is_utf8(afl_text text)
{
    while (text.size > 0) {
        size_t bytes;
        character(text, &bytes);
        if (bytes == 0)
            return false;
        text = text_from(text, bytes);
    }
    return true;
}

static bool ends_line(uint32_t c)
{
    return (c >= '\n' && c <= '\r') || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 || c == 0x2029;
}

static bool is_space(uint32_t c)
{
    return ends_line(c) || c == '\t' || c == ' ' || c == 0x1F || c == 0xA0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200A) || c == 0x202F || c == 0x205F || c == 0x3000;
}

static afl_text strip(afl_text text)
{
    size_t bytes;
    while (text.size > 0 && is_space(character(text, &bytes)))
        text = text_from(text, bytes);
    while (text.size > 0) {
        size_t last = text.size - 1;
        while (last > 0 && ((unsigned char)text.at[last] & 0xC0) == 0x80)
            last--;
        if (!is_space(character(text_from(text, last), &bytes)))
            break;
        text.size = last;
    }
    return text;
}

/* Takes the first line off the text. False: there is none left. */
static bool next_line(afl_text *text, afl_text *line)
{
    size_t at = 0, bytes = 0;
    if (text->size == 0)
        return false;
    while (at < text->size && !ends_line(character(text_from(*text, at), &bytes)))
        at += bytes;
    *line = (afl_text){text->at, at};
    if (at < text->size) {
        const bool both = text->at[at] == '\r' && at + 1 < text->size && text->at[at + 1] == '\n';
        at += both ? 2 : bytes;
    }
    *text = text_from(*text, at);
    return true;
}

/* The zeros of all scripts, which nine more digits follow; -1: no digit of any. */
static int digit_of(uint32_t c)
{
    static const uint32_t ZEROS[] = {
        0x00030, 0x00660, 0x006F0, 0x007C0, 0x00966, 0x009E6, 0x00A66, 0x00AE6, 0x00B66, 0x00BE6, 0x00C66,
        0x00CE6, 0x00D66, 0x00DE6, 0x00E50, 0x00ED0, 0x00F20, 0x01040, 0x01090, 0x017E0, 0x01810, 0x01946,
        0x019D0, 0x01A80, 0x01A90, 0x01B50, 0x01BB0, 0x01C40, 0x01C50, 0x0A620, 0x0A8D0, 0x0A900, 0x0A9D0,
        0x0A9F0, 0x0AA50, 0x0ABF0, 0x0FF10, 0x104A0, 0x10D30, 0x10D40, 0x11066, 0x110F0, 0x11136, 0x111D0,
        0x112F0, 0x11450, 0x114D0, 0x11650, 0x116C0, 0x116D0, 0x116DA, 0x11730, 0x118E0, 0x11950, 0x11BF0,
        0x11C50, 0x11D50, 0x11DA0, 0x11DE0, 0x11F50, 0x16130, 0x16A60, 0x16AC0, 0x16B50, 0x16D70, 0x1CCF0,
        0x1D7CE, 0x1D7D8, 0x1D7E2, 0x1D7EC, 0x1D7F6, 0x1E140, 0x1E2F0, 0x1E4F0, 0x1E5F1, 0x1E950, 0x1FBF0};
    for (size_t i = 0; i < sizeof ZEROS / sizeof ZEROS[0] && ZEROS[i] <= c; i++)
        if (c - ZEROS[i] < 10)
            return (int)(c - ZEROS[i]);
    return -1;
}

/* ----------------------------------------------------------------------------------------------------------- numbers
 */

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool is_blank(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* A number in plain ASCII: digits of all scripts become ours, white space around it and "_" between two digits go. */
typedef struct number {
    char text[AFL_RECORD_SIZE + 1]; /* ends with a zero */
    size_t size;
} number;

static bool make_plain(afl_text text, number *plain)
{
    char *to = plain->text;
    size_t bytes, used = 0;
    if (text.size > AFL_RECORD_SIZE)
        return false;
    for (; text.size > 0; text = text_from(text, bytes)) {
        const uint32_t c = character(text, &bytes);
        const int digit = digit_of(c);
        if (bytes == 0 || c == 0 || (c > 0x7F && digit < 0 && !is_space(c)))
            return false;
        to[used++] = c <= 0x7F ? (char)c : digit < 0 ? ' ' : (char)('0' + digit);
    }
    size_t from = 0;
    while (used > 0 && is_blank(to[used - 1]))
        used--;
    while (from < used && is_blank(to[from]))
        from++;
    to[used] = '\0';
    plain->size = 0;
    for (size_t i = from; i < used; i++) {
        if (to[i] != '_')
            to[plain->size++] = to[i];
        else if (plain->size == 0 || !is_digit(to[plain->size - 1]) || !is_digit(to[i + 1]))
            return false;
    }
    to[plain->size] = '\0';
    return true;
}

/* The sign at *at, if there is one. */
static bool take_minus(const char **at)
{
    const bool minus = **at == '-';
    if (minus || **at == '+')
        (*at)++;
    return minus;
}

/* --------------------------------------------------------------------------------------------------------- big numbers
 */

/* For the exact value of a decimal fraction: a record's digits, or as many zeros, and the powers of ten of a double. */
enum { BIG_PARTS = 160 };

typedef struct big {
    uint32_t part[BIG_PARTS]; /* lowest first */
    size_t count;             /* the highest one is not 0 */
} big;

static void big_multiply_add(big *b, uint32_t factor, uint32_t carry)
{
    for (size_t i = 0; i < b->count; i++) {
        const uint64_t product = (uint64_t)b->part[i] * factor + carry;
        b->part[i] = (uint32_t)product;
        carry = (uint32_t)(product >> 32);
    }
    if (carry)
        b->part[b->count++] = carry;
}

static int big_bits(const big *b)
{
    int bits = (int)b->count * 32;
    for (uint32_t top = b->count ? b->part[b->count - 1] : 0; top && !(top >> 31); top <<= 1)
        bits--;
    return bits;
}

static void big_shift_left(big *b, int bits)
{
    for (; bits >= 24; bits -= 24)
        big_multiply_add(b, UINT32_C(1) << 24, 0);
    big_multiply_add(b, UINT32_C(1) << bits, 0);
}

static void big_halve(big *b)
{
    for (size_t i = 0; i < b->count; i++)
        b->part[i] = b->part[i] >> 1 | (i + 1 < b->count ? b->part[i + 1] << 31 : 0);
    if (b->count && b->part[b->count - 1] == 0)
        b->count--;
}

/* Subtracts if it can. */
static bool big_take(big *from, const big *b)
{
    uint32_t difference[BIG_PARTS];
    uint64_t borrow = 0;
    if (from->count < b->count)
        return false;
    for (size_t i = 0; i < from->count; i++) {
        const uint64_t less = (i < b->count ? b->part[i] : 0) + borrow;
        difference[i] = (uint32_t)(from->part[i] - less);
        borrow = from->part[i] < less;
    }
    if (borrow)
        return false;
    memcpy(from->part, difference, from->count * sizeof difference[0]);
    while (from->count && from->part[from->count - 1] == 0)
        from->count--;
    return true;
}

/* -------------------------------------------------------------------------------------------------------- start token
 */

afl_start afl_start_make(uint64_t boot_high, uint64_t boot_low, uint64_t time)
{
    return (afl_start){.part = {(uint32_t)time, (uint32_t)(time >> 32), (uint32_t)boot_low, (uint32_t)(boot_low >> 32),
                                (uint32_t)boot_high, (uint32_t)(boot_high >> 32)}};
}

bool afl_start_parse(afl_text text, afl_start *start)
{
    number plain = {.size = 0};
    big value = {.count = 0};
    if (!make_plain(text, &plain))
        return false;
    const char *at = plain.text, *first;
    const bool minus = take_minus(&at);
    for (first = at; is_digit(*at); at++)
        big_multiply_add(&value, 10, (uint32_t)(*at - '0'));
    if (at == first || at != plain.text + plain.size)
        return false;
    memset(start, 0, sizeof *start);
    start->beyond = value.count > 6 || (minus && value.count > 0);
    if (!start->beyond)
        memcpy(start->part, value.part, value.count * sizeof value.part[0]);
    return true;
}

size_t afl_start_print(const afl_start *start, char text[AFL_START_TEXT])
{
    char digits[AFL_START_TEXT];
    size_t count = 0;
    afl_start rest = *start;
    text[0] = '\0';
    if (start->beyond)
        return 0;
    static const uint32_t NOTHING[6] = {0};
    do {
        uint64_t remainder = 0;
        for (int i = 5; i >= 0; i--) {
            remainder = remainder << 32 | rest.part[i];
            rest.part[i] = (uint32_t)(remainder / 10);
            remainder %= 10;
        }
        digits[count++] = (char)('0' + (int)remainder);
    } while (memcmp(rest.part, NOTHING, sizeof NOTHING) != 0);
    for (size_t i = 0; i < count; i++)
        text[i] = digits[count - 1 - i];
    text[count] = '\0';
    return count;
}

bool afl_start_equal(const afl_start *a, const afl_start *b)
{
    return !a->beyond && !b->beyond && memcmp(a->part, b->part, sizeof a->part) == 0;
}

/* --------------------------------------------------------------------------------------------------------- durations
 */

enum {
    FRACTION = 52, /* bits of a double after the first one */
    LOWEST = -1074 /* the exponent of its last bit is never below */
};
static const uint64_t INFINITE = UINT64_C(0x7FF) << FRACTION, NOT_A_NUMBER = UINT64_C(0xFFF) << (FRACTION - 1);

static double double_of(bool minus, uint64_t bits)
{
    double value;
    bits |= (uint64_t)minus << 63;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* The bits of the double next to quotient * 2^exponent, and a bit more if `more`. The quotient has 55 or 56 bits, or
 * fewer where the exponent is LOWEST - 1. */
static uint64_t round_double(uint64_t quotient, int exponent, bool more)
{
    int bits = 0;
    while (bits < 64 && quotient >> bits)
        bits++;
    int last = bits + exponent - (FRACTION + 1);
    if (last < LOWEST)
        last = LOWEST;
    const int drop = last - exponent;
    const uint64_t dropped = quotient & ((UINT64_C(1) << drop) - 1), half = UINT64_C(1) << (drop - 1);
    uint64_t kept = quotient >> drop;
    if (dropped > half || (dropped == half && (more || (kept & 1))))
        kept++;
    /* A carry into the exponent, also from the subnormal numbers and to infinity, is right as it is. */
    const uint64_t bits_of_it = kept + ((uint64_t)(last - LOWEST) << FRACTION);
    return bits_of_it > INFINITE ? INFINITE : bits_of_it;
}

/* The bits of digits * 10^scale. */
static uint64_t decimal_to_double(big *digits, int scale)
{
    enum { STEPS = 56 };
    big divisor = {.part = {1}, .count = 1};
    for (; scale > 0; scale--)
        big_multiply_add(digits, 10, 0);
    for (; scale < 0; scale++)
        big_multiply_add(&divisor, 10, 0);
    int exponent = big_bits(digits) - big_bits(&divisor) - (STEPS - 1);
    if (exponent < LOWEST - 1)
        exponent = LOWEST - 1;
    big_shift_left(exponent < 0 ? digits : &divisor, exponent < 0 ? -exponent : exponent);
    big_shift_left(&divisor, STEPS);
    uint64_t quotient = 0;
    for (int i = 0; i <= STEPS; i++) {
        quotient = quotient << 1 | big_take(digits, &divisor);
        big_halve(&divisor);
    }
    return round_double(quotient, exponent, digits->count > 0);
}

/* Compares with a word in small letters. */
static bool is_word(const char *text, const char *word)
{
    for (; *text && *word; text++, word++)
        if ((*text | 0x20) != *word)
            return false;
    return *text == *word;
}

/* Digits, and where their point is: 1024 of them, times ten to the `scale`. */
typedef struct decimal {
    big digits;
    int count; /* after leading zeros */
    int scale;
    bool any; /* a zero is one, too */
} decimal;

static void take_digits(const char **at, decimal *d, int scale)
{
    for (; is_digit(**at); (*at)++) {
        big_multiply_add(&d->digits, 10, (uint32_t)(**at - '0'));
        d->count += d->digits.count > 0;
        d->scale += scale;
        d->any = true;
    }
}

/* "e5"; false: there is an e, and nothing that belongs to it. */
static bool take_exponent(const char **at, decimal *d)
{
    enum { ENOUGH = 100000 }; /* beyond all digits of a record */
    int exponent = 0;
    if (**at != 'e' && **at != 'E')
        return true;
    (*at)++;
    const bool minus = take_minus(at);
    if (!is_digit(**at))
        return false;
    for (; is_digit(**at); (*at)++)
        if (exponent < ENOUGH)
            exponent = exponent * 10 + (**at - '0');
    d->scale += minus ? -exponent : exponent;
    return true;
}

bool afl_seconds_parse(afl_text text, double *seconds)
{
    number plain = {.size = 0};
    decimal d = {.count = 0};
    uint64_t bits = 0;
    if (!make_plain(text, &plain))
        return false;
    const char *at = plain.text;
    const bool minus = take_minus(&at);
    if (is_word(at, "inf") || is_word(at, "infinity")) {
        bits = INFINITE;
    } else if (is_word(at, "nan")) {
        bits = NOT_A_NUMBER;
    } else {
        take_digits(&at, &d, 0);
        if (*at == '.') {
            at++;
            take_digits(&at, &d, -1);
        }
        if (!d.any || !take_exponent(&at, &d) || at != plain.text + plain.size)
            return false;
        /* Beyond 309 digits before the point there are no doubles, nor beyond 323 zeros behind it. */
        if (d.count > 0 && d.count + d.scale > 309)
            bits = INFINITE;
        else if (d.count > 0 && d.count + d.scale >= -323)
            bits = decimal_to_double(&d.digits, d.scale);
    }
    *seconds = double_of(minus, bits);
    return true;
}

size_t afl_seconds_print(uint64_t nanoseconds, char text[AFL_SECONDS_TEXT])
{
    enum { PLACES = 9 };
    char digits[AFL_SECONDS_TEXT];
    size_t count = 0, places = PLACES, used = 0;
    for (; nanoseconds > 0 || count <= PLACES; nanoseconds /= 10)
        digits[count++] = (char)('0' + (int)(nanoseconds % 10));
    while (places > 0 && digits[PLACES - places] == '0')
        places--;
    for (size_t i = count; i > PLACES - places; i--) {
        if (i == PLACES)
            text[used++] = '.';
        text[used++] = digits[i - 1];
    }
    text[used] = '\0';
    return used;
}

/* By way of the text, because a division is rounded twice where doubles are calculated with 80 bits. */
double afl_seconds_from(uint64_t nanoseconds)
{
    char text[AFL_SECONDS_TEXT];
    double seconds = 0;
    const size_t size = afl_seconds_print(nanoseconds, text);
    afl_seconds_parse((afl_text){text, size}, &seconds);
    return seconds;
}

/* ----------------------------------------------------------------------------------------------------------- reading
 */

static const char LEASE[] = "filelock/2", STRICT[] = "1\nfilelock-strict-v1\0\n0\n";

static bool parse_pid(afl_text text, int32_t *pid)
{
    static const uint32_t NOTHING[5] = {0};
    afl_start value;
    if (!afl_start_parse(text, &value) || value.beyond || memcmp(value.part + 1, NOTHING, sizeof NOTHING) != 0 ||
        value.part[0] < 1 || value.part[0] > INT32_MAX)
        return false;
    *pid = (int32_t)value.part[0];
    return true;
}

/* Pid, host and perhaps a start token, each on a line. */
static bool parse_soft(afl_text text, afl_record *r)
{
    afl_text pid, start, more;
    if (!next_line(&text, &pid) || !next_line(&text, &r->host))
        return false;
    r->has_start = next_line(&text, &start);
    r->kind = AFL_RECORD_SOFT;
    return parse_pid(pid, &r->pid) && (!r->has_start || afl_start_parse(start, &r->start)) && !next_line(&text, &more);
}

/* What we look for in a lease; of two with one name the last counts. */
enum { PID, HOST, MODE, TOKEN, DURATION, START, FIELDS };
typedef struct fields {
    afl_text value[FIELDS];
    bool there[FIELDS];
} fields;

static bool parse_fields(afl_text text, fields *f)
{
    static const char *const NAMES[FIELDS] = {"pid", "host", "mode", "token", "duration", "start"};
    afl_text line;
    while (next_line(&text, &line)) {
        const char *equals = line.size ? memchr(line.at, '=', line.size) : NULL;
        if (!equals)
            return false;
        const afl_text name = {line.at, (size_t)(equals - line.at)};
        for (int i = 0; i < FIELDS; i++) {
            if (!text_is(name, NAMES[i]))
                continue;
            f->value[i] = text_from(line, name.size + 1);
            f->there[i] = true;
        }
    }
    return true;
}

/* A number that is there has to be one, also where nobody asks for it. */
static bool parse_lease(afl_text text, afl_record *r)
{
    fields f = {.there = {false}};
    if (!parse_fields(text, &f) || !f.there[MODE] || !f.there[PID] || f.value[HOST].size == 0)
        return false;
    if (!parse_pid(f.value[PID], &r->pid) || (f.there[START] && !afl_start_parse(f.value[START], &r->start)) ||
        (f.there[DURATION] && !afl_seconds_parse(f.value[DURATION], &r->duration)))
        return false;
    r->host = f.value[HOST];
    r->token = f.value[TOKEN];
    r->duration_text = f.value[DURATION];
    r->has_start = f.there[START];
    r->kind = text_is(f.value[MODE], "lease") ? AFL_RECORD_LEASE : AFL_RECORD_OTHER;
    return r->kind == AFL_RECORD_OTHER || (f.there[TOKEN] && r->duration > 0 && r->duration <= DBL_MAX);
}

void afl_record_parse(const void *bytes, size_t size, afl_record *record)
{
    afl_text text = {bytes, size}, rest, first;
    memset(record, 0, sizeof *record);
    if (size == 0) {
        record->kind = AFL_RECORD_EMPTY;
        return;
    }
    if (afl_text_equal(text, (afl_text){STRICT, sizeof STRICT - 1})) {
        record->kind = AFL_RECORD_SENTINEL;
        return;
    }
    bool read = false;
    if (size <= AFL_RECORD_SIZE && is_utf8(text)) {
        rest = text = strip(text);
        const bool lease = next_line(&rest, &first) && text_is(first, LEASE);
        read = lease ? parse_lease(rest, record) : parse_soft(text, record);
    }
    if (!read)
        *record = (afl_record){.kind = AFL_RECORD_MALFORMED};
}

/* ----------------------------------------------------------------------------------------------------------- writing
 */

typedef struct page {
    char *text;
    size_t used, size;
    bool full;
} page;

static void put(page *p, afl_text text)
{
    p->full = p->full || text.size > p->size - p->used;
    if (p->full || text.size == 0)
        return;
    memcpy(p->text + p->used, text.at, text.size);
    p->used += text.size;
}

/* A line: "NAME=VALUE", or VALUE alone. */
static void put_line(page *p, const char *name, afl_text value)
{
    put(p, (afl_text){name, strlen(name)});
    put(p, value);
    put(p, (afl_text){"\n", 1});
}

static void put_number(page *p, const char *name, const afl_start *value)
{
    char text[AFL_START_TEXT];
    const size_t size = afl_start_print(value, text);
    put_line(p, name, (afl_text){text, size});
}

static page blank_page(char *text, size_t size)
{
    return (page){.text = text, .size = size < AFL_RECORD_SIZE ? size : AFL_RECORD_SIZE};
}

/* The length, if a reader finds in it what was to be written. */
static size_t read_again(const page *p, const afl_record *r, afl_record_kind kind)
{
    afl_record again;
    afl_record_parse(p->text, p->used, &again);
    const bool same = !p->full && again.kind == kind && again.pid == r->pid && afl_text_equal(again.host, r->host) &&
                      again.has_start == r->has_start && (!r->has_start || afl_start_equal(&again.start, &r->start));
    const bool lease = kind == AFL_RECORD_LEASE;
    return same && (!lease ||
                    (afl_text_equal(again.token, r->token) && afl_text_equal(again.duration_text, r->duration_text)))
               ? p->used
               : 0;
}

size_t afl_record_print_soft(const afl_record *record, char *text, size_t size)
{
    page p = blank_page(text, size);
    const afl_start pid = afl_start_make(0, 0, (uint32_t)record->pid);
    put_number(&p, "", &pid);
    put_line(&p, "", record->host);
    if (record->has_start)
        put_number(&p, "", &record->start);
    return read_again(&p, record, AFL_RECORD_SOFT);
}

size_t afl_record_print_lease(const afl_record *record, char *text, size_t size)
{
    page p = blank_page(text, size);
    const afl_start pid = afl_start_make(0, 0, (uint32_t)record->pid);
    put_line(&p, "", (afl_text){LEASE, sizeof LEASE - 1});
    put_number(&p, "pid=", &pid);
    put_line(&p, "host=", record->host);
    put_line(&p, "mode=", (afl_text){"lease", 5});
    put_line(&p, "token=", record->token);
    put_line(&p, "duration=", record->duration_text);
    if (record->has_start)
        put_number(&p, "start=", &record->start);
    return read_again(&p, record, AFL_RECORD_LEASE);
}
