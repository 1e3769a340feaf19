/* Strict locks on real files: the order in which the doorway is passed, who is let in and who is not, what wakes a
 * waiter, the questions and the breaking of claims, contexts and children. What is wrong on disk: test_strict_disk.c;
 * calls that fail: test_strict_faults.c; many processes: test_strict_storm.c. Nothing is polled unless a test says so.
 */
#include "locks/identity.h"
#include "runtime/runtime.h"
#include "support/strict_scene.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *host_name(void)
{
    static char name[AFL_HOST_NAME];
    ck_assert(afl_host_name(&afl_sys_linux, name));
    return name;
}

/* ------------------------------------------------------------------------------------------------------ the doorway */

static char steps[4096];

/* What is done to names, with "T" for tokens and "R" for other random digits; a repetition counts once. */
static int write_down(seam_call call, int fd, const char *path)
{
    char line[512];
    size_t used = 0;
    (void)fd;
    if (call != SEAM_CREATE && call != SEAM_MKDIR && call != SEAM_LINK && call != SEAM_UNLINK && call != SEAM_LIST &&
        call != SEAM_RENAME)
        return 0;
    used += (size_t)snprintf(line, sizeof line, "%s", seam_name(call));
    if (path)
        used += (size_t)snprintf(line + used, sizeof line - used, " ");
    while (path && *path) {
        const size_t digits = strspn(path, "0123456789abcdef");
        const size_t step = digits == 32 ? 32 : digits > 0 ? digits : 1;
        if (digits == 32)
            line[used++] = path[32] == '.' && path[33] == 't' ? 'R' : 'T';
        else
            memcpy(line + used, path, step), used += step;
        path += step;
    }
    line[used++] = '\n';
    line[used] = '\0';
    const size_t length = strlen(steps);
    if (length < used || strcmp(steps + length - used, line) != 0)
        snprintf(steps + length, sizeof steps - length, "%s", line);
    return 0;
}

#define PUBLISH(name) "create ." name ".private-v1-R.tmp\nlink " name "\nunlink ." name ".private-v1-R.tmp\n"

START_TEST(the_order)
{
    static const char *const first = "mkdir lock.filelock\nmkdir claims\nlist\n" PUBLISH("lock") "list\n" PUBLISH(
        "intent-v1-T.claim") "list\nlink held-v1-T.claim\nlist\n";
    static const char *const later = "list\n" PUBLISH("intent-v1-T.claim") "list\nlink held-v1-T.claim\nlist\n";
    aflock *lock = strict_open(_i);
    seam_judge_by(write_down, NULL);
    aflock_req req = strict_hold(lock);
    ck_assert_str_eq(steps, first);
    steps[0] = '\0';
    strict_release(lock, req);
    ck_assert_str_eq(steps, "unlink held-v1-T.claim\nunlink intent-v1-T.claim\n");
    steps[0] = '\0';
    req = strict_hold(lock);
    ck_assert_str_eq(steps, later);
    seam_judge_by(NULL, NULL);
    strict_release(lock, req);
    strict_must_get(lock);
}
END_TEST

static void must_read(const char *path, const char *expected, size_t size)
{
    char text[2048];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(read(fd, text, sizeof text), (ssize_t)size);
    ck_assert_int_eq(memcmp(text, expected, size), 0);
    close(fd);
}

START_TEST(what_is_written)
{
    char path[PATH_MAX], text[2048], token[AFL_START_TEXT];
    struct stat held, intent;
    afl_start start;
    umask(027);
    aflock *lock = strict_open(_i);
    aflock_req req = strict_hold(lock);
    must_read("lock", SENTINEL, SENTINEL_SIZE);
    ck_assert_uint_eq(scene_mode("lock"), 0640);
    ck_assert_uint_eq(scene_mode("lock.filelock"), 0750);
    ck_assert_uint_eq(scene_mode(FOLDER), 0750);
    strict_sight s = strict_look(lock);
    ck_assert_uint_eq(s.holder.claim_count, 2);
    ck_assert(s.claims[0].held && !s.claims[1].held);
    ck_assert(afl_process_start(&afl_sys_linux, getpid(), &start));
    afl_start_print(&start, token);
    const size_t size = strict_record(text, sizeof text, s.claims[0].token, getpid(), host_name(), token);
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof path, FOLDER "/%s", strict_claim_name(i ? "intent" : "held", s.claims[0].token));
        must_read(path, text, size);
        ck_assert_uint_eq(scene_mode(path), 0640);
        ck_assert_int_eq(lstat(path, i ? &intent : &held), 0);
    }
    ck_assert(held.st_ino == intent.st_ino && held.st_nlink == 2);
    strict_release(lock, req);
    aflock_acquire_options o = scene_options(0, 0);
    o.file_mode = 0600;
    answer a = scene_acquire(lock, &o);
    s = strict_look(lock);
    snprintf(path, sizeof path, FOLDER "/%s", s.claims[0].name);
    ck_assert_uint_eq(scene_mode(path), 0600);
    ck_assert_uint_eq(scene_mode("lock"), 0640);
    strict_release(lock, a.result.req);
    ck_assert_int_eq(seam_count(SEAM_FCHMOD), 0);
}
END_TEST

START_TEST(a_token_for_each_attempt)
{
    aflock *lock = strict_open(_i);
    char before[64] = "";
    for (int i = 0; i < 5; i++) {
        aflock_req req = strict_hold(lock);
        strict_sight s = strict_look(lock);
        ck_assert_str_ne(s.claims[0].token, before);
        ck_assert_str_eq(s.claims[0].token, s.claims[1].token);
        snprintf(before, sizeof before, "%s", s.claims[0].token);
        strict_release(lock, req);
    }
}
END_TEST

static void must_exist(const char *path, bool exists)
{
    ck_assert_int_eq(access(path, F_OK) == 0, exists);
}

START_TEST(parents_are_made_if_asked)
{
    aflock_options o = strict_options(_i);
    aflock *lock;
    ck_assert_int_eq(aflock_open(&lock, scene, "a/b/lock", &o), 0);
    aflock_acquire_options without = scene_options(0, AFLOCK_MAKE_PARENTS);
    answer a = scene_acquire(lock, &without);
    ck_assert_int_eq(a.result.status, AFLOCK_ENOENT);
    must_exist("a", false);
    a = scene_acquire(lock, NULL);
    ck_assert_int_eq(a.result.status, 0);
    ck_assert_int_eq(scene_entries("a/b/lock.filelock/claims"), 2);
    strict_release(lock, a.result.req);
    ck_assert_int_eq(rename("a", "aside"), 0); /* the library has been there */
    a = scene_acquire(lock, &without);
    ck_assert_int_eq(a.result.status, AFLOCK_ENOENT);
    must_exist("a", false);
    a = scene_acquire(lock, NULL);
    ck_assert_int_eq(a.result.status, 0);
    ck_assert_int_eq(scene_entries("a/b/lock.filelock/claims"), 2);
    strict_release(lock, a.result.req);
}
END_TEST

/* The directory may be reached through links, the last component is what it is. */
START_TEST(links_on_the_way)
{
    aflock_options o = strict_options(_i);
    aflock *direct = strict_open(_i), *around;
    ck_assert_int_eq(symlink(".", "link"), 0);
    ck_assert_int_eq(aflock_open(&around, scene, "link/lock", &o), 0);
    aflock_req req = strict_hold(direct);
    ck_assert_int_eq(strict_try(around, A_MOMENT).result.status, AFLOCK_ETIMEDOUT);
    strict_release(direct, req);
    answer a = strict_try(around, 30 * AFLOCK_SECOND);
    ck_assert_int_eq(a.result.status, 0);
    strict_must_have(2);
    strict_release(around, a.result.req);
    must_exist("lock", true);
}
END_TEST

/* ------------------------------------------------------------------------------------------------- who is let in */

START_TEST(never_broken)
{
    static const char *const states[] = {"held", "intent"};
    struct timespec long_ago[2] = {{.tv_sec = 1000000}, {.tv_sec = 1000000}};
    aflock *lock = strict_open(_i);
    for (int i = 0; i < 2; i++) {
        strict_claim(states[i], HIGH, strict_dead_pid(), host_name());
        char path[PATH_MAX];
        snprintf(path, sizeof path, FOLDER "/%s", strict_claim_name(states[i], HIGH));
        ck_assert_int_eq(utimensat(AT_FDCWD, path, long_ago, 0), 0);
        ck_assert_int_eq(strict_try(lock, 0).result.status, AFLOCK_EWOULDBLOCK);
        ck_assert_int_eq(strict_try(lock, A_MOMENT).result.status, AFLOCK_ETIMEDOUT);
        strict_must_have(1);
        strict_unclaim(states[i], HIGH);
        strict_must_get(lock);
    }
}
END_TEST

static const char *late_state, *late_token;
static int lists_before;

/* Somebody comes between two looks into the folder. */
static void come_late(void)
{
    if (lists_before-- == 0)
        strict_claim(late_state, late_token, getppid(), "elsewhere");
}

/* The look-ups of an attempt list the folder twice each (the second time there is nothing left). `before`: so many are
 * over when he comes. He goes before the waiter tries again. */
static void somebody_comes(aflock *lock, const char *state, const char *token, int before)
{
    late_state = state;
    late_token = token;
    lists_before = before;
    const int links = seam_count(SEAM_LINK);
    seam_before(SEAM_LIST, come_late);
    answer a = strict_try(lock, 0);
    seam_before(SEAM_LIST, NULL);
    ck_assert_int_eq(lists_before < 0, 1);
    ck_assert_int_eq(seam_count(SEAM_LINK) - links, before / 2); /* no claim before he was looked for */
    ck_assert_int_eq(a.result.status, AFLOCK_EWOULDBLOCK);
    strict_must_have(1);
    strict_unclaim(state, token);
    strict_must_get(lock);
}

START_TEST(who_comes_between)
{
    aflock *lock = strict_open(_i);
    strict_must_get(lock);
    somebody_comes(lock, "intent", HIGH, 0); /* before the first look */
    somebody_comes(lock, "intent", LOW, 2);  /* after the intent */
    somebody_comes(lock, "held", HIGH, 2);
    somebody_comes(lock, "intent", LOW, 4); /* after the claim */
    somebody_comes(lock, "held", LOW, 4);
}
END_TEST

/* Whoever has a higher token makes way: he has to see ours. */
START_TEST(who_comes_with_a_higher_token)
{
    aflock *lock = strict_open(_i);
    strict_must_get(lock);
    for (int before = 2; before <= 4; before += 2) {
        late_state = "intent";
        late_token = HIGH;
        lists_before = before;
        seam_before(SEAM_LIST, come_late);
        answer a = strict_try(lock, 0);
        seam_before(SEAM_LIST, NULL);
        ck_assert_int_eq(a.result.status, 0);
        strict_must_have(3);
        strict_unclaim("intent", HIGH);
        strict_release(lock, a.result.req);
        strict_must_have(0);
    }
}
END_TEST

static int break_at;
static const char *break_state;

static void break_ours(void)
{
    if (break_at-- != 0)
        return;
    DIR *d = opendir(FOLDER);
    ck_assert_ptr_nonnull(d);
    for (const struct dirent *e; (e = readdir(d)) != NULL;)
        if (strncmp(e->d_name, break_state, strlen(break_state)) == 0)
            ck_assert_int_eq(unlinkat(dirfd(d), e->d_name, 0), 0);
    closedir(d);
}

/* Somebody has broken a claim while it was being made: it was not enough, and is made again. */
START_TEST(broken_on_the_way)
{
    static const struct {
        const char *state;
        seam_call call;
        int at;
    } cases[] = {{"intent", SEAM_LIST, 2}, {"intent", SEAM_LINK, 1}, {"intent", SEAM_LIST, 4}, {"held", SEAM_LIST, 4}};
    aflock *lock = strict_open(_i);
    strict_must_get(lock);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        break_state = cases[i].state;
        break_at = cases[i].at;
        const int links = seam_count(SEAM_LINK);
        seam_before(cases[i].call, break_ours);
        aflock_req req = strict_hold(lock);
        seam_before(cases[i].call, NULL);
        ck_assert_int_ge(seam_count(SEAM_LINK) - links, 3);
        strict_release(lock, req);
        strict_must_have(0);
    }
}
END_TEST

START_TEST(one_after_the_other)
{
    answer a = {0}, b = {0};
    aflock *lock = strict_open(_i);
    ck_assert_int_eq(aflock_acquire(lock, NULL, scene_answer, &a, NULL), 0);
    ck_assert_int_eq(aflock_acquire(lock, NULL, scene_answer, &b, NULL), 0);
    scene_expect(2);
    scene_run_until(&a.count, 1);
    ck_assert_int_eq(b.count, 0);
    ck_assert_int_eq(aflock_release(lock, a.result.req, NULL, NULL), 0);
    scene_run_until(&b.count, 1);
    ck_assert_int_eq(b.result.status, 0);
    ck_assert_uint_ge(b.result.attempts, 1); /* not handed on: a claim names one hold */
    ck_assert_int_ge(seam_count(SEAM_UNLINK), 2);
    strict_release(lock, b.result.req);
    strict_must_have(0);
}
END_TEST

START_TEST(tried_on_the_spot)
{
    aflock_req req;
    aflock_result r;
    aflock *lock = strict_open(_i);
    const int status = aflock_try(lock, NULL, &req, &r);
    if (scene_io(_i) != AFLOCK_IO_INLINE) {
        ck_assert_int_eq(status, AFLOCK_ENOTINLINE);
        return;
    }
    ck_assert_int_eq(status, 0);
    ck_assert_int_eq(r.fd, -1);
    ck_assert_ptr_eq(r.detail, NULL);
    strict_must_have(2);
    strict_release(lock, req);
    strict_claim("held", LOW, 1, "elsewhere");
    ck_assert_int_eq(aflock_try(lock, NULL, &req, &r), AFLOCK_EWOULDBLOCK);
    strict_unclaim("held", LOW);
    strict_write("what", "", 0);
    ck_assert_int_eq(aflock_try(lock, NULL, &req, &r), AFLOCK_EPROTO);
    ck_assert_ptr_ne(strstr(r.detail, FOLDER "/what: "), NULL);
    ck_assert_int_eq(unlink(FOLDER "/what"), 0);
}
END_TEST

/* Everything may sleep, so the loop does none of it. */
START_TEST(nothing_on_the_loop)
{
    static const seam_call calls[] = {SEAM_OPEN, SEAM_CREATE, SEAM_FSTAT,  SEAM_STAT, SEAM_WRITE, SEAM_UNLINK,
                                      SEAM_LINK, SEAM_LIST,   SEAM_RANDOM, SEAM_READ, SEAM_MKDIR};
    answer a = {0};
    aflock *lock = strict_open(_i);
    aflock_req req = strict_hold(lock);
    ck_assert_int_eq(aflock_verify(lock, req, scene_answer, &a), 0);
    scene_expect(1);
    scene_run_until(&a.count, 1);
    strict_look(lock);
    strict_release(lock, req);
    strict_claim("held", HIGH, 7, "elsewhere");
    ck_assert_int_eq(strict_try(lock, A_MOMENT).result.status, AFLOCK_ETIMEDOUT);
    ck_assert_int_eq(strict_break(lock, strict_claim_name("held", HIGH)).result.status, 0);
    for (size_t i = 0; i < sizeof calls / sizeof calls[0]; i++) {
        ck_assert_int_gt(seam_count(calls[i]), 0);
        ck_assert_int_eq(seam_on_loop(calls[i]) == 0, scene_io(_i) != AFLOCK_IO_INLINE);
    }
    if (scene_io(_i) == AFLOCK_IO_POOL)
        ck_assert_int_eq(seam_total_on_loop(), 0);
}
END_TEST

/* ---------------------------------------------------------------------------------------------------- who is woken */

START_TEST(by_the_claim_that_goes)
{
    answer a = {0};
    aflock *lock = strict_open(_i);
    strict_claim("intent", HIGH, getppid(), "elsewhere");
    strict_claim("held", HIGH, getppid(), "elsewhere");
    strict_wait_for(lock, &a);
    ck_assert_int_eq(a.count, 0);
    strict_unclaim("held", HIGH);
    strict_unclaim("intent", HIGH);
    strict_must_be_woken(lock, &a);
    ck_assert_int_eq(scene_logged, 0);
}
END_TEST

/* What others do beside that is no news. */
START_TEST(by_nothing_else)
{
    answer a = {0};
    aflock *lock = strict_open(_i);
    strict_claim("held", HIGH, getppid(), "elsewhere");
    strict_wait_for(lock, &a);
    for (int i = 0; i < 20; i++) /* what is under way comes to its end */
        ck_assert_int_eq(aflock_epoll_run_once(scene, AFLOCK_MILLISECOND), 0);
    const int contended = scene_contended;
    for (int i = 0; i < 20; i++) {
        strict_claim("intent", LOW, getppid(), "elsewhere");
        strict_unclaim("intent", LOW);
        ck_assert_int_eq(aflock_epoll_run_once(scene, AFLOCK_MILLISECOND), 0);
    }
    ck_assert_int_eq(scene_contended, contended);
    strict_unclaim("held", HIGH);
    strict_must_be_woken(lock, &a);
}
END_TEST

/* An intent may go at any time, and nobody is told. */
START_TEST(by_an_intent_that_goes)
{
    answer a = {0};
    aflock *lock = strict_open(_i);
    strict_claim("intent", HIGH, getppid(), "elsewhere");
    strict_wait_for(lock, &a);
    scene_run_until(&scene_contended, 8);
    ck_assert_int_eq(a.count, 0);
    strict_unclaim("intent", HIGH);
    strict_must_be_woken(lock, &a);
}
END_TEST

/* The path leads to another folder than the one that is listened to. */
START_TEST(by_the_claims_of_another_folder)
{
    answer a = {0};
    aflock *lock;
    aflock_options o = strict_options(_i);
    o.poll_interval = 5 * AFLOCK_MILLISECOND;
    ck_assert_int_eq(aflock_open(&lock, scene, "lock", &o), 0);
    strict_claim("held", HIGH, getppid(), "elsewhere");
    strict_wait_for(lock, &a);
    ck_assert_int_eq(rename("lock.filelock", "aside"), 0);
    strict_claim("held", LOW, getppid(), "elsewhere");
    scene_run_until(&scene_contended, scene_contended + 4);
    ck_assert_int_eq(aflock_set_poll_interval(lock, AFLOCK_FOREVER), 0);
    scene_run_until(&scene_contended, scene_contended);
    ck_assert_int_eq(a.count, 0);
    strict_unclaim("held", LOW);
    strict_must_be_woken(lock, &a);
    ck_assert_int_eq(scene_entries("aside/claims"), 1);
}
END_TEST

/* The folder itself goes: it is made again. */
START_TEST(by_a_folder_that_goes)
{
    answer a = {0};
    aflock *lock = strict_open(_i);
    strict_claim("held", HIGH, getppid(), "elsewhere");
    strict_wait_for(lock, &a);
    strict_unclaim("held", HIGH);
    ck_assert_int_eq(rmdir(FOLDER), 0);
    ck_assert_int_eq(rmdir("lock.filelock"), 0);
    strict_must_be_woken(lock, &a);
}
END_TEST

START_TEST(a_wait_that_ends_keeps_nothing)
{
    answer a = {0};
    aflock_req req;
    aflock *lock = strict_open(_i);
    const int before = scene_descriptors();
    strict_claim("held", HIGH, getppid(), "elsewhere");
    ck_assert_int_eq(aflock_acquire(lock, NULL, scene_answer, &a, &req), 0);
    scene_expect(1);
    scene_run_until(&scene_contended, 2);
    ck_assert_int_eq(aflock_cancel(lock, req), 0);
    scene_run_until(&a.count, 1);
    ck_assert_int_eq(a.result.status, AFLOCK_ECANCELED);
    while (aflock_epoll_alive(scene))
        ck_assert_int_eq(aflock_epoll_run_once(scene, AFLOCK_SECOND), 0);
    scene_await_descriptors(before + 1); /* of the notifier */
    strict_must_have(1);
    strict_unclaim("held", HIGH);
    strict_claim("intent", HIGH, getppid(), "elsewhere");
    ck_assert_int_eq(strict_try(lock, A_MOMENT).result.status, AFLOCK_ETIMEDOUT);
    while (aflock_epoll_alive(scene))
        ck_assert_int_eq(aflock_epoll_run_once(scene, AFLOCK_SECOND), 0);
    strict_must_have(1);
    strict_unclaim("intent", HIGH);
    strict_must_get(lock);
}
END_TEST

/* ------------------------------------------------------------------------------------------ looking, taking away */

START_TEST(who_holds_it)
{
    aflock *lock = strict_open(_i);
    strict_sight s = strict_look(lock);
    ck_assert(s.holder.status == 0 && s.holder.held == 0 && s.holder.claim_count == 0);
    must_exist("lock.filelock", false);
    aflock_req req = strict_hold(lock);
    s = strict_look(lock);
    ck_assert(s.holder.status == 0 && s.holder.held == 1 && s.holder.count == 1 && s.holder.pid == getpid());
    ck_assert(s.holder.here == 1 && s.holder.gone == 0 && s.holder.mode == AFLOCK_EXCLUSIVE);
    ck_assert_str_eq(s.host, host_name());
    ck_assert(s.claims[0].here && !s.claims[0].gone && s.claims[0].pid == getpid());
    strict_release(lock, req);
    s = strict_look(lock);
    ck_assert(s.holder.status == 0 && s.holder.held == 0 && s.holder.claim_count == 0);
    pid_t gone = strict_dead_pid();
    strict_claim("held", HIGH, 7, "elsewhere");
    strict_claim("held", LOW, gone, host_name());
    strict_claim("intent", LOW, gone, host_name());
    s = strict_look(lock);
    ck_assert(s.holder.status == 0 && s.holder.held == 1 && s.holder.count == 2 && s.holder.claim_count == 3);
    ck_assert(s.holder.pid == gone && s.holder.here == 1 && s.holder.gone == 1);
    ck_assert_str_eq(s.claims[0].name, strict_claim_name("held", LOW));
    ck_assert_str_eq(s.claims[1].name, strict_claim_name("held", HIGH));
    ck_assert(s.claims[1].pid == 7 && !s.claims[1].here && !s.claims[1].gone);
    ck_assert_str_eq(s.claims[1].host, "elsewhere");
    ck_assert_str_eq(s.claims[2].name, strict_claim_name("intent", LOW));
    ck_assert_int_eq(s.claims[2].held, 0);
    strict_unclaim("held", HIGH);
    strict_unclaim("held", LOW);
    s = strict_look(lock);
    ck_assert(s.holder.held == 0 && s.holder.claim_count == 1);
    strict_unclaim("intent", LOW);
}
END_TEST

/* More than are listed are counted. */
START_TEST(a_crowd)
{
    char token[64];
    aflock *lock = strict_open(_i);
    for (int i = 0; i < 1003; i++) {
        snprintf(token, sizeof token, "%032x", i);
        strict_claim("intent", token, 7, "elsewhere");
    }
    strict_claim("held", HIGH, 8, "elsewhere");
    strict_sight s = strict_look(lock);
    ck_assert_int_eq(s.holder.status, 0);
    ck_assert_uint_eq(s.holder.claim_count, 1000);
    ck_assert_uint_eq(s.holder.claims_left_out, 4);
    ck_assert_int_eq(s.holder.pid, 8);
}
END_TEST

START_TEST(taken_away_by_name)
{
    aflock *lock = strict_open(_i), *native;
    answer a = strict_break(lock, strict_claim_name("held", LOW));
    ck_assert_int_eq(a.result.status, AFLOCK_ENOENT);
    must_exist("lock.filelock", false);
    strict_claim("held", LOW, 7, "elsewhere");
    strict_claim("intent", LOW, 7, "elsewhere");
    a = strict_break(lock, strict_claim_name("held", HIGH));
    ck_assert_int_eq(a.result.status, AFLOCK_ENOENT);
    ck_assert_str_eq(a.step, "unlink");
    strict_must_have(2);
    ck_assert_int_eq(strict_break(lock, strict_claim_name("held", LOW)).result.status, 0);
    ck_assert_int_eq(strict_try(lock, 0).result.status, AFLOCK_EWOULDBLOCK);
    ck_assert_int_eq(strict_break(lock, strict_claim_name("intent", LOW)).result.status, 0);
    strict_must_get(lock);
    strict_write("rubbish", "x", 1);
    ck_assert_int_eq(strict_break(lock, "rubbish").result.status, 0);
    strict_must_get(lock);
    static const char *const bad[] = {"", ".", "..", "a/b", "/", ".held", NULL};
    for (int i = 0; i < 7; i++)
        ck_assert_int_eq(aflock_break_claim(lock, bad[i], scene_answer, NULL), AFLOCK_EINVAL);
    char name[300];
    memset(name, 'n', sizeof name);
    name[256] = '\0';
    ck_assert_int_eq(aflock_break_claim(lock, name, scene_answer, NULL), AFLOCK_ENAMETOOLONG);
    name[255] = '\0';
    ck_assert_int_eq(strict_break(lock, name).result.status, AFLOCK_ENOENT);
    ck_assert_int_eq(aflock_break_claim(lock, "x", NULL, NULL), AFLOCK_EINVAL);
    ck_assert_int_eq(aflock_break(lock, scene_answer, NULL), AFLOCK_ENOTSUP);
    ck_assert_int_eq(aflock_open(&native, scene, "native", NULL), 0);
    ck_assert_int_eq(aflock_break_claim(native, "x", scene_answer, NULL), AFLOCK_ENOTSUP);
}
END_TEST

/* A holder whose claims were broken learns it when he asks, and releases what is left. */
START_TEST(a_hold_that_was_broken)
{
    static const char *const states[] = {"held", "intent"};
    aflock *lock = strict_open(_i);
    for (int i = 0; i < 3; i++) {
        answer a = {0};
        aflock_req req = strict_hold(lock);
        strict_sight s = strict_look(lock);
        ck_assert_int_eq(aflock_verify(lock, req, scene_answer, &a), 0);
        scene_expect(1);
        scene_run_until(&a.count, 1);
        ck_assert_int_eq(a.result.status, 0);
        if (i < 2)
            strict_unclaim(states[i], s.claims[0].token);
        else
            ck_assert_int_eq(rename("lock.filelock", "aside"), 0);
        ck_assert_int_eq(aflock_verify(lock, req, scene_answer, &a), 0);
        scene_expect(1);
        scene_run_until(&a.count, 2);
        ck_assert_int_eq(a.result.status, AFLOCK_EREPLACED);
        strict_release(lock, req);
        if (i < 2)
            strict_must_have(0);
        else
            ck_assert_int_eq(scene_entries("aside/claims"), 0); /* ours are taken away where they are */
    }
}
END_TEST

/* ------------------------------------------------------------------------------------------------------- arguments */

static int accept_all(int fd, void *user)
{
    (void)fd, (void)user;
    return 0;
}

START_TEST(what_means_nothing_here)
{
    static const uint32_t flags[] = {AFLOCK_READ_ONLY, AFLOCK_FOLLOW, AFLOCK_DIRECTORY, AFLOCK_INHERIT,
                                     AFLOCK_TRUNCATE};
    aflock *lock = strict_open(_i), *other;
    aflock_acquire_options o;
    for (size_t i = 0; i < sizeof flags / sizeof flags[0]; i++) {
        o = scene_options(flags[i], 0);
        ck_assert_int_eq(aflock_acquire(lock, &o, scene_answer, NULL, NULL), AFLOCK_EINVAL);
    }
    o = scene_options(0, 0), o.mode = AFLOCK_SHARED;
    ck_assert_int_eq(aflock_acquire(lock, &o, scene_answer, NULL, NULL), AFLOCK_ENOTSUP);
    o = scene_options(0, 0), o.on_acquired = accept_all;
    ck_assert_int_eq(aflock_acquire(lock, &o, scene_answer, NULL, NULL), AFLOCK_ENOTSUP);
    aflock_options p = strict_options(_i);
    ck_assert_int_eq(aflock_open_fd(&other, scene, 0, &p), AFLOCK_EINVAL);
    p.lifetime = AFLOCK_SECOND;
    ck_assert_int_eq(aflock_open(&other, scene, "lock", &p), AFLOCK_EINVAL);
    p = strict_options(_i);
    p.protocol = AFLOCK_SOFT;
    ck_assert_int_eq(aflock_open(&other, scene, "lock", &p), AFLOCK_EMISMATCH);
    ck_assert_int_eq(scene_entries("."), 0);
    strict_must_get(lock);
}
END_TEST

START_TEST(long_names)
{
    char name[202], folder[300];
    aflock *lock;
    aflock_options o = strict_options(_i);
    memset(name, 'n', sizeof name);
    name[201] = '\0';
    ck_assert_int_eq(aflock_open(&lock, scene, name, &o), AFLOCK_ENAMETOOLONG);
    name[200] = '\0';
    ck_assert_int_eq(aflock_open(&lock, scene, name, &o), 0);
    answer a = scene_acquire(lock, NULL);
    ck_assert_int_eq(a.result.status, 0);
    snprintf(folder, sizeof folder, "%s.filelock/claims", name);
    ck_assert_int_eq(scene_entries(folder), 2);
    strict_release(lock, a.result.req);
}
END_TEST

/* ------------------------------------------------------------------------------------------- contexts and processes */

START_TEST(the_context_goes)
{
    for (int grace = 0; grace < 2; grace++) {
        aflock_ctx *ctx;
        aflock *lock;
        answer a = {0}, b = {0};
        aflock_options o = strict_options(_i);
        ck_assert_int_eq(aflock_epoll_new(&ctx, NULL), 0);
        ck_assert_int_eq(aflock_open(&lock, ctx, "lock", &o), 0);
        ck_assert_int_eq(aflock_acquire(lock, NULL, scene_answer, &a, NULL), 0);
        while (a.count == 0)
            ck_assert_int_eq(aflock_epoll_run_once(ctx, AFLOCK_SECOND), 0);
        ck_assert_int_eq(a.result.status, 0);
        ck_assert_int_eq(aflock_acquire(lock, NULL, scene_answer, &b, NULL), 0);
        scene_expect(2);
        ck_assert_int_ge(aflock_ctx_free(ctx, (uint64_t)grace * 5 * AFLOCK_SECOND), 0);
        ck_assert_int_eq(b.result.status, AFLOCK_ECLOSED);
        scene_await(scene_entries(FOLDER) == 0); /* a worker does it */
    }
}
END_TEST

static void leave_it_to_the_parent(void)
{
    ck_assert_int_eq(aflock_ctx_abandon(scene), 0);
    scene = NULL;
    char link[64], target[PATH_MAX];
    for (int fd = 0; fd < 64; fd++) {
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        ssize_t n = readlink(link, target, sizeof target - 1);
        target[n < 0 ? 0 : n] = '\0';
        ck_assert_msg(!strstr(target, "lock.filelock"), "%s is left", target);
    }
}

START_TEST(a_child_abandons)
{
    answer a = {0};
    aflock *lock = strict_open(_i);
    aflock_req req = strict_hold(lock);
    scene_in_child(leave_it_to_the_parent);
    strict_must_have(2);
    strict_release(lock, req);
    strict_claim("held", HIGH, 7, "elsewhere");
    strict_wait_for(lock, &a);
    for (int i = 0; i < 20; i++)
        ck_assert_int_eq(aflock_epoll_run_once(scene, AFLOCK_MILLISECOND), 0);
    scene_in_child(leave_it_to_the_parent);
    strict_unclaim("held", HIGH);
    strict_must_be_woken(lock, &a);
}
END_TEST

static void print_into_nothing(void)
{
    scene = NULL;
    scene_make_context();
    aflock *lock = strict_open(AFLOCK_IO_INLINE);
    for (int fd = 0; fd < 3; fd++)
        close(fd);
    aflock_req req = strict_hold(lock);
    for (int fd = 0; fd < 3; fd++)
        ck_assert_int_eq(write(fd, "x", 1), -1);
    strict_release(lock, req);
    answer a = {0};
    strict_claim("held", HIGH, 7, "elsewhere");
    strict_wait_for(lock, &a);
    for (int fd = 0; fd < 3; fd++)
        ck_assert_int_eq(fcntl(fd, F_GETFD), -1);
}

START_TEST(no_standard_stream)
{
    (void)_i;
    scene_in_child(print_into_nothing);
}
END_TEST

int main(void)
{
    const TTest *const once[] = {no_standard_stream, NULL};
    const TTest *const each[] = {the_order,
                                 nothing_on_the_loop,
                                 what_is_written,
                                 a_token_for_each_attempt,
                                 parents_are_made_if_asked,
                                 links_on_the_way,
                                 never_broken,
                                 who_comes_between,
                                 who_comes_with_a_higher_token,
                                 broken_on_the_way,
                                 one_after_the_other,
                                 tried_on_the_spot,
                                 by_the_claim_that_goes,
                                 by_nothing_else,
                                 by_an_intent_that_goes,
                                 by_the_claims_of_another_folder,
                                 by_a_folder_that_goes,
                                 a_wait_that_ends_keeps_nothing,
                                 who_holds_it,
                                 a_crowd,
                                 taken_away_by_name,
                                 a_hold_that_was_broken,
                                 what_means_nothing_here,
                                 long_names,
                                 the_context_goes,
                                 a_child_abandons,
                                 NULL};
    return scene_main("strict", once, each);
}
