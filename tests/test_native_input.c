/* What bad input gets: each case a named error with the step and the errno, nothing left on disk or locked, no
 * descriptor lost (scene_end counts them), and an object that works afterwards. */
#include "support/scene.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum { NOBODY = 65534 };

/* The request is refused; everything is as before. */
static void refused(aflock *lock, const aflock_acquire_options *o, int status, const char *step, int error)
{
    int descriptors = scene_descriptors();
    answer a = scene_acquire(lock, o);
    ck_assert_str_eq(aflock_error_name(a.result.status), aflock_error_name(status));
    ck_assert_str_eq(a.step, step);
    ck_assert_int_eq(a.result.sys_errno, error);
    ck_assert_int_eq(a.result.cleanup_errno, 0);
    ck_assert_int_eq(a.result.fd, -1);
    ck_assert_int_eq(aflock_depth(lock, NULL), 0);
    ck_assert_int_eq(aflock_release(lock, a.result.req, NULL, NULL), AFLOCK_ESTALE);
    ck_assert_int_eq(scene_descriptors(), descriptors);
}

/* ------------------------------------------------------------------------------------------------------ bad paths */

START_TEST(empty_path)
{
    aflock *lock = (aflock *)&lock;
    ck_assert_int_eq(aflock_open(&lock, scene, "", NULL), AFLOCK_EINVAL);
    ck_assert_ptr_null(lock);
}
END_TEST

START_TEST(path_too_long)
{
    char path[PATH_MAX + 2] = "";
    aflock *lock = (aflock *)&lock;
    scene_long_path(path, PATH_MAX + 1);
    path[0] = '/';
    path[1] = 'y';
    ck_assert_int_eq(aflock_open(&lock, scene, path, NULL), AFLOCK_ENAMETOOLONG);
    ck_assert_ptr_null(lock);
    path[PATH_MAX] = '\0'; /* with its final byte one too many */
    path[PATH_MAX - 1] = 'z';
    ck_assert_int_eq(aflock_open(&lock, scene, path, NULL), AFLOCK_ENAMETOOLONG);
    path[PATH_MAX - 1] = '\0';
    ck_assert_int_eq(aflock_open(&lock, scene, path, NULL), 0);
    ck_assert_uint_eq(strlen(aflock_path(lock)), PATH_MAX - 1);
    ck_assert_int_eq(aflock_close(lock), 0);
}
END_TEST

START_TEST(relative_path_too_long_with_its_directory)
{
    char path[PATH_MAX];
    aflock *lock;
    scene_long_path(path, PATH_MAX - 1);
    ck_assert_int_eq(aflock_open(&lock, scene, path, NULL), AFLOCK_ENAMETOOLONG);
}
END_TEST

START_TEST(relative_path_without_a_directory)
{
    aflock *lock;
    ck_assert_int_eq(mkdir("gone", 0777), 0);
    ck_assert_int_eq(chdir("gone"), 0);
    ck_assert_int_eq(rmdir("../gone"), 0);
    ck_assert_int_eq(aflock_open(&lock, scene, "lock", NULL), AFLOCK_ENOENT);
    ck_assert_ptr_null(lock);
    ck_assert_int_eq(chdir(scene_directory), 0);
    scene_must_work(scene_open("lock", AFLOCK_IO_AUTO));
}
END_TEST

START_TEST(component_too_long)
{
    char name[257];
    memset(name, 'x', sizeof name);
    name[256] = '\0';
    aflock *lock;
    ck_assert_int_eq(aflock_open(&lock, scene, name, NULL), AFLOCK_ENAMETOOLONG);
    char inner[PATH_MAX];
    snprintf(inner, sizeof inner, "a/%s/b", name);
    ck_assert_int_eq(aflock_open(&lock, scene, inner, NULL), AFLOCK_ENAMETOOLONG);
    name[255] = '\0';
    lock = scene_open(name, AFLOCK_IO_AUTO);
    scene_must_work(lock);
}
END_TEST

/* File systems with a lower limit than the library's. */
START_TEST(component_too_long_for_the_file_system)
{
    aflock *lock = scene_open("f", scene_io(_i));
    seam_fail(SEAM_CREATE, 0, 1, ENAMETOOLONG);
    refused(lock, NULL, AFLOCK_ENAMETOOLONG, "open", ENAMETOOLONG);
    scene_must_work(lock);
}
END_TEST

START_TEST(directory)
{
    ck_assert_int_eq(mkdir("d", 0777), 0);
    aflock *lock = scene_open("d", scene_io(_i));
    refused(lock, NULL, AFLOCK_EISDIR, "open", EISDIR);
    aflock_acquire_options o = scene_options(AFLOCK_READ_ONLY, 0);
    refused(lock, &o, AFLOCK_EISDIR, "open", EISDIR);
    o = scene_options(AFLOCK_READ_ONLY, AFLOCK_CREATE); /* the open itself succeeds */
    refused(lock, &o, AFLOCK_EISDIR, "open", EISDIR);
    ck_assert(scene_is_free("d", LOCK_EX));
    ck_assert_int_eq(scene_entries("d"), 0);
    ck_assert_int_eq(rmdir("d"), 0);
    scene_must_work(lock);
}
END_TEST

START_TEST(roots_and_dots)
{
    aflock *lock = scene_open("/", scene_io(_i));
    ck_assert_str_eq(aflock_path(lock), "/");
    refused(lock, NULL, AFLOCK_EISDIR, "open", EISDIR);
    lock = scene_open(".", scene_io(_i));
    ck_assert_str_eq(aflock_path(lock), scene_directory);
    refused(lock, NULL, AFLOCK_EISDIR, "open", EISDIR);
    lock = scene_open("x/..", scene_io(_i));
    ck_assert_int_eq(mkdir("x", 0777), 0);
    refused(lock, NULL, AFLOCK_EISDIR, "open", EISDIR);
}
END_TEST

START_TEST(symbolic_link)
{
    scene_write("target", "text");
    ck_assert_int_eq(symlink("target", "link"), 0);
    aflock *lock = scene_open("link", scene_io(_i));
    refused(lock, NULL, AFLOCK_ELOOP, "open", ELOOP);
    ck_assert(scene_is_free("target", LOCK_EX));
    ck_assert_int_eq(unlink("link"), 0);
    scene_must_work(lock);
    ck_assert_int_eq(scene_size("target"), 4);
}
END_TEST

START_TEST(dangling_symbolic_link)
{
    ck_assert_int_eq(symlink("nowhere", "link"), 0);
    aflock *lock = scene_open("link", scene_io(_i));
    refused(lock, NULL, AFLOCK_ELOOP, "open", ELOOP);
    ck_assert_int_eq(scene_size("nowhere"), -1);
}
END_TEST

START_TEST(circle_of_symbolic_links)
{
    ck_assert_int_eq(symlink("a", "b"), 0);
    ck_assert_int_eq(symlink("b", "a"), 0);
    aflock *lock = scene_open("a", scene_io(_i));
    aflock_acquire_options o = scene_options(AFLOCK_FOLLOW, 0);
    refused(lock, &o, AFLOCK_ELOOP, "open", ELOOP);
}
END_TEST

START_TEST(fifo)
{
    ck_assert_int_eq(mkfifo("fifo", 0666), 0);
    aflock *lock = scene_open("fifo", scene_io(_i));
    refused(lock, NULL, AFLOCK_ENOTFILE, "open", ENXIO);
    aflock_acquire_options o = scene_options(AFLOCK_READ_ONLY | AFLOCK_DIRECTORY, 0);
    refused(lock, &o, AFLOCK_ENOTFILE, "open", ENXIO);
    ck_assert(scene_is_free("fifo", LOCK_EX));
    ck_assert_int_eq(unlink("fifo"), 0);
    scene_must_work(lock);
}
END_TEST

START_TEST(device)
{
    aflock *lock = scene_open("/dev/null", scene_io(_i));
    refused(lock, NULL, AFLOCK_ENOTFILE, "open", ENXIO);
    aflock_acquire_options o = scene_options(AFLOCK_TRUNCATE, 0);
    o.file_mode = 0600;
    refused(lock, &o, AFLOCK_ENOTFILE, "open", ENXIO);
    ck_assert_uint_eq(scene_mode("/dev/null"), 0666);
    ck_assert(scene_is_free("/dev/null", LOCK_EX));
}
END_TEST

START_TEST(local_socket)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "socket"};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ck_assert_int_eq(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
    close(fd);
    aflock *lock = scene_open("socket", scene_io(_i));
    refused(lock, NULL, AFLOCK_ENOTFILE, "open", ENXIO);
    ck_assert_int_eq(unlink("socket"), 0);
    scene_must_work(lock);
}
END_TEST

START_TEST(file_as_directory)
{
    scene_write("file", "text");
    aflock *lock = scene_open("file/lock", scene_io(_i));
    refused(lock, NULL, AFLOCK_ENOTDIR, "open parent", ENOTDIR);
    ck_assert_int_eq(scene_size("file"), 4);
    ck_assert_int_eq(unlink("file"), 0);
    scene_must_work(lock);
}
END_TEST

START_TEST(missing_parent_that_must_not_be_made)
{
    aflock *lock = scene_open("a/b/lock", scene_io(_i));
    aflock_acquire_options o = scene_options(0, AFLOCK_MAKE_PARENTS);
    refused(lock, &o, AFLOCK_ENOENT, "open parent", ENOENT);
    ck_assert_int_eq(scene_entries("."), 0);
    ck_assert_int_eq(mkdir("a", 0777), 0);
    ck_assert_int_eq(mkdir("a/b", 0777), 0);
    scene_must_work(lock);
    ck_assert_int_eq(unlink("a/b/lock"), 0);
    ck_assert_int_eq(rmdir("a/b"), 0); /* now the queue knows where the path led */
    refused(lock, &o, AFLOCK_ENOENT, "open", ENOENT);
    scene_must_work(lock);
}
END_TEST

START_TEST(missing_file_that_must_not_be_made)
{
    aflock *lock = scene_open("lock", scene_io(_i));
    aflock_acquire_options o = scene_options(0, AFLOCK_CREATE);
    refused(lock, &o, AFLOCK_ENOENT, "open", ENOENT);
    ck_assert_int_eq(scene_entries("."), 0);
    scene_must_work(lock);
}
END_TEST

/* Parents are made for a file, not for nothing. */
START_TEST(no_parents_for_a_file_that_must_not_be_made)
{
    aflock *lock = scene_open("a/lock", scene_io(_i));
    aflock_acquire_options o = scene_options(AFLOCK_MAKE_PARENTS, AFLOCK_CREATE);
    refused(lock, &o, AFLOCK_ENOENT, "open parent", ENOENT);
    ck_assert_int_eq(scene_entries("."), 0);
    scene_must_work(lock);
}
END_TEST

START_TEST(parent_that_is_a_dangling_link)
{
    ck_assert_int_eq(symlink("nowhere", "link"), 0);
    aflock *lock = scene_open("link/a/lock", scene_io(_i));
    refused(lock, NULL, AFLOCK_ENOENT, "mkdir", ENOENT);
    ck_assert_int_eq(scene_entries("."), 1);
    ck_assert_int_eq(mkdir("nowhere", 0777), 0);
    scene_must_work(lock);
    ck_assert_int_eq(scene_size("nowhere/a/lock"), 0);
}
END_TEST

/* ------------------------------------------------------------------------------------------------------ permission */

/* In a process without privileges, on a context of its own. */
static void without_privileges(void (*body)(void))
{
    scene_free_context();
    scene_in_child(body);
    scene_make_context();
}

static void become_nobody(void)
{
    if (geteuid() == 0)
        ck_assert(setresgid(NOBODY, NOBODY, NOBODY) == 0 && setresuid(NOBODY, NOBODY, NOBODY) == 0);
    scene_make_context();
}

static aflock_io io_of_child;

static void forbidden_file(void)
{
    become_nobody();
    aflock *lock = scene_open("file", io_of_child);
    refused(lock, NULL, AFLOCK_EACCES, "open", EACCES);
    aflock *folder = scene_open("folder/lock", io_of_child);
    refused(folder, NULL, AFLOCK_EACCES, "open", EACCES);
    aflock *deep = scene_open("folder/a/b/lock", io_of_child);
    refused(deep, NULL, AFLOCK_EACCES, "mkdir", EACCES);
    scene_free_context();
}

START_TEST(no_permission)
{
    io_of_child = scene_io(_i);
    scene_write("file", "");
    ck_assert_int_eq(chmod("file", 0), 0);
    ck_assert_int_eq(mkdir("folder", 0777), 0);
    ck_assert_int_eq(chmod("folder", 0555), 0);
    ck_assert_int_eq(chmod(".", 0755), 0);
    without_privileges(forbidden_file);
    ck_assert_int_eq(scene_entries("folder"), 0);
    ck_assert_int_eq(chmod("folder", 0777), 0);
}
END_TEST

static void readable_file(void)
{
    become_nobody();
    aflock *lock = scene_open("file", io_of_child);
    refused(lock, NULL, AFLOCK_EACCES, "open", EACCES);
    aflock_acquire_options o = scene_options(AFLOCK_READ_ONLY, 0);
    aflock_req req = scene_hold(lock, &o); /* the same object, asked for less */
    ck_assert(!scene_is_free("file", LOCK_SH));
    ck_assert_int_eq(scene_release(lock, req).result.status, 0);
    scene_free_context();
}

START_TEST(permission_to_read_only)
{
    io_of_child = scene_io(_i);
    scene_write("file", "text");
    ck_assert_int_eq(chmod("file", 0444), 0);
    ck_assert_int_eq(chmod(".", 0555), 0);
    without_privileges(readable_file);
    ck_assert_int_eq(chmod(".", 0755), 0);
    ck_assert_int_eq(scene_size("file"), 4);
}
END_TEST

static void folder_that_cannot_be_searched(void)
{
    become_nobody();
    refused(scene_open("folder/lock", io_of_child), NULL, AFLOCK_EACCES, "open", EACCES);
    refused(scene_open("folder/inner/lock", io_of_child), NULL, AFLOCK_EACCES, "open parent", EACCES);
    scene_free_context();
}

START_TEST(no_permission_to_search)
{
    io_of_child = scene_io(_i);
    ck_assert_int_eq(mkdir("folder", 0777), 0);
    ck_assert_int_eq(mkdir("folder/inner", 0777), 0);
    ck_assert_int_eq(chmod("folder", 0), 0);
    ck_assert_int_eq(chmod(".", 0755), 0);
    without_privileges(folder_that_cannot_be_searched);
    ck_assert_int_eq(chmod("folder", 0700), 0);
}
END_TEST

/* ------------------------------------------------------------------------------------------------------- arguments */

static int never(const aflock_dump_entry *entry, void *user)
{
    (void)entry, (void)user;
    ck_abort_msg("called");
    return 0;
}

static void no_inspection(aflock *lock, const aflock_holder *holder, void *user)
{
    (void)lock, (void)holder, (void)user;
    ck_abort_msg("called");
}

START_TEST(null_arguments)
{
    aflock *lock = scene_open("lock", AFLOCK_IO_AUTO), *other = lock;
    aflock_req req = {0};
    aflock_token *token;
    aflock_ctx *ctx;

    ck_assert_int_eq(aflock_open(NULL, scene, "x", NULL), AFLOCK_EINVAL);
    ck_assert_int_eq(aflock_open(&other, NULL, "x", NULL), AFLOCK_EINVAL);
    ck_assert_ptr_null(other);
    ck_assert_int_eq(aflock_open(&other, scene, NULL, NULL), AFLOCK_EINVAL);
    ck_assert_int_eq(aflock_open_fd(NULL, scene, 0, NULL), AFLOCK_EINVAL);
    ck_assert_int_eq(aflock_open_fd(&other, NULL, 0, NULL), AFLOCK_EINVAL);
    ck_assert_int_eq(aflock_open_fd(&other, scene, -1, NULL), AFLOCK_EINVAL);
    ck_assert_int_eq(aflock_open_fd(&other, scene, 1000, NULL), AFLOCK_EINVAL);
    ck_assert_int_eq(aflock_close(NULL), 0);
    ck_assert_int_eq(aflock_acquire(NULL, NULL, scene_answer, NULL, &req), AFLOCK_EINVAL);
    ck_assert_int_eq(aflock_acquire(lock, NULL, NULL, NULL, &req), AFLOCK_EINVAL);
    ck_assert_int_eq(aflock_try(NULL, NULL, &req, NULL), AFLOCK_EINVAL);
    ck_assert_int_eq(aflock_try(lock, NULL, NULL, NULL), AFLOCK_EINVAL);
    ck_assert_int_eq(aflock_cancel(NULL, req), AFLOCK_EINVAL);
    ck_assert_int_eq(aflock_release(NULL, req, NULL, NULL), AFLOCK_EINVAL);
    ck_assert_int_eq(aflock_release_all(NULL, req, NULL, NULL), AFLOCK_EINVAL);
    ck_assert_int_eq(aflock_fd(NULL, req), AFLOCK_EINVAL);
    ck_assert_int_eq(aflock_depth(NULL, NULL), AFLOCK_EINVAL);
    ck_assert_int_eq(aflock_verify(NULL, req, scene_answer, NULL), AFLOCK_EINVAL);
    ck_assert_int_eq(aflock_verify(lock, req, NULL, NULL), AFLOCK_EINVAL);
    ck_assert_int_eq(aflock_inspect(NULL, no_inspection, NULL), AFLOCK_EINVAL);
    ck_assert_int_eq(aflock_inspect(lock, NULL, NULL), AFLOCK_EINVAL);
    ck_assert_int_eq(aflock_set_poll_interval(NULL, AFLOCK_SECOND), AFLOCK_EINVAL);
    ck_assert_int_eq(aflock_dump(NULL, never, NULL), AFLOCK_EINVAL);
    ck_assert_int_eq(aflock_dump(scene, NULL, NULL), AFLOCK_EINVAL);
    ck_assert_int_eq(aflock_ctx_drain(NULL, NULL, NULL), AFLOCK_EINVAL);
    ck_assert_int_eq(aflock_ctx_drain(scene, NULL, NULL), AFLOCK_EINVAL);
    ck_assert_int_eq(aflock_ctx_abandon(NULL), AFLOCK_EINVAL);
    ck_assert_int_eq(aflock_ctx_abandon(scene), AFLOCK_EINVAL);
    ck_assert_int_eq(aflock_ctx_free(NULL, 0), 0);
    ck_assert_int_eq(aflock_token_new(NULL, scene), AFLOCK_EINVAL);
    ck_assert_int_eq(aflock_token_new(&token, NULL), AFLOCK_EINVAL);
    ck_assert_int_eq(aflock_epoll_new(NULL, NULL), AFLOCK_EINVAL);
    ck_assert_int_eq(aflock_epoll_run(NULL), AFLOCK_EINVAL);
    ck_assert_int_eq(aflock_epoll_run_once(NULL, 0), AFLOCK_EINVAL);
    ck_assert_int_eq(aflock_epoll_fd(NULL), AFLOCK_EINVAL);
    ck_assert_int_eq(aflock_epoll_alive(NULL), AFLOCK_EINVAL);
    aflock_epoll_stop(NULL);
    aflock_token_fire(NULL);
    aflock_token_free(NULL);
    ck_assert_int_eq(aflock_token_fired(NULL), 0);
    ck_assert_ptr_null(aflock_path(NULL));
    ck_assert_ptr_null(aflock_context(NULL));
    aflock_options_init(NULL);
    aflock_acquire_options_init(NULL);
    aflock_ctx_options_init(NULL);
    aflock_epoll_options_init(NULL);

    aflock_epoll_options e;
    aflock_epoll_options_init(&e);
    e.size = 0;
    ck_assert_int_eq(aflock_epoll_new(&ctx, &e), AFLOCK_EINVAL);
    ck_assert_int_eq(scene_entries("."), 0);
    scene_must_work(lock);
}
END_TEST

static const size_t BAD_SIZES[] = {0, 1, SIZE_MAX};
enum { BAD_SIZE_COUNT = sizeof BAD_SIZES / sizeof BAD_SIZES[0] };

START_TEST(sizes)
{
    aflock *lock = scene_open("lock", AFLOCK_IO_AUTO), *other;
    aflock_req req;
    aflock_ctx *ctx;
    for (int i = 0; i <= BAD_SIZE_COUNT; i++) {
        aflock_options o;
        aflock_acquire_options a;
        aflock_ctx_options c;
        aflock_epoll_options e, outer;
        aflock_options_init(&o);
        aflock_acquire_options_init(&a);
        aflock_ctx_options_init(&c);
        aflock_epoll_options_init(&e);
        aflock_epoll_options_init(&outer);
        o.size = i < BAD_SIZE_COUNT ? BAD_SIZES[i] : sizeof o + 8;
        a.size = i < BAD_SIZE_COUNT ? BAD_SIZES[i] : sizeof a + 8;
        c.size = i < BAD_SIZE_COUNT ? BAD_SIZES[i] : sizeof c + 8;
        e.size = i < BAD_SIZE_COUNT ? BAD_SIZES[i] : sizeof e + 8;
        outer.ctx = &c;
        int descriptors = scene_descriptors();
        ck_assert_int_eq(aflock_open(&other, scene, "x", &o), AFLOCK_EINVAL);
        ck_assert_int_eq(aflock_open_fd(&other, scene, 0, &o), AFLOCK_EINVAL);
        ck_assert_int_eq(aflock_acquire(lock, &a, scene_answer, NULL, &req), AFLOCK_EINVAL);
        ck_assert_int_eq(aflock_try(lock, &a, &req, NULL), AFLOCK_EINVAL);
        ck_assert_int_eq(aflock_epoll_new(&ctx, &e), AFLOCK_EINVAL);
        ck_assert_int_eq(aflock_epoll_new(&ctx, &outer), AFLOCK_EINVAL);
        ck_assert_int_eq(scene_descriptors(), descriptors);
    }
    scene_must_work(lock);
}
END_TEST

START_TEST(values_out_of_range)
{
    aflock *lock = scene_open("lock", AFLOCK_IO_AUTO), *other;
    aflock_req req;
    aflock_options o, good;
    aflock_options_init(&good);
    o = good, o.protocol = (aflock_protocol)99;
    ck_assert_int_eq(aflock_open(&other, scene, "x", &o), AFLOCK_EINVAL);
    o = good, o.io = (aflock_io)3;
    ck_assert_int_eq(aflock_open(&other, scene, "x", &o), AFLOCK_EINVAL);
    o = good, o.poll_interval = 999;
    ck_assert_int_eq(aflock_open(&other, scene, "x", &o), AFLOCK_EINVAL);
    ck_assert_int_eq(aflock_set_poll_interval(lock, 999), AFLOCK_EINVAL);

    aflock_acquire_options a = scene_options(0, 0);
    a.mode = (aflock_mode)2;
    ck_assert_int_eq(aflock_acquire(lock, &a, scene_answer, NULL, &req), AFLOCK_EINVAL);
    a = scene_options(AFLOCK_REWIND << 1, 0);
    ck_assert_int_eq(aflock_acquire(lock, &a, scene_answer, NULL, &req), AFLOCK_EINVAL);
    a = scene_options(0, 0), a.file_mode = 010000;
    ck_assert_int_eq(aflock_acquire(lock, &a, scene_answer, NULL, &req), AFLOCK_EINVAL);
    a = scene_options(AFLOCK_READ_ONLY | AFLOCK_TRUNCATE, 0);
    ck_assert_int_eq(aflock_acquire(lock, &a, scene_answer, NULL, &req), AFLOCK_EINVAL);
    ck_assert_int_eq(scene_entries("."), 0);
    scene_must_work(lock);
}
END_TEST

/* -------------------------------------------------------------------------------------------------- wrong moments */

static void all_say(aflock *lock, aflock_req req, int status)
{
    ck_assert_int_eq(aflock_cancel(lock, req), status);
    ck_assert_int_eq(aflock_release(lock, req, NULL, NULL), status);
    ck_assert_int_eq(aflock_release_all(lock, req, NULL, NULL), status);
    ck_assert_int_eq(aflock_fd(lock, req), status);
    ck_assert_int_eq(aflock_verify(lock, req, scene_answer, NULL), status);
}

START_TEST(stale_request)
{
    aflock *lock = scene_open("lock", scene_io(_i)), *other = scene_open("other", scene_io(_i));
    all_say(lock, (aflock_req){0}, AFLOCK_ESTALE);
    all_say(lock, (aflock_req){UINT64_MAX}, AFLOCK_ESTALE);
    aflock_req req = scene_hold(lock, NULL);
    all_say(other, req, AFLOCK_ESTALE);
    ck_assert_int_eq(scene_release(lock, req).result.status, 0);
    all_say(lock, req, AFLOCK_ESTALE);
    aflock_req next = scene_hold(lock, NULL); /* in the memory of the first */
    all_say(lock, req, AFLOCK_ESTALE);
    ck_assert(!scene_is_free("lock", LOCK_SH));
    ck_assert_int_eq(scene_release(lock, next).result.status, 0);
}
END_TEST

START_TEST(release_while_waiting)
{
    pid_t pid = scene_holder("lock", O_RDWR | O_CREAT, LOCK_EX);
    aflock *lock = scene_open("lock", scene_io(_i));
    answer a = {0};
    aflock_req req;
    aflock_acquire_options o = scene_options(0, 0);
    ck_assert_int_eq(aflock_acquire(lock, &o, scene_answer, &a, &req), 0);
    scene_expect(1);
    scene_run_until(&scene_contended, 2);
    ck_assert_int_eq(aflock_release(lock, req, NULL, NULL), AFLOCK_ENOTHELD);
    ck_assert_int_eq(aflock_release_all(lock, req, NULL, NULL), AFLOCK_ENOTHELD);
    ck_assert_int_eq(aflock_fd(lock, req), AFLOCK_ENOTHELD);
    ck_assert_int_eq(aflock_verify(lock, req, scene_answer, NULL), AFLOCK_ENOTHELD);
    ck_assert_int_eq(aflock_close(lock), AFLOCK_EBUSY);
    scene_holder_end(pid);
    scene_run_until(&a.count, 1);
    ck_assert_int_eq(a.result.status, 0);
    ck_assert_int_eq(aflock_cancel(lock, req), AFLOCK_EHELD);
    ck_assert_int_eq(aflock_close(lock), AFLOCK_EBUSY);
    ck_assert_int_eq(scene_release(lock, req).result.status, 0);
    scene_must_work(lock);
    ck_assert_int_eq(aflock_close(lock), 0);
}
END_TEST

START_TEST(cancelled_wait_leaves_nothing)
{
    pid_t pid = scene_holder("lock", O_RDWR | O_CREAT, LOCK_EX);
    aflock *lock = scene_open("lock", scene_io(_i));
    int descriptors = scene_descriptors();
    answer a = {0};
    aflock_req req;
    ck_assert_int_eq(aflock_acquire(lock, NULL, scene_answer, &a, &req), 0);
    scene_expect(1);
    scene_run_until(&scene_contended, 2);
    ck_assert_int_eq(scene_descriptors(), descriptors + 2); /* kept between attempts, and what it is listened to with */
    ck_assert_int_eq(aflock_cancel(lock, req), 0);
    scene_run_until(&a.count, 1);
    ck_assert_int_eq(a.result.status, AFLOCK_ECANCELED);
    while (aflock_epoll_alive(scene))
        ck_assert_int_eq(aflock_epoll_run_once(scene, AFLOCK_SECOND), 0);
    ck_assert_int_eq(scene_descriptors(), descriptors + 1);
    scene_holder_end(pid);
    scene_must_work(lock);
}
END_TEST

struct in_callback {
    int count, freed, closed, released;
};

static void free_inside(aflock *lock, const aflock_result *result, void *user)
{
    struct in_callback *c = user;
    c->count++;
    ck_assert_int_eq(result->status, 0);
    c->freed = aflock_ctx_free(aflock_context(lock), 0);
    c->closed = aflock_close(lock);
    c->released = aflock_release(lock, result->req, NULL, NULL);
}

START_TEST(freeing_the_context_inside_its_callback)
{
    aflock *lock = scene_open("lock", scene_io(_i));
    struct in_callback c = {0};
    ck_assert_int_eq(aflock_acquire(lock, NULL, free_inside, &c, NULL), 0);
    scene_run_until(&c.count, 1);
    ck_assert_int_eq(c.freed, AFLOCK_EBUSY);
    ck_assert_int_eq(c.closed, AFLOCK_EBUSY);
    ck_assert_int_eq(c.released, 0);
    scene_must_work(lock);
}
END_TEST

static int stop_at_once(const aflock_dump_entry *entry, void *user)
{
    int *count = user;
    ck_assert_int_eq(entry->held, 1);
    (*count)++;
    return 7;
}

START_TEST(dump_stops_and_passes_on)
{
    aflock *lock = scene_open("lock", AFLOCK_IO_AUTO);
    int count = 0;
    ck_assert_int_eq(aflock_dump(scene, stop_at_once, &count), 0);
    aflock_req req = scene_hold(lock, NULL);
    ck_assert_int_eq(aflock_dump(scene, stop_at_once, &count), 7);
    ck_assert_int_eq(count, 1);
    ck_assert_int_eq(scene_release(lock, req).result.status, 0);
}
END_TEST

START_TEST(freeing_what_is_held_gives_it_up)
{
    aflock *lock = scene_open("lock", scene_io(_i));
    scene_hold(lock, NULL);
    ck_assert(!scene_is_free("lock", LOCK_SH));
    scene_free_context();
    ck_assert(scene_is_free("lock", LOCK_EX));
    ck_assert_int_eq(scene_entries("."), 1); /* the file stays */
    scene_make_context();
}
END_TEST

int main(void)
{
    const TTest *const once[] = {
        empty_path,
        path_too_long,
        relative_path_too_long_with_its_directory,
        relative_path_without_a_directory,
        component_too_long,
        null_arguments,
        sizes,
        values_out_of_range,
        dump_stops_and_passes_on,
        NULL,
    };
    const TTest *const each[] = {
        component_too_long_for_the_file_system,
        directory,
        roots_and_dots,
        symbolic_link,
        dangling_symbolic_link,
        circle_of_symbolic_links,
        fifo,
        device,
        local_socket,
        file_as_directory,
        missing_parent_that_must_not_be_made,
        missing_file_that_must_not_be_made,
        no_parents_for_a_file_that_must_not_be_made,
        parent_that_is_a_dangling_link,
        no_permission,
        permission_to_read_only,
        no_permission_to_search,
        stale_request,
        release_while_waiting,
        cancelled_wait_leaves_nothing,
        freeing_the_context_inside_its_callback,
        freeing_what_is_held_gives_it_up,
        NULL,
    };
    return scene_main("native: bad input", once, each);
}
