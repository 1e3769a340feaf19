/* Fuzz target: how a path becomes absolute as text (core/runtime/place.c, through aflock_open), with a working
 * directory of any kind. What comes out is made once more, component by component; and it stays as it is when it goes
 * in again. */
#include "fuzz/fuzz.h"
#include "support/fake_host.h"

#include <errno.h>
#include <limits.h>
#include <string.h>

enum { TEXT = 2 * PATH_MAX };

static char working_directory[PATH_MAX];
static int getcwd_error;

static char *serve_getcwd(char *buffer, size_t size)
{
    errno = getcwd_error ? getcwd_error : ERANGE;
    if (getcwd_error || strlen(working_directory) >= size)
        return NULL;
    return memcpy(buffer, working_directory, strlen(working_directory) + 1);
}

/* 0 and the text, or AFLOCK_E... */
static int expected_text(const char *path, char text[TEXT])
{
    char components[TEXT], *rest = NULL;
    size_t length = strlen(path), end = length; /* of the last name, in the path */
    text[0] = '\0';
    if (length == 0)
        return AFLOCK_EINVAL;
    if (path[0] != '/' && getcwd_error)
        return getcwd_error == ERANGE ? AFLOCK_ENAMETOOLONG : afl_status_of(getcwd_error);
    if (path[0] != '/' && strcmp(working_directory, "/") != 0)
        fuzz_append(text, TEXT, working_directory);
    memcpy(components, path, length + 1);
    for (char *name = strtok_r(components, "/", &rest); name; name = strtok_r(NULL, "/", &rest)) {
        if (strcmp(name, ".") == 0)
            continue;
        if (strlen(name) > NAME_MAX || strlen(text) + 1 + strlen(name) >= PATH_MAX)
            return AFLOCK_ENAMETOOLONG;
        fuzz_append(text, TEXT, "/");
        fuzz_append(text, TEXT, name);
        end = (size_t)(name - components) + strlen(name);
    }
    if (!text[0])
        fuzz_append(text, TEXT, "/");
    return end < length ? AFLOCK_EISDIR : 0;
}

static void check(aflock_ctx *ctx, const char *path)
{
    char text[TEXT];
    aflock *lock = NULL, *again = NULL;
    int expected = expected_text(path, text), status = aflock_open(&lock, ctx, path, NULL);
    fuzz_require(status == expected && (status == 0) == (lock != NULL));
    if (status != 0)
        return;
    fuzz_require(strcmp(aflock_path(lock), text) == 0);
    fuzz_require(aflock_open(&again, ctx, aflock_path(lock), NULL) == 0);
    fuzz_require(strcmp(aflock_path(again), text) == 0 && again->place == lock->place);
    fuzz_require(aflock_close(lock) == 0 && aflock_close(again) == 0);
}

/* What the kernel never answers: it has looked the directory up. */
static bool is_crooked(const char *text)
{
    bool crooked = strcmp(text, "/") != 0 && text[strlen(text) - 1] == '/';
    for (const char *slash = text; slash; slash = strchr(slash + 1, '/')) {
        size_t length = strcspn(slash + 1, "/");
        crooked |= (length == 0 && slash[1]) || (length == 1 && slash[1] == '.') || length > NAME_MAX;
    }
    return crooked;
}

/* A byte below 16 stands for a long run of the one after it: what is near the limits is rare otherwise. */
static void read_text(fuzz_input *in, char *text, size_t size)
{
    size_t used = 0;
    for (uint8_t byte; used + 1 < size && (byte = fuzz_byte(in)) != 0;) {
        size_t count = byte < 16 ? byte * 51 : 1; /* 5 * 51 is the longest name */
        if (byte < 16)
            byte = fuzz_byte(in);
        for (; byte && count > 0 && used + 1 < size; count--)
            text[used++] = (char)byte;
    }
    text[used] = '\0';
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const int errors[] = {0, 0, 0, ENOENT, ERANGE, EACCES};
    static fake_host h;
    static afl_sys table;
    char path[2 * PATH_MAX - 8];
    fuzz_input in = {data, data + size};
    if (!h.ctx) { /* one for all inputs: nothing of them stays in it */
        fuzz_require(fake_start(&h, 1, false, NULL));
        table = *h.ctx->sys;
        table.getcwd = serve_getcwd;
        h.ctx->sys = &table;
    }
    getcwd_error = errors[fuzz_below(&in, 6)];
    working_directory[0] = '/';
    read_text(&in, working_directory + 1, sizeof working_directory - 1);
    if (is_crooked(working_directory))
        working_directory[1] = '\0';
    read_text(&in, path, sizeof path);
    check(h.ctx, path);
    fuzz_require(!h.ctx->places && h.ctx->text_count == 0);
    return 0;
}
