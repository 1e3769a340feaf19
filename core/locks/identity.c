/* The questions of identity.h, asked through the table of system calls. */
#include "locks/identity.h"

#include "sys/files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

bool afl_host_name(const afl_sys *sys, char name[AFL_HOST_NAME])
{
    memset(name, 0, AFL_HOST_NAME);
    return sys->gethostname(name, AFL_HOST_NAME - 1) == 0;
}

/* ------------------------------------------------------------------------------------------------------ what is read
 */

/* A file of /proc that fits into `size`, with a zero at its end; false: it does not, or cannot be read. */
static bool read_whole(const afl_sys *sys, const char *path, char *text, size_t size)
{
    size_t used = 0;
    ssize_t n;
    const int fd = afl_open(sys, path, O_RDONLY | O_CLOEXEC, 0);
    if (fd < 0)
        return false;
    do {
        n = sys->read(fd, text + used, size - used);
        used += n > 0 ? (size_t)n : 0;
    } while ((n > 0 && used < size) || (n < 0 && errno == EINTR));
    sys->close(fd);
    if (n != 0 || memchr(text, '\0', used))
        return false;
    text[used] = '\0';
    return true;
}

typedef struct boot_id {
    uint64_t high, low; /* both 0: not known */
} boot_id;

/* 32 hexadecimal digits, with hyphens here and there. */
static boot_id read_boot_id(const afl_sys *sys)
{
    static const char DIGITS[] = "0123456789abcdef";
    const boot_id unknown = {0, 0};
    boot_id id = unknown;
    char text[128];
    int count = 0;
    if (!read_whole(sys, "/proc/sys/kernel/random/boot_id", text, sizeof text))
        return unknown;
    text[strcspn(text, "\n")] = '\0';
    for (const char *c = text; *c; c++) {
        if (*c == '-')
            continue;
        const char *digit = strchr(DIGITS, *c);
        if (!digit)
            return unknown;
        id.high = id.high << 4 | id.low >> 60;
        id.low = id.low << 4 | (uint64_t)(digit - DIGITS);
        count++;
    }
    return count == 32 ? id : unknown;
}

/* Field 22 of proc_pid_stat(5). The second one is a name in parentheses that can hold anything, also ") S 1": what
 * comes behind the last parenthesis is the third. */
static bool read_start_time(const afl_sys *sys, pid_t pid, uint64_t *time)
{
    enum { STATE = 3, START_TIME = 22 };
    char path[64], text[2048];
    (void)snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    if (!read_whole(sys, path, text, sizeof text))
        return false;
    const char *at = strrchr(text, ')');
    if (!at)
        return false;
    at++;
    for (int field = STATE; field < START_TIME; field++) {
        at += strspn(at, " ");
        at += strcspn(at, " ");
    }
    at += strspn(at, " ");
    afl_start value;
    static const uint32_t NOTHING[4] = {0};
    if (!afl_start_parse((afl_text){at, strcspn(at, " \n")}, &value) || value.beyond ||
        memcmp(value.part + 2, NOTHING, sizeof NOTHING) != 0)
        return false;
    *time = (uint64_t)value.part[1] << 32 | value.part[0];
    return true;
}

bool afl_process_start(const afl_sys *sys, pid_t pid, afl_start *start)
{
    uint64_t time;
    const boot_id boot = read_boot_id(sys);
    if ((boot.high | boot.low) == 0 || !read_start_time(sys, pid, &time))
        return false;
    *start = afl_start_make(boot.high, boot.low, time);
    return true;
}

/* --------------------------------------------------------------------------------------------------- what is concluded
 */

/* Does the record name somebody whom this machine knows? */
static bool is_ours(const afl_sys *sys, const afl_record *record)
{
    char name[AFL_HOST_NAME];
    return (record->kind == AFL_RECORD_SOFT || record->kind == AFL_RECORD_LEASE) && record->pid > 0 &&
           afl_host_name(sys, name) && afl_text_equal(record->host, (afl_text){name, strlen(name)});
}

static bool has_boot_id(const afl_start *start)
{
    return (start->part[2] | start->part[3] | start->part[4] | start->part[5]) != 0;
}

/* Is the process that has the pid now, since `time`, another one than the one that the token names? */
static bool is_another(const afl_sys *sys, const afl_start *token, uint64_t time)
{
    if (token->beyond || token->part[0] != (uint32_t)time || token->part[1] != (uint32_t)(time >> 32))
        return true;
    const boot_id boot = has_boot_id(token) ? read_boot_id(sys) : (boot_id){0, 0};
    const afl_start now = afl_start_make(boot.high, boot.low, time);
    return has_boot_id(&now) && !afl_start_equal(&now, token);
}

bool afl_own_start(const afl_sys *sys, afl_self *self, afl_start *start)
{
    const pid_t pid = sys->getpid();
    if (self->pid != pid) {
        self->pid = 0;
        if (!afl_process_start(sys, pid, &self->start))
            return false;
        self->pid = pid;
    }
    *start = self->start;
    return true;
}

bool afl_owner_gone(const afl_sys *sys, const afl_record *record)
{
    uint64_t time;
    if (!is_ours(sys, record))
        return false;
    if (sys->probe(record->pid) != 0 && errno == ESRCH)
        return true;
    return record->has_start && read_start_time(sys, record->pid, &time) && is_another(sys, &record->start, time);
}

/* The question comes after the opening: whoever has the pid then, and started when the holder did, had it before. */
afl_watch afl_owner_watch(const afl_sys *sys, const afl_record *record, int *fd)
{
    if (!is_ours(sys, record))
        return AFL_WATCH_NONE;
    *fd = sys->pidfd_open(record->pid);
    const bool gone = afl_owner_gone(sys, record);
    if (gone && *fd >= 0)
        sys->close(*fd);
    return gone ? AFL_WATCH_GONE : *fd >= 0 ? AFL_WATCH_OPEN : AFL_WATCH_NONE;
}
