/* Reads the command line the way flock(1) does: same options, same numbers, same exit statuses for what is wrong.
 *
 * Touches neither files nor locks. The first operand ends the options, so that those of the command are left alone.
 */
#include "options.h"

#include "message.h"

#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <paths.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

enum {
    OPTION_VERBOSE = CHAR_MAX + 1,
    OPTION_FCNTL,
    OPTION_SOFT,
    OPTION_SOFT_FALLBACK,
    OPTION_STRICT,
    OPTION_LEASE,
    OPTION_RW,
    OPTION_SOFT_RW
};

static const struct option long_options[] = {
    {"shared", no_argument, NULL, 's'},
    {"exclusive", no_argument, NULL, 'x'},
    {"unlock", no_argument, NULL, 'u'},
    {"nonblocking", no_argument, NULL, 'n'},
    {"nb", no_argument, NULL, 'n'},
    {"timeout", required_argument, NULL, 'w'},
    {"wait", required_argument, NULL, 'w'},
    {"conflict-exit-code", required_argument, NULL, 'E'},
    {"close", no_argument, NULL, 'o'},
    {"no-fork", no_argument, NULL, 'F'},
    {"fcntl", no_argument, NULL, OPTION_FCNTL},
    {"soft", no_argument, NULL, OPTION_SOFT},
    {"soft-fallback", no_argument, NULL, OPTION_SOFT_FALLBACK},
    {"strict", no_argument, NULL, OPTION_STRICT},
    {"lease", required_argument, NULL, OPTION_LEASE},
    {"rw", no_argument, NULL, OPTION_RW},
    {"soft-rw", optional_argument, NULL, OPTION_SOFT_RW},
    {"verbose", no_argument, NULL, OPTION_VERBOSE},
    {"help", no_argument, NULL, 'h'},
    {"version", no_argument, NULL, 'V'},
    {NULL, 0, NULL, 0},
};

static const char help_text[] =
    "Usage:\n"
    "  aflock [options] FILE|DIRECTORY COMMAND [ARGUMENT...]\n"
    "  aflock [options] FILE|DIRECTORY -c STRING\n"
    "  aflock [options] NUMBER\n"
    "  aflock status [--json] PATH\n"
    "  aflock break [--force] [--claim NAME] PATH\n"
    "\n"
    "Runs a command while holding a file lock, or locks an open descriptor.\n"
    "A drop-in for flock(1). status says who holds a lock, break takes away the\n"
    "marker that a soft lock has left behind, or a claim of a strict one.\n"
    "\n"
    "  -s, --shared                   take a shared lock\n"
    "  -x, -e, --exclusive            take an exclusive lock (default)\n"
    "  -u, --unlock                   drop the lock of a descriptor\n"
    "  -n, --nonblock, --nb           do not wait: fail if somebody else holds the lock\n"
    "  -w, --timeout, --wait SECONDS  wait at most so long; fractions are allowed\n"
    "  -E, --conflict-exit-code CODE  exit status when the lock was not to be had (default 1)\n"
    "  -o, --close                    the command does not inherit the lock\n"
    "  -F, --no-fork                  become the command instead of waiting for it\n"
    "  -c, --command STRING           run STRING with $SHELL or /bin/sh; after FILE\n"
    "      --fcntl                    open-file-description lock on the whole file\n"
    "      --rw                       lock as SQLite locks a database\n"
    "      --soft                     lock by a marker: a file that names its holder\n"
    "      --soft-fallback            do so where the file system has no flock(2)\n"
    "      --soft-rw[=SECONDS]        readers and a writer by markers that are void so long after\n"
    "                                 their holders stopped refreshing them (default 90); who\n"
    "                                 loses his is ended\n"
    "      --strict                   lock by claims, which are never taken for left behind\n"
    "      --lease SECONDS            by a marker that is void so long after its holder stopped\n"
    "                                 refreshing it; who loses it is ended\n"
    "      --verbose                  say how long the lock took, and who holds it meanwhile\n"
    "  -h, --help                     show this text\n"
    "  -V, --version                  show the version\n"
    "\n"
    "      --json                     status: for programs\n"
    "      --force                    break: even if the holder may be alive\n"
    "      --claim NAME               break: this claim of a strict lock, see status\n"
    "\n"
    "status, break, append, replace, update and verify are reserved words: for a file\n"
    "of that name write ./status, or -- before it, and so on. More in aflock(1).\n";

/* First operands that are no files, unless they stand behind "--". Those without an action get one in later releases.
 */
static const struct reserved {
    const char *word;
    action action; /* LOCK: none yet */
    const char *option;
} reserved_words[] = {
    {"status", ACTION_STATUS, "--json"}, {"break", ACTION_BREAK, "--force"}, {"append", ACTION_LOCK, NULL},
    {"replace", ACTION_LOCK, NULL},      {"update", ACTION_LOCK, NULL},      {"verify", ACTION_LOCK, NULL},
};

static int usage_error(void)
{
    complain("try '%s --help' for more", program_invocation_short_name);
    return EX_USAGE;
}

/* A whole decimal int; as strict as flock(1): leading white space and a sign, nothing behind. */
static int parse_int(const char *text, int *out)
{
    char *end;
    long value;

    errno = 0;
    value = strtol(text, &end, 10);
    if (end == text || *end)
        return EINVAL;
    if (errno || value < INT_MIN || value > INT_MAX)
        return ERANGE;
    *out = (int)value;
    return 0;
}

/* Seconds to nanoseconds, rounded up so that a time-out never comes early. flock(1) counts microseconds, and to it less
 * than one is none. EINVAL: not a number; ERANGE: not a time, which flock(1) only finds when it sets its timer. */
static int parse_seconds(const char *text, uint64_t *out)
{
    char *end;
    long double seconds = strtold(text, &end);
    long double ns = seconds * 1e9L;

    if (end == text || *end)
        return EINVAL;
    if (!(seconds >= 0 && (double)seconds < 0x1p63)) /* flock(1) reads a double */
        return ERANGE;
    if (ns >= (long double)UINT64_MAX) {
        *out = AFLOCK_FOREVER;
        return 0;
    }
    *out = seconds < 1e-6L ? 0 : (uint64_t)ns;
    if (*out && (long double)*out < ns)
        ++*out;
    return 0;
}

static int parse_conflict_status(options *o, const char *text)
{
    int error = parse_int(text, &o->conflict_status);

    if (error)
        complain("invalid exit code: '%s'%s%s", text, error == ERANGE ? ": " : "",
                 error == ERANGE ? strerror(error) : "");
    else if (o->conflict_status < 0 || o->conflict_status > 255)
        complain("exit code out of range (0 to 255): '%s'", text);
    else
        return GO_ON;
    return EX_USAGE;
}

/* What the options say before they are weighed against each other. */
struct waiting {
    int fcntl, rw;
    const char *marker; /* the option that asks for one */
    int nonblock;
    const char *not_a_time; /* the argument of -w, if it is a number but no time */
    uint64_t timeout;
};

static const struct reserved *find_reserved(const char *word)
{
    for (size_t i = 0; i < sizeof reserved_words / sizeof reserved_words[0]; i++) {
        if (strcmp(word, reserved_words[i].word) == 0)
            return &reserved_words[i];
    }
    return NULL;
}

static int parse_timeout(struct waiting *w, const char *text)
{
    int error = parse_seconds(text, &w->timeout);

    w->not_a_time = error == ERANGE ? text : NULL;
    if (error != EINVAL)
        return GO_ON;
    complain("invalid timeout value: '%s'", text);
    return EX_USAGE;
}

static int show_version(void)
{
    print("aflock ");
    print(aflock_version());
    print("\n");
    return EX_OK;
}

static int show_help(void)
{
    print(help_text);
    return EX_OK;
}

/* What getopt would say itself, if its messages began with the program's bare name and were safe to show. `word` is
 * the one that it stopped at. */
static int option_error(int option, const char *word)
{
    int is_long = strncmp(word, "--", 2) == 0;
    int name = (int)strcspn(word, "=");

    if (option == ':' && is_long)
        complain("option '%s' requires an argument", word);
    else if (option == ':')
        complain("option requires an argument -- '%c'", optopt);
    else if (!is_long)
        complain("invalid option -- '%c'", optopt);
    else if (optopt)
        complain("option '%.*s' does not take an argument", name, word);
    else
        complain("unrecognized or ambiguous option '%.*s'", name, word);
    return usage_error();
}

static int parse_duration(options *o, const char *text)
{
    int error = parse_seconds(text, &o->duration);

    if (error == 0 && o->duration >= 100 * AFLOCK_MILLISECOND && o->duration <= AFLOCK_FOREVER / 4)
        return GO_ON;
    complain(error == EINVAL ? "invalid duration of a %s: '%s'" : "duration of a %s out of range (0.1 or more): '%s'",
             o->protocol == AFLOCK_LEASE ? "lease" : "marker", text);
    return EX_USAGE;
}

/* One kind of marker at a time. */
static int take_marker(struct waiting *w, const char *option)
{
    if (w->marker && strcmp(w->marker, option) != 0) {
        complain("the --%s and --%s options are incompatible", w->marker, option);
        return EX_USAGE;
    }
    w->marker = option;
    return GO_ON;
}

static int parse_option(options *o, struct waiting *w, int option, const char *word)
{
    switch (option) {
    case 's':
        o->mode = AFLOCK_SHARED;
        o->unlock = 0;
        return GO_ON;
    case 'e':
    case 'x':
        o->mode = AFLOCK_EXCLUSIVE;
        o->unlock = 0;
        return GO_ON;
    case 'u':
        o->unlock = 1;
        return GO_ON;
    case 'n':
        w->nonblock = 1;
        return GO_ON;
    case 'w':
        return parse_timeout(w, optarg);
    case 'E':
        return parse_conflict_status(o, optarg);
    case 'o':
        o->close = 1;
        return GO_ON;
    case 'F':
        o->no_fork = 1;
        return GO_ON;
    case OPTION_FCNTL:
        w->fcntl = 1;
        o->protocol = AFLOCK_OFD;
        return GO_ON;
    case OPTION_RW:
        w->rw = 1;
        o->protocol = AFLOCK_RW;
        return GO_ON;
    case OPTION_SOFT:
        o->protocol = AFLOCK_SOFT;
        return take_marker(w, "soft");
    case OPTION_SOFT_FALLBACK:
        o->soft_fallback = 1;
        return take_marker(w, "soft-fallback");
    case OPTION_STRICT:
        o->protocol = AFLOCK_STRICT;
        return take_marker(w, "strict");
    case OPTION_LEASE:
        o->protocol = AFLOCK_LEASE;
        return parse_duration(o, optarg) == GO_ON ? take_marker(w, "lease") : EX_USAGE;
    case OPTION_SOFT_RW:
        o->protocol = AFLOCK_SOFT_RW;
        o->duration = 0;
        return !optarg || parse_duration(o, optarg) == GO_ON ? take_marker(w, "soft-rw") : EX_USAGE;
    case OPTION_VERBOSE:
        o->verbose = 1;
        return GO_ON;
    case 'V':
        return show_version();
    case 'h':
        return show_help();
    default:
        return option_error(option, word);
    }
}

static int parse_descriptor(options *o, const char *text)
{
    if (parse_int(text, &o->fd) == 0)
        return GO_ON;
    complain("no command was given, and '%s' is not a descriptor number", text);
    return EX_USAGE;
}

static int parse_command(options *o, int count, char **words)
{
    char *shell;

    if (strcmp(words[0], "-c") != 0 && strcmp(words[0], "--command") != 0) {
        o->command = words;
        return GO_ON;
    }
    if (count != 2) {
        complain("%s requires exactly one command argument", words[0]);
        return EX_USAGE;
    }
    shell = getenv("SHELL");
    o->shell[0] = shell && *shell ? shell : (char *)_PATH_BSHELL;
    o->shell[1] = (char *)"-c";
    o->shell[2] = words[1];
    o->command = o->shell;
    return GO_ON;
}

/* The operands: `quoted` when they stand behind "--". */
static int parse_operands(options *o, const char *marker, int count, char **words, int quoted)
{
    const struct reserved *reserved;

    if (count == 0) {
        complain("requires file descriptor, file or directory");
        return EX_USAGE;
    }
    reserved = quoted ? NULL : find_reserved(words[0]);
    if (reserved) {
        complain("'%s' %s; a file of that name is written ./%s", words[0],
                 reserved->action == ACTION_LOCK ? "is reserved for a later release"
                                                 : "must be the first word, without options before it",
                 words[0]);
        return EX_USAGE;
    }
    if (count == 1 && marker) {
        complain("--%s requires a file and a command; a descriptor has no %s", marker,
                 o->protocol == AFLOCK_STRICT ? "claims" : "marker");
        return EX_USAGE;
    }
    if (count == 1 && o->protocol == AFLOCK_RW) {
        complain("--rw requires a file and a command");
        return EX_USAGE;
    }
    if (count == 1)
        return parse_descriptor(o, words[0]);
    o->file = words[0];
    return parse_command(o, count - 1, words + 1);
}

static int check_timeout(options *o, const struct waiting *w)
{
    if (w->not_a_time) {
        complain("cannot wait for '%s' seconds: %s", w->not_a_time, strerror(EINVAL));
        return EX_OSERR;
    }
    o->timeout = w->nonblock ? 0 : w->timeout;
    return GO_ON;
}

int is_by_marker(const options *o)
{
    return o->protocol == AFLOCK_SOFT || o->protocol == AFLOCK_STRICT || may_be_lost(o);
}

int may_be_lost(const options *o)
{
    return o->protocol == AFLOCK_LEASE || o->protocol == AFLOCK_SOFT_RW;
}

static int is_shared(const options *o)
{
    return o->mode == AFLOCK_SHARED && o->protocol != AFLOCK_SOFT_RW;
}

/* A marker is held alone, by aflock itself, and as long as aflock is there to take it away: no descriptor carries it.
 */
static int check_marker(const options *o, const struct waiting *w)
{
    const char *other = w->fcntl                      ? "fcntl"
                        : w->rw                       ? "rw"
                        : is_shared(o)                ? "shared"
                        : o->unlock                   ? "unlock"
                        : o->close && is_by_marker(o) ? "close"
                        : o->no_fork                  ? "no-fork"
                                                      : NULL;

    if (!w->marker || !other)
        return GO_ON;
    complain("the --%s and --%s options are incompatible", w->marker, other);
    return EX_USAGE;
}

static int check_rw(const options *o, const struct waiting *w)
{
    const char *other = w->fcntl ? "fcntl" : o->unlock ? "unlock" : NULL;

    if (!w->rw || !other)
        return GO_ON;
    complain("the --rw and --%s options are incompatible", other);
    return EX_USAGE;
}

/* "--claim NAME" or "--claim=NAME" of "break": the number of words that it takes; 0: it is another one. */
static int parse_claim(options *o, char **words)
{
    static const char option[] = "--claim";
    const size_t length = sizeof option - 1;

    if (o->action != ACTION_BREAK || strncmp(*words, option, length) != 0)
        return 0;
    if ((*words)[length] == '=')
        o->claim = *words + length + 1;
    else if ((*words)[length] == '\0' && words[1])
        o->claim = words[1];
    else
        return 0;
    return o->claim == words[1] ? 2 : 1;
}

/* "status" and "break": their options, wherever they stand, and one path. */
static int parse_action(options *o, const struct reserved *reserved, char **words)
{
    int only_operands = 0, taken;

    o->action = reserved->action;
    for (; *words; words++) {
        if (!only_operands && strcmp(*words, "--") == 0) {
            only_operands = 1;
        } else if (only_operands || **words != '-') {
            if (o->file) {
                complain("'%s' takes one path, so '%s' is too much", reserved->word, *words);
                return usage_error();
            }
            o->file = *words;
        } else if (strcmp(*words, "-h") == 0 || strcmp(*words, "--help") == 0) {
            return show_help();
        } else if (strcmp(*words, reserved->option) == 0) {
            o->json = o->action == ACTION_STATUS;
            o->force = o->action == ACTION_BREAK;
        } else if ((taken = parse_claim(o, words)) > 0) {
            words += taken - 1;
        } else if (o->action == ACTION_BREAK && strcmp(*words, "--claim") == 0) {
            complain("option '--claim' requires an argument");
            return usage_error();
        } else {
            complain("'%s' knows no option '%s'", reserved->word, *words);
            return usage_error();
        }
    }
    if (o->file)
        return GO_ON;
    complain("'%s' requires a path", reserved->word);
    return usage_error();
}

int options_parse(options *o, int argc, char **argv)
{
    const struct reserved *reserved;
    struct waiting w = {.timeout = AFLOCK_FOREVER};
    int option, status, quoted, at = 1;

    *o = (options){.mode = AFLOCK_EXCLUSIVE, .protocol = AFLOCK_NATIVE, .conflict_status = 1, .fd = -1};
    if (argc < 2) {
        complain("not enough arguments");
        return usage_error();
    }
    reserved = find_reserved(argv[1]);
    if (reserved && reserved->action != ACTION_LOCK)
        return parse_action(o, reserved, argv + 2);
    while ((option = getopt_long(argc, argv, "+:sexunw:E:oFhV", long_options, NULL)) != -1) {
        if ((status = parse_option(o, &w, option, argv[at])) != GO_ON)
            return status;
        at = optind; /* stays at a word of several letters until the last of them was read */
    }
    if (o->no_fork && o->close) {
        complain("the --no-fork and --close options are incompatible");
        return EX_USAGE;
    }
    if ((status = check_marker(o, &w)) != GO_ON || (status = check_rw(o, &w)) != GO_ON)
        return status;
    quoted = strcmp(argv[optind - 1], "--") == 0;
    if ((status = parse_operands(o, w.marker, argc - optind, argv + optind, quoted)) != GO_ON)
        return status;
    return check_timeout(o, &w);
}
