/* Waiting for locks beside libuv's own file operations: many tasks append to one file, each under the same lock.
 *
 * libuv runs uv_fs_*, uv_getaddrinfo and uv_queue_work on one pool, of four threads unless UV_THREADPOOL_SIZE says
 * otherwise. With --naive each task waits for the lock as one would write it down first: flock(2) inside uv_queue_work.
 * Then one task gets the lock, all threads of the pool wait for it, and the write of the task that has it never gets a
 * thread: a dead-lock. The program notices that nothing goes on any more, says so and ends with status 1.
 *
 * Without --naive the tasks ask aflock, which uses no thread of libuv's: however many wait, the writes go on.
 *
 * A task: acquire -> on_acquired -> uv_fs_open -> uv_fs_write for each of its lines -> uv_fs_close -> release. At the
 * end the file is read: the lines of each task must be there, one after the other. Several of these programs may append
 * to one file at the same time.
 *
 * SIGTERM and SIGINT: tasks that wait are cancelled, the one that writes finishes its lines.
 */
#include <aflock/libuv.h>

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>
#include <uv.h>

enum { LINES = 5, MAX_TASKS = 10000, EXIT_USAGE = 2 };

struct task {
    struct mix *mix;
    int number;
    int line;   /* that is written next */
    int file;   /* a descriptor, or -1 */
    int locked; /* the task has the lock */
    aflock_req hold;
    uv_work_t work; /* --naive: the wait for the lock ... */
    int lock_fd;    /* ... and what it has locked */
    int error;      /* ... or the errno that it met */
    uv_fs_t fs;
    char text[64];
};

struct mix {
    const char *path;
    char *lock_path;
    int count;
    int naive;
    int patience; /* ms without anything going on: a dead-lock */

    uv_loop_t *loop;
    uv_signal_t terminate, interrupt;
    uv_timer_t watchdog;
    aflock_ctx *ctx; /* not with --naive */
    aflock *lock;
    aflock_token *token;
    struct task *tasks;
    int finished;
    int steps;      /* that were made, and */
    int steps_seen; /* had been when the watchdog looked last */
    atomic_int give_up;
    int failed;
};

static void fail(struct mix *mix, const char *what, const char *reason)
{
    fprintf(stderr, "libuv_mix: %s: %s\n", what, reason);
    mix->failed = 1;
}

/* -------------------------------------------------------------------------------------------- the lock, with aflock */

static void on_acquired(struct task *task);

static void on_lock(aflock *lock, const aflock_result *result, void *user)
{
    (void)lock;
    struct task *task = user;
    if (result->status == 0)
        on_acquired(task);
    else if (result->status != AFLOCK_ECANCELED)
        fail(task->mix, result->path, aflock_strerror(result->status));
}

static void acquire(struct task *task)
{
    struct mix *mix = task->mix;
    aflock_acquire_options options;
    aflock_acquire_options_init(&options);
    options.token = mix->token;
    int status = aflock_acquire(mix->lock, &options, on_lock, task, &task->hold);
    if (status != 0)
        fail(mix, mix->lock_path, aflock_strerror(status));
}

static void release(struct task *task)
{
    task->locked = 0;
    aflock_release(task->mix->lock, task->hold, NULL, NULL);
}

/* -------------------------------------------------------------------------------------- the lock, naively: no model */

/* On a thread of libuv's pool, which does nothing else until the lock is free. */
static void wait_for_lock(uv_work_t *work)
{
    struct task *task = work->data;
    task->lock_fd = open(task->mix->lock_path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (task->lock_fd < 0 || flock(task->lock_fd, LOCK_EX) != 0)
        task->error = errno;
    if (task->lock_fd >= 0 && (task->error != 0 || atomic_load(&task->mix->give_up))) {
        close(task->lock_fd); /* which unlocks: the next thread comes back */
        task->lock_fd = -1;
    }
}

static void after_wait(uv_work_t *work, int status)
{
    struct task *task = work->data;
    if (task->error != 0)
        fail(task->mix, task->mix->lock_path, strerror(task->error));
    else if (status == 0 && task->lock_fd >= 0)
        on_acquired(task);
}

static void acquire_naively(struct task *task)
{
    task->work.data = task;
    int status = uv_queue_work(task->mix->loop, &task->work, wait_for_lock, after_wait);
    if (status != 0)
        fail(task->mix, task->mix->lock_path, uv_strerror(status));
}

static void release_naively(struct task *task)
{
    task->locked = 0;
    if (task->lock_fd >= 0)
        close(task->lock_fd);
    task->lock_fd = -1;
}

/* -------------------------------------------------------------------------------------------- a task, with the lock */

static void on_written(uv_fs_t *fs);

static void end_task(struct task *task)
{
    struct mix *mix = task->mix;
    if (task->line == LINES)
        mix->finished++;
    if (mix->naive)
        release_naively(task);
    else
        release(task);
}

/* Ends an operation: what it returned, negative after a complaint. */
static ssize_t end_step(struct task *task)
{
    ssize_t result = task->fs.result;
    task->mix->steps++;
    uv_fs_req_cleanup(&task->fs);
    if (result < 0)
        fail(task->mix, task->mix->path, uv_strerror((int)result));
    return result;
}

/* Starts were refused only for want of memory, or of an argument. */
static void check(struct task *task, int status)
{
    if (status < 0) {
        fail(task->mix, task->mix->path, uv_strerror(status));
        end_task(task);
    }
}

static void on_closed(uv_fs_t *fs)
{
    struct task *task = fs->data;
    if (end_step(task) < 0)
        task->line = -1;
    task->file = -1;
    end_task(task);
}

static void next_line(struct task *task)
{
    if (task->line == LINES) {
        check(task, uv_fs_close(task->mix->loop, &task->fs, task->file, on_closed));
        return;
    }
    int size = snprintf(task->text, sizeof task->text, "%d %d %d\n", (int)getpid(), task->number, task->line);
    uv_buf_t buffer = uv_buf_init(task->text, (unsigned)size);
    check(task, uv_fs_write(task->mix->loop, &task->fs, task->file, &buffer, 1, -1, on_written));
}

static void on_written(uv_fs_t *fs)
{
    struct task *task = fs->data;
    ssize_t size = end_step(task);
    if (size == (ssize_t)strlen(task->text)) {
        task->line++;
        next_line(task);
        return;
    }
    if (size >= 0)
        fail(task->mix, task->mix->path, strerror(ENOSPC));
    check(task, uv_fs_close(task->mix->loop, fs, task->file, on_closed));
}

static void on_opened(uv_fs_t *fs)
{
    struct task *task = fs->data;
    task->file = (int)end_step(task);
    if (task->file < 0)
        end_task(task);
    else
        next_line(task);
}

static void on_acquired(struct task *task)
{
    struct mix *mix = task->mix;
    task->locked = 1;
    mix->steps++;
    task->fs.data = task;
    check(task,
          uv_fs_open(mix->loop, &task->fs, mix->path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666, on_opened));
}

/* -------------------------------------------------------------------------------------------------- how it may end */

/* Who waits is told not to: then the threads come back, and the loop ends by itself. */
static void give_up(struct mix *mix)
{
    mix->failed = 1;
    atomic_store(&mix->give_up, 1);
    if (!mix->naive) {
        aflock_token_fire(mix->token);
        return;
    }
    for (int i = 0; i < mix->count; i++)
        uv_cancel((uv_req_t *)&mix->tasks[i].work); /* those that no thread has begun with */
}

static void on_watchdog(uv_timer_t *timer)
{
    struct mix *mix = timer->data;
    int moved = mix->steps != mix->steps_seen;
    mix->steps_seen = mix->steps;
    for (int i = 0; i < mix->count && !moved; i++) {
        struct task *task = &mix->tasks[i];
        if (task->locked) {
            fprintf(stderr,
                    "libuv_mix: dead-lock: nothing has gone on for %d ms. Task %d has the lock and waits for a thread\n"
                    "of libuv's pool, to write; all those threads wait for the lock, in flock(2).\n",
                    mix->patience, task->number);
            give_up(mix);
            flock(task->lock_fd, LOCK_UN); /* the thread that gets it gives it up, and so on */
            uv_timer_stop(timer);
            return;
        }
    }
}

static void on_signal(uv_signal_t *signal, int number)
{
    struct mix *mix = signal->data;
    fprintf(stderr, "libuv_mix: %s: %d of %d tasks are finished\n", strsignal(number), mix->finished, mix->count);
    give_up(mix);
}

/* --------------------------------------------------------------------------------------------------- is it all there?
 */

/* Each block of lines belongs to one task; returns how many of them are this process's, or -1. */
static int count_blocks(struct mix *mix, FILE *file)
{
    char text[64], wanted[64], message[160];
    long pid = 0, number = 0;
    int ours = 0;
    for (int line = 1; fgets(text, sizeof text, file) != NULL; line++) {
        if ((line - 1) % LINES == 0) {
            char *end = text;
            pid = strtol(text, &end, 10);
            number = strtol(end, &end, 10);
            ours += pid == (long)getpid() ? 1 : 0;
        }
        snprintf(wanted, sizeof wanted, "%ld %ld %d\n", pid, number, (line - 1) % LINES);
        if (strcmp(text, wanted) != 0) {
            snprintf(message, sizeof message, "line %d is \"%.*s\", and not \"%.*s\": lines of several tasks are mixed",
                     line, (int)strcspn(text, "\n"), text, (int)strcspn(wanted, "\n"), wanted);
            fail(mix, mix->path, message);
            return -1;
        }
    }
    return ours;
}

static void verify(struct mix *mix)
{
    FILE *file = fopen(mix->path, "re");
    if (file == NULL) {
        fail(mix, mix->path, strerror(errno));
        return;
    }
    int ours = count_blocks(mix, file);
    if (ours >= 0 && ours != mix->count)
        fail(mix, mix->path, "lines are missing, or there twice");
    fclose(file);
}

/* Other processes may be writing. */
static void on_lock_to_verify(aflock *lock, const aflock_result *result, void *user)
{
    struct mix *mix = user;
    if (result->status != 0) {
        fail(mix, result->path, aflock_strerror(result->status));
        return;
    }
    verify(mix);
    aflock_release(lock, result->req, NULL, NULL);
}

/* -------------------------------------------------------------------------------------------------- the whole program
 */

static int start(struct mix *mix)
{
    int status = uv_signal_init(mix->loop, &mix->terminate);
    if (status == 0)
        status = uv_signal_init(mix->loop, &mix->interrupt);
    if (status == 0)
        status = uv_timer_init(mix->loop, &mix->watchdog);
    mix->terminate.data = mix->interrupt.data = mix->watchdog.data = mix;
    if (status == 0)
        status = uv_signal_start(&mix->terminate, on_signal, SIGTERM);
    if (status == 0)
        status = uv_signal_start(&mix->interrupt, on_signal, SIGINT);
    if (status == 0 && mix->naive)
        status = uv_timer_start(&mix->watchdog, on_watchdog, (uint64_t)mix->patience, (uint64_t)mix->patience);
    if (status != 0) {
        fail(mix, "libuv", uv_strerror(status));
        return -1;
    }
    uv_unref((uv_handle_t *)&mix->terminate); /* none of these keeps the loop alive */
    uv_unref((uv_handle_t *)&mix->interrupt);
    uv_unref((uv_handle_t *)&mix->watchdog);
    if (mix->naive)
        return 0;
    status = aflock_libuv_new(&mix->ctx, mix->loop, NULL);
    if (status == 0)
        status = aflock_token_new(&mix->token, mix->ctx);
    if (status == 0)
        status = aflock_open(&mix->lock, mix->ctx, mix->lock_path, NULL);
    if (status != 0)
        fail(mix, mix->lock_path, aflock_strerror(status));
    return status;
}

static void run_tasks(struct mix *mix)
{
    for (int i = 0; i < mix->count; i++) {
        struct task *task = &mix->tasks[i];
        *task = (struct task){.mix = mix, .number = i, .file = -1, .lock_fd = -1};
        if (mix->naive)
            acquire_naively(task);
        else
            acquire(task);
    }
    uv_run(mix->loop, UV_RUN_DEFAULT); /* returns when nothing is under way any more */
    if (mix->failed)
        return;
    if (mix->naive) {
        verify(mix);
        return;
    }
    aflock_acquire_options options;
    aflock_acquire_options_init(&options);
    options.token = mix->token;
    int status = aflock_acquire(mix->lock, &options, on_lock_to_verify, mix, NULL);
    if (status == 0)
        uv_run(mix->loop, UV_RUN_DEFAULT);
    else
        fail(mix, mix->lock_path, aflock_strerror(status));
}

static void close_handle(uv_handle_t *handle, void *user)
{
    (void)user;
    if (!uv_is_closing(handle))
        uv_close(handle, NULL);
}

static int run(struct mix *mix)
{
    if (asprintf(&mix->lock_path, "%s.lock", mix->path) < 0)
        mix->lock_path = NULL;
    mix->tasks = calloc((size_t)mix->count, sizeof *mix->tasks);
    mix->loop = uv_default_loop();
    if (mix->lock_path == NULL || mix->tasks == NULL || mix->loop == NULL)
        fail(mix, mix->path, strerror(ENOMEM));
    else if (start(mix) == 0)
        run_tasks(mix);
    if (aflock_ctx_free(mix->ctx, AFLOCK_SECOND) != 0)
        fail(mix, mix->lock_path, "could not be given up");
    aflock_token_free(mix->token);
    if (mix->loop != NULL) {
        uv_walk(mix->loop, close_handle, NULL);
        uv_run(mix->loop, UV_RUN_DEFAULT);
        uv_loop_close(mix->loop);
    }
    if (!mix->failed)
        printf("%d tasks have appended %d lines each to %s\n", mix->finished, LINES, mix->path);
    free(mix->tasks);
    free(mix->lock_path);
    return mix->failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

/* ------------------------------------------------------------------------------------------------ the command line */

static const char usage[] =
    "usage: libuv_mix [--tasks N] [--naive] [--patience MS] FILE\n"
    "Tasks append lines to FILE with uv_fs_write, one task at a time: each holds the lock FILE.lock meanwhile.\n"
    "  --tasks N      so many tasks (64)\n"
    "  --naive        wait for the lock with flock(2) on libuv's threads, which dead-locks if there are fewer threads\n"
    "                 (UV_THREADPOOL_SIZE, 4) than tasks\n"
    "  --patience MS  with --naive: call it a dead-lock when nothing has gone on for so long (2000)\n"
    "Exit status: 0 if FILE is as it must be, 1 if not, 2 for a wrong command line.\n";

static int parse_number(const char *text, int most, int *out)
{
    char *end = NULL;
    errno = 0;
    long value = strtol(text, &end, 10);
    if (errno != 0 || end == text || *end != '\0' || value < 1 || value > most) {
        fprintf(stderr, "libuv_mix: %s: not a number from 1 to %d\n", text, most);
        return -1;
    }
    *out = (int)value;
    return 0;
}

/* -1: go on; otherwise the exit status. */
static int parse(struct mix *mix, int argc, char **argv)
{
    static const struct option options[] = {
        {"tasks", required_argument, NULL, 't'},
        {"naive", no_argument, NULL, 'n'},
        {"patience", required_argument, NULL, 'p'},
        {"help", no_argument, NULL, 'h'},
        {0},
    };
    int option, bad = 0;
    while (!bad && (option = getopt_long(argc, argv, "h", options, NULL)) != -1) {
        switch (option) {
        case 't':
            bad = parse_number(optarg, MAX_TASKS, &mix->count);
            break;
        case 'n':
            mix->naive = 1;
            break;
        case 'p':
            bad = parse_number(optarg, INT_MAX, &mix->patience);
            break;
        case 'h':
            fputs(usage, stdout);
            return EXIT_SUCCESS;
        default:
            bad = 1;
        }
    }
    if (!bad && argc - optind == 1) {
        mix->path = argv[optind];
        return -1;
    }
    fputs(usage, stderr);
    return EXIT_USAGE;
}

int main(int argc, char **argv)
{
    struct mix mix = {.count = 64, .patience = 2000};
    int status = parse(&mix, argc, argv);
    return status >= 0 ? status : run(&mix);
}
