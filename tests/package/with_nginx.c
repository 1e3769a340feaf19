/* What a module for nginx does: in its worker it acquires a lock, releases it, and says so. This one has the three
 * tables that nginx looks for, too, which nginx's own build writes for a module. */
#include <ngx_config.h>

#include <ngx_core.h>
#include <ngx_event.h>

#include <aflock/nginx.h>

static aflock_ctx *ctx;

static void on_lock(aflock *lock, const aflock_result *result, void *user)
{
    (void)user;
    ngx_log_error(NGX_LOG_NOTICE, ngx_cycle->log, 0, "nginx: %s", aflock_strerror(result->status));
    if (result->status == 0)
        aflock_release(lock, result->req, NULL, NULL);
    ngx_quit = 1;
}

static ngx_int_t init_process(ngx_cycle_t *cycle)
{
    aflock *lock;
    if (aflock_nginx_new(&ctx, cycle, NULL) != 0 || aflock_open(&lock, ctx, getenv("LOCK"), NULL) != 0)
        return NGX_ERROR;
    return aflock_acquire(lock, NULL, on_lock, NULL, NULL) == 0 ? NGX_OK : NGX_ERROR;
}

static void exit_process(ngx_cycle_t *cycle)
{
    (void)cycle;
    aflock_ctx_free(ctx, AFLOCK_SECOND);
}

static ngx_core_module_t context = {.name = ngx_string("outside")};

ngx_module_t ngx_outside_module = {
    NGX_MODULE_V1, &context, NULL, NGX_CORE_MODULE, NULL, NULL,
    init_process,  NULL,     NULL, exit_process,    NULL, NGX_MODULE_V1_PADDING,
};

ngx_module_t *ngx_modules[] = {&ngx_outside_module, NULL};
char *ngx_module_names[] = {"ngx_outside_module", NULL};
char *ngx_module_order[] = {NULL};
