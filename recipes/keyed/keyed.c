/* aflock/keyed.h: a hash table from names to locks, and a list of the idle ones, the least recently used first. */
#include <aflock/keyed.h>

#include "keyed/sha256.h"

#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LOCK_SUFFIX ".lock"
enum { FIRST_BUCKETS = 64, DEFAULT_IDLE = 1024, ESCAPED = AFLOCK_KEYED_NAME - (int)sizeof LOCK_SUFFIX };
/* What is left of the text of a long key before the mark and the digits of its digest. */
enum { CUT = ESCAPED - 2 - 2 * SHA256_BYTES };

typedef struct entry {
    struct entry *by_key, *by_lock; /* of the same buckets */
    struct entry *newer, *older;    /* of the idle ones */
    aflock *lock;
    size_t users;
    bool is_idle;
    uint64_t hash;
    size_t length;
    char key[]; /* or the number of a stripe */
} entry;

struct aflock_keyed {
    aflock_ctx *ctx;
    aflock_options lock;
    size_t max_idle, used, idle;
    unsigned stripes;
    entry **by_key, **by_lock;
    size_t buckets, count;
    entry *oldest, *newest;
    size_t directory_length;
    char directory[];
};

void aflock_keyed_options_init(aflock_keyed_options *o)
{
    if (o)
        *o = (aflock_keyed_options){.size = sizeof *o, .max_idle = DEFAULT_IDLE};
}

/* ------------------------------------------------------------------------------------------------------------- names
 */

/* It stands for itself. */
static bool is_plain(unsigned char c, bool first)
{
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' || c == '-' || (c == '.' && !first);
}

static char *put_hex(char *to, unsigned char byte)
{
    static const char DIGITS[] = "0123456789abcdef";
    *to++ = DIGITS[byte >> 4];
    *to++ = DIGITS[byte & 15];
    return to;
}

/* As much of the key as fits into `room`, never half a byte of it. Whether all of it did. */
static bool escape(const unsigned char *key, size_t length, char **to, size_t room)
{
    const char *end = *to + room;
    for (size_t i = 0; i < length; i++) {
        bool plain = is_plain(key[i], i == 0);
        if (end - *to < (plain ? 1 : 3))
            return false;
        if (plain) {
            *(*to)++ = (char)key[i];
        } else {
            *(*to)++ = '%';
            *to = put_hex(*to, key[i]);
        }
    }
    return true;
}

void aflock_keyed_name(const void *key, size_t length, char name[AFLOCK_KEYED_NAME])
{
    char *to = name;
    if (!key && length > 0) { /* no file has this name */
        *name = '\0';
        return;
    }
    if (length == 0) {
        *to++ = '%';
    } else if (!escape(key, length, &to, ESCAPED)) {
        unsigned char digest[SHA256_BYTES];
        sha256(key, length, digest);
        to = name;
        escape(key, length, &to, CUT);
        *to++ = '%'; /* what no byte is escaped to: names of short keys do not have it */
        *to++ = '-';
        for (int i = 0; i < SHA256_BYTES; i++)
            to = put_hex(to, digest[i]);
    }
    memcpy(to, LOCK_SUFFIX, sizeof LOCK_SUFFIX);
}

static uint64_t hash_of(const void *key, size_t length)
{
    const unsigned char *bytes = key;
    uint64_t hash = UINT64_C(0xcbf29ce484222325); /* FNV-1a */
    for (size_t i = 0; i < length; i++)
        hash = (hash ^ bytes[i]) * UINT64_C(0x100000001b3);
    return hash;
}

/* -------------------------------------------------------------------------------------------------------- the tables
 */

static entry **bucket_of_key(const aflock_keyed *k, uint64_t hash)
{
    return &k->by_key[(hash ^ hash >> 32) & (k->buckets - 1)];
}

static entry **bucket_of_lock(const aflock_keyed *k, const aflock *lock)
{
    return &k->by_lock[((uintptr_t)lock >> 4) * UINT64_C(0x9E3779B97F4A7C15) >> 32 & (k->buckets - 1)];
}

static void link_entry(aflock_keyed *k, entry *e)
{
    entry **key = bucket_of_key(k, e->hash), **lock = bucket_of_lock(k, e->lock);
    e->by_key = *key;
    *key = e;
    e->by_lock = *lock;
    *lock = e;
}

static void unlink_entry(aflock_keyed *k, const entry *e)
{
    entry **link = bucket_of_key(k, e->hash);
    while (*link != e)
        link = &(*link)->by_key;
    *link = e->by_key;
    link = bucket_of_lock(k, e->lock);
    while (*link != e)
        link = &(*link)->by_lock;
    *link = e->by_lock;
}

/* Both tables; without memory the chains grow. */
static bool grow(aflock_keyed *k, size_t buckets)
{
    entry **old = k->by_key, **keys = calloc(buckets, sizeof(entry *)), **locks = calloc(buckets, sizeof(entry *));
    if (!keys || !locks) {
        free(keys);
        free(locks);
        return false;
    }
    size_t before = k->buckets;
    free(k->by_lock);
    k->by_key = keys;
    k->by_lock = locks;
    k->buckets = buckets;
    for (size_t i = 0; i < before; i++) {
        for (entry *e = old[i], *next; e; e = next) {
            next = e->by_key;
            link_entry(k, e);
        }
    }
    free(old);
    return true;
}

static entry *find(const aflock_keyed *k, const void *key, size_t length, uint64_t hash)
{
    entry *e = *bucket_of_key(k, hash);
    while (e && (e->hash != hash || e->length != length || (length && memcmp(e->key, key, length) != 0)))
        e = e->by_key;
    return e;
}

/* ---------------------------------------------------------------------------------------------------- the idle ones */

static void become_idle(aflock_keyed *k, entry *e)
{
    e->newer = NULL;
    e->older = k->newest;
    *(k->newest ? &k->newest->newer : &k->oldest) = e;
    k->newest = e;
    e->is_idle = true;
    k->idle++;
}

static void leave_idle(aflock_keyed *k, entry *e)
{
    *(e->newer ? &e->newer->older : &k->newest) = e->older;
    *(e->older ? &e->older->newer : &k->oldest) = e->newer;
    e->is_idle = false;
    k->idle--;
}

static void forget(aflock_keyed *k, entry *e)
{
    leave_idle(k, e);
    unlink_entry(k, e);
    k->count--;
    free(e);
}

/* Those whose requests have not ended yet are looked at again later; each at most once now. */
static void close_idle(aflock_keyed *k)
{
    entry *e;
    for (size_t looked = k->idle; looked > 0 && k->idle > k->max_idle && (e = k->oldest) != NULL; looked--) {
        if (aflock_close(e->lock) == 0) {
            forget(k, e);
        } else {
            leave_idle(k, e);
            become_idle(k, e);
        }
    }
}

/* --------------------------------------------------------------------------------------------------------- registries
 */

static int take_options(aflock_keyed_options *o, aflock_options *lock, const aflock_keyed_options *given)
{
    aflock_keyed_options_init(o);
    aflock_options_init(lock);
    if (given) {
        if (given->size < sizeof given->size || given->size > sizeof *o)
            return AFLOCK_EINVAL;
        memcpy(o, given, given->size);
    }
    if (o->lock) {
        if (o->lock->size < sizeof lock->size || o->lock->size > sizeof *lock)
            return AFLOCK_EINVAL;
        memcpy(lock, o->lock, o->lock->size);
        lock->size = sizeof *lock;
    }
    return 0;
}

int aflock_keyed_new(aflock_keyed **out, aflock_ctx *ctx, const char *directory, const aflock_keyed_options *options)
{
    char here[PATH_MAX] = "";
    aflock_keyed_options o;
    aflock_options lock;
    if (!out)
        return AFLOCK_EINVAL;
    *out = NULL;
    int status = take_options(&o, &lock, options);
    if (status)
        return status;
    if (!ctx || !directory || !*directory)
        return AFLOCK_EINVAL;
    if (*directory != '/' && !getcwd(here, sizeof here))
        return AFLOCK_ESYS;
    size_t length = strlen(here) + strlen(directory) + 2;
    aflock_keyed *k = calloc(1, sizeof *k + length + 1);
    if (!k || !grow(k, FIRST_BUCKETS)) {
        free(k);
        return AFLOCK_ENOMEM;
    }
    k->directory_length =
        (size_t)snprintf(k->directory, length + 1, "%s%s%s/", here, *directory == '/' ? "" : "/", directory);
    k->ctx = ctx;
    k->lock = lock;
    k->max_idle = o.max_idle;
    k->stripes = o.stripes;
    *out = k;
    return 0;
}

/* In a child closing is refused, and memory is all that is freed. */
void aflock_keyed_free(aflock_keyed *k)
{
    if (!k)
        return;
    for (size_t i = 0; i < k->buckets; i++) {
        for (entry *e = k->by_key[i], *next; e; e = next) {
            next = e->by_key;
            if (e->users == 0)
                aflock_close(e->lock);
            free(e);
        }
    }
    free(k->by_key);
    free(k->by_lock);
    free(k);
}

/* --------------------------------------------------------------------------------------------------------- get and put
 */

static int open_entry(const aflock_keyed *k, entry *e, const char *name)
{
    size_t length = strlen(name);
    char *path = malloc(k->directory_length + length + 1);
    if (!path)
        return AFLOCK_ENOMEM;
    memcpy(path, k->directory, k->directory_length);
    memcpy(path + k->directory_length, name, length + 1);
    int status = aflock_open(&e->lock, k->ctx, path, &k->lock);
    free(path);
    return status;
}

static int new_entry(aflock_keyed *k, const void *key, size_t length, uint64_t hash, entry **out)
{
    char name[AFLOCK_KEYED_NAME];
    entry *e = length < SIZE_MAX - sizeof *e ? calloc(1, sizeof *e + length) : NULL;
    if (!e)
        return AFLOCK_ENOMEM;
    e->hash = hash;
    e->length = length;
    if (length)
        memcpy(e->key, key, length);
    if (k->stripes)
        snprintf(name, sizeof name, "stripe-%u" LOCK_SUFFIX, *(const unsigned *)key);
    else
        aflock_keyed_name(key, length, name);
    int status = open_entry(k, e, name);
    if (status) {
        free(e);
        return status;
    }
    if (++k->count > k->buckets)
        grow(k, 2 * k->buckets);
    link_entry(k, e);
    *out = e;
    return 0;
}

int aflock_keyed_get(aflock_keyed *k, const void *key, size_t length, aflock **out)
{
    if (out)
        *out = NULL;
    if (!k || !out || (!key && length))
        return AFLOCK_EINVAL;
    uint64_t hash = hash_of(key, length);
    unsigned stripe = k->stripes ? (unsigned)(hash % k->stripes) : 0;
    if (k->stripes) {
        key = &stripe;
        length = sizeof stripe;
        hash = hash_of(key, length);
    }
    entry *e = find(k, key, length, hash);
    int status = e ? 0 : new_entry(k, key, length, hash, &e);
    if (status)
        return status;
    if (e->users++ == 0) {
        k->used++;
        if (e->is_idle)
            leave_idle(k, e);
    }
    *out = e->lock;
    return 0;
}

int aflock_keyed_put(aflock_keyed *k, aflock *lock)
{
    entry *e = k && lock ? *bucket_of_lock(k, lock) : NULL;
    while (e && e->lock != lock)
        e = e->by_lock;
    if (!e || e->users == 0)
        return AFLOCK_EINVAL;
    if (--e->users > 0)
        return 0;
    k->used--;
    become_idle(k, e);
    close_idle(k);
    return 0;
}

size_t aflock_keyed_used(const aflock_keyed *k)
{
    return k ? k->used : 0;
}

size_t aflock_keyed_idle(const aflock_keyed *k)
{
    return k ? k->idle : 0;
}
