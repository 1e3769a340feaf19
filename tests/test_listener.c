/* The kit's notifier on real files: the library is played by the functions below, which write down what they are
 * told. The kernel queues a change before the call that makes it returns: what is not there then never comes. */
#include <aflock/kit.h>

#include "support/folder.h"
#include "support/instances.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { CHANGES = 256, LISTENERS = 8, PATIENCE = 30000 /* ms */ };

/* --------------------------------------------------------------------------------------------- the library's side */

typedef struct change {
    aflock_notify *notify;
    unsigned what;
    char name[16]; /* "": NULL */
} change;

struct aflock_ctx {
    unsigned count;
    change changes[CHANGES];
    void (*on_change)(aflock_notify *notify);
    void (*on_turn)(void);
    int check; /* what aflock_host_check answers */
};

static aflock_ctx ctx;
static aflock_kit *kit;
static aflock_host host;

void aflock_host_changed(aflock_ctx *c, aflock_notify *n, unsigned what, const char *name)
{
    ck_assert_uint_lt(c->count, CHANGES);
    ck_assert_ptr_nonnull(n->host); /* it listens */
    change *one = &c->changes[c->count++];
    one->notify = n;
    one->what = what;
    snprintf(one->name, sizeof one->name, "%s", name != NULL ? name : "");
    if (c->on_change != NULL)
        c->on_change(n);
}

void aflock_host_timer(aflock_ctx *c)
{
    (void)c;
}

void aflock_host_ready(aflock_ctx *c, aflock_watch *watch, unsigned events)
{
    (void)c, (void)watch, (void)events;
}

void aflock_host_turn(aflock_ctx *c)
{
    if (c->on_turn != NULL)
        c->on_turn();
}

int aflock_host_check(const aflock_ctx *c)
{
    return c->check;
}

struct aflock_job {
    int unused;
};

void aflock_job_run(aflock_job *job)
{
    (void)job;
}

void aflock_job_drop(aflock_job *job)
{
    (void)job;
}

/* ----------------------------------------------------------------------------------------------------- helpers */

static char folder[PATH_MAX];
static aflock_notify notify[LISTENERS];

static void make_folder(void)
{
    ck_assert(folder_make(folder, NULL));
}

static void remove_folder(void)
{
    folder_remove(folder);
}

static void make(void)
{
    memset(&ctx, 0, sizeof ctx);
    memset(notify, 0, sizeof notify);
    ck_assert_int_eq(aflock_kit_new(&kit, &host, NULL), 0);
}

/* As the library ends a context. */
static void end(int forked)
{
    host.executor->close(host.executor->self, forked);
    host.notifier->close(host.notifier->self, forked);
    host.loop->close(host.loop->self, forked);
}

static void setup(void)
{
    ck_assert_int_eq(chdir(folder), 0);
    make();
}

static void teardown(void)
{
    end(0);
    ck_assert_int_eq(chdir("/"), 0);
}

static int readable(void)
{
    struct pollfd poll_fd = {.fd = aflock_kit_fd(kit), .events = POLLIN};
    return poll(&poll_fd, 1, 0);
}

/* One dispatch of a loop that watches the kit, if there is a reason for one: how many changes it reported. */
static unsigned process(void)
{
    unsigned before = ctx.count;
    if (readable())
        aflock_kit_process(kit, &ctx);
    return ctx.count - before;
}

static unsigned process_all(void)
{
    unsigned before = ctx.count;
    while (readable())
        aflock_kit_process(kit, &ctx);
    return ctx.count - before;
}

static int open_file(const char *path, int flags)
{
    int fd = open(path, flags | O_CLOEXEC, 0666);
    ck_assert_int_ge(fd, 0);
    return fd;
}

static int new_file(const char *path)
{
    return open_file(path, O_RDWR | O_CREAT);
}

static void touch(int fd)
{
    ck_assert_int_eq(futimens(fd, NULL), 0);
}

static int add(aflock_notify *n, int fd, unsigned what)
{
    *n = (aflock_notify){.fd = fd, .what = what};
    return host.notifier->add(host.notifier->self, n);
}

static void listen_to(aflock_notify *n, int fd, unsigned what)
{
    ck_assert_int_eq(add(n, fd, what), 0);
    ck_assert_ptr_nonnull(n->host);
}

static void unlisten(aflock_notify *n)
{
    host.notifier->del(host.notifier->self, n);
    ck_assert_ptr_null(n->host);
}

/* What was reported to it since the last look: how often, and the last one is `what`. */
static unsigned told(const aflock_notify *n, unsigned what)
{
    unsigned count = 0;
    for (unsigned i = 0; i < ctx.count; i++) {
        if (ctx.changes[i].notify != n)
            continue;
        ck_assert_uint_eq(ctx.changes[i].what, what);
        count++;
    }
    return count;
}

static void forget(void)
{
    ctx.count = 0;
}

static int descriptors(void)
{
    int count = 0;
    for (int fd = 0; fd < 1024; fd++)
        count += fcntl(fd, F_GETFD) >= 0;
    return count;
}

/* The kit closes its descriptor on a thread. */
static void await_descriptors(int expected)
{
    for (int i = 0; i < PATIENCE && descriptors() != expected; i++)
        usleep(1000);
    ck_assert_int_eq(descriptors(), expected);
}

/* ------------------------------------------------------------------------------------------------- what is reported */

START_TEST(changes_of_a_file)
{
    int fd = new_file("f"), other;
    listen_to(&notify[0], fd, AFLOCK_ON_FILE);

    other = open_file("f", O_RDWR);
    ck_assert_int_eq(write(other, "text", 4), 4);
    ck_assert_int_eq(readable(), 0); /* neither opening nor writing is worth an attempt */
    close(other);
    ck_assert_uint_eq(process(), 1);

    other = open_file("f", O_RDONLY);
    ck_assert_int_eq(readable(), 0);
    close(other);
    ck_assert_uint_eq(process(), 1);

    touch(fd);
    ck_assert_uint_eq(process(), 1);

    ck_assert_int_eq(rename("f", "g"), 0);
    ck_assert_uint_eq(process(), 1);

    ck_assert_int_eq(unlink("g"), 0);
    ck_assert_uint_eq(process(), 1);

    ck_assert_uint_eq(told(&notify[0], AFLOCK_ON_FILE), 5);
    for (unsigned i = 0; i < ctx.count; i++)
        ck_assert_str_eq(ctx.changes[i].name, "");
    unlisten(&notify[0]);
    touch(fd);
    ck_assert_uint_eq(process_all(), 0);
    close(fd);
}
END_TEST

START_TEST(changes_of_a_marker)
{
    int fd = new_file("f");
    listen_to(&notify[0], fd, AFLOCK_ON_MARKER);
    close(open_file("f", O_RDONLY));
    close(open_file("f", O_RDWR));
    ck_assert_int_eq(readable(), 0); /* whoever reads it closes it */
    touch(fd);
    ck_assert_uint_eq(process(), 1);
    ck_assert_int_eq(rename("f", "g"), 0);
    ck_assert_uint_eq(process(), 1);
    ck_assert_int_eq(unlink("g"), 0);
    ck_assert_uint_eq(process(), 1);
    ck_assert_uint_eq(told(&notify[0], AFLOCK_ON_MARKER), 3);
    unlisten(&notify[0]);
    close(fd);
}
END_TEST

/* Neither what is done with a descriptor nor its close, nor what looks at the path without opening it. */
START_TEST(openings_of_a_file)
{
    struct stat st;
    int fd = new_file("f");
    listen_to(&notify[0], fd, AFLOCK_ON_OPEN);
    touch(fd);
    ck_assert_int_eq(write(fd, "text", 4), 4);
    ck_assert_int_eq(stat("f", &st), 0);
    close(dup(fd));
    ck_assert_int_eq(rename("f", "g"), 0);
    ck_assert_int_eq(readable(), 0);

    int other = open_file("g", O_RDWR);
    ck_assert_uint_eq(process(), 1);
    close(other);
    ck_assert_int_eq(readable(), 0);
    close(open_file("g", O_RDONLY));
    ck_assert_uint_eq(process(), 1);
    ck_assert_int_eq(link("g", "h"), 0);
    ck_assert_int_eq(unlink("g"), 0);
    ck_assert_int_eq(readable(), 0);
    close(open_file("h", O_RDONLY)); /* another name of it */
    ck_assert_uint_eq(process(), 1);
    ck_assert_uint_eq(told(&notify[0], AFLOCK_ON_OPEN), 3);
    unlisten(&notify[0]);
    close(open_file("h", O_RDONLY));
    ck_assert_uint_eq(process_all(), 0);
    close(fd);
}
END_TEST

/* Who opens what is in it does not open it. */
START_TEST(openings_of_a_directory)
{
    ck_assert_int_eq(mkdir("d", 0777), 0);
    int fd = open_file("d", O_RDONLY | O_DIRECTORY);
    listen_to(&notify[0], fd, AFLOCK_ON_OPEN);
    close(new_file("d/f"));
    ck_assert_uint_eq(process_all(), 0);
    close(open_file("d", O_RDONLY | O_DIRECTORY));
    ck_assert_uint_eq(process_all(), 1);
    unlisten(&notify[0]);
    close(fd);
}
END_TEST

START_TEST(entries_of_a_directory)
{
    ck_assert_int_eq(mkdir("d", 0777), 0);
    int fd = open_file("d", O_RDONLY | O_DIRECTORY);
    listen_to(&notify[0], fd, AFLOCK_ON_DIR);
    close(new_file("d/one"));
    close(new_file("d/two"));
    close(new_file("three"));
    ck_assert_int_eq(mkdir("d/sub", 0777), 0);
    ck_assert_int_eq(rename("three", "d/three"), 0);
    touch(fd);
    ck_assert_int_eq(readable(), 0); /* who comes is in nobody's way */

    ck_assert_int_eq(unlink("d/two"), 0);
    ck_assert_int_eq(rename("d/three", "three"), 0);
    ck_assert_int_eq(rename("d/one", "d/uno"), 0);
    ck_assert_int_eq(rmdir("d/sub"), 0);
    ck_assert_uint_eq(process(), 4);
    static const char *const expected[] = {"two", "three", "one", "sub"};
    for (int i = 0; i < 4; i++)
        ck_assert_str_eq(ctx.changes[i].name, expected[i]);
    ck_assert_uint_eq(told(&notify[0], AFLOCK_ON_DIR), 4);
    unlisten(&notify[0]);
    close(fd);
}
END_TEST

/* A directory can be locked as well: what happens in it is nothing to those who wait for it. */
START_TEST(a_directory_as_a_file)
{
    ck_assert_int_eq(mkdir("d", 0777), 0);
    int fd = open_file("d", O_RDONLY | O_DIRECTORY);
    listen_to(&notify[0], fd, AFLOCK_ON_FILE);
    listen_to(&notify[1], fd, AFLOCK_ON_DIR);
    int file = new_file("d/f");
    touch(file);
    close(file);
    process_all();
    ck_assert_uint_eq(ctx.count, 0);
    ck_assert_int_eq(unlink("d/f"), 0);
    process_all();
    ck_assert_uint_eq(ctx.count, 1);
    ck_assert_ptr_eq(ctx.changes[0].notify, &notify[1]);
    ck_assert_str_eq(ctx.changes[0].name, "f");
    forget();
    close(open_file("d", O_RDONLY | O_DIRECTORY)); /* this is how it is given up */
    process_all();
    ck_assert_uint_eq(ctx.count, 1);
    ck_assert_uint_eq(told(&notify[0], AFLOCK_ON_FILE), 1);
    ck_assert_str_eq(ctx.changes[0].name, "");
    unlisten(&notify[0]);
    unlisten(&notify[1]);
    close(fd);
}
END_TEST

/* ------------------------------------------------------------------------------------------------ several listeners */

/* One watch, whichever of the two ends first. */
static void share(int one, int two, int first_to_end)
{
    listen_to(&notify[0], one, AFLOCK_ON_FILE);
    listen_to(&notify[1], two, AFLOCK_ON_FILE);
    ck_assert_int_eq(inotify_watches(), 1);
    touch(one);
    ck_assert_uint_eq(process(), 2);
    ck_assert_uint_eq(told(&notify[0], AFLOCK_ON_FILE), 1);
    ck_assert_uint_eq(told(&notify[1], AFLOCK_ON_FILE), 1);
    forget();
    unlisten(&notify[first_to_end]);
    ck_assert_int_eq(inotify_watches(), 1);
    touch(two);
    ck_assert_uint_eq(process(), 1);
    ck_assert_uint_eq(told(&notify[!first_to_end], AFLOCK_ON_FILE), 1);
    forget();
    unlisten(&notify[!first_to_end]);
    unlisten(&notify[!first_to_end]); /* harmless */
    ck_assert_int_eq(inotify_watches(), 0);
    process_all();
}

START_TEST(two_on_one_file)
{
    int one = new_file("f"), two = new_file("f");
    ck_assert_int_eq(link("f", "g"), 0);
    int other_name = open_file("g", O_RDWR);
    for (int first_to_end = 0; first_to_end < 2; first_to_end++) {
        share(one, one, first_to_end);
        share(one, two, first_to_end);
        share(one, other_name, first_to_end);
    }
    ck_assert_uint_eq(process_all(), 0);
    close(one);
    close(two);
    close(other_name);
}
END_TEST

/* What one listens for is not told the other, whoever came first; and both hear theirs. */
START_TEST(two_kinds_on_one_file)
{
    for (int file_first = 0; file_first < 2; file_first++) {
        int fd = new_file("f");
        aflock_notify *file = &notify[0], *marker = &notify[1];
        if (file_first)
            listen_to(file, fd, AFLOCK_ON_FILE);
        listen_to(marker, fd, AFLOCK_ON_MARKER);
        if (!file_first)
            listen_to(file, fd, AFLOCK_ON_FILE);
        ck_assert_int_eq(inotify_watches(), 1);
        close(open_file("f", O_RDONLY));
        process();
        ck_assert_uint_eq(told(file, AFLOCK_ON_FILE), 1);
        ck_assert_uint_eq(told(marker, AFLOCK_ON_MARKER), 0);
        touch(fd);
        process();
        ck_assert_uint_eq(told(file, AFLOCK_ON_FILE), 2);
        ck_assert_uint_eq(told(marker, AFLOCK_ON_MARKER), 1);
        forget();
        unlisten(file);
        close(open_file("f", O_RDONLY));
        ck_assert_uint_eq(process(), 0);
        touch(fd);
        ck_assert_uint_eq(process(), 1);
        unlisten(marker);
        forget();
        close(fd);
    }
}
END_TEST

/* One waits under one name of a file while another one is held under another. */
START_TEST(openings_beside_changes)
{
    for (int open_first = 0; open_first < 2; open_first++) {
        int fd = new_file("f");
        aflock_notify *file = &notify[0], *opened = &notify[1];
        if (open_first)
            listen_to(opened, fd, AFLOCK_ON_OPEN);
        listen_to(file, fd, AFLOCK_ON_FILE);
        if (!open_first)
            listen_to(opened, fd, AFLOCK_ON_OPEN);
        ck_assert_int_eq(inotify_watches(), 1);
        int other = open_file("f", O_RDONLY);
        process();
        ck_assert_uint_eq(told(file, AFLOCK_ON_FILE), 0);
        ck_assert_uint_eq(told(opened, AFLOCK_ON_OPEN), 1);
        forget();
        close(other);
        process();
        ck_assert_uint_eq(told(file, AFLOCK_ON_FILE), 1);
        ck_assert_uint_eq(told(opened, AFLOCK_ON_OPEN), 0);
        forget();
        unlisten(opened); /* the kernel's mask stays */
        other = open_file("f", O_RDONLY);
        ck_assert_uint_eq(process_all(), 0);
        listen_to(opened, fd, AFLOCK_ON_OPEN);
        ck_assert_uint_eq(process_all(), 0);
        close(other);
        ck_assert_uint_eq(process(), 1);
        ck_assert_uint_eq(told(file, AFLOCK_ON_FILE), 1);
        unlisten(file);
        unlisten(opened);
        forget();
        close(fd);
    }
}
END_TEST

/* ------------------------------------------------------------------------------------------------ inside of a report
 */

static int ended; /* which of them */

static void end_one(aflock_notify *n)
{
    ctx.on_change = NULL;
    unlisten(ended < LISTENERS ? &notify[ended] : n);
}

static void end_all(aflock_notify *n)
{
    (void)n;
    for (int i = 0; i < 3; i++)
        unlisten(&notify[i]);
}

/* Three on one file, of which the first report ends one: itself, or another one, which is told before or never. */
START_TEST(ended_inside_a_report)
{
    int fd = new_file("f");
    for (ended = 0; ended < 3; ended++) {
        for (int i = 0; i < 3; i++)
            listen_to(&notify[i], fd, AFLOCK_ON_FILE);
        ctx.on_change = end_one;
        touch(fd);
        process();
        for (int i = 0; i < 3; i++)
            ck_assert_uint_eq(told(&notify[i], AFLOCK_ON_FILE), i != ended || ctx.changes[0].notify == &notify[i]);
        forget();
        touch(fd);
        ck_assert_uint_eq(process(), 2);
        forget();
        end_all(NULL);
    }
    close(fd);
}
END_TEST

START_TEST(all_ended_inside_a_report)
{
    int fd = new_file("f"), again = new_file("g");
    for (int i = 0; i < 3; i++)
        listen_to(&notify[i], i < 2 ? fd : again, AFLOCK_ON_FILE);
    ctx.on_change = end_all;
    touch(fd);
    touch(again);
    ck_assert_uint_eq(process(), 1); /* the other file has changed too, and nobody is there any more */
    ck_assert_int_eq(inotify_watches(), 0);
    ck_assert_uint_eq(process_all(), 0);
    close(fd);
    close(again);
}
END_TEST

/* With the change of an entry, which is passed while the queue is still being read. */
START_TEST(ended_between_two_entries)
{
    int fd = open_file(".", O_RDONLY | O_DIRECTORY), file = new_file("f");
    close(new_file("one"));
    close(new_file("two"));
    listen_to(&notify[0], fd, AFLOCK_ON_DIR);
    listen_to(&notify[1], file, AFLOCK_ON_FILE);
    ck_assert_int_eq(unlink("one"), 0);
    touch(file);
    ck_assert_int_eq(unlink("two"), 0);
    ctx.on_change = end_all;
    ck_assert_uint_eq(process(), 1);
    ck_assert_int_eq(inotify_watches(), 0);
    close(fd);
    close(file);
}
END_TEST

static int other_fd;

static void add_more(aflock_notify *n)
{
    ctx.on_change = NULL;
    unlisten(n);
    listen_to(n, n->fd, n->what);
    listen_to(&notify[1], n->fd, AFLOCK_ON_FILE);
    listen_to(&notify[2], other_fd, AFLOCK_ON_FILE);
}

/* What happened before it came is not told to it. */
START_TEST(added_inside_a_report)
{
    int fd = new_file("f");
    other_fd = new_file("g");
    listen_to(&notify[0], fd, AFLOCK_ON_FILE);
    ctx.on_change = add_more;
    touch(other_fd);
    touch(fd);
    ck_assert_uint_eq(process_all(), 1);
    forget();
    touch(fd);
    touch(other_fd);
    process_all();
    for (int i = 0; i < 3; i++)
        ck_assert_uint_eq(told(&notify[i], AFLOCK_ON_FILE), 1);
    end_all(NULL);
    close(fd);
    close(other_fd);
}
END_TEST

/* Ending a watch takes its time: callbacks come first. */
static void see_one_watch(void)
{
    ck_assert_int_eq(inotify_watches(), 1);
    ctx.on_turn = NULL;
}

START_TEST(ended_after_the_turn)
{
    int fd = new_file("f");
    listen_to(&notify[0], fd, AFLOCK_ON_FILE);
    ctx.on_change = unlisten;
    ctx.on_turn = see_one_watch;
    touch(fd);
    ck_assert_uint_eq(process(), 1);
    ck_assert(!ctx.on_turn);
    ck_assert_int_eq(inotify_watches(), 0);
    ck_assert_uint_eq(process_all(), 0);
    listen_to(&notify[0], fd, AFLOCK_ON_FILE); /* outside of a dispatch there is nothing to wait for */
    unlisten(&notify[0]);
    ck_assert_int_eq(inotify_watches(), 0);
    close(fd);
}
END_TEST

/* More than once, to the same file, which is one watch. */
static void listen_again(void)
{
    for (int i = 0; i < 3; i++) {
        listen_to(&notify[0], other_fd, AFLOCK_ON_FILE);
        if (i < 2)
            unlisten(&notify[0]);
    }
    see_one_watch();
}

START_TEST(listened_to_again_in_the_turn)
{
    int fd = other_fd = new_file("f");
    listen_to(&notify[0], fd, AFLOCK_ON_FILE);
    for (int i = 0; i < 2; i++) {
        forget();
        ctx.on_change = unlisten;
        ctx.on_turn = listen_again;
        touch(fd);
        ck_assert_uint_eq(process(), 1);
        ck_assert(!ctx.on_turn);
        ctx.on_change = NULL;
        ck_assert_int_eq(inotify_watches(), 1);
        touch(fd);
        ck_assert_uint_eq(process_all(), 1);
    }
    unlisten(&notify[0]);
    ck_assert_int_eq(inotify_watches(), 0);
    close(fd);
}
END_TEST

/* The file goes in the turn, and the kernel ends the watch itself. */
static void unlink_it(void)
{
    close(other_fd);
    ck_assert_int_eq(unlink("f"), 0);
    ctx.on_turn = NULL;
}

START_TEST(gone_in_the_turn)
{
    other_fd = new_file("f");
    listen_to(&notify[0], other_fd, AFLOCK_ON_FILE);
    ctx.on_change = unlisten;
    ctx.on_turn = unlink_it;
    touch(other_fd);
    ck_assert_uint_eq(process(), 1);
    ck_assert_int_eq(inotify_watches(), 0);
    ck_assert_uint_eq(process_all(), 0);
}
END_TEST

static void become_a_child(void)
{
    ctx.check = AFLOCK_EFORKED;
    ctx.on_turn = NULL;
}

/* What a callback has forked shares the watches with its parent. */
START_TEST(a_child_of_the_turn)
{
    int fd = new_file("f");
    listen_to(&notify[0], fd, AFLOCK_ON_FILE);
    ctx.on_change = unlisten;
    ctx.on_turn = become_a_child;
    touch(fd);
    ck_assert_uint_eq(process(), 1);
    ck_assert_int_eq(inotify_watches(), 1);
    ctx.check = 0; /* the parent */
    touch(fd);
    ck_assert_uint_eq(process(), 0);
    ck_assert_int_eq(inotify_watches(), 0);
    close(fd);
}
END_TEST

/* ------------------------------------------------------------------------------------------------- many, and too many
 */

static void alternate(int one, int two, int times)
{
    for (int i = 0; i < times; i++) /* the same twice in a row would be one event */
        touch(i % 2 ? one : two);
}

START_TEST(a_thousand_changes_are_one)
{
    int one = new_file("f"), two = new_file("g");
    listen_to(&notify[0], one, AFLOCK_ON_FILE);
    listen_to(&notify[1], two, AFLOCK_ON_FILE);
    alternate(one, two, 1000);
    ck_assert_uint_eq(process(), 2);
    ck_assert_uint_eq(told(&notify[0], AFLOCK_ON_FILE), 1);
    ck_assert_uint_eq(told(&notify[1], AFLOCK_ON_FILE), 1);
    ck_assert_int_eq(readable(), 0);
    unlisten(&notify[0]);
    unlisten(&notify[1]);
    close(one);
    close(two);
}
END_TEST

static int queue_length(void)
{
    int length = 0;
    FILE *file = fopen("/proc/sys/fs/inotify/max_queued_events", "re");
    ck_assert_ptr_nonnull(file);
    ck_assert_int_eq(fscanf(file, "%d", &length), 1);
    fclose(file);
    return length;
}

static unsigned count_lost(const aflock_notify *n)
{
    unsigned count = 0;
    for (unsigned i = 0; i < ctx.count; i++)
        count += ctx.changes[i].notify == n && ctx.changes[i].what == AFLOCK_ON_LOST;
    return count;
}

/* Anybody may have missed something, also those whose file did not change. */
START_TEST(an_overflow_is_everybodys)
{
    int fd[4];
    static const char *const names[] = {"a", "b", "c", "."};
    for (int i = 0; i < 4; i++)
        fd[i] = i < 3 ? new_file(names[i]) : open_file(names[i], O_RDONLY | O_DIRECTORY);
    for (int i = 0; i < 4; i++)
        listen_to(&notify[i], fd[i], i < 2 ? AFLOCK_ON_FILE : i == 2 ? AFLOCK_ON_MARKER : AFLOCK_ON_DIR);
    listen_to(&notify[4], fd[0], AFLOCK_ON_FILE);
    alternate(fd[0], fd[1], queue_length() + 100);
    process_all();
    for (int i = 0; i < 5; i++)
        ck_assert_uint_eq(count_lost(&notify[i]), 1);
    forget();
    touch(fd[0]); /* who goes on listening hears what comes next */
    ck_assert_uint_eq(process(), 2);
    for (int i = 0; i < 5; i++)
        unlisten(&notify[i]);
    ck_assert_int_eq(inotify_watches(), 0);
    for (int i = 0; i < 4; i++)
        close(fd[i]);
}
END_TEST

static void end_itself(aflock_notify *n)
{
    unlisten(n);
}

/* As the library does it: who is told ends it. */
START_TEST(an_overflow_that_ends_everything)
{
    int fd[2] = {new_file("a"), new_file("b")};
    for (int i = 0; i < 2; i++)
        listen_to(&notify[i], fd[i], AFLOCK_ON_FILE);
    alternate(fd[0], fd[1], queue_length() + 100);
    while (process() == 2 && ctx.count < CHANGES - 4 && count_lost(&notify[0]) == 0)
        forget();
    end_itself(&notify[0]);
    ctx.on_change = end_itself;
    touch(fd[0]);
    touch(fd[1]);
    ck_assert_uint_eq(process_all(), 1);
    ck_assert_int_eq(inotify_watches(), 0);
    close(fd[0]);
    close(fd[1]);
}
END_TEST

/* ------------------------------------------------------------------------------------------------------ files that go
 */

/* `in_report`: who is told ends it at once. */
static void lose_a_file(bool in_report)
{
    int fd = new_file("f"), other = new_file("g");
    listen_to(&notify[0], fd, AFLOCK_ON_FILE);
    listen_to(&notify[1], fd, AFLOCK_ON_MARKER);
    listen_to(&notify[2], other, AFLOCK_ON_FILE);
    ck_assert_int_eq(unlink("f"), 0);
    process_all();
    ck_assert_uint_eq(told(&notify[0], AFLOCK_ON_FILE), 1);
    forget();
    close(fd);
    ctx.on_change = in_report ? end_itself : NULL;
    process_all();
    ck_assert_uint_eq(told(&notify[0], AFLOCK_ON_GONE), 1);
    ck_assert_uint_eq(told(&notify[1], AFLOCK_ON_GONE), 1);
    ck_assert_uint_eq(ctx.count, 2);
    ctx.on_change = NULL;
    forget();
    ck_assert_int_eq(inotify_watches(), 1);
    fd = new_file("f"); /* perhaps with the same inode number */
    touch(fd);
    ck_assert_int_eq(readable(), 0);
    unlisten(&notify[0]);
    unlisten(&notify[1]);
    listen_to(&notify[0], fd, AFLOCK_ON_FILE);
    touch(fd);
    touch(other);
    process_all();
    ck_assert_uint_eq(told(&notify[0], AFLOCK_ON_FILE), 1);
    ck_assert_uint_eq(told(&notify[2], AFLOCK_ON_FILE), 1);
    forget();
    unlisten(&notify[0]);
    unlisten(&notify[2]);
    close(fd);
    close(other);
}

START_TEST(a_file_that_is_gone)
{
    lose_a_file(false);
    lose_a_file(true);
}
END_TEST

/* It is nobody's in the kernel any more; an overflow tells nobody again, and the end frees it. */
START_TEST(a_file_that_is_gone_stays_silent)
{
    int fd[2] = {new_file("a"), new_file("b")}, gone = new_file("f");
    listen_to(&notify[0], gone, AFLOCK_ON_FILE);
    listen_to(&notify[1], fd[0], AFLOCK_ON_FILE);
    listen_to(&notify[2], fd[1], AFLOCK_ON_FILE);
    ck_assert_int_eq(unlink("f"), 0);
    process_all();
    forget();
    close(gone);
    process_all();
    ck_assert_uint_eq(told(&notify[0], AFLOCK_ON_GONE), 1);
    forget();
    alternate(fd[0], fd[1], queue_length() + 100);
    process_all();
    ck_assert_uint_eq(count_lost(&notify[0]), 0);
    ck_assert_uint_eq(count_lost(&notify[1]), 1);
    close(fd[0]);
    close(fd[1]);
    for (int i = 0; i < 3; i++)
        notify[i].host = NULL; /* so that a leak is seen as one */
}
END_TEST

/* ---------------------------------------------------------------------------------------------- descriptors, errors */

START_TEST(nothing_is_opened_before_it_is_needed)
{
    int fd = new_file("f"), before = descriptors();
    ck_assert_int_eq(inotify_instances(), 0);
    listen_to(&notify[0], fd, AFLOCK_ON_FILE);
    ck_assert_int_eq(inotify_instances(), 1);
    ck_assert_int_eq(descriptors(), before + 1);
    listen_to(&notify[1], fd, AFLOCK_ON_FILE);
    ck_assert_int_eq(descriptors(), before + 1);
    unlisten(&notify[0]);
    unlisten(&notify[1]);
    close(fd);
}
END_TEST

static void limit_descriptors(rlim_t most)
{
    struct rlimit limit;
    ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
    limit.rlim_cur = most;
    ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
}

START_TEST(too_many_open_files)
{
    struct rlimit limit;
    ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
    int fd = new_file("f"), before = descriptors(), next = dup(fd);
    close(next);
    limit_descriptors((rlim_t)next);
    errno = 0;
    ck_assert_int_eq(add(&notify[0], fd, AFLOCK_ON_FILE), AFLOCK_EMFILE);
    ck_assert_int_eq(errno, EMFILE);
    ck_assert_ptr_null(notify[0].host);
    unlisten(&notify[0]); /* harmless */
    limit_descriptors(limit.rlim_cur);
    ck_assert_int_eq(descriptors(), before);
    listen_to(&notify[0], fd, AFLOCK_ON_FILE);
    touch(fd);
    ck_assert_uint_eq(process(), 1);
    unlisten(&notify[0]);
    close(fd);
}
END_TEST

START_TEST(what_cannot_be_listened_to)
{
    int fd = new_file("f");
    errno = 0;
    ck_assert_int_eq(add(&notify[0], fd, AFLOCK_ON_DIR), AFLOCK_ESYS);
    ck_assert_int_eq(errno, ENOTDIR);
    ck_assert_ptr_null(notify[0].host);
    close(fd);
    ck_assert_int_eq(add(&notify[0], fd, AFLOCK_ON_FILE), AFLOCK_ESYS);
    ck_assert_int_eq(errno, ENOENT);
    ck_assert_int_eq(inotify_watches(), 0);
    fd = new_file("f");
    listen_to(&notify[0], fd, AFLOCK_ON_FILE);
    unlisten(&notify[0]);
    close(fd);
}
END_TEST

/* What the library leaves is freed, and the kernel forgets it. */
START_TEST(closed_with_watches)
{
    end(0);
    int fd[3] = {new_file("a"), new_file("b"), new_file("c")}, before = descriptors();
    make();
    for (int i = 0; i < 3; i++)
        listen_to(&notify[i], fd[i], AFLOCK_ON_FILE);
    listen_to(&notify[3], fd[0], AFLOCK_ON_MARKER);
    touch(fd[0]); /* and what was not read */
    for (int i = 0; i < 4; i++)
        notify[i].host = NULL; /* so that a leak is seen as one */
    end(0);
    await_descriptors(before);
    ck_assert_int_eq(inotify_instances(), 0);
    for (int i = 0; i < 3; i++)
        close(fd[i]);
    make();
}
END_TEST

/* It may close before the loop does. */
START_TEST(nothing_is_reported_after_the_end)
{
    int fd = new_file("f");
    listen_to(&notify[0], fd, AFLOCK_ON_FILE);
    touch(fd);
    ck_assert_int_eq(readable(), 1);
    host.notifier->close(host.notifier->self, 0);
    ck_assert_int_eq(readable(), 0);
    aflock_kit_process(kit, &ctx);
    ck_assert_uint_eq(ctx.count, 0);
    close(fd);
}
END_TEST

START_TEST(closed_in_a_child)
{
    int status, fd = new_file("f");
    listen_to(&notify[0], fd, AFLOCK_ON_FILE);
    pid_t child = fork();
    ck_assert_int_ge(child, 0);
    if (child == 0) {
        end(1);
        _exit(inotify_instances()); /* at once: there are no threads to do it */
    }
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    process_all();
    forget();
    ck_assert_int_eq(inotify_watches(), 1);
    touch(fd);
    ck_assert_uint_eq(process(), 1);
    unlisten(&notify[0]);
    ck_assert_int_eq(inotify_watches(), 0);
    close(fd);
}
END_TEST

START_TEST(standard_streams_are_left_alone)
{
    int status, fd = new_file("f");
    pid_t child = fork();
    ck_assert_int_ge(child, 0);
    if (child == 0) {
        for (int i = 0; i < 3; i++)
            close(i);
        bool fine = add(&notify[0], fd, AFLOCK_ON_FILE) == 0;
        for (int i = 0; i < 3; i++)
            fine &= fcntl(i, F_GETFD) < 0;
        fine &= futimens(fd, NULL) == 0;
        aflock_kit_process(kit, &ctx);
        _exit(fine && ctx.count == 1 ? 0 : 1);
    }
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    close(fd);
}
END_TEST

/* ---------------------------------------------------------------------------------------------------------- suite */

int main(void)
{
    static const TTest *const *const tests[] = {
        &changes_of_a_file,
        &changes_of_a_marker,
        &openings_of_a_file,
        &openings_of_a_directory,
        &entries_of_a_directory,
        &a_directory_as_a_file,
        &two_on_one_file,
        &two_kinds_on_one_file,
        &openings_beside_changes,
        &ended_inside_a_report,
        &all_ended_inside_a_report,
        &ended_between_two_entries,
        &added_inside_a_report,
        &ended_after_the_turn,
        &listened_to_again_in_the_turn,
        &gone_in_the_turn,
        &a_child_of_the_turn,
        &a_thousand_changes_are_one,
        &an_overflow_is_everybodys,
        &an_overflow_that_ends_everything,
        &a_file_that_is_gone,
        &a_file_that_is_gone_stays_silent,
        &nothing_is_opened_before_it_is_needed,
        &too_many_open_files,
        &what_cannot_be_listened_to,
        &closed_with_watches,
        &nothing_is_reported_after_the_end,
        &closed_in_a_child,
        &standard_streams_are_left_alone,
    };
    Suite *suite = suite_create("listener");
    for (size_t i = 0; i < sizeof tests / sizeof tests[0]; i++) {
        TCase *tcase = tcase_create((*tests[i])->name);
        tcase_add_unchecked_fixture(tcase, make_folder, remove_folder);
        tcase_add_checked_fixture(tcase, setup, teardown);
        tcase_set_timeout(tcase, 60);
        tcase_add_test(tcase, *tests[i]);
        suite_add_tcase(suite, tcase);
    }
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
