#include "listener.h"

#include "log.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define PAUSE .1 /* s */

enum { ADDRESS_TEXT = 96 };

typedef union address {
    struct sockaddr any;
    struct sockaddr_un local;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
    struct sockaddr_storage storage;
} address;

/* As it is given to listener_open. */
static const char *address_text(const address *a, socklen_t length, char text[ADDRESS_TEXT])
{
    char host[INET6_ADDRSTRLEN];
    if (a->any.sa_family == AF_INET)
        snprintf(text, ADDRESS_TEXT, "%s:%u", inet_ntop(AF_INET, &a->v4.sin_addr, host, sizeof host),
                 ntohs(a->v4.sin_port));
    else if (a->any.sa_family == AF_INET6)
        snprintf(text, ADDRESS_TEXT, "[%s]:%u", inet_ntop(AF_INET6, &a->v6.sin6_addr, host, sizeof host),
                 ntohs(a->v6.sin6_port));
    else
        snprintf(text, ADDRESS_TEXT, "%.*s", (int)(length - offsetof(struct sockaddr_un, sun_path)), a->local.sun_path);
    return text;
}

/* ---------------------------------------------------------------------------------------------------------- accepting
 */

static void on_pause_ends(struct ev_loop *loop, ev_timer *timer, int events)
{
    (void)events;
    listener *l = timer->data;
    ev_io_start(loop, &l->accepting);
}

/* Local ones have no address: they are counted. */
static void take(listener *l, int fd, const address *a, socklen_t length)
{
    char name[ADDRESS_TEXT];
    l->count++;
    if (l->socket_path)
        snprintf(name, sizeof name, "local connection %lu", l->count);
    else
        address_text(a, length, name);
    peer_accept(l->peers, fd, name);
}

static void on_connection(struct ev_loop *loop, ev_io *watcher, int events)
{
    (void)events;
    listener *l = watcher->data;
    address a = {0};
    socklen_t length = sizeof a;
    const int fd = accept4(l->fd, &a.any, &length, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd >= 0) {
        take(l, fd, &a, length);
    } else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
        log_line(LOG_ERR, "accept: %s", strerror(errno));
        ev_io_stop(loop, &l->accepting);
        ev_timer_set(&l->pause, PAUSE, 0.);
        ev_timer_start(loop, &l->pause);
    }
}

/* ------------------------------------------------------------------------------------------------------------- opening
 */

static bool complain(const char *where, const char *what)
{
    log_line(LOG_ERR, "%s: %s", where, what);
    return false;
}

/* What a killed agent has left: a socket that nobody listens on. */
static void remove_left_socket(const address *a, socklen_t length)
{
    struct stat st;
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return;
    if (lstat(a->local.sun_path, &st) == 0 && S_ISSOCK(st.st_mode) && connect(fd, &a->any, length) != 0 &&
        errno == ECONNREFUSED)
        unlink(a->local.sun_path);
    close(fd);
}

static void resolve_local(const char *path, address *a, socklen_t *length)
{
    const size_t size = strlen(path) + 1;
    a->local.sun_family = AF_UNIX;
    memcpy(a->local.sun_path, path, size);
    *length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + size);
    remove_left_socket(a, *length);
}

/* getaddrinfo would take 65536 for 0, and 99999 for 34463. */
static bool is_port(const char *text)
{
    char *end;
    return *text >= '0' && *text <= '9' && strtoul(text, &end, 10) <= UINT16_MAX && *end == '\0';
}

/* NULL, or what is wrong. */
static const char *resolve(const char *text, address *a, socklen_t *length)
{
    static const struct addrinfo HINTS = {.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV | AI_PASSIVE,
                                          .ai_socktype = SOCK_STREAM};
    char host[ADDRESS_TEXT];
    const char *colon = strrchr(text, ':'), *begin = text;
    size_t size = colon ? (size_t)(colon - text) : 0;
    if (size >= 2 && text[0] == '[' && colon[-1] == ']') {
        begin++;
        size -= 2;
    }
    if (size == 0 || size >= sizeof host || !is_port(colon + 1))
        return "not an address, such as 127.0.0.1:12345 or /run/aflock/spoa.sock";
    memcpy(host, begin, size);
    host[size] = '\0';
    struct addrinfo *found;
    const int error = getaddrinfo(host, colon + 1, &HINTS, &found);
    if (error == EAI_NONAME)
        return "not an address: the host has to be a number";
    if (error != 0)
        return gai_strerror(error);
    memcpy(a, found->ai_addr, found->ai_addrlen);
    *length = found->ai_addrlen;
    freeaddrinfo(found);
    return NULL;
}

static bool is_path(const char *text)
{
    return strchr(text, '/') != NULL;
}

const char *listener_check(const char *text)
{
    address a = {0};
    socklen_t length;
    if (!is_path(text))
        return resolve(text, &a, &length);
    return strlen(text) < sizeof a.local.sun_path ? NULL : "too long for a socket";
}

static bool is_of_this_machine(const address *a)
{
    return a->any.sa_family == AF_UNIX || (a->any.sa_family == AF_INET && ntohl(a->v4.sin_addr.s_addr) >> 24 == 127) ||
           (a->any.sa_family == AF_INET6 && IN6_IS_ADDR_LOOPBACK(&a->v6.sin6_addr));
}

static bool start(listener *l, const char *text, const address *a, socklen_t length)
{
    const int on = 1;
    l->fd = socket(a->any.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (l->fd < 0 ||
        (a->any.sa_family != AF_UNIX && setsockopt(l->fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0) ||
        bind(l->fd, &a->any, length) != 0 || listen(l->fd, SOMAXCONN) != 0)
        return complain(text, strerror(errno));
    return true;
}

bool listener_open(listener *l, peers *all, const char *text)
{
    address a = {0};
    socklen_t length = 0;
    char name[ADDRESS_TEXT];
    const bool is_local = is_path(text);
    *l = (listener){.peers = all, .fd = -1};
    ev_init(&l->accepting, on_connection);
    ev_init(&l->pause, on_pause_ends);
    l->accepting.data = l->pause.data = l;
    if (is_local)
        resolve_local(text, &a, &length);
    else
        resolve(text, &a, &length);
    if (!start(l, text, &a, length))
        return false;
    if (is_local)
        l->socket_path = text;
    length = sizeof a;
    getsockname(l->fd, &a.any, &length);
    log_line(LOG_NOTICE, "listening on %s", is_local ? text : address_text(&a, length, name));
    if (!is_of_this_machine(&a))
        log_line(LOG_WARNING, "%s can be reached from other machines, and everybody who reaches it can take locks",
                 name);
    ev_io_set(&l->accepting, l->fd, EV_READ);
    ev_io_start(all->loop, &l->accepting);
    return true;
}

void listener_close(listener *l)
{
    ev_io_stop(l->peers->loop, &l->accepting);
    ev_timer_stop(l->peers->loop, &l->pause);
    if (l->fd >= 0)
        close(l->fd);
    if (l->socket_path)
        unlink(l->socket_path);
}
