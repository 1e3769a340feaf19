/* The markers of soft readers and writers: what is one, and what is none, as the peer reads them. */
#include "locks/rwmark.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TOKEN "0123456789abcdef0123456789abcdef"
#define GOOD TOKEN "\n4711\nhost.example\n"

static bool parse(const char *text, size_t size)
{
    afl_rwmark mark;
    char *exact = malloc(size ? size : 1); /* which ends where it ends */
    ck_assert_ptr_nonnull(exact);
    if (size)
        memcpy(exact, text, size);
    const bool good = afl_rwmark_parse(exact, size, &mark);
    free(exact);
    return good;
}

START_TEST(what_is_one)
{
    static const char *const texts[] = {
        GOOD, TOKEN "\n1\nh", TOKEN "\n1\nh\n\n\n\n", TOKEN "\n2147483647\n!~\n", TOKEN "\n9\n#\n", TOKEN "\n10\n-\n",
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        ck_assert_msg(parse(texts[i], strlen(texts[i])), "%s", texts[i]);
}
END_TEST

START_TEST(what_is_none)
{
    static const char *const texts[] = {
        "",
        "\n",
        TOKEN,
        TOKEN "\n",
        TOKEN "\n1",
        TOKEN "\n1\n",
        TOKEN "\n1\n\nh\n",
        TOKEN "\n\nh\n",
        TOKEN "\n0\nh\n",
        TOKEN "\n01\nh\n",
        TOKEN "\n+1\nh\n",
        TOKEN "\n-1\nh\n",
        TOKEN "\n 1\nh\n",
        TOKEN "\n1 \nh\n",
        TOKEN "\n1_0\nh\n",
        TOKEN "\n2147483648\nh\n",
        TOKEN "\n4294967297\nh\n",
        TOKEN "\n10000000000\nh\n",
        TOKEN "\n1\nh h\n",
        TOKEN "\n1\n h\n",
        TOKEN "\n1\nh\t\n",
        TOKEN "\n1\nh\x7f\n",
        TOKEN "\n1\nh\xc3\xa4\n",
        TOKEN "\n1\nh\nmore\n",
        TOKEN "\n1\nh\n ",
        TOKEN "\r\n1\r\nh\r\n",
        TOKEN "\n1\nh\r\n",
        "\n" GOOD,
        " " GOOD,
        "0123456789ABCDEF0123456789ABCDEF\n1\nh\n",
        "0123456789abcdef0123456789abcde\n1\nh\n",
        "0123456789abcdef0123456789abcdef0\n1\nh\n",
        "0123456789abcdef0123456789abcdeg\n1\nh\n",
        "\xef\xbb\xbf" GOOD,
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        ck_assert_msg(!parse(texts[i], strlen(texts[i])), "%s", texts[i]);
    ck_assert(!parse(TOKEN "\n1\nh\0\n", sizeof TOKEN "\n1\nh\0\n" - 1));
}
END_TEST

/* Without its end it is a marker of a shorter host, or of none. */
START_TEST(cut_off_at_each_byte)
{
    const size_t host = sizeof TOKEN "\n4711\n" - 1;
    for (size_t size = 0; size < sizeof GOOD - 1; size++)
        ck_assert_int_eq(parse(GOOD, size), size > host);
}
END_TEST

START_TEST(long_ones)
{
    char text[2048];
    for (int length = 252; length <= 255; length++) {
        char host[256];
        memset(host, 'h', sizeof host);
        snprintf(text, sizeof text, TOKEN "\n1\n%.*s\n", length, host);
        ck_assert_int_eq(parse(text, strlen(text)), length <= 253);
    }
    memset(text, '\n', sizeof text);
    memcpy(text, GOOD, sizeof GOOD - 1);
    ck_assert(parse(text, AFL_RWMARK_SIZE));
    ck_assert(!parse(text, AFL_RWMARK_SIZE + 1));
}
END_TEST

START_TEST(what_is_written)
{
    char text[AFL_RWMARK_SIZE];
    afl_rwmark mark = {.token = TOKEN, .pid = 4711, .host = "host.example"};
    ck_assert_uint_eq(afl_rwmark_print(&mark, text, sizeof text), sizeof GOOD - 1);
    ck_assert_mem_eq(text, GOOD, sizeof GOOD - 1);
    ck_assert_uint_eq(afl_rwmark_print(&mark, text, sizeof GOOD - 2), 0);
    strcpy(mark.host, "a b");
    ck_assert_uint_eq(afl_rwmark_print(&mark, text, sizeof text), 0);
    strcpy(mark.host, "");
    ck_assert_uint_eq(afl_rwmark_print(&mark, text, sizeof text), 0);
    strcpy(mark.host, "h");
    mark.pid = 0;
    ck_assert_uint_eq(afl_rwmark_print(&mark, text, sizeof text), 0);
}
END_TEST

START_TEST(names)
{
    static const char *const counting[] = {"x", "f.1", "break", "x.brea", "x.BREAK.1"};
    static const char *const aside[] = {".", ".x", ".break", "x.break", "x.break.1.2", "x.breakfast"};
    char name[AFL_READER_NAME];
    for (size_t i = 0; i < sizeof counting / sizeof counting[0]; i++)
        ck_assert(afl_reader_counts(counting[i]));
    for (size_t i = 0; i < sizeof aside / sizeof aside[0]; i++)
        ck_assert(!afl_reader_counts(aside[i]));
    afl_reader_name_print(TOKEN, 2147483647, name);
    ck_assert_str_eq(name, TOKEN ".2147483647");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("rwmark");
    TCase *tcase = tcase_create("rwmark");
    tcase_set_timeout(tcase, 60);
    tcase_add_test(tcase, what_is_one);
    tcase_add_test(tcase, what_is_none);
    tcase_add_test(tcase, cut_off_at_each_byte);
    tcase_add_test(tcase, long_ones);
    tcase_add_test(tcase, what_is_written);
    tcase_add_test(tcase, names);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
