/* See database.h. */
#include "support/database.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---------------------------------------------------------------------------------------------------- its process */

/* Too much for a cache of one page: it has to be written while the transaction goes on. */
static const char CHANGE[] = "PRAGMA cache_size=1; PRAGMA synchronous=OFF; BEGIN EXCLUSIVE;"
                             "UPDATE things SET name='three';"
                             "WITH RECURSIVE n(i) AS (SELECT 1 UNION SELECT i+1 FROM n WHERE i < 5000)"
                             " INSERT INTO things SELECT i FROM n";

static int carry_out(sqlite3 *db, statement s)
{
    static const char *const TEXT[128] = {
        [DB_WRITE] = "BEGIN EXCLUSIVE",
        [DB_WAIT] = "BEGIN EXCLUSIVE",
        [DB_END] = "ROLLBACK",
        [DB_READ] = "BEGIN; SELECT count(*) FROM sqlite_master",
        [DB_FILL] = "CREATE TABLE things(name); INSERT INTO things VALUES('one'),('two')",
        [DB_CHANGE] = CHANGE,
        [DB_WAL] = "PRAGMA journal_mode=WAL; CREATE TABLE t(x)",
        [DB_CHECK] = "PRAGMA integrity_check; SELECT * FROM things",
    };
    sqlite3_busy_timeout(db, s == DB_WAIT ? 20000 : 0);
    int result = sqlite3_exec(db, TEXT[s], NULL, NULL, NULL);
    if (result != SQLITE_OK && !sqlite3_get_autocommit(db))
        sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL);
    return result;
}

static void serve(const char *path)
{
    sqlite3 *db;
    char c;
    if (sqlite3_open(path, &db) != SQLITE_OK)
        _exit(1);
    while (read(STDIN_FILENO, &c, 1) == 1) {
        int result = c == DB_CLOSE ? sqlite3_close(db) : carry_out(db, (statement)c);
        if (write(STDOUT_FILENO, &result, sizeof result) != sizeof result || c == DB_CLOSE)
            _exit(0);
    }
    _exit(0);
}

/* --------------------------------------------------------------------------------------------------- the test's side
 */

connection db_connect(const char *path)
{
    int to[2], from[2];
    ck_assert_int_eq(pipe2(to, O_CLOEXEC), 0);
    ck_assert_int_eq(pipe2(from, O_CLOEXEC), 0);
    pid_t pid = fork();
    ck_assert_int_ge(pid, 0);
    if (pid == 0) {
        dup2(to[0], STDIN_FILENO);
        dup2(from[1], STDOUT_FILENO);
        close_range(3, ~0U, 0); /* nothing that is open or locked by the test is this process's */
        serve(path);
    }
    close(to[0]);
    close(from[1]);
    return (connection){.pid = pid, .to = to[1], .from = from[0]};
}

void db_tell(const connection *c, statement s)
{
    char byte = (char)s;
    ck_assert_int_eq(write(c->to, &byte, 1), 1);
}

int db_answer(const connection *c)
{
    int result;
    ck_assert_int_eq(read(c->from, &result, sizeof result), sizeof result);
    return result;
}

int db_ask(const connection *c, statement s)
{
    db_tell(c, s);
    return db_answer(c);
}

static void forget(connection *c)
{
    close(c->to);
    close(c->from);
    ck_assert_int_eq(waitpid(c->pid, NULL, 0), c->pid);
    c->pid = 0;
}

void db_close(connection *c)
{
    ck_assert_int_eq(db_ask(c, DB_CLOSE), SQLITE_OK);
    forget(c);
}

void db_kill(connection *c)
{
    ck_assert_int_eq(kill(c->pid, SIGKILL), 0);
    forget(c);
}
