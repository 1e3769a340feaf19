/* The protocol `lease`: a marker that expires (py-filelock's SoftFileLease, version 3.32; its content is described in
 * record.h).
 *
 * The holder touches the marker every now and then; who finds one that was not touched for the duration on which all
 * have agreed takes it away, and the first to create the next one holds the lock. So two may hold at a time: the holder
 * who lost it is told as soon as its next heartbeat finds another marker at the path, or none, or when so many have
 * failed that others may be about to take it (runtime/lease.c). One whose holder is provably gone is broken at once,
 * what is no lease is judged as soft locks judge it, and one of another duration is never touched: whoever made it
 * counts on that.
 */
#include "locks/existence.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* A new claim, with a name of its own. */
static size_t print(afl_work *w, afl_record *own, char *text, size_t size)
{
    char duration[AFL_SECONDS_TEXT];
    uint64_t dice[2];
    if (w->sys->random(dice, sizeof dice) != 0)
        return 0;
    snprintf(w->token, sizeof w->token, "%016" PRIx64 "%016" PRIx64, dice[0], dice[1]);
    own->kind = AFL_RECORD_LEASE;
    own->token = (afl_text){w->token, strlen(w->token)};
    own->duration = afl_seconds_from(w->duration);
    own->duration_text = (afl_text){duration, afl_seconds_print(w->duration, duration)};
    return afl_record_print_lease(own, text, size);
}

static afl_verdict judge(afl_work *w, const struct stat *there, const afl_record *record)
{
    if (!record || record->kind != AFL_RECORD_LEASE)
        return afl_existence_judge(w, there, record);
    if (record->duration > afl_seconds_from(w->duration) || record->duration < afl_seconds_from(w->duration))
        return AFL_MARKER_ALIEN;
    return afl_existence_is_gone(w) || afl_existence_is_older(w, there, w->duration) ? AFL_MARKER_VOID
                                                                                     : AFL_MARKER_STANDS;
}

static void lost(afl_work *w, aflock_compromise_reason why, int error)
{
    afl_work_fail(w, AFL_GRIP_HELD, "stat", error);
    w->why = why;
}

/* What fails for another reason than that the marker is not ours any more may do the next time. */
static void not_refreshed(afl_work *w, const char *step, int error)
{
    afl_work_fail(w, AFL_GRIP_HELD, step, error);
    w->outcome.answer = AFL_CONTENDED;
}

static void beat(afl_work *w)
{
    const uint64_t began = w->sys->boottime();
    int error = afl_existence_check(w);
    if (error == ENOENT) {
        lost(w, AFLOCK_MARKER_MISSING, error);
    } else if (error == AFL_MARKER_IS_ANOTHER) {
        lost(w, AFLOCK_OWNER_CHANGED, 0);
    } else if (error) {
        not_refreshed(w, "stat", error);
    } else if (w->sys->touch(w->fd) != 0) {
        not_refreshed(w, "touch", errno);
    } else {
        w->refreshed = began;
        w->outcome = (afl_outcome){.answer = AFL_WON, .grip = AFL_GRIP_HELD, .have = w->have};
    }
}

static void run(afl_work *w)
{
    static const afl_existence_kind LEASE = {.print = print, .judge = judge};
    w->not_inline = false;
    if (w->op == AFL_OP_BEAT)
        beat(w);
    else
        afl_existence_run(w, &LEASE);
}

const afl_protocol afl_protocol_lease = {
    .name = "lease",
    .marker = true,
    .lease = true,
    .notify = AFLOCK_ON_MARKER,
    .state_size = sizeof(afl_existence),
    .run = run,
    .reconcile = afl_existence_reconcile,
    .abandon = afl_existence_abandon,
    .verify = afl_query_verify,
    .inspect = afl_existence_inspect,
    .remove = afl_existence_remove,
};
