/* Fuzz target: what is read from /proc/self/mountinfo (core/sys/files.c), through a table whose `read` delivers the
 * input in pieces of any length, and whose `readlink` takes its answers from it.
 *
 * Beside it stands a second reading of the text, by lines and fields and without the library's buffers, which has to
 * come to the same result.
 */
#include "fuzz/fuzz.h"
#include "fuzz/served.h"

#include <limits.h>
#include <string.h>

/* The fields of one line, as proc(5) has them; false: it is not one. */
typedef struct fields {
    unsigned long long mount;
    char device[256];
    const char *type;
} fields;

/* The first word at `text`, which blanks may come before; NULL: there is none. */
static const char *word(const char **text, size_t *length)
{
    const char *start = *text + strspn(*text, " ");
    *length = strcspn(start, " ");
    *text = start + *length;
    return *length ? start : NULL;
}

static bool read_fields(const char *line, fields *f)
{
    enum { MOUNT, PARENT, DEVICE, ROOT, POINT, FIELDS };
    static char type[SERVED_LINE];
    size_t length;
    for (int i = 0; i < FIELDS; i++) {
        const char *field = word(&line, &length);
        if (!field)
            return false;
        if (i == MOUNT)
            f->mount = strtoull(field, NULL, 10);
        if (i == DEVICE)
            snprintf(f->device, sizeof f->device, "%.*s", (int)length, field);
    }
    line = *line ? strstr(line + 1, " - ") : NULL;
    if (!line)
        return false;
    snprintf(type, sizeof type, "%.*s", (int)strcspn(line + 3, " "), line + 3);
    f->type = type;
    return true;
}

/* The kinds of which this target knows: enough to tell a right field from a wrong one. */
static bool agrees(afl_class kind, const char *type)
{
    if (strcmp(type, "ext4") == 0 || strcmp(type, "tmpfs") == 0)
        return kind == AFL_CLASS_LOCAL;
    if (strcmp(type, "nfs") == 0 || strcmp(type, "nfs4") == 0)
        return kind == AFL_CLASS_REMOTE;
    return strncmp(type, "fuse", 4) != 0 || kind == AFL_CLASS_UNKNOWN;
}

static void check(const served *s, uint64_t mount, afl_class kind, const char *device)
{
    char line[SERVED_LINE];
    fields f;
    for (size_t at = 0; mount && served_line(s, &at, line);) {
        if (!read_fields(line, &f) || f.mount != mount)
            continue;
        fuzz_require(agrees(kind, f.type));
        fuzz_require(strcmp(device, strlen(f.device) < 32 ? f.device : "") == 0);
        return;
    }
    fuzz_require(kind == AFL_CLASS_UNKNOWN && device[0] == '\0');
}

/* A path of a few names that the text may have, too. */
static void make_path(fuzz_input *in, char path[PATH_MAX])
{
    static const char *const parts[] = {"/mnt", "/a b", "/a", "/b", "/..", "/.", "//", "/mnt/a", "/link", "/\\", "/x"};
    path[0] = '\0';
    for (unsigned count = fuzz_below(in, 6); count > 0; count--)
        fuzz_append(path, PATH_MAX, parts[fuzz_below(in, sizeof parts / sizeof parts[0])]);
    if (!path[0])
        fuzz_append(path, PATH_MAX, "/");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char device[33], path[PATH_MAX];
    fuzz_input in = {data, data + size};
    uint64_t mount = fuzz_below(&in, 4) ? fuzz_below(&in, 100) : UINT64_C(0x100000000) * fuzz_byte(&in);
    make_path(&in, path);
    served s;
    served_from(&s, &in);
    memset(device, 'x', sizeof device);
    afl_class kind = afl_classify_mount(served_table(&s), mount, device);
    fuzz_require(device[32] == 'x' && memchr(device, '\0', 32) && !strchr(device, ' ') && !strchr(device, '\n'));
    if (!s.failed && !memchr(s.text, '\0', s.size)) /* the kernel writes no such byte */
        check(&s, mount, kind, device);
    fuzz_require(afl_classify_mount(served_table(&s), mount, NULL) == kind || s.failed);
    (void)afl_guess_device(served_table(&s), path, false);
    (void)afl_guess_device(served_table(&s), path, true);
    fuzz_require(s.open == 0);
    return 0;
}
