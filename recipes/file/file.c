/* aflock/file.h: acquires FILE.lock, has the work done under the hold (aflock_run), gives it back and calls back. Built
 * on aflock/aflock.h alone. */
#include "file/work.h"

#include <errno.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define LOCK_SUFFIX ".lock"
#define TEMPORARY_SUFFIX ".lock.tmp"
enum { DEFAULT_MAX_SIZE = 64 << 20, MODE_BITS = 07777 };

/* One call, from the acquire to the callback. A worker may go on with it when the context is gone. */
typedef struct operation {
    file_work work;
    atomic_uint users; /* the loop, and the worker from aflock_run on */
    aflock *lock;
    aflock_file_callback callback;
    void *user;
} operation;

void aflock_file_options_init(aflock_file_options *o)
{
    if (o)
        *o = (aflock_file_options){.size = sizeof *o, .max_size = DEFAULT_MAX_SIZE, .mode = 0666};
}

/* A caller that was compiled against an older header gives less. */
static int take_options(aflock_file_options *o, const aflock_file_options *given)
{
    aflock_file_options_init(o);
    if (given) {
        if (given->size < sizeof given->size || given->size > sizeof *o)
            return AFLOCK_EINVAL;
        memcpy(o, given, given->size);
    }
    return o->mode <= MODE_BITS ? 0 : AFLOCK_EINVAL;
}

/* ------------------------------------------------------------------------------------------------------- operations */

static void leave(operation *op)
{
    if (atomic_fetch_sub(&op->users, 1) != 1)
        return;
    free(op->work.path);
    free(op->work.temporary);
    free(op->work.directory);
    free(op->work.data);
    free(op->work.content.data);
    free(op);
}

static char *with_suffix(const char *path, size_t length, const char *suffix)
{
    size_t more = strlen(suffix);
    char *text = malloc(length + more + 1);
    if (!text)
        return NULL;
    memcpy(text, path, length);
    memcpy(text + length, suffix, more + 1);
    return text;
}

/* From that of the lock, which is absolute. The temporary file has the longest name of the three. */
static int set_paths(operation *op)
{
    const char *lock = aflock_path(op->lock);
    size_t length = strlen(lock) - strlen(LOCK_SUFFIX), parent = (size_t)(strrchr(lock, '/') - lock);
    size_t longest = length + strlen(TEMPORARY_SUFFIX);
    if (longest - parent - 1 > NAME_MAX || longest >= PATH_MAX)
        return AFLOCK_ENAMETOOLONG;
    op->work.path = with_suffix(lock, length, "");
    op->work.temporary = with_suffix(lock, length, TEMPORARY_SUFFIX);
    op->work.directory = with_suffix(lock, parent ? parent : 1, "");
    return op->work.path && op->work.temporary && op->work.directory ? 0 : AFLOCK_ENOMEM;
}

static int status_of(int error)
{
    static const struct {
        int error, status;
    } STATUSES[] = {{ENOENT, AFLOCK_ENOENT},  {ENOMEM, AFLOCK_ENOMEM},   {ENAMETOOLONG, AFLOCK_ENAMETOOLONG},
                    {EISDIR, AFLOCK_EISDIR},  {ENOTDIR, AFLOCK_ENOTDIR}, {ELOOP, AFLOCK_ELOOP},
                    {ENXIO, AFLOCK_ENOTFILE}, {EACCES, AFLOCK_EACCES},   {EPERM, AFLOCK_EACCES},
                    {EROFS, AFLOCK_EROFS},    {ENOSPC, AFLOCK_ENOSPC},   {EDQUOT, AFLOCK_ENOSPC},
                    {EMFILE, AFLOCK_EMFILE},  {ENFILE, AFLOCK_EMFILE}};
    for (size_t i = 0; i < sizeof STATUSES / sizeof STATUSES[0]; i++)
        if (STATUSES[i].error == error)
            return STATUSES[i].status;
    return AFLOCK_ESYS;
}

/* ------------------------------------------------------------------------------------------------------ on the loop */

/* The operation is over, as far as the loop is concerned. The result's texts live until the callback has returned. */
static void report(operation *op, const aflock_file_result *result)
{
    op->callback(result, op->user);
    leave(op);
}

static void report_lock(operation *op, const aflock_result *r, int status)
{
    const aflock_file_result result = {.size = sizeof result,
                                       .status = status,
                                       .sys_errno = r->sys_errno,
                                       .cleanup_errno = r->cleanup_errno,
                                       .step = r->step,
                                       .path = r->path};
    report(op, &result);
}

static void report_work(operation *op, int status)
{
    const file_work *w = &op->work;
    aflock_file_result result = {
        .size = sizeof result, .status = status, .cleanup_errno = w->cleanup_errno, .path = w->path};
    if (w->step) {
        result.status = w->refused ? AFLOCK_EREFUSED : status_of(w->sys_errno);
        result.sys_errno = w->sys_errno;
        result.step = w->step;
        result.path = w->at;
    } else if (w->kind == FILE_READ) {
        result.data = w->content.data;
        result.length = w->content.length;
        result.exists = w->content.exists;
    }
    report(op, &result);
}

/* Nothing of the lock is needed any more; a release that fails is tried again by the library. */
static void let_go(aflock *lock, aflock_req req)
{
    aflock_release(lock, req, NULL, NULL);
    aflock_close(lock);
}

static int carry_out(int fd, void *user)
{
    operation *op = user;
    (void)fd;
    file_work_carry_out(&op->work);
    leave(op);
    return 0;
}

static bool has_run(int status)
{
    return status == 0 || status == AFLOCK_ECOMPROMISED;
}

static void on_ran(aflock *lock, const aflock_result *r, int value, void *user)
{
    operation *op = user;
    (void)value;
    if (r->status != AFLOCK_EBUSY)
        let_go(lock, r->req);
    if (has_run(r->status)) {
        report_work(op, r->status);
        return;
    }
    if (r->status != AFLOCK_EBUSY)
        leave(op); /* the worker's share: it never began */
    report_lock(op, r, r->status);
}

static void on_acquired(aflock *lock, const aflock_result *r, void *user)
{
    operation *op = user;
    int status = r->status;
    if (status != 0) {
        aflock_close(lock);
        report_lock(op, r, status);
        return;
    }
    atomic_fetch_add(&op->users, 1);
    status = aflock_run(lock, r->req, carry_out, on_ran, op);
    if (status == 0)
        return;
    leave(op);
    let_go(lock, r->req);
    report_lock(op, r, status);
}

/* ---------------------------------------------------------------------------------------------------------- the calls
 */

static bool can_share(const aflock_options *lock)
{
    return !lock || lock->protocol == AFLOCK_NATIVE || lock->protocol == AFLOCK_OFD || lock->protocol == AFLOCK_RW;
}

static int acquire(operation *op, const aflock_file_options *o)
{
    aflock_acquire_options a;
    aflock_acquire_options_init(&a);
    if (op->work.kind == FILE_READ)
        a.flags &= ~(uint32_t)AFLOCK_MAKE_PARENTS;
    if (o->acquire) {
        if (o->acquire->size < sizeof o->acquire->size || o->acquire->size > sizeof a)
            return AFLOCK_EINVAL;
        memcpy(&a, o->acquire, o->acquire->size);
        a.size = sizeof a;
    }
    if (a.on_acquired)
        return AFLOCK_EINVAL;
    const bool shares = op->work.kind == FILE_READ && can_share(o->lock);
    a.mode = shares ? AFLOCK_SHARED : AFLOCK_EXCLUSIVE;
    if (shares)
        a.flags |= AFLOCK_READ_ONLY; /* who may read the file need not be one who may write */
    return aflock_acquire(op->lock, &a, on_acquired, op, NULL);
}

static operation *new_operation(file_kind kind, const aflock_file_options *o)
{
    operation *op = calloc(1, sizeof *op); /* a worker may be the last to use it */
    if (!op)
        return NULL;
    atomic_init(&op->users, 1);
    op->work.kind = kind;
    op->work.max_size = o->max_size;
    op->work.mode = o->mode;
    op->work.sync = !o->no_sync;
    return op;
}

static int open_lock(operation *op, aflock_ctx *ctx, const char *path, const aflock_options *options)
{
    char *name = with_suffix(path, strlen(path), LOCK_SUFFIX);
    if (!name)
        return AFLOCK_ENOMEM;
    int status = aflock_open(&op->lock, ctx, name, options);
    free(name);
    return status;
}

/* Takes the operation. */
static int begin(operation *op, aflock_ctx *ctx, const char *path, const aflock_file_options *o,
                 aflock_file_callback callback, void *user)
{
    op->callback = callback;
    op->user = op->work.user = user;
    int status = open_lock(op, ctx, path, o->lock);
    if (!status)
        status = set_paths(op);
    if (!status)
        status = acquire(op, o);
    if (!status)
        return 0;
    aflock_close(op->lock);
    leave(op);
    return status;
}

/* A path without a file's name at its end would name a lock inside of the directory. */
static bool names_a_file(const char *path)
{
    const char *slash = path ? strrchr(path, '/') : NULL;
    const char *name = slash ? slash + 1 : path;
    return name && *name && strcmp(name, ".") != 0 && strcmp(name, "..") != 0;
}

/* Checks what all calls have in common, and makes the operation; NULL: *status says why not. */
static operation *prepare(file_kind kind, const char *path, const aflock_file_options *given, aflock_file_options *o,
                          aflock_file_callback callback, int *status)
{
    *status = take_options(o, given);
    if (!*status && (!names_a_file(path) || !callback))
        *status = AFLOCK_EINVAL;
    operation *op = *status ? NULL : new_operation(kind, o);
    if (!op && !*status)
        *status = AFLOCK_ENOMEM;
    return op;
}

int aflock_file_read(aflock_ctx *ctx, const char *path, const aflock_file_options *options,
                     aflock_file_callback callback, void *user)
{
    aflock_file_options o;
    int status;
    operation *op = prepare(FILE_READ, path, options, &o, callback, &status);
    return op ? begin(op, ctx, path, &o, callback, user) : status;
}

int aflock_file_update(aflock_ctx *ctx, const char *path, aflock_file_change change, const aflock_file_options *options,
                       aflock_file_callback callback, void *user)
{
    aflock_file_options o;
    int status;
    operation *op = change ? prepare(FILE_UPDATE, path, options, &o, callback, &status) : NULL;
    if (!op)
        return change ? status : AFLOCK_EINVAL;
    op->work.change = change;
    return begin(op, ctx, path, &o, callback, user);
}

static int write_data(file_kind kind, aflock_ctx *ctx, const char *path, const void *data, size_t length,
                      const aflock_file_options *options, aflock_file_callback callback, void *user)
{
    aflock_file_options o;
    int status;
    if (!data && length)
        return AFLOCK_EINVAL;
    operation *op = prepare(kind, path, options, &o, callback, &status);
    if (!op)
        return status;
    size_t around = kind == FILE_APPEND; /* a newline on either side */
    op->work.data = length < SIZE_MAX - 2 ? malloc(length + 2) : NULL;
    if (!op->work.data) {
        leave(op);
        return AFLOCK_ENOMEM;
    }
    op->work.data[0] = op->work.data[length + around] = '\n';
    if (length)
        memcpy(op->work.data + around, data, length);
    op->work.length = length + 2 * around;
    return begin(op, ctx, path, &o, callback, user);
}

int aflock_file_replace(aflock_ctx *ctx, const char *path, const void *data, size_t length,
                        const aflock_file_options *options, aflock_file_callback callback, void *user)
{
    return write_data(FILE_REPLACE, ctx, path, data, length, options, callback, user);
}

int aflock_file_create(aflock_ctx *ctx, const char *path, const void *data, size_t length,
                       const aflock_file_options *options, aflock_file_callback callback, void *user)
{
    return write_data(FILE_CREATE, ctx, path, data, length, options, callback, user);
}

int aflock_file_append(aflock_ctx *ctx, const char *path, const char *line, size_t length,
                       const aflock_file_options *options, aflock_file_callback callback, void *user)
{
    if (line && length && memchr(line, '\n', length))
        return AFLOCK_EINVAL;
    return write_data(FILE_APPEND, ctx, path, line, length, options, callback, user);
}

int aflock_file_append_lines(aflock_ctx *ctx, const char *path, const char *lines, size_t length,
                             const aflock_file_options *options, aflock_file_callback callback, void *user)
{
    if (!lines || length == 0 || lines[length - 1] != '\n')
        return AFLOCK_EINVAL;
    return write_data(FILE_APPEND, ctx, path, lines, length - 1, options, callback, user);
}
