/* The host of fake_host.h. */
#include "support/fake_host.h"

#include "support/folder.h"

#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

enum { WATCHDOG_S = 60 };

char fake_context[256];

/* ------------------------------------------------------------------------------------------------------- the loop */

static uint64_t loop_now(void *self)
{
    return ((fake_host *)self)->now;
}

static int loop_timer(void *self, uint64_t deadline)
{
    fake_host *h = self;
    h->timer = deadline;
    h->timer_calls++;
    return 0;
}

static void loop_defer(void *self)
{
    fake_host *h = self;
    h->defers++;
    h->turn_due = true;
}

static void loop_wake(void *self)
{
    fake_host *h = self;
    atomic_fetch_add(&h->wakes, 1);
    atomic_store(&h->woken, true);
}

static void loop_keep_alive(void *self, int on)
{
    fake_host *h = self;
    fake_require(h->alive != (on != 0));
    h->alive = on != 0;
    h->alive_changes++;
}

static int loop_watch(void *self, aflock_watch *w)
{
    fake_host *h = self;
    fake_require(h->watch == NULL || h->watch == w);
    h->watch = w;
    return 0;
}

static void loop_unwatch(void *self, aflock_watch *w)
{
    fake_host *h = self;
    fake_require(h->watch == w);
    h->watch = NULL;
}

static void loop_close(void *self, int forked)
{
    fake_host *h = self;
    h->closed++;
    h->closed_forked += forked != 0;
}

/* --------------------------------------------------------------------------------------------------- the executor */

static int executor_submit(void *self, aflock_job *job, aflock_lane lane)
{
    fake_host *h = self;
    h->submits++;
    if (h->refusals) {
        h->refusals--;
        return AFLOCK_ENOMEM;
    }
    if (lane == AFLOCK_LANE_PARK && (h->no_threads || h->no_parking))
        return AFLOCK_ENOTSUP; /* the test itself would wait for the lock */
    fake_require(h->job_count < FAKE_JOBS);
    h->jobs[h->job_count++] = (fake_job){job, lane};
    return 0;
}

static fake_job take_job(fake_host *h, size_t index)
{
    fake_require(index < h->job_count);
    fake_job taken = h->jobs[index];
    memmove(&h->jobs[index], &h->jobs[index + 1], (--h->job_count - index) * sizeof *h->jobs);
    return taken;
}

/* As host.h demands: queued tries are dropped, queued releases still run. */
static void executor_close(void *self, int forked)
{
    fake_host *h = self;
    h->executor_closed++;
    while (!forked && h->job_count) {
        if (h->jobs[0].lane == AFLOCK_LANE_RELEASE)
            fake_run(h, 0);
        else
            fake_drop(h, 0);
    }
}

static void executor_stalled(void *self)
{
    ((fake_host *)self)->stalls++;
}

static void *run_thread(void *job)
{
    aflock_job_run(job);
    return NULL;
}

pthread_t fake_go(fake_host *h, size_t index)
{
    pthread_t thread;
    fake_job taken = take_job(h, index);
    ck_assert_int_eq(pthread_create(&thread, NULL, run_thread, taken.job), 0);
    return thread;
}

void fake_join(pthread_t thread)
{
    ck_assert_int_eq(pthread_join(thread, NULL), 0);
}

void fake_run(fake_host *h, size_t index)
{
    if (h->no_threads)
        aflock_job_run(take_job(h, index).job);
    else
        fake_join(fake_go(h, index));
}

void fake_drop(fake_host *h, size_t index)
{
    aflock_job_drop(take_job(h, index).job);
}

size_t fake_jobs_in(const fake_host *h, aflock_lane lane)
{
    size_t count = 0;
    for (size_t i = 0; i < h->job_count; i++)
        count += h->jobs[i].lane == lane;
    return count;
}

/* --------------------------------------------------------------------------------------------------- the notifier */

static int notifier_add(void *self, aflock_notify *n)
{
    fake_host *h = self;
    if (h->refuse_add)
        return AFLOCK_EMFILE;
    fake_require(h->listening_count < FAKE_NOTIFIES);
    fake_require(fcntl(n->fd, F_GETFD) >= 0);
    h->listening[h->listening_count++] = n;
    h->adds++;
    return 0;
}

static void notifier_del(void *self, aflock_notify *n)
{
    fake_host *h = self;
    size_t i = 0;
    while (i < h->listening_count && h->listening[i] != n)
        i++;
    fake_require(i < h->listening_count);
    h->listening[i] = h->listening[--h->listening_count];
    h->dels++;
}

static void notifier_close(void *self, int forked)
{
    (void)forked;
    ((fake_host *)self)->notifier_closed++;
}

/* ------------------------------------------------------------------------------------------------------ the clock */

static fake_host *latest;

static void wait_virtually(uint64_t timeout)
{
    latest->now += timeout;
}

aflock_ctx *fake_start(fake_host *h, unsigned width, bool notifier, const aflock_ctx_options *options)
{
    memset(h, 0, sizeof *h);
    h->now = 1000 * SEC;
    h->timer = AFLOCK_FOREVER;
    h->loop = (aflock_loop){.size = sizeof h->loop,
                            .self = h,
                            .name = "fake",
                            .resolution = 1,
                            .now = loop_now,
                            .timer = loop_timer,
                            .defer = loop_defer,
                            .wake = loop_wake,
                            .keep_alive = loop_keep_alive,
                            .watch = loop_watch,
                            .unwatch = loop_unwatch,
                            .close = loop_close};
    h->executor = (aflock_executor){.size = sizeof h->executor,
                                    .self = h,
                                    .width = width,
                                    .submit = executor_submit,
                                    .close = executor_close,
                                    .stalled = executor_stalled};
    h->notifier = (aflock_notifier){
        .size = sizeof h->notifier, .self = h, .add = notifier_add, .del = notifier_del, .close = notifier_close};
    h->host = (aflock_host){sizeof h->host, &h->loop, &h->executor, notifier ? &h->notifier : NULL};
    if (aflock_ctx_new(&h->ctx, &h->host, options) != 0)
        return NULL;
    seam_install(h->ctx);
    latest = h;
    seam_waits = wait_virtually;
    return h->ctx;
}

static unsigned answers; /* all that came */

void fake_turn(fake_host *h)
{
    unsigned before = answers;
    h->turn_due = false;
    atomic_store(&h->woken, false);
    h->turning = true;
    aflock_host_turn(h->ctx);
    h->turning = false;
    h->turns++;
    if (answers - before > h->most_in_turn)
        h->most_in_turn = answers - before;
}

void fake_settle(fake_host *h)
{
    while (h->turn_due || atomic_load(&h->woken))
        fake_turn(h);
}

void fake_advance(fake_host *h, uint64_t delay)
{
    uint64_t end = h->now + delay;
    fake_settle(h);
    while (h->timer <= end) {
        if (h->timer > h->now)
            h->now = h->timer;
        h->timer = AFLOCK_FOREVER;
        aflock_host_timer(h->ctx);
        fake_settle(h);
    }
    h->now = end;
}

void fake_work(fake_host *h)
{
    fake_settle(h);
    while (h->job_count) {
        fake_run(h, 0);
        fake_settle(h);
    }
}

/* ---------------------------------------------------------------------------------------------------- the answers */

static unsigned calls; /* into the library, on the stack */
static bool answering;

/* A callback runs in a turn of its host, or in aflock_ctx_free; other adapters see to that themselves. */
static void check_stack(aflock *lock)
{
    const aflock_loop *loop = aflock_host_loop(aflock_context(lock));
    fake_require(calls == 0);
    fake_require(!answering);
    if (loop->now == loop_now)
        fake_require(((fake_host *)loop->self)->turning);
}

void fake_answered(aflock *lock, const aflock_result *result, void *user)
{
    fake_answer *a = user;
    char path[PATH_MAX];
    check_stack(lock);
    fake_require(result->size == sizeof *result);
    a->count++;
    a->order = ++answers;
    a->result = *result;
    snprintf(path, sizeof path, "%s", result->path);
    answering = true;
    if (a->then)
        a->then(a, lock);
    answering = false;
    fake_require(strcmp(result->path, path) == 0); /* its strings live until the callback returns */
    fake_require(result->step == NULL || *result->step);
}

int fake_acquire(aflock *lock, const aflock_acquire_options *options, fake_answer *answer, aflock_req *req)
{
    calls++;
    int status = aflock_acquire(lock, options, fake_answered, answer, req);
    calls--;
    return status;
}

int fake_release(aflock *lock, aflock_req req, fake_answer *answer)
{
    calls++;
    int status = aflock_release(lock, req, answer ? fake_answered : NULL, answer);
    calls--;
    return status;
}

int fake_cancel(aflock *lock, aflock_req req)
{
    calls++;
    int status = aflock_cancel(lock, req);
    calls--;
    return status;
}

int fake_free(fake_host *h, uint64_t grace)
{
    h->turning = true;
    int unreleased = aflock_ctx_free(h->ctx, grace);
    h->turning = false;
    fake_require(h->closed == 1 && h->closed_forked == 0);
    fake_require(h->executor_closed == 1);
    fake_require(h->notifier_closed == (h->host.notifier != NULL));
    fake_require(h->listening_count == 0);
    h->ctx = NULL;
    return unreleased;
}

aflock_acquire_options fake_options(uint64_t timeout)
{
    aflock_acquire_options o;
    aflock_acquire_options_init(&o);
    o.timeout = timeout;
    return o;
}

aflock_req fake_hold(fake_host *h, aflock *lock, fake_answer *answer, const aflock_acquire_options *options)
{
    aflock_req req;
    *answer = (fake_answer){.count = 0};
    ck_assert_int_eq(fake_acquire(lock, options, answer, &req), 0);
    fake_work(h);
    ck_answered(*answer, 0);
    ck_assert_uint_eq(answer->result.req.id, req.id);
    return req;
}

/* ------------------------------------------------------------------------------------------------------ the files */

static char directory[PATH_MAX];

const char *fake_path(const char *name)
{
    enum { PATHS = 32 };
    static char paths[PATHS][PATH_MAX + 64];
    static unsigned next;
    char *path = paths[next++ % PATHS];
    snprintf(path, sizeof paths[0], "%s/%s", directory, name);
    return path;
}

void fake_touch(const char *path)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
    ck_assert_int_ge(fd, 0);
    close(fd);
}

int fake_foreign(const char *path)
{
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    ck_assert_int_ge(fd, 0);
    if (flock(fd, LOCK_EX | LOCK_NB) == 0)
        return fd;
    close(fd);
    return -1;
}

bool fake_is_free(const char *path)
{
    int fd = fake_foreign(path);
    if (fd >= 0)
        close(fd);
    return fd >= 0;
}

/* In one call, as it is asked often. */
unsigned fake_descriptors(void)
{
    enum { MOST = 256 };
    struct pollfd all[MOST];
    unsigned count = 0;
    for (int fd = 0; fd < MOST; fd++)
        all[fd] = (struct pollfd){.fd = fd};
    ck_assert_int_ge(poll(all, MOST, 0), 0);
    for (int fd = 0; fd < MOST; fd++)
        count += !(all[fd].revents & POLLNVAL);
    return count;
}

aflock *fake_open_lock(fake_host *h, const char *name, aflock_io io)
{
    aflock *lock;
    aflock_options o;
    aflock_options_init(&o);
    o.io = io;
    ck_assert_int_eq(aflock_open(&lock, h->ctx, fake_path(name), &o), 0);
    return lock;
}

static void make_directory(void)
{
    ck_assert(folder_make(directory, NULL));
}

static void remove_directory(void)
{
    folder_remove(directory);
}

int fake_main_each(const char *name, const TTest *const tests[], int count, double seconds)
{
    Suite *suite = suite_create(name);
    for (; *tests; tests++) {
        TCase *tcase = tcase_create((*tests)->name);
        tcase_add_unchecked_fixture(tcase, make_directory, remove_directory); /* also after a test that failed */
        tcase_set_timeout(tcase, seconds);
        tcase_add_loop_test(tcase, *tests, 0, count);
        suite_add_tcase(suite, tcase);
    }
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

int fake_main(const char *name, const TTest *const tests[])
{
    return fake_main_each(name, tests, 1, WATCHDOG_S);
}
