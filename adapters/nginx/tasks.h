/* An executor on one of nginx's thread pools. */
#ifndef AFLOCK_NGINX_TASKS_H
#define AFLOCK_NGINX_TASKS_H

#include <ngx_config.h> /* first: it says which interfaces the system's headers are to offer */

#include <ngx_core.h>
#include <ngx_event.h>

#include <aflock/host.h>

struct aflock_pool_options;
struct ngx_thread_pool_s;

/* What nginx's pool does not take goes to a built-in pool of these options. AFLOCK_ENOTSUP: nginx has no threads. */
int afl_nginx_tasks_new(aflock_executor *out, struct ngx_thread_pool_s *pool, const struct aflock_pool_options *options,
                        ngx_log_t *log);

#endif
