/* SHA-256 (FIPS 180-4), for the names of long keys: libc has no digest, and a shorter or weaker one would let somebody
 * who chooses keys make two of them share a lock. */
#ifndef AFL_RECIPES_SHA256_H
#define AFL_RECIPES_SHA256_H

#include <stddef.h>

enum { SHA256_BYTES = 32 };

void sha256(const void *data, size_t length, unsigned char digest[SHA256_BYTES]);

#endif
