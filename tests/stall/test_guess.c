/* The device that a path seems to be on, told without asking the file system that may hang: real mounts, links, and a
 * file system that would hang if it were asked. */
#include "runtime/runtime.h"
#include "stall_scene.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

static uint64_t device_at(const char *path)
{
    afl_identity id;
    int fd = open(path, O_PATH | O_CLOEXEC);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(afl_sys_linux.identify(fd, &id), 0);
    close(fd);
    return id.dev;
}

static void mount_tmpfs(const char *folder)
{
    ck_assert_int_eq(mkdir(folder, 0777), 0);
    ck_assert_int_eq(mount("tmpfs", folder, "tmpfs", 0, NULL), 0);
}

static void link_to(const char *name, const char *target)
{
    ck_assert_int_eq(symlink(target, name), 0);
}

static char *absolute(const char *name)
{
    static char text[2][PATH_MAX + 64];
    static int turn;
    turn = !turn;
    snprintf(text[turn], sizeof text[turn], "%s/%s", scene_directory, name);
    return text[turn];
}

static uint64_t guess(const char *name, bool look)
{
    return afl_guess_device(scene->sys, absolute(name), look);
}

/* The seam's table, so that reading links is seen. */
START_TEST(what_paths_seem_to_be_on)
{
    link_to("relative", "m");
    link_to("absolute", absolute("m"));
    link_to("twice", "./relative/../absolute//.");
    link_to("loop", "loop");
    link_to("nowhere", "missing/folder");
    mount_tmpfs("t");
    mount_tmpfs("t/with space\tand \\");
    mount_tmpfs("t/over");
    ck_assert_int_eq(mount("tmpfs", "t/over", "tmpfs", 0, NULL), 0); /* on top of the other */
    ck_assert_int_eq(mkdir("t/n", 0777), 0);
    link_to("t/n/up", "../../m");
    link_to("m.files/inside", "/");
    uint64_t here = device_at("."), dead = device_at("m"), other = device_at("t"),
             escaped = device_at("t/with space\tand \\"), top = device_at("t/over");

    const struct {
        const char *path;
        uint64_t written, real; /* device: taken as it is written; with a look at links */
    } CASES[] = {
        {"f", here, here},
        {"missing/f", here, here},
        {"m.files/d/f", here, here}, /* begins like a mount point */
        {"m", dead, dead},
        {"m/d/f", dead, dead},
        {"m/inside/etc/f", dead, dead}, /* nobody asks the dead mount where that goes */
        {"t/f", other, other},
        {"t/with space\tand \\/f", escaped, escaped},
        {"t/over/f", top, top},
        {"relative/d/f", here, dead},
        {"absolute/f", here, dead},
        {"twice/d/f", here, dead},
        {"t/n/up/f", other, dead},
        {"t/n/../../relative/f", other, dead},
        {"t/../f", other, here},
        {"./t/./n//f", here, other},
        {"nowhere/f", here, here},
        {"loop/f", here, here},
    };
    stall_hang(m, STALL_ALL, "");
    for (size_t i = 0; i < sizeof CASES / sizeof CASES[0]; i++) {
        seam_forget();
        ck_assert_msg(guess(CASES[i].path, false) == CASES[i].written, "as written: %s", CASES[i].path);
        ck_assert_int_eq(seam_count(SEAM_READLINK), 0);
        ck_assert_msg(guess(CASES[i].path, true) == CASES[i].real, "with a look: %s", CASES[i].path);
    }
    ck_assert_uint_eq(stall_by_watched(m), 0);
    printf("figure: guess: %zu paths\n", sizeof CASES / sizeof CASES[0]);
    umount2("t", MNT_DETACH);
}
END_TEST

START_TEST(paths_that_are_too_long)
{
    char path[2 * PATH_MAX], target[PATH_MAX - 100];
    path[0] = '/';
    scene_long_path(path + 1, sizeof path - 2);
    ck_assert_uint_eq(afl_guess_device(scene->sys, path, true), 0);
    scene_long_path(target, sizeof target - 1);
    link_to("long", target);
    snprintf(path, sizeof path, "long/%s", target);
    path[PATH_MAX - 200] = '\0';
    ck_assert_uint_eq(guess(path, true), device_at(".")); /* the link cannot be put in: the path ends here */
}
END_TEST

/* Without a table of mounts there is no guess; each folder stands for itself then. */
START_TEST(a_table_that_cannot_be_read)
{
    seam_fail(SEAM_OPEN, 0, 1, EMFILE);
    ck_assert_uint_eq(guess("f", true), 0);
    seam_fail(SEAM_READ, 0, 1, EIO);
    ck_assert_uint_eq(guess("f", false), 0);
    seam_fail(SEAM_READLINK, 0, STALL_ALWAYS, EIO);
    ck_assert_uint_eq(guess("f", true), device_at("."));

    aflock *lock = scene_open("f", AFLOCK_IO_POOL);
    seam_fail(SEAM_OPEN, 0, 2, EMFILE);
    scene_must_work(lock);
}
END_TEST

int main(void)
{
    const TTest *const once[] = {what_paths_seem_to_be_on, paths_that_are_too_long, a_table_that_cannot_be_read, NULL};
    return stall_main("guessing the device", 30, once, NULL, 0);
}
