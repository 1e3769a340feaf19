/* What can be asked about a strict lock, and the one thing that an operator can do about it: to take a claim away. None
 * of it makes, tidies or judges anything. */
#include "locks/folder.h"
#include "locks/identity.h"
#include "locks/strict.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* False: the folder is not there (status 0), or cannot be opened. */
static bool open_folder(afl_query *q, afl_folder *f)
{
    const bool open = afl_folder_open(f, q->sys, q->path, false, false);
    const bool missing = f->why.status == AFLOCK_ENOENT || f->why.status == AFLOCK_ENOTDIR;
    if (!open && !missing) {
        q->status = f->why.status;
        q->sys_errno = f->why.error;
        q->step = f->why.step;
    }
    q->detail = f->why.detail;
    return open;
}

/* ---------------------------------------------------------------------------------------------------------- verify */

typedef struct search {
    uint64_t dev, ino;
    bool held, intent;
    int error; /* of one that could not be looked at */
} search;

static bool find_both(const afl_seen *seen, void *user)
{
    search *s = user;
    if (seen->ino == 0)
        s->error = seen->error;
    else if (seen->dev == s->dev && seen->ino == s->ino && seen->key.token[0])
        *(seen->key.held ? &s->held : &s->intent) = true;
    return !s->held || !s->intent;
}

void afl_strict_verify(afl_query *q)
{
    afl_folder f;
    search s = {.dev = q->dev, .ino = q->ino};
    int error = 0;
    if (open_folder(q, &f))
        error = afl_folder_read(&f, false, find_both, &s);
    afl_folder_close(&f);
    if (q->status || (s.held && s.intent))
        return;
    if (error || s.error) {
        afl_query_fail(q, error ? "list" : "stat", error ? error : s.error);
        return;
    }
    q->status = AFLOCK_EREPLACED;
    q->step = "list";
}

/* ---------------------------------------------------------------------------------------------------------- inspect */

enum { CLAIMS_LISTED = 1000 };

/* One of the list, with its texts. */
typedef struct entry {
    aflock_claim claim;
    char name[NAME_MAX + 1];
    char token[AFL_TOKEN_TEXT];
    char host[AFL_CLAIM_HOST];
} entry;

typedef struct list {
    afl_query *q;
    afl_folder *f;
    entry *entries;
    uint32_t count, room;
    bool no_memory;
    char lowest[AFL_CLAIM_NAME]; /* of the claims that are held */
} list;

static entry *new_entry(list *l)
{
    if (l->count == l->room && l->room < CLAIMS_LISTED) {
        const uint32_t room = l->room ? l->room * 2 : 8;
        entry *larger = realloc(l->entries, (room < CLAIMS_LISTED ? room : CLAIMS_LISTED) * sizeof *larger);
        if (!larger) {
            l->no_memory = true;
            return NULL;
        }
        l->entries = larger;
        l->room = room < CLAIMS_LISTED ? room : CLAIMS_LISTED;
    }
    if (l->count == l->room)
        return NULL;
    entry *e = &l->entries[l->count++];
    memset(e, 0, sizeof *e);
    return e;
}

static uint64_t age_of(const afl_query *q, const afl_seen *seen)
{
    const uint64_t now = q->sys->realtime();
    return now > seen->changed ? now - seen->changed : 0;
}

static bool is_here(const afl_sys *sys, const char *host)
{
    char name[AFL_HOST_NAME];
    return afl_host_name(sys, name) && strcmp(name, host) == 0;
}

static bool is_gone(const afl_sys *sys, const afl_claim *claim)
{
    const afl_record owner = {.kind = AFL_RECORD_SOFT,
                              .pid = claim->pid,
                              .host = {claim->host, strlen(claim->host)},
                              .has_start = claim->has_start,
                              .start = claim->start};
    return afl_owner_gone(sys, &owner);
}

/* The one whom the answer names is that of the lowest claim that is held. */
static void name_holder(list *l, const afl_seen *seen)
{
    afl_query *q = l->q;
    q->held = 1;
    q->count++;
    if (l->lowest[0] && strcmp(l->lowest, seen->name) <= 0)
        return;
    (void)snprintf(l->lowest, sizeof l->lowest, "%s", seen->name);
    q->pid = seen->claim.pid;
    (void)snprintf(q->host, sizeof q->host, "%.*s", (int)sizeof q->host - 1, seen->claim.host);
    q->age = age_of(q, seen);
    q->here = is_here(q->sys, seen->claim.host);
    q->gone = is_gone(q->sys, &seen->claim);
}

/* What is no claim is listed, too: it has to be known to be taken away. */
static bool take_down(const afl_seen *seen, void *user)
{
    list *l = user;
    if (seen->reason && seen->error == ESTALE) /* it has just gone, most likely; the next question knows */
        return true;
    if (seen->reason && !l->f->why.status)
        afl_folder_protest(l->f, "read", seen->error, AFL_CLAIMS, seen->name, seen->reason);
    if (!seen->reason && seen->key.held)
        name_holder(l, seen);
    entry *e = new_entry(l);
    if (!e) {
        l->q->claims_left_out++;
        return true;
    }
    (void)snprintf(e->name, sizeof e->name, "%s", seen->name);
    e->claim.size = sizeof e->claim;
    e->claim.held = seen->key.held;
    e->claim.age = seen->changed ? age_of(l->q, seen) : 0;
    if (seen->reason)
        return true;
    (void)snprintf(e->token, sizeof e->token, "%s", seen->key.token);
    (void)snprintf(e->host, sizeof e->host, "%s", seen->claim.host);
    e->claim.pid = seen->claim.pid;
    e->claim.here = is_here(l->q->sys, seen->claim.host);
    e->claim.gone = is_gone(l->q->sys, &seen->claim);
    return true;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const entry *)a)->name, ((const entry *)b)->name);
}

/* Lays the public structs in front of the texts that they point to. One block, which the question has from now on. */
static void hand_over(list *l)
{
    afl_query *q = l->q;
    if (l->count == 0)
        return;
    qsort(l->entries, l->count, sizeof *l->entries, by_name);
    aflock_claim *claims = calloc(l->count, sizeof *claims + sizeof *l->entries);
    if (!claims) {
        l->no_memory = true;
        return;
    }
    entry *entries = memcpy(claims + l->count, l->entries, l->count * sizeof *entries);
    for (uint32_t i = 0; i < l->count; i++) {
        claims[i] = entries[i].claim;
        claims[i].name = entries[i].name;
        claims[i].token = entries[i].token;
        claims[i].host = entries[i].host;
    }
    q->claims = claims;
    q->claim_count = l->count;
}

/* What is not the sentinel, though it is where that ought to be, keeps everybody out, too. */
static void look_at_sentinel(afl_query *q, afl_folder *f)
{
    if (f->parent >= 0 && afl_folder_sentinel(f) == AFL_SENTINEL_ANOTHER)
        q->held = 1;
}

void afl_strict_inspect(afl_query *q)
{
    afl_folder f;
    list l = {.q = q, .f = &f};
    if (open_folder(q, &f)) {
        const int error = afl_folder_read(&f, false, take_down, &l);
        if (error)
            afl_folder_protest(&f, "list", error, AFL_CLAIMS, NULL, "it cannot be listed");
        hand_over(&l);
    }
    if (!q->status)
        look_at_sentinel(q, &f);
    if (!q->status && f.claims >= 0) {
        q->status = f.why.status;
        q->sys_errno = f.why.error;
        q->step = f.why.step;
        q->detail = f.why.detail;
    }
    if (l.no_memory)
        q->status = AFLOCK_ENOMEM;
    free(l.entries);
    afl_folder_close(&f);
}

/* -------------------------------------------------------------------------------------------------------- breaking */

typedef struct wish {
    const char *name;
    bool there;
} wish;

static bool is_wanted(const char *name, void *user)
{
    wish *w = user;
    w->there = strcmp(name, w->name) == 0;
    return !w->there;
}

/* The name has to be there as it is written: a file system that takes two ways to write it for one takes away nothing
 * that was not meant. 0 or errno. */
static int remove_exactly(afl_folder *f, const char *name)
{
    wish w = {.name = name};
    const int error = afl_read_names(f->sys, f->claims, is_wanted, &w);
    if (error)
        return error;
    return w.there && afl_unlink_at(f->sys, f->claims, name) == 0 ? 0 : w.there ? errno : ENOENT;
}

void afl_strict_remove_claim(afl_query *q)
{
    afl_folder f;
    if (open_folder(q, &f)) {
        const int error = remove_exactly(&f, q->claim);
        if (error)
            afl_query_fail(q, "unlink", error);
    } else if (!q->status) {
        afl_query_fail(q, "open", ENOENT);
    }
    afl_folder_close(&f);
}
