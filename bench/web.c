/* Servers and what is asked of them: HTTP/1.1 as far as rows need it, an nginx of one's own, a backend that takes its
 * time without using the processor. */
#include "bench.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { BACKLOG = 1024, ANSWER = 4096 };

/* ------------------------------------------------------------------------------------------------------- questions */

static struct sockaddr_in local(int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
}

int bench_connect(int port)
{
    struct sockaddr_in address = local(port);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bench_check_errno(fd >= 0 && connect(fd, (const struct sockaddr *)&address, sizeof address) == 0, "connect");
    return fd;
}

/* How long the answer is that begins here; 0: its head is not complete. */
static size_t whole(const char *answer)
{
    const char *body = strstr(answer, "\r\n\r\n");
    const char *length = strcasestr(answer, "\r\nContent-Length:");
    if (!body)
        return 0;
    return (size_t)(body + 4 - answer) + (length && length < body ? strtoul(length + 17, NULL, 10) : 0);
}

/* One more piece of an answer. 1: it is complete; 0: not yet; -1: the connection has ended. */
static int take(int fd, char answer[ANSWER], size_t *used)
{
    ssize_t got = read(fd, answer + *used, ANSWER - 1 - *used);
    if (got <= 0)
        return -1;
    *used += (size_t)got;
    answer[*used] = '\0';
    size_t length = whole(answer);
    return length > 0 && *used >= length;
}

bool bench_ask(int fd, const char *request)
{
    char answer[ANSWER];
    size_t length = strlen(request), used = 0;
    if (write(fd, request, length) != (ssize_t)length)
        return false;
    int done;
    do
        done = take(fd, answer, &used);
    while (done == 0);
    return done == 1 && strncmp(answer, "HTTP/1.1 200 ", 13) == 0;
}

void bench_stop(pid_t pid, int signal)
{
    kill(pid, signal);
    waitpid(pid, NULL, 0);
}

/* ---------------------------------------------------------------------------------------------------------- crowds */

typedef struct client {
    int fd;
    size_t used;
    char answer[ANSWER];
} client;

struct bench_crowd {
    int epoll;
    size_t count;
    const char *request;
    client clients[];
};

bench_crowd *bench_crowd_open(int port, size_t count, const char *request)
{
    bench_crowd *crowd = calloc(1, sizeof *crowd + count * sizeof crowd->clients[0]);
    if (!crowd)
        abort();
    crowd->epoll = epoll_create1(EPOLL_CLOEXEC);
    crowd->count = count;
    crowd->request = request;
    for (size_t i = 0; i < count; i++) {
        client *c = &crowd->clients[i];
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
        c->fd = bench_connect(port);
        bench_check_errno(epoll_ctl(crowd->epoll, EPOLL_CTL_ADD, c->fd, &event) == 0, "epoll_ctl");
    }
    return crowd;
}

void bench_crowd_close(bench_crowd *crowd)
{
    for (size_t i = 0; i < crowd->count; i++)
        close(crowd->clients[i].fd);
    close(crowd->epoll);
    free(crowd);
}

static void send_request(const bench_crowd *crowd, client *c)
{
    size_t length = strlen(crowd->request);
    c->used = 0;
    bench_check_errno(write(c->fd, crowd->request, length) == (ssize_t)length, "write");
}

void bench_crowd_send(bench_crowd *crowd)
{
    for (size_t i = 0; i < crowd->count; i++)
        send_request(crowd, &crowd->clients[i]);
}

void bench_crowd_receive(bench_crowd *crowd, size_t answers)
{
    for (size_t done = 0; done < answers;) {
        struct epoll_event events[64];
        int count = epoll_wait(crowd->epoll, events, 64, -1);
        bench_check_errno(count > 0, "epoll_wait");
        for (int i = 0; i < count; i++) {
            client *c = events[i].data.ptr;
            int got = take(c->fd, c->answer, &c->used);
            bench_check_errno(got >= 0, "a connection to nginx");
            if (got == 0)
                continue;
            bench_check_errno(strncmp(c->answer, "HTTP/1.1 200 ", 13) == 0, c->answer);
            if (answers - done++ > crowd->count) /* the others will be done by those that are under way */
                send_request(crowd, c);
        }
    }
}

/* --------------------------------------------------------------------------------------------------------- servers */

static int listen_here(int *port)
{
    struct sockaddr_in address = local(0);
    socklen_t size = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bench_check_errno(fd >= 0 && bind(fd, (const struct sockaddr *)&address, sizeof address) == 0, "bind");
    bench_check_errno(listen(fd, BACKLOG) == 0, "listen");
    bench_check_errno(getsockname(fd, (struct sockaddr *)&address, &size) == 0, "getsockname");
    *port = ntohs(address.sin_port);
    return fd;
}

/* What the backend still owes: all take equally long, so the first asked is the first due. */
typedef struct owed {
    int fd;
    uint64_t due;
} owed;

static owed queue[BACKLOG];
static size_t first, last;

static void answer_due(void)
{
    static const char ANSWER_TEXT[] = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\ndone\n";
    for (; first != last && queue[first % BACKLOG].due <= bench_wall(); first++) {
        ssize_t sent = write(queue[first % BACKLOG].fd, ANSWER_TEXT, sizeof ANSWER_TEXT - 1);
        (void)sent; /* who has gone needs no answer */
    }
}

static void serve(int epoll, int listener, int fd, uint64_t duration)
{
    char request[ANSWER];
    struct epoll_event event = {.events = EPOLLIN};
    if (fd == listener) {
        event.data.fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        epoll_ctl(epoll, EPOLL_CTL_ADD, event.data.fd, &event);
    } else if (read(fd, request, sizeof request) <= 0) {
        close(fd);
    } else {
        queue[last++ % BACKLOG] = (owed){fd, bench_wall() + duration};
    }
}

static void run_backend(int listener, uint64_t duration)
{
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event events[64] = {{.events = EPOLLIN, .data.fd = listener}};
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, events);
    for (;;) {
        uint64_t now = bench_wall(), due = first != last ? queue[first % BACKLOG].due : now + AFLOCK_SECOND;
        struct timespec rest = {.tv_nsec = due > now ? (long)(due - now) % (long)AFLOCK_SECOND : 0};
        int count = epoll_pwait2(epoll, events, 64, &rest, NULL);
        for (int i = 0; i < count; i++)
            serve(epoll, listener, events[i].data.fd, duration);
        answer_due();
    }
}

bench_server bench_backend(uint64_t duration)
{
    bench_server backend;
    int listener = listen_here(&backend.port);
    backend.pid = fork();
    bench_check_errno(backend.pid >= 0, "fork");
    if (backend.pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        run_backend(listener, duration);
    }
    close(listener);
    return backend;
}

/* ----------------------------------------------------------------------------------------------------------- nginx */

static const char *const FOLDERS[] = {"client_body", "proxy", "fastcgi", "uwsgi", "scgi"};
static const char *const FILES[] = {"nginx.conf", "nginx.pid", "error.log", "small.html"};

static const char *nginx_file(const char *name)
{
    static char path[300];
    snprintf(path, sizeof path, "%s/%s", bench_directory, name);
    return path;
}

static void write_file(const char *name, const char *text)
{
    FILE *file = fopen(nginx_file(name), "we");
    bench_check_errno(file && fputs(text, file) >= 0 && fclose(file) == 0, name);
}

static void configure_nginx(const char *module, int port, int workers, const char *http)
{
    char text[8192];
    size_t length = (size_t)snprintf(
        text, sizeof text,
        "load_module %s;\n%sdaemon off; worker_processes %d; pid nginx.pid; error_log error.log warn;\n"
        "events { worker_connections 4096; }\nhttp {\naccess_log off; keepalive_requests 1000000000; sendfile on;\n",
        module, geteuid() == 0 ? "user root root;\n" : "", workers);
    for (size_t i = 0; i < sizeof FOLDERS / sizeof *FOLDERS; i++)
        length += (size_t)snprintf(text + length, sizeof text - length, "%s_temp_path %s;\n", FOLDERS[i], FOLDERS[i]);
    snprintf(text + length, sizeof text - length, http, port);
    write_file("nginx.conf", text);
    write_file("small.html", "<p>A small file.</p>\n");
}

/* It is born with its socket, as after an upgrade: no port has to be guessed. */
bench_server bench_nginx(const char *program, const char *module, int workers, const char *http)
{
    bench_server nginx;
    int listener = listen_here(&nginx.port);
    configure_nginx(module, nginx.port, workers, http);
    nginx.pid = fork();
    bench_check_errno(nginx.pid >= 0, "fork");
    if (nginx.pid == 0) {
        char inherited[16];
        prctl(PR_SET_PDEATHSIG, SIGTERM);
        fcntl(listener, F_SETFL, O_NONBLOCK); /* which nginx expects */
        snprintf(inherited, sizeof inherited, "%d;", dup(listener));
        setenv("NGINX", inherited, 1);
        execl(program, "nginx", "-p", bench_directory, "-c", "nginx.conf", "-e", "error.log", (char *)NULL);
        _exit(127);
    }
    close(listener);
    int fd = bench_connect(nginx.port);
    bench_check_errno(bench_ask(fd, "GET /health HTTP/1.1\r\nHost: bench\r\n\r\n"), nginx_file("error.log"));
    close(fd);
    return nginx;
}

/* A worker that crashed was replaced, and what was measured is worth nothing. */
static void read_error_log(void)
{
    char line[1024];
    FILE *log = fopen(nginx_file("error.log"), "re");
    bench_check_errno(log != NULL, "error.log");
    while (fgets(line, sizeof line, log)) {
        bool bad = strstr(line, "exited on signal") || strstr(line, "[alert]") || strstr(line, "[emerg]");
        errno = EPROTO;
        bench_check_errno(!bad, line);
    }
    fclose(log);
}

void bench_nginx_end(const bench_server *nginx)
{
    bench_stop(nginx->pid, SIGQUIT);
    read_error_log();
    for (size_t i = 0; i < sizeof FILES / sizeof *FILES; i++)
        unlink(nginx_file(FILES[i]));
    for (size_t i = 0; i < sizeof FOLDERS / sizeof *FOLDERS; i++)
        rmdir(nginx_file(FOLDERS[i]));
}
