/* `aflock append`: whole lines go into the file as they come, all that are there at one time under one hold and by one
 * write. So no more than a batch, or one line, is in memory, and the file is free while standard input is waited for.
 */
#include "files.h"
#include "input.h"
#include "message.h"
#include "work.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <unistd.h>

enum { BATCH = 1 << 20, LONGEST_LINE = 64 << 20 };

typedef struct appending {
    work work;
    input input;
    size_t length;         /* of the lines that are being appended */
    uint64_t lines, bytes; /* appended */
    uint64_t next_look;
} appending;

static int call_append(work *w, const aflock_file_options *fo, void *data)
{
    appending *a = data;

    return aflock_file_append_lines(w->ctx, w->options->file, a->input.data, a->length, fo, work_answer, w);
}

/* Who types the lines sees them already. */
static void show_amount(appending *a)
{
    uint64_t now = monotonic_now();
    char text[PATH_MAX + 128];

    if (now < a->next_look || isatty(STDIN_FILENO))
        return;
    a->next_look = now + AFLOCK_SECOND / 5;
    snprintf(text, sizeof text, "%s: %" PRIu64 " lines, %.1f MiB appended", a->work.options->file, a->lines,
             (double)a->bytes / (1 << 20));
    progress_tell(&a->work.progress, text);
}

static void count(appending *a)
{
    const char *at = a->input.data, *end = at + a->length;

    while (at < end) {
        at = (const char *)memchr(at, '\n', (size_t)(end - at)) + 1;
        a->lines++;
    }
    a->bytes += a->length;
}

/* Also what the file's user has to know if that was not all of them. */
static int append_batch(appending *a, size_t length)
{
    int status;

    a->length = length;
    status = work_do(&a->work, call_append, a);
    if (status != GO_ON)
        return status;
    count(a);
    input_drop(&a->input, length);
    show_amount(a);
    return GO_ON;
}

static size_t whole_lines(input *in)
{
    const char *last = in->length > 0 ? memrchr(in->data, '\n', in->length) : NULL;

    if (in->ended && in->length > 0 && in->data[in->length - 1] != '\n')
        in->data[in->length++] = '\n'; /* there is room: the limit is one byte less */
    return in->ended ? in->length : last ? (size_t)(last - in->data) + 1 : 0;
}

static int too_long(const appending *a)
{
    complain("cannot append to '%s': line %" PRIu64 " is longer than %d MiB", a->work.options->file, a->lines + 1,
             LONGEST_LINE >> 20);
    return EX_DATAERR;
}

/* Reading what one has just appended would never end. */
static int check_input(const options *o)
{
    struct stat in, file;

    if (fstat(STDIN_FILENO, &in) != 0 || stat(o->file, &file) != 0 || !S_ISREG(in.st_mode) ||
        in.st_dev != file.st_dev || in.st_ino != file.st_ino)
        return GO_ON;
    complain("cannot append to '%s': it is standard input", o->file);
    return EX_DATAERR;
}

static int append_all(appending *a)
{
    int status = check_input(a->work.options), number;

    while (status == GO_ON && !a->input.ended) {
        int error = input_read(&a->input, BATCH, &number);
        size_t length = error ? 0 : whole_lines(&a->input);

        if (error == INPUT_SIGNAL) {
            progress_clear(&a->work.progress);
            die_by(a->work.signals, number);
        }
        if (error == INPUT_FULL)
            status = too_long(a);
        else if (error)
            status = input_failed(error);
        else if (length > 0)
            status = append_batch(a, length);
    }
    return status;
}

int files_append(const options *o, const signals *s)
{
    static appending a;
    int status = work_begin(&a.work, o, s, "append to");

    a.next_look = monotonic_now() + AFLOCK_SECOND;
    input_begin(&a.input, s, LONGEST_LINE);
    if (status == GO_ON)
        status = append_all(&a);
    work_end(&a.work);
    if (status != GO_ON && a.lines > 0)
        complain("the first %" PRIu64 " lines were appended", a.lines);
    input_end(&a.input);
    return status == GO_ON ? EX_OK : status;
}
