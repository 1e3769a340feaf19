/* The n-th system call fails, for every n, with every errno that is plausible for it: once, three calls in a row, and
 * for ever until the script's troubles end; then two failures at once, by chance. The script says what must hold all
 * the same; here is what may fail how, what the library may make of it, and what it may get over without a word.
 *
 *   test_faults_calls [--stride N] [--soak N] [--seed S]     every N-th case only; so many cases of the soak
 *   test_faults_calls --only PROTOCOL IO CHAPTER N ERRNO TIMES N ERRNO TIMES     one case again, as a failure names it
 */
#include "faults/allocations.h"
#include "faults/script.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { CALLS = 2048, INJECTED = 64, DESCRIPTORS = 1024, ERRNOS = 24, ROW = 3, MODES = 3 };
static const unsigned TIMES[MODES] = {1, ROW, UINT32_MAX};

/* ---------------------------------------------------------------------------------------------- what is plausible */

/* From the manual pages, and what network and FUSE file systems are known to say. */
static const int PLAUSIBLE[SEAM_CALLS][ERRNOS] = {
    [SEAM_OPEN] = {EACCES, EIO, EINTR, ELOOP, EMFILE, ENFILE, ENODEV, ENOENT, ENOMEM, ENOSPC, ENOTDIR, EPERM, EROFS,
                   ESTALE, ETXTBSY, EDQUOT, EOVERFLOW, EWOULDBLOCK},
    [SEAM_CREATE] = {EACCES,  EIO,   EINTR, ELOOP,  EMFILE,  ENFILE, ENODEV,    ENOENT,      ENOMEM, ENOSPC,
                     ENOTDIR, EPERM, EROFS, ESTALE, ETXTBSY, EDQUOT, EOVERFLOW, EWOULDBLOCK, EISDIR, ENXIO},
    [SEAM_TMPFILE] = {EACCES, EDQUOT, EINTR, EINVAL, EIO, EISDIR, EMFILE, ENFILE, ENOENT, ENOMEM, ENOSPC, ENOSYS,
                      ENOTDIR, EOPNOTSUPP, EPERM, EROFS, ESTALE},
    [SEAM_OPEN_CACHED] = {EAGAIN, ENOSYS, EXDEV, EPERM, EINVAL, E2BIG, ENOENT, EMFILE, EIO, EINTR},
    [SEAM_CLOSE] = {EIO, EINTR, EDQUOT, ENOSPC},
    [SEAM_LOCK] = {EBADF, EINTR, EINVAL, ENOLCK, EWOULDBLOCK, EACCES, EIO, ENOSYS, EOPNOTSUPP, ENOMEM, ESTALE},
    [SEAM_UNLOCK] = {EBADF, EINTR, EINVAL, ENOLCK, EIO, ENOSYS, EOPNOTSUPP, ESTALE},
    [SEAM_FSTAT] = {EIO, EINTR, ENOMEM, EOVERFLOW, ESTALE, EACCES},
    [SEAM_STAT] = {EACCES, EIO, EINTR, ELOOP, ENOENT, ENOMEM, ENOTDIR, EOVERFLOW, ESTALE, ENAMETOOLONG},
    [SEAM_IDENTIFY] = {EIO, ENOMEM, ENOSYS, EACCES, EPERM, ESTALE},
    [SEAM_FCHMOD] = {EIO, EPERM, EACCES, EROFS, EINTR, ENOSYS, EOPNOTSUPP},
    [SEAM_FTRUNCATE] = {EIO, EINTR, EFBIG, EINVAL, EPERM, EROFS, ETXTBSY},
    [SEAM_TOUCH] = {EPERM, EACCES, EROFS, EIO, EINTR, EDQUOT, ENOSPC, ESTALE, EOPNOTSUPP},
    [SEAM_SYNC] = {EIO, EINTR, EINVAL, ENOSPC, EDQUOT, EROFS},
    [SEAM_REWIND] = {EINVAL, ESPIPE},
    [SEAM_WRITE] = {EDQUOT, EFBIG, EINTR, EIO, ENOSPC, EPERM, ESTALE},
    [SEAM_LINK] = {EACCES, EDQUOT, EINTR, EINVAL, EIO, EMLINK, ENOENT, ENOMEM, ENOSPC, ENOTDIR, EOPNOTSUPP, EPERM,
                   EROFS, ESTALE, EXDEV},
    [SEAM_UNLINK] = {EACCES, EBUSY, EINTR, EIO, ENOMEM, EPERM, EROFS, ESTALE}, /* not those that say it is gone */
    [SEAM_RENAME] = {EACCES, EBUSY, EDQUOT, EIO, ENAMETOOLONG, ENOMEM, ENOSPC, EPERM, EROFS, ESTALE},
    [SEAM_LIST] = {EIO, ENOMEM, ESTALE, EACCES},
    [SEAM_RANDOM] = {EAGAIN, ENOSYS},
    [SEAM_MKDIR] = {EACCES, EDQUOT, EINTR, ELOOP, EMLINK, ENAMETOOLONG, ENOENT, ENOMEM, ENOSPC, ENOTDIR, EPERM, EROFS,
                    EIO},
    [SEAM_READ] = {EIO, EINTR, ENOMEM, EISDIR},
    [SEAM_READ_HEAD] = {EIO, EINTR, ENOMEM, ESTALE},
    [SEAM_READLINK] = {EINVAL, EACCES, EIO, ELOOP, ENOENT, ENOMEM, ENOTDIR, ENAMETOOLONG, ESTALE},
    [SEAM_DUP] = {EMFILE, EINVAL},
    [SEAM_GETCWD] = {EACCES, ENOENT, ENOMEM, ERANGE},
    [SEAM_GETFD] = {EBADF},
    [SEAM_HOSTNAME] = {EINVAL, ENAMETOOLONG},
    [SEAM_PROBE] = {EPERM}, /* not that the process is gone */
    [SEAM_PIDFD] = {ESRCH, EINVAL, EMFILE, ENFILE, ENOMEM, ENODEV, ENOSYS, EPERM},
};

static const script_protocol *spoken;

static int errno_count(seam_call call)
{
    int count = 0;
    while (count < ERRNOS && PLAUSIBLE[call][count])
        count++;
    return count;
}

static bool is_plausible(seam_call call, int error)
{
    for (int i = 0; i < errno_count(call); i++)
        if (PLAUSIBLE[call][i] == error)
            return true;
    return false;
}

/* ------------------------------------------------------------------------------------------------ what is answered */

/* The names of aflock.h by what they say; everything else is AFLOCK_ESYS. */
static const struct {
    int error, status;
} NAMES[] = {
    {ENOENT, AFLOCK_ENOENT},  {ENOMEM, AFLOCK_ENOMEM},      {ENAMETOOLONG, AFLOCK_ENAMETOOLONG},
    {EISDIR, AFLOCK_EISDIR},  {ENOTDIR, AFLOCK_ENOTDIR},    {ELOOP, AFLOCK_ELOOP},
    {ENXIO, AFLOCK_ENOTFILE}, {ENODEV, AFLOCK_ENOTFILE},    {EACCES, AFLOCK_EACCES},
    {EPERM, AFLOCK_EACCES},   {EROFS, AFLOCK_EROFS},        {ENOSPC, AFLOCK_ENOSPC},
    {EDQUOT, AFLOCK_ENOSPC},  {EMFILE, AFLOCK_EMFILE},      {ENFILE, AFLOCK_EMFILE},
    {ENOSYS, AFLOCK_ENOTSUP}, {EOPNOTSUPP, AFLOCK_ENOTSUP},
};

static bool is_name(seam_call call, int error, int status)
{
    if (call == SEAM_GETFD)
        return status == AFLOCK_EINVAL;
    if (call == SEAM_LOCK && (error == EINVAL || error == ENOLCK) && status == AFLOCK_ENOTSUP)
        return spoken->database; /* the first of them says so */
    if (call == SEAM_GETCWD && error == ERANGE)
        return status == AFLOCK_ENAMETOOLONG;
    if (call == SEAM_STAT && error == ENOENT && status == AFLOCK_EREPLACED)
        return true; /* of aflock_verify */
    if (call == SEAM_LOCK && error == EWOULDBLOCK && status == AFLOCK_EBUSY)
        return true; /* of aflock_break */
    for (size_t i = 0; i < sizeof NAMES / sizeof NAMES[0]; i++)
        if (NAMES[i].error == error)
            return NAMES[i].status == status;
    return status == AFLOCK_ESYS;
}

/* The steps that a result names; the script's other answers have none. */
static const char *const STEPS[SEAM_CALLS][4] = {
    [SEAM_OPEN] = {"open", "open parent", "read /proc/locks", "list"},
    [SEAM_CREATE] = {"open"},
    [SEAM_CLOSE] = {"close"},
    [SEAM_LOCK] = {"flock", "fcntl"},
    [SEAM_UNLOCK] = {"unlock", "fcntl"}, /* of a doorway */
    [SEAM_FSTAT] = {"fstat", "open"},
    [SEAM_STAT] = {"stat", "unlink"},
    [SEAM_WRITE] = {"write"},
    [SEAM_UNLINK] = {"unlink"},
    [SEAM_RENAME] = {"rename"},
    [SEAM_LIST] = {"list"},
    [SEAM_RANDOM] = {"rename", "random"},
    [SEAM_HOSTNAME] = {"gethostname"},
    [SEAM_IDENTIFY] = {"stat parent", "stat"},
    [SEAM_FCHMOD] = {"fchmod"},
    [SEAM_FTRUNCATE] = {"ftruncate"},
    [SEAM_MKDIR] = {"mkdir"},
    [SEAM_READ] = {"read /proc/locks", "open"},
    [SEAM_READ_HEAD] = {"read"},
    [SEAM_DUP] = {"dup", "close"},
};

static bool is_step(seam_call call, const char *step)
{
    if (*spoken->beside && strcmp(step, "unlink") == 0)
        return true; /* what is to be taken away is looked at first */
    for (int i = 0; i < 4 && STEPS[call][i]; i++)
        if (strcmp(STEPS[call][i], step) == 0)
            return true;
    return false;
}

/* --------------------------------------------------------------------------------------------- what is got over */

typedef enum aim { AIM_FILE, AIM_MOUNTS, AIM_LOCKS } aim; /* of a call */

typedef struct injection {
    seam_call call;
    int error;
    aim at;
    bool reported;
} injection;

static const script_chapter *chapter;
static const script_protocol *spoken;
static aflock_io where;

static bool is_one_of(int error, const int *list)
{
    for (; *list; list++)
        if (*list == error)
            return true;
    return false;
}

/* The same where markers are the locks: what cannot be judged is looked at again, who cannot be known is alive, and a
 * marker that cannot be made whole is made in the other way. */
static bool is_absorbed_by_markers(const injection *x)
{
    switch (x->call) {
    case SEAM_CREATE:
    case SEAM_MKDIR:
        return false;
    case SEAM_WRITE: /* who waits makes another one when the path is free */
        return chapter->replaces;
    default:
        return true;
    }
}

/* May nobody hear of it, if it happens once? */
static bool is_absorbed(const injection *x)
{
    static const int GONE[] = {ENOENT, ENOTDIR, ESTALE, 0}, TAKEN[] = {EWOULDBLOCK, EACCES, 0},
                     PASSING[] = {EACCES, EPERM, ENOENT, EISDIR, 0}, OTHERS[] = {EACCES, EPERM, 0};
    if (x->error == EINTR || chapter->walks_out)
        return true; /* repeated */
    if (spoken->marker)
        return is_absorbed_by_markers(x);
    switch (x->call) {
    case SEAM_CLOSE:       /* the descriptor is gone all the same */
    case SEAM_OPEN_CACHED: /* the executor tries again */
    case SEAM_READLINK:    /* only guesses */
    case SEAM_TOUCH:       /* the file is opened and closed instead */
        return true;
    case SEAM_OPEN: /* the kind of file system is not known then; parents are made, a directory that goes, no holders */
        return x->at == AIM_MOUNTS || (x->at == AIM_FILE && (x->error == ENOENT || x->error == ENOTDIR)) ||
               (x->at == AIM_LOCKS && chapter->looks);
    case SEAM_READ:
        return x->at == AIM_MOUNTS || (x->at == AIM_LOCKS && chapter->looks);
    case SEAM_CREATE: /* sticky directories; creating that is not atomic; a directory that goes */
        return is_one_of(x->error, PASSING);
    case SEAM_LOCK: /* somebody else's: tried again; a server's that is gone: opened anew */
        return is_one_of(x->error, TAKEN) || (x->error == ESTALE && chapter->replaces);
    case SEAM_STAT: /* replaced: opened anew; not handed on */
        return is_one_of(x->error, GONE) || chapter->hands_on;
    case SEAM_READ_HEAD:
    case SEAM_IDENTIFY: /* asked again on the executor */
        return where == AFLOCK_IO_AUTO;
    case SEAM_FCHMOD: /* another user's file */
        return is_one_of(x->error, OTHERS);
    case SEAM_UNLOCK: /* there is nothing to unlock any more; who asks is told; what is replaced is closed anyway */
        return x->error == EBADF || chapter->replaces;
    default:
        return false;
    }
}

/* May a lock seem to be taken because of it? */
static bool contends(const injection *x)
{
    return x->call == SEAM_UNLOCK || spoken->marker ||
           (is_absorbed(x) && (x->call == SEAM_LOCK || x->call == SEAM_STAT));
}

/* ------------------------------------------------------------------------------------------------------- the trouble
 */

/* What is to go wrong: call number `at` and `times` - 1 after it, beginning with this errno. */
typedef struct plan {
    unsigned at, times;
    int error;
} plan;

static plan plans[2];
static bool active;
static unsigned sequence;
static seam_call made[CALLS + 1]; /* in the clean run */
static injection injected[INJECTED];
static unsigned injected_count, in_row;

static bool owned[DESCRIPTORS]; /* opened by the library */
static aim aims[DESCRIPTORS];
static aim opening;

static aim aim_of(seam_call call, int fd, const char *path)
{
    if (call == SEAM_OPEN || call == SEAM_OPEN_CACHED)
        return opening = strcmp(path, "/proc/self/mountinfo") == 0 ? AIM_MOUNTS
                         : strcmp(path, "/proc/locks") == 0        ? AIM_LOCKS
                                                                   : AIM_FILE;
    return fd >= 0 ? aims[fd] : AIM_FILE;
}

/* The library works on its own descriptors only, and of a caller's it changes nothing but the lock. */
static void check_descriptor(seam_call call, int fd)
{
    fake_require(fd < DESCRIPTORS);
    if (fd == script_descriptor())
        fake_require(call == SEAM_LOCK || call == SEAM_UNLOCK || call == SEAM_IDENTIFY || call == SEAM_GETFD);
    else
        fake_require(owned[fd]);
}

/* `wished`, if it is plausible for this call, or else one that is. EINTR is not for ever. */
static int choose_error(seam_call call, int fd, int wished)
{
    int error = is_plausible(call, wished) ? wished : PLAUSIBLE[call][sequence % (unsigned)errno_count(call)];
    if (spoken->marker && call == SEAM_STAT && (error == ENOENT || error == ENOTDIR || error == ESTALE))
        error = EIO; /* it is there: nobody lies about that */
    if (*spoken->beside && call == SEAM_OPEN && (error == ENOENT || error == ENOTDIR || error == ELOOP))
        error = EIO; /* nor about what it is */
    if (call == SEAM_UNLOCK && error == EBADF) {
        if (fd == script_descriptor())
            return EIO;
        close(fd); /* somebody did; and the lock has gone with it */
        owned[fd] = false;
    }
    in_row = error == EINTR ? in_row + 1 : 0;
    if (in_row <= ROW)
        return error;
    in_row = 0;
    return 0;
}

static void note_injection(seam_call call, int error, aim at)
{
    for (unsigned i = 0; i < injected_count; i++)
        if (injected[i].call == call && injected[i].error == error && injected[i].at == at)
            return;
    fake_require(injected_count < INJECTED);
    injected[injected_count++] = (injection){call, error, at, false};
}

static int judge(seam_call call, int fd, const char *path)
{
    aim at = aim_of(call, fd, path);
    if (fd >= 0)
        check_descriptor(call, fd);
    if (!active)
        return 0;
    sequence++;
    if (sequence <= CALLS)
        made[sequence] = call;
    for (int i = 0; i < 2; i++) {
        if (plans[i].at == 0 || sequence < plans[i].at || sequence - plans[i].at >= plans[i].times)
            continue;
        int error = choose_error(call, fd, plans[i].error);
        if (error)
            note_injection(call, error, at);
        return error;
    }
    return 0;
}

static void observe(seam_call call, int fd, int result)
{
    if (call == SEAM_CLOSE)
        owned[fd] = false;
    if (result < 0 || (call != SEAM_OPEN && call != SEAM_OPEN_CACHED && call != SEAM_CREATE && call != SEAM_TMPFILE &&
                       call != SEAM_DUP && call != SEAM_PIDFD))
        return;
    fake_require(result < DESCRIPTORS && !owned[result]);
    owned[result] = true;
    aims[result] = call == SEAM_OPEN ? opening : AIM_FILE;
}

static void begin(void)
{
    sequence = injected_count = in_row = 0;
    active = true;
}

static void end(void)
{
    active = false;
}

/* A writer's lock that seems to be in its own way as it becomes a reader's is told as what it is. */
static int errno_told(const injection *x, int sys_errno)
{
    if (x->call == SEAM_HOSTNAME)
        return EINVAL; /* a host without a name */
    bool taken = x->call == SEAM_LOCK && (x->error == EWOULDBLOCK || x->error == EACCES);
    return spoken->database && taken && sys_errno == EIO ? EIO : x->error;
}

static bool explains(int status, int sys_errno, const char *step)
{
    bool found = false;
    for (injection *x = injected; x < injected + injected_count; x++) {
        if (x->error == EINTR) /* nobody ever hears of it */
            continue;
        if ((sys_errno >= 0 && sys_errno != errno_told(x, sys_errno)) ||
            !is_name(x->call, errno_told(x, sys_errno), status) || (step && !is_step(x->call, step)))
            continue;
        found = x->reported = true;
    }
    return found;
}

/* Of soft readers and writers a release makes nearly all the calls of an attempt. */
static bool is_of_a_release(const injection *x)
{
    return *spoken->beside || x->call == SEAM_UNLOCK ||
           (spoken->marker && (x->call == SEAM_UNLINK || x->call == SEAM_STAT));
}

/* A marker of which we do not know which file it is stays until it is 2 s old. */
static bool leaves_a_marker(const injection *x)
{
    return spoken->marker && x->call == SEAM_FSTAT;
}

/* Time runs out only when something goes wrong for long, a release failed that nobody repeats, or something was left.
 */
static bool excuses(int status)
{
    if (status == AFLOCK_ENOTINLINE)
        return where != AFLOCK_IO_INLINE;
    for (const injection *x = injected; x < injected + injected_count; x++)
        if ((contends(x) || leaves_a_marker(x)) &&
            (status == AFLOCK_EWOULDBLOCK ||
             (status == AFLOCK_ETIMEDOUT && (is_of_a_release(x) || leaves_a_marker(x) || plans[0].times > ROW))))
            return true;
    return false;
}

static bool met(void)
{
    return injected_count > 0;
}

static void told(int error)
{
    bool explained = error <= 0;
    for (injection *x = injected; x < injected + injected_count; x++) {
        if (x->error == EINTR || (error < 0 ? !is_of_a_release(x) : x->error != error))
            continue;
        explained = x->reported = true;
    }
    fake_require(explained);
}

static const script_trouble TROUBLE = {begin, end, explains, excuses, met, told, NULL};

/* ------------------------------------------------------------------------------------------------------- the cases */

/* Counted over all processes. */
static struct counts {
    atomic_uint runs, injections[SEAM_CALLS], soaked;
} * counts;

static unsigned stride = 1, soak = 300, seed = 1;
static char **only;

static const char *const IO_NAMES[SCRIPT_IOS] = {"auto", "inline", "pool"};

static void play(void)
{
    snprintf(fake_context, sizeof fake_context, "(--only %s %s %s %u %d %u %u %d %u)", spoken->name, IO_NAMES[where],
             chapter->name, plans[0].at, plans[0].error, plans[0].times, plans[1].at, plans[1].error, plans[1].times);
    long blocks = allocations_alive();
    script_play(chapter, spoken, where, &TROUBLE);
    fake_require(allocations_alive() == blocks);
    for (int fd = 0; fd < DESCRIPTORS; fd++)
        fake_require(!owned[fd]);
    atomic_fetch_add(&counts->runs, 1);
    for (unsigned i = 0; i < injected_count; i++)
        atomic_fetch_add(&counts->injections[injected[i].call], 1);
}

/* How many calls the chapter makes when all goes well. */
static unsigned play_clean(void)
{
    plans[0] = plans[1] = (plan){0};
    play();
    unsigned calls = sequence;
    fake_require(calls <= CALLS && injected_count == 0);
    return calls;
}

/* One failure that happens once is told to somebody, or is one of those that need not be. */
static void play_failing(void)
{
    play();
    if (plans[0].times > 1 || plans[1].at)
        return;
    fake_require(injected_count <= 1);
    for (unsigned i = 0; i < injected_count; i++)
        fake_require(injected[i].reported || is_absorbed(&injected[i]));
}

/* Between the cases that are played. Soft readers and writers make four times as many calls as the others. */
static unsigned distance(void)
{
    return stride > 1 && *spoken->beside ? 4 * stride : stride;
}

static void play_modes(unsigned at, int error, unsigned *number)
{
    for (int mode = 0; mode < (chapter->forks ? 1 : MODES); mode++) {
        plans[0] = (plan){at, TIMES[mode], error};
        if ((*number)++ % distance() == 0)
            play_failing();
    }
}

static void play_chapter(unsigned *number)
{
    seam_call clean[CALLS + 1];
    unsigned calls = play_clean(), descriptors = fake_descriptors();
    memcpy(clean, made, sizeof clean);
    for (unsigned at = 1; at <= calls; at++) {
        for (int e = 0; e < errno_count(clean[at]); e++)
            play_modes(at, PLAUSIBLE[clean[at]][e], number);
        fake_require(fake_descriptors() == descriptors);
    }
}

START_TEST(every_call_fails)
{
    unsigned number = 0;
    spoken = &script_protocols[_i / SCRIPT_IOS];
    where = (aflock_io)(_i % SCRIPT_IOS);
    seam_judge_by(judge, observe);
    for (size_t i = 0; i < script_chapter_count && !only; i++) {
        chapter = &script_chapters[i];
        if (script_applies(chapter, spoken))
            play_chapter(&number);
    }
}
END_TEST

static unsigned chance(unsigned below)
{
    static uint64_t state;
    if (state == 0)
        state = UINT64_C(0x9E3779B97F4A7C15) * (seed + 1);
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (unsigned)(state >> 33) % below;
}

START_TEST(two_calls_fail)
{
    spoken = &script_protocols[_i / SCRIPT_IOS];
    where = (aflock_io)(_i % SCRIPT_IOS);
    seed += (unsigned)_i * 1000;
    seam_judge_by(judge, observe);
    for (unsigned i = 0; i < soak && !only; i++) {
        chapter = &script_chapters[chance((unsigned)script_chapter_count)];
        if (chapter->forks || !script_applies(chapter, spoken))
            continue;
        unsigned calls = play_clean();
        for (int j = 0; j < 2 && calls > 0; j++) {
            unsigned at = 1 + chance(calls);
            int error = PLAUSIBLE[made[at]][chance((unsigned)errno_count(made[at]))];
            plans[j] = (plan){at, 1 + chance(2), error};
        }
        play();
        atomic_fetch_add(&counts->soaked, 1);
    }
}
END_TEST

static unsigned number_of(const char *text)
{
    return (unsigned)strtoul(text, NULL, 10);
}

START_TEST(one_case)
{
    if (!only || _i != 0)
        return;
    for (int i = 0; i < SCRIPT_PROTOCOLS; i++)
        if (strcmp(script_protocols[i].name, only[0]) == 0)
            spoken = &script_protocols[i];
    for (int i = 0; i < SCRIPT_IOS; i++)
        if (strcmp(IO_NAMES[i], only[1]) == 0)
            where = (aflock_io)i;
    for (size_t i = 0; i < script_chapter_count; i++)
        if (strcmp(script_chapters[i].name, only[2]) == 0)
            chapter = &script_chapters[i];
    ck_assert(spoken && chapter);
    seam_judge_by(judge, observe);
    unsigned calls = play_clean();
    for (unsigned i = 1; i <= calls; i++)
        printf("%3u %s\n", i, seam_name(made[i]));
    fflush(stdout);
    for (int i = 0; i < 2; i++)
        plans[i] = (plan){number_of(only[3 * i + 3]), number_of(only[3 * i + 5]), (int)number_of(only[3 * i + 4])};
    play_failing();
}
END_TEST

static void print_figures(void)
{
    unsigned total = 0;
    char text[512] = "";
    for (int i = 0; i < SEAM_CALLS; i++) {
        unsigned count = atomic_load(&counts->injections[i]);
        size_t length = strlen(text);
        total += count;
        snprintf(text + length, sizeof text - length, "%s%s %u", i ? ", " : "", seam_name((seam_call)i), count);
    }
    printf("figure: faults: %u runs, every %u. case; failures of system calls: %u (%s); %u runs with two at once, seed "
           "%u\n",
           atomic_load(&counts->runs), stride, total, text, atomic_load(&counts->soaked), seed);
}

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i += 2) {
        unsigned value = i + 1 < argc ? number_of(argv[i + 1]) : 0;
        if (strcmp(argv[i], "--stride") == 0)
            stride = value ? value : 1;
        else if (strcmp(argv[i], "--soak") == 0)
            soak = value;
        else if (strcmp(argv[i], "--seed") == 0)
            seed = value;
        else if (strcmp(argv[i], "--only") == 0 && i + 9 < argc)
            only = &argv[i + 1];
        if (only)
            break;
    }
    counts = mmap(NULL, sizeof *counts, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (counts == MAP_FAILED)
        return EXIT_FAILURE;
    const TTest *const tests[] = {every_call_fails, two_calls_fail, one_case, NULL};
    int status = fake_main_each("faults: calls", tests, SCRIPT_PROTOCOLS * SCRIPT_IOS, 1000);
    print_figures();
    return status;
}
