/* Every allocation of the program is counted, and one can be made to fail. For programs that are linked with
 * --wrap=malloc,calloc,realloc,free,_mark_point (CMake: aflock_count_allocations): what libcheck allocates in its
 * assertions does not count. Any thread. */
#ifndef FAULTS_ALLOCATIONS_H
#define FAULTS_ALLOCATIONS_H

unsigned allocations_made(void);
long allocations_alive(void);

/* The n-th allocation from now on fails; 0: none. allocations_failed: how many have since. */
void allocations_fail(unsigned nth);
unsigned allocations_failed(void);

#endif
