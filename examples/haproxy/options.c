#include "options.h"

#include "duration.h"
#include "listener.h"

#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char USAGE[] =
    "usage: aflock-spoa [OPTION]... --directory DIRECTORY\n"
    "Gives locks to HAProxy (SPOE): a message `lock` with a key waits until nobody else has that key, in all agents "
    "that\n"
    "share DIRECTORY.\n"
    "  -l, --listen ADDRESS     127.0.0.1:PORT, [::1]:PORT, or the path of a socket (127.0.0.1:12345)\n"
    "  -d, --directory DIR      of the lock files; it has to exist\n"
    "  -p, --protocol NAME      native (default), ofd, rw: agents of one machine; soft, lease, strict, soft-rw: of\n"
    "                           machines that share the directory\n"
    "      --lease TIME         lease, soft-rw: after so long the lock of a dead agent is free (30s)\n"
    "      --keep-files         native: lock files stay when they are unlocked, for programs such as flock(1)\n"
    "  -t, --timeout TIME       how long a lock is waited for, if the message does not say (5s)\n"
    "      --hold TIME          after so long a hold ends by itself, if the message does not say (30s)\n"
    "      --max-hold TIME      no hold is longer (10m)\n"
    "  -w, --max-waiting N      so many may wait; more are answered `busy` (4096)\n"
    "      --max-holds N        so many may hold locks (16384)\n"
    "      --max-connections N  of HAProxy, which makes one for each request that waits (8192)\n"
    "      --patience TIME      for a peer to finish a frame, or to take an answer (10s)\n"
    "      --idle TIME          connections without requests are closed after so long (1h)\n"
    "      --drain TIME         after SIGTERM holds may last so long (what --max-hold says)\n"
    "  -v, --verbose            a line for each lock\n"
    "  -h, --help               this text\n"
    "  -V, --version            the version\n"
    "TIME is a number with the unit ms (default), s, m, h or d.\n"
    "SIGTERM and SIGINT: who waits is refused, then the agent ends with the last hold; a second one ends it at once.\n"
    "Exit status: 0 after a signal; 1 after an error or if something could not be unlocked; 2: wrong command line.\n";

#define LEASE_TIME 30000 /* ms: where nothing is said */

/* Options without a letter. */
enum { LEASE = 256, KEEP_FILES, HOLD, MAX_HOLD, MAX_HOLDS, MAX_CONNECTIONS, PATIENCE, IDLE, DRAIN };

static const struct option LONG[] = {
    {"listen", required_argument, NULL, 'l'},
    {"directory", required_argument, NULL, 'd'},
    {"protocol", required_argument, NULL, 'p'},
    {"lease", required_argument, NULL, LEASE},
    {"keep-files", no_argument, NULL, KEEP_FILES},
    {"timeout", required_argument, NULL, 't'},
    {"hold", required_argument, NULL, HOLD},
    {"max-hold", required_argument, NULL, MAX_HOLD},
    {"max-waiting", required_argument, NULL, 'w'},
    {"max-holds", required_argument, NULL, MAX_HOLDS},
    {"max-connections", required_argument, NULL, MAX_CONNECTIONS},
    {"patience", required_argument, NULL, PATIENCE},
    {"idle", required_argument, NULL, IDLE},
    {"drain", required_argument, NULL, DRAIN},
    {"verbose", no_argument, NULL, 'v'},
    {"help", no_argument, NULL, 'h'},
    {"version", no_argument, NULL, 'V'},
    {0},
};

static const struct {
    const char *name;
    aflock_protocol protocol;
} PROTOCOLS[] = {{"native", AFLOCK_NATIVE},  {"ofd", AFLOCK_OFD},     {"rw", AFLOCK_RW},
                 {"soft", AFLOCK_SOFT},      {"lease", AFLOCK_LEASE}, {"strict", AFLOCK_STRICT},
                 {"soft-rw", AFLOCK_SOFT_RW}};

static int complain(const char *where, const char *what)
{
    fprintf(stderr, "aflock-spoa: %s: %s\n", where, what);
    return OPTIONS_USAGE;
}

/* Of the value of an option. */
static int refuse(int option, const char *value, const char *what)
{
    const struct option *o = LONG;
    while (o->val != option)
        o++;
    fprintf(stderr, "aflock-spoa: --%s: '%s' is %s\n", o->name, value, what);
    return OPTIONS_USAGE;
}

static int parse_time(int option, const char *text, uint64_t least, uint64_t *out)
{
    char what[64];
    if (!duration_parse(text, strlen(text), out))
        return refuse(option, text, "not a duration, such as 500ms or 30s");
    snprintf(what, sizeof what, "too short: at least %llums", (unsigned long long)least);
    return *out >= least ? -1 : refuse(option, text, what);
}

static int parse_count(int option, const char *text, unsigned *out)
{
    char *end;
    errno = 0;
    const unsigned long value = strtoul(text, &end, 10);
    if (errno != 0 || *text < '0' || *text > '9' || *end != '\0' || value < 1 || value > 1000000)
        return refuse(option, text, "not a number from 1 to 1000000");
    *out = (unsigned)value;
    return -1;
}

static int parse_protocol(int option, const char *text, aflock_protocol *out)
{
    for (size_t i = 0; i < sizeof PROTOCOLS / sizeof *PROTOCOLS; i++) {
        if (strcmp(text, PROTOCOLS[i].name) == 0) {
            *out = PROTOCOLS[i].protocol;
            return -1;
        }
    }
    return refuse(option, text, "not a protocol");
}

static int say(const char *text)
{
    fputs(text, stdout);
    return EXIT_SUCCESS;
}

static int take(options *o, int option, const char *value)
{
    switch (option) {
    case 'l':
        o->listen = value;
        return listener_check(value) ? refuse(option, value, listener_check(value)) : -1;
    case 'd':
        o->directory = value;
        return *value ? -1 : complain("--directory", "is empty");
    case 'p':
        return parse_protocol(option, value, &o->protocol);
    case LEASE:
        return parse_time(option, value, 10, &o->lease);
    case KEEP_FILES:
        o->keep_files = true;
        return -1;
    case 't':
        return parse_time(option, value, 0, &o->timeout);
    case HOLD:
        return parse_time(option, value, 1, &o->hold);
    case MAX_HOLD:
        return parse_time(option, value, 1, &o->max_hold);
    case 'w':
        return parse_count(option, value, &o->max_waiting);
    case MAX_HOLDS:
        return parse_count(option, value, &o->max_holds);
    case MAX_CONNECTIONS:
        return parse_count(option, value, &o->max_connections);
    case PATIENCE:
        return parse_time(option, value, 1, &o->patience);
    case IDLE:
        return parse_time(option, value, 1, &o->idle);
    case DRAIN:
        return parse_time(option, value, 0, &o->drain);
    case 'v':
        o->is_verbose = true;
        return -1;
    case 'h':
        return say(USAGE);
    case 'V':
        return say("aflock-spoa " AFLOCK_VERSION "\n");
    default:
        fputs("Try 'aflock-spoa --help' for more.\n", stderr);
        return OPTIONS_USAGE;
    }
}

int options_parse(options *o, int argc, char **argv)
{
    int option, status = -1;
    *o = (options){
        .listen = "127.0.0.1:12345",
        .protocol = AFLOCK_NATIVE,
        .timeout = 5000,
        .hold = 30000,
        .max_hold = 600000,
        .drain = UINT64_MAX,
        .patience = 10000,
        .idle = 3600000,
        .max_waiting = 4096,
        .max_holds = 16384,
        .max_connections = 8192, /* HAProxy makes one for each request that waits */
    };
    while (status < 0 && (option = getopt_long(argc, argv, "l:d:p:t:w:vhV", LONG, NULL)) != -1)
        status = take(o, option, optarg);
    if (status >= 0)
        return status;
    if (optind < argc)
        return complain(argv[optind], "an argument that is not expected");
    if (!o->directory)
        return complain("--directory", "is missing");
    if (o->lease && o->protocol != AFLOCK_LEASE && o->protocol != AFLOCK_SOFT_RW)
        return complain("--lease", "only for --protocol lease or soft-rw");
    if (o->keep_files && o->protocol != AFLOCK_NATIVE)
        return complain("--keep-files", "only for --protocol native");
    if (!o->lease)
        o->lease = LEASE_TIME;
    if (o->drain == UINT64_MAX)
        o->drain = o->max_hold;
    return -1;
}
