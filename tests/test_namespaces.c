/* Who is taken for dead across containers: holders in pid and time namespaces of their own, with our host's name and
 * with another one. All of it needs root; without it the tests are skipped, and their names are printed. */
#include "support/lease_scene.h"
#include "support/soft_scene.h"
#include "support/strict_scene.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SKIPPED = 77, DAY = 86400 };

#define NAME "a-container-of-a-test"

/* ----------------------------------------------------------------------------------------------------- containers */

static bool write_file(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    const bool written = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);
    if (fd >= 0)
        close(fd);
    return written;
}

/* The namespaces of children from here on; this process gets those of names and mounts itself. */
static bool enter(int namespaces, const char *name)
{
    char offsets[64];
    snprintf(offsets, sizeof offsets, "boottime %d 0", DAY);
    return unshare(namespaces | CLONE_NEWUTS | CLONE_NEWNS) == 0 &&
           mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
           (!(namespaces & CLONE_NEWTIME) || write_file("/proc/self/timens_offsets", offsets)) &&
           (!name || sethostname(name, strlen(name)) == 0);
}

/* Runs `body` as the first process of a container, until it ends or is killed. */
static pid_t container(int namespaces, const char *name, void (*body)(void))
{
    pid_t outer = fork();
    ck_assert_int_ge(outer, 0);
    if (outer > 0)
        return outer;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    ck_assert(enter(namespaces, name));
    pid_t inner = fork();
    ck_assert_int_ge(inner, 0);
    if (inner == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        ck_assert_int_eq(mount("proc", "/proc", "proc", 0, NULL), 0);
        scene = NULL;
        scene_make_context();
        body();
        _exit(0);
    }
    int status;
    ck_assert_int_eq(waitpid(inner, &status, 0), inner);
    _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 1);
}

static int ready[2];

static void say_ready_and_stay(void)
{
    ck_assert_int_eq(write(ready[1], "", 1), 1);
    for (;;)
        pause();
}

static void hold_soft(void)
{
    must_hold_soft(open_soft(AFLOCK_IO_INLINE));
    say_ready_and_stay();
}

static void hold_a_lease(void)
{
    must_hold(open_lease(AFLOCK_IO_INLINE));
    say_ready_and_stay();
}

static void hold_strict(void)
{
    strict_hold(strict_open(AFLOCK_IO_INLINE));
    say_ready_and_stay();
}

static pid_t holder_in(int namespaces, const char *name, void (*hold)(void))
{
    char byte;
    ck_assert_int_eq(pipe2(ready, O_CLOEXEC), 0);
    pid_t pid = container(namespaces, name, hold);
    close(ready[1]);
    ck_assert_int_eq(read(ready[0], &byte, 1), 1);
    close(ready[0]);
    return pid;
}

static const int kinds[] = {CLONE_NEWPID, CLONE_NEWTIME, CLONE_NEWPID | CLONE_NEWTIME};
enum { KINDS = sizeof kinds / sizeof kinds[0] };

/* --------------------------------------------------------------------------------------------- with another name */

/* Neither while it lives nor afterwards: its process id means nothing here. */
START_TEST(a_soft_lock_of_a_container)
{
    for (int i = 0; i < KINDS; i++) {
        aflock *lock = open_soft(_i);
        pid_t pid = holder_in(kinds[i], NAME, hold_soft);
        must_respect(lock);
        ck_assert_str_eq(look(lock).host, NAME);
        ck_assert(!look(lock).holder.gone);
        scene_holder_end(pid);
        must_respect(lock);
        ck_assert_int_eq(unlink("lock"), 0);
    }
}
END_TEST

START_TEST(a_lease_of_a_container)
{
    for (int i = 0; i < KINDS; i++) {
        aflock *lock = open_lease(_i);
        pid_t pid = holder_in(kinds[i], NAME, hold_a_lease);
        must_respect(lock);
        scene_holder_end(pid);
        must_respect(lock);
        make_older("lock", 30); /* its time counts here as everywhere */
        must_get(lock);
    }
}
END_TEST

START_TEST(a_strict_lock_of_a_container)
{
    for (int i = 0; i < KINDS; i++) {
        aflock *lock = strict_open(_i);
        pid_t pid = holder_in(kinds[i], NAME, hold_strict);
        for (int dead = 0; dead < 2; dead++) {
            ck_assert_int_eq(strict_try(lock, A_MOMENT).result.status, AFLOCK_ETIMEDOUT);
            strict_sight s = strict_look(lock);
            ck_assert_uint_eq(s.holder.claim_count, 2);
            ck_assert(!s.claims[0].here && !s.claims[0].gone && !s.claims[1].gone);
            if (!dead)
                scene_holder_end(pid);
        }
        for (int n = 0; n < 2; n++)
            ck_assert_int_eq(strict_break(lock, strict_look(lock).claims[0].name).result.status, 0);
        strict_must_get(lock);
    }
}
END_TEST

/* ------------------------------------------------------------------------------------------- inside of a container */

/* The processes of a container know each other: who has died is heard of. */
static void see_a_death(void)
{
    int io = AFLOCK_IO_POOL;
    pid_t dead = sleeper();
    mark("lock", dead);
    aflock *lock = open_soft(io);
    must_respect(lock);
    scene_holder_end(dead);
    must_get_soft(lock);
    scene_free_context();
}

START_TEST(inside)
{
    for (int i = 0; i < 2 * KINDS; i++) {
        int status;
        pid_t pid = container(kinds[i / 2], i % 2 ? NAME : NULL, see_a_death);
        ck_assert_int_eq(waitpid(pid, &status, 0), pid);
        ck_assert_int_eq(status, 0);
    }
}
END_TEST

/* ------------------------------------------------------------------------------------------------ with our own name */

/* Nothing in a record tells a container from its host if they have one name: process ids mean others, and start times
 * are counted from another moment. So the living look dead, and that is why names must differ. */
START_TEST(of_our_name_the_living_look_dead)
{
    for (int i = 0; i < KINDS; i++) {
        pid_t pid = holder_in(kinds[i], NULL, hold_soft);
        ck_assert(look(open_soft(AFLOCK_IO_INLINE)).holder.gone);
        scene_holder_end(pid);
        ck_assert_int_eq(unlink("lock"), 0);
    }
}
END_TEST

/* A strict lock does not ask. */
START_TEST(of_our_name_a_strict_lock_stands)
{
    for (int i = 0; i < KINDS; i++) {
        pid_t pid = holder_in(kinds[i], NULL, hold_strict);
        aflock *lock = strict_open(AFLOCK_IO_INLINE);
        ck_assert_int_eq(strict_try(lock, A_MOMENT).result.status, AFLOCK_ETIMEDOUT);
        strict_must_have(2);
        scene_holder_end(pid);
        for (int n = 0; n < 2; n++)
            ck_assert_int_eq(strict_break(lock, strict_look(lock).claims[0].name).result.status, 0);
    }
}
END_TEST

static bool may_enter(void)
{
    int status;
    pid_t pid = fork();
    if (pid == 0)
        _exit(enter(CLONE_NEWPID | CLONE_NEWTIME, NAME) ? 0 : 1);
    return pid > 0 && waitpid(pid, &status, 0) == pid && status == 0;
}

int main(void)
{
    const TTest *const once[] = {of_our_name_the_living_look_dead, of_our_name_a_strict_lock_stands, inside, NULL};
    const TTest *const each[] = {a_soft_lock_of_a_container, a_lease_of_a_container, a_strict_lock_of_a_container,
                                 NULL};
    if (may_enter())
        return scene_main("namespaces", once, each);
    for (size_t i = 0; once[i]; i++)
        printf("skipped, may not make namespaces: %s\n", once[i]->name);
    for (size_t i = 0; each[i]; i++)
        printf("skipped, may not make namespaces: %s\n", each[i]->name);
    return SKIPPED;
}
