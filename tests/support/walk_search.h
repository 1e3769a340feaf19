/* Visits every state of a world (walk_world.h), breadth first, and asks of the whole graph what no single step shows.
 */
#ifndef WALK_SEARCH_H
#define WALK_SEARCH_H

#include "support/walk_world.h"

typedef struct walk_figures {
    uint64_t states, transitions;
    double sequences;     /* different ones of WALK_SEQUENCE moves from the beginning */
    unsigned depth;       /* moves to the farthest state */
    unsigned longest_end; /* moves until everybody is served, from the worst state */
    uint64_t compared;    /* walk_compare: states of the walk that leaves nothing out */
} walk_figures;

enum { WALK_SEQUENCE = 16 };

/* Walks all of it, and checks that from each state
 *  - everybody gets the lock or an answer, and all comes to an end, once the others leave and nothing goes wrong;
 *  - everybody gone, all comes to an end, whatever the holders outside do;
 *  - everybody gets an answer even if the file cannot be given up. */
walk_figures walk_through(const walk_world *w);

/* Walks the world once more, with names that leave nothing out, until `most` states, and checks that those of one name
 * (walk_key) lead to the same names. */
walk_figures walk_compare(const walk_world *w, uint64_t most);

#endif
