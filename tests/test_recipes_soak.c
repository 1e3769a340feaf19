/* Semaphores and several locks under everything at once, from a seed: requests with and without deadlines and tokens,
 * cancels, releases and frees at any moment, also from callbacks, with strangers who take and leave the same files.
 * Each accepted request is answered once, nothing is acquired after a cancel, nobody else is in, and in the end all is
 * free.
 *
 *   test_recipes_soak                       every seed
 *   AFLOCK_SEED=N test_recipes_soak         one of them
 */
#include "support/scene.h"

#include <aflock/semaphore.h>
#include <aflock/several.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

enum { SEEDS = 40, STEPS = 400, SLOTS = 2, TAKERS = 12, LISTS = 4, FILES = 4, STRANGERS = 3 };

static unsigned long long dice;

static unsigned roll(unsigned sides)
{
    dice = dice * 6364136223846793005ULL + 1442695040888963407ULL;
    return (unsigned)(dice >> 33) % sides;
}

typedef enum state { IDLE, WAITING, CANCELLED, HOLDING, RELEASING } state;

typedef struct player {
    state state;
    aflock_permit permit;
    aflock_several *list;
    aflock_token *token;
    int holds; /* in a list: files that are ours now, by bits; of a slot: 1 */
    bool is_any;
} player;

static aflock_semaphore *semaphore;
static player takers[TAKERS], lists[LISTS];
static int strangers[STRANGERS];
static int file_holders[FILES], slot_holders;
static unsigned current; /* seed */
static bool is_over;
static unsigned long grants, cancels, refusals;

static void step_in_callback(void);

/* Whether a request may be told so now. */
static void judge(player *p, int status)
{
    ck_assert_msg(p->state == WAITING || p->state == CANCELLED || p->state == RELEASING, "seed %u: told in state %d",
                  current, p->state);
    ck_assert_msg(p->state != CANCELLED || status != 0, "seed %u: acquired after a cancel", current);
    if (p->state == RELEASING)
        ck_assert_int_eq(status, 0);
    else if (status)
        ck_assert_msg(status == AFLOCK_ECANCELED || status == AFLOCK_ETIMEDOUT || status == AFLOCK_EWOULDBLOCK, "%s",
                      aflock_error_name(status));
}

static void drop_token(player *p)
{
    aflock_token_free(p->token);
    p->token = NULL;
}

/* --------------------------------------------------------------------------------------------------------- semaphore
 */

static void on_slot(aflock_semaphore *s, const aflock_semaphore_result *r, void *user)
{
    player *p = user;
    (void)s;
    judge(p, r->status);
    bool won = p->state != RELEASING && r->status == 0;
    p->state = won ? HOLDING : IDLE;
    drop_token(p);
    if (won) {
        grants++;
        slot_holders++;
        ck_assert_int_le(slot_holders, SLOTS);
        ck_assert(!scene_is_free(r->path, LOCK_SH));
    }
    step_in_callback();
}

static void play_taker(player *p)
{
    static const uint64_t TIMEOUTS[] = {AFLOCK_FOREVER, AFLOCK_FOREVER, 0, AFLOCK_MILLISECOND, 5 * AFLOCK_MILLISECOND};
    switch (p->state) {
    case IDLE:
        if (roll(3) == 0)
            ck_assert_int_eq(aflock_token_new(&p->token, scene), 0);
        p->state = WAITING;
        if (aflock_semaphore_acquire(semaphore, TIMEOUTS[roll(5)], p->token, on_slot, p, &p->permit) != 0) {
            refusals++;
            drop_token(p);
            p->state = IDLE;
        }
        break;
    case WAITING:
        if (p->token && roll(2))
            aflock_token_fire(p->token);
        else
            ck_assert_int_eq(aflock_semaphore_cancel(semaphore, p->permit), 0);
        p->state = CANCELLED;
        cancels++;
        break;
    case HOLDING:
        slot_holders--;
        p->state = roll(2) ? RELEASING : IDLE;
        ck_assert_int_eq(aflock_semaphore_release(semaphore, p->permit, p->state == RELEASING ? on_slot : NULL, p), 0);
        break;
    default:
        ck_assert_int_ne(aflock_semaphore_release(semaphore, p->permit, NULL, NULL), 0);
    }
}

/* ------------------------------------------------------------------------------------------------------------- lists
 */

static void enter(player *p, int file)
{
    p->holds |= 1 << file;
    file_holders[file]++;
    ck_assert_int_eq(file_holders[file], 1);
}

static void leave(player *p)
{
    for (int i = 0; i < FILES; i++)
        file_holders[i] -= p->holds >> i & 1;
    p->holds = 0;
}

static int file_of(aflock_several *s, size_t index)
{
    const char *path = aflock_path(aflock_several_lock(s, index));
    return path[strlen(path) - 1] - 'a';
}

static void on_list(aflock_several *s, const aflock_several_result *r, void *user)
{
    player *p = user;
    judge(p, r->status);
    bool won = p->state != RELEASING && r->status == 0;
    p->state = won ? HOLDING : IDLE;
    drop_token(p);
    if (won) {
        grants++;
        int held = 0;
        for (size_t i = 0; i < aflock_several_count(s); i++) {
            if (aflock_several_req(s, i).id == 0)
                continue;
            ck_assert(!scene_is_free(aflock_path(aflock_several_lock(s, i)), LOCK_SH));
            if (!(p->holds >> file_of(s, i) & 1)) {
                enter(p, file_of(s, i));
                held++;
            }
        }
        ck_assert_int_eq(held, p->is_any ? 1 : FILES - 1);
    }
    step_in_callback();
}

static void make_list(player *p, int number)
{
    ck_assert_int_eq(aflock_several_new(&p->list, scene), 0);
    for (int i = 0; i < FILES; i++) {
        char path[8];
        if (i == number)
            continue; /* all but one, each in another order */
        snprintf(path, sizeof path, "%s%c", number % 2 ? "./" : "", 'a' + (i + number * 2) % FILES);
        ck_assert_int_ge(aflock_several_add(p->list, path, AFLOCK_EXCLUSIVE, NULL), 0);
    }
}

static void play_list(player *p)
{
    static const uint64_t TIMEOUTS[] = {AFLOCK_FOREVER, AFLOCK_FOREVER, 0, AFLOCK_MILLISECOND, 5 * AFLOCK_MILLISECOND};
    aflock_acquire_options o;
    switch (p->state) {
    case IDLE:
        if (roll(3) == 0)
            ck_assert_int_eq(aflock_token_new(&p->token, scene), 0);
        aflock_acquire_options_init(&o);
        o.timeout = TIMEOUTS[roll(5)];
        o.token = p->token;
        p->state = WAITING;
        p->is_any = roll(2);
        if ((p->is_any ? aflock_several_any : aflock_several_all)(p->list, &o, on_list, p) != 0) {
            refusals++;
            drop_token(p);
            p->state = IDLE;
        }
        break;
    case WAITING:
        if (p->token && roll(2))
            aflock_token_fire(p->token);
        else
            ck_assert_int_eq(aflock_several_cancel(p->list), 0);
        p->state = CANCELLED;
        cancels++;
        break;
    case HOLDING:
        leave(p);
        p->state = roll(2) ? RELEASING : IDLE;
        ck_assert_int_eq(aflock_several_release(p->list, p->state == RELEASING ? on_list : NULL, p), 0);
        break;
    default:
        ck_assert_int_ne(aflock_several_release(p->list, NULL, NULL), 0);
    }
}

/* ------------------------------------------------------------------------------------------------------------- steps
 */

/* Takes one of the files, as far as that is possible at once, or leaves. */
static void play_stranger(int *fd)
{
    static const char *const NAMES[] = {"s.00.lock", "s.01.lock", "a", "b"};
    if (*fd >= 0) {
        close(*fd);
        *fd = -1;
        return;
    }
    *fd = open(NAMES[roll(4)], O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    ck_assert_int_ge(*fd, 0);
    flock(*fd, LOCK_EX | LOCK_NB);
}

static void step(void)
{
    unsigned what = roll(12);
    if (what < 6)
        play_taker(&takers[roll(TAKERS)]);
    else if (what < 10)
        play_list(&lists[roll(LISTS)]);
    else
        play_stranger(&strangers[roll(STRANGERS)]);
}

static void step_in_callback(void)
{
    if (!is_over && roll(2))
        step();
}

static bool is_idle(player *p, bool is_list)
{
    if (p->state == HOLDING)
        is_list ? play_list(p) : play_taker(p);
    return p->state == IDLE;
}

static bool all_are_idle(void)
{
    bool idle = true;
    for (int i = 0; i < TAKERS; i++)
        idle &= is_idle(&takers[i], false);
    for (int i = 0; i < LISTS; i++)
        idle &= is_idle(&lists[i], true);
    return idle;
}

static void finish(void)
{
    int rounds = 0;
    while (!all_are_idle()) {
        ck_assert_int_eq(aflock_epoll_run_once(scene, 10 * AFLOCK_MILLISECOND), 0);
        ck_assert_msg(++rounds < 20000, "seed %u: somebody is never answered", current);
    }
}

/* Some are waiting or hold when it all ends. */
static void end(bool at_once)
{
    is_over = true;
    for (int i = 0; i < STRANGERS; i++)
        if (strangers[i] >= 0)
            play_stranger(&strangers[i]);
    if (!at_once)
        finish();
    for (int i = 0; i < LISTS; i++) {
        if (lists[i].state == WAITING)
            lists[i].state = CANCELLED;
        aflock_several_free(lists[i].list);
    }
    for (int i = 0; i < TAKERS; i++)
        if (takers[i].state == WAITING)
            takers[i].state = CANCELLED;
    aflock_semaphore_free(semaphore);
}

static void play_seed(unsigned seed)
{
    static const char *const NAMES[] = {"s.00.lock", "s.01.lock", "a", "b", "c", "d"};
    aflock_semaphore_options o;
    aflock_options lock;
    dice = seed * 2654435761ULL + 1;
    memset(takers, 0, sizeof takers);
    memset(lists, 0, sizeof lists);
    memset(file_holders, 0, sizeof file_holders);
    memset(strangers, -1, sizeof strangers);
    slot_holders = 0;
    is_over = false;
    aflock_semaphore_options_init(&o);
    aflock_options_init(&lock);
    lock.io = (aflock_io)(seed % SCENE_IO_COUNT);
    lock.poll_interval = AFLOCK_SECOND;
    o.lock = &lock;
    ck_assert_int_eq(aflock_semaphore_new(&semaphore, scene, ".", "s", SLOTS, &o), 0);
    for (int i = 0; i < LISTS; i++)
        make_list(&lists[i], i);
    for (int i = 0; i < STEPS; i++) {
        step();
        if (roll(3) == 0)
            ck_assert_int_eq(aflock_epoll_run_once(scene, AFLOCK_MILLISECOND), 0);
    }
    end(seed % 4 == 3);
    scene_free_context();
    for (size_t i = 0; i < sizeof NAMES / sizeof NAMES[0]; i++)
        ck_assert_msg(access(NAMES[i], F_OK) != 0 || scene_is_free(NAMES[i], LOCK_EX), "seed %u: %s is held", current,
                      NAMES[i]);
    for (int i = 0; i < TAKERS; i++)
        ck_assert_msg(takers[i].state == IDLE || takers[i].state == HOLDING, "seed %u: taker %d is never answered",
                      current, i);
    for (int i = 0; i < LISTS; i++)
        ck_assert_msg(lists[i].state == IDLE || lists[i].state == HOLDING, "seed %u: list %d is never answered",
                      current, i);
    for (int i = 0; i < TAKERS; i++)
        drop_token(&takers[i]);
}

START_TEST(everything_at_once)
{
    const char *chosen = getenv("AFLOCK_SEED");
    scene_free_context();
    for (unsigned seed = 0; seed < SEEDS; seed++) {
        if (chosen && strtoul(chosen, NULL, 10) != seed)
            continue;
        current = seed;
        scene_make_context();
        play_seed(seed);
    }
    scene_make_context();
    printf("figure: recipes soak: %lu grants, %lu cancels, %lu refusals\n", grants, cancels, refusals);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {everything_at_once, NULL};
    return scene_main_within(120, "recipes: soak", tests, NULL);
}
