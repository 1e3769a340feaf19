/* The command's output.
 *
 * Everything goes out with write(2), unbuffered and a line at a time, so that lines of aflock and of the command that
 * it runs come in the order in which they were written. Must not exit or raise a signal: who calls decides that.
 */
#include "message.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { LINE_SIZE = 4 * 4096 + 1024 }; /* a path of PATH_MAX, each byte as an escape, and the words around it */

static int output_errno; /* why standard output could not be written, once that happened */

static int write_all(int fd, const char *text, size_t length)
{
    while (length > 0) {
        ssize_t n = write(fd, text, length);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? errno : EIO;
        text += n;
        length -= (size_t)n;
    }
    return 0;
}

size_t utf8_length(const char *text)
{
    const unsigned char *byte = (const unsigned char *)text;
    size_t length = byte[0] < 0x80 ? 1 : byte[0] < 0xe0 ? 2 : byte[0] < 0xf0 ? 3 : 4;
    unsigned lowest = byte[0] == 0xe0 ? 0xa0 : byte[0] == 0xf0 ? 0x90 : 0x80;  /* below are longer ways to write it */
    unsigned highest = byte[0] == 0xed ? 0x9f : byte[0] == 0xf4 ? 0x8f : 0xbf; /* above are surrogates, or nothing */

    if (length == 1)
        return 1;
    if (byte[0] < 0xc2 || byte[0] > 0xf4 || byte[1] < lowest || byte[1] > highest)
        return 0;
    for (size_t i = 2; i < length; i++) { /* a terminating zero ends it */
        if ((byte[i] & 0xc0) != 0x80)
            return 0;
    }
    return length;
}

int is_control(const char *character)
{
    const unsigned char *byte = (const unsigned char *)character;

    if (byte[0] < 0x80)
        return iscntrl(byte[0]) != 0;         /* no locale is set: it knows ASCII */
    return byte[0] == 0xc2 && byte[1] < 0xa0; /* U+0080 to U+009F control terminals too */
}

/* Writes the escape for a byte into `out`; returns its length. */
static size_t escape(char out[5], unsigned char byte)
{
    static const char plain[] = "\n\t\r", letters[] = "ntr";
    const char *found = memchr(plain, byte, sizeof plain - 1);

    if (found)
        return (size_t)snprintf(out, 5, "\\%c", letters[found - plain]);
    return (size_t)snprintf(out, 5, "\\%03o", byte);
}

void make_printable(char *out, size_t size, const char *text)
{
    size_t used = 0;

    while (*text) {
        char escaped[5];
        size_t length = is_control(text) ? 0 : utf8_length(text),
               width = length ? length : escape(escaped, (unsigned char)*text);
        if (used + width >= size)
            break;
        memcpy(out + used, length ? text : escaped, width);
        used += width;
        text += length ? length : 1;
    }
    out[used] = '\0';
}

static int write_raw_line(int fd, const char *raw)
{
    char line[LINE_SIZE];
    size_t length;

    make_printable(line, sizeof line - 1, raw);
    length = strlen(line);
    line[length] = '\n'; /* takes the place of the terminating zero */
    return write_all(fd, line, length + 1);
}

static int write_line(int fd, const char *text)
{
    char raw[LINE_SIZE];

    if (snprintf(raw, sizeof raw, "%s: %s", program_invocation_short_name, text) >= (int)sizeof raw)
        memcpy(raw + sizeof raw - sizeof "...", "...", sizeof "...");
    return write_raw_line(fd, raw);
}

void complain(const char *format, ...)
{
    int saved = errno;
    char text[LINE_SIZE];
    va_list arguments;

    va_start(arguments, format);
    (void)vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    (void)write_line(STDERR_FILENO, text); /* there is nobody else to tell */
    errno = saved;
}

static void remember(int error)
{
    if (error && !output_errno)
        output_errno = error;
}

void report(const char *format, ...)
{
    char text[LINE_SIZE];
    va_list arguments;

    va_start(arguments, format);
    (void)vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    remember(write_line(STDOUT_FILENO, text));
}

void print_line(const char *format, ...)
{
    char text[LINE_SIZE];
    va_list arguments;

    va_start(arguments, format);
    (void)vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    remember(write_raw_line(STDOUT_FILENO, text));
}

void print(const char *text)
{
    remember(write_all(STDOUT_FILENO, text, strlen(text)));
}

int closing_status(int status, int failure)
{
    /* A reader that went away has lost interest in the report, not in the command. */
    if (output_errno == 0 || output_errno == EPIPE)
        return status;
    complain("write error: %s", strerror(output_errno));
    return failure;
}
