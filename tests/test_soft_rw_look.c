/* Soft readers and writers: what can be asked about them, what is refused, and which thread does it all. */
#include "support/soft_rw_scene.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define READ AFLOCK_SHARED
#define WRITE AFLOCK_EXCLUSIVE

START_TEST(it_is_inspected)
{
    aflock *lock = soft_rw_open(_i);
    sight s = look(lock);
    ck_assert(!s.holder.held && !s.holder.pending && s.holder.count == 0);
    ck_assert_int_eq(scene_entries("."), 0); /* a question makes nothing */
    write_reader("f0.1", 4711, ELSEWHERE);
    const char *path = write_reader("f1.1", 4711, ELSEWHERE);
    make_older(path, 20);
    s = look(lock);
    ck_assert(s.holder.held && !s.holder.pending && s.holder.mode == READ);
    ck_assert_uint_eq(s.holder.count, 2);
    ck_assert_int_eq(s.holder.pid, 4711);
    ck_assert_str_eq(s.host, ELSEWHERE);
    ck_assert_str_eq(s.token, TOKEN);
    ck_assert(!s.holder.here && !s.holder.gone);
    write_writer(dead_pid(), host_name());
    make_older(WRITER, 20);
    s = look(lock);
    ck_assert(s.holder.held && s.holder.pending && s.holder.mode == READ);
    ck_assert_uint_eq(s.holder.count, 2);
    ck_assert_str_eq(s.host, host_name());
    ck_assert(s.holder.here && s.holder.gone);
    ck_assert_uint_ge(s.holder.age, 20 * AFLOCK_SECOND);
    ck_assert_int_eq(unlink(path), 0);
    ck_assert_int_eq(unlink(READERS "/f0.1"), 0);
    s = look(lock);
    ck_assert(s.holder.held && !s.holder.pending && s.holder.mode == WRITE);
    ck_assert_uint_eq(s.holder.count, 1);
    ck_assert_int_eq(aflock_break(lock, scene_answer, NULL), AFLOCK_ENOTSUP);
}
END_TEST

/* A writer of this process who waits for readers asks for whom he waits. */
START_TEST(who_waits_is_not_named_to_himself)
{
    answer a = {0};
    aflock *lock = soft_rw_open(_i);
    write_reader("f0.1", 4711, ELSEWHERE);
    write_reader("f1.1", 4711, ELSEWHERE);
    aflock_req req = soft_rw_wait(lock, WRITE, &a);
    ck_assert(is_there(WRITER));
    sight s = look(lock);
    ck_assert(s.holder.held && !s.holder.pending && s.holder.mode == READ);
    ck_assert_uint_eq(s.holder.count, 2);
    ck_assert_int_eq(s.holder.pid, 4711);
    ck_assert_str_eq(s.host, ELSEWHERE);
    ck_assert_int_eq(unlink(READERS "/f0.1"), 0);
    ck_assert_int_eq(unlink(READERS "/f1.1"), 0);
    scene_run_until(&a.count, 1);
    s = look(lock);
    ck_assert(s.holder.held && s.holder.mode == WRITE && s.holder.here);
    ck_assert_int_eq(s.holder.pid, getpid());
    must_release(lock, req);
}
END_TEST

/* Nobody reads or writes, and nobody can: who keeps everybody out is named; beside others it is only said. */
START_TEST(the_state_lock_is_seen)
{
    aflock *lock = soft_rw_open(_i);
    mark_without_token(STATE, 4711, ELSEWHERE);
    sight s = look(lock);
    ck_assert(s.holder.held && s.holder.blocked && !s.holder.pending && s.holder.count == 0);
    ck_assert_int_eq(s.holder.pid, 4711);
    ck_assert_str_eq(s.host, ELSEWHERE);
    ck_assert_str_eq(s.token, "");
    ck_assert(!s.holder.here && !s.holder.gone);
    write_writer(4712, ELSEWHERE);
    s = look(lock);
    ck_assert(s.holder.held && s.holder.blocked && s.holder.count == 1);
    ck_assert_int_eq(s.holder.pid, 4712);
    ck_assert_int_eq(unlink(STATE), 0);
    ck_assert(!look(lock).holder.blocked);
    ck_assert_int_eq(unlink(WRITER), 0);
    mark_without_token(STATE, dead_pid(), host_name());
    s = look(lock);
    ck_assert(s.holder.held && s.holder.blocked && s.holder.here && s.holder.gone);
    scene_write(STATE, "junk");
    s = look(lock);
    ck_assert(s.holder.held && s.holder.blocked && s.holder.pid == 0);
    ck_assert_int_eq(unlink(STATE), 0);
    ck_assert(!look(lock).holder.held);
}
END_TEST

/* What is no file is a lock of nobody, but in the way. */
START_TEST(what_is_no_file_holds_nothing)
{
    static const char *const PLACES[] = {WRITER, STATE};
    aflock *lock = soft_rw_open(_i);
    for (size_t i = 0; i < sizeof PLACES / sizeof PLACES[0]; i++) {
        ck_assert_int_eq(mkdir(PLACES[i], 0700), 0);
        sight s = look_in_vain(lock, AFLOCK_EISDIR);
        ck_assert(!s.holder.held && !s.holder.blocked);
        write_reader("f0.1", 4711, ELSEWHERE);
        s = look_in_vain(lock, AFLOCK_EISDIR);
        ck_assert(s.holder.held && !s.holder.blocked && !s.holder.pending && s.holder.pid == 4711);
        ck_assert_int_eq(unlink(READERS "/f0.1"), 0);
        ck_assert_int_eq(rmdir(PLACES[i]), 0);
        ck_assert_int_eq(symlink("nowhere", PLACES[i]), 0);
        look_in_vain(lock, AFLOCK_ELOOP);
        ck_assert_int_eq(unlink(PLACES[i]), 0);
        ck_assert_int_eq(mkfifo(PLACES[i], 0600), 0);
        look_in_vain(lock, AFLOCK_ENOTFILE);
        ck_assert_int_eq(unlink(PLACES[i]), 0);
    }
    ck_assert(!look(lock).holder.held);
}
END_TEST

static int verify(aflock *lock, aflock_req req)
{
    answer a = {0};
    ck_assert_int_eq(aflock_verify(lock, req, scene_answer, &a), 0);
    scene_expect(1);
    scene_run_until(&a.count, 1);
    return a.result.status;
}

START_TEST(it_is_verified)
{
    aflock *lock = soft_rw_open(_i);
    for (int mode = WRITE; mode <= READ; mode++) {
        char path[PATH_MAX];
        aflock_req req = soft_rw_hold(lock, (aflock_mode)mode);
        snprintf(path, sizeof path, "%s", mode == READ ? own_reader() : WRITER);
        ck_assert_int_eq(verify(lock, req), 0);
        ck_assert_int_eq(rename(path, "away"), 0);
        ck_assert_int_eq(verify(lock, req), AFLOCK_EREPLACED);
        write_marker(path, TOKEN, getpid(), host_name());
        ck_assert_int_eq(verify(lock, req), AFLOCK_EREPLACED);
        ck_assert_int_eq(rename("away", path), 0);
        ck_assert_int_eq(verify(lock, req), 0);
        must_release(lock, req);
    }
}
END_TEST

/* ------------------------------------------------------------------------------------------------------ what is asked
 */

/* But for the look at the path that cannot sleep. */
START_TEST(nothing_sleeps_on_the_loops_thread)
{
    answer a = {0};
    stop_clocks(AFLOCK_SECOND, 0);
    aflock_options o = soft_rw_options(_i);
    o.heartbeat = 10 * AFLOCK_MILLISECOND;
    o.stale_after = 90 * AFLOCK_SECOND;
    aflock *lock = open_with(&o);
    if (_i == AFLOCK_IO_INLINE)
        return;
    seam_forget();
    for (int mode = WRITE; mode <= READ; mode++) {
        aflock_req req = soft_rw_hold(lock, (aflock_mode)mode);
        await_beats(2);
        ck_assert_int_eq(verify(lock, req), 0);
        look(lock);
        must_release(lock, req);
    }
    write_reader("f0.1", getpid(), ELSEWHERE);
    aflock_req req = soft_rw_wait(lock, WRITE, &a);
    await_beats(2);
    ck_assert_int_eq(aflock_cancel(lock, req), 0);
    soft_rw_rest();
    scene_run_until(&a.count, 1);
    const int harmless = seam_on_loop(SEAM_OPEN_CACHED) + seam_on_loop(SEAM_IDENTIFY) + seam_on_loop(SEAM_CLOSE);
    ck_assert_int_eq(seam_total_on_loop(), harmless);
    ck_assert_int_eq(seam_on_loop(SEAM_PROBE) + seam_on_loop(SEAM_PIDFD) + seam_on_loop(SEAM_HOSTNAME), 0);
    ck_assert_int_gt(seam_total_elsewhere(), 0);
}
END_TEST

START_TEST(what_is_refused)
{
    aflock *lock;
    aflock_options o = soft_rw_options(AFLOCK_IO_INLINE);
    o.heartbeat = o.stale_after = AFLOCK_SECOND;
    ck_assert_int_eq(aflock_open(&lock, scene, "lock", &o), AFLOCK_EINVAL);
    o.heartbeat = AFLOCK_SECOND - 1;
    ck_assert_int_eq(aflock_open(&lock, scene, "x", &o), 0);
    o.heartbeat = 0;
    ck_assert_int_eq(aflock_open(&lock, scene, "x", &o), AFLOCK_EMISMATCH);
    o.stale_after = 10 * AFLOCK_MILLISECOND - 1;
    ck_assert_int_eq(aflock_open(&lock, scene, "lock", &o), AFLOCK_EINVAL);
    o = soft_rw_options(AFLOCK_IO_INLINE);
    o.lifetime = AFLOCK_SECOND;
    ck_assert_int_eq(aflock_open(&lock, scene, "lock", &o), AFLOCK_EINVAL);
    o.lifetime = 0;
    ck_assert_int_eq(aflock_open_fd(&lock, scene, 0, &o), AFLOCK_EINVAL);
    lock = soft_rw_open(AFLOCK_IO_INLINE);
    static const uint32_t flags[] = {AFLOCK_READ_ONLY, AFLOCK_FOLLOW, AFLOCK_DIRECTORY, AFLOCK_INHERIT,
                                     AFLOCK_TRUNCATE};
    for (size_t i = 0; i < sizeof flags / sizeof flags[0]; i++) {
        const aflock_acquire_options p = scene_options(flags[i], 0);
        ck_assert_int_eq(aflock_acquire(lock, &p, scene_answer, NULL, NULL), AFLOCK_EINVAL);
    }
    aflock_acquire_options p = scene_options(0, AFLOCK_CREATE);
    ck_assert_int_eq(aflock_acquire(lock, &p, scene_answer, NULL, NULL), AFLOCK_EINVAL);
    p = scene_options(0, 0);
    p.file_mode = 0644;
    ck_assert_int_eq(aflock_acquire(lock, &p, scene_answer, NULL, NULL), AFLOCK_EINVAL);
    aflock_req req = soft_rw_hold(lock, READ);
    ck_assert_int_eq(aflock_fd(lock, req), AFLOCK_ENOTSUP);
    must_release(lock, req);
}
END_TEST

int main(void)
{
    const TTest *const once[] = {what_is_refused, NULL};
    const TTest *const each[] = {it_is_inspected,
                                 who_waits_is_not_named_to_himself,
                                 what_is_no_file_holds_nothing,
                                 the_state_lock_is_seen,
                                 it_is_verified,
                                 nothing_sleeps_on_the_loops_thread,
                                 NULL};
    return scene_main("soft rw look", once, each);
}
