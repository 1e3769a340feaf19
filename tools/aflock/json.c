/* Written by hand: valid whatever the bytes are. */
#include "json.h"

#include "message.h"
#include "options.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

/* The number of a control character. */
static unsigned control(const char *text)
{
    return (unsigned char)(*text == '\xc2' ? text[1] : *text);
}

void json_string(FILE *out, const char *text)
{
    putc('"', out);
    while (*text) {
        size_t length = utf8_length(text);

        if (length == 0)
            fputs("\\ufffd", out);
        else if (is_control(text))
            fprintf(out, "\\u%04x", control(text));
        else
            fprintf(out, "%s%.*s", *text == '"' || *text == '\\' ? "\\" : "", (int)length, text);
        text += length ? length : 1;
    }
    putc('"', out);
}

int json_print(void (*write)(FILE *out, const void *of), const void *of)
{
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);

    if (out)
        write(out, of);
    if (!out || fclose(out) != 0) {
        complain("cannot write: %s", strerror(errno));
        free(text);
        return EX_OSERR;
    }
    print(text);
    free(text);
    return GO_ON;
}
