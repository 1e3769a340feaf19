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

static int write_line(int fd, const char *text)
{
    char line[LINE_SIZE];
    int length = snprintf(line, sizeof line - 1, "%s: %s", program_invocation_short_name, text);

    if (length < 0)
        return errno;
    if ((size_t)length > sizeof line - 2)
        length = sizeof line - 2;
    line[length] = '\n'; /* takes the place of the terminating zero */
    return write_all(fd, line, (size_t)length + 1);
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

    for (i = 0; i + 1 < size && text[i]; i++) /* no locale is set: iscntrl() knows ASCII, bytes of UTF-8 pass */
        out[i] = iscntrl((unsigned char)text[i]) ? '?' : text[i];
    out[i] = '\0';
}
