/* The driver in an nginx worker, as a module: runs the cases in the worker's first timer, one after the other, and
 * writes a line about each into a file, which nginx_run reads. Where a case fails its worker ends; nginx starts another
 * one, which reads the file and goes on behind it.
 *
 * In the environment: CONFORMANCE_RESULTS (the file), CONFORMANCE_DIRECTORY (below it each case has one of its own),
 * CONFORMANCE_MANY, CONFORMANCE_NO_FORKS, CONFORMANCE_CASES (names, each between blanks; empty: all). */
#include <ngx_config.h>

#include <ngx_core.h>
#include <ngx_event.h>

#include "conformance.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { ENOUGH = 4, LINE = 1024 };

extern const conformance_host conformance_host_under_test;
static const conformance_host *const HOST = &conformance_host_under_test;

static int results = -1;
static char current[256]; /* case */

__attribute__((format(printf, 1, 2))) static void note(const char *format, ...)
{
    char line[LINE];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(line, sizeof line - 1, format, arguments);
    va_end(arguments);
    size_t size = length < LINE - 2 ? (size_t)length : LINE - 2;
    line[size++] = '\n';
    if (write(results, line, size) != (ssize_t)size)
        _exit(EXIT_FAILURE);
}

static void fail(const char *file, int line, const char *what)
{
    note("FAILED %s %s:%d: %s", current, file, line, what);
    _exit(EXIT_FAILURE);
}

static const char *setting(const char *name)
{
    const char *value = getenv(name);
    return value != NULL ? value : "";
}

static char *read_results(void)
{
    struct stat st;
    if (fstat(results, &st) != 0)
        _exit(EXIT_FAILURE);
    char *text = calloc(1, (size_t)st.st_size + 2);
    if (text == NULL || pread(results, text + 1, (size_t)st.st_size, 0) != st.st_size)
        _exit(EXIT_FAILURE);
    text[0] = '\n';
    return text;
}

/* Whether there is such a line about the case. */
static bool has_line(const char *text, const char *word, const char *name, char end)
{
    char line[LINE];
    snprintf(line, sizeof line, "\n%s %s%c", word, name, end);
    return strstr(text, line) != NULL;
}

/* What became of a case of an earlier worker; a failure without words is one that ended the process. */
static bool was_run(const char *text, const char *name, unsigned *failures)
{
    if (!has_line(text, "begin", name, '\n'))
        return false;
    if (has_line(text, "ok", name, '\n'))
        return true;
    if (!has_line(text, "FAILED", name, ' '))
        note("FAILED %s the worker ended", name);
    ++*failures;
    return true;
}

static bool is_wanted(const conformance_case *c)
{
    char name[LINE];
    const char *names = setting("CONFORMANCE_CASES");
    snprintf(name, sizeof name, " %s ", c->name);
    return conformance_gap_of(HOST, c) == NULL && (*names == '\0' || strstr(names, name) != NULL) &&
           !((c->needs & HOST_FORKS) != 0 && *setting("CONFORMANCE_NO_FORKS") != '\0');
}

/* Of the whole process: what nginx can still reach is none. */
extern int __lsan_do_recoverable_leak_check(void) __attribute__((weak));

static void run_case(const conformance_case *c)
{
    rig r;
    char directory[PATH_MAX];
    snprintf(current, sizeof current, "%s", c->name);
    snprintf(directory, sizeof directory, "%s/%s", setting("CONFORMANCE_DIRECTORY"), c->name);
    note("begin %s", c->name);
    require(mkdir(directory, 0777) == 0);
    rig_begin(&r, HOST, directory, (unsigned)strtoul(setting("CONFORMANCE_MANY"), NULL, 10));
    c->run(&r);
    rig_end(&r);
    if (__lsan_do_recoverable_leak_check != NULL)
        require(__lsan_do_recoverable_leak_check() == 0);
    note("ok %s", c->name);
}

static void run_suite(void)
{
    unsigned failures = 0, run, not_run;
    const conformance_case *c;
    char *before = read_results();
    bool is_right = conformance_review(HOST, &run, &not_run);
    fflush(stdout);
    if (!is_right)
        note("FAILED review the host's table of gaps is not right");
    for (unsigned i = 0; is_right && failures < ENOUGH && (c = conformance_case_at(i)) != NULL; i++)
        if (is_wanted(c) && !was_run(before, c->name, &failures))
            run_case(c);
    free(before);
    note("end");
}

static void on_start(ngx_event_t *event)
{
    (void)event;
    conformance_failed = fail;
    results = open(setting("CONFORMANCE_RESULTS"), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (results < 0)
        _exit(EXIT_FAILURE);
    signal(SIGCHLD, SIG_DFL); /* nginx would wait for the children of the cases */
    run_suite();
}

static ngx_int_t init_process(ngx_cycle_t *cycle)
{
    static ngx_connection_t nobody = {.fd = (ngx_socket_t)-1};
    static ngx_event_t start = {.data = &nobody, .handler = on_start};
    start.log = cycle->log;
    ngx_add_timer(&start, 1);
    return NGX_OK;
}

static ngx_core_module_t context = {.name = ngx_string("conformance")};

extern ngx_module_t ngx_conformance_module;
ngx_module_t ngx_conformance_module = {
    NGX_MODULE_V1, &context, NULL, NGX_CORE_MODULE,       NULL, NULL, init_process, NULL,
    NULL,          NULL,     NULL, NGX_MODULE_V1_PADDING,
};
