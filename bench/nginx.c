/* file_lock, the module for nginx of examples/nginx: what it adds to a request that nobody is in the way of, what a
 * contended lock lets through, and what many who wait cost those who want something else. */
#include "bench.h"

#ifndef BENCH_NGINX

static void skip(const char *row)
{
    bench_skip(row, "built without nginx, its headers or the examples");
}

void row_nginx_static(void)
{
    skip("nginx-static");
}

void row_nginx_contended(void)
{
    skip("nginx-contended");
}

void row_nginx_health(void)
{
    skip("nginx-health");
}

#else

#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define GET(path) "GET " path " HTTP/1.1\r\nHost: bench\r\n\r\n"

static bench_server start(int workers, const char *http)
{
    return bench_nginx(BENCH_NGINX, BENCH_NGINX_MODULE, workers, http);
}

/* -------------------------------------------------------------------------------------------- a small static file */

/* A block has as many requests of each side, and a raw cycle for ten of them. Slices are short, so that both sides meet
 * the same noise. */
enum { STATIC_BLOCKS = 20, STATIC_REQUESTS = 20000, SLICE = 500, SIDES = 3 };

/* us of so many requests, one after the other. */
static void take_requests(int fd, const char *request, double *took, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        uint64_t begin = bench_wall();
        bench_check_errno(bench_ask(fd, request), request);
        took[i] = (double)(bench_wall() - begin) / 1e3;
    }
}

/* The raw calls are on a file of their own: nginx gives its lock back after the answer. */
static void take_raw(double *took, size_t count)
{
    const char *path = bench_file(1);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    bench_check_errno(fd >= 0, path);
    close(fd);
    for (size_t i = 0; i < count; i++) {
        uint64_t begin = bench_wall();
        bench_raw_cycle(path);
        took[i] = (double)(bench_wall() - begin) / 1e3;
    }
}

/* p50 of each side, and of the raw calls. */
static void take_block(int fd, size_t requests, double p50[SIDES + 1])
{
    static const char *const REQUESTS[SIDES] = {GET("/locked/small.html"), GET("/small.html"), GET("/small.html")};
    static double took[SIDES][STATIC_REQUESTS], raw[STATIC_REQUESTS / 10];
    for (size_t done = 0; done < requests; done += SLICE) {
        for (size_t i = 0; i < SIDES; i++) {
            size_t side = (done / SLICE + i) % SIDES;
            take_requests(fd, REQUESTS[side], took[side] + done, SLICE);
        }
        take_raw(raw + done / 10, SLICE / 10);
    }
    for (size_t side = 0; side < SIDES; side++)
        p50[side] = bench_median(took[side], requests);
    p50[SIDES] = bench_median(raw, requests / 10);
}

static void measure_static(bench_line *line, int fd)
{
    double added[STATIC_BLOCKS], raw[STATIC_BLOCKS];
    line->blocks = bench.quick ? 5 : STATIC_BLOCKS;
    for (size_t b = 0; b < line->blocks; b++) {
        double p50[SIDES + 1];
        take_block(fd, bench.quick ? STATIC_REQUESTS / 20 : STATIC_REQUESTS, p50);
        added[b] = p50[0] - p50[1];
        raw[b] = p50[SIDES];
        line->ratio[b] = added[b] / raw[b];
        line->control[b] = 1 + (p50[2] - p50[1]) / raw[b];
        line->spread = fmax(line->spread, fabs(line->control[b] - 1));
    }
    line->ours = bench_median(added, line->blocks);
    line->theirs = bench_median(raw, line->blocks);
}

void row_nginx_static(void)
{
    char http[1024];
    snprintf(http, sizeof http,
             "server {\nlisten 127.0.0.1:%%d; root %s;\nlocation = /health { return 200 fine; }\n"
             "location /locked/ { file_lock %s; alias %s/; }\n}\n}\n",
             bench_directory, bench_file(0), bench_directory);
    bench_server nginx = start(1, http);
    int fd = bench_connect(nginx.port);
    bench_check_errno(bench_ask(fd, GET("/locked/small.html")), "the first request"); /* creates the lock file */
    bench_line line = {.row = "nginx-static",
                       .what = "nginx: file_lock adds to a small file, one connection, p50",
                       .against = "open flock fstat stat unlock close",
                       .unit = "us",
                       .bar = 3,
                       .judged = true};
    measure_static(&line, fd);
    bench_add(&line);
    close(fd);
    bench_nginx_end(&nginx);
}

/* ------------------------------------------------------------------------------------------------------ contention */

enum { CONNECTIONS = 50, CONTENDED_REQUESTS = 250 };

typedef struct contention {
    bench_crowd *many; /* through the lock */
    bench_crowd *one;  /* past it */
} contention;

/* us for one request. */
static double ask_many(bench_crowd *crowd, size_t count)
{
    uint64_t begin = bench_wall();
    bench_crowd_send(crowd);
    bench_crowd_receive(crowd, count);
    return (double)(bench_wall() - begin) / 1e3 / (double)count;
}

static double contended_slice(void *state)
{
    return ask_many(((contention *)state)->many, CONTENDED_REQUESTS);
}

static double serial_slice(void *state)
{
    return ask_many(((contention *)state)->one, CONTENDED_REQUESTS / 2);
}

static void contend(int workers, const bench_server *backend)
{
    char http[1024];
    snprintf(http, sizeof http,
             "upstream backend { server 127.0.0.1:%d; keepalive 64; keepalive_requests 1000000000; }\n"
             "server {\nlisten 127.0.0.1:%%d;\nproxy_http_version 1.1; proxy_set_header Connection \"\";\n"
             "location = /health { return 200 fine; }\n"
             "location = /locked { file_lock %s; proxy_pass http://backend/; }\n"
             "location = /serial { proxy_pass http://backend/; }\n}\n}\n",
             backend->port, bench_file(0));
    bench_server nginx = start(workers, http);
    contention state = {bench_crowd_open(nginx.port, CONNECTIONS, GET("/locked")),
                        bench_crowd_open(nginx.port, 1, GET("/serial"))};
    bench_line line = {.row = "nginx-contended",
                       .what = workers == 1 ? "nginx, 1 worker: 50 connections through one lock"
                                            : "nginx, 2 workers: 50 connections through one lock",
                       .against = "one connection, no lock; a backend of 2 ms",
                       .unit = "us",
                       .bar = 1.25,
                       .judged = true};
    bench_settings usual = bench;
    bench.slices = bench.quick ? 1 : 3;
    bench_compare(&line, contended_slice, serial_slice, &state);
    bench = usual;
    bench_crowd_close(state.many);
    bench_crowd_close(state.one);
    bench_nginx_end(&nginx);
}

void row_nginx_contended(void)
{
    bench_server backend = bench_backend(2 * AFLOCK_MILLISECOND);
    contend(2, &backend);
    contend(1, &backend);
    bench_stop(backend.pid, SIGKILL);
}

/* ---------------------------------------------------------------------------------------------------------- health */

enum { WAITING = 1000, QUESTIONS = 1000 };

typedef struct health {
    int port;
    bench_crowd *crowd;
} health;

static void rest(long microseconds)
{
    struct timespec time = {.tv_nsec = microseconds * 1000};
    nanosleep(&time, NULL);
}

/* ms, of a connection that is as new as the crowd's question: it may be any worker's. */
static double p99_of_health(int port)
{
    static double took[QUESTIONS];
    int fd = bench_connect(port);
    for (int i = 0; i < QUESTIONS; i++) {
        uint64_t begin = bench_wall();
        bench_check_errno(bench_ask(fd, GET("/health")), "/health");
        took[i] = (double)(bench_wall() - begin) / 1e6;
        rest(500);
    }
    close(fd);
    bench_median(took, QUESTIONS); /* sorts */
    return took[QUESTIONS * 99 / 100];
}

/* How many requests nginx has under way, this one among them. */
static int under_way(int port)
{
    char answer[1024] = "";
    int fd = bench_connect(port);
    static const char REQUEST[] = "GET /status HTTP/1.0\r\n\r\n";
    bench_check_errno(write(fd, REQUEST, sizeof REQUEST - 1) == (ssize_t)sizeof REQUEST - 1, "write");
    for (size_t used = 0;;) {
        ssize_t got = read(fd, answer + used, sizeof answer - 1 - used);
        if (got <= 0)
            break;
        used += (size_t)got;
    }
    close(fd);
    const char *writing = strstr(answer, "Writing: ");
    return writing ? (int)strtol(writing + 9, NULL, 10) : 0;
}

static double with_many_waiting(void *state)
{
    const health *h = state;
    int holder = bench_hold_file();
    bench_crowd_send(h->crowd);
    while (under_way(h->port) < WAITING + 1)
        rest(1000);
    double result = p99_of_health(h->port);
    close(holder);
    bench_crowd_receive(h->crowd, WAITING);
    return result;
}

static double with_none_waiting(void *state)
{
    return p99_of_health(((const health *)state)->port);
}

void row_nginx_health(void)
{
    char http[1024];
    snprintf(http, sizeof http,
             "server {\nlisten 127.0.0.1:%%d backlog=1024;\nlocation = /health { return 200 fine; }\n"
             "location = /status { stub_status; }\n"
             "location = /wait { file_lock %s timeout=1000s; alias %s/small.html; }\n}\n}\n",
             bench_file(0), bench_directory);
    bench_server nginx = start(2, http);
    health state = {nginx.port, bench_crowd_open(nginx.port, WAITING, GET("/wait"))};
    bench_line line = {.row = "nginx-health",
                       .what = "nginx: /health while 1,000 requests wait for a lock, p99",
                       .against = "none waits",
                       .unit = "ms",
                       .bar = 2,
                       .judged = true,
                       .difference = true};
    bench_settings usual = bench;
    bench.slices = bench.quick ? 1 : 3;
    bench_compare(&line, with_many_waiting, with_none_waiting, &state);
    bench = usual;
    bench_crowd_close(state.crowd);
    bench_nginx_end(&nginx);
}

#endif
