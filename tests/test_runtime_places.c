/* From paths to queues: two spellings of one file share a queue as soon as that is known; and the notifier, which a
 * scripted one stands for. */
#include "support/fake_host.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static fake_host h;
static fake_answer a, b, c, d;
static char me, you;

static void make_directories(void)
{
    ck_assert_int_eq(mkdir(fake_path("dir"), 0777), 0);
    ck_assert_int_eq(symlink("dir", fake_path("link")), 0);
}

static aflock_acquire_options owned(void *owner, aflock_mode mode)
{
    aflock_acquire_options o = fake_options(AFLOCK_FOREVER);
    o.owner = owner;
    o.mode = mode;
    return o;
}

/* ------------------------------------------------------------------------------------------------------ spellings */

START_TEST(spellings_that_are_one_text)
{
    const char *const names[] = {"dir/f", "dir//f", "./dir/./f", ".//dir/f"};
    make_directories();
    ck_assert_int_eq(chdir(fake_path("")), 0);
    fake_start(&h, 4, false, NULL);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        aflock *lock;
        ck_assert_int_eq(aflock_open(&lock, h.ctx, names[i], NULL), 0);
        ck_assert_str_eq(aflock_path(lock), fake_path("dir/f"));
    }
    ck_assert_ptr_null(h.ctx->places->all_next); /* one place */
    ck_assert_int_eq(fake_free(&h, 0), 0);
}
END_TEST

/* Without its end it would name a file as well. */
START_TEST(a_path_that_says_it_is_a_directory)
{
    const char *const refused[] = {"dir/", "dir/f/", "dir/f/.", "dir/./", "/dir//"};
    const char *const fine[] = {"/", "/.", ".", "./", "..", "dir/.."};
    aflock *lock;
    fake_start(&h, 4, false, NULL);
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++)
        ck_assert_int_eq(aflock_open(&lock, h.ctx, refused[i], NULL), AFLOCK_EISDIR);
    for (size_t i = 0; i < sizeof fine / sizeof fine[0]; i++)
        ck_assert_int_eq(aflock_open(&lock, h.ctx, fine[i], NULL), 0);
    ck_assert_int_eq(fake_free(&h, 0), 0);
}
END_TEST

/* A symbolic link to the directory and a detour are found out by the first attempt. */
static void two_spellings(const char *other, aflock_io io)
{
    make_directories();
    fake_start(&h, 4, false, NULL);
    aflock *one = fake_open_lock(&h, "dir/f", io), *two = fake_open_lock(&h, other, io);
    aflock_req held = fake_hold(&h, one, &a, NULL);
    ck_assert_int_eq(fake_acquire(two, NULL, &b, NULL), 0);
    ck_assert_int_eq(fake_acquire(one, NULL, &c, NULL), 0);
    ck_assert_int_eq(fake_acquire(two, NULL, &d, NULL), 0);
    fake_work(&h);
    ck_assert_ptr_null(h.ctx->places->all_next);
    ck_assert_int_eq(aflock_depth(two, NULL), 1);
    int locked = seam_count(SEAM_LOCK);
    ck_assert_int_eq(fake_release(one, held, NULL), 0);
    fake_work(&h);
    ck_answered(b, 0);
    ck_assert_str_eq(aflock_path(two), fake_path(other));
    ck_assert_uint_eq(c.count, 0);
    ck_assert_int_eq(fake_release(two, b.result.req, NULL), 0);
    fake_work(&h);
    ck_answered(c, 0);
    ck_assert_int_eq(fake_release(one, c.result.req, NULL), 0);
    fake_work(&h);
    ck_answered(d, 0);
    ck_assert_uint_eq(b.result.attempts + c.result.attempts + d.result.attempts, 0);
    ck_assert_int_eq(seam_count(SEAM_LOCK), locked); /* handed on */
    ck_assert_int_eq(fake_release(two, d.result.req, NULL), 0);
    fake_work(&h);
    ck_assert_int_eq(aflock_close(one), 0);
    ck_assert_int_eq(aflock_close(two), 0);
    fake_work(&h);
    ck_assert_ptr_null(h.ctx->places);
    ck_assert_int_eq(fake_free(&h, 0), 0);
}

START_TEST(through_a_symbolic_link_inline)
{
    two_spellings("link/f", AFLOCK_IO_INLINE);
}
END_TEST

START_TEST(through_a_symbolic_link_on_the_pool)
{
    two_spellings("link/f", AFLOCK_IO_POOL);
}
END_TEST

START_TEST(through_a_detour)
{
    two_spellings("dir/../dir/f", AFLOCK_IO_AUTO);
}
END_TEST

/* Both are found out at the same time, the later request first: the queue has submission order all the same. */
START_TEST(merged_waiters_stand_in_submission_order)
{
    make_directories();
    int foreign = fake_foreign(fake_path("dir/f"));
    fake_start(&h, 8, false, NULL);
    aflock *one = fake_open_lock(&h, "dir/f", AFLOCK_IO_POOL), *two = fake_open_lock(&h, "link/f", AFLOCK_IO_POOL);
    ck_assert_int_eq(fake_acquire(one, NULL, &a, NULL), 0);
    ck_assert_int_eq(fake_acquire(two, NULL, &b, NULL), 0);
    ck_assert_int_eq(fake_acquire(one, NULL, &c, NULL), 0);
    ck_assert_int_eq(fake_acquire(two, NULL, &d, NULL), 0);
    ck_assert_uint_eq(h.job_count, 2);
    fake_run(&h, 1);
    fake_settle(&h);
    fake_work(&h);
    ck_assert_uint_eq(a.count + b.count + c.count + d.count, 0);
    close(foreign);
    fake_answer *const order[] = {&a, &b, &c, &d};
    for (size_t i = 0; i < 4; i++) {
        fake_advance(&h, 60 * MS);
        fake_work(&h);
        for (size_t j = 0; j < 4; j++)
            ck_assert_uint_eq(order[j]->count, j <= i);
        ck_assert_int_eq(order[i]->result.status, 0);
        ck_assert_int_eq(fake_release(i % 2 ? two : one, order[i]->result.req, NULL), 0);
        fake_work(&h);
    }
    ck_assert_int_eq(fake_free(&h, 0), 0);
}
END_TEST

START_TEST(another_protocol_under_another_spelling)
{
    aflock *one, *same, *two;
    aflock_options options;
    make_directories();
    fake_start(&h, 4, false, NULL);
    one = fake_open_lock(&h, "dir/f", AFLOCK_IO_INLINE);
    aflock_options_init(&options);
    options.protocol = AFLOCK_OFD;
    options.io = AFLOCK_IO_INLINE;
    ck_assert_int_eq(aflock_open(&same, h.ctx, fake_path("dir/f"), &options), AFLOCK_EMISMATCH);
    ck_assert_ptr_null(same);
    ck_assert_int_eq(aflock_open(&two, h.ctx, fake_path("link/f"), &options), 0);
    fake_hold(&h, one, &a, NULL);
    for (int i = 0; i < 2; i++) { /* and each time again */
        b = (fake_answer){.count = 0};
        ck_assert_int_eq(fake_acquire(two, NULL, &b, NULL), 0);
        fake_work(&h);
        ck_answered(b, AFLOCK_EMISMATCH);
    }
    ck_assert_int_eq(aflock_close(two), 0);
    ck_assert_int_eq(fake_release(one, a.result.req, NULL), 0);
    fake_work(&h);
    ck_assert_int_eq(aflock_close(one), 0);
    ck_assert_ptr_null(h.ctx->places);
    ck_assert_int_eq(fake_free(&h, 0), 0);
}
END_TEST

/* A cycle that nobody could see before the queues were one. */
START_TEST(a_cycle_that_a_merge_closes)
{
    make_directories();
    fake_start(&h, 4, false, NULL);
    aflock *f = fake_open_lock(&h, "dir/f", AFLOCK_IO_INLINE), *g = fake_open_lock(&h, "dir/g", AFLOCK_IO_INLINE);
    aflock *g_too = fake_open_lock(&h, "link/g", AFLOCK_IO_INLINE);
    aflock_acquire_options mine = owned(&me, AFLOCK_EXCLUSIVE), yours = owned(&you, AFLOCK_EXCLUSIVE);
    fake_hold(&h, f, &a, &mine);
    fake_hold(&h, g, &b, &yours);
    ck_assert_int_eq(fake_acquire(f, &yours, &c, NULL), 0);
    ck_assert_int_eq(fake_acquire(g_too, &mine, &d, NULL), 0);
    fake_settle(&h);
    ck_answered(d, AFLOCK_EDEADLK);
    ck_assert_uint_eq(c.count, 0);
    d = (fake_answer){.count = 0};
    ck_assert_int_eq(fake_acquire(g_too, &mine, &d, NULL), AFLOCK_EDEADLK); /* from now on at once */
    ck_assert_int_eq(fake_free(&h, 0), 0);
}
END_TEST

START_TEST(an_owner_re_enters_under_another_spelling)
{
    make_directories();
    fake_start(&h, 4, false, NULL);
    aflock *one = fake_open_lock(&h, "dir/f", AFLOCK_IO_INLINE), *two = fake_open_lock(&h, "link/f", AFLOCK_IO_INLINE);
    aflock_acquire_options mine = owned(&me, AFLOCK_EXCLUSIVE), read = owned(&me, AFLOCK_SHARED);
    fake_hold(&h, one, &a, &mine);
    fake_hold(&h, two, &b, &mine);
    ck_assert_int_eq(aflock_depth(one, &me), 2);
    ck_assert_int_eq(fake_acquire(two, &read, &c, NULL), AFLOCK_EDEADLK);
    ck_assert_int_eq(fake_free(&h, 0), 0);
    ck_assert_uint_eq(c.count, 0);
}
END_TEST

START_TEST(try_and_single_attempts_under_another_spelling)
{
    aflock_req req;
    make_directories();
    fake_start(&h, 4, false, NULL);
    aflock *one = fake_open_lock(&h, "dir/f", AFLOCK_IO_INLINE), *two = fake_open_lock(&h, "link/f", AFLOCK_IO_INLINE);
    aflock *three = fake_open_lock(&h, "link/../link/f", AFLOCK_IO_INLINE);
    aflock_req held = fake_hold(&h, one, &a, NULL);
    ck_assert_int_eq(aflock_try(two, NULL, &req, NULL), AFLOCK_EWOULDBLOCK);
    aflock_acquire_options o = fake_options(0);
    ck_assert_int_eq(fake_acquire(three, &o, &b, NULL), 0); /* not known yet that it stands behind a hold */
    fake_settle(&h);
    ck_answered(b, AFLOCK_EWOULDBLOCK);
    ck_assert_ptr_null(h.ctx->places->all_next);
    ck_assert_int_eq(fake_release(one, held, NULL), 0);
    ck_assert_int_eq(aflock_try(two, NULL, &req, NULL), 0);
    ck_assert_int_eq(fake_free(&h, 0), 0);
}
END_TEST

/* A lock whose request is gone and which is closed while the look-up is out. */
START_TEST(a_merge_that_nobody_waits_for)
{
    aflock_req req;
    make_directories();
    fake_start(&h, 4, false, NULL);
    aflock *one = fake_open_lock(&h, "dir/f", AFLOCK_IO_INLINE), *two = fake_open_lock(&h, "link/f", AFLOCK_IO_POOL);
    fake_hold(&h, one, &a, NULL);
    ck_assert_int_eq(fake_acquire(two, NULL, &b, &req), 0);
    ck_assert_int_eq(fake_cancel(two, req), 0);
    fake_settle(&h);
    ck_assert_int_eq(aflock_close(two), 0);
    fake_work(&h);
    ck_assert_ptr_null(h.ctx->places->all_next);
    ck_assert_int_eq(fake_free(&h, 0), 0);
    ck_answered(b, AFLOCK_ECANCELED);
}
END_TEST

START_TEST(a_mismatch_that_nobody_waits_for)
{
    aflock *two;
    aflock_req req;
    aflock_options options;
    make_directories();
    fake_start(&h, 4, false, NULL);
    fake_hold(&h, fake_open_lock(&h, "dir/f", AFLOCK_IO_INLINE), &a, NULL);
    aflock_options_init(&options);
    options.protocol = AFLOCK_OFD;
    options.io = AFLOCK_IO_POOL;
    ck_assert_int_eq(aflock_open(&two, h.ctx, fake_path("link/f"), &options), 0);
    ck_assert_int_eq(fake_acquire(two, NULL, &b, &req), 0);
    ck_assert_int_eq(fake_cancel(two, req), 0);
    fake_settle(&h);
    ck_assert_int_eq(aflock_close(two), 0);
    fake_work(&h);
    ck_assert_ptr_null(h.ctx->places->all_next);
    ck_assert_int_eq(fake_free(&h, 0), 0);
}
END_TEST

START_TEST(many_places_come_and_go)
{
    enum { COUNT = 500 };
    static aflock *locks[COUNT];
    static fake_answer answers[COUNT];
    char name[32];
    fake_start(&h, 4, false, NULL);
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < COUNT; i++) {
            snprintf(name, sizeof name, "f%d", i);
            locks[i] = fake_open_lock(&h, name, AFLOCK_IO_INLINE);
            fake_hold(&h, locks[i], &answers[i], NULL);
        }
        for (int i = 0; i < COUNT; i++) {
            int j = (i * 7) % COUNT;
            ck_assert_int_eq(fake_release(locks[j], answers[j].result.req, NULL), 0);
            ck_assert_int_eq(aflock_close(locks[j]), 0);
        }
        ck_assert_ptr_null(h.ctx->places);
        ck_assert_uint_eq(h.ctx->key_count, 0);
        ck_assert_uint_eq(h.ctx->text_count, 0);
    }
    ck_assert_int_eq(fake_free(&h, 0), 0);
}
END_TEST

/* --------------------------------------------------------------------------------------------------- the notifier */

static aflock *contended(int *foreign)
{
    *foreign = fake_foreign(fake_path("f"));
    aflock *lock = fake_open_lock(&h, "f", AFLOCK_IO_INLINE);
    ck_assert_int_eq(fake_acquire(lock, NULL, &a, NULL), 0);
    return lock;
}

START_TEST(a_change_is_answered_by_an_attempt)
{
    int foreign;
    fake_start(&h, 4, true, NULL);
    aflock *lock = contended(&foreign);
    ck_assert_uint_eq(h.adds, 1);
    ck_assert_uint_eq(h.listening[0]->what, AFLOCK_ON_FILE);
    ck_assert_int_eq(seam_count(SEAM_LOCK), 2); /* again after the watch was there */
    ck_assert_int_eq(seam_count(SEAM_OPEN) + seam_count(SEAM_CREATE) + seam_count(SEAM_OPEN_CACHED),
                     3);                                              /* the parent, the table of mounts, and f once */
    aflock_host_changed(h.ctx, h.listening[0], AFLOCK_ON_FILE, NULL); /* somebody else's change */
    fake_settle(&h);
    ck_assert_uint_eq(a.count, 0);
    ck_assert_int_eq(seam_count(SEAM_LOCK), 3);
    ck_assert_uint_eq(h.timer, h.now + 20 * US); /* the event can come before the unlock */
    close(foreign);
    aflock_host_changed(h.ctx, h.listening[0], AFLOCK_ON_FILE, NULL);
    fake_settle(&h);
    ck_answered(a, 0);
    ck_assert_uint_eq(h.listening_count, 0);
    ck_assert_uint_eq(h.dels, 1);
    ck_assert_int_eq(fake_release(lock, a.result.req, NULL), 0);
    ck_assert_int_eq(fake_free(&h, 0), 0);
    ck_assert_uint_eq(h.adds, 1);
}
END_TEST

START_TEST(the_watch_ends_with_the_wait)
{
    int foreign;
    fake_start(&h, 4, true, NULL);
    aflock *lock = contended(&foreign);
    ck_assert_uint_eq(h.listening_count, 1);
    ck_assert_int_eq(fake_acquire(lock, NULL, &b, NULL), 0);
    ck_assert_uint_eq(h.adds, 1); /* one per path */
    aflock_acquire_options o = fake_options(0);
    ck_assert_int_eq(fake_acquire(lock, &o, &c, NULL), AFLOCK_EWOULDBLOCK);
    ck_assert_int_eq(fake_free(&h, 0), 0);
    ck_assert_uint_eq(h.dels, 1);
    close(foreign);
}
END_TEST

START_TEST(a_watch_that_cannot_be_had_or_is_lost_is_replaced_by_polling)
{
    int foreign;
    fake_start(&h, 4, true, NULL);
    h.refuse_add = true;
    aflock *lock = contended(&foreign);
    ck_assert_uint_eq(h.listening_count, 0);
    close(foreign);
    fake_advance(&h, 50 * MS);
    ck_answered(a, 0);
    ck_assert_int_eq(fake_release(lock, a.result.req, NULL), 0);
    ck_assert_int_eq(aflock_close(lock), 0);

    h.refuse_add = false;
    a = (fake_answer){.count = 0};
    contended(&foreign);
    ck_assert_uint_eq(h.listening_count, 1);
    aflock_host_changed(h.ctx, h.listening[0], AFLOCK_ON_LOST, NULL);
    ck_assert_uint_eq(h.listening_count, 0);
    close(foreign);
    fake_advance(&h, 50 * MS);
    ck_answered(a, 0);
    ck_assert_int_eq(fake_free(&h, 0), 0);
}
END_TEST

/* The file was replaced while we listened to the old one: what is listened to is the file that is waited for. */
START_TEST(the_watch_follows_the_file)
{
    int foreign;
    struct stat watched, there;
    fake_start(&h, 4, true, NULL);
    contended(&foreign);
    ck_assert_int_eq(unlink(fake_path("f")), 0);
    int newer = fake_foreign(fake_path("f"));
    aflock_host_changed(h.ctx, h.listening[0], AFLOCK_ON_FILE, NULL);
    fake_advance(&h, MS);
    ck_assert_uint_eq(a.count, 0);
    ck_assert_uint_eq(h.listening_count, 1);
    ck_assert_int_eq(fstat(h.listening[0]->fd, &watched), 0);
    ck_assert_int_eq(stat(fake_path("f"), &there), 0);
    ck_assert_uint_eq(watched.st_ino, there.st_ino);
    ck_assert_uint_eq(h.adds, 2);
    close(foreign);
    close(newer);
    ck_assert_int_eq(fake_free(&h, 0), 0);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {spellings_that_are_one_text,
                                  a_path_that_says_it_is_a_directory,
                                  through_a_symbolic_link_inline,
                                  through_a_symbolic_link_on_the_pool,
                                  through_a_detour,
                                  merged_waiters_stand_in_submission_order,
                                  another_protocol_under_another_spelling,
                                  a_cycle_that_a_merge_closes,
                                  an_owner_re_enters_under_another_spelling,
                                  try_and_single_attempts_under_another_spelling,
                                  a_merge_that_nobody_waits_for,
                                  a_mismatch_that_nobody_waits_for,
                                  many_places_come_and_go,
                                  a_change_is_answered_by_an_attempt,
                                  the_watch_ends_with_the_wait,
                                  a_watch_that_cannot_be_had_or_is_lost_is_replaced_by_polling,
                                  the_watch_follows_the_file,
                                  NULL};
    return fake_main("runtime: places", tests);
}
