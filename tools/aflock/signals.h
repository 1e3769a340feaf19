/* The signals that end a wait or are passed on to the command. */
#ifndef AFLOCK_COMMAND_SIGNALS_H
#define AFLOCK_COMMAND_SIGNALS_H

#include <signal.h>

typedef struct signals {
    sigset_t inherited; /* the mask aflock was started with; the command gets it back */
    sigset_t ending;    /* INT, TERM, HUP, QUIT, less those that the parent had ignored or blocked */
    sigset_t watched;   /* `ending` and CHLD */
    int fd;             /* readable while one of `watched` is pending */
} signals;

/* Blocks what is watched. Call it before any thread starts. 0, or an errno. */
int signals_block(signals *s);

/* Gives the inherited mask back; a pending signal acts at once. Async-signal-safe. */
void signals_restore(const signals *s);

/* Takes the next pending one of `watched`: its number, or 0 if there is none. `wait`: blocks until there is one. */
int signals_next(const signals *s, siginfo_t *info, int wait);

/* The same, for those of `ending` only; never waits. */
int signals_next_ending(const signals *s);

/* Was it sent to this process alone, not by the terminal to its whole foreground process group? */
int signals_for_us_alone(const siginfo_t *info);

/* Ends the process by the signal, as if it had never been blocked. */
_Noreturn void die_by(const signals *s, int number);

#endif
