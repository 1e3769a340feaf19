/* A process that locks files with aflock, as it is told on its standard input; it runs inside the emulated machine of
 * scripts/test-nfs, on each host, while the network is cut and mended under it.
 *
 *   nfs_client --protocols     names the protocols of the table below, one per line
 *   nfs_client                 obeys commands, one per line, NAME being a word for a lock:
 *
 *     open NAME PROTOCOL PATH [POLL_MS]    acquire NAME TIMEOUT_MS|forever [shared]   (0: one attempt)
 *     release NAME       cancel NAME       verify NAME       poll NAME POLL_MS
 *     ticks              how often the loop's timer of 10 ms fired since it was last asked
 *     free GRACE_MS      ends the context; the process stays
 *     quit
 *
 * It prints lines "NAME STATUS" for each answer, with "acquired", "released" or "verified" for 0, and "NAME contended",
 * "NAME unlocked" for what happens to its file meanwhile. A command that fails at once is answered "NAME refused
 * STATUS".
 */
#include <aflock/epoll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { LOCKS = 16, WORDS = 5 };

/* One line adds a protocol to the whole job. */
static const struct {
    const char *name;
    aflock_protocol protocol;
} PROTOCOLS[] = {
    {"native", AFLOCK_NATIVE}, {"ofd", AFLOCK_OFD},       {"rw", AFLOCK_RW},           {"soft", AFLOCK_SOFT},
    {"lease", AFLOCK_LEASE},   {"strict", AFLOCK_STRICT}, {"soft-rw", AFLOCK_SOFT_RW},
};
enum { PROTOCOL_COUNT = sizeof PROTOCOLS / sizeof PROTOCOLS[0] };

typedef struct named_lock {
    char name[16];
    char path[128];
    aflock *lock;
    aflock_req req;
} named_lock;

static aflock_ctx *ctx;
static named_lock locks[LOCKS];
static unsigned lock_count;
static unsigned ticks;
static int ended;

static void say(const char *name, const char *text)
{
    printf("%s %s\n", name, text);
    fflush(stdout);
}

static named_lock *find(const char *name)
{
    for (unsigned i = 0; i < lock_count; i++)
        if (strcmp(locks[i].name, name) == 0)
            return &locks[i];
    return NULL;
}

/* ------------------------------------------------------------------------------------------------------- what happens
 */

static void on_trace(aflock_trace_event event, const char *path, aflock_req req, int64_t value, void *user)
{
    (void)req, (void)user;
    for (unsigned i = 0; i < lock_count; i++) {
        if (strcmp(locks[i].path, path) != 0)
            continue;
        if (event == AFLOCK_TRACE_CONTENDED)
            say(locks[i].name, "contended");
        if (event == AFLOCK_TRACE_UNLOCKED && value == 0)
            say(locks[i].name, "unlocked");
    }
}

/* `user`: what it is called when it worked. */
static void on_answer(aflock *lock, const aflock_result *result, void *user)
{
    for (unsigned i = 0; i < lock_count; i++)
        if (locks[i].lock == lock)
            say(locks[i].name, result->status ? aflock_error_name(result->status) : (const char *)user);
}

static void on_tick(aflock_ctx *c, void *user)
{
    ticks++;
    aflock_epoll_timer(c, 10 * AFLOCK_MILLISECOND, on_tick, user);
}

/* ----------------------------------------------------------------------------------------------------------- commands
 */

static uint64_t milliseconds(const char *word)
{
    if (strcmp(word, "forever") == 0)
        return AFLOCK_FOREVER;
    return strtoull(word, NULL, 10) * AFLOCK_MILLISECOND;
}

static int do_open(named_lock *l, char **words, int count)
{
    aflock_options o;
    aflock_options_init(&o);
    if (l || lock_count == LOCKS || count < 4)
        return AFLOCK_EINVAL;
    for (unsigned i = 0; i < PROTOCOL_COUNT; i++)
        if (strcmp(PROTOCOLS[i].name, words[2]) == 0)
            o.protocol = PROTOCOLS[i].protocol;
    if (o.protocol == AFLOCK_LEASE)
        o.duration = 600 * AFLOCK_SECOND; /* no emulated machine is so slow, and no cut so long */
    if (o.protocol == AFLOCK_SOFT_RW)
        o.stale_after = 600 * AFLOCK_SECOND;
    if (count > 4)
        o.poll_interval = milliseconds(words[4]);
    l = &locks[lock_count++];
    snprintf(l->name, sizeof l->name, "%s", words[1]);
    snprintf(l->path, sizeof l->path, "%s", words[3]);
    int status = aflock_open(&l->lock, ctx, words[3], &o);
    if (status == 0)
        say(words[1], "open");
    return status;
}

static int do_acquire(named_lock *l, char **words, int count)
{
    aflock_acquire_options o;
    aflock_acquire_options_init(&o);
    if (count < 3)
        return AFLOCK_EINVAL;
    o.timeout = milliseconds(words[2]);
    o.mode = count > 3 ? AFLOCK_SHARED : AFLOCK_EXCLUSIVE;
    return aflock_acquire(l->lock, &o, on_answer, "acquired", &l->req);
}

static int do_release(named_lock *l, char **words, int count)
{
    (void)words, (void)count;
    return aflock_release(l->lock, l->req, on_answer, "released");
}

static int do_cancel(named_lock *l, char **words, int count)
{
    (void)words, (void)count;
    return aflock_cancel(l->lock, l->req);
}

static int do_verify(named_lock *l, char **words, int count)
{
    (void)words, (void)count;
    return aflock_verify(l->lock, l->req, on_answer, "verified");
}

static int do_poll(named_lock *l, char **words, int count)
{
    return count < 3 ? AFLOCK_EINVAL : aflock_set_poll_interval(l->lock, milliseconds(words[2]));
}

static int do_ticks(named_lock *l, char **words, int count)
{
    (void)l, (void)words, (void)count;
    printf("ticks %u\n", ticks);
    fflush(stdout);
    ticks = 0;
    return 0;
}

static int do_free(named_lock *l, char **words, int count)
{
    (void)l;
    int left = aflock_ctx_free(ctx, count > 1 ? milliseconds(words[1]) : 0);
    ctx = NULL;
    lock_count = 0;
    printf("freed %d\n", left);
    fflush(stdout);
    return 0;
}

static int do_quit(named_lock *l, char **words, int count)
{
    (void)l, (void)words, (void)count;
    ended = 1;
    return 0;
}

static void obey(char *line)
{
    static const struct {
        const char *word;
        int needs_lock;
        int (*run)(named_lock *l, char **words, int count);
    } COMMANDS[] = {
        {"open", 0, do_open},     {"acquire", 1, do_acquire}, {"release", 1, do_release},
        {"cancel", 1, do_cancel}, {"verify", 1, do_verify},   {"poll", 1, do_poll},
        {"ticks", 0, do_ticks},   {"free", 0, do_free},       {"quit", 0, do_quit},
    };
    char *words[WORDS] = {NULL}, *rest = NULL;
    int count = 0, status = AFLOCK_EINVAL;
    for (char *w = strtok_r(line, " ", &rest); w && count < WORDS; w = strtok_r(NULL, " ", &rest))
        words[count++] = w;
    if (count == 0)
        return;
    named_lock *l = count > 1 ? find(words[1]) : NULL;
    for (size_t i = 0; i < sizeof COMMANDS / sizeof COMMANDS[0]; i++)
        if (strcmp(COMMANDS[i].word, words[0]) == 0 && (l || !COMMANDS[i].needs_lock))
            status = COMMANDS[i].run(l, words, count);
    if (status) {
        printf("%s refused %s\n", count > 1 ? words[1] : words[0], aflock_error_name(status));
        fflush(stdout);
    }
}

/* The writer sends whole lines. */
static void read_commands(int fd)
{
    char text[1024], *rest = NULL;
    ssize_t n = read(fd, text, sizeof text - 1);
    if (n <= 0) {
        ended = 1;
        return;
    }
    text[n] = '\0';
    for (char *line = strtok_r(text, "\n", &rest); line && !ended; line = strtok_r(NULL, "\n", &rest))
        obey(line);
}

static void on_input(aflock_ctx *c, int fd, unsigned events, void *user)
{
    (void)c, (void)events, (void)user;
    read_commands(fd);
}

static int start(void)
{
    aflock_ctx_options c;
    aflock_epoll_options e;
    aflock_ctx_options_init(&c);
    aflock_epoll_options_init(&e);
    c.trace = on_trace;
    e.ctx = &c;
    int status = aflock_epoll_new(&ctx, &e);
    if (status == 0)
        status = aflock_epoll_watch(ctx, STDIN_FILENO, AFLOCK_EPOLL_READ, on_input, NULL);
    if (status == 0)
        status = aflock_epoll_timer(ctx, 0, on_tick, NULL);
    return status;
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "--protocols") == 0) {
        for (unsigned i = 0; i < PROTOCOL_COUNT; i++)
            puts(PROTOCOLS[i].name);
        return 0;
    }
    if (argc != 1)
        return 2;
    int status = start();
    while (status == 0 && ctx && !ended)
        status = aflock_epoll_run_once(ctx, AFLOCK_FOREVER);
    while (!ctx && !ended) /* after "free": alive, for as long as it is wanted */
        read_commands(STDIN_FILENO);
    if (status) {
        fprintf(stderr, "nfs_client: %s\n", aflock_strerror(status));
        return 1;
    }
    return 0; /* without freeing the context: what hangs must not keep the process */
}
