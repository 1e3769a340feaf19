/* A file of /proc that holds what the input says: a table of system calls whose `open` and `read` serve it, in pieces
 * and with errors that the input chooses. The rest of the table is what a look-up needs: any path is there. */
#ifndef FUZZ_SERVED_H
#define FUZZ_SERVED_H

#include "fuzz/fuzz.h"
#include "sys/files.h"

enum { SERVED_LINE = 8192, SERVED_DESCRIPTOR = 1000 };

typedef struct served {
    const char *text;
    size_t size, at;
    unsigned seed; /* of the lengths of the pieces */
    bool failed;   /* a call has failed: anything may be missing */
    int open;      /* descriptors */
    afl_identity identity;
} served;

/* The rest of the input is the file. */
void served_from(served *s, fuzz_input *in);
const afl_sys *served_table(served *s); /* until the next call */

/* The lines that afl_read_lines has to deliver, as they are, without the buffers that it has: those that end, and are
 * not too long for it. At *at; false: there is none left. */
bool served_line(const served *s, size_t *at, char line[SERVED_LINE]);

#endif
