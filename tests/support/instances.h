/* What this process listens to files with. */
#ifndef AFL_TEST_INSTANCES_H
#define AFL_TEST_INSTANCES_H

int inotify_instances(void); /* descriptors of them */
int inotify_watches(void);   /* of all instances */

#endif
