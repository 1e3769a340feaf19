/* Places: from a path as text to the one queue of the file it names.
 *
 * Opening a lock only makes the path absolute as text; locks with the same text share a place at once. The first
 * attempt finds out which directory the text leads to; (device, inode, last component) is the key of the queue, and a
 * place that turns out to have the key of another is merged into it. Also here: what is known of mounted file systems.
 */
#include "runtime/runtime.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FIRST_BUCKETS = 64, COMPONENT_MAX = 255 };

/* ------------------------------------------------------------------------------------------------------ hash tables */

static uint64_t hash_bytes(uint64_t hash, const void *bytes, size_t length)
{
    const unsigned char *b = bytes; /* FNV-1a */
    for (size_t i = 0; i < length; i++)
        hash = (hash ^ b[i]) * UINT64_C(1099511628211);
    return hash;
}

static uint64_t hash_text(const char *text)
{
    return hash_bytes(UINT64_C(14695981039346656037), text, strlen(text));
}

static uint64_t hash_key(uint64_t dev, uint64_t ino, const char *name)
{
    uint64_t hash = hash_bytes(UINT64_C(14695981039346656037), &dev, sizeof dev);
    return hash_bytes(hash, &ino, sizeof ino) ^ hash_text(name);
}

static afl_spelling **text_bucket(aflock_ctx *ctx, const char *text)
{
    return &ctx->by_text[hash_text(text) & (ctx->text_buckets - 1)];
}

static afl_place **key_bucket(aflock_ctx *ctx, uint64_t dev, uint64_t ino, const char *name)
{
    return &ctx->by_key[hash_key(dev, ino, name) & (ctx->key_buckets - 1)];
}

bool afl_places_init(aflock_ctx *ctx)
{
    ctx->by_text = afl_allocate(ctx, FIRST_BUCKETS * sizeof(afl_spelling *));
    ctx->by_key = afl_allocate(ctx, FIRST_BUCKETS * sizeof(afl_place *));
    ctx->text_buckets = ctx->key_buckets = FIRST_BUCKETS;
    return ctx->by_text && ctx->by_key;
}

void afl_places_free(aflock_ctx *ctx)
{
    afl_release_memory(ctx, ctx->by_text);
    afl_release_memory(ctx, ctx->by_key);
    afl_release_memory(ctx, ctx->mounts);
}

/* Larger tables are wished for, not needed: without memory the chains grow. */
static void grow_texts(aflock_ctx *ctx)
{
    size_t old_count = ctx->text_buckets, count = old_count * 2;
    afl_spelling **old = ctx->by_text, **table = afl_allocate(ctx, count * sizeof *table);
    if (!table)
        return;
    ctx->by_text = table;
    ctx->text_buckets = count;
    for (size_t i = 0; i < old_count; i++) {
        for (afl_spelling *s = old[i], *next; s; s = next) {
            next = s->hash_next;
            afl_spelling **bucket = text_bucket(ctx, s->text);
            s->hash_next = *bucket;
            *bucket = s;
        }
    }
    afl_release_memory(ctx, old);
}

static void grow_keys(aflock_ctx *ctx)
{
    size_t old_count = ctx->key_buckets, count = old_count * 2;
    afl_place **old = ctx->by_key, **table = afl_allocate(ctx, count * sizeof *table);
    if (!table)
        return;
    ctx->by_key = table;
    ctx->key_buckets = count;
    for (size_t i = 0; i < old_count; i++) {
        for (afl_place *p = old[i], *next; p; p = next) {
            next = p->key_next;
            afl_place **bucket = key_bucket(ctx, p->dev, p->ino, p->name);
            p->key_next = *bucket;
            *bucket = p;
        }
    }
    afl_release_memory(ctx, old);
}

/* -------------------------------------------------------------------------------------------------------- spellings */

static afl_spelling *spelling_new(afl_place *p, const char *text)
{
    aflock_ctx *ctx = p->ctx;
    if (ctx->text_count >= ctx->text_buckets)
        grow_texts(ctx);
    size_t length = strlen(text);
    afl_spelling *s = calloc(1, sizeof *s + length + 1); /* a worker may be the last to use it */
    if (!s)
        return NULL;
    memcpy(s->text, text, length + 1);
    const char *slash = strrchr(s->text, '/');
    s->name = slash && slash[1] ? slash + 1 : ".";
    s->id = ++ctx->spelling_ids;
    atomic_init(&s->refs, 1);
    afl_spelling **bucket = text_bucket(ctx, text);
    s->hash_next = *bucket;
    *bucket = s;
    ctx->text_count++;
    s->place = p;
    s->place_next = p->spellings;
    p->spellings = s;
    return s;
}

void afl_spelling_unref(afl_spelling *s)
{
    if (s && atomic_fetch_sub(&s->refs, 1) == 1)
        free(s);
}

/* The locks are done with it: nobody finds it any more. */
static void spelling_forget(aflock_ctx *ctx, afl_spelling *s)
{
    afl_spelling **link = text_bucket(ctx, s->text);
    while (*link != s)
        link = &(*link)->hash_next;
    *link = s->hash_next;
    ctx->text_count--;
    afl_spelling_unref(s);
}

static void forget_spellings_of(afl_place *p)
{
    while (p->spellings) {
        afl_spelling *s = p->spellings;
        p->spellings = s->place_next;
        spelling_forget(p->ctx, s);
    }
}

/* ------------------------------------------------------------------------------------------------------- the text */

/* Makes `path` absolute as text: the working directory before it, "//" and "/./" and a "/" at the end taken out. ".."
 * stays, because what it means depends on symbolic links. A path that says itself that it is a directory ("d/", "d/.")
 * is refused: without that end it would name a file as well. 0 or AFLOCK_E... */
static int make_absolute(aflock_ctx *ctx, const char *path, char text[PATH_MAX])
{
    size_t used = 0;
    if (*path == '\0')
        return AFLOCK_EINVAL;
    if (*path != '/') {
        if (!ctx->sys->getcwd(text, PATH_MAX))
            return errno == ERANGE ? AFLOCK_ENAMETOOLONG : afl_status_of(errno);
        used = strlen(text);
        if (used == 1)
            used = 0; /* the root */
    }
    bool directory = false;
    while (*path) {
        size_t length = strcspn(path, "/");
        if (length > COMPONENT_MAX)
            return AFLOCK_ENAMETOOLONG;
        if (length > 0 && !(length == 1 && *path == '.')) {
            if (used + 1 + length >= PATH_MAX)
                return AFLOCK_ENAMETOOLONG;
            text[used++] = '/';
            memcpy(text + used, path, length);
            used += length;
            directory = path[length] == '/'; /* and nothing but "/" and "." after it, unless another name comes */
        }
        path += length;
        path += strspn(path, "/");
    }
    if (directory)
        return AFLOCK_EISDIR;
    if (used == 0)
        text[used++] = '/';
    text[used] = '\0';
    return 0;
}

uint64_t afl_directory_key(const char *text)
{
    const char *slash = strrchr(text, '/');
    size_t length = slash ? (size_t)(slash - text) + 1 : strlen(text);
    return hash_bytes(UINT64_C(14695981039346656037), text, length) | UINT64_C(1) << 63;
}

static afl_directory *directory_slot(aflock_ctx *ctx, uint64_t key)
{
    return &ctx->directories[key % (sizeof ctx->directories / sizeof ctx->directories[0])];
}

/* The device that another path in the same directory was found on lately. That it still is there does not matter: it
 * only says whom the first attempt shares its limits with. A caller's descriptor stands for itself until then: asking
 * it does not hang. */
static uint64_t device_key(aflock_ctx *ctx, const char *text)
{
    uint64_t key = afl_directory_key(text);
    const afl_directory *d = directory_slot(ctx, key);
    if (*text != '/')
        return key;
    return d->key == key ? d->dev : AFL_DEVICE_UNKNOWN;
}

/* --------------------------------------------------------------------------------------------------------- places */

static afl_place *place_new(aflock_ctx *ctx, const afl_terms *terms)
{
    afl_place *p = afl_allocate(ctx, sizeof *p);
    if (!p)
        return NULL;
    afl_path_init(&p->path);
    p->ctx = ctx;
    p->protocol = terms->protocol;
    p->terms = *terms;
    p->caller_fd = -1;
    p->path.hand_on = p->protocol->hand_on;
    p->path.join = p->protocol->join;
    p->path.beat_interval = p->protocol->lease ? terms->heartbeat : p->protocol->beat_interval;
    afl_timer_init(&p->lease.timer, 0);
    p->path.resolution = ctx->loop->resolution;
    p->attempt = afl_attempt_new(p);
    if (!p->attempt) {
        afl_release_memory(ctx, p);
        return NULL;
    }
    p->all_next = ctx->places;
    if (ctx->places)
        ctx->places->all_prev = p;
    ctx->places = p;
    return p;
}

static bool use_device(afl_place *p, uint64_t key)
{
    if (p->device && p->device->key == key)
        return true;
    afl_device *device = afl_device_get(p->ctx, key);
    if (!device)
        return p->device != NULL; /* the old one will do */
    afl_device_put(p->ctx, p->device);
    p->device = device;
    return true;
}

static bool same_terms(const afl_terms *a, const afl_terms *b)
{
    return a->protocol == b->protocol && a->duration == b->duration && a->heartbeat == b->heartbeat;
}

/* The place of a text: an existing one, or a new one that is not resolved. */
static afl_place *place_of_text(aflock_ctx *ctx, const char *text, const afl_terms *terms, int fd,
                                afl_spelling **spelling, int *status)
{
    *status = 0;
    for (afl_spelling *s = *text_bucket(ctx, text); s; s = s->hash_next) {
        if (strcmp(s->text, text) != 0)
            continue;
        if (!same_terms(&s->place->terms, terms)) {
            *status = AFLOCK_EMISMATCH;
            return NULL;
        }
        *spelling = s;
        return s->place;
    }
    *status = AFLOCK_ENOMEM;
    afl_place *p = place_new(ctx, terms);
    if (!p)
        return NULL;
    p->caller_fd = fd;
    p->attempt->work.fd = fd;
    afl_spelling *s = spelling_new(p, text);
    if (!s || !use_device(p, device_key(ctx, text))) {
        afl_place_free(p);
        return NULL;
    }
    *status = 0;
    *spelling = s;
    return p;
}

afl_place *afl_place_of_path(aflock_ctx *ctx, const char *path, const afl_terms *terms, afl_spelling **spelling,
                             int *status)
{
    char text[PATH_MAX];
    *status = make_absolute(ctx, path, text);
    return *status ? NULL : place_of_text(ctx, text, terms, -1, spelling, status);
}

afl_place *afl_place_of_descriptor(aflock_ctx *ctx, int fd, const afl_terms *terms, afl_spelling **spelling,
                                   int *status)
{
    char text[32];
    snprintf(text, sizeof text, "fd:%d", fd);
    return place_of_text(ctx, text, terms, fd, spelling, status);
}

static void forget_key(afl_place *p)
{
    if (!p->name)
        return;
    afl_place **link = key_bucket(p->ctx, p->dev, p->ino, p->name);
    while (*link != p)
        link = &(*link)->key_next;
    *link = p->key_next;
    p->ctx->key_count--;
    p->name = NULL;
}

/* Frees a place that has no locks and no operation in flight. */
void afl_place_free(afl_place *p)
{
    aflock_ctx *ctx = p->ctx;
    afl_place_unlisten(p);
    afl_glance_forget(p, false);
    afl_place_unwatch_holder(p);
    afl_place_forget_changes(p);
    afl_wanted_forget(p);
    forget_key(p);
    forget_spellings_of(p);
    afl_lease_end(p);
    afl_machine_forget(&ctx->machine, &p->path);
    *(p->all_prev ? &p->all_prev->all_next : &ctx->places) = p->all_next;
    if (p->all_next)
        p->all_next->all_prev = p->all_prev;
    if (p->attempt)
        afl_attempt_free(p->attempt);
    afl_device_put(ctx, p->device);
    afl_release_memory(ctx, p);
}

void afl_place_add_lock(afl_place *p, aflock *lock)
{
    lock->prev = NULL;
    lock->next = p->locks;
    if (lock->next)
        lock->next->prev = lock;
    p->locks = lock;
    p->io_locks[lock->io]++;
    lock->keep_open &= !p->protocol->marker;
    if (lock->keep_open && p->keepers++ == 0)
        afl_machine_keep(&p->ctx->machine, &p->path, true);
}

void afl_place_remove_lock(afl_place *p, const aflock *lock)
{
    *(lock->prev ? &lock->prev->next : &p->locks) = lock->next;
    if (lock->next)
        lock->next->prev = lock->prev;
    p->io_locks[lock->io]--;
    if (lock->keep_open && --p->keepers == 0)
        afl_machine_keep(&p->ctx->machine, &p->path, false);
}

void afl_place_tidy(afl_place *p)
{
    if (p->ctx->closing || p->locks || p->path.op || p->path.grip != AFL_GRIP_NONE || p->path.head || p->path.holders ||
        p->path.releaser || p->path.failing)
        return;
    afl_place_free(p);
}

/* Moves everything from a place that is not resolved into the one that has its key. */
static void merge(afl_place *into, afl_place *from, uint64_t now)
{
    aflock_ctx *ctx = into->ctx;
    bool mismatch = !same_terms(&into->terms, &from->terms);
    if (mismatch) {
        while (from->path.head)
            afl_machine_cancel(&ctx->machine, from->path.head, AFLOCK_EMISMATCH, now);
        from->path.op = AFL_OP_NONE; /* the locks stay with it: each later request finds out the same */
        afl_place_tidy(from);
        return;
    }
    while (from->spellings) {
        afl_spelling *spelling = from->spellings;
        from->spellings = spelling->place_next;
        spelling->place = into;
        spelling->place_next = into->spellings;
        into->spellings = spelling;
    }
    while (from->locks) {
        aflock *lock = from->locks;
        from->locks = lock->next;
        lock->place = into;
        afl_place_add_lock(into, lock);
    }
    afl_machine_merge(&ctx->machine, &into->path, &from->path, now);
    afl_place_refuse_unservable(into);
    afl_wanted_crowd(into);
    afl_place_free(from);
}

bool afl_place_resolved(afl_place *p, const afl_identity *where, uint64_t now)
{
    aflock_ctx *ctx = p->ctx;
    afl_spelling *s = p->attempt->spelling;
    if (p->caller_fd < 0) {
        uint64_t directory = afl_directory_key(s->text);
        *directory_slot(ctx, directory) = (afl_directory){directory, where->dev};
        if (ctx->key_count >= ctx->key_buckets)
            grow_keys(ctx);
        afl_place **bucket = key_bucket(ctx, where->dev, where->ino, s->name);
        for (afl_place *other = *bucket; other; other = other->key_next) {
            if (other->dev == where->dev && other->ino == where->ino && strcmp(other->name, s->name) == 0) {
                merge(other, p, now);
                return false;
            }
        }
        p->dev = where->dev;
        p->ino = where->ino;
        p->name = s->name;
        p->key_next = *bucket;
        *bucket = p;
        ctx->key_count++;
    }
    p->resolved = true;
    use_device(p, where->dev);
    return true;
}

/* ---------------------------------------------------------------------------------------------------------- mounts */

afl_class afl_mount_known(const aflock_ctx *ctx, const afl_identity *id, bool *known)
{
    *known = true;
    for (size_t i = 0; i < ctx->mount_count; i++)
        if (ctx->mounts[i].mount == id->mount && ctx->mounts[i].dev == id->dev)
            return ctx->mounts[i].kind;
    *known = id->mount == 0; /* the kernel does not tell: unknown for ever */
    return AFL_CLASS_UNKNOWN;
}

void afl_mount_learn(aflock_ctx *ctx, const afl_identity *id, afl_class kind)
{
    bool known;
    afl_mount_known(ctx, id, &known);
    if (known)
        return;
    afl_mount *larger = afl_reallocate(ctx, ctx->mounts, (ctx->mount_count + 1) * sizeof *larger);
    if (!larger)
        return; /* asked again the next time */
    ctx->mounts = larger;
    ctx->mounts[ctx->mount_count++] = (afl_mount){id->mount, id->dev, kind};
}
