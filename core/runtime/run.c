/* Runs: what a worker does at one go. See afl_run.
 *
 * One job after the other is handed over through a ring of slots. The loop fills slots and may take a job back as long
 * as the worker has not taken it; each slot changes hands by one atomic exchange. The worker ends a run only if nothing
 * was added since it looked, by setting a bit in the very word that counts what was added; and it looks before it posts
 * a job, so that the last job of a run says that it is the last, and the run is the loop's again.
 */
#include "runtime/runtime.h"

#include <errno.h>
#include <stdlib.h>

#define ENDED 0x80000000u

/* ------------------------------------------------------------------------------------------------- the loop's side */

static _Atomic(aflock_job *) *slot_of(afl_run *run, unsigned number)
{
    return &run->slots[number % AFL_RUN_SLOTS];
}

void afl_run_begin(afl_run *run, aflock_job *job)
{
    atomic_store(&run->filled, 0);
    run->taken = 0;
    run->left = 1;
    run->stalled = false;
    job->run_of = run;
    job->slot = NULL;
}

bool afl_run_add(afl_run *run, aflock_job *job)
{
    unsigned filled = atomic_load(&run->filled);
    _Atomic(aflock_job *) *slot = slot_of(run, filled);
    if ((filled & ENDED) || atomic_load(slot))
        return false;
    job->run_of = run;
    job->slot = slot;
    run->left++;
    atomic_store(slot, job);
    if (atomic_compare_exchange_strong(&run->filled, &filled, (filled + 1) & ~ENDED))
        return true;
    atomic_store(slot, NULL); /* it has ended meanwhile */
    run->left--;
    job->run_of = NULL;
    return false;
}

bool afl_run_take_back(aflock_job *job)
{
    aflock_job *expected = job;
    if (!job->slot || !atomic_compare_exchange_strong(job->slot, &expected, NULL))
        return false;
    job->run_of->left--;
    job->run_of = NULL;
    return true;
}

aflock_job *afl_run_take_back_first(afl_run *run)
{
    unsigned filled = atomic_load(&run->filled) & ~ENDED;
    for (unsigned number = filled - AFL_RUN_SLOTS; number != filled; number++) {
        aflock_job *job = atomic_load(slot_of(run, number)); /* stays ours to look at until it comes back */
        if (job && afl_run_take_back(job))
            return job;
    }
    return NULL;
}

/* ----------------------------------------------------------------------------------------------- the worker's side */

/* The next job; NULL: none, and the run has ended. */
static aflock_job *next_of(afl_run *run)
{
    unsigned filled = atomic_load(&run->filled);
    do {
        while (run->taken != filled) {
            aflock_job *job = atomic_exchange(slot_of(run, run->taken), NULL);
            run->taken = (run->taken + 1) & ~ENDED;
            if (job) /* else it was taken back */
                return job;
        }
    } while (!atomic_compare_exchange_strong(&run->filled, &filled, filled | ENDED));
    return NULL;
}

/* Looks for the next job before it posts one: afterwards a run that has ended is not ours any more. Without a context
 * nobody else frees it. */
static void carry_out(aflock_job *job, bool drop)
{
    afl_run *run = job->run_of;
    for (aflock_job *next; job; job = next) {
        job->astray = !drop && afl_admission_goes_astray(job);
        if (!drop && !job->astray)
            job->run(job);
        next = run ? next_of(run) : NULL;
        job->ends_run = !next;
        if (!afl_gate_post(job) && !next)
            free(run);
        if (drop && next)
            next->sent_back = true;
    }
}

void aflock_job_run(aflock_job *job)
{
    carry_out(job, false);
}

/* Those that came after it have done nothing to deserve that: they are sent again. */
void aflock_job_drop(aflock_job *job)
{
    job->dropped = ECANCELED;
    carry_out(job, true);
}
