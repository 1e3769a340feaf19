#include "sim_trace.h"
#include "sim_clock.h"
#include "sim_host.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { KEPT = 512, SHOWN = 120, TEXT = 40 };

typedef struct sim_line {
    uint64_t at;
    unsigned process;
    const char *what;
    int64_t a, b;
    char text[TEXT];
} sim_line;

bool sim_trace_all;

static sim_line lines[KEPT];
static uint64_t noted, digest, seed_now;

void sim_trace_start(uint64_t seed)
{
    noted = 0;
    seed_now = seed;
    digest = UINT64_C(14695981039346656037);
}

static void mix(const void *bytes, size_t length)
{
    const unsigned char *b = bytes;
    for (size_t i = 0; i < length; i++)
        digest = (digest ^ b[i]) * UINT64_C(1099511628211);
}

static void mix_number(uint64_t number)
{
    digest = (digest ^ number) * UINT64_C(0x9E3779B97F4A7C15);
    digest ^= digest >> 29;
}

static void print_line(FILE *out, const sim_line *line)
{
    fprintf(out, "%5llu.%09llu ", (unsigned long long)(line->at / SIM_SECOND),
            (unsigned long long)(line->at % SIM_SECOND));
    if (line->process)
        fprintf(out, " p%-3u", line->process);
    else
        fprintf(out, " -   ");
    fprintf(out, "%-16s %8lld %8lld  %s\n", line->what, (long long)line->a, (long long)line->b, line->text);
}

void sim_note(const char *what, int64_t a, int64_t b, const char *text)
{
    sim_line *line = &lines[noted++ % KEPT];
    line->at = sim_now;
    line->process = sim_current() ? sim_current()->pid : 0;
    line->what = what;
    line->a = a;
    line->b = b;
    line->text[0] = '\0';
    if (text) {
        size_t length = strlen(text);
        const char *end = length < TEXT ? text : text + length - (TEXT - 1);
        memcpy(line->text, end, strlen(end) + 1);
        mix(end, strlen(end));
    }
    mix_number(line->at);
    mix_number(line->process);
    mix(what, strlen(what));
    mix_number((uint64_t)a);
    mix_number((uint64_t)b);
    if (sim_trace_all)
        print_line(stdout, line);
}

uint64_t sim_digest(void)
{
    return digest;
}

void sim_fail(const char *format, ...)
{
    va_list arguments;
    fflush(stdout);
    if (!sim_trace_all)
        for (uint64_t i = noted > SHOWN ? noted - SHOWN : 0; i < noted; i++)
            print_line(stderr, &lines[i % KEPT]);
    fprintf(stderr, "\nseed %llu, %llu.%09llu s, process %u: ", (unsigned long long)seed_now,
            (unsigned long long)(sim_now / SIM_SECOND), (unsigned long long)(sim_now % SIM_SECOND),
            sim_current() ? sim_current()->pid : 0);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fprintf(stderr, "\nagain: sim --seed %llu --trace\n", (unsigned long long)seed_now);
    _exit(1);
}
