/* Waiting in the kernel: what is parked, for whom, and what becomes of an attempt that cannot be called back. The
 * executor is the scripted one: a parked job blocks in a real flock on a thread of the test. */
#include "support/fake_host.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <unistd.h>

static fake_host h;
static fake_answer a, b;
static aflock *lock;
static aflock_req req;
static int foreign;
static unsigned warnings, descriptors;
static bool pooled;

/* ------------------------------------------------------------------------------------------------------- helpers */

static void on_log(aflock_log_level level, const char *text, void *user)
{
    (void)text, (void)user;
    ck_assert_int_eq(level, AFLOCK_LOG_WARN);
    warnings++;
}

static aflock *open_lock(aflock_wait wait, aflock_io io)
{
    aflock *opened;
    aflock_options o;
    aflock_options_init(&o);
    o.wait = wait;
    o.io = io;
    ck_assert_int_eq(aflock_open(&opened, h.ctx, fake_path("f"), &o), 0);
    return opened;
}

/* Somebody else holds the file as `operation` says. */
static void start(int operation, aflock_io io)
{
    aflock_ctx_options o;
    aflock_ctx_options_init(&o);
    o.log = on_log;
    foreign = fake_foreign(fake_path("f"));
    ck_assert_int_eq(flock(foreign, operation), 0);
    descriptors = fake_descriptors();
    ck_assert_ptr_nonnull(fake_start(&h, 4, true, &o));
    pooled = io == AFLOCK_IO_POOL;
    lock = open_lock(AFLOCK_WAIT_PARK, io);
}

/* Without an unlock that anybody could hear of. */
static void foreign_unlocks(void)
{
    ck_assert_int_eq(flock(foreign, LOCK_UN), 0);
}

static aflock_acquire_options in_mode(aflock_mode mode, uint64_t timeout)
{
    aflock_acquire_options o = fake_options(timeout);
    o.mode = mode;
    return o;
}

/* Asks, until a job was given to a thread to wait. */
static void ask(fake_answer *answer, const aflock_acquire_options *o)
{
    *answer = (fake_answer){.count = 0};
    ck_assert_int_eq(fake_acquire(lock, o, answer, &req), 0);
    while (h.job_count && h.jobs[0].lane != AFLOCK_LANE_PARK) {
        fake_run(&h, 0);
        fake_settle(&h);
    }
    ck_assert_uint_eq(answer->count, 0);
}

/* ... and does; returns its thread. */
static pthread_t park(fake_answer *answer, const aflock_acquire_options *o)
{
    ask(answer, o);
    ck_assert_uint_eq(h.job_count, 1);
    ck_assert_int_eq(h.jobs[0].lane, AFLOCK_LANE_PARK);
    return fake_go(&h, 0);
}

/* The foreign lock ends; so does the thread that waited for it. */
static void unpark(pthread_t thread)
{
    foreign_unlocks();
    fake_join(thread);
}

static void end(void)
{
    int left = fake_free(&h, pooled ? 0 : AFLOCK_FOREVER);
    ck_assert(left == 0 || pooled); /* nobody works for the scripted executor while it waits */
    ck_assert_uint_eq(fake_descriptors(), descriptors);
    close(foreign);
}

/* --------------------------------------------------------------------------------------------------------- to park */

START_TEST(one_try_and_then_a_thread)
{
    start(LOCK_EX, (aflock_io)_i);
    pthread_t thread = park(&a, NULL);
    const char *reason;
    ck_assert_int_eq(aflock_wait_mode(lock, &reason), AFLOCK_WAIT_PARK);
    ck_assert_str_eq(reason, "asked for");
    ck_assert_uint_eq(afl_deadline(h.ctx), AFLOCK_FOREVER); /* nothing is due */
    ck_assert(h.alive);
    unpark(thread);
    fake_settle(&h);
    ck_answered(a, 0);
    ck_assert_uint_eq(a.result.attempts, 2);
    ck_assert(!fake_is_free(fake_path("f")));
    end();
}
END_TEST

START_TEST(a_free_lock_needs_no_thread)
{
    start(LOCK_UN, AFLOCK_IO_INLINE);
    fake_hold(&h, lock, &a, NULL);
    ck_assert_uint_eq(h.submits, 0);
    end();
}
END_TEST

START_TEST(records_too)
{
    struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    aflock_options o;
    aflock_options_init(&o);
    o.protocol = AFLOCK_OFD;
    o.wait = AFLOCK_WAIT_PARK;
    o.io = AFLOCK_IO_INLINE;
    start(LOCK_EX, AFLOCK_IO_INLINE); /* of another kind: not in the way */
    ck_assert_int_eq(aflock_close(lock), 0);
    ck_assert_int_eq(aflock_open(&lock, h.ctx, fake_path("f"), &o), 0);
    ck_assert_int_eq(fcntl(foreign, F_OFD_SETLK, &whole), 0);
    pthread_t thread = park(&a, NULL);
    whole.l_type = F_UNLCK;
    ck_assert_int_eq(fcntl(foreign, F_OFD_SETLK, &whole), 0);
    fake_join(thread);
    fake_settle(&h);
    ck_answered(a, 0);
    ck_assert_uint_eq(a.result.attempts, 2);
    end();
}
END_TEST

START_TEST(a_file_that_is_open_is_tried_first)
{
    aflock_options o;
    aflock_options_init(&o);
    o.wait = AFLOCK_WAIT_PARK;
    o.io = AFLOCK_IO_INLINE;
    o.keep_open = 1;
    start(LOCK_UN, AFLOCK_IO_INLINE);
    ck_assert_int_eq(aflock_close(lock), 0);
    ck_assert_int_eq(aflock_open(&lock, h.ctx, fake_path("f"), &o), 0);
    ck_assert_int_eq(fake_release(lock, fake_hold(&h, lock, &a, NULL), NULL), 0);
    fake_settle(&h);
    fake_hold(&h, lock, &a, NULL);
    ck_assert_uint_eq(h.submits, 0);
    end();
}
END_TEST

START_TEST(one_attempt_does_not_wait)
{
    start(LOCK_EX, AFLOCK_IO_INLINE);
    aflock_acquire_options once = fake_options(0);
    ck_assert_int_eq(fake_acquire(lock, &once, &a, NULL), 0);
    fake_settle(&h);
    ck_answered(a, AFLOCK_EWOULDBLOCK);
    ck_assert_uint_eq(h.submits, 0);
    end();
}
END_TEST

/* It could come to hold the lock when the caller has long had other plans for it. */
START_TEST(never_with_a_callers_descriptor)
{
    start(LOCK_EX, AFLOCK_IO_INLINE);
    int own = open(fake_path("f"), O_RDWR | O_CLOEXEC);
    aflock_options o;
    const char *reason;
    aflock_options_init(&o);
    o.wait = AFLOCK_WAIT_PARK;
    o.io = AFLOCK_IO_INLINE;
    ck_assert_int_eq(aflock_close(lock), 0);
    ck_assert_int_eq(aflock_open_fd(&lock, h.ctx, own, &o), 0);
    ck_assert_int_eq(fake_acquire(lock, NULL, &a, &req), 0);
    fake_settle(&h);
    ck_assert_uint_eq(h.submits, 0);
    ck_assert_int_eq(aflock_wait_mode(lock, &reason), AFLOCK_WAIT_POLL);
    ck_assert_ptr_nonnull(strstr(reason, "caller's"));
    foreign_unlocks();
    fake_advance(&h, 50 * MS);
    ck_answered(a, 0);
    ck_assert_int_eq(fake_free(&h, 0), 0);
    close(own);
    close(foreign);
}
END_TEST

START_TEST(a_file_that_was_replaced_meanwhile)
{
    start(LOCK_EX, AFLOCK_IO_INLINE);
    pthread_t thread = park(&a, NULL);
    ck_assert_int_eq(unlink(fake_path("f")), 0);
    fake_touch(fake_path("f"));
    unpark(thread);
    fake_settle(&h);
    ck_answered(a, 0);
    ck_assert(!fake_is_free(fake_path("f")));
    end();
}
END_TEST

static void replace_file(void)
{
    ck_assert_int_eq(unlink(fake_path("f")), 0);
    fake_touch(fake_path("f"));
}

/* What the kernel tells is heard through the notifier, and looked at where attempts run. */
static void something_happens(void)
{
    ck_assert_uint_eq(h.listening_count, 1);
    ck_assert_uint_eq(h.listening[0]->what, AFLOCK_ON_MARKER);
    aflock_host_changed(h.ctx, h.listening[0], AFLOCK_ON_MARKER, NULL);
    while (h.job_count) {
        fake_run(&h, 0);
        fake_settle(&h);
    }
    fake_settle(&h);
}

/* The thread goes on to wait for what has no name any more. _i: AUTO, INLINE, POOL. */
START_TEST(a_file_that_is_replaced_is_got_at_once)
{
    start(LOCK_EX, (aflock_io)_i);
    pthread_t thread = park(&a, NULL);
    something_happens(); /* nothing of interest */
    ck_assert_uint_eq(a.count, 0);
    replace_file();
    something_happens();
    ck_answered(a, 0);
    ck_assert(!fake_is_free(fake_path("f")));
    unpark(thread);
    fake_settle(&h);
    ck_assert_ptr_null(h.ctx->detached);
    end();
}
END_TEST

START_TEST(the_next_one_looks_whether_it_was_replaced)
{
    start(LOCK_EX, (aflock_io)_i);
    pthread_t thread = park(&a, NULL);
    ck_assert_int_eq(fake_cancel(lock, req), 0);
    fake_settle(&h);
    replace_file();
    fake_hold(&h, lock, &b, NULL);
    unpark(thread);
    end();
}
END_TEST

/* Who listens or polls does so, whatever another one has left behind. */
START_TEST(only_who_parks_takes_it_over)
{
    start(LOCK_EX, AFLOCK_IO_INLINE);
    pthread_t thread = park(&a, NULL);
    ck_assert_int_eq(fake_cancel(lock, req), 0);
    aflock *listener = open_lock(AFLOCK_WAIT_NOTIFY, AFLOCK_IO_INLINE);
    ck_assert_int_eq(fake_acquire(listener, NULL, &b, &req), 0);
    fake_settle(&h);
    ck_assert_uint_eq(h.submits, 1);
    ck_assert_uint_eq(h.listening_count, 2);
    replace_file();
    fake_advance(&h, 50 * MS);
    ck_answered(b, 0);
    unpark(thread);
    end();
}
END_TEST

/* Readers and writers that give up in turn leave one thread each. */
START_TEST(modes_in_turn_leave_one_each)
{
    enum { ROUNDS = 5 };
    pthread_t threads[2];
    start(LOCK_EX, AFLOCK_IO_INLINE);
    for (int i = 0; i < 2 * ROUNDS; i++) {
        aflock_acquire_options o = in_mode(i % 2 ? AFLOCK_SHARED : AFLOCK_EXCLUSIVE, AFLOCK_FOREVER);
        if (i < 2) {
            threads[i] = park(&a, &o);
        } else {
            a = (fake_answer){.count = 0};
            ck_assert_int_eq(fake_acquire(lock, &o, &a, &req), 0);
            fake_settle(&h);
        }
        ck_assert_uint_eq(h.submits, i < 2 ? (unsigned)i + 1 : 2);
        ck_assert_uint_eq(a.count, 0);
        ck_assert_int_eq(fake_cancel(lock, req), 0);
        fake_settle(&h);
        ck_answered(a, AFLOCK_ECANCELED);
    }
    foreign_unlocks();
    fake_join(threads[0]);
    fake_join(threads[1]);
    ck_assert(fake_is_free(fake_path("f")));
    fake_settle(&h);
    end();
}
END_TEST

/* ... and the one that is left behind is as good as a new one. */
START_TEST(what_was_left_behind_brings_the_lock)
{
    start(LOCK_SH, AFLOCK_IO_INLINE);
    pthread_t thread = park(&a, NULL);
    ck_assert_int_eq(fake_cancel(lock, req), 0);
    aflock_acquire_options shared = in_mode(AFLOCK_SHARED, AFLOCK_FOREVER);
    ck_assert_int_eq(fake_release(lock, fake_hold(&h, lock, &b, &shared), NULL), 0);
    fake_settle(&h);
    a = (fake_answer){.count = 0};
    ck_assert_int_eq(fake_acquire(lock, NULL, &a, &req), 0);
    fake_settle(&h);
    ck_assert_uint_eq(h.submits, 1);
    ck_assert_ptr_null(h.ctx->detached);
    unpark(thread);
    fake_settle(&h);
    ck_answered(a, 0);
    ck_assert(!fake_is_free(fake_path("f")));
    end();
}
END_TEST

static unsigned signals;

static void on_wanted(aflock *l, aflock_req r, aflock_wanted who, void *user)
{
    (void)l, (void)r, (void)who, (void)user;
    signals++;
}

START_TEST(what_was_left_behind_wants_nothing)
{
    start(LOCK_SH, AFLOCK_IO_INLINE);
    pthread_t thread = park(&a, NULL);
    aflock_acquire_options shared = in_mode(AFLOCK_SHARED, AFLOCK_FOREVER);
    shared.on_wanted = on_wanted;
    ck_assert_int_eq(fake_cancel(lock, req), 0);
    fake_settle(&h);
    fake_hold(&h, lock, &b, &shared);
    fake_settle(&h);
    ck_assert_uint_eq(signals, 0);
    ck_assert_int_eq(fake_release(lock, b.result.req, NULL), 0);
    fake_settle(&h);
    unpark(thread);
    end();
}
END_TEST

START_TEST(the_executor_drops_it)
{
    start(LOCK_EX, AFLOCK_IO_INLINE);
    ask(&a, NULL);
    fake_drop(&h, 0);
    fake_settle(&h);
    ck_answered(a, AFLOCK_ESYS);
    ck_assert_str_eq(a.result.step, "executor");
    end();
}
END_TEST

/* ------------------------------------------------------------------------------------------------- nobody waits any
 * more */

static void check_given_back(pthread_t thread)
{
    unpark(thread);
    ck_assert(fake_is_free(fake_path("f"))); /* by the thread itself: no turn was needed */
    fake_settle(&h);
    ck_assert_uint_eq(h.submits, 1);
    end();
}

START_TEST(a_cancelled_one_gives_it_back)
{
    start(LOCK_EX, AFLOCK_IO_INLINE);
    pthread_t thread = park(&a, NULL);
    ck_assert_int_eq(fake_cancel(lock, req), 0);
    fake_settle(&h);
    ck_answered(a, AFLOCK_ECANCELED);
    ck_assert(!h.alive);
    ck_assert_uint_eq(h.timer, AFLOCK_FOREVER);
    check_given_back(thread);
}
END_TEST

START_TEST(one_that_is_too_late_gives_it_back)
{
    start(LOCK_EX, AFLOCK_IO_INLINE);
    aflock_acquire_options o = fake_options(20 * MS);
    pthread_t thread = park(&a, &o);
    fake_advance(&h, 20 * MS - 1);
    ck_assert_uint_eq(a.count, 0);
    fake_advance(&h, 1);
    ck_answered(a, AFLOCK_ETIMEDOUT);
    ck_assert(!h.alive);
    check_given_back(thread);
}
END_TEST

START_TEST(one_of_a_closed_lock_gives_it_back)
{
    start(LOCK_EX, AFLOCK_IO_INLINE);
    pthread_t thread = park(&a, NULL);
    ck_assert_int_eq(fake_cancel(lock, req), 0);
    fake_settle(&h);
    ck_assert_int_eq(aflock_close(lock), 0);
    check_given_back(thread);
}
END_TEST

/* The thread has just won: what it brings is given up by the next turn. */
START_TEST(one_that_has_won_already)
{
    start(LOCK_EX, AFLOCK_IO_INLINE);
    pthread_t thread = park(&a, NULL);
    unpark(thread);
    ck_assert_int_eq(fake_cancel(lock, req), 0);
    ck_assert(!fake_is_free(fake_path("f")));
    fake_settle(&h);
    ck_answered(a, AFLOCK_ECANCELED);
    ck_assert(fake_is_free(fake_path("f")));
    end();
}
END_TEST

/* -------------------------------------------------------------------------------------------------- who comes after */

START_TEST(the_next_one_takes_it_over)
{
    start(LOCK_EX, AFLOCK_IO_INLINE);
    pthread_t thread = park(&a, NULL);
    ck_assert_int_eq(fake_cancel(lock, req), 0);
    if (_i)
        fake_settle(&h); /* there is a time when nobody waits */
    ck_assert_int_eq(fake_acquire(lock, NULL, &b, &req), 0);
    fake_settle(&h);
    ck_answered(a, AFLOCK_ECANCELED);
    ck_assert_uint_eq(h.submits, 1);
    ck_assert(h.alive);
    unpark(thread);
    fake_settle(&h);
    ck_answered(b, 0);
    ck_assert_uint_eq(b.result.attempts, 1);
    ck_assert(!fake_is_free(fake_path("f")));
    end();
}
END_TEST

START_TEST(the_one_behind_it_takes_it_over)
{
    start(LOCK_EX, AFLOCK_IO_INLINE);
    pthread_t thread = park(&a, NULL);
    aflock_req first = req;
    ck_assert_int_eq(fake_acquire(lock, NULL, &b, &req), 0);
    ck_assert_int_eq(fake_cancel(lock, first), 0);
    fake_settle(&h);
    ck_assert_uint_eq(h.submits, 1);
    unpark(thread);
    fake_settle(&h);
    ck_answered(a, AFLOCK_ECANCELED);
    ck_answered(b, 0);
    end();
}
END_TEST

/* A reader gets in beside readers although a thread waits to write; the thread gives back what it gets. */
static void another_mode(bool with_a_time_when_nobody_waits)
{
    start(LOCK_SH, AFLOCK_IO_INLINE);
    pthread_t thread = park(&a, NULL);
    ck_assert_int_eq(fake_cancel(lock, req), 0);
    if (with_a_time_when_nobody_waits)
        fake_settle(&h);
    aflock_acquire_options shared = in_mode(AFLOCK_SHARED, AFLOCK_FOREVER);
    ck_assert_int_eq(fake_acquire(lock, &shared, &b, &req), 0);
    fake_settle(&h);
    ck_answered(b, 0);
    ck_assert_int_eq(fake_release(lock, req, NULL), 0);
    fake_settle(&h);
    ck_assert_uint_eq(h.submits, 1);
    unpark(thread);
    ck_assert(fake_is_free(fake_path("f")));
}

START_TEST(one_in_another_mode_does_not_wait_for_it)
{
    another_mode(_i);
    fake_settle(&h);
    ck_assert_ptr_null(h.ctx->detached);
    end();
}
END_TEST

START_TEST(the_context_goes_before_a_detached_one_is_collected)
{
    another_mode(false);
    end();
}
END_TEST

START_TEST(the_place_goes_before_a_detached_one)
{
    start(LOCK_SH, AFLOCK_IO_INLINE);
    pthread_t thread = park(&a, NULL);
    ck_assert_int_eq(fake_cancel(lock, req), 0);
    aflock_acquire_options once = in_mode(AFLOCK_SHARED, 0);
    ck_assert_int_eq(fake_acquire(lock, &once, &b, &req), 0);
    fake_settle(&h);
    ck_answered(b, 0);
    ck_assert_int_eq(fake_release(lock, req, NULL), 0);
    fake_settle(&h);
    ck_assert_int_eq(aflock_close(lock), 0);
    ck_assert_ptr_null(h.ctx->places);
    unpark(thread);
    ck_assert(fake_is_free(fake_path("f")));
    fake_settle(&h);
    ck_assert_ptr_null(h.ctx->detached);
    end();
}
END_TEST

START_TEST(a_detached_one_is_dropped)
{
    start(LOCK_SH, AFLOCK_IO_INLINE);
    ask(&a, NULL);
    ck_assert_int_eq(fake_cancel(lock, req), 0);
    aflock_acquire_options shared = in_mode(AFLOCK_SHARED, AFLOCK_FOREVER);
    ck_assert_int_eq(fake_acquire(lock, &shared, &b, &req), 0);
    fake_settle(&h);
    ck_answered(b, 0);
    unsigned before = fake_descriptors();
    fake_drop(&h, 0);
    fake_settle(&h);
    ck_assert_uint_eq(fake_descriptors(), before - 1);
    end();
}
END_TEST

START_TEST(a_single_attempt_does_not_wait_for_it)
{
    start(LOCK_EX, AFLOCK_IO_INLINE);
    pthread_t thread = park(&a, NULL);
    ck_assert_int_eq(fake_cancel(lock, req), 0);
    aflock_acquire_options once = fake_options(0);
    ck_assert_int_eq(fake_acquire(lock, &once, &b, NULL), 0);
    fake_settle(&h);
    ck_answered(b, AFLOCK_EWOULDBLOCK);
    ck_assert_uint_eq(b.result.attempts, 1);
    unpark(thread);
    ck_assert(fake_is_free(fake_path("f")));
    end();
}
END_TEST

/* ------------------------------------------------------------------------------------------------------- no threads */

START_TEST(without_a_thread_it_listens)
{
    const char *reason;
    start(LOCK_EX, AFLOCK_IO_INLINE);
    h.refusals = 1;
    ask(&a, NULL);
    ck_assert_uint_eq(h.job_count, 0);
    ck_assert_uint_eq(h.listening_count, 1);
    ck_assert_uint_eq(h.listening[0]->what, AFLOCK_ON_FILE);
    ck_assert_uint_eq(warnings, 1);
    ck_assert_int_eq(aflock_wait_mode(lock, &reason), AFLOCK_WAIT_NOTIFY);
    ck_assert_ptr_nonnull(strstr(reason, "max_parked"));
    fake_advance(&h, SEC - 1); /* then it asks for a thread again */
    ck_assert_uint_eq(h.job_count, 0);
    h.refusals = 1;
    fake_advance(&h, 50 * MS);
    ck_assert_uint_eq(h.job_count, 0);
    ck_assert_uint_eq(h.refusals, 0);
    fake_advance(&h, SEC + 50 * MS);
    ck_assert_uint_eq(h.job_count, 1);
    ck_assert_uint_eq(warnings, 1);
    pthread_t thread = fake_go(&h, 0);
    unpark(thread);
    fake_settle(&h);
    ck_answered(a, 0);
    end();
}
END_TEST

/* ---------------------------------------------------------------------------------------------------------- the end */

START_TEST(the_context_does_not_wait_for_it)
{
    start(LOCK_EX, (aflock_io)_i);
    pthread_t thread = park(&a, NULL);
    ck_assert_int_eq(fake_free(&h, AFLOCK_FOREVER), 0);
    ck_answered(a, AFLOCK_ECLOSED);
    unpark(thread);
    ck_assert(fake_is_free(fake_path("f")));
    close(foreign);
    ck_assert_uint_eq(fake_descriptors(), descriptors - 1);
}
END_TEST

START_TEST(nor_for_a_detached_one)
{
    start(LOCK_SH, AFLOCK_IO_INLINE);
    pthread_t thread = park(&a, NULL);
    ck_assert_int_eq(fake_cancel(lock, req), 0);
    aflock_acquire_options shared = in_mode(AFLOCK_SHARED, AFLOCK_FOREVER);
    fake_hold(&h, lock, &b, &shared);
    ck_assert_int_eq(fake_free(&h, AFLOCK_FOREVER), 0);
    unpark(thread);
    ck_assert(fake_is_free(fake_path("f")));
    close(foreign);
    ck_assert_uint_eq(fake_descriptors(), descriptors - 1);
}
END_TEST

/* What is drained waits for nobody who has left. */
static void drained(aflock_ctx *ctx, void *user)
{
    (void)ctx;
    ++*(int *)user;
}

START_TEST(a_drain_does_not_wait_for_it)
{
    int count = 0;
    start(LOCK_EX, AFLOCK_IO_INLINE);
    pthread_t thread = park(&a, NULL);
    ck_assert_int_eq(aflock_ctx_drain(h.ctx, drained, &count), 0);
    fake_settle(&h);
    ck_assert_int_eq(count, 0);
    ck_assert_int_eq(fake_cancel(lock, req), 0);
    fake_settle(&h);
    ck_assert_int_eq(count, 1);
    unpark(thread);
    ck_assert(fake_is_free(fake_path("f")));
    end();
}
END_TEST

/* In a child both descriptors are closed, and the parent's threads do not notice. */
START_TEST(a_child_goes)
{
    int status;
    start(LOCK_SH, AFLOCK_IO_INLINE);
    pthread_t first = park(&a, NULL);
    ck_assert_int_eq(fake_cancel(lock, req), 0);
    aflock_acquire_options shared = in_mode(AFLOCK_SHARED, AFLOCK_FOREVER);
    fake_hold(&h, lock, &b, &shared); /* the first is detached */
    pid_t child = fork();
    if (child == 0) {
        bool good = aflock_ctx_abandon(h.ctx) == 0 && fake_descriptors() == descriptors;
        _exit(good ? 0 : 1);
    }
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert_int_eq(status, 0);
    ck_assert_int_eq(fake_release(lock, b.result.req, NULL), 0);
    fake_settle(&h);
    unpark(first);
    ck_assert(fake_is_free(fake_path("f")));
    end();
}
END_TEST

START_TEST(a_child_of_one_who_waits)
{
    int status;
    start(LOCK_EX, AFLOCK_IO_INLINE);
    pthread_t thread = park(&a, NULL);
    pid_t child = fork();
    if (child == 0) {
        bool good = aflock_ctx_abandon(h.ctx) == 0 && fake_descriptors() == descriptors;
        _exit(good ? 0 : 1);
    }
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert_int_eq(status, 0);
    unpark(thread);
    fake_settle(&h);
    ck_answered(a, 0);
    end();
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {one_try_and_then_a_thread,
                                  a_free_lock_needs_no_thread,
                                  records_too,
                                  a_file_that_is_open_is_tried_first,
                                  one_attempt_does_not_wait,
                                  never_with_a_callers_descriptor,
                                  a_file_that_was_replaced_meanwhile,
                                  a_file_that_is_replaced_is_got_at_once,
                                  the_next_one_looks_whether_it_was_replaced,
                                  only_who_parks_takes_it_over,
                                  modes_in_turn_leave_one_each,
                                  what_was_left_behind_brings_the_lock,
                                  what_was_left_behind_wants_nothing,
                                  the_executor_drops_it,
                                  a_cancelled_one_gives_it_back,
                                  one_that_is_too_late_gives_it_back,
                                  one_of_a_closed_lock_gives_it_back,
                                  one_that_has_won_already,
                                  the_next_one_takes_it_over,
                                  the_one_behind_it_takes_it_over,
                                  one_in_another_mode_does_not_wait_for_it,
                                  the_context_goes_before_a_detached_one_is_collected,
                                  the_place_goes_before_a_detached_one,
                                  a_detached_one_is_dropped,
                                  a_single_attempt_does_not_wait_for_it,
                                  without_a_thread_it_listens,
                                  the_context_does_not_wait_for_it,
                                  nor_for_a_detached_one,
                                  a_drain_does_not_wait_for_it,
                                  a_child_goes,
                                  a_child_of_one_who_waits,
                                  NULL};
    return fake_main_each("runtime: park", tests, 3, 60);
}
