/* What is done with a file while its lock is held: straight system calls, on a worker. Knows no lock and no loop. */
#ifndef AFL_RECIPES_FILE_WORK_H
#define AFL_RECIPES_FILE_WORK_H

#include <aflock/file.h>
#include <stdbool.h>

typedef enum file_kind { FILE_READ, FILE_REPLACE, FILE_CREATE, FILE_APPEND, FILE_UPDATE } file_kind;

typedef struct file_work {
    /* the order */
    file_kind kind;
    char *path, *temporary, *directory; /* absolute */
    char *data;                         /* what is to be written; of FILE_APPEND with the newlines around it */
    size_t length;
    uint64_t max_size;
    uint32_t mode;
    bool sync;
    aflock_file_change change;
    void *user;

    /* what came of it */
    int sys_errno, cleanup_errno;
    const char *step; /* NULL: it is done */
    const char *at;   /* which file the step was about */
    bool refused;     /* by `change` */
    aflock_file_content content;
} file_work;

void file_work_carry_out(file_work *w);

#endif
