/* The machine in every state: worlds of up to 4 requests and 2 holders outside, each walked completely.
 * --help says how it is called.
 *
 * Two sorts of worlds: those below, each with a promise of the machine in view, and the mixtures, any N requests of
 * KINDS (a letter each) with everything that one sort of file can do. When something does not hold, the shortest
 * sequence of moves that leads there is told; NAME walks the world again.
 */
#include "support/walk_search.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define X .mode = EXCLUSIVE
#define S .mode = SHARED
#define A .owner = 'A'
#define B .owner = 'B'

/* In units: attempts each 2, runs of 2 grants or 2 units, pauses of 1 each 3, a check after 2. */
#define USUAL .poll = 2, .grants = 2, .run = 2, .pause = 1, .pause_interval = 3, .check = 2
#define ONE_PATH USUAL, .paths = 1
#define TWO_PATHS USUAL, .paths = 2

enum {
    WATCH = WALK_NOTIFY | WALK_HINTS | WALK_RENEWED,
    TROUBLE = WALK_ERRORS | WALK_ADOPT_TROUBLE | WALK_UNDO_FAILS | WALK_END_RELEASE,
    LATE = WALK_LATE | WALK_LATE_ANSWERS | WALK_TICKS,
};

typedef enum form { QUICK, SHORT, LONG } form;

typedef struct entry {
    walk_world world;
    form form;
} entry;

/* clang-format off */
static const entry WORLDS[] = {
    /* who comes first, who holds with whom, when the file is given up for others */
    {{"strangers", {{X}, {X}, {X}, {X}}, 4, .outside = 2, ONE_PATH, .may = WALK_UNANSWERED | WALK_TICKS}, QUICK},
    {{"readers", {{S}, {S}, {S}, {X}}, 4, .outside = 2, ONE_PATH, .may = WALK_TICKS}, QUICK},
    {{"modes", {{X}, {X}, {S}, {S}}, 4, .outside = 2, ONE_PATH, .may = WALK_UNANSWERED | WALK_TICKS}, SHORT},
    {{"not-handed-on", {{X}, {S}, {S}, {X, .adopt = true}}, 4, .outside = 2, ONE_PATH, .may = WALK_NO_HAND_ON},
     SHORT},
    {{"nothing-kept", {{X}, {S, .once = true}, {S}, {X}}, 4, .outside = 2, ONE_PATH, .may = WALK_NONE_KEPT}, SHORT},
    {{"needs", {{X, .need = 1}, {S, .need = 1}, {S}, {S, .need = 2}}, 4, .outside = 2, ONE_PATH, .may = WALK_ERRORS},
     SHORT},
    /* deadlines and attempts in every order */
    {{"deadlines", {{X, .timeout = 1}, {X, .timeout = 3}, {S, .timeout = 2}}, 3, .outside = 1, ONE_PATH,
     .may = WALK_ERRORS}, QUICK},
    {{"deadlines-of-four", {{X, .timeout = 1}, {X, .timeout = 3}, {S, .timeout = 2}, {X}}, 4, .outside = 2, ONE_PATH,
     .may = WALK_TICKS | WALK_ERRORS | WALK_ADOPT_TROUBLE}, LONG},
    {{"once", {{X, .once = true}, {S, .once = true, .timeout = 1}, {X, .once = true, .adopt = true}, {S}}, 4,
     .outside = 2, ONE_PATH, .may = WALK_ERRORS | WALK_ADOPT_TROUBLE | WALK_UNANSWERED}, SHORT},
    {{"poll-intervals", {{X}, {X, .timeout = 3}}, 2, .outside = 1, ONE_PATH,
     .may = WALK_REPOLL | WALK_TICKS | WALK_NOTIFY | WALK_HINTS}, SHORT},
    {{"ladder", {{X}, {S}}, 2, .outside = 1, ONE_PATH, .may = WALK_LADDER | WALK_NOTIFY | WALK_HINTS | WALK_REPOLL},
     QUICK},
    {{"ladder-of-three", {{X}, {S}, {X}}, 3, .outside = 1, ONE_PATH, .may = WALK_LADDER | WALK_NOTIFY | WALK_HINTS},
     LONG},
    /* wake-ups and listening */
    {{"watched", {{X}, {X}, {S}}, 3, .outside = 1, ONE_PATH, .may = WATCH}, SHORT},
    {{"watched-by-four", {{X}, {X, .timeout = 3}, {S}, {S}}, 4, .outside = 2, ONE_PATH, .may = WATCH | WALK_ERRORS},
     LONG},
    /* somebody outside wants what is held */
    {{"yields", {{X}, {S}, {S}}, 3, .outside = 1, ONE_PATH, .may = WALK_YIELD | WALK_TICKS}, QUICK},
    {{"yields-in-trouble", {{X, A}, {X, A}, {S, .timeout = 3}}, 3, .outside = 1, .failures = 1, ONE_PATH,
     .may = WALK_YIELD | WALK_KEEP | TROUBLE}, LONG},
    /* a file that stays open */
    {{"kept-open", {{X}, {X}, {S}}, 3, .outside = 1, ONE_PATH, .may = WALK_KEEP | WALK_TICKS}, QUICK},
    {{"kept-open-watched", {{X}, {X, .timeout = 3}, {S, .once = true}}, 3, .outside = 1, ONE_PATH,
     .may = WALK_KEEP | WATCH}, SHORT},
    {{"kept-open-in-trouble", {{X}, {X, .timeout = 3, .adopt = true}, {S}}, 3, .outside = 1, .failures = 1, ONE_PATH,
     .may = WALK_KEEP | WATCH | TROUBLE}, LONG},
    /* attempts that take as long as others have the file */
    {{"parked", {{X, .timeout = 3}, {X}, {S}}, 3, .outside = 2, ONE_PATH, .may = WALK_PARK | WALK_TICKS}, QUICK},
    {{"parked-of-four", {{X, .timeout = 3}, {S, .timeout = 3}, {S, .once = true}, {X, A}}, 4, .outside = 2, ONE_PATH,
     .may = WALK_PARK | WALK_TICKS}, SHORT},
    {{"parked-watched", {{X, .timeout = 3}, {S}, {S, .need = 1}}, 3, .outside = 1, ONE_PATH,
     .may = WALK_PARK | WATCH | WALK_KEEP}, LONG},
    {{"parked-in-trouble", {{X, .timeout = 3}, {S, .timeout = 3}, {X, .adopt = true}}, 3, .outside = 1, .failures = 1,
     ONE_PATH, .may = WALK_PARK | WALK_KEEP | TROUBLE}, LONG},
    /* claims that block others, and must be beaten */
    {{"claims", {{X}, {X}, {S}}, 3, .outside = 1, .beat = 1, ONE_PATH, .may = WALK_PENDING | WALK_ERRORS}, QUICK},
    {{"claims-of-four", {{X}, {X, .timeout = 3}, {S}, {S, .once = true}}, 4, .outside = 2, .beat = 1, .failures = 1,
     ONE_PATH, .may = WALK_PENDING | WALK_ERRORS | WALK_UNDO_FAILS | WATCH}, LONG},
    {{"claims-without-beat", {{X}, {S}, {X, .timeout = 1}}, 3, .outside = 1, .failures = 1, ONE_PATH,
     .may = WALK_PENDING | WALK_ERRORS | WALK_UNDO_FAILS}, SHORT},
    {{"claims-watched", {{X, .timeout = 3}, {X}, {S}}, 3, .outside = 1, ONE_PATH, .may = WALK_PENDING | WATCH}, QUICK},
    {{"claims-beaten-and-watched", {{X}, {S}, {X, .once = true}}, 3, .outside = 1, .beat = 1, ONE_PATH,
     .may = WALK_PENDING | WATCH | WALK_ERRORS}, SHORT},
    {{"claims-watched-in-trouble", {{X, .adopt = true}, {S, A}, {X, B, .timeout = 3}}, 3, .outside = 1, .failures = 1,
     ONE_PATH, .may = WALK_PENDING | WALK_NOTIFY | WALK_HINTS | WALK_KEEP | TROUBLE}, LONG},
    {{"claims-watched-by-four", {{X, .timeout = 3}, {X, A}, {S}, {S}}, 4, .outside = 2, ONE_PATH,
     .may = WALK_PENDING | WATCH | WALK_UNANSWERED}, LONG},
    /* what expires unless it is refreshed, and may be lost */
    {{"leases", {{X}, {X, A}, {X, A}}, 3, .outside = 1, .beat = 2, ONE_PATH,
     .may = WALK_LOSE | WALK_NO_HAND_ON | WALK_TICKS}, QUICK},
    {{"leases-of-four", {{X, A}, {X, A}, {X, .timeout = 3}, {X, B, .once = true}}, 4, .outside = 1, .beat = 2,
     .failures = 1, ONE_PATH, .may = WALK_LOSE | WALK_NO_HAND_ON | WALK_ERRORS | WALK_UNDO_FAILS | WATCH}, LONG},
    {{"leases-shared", {{S, A}, {S, A}, {X}}, 3, .outside = 1, .beat = 1, ONE_PATH,
     .may = WALK_LOSE | WALK_PENDING | WALK_ERRORS}, SHORT},
    {{"leases-shared-of-four", {{S, A}, {S}, {S, A}, {X}}, 4, .outside = 1, .beat = 1, ONE_PATH,
     .may = WALK_LOSE | WALK_PENDING | WALK_ERRORS}, LONG},
    {{"leases-on-two-paths", {{X, A, .path = 0}, {X, A, .path = 1}, {X, B, .path = 0}, {X, B, .path = 1}}, 4, .beat = 3,
     TWO_PATHS, .may = WALK_ONLY_UNANSWERED | WALK_UNCONTENDED | WALK_NO_HAND_ON | WALK_LOSE}, SHORT},
    /* readers who join what is never handed on, and releases for which others have to make way first */
    {{"readers-join", {{S}, {S, .timeout = 3}, {S, A}, {X}}, 4, .outside = 1, .failures = 1, ONE_PATH,
     .may = WALK_NO_HAND_ON | WALK_JOIN | WALK_PENDING | WALK_UNDO_LATER}, QUICK},
    {{"readers-join-what-expires", {{S, A}, {S}, {S}, {X}}, 4, .outside = 1, .beat = 2, .failures = 2, ONE_PATH,
     .may = WALK_NO_HAND_ON | WALK_JOIN | WALK_PENDING | WALK_UNDO_LATER | WALK_LOSE | WALK_ADOPT_TROUBLE}, SHORT},
    {{"readers-join-in-trouble", {{S, A}, {S}, {X}}, 3, .outside = 1, .beat = 1, .failures = 1, ONE_PATH,
     .may = WALK_NO_HAND_ON | WALK_JOIN | WALK_PENDING | WALK_UNDO_LATER | WALK_LOSE | WALK_UNANSWERED | TROUBLE}, LONG},
    /* what comes between winning and holding */
    {{"adopt", {{X, .adopt = true}, {S, .adopt = true}, {S, .spelling = 1}}, 3, .outside = 1, ONE_PATH,
     .may = WALK_ADOPT_TROUBLE | WALK_TICKS}, QUICK},
    {{"adopt-of-four", {{X, .adopt = true}, {S, .adopt = true}, {S, .spelling = 1}, {X, .timeout = 3, .adopt = true}},
     4, .outside = 2, .failures = 1, ONE_PATH, .may = TROUBLE | WALK_TICKS}, LONG},
    /* what cannot be given up */
    {{"releases", {{X}, {S}, {S}}, 3, .outside = 1, .failures = 2, ONE_PATH,
     .may = WALK_UNDO_FAILS | WALK_END_RELEASE | WALK_UNANSWERED}, QUICK},
    {{"releases-failing-on", {{X}, {S}}, 2, .outside = 1, .failures = 9, ONE_PATH,
     .may = WALK_UNDO_FAILS | WALK_END_RELEASE | WALK_NO_HAND_ON}, QUICK},
    {{"releases-for-long", {{X}, {S, .timeout = 15}}, 2, .outside = 1, .failures = 9, ONE_PATH,
     .may = WALK_UNDO_FAILS | WALK_END_RELEASE | WALK_NO_HAND_ON}, LONG},
    {{"releases-of-four", {{X, A}, {X, A}, {S}, {X, .adopt = true}}, 4, .outside = 2, .failures = 2, ONE_PATH,
     .may = TROUBLE | WALK_UNANSWERED}, LONG},
    /* owners */
    {{"owners", {{X, A}, {X, A}, {X}, {X, B}}, 4, .outside = 1, ONE_PATH}, QUICK},
    {{"owners-modes", {{X, A}, {S, A}, {S, B}, {S}}, 4, .outside = 2, ONE_PATH, .may = WALK_TICKS}, QUICK},
    {{"owners-needs", {{S, A, .need = 1}, {S, A, .need = 2}, {S, A}, {X, B}}, 4, .outside = 1, ONE_PATH,
     .may = WALK_ADOPT_TROUBLE}, SHORT},
    {{"owners-in-trouble", {{X, A, .adopt = true}, {X, A, .timeout = 3}, {S, A, .once = true}, {S, B}}, 4,
     .outside = 1, .failures = 1, ONE_PATH, .may = TROUBLE}, LONG},
    /* owners on two paths: who waits for whom */
    {{"cycles", {{X, A, .path = 0}, {X, A, .path = 1}, {X, B, .path = 0}, {X, B, .path = 1}}, 4, TWO_PATHS,
     .may = WALK_ONLY_UNANSWERED | WALK_UNCONTENDED}, SHORT},
    {{"cycles-of-three", {{X, A, .path = 0}, {S, A, .path = 1}, {X, B, .path = 2}, {S, .path = 1}}, 4, TWO_PATHS,
     .may = WALK_ONLY_UNANSWERED | WALK_UNCONTENDED}, SHORT},
    {{"cycles-answered", {{X, A, .path = 0}, {X, A, .path = 1}, {X, B, .path = 0}, {X, B, .path = 1}}, 4, TWO_PATHS},
     LONG},
    {{"cycles-of-readers", {{S, A, .path = 0}, {X, A, .path = 1}, {X, B, .path = 0}, {S, B, .path = 1}}, 4,
     TWO_PATHS}, LONG},
    {{"cycles-with-a-stranger", {{X, A, .path = 0}, {X, A, .path = 1}, {X, B, .path = 2}, {X, .path = 2}}, 4,
     TWO_PATHS}, LONG},
    {{"cycles-anywhere", {{X, A, .path = 2}, {X, A, .path = 2}, {X, B, .path = 2}, {X, B, .path = 2}}, 4, TWO_PATHS,
     .may = WALK_ONLY_UNANSWERED | WALK_UNCONTENDED}, LONG},
    {{"cycles-modes-anywhere", {{X, A, .path = 2}, {S, A, .path = 2}, {S, B, .path = 2}, {X, B, .path = 2}}, 4,
     TWO_PATHS, .may = WALK_ONLY_UNANSWERED | WALK_UNCONTENDED}, LONG},
    {{"cycles-stale", {{S, A, .path = 0}, {X, A, .path = 1}, {S, B, .path = 0, .spelling = 1}, {X, B, .path = 1}}, 4,
     TWO_PATHS, .may = WALK_ONLY_UNANSWERED | WALK_UNCONTENDED | WALK_ADOPT_TROUBLE}, SHORT},
    {{"cycles-reheld", {{X, A, .path = 0}, {X, A, .path = 1}, {X, B, .path = 0}, {X, B, .path = 1}}, 4, TWO_PATHS,
     .may = WALK_UNCONTENDED | WALK_UNDO_FAILS}, SHORT},
    /* two paths that turn out to be one */
    {{"merge", {{X, .path = 2}, {S, .path = 1}, {X, .path = 0}}, 3, .outside = 1, TWO_PATHS, .may = WALK_MERGE},
     SHORT},
    {{"merge-once", {{X, .path = 1, .once = true}, {S, .path = 0, .adopt = true}, {X, .path = 0}}, 3, .outside = 1,
     TWO_PATHS, .may = WALK_MERGE}, QUICK},
    {{"merge-of-four", {{X, .path = 2}, {S, .path = 1, .adopt = true}, {X, .path = 2}, {S, .path = 0}}, 4,
     .outside = 2, TWO_PATHS, .may = WALK_MERGE | WALK_ERRORS | WALK_ADOPT_TROUBLE}, LONG},
    {{"merge-watched", {{X, .path = 1}, {S, .path = 0}, {X, .path = 1, .timeout = 3}}, 3, .outside = 1, TWO_PATHS,
     .may = WALK_MERGE | WATCH}, LONG},
    {{"merge-owners", {{X, A, .path = 2}, {S, A, .path = 1}, {X, B, .path = 2}, {S, .path = 0, .once = true}}, 4,
     .outside = 1, TWO_PATHS, .may = WALK_MERGE | WALK_ERRORS}, SHORT},
    {{"late-parked", {{X, .timeout = 1}, {X}, {S}}, 3, .outside = 1, ONE_PATH, .may = LATE | WALK_PARK | WALK_KEEP}, LONG},
    /* a program that comes late to its timers, and does several things before it settles */
    {{"late", {{X, .timeout = 1}, {X}}, 2, .outside = 1, ONE_PATH, .may = LATE}, QUICK},
    {{"late-watched", {{X}, {X}}, 2, .outside = 1, ONE_PATH, .may = WALK_LATE | WALK_NOTIFY | WALK_HINTS}, QUICK},
    {{"late-modes", {{X}, {X}, {S}, {S}}, 4, .outside = 2, ONE_PATH, .may = LATE | WALK_UNANSWERED}, LONG},
    {{"late-deadlines", {{X, .timeout = 1}, {X, .once = true}, {S, .timeout = 3}}, 3, .outside = 1, ONE_PATH,
     .may = LATE | WATCH}, LONG},
    {{"late-trouble", {{X, .adopt = true}, {S, A}, {S, A, .timeout = 3}}, 3, .outside = 1, .failures = 1, ONE_PATH,
     .may = LATE | TROUBLE}, LONG},
    {{"late-claims", {{X, .timeout = 1}, {X}, {S}}, 3, .outside = 1, .beat = 1, .failures = 1, ONE_PATH,
     .may = LATE | WALK_PENDING | WALK_ERRORS | WALK_UNDO_FAILS}, LONG},
    {{"late-merge", {{X, .path = 1}, {S, .path = 0}, {X, .path = 2}}, 3, .outside = 1, TWO_PATHS,
     .may = LATE | WALK_MERGE}, LONG},
};
/* clang-format on */
enum { COUNT = sizeof WORLDS / sizeof WORLDS[0] };

/* --------------------------------------------------------------------------------------------------------- mixtures */

static const walk_attributes KINDS[] = {
    {X}, /* a */
    {S},
    {X, .adopt = true},
    {S, .timeout = 3}, /* d */
    {X, .once = true, .timeout = 2},
    {X, A},
    {S, A}, /* g */
    {S, .adopt = true, .spelling = 1},
    {X, .timeout = 1},
    {S, .once = true}, /* j */
    {X, B, .adopt = true},
    {S, B, .need = 1},
};
#define LETTERS "abcdefghijkl"
_Static_assert(sizeof KINDS / sizeof KINDS[0] == sizeof LETTERS - 1, "a letter for each kind");

/* What happens to a mixture, by name: the file makes trouble; it is listened for; claims are left. */
static const walk_world MIXTURES[] = {
    {"trouble-", .outside = 2, .failures = 1, ONE_PATH, .may = TROUBLE},
    {"watch-", .outside = 2, ONE_PATH, .may = WATCH | WALK_ERRORS | WALK_UNANSWERED},
    {"claims-", .outside = 2, .beat = 1, .failures = 1, ONE_PATH, .may = WALK_PENDING | WALK_ERRORS | WALK_UNDO_FAILS},
    {"leases-", .outside = 1, .beat = 2, .failures = 1, ONE_PATH,
     .may = WALK_LOSE | WALK_NO_HAND_ON | WALK_ERRORS | WALK_UNDO_FAILS},
};

enum { MIXTURE_COUNT = sizeof MIXTURES / sizeof MIXTURES[0] };

static walk_world mixture(const walk_world *plan, const char *letters)
{
    static char name[32];
    walk_world w = *plan;
    w.count = (uint8_t)strlen(letters);
    must(w.count <= WALK_REQUESTS);
    snprintf(name, sizeof name, "%s%s", plan->name, letters);
    w.name = name;
    for (size_t i = 0; i < w.count; i++)
        w.requests[i] = KINDS[letters[i] - 'a'];
    return w;
}

/* Goes to the next mixture of `count` letters, none before the one on its left nor beyond `last`. */
static bool next_mixture(char *letters, size_t count, char last)
{
    size_t i = count;
    while (i > 0 && letters[i - 1] == last)
        i--;
    if (i == 0)
        return false;
    char letter = (char)(letters[i - 1] + 1);
    for (i--; i < count; i++)
        letters[i] = letter;
    return true;
}

/* ------------------------------------------------------------------------------------------------------- the tests */

static const char *chosen[COUNT];
static int chosen_count;

static struct mixing {
    size_t count; /* requests in a mixture; 0: no mixtures */
    char last;    /* kind */
} mixing;
static uint64_t most_names;

/* What the worlds had together; each group is walked in a process of its own. */
static struct totals {
    uint64_t worlds, states, transitions, compared;
    double sequences;
} * totals;

static walk_figures count(walk_figures f)
{
    totals->worlds++;
    totals->states += f.states;
    totals->transitions += f.transitions;
    totals->sequences += f.sequences;
    return f;
}

static void tell(const char *name, walk_figures f)
{
    printf("%-24s %10" PRIu64 " states, %11" PRIu64 " transitions, the farthest after %u moves, the end after %u\n",
           name, f.states, f.transitions, f.depth, f.longest_end);
    fflush(stdout);
}

static walk_world world_named(const char *name)
{
    for (size_t i = 0; i < COUNT; i++)
        if (strcmp(name, WORLDS[i].world.name) == 0)
            return WORLDS[i].world;
    for (size_t i = 0; i < MIXTURE_COUNT; i++) {
        size_t length = strlen(MIXTURES[i].name);
        if (strncmp(name, MIXTURES[i].name, length) == 0 && strspn(name + length, LETTERS) == strlen(name + length))
            return mixture(&MIXTURES[i], name + length);
    }
    ck_abort_msg("there is no world %s", name);
}

START_TEST(world)
{
    walk_world w = world_named(chosen[_i]);
    tell(w.name, count(walk_through(&w)));
}
END_TEST

START_TEST(mixtures)
{
    char letters[WALK_REQUESTS + 1] = {0};
    const walk_world *plan = &MIXTURES[_i];
    walk_figures all = {0};
    memset(letters, 'a', mixing.count);
    do {
        walk_world w = mixture(plan, letters);
        walk_figures f = count(walk_through(&w));
        all.states += f.states;
        all.transitions += f.transitions;
        all.depth = f.depth > all.depth ? f.depth : all.depth;
        all.longest_end = f.longest_end > all.longest_end ? f.longest_end : all.longest_end;
    } while (next_mixture(letters, mixing.count, mixing.last));
    tell(plan->name, all);
}
END_TEST

/* What the names of states leave out makes no difference. */
static const walk_world SMALL[] = {
    {"trouble",
     {{X, .adopt = true}, {X, .adopt = true}, {S, A}},
     3,
     .outside = 1,
     .failures = 1,
     ONE_PATH,
     .may = TROUBLE | WALK_TICKS},
    {"watch", {{X, .timeout = 3}, {S}, {S}}, 3, .outside = 1, ONE_PATH, .may = WATCH | WALK_REPOLL},
    {"claims", {{X}, {X}, {S, .timeout = 1}}, 3, .outside = 1, .beat = 1, ONE_PATH, .may = WALK_PENDING},
    {"late", {{X, .timeout = 1}, {X}, {X}}, 3, .outside = 1, ONE_PATH, .may = LATE},
    {"merge", {{X, A, .path = 0}, {X, A, .path = 0}, {X, B, .path = 2}}, 3, TWO_PATHS, .may = WALK_MERGE},
    {"parked", {{X, .timeout = 3}, {X}, {S}}, 3, .outside = 1, ONE_PATH, .may = WALK_PARK | WALK_KEEP | WALK_NOTIFY},
};
enum { NAMES = sizeof SMALL / sizeof SMALL[0] };

START_TEST(names)
{
    totals->compared += walk_compare(&SMALL[_i], most_names).compared;
}
END_TEST

START_TEST(answers_that_nobody_waits_for)
{
    static afl_path untouched;
    walk_begin(&WORLDS[0].world);
    afl_path *p = &walk_now.paths[0];
    memcpy(&untouched, p, sizeof untouched);
    afl_machine_done(&walk_now.machine, p, &WON, walk_now.now);
    ck_assert_mem_eq(p, &untouched, sizeof untouched);
    ck_assert_ptr_null(walk_now.machine.ready);
}
END_TEST

static int list(void)
{
    for (size_t i = 0; i < COUNT; i++)
        printf("%s\n", WORLDS[i].world.name);
    for (size_t i = 0; i < MIXTURE_COUNT; i++)
        printf("%s and up to %d of the letters %s\n", MIXTURES[i].name, WALK_REQUESTS, LETTERS);
    return EXIT_SUCCESS;
}

static void choose(form longest)
{
    for (size_t i = 0; i < COUNT; i++)
        if (WORLDS[i].form <= longest)
            chosen[chosen_count++] = WORLDS[i].world.name;
}

/* False: that is not how it is called. */
static bool understand(int argc, char **argv)
{
    const char *option = argc > 1 ? argv[1] : "--short";
    if (option[0] != '-') {
        while (chosen_count + 1 < argc && chosen_count < COUNT) {
            chosen[chosen_count] = argv[chosen_count + 1];
            chosen_count++;
        }
    } else if (strcmp(option, "--short") == 0) {
        choose(SHORT);
        mixing = (struct mixing){2, 'f'};
        most_names = 10000;
    } else if (strcmp(option, "--quick") == 0) {
        choose(QUICK);
        most_names = 2000;
    } else if (strcmp(option, "--all") == 0) {
        choose(LONG);
        most_names = 2000000;
    } else if (strcmp(option, "--mixtures") == 0 && argc == 4) {
        mixing = (struct mixing){(size_t)atoi(argv[2]), argv[3][0]};
        return mixing.count <= WALK_REQUESTS && strchr(LETTERS, mixing.last);
    } else {
        return false;
    }
    return true;
}

static void add_case(Suite *s, const char *name, const TTest *test, int times)
{
    TCase *cases = tcase_create(name);
    tcase_set_timeout(cases, 7200); /* each is finite; ctest has the watchdog */
    tcase_add_loop_test(cases, test, 0, times);
    suite_add_tcase(s, cases);
}

static int usage(FILE *to, int status)
{
    fputs("usage: test_machine_walk [--quick]               the short form; shorter still, for instrumented builds\n"
          "       test_machine_walk --all                   all worlds but the mixtures\n"
          "       test_machine_walk --mixtures N LETTER     all mixtures of N requests of the kinds up to LETTER\n"
          "       test_machine_walk --list                  the names of the worlds\n"
          "       test_machine_walk NAME...                 these worlds\n",
          to);
    return status;
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "--help") == 0)
        return usage(stdout, EXIT_SUCCESS);
    if (argc == 2 && strcmp(argv[1], "--list") == 0)
        return list();
    if (!understand(argc, argv))
        return usage(stderr, 2);
    totals = mmap(NULL, sizeof *totals, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (totals == MAP_FAILED)
        return EXIT_FAILURE;
    Suite *s = suite_create("machine: walk");
    add_case(s, "worlds", world, chosen_count);
    add_case(s, "mixtures", mixtures, mixing.count ? MIXTURE_COUNT : 0);
    add_case(s, "names", names, most_names ? NAMES : 0);
    add_case(s, "answers", answers_that_nobody_waits_for, 1);
    int status = driver_run_suite(s);
    printf("figure: walk: %" PRIu64 " worlds, %" PRIu64 " states, %" PRIu64
           " transitions, %.1e sequences of %d moves\n",
           totals->worlds, totals->states, totals->transitions, totals->sequences, WALK_SEQUENCE);
    if (totals->compared)
        printf("figure: walk: %" PRIu64 " states compared with nothing left out\n", totals->compared);
    return status;
}
