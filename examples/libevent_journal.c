/* An HTTP server on libevent that appends lines to a journal, which several such servers share.
 *
 *   POST /append   appends the body to the journal as one line, under the lock JOURNAL.lock, and then answers
 *   GET  /health   answers at once, whatever the lock does
 *   GET  /stats    as JSON: requests that wait for the lock and hold it, lines that this server has written
 *
 * A line is "PID LENGTH BODY". It is written in two pieces, with the loop's other work between them, which is what a
 * slow disk would do to a long line: without the lock (--no-lock) the pieces of several lines get mixed.
 *
 * The life of an entry: on_append -> on_lock -> begin_line -> end_line -> answer -> on_sent. A client that goes away,
 * or only closes its side, while its entry waits cancels it; a line that was begun is ended. A server that is killed in
 * the middle of a line leaves a torn one; the next writer closes it with a newline, and its LENGTH tells it from the
 * others.
 *
 * SIGTERM and SIGINT: no new connections, no new entries; those that wait get their turn or their time-out, and the
 * program ends when all are answered. A second signal ends the waiting at once.
 */
#include <aflock/libevent.h>

#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>
#include <event2/http.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_BODY = 64 * 1024, MAX_HEADERS = 16 * 1024, MAX_HEAD = 48, MAX_WAITING = 1000, EXIT_USAGE = 2 };

static const char address[] = "127.0.0.1";

struct server {
    const char *path; /* of the journal */
    int port;
    int timeout; /* ms */
    int hold;    /* ms between the two pieces of a line */
    int locked;

    int journal; /* a descriptor */
    char *lock_path;
    aflock_ctx *ctx;
    aflock *lock;
    struct event_base *base;
    struct evhttp *http;
    struct evhttp_bound_socket *socket;
    struct event *terminate;
    struct event *interrupt;
    struct entry *entries;
    unsigned long appended;
    int ending;
    int drained; /* nothing waits for the lock, nothing holds it */
};

/* One POST /append, until its answer is sent or its client gone. */
struct entry {
    struct entry *next, **link; /* in the server's list */
    struct server *server;
    struct evhttp_request *http; /* NULL when answered: then it is libevent's */
    struct event *rest;          /* a timer: when the second piece is written */
    struct event *watch;         /* for the end of the connection */
    aflock_req request;
    int writing; /* the line is begun */
    off_t start; /* where in the journal */
    size_t head; /* size of the first piece */
    size_t size; /* of both */
    char line[];
};

static int complain(const char *what, const char *reason)
{
    fprintf(stderr, "libevent_journal: %s: %s\n", what, reason);
    return -1;
}

/* ------------------------------------------------------------------------------------------------- the journal file */

static int write_all(int fd, const char *data, size_t size)
{
    while (size > 0) {
        ssize_t written = write(fd, data, size);
        if (written < 0 && errno != EINTR)
            return -1;
        if (written > 0) {
            data += written;
            size -= (size_t)written;
        }
    }
    return 0;
}

/* Where the next line starts. If its writer was killed, the last one has no end: it gets one. */
static int find_end(int fd, off_t *end)
{
    char last = '\n';
    *end = lseek(fd, 0, SEEK_END);
    if (*end < 0 || (*end > 0 && pread(fd, &last, 1, *end - 1) != 1))
        return -1;
    if (last == '\n')
        return 0;
    if (write_all(fd, "\n", 1) != 0)
        return -1;
    (*end)++;
    return 0;
}

/* ------------------------------------------------------------------------------------------------------- the answers
 */

static void end_if_done(struct server *server)
{
    if (server->ending && server->drained && server->entries == NULL)
        event_base_loopbreak(server->base);
}

static void entry_free(struct entry *entry)
{
    struct server *server = entry->server;
    *entry->link = entry->next;
    if (entry->next != NULL)
        entry->next->link = entry->link;
    event_free(entry->rest);
    event_free(entry->watch);
    free(entry);
    end_if_done(server);
}

static void send_body(struct evhttp_request *http, int code, const char *reason, const char *type, const char *text)
{
    struct evbuffer *body = evbuffer_new();
    if (body != NULL)
        evbuffer_add(body, text, strlen(text));
    evhttp_add_header(evhttp_request_get_output_headers(http), "Content-Type", type);
    evhttp_send_reply(http, code, reason, body);
    if (body != NULL)
        evbuffer_free(body);
}

static void send_text(struct evhttp_request *http, int code, const char *reason, const char *text)
{
    send_body(http, code, reason, "text/plain", text);
}

/* To a connection that is gone, this only gives the request back to libevent. */
static void answer(struct entry *entry, int code, const char *reason, const char *text)
{
    struct evhttp_request *http = entry->http;
    int gone = evhttp_request_get_connection(http) == NULL;
    entry->http = NULL;
    event_del(entry->watch);
    send_text(http, code, reason, text);
    if (gone)
        entry_free(entry);
}

static void on_sent(struct evhttp_request *http, void *user)
{
    /* The connection may live on, the entry does not. */
    evhttp_connection_set_closecb(evhttp_request_get_connection(http), NULL, NULL);
    entry_free(user);
}

static void refuse(struct entry *entry, int status, int sys_errno)
{
    char text[256];
    snprintf(text, sizeof text, "%s%s%s\n", aflock_strerror(status), sys_errno != 0 ? ": " : "",
             sys_errno != 0 ? strerror(sys_errno) : "");
    if (status == AFLOCK_ETIMEDOUT || status == AFLOCK_EFULL || status == AFLOCK_ECLOSED ||
        status == AFLOCK_ECANCELED) {
        evhttp_add_header(evhttp_request_get_output_headers(entry->http), "Retry-After", "1");
        answer(entry, HTTP_SERVUNAVAIL, "Service Unavailable", text);
    } else {
        fprintf(stderr, "libevent_journal: %s: %s", entry->server->lock_path, text);
        answer(entry, HTTP_INTERNAL, "Internal Server Error", text);
    }
}

/* --------------------------------------------------------------------------------------------------------- the lines
 */

/* The line is written, or it failed: `error` is an errno. */
static void finish_line(struct entry *entry, int error)
{
    struct server *server = entry->server;
    if (error != 0) {
        complain(server->path, strerror(error));
        if (server->locked && ftruncate(server->journal, entry->start) != 0) /* no half lines */
            complain(server->path, strerror(errno));
    }
    if (server->locked)
        aflock_release(server->lock, entry->request, NULL, NULL);
    if (error == 0) {
        server->appended++;
        answer(entry, HTTP_OK, "OK", "appended\n");
    } else {
        answer(entry, HTTP_INTERNAL, "Internal Server Error", "the journal could not be written\n");
    }
}

static void end_line(evutil_socket_t fd, short what, void *user)
{
    (void)fd;
    (void)what;
    struct entry *entry = user;
    int failed = write_all(entry->server->journal, entry->line + entry->head, entry->size - entry->head);
    finish_line(entry, failed ? errno : 0);
}

static void begin_line(struct entry *entry)
{
    struct server *server = entry->server;
    struct timeval hold = {.tv_sec = server->hold / 1000, .tv_usec = (suseconds_t)(server->hold % 1000) * 1000};
    entry->writing = 1;
    if (find_end(server->journal, &entry->start) != 0 || write_all(server->journal, entry->line, entry->head) != 0)
        finish_line(entry, errno);
    else if (evtimer_add(entry->rest, &hold) != 0)
        finish_line(entry, ENOMEM);
}

static void on_lock(aflock *lock, const aflock_result *result, void *user)
{
    (void)lock;
    struct entry *entry = user;
    if (result->status == 0)
        begin_line(entry);
    else
        refuse(entry, result->status, result->sys_errno);
}

/* What a client that is gone waits for is cancelled: on_lock will be told, and never that it has the lock. If it has it
 * already, the line is ended: others rely on that. */
static void cancel(struct entry *entry)
{
    if (!entry->writing)
        aflock_cancel(entry->server->lock, entry->request);
}

/* libevent does not read from a connection whose request is not answered, so it does not notice its end. What it has
 * not read must stay: a client may send the next request already. */
static void on_readable(evutil_socket_t fd, short what, void *user)
{
    (void)what;
    char byte;
    ssize_t size = recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    if (size == 0 || (size < 0 && errno != EAGAIN && errno != EINTR))
        cancel(user);
}

/* libevent has given up the connection. */
static void on_closed(struct evhttp_connection *connection, void *user)
{
    (void)connection;
    struct entry *entry = user;
    if (entry->http == NULL)
        entry_free(entry); /* the answer did not get there */
    else
        cancel(entry);
}

/* ------------------------------------------------------------------------------------------------------ the requests
 */

static struct entry *entry_new(struct server *server, struct evhttp_request *http, struct evbuffer *body)
{
    size_t size = evbuffer_get_length(body);
    struct evhttp_connection *connection = evhttp_request_get_connection(http);
    evutil_socket_t fd = bufferevent_getfd(evhttp_connection_get_bufferevent(connection));
    struct entry *entry = calloc(1, sizeof *entry + MAX_HEAD + size + 1);
    if (entry == NULL)
        return NULL;
    entry->rest = evtimer_new(server->base, end_line, entry);
    entry->watch = event_new(server->base, fd, EV_READ, on_readable, entry);
    if (entry->rest == NULL || entry->watch == NULL || event_add(entry->watch, NULL) != 0) {
        if (entry->rest != NULL)
            event_free(entry->rest);
        if (entry->watch != NULL)
            event_free(entry->watch);
        free(entry);
        return NULL;
    }
    entry->server = server;
    entry->http = http;
    entry->head = (size_t)snprintf(entry->line, MAX_HEAD, "%jd %zu ", (intmax_t)getpid(), size);
    evbuffer_remove(body, entry->line + entry->head, size);
    entry->size = entry->head + size;
    entry->line[entry->size++] = '\n';
    entry->next = server->entries;
    entry->link = &server->entries;
    if (entry->next != NULL)
        entry->next->link = &entry->next;
    server->entries = entry;
    evhttp_connection_set_closecb(connection, on_closed, entry);
    evhttp_request_set_on_complete_cb(http, on_sent, entry);
    return entry;
}

static void ask(struct entry *entry)
{
    struct server *server = entry->server;
    aflock_acquire_options options;
    aflock_acquire_options_init(&options);
    options.timeout = (uint64_t)server->timeout * AFLOCK_MILLISECOND;
    int status = aflock_acquire(server->lock, &options, on_lock, entry, &entry->request);
    if (status != 0)
        refuse(entry, status, 0);
}

static void on_append(struct evhttp_request *http, void *user)
{
    struct server *server = user;
    struct evbuffer *body = evhttp_request_get_input_buffer(http);
    if (server->ending) {
        evhttp_add_header(evhttp_request_get_output_headers(http), "Retry-After", "1");
        send_text(http, HTTP_SERVUNAVAIL, "Service Unavailable", "the server is stopping\n");
    } else if (evhttp_request_get_command(http) != EVHTTP_REQ_POST) {
        evhttp_add_header(evhttp_request_get_output_headers(http), "Allow", "POST");
        send_text(http, HTTP_BADMETHOD, "Method Not Allowed", "POST a line\n");
    } else if (evbuffer_get_length(body) == 0 || evbuffer_search(body, "\n", 1, NULL).pos >= 0) {
        send_text(http, HTTP_BADREQUEST, "Bad Request", "the body must be one line, without its end\n");
    } else {
        struct entry *entry = entry_new(server, http, body);
        if (entry == NULL)
            send_text(http, HTTP_SERVUNAVAIL, "Service Unavailable", "out of memory\n");
        else if (server->locked)
            ask(entry);
        else
            begin_line(entry);
    }
}

static void on_health(struct evhttp_request *http, void *user)
{
    (void)user;
    send_text(http, HTTP_OK, "OK", "ok\n");
}

struct counts {
    unsigned waiting;
    unsigned held;
};

static int count(const aflock_dump_entry *each, void *user)
{
    struct counts *counts = user;
    counts->held += each->held ? 1 : 0;
    counts->waiting += each->held ? 0 : 1;
    return 0;
}

static void on_stats(struct evhttp_request *http, void *user)
{
    const struct server *server = user;
    struct counts counts = {0};
    char text[128];
    aflock_dump(server->ctx, count, &counts);
    snprintf(text, sizeof text, "{\"waiting\": %u, \"held\": %u, \"appended\": %lu}\n", counts.waiting, counts.held,
             server->appended);
    send_body(http, HTTP_OK, "OK", "application/json", text);
}

/* ---------------------------------------------------------------------------------------------------- start and end */

static void on_drained(aflock_ctx *ctx, void *user)
{
    (void)ctx;
    struct server *server = user;
    server->drained = 1;
    end_if_done(server);
}

static void on_signal(evutil_socket_t number, short what, void *user)
{
    (void)number;
    (void)what;
    struct server *server = user;
    if (server->ending) {
        event_base_loopbreak(server->base);
        return;
    }
    server->ending = 1;
    evhttp_del_accept_socket(server->http, server->socket);
    if (aflock_ctx_drain(server->ctx, on_drained, server) != 0)
        event_base_loopbreak(server->base);
}

/* Ends lines that were begun, lets the context answer what waits, and gives the answers a second to get out. */
static int server_stop(struct server *server)
{
    const struct timeval limit = {.tv_sec = 1};
    server->ending = 1;
    for (struct entry *entry = server->entries, *next; entry != NULL; entry = next) {
        next = entry->next;
        if (entry->writing && entry->http != NULL)
            end_line(-1, 0, entry);
    }
    int left = aflock_ctx_free(server->ctx, AFLOCK_SECOND);
    server->ctx = NULL;
    server->drained = 1;
    if (server->entries != NULL) {
        event_base_loopexit(server->base, &limit);
        event_base_dispatch(server->base);
    }
    return left == 0 ? 0 : complain(server->lock_path, "could not be given up");
}

static void server_free(struct server *server)
{
    aflock_ctx_free(server->ctx, 0);
    if (server->http != NULL)
        evhttp_free(server->http); /* entries whose answers are not sent: on_closed */
    if (server->terminate != NULL)
        event_free(server->terminate);
    if (server->interrupt != NULL)
        event_free(server->interrupt);
    if (server->base != NULL)
        event_base_free(server->base);
    if (server->journal >= 0)
        close(server->journal);
    free(server->lock_path);
}

static int listen_on(struct server *server)
{
    struct sockaddr_in bound = {0};
    socklen_t size = sizeof bound;
    char where[64];
    snprintf(where, sizeof where, "%s:%d", address, server->port);
    server->socket = evhttp_bind_socket_with_handle(server->http, address, (uint16_t)server->port);
    if (server->socket == NULL ||
        getsockname(evhttp_bound_socket_get_fd(server->socket), (struct sockaddr *)&bound, &size) != 0)
        return complain(where, strerror(errno));
    printf("%d\n", ntohs(bound.sin_port));
    fflush(stdout);
    return 0;
}

static int open_lock(struct server *server)
{
    aflock_options options;
    aflock_options_init(&options);
    options.max_waiters = MAX_WAITING;
    if (asprintf(&server->lock_path, "%s.lock", server->path) < 0) {
        server->lock_path = NULL;
        return complain(server->path, strerror(ENOMEM));
    }
    int status = aflock_libevent_new(&server->ctx, server->base, NULL);
    if (status == 0)
        status = aflock_open(&server->lock, server->ctx, server->lock_path, &options);
    return status == 0 ? 0 : complain(server->lock_path, aflock_strerror(status));
}

static int server_start(struct server *server)
{
    server->journal = open(server->path, O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC, 0666);
    if (server->journal < 0)
        return complain(server->path, strerror(errno));
    server->base = event_base_new();
    server->http = server->base != NULL ? evhttp_new(server->base) : NULL;
    if (server->http == NULL)
        return complain("libevent", "cannot make an HTTP server");
    server->terminate = evsignal_new(server->base, SIGTERM, on_signal, server);
    server->interrupt = evsignal_new(server->base, SIGINT, on_signal, server);
    if (server->terminate == NULL || server->interrupt == NULL || event_add(server->terminate, NULL) != 0 ||
        event_add(server->interrupt, NULL) != 0)
        return complain("libevent", "cannot watch for signals");
    evhttp_set_max_body_size(server->http, MAX_BODY);
    evhttp_set_max_headers_size(server->http, MAX_HEADERS);
    evhttp_set_cb(server->http, "/append", on_append, server);
    evhttp_set_cb(server->http, "/health", on_health, server);
    evhttp_set_cb(server->http, "/stats", on_stats, server);
    return open_lock(server) != 0 ? -1 : listen_on(server);
}

static int run(struct server *server)
{
    signal(SIGPIPE, SIG_IGN); /* clients go away */
    server->journal = -1;
    int failed = server_start(server);
    if (!failed) {
        failed = event_base_dispatch(server->base) != 0 ? complain("libevent", "the loop failed") : 0;
        failed |= server_stop(server);
    }
    server_free(server);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

/* ------------------------------------------------------------------------------------------------ the command line */

static const char usage[] =
    "usage: libevent_journal --journal FILE [--port N] [--timeout MS] [--hold MS] [--no-lock]\n"
    "An HTTP server on 127.0.0.1 that appends what is posted to /append to FILE, a line each, under the lock "
    "FILE.lock.\n"
    "Several servers may share FILE. Its port is the first line of the output. GET /health and /stats answer at once.\n"
    "  --journal FILE  where to append; made if missing\n"
    "  --port N        listen there (0: any free port)\n"
    "  --timeout MS    answer 503 if the lock is not free within this time (5000)\n"
    "  --hold MS       the time between the two pieces in which a line is written (1)\n"
    "  --no-lock       without the lock: lines of several clients get mixed\n"
    "Exit status: 0 after SIGTERM or SIGINT, 1 after an error, 2 for a wrong command line.\n";

static int parse_number(const char *text, int most, int *out)
{
    char *end = NULL;
    errno = 0;
    long value = strtol(text, &end, 10);
    if (errno != 0 || end == text || *end != '\0' || value < 0 || value > most) {
        fprintf(stderr, "libevent_journal: %s: not a number from 0 to %d\n", text, most);
        return -1;
    }
    *out = (int)value;
    return 0;
}

/* -1: go on; otherwise the exit status. */
static int parse(struct server *server, int argc, char **argv)
{
    static const struct option options[] = {
        {"journal", required_argument, NULL, 'j'},
        {"port", required_argument, NULL, 'p'},
        {"timeout", required_argument, NULL, 't'},
        {"hold", required_argument, NULL, 'H'},
        {"no-lock", no_argument, NULL, 'L'},
        {"help", no_argument, NULL, 'h'},
        {0},
    };
    int option, bad = 0;
    while (!bad && (option = getopt_long(argc, argv, "h", options, NULL)) != -1) {
        switch (option) {
        case 'j':
            server->path = optarg;
            break;
        case 'p':
            bad = parse_number(optarg, UINT16_MAX, &server->port);
            break;
        case 't':
            bad = parse_number(optarg, INT_MAX, &server->timeout);
            break;
        case 'H':
            bad = parse_number(optarg, INT_MAX, &server->hold);
            break;
        case 'L':
            server->locked = 0;
            break;
        case 'h':
            fputs(usage, stdout);
            return EXIT_SUCCESS;
        default:
            bad = 1;
        }
    }
    if (!bad && optind == argc && server->path != NULL)
        return -1;
    fputs(usage, stderr);
    return EXIT_USAGE;
}

int main(int argc, char **argv)
{
    struct server server = {.timeout = 5000, .hold = 1, .locked = 1};
    int status = parse(&server, argc, argv);
    return status >= 0 ? status : run(&server);
}
