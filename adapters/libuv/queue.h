/* An executor on libuv's global thread pool. */
#ifndef AFLOCK_LIBUV_QUEUE_H
#define AFLOCK_LIBUV_QUEUE_H

#include <aflock/host.h>
#include <uv.h>

/* Fills in `out`. Takes work as long as `handle`, which has to live until out->close, is not closing. AFLOCK_ENOMEM. */
int afl_uv_queue_new(aflock_executor *out, const uv_handle_t *handle, unsigned threads);

#endif
