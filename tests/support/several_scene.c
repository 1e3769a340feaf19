/* See several_scene.h. */
#include "support/several_scene.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

aflock_several *list;

void tell(aflock_several *s, const aflock_several_result *r, void *user)
{
    told *t = user;
    (void)s;
    t->count++;
    t->result = *r;
    snprintf(t->path, sizeof t->path, "%s", r->path ? r->path : "");
    snprintf(t->step, sizeof t->step, "%s", r->step ? r->step : "");
}

void add(const char *path, aflock_mode mode, aflock_io io)
{
    aflock_options o;
    aflock_options_init(&o);
    o.io = io;
    o.poll_interval = AFLOCK_FOREVER; /* waiting is for what is heard of */
    int expected = (int)aflock_several_count(list);
    ck_assert_int_eq(aflock_several_add(list, path, mode, &o), expected);
}

void add_each(aflock_io io, const char *names)
{
    for (char name[] = "x"; *names; names++) {
        name[0] = *names;
        add(name, AFLOCK_EXCLUSIVE, io);
    }
}

aflock_acquire_options within(uint64_t timeout)
{
    aflock_acquire_options o;
    aflock_acquire_options_init(&o);
    o.timeout = timeout;
    return o;
}

void ask_all(uint64_t timeout, told *t)
{
    aflock_acquire_options o = within(timeout);
    *t = (told){.count = 0};
    ck_assert_int_eq(aflock_several_all(list, &o, tell, t), 0);
    ck_assert_int_eq(t->count, 0);
}

void ask_any(uint64_t timeout, told *t)
{
    aflock_acquire_options o = within(timeout);
    *t = (told){.count = 0};
    ck_assert_int_eq(aflock_several_any(list, &o, tell, t), 0);
    ck_assert_int_eq(t->count, 0);
}

void must_say(told *t, int status)
{
    scene_run_until(&t->count, 1);
    ck_assert_msg(t->result.status == status, "%s, not %s; %s %s", aflock_error_name(t->result.status),
                  aflock_error_name(status), t->path, t->step);
    ck_assert_int_eq(t->count, 1);
}

void take_all(void)
{
    told t;
    ask_all(AFLOCK_FOREVER, &t);
    must_say(&t, 0);
}

void take_any(size_t expected)
{
    told t;
    ask_any(AFLOCK_FOREVER, &t);
    must_say(&t, 0);
    ck_assert_uint_eq(t.result.index, expected);
    ck_assert_str_eq(t.path, aflock_path(aflock_several_lock(list, expected)));
}

void give(void)
{
    told t = {.count = 0};
    ck_assert_int_eq(aflock_several_release(list, tell, &t), 0);
    ck_assert_int_eq(aflock_several_release(list, tell, &t), AFLOCK_ESTALE);
    must_say(&t, 0);
}

/* It returns at once when nothing is asked for, although a worker may still be about something that was cancelled. */
static void look(void)
{
    ck_assert_int_eq(aflock_epoll_run_once(scene, AFLOCK_MILLISECOND), 0);
    usleep(1000);
}

void settle(void)
{
    for (int i = 0; i < 20; i++)
        look();
}

bool is_so(const char *names, const char *expected)
{
    bool so = true;
    for (size_t i = 0; names[i]; i++) {
        const char name[] = {names[i], '\0'};
        bool is_free = access(name, F_OK) != 0 || scene_is_free(name, LOCK_EX);
        so &= is_free == (expected[i] == '-');
    }
    return so;
}

void must_be(const char *names, const char *expected)
{
    for (int i = 0; i < 5000 && !is_so(names, expected); i++)
        look();
    ck_assert_msg(is_so(names, expected), "%s are not %s", names, expected);
}

void must_become_free(const char *names)
{
    char expected[16] = "";
    memset(expected, '-', strlen(names));
    settle();
    must_be(names, expected);
}

pid_t holder_of(const char *path)
{
    return scene_holder(path, O_RDWR | O_CREAT | O_CLOEXEC, LOCK_EX);
}

void begin(void)
{
    scene_begin();
    ck_assert_int_eq(aflock_several_new(&list, scene), 0);
}

void end(void)
{
    aflock_several_free(list);
    scene_end();
}

int several_main(const char *name, const TTest *const once[], const TTest *const each[])
{
    return scene_main_with(begin, end, 30, name, once, each);
}
