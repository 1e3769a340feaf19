/* The reading and writing of rwmark.h. A marker has one form only, but for the line ends after it. */
#include "locks/rwmark.h"

#include <string.h>

enum { TOKEN_LENGTH = AFL_TOKEN_TEXT - 1, PID_DIGITS = 10 };

/* The next line, without its end; without one it goes to the end of the text. */
static afl_text take_line(afl_text *text)
{
    const char *end = text->size > 0 ? memchr(text->at, '\n', text->size) : NULL;
    const size_t length = end ? (size_t)(end - text->at) : text->size, step = end ? length + 1 : length;
    const afl_text line = {text->at, length};
    text->at += step;
    text->size -= step;
    return line;
}

static bool parse_pid(afl_text text, int32_t *pid)
{
    int64_t value = 0;
    if (text.size == 0 || text.size > PID_DIGITS || text.at[0] == '0')
        return false;
    for (size_t i = 0; i < text.size; i++) {
        if (text.at[i] < '0' || text.at[i] > '9')
            return false;
        value = value * 10 + (text.at[i] - '0');
    }
    *pid = (int32_t)value;
    return value <= INT32_MAX;
}

static bool is_host(afl_text text)
{
    for (size_t i = 0; i < text.size; i++)
        if (text.at[i] < '!' || text.at[i] > '~')
            return false;
    return text.size > 0 && text.size < AFL_RWMARK_HOST;
}

static bool is_line_ends(afl_text text)
{
    for (size_t i = 0; i < text.size; i++)
        if (text.at[i] != '\n')
            return false;
    return true;
}

bool afl_rwmark_parse(const void *bytes, size_t size, afl_rwmark *mark)
{
    afl_text text = {bytes, size};
    *mark = (afl_rwmark){.pid = 0};
    if (size == 0 || size > AFL_RWMARK_SIZE)
        return false;
    const afl_text token = take_line(&text), pid = take_line(&text), host = take_line(&text);
    if (token.size != TOKEN_LENGTH || !afl_token_begins(token.at) || !parse_pid(pid, &mark->pid) || !is_host(host) ||
        !is_line_ends(text))
        return false;
    memcpy(mark->token, token.at, token.size);
    memcpy(mark->host, host.at, host.size);
    return true;
}

size_t afl_rwmark_print(const afl_rwmark *mark, char *text, size_t size)
{
    char page[sizeof *mark + PID_DIGITS + 4];
    afl_rwmark again;
    char *at = afl_put(afl_put(page, mark->token), "\n");
    at = afl_put(afl_put_pid(at, mark->pid), "\n");
    at = afl_put(afl_put(at, mark->host), "\n");
    const size_t length = (size_t)(at - page);
    if (length > size || !afl_rwmark_parse(page, length, &again))
        return 0;
    memcpy(text, page, length);
    return length;
}

bool afl_reader_counts(const char *name)
{
    return name[0] != '.' && !strstr(name, ".break");
}

void afl_reader_name_print(const char token[AFL_TOKEN_TEXT], int32_t pid, char name[AFL_READER_NAME])
{
    afl_put_pid(afl_put(afl_put(name, token), "."), pid);
}
