/* A script that uses every public function of the core, in chapters, on the host of fake_host.h and the real file
 * system; whatever is going wrong. What goes wrong is its caller's business (`trouble`): the n-th system call, the n-th
 * allocation. The script demands at every step what must hold all the same:
 *
 *   each accepted request and question is answered once, and in time;
 *   each failure is explained by the trouble: status, errno, step and path;
 *   what was granted is locked until its release is asked for, and stays so when the release fails;
 *   when the trouble is over, every lock works, is free afterwards, and nothing is left.
 *
 * tests/faults/complete compares the functions that it calls with the list of exported symbols.
 */
#ifndef FAULTS_SCRIPT_H
#define FAULTS_SCRIPT_H

#include "support/fake_host.h"

/* A protocol that is to be tested: one line each in script.c. */
typedef struct script_protocol {
    const char *name;
    aflock_protocol number;
    bool (*take)(int fd, aflock_mode mode); /* what another program would do; without waiting */
    bool marker;                            /* the lock is that a file exists: the path and `beside` */
    bool database; /* files are empty or databases, nothing of them is changed, and they are nobody's own descriptors */
    const char *beside;
} script_protocol;

extern const script_protocol script_protocols[];
enum { SCRIPT_PROTOCOLS = 6, SCRIPT_IOS = AFLOCK_IO_POOL + 1 };

typedef struct script_chapter {
    const char *name;
    void (*play)(void);
    bool hands_on;  /* a hold passes from one request to the next: if that fails, it is got anew */
    bool walks_out; /* requests are left or ended before their attempts: failures may have nobody to be told to */
    bool looks;     /* at /proc/locks, without being asked to: nobody misses what it does not find */
    bool forks;
    bool replaces; /* descriptors that are open already are tried, and found to be of no use */
    enum { ON_FILES, ON_BOTH, ON_MARKERS, ON_SOFT_RW } on; /* protocols for which it is */
} script_chapter;

extern const script_chapter script_chapters[];
extern const size_t script_chapter_count;

typedef struct script_trouble {
    void (*begin)(void); /* the context is made; not before, so that files can be prepared */
    void (*end)(void);   /* from here on all goes well */

    /* Is this failure the trouble's doing? sys_errno -1: not known; step NULL: not told. */
    bool (*explains)(int status, int sys_errno, const char *step);
    bool (*excuses)(int status); /* the same of a status that only follows from it: AFLOCK_ETIMEDOUT ... */
    bool (*met)(void);           /* has anything gone wrong? */
    void (*told)(int error);     /* as a cleanup_errno (0: none), or in the log (-1) */
    const aflock_ctx_options *options;
} script_trouble;

bool script_applies(const script_chapter *chapter, const script_protocol *spoken);

/* Plays a chapter from an empty directory to the end of its context. */
void script_play(const script_chapter *chapter, const script_protocol *spoken, aflock_io where,
                 const script_trouble *what);

/* The descriptor that the script has given to the library; -1: none. */
int script_descriptor(void);

#endif
