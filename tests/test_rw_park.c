/* AFLOCK_RW waiting in the kernel: for what a thread waits, what it has meanwhile (nothing), and what becomes of what
 * it is granted when nobody wants that any more. The executor is the scripted one; others are plain descriptors.
 */
#include "support/fake_host.h"
#include "support/rw_scene.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

static fake_host h;
static fake_answer a, b;
static aflock *lock;
static aflock_req req;
static unsigned descriptors;

/* ------------------------------------------------------------------------------------------------------- helpers */

static void start(void)
{
    aflock_options o = rw_options(AFLOCK_IO_INLINE);
    o.wait = AFLOCK_WAIT_PARK;
    fake_touch(fake_path("db"));
    descriptors = fake_descriptors();
    ck_assert_ptr_nonnull(fake_start(&h, 4, true, NULL));
    ck_assert_int_eq(aflock_open(&lock, h.ctx, fake_path("db"), &o), 0);
}

static void end(void)
{
    ck_assert_int_eq(fake_free(&h, AFLOCK_FOREVER), 0);
    ck_assert(all_is_free(fake_path("db")));
    ck_assert_uint_eq(fake_descriptors(), descriptors);
}

static int with(short type, off_t first, off_t end_of_it)
{
    int fd = open(fake_path("db"), O_RDWR | O_CLOEXEC);
    struct flock range = {.l_type = type, .l_start = first, .l_len = end_of_it - first};
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(fcntl(fd, F_OFD_SETLK, &range), 0);
    return fd;
}

enum { SHARED_END = SHARED_FIRST + SHARED_BYTES };

static int their_writer(void)
{
    return with(F_WRLCK, PENDING_BYTE, SHARED_END);
}

static int their_claim(void)
{
    return with(F_WRLCK, PENDING_BYTE, SHARED_FIRST);
}

static int their_reader(void)
{
    return with(F_RDLCK, SHARED_FIRST, SHARED_END);
}

/* Who mends a database: it has the range, and no claim. */
static int their_mender(void)
{
    return with(F_WRLCK, SHARED_FIRST, SHARED_END);
}

static bool free_for(short type, off_t first, off_t end_of_it)
{
    return bytes_are_free(fake_path("db"), type, first, end_of_it - first);
}

static bool readers_come_in(void)
{
    return free_for(F_RDLCK, PENDING_BYTE, SHARED_FIRST) && free_for(F_RDLCK, SHARED_FIRST, SHARED_END);
}

/* Asks, and lets a thread wait for it; until it has made so many calls for locks since then. */
static pthread_t park(fake_answer *it, aflock_mode mode, int calls)
{
    aflock_acquire_options o = rw_request(mode);
    *it = (fake_answer){.count = 0};
    ck_assert_int_eq(fake_acquire(lock, &o, it, &req), 0);
    fake_settle(&h);
    ck_assert_uint_eq(it->count, 0);
    ck_assert_uint_eq(h.job_count, 1);
    ck_assert_int_eq(h.jobs[0].lane, AFLOCK_LANE_PARK);
    seam_forget();
    pthread_t thread = fake_go(&h, 0);
    while (seam_count(SEAM_LOCK) < calls)
        usleep(100);
    return thread;
}

static void ask(fake_answer *it, aflock_mode mode)
{
    aflock_acquire_options o = rw_request(mode);
    *it = (fake_answer){.count = 0};
    ck_assert_int_eq(fake_acquire(lock, &o, it, &req), 0);
    fake_settle(&h);
}

static void let_go(const fake_answer *it)
{
    ck_assert_int_eq(fake_release(lock, it->result.req, NULL), 0);
    fake_settle(&h);
}

static void cancel(const fake_answer *it)
{
    ck_assert_int_eq(fake_cancel(lock, req), 0);
    fake_settle(&h);
    ck_answered(*it, AFLOCK_ECANCELED);
}

/* --------------------------------------------------------------------------------------------------------- readers */

/* _i: their writer holds it, or waits for it. */
START_TEST(a_reader_waits_for_a_writer)
{
    const char *reason;
    start();
    int writer = _i ? their_claim() : their_writer();
    pthread_t thread = park(&a, AFLOCK_SHARED, 1);
    ck_assert_int_eq(aflock_wait_mode(lock, &reason), AFLOCK_WAIT_PARK);
    ck_assert_str_eq(reason, "asked for");
    ck_assert_uint_eq(afl_deadline(h.ctx), AFLOCK_FOREVER);
    ck_assert(!_i || free_for(F_WRLCK, SHARED_FIRST, SHARED_END)); /* the claim can be won */
    close(writer);
    fake_join(thread);
    fake_settle(&h);
    ck_answered(a, 0);
    ck_assert(free_for(F_WRLCK, PENDING_BYTE, SHARED_FIRST) && !free_for(F_WRLCK, SHARED_FIRST, SHARED_END));
    let_go(&a);
    end();
}
END_TEST

/* Nothing is held meanwhile: not the doorway, by which writers would be kept out. */
START_TEST(a_reader_waits_for_who_mends)
{
    start();
    int mender = their_mender();
    pthread_t thread = park(&a, AFLOCK_SHARED, 3);
    ck_assert(free_for(F_WRLCK, PENDING_BYTE, SHARED_FIRST));
    close(mender);
    fake_join(thread);
    fake_settle(&h);
    ck_answered(a, 0);
    ck_assert_uint_eq(a.result.attempts, 2);
    ck_assert(free_for(F_WRLCK, PENDING_BYTE, SHARED_FIRST) && !free_for(F_WRLCK, SHARED_FIRST, SHARED_END));
    let_go(&a);
    end();
}
END_TEST

/* A writer who has claimed meanwhile comes first. */
START_TEST(a_reader_does_not_overtake)
{
    start();
    int mender = their_mender();
    pthread_t thread = park(&a, AFLOCK_SHARED, 3);
    int claim = their_claim();
    close(mender);
    while (seam_count(SEAM_LOCK) < 4) /* at the doorway again */
        usleep(100);
    ck_assert(free_for(F_WRLCK, SHARED_FIRST, SHARED_END));
    close(claim);
    fake_join(thread);
    fake_settle(&h);
    ck_answered(a, 0);
    let_go(&a);
    end();
}
END_TEST

/* What the thread cannot give back of what it came to hold goes with the request. */
START_TEST(a_range_that_cannot_be_left)
{
    start();
    int mender = their_mender();
    pthread_t thread = park(&a, AFLOCK_SHARED, 3);
    seam_fail(SEAM_UNLOCK, 0, 1, EIO);
    close(mender);
    fake_join(thread);
    fake_settle(&h);
    ck_answered(a, AFLOCK_ESYS);
    ck_assert_int_eq(a.result.sys_errno, EIO);
    ck_assert(all_is_free(fake_path("db")));
    end();
}
END_TEST

/* _i: it waits for a claim, or for who mends. */
START_TEST(a_reader_who_has_left_gives_it_back)
{
    start();
    int other = _i ? their_mender() : their_claim();
    pthread_t thread = park(&a, AFLOCK_SHARED, _i ? 3 : 1);
    cancel(&a);
    close(other);
    fake_join(thread);
    ck_assert(all_is_free(fake_path("db"))); /* by the thread itself: no turn was needed */
    fake_settle(&h);
    end();
}
END_TEST

/* --------------------------------------------------------------------------------------------------------- writers */

START_TEST(a_writer_waits_for_a_writer)
{
    start();
    int writer = their_writer();
    pthread_t thread = park(&a, AFLOCK_EXCLUSIVE, 1);
    close(writer);
    fake_join(thread);
    fake_settle(&h);
    ck_answered(a, 0);
    ck_assert_uint_eq(a.result.attempts, 2);
    ck_assert(!free_for(F_RDLCK, PENDING_BYTE, SHARED_FIRST) && !free_for(F_RDLCK, SHARED_FIRST, SHARED_END));
    let_go(&a);
    end();
}
END_TEST

/* Behind a claim it is in nobody's way. With its own it keeps readers out, without a thread, and listens. */
START_TEST(a_writer_waits_for_readers_without_a_thread)
{
    start();
    int reader = their_reader(), claim = their_claim();
    pthread_t thread = park(&a, AFLOCK_EXCLUSIVE, 1);
    ck_assert(free_for(F_RDLCK, SHARED_FIRST, SHARED_END));
    close(claim);
    fake_join(thread);
    fake_settle(&h);
    ck_assert_uint_eq(a.count, 0);
    ck_assert(!readers_come_in());
    ck_assert_uint_eq(h.job_count, 0);
    ck_assert_uint_eq(h.listening_count, 1);
    ck_assert_uint_eq(h.listening[0]->what, AFLOCK_ON_FILE);
    close(reader);
    aflock_host_changed(h.ctx, h.listening[0], AFLOCK_ON_FILE, NULL);
    fake_settle(&h);
    ck_answered(a, 0);
    let_go(&a);
    end();
}
END_TEST

/* Readers only: nothing to wait for in the kernel. */
START_TEST(a_writer_before_whom_are_readers_only)
{
    start();
    int reader = their_reader();
    ask(&a, AFLOCK_EXCLUSIVE);
    ck_assert_uint_eq(h.submits, 0);
    ck_assert(!readers_come_in());
    ck_assert_uint_eq(h.listening_count, 1);
    cancel(&a);
    ck_assert(readers_come_in()); /* at once, not when somebody leaves */
    close(reader);
    end();
}
END_TEST

/* _i: readers are in, too. The claim that comes late is not kept, not until some turn. */
START_TEST(a_writer_who_has_left_gives_it_back)
{
    start();
    int reader = _i ? their_reader() : -1, claim = their_claim();
    pthread_t thread = park(&a, AFLOCK_EXCLUSIVE, 1);
    cancel(&a);
    close(claim);
    fake_join(thread);
    ck_assert(readers_come_in());
    ck_assert(_i || all_is_free(fake_path("db")));
    fake_settle(&h);
    ck_assert(readers_come_in());
    if (_i)
        close(reader);
    end();
}
END_TEST

START_TEST(a_writer_who_is_too_late_gives_it_back)
{
    aflock_acquire_options o = rw_request(AFLOCK_EXCLUSIVE);
    start();
    int writer = their_writer();
    o.timeout = 20 * AFLOCK_MILLISECOND;
    a = (fake_answer){.count = 0};
    ck_assert_int_eq(fake_acquire(lock, &o, &a, &req), 0);
    fake_settle(&h);
    pthread_t thread = fake_go(&h, 0);
    fake_advance(&h, 20 * AFLOCK_MILLISECOND - 1);
    ck_assert_uint_eq(a.count, 0);
    fake_advance(&h, 1);
    ck_answered(a, AFLOCK_ETIMEDOUT);
    ck_assert(!h.alive);
    close(writer);
    fake_join(thread);
    ck_assert(all_is_free(fake_path("db")));
    fake_settle(&h);
    end();
}
END_TEST

/* The thread has just come back with a claim: the next turn gives that up. */
START_TEST(a_claim_that_has_come_already)
{
    start();
    int reader = their_reader(), claim = their_claim();
    pthread_t thread = park(&a, AFLOCK_EXCLUSIVE, 1);
    close(claim);
    fake_join(thread);
    ck_assert(!readers_come_in());
    cancel(&a);
    ck_assert(readers_come_in());
    close(reader);
    end();
}
END_TEST

/* ------------------------------------------------------------------------------------------------ who comes after */

START_TEST(the_next_writer_takes_it_over)
{
    start();
    int writer = their_writer();
    pthread_t thread = park(&a, AFLOCK_EXCLUSIVE, 1);
    cancel(&a);
    ask(&b, AFLOCK_EXCLUSIVE);
    ck_assert_uint_eq(h.submits, 1);
    close(writer);
    fake_join(thread);
    fake_settle(&h);
    ck_answered(b, 0);
    let_go(&b);
    end();
}
END_TEST

/* A reader after a writer that waits for a claim: it comes in beside the readers if the claim is withdrawn, and the
 * thread, when it comes, keeps nobody out. */
START_TEST(a_reader_after_it_does_not_wait_for_it)
{
    start();
    int reserved = with(F_WRLCK, PENDING_BYTE + 1, SHARED_FIRST); /* is about to write: readers still come in */
    pthread_t thread = park(&a, AFLOCK_EXCLUSIVE, 1);
    cancel(&a);
    ask(&b, AFLOCK_SHARED);
    ck_answered(b, 0);
    ck_assert_uint_eq(h.submits, 1);
    close(reserved);
    fake_join(thread);
    ck_assert(readers_come_in());
    fake_settle(&h);
    ck_assert(readers_come_in() && !free_for(F_WRLCK, SHARED_FIRST, SHARED_END));
    let_go(&b);
    end();
}
END_TEST

/* Readers and writers that give up in turn leave one thread each. */
START_TEST(modes_in_turn_leave_one_each)
{
    enum { ROUNDS = 5 };
    pthread_t threads[2];
    start();
    int writer = their_writer();
    for (unsigned i = 0; i < 2 * ROUNDS; i++) {
        const aflock_mode mode = i % 2 ? AFLOCK_SHARED : AFLOCK_EXCLUSIVE;
        if (i < 2)
            threads[i] = park(&a, mode, 1);
        else
            ask(&a, mode);
        ck_assert_uint_eq(h.submits, i < 2 ? i + 1 : 2);
        cancel(&a);
    }
    close(writer);
    fake_join(threads[0]);
    fake_join(threads[1]);
    ck_assert(all_is_free(fake_path("db")));
    fake_settle(&h);
    end();
}
END_TEST

/* The thread goes on to wait for what has no name any more. _i: a reader, a writer. */
START_TEST(a_file_that_is_replaced_is_got_at_once)
{
    start();
    int writer = their_writer();
    pthread_t thread = park(&a, _i ? AFLOCK_EXCLUSIVE : AFLOCK_SHARED, 1);
    ck_assert_int_eq(unlink(fake_path("db")), 0);
    fake_touch(fake_path("db"));
    ck_assert_uint_eq(h.listening_count, 1);
    aflock_host_changed(h.ctx, h.listening[0], AFLOCK_ON_MARKER, NULL);
    fake_settle(&h);
    ck_answered(a, 0);
    ck_assert(!free_for(F_WRLCK, SHARED_FIRST, SHARED_END));
    close(writer);
    fake_join(thread);
    fake_settle(&h);
    ck_assert(!free_for(F_WRLCK, SHARED_FIRST, SHARED_END)); /* what the thread gives back is another file's */
    let_go(&a);
    end();
}
END_TEST

/* _i: a reader, a writer. */
START_TEST(the_context_does_not_wait_for_it)
{
    start();
    int writer = their_writer();
    pthread_t thread = park(&a, _i ? AFLOCK_EXCLUSIVE : AFLOCK_SHARED, 1);
    ck_assert_int_eq(fake_free(&h, AFLOCK_FOREVER), 0);
    ck_answered(a, AFLOCK_ECLOSED);
    close(writer);
    fake_join(thread);
    ck_assert(all_is_free(fake_path("db")));
    ck_assert_uint_eq(fake_descriptors(), descriptors);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {a_reader_waits_for_a_writer,
                                  a_reader_waits_for_who_mends,
                                  a_reader_does_not_overtake,
                                  a_range_that_cannot_be_left,
                                  a_reader_who_has_left_gives_it_back,
                                  a_writer_waits_for_a_writer,
                                  a_writer_waits_for_readers_without_a_thread,
                                  a_writer_before_whom_are_readers_only,
                                  a_writer_who_has_left_gives_it_back,
                                  a_writer_who_is_too_late_gives_it_back,
                                  a_claim_that_has_come_already,
                                  the_next_writer_takes_it_over,
                                  a_reader_after_it_does_not_wait_for_it,
                                  modes_in_turn_leave_one_each,
                                  a_file_that_is_replaced_is_got_at_once,
                                  the_context_does_not_wait_for_it,
                                  NULL};
    return fake_main_each("rw: park", tests, 2, 60);
}
