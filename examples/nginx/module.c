/* nginx's module file_lock: requests that run while they hold a file lock. README.md says how it is used.
 *
 * Each worker has a context of its own on nginx's loop, made after the fork. Nothing is locked in the master.
 */
#include "file_lock.h"

#include <aflock/nginx.h>

static aflock_ctx *worker; /* NULL: this process is none, needs none, or could not make it */

aflock_ctx *fl_context(void)
{
    return worker;
}

static ngx_int_t set_up(ngx_conf_t *cf)
{
    ngx_http_core_main_conf_t *core = ngx_http_conf_get_module_main_conf(cf, ngx_http_core_module);
    const fl_main_conf *conf = ngx_http_conf_get_module_main_conf(cf, ngx_http_file_lock_module);
    if (conf->rules.nelts == 0)
        return NGX_OK;
    ngx_http_handler_pt *handler = ngx_array_push(&core->phases[NGX_HTTP_PRECONTENT_PHASE].handlers);
    if (handler == NULL)
        return NGX_ERROR;
    *handler = fl_handler;
    fl_insert_filters();
    return NGX_OK;
}

/* ------------------------------------------------------------------------------------------------------- in the master
 */

/* A directory that is missing (of /run, after a boot) is made for the workers; one that is there stays as it is. To
 * fail here would end nginx. */
static void make_directory(const ngx_cycle_t *cycle, const ngx_str_t *directory)
{
    const ngx_core_conf_t *core = (const ngx_core_conf_t *)ngx_get_conf(cycle->conf_ctx, ngx_core_module);
    ngx_file_info_t info;
    if (ngx_file_info(directory->data, &info) == 0)
        return;
    const char *step = NULL;
    if (ngx_create_dir(directory->data, 0700) != 0)
        step = "mkdir";
    else if (geteuid() == 0 && chown((const char *)directory->data, core->user, core->group) != 0)
        step = "chown";
    if (step != NULL)
        ngx_log_error(NGX_LOG_WARN, cycle->log, ngx_errno, "file lock: %s(\"%V\") failed", step, directory);
}

/* Of a configuration that was read. */
static ngx_int_t init_module(ngx_cycle_t *cycle)
{
    const fl_main_conf *conf = ngx_http_cycle_get_module_main_conf(cycle, ngx_http_file_lock_module);
    if (conf == NULL)
        return NGX_OK;
    fl_rule *const *rules = conf->rules.elts;
    for (ngx_uint_t i = 0; i < conf->rules.nelts; i++)
        make_directory(cycle, &rules[i]->directory);
    return NGX_OK;
}

/* ------------------------------------------------------------------------------------------------------- in a worker
 */

/* Without a context the worker goes on, and answers 500 where a lock is asked for. */
static ngx_int_t init_process(ngx_cycle_t *cycle)
{
    const fl_main_conf *conf = ngx_http_cycle_get_module_main_conf(cycle, ngx_http_file_lock_module);
    if (conf == NULL || conf->rules.nelts == 0 ||
        (ngx_process != NGX_PROCESS_WORKER && ngx_process != NGX_PROCESS_SINGLE))
        return NGX_OK;
    int status = aflock_nginx_new(&worker, cycle, NULL);
    if (status != 0)
        ngx_log_error(NGX_LOG_ALERT, cycle->log, ngx_errno, "file locks are not to be had: %s",
                      aflock_strerror(status));
    return NGX_OK;
}

static void exit_process(ngx_cycle_t *cycle)
{
    const fl_main_conf *conf = ngx_http_cycle_get_module_main_conf(cycle, ngx_http_file_lock_module);
    aflock_ctx *ctx = worker;
    if (ctx == NULL)
        return;
    worker = NULL; /* from here on nobody goes on */
    fl_rule *const *rules = conf->rules.elts;
    for (ngx_uint_t i = 0; i < conf->rules.nelts; i++)
        fl_files_end(rules[i]);
    int left = aflock_ctx_free(ctx, AFLOCK_SECOND);
    if (left > 0)
        ngx_log_error(NGX_LOG_ERR, cycle->log, 0, "%d file locks could not be given up", left);
}

/* ------------------------------------------------------------------------------------------------------ what nginx
 * sees */

static ngx_http_module_t module_context = {
    .preconfiguration = fl_add_variables,
    .postconfiguration = set_up,
    .create_main_conf = fl_create_main_conf,
    .create_loc_conf = fl_create_loc_conf,
    .merge_loc_conf = fl_merge_loc_conf,
};

ngx_module_t ngx_http_file_lock_module = {
    NGX_MODULE_V1,
    &module_context,
    fl_commands,
    NGX_HTTP_MODULE,
    NULL, /* init master */
    init_module,
    init_process,
    NULL, /* init thread */
    NULL, /* exit thread */
    exit_process,
    NULL, /* exit master */
    NGX_MODULE_V1_PADDING,
};
