/* `aflock update`: what the file contains goes through a command while the lock is held. */
#include "files.h"
#include "filter.h"
#include "message.h"
#include "work.h"

#include <errno.h>
#include <string.h>
#include <sys/wait.h>
#include <sysexits.h>

/* On a worker. What the command has written is handed over. */
static int change(const aflock_file_content *before, aflock_file_content *after, void *user)
{
    filter *f = ((work *)user)->user;

    if (!filter_run(f, before->data, before->length))
        return ECANCELED;
    after->data = f->data;
    after->length = f->length;
    f->data = NULL;
    return 0;
}

static int call_update(work *w, const aflock_file_options *fo, void *data)
{
    (void)data;
    return aflock_file_update(w->ctx, w->options->file, change, fo, work_answer, w);
}

static void on_signal(int number, int for_us_alone, void *user)
{
    filter_tell(user, number, for_us_alone);
}

static int not_started(const work *w, const filter *f)
{
    const char *command = f->command[0], *why = strerror(f->start_errno);

    if (f->step)
        complain("cannot update '%s': cannot run '%s': %s: %s", w->options->file, command, f->step, why);
    else
        complain("cannot update '%s': failed to execute '%s': %s", w->options->file, command, why);
    return f->step || f->start_errno == ENOMEM || f->start_errno == EAGAIN ? EX_OSERR : EX_UNAVAILABLE;
}

/* Why there is no new content. */
static int refusal(const work *w, const filter *f)
{
    const char *file = w->options->file, *command = f->command[0];

    if (f->start_errno)
        return not_started(w, f);
    if (f->is_too_much) {
        complain("cannot update '%s': '%s' writes more than %d MiB", file, command, WORK_CONTENT_LIMIT >> 20);
        return EX_DATAERR;
    }
    if (f->io_errno) {
        complain("cannot update '%s': read from '%s': %s", file, command, strerror(f->io_errno));
        return EX_OSERR;
    }
    if (WIFSIGNALED(f->status)) {
        complain("'%s' is left as it is: '%s' was ended by signal %d", file, command, WTERMSIG(f->status));
        return 128 + WTERMSIG(f->status);
    }
    complain("'%s' is left as it is: '%s' has ended with status %d", file, command, WEXITSTATUS(f->status));
    return WEXITSTATUS(f->status);
}

int files_update(const options *o, const signals *s)
{
    static work w;
    static filter f; /* static: a worker that hangs may use it to the end */
    int error = filter_begin(&f, s, o->command, WORK_CONTENT_LIMIT), status;

    if (error) {
        complain("cannot update '%s': pipe: %s", o->file, strerror(error));
        return EX_OSERR;
    }
    (void)signal(SIGCHLD, SIG_DFL); /* ignored, it would make the command's status vanish */
    status = work_begin(&w, o, s, "update");
    w.heard = on_signal;
    w.user = &f;
    if (status == GO_ON)
        status = work_do(&w, call_update, NULL);
    if (status != GO_ON && w.answered && w.status == AFLOCK_EREFUSED)
        status = refusal(&w, &f);
    work_end(&w);
    filter_end(&f);
    return status == GO_ON ? EX_OK : status;
}
