/* The bench: what its rows share. Nothing here is part of the library.
 *
 * A row measures two sides alternately in one run and is judged by its blocks: the median block must meet the bar.
 * Beside it runs a control, the other side against itself; its spread says how much of a difference is noise. A row
 * that compares with nothing (a count, a size) has one side and a bar of its own.
 *
 *   bench.c      the command, the list of rows          measure.c   clocks, blocks, medians, the verdict
 *   report.c     the table and the JSON file            trap.c      counting system calls and allocations
 *   cycle.c      acquire and release, uncontended       handoff.c   from holder to waiter, inside and between processes
 *   pool.c       round trips through the thread pool    waiters.c   many waiters on one path
 *   stall.c      a loop while the file system stalls            loops.c      the adapters
 *   health.c     an HTTP server with a lock
 *   contend.c    many processes that want one lock
 *   waiting.c    what waiting costs             holders.c   how soon it ends, behind all kinds of holders
 *   raw.c        waiting with the raw calls     waiter.c    waiting with the library
 *   many.c       100,000 locks                      soft.c      markers
 *   rw.c         readers and writers                leases.c    leases that are held
 *   recipes.c    work on files under a lock          nginx.c     the module for nginx
 *   web.c        servers and their clients
 */
#ifndef BENCH_H
#define BENCH_H

#include <aflock/aflock.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum { MAX_BLOCKS = 20 };

/* ------------------------------------------------------------------------------------------------------- report.c */

typedef struct bench_line {
    const char *row;     /* name for --rows */
    const char *what;    /* what ours does */
    const char *against; /* what theirs does; NULL: there is no other side */
    const char *unit;    /* of ours and theirs: "ns", "us", ... */
    double ours, theirs; /* medians of the blocks */
    double bar;          /* at most: of ours / theirs, or ours - theirs; of ours if there is no other side */
    bool judged;         /* false: reported only */
    bool difference;     /* ours - theirs is what is compared, not ours / theirs */
    bool absolute;       /* the bar is for ours alone; the other side only says how much of it nobody can avoid */
    bool at_least;       /* the bar is a lower one; there is no other side, or the bar is absolute */
    const char *why;     /* what a profile or a trace has shown to be in the way of the bar; or NULL */
    double spread;       /* of the control: its largest distance from 1, or from 0 */
    size_t blocks;
    double ratio[MAX_BLOCKS]; /* or difference, of the blocks; of ours alone if there is no other side */
    double control[MAX_BLOCKS];
} bench_line;

/* NOISE: missed by less than the control's spread. */
typedef enum { MET, NOISE, MISSED, REPORTED } bench_verdict;

bench_verdict bench_judge(const bench_line *line);
void bench_add(const bench_line *line); /* to the report; copies */
/* The distribution of what was measured: percentiles 0 to 100. Sorts the values. */
void bench_curve(const char *row, const char *what, const char *unit, double *values, size_t count);
void bench_skip(const char *row, const char *format, ...) /* the row cannot be measured here */
    __attribute__((format(printf, 2, 3)));
bool bench_print(void);                  /* the table; false: something was missed */
bool bench_write_json(const char *file); /* false: said why */

/* ------------------------------------------------------------------------------------------------------ measure.c */

typedef struct bench_settings {
    size_t blocks; /* of each row, per side */
    size_t slices; /* of each block, per side: short, so that both sides meet the same noise */
    bool quick;
} bench_settings;

extern bench_settings bench;

/* A slice of one side: does its work and returns what it measured, smaller is better. */
typedef double (*bench_slice)(void *state);

/* Runs the two sides and the control in alternation and adds the line. The line's texts, bar and `judged` are given. */
void bench_compare(bench_line *line, bench_slice ours, bench_slice theirs, void *state);

/* One side only: the median of the blocks, judged by the bar. */
void bench_measure(bench_line *line, bench_slice ours, void *state);

double bench_median(double *values, size_t count); /* sorts them */

uint64_t bench_wall(void); /* ns */
uint64_t bench_cpu(void);  /* ns that this thread has run: what other programs take does not count */

void bench_pin(void); /* to one processor */
void bench_unpin(void);

/* ---------------------------------------------------------------------------------------------------------- web.c */

typedef struct bench_server {
    pid_t pid;
    int port;
} bench_server;

int bench_connect(int port);
bool bench_ask(int fd, const char *request); /* and waits for the whole answer; false: it is not "200" */
void bench_stop(pid_t pid, int signal);      /* a child; waits for it */

/* Connections that ask the same. */
typedef struct bench_crowd bench_crowd;
bench_crowd *bench_crowd_open(int port, size_t count, const char *request);
void bench_crowd_send(bench_crowd *crowd);                    /* each asks once */
void bench_crowd_receive(bench_crowd *crowd, size_t answers); /* and asks again, until there were so many in all */
void bench_crowd_close(bench_crowd *crowd);

/* Answers any number at a time, each so many ns later. */
bench_server bench_backend(uint64_t duration);

/* `http` is the rest of the configuration after "http {", a format for the port, with a location /health. */
bench_server bench_nginx(const char *program, const char *module, int workers, const char *http);
void bench_nginx_end(const bench_server *nginx); /* one that was not well ends the program */

/* --------------------------------------------------------------------------------------------------------- trap.c */

/* What is allocated: through the hooks of a context, and by malloc in the library. */
typedef struct bench_memory {
    size_t calls; /* that allocate */
    size_t bytes; /* in use */
} bench_memory;
extern bench_memory bench_hooked, bench_malloced;

void bench_hook_memory(aflock_ctx_options *options);

/* Runs `work` in a child process whose system calls are counted between its calls of bench_trap_begin and _end. -1: not
 * possible here. */
long bench_count_calls(void (*work)(void *state), void *state);
void bench_trap_begin(void);
void bench_trap_end(void);

/* --------------------------------------------------------------------------------------------- raw.c, waiter.c */

/* What anybody has to do for a lock that is free: open, lock, look whether the path still names the file, unlock,
 * close. Without O_CREAT, which would cost it more. */
void bench_raw_cycle(const char *path);

/* Waits with the raw calls, see raw.c. */
typedef struct bench_raw {
    int queue; /* inotify */
    int watch; /* -1: it did not have to wait */
} bench_raw;

void bench_raw_open(bench_raw *raw);
int bench_raw_lock(bench_raw *raw, const char *path); /* the locked descriptor */
void bench_raw_unlock(bench_raw *raw, int fd);        /* closes it, too */
void bench_raw_close(const bench_raw *raw);

/* Waits with the library for bench_file(0). */
typedef struct bench_waiter {
    aflock_ctx *ctx;
    aflock *lock;
    uint64_t arrived, first; /* when the lock was ours: the last time, the first time */
    size_t left;
} bench_waiter;

void bench_waiter_open(bench_waiter *w, uint64_t poll_interval);
void bench_waiter_ask(bench_waiter *w, size_t count);             /* that many requests, each let go of at once */
void bench_waiter_run(const bench_waiter *w);                     /* until the last of them has had the lock */
void bench_waiter_pass(const bench_waiter *w, uint64_t duration); /* the loop goes on for so long */
void bench_waiter_close(const bench_waiter *w);                   /* what waits is answered */

/* Another descriptor holds bench_file(0); closing it lets go. */
int bench_hold_file(void);

/* In a child that is to become Python: another py-filelock, if AFLOCK_BENCH_FILELOCK names one. */
void bench_choose_filelock(void);

/* ------------------------------------------------------------------------------------------------------- files */

extern char bench_directory[200];
const char *bench_file(unsigned number);        /* a path in the bench's own directory; overwritten by the next call */
void bench_check(int status, const char *what); /* ends the program with a message if status is not 0 */
void bench_check_errno(bool good, const char *what);

/* ----------------------------------------------------------------------------------------------------------- rows */

void row_cycle(void);
void row_try(void);
void row_system_calls(void);
void row_allocations(void);
void row_handoff(void);
void row_pool(void);
void row_append(void);
void row_keyed(void);
void row_semaphore(void);
void row_loops(void);
void row_lateness(void);
void row_health(void);
void row_waiting(void);
void row_holders(void);
void row_greedy(void);
void row_contend(void);
void row_waiters(void);
void row_processes(void);
void row_stall(void);
void row_many(void);
void row_kept(void);
void row_kept_handoff(void);
void row_park(void);
void row_leases(void);
void row_rw(void);
void row_rw_crowd(void);
void row_rw_handoff(void);
void row_soft(void);
void row_soft_crowd(void);
void row_strict(void);
void row_marker_handoff(void);
void row_nginx_static(void);
void row_nginx_contended(void);
void row_nginx_health(void);

#endif
