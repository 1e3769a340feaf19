/* Reads the command line the way flock(1) does: same options, same numbers, same exit statuses for what is wrong.
 *
 * Touches neither files nor locks. The first operand ends the options, so that those of the command are left alone.
 */
#include "options.h"

#include "actions.h"
#include "message.h"
#include "values.h"

#include <aflock/semaphore.h>
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
    OPTION_SOFT_RW,
    OPTION_TEMPORARY,
    OPTION_PIDFILE,
    OPTION_SEMAPHORE,
    OPTION_ALL
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
    {"semaphore", required_argument, NULL, OPTION_SEMAPHORE},
    {"all", no_argument, NULL, OPTION_ALL},
    {"temporary", no_argument, NULL, OPTION_TEMPORARY},
    {"pidfile", no_argument, NULL, OPTION_PIDFILE},
    {"verbose", no_argument, NULL, OPTION_VERBOSE},
    {"help", no_argument, NULL, 'h'},
    {"version", no_argument, NULL, 'V'},
    {NULL, 0, NULL, 0},
};

/* What the options say before they are weighed against each other. */
struct weighed {
    int fcntl, rw, all;
    const char *marker; /* the option that asks for one */
    waiting waiting;
};

static int show_version(void)
{
    print("aflock ");
    print(aflock_version());
    print("\n");
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

static int parse_maximum(options *o, const char *text)
{
    if (parse_int(text, &o->maximum) == 0 && o->maximum > 0 && o->maximum <= AFLOCK_SEMAPHORE_LIMIT)
        return GO_ON;
    complain("invalid maximum of a semaphore (1 to %d): '%s'", AFLOCK_SEMAPHORE_LIMIT, text);
    return EX_USAGE;
}

/* One kind of marker at a time. */
static int take_marker(struct weighed *w, const char *option)
{
    if (w->marker && strcmp(w->marker, option) != 0) {
        complain("the --%s and --%s options are incompatible", w->marker, option);
        return EX_USAGE;
    }
    w->marker = option;
    return GO_ON;
}

static int parse_option(options *o, struct weighed *w, int option, const char *word)
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
        w->waiting.nonblock = 1;
        return GO_ON;
    case 'w':
        return parse_timeout(&w->waiting, optarg);
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
    case OPTION_SEMAPHORE:
        return parse_maximum(o, optarg);
    case OPTION_ALL:
        w->all = 1;
        return GO_ON;
    case OPTION_TEMPORARY:
        o->temporary = 1;
        return take_marker(w, "temporary");
    case OPTION_PIDFILE:
        o->protocol = AFLOCK_PIDFILE;
        return take_marker(w, "pidfile");
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

/* "--all PATH... -- COMMAND" */
static int parse_paths(options *o, int count, char **words)
{
    int paths = 0;

    while (paths < count && strcmp(words[paths], "--") != 0)
        paths++;
    if (paths == 0 || count - paths < 2) {
        complain("--all requires paths, -- and a command");
        return EX_USAGE;
    }
    o->paths = words;
    o->path_count = paths;
    o->file = words[0];
    return parse_command(o, count - paths - 1, words + paths + 1);
}

/* The operands: `quoted` when they stand behind "--". */
static int parse_operands(options *o, const char *marker, int count, char **words, int quoted)
{
    if (count == 0) {
        complain("requires file descriptor, file or directory");
        return EX_USAGE;
    }
    if (!quoted && is_action_word(words[0])) {
        complain("'%s' must be the first word, without options before it; a file of that name is written ./%s",
                 words[0], words[0]);
        return EX_USAGE;
    }
    if (count == 1 && marker) {
        complain("--%s requires a file and a command; a descriptor has no %s", marker,
                 o->protocol == AFLOCK_STRICT                    ? "claims"
                 : o->temporary || o->protocol == AFLOCK_PIDFILE ? "name"
                                                                 : "marker");
        return EX_USAGE;
    }
    if (count == 1 && o->maximum) {
        complain("--semaphore requires a file and a command");
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

int is_by_marker(const options *o)
{
    return o->protocol == AFLOCK_SOFT || o->protocol == AFLOCK_STRICT || o->protocol == AFLOCK_PIDFILE ||
           o->temporary || may_be_lost(o);
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
static int check_marker(const options *o, const struct weighed *w)
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

static int check_rw(const options *o, const struct weighed *w)
{
    const char *other = w->fcntl ? "fcntl" : o->unlock ? "unlock" : NULL;

    if (!w->rw || !other)
        return GO_ON;
    complain("the --rw and --%s options are incompatible", other);
    return EX_USAGE;
}

/* Locks of the kernel that are many. */
static int check_many(const options *o, const struct weighed *w)
{
    const char *one = w->all ? "all" : "semaphore";
    const char *other = w->all && o->maximum       ? "semaphore"
                        : w->marker                ? w->marker
                        : o->unlock                ? "unlock"
                        : w->all                   ? NULL
                        : o->mode == AFLOCK_SHARED ? "shared"
                        : w->fcntl                 ? "fcntl"
                        : w->rw                    ? "rw"
                                                   : NULL;

    if (!(w->all || o->maximum) || !other)
        return GO_ON;
    complain("the --%s and --%s options are incompatible", one, other);
    return EX_USAGE;
}

int options_parse(options *o, int argc, char **argv)
{
    struct weighed w = {.waiting.timeout = AFLOCK_FOREVER};
    int option, status, quoted, at = 1;

    *o = (options){.mode = AFLOCK_EXCLUSIVE, .protocol = AFLOCK_NATIVE, .conflict_status = 1, .fd = -1};
    if (argc < 2) {
        complain("not enough arguments");
        return usage_error();
    }
    if (is_action_word(argv[1]))
        return actions_parse(o, argc - 1, argv + 1);
    while ((option = getopt_long(argc, argv, "+:sexunw:E:oFhV", long_options, NULL)) != -1) {
        if ((status = parse_option(o, &w, option, argv[at])) != GO_ON)
            return status;
        at = optind; /* stays at a word of several letters until the last of them was read */
    }
    if (o->no_fork && o->close) {
        complain("the --no-fork and --close options are incompatible");
        return EX_USAGE;
    }
    if ((status = check_marker(o, &w)) != GO_ON || (status = check_rw(o, &w)) != GO_ON ||
        (status = check_many(o, &w)) != GO_ON)
        return status;
    quoted = strcmp(argv[optind - 1], "--") == 0;
    if (w.all)
        status = parse_paths(o, argc - optind, argv + optind);
    else
        status = parse_operands(o, w.marker, argc - optind, argv + optind, quoted);
    if (status != GO_ON)
        return status;
    return check_timeout(o, &w.waiting);
}
