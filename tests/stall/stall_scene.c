/* See stall_scene.h. */
#include "stall_scene.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { WATCHDOG_S = 90, SKIPPED = 77 };

stall *m, *n;
unsigned stall_ticks;
int stall_descriptors;

const stall_protocol STALL_PROTOCOLS[STALL_PROTOCOL_COUNT] = {
    {"native", AFLOCK_NATIVE, STALL_FLOCK, "flock", 1, AFLOCK_ESYS, false},
    {"ofd", AFLOCK_OFD, STALL_SETLK, "fcntl", 1, AFLOCK_ESYS, false},
    {"rw", AFLOCK_RW, STALL_SETLK, "fcntl", 2, AFLOCK_ENOTSUP, false},
    {"soft", AFLOCK_SOFT, STALL_CREATE, "open", 1, AFLOCK_ESYS, true},
    {"lease", AFLOCK_LEASE, STALL_CREATE, "open", 1, AFLOCK_ESYS, true},
    {"strict", AFLOCK_STRICT, STALL_CREATE, "open", 1, AFLOCK_ESYS, true},
    {"soft-rw", AFLOCK_SOFT_RW, STALL_CREATE, "open", 1, AFLOCK_ESYS, true},
};

/* ----------------------------------------------------------------------------------------------------- the fixture */

static stall *mount_at(const char *name)
{
    char point[PATH_MAX + 8], backing[PATH_MAX + 16];
    snprintf(point, sizeof point, "%s/%s", scene_directory, name);
    snprintf(backing, sizeof backing, "%s.files", point);
    ck_assert_int_eq(mkdir(point, 0777), 0);
    ck_assert_int_eq(mkdir(backing, 0777), 0);
    stall *fs = stall_mount(point, backing);
    ck_assert_ptr_nonnull(fs);
    return fs;
}

void stall_scene_begin(void)
{
    ck_assert(stall_enter_namespace());
    scene_begin();
    m = mount_at("m");
    n = mount_at("n");
    stall_scene_context(NULL);
}

void stall_scene_end(void)
{
    scene_free_context();
    stall_unmount(m);
    stall_unmount(n);
    scene_end();
}

void stall_scene_context(const aflock_ctx_options *options)
{
    aflock_epoll_options e;
    aflock_epoll_options_init(&e);
    e.ctx = options;
    ck_assert_int_eq(aflock_ctx_free(scene, 0), 0);
    stall_descriptors = scene_descriptors();
    ck_assert_int_eq(aflock_epoll_new(&scene, &e), 0);
    seam_install(scene);
}

int stall_scene_free(uint64_t grace)
{
    aflock_ctx *ctx = scene;
    scene = NULL;
    return aflock_ctx_free(ctx, grace);
}

/* ------------------------------------------------------------------------------------------------------- the locks */

aflock *stall_open_with(const stall_protocol *p, const char *path, aflock_io io, int keep_open)
{
    aflock *lock;
    aflock_options o;
    aflock_options_init(&o);
    o.protocol = p->protocol;
    o.io = io;
    o.poll_interval = AFLOCK_MILLISECOND;
    o.keep_open = keep_open;
    ck_assert_int_eq(aflock_open(&lock, scene, path, &o), 0);
    return lock;
}

aflock *stall_open(const stall_protocol *p, const char *path, aflock_io io)
{
    return stall_open_with(p, path, io, 0);
}

static bool take(const stall_protocol *p, int fd)
{
    struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    int rc = p->protocol != AFLOCK_NATIVE ? fcntl(fd, F_OFD_SETLK, &whole) : flock(fd, LOCK_EX | LOCK_NB);
    ck_assert(rc == 0 || errno == EAGAIN);
    return rc == 0;
}

#define TOKEN "ffffffffffffffffffffffffffffffff"

/* Where a strict lock has its claims. */
static void claims_of(const char *path, const char *name, char claims[PATH_MAX])
{
    snprintf(claims, PATH_MAX, "%s.filelock%s", path, name);
}

/* What soft readers and writers have beside the path. */
static void beside(const char *path, const char *what, char name[PATH_MAX])
{
    snprintf(name, PATH_MAX, "%s%s", path, what);
}

/* Or not there at all. */
static bool is_empty(const char *name)
{
    bool empty = true;
    DIR *folder = opendir(name);
    for (const struct dirent *e; folder && (e = readdir(folder)) != NULL;)
        empty = empty && e->d_name[0] == '.';
    if (folder)
        closedir(folder);
    return empty;
}

static bool has_no_claims(const char *path)
{
    char claims[PATH_MAX];
    claims_of(path, "/claims", claims);
    return is_empty(claims);
}

/* The state lock is nobody's, either. */
static bool has_no_markers(const char *path)
{
    char writer[PATH_MAX], state[PATH_MAX], readers[PATH_MAX];
    beside(path, ".write", writer);
    beside(path, ".state", state);
    beside(path, ".readers", readers);
    return access(writer, F_OK) != 0 && access(state, F_OK) != 0 && is_empty(readers);
}

static int claim_by_hand(const char *path)
{
    char claim[PATH_MAX];
    claims_of(path, "", claim);
    ck_assert(mkdir(claim, 0777) == 0 || errno == EEXIST);
    claims_of(path, "/claims", claim);
    ck_assert(mkdir(claim, 0777) == 0 || errno == EEXIST);
    claims_of(path, "/claims/held-v1-" TOKEN ".claim", claim);
    int fd = open(claim, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_gt(dprintf(fd, "filelock-strict-v1\n" TOKEN "\n%d\n6162\n\n", (int)getpid()), 0);
    return fd;
}

static int write_by_hand(const char *path)
{
    char writer[PATH_MAX];
    beside(path, ".write", writer);
    int fd = open(writer, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_gt(dprintf(fd, TOKEN "\n%d\nelsewhere.example\n", (int)getpid()), 0);
    return fd;
}

bool stall_is_free(const stall_protocol *p, const char *path)
{
    if (p->protocol == AFLOCK_STRICT)
        return has_no_claims(path);
    if (p->protocol == AFLOCK_SOFT_RW)
        return has_no_markers(path);
    if (p->marker)
        return access(path, F_OK) != 0;
    int fd = open(path, O_RDWR | O_CLOEXEC);
    ck_assert_int_ge(fd, 0);
    bool free = take(p, fd);
    close(fd);
    return free;
}

int stall_foreign(const stall_protocol *p, const char *path)
{
    if (p->protocol == AFLOCK_STRICT)
        return claim_by_hand(path);
    if (p->protocol == AFLOCK_SOFT_RW)
        return write_by_hand(path);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | (p->marker ? O_EXCL : 0), 0666);
    ck_assert_int_ge(fd, 0);
    if (p->marker)
        ck_assert_int_gt(dprintf(fd, "%d\nelsewhere.example\n", (int)getpid()), 0);
    else
        ck_assert(take(p, fd));
    return fd;
}

void stall_foreign_end(const stall_protocol *p, const char *path, int fd)
{
    char marker[PATH_MAX];
    if (p->protocol == AFLOCK_STRICT)
        claims_of(path, "/claims/held-v1-" TOKEN ".claim", marker);
    else
        beside(path, p->protocol == AFLOCK_SOFT_RW ? ".write" : "", marker);
    if (p->marker)
        ck_assert_int_eq(unlink(marker), 0);
    close(fd);
}

/* -------------------------------------------------------------------------------------------------------- the loop */

void stall_run_until(bool (*holds)(const void *user), const void *user)
{
    time_t end = time(NULL) + WATCHDOG_S;
    while (!holds(user)) {
        if (scene)
            ck_assert_int_eq(aflock_epoll_run_once(scene, 10 * AFLOCK_MILLISECOND), 0);
        else
            usleep(1000);
        ck_assert_msg(time(NULL) < end, "nothing came");
    }
}

static bool is_answered(const void *user)
{
    return ((const answer *)user)->count > 0;
}

void stall_run_until_answered(const answer *a)
{
    stall_run_until(is_answered, a);
}

typedef struct wanted {
    const stall_protocol *protocol;
    const char *path;
    int descriptors;
} wanted;

static bool is_free(const void *user)
{
    const wanted *w = user;
    return stall_is_free(w->protocol, w->path);
}

void stall_run_until_free(const stall_protocol *p, const char *path)
{
    stall_run_until(is_free, &(wanted){p, path, 0});
}

/* Threads of this process that have the name of the pool's. */
static int workers(void)
{
    int count = 0;
    DIR *folder = opendir("/proc/self/task");
    ck_assert_ptr_nonnull(folder);
    for (const struct dirent *e; (e = readdir(folder)) != NULL;) {
        char path[300], name[16] = "";
        snprintf(path, sizeof path, "/proc/self/task/%s/comm", e->d_name);
        FILE *f = fopen(path, "re");
        if (f && fgets(name, sizeof name, f))
            count += strcmp(name, "aflock\n") == 0;
        if (f)
            fclose(f);
    }
    closedir(folder);
    return count;
}

static bool are_closed(const void *user)
{
    return workers() == 0 && scene_descriptors() == ((const wanted *)user)->descriptors;
}

void stall_run_until_closed(int more)
{
    stall_run_until(are_closed, &(wanted){NULL, NULL, stall_descriptors + more});
}

void check_loop_is_free(void)
{
    int cached = seam_on_loop(SEAM_OPEN_CACHED) + seam_on_loop(SEAM_IDENTIFY) + seam_on_loop(SEAM_CLOSE);
    ck_assert_uint_eq(stall_by_watched(m), 0);
    ck_assert_int_eq(seam_total_on_loop(), cached);
}

static void on_tick(aflock_ctx *ctx, void *user)
{
    const uint64_t *interval = user;
    stall_ticks++;
    ck_assert_int_eq(aflock_epoll_timer(ctx, *interval, on_tick, user), 0);
}

void stall_tick(uint64_t interval)
{
    static uint64_t kept;
    kept = interval;
    stall_ticks = 0;
    ck_assert_int_eq(aflock_epoll_timer(scene, kept, on_tick, &kept), 0);
}

/* ----------------------------------------------------------------------------------------------------- the program */

int stall_main(const char *name, double limit, const TTest *const once[], const TTest *const each[], int count)
{
    if (!stall_is_possible()) {
        printf("skipped: a FUSE file system cannot be mounted here\n");
        return SKIPPED;
    }
    Suite *suite = suite_create(name);
    TCase *tcase = tcase_create(name);
    tcase_set_timeout(tcase, limit);
    scene_folder(tcase);
    tcase_add_checked_fixture(tcase, stall_scene_begin, stall_scene_end);
    for (size_t i = 0; once && once[i]; i++)
        tcase_add_test(tcase, once[i]);
    for (size_t i = 0; each && each[i]; i++)
        tcase_add_loop_test(tcase, each[i], 0, count);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
