/* Threads and processes: the wrong thread, several threads, contexts side by side, children. */
#include "conformance.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void never(aflock *lock, const aflock_result *result, void *user)
{
    (void)lock, (void)result, (void)user;
    conformance_failed(__FILE__, __LINE__, "a callback that was not promised");
}

static void never_drained(aflock_ctx *ctx, void *user)
{
    (void)ctx, (void)user;
    conformance_failed(__FILE__, __LINE__, "a drain that was not promised");
}

static void never_inspected(aflock *lock, const aflock_holder *holder, void *user)
{
    (void)lock, (void)holder, (void)user;
    conformance_failed(__FILE__, __LINE__, "an answer that was not promised");
}

static int never_dumped(const aflock_dump_entry *entry, void *user)
{
    (void)entry, (void)user;
    return 1;
}

/* What a stranger may know of a context. */
struct stranger {
    aflock_ctx *ctx;
    aflock *lock;
    aflock_req held, waiting;
    int status; /* that every call has to answer */
};

static void require_refusals(const struct stranger *s)
{
    aflock *opened;
    aflock_token *token;
    aflock_req req;
    aflock_options options;
    aflock_options_init(&options);
    require_status(aflock_open(&opened, s->ctx, "/tmp/never", &options), s->status);
    require_status(aflock_open_fd(&opened, s->ctx, 0, NULL), s->status);
    require_status(aflock_acquire(s->lock, NULL, never, NULL, &req), s->status);
    require_status(aflock_try(s->lock, NULL, &req, NULL), s->status);
    require_status(aflock_release(s->lock, s->held, never, NULL), s->status);
    require_status(aflock_release_all(s->lock, s->held, never, NULL), s->status);
    require_status(aflock_cancel(s->lock, s->waiting), s->status);
    require_status(aflock_fd(s->lock, s->held), s->status);
    require_status(aflock_depth(s->lock, NULL), s->status);
    require_status(aflock_verify(s->lock, s->held, never, NULL), s->status);
    require_status(aflock_inspect(s->lock, never_inspected, NULL), s->status);
    require_status(aflock_set_poll_interval(s->lock, SEC), s->status);
    require_status(aflock_close(s->lock), s->status);
    require_status(aflock_token_new(&token, s->ctx), s->status);
    require_status(aflock_dump(s->ctx, never_dumped, NULL), s->status);
    require_status(aflock_ctx_drain(s->ctx, never_drained, NULL), s->status);
    require_status(aflock_ctx_free(s->ctx, 0), s->status);
}

/* A context with one of everything. */
static void make_busy(rig *r, struct stranger *s, answer *held, answer *waits, int status)
{
    s->ctx = r->ctx;
    s->lock = rig_open(r, "lock", AFLOCK_IO_POOL);
    s->status = status;
    rig_hold(r, s->lock, NULL, held);
    require_status(rig_acquire(r, s->lock, NULL, waits), 0);
    s->held = held->req;
    s->waiting = waits->req;
}

/* Nothing of what the stranger tried has happened. */
static void require_unharmed(rig *r, const struct stranger *s, const answer *waits)
{
    require(!rig_is_free(r, "lock"));
    require(aflock_depth(s->lock, NULL) == 1);
    rig_pass(r, 2 * MS);
    require(waits->count == 0);
    rig_let_go(r, s->lock, s->held);
    rig_await_status(r, waits, 0);
    rig_let_go(r, s->lock, s->waiting);
    require(rig_is_free(r, "lock"));
}

/* --------------------------------------------------------------------------------------------------------- threads */

static void *call_everything(void *user)
{
    require_refusals(user);
    return NULL;
}

static void calls_from_another_thread_are_refused(rig *r)
{
    struct stranger stranger;
    answer held = {.count = 0}, waits = {.count = 0};
    pthread_t thread;
    make_busy(r, &stranger, &held, &waits, AFLOCK_ETHREAD);
    require(pthread_create(&thread, NULL, call_everything, &stranger) == 0);
    require(pthread_join(thread, NULL) == 0);
    require_status(aflock_ctx_abandon(r->ctx), AFLOCK_EINVAL); /* nobody has forked */
    require_unharmed(r, &stranger, &waits);
}

enum { THREADS = 4, ROUNDS = 60 };

struct contender {
    const rig *parent;
    atomic_int *inside;
    unsigned done;
};

static void check_alone(answer *a, aflock *lock)
{
    struct contender *contender = a->user;
    require_status(a->result.status, 0);
    require(atomic_fetch_add(contender->inside, 1) == 0);
    contender->done++;
    require(atomic_fetch_sub(contender->inside, 1) == 1);
    require_status(rig_release(a->rig, lock, a->req, NULL), 0);
}

static void *contend(void *user)
{
    static const aflock_io IO[] = {AFLOCK_IO_AUTO, AFLOCK_IO_POOL, AFLOCK_IO_INLINE};
    struct contender *contender = user;
    rig r;
    rig_begin(&r, contender->parent->host, contender->parent->directory, 0);
    r.alone = false;
    aflock *locks[3];
    for (int i = 0; i < 3; i++) {
        locks[i] = rig_open(&r, "contended", IO[i]);
        require_status(aflock_set_poll_interval(locks[i], 200 * US), 0);
    }
    for (unsigned i = 0; i < ROUNDS; i++) {
        answer a[2] = {{.then = check_alone, .user = user}, {.then = check_alone, .user = user}};
        for (unsigned j = 0; j < 2; j++)
            require_status(rig_acquire(&r, locks[(i + j) % 3], NULL, &a[j]), 0);
        rig_await(&r, &contender->done, 2 * (i + 1));
    }
    rig_end(&r);
    return NULL;
}

static void four_threads_contend_for_one_path(rig *r)
{
    pthread_t threads[THREADS];
    struct contender contenders[THREADS];
    atomic_int inside = 0;
    for (int i = 0; i < THREADS; i++) {
        contenders[i] = (struct contender){.parent = r, .inside = &inside};
        require(pthread_create(&threads[i], NULL, contend, &contenders[i]) == 0);
    }
    for (int i = 0; i < THREADS; i++) {
        require(pthread_join(threads[i], NULL) == 0);
        require(contenders[i].done == 2 * ROUNDS);
    }
    rig_await_free(r, "contended");
}

/* ------------------------------------------------------------------------------------------- contexts side by side */

static void contexts_on_one_loop_exclude_each_other(rig *r)
{
    answer a = {.count = 0}, b = {.count = 0}, late = {.count = 0};
    aflock_ctx *other;
    int owner; /* the same in both: it counts within a context only */
    require_status(rig_context(r, &other), 0);
    aflock *one = rig_open(r, "lock", AFLOCK_IO_AUTO), *two = rig_open_in(r, other, "lock", AFLOCK_IO_AUTO);
    aflock_acquire_options o = rig_options(AFLOCK_FOREVER);
    o.owner = &owner;
    rig_hold(r, one, &o, &a);
    o.timeout = 3 * MS;
    require_status(rig_acquire(r, two, &o, &late), 0);
    rig_await_status(r, &late, AFLOCK_ETIMEDOUT);
    o.timeout = AFLOCK_FOREVER;
    require_status(rig_acquire(r, two, &o, &b), 0);
    rig_pass(r, 2 * MS);
    require(b.count == 0);
    rig_let_go(r, one, a.req);
    rig_await_status(r, &b, 0);
    rig_let_go(r, two, b.req);
    require_status(rig_cancel(r, one, b.req), AFLOCK_ESTALE); /* a name of the other context's */
    require_status(rig_free_context(r, other, SEC), 0);
}

/* A crowd in each context; neither keeps the other from its turn. */
static void contexts_on_one_loop_take_turns(rig *r)
{
    enum { CONTEXTS = 3, EACH = 100 };
    aflock_ctx *contexts[CONTEXTS] = {r->ctx};
    answer *answers = calloc(CONTEXTS * EACH, sizeof *answers);
    require(answers != NULL);
    for (int i = 0; i < CONTEXTS; i++) {
        char name[] = {'l', (char)('0' + i), '\0'};
        if (i > 0)
            require_status(rig_context(r, &contexts[i]), 0);
        aflock *lock = rig_open_in(r, contexts[i], name, i == 1 ? AFLOCK_IO_POOL : AFLOCK_IO_AUTO);
        aflock_acquire_options o = rig_options(AFLOCK_FOREVER);
        o.mode = AFLOCK_SHARED;
        for (int j = 0; j < EACH; j++)
            require_status(rig_acquire(r, lock, &o, &answers[i * EACH + j]), 0);
    }
    rig_await(r, &r->answers, CONTEXTS * EACH);
    for (int i = 0; i < CONTEXTS * EACH; i++)
        require(answers[i].count == 1 && answers[i].result.status == 0);
    for (int i = 1; i < CONTEXTS; i++)
        require_status(rig_free_context(r, contexts[i], SEC), 0);
    free(answers);
}

/* -------------------------------------------------------------------------------------------------------- children */

static void require_child_ended_well(pid_t child)
{
    int status = -1;
    require(child > 0);
    require(waitpid(child, &status, 0) == child);
    require(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void abandon(rig *r)
{
    if (r->host->forget != NULL)
        r->host->forget(r->loop, r->ctx);
    require_status(aflock_ctx_abandon(r->ctx), 0);
}

/* The child is refused everything, and the parent goes on as if there had been none. */
static void a_child_is_refused_and_abandons(rig *r)
{
    struct stranger stranger;
    answer held = {.count = 0}, waits = {.count = 0};
    make_busy(r, &stranger, &held, &waits, AFLOCK_EFORKED);
    pid_t child = fork();
    if (child == 0) {
        require_refusals(&stranger);
        abandon(r);
        require(!rig_is_free(r, "lock")); /* the parent's lock */
        _exit(0);
    }
    require_child_ended_well(child);
    require_unharmed(r, &stranger, &waits);
}

/* What state the thread is in, as proc(5) says; 'S' if it has ended meanwhile. */
static char state_of(const char *thread)
{
    char path[sizeof "/proc/self/task//stat" + 256], line[512] = "";
    snprintf(path, sizeof path, "/proc/self/task/%s/stat", thread);
    FILE *f = fopen(path, "re");
    const bool is_there = f != NULL && fgets(line, sizeof line, f) != NULL;
    if (f != NULL)
        fclose(f);
    const char *end = is_there ? strrchr(line, ')') : NULL;
    return end != NULL ? end[2] : 'S';
}

static bool others_sleep(void)
{
    bool sleep = true;
    const long self = syscall(SYS_gettid);
    DIR *threads = opendir("/proc/self/task");
    require(threads != NULL);
    for (const struct dirent *e; (e = readdir(threads)) != NULL;)
        sleep = sleep && (e->d_name[0] == '.' || atol(e->d_name) == self || state_of(e->d_name) == 'S');
    closedir(threads);
    return sleep;
}

/* A child that makes threads of its own must not inherit the locks that others had in the allocator: glibc sees to
 * that, the address sanitizer does not. */
static pid_t fork_while_others_sleep(rig *r)
{
    for (int i = 0, calm = 0; i < 1000 && calm < 3; i++, calm = others_sleep() ? calm + 1 : 0)
        rig_pass(r, MS);
    return fork();
}

/* In the child no token wakes the parent; one that it made itself it may use in a context of its own. */
static void a_child_may_have_a_context_of_its_own(rig *r)
{
    answer a = {.count = 0};
    aflock_token *token;
    require_status(aflock_token_new(&token, r->ctx), 0);
    aflock *lock = rig_open(r, "lock", AFLOCK_IO_POOL);
    rig_hold(r, lock, NULL, &a);
    pid_t child = fork_while_others_sleep(r);
    if (child == 0) {
        rig own;
        answer b = {.count = 0}, c = {.count = 0};
        aflock_token_fire(token);
        abandon(r);
        r->host->destroy(r->loop);
        rig_begin(&own, r->host, r->directory, 0);
        own.alone = false;
        aflock_acquire_options o = rig_options(2 * MS);
        require_status(rig_acquire(&own, rig_open(&own, "lock", AFLOCK_IO_AUTO), &o, &b), 0);
        rig_await_status(&own, &b, AFLOCK_ETIMEDOUT);
        rig_hold(&own, rig_open(&own, "other", AFLOCK_IO_POOL), NULL, &c);
        rig_end(&own);
        _exit(0);
    }
    require_child_ended_well(child);
    require(!aflock_token_fired(token));
    aflock_token_free(token);
    rig_let_go(r, lock, a.req);
}

/* In the middle of an attempt, of a wait for another's lock, and with timers set. */
static void a_child_in_the_middle_of_things(rig *r)
{
    answer tries = {.count = 0}, waits = {.count = 0}, late = {.count = 0}, asked = {.count = 0};
    obstacle wall = OBSTACLE;
    int holder = rig_foreign(r, "foreign");
    aflock *slow = rig_open(r, "slow", AFLOCK_IO_POOL), *foreign = rig_open(r, "foreign", AFLOCK_IO_AUTO);
    aflock_acquire_options o = rig_options(AFLOCK_FOREVER);
    o.on_acquired = obstacle_meet;
    o.on_acquired_user = &wall;
    require_status(rig_acquire(r, slow, &o, &tries), 0);
    obstacle_await(r, &wall, 1);
    o = rig_options(30 * MS);
    require_status(rig_acquire(r, foreign, &o, &late), 0);
    require_status(rig_acquire(r, foreign, NULL, &waits), 0);
    require_status(rig_acquire(r, rig_open(r, "fresh", AFLOCK_IO_INLINE), NULL, &asked), 0);
    pid_t child = fork();
    if (child == 0) {
        abandon(r);
        _exit(0);
    }
    require_child_ended_well(child);
    rig_await_status(r, &asked, 0);
    rig_await_status(r, &late, AFLOCK_ETIMEDOUT);
    obstacle_remove(&wall);
    rig_await_status(r, &tries, 0);
    close(holder);
    rig_await_status(r, &waits, 0);
}

static bool never_done(void *user)
{
    (void)user;
    return false;
}

/* A wake-up is on its way when the process forks. A child that goes on with the loop must not take it away. */
static void a_child_that_goes_on_takes_nothing(rig *r)
{
    answer a = {.count = 0};
    aflock_token *token;
    int holder = rig_foreign(r, "lock");
    aflock *lock = rig_open(r, "lock", AFLOCK_IO_INLINE);
    aflock_acquire_options o = rig_options(AFLOCK_FOREVER);
    require_status(aflock_token_new(&token, r->ctx), 0);
    o.token = token;
    require_status(aflock_set_poll_interval(lock, 60 * SEC), 0);
    require_status(rig_acquire(r, lock, &o, &a), 0);
    rig_pass(r, 2 * MS);
    aflock_token_fire(token);
    pid_t child = fork();
    if (child == 0) {
        require(!r->host->run(r->loop, never_done, NULL, 20 * MS));
        require(a.count == 0);
        abandon(r);
        _exit(0);
    }
    require_child_ended_well(child);
    rig_await_status(r, &a, AFLOCK_ECANCELED);
    aflock_token_free(token);
    close(holder);
}

static void fork_here(answer *a, aflock *lock)
{
    (void)lock;
    *(pid_t *)a->user = fork();
}

static bool has_come(void *user)
{
    return ((const answer *)user)->count > 0;
}

/* The callback returns twice: in the child its loop ends, in the parent it goes on. */
static void a_callback_that_forks(rig *r)
{
    pid_t child = -1;
    answer a = {.then = fork_here, .user = &child}, b = {.count = 0};
    pid_t parent = getpid();
    aflock *lock = rig_open(r, "lock", AFLOCK_IO_INLINE);
    require_status(rig_acquire(r, lock, NULL, &a), 0);
    require_status(rig_acquire(r, rig_open(r, "other", AFLOCK_IO_POOL), NULL, &b), 0);
    bool came = r->host->run(r->loop, has_come, &a, RIG_NEVER);
    if (getpid() != parent) {
        require(!r->host->run(r->loop, never_done, NULL, RIG_NEVER));
        abandon(r);
        _exit(0);
    }
    require(came);
    require_child_ended_well(child);
    rig_await_status(r, &b, 0);
    require(!rig_is_free(r, "lock") && !rig_is_free(r, "other"));
    rig_let_go(r, lock, a.req);
}

const conformance_case cases_processes[] = {
    {"calls_from_another_thread_are_refused", calls_from_another_thread_are_refused, 0},
    {"four_threads_contend_for_one_path", four_threads_contend_for_one_path, HOST_HAS_THREADS},
    {"contexts_on_one_loop_exclude_each_other", contexts_on_one_loop_exclude_each_other, HOST_SHARES},
    {"contexts_on_one_loop_take_turns", contexts_on_one_loop_take_turns, HOST_SHARES},
    {"a_child_is_refused_and_abandons", a_child_is_refused_and_abandons, HOST_FORKS},
    {"a_child_may_have_a_context_of_its_own", a_child_may_have_a_context_of_its_own, HOST_FORKS},
    {"a_child_in_the_middle_of_things", a_child_in_the_middle_of_things, HOST_FORKS},
    {"a_child_that_goes_on_takes_nothing", a_child_that_goes_on_takes_nothing, HOST_FORKS},
    {"a_callback_that_forks", a_callback_that_forks, HOST_FORKS},
    {NULL, NULL, 0},
};
