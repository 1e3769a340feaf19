/* The reading and writing of claim.h. A record has one form only, so what is read is compared with it piece by piece;
 * there is no second way to write a number or a host.
 */
#include "locks/claim.h"

#include <string.h>

const char AFL_SENTINEL[AFL_SENTINEL_SIZE] = {'1', '\n', 'f', 'i', 'l', 'e', 'l', 'o', 'c', 'k',  '-', 's',
                                              't', 'r',  'i', 'c', 't', '-', 'v', '1', 0,   '\n', '0', '\n'};

static const char MAGIC[] = "filelock-strict-v1", DIGITS[] = "0123456789abcdef";
static const char HELD[] = "held-v1-", INTENT[] = "intent-v1-", CLAIM[] = ".claim";
static const char PRIVATE[] = ".private-v1-", TEMPORARY[] = ".tmp";
enum { TOKEN_LENGTH = AFL_TOKEN_TEXT - 1 };

static int hex_digit(char c)
{
    const char *digit = c ? strchr(DIGITS, c) : NULL;
    return digit ? (int)(digit - DIGITS) : -1;
}

bool afl_token_begins(const char *text)
{
    for (int i = 0; i < TOKEN_LENGTH; i++)
        if (hex_digit(text[i]) < 0)
            return false;
    return true;
}

void afl_token_print(const uint64_t bits[2], char token[AFL_TOKEN_TEXT])
{
    for (unsigned i = 0; i < TOKEN_LENGTH; i++)
        token[i] = DIGITS[bits[i / 16] >> (60 - i % 16 * 4) & 15];
    token[TOKEN_LENGTH] = '\0';
}

/* ------------------------------------------------------------------------------------------------------------ names */

bool afl_claim_name_parse(const char *name, afl_claim_name *claim)
{
    const bool held = strncmp(name, HELD, sizeof HELD - 1) == 0;
    if (!held && strncmp(name, INTENT, sizeof INTENT - 1) != 0)
        return false;
    const char *token = name + (held ? sizeof HELD : sizeof INTENT) - 1;
    if (!afl_token_begins(token) || strcmp(token + TOKEN_LENGTH, CLAIM) != 0)
        return false;
    claim->held = held;
    memcpy(claim->token, token, TOKEN_LENGTH);
    claim->token[TOKEN_LENGTH] = '\0';
    return true;
}

char *afl_put(char *at, const char *more)
{
    const size_t length = strlen(more);
    memcpy(at, more, length + 1);
    return at + length;
}

void afl_claim_name_print(const afl_claim_name *claim, char name[AFL_CLAIM_NAME])
{
    afl_put(afl_put(afl_put(name, claim->held ? HELD : INTENT), claim->token), CLAIM);
}

void afl_private_name_print(const char *name, const char token[AFL_TOKEN_TEXT], char private_name[AFL_PRIVATE_NAME])
{
    afl_put(afl_put(afl_put(afl_put(afl_put(private_name, "."), name), PRIVATE), token), TEMPORARY);
}

bool afl_private_name_parse(const char *private_name, char name[AFL_PUBLIC_NAME])
{
    enum { TAIL = sizeof PRIVATE - 1 + TOKEN_LENGTH + sizeof TEMPORARY - 1 };
    const size_t length = strlen(private_name);
    if (private_name[0] != '.' || length < 1 + TAIL || length - 1 - TAIL >= AFL_PUBLIC_NAME)
        return false;
    const char *tail = private_name + length - TAIL;
    if (strncmp(tail, PRIVATE, sizeof PRIVATE - 1) != 0 || !afl_token_begins(tail + sizeof PRIVATE - 1) ||
        strcmp(tail + sizeof PRIVATE - 1 + TOKEN_LENGTH, TEMPORARY) != 0)
        return false;
    memcpy(name, private_name + 1, length - 1 - TAIL);
    name[length - 1 - TAIL] = '\0';
    return true;
}

/* ------------------------------------------------------------------------------------------------------------ hosts */

/* Not what the peer takes for white space or for not printable. It also refuses what its version of Unicode has not
 * assigned: who reads that here only meets contention where the peer meets an error. */
static bool may_name_a_host(uint32_t c)
{
    static const uint32_t NOT[][2] = {
        {0x0, 0x20},        {0x7F, 0xA0},       {0xAD, 0xAD},       {0x600, 0x605},     {0x61C, 0x61C},
        {0x6DD, 0x6DD},     {0x70F, 0x70F},     {0x890, 0x891},     {0x8E2, 0x8E2},     {0x1680, 0x1680},
        {0x180E, 0x180E},   {0x2000, 0x200F},   {0x2028, 0x202F},   {0x205F, 0x206F},   {0x3000, 0x3000},
        {0xD800, 0xF8FF},   {0xFEFF, 0xFEFF},   {0xFFF9, 0xFFFB},   {0x110BD, 0x110BD}, {0x110CD, 0x110CD},
        {0x13430, 0x13438}, {0x1BCA0, 0x1BCA3}, {0x1D173, 0x1D17A}, {0xE0001, 0xE007F}, {0xF0000, 0x10FFFD},
    };
    for (size_t i = 0; i < sizeof NOT / sizeof NOT[0]; i++)
        if (c >= NOT[i][0] && c <= NOT[i][1])
            return false;
    return true;
}

static bool is_host(afl_text host)
{
    while (host.size > 0) {
        size_t bytes;
        const uint32_t c = afl_text_character(host, &bytes);
        if (bytes == 0 || !may_name_a_host(c))
            return false;
        host.at += bytes;
        host.size -= bytes;
    }
    return true;
}

static bool parse_host(afl_text hex, char host[AFL_CLAIM_HOST])
{
    const size_t length = hex.size / 2;
    if (hex.size % 2 || length >= AFL_CLAIM_HOST)
        return false;
    for (size_t i = 0; i < length; i++) {
        const int high = hex_digit(hex.at[2 * i]), low = hex_digit(hex.at[2 * i + 1]);
        if (high < 0 || low < 0)
            return false;
        host[i] = (char)(high << 4 | low);
    }
    host[length] = '\0';
    return is_host((afl_text){host, length});
}

/* ---------------------------------------------------------------------------------------------------------- numbers */

/* A decimal number as it is written without need: no sign, no zero before it. */
static bool is_canonical(afl_text text)
{
    for (size_t i = 0; i < text.size; i++)
        if (text.at[i] < '0' || text.at[i] > '9')
            return false;
    return text.size > 0 && (text.at[0] != '0' || text.size == 1);
}

static bool parse_pid(afl_text text, int32_t *pid)
{
    int64_t value = 0;
    if (!is_canonical(text) || text.size > 10)
        return false;
    for (size_t i = 0; i < text.size; i++)
        value = value * 10 + (text.at[i] - '0');
    *pid = (int32_t)value;
    return value >= 1 && value <= INT32_MAX;
}

static bool parse_start(afl_text text, afl_claim *claim)
{
    claim->has_start = text.size > 0;
    return !claim->has_start || (is_canonical(text) && afl_start_parse(text, &claim->start));
}

/* ---------------------------------------------------------------------------------------------------------- records */

enum { FIRST, TOKEN, PID, HOST, START, LINES };

/* Exactly so many lines, each with its end. */
static bool split(afl_text text, afl_text lines[LINES])
{
    for (int i = 0; i < LINES; i++) {
        const char *end = text.size > 0 ? memchr(text.at, '\n', text.size) : NULL;
        if (!end)
            return false;
        lines[i] = (afl_text){text.at, (size_t)(end - text.at)};
        text.at += lines[i].size + 1;
        text.size -= lines[i].size + 1;
    }
    return text.size == 0;
}

bool afl_claim_parse(const void *bytes, size_t size, const char token[AFL_TOKEN_TEXT], afl_claim *claim)
{
    afl_text lines[LINES];
    *claim = (afl_claim){.pid = 0};
    return size <= AFL_CLAIM_SIZE && split((afl_text){bytes, size}, lines) &&
           afl_text_equal(lines[FIRST], (afl_text){MAGIC, sizeof MAGIC - 1}) &&
           afl_text_equal(lines[TOKEN], (afl_text){token, strlen(token)}) && parse_pid(lines[PID], &claim->pid) &&
           parse_host(lines[HOST], claim->host) && parse_start(lines[START], claim);
}

char *afl_put_pid(char *at, int32_t pid)
{
    char digits[11];
    size_t first = sizeof digits - 1;
    digits[first] = '\0';
    for (; pid > 0; pid /= 10)
        digits[--first] = (char)('0' + pid % 10);
    return afl_put(at, digits + first);
}

static char *put_host(char *at, const char *host)
{
    for (; *host; host++) {
        *at++ = DIGITS[(unsigned char)*host >> 4];
        *at++ = DIGITS[(unsigned char)*host & 15];
    }
    return at;
}

size_t afl_claim_print(const afl_claim *claim, const char token[AFL_TOKEN_TEXT], char *text, size_t size)
{
    char page[sizeof MAGIC + AFL_TOKEN_TEXT + 11 + 2 * AFL_CLAIM_HOST + AFL_START_TEXT + LINES];
    char start[AFL_START_TEXT] = "";
    afl_claim again;
    if (claim->has_start && afl_start_print(&claim->start, start) == 0)
        return 0;
    char *at = afl_put(afl_put(afl_put(afl_put(page, MAGIC), "\n"), token), "\n");
    at = afl_put(afl_put_pid(at, claim->pid), "\n");
    at = afl_put(put_host(at, claim->host), "\n");
    at = afl_put(afl_put(at, start), "\n");
    const size_t length = (size_t)(at - page);
    if (length > size || !afl_claim_parse(page, length, token, &again))
        return 0;
    memcpy(text, page, length);
    return length;
}
