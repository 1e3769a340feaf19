/* What the access log can say of a request's lock. A request that asked for more than one (internal redirects) tells of
 * the last one, and of the time that all took. */
#include "file_lock.h"

static const char *word_of(const fl_hold *hold)
{
    switch (hold->state) {
    case FL_HELD:
        return "ACQUIRED";
    case FL_LOST:
        return "LOST";
    case FL_FAILED:
        return hold->word;
    case FL_NEW:
    case FL_WAITING: /* and the request ends: its client has gone */
        break;
    }
    return "CANCELLED";
}

static void give(ngx_http_variable_value_t *v, u_char *data, size_t length)
{
    v->data = data;
    v->len = (unsigned)length & 0xfffffff;
    v->valid = 1;
    v->no_cacheable = 0;
    v->not_found = 0;
}

static const fl_hold *last_of(ngx_http_request_t *r)
{
    const fl_request *request = fl_request_find(r->main);
    const fl_hold *hold = request != NULL ? request->holds : NULL;
    return hold != NULL && hold->state == FL_NEW ? hold->next : hold; /* its own name is being made */
}

static ngx_int_t status_variable(ngx_http_request_t *r, ngx_http_variable_value_t *v, uintptr_t data)
{
    const fl_hold *hold = last_of(r);
    (void)data;
    if (hold == NULL) {
        v->not_found = 1;
        return NGX_OK;
    }
    const char *word = word_of(hold);
    give(v, (u_char *)word, ngx_strlen(word));
    return NGX_OK;
}

static ngx_int_t path_variable(ngx_http_request_t *r, ngx_http_variable_value_t *v, uintptr_t data)
{
    const fl_hold *hold = last_of(r);
    (void)data;
    if (hold == NULL || hold->file == NULL)
        v->not_found = 1;
    else
        give(v, hold->file->path.data, hold->file->path.len);
    return NGX_OK;
}

static ngx_int_t wait_variable(ngx_http_request_t *r, ngx_http_variable_value_t *v, uintptr_t data)
{
    ngx_msec_t ms = 0;
    (void)data;
    const fl_hold *hold = last_of(r);
    if (hold == NULL) {
        v->not_found = 1;
        return NGX_OK;
    }
    for (; hold != NULL; hold = hold->next)
        ms += hold->state == FL_WAITING ? ngx_current_msec - hold->asked : hold->waited;
    u_char *text = ngx_pnalloc(r->pool, NGX_TIME_T_LEN + sizeof ".000");
    if (text == NULL)
        return NGX_ERROR;
    give(v, text, (size_t)(ngx_sprintf(text, "%T.%03M", (time_t)(ms / 1000), ms % 1000) - text));
    return NGX_OK;
}

ngx_int_t fl_add_variables(ngx_conf_t *cf)
{
    static const struct {
        ngx_str_t name;
        ngx_http_get_variable_pt handler;
    } VARIABLES[] = {
        {ngx_string("file_lock_status"), status_variable},
        {ngx_string("file_lock_wait"), wait_variable},
        {ngx_string("file_lock_path"), path_variable},
    };
    for (size_t i = 0; i < sizeof VARIABLES / sizeof *VARIABLES; i++) {
        ngx_str_t name = VARIABLES[i].name;
        ngx_http_variable_t *variable = ngx_http_add_variable(cf, &name, NGX_HTTP_VAR_NOCACHEABLE);
        if (variable == NULL)
            return NGX_ERROR;
        variable->get_handler = VARIABLES[i].handler;
    }
    return NGX_OK;
}
