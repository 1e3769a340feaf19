/* See strict_scene.h. */
#include "support/strict_scene.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

aflock_options strict_options(int io)
{
    aflock_options o;
    aflock_options_init(&o);
    o.protocol = AFLOCK_STRICT;
    o.io = scene_io(io);
    o.wait = AFLOCK_WAIT_NOTIFY;
    o.poll_interval = AFLOCK_FOREVER;
    return o;
}

aflock *strict_open(int io)
{
    aflock *lock;
    const aflock_options o = strict_options(io);
    ck_assert_int_eq(aflock_open(&lock, scene, "lock", &o), 0);
    return lock;
}

answer strict_try(aflock *lock, uint64_t timeout)
{
    aflock_acquire_options o = scene_options(0, 0);
    o.timeout = timeout;
    return scene_acquire(lock, &o);
}

aflock_req strict_hold(aflock *lock)
{
    answer a = strict_try(lock, 30 * AFLOCK_SECOND);
    ck_assert_msg(a.result.status == 0, "%s at %s (%s): %s", aflock_error_name(a.result.status), a.step,
                  strerror(a.result.sys_errno), a.detail);
    ck_assert_int_eq(a.result.fd, -1);
    strict_must_have(2);
    return a.result.req;
}

void strict_release(aflock *lock, aflock_req req)
{
    answer a = scene_release(lock, req);
    ck_assert_int_eq(a.result.status, 0);
    ck_assert_int_eq(a.result.cleanup_errno, 0);
}

void strict_must_get(aflock *lock)
{
    strict_release(lock, strict_hold(lock));
    strict_must_have(0);
    ck_assert_int_eq(scene_entries("lock.filelock"), 1);
    ck_assert_int_eq(scene_entries("."), 2);
    ck_assert_int_eq(scene_size("lock"), SENTINEL_SIZE);
}

aflock_req strict_wait_for(aflock *lock, answer *a)
{
    aflock_req req;
    int contended = scene_contended;
    ck_assert_int_eq(aflock_acquire(lock, NULL, scene_answer, a, &req), 0);
    scene_expect(1);
    scene_run_until(&scene_contended, contended + 2);
    return req;
}

void strict_must_be_woken(aflock *lock, const answer *a)
{
    scene_run_until(&a->count, 1);
    ck_assert_msg(a->result.status == 0, "%s: %s", aflock_error_name(a->result.status), a->detail);
    strict_must_have(2);
    strict_release(lock, a->result.req);
}

/* ------------------------------------------------------------------------------------------------------- the others */

static void make_folder(const char *path)
{
    ck_assert(mkdir(path, 0777) == 0 || errno == EEXIST);
}

static void write_file(const char *path, const void *bytes, size_t size)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(write(fd, bytes, size), (ssize_t)size);
    close(fd);
}

void strict_lay_out(void)
{
    make_folder("lock.filelock");
    make_folder(FOLDER);
    write_file("lock", SENTINEL, SENTINEL_SIZE);
}

void strict_write(const char *name, const void *bytes, size_t size)
{
    char path[PATH_MAX];
    strict_lay_out();
    snprintf(path, sizeof path, FOLDER "/%s", name);
    write_file(path, bytes, size);
}

const char *strict_claim_name(const char *state, const char *token)
{
    static char name[256];
    snprintf(name, sizeof name, "%s-v1-%s.claim", state, token);
    return name;
}

size_t strict_record(char *text, size_t size, const char *token, pid_t pid, const char *host, const char *start)
{
    char hex[1024] = "";
    for (size_t i = 0; host[i]; i++)
        snprintf(hex + 2 * i, 3, "%02x", (unsigned char)host[i]);
    return (size_t)snprintf(text, size, "filelock-strict-v1\n%s\n%d\n%s\n%s\n", token, (int)pid, hex, start);
}

void strict_claim(const char *state, const char *token, pid_t pid, const char *host)
{
    char text[2048];
    strict_write(strict_claim_name(state, token), text, strict_record(text, sizeof text, token, pid, host, ""));
}

void strict_unclaim(const char *state, const char *token)
{
    char path[PATH_MAX];
    snprintf(path, sizeof path, FOLDER "/%s", strict_claim_name(state, token));
    ck_assert_int_eq(unlink(path), 0);
}

void strict_must_have(int entries)
{
    ck_assert_int_eq(scene_entries(FOLDER), entries);
}

pid_t strict_dead_pid(void)
{
    pid_t pid = fork();
    ck_assert_int_ge(pid, 0);
    if (pid == 0)
        _exit(0);
    ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
    return pid;
}

/* --------------------------------------------------------------------------------------------------------- the
 * questions
 */

static void see(aflock *lock, const aflock_holder *holder, void *user)
{
    strict_sight *s = user;
    (void)lock;
    s->count++;
    s->holder = *holder;
    snprintf(s->host, sizeof s->host, "%s", holder->host);
    snprintf(s->detail, sizeof s->detail, "%s", holder->detail ? holder->detail : "");
    for (uint32_t i = 0; i < holder->claim_count && i < sizeof s->claims / sizeof s->claims[0]; i++) {
        const aflock_claim *c = &holder->claims[i];
        ck_assert_uint_eq(c->size, sizeof *c);
        s->claims[i].held = c->held;
        s->claims[i].here = c->here;
        s->claims[i].gone = c->gone;
        s->claims[i].pid = c->pid;
        s->claims[i].age = c->age;
        snprintf(s->claims[i].name, sizeof s->claims[i].name, "%s", c->name);
        snprintf(s->claims[i].token, sizeof s->claims[i].token, "%s", c->token);
        snprintf(s->claims[i].host, sizeof s->claims[i].host, "%s", c->host);
    }
}

strict_sight strict_look(aflock *lock)
{
    strict_sight s = {0};
    ck_assert_int_eq(aflock_inspect(lock, see, &s), 0);
    scene_run_until(&s.count, 1);
    return s;
}

answer strict_break(aflock *lock, const char *name)
{
    answer a = {0};
    ck_assert_int_eq(aflock_break_claim(lock, name, scene_answer, &a), 0);
    scene_expect(1);
    scene_run_until(&a.count, 1);
    return a;
}
