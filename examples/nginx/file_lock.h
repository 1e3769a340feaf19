/* What the files of nginx's module file_lock share.
 *
 *   directives.c  what is written in nginx.conf becomes rules, one for each file_lock or file_lock_semaphore
 *   names.c       the path of a request's lock, whatever bytes its client sends
 *   files.c       the locks that a worker has open
 *   request.c     a request asks, waits, holds, and gives back when it ends
 *   variables.c   $file_lock_status and its like
 *   module.c      what nginx knows of all this; the context of each worker
 *
 * A request never outlives what it waits for, nor the other way round: what the library calls back with is a `hold`,
 * which is not in the request's pool and knows whether the request is still there.
 */
#ifndef FILE_LOCK_H
#define FILE_LOCK_H

#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include <aflock/aflock.h>
#include <aflock/semaphore.h>

/* One piece of a path: text, or a variable. */
typedef struct fl_part {
    ngx_str_t text;     /* of a variable: its name */
    ngx_int_t variable; /* its index, or NGX_CONF_UNSET */
} fl_part;

/* What one directive says. Lives as long as the configuration; the files are those of this worker. */
typedef struct fl_rule {
    ngx_str_t directory; /* with the last "/", and a '\0' behind it */
    ngx_array_t parts;   /* of the name in it: fl_part */
    ngx_uint_t variables;
    ngx_uint_t maximum; /* of a semaphore; 0: it is a lock */
    aflock_options lock;
    aflock_acquire_options acquire; /* of a semaphore: its timeout */
    ngx_uint_t status;              /* of the answer to who does not get it in time */
    ngx_uint_t waiting;             /* requests that may wait for one file in this worker; 0: no limit */
    ngx_http_complex_value_t *condition;

    ngx_rbtree_t files; /* open ones, by name */
    ngx_rbtree_node_t sentinel;
    ngx_queue_t idle; /* those that nobody uses, the most recently used first */
    ngx_uint_t idle_count;
} fl_rule;

/* An open lock, or semaphore. */
typedef struct fl_file {
    ngx_str_node_t node; /* its name in the rule's directory, the end of: */
    ngx_str_t path;
    ngx_queue_t idle;
    fl_rule *rule;
    aflock *lock;                /* or */
    aflock_semaphore *semaphore; /* the other one is NULL */
    ngx_uint_t users;
    ngx_uint_t waiting;
    ngx_uint_t read_only; /* 1: it may not be written */
} fl_file;

/* How a request fares with a rule. */
typedef enum fl_state { FL_NEW, FL_WAITING, FL_HELD, FL_LOST, FL_FAILED } fl_state;

struct fl_request;

typedef struct fl_hold {
    struct fl_hold *next; /* of the same request, made before */
    struct fl_request *of;
    fl_rule *rule;
    fl_file *file; /* NULL: none yet */
    fl_state state;
    ngx_uint_t held;      /* 1: to be given back */
    const char *word;     /* of a failure, for $file_lock_status */
    ngx_int_t answer;     /* ... and the status of the response */
    ngx_msec_t asked;     /* when the waiting began, */
    ngx_msec_t waited;    /* and how long it took */
    aflock_req req;       /* of a lock, */
    aflock_permit permit; /* of a semaphore */
} fl_hold;

/* What a request has to do with locks. It is the owner of its locks, and lives until nobody calls back for any. */
typedef struct fl_request {
    ngx_http_request_t *r; /* NULL: it has ended */
    fl_hold *holds;        /* the latest first */
    ngx_uint_t answered;   /* 1: the last part of the response was made, */
    ngx_event_t sent;      /* and sent */
} fl_request;

typedef struct fl_main_conf {
    ngx_array_t rules; /* fl_rule * */
} fl_main_conf;

typedef struct fl_loc_conf {
    fl_rule *rule; /* NULL: none */
    ngx_flag_t read_body;
} fl_loc_conf;

extern ngx_module_t ngx_http_file_lock_module;

/* module.c: the context of this worker; NULL: there is none (outside of workers, or it could not be made). */
aflock_ctx *fl_context(void);

/* directives.c */
extern ngx_command_t fl_commands[];
void *fl_create_main_conf(ngx_conf_t *cf);
void *fl_create_loc_conf(ngx_conf_t *cf);
char *fl_merge_loc_conf(ngx_conf_t *cf, void *parent, void *child);

/* names.c */
enum { FL_NAME = 200 }; /* bytes of a name: what markers can have */

/* Takes the directive's PATH apart. NGX_CONF_OK, or NGX_CONF_ERROR: the log says what is wrong with it. */
char *fl_name_compile(ngx_conf_t *cf, fl_rule *rule, ngx_str_t *path);

/* The name of the request's file in the rule's directory, in the request's pool. NGX_DECLINED: a variable of it has no
 * value. NGX_ERROR: no memory. */
ngx_int_t fl_name(ngx_http_request_t *r, const fl_rule *rule, ngx_str_t *name);

/* files.c. 0 or AFLOCK_E...; what is got is put back as often. */
void fl_files_init(fl_rule *rule);
int fl_files_get(fl_rule *rule, const ngx_str_t *name, fl_file **out);
void fl_files_put(fl_file *file);
void fl_files_end(fl_rule *rule); /* before the context is freed */

/* request.c */
ngx_int_t fl_handler(ngx_http_request_t *r); /* of the precontent phase */
void fl_insert_filters(void);                /* once for each configuration */
void fl_on_lost(aflock *lock, aflock_req req, const aflock_compromise *what, void *user);
fl_request *fl_request_find(ngx_http_request_t *r); /* NULL: it never asked */

/* variables.c */
ngx_int_t fl_add_variables(ngx_conf_t *cf);

#endif
