/* Everything is asked on this thread: there is nothing to wait for but the file system itself, and signals end that.
 *
 * Of locks in the kernel the descriptor is asked, of a marker the path. The descriptor is one that only names the file
 * (O_PATH): no driver, no FIFO and no listener hears of it, and it needs no permission on the file.
 */
#include "look.h"

#include "message.h"
#include "options.h"

#include <aflock/epoll.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

/* One question, and where its answer goes. */
typedef struct question {
    aflock_holder *holder;
    look *look;         /* where claims are kept; NULL: they are not */
    char *host, *token; /* where these texts are kept */
    int answered;
    int error; /* of a removal */
} question;

/* They live during the callback only. 0, or AFLOCK_ENOMEM. */
static int copy_claims(look *l, const aflock_holder *holder)
{
    l->left_out = holder->claims_left_out;
    snprintf(l->problem, sizeof l->problem, "%s", holder->detail ? holder->detail : "");
    if (holder->claim_count == 0)
        return 0;
    l->claims = calloc(holder->claim_count, sizeof *l->claims);
    if (!l->claims)
        return AFLOCK_ENOMEM;
    l->claim_count = holder->claim_count;
    for (size_t i = 0; i < l->claim_count; i++) {
        const aflock_claim *from = &holder->claims[i];
        look_claim *to = &l->claims[i];

        snprintf(to->name, sizeof to->name, "%s", from->name);
        snprintf(to->host, sizeof to->host, "%s", from->host);
        to->held = from->held;
        to->valid = *from->token != '\0';
        to->owner = (aflock_holder){.pid = from->pid,
                                    .host = to->host,
                                    .age = from->age,
                                    .here = from->here,
                                    .gone = from->gone,
                                    .count = 1,
                                    .mode = AFLOCK_EXCLUSIVE};
    }
    return 0;
}

static void on_seen(aflock *lock, const aflock_holder *holder, void *user)
{
    question *q = user;

    (void)lock;
    *q->holder = *holder;
    q->holder->host = q->holder->token = NULL;
    if (q->host) {
        snprintf(q->host, LOOK_HOST, "%s", holder->host);
        snprintf(q->token, LOOK_TOKEN, "%s", holder->token);
        q->holder->host = q->host;
        q->holder->token = q->token;
    }
    if (q->look && copy_claims(q->look, holder) != 0)
        q->holder->status = AFLOCK_ENOMEM;
    q->holder->claims = NULL;
    q->holder->detail = NULL;
    q->answered = 1;
}

static void on_broken(aflock *lock, const aflock_result *result, void *user)
{
    question *q = user;

    (void)lock;
    if (result->status != 0)
        q->error = result->sys_errno ? result->sys_errno : EIO;
    q->answered = 1;
}

static int open_lock(const look *l, aflock_protocol protocol, aflock **lock)
{
    aflock_options lo;

    aflock_options_init(&lo);
    lo.protocol = protocol;
    lo.io = AFLOCK_IO_INLINE;
    if (protocol == AFLOCK_RW) { /* wants a path: one that names what is open */
        char path[40];

        snprintf(path, sizeof path, "/proc/self/fd/%d", l->fd);
        return aflock_open(lock, l->ctx, path, &lo);
    }
    return protocol == AFLOCK_NATIVE || protocol == AFLOCK_OFD ? aflock_open_fd(lock, l->ctx, l->fd, &lo)
                                                               : aflock_open(lock, l->ctx, l->path, &lo);
}

static int wait_for_answer(const look *l, const question *q)
{
    int status = 0;

    while (!q->answered && status == 0)
        status = aflock_epoll_run_once(l->ctx, AFLOCK_FOREVER);
    return status;
}

static int ask(look *l, aflock_protocol protocol, aflock_holder *holder, look *texts)
{
    question q = {.holder = holder, .look = texts};
    aflock *lock = NULL;
    int status = open_lock(l, protocol, &lock);

    if (holder == &l->soft_rw) {
        q.host = l->soft_rw_host;
        q.token = l->soft_rw_token;
    } else if (holder == &l->state) {
        q.host = l->state_host;
        q.token = l->state_token;
    } else if (texts) {
        q.host = l->host;
        q.token = l->token;
    }

    if (status == 0)
        status = aflock_inspect(lock, on_seen, &q);
    if (status == 0)
        status = wait_for_answer(l, &q);
    (void)aflock_close(lock);
    return status != 0 ? status : holder->status;
}

/* What does not follow the protocol is shown, too. */
static int ask_claims(look *l)
{
    int status = ask(l, AFLOCK_STRICT, &l->holder, l);

    l->marker = MARKER_STRICT;
    return status == AFLOCK_EPROTO ? 0 : status;
}

/* Only of regular files: whatever else is there is no marker. */
static int ask_marker(look *l)
{
    int status;

    if (!S_ISREG(l->st.st_mode))
        return 0;
    l->marker = MARKER_NOBODY;
    if (l->st.st_size == 0)
        return 0;
    if (access(l->path, R_OK) != 0 && errno != ENOENT) {
        l->marker = MARKER_UNREAD;
        return 0;
    }
    status = ask(l, AFLOCK_SOFT, &l->holder, l);
    if (status == 0 && l->holder.record == AFLOCK_RECORD_SENTINEL)
        return ask_claims(l);
    if (status == AFLOCK_ENAMETOOLONG) /* of what a marker may be called */
        return 0;
    if (status == 0 && l->holder.held && l->holder.pid > 0)
        l->marker = MARKER_HOLDER;
    return status;
}

/* The path and an ending, if something of that name is there. */
static int is_beside(const char *path, const char *ending, char name[PATH_MAX], struct stat *st)
{
    const int length = snprintf(name, PATH_MAX, "%s%s", path, ending);

    return length > 0 && length < PATH_MAX && fstatat(AT_FDCWD, name, st, AT_SYMLINK_NOFOLLOW) == 0;
}

/* Who has a native lock on PATH.lock, if there is such a file. */
static int ask_lock_file(look *l, aflock_holder *holder)
{
    const int asked = l->fd;
    char name[PATH_MAX];
    struct stat st;
    int status = 0;

    if (!is_beside(l->path, ".lock", name, &st) || !S_ISREG(st.st_mode))
        return 0;
    l->fd = open(name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    if (l->fd >= 0) {
        status = ask(l, AFLOCK_NATIVE, holder, NULL);
        close(l->fd);
    }
    l->fd = asked;
    return status;
}

/* Others lock PATH.lock, too, such as `aflock append`, and any file may have a number in it. It is a pid file's lock if
 * the kernel says that the process that the file names took it. */
static int ask_pidfile(look *l)
{
    aflock_holder locked = {.held = 0};
    int status = ask_lock_file(l, &locked);

    l->lock_file_held = locked.held;
    if (status != 0 || !locked.held || locked.mode != AFLOCK_EXCLUSIVE || locked.pid <= 0 || !S_ISREG(l->st.st_mode))
        return status;
    status = ask(l, AFLOCK_PIDFILE, &l->pidfile, NULL);
    if (l->pidfile.record != AFLOCK_RECORD_PID || l->pidfile.pid != locked.pid)
        l->pidfile.held = 0;
    return status;
}

/* Of a path that need not be there: it is locked by what is beside it. */
static int ask_beside(look *l, const char *path)
{
    const char *const asked = l->path;
    char name[PATH_MAX];
    struct stat st;
    int status;

    if (!is_beside(path, ".write", name, &st) && !is_beside(path, ".readers", name, &st) &&
        !is_beside(path, ".state", name, &st))
        return 0;
    l->path = path;
    status = ask(l, AFLOCK_SOFT_RW, &l->soft_rw, l);
    if (*l->problem) {
        memcpy(l->soft_rw_problem, l->problem, sizeof l->problem);
        l->problem[0] = '\0';
        status = 0;
    }
    if (status == 0 && l->soft_rw.blocked && is_beside(path, ".state", name, &st)) {
        l->path = name;
        status = ask(l, AFLOCK_SOFT, &l->state, l);
    }
    l->path = asked;
    return status;
}

/* The length of the path before this ending, or 0. */
static size_t length_before(const char *path, const char *ending)
{
    const size_t length = strlen(path), end = strlen(ending);

    return length > end && length < PATH_MAX && strcmp(path + length - end, ending) == 0 ? length - end : 0;
}

/* Is it the writer's marker of somebody who can be told, or the folder of those who read? */
static int is_marker_of(const look *l, const char *ending)
{
    const aflock_holder *holder = &l->soft_rw;

    if (strcmp(ending, ".readers") == 0)
        return S_ISDIR(l->st.st_mode) && holder->mode == AFLOCK_SHARED && holder->count > 0;
    return S_ISREG(l->st.st_mode) && holder->pid > 0 && holder->count > 0 &&
           (holder->pending || holder->mode == AFLOCK_EXCLUSIVE);
}

/* Of a path that is itself what is beside another one, that is asked. */
static int ask_soft_rw(look *l)
{
    static const char *const endings[] = {".write", ".readers"};
    int status = ask_beside(l, l->path);

    for (size_t i = 0; i < sizeof endings / sizeof endings[0] && status == 0 && !l->soft_rw.held && l->fd >= 0 &&
                       !*l->soft_rw_problem;
         i++) {
        const size_t length = length_before(l->path, endings[i]);

        if (length == 0)
            continue;
        snprintf(l->soft_rw_path, sizeof l->soft_rw_path, "%.*s", (int)length, l->path);
        if (ask_beside(l, l->soft_rw_path) == 0 && is_marker_of(l, endings[i]))
            return 0;
        l->soft_rw = (aflock_holder){.held = 0};
        l->soft_rw_path[0] = l->soft_rw_problem[0] = '\0';
    }
    return status;
}

int look_is_of_soft_rw(const look *l)
{
    char path[PATH_MAX], name[PATH_MAX];
    struct stat st;
    const size_t length = length_before(l->path, ".state");

    snprintf(path, sizeof path, "%.*s", (int)length, l->path);
    return S_ISREG(l->st.st_mode) &&
           (*l->soft_rw_path || (length > 0 && is_beside(path, ".readers", name, &st) && S_ISDIR(st.st_mode)));
}

const char *look_obstacle(const look *l)
{
    static const char *const endings[] = {".state", ".write"};

    for (size_t i = 0; i < sizeof endings / sizeof endings[0]; i++) {
        if (l->fd >= 0 && !S_ISREG(l->st.st_mode) && length_before(l->path, endings[i]) > 0)
            return endings[i];
    }
    return NULL;
}

static int cannot(const look *l, const char *why)
{
    complain("cannot look at '%s': %s", l->path, why);
    return EX_NOINPUT;
}

static int ends_like_directory(const char *path)
{
    size_t length = strlen(path);

    if (length > 1 && path[length - 1] == '.' && path[length - 2] == '/')
        length--;
    return length > 1 && path[length - 1] == '/';
}

static int open_path(look *l)
{
    if (ends_like_directory(l->path)) /* a link before it would be followed */
        return cannot(l, "it is to be written without the slash at its end");
    l->fd = open(l->path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    if (l->fd < 0)
        return errno == ENOENT && *l->path ? GO_ON : cannot(l, strerror(errno));
    if (fstat(l->fd, &l->st) != 0)
        return cannot(l, strerror(errno));
    return S_ISLNK(l->st.st_mode) ? cannot(l, "it is a symbolic link") : GO_ON;
}

int look_at(look *l, const char *path)
{
    int status;

    *l = (look){.path = path, .fd = -1};
    status = open_path(l);
    if (status != GO_ON)
        return status;
    status = aflock_epoll_new(&l->ctx, NULL);
    if (status != 0) {
        complain("cannot make an event loop: %s", aflock_strerror(status));
        return EX_OSERR;
    }
    if ((status = ask_soft_rw(l)) != 0 || (status = ask_pidfile(l)) != 0)
        return cannot(l, aflock_strerror(status));
    if (l->fd < 0)
        return GO_ON;
    if ((status = ask(l, AFLOCK_NATIVE, &l->native, NULL)) != 0 || (status = ask(l, AFLOCK_OFD, &l->ofd, NULL)) != 0 ||
        (status = ask(l, AFLOCK_RW, &l->rw, NULL)) != 0 || (status = ask_marker(l)) != 0)
        return cannot(l, aflock_strerror(status));
    return GO_ON;
}

void look_end(look *l)
{
    (void)aflock_ctx_free(l->ctx, 0);
    free(l->claims);
    if (l->fd >= 0)
        close(l->fd);
}

int look_has_rw(const look *l)
{
    return (l->rw.held || l->rw.pending) && !l->rw.outside;
}

int look_has_ofd(const look *l)
{
    return l->ofd.held && (l->ofd.outside || !look_has_rw(l));
}

int look_is_stale(const look *l)
{
    struct stat now;

    return fstatat(AT_FDCWD, l->path, &now, AT_SYMLINK_NOFOLLOW) != 0 || now.st_dev != l->st.st_dev ||
           now.st_ino != l->st.st_ino || now.st_mtim.tv_sec != l->st.st_mtim.tv_sec ||
           now.st_mtim.tv_nsec != l->st.st_mtim.tv_nsec;
}

/* `claim` NULL: the marker. */
static int take_away(look *l, const char *claim)
{
    question q = {.error = 0};
    aflock *lock = NULL;
    int status = open_lock(l, claim ? AFLOCK_STRICT : AFLOCK_SOFT, &lock);

    if (status == 0)
        status = claim ? aflock_break_claim(lock, claim, on_broken, &q) : aflock_break(lock, on_broken, &q);
    if (status == 0)
        status = wait_for_answer(l, &q);
    (void)aflock_close(lock);
    return status != 0 ? EIO : q.error;
}

int look_break(look *l)
{
    return take_away(l, NULL);
}

int look_break_claim(look *l, const char *name)
{
    return take_away(l, name);
}

size_t look_command(const aflock_holder *holder, char words[LOOK_COMMAND + 1])
{
    char path[64];
    size_t used = 0;
    ssize_t n;
    int fd;

    if (!holder->here || holder->gone || holder->pid <= 0 || holder->pid > INT_MAX)
        return 0;
    snprintf(path, sizeof path, "/proc/%d/cmdline", (int)holder->pid);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    while (used < LOOK_COMMAND && ((n = read(fd, words + used, LOOK_COMMAND - used)) > 0 || (n < 0 && errno == EINTR)))
        used += n > 0 ? (size_t)n : 0;
    close(fd);
    if (used > 0 && words[used - 1] != '\0')
        words[used++] = '\0'; /* cut, or overwritten by the process itself */
    return used;
}
