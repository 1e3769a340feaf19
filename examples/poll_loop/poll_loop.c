/* A hand-written poll(2) loop that hosts aflock: how to fill in the tables of aflock/host.h without the kit.
 *
 * Read it as a pattern for a loop that has no adapter yet. The first half is a context's host: one function for each
 * entry of aflock_loop. The second half is the loop: a round that waits, reports, and lets the library take its turn
 * last. No call ever waits for a lock; only ppoll waits (build with -D_GNU_SOURCE for it).
 *
 * Functions of the program, and callbacks of one context, may free another context: a member whose context is gone
 * stays, marked `closed`, until the round is over.
 */
#include "poll_loop.h"

#include <aflock/host.h>
#include <aflock/kit.h> /* for the thread pool only */

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

enum { MAX_WATCHES = 32, MAX_DESCRIPTORS = 256 };

/* A context and its host: what the library calls, and what it has asked for. */
struct member {
    aflock_loop table;        /* lives as long as the context */
    aflock_executor executor; /* a thread pool, for calls that may block */
    aflock_ctx *ctx;
    struct poll_loop *loop; /* NULL: is gone */
    struct member *next;

    int wake_fd;                        /* an eventfd: ends the waiting from another thread */
    int turn_wanted;                    /* the library asked for a turn: do not wait */
    int kept_alive;                     /* the library has something to do: go on running */
    int closed;                         /* the context is gone */
    uint64_t deadline;                  /* the library's one timer */
    aflock_watch *watches[MAX_WATCHES]; /* the library's descriptors; NULL: free place */
};

struct timer {
    uint64_t deadline;
    void (*fire)(void *user);
    void *user;
    struct timer *next;
};

struct poll_loop {
    struct member *members;
    struct timer *timers; /* the program's own, in the order of their deadlines */
    int descriptors;      /* polled, or about to be: one for each member, one for each watch */
    int inside;           /* a round is on the stack */
};

/* =========================================================================================== the host of a context */

/* The clock is read at each call: a cached time could make the library believe that a deadline has not come. */
static uint64_t host_now(void *self)
{
    (void)self;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * AFLOCK_SECOND + (uint64_t)now.tv_nsec;
}

/* One timer, an absolute time. Remembering it is enough: the next round computes how long to wait. */
static int host_timer(void *self, uint64_t deadline)
{
    struct member *member = self;
    member->deadline = deadline;
    return 0;
}

/* "Call aflock_host_turn soon, on a fresh stack": from the next round, never from here. */
static void host_defer(void *self)
{
    struct member *member = self;
    member->turn_wanted = 1;
}

/* The same from worker threads and signal handlers: async-signal-safe, keeps errno, touches nothing of the loop's but
 * the descriptor. A full counter is no error: it is readable already. */
static void host_wake(void *self)
{
    const struct member *member = self;
    int saved = errno;
    uint64_t one = 1;
    ssize_t written = write(member->wake_fd, &one, sizeof one);
    (void)written;
    errno = saved;
}

static void host_keep_alive(void *self, int on)
{
    struct member *member = self;
    member->kept_alive = on;
}

/* `host` is ours: it points to the place of the watch. A second call with the same watch has changed `events`, which
 * the next round reads anyway. */
static int host_watch(void *self, aflock_watch *watch)
{
    struct member *member = self;
    if (watch->events == 0)
        return AFLOCK_EINVAL;
    if (watch->host != NULL)
        return 0;
    int i = 0;
    while (i < MAX_WATCHES && member->watches[i] != NULL)
        i++;
    if (i == MAX_WATCHES || member->loop == NULL || member->loop->descriptors == MAX_DESCRIPTORS)
        return AFLOCK_ENOMEM;
    member->watches[i] = watch;
    member->loop->descriptors++;
    watch->host = &member->watches[i];
    return 0;
}

/* Afterwards nothing may be reported, not even what the present round has already seen to be ready. */
static void host_unwatch(void *self, aflock_watch *watch)
{
    const struct member *member = self;
    aflock_watch **place = watch->host;
    if (place == NULL)
        return;
    *place = NULL;
    watch->host = NULL;
    if (member->loop != NULL)
        member->loop->descriptors--;
}

static void remove_member(struct member *member)
{
    if (member->loop != NULL) {
        struct member **link = &member->loop->members;
        while (*link != member)
            link = &(*link)->next;
        *link = member->next;
    }
    free(member);
}

/* The last call of all. In a forked child (`forked`) nothing may change that the parent shares; closing and freeing
 * change nothing. */
static void host_close(void *self, int forked)
{
    (void)forked;
    struct member *member = self;
    close(member->wake_fd);
    member->closed = 1;
    member->kept_alive = 0;
    if (member->loop != NULL)
        member->loop->descriptors--;
    if (member->loop == NULL || !member->loop->inside)
        remove_member(member);
}

/* Not one of the standard streams, which the program may have closed: what it reads would be our wake-ups. */
static int open_wake_fd(void)
{
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (fd < 0 || fd > STDERR_FILENO)
        return fd;
    int other = fcntl(fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
    close(fd);
    return other;
}

static int make_context(struct member *member, const aflock_ctx_options *options)
{
    int status = aflock_pool_new(&member->executor, NULL);
    if (status != 0)
        return status;
    const aflock_host host = {.size = sizeof host, .loop = &member->table, .executor = &member->executor};
    status = aflock_ctx_new(&member->ctx, &host, options);
    if (status != 0) /* nothing of the tables was called: they are still ours to close */
        member->executor.close(member->executor.self, 0);
    return status;
}

static int make_member(struct member *member, const aflock_ctx_options *options)
{
    *member = (struct member){
        .table = {.size = sizeof member->table,
                  .self = member,
                  .name = "poll",
                  .resolution = 50 * AFLOCK_MICROSECOND, /* how late Linux lets ppoll end (its timer slack) */
                  .now = host_now,
                  .timer = host_timer,
                  .defer = host_defer,
                  .wake = host_wake,
                  .keep_alive = host_keep_alive,
                  .watch = host_watch,
                  .unwatch = host_unwatch,
                  .close = host_close},
        .deadline = AFLOCK_FOREVER,
    };
    member->wake_fd = open_wake_fd();
    if (member->wake_fd < 0)
        return errno == EMFILE || errno == ENFILE ? AFLOCK_EMFILE : AFLOCK_ESYS;
    int status = make_context(member, options);
    if (status != 0)
        close(member->wake_fd);
    return status;
}

int poll_loop_context(struct poll_loop *loop, const aflock_ctx_options *options, aflock_ctx **out)
{
    *out = NULL;
    struct member *member = loop->descriptors < MAX_DESCRIPTORS ? malloc(sizeof *member) : NULL;
    if (member == NULL)
        return AFLOCK_ENOMEM;
    int status = make_member(member, options);
    if (status != 0) {
        free(member);
        return status;
    }
    member->loop = loop;
    member->next = loop->members;
    loop->members = member;
    loop->descriptors++;
    *out = member->ctx;
    return 0;
}

/* ======================================================================================================== the loop */

/* What was polled. */
struct polled {
    struct member *member;
    const aflock_watch *watch; /* NULL: the member's wake-up */
    int place;                 /* of the watch */
};

struct poll_loop *poll_loop_new(void)
{
    return calloc(1, sizeof(struct poll_loop));
}

void poll_loop_free(struct poll_loop *loop)
{
    for (struct member *member = loop->members; member != NULL; member = member->next)
        member->loop = NULL;
    for (struct timer *timer = loop->timers, *next; timer != NULL; timer = next) {
        next = timer->next;
        free(timer);
    }
    free(loop);
}

int poll_loop_timer(struct poll_loop *loop, uint64_t delay, void (*fire)(void *user), void *user)
{
    struct timer *timer = malloc(sizeof *timer);
    if (timer == NULL)
        return AFLOCK_ENOMEM;
    *timer = (struct timer){.deadline = host_now(NULL) + delay, .fire = fire, .user = user};
    struct timer **link = &loop->timers;
    while (*link != NULL && (*link)->deadline <= timer->deadline)
        link = &(*link)->next;
    timer->next = *link;
    *link = timer;
    return 0;
}

/* Those that are due now; not those that they start. */
static void fire_timers(struct poll_loop *loop)
{
    uint64_t now = host_now(NULL);
    struct timer *due = loop->timers, **end = &due;
    while (*end != NULL && (*end)->deadline <= now)
        end = &(*end)->next;
    loop->timers = *end;
    *end = NULL;
    while (due != NULL) {
        struct timer *timer = due;
        due = timer->next;
        timer->fire(timer->user);
        free(timer);
    }
}

static struct timespec time_to_wait(const struct poll_loop *loop, uint64_t longest)
{
    uint64_t now = host_now(NULL);
    uint64_t until = longest < AFLOCK_FOREVER - now ? now + longest : AFLOCK_FOREVER;
    if (loop->timers != NULL && loop->timers->deadline < until)
        until = loop->timers->deadline;
    for (const struct member *member = loop->members; member != NULL; member = member->next) {
        if (member->turn_wanted)
            until = now;
        else if (member->deadline < until)
            until = member->deadline;
    }
    uint64_t wait = until <= now ? 0 : until - now;
    return (struct timespec){.tv_sec = (time_t)(wait / AFLOCK_SECOND), .tv_nsec = (long)(wait % AFLOCK_SECOND)};
}

static int collect(const struct poll_loop *loop, struct pollfd *fds, struct polled *polled)
{
    int count = 0;
    for (struct member *member = loop->members; member != NULL; member = member->next) {
        fds[count] = (struct pollfd){.fd = member->wake_fd, .events = POLLIN};
        polled[count++] = (struct polled){.member = member};
        for (int i = 0; i < MAX_WATCHES; i++) {
            const aflock_watch *watch = member->watches[i];
            if (watch == NULL)
                continue;
            int events = (watch->events & AFLOCK_READ ? POLLIN : 0) | (watch->events & AFLOCK_WRITE ? POLLOUT : 0);
            fds[count] = (struct pollfd){.fd = watch->fd, .events = (short)events};
            polled[count++] = (struct polled){.member = member, .watch = watch, .place = i};
        }
    }
    return count;
}

/* Always before the turn: what was posted with these wake-ups is seen by it, and a later one wakes us again. */
static void take_wakes(const struct member *member)
{
    uint64_t wakes;
    ssize_t size = read(member->wake_fd, &wakes, sizeof wakes);
    (void)size; /* nothing there: as good as something */
}

static void report(const struct polled *polled, short events)
{
    struct member *member = polled->member;
    if (member->closed || events == 0)
        return;
    if (polled->watch == NULL) {
        take_wakes(member);
        return;
    }
    aflock_watch *watch = member->watches[polled->place]; /* looked up anew: it may be gone since, or be another one */
    if (watch != polled->watch)
        return;
    unsigned ready = 0;
    if (events & (POLLIN | POLLHUP | POLLERR))
        ready |= AFLOCK_READ;
    if (events & (POLLOUT | POLLHUP | POLLERR))
        ready |= AFLOCK_WRITE;
    if (ready & watch->events)
        aflock_host_ready(member->ctx, watch, ready & watch->events);
}

/* A forked child must not go on with the parent's loop: what it reads would be missing there. */
static int check(const struct poll_loop *loop)
{
    int status = 0;
    for (const struct member *member = loop->members; member != NULL && status == 0; member = member->next)
        if (!member->closed)
            status = aflock_host_check(member->ctx);
    return status;
}

/* The library's turn; its callbacks may fork, too. */
static int take_turn(struct member *member)
{
    if (host_now(NULL) >= member->deadline) {
        member->deadline = AFLOCK_FOREVER;
        aflock_host_timer(member->ctx);
    }
    member->turn_wanted = 0; /* the turn may set it again */
    aflock_host_turn(member->ctx);
    return aflock_host_check(member->ctx);
}

static void remove_closed(const struct poll_loop *loop)
{
    for (struct member *member = loop->members, *next; member != NULL; member = next) {
        next = member->next;
        if (member->closed)
            remove_member(member);
    }
}

/* One round: wait, then the program's own work, then the library's; its turn comes last. */
int poll_loop_round(struct poll_loop *loop, uint64_t longest)
{
    struct pollfd fds[MAX_DESCRIPTORS];
    struct polled polled[MAX_DESCRIPTORS];
    int status = check(loop);
    if (status != 0)
        return status;
    int count = collect(loop, fds, polled);
    struct timespec timeout = time_to_wait(loop, longest);
    if (ppoll(fds, (nfds_t)count, &timeout, NULL) < 0)
        return errno == EINTR ? 0 : AFLOCK_ESYS;

    loop->inside = 1;
    fire_timers(loop);
    status = check(loop);
    for (int i = 0; i < count && status == 0; i++)
        report(&polled[i], fds[i].revents);
    for (struct member *member = loop->members; member != NULL && status == 0; member = member->next)
        if (!member->closed)
            status = take_turn(member);
    loop->inside = 0;
    remove_closed(loop);
    return status;
}

int poll_loop_alive(const struct poll_loop *loop)
{
    int alive = loop->timers != NULL;
    for (const struct member *member = loop->members; member != NULL; member = member->next)
        alive |= member->kept_alive;
    return alive;
}

int poll_loop_run(struct poll_loop *loop)
{
    int status = 0;
    while (status == 0 && poll_loop_alive(loop))
        status = poll_loop_round(loop, AFLOCK_FOREVER);
    return status;
}
