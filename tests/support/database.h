/* Connections of the real SQLite, each in a process of its own: in one process SQLite's locks and the library's on the
 * same file do not go together. And a look at the bytes on which both lock.
 */
#ifndef AFL_TEST_DATABASE_H
#define AFL_TEST_DATABASE_H

#include <sys/types.h>

typedef struct connection {
    pid_t pid;
    int to, from;
} connection;

/* What a connection can be told; the answer is SQLite's result. */
typedef enum statement {
    DB_READ = 'r',   /* begins to read, and does not end it */
    DB_WRITE = 'w',  /* BEGIN EXCLUSIVE */
    DB_WAIT = 'W',   /* ... and waits for it, up to 20 s */
    DB_END = 'e',    /* ends the transaction */
    DB_FILL = 'f',   /* makes a table, with something in it */
    DB_CHANGE = 'c', /* changes it, and does not end that: there is a journal */
    DB_WAL = 'l',    /* journal_mode = WAL */
    DB_CHECK = 'i',  /* integrity_check, and what is in the table */
    DB_CLOSE = 'q'   /* closes the file; the process ends */
} statement;

connection db_connect(const char *path);
void db_tell(const connection *c, statement s); /* without waiting for the answer */
int db_answer(const connection *c);
int db_ask(const connection *c, statement s);
void db_close(connection *c); /* its process has gone */
void db_kill(connection *c);

#endif
