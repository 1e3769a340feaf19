/* Fuzz target: what is read from /proc/locks when a lock is inspected, and when a holder wants to know who waits
 * (core/locks/kernel.c). Beside it stands a second reading of the text, by words, which has to find the same. */
#include "fuzz/fuzz.h"
#include "fuzz/served.h"
#include "locks/protocol.h"

#include <string.h>
#include <sys/sysmacros.h>

typedef struct holders {
    bool held;
    int64_t pid;
    aflock_mode mode;
    uint32_t count;
    long long seen[64];
} holders;

static bool is_new(const holders *h, long long pid)
{
    for (uint32_t i = 0; i < h->count && i < 64; i++)
        if (pid > 0 && h->seen[i] == pid)
            return false;
    return true;
}

/* Two numbers that end with a colon, and a third. */
static bool read_file_id(const char *text, unsigned long long numbers[3])
{
    static const int bases[3] = {16, 16, 10};
    for (int i = 0; i < 3; i++) {
        char *end;
        numbers[i] = strtoull(text, &end, bases[i]);
        if (end == text || (i < 2 && *end != ':'))
            return false;
        text = end + 1;
    }
    return true;
}

static bool is_kind(const char *kind, const afl_query *q, bool waits)
{
    if (q->protocol == &afl_protocol_flock)
        return strcmp(kind, "FLOCK") == 0;
    return strcmp(kind, "OFDLCK") == 0 || (waits && strcmp(kind, "POSIX") == 0);
}

/* "1: FLOCK ADVISORY WRITE 708 08:01:13567 0 EOF" of a process that holds `q`, or "1: -> FLOCK ..." of one that waits
 * for it. False: it is none. */
static bool read_lock(char *line, const afl_query *q, const char *device, bool waits, long long *pid, bool *writes)
{
    enum { NUMBER, KIND, ADVISORY, ACCESS, PID, WORDS };
    char *words[WORDS], *rest = NULL, *text = line, name[32], *end;
    unsigned long long id[3];
    for (int i = 0; i < WORDS; i++, text = NULL) {
        if (!(words[i] = strtok_r(text, " ", &rest)))
            return false;
        if (i != KIND || !waits)
            continue;
        if (strncmp(words[KIND], "->", 2) != 0)
            return false;
        words[KIND] += 2;
        if (!*words[KIND] && !(words[KIND] = strtok_r(NULL, " ", &rest)))
            return false;
    }
    *pid = strtoll(words[PID], &end, 10);
    *writes = strcmp(words[ACCESS], "WRITE") == 0;
    if (strlen(words[KIND]) > 15 || strlen(words[ACCESS]) > 15 || end == words[PID] || *end || !read_file_id(rest, id))
        return false;
    snprintf(name, sizeof name, "%u:%u", (unsigned)id[0], (unsigned)id[1]);
    return is_kind(words[KIND], q, waits) && id[2] == q->ino && strcmp(name, device) == 0;
}

static uint32_t count_waiters(const served *s, const afl_query *q, const char *device)
{
    char line[SERVED_LINE];
    long long pid;
    bool writes;
    uint32_t count = 0;
    for (size_t at = 0; served_line(s, &at, line);)
        count += read_lock(line, q, device, true, &pid, &writes);
    return count;
}

static void read_holders(const served *s, const afl_query *q, const char *device, holders *h)
{
    char line[SERVED_LINE];
    long long pid;
    bool writes;
    for (size_t at = 0; served_line(s, &at, line);) {
        if (!read_lock(line, q, device, false, &pid, &writes) || !is_new(h, pid))
            continue;
        if (h->count < 64)
            h->seen[h->count] = pid;
        h->count++;
        h->held = true;
        if (h->count == 1 || h->pid <= 0) {
            h->pid = pid > 0 ? pid : 0;
            h->mode = writes ? AFLOCK_EXCLUSIVE : AFLOCK_SHARED;
        }
    }
}

/* Lines that the kernel would write, give or take a letter: the second reading is as strict as those. */
static bool is_plain(const served *s)
{
    for (size_t i = 0; i < s->size; i++)
        if (!strchr(" \n:->0123456789abcdefFLOCKDAVISRYWTEPMNX", s->text[i]) || !s->text[i])
            return false;
    return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const paths[] = {NULL, "/a", "/b"};
    fuzz_input in = {data, data + size};
    const unsigned what = fuzz_byte(&in);
    afl_query q = {.protocol = what & 1 ? &afl_protocol_ofd : &afl_protocol_flock,
                   .path = paths[(what >> 1) % 3],
                   .fd = SERVED_DESCRIPTOR,
                   .follow = what & 8};
    afl_identity id = {.dev = (uint64_t)(what >> 4 & 1) << 32 | fuzz_below(&in, 32), .ino = fuzz_below(&in, 32)};
    char device[32];
    holders expected = {.held = false};
    served s;
    served_from(&s, &in);
    s.identity = id; /* its mount is not known: the device is that of the identity */
    snprintf(device, sizeof device, "%u:%u", (unsigned)(id.dev >> 32), (unsigned)id.dev);
    q.sys = served_table(&s);
    q.protocol->inspect(&q);
    fuzz_require(s.open == 0 && q.ino == id.ino);
    fuzz_require(!q.held == !q.count && q.pid >= 0 && (q.status == 0) == (q.sys_errno == 0));
    fuzz_require(q.status == 0 || (s.failed && q.step));
    if (s.failed || !is_plain(&s))
        return 0;
    read_holders(&s, &q, device, &expected);
    fuzz_require(q.held == expected.held && q.count == expected.count && q.pid == expected.pid);
    fuzz_require(!q.held || q.mode == expected.mode);
    afl_query w = {.protocol = q.protocol,
                   .sys = q.sys,
                   .dev = makedev((unsigned)(id.dev >> 32), (unsigned)id.dev),
                   .ino = id.ino,
                   .where = {.dev = UINT64_MAX}};
    w.protocol->waiters(&w);
    fuzz_require(s.open == 0 && (s.failed || w.count == count_waiters(&s, &w, device)));
    return 0;
}
