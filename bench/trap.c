/* Counting what a program cannot see of itself: system calls, by tracing a child, and allocations, by standing in for
 * malloc (the linker's --wrap: only calls from the library and the bench come here, not those inside libc). */
#include "bench.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

/* ------------------------------------------------------------------------------------------------------- allocations
 */

bench_memory bench_hooked, bench_malloced;

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *block, size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *block, size_t size);

void *__wrap_malloc(size_t size)
{
    bench_malloced.calls++;
    return __real_malloc(size);
}

void *__wrap_calloc(size_t count, size_t size)
{
    bench_malloced.calls++;
    return __real_calloc(count, size);
}

void *__wrap_realloc(void *block, size_t size)
{
    bench_malloced.calls++;
    return __real_realloc(block, size);
}

/* The size stands before the block. */
typedef union header {
    size_t size;
    max_align_t align;
} header;

static void *hook_allocate(size_t size, void *user)
{
    (void)user;
    header *h = __real_malloc(sizeof *h + size);
    if (!h)
        return NULL;
    h->size = size;
    bench_hooked.calls++;
    bench_hooked.bytes += size;
    return h + 1;
}

static void hook_release(void *block, void *user)
{
    (void)user;
    header *h = (header *)block - 1;
    bench_hooked.bytes -= h->size;
    free(h);
}

static void *hook_reallocate(void *block, size_t size, void *user)
{
    void *larger = hook_allocate(size, user);
    if (!larger)
        return NULL;
    size_t old = ((header *)block - 1)->size;
    memcpy(larger, block, old < size ? old : size);
    hook_release(block, user);
    return larger;
}

void bench_hook_memory(aflock_ctx_options *options)
{
    options->allocate = hook_allocate;
    options->reallocate = hook_reallocate;
    options->release = hook_release;
}

/* ------------------------------------------------------------------------------------------------------ system calls
 */

enum { SYSTEM_CALL = SIGTRAP | 0x80 }; /* how PTRACE_O_TRACESYSGOOD marks the stops */

static pid_t traced; /* in the child: itself */

/* A signal that is never delivered: the tracer sees it and swallows it. */
void bench_trap_begin(void)
{
    kill(traced, SIGUSR1);
}

void bench_trap_end(void)
{
    kill(traced, SIGUSR2);
}

/* Follows the child to its end. Each call stops it twice: on the way in and on the way out. The last one counted is the
 * kill of bench_trap_end. */
static long follow(pid_t child)
{
    long stops = 0;
    int status;
    bool counting = false, complete = false;
    while (waitpid(child, &status, 0) == child && WIFSTOPPED(status)) {
        int stop = WSTOPSIG(status), pass_on = 0;
        if (stop == SYSTEM_CALL) {
            stops += counting;
        } else if (stop == SIGUSR1 || stop == SIGUSR2) {
            complete = stop == SIGUSR2;
            counting = stop == SIGUSR1;
        } else if (stop != SIGTRAP) {
            pass_on = stop;
        }
        if (ptrace(PTRACE_SYSCALL, child, NULL, (long)pass_on) != 0)
            return -1;
    }
    return complete ? stops / 2 - 1 : -1;
}

long bench_count_calls(void (*work)(void *state), void *state)
{
    pid_t child = fork();
    if (child < 0)
        return -1;
    if (child == 0) {
        if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) != 0)
            _exit(1);
        traced = getpid();
        kill(traced, SIGSTOP);
        work(state);
        _exit(0);
    }
    int status;
    if (waitpid(child, &status, 0) != child || !WIFSTOPPED(status))
        return -1;
    if (ptrace(PTRACE_SETOPTIONS, child, NULL, (long)(PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL)) != 0 ||
        ptrace(PTRACE_SYSCALL, child, NULL, 0L) != 0) {
        kill(child, SIGKILL);
        waitpid(child, &status, 0);
        return -1;
    }
    return follow(child);
}
