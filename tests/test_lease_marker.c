/* Leases on real files: what a marker says, who takes it and when, and what wakes those who wait. Others' markers are
 * written by hand. Where time matters the clock of files is the test's own. */
#include "locks/identity.h"
#include "support/lease_scene.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define NOW (UINT64_C(2000000000) * AFLOCK_SECOND)

/* ------------------------------------------------------------------------------------------------------- the marker */

START_TEST(what_is_written)
{
    static const struct {
        uint64_t duration;
        const char *text;
    } cases[] = {{30 * AFLOCK_SECOND, "30"},
                 {250 * AFLOCK_MILLISECOND, "0.25"},
                 {10 * AFLOCK_MILLISECOND, "0.01"},
                 {AFLOCK_SECOND + 1, "1.000000001"},
                 {86400 * AFLOCK_SECOND, "86400"}};
    aflock_options o = lease_options(_i);
    stop_clocks(AFLOCK_SECOND, 0); /* however slow it is */
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        o.duration = cases[i].duration;
        aflock *lock = open_with(&o);
        answer a = scene_acquire(lock, NULL);
        ck_assert_int_eq(a.result.status, 0);
        ck_assert_int_eq(a.result.fd, -1);
        ck_assert_int_eq(aflock_fd(lock, a.result.req), AFLOCK_ENOTSUP);
        must_be_ours("lock", a.token, cases[i].text);
        must_release(lock, a.result.req);
        ck_assert_int_eq(scene_entries("."), 0);
        ck_assert_int_eq(aflock_close(lock), 0);
    }
}
END_TEST

static void must_be_token(const char *token)
{
    ck_assert_uint_eq(strlen(token), 32);
    for (const char *c = token; *c; c++)
        ck_assert(isdigit((unsigned char)*c) || (*c >= 'a' && *c <= 'f'));
}

START_TEST(each_claim_has_a_token)
{
    char before[40] = "";
    aflock *lock = open_lease(_i);
    for (int i = 0; i < 4; i++) {
        answer a = scene_acquire(lock, NULL);
        must_be_token(a.token);
        ck_assert_str_ne(a.token, before);
        must_be_ours("lock", a.token, "30");
        sight s = look(lock);
        ck_assert_str_eq(s.token, a.token);
        snprintf(before, sizeof before, "%s", a.token);
        answer b = scene_release(lock, a.result.req);
        ck_assert_int_eq(b.result.status, 0);
        ck_assert_str_eq(b.token, "");
    }
    ck_assert_str_eq(look(lock).token, "");
}
END_TEST

START_TEST(no_token_no_claim)
{
    aflock *lock = open_lease(_i);
    seam_fail(SEAM_RANDOM, 0, 1, EIO);
    answer a = scene_acquire(lock, NULL);
    ck_assert_int_eq(a.result.status, AFLOCK_ESYS);
    ck_assert_int_eq(a.result.sys_errno, EIO);
    ck_assert_str_eq(a.step, "random");
    ck_assert_str_eq(a.token, "");
    ck_assert_int_eq(scene_entries("."), 0);
    must_get(lock);
}
END_TEST

/* The record names one hold: the next one makes a marker of its own. */
START_TEST(never_handed_on)
{
    answer a = {0}, b = {0};
    aflock *lock = open_lease(_i);
    ck_assert_int_eq(aflock_acquire(lock, NULL, scene_answer, &a, NULL), 0);
    ck_assert_int_eq(aflock_acquire(lock, NULL, scene_answer, &b, NULL), 0);
    scene_expect(2);
    scene_run_until(&a.count, 1);
    run_turns(2);
    ck_assert_int_eq(b.count, 0);
    ck_assert_int_eq(aflock_release(lock, a.result.req, NULL, NULL), 0);
    scene_run_until(&b.count, 1);
    ck_assert_int_eq(b.result.status, 0);
    ck_assert_int_eq(seam_count(SEAM_LINK), 2);
    ck_assert_str_ne(a.token, b.token);
    must_be_ours("lock", b.token, "30");
    must_release(lock, b.result.req);
    ck_assert_int_eq(scene_entries("."), 0);
}
END_TEST

START_TEST(two_contexts)
{
    aflock_ctx *ctx, *ours = scene;
    aflock *lock = open_lease(_i), *other;
    answer a = {0};
    aflock_options o = lease_options(_i);
    ck_assert_int_eq(aflock_epoll_new(&ctx, NULL), 0);
    ck_assert_int_eq(aflock_open(&other, ctx, "lock", &o), 0);
    aflock_req req = must_hold(lock);
    ck_assert_int_eq(aflock_acquire(other, NULL, scene_answer, &a, NULL), 0);
    scene_expect(1);
    for (int i = 0; i < 20; i++)
        ck_assert_int_eq(aflock_epoll_run_once(ctx, AFLOCK_MILLISECOND), 0);
    ck_assert_int_eq(a.count, 0);
    must_release(lock, req);
    scene = ctx;
    scene_run_until(&a.count, 1);
    ck_assert_int_eq(a.result.status, 0);
    must_be_ours("lock", a.token, "30");
    must_release(other, a.result.req);
    ck_assert_int_eq(aflock_ctx_free(ctx, 30 * AFLOCK_SECOND), 0);
    scene = ours;
}
END_TEST

START_TEST(who_holds_it)
{
    static const char *const LEASE =
        "filelock/2\npid=%d\nhost=elsewhere.example\nmode=%s\ntoken=any text\nduration=%s\n";
    char text[512];
    aflock *lock = open_lease(_i);
    ck_assert_int_eq(look(lock).holder.record, AFLOCK_RECORD_NONE);
    aflock_req req = must_hold(lock);
    sight s = look(lock);
    ck_assert(s.holder.held == 1 && s.holder.pid == getpid() && s.holder.here == 1 && s.holder.gone == 0);
    ck_assert(s.holder.record == AFLOCK_RECORD_LEASE && s.holder.duration == 30 * AFLOCK_SECOND);
    must_release(lock, req);
    snprintf(text, sizeof text, LEASE, 17, "lease", "2.5e2");
    scene_write("lock", text);
    make_older("lock", 100);
    s = look(lock);
    ck_assert(s.holder.pid == 17 && s.holder.here == 0 && s.holder.gone == 0);
    ck_assert(s.holder.record == AFLOCK_RECORD_LEASE && s.holder.duration == 250 * AFLOCK_SECOND);
    ck_assert_str_eq(s.token, "any text");
    ck_assert_uint_ge(s.holder.age, 100 * AFLOCK_SECOND);
    snprintf(text, sizeof text, LEASE, 17, "lease", "1e300");
    scene_write("lock", text);
    ck_assert_uint_eq(look(lock).holder.duration, AFLOCK_FOREVER);
    snprintf(text, sizeof text, LEASE, 17, "unheard-of", "1");
    scene_write("lock", text);
    s = look(lock);
    ck_assert(s.holder.record == AFLOCK_RECORD_OTHER && s.holder.pid == 17 && s.holder.duration == 0);
    ck_assert_str_eq(s.token, "");
    mark("lock", getpid());
    s = look(lock);
    ck_assert(s.holder.record == AFLOCK_RECORD_SOFT && s.holder.duration == 0 && s.token[0] == '\0');
    scene_write("lock", "");
    ck_assert_int_eq(look(lock).holder.record, AFLOCK_RECORD_EMPTY);
    scene_write("lock", "no record");
    ck_assert_int_eq(look(lock).holder.record, AFLOCK_RECORD_MALFORMED);
}
END_TEST

/* ---------------------------------------------------------------------------------------------- who is broken, and
 * when */

START_TEST(the_dead)
{
    char text[1024];
    snprintf(text, sizeof text, "filelock/2\npid=%d\nhost=%s\nmode=lease\ntoken=x\nduration=30\n", (int)dead_pid(),
             host_name());
    scene_write("lock", text);
    must_get(open_lease(_i));
}
END_TEST

/* To the nanosecond, whoever lives. */
START_TEST(when_it_is_as_old_as_agreed)
{
    static const char *const spellings[] = {"30", "30.0", "3e1", "0030", "3_0", " 30 "};
    stop_clocks(AFLOCK_SECOND, NOW);
    aflock *lock = open_lease(_i);
    pid_t other = sleeper();
    for (size_t i = 0; i < sizeof spellings / sizeof spellings[0]; i++) {
        struct stat before, after;
        mark_lease("lock", other, spellings[i]);
        set_time("lock", NOW - 30 * AFLOCK_SECOND + 1);
        ck_assert_int_eq(lstat("lock", &before), 0);
        for (int k = 0; k < 3; k++)
            ck_assert_int_eq(try_for(lock, 0).result.status, AFLOCK_EWOULDBLOCK);
        ck_assert_int_eq(lstat("lock", &after), 0);
        ck_assert(before.st_ino == after.st_ino && before.st_mtim.tv_nsec == after.st_mtim.tv_nsec);
        set_time("lock", NOW - 30 * AFLOCK_SECOND);
        ck_assert_int_eq(try_for(lock, 0).result.status, AFLOCK_EWOULDBLOCK); /* it breaks the marker, and no more */
        ck_assert_int_eq(scene_entries("."), 0);
        must_get(lock);
    }
    scene_holder_end(other);
}
END_TEST

START_TEST(of_another_host_too)
{
    stop_clocks(AFLOCK_SECOND, NOW);
    aflock *lock = open_lease(_i);
    scene_write("lock", "filelock/2\npid=1\nhost=elsewhere.example\nmode=lease\ntoken=x\nduration=30\n");
    set_time("lock", NOW - 29 * AFLOCK_SECOND);
    must_respect(lock);
    set_time("lock", NOW - 30 * AFLOCK_SECOND);
    must_get(lock);
}
END_TEST

START_TEST(what_is_of_the_future_is_fresh)
{
    aflock *lock = open_lease(_i);
    pid_t other = sleeper();
    mark_lease("lock", other, "30");
    make_older("lock", -1000000);
    must_respect(lock);
    scene_holder_end(other);
    must_get(lock);
}
END_TEST

/* Whoever made it counts on another duration, and is told of nothing: not even the dead are broken. */
START_TEST(another_duration)
{
    static const char *const others[] = {"29.999999999", "30.000000001", "31", "0.3", "1e300"};
    aflock *lock = open_lease(_i);
    pid_t living = sleeper();
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        struct stat before, after;
        mark_lease("lock", living, others[i]);
        make_older("lock", 1000000);
        ck_assert_int_eq(lstat("lock", &before), 0);
        answer a = scene_acquire(lock, NULL);
        ck_assert_int_eq(a.result.status, AFLOCK_EMISMATCH);
        ck_assert_str_eq(a.step, "duration");
        ck_assert_int_eq(a.result.cleanup_errno, 0);
        ck_assert_int_eq(try_for(lock, 0).result.status, AFLOCK_EMISMATCH);
        ck_assert_int_eq(lstat("lock", &after), 0);
        ck_assert(before.st_ino == after.st_ino && before.st_mtim.tv_sec == after.st_mtim.tv_sec);
    }
    scene_holder_end(living);
    ck_assert_int_eq(scene_acquire(lock, NULL).result.status, AFLOCK_EMISMATCH);
    ck_assert_int_eq(scene_entries("."), 1);
    ck_assert_int_eq(unlink("lock"), 0);
    must_get(lock);
}
END_TEST

/* What comes in the place of what is waited for. */
START_TEST(another_duration_meanwhile)
{
    answer a = {0};
    aflock *lock = open_lease(_i);
    pid_t other = sleeper();
    mark_lease("lock", other, "30");
    wait_for(lock, &a);
    const int open = scene_descriptors();
    mark_lease("new", other, "60");
    ck_assert_int_eq(rename("new", "lock"), 0);
    scene_run_until(&a.count, 1);
    ck_assert_int_eq(a.result.status, AFLOCK_EMISMATCH);
    ck_assert_int_le(scene_descriptors(), open);
    scene_holder_end(other);
}
END_TEST

/* A look that fails says nothing about what is agreed: the next one does. */
START_TEST(another_duration_that_cannot_be_read_at_first)
{
    aflock *lock = open_lease(_i);
    pid_t other = sleeper();
    mark_lease("lock", other, "60");
    scene_holder_end(other);
    make_fail_once(SEAM_READ, EIO);
    answer a = scene_acquire(lock, NULL);
    make_fail(SEAM_CALLS, 0);
    ck_assert_int_eq(a.result.status, AFLOCK_EMISMATCH);
    ck_assert_int_eq(scene_entries("."), 1);
}
END_TEST

/* What is no lease is judged as soft locks do. */
START_TEST(what_is_no_lease)
{
    char text[1024];
    aflock_options o = lease_options(_i);
    aflock *lock = open_with(&o);
    pid_t other = sleeper();
    mark("lock", other);
    make_older("lock", 1000000);
    must_respect(lock);
    snprintf(text, sizeof text, "filelock/2\npid=%d\nhost=%s\nmode=unheard-of\ntoken=x\nduration=1\n", (int)other,
             host_name());
    scene_write("lock", text);
    make_older("lock", 1000000);
    must_respect(lock);
    mark("lock", other);
    scene_holder_end(other);
    must_get(lock);
    scene_write("lock", text); /* whoever he is, we do not know what he holds */
    make_older("lock", 1000000);
    must_respect(lock);
    scene_write("lock", "");
    make_older("lock", 1000000);
    must_respect(lock);
    o.break_empty = 1;
    lock = open_with(&o);
    must_get(lock);
    int fd = open("lock", O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
    ck_assert_int_eq(write(fd, "1\nfilelock-strict-v1\0\n0\n", 24), 24);
    close(fd);
    make_older("lock", 1000000);
    must_respect(lock);
}
END_TEST

START_TEST(what_is_malformed)
{
    static const char *const lines[] = {"mode=lease\nduration=30\n",          "mode=lease\ntoken=x\nduration=inf\n",
                                        "mode=lease\ntoken=x\nduration=0\n",  "mode=lease\ntoken=x\n",
                                        "mode=lease\ntoken=x\nduration=x\n",  "token=x\nduration=30\n",
                                        "mode=lease\ntoken=x\nduration=-3\n", "nonsense\n"};
    aflock *lock = open_lease(_i);
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
        char text[512];
        snprintf(text, sizeof text, "filelock/2\npid=%d\nhost=%s\n%s", (int)getpid(), host_name(), lines[i]);
        scene_write("lock", text);
        must_respect(lock);
        make_older("lock", 2);
        must_get(lock);
    }
}
END_TEST

/* ------------------------------------------------------------------------------------------------------ who is woken
 */

static void must_be_woken(aflock *lock, const answer *a)
{
    scene_run_until(&a->count, 1);
    ck_assert_int_eq(a->result.status, 0);
    must_be_ours("lock", a->token, "30");
    must_release(lock, a->result.req);
}

START_TEST(by_the_unlink)
{
    answer a = {0};
    aflock *lock = open_lease(_i);
    pid_t other = sleeper();
    mark_lease("lock", other, "30");
    wait_for(lock, &a);
    ck_assert_int_eq(unlink("lock"), 0);
    must_be_woken(lock, &a);
    scene_holder_end(other);
}
END_TEST

START_TEST(by_death)
{
    answer a = {0};
    aflock *lock = open_lease(_i);
    pid_t other = sleeper();
    mark_lease("lock", other, "30");
    wait_for(lock, &a);
    scene_holder_end(other);
    must_be_woken(lock, &a);
}
END_TEST

/* His heartbeats are heard, and do not keep us from hearing of his end. */
START_TEST(by_death_after_heartbeats)
{
    answer a = {0};
    aflock *lock = open_lease(_i);
    pid_t other = sleeper();
    mark_lease("lock", other, "30");
    wait_for(lock, &a);
    for (int i = 0; i < 3; i++) {
        const int before = scene_contended;
        ck_assert_int_eq(utimensat(AT_FDCWD, "lock", NULL, 0), 0);
        scene_run_until(&scene_contended, before + 1);
    }
    ck_assert_int_eq(a.count, 0);
    scene_holder_end(other);
    must_be_woken(lock, &a);
}
END_TEST

static uint64_t since(const struct timespec *then)
{
    struct timespec now;
    ck_assert_int_eq(clock_gettime(CLOCK_REALTIME, &now), 0);
    return (uint64_t)((now.tv_sec - then->tv_sec) * 1000000000LL + now.tv_nsec - then->tv_nsec);
}

/* Nobody tells, and nothing is polled: it is looked at when the lease is over, which each heartbeat puts off. */
START_TEST(by_its_end)
{
    answer a = {0};
    struct stat st;
    aflock_options o = lease_options(_i);
    stop_clocks(AFLOCK_SECOND, 0); /* however slow it is */
    o.duration = 300 * AFLOCK_MILLISECOND;
    aflock *lock = open_with(&o);
    pid_t other = sleeper();
    mark_lease("lock", other, "0.3");
    ck_assert_int_eq(aflock_acquire(lock, NULL, scene_answer, &a, NULL), 0);
    scene_expect(1);
    run_turns(10);
    if (utimensat(AT_FDCWD, "lock", NULL, 0) == 0 && lstat("lock", &st) == 0 && a.count == 0) {
        scene_run_until(&a.count, 1);
        ck_assert_uint_ge(since(&st.st_mtim), 300 * AFLOCK_MILLISECOND);
    } /* else we were too slow to refresh it */
    scene_run_until(&a.count, 1);
    ck_assert_int_eq(a.result.status, 0);
    must_be_ours("lock", a.token, "0.3");
    ck_assert_int_eq(scene_release(lock, a.result.req).result.status, 0);
    scene_holder_end(other);
}
END_TEST

/* --------------------------------------------------------------------------------------------------------- arguments
 */

static int opens(const aflock_options *o)
{
    aflock *lock;
    int status = aflock_open(&lock, scene, "lock", o);
    if (status == 0)
        ck_assert_int_eq(aflock_close(lock), 0);
    return status;
}

START_TEST(options)
{
    aflock *lock;
    aflock_options o = lease_options(_i);
    ck_assert_uint_eq(o.duration, 30 * AFLOCK_SECOND);
    ck_assert_uint_eq(o.heartbeat, 0);
    ck_assert_int_eq(opens(&o), 0);
    o.heartbeat = 10 * AFLOCK_SECOND;
    ck_assert_int_eq(opens(&o), 0);
    o.heartbeat++;
    ck_assert_int_eq(opens(&o), AFLOCK_EINVAL);
    o.heartbeat = 1;
    ck_assert_int_eq(opens(&o), AFLOCK_EINVAL);
    o.heartbeat = 0;
    o.duration = 10 * AFLOCK_MILLISECOND;
    ck_assert_int_eq(opens(&o), 0);
    o.duration--;
    ck_assert_int_eq(opens(&o), AFLOCK_EINVAL);
    o.duration = 0;
    ck_assert_int_eq(opens(&o), AFLOCK_EINVAL);
    o.duration = AFLOCK_FOREVER;
    ck_assert_int_eq(opens(&o), AFLOCK_EINVAL);
    o = lease_options(_i), o.lifetime = 60 * AFLOCK_SECOND;
    ck_assert_int_eq(opens(&o), AFLOCK_EINVAL);
    o = lease_options(_i);
    ck_assert_int_eq(aflock_open_fd(&lock, scene, 0, &o), AFLOCK_EINVAL);
    o = lease_options(_i);
    o.size = offsetof(aflock_options, duration); /* a program that was built before */
    o.duration = 1;
    ck_assert_int_eq(opens(&o), 0);
}
END_TEST

/* What all locks of a context on a path agree on; the spelling does not matter. */
START_TEST(one_path_one_lease)
{
    aflock *lock = open_lease(_i), *other;
    aflock_options o = lease_options(_i);
    o.heartbeat = 10 * AFLOCK_SECOND; /* what is the default */
    ck_assert_int_eq(opens(&o), 0);
    o.heartbeat = AFLOCK_SECOND;
    ck_assert_int_eq(opens(&o), AFLOCK_EMISMATCH);
    o = lease_options(_i), o.duration = 31 * AFLOCK_SECOND;
    ck_assert_int_eq(opens(&o), AFLOCK_EMISMATCH);
    o = lease_options(_i), o.protocol = AFLOCK_SOFT;
    ck_assert_int_eq(opens(&o), AFLOCK_EMISMATCH);
    o.protocol = AFLOCK_NATIVE;
    ck_assert_int_eq(opens(&o), AFLOCK_EMISMATCH);
    must_get(lock);
    ck_assert_int_eq(symlink(".", "here"), 0);
    o = lease_options(_i), o.duration = 31 * AFLOCK_SECOND;
    ck_assert_int_eq(aflock_open(&other, scene, "here/lock", &o), 0);
    ck_assert_int_eq(scene_acquire(other, NULL).result.status, AFLOCK_EMISMATCH);
    ck_assert_int_eq(aflock_close(other), 0);
    o = lease_options(_i);
    ck_assert_int_eq(aflock_open(&other, scene, "here/lock", &o), 0);
    answer a = scene_acquire(other, NULL);
    ck_assert_int_eq(a.result.status, 0);
    ck_assert_int_eq(try_for(lock, AFLOCK_MILLISECOND).result.status, AFLOCK_ETIMEDOUT);
    must_release(other, a.result.req);
    ck_assert_int_eq(unlink("here"), 0);
    must_get(lock);
}
END_TEST

static int accept_all(int fd, void *user)
{
    (void)fd, (void)user;
    return 0;
}

START_TEST(requests)
{
    told t = {0};
    aflock *lock = open_lease(_i), *soft, *native;
    aflock_options p = lease_options(_i);
    aflock_acquire_options o = scene_options(0, 0);
    o.mode = AFLOCK_SHARED;
    ck_assert_int_eq(aflock_acquire(lock, &o, scene_answer, NULL, NULL), AFLOCK_ENOTSUP);
    o = scene_options(0, 0), o.on_acquired = accept_all;
    ck_assert_int_eq(aflock_acquire(lock, &o, scene_answer, NULL, NULL), AFLOCK_ENOTSUP);
    o = scene_options(AFLOCK_INHERIT, 0);
    ck_assert_int_eq(aflock_acquire(lock, &o, scene_answer, NULL, NULL), AFLOCK_EINVAL);
    o = scene_options(0, 0), o.on_compromise = lease_told, o.on_compromise_user = &t;
    p.protocol = AFLOCK_SOFT;
    ck_assert_int_eq(aflock_open(&soft, scene, "soft", &p), 0);
    ck_assert_int_eq(aflock_acquire(soft, &o, scene_answer, NULL, NULL), AFLOCK_EINVAL);
    p.protocol = AFLOCK_NATIVE;
    ck_assert_int_eq(aflock_open(&native, scene, "native", &p), 0);
    ck_assert_int_eq(aflock_acquire(native, &o, scene_answer, NULL, NULL), AFLOCK_EINVAL);
    ck_assert_int_eq(scene_entries("."), 0);
    must_get(lock);
}
END_TEST

START_TEST(names)
{
    (void)_i;
    ck_assert_str_eq(aflock_compromise_name(AFLOCK_MARKER_MISSING), "marker-missing");
    ck_assert_str_eq(aflock_compromise_name(AFLOCK_OWNER_CHANGED), "owner-changed");
    ck_assert_str_eq(aflock_compromise_name(AFLOCK_REFRESH_FAILED), "refresh-failed");
    ck_assert_str_eq(aflock_compromise_name(AFLOCK_LEASE_EXPIRED), "expired");
    ck_assert_str_eq(aflock_compromise_name((aflock_compromise_reason)0), "unknown");
    ck_assert_str_eq(aflock_error_name(AFLOCK_ECOMPROMISED), "AFLOCK_ECOMPROMISED");
}
END_TEST

int main(void)
{
    const TTest *const once[] = {names, NULL};
    const TTest *const each[] = {what_is_written,
                                 each_claim_has_a_token,
                                 no_token_no_claim,
                                 never_handed_on,
                                 two_contexts,
                                 who_holds_it,
                                 the_dead,
                                 when_it_is_as_old_as_agreed,
                                 of_another_host_too,
                                 what_is_of_the_future_is_fresh,
                                 another_duration,
                                 another_duration_meanwhile,
                                 another_duration_that_cannot_be_read_at_first,
                                 what_is_no_lease,
                                 what_is_malformed,
                                 by_the_unlink,
                                 by_death,
                                 by_death_after_heartbeats,
                                 by_its_end,
                                 options,
                                 one_path_one_lease,
                                 requests,
                                 NULL};
    return scene_main("lease-marker", once, each);
}
