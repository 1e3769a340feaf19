/* The protocol `strict`: claims that are never broken by age or death (py-filelock's StrictSoftFileLock, version 3.32;
 * claim.h has the records, folder.h what is where).
 *
 * One attempt goes through a doorway:
 *
 *   (a) any claim of somebody else: not now
 *   (b) publish an intent, under a token that nobody else has
 *   (c) look again: somebody holds it, or has an intent with a lower token: withdraw
 *   (d) give the intent's file its second name: held
 *   (e) look again: both are there and nobody has a lower token: it is ours; otherwise withdraw
 *
 * Both claims stay for the whole hold. Somebody who reads the folder while `held` is being made may miss it; the intent
 * has been there before he began, and keeps him from taking his own for the lowest. So what is taken away goes in the
 * order held, intent, and what cannot be taken away blocks everybody, ourselves included, until it can.
 *
 * While waiting the folder stays open, to listen for claims that go. If there are only intents, nobody may hold it:
 * those who meet in the doorway come back after a time of their own.
 */
#include "locks/strict.h"

#include "locks/folder.h"
#include "locks/identity.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define READ_PATIENCE (AFLOCK_SECOND / 2)   /* with a claim that cannot be read now */
#define READ_AGAIN (2 * AFLOCK_MILLISECOND) /* ... it is tried so often */
#define FIRST_DELAY AFLOCK_MILLISECOND      /* after a meeting in the doorway; twice that after the next, ... */
#define LONGEST_DELAY (50 * AFLOCK_MILLISECOND)

typedef struct strict_state {
    bool intent, held; /* ours, in the folder that is open as afl_work.fd; or may be there */
    char token[AFL_TOKEN_TEXT];
    uint64_t dev, ino;     /* of that folder */
    uint64_t unread_since; /* a claim could not be read; 0: all could */
    unsigned meetings;     /* attempts in a row that found intents only */
} strict_state;

static strict_state *state_of(const afl_work *w)
{
    return w->state;
}

static int drop(afl_work *w)
{
    int fd = w->fd;
    w->fd = -1;
    if (fd < 0)
        return 0;
    return w->sys->close(fd) == 0 || errno == EINTR ? 0 : errno;
}

/* ------------------------------------------------------------------------------------------------------ taking away */

static void own_name(const strict_state *s, bool held, char name[AFL_CLAIM_NAME])
{
    afl_claim_name key = {.held = held};
    memcpy(key.token, s->token, sizeof key.token);
    afl_claim_name_print(&key, name);
}

/* The server has forgotten the descriptor, or the folder is no more. */
static void open_again(afl_work *w)
{
    afl_folder f;
    if (afl_folder_open(&f, w->sys, w->path, false, false)) {
        drop(w);
        w->fd = f.claims;
        f.claims = -1;
    }
    free(f.why.detail);
    afl_folder_close(&f);
}

/* By name: nobody else has our token. 0 or errno. */
static int unlink_own(afl_work *w, bool held)
{
    char name[AFL_CLAIM_NAME];
    own_name(state_of(w), held, name);
    int rc = afl_unlink_at(w->sys, w->fd, name);
    if (rc != 0 && errno == ESTALE) {
        open_again(w);
        rc = afl_unlink_at(w->sys, w->fd, name);
    }
    return rc == 0 || errno == ENOENT ? 0 : errno;
}

/* Takes our claims away, held first. 0, or the errno that kept one there. */
static int take_back(afl_work *w)
{
    strict_state *s = state_of(w);
    int error = s->held ? unlink_own(w, true) : 0;
    if (error)
        return error;
    s->held = false;
    error = s->intent ? unlink_own(w, false) : 0;
    s->intent = error != 0;
    return error;
}

/* -------------------------------------------------------------------------------------------------- looking around */

typedef struct view {
    afl_folder *f;
    const char *token; /* ours, or "" */
    bool patient;      /* what cannot be read is left for later */
    bool others;       /* there are claims that are not ours, */
    bool held;         /* ... somebody holds, or may hold, */
    bool lower;        /* ... and one has a lower token */
    bool own_intent, own_held;
    bool unread, failed;
} view;

static bool note_unread(view *v, const afl_seen *seen)
{
    v->unread = true;
    if (v->patient)
        return false;
    if (seen->error == ESTALE) /* by now the server would know it */
        return true;
    v->failed = true;
    return afl_folder_protest(v->f, "read", seen->error, AFL_CLAIMS, seen->name, seen->reason);
}

static bool note_claim(const afl_seen *seen, void *user)
{
    view *v = user;
    if (seen->reason && seen->unread)
        return note_unread(v, seen);
    if (seen->reason) {
        v->failed = true;
        return afl_folder_protest(v->f, "read", seen->error, AFL_CLAIMS, seen->name, seen->reason);
    }
    const int order = strcmp(seen->key.token, v->token);
    if (order == 0) {
        *(seen->key.held ? &v->own_held : &v->own_intent) = true;
        return true;
    }
    v->others = true;
    v->held = v->held || seen->key.held;
    v->lower = v->lower || order < 0;
    return true;
}

typedef enum sight { CLEAR, LATER, FAILED } sight;

/* Reads all claims. LATER: one of them, or the folder, cannot be read now. */
static sight look_around(afl_work *w, afl_folder *f, view *v)
{
    strict_state *s = state_of(w);
    const uint64_t now = w->sys->boottime();
    *v = (view){.f = f, .token = s->intent ? s->token : ""};
    v->patient = !s->unread_since || now - s->unread_since < READ_PATIENCE;
    const int error = afl_folder_read(f, true, note_claim, v);
    if (error == ESTALE)
        v->unread = true;
    if (error && (error != ESTALE || !v->patient)) {
        afl_folder_protest(f, "list", error, AFL_CLAIMS, NULL, "it cannot be listed");
        v->failed = true;
    }
    if (v->failed || !v->unread)
        s->unread_since = 0;
    else if (!s->unread_since)
        s->unread_since = now;
    if (v->failed)
        return FAILED;
    if (!v->unread || !v->patient)
        return CLEAR;
    w->look_again = READ_AGAIN;
    return LATER;
}

/* ----------------------------------------------------------------------------------------------------- the doorway */

typedef enum verdict { WON, CONTENDED, REFUSED } verdict;

static mode_t mode_of(const afl_work *w)
{
    return w->file_mode == AFLOCK_MODE_DEFAULT ? 0666 : (mode_t)(w->file_mode & 07777);
}

/* Who we are. 0: f->why says why that cannot be told. */
static size_t own_record(afl_work *w, afl_folder *f, char *text, size_t size)
{
    char host[AFL_HOST_NAME];
    afl_claim own = {.pid = (int32_t)w->sys->getpid()};
    const bool named = afl_host_name(w->sys, host);
    if (named) {
        memcpy(own.host, host, sizeof host);
        own.has_start = afl_own_start(w->sys, &w->self, &own.start);
    }
    const size_t length = named ? afl_claim_print(&own, state_of(w)->token, text, size) : 0;
    if (length == 0)
        afl_folder_fail(f, "gethostname", EINVAL);
    return length;
}

/* Another try, after a time of our own: whoever comes as often as we do is not met each time. Also for what ought not
 * to happen twice, as that our own claim is not seen: there may be a reason why it does. */
static verdict meet(afl_work *w)
{
    strict_state *s = state_of(w);
    uint64_t dice, longest = FIRST_DELAY << (s->meetings < 6 ? s->meetings : 6);
    s->meetings++;
    if (longest > LONGEST_DELAY)
        longest = LONGEST_DELAY;
    w->look_again = w->sys->random(&dice, sizeof dice) == 0 ? dice % longest + 1 : longest;
    return CONTENDED;
}

/* There are claims of others, or not all that ought to be there. */
static verdict make_way(afl_work *w, const view *v)
{
    if (!v->held)
        return meet(w);
    state_of(w)->meetings = 0;
    return CONTENDED;
}

/* What came of making a claim; *there: it may be in the folder. */
static verdict published(afl_work *w, afl_publication how, bool *there)
{
    *there = how == AFL_PUBLISHED || how == AFL_UNCERTAIN || how == AFL_RECLAIMED;
    if (how == AFL_PUBLISHED)
        return WON;
    return how == AFL_TAKEN || how == AFL_RECLAIMED ? meet(w) : REFUSED;
}

static verdict publish_intent(afl_work *w, afl_folder *f, struct stat *made)
{
    strict_state *s = state_of(w);
    char name[AFL_CLAIM_NAME], text[AFL_CLAIM_SIZE];
    if (!afl_folder_token(f, s->token))
        return REFUSED;
    const size_t size = own_record(w, f, text, sizeof text);
    if (size == 0)
        return REFUSED;
    own_name(s, false, name);
    return published(w, afl_folder_publish(f, f->claims, name, text, size, mode_of(w), made), &s->intent);
}

static verdict publish_held(afl_work *w, afl_folder *f, const struct stat *made)
{
    strict_state *s = state_of(w);
    char intent[AFL_CLAIM_NAME], held[AFL_CLAIM_NAME];
    own_name(s, false, intent);
    own_name(s, true, held);
    const afl_publication how = afl_folder_link(f, f->claims, intent, held, made);
    if (how == AFL_TAKEN) {
        afl_folder_fail(f, "link", EEXIST);
        return REFUSED;
    }
    return published(w, how, &s->held);
}

/* w->fd is the folder. */
static verdict pass_doorway(afl_work *w, afl_folder *f)
{
    struct stat made;
    view v;
    sight seen = look_around(w, f, &v);
    if (seen != CLEAR)
        return seen == LATER ? CONTENDED : REFUSED;
    if (v.others)
        return make_way(w, &v);
    verdict so_far = publish_intent(w, f, &made);
    if (so_far != WON)
        return so_far;
    seen = look_around(w, f, &v);
    if (seen != CLEAR)
        return seen == LATER ? CONTENDED : REFUSED;
    if (v.held || v.lower || !v.own_intent)
        return make_way(w, &v);
    so_far = publish_held(w, f, &made);
    if (so_far != WON)
        return so_far;
    seen = look_around(w, f, &v);
    if (seen != CLEAR)
        return seen == LATER ? CONTENDED : REFUSED;
    if (v.lower || !v.own_intent || !v.own_held)
        return meet(w);
    w->dev = made.st_dev;
    w->ino = made.st_ino;
    return WON;
}

/* Listens to the folder that the path leads to now. */
static void keep_folder(afl_work *w, afl_folder *f)
{
    strict_state *s = state_of(w);
    w->renewed = w->fd >= 0 && (s->dev != f->dev || s->ino != f->ino);
    drop(w); /* a server may have forgotten it */
    w->fd = f->claims;
    s->dev = f->dev;
    s->ino = f->ino;
}

/* *inside: it came to the doorway. */
static verdict attempt(afl_work *w, afl_folder *f, bool *inside)
{
    const bool parents = (w->flags & AFLOCK_MAKE_PARENTS) != 0;
    if (!afl_folder_open(f, w->sys, w->path, true, parents))
        return f->why.status ? REFUSED : CONTENDED; /* it has just gone: no hurry to make it again */
    f->local = w->local;
    afl_sentinel_state sentinel = afl_folder_sentinel(f);
    if (sentinel == AFL_SENTINEL_MISSING) {
        if (!afl_folder_make_sentinel(f, mode_of(w)))
            return f->why.status ? REFUSED : meet(w);
        sentinel = afl_folder_sentinel(f);
    }
    if (sentinel != AFL_SENTINEL_THERE)
        return sentinel == AFL_SENTINEL_FAILED ? REFUSED : CONTENDED;
    keep_folder(w, f);
    *inside = true;
    const verdict v = pass_doorway(w, f);
    f->claims = -1; /* it is w->fd's */
    return v;
}

/* What was refused, and what could not be taken back. */
static void refuse(afl_work *w, const afl_folder *f, int undone)
{
    const afl_refusal *why = &f->why;
    afl_work_fail(w, undone ? AFL_GRIP_PENDING : AFL_GRIP_NONE, why->step, why->error);
    w->outcome.status = why->status;
    w->outcome.cleanup_errno = undone;
    w->detail = why->detail;
}

static void conclude(afl_work *w, const afl_folder *f, verdict v, bool inside)
{
    const int undone = v == WON ? 0 : take_back(w);
    if (v == WON) {
        state_of(w)->meetings = 0;
        w->have = UINT32_MAX;
        memcpy(w->token, state_of(w)->token, sizeof state_of(w)->token);
        afl_work_won(w);
    } else if (v == REFUSED) {
        refuse(w, f, undone);
    } else if (undone) {
        afl_work_fail(w, AFL_GRIP_PENDING, "unlink", undone);
    } else {
        afl_work_contended(w, inside ? AFL_GRIP_KEPT : AFL_GRIP_NONE);
        w->outcome.renewed = w->renewed;
    }
    if (w->outcome.grip == AFL_GRIP_NONE)
        drop(w);
}

static void try_path(afl_work *w)
{
    afl_folder f;
    w->renewed = false;
    w->look_again = AFLOCK_FOREVER;
    const int left = take_back(w); /* of an earlier attempt */
    if (left) {
        afl_work_fail(w, AFL_GRIP_PENDING, "unlink", left);
        return;
    }
    bool inside = false;
    const verdict v = attempt(w, &f, &inside);
    conclude(w, &f, v, inside);
    afl_folder_close(&f);
}

/* ------------------------------------------------------------------------------------------------- the other orders */

/* Without `held` nothing is held any more, whatever becomes of the intent. */
static void give_up(afl_work *w)
{
    int error = take_back(w);
    if (error && state_of(w)->held) {
        afl_work_fail(w, AFL_GRIP_HELD, "unlink", error);
        return;
    }
    w->outcome = (afl_outcome){.answer = AFL_WON, .grip = error ? AFL_GRIP_PENDING : AFL_GRIP_NONE};
    w->outcome.cleanup_errno = error;
    if (error)
        return;
    error = drop(w);
    if (w->flags & AFLOCK_REPORT_CLOSE)
        w->outcome.cleanup_errno = error;
}

static void withdraw(afl_work *w)
{
    const int error = take_back(w);
    if (error) {
        afl_work_fail(w, AFL_GRIP_PENDING, "unlink", error);
        return;
    }
    drop(w);
    w->outcome = (afl_outcome){.answer = AFL_WON, .grip = AFL_GRIP_NONE};
}

/* No ADOPT: what is held is not handed on, and nothing about it can be wished for. */
static void run(afl_work *w)
{
    w->not_inline = false;
    if (w->op == AFL_OP_TRY)
        try_path(w);
    else if (w->op == AFL_OP_RELEASE)
        give_up(w);
    else
        withdraw(w);
}

static void reconcile(afl_work *w)
{
    take_back(w);
    drop(w);
}

static void abandon(afl_work *w)
{
    drop(w); /* the claims are the parent's */
}

const afl_protocol afl_protocol_strict = {
    .name = "strict",
    .marker = true,
    .lasting = true,
    .notify = AFLOCK_ON_DIR,
    .notify_prefix = "held-",
    .state_size = sizeof(strict_state),
    .run = run,
    .reconcile = reconcile,
    .abandon = abandon,
    .verify = afl_strict_verify,
    .inspect = afl_strict_inspect,
    .remove_claim = afl_strict_remove_claim,
};
