/* aflock/several.h: all of a list or none, in one order for everybody, and any one of it. */
#include "support/several_scene.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

/* -------------------------------------------------------------------------------------------------------------- all */

START_TEST(all_or_nothing)
{
    told t;
    add_each(scene_io(_i), "cab");
    take_all();
    must_be("abc", "+++");
    for (size_t i = 0; i < 3; i++) {
        ck_assert_int_ge(aflock_fd(aflock_several_lock(list, i), aflock_several_req(list, i)), 0);
        ck_assert_str_eq(strrchr(aflock_path(aflock_several_lock(list, i)), '/') + 1, i == 0   ? "c"
                                                                                      : i == 1 ? "a"
                                                                                               : "b");
    }
    ck_assert_int_eq(aflock_several_cancel(list), AFLOCK_EHELD);
    give();
    must_be("abc", "---");
    ck_assert_uint_eq(aflock_several_req(list, 0).id, 0);
    pid_t other = holder_of("b");
    ask_all(0, &t);
    must_say(&t, AFLOCK_EWOULDBLOCK);
    ck_assert_uint_eq(t.result.index, 2);
    must_become_free("ac");
    ask_all(20 * AFLOCK_MILLISECOND, &t);
    must_say(&t, AFLOCK_ETIMEDOUT);
    ck_assert_uint_ge(t.result.waited, 20 * AFLOCK_MILLISECOND);
    must_become_free("ac");
    ask_all(AFLOCK_FOREVER, &t);
    settle();
    must_be("abc", "++-"); /* in the order of the paths, whatever that of the list is */
    scene_holder_end(other);
    must_say(&t, 0);
    give();
}
END_TEST

/* By what the paths lead to: with the links' names the order would be another one. */
START_TEST(the_order_is_that_of_resolved_paths)
{
    told t;
    ck_assert_int_eq(mkdir("d", 0777), 0);
    ck_assert_int_eq(symlink("d", "z"), 0);
    add("z/m", AFLOCK_EXCLUSIVE, scene_io(_i));
    add("f", AFLOCK_EXCLUSIVE, scene_io(_i));
    add("z/new/deep/m", AFLOCK_EXCLUSIVE, scene_io(_i));
    pid_t other = holder_of("f");
    ask_all(AFLOCK_FOREVER, &t);
    for (int i = 0; i < 500 && (access("d/new/deep/m", F_OK) != 0 || scene_is_free("d/new/deep/m", LOCK_EX)); i++)
        ck_assert_int_eq(aflock_epoll_run_once(scene, 10 * AFLOCK_MILLISECOND), 0);
    ck_assert(!scene_is_free("d/m", LOCK_EX) && !scene_is_free("d/new/deep/m", LOCK_EX));
    scene_holder_end(other);
    must_say(&t, 0);
    give();
}
END_TEST

START_TEST(the_same_file_twice)
{
    ck_assert_int_eq(mkdir("d", 0777), 0);
    ck_assert_int_eq(symlink("d", "z"), 0);
    scene_write("d/a", "");
    ck_assert_int_eq(link("d/a", "hard"), 0);
    add("d/a", AFLOCK_SHARED, scene_io(_i));
    add("d/./a", AFLOCK_SHARED, scene_io(_i));
    add("z/a", AFLOCK_EXCLUSIVE, scene_io(_i));
    add("hard", AFLOCK_SHARED, scene_io(_i));
    add("d/b", AFLOCK_SHARED, scene_io(_i)); /* is not there yet */
    add("z/../d/b", AFLOCK_SHARED, scene_io(_i));
    add("n/x", AFLOCK_SHARED, scene_io(_i)); /* nor is its directory */
    add("z/../n/x", AFLOCK_SHARED, scene_io(_i));
    take_all();
    for (size_t i = 1; i < 4; i++) {
        ck_assert_ptr_eq(aflock_several_lock(list, i), aflock_several_lock(list, 0));
        ck_assert(aflock_several_req(list, i).id == aflock_several_req(list, 0).id);
    }
    ck_assert_ptr_eq(aflock_several_lock(list, 4), aflock_several_lock(list, 5));
    ck_assert_ptr_eq(aflock_several_lock(list, 6), aflock_several_lock(list, 7));
    ck_assert_ptr_ne(aflock_several_lock(list, 4), aflock_several_lock(list, 0));
    ck_assert(!scene_is_free("d/a", LOCK_SH)); /* one of them is exclusive */
    ck_assert(!scene_is_free("d/b", LOCK_EX) && scene_is_free("d/b", LOCK_SH));
    give();
    ck_assert(scene_is_free("d/a", LOCK_EX) && scene_is_free("d/b", LOCK_EX));
    ck_assert_str_ne(aflock_path(aflock_several_lock(list, 3)), aflock_path(aflock_several_lock(list, 0)));
}
END_TEST

/* A directory that is mounted twice, for root: neither path is resolved to the other, and the file is not there yet. */
START_TEST(the_same_name_in_two_mounts)
{
    if (unshare(CLONE_NEWNS) != 0) {
        printf("skipped, may not mount: the_same_name_in_two_mounts\n");
        return;
    }
    ck_assert_int_eq(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), 0);
    ck_assert(mkdir("d", 0777) == 0 && mkdir("m", 0777) == 0);
    ck_assert_int_eq(mount("d", "m", NULL, MS_BIND, NULL), 0);
    add("m/new", AFLOCK_EXCLUSIVE, AFLOCK_IO_AUTO);
    add("d/new", AFLOCK_EXCLUSIVE, AFLOCK_IO_AUTO);
    take_all();
    ck_assert_ptr_eq(aflock_several_lock(list, 0), aflock_several_lock(list, 1));
    give();
    ck_assert_int_eq(umount2("m", MNT_DETACH), 0);
}
END_TEST

START_TEST(links_at_the_end)
{
    told t = {.count = 0};
    scene_write("a", "");
    ck_assert_int_eq(symlink("a", "l"), 0);
    add_each(scene_io(_i), "la");
    ask_all(AFLOCK_FOREVER, &t);
    must_say(&t, AFLOCK_ELOOP);
    ck_assert_uint_eq(t.result.index, 0);
    ck_assert_str_eq(t.step, "open");
    must_become_free("a");
    aflock_acquire_options o = within(AFLOCK_FOREVER);
    o.flags |= AFLOCK_FOLLOW;
    t.count = 0;
    ck_assert_int_eq(aflock_several_all(list, &o, tell, &t), 0);
    must_say(&t, 0);
    ck_assert_ptr_eq(aflock_several_lock(list, 0), aflock_several_lock(list, 1));
    give();
}
END_TEST

START_TEST(the_same_file_in_two_protocols)
{
    told t;
    aflock_options o;
    aflock_options_init(&o);
    scene_write("a", "");
    ck_assert_int_eq(link("a", "b"), 0);
    add("a", AFLOCK_EXCLUSIVE, AFLOCK_IO_AUTO);
    o.protocol = AFLOCK_OFD;
    ck_assert_int_eq(aflock_several_add(list, "b", AFLOCK_EXCLUSIVE, &o), 1);
    ask_all(AFLOCK_FOREVER, &t);
    must_say(&t, AFLOCK_EMISMATCH);
    ck_assert_uint_eq(t.result.index, 1);
}
END_TEST

START_TEST(an_error_keeps_nothing)
{
    told t = {.count = 0};
    aflock_acquire_options o = within(AFLOCK_FOREVER);
    o.flags &= ~(uint32_t)AFLOCK_MAKE_PARENTS;
    add("a", AFLOCK_EXCLUSIVE, scene_io(_i));
    add("c", AFLOCK_EXCLUSIVE, scene_io(_i));
    add("b/missing", AFLOCK_EXCLUSIVE, scene_io(_i));
    ck_assert_int_eq(aflock_several_all(list, &o, tell, &t), 0);
    must_say(&t, AFLOCK_ENOENT);
    ck_assert_uint_eq(t.result.index, 2);
    ck_assert_int_eq(t.result.sys_errno, ENOENT);
    must_become_free("ac");
    ck_assert_int_eq(access("c", F_OK), -1);
    o.flags |= AFLOCK_MAKE_PARENTS;
    t.count = 0;
    ck_assert_int_eq(aflock_several_all(list, &o, tell, &t), 0);
    must_say(&t, 0);
    give();
}
END_TEST

/* What could not be added is no part of the list, which is what it was: also if it would have outgrown its memory. */
START_TEST(what_cannot_be_added)
{
    enum { ROOM = 8 };
    static char path[2 * PATH_MAX];
    told t;
    memset(path, 'a', sizeof path - 1);
    for (int i = 0; i < ROOM; i++) {
        ck_assert_int_eq(aflock_several_add(list, path, AFLOCK_EXCLUSIVE, NULL), AFLOCK_ENAMETOOLONG);
        add((char[]){(char)('a' + i), '\0'}, AFLOCK_EXCLUSIVE, scene_io(_i));
    }
    ck_assert_int_eq(aflock_several_add(list, path, AFLOCK_EXCLUSIVE, NULL), AFLOCK_ENAMETOOLONG);
    ck_assert_uint_eq(aflock_several_count(list), ROOM);
    ask_all(AFLOCK_FOREVER, &t);
    must_say(&t, 0);
    ck_assert(is_so("abcdefgh", "++++++++"));
    give();
    must_become_free("abcdefgh");
    take_any(0);
    give();
}
END_TEST

/* While the order is found, while the first one is taken, while the second one is waited for. */
START_TEST(cancel_at_each_point)
{
    for (int any = 0; any < 2; any++) {
        for (int rounds = 0; rounds < 8; rounds++) {
            told t;
            aflock_several_free(list);
            ck_assert_int_eq(aflock_several_new(&list, scene), 0);
            add_each(scene_io(_i), "ab");
            pid_t one = any ? holder_of("a") : 0, other = holder_of("b");
            any ? ask_any(AFLOCK_FOREVER, &t) : ask_all(AFLOCK_FOREVER, &t);
            for (int i = 0; i < rounds; i++)
                ck_assert_int_eq(aflock_epoll_run_once(scene, AFLOCK_MILLISECOND), 0);
            ck_assert_int_eq(t.count, 0);
            ck_assert_int_eq(aflock_several_release(list, NULL, NULL), AFLOCK_ENOTHELD);
            ck_assert_int_eq(aflock_several_cancel(list), 0);
            scene_holder_end(other);
            if (any)
                scene_holder_end(one);
            must_say(&t, AFLOCK_ECANCELED);
            ck_assert_int_eq(aflock_several_cancel(list), AFLOCK_ESTALE);
            must_become_free("ab");
            ck_assert_int_eq(t.count, 1);
        }
    }
}
END_TEST

START_TEST(tokens)
{
    told t = {.count = 0};
    aflock_token *token;
    aflock_acquire_options o = within(AFLOCK_FOREVER);
    add_each(scene_io(_i), "ab");
    ck_assert_int_eq(aflock_token_new(&token, scene), 0);
    o.token = token;
    pid_t other = holder_of("b");
    ck_assert_int_eq(aflock_several_all(list, &o, tell, &t), 0);
    settle();
    aflock_token_fire(token);
    scene_holder_end(other);
    must_say(&t, AFLOCK_ECANCELED);
    must_become_free("ab");
    ck_assert_int_eq(aflock_several_all(list, &o, tell, &t), AFLOCK_ECANCELED);
    ck_assert_int_eq(aflock_several_any(list, &o, tell, &t), AFLOCK_ECANCELED);
    settle();
    ck_assert_int_eq(t.count, 1);
    take_all();
    give();
    aflock_token_free(token);
}
END_TEST

START_TEST(owners)
{
    told t = {.count = 0};
    int owner;
    aflock_acquire_options o = within(AFLOCK_FOREVER);
    o.owner = &owner;
    aflock *lock = scene_open("b", scene_io(_i));
    add_each(scene_io(_i), "abc");
    aflock_req req = scene_hold(lock, &o);
    ck_assert_int_eq(aflock_several_all(list, &o, tell, &t), 0); /* it has one of them already */
    must_say(&t, 0);
    ck_assert_int_eq(aflock_depth(lock, &owner), 2);
    give();
    must_be("abc", "-+-");
    scene_release(lock, req);
    o.mode = AFLOCK_SHARED;
    req = scene_hold(lock, &o);
    t.count = 0;
    ck_assert_int_eq(aflock_several_all(list, &o, tell, &t), 0); /* in another mode */
    must_say(&t, AFLOCK_EDEADLK);
    ck_assert_uint_eq(t.result.index, 1);
    must_become_free("ac");
    scene_release(lock, req);
    ck_assert_int_eq(aflock_close(lock), 0);
}
END_TEST

int main(void)
{
    const TTest *const once[] = {the_same_name_in_two_mounts, the_same_file_in_two_protocols, NULL};
    const TTest *const each[] = {all_or_nothing,
                                 the_order_is_that_of_resolved_paths,
                                 the_same_file_twice,
                                 links_at_the_end,
                                 an_error_keeps_nothing,
                                 what_cannot_be_added,
                                 cancel_at_each_point,
                                 tokens,
                                 owners,
                                 NULL};
    return several_main("recipes: several locks", once, each);
}
