/* Data files as locks: what the descriptor of a grant is open for and where it stands, when a file is emptied, links
 * and files that are replaced, what is no file, and what others have locked. */
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

static aflock_acquire_options as(uint32_t flags, aflock_mode mode)
{
    aflock_acquire_options o = scene_options(0, 0);
    o.flags = flags;
    o.mode = mode;
    return o;
}

static aflock_req hold_as(aflock *lock, uint32_t flags)
{
    const aflock_acquire_options o = as(flags, flags & AFLOCK_READ_ONLY ? AFLOCK_SHARED : AFLOCK_EXCLUSIVE);
    return scene_hold(lock, &o);
}

static int fd_of(aflock *lock, aflock_req req)
{
    int fd = aflock_fd(lock, req);
    ck_assert_int_ge(fd, 0);
    return fd;
}

static void let_go(aflock *lock, aflock_req req)
{
    ck_assert_int_eq(scene_release(lock, req).result.status, 0);
}

static void must_contain(const char *path, const char *text)
{
    char found[256];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ck_assert_int_ge(fd, 0);
    ssize_t size = read(fd, found, sizeof found);
    close(fd);
    ck_assert_int_eq(size, (ssize_t)strlen(text));
    ck_assert_mem_eq(found, text, (size_t)size);
}

static void write_to(int fd, const char *text)
{
    ck_assert_int_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
}

static off_t offset_of(int fd)
{
    return lseek(fd, 0, SEEK_CUR);
}

static void must_name(int fd, const char *path)
{
    struct stat mine, there;
    ck_assert_int_eq(fstat(fd, &mine), 0);
    ck_assert_int_eq(stat(path, &there), 0);
    ck_assert(mine.st_ino == there.st_ino && mine.st_dev == there.st_dev);
}

/* ------------------------------------------------------------------------------------------------- what it is open for
 */

START_TEST(each_mode)
{
    char text[16] = "";
    scene_write("data", "0123456789");
    aflock *lock = scene_open("data", scene_io(_i));

    aflock_req req = hold_as(lock, AFLOCK_DATA_READ);
    int fd = fd_of(lock, req);
    ck_assert_int_eq(fcntl(fd, F_GETFL) & (O_ACCMODE | O_APPEND), O_RDONLY);
    ck_assert_int_eq(read(fd, text, 4), 4);
    ck_assert_str_eq(text, "0123");
    ck_assert(scene_is_free("data", LOCK_SH));
    ck_assert(!scene_is_free("data", LOCK_EX));
    let_go(lock, req);

    req = hold_as(lock, AFLOCK_DATA_UPDATE);
    fd = fd_of(lock, req);
    ck_assert_int_eq(fcntl(fd, F_GETFL) & (O_ACCMODE | O_APPEND), O_RDWR);
    ck_assert(!scene_is_free("data", LOCK_SH));
    write_to(fd, "ab");
    let_go(lock, req);
    must_contain("data", "ab23456789");

    req = hold_as(lock, AFLOCK_DATA_APPEND);
    fd = fd_of(lock, req);
    ck_assert_int_eq(fcntl(fd, F_GETFL) & (O_ACCMODE | O_APPEND), O_RDWR | O_APPEND);
    write_to(fd, "cd");
    let_go(lock, req);
    must_contain("data", "ab23456789cd");

    req = hold_as(lock, AFLOCK_DATA_WRITE);
    ck_assert_int_eq(scene_size("data"), 0);
    write_to(fd_of(lock, req), "new");
    let_go(lock, req);
    must_contain("data", "new");
}
END_TEST

START_TEST(what_is_made)
{
    static const uint32_t THERE[] = {AFLOCK_DATA_READ, AFLOCK_DATA_UPDATE},
                          MADE[] = {AFLOCK_DATA_APPEND, AFLOCK_DATA_WRITE};
    aflock *lock = scene_open("data", scene_io(_i)), *deep = scene_open("a/b", scene_io(_i));
    for (int i = 0; i < 2; i++) {
        aflock_acquire_options o = as(THERE[i], AFLOCK_EXCLUSIVE);
        ck_assert_int_eq(scene_acquire(lock, &o).result.status, AFLOCK_ENOENT);
        ck_assert_int_eq(scene_entries("."), 0);
        o.flags = MADE[i];
        ck_assert_int_eq(scene_acquire(deep, &o).result.status, AFLOCK_ENOENT);
        ck_assert_int_eq(scene_entries("."), 0); /* no directories */
        let_go(lock, hold_as(lock, MADE[i]));
        ck_assert_int_eq(scene_size("data"), 0);
        ck_assert_int_eq(unlink("data"), 0);
    }
}
END_TEST

/* Not one byte is lost before the lock is there. */
START_TEST(nothing_is_emptied_before_it_is_locked)
{
    answer a = {0};
    scene_write("data", "precious");
    pid_t holder = scene_holder("data", O_RDONLY, LOCK_SH);
    aflock *lock = scene_open("data", scene_io(_i));
    aflock_acquire_options o = as(AFLOCK_DATA_WRITE, AFLOCK_EXCLUSIVE);
    o.timeout = 0;
    ck_assert_int_eq(scene_acquire(lock, &o).result.status, AFLOCK_EWOULDBLOCK);
    must_contain("data", "precious");
    o.timeout = AFLOCK_FOREVER;
    scene_expect(1);
    ck_assert_int_eq(aflock_acquire(lock, &o, scene_answer, &a, NULL), 0);
    for (int i = 0; i < 20; i++)
        ck_assert_int_eq(aflock_epoll_run_once(scene, AFLOCK_MILLISECOND), 0);
    must_contain("data", "precious");
    scene_holder_end(holder);
    scene_run_until(&a.count, 1);
    ck_assert_int_eq(a.result.status, 0);
    ck_assert_int_eq(scene_size("data"), 0);
    let_go(lock, a.result.req);
}
END_TEST

START_TEST(it_cannot_be_rewound)
{
    scene_write("data", "text");
    aflock *lock = scene_open("data", scene_io(_i));
    let_go(lock, hold_as(lock, AFLOCK_DATA_UPDATE));
    const int descriptors = scene_descriptors();
    const aflock_acquire_options o = as(AFLOCK_DATA_UPDATE, AFLOCK_EXCLUSIVE);
    seam_fail(SEAM_REWIND, 0, 1, ESPIPE);
    answer a = scene_acquire(lock, &o);
    ck_assert_int_eq(a.result.status, AFLOCK_ESYS);
    ck_assert_int_eq(a.result.sys_errno, ESPIPE);
    ck_assert_str_eq(a.step, "lseek");
    ck_assert(scene_is_free("data", LOCK_EX));
    scene_await_descriptors(descriptors);
    let_go(lock, hold_as(lock, AFLOCK_DATA_UPDATE));
}
END_TEST

START_TEST(what_is_refused)
{
    static const uint32_t WRONG[] = {AFLOCK_APPEND, AFLOCK_REWIND};
    aflock *lock = scene_open("data", scene_io(_i)), *soft, *rw, *own;
    aflock_options o;
    aflock_options_init(&o);
    o.protocol = AFLOCK_SOFT;
    ck_assert_int_eq(aflock_open(&soft, scene, "soft", &o), 0);
    o.protocol = AFLOCK_RW;
    ck_assert_int_eq(aflock_open(&rw, scene, "rw", &o), 0);
    scene_write("own", "");
    int fd = open("own", O_RDWR | O_CLOEXEC);
    ck_assert_int_eq(aflock_open_fd(&own, scene, fd, NULL), 0);
    for (int i = 0; i < 2; i++) {
        const aflock_acquire_options a = scene_options(WRONG[i], 0);
        ck_assert_int_eq(aflock_acquire(soft, &a, scene_answer, NULL, NULL), AFLOCK_EINVAL);
        ck_assert_int_eq(aflock_acquire(rw, &a, scene_answer, NULL, NULL), AFLOCK_EINVAL);
        ck_assert_int_eq(aflock_acquire(own, &a, scene_answer, NULL, NULL), AFLOCK_EINVAL);
    }
    aflock_acquire_options a = scene_options(AFLOCK_READ_ONLY | AFLOCK_APPEND, 0);
    ck_assert_int_eq(aflock_acquire(lock, &a, scene_answer, NULL, NULL), AFLOCK_EINVAL);
    a = scene_options(AFLOCK_REWIND << 1, 0);
    ck_assert_int_eq(aflock_acquire(lock, &a, scene_answer, NULL, NULL), AFLOCK_EINVAL);
    ck_assert_int_eq(aflock_close(own), 0);
    close(fd);
}
END_TEST

/* Setting the offset does not sleep. */
START_TEST(the_loop_does_it_itself)
{
    aflock_req req;
    scene_write("data", "text");
    aflock *lock = scene_open("data", AFLOCK_IO_AUTO);
    let_go(lock, hold_as(lock, AFLOCK_DATA_UPDATE));
    const int pooled = scene_pooled;
    let_go(lock, hold_as(lock, AFLOCK_DATA_UPDATE));
    ck_assert_int_eq(scene_pooled, pooled);
    const aflock_acquire_options o = as(AFLOCK_DATA_UPDATE, AFLOCK_EXCLUSIVE);
    ck_assert_int_eq(aflock_try(lock, &o, &req, NULL), 0);
    let_go(lock, req);
}
END_TEST

/* ---------------------------------------------------------------------------------------- descriptors that are not
 * fresh
 */

/* A second request is granted when the first hold ends, without a system call but those for the offset. */
static aflock_req take_over(aflock *lock, aflock_req from, uint32_t flags)
{
    scene_hand_on_for_ever();
    answer a = {0};
    const aflock_acquire_options o = as(flags, AFLOCK_EXCLUSIVE);
    scene_expect(1);
    ck_assert_int_eq(aflock_acquire(lock, &o, scene_answer, &a, NULL), 0);
    ck_assert_int_eq(aflock_release(lock, from, NULL, NULL), 0);
    scene_run_until(&a.count, 1);
    ck_assert_int_eq(a.result.status, 0);
    return a.result.req;
}

START_TEST(handed_on)
{
    scene_write("data", "0123456789");
    aflock *lock = scene_open("data", scene_io(_i));
    aflock_req req = hold_as(lock, AFLOCK_DATA_UPDATE);
    write_to(fd_of(lock, req), "abcdef");
    seam_forget();
    req = take_over(lock, req, AFLOCK_DATA_UPDATE);
    ck_assert_int_eq(seam_count(SEAM_OPEN) + seam_count(SEAM_OPEN_CACHED) + seam_count(SEAM_LOCK), 0);
    ck_assert_int_eq(offset_of(fd_of(lock, req)), 0);
    write_to(fd_of(lock, req), "gh");
    req = take_over(lock, req, AFLOCK_FOLLOW);
    ck_assert_int_eq(offset_of(fd_of(lock, req)), 2); /* nobody asked */
    write_to(fd_of(lock, req), "ij");
    req = take_over(lock, req, AFLOCK_DATA_WRITE);
    write_to(fd_of(lock, req), "new"); /* no hole before it */
    let_go(lock, req);
    must_contain("data", "new");
}
END_TEST

/* Who appends does not get a descriptor that does not, nor the other way round. */
START_TEST(appending_and_not)
{
    scene_write("data", "01234");
    aflock *lock = scene_open("data", scene_io(_i));
    aflock_req req = hold_as(lock, AFLOCK_DATA_UPDATE);
    req = take_over(lock, req, AFLOCK_DATA_APPEND);
    write_to(fd_of(lock, req), "5");
    req = take_over(lock, req, AFLOCK_DATA_UPDATE);
    write_to(fd_of(lock, req), "a");
    req = take_over(lock, req, AFLOCK_DATA_APPEND);
    write_to(fd_of(lock, req), "6");
    let_go(lock, req);
    must_contain("data", "a123456");
}
END_TEST

START_TEST(kept_open)
{
    aflock *lock;
    aflock_options o;
    aflock_options_init(&o);
    o.io = scene_io(_i);
    o.keep_open = 1;
    scene_write("data", "0123456789");
    ck_assert_int_eq(aflock_open(&lock, scene, "data", &o), 0);
    aflock_req req = hold_as(lock, AFLOCK_DATA_UPDATE);
    write_to(fd_of(lock, req), "abcdef");
    let_go(lock, req);
    req = hold_as(lock, AFLOCK_DATA_UPDATE);
    ck_assert_int_eq(offset_of(fd_of(lock, req)), 0);
    let_go(lock, req);
}
END_TEST

/* They share a descriptor: who comes later does not send the others back. */
START_TEST(shared)
{
    char text[8] = "";
    scene_write("data", "0123456789");
    aflock *lock = scene_open("data", scene_io(_i));
    aflock_req first = hold_as(lock, AFLOCK_DATA_READ);
    ck_assert_int_eq(read(fd_of(lock, first), text, 3), 3);
    aflock_req second = hold_as(lock, AFLOCK_DATA_READ);
    ck_assert_int_eq(fd_of(lock, first), fd_of(lock, second));
    ck_assert_int_eq(offset_of(fd_of(lock, first)), 3);
    ck_assert_int_eq(pread(fd_of(lock, second), text, 3, 0), 3);
    let_go(lock, first);
    let_go(lock, second);
}
END_TEST

/* A duplicate outlives the hold, but not the lock. */
START_TEST(duplicates)
{
    scene_write("data", "text");
    aflock *lock = scene_open("data", scene_io(_i));
    aflock_req req = hold_as(lock, AFLOCK_DATA_UPDATE);
    int mine = dup(fd_of(lock, req));
    let_go(lock, req);
    ck_assert(scene_is_free("data", LOCK_EX));
    write_to(mine, "more");
    close(mine);
    must_contain("data", "more");
}
END_TEST

/* ----------------------------------------------------------------------------------------------- links, other files */

START_TEST(links_are_followed)
{
    ck_assert_int_eq(mkdir("there", 0777), 0);
    scene_write("there/data", "text");
    ck_assert_int_eq(symlink("there/data", "link"), 0);
    aflock *lock = scene_open("link", scene_io(_i));
    aflock_req req = hold_as(lock, AFLOCK_DATA_APPEND);
    ck_assert(!scene_is_free("there/data", LOCK_SH));
    write_to(fd_of(lock, req), "!");
    let_go(lock, req);
    must_contain("there/data", "text!");
    ck_assert_int_eq(unlink("there/data"), 0);
    let_go(lock, hold_as(lock, AFLOCK_DATA_WRITE)); /* made where the link leads */
    ck_assert_int_eq(scene_size("there/data"), 0);
    ck_assert_int_eq(scene_acquire(lock, NULL).result.status, AFLOCK_ELOOP); /* unasked they are not */
}
END_TEST

/* Waits while somebody holds the file; `replace` puts another one into its place. */
static void wait_through(const char *path, int io, void (*replace)(void))
{
    answer a = {0};
    pid_t holder = scene_holder(path, O_RDWR, LOCK_EX);
    aflock *lock = scene_open(path, scene_io(io));
    const aflock_acquire_options o = as(AFLOCK_DATA_APPEND, AFLOCK_EXCLUSIVE);
    scene_expect(1);
    ck_assert_int_eq(aflock_acquire(lock, &o, scene_answer, &a, NULL), 0);
    for (int i = 0; i < 20; i++)
        ck_assert_int_eq(aflock_epoll_run_once(scene, AFLOCK_MILLISECOND), 0);
    ck_assert_int_eq(a.count, 0);
    replace();
    scene_run_until(&a.count, 1); /* the holder has another file by now */
    ck_assert_int_eq(a.result.status, 0);
    must_name(a.result.fd, path);
    write_to(a.result.fd, "!");
    let_go(lock, a.result.req);
    scene_holder_end(holder);
}

static void replace_file(void)
{
    scene_write("new", "new");
    ck_assert_int_eq(rename("new", "data"), 0);
}

static void turn_link(void)
{
    scene_write("other", "other");
    ck_assert_int_eq(symlink("other", "new"), 0);
    ck_assert_int_eq(rename("new", "link"), 0);
}

START_TEST(files_that_are_replaced)
{
    scene_write("data", "old");
    wait_through("data", _i, replace_file);
    must_contain("data", "new!");
    ck_assert_int_eq(symlink("data", "link"), 0);
    wait_through("link", _i, turn_link);
    must_contain("other", "other!");
    must_contain("data", "new!");
}
END_TEST

START_TEST(what_is_no_file)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "socket"};
    static const uint32_t FLAGS[] = {AFLOCK_DATA_READ, AFLOCK_DATA_UPDATE, AFLOCK_DATA_APPEND, AFLOCK_DATA_WRITE};
    static const char *const NODES[] = {"fifo", "socket", "folder", "link"};
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    ck_assert_int_eq(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
    close(fd);
    ck_assert_int_eq(mkfifo("fifo", 0666), 0);
    ck_assert_int_eq(mkdir("folder", 0777), 0);
    ck_assert_int_eq(symlink("fifo", "link"), 0);
    for (int n = 0; n < 4; n++) {
        aflock *lock = scene_open(NODES[n], scene_io(_i));
        for (int i = 0; i < 4; i++) {
            const aflock_acquire_options o = as(FLAGS[i], AFLOCK_EXCLUSIVE);
            answer a = scene_acquire(lock, &o);
            ck_assert_int_eq(a.result.status, n == 2 ? AFLOCK_EISDIR : AFLOCK_ENOTFILE);
        }
    }
}
END_TEST

int main(void)
{
    const TTest *const once[] = {the_loop_does_it_itself, NULL};
    const TTest *const each[] = {each_mode,
                                 what_is_made,
                                 nothing_is_emptied_before_it_is_locked,
                                 it_cannot_be_rewound,
                                 what_is_refused,
                                 handed_on,
                                 appending_and_not,
                                 kept_open,
                                 shared,
                                 duplicates,
                                 links_are_followed,
                                 files_that_are_replaced,
                                 what_is_no_file,
                                 NULL};
    return scene_main("data files", once, each);
}
