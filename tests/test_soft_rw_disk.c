/* Soft readers and writers, and what may lie where their markers ought to be: nothing blocks, nothing is followed, what
 * is no file is never taken away; and in which order everything is made. */
#include "support/soft_rw_scene.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define READ AFLOCK_SHARED
#define WRITE AFLOCK_EXCLUSIVE

/* -------------------------------------------------------------------------------------------------------------- nodes
 */

typedef enum node { LINK_TO_FILE, LINK_TO_NOTHING, FIFO, DIRECTORY, SOCKET, NODES } node;

static void make_node(node n, const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    if (n == LINK_TO_FILE || n == LINK_TO_NOTHING) {
        scene_write("victim", "precious");
        ck_assert_int_eq(symlink(n == LINK_TO_FILE ? "../victim" : "../nothing", path), 0);
    } else if (n == FIFO) {
        ck_assert_int_eq(mkfifo(path, 0600), 0);
    } else if (n == DIRECTORY) {
        ck_assert_int_eq(mkdir(path, 0700), 0);
    } else {
        const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        ck_assert_int_eq(bind(fd, (const struct sockaddr *)&address, sizeof address), 0);
        close(fd);
    }
}

static void take_node(node n, const char *path)
{
    ck_assert(is_there(path)); /* still */
    ck_assert_int_eq(n == DIRECTORY ? rmdir(path) : unlink(path), 0);
    if (n == LINK_TO_FILE)
        must_read("victim", "precious");
    (void)unlink("victim");
    ck_assert(!is_there("nothing"));
}

START_TEST(at_the_writers_place)
{
    static const int statuses[] = {AFLOCK_ELOOP, AFLOCK_ELOOP, AFLOCK_ENOTFILE, AFLOCK_EISDIR, AFLOCK_ENOTFILE};
    aflock *lock = soft_rw_open(_i);
    ck_assert_int_eq(mkdir(READERS, 0700), 0);
    for (int n = 0; n < NODES; n++) {
        make_node((node)n, WRITER);
        make_older(WRITER, 1000);
        answer a = soft_rw_try(lock, WRITE, 30 * AFLOCK_SECOND);
        ck_assert_int_eq(a.result.status, statuses[n]);
        ck_assert_str_eq(a.step, "open");
        ck_assert_ptr_nonnull(strstr(a.detail, "lock.write: "));
        soft_rw_rest();
        must_release(lock, soft_rw_hold(lock, READ)); /* it is no writer */
        take_node((node)n, WRITER);
        soft_rw_must_get(lock, WRITE);
    }
}
END_TEST

START_TEST(at_a_readers_place)
{
    aflock *lock = soft_rw_open(_i);
    ck_assert_int_eq(mkdir(READERS, 0700), 0);
    for (int n = 0; n < NODES; n++) {
        make_node((node)n, READERS "/f0.1");
        make_older(READERS "/f0.1", 1000);
        ck_assert_int_eq(soft_rw_try(lock, WRITE, A_MOMENT).result.status, AFLOCK_ETIMEDOUT);
        soft_rw_rest();
        must_release(lock, soft_rw_hold(lock, READ));
        sight s = look(lock);
        ck_assert(s.holder.held && s.holder.count == 1 && s.holder.pid == 0);
        take_node((node)n, READERS "/f0.1");
        soft_rw_must_get(lock, WRITE);
    }
}
END_TEST

enum { NOBODY = 65534 };
static int io_as_nobody;

START_TEST(at_the_folders_place)
{
    aflock *lock = soft_rw_open(_i);
    for (int n = 0; n < NODES + 1; n++) {
        if (n == DIRECTORY)
            continue;
        if (n == NODES)
            scene_write(READERS, "a file");
        else
            make_node((node)n, READERS);
        for (int mode = WRITE; mode <= READ; mode++) {
            answer a = soft_rw_try(lock, (aflock_mode)mode, 30 * AFLOCK_SECOND);
            ck_assert_int_eq(a.result.status, AFLOCK_EPROTO);
            ck_assert_ptr_nonnull(strstr(a.detail, "lock.readers: it is no real directory"));
            ck_assert(!is_there(WRITER) && !is_there(STATE));
        }
        if (n == NODES)
            ck_assert_int_eq(unlink(READERS), 0);
        else
            take_node((node)n, READERS);
    }
    soft_rw_must_get(lock, READ);
}
END_TEST

/* Somebody else's folder is closed to us: we cannot know who reads, so we neither read nor write, and leave nothing. */
static void try_as_nobody(void)
{
    ck_assert_int_eq(setresuid(NOBODY, NOBODY, NOBODY), 0);
    aflock *lock = soft_rw_open(io_as_nobody);
    for (int mode = WRITE; mode <= READ; mode++) {
        answer a = soft_rw_try(lock, (aflock_mode)mode, 30 * AFLOCK_SECOND);
        ck_assert_int_eq(a.result.status, AFLOCK_EACCES);
        ck_assert_int_eq(a.result.sys_errno, EACCES);
        ck_assert(!is_there(WRITER) && !is_there(STATE));
    }
}

START_TEST(somebody_elses_folder)
{
    if (geteuid() != 0)
        return; /* nobody else's can be made */
    ck_assert_int_eq(chmod(".", 0777), 0);
    soft_rw_must_get(soft_rw_open(_i), READ); /* makes the folder */
    pid_t child = fork();
    ck_assert_int_ge(child, 0);
    if (child == 0) {
        scene = NULL;
        scene_make_context();
        io_as_nobody = _i;
        try_as_nobody();
        _exit(0);
    }
    int status;
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert_int_eq(status, 0);
}
END_TEST

START_TEST(at_the_state_locks_place)
{
    static const int statuses[] = {AFLOCK_ELOOP, AFLOCK_ELOOP, AFLOCK_ENOTFILE, AFLOCK_EISDIR, AFLOCK_ENOTFILE};
    aflock *lock = soft_rw_open(_i);
    for (int n = 0; n < NODES; n++) {
        make_node((node)n, STATE);
        for (int mode = WRITE; mode <= READ; mode++) {
            answer a = soft_rw_try(lock, (aflock_mode)mode, 30 * AFLOCK_SECOND);
            ck_assert_int_eq(a.result.status, statuses[n]);
            ck_assert_ptr_nonnull(strstr(a.detail, "lock.state: "));
            ck_assert(!is_there(WRITER) && count_readers() == 0);
        }
        take_node((node)n, STATE);
    }
    soft_rw_must_get(lock, WRITE);
}
END_TEST

/* Records that end too early, or are too long, are not those of a holder; they go when they are old. */
START_TEST(records_cut_off)
{
    char text[256];
    const int length = snprintf(text, sizeof text, TOKEN "\n%d\nhost\n", (int)getpid());
    aflock *lock = soft_rw_open(_i);
    for (int i = 0; i < length; i++) {
        char cut[256];
        snprintf(cut, sizeof cut, "%.*s", i, text);
        scene_write(WRITER, cut);
        ck_assert_int_eq(soft_rw_try(lock, READ, 0).result.status, AFLOCK_EWOULDBLOCK);
        make_older(WRITER, 100);
        soft_rw_must_get(lock, READ);
    }
    char large[2000];
    memset(large, '\n', sizeof large - 1);
    large[sizeof large - 1] = '\0';
    memcpy(large, text, (size_t)length);
    scene_write(WRITER, large);
    ck_assert_int_eq(soft_rw_try(lock, READ, 0).result.status, AFLOCK_EWOULDBLOCK);
    make_older(WRITER, 100);
    soft_rw_must_get(lock, WRITE);
}
END_TEST

START_TEST(a_name_of_200_bytes)
{
    char name[300];
    aflock *lock;
    const aflock_options o = soft_rw_options(_i);
    memset(name, 'n', sizeof name);
    name[201] = '\0';
    ck_assert_int_eq(aflock_open(&lock, scene, name, &o), AFLOCK_ENAMETOOLONG);
    name[200] = '\0';
    ck_assert_int_eq(aflock_open(&lock, scene, name, &o), 0);
    answer a = soft_rw_try(lock, WRITE, 30 * AFLOCK_SECOND);
    ck_assert_int_eq(a.result.status, 0);
    must_release(lock, a.result.req);
    char writer[400];
    snprintf(writer, sizeof writer, "%s.write", name);
    write_marker(writer, TOKEN, getpid(), ELSEWHERE); /* it can be put aside */
    make_older(writer, 100);
    a = soft_rw_try(lock, WRITE, 30 * AFLOCK_SECOND);
    ck_assert_int_eq(a.result.status, 0);
    must_release(lock, a.result.req);
    ck_assert_int_eq(scene_entries("."), 1);
}
END_TEST

/* ------------------------------------------------------------------------------------------------------ in which order
 */

static char order[4096];

/* Names of one's own are not to be known before. */
static const char *plain(const char *path)
{
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    if (strstr(name, ".break."))
        return "aside";
    return strlen(name) > 33 && name[32] == '.' ? "reader" : name;
}

static int write_down(seam_call call, int fd, const char *path)
{
    (void)fd;
    const bool makes =
        call == SEAM_CREATE || call == SEAM_LINK || call == SEAM_UNLINK || call == SEAM_MKDIR || call == SEAM_RENAME;
    const size_t used = strlen(order);
    if (makes && path)
        snprintf(order + used, sizeof order - used, "%s%s %s", used ? ", " : "", seam_name(call), plain(path));
    return 0;
}

static void must_be_done(const char *expected)
{
    seam_judge_by(NULL, NULL);
    ck_assert_str_eq(order, expected);
    order[0] = '\0';
    seam_judge_by(write_down, NULL);
}

START_TEST(the_order)
{
    aflock *lock = soft_rw_open(AFLOCK_IO_INLINE);
    seam_judge_by(write_down, NULL);
    aflock_req req = soft_rw_hold(lock, READ);
    must_be_done("mkdir lock.readers, link lock.state, create reader, unlink lock.state");
    must_release(lock, req);
    must_be_done("unlink reader");
    req = soft_rw_hold(lock, WRITE);
    must_be_done("link lock.state, create lock.write, unlink lock.state");
    must_release(lock, req);
    must_be_done("link lock.state, unlink lock.write, unlink lock.state");
    write_writer(1, ELSEWHERE);
    make_older(WRITER, 100);
    req = soft_rw_hold(lock, READ);
    must_be_done("link lock.state, rename lock.write, unlink aside, create reader, unlink lock.state");
    must_release(lock, req);
    order[0] = '\0';
    make_older(write_reader("f0.1", 1, ELSEWHERE), 100);
    req = soft_rw_hold(lock, WRITE);
    must_be_done("link lock.state, create lock.write, rename f0.1, unlink aside, unlink lock.state");
    must_release(lock, req);
    order[0] = '\0';
    write_writer(1, ELSEWHERE); /* who finds it held does not need the state lock */
    ck_assert_int_eq(soft_rw_try(lock, READ, 0).result.status, AFLOCK_EWOULDBLOCK);
    ck_assert_int_eq(soft_rw_try(lock, WRITE, 0).result.status, AFLOCK_EWOULDBLOCK);
    must_be_done("");
    seam_judge_by(NULL, NULL);
}
END_TEST

/* A heartbeat that comes while its marker is put aside: it is not taken away any more. */
static const char *refreshed_path;

static void refresh(void)
{
    seam_before(SEAM_RENAME, NULL);
    make_older(refreshed_path, 0);
}

START_TEST(it_is_refreshed_while_it_is_broken)
{
    aflock *lock = soft_rw_open(_i);
    write_writer(getpid(), ELSEWHERE);
    make_older(WRITER, 100);
    refreshed_path = WRITER;
    seam_before(SEAM_RENAME, refresh);
    must_release(lock, soft_rw_hold(lock, READ));
    ck_assert_int_eq(scene_entries("."), 2); /* it is aside; its holder learns that it is not there any more */
}
END_TEST

/* Another one in its place is left to its owner, too. */
static void replace(void)
{
    seam_before(SEAM_RENAME, NULL);
    write_marker("new", "ffffffffffffffffffffffffffffffff", 1, ELSEWHERE);
    make_older("new", 200); /* what is later has been refreshed, in any case */
    ck_assert_int_eq(rename("new", WRITER), 0);
}

START_TEST(it_is_replaced_while_it_is_broken)
{
    aflock *lock = soft_rw_open(_i);
    write_writer(getpid(), ELSEWHERE);
    make_older(WRITER, 100);
    seam_before(SEAM_RENAME, replace);
    must_release(lock, soft_rw_hold(lock, READ));
    ck_assert_int_eq(scene_entries("."), 2);
}
END_TEST

int main(void)
{
    const TTest *const once[] = {the_order, NULL};
    const TTest *const each[] = {at_the_writers_place,
                                 at_a_readers_place,
                                 at_the_folders_place,
                                 somebody_elses_folder,
                                 at_the_state_locks_place,
                                 records_cut_off,
                                 a_name_of_200_bytes,
                                 it_is_refreshed_while_it_is_broken,
                                 it_is_replaced_while_it_is_broken,
                                 NULL};
    return scene_main("soft rw disk", once, each);
}
