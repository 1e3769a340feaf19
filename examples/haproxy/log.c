#include "log.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static struct {
    bool is_verbose, has_priorities;
    time_t second;
    unsigned lines, left_out;
} state;

void log_begin(bool is_verbose)
{
    state.is_verbose = is_verbose;
    state.has_priorities = getenv("JOURNAL_STREAM") != NULL;
}

static void write_line(int priority, const char *text)
{
    if (state.has_priorities)
        fprintf(stderr, "<%d>%s\n", priority, text);
    else
        fprintf(stderr, "aflock-spoa: %s\n", text);
}

static bool may_write(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    if (now.tv_sec != state.second) {
        if (state.left_out > 0) {
            char text[64];
            snprintf(text, sizeof text, "%u lines were left out", state.left_out);
            write_line(LOG_WARNING, text);
        }
        state.second = now.tv_sec;
        state.lines = state.left_out = 0;
    }
    if (state.lines < LOG_LINES) {
        state.lines++;
        return true;
    }
    state.left_out++;
    return false;
}

void log_line(int priority, const char *format, ...)
{
    char text[1024];
    va_list arguments;
    if (priority == LOG_DEBUG ? !state.is_verbose : !may_write())
        return;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    write_line(priority, text);
}

const char *log_text(wire_bytes bytes, char to[LOG_TEXT])
{
    static const char DIGITS[] = "0123456789abcdef";
    char *at = to, *end = to + LOG_TEXT - sizeof "\\xff...";
    for (size_t i = 0; i < bytes.size; i++) {
        const uint8_t byte = bytes.at[i];
        if (at > end) {
            *at++ = '.';
            *at++ = '.';
            *at++ = '.';
            break;
        }
        if (byte > ' ' && byte < 127 && byte != '\\') {
            *at++ = (char)byte;
        } else {
            *at++ = '\\';
            *at++ = 'x';
            *at++ = DIGITS[byte >> 4];
            *at++ = DIGITS[byte & 15];
        }
    }
    *at = '\0';
    return to;
}
