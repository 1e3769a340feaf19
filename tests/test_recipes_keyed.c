/* aflock/keyed.h: names that never meet, one lock for each key while it is used, and a bounded number of idle ones. */
#include "keyed/sha256.h"
#include "support/scene.h"

#include <aflock/keyed.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <unistd.h>

static aflock_keyed *keyed;

static aflock *get(const char *key)
{
    aflock *lock;
    ck_assert_int_eq(aflock_keyed_get(keyed, key, strlen(key), &lock), 0);
    ck_assert_ptr_nonnull(lock);
    return lock;
}

static void put(aflock *lock)
{
    ck_assert_int_eq(aflock_keyed_put(keyed, lock), 0);
}

static void make(size_t max_idle, unsigned stripes)
{
    aflock_keyed_options o;
    aflock_keyed_options_init(&o);
    o.max_idle = max_idle;
    o.stripes = stripes;
    ck_assert_int_eq(aflock_keyed_new(&keyed, scene, "locks", &o), 0);
}

static void must_be(size_t used, size_t idle)
{
    ck_assert_uint_eq(aflock_keyed_used(keyed), used);
    ck_assert_uint_eq(aflock_keyed_idle(keyed), idle);
}

static void end(void)
{
    aflock_keyed_free(keyed);
    scene_end();
}

/* ------------------------------------------------------------------------------------------------------------- names
 */

static void must_digest(const char *text, size_t length, const char *expected)
{
    unsigned char digest[SHA256_BYTES];
    char hex[2 * SHA256_BYTES + 1];
    sha256(text, length, digest);
    for (int i = 0; i < SHA256_BYTES; i++)
        snprintf(hex + 2 * i, 3, "%02x", digest[i]);
    ck_assert_str_eq(hex, expected);
}

/* The examples of the standard, and as many letters as make the padding differ. */
START_TEST(digests)
{
    static const struct {
        size_t length;
        const char *digest;
    } LETTERS[] = {{55, "9f4390f8d30c2dd92ec9f095b65e2b9ae9b0a925a5258e241c9f1e910f734318"},
                   {56, "b35439a4ac6f0948b6d6f9e3c6af0f5f590ce20f1bde7090ef7970686ec6738a"},
                   {57, "f13b2d724659eb3bf47f2dd6af1accc87b81f09f59f2b75e5c0bed6589dfe8c6"},
                   {63, "7d3e74a05d7db15bce4ad9ec0658ea98e3f06eeecf16b4c6fff2da457ddc2f34"},
                   {64, "ffe054fe7ae0cb6dc65c3af9b61d5209f439851db43d0ba5997337df154668eb"},
                   {65, "635361c48bb9eab14198e76ea8ab7f1a41685d6ad62aa9146d301d4f17eb0ae0"},
                   {119, "31eba51c313a5c08226adf18d4a359cfdfd8d2e816b13f4af952f7ea6584dcfb"},
                   {120, "2f3d335432c70b580af0e8e1b3674a7c020d683aa5f73aaaedfdc55af904c21c"},
                   {128, "6836cf13bac400e9105071cd6af47084dfacad4e5e302c94bfed24e013afb73e"}};
    static char many[1000000];
    must_digest("", 0, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    must_digest("abc", 3, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    must_digest("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 56,
                "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
    memset(many, 'a', sizeof many);
    must_digest(many, sizeof many, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
    for (size_t i = 0; i < sizeof LETTERS / sizeof LETTERS[0]; i++)
        must_digest(many, LETTERS[i].length, LETTERS[i].digest);
}
END_TEST

static void must_name(const char *key, size_t length, const char *expected)
{
    char name[AFLOCK_KEYED_NAME];
    aflock_keyed_name(key, length, name);
    ck_assert_str_eq(name, expected);
}

START_TEST(readable_names)
{
    must_name("", 0, "%.lock");
    must_name(NULL, 0, "%.lock");
    must_name(NULL, 1, "");
    must_name("user-42_x.y", 11, "user-42_x.y.lock");
    must_name("user/42", 7, "user%2f42.lock");
    must_name("A", 1, "%41.lock");
    must_name("%", 1, "%25.lock");
    must_name("%41", 3, "%2541.lock");
    must_name("..", 2, "%2e..lock");
    must_name("a\0b", 3, "a%00b.lock");
    must_name("\xc3\xa9", 2, "%c3%a9.lock");
    must_name("stripe-1", 8, "stripe-1.lock");
}
END_TEST

enum { KEYS = 20000 };

static int by_text(const void *a, const void *b)
{
    return strcmp(a, b);
}

/* Different keys: short ones of few characters, escaped ones, and long ones that begin alike. */
static size_t make_key(unsigned number, char *key)
{
    static const char LETTERS[] = {'a', 'A', '%', '.', '-', '\0', '/', '2'};
    size_t length = number % 3 == 0 ? 150 : number % 3 == 1 ? 70 : 0;
    memset(key, number % 3 == 0 ? 'x' : '/', length);
    for (unsigned rest = number / 3 + 1; rest > 0; rest /= 8)
        key[length++] = LETTERS[rest % 8];
    if (number % 3 == 0)
        while (length < 300)
            key[length++] = 'y';
    return length;
}

START_TEST(names_never_meet)
{
    static char names[KEYS][AFLOCK_KEYED_NAME];
    char key[400];
    for (unsigned i = 0; i < KEYS; i++) {
        aflock_keyed_name(key, make_key(i, key), names[i]);
        size_t length = strlen(names[i]);
        ck_assert_uint_le(length, 200);
        ck_assert_uint_eq(strspn(names[i], "abcdefghijklmnopqrstuvwxyz0123456789._-%"), length);
        ck_assert(names[i][0] != '.');
    }
    qsort(names, KEYS, sizeof names[0], by_text);
    for (unsigned i = 1; i < KEYS; i++)
        ck_assert_str_ne(names[i - 1], names[i]);
}
END_TEST

/* At the limit, and one more. */
START_TEST(long_names)
{
    char key[300], name[AFLOCK_KEYED_NAME], expected[AFLOCK_KEYED_NAME];
    memset(key, 'a', sizeof key);
    aflock_keyed_name(key, 195, name);
    ck_assert_uint_eq(strlen(name), 200);
    ck_assert_ptr_null(strchr(name, '%'));
    aflock_keyed_name(key, 196, name);
    ck_assert_uint_eq(strlen(name), 200);
    ck_assert_uint_eq(strspn(name, "a"), 129);
    ck_assert_int_eq(strncmp(name + 129, "%-", 2), 0);
    memset(key, '/', sizeof key);
    aflock_keyed_name(key, 65, name);
    ck_assert_uint_eq(strlen(name), 200);
    aflock_keyed_name(key, 66, name); /* cut between two bytes of the key */
    for (int i = 0; i < 43; i++)
        snprintf(expected + 3 * i, sizeof expected - 3 * (size_t)i, "%%2f");
    ck_assert_int_eq(strncmp(name, expected, 129), 0);
    ck_assert_int_eq(strncmp(name + 129, "%-", 2), 0);
}
END_TEST

/* --------------------------------------------------------------------------------------------------------- the locks
 */

START_TEST(a_key_has_one_lock)
{
    make(4, 0);
    aflock *one = get("one"), *two = get("two");
    ck_assert_ptr_ne(one, two);
    ck_assert_ptr_eq(get("one"), one);
    must_be(2, 0);
    put(one);
    must_be(2, 0);
    aflock_req req = scene_hold(one, NULL);
    ck_assert(!scene_is_free("locks/one.lock", LOCK_SH));
    ck_assert_int_eq(access("locks/two.lock", F_OK), -1);
    scene_release(one, req);
    put(one);
    must_be(1, 1);
    ck_assert_int_eq(aflock_keyed_put(keyed, one), AFLOCK_EINVAL);
    ck_assert_ptr_eq(get("one"), one);
    must_be(2, 0);
    put(one);
    put(two);
    must_be(0, 2);
}
END_TEST

START_TEST(idle_locks_are_bounded)
{
    char key[16];
    aflock *kept[3];
    make(3, 0);
    for (int i = 0; i < 10; i++) {
        snprintf(key, sizeof key, "%d", i);
        aflock *lock = get(key);
        if (i >= 7)
            kept[i - 7] = lock;
        put(lock);
        must_be(0, i < 3 ? (size_t)i + 1 : 3);
    }
    ck_assert_ptr_eq(get("7"), kept[0]); /* used again: the newest */
    put(kept[0]);
    put(get("new"));
    must_be(0, 3);
    ck_assert_ptr_eq(get("7"), kept[0]);
    ck_assert_ptr_eq(get("9"), kept[2]);
    must_be(2, 1);
}
END_TEST

/* Put back while it is held: it stays what it is until it is released. */
START_TEST(a_hold_outlives_the_put)
{
    make(0, 0);
    aflock *lock = get("held");
    aflock_req req = scene_hold(lock, NULL);
    put(lock);
    must_be(0, 1);
    ck_assert(!scene_is_free("locks/held.lock", LOCK_SH));
    put(get("other"));
    must_be(0, 1);
    ck_assert_int_eq(scene_release(lock, req).result.status, 0);
    put(get("other"));
    must_be(0, 0);
    ck_assert(scene_is_free("locks/held.lock", LOCK_EX));
}
END_TEST

START_TEST(stripes)
{
    char key[32];
    aflock *seen[4] = {NULL};
    make(8, 4);
    for (int i = 0; i < 100; i++) {
        snprintf(key, sizeof key, "key %d", i);
        aflock *lock = get(key);
        const char *name = strrchr(aflock_path(lock), '/') + 1;
        unsigned stripe;
        ck_assert_int_eq(sscanf(name, "stripe-%u.lock", &stripe), 1);
        ck_assert_uint_lt(stripe, 4);
        ck_assert(!seen[stripe] || seen[stripe] == lock);
        seen[stripe] = lock;
    }
    must_be(4, 0);
    for (int i = 0; i < 4; i++)
        ck_assert_ptr_nonnull(seen[i]);
    aflock *a = get("a");
    ck_assert_ptr_nonnull(strstr(aflock_path(a), "stripe-0.lock")); /* FNV-1a of "a": 0xaf63dc4c8601ec8c */
}
END_TEST

enum { CROWD = 100000, CYCLES = 500 };

START_TEST(a_hundred_thousand_keys_in_use)
{
    static aflock *locks[CROWD];
    make(10, 0);
    for (unsigned i = 0; i < CROWD; i++)
        ck_assert_int_eq(aflock_keyed_get(keyed, &i, sizeof i, &locks[i]), 0);
    must_be(CROWD, 0);
    for (unsigned i = 0; i < CYCLES; i++) {
        aflock *lock = locks[i * (CROWD / CYCLES)], *same;
        unsigned key = i * (CROWD / CYCLES);
        ck_assert_int_eq(aflock_keyed_get(keyed, &key, sizeof key, &same), 0);
        if (same != lock)
            ck_abort_msg("another lock for key %u", key);
        put(same);
        scene_release(lock, scene_hold(lock, NULL));
    }
    for (unsigned i = 0; i < CROWD; i++)
        if (aflock_keyed_put(keyed, locks[i]) != 0)
            ck_abort_msg("key %u cannot be put back", i);
    must_be(0, 10);
}
END_TEST

/* ---------------------------------------------------------------------------------------------------------- the rest
 */

START_TEST(arguments)
{
    aflock *lock;
    aflock_keyed *other;
    aflock_keyed_options o;
    aflock_options p;
    aflock_keyed_options_init(&o);
    aflock_options_init(&p);
    ck_assert_int_eq(aflock_keyed_new(NULL, scene, "locks", NULL), AFLOCK_EINVAL);
    ck_assert_int_eq(aflock_keyed_new(&other, NULL, "locks", NULL), AFLOCK_EINVAL);
    ck_assert_int_eq(aflock_keyed_new(&other, scene, "", NULL), AFLOCK_EINVAL);
    ck_assert_ptr_null(other);
    o.size++;
    ck_assert_int_eq(aflock_keyed_new(&other, scene, "locks", &o), AFLOCK_EINVAL);
    aflock_keyed_options_init(&o);
    o.lock = &p;
    p.size = 0;
    ck_assert_int_eq(aflock_keyed_new(&other, scene, "locks", &o), AFLOCK_EINVAL);
    ck_assert_int_eq(aflock_keyed_new(&keyed, scene, "/tmp", NULL), 0);
    ck_assert_int_eq(aflock_keyed_get(keyed, NULL, 1, &lock), AFLOCK_EINVAL);
    ck_assert_int_eq(aflock_keyed_get(keyed, "x", 1, NULL), AFLOCK_EINVAL);
    ck_assert_int_eq(aflock_keyed_get(NULL, "x", 1, &lock), AFLOCK_EINVAL);
    ck_assert_ptr_null(lock);
    ck_assert_int_eq(aflock_keyed_get(keyed, NULL, 0, &lock), 0);
    ck_assert_str_eq(aflock_path(lock), "/tmp/%.lock");
    ck_assert_int_eq(aflock_keyed_put(keyed, NULL), AFLOCK_EINVAL);
    ck_assert_int_eq(aflock_keyed_put(NULL, lock), AFLOCK_EINVAL);
    ck_assert_uint_eq(aflock_keyed_used(NULL) + aflock_keyed_idle(NULL), 0);
    aflock_keyed_free(NULL);
}
END_TEST

/* Later changes of the working directory are of no concern. */
START_TEST(the_directory_is_that_of_the_beginning)
{
    make(1, 0);
    ck_assert_int_eq(chdir("/"), 0);
    aflock *lock = get("x");
    int status = chdir(scene_directory);
    ck_assert_int_eq(status, 0);
    scene_release(lock, scene_hold(lock, NULL));
    ck_assert_int_eq(access("locks/x.lock", F_OK), 0);
}
END_TEST

START_TEST(a_child_frees_memory)
{
    int status;
    make(1, 0);
    aflock *lock = get("x");
    aflock_req req = scene_hold(lock, NULL);
    pid_t child = fork();
    if (child == 0) {
        bool fine = aflock_keyed_get(keyed, "y", 1, &lock) == AFLOCK_EFORKED;
        aflock_keyed_free(keyed);
        _exit(fine ? EXIT_SUCCESS : EXIT_FAILURE);
    }
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert_int_eq(status, 0);
    ck_assert(!scene_is_free("locks/x.lock", LOCK_SH));
    scene_release(lock, req);
}
END_TEST

int main(void)
{
    const TTest *const names[] = {digests, readable_names, names_never_meet, long_names};
    const TTest *const tests[] = {a_key_has_one_lock,
                                  idle_locks_are_bounded,
                                  a_hold_outlives_the_put,
                                  stripes,
                                  a_hundred_thousand_keys_in_use,
                                  arguments,
                                  the_directory_is_that_of_the_beginning,
                                  a_child_frees_memory};
    Suite *suite = suite_create("recipes: keyed locks");
    TCase *plain = tcase_create("names"), *tcase = tcase_create("keyed");
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        tcase_add_test(plain, names[i]);
    tcase_set_timeout(plain, 60);
    scene_folder(tcase);
    tcase_add_checked_fixture(tcase, scene_begin, end);
    tcase_set_timeout(tcase, 60);
    for (size_t i = 0; i < sizeof tests / sizeof tests[0]; i++)
        tcase_add_test(tcase, tests[i]);
    suite_add_tcase(suite, plain);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
