/* What the fuzz targets share. A target is a file with LLVMFuzzerTestOneInput. scripts/fuzz links it with libFuzzer,
 * which looks for inputs that break it; everywhere else it is linked with driver.c, which runs the committed ones. */
#ifndef FUZZ_H
#define FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What must hold for every input. */
#define fuzz_require(condition)                                                                  \
    do {                                                                                         \
        if (!(condition)) {                                                                      \
            (void)fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #condition); \
            abort();                                                                             \
        }                                                                                        \
    } while (0)

/* The input, read from its start; zeros after its end. */
typedef struct fuzz_input {
    const uint8_t *at, *end;
} fuzz_input;

static inline uint8_t fuzz_byte(fuzz_input *in)
{
    return in->at < in->end ? *in->at++ : 0;
}

/* One of 0 ... count - 1. */
static inline unsigned fuzz_below(fuzz_input *in, unsigned count)
{
    return fuzz_byte(in) % count;
}

/* Puts `more` behind the text, as far as it fits. */
static inline void fuzz_append(char *text, size_t size, const char *more)
{
    size_t used = strlen(text);
    (void)snprintf(text + used, size - used, "%s", more);
}

#endif
