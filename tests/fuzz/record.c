/* Fuzz target: what a marker says about its holder (core/locks/record.c). Whatever was read can be written and read
 * again. Beside it stands a second reading, by lines and words and with the C library's numbers, of records in plain
 * ASCII without blanks: it has to come to the same result.
 */
#include "locks/record.h"
#include "fuzz/fuzz.h"

#include <ctype.h>
#include <math.h>

/* What is looked for in a record; NULL: it is not there. */
enum { PID, HOST, START, MODE, TOKEN, DURATION, FIELDS };
static const char *const NAMES[FIELDS] = {"pid", "host", "start", "mode", "token", "duration"};

static bool text_is(afl_text text, const char *word)
{
    return text.size == strlen(word) && (text.size == 0 || memcmp(text.at, word, text.size) == 0);
}

/* Digits behind a sign; NULL: the text is anything else. */
static const char *digits_of(const char *text)
{
    const char *digits = text + strspn(text, "+-");
    return digits - text <= 1 && *digits && !digits[strspn(digits, "0123456789")] ? digits : NULL;
}

static bool is_pid(const char *text, long long *pid)
{
    const char *digits = digits_of(text);
    if (!digits)
        return false;
    digits += strspn(digits, "0");
    *pid = strlen(digits) < 11 ? strtoll(text, NULL, 10) : 0;
    return *pid > 0 && *pid <= INT32_MAX;
}

static bool is_start(const afl_record *r, const char *text)
{
    char printed[AFL_START_TEXT];
    const char *digits = digits_of(text) + strspn(digits_of(text), "0");
    if (!*digits)
        digits = "0";
    if (r->start.beyond)
        return (*text == '-' && strcmp(digits, "0") != 0) || strlen(digits) >= 58;
    return afl_start_print(&r->start, printed) == strlen(digits) && strcmp(printed, digits) == 0;
}

/* As strtod has it, but for its hexadecimal numbers and "nan(...)". */
static bool is_double(const char *text, double *value)
{
    char *end;
    *value = strtod(text, &end);
    return end > text && !*end && !strpbrk(text, "xX(");
}

static uint64_t bits_of(double value)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* The lines of `text`, which is taken apart; blank ones at both ends do not count. At most `most` + 1. */
static int split(char *text, char **lines, int most)
{
    size_t length = strlen(text);
    int count = 0;
    while (length > 0 && text[length - 1] == '\n')
        text[--length] = '\0';
    text += strspn(text, "\n");
    while (length > 0 && text && count <= most)
        lines[count++] = strsep(&text, "\n");
    return count;
}

/* False: it is malformed. */
static bool read_fields(char **lines, int count, const char *fields[FIELDS])
{
    if (strcmp(lines[0], "filelock/2") != 0) {
        for (int i = 0; i < count && i < 3; i++)
            fields[i] = lines[i];
        return count == 2 || count == 3;
    }
    for (int i = 1; i < count; i++) {
        const char *value = strchr(lines[i], '=');
        if (!value)
            return false;
        for (int f = 0; f < FIELDS; f++)
            if (strlen(NAMES[f]) == (size_t)(value - lines[i]) && strncmp(lines[i], NAMES[f], strlen(NAMES[f])) == 0)
                fields[f] = value + 1;
    }
    return fields[PID] && fields[HOST] && *fields[HOST] && fields[MODE];
}

static void compare(char *text, const afl_record *r)
{
    char *lines[AFL_RECORD_SIZE + 1];
    const char *fields[FIELDS] = {NULL};
    double duration = 0;
    long long pid = 0;
    const int count = split(text, lines, AFL_RECORD_SIZE);
    bool good = count > 0 && read_fields(lines, count, fields);
    const bool soft = good && !fields[MODE], lease = good && !soft && strcmp(fields[MODE], "lease") == 0;
    good = good && is_pid(fields[PID], &pid) && (!fields[START] || digits_of(fields[START])) &&
           (!fields[DURATION] || is_double(fields[DURATION], &duration)) &&
           (!lease || (fields[TOKEN] && isfinite(duration) && duration > 0));
    fuzz_require(r->kind == (!good   ? AFL_RECORD_MALFORMED
                             : soft  ? AFL_RECORD_SOFT
                             : lease ? AFL_RECORD_LEASE
                                     : AFL_RECORD_OTHER));
    if (!good)
        return;
    fuzz_require(r->pid == pid && text_is(r->host, fields[HOST]) && r->has_start == (fields[START] != NULL));
    fuzz_require(!r->has_start || is_start(r, fields[START]));
    fuzz_require(soft || text_is(r->token, fields[TOKEN] ? fields[TOKEN] : ""));
    fuzz_require(bits_of(r->duration) == bits_of(duration) || (isnan(r->duration) && isnan(duration)));
}

static bool is_plain(const char *text, size_t size)
{
    for (size_t i = 0; i < size; i++)
        if (text[i] != '\n' && (!isgraph((unsigned char)text[i]) || text[i] == '_'))
            return false;
    return size > 0 && size <= AFL_RECORD_SIZE;
}

static void require_inside(afl_text part, const char *text, size_t size)
{
    fuzz_require(part.size == 0 || (part.at >= text && part.at + part.size <= text + size));
}

static void write_again(const afl_record *r)
{
    char text[AFL_RECORD_SIZE];
    afl_record again;
    const bool lease = r->kind == AFL_RECORD_LEASE;
    const size_t size = (lease ? afl_record_print_lease : afl_record_print_soft)(r, text, sizeof text);
    fuzz_require(size <= sizeof text);
    /* Without a start, a last line may end with blanks; and what is all but the sentinel would be the sentinel. */
    fuzz_require(size > 0 || r->start.beyond || !r->has_start || (r->pid == 1 && r->host.size == 19));
    if (size == 0)
        return;
    afl_record_parse(text, size, &again);
    fuzz_require(again.kind == r->kind && again.pid == r->pid && afl_text_equal(again.host, r->host));
    fuzz_require(again.has_start == r->has_start && afl_start_equal(&again.start, &r->start));
    fuzz_require(afl_text_equal(again.token, r->token) && !(again.duration < r->duration) &&
                 !(again.duration > r->duration));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    afl_record r;
    char *text = malloc(size + 1); /* the parser gets the input itself, which ends where it ends */
    fuzz_require(text != NULL);
    memcpy(text, data, size);
    text[size] = '\0';
    afl_record_parse(data, size, &r);
    require_inside(r.host, (const char *)data, size);
    require_inside(r.token, (const char *)data, size);
    require_inside(r.duration_text, (const char *)data, size);
    fuzz_require((r.kind == AFL_RECORD_EMPTY) == (size == 0));
    const bool holder = r.kind == AFL_RECORD_SOFT || r.kind == AFL_RECORD_LEASE;
    fuzz_require(holder || r.kind == AFL_RECORD_OTHER ? r.pid > 0 : r.pid == 0 && r.host.size == 0 && !r.has_start);
    if (holder)
        write_again(&r);
    if (is_plain(text, size))
        compare(text, &r);
    free(text);
    return 0;
}
