/* The results: a table for people, JSON for programs. */
#include "bench.h"

#include <cjson/cJSON.h>

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_LINES = 128, MAX_CURVES = 32, PERCENTILES = 101 };

typedef struct skipped {
    const char *row;
    char why[160];
} skipped;

typedef struct curve {
    const char *row, *what, *unit;
    double percentile[PERCENTILES];
} curve;

static curve curves[MAX_CURVES];
static size_t curve_count;
static bench_line lines[MAX_LINES];
static skipped skips[MAX_LINES];
static size_t line_count, skip_count;

static const char *const VERDICTS[] = {[MET] = "met", [NOISE] = "noise", [MISSED] = "missed", [REPORTED] = "-"};

static double ratio_of(const bench_line *line)
{
    double ratios[MAX_BLOCKS];
    memcpy(ratios, line->ratio, sizeof ratios);
    return bench_median(ratios, line->blocks);
}

bench_verdict bench_judge(const bench_line *line)
{
    if (!line->judged)
        return REPORTED;
    if (line->at_least)
        return line->ours >= line->bar ? MET : MISSED;
    bool compared = line->against && !line->absolute;
    double value = compared ? ratio_of(line) : line->ours;
    double noise = line->absolute && !line->difference ? line->spread * line->theirs : line->spread;
    if (value <= line->bar)
        return MET;
    return value <= line->bar + noise ? NOISE : MISSED;
}

void bench_add(const bench_line *line)
{
    bench_check(line_count < MAX_LINES ? 0 : AFLOCK_EINVAL, "too many lines");
    lines[line_count++] = *line;
    fprintf(stderr, "  %s: %s\n", line->row, line->what);
}

void bench_curve(const char *row, const char *what, const char *unit, double *values, size_t count)
{
    bench_check(curve_count < MAX_CURVES && count > 0 ? 0 : AFLOCK_EINVAL, "too many curves");
    curve *c = &curves[curve_count++];
    c->row = row;
    c->what = what;
    c->unit = unit;
    bench_median(values, count); /* sorts */
    for (size_t i = 0; i < PERCENTILES; i++)
        c->percentile[i] = values[i * (count - 1) / (PERCENTILES - 1)];
}

void bench_skip(const char *row, const char *format, ...)
{
    if (skip_count == MAX_LINES)
        return;
    skipped *s = &skips[skip_count++];
    va_list arguments;
    s->row = row;
    va_start(arguments, format);
    vsnprintf(s->why, sizeof s->why, format, arguments);
    va_end(arguments);
}

/* --------------------------------------------------------------------------------------------------------- the table
 */

static void print_number(double value, const char *unit)
{
    char text[32];
    snprintf(text, sizeof text, value >= 1000 ? "%.0f %s" : value >= 10 ? "%.1f %s" : "%.2f %s", value, unit);
    printf(" %13s", text);
}

/* Figures of the whole run have no blocks that could be compared. */
static bool is_compared(const bench_line *line)
{
    return line->against && line->blocks > 0;
}

static void print_line(const bench_line *line)
{
    printf("%-58s", line->what);
    print_number(line->ours, line->unit);
    if (line->against)
        print_number(line->theirs, line->unit);
    else
        printf(" %13s", "");
    if (is_compared(line))
        printf(" %7.3f", ratio_of(line));
    else
        printf(" %7s", "");
    if (line->judged)
        printf(" %7.4g", line->bar);
    else
        printf(" %7s", "-");
    if (!is_compared(line))
        printf(" %7s", "");
    else if (line->difference)
        printf(" %7.3f", line->spread);
    else
        printf(" %6.1f%%", line->spread * 100);
    printf("  %s\n", VERDICTS[bench_judge(line)]);
}

bool bench_print(void)
{
    bool good = true;
    printf("\n%-58s %13s %13s %7s %7s %7s  %s\n", "what", "ours", "theirs", "ratio", "bar", "A/A", "");
    for (size_t i = 0; i < line_count; i++) {
        print_line(&lines[i]);
        good &= bench_judge(&lines[i]) != MISSED;
    }
    for (size_t i = 0; i < skip_count; i++)
        printf("skipped: %s: %s\n", skips[i].row, skips[i].why);
    return good;
}

/* ------------------------------------------------------------------------------------------------------------ JSON */

static void add_numbers(cJSON *to, const char *name, const double *values, size_t count)
{
    cJSON_AddItemToObject(to, name, cJSON_CreateDoubleArray(values, (int)count));
}

static void add_line(cJSON *rows, const bench_line *line)
{
    cJSON *row = cJSON_CreateObject();
    cJSON_AddStringToObject(row, "row", line->row);
    cJSON_AddStringToObject(row, "what", line->what);
    cJSON_AddStringToObject(row, "unit", line->unit);
    cJSON_AddNumberToObject(row, "ours", line->ours);
    if (line->against) {
        cJSON_AddStringToObject(row, "against", line->against);
        cJSON_AddNumberToObject(row, "theirs", line->theirs);
    }
    if (is_compared(line)) {
        cJSON_AddNumberToObject(row, line->difference ? "difference" : "ratio", ratio_of(line));
        cJSON_AddNumberToObject(row, "control_spread", line->spread);
        add_numbers(row, line->difference ? "block_differences" : "block_ratios", line->ratio, line->blocks);
        add_numbers(row, "block_controls", line->control, line->blocks);
    } else if (line->blocks) {
        add_numbers(row, "blocks", line->ratio, line->blocks);
    }
    if (line->judged) {
        cJSON_AddNumberToObject(row, "bar", line->bar);
        if (line->against && line->absolute)
            cJSON_AddBoolToObject(row, "bar_of_ours", true);
        if (line->at_least)
            cJSON_AddBoolToObject(row, "bar_at_least", true);
    }
    if (line->why)
        cJSON_AddStringToObject(row, "why", line->why);
    cJSON_AddStringToObject(row, "verdict", line->judged ? VERDICTS[bench_judge(line)] : "reported");
    cJSON_AddItemToArray(rows, row);
}

static void add_curves(cJSON *all)
{
    cJSON *array = cJSON_AddArrayToObject(all, "curves");
    for (size_t i = 0; i < curve_count; i++) {
        cJSON *one = cJSON_CreateObject();
        cJSON_AddStringToObject(one, "row", curves[i].row);
        cJSON_AddStringToObject(one, "what", curves[i].what);
        cJSON_AddStringToObject(one, "unit", curves[i].unit);
        add_numbers(one, "percentiles", curves[i].percentile, PERCENTILES);
        cJSON_AddItemToArray(array, one);
    }
}

static char *json_text(void)
{
    cJSON *all = cJSON_CreateObject();
    cJSON_AddStringToObject(all, "version", aflock_version());
    cJSON_AddBoolToObject(all, "quick", bench.quick);
    cJSON *rows = cJSON_AddArrayToObject(all, "rows");
    for (size_t i = 0; i < line_count; i++)
        add_line(rows, &lines[i]);
    add_curves(all);
    cJSON *not_run = cJSON_AddArrayToObject(all, "skipped");
    for (size_t i = 0; i < skip_count; i++) {
        cJSON *skip = cJSON_CreateObject();
        cJSON_AddStringToObject(skip, "row", skips[i].row);
        cJSON_AddStringToObject(skip, "why", skips[i].why);
        cJSON_AddItemToArray(not_run, skip);
    }
    char *text = cJSON_Print(all);
    cJSON_Delete(all);
    return text;
}

bool bench_write_json(const char *file)
{
    char *text = json_text();
    FILE *f = text ? fopen(file, "we") : NULL;
    bool good = f && fprintf(f, "%s\n", text) >= 0;
    if (f && fclose(f) != 0)
        good = false;
    if (!good)
        fprintf(stderr, "%s: %s\n", file, strerror(errno));
    cJSON_free(text);
    return good;
}
