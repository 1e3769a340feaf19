/* Where attempts run, as the seam saw it: AUTO takes the loop's thread for what cannot block and the executor for the
 * rest; POOL never touches the file system on the loop's thread; INLINE never leaves it. */
#include "support/scene.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

/* What has run until now does not count. */
static void count_from_here(void)
{
    seam_reset();
    scene_inline = scene_pooled = 0;
}

/* Makes the file system known to the context: from here on AUTO may stay on the loop's thread. */
static void learn_the_mount(void)
{
    aflock *lock = scene_open("known", AFLOCK_IO_AUTO);
    scene_must_work(lock);
    ck_assert_int_eq(aflock_close(lock), 0);
    count_from_here();
}

/* ------------------------------------------------------------------------------------------------------------- AUTO */

START_TEST(cached_and_local_stays_on_the_loop)
{
    learn_the_mount();
    scene_write("lock", "");
    aflock *lock = scene_open("lock", AFLOCK_IO_AUTO);
    for (int i = 0; i < 10; i++) {
        aflock_req req = scene_hold(lock, NULL);
        ck_assert_int_eq(scene_release(lock, req).result.status, 0);
    }
    ck_assert_int_eq(scene_inline, 20);
    ck_assert_int_eq(scene_pooled, 0);
    ck_assert_int_eq(seam_total_elsewhere(), 0);
    ck_assert_int_eq(seam_count(SEAM_OPEN_CACHED), 11); /* the parent, then the file each time */
    ck_assert_int_eq(seam_count(SEAM_OPEN) + seam_count(SEAM_CREATE), 0);
    ck_assert_int_eq(seam_on_loop(SEAM_LOCK), 10);
    ck_assert_int_eq(seam_on_loop(SEAM_UNLOCK), 10);
}
END_TEST

START_TEST(a_mount_seen_for_the_first_time_is_asked_about_on_the_pool)
{
    scene_write("lock", "");
    aflock *lock = scene_open("lock", AFLOCK_IO_AUTO);
    ck_assert_int_eq(seam_total(), 0); /* opening touches nothing */
    aflock_req req = scene_hold(lock, NULL);
    ck_assert_int_eq(scene_pooled, 1);
    ck_assert_int_ge(seam_count(SEAM_READ), 1);
    ck_assert_int_eq(seam_on_loop(SEAM_READ), 0);
    ck_assert_int_eq(seam_on_loop(SEAM_LOCK), 1); /* known now, the attempt itself stays here */
    ck_assert_int_eq(scene_release(lock, req).result.status, 0);
    ck_assert_int_eq(scene_pooled, 1);
    count_from_here();
    aflock *other = scene_open("lock2", AFLOCK_IO_AUTO);
    scene_write("lock2", "");
    req = scene_hold(other, NULL);
    ck_assert_int_eq(seam_total_elsewhere(), 0); /* once per mount */
    ck_assert_int_eq(scene_release(other, req).result.status, 0);
}
END_TEST

START_TEST(a_missing_file_is_made_on_the_pool)
{
    learn_the_mount();
    aflock *lock = scene_open("lock", AFLOCK_IO_AUTO);
    aflock_req req = scene_hold(lock, NULL);
    ck_assert_int_eq(scene_pooled, 1);
    ck_assert_int_eq(seam_count(SEAM_CREATE), 1);
    ck_assert_int_eq(seam_on_loop(SEAM_CREATE), 0);
    ck_assert_int_eq(scene_release(lock, req).result.status, 0);
    ck_assert_int_eq(scene_pooled, 1); /* the release is not worth a thread */
}
END_TEST

START_TEST(missing_parents_are_made_on_the_pool)
{
    learn_the_mount();
    aflock *lock = scene_open("a/b/lock", AFLOCK_IO_AUTO);
    aflock_req req = scene_hold(lock, NULL);
    ck_assert_int_ge(seam_count(SEAM_MKDIR), 2);
    ck_assert_int_eq(seam_on_loop(SEAM_MKDIR), 0);
    ck_assert_int_eq(seam_on_loop(SEAM_CREATE), 0);
    ck_assert_int_eq(seam_on_loop(SEAM_OPEN), 0);
    ck_assert_int_eq(scene_release(lock, req).result.status, 0);
}
END_TEST

START_TEST(what_is_not_in_the_cache_is_looked_up_on_the_pool)
{
    learn_the_mount();
    scene_write("lock", "");
    aflock *lock = scene_open("lock", AFLOCK_IO_AUTO);
    seam_fail(SEAM_OPEN_CACHED, 1, 1, EAGAIN); /* the parent is cached, the file is not */
    aflock_req req = scene_hold(lock, NULL);
    ck_assert_int_eq(scene_pooled, 1);
    ck_assert_int_eq(seam_on_loop(SEAM_OPEN_CACHED), 2);
    ck_assert_int_eq(seam_on_loop(SEAM_CREATE) + seam_on_loop(SEAM_LOCK), 0);
    ck_assert_int_eq(seam_count(SEAM_LOCK), 1);
    ck_assert_int_eq(scene_release(lock, req).result.status, 0);
    ck_assert_int_eq(aflock_close(lock), 0);

    count_from_here();
    lock = scene_open("lock", AFLOCK_IO_AUTO);
    seam_fail(SEAM_OPEN_CACHED, 0, 1, EAGAIN); /* nor is the parent */
    req = scene_hold(lock, NULL);
    ck_assert_int_eq(seam_on_loop(SEAM_OPEN), 0);
    ck_assert_int_eq(seam_on_loop(SEAM_IDENTIFY), 0);
    ck_assert_int_eq(scene_release(lock, req).result.status, 0);
}
END_TEST

START_TEST(a_kernel_without_cached_look_ups)
{
    learn_the_mount();
    aflock *lock = scene_open("lock", AFLOCK_IO_AUTO);
    seam_fail(SEAM_OPEN_CACHED, 0, 1000, ENOSYS);
    scene_must_work(lock);
    ck_assert_int_eq(seam_on_loop(SEAM_CREATE) + seam_on_loop(SEAM_OPEN) + seam_on_loop(SEAM_LOCK), 0);
}
END_TEST

static int accept_it(int fd, void *user)
{
    (void)fd, (void)user;
    return 0;
}

START_TEST(wishes_are_served_on_the_pool)
{
    learn_the_mount();
    scene_write("lock", "text");
    aflock *lock = scene_open("lock", AFLOCK_IO_AUTO);
    aflock_acquire_options truncating = scene_options(AFLOCK_TRUNCATE, 0), changing = scene_options(0, 0);
    aflock_acquire_options calling = scene_options(0, 0);
    changing.file_mode = 0600;
    calling.on_acquired = accept_it;
    const aflock_acquire_options *each[] = {&truncating, &changing, &calling};
    for (int i = 0; i < 3; i++) {
        aflock_req req = scene_hold(lock, each[i]);
        ck_assert_int_eq(scene_pooled, i + 1); /* the wish, not the attempt */
        ck_assert_int_eq(scene_release(lock, req).result.status, 0);
    }
    ck_assert_int_eq(seam_on_loop(SEAM_LOCK), 3);
    ck_assert_int_eq(seam_count(SEAM_FTRUNCATE), 1);
    ck_assert_int_eq(seam_on_loop(SEAM_FTRUNCATE), 0);
    ck_assert_int_eq(seam_count(SEAM_FCHMOD), 1);
    ck_assert_int_eq(seam_on_loop(SEAM_FCHMOD), 0);
}
END_TEST

/* A file system of which nothing is known could hang like a network: as if its type could not be read. */
START_TEST(an_unknown_file_system_is_the_pools)
{
    scene_write("lock", "");
    aflock *lock = scene_open("lock", AFLOCK_IO_AUTO);
    seam_fail(SEAM_READ, 0, 1000, EIO);
    for (int i = 0; i < 3; i++) {
        aflock_req req = scene_hold(lock, NULL);
        ck_assert_int_eq(scene_release(lock, req).result.status, 0);
    }
    ck_assert_int_eq(scene_inline, 0);
    ck_assert_int_eq(seam_count(SEAM_LOCK), 3);
    ck_assert_int_eq(seam_on_loop(SEAM_LOCK) + seam_on_loop(SEAM_UNLOCK) + seam_on_loop(SEAM_STAT), 0);
}
END_TEST

/* The same with a real one that is on no list. */
START_TEST(a_file_system_that_is_on_no_list_is_the_pools)
{
    aflock *lock = scene_open("/proc/sys", AFLOCK_IO_AUTO);
    aflock_acquire_options o = scene_options(AFLOCK_DIRECTORY | AFLOCK_READ_ONLY, AFLOCK_CREATE);
    o.mode = AFLOCK_SHARED;
    aflock_req req = scene_hold(lock, &o);
    ck_assert_int_eq(scene_release(lock, req).result.status, 0);
    ck_assert_int_eq(scene_inline, 0);
    ck_assert_int_eq(seam_on_loop(SEAM_LOCK), 0);
}
END_TEST

START_TEST(the_release_of_a_contended_file_stays_on_the_loop)
{
    learn_the_mount();
    pid_t pid = scene_holder("lock", O_RDWR | O_CREAT, LOCK_EX);
    aflock *lock = scene_open("lock", AFLOCK_IO_AUTO);
    aflock_acquire_options o = scene_options(0, 0);
    o.timeout = 0;
    ck_assert_int_eq(scene_acquire(lock, &o).result.status, AFLOCK_EWOULDBLOCK);
    while (aflock_epoll_alive(scene))
        ck_assert_int_eq(aflock_epoll_run_once(scene, AFLOCK_SECOND), 0);
    ck_assert_int_eq(seam_total_elsewhere(), 0);
    ck_assert_int_eq(scene_inline, 2); /* try, withdraw */
    scene_holder_end(pid);
}
END_TEST

/* --------------------------------------------------------------------------------------------------------------- try
 */

START_TEST(try_stays_here_or_touches_nothing)
{
    aflock *lock = scene_open("lock", AFLOCK_IO_AUTO);
    aflock_req req;
    aflock_result result = {0};
    int descriptors = scene_descriptors();
    ck_assert_int_eq(aflock_try(lock, NULL, &req, &result), AFLOCK_ENOTINLINE); /* the mount is not known */
    ck_assert_int_eq(result.status, AFLOCK_ENOTINLINE);
    ck_assert(req.id == 0);
    learn_the_mount();
    ck_assert_int_eq(aflock_try(lock, NULL, &req, NULL), AFLOCK_ENOTINLINE); /* the file is missing */
    ck_assert_int_eq(scene_size("lock"), -1);
    aflock *deep = scene_open("a/lock", AFLOCK_IO_AUTO);
    ck_assert_int_eq(aflock_try(deep, NULL, &req, NULL), AFLOCK_ENOTINLINE);
    ck_assert_int_eq(scene_size("a"), -1);
    ck_assert_int_eq(seam_total_elsewhere(), 0);
    ck_assert_int_eq(seam_count(SEAM_OPEN) + seam_count(SEAM_CREATE) + seam_count(SEAM_LOCK), 0);

    aflock_acquire_options o = scene_options(AFLOCK_TRUNCATE, 0);
    scene_write("lock", "text");
    ck_assert_int_eq(aflock_try(lock, &o, &req, NULL), AFLOCK_ENOTINLINE);
    ck_assert_int_eq(scene_size("lock"), 4);
    o = scene_options(0, 0);
    o.on_acquired = accept_it;
    ck_assert_int_eq(aflock_try(lock, &o, &req, NULL), AFLOCK_ENOTINLINE);
    ck_assert_int_eq(scene_descriptors(), descriptors);

    count_from_here();
    ck_assert_int_eq(aflock_try(lock, NULL, &req, &result), 0);
    ck_assert_int_eq(result.status, 0);
    ck_assert_int_eq(result.fd, aflock_fd(lock, req));
    ck_assert_int_eq((int)result.attempts, 1);
    ck_assert(!scene_is_free("lock", LOCK_SH));
    ck_assert_int_eq(scene_release(lock, req).result.status, 0);
    ck_assert_int_eq(seam_total_elsewhere(), 0);
}
END_TEST

START_TEST(try_meets_a_holder)
{
    learn_the_mount();
    pid_t pid = scene_holder("lock", O_RDWR | O_CREAT, LOCK_EX);
    aflock *lock = scene_open("lock", AFLOCK_IO_AUTO);
    aflock_req req;
    int descriptors = scene_descriptors();
    ck_assert_int_eq(aflock_try(lock, NULL, &req, NULL), AFLOCK_EWOULDBLOCK);
    ck_assert_int_eq(seam_count(SEAM_LOCK), 1);
    ck_assert_int_eq(scene_descriptors(), descriptors);
    scene_holder_end(pid);
    ck_assert_int_eq(aflock_try(lock, NULL, &req, NULL), 0);
    aflock_req second;
    ck_assert_int_eq(aflock_try(lock, NULL, &second, NULL), AFLOCK_EWOULDBLOCK);
    ck_assert_int_eq(scene_release(lock, req).result.status, 0);
    ck_assert_int_eq(seam_total_elsewhere(), 0);
}
END_TEST

START_TEST(try_of_an_inline_lock_creates)
{
    aflock *lock = scene_open("a/lock", AFLOCK_IO_INLINE);
    aflock_acquire_options o = scene_options(AFLOCK_TRUNCATE, 0);
    aflock_req req;
    ck_assert_int_eq(aflock_try(lock, &o, &req, NULL), 0);
    ck_assert(!scene_is_free("a/lock", LOCK_SH));
    ck_assert_int_eq(scene_release(lock, req).result.status, 0);
    ck_assert_int_eq(seam_total_elsewhere(), 0);
}
END_TEST

START_TEST(try_of_a_pool_lock_makes_no_call_at_all)
{
    learn_the_mount();
    scene_write("lock", "");
    aflock *pooled = scene_open("lock", AFLOCK_IO_POOL), *here = scene_open("lock", AFLOCK_IO_AUTO);
    aflock_req req;
    ck_assert_int_eq(aflock_try(pooled, NULL, &req, NULL), AFLOCK_ENOTINLINE);
    ck_assert_int_eq(aflock_try(here, NULL, &req, NULL), AFLOCK_ENOTINLINE); /* one queue */
    ck_assert_int_eq(seam_total(), 0);
    scene_must_work(pooled);
    ck_assert_int_eq(aflock_close(pooled), 0);
    ck_assert_int_eq(aflock_try(here, NULL, &req, NULL), 0);
    ck_assert_int_eq(scene_release(here, req).result.status, 0);
}
END_TEST

/* ---------------------------------------------------------------------------------------------------- POOL and INLINE
 */

static void on_inspected(aflock *lock, const aflock_holder *holder, void *user)
{
    (void)lock, (void)holder;
    (*(int *)user)++;
}

/* All that a lock can be asked for: made, contended, handed on, converted, refused, verified, inspected. */
static void use_fully(aflock_io io)
{
    aflock *lock = scene_open("a/lock", io), *bad = scene_open("a/lock/b", io);
    aflock_acquire_options wishes = scene_options(AFLOCK_TRUNCATE, 0), shared = scene_options(0, 0);
    wishes.file_mode = 0600;
    wishes.on_acquired = accept_it;
    shared.mode = AFLOCK_SHARED;
    aflock_req req = scene_hold(lock, &wishes);
    ck_assert_int_eq(scene_acquire(bad, NULL).result.status, AFLOCK_ENOTDIR);
    answer next = {0}, verified = {0};
    int inspected = 0;
    ck_assert_int_eq(aflock_acquire(lock, &shared, scene_answer, &next, NULL), 0);
    ck_assert_int_eq(aflock_verify(lock, req, scene_answer, &verified), 0);
    ck_assert_int_eq(aflock_inspect(lock, on_inspected, &inspected), 0);
    scene_expect(2);
    scene_run_until(&verified.count, 1);
    scene_run_until(&inspected, 1);
    ck_assert_int_eq(scene_release(lock, req).result.status, 0);
    scene_run_until(&next.count, 1);
    ck_assert_int_eq(next.result.status, 0);
    ck_assert_int_eq(scene_release(lock, next.result.req).result.status, 0);

    pid_t pid = scene_holder("a/lock", O_RDWR, LOCK_EX);
    answer waiting = {0};
    aflock_req waiter;
    ck_assert_int_eq(aflock_acquire(lock, NULL, scene_answer, &waiting, &waiter), 0);
    scene_expect(1);
    scene_run_until(&scene_contended, 3);
    ck_assert_int_eq(aflock_cancel(lock, waiter), 0);
    scene_run_until(&waiting.count, 1);
    scene_holder_end(pid);

    int fd = open("own", O_RDWR | O_CREAT, 0666);
    aflock *own;
    aflock_options o;
    aflock_options_init(&o);
    o.io = io;
    ck_assert_int_eq(aflock_open_fd(&own, scene, fd, &o), 0);
    ck_assert_int_eq(scene_release(own, scene_hold(own, NULL)).result.status, 0);
    close(fd);
    scene_hold(lock, NULL); /* left to the end of the context */
    ck_assert_int_gt(seam_total(), 0);
}

START_TEST(pool_never_touches_files_on_the_loop)
{
    use_fully(AFLOCK_IO_POOL);
    scene_free_context();
    ck_assert_int_eq(scene_inline, 0);
    ck_assert_int_eq(seam_total_on_loop(), 0);
    ck_assert(scene_is_free("a/lock", LOCK_EX));
}
END_TEST

START_TEST(inline_never_leaves_the_loop)
{
    use_fully(AFLOCK_IO_INLINE);
    scene_free_context();
    ck_assert_int_eq(scene_pooled, 0);
    ck_assert_int_eq(seam_total_elsewhere(), 0);
    ck_assert(scene_is_free("a/lock", LOCK_EX));
}
END_TEST

START_TEST(auto_makes_nothing_on_the_loop)
{
    use_fully(AFLOCK_IO_AUTO);
    scene_free_context();
    ck_assert_int_eq(seam_on_loop(SEAM_OPEN) + seam_on_loop(SEAM_CREATE) + seam_on_loop(SEAM_MKDIR), 0);
    ck_assert_int_eq(seam_on_loop(SEAM_FTRUNCATE) + seam_on_loop(SEAM_FCHMOD) + seam_on_loop(SEAM_READ), 0);
    ck_assert_int_gt(seam_on_loop(SEAM_LOCK), 0);
    ck_assert(scene_is_free("a/lock", LOCK_EX));
}
END_TEST

/* Locks on one path share a queue; the wish for the pool counts for all of them. */
START_TEST(one_pool_lock_on_a_path_sends_all_to_the_pool)
{
    learn_the_mount();
    scene_write("lock", "");
    aflock *here = scene_open("lock", AFLOCK_IO_INLINE), *pooled = scene_open("lock", AFLOCK_IO_POOL);
    scene_must_work(here);
    ck_assert_int_eq(seam_total_on_loop(), 0);
    ck_assert_int_eq(aflock_close(pooled), 0);
    scene_must_work(here);
    ck_assert_int_gt(seam_total_on_loop(), 0);
}
END_TEST

/* Where a path leads can be found out by one lock and used by another. */
START_TEST(what_an_inline_lock_resolved_can_stay_on_the_loop)
{
    scene_write("lock", "");
    learn_the_mount();
    aflock *first = scene_open("lock", AFLOCK_IO_INLINE), *second = scene_open("lock", AFLOCK_IO_AUTO);
    scene_must_work(first);
    count_from_here();
    scene_must_work(second);
    ck_assert_int_eq(seam_total_elsewhere(), 0);
}
END_TEST

int main(void)
{
    const TTest *const once[] = {
        cached_and_local_stays_on_the_loop,
        a_mount_seen_for_the_first_time_is_asked_about_on_the_pool,
        a_missing_file_is_made_on_the_pool,
        missing_parents_are_made_on_the_pool,
        what_is_not_in_the_cache_is_looked_up_on_the_pool,
        a_kernel_without_cached_look_ups,
        wishes_are_served_on_the_pool,
        an_unknown_file_system_is_the_pools,
        a_file_system_that_is_on_no_list_is_the_pools,
        the_release_of_a_contended_file_stays_on_the_loop,
        try_stays_here_or_touches_nothing,
        try_meets_a_holder,
        try_of_an_inline_lock_creates,
        try_of_a_pool_lock_makes_no_call_at_all,
        pool_never_touches_files_on_the_loop,
        inline_never_leaves_the_loop,
        auto_makes_nothing_on_the_loop,
        one_pool_lock_on_a_path_sends_all_to_the_pool,
        what_an_inline_lock_resolved_can_stay_on_the_loop,
        NULL,
    };
    return scene_main("auto", once, NULL);
}
