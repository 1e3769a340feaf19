/* Says what look.c has seen, as text or JSON, and takes markers away.
 *
 * JSON is written by hand: valid whatever the bytes of names and paths are. It is made of UTF-8 and escapes; a byte
 * that is not of UTF-8 becomes U+FFFD.
 */
#include "status.h"

#include "json.h"
#include "look.h"
#include "message.h"
#include "progress.h"

#include <aflock/aflock.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

enum { FREE = EX_OK, HELD = 1 };

static int is_locked(const look *l)
{
    return l->native.held || look_has_ofd(l) || look_has_rw(l) || l->pidfile.held;
}

static int is_held(const look *l)
{
    return l->marker == MARKER_HOLDER || l->claim_count > 0 || *l->problem || is_locked(l) || l->soft_rw.held;
}

/* ------------------------------------------------------------------------------------------------------------ text */

enum { COMMAND_SHOWN = 200, WHO = 2048 };

/* " (command)" of a process of this host, as far as that can be known; else "". */
static void describe_command(const aflock_holder *holder, char *out, size_t size)
{
    char words[LOOK_COMMAND + 1], name[80];
    size_t length = look_command(holder, words);

    *out = '\0';
    if (length > 0) {
        for (size_t i = 0; i + 1 < length; i++) {
            if (words[i] == '\0')
                words[i] = ' ';
        }
        snprintf(out, size, " (%.*s)", COMMAND_SHOWN, words);
    } else if (holder->here && !holder->gone && progress_name(holder->pid, name, sizeof name) == 0) {
        snprintf(out, size, " (%s)", name);
    }
}

static void describe_kernel_holder(const aflock_holder *holder, char *out, size_t size)
{
    char command[512], others[32] = "";

    if (holder->pid <= 0) {
        snprintf(out, size, "a process that is not known");
        return;
    }
    if (holder->count > 1)
        snprintf(others, sizeof others, " and %" PRIu32 " more", holder->count - 1);
    describe_command(holder, command, sizeof command);
    snprintf(out, size, "pid %" PRId64 "%s%s%s", holder->pid, command, holder->gone ? ", which has ended" : "", others);
}

static const char *protocol_of(const look *l)
{
    switch (l->holder.record) {
    case AFLOCK_RECORD_LEASE:
        return "lease";
    case AFLOCK_RECORD_OTHER:
        return "other";
    default:
        return "soft";
    }
}

/* Since when; what is refreshed says when it was, a lease also for how long. Fractions as they are: "30", "0.25". */
static void describe_age(const aflock_holder *holder, char *out, size_t size)
{
    const double age = (double)holder->age / (double)AFLOCK_SECOND;
    const double duration = (double)holder->duration / (double)AFLOCK_SECOND;

    if (holder->record == AFLOCK_RECORD_NONE && holder->token && *holder->token)
        snprintf(out, size, ", refreshed %.1f s ago", age);
    else if (holder->record != AFLOCK_RECORD_LEASE)
        snprintf(out, size, ", for %" PRIu64 " s", holder->age / AFLOCK_SECOND);
    else
        snprintf(out, size, ", refreshed %.1f s ago, %s of %.9g s", age,
                 age >= duration ? "beyond the duration" : "a lease", duration);
}

/* Whom a marker or a claim names. */
static void describe_owner(const aflock_holder *owner, char *out, size_t size)
{
    char command[512], age[96];

    describe_command(owner, command, sizeof command);
    describe_age(owner, age, sizeof age);
    snprintf(out, size, "pid %" PRId64 "%s on %s%s%s", owner->pid, command,
             *owner->host ? owner->host : "a host without a name",
             owner->gone   ? ", which has ended"
             : owner->here ? ""
                           : ", another host",
             age);
}

static void describe_claim(const look_claim *claim, char *out, size_t size)
{
    if (claim->valid)
        describe_owner(&claim->owner, out, size);
    else
        snprintf(out, size, "nobody who can be told; it is no claim");
}

static void show_kernel_lock(const look *l, const char *protocol, const aflock_holder *holder)
{
    char who[WHO];

    if (holder->held) {
        describe_kernel_holder(holder, who, sizeof who);
        print_line("%s: held (%s, %s) by %s", l->path, protocol, holder->mode == AFLOCK_SHARED ? "shared" : "exclusive",
                   who);
    }
    if (holder->pending)
        print_line("%s: wanted (%s, exclusive): a writer waits, and no other reader comes in", l->path, protocol);
}

/* Each claim keeps everybody out, and is what `break --claim` takes. */
static void show_claims(const look *l)
{
    char who[WHO];

    if (l->holder.held && l->holder.pid > 0) {
        describe_owner(&l->holder, who, sizeof who);
        print_line("%s: held (strict) by %s", l->path, who);
    } else if (is_held(l)) {
        print_line("%s: blocked (strict): nobody holds it, and nobody can have it", l->path);
    }
    if (*l->problem)
        print_line("%s: it does not follow the protocol: %s", l->path, l->problem);
    for (size_t i = 0; i < l->claim_count; i++) {
        describe_claim(&l->claims[i], who, sizeof who);
        print_line("%s: claim %s of %s", l->path, l->claims[i].name, who);
    }
    if (l->left_out > 0)
        print_line("%s: and %" PRIu32 " more", l->path, l->left_out);
}

/* As everybody has it for a moment; it may be left by who cannot give it back. */
static void show_state(const look *l)
{
    char who[WHO] = "somebody who is not known";

    if (l->state.pid > 0)
        describe_owner(&l->state, who, sizeof who);
    print_line("%s: blocked (soft-rw): nobody comes in as long as %s.state is there, a soft lock held by %s", l->path,
               *l->soft_rw_path ? l->soft_rw_path : l->path, who);
}

/* Of readers one is named; or the writer, who may wait for them. */
static void show_soft_rw(const look *l)
{
    const aflock_holder *holder = &l->soft_rw;
    const int shared = holder->mode == AFLOCK_SHARED;
    char who[WHO] = "somebody who is not known";

    if (*l->soft_rw_problem)
        print_line("%s: it does not follow the protocol: %s", l->path, l->soft_rw_problem);
    if (holder->blocked)
        show_state(l);
    if (!holder->held || holder->count == 0)
        return;
    if (holder->pid > 0)
        describe_owner(holder, who, sizeof who);
    if (holder->pending)
        print_line("%s: held (soft-rw, shared) by %" PRIu32 "; waited for (exclusive) by %s", l->path, holder->count,
                   who);
    else if (shared && holder->count > 1)
        print_line("%s: held (soft-rw, shared) by %s, and %" PRIu32 " more", l->path, who, holder->count - 1);
    else
        print_line("%s: held (soft-rw, %s) by %s", l->path, shared ? "shared" : "exclusive", who);
    if (*l->soft_rw_path)
        print_line("%s: it is a marker of %s", l->path, l->soft_rw_path);
}

static void show_free(const look *l)
{
    const char *obstacle = look_obstacle(l);

    if (obstacle)
        print_line("%s: free (no regular file, as '%s' of a soft-rw lock has to be)", l->path, obstacle);
    else
        print_line("%s: free%s", l->path,
                   l->fd < 0                    ? " (there is no such file)"
                   : l->marker == MARKER_NOBODY ? " (a file that names no holder)"
                                                : "");
    if (l->lock_file_held)
        print_line("%s: but %s.lock is locked", l->path, l->path);
}

static void show_text(const look *l)
{
    char who[WHO];

    show_kernel_lock(l, "native", &l->native);
    if (look_has_ofd(l))
        show_kernel_lock(l, "ofd", &l->ofd);
    if (look_has_rw(l))
        show_kernel_lock(l, "rw", &l->rw);
    show_kernel_lock(l, "pidfile", &l->pidfile);
    if (l->marker == MARKER_HOLDER) {
        describe_owner(&l->holder, who, sizeof who);
        print_line("%s: held (%s) by %s", l->path, protocol_of(l), who);
    }
    if (l->marker == MARKER_STRICT)
        show_claims(l);
    show_soft_rw(l);
    if (!is_held(l))
        show_free(l);
}

/* ------------------------------------------------------------------------------------------------------------ JSON */

static void write_command(FILE *out, const aflock_holder *holder)
{
    char words[LOOK_COMMAND + 1];
    size_t length = look_command(holder, words);

    if (length == 0) {
        fputs("null", out);
        return;
    }
    for (size_t at = 0; at < length; at += strlen(words + at) + 1) {
        fputs(at == 0 ? "[" : ",", out);
        json_string(out, words + at);
    }
    putc(']', out);
}

static const char *truth(int value)
{
    return value ? "true" : "false";
}

static void write_lock(FILE *out, const char *protocol, const aflock_holder *holder, const char **comma)
{
    fprintf(out, "%s{\"protocol\":\"%s\",\"mode\":%s,\"pid\":", *comma, protocol,
            !holder->held || holder->count == 0 ? "null"
            : holder->mode == AFLOCK_SHARED     ? "\"shared\""
                                                : "\"exclusive\"");
    *comma = ",";
    if (holder->pid > 0)
        fprintf(out, "%" PRId64, holder->pid);
    else
        fputs("null", out);
    fprintf(out, ",\"processes\":%" PRIu32 ",\"command\":", holder->count);
    write_command(out, holder);
    if (strcmp(protocol, "rw") == 0 || strcmp(protocol, "soft-rw") == 0)
        fprintf(out, ",\"pending\":%s", truth(holder->pending));
    if (strcmp(protocol, "soft-rw") == 0)
        fprintf(out, ",\"blocked\":%s", truth(holder->blocked));
    if (holder->host) {
        fputs(",\"host\":", out);
        json_string(out, holder->host);
        fprintf(out, ",\"here\":%s,\"gone\":%s,\"age\":%" PRIu64 ".%03u", truth(holder->here), truth(holder->gone),
                holder->age / AFLOCK_SECOND, (unsigned)(holder->age % AFLOCK_SECOND / AFLOCK_MILLISECOND));
        if (holder->record == AFLOCK_RECORD_LEASE) {
            fprintf(out, ",\"duration\":%.9g,\"token\":", (double)holder->duration / (double)AFLOCK_SECOND);
            json_string(out, holder->token);
        }
    }
    putc('}', out);
}

static void write_claim(FILE *out, const look_claim *claim)
{
    const aflock_holder *owner = &claim->owner;

    fputs("{\"name\":", out);
    json_string(out, claim->name);
    fprintf(out, ",\"state\":%s", !claim->valid ? "null" : claim->held ? "\"held\"" : "\"intent\"");
    if (claim->valid) {
        fprintf(out, ",\"pid\":%" PRId64 ",\"host\":", owner->pid);
        json_string(out, claim->host);
    } else {
        fputs(",\"pid\":null,\"host\":null", out);
    }
    fprintf(out, ",\"here\":%s,\"gone\":%s,\"age\":%" PRIu64 ".%03u}", truth(owner->here), truth(owner->gone),
            owner->age / AFLOCK_SECOND, (unsigned)(owner->age % AFLOCK_SECOND / AFLOCK_MILLISECOND));
}

static void write_claims(FILE *out, const look *l)
{
    fputs(",\"claims\":[", out);
    for (size_t i = 0; i < l->claim_count; i++) {
        fputs(i > 0 ? "," : "", out);
        write_claim(out, &l->claims[i]);
    }
    fprintf(out, "],\"more_claims\":%" PRIu32 ",\"problem\":", l->left_out);
    if (*l->problem)
        json_string(out, l->problem);
    else
        fputs("null", out);
}

static void write_json(FILE *out, const void *of)
{
    const look *l = of;
    static const char *const markers[] = {"none", "unread", "nobody", "holder", "strict"};
    const char *comma = "";

    fputs("{\"path\":", out);
    json_string(out, l->path);
    fprintf(out, ",\"exists\":%s,\"held\":%s,\"lock_file_held\":%s,\"marker\":\"%s\",\"locks\":[", truth(l->fd >= 0),
            truth(is_held(l)), truth(l->lock_file_held), markers[l->marker]);
    if (l->native.held)
        write_lock(out, "native", &l->native, &comma);
    if (look_has_ofd(l))
        write_lock(out, "ofd", &l->ofd, &comma);
    if (look_has_rw(l))
        write_lock(out, "rw", &l->rw, &comma);
    if (l->pidfile.held)
        write_lock(out, "pidfile", &l->pidfile, &comma);
    if (l->marker == MARKER_HOLDER)
        write_lock(out, protocol_of(l), &l->holder, &comma);
    if (l->marker == MARKER_STRICT && l->holder.held && l->holder.pid > 0)
        write_lock(out, "strict", &l->holder, &comma);
    if (l->soft_rw.held)
        write_lock(out, "soft-rw", &l->soft_rw, &comma);
    fputs("]", out);
    if (l->marker == MARKER_STRICT)
        write_claims(out, l);
    fputs("}\n", out);
}

/* -------------------------------------------------------------------------------------------------------- the words */

static int show(const options *o, const look *l)
{
    int status = GO_ON;

    if (l->marker == MARKER_UNREAD && !is_held(l)) {
        complain("cannot read '%s', so who holds it is not known", l->path);
        return EX_NOINPUT;
    }
    if (*l->soft_rw_problem && !is_held(l)) {
        complain("cannot look at '%s': %s", l->path, l->soft_rw_problem);
        return EX_NOINPUT;
    }
    if (o->json)
        status = json_print(write_json, l);
    else
        show_text(l);
    return status != GO_ON ? status : is_held(l) ? HELD : FREE;
}

int status_show(const options *o)
{
    look l;
    int status = look_at(&l, o->file);

    if (status == GO_ON)
        status = show(o, &l);
    look_end(&l);
    return status;
}

/* Why what is there must not be taken away, or NULL. */
static const char *no_marker(const look *l)
{
    if (is_locked(l))
        return "it is locked in the kernel";
    switch (l->marker) {
    case MARKER_NONE:
        return S_ISDIR(l->st.st_mode) ? "it is a directory" : "it is no regular file";
    case MARKER_UNREAD:
        return "it cannot be read";
    case MARKER_NOBODY:
        return "it names no holder";
    case MARKER_STRICT:
        return "it is a strict lock, whose claims are broken one by one (--claim)";
    default:
        return NULL;
    }
}

/* Of what names nobody the name has to tell that it is a marker. */
static const aflock_holder *holder_to_break(const look *l, char *who, size_t size)
{
    const aflock_holder *holder = l->marker == MARKER_HOLDER ? &l->holder : &l->soft_rw;

    if (holder->pid > 0)
        describe_owner(holder, who, size);
    else
        snprintf(who, size, "nobody who can be told");
    return holder;
}

static int break_marker(const options *o, look *l)
{
    const int of_soft_rw = l->marker == MARKER_NOBODY && !is_locked(l) && look_is_of_soft_rw(l);
    const char *why = of_soft_rw ? NULL : no_marker(l);
    const aflock_holder *holder;
    char who[WHO];
    int error;

    if (why) {
        complain("'%s' is left alone, it is no marker: %s", l->path, why);
        for (size_t i = 0; i < l->claim_count; i++) {
            describe_claim(&l->claims[i], who, sizeof who);
            complain("--claim %s: of %s", l->claims[i].name, who);
        }
        return EX_DATAERR;
    }
    holder = holder_to_break(l, who, sizeof who);
    if (!holder->gone && !o->force) {
        complain("'%s' is held by %s; %s: --force breaks it all the same", l->path, who,
                 holder->here ? "it may be alive" : "whether it is alive cannot be told from here");
        return HELD;
    }
    if (look_is_stale(l)) {
        complain("'%s' has just changed, nothing is done", l->path);
        return HELD;
    }
    error = look_break(l);
    if (error != 0) {
        complain("cannot remove '%s': %s", l->path, strerror(error));
        return EX_OSERR;
    }
    print_line("%s: broken; it was held by %s", l->path, who);
    return EX_OK;
}

static const look_claim *find_claim(const look *l, const char *name)
{
    for (size_t i = 0; i < l->claim_count; i++) {
        if (strcmp(l->claims[i].name, name) == 0)
            return &l->claims[i];
    }
    return NULL;
}

/* Nothing but this one claim: what a strict lock is made of is never taken for left behind by itself. */
static int break_claim(const options *o, look *l)
{
    const look_claim *claim = find_claim(l, o->claim);
    char who[WHO];
    int error;

    if (l->marker != MARKER_STRICT) {
        complain("'%s' is left alone, it is no strict lock", l->path);
        return EX_DATAERR;
    }
    if (!claim) {
        complain("'%s' has no claim '%s'", l->path, o->claim);
        return EX_DATAERR;
    }
    describe_claim(claim, who, sizeof who);
    if (!claim->owner.gone && !o->force) {
        complain("the claim '%s' is of %s; %s: --force breaks it all the same", claim->name, who,
                 claim->owner.here ? "it may be alive" : "whether it is alive cannot be told from here");
        return HELD;
    }
    error = look_break_claim(l, claim->name);
    if (error != 0) {
        complain("cannot remove '%s': %s", claim->name, strerror(error));
        return EX_OSERR;
    }
    print_line("%s: broken: claim %s of %s", l->path, claim->name, who);
    return EX_OK;
}

/* Is it what a soft-rw lock is beside, and no marker itself? */
static int is_beside_markers(const look *l)
{
    return (l->soft_rw.held || *l->soft_rw_problem) && !*l->soft_rw_path &&
           (l->fd < 0 || (l->marker == MARKER_NOBODY && !is_locked(l)));
}

/* What may be broken instead, or removed. */
static int refuse_markers(const look *l)
{
    if (*l->soft_rw_problem)
        complain("'%s' is left alone: %s", l->path, l->soft_rw_problem);
    else
        complain(
            "'%s' is left alone: its markers are void by themselves %s; break '%s.state' or '%s.write' if they stay, "
            "or remove what is in '%s.readers'",
            l->path, "when their holders are gone", l->path, l->path, l->path);
    return EX_DATAERR;
}

int status_break(const options *o)
{
    look l;
    int status = look_at(&l, o->file);

    if (status == GO_ON && o->claim) {
        status = break_claim(o, &l);
    } else if (status == GO_ON && is_beside_markers(&l)) {
        status = refuse_markers(&l);
    } else if (status == GO_ON && l.fd < 0) {
        print_line("%s: there is no marker", l.path);
        status = EX_OK;
    } else if (status == GO_ON) {
        status = break_marker(o, &l);
    }
    look_end(&l);
    return status;
}
