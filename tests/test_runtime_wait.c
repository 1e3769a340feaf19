/* How a path is waited for, to the nanosecond: which changes are followed up and when, what is polled how often, and
 * what becomes of waits whose changes cannot be heard. The notifier is the scripted one. */
#include "support/fake_host.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

enum { AT_ONCE = 64, RUNGS = 5 };
static const uint64_t POLL = 50 * MS, DEAF = 10 * SEC;

static fake_host h;
static fake_answer a, b;
static aflock_notify *listening; /* the latest */

/* ------------------------------------------------------------------------------------------------------- helpers */

static unsigned warnings;
static char message[256];

static void on_log(aflock_log_level level, const char *text, void *user)
{
    (void)user;
    ck_assert_int_eq(level, AFLOCK_LOG_WARN);
    strncpy(message, text, sizeof message - 1);
    warnings++;
}

static void start(bool notifier)
{
    aflock_ctx_options o;
    aflock_ctx_options_init(&o);
    o.log = on_log;
    ck_assert_ptr_nonnull(fake_start(&h, 4, notifier, &o));
}

static aflock_options lock_options(aflock_wait wait, uint64_t poll)
{
    aflock_options o;
    aflock_options_init(&o);
    o.io = AFLOCK_IO_INLINE;
    o.wait = wait;
    o.poll_interval = poll;
    return o;
}

static aflock *open_with(const char *name, const aflock_options *o)
{
    aflock *lock;
    ck_assert_int_eq(aflock_open(&lock, h.ctx, fake_path(name), o), 0);
    return lock;
}

static aflock *open_lock(const char *name, aflock_wait wait, uint64_t poll)
{
    aflock_options o = lock_options(wait, poll);
    return open_with(name, &o);
}

/* The context takes the file system for one that it does not know. */
static void be_on_an_unknown_file_system(void)
{
    seam_fail(SEAM_READ, 0, 1000, EIO);
}

static int tries(void)
{
    return seam_count(SEAM_LOCK);
}

/* Asks for what somebody else holds, until that is known. */
static aflock_req wait_for(aflock *lock, fake_answer *answer)
{
    aflock_req req;
    *answer = (fake_answer){.count = 0};
    ck_assert_int_eq(fake_acquire(lock, NULL, answer, &req), 0);
    fake_work(&h);
    ck_assert_uint_eq(answer->count, 0);
    listening = h.listening_count ? h.listening[h.listening_count - 1] : NULL;
    return req;
}

static void change(aflock_notify *n, unsigned what)
{
    aflock_host_changed(h.ctx, n, what, NULL);
    fake_settle(&h);
}

/* So many changes now: how many of them lead to a try now. */
static int changes(int count)
{
    int before = tries();
    for (int i = 0; i < count; i++)
        change(listening, AFLOCK_ON_FILE);
    return tries() - before;
}

/* How many tries there are in that time. */
static int tries_in(uint64_t time)
{
    int before = tries();
    fake_advance(&h, time);
    return tries() - before;
}

/* The time until the next try, which it makes happen. */
static uint64_t next_try(void)
{
    uint64_t began = h.now;
    for (int before = tries(); tries() == before;) {
        ck_assert(h.timer != AFLOCK_FOREVER);
        fake_advance(&h, h.timer > h.now ? h.timer - h.now : 0);
    }
    return h.now - began;
}

static void end_all(void)
{
    ck_assert_int_eq(fake_free(&h, 0), 0);
}

static void check_mode(const aflock *lock, aflock_wait expected, const char *part_of_reason)
{
    const char *reason = NULL;
    ck_assert_int_eq(aflock_wait_mode(lock, &reason), (int)expected);
    ck_assert_int_eq(aflock_wait_mode(lock, NULL), (int)expected);
    ck_assert_ptr_nonnull(reason);
    ck_assert_msg(strstr(reason, part_of_reason) != NULL, "%s", reason);
}

/* ------------------------------------------------------------------------------------------------- changes, followed
 * up
 */

START_TEST(so_many_changes_are_followed_up)
{
    start(true);
    int foreign = fake_foreign(fake_path("f"));
    wait_for(open_lock("f", AFLOCK_WAIT_NOTIFY, AFLOCK_FOREVER), &a);
    ck_assert_int_eq(changes(AT_ONCE), AT_ONCE);
    ck_assert_int_eq(changes(100), 0);
    ck_assert_int_eq(tries_in(MS - 1), 0);
    ck_assert_int_eq(tries_in(1), 1);       /* one for all that were put off, */
    ck_assert_int_eq(tries_in(10 * MS), 1); /* and one for what comes before the unlock */

    ck_assert_int_eq(changes(100), 10); /* one was earned in each millisecond, */
    ck_assert_int_eq(tries_in(MS), 1);
    ck_assert_int_eq(tries_in(20 * MS + MS / 2), 1);
    ck_assert_int_eq(changes(100), 20); /* ... and half of one, */
    ck_assert_int_eq(tries_in(MS / 2 - 1), 0);
    ck_assert_int_eq(tries_in(1), 1); /* ... which counts */

    int before = tries();
    for (int i = 0; i < 100; i++) {
        changes(7);
        fake_advance(&h, MS / 10);
    }
    ck_assert_int_eq(tries() - before, 10);
    ck_assert_int_eq(tries_in(200 * MS), 1);
    ck_assert_int_eq(changes(1000), AT_ONCE); /* no more than that, after whatever time */
    end_all();
    close(foreign);
}
END_TEST

START_TEST(a_change_that_was_worth_while_costs_nothing)
{
    start(true);
    int foreign = fake_foreign(fake_path("f"));
    aflock *lock = open_lock("f", AFLOCK_WAIT_NOTIFY, AFLOCK_FOREVER);
    wait_for(lock, &a);
    ck_assert_int_eq(changes(100), AT_ONCE);
    close(foreign);
    fake_advance(&h, MS);
    ck_answered(a, 0);
    ck_assert_int_eq(fake_release(lock, a.result.req, NULL), 0);
    fake_work(&h);
    foreign = fake_foreign(fake_path("f"));
    wait_for(lock, &a);
    ck_assert_int_eq(changes(100), AT_ONCE);
    end_all();
    close(foreign);
}
END_TEST

/* Each path has its own. */
START_TEST(a_busy_path_costs_the_others_nothing)
{
    start(true);
    int one = fake_foreign(fake_path("f")), two = fake_foreign(fake_path("g"));
    wait_for(open_lock("f", AFLOCK_WAIT_NOTIFY, AFLOCK_FOREVER), &a);
    ck_assert_int_eq(changes(100), AT_ONCE);
    wait_for(open_lock("g", AFLOCK_WAIT_NOTIFY, AFLOCK_FOREVER), &b);
    ck_assert_int_eq(changes(100), AT_ONCE);
    ck_assert_int_eq(tries_in(MS), 2);
    end_all();
    close(one);
    close(two);
}
END_TEST

/* The change can be told before the lock is free, so there are more tries soon after it; */
START_TEST(more_tries_follow_a_change)
{
    static const uint64_t rungs[RUNGS] = {20 * US, 50 * US, 100 * US, 500 * US, 2 * MS};
    start(true);
    int foreign = fake_foreign(fake_path("f"));
    wait_for(open_lock("f", AFLOCK_WAIT_NOTIFY, AFLOCK_FOREVER), &a);
    for (int i = 0; i < 3; i++) {
        ck_assert_int_eq(changes(1), 1);
        for (int rung = 0; rung < RUNGS; rung++)
            ck_assert_uint_eq(next_try(), rungs[rung]);
        ck_assert_uint_eq(h.timer, AFLOCK_FOREVER);
    }
    ck_assert_int_eq(changes(1), 1);
    ck_assert_uint_eq(next_try(), rungs[0]);
    ck_assert_int_eq(changes(1), 1); /* begins anew */
    ck_assert_uint_eq(next_try(), rungs[0]);
    end_all();
    close(foreign);
}
END_TEST

/* ... but not after so many changes. */
START_TEST(fewer_tries_follow_one_of_many)
{
    start(true);
    int foreign = fake_foreign(fake_path("f"));
    wait_for(open_lock("f", AFLOCK_WAIT_NOTIFY, AFLOCK_FOREVER), &a);
    ck_assert_int_eq(changes(AT_ONCE / 2), AT_ONCE / 2);
    ck_assert_uint_eq(h.timer, h.now + 20 * US);
    ck_assert_int_eq(changes(1), 1);
    ck_assert_int_eq(tries_in(MS), 0);
    ck_assert_int_eq(changes(1), 1); /* as many are left as before */
    ck_assert_int_eq(tries_in(2 * MS - 1), 0);
    ck_assert_int_eq(tries_in(1), 1); /* only the last of those that follow a change */
    ck_assert_int_eq(changes(1), 1);  /* more are left */
    ck_assert_int_eq(tries_in(20 * US), 1);
    end_all();
    close(foreign);
}
END_TEST

/* ------------------------------------------------------------------------------------------- put off, and then nobody
 */

enum { PLACES = 3 };
static const char *const names[PLACES] = {"f", "g", "h"};
static aflock *locks[PLACES];
static aflock_req reqs[PLACES];
static aflock_notify *heard[PLACES];
static fake_answer answers[PLACES];
static int foreigners[PLACES];

static void put_off_all(void)
{
    start(true);
    for (int i = 0; i < PLACES; i++) {
        foreigners[i] = fake_foreign(fake_path(names[i]));
        locks[i] = open_lock(names[i], AFLOCK_WAIT_NOTIFY, AFLOCK_FOREVER);
        reqs[i] = wait_for(locks[i], &answers[i]);
        heard[i] = listening;
        ck_assert_int_eq(changes(100), AT_ONCE);
    }
}

/* Each one goes, and comes back last; what was put off for the others is not forgotten, nor is what comes for them
 * later. */
START_TEST(who_goes_takes_only_his_own_along)
{
    for (int gone = 0; gone < PLACES; gone++) {
        put_off_all();
        ck_assert_int_eq(fake_cancel(locks[gone], reqs[gone]), 0);
        fake_settle(&h);
        ck_answered(answers[gone], AFLOCK_ECANCELED);
        ck_assert_int_eq(aflock_close(locks[gone]), 0);
        fake_settle(&h);
        wait_for(open_lock(names[gone], AFLOCK_WAIT_NOTIFY, AFLOCK_FOREVER), &answers[gone]);
        heard[gone] = listening;
        ck_assert_int_eq(changes(100), AT_ONCE);
        for (int i = 0; i < 3; i++) {
            ck_assert_int_eq(tries_in(MS), PLACES);
            for (int j = 0; j < PLACES; j++)
                change(heard[j], AFLOCK_ON_FILE);
        }
        end_all();
        for (int i = 0; i < PLACES; i++)
            close(foreigners[i]);
    }
}
END_TEST

START_TEST(all_go)
{
    put_off_all();
    for (int i = PLACES - 1; i >= 0; i--) {
        ck_assert_int_eq(fake_cancel(locks[i], reqs[i]), 0);
        fake_settle(&h);
        ck_assert_int_eq(aflock_close(locks[i]), 0);
        fake_settle(&h);
    }
    ck_assert_ptr_null(h.ctx->places);
    ck_assert_int_eq(tries_in(SEC), 0);
    locks[0] = open_lock("f", AFLOCK_WAIT_NOTIFY, AFLOCK_FOREVER);
    wait_for(locks[0], &a);
    ck_assert_int_eq(changes(100), AT_ONCE); /* it is another one */
    ck_assert_int_eq(tries_in(MS), 1);
    end_all();
    for (int i = 0; i < PLACES; i++)
        close(foreigners[i]);
}
END_TEST

START_TEST(the_context_goes)
{
    put_off_all();
    end_all();
    for (int i = 0; i < PLACES; i++) {
        ck_answered(answers[i], AFLOCK_ECLOSED);
        close(foreigners[i]);
    }
}
END_TEST

/* The wait is over, the lock stays open: nothing is tried for nobody. */
START_TEST(nobody_waits_any_more)
{
    put_off_all();
    for (int i = 0; i < PLACES; i++)
        ck_assert_int_eq(fake_cancel(locks[i], reqs[i]), 0);
    fake_settle(&h);
    ck_assert_uint_eq(h.listening_count, 0);
    ck_assert_int_eq(tries_in(SEC), 0);
    end_all();
    for (int i = 0; i < PLACES; i++)
        close(foreigners[i]);
}
END_TEST

/* -------------------------------------------------------------------------------------------------------------- polls
 */

/* Who asks at the same time as others does not do so again. */
START_TEST(polls_of_a_server_are_spread)
{
    uint64_t shortest = AFLOCK_FOREVER, longest = 0, last = 0;
    int same = 0;
    be_on_an_unknown_file_system();
    start(true);
    int foreign = fake_foreign(fake_path("f"));
    wait_for(open_lock("f", AFLOCK_WAIT_POLL, 10 * MS), &a);
    for (int i = 0; i < 150; i++) {
        uint64_t interval = next_try();
        ck_assert_uint_ge(interval, 7500 * US);
        ck_assert_uint_le(interval, 12500 * US);
        shortest = interval < shortest ? interval : shortest;
        longest = interval > longest ? interval : longest;
        same += interval == last;
        last = interval;
    }
    ck_assert_uint_lt(shortest, 8 * MS);
    ck_assert_uint_gt(longest, 12 * MS);
    ck_assert_int_lt(same, 10);
    end_all();
    close(foreign);
}
END_TEST

START_TEST(polls_of_a_server_become_rarer)
{
    be_on_an_unknown_file_system();
    start(true);
    int foreign = fake_foreign(fake_path("f"));
    wait_for(open_lock("f", AFLOCK_WAIT_AUTO, POLL), &a);
    for (uint64_t began = h.now, waited = 0; waited < 20 * SEC; waited = h.now - began) {
        uint64_t times = waited < 2 * SEC ? 1 : waited < 10 * SEC ? 2 : 4, interval = next_try();
        ck_assert_uint_ge(interval, POLL * times * 3 / 4);
        ck_assert_uint_le(interval, POLL * times * 5 / 4);
    }
    ck_assert_uint_eq(h.adds, 0);
    end_all();
    close(foreign);
}
END_TEST

START_TEST(the_next_one_to_wait_starts_anew)
{
    be_on_an_unknown_file_system();
    start(true);
    int foreign = fake_foreign(fake_path("f"));
    aflock *lock = open_lock("f", AFLOCK_WAIT_AUTO, POLL);
    aflock_req first = wait_for(lock, &a);
    fake_advance(&h, 15 * SEC);
    next_try();
    ck_assert_uint_ge(next_try(), 3 * POLL);
    wait_for(lock, &b);
    ck_assert_int_eq(fake_cancel(lock, first), 0);
    fake_settle(&h);
    ck_assert_uint_le(next_try(), POLL * 5 / 4);
    end_all();
    close(foreign);
}
END_TEST

/* A local file system is asked as often as was asked for, also by those who listen as well. */
START_TEST(local_polls_are_regular)
{
    static const aflock_wait waits[] = {AFLOCK_WAIT_AUTO, AFLOCK_WAIT_NOTIFY, AFLOCK_WAIT_POLL};
    for (int i = 0; i < 3; i++) {
        start(true);
        int foreign = fake_foreign(fake_path("f"));
        wait_for(open_lock("f", waits[i], POLL), &a);
        for (uint64_t began = h.now; h.now < began + 12 * SEC;)
            ck_assert_uint_eq(next_try(), POLL);
        end_all();
        close(foreign);
    }
}
END_TEST

START_TEST(for_ever_arms_no_timer)
{
    static const aflock_wait waits[] = {AFLOCK_WAIT_AUTO, AFLOCK_WAIT_NOTIFY, AFLOCK_WAIT_POLL};
    for (int i = 0; i < 6; i++) {
        seam_reset();
        if (i >= 3)
            be_on_an_unknown_file_system();
        start(true);
        int foreign = fake_foreign(fake_path("f"));
        wait_for(open_lock("f", waits[i % 3], AFLOCK_FOREVER), &a);
        ck_assert_uint_eq(h.timer, AFLOCK_FOREVER);
        ck_assert_int_eq(tries_in(100 * SEC), 0);
        ck_assert_uint_eq(h.timer, AFLOCK_FOREVER);
        end_all();
        close(foreign);
    }
}
END_TEST

/* ----------------------------------------------------------------------------------------------------------- the
 * choice
 */

START_TEST(who_listens)
{
    static const struct {
        aflock_wait wait;
        bool known, listens;
    } cases[] = {
        {AFLOCK_WAIT_AUTO, true, true},    {AFLOCK_WAIT_AUTO, false, false}, {AFLOCK_WAIT_NOTIFY, true, true},
        {AFLOCK_WAIT_NOTIFY, false, true}, {AFLOCK_WAIT_POLL, true, false},  {AFLOCK_WAIT_POLL, false, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        seam_reset();
        if (!cases[i].known)
            be_on_an_unknown_file_system();
        start(true);
        int foreign = fake_foreign(fake_path("f"));
        wait_for(open_lock("f", cases[i].wait, POLL), &a);
        ck_assert_uint_eq(h.adds, cases[i].listens);
        fake_advance(&h, 20 * SEC);
        ck_assert_uint_eq(h.adds, cases[i].listens);
        end_all();
        ck_assert_uint_eq(h.dels, cases[i].listens);
        close(foreign);
    }
}
END_TEST

START_TEST(the_mode_and_its_reason)
{
    start(false);
    check_mode(open_lock("f", AFLOCK_WAIT_AUTO, POLL), AFLOCK_WAIT_POLL, "the loop cannot listen");
    check_mode(open_lock("f", AFLOCK_WAIT_NOTIFY, POLL), AFLOCK_WAIT_POLL, "the loop cannot listen");
    end_all();

    for (int known = 0; known < 2; known++) {
        seam_reset();
        if (!known)
            be_on_an_unknown_file_system();
        start(true);
        aflock *choosing = open_lock("f", AFLOCK_WAIT_AUTO, POLL);
        aflock *listener = open_lock("f", AFLOCK_WAIT_NOTIFY, POLL), *poller = open_lock("f", AFLOCK_WAIT_POLL, POLL);
        check_mode(choosing, AFLOCK_WAIT_AUTO, "not known yet");
        for (int i = 0; i < 2; i++) {
            check_mode(listener, AFLOCK_WAIT_NOTIFY, "asked for");
            check_mode(poller, AFLOCK_WAIT_POLL, "asked for");
            fake_hold(&h, i ? listener : choosing, &a, NULL);
            ck_assert_int_eq(fake_release(i ? listener : choosing, a.result.req, NULL), 0);
            fake_work(&h);
            if (known)
                check_mode(choosing, AFLOCK_WAIT_NOTIFY, "a local file system");
            else
                check_mode(choosing, AFLOCK_WAIT_POLL, "network or unknown");
        }
        end_all();
    }
}
END_TEST

static void *ask_elsewhere(void *lock)
{
    ck_assert_int_eq(aflock_wait_mode(lock, NULL), AFLOCK_ETHREAD);
    return NULL;
}

START_TEST(wrong_arguments)
{
    pthread_t thread;
    aflock *lock;
    start(true);
    ck_assert_int_eq(aflock_wait_mode(NULL, NULL), AFLOCK_EINVAL);
    aflock_options o = lock_options((aflock_wait)4, POLL);
    ck_assert_int_eq(aflock_open(&lock, h.ctx, fake_path("f"), &o), AFLOCK_EINVAL);
    o.wait = (aflock_wait)-1;
    ck_assert_int_eq(aflock_open(&lock, h.ctx, fake_path("f"), &o), AFLOCK_EINVAL);
    o.size = offsetof(aflock_options, wait); /* an older header has no such field */
    ck_assert_int_eq(aflock_open(&lock, h.ctx, fake_path("f"), &o), 0);
    check_mode(lock, AFLOCK_WAIT_AUTO, "");
    ck_assert_int_eq(pthread_create(&thread, NULL, ask_elsewhere, lock), 0);
    fake_join(thread);
    end_all();
}
END_TEST

/* Of a caller's descriptor nothing is kept between attempts that could be listened to. */
START_TEST(a_callers_descriptor_is_polled)
{
    start(true);
    int foreign = fake_foreign(fake_path("f")), fd = open(fake_path("f"), O_RDWR | O_CLOEXEC);
    aflock *lock;
    aflock_options o = lock_options(AFLOCK_WAIT_NOTIFY, POLL);
    ck_assert_int_eq(aflock_open_fd(&lock, h.ctx, fd, &o), 0);
    wait_for(lock, &a);
    ck_assert_uint_eq(h.adds, 0);
    check_mode(lock, AFLOCK_WAIT_POLL, "descriptor of the caller's");
    close(foreign);
    fake_advance(&h, POLL);
    ck_answered(a, 0);
    ck_assert_int_eq(fake_release(lock, a.result.req, NULL), 0);
    end_all();
    close(fd);
}
END_TEST

/* Two locks of one path: what the first one listens to is not for the second one, which polls. */
START_TEST(the_head_decides)
{
    start(true);
    int foreign = fake_foreign(fake_path("f"));
    aflock *listener = open_lock("f", AFLOCK_WAIT_NOTIFY, AFLOCK_FOREVER),
           *poller = open_lock("f", AFLOCK_WAIT_POLL, POLL);
    aflock_req first = wait_for(listener, &a);
    wait_for(poller, &b);
    ck_assert_int_eq(changes(1), 1);
    ck_assert_int_eq(tries_in(POLL), RUNGS);
    ck_assert_int_eq(fake_cancel(listener, first), 0);
    fake_settle(&h);
    for (int i = 0; i < 5 && h.listening_count; i++)
        ck_assert_int_eq(changes(10), 0);
    ck_assert_uint_eq(next_try(), POLL);
    ck_assert_uint_eq(next_try(), POLL);
    wait_for(listener, &a);
    close(foreign);
    ck_assert_uint_eq(next_try(), POLL);
    ck_answered(b, 0);
    ck_assert_int_eq(fake_release(poller, b.result.req, NULL), 0);
    fake_work(&h);
    ck_answered(a, 0);
    ck_assert_int_eq(fake_release(listener, a.result.req, NULL), 0);
    end_all();
}
END_TEST

/* --------------------------------------------------------------------------------------------------------- not heard
 */

/* Polls for a while, and listens when there is contention after that. */
static void be_deaf(aflock *lock)
{
    unsigned adds = h.adds;
    ck_assert_uint_eq(h.listening_count, 0);
    check_mode(lock, AFLOCK_WAIT_POLL, "/proc/sys/fs/inotify");
    for (uint64_t began = h.now; h.now < began + DEAF;) {
        ck_assert_uint_eq(h.adds, adds);
        ck_assert_uint_eq(next_try(), POLL);
    }
    ck_assert_uint_eq(h.adds, adds + 1);
    check_mode(lock, AFLOCK_WAIT_NOTIFY, "asked for");
    ck_assert_uint_eq(h.listening_count, 1);
    listening = h.listening[0];
}

START_TEST(lost_changes)
{
    start(true);
    int foreign = fake_foreign(fake_path("f"));
    aflock *lock = open_lock("f", AFLOCK_WAIT_NOTIFY, POLL);
    wait_for(lock, &a);
    for (int i = 0; i < 3; i++) {
        int before = tries();
        change(listening, AFLOCK_ON_LOST);
        ck_assert_int_eq(tries(), before + 1); /* who knows what it was */
        be_deaf(lock);
    }
    ck_assert_uint_eq(warnings, 1);
    ck_assert_ptr_nonnull(strstr(message, fake_path("f")));
    ck_assert_ptr_nonnull(strstr(message, "lost"));
    ck_assert_int_eq(changes(1), 1);
    end_all();
    close(foreign);
}
END_TEST

START_TEST(no_watch_is_to_be_had)
{
    start(true);
    int foreign = fake_foreign(fake_path("f"));
    aflock *lock = open_lock("f", AFLOCK_WAIT_NOTIFY, POLL), *other = open_lock("g", AFLOCK_WAIT_NOTIFY, POLL);
    h.refuse_add = true;
    wait_for(lock, &a);
    ck_assert_uint_eq(warnings, 1);
    ck_assert_ptr_nonnull(strstr(message, fake_path("f")));
    h.refuse_add = false;
    be_deaf(lock);

    h.refuse_add = true;
    int second = fake_foreign(fake_path("g"));
    wait_for(other, &b);
    ck_assert_uint_eq(warnings, 1); /* for each context */
    close(second);
    ck_assert_uint_le(next_try(), POLL);
    fake_advance(&h, POLL);
    ck_answered(b, 0); /* all the same */
    ck_assert_int_eq(fake_release(other, b.result.req, NULL), 0);
    end_all();
    close(foreign);
}
END_TEST

/* Who asked for no polls would wait for what he cannot hear. */
START_TEST(who_does_not_poll_listens_again)
{
    for (int refused = 0; refused < 2; refused++) {
        start(true);
        int foreign = fake_foreign(fake_path("f"));
        h.refuse_add = refused;
        wait_for(open_lock("f", AFLOCK_WAIT_NOTIFY, refused ? 60 * SEC : AFLOCK_FOREVER), &a);
        if (!refused)
            change(listening, AFLOCK_ON_LOST);
        h.refuse_add = false;
        ck_assert_uint_eq(h.listening_count, 0);
        ck_assert_int_eq(tries_in(DEAF - 1), 0);
        ck_assert_int_eq(tries_in(1), 2); /* before and after the watch */
        ck_assert_uint_eq(h.listening_count, 1);
        close(foreign);
        listening = h.listening[0];
        ck_assert_int_eq(changes(1), 1);
        ck_answered(a, 0);
        end_all();
    }
}
END_TEST

/* The file has ended, and its watch with it. Nothing was lost: what is there then is listened to. */
START_TEST(a_file_that_has_gone)
{
    start(true);
    int foreign = fake_foreign(fake_path("f"));
    aflock *lock = open_lock("f", AFLOCK_WAIT_NOTIFY, AFLOCK_FOREVER);
    wait_for(lock, &a);
    for (int i = 0; i < 3; i++) {
        const unsigned adds = h.adds;
        const int before = tries();
        change(listening, AFLOCK_ON_GONE);
        ck_assert_int_ge(tries(), before + 1);
        ck_assert_uint_eq(h.listening_count, 1);
        ck_assert_uint_eq(h.adds, adds + 1);
        listening = h.listening[0];
        check_mode(lock, AFLOCK_WAIT_NOTIFY, "asked for");
    }
    ck_assert_uint_eq(warnings, 0);
    close(foreign);
    ck_assert_int_eq(changes(1), 1);
    end_all();
}
END_TEST

/* An attempt that finds its file replaced lets go of it, and with the file its watch ends: the kernel says so while the
 * attempt is under way. Nothing was lost. */
START_TEST(a_watch_that_ends_with_its_file)
{
    start(true);
    int foreign = fake_foreign(fake_path("f"));
    aflock_options o = lock_options(AFLOCK_WAIT_NOTIFY, AFLOCK_FOREVER);
    o.io = AFLOCK_IO_POOL;
    aflock *lock = open_with("f", &o);
    wait_for(lock, &a);
    ck_assert_ptr_nonnull(listening);
    ck_assert_int_eq(unlink(fake_path("f")), 0);
    int newer = fake_foreign(fake_path("f"));
    change(listening, AFLOCK_ON_FILE);
    ck_assert_uint_eq(h.job_count, 1);
    change(listening, AFLOCK_ON_LOST);
    fake_work(&h);
    ck_assert_uint_eq(h.listening_count, 1);
    ck_assert_uint_eq(h.adds, 2);
    check_mode(lock, AFLOCK_WAIT_NOTIFY, "asked for");
    ck_assert_uint_eq(warnings, 0);
    close(newer);
    change(h.listening[0], AFLOCK_ON_FILE);
    fake_work(&h);
    ck_answered(a, 0);
    ck_assert_int_eq(fake_release(lock, a.result.req, NULL), 0);
    fake_work(&h);
    end_all();
    close(foreign);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {so_many_changes_are_followed_up,
                                  a_change_that_was_worth_while_costs_nothing,
                                  a_busy_path_costs_the_others_nothing,
                                  more_tries_follow_a_change,
                                  fewer_tries_follow_one_of_many,
                                  who_goes_takes_only_his_own_along,
                                  all_go,
                                  the_context_goes,
                                  nobody_waits_any_more,
                                  polls_of_a_server_are_spread,
                                  polls_of_a_server_become_rarer,
                                  the_next_one_to_wait_starts_anew,
                                  local_polls_are_regular,
                                  for_ever_arms_no_timer,
                                  who_listens,
                                  the_mode_and_its_reason,
                                  wrong_arguments,
                                  a_callers_descriptor_is_polled,
                                  the_head_decides,
                                  lost_changes,
                                  no_watch_is_to_be_had,
                                  who_does_not_poll_listens_again,
                                  a_file_that_has_gone,
                                  a_watch_that_ends_with_its_file,
                                  NULL};
    return fake_main("runtime: wait", tests);
}
