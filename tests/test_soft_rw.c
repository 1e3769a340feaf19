/* Soft readers and writers, on real files, on the loop's thread, on the pool and chosen by the library: what is on
 * disk, who shares with whom, who waits for what and is woken by what, and who is broken. */
#include "support/soft_rw_scene.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define READ AFLOCK_SHARED
#define WRITE AFLOCK_EXCLUSIVE

static aflock_ctx *other;

/* A second context in this process is a stranger to the first. */
static aflock *stranger(void)
{
    aflock *lock;
    const aflock_options o = soft_rw_options(AFLOCK_IO_INLINE);
    ck_assert_int_eq(aflock_epoll_new(&other, NULL), 0);
    ck_assert_int_eq(aflock_open(&lock, other, "lock", &o), 0);
    return lock;
}

static int try_there(aflock *lock, aflock_mode mode, aflock_req *req)
{
    aflock_acquire_options o = scene_options(0, 0);
    o.mode = mode;
    return aflock_try(lock, &o, req, NULL);
}

static void part(void)
{
    ck_assert_int_eq(aflock_ctx_free(other, 30 * AFLOCK_SECOND), 0);
}

/* ------------------------------------------------------------------------------------------------------ what is there
 */

START_TEST(a_writer)
{
    aflock *lock = soft_rw_open(_i);
    aflock_req req = soft_rw_hold(lock, WRITE);
    ck_assert(!is_there(STATE) && !is_there("lock"));
    ck_assert_int_eq(scene_entries(READERS), 0);
    ck_assert_int_eq(scene_entries("."), 2);
    must_release(lock, req);
    ck_assert_int_eq(scene_entries("."), 1);
}
END_TEST

START_TEST(a_reader)
{
    aflock *lock = soft_rw_open(_i);
    aflock_req req = soft_rw_hold(lock, READ);
    ck_assert(!is_there(STATE) && !is_there(WRITER) && !is_there("lock"));
    ck_assert_int_eq(scene_entries(READERS), 1);
    must_release(lock, req);
    ck_assert_int_eq(scene_entries(READERS), 0);
    ck_assert_int_eq(scene_entries("."), 1);
}
END_TEST

/* One marker stands for all readers of a context. */
START_TEST(readers_of_one_context)
{
    answer a[3] = {{0}};
    aflock_acquire_options o = scene_options(0, 0);
    o.mode = READ;
    aflock *lock = soft_rw_open(_i);
    for (int i = 0; i < 3; i++)
        ck_assert_int_eq(aflock_acquire(lock, &o, scene_answer, &a[i], NULL), 0);
    scene_expect(3);
    for (int i = 0; i < 3; i++)
        scene_run_until(&a[i].count, 1);
    ck_assert_int_eq(scene_entries(READERS), 1);
    for (int i = 0; i < 3; i++) {
        ck_assert_int_eq(a[i].result.status, 0);
        ck_assert_str_eq(a[i].token, a[0].token);
        ck_assert_int_eq(scene_entries(READERS), 1);
        must_release(lock, a[i].result.req);
    }
    ck_assert_int_eq(scene_entries(READERS), 0);
}
END_TEST

START_TEST(parents_are_made)
{
    aflock *lock;
    const aflock_options o = soft_rw_options(_i);
    ck_assert_int_eq(aflock_open(&lock, scene, "a/b/lock", &o), 0);
    answer a = soft_rw_try(lock, WRITE, 30 * AFLOCK_SECOND);
    ck_assert_int_eq(a.result.status, 0);
    ck_assert(is_there("a/b/lock.write"));
    must_release(lock, a.result.req);
    aflock_acquire_options p = scene_options(0, AFLOCK_MAKE_PARENTS);
    ck_assert_int_eq(aflock_open(&lock, scene, "c/lock", &o), 0);
    a = scene_acquire(lock, &p);
    ck_assert_int_eq(a.result.status, AFLOCK_ENOENT);
    ck_assert(!is_there("c"));
}
END_TEST

/* ----------------------------------------------------------------------------------------------- who shares with whom
 */

START_TEST(contexts)
{
    aflock_req req, there;
    aflock *lock = soft_rw_open(_i), *his = stranger();
    for (int mine = READ; mine >= WRITE; mine--) {
        for (int theirs = READ; theirs >= WRITE; theirs--) {
            req = soft_rw_hold(lock, (aflock_mode)mine);
            const int status = try_there(his, (aflock_mode)theirs, &there);
            ck_assert_int_eq(status, mine == READ && theirs == READ ? 0 : AFLOCK_EWOULDBLOCK);
            if (status == 0) {
                ck_assert_int_eq(count_readers(), 2);
                ck_assert_int_eq(aflock_release(his, there, NULL, NULL), 0);
            }
            must_release(lock, req);
            ck_assert_int_eq(scene_entries("."), 1); /* what did not get in has taken its claim back */
        }
    }
    part();
}
END_TEST

/* Nothing is handed on: a marker that somebody else had may be old already. */
START_TEST(each_hold_has_a_marker_of_its_own)
{
    answer a = {0}, b = {0};
    aflock *lock = soft_rw_open(_i);
    ck_assert_int_eq(aflock_acquire(lock, NULL, scene_answer, &a, NULL), 0);
    ck_assert_int_eq(aflock_acquire(lock, NULL, scene_answer, &b, NULL), 0);
    scene_expect(2);
    scene_run_until(&a.count, 1);
    must_release(lock, a.result.req);
    scene_run_until(&b.count, 1);
    ck_assert_str_ne(a.token, b.token);
    must_be_ours_soft_rw(WRITER, b.token);
    must_release(lock, b.result.req);
}
END_TEST

START_TEST(owners)
{
    int me;
    aflock_req req;
    aflock_acquire_options o = scene_options(0, 0);
    aflock *lock = soft_rw_open(_i);
    o.owner = &me;
    for (int mode = WRITE; mode <= READ; mode++) {
        aflock_req first = soft_rw_hold_for(lock, (aflock_mode)mode, &me, NULL);
        aflock_req again = soft_rw_hold_for(lock, (aflock_mode)mode, &me, NULL);
        o.mode = mode == WRITE ? READ : WRITE;
        ck_assert_int_eq(aflock_acquire(lock, &o, scene_answer, NULL, &req), AFLOCK_EDEADLK);
        ck_assert_int_eq(aflock_depth(lock, &me), 2);
        must_release(lock, first);
        ck_assert_int_eq(count_readers() + is_there(WRITER), 1);
        must_release(lock, again);
        ck_assert_int_eq(count_readers() + is_there(WRITER), 0);
    }
}
END_TEST

/* --------------------------------------------------------------------------------------------------------- who waits
 */

START_TEST(a_reader_waits_for_a_writer)
{
    answer a = {0};
    aflock *lock = soft_rw_open(_i);
    write_writer(getpid(), ELSEWHERE);
    soft_rw_wait(lock, READ, &a);
    ck_assert_int_eq(unlink(WRITER), 0);
    soft_rw_must_be_woken(lock, &a);
}
END_TEST

START_TEST(a_writer_waits_for_a_writer)
{
    answer a = {0};
    aflock *lock = soft_rw_open(_i);
    write_writer(getpid(), ELSEWHERE);
    soft_rw_wait(lock, WRITE, &a);
    ck_assert_int_eq(unlink(WRITER), 0);
    soft_rw_must_be_woken(lock, &a);
}
END_TEST

/* His marker keeps later readers out, and he gets in behind those who were there. */
START_TEST(a_writer_waits_for_readers)
{
    answer a = {0};
    aflock_req there;
    aflock *lock = soft_rw_open(_i), *his = stranger();
    write_reader("f00.1", getpid(), ELSEWHERE);
    const char *path = write_reader("f01.1", getpid(), ELSEWHERE);
    soft_rw_wait(lock, WRITE, &a);
    ck_assert(is_there(WRITER) && !is_there(STATE));
    ck_assert_int_eq(try_there(his, READ, &there), AFLOCK_EWOULDBLOCK);
    ck_assert_int_eq(try_there(his, WRITE, &there), AFLOCK_EWOULDBLOCK);
    ck_assert_int_eq(unlink(path), 0);
    for (int i = 0; i < 5; i++)
        ck_assert_int_eq(aflock_epoll_run_once(scene, 5 * AFLOCK_MILLISECOND), 0);
    ck_assert_int_eq(a.count, 0);
    ck_assert_int_eq(unlink(READERS "/f00.1"), 0);
    scene_run_until(&a.count, 1);
    ck_assert_int_eq(a.result.status, 0);
    must_be_ours_soft_rw(WRITER, a.token);
    must_release(lock, a.result.req);
    part();
}
END_TEST

/* Who gives up takes his claim with him: readers come in again. */
START_TEST(a_writer_gives_up)
{
    aflock *lock = soft_rw_open(_i);
    write_reader("f00.1", getpid(), ELSEWHERE);
    answer a = soft_rw_try(lock, WRITE, A_MOMENT);
    ck_assert_int_eq(a.result.status, AFLOCK_ETIMEDOUT);
    soft_rw_rest();
    ck_assert(!is_there(WRITER) && !is_there(STATE));
    a = soft_rw_try(lock, WRITE, 0);
    ck_assert_int_eq(a.result.status, AFLOCK_EWOULDBLOCK);
    soft_rw_rest();
    ck_assert(!is_there(WRITER) && !is_there(STATE));
    answer b = {0};
    aflock_req req = soft_rw_wait(lock, WRITE, &b);
    ck_assert(is_there(WRITER));
    ck_assert_int_eq(aflock_cancel(lock, req), 0);
    soft_rw_rest();
    ck_assert_int_eq(b.result.status, AFLOCK_ECANCELED);
    ck_assert(!is_there(WRITER) && !is_there(STATE));
    must_release(lock, soft_rw_hold(lock, READ));
}
END_TEST

/* His claim may have become somebody else's: that one stays. */
START_TEST(a_writer_gives_up_what_is_not_his)
{
    answer a = {0};
    aflock *lock = soft_rw_open(_i);
    write_reader("f00.1", getpid(), ELSEWHERE);
    aflock_req req = soft_rw_wait(lock, WRITE, &a);
    ck_assert_int_eq(unlink(WRITER), 0);
    write_writer(getpid(), ELSEWHERE);
    ck_assert_int_eq(aflock_cancel(lock, req), 0);
    soft_rw_rest();
    scene_run_until(&a.count, 1);
    ck_assert_int_eq(a.result.status, AFLOCK_ECANCELED);
    char text[256];
    snprintf(text, sizeof text, TOKEN "\n%d\n" ELSEWHERE "\n", (int)getpid());
    must_read(WRITER, text);
}
END_TEST

static void read_writer(char text[512])
{
    FILE *f = fopen(WRITER, "re");
    ck_assert_ptr_nonnull(f);
    text[fread(text, 1, 511, f)] = '\0';
    fclose(f);
}

/* The next writer of the context takes the claim over; a reader has it withdrawn. */
START_TEST(a_claim_is_inherited)
{
    answer a = {0}, b = {0}, c = {0};
    char text[512], later[512];
    aflock *lock = soft_rw_open(_i);
    write_reader("f00.1", getpid(), ELSEWHERE);
    aflock_req first = soft_rw_wait(lock, WRITE, &a);
    aflock_acquire_options o = scene_options(0, 0);
    ck_assert_int_eq(aflock_acquire(lock, &o, scene_answer, &b, NULL), 0);
    o.mode = READ;
    ck_assert_int_eq(aflock_acquire(lock, &o, scene_answer, &c, NULL), 0);
    scene_expect(2);
    read_writer(text);
    ck_assert_int_eq(aflock_cancel(lock, first), 0);
    scene_run_until(&a.count, 1);
    read_writer(later);
    ck_assert_str_eq(text, later);
    ck_assert_int_eq(unlink(READERS "/f00.1"), 0);
    soft_rw_must_be_woken(lock, &b);
    soft_rw_must_be_woken(lock, &c);
}
END_TEST

/* Nothing that we do ourselves is heard. */
START_TEST(waiting_is_quiet)
{
    answer a = {0}, b = {0};
    aflock *lock = soft_rw_open(_i);
    write_writer(getpid(), ELSEWHERE);
    aflock_req req = soft_rw_wait(lock, READ, &a);
    int contended = scene_contended;
    for (int i = 0; i < 10; i++)
        ck_assert_int_eq(aflock_epoll_run_once(scene, 5 * AFLOCK_MILLISECOND), 0);
    ck_assert_int_eq(scene_contended, contended);
    ck_assert_int_eq(aflock_cancel(lock, req), 0);
    ck_assert_int_eq(unlink(WRITER), 0);
    write_reader("f0.1", getpid(), ELSEWHERE);
    req = soft_rw_wait(lock, WRITE, &b);
    contended = scene_contended;
    for (int i = 0; i < 10; i++)
        ck_assert_int_eq(aflock_epoll_run_once(scene, 5 * AFLOCK_MILLISECOND), 0);
    ck_assert_int_eq(scene_contended, contended);
    ck_assert_int_eq(aflock_cancel(lock, req), 0);
    soft_rw_rest();
    scene_run_until(&b.count, 1);
}
END_TEST

START_TEST(the_state_lock_is_waited_for)
{
    answer a = {0};
    pid_t holder = sleeper();
    aflock *lock = soft_rw_open(_i);
    mark(STATE, holder);
    soft_rw_wait(lock, READ, &a);
    ck_assert_int_eq(scene_entries(READERS), 0);
    ck_assert_int_eq(unlink(STATE), 0);
    soft_rw_must_be_woken(lock, &a);
    scene_holder_end(holder);
}
END_TEST

/* A release needs it too, and is answered when it was to be had. */
START_TEST(a_release_waits_for_the_state_lock)
{
    answer a = {0};
    pid_t holder = sleeper();
    aflock *lock = soft_rw_open(_i);
    aflock_req req = soft_rw_hold(lock, WRITE);
    mark(STATE, holder);
    ck_assert_int_eq(aflock_release(lock, req, scene_answer, &a), 0);
    scene_expect(1);
    for (int i = 0; i < 5; i++)
        ck_assert_int_eq(aflock_epoll_run_once(scene, 5 * AFLOCK_MILLISECOND), 0);
    ck_assert_int_eq(a.count, 0);
    ck_assert(is_there(WRITER));
    ck_assert_int_eq(unlink(STATE), 0);
    scene_run_until(&a.count, 1);
    ck_assert_int_eq(a.result.status, 0);
    ck_assert(!is_there(WRITER) && !is_there(STATE));
    scene_holder_end(holder);
}
END_TEST

START_TEST(the_state_lock_of_a_dead_process)
{
    aflock *lock = soft_rw_open(_i);
    mark_without_token(STATE, dead_pid(), host_name());
    soft_rw_must_get(lock, READ);
    mark_without_token(STATE, dead_pid(), host_name());
    soft_rw_must_get(lock, WRITE);
    scene_write(STATE, ""); /* killed before he has written it */
    make_older(STATE, 3);
    soft_rw_must_get(lock, WRITE);
}
END_TEST

/* ------------------------------------------------------------------------------------------------------ who is broken
 */

enum { OLD = 91, YOUNG = 80 };

START_TEST(stale_markers)
{
    aflock *lock = soft_rw_open(_i);
    write_writer(getpid(), ELSEWHERE);
    make_older(WRITER, OLD);
    soft_rw_must_get(lock, READ);
    write_writer(getpid(), ELSEWHERE);
    make_older(WRITER, OLD);
    soft_rw_must_get(lock, WRITE);
    for (int i = 0; i < 3; i++) {
        char name[16];
        snprintf(name, sizeof name, "f%d.1", i);
        make_older(write_reader(name, getpid(), ELSEWHERE), OLD);
    }
    soft_rw_must_get(lock, WRITE);
}
END_TEST

START_TEST(fresh_markers)
{
    aflock *lock = soft_rw_open(_i);
    write_writer(getpid(), ELSEWHERE);
    make_older(WRITER, YOUNG);
    ck_assert_int_eq(soft_rw_try(lock, READ, A_MOMENT).result.status, AFLOCK_ETIMEDOUT);
    ck_assert_int_eq(soft_rw_try(lock, WRITE, A_MOMENT).result.status, AFLOCK_ETIMEDOUT);
    make_older(WRITER, -1000); /* of the future */
    ck_assert_int_eq(soft_rw_try(lock, READ, A_MOMENT).result.status, AFLOCK_ETIMEDOUT);
    ck_assert_int_eq(unlink(WRITER), 0);
    make_older(write_reader("f0.1", getpid(), ELSEWHERE), YOUNG);
    ck_assert_int_eq(soft_rw_try(lock, WRITE, A_MOMENT).result.status, AFLOCK_ETIMEDOUT);
    soft_rw_rest();
    ck_assert_int_eq(count_readers(), 1);
    ck_assert(!is_there(WRITER));
}
END_TEST

/* Exactly at the limit it still counts. */
START_TEST(the_limit_to_the_nanosecond)
{
    const uint64_t now = 1700000000 * AFLOCK_SECOND;
    stop_clocks(AFLOCK_SECOND, now);
    aflock *lock = soft_rw_open(_i);
    write_writer(getpid(), ELSEWHERE);
    set_time(WRITER, now - 90 * AFLOCK_SECOND);
    ck_assert_int_eq(soft_rw_try(lock, READ, A_MOMENT).result.status, AFLOCK_ETIMEDOUT);
    pass_realtime(1);
    soft_rw_must_get(lock, READ);
}
END_TEST

START_TEST(malformed_markers)
{
    static const char *const texts[] = {"", "?", "x\n", TOKEN "\n1\r\nhost\r\n", TOKEN "\n01\nhost\n"};
    aflock *lock = soft_rw_open(_i);
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        scene_write(WRITER, texts[i]);
        make_older(WRITER, YOUNG);
        ck_assert_int_eq(soft_rw_try(lock, READ, A_MOMENT).result.status, AFLOCK_ETIMEDOUT);
        make_older(WRITER, OLD);
        soft_rw_must_get(lock, i % 2 ? READ : WRITE);
        const char *path = write_reader("f0.1", 1, ELSEWHERE);
        scene_write(path, texts[i]);
        ck_assert_int_eq(soft_rw_try(lock, WRITE, A_MOMENT).result.status, AFLOCK_ETIMEDOUT);
        soft_rw_rest();
        make_older(path, OLD);
        soft_rw_must_get(lock, WRITE);
    }
}
END_TEST

/* Of this host, and dead: nobody waits until it is old. */
START_TEST(dead_holders)
{
    aflock *lock = soft_rw_open(_i);
    write_writer(dead_pid(), host_name());
    soft_rw_must_get(lock, READ);
    write_writer(dead_pid(), host_name());
    soft_rw_must_get(lock, WRITE);
    write_reader("f0.1", dead_pid(), host_name());
    write_reader("f1.1", dead_pid(), host_name());
    soft_rw_must_get(lock, WRITE);
    write_writer(dead_pid(), ELSEWHERE); /* nobody knows */
    ck_assert_int_eq(soft_rw_try(lock, READ, A_MOMENT).result.status, AFLOCK_ETIMEDOUT);
}
END_TEST

START_TEST(the_end_of_a_holder_is_heard_of)
{
    answer a = {0}, b = {0};
    pid_t writer = sleeper(), reader = sleeper();
    aflock *lock = soft_rw_open(_i);
    write_writer(writer, host_name());
    soft_rw_wait(lock, READ, &a);
    scene_holder_end(writer);
    soft_rw_must_be_woken(lock, &a);
    write_marker(READERS "/f0.1", "ffffffffffffffffffffffffffffffff", reader, host_name());
    soft_rw_wait(lock, WRITE, &b);
    scene_holder_end(reader);
    soft_rw_must_be_woken(lock, &b);
}
END_TEST

/* Whatever else is in the folder is a reader, but what is put aside. */
START_TEST(names_in_the_folder)
{
    static const char *const housekeeping[] = {".", ".x", ".break", "f.break.1.2", "a.breakfast", ".f0.1"};
    static const char *const readers[] = {"x", "f0.1", "README", "f0.1.tmp", "break", "f0.BREAK", "-", "f0.brea"};
    aflock *lock = soft_rw_open(_i);
    for (size_t i = 1; i < sizeof housekeeping / sizeof housekeeping[0]; i++)
        write_reader(housekeeping[i], getpid(), ELSEWHERE);
    must_release(lock, soft_rw_hold(lock, WRITE));
    ck_assert_int_eq(count_readers(), sizeof housekeeping / sizeof housekeeping[0] - 1);
    for (size_t i = 0; i < sizeof readers / sizeof readers[0]; i++) {
        const char *path = write_reader(readers[i], getpid(), ELSEWHERE);
        ck_assert_int_eq(soft_rw_try(lock, WRITE, 0).result.status, AFLOCK_EWOULDBLOCK);
        soft_rw_rest();
        ck_assert_int_eq(unlink(path), 0);
    }
}
END_TEST

int main(void)
{
    const TTest *const each[] = {a_writer,
                                 a_reader,
                                 readers_of_one_context,
                                 parents_are_made,
                                 contexts,
                                 each_hold_has_a_marker_of_its_own,
                                 owners,
                                 a_reader_waits_for_a_writer,
                                 a_writer_waits_for_a_writer,
                                 a_writer_waits_for_readers,
                                 a_writer_gives_up,
                                 a_writer_gives_up_what_is_not_his,
                                 a_claim_is_inherited,
                                 waiting_is_quiet,
                                 the_state_lock_is_waited_for,
                                 a_release_waits_for_the_state_lock,
                                 the_state_lock_of_a_dead_process,
                                 stale_markers,
                                 fresh_markers,
                                 the_limit_to_the_nanosecond,
                                 malformed_markers,
                                 dead_holders,
                                 the_end_of_a_holder_is_heard_of,
                                 names_in_the_folder,
                                 NULL};
    return scene_main("soft rw", NULL, each);
}
