/* A module for nginx, loaded behind the one that is tested: when that has ended, the address sanitizer is asked what
 * memory nobody knows any more. (At the end of a process nginx would be blamed for its own.) */
#include <ngx_config.h>

#include <ngx_core.h>

extern int __lsan_do_recoverable_leak_check(void) __attribute__((weak));

static void exit_process(ngx_cycle_t *cycle)
{
    if (__lsan_do_recoverable_leak_check != NULL && __lsan_do_recoverable_leak_check() != 0)
        ngx_log_error(NGX_LOG_ALERT, cycle->log, 0, "memory was lost");
}

static ngx_core_module_t context = {.name = ngx_string("leaks")};

extern ngx_module_t ngx_leaks_module;
ngx_module_t ngx_leaks_module = {
    NGX_MODULE_V1, &context, NULL, NGX_CORE_MODULE, NULL, NULL,
    NULL,          NULL,     NULL, exit_process,    NULL, NGX_MODULE_V1_PADDING,
};
