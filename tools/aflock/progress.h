/* What is shown while aflock waits (--verbose): on a terminal one line that counts the seconds, elsewhere one line in
 * all; and how far work has come, on a terminal only. */
#ifndef AFLOCK_COMMAND_PROGRESS_H
#define AFLOCK_COMMAND_PROGRESS_H

#include <aflock/aflock.h>
#include <stddef.h>

typedef struct progress {
    const char *target; /* what is waited for, as the user wrote it */
    int terminal;       /* standard error is one */
    int announced;
    size_t width;      /* of what stands on the terminal's line now */
    char holder[1280]; /* ", held by ...", or empty while it is not known */
} progress;

void progress_init(progress *p, const char *target);

/* The name of a process of this host, made printable. 0, or -1 when it cannot be read. */
int progress_name(int64_t pid, char *name, size_t size);

/* Remembers who holds the lock. */
void progress_holder(progress *p, const aflock_holder *holder);

/* Shows a text in the place of the line, on a terminal only. */
void progress_tell(progress *p, const char *text);

/* Shows the line. Elsewhere than on a terminal only the first call does. */
void progress_show(progress *p, uint64_t waited);

/* Takes the line off the terminal. */
void progress_clear(progress *p);

#endif
