#include "kinds.h"

#include <unistd.h>

static aflock *open_kind(rig *r, const kind *k, int io)
{
    char path[PATH_MAX];
    aflock *lock;
    aflock_options o;
    aflock_options_init(&o);
    o.protocol = k->protocol;
    o.temporary = k->temporary;
    o.io = (aflock_io)io;
    o.wait = k->wait;
    o.poll_interval = 5 * MS;
    rig_path(r, k->name, path);
    require_status(aflock_open(&lock, r->ctx, path, &o), 0);
    return lock;
}

bool kind_is_there(const rig *r, const char *name)
{
    char path[PATH_MAX];
    rig_path(r, name, path);
    return access(path, F_OK) == 0;
}

void kind_use_once(rig *r, const kind *k, aflock *lock)
{
    answer a = {.count = 0};
    rig_hold(r, lock, NULL, &a);
    k->methods->look(r, k, &a);
    rig_let_go(r, lock, a.req);
    k->methods->look_after(r, k);
}

/* The next kind gets the path. */
static void end_of(rig *r, const kind *k, aflock *lock)
{
    require_status(rig_close(r, lock), 0);
    if (k->methods->clear)
        k->methods->clear(r, k);
}

void kind_each(rig *r, const kind *kinds, size_t count, void (*body)(rig *r, const kind *k, aflock *lock))
{
    for (const kind *k = kinds; k < kinds + count; k++) {
        for (int io = AFLOCK_IO_AUTO; io <= AFLOCK_IO_POOL; io++) {
            aflock *lock = open_kind(r, k, io);
            kind_use_once(r, k, lock);
            body(r, k, lock);
            kind_use_once(r, k, lock);
            end_of(r, k, lock);
        }
    }
}

void kind_wait_for_it(rig *r, const kind *k, aflock *lock)
{
    answer a = {.count = 0};
    const int fd = k->methods->take(r, k);
    require_status(rig_acquire(r, lock, NULL, &a), 0);
    rig_pass(r, 10 * MS);
    require(a.count == 0);
    k->methods->give(r, k, fd);
    rig_await_status(r, &a, 0);
    k->methods->look(r, k, &a);
    rig_let_go(r, lock, a.req);
    k->methods->look_after(r, k);
}

static void give_it_on(answer *a, aflock *lock)
{
    require_status(a->result.status, 0);
    require_status(rig_release(a->rig, lock, a->req, NULL), 0);
}

void kind_hand_it_on(rig *r, const kind *k, aflock *lock)
{
    answer a[4] = {{.count = 0}};
    const unsigned before = r->answers;
    (void)k;
    for (int i = 0; i < 4; i++) {
        a[i].then = give_it_on;
        require_status(rig_acquire(r, lock, NULL, &a[i]), 0);
    }
    for (unsigned i = 0; i < 4; i++) {
        rig_await_status(r, &a[i], 0);
        require(a[i].order == before + i + 1);
    }
}

void kind_give_the_wait_up(rig *r, const kind *k, aflock *lock)
{
    answer a = {.count = 0}, b = {.count = 0};
    const aflock_acquire_options o = rig_options(10 * MS);
    const int fd = k->methods->take(r, k);
    require_status(rig_acquire(r, lock, NULL, &a), 0);
    require_status(rig_acquire(r, lock, &o, &b), 0);
    rig_await_status(r, &b, AFLOCK_ETIMEDOUT);
    require_status(rig_cancel(r, lock, a.req), 0);
    rig_await_status(r, &a, AFLOCK_ECANCELED);
    require(kind_is_there(r, k->held)); /* it is still his */
    k->methods->give(r, k, fd);
}

void kind_free_while_held(rig *r, const kind *kinds, size_t count)
{
    for (const kind *k = kinds; k < kinds + count; k++) {
        for (int io = AFLOCK_IO_AUTO; io <= AFLOCK_IO_POOL; io++) {
            answer a = {.count = 0};
            rig_hold(r, open_kind(r, k, io), NULL, &a);
            require_status(rig_free(r, SEC), 0);
            k->methods->look_after(r, k);
            require_status(rig_context(r, &r->ctx), 0);
            aflock *lock = open_kind(r, k, io);
            kind_use_once(r, k, lock);
            end_of(r, k, lock);
        }
    }
}
