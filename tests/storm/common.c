/* See common.h. */
#include "common.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

/* ------------------------------------------------------------------------------------------------------- the basics */

uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * AFLOCK_SECOND + (uint64_t)t.tv_nsec;
}

void sleep_ns(uint64_t ns)
{
    struct timespec t = {.tv_sec = (time_t)(ns / AFLOCK_SECOND), .tv_nsec = (long)(ns % AFLOCK_SECOND)};
    nanosleep(&t, NULL);
}

static uint64_t scramble(uint64_t x) /* splitmix64 */
{
    x += UINT64_C(0x9E3779B97F4A7C15);
    x = (x ^ x >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
    x = (x ^ x >> 27) * UINT64_C(0x94D049BB133111EB);
    return x ^ x >> 31;
}

dice dice_of(uint64_t seed, uint64_t a, uint64_t b)
{
    return (dice){scramble(scramble(scramble(seed) + a) + b)};
}

static uint64_t dice_next(dice *d)
{
    return scramble(d->state++);
}

uint32_t dice_below(dice *d, uint32_t bound)
{
    return (uint32_t)(dice_next(d) % bound);
}

uint64_t dice_up_to(dice *d, uint64_t most)
{
    return dice_next(d) % (most + 1);
}

bool dice_percent(dice *d, unsigned percent)
{
    return dice_below(d, 100) < percent;
}

/* --------------------------------------------------------------------------------------------------------- failing */

void (*on_failure)(void);

static uint64_t the_seed;
static char the_name[64];

void set_name(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(the_name, sizeof the_name, format, arguments);
    va_end(arguments);
}

/* One write, so that lines of several processes do not mix. */
void fail(const char *format, ...)
{
    char text[1024];
    va_list arguments;
    va_start(arguments, format);
    int length = snprintf(text, sizeof text, "FAILED (--seed %" PRIu64 ") %s: ", the_seed, the_name);
    length += vsnprintf(text + length, sizeof text - (size_t)length, format, arguments);
    va_end(arguments);
    length = length < (int)sizeof text - 1 ? length : (int)sizeof text - 1;
    text[length] = '\n';
    ssize_t written = write(STDERR_FILENO, text, (size_t)length + 1);
    (void)written; /* there is nobody left to tell */
    if (on_failure)
        on_failure();
    _exit(1);
}

/* --------------------------------------------------------------------------------------------------------- options */

static uint64_t number(const char *text, uint64_t most)
{
    char *end;
    errno = 0;
    uint64_t value = strtoull(text, &end, 10);
    if (errno || end == text || *end || value > most) {
        fprintf(stderr, "not a number up to %" PRIu64 ": %s\n", most, text);
        exit(2);
    }
    return value;
}

void settings_read(settings *s, int argc, char **argv, const char *help)
{
    static const struct option options[] = {
        {"protocol", required_argument, NULL, 'p'},
        {"seconds", required_argument, NULL, 's'},
        {"processes", required_argument, NULL, 'n'},
        {"holds", required_argument, NULL, 'k'},
        {"seed", required_argument, NULL, 'r'},
        {"help", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0},
    };
    for (int c; (c = getopt_long(argc, argv, "h", options, NULL)) != -1;) {
        switch (c) {
        case 'p':
            s->protocol = optarg;
            break;
        case 's':
            s->seconds = (unsigned)number(optarg, 86400);
            break;
        case 'n':
            s->processes = (unsigned)number(optarg, 8);
            break;
        case 'k':
            s->holds = s->holds ? (unsigned)number(optarg, 10000) : 0;
            break;
        case 'r':
            s->seed = number(optarg, UINT64_MAX);
            break;
        default:
            fputs(help, c == 'h' ? stdout : stderr);
            exit(c == 'h' ? 0 : 2);
        }
    }
    if (optind < argc || s->processes == 0 || !protocol_named(s->protocol)) {
        fputs(help, stderr);
        exit(2);
    }
    the_seed = s->seed;
}

const char *thousands(uint64_t value)
{
    static char texts[8][32];
    static unsigned next;
    char *text = texts[next++ % 8], *at = text + 31;
    *at = '\0';
    for (int digits = 0; value || digits == 0; digits++, value /= 10) {
        if (digits && digits % 3 == 0)
            *--at = ',';
        *--at = (char)('0' + value % 10);
    }
    return at;
}

/* -------------------------------------------------------------------------------------------------- the directory */

static char directory[] = "/tmp/aflock-storm-XXXXXX";

void directory_begin(void)
{
    require(mkdtemp(directory));
    require(chdir(directory) == 0);
}

/* A name that ends with a dot stands for all that begin with what is before it. */
static bool is_called(const char *name, const char *expected)
{
    size_t length = strlen(expected) - 1;
    return strcmp(name, expected) == 0 || (expected[length] == '.' && strncmp(name, expected, length) == 0);
}

static bool is_among(const char *name, const char *const names[])
{
    while (*names && !is_called(name, *names))
        names++;
    return *names;
}

/* names NULL: anything may be there. */
void directory_empty(const char *const names[])
{
    DIR *d = opendir(".");
    require(d);
    for (const struct dirent *e; (e = readdir(d));) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
            continue;
        if (names && !is_among(e->d_name, names))
            fail("left in the directory: %s", e->d_name);
        remove(e->d_name);
    }
    closedir(d);
}

void directory_end(const char *const names[])
{
    directory_empty(names);
    require(chdir("/") == 0 && rmdir(directory) == 0);
}

void directory_drop(void)
{
    for (int i = 0; i < 100; i++) { /* others may still be at work in it */
        directory_empty(NULL);
        if (rmdir(directory) == 0)
            return;
        sleep_ns(10 * AFLOCK_MILLISECOND);
    }
}

int open_descriptors(void)
{
    int count = -3; /* two entries are no names, one is the directory itself */
    DIR *d = opendir("/proc/self/fd");
    require(d);
    while (readdir(d))
        count++;
    closedir(d);
    return count;
}

/* --------------------------------------------------------------------------------------------------- the protocols */

static bool flock_take(int fd, bool shared, bool wait)
{
    int rc;
    do
        rc = flock(fd, (shared ? LOCK_SH : LOCK_EX) | (wait ? 0 : LOCK_NB));
    while (rc != 0 && errno == EINTR);
    return rc == 0;
}

static bool flock_drop(int fd)
{
    return flock(fd, LOCK_UN) == 0;
}

enum { PENDING = 0x40000000, RANGE = PENDING + 2, RANGE_BYTES = 510 }; /* SQLite's */

static bool bytes(int fd, short type, off_t start, off_t length, bool wait)
{
    int rc;
    struct flock range = {.l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = length};
    do
        rc = fcntl(fd, wait ? F_OFD_SETLKW : F_OFD_SETLK, &range);
    while (rc != 0 && errno == EINTR);
    return rc == 0;
}

static bool ofd_take(int fd, bool shared, bool wait)
{
    return bytes(fd, shared ? F_RDLCK : F_WRLCK, 0, 0, wait);
}

static bool ofd_drop(int fd)
{
    return bytes(fd, F_UNLCK, 0, 0, false);
}

/* As SQLite does: through the doorway, or with a claim that the shared range follows. */
static bool rw_drop(int fd)
{
    return bytes(fd, F_UNLCK, PENDING, RANGE - PENDING + RANGE_BYTES, false);
}

static bool rw_take(int fd, bool shared, bool wait)
{
    if (!bytes(fd, shared ? F_RDLCK : F_WRLCK, PENDING, shared ? 1 : RANGE - PENDING, wait))
        return false;
    bool got = bytes(fd, shared ? F_RDLCK : F_WRLCK, RANGE, RANGE_BYTES, wait);
    if (!got)
        rw_drop(fd);
    else if (shared)
        require(bytes(fd, F_UNLCK, PENDING, 1, false));
    return got;
}

/* A marker that is complete before it is to be seen: its maker may be killed at any time. Without a start token: others
 * find out by the process id alone that it is gone. */
static bool make_marker(const char *path)
{
    char host[256], text[512], unnamed[64];
    int fd = open(".", O_TMPFILE | O_WRONLY | O_CLOEXEC, 0666);
    require(fd >= 0 && gethostname(host, sizeof host) == 0);
    int size = snprintf(text, sizeof text, "%ld\n%s\n", (long)getpid(), host);
    require(write(fd, text, (size_t)size) == size);
    snprintf(unnamed, sizeof unnamed, "/proc/self/fd/%d", fd);
    int rc = linkat(AT_FDCWD, unnamed, AT_FDCWD, path, AT_SYMLINK_FOLLOW);
    require(rc == 0 || errno == EEXIST);
    close(fd);
    return rc == 0;
}

/* Never breaks one: that is left to the others. */
static bool marker_take(int fd, bool shared, bool wait)
{
    (void)fd;
    require(!shared);
    while (!make_marker(LOCK_FILE)) {
        if (!wait)
            return false;
        sleep_ns(200 * AFLOCK_MICROSECOND);
    }
    return true;
}

static bool marker_drop(int fd)
{
    (void)fd;
    return unlink(LOCK_FILE) == 0;
}

const protocol protocols[] = {
    {"native", AFLOCK_NATIVE, false, false, flock_take, flock_drop},
    {"ofd", AFLOCK_OFD, false, false, ofd_take, ofd_drop},
    {"rw", AFLOCK_RW, false, true, rw_take, rw_drop},
    {"soft", AFLOCK_SOFT, true, false, marker_take, marker_drop},
    {"lease", AFLOCK_LEASE, true, false, NULL, NULL}, /* no strangers: storm-markers */
    {"strict", AFLOCK_STRICT, true, false, NULL, NULL},
    {"soft-rw", AFLOCK_SOFT_RW, true, false, NULL, NULL},
    {NULL, AFLOCK_NATIVE, false, false, NULL, NULL},
};

const protocol *protocol_named(const char *name)
{
    for (const protocol *p = protocols; p->name; p++)
        if (strcmp(p->name, name) == 0)
            return p;
    return NULL;
}

bool is_free(const protocol *p, const char *path)
{
    if (p->marker)
        return access(path, F_OK) != 0;
    int fd = open(path, O_RDWR | O_CLOEXEC);
    require(fd >= 0);
    bool got = p->take(fd, false, false);
    if (got)
        p->drop(fd); /* a child may have the descriptor by now: closing it would not do */
    close(fd);
    return got;
}
