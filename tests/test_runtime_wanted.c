/* Who holds is told that somebody waits: whom, when, how often, and when not. Virtual time, a scripted notifier, real
 * files. */
#include "support/fake_host.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PEOPLE = 200, PATIENCE = 30000 /* ms */ };

static fake_host h;
static fake_answer a, b, c, d;
static char me, you;

/* ------------------------------------------------------------------------------------------------------- helpers */

/* A hold that wants to be told, and what it was told. */
typedef struct asker {
    unsigned here, elsewhere;
    aflock_req req; /* it was told of */
    void (*then)(struct asker *k, aflock *lock);
} asker;

static asker k, l, m;
static unsigned told; /* in all */
static unsigned calls, most_in_turn, turn_of_last, in_turn;

static void on_wanted(aflock *lock, aflock_req req, aflock_wanted who, void *user)
{
    asker *one = user;
    fake_require(h.turning && calls == 0);
    in_turn = turn_of_last == h.turns ? in_turn + 1 : 1;
    turn_of_last = h.turns;
    most_in_turn = in_turn > most_in_turn ? in_turn : most_in_turn;
    fake_require(who == AFLOCK_WANTED_HERE || who == AFLOCK_WANTED_ELSEWHERE);
    fake_require(aflock_fd(lock, req) >= 0); /* it holds, and was told so */
    *(who == AFLOCK_WANTED_HERE ? &one->here : &one->elsewhere) += 1;
    one->req = req;
    told++;
    if (one->then)
        one->then(one, lock);
}

static aflock_acquire_options asking(asker *one)
{
    aflock_acquire_options o = fake_options(AFLOCK_FOREVER);
    o.on_wanted = on_wanted;
    o.on_wanted_user = one;
    return o;
}

static aflock_acquire_options shared(asker *one)
{
    aflock_acquire_options o = one ? asking(one) : fake_options(AFLOCK_FOREVER);
    o.mode = AFLOCK_SHARED;
    return o;
}

static aflock *open_with(const char *name, aflock_io io, aflock_wait wait)
{
    aflock *lock;
    aflock_options o;
    aflock_options_init(&o);
    o.io = io;
    o.wait = wait;
    ck_assert_int_eq(aflock_open(&lock, h.ctx, fake_path(name), &o), 0);
    return lock;
}

static aflock *start(bool notifier)
{
    fake_start(&h, 4, notifier, NULL);
    return open_with("f", AFLOCK_IO_INLINE, AFLOCK_WAIT_NOTIFY);
}

static aflock_req hold(aflock *lock, fake_answer *answer, asker *one)
{
    aflock_acquire_options o = asking(one);
    return fake_hold(&h, lock, answer, &o);
}

static aflock_req wait_for(aflock *lock, fake_answer *answer, const aflock_acquire_options *o)
{
    aflock_req req;
    *answer = (fake_answer){.count = 0};
    calls++;
    ck_assert_int_eq(fake_acquire(lock, o, answer, &req), 0);
    calls--;
    return req;
}

static void let_go(aflock *lock, aflock_req req)
{
    calls++;
    ck_assert_int_eq(fake_release(lock, req, NULL), 0);
    calls--;
}

static void end_all(void)
{
    ck_assert_int_eq(fake_free(&h, 0), 0);
}

/* ---------------------------------------------------------------------------------------------- of the same context */

START_TEST(told_once_that_somebody_here_waits)
{
    aflock *lock = start(true);
    aflock_req held = hold(lock, &a, &k);
    ck_assert_uint_eq(k.here, 0);
    aflock_req first = wait_for(lock, &b, NULL);
    ck_assert_uint_eq(k.here, 0); /* not inside the call, */
    ck_assert(h.turn_due);        /* ... but in a turn that is asked for */
    fake_settle(&h);
    ck_assert_uint_eq(k.here, 1);
    ck_assert_uint_eq(k.req.id, held.id);
    ck_assert_int_eq(fake_cancel(lock, first), 0);
    wait_for(lock, &c, NULL);
    fake_advance(&h, SEC);
    ck_assert_uint_eq(told, 1);
    let_go(lock, held);
    fake_advance(&h, SEC);
    ck_answered(c, 0);
    wait_for(lock, &d, NULL); /* c did not ask */
    fake_advance(&h, SEC);
    ck_assert_uint_eq(told, 1);
    end_all();
    ck_assert_uint_eq(told, 1);
}
END_TEST

/* A hold of its own each time, whether it was handed on or not. */
START_TEST(told_once_for_each_hold)
{
    aflock *lock = start(true);
    aflock_acquire_options o = asking(&k);
    aflock_req held = hold(lock, &a, &k), next;
    for (unsigned i = 1; i <= 20; i++) {
        next = wait_for(lock, &b, &o);
        fake_settle(&h);
        ck_assert_uint_eq(k.here, i);
        let_go(lock, held);
        fake_advance(&h, MS);
        ck_answered(b, 0);
        held = next;
    }
    end_all();
}
END_TEST

static unsigned told_before;

static void note_told(fake_answer *answer, aflock *lock)
{
    (void)answer, (void)lock;
    told_before = told;
}

START_TEST(told_of_who_waited_before_the_hold)
{
    aflock *lock = start(true);
    aflock_acquire_options o = asking(&k);
    aflock_req held = fake_hold(&h, lock, &a, NULL);
    wait_for(lock, &b, &o);
    wait_for(lock, &c, NULL);
    fake_settle(&h);
    b.then = note_told;
    told_before = 77;
    let_go(lock, held);
    fake_settle(&h);
    ck_answered(b, 0);
    ck_assert_uint_eq(told_before, 0); /* the grant comes first */
    ck_assert_uint_eq(k.here, 1);
    ck_assert_uint_eq(k.elsewhere, 0);
    ck_assert_uint_eq(k.req.id, b.result.req.id);
    end_all();
}
END_TEST

START_TEST(who_joins_at_once_does_not_wait)
{
    aflock *lock = start(true);
    aflock_acquire_options reader = shared(&k), other = shared(NULL), mine = asking(&l);
    aflock_req req;
    fake_hold(&h, lock, &a, &reader);
    fake_hold(&h, lock, &b, &other);
    ck_assert_int_eq(aflock_try(lock, &other, &req, NULL), 0);
    other.mode = AFLOCK_EXCLUSIVE;
    other.timeout = 0;
    ck_assert_int_eq(fake_acquire(lock, &other, &c, NULL), AFLOCK_EWOULDBLOCK); /* nor who does not want to wait */
    ck_assert_int_eq(aflock_try(lock, &other, &req, NULL), AFLOCK_EWOULDBLOCK);
    aflock *second = fake_open_lock(&h, "g", AFLOCK_IO_INLINE);
    mine.owner = &me;
    fake_hold(&h, second, &c, &mine);
    fake_hold(&h, second, &d, &mine);
    fake_advance(&h, SEC);
    ck_assert_uint_eq(told, 0);
    aflock_acquire_options yours = fake_options(AFLOCK_FOREVER);
    yours.owner = &you;
    fake_answer e;
    wait_for(second, &e, &yours);
    fake_settle(&h);
    ck_assert_uint_eq(l.here, 2); /* each of the owner's holds */
    ck_assert_uint_eq(k.here, 0);
    end_all();
}
END_TEST

START_TEST(who_has_left_before_is_not_told_of)
{
    aflock *lock = start(true);
    hold(lock, &a, &k);
    aflock_req waiter = wait_for(lock, &b, NULL);
    ck_assert_int_eq(fake_cancel(lock, waiter), 0);
    fake_settle(&h);
    ck_answered(b, AFLOCK_ECANCELED);

    aflock_acquire_options o = fake_options(MS); /* its time is over when the turn comes */
    wait_for(lock, &b, &o);
    h.now += MS;
    fake_turn(&h);
    ck_answered(b, AFLOCK_ETIMEDOUT);
    ck_assert_uint_eq(told, 0);

    aflock_token *token;
    ck_assert_int_eq(aflock_token_new(&token, h.ctx), 0);
    o = fake_options(AFLOCK_FOREVER);
    o.token = token;
    wait_for(lock, &b, &o);
    aflock_token_fire(token);
    fake_settle(&h);
    ck_answered(b, AFLOCK_ECANCELED);
    ck_assert_uint_eq(told, 0);

    wait_for(lock, &b, NULL); /* and a later one is */
    fake_settle(&h);
    ck_assert_uint_eq(k.here, 1);
    aflock_token_free(token);
    end_all();
}
END_TEST

static aflock *pair[2];
static aflock_req waiters[2];

static void cancel_the_others_waiter(asker *one, aflock *lock)
{
    int other = lock == pair[0];
    (void)one;
    ck_assert_int_eq(aflock_cancel(pair[other], waiters[other]), 0);
}

/* Both are due; whoever is told first takes the other's waiter away. */
START_TEST(who_leaves_in_the_same_turn_is_not_told_of)
{
    pair[0] = start(true);
    pair[1] = open_with("g", AFLOCK_IO_INLINE, AFLOCK_WAIT_NOTIFY);
    k.then = l.then = cancel_the_others_waiter;
    hold(pair[0], &a, &k);
    hold(pair[1], &b, &l);
    for (int i = 0; i < 2; i++)
        waiters[i] = wait_for(pair[i], i ? &d : &c, NULL);
    fake_settle(&h);
    ck_assert_uint_eq(told, 1);
    ck_assert_uint_eq(c.count + d.count, 1);
    end_all();
}
END_TEST

START_TEST(all_who_share_and_asked_are_told)
{
    aflock *lock = start(true), *same = open_with("f", AFLOCK_IO_INLINE, AFLOCK_WAIT_NOTIFY);
    aflock_acquire_options first = shared(&k), second = shared(NULL), third = shared(&l), late = shared(&m);
    fake_hold(&h, lock, &a, &first);
    fake_hold(&h, lock, &b, &second);
    fake_hold(&h, same, &c, &third);
    wait_for(lock, &d, NULL);
    fake_settle(&h);
    ck_assert_uint_eq(k.here, 1);
    ck_assert_uint_eq(l.here, 1);
    fake_answer e; /* it waits behind the writer, and is told of nobody */
    wait_for(lock, &e, &late);
    fake_advance(&h, SEC);
    ck_assert_uint_eq(told, 2);
    end_all();
}
END_TEST

static int accept_it(int fd, void *user)
{
    (void)fd, (void)user;
    return 0;
}

/* A reader that joins as soon as its wishes are served is not waiting for the hold; the writer behind it is. */
START_TEST(who_is_about_to_join_does_not_wait)
{
    fake_start(&h, 4, true, NULL);
    aflock *lock = open_with("f", AFLOCK_IO_AUTO, AFLOCK_WAIT_NOTIFY);
    aflock_acquire_options first = shared(&k), second = shared(&l);
    second.on_acquired = accept_it;
    fake_hold(&h, lock, &a, &first);
    wait_for(lock, &b, &second);
    wait_for(lock, &c, NULL);
    fake_settle(&h);
    ck_assert_uint_eq(told, 0);
    ck_assert_uint_eq(h.job_count, 1);
    fake_work(&h);
    ck_answered(b, 0);
    ck_assert_uint_eq(k.here, 1);
    ck_assert_uint_eq(l.here, 1);
    end_all();
}
END_TEST

static void release_it(asker *one, aflock *lock)
{
    ck_assert_int_eq(aflock_release(lock, one->req, NULL, NULL), 0);
    ck_assert_int_eq(aflock_close(lock), 0);
}

START_TEST(a_callback_may_release_and_close)
{
    aflock *lock = start(true), *same = fake_open_lock(&h, "f", AFLOCK_IO_INLINE);
    k.then = release_it;
    hold(lock, &a, &k);
    wait_for(same, &b, NULL);
    fake_settle(&h);
    ck_answered(b, 0);
    ck_assert_uint_eq(told, 1);
    end_all();
}
END_TEST

/* Promised: not after the release call. */
START_TEST(who_has_released_is_not_told)
{
    fake_answer released = {.count = 0};
    aflock *lock = start(true);
    aflock_req held = hold(lock, &a, &k);
    wait_for(lock, &b, NULL);
    ck_assert(h.turn_due);
    let_go(lock, held);
    fake_advance(&h, SEC);
    ck_answered(b, 0);
    ck_assert_uint_eq(told, 0);
    let_go(lock, b.result.req);
    fake_settle(&h);

    held = hold(lock, &a, &k);
    aflock_host_changed(h.ctx, h.listening[0], AFLOCK_ON_OPEN, NULL);
    seam_fail(SEAM_UNLOCK, 0, 1, EIO); /* it holds as before */
    ck_assert_int_eq(fake_release(lock, held, &released), 0);
    fake_settle(&h);
    ck_answered(released, AFLOCK_ESYS);
    wait_for(lock, &b, NULL);
    fake_settle(&h);
    ck_assert_uint_eq(told, 0);
    ck_assert_uint_eq(h.listening_count, 0);
    let_go(lock, held);
    fake_advance(&h, SEC);
    ck_answered(b, 0);
    end_all();
}
END_TEST

START_TEST(release_all_ends_it_too)
{
    aflock *lock = start(true);
    aflock_acquire_options first = asking(&k), second = asking(&l);
    first.owner = second.owner = &me;
    aflock_req one = fake_hold(&h, lock, &a, &first);
    fake_hold(&h, lock, &b, &second);
    ck_assert_uint_eq(h.listening_count, 2);
    wait_for(lock, &c, NULL);
    ck_assert_int_eq(aflock_release_all(lock, one, NULL, NULL), 0);
    ck_assert_uint_eq(h.listening_count, 0);
    fake_advance(&h, SEC);
    ck_answered(c, 0);
    ck_assert_uint_eq(told, 0);
    end_all();
}
END_TEST

START_TEST(what_was_tried_is_told_as_well)
{
    aflock *lock = start(true);
    aflock_acquire_options o = asking(&k);
    aflock_req req;
    fake_hold(&h, lock, &a, NULL); /* now the path is known */
    let_go(lock, a.result.req);
    fake_settle(&h);
    ck_assert_int_eq(aflock_try(lock, &o, &req, NULL), 0);
    ck_assert_uint_eq(h.listening_count, 1);
    wait_for(lock, &b, NULL);
    fake_settle(&h);
    ck_assert_uint_eq(k.here, 1);
    ck_assert_uint_eq(k.req.id, req.id);
    end_all();
}
END_TEST

START_TEST(a_descriptor_of_the_callers)
{
    aflock *lock;
    fake_start(&h, 4, true, NULL);
    int fd = open(fake_path("f"), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    ck_assert_int_eq(aflock_open_fd(&lock, h.ctx, fd, NULL), 0);
    hold(lock, &a, &k);
    ck_assert_uint_eq(h.adds, 0); /* of others nothing is heard */
    wait_for(lock, &b, NULL);
    fake_settle(&h);
    ck_assert_uint_eq(k.here, 1);
    hold(open_with("g", AFLOCK_IO_INLINE, AFLOCK_WAIT_AUTO), &a, &l);
    wait_for(lock, &c, NULL);
    end_all(); /* it stays locked */
    ck_assert_uint_eq(told, 1);
    close(fd);
}
END_TEST

/* The locks turn out to be on one path when the second one is asked for. */
START_TEST(another_spelling_of_the_path)
{
    aflock *lock = start(true);
    ck_assert_int_eq(symlink(".", fake_path("link")), 0);
    aflock *same = fake_open_lock(&h, "link/f", AFLOCK_IO_POOL);
    hold(lock, &a, &k);
    wait_for(same, &b, NULL);
    fake_settle(&h);
    ck_assert_uint_eq(told, 0);
    fake_work(&h);
    ck_assert_uint_eq(k.here, 1);
    ck_assert_uint_eq(k.elsewhere, 0);
    let_go(lock, a.result.req);
    fake_work(&h);
    fake_advance(&h, SEC);
    fake_work(&h);
    ck_answered(b, 0);
    let_go(same, b.result.req);
    fake_work(&h);
    end_all();
}
END_TEST

START_TEST(no_more_than_64_in_a_turn)
{
    static asker askers[PEOPLE];
    static fake_answer answers[PEOPLE], waiter;
    aflock *lock = start(false);
    for (int i = 0; i < PEOPLE; i++) {
        aflock_acquire_options o = shared(&askers[i]);
        fake_hold(&h, lock, &answers[i], &o);
    }
    wait_for(lock, &waiter, NULL);
    fake_settle(&h);
    ck_assert_uint_eq(told, PEOPLE);
    ck_assert_uint_eq(most_in_turn, AFL_CALLBACKS_PER_TURN);
    for (int i = 0; i < PEOPLE; i++)
        ck_assert_uint_eq(askers[i].here, 1);
    end_all();
}
END_TEST

/* ------------------------------------------------------------------------------------------------------ of others */

static void change(unsigned what)
{
    calls++;
    aflock_host_changed(h.ctx, h.listening[0], what, NULL);
    calls--;
}

START_TEST(told_once_that_somebody_opened_the_file)
{
    aflock *lock = start(true);
    aflock_req held = hold(lock, &a, &k);
    ck_assert_uint_eq(h.listening_count, 1);
    ck_assert_uint_eq(h.listening[0]->what, AFLOCK_ON_OPEN);
    ck_assert_int_eq(h.listening[0]->fd, aflock_fd(lock, held));
    change(AFLOCK_ON_OPEN);
    ck_assert_uint_eq(told, 0);
    ck_assert_uint_eq(h.listening_count, 0); /* it has heard enough */
    ck_assert(h.turn_due);
    fake_settle(&h);
    ck_assert_uint_eq(k.elsewhere, 1);
    ck_assert_uint_eq(k.req.id, held.id);
    wait_for(lock, &b, NULL); /* another kind */
    fake_settle(&h);
    ck_assert_uint_eq(k.here, 1);
    ck_assert_uint_eq(told, 2);
    let_go(lock, held);
    fake_advance(&h, SEC);
    ck_answered(b, 0);
    ck_assert_uint_eq(h.adds, 1);
    end_all();
}
END_TEST

/* Who was too slow for one hold is not heard again. */
START_TEST(eight_holds_more_are_told)
{
    aflock *lock = start(true);
    let_go(lock, hold(lock, &a, &l));
    fake_settle(&h);
    hold(lock, &a, &k);
    change(AFLOCK_ON_OPEN);
    fake_settle(&h);
    for (unsigned i = 1; i <= 12; i++) {
        let_go(lock, a.result.req);
        fake_advance(&h, MS);
        hold(lock, &a, &k);
        fake_settle(&h);
        ck_assert_uint_eq(k.elsewhere, 1 + (i < 8 ? i : 8));
        ck_assert_uint_eq(h.listening_count, 1); /* whether there is somebody else */
    }
    change(AFLOCK_ON_OPEN);
    fake_settle(&h);
    ck_assert_uint_eq(k.elsewhere, 10);
    let_go(lock, a.result.req);
    fake_advance(&h, MS);
    hold(lock, &a, &k);
    ck_assert_uint_eq(k.elsewhere, 11);
    change(AFLOCK_ON_OPEN); /* once a hold */
    fake_settle(&h);
    ck_assert_uint_eq(k.elsewhere, 11);
    ck_assert_uint_eq(h.listening_count, 0);
    end_all();
    ck_assert_uint_eq(l.elsewhere, 0);
}
END_TEST

static fake_answer again;

static void release_and_ask_again(asker *one, aflock *lock)
{
    aflock_acquire_options o = asking(&l);
    ck_assert_int_eq(aflock_release(lock, one->req, NULL, NULL), 0);
    ck_assert_int_eq(aflock_acquire(lock, &o, fake_answered, &again, NULL), 0);
}

/* Others get their turn, although we want it again at once. */
START_TEST(who_makes_way_for_others_lets_them_in)
{
    aflock *lock = start(true);
    k.then = release_and_ask_again;
    hold(lock, &a, &k);
    change(AFLOCK_ON_OPEN);
    fake_settle(&h);
    ck_assert_uint_eq(k.elsewhere, 1);
    ck_assert(fake_is_free(fake_path("f")));
    fake_advance(&h, 250 * US - 1);
    ck_assert_uint_eq(again.count, 0);
    fake_advance(&h, 1);
    ck_answered(again, 0);
    end_all();
}
END_TEST

/* Not so for one of ours. */
START_TEST(who_makes_way_here_hands_it_on)
{
    aflock *lock = start(true);
    k.then = release_and_ask_again;
    hold(lock, &a, &k);
    wait_for(lock, &b, NULL);
    fake_settle(&h);
    ck_answered(b, 0);
    ck_assert_uint_eq(b.result.attempts, 0);
    let_go(lock, b.result.req);
    fake_settle(&h);
    ck_answered(again, 0);
    end_all();
}
END_TEST

START_TEST(lost_reports_count_as_one)
{
    aflock *lock = start(true);
    aflock_req held = hold(lock, &a, &k);
    change(AFLOCK_ON_LOST);
    fake_settle(&h);
    ck_assert_uint_eq(k.elsewhere, 1);
    let_go(lock, held);
    fake_advance(&h, MS);
    hold(lock, &a, &k); /* and no reason not to listen again */
    ck_assert_uint_eq(h.listening_count, 1);
    end_all();
}
END_TEST

START_TEST(heard_and_released_in_between)
{
    aflock *lock = start(true);
    aflock_acquire_options first = shared(&k), second = shared(&l), third = shared(&m);
    aflock_req one = fake_hold(&h, lock, &a, &first), two = fake_hold(&h, lock, &b, &second);
    fake_hold(&h, lock, &c, &third);
    for (int i = 0; i < 3; i++)
        change(AFLOCK_ON_OPEN);
    ck_assert_uint_eq(h.listening_count, 0);
    let_go(lock, two); /* in the middle of those that are to be told */
    fake_settle(&h);
    ck_assert_uint_eq(k.elsewhere, 1);
    ck_assert_uint_eq(l.elsewhere, 0);
    ck_assert_uint_eq(m.elsewhere, 1);
    let_go(lock, one);
    end_all();
    ck_assert_uint_eq(told, 2);
}
END_TEST

static unsigned warnings;

static void on_log(aflock_log_level level, const char *text, void *user)
{
    (void)user;
    ck_assert_int_eq(level, AFLOCK_LOG_WARN);
    ck_assert_ptr_nonnull(strstr(text, "listened"));
    warnings++;
}

START_TEST(no_watch_is_to_be_had)
{
    aflock_ctx_options o;
    aflock_ctx_options_init(&o);
    o.log = on_log;
    fake_start(&h, 4, true, &o);
    aflock *lock = open_with("f", AFLOCK_IO_INLINE, AFLOCK_WAIT_NOTIFY);
    h.refuse_add = true;
    let_go(lock, hold(lock, &a, &k));
    hold(lock, &a, &k);
    ck_assert_uint_eq(warnings, 1);
    wait_for(lock, &b, NULL);
    fake_settle(&h);
    ck_assert_uint_eq(k.here, 1);
    end_all();
}
END_TEST

START_TEST(on_other_file_systems)
{
    start(true);
    seam_fail(SEAM_READ, 0, 1000, EIO); /* the context takes it for one that it does not know */
    aflock *lock = open_with("g", AFLOCK_IO_INLINE, AFLOCK_WAIT_AUTO);
    hold(lock, &a, &k);
    ck_assert_uint_eq(h.adds, 0);
    ck_assert_uint_eq(h.submits, 0);
    wait_for(lock, &b, NULL);
    fake_settle(&h);
    ck_assert_uint_eq(k.here, 1);
    hold(open_with("h", AFLOCK_IO_INLINE, AFLOCK_WAIT_NOTIFY), &c, &l); /* asked for */
    ck_assert_uint_eq(h.adds, 1);
    end_all();
}
END_TEST

/* ---------------------------------------------------------------------------------------- blocked before the hold */

/* Another process that waits in the kernel. */
static pid_t block(const char *path)
{
    pid_t child = fork();
    ck_assert_int_ge(child, 0);
    if (child == 0) {
        for (int fd = 3; fd < 256; fd++)
            close(fd); /* ours are locked */
        int fd = open(path, O_RDWR | O_CLOEXEC);
        _exit(fd >= 0 && flock(fd, LOCK_EX) == 0 ? 0 : 1);
    }
    for (int i = 0; i < PATIENCE; i++) {
        char line[256], number[32];
        bool found = false;
        snprintf(number, sizeof number, " %d ", (int)child);
        FILE *locks = fopen("/proc/locks", "re");
        while (fgets(line, sizeof line, locks))
            found |= strstr(line, "->") && strstr(line, number);
        fclose(locks);
        if (found)
            return child;
        usleep(1000);
    }
    ck_abort();
    return -1;
}

static void unblock(pid_t child)
{
    int status;
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* The grant, which is not delivered yet. */
static aflock_req win(aflock *lock, asker *one)
{
    aflock_acquire_options o = asking(one);
    return wait_for(lock, &a, &o);
}

START_TEST(told_of_who_was_blocked_before)
{
    aflock_io io = _i ? AFLOCK_IO_AUTO : AFLOCK_IO_INLINE;
    fake_start(&h, 4, _i != 2, NULL);
    aflock *lock = open_with("f", io, AFLOCK_WAIT_NOTIFY);
    fake_hold(&h, lock, &a, NULL);
    let_go(lock, a.result.req);
    fake_settle(&h);
    seam_forget();
    aflock_req held = win(lock, &k);
    ck_assert_uint_eq(h.job_count, 0);
    pid_t child = block(fake_path("f"));
    fake_settle(&h);
    ck_answered(a, 0);
    ck_assert_uint_eq(h.job_count, _i ? 1 : 0); /* nothing is read on the loop's thread unless that is wished */
    if (_i)
        ck_assert_int_eq(seam_on_loop(SEAM_READ), 0);
    ck_assert(!h.alive);
    fake_work(&h);
    ck_assert_uint_eq(k.elsewhere, 1);
    ck_assert_uint_eq(k.here, 0);
    ck_assert_uint_eq(k.req.id, held.id);
    let_go(lock, held);
    fake_settle(&h);
    unblock(child);
    fake_advance(&h, MS);
    hold(lock, &a, &k); /* he may have been too slow */
    ck_assert_uint_eq(told, 2);
    end_all();
}
END_TEST

/* Where there is no block device. */
START_TEST(told_of_who_was_blocked_in_memory)
{
    char path[] = "/dev/shm/aflock-XXXXXX";
    aflock *lock;
    aflock_options o;
    aflock_options_init(&o);
    o.io = AFLOCK_IO_INLINE;
    close(mkstemp(path));
    fake_start(&h, 4, true, NULL);
    ck_assert_int_eq(aflock_open(&lock, h.ctx, path, &o), 0);
    aflock_req held = win(lock, &k);
    pid_t child = block(path);
    fake_settle(&h);
    ck_assert_uint_eq(k.elsewhere, 1);
    let_go(lock, held);
    fake_settle(&h);
    unblock(child);
    ck_assert_int_eq(unlink(path), 0);
    end_all();
}
END_TEST

static aflock_token *token;

static void fire(void)
{
    aflock_token_fire(token);
}

/* Looking around takes a moment, in which the token may be fired: it was not too late. */
START_TEST(a_token_is_fired_while_we_look)
{
    aflock *lock = start(true);
    let_go(lock, fake_hold(&h, lock, &a, NULL));
    fake_settle(&h);
    ck_assert_int_eq(aflock_token_new(&token, h.ctx), 0);
    aflock_acquire_options o = asking(&k);
    o.token = token;
    wait_for(lock, &a, &o);
    seam_before(SEAM_READ, fire);
    fake_settle(&h);
    ck_assert(aflock_token_fired(token));
    ck_answered(a, AFLOCK_ECANCELED);
    ck_assert_uint_eq(h.listening_count, 0);
    fake_advance(&h, MS);
    ck_assert(fake_is_free(fake_path("f")));
    aflock_token_free(token);
    end_all();
    ck_assert_uint_eq(told, 0);
}
END_TEST

/* Of another file, or of this one under the other protocol. */
START_TEST(not_told_of_who_is_blocked_elsewhere)
{
    aflock *lock = start(true);
    int foreign = fake_foreign(fake_path("g"));
    pid_t child = block(fake_path("g"));
    aflock_options o;
    aflock_options_init(&o);
    o.protocol = AFLOCK_OFD;
    o.io = AFLOCK_IO_INLINE;
    aflock *other;
    ck_assert_int_eq(aflock_open(&other, h.ctx, fake_path("g"), &o), 0);
    hold(lock, &a, &k);
    hold(other, &b, &l);
    ck_assert_uint_eq(told, 0);
    close(foreign);
    unblock(child);
    end_all();
}
END_TEST

/* The look is under way in each of its states when nobody wants to know any more. */
START_TEST(a_look_that_comes_too_late)
{
    fake_start(&h, 4, true, NULL);
    aflock *lock = open_with("f", AFLOCK_IO_AUTO, AFLOCK_WAIT_NOTIFY);
    fake_hold(&h, lock, &a, NULL);
    let_go(lock, a.result.req);
    fake_settle(&h);
    aflock_req held = win(lock, &k);
    pid_t child = block(fake_path("f"));
    fake_settle(&h);
    pthread_t thread = 0;
    if (_i == 0) { /* a worker has it; the next hold has the same request's memory */
        seam_hang(SEAM_READ, "/proc/locks");
        thread = fake_go(&h, 0);
        seam_await_hung(1);
    }
    let_go(lock, held);
    fake_settle(&h);
    unblock(child);
    if (_i == 2) {
        ck_assert_int_eq(aflock_close(lock), 0);
        fake_work(&h);
    } else if (_i == 1) {
        fake_work(&h);
        hold(lock, &b, &l);
    } else {
        win(lock, &l);
        fake_settle(&h);
        if (_i == 0) {
            seam_resume();
            fake_join(thread);
        }
        fake_work(&h);
    }
    ck_assert_uint_eq(told, 0);
    end_all();
}
END_TEST

/* Queued, at a worker, come back, dropped: freed with the context. */
START_TEST(a_look_when_the_context_ends)
{
    fake_start(&h, _i == 0 ? 1 : 4, true, NULL);
    aflock *locks[3];
    fake_answer answers[3];
    const char *names[] = {"f", "g", "h"};
    for (int i = 0; i < 3; i++) {
        locks[i] = open_with(names[i], AFLOCK_IO_AUTO, AFLOCK_WAIT_NOTIFY);
        fake_hold(&h, locks[i], &answers[i], NULL);
        let_go(locks[i], answers[i].result.req);
        fake_settle(&h);
    }
    for (int i = 0; i < 3; i++) {
        aflock_acquire_options o = asking(&k);
        wait_for(locks[i], &answers[i], &o);
        fake_settle(&h);
        ck_answered(answers[i], 0);
    }
    ck_assert_uint_ge(h.job_count, 1);
    pthread_t thread = 0;
    if (_i == 1) {
        seam_hang(SEAM_READ, "/proc/locks");
        thread = fake_go(&h, 0);
        seam_await_hung(1);
    } else if (_i == 2) {
        fake_run(&h, 0); /* nobody collects it */
    } else if (_i == 3) {
        fake_drop(&h, 0);
        fake_settle(&h);
    }
    end_all();
    if (_i == 1) {
        seam_resume();
        fake_join(thread);
    }
    while (h.job_count > 0)
        fake_run(&h, 0);
    ck_assert_uint_eq(told, 0);
}
END_TEST

/* ------------------------------------------------------------------------------------------------------- the ends */

static void *counted(size_t size, void *user)
{
    ++*(unsigned *)user;
    return malloc(size);
}

static void *counted_again(void *block, size_t size, void *user)
{
    ++*(unsigned *)user;
    return realloc(block, size);
}

static void freed(void *block, void *user)
{
    (void)user;
    free(block);
}

START_TEST(costs_nothing_unless_asked_for)
{
    unsigned blocks = 0;
    aflock_ctx_options o;
    aflock_ctx_options_init(&o);
    o.allocate = counted;
    o.reallocate = counted_again;
    o.release = freed;
    o.allocate_user = &blocks;
    fake_start(&h, 4, true, &o);
    aflock *lock = open_with("f", AFLOCK_IO_AUTO, AFLOCK_WAIT_NOTIFY);
    let_go(lock, fake_hold(&h, lock, &a, NULL));
    fake_work(&h);
    unsigned before = blocks, submits = h.submits;
    fake_hold(&h, lock, &a, NULL);
    wait_for(lock, &b, NULL);
    seam_forget();
    fake_settle(&h);
    ck_assert_uint_eq(blocks, before);
    ck_assert_uint_eq(h.submits, submits);
    ck_assert_uint_eq(h.adds, 0);
    ck_assert_int_eq(seam_total(), 0);
    end_all();
}
END_TEST

/* Programs that were built before there was such a thing. */
START_TEST(shorter_options_are_taken)
{
    aflock *lock = start(true);
    aflock_acquire_options o = asking(&k);
    o.size = offsetof(aflock_acquire_options, on_wanted);
    fake_hold(&h, lock, &a, &o);
    wait_for(lock, &b, NULL);
    fake_settle(&h);
    ck_assert_uint_eq(told, 0);
    ck_assert_uint_eq(h.adds, 0);
    end_all();
}
END_TEST

START_TEST(nothing_is_told_once_the_end_began)
{
    aflock *lock = start(true);
    aflock_acquire_options o = asking(&l);
    hold(lock, &a, &k);
    wait_for(lock, &b, &o);
    change(AFLOCK_ON_OPEN);
    ck_assert(h.turn_due);
    end_all();
    ck_answered(b, AFLOCK_ECLOSED);
    ck_assert_uint_eq(told, 0);
}
END_TEST

static unsigned drained;

static void on_drained(aflock_ctx *ctx, void *user)
{
    (void)ctx, (void)user;
    drained++;
}

START_TEST(told_while_the_context_drains)
{
    aflock *lock = start(true);
    aflock_req held = hold(lock, &a, &k);
    wait_for(lock, &b, NULL);
    ck_assert_int_eq(aflock_ctx_drain(h.ctx, on_drained, NULL), 0);
    fake_settle(&h);
    ck_assert_uint_eq(k.here, 1);
    let_go(lock, held);
    fake_advance(&h, SEC);
    let_go(lock, b.result.req);
    fake_settle(&h);
    ck_assert_uint_eq(drained, 1);
    end_all();
}
END_TEST

/* The child is not told, and what it frees is not the parent's. */
START_TEST(a_child_hears_nothing)
{
    int status;
    fake_start(&h, 4, true, NULL);
    aflock *lock = open_with("f", AFLOCK_IO_AUTO, AFLOCK_WAIT_NOTIFY);
    hold(lock, &a, &l);
    let_go(lock, a.result.req);
    fake_settle(&h);
    win(lock, &k);
    fake_settle(&h);
    ck_assert_uint_eq(h.job_count, 1);
    wait_for(lock, &b, NULL);
    pid_t child = fork();
    if (child == 0) {
        unsigned dels = h.dels;
        fake_turn(&h);
        aflock_host_changed(h.ctx, h.listening[0], AFLOCK_ON_OPEN, NULL);
        fake_turn(&h);
        ck_assert_uint_eq(told, 0);
        ck_assert_int_eq(aflock_ctx_abandon(h.ctx), 0);
        ck_assert_uint_eq(h.dels, dels);
        _exit(0);
    }
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    ck_assert_uint_eq(h.listening_count, 1);
    fake_work(&h);
    ck_assert_uint_eq(k.here, 1);
    end_all();
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {told_once_that_somebody_here_waits,
                                  told_once_for_each_hold,
                                  told_of_who_waited_before_the_hold,
                                  who_joins_at_once_does_not_wait,
                                  who_has_left_before_is_not_told_of,
                                  who_leaves_in_the_same_turn_is_not_told_of,
                                  all_who_share_and_asked_are_told,
                                  who_is_about_to_join_does_not_wait,
                                  a_callback_may_release_and_close,
                                  who_has_released_is_not_told,
                                  release_all_ends_it_too,
                                  what_was_tried_is_told_as_well,
                                  a_descriptor_of_the_callers,
                                  another_spelling_of_the_path,
                                  no_more_than_64_in_a_turn,
                                  told_once_that_somebody_opened_the_file,
                                  eight_holds_more_are_told,
                                  who_makes_way_for_others_lets_them_in,
                                  who_makes_way_here_hands_it_on,
                                  lost_reports_count_as_one,
                                  heard_and_released_in_between,
                                  no_watch_is_to_be_had,
                                  on_other_file_systems,
                                  told_of_who_was_blocked_in_memory,
                                  a_token_is_fired_while_we_look,
                                  not_told_of_who_is_blocked_elsewhere,
                                  costs_nothing_unless_asked_for,
                                  shorter_options_are_taken,
                                  nothing_is_told_once_the_end_began,
                                  told_while_the_context_drains,
                                  a_child_hears_nothing,
                                  NULL};
    const TTest *const states[] = {told_of_who_was_blocked_before, a_look_that_comes_too_late,
                                   a_look_when_the_context_ends, NULL};
    int failed = fake_main("runtime: wanted", tests);
    return fake_main_each("runtime: wanted", states, 4, 60) != EXIT_SUCCESS ? EXIT_FAILURE : failed;
}
