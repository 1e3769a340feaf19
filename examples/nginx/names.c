/* The path of a lock: a directory that is written out in the configuration, and a name in it that may have variables.
 *
 * What a client sends must never name a file outside of the directory, nor two values one file. So of a variable only
 * letters, digits, "_", "-" and most dots stand for themselves; every other byte is "%" and two digits. A dot is one of
 * them at the beginning of the name and after another dot. A name that gets too long is cut and ends in a digest of all
 * of it, as aflock/keyed.h does.
 */
#include "file_lock.h"

#include <aflock/keyed.h>

/* ----------------------------------------------------------------------------------------------- in the configuration
 */

static fl_part *add_part(fl_rule *rule, ngx_str_t text, ngx_int_t variable)
{
    fl_part *part = ngx_array_push(&rule->parts);
    if (part != NULL)
        *part = (fl_part){.text = text, .variable = variable};
    return part;
}

/* The first `length` bytes of what is left of the path. */
static ngx_str_t cut(ngx_str_t *rest, size_t length)
{
    ngx_str_t first = {length, rest->data};
    rest->data += length;
    rest->len -= length;
    return first;
}

static ngx_uint_t of_variable(u_char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
}

/* From behind a "$": "name" or "{name}". */
static char *add_variable(ngx_conf_t *cf, fl_rule *rule, ngx_str_t *rest)
{
    ngx_uint_t braces = rest->len > 0 && *rest->data == '{';
    size_t length = 0;
    cut(rest, braces);
    while (length < rest->len && of_variable(rest->data[length]))
        length++;
    ngx_str_t name = cut(rest, length);
    if (length == 0 || (braces && (rest->len == 0 || *rest->data != '}'))) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "invalid variable name in a path");
        return NGX_CONF_ERROR;
    }
    cut(rest, braces);
    if (name.data[0] >= '0' && name.data[0] <= '9') {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "\"$%V\" in a path: give the capture a name, as in \"(?<job>...)\"",
                           &name);
        return NGX_CONF_ERROR;
    }
    ngx_int_t index = ngx_http_get_variable_index(cf, &name);
    rule->variables++;
    return index != NGX_ERROR && add_part(rule, name, index) != NULL ? NGX_CONF_OK : NGX_CONF_ERROR;
}

static char *split(ngx_conf_t *cf, fl_rule *rule, ngx_str_t rest)
{
    if (ngx_array_init(&rule->parts, cf->pool, 4, sizeof(fl_part)) != NGX_OK)
        return NGX_CONF_ERROR;
    while (rest.len > 0) {
        size_t length = 0;
        while (length < rest.len && rest.data[length] != '$')
            length++;
        if (length > 0 && add_part(rule, cut(&rest, length), NGX_CONF_UNSET) == NULL)
            return NGX_CONF_ERROR;
        if (rest.len == 0)
            break;
        cut(&rest, 1);
        if (add_variable(cf, rule, &rest) != NGX_CONF_OK)
            return NGX_CONF_ERROR;
    }
    return NGX_CONF_OK;
}

/* Of a name without variables. */
static ngx_uint_t names_a_directory(const ngx_str_t *name)
{
    return name->len == 0 || (name->len <= 2 && name->data[0] == '.' && name->data[name->len - 1] == '.');
}

char *fl_name_compile(ngx_conf_t *cf, fl_rule *rule, ngx_str_t *path)
{
    ngx_str_t full = *path;
    u_char *dollar = ngx_strlchr(full.data, full.data + full.len, '$');
    if (full.len == 0 || dollar == full.data) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "\"%V\": the directory of a lock must be written out", path);
        return NGX_CONF_ERROR;
    }
    if (ngx_conf_full_name(cf->cycle, &full, 0) != NGX_OK)
        return NGX_CONF_ERROR;
    ngx_str_t name = full;
    while (ngx_strlchr(name.data, name.data + name.len, '/') != NULL)
        cut(&name, 1);
    rule->directory.len = full.len - name.len;
    dollar = ngx_strlchr(full.data, full.data + full.len, '$');
    if (dollar != NULL && dollar < name.data) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "\"%V\": a variable must not be followed by \"/\"", path);
        return NGX_CONF_ERROR;
    }
    if (dollar == NULL && names_a_directory(&name)) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "\"%V\" names a directory", path);
        return NGX_CONF_ERROR;
    }
    if (dollar == NULL && name.len > FL_NAME) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "\"%V\": the name has more than %d bytes", path, FL_NAME);
        return NGX_CONF_ERROR;
    }
    rule->directory.data = ngx_pcalloc(cf->pool, rule->directory.len + 1);
    if (rule->directory.data == NULL)
        return NGX_CONF_ERROR;
    ngx_memcpy(rule->directory.data, full.data, rule->directory.len);
    return split(cf, rule, name);
}

/* ---------------------------------------------------------------------------------------------------- of one request
 */

static ngx_uint_t stands_for_itself(u_char c, u_char before)
{
    return (of_variable(c) || c == '-') || (c == '.' && before != '\0' && before != '.');
}

static u_char *put_value(u_char *to, const u_char *name, const ngx_http_variable_value_t *value)
{
    for (size_t i = 0; i < value->len; i++) {
        u_char c = value->data[i];
        if (stands_for_itself(c, to == name ? '\0' : to[-1])) {
            *to++ = c;
        } else {
            *to++ = '%';
            to = ngx_hex_dump(to, &c, 1);
        }
    }
    return to;
}

static ngx_int_t shorten(ngx_http_request_t *r, ngx_str_t *name)
{
    u_char *text = ngx_pnalloc(r->pool, AFLOCK_KEYED_NAME);
    if (text == NULL)
        return NGX_ERROR;
    aflock_keyed_name(name->data, name->len, (char *)text);
    name->data = text;
    name->len = ngx_strlen(text);
    return NGX_OK;
}

ngx_int_t fl_name(ngx_http_request_t *r, const fl_rule *rule, ngx_str_t *name)
{
    const fl_part *parts = rule->parts.elts;
    ngx_uint_t count = rule->parts.nelts;
    if (rule->variables == 0) {
        *name = parts[0].text;
        return NGX_OK;
    }
    ngx_http_variable_value_t **values = ngx_palloc(r->pool, count * sizeof *values);
    if (values == NULL)
        return NGX_ERROR;
    size_t room = 0;
    for (ngx_uint_t i = 0; i < count; i++) {
        room += parts[i].text.len;
        if (parts[i].variable == NGX_CONF_UNSET)
            continue;
        values[i] = ngx_http_get_flushed_variable(r, (ngx_uint_t)parts[i].variable);
        if (values[i] == NULL || values[i]->not_found || values[i]->len == 0)
            return NGX_DECLINED;
        room += 3 * values[i]->len;
    }
    u_char *to = name->data = ngx_pnalloc(r->pool, room);
    if (to == NULL)
        return NGX_ERROR;
    for (ngx_uint_t i = 0; i < count; i++) {
        if (parts[i].variable == NGX_CONF_UNSET)
            to = ngx_cpymem(to, parts[i].text.data, parts[i].text.len);
        else
            to = put_value(to, name->data, values[i]);
    }
    name->len = (size_t)(to - name->data);
    return name->len > FL_NAME ? shorten(r, name) : NGX_OK;
}
