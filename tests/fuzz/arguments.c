/* Fuzz target: the command's arguments (tools/aflock/options.c) and what it says about them (message.c). Nothing is
 * locked or executed: what would be done is looked at. */
#include "fuzz/fuzz.h"

#include "message.h"
#include "options.h"

#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

enum { WORDS = 16, OUTPUT = 1 << 16 };

/* Linked with --wrap=write: what is written while the command line is read. */
static struct {
    bool on;
    size_t used[3];
    char text[3][OUTPUT];
} captured;

ssize_t __real_write(int fd, const void *data, size_t size);
ssize_t __wrap_write(int fd, const void *data, size_t size);

ssize_t __wrap_write(int fd, const void *data, size_t size)
{
    if (!captured.on)
        return __real_write(fd, data, size);
    fuzz_require((fd == STDOUT_FILENO || fd == STDERR_FILENO) && captured.used[fd] + size < OUTPUT);
    memcpy(captured.text[fd] + captured.used[fd], data, size);
    captured.used[fd] += size;
    captured.text[fd][captured.used[fd]] = '\0';
    return (ssize_t)size;
}

static int parse(options *o, int count, char **words)
{
    captured.on = true;
    captured.used[1] = captured.used[2] = 0;
    captured.text[1][0] = captured.text[2][0] = '\0';
    optind = 0; /* begin anew */
    int status = options_parse(o, count, words);
    captured.on = false;
    return status;
}

/* Nothing in it makes a terminal do anything. */
static bool is_harmless(const char *text)
{
    char same[OUTPUT];
    make_printable(same, sizeof same, text);
    for (const char *at = text; *at; at++)
        if (iscntrl((unsigned char)*at) || (at[0] == '\xc2' && (unsigned char)at[1] < 0xa0)) /* U+0080 to U+009F, too */
            return false;
    return strcmp(text, same) == 0;
}

/* Whole lines that begin with the program's name. */
static void check_complaint(char *text)
{
    char start[256], *line, *rest = NULL;
    snprintf(start, sizeof start, "%s: ", program_invocation_short_name);
    size_t length = strlen(text);
    fuzz_require(length > 0 && text[length - 1] == '\n');
    for (line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest))
        fuzz_require(strncmp(line, start, strlen(start)) == 0 && is_harmless(line));
}

static bool is_reserved(const char *word)
{
    static const char *const words[] = {"status", "break", "append", "replace", "update", "verify"};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        if (strcmp(word, words[i]) == 0)
            return true;
    return false;
}

/* Stands "--" before the word? */
static bool is_quoted(const char *word, int count, char **words)
{
    for (int i = 1; i + 1 < count; i++)
        if (words[i + 1] == word)
            return strcmp(words[i], "--") == 0;
    return false;
}

static void check_order(const options *o, int count, char **words)
{
    fuzz_require(o->mode == AFLOCK_EXCLUSIVE || o->mode == AFLOCK_SHARED);
    fuzz_require(o->protocol >= AFLOCK_NATIVE && o->protocol <= AFLOCK_PIDFILE);
    fuzz_require(o->conflict_status >= 0 && o->conflict_status <= 255);
    fuzz_require(!(o->no_fork && o->close));
    if (o->action != ACTION_LOCK) {
        fuzz_require(is_reserved(words[1]) && o->file && !(o->json && (o->force || o->claim)));
        fuzz_require((o->command != NULL) == (o->action == ACTION_UPDATE));
        fuzz_require(!o->create || o->action == ACTION_REPLACE);
        return;
    }
    fuzz_require(!o->json && !o->force && !o->claim && (o->file != NULL) == (o->command != NULL));
    if (is_by_marker(o))
        fuzz_require(o->file && !o->unlock && !o->close && !o->no_fork &&
                     (o->mode == AFLOCK_EXCLUSIVE || o->protocol == AFLOCK_SOFT_RW));
    if (o->protocol == AFLOCK_RW)
        fuzz_require(o->file && !o->unlock);
    if (may_be_lost(o) && (o->protocol == AFLOCK_LEASE || o->duration))
        fuzz_require(o->duration >= 100 * AFLOCK_MILLISECOND && o->duration <= AFLOCK_FOREVER / 4);
    if (!o->file)
        return;
    fuzz_require(o->command[0]);
    fuzz_require(o->maximum >= 0 && o->maximum <= 10000 && !(o->maximum && (o->path_count || is_by_marker(o))));
    if (o->path_count) {
        fuzz_require(o->paths > words && o->file == o->paths[0] && strcmp(o->paths[o->path_count], "--") == 0);
        fuzz_require(o->command == o->shell || o->command == o->paths + o->path_count + 1);
        return;
    }
    if (o->command == o->shell)
        fuzz_require(strcmp(o->shell[1], "-c") == 0 && o->shell[2] == words[count - 1] && !o->shell[3]);
    else
        fuzz_require(o->command > words && o->command < words + count && o->command[-1] == o->file);
    if (is_reserved(o->file))
        fuzz_require(is_quoted(o->file, count, words));
}

static void check(int count, char **words)
{
    static options o, again;
    int status = parse(&o, count, words);
    const bool said = captured.used[1] > 0, complained = captured.used[2] > 0;
    switch (status) {
    case GO_ON:
        fuzz_require(!said && !complained);
        check_order(&o, count, words);
        break;
    case EX_OK:
        fuzz_require(said && !complained);
        fuzz_require(strncmp(captured.text[1], "Usage:\n", 7) == 0 || strncmp(captured.text[1], "aflock ", 7) == 0);
        break;
    default:
        fuzz_require((status == EX_USAGE || status == EX_OSERR) && !said);
        check_complaint(captured.text[2]);
    }
    fuzz_require(parse(&again, count, words) == status);
    fuzz_require(status != GO_ON || (again.timeout == o.timeout && again.file == o.file && again.fd == o.fd));
}

/* A time-out never comes early, and never much too late. */
static void check_seconds(char *word)
{
    static options o;
    char *end, *words[] = {(char *)"aflock", (char *)"-w", word, (char *)"7", NULL};
    int status = parse(&o, 4, words);
    long double seconds = strtold(word, &end);
    if (end == word || *end)
        fuzz_require(status == EX_USAGE);
    else if (!(seconds >= 0 && (double)seconds < 0x1p63))
        fuzz_require(status == EX_OSERR);
    else if (seconds < 1e-6L)
        fuzz_require(status == GO_ON && o.timeout == 0);
    else
        fuzz_require(status == GO_ON && (o.timeout == AFLOCK_FOREVER || (long double)o.timeout >= seconds * 1e9L) &&
                     (seconds > 1.8e10L || (long double)o.timeout < seconds * 1e9L + 1));
}

static void check_printable(const char *word, size_t size)
{
    char cut[64], whole[4096];
    size = 1 + size % sizeof cut;
    make_printable(cut, size, word);
    make_printable(whole, sizeof whole, word);
    fuzz_require(strlen(cut) < size && strncmp(cut, whole, strlen(cut)) == 0);
    fuzz_require(is_harmless(whole) && is_harmless(cut));
}

/* Words end with a zero byte. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *words[WORDS + 2] = {(char *)"aflock"}, *text = malloc(size + 1), *at = text;
    int count = 1;
    fuzz_require(text && setenv("SHELL", size % 2 ? "/bin/some shell" : "", 1) == 0);
    if (size)
        memcpy(text, data, size);
    text[size] = '\0';
    while (at < text + size && count <= WORDS) {
        words[count++] = at;
        at += strlen(at) + 1;
    }
    if (count > 1 && strlen(words[1]) < 1000) {
        check_seconds(words[1]);
        check_printable(words[1], size);
    }
    if (size < 4000)
        check(count, words);
    free(text);
    return 0;
}
