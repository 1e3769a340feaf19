/* Locks that keep their file open from one hold to the next: who decides that it stays, when it goes, and what goes on
 * as if nothing were open. */
#include "support/fake_host.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static fake_host h;
static fake_answer a, b, c;
static unsigned before; /* descriptors of the context, without files */

static const aflock_io ALL_IO[] = {AFLOCK_IO_AUTO, AFLOCK_IO_INLINE, AFLOCK_IO_POOL};
enum { IO_COUNT = sizeof ALL_IO / sizeof *ALL_IO };

static aflock *open_keeper(const char *name, aflock_io io)
{
    aflock *lock;
    aflock_options o;
    aflock_options_init(&o);
    ck_assert_int_eq(o.keep_open, 0);
    o.io = io;
    o.keep_open = 1;
    ck_assert_int_eq(aflock_open(&lock, h.ctx, fake_path(name), &o), 0);
    return lock;
}

static void start(void)
{
    fake_start(&h, 4, true, NULL);
    before = fake_descriptors();
}

static void finish(void)
{
    ck_assert_int_eq(fake_free(&h, 0), 0);
    ck_assert_uint_eq(fake_descriptors(), before);
}

/* Nothing is under way, nothing keeps the loop alive, and so many files are open. */
static void must_rest(unsigned files)
{
    fake_work(&h);
    ck_assert(!h.alive);
    ck_assert_uint_eq(h.listening_count, 0);
    ck_assert_uint_eq(fake_descriptors(), before + files);
}

static void hold_and_release(aflock *lock)
{
    ck_assert_int_eq(fake_release(lock, fake_hold(&h, lock, &a, NULL), &b), 0);
    fake_work(&h);
    b = (fake_answer){.count = 0};
}

/* The file is closed, and the place is gone with the last lock. */
static void close_last(aflock *lock)
{
    ck_assert_int_eq(aflock_close(lock), 0);
    must_rest(0);
    ck_assert_ptr_null(h.ctx->places);
}

/* ------------------------------------------------------------------------------------------------ whose file it is */

START_TEST(stays_open_until_the_lock_is_closed)
{
    start();
    aflock *lock = open_keeper("f", ALL_IO[_i]);
    for (int i = 0; i < 3; i++) {
        hold_and_release(lock);
        must_rest(1);
        ck_assert(fake_is_free(fake_path("f")));
        fake_advance(&h, 100 * SEC);
        must_rest(1);
    }
    close_last(lock);
    finish();
}
END_TEST

START_TEST(others_close_at_once)
{
    start();
    aflock *lock = fake_open_lock(&h, "f", ALL_IO[_i]), *other = open_keeper("g", ALL_IO[_i]);
    hold_and_release(lock);
    must_rest(0);
    ck_assert_int_eq(seam_count(SEAM_TOUCH), 0);
    ck_assert_int_eq(aflock_close(other), 0);
    close_last(lock);
    finish();
}
END_TEST

/* One that wishes it is enough, whoever holds. */
START_TEST(stays_open_for_one_of_several_locks)
{
    start();
    aflock *plain = fake_open_lock(&h, "f", ALL_IO[_i]), *one = open_keeper("f", ALL_IO[_i]),
           *two = open_keeper("f", ALL_IO[_i]);
    hold_and_release(plain);
    must_rest(1);
    ck_assert_int_eq(aflock_close(one), 0);
    must_rest(1);
    hold_and_release(plain);
    must_rest(1);
    ck_assert_int_eq(aflock_close(two), 0);
    must_rest(0);
    hold_and_release(plain);
    must_rest(0);
    close_last(plain);
    finish();
}
END_TEST

/* A wish that comes while the file is held counts, and so does its end. */
START_TEST(the_wish_comes_and_goes_during_a_hold)
{
    start();
    aflock *plain = fake_open_lock(&h, "f", ALL_IO[_i]);
    aflock_req req = fake_hold(&h, plain, &a, NULL);
    aflock *keeper = open_keeper("f", ALL_IO[_i]);
    ck_assert_int_eq(fake_release(plain, req, NULL), 0);
    must_rest(1);
    req = fake_hold(&h, plain, &a, NULL);
    ck_assert_int_eq(aflock_close(keeper), 0);
    ck_assert_int_eq(fake_release(plain, req, NULL), 0);
    must_rest(0);
    close_last(plain);
    finish();
}
END_TEST

START_TEST(another_spelling_is_the_same_file)
{
    ck_assert(mkdir(fake_path("dir"), 0777) == 0 || errno == EEXIST);
    ck_assert(symlink("dir", fake_path("link")) == 0 || errno == EEXIST);
    start();
    aflock *plain = fake_open_lock(&h, "dir/f", ALL_IO[_i]), *keeper = open_keeper("link/f", ALL_IO[_i]);
    hold_and_release(plain);
    must_rest(0); /* nobody knows it yet */
    hold_and_release(keeper);
    must_rest(1);
    hold_and_release(plain);
    must_rest(1);
    ck_assert_ptr_null(h.ctx->places->all_next);
    ck_assert_int_eq(aflock_close(keeper), 0);
    must_rest(0);
    close_last(plain);
    finish();
}
END_TEST

/* What a caller compiled against an older header gives ends before the wish. */
START_TEST(an_older_caller_does_not_wish_it)
{
    aflock *lock;
    aflock_options o;
    start();
    aflock_options_init(&o);
    o.size = offsetof(aflock_options, keep_open);
    o.io = ALL_IO[_i];
    o.keep_open = 1;
    ck_assert_int_eq(aflock_open(&lock, h.ctx, fake_path("f"), &o), 0);
    hold_and_release(lock);
    must_rest(0);
    close_last(lock);
    finish();
}
END_TEST

START_TEST(a_callers_descriptor_is_not_concerned)
{
    aflock *lock;
    aflock_options o;
    int own = open(fake_path("f"), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    start();
    aflock_options_init(&o);
    o.io = ALL_IO[_i];
    o.keep_open = 1;
    ck_assert_int_eq(aflock_open_fd(&lock, h.ctx, own, &o), 0);
    hold_and_release(lock);
    must_rest(0);
    ck_assert(fake_is_free(fake_path("f")));
    ck_assert_int_eq(seam_count(SEAM_TOUCH), 0);
    close_last(lock);
    ck_assert_int_ge(fcntl(own, F_GETFD), 0);
    finish();
    close(own);
}
END_TEST

/* ------------------------------------------------------------------------------------------------ things under way */

START_TEST(closed_while_the_release_is_under_way)
{
    start();
    aflock *lock = open_keeper("f", AFLOCK_IO_POOL);
    ck_assert_int_eq(fake_release(lock, fake_hold(&h, lock, &a, NULL), _i ? &b : NULL), 0);
    ck_assert_uint_eq(h.job_count, 1);
    ck_assert_int_eq(aflock_close(lock), 0);
    ck_assert(h.alive);
    must_rest(0);
    ck_assert_ptr_null(h.ctx->places);
    ck_assert_uint_eq(b.count, (unsigned)(_i != 0));
    finish();
}
END_TEST

START_TEST(closed_while_an_attempt_is_under_way)
{
    aflock_req req;
    start();
    aflock *lock = open_keeper("f", AFLOCK_IO_POOL);
    hold_and_release(lock);
    ck_assert_int_eq(fake_acquire(lock, NULL, &b, &req), 0);
    ck_assert_int_eq(fake_cancel(lock, req), 0);
    fake_settle(&h);
    ck_answered(b, AFLOCK_ECANCELED);
    close_last(lock);
    finish();
}
END_TEST

/* The withdrawal has the file; who comes meanwhile opens it anew, in the same place. */
START_TEST(opened_again_while_it_is_being_closed)
{
    start();
    aflock *lock = open_keeper("f", AFLOCK_IO_POOL);
    hold_and_release(lock);
    ck_assert_int_eq(aflock_close(lock), 0);
    ck_assert_uint_eq(fake_jobs_in(&h, AFLOCK_LANE_RELEASE), 1);
    ck_assert(h.alive);
    lock = open_keeper("f", AFLOCK_IO_POOL);
    ck_assert_ptr_null(h.ctx->places->all_next);
    int opened = seam_count(SEAM_OPEN) + seam_count(SEAM_CREATE);
    hold_and_release(lock);
    ck_assert_int_gt(seam_count(SEAM_OPEN) + seam_count(SEAM_CREATE), opened);
    must_rest(1);
    close_last(lock);
    finish();
}
END_TEST

static void close_it(fake_answer *answer, aflock *lock)
{
    (void)answer;
    ck_assert_int_eq(aflock_close(lock), 0);
}

START_TEST(closed_in_the_callback_of_the_release)
{
    start();
    aflock *lock = open_keeper("f", ALL_IO[_i]);
    aflock_req req = fake_hold(&h, lock, &a, NULL);
    b = (fake_answer){.then = close_it};
    ck_assert_int_eq(fake_release(lock, req, &b), 0);
    must_rest(0);
    ck_answered(b, 0);
    ck_assert_ptr_null(h.ctx->places);
    finish();
}
END_TEST

/* What is dropped is done later. */
START_TEST(an_executor_that_drops_the_withdrawal)
{
    start();
    aflock *lock = open_keeper("f", AFLOCK_IO_POOL);
    hold_and_release(lock);
    ck_assert_int_eq(aflock_close(lock), 0);
    fake_drop(&h, 0);
    fake_settle(&h);
    ck_assert(h.alive);
    ck_assert_uint_eq(fake_descriptors(), before + 1);
    fake_advance(&h, 100 * MS);
    must_rest(0);
    ck_assert_ptr_null(h.ctx->places);
    finish();
}
END_TEST

/* ------------------------------------------------------------------------------------------------- using what is open
 */

START_TEST(nothing_is_opened_again)
{
    start();
    aflock *lock = open_keeper("f", ALL_IO[_i]);
    hold_and_release(lock);
    for (int i = 0; i < 3; i++) {
        aflock_acquire_options o = fake_options(i == 1 ? 0 : SEC);
        o.mode = i == 2 ? AFLOCK_SHARED : AFLOCK_EXCLUSIVE;
        seam_forget();
        aflock_req req = fake_hold(&h, lock, &a, &o);
        ck_assert_uint_eq(a.result.attempts, 1);
        ck_assert_int_eq(fake_release(lock, req, NULL), 0);
        must_rest(1);
        ck_assert_int_eq(seam_count(SEAM_LOCK), 1);
        ck_assert_int_eq(seam_count(SEAM_STAT), 1);
        ck_assert_int_eq(seam_count(SEAM_UNLOCK), 1);
        ck_assert_int_eq(seam_count(SEAM_TOUCH), 1);
        ck_assert_int_eq(seam_total(), 4);
        ck_assert_int_eq(seam_total_on_loop(), ALL_IO[_i] == AFLOCK_IO_INLINE ? 4 : seam_total_on_loop());
        ck_assert(ALL_IO[_i] != AFLOCK_IO_POOL || seam_total_on_loop() == 0);
    }
    finish();
}
END_TEST

START_TEST(a_try_uses_it)
{
    aflock_req req;
    start();
    aflock *lock = open_keeper("f", AFLOCK_IO_INLINE);
    hold_and_release(lock);
    seam_forget();
    ck_assert_int_eq(aflock_try(lock, NULL, &req, NULL), 0);
    ck_assert_int_eq(seam_total(), 2);
    ck_assert(!fake_is_free(fake_path("f")));
    ck_assert_int_eq(fake_release(lock, req, NULL), 0);
    must_rest(1);
    int foreign = fake_foreign(fake_path("f"));
    ck_assert_int_eq(aflock_try(lock, NULL, &req, NULL), AFLOCK_EWOULDBLOCK);
    close(foreign);
    must_rest(1);
    ck_assert_int_eq(aflock_try(lock, NULL, &req, NULL), 0);
    finish();
}
END_TEST

/* Who waits on what is kept listens to it; who does not any more, does not. */
START_TEST(waiting_on_it_and_leaving)
{
    aflock_req req;
    start();
    aflock *lock = open_keeper("f", ALL_IO[_i]);
    hold_and_release(lock);
    int foreign = fake_foreign(fake_path("f"));
    before++; /* the foreign one */
    ck_assert_int_eq(fake_acquire(lock, NULL, &b, &req), 0);
    fake_work(&h);
    ck_assert(h.alive);
    ck_assert_int_eq(fake_cancel(lock, req), 0);
    must_rest(1);
    ck_answered(b, AFLOCK_ECANCELED);
    b = (fake_answer){.count = 0};
    ck_assert_int_eq(fake_acquire(lock, NULL, &b, &req), 0);
    fake_work(&h);
    close(foreign);
    before--;
    fake_advance(&h, 50 * MS);
    fake_work(&h);
    ck_answered(b, 0);
    ck_assert_int_eq(fake_release(lock, req, NULL), 0);
    must_rest(1);
    close_last(lock);
    finish();
}
END_TEST

/* A file that is handed on makes no call; afterwards it stays open. */
START_TEST(handed_on_and_left_open)
{
    start();
    aflock *lock = open_keeper("f", ALL_IO[_i]);
    aflock_req req = fake_hold(&h, lock, &a, NULL), next;
    ck_assert_int_eq(fake_acquire(lock, NULL, &b, &next), 0);
    seam_forget();
    ck_assert_int_eq(fake_release(lock, req, NULL), 0);
    fake_work(&h);
    ck_answered(b, 0);
    ck_assert_int_eq(seam_total(), 0);
    ck_assert_int_eq(fake_release(lock, next, NULL), 0);
    must_rest(1);
    ck_assert_int_eq(seam_total(), 2);
    finish();
}
END_TEST

/* Found out when it was to be handed on: what nobody can use any more is closed, and that is heard, too. */
START_TEST(a_replaced_file_is_not_kept)
{
    aflock_req next;
    aflock_ctx_options options;
    aflock_ctx_options_init(&options);
    options.handoff_time = SEC; /* so that the path is looked at instead */
    fake_start(&h, 4, true, &options);
    before = fake_descriptors();
    aflock *lock = open_keeper("f", ALL_IO[_i]);
    aflock_req req = fake_hold(&h, lock, &a, NULL);
    ck_assert_int_eq(fake_acquire(lock, NULL, &b, &next), 0);
    ck_assert_int_eq(rename(fake_path("f"), fake_path("old")), 0);
    fake_advance(&h, 6 * MS);
    seam_forget();
    ck_assert_int_eq(fake_release(lock, req, NULL), 0);
    fake_work(&h);
    fake_advance(&h, MS);
    fake_work(&h);
    ck_answered(b, 0);
    ck_assert_int_eq(seam_count(SEAM_TOUCH), 0);
    ck_assert_int_eq(seam_count(SEAM_UNLOCK), 1);
    ck_assert(!fake_is_free(fake_path("f")));
    ck_assert(fake_is_free(fake_path("old")));
    ck_assert_int_eq(fake_release(lock, next, NULL), 0);
    must_rest(1);
    ck_assert_int_eq(seam_count(SEAM_TOUCH), 1);
    finish();
}
END_TEST

/* --------------------------------------------------------------------------------------------- the end of everything
 */

START_TEST(freeing_the_context_closes_it)
{
    start();
    aflock *lock = open_keeper("f", ALL_IO[_i]);
    hold_and_release(lock);
    must_rest(1);
    finish();
    ck_assert(fake_is_free(fake_path("f")));
}
END_TEST

START_TEST(freeing_the_context_ends_a_hold)
{
    start();
    aflock *lock = open_keeper("f", ALL_IO[_i]);
    fake_hold(&h, lock, &a, NULL);
    int unreleased = fake_free(&h, 0);
    ck_assert_int_eq(unreleased, ALL_IO[_i] == AFLOCK_IO_POOL); /* it takes a worker longer than no time */
    ck_assert_uint_eq(fake_descriptors(), before);
    ck_assert(fake_is_free(fake_path("f")));
}
END_TEST

static void work_meanwhile(uint64_t timeout)
{
    ck_assert_uint_gt(timeout, 0);
    h.now += MS;
    if (h.job_count)
        fake_run(&h, 0);
}

/* The grace is for closing it, too, and a release that was sent to leave it open is no exception. */
START_TEST(the_grace_lets_it_be_closed)
{
    start();
    seam_waits = work_meanwhile;
    aflock *lock = open_keeper("f", AFLOCK_IO_POOL), *other = open_keeper("g", AFLOCK_IO_POOL);
    hold_and_release(lock);
    ck_assert_int_eq(fake_release(other, fake_hold(&h, other, &a, NULL), &c), 0);
    int closes = seam_count(SEAM_CLOSE);
    uint64_t began = h.now;
    ck_assert_int_eq(fake_free(&h, SEC), 0);
    ck_assert_uint_lt(h.now - began, SEC); /* and is not used up by what nobody closes */
    ck_answered(c, 0);
    ck_assert_int_eq(seam_count(SEAM_CLOSE), closes + 2);
    ck_assert_int_eq(seam_on_loop(SEAM_CLOSE), 0);
    ck_assert_uint_eq(fake_descriptors(), before);
}
END_TEST

static void on_drained(aflock_ctx *ctx, void *user)
{
    (void)ctx;
    ++*(unsigned *)user;
}

START_TEST(a_drain_does_not_wait_for_it)
{
    unsigned drained = 0;
    start();
    aflock *lock = open_keeper("f", ALL_IO[_i]);
    hold_and_release(lock);
    ck_assert_int_eq(aflock_ctx_drain(h.ctx, on_drained, &drained), 0);
    fake_work(&h);
    ck_assert_uint_eq(drained, 1);
    must_rest(1);
    finish();
}
END_TEST

static int inherited;

static void abandon(void)
{
    seam_forget();
    ck_assert_int_eq(aflock_ctx_abandon(h.ctx), 0);
    ck_assert_int_lt(fcntl(inherited, F_GETFD), 0);
    ck_assert_int_eq(seam_count(SEAM_UNLOCK) + seam_count(SEAM_TOUCH), 0);
}

static void in_child(void (*body)(void))
{
    int status;
    pid_t child = fork();
    ck_assert_int_ge(child, 0);
    if (child == 0) {
        body();
        _exit(0);
    }
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert(WIFEXITED(status));
    ck_assert_int_eq(WEXITSTATUS(status), 0);
}

/* The child closes its copy, whether it is locked or not, and the parent goes on. */
START_TEST(abandoned_in_a_child)
{
    start();
    aflock *lock = open_keeper("f", ALL_IO[_i]);
    aflock_req req = fake_hold(&h, lock, &a, NULL);
    inherited = aflock_fd(lock, req);
    in_child(abandon);
    ck_assert(!fake_is_free(fake_path("f")));
    ck_assert_int_eq(fake_release(lock, req, NULL), 0);
    must_rest(1);
    in_child(abandon);
    must_rest(1);
    fake_hold(&h, lock, &a, NULL);
    ck_assert_int_eq(a.result.fd, inherited);
    ck_assert(!fake_is_free(fake_path("f")));
    fake_release(lock, a.result.req, NULL);
    must_rest(1);
    finish();
}
END_TEST

int main(void)
{
    const TTest *const each[] = {
        stays_open_until_the_lock_is_closed,
        others_close_at_once,
        stays_open_for_one_of_several_locks,
        the_wish_comes_and_goes_during_a_hold,
        another_spelling_is_the_same_file,
        an_older_caller_does_not_wish_it,
        a_callers_descriptor_is_not_concerned,
        closed_while_the_release_is_under_way,
        closed_while_an_attempt_is_under_way,
        opened_again_while_it_is_being_closed,
        closed_in_the_callback_of_the_release,
        an_executor_that_drops_the_withdrawal,
        nothing_is_opened_again,
        a_try_uses_it,
        waiting_on_it_and_leaving,
        handed_on_and_left_open,
        a_replaced_file_is_not_kept,
        freeing_the_context_closes_it,
        freeing_the_context_ends_a_hold,
        the_grace_lets_it_be_closed,
        a_drain_does_not_wait_for_it,
        abandoned_in_a_child,
        NULL,
    };
    return fake_main_each("runtime: keep", each, IO_COUNT, 60);
}
