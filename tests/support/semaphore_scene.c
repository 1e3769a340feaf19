/* See semaphore_scene.h. */
#include "support/semaphore_scene.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

aflock_semaphore *semaphore;

void tell(aflock_semaphore *s, const aflock_semaphore_result *r, void *user)
{
    told *t = user;
    ck_assert_ptr_eq(s, semaphore);
    t->count++;
    t->result = *r;
    snprintf(t->path, sizeof t->path, "%s", r->path ? r->path : "");
    snprintf(t->step, sizeof t->step, "%s", r->step ? r->step : "");
    if (t->order)
        t->place = ++*t->order;
    if (t->releases && r->status == 0)
        ck_assert_int_eq(aflock_semaphore_release(s, r->permit, NULL, NULL), 0);
}

void make(const char *directory, unsigned maximum, aflock_io io, uint64_t poll_interval)
{
    aflock_semaphore_options o;
    aflock_options lock;
    aflock_semaphore_options_init(&o);
    aflock_options_init(&lock);
    lock.io = io;
    lock.poll_interval = poll_interval;
    o.lock = &lock;
    ck_assert_int_eq(aflock_semaphore_new(&semaphore, scene, directory, "s", maximum, &o), 0);
    ck_assert_uint_eq(aflock_semaphore_maximum(semaphore), maximum);
}

void make_here(aflock_io io)
{
    make(".", MAXIMUM, io, AFLOCK_FOREVER);
}

aflock_permit ask_for(uint64_t timeout, aflock_token *token, told *t)
{
    aflock_permit permit;
    ck_assert_int_eq(aflock_semaphore_acquire(semaphore, timeout, token, tell, t, &permit), 0);
    ck_assert_uint_ne(permit.id, 0);
    return permit;
}

aflock_permit ask(told *t)
{
    *t = (told){.count = 0};
    aflock_permit permit = ask_for(AFLOCK_FOREVER, NULL, t);
    ck_assert_int_eq(t->count, 0);
    return permit;
}

aflock_permit take(unsigned expected)
{
    told t;
    aflock_permit permit = ask(&t);
    scene_run_until(&t.count, 1);
    ck_assert_int_eq(t.result.status, 0);
    ck_assert_uint_eq(t.result.slot, expected);
    ck_assert(t.result.permit.id == permit.id);
    ck_assert_str_eq(t.path, aflock_path(aflock_semaphore_lock(semaphore, expected)));
    ck_assert_int_ge(t.result.fd, 0);
    ck_assert(!scene_is_free(t.path, LOCK_SH));
    return permit;
}

void give(aflock_permit permit)
{
    told t = {.count = 0};
    ck_assert_int_eq(aflock_semaphore_release(semaphore, permit, tell, &t), 0);
    ck_assert_int_eq(aflock_semaphore_release(semaphore, permit, tell, &t), AFLOCK_ESTALE);
    scene_run_until(&t.count, 1);
    ck_assert_int_eq(t.result.status, 0);
    ck_assert_int_eq(t.result.fd, -1);
    ck_assert(t.result.permit.id == permit.id);
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

void await_free(const char *path)
{
    for (int i = 0; i < 5000 && !scene_is_free(path, LOCK_EX); i++)
        look();
    ck_assert(scene_is_free(path, LOCK_EX));
}

void end(void)
{
    aflock_semaphore_free(semaphore);
    semaphore = NULL;
    scene_end();
}

pid_t slot_holder(unsigned slot)
{
    char name[32];
    snprintf(name, sizeof name, "s.%02u.lock", slot);
    return scene_holder(name, O_RDWR | O_CREAT | O_CLOEXEC, LOCK_EX);
}

int semaphore_main(const char *name, const TTest *const once[], const TTest *const each[])
{
    return scene_main_with(scene_begin, end, 30, name, once, each);
}
