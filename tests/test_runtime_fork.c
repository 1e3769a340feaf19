/* Promise 6: in a forked child every function answers EFORKED, and abandoning the context there disturbs nothing of
 * the parent's. */
#include "support/fake_host.h"

#include <aflock/epoll.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static fake_host h;
static fake_answer a, b, c;
static aflock *lock;
static aflock_req held;

/* Runs `body` in a child, whose failed assertions fail the test. */
static void in_child(void (*body)(void))
{
    int status;
    pid_t child = fork();
    ck_assert_int_ge(child, 0);
    if (child == 0) {
        body();
        _exit(0);
    }
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert(WIFEXITED(status));
    ck_assert_int_eq(WEXITSTATUS(status), 0);
}

static void inspected(aflock *l, const aflock_holder *holder, void *user)
{
    (void)l, (void)holder, (void)user;
    ck_abort();
}

static int dumped(const aflock_dump_entry *entry, void *user)
{
    (void)entry, (void)user;
    ck_abort();
    return 1;
}

static void drained(aflock_ctx *ctx, void *user)
{
    (void)ctx, (void)user;
    ck_abort();
}

static void every_function_says_so(void)
{
    aflock *other;
    aflock_req req;
    aflock_token *token;
    fake_answer never = {.count = 0};
    ck_assert_int_eq(aflock_open(&other, h.ctx, "f", NULL), AFLOCK_EFORKED);
    ck_assert_ptr_null(other);
    ck_assert_int_eq(aflock_open_fd(&other, h.ctx, 0, NULL), AFLOCK_EFORKED);
    ck_assert_int_eq(aflock_close(lock), AFLOCK_EFORKED);
    ck_assert_int_eq(aflock_set_poll_interval(lock, SEC), AFLOCK_EFORKED);
    ck_assert_int_eq(fake_acquire(lock, NULL, &never, &req), AFLOCK_EFORKED);
    ck_assert_int_eq(aflock_try(lock, NULL, &req, NULL), AFLOCK_EFORKED);
    ck_assert_int_eq(fake_cancel(lock, held), AFLOCK_EFORKED);
    ck_assert_int_eq(fake_release(lock, held, &never), AFLOCK_EFORKED);
    ck_assert_int_eq(aflock_release_all(lock, held, NULL, NULL), AFLOCK_EFORKED);
    ck_assert_int_eq(aflock_fd(lock, held), AFLOCK_EFORKED);
    ck_assert_int_eq(aflock_depth(lock, NULL), AFLOCK_EFORKED);
    ck_assert_int_eq(aflock_verify(lock, held, fake_answered, &never), AFLOCK_EFORKED);
    ck_assert_int_eq(aflock_inspect(lock, inspected, NULL), AFLOCK_EFORKED);
    ck_assert_int_eq(aflock_token_new(&token, h.ctx), AFLOCK_EFORKED);
    ck_assert_int_eq(aflock_dump(h.ctx, dumped, NULL), AFLOCK_EFORKED);
    ck_assert_int_eq(aflock_ctx_drain(h.ctx, drained, NULL), AFLOCK_EFORKED);
    ck_assert_int_eq(aflock_ctx_free(h.ctx, 0), AFLOCK_EFORKED);
    ck_assert_int_eq(aflock_host_check(h.ctx), AFLOCK_EFORKED);
    ck_assert_ptr_eq(aflock_host_loop(h.ctx), &h.loop);
    ck_assert_ptr_eq(aflock_context(lock), h.ctx);
    unsigned answers = a.count + b.count;
    aflock_host_timer(h.ctx);
    aflock_host_turn(h.ctx);
    ck_assert_uint_eq(a.count + b.count, answers);
    ck_assert_uint_eq(never.count, 0);
}

static void start_with_a_hold_and_a_waiter(void)
{
    fake_start(&h, 4, false, NULL);
    lock = fake_open_lock(&h, "f", AFLOCK_IO_INLINE);
    held = fake_hold(&h, lock, &a, NULL);
    ck_assert_int_eq(fake_acquire(lock, NULL, &b, NULL), 0);
}

static void check_and_free(void)
{
    ck_assert_int_eq(aflock_ctx_abandon(h.ctx), AFLOCK_EINVAL); /* we made it */
    ck_assert_int_ge(aflock_fd(lock, held), 0);
    ck_assert(!fake_is_free(fake_path("f")));
    ck_assert_int_eq(fake_release(lock, held, NULL), 0);
    fake_work(&h);
    ck_answered(b, 0);
    ck_assert_int_eq(fake_free(&h, 0), 0);
    ck_assert(fake_is_free(fake_path("f")));
}

static void every_function_and_a_grandchild(void)
{
    every_function_says_so();
    in_child(every_function_says_so);
}

START_TEST(every_function_answers_EFORKED)
{
    start_with_a_hold_and_a_waiter();
    ck_assert_ptr_nonnull(h.ctx->gate->guard);
    in_child(every_function_and_a_grandchild);
    check_and_free();
}
END_TEST

START_TEST(without_a_page_that_forks_wipe_the_process_id_tells)
{
    start_with_a_hold_and_a_waiter();
    afl_gate *g = h.ctx->gate;
    g->sys->guard_unmap(g->guard);
    g->guard = NULL;
    in_child(every_function_says_so);
    check_and_free();
}
END_TEST

/* ------------------------------------------------------------------------------------------------------- abandoning */

static size_t blocks;

static void *count_allocate(size_t size, void *user)
{
    (void)user;
    blocks++;
    return malloc(size);
}

static void *count_reallocate(void *block, size_t size, void *user)
{
    (void)user;
    return realloc(block, size);
}

static void count_release(void *block, void *user)
{
    (void)user;
    ck_assert_ptr_nonnull(block);
    blocks--;
    free(block);
}

static int unmapped; /* guard pages: it goes with the gate, which tokens keep */

static void count_unmap(uint32_t *guard)
{
    unmapped++;
    afl_sys_linux.guard_unmap(guard);
}

static aflock_token *token;
static int notified; /* a descriptor of the parent's that the child closes */

static void abandon(void)
{
    unsigned dels = h.dels, timers = h.timer_calls;
    afl_sys counting = *h.ctx->gate->sys;
    counting.guard_unmap = count_unmap;
    h.ctx->gate->sys = &counting;
    ck_assert_int_eq(aflock_ctx_abandon(NULL), AFLOCK_EINVAL);
    seam_forget();
    unsigned wakes = atomic_load(&h.wakes);
    aflock_token_fire(token);
    ck_assert_uint_eq(atomic_load(&h.wakes), wakes);
    ck_assert_int_eq(aflock_ctx_abandon(h.ctx), 0);
    ck_assert_uint_eq(h.dels, dels);
    ck_assert_uint_eq(h.timer_calls, timers);
    ck_assert_int_eq(h.closed_forked, 1);
    ck_assert_int_eq(h.closed, 1);
    ck_assert_int_eq(h.notifier_closed, 1);
    ck_assert_int_eq(h.executor_closed, 1);
    ck_assert_int_eq(seam_count(SEAM_UNLOCK), 0);
    ck_assert_int_ge(seam_count(SEAM_CLOSE), 2);
    ck_assert_int_lt(fcntl(notified, F_GETFD), 0); /* the child has let go of it */
    ck_assert_uint_eq(blocks, 0);
    ck_assert_uint_eq(c.count + b.count, 0);
    ck_assert_int_eq(unmapped, 0);
    aflock_token_free(token);
    ck_assert_int_eq(unmapped, 1);
}

/* A hold with wishes, a waiter with a token and a watch, a job that is out, a question that is out. */
START_TEST(abandoning_only_closes_and_frees)
{
    aflock_ctx_options options;
    aflock_ctx_options_init(&options);
    options.allocate = count_allocate;
    options.reallocate = count_reallocate;
    options.release = count_release;
    int foreign = fake_foreign(fake_path("foreign"));
    fake_start(&h, 4, true, &options);
    lock = fake_open_lock(&h, "f", AFLOCK_IO_INLINE);
    aflock *waits = fake_open_lock(&h, "foreign", AFLOCK_IO_INLINE), *pool = fake_open_lock(&h, "p", AFLOCK_IO_POOL);
    aflock_acquire_options o = fake_options(AFLOCK_FOREVER);
    o.file_mode = 0600;
    held = fake_hold(&h, lock, &a, &o);
    ck_assert_int_eq(aflock_token_new(&token, h.ctx), 0);
    o = fake_options(SEC);
    o.token = token;
    o.owner = &h;
    ck_assert_int_eq(fake_acquire(waits, &o, &b, NULL), 0);
    ck_assert_uint_eq(h.listening_count, 1);
    notified = h.listening[0]->fd;
    ck_assert_int_eq(fake_acquire(pool, NULL, &c, NULL), 0);
    ck_assert_int_eq(aflock_verify(lock, held, fake_answered, &c), 0);
    in_child(abandon);

    ck_assert_int_ge(fcntl(notified, F_GETFD), 0);
    ck_assert(!fake_is_free(fake_path("f"))); /* the child has not unlocked it */
    ck_assert_uint_eq(h.listening_count, 1);
    close(foreign);
    aflock_host_changed(h.ctx, h.listening[0], AFLOCK_ON_FILE, NULL);
    fake_settle(&h);
    ck_answered(b, 0);
    fake_work(&h);
    ck_assert_uint_eq(c.count, 2);
    aflock_token_free(token);
    ck_assert_int_eq(fake_free(&h, 0), 1);
    ck_assert_uint_eq(blocks, 0);
}
END_TEST

/* ------------------------------------------------------------------------------------------ with a real loop and pool
 */

static aflock_ctx *real;

static void abandon_real(void)
{
    ck_assert_int_eq(aflock_epoll_run_once(real, 0), AFLOCK_EFORKED);
    ck_assert_int_eq(aflock_ctx_abandon(real), 0);
    aflock_ctx *own; /* the child makes one of its own */
    aflock *mine;
    fake_answer answer = {.count = 0};
    ck_assert_int_eq(aflock_epoll_new(&own, NULL), 0);
    ck_assert_int_eq(aflock_open(&mine, own, fake_path("child"), NULL), 0);
    ck_assert_int_eq(fake_acquire(mine, NULL, &answer, NULL), 0);
    while (answer.count == 0)
        ck_assert_int_eq(aflock_epoll_run_once(own, SEC), 0);
    ck_answered(answer, 0);
    ck_assert_int_eq(aflock_ctx_free(own, 5 * SEC), 0);
}

START_TEST(a_child_leaves_the_parents_lock_timer_and_pool_alone)
{
    aflock *waits;
    int foreign = fake_foreign(fake_path("foreign"));
    ck_assert_int_eq(aflock_epoll_new(&real, NULL), 0);
    ck_assert_int_eq(aflock_open(&lock, real, fake_path("f"), NULL), 0);
    ck_assert_int_eq(aflock_open(&waits, real, fake_path("foreign"), NULL), 0);
    ck_assert_int_eq(fake_acquire(lock, NULL, &a, &held), 0);
    while (a.count == 0)
        ck_assert_int_eq(aflock_epoll_run_once(real, SEC), 0);
    aflock_acquire_options o = fake_options(50 * MS);
    ck_assert_int_eq(fake_acquire(waits, &o, &b, NULL), 0);
    in_child(abandon_real);
    ck_assert(!fake_is_free(fake_path("f")));
    while (b.count == 0) /* the timer still comes */
        ck_assert_int_eq(aflock_epoll_run_once(real, AFLOCK_FOREVER), 0);
    ck_answered(b, AFLOCK_ETIMEDOUT);
    close(foreign);
    ck_assert_int_eq(aflock_ctx_free(real, 5 * SEC), 0);
    ck_assert(fake_is_free(fake_path("f")));
}
END_TEST

/* Release is unlock, then close: a child that inherited the descriptor does not keep the lock. */
static int go[2];

static void keep_descriptor(void)
{
    char byte;
    close(go[1]);
    ck_assert_int_eq(read(go[0], &byte, 1), 0); /* until the parent is through */
}

START_TEST(a_release_frees_the_file_although_a_child_has_the_descriptor)
{
    int status;
    fake_start(&h, 4, false, NULL);
    lock = fake_open_lock(&h, "f", AFLOCK_IO_INLINE);
    held = fake_hold(&h, lock, &a, NULL);
    ck_assert_int_eq(pipe(go), 0);
    pid_t child = fork();
    ck_assert_int_ge(child, 0);
    if (child == 0) {
        keep_descriptor();
        _exit(0);
    }
    ck_assert_int_eq(fake_release(lock, held, NULL), 0);
    ck_assert(fake_is_free(fake_path("f")));
    ck_assert_int_eq(seam_count(SEAM_UNLOCK), 1);
    close(go[0]);
    close(go[1]);
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert_int_eq(fake_free(&h, 0), 0);
}
END_TEST

static pid_t forked;

static void fork_now(fake_answer *answer, aflock *l)
{
    (void)answer, (void)l;
    forked = fork();
}

/* The callback returns twice; the child must not go on with the parent's turn, nor give up what the parent holds. */
START_TEST(a_callback_that_forks)
{
    int status;
    fake_start(&h, 4, false, NULL);
    lock = fake_open_lock(&h, "f", AFLOCK_IO_INLINE);
    aflock_acquire_options o = fake_options(AFLOCK_FOREVER);
    o.mode = AFLOCK_SHARED;
    a.then = fork_now;
    ck_assert_int_eq(fake_acquire(lock, &o, &a, &held), 0);
    ck_assert_int_eq(fake_acquire(lock, &o, &b, NULL), 0);
    fake_turn(&h);
    ck_assert_int_ge(forked, 0);
    if (forked == 0) {
        ck_assert_uint_eq(b.count, 0);
        ck_assert_int_eq(aflock_release(lock, held, NULL, NULL), AFLOCK_EFORKED);
        ck_assert_int_eq(aflock_ctx_abandon(h.ctx), 0);
        _exit(0);
    }
    ck_assert_int_eq(waitpid(forked, &status, 0), forked);
    ck_assert(WIFEXITED(status));
    ck_assert_int_eq(WEXITSTATUS(status), 0);
    ck_answered(b, 0);
    ck_assert(!fake_is_free(fake_path("f")));
    ck_assert_int_eq(fake_free(&h, 0), 0);
}
END_TEST

/* The same while the context is being freed. */
START_TEST(a_callback_that_forks_in_the_end)
{
    int status;
    fake_start(&h, 4, false, NULL);
    aflock *kept = fake_open_lock(&h, "kept", AFLOCK_IO_INLINE);
    fake_hold(&h, kept, &c, NULL);
    lock = fake_open_lock(&h, "f", AFLOCK_IO_POOL);
    a.then = fork_now;
    ck_assert_int_eq(fake_acquire(lock, NULL, &a, NULL), 0);
    h.turning = true;
    int freed = aflock_ctx_free(h.ctx, 0);
    ck_assert_int_ge(forked, 0);
    if (forked == 0) {
        ck_assert_int_eq(freed, AFLOCK_EFORKED);
        ck_assert_int_eq(aflock_ctx_abandon(h.ctx), 0);
        _exit(0);
    }
    ck_assert_int_eq(waitpid(forked, &status, 0), forked);
    ck_assert(WIFEXITED(status));
    ck_assert_int_eq(WEXITSTATUS(status), 0);
    ck_assert_int_eq(freed, 0);
    ck_answered(a, AFLOCK_ECLOSED);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {every_function_answers_EFORKED,
                                  without_a_page_that_forks_wipe_the_process_id_tells,
                                  abandoning_only_closes_and_frees,
                                  a_child_leaves_the_parents_lock_timer_and_pool_alone,
                                  a_release_frees_the_file_although_a_child_has_the_descriptor,
                                  a_callback_that_forks,
                                  a_callback_that_forks_in_the_end,
                                  NULL};
    return fake_main("runtime: fork", tests);
}
