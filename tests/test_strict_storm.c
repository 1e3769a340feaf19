/* Strict locks between processes: many that contend, and holders that are killed. Never two at a time, everybody gets a
 * turn, and what the dead leave blocks until it is broken by name: two claims at most. */
#include "support/rivals.h"
#include "support/strict_scene.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { TURNS = 40, KILLS = 60, PATIENCE_S = 100 };

static aflock *onlooker; /* who breaks claims, */
static int left;         /* ... so many */

static aflock *open_as_rival(int self)
{
    aflock *lock;
    aflock_options o = strict_options(self % SCENE_IO_COUNT);
    o.wait = self % 2 ? AFLOCK_WAIT_NOTIFY : AFLOCK_WAIT_POLL;
    o.poll_interval = 5 * AFLOCK_MILLISECOND;
    ck_assert_int_eq(aflock_open(&lock, scene, "lock", &o), 0);
    return lock;
}

/* The claims of a process that is dead, broken by name as an operator does. */
static int break_claims_of(aflock *lock, pid_t dead)
{
    int broken = 0;
    strict_sight s = strict_look(lock);
    ck_assert_msg(s.holder.status == 0, "%s", s.detail);
    for (uint32_t i = 0; i < s.holder.claim_count && i < 8; i++) {
        if (s.claims[i].pid != dead)
            continue;
        ck_assert(s.claims[i].here && s.claims[i].gone);
        ck_assert_int_eq(strict_break(lock, s.claims[i].name).result.status, 0);
        broken++;
    }
    return broken;
}

/* While it is not broken nobody gets it, however often they try. */
static void must_block(void)
{
    int before[RIVALS_MAX], after[RIVALS_MAX];
    rivals_turns(before);
    usleep(20000);
    rivals_turns(after);
    ck_assert_int_eq(memcmp(before, after, sizeof before), 0);
}

static void break_what_is_left(pid_t dead, bool holder)
{
    if (holder)
        must_block();
    const int broken = break_claims_of(onlooker, dead);
    ck_assert_int_le(broken, 2);
    left += broken;
}

static const rivals six = {.count = 6,
                           .patience_s = PATIENCE_S,
                           .hold_us = 200,
                           .others_us = 500,
                           .open = open_as_rival,
                           .buried = break_what_is_left};

START_TEST(they_contend)
{
    rivals_begin(&six);
    rivals_await(TURNS);
    rivals_end();
    strict_must_have(0);
    ck_assert_int_eq(scene_entries("."), 2);
}
END_TEST

START_TEST(holders_are_killed)
{
    onlooker = strict_open(AFLOCK_IO_INLINE);
    rivals_begin(&six);
    rivals_await(1);
    const int held = rivals_kill(KILLS);
    rivals_end();
    printf("%d kills, %d of them of holders, %d claims broken\n", KILLS, held, left);
    ck_assert_int_ge(held, KILLS / 4);
    ck_assert_int_ge(left, 2 * held);
    usleep(2100000); /* private records that were left are removed then */
    strict_must_get(onlooker);
}
END_TEST

int main(void)
{
    const TTest *const once[] = {they_contend, holders_are_killed, NULL};
    return scene_main_within(2 * PATIENCE_S, "strict storm", once, NULL);
}
