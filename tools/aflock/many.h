/* More than one lock: --semaphore and --all. */
#ifndef AFLOCK_COMMAND_MANY_H
#define AFLOCK_COMMAND_MANY_H

#include "waiter.h"

int is_many(const options *o);

/* 0, or AFLOCK_E... `flags` are those of the request. */
int many_open(waiter *w, const aflock_options *lo, uint32_t flags);

/* Asks for what is open. As aflock_acquire. */
int many_ask(waiter *w, const aflock_acquire_options *ao);

/* Gives everything back; nothing, if nothing is open. */
void many_close(waiter *w);

#endif
