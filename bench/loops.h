/* A loop, for the rows that compare adapters. */
#ifndef BENCH_LOOPS_H
#define BENCH_LOOPS_H

#include "bench.h"

/* A loop: how to make it and a context on it, how to run it until nothing keeps it alive, how to end it. */
typedef struct bench_loop {
    const char *name;
    aflock_ctx *(*begin)(void);
    void (*run)(aflock_ctx *ctx);
    void (*end)(void); /* the context is freed */
} bench_loop;

extern const bench_loop bench_libevent, bench_libev, bench_libuv; /* loop_NAME.c: their headers do not go together */

#endif
