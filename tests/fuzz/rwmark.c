/* Fuzz target: markers of soft readers and writers (core/locks/rwmark.c). What was read can be written, and comes out
 * byte for byte but for the line ends after it. Beside it stands a second reading, with the C library's means.
 */
#include "locks/rwmark.h"
#include "fuzz/fuzz.h"

static bool is_made_of(const char *text, const char *characters)
{
    return text[strspn(text, characters)] == '\0';
}

static bool is_host(const char *text)
{
    const size_t length = strlen(text);
    for (size_t i = 0; i < length; i++)
        if (text[i] <= ' ' || text[i] > '~')
            return false;
    return length > 0 && length <= 253;
}

/* Is it one, by a reading that cuts it into lines? The line ends behind it are taken off first. */
static bool expect(char *text, size_t size, afl_rwmark *mark)
{
    while (size > 0 && text[size - 1] == '\n')
        text[--size] = '\0';
    char *token = text, *pid = strchr(token, '\n');
    char *host = pid ? strchr(pid + 1, '\n') : NULL;
    if (!host)
        return false;
    *pid++ = *host++ = '\0';
    if (strlen(token) != 32 || !is_made_of(token, "0123456789abcdef") || !is_host(host))
        return false;
    if (*pid < '1' || *pid > '9' || !is_made_of(pid, "0123456789") || strlen(pid) > 10 || atoll(pid) > INT32_MAX)
        return false;
    mark->pid = (int32_t)atoll(pid);
    memcpy(mark->token, token, sizeof mark->token);
    memcpy(mark->host, host, strlen(host) + 1);
    return true;
}

static void check(const char *bytes, size_t size)
{
    afl_rwmark mark, expected = {.pid = 0};
    char again[AFL_RWMARK_SIZE], *text = malloc(size + 1);
    fuzz_require(text != NULL);
    memcpy(text, bytes, size);
    text[size] = '\0';
    const bool good = afl_rwmark_parse(bytes, size, &mark);
    const bool readable = size <= AFL_RWMARK_SIZE && !memchr(bytes, '\0', size);
    fuzz_require(good == (readable && expect(text, size, &expected)));
    if (good) {
        fuzz_require(mark.pid == expected.pid && strcmp(mark.token, expected.token) == 0 &&
                     strcmp(mark.host, expected.host) == 0);
        const size_t length = afl_rwmark_print(&mark, again, sizeof again);
        fuzz_require(length > 0 && length <= size + 1 && memcmp(again, bytes, length < size ? length : size) == 0);
        fuzz_require(afl_rwmark_print(&mark, again, length - 1) == 0);
    }
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *exact = malloc(size ? size : 1); /* which ends where it ends */
    fuzz_require(exact != NULL);
    if (size)
        memcpy(exact, data, size);
    check(exact, size);
    free(exact);
    return 0;
}
