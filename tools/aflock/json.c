/* Written by hand: valid whatever the bytes are. */
#include "json.h"

#include "message.h"

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
