/* The command's output.
 *
 * Everything goes out with write(2), unbuffered and a line at a time, so that lines of aflock and of the command that
 * it runs come in the order in which they were written. Must not exit or raise a signal: who calls decides that.
 */
#include "message.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { LINE_SIZE = 8192 }; /* a path of PATH_MAX and the words around it */

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

static int write_line(int fd, const char *format, va_list arguments)
{
    char line[LINE_SIZE];
    int head = snprintf(line, sizeof line, "%s: ", program_invocation_short_name);
    size_t length = head < 0 ? 0 : (size_t)head < sizeof line ? (size_t)head : sizeof line - 1;
    int body = vsnprintf(line + length, sizeof line - length, format, arguments);

    length += body < 0 ? 0 : (size_t)body < sizeof line - length ? (size_t)body : sizeof line - length - 1;
    line[length] = '\n'; /* takes the place of the terminating zero */
    return write_all(fd, line, length + 1);
}

void complain(const char *format, ...)
{
    int saved = errno;
    va_list arguments;

    va_start(arguments, format);
    (void)write_line(STDERR_FILENO, format, arguments); /* there is nobody else to tell */
    va_end(arguments);
    errno = saved;
}

static void remember(int error)
{
    if (error && !output_errno)
        output_errno = error;
}

void report(const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    remember(write_line(STDOUT_FILENO, format, arguments));
    va_end(arguments);
}

void print(const char *text)
{
    remember(write_all(STDOUT_FILENO, text, strlen(text)));
}

int closing_status(int status)
{
    /* A reader that went away has lost interest in the report, not in the command. */
    if (output_errno == 0 || output_errno == EPIPE)
        return status;
    complain("write error: %s", strerror(output_errno));
    return EXIT_FAILURE;
}

void make_printable(char *out, size_t size, const char *text)
{
    size_t i;

    for (i = 0; i + 1 < size && text[i]; i++) {
        unsigned char c = (unsigned char)text[i];
        out[i] = c < 0x20 || c == 0x7f ? '?' : (char)c;
    }
    out[i] = '\0';
}
