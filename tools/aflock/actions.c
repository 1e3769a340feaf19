/* Reads what stands behind `status`, `break`, `append` and so on: options, which may stand behind the path, too, and
 * paths; of `update` the command's own words come behind its path.
 */
#include "actions.h"

#include "message.h"
#include "values.h"

#include <getopt.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

enum {
    OPTION_CLAIM = CHAR_MAX + 1,
    OPTION_FORCE,
    OPTION_JSON,
    OPTION_NEW,
    OPTION_NO_SYNC,
    OPTION_SECONDS,
    OPTION_VERBOSE
};

#define LONGEST_TRIAL (3600 * AFLOCK_SECOND)

static const struct option long_options[] = {
    {"claim", required_argument, NULL, OPTION_CLAIM}, {"conflict-exit-code", required_argument, NULL, 'E'},
    {"force", no_argument, NULL, OPTION_FORCE},       {"help", no_argument, NULL, 'h'},
    {"json", no_argument, NULL, OPTION_JSON},         {"nb", no_argument, NULL, 'n'},
    {"new", no_argument, NULL, OPTION_NEW},           {"no-sync", no_argument, NULL, OPTION_NO_SYNC},
    {"nonblocking", no_argument, NULL, 'n'},          {"seconds", required_argument, NULL, OPTION_SECONDS},
    {"timeout", required_argument, NULL, 'w'},        {"verbose", no_argument, NULL, OPTION_VERBOSE},
    {"wait", required_argument, NULL, 'w'},           {NULL, 0, NULL, 0},
};

static const int status_options[] = {OPTION_JSON, 0}, break_options[] = {OPTION_FORCE, OPTION_CLAIM, 0},
                 file_options[] = {'n', 'w', 'E', OPTION_NO_SYNC, OPTION_VERBOSE, 0},
                 verify_options[] = {OPTION_JSON, OPTION_SECONDS, 0},
                 replace_options[] = {'n', 'w', 'E', OPTION_NO_SYNC, OPTION_VERBOSE, OPTION_NEW, 0};

static const struct form {
    const char *word;
    action action;
    const int *options; /* beside -h */
} forms[] = {
    {"status", ACTION_STATUS, status_options}, {"break", ACTION_BREAK, break_options},
    {"append", ACTION_APPEND, file_options},   {"replace", ACTION_REPLACE, replace_options},
    {"update", ACTION_UPDATE, file_options},   {"verify", ACTION_VERIFY, verify_options},
};

static const struct form *find_form(const char *word)
{
    for (size_t i = 0; i < sizeof forms / sizeof forms[0]; i++) {
        if (strcmp(word, forms[i].word) == 0)
            return &forms[i];
    }
    return NULL;
}

int is_action_word(const char *word)
{
    return find_form(word) != NULL;
}

static int has_option(const struct form *form, int option)
{
    const int *known = form->options;

    while (*known && *known != option)
        known++;
    return *known != 0;
}

static int no_option(const struct form *form, const char *word)
{
    complain("'%s' knows no option '%s'", form->word, word);
    return usage_error();
}

static int parse_duration(options *o, const char *text)
{
    if (parse_seconds(text, &o->duration) == 0 && o->duration > 0 && o->duration <= LONGEST_TRIAL)
        return GO_ON;
    complain("invalid number of seconds (more than 0, at most 3600): '%s'", text);
    return EX_USAGE;
}

static int parse_option(options *o, waiting *w, const struct form *form, int option, const char *word)
{
    if (option == 'h')
        return show_help();
    if (option == ':') {
        complain("option '%s' requires an argument", word);
        return usage_error();
    }
    if (!has_option(form, option))
        return no_option(form, word);
    switch (option) {
    case 'n':
        w->nonblock = 1;
        return GO_ON;
    case 'w':
        return parse_timeout(w, optarg);
    case 'E':
        return parse_conflict_status(o, optarg);
    case OPTION_CLAIM:
        o->claim = optarg;
        return GO_ON;
    case OPTION_FORCE:
        o->force = 1;
        return GO_ON;
    case OPTION_JSON:
        o->json = 1;
        return GO_ON;
    case OPTION_NEW:
        o->create = 1;
        return GO_ON;
    case OPTION_SECONDS:
        return parse_duration(o, optarg);
    case OPTION_NO_SYNC:
        o->no_sync = 1;
        return GO_ON;
    default:
        o->verbose = 1;
        return GO_ON;
    }
}

static int take_path(options *o, const struct form *form, const char *word)
{
    if (o->file && o->action == ACTION_VERIFY && !o->second) {
        o->second = word;
        return GO_ON;
    }
    if (o->file) {
        complain("'%s' takes %s, so '%s' is too much", form->word,
                 o->action == ACTION_VERIFY ? "two directories at most" : "one path", word);
        return usage_error();
    }
    o->file = word;
    return GO_ON;
}

/* What is left belongs to the filter, its options included. */
static void take_filter(options *o, char **words)
{
    if (*words && strcmp(*words, "--") == 0)
        words++;
    o->command = *words ? words : NULL;
}

static int check_operands(const options *o, const struct form *form)
{
    if (!o->file)
        complain("'%s' requires a path", form->word);
    else if (o->action == ACTION_UPDATE && !o->command)
        complain("'%s' requires a command", form->word);
    else
        return GO_ON;
    return usage_error();
}

/* Options and paths in any order. */
static int parse_words(options *o, waiting *w, const struct form *form, int count, char **words)
{
    int option, only_operands = 0, at = 1, status = GO_ON;

    while (status == GO_ON) {
        if (!only_operands && (option = getopt_long(count, words, "+:nw:E:h", long_options, NULL)) != -1) {
            status = parse_option(o, w, form, option, words[at]);
            at = optind;
            continue;
        }
        if (optind >= count)
            break;
        only_operands |= optind > at && strcmp(words[optind - 1], "--") == 0;
        status = take_path(o, form, words[optind]);
        at = ++optind;
        if (o->action == ACTION_UPDATE) {
            take_filter(o, words + optind);
            break;
        }
    }
    return status;
}

int actions_parse(options *o, int count, char **words)
{
    const struct form *form = find_form(words[0]);
    waiting w = {.timeout = AFLOCK_FOREVER};
    int status;

    o->action = form->action;
    if (o->action == ACTION_VERIFY)
        o->duration = AFLOCK_SECOND;
    if ((status = parse_words(o, &w, form, count, words)) != GO_ON || (status = check_operands(o, form)) != GO_ON)
        return status;
    return check_timeout(o, &w);
}
