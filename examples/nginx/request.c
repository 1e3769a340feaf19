/* A request and its locks.
 *
 * It asks in the precontent phase: by then it was allowed (access, auth_basic, limit_req), so that nobody waits, or
 * makes others wait, who is turned away; and its body was read, so that no slow client holds a lock by sending slowly.
 *
 * While it waits it is suspended as by limit_req: no event runs its phases, and a client that goes away ends it. When
 * the library calls back, the phases go on. What it holds it gives back when its pool is destroyed, which comes after
 * the access log and however it ends: answered, refused, aborted, its upstream dead.
 *
 * One request asks once by one rule, whatever internal redirects (error_page, try_files, X-Accel-Redirect) it takes:
 * what it holds it keeps, and what it did not get keeps it out of all places with this rule. Rules that it meets on its
 * way are added. Subrequests neither ask nor hold: the main request does.
 */
#include "file_lock.h"

static void on_request_end(void *data);
static void on_sent(ngx_event_t *event);

/* ------------------------------------------------------------------------------------------------ what belongs to it
 */

/* An internal redirect forgets what modules know of a request; its pool does not. */
fl_request *fl_request_find(ngx_http_request_t *r)
{
    fl_request *request = ngx_http_get_module_ctx(r, ngx_http_file_lock_module);
    if (request != NULL || (!r->internal && !r->filter_finalize))
        return request;
    for (ngx_pool_cleanup_t *cleanup = r->pool->cleanup; cleanup != NULL; cleanup = cleanup->next) {
        if (cleanup->handler == on_request_end)
            return cleanup->data;
    }
    return NULL;
}

static fl_request *request_of(ngx_http_request_t *r)
{
    fl_request *request = fl_request_find(r);
    if (request != NULL)
        return request;
    ngx_pool_cleanup_t *cleanup = ngx_pool_cleanup_add(r->pool, 0);
    request = ngx_calloc(sizeof *request, r->connection->log);
    if (cleanup == NULL || request == NULL) {
        ngx_free(request);
        return NULL;
    }
    request->r = r;
    request->sent.data = request;
    request->sent.handler = on_sent;
    request->sent.cancelable = 1;
    request->sent.log = ngx_cycle->log;
    cleanup->handler = on_request_end;
    cleanup->data = request;
    ngx_http_set_ctx(r, request, ngx_http_file_lock_module);
    return request;
}

static fl_hold *find_hold(ngx_http_request_t *r, const fl_rule *rule)
{
    const fl_request *request = fl_request_find(r);
    fl_hold *hold = request != NULL ? request->holds : NULL;
    while (hold != NULL && hold->rule != rule)
        hold = hold->next;
    return hold;
}

static fl_hold *new_hold(ngx_http_request_t *r, fl_rule *rule)
{
    fl_request *request = request_of(r);
    fl_hold *hold = request != NULL ? ngx_calloc(sizeof *hold, r->connection->log) : NULL;
    if (hold == NULL)
        return NULL;
    hold->of = request;
    hold->rule = rule;
    hold->next = request->holds;
    request->holds = hold;
    return hold;
}

static void free_hold(fl_hold *hold)
{
    fl_hold **link = &hold->of->holds;
    while (*link != hold)
        link = &(*link)->next;
    *link = hold->next;
    if (hold->file != NULL)
        fl_files_put(hold->file);
    ngx_free(hold);
}

/* ---------------------------------------------------------------------------------------------------------- failures
 */

typedef struct failure {
    int status; /* AFLOCK_E... */
    int sys_errno;
    const char *step, *detail; /* or NULL */
    const char *path;          /* NULL: that of the hold */
} failure;

static void log_failure(const fl_hold *hold, const failure *why)
{
    const char *path = why->path;
    if (path == NULL)
        path = (const char *)(hold->file != NULL ? hold->file->path.data : hold->rule->directory.data);
    ngx_log_error(NGX_LOG_ERR, hold->of->r->connection->log, why->sys_errno, "file lock \"%s\": %s%s%s%s%s", path,
                  aflock_strerror(why->status), why->step != NULL ? ", step " : "", why->step != NULL ? why->step : "",
                  why->detail != NULL ? ", " : "", why->detail != NULL ? why->detail : "");
}

/* Who comes too late is told to who listens; what somebody has to mend to everybody. */
static void fail(fl_hold *hold, const failure *why)
{
    static const struct {
        int status;
        const char *word;
    } TOO_LATE[] = {{AFLOCK_ETIMEDOUT, "TIMEOUT"}, {AFLOCK_EWOULDBLOCK, "BUSY"}, {AFLOCK_EFULL, "FULL"}};
    hold->state = FL_FAILED;
    for (size_t i = 0; i < sizeof TOO_LATE / sizeof *TOO_LATE; i++) {
        if (why->status == TOO_LATE[i].status) {
            hold->word = TOO_LATE[i].word;
            hold->answer = (ngx_int_t)hold->rule->status;
            ngx_log_error(NGX_LOG_NOTICE, hold->of->r->connection->log, 0, "file lock \"%V\": %s", &hold->file->path,
                          aflock_strerror(why->status));
            return;
        }
    }
    hold->word = "ERROR";
    hold->answer = NGX_HTTP_INTERNAL_SERVER_ERROR;
    log_failure(hold, why);
}

static void refuse(fl_hold *hold)
{
    hold->state = FL_FAILED;
    hold->word = "REFUSED";
    hold->answer = NGX_HTTP_BAD_REQUEST;
    ngx_log_error(NGX_LOG_INFO, hold->of->r->connection->log, 0, "file lock in \"%V\": a variable of its name is empty",
                  &hold->rule->directory);
}

/* ------------------------------------------------------------------------------------------------- waiting, and the
 * end of it */

/* The client is listened to: that it goes may have been heard already. */
static ngx_int_t suspend(ngx_http_request_t *r)
{
    ngx_connection_t *c = r->connection;
    c->log->action = "waiting for a file lock";
    r->write_event_handler = ngx_http_request_empty_handler;
    if (r->post_action)
        return NGX_AGAIN;
    r->read_event_handler = ngx_http_test_reading;
    if (c->read->ready) {
        ngx_post_event(c->read, &ngx_posted_events);
        return NGX_AGAIN;
    }
    return ngx_handle_read_event(c->read, 0) == NGX_OK ? NGX_AGAIN : NGX_HTTP_INTERNAL_SERVER_ERROR;
}

/* The handler finds what has become of the hold. */
static void resume(ngx_http_request_t *r)
{
    ngx_connection_t *c = r->connection;
    ngx_http_set_log_request(c->log, r);
    c->log->action = NULL;
    r->read_event_handler = ngx_http_block_reading;
    r->write_event_handler = ngx_http_core_run_phases;
    if (ngx_handle_read_event(c->read, 0) == NGX_OK)
        ngx_http_core_run_phases(r);
    else
        ngx_http_finalize_request(r, NGX_HTTP_INTERNAL_SERVER_ERROR);
    ngx_http_run_posted_requests(c);
}

static void has_it(fl_hold *hold)
{
    hold->state = FL_HELD;
    hold->held = 1;
}

static void begin_waiting(fl_hold *hold)
{
    hold->state = FL_WAITING;
    hold->asked = ngx_current_msec;
    hold->file->waiting++;
}

/* An answer to who waited. */
static void answered(fl_hold *hold, const failure *why, uint64_t waited)
{
    fl_request *request = hold->of;
    if (request->r == NULL) { /* it was cancelled, so it never holds */
        free_hold(hold);
        if (request->holds == NULL)
            ngx_free(request);
        return;
    }
    if (fl_context() == NULL) /* the worker ends, and its requests with it */
        return;
    hold->waited = (ngx_msec_t)(waited / AFLOCK_MILLISECOND);
    if (why->status == 0)
        has_it(hold);
    else
        fail(hold, why);
    resume(request->r);
}

static void ask_for_lock(fl_hold *hold, failure *why);

/* Somebody else's file that may only be read can be locked all the same. Once that was seen, so it is opened. */
static ngx_uint_t can_do_with_less(const fl_hold *hold, int status)
{
    if (status != AFLOCK_EACCES || hold->file->read_only || hold->rule->lock.protocol != AFLOCK_NATIVE)
        return 0;
    hold->file->read_only = 1;
    return 1;
}

static void on_lock(aflock *lock, const aflock_result *result, void *user)
{
    (void)lock;
    fl_hold *hold = user;
    failure why = {.status = result->status,
                   .sys_errno = result->sys_errno,
                   .step = result->step,
                   .detail = result->detail,
                   .path = result->path};
    uint64_t waited = result->waited;
    hold->file->waiting--;
    if (hold->of->r != NULL && can_do_with_less(hold, why.status)) {
        ask_for_lock(hold, &why);
        if (why.status == 0 && hold->state == FL_WAITING)
            return;
    }
    answered(hold, &why, waited);
}

static void on_slot(aflock_semaphore *semaphore, const aflock_semaphore_result *result, void *user)
{
    (void)semaphore;
    fl_hold *hold = user;
    const failure why = {
        .status = result->status, .sys_errno = result->sys_errno, .step = result->step, .path = result->path};
    hold->file->waiting--;
    answered(hold, &why, result->waited);
}

/* The request runs, and cannot be called back. */
void fl_on_lost(aflock *lock, aflock_req req, const aflock_compromise *what, void *user)
{
    fl_hold *hold = user;
    (void)lock;
    (void)req;
    hold->state = FL_LOST;
    ngx_log_error(NGX_LOG_ERR, hold->of->r->connection->log, what->sys_errno,
                  "file lock \"%V\" is lost while its request runs: %s", &hold->file->path,
                  aflock_compromise_name(what->reason));
}

/* --------------------------------------------------------------------------------------------------------- asking */

static ngx_uint_t is_full(const fl_hold *hold)
{
    return hold->rule->waiting != 0 && hold->file->waiting >= hold->rule->waiting;
}

static void ask_for_slot(fl_hold *hold, failure *why)
{
    why->status = is_full(hold) ? AFLOCK_EFULL
                                : aflock_semaphore_acquire(hold->file->semaphore, hold->rule->acquire.timeout, NULL,
                                                           on_slot, hold, &hold->permit);
    if (why->status == 0)
        begin_waiting(hold);
}

static int try_lock(fl_hold *hold, const aflock_acquire_options *options, failure *why)
{
    aflock_result result = {.size = sizeof result};
    int status = aflock_try(hold->file->lock, options, &hold->req, &result);
    if (status == 0)
        has_it(hold);
    *why = (failure){.status = status,
                     .sys_errno = result.sys_errno,
                     .step = result.step,
                     .detail = result.detail,
                     .path = result.path};
    return status;
}

/* Mostly the lock is free and to be had at once. */
static void ask_for_lock(fl_hold *hold, failure *why)
{
    aflock_acquire_options options = hold->rule->acquire;
    options.owner = hold->of;
    if (options.on_compromise != NULL)
        options.on_compromise_user = hold;
    if (hold->file->read_only)
        options.flags |= AFLOCK_READ_ONLY;
    int status = try_lock(hold, &options, why);
    if (can_do_with_less(hold, status)) {
        options.flags |= AFLOCK_READ_ONLY;
        status = try_lock(hold, &options, why);
    }
    if (status != AFLOCK_ENOTINLINE && (status != AFLOCK_EWOULDBLOCK || options.timeout == 0))
        return;
    *why = (failure){0};
    why->status = is_full(hold) ? AFLOCK_EFULL : aflock_acquire(hold->file->lock, &options, on_lock, hold, &hold->req);
    if (why->status == 0)
        begin_waiting(hold);
}

/* Of a file that could not be opened; NULL: no memory. */
static const char *path_of(ngx_http_request_t *r, const fl_rule *rule, const ngx_str_t *name)
{
    u_char *path = ngx_pnalloc(r->pool, rule->directory.len + name->len + 1);
    if (path != NULL)
        ngx_sprintf(path, "%V%V%Z", &rule->directory, name);
    return (const char *)path;
}

static void ask(ngx_http_request_t *r, fl_hold *hold)
{
    ngx_str_t name = ngx_null_string;
    failure why = {0};
    ngx_int_t rc = fl_name(r, hold->rule, &name);
    if (rc == NGX_DECLINED) {
        refuse(hold);
        return;
    }
    if (rc != NGX_OK || fl_context() == NULL)
        why.status = rc != NGX_OK ? AFLOCK_ENOMEM : AFLOCK_ECLOSED;
    else
        why.status = fl_files_get(hold->rule, &name, &hold->file);
    if (hold->file == NULL)
        why.path = path_of(r, hold->rule, &name);
    else if (hold->file->lock != NULL)
        ask_for_lock(hold, &why);
    else
        ask_for_slot(hold, &why);
    if (why.status != 0)
        fail(hold, &why);
}

/* ------------------------------------------------------------------------------------------------------- the phase */

static void on_body(ngx_http_request_t *r)
{
    r->write_event_handler = ngx_http_core_run_phases;
    ngx_http_core_run_phases(r);
}

static ngx_uint_t has_body_to_come(const ngx_http_request_t *r)
{
    return r->request_body == NULL && !r->discard_body && (r->headers_in.content_length_n > 0 || r->headers_in.chunked);
}

/* nginx's WebDAV, no handler of a location but one of the content phase, renames the file that a body came in. */
static void want_body_in_file(ngx_http_request_t *r)
{
    r->request_body_in_file_only = 1;
    r->request_body_in_persistent_file = 1;
    r->request_body_in_clean_file = 1;
    r->request_body_file_group_access = 1;
    r->request_body_file_log_level = 0;
}

static ngx_int_t read_body(ngx_http_request_t *r)
{
    if (r->method == NGX_HTTP_PUT && r->content_handler == NULL)
        want_body_in_file(r);
    ngx_int_t rc = ngx_http_read_client_request_body(r, on_body);
    if (rc >= NGX_HTTP_SPECIAL_RESPONSE)
        return rc;
    ngx_http_finalize_request(r, NGX_DONE);
    return NGX_DONE;
}

/* NGX_OK, NGX_DECLINED: not this one; NGX_ERROR. */
static ngx_int_t is_asked_for(ngx_http_request_t *r, const fl_rule *rule)
{
    ngx_str_t value;
    if (rule->condition == NULL)
        return NGX_OK;
    if (ngx_http_complex_value(r, rule->condition, &value) != NGX_OK)
        return NGX_ERROR;
    return value.len == 0 || (value.len == 1 && value.data[0] == '0') ? NGX_DECLINED : NGX_OK;
}

ngx_int_t fl_handler(ngx_http_request_t *r)
{
    const fl_loc_conf *conf = ngx_http_get_module_loc_conf(r, ngx_http_file_lock_module);
    if (conf->rule == NULL || r != r->main)
        return NGX_DECLINED;
    fl_hold *hold = find_hold(r, conf->rule);
    if (hold == NULL) {
        ngx_int_t rc = is_asked_for(r, conf->rule);
        if (rc != NGX_OK)
            return rc;
        if (conf->read_body && has_body_to_come(r))
            return read_body(r);
        hold = new_hold(r, conf->rule);
        if (hold == NULL)
            return NGX_ERROR;
        ask(r, hold);
        if (hold->state == FL_WAITING)
            return suspend(r);
    }
    switch (hold->state) {
    case FL_NEW:
    case FL_WAITING:
        return NGX_AGAIN;
    case FL_FAILED:
        return hold->answer;
    case FL_HELD:
    case FL_LOST:
        break;
    }
    return NGX_DECLINED;
}

/* ---------------------------------------------------------------------------------------------------------- the end */

/* What cannot be given back at once the library tries again, and tells the log. */
static void give_back(fl_hold *hold)
{
    if (!hold->held)
        return;
    hold->held = 0;
    if (hold->file->lock != NULL)
        aflock_release(hold->file->lock, hold->req, NULL, NULL);
    else
        aflock_semaphore_release(hold->file->semaphore, hold->permit, NULL, NULL);
}

static void cancel(const fl_hold *hold)
{
    if (hold->file->lock != NULL)
        aflock_cancel(hold->file->lock, hold->req);
    else
        aflock_semaphore_cancel(hold->file->semaphore, hold->permit);
}

/* Who waits is cancelled, and goes when that is answered. */
static void on_request_end(void *data)
{
    fl_request *request = data;
    request->r = NULL;
    if (request->sent.posted) {
        ngx_delete_posted_event(&request->sent);
    }
    if (request->sent.timer_set)
        ngx_del_timer(&request->sent);
    for (fl_hold *hold = request->holds, *next; hold != NULL; hold = next) {
        next = hold->next;
        if (hold->state == FL_WAITING) {
            cancel(hold);
            continue;
        }
        give_back(hold);
        free_hold(hold);
    }
    if (request->holds == NULL)
        ngx_free(request);
}

/* ------------------------------------------------------------------------------------------------ the response is sent
 */

enum { LOOK_AGAIN_MS = 100 };

static ngx_http_output_header_filter_pt next_header_filter;
static ngx_http_output_body_filter_pt next_body_filter;

/* It was sent just now. A request that is still there and is no longer called back to write has nothing to do but to
 * read. While other parts of it run (mirror, post_action, a body that is discarded) it is, and holds; nginx does not
 * say when these are done. */
static void on_sent(ngx_event_t *event)
{
    const fl_request *request = event->data;
    if (request->r->connection->write->handler != ngx_http_empty_handler) {
        ngx_add_timer(event, LOOK_AGAIN_MS);
        return;
    }
    for (fl_hold *hold = request->holds; hold != NULL; hold = hold->next)
        give_back(hold);
}

static ngx_uint_t ends(const ngx_chain_t *in)
{
    while (in != NULL && !in->buf->last_buf)
        in = in->next;
    return in != NULL;
}

static void is_sent(fl_request *request)
{
    if (request->answered && !request->sent.posted) {
        ngx_post_event(&request->sent, &ngx_posted_events);
    }
}

/* A response without a body (204, 304, to HEAD) ends with its headers. */
static ngx_int_t header_filter(ngx_http_request_t *r)
{
    ngx_int_t rc = next_header_filter(r);
    fl_request *request = r == r->main && r->header_only ? fl_request_find(r) : NULL;
    if (request != NULL) {
        request->answered = 1;
        if (rc == NGX_OK)
            is_sent(request);
    }
    return rc;
}

static ngx_int_t body_filter(ngx_http_request_t *r, ngx_chain_t *in)
{
    fl_request *request = r == r->main ? fl_request_find(r) : NULL;
    if (request != NULL && ends(in))
        request->answered = 1;
    ngx_int_t rc = next_body_filter(r, in);
    if (request != NULL && rc == NGX_OK)
        is_sent(request);
    return rc;
}

void fl_insert_filters(void)
{
    next_header_filter = ngx_http_top_header_filter;
    ngx_http_top_header_filter = header_filter;
    next_body_filter = ngx_http_top_body_filter;
    ngx_http_top_body_filter = body_filter;
}
