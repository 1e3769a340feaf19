/* aflock/several.h: leases that are lost, any of a list, workers that are slow, and the end of everything. */
#include "support/several_scene.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* ----------------------------------------------------------------------------------------------------------- leases */

static void add_lease(const char *path)
{
    aflock_options o;
    aflock_options_init(&o);
    o.protocol = AFLOCK_LEASE;
    o.duration = 3 * AFLOCK_SECOND;
    o.heartbeat = 10 * AFLOCK_MILLISECOND;
    ck_assert_int_ge(aflock_several_add(list, path, AFLOCK_EXCLUSIVE, &o), 0);
}

static void await_file(const char *path)
{
    for (int i = 0; i < 500 && access(path, F_OK) != 0; i++)
        ck_assert_int_eq(aflock_epoll_run_once(scene, 10 * AFLOCK_MILLISECOND), 0);
    ck_assert_int_eq(access(path, F_OK), 0);
}

START_TEST(one_is_lost_while_others_are_waited_for)
{
    told t;
    add_lease("a");
    add("b", AFLOCK_EXCLUSIVE, AFLOCK_IO_AUTO);
    add("c", AFLOCK_EXCLUSIVE, AFLOCK_IO_AUTO);
    pid_t other = holder_of("c");
    ask_all(AFLOCK_FOREVER, &t);
    await_file("a");
    settle();
    ck_assert_int_eq(unlink("a"), 0);
    must_say(&t, AFLOCK_ECOMPROMISED);
    ck_assert_uint_eq(t.result.index, 0);
    must_become_free("b");
    scene_holder_end(other);
    settle();
    ck_assert_int_eq(access("a", F_OK), -1);
    must_become_free("c");
    ck_assert_int_eq(t.count, 1);
    take_all();
    give();
}
END_TEST

static int lost;

static void on_compromise(aflock *lock, aflock_req req, const aflock_compromise *what, void *user)
{
    ck_assert_ptr_eq(user, &lost);
    ck_assert_ptr_eq(lock, aflock_several_lock(list, 1));
    ck_assert_uint_eq(req.id, aflock_several_req(list, 1).id);
    ck_assert_int_eq(what->reason, AFLOCK_MARKER_MISSING);
    lost++;
    ck_assert_int_eq(aflock_several_release(list, NULL, NULL), 0);
}

START_TEST(one_is_lost_while_it_is_held)
{
    told t = {.count = 0};
    aflock_acquire_options o = within(AFLOCK_FOREVER);
    o.on_compromise = on_compromise;
    o.on_compromise_user = &lost;
    add("b", AFLOCK_EXCLUSIVE, AFLOCK_IO_AUTO);
    ck_assert_int_eq(aflock_several_all(list, &o, tell, &t), AFLOCK_EINVAL); /* there is no lease */
    add_lease("a");
    ck_assert_int_eq(aflock_several_all(list, &o, tell, &t), 0);
    must_say(&t, 0);
    ck_assert_int_eq(unlink("a"), 0);
    scene_run_until(&lost, 1);
    must_become_free("b");
    t.count = 0;
    ck_assert_int_eq(aflock_several_any(list, &o, tell, &t), 0);
    must_say(&t, 0);
    ck_assert_uint_eq(t.result.index, 0);
    give();
    ck_assert_int_eq(lost, 1);
}
END_TEST

/* -------------------------------------------------------------------------------------------------------------- any */

START_TEST(the_first_that_is_free)
{
    told t;
    add_each(scene_io(_i), "cab");
    take_any(0);
    must_be("cab", "+--");
    ck_assert_int_ge(aflock_fd(aflock_several_lock(list, 0), aflock_several_req(list, 0)), 0);
    ck_assert_uint_eq(aflock_several_req(list, 1).id, 0);
    give();
    pid_t one = holder_of("c"), two = holder_of("a");
    take_any(2);
    give();
    pid_t three = holder_of("b");
    ask_any(0, &t);
    must_say(&t, AFLOCK_EWOULDBLOCK);
    ask_any(20 * AFLOCK_MILLISECOND, &t);
    must_say(&t, AFLOCK_ETIMEDOUT);
    ck_assert_uint_ge(t.result.waited, 20 * AFLOCK_MILLISECOND);
    ask_any(AFLOCK_FOREVER, &t);
    settle();
    ck_assert_int_eq(t.count, 0);
    scene_holder_end(two);
    must_say(&t, 0);
    ck_assert_uint_eq(t.result.index, 1);
    settle();
    scene_holder_end(one);
    scene_holder_end(three);
    settle();
    must_be("cab", "-+-");
    give();
}
END_TEST

/* All become free at the same moment: one is kept. */
START_TEST(late_ones_are_given_back)
{
    told t;
    aflock *locks[3];
    aflock_req reqs[3];
    for (int i = 0; i < 3; i++) {
        const char name[] = {(char)('a' + i), '\0'};
        locks[i] = scene_open(name, scene_io(_i));
        reqs[i] = scene_hold(locks[i], NULL);
    }
    add_each(scene_io(_i), "abc");
    ask_any(AFLOCK_FOREVER, &t);
    settle();
    for (int i = 0; i < 3; i++)
        ck_assert_int_eq(aflock_release(locks[i], reqs[i], NULL, NULL), 0);
    must_say(&t, 0);
    settle();
    must_be("abc", t.result.index == 0 ? "+--" : t.result.index == 1 ? "-+-" : "--+");
    give();
    must_become_free("abc");
    ck_assert_int_eq(t.count, 1);
}
END_TEST

START_TEST(an_error_of_one_ends_it)
{
    told t;
    add_each(scene_io(_i), "ab");
    pid_t other = holder_of("a");
    ck_assert_int_eq(mkdir("b", 0777), 0);
    ask_any(AFLOCK_FOREVER, &t);
    must_say(&t, AFLOCK_EISDIR);
    ck_assert_uint_eq(t.result.index, 1);
    scene_holder_end(other);
    must_become_free("a");
}
END_TEST

START_TEST(any_of_the_same_twice)
{
    told t;
    add_each(scene_io(_i), "aa");
    take_any(0);
    give();
    pid_t other = holder_of("a");
    ask_any(AFLOCK_FOREVER, &t);
    settle();
    scene_holder_end(other);
    must_say(&t, 0);
    settle();
    give();
    must_become_free("a");
}
END_TEST

/* --------------------------------------------------------------------------------------------- workers that are slow
 */

static atomic_bool is_open;

static int wait_at_the_gate(int fd, void *user)
{
    (void)fd, (void)user;
    while (!atomic_load(&is_open))
        usleep(1000);
    return 0;
}

static void on_ran(aflock *lock, const aflock_result *r, int value, void *user)
{
    (void)lock, (void)value;
    ck_assert_int_eq(r->status, 0);
    ++*(int *)user;
}

/* The executor has no place for finding the order: deadline and cancel are answered all the same, and the list can be
 * freed. */
START_TEST(the_order_takes_for_ever)
{
    enum { BUSY = 8 };
    told t;
    int ran = 0;
    aflock *lock = scene_open("busy", AFLOCK_IO_AUTO);
    aflock_req req = scene_hold(lock, NULL);
    for (int i = 0; i < BUSY; i++)
        ck_assert_int_eq(aflock_run(lock, req, wait_at_the_gate, on_ran, &ran), 0);
    add_each(AFLOCK_IO_AUTO, "ab");
    ask_all(20 * AFLOCK_MILLISECOND, &t);
    must_say(&t, AFLOCK_ETIMEDOUT);
    ask_all(AFLOCK_FOREVER, &t); /* while the other one is still under way */
    settle();
    ck_assert_int_eq(t.count, 0);
    ck_assert_int_eq(aflock_several_cancel(list), 0);
    must_say(&t, AFLOCK_ECANCELED);
    ask_all(AFLOCK_FOREVER, &t);
    if (_i == 0)
        aflock_several_free(list);
    atomic_store(&is_open, true);
    must_say(&t, _i == 0 ? AFLOCK_ECANCELED : 0);
    if (_i == 0)
        list = NULL;
    else
        give();
    scene_run_until(&ran, BUSY);
    settle();
    scene_release(lock, req);
    ck_assert_int_eq(aflock_close(lock), 0);
}
END_TEST

/* --------------------------------------------------------------------------------------------------------- the rest */

START_TEST(a_release_that_fails_is_tried_again)
{
    told t = {.count = 0};
    add_each(scene_io(_i), "ab");
    take_all();
    seam_fail(SEAM_UNLOCK, 0, 1, EIO);
    ck_assert_int_eq(aflock_several_release(list, tell, &t), 0);
    scene_run_until(&t.count, 1);
    ck_assert_int_ne(t.result.status, 0);
    ck_assert_int_eq(t.result.sys_errno, EIO);
    ck_assert_str_ne(t.step, "");
    ask_all(10 * AFLOCK_SECOND, &t);
    must_say(&t, 0);
    give();
    must_become_free("ab");
}
END_TEST

/* Within the callback: released, asked again, freed. */
static int again;

static void tell_and_ask(aflock_several *s, const aflock_several_result *r, void *user)
{
    tell(s, r, user);
    ck_assert_int_eq(aflock_several_all(s, NULL, tell_and_ask, user), AFLOCK_EBUSY);
    ck_assert_int_eq(aflock_several_add(s, "x", AFLOCK_EXCLUSIVE, NULL), AFLOCK_EBUSY);
    ck_assert_int_eq(aflock_several_release(s, NULL, NULL), 0);
    if (++again < 3) {
        ck_assert_int_eq(again == 1 ? aflock_several_all(s, NULL, tell_and_ask, user)
                                    : aflock_several_any(s, NULL, tell_and_ask, user),
                         0);
        return;
    }
    aflock_several_free(s);
}

START_TEST(callbacks_may_do_anything)
{
    told t = {.count = 0};
    again = 0;
    add_each(scene_io(_i), "ab");
    ck_assert_int_eq(aflock_several_all(list, NULL, tell_and_ask, &t), 0);
    scene_run_until(&again, 3);
    list = NULL;
    must_become_free("ab");
    ck_assert_int_eq(t.count, 3);
}
END_TEST

static void *elsewhere(void *user)
{
    aflock_several *none = list;
    (void)user;
    ck_assert_int_eq(aflock_several_new(&none, scene), AFLOCK_ETHREAD);
    ck_assert_ptr_null(none);
    ck_assert_int_eq(aflock_several_add(list, "a", AFLOCK_EXCLUSIVE, NULL), AFLOCK_ETHREAD);
    return NULL;
}

START_TEST(another_thread)
{
    pthread_t thread;
    ck_assert_int_eq(pthread_create(&thread, NULL, elsewhere, NULL), 0);
    ck_assert_int_eq(pthread_join(thread, NULL), 0);
    ck_assert_uint_eq(aflock_several_count(list), 0);
}
END_TEST

START_TEST(arguments)
{
    told t;
    aflock_options o;
    aflock_acquire_options a = within(1);
    aflock_options_init(&o);
    ck_assert_int_eq(aflock_several_new(NULL, scene), AFLOCK_EINVAL);
    aflock_several *none = list;
    ck_assert_int_eq(aflock_several_new(&none, NULL), AFLOCK_EINVAL);
    ck_assert_ptr_null(none);
    ck_assert_int_eq(aflock_several_all(list, NULL, tell, &t), AFLOCK_EINVAL);
    ck_assert_int_eq(aflock_several_any(list, NULL, tell, &t), AFLOCK_EINVAL);
    ck_assert_int_eq(aflock_several_add(list, "", AFLOCK_EXCLUSIVE, NULL), AFLOCK_EINVAL);
    ck_assert_int_eq(aflock_several_add(list, "a", (aflock_mode)7, NULL), AFLOCK_EINVAL);
    o.size = 0;
    ck_assert_int_eq(aflock_several_add(list, "a", AFLOCK_EXCLUSIVE, &o), AFLOCK_EINVAL);
    ck_assert_int_eq(aflock_several_add(NULL, "a", AFLOCK_EXCLUSIVE, NULL), AFLOCK_EINVAL);
    ck_assert_uint_eq(aflock_several_count(list) + aflock_several_count(NULL), 0);
    for (int i = 0; i < 20; i++) {
        char name[8];
        snprintf(name, sizeof name, "f%d", i);
        ck_assert_int_eq(aflock_several_add(list, name, i % 2 ? AFLOCK_SHARED : AFLOCK_EXCLUSIVE, NULL), i);
    }
    ck_assert_int_eq(aflock_several_all(list, NULL, NULL, &t), AFLOCK_EINVAL);
    a.size = 0;
    ck_assert_int_eq(aflock_several_all(list, &a, tell, &t), AFLOCK_EINVAL);
    a = within(1);
    a.flags = UINT32_MAX;
    ck_assert_int_eq(aflock_several_any(list, &a, tell, &t), AFLOCK_EINVAL);
    ck_assert_int_eq(aflock_several_cancel(list), AFLOCK_ESTALE);
    ck_assert_int_eq(aflock_several_cancel(NULL), AFLOCK_EINVAL);
    ck_assert_int_eq(aflock_several_release(list, NULL, NULL), AFLOCK_ESTALE);
    ck_assert_ptr_null(aflock_several_lock(list, 20));
    ck_assert_uint_eq(aflock_several_req(list, 20).id, 0);
    aflock_several_free(NULL);
    take_all();
    ck_assert(!scene_is_free("f0", LOCK_SH) && scene_is_free("f1", LOCK_SH) && !scene_is_free("f1", LOCK_EX));
    give();
}
END_TEST

/* In each state: what waits is answered, what is held is free. */
START_TEST(freed_while_it_is_used)
{
    for (int state = 0; state < 5; state++) {
        told t = {.count = 0};
        bool with_context = _i % 2;
        add_each(scene_io(_i), "ab");
        pid_t other = state == 1 || state == 2 ? holder_of("b") : 0;
        if (state < 2)
            ask_all(AFLOCK_FOREVER, &t);
        else if (state == 2)
            other = (ask_any(0, &t), other);
        else
            take_all();
        if (state == 1)
            settle();
        if (state == 4)
            ck_assert_int_eq(aflock_several_release(list, tell, &t), 0);
        aflock_several_free(list);
        list = NULL;
        if (with_context) {
            scene_free_context();
            ck_assert_int_eq(t.count, state != 3);
            scene_make_context();
        } else if (state != 3) {
            scene_run_until(&t.count, 1);
        }
        ck_assert(state == 3 || state == 4 || t.result.status != 0);
        if (other)
            scene_holder_end(other);
        must_become_free("ab");
        ck_assert_int_eq(t.count, state != 3);
        ck_assert_int_eq(aflock_several_new(&list, scene), 0);
    }
}
END_TEST

/* The context goes first: the answer comes inside of that, and the list is freed in it. */
static void tell_and_free(aflock_several *s, const aflock_several_result *r, void *user)
{
    tell(s, r, user);
    aflock_several_free(s);
}

START_TEST(the_context_is_freed)
{
    told t = {.count = 0};
    pid_t other = holder_of("b");
    add_each(scene_io(_i), "ab");
    ck_assert_int_eq(aflock_several_all(list, NULL, tell_and_free, &t), 0);
    settle();
    list = NULL;
    scene_free_context();
    ck_assert_int_eq(t.count, 1);
    ck_assert_int_eq(t.result.status, AFLOCK_ECLOSED);
    scene_holder_end(other);
    ck_assert(is_so("ab", "--"));
    scene_make_context();
}
END_TEST

START_TEST(a_child)
{
    told t;
    int status;
    pid_t other = holder_of("b");
    add_each(AFLOCK_IO_AUTO, "ab");
    ask_all(AFLOCK_FOREVER, &t);
    if (_i)
        settle();
    pid_t child = fork();
    if (child == 0) {
        bool fine = aflock_several_all(list, NULL, tell, &t) == AFLOCK_EFORKED &&
                    aflock_several_cancel(list) == AFLOCK_EFORKED &&
                    aflock_several_release(list, NULL, NULL) == AFLOCK_EFORKED;
        aflock_several_free(list);
        fine &= aflock_ctx_abandon(scene) == 0;
        _exit(fine && t.count == 0 ? EXIT_SUCCESS : EXIT_FAILURE);
    }
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert_int_eq(status, 0);
    scene_holder_end(other);
    must_say(&t, 0);
    must_be("ab", "++");
    give();
}
END_TEST

int main(void)
{
    const TTest *const once[] = {another_thread, one_is_lost_while_others_are_waited_for, one_is_lost_while_it_is_held,
                                 arguments, NULL};
    const TTest *const each[] = {the_first_that_is_free,
                                 late_ones_are_given_back,
                                 an_error_of_one_ends_it,
                                 any_of_the_same_twice,
                                 the_order_takes_for_ever,
                                 a_release_that_fails_is_tried_again,
                                 callbacks_may_do_anything,
                                 freed_while_it_is_used,
                                 the_context_is_freed,
                                 a_child,
                                 NULL};
    return several_main("recipes: several locks, ends", once, each);
}
