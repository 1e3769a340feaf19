/* What only root can arrange: file systems that are read-only or full, and files of other users. Each test mounts in a
 * mount namespace of its own. Without the right to do so the tests are skipped, and their names are printed. */
#include "support/scene.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SKIPPED = 77 };

static bool enter_namespace(void)
{
    return unshare(CLONE_NEWNS) == 0 && mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0;
}

static void mount_at(const char *folder, unsigned long flags, const char *options)
{
    ck_assert_int_eq(mkdir(folder, 0777), 0);
    ck_assert(enter_namespace());
    ck_assert_int_eq(mount("tmpfs", folder, "tmpfs", flags, options), 0);
}

static void refused(const char *path, aflock_io io, int status, int error, const char *step)
{
    aflock *lock = scene_open(path, io);
    int descriptors = scene_descriptors();
    answer a = scene_acquire(lock, NULL);
    ck_assert_str_eq(aflock_error_name(a.result.status), aflock_error_name(status));
    ck_assert_int_eq(a.result.sys_errno, error);
    ck_assert_str_eq(a.step, step);
    ck_assert_int_eq(scene_descriptors(), descriptors);
}

START_TEST(read_only_file_system)
{
    mount_at("m", 0, NULL);
    scene_write("m/file", "text");
    ck_assert_int_eq(mount(NULL, "m", NULL, MS_REMOUNT | MS_RDONLY, NULL), 0);
    refused("m/new", scene_io(_i), AFLOCK_EROFS, EROFS, "open");
    refused("m/a/b", scene_io(_i), AFLOCK_EROFS, EROFS, "mkdir");
    refused("m/file", scene_io(_i), AFLOCK_EROFS, EROFS, "open");
    ck_assert_int_eq(scene_entries("m"), 1);

    aflock *lock = scene_open("m/file", scene_io(_i));
    aflock_acquire_options o = scene_options(AFLOCK_READ_ONLY, 0);
    aflock_req req = scene_hold(lock, &o); /* what is there can be locked */
    ck_assert(!scene_is_free("m/file", LOCK_SH));
    ck_assert_int_eq(scene_release(lock, req).result.status, 0);

    ck_assert_int_eq(mount(NULL, "m", NULL, MS_REMOUNT, NULL), 0);
    scene_must_work(lock);
    scene_must_work(scene_open("m/a/b", scene_io(_i)));
    ck_assert_int_eq(umount2("m", MNT_DETACH), 0);
}
END_TEST

START_TEST(full_file_system)
{
    mount_at("m", 0, "nr_inodes=2"); /* its root is one */
    scene_write("m/filler", "");
    refused("m/new", scene_io(_i), AFLOCK_ENOSPC, ENOSPC, "open");
    refused("m/a/b", scene_io(_i), AFLOCK_ENOSPC, ENOSPC, "mkdir");
    ck_assert_int_eq(scene_entries("m"), 1);
    ck_assert_int_eq(unlink("m/filler"), 0);
    scene_must_work(scene_open("m/new", scene_io(_i)));
    ck_assert_int_eq(umount2("m", MNT_DETACH), 0);
}
END_TEST

/* Half of the parents could be made: they stay, and nothing else. */
START_TEST(file_system_that_becomes_full)
{
    mount_at("m", 0, "nr_inodes=3");
    refused("m/a/b/c/lock", scene_io(_i), AFLOCK_ENOSPC, ENOSPC, "mkdir");
    ck_assert_int_eq(scene_entries("m/a/b"), 0);
    refused("m/a/b/lock", scene_io(_i), AFLOCK_ENOSPC, ENOSPC, "open");
    ck_assert_int_eq(scene_entries("m/a/b"), 0);
    ck_assert_int_eq(rmdir("m/a/b"), 0);
    scene_must_work(scene_open("m/a/lock", scene_io(_i)));
    ck_assert_int_eq(umount2("m", MNT_DETACH), 0);
}
END_TEST

START_TEST(two_mounts_of_one_folder_are_one_queue)
{
    mount_at("m", 0, NULL);
    ck_assert_int_eq(mkdir("n", 0777), 0);
    ck_assert_int_eq(mount("m", "n", NULL, MS_BIND, NULL), 0);
    aflock *one = scene_open("m/lock", scene_io(_i)), *other = scene_open("n/lock", scene_io(_i));
    aflock_req req = scene_hold(one, NULL);
    aflock_acquire_options o = scene_options(0, 0);
    o.timeout = 0;
    answer a = scene_acquire(other, &o);
    ck_assert_int_eq(a.result.status, AFLOCK_EWOULDBLOCK);
    ck_assert_uint_eq(a.result.attempts, 0); /* known without asking the file */
    ck_assert_int_eq(scene_release(one, req).result.status, 0);
    scene_must_work(other);
    ck_assert_int_eq(umount2("n", MNT_DETACH), 0);
    ck_assert_int_eq(umount2("m", MNT_DETACH), 0);
}
END_TEST

/* ------------------------------------------------------------------------------------------- files that stay open */

static aflock *open_keeper(const char *path, aflock_io io)
{
    aflock *lock;
    aflock_options o;
    aflock_options_init(&o);
    o.io = io;
    o.keep_open = 1;
    ck_assert_int_eq(aflock_open(&lock, scene, path, &o), 0);
    return lock;
}

/* What may not be touched is opened and closed once more, which is heard, and stays open. */
static void hears_of_a_release(aflock *lock, const char *path)
{
    struct inotify_event event = {.mask = 0};
    aflock_acquire_options o = scene_options(AFLOCK_READ_ONLY, AFLOCK_CREATE);
    aflock_req req = scene_hold(lock, &o);
    int fd = aflock_fd(lock, req), ear = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    ck_assert_int_ge(ear, 0);
    ck_assert_int_ge(inotify_add_watch(ear, path, IN_CLOSE | IN_ATTRIB), 0);
    seam_forget();
    ck_assert_int_eq(scene_release(lock, req).result.status, 0);
    ck_assert_int_eq(seam_count(SEAM_TOUCH), 1);
    ck_assert_int_eq(seam_count(SEAM_OPEN), 1);
    ck_assert_int_eq(read(ear, &event, sizeof event), sizeof event);
    ck_assert_uint_eq(event.mask, IN_CLOSE_NOWRITE);
    ck_assert_int_ge(fcntl(fd, F_GETFD), 0);
    ck_assert_int_eq(read(ear, &event, sizeof event), -1);
    close(ear);
    ck_assert(scene_is_free(path, LOCK_SH));
}

START_TEST(kept_open_on_a_read_only_file_system)
{
    mount_at("m", 0, NULL);
    scene_write("m/file", "text");
    ck_assert_int_eq(mount(NULL, "m", NULL, MS_REMOUNT | MS_RDONLY, NULL), 0);
    aflock *lock = open_keeper("m/file", scene_io(_i));
    hears_of_a_release(lock, "m/file");
    ck_assert_int_ne(umount("m"), 0); /* it is open */
    ck_assert_int_eq(aflock_close(lock), 0);
    while (aflock_epoll_alive(scene))
        ck_assert_int_eq(aflock_epoll_run_once(scene, AFLOCK_SECOND), 0);
    ck_assert_int_eq(umount("m"), 0);
}
END_TEST

enum { SOMEBODY = 65534 };
static aflock_io io_of_child;

static void use_as_somebody(void)
{
    scene = NULL; /* the parent's */
    ck_assert_int_eq(setgid(SOMEBODY), 0);
    ck_assert_int_eq(setuid(SOMEBODY), 0);
    scene_make_context();
    hears_of_a_release(open_keeper("file", io_of_child), "file");
    scene_free_context();
}

START_TEST(kept_open_of_another_user)
{
    scene_write("file", "text");
    ck_assert_int_eq(chmod("file", 0644), 0);
    ck_assert_int_eq(chmod(".", 0755), 0);
    if (scene_mode("..") == 0700)
        ck_assert_int_eq(chmod("..", 0755), 0);
    io_of_child = scene_io(_i);
    scene_in_child(use_as_somebody);
}
END_TEST

static bool can_mount(void)
{
    int status;
    pid_t pid = fork();
    if (pid == 0)
        _exit(enter_namespace() && mount("tmpfs", "/tmp", "tmpfs", 0, NULL) == 0 ? 0 : 1);
    return pid > 0 && waitpid(pid, &status, 0) == pid && status == 0;
}

int main(void)
{
    const TTest *const each[] = {
        read_only_file_system,
        full_file_system,
        file_system_that_becomes_full,
        two_mounts_of_one_folder_are_one_queue,
        kept_open_on_a_read_only_file_system,
        kept_open_of_another_user,
        NULL,
    };
    if (can_mount())
        return scene_main("native: mounts", NULL, each);
    for (size_t i = 0; each[i]; i++)
        printf("skipped, may not mount: %s\n", each[i]->name);
    return SKIPPED;
}
