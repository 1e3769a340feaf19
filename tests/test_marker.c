/* Making the file of a soft lock, with files without names (O_TMPFILE) and without: what it is like, what a kill leaves
 * at each system call, what fails, and which way is remembered. $TMPDIR has to be on a file system that has them.
 */
#include "locks/record.h"
#include "runtime/runtime.h"
#include "support/soft_scene.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

enum { ALWAYS = 1000000 };

static void let_files_have_names(void)
{
    seam_fail(SEAM_TMPFILE, 0, ALWAYS, EOPNOTSUPP);
}

/* ------------------------------------------------------------------------------------------------- what it is like */

START_TEST(it_has_no_name_before_it_is_complete)
{
    aflock *lock = open_soft(_i);
    must_get_soft(lock);
    must_get_soft(lock);
    ck_assert_int_eq(seam_count(SEAM_TMPFILE), 2);
    ck_assert_int_eq(seam_count(SEAM_LINK), 2);
    ck_assert_int_eq(seam_count(SEAM_CREATE), 0);
}
END_TEST

static ssize_t write_little(int fd, const void *buffer, size_t size)
{
    return write(fd, buffer, size > 3 ? 3 : size);
}

START_TEST(a_record_in_many_writes)
{
    static afl_sys table;
    table = *scene->sys;
    table.write = write_little;
    scene->sys = &table;
    must_get_soft(open_soft(_i));
}
END_TEST

/* A default ACL: the owner may all, two users may read and write, others nothing. */
static void set_default_acl(const char *folder)
{
    static const struct {
        uint32_t version;
        struct {
            uint16_t tag, bits;
            uint32_t id;
        } entries[6];
    } acl = {2,
             {{0x01, 7, UINT32_MAX},
              {0x02, 6, 1234},
              {0x02, 6, 1235},
              {0x04, 5, UINT32_MAX},
              {0x10, 7, UINT32_MAX},
              {0x20, 0, UINT32_MAX}}};
    if (setxattr(folder, "system.posix_acl_default", &acl, sizeof acl, 0) != 0)
        ck_assert_int_eq(errno, EOPNOTSUPP); /* and then there is nothing to be inherited */
}

typedef struct rights {
    unsigned mode;
    ssize_t size;
    char acl[256];
} rights;

static rights rights_of(const char *path)
{
    rights r = {.mode = scene_mode(path)};
    r.size = getxattr(path, "system.posix_acl_access", r.acl, sizeof r.acl);
    return r;
}

static void must_be_made_like(const rights *expected, aflock *lock, uint32_t file_mode)
{
    aflock_acquire_options o = scene_options(0, 0);
    o.file_mode = file_mode;
    answer a = scene_acquire(lock, &o);
    if (!(expected->mode & 0200)) {
        ck_assert_int_eq(a.result.status, AFLOCK_EACCES);
        ck_assert_str_eq(a.step, "umask");
        ck_assert_int_ne(access("folder/lock", F_OK), 0);
        return;
    }
    ck_assert_int_eq(a.result.status, 0);
    rights got = rights_of("folder/lock");
    ck_assert_uint_eq(got.mode, expected->mode);
    ck_assert_int_eq(got.size, expected->size);
    ck_assert_mem_eq(got.acl, expected->acl, sizeof got.acl);
    must_release(lock, a.result.req);
}

static rights rights_of_a_file_that_is_created(uint32_t file_mode)
{
    int fd = open("folder/lock", O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC,
                  file_mode == AFLOCK_MODE_DEFAULT ? 0666 : (mode_t)file_mode);
    ck_assert_int_ge(fd, 0);
    close(fd);
    rights r = rights_of("folder/lock");
    ck_assert_int_eq(unlink("folder/lock"), 0);
    return r;
}

START_TEST(its_rights_are_those_of_a_file_that_is_created)
{
    static const uint32_t modes[] = {AFLOCK_MODE_DEFAULT, 0600, 0640, 0666, 0777, 0200};
    static const mode_t umasks[] = {0, 022, 027, 077, 0277};
    aflock_options o = soft_options(_i);
    aflock *lock;
    ck_assert_int_eq(mkdir("folder", 0777), 0);
    ck_assert_int_eq(aflock_open(&lock, scene, "folder/lock", &o), 0);
    for (int inherits = 0; inherits < 2; inherits++) {
        if (inherits)
            set_default_acl("folder");
        for (size_t u = 0; u < sizeof umasks / sizeof umasks[0]; u++) {
            umask(umasks[u]);
            for (size_t m = 0; m < sizeof modes / sizeof modes[0]; m++) {
                rights r = rights_of_a_file_that_is_created(modes[m]);
                must_be_made_like(&r, lock, modes[m]);
            }
        }
    }
    ck_assert_int_eq(seam_count(SEAM_CREATE), 0);
    umask(022);
}
END_TEST

/* --------------------------------------------------------------------------------------------- whoever is killed */

static atomic_int calls_left;

static int die_in_time(seam_call call, int fd, const char *path)
{
    (void)call, (void)fd, (void)path;
    if (atomic_fetch_sub(&calls_left, 1) == 0)
        kill(getpid(), SIGKILL);
    return 0;
}

/* In a child, which may be killed meanwhile. */
static void take_and_give_back(const aflock_options *o, const char *path)
{
    aflock *lock;
    scene = NULL;
    scene_make_context();
    ck_assert_int_eq(aflock_open(&lock, scene, path, o), 0);
    seam_judge_by(die_in_time, NULL);
    answer a = scene_acquire(lock, NULL);
    ck_assert_int_eq(a.result.status, 0);
    must_release(lock, a.result.req);
    _exit(0);
}

/* Nothing, or a record of this process that is complete. */
static void must_be_whole(const char *path, pid_t pid, pid_t before)
{
    char text[AFL_RECORD_SIZE];
    afl_record record;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        ck_assert_int_eq(errno, ENOENT);
        return;
    }
    ssize_t size = read(fd, text, sizeof text);
    close(fd);
    ck_assert_int_ge(size, 0);
    afl_record_parse(text, (size_t)size, &record);
    ck_assert_int_eq(record.kind, AFL_RECORD_SOFT);
    ck_assert(record.pid == before || (record.pid == pid && record.has_start));
}

static bool killed_at(int call, const aflock_options *o, const char *path, pid_t before)
{
    int status;
    atomic_store(&calls_left, call);
    pid_t pid = fork();
    ck_assert_int_ge(pid, 0);
    if (pid == 0)
        take_and_give_back(o, path);
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    must_be_whole(path, pid, before);
    ck_assert(WIFSIGNALED(status) || (WIFEXITED(status) && WEXITSTATUS(status) == 0));
    return WIFSIGNALED(status);
}

/* Whoever is killed at any call leaves what the next one gets by at once. */
START_TEST(a_kill_leaves_nothing_or_a_record)
{
    const aflock_options o = soft_options(_i);
    aflock *lock = open_soft(_i);
    int calls = 0;
    while (killed_at(calls, &o, "lock", 0)) {
        must_get_soft(lock);
        calls++;
    }
    ck_assert_int_ge(calls, 15);
}
END_TEST

START_TEST(a_kill_leaves_nothing_or_a_record_in_new_folders)
{
    const aflock_options o = soft_options(_i);
    int calls = 0;
    while (killed_at(calls, &o, "a/b/lock", 0)) {
        ck_assert(unlink("a/b/lock") == 0 || errno == ENOENT);
        ck_assert(rmdir("a/b") == 0 || errno == ENOENT);
        ck_assert(rmdir("a") == 0 || errno == ENOENT);
        calls++;
    }
    ck_assert_int_ge(calls, 15);
}
END_TEST

START_TEST(a_kill_leaves_nothing_or_a_record_after_another)
{
    const aflock_options o = soft_options(_i);
    const pid_t before = dead_pid();
    int calls = 0;
    do {
        mark_without_token("lock", before, host_name());
    } while (killed_at(calls++, &o, "lock", before));
    ck_assert_int_ge(calls, 25);
}
END_TEST

/* ------------------------------------------------------------------------------------------- which way is remembered
 */

static const struct {
    seam_call call;
    int error;
} unknown[] = {{SEAM_TMPFILE, EOPNOTSUPP}, {SEAM_TMPFILE, EISDIR},  {SEAM_TMPFILE, EINVAL},
               {SEAM_TMPFILE, ENOSYS},     {SEAM_LINK, EOPNOTSUPP}, {SEAM_LINK, EINVAL},
               {SEAM_LINK, ENOSYS},        {SEAM_LINK, EPERM},      {SEAM_LINK, EXDEV}};

START_TEST(what_is_not_to_be_had_is_asked_for_once)
{
    for (size_t i = 0; i < sizeof unknown / sizeof unknown[0]; i++) {
        aflock *lock = open_soft(_i);
        seam_fail(unknown[i].call, 0, ALWAYS, unknown[i].error);
        seam_forget();
        must_get_soft(lock);
        must_get_soft(lock);
        ck_assert_int_eq(seam_count(SEAM_TMPFILE), 1);
        ck_assert_int_eq(seam_count(SEAM_CREATE), 2);
        seam_fail(unknown[i].call, 0, 0, 0);
        ck_assert_int_eq(aflock_close(lock), 0);
    }
}
END_TEST

START_TEST(what_fails_is_tried_again)
{
    static const int errors[] = {EACCES, EIO, EMFILE, ENOENT, ENOMEM, ENOSPC, EROFS};
    aflock *lock = open_soft(_i);
    for (size_t i = 0; i < 2 * sizeof errors / sizeof errors[0]; i++) {
        seam_fail(i % 2 ? SEAM_TMPFILE : SEAM_LINK, 0, i / 2 == 3 ? 2 : 1, errors[i / 2]); /* with new parents, too */
        seam_forget();
        must_get_soft(lock);
        ck_assert_int_le(seam_count(SEAM_CREATE), 1);
        seam_fail(i % 2 ? SEAM_TMPFILE : SEAM_LINK, 0, 0, 0);
        seam_forget();
        must_get_soft(lock);
        ck_assert_int_eq(seam_count(SEAM_LINK), 1);
        ck_assert_int_eq(seam_count(SEAM_CREATE), 0);
    }
}
END_TEST

/* A server is asked each time, as what stat says of a file on it may be old. Elsewhere who waits makes one marker. */
START_TEST(who_waits_asks_by_creating)
{
    answer a = {0};
    pid_t other = sleeper();
    for (int files_have_names = 0; files_have_names < 2; files_have_names++) {
        if (files_have_names)
            let_files_have_names();
        aflock *lock = open_soft(_i);
        mark("lock", other);
        seam_forget();
        wait_for(lock, &a);
        ck_assert_int_eq(seam_count(SEAM_TMPFILE), files_have_names ? 1 : 2); /* the first asked what can be had */
        ck_assert_int_eq(seam_count(SEAM_LINK), 0);
        ck_assert_int_ge(seam_count(SEAM_CREATE), files_have_names ? 2 : 0);
        ck_assert_int_le(seam_count(SEAM_CREATE), files_have_names ? 1000 : 0);
        ck_assert_int_eq(unlink("lock"), 0);
        must_be_woken(lock, &a);
        a = (answer){0};
        ck_assert_int_eq(aflock_close(lock), 0);
    }
    scene_holder_end(other);
}
END_TEST

/* It waits without a name: between somebody's release and our hold only the name is given. The marker is as old as the
 * hold. */
START_TEST(who_waits_has_one_ready)
{
    static const seam_call fails[] = {SEAM_CALLS, SEAM_TOUCH, SEAM_LINK};
    enum { WAITED_MS = 100, CLOCK_MS = 20 }; /* the file system's clock is a coarse one */
    pid_t other = sleeper();
    for (size_t i = 0; i < sizeof fails / sizeof fails[0]; i++) {
        answer a = {0};
        struct stat st;
        struct timespec freed;
        aflock *lock = open_soft(_i);
        mark("lock", other);
        wait_for(lock, &a);
        usleep(WAITED_MS * 1000);
        seam_forget();
        if (fails[i] != SEAM_CALLS)
            seam_fail(fails[i], 0, 1, EIO);
        clock_gettime(CLOCK_REALTIME, &freed);
        ck_assert_int_eq(unlink("lock"), 0);
        scene_run_until(&a.count, 1);
        ck_assert_int_eq(a.result.status, 0);
        must_be_ours_soft("lock");
        ck_assert_int_eq(seam_count(SEAM_TMPFILE), fails[i] == SEAM_CALLS ? 0 : 1);
        ck_assert_int_eq(stat("lock", &st), 0);
        const int64_t ms = (st.st_mtim.tv_sec - freed.tv_sec) * 1000 + (st.st_mtim.tv_nsec - freed.tv_nsec) / 1000000;
        ck_assert_int_ge(ms, -CLOCK_MS);
        must_release(lock, a.result.req);
        ck_assert_int_eq(aflock_close(lock), 0);
    }
    scene_holder_end(other);
}
END_TEST

/* The next in line wants other rights: one more is made, and none is left over. */
START_TEST(what_is_ready_may_not_do)
{
    answer a = {0}, b = {0};
    aflock_req first;
    aflock_acquire_options o = scene_options(0, 0);
    pid_t other = sleeper();
    aflock *lock = open_soft(_i);
    mark("lock", other);
    const int open = scene_descriptors() + 1; /* inotify */
    o.file_mode = 0640;
    ck_assert_int_eq(aflock_acquire(lock, &o, scene_answer, &a, &first), 0);
    o.file_mode = 0600;
    ck_assert_int_eq(aflock_acquire(lock, &o, scene_answer, &b, NULL), 0);
    scene_expect(2);
    scene_run_until(&scene_contended, 2);
    ck_assert_int_eq(aflock_cancel(lock, first), 0);
    ck_assert_int_eq(unlink("lock"), 0); /* before anybody has looked for the next one */
    scene_run_until(&b.count, 1);
    ck_assert(a.count == 1 && b.result.status == 0);
    ck_assert_uint_eq(scene_mode("lock"), 0600);
    must_release(lock, b.result.req);
    scene_await_descriptors(open);
    scene_holder_end(other);
}
END_TEST

/* -------------------------------------------------------------------------------------------------- somebody else is
 */

/* He has made his marker after ours was written: he is waited for, not the one before him. */
START_TEST(somebody_was_faster)
{
    answer a = {0};
    aflock *lock = open_soft(_i);
    pid_t first = sleeper();
    newcomer = sleeper();
    mark("lock", first);
    wait_for(lock, &a);
    seam_before(SEAM_LINK, replace_it);
    ck_assert_int_eq(unlink("lock"), 0);
    while (seam_count(SEAM_LINK) == 0)
        ck_assert_int_eq(aflock_epoll_run_once(scene, 10 * AFLOCK_MILLISECOND), 0);
    for (int i = 0; i < 20; i++)
        ck_assert_int_eq(aflock_epoll_run_once(scene, 10 * AFLOCK_MILLISECOND), 0);
    char text[1024];
    record_of(newcomer, text, sizeof text);
    must_read("lock", text);
    ck_assert_int_eq(a.count, 0);
    ck_assert_int_eq(unlink("lock"), 0);
    must_be_woken(lock, &a);
    scene_holder_end(first);
    scene_holder_end(newcomer);
}
END_TEST

/* What was made without a name ends for those who listen as any other file does: they are woken, and poll for nothing.
 */
START_TEST(who_listens_to_it_is_woken)
{
    int asked[2];
    char byte;
    answer a = {0};
    ck_assert_int_eq(pipe2(asked, O_CLOEXEC), 0);
    aflock *lock = open_soft(_i);
    pid_t other = fork();
    ck_assert_int_ge(other, 0);
    if (other == 0) {
        scene = NULL;
        scene_make_context();
        lock = open_soft(AFLOCK_IO_INLINE);
        aflock_req req = must_hold_soft(lock);
        ck_assert_int_eq(read(asked[0], &byte, 1), 1);
        must_release(lock, req);
        pause();
    }
    scene_await(access("lock", F_OK) == 0);
    wait_for(lock, &a);
    ck_assert_int_eq(write(asked[1], "", 1), 1);
    must_be_woken(lock, &a);
    ck_assert_int_eq(scene_logged, 0); /* no watch was lost */
    scene_holder_end(other);
    close(asked[0]);
    close(asked[1]);
}
END_TEST

/* We were so slow to write that somebody has broken the empty marker: his stays, and we hold nothing. */
START_TEST(what_was_lost_before_it_was_written)
{
    let_files_have_names();
    aflock *lock = open_soft(_i);
    newcomer = sleeper();
    seam_before(SEAM_WRITE, replace_it);
    answer a = {0};
    aflock_req req;
    const int contended = scene_contended;
    ck_assert_int_eq(aflock_acquire(lock, NULL, scene_answer, &a, &req), 0);
    scene_expect(1);
    scene_run_until(&scene_contended, contended + 1);
    char text[1024];
    record_of(newcomer, text, sizeof text);
    must_read("lock", text);
    ck_assert_int_eq(aflock_cancel(lock, req), 0);
    scene_run_until(&a.count, 1);
    ck_assert_int_eq(a.result.status, AFLOCK_ECANCELED);
    scene_holder_end(newcomer);
    must_get_soft(lock);
}
END_TEST

static int link_and_be_interrupted(int fd, const char *path)
{
    int rc = afl_sys_linux.link_fd(fd, path);
    if (rc == 0)
        errno = EINTR;
    return -1;
}

/* The answer was lost: what is in the way is our own. */
START_TEST(it_has_got_its_name_already)
{
    static afl_sys table;
    table = *scene->sys;
    table.link_fd = link_and_be_interrupted;
    scene->sys = &table;
    must_get_soft(open_soft(_i));
}
END_TEST

/* ------------------------------------------------------------------------------------------------------ what fails */

static void must_fail(aflock *lock, seam_call call, int error, const char *step)
{
    const bool anywhere = call == SEAM_HOSTNAME || call == SEAM_TMPFILE;
    if (anywhere)
        seam_fail(call, 0, 1, error);
    if (!anywhere || call == SEAM_TMPFILE)
        make_fail(call == SEAM_TMPFILE ? SEAM_CREATE : call, error);
    answer a = scene_acquire(lock, NULL);
    make_fail(SEAM_CALLS, 0);
    ck_assert_int_eq(a.result.status, afl_status_of(call == SEAM_HOSTNAME ? EINVAL : error));
    ck_assert_str_eq(a.step, step);
    ck_assert_int_eq(scene_entries("."), 0);
    must_get_soft(lock);
}

static const struct {
    seam_call call;
    int error;
    const char *step;
} failures[] = {{SEAM_WRITE, ENOSPC, "write"},  {SEAM_WRITE, EIO, "write"},     {SEAM_HOSTNAME, EPERM, "gethostname"},
                {SEAM_FSTAT, EIO, "fstat"}, /* of a file without a name: the last one */
                {SEAM_TMPFILE, ENOSPC, "open"}, {SEAM_TMPFILE, EACCES, "open"}, {SEAM_TMPFILE, EROFS, "open"}};
enum { FAILURES = sizeof failures / sizeof failures[0], FAILURES_OF_ALL = 3 };

START_TEST(no_marker_can_be_made)
{
    aflock *lock = open_soft(_i);
    for (size_t i = 0; i < FAILURES; i++)
        must_fail(lock, failures[i].call, failures[i].error, failures[i].step);
    ck_assert_int_eq(seam_count(SEAM_CREATE), 3); /* where it could not be opened: that tells why */
}
END_TEST

START_TEST(no_marker_with_a_name_can_be_made)
{
    static const int errors[] = {ENOSPC, EACCES, EROFS, ESTALE};
    let_files_have_names();
    aflock *lock = open_soft(_i);
    for (size_t i = 0; i < FAILURES_OF_ALL; i++)
        must_fail(lock, failures[i].call, failures[i].error, failures[i].step);
    for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++)
        must_fail(lock, SEAM_CREATE, errors[i], "open");
    ck_assert_int_eq(seam_count(SEAM_LINK), 0);
}
END_TEST

/* A server may tell only when a file is closed that it has no room for it. That is heard before others rely on the
 * marker, also where files have no names at first. */
START_TEST(what_a_server_tells_late)
{
    for (int named = 0; named < 2; named++) {
        seam_file_systems("nfs4");
        scene_free_context();
        scene_make_context();
        if (named)
            let_files_have_names();
        aflock *lock = open_soft(_i);
        must_fail(lock, SEAM_CLOSE, EDQUOT, "close");
        must_fail(lock, SEAM_DUP, EMFILE, "close");
    }
}
END_TEST

/* Here nothing is told so late, and nothing is closed for it. */
START_TEST(what_no_server_has_is_not_flushed)
{
    aflock *lock = open_soft(_i);
    must_get_soft(lock);
    const int closed = seam_count(SEAM_CLOSE);
    must_get_soft(lock);
    ck_assert_int_eq(seam_count(SEAM_CLOSE), closed + 1);
    ck_assert_int_eq(seam_count(SEAM_DUP), 0);
}
END_TEST

/* Not even which file it is can be told: anybody breaks it soon. */
START_TEST(a_marker_that_is_not_known)
{
    let_files_have_names();
    aflock *lock = open_soft(_i);
    make_fail(SEAM_FSTAT, EIO);
    answer a = scene_acquire(lock, NULL);
    make_fail(SEAM_CALLS, 0);
    ck_assert_int_eq(a.result.status, AFLOCK_ESYS);
    ck_assert_int_eq(a.result.sys_errno, EIO);
    ck_assert_str_eq(a.step, "fstat");
    must_respect(lock);
    make_older("lock", 2);
    must_get_soft(lock);
}
END_TEST

START_TEST(a_umask_that_forbids_to_write)
{
    for (int files_have_names = 0; files_have_names < 2; files_have_names++) {
        if (files_have_names)
            let_files_have_names();
        aflock *lock = open_soft(_i);
        umask(0277);
        answer a = scene_acquire(lock, NULL);
        ck_assert_int_eq(a.result.status, AFLOCK_EACCES);
        ck_assert_str_eq(a.step, "umask");
        ck_assert_int_eq(scene_entries("."), 0);
        umask(022);
        must_get_soft(lock);
        ck_assert_int_eq(aflock_close(lock), 0);
    }
}
END_TEST

static void remove_folder(void)
{
    seam_before(SEAM_TMPFILE, NULL);
    ck_assert_int_eq(rmdir("folder"), 0);
}

START_TEST(in_a_folder_that_vanishes)
{
    aflock *lock;
    const aflock_options o = soft_options(_i);
    ck_assert_int_eq(aflock_open(&lock, scene, "folder/lock", &o), 0);
    seam_before(SEAM_TMPFILE, remove_folder);
    answer a = scene_acquire(lock, NULL);
    ck_assert_int_eq(a.result.status, 0);
    must_be_ours_soft("folder/lock");
    ck_assert_int_eq(seam_count(SEAM_CREATE), 0);
    must_release(lock, a.result.req);
}
END_TEST

static int refuse_the_root(seam_call call, int fd, const char *path)
{
    (void)fd;
    return path && (call == SEAM_TMPFILE || call == SEAM_CREATE)
               ? !strcmp(path, call == SEAM_CREATE ? "/aflock-test" : "/") ? EROFS : EDOM
               : 0;
}

START_TEST(in_the_root_folder)
{
    aflock *lock;
    const aflock_options o = soft_options(_i);
    ck_assert_int_eq(aflock_open(&lock, scene, "/aflock-test", &o), 0);
    seam_judge_by(refuse_the_root, NULL);
    answer a = scene_acquire(lock, NULL);
    seam_judge_by(NULL, NULL);
    ck_assert_int_eq(a.result.status, AFLOCK_EROFS);
    ck_assert_int_eq(seam_count(SEAM_TMPFILE), 1);
}
END_TEST

int main(void)
{
    const TTest *const each[] = {it_has_no_name_before_it_is_complete,
                                 a_record_in_many_writes,
                                 its_rights_are_those_of_a_file_that_is_created,
                                 a_kill_leaves_nothing_or_a_record,
                                 a_kill_leaves_nothing_or_a_record_in_new_folders,
                                 a_kill_leaves_nothing_or_a_record_after_another,
                                 what_is_not_to_be_had_is_asked_for_once,
                                 what_fails_is_tried_again,
                                 who_waits_asks_by_creating,
                                 who_waits_has_one_ready,
                                 what_is_ready_may_not_do,
                                 somebody_was_faster,
                                 who_listens_to_it_is_woken,
                                 what_was_lost_before_it_was_written,
                                 it_has_got_its_name_already,
                                 no_marker_can_be_made,
                                 no_marker_with_a_name_can_be_made,
                                 what_a_server_tells_late,
                                 what_no_server_has_is_not_flushed,
                                 a_marker_that_is_not_known,
                                 a_umask_that_forbids_to_write,
                                 in_a_folder_that_vanishes,
                                 in_the_root_folder,
                                 NULL};
    return scene_main("marker", NULL, each);
}
