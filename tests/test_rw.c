/* AFLOCK_RW beside the real SQLite: who excludes whom, what is left of the file, and how a writer waits. */
#include "support/database.h"
#include "support/rw_scene.h"

#include <errno.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* As long as attempts find it taken: one, another after the watch began, and none after that. */
enum { LISTENS = 2 };

/* -------------------------------------------------------------------------------------------------------- the file */

typedef struct bytes {
    size_t size;
    unsigned char *at;
} bytes;

static bytes read_all(const char *path)
{
    bytes b = {0};
    FILE *f = fopen(path, "r");
    ck_assert_ptr_nonnull(f);
    ck_assert_int_eq(fseek(f, 0, SEEK_END), 0);
    b.size = (size_t)ftell(f);
    b.at = malloc(b.size + 1);
    rewind(f);
    ck_assert_uint_eq(fread(b.at, 1, b.size, f), b.size);
    fclose(f);
    return b;
}

static void must_be_unchanged(const char *path, bytes before)
{
    bytes now = read_all(path);
    ck_assert_uint_eq(now.size, before.size);
    ck_assert_mem_eq(now.at, before.at, before.size + (before.size == 0));
    free(now.at);
    free(before.at);
}

static void make_database(void)
{
    connection c = db_connect("db");
    ck_assert_int_eq(db_ask(&c, DB_FILL), SQLITE_OK);
    db_close(&c);
}

START_TEST(what_is_made)
{
    umask(027);
    aflock *lock = rw_open(_i);
    rw_let_go(lock, rw_hold(lock, AFLOCK_EXCLUSIVE));
    ck_assert_int_eq(scene_size("db"), 0);
    ck_assert_uint_eq(scene_mode("db"), 0640);
    ck_assert_int_eq(scene_entries("."), 1);
}
END_TEST

START_TEST(a_database_stays_as_it_is)
{
    make_database();
    bytes before = read_all("db");
    aflock *lock = rw_open(_i);
    rw_let_go(lock, rw_hold(lock, AFLOCK_SHARED));
    rw_let_go(lock, rw_hold(lock, AFLOCK_EXCLUSIVE));
    must_be_unchanged("db", before);
    ck_assert_int_eq(scene_entries("."), 1);
}
END_TEST

START_TEST(links_are_followed)
{
    aflock_options o = rw_options(_i);
    aflock *lock;
    ck_assert_int_eq(symlink("db", "link"), 0);
    ck_assert_int_eq(aflock_open(&lock, scene, "link", &o), 0);
    aflock_req req = rw_hold(lock, AFLOCK_EXCLUSIVE);
    ck_assert(!all_is_free("db"));
    rw_let_go(lock, req);
    ck_assert(all_is_free("db"));
}
END_TEST

START_TEST(readers_need_not_write)
{
    make_database();
    ck_assert_int_eq(chmod("db", 0444), 0);
    aflock *lock = rw_open(_i);
    aflock_acquire_options o = rw_request(AFLOCK_SHARED);
    o.flags |= AFLOCK_READ_ONLY;
    answer a = scene_acquire(lock, &o);
    ck_assert_int_eq(a.result.status, 0);
    ck_assert_int_eq(fcntl(a.result.fd, F_GETFL) & O_ACCMODE, O_RDONLY);
    connection c = db_connect("db");
    ck_assert_int_eq(db_ask(&c, DB_WRITE), SQLITE_BUSY);
    rw_let_go(lock, a.result.req);
    db_close(&c);
}
END_TEST

START_TEST(what_makes_no_sense)
{
    static const struct {
        aflock_mode mode;
        uint32_t flags, file_mode;
        int status;
    } CASES[] = {
        {AFLOCK_EXCLUSIVE, AFLOCK_READ_ONLY, AFLOCK_MODE_DEFAULT, AFLOCK_EINVAL},
        {AFLOCK_EXCLUSIVE, AFLOCK_TRUNCATE, AFLOCK_MODE_DEFAULT, AFLOCK_EINVAL},
        {AFLOCK_SHARED, AFLOCK_TRUNCATE, AFLOCK_MODE_DEFAULT, AFLOCK_EINVAL},
        {AFLOCK_SHARED, AFLOCK_DIRECTORY, AFLOCK_MODE_DEFAULT, AFLOCK_EINVAL},
        {AFLOCK_EXCLUSIVE, 0, 0600, AFLOCK_EINVAL},
        {AFLOCK_EXCLUSIVE, AFLOCK_FOLLOW | AFLOCK_CREATE, AFLOCK_MODE_DEFAULT, 0},
        {AFLOCK_SHARED, AFLOCK_INHERIT | AFLOCK_CREATE, AFLOCK_MODE_DEFAULT, 0},
    };
    aflock *lock = rw_open(_i), *other;
    aflock_options options = rw_options(_i);
    for (size_t i = 0; i < sizeof CASES / sizeof CASES[0]; i++) {
        aflock_acquire_options o = rw_request(CASES[i].mode);
        answer a = {0};
        o.flags = CASES[i].flags;
        o.file_mode = CASES[i].file_mode;
        int status = aflock_acquire(lock, &o, scene_answer, &a, NULL);
        ck_assert_int_eq(status, CASES[i].status);
        if (status)
            continue;
        scene_expect(1);
        scene_run_until(&a.count, 1);
        ck_assert_int_eq(a.result.status, 0);
        rw_let_go(lock, a.result.req);
    }
    ck_assert_int_eq(aflock_open_fd(&other, scene, 0, &options), AFLOCK_EINVAL);
    ck_assert_int_eq(aflock_break(lock, scene_answer, NULL), AFLOCK_ENOTSUP);
}
END_TEST

static void must_be_refused(aflock *lock, const char *step)
{
    for (int mode = AFLOCK_EXCLUSIVE; mode <= AFLOCK_SHARED; mode++) {
        answer a = rw_try(lock, (aflock_mode)mode);
        ck_assert_int_eq(a.result.status, AFLOCK_EPROTO);
        ck_assert_str_eq(a.step, step);
        ck_assert(all_is_free("db"));
    }
}

START_TEST(what_is_no_database)
{
    static const char *const CONTENTS[] = {"x", "1234\nhost\n", "SQLite format", "SQLite format 2. And more than that"};
    aflock *lock = rw_open(_i);
    for (size_t i = 0; i < sizeof CONTENTS / sizeof CONTENTS[0]; i++) {
        scene_write("db", CONTENTS[i]);
        must_be_refused(lock, "not a database");
    }
    ck_assert_int_eq(truncate("db", 0), 0);
    ck_assert_int_eq(truncate("db", 4096), 0);
    must_be_refused(lock, "not a database");
    ck_assert_int_eq(truncate("db", 0), 0);
    rw_let_go(lock, rw_hold(lock, AFLOCK_SHARED));
}
END_TEST

/* It is refused also where somebody holds it: it would be waited for in vain, or for the wrong thing. */
START_TEST(what_is_no_database_is_not_waited_for)
{
    aflock *lock = rw_open(_i);
    answer a = {0};
    scene_write("db", "no database, but locked all the same");
    int fd = open("db", O_RDWR | O_CLOEXEC);
    struct flock all = {.l_type = F_WRLCK};
    ck_assert_int_eq(fcntl(fd, F_OFD_SETLK, &all), 0);
    aflock_acquire_options o = rw_request((aflock_mode)(_i % 2));
    ck_assert_int_eq(aflock_acquire(lock, &o, scene_answer, &a, NULL), 0);
    scene_expect(1);
    scene_run_until(&a.count, 1);
    ck_assert_int_eq(a.result.status, AFLOCK_EPROTO);
    ck_assert_str_eq(a.step, "not a database");
    close(fd);
}
END_TEST

/* A database whose first page is not written yet is waited for. */
START_TEST(what_is_being_filled_is_waited_for)
{
    aflock *lock = rw_open(_i);
    answer a = {0};
    scene_write("db", "");
    ck_assert_int_eq(truncate("db", 8192), 0);
    int fd = open("db", O_RDWR | O_CLOEXEC);
    struct flock all = {.l_type = F_WRLCK};
    ck_assert_int_eq(fcntl(fd, F_OFD_SETLK, &all), 0);
    rw_wait(lock, AFLOCK_EXCLUSIVE, &a, LISTENS);
    ck_assert_int_eq(pwrite(fd, "SQLite format 3", 16, 0), 16);
    close(fd);
    scene_run_until(&a.count, 1);
    ck_assert_int_eq(a.result.status, 0);
    rw_let_go(lock, a.result.req);
}
END_TEST

START_TEST(the_write_ahead_log)
{
    aflock *lock = rw_open(_i);
    connection c = db_connect("db");
    ck_assert_int_eq(db_ask(&c, DB_WAL), SQLITE_OK);
    for (int mode = AFLOCK_EXCLUSIVE; mode <= AFLOCK_SHARED; mode++) {
        answer a = rw_try(lock, (aflock_mode)mode);
        ck_assert_int_eq(a.result.status, AFLOCK_EPROTO);
        ck_assert_str_eq(a.step, "WAL mode");
    }
    db_close(&c);
    must_be_refused(lock, "WAL mode");
    ck_assert_int_eq(scene_entries("."), 1);
}
END_TEST

/* What a crashed writer has left is SQLite's to mend. */
START_TEST(a_journal_is_left_alone)
{
    make_database();
    connection c = db_connect("db");
    ck_assert_int_eq(db_ask(&c, DB_CHANGE), SQLITE_OK);
    db_kill(&c);
    ck_assert_int_gt(scene_size("db-journal"), 0);
    bytes file = read_all("db"), journal = read_all("db-journal");
    aflock *lock = rw_open(_i);
    rw_let_go(lock, rw_hold(lock, AFLOCK_EXCLUSIVE));
    aflock_req req = rw_hold(lock, AFLOCK_SHARED);
    must_be_unchanged("db", file);
    must_be_unchanged("db-journal", journal);
    c = db_connect("db");
    ck_assert_int_eq(db_ask(&c, DB_CHECK), SQLITE_BUSY); /* who mends it has to be alone */
    rw_let_go(lock, req);
    ck_assert_int_eq(db_ask(&c, DB_CHECK), SQLITE_OK);
    db_close(&c);
    ck_assert_int_eq(scene_size("db-journal"), -1);
}
END_TEST

/* ------------------------------------------------------------------------------------------------ who excludes whom */

static void exclude(int io)
{
    aflock *lock = rw_open(io);
    connection c = db_connect("db");
    for (int i = 0; i < 4; i++) {
        const aflock_mode mode = i & 1 ? AFLOCK_SHARED : AFLOCK_EXCLUSIVE;
        const statement theirs = i & 2 ? DB_READ : DB_WRITE;
        const bool both = mode == AFLOCK_SHARED && theirs == DB_READ;
        aflock_req req = rw_hold(lock, mode);
        ck_assert_int_eq(db_ask(&c, theirs), both ? SQLITE_OK : SQLITE_BUSY);
        rw_let_go(lock, req);
        if (!both)
            ck_assert_int_eq(db_ask(&c, theirs), SQLITE_OK);
        answer a = rw_try(lock, mode);
        ck_assert_int_eq(a.result.status, both ? 0 : AFLOCK_EWOULDBLOCK);
        if (both)
            rw_let_go(lock, a.result.req);
        ck_assert_int_eq(db_ask(&c, DB_END), SQLITE_OK);
        rw_come_to_rest();
        ck_assert(all_is_free("db"));
    }
    db_close(&c);
}

START_TEST(sqlite_on_an_empty_file)
{
    scene_write("db", "");
    exclude(_i);
}
END_TEST

START_TEST(sqlite_on_a_database)
{
    make_database();
    exclude(_i);
}
END_TEST

/* Two contexts are strangers to each other. */
START_TEST(ourselves)
{
    aflock *locks[2];
    aflock_ctx *other;
    aflock_options o = rw_options(_i);
    ck_assert_int_eq(aflock_epoll_new(&other, NULL), 0);
    o.io = AFLOCK_IO_INLINE;
    ck_assert_int_eq(aflock_open(&locks[0], other, "db", &o), 0);
    locks[1] = rw_open(_i);
    for (int i = 0; i < 4; i++) {
        const aflock_mode first = i & 1 ? AFLOCK_SHARED : AFLOCK_EXCLUSIVE;
        const aflock_mode second = i & 2 ? AFLOCK_SHARED : AFLOCK_EXCLUSIVE;
        const bool both = first == AFLOCK_SHARED && second == AFLOCK_SHARED;
        aflock_acquire_options request = rw_request(first);
        aflock_req req;
        while (aflock_try(locks[0], &request, &req, NULL) != 0)
            usleep(1000); /* the other one is giving its claim back */
        answer a = rw_try(locks[1], second);
        ck_assert_int_eq(a.result.status, both ? 0 : AFLOCK_EWOULDBLOCK);
        if (both)
            rw_let_go(locks[1], a.result.req);
        ck_assert_int_eq(aflock_release(locks[0], req, NULL, NULL), 0);
    }
    ck_assert_int_eq(aflock_ctx_free(other, 30 * AFLOCK_SECOND), 0);
}
END_TEST

/* ------------------------------------------------------------------------------------------------------- the claim */

static int free_calls;

static void count_free(seam_call call, int fd, int result)
{
    (void)fd, (void)result;
    free_calls += call == SEAM_UNLOCK;
}

START_TEST(a_writer_waits_for_readers)
{
    answer a = {0};
    scene_write("db", "");
    aflock *lock = rw_open(_i);
    connection reader = db_connect("db"), late = db_connect("db");
    ck_assert_int_eq(db_ask(&reader, DB_READ), SQLITE_OK);
    rw_wait(lock, AFLOCK_EXCLUSIVE, &a, LISTENS);
    ck_assert_int_eq(db_ask(&late, DB_READ), SQLITE_BUSY);
    ck_assert_int_eq(db_ask(&late, DB_WRITE), SQLITE_BUSY);
    ck_assert_int_eq(db_ask(&reader, DB_END), SQLITE_OK); /* keeps the file open: nothing is heard of that */
    ck_assert_int_eq(a.count, 0);
    ck_assert_int_eq(db_ask(&late, DB_READ), SQLITE_BUSY);
    db_close(&reader);
    scene_run_until(&a.count, 1);
    ck_assert_int_eq(a.result.status, 0);
    ck_assert_int_eq(db_ask(&late, DB_READ), SQLITE_BUSY);
    rw_let_go(lock, a.result.req);
    ck_assert_int_eq(db_ask(&late, DB_WRITE), SQLITE_OK);
    db_close(&late);
}
END_TEST

/* Nothing is heard of who unlocks and keeps the file open: that is looked for. */
START_TEST(a_writer_looks_for_readers_who_stay)
{
    answer a = {0};
    scene_write("db", "");
    aflock_options o = rw_options(_i);
    o.poll_interval = AFLOCK_MILLISECOND;
    aflock *lock = rw_open_with(&o);
    connection reader = db_connect("db");
    ck_assert_int_eq(db_ask(&reader, DB_READ), SQLITE_OK);
    rw_wait(lock, AFLOCK_EXCLUSIVE, &a, 2 * LISTENS);
    ck_assert_int_eq(db_ask(&reader, DB_END), SQLITE_OK);
    scene_run_until(&a.count, 1);
    rw_let_go(lock, a.result.req);
    db_close(&reader);
}
END_TEST

/* With the claim, one more attempt is one call. */
START_TEST(a_claim_is_taken_once)
{
    answer a = {0};
    scene_write("db", "");
    aflock *lock = rw_open(_i);
    connection reader = db_connect("db");
    ck_assert_int_eq(db_ask(&reader, DB_READ), SQLITE_OK);
    seam_judge_by(NULL, count_free);
    rw_wait(lock, AFLOCK_EXCLUSIVE, &a, LISTENS);
    ck_assert_int_eq(seam_count(SEAM_LOCK), 1 + LISTENS);
    ck_assert_int_eq(free_calls, 0);
    db_close(&reader);
    scene_run_until(&a.count, 1);
    ck_assert_int_eq(free_calls, 0);
    seam_judge_by(NULL, NULL);
    rw_let_go(lock, a.result.req);
}
END_TEST

/* Who does not win the claim has nothing. */
START_TEST(two_writers)
{
    answer a = {0};
    scene_write("db", "");
    aflock *lock = rw_open(_i);
    connection writer = db_connect("db");
    ck_assert_int_eq(db_ask(&writer, DB_FILL), SQLITE_OK);
    ck_assert_int_eq(db_ask(&writer, DB_WRITE), SQLITE_OK);
    rw_wait(lock, AFLOCK_EXCLUSIVE, &a, LISTENS);
    ck_assert_int_eq(db_ask(&writer, DB_END), SQLITE_OK);
    ck_assert_int_eq(db_ask(&writer, DB_READ), SQLITE_OK); /* no claim keeps it out */
    ck_assert_int_eq(a.count, 0);
    db_close(&writer);
    scene_run_until(&a.count, 1);
    ck_assert_int_eq(a.result.status, 0);
    rw_let_go(lock, a.result.req);
}
END_TEST

/* While others lock and unlock whatever file, the kernel's table can miss an entry. */
#define LOOK_UNTIL(condition) \
    do                        \
        h = rw_look(lock);    \
    while (!(condition))

/* Their writer has the claim: neither our readers nor our writers come before it. */
START_TEST(their_claim)
{
    scene_write("db", "");
    aflock *lock = rw_open(_i);
    connection writer = db_connect("db");
    aflock_req req = rw_hold(lock, AFLOCK_SHARED);
    db_tell(&writer, DB_WAIT);
    while (bytes_are_free("db", F_RDLCK, PENDING_BYTE, 1))
        usleep(1000);
    aflock_holder h;
    LOOK_UNTIL(h.held == 1 && h.pending == 1 && h.mode == AFLOCK_SHARED);
    rw_let_go(lock, req);
    ck_assert_int_eq(db_answer(&writer), SQLITE_OK);
    ck_assert_int_eq(rw_try(lock, AFLOCK_SHARED).result.status, AFLOCK_EWOULDBLOCK);
    ck_assert_int_eq(rw_try(lock, AFLOCK_EXCLUSIVE).result.status, AFLOCK_EWOULDBLOCK);
    db_close(&writer);
}
END_TEST

START_TEST(behind_their_claim)
{
    scene_write("db", "");
    aflock *lock = rw_open(_i);
    connection reader = db_connect("db"), writer = db_connect("db");
    ck_assert_int_eq(db_ask(&reader, DB_READ), SQLITE_OK);
    db_tell(&writer, DB_WAIT);
    while (bytes_are_free("db", F_RDLCK, PENDING_BYTE, 1))
        usleep(1000);
    ck_assert_int_eq(rw_try(lock, AFLOCK_SHARED).result.status, AFLOCK_EWOULDBLOCK);
    ck_assert_int_eq(rw_try(lock, AFLOCK_EXCLUSIVE).result.status, AFLOCK_EWOULDBLOCK);
    ck_assert_int_eq(db_ask(&reader, DB_END), SQLITE_OK);
    ck_assert_int_eq(db_answer(&writer), SQLITE_OK);
    db_close(&reader);
    db_close(&writer);
}
END_TEST

/* Readers that come and go all the time: the writer waits for those who were there, and for nobody else. */
START_TEST(a_writer_is_not_starved)
{
    enum { READERS = 4 };
    answer a = {0};
    scene_write("db", "");
    aflock *lock = rw_open(_i);
    connection readers[READERS], last = db_connect("db");
    for (int i = 0; i < READERS; i++) {
        readers[i] = db_connect("db");
        ck_assert_int_eq(db_ask(&readers[i], DB_READ), SQLITE_OK);
    }
    ck_assert_int_eq(db_ask(&last, DB_READ), SQLITE_OK);
    rw_wait(lock, AFLOCK_EXCLUSIVE, &a, LISTENS);
    for (int i = 0; i < READERS; i++) {
        ck_assert_int_eq(db_ask(&readers[i], DB_END), SQLITE_OK);
        ck_assert_int_eq(db_ask(&readers[i], DB_READ), SQLITE_BUSY);
        ck_assert_int_eq(a.count, 0);
    }
    db_close(&last);
    scene_run_until(&a.count, 1);
    ck_assert_int_eq(a.result.status, 0);
    rw_let_go(lock, a.result.req);
    for (int i = 0; i < READERS; i++)
        db_close(&readers[i]);
}
END_TEST

START_TEST(a_claim_that_is_cancelled)
{
    answer a = {0};
    scene_write("db", "");
    aflock *lock = rw_open(_i);
    connection reader = db_connect("db"), late = db_connect("db");
    ck_assert_int_eq(db_ask(&reader, DB_READ), SQLITE_OK);
    aflock_req req = rw_wait(lock, AFLOCK_EXCLUSIVE, &a, LISTENS);
    ck_assert_int_eq(db_ask(&late, DB_READ), SQLITE_BUSY);
    ck_assert_int_eq(aflock_cancel(lock, req), 0);
    scene_run_until(&a.count, 1);
    ck_assert_int_eq(a.result.status, AFLOCK_ECANCELED);
    answer b = rw_try(lock, AFLOCK_SHARED); /* behind what is given back */
    ck_assert_int_eq(b.result.status, 0);
    ck_assert_int_eq(db_ask(&late, DB_READ), SQLITE_OK);
    rw_let_go(lock, b.result.req);
    db_close(&late);
    db_close(&reader);
    ck_assert(all_is_free("db"));
}
END_TEST

START_TEST(a_claim_that_times_out)
{
    scene_write("db", "");
    aflock *lock = rw_open(_i);
    connection reader = db_connect("db"), late = db_connect("db");
    ck_assert_int_eq(db_ask(&reader, DB_READ), SQLITE_OK);
    aflock_acquire_options o = rw_request(AFLOCK_EXCLUSIVE);
    o.timeout = 20 * AFLOCK_MILLISECOND;
    answer a = scene_acquire(lock, &o);
    ck_assert_int_eq(a.result.status, AFLOCK_ETIMEDOUT);
    answer b = rw_try(lock, AFLOCK_SHARED); /* behind what is given back */
    ck_assert_int_eq(b.result.status, 0);
    ck_assert_int_eq(db_ask(&late, DB_READ), SQLITE_OK);
    rw_let_go(lock, b.result.req);
    db_close(&late);
    db_close(&reader);
}
END_TEST

/* One attempt leaves nothing, whoever was in. */
START_TEST(a_claim_of_one_attempt)
{
    scene_write("db", "");
    aflock *lock = rw_open(_i);
    connection reader = db_connect("db"), late = db_connect("db");
    ck_assert_int_eq(db_ask(&reader, DB_READ), SQLITE_OK);
    ck_assert_int_eq(rw_try(lock, AFLOCK_EXCLUSIVE).result.status, AFLOCK_EWOULDBLOCK);
    answer b = rw_try(lock, AFLOCK_SHARED);
    ck_assert_int_eq(b.result.status, 0);
    ck_assert_int_eq(db_ask(&late, DB_READ), SQLITE_OK);
    rw_let_go(lock, b.result.req);
    db_close(&late);
    db_close(&reader);
}
END_TEST

START_TEST(a_claim_is_inherited)
{
    answer a = {0}, b = {0};
    scene_write("db", "");
    aflock *lock = rw_open(_i);
    connection reader = db_connect("db");
    ck_assert_int_eq(db_ask(&reader, DB_READ), SQLITE_OK);
    aflock_req req = rw_wait(lock, AFLOCK_EXCLUSIVE, &a, LISTENS);
    rw_wait(lock, AFLOCK_EXCLUSIVE, &b, LISTENS);
    seam_forget();
    ck_assert_int_eq(aflock_cancel(lock, req), 0);
    scene_run_until(&a.count, 1);
    scene_run_until(&scene_contended, LISTENS + 1);
    db_close(&reader);
    scene_run_until(&b.count, 1);
    ck_assert_int_eq(b.result.status, 0);
    ck_assert_int_eq(seam_count(SEAM_UNLOCK), 0);
    rw_let_go(lock, b.result.req);
}
END_TEST

START_TEST(a_claim_does_not_serve_a_reader)
{
    answer a = {0}, b = {0};
    scene_write("db", "");
    aflock *lock = rw_open(_i);
    connection reader = db_connect("db"), late = db_connect("db");
    ck_assert_int_eq(db_ask(&reader, DB_READ), SQLITE_OK);
    aflock_req req = rw_wait(lock, AFLOCK_EXCLUSIVE, &a, LISTENS);
    rw_wait(lock, AFLOCK_SHARED, &b, LISTENS);
    ck_assert_int_eq(b.count, 0); /* a writer waits */
    ck_assert_int_eq(aflock_cancel(lock, req), 0);
    scene_run_until(&b.count, 1);
    ck_assert_int_eq(b.result.status, 0);
    ck_assert_int_eq(db_ask(&late, DB_READ), SQLITE_OK);
    rw_let_go(lock, b.result.req);
    db_close(&late);
    db_close(&reader);
}
END_TEST

/* ---------------------------------------------------------------------------------------- looking from the outside */

START_TEST(who_holds_it)
{
    answer a = {0};
    aflock *lock = rw_open(_i);
    ck_assert_int_eq(rw_look(lock).held, 0);
    make_database();
    connection one = db_connect("db"), two = db_connect("db");
    aflock_holder h;
    LOOK_UNTIL(h.held == 0 && h.count == 0 && h.pending == 0);
    ck_assert_int_eq(db_ask(&one, DB_READ), SQLITE_OK);
    LOOK_UNTIL(h.held == 1 && h.mode == AFLOCK_SHARED && h.count == 1 && h.pid == one.pid && h.pending == 0);
    ck_assert_int_eq(db_ask(&two, DB_READ), SQLITE_OK);
    LOOK_UNTIL(h.count == 2);
    aflock_req req = rw_wait(lock, AFLOCK_EXCLUSIVE, &a, LISTENS);
    LOOK_UNTIL(h.held == 1 && h.mode == AFLOCK_SHARED && h.count == 2 && h.pending == 1);
    ck_assert_int_eq(aflock_cancel(lock, req), 0);
    scene_run_until(&a.count, 1);
    req = rw_hold(lock, AFLOCK_SHARED);
    LOOK_UNTIL(h.held == 1 && h.count == 3 && h.pid > 0 && h.pending == 0);
    rw_let_go(lock, req);
    db_close(&two);
    ck_assert_int_eq(db_ask(&one, DB_END), SQLITE_OK);
    ck_assert_int_eq(db_ask(&one, DB_WRITE), SQLITE_OK);
    LOOK_UNTIL(h.held == 1 && h.mode == AFLOCK_EXCLUSIVE && h.count == 1 && h.pid == one.pid && h.pending == 0);
    db_close(&one);
    req = rw_hold(lock, AFLOCK_EXCLUSIVE);
    LOOK_UNTIL(h.held == 1 && h.mode == AFLOCK_EXCLUSIVE && h.count == 1 && h.pid == 0 && h.pending == 0);
    rw_let_go(lock, req);
}
END_TEST

int main(void)
{
    const TTest *const each[] = {what_is_made,
                                 a_database_stays_as_it_is,
                                 links_are_followed,
                                 readers_need_not_write,
                                 what_makes_no_sense,
                                 what_is_no_database,
                                 what_is_no_database_is_not_waited_for,
                                 what_is_being_filled_is_waited_for,
                                 the_write_ahead_log,
                                 a_journal_is_left_alone,
                                 sqlite_on_an_empty_file,
                                 sqlite_on_a_database,
                                 ourselves,
                                 a_writer_waits_for_readers,
                                 a_writer_looks_for_readers_who_stay,
                                 a_claim_is_taken_once,
                                 two_writers,
                                 their_claim,
                                 behind_their_claim,
                                 a_writer_is_not_starved,
                                 a_claim_that_is_cancelled,
                                 a_claim_that_times_out,
                                 a_claim_of_one_attempt,
                                 a_claim_is_inherited,
                                 a_claim_does_not_serve_a_reader,
                                 who_holds_it,
                                 NULL};
    return scene_main("rw", NULL, each);
}
