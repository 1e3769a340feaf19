/* As with one lock, what is had lives in descriptors, which the command may inherit: it is not given back here when the
 * command has ended.
 */
#include "many.h"

#include <stdio.h>
#include <string.h>

int is_many(const options *o)
{
    return o->maximum > 0 || o->path_count > 0;
}

/* "DIRECTORY/NAME" */
static int open_semaphore(waiter *w, const aflock_options *lo, uint32_t flags)
{
    const char *path = w->options->file;
    const char *slash = strrchr(path, '/');
    const size_t length = slash == path ? 1 : slash ? (size_t)(slash - path) : 0;
    aflock_semaphore_options so;
    char directory[PATH_MAX];
    int status;

    if (length >= sizeof directory)
        return AFLOCK_ENAMETOOLONG;
    snprintf(directory, sizeof directory, "%.*s", (int)length, path);
    aflock_semaphore_options_init(&so);
    so.lock = lo;
    so.flags = flags & ~(uint32_t)AFLOCK_DIRECTORY;
    status = aflock_semaphore_new(&w->semaphore, w->ctx, slash ? directory : ".", slash ? slash + 1 : path,
                                  (unsigned)w->options->maximum, &so);
    w->lock = status == 0 ? aflock_semaphore_lock(w->semaphore, 0) : NULL;
    return status;
}

static int open_several(waiter *w, const aflock_options *lo)
{
    const options *o = w->options;
    int status = aflock_several_new(&w->several, w->ctx);

    for (int i = 0; status >= 0 && i < o->path_count; i++) {
        w->which = o->paths[i];
        status = aflock_several_add(w->several, o->paths[i], o->mode, lo);
    }
    return status < 0 ? status : 0;
}

int many_open(waiter *w, const aflock_options *lo, uint32_t flags)
{
    return w->options->maximum ? open_semaphore(w, lo, flags) : open_several(w, lo);
}

static void on_permit(aflock_semaphore *semaphore, const aflock_semaphore_result *result, void *user)
{
    (void)semaphore;
    waiter_answer(user, result->status, result->sys_errno, result->step);
}

static void on_several(aflock_several *several, const aflock_several_result *result, void *user)
{
    waiter *w = user;

    (void)several;
    w->which = w->options->paths[result->index];
    waiter_answer(w, result->status, result->sys_errno, result->step);
    snprintf(w->detail, sizeof w->detail, "%s", result->detail ? result->detail : "");
}

int many_ask(waiter *w, const aflock_acquire_options *ao)
{
    return w->semaphore ? aflock_semaphore_acquire(w->semaphore, ao->timeout, NULL, on_permit, w, NULL)
                        : aflock_several_all(w->several, ao, on_several, w);
}

void many_close(waiter *w)
{
    aflock_semaphore_free(w->semaphore);
    aflock_several_free(w->several);
    w->semaphore = NULL;
    w->several = NULL;
}
