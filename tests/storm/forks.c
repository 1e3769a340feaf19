/* Forks at random moments from a program with threads: loops with a context each, their pools' workers, and threads
 * that know nothing of aflock. Meanwhile locks are waited for, tried on the pool, held and released.
 *
 * In the child every public function answers AFLOCK_EFORKED, and a child of the context's own thread abandons what it
 * inherited. What children do - leave, execute a program, live on with the inherited descriptors, work with a context
 * of their own - changes nothing for the parent: its locks stay locked as long as it holds them, and are free as soon
 * as it has released them, as seen by whoever opens the file. Nothing hangs, nothing is left.
 */
#include "common.h"

#include <aflock/epoll.h>
#include <aflock/host.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { LOOPS = 4, QUIET = 0, BYSTANDERS = 2, TASKS = 3, CHILDREN_MOST = 24, STAYING_MOST = 4 };
enum { THINK_MOST = 4000000, HOLD_MOST = 200000, LINGER_MOST = 400000000, BYSTANDER_MOST = 60000000 }; /* ns */

static const char HELP[] = "usage: storm-forks [--protocol native|ofd|rw] [--seconds N] [--seed N]\n"
                           "\n"
                           "Forks at random moments from a program with threads that hold and await locks; fails if\n"
                           "parent or child notices. Prints what it did; a failure prints the seed.\n";

/* Where a fork comes from. */
typedef enum origin { BETWEEN_ROUNDS, IN_TIMER, IN_CALLBACK, IN_ON_ACQUIRED, BYSTANDER, ORIGINS } origin;
static const char *const ORIGIN_NAMES[] = {"between rounds", "in a timer", "in a callback", "in on_acquired",
                                           "in other threads"};

/* What the parent and its children share. */
typedef struct table {
    atomic_bool over;
    atomic_int writers, readers; /* who holds the lock that all of them use */
    atomic_uint forks[ORIGINS];
    atomic_uint children, staying, abandoned, executed, lingered, own_contexts, grants;
    atomic_uint looked[LOOPS]; /* children that have seen that their parent's own lock is held */
} table;

/* A lock to ask for again and again. */
typedef struct task {
    struct actor *actor;
    aflock *lock;
    aflock_req req;
    bool own; /* its loop alone uses the file */
    bool shared;
    unsigned steps;
    unsigned awaited; /* own: the number of children that must have looked before the release */
} task;

/* A thread with a loop. */
typedef struct actor {
    unsigned number;
    dice dice;
    pthread_t thread; /* main's */
    pthread_t self;
    aflock_ctx *ctx;
    task tasks[TASKS];
    char file[16];
    unsigned sent; /* children that look */
    atomic_uint grants;
} actor;

static settings s = {.protocol = "native", .seconds = 10, .processes = 8, .seed = 1};
static const protocol *spoken;
static table *shared_table;
static actor actors[LOOPS];
static pthread_barrier_t barrier; /* all contexts are there; no more forks */
static char *program;

/* --------------------------------------------------------------------------------------------------- the one lock */

static void enter(bool shared)
{
    table *t = shared_table;
    atomic_fetch_add(&t->grants, 1);
    if (shared)
        atomic_fetch_add(&t->readers, 1);
    else
        require(atomic_fetch_add(&t->writers, 1) == 0 && t->readers == 0);
    require(!shared || t->writers == 0);
}

static void leave(bool shared)
{
    table *t = shared_table;
    require(shared ? t->writers == 0 : t->writers == 1 && t->readers == 0);
    atomic_fetch_sub(shared ? &t->readers : &t->writers, 1);
}

/* ------------------------------------------------------------------------------------------------------- in a child */

static void never(aflock *lock, const aflock_result *result, void *user)
{
    (void)lock, (void)user;
    fail("a callback ran in a child: %s", aflock_error_name(result->status));
}

static void never_inspected(aflock *lock, const aflock_holder *holder, void *user)
{
    (void)lock, (void)holder, (void)user;
    fail("a callback ran in a child");
}

static void never_drained(aflock_ctx *ctx, void *user)
{
    (void)ctx, (void)user;
    fail("a callback ran in a child");
}

static int never_dumped(const aflock_dump_entry *entry, void *user)
{
    (void)entry, (void)user;
    fail("a callback ran in a child");
}

static void never_fires(aflock_ctx *ctx, void *user)
{
    (void)ctx, (void)user;
    fail("a timer came in a child");
}

#define require_forked(call) require_status(call, AFLOCK_EFORKED)

static void every_function_says_so(const actor *a)
{
    aflock *other;
    aflock_req req = a->tasks[0].req;
    aflock_token *token;
    aflock_ctx *ctx = a->ctx;
    aflock *lock = a->tasks[0].lock;
    require_forked(aflock_open(&other, ctx, "other", NULL));
    require_forked(aflock_open_fd(&other, ctx, 0, NULL));
    require_forked(aflock_close(lock));
    require_forked(aflock_set_poll_interval(lock, AFLOCK_SECOND));
    require_forked(aflock_acquire(lock, NULL, never, NULL, &req));
    require_forked(aflock_try(lock, NULL, &req, NULL));
    require_forked(aflock_cancel(lock, req));
    require_forked(aflock_release(lock, req, never, NULL));
    require_forked(aflock_release_all(lock, req, never, NULL));
    require_forked(aflock_fd(lock, req));
    require_forked(aflock_depth(lock, NULL));
    require_forked(aflock_verify(lock, req, never, NULL));
    require_forked(aflock_inspect(lock, never_inspected, NULL));
    require_forked(aflock_token_new(&token, ctx));
    require_forked(aflock_dump(ctx, never_dumped, NULL));
    require_forked(aflock_ctx_drain(ctx, never_drained, NULL));
    require_forked(aflock_ctx_free(ctx, AFLOCK_SECOND));
    require_forked(aflock_host_check(ctx));
    require_forked(aflock_epoll_run(ctx));
    require_forked(aflock_epoll_run_once(ctx, AFLOCK_FOREVER));
    require_forked(aflock_epoll_process(ctx));
    require_forked(aflock_epoll_fd(ctx));
    require_forked(aflock_epoll_alive(ctx));
    require_forked(aflock_epoll_timer(ctx, 0, never_fires, NULL));
    require_forked(aflock_epoll_timer_cancel(ctx, never_fires, NULL));
    require_forked(aflock_epoll_watch(ctx, 0, 0, NULL, NULL));
    aflock_epoll_stop(ctx);
    aflock_host_timer(ctx);
    aflock_host_turn(ctx);
}

static void execute(void)
{
    atomic_fetch_add(&shared_table->executed, 1);
    execl("/proc/self/exe", program, "--look", NULL);
    fail("execl: %s", strerror(errno));
}

/* The executed program: nothing that can hold a lock has come along. Its working directory is the locks'. */
static int look(void)
{
    char name[32], to[4096], here[4096];
    set_name("a program that a child executes");
    require(getcwd(here, sizeof here));
    for (int fd = 0; fd < 1024; fd++) {
        snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
        ssize_t length = readlink(name, to, sizeof to - 1);
        if (length < 0)
            continue;
        to[length] = '\0';
        if (strncmp(to, here, strlen(here)) == 0)
            fail("descriptor %d, open on %s, was inherited", fd, to);
    }
    return 0;
}

static void note_grant(aflock *lock, const aflock_result *result, void *user)
{
    bool *granted = user;
    (void)lock;
    require_status(result->status, 0);
    *granted = true;
}

/* A context of the child's own: one lock for itself on the loop's thread or the pool, and the one that all use. */
static void work_with_own_context(dice *d)
{
    static const char *const FILES[] = {"child", "all"};
    aflock_ctx *ctx;
    require_status(aflock_epoll_new(&ctx, NULL), 0);
    for (unsigned i = 0; i < 2; i++) {
        bool granted = false;
        aflock *lock;
        aflock_req req;
        aflock_options o;
        aflock_options_init(&o);
        o.protocol = spoken->number;
        o.io = (aflock_io)dice_below(d, 3);
        o.poll_interval = AFLOCK_MILLISECOND;
        o.keep_open = dice_below(d, 2) == 0;
        require_status(aflock_open(&lock, ctx, FILES[i], &o), 0);
        require_status(aflock_acquire(lock, NULL, note_grant, &granted, &req), 0);
        while (!granted)
            require_status(aflock_epoll_run_once(ctx, AFLOCK_SECOND), 0);
        if (i == 1) {
            enter(false);
            sleep_ns(dice_up_to(d, HOLD_MOST));
            leave(false);
        }
        require_status(aflock_release(lock, req, NULL, NULL), 0);
    }
    require(aflock_ctx_free(ctx, WATCHDOG * AFLOCK_SECOND) == 0);
    atomic_fetch_add(&shared_table->own_contexts, 1);
}

static void linger(dice *d, pid_t parent)
{
    bool to_the_end = dice_percent(d, 10) && atomic_fetch_add(&shared_table->staying, 1) < STAYING_MOST;
    uint64_t until = now_ns() + dice_up_to(d, LINGER_MOST);
    atomic_fetch_add(&shared_table->lingered, 1);
    while (!shared_table->over && getppid() == parent && (to_the_end || now_ns() < until))
        sleep_ns(2 * AFLOCK_MILLISECOND);
}

/* Only what belongs to the thread that has forked: the others may have been in the middle of anything. */
static void abandon(const actor *of)
{
    for (unsigned i = 0; i < LOOPS; i++)
        require_status(aflock_ctx_abandon(actors[i].ctx), &actors[i] == of ? 0 : AFLOCK_ETHREAD);
    atomic_fetch_add(&shared_table->abandoned, of != NULL);
}

/* `of`: the context is this thread's; `held`: the loop holds its own lock, and waits for us to see it. */
static void live(dice *d, const actor *of, const actor *held, pid_t parent)
{
    set_name("a child of %s %d", of ? "loop" : "a thread", of ? (int)of->number : 0);
    on_failure = NULL;
    alarm(2 * WATCHDOG);
    for (unsigned i = 0; i < LOOPS; i++)
        every_function_says_so(&actors[i]);
    if (held)
        require(!is_free(spoken, held->file));
    if (dice_percent(d, 80))
        abandon(of);
    if (held) {
        require(!is_free(spoken, held->file));
        atomic_fetch_add(&shared_table->looked[held->number], 1);
    }
    if (dice_percent(d, 5))
        execute();
    if (dice_percent(d, 15))
        work_with_own_context(d);
    if (dice_percent(d, 20))
        linger(d, parent);
    _exit(0);
}

/* See live. Returns in the parent only. */
static void fork_from(origin o, dice *d, const actor *of, actor *held)
{
    if (shared_table->over || atomic_load(&shared_table->children) >= CHILDREN_MOST)
        return;
    dice childs = dice_of(s.seed, dice_below(d, UINT32_MAX), 0);
    pid_t parent = getpid();
    atomic_fetch_add(&shared_table->children, 1);
    pid_t pid = fork();
    require(pid >= 0);
    if (pid == 0)
        live(&childs, of, held, parent);
    if (held)
        held->sent++;
    atomic_fetch_add(&shared_table->forks[o], 1);
}

/* ---------------------------------------------------------------------------------------------------------- the loops
 */

static void ask(aflock_ctx *ctx, void *user);
static void step(aflock_ctx *ctx, void *user);

static void later(void (*fire)(aflock_ctx *, void *), task *t, uint64_t most)
{
    require_status(aflock_epoll_timer(t->actor->ctx, dice_up_to(&t->actor->dice, most), fire, t), 0);
}

static void on_released(aflock *lock, const aflock_result *result, void *user)
{
    task *t = user;
    (void)lock;
    require_status(result->status, 0);
    if (t->own && !is_free(spoken, t->actor->file)) /* whatever children have inherited */
        fail("loop %u has released %s, and it is locked", t->actor->number, t->actor->file);
    later(ask, t, THINK_MOST);
}

static void step(aflock_ctx *ctx, void *user)
{
    task *t = user;
    actor *a = t->actor;
    (void)ctx;
    if (dice_percent(&a->dice, 4))
        fork_from(IN_TIMER, &a->dice, a, t->own ? a : NULL);
    if (t->own) {
        require(!is_free(spoken, a->file));
        t->awaited = a->sent;
    }
    if (t->steps > 0 || (t->own && shared_table->looked[a->number] < t->awaited)) {
        t->steps -= t->steps > 0;
        later(step, t, HOLD_MOST);
        return;
    }
    if (!t->own)
        leave(t->shared);
    require_status(aflock_release(t->lock, t->req, on_released, t), 0);
}

static void on_lock(aflock *lock, const aflock_result *result, void *user)
{
    task *t = user;
    actor *a = t->actor;
    (void)lock;
    if (result->status != 0) {
        require(result->status == AFLOCK_ETIMEDOUT && !t->own);
        later(ask, t, THINK_MOST);
        return;
    }
    atomic_fetch_add(&a->grants, 1);
    if (!t->own)
        enter(t->shared);
    if (dice_percent(&a->dice, 5))
        fork_from(IN_CALLBACK, &a->dice, a, t->own ? a : NULL);
    t->steps = dice_below(&a->dice, 3);
    later(step, t, HOLD_MOST);
}

/* Mostly on a worker, sometimes on the loop's thread. */
static int on_acquired(int fd, void *user)
{
    static _Thread_local dice d;
    actor *a = user;
    if (d.state == 0)
        d = dice_of(s.seed, now_ns(), (uint64_t)fd);
    sleep_ns(dice_up_to(&d, HOLD_MOST));
    if (dice_percent(&d, 8))
        fork_from(IN_ON_ACQUIRED, &d, pthread_equal(pthread_self(), a->self) ? a : NULL, NULL);
    return 0;
}

static void ask(aflock_ctx *ctx, void *user)
{
    task *t = user;
    dice *d = &t->actor->dice;
    aflock_acquire_options o;
    (void)ctx;
    if (shared_table->over)
        return;
    aflock_acquire_options_init(&o);
    t->shared = !t->own && dice_percent(d, 30);
    o.mode = t->shared ? AFLOCK_SHARED : AFLOCK_EXCLUSIVE;
    if (!t->own && dice_percent(d, 20))
        o.timeout = dice_up_to(d, THINK_MOST) + 1;
    if (dice_percent(d, 30)) {
        o.on_acquired = on_acquired;
        o.on_acquired_user = t->actor;
    }
    if (!spoken->database && dice_percent(d, 20))
        o.flags |= AFLOCK_TRUNCATE;
    require_status(aflock_acquire(t->lock, &o, on_lock, t, &t->req), 0);
}

/* One loop has a single request: while it waits, nothing but the library's own timer and pool wakes it. */
static void make_context(actor *a)
{
    snprintf(a->file, sizeof a->file, "own-%u", a->number);
    require_status(aflock_epoll_new(&a->ctx, NULL), 0);
    unsigned tasks = a->number == QUIET ? 1 : TASKS;
    for (unsigned i = 0; i < tasks; i++) {
        aflock_options o;
        task *t = &a->tasks[i];
        aflock_options_init(&o);
        o.protocol = spoken->number;
        o.io = (aflock_io)((a->number + (i == TASKS - 1)) % 3);
        o.poll_interval = 500 * AFLOCK_MICROSECOND;
        o.keep_open = a->number % 2 == 0;
        t->actor = a;
        t->own = i == TASKS - 1;
        require_status(aflock_open(&t->lock, a->ctx, t->own ? a->file : "all", &o), 0);
        later(ask, t, THINK_MOST);
    }
}

static void *loop_main(void *argument)
{
    actor *a = argument;
    a->self = pthread_self();
    a->dice = dice_of(s.seed, a->number, 1);
    make_context(a);
    pthread_barrier_wait(&barrier);
    while (aflock_epoll_alive(a->ctx)) {
        require_status(aflock_epoll_run_once(a->ctx, AFLOCK_FOREVER), 0);
        if (dice_percent(&a->dice, 1))
            fork_from(BETWEEN_ROUNDS, &a->dice, a, NULL);
    }
    pthread_barrier_wait(&barrier);
    require(aflock_ctx_free(a->ctx, WATCHDOG * AFLOCK_SECOND) == 0);
    return NULL;
}

static void *bystander_main(void *argument)
{
    dice d = dice_of(s.seed, *(const unsigned *)argument, 2);
    pthread_barrier_wait(&barrier);
    while (!shared_table->over) {
        sleep_ns(dice_up_to(&d, BYSTANDER_MOST));
        fork_from(BYSTANDER, &d, NULL, NULL);
    }
    pthread_barrier_wait(&barrier);
    return NULL;
}

/* ------------------------------------------------------------------------------------------------------- the program
 */

static void give_up(void)
{
    on_failure = NULL;
    shared_table->over = true; /* the children leave by themselves */
    directory_drop();
}

static void reap(void)
{
    int status;
    while (waitpid(-1, &status, WNOHANG) > 0) {
        atomic_fetch_sub(&shared_table->children, 1);
        if (status != 0)
            fail("a child ended with status 0x%x%s", (unsigned)status,
                 WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM ? ": it hung" : "");
    }
}

static bool every_origin(void)
{
    for (unsigned i = 0; i < ORIGINS; i++)
        if (shared_table->forks[i] == 0)
            return false;
    return true;
}

/* Everybody must get a lock now and then, whatever the children do. Longer than `until` if the machine has so much else
 * to do that not every kind of fork has come yet. */
static void watch_over(uint64_t until)
{
    unsigned before[LOOPS] = {0};
    uint64_t heard[LOOPS];
    for (unsigned i = 0; i < LOOPS; i++)
        heard[i] = now_ns();
    while (now_ns() < until || (!every_origin() && now_ns() < until + WATCHDOG * AFLOCK_SECOND)) {
        reap();
        sleep_ns(2 * AFLOCK_MILLISECOND);
        for (unsigned i = 0; i < LOOPS; i++) {
            unsigned grants = actors[i].grants;
            if (grants != before[i])
                heard[i] = now_ns();
            else if (now_ns() - heard[i] > WATCHDOG * AFLOCK_SECOND)
                fail("loop %u got no lock for %d s", i, WATCHDOG);
            before[i] = grants;
        }
    }
}

static void join(pthread_t thread, const char *what)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += WATCHDOG;
    if (pthread_timedjoin_np(thread, NULL, &until) != 0)
        fail("%s does not come to an end", what);
}

static void run(void)
{
    pthread_t bystanders[BYSTANDERS];
    unsigned numbers[BYSTANDERS];
    require(pthread_barrier_init(&barrier, NULL, LOOPS + BYSTANDERS) == 0);
    for (unsigned i = 0; i < LOOPS; i++) {
        actors[i].number = i;
        require(pthread_create(&actors[i].thread, NULL, loop_main, &actors[i]) == 0);
    }
    for (unsigned i = 0; i < BYSTANDERS; i++) {
        numbers[i] = i;
        require(pthread_create(&bystanders[i], NULL, bystander_main, &numbers[i]) == 0);
    }
    watch_over(now_ns() + s.seconds * AFLOCK_SECOND);
    shared_table->over = true;
    for (unsigned i = 0; i < LOOPS; i++)
        join(actors[i].thread, "a loop");
    for (unsigned i = 0; i < BYSTANDERS; i++)
        join(bystanders[i], "a thread");
    pthread_barrier_destroy(&barrier);
    uint64_t until = now_ns() + WATCHDOG * AFLOCK_SECOND;
    for (reap(); shared_table->children > 0; reap()) {
        if (now_ns() > until)
            fail("%u children are left", shared_table->children);
        sleep_ns(AFLOCK_MILLISECOND);
    }
}

int main(int argc, char **argv)
{
    uint64_t forks = 0;
    if (argc == 2 && strcmp(argv[1], "--look") == 0)
        return look();
    program = argv[0];
    settings_read(&s, argc, argv, HELP);
    spoken = protocol_named(s.protocol);
    require(!spoken->marker); /* a child inherits nothing of it */
    set_name("storm-forks --protocol %s", s.protocol);
    shared_table = mmap(NULL, sizeof *shared_table, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    require(shared_table != MAP_FAILED);
    directory_begin();
    on_failure = give_up;
    int descriptors = open_descriptors();
    run();
    uint64_t until = now_ns() + WATCHDOG * AFLOCK_SECOND;
    while (open_descriptors() != descriptors && now_ns() < until)
        sleep_ns(AFLOCK_MILLISECOND); /* a notifier is closed on a thread of its own */
    require(open_descriptors() == descriptors);
    for (unsigned i = 0; i < LOOPS; i++)
        require(i == QUIET || is_free(spoken, actors[i].file));
    require(is_free(spoken, "all") && shared_table->writers == 0 && shared_table->readers == 0);
    directory_end((const char *const[]){"all", "child", "own-1", "own-2", "own-3", NULL});

    printf("figure: forks %s: %u s, %s grants; forks:", s.protocol, s.seconds, thousands(shared_table->grants));
    for (unsigned i = 0; i < ORIGINS; i++) {
        printf(" %s %s,", thousands(shared_table->forks[i]), ORIGIN_NAMES[i]);
        forks += shared_table->forks[i];
    }
    require(every_origin());
    printf(" %s in all; %s abandoned, %s lived on, %s executed a program, %s had a context of their own\n",
           thousands(forks), thousands(shared_table->abandoned), thousands(shared_table->lingered),
           thousands(shared_table->executed), thousands(shared_table->own_contexts));
    return 0;
}
