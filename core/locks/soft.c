/* The protocol `soft`: whoever creates the marker holds the lock (py-filelock's SoftFileLock, version 3.32; the
 * marker's content is described in record.h).
 *
 * A marker is broken when its holder is provably gone, when it is no record and 2 s old, or, if that is asked for, when
 * it is older than a life time. Nothing is ever done to a live holder's marker on doubt.
 */
#include "locks/existence.h"

static size_t print(afl_work *w, afl_record *own, char *text, size_t size)
{
    (void)w;
    own->kind = AFL_RECORD_SOFT;
    return afl_record_print_soft(own, text, size);
}

static void run(afl_work *w)
{
    static const afl_existence_kind SOFT = {.print = print, .judge = afl_existence_judge};
    afl_existence_run(w, &SOFT);
}

const afl_protocol afl_protocol_soft = {
    .name = "soft",
    .hand_on = true,
    .marker = true,
    .notify = AFLOCK_ON_MARKER,
    .state_size = sizeof(afl_existence),
    .run = run,
    .reconcile = afl_existence_reconcile,
    .abandon = afl_existence_abandon,
    .verify = afl_query_verify,
    .inspect = afl_existence_inspect,
    .remove = afl_existence_remove,
};

const afl_protocol afl_protocol_soft_guest = {
    .name = "soft",
    .hand_on = true,
    .marker = true,
    .guest = true,
    .notify = AFLOCK_ON_MARKER,
    .state_size = sizeof(afl_existence),
    .run = run,
    .reconcile = afl_existence_reconcile,
    .abandon = afl_existence_abandon,
    .verify = afl_query_verify,
    .inspect = afl_existence_inspect,
    .remove = afl_existence_remove,
};
