/* A module that does in every process of nginx what a test tells that process to: it reads a file of commands, a line
 * each, and answers in the error log, "probe: ...". tests/nginx/adapter drives it.
 *
 * In the environment: PROBE_FOLDER, with the files of commands (commands.PID) and the locks. */
#include <ngx_config.h>

#include <ngx_core.h>
#include <ngx_event.h>
#include <ngx_thread_pool.h>

#include <aflock/host.h>
#include <aflock/nginx.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LINE = 256, LOCKS = 16, TICK_MS = 2 };

static struct held {
    char name[32];
    aflock *lock;
    aflock_req req;
} locks[LOCKS];

static aflock_ctx *ctx;
static FILE *commands;
static char folder[512];
static ngx_uint_t version; /* of nginx, while it is changed */
static ngx_connection_t *taken[4096];
static unsigned taken_count;
static int freed_by_timer; /* the next one */

#define say(...) ngx_log_error(NGX_LOG_NOTICE, ngx_cycle->log, 0, "probe: " __VA_ARGS__)

static ngx_cycle_t *the_cycle(void)
{
    return (ngx_cycle_t *)ngx_cycle;
}

/* --------------------------------------------------------------------------------------------------- the commands */

static void on_log(aflock_log_level level, const char *message, void *user)
{
    (void)user;
    say("heard %d %s", (int)level, message);
}

/* [threads] [hook] [both]: on nginx's threads, with a log hook of its own, with an executor besides */
static void make(const char *arguments)
{
    ngx_str_t name = ngx_string("locks");
    aflock_nginx_options options;
    aflock_ctx_options ctx_options;
    aflock_executor nobody = {.size = sizeof nobody};
    aflock_nginx_options_init(&options);
    aflock_ctx_options_init(&ctx_options);
    options.ctx = &ctx_options;
    if (strstr(arguments, "threads") != NULL)
        options.thread_pool = ngx_thread_pool_get(the_cycle(), &name);
    if (strstr(arguments, "both") != NULL)
        options.executor = &nobody;
    if (strstr(arguments, "hook") != NULL)
        ctx_options.log = on_log;
    say("new %d", aflock_nginx_new(&ctx, the_cycle(), &options));
}

static void path_of(char path[1024], const char *name)
{
    snprintf(path, 1024, "%s/%s", folder, name);
}

/* Hangs on its thread until there is a file "gate". */
static int hang(int fd, void *user)
{
    char path[1024];
    (void)fd;
    (void)user;
    path_of(path, "met");
    FILE *met = fopen(path, "we");
    if (met != NULL)
        fclose(met);
    path_of(path, "gate");
    while (access(path, F_OK) != 0)
        usleep(1000);
    return 0;
}

static struct held *find(const char *name)
{
    for (unsigned i = 0; i < LOCKS; i++)
        if (strcmp(locks[i].name, name) == 0)
            return &locks[i];
    return NULL;
}

static void on_lock(aflock *lock, const aflock_result *result, void *user)
{
    (void)lock;
    say("answered %s %d", ((struct held *)user)->name, result->status);
}

/* NAME [hang] [park] [lifetime]: always on the executor; the last one is a soft lock with a lifetime, which warns. */
static void acquire(const char *arguments)
{
    char name[32], path[1024];
    aflock_options options;
    aflock_acquire_options o;
    struct held *held = find("");
    if (held == NULL || sscanf(arguments, "%31s", name) != 1)
        return;
    aflock_options_init(&options);
    options.io = AFLOCK_IO_POOL;
    if (strstr(arguments, "park") != NULL)
        options.wait = AFLOCK_WAIT_PARK;
    if (strstr(arguments, "lifetime") != NULL) {
        options.protocol = AFLOCK_SOFT;
        options.lifetime = 60 * AFLOCK_SECOND;
    }
    aflock_acquire_options_init(&o);
    if (strstr(arguments, "hang") != NULL)
        o.on_acquired = hang;
    path_of(path, name);
    memcpy(held->name, name, sizeof name);
    int status = aflock_open(&held->lock, ctx, path, &options);
    if (status == 0)
        status = aflock_acquire(held->lock, &o, on_lock, held, &held->req);
    say("acquire %s %d", name, status);
}

static void on_released(aflock *lock, const aflock_result *result, void *user)
{
    (void)lock;
    say("released %s %d", ((struct held *)user)->name, result->status);
}

static void release(const char *name)
{
    struct held *held = find(name);
    if (held == NULL || aflock_release(held->lock, held->req, on_released, held) != 0)
        say("not released %s", name);
}

static unsigned left; /* cycles of `cycle` */

static void on_cycle(aflock *lock, const aflock_result *result, void *user)
{
    (void)user;
    if (result->status == 0)
        aflock_release(lock, result->req, NULL, NULL);
    if (left-- > 0) {
        aflock_acquire(lock, NULL, on_cycle, NULL, NULL);
        return;
    }
    say("heap %uz", (size_t)mallinfo2().uordblks);
}

/* NUMBER NAME: acquires and releases a lock of `acquire` so often, then says how much memory is in use. */
static void cycle(const char *arguments)
{
    char name[32];
    if (sscanf(arguments, "%u %31s", &left, name) == 2 && find(name) != NULL)
        aflock_acquire(find(name)->lock, NULL, on_cycle, NULL, NULL);
}

static void end(const char *nothing)
{
    (void)nothing;
    if (ctx != NULL)
        say("freed %d", aflock_ctx_free(ctx, AFLOCK_SECOND));
    ctx = NULL;
    memset(locks, 0, sizeof locks);
}

static void forget(const char *nothing)
{
    (void)nothing;
    ctx = NULL;
    say("forgotten");
}

/* The whole process, until the gate is open. */
static void stop(const char *nothing)
{
    (void)nothing;
    hang(-1, NULL);
}

/* The context is freed by a timer in the round in which its descriptor is ready, as a job is done meanwhile. With
 * nginx's accept mutex events wait until timers are done. */
static void race(const char *nothing)
{
    (void)nothing;
    freed_by_timer = 1;
    usleep(3 * TICK_MS * 1000);
}

/* All connections of this process. */
static void exhaust(const char *nothing)
{
    (void)nothing;
    while (ngx_cycle->free_connection_n > 0 && taken_count < sizeof taken / sizeof *taken)
        taken[taken_count++] = ngx_get_connection(0, ngx_cycle->log);
    say("exhausted");
}

/* [NUMBER]: gives so many back, or all */
static void relax(const char *arguments)
{
    unsigned number = *arguments != '\0' ? (unsigned)strtoul(arguments, NULL, 10) : taken_count;
    while (taken_count > 0 && number-- > 0) {
        ngx_connection_t *c = taken[--taken_count];
        ngx_free_connection(c);
        c->fd = (ngx_socket_t)-1;
    }
    say("relaxed %ui of %ui", ngx_cycle->free_connection_n, ngx_cycle->connection_n);
}

static void count_descriptors(const char *nothing)
{
    unsigned count = 0;
    (void)nothing;
    for (int fd = 0; fd < 1024; fd++)
        count += fcntl(fd, F_GETFD) >= 0;
    say("descriptors %ui", (ngx_uint_t)count);
}

/* As if another nginx had loaded the library; the second time it is the right one again. */
static void change_nginx(const char *nothing)
{
    ngx_uint_t other = version != 0 ? version : ngx_cycle->modules[0]->version + 1;
    (void)nothing;
    version = ngx_cycle->modules[0]->version;
    ngx_cycle->modules[0]->version = other;
    say("nginx %ui", other);
}

static const struct {
    const char *name;
    void (*run)(const char *arguments);
} COMMANDS[] = {
    {"stop", stop},
    {"cycle", cycle},
    {"new", make},
    {"acquire", acquire},
    {"release", release},
    {"free", end},
    {"forget", forget},
    {"race", race},
    {"exhaust", exhaust},
    {"relax", relax},
    {"descriptors", count_descriptors},
    {"nginx", change_nginx},
};

/* ------------------------------------------------------------------------------------------------------ the module */

static void run_line(char *line)
{
    line[strcspn(line, "\n")] = '\0';
    char *arguments = line + strcspn(line, " ");
    if (*arguments != '\0')
        *arguments++ = '\0';
    for (unsigned i = 0; i < sizeof COMMANDS / sizeof *COMMANDS; i++)
        if (strcmp(line, COMMANDS[i].name) == 0)
            COMMANDS[i].run(arguments);
}

static void on_tick(ngx_event_t *event)
{
    char line[LINE];
    ngx_add_timer(event, TICK_MS);
    if (freed_by_timer)
        end("");
    freed_by_timer = 0;
    clearerr(commands);
    while (!freed_by_timer && fgets(line, sizeof line, commands) != NULL)
        run_line(line);
}

static ngx_int_t init_module(ngx_cycle_t *cycle)
{
    if (getenv("PROBE_MASTER") != NULL)
        ngx_log_error(NGX_LOG_NOTICE, cycle->log, 0, "probe: master %d", aflock_nginx_new(&ctx, cycle, NULL));
    return NGX_OK;
}

static ngx_int_t init_process(ngx_cycle_t *cycle)
{
    static ngx_connection_t nobody = {.fd = (ngx_socket_t)-1};
    static ngx_event_t tick = {.data = &nobody, .handler = on_tick, .cancelable = 1};
    char path[1024], name[64];
    snprintf(folder, sizeof folder, "%s", getenv("PROBE_FOLDER"));
    snprintf(name, sizeof name, "commands.%d", (int)getpid());
    path_of(path, name);
    commands = fopen(path, "a+e");
    if (commands == NULL)
        return NGX_ERROR;
    tick.log = cycle->log;
    ngx_add_timer(&tick, TICK_MS);
    say("ready %d", (int)ngx_process);
    return NGX_OK;
}

extern int __lsan_do_recoverable_leak_check(void) __attribute__((weak));

static void exit_process(ngx_cycle_t *cycle)
{
    (void)cycle;
    end("");
    fclose(commands);
    if (__lsan_do_recoverable_leak_check != NULL && __lsan_do_recoverable_leak_check() != 0)
        say("leaks");
}

static ngx_core_module_t context = {.name = ngx_string("probe")};

extern ngx_module_t ngx_probe_module;
ngx_module_t ngx_probe_module = {
    NGX_MODULE_V1, &context, NULL, NGX_CORE_MODULE, NULL, init_module,
    init_process,  NULL,     NULL, exit_process,    NULL, NGX_MODULE_V1_PADDING,
};
