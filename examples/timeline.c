/* Draws a time line as SVG: a row for each process, thin bars for waits, thick ones for holds, an axis in milliseconds.
 *
 * The picture carries its own background and colours for light and for dark surroundings, so that it can be read in any
 * viewer. Every bar has a tool tip with its times.
 */
#include "timeline.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>

enum {
    WIDTH = 1000,
    LEFT = 148, /* of the bars: names of the rows stand before it */
    RIGHT = 972,
    TOP = 118, /* of the first row */
    ROW = 46,
    HOLD_HEIGHT = 18,
    WAIT_HEIGHT = 4,
    DIGIT = 6 /* width of a digit of a small label */
};

/* What the picture shows: ns from `start` to `end`, which is a multiple of the distance between two grid lines. */
struct scale {
    uint64_t start;
    uint64_t length;
    uint64_t step;
};

static const char style[] =
    "<style>\n"
    "  svg { font-family: system-ui, 'Segoe UI', 'DejaVu Sans', Helvetica, Arial, sans-serif; }\n"
    "  .back { fill: #ffffff; stroke: #d8dee6; }\n"
    "  .title { fill: #16202c; font-size: 18px; font-weight: 600; }\n"
    "  .text { fill: #16202c; font-size: 13px; }\n"
    "  .small { fill: #586574; font-size: 12px; }\n"
    "  .value { fill: #586574; font-size: 10px; text-anchor: middle; }\n"
    "  .lane { fill: #f4f6f9; }\n"
    "  .grid { stroke: #dfe4ea; stroke-width: 1; }\n"
    "  .wait { fill: #e8962e; }\n"
    "  .hold { fill: #2467c9; }\n"
    "  .bare { fill: #d13b3b; fill-opacity: .75; }\n"
    "  @media (prefers-color-scheme: dark) {\n"
    "    .back { fill: #12171e; stroke: #303a46; }\n"
    "    .title, .text { fill: #e8edf3; }\n"
    "    .small, .value { fill: #9aa7b6; }\n"
    "    .lane { fill: #1a212a; }\n"
    "    .grid { stroke: #2c3541; }\n"
    "    .wait { fill: #f0a94e; }\n"
    "    .hold { fill: #5a9bf6; }\n"
    "    .bare { fill: #f06a6a; }\n"
    "  }\n"
    "</style>\n";

static double to_ms(uint64_t ns)
{
    return (double)ns / 1e6;
}

static double x_of(const struct scale *scale, uint64_t time)
{
    return LEFT + (RIGHT - LEFT) * (double)(time - scale->start) / (double)scale->length;
}

/* The smallest of 1, 2, 5, 10, 20, ... times 100 us that gives at most ten steps. */
static uint64_t step_for(uint64_t length)
{
    static const uint64_t factors[] = {2, 5, 10};
    uint64_t decade = 100000, step = decade;
    for (int i = 0; step * 10 < length; i++) {
        step = decade * factors[i % 3];
        if (i % 3 == 2)
            decade = step;
    }
    return step;
}

static struct scale scale_of(const struct timeline *timeline)
{
    int count = timeline->rows * timeline->spans_per_row;
    uint64_t first = UINT64_MAX, last = 0;
    for (int i = 0; i < count; i++) {
        const struct timeline_span *span = &timeline->spans[i];
        first = span->asked < first ? span->asked : first;
        last = span->released > last ? span->released : last;
    }
    uint64_t step = step_for(last - first);
    uint64_t steps = (last - first) / step + 1;
    return (struct scale){.start = first, .length = steps * step, .step = step};
}

static int bottom_of(const struct timeline *timeline)
{
    return TOP + timeline->rows * ROW;
}

static void draw_head(FILE *out, const struct timeline *timeline)
{
    int height = bottom_of(timeline) + 58;
    fprintf(out,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" viewBox=\"0 0 %d %d\" role=\"img\""
            " aria-labelledby=\"title subtitle\">\n"
            "<title id=\"title\">%s</title>\n<desc id=\"subtitle\">%s</desc>\n",
            WIDTH, height, WIDTH, height, timeline->title, timeline->subtitle);
    fputs(style, out);
    fprintf(out,
            "<rect class=\"back\" x=\"0.5\" y=\"0.5\" width=\"%d\" height=\"%d\" rx=\"8\"/>\n"
            "<text class=\"title\" x=\"28\" y=\"36\">%s</text>\n"
            "<text class=\"small\" x=\"28\" y=\"58\">%s</text>\n",
            WIDTH - 1, height - 1, timeline->title, timeline->subtitle);
}

static void draw_legend(FILE *out, const struct timeline *timeline)
{
    if (!timeline->locked) {
        fprintf(out, "<rect class=\"bare\" x=\"28\" y=\"76\" width=\"24\" height=\"14\" rx=\"2\"/>\n"
                     "<text class=\"text\" x=\"60\" y=\"88\">from read to write, without the lock</text>\n");
        return;
    }
    fprintf(out,
            "<rect class=\"wait\" x=\"28\" y=\"81\" width=\"24\" height=\"%d\" rx=\"2\"/>\n"
            "<text class=\"text\" x=\"60\" y=\"88\">waits for the lock</text>\n"
            "<rect class=\"hold\" x=\"208\" y=\"76\" width=\"24\" height=\"14\" rx=\"2\"/>\n"
            "<text class=\"text\" x=\"240\" y=\"88\">holds it; above: the number it writes</text>\n",
            WAIT_HEIGHT);
}

static void draw_axis(FILE *out, const struct timeline *timeline, const struct scale *scale)
{
    int bottom = bottom_of(timeline);
    for (uint64_t at = 0; at <= scale->length; at += scale->step) {
        double x = x_of(scale, scale->start + at);
        fprintf(out,
                "<line class=\"grid\" x1=\"%.1f\" y1=\"%d\" x2=\"%.1f\" y2=\"%d\"/>\n"
                "<text class=\"small\" x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%g</text>\n",
                x, TOP, x, bottom + 5, x, bottom + 21, to_ms(at));
    }
    fprintf(out,
            "<text class=\"small\" x=\"%d\" y=\"%d\" text-anchor=\"middle\">milliseconds since the first request"
            "</text>\n",
            (LEFT + RIGHT) / 2, bottom + 42);
}

/* A bar of at least one pixel with a tool tip that says what it is. */
static void draw_bar(FILE *out, const struct scale *scale, const char *kind, int row, uint64_t from, uint64_t to,
                     int height)
{
    double x = x_of(scale, from), width = x_of(scale, to) - x;
    double y = TOP + row * ROW + (ROW - height) / 2.0 + 4;
    fprintf(out, "<rect class=\"%s\" x=\"%.2f\" y=\"%.1f\" width=\"%.2f\" height=\"%d\" rx=\"1.5\">", kind, x, y,
            width < 1 ? 1 : width, height);
    fprintf(out, "<title>process %d, %s: %.2f ms, from %.2f to %.2f ms</title></rect>\n", row + 1,
            kind[0] == 'w' ? "waits" : (kind[0] == 'h' ? "holds" : "without the lock"), to_ms(to - from),
            to_ms(from - scale->start), to_ms(to - scale->start));
}

static void draw_value(FILE *out, const struct scale *scale, int row, const struct timeline_span *span)
{
    char text[16];
    int digits = snprintf(text, sizeof text, "%d", span->value);
    double from = x_of(scale, span->granted), to = x_of(scale, span->released);
    if (to - from >= digits * DIGIT)
        fprintf(out, "<text class=\"value\" x=\"%.2f\" y=\"%d\">%s</text>\n", (from + to) / 2, TOP + row * ROW + 14,
                text);
}

static void draw_row(FILE *out, const struct timeline *timeline, const struct scale *scale, int row)
{
    const struct timeline_span *spans = timeline->spans + (ptrdiff_t)row * timeline->spans_per_row;
    for (int i = 0; i < timeline->spans_per_row; i++) {
        if (timeline->locked)
            draw_bar(out, scale, "wait", row, spans[i].asked, spans[i].granted, WAIT_HEIGHT);
        draw_bar(out, scale, timeline->locked ? "hold" : "bare", row, spans[i].granted, spans[i].released, HOLD_HEIGHT);
        draw_value(out, scale, row, &spans[i]);
    }
}

static void draw_lane(FILE *out, const struct timeline *timeline, int row)
{
    int y = TOP + row * ROW;
    fprintf(out,
            "<rect class=\"lane\" x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" rx=\"3\"/>\n"
            "<text class=\"text\" x=\"28\" y=\"%d\">process %d</text>\n"
            "<text class=\"small\" x=\"28\" y=\"%d\">pid %jd</text>\n",
            LEFT, y + 2, RIGHT - LEFT, ROW - 4, y + 22, row + 1, y + 37, (intmax_t)timeline->pids[row]);
}

static void draw(FILE *out, const struct timeline *timeline)
{
    struct scale scale = scale_of(timeline);
    draw_head(out, timeline);
    draw_legend(out, timeline);
    for (int row = 0; row < timeline->rows; row++)
        draw_lane(out, timeline, row);
    draw_axis(out, timeline, &scale);
    for (int row = 0; row < timeline->rows; row++)
        draw_row(out, timeline, &scale, row);
    fputs("</svg>\n", out);
}

int timeline_write(const char *path, const struct timeline *timeline)
{
    FILE *out = fopen(path, "we");
    if (out == NULL)
        return -1;
    draw(out, timeline);
    int failed = ferror(out) ? EIO : 0;
    if (fclose(out) != 0 && failed == 0)
        failed = errno;
    errno = failed;
    return failed == 0 ? 0 : -1;
}
