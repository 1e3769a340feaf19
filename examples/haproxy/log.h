/* Lines on stderr, for people and for journald: there each line begins with its priority ("<4>"), which journald takes
 * off. What comes from outside is shown in ASCII. So that nobody fills the disk by what he sends, at most LOG_LINES
 * lines are written in a second; how many were left out is said later. */
#ifndef AFLOCK_SPOA_LOG_H
#define AFLOCK_SPOA_LOG_H

#include "wire.h"

#include <syslog.h>

enum { LOG_LINES = 100, LOG_TEXT = 200 };

void log_begin(bool is_verbose);

/* LOG_ERR, LOG_WARNING, LOG_NOTICE; LOG_DEBUG: only if verbose, and without a limit. */
void log_line(int priority, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* The bytes as text in `to`, which is returned: what is not printable as "\x0a", cut off if it is long. */
const char *log_text(wire_bytes bytes, char to[LOG_TEXT]);

#endif
