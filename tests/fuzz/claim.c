/* Fuzz target: names and records of claims (core/locks/claim.c). The first line of the input is a name, what follows a
 * record. What was read can be written, and comes out byte for byte: there is one way to write each. Beside it stands a
 * second reading, with the C library's means.
 */
#include "locks/claim.h"
#include "fuzz/fuzz.h"

#include <ctype.h>

static bool is_hex(const char *text, size_t length)
{
    return strlen(text) >= length && strspn(text, "0123456789abcdef") >= length;
}

/* ------------------------------------------------------------------------------------------------------------ names */

static bool looks_like_claim(const char *name, const char *prefix)
{
    const size_t length = strlen(prefix);
    return strlen(name) == length + 32 + 6 && strncmp(name, prefix, length) == 0 && is_hex(name + length, 32) &&
           strspn(name + length, "0123456789abcdef") == 32 && strcmp(name + length + 32, ".claim") == 0;
}

static bool check_name(const char *name, afl_claim_name *claim)
{
    char again[AFL_CLAIM_NAME];
    const bool good = afl_claim_name_parse(name, claim);
    fuzz_require(good == (looks_like_claim(name, "held-v1-") || looks_like_claim(name, "intent-v1-")));
    if (!good)
        return false;
    fuzz_require(claim->held == (*name == 'h'));
    afl_claim_name_print(claim, again);
    fuzz_require(strcmp(again, name) == 0);
    return true;
}

static void check_private_name(const char *name)
{
    char public_name[AFL_PUBLIC_NAME], again[AFL_PRIVATE_NAME], token[AFL_TOKEN_TEXT] = "";
    const size_t length = strlen(name);
    const bool good = afl_private_name_parse(name, public_name);
    const char *tail = length >= 49 ? name + length - 48 : "";
    fuzz_require(good == (*name == '.' && length >= 49 && length - 49 < AFL_PUBLIC_NAME &&
                          strncmp(tail, ".private-v1-", 12) == 0 && strspn(tail + 12, "0123456789abcdef") == 32 &&
                          strcmp(tail + 44, ".tmp") == 0));
    if (!good)
        return;
    memcpy(token, tail + 12, 32);
    afl_private_name_print(public_name, token, again);
    fuzz_require(strcmp(again, name) == 0);
}

/* ---------------------------------------------------------------------------------------------------------- records */

static bool is_number(const char *text)
{
    return *text && strspn(text, "0123456789") == strlen(text) && (*text != '0' || !text[1]);
}

/* A host of plain characters; others are for the first reading alone. */
static bool is_plain_host(const char *hex, char *host)
{
    for (; *hex; hex += 2) {
        unsigned value;
        if (!is_hex(hex, 2) || sscanf(hex, "%2x", &value) != 1)
            return false;
        *host++ = (char)value;
        if (!isgraph((int)value) || value > 127)
            return false;
    }
    *host = '\0';
    return true;
}

static bool has_other_characters(const char *hex)
{
    for (; is_hex(hex, 2); hex += 2)
        if (strchr("89abcdef", *hex))
            return true;
    return false;
}

static void compare(char *text, size_t size, const char *token, bool good, const afl_claim *claim)
{
    char *lines[6], host[AFL_CLAIM_SIZE];
    int count = 0;
    for (char *rest = text; count < 6 && rest; count++)
        lines[count] = strsep(&rest, "\n");
    const bool whole = size > 0 && size <= AFL_CLAIM_SIZE && count == 6 && lines[5] == text + size;
    if (whole && has_other_characters(lines[3]))
        return;
    const bool expected = whole && strcmp(lines[0], "filelock-strict-v1") == 0 && strcmp(lines[1], token) == 0 &&
                          is_number(lines[2]) && strlen(lines[2]) <= 10 && atoll(lines[2]) >= 1 &&
                          atoll(lines[2]) <= INT32_MAX && is_plain_host(lines[3], host) &&
                          (!*lines[4] || is_number(lines[4]));
    fuzz_require(good == expected);
    if (!good)
        return;
    fuzz_require(claim->pid == atoll(lines[2]) && strcmp(claim->host, host) == 0);
    fuzz_require(claim->has_start == (*lines[4] != '\0'));
}

static void check_record(const char *bytes, size_t size, const char *token)
{
    afl_claim claim;
    char again[AFL_CLAIM_SIZE], *text = malloc(size + 1);
    fuzz_require(text != NULL);
    memcpy(text, bytes, size);
    text[size] = '\0';
    const bool good = afl_claim_parse(bytes, size, token, &claim);
    if (good && !claim.start.beyond) {
        fuzz_require(afl_claim_print(&claim, token, again, sizeof again) == size && memcmp(again, bytes, size) == 0);
        fuzz_require(afl_claim_print(&claim, token, again, size - 1) == 0);
    }
    if (!memchr(bytes, '\0', size))
        compare(text, size, token, good, &claim);
    else
        fuzz_require(!good);
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    afl_claim_name claim = {.token = "0123456789abcdef0123456789abcdef"};
    const uint8_t *end = size ? memchr(data, '\n', size) : NULL;
    const size_t length = end ? (size_t)(end - data) : size, rest = end ? size - length - 1 : 0;
    char *name = malloc(length + 1), *record = malloc(rest ? rest : 1); /* which ends where it ends */
    fuzz_require(name != NULL && record != NULL);
    memcpy(name, data, length);
    name[length] = '\0';
    if (rest)
        memcpy(record, end + 1, rest);
    check_name(name, &claim);
    check_private_name(name);
    check_record(record, rest, claim.token);
    free(name);
    free(record);
    return 0;
}
