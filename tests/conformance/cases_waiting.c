/* Waiting for somebody outside of the context, in each way that there is. What a host cannot do is done in another way;
 * what is promised stays. */
#include "conformance.h"

#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static const aflock_wait WAYS[] = {AFLOCK_WAIT_AUTO, AFLOCK_WAIT_NOTIFY, AFLOCK_WAIT_POLL, AFLOCK_WAIT_PARK};
enum { WAYS_COUNT = sizeof WAYS / sizeof WAYS[0] };

/* A lock that somebody else holds, by way of the descriptor that is returned, and a request for it. */
static int wait_for_another(rig *r, aflock_wait way, uint64_t timeout, aflock **lock, answer *a)
{
    char path[PATH_MAX];
    aflock_options options;
    aflock_acquire_options o = rig_options(timeout);
    aflock_options_init(&options);
    options.wait = way;
    int holder = rig_foreign(r, "lock");
    require(holder >= 0);
    rig_path(r, "lock", path);
    require_status(aflock_open(lock, r->ctx, path, &options), 0);
    require_status(rig_acquire(r, *lock, &o, a), 0);
    int mode;
    do
        rig_pass(r, 2 * MS);
    while ((mode = aflock_wait_mode(*lock, NULL)) == AFLOCK_WAIT_AUTO); /* no worker has looked yet */
    require(mode == AFLOCK_WAIT_NOTIFY || mode == AFLOCK_WAIT_POLL || mode == AFLOCK_WAIT_PARK);
    return holder;
}

static void what_another_gives_up_is_got(rig *r)
{
    for (unsigned i = 0; i < WAYS_COUNT; i++) {
        answer a = {.count = 0};
        aflock *lock;
        int holder = wait_for_another(r, WAYS[i], AFLOCK_FOREVER, &lock, &a);
        require(a.count == 0);
        close(holder);
        rig_await_status(r, &a, 0);
        require(!rig_is_free(r, "lock"));
        rig_let_go(r, lock, a.req);
        require_status(rig_close(r, lock), 0);
    }
}

static void a_wait_ends_in_time(rig *r)
{
    for (unsigned i = 0; i < WAYS_COUNT; i++) {
        answer a = {.count = 0};
        aflock *lock;
        uint64_t began = rig_now(r);
        int holder = wait_for_another(r, WAYS[i], 20 * MS, &lock, &a);
        rig_await_status(r, &a, AFLOCK_ETIMEDOUT);
        require(a.at - began >= 20 * MS);
        close(holder);
        rig_await_free(r, "lock");
        require_status(rig_close(r, lock), 0);
    }
}

/* Nobody has the lock afterwards, and the next one gets it. */
static void a_wait_is_cancelled(rig *r)
{
    for (unsigned i = 0; i < WAYS_COUNT; i++) {
        answer a = {.count = 0}, b = {.count = 0};
        aflock *lock;
        int holder = wait_for_another(r, WAYS[i], AFLOCK_FOREVER, &lock, &a);
        require_status(rig_cancel(r, lock, a.req), 0);
        rig_await_status(r, &a, AFLOCK_ECANCELED);
        close(holder);
        rig_await_free(r, "lock");
        rig_hold(r, lock, NULL, &b);
        rig_let_go(r, lock, b.req);
        require_status(rig_close(r, lock), 0);
    }
}

static void the_next_one_waits_on(rig *r)
{
    for (unsigned i = 0; i < WAYS_COUNT; i++) {
        answer a = {.count = 0}, b = {.count = 0};
        aflock *lock;
        int holder = wait_for_another(r, WAYS[i], AFLOCK_FOREVER, &lock, &a);
        require_status(rig_acquire(r, lock, NULL, &b), 0);
        require_status(rig_cancel(r, lock, a.req), 0);
        rig_await_status(r, &a, AFLOCK_ECANCELED);
        rig_pass(r, 2 * MS);
        require(b.count == 0);
        close(holder);
        rig_await_status(r, &b, 0);
        rig_let_go(r, lock, b.req);
        require_status(rig_close(r, lock), 0);
    }
}

static void freed_while_it_waits(rig *r)
{
    for (unsigned i = 0; i < WAYS_COUNT; i++) {
        answer a = {.count = 0};
        aflock *lock;
        int holder = wait_for_another(r, WAYS[i], AFLOCK_FOREVER, &lock, &a);
        require_status(rig_free(r, 5 * SEC), 0);
        require(a.count == 1 && a.result.status == AFLOCK_ECLOSED);
        close(holder);
        rig_await_free(r, "lock");
        require_status(rig_context(r, &r->ctx), 0);
    }
}

/* What was given up keeps no loop alive, wherever it still waits. */
static void a_cancelled_wait_keeps_nothing_alive(rig *r)
{
    for (unsigned i = 0; i < WAYS_COUNT; i++) {
        answer a = {.count = 0};
        aflock *lock;
        int holder = wait_for_another(r, WAYS[i], AFLOCK_FOREVER, &lock, &a);
        require_status(rig_cancel(r, lock, a.req), 0);
        rig_run_out(r);
        require(a.count == 1);
        close(holder);
        rig_await_free(r, "lock");
        require_status(rig_close(r, lock), 0);
    }
}

/* A request for a marker that somebody else has left; it hears of what becomes of it, and looks only if nobody tells.
 */
static void wait_at_marker(rig *r, pid_t pid, const char *host, aflock **lock, answer *a)
{
    char path[PATH_MAX];
    aflock_options options;
    aflock_options_init(&options);
    options.protocol = AFLOCK_SOFT;
    rig_path(r, "lock", path);
    FILE *marker = fopen(path, "we");
    require(marker != NULL);
    require(fprintf(marker, "%d\n%s\n", (int)pid, host) > 0);
    require(fclose(marker) == 0);
    require_status(aflock_open(lock, r->ctx, path, &options), 0);
    require_status(rig_acquire(r, *lock, NULL, a), 0);
    rig_pass(r, 5 * MS);
    require(a->count == 0);
}

static void must_get_marker(rig *r, aflock *lock, const answer *a)
{
    rig_await_status(r, a, 0);
    require(a->result.fd == -1);
    rig_let_go(r, lock, a->req);
    require(access(aflock_path(lock), F_OK) != 0);
    require_status(rig_close(r, lock), 0);
}

static void a_marker_that_goes(rig *r)
{
    answer a = {.count = 0};
    aflock *lock;
    wait_at_marker(r, 1, "elsewhere.example", &lock, &a);
    require(unlink(aflock_path(lock)) == 0);
    must_get_marker(r, lock, &a);
}

static void a_marker_whose_holder_dies(rig *r)
{
    char host[256] = "";
    answer a = {.count = 0};
    aflock *lock;
    pid_t pid = fork();
    require(pid >= 0 && gethostname(host, sizeof host - 1) == 0);
    while (pid == 0)
        pause();
    wait_at_marker(r, pid, host, &lock, &a);
    require(kill(pid, SIGKILL) == 0 && waitpid(pid, NULL, 0) == pid);
    must_get_marker(r, lock, &a);
}

/* Somebody's claim, in the folder that is listened to. */
static void a_claim_that_goes(rig *r)
{
    static const char TOKEN[] = "ffffffffffffffffffffffffffffffff";
    char path[PATH_MAX], claim[2 * PATH_MAX];
    answer a = {.count = 0};
    aflock *lock;
    aflock_options options;
    aflock_options_init(&options);
    options.protocol = AFLOCK_STRICT;
    rig_path(r, "lock", path);
    (void)snprintf(claim, sizeof claim, "%s.filelock", path);
    require(mkdir(claim, 0777) == 0);
    (void)snprintf(claim, sizeof claim, "%s.filelock/claims", path);
    require(mkdir(claim, 0777) == 0);
    (void)snprintf(claim, sizeof claim, "%s.filelock/claims/held-v1-%s.claim", path, TOKEN);
    FILE *file = fopen(claim, "we");
    require(file != NULL);
    require(fprintf(file, "filelock-strict-v1\n%s\n1\n6578\n\n", TOKEN) > 0);
    require(fclose(file) == 0);
    require_status(aflock_open(&lock, r->ctx, path, &options), 0);
    require_status(rig_acquire(r, lock, NULL, &a), 0);
    rig_pass(r, 5 * MS);
    require(a.count == 0);
    require(unlink(claim) == 0);
    rig_await_status(r, &a, 0);
    require(a.result.fd == -1);
    rig_let_go(r, lock, a.req);
    require_status(rig_close(r, lock), 0);
}

const conformance_case cases_waiting[] = {
    {"what_another_gives_up_is_got", what_another_gives_up_is_got, 0},
    {"a_wait_ends_in_time", a_wait_ends_in_time, 0},
    {"a_wait_is_cancelled", a_wait_is_cancelled, 0},
    {"the_next_one_waits_on", the_next_one_waits_on, 0},
    {"freed_while_it_waits", freed_while_it_waits, 0},
    {"a_marker_that_goes", a_marker_that_goes, 0},
    {"a_claim_that_goes", a_claim_that_goes, 0},
    {"a_marker_whose_holder_dies", a_marker_whose_holder_dies, HOST_FORKS},
    {"a_cancelled_wait_keeps_nothing_alive", a_cancelled_wait_keeps_nothing_alive, HOST_ENDS},
    {NULL, NULL, 0},
};
