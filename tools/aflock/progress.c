/* The line that is shown during a wait.
 *
 * On a terminal it is rewritten in place with nothing but a carriage return and spaces, made to fit the window, and
 * only while aflock is in the foreground: a background job must not paint over the shell's prompt. Names come from
 * other users' processes and files, so what goes to the terminal directly is made printable first.
 */
#include "progress.h"

#include "message.h"

#include <aflock/epoll.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

uint64_t monotonic_now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * AFLOCK_SECOND + (uint64_t)t.tv_nsec;
}

void progress_init(progress *p, const char *target)
{
    *p = (progress){.target = target, .terminal = isatty(STDERR_FILENO)};
}

int progress_name(int64_t pid, char *name, size_t size)
{
    char path[64], text[64];
    ssize_t n;
    int fd;

    snprintf(path, sizeof path, "/proc/%lld/comm", (long long)pid);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    n = read(fd, text, sizeof text - 1);
    close(fd);
    if (n <= 0)
        return -1;
    text[n] = '\0';
    text[strcspn(text, "\n")] = '\0';
    make_printable(name, size, text);
    return 0;
}

/* Who a marker says that made it. Of a soft-rw lock it is, beside readers, a writer who waits for them, or one of them.
 */
static void name_marker(progress *p, const aflock_holder *holder)
{
    char name[80], host[1024 + 1], shown[96] = ""; /* an escape takes four bytes for one, and a host has 255 */
    char held[80] = "held", others[32] = "";

    if (holder->pending)
        snprintf(held, sizeof held, "held (shared) by %u; waited for (exclusive)", holder->count);
    else if (holder->count > 1)
        snprintf(others, sizeof others, " and %u more", holder->count - 1);
    make_printable(host, sizeof host, holder->host);
    if (holder->here && !holder->gone && progress_name(holder->pid, name, sizeof name) == 0)
        snprintf(shown, sizeof shown, " (%s)", name);
    /* Our own is that of a writer who waits for readers who have just gone. */
    if (holder->here && holder->pid == getpid() && holder->record == AFLOCK_RECORD_NONE)
        return;
    snprintf(p->holder, sizeof p->holder, ", %s by pid %d%s on %s%s%s", held, (int)holder->pid, shown, host,
             holder->gone ? ", which has ended" : "", others);
}

static void remember_holder(progress *p, const aflock_holder *holder)
{
    char name[80], others[32] = ""; /* the kernel's names have 15 bytes at most, and an escape has 4 */

    p->holder[0] = '\0';
    if (holder->status != 0 || !holder->held || holder->pid <= 0 || holder->pid > INT_MAX)
        return;
    if (holder->host && *holder->host) {
        name_marker(p, holder);
        return;
    }
    if (holder->count > 1)
        snprintf(others, sizeof others, " and %u more", holder->count - 1);
    if (progress_name(holder->pid, name, sizeof name) == 0)
        snprintf(p->holder, sizeof p->holder, ", held by pid %d (%s)%s", (int)holder->pid, name, others);
    else if (kill((pid_t)holder->pid, 0) != 0 &&
             errno == ESRCH) /* others share its descriptor, unknown to the kernel */
        snprintf(p->holder, sizeof p->holder, ", locked by pid %d, which has ended%s", (int)holder->pid, others);
    else
        snprintf(p->holder, sizeof p->holder, ", held by pid %d%s", (int)holder->pid, others);
}

/* Columns that a line may take; the last one stays free, or some terminals wrap. */
static size_t columns(void)
{
    struct winsize window;

    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &window) != 0 || window.ws_col < 2)
        return 79;
    return window.ws_col - 1u;
}

/* Where to cut `text` to at most `width` bytes without splitting a UTF-8 sequence. */
static size_t cut(const char *text, size_t width)
{
    size_t length = strlen(text);

    if (length <= width)
        return length;
    while (width > 0 && ((unsigned char)text[width] & 0xc0) == 0x80)
        width--;
    return width;
}

static void draw(progress *p, const char *line)
{
    size_t width = cut(line, columns());
    size_t blanks = p->width > width ? p->width - width : 0;

    dprintf(STDERR_FILENO, "\r%.*s%*s", (int)width, line, (int)blanks, "");
    p->width = width;
}

static int in_background(void)
{
    pid_t foreground = tcgetpgrp(STDERR_FILENO);

    return foreground > 0 && foreground != getpgrp(); /* not our controlling terminal: no such thing as a background */
}

/* The end of `text`, at most `width` bytes of it; of a path that is what tells it from others. */
static const char *ending(const char *text, size_t width)
{
    size_t length = strlen(text);

    if (length <= width)
        return text;
    text += length - width;
    while (((unsigned char)*text & 0xc0) == 0x80)
        text++;
    return text;
}

/* The seconds and the holder are what the line is for: the target gives way to them, then the words before it. */
static void compose(const progress *p, uint64_t waited, char *line, size_t size)
{
    enum { ENOUGH = 12 }; /* bytes of a target that still say something */
    char target[4 * PATH_MAX], words[64], head[4 * sizeof words], tail[sizeof p->holder + 64];
    size_t width = columns(), length, taken;

    make_printable(target, sizeof target, p->target);
    snprintf(words, sizeof words, "%s: waiting for ", program_invocation_short_name);
    make_printable(head, sizeof head, words);
    snprintf(tail, sizeof tail, ": %llu s%s", (unsigned long long)(waited / AFLOCK_SECOND), p->holder);
    length = strlen(target);
    if (strlen(head) + (length < ENOUGH ? length : ENOUGH) + strlen(tail) > width)
        head[0] = '\0';
    taken = strlen(head) + strlen(tail);
    if (taken + length <= width)
        snprintf(line, size, "%s%s%s", head, target, tail);
    else if (taken + 4 <= width)
        snprintf(line, size, "%s...%s%s", head, ending(target, width - taken - 3), tail);
    else
        snprintf(line, size, "%s", tail + 2);
}

/* Elsewhere than on a terminal only the first time. */
static void show(progress *p)
{
    char line[4 * PATH_MAX + 2048];

    if (p->over)
        return;
    if (!p->terminal) {
        if (!p->announced)
            complain("waiting for %s%s", p->target, p->holder);
    } else if (!in_background()) {
        compose(p, monotonic_now() - p->started, line, sizeof line);
        draw(p, line);
    }
    p->announced = 1;
}

void progress_tell(progress *p, const char *text)
{
    char line[4 * PATH_MAX + 256];

    if (!p->terminal || in_background())
        return;
    make_printable(line, sizeof line, text);
    draw(p, line);
}

void progress_clear(progress *p)
{
    if (p->width == 0 || in_background())
        return;
    draw(p, "");
    dprintf(STDERR_FILENO, "\r");
}

/* -------------------------------------------------------------------------------------------------------- the wait */

static void on_second(aflock_ctx *ctx, void *user);

static void on_inspected(aflock *lock, const aflock_holder *holder, void *user)
{
    progress *p = user;

    (void)lock;
    p->asking = 0;
    remember_holder(p, holder);
    show(p);
}

void progress_ask(progress *p)
{
    if (!p->asking)
        p->asking = aflock_inspect(p->lock, on_inspected, p) == 0;
}

static void watch(progress *p)
{
    progress_ask(p);
    /* An answer that takes longer than a second, or never comes, must not keep the line from being shown. */
    if (aflock_epoll_timer(p->ctx, AFLOCK_SECOND, on_second, p) != 0 || !p->asking)
        show(p);
}

static void on_second(aflock_ctx *ctx, void *user)
{
    progress *p = user;

    (void)ctx;
    show(p);
    if (p->terminal && !p->over)
        watch(p);
}

void progress_begin(progress *p, aflock_ctx *ctx, aflock *lock)
{
    p->ctx = ctx;
    p->lock = lock;
    p->contended = p->watching = p->over = 0;
}

void progress_over(progress *p)
{
    p->over = 1;
}

void progress_trace(aflock_trace_event event, const char *path, aflock_req req, int64_t value, void *user)
{
    progress *p = user;

    (void)path;
    (void)req;
    (void)value;
    if (event == AFLOCK_TRACE_CONTENDED)
        p->contended = 1;
}

void progress_turn(progress *p)
{
    if (!p->contended || p->watching || p->over)
        return;
    p->watching = 1;
    watch(p);
}

void progress_end(progress *p)
{
    progress_over(p);
    (void)aflock_epoll_timer_cancel(p->ctx, on_second, p);
    progress_clear(p);
}
