/* Promise 9: no allocation on the steady path, and running out of memory is an error code that leaves the context
 * usable: the n-th allocation fails, for every n, over the script that uses every function and over one that makes the
 * tables grow. Every allocation of the library is seen, whether it goes through the hooks of the context or not. */
#include "faults/allocations.h"
#include "faults/script.h"
#include "support/fake_host.h"

#include <aflock/epoll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static fake_host h;

/* ------------------------------------------------------------------------------------------------ the steady path */

static unsigned left;

static void next_round(fake_answer *answer, aflock *lock)
{
    ck_assert_int_eq(answer->result.status, 0);
    ck_assert_int_eq(fake_release(lock, answer->result.req, NULL), 0);
    if (left == 0)
        return;
    left--;
    aflock_acquire_options o = fake_options(SEC);
    o.owner = answer;
    o.token = answer->user;
    ck_assert_int_eq(fake_acquire(lock, &o, answer, NULL), 0);
}

static void rounds(aflock_ctx *ctx, aflock *lock, fake_answer answers[4], unsigned count)
{
    left = count;
    for (int i = 0; i < 4; i++)
        ck_assert_int_eq(fake_acquire(lock, NULL, &answers[i], NULL), 0);
    ck_assert_int_eq(aflock_epoll_run(ctx), 0);
    ck_assert_uint_eq(left, 0);
}

static void steady(aflock_io io)
{
    static fake_answer answers[4];
    aflock_ctx *ctx;
    aflock *lock;
    aflock_token *token;
    aflock_options options;
    fake_touch(fake_path("f"));
    ck_assert_int_eq(aflock_epoll_new(&ctx, NULL), 0);
    aflock_options_init(&options);
    options.io = io;
    ck_assert_int_eq(aflock_open(&lock, ctx, fake_path("f"), &options), 0);
    ck_assert_int_eq(aflock_token_new(&token, ctx), 0);
    for (int i = 0; i < 4; i++)
        answers[i] = (fake_answer){.then = next_round, .user = token};
    rounds(ctx, lock, answers, 100);
    unsigned before = allocations_made();
    rounds(ctx, lock, answers, 500);
    unsigned after = allocations_made();
    ck_assert_uint_eq(after, before);
    if (io != AFLOCK_IO_POOL) {
        for (int i = 0; i < 100; i++) {
            aflock_req req;
            int status = aflock_try(lock, NULL, &req, NULL);
            if (status == 0)
                ck_assert_int_eq(aflock_release(lock, req, NULL, NULL), 0);
            else
                ck_assert_int_eq(status, AFLOCK_EWOULDBLOCK); /* the pause after a run */
        }
        after = allocations_made();
        ck_assert_uint_eq(after, before);
    }
    aflock_token_free(token);
    ck_assert_int_eq(aflock_ctx_free(ctx, 5 * SEC), 0);
}

START_TEST(no_allocation_inline)
{
    steady(AFLOCK_IO_INLINE);
}
END_TEST

START_TEST(no_allocation_auto)
{
    steady(AFLOCK_IO_AUTO);
}
END_TEST

START_TEST(no_allocation_on_the_pool)
{
    steady(AFLOCK_IO_POOL);
}
END_TEST

START_TEST(at_most_256_bytes_per_waiter)
{
    enum { COUNT = 4096 };
    static fake_answer answer;
    size_t total = 0;
    fake_start(&h, 4, false, NULL);
    aflock *lock = fake_open_lock(&h, "f", AFLOCK_IO_INLINE);
    fake_hold(&h, lock, &answer, NULL);
    answer = (fake_answer){.count = 0};
    for (int i = 0; i < COUNT; i++)
        ck_assert_int_eq(fake_acquire(lock, NULL, &answer, NULL), 0);
    total = h.ctx->slab_count * 64 * sizeof **h.ctx->slabs;
    ck_assert_uint_le(total, (size_t)(COUNT + 64) * 256);
    ck_assert_int_eq(fake_free(&h, 0), 0);
    ck_assert_uint_eq(answer.count, COUNT);
}
END_TEST

/* The context is freed while several jobs are at the executor: whoever comes last frees all of it. */
START_TEST(nothing_is_left_by_workers_that_outlive_the_context)
{
    static fake_answer answers[8];
    long before = allocations_alive();
    fake_start(&h, 4, false, NULL);
    for (int i = 0; i < 8; i++) {
        char name[8];
        snprintf(name, sizeof name, "f%d", i);
        ck_assert_int_eq(fake_acquire(fake_open_lock(&h, name, AFLOCK_IO_POOL), NULL, &answers[i], NULL), 0);
    }
    ck_assert_uint_gt(h.job_count, 0);
    ck_assert_int_eq(fake_free(&h, 0), 0);
    ck_assert_int_eq(allocations_alive(), before);
}
END_TEST

/* --------------------------------------------------------------------------------------- every allocation fails */

enum { REQUESTS = 70 };

static int accept_fd(int fd, void *user)
{
    (void)fd, (void)user;
    return 0;
}

static unsigned questions;

static void inspected(aflock *lock, const aflock_holder *holder, void *user)
{
    (void)lock, (void)user;
    ck_assert(holder->status == 0 || holder->status == AFLOCK_ENOMEM);
    questions++;
}

static bool went_wrong; /* something was answered with ENOMEM */

/* Was it done? Running out of memory is the only excuse. */
static bool done(int status)
{
    fake_require(status == 0 || status == AFLOCK_ENOMEM);
    went_wrong |= status != 0;
    return status == 0;
}

static aflock *try_open(const char *name, aflock_io io)
{
    aflock *lock;
    aflock_options options;
    aflock_options_init(&options);
    options.io = io;
    return done(aflock_open(&lock, h.ctx, fake_path(name), &options)) ? lock : NULL;
}

static void use(aflock *lock, aflock_token *token, int requests)
{
    static fake_answer answers[REQUESTS], verified;
    static char owners[REQUESTS];
    bool accepted[REQUESTS];
    if (!lock)
        return;
    for (int i = 0; i < requests; i++) {
        aflock_acquire_options o = fake_options(SEC);
        answers[i] = (fake_answer){.count = 0};
        o.mode = AFLOCK_SHARED;
        o.owner = &owners[i];
        if (i % 7 == 1)
            o.token = token;
        if (i % 7 == 2)
            o.on_acquired = accept_fd;
        accepted[i] = done(fake_acquire(lock, &o, &answers[i], NULL));
    }
    fake_work(&h);
    verified = (fake_answer){.count = 0};
    bool asked = false;
    for (int i = 0; i < requests; i++) {
        fake_require(answers[i].count == accepted[i]);
        if (!accepted[i] || !done(answers[i].result.status))
            continue;
        if (!asked)
            asked = done(aflock_verify(lock, answers[i].result.req, fake_answered, &verified));
    }
    unsigned before = questions;
    bool inspecting = done(aflock_inspect(lock, inspected, NULL));
    fake_work(&h);
    ck_assert_uint_eq(verified.count, asked);
    ck_assert_uint_eq(questions - before, inspecting);
    for (int i = 0; i < requests; i++)
        if (answers[i].count && answers[i].result.status == 0)
            fake_require(fake_release(lock, answers[i].result.req, NULL) == 0);
    fake_work(&h);
}

/* All that allocates, once or more. */
static void script(const aflock_ctx_options *options)
{
    char name[32];
    aflock_token *token = NULL;
    if (!fake_start(&h, 4, true, options)) {
        went_wrong = true;
        return;
    }
    h.no_threads = true;
    done(aflock_token_new(&token, h.ctx));
    use(try_open("dir/f", AFLOCK_IO_INLINE), token, REQUESTS); /* more than a slab of them */
    use(try_open("link/f", AFLOCK_IO_POOL), token, 8);
    use(try_open("g", AFLOCK_IO_AUTO), NULL, 4);
    for (int i = 0; i < 70; i++) {
        snprintf(name, sizeof name, "many%d", i);
        aflock *lock = try_open(name, AFLOCK_IO_INLINE);
        aflock_req req;
        if (lock && done(aflock_try(lock, NULL, &req, NULL)))
            fake_require(aflock_release(lock, req, NULL, NULL) == 0);
        if (i % 2 == 0)
            fake_require(aflock_close(lock) == 0);
    }
    allocations_fail(0); /* from here on there is memory again: the context has to be usable */
    fake_answer answer;
    aflock *lock = fake_open_lock(&h, "dir/f", AFLOCK_IO_INLINE);
    aflock_req req = fake_hold(&h, lock, &answer, NULL);
    ck_assert(!fake_is_free(fake_path("dir/f")));
    ck_assert_int_eq(fake_release(lock, req, NULL), 0);
    fake_work(&h);
    ck_assert(fake_is_free(fake_path("dir/f")));
    aflock_token_free(token);
    ck_assert_int_eq(fake_free(&h, SEC), 0);
}

static void fail_each(const aflock_ctx_options *options)
{
    ck_assert_int_eq(mkdir(fake_path("dir"), 0777), 0);
    ck_assert_int_eq(symlink("dir", fake_path("link")), 0);
    unsigned n = 1, tolerated = 0;
    for (bool failed = true; failed; n++) {
        long before = allocations_alive();
        unsigned descriptors = fake_descriptors();
        unsigned last = allocations_made() + n;
        went_wrong = false;
        allocations_fail(n);
        script(options);
        ck_assert_int_eq(allocations_alive(), before);
        ck_assert_uint_eq(fake_descriptors(), descriptors);
        failed = allocations_made() >= last; /* else it has fewer than n */
        tolerated += failed && !went_wrong;  /* a table that did not grow: slower, not wrong */
    }
    ck_assert(!went_wrong);
    ck_assert_uint_gt(n, 100);
    ck_assert_uint_lt(tolerated, n / 4);
    printf("figure: memory: %u allocations failed, one after the other\n", n - 2);
}

START_TEST(the_nth_allocation_fails)
{
    fail_each(NULL);
}
END_TEST

static void *hook_allocate(size_t size, void *user)
{
    ++*(long *)user;
    void *block = malloc(size);
    if (!block)
        --*(long *)user;
    return block;
}

static void *hook_reallocate(void *block, size_t size, void *user)
{
    (void)user;
    fake_require(block);
    return realloc(block, size);
}

static void hook_release(void *block, void *user)
{
    fake_require(block);
    --*(long *)user;
    free(block);
}

START_TEST(the_nth_allocation_fails_with_hooks)
{
    long hooked = 0;
    aflock_ctx_options options;
    aflock_ctx_options_init(&options);
    options.allocate = hook_allocate;
    options.reallocate = hook_reallocate;
    options.release = hook_release;
    options.allocate_user = &hooked;
    fail_each(&options);
    ck_assert_int_eq(hooked, 0);
}
END_TEST

/* ------------------------------------------------------------------------------------- over every public function */

static unsigned failed_in_play;

static void play_on(void)
{
    failed_in_play = allocations_failed();
    allocations_fail(0);
}

static bool explains(int status, int sys_errno, const char *step)
{
    (void)sys_errno, (void)step;
    return status == AFLOCK_ENOMEM && allocations_failed() > 0;
}

/* A file system whose kind could not be remembered is asked about on the executor each time. */
static bool excuses(int status)
{
    return status == AFLOCK_ENOTINLINE;
}

static bool met(void)
{
    return allocations_failed() > 0;
}

static void told(int error)
{
    fake_require(error <= 0);
}

static unsigned nth;

static void fail_nth(void)
{
    allocations_fail(nth);
}

static const script_trouble SHORTAGE = {fail_nth, play_on, explains, excuses, met, told, NULL};

static void play_short(const script_chapter *chapter, const script_protocol *protocol, aflock_io io)
{
    long before = allocations_alive();
    unsigned descriptors = fake_descriptors();
    snprintf(fake_context, sizeof fake_context, "(%s, %s, io %d, allocation %u)", chapter->name, protocol->name, io,
             nth);
    failed_in_play = 0;
    script_play(chapter, protocol, io, &SHORTAGE);
    fake_require(allocations_alive() == before);
    fake_require(fake_descriptors() == descriptors);
}

START_TEST(the_nth_allocation_fails_whatever_is_asked)
{
    unsigned failures = 0;
    for (size_t c = 0; c < script_chapter_count; c++)
        for (int p = 0; p < SCRIPT_PROTOCOLS; p++)
            for (int io = 0; io < SCRIPT_IOS && script_applies(&script_chapters[c], &script_protocols[p]); io++) {
                nth = 0;
                do {
                    nth++;
                    play_short(&script_chapters[c], &script_protocols[p], (aflock_io)io);
                    failures += failed_in_play;
                } while (failed_in_play);
            }
    ck_assert_uint_gt(failures, 500);
    printf("figure: memory: %u allocations failed over every public function\n", failures);
    fflush(stdout);
}
END_TEST

START_TEST(half_a_set_of_hooks_is_refused)
{
    aflock_ctx_options options;
    aflock_ctx_options_init(&options);
    options.allocate = hook_allocate;
    ck_assert_ptr_null(fake_start(&h, 4, false, &options));
    ck_assert_int_eq(h.closed, 0);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {no_allocation_inline,
                                  no_allocation_auto,
                                  no_allocation_on_the_pool,
                                  at_most_256_bytes_per_waiter,
                                  nothing_is_left_by_workers_that_outlive_the_context,
                                  the_nth_allocation_fails,
                                  the_nth_allocation_fails_with_hooks,
                                  the_nth_allocation_fails_whatever_is_asked,
                                  half_a_set_of_hooks_is_refused,
                                  NULL};
    return fake_main_each("runtime: memory", tests, 1, 400);
}
