/* What claims are named and what they say (core/locks/claim.h): what the peer takes for a claim is one here, and
 * nothing else is. What is written is read as what it says. */
#include "locks/claim.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define T "00112233445566778899aabbccddeeff"

static bool parse(const char *text, size_t size, afl_claim *claim)
{
    char *exact = malloc(size + 1); /* it ends where it ends */
    ck_assert_ptr_nonnull(exact);
    memcpy(exact, text, size);
    const bool good = afl_claim_parse(exact, size, T, claim);
    free(exact);
    return good;
}

static bool parse_lines(const char *pid, const char *host, const char *start, afl_claim *claim)
{
    char text[4096];
    const int size = snprintf(text, sizeof text, "filelock-strict-v1\n" T "\n%s\n%s\n%s\n", pid, host, start);
    return parse(text, (size_t)size, claim);
}

/* ------------------------------------------------------------------------------------------------------------ names */

START_TEST(names)
{
    afl_claim_name key = {.held = false, .token = "unchanged"};
    char name[AFL_CLAIM_NAME];
    ck_assert(afl_claim_name_parse("held-v1-" T ".claim", &key) && key.held);
    ck_assert_str_eq(key.token, T);
    afl_claim_name_print(&key, name);
    ck_assert_str_eq(name, "held-v1-" T ".claim");
    ck_assert(afl_claim_name_parse("intent-v1-" T ".claim", &key) && !key.held);
    afl_claim_name_print(&key, name);
    ck_assert_str_eq(name, "intent-v1-" T ".claim");
    static const char *const others[] = {"",
                                         "x",
                                         "held",
                                         "held-v1-",
                                         "held-v1-" T,
                                         "held-v1-" T ".claimx",
                                         "held-v1-" T ".clai",
                                         "held-v1-" T "0.claim",
                                         "held-v1-0011223344556677.claim",
                                         "held-v2-" T ".claim",
                                         "Held-v1-" T ".claim",
                                         ".held-v1-" T ".claim",
                                         "held-v1-00112233445566778899AABBCCDDEEFF.claim",
                                         "held-v1--" T ".claim",
                                         "held--v1-" T ".claim",
                                         "intent-v1-0011223344556677 899aabbccddeeff.claim",
                                         "claim-v1-" T ".claim"};
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
        ck_assert_msg(!afl_claim_name_parse(others[i], &key), "%s", others[i]);
}
END_TEST

START_TEST(private_names)
{
    char name[AFL_PUBLIC_NAME], private_name[AFL_PRIVATE_NAME], longest[AFL_PUBLIC_NAME + 1];
    ck_assert(afl_private_name_parse(".held-v1-" T ".claim.private-v1-" T ".tmp", name));
    ck_assert_str_eq(name, "held-v1-" T ".claim");
    afl_private_name_print(name, T, private_name);
    ck_assert_str_eq(private_name, ".held-v1-" T ".claim.private-v1-" T ".tmp");
    ck_assert(afl_private_name_parse(".a.private-v1-" T ".tmp.private-v1-" T ".tmp", name));
    ck_assert_str_eq(name, "a.private-v1-" T ".tmp");
    memset(longest, 'n', sizeof longest);
    longest[AFL_PUBLIC_NAME - 1] = '\0';
    afl_private_name_print(longest, T, private_name);
    ck_assert(afl_private_name_parse(private_name, name));
    ck_assert_str_eq(name, longest);
    static const char *const others[] = {"",
                                         ".",
                                         ".private-v1-" T ".tmp",
                                         "x.private-v1-" T ".tmp",
                                         ".x.private-v2-" T ".tmp",
                                         ".x.private-v1-" T ".tmpx",
                                         ".x.private-v1-" T "0.tmp",
                                         ".x.private-v1-0011.tmp"};
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
        ck_assert_msg(!afl_private_name_parse(others[i], name), "%s", others[i]);
}
END_TEST

START_TEST(tokens)
{
    char token[AFL_TOKEN_TEXT];
    const uint64_t bits[2] = {UINT64_C(0x0011223344556677), UINT64_C(0x8899aabbccddeeff)};
    afl_token_print(bits, token);
    ck_assert_str_eq(token, T);
}
END_TEST

/* ---------------------------------------------------------------------------------------------------------- records */

START_TEST(what_a_record_says)
{
    afl_claim c;
    char start[AFL_START_TEXT];
    ck_assert(parse_lines("4711", "6275696c642d37", "18446744073709551617", &c));
    ck_assert_int_eq(c.pid, 4711);
    ck_assert_str_eq(c.host, "build-7");
    ck_assert(c.has_start);
    afl_start_print(&c.start, start);
    ck_assert_str_eq(start, "18446744073709551617");
    ck_assert(parse_lines("2147483647", "", "", &c));
    ck_assert(c.pid == INT32_MAX && c.host[0] == '\0' && !c.has_start);
    ck_assert(parse_lines("1", "c3bc", "0", &c));
    ck_assert_str_eq(c.host, "\xc3\xbc");
}
END_TEST

START_TEST(malformed)
{
    static const char *const pids[] = {"", "0", "01", "+1", "-1", "1_0", " 1", "2147483648", "99999999999", "1x"};
    static const char *const hosts[] = {"6",    "4A",   "6 ",     "61 62",  "zz",       "20",    "09",
                                        "0a",   "00",   "7f",     "ff",     "c3",       "c0af",  "eda080",
                                        "c2a0", "c2ad", "e280a8", "e38080", "f3a08081", "ee8080"};
    static const char *const starts[] = {"00", "01", "-1", "+1", "1 ", "x", "1_0"};
    afl_claim c;
    for (size_t i = 0; i < sizeof pids / sizeof pids[0]; i++)
        ck_assert_msg(!parse_lines(pids[i], "61", "1", &c), "pid %s", pids[i]);
    for (size_t i = 0; i < sizeof hosts / sizeof hosts[0]; i++)
        ck_assert_msg(!parse_lines("1", hosts[i], "1", &c), "host %s", hosts[i]);
    for (size_t i = 0; i < sizeof starts / sizeof starts[0]; i++)
        ck_assert_msg(!parse_lines("1", "61", starts[i], &c), "start %s", starts[i]);
}
END_TEST

/* Cut off, longer, or with any byte another one that is no digit in its place. */
START_TEST(damaged_records)
{
    static const char text[] = "filelock-strict-v1\n" T "\n4711\n6162\n12\n";
    const size_t size = sizeof text - 1;
    char damaged[sizeof text + 1];
    afl_claim c;
    ck_assert(parse(text, size, &c));
    for (size_t cut = 0; cut < size; cut++)
        ck_assert(!parse(text, cut, &c));
    for (size_t i = 0; i < size; i++) {
        static const char bytes[] = {'\0', ' ', '\r', 'x', '\x80', 'A'};
        for (size_t b = 0; b < sizeof bytes; b++) {
            memcpy(damaged, text, sizeof text);
            damaged[i] = bytes[b];
            ck_assert_msg(!parse(damaged, size, &c), "byte %zu is %d", i, bytes[b]);
        }
    }
    memcpy(damaged, text, size);
    damaged[size] = '\n';
    ck_assert(!parse(damaged, size + 1, &c));
}
END_TEST

START_TEST(long_records)
{
    char digits[1200];
    afl_claim c;
    const size_t others = strlen("filelock-strict-v1\n" T "\n1\n61\n\n");
    memset(digits, '7', sizeof digits);
    digits[AFL_CLAIM_SIZE - others] = '\0';
    ck_assert(parse_lines("1", "61", digits, &c)); /* a start that no process can have, and a claim all the same */
    ck_assert(c.has_start && c.start.beyond);
    digits[AFL_CLAIM_SIZE - others] = '7';
    digits[AFL_CLAIM_SIZE - others + 1] = '\0';
    ck_assert(!parse_lines("1", "61", digits, &c));
}
END_TEST

START_TEST(what_is_written)
{
    static const char expected[] = "filelock-strict-v1\n" T "\n4711\n6162\n18446744073709551618\n";
    char text[AFL_CLAIM_SIZE];
    afl_claim c = {.pid = 4711, .host = "ab", .has_start = true, .start = afl_start_make(0, 1, 2)};
    ck_assert_uint_eq(afl_claim_print(&c, T, text, sizeof text), sizeof expected - 1);
    ck_assert_int_eq(memcmp(text, expected, sizeof expected - 1), 0);
    ck_assert_uint_eq(afl_claim_print(&c, T, text, sizeof expected - 2), 0);
    c.has_start = false;
    ck_assert_uint_gt(afl_claim_print(&c, T, text, sizeof text), 0);
    snprintf(c.host, sizeof c.host, "a b"); /* to be read as what it says is not possible */
    ck_assert_uint_eq(afl_claim_print(&c, T, text, sizeof text), 0);
    memset(c.host, 'h', sizeof c.host - 1);
    ck_assert_uint_eq(afl_claim_print(&c, T, text, sizeof text), 0);
    snprintf(c.host, sizeof c.host, "h");
    c.pid = 0;
    ck_assert_uint_eq(afl_claim_print(&c, T, text, sizeof text), 0);
}
END_TEST

START_TEST(the_sentinel)
{
    afl_record r;
    ck_assert_int_eq(memcmp(AFL_SENTINEL, "1\nfilelock-strict-v1\0\n0\n", AFL_SENTINEL_SIZE), 0);
    afl_record_parse(AFL_SENTINEL, AFL_SENTINEL_SIZE, &r);
    ck_assert_int_eq(r.kind, AFL_RECORD_SENTINEL);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {names,           private_names, tokens,          what_a_record_says, malformed,
                                  damaged_records, long_records,  what_is_written, the_sentinel};
    Suite *suite = suite_create("claim");
    TCase *tcase = tcase_create("claim");
    tcase_set_timeout(tcase, 60);
    for (size_t i = 0; i < sizeof tests / sizeof tests[0]; i++)
        tcase_add_test(tcase, tests[i]);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
