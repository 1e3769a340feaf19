/* The locks that a worker has open: for each rule by name, as many as are used and some that are not.
 *
 * They live in the rule, which each worker has a copy of: nothing is opened before the worker was forked.
 */
#include "file_lock.h"

enum { IDLE = 256 }; /* of a rule; they cost memory only */

void fl_files_init(fl_rule *rule)
{
    ngx_rbtree_init(&rule->files, &rule->sentinel, ngx_str_rbtree_insert_value);
    ngx_queue_init(&rule->idle);
}

static int open_file(fl_file *file)
{
    const fl_rule *rule = file->rule;
    if (rule->maximum == 0)
        return aflock_open(&file->lock, fl_context(), (const char *)file->path.data, &rule->lock);
    aflock_semaphore_options options;
    aflock_semaphore_options_init(&options);
    options.lock = &rule->lock;
    return aflock_semaphore_new(&file->semaphore, fl_context(), (const char *)rule->directory.data,
                                (const char *)file->node.str.data, (unsigned)rule->maximum, &options);
}

static int new_file(fl_rule *rule, const ngx_str_t *name, uint32_t hash, fl_file **out)
{
    size_t length = rule->directory.len + name->len;
    fl_file *file = ngx_calloc(sizeof *file + length + 1, ngx_cycle->log);
    if (file == NULL)
        return AFLOCK_ENOMEM;
    file->rule = rule;
    file->path.data = (u_char *)(file + 1);
    file->path.len = length;
    file->node.node.key = hash;
    file->node.str.data = ngx_cpymem(file->path.data, rule->directory.data, rule->directory.len);
    file->node.str.len = name->len;
    ngx_memcpy(file->node.str.data, name->data, name->len);
    int status = open_file(file);
    if (status != 0) {
        ngx_free(file);
        return status;
    }
    ngx_rbtree_insert(&rule->files, &file->node.node);
    *out = file;
    return 0;
}

int fl_files_get(fl_rule *rule, const ngx_str_t *name, fl_file **out)
{
    ngx_str_t key = *name;
    uint32_t hash = ngx_murmur_hash2(name->data, name->len);
    fl_file *file = (fl_file *)ngx_str_rbtree_lookup(&rule->files, &key, hash);
    if (file == NULL) {
        int status = new_file(rule, name, hash, &file);
        if (status != 0)
            return status;
    } else if (file->users == 0) {
        ngx_queue_remove(&file->idle);
        rule->idle_count--;
    }
    file->users++;
    *out = file;
    return 0;
}

static ngx_uint_t close_file(fl_file *file)
{
    if (file->lock != NULL && aflock_close(file->lock) != 0)
        return 0; /* a release that has failed goes on */
    aflock_semaphore_free(file->semaphore);
    ngx_rbtree_delete(&file->rule->files, &file->node.node);
    ngx_free(file);
    return 1;
}

void fl_files_put(fl_file *file)
{
    fl_rule *rule = file->rule;
    if (--file->users > 0)
        return;
    ngx_queue_insert_head(&rule->idle, &file->idle);
    if (++rule->idle_count <= IDLE)
        return;
    ngx_queue_t *last = ngx_queue_last(&rule->idle);
    file = ngx_queue_data(last, fl_file, idle);
    ngx_queue_remove(last);
    if (close_file(file)) {
        rule->idle_count--;
    } else { /* nginx's macros for queues are several statements */
        ngx_queue_insert_head(&rule->idle, last);
    }
}

/* Locks are closed by the context. */
void fl_files_end(fl_rule *rule)
{
    ngx_rbtree_node_t *root = rule->files.root;
    if (rule->maximum == 0 || root == rule->files.sentinel)
        return;
    for (ngx_rbtree_node_t *node = ngx_rbtree_min(root, rule->files.sentinel); node != NULL;
         node = ngx_rbtree_next(&rule->files, node)) {
        fl_file *file = (fl_file *)node;
        aflock_semaphore_free(file->semaphore);
        file->semaphore = NULL;
    }
}
