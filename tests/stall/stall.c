/* The test's side of stall.h. Used by tests and by the benchmark. */
#include "stall.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { WATCHDOG_S = 90 };

bool stall_enter_namespace(void)
{
    return unshare(CLONE_NEWNS) == 0 && mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0;
}

/* ------------------------------------------------------------------------------------------------- the shared memory
 */

static void enter(stall *fs)
{
    pthread_mutex_lock(&fs->mutex);
}

static void leave(stall *fs)
{
    pthread_mutex_unlock(&fs->mutex);
}

static struct timespec in(int seconds)
{
    struct timespec limit;
    clock_gettime(CLOCK_REALTIME, &limit);
    limit.tv_sec += seconds;
    return limit;
}

static stall *share(int memory)
{
    if (memory < 0 || ftruncate(memory, sizeof(stall)) != 0) {
        perror("memfd");
        return NULL;
    }
    stall *fs = mmap(NULL, sizeof *fs, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
    if (fs == MAP_FAILED) {
        perror("mmap");
        return NULL;
    }
    pthread_mutexattr_t mutex;
    pthread_condattr_t cond;
    pthread_mutexattr_init(&mutex);
    pthread_mutexattr_setpshared(&mutex, PTHREAD_PROCESS_SHARED);
    pthread_mutex_init(&fs->mutex, &mutex);
    pthread_mutexattr_destroy(&mutex);
    pthread_condattr_init(&cond);
    pthread_condattr_setpshared(&cond, PTHREAD_PROCESS_SHARED);
    pthread_cond_init(&fs->changed, &cond);
    pthread_condattr_destroy(&cond);
    fs->watched = (pid_t)syscall(SYS_gettid);
    return fs;
}

/* ------------------------------------------------------------------------------------------------- mount and unmount
 */

/* In the child: becomes the file system. It must not outlive its parent, and shares no descriptor with it but `memory`.
 */
static void serve(pid_t parent, const char *point, const char *backing, int memory)
{
    char number[16];
    snprintf(number, sizeof number, "%d", memory);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) == 0 && getppid() == parent && fcntl(memory, F_SETFD, 0) == 0)
        execl(STALLFS, "stallfs", point, backing, number, (char *)NULL);
    perror(STALLFS);
    _exit(127);
}

static bool await_mount(stall *fs)
{
    struct timespec limit = in(WATCHDOG_S);
    int status, error = 0;
    enter(fs);
    while (!fs->mounted && error == 0) {
        struct timespec step = in(1);
        error = pthread_cond_timedwait(&fs->changed, &fs->mutex, &step);
        bool waiting = error == ETIMEDOUT && step.tv_sec < limit.tv_sec;
        if (waiting && waitpid(fs->server, &status, WNOHANG) == fs->server) {
            fprintf(stderr, "stallfs ended with status 0x%x\n", (unsigned)status);
            fs->server = -1;
        } else if (waiting) {
            error = 0;
        }
    }
    bool mounted = fs->mounted;
    leave(fs);
    if (!mounted)
        fprintf(stderr, "%s is not mounted: %s\n", fs->point, strerror(error));
    return mounted;
}

stall *stall_mount(const char *point, const char *backing)
{
    int memory = memfd_create("stall", MFD_CLOEXEC);
    stall *fs = share(memory);
    if (fs) {
        pid_t parent = getpid();
        snprintf(fs->point, sizeof fs->point, "%s", point);
        pid_t server = fork(); /* not into the memory at once: the child shares it */
        if (server == 0)
            serve(parent, point, backing, memory);
        if (server < 0)
            perror("fork");
        fs->server = server;
    }
    if (memory >= 0)
        close(memory);
    if (fs && fs->server > 0 && await_mount(fs))
        return fs;
    if (fs)
        stall_unmount(fs);
    errno = ENODEV;
    return NULL;
}

void stall_unmount(stall *fs)
{
    if (!fs)
        return;
    umount2(fs->point, MNT_DETACH);
    if (fs->server > 0) { /* with it the kernel's connection ends, whatever still uses the mount */
        kill(fs->server, SIGKILL);
        waitpid(fs->server, NULL, 0);
    }
    munmap(fs, sizeof *fs);
}

bool stall_is_possible(void)
{
    int status;
    pid_t pid = fork();
    if (pid == 0) {
        char point[] = "/tmp/aflock-stall-XXXXXX";
        stall *fs = mkdtemp(point) && stall_enter_namespace() ? stall_mount(point, "/") : NULL;
        bool good = fs != NULL;
        stall_unmount(fs);
        rmdir(point);
        _exit(good ? 0 : 1);
    }
    return pid > 0 && waitpid(pid, &status, 0) == pid && status == 0;
}

/* ------------------------------------------------------------------------------------------------------- the rules */

void stall_set(stall *fs, stall_rule rule)
{
    enter(fs);
    int i = 0;
    while (i < STALL_RULES && fs->rules[i].calls)
        i++;
    if (i == STALL_RULES)
        abort(); /* a test with so many rules is not understood by anybody */
    fs->rules[i] = rule;
    leave(fs);
}

static stall_rule rule_for(unsigned calls, const char *fragment, int times)
{
    stall_rule rule = {.calls = calls, .times = times};
    snprintf(rule.fragment, sizeof rule.fragment, "%s", fragment);
    return rule;
}

void stall_delay(stall *fs, uint64_t delay)
{
    stall_rule rule = rule_for(STALL_ALL, "", STALL_ALWAYS);
    rule.delay = delay;
    stall_set(fs, rule);
}

void stall_hang(stall *fs, unsigned calls, const char *fragment)
{
    stall_rule rule = rule_for(calls, fragment, STALL_ALWAYS);
    rule.hang = true;
    stall_set(fs, rule);
}

void stall_fail(stall *fs, unsigned calls, const char *fragment, int error)
{
    stall_rule rule = rule_for(calls, fragment, 1);
    rule.error = error;
    stall_set(fs, rule);
}

void stall_lie(stall *fs, unsigned calls, const char *fragment)
{
    stall_rule rule = rule_for(calls, fragment, STALL_ALWAYS);
    rule.lies = true;
    stall_set(fs, rule);
}

void stall_resume(stall *fs)
{
    enter(fs);
    memset(fs->rules, 0, sizeof fs->rules);
    fs->era++;
    pthread_cond_broadcast(&fs->changed);
    leave(fs);
}

bool stall_await_hung(stall *fs, unsigned count)
{
    struct timespec limit = in(WATCHDOG_S);
    int error = 0;
    enter(fs);
    while (fs->hung < count && error == 0)
        error = pthread_cond_timedwait(&fs->changed, &fs->mutex, &limit);
    bool seen = fs->hung >= count;
    leave(fs);
    return seen;
}

static unsigned look(stall *fs, const unsigned *value)
{
    enter(fs);
    unsigned copy = *value;
    leave(fs);
    return copy;
}

unsigned stall_hung(stall *fs)
{
    return look(fs, &fs->hung);
}

unsigned stall_count(stall *fs, stall_call call)
{
    return look(fs, &fs->count[call]);
}

unsigned stall_by_watched(stall *fs)
{
    return look(fs, &fs->by_watched);
}

unsigned stall_total(stall *fs)
{
    unsigned total = 0;
    for (int i = 0; i < STALL_CALLS; i++)
        total += stall_count(fs, (stall_call)i);
    return total;
}
