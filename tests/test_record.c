/* The records of markers: what is a holder, what is malformed, and the bytes that are written. The peer breaks what is
 * malformed and old, and so do we; both must mean the same. What is said in the tables here, every record cut off and
 * damaged at every byte, and 20,000 texts made by chance are read once more by support/record_rules.py. */
#include "locks/record.h"

#include <check.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---------------------------------------------------------------------------------------------------- what was read */

enum { READING = 8 * AFL_RECORD_SIZE };

static size_t put_hex(char *to, afl_text text)
{
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < text.size; i++) {
        to[2 * i] = digits[(unsigned char)text.at[i] >> 4];
        to[2 * i + 1] = digits[text.at[i] & 15];
    }
    to[2 * text.size] = '\0';
    return text.size ? 2 * text.size : (size_t)sprintf(to, "-");
}

static size_t put_start(char *to, const afl_record *r)
{
    char text[AFL_START_TEXT];
    if (r->has_start && !r->start.beyond)
        afl_start_print(&r->start, text);
    return (size_t)sprintf(to, "%s", !r->has_start ? "-" : r->start.beyond ? "beyond" : text);
}

/* "soft PID HOST START", "lease PID HOST START TOKEN DURATION DOUBLE" (other: alike), or the kind alone. Texts as hex
 * digits; "-": nothing. */
static void describe(const afl_record *r, char *to)
{
    static const char *const KINDS[] = {"empty", "sentinel", "soft", "lease", "other", "malformed"};
    to += sprintf(to, "%s", KINDS[r->kind]);
    if (r->kind != AFL_RECORD_SOFT && r->kind != AFL_RECORD_LEASE && r->kind != AFL_RECORD_OTHER)
        return;
    to += sprintf(to, " %d ", (int)r->pid);
    to += put_hex(to, r->host);
    *to++ = ' ';
    to += put_start(to, r);
    if (r->kind == AFL_RECORD_SOFT)
        return;
    uint64_t bits;
    memcpy(&bits, &r->duration, sizeof bits);
    *to++ = ' ';
    to += put_hex(to, r->token);
    *to++ = ' ';
    to += put_hex(to, r->duration_text);
    if (r->duration != r->duration)
        sprintf(to, " nan");
    else
        sprintf(to, " %016llx", (unsigned long long)bits);
}

/* Reads a copy that ends where the record does, so that valgrind and the sanitizers see what is read beyond. */
static void read_record(const void *bytes, size_t size, char *to)
{
    afl_record r;
    char *copy = malloc(size ? size : 1);
    ck_assert_ptr_nonnull(copy);
    memcpy(copy, bytes, size);
    afl_record_parse(copy, size, &r);
    describe(&r, to);
    free(copy);
}

/* -------------------------------------------------------------------------------------------------------- the tables
 */

typedef struct row {
    const char *bytes;
    size_t size;
    const char *reading;
} row;

#define ROW(text, reading)                  \
    {                                       \
        (text), sizeof(text) - 1, (reading) \
    }
#define LEASE "filelock/2\npid=7\nhost=h\nmode=lease\ntoken=t\nduration="
#define L7 "lease 7 68 - 74 "
#define BIG "6277101735386680763835789423207666416102355444464034512895" /* 2^192 - 1 */
#define BAD "malformed"

static const row TABLE[] = {
    /* What is there. */
    ROW("", "empty"),
    ROW("\n", BAD),
    ROW(" ", BAD),
    ROW("\r\n\x1c\t", BAD),
    ROW("1\nfilelock-strict-v1\0\n0\n", "sentinel"),
    ROW("1\nfilelock-strict-v1\0\n0", "soft 1 66696c656c6f636b2d7374726963742d763100 0"),
    ROW("1\nfilelock-strict-v1\n0\n", "soft 1 66696c656c6f636b2d7374726963742d7631 0"),
    ROW("1\nfilelock-strict-v1\0\n0\n\n", "soft 1 66696c656c6f636b2d7374726963742d763100 0"),
    ROW("2\nfilelock-strict-v1\0\n0\n", "soft 2 66696c656c6f636b2d7374726963742d763100 0"),
    /* Soft: lines. */
    ROW("12\nh\n", "soft 12 68 -"),
    ROW("12\nh", "soft 12 68 -"),
    ROW("12\nh\n345\n", "soft 12 68 345"),
    ROW("12\nh\n345", "soft 12 68 345"),
    ROW("\n\n12\nh\n345\n\n\n", "soft 12 68 345"),
    ROW("12", BAD),
    ROW("12\n", BAD),
    ROW("12\n\n", BAD),
    ROW("12\n\n345\n", "soft 12 - 345"),
    ROW("12\n \n345\n", "soft 12 20 345"),
    ROW("12\nh\n\n345\n", BAD),
    ROW("12\nh\n345\n6\n", BAD),
    ROW("12\nh\n345\n \n", "soft 12 68 345"),
    ROW("12\nh\n345\n \n.", BAD),
    ROW("h\n12\n", BAD),
    ROW("12 h 345", BAD),
    ROW("12\r\nh\r\n345\r\n", "soft 12 68 345"),
    ROW("12\rh\r345\r", "soft 12 68 345"),
    ROW("12\n\rh\n", BAD),
    ROW("12\vh\f345", "soft 12 68 345"),
    ROW("12\x1ch\x1d"
        "345",
        "soft 12 68 345"),
    ROW("12\x1eh", "soft 12 68 -"),
    ROW("12\xc2\x85h\xe2\x80\xa8"
        "345",
        "soft 12 68 345"),
    ROW("12\xe2\x80\xa9h", "soft 12 68 -"),
    ROW("12\x1fh", BAD),
    ROW("12\xc2\xa0\nh", "soft 12 68 -"),
    ROW("12\xe2\x80\xa7h", BAD),
    ROW("12\n h", "soft 12 2068 -"),
    ROW("12\nh \n", "soft 12 68 -"),
    ROW("12\nh \n5", "soft 12 6820 5"),
    ROW("12\nh\t\xe3\x80\x80\xe2\x80\x83\xe1\x9a\x80\xe2\x81\x9f\xe2\x80\xaf\x1f", "soft 12 68 -"),
    ROW("\xe3\x80\x80\xe2\x80\x80\x1f\xc2\xa0"
        "12\nh",
        "soft 12 68 -"),
    ROW("12\nh\xe2\x80\x8b", "soft 12 68e2808b -"),
    ROW("12\nh\xe1\xa0\x8e", "soft 12 68e1a08e -"),
    ROW("12\nb\xc3\xbc"
        "cher\n",
        "soft 12 62c3bc63686572 -"),
    ROW("12\na\0b\n", "soft 12 610062 -"),
    ROW("12\nhost=h\n", "soft 12 686f73743d68 -"),
    /* Soft: the pid. */
    ROW("1\nh", "soft 1 68 -"),
    ROW("0\nh", BAD),
    ROW("-0\nh", BAD),
    ROW("-1\nh", BAD),
    ROW("2147483647\nh", "soft 2147483647 68 -"),
    ROW("2147483648\nh", BAD),
    ROW("4294967297\nh", BAD),
    ROW("18446744073709551617\nh", BAD),
    ROW(BIG "7\nh", BAD),
    ROW("+12\nh", "soft 12 68 -"),
    ROW("++12\nh", BAD),
    ROW("+-12\nh", BAD),
    ROW("+\nh", BAD),
    ROW("+ 12\nh", BAD),
    ROW("0012\nh", "soft 12 68 -"),
    ROW("0_12\nh", "soft 12 68 -"),
    ROW("1_2\nh", "soft 12 68 -"),
    ROW("1__2\nh", BAD),
    ROW("_12\nh", BAD),
    ROW("+_12\nh", BAD),
    ROW("12_\nh", BAD),
    ROW("12_ \nh", BAD),
    ROW("12 \nh", "soft 12 68 -"),
    ROW("12\t\nh", "soft 12 68 -"),
    ROW("12\x1f\nh", BAD),
    ROW("12\xe3\x80\x80\nh", "soft 12 68 -"),
    ROW("12\xe2\x80\x8b\nh", BAD),
    ROW("1 2\nh", BAD),
    ROW("0x12\nh", BAD),
    ROW("12.0\nh", BAD),
    ROW("1e1\nh", BAD),
    ROW("12\0\nh", BAD),
    ROW("12a\nh", BAD),
    ROW("\xef\xbb\xbf"
        "12\nh",
        BAD),
    ROW("\xd9\xa1\xd9\xa2\nh", "soft 12 68 -"),
    ROW("1\xd9\xa2\nh", "soft 12 68 -"),
    ROW("+\xd9\xa1_\xd9\xa2\nh", "soft 12 68 -"),
    ROW("\xef\xbc\x91\xf0\x9d\x9f\x9a\nh", "soft 12 68 -"),
    ROW("\xf0\x9f\xaf\xb9\nh", "soft 9 68 -"),
    ROW("\xf0\x9f\xaf\xba\nh", BAD),
    ROW("1\xc2\xb2\nh", BAD),
    ROW("\xe2\x91\xa0\nh", BAD),
    /* Soft: the start token. */
    ROW("1\nh\n0", "soft 1 68 0"),
    ROW("1\nh\n-0", "soft 1 68 0"),
    ROW("1\nh\n+5", "soft 1 68 5"),
    ROW("1\nh\n-5", "soft 1 68 beyond"),
    ROW("1\nh\n1_0", "soft 1 68 10"),
    ROW("1\nh\n 10", "soft 1 68 10"),
    ROW("1\nh\n18446744073709551615", "soft 1 68 18446744073709551615"),
    ROW("1\nh\n18446744073709551616", "soft 1 68 18446744073709551616"),
    ROW("1\nh\n340282366920938463463374607431768211456", "soft 1 68 340282366920938463463374607431768211456"),
    ROW("1\nh\n" BIG, "soft 1 68 " BIG),
    ROW("1\nh\n000000000000000000000000000" BIG, "soft 1 68 " BIG),
    ROW("1\nh\n6277101735386680763835789423207666416102355444464034512896", "soft 1 68 beyond"),
    ROW("1\nh\n" BIG BIG, "soft 1 68 beyond"),
    ROW("1\nh\nx", BAD),
    ROW("1\nh\n0x5", BAD),
    ROW("1\nh\n1.5", BAD),
    ROW("1\nh\nNone", BAD),
    /* UTF-8. */
    ROW("1\nh\xff", BAD),
    ROW("1\nh\x80", BAD),
    ROW("1\nh\xc3", BAD),
    ROW("1\nh\xc3(", BAD),
    ROW("1\nh\xc0\xaf", BAD),
    ROW("1\nh\xc1\xbf", BAD),
    ROW("1\nh\xc2\x80", "soft 1 68c280 -"),
    ROW("1\nh\xe0\x9f\xbf", BAD),
    ROW("1\nh\xe0\xa0\x80", "soft 1 68e0a080 -"),
    ROW("1\nh\xed\x9f\xbf", "soft 1 68ed9fbf -"),
    ROW("1\nh\xed\xa0\x80", BAD),
    ROW("1\nh\xed\xbf\xbf", BAD),
    ROW("1\nh\xee\x80\x80", "soft 1 68ee8080 -"),
    ROW("1\nh\xef\xbf\xbf", "soft 1 68efbfbf -"),
    ROW("1\nh\xf0\x8f\xbf\xbf", BAD),
    ROW("1\nh\xf0\x90\x80\x80", "soft 1 68f0908080 -"),
    ROW("1\nh\xf4\x8f\xbf\xbf", "soft 1 68f48fbfbf -"),
    ROW("1\nh\xf4\x90\x80\x80", BAD),
    ROW("1\nh\xf8\x88\x80\x80\x80", BAD),
    ROW("1\nh\xf0\x90\x80", BAD),
    ROW("\xff"
        "1\nh",
        BAD),
    /* Lease: lines. */
    ROW(LEASE "30\nstart=5\n", "lease 7 68 5 74 3330 403e000000000000"),
    ROW(LEASE "30\n", L7 "3330 403e000000000000"),
    ROW(LEASE "30", L7 "3330 403e000000000000"),
    ROW(" \n" LEASE "30\n \n", L7 "3330 403e000000000000"),
    ROW("filelock/2\r\npid=7\r\nhost=h\r\nmode=lease\r\ntoken=t\r\nduration=30\r\n", L7 "3330 403e000000000000"),
    ROW("filelock/2 \npid=7\nhost=h\nmode=lease\ntoken=t\nduration=30\n", BAD),
    ROW("filelock/1\npid=7\nhost=h\nmode=lease\ntoken=t\nduration=30\n", BAD),
    ROW("Filelock/2\npid=7\nhost=h\nmode=lease\ntoken=t\nduration=30\n", BAD),
    ROW("filelock/2\n", BAD),
    ROW("filelock/2", BAD),
    ROW("filelock/2\n7\n", BAD),
    ROW("filelock/2\nhost=h\nduration=30\ntoken=t\nmode=lease\npid=7", L7 "3330 403e000000000000"),
    ROW(LEASE "30\n\nstart=5", BAD),
    ROW(LEASE "30\nstart", BAD),
    ROW(LEASE "30\n=", L7 "3330 403e000000000000"),
    ROW(LEASE "30\nnew=\xc3\xbc", L7 "3330 403e000000000000"),
    ROW(LEASE "30\n pid=8", L7 "3330 403e000000000000"),
    ROW(LEASE "30\npid =8", L7 "3330 403e000000000000"),
    ROW(LEASE "30\npi=8\npidd=9\nPID=3", L7 "3330 403e000000000000"),
    ROW(LEASE "30\npid=8", "lease 8 68 - 74 3330 403e000000000000"),
    ROW(LEASE "30\npid=x", BAD),
    ROW(LEASE "x\nduration=30", L7 "3330 403e000000000000"),
    ROW(LEASE "30\nduration=x", BAD),
    ROW(LEASE "30\nhost=\nnew=", BAD),
    ROW(LEASE "30\nhost=i=j", "lease 7 693d6a - 74 3330 403e000000000000"),
    ROW(LEASE "30\nhost= \nnew=", "lease 7 20 - 74 3330 403e000000000000"),
    ROW(LEASE "30\nhost= ", BAD),
    ROW(LEASE "30\ntoken=\n", "lease 7 68 - - 3330 403e000000000000"),
    ROW(LEASE "30\ntoken=\xc3\xbc z", "lease 7 68 - c3bc207a 3330 403e000000000000"),
    ROW(LEASE "30\nstart=", BAD),
    ROW(LEASE "30\nstart=-5", "lease 7 68 beyond 74 3330 403e000000000000"),
    ROW(LEASE "30\nstart= 1_0 \n", "lease 7 68 10 74 3330 403e000000000000"),
    ROW(LEASE "30\npid= 8 \nnew=", "lease 8 68 - 74 3330 403e000000000000"),
    ROW(LEASE "30\npid=0", BAD),
    ROW(LEASE "30\npid=2147483648", BAD),
    ROW("filelock/2\nhost=h\nmode=lease\ntoken=t\nduration=30\n", BAD),
    ROW("filelock/2\npid=7\nmode=lease\ntoken=t\nduration=30\n", BAD),
    ROW("filelock/2\npid=7\nhost=h\ntoken=t\nduration=30\n", BAD),
    ROW("filelock/2\npid=7\nhost=h\nmode=lease\nduration=30\n", BAD),
    ROW("filelock/2\npid=7\nhost=h\nmode=lease\ntoken=t\n", BAD),
    /* Lease: modes that others may have. */
    ROW("filelock/2\npid=7\nhost=h\nmode=shared\n", "other 7 68 - - - 0000000000000000"),
    ROW("filelock/2\npid=7\nhost=h\nmode=\nx=", "other 7 68 - - - 0000000000000000"),
    ROW("filelock/2\npid=7\nhost=h\nmode= lease\n", "other 7 68 - - - 0000000000000000"),
    ROW("filelock/2\npid=7\nhost=h\nmode=lease \nx=", "other 7 68 - - - 0000000000000000"),
    ROW("filelock/2\npid=7\nhost=h\nmode=Lease\n", "other 7 68 - - - 0000000000000000"),
    ROW("filelock/2\npid=7\nhost=h\nmode=x\nduration=-5\nstart=3\ntoken=u", "other 7 68 3 75 2d35 c014000000000000"),
    ROW("filelock/2\npid=7\nhost=h\nmode=x\nduration=nan", "other 7 68 - - 6e616e nan"),
    ROW("filelock/2\npid=7\nhost=h\nmode=x\nduration=inf", "other 7 68 - - 696e66 7ff0000000000000"),
    ROW("filelock/2\npid=7\nhost=h\nmode=x\nduration=-Infinity", "other 7 68 - - 2d496e66696e697479 fff0000000000000"),
    ROW("filelock/2\npid=7\nhost=h\nmode=x\nduration=+iNF", "other 7 68 - - 2b694e46 7ff0000000000000"),
    ROW("filelock/2\npid=7\nhost=h\nmode=x\nduration=INFINIT", BAD),
    ROW("filelock/2\npid=7\nhost=h\nmode=x\nduration=-NaN", "other 7 68 - - 2d4e614e nan"),
    ROW("filelock/2\npid=7\nhost=h\nmode=x\nduration=nano", BAD),
    ROW("filelock/2\npid=7\nhost=h\nmode=x\nduration=-0.0", "other 7 68 - - 2d302e30 8000000000000000"),
    ROW("filelock/2\npid=7\nhost=h\nmode=x\nduration=1e400", "other 7 68 - - 3165343030 7ff0000000000000"),
    ROW("filelock/2\npid=7\nhost=h\nmode=x\nduration=-1e-400", "other 7 68 - - 2d31652d343030 8000000000000000"),
    ROW("filelock/2\npid=7\nhost=h\nmode=x\nduration=1e-5", "other 7 68 - - 31652d35 3ee4f8b588e368f1"),
    ROW("filelock/2\npid=7\nhost=h\nmode=x\nduration=soon", BAD),
    ROW("filelock/2\npid=0\nhost=h\nmode=x", BAD),
    ROW("filelock/2\npid=7\nhost=\nmode=x", BAD),
    ROW("filelock/2\npid=7\nhost=h\nmode=x\nstart=y", BAD),
    /* Lease: durations. */
    ROW(LEASE "30.0", L7 "33302e30 403e000000000000"),
    ROW(LEASE "3e1", L7 "336531 403e000000000000"),
    ROW(LEASE "3E+1", L7 "33452b31 403e000000000000"),
    ROW(LEASE "300e-1", L7 "333030652d31 403e000000000000"),
    ROW(LEASE "+30", L7 "2b3330 403e000000000000"),
    ROW(LEASE "  30\t\nx=", L7 "2020333009 403e000000000000"),
    ROW(LEASE "3_0", L7 "335f30 403e000000000000"),
    ROW(LEASE "1_0.5", L7 "315f302e35 4025000000000000"),
    ROW(LEASE ".5", L7 "2e35 3fe0000000000000"),
    ROW(LEASE "5.", L7 "352e 4014000000000000"),
    ROW(LEASE "0.1", L7 "302e31 3fb999999999999a"),
    ROW(LEASE "1e1_0", L7 "3165315f30 4202a05f20000000"),
    ROW(LEASE "\xd9\xa3\xd9\xa0", L7 "d9a3d9a0 403e000000000000"),
    ROW(LEASE "9007199254740993", L7 "39303037313939323534373430393933 4340000000000000"),
    ROW(LEASE "9007199254740993.0000000000000000000000001",
        L7 "393030373139393235343734303939332e30303030303030303030303030303030303030303030303031 4340000000000001"),
    ROW(LEASE "1.7976931348623157e308", L7 "312e37393736393331333438363233313537653330"
                                           "38 7fefffffffffffff"),
    ROW(LEASE "5e-324", L7 "35652d333234 0000000000000001"),
    ROW(LEASE "2.4703282292062328e-324", L7 "322e34373033323832323932303632333238652d333234 0000000000000001"),
    ROW(LEASE "2.4703282292062327e-324", BAD),
    ROW(LEASE "2.2250738585072011e-308", L7 "322e32323530373338353835303732303131652d333038 000fffffffffffff"),
    ROW(LEASE "1.7976931348623159e308", BAD),
    ROW(LEASE "1e309", BAD),
    ROW(LEASE "1e99999999999999999999", BAD),
    ROW(LEASE "1e-400", BAD),
    ROW(LEASE "1e-99999999999999999999", BAD),
    ROW(LEASE "0", BAD),
    ROW(LEASE "0e5", BAD),
    ROW(LEASE "-0.0", BAD),
    ROW(LEASE "-30", BAD),
    ROW(LEASE "inf", BAD),
    ROW(LEASE "+Infinity", BAD),
    ROW(LEASE "nan", BAD),
    ROW(LEASE "-NaN", BAD),
    ROW(LEASE "", BAD),
    ROW(LEASE ".", BAD),
    ROW(LEASE "e5", BAD),
    ROW(LEASE ".e5", BAD),
    ROW(LEASE "3e", BAD),
    ROW(LEASE "3e+", BAD),
    ROW(LEASE "3e1.0", BAD),
    ROW(LEASE "3 0", BAD),
    ROW(LEASE "3,0", BAD),
    ROW(LEASE "0x1p5", BAD),
    ROW(LEASE "30s", BAD),
    ROW(LEASE "30f", BAD),
    ROW(LEASE "1_.5", BAD),
    ROW(LEASE "1._5", BAD),
    ROW(LEASE "_30", BAD),
    ROW(LEASE "30_", BAD),
    ROW(LEASE "3__0", BAD),
    ROW(LEASE "3_e1", BAD),
    ROW(LEASE "3e_1", BAD),
    ROW(LEASE "30\x1f\nx=", BAD),
    ROW(LEASE "30\0", BAD),
    ROW(LEASE "None", BAD),
};
enum { ROWS = sizeof TABLE / sizeof TABLE[0] };

START_TEST(records_read_as_the_table_says)
{
    for (int i = 0; i < ROWS; i++) {
        char found[READING];
        read_record(TABLE[i].bytes, TABLE[i].size, found);
        ck_assert_msg(strcmp(found, TABLE[i].reading) == 0, "row %d: %s\n  read as  %s\n  expected %s", i,
                      TABLE[i].bytes, found, TABLE[i].reading);
    }
}
END_TEST

/* Digits of scripts that are newer than the Python of some machines, which would break such a holder: we do not. */
START_TEST(newer_digits_are_digits)
{
    static const row rows[] = {ROW("\xf0\x91\xbd\x91\nh", "soft 1 68 -"), ROW("\xf0\x9e\x93\xb2\nh", "soft 2 68 -"),
                               ROW("\xf0\x90\xb5\x83\nh", "soft 3 68 -"), ROW("\xf0\x96\xb5\xb4\nh", "soft 4 68 -"),
                               ROW("\xf0\x91\xb7\xa5\nh", "soft 5 68 -")};
    char found[READING];
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        read_record(rows[i].bytes, rows[i].size, found);
        ck_assert_str_eq(found, rows[i].reading);
    }
}
END_TEST

/* Up to 1024 bytes, blanks included; with a number that fills them. */
START_TEST(a_record_has_a_longest_size)
{
    static const char begin[] = {'1', '2', '\n', 'h', '\n'};
    char bytes[AFL_RECORD_SIZE + 2], found[READING];
    memset(bytes, '\n', sizeof bytes);
    memcpy(bytes, begin, 4);
    read_record(bytes, AFL_RECORD_SIZE, found);
    ck_assert_str_eq(found, "soft 12 68 -");
    read_record(bytes, AFL_RECORD_SIZE + 1, found);
    ck_assert_str_eq(found, BAD);
    memset(bytes, '0', sizeof bytes);
    memcpy(bytes + AFL_RECORD_SIZE - 4, begin, 4);
    read_record(bytes, AFL_RECORD_SIZE, found);
    ck_assert_str_eq(found, "soft 12 68 -");
    memset(bytes, '9', sizeof bytes);
    memcpy(bytes, begin, 5);
    read_record(bytes, AFL_RECORD_SIZE, found);
    ck_assert_str_eq(found, "soft 12 68 beyond");
}
END_TEST

/* ------------------------------------------------------------------------------------------------- in the peer's words
 */

static void send(FILE *rules, const void *bytes, size_t size)
{
    char found[READING], hex[2 * AFL_RECORD_SIZE + 16];
    read_record(bytes, size, found);
    put_hex(hex, (afl_text){bytes, size});
    fprintf(rules, "x%s %s\n", size ? hex : "", found);
}

static pid_t reader;

static FILE *open_rules(void)
{
    int ends[2];
    char script[4096];
    const char *python = getenv("PYTHON"), *source = getenv("AFLOCK_SOURCE_DIR");
    ck_assert_msg(source != NULL, "AFLOCK_SOURCE_DIR is not set: run this by ctest");
    snprintf(script, sizeof script, "%s/tests/support/record_rules.py", source);
    ck_assert_int_eq(pipe(ends), 0);
    fflush(NULL);
    reader = fork();
    ck_assert_int_ge(reader, 0);
    if (reader == 0) {
        dup2(ends[0], STDIN_FILENO);
        close(ends[0]);
        close(ends[1]);
        execl(python ? python : "/usr/bin/python3", "python3", "-I", script, (char *)NULL);
        _exit(127);
    }
    close(ends[0]);
    signal(SIGPIPE, SIG_IGN); /* it ends at the first difference, and says it */
    FILE *rules = fdopen(ends[1], "w");
    ck_assert_ptr_nonnull(rules);
    return rules;
}

static void close_rules(FILE *rules)
{
    int status;
    fclose(rules);
    ck_assert_int_eq(waitpid(reader, &status, 0), reader);
    ck_assert_msg(status == 0, "Python reads a record otherwise, see above");
}

START_TEST(the_table_is_right)
{
    FILE *rules = open_rules();
    for (int i = 0; i < ROWS; i++)
        send(rules, TABLE[i].bytes, TABLE[i].size);
    close_rules(rules);
}
END_TEST

static const row DAMAGED[] = {
    ROW("4711\nhost.example\n77359348281047182113905471228160143\n", ""),
    ROW("4711\r\nh\xc3\xb6st\r\n", ""),
    ROW("1\nfilelock-strict-v1\0\n0\n", ""),
    ROW("filelock/2\npid=4711\nhost=host.example\nmode=lease\ntoken=00112233445566778899aabbccddeeff\nduration=30.0\n"
        "start=77359348281047182113905471228160143\n",
        ""),
    ROW("filelock/2\r\npid=+47_11\r\nhost=\xe2\x82\xac\r\nmode=lease\r\ntoken=\r\nduration=1_2.5e-3\r\n", ""),
    ROW("filelock/2\npid=\xd9\xa1\xd9\xa2\nhost=h\nmode=later\nduration=inf\n", ""),
};

START_TEST(cut_off_or_damaged_anywhere)
{
    FILE *rules = open_rules();
    for (size_t n = 0; n < sizeof DAMAGED / sizeof DAMAGED[0]; n++) {
        char bytes[256];
        const size_t size = DAMAGED[n].size;
        memcpy(bytes, DAMAGED[n].bytes, size);
        for (size_t i = 0; i <= size; i++) {
            send(rules, bytes, i);
            send(rules, bytes + i, size - i);
        }
        for (size_t i = 0; i < size; i++) {
            for (int change = 1; change < 256; change += change < 8 ? 1 : 13) {
                bytes[i] = (char)(bytes[i] ^ change);
                send(rules, bytes, size);
                bytes[i] = DAMAGED[n].bytes[i];
            }
        }
    }
    close_rules(rules);
}
END_TEST

static uint64_t chance = 1;

static size_t below(size_t count)
{
    chance ^= chance << 13;
    chance ^= chance >> 7;
    chance ^= chance << 17;
    return (size_t)(chance % count);
}

/* Pieces that records are made of, and others that are nearly like them. */
static size_t make_text(char *text, size_t most)
{
    static const row pieces[] = {ROW("\n", ""),
                                 ROW("\r\n", ""),
                                 ROW("\n", ""),
                                 ROW("12", ""),
                                 ROW("7", ""),
                                 ROW("host", ""),
                                 ROW("h", ""),
                                 ROW("filelock/2", ""),
                                 ROW("pid=", ""),
                                 ROW("host=", ""),
                                 ROW("mode=lease", ""),
                                 ROW("mode=", ""),
                                 ROW("token=", ""),
                                 ROW("duration=", ""),
                                 ROW("start=", ""),
                                 ROW("=", ""),
                                 ROW("_", ""),
                                 ROW("+", ""),
                                 ROW("-", ""),
                                 ROW(".", ""),
                                 ROW("e", ""),
                                 ROW("E-3", ""),
                                 ROW("inf", ""),
                                 ROW("nan", ""),
                                 ROW("0", ""),
                                 ROW(" ", ""),
                                 ROW("\t", ""),
                                 ROW("\x1c", ""),
                                 ROW("\x1f", ""),
                                 ROW("\v", ""),
                                 ROW("\xc2\x85", ""),
                                 ROW("\xc2\xa0", ""),
                                 ROW("\xe2\x80\xa8", ""),
                                 ROW("\xe3\x80\x80", ""),
                                 ROW("\xd9\xa3", ""),
                                 ROW("\xef\xbc\x95", ""),
                                 ROW("\xff", ""),
                                 ROW("\xe2\x82", ""),
                                 ROW("\0", ""),
                                 ROW("2147483647", ""),
                                 ROW("6277101735386680763835789423207666416102355444464034512895", ""),
                                 ROW("9007199254740993", "")};
    size_t used = 0;
    for (size_t count = below(12); count > 0; count--) {
        const row *piece = &pieces[below(sizeof pieces / sizeof pieces[0])];
        if (piece->size <= most - used) {
            memcpy(text + used, piece->bytes, piece->size);
            used += piece->size;
        }
    }
    return used;
}

static size_t put_field(char *text, const char *name, const char *ending)
{
    static const char *const numbers[] = {"7",   "30.0", "0.1", "3_0", "+5",
                                          "1e2", "-1",   "inf", "0",   "123456789012345678901"};
    size_t used = (size_t)sprintf(text, "%s%s%s", ending, name, numbers[below(10)]);
    if (below(8) == 0)
        used += make_text(text + used, 64);
    return used;
}

/* A record that may be a good one, and with one chance in three is touched somewhere. */
static size_t make_record(char *text)
{
    static const char *const endings[] = {"\n", "\n", "\r\n", "\n ", "\n\n", "\xe2\x80\xa9"};
    static const char *const names[] = {
        "pid=", "host=", "mode=lease\nx=", "token=", "duration=", "start=", "later=", "mode="};
    const char *ending = endings[below(6)];
    size_t used;
    if (below(2)) {
        used = (size_t)sprintf(text, "filelock/2%smode=lease%stoken=t", ending, ending);
        used += (size_t)sprintf(text + used, "%spid=7%shost=h%sduration=2", ending, ending, ending);
        for (size_t count = below(4); count > 0; count--)
            used += put_field(text + used, names[below(8)], ending);
    } else {
        used = put_field(text, "", "");
        used += (size_t)sprintf(text + used, "%shost", ending);
        if (below(3))
            used += put_field(text + used, "", ending);
    }
    if (used > 0 && below(3) == 0)
        text[below(used)] = "\n\r =_09.e\x1c\x85\xff"[below(12)];
    return used;
}

START_TEST(twenty_thousand_by_chance)
{
    char text[1024];
    FILE *rules = open_rules();
    for (int i = 0; i < 10000; i++) {
        send(rules, text, make_text(text, sizeof text));
        send(rules, text, make_record(text));
    }
    close_rules(rules);
}
END_TEST

/* --------------------------------------------------------------------------------------------------- start tokens */

static afl_text text_of(const char *text)
{
    return (afl_text){text, strlen(text)};
}

START_TEST(start_tokens)
{
    static const struct {
        uint64_t high, low, time;
        const char *text;
    } rows[] = {{0, 0, 0, "0"},
                {0, 0, 4711, "4711"},
                {0, 0, UINT64_MAX, "18446744073709551615"},
                {0, 1, 0, "18446744073709551616"},
                {0, UINT64_MAX, UINT64_MAX, "340282366920938463463374607431768211455"},
                {1, 0, 0, "340282366920938463463374607431768211456"},
                {UINT64_C(0x0123456789abcdef), UINT64_C(0xfedcba9876543210), 12345,
                 "27898229935051914480226618602452055722311711214681468985"},
                {UINT64_MAX, UINT64_MAX, UINT64_MAX, BIG}};
    enum { COUNT = sizeof rows / sizeof rows[0] };
    afl_start all[COUNT];
    for (size_t i = 0; i < COUNT; i++) {
        char text[AFL_START_TEXT];
        afl_start again;
        all[i] = afl_start_make(rows[i].high, rows[i].low, rows[i].time);
        ck_assert_uint_eq(afl_start_print(&all[i], text), strlen(rows[i].text));
        ck_assert_str_eq(text, rows[i].text);
        ck_assert(afl_start_parse(text_of(text), &again));
        for (size_t j = 0; j <= i; j++)
            ck_assert(afl_start_equal(&again, &all[j]) == (i == j));
    }
}
END_TEST

START_TEST(start_tokens_beyond_equal_nothing)
{
    char text[AFL_START_TEXT] = "x";
    afl_start negative, large, zero = afl_start_make(0, 0, 0), before = afl_start_make(1, 2, 3), same = before;
    ck_assert(afl_start_parse(text_of("-5"), &negative));
    ck_assert(afl_start_parse(text_of(BIG "0"), &large));
    ck_assert(!afl_start_equal(&negative, &negative) && !afl_start_equal(&negative, &large));
    ck_assert(!afl_start_equal(&negative, &zero) && !afl_start_equal(&zero, &large));
    ck_assert_uint_eq(afl_start_print(&large, text), 0);
    ck_assert_str_eq(text, "");
    ck_assert(!afl_start_parse(text_of("5x"), &same) && !afl_start_parse(text_of(""), &same));
    ck_assert(!afl_start_parse((afl_text){NULL, 0}, &same));
    ck_assert(afl_start_equal(&same, &before));
}
END_TEST

/* --------------------------------------------------------------------------------------------------------- durations
 */

START_TEST(durations)
{
    static const struct {
        uint64_t nanoseconds;
        const char *text;
        double seconds;
    } rows[] = {{0, "0", 0},
                {1, "0.000000001", 1e-9},
                {100000000, "0.1", 0.1},
                {250000000, "0.25", 0.25},
                {1000000000, "1", 1},
                {1000000001, "1.000000001", 1.000000001},
                {2500000000, "2.5", 2.5},
                {30000000000, "30", 30},
                {100000000000, "100", 100},
                {86400000000000, "86400", 86400},
                {UINT64_MAX, "18446744073.709551615", 18446744073.709551615}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char text[AFL_SECONDS_TEXT];
        const double found = afl_seconds_from(rows[i].nanoseconds);
        ck_assert_uint_eq(afl_seconds_print(rows[i].nanoseconds, text), strlen(rows[i].text));
        ck_assert_str_eq(text, rows[i].text);
        ck_assert_mem_eq(&found, &rows[i].seconds, sizeof found);
    }
    double seconds = 5;
    ck_assert(!afl_seconds_parse(text_of("x"), &seconds) && !afl_seconds_parse(text_of("1\xff"), &seconds));
    ck_assert(seconds == 5);
}
END_TEST

/* ----------------------------------------------------------------------------------------------------------- writing
 */

static afl_record holder(const char *host, bool has_start)
{
    return (afl_record){.pid = 4711,
                        .host = text_of(host),
                        .has_start = has_start,
                        .start = afl_start_make(0, 1, 5),
                        .token = text_of("0123456789abcdef0123456789abcdef"),
                        .duration_text = text_of("30.0")};
}

/* Prints it, into memory of each size; nothing is written beyond, and what is there can be read again. */
static void prints(const afl_record *r, size_t (*print)(const afl_record *, char *, size_t), const char *expected)
{
    char text[AFL_RECORD_SIZE + 1];
    const size_t whole = strlen(expected);
    for (size_t size = 0; size <= whole + 2; size++) {
        memset(text, '#', sizeof text);
        ck_assert_uint_eq(print(r, text, size), size < whole ? 0 : whole);
        for (size_t i = size < whole ? size : whole; i < sizeof text; i++)
            ck_assert_int_eq(text[i], '#');
    }
    ck_assert_mem_eq(text, expected, whole);
}

START_TEST(records_are_written_as_the_peer_does)
{
    const afl_record known = holder("a.example", true), unknown = holder("b", false);
    prints(&known, afl_record_print_soft, "4711\na.example\n18446744073709551621\n");
    prints(&unknown, afl_record_print_soft, "4711\nb\n");
    prints(&known, afl_record_print_lease,
           "filelock/2\npid=4711\nhost=a.example\nmode=lease\ntoken=0123456789abcdef0123456789abcdef\n"
           "duration=30.0\nstart=18446744073709551621\n");
    prints(&unknown, afl_record_print_lease,
           "filelock/2\npid=4711\nhost=b\nmode=lease\ntoken=0123456789abcdef0123456789abcdef\nduration=30.0\n");
}
END_TEST

START_TEST(nothing_is_written_that_reads_otherwise)
{
    static const char *const hosts[] = {"a\nb", "a\rb", " b", "b ", "a\x1c", "\xff", "a\xe2\x80\xa8z", "\xc2\xa0"};
    char text[2 * AFL_RECORD_SIZE], name[AFL_RECORD_SIZE];
    afl_record r;
    for (size_t i = 0; i < sizeof hosts / sizeof hosts[0]; i++) {
        r = holder(hosts[i], false);
        const bool blank = strcmp(hosts[i], " b") == 0; /* in the middle of its line */
        ck_assert(!afl_record_print_soft(&r, text, sizeof text) == !blank);
    }
    r = holder("", true);
    ck_assert_uint_gt(afl_record_print_soft(&r, text, sizeof text), 0);
    ck_assert_uint_eq(afl_record_print_lease(&r, text, sizeof text), 0);
    r.has_start = false;
    ck_assert_uint_eq(afl_record_print_soft(&r, text, sizeof text), 0);
    for (int pid = -1; pid <= 0; pid++) {
        r = holder("h", true);
        r.pid = pid;
        ck_assert_uint_eq(afl_record_print_soft(&r, text, sizeof text), 0);
        ck_assert_uint_eq(afl_record_print_lease(&r, text, sizeof text), 0);
    }
    r = (afl_record){.pid = 1, .host = {"filelock-strict-v1", 19}, .has_start = true};
    ck_assert_uint_eq(afl_record_print_soft(&r, text, sizeof text), 0); /* would be the sentinel */
    r = holder("h", true);
    r.start.beyond = true;
    ck_assert_uint_eq(afl_record_print_soft(&r, text, sizeof text), 0);
    static const char *const bad_ones[] = {"0", "-1", "inf", "x", "", "30\npid=1", "3\nduration=30"};
    for (size_t i = 0; i < sizeof bad_ones / sizeof bad_ones[0]; i++) {
        r = holder("h", true);
        r.duration_text = text_of(bad_ones[i]);
        ck_assert_uint_eq(afl_record_print_lease(&r, text, sizeof text), 0);
    }
    r = holder("h", true);
    r.token = text_of("t\ntoken=u");
    ck_assert_uint_eq(afl_record_print_lease(&r, text, sizeof text), 0);
    memset(name, 'n', sizeof name);
    r = holder("", true);
    r.host = (afl_text){name, sizeof name - 5 - 22 - 1};
    ck_assert_uint_eq(afl_record_print_soft(&r, text, sizeof text), AFL_RECORD_SIZE - 1);
    r.host.size++;
    ck_assert_uint_eq(afl_record_print_soft(&r, text, sizeof text), AFL_RECORD_SIZE);
    r.host.size++;
    ck_assert_uint_eq(afl_record_print_soft(&r, text, sizeof text), 0);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {records_read_as_the_table_says,
                                  newer_digits_are_digits,
                                  a_record_has_a_longest_size,
                                  the_table_is_right,
                                  cut_off_or_damaged_anywhere,
                                  twenty_thousand_by_chance,
                                  start_tokens,
                                  start_tokens_beyond_equal_nothing,
                                  durations,
                                  records_are_written_as_the_peer_does,
                                  nothing_is_written_that_reads_otherwise};
    Suite *suite = suite_create("record");
    TCase *tcase = tcase_create("records");
    tcase_set_timeout(tcase, 60);
    for (size_t i = 0; i < sizeof tests / sizeof tests[0]; i++)
        tcase_add_test(tcase, tests[i]);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
