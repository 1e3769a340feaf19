/* The file of served.h. */
#include "fuzz/served.h"

#include <errno.h>
#include <string.h>

static served *current; /* the table has no argument of its own */

static unsigned chance(unsigned count)
{
    current->seed = current->seed * 1103515245u + 12345u;
    return current->seed >> 16 & 0x7fff ? (current->seed >> 16 & 0x7fff) % count : 0;
}

static int serve_open(const char *path, int flags, mode_t mode)
{
    (void)path, (void)flags, (void)mode;
    current->at = 0;
    current->open++;
    return SERVED_DESCRIPTOR;
}

static int serve_close(int fd)
{
    fuzz_require(fd == SERVED_DESCRIPTOR && current->open-- > 0);
    return 0;
}

/* Seldom an error, seldom all that was asked for. */
static ssize_t serve_read(int fd, void *buffer, size_t size)
{
    static const unsigned pieces[] = {1, 7, 100, 4096, 100000};
    const unsigned trouble = chance(64);
    fuzz_require(fd == SERVED_DESCRIPTOR && size > 0);
    if (trouble <= 1) {
        errno = trouble ? EINTR : EIO;
        current->failed |= trouble == 0;
        return -1;
    }
    size_t left = current->size - current->at, piece = 1 + chance(pieces[chance(5)]);
    size = size < piece ? size : piece;
    size = size < left ? size : left;
    memcpy(buffer, current->text + current->at, size);
    current->at += size;
    return (ssize_t)size;
}

static ssize_t serve_readlink(const char *path, char *target, size_t size)
{
    static const int errors[] = {EINVAL, EINVAL, EINVAL, ENOENT, EIO};
    fuzz_require(*path == '/');
    const unsigned what = chance(8);
    if (what < sizeof errors / sizeof errors[0] || current->size == 0) {
        errno = errors[what % 5];
        return -1;
    }
    size_t from = chance((unsigned)(current->size < 200 ? current->size : 200)), left = current->size - from;
    size_t length = strnlen(current->text + from, what == 7 ? left : left % 16);
    length = length < size ? length : size;
    memcpy(target, current->text + from, length);
    return (ssize_t)length;
}

static int serve_identity(int fd, afl_identity *id)
{
    fuzz_require(fd == SERVED_DESCRIPTOR);
    *id = current->identity;
    return 0;
}

const afl_sys *served_table(served *s)
{
    static const afl_sys table = {.open = serve_open,
                                  .close = serve_close,
                                  .read = serve_read,
                                  .readlink = serve_readlink,
                                  .identify = serve_identity};
    current = s;
    return &table;
}

void served_from(served *s, fuzz_input *in)
{
    *s = (served){.seed = (unsigned)fuzz_byte(in) << 8};
    s->seed |= fuzz_byte(in);
    s->text = (const char *)in->at;
    s->size = (size_t)(in->end - in->at);
    in->at = in->end;
}

bool served_line(const served *s, size_t *at, char line[SERVED_LINE])
{
    while (*at < s->size) {
        const char *start = s->text + *at, *end = memchr(start, '\n', s->size - *at);
        if (!end)
            return false;
        size_t length = (size_t)(end - start);
        *at += length + 1;
        if (length + 1 >= SERVED_LINE)
            continue;
        memcpy(line, start, length);
        line[length] = '\0';
        return true;
    }
    return false;
}
