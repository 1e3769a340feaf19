/* `aflock verify`: which locks exclude on the file system of a directory, or between two mounts of it.
 *
 * Each kind of lock is tried by processes (trial.c), in a directory of its own that is removed in the end, also when a
 * signal comes. Before all others come processes that lock nothing: if they are not caught, nothing that is found
 * afterwards means anything, and nothing is claimed.
 */
#include "verify.h"

#include "json.h"
#include "message.h"
#include "progress.h"
#include "trial.h"

#include <errno.h>
#include <ftw.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <time.h>
#include <unistd.h>

enum { OVERLAP = 1, CANNOT_TEST = EX_UNAVAILABLE };

static const struct kind {
    const char *name;
    aflock_protocol protocol;
    trial_kind kind;
} kinds[] = {
    {"native", AFLOCK_NATIVE, TRIAL_EXCLUSIVE},
    {
        "native",
        AFLOCK_NATIVE,
        TRIAL_SHARED,
    },
    {"ofd", AFLOCK_OFD, TRIAL_EXCLUSIVE},
    {"ofd", AFLOCK_OFD, TRIAL_SHARED},
    {"rw", AFLOCK_RW, TRIAL_EXCLUSIVE},
    {"rw", AFLOCK_RW, TRIAL_SHARED},
    {"soft", AFLOCK_SOFT, TRIAL_EXCLUSIVE},
    {"lease", AFLOCK_LEASE, TRIAL_EXCLUSIVE},
    {"strict", AFLOCK_STRICT, TRIAL_EXCLUSIVE},
    {"soft-rw", AFLOCK_SOFT_RW, TRIAL_EXCLUSIVE},
    {"soft-rw", AFLOCK_SOFT_RW, TRIAL_SHARED},
};
enum { KINDS = sizeof kinds / sizeof kinds[0], ADVICE = 4 };
enum { TRIES = 20 }; /* to find the overlap that has to be there; the machine may be busy */

typedef struct checking {
    const options *options;
    const signals *signals;
    progress progress;
    char folders[2][PATH_MAX]; /* that is removed in the end, and what it is called by the other mount */
    size_t current;            /* trial */
    trial control, trials[KINDS];
    const char *advice[ADVICE];
    size_t advice_count;
} checking;

/* -------------------------------------------------------------------------------------------------------- the folder
 */

static int cannot(const char *directory, const char *step, int error)
{
    complain("cannot test '%s': %s: %s", directory, step, strerror(error));
    return CANNOT_TEST;
}

/* What one directory shows must be in the other one, too. */
static int find_in_second(checking *c)
{
    const options *o = c->options;
    const char *name = strrchr(c->folders[0], '/');
    struct stat st;

    if (!o->second) {
        memcpy(c->folders[1], c->folders[0], sizeof c->folders[1]);
        return GO_ON;
    }
    if (snprintf(c->folders[1], PATH_MAX, "%s%s", o->second, name) >= PATH_MAX)
        return cannot(o->second, "open", ENAMETOOLONG);
    if (stat(c->folders[1], &st) == 0)
        return GO_ON;
    if (errno != ENOENT)
        return cannot(o->second, "stat", errno);
    complain("cannot test '%s': what is made in '%s' is not to be seen there", o->second, o->file);
    return CANNOT_TEST;
}

static int make_folder(checking *c)
{
    const char *directory = c->options->file;
    char template[PATH_MAX];

    if (snprintf(template, sizeof template, "%s/aflock-verify.XXXXXX", directory) >= PATH_MAX - 64)
        return cannot(directory, "mkdir", ENAMETOOLONG);
    if (!mkdtemp(template))
        return cannot(directory, "mkdir", errno);
    memcpy(c->folders[0], template, sizeof template);
    return find_in_second(c);
}

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *where)
{
    (void)st;
    (void)kind;
    (void)where;
    return remove(path) == 0 || errno == ENOENT ? 0 : -1;
}

/* On NFS a file that is removed while somebody has it open gets another name until he closes it. */
static int remove_folder(const checking *c)
{
    enum { REMOVALS = 5, DESCRIPTORS = 16 };
    const struct timespec pause = {.tv_nsec = 100000000};

    for (int i = 0; *c->folders[0]; i++) {
        if (nftw(c->folders[0], remove_one, DESCRIPTORS, FTW_DEPTH | FTW_PHYS) == 0 || errno == ENOENT)
            break;
        if (i == REMOVALS) {
            complain("cannot remove '%s': %s", c->folders[0], strerror(errno));
            return EX_IOERR;
        }
        nanosleep(&pause, NULL);
    }
    return GO_ON;
}

/* -------------------------------------------------------------------------------------------------------- the trials
 */

static const char *mode_name(trial_kind kind)
{
    return kind == TRIAL_SHARED ? "shared" : "exclusive";
}

static void show(void *user)
{
    checking *c = user;
    char text[128];

    if (c->current == 0)
        snprintf(text, sizeof text, "verify: is an overlap noticed?");
    else
        snprintf(text, sizeof text, "verify: %zu of %d: %s, %s", c->current, (int)KINDS, kinds[c->current - 1].name,
                 mode_name(kinds[c->current - 1].kind));
    progress_tell(&c->progress, text);
}

/* In a file of its own, so that nothing of another protocol is there. */
static void run_trial(checking *c, trial *t, const char *name)
{
    char paths[2][PATH_MAX + 64];

    for (int i = 0; i < 2; i++) {
        snprintf(paths[i], sizeof paths[i], "%s/%s-%d", c->folders[i], name, t->kind);
        t->paths[i] = paths[i];
    }
    trial_run(t, c->signals, show, c);
    if (!t->signal)
        return;
    progress_clear(&c->progress);
    (void)remove_folder(c);
    die_by(c->signals, t->signal);
}

static void run_trials(checking *c)
{
    for (int i = 0; i < TRIES && c->control.result != TRIAL_OVERLAPS && !*c->control.problem; i++) {
        c->control = (trial){.kind = TRIAL_UNLOCKED, .duration = AFLOCK_SECOND / 20};
        run_trial(c, &c->control, "control");
    }
    for (size_t i = 0; i < KINDS; i++) {
        c->current = i + 1;
        c->trials[i] = (trial){.kind = kinds[i].kind, .protocol = kinds[i].protocol, .duration = c->options->duration};
        if (c->control.result == TRIAL_OVERLAPS)
            run_trial(c, &c->trials[i], kinds[i].name);
        else
            memcpy(c->trials[i].problem, c->control.problem, sizeof c->control.problem);
    }
    progress_clear(&c->progress);
}

/* -------------------------------------------------------------------------------------------------------- the verdict
 */

static size_t count(const checking *c, trial_result result)
{
    size_t found = 0;

    for (size_t i = 0; i < KINDS; i++)
        found += c->trials[i].result == result;
    return found;
}

/* Of all modes of a protocol the worst one. */
static int excludes(const checking *c, aflock_protocol protocol)
{
    int all = 1;

    for (size_t i = 0; i < KINDS; i++)
        all &= c->trials[i].protocol != protocol || c->trials[i].result == TRIAL_EXCLUDES;
    return all;
}

static void advise(checking *c, const char *text)
{
    c->advice[c->advice_count++] = text;
}

static int waits_by_polling(const checking *c)
{
    for (size_t i = 0; i < KINDS; i++) {
        if (c->trials[i].result == TRIAL_EXCLUDES && c->trials[i].wait == AFLOCK_WAIT_POLL)
            return 1;
    }
    return 0;
}

static void recommend(checking *c)
{
    if (excludes(c, AFLOCK_NATIVE))
        advise(c, "Native locks exclude here: use them, with 'aflock FILE COMMAND' or AFLOCK_NATIVE.");
    else if (excludes(c, AFLOCK_OFD))
        advise(c, "Of the kernel's locks those of fcntl exclude here: use 'aflock --fcntl' or AFLOCK_OFD.");
    else if (excludes(c, AFLOCK_SOFT))
        advise(c,
               "No lock of the kernel was seen to exclude here: use markers, with 'aflock --soft' or AFLOCK_SOFT, or "
               "'aflock --strict' where two holders would be worse than none.");
    else if (excludes(c, AFLOCK_STRICT))
        advise(c, "Only strict locks were seen to exclude here: use 'aflock --strict' or AFLOCK_STRICT.");
    else if (count(c, TRIAL_UNTESTED) > 0)
        advise(c, "Nothing is recommended: what could not be tested, for the reasons above, may exclude here.");
    else
        advise(c, "Keep locks elsewhere: nothing that could be recommended was seen to exclude here.");
}

static void find_advice(checking *c)
{
    if (c->control.result != TRIAL_OVERLAPS) {
        advise(c, *c->control.problem
                      ? "Not even processes without any lock could be tried, so this check says nothing here."
                      : "Processes without any lock were not seen to overlap, so this check says nothing here.");
        return;
    }
    if (count(c, TRIAL_OVERLAPS) > 0)
        advise(c, "Do not use what overlaps here: two had the lock at the same time.");
    recommend(c);
    if (!c->options->second && waits_by_polling(c))
        advise(c, "This file system is not a local one, or not known to be: what was tested are processes of this "
                  "machine. Name a second mount of it to test between two.");
}

static int verdict(const checking *c)
{
    if (count(c, TRIAL_OVERLAPS) > 0)
        return OVERLAP;
    if (c->control.result != TRIAL_OVERLAPS || count(c, TRIAL_UNTESTED) > 0 || count(c, TRIAL_EXCLUDES) == 0)
        return CANNOT_TEST;
    return EX_OK;
}

/* ------------------------------------------------------------------------------------------------------- the report */

static const char *result_name(const trial *t)
{
    static const char *const names[] = {"untested", "excludes", "overlaps", "unsupported"};

    return names[t->result];
}

static const char *wait_name(const trial *t)
{
    return t->wait == AFLOCK_WAIT_NOTIFY ? "notify" : t->wait == AFLOCK_WAIT_POLL ? "poll" : "-";
}

static void show_text(const checking *c)
{
    print_line("%-9s %-10s %-12s %8s %9s  %s", "protocol", "mode", "result", "grants", "overlaps", "waiting");
    for (size_t i = 0; i < KINDS; i++) {
        const trial *t = &c->trials[i];

        print_line("%-9s %-10s %-12s %8" PRIu64 " %9" PRIu64 "  %s%s%s", kinds[i].name, mode_name(t->kind),
                   result_name(t), t->grants, t->overlaps, wait_name(t), *t->problem ? "  " : "", t->problem);
    }
    for (size_t i = 0; i < c->advice_count; i++)
        print_line("%s", c->advice[i]);
}

static void write_text(FILE *out, const char *name, const char *text)
{
    fprintf(out, ",\"%s\":", name);
    if (text && *text)
        json_string(out, text);
    else
        fputs("null", out);
}

static void write_json(FILE *out, const void *of)
{
    const checking *c = of;
    fputs("{\"directory\":", out);
    json_string(out, c->options->file);
    write_text(out, "second", c->options->second);
    fprintf(out, ",\"seconds\":%.9g,\"overlap_noticed\":%s,\"trials\":[",
            (double)c->options->duration / (double)AFLOCK_SECOND,
            c->control.result == TRIAL_OVERLAPS ? "true" : "false");
    for (size_t i = 0; i < KINDS; i++) {
        const trial *t = &c->trials[i];

        fprintf(out,
                "%s{\"protocol\":\"%s\",\"mode\":\"%s\",\"result\":\"%s\",\"grants\":%" PRIu64 ",\"overlaps\":%" PRIu64,
                i > 0 ? "," : "", kinds[i].name, mode_name(t->kind), result_name(t), t->grants, t->overlaps);
        write_text(out, "waiting", t->wait == AFLOCK_WAIT_AUTO ? NULL : wait_name(t));
        write_text(out, "why_waiting", t->why_wait);
        write_text(out, "problem", t->problem);
        putc('}', out);
    }
    fputs("],\"advice\":[", out);
    for (size_t i = 0; i < c->advice_count; i++) {
        fputs(i > 0 ? "," : "", out);
        json_string(out, c->advice[i]);
    }
    fputs("]}\n", out);
}

int verify(const options *o, const signals *s)
{
    static checking c;
    int status, removed;

    c.options = o;
    c.signals = s;
    progress_init(&c.progress, o->file);
    status = make_folder(&c);
    if (status == GO_ON)
        run_trials(&c);
    removed = remove_folder(&c);
    if (status != GO_ON)
        return status;
    find_advice(&c);
    if (o->json)
        status = json_print(write_json, &c);
    else
        show_text(&c);
    return status != GO_ON ? status : removed != GO_ON ? removed : verdict(&c);
}
