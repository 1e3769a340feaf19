/* The scripted driver of machine_driver.h. */
#include "machine_driver.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *path_name(const afl_path *p)
{
    return ((const driver_path *)(const void *)p)->name;
}

static driver_request *request_of(afl_request *r)
{
    return (driver_request *)(void *)r;
}

const char *driver_status_name(int status)
{
    switch (status) {
#define DRIVER_STATUS(name, number, message) \
    case number:                             \
        return #name;
        AFLOCK_ERRORS(DRIVER_STATUS)
#undef DRIVER_STATUS
    default:
        return "unknown";
    }
}

void (*driver_explanation)(void);

void driver_explain(void)
{
    void (*explanation)(void) = driver_explanation;
    driver_explanation = NULL; /* it may fail itself */
    if (explanation)
        explanation();
}

/* --------------------------------------------------------------------------------------------------- the beginning */

void driver_start_with(driver *d, const afl_machine_config *config)
{
    memset(d, 0, sizeof *d);
    afl_machine_init(&d->machine, config);
    d->now = AFLOCK_SECOND;
    d->poll = 50 * MS;
}

void driver_start(driver *d)
{
    const afl_machine_config config = {.handoff_grants = 16,
                                       .handoff_time = 5 * MS,
                                       .handoff_pause = 250 * US,
                                       .pause_interval = 10 * MS,
                                       .check_interval = 5 * MS};
    driver_start_with(d, &config);
}

afl_path *driver_path_new(driver *d, const char *name)
{
    must(d->path_count < DRIVER_PATHS);
    driver_path *p = &d->paths[d->path_count++];
    snprintf(p->name, sizeof p->name, "%s", name);
    afl_path_init(&p->path);
    p->path.hand_on = true;
    p->watchable = true;
    return &p->path;
}

afl_request *driver_request_new(driver *d, const char *name, int mode, void *owner)
{
    must(d->request_count < DRIVER_REQUESTS);
    driver_request *r = &d->requests[d->request_count++];
    snprintf(r->name, sizeof r->name, "%s", name);
    r->request.mode = (uint8_t)mode;
    r->request.owner = owner;
    r->request.poll = &d->poll;
    r->request.timeout = AFLOCK_FOREVER;
    return &r->request;
}

/* ----------------------------------------------------------------------------------------------------- the script */

void driver_submit(driver *d, afl_path *p, afl_request *r, int status)
{
    must(request_of(r)->owed == 0);
    ck_assert_int_eq(afl_machine_submit(&d->machine, p, r, d->now), status);
    request_of(r)->owed = status == 0;
    request_of(r)->cancelled = false;
    must(r->state == (status ? AFL_IDLE : AFL_WAITING));
}

void driver_done(driver *d, afl_path *p, afl_outcome outcome)
{
    must(p->op != AFL_OP_NONE);
    afl_machine_done(&d->machine, p, &outcome, d->now);
    must(p->op == AFL_OP_NONE);
}

void driver_cancel(driver *d, afl_request *r, int status)
{
    ck_assert_int_eq(afl_machine_cancel(&d->machine, r, AFLOCK_ECANCELED, d->now), status);
    request_of(r)->cancelled = status == 0;
}

void driver_release(driver *d, afl_request *r, bool answer)
{
    ck_assert_int_eq(afl_machine_release(&d->machine, r, answer, d->now), 0);
    must(request_of(r)->owed == 0);
    request_of(r)->owed = answer;
    if (!answer)
        must(r->state == AFL_IDLE);
}

void driver_pass(driver *d, uint64_t ns)
{
    uint64_t end = d->now + ns;
    for (uint64_t at; (at = afl_machine_deadline(&d->machine)) <= end;) {
        d->now = at > d->now ? at : d->now;
        afl_machine_expire(&d->machine, d->now);
        driver_collect_actions(d);
    }
    d->now = end;
}

void driver_next_timer(driver *d, uint64_t after)
{
    uint64_t at = afl_machine_deadline(&d->machine);
    ck_assert_msg(at != AFLOCK_FOREVER, "no timer is armed");
    ck_assert_uint_eq(at - d->now, after);
    d->now = at - 1;
    afl_machine_expire(&d->machine, d->now);
    driver_see(d, ""); /* never early */
    d->now = at;
    afl_machine_expire(&d->machine, d->now);
}

void driver_no_timer(const driver *d)
{
    ck_assert_uint_eq(afl_machine_deadline(&d->machine), AFLOCK_FOREVER);
}

/* ------------------------------------------------------------------------------------------------- what it wanted */

static void note(driver *d, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void note(driver *d, const char *format, ...)
{
    va_list arguments;
    if (d->length)
        d->length += (size_t)snprintf(d->text + d->length, DRIVER_TEXT - d->length, "; ");
    va_start(arguments, format);
    d->length += (size_t)vsnprintf(d->text + d->length, DRIVER_TEXT - d->length, format, arguments);
    va_end(arguments);
    must(d->length < DRIVER_TEXT - 64);
}

const char *driver_op_name(afl_op op)
{
    static const char *const NAMES[] = {
        [AFL_OP_NONE] = "none",       [AFL_OP_TRY] = "try",         [AFL_OP_ADOPT] = "adopt",
        [AFL_OP_BEAT] = "beat",       [AFL_OP_RELEASE] = "release", [AFL_OP_WITHDRAW] = "withdraw",
        [AFL_OP_UNWATCH] = "unwatch", [AFL_OP_WATCH] = "watch",     [AFL_OP_INHERIT] = "inherit",
        [AFL_OP_DETACH] = "detach",
    };
    return NAMES[op];
}

static void note_action(driver *d, const afl_action *a)
{
    bool named = a->op == AFL_OP_TRY || a->op == AFL_OP_ADOPT || a->op == AFL_OP_INHERIT;
    must((a->request != NULL) == named);
    note(d, "%s%s%s %s%s%s", driver_op_name(a->op), a->verify ? "+verify" : "", a->convert ? "+convert" : "",
         path_name(a->path), named ? " " : "", named ? request_of(a->request)->name : "");
}

/* What must hold when an operation starts, whatever the script. */
void driver_check_action(const afl_action *a)
{
    const afl_path *p = a->path;
    const afl_request *r = a->request;
    switch (a->op) {
    case AFL_OP_TRY:
        must(p->grip != AFL_GRIP_HELD && !p->holders && p->head == r && r->attempts > 0);
        break;
    case AFL_OP_ADOPT:
        must(p->grip == AFL_GRIP_HELD && p->head == r && !(r->need & ~p->have));
        must(a->convert == (!p->holders && p->mode != r->mode) && (!a->convert || r->mode == SHARED));
        break;
    case AFL_OP_WITHDRAW:
        must((p->grip == AFL_GRIP_KEPT || p->grip == AFL_GRIP_PENDING) && !p->watching);
        break;
    case AFL_OP_RELEASE:
        must(p->grip == AFL_GRIP_HELD && !p->holders);
        break;
    case AFL_OP_BEAT:
        must((p->grip == AFL_GRIP_PENDING && p->head) || (p->grip == AFL_GRIP_HELD && p->holders));
        break;
    case AFL_OP_WATCH:
        must((p->grip == AFL_GRIP_KEPT || p->grip == AFL_GRIP_PENDING) && p->head && !p->watching);
        break;
    default:
        must(a->op == AFL_OP_UNWATCH || p->op == AFL_OP_TRY);
    }
}

void driver_collect_actions(driver *d)
{
    afl_action a;
    while (afl_machine_next(&d->machine, d->now, &a)) {
        note_action(d, &a);
        driver_check_action(&a);
        if (a.op == AFL_OP_TRY)
            ((driver_path *)(void *)a.path)->tried_need = a.request->need;
        bool in_flight = a.op <= AFL_OP_BEAT;
        must(in_flight ? a.path->op == a.op : a.op != AFL_OP_WATCH || a.path->op == AFL_OP_NONE);
        if (a.op == AFL_OP_WATCH)
            afl_machine_watched(&d->machine, a.path, ((driver_path *)(void *)a.path)->watchable, d->now);
    }
}

/* What must hold when an answer is delivered. */
static void check_answer(const driver *d, afl_request *r)
{
    must(r->state == AFL_GRANTED || r->state == AFL_REHELD || r->state == AFL_RELEASED || r->state == AFL_ANSWERED);
    must(request_of(r)->owed == 1);
    must(r->state != AFL_GRANTED || r->status == 0);
    must(r->state == AFL_GRANTED || r->state == AFL_RELEASED || r->status != 0);
    must(!(request_of(r)->cancelled && r->state == AFL_GRANTED));
    must(r->decided >= r->submitted && r->decided <= d->now);
    if (r->state == AFL_ANSWERED && r->status == AFLOCK_ETIMEDOUT)
        must(!r->once && r->decided - r->submitted >= r->timeout);
    if (r->state == AFL_ANSWERED && r->status == AFLOCK_EWOULDBLOCK)
        must(r->once);
    if (r->state != AFL_GRANTED)
        return;
    must(!(r->need & ~r->path->have));
    for (const afl_request *w = r->path->head; w && !r->owner; w = w->next)
        must(w->owner || w->timer.order > r->timer.order); /* first come, first served */
}

void driver_collect_answers(driver *d)
{
    for (afl_request *r; (r = afl_machine_peek(&d->machine));) {
        const char *what = r->state == AFL_GRANTED    ? "held"
                           : r->state == AFL_REHELD   ? "reheld"
                           : r->state == AFL_RELEASED ? "released"
                                                      : driver_status_name(r->status);
        check_answer(d, r);
        note(d, "%s %s", request_of(r)->name, what);
        request_of(r)->owed = 0;
        afl_machine_deliver(&d->machine, r);
    }
}

void driver_clear(driver *d)
{
    d->length = 0;
    d->text[0] = '\0';
}

static void compare(driver *d, const char *expected)
{
    ck_assert_str_eq(d->text, expected);
    driver_clear(d);
}

void driver_want(driver *d, const char *expected)
{
    driver_collect_actions(d);
    driver_check(d);
    compare(d, expected);
}

void driver_see(driver *d, const char *expected)
{
    driver_collect_actions(d);
    driver_check(d);
    driver_collect_answers(d);
    driver_check(d);
    compare(d, expected);
}

static afl_outcome success(const afl_path *p)
{
    switch ((afl_op)p->op) {
    case AFL_OP_TRY:
    case AFL_OP_ADOPT:
        return WON;
    case AFL_OP_BEAT:
        return p->grip == AFL_GRIP_HELD ? REFRESHED : BEATEN;
    default:
        return DONE;
    }
}

void driver_serve(driver *d)
{
    bool more = true;
    while (more) {
        more = false;
        driver_collect_actions(d);
        for (size_t i = 0; i < d->path_count; i++) {
            afl_path *p = &d->paths[i].path;
            if (p->op != AFL_OP_NONE) {
                driver_done(d, p, success(p));
                more = true;
            }
        }
    }
    driver_check(d);
    driver_collect_answers(d);
    driver_check(d);
    driver_clear(d);
}

/* ------------------------------------------------------------------------------------------------- the bookkeeping */

static bool compatible(const afl_request *a, const afl_request *b)
{
    return a == b || (a->owner && a->owner == b->owner && a->mode == b->mode) ||
           (a->mode == SHARED && b->mode == SHARED);
}

/* Returns the number of holders. */
static size_t check_path(const afl_machine *m, const afl_path *p)
{
    size_t holders = 0, waiting = 0;
    for (const afl_request *h = p->holders; h; h = h->next, holders++) {
        must(h->path == p && p->grip == AFL_GRIP_HELD);
        must(h->state == AFL_GRANTED || h->state == AFL_HELD || h->state == AFL_REHELD);
        must(h->mode == p->mode);
        must(!h->next || h->next->prev == h);
        for (const afl_request *other = h->next; other; other = other->next)
            must(compatible(h, other));
    }
    const afl_request *last = NULL;
    for (const afl_request *r = p->head; r; last = r, r = r->next, waiting++) {
        must(r->state == AFL_WAITING);
        must(r->path == p && r->prev == last);
    }
    must(p->tail == last);
    must(p->waiting == waiting);

    /* What was decided is under way: nothing is held for nobody, and nobody waits for nothing. */
    bool armed = afl_timer_armed(&p->timer);
    if (p->op == AFL_OP_NONE && !p->is_ready) {
        must(p->grip == AFL_GRIP_NONE || p->holders || p->head || armed || (p->keep && p->grip == AFL_GRIP_KEPT));
        must(!(p->grip == AFL_GRIP_HELD && !p->holders) || armed);
        must(!p->head || armed || p->holders || p->watching);
        must(!p->releaser || armed);
    }
    must(waiting <= m->waiting);
    return holders;
}

void driver_check_machine(const afl_machine *m, const afl_path *const *paths, size_t count)
{
    uint64_t waiting = 0, holding = 0, releasing = 0, undelivered = 0, owned = 0;
    for (size_t i = 0; i < count; i++) {
        holding += check_path(m, paths[i]);
        waiting += paths[i]->waiting;
        releasing += paths[i]->counted;
    }
    for (const afl_request *r = m->done; r; r = r->done_next)
        undelivered++;
    for (size_t i = 0; i < m->owner_buckets; i++) {
        for (const afl_request *r = m->owners[i]; r; r = r->owner_next, owned++)
            must(r->owner && r->state != AFL_IDLE && r->state != AFL_ANSWERED && r->state != AFL_RELEASED);
    }
    must(m->waiting == waiting);
    must(m->holding == holding);
    must(m->releasing == releasing);
    must(m->undelivered == undelivered);
    must(m->owned == owned);
}

void driver_check(const driver *d)
{
    const afl_path *paths[DRIVER_PATHS];
    for (size_t i = 0; i < d->path_count; i++)
        paths[i] = &d->paths[i].path;
    driver_check_machine(&d->machine, paths, d->path_count);
}

void driver_finish(driver *d)
{
    driver_see(d, "");
    must(d->machine.waiting == 0);
    must(d->machine.undelivered == 0);
    must(d->machine.holding == 0);
    must(d->machine.releasing == 0);
    must(d->machine.owned == 0);
    driver_no_timer(d);
    must(!d->machine.ready);
    for (size_t i = 0; i < d->request_count; i++) {
        must(d->requests[i].owed == 0);
        must(d->requests[i].request.state == AFL_IDLE);
    }
    for (size_t i = 0; i < d->path_count; i++) {
        must(d->paths[i].path.grip == AFL_GRIP_NONE);
        must(d->paths[i].path.op == AFL_OP_NONE);
        must(!d->paths[i].path.watching);
        afl_machine_forget(&d->machine, &d->paths[i].path);
    }
}

void driver_hold(driver *d, afl_path *p, afl_request *r)
{
    driver_submit(d, p, r, 0);
    driver_collect_actions(d);
    ck_assert_int_eq(p->op, AFL_OP_TRY);
    driver_done(d, p, WON);
    driver_collect_actions(d);
    driver_collect_answers(d);
    ck_assert_int_eq(r->state, AFL_HELD);
    driver_clear(d);
}

int driver_run(const char *suite, void (*setup)(void), const TTest *const *tests)
{
    Suite *s = suite_create(suite);
    TCase *cases = tcase_create(suite);
    tcase_set_timeout(cases, 60);
    tcase_add_checked_fixture(cases, setup, NULL);
    for (; *tests; tests++)
        tcase_add_test(cases, *tests);
    suite_add_tcase(s, cases);
    return driver_run_suite(s);
}

int driver_run_suite(Suite *suite)
{
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
