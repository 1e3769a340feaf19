/* Each call that a lease makes fails, in each way that is plausible: alone, and from then on for a while. Whatever
 * fails, each request is answered once, a failure says what failed, who believes to hold it holds it or is told, and in
 * the end the lock works and nothing is left. The boot-time clock is the test's own. */
#include "runtime/runtime.h"
#include "support/lease_scene.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define DUE (10 * AFLOCK_SECOND)

/* ------------------------------------------------------------------------------------------------------- the trouble
 */

static const int errors[] = {EIO, ESTALE, EACCES, ENOSPC, EINTR, EMFILE, ENOENT};
enum { ERRORS = sizeof errors / sizeof errors[0] };

static int calls_made, first_bad, bad_calls, bad_error;

/* What has no way to fail like that is left alone. */
static bool may_fail(seam_call call, int error)
{
    if (call == SEAM_GETFD || call == SEAM_GETCWD || call == SEAM_UNLOCK)
        return false;
    if (error == ENOENT) /* it would be a lie about what is there; so would the other be to a release */
        return call == SEAM_OPEN_CACHED || call == SEAM_HOSTNAME || call == SEAM_READLINK;
    return error != ESTALE || call != SEAM_STAT;
}

static int judge(seam_call call, int fd, const char *path)
{
    (void)fd, (void)path;
    if (!may_fail(call, bad_error))
        return 0;
    calls_made++;
    return calls_made > first_bad && calls_made <= first_bad + bad_calls ? bad_error : 0;
}

/* ------------------------------------------------------------------------------------------------------- the script */

/* Released as often as it takes. */
static void let_go(aflock *lock, aflock_req req)
{
    for (int i = 0; i < 20; i++) {
        answer a = {0};
        ck_assert_int_eq(aflock_release(lock, req, scene_answer, &a), 0);
        scene_expect(1);
        scene_run_until(&a.count, 1);
        if (a.result.status == 0)
            return;
        ck_assert(a.result.sys_errno != 0 && a.step[0]);
    }
    ck_abort_msg("it cannot be released");
}

/* A marker that was broken may stay under its new name: nobody looks at that. */
static void forget_what_was_put_aside(void)
{
    DIR *d = opendir(".");
    ck_assert_ptr_nonnull(d);
    for (const struct dirent *e; (e = readdir(d)) != NULL;)
        if (strncmp(e->d_name, "lock.break.", 11) == 0)
            unlink(e->d_name);
    closedir(d);
}

/* Breaks a marker, holds, refreshes twice, releases. */
static void play(int io)
{
    told t = {0};
    answer a = {0};
    aflock_options p = lease_options(io);
    p.break_empty = 1; /* such a one stays where not even one character can be written */
    aflock *lock = open_with(&p);
    aflock_acquire_options o = scene_options(0, 0);
    o.timeout = 30 * AFLOCK_SECOND;
    o.on_compromise = lease_told;
    o.on_compromise_user = &t;
    ck_assert_int_eq(aflock_acquire(lock, &o, scene_answer, &a, NULL), 0);
    scene_expect(1);
    scene_run_until(&a.count, 1);
    if (a.result.status == 0) {
        const int before = seam_count(SEAM_TOUCH);
        for (int i = 0; i < 2; i++) {
            pass_boottime(DUE);
            aflock_host_timer(scene);
            if (bad_calls == 0)
                await_touches(before + i + 1);
            run_turns(2);
        }
        ck_assert_int_le(t.count, 1);
        ck_assert(t.count == 0 || t.what.reason == AFLOCK_REFRESH_FAILED);
        let_go(lock, a.result.req);
    } else {
        ck_assert_msg(a.step[0] || a.result.status == AFLOCK_ECOMPROMISED, "%s without a step",
                      aflock_error_name(a.result.status));
    }
    seam_judge_by(NULL, NULL);
    scene_turn_until(!aflock_epoll_alive(scene));
    forget_what_was_put_aside();
    if (scene_entries(".") > 0) { /* it could not be taken back: it is over in time */
        ck_assert_int_ne(a.result.status, 0);
        ck_assert(a.result.cleanup_errno != 0 || look(lock).holder.pid != getpid());
        ck_assert_int_eq(scene_entries("."), 1);
        make_older("lock", 30);
    }
    must_get(lock);
    ck_assert_int_eq(aflock_close(lock), 0);
}

/* `after` calls go well, then `times` fail. */
static void play_with(int io, int error, int after, int times)
{
    calls_made = 0;
    first_bad = after;
    bad_calls = times;
    bad_error = error;
    mark_without_token("lock", dead_pid(), host_name());
    seam_judge_by(judge, NULL);
    play(io);
}

/* One way, in a process and a folder of its own, as it waits more than it works. */
static pid_t fail_each_call(int io, int error)
{
    char folder[16];
    snprintf(folder, sizeof folder, "%d", error);
    ck_assert_int_eq(mkdir(folder, 0777), 0);
    const pid_t pid = fork();
    ck_assert_int_ge(pid, 0);
    if (pid > 0)
        return pid;
    ck_assert_int_eq(chdir(folder), 0);
    scene = NULL;
    scene_make_context();
    stop_clocks(UINT64_C(1000) * AFLOCK_SECOND, 0);
    play_with(io, error, 0, 0);
    const int all = calls_made;
    ck_assert_int_gt(all, error == ENOENT ? 0 : 20);
    for (int n = 0; n < all; n++)
        play_with(io, error, n, n % 2 ? 3 : 1);
    scene_free_context();
    _exit(0); /* a failed assertion exits with 1 */
}

START_TEST(each_call_fails)
{
    pid_t pids[ERRORS];
    int status;
    for (int e = 0; e < ERRORS; e++)
        pids[e] = fail_each_call(_i, errors[e]);
    for (int e = 0; e < ERRORS; e++) {
        ck_assert_int_eq(waitpid(pids[e], &status, 0), pids[e]);
        ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0, "calls that fail with %s", strerror(errors[e]));
    }
}
END_TEST

int main(void)
{
    const TTest *const each[] = {each_call_fails, NULL};
    return scene_main("lease-faults", NULL, each);
}
