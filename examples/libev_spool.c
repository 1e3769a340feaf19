/* A worker on libev for a spool of jobs; start as many as you like, kill them whenever you like.
 *
 *   SPOOL/new/NAME.job   a job: a regular file whose name does not begin with a dot
 *   SPOOL/done/NAME      its result, published once: here the job's text in capitals
 *   SPOOL/tmp/NAME       the result while it is being written
 *
 * Put jobs there complete: write them elsewhere on the file system, then rename them.
 *
 * Which lock? One for the whole spool would let one worker work at a time. A lock file per job would stay behind when
 * the job is gone, because unlinking lock files is how locks break. So the job itself is locked: the library grants a
 * lock only if the path still names the locked file, thus nobody claims a job that somebody else has just removed.
 * A worker that dies gives its jobs back, because the kernel unlocks what it had.
 *
 * All of this happens under the job's lock: look whether done/NAME is there; read the job; work; write tmp/NAME; rename
 * it to done/NAME, which must not exist; remove the job. Whoever is killed in between leaves the job, so that somebody
 * does the rest: writes tmp/NAME anew, or, if the result is out already, only removes the job. Work may be done twice,
 * but is published once. (For power failures, too: fsync the result and done/ before the job is removed.) The name of a
 * job is used once; who takes a result away waits until its job is gone.
 *
 * The life of a job: take_jobs -> claim -> on_claimed -> on_worked -> put_away -> drop.
 *
 * SIGTERM and SIGINT: no new jobs; what is being worked on is finished. A second signal leaves it to others.
 */
#include <aflock/libev.h>

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <ev.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_JOBS = 100, EXIT_USAGE = 2 };

#define SUFFIX ".job"

struct worker {
    const char *spool;
    int work;  /* ms that a job takes */
    int every; /* ms between two looks into new/ */
    int most;  /* jobs at a time */
    int exit_when_empty;

    int fd_new, fd_tmp, fd_done; /* descriptors of the directories */
    struct ev_loop *loop;
    aflock_ctx *ctx;
    DIR *lap; /* the walk through new/ */
    int seen; /* jobs in this lap */
    struct job *jobs;
    int active; /* how many those are */
    int finished;
    ev_timer again;
    ev_signal terminate, interrupt;
    int ending;
    int failed;
};

/* A job that this worker has claimed, or tries to. */
struct job {
    struct job *next, **link; /* in the worker's list */
    struct worker *worker;
    aflock *lock;
    aflock_req hold;
    ev_timer work;
    char *text;
    size_t size;
    char name[]; /* without the suffix */
};

static void take_jobs(struct worker *worker);

/* ----------------------------------------------------------------------------------------------------------- the end
 */

static void on_drained(aflock_ctx *ctx, void *user)
{
    (void)ctx;
    struct worker *worker = user;
    ev_break(worker->loop, EVBREAK_ALL);
}

/* No new jobs; the loop goes on until those at hand are finished. */
static void stop(struct worker *worker)
{
    if (worker->ending)
        return;
    worker->ending = 1;
    ev_timer_stop(worker->loop, &worker->again);
    if (aflock_ctx_drain(worker->ctx, on_drained, worker) != 0)
        ev_break(worker->loop, EVBREAK_ALL);
}

static void on_signal(struct ev_loop *loop, ev_signal *watcher, int events)
{
    (void)events;
    struct worker *worker = watcher->data;
    if (worker->ending)
        ev_break(loop, EVBREAK_ALL);
    stop(worker);
}

static int complain(const char *folder, const char *name, const char *reason)
{
    fprintf(stderr, "libev_spool: %s/%s: %s\n", folder, name, reason);
    return -1;
}

/* Something is wrong that another try will not mend. The job stays for somebody who can do it. */
static void fail(struct job *job, const char *folder, const char *reason)
{
    fprintf(stderr, "libev_spool: %s/%s/%s%s: %s\n", job->worker->spool, folder, job->name,
            strcmp(folder, "new") == 0 ? SUFFIX : "", reason);
    job->worker->failed = 1;
    stop(job->worker);
}

/* ----------------------------------------------------------------------------------------------------- a job's files
 */

/* Removes the job: its result is there. */
static int put_away(struct job *job)
{
    char file[NAME_MAX + 1];
    snprintf(file, sizeof file, "%s" SUFFIX, job->name);
    if (unlinkat(job->worker->fd_new, file, 0) == 0)
        return 0;
    fail(job, "new", strerror(errno));
    return -1;
}

static int write_all(int fd, const char *data, size_t size)
{
    while (size > 0) {
        ssize_t written = write(fd, data, size);
        if (written < 0 && errno != EINTR)
            return -1;
        if (written > 0) {
            data += written;
            size -= (size_t)written;
        }
    }
    return 0;
}

/* What a killed worker has left in tmp/ is overwritten. What is in done/ is not, ever. */
static int publish(struct job *job)
{
    struct worker *worker = job->worker;
    int fd = openat(worker->fd_tmp, job->name, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0666);
    int written = fd >= 0 && write_all(fd, job->text, job->size) == 0;
    int error = errno;
    if (fd >= 0 && close(fd) != 0 && written) {
        written = 0;
        error = errno;
    }
    if (!written) {
        fail(job, "tmp", strerror(error));
    } else if (renameat2(worker->fd_tmp, job->name, worker->fd_done, job->name, RENAME_NOREPLACE) != 0) {
        written = 0;
        fail(job, "done", strerror(errno));
    }
    if (!written)
        unlinkat(worker->fd_tmp, job->name, 0);
    return written ? 0 : -1;
}

static int read_job(struct job *job, int fd)
{
    struct stat state;
    if (fstat(fd, &state) != 0)
        return -1;
    size_t size = (size_t)state.st_size;
    job->text = malloc(size + 1);
    while (job->text != NULL && job->size < size) {
        ssize_t got = pread(fd, job->text + job->size, size - job->size, (off_t)job->size);
        if (got == 0)
            break;
        if (got < 0 && errno != EINTR)
            return -1;
        job->size += got > 0 ? (size_t)got : 0;
    }
    return job->text != NULL ? 0 : -1;
}

/* ------------------------------------------------------------------------------------------------------------- a job
 */

static void job_free(struct job *job)
{
    *job->link = job->next;
    if (job->next != NULL)
        job->next->link = job->link;
    job->worker->active--;
    free(job->text);
    free(job);
}

/* This worker is done with the job, whatever came of it. */
static void drop(struct job *job)
{
    aflock_close(job->lock);
    job_free(job);
}

static void release(struct job *job)
{
    struct worker *worker = job->worker;
    aflock_release(job->lock, job->hold, NULL, NULL);
    drop(job);
    take_jobs(worker);
}

static void on_worked(struct ev_loop *loop, ev_timer *watcher, int events)
{
    (void)loop;
    (void)events;
    struct job *job = watcher->data;
    for (size_t i = 0; i < job->size; i++)
        job->text[i] = (char)toupper((unsigned char)job->text[i]);
    if (publish(job) == 0 && put_away(job) == 0)
        job->worker->finished++;
    release(job);
}

/* The job is ours. */
static void begin(struct job *job, int fd)
{
    struct worker *worker = job->worker;
    struct stat result;
    int there = fstatat(worker->fd_done, job->name, &result, AT_SYMLINK_NOFOLLOW) == 0;
    if (there && S_ISREG(result.st_mode)) {
        put_away(job); /* somebody was killed before he could */
        release(job);
    } else if (there) {
        fail(job, "done", "something that is no result is there");
        release(job);
    } else if (errno != ENOENT) {
        fail(job, "done", strerror(errno));
        release(job);
    } else if (read_job(job, fd) != 0) {
        fail(job, "new", strerror(errno));
        release(job);
    } else {
        ev_timer_set(&job->work, worker->work / 1e3, 0.);
        ev_timer_start(worker->loop, &job->work);
    }
}

static void on_claimed(aflock *lock, const aflock_result *result, void *user)
{
    (void)lock;
    struct job *job = user;
    struct worker *worker = job->worker;
    switch (result->status) {
    case 0:
        begin(job, result->fd);
        return;
    case AFLOCK_EWOULDBLOCK: /* another worker has it */
    case AFLOCK_ETIMEDOUT:   /* the file system takes its time: the next lap */
    case AFLOCK_ENOENT:      /* another worker has finished it */
    case AFLOCK_ECLOSED:     /* we are ending */
        break;
    default:
        fail(job, "new", result->sys_errno != 0 ? strerror(result->sys_errno) : aflock_strerror(result->status));
    }
    drop(job);
    take_jobs(worker);
}

static struct job *job_new(struct worker *worker, const char *file)
{
    size_t length = strlen(file) - strlen(SUFFIX);
    struct job *job = calloc(1, sizeof *job + length + 1);
    if (job == NULL)
        return NULL;
    memcpy(job->name, file, length);
    job->worker = worker;
    ev_init(&job->work, on_worked);
    job->work.data = job;
    job->next = worker->jobs;
    job->link = &worker->jobs;
    if (job->next != NULL)
        job->next->link = &job->next;
    worker->jobs = job;
    worker->active++;
    return job;
}

/* Asks for the lock of new/FILE: without waiting, and without making the file if it is gone. */
static void claim(struct worker *worker, const char *file)
{
    aflock_acquire_options options;
    aflock_acquire_options_init(&options);
    options.timeout = 0;
    options.flags = AFLOCK_READ_ONLY;
    char *path = NULL;
    struct job *job = job_new(worker, file);
    int status = job != NULL && asprintf(&path, "%s/new/%s", worker->spool, file) >= 0 ? 0 : AFLOCK_ENOMEM;
    if (status == 0)
        status = aflock_open(&job->lock, worker->ctx, path, NULL);
    if (status == 0)
        status = aflock_acquire(job->lock, &options, on_claimed, job, &job->hold);
    free(path);
    if (status == 0)
        return;
    if (status != AFLOCK_EWOULDBLOCK) { /* that one is our own, and being worked on */
        worker->failed = 1;
        complain("new", file, aflock_strerror(status));
        stop(worker);
    }
    if (job != NULL)
        drop(job);
}

/* --------------------------------------------------------------------------------------------------------- the spool
 */

/* Goes on walking through new/ as long as there is room for one more job. At the end of a lap waits a while: jobs come,
 * and come back from workers that died, without anybody telling. */
static void take_jobs(struct worker *worker)
{
    while (!worker->ending && worker->active < worker->most && !ev_is_active(&worker->again)) {
        const struct dirent *entry = readdir(worker->lap);
        if (entry == NULL && worker->seen == 0 && worker->active == 0 && worker->exit_when_empty) {
            stop(worker);
        } else if (entry == NULL) {
            ev_timer_set(&worker->again, worker->every / 1e3, 0.);
            ev_timer_start(worker->loop, &worker->again);
        } else {
            size_t length = strlen(entry->d_name);
            if (length <= strlen(SUFFIX) || entry->d_name[0] == '.' ||
                strcmp(entry->d_name + length - strlen(SUFFIX), SUFFIX) != 0)
                continue;
            worker->seen++;
            claim(worker, entry->d_name);
        }
    }
}

static void on_again(struct ev_loop *loop, ev_timer *watcher, int events)
{
    (void)loop;
    (void)events;
    struct worker *worker = watcher->data;
    rewinddir(worker->lap);
    worker->seen = 0;
    take_jobs(worker);
}

/* A folder of the spool, made if it is missing. */
static int open_folder(const struct worker *worker, const char *name)
{
    char path[PATH_MAX];
    int fd = -1;
    if (snprintf(path, sizeof path, "%s/%s", worker->spool, name) >= (int)sizeof path)
        errno = ENAMETOOLONG;
    else if (mkdir(path, 0777) == 0 || errno == EEXIST)
        fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return fd >= 0 ? fd : complain(worker->spool, name, strerror(errno));
}

static int worker_start(struct worker *worker)
{
    worker->fd_new = open_folder(worker, "new");
    worker->fd_tmp = open_folder(worker, "tmp");
    worker->fd_done = open_folder(worker, "done");
    if (worker->fd_new < 0 || worker->fd_tmp < 0 || worker->fd_done < 0)
        return -1;
    int lap = fcntl(worker->fd_new, F_DUPFD_CLOEXEC, 0);
    worker->lap = lap >= 0 ? fdopendir(lap) : NULL;
    if (worker->lap == NULL)
        return complain(worker->spool, "new", strerror(errno));
    worker->loop = ev_default_loop(0);
    int status = worker->loop != NULL ? aflock_libev_new(&worker->ctx, worker->loop, NULL) : AFLOCK_ESYS;
    if (status != 0)
        return complain(worker->spool, "new", aflock_strerror(status));
    ev_init(&worker->again, on_again);
    ev_signal_init(&worker->terminate, on_signal, SIGTERM);
    ev_signal_init(&worker->interrupt, on_signal, SIGINT);
    worker->again.data = worker->terminate.data = worker->interrupt.data = worker;
    ev_signal_start(worker->loop, &worker->terminate);
    ev_signal_start(worker->loop, &worker->interrupt);
    return 0;
}

/* Jobs that are still here after a second signal are unlocked by the end of the context. */
static void worker_free(struct worker *worker)
{
    worker->ending = 1;
    if (aflock_ctx_free(worker->ctx, AFLOCK_SECOND) != 0)
        worker->failed = 1;
    for (struct job *job = worker->jobs, *next; job != NULL; job = next) {
        next = job->next;
        ev_timer_stop(worker->loop, &job->work);
        job_free(job);
    }
    if (worker->loop != NULL)
        ev_loop_destroy(worker->loop);
    if (worker->lap != NULL)
        closedir(worker->lap);
    const int folders[] = {worker->fd_new, worker->fd_tmp, worker->fd_done};
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) {
        if (folders[i] >= 0)
            close(folders[i]);
    }
}

static int run(struct worker *worker)
{
    worker->failed = worker_start(worker) != 0;
    if (!worker->failed) {
        take_jobs(worker);
        ev_run(worker->loop, 0);
        printf("%d jobs finished\n", worker->finished);
    }
    worker_free(worker);
    return worker->failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

/* ------------------------------------------------------------------------------------------------ the command line */

static const char usage[] =
    "usage: libev_spool [--exit-when-empty] [--work MS] [--jobs N] [--every MS] SPOOL\n"
    "Takes the jobs SPOOL/new/*.job, each under its lock, and puts their text in capitals into SPOOL/done. Any number "
    "of\n"
    "workers may run on one SPOOL, and be killed; each result is published once. A job that cannot be read ends a "
    "worker.\n"
    "  --exit-when-empty  end when there is no job left, also not with other workers\n"
    "  --work MS          a job takes so long (50)\n"
    "  --jobs N           work on so many jobs at a time (4)\n"
    "  --every MS         look for new jobs, and those of dead workers, so often (200)\n"
    "Exit status: 0 if all went well, also after SIGTERM or SIGINT; 1 after an error, 2 for a wrong command line.\n";

static int parse_number(const char *text, int least, int most, int *out)
{
    char *end = NULL;
    errno = 0;
    long value = strtol(text, &end, 10);
    if (errno != 0 || end == text || *end != '\0' || value < least || value > most) {
        fprintf(stderr, "libev_spool: %s: not a number from %d to %d\n", text, least, most);
        return -1;
    }
    *out = (int)value;
    return 0;
}

/* -1: go on; otherwise the exit status. */
static int parse(struct worker *worker, int argc, char **argv)
{
    static const struct option options[] = {
        {"exit-when-empty", no_argument, NULL, 'e'},
        {"work", required_argument, NULL, 'w'},
        {"jobs", required_argument, NULL, 'j'},
        {"every", required_argument, NULL, 'v'},
        {"help", no_argument, NULL, 'h'},
        {0},
    };
    int option, bad = 0;
    while (!bad && (option = getopt_long(argc, argv, "h", options, NULL)) != -1) {
        switch (option) {
        case 'e':
            worker->exit_when_empty = 1;
            break;
        case 'w':
            bad = parse_number(optarg, 0, INT_MAX, &worker->work);
            break;
        case 'j':
            bad = parse_number(optarg, 1, MAX_JOBS, &worker->most);
            break;
        case 'v':
            bad = parse_number(optarg, 1, INT_MAX, &worker->every);
            break;
        case 'h':
            fputs(usage, stdout);
            return EXIT_SUCCESS;
        default:
            bad = 1;
        }
    }
    if (!bad && argc - optind == 1 && argv[optind][0] != '\0') {
        worker->spool = argv[optind];
        return -1;
    }
    fputs(usage, stderr);
    return EXIT_USAGE;
}

int main(int argc, char **argv)
{
    struct worker worker = {.work = 50, .every = 200, .most = 4, .fd_new = -1, .fd_tmp = -1, .fd_done = -1};
    int status = parse(&worker, argc, argv);
    return status >= 0 ? status : run(&worker);
}
