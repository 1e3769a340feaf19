/* file_lock, file_lock_semaphore and file_lock_read_body: from words of nginx.conf to rules. What is wrong is said
 * here, by `nginx -t`, and not by each request. */
#include "file_lock.h"

enum { DEFAULT_TIMEOUT = 60 }; /* s, as of nginx's own waits */

/* ------------------------------------------------------------------------------------------------------- protocols */

typedef struct protocol {
    ngx_str_t name;
    aflock_protocol number;
    ngx_flag_t shared;    /* can be */
    ngx_flag_t keep_open; /* it has a file that can stay open */
    ngx_flag_t expires;   /* lease=TIME */
} protocol;

static const protocol PROTOCOLS[] = {
    {ngx_string("native"), AFLOCK_NATIVE, 1, 1, 0},   {ngx_string("ofd"), AFLOCK_OFD, 1, 1, 0},
    {ngx_string("soft"), AFLOCK_SOFT, 0, 0, 0},       {ngx_string("strict"), AFLOCK_STRICT, 0, 0, 0},
    {ngx_string("lease"), AFLOCK_LEASE, 0, 0, 1},     {ngx_string("rw"), AFLOCK_RW, 1, 1, 0},
    {ngx_string("soft_rw"), AFLOCK_SOFT_RW, 1, 0, 1},
};

static ngx_uint_t same(const ngx_str_t *a, const ngx_str_t *b)
{
    return a->len == b->len && ngx_memcmp(a->data, b->data, a->len) == 0;
}

/* ------------------------------------------------------------------------------------------------------ parameters */

/* What one directive has said so far. */
typedef struct draft {
    fl_rule *rule;
    const protocol *protocol;
    ngx_flag_t shared, temporary;
    ngx_msec_t lease; /* 0: not said */
    ngx_str_t value;  /* of the parameter that is being read */
    unsigned seen;    /* a bit for each of PARAMETERS */
} draft;

/* NGX_CONF_OK, or what is wrong. */
typedef char *(*setter)(ngx_conf_t *cf, draft *d);

static char *set_shared(ngx_conf_t *cf, draft *d)
{
    (void)cf;
    d->shared = 1;
    return NGX_CONF_OK;
}

static char *set_temporary(ngx_conf_t *cf, draft *d)
{
    (void)cf;
    d->temporary = 1;
    return NGX_CONF_OK;
}

/* Milliseconds; NGX_ERROR also if they are more than can be counted in nanoseconds. */
static ngx_int_t read_time(draft *d)
{
    ngx_int_t ms = ngx_parse_time(&d->value, 0);
    return ms > (ngx_int_t)(AFLOCK_FOREVER / AFLOCK_MILLISECOND / 2) ? NGX_ERROR : ms;
}

static char *set_timeout(ngx_conf_t *cf, draft *d)
{
    ngx_int_t ms = read_time(d);
    (void)cf;
    if (ms == NGX_ERROR)
        return "invalid value";
    d->rule->acquire.timeout = (uint64_t)ms * AFLOCK_MILLISECOND;
    return NGX_CONF_OK;
}

static char *set_lease(ngx_conf_t *cf, draft *d)
{
    ngx_int_t ms = read_time(d);
    (void)cf;
    if (ms == NGX_ERROR || ms < 10)
        return "invalid value";
    d->lease = (ngx_msec_t)ms;
    return NGX_CONF_OK;
}

static char *set_protocol(ngx_conf_t *cf, draft *d)
{
    (void)cf;
    for (size_t i = 0; i < sizeof PROTOCOLS / sizeof *PROTOCOLS; i++) {
        if (same(&d->value, &PROTOCOLS[i].name)) {
            d->protocol = &PROTOCOLS[i];
            return NGX_CONF_OK;
        }
    }
    return "unknown protocol";
}

static char *set_status(ngx_conf_t *cf, draft *d)
{
    ngx_int_t status = ngx_atoi(d->value.data, d->value.len);
    (void)cf;
    if (status < 400 || status > 599)
        return "status must be between 400 and 599";
    d->rule->status = (ngx_uint_t)status;
    return NGX_CONF_OK;
}

static char *set_max_waiting(ngx_conf_t *cf, draft *d)
{
    ngx_int_t count = ngx_atoi(d->value.data, d->value.len);
    (void)cf;
    if (count < 1)
        return "invalid value";
    d->rule->waiting = (ngx_uint_t)count;
    return NGX_CONF_OK;
}

static char *set_condition(ngx_conf_t *cf, draft *d)
{
    ngx_http_compile_complex_value_t compile = {.cf = cf, .value = &d->value};
    d->rule->condition = ngx_palloc(cf->pool, sizeof *d->rule->condition);
    compile.complex_value = d->rule->condition;
    if (d->rule->condition == NULL || ngx_http_compile_complex_value(&compile) != NGX_OK)
        return "invalid value";
    return NGX_CONF_OK;
}

static const struct {
    ngx_str_t name; /* with a "=" if a value follows */
    setter set;
    ngx_flag_t of_locks_only;
} PARAMETERS[] = {
    {ngx_string("shared"), set_shared, 1},      {ngx_string("temporary"), set_temporary, 1},
    {ngx_string("protocol="), set_protocol, 1}, {ngx_string("lease="), set_lease, 1},
    {ngx_string("timeout="), set_timeout, 0},   {ngx_string("status="), set_status, 0},
    {ngx_string("if="), set_condition, 0},      {ngx_string("max_waiting="), set_max_waiting, 0},
};

static char *set_parameter(ngx_conf_t *cf, draft *d, const ngx_str_t *word)
{
    for (size_t i = 0; i < sizeof PARAMETERS / sizeof *PARAMETERS; i++) {
        const ngx_str_t *name = &PARAMETERS[i].name;
        ngx_flag_t has_value = name->data[name->len - 1] == '=';
        if (word->len < name->len || ngx_memcmp(word->data, name->data, name->len) != 0 ||
            (!has_value && word->len > name->len) || (PARAMETERS[i].of_locks_only && d->rule->maximum != 0))
            continue;
        d->value.len = word->len - name->len;
        d->value.data = word->data + name->len;
        if (d->seen & 1U << i)
            return "duplicate parameter";
        if (has_value && d->value.len == 0)
            return "invalid value";
        d->seen |= 1U << i;
        return PARAMETERS[i].set(cf, d);
    }
    return "unknown parameter";
}

/* ------------------------------------------------------------------------------------------------------ the directives
 */

/* What does not go together. */
static char *check(ngx_conf_t *cf, const draft *d)
{
    const char *wrong = NULL;
    if (d->shared && !d->protocol->shared)
        wrong = "locks are exclusive: \"shared\"";
    else if (d->lease != 0 && !d->protocol->expires)
        wrong = "locks do not expire: \"lease=\"";
    else if (d->temporary && d->protocol->number != AFLOCK_NATIVE)
        wrong = "locks cannot be \"temporary\"";
    if (wrong == NULL)
        return NGX_CONF_OK;
    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "\"%V\" %s", &d->protocol->name, wrong);
    return NGX_CONF_ERROR;
}

static const ngx_str_t *written_name(const fl_rule *rule)
{
    const fl_part *first = rule->parts.elts;
    return rule->variables == 0 ? &first->text : NULL;
}

/* A path has one protocol, and one set of its settings; a semaphore has one number. Where names have variables only
 * requests can tell. */
static char *compare(ngx_conf_t *cf, const fl_rule *rule)
{
    const fl_main_conf *conf = ngx_http_conf_get_module_main_conf(cf, ngx_http_file_lock_module);
    fl_rule *const *others = conf->rules.elts;
    const ngx_str_t *name = written_name(rule);
    for (ngx_uint_t i = 0; name != NULL && i < conf->rules.nelts; i++) {
        const fl_rule *other = others[i];
        const ngx_str_t *other_name = written_name(other);
        if (other == rule || (other->maximum != 0) != (rule->maximum != 0) || other_name == NULL ||
            !same(name, other_name) || !same(&rule->directory, &other->directory))
            continue;
        if (other->lock.protocol == rule->lock.protocol && other->lock.temporary == rule->lock.temporary &&
            other->lock.duration == rule->lock.duration && other->lock.stale_after == rule->lock.stale_after &&
            other->maximum == rule->maximum)
            continue;
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "\"%V%V\" has another protocol or other settings elsewhere",
                           &rule->directory, name);
        return NGX_CONF_ERROR;
    }
    return NGX_CONF_OK;
}

static void finish(const draft *d)
{
    fl_rule *rule = d->rule;
    rule->lock.protocol = d->protocol->number;
    rule->lock.temporary = (int)d->temporary;
    /* Names that clients choose would need a descriptor each. */
    rule->lock.keep_open = d->protocol->keep_open && !d->temporary && rule->variables == 0;
    if (d->lease != 0 && d->protocol->number == AFLOCK_LEASE)
        rule->lock.duration = d->lease * AFLOCK_MILLISECOND;
    else if (d->lease != 0)
        rule->lock.stale_after = d->lease * AFLOCK_MILLISECOND;
    rule->acquire.mode = d->shared ? AFLOCK_SHARED : AFLOCK_EXCLUSIVE;
    rule->acquire.on_compromise = d->protocol->expires ? fl_on_lost : NULL;
}

static fl_rule *new_rule(ngx_conf_t *cf)
{
    fl_main_conf *conf = ngx_http_conf_get_module_main_conf(cf, ngx_http_file_lock_module);
    fl_rule *rule = ngx_pcalloc(cf->pool, sizeof *rule);
    fl_rule **place = ngx_array_push(&conf->rules);
    if (rule == NULL || place == NULL)
        return NULL;
    *place = rule;
    rule->status = NGX_HTTP_SERVICE_UNAVAILABLE;
    aflock_options_init(&rule->lock);
    aflock_acquire_options_init(&rule->acquire);
    rule->acquire.timeout = DEFAULT_TIMEOUT * AFLOCK_SECOND;
    rule->acquire.flags = AFLOCK_CREATE;
    fl_files_init(rule);
    return rule;
}

static char *set_maximum(ngx_conf_t *cf, fl_rule *rule)
{
    const ngx_str_t *words = cf->args->elts;
    ngx_int_t maximum = cf->args->nelts > 2 ? ngx_atoi(words[2].data, words[2].len) : NGX_ERROR;
    if (maximum >= 1 && maximum <= AFLOCK_SEMAPHORE_LIMIT) {
        rule->maximum = (ngx_uint_t)maximum;
        return NGX_CONF_OK;
    }
    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "\"file_lock_semaphore\" needs a number from 1 to %d after its path",
                       AFLOCK_SEMAPHORE_LIMIT);
    return NGX_CONF_ERROR;
}

/* Of both kinds: a place has one rule at most. */
static char *set_rule(ngx_conf_t *cf, ngx_command_t *command, void *given)
{
    fl_loc_conf *conf = given;
    ngx_str_t *words = cf->args->elts;
    ngx_uint_t of_semaphore = command->post != NULL, first = 2 + of_semaphore;
    if (conf->rule != NGX_CONF_UNSET_PTR)
        return "is duplicate: one lock or semaphore for a location";
    if (ngx_strcmp(words[1].data, "off") == 0) {
        conf->rule = NULL;
        return cf->args->nelts == 2 ? NGX_CONF_OK : "has parameters after \"off\"";
    }
    draft d = {.rule = new_rule(cf), .protocol = &PROTOCOLS[0]};
    if (d.rule == NULL || (of_semaphore && set_maximum(cf, d.rule) != NGX_CONF_OK) ||
        fl_name_compile(cf, d.rule, &words[1]) != NGX_CONF_OK)
        return NGX_CONF_ERROR;
    for (ngx_uint_t i = first; i < cf->args->nelts; i++) {
        char *wrong = set_parameter(cf, &d, &words[i]);
        if (wrong != NGX_CONF_OK) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "%s in \"%V\"", wrong, &words[i]);
            return NGX_CONF_ERROR;
        }
    }
    if (check(cf, &d) != NGX_CONF_OK)
        return NGX_CONF_ERROR;
    finish(&d);
    conf->rule = d.rule;
    return compare(cf, d.rule);
}

#define EVERYWHERE (NGX_HTTP_MAIN_CONF | NGX_HTTP_SRV_CONF | NGX_HTTP_LOC_CONF)

static ngx_uint_t semaphores; /* its address tells the two directives apart */

ngx_command_t fl_commands[] = {
    {ngx_string("file_lock"), EVERYWHERE | NGX_CONF_1MORE, set_rule, NGX_HTTP_LOC_CONF_OFFSET, 0, NULL},
    {ngx_string("file_lock_semaphore"), EVERYWHERE | NGX_CONF_1MORE, set_rule, NGX_HTTP_LOC_CONF_OFFSET, 0,
     &semaphores},
    {ngx_string("file_lock_read_body"), EVERYWHERE | NGX_CONF_FLAG, ngx_conf_set_flag_slot, NGX_HTTP_LOC_CONF_OFFSET,
     offsetof(fl_loc_conf, read_body), NULL},
    ngx_null_command,
};

/* ------------------------------------------------------------------------------------------------------ inheritance */

void *fl_create_main_conf(ngx_conf_t *cf)
{
    fl_main_conf *conf = ngx_pcalloc(cf->pool, sizeof *conf);
    if (conf == NULL || ngx_array_init(&conf->rules, cf->pool, 4, sizeof(fl_rule *)) != NGX_OK)
        return NULL;
    return conf;
}

void *fl_create_loc_conf(ngx_conf_t *cf)
{
    fl_loc_conf *conf = ngx_pcalloc(cf->pool, sizeof *conf);
    if (conf == NULL)
        return NULL;
    conf->rule = NGX_CONF_UNSET_PTR;
    conf->read_body = NGX_CONF_UNSET;
    return conf;
}

char *fl_merge_loc_conf(ngx_conf_t *cf, void *parent, void *child)
{
    const fl_loc_conf *outer = parent;
    fl_loc_conf *conf = child;
    (void)cf;
    ngx_conf_merge_ptr_value(conf->rule, outer->rule, NULL);
    ngx_conf_merge_value(conf->read_body, outer->read_body, 1);
    return NGX_CONF_OK;
}
