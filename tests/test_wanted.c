/* Holders that make way for others: real files, other programs, other contexts. Who is not heard waits until the
 * watchdog barks. */
#include "support/instances.h"
#include "support/scene.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* ------------------------------------------------------------------------------------------------------- our side */

typedef struct asker {
    int here, elsewhere;
    bool makes_way;
} asker;

static void on_wanted(aflock *lock, aflock_req req, aflock_wanted who, void *user)
{
    asker *k = user;
    *(who == AFLOCK_WANTED_HERE ? &k->here : &k->elsewhere) += 1;
    if (k->makes_way)
        ck_assert_int_eq(aflock_release(lock, req, NULL, NULL), 0);
}

static aflock *open_lock(aflock_ctx *ctx, const char *path, aflock_io io)
{
    aflock *lock;
    aflock_options o;
    aflock_options_init(&o);
    o.io = io;
    o.wait = AFLOCK_WAIT_NOTIFY;
    ck_assert_int_eq(aflock_open(&lock, ctx, path, &o), 0);
    return lock;
}

static aflock_req hold(aflock *lock, asker *k, aflock_mode mode)
{
    aflock_acquire_options o = scene_options(0, 0);
    o.mode = mode;
    o.on_wanted = on_wanted;
    o.on_wanted_user = k;
    return scene_hold(lock, &o);
}

/* What is on its way comes. */
static void pass_some_time(void)
{
    for (int i = 0; i < 20; i++)
        ck_assert_int_eq(aflock_epoll_run_once(scene, AFLOCK_MILLISECOND), 0);
}

static void become_idle(void)
{
    while (aflock_epoll_alive(scene))
        ck_assert_int_eq(aflock_epoll_run_once(scene, AFLOCK_SECOND), 0);
}

/* -------------------------------------------------------------------------------------------------- other programs */

static pid_t run(const char *program, const char *const arguments[])
{
    pid_t child = fork();
    ck_assert_int_ge(child, 0);
    if (child == 0) {
        execvp(program, (char *const *)arguments);
        _exit(127);
    }
    return child;
}

static pid_t run_flock(const char *mode)
{
    const char *const arguments[] = {"flock", mode, "lock", "true", NULL};
    return run("flock", arguments);
}

static pid_t run_python(void)
{
    static const char *const code = "import filelock\n"
                                    "with filelock.FileLock('lock'):\n"
                                    "    pass\n";
    const char *python = getenv("PYTHON");
    const char *const arguments[] = {"python3", "-c", code, NULL};
    return run(python ? python : "/usr/bin/python3", arguments);
}

static int end_of(pid_t child)
{
    int status;
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static bool is_blocked(pid_t child)
{
    char line[256], number[32];
    bool found = false;
    snprintf(number, sizeof number, " %d ", (int)child);
    FILE *locks = fopen("/proc/locks", "re");
    ck_assert_ptr_nonnull(locks);
    while (fgets(line, sizeof line, locks))
        found |= strstr(line, "->") && strstr(line, number);
    fclose(locks);
    return found;
}

static void await_blocked(pid_t child)
{
    scene_await(is_blocked(child));
}

/* -------------------------------------------------------------------------------------------------- who is heard */

static bool goes_on;

static void ask_again(aflock *lock, aflock_req req, aflock_wanted who, void *user)
{
    aflock_acquire_options o = scene_options(0, 0);
    (void)who;
    if (!goes_on)
        return;
    o.on_wanted = ask_again;
    o.on_wanted_user = user;
    ck_assert_int_eq(aflock_release(lock, req, NULL, NULL), 0);
    ck_assert_int_eq(aflock_acquire(lock, &o, scene_answer, user, NULL), 0);
    scene_expect(1);
}

/* Whether it gets in, before our patience with it is at an end. */
static bool gets_in(pid_t child)
{
    int status = -1;
    for (int i = 0; i < 200 && waitpid(child, &status, WNOHANG) == 0; i++)
        ck_assert_int_eq(aflock_epoll_run_once(scene, 5 * AFLOCK_MILLISECOND), 0);
    if (WIFEXITED(status))
        return WEXITSTATUS(status) == 0;
    ck_assert_int_eq(kill(child, SIGKILL), 0);
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    return false;
}

/* We want it always. Who needs longer from his opening the file to his asking than our nine holds take, as can be on a
 * busy machine, is not heard any more: then it is another one's turn. */
START_TEST(flock_is_let_in_although_we_ask_again)
{
    static answer a;
    aflock *lock = open_lock(scene, "lock", scene_io(_i));
    aflock_acquire_options o = scene_options(0, 0);
    o.on_wanted = ask_again;
    o.on_wanted_user = &a;
    goes_on = true;
    scene_must_work(lock);
    ck_assert_int_eq(aflock_acquire(lock, &o, scene_answer, &a, NULL), 0);
    scene_expect(1);
    scene_run_until(&a.count, 1);
    scene_turn_until(gets_in(run_flock("-x")));
    goes_on = false;
    become_idle(); /* and so are we */
}
END_TEST

/* We hold and make way as soon as we are told, again and again. */
START_TEST(flock_is_let_in)
{
    for (int i = 0; i < 5; i++) {
        asker k = {.makes_way = true};
        aflock *lock = open_lock(scene, "lock", scene_io(_i)); /* which knows nothing of the last one */
        hold(lock, &k, AFLOCK_EXCLUSIVE);
        ck_assert_int_eq(inotify_watches(), 1);
        pid_t child = run_flock("-x");
        scene_run_until(&k.elsewhere, 1);
        become_idle();
        ck_assert_int_eq(end_of(child), 0);
        ck_assert_int_eq(k.elsewhere, 1);
        ck_assert_int_eq(k.here, 0);
        ck_assert_int_eq(inotify_watches(), 0);
        ck_assert_int_eq(aflock_close(lock), 0);
    }
    ck_assert_int_eq(scene_logged, 0);
}
END_TEST

START_TEST(python_is_let_in)
{
    asker k = {.makes_way = true};
    aflock *lock = open_lock(scene, "lock", scene_io(_i));
    hold(lock, &k, AFLOCK_EXCLUSIVE);
    pid_t child = run_python();
    scene_run_until(&k.elsewhere, 1);
    become_idle();
    ck_assert_int_eq(end_of(child), 0);
}
END_TEST

/* Neither of the two contexts knows of the other. */
START_TEST(another_context_is_let_in)
{
    aflock_ctx *second;
    answer a = {0};
    asker k = {.makes_way = true};
    int descriptors = scene_descriptors();
    ck_assert_int_eq(aflock_epoll_new(&second, NULL), 0);
    aflock *ours = open_lock(scene, "lock", scene_io(_i)), *theirs = open_lock(second, "lock", scene_io(_i));
    hold(ours, &k, AFLOCK_EXCLUSIVE);
    ck_assert_int_eq(aflock_acquire(theirs, NULL, scene_answer, &a, NULL), 0);
    scene_expect(1);
    for (time_t limit = scene_limit(); a.count == 0;) {
        ck_assert_int_eq(aflock_epoll_run_once(second, AFLOCK_MILLISECOND), 0);
        scene_turn(limit, "the other one got in");
    }
    ck_assert_int_eq(a.count, 1);
    ck_assert_int_eq(a.result.status, 0);
    ck_assert_int_eq(k.elsewhere, 1);
    ck_assert_int_eq(k.here, 0);
    ck_assert_int_eq(aflock_ctx_free(second, 30 * AFLOCK_SECOND), 0);
    scene_await_descriptors(descriptors + 1); /* ours has listened with one */
}
END_TEST

/* Reads until we are told. Who is blocked is looked for once a hold, and the system can leave him out of its list when
 * others lock and unlock meanwhile. */
static aflock_req read_until_told(aflock *lock, asker *k)
{
    for (time_t limit = scene_limit();;) {
        const aflock_req held = hold(lock, k, AFLOCK_SHARED);
        for (int i = 0; i < 100 && !k->elsewhere; i++)
            scene_turn(limit, "we were told");
        if (k->elsewhere)
            return held;
        ck_assert_int_eq(scene_release(lock, held).result.status, 0);
    }
}

/* A writer is blocked by another program's reader before we read, too: it opened the file long ago. */
START_TEST(who_was_blocked_before_is_found)
{
    asker k = {0};
    aflock *lock = open_lock(scene, "lock", scene_io(_i));
    scene_must_work(lock);
    int reader = open("lock", O_RDONLY | O_CLOEXEC);
    ck_assert_int_eq(flock(reader, LOCK_SH), 0);
    pid_t child = run_flock("-x");
    await_blocked(child);
    aflock_req held = read_until_told(lock, &k);
    close(reader);
    ck_assert_int_eq(scene_release(lock, held).result.status, 0);
    ck_assert_int_eq(end_of(child), 0);
    ck_assert_int_eq(k.elsewhere, 1);
}
END_TEST

/* On open-file-description locks, as a process's lock that waits in the kernel: it takes part, although it opened the
 * file before. */
static void wait_in_the_kernel(void)
{
    struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    int fd = open("lock", O_RDWR);
    ck_assert_int_eq(fcntl(fd, F_SETLKW, &whole), 0);
}

START_TEST(who_waits_for_a_record_lock_is_found)
{
    asker k = {0};
    aflock *lock;
    aflock_options o;
    aflock_options_init(&o);
    o.io = scene_io(_i);
    o.protocol = AFLOCK_OFD;
    o.wait = AFLOCK_WAIT_NOTIFY;
    ck_assert_int_eq(aflock_open(&lock, scene, "lock", &o), 0);
    ck_assert_int_eq(scene_release(lock, scene_hold(lock, NULL)).result.status, 0);
    struct flock whole = {.l_type = F_RDLCK, .l_whence = SEEK_SET};
    int reader = open("lock", O_RDONLY | O_CLOEXEC);
    ck_assert_int_eq(fcntl(reader, F_OFD_SETLK, &whole), 0);
    pid_t child = fork();
    if (child == 0) {
        close(reader);
        wait_in_the_kernel();
        _exit(0);
    }
    await_blocked(child);
    aflock_req held = read_until_told(lock, &k);
    close(reader);
    ck_assert_int_eq(scene_release(lock, held).result.status, 0);
    ck_assert_int_eq(end_of(child), 0);
}
END_TEST

/* Another name is another path: its request waits for us in the kernel's sense only. */
START_TEST(another_name_counts_as_elsewhere)
{
    asker k = {.makes_way = true};
    answer a = {0};
    aflock *lock = open_lock(scene, "lock", scene_io(_i)), *other = open_lock(scene, "other", scene_io(_i));
    scene_must_work(lock);
    ck_assert_int_eq(link("lock", "other"), 0);
    hold(lock, &k, AFLOCK_EXCLUSIVE);
    ck_assert_int_eq(aflock_acquire(other, NULL, scene_answer, &a, NULL), 0);
    scene_expect(1);
    scene_run_until(&a.count, 1);
    ck_assert_int_eq(a.result.status, 0);
    ck_assert_int_eq(k.elsewhere, 1);
    ck_assert_int_eq(k.here, 0);
}
END_TEST

/* ---------------------------------------------------------------------------------------------- who is not meant */

static void inspected(aflock *lock, const aflock_holder *holder, void *user)
{
    (void)lock;
    ck_assert_int_eq(holder->held, 1);
    ++*(int *)user;
}

/* Before Linux 6.5 that opens the file, as far as inotify can tell. */
static bool looking_is_opening(void)
{
    char events[512];
    int queue = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    ck_assert_int_ge(inotify_add_watch(queue, "lock", IN_OPEN), 0);
    close(open("lock", O_PATH | O_CLOEXEC));
    bool heard = read(queue, events, sizeof events) > 0;
    close(queue);
    return heard;
}

/* Everything that we do with it while we hold it. */
START_TEST(our_own_questions_are_no_wish)
{
    asker k = {0}, l = {0};
    answer verified = {0};
    int answers = 0;
    aflock *lock = open_lock(scene, "lock", scene_io(_i));
    scene_must_work(lock);
    const bool opening = looking_is_opening();
    aflock_acquire_options o = scene_options(AFLOCK_TRUNCATE, 0);
    aflock_req held = hold(lock, &k, AFLOCK_SHARED);
    ck_assert_int_eq(aflock_verify(lock, held, scene_answer, &verified), 0);
    scene_expect(1);
    scene_run_until(&verified.count, 1);
    o.mode = AFLOCK_SHARED;
    o.file_mode = 0600;
    aflock_req same = scene_hold(lock, &o); /* adopts it */
    aflock_req next = hold(lock, &l, AFLOCK_SHARED);
    pass_some_time();
    ck_assert_int_eq(k.elsewhere + l.elsewhere, 0);
    ck_assert_int_eq(aflock_inspect(lock, inspected, &answers), 0);
    scene_run_until(&answers, 1);
    pass_some_time();
    ck_assert_int_eq(k.elsewhere + l.elsewhere, opening ? 2 : 0);
    ck_assert_int_eq(scene_release(lock, same).result.status, 0);
    ck_assert_int_eq(scene_release(lock, next).result.status, 0);
    pass_some_time();
    ck_assert_int_eq(k.elsewhere, opening);
    ck_assert_int_eq(k.here + l.here, 0);
}
END_TEST

/* Our attempts open the file before we hold it, or keep it open from before. */
START_TEST(our_own_attempts_are_no_wish)
{
    asker k = {0};
    pid_t holder = scene_holder("lock", O_RDWR | O_CREAT, LOCK_EX);
    answer a = {0};
    aflock *lock = open_lock(scene, "lock", scene_io(_i));
    aflock_acquire_options o = scene_options(0, 0);
    o.on_wanted = on_wanted;
    o.on_wanted_user = &k;
    int contended = scene_contended;
    ck_assert_int_eq(aflock_acquire(lock, &o, scene_answer, &a, NULL), 0);
    scene_expect(1);
    scene_run_until(&scene_contended, contended + 2);
    scene_holder_end(holder);
    scene_run_until(&a.count, 1);
    ck_assert_int_eq(a.result.status, 0);
    pass_some_time();
    ck_assert_int_eq(k.elsewhere, 0);
    ck_assert_int_eq(inotify_watches(), 1);
    ck_assert_int_eq(scene_release(lock, a.result.req).result.status, 0);
    ck_assert_int_eq(inotify_watches(), 0);
}
END_TEST

int main(void)
{
    const TTest *const each[] = {flock_is_let_in,
                                 flock_is_let_in_although_we_ask_again,
                                 python_is_let_in,
                                 another_context_is_let_in,
                                 who_was_blocked_before_is_found,
                                 who_waits_for_a_record_lock_is_found,
                                 another_name_counts_as_elsewhere,
                                 our_own_questions_are_no_wish,
                                 our_own_attempts_are_no_wish,
                                 NULL};
    return scene_main("wanted", NULL, each);
}
