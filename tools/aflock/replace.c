/* `aflock replace`: standard input is read to its end, and only then the lock is asked for. */
#include "files.h"
#include "input.h"
#include "message.h"
#include "work.h"

#include <stdio.h>
#include <sysexits.h>
#include <unistd.h>

enum { CHUNK = 4 << 20 };

static int call_replace(work *w, const aflock_file_options *fo, void *data)
{
    const input *in = data;
    const char *file = w->options->file;

    return w->options->create ? aflock_file_create(w->ctx, file, in->data, in->length, fo, work_answer, w)
                              : aflock_file_replace(w->ctx, file, in->data, in->length, fo, work_answer, w);
}

/* Returns when to show it next. */
static uint64_t show_amount(work *w, const input *in)
{
    char text[PATH_MAX + 64];

    snprintf(text, sizeof text, "%s: %.1f MiB read", w->options->file, (double)in->length / (1 << 20));
    progress_tell(&w->progress, text);
    return monotonic_now() + AFLOCK_SECOND / 5;
}

static int too_large(const options *o)
{
    complain("cannot replace '%s': standard input has more than %d MiB", o->file, WORK_CONTENT_LIMIT >> 20);
    return EX_DATAERR;
}

static int read_all(work *w, input *in)
{
    uint64_t next_look = monotonic_now() + AFLOCK_SECOND;
    int number;

    while (!in->ended) {
        int error = input_read(in, CHUNK, &number);

        if (error == INPUT_FULL)
            return too_large(w->options);
        if (error == INPUT_SIGNAL) {
            progress_clear(&w->progress);
            die_by(w->signals, number);
        }
        if (error)
            return input_failed(error);
        if (monotonic_now() >= next_look && !isatty(STDIN_FILENO))
            next_look = show_amount(w, in);
    }
    progress_clear(&w->progress);
    return GO_ON;
}

int files_replace(const options *o, const signals *s)
{
    static work w;
    input in;
    int status = work_begin(&w, o, s, o->create ? "create" : "replace");

    input_begin(&in, s, (size_t)WORK_CONTENT_LIMIT + 1);
    if (status == GO_ON)
        status = read_all(&w, &in);
    if (status == GO_ON)
        status = work_do(&w, call_replace, &in);
    work_end(&w);
    input_end(&in);
    return status == GO_ON ? EX_OK : status;
}
