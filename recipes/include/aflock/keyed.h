/* aflock/keyed.h: a lock for each key.
 *
 * A registry gives the lock of a key (user, document, URL: any bytes) as a file in one directory. Two keys never share
 * a file, and all programs that use the directory name a key's file alike, so a key's lock excludes between processes
 * as any other lock does.
 *
 * Names
 *   The characters a-z, 0-9, "_", "-" and "." (but not at the beginning) stand for themselves, any other byte is "%"
 * and two digits, and ".lock" follows: "user/42" is "user%2f42.lock", "A" is "%41.lock", the empty key "%.lock". So
 * keys stay apart on file systems, too, that do not tell "a" from "A". A name that would be longer than 200 bytes is
 * cut and ends in "%-", the SHA-256 of the whole key in 64 digits, and ".lock". With `stripes` a key is of the file
 * "stripe-N.lock", N being its FNV-1a hash (64 bits) modulo the number of stripes.
 *
 * Life cycle
 *   get the lock, acquire and release it as often as you like, put it back. What is put back stays open for the next
 * one who asks; of those the least recently used are closed when there are more than `max_idle`. Lock files stay.
 *
 * All functions but aflock_keyed_name belong to the context's thread. After a fork only aflock_keyed_free may be
 * called.
 */
#ifndef AFLOCK_KEYED_H
#define AFLOCK_KEYED_H

#include <aflock/aflock.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct aflock_keyed aflock_keyed;

typedef struct aflock_keyed_options {
    size_t size;
    const aflock_options *lock; /* of each lock; borrowed during the call; NULL: defaults */
    size_t max_idle;            /* locks that stay open although nobody uses them; default 1024 */
    unsigned stripes; /* so many files for all keys; the same for all who use the directory. Keys of one stripe
                         exclude each other: who holds one and asks for another one may wait for himself.
                         Default 0: a file for each key */
} aflock_keyed_options;

AFLOCK_API void aflock_keyed_options_init(aflock_keyed_options *options);

/* A registry for the locks in `directory`, which is relative to the present working directory, and is created by the
 * first acquire (AFLOCK_MAKE_PARENTS). Touches no file system. AFLOCK_EINVAL, AFLOCK_ENOMEM, AFLOCK_ESYS (the working
 * directory is not known; errno). [loop's thread] */
AFLOCK_API int aflock_keyed_new(aflock_keyed **out, aflock_ctx *ctx, const char *directory,
                                const aflock_keyed_options *options);

/* Closes what is idle and frees the registry. Call it before the context is freed. Locks that are not put back are left
 * to the context, which closes them when it is freed. In a forked child it frees memory only. NULL: nothing. */
AFLOCK_API void aflock_keyed_free(aflock_keyed *keyed);

/* The lock of a key: stores it in `out`, for use until as many calls of aflock_keyed_put as there were of this. The
 * same key gives the same lock meanwhile. Never close it. AFLOCK_EINVAL, AFLOCK_ENOMEM, or what aflock_open answers.
 * [loop's thread] */
AFLOCK_API int aflock_keyed_get(aflock_keyed *keyed, const void *key, size_t length, aflock **out);

/* Puts a lock back. Requests and holds of it go on: it is not closed before they have ended. AFLOCK_EINVAL: it is not
 * of this registry, or nobody uses it. It may be called in any callback of the lock. [loop's thread] */
AFLOCK_API int aflock_keyed_put(aflock_keyed *keyed, aflock *lock);

/* Locks in use, and idle ones. */
AFLOCK_API size_t aflock_keyed_used(const aflock_keyed *keyed);
AFLOCK_API size_t aflock_keyed_idle(const aflock_keyed *keyed);

/* Room for the name of a key's file, with its '\0'. */
enum { AFLOCK_KEYED_NAME = 201 };

/* The name of the file of a key, without stripes; "" if `key` is NULL and the length is not 0. Any thread. */
AFLOCK_API void aflock_keyed_name(const void *key, size_t length, char name[AFLOCK_KEYED_NAME]);

#ifdef __cplusplus
}
#endif
#endif
