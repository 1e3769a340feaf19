/* The world of walk_world.h: its moves, and the names of its states. */
#include "walk_world.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

walk_state walk_now;
bool walk_tells;

static char owners[4];

static bool may(const walk_world *w, uint32_t what)
{
    return (w->may & what) != 0;
}

/* --------------------------------------------------------------------------------------------------- the beginning */

static void begin_path(const walk_world *w, size_t i)
{
    afl_path *p = &walk_now.paths[i];
    afl_path_init(p);
    p->hand_on = !may(w, WALK_NO_HAND_ON);
    p->join = may(w, WALK_JOIN);
    p->notify = may(w, WALK_NOTIFY);
    p->keep = may(w, WALK_KEEP);
    p->beat_interval = w->beat * WALK_UNIT;
    p->resolution = may(w, WALK_LADDER) ? 1 : WALK_UNIT;
}

void walk_begin(const walk_world *w)
{
    walk_state *s = &walk_now;
    memset(s, 0, sizeof *s);
    const afl_machine_config config = {.handoff_grants = w->grants,
                                       .handoff_time = w->run * WALK_UNIT,
                                       .handoff_pause = w->pause * WALK_UNIT,
                                       .pause_interval = w->pause_interval * WALK_UNIT,
                                       .check_interval = w->check * WALK_UNIT};
    afl_machine_init(&s->machine, &config);
    s->now = 1000 * AFLOCK_SECOND;
    s->poll = w->poll * WALK_UNIT;
    for (size_t i = 0; i < WALK_PATHS; i++)
        begin_path(w, i);
    for (size_t i = 0; i < w->count; i++) {
        const walk_attributes *a = &w->requests[i];
        s->requests[i] = (afl_request){
            .mode = a->mode,
            .owner = a->owner ? &owners[a->owner - 'A'] : NULL,
            .poll = &s->poll,
            .timeout = a->timeout ? a->timeout * WALK_UNIT : AFLOCK_FOREVER,
            .need = a->need,
            .spelling = a->spelling,
            .once = a->once,
            .adopt = a->adopt,
            .parks = may(w, WALK_PARK) && !a->adopt,
        };
    }
}

/* ------------------------------------------------------------------------------------------------------ what can be */

/* Something of ours that can be listened to while waiting. */
static bool is_audible(unsigned grip)
{
    return grip == AFL_GRIP_KEPT || grip == AFL_GRIP_PENDING;
}

static bool free_for(const walk_file *f, int mode)
{
    return !f->writer && (mode == SHARED || f->readers == 0);
}

static size_t try_outcomes(const walk_world *w, const afl_path *p, afl_outcome *o)
{
    size_t n = 0;
    const walk_file *f = &walk_now.files[p - walk_now.paths];
    bool unresolved = may(w, WALK_MERGE) && p == &walk_now.paths[1];
    if (!unresolved) {
        if (free_for(f, p->tried_mode)) {
            o[n] = WON;
            o[n++].have = f->tried_need;
        }
        if (!may(w, WALK_NONE_KEPT | WALK_UNCONTENDED))
            o[n++] = KEPT;
        if (may(w, WALK_NONE_KEPT | WALK_RENEWED)) /* the file is replaced again and again; a caller's descriptor */
            o[n++] = CONTENDED;
        if (may(w, WALK_PENDING) && p->tried_mode == EXCLUSIVE)
            o[n++] = PENDING;
        if (may(w, WALK_RENEWED) && is_audible(p->grip)) {
            o[n] = KEPT;
            o[n++].renewed = true;
        }
        if (may(w, WALK_RENEWED) && may(w, WALK_PENDING) && is_audible(p->grip) && p->tried_mode == EXCLUSIVE) {
            o[n] = PENDING;
            o[n++].renewed = true;
        }
    }
    if (may(w, WALK_ERRORS)) {
        o[n++] = FAILED(AFL_GRIP_NONE);
        if (p->grip != AFL_GRIP_NONE) /* it could not even begin */
            o[n++] = FAILED((afl_grip)p->grip);
    }
    return n;
}

static size_t adopt_outcomes(const walk_world *w, const afl_path *p, afl_outcome *o)
{
    size_t n = 0;
    o[n++] = WON;
    if (!may(w, WALK_ADOPT_TROUBLE))
        return n;
    o[n++] = STALE;
    o[n++] = FAILED(AFL_GRIP_HELD);
    if (p->convert) {
        o[n++] = KEPT;
        o[n++] = CONTENDED;
        o[n++] = FAILED(AFL_GRIP_NONE);
    }
    return n;
}

size_t walk_outcomes(const walk_world *w, const afl_path *p, afl_outcome *o)
{
    size_t n = 0;
    switch ((afl_op)p->op) {
    case AFL_OP_TRY:
        return try_outcomes(w, p, o);
    case AFL_OP_ADOPT:
        return adopt_outcomes(w, p, o);
    case AFL_OP_BEAT:
        if (p->grip == AFL_GRIP_HELD) {
            o[n++] = REFRESHED;
            if (!may(w, WALK_LOSE))
                return n;
            o[n++] = NOT_REFRESHED;
            o[n++] = FAILED(AFL_GRIP_HELD);
            return n;
        }
        o[n++] = BEATEN;
        o[n++] = FAILED(AFL_GRIP_NONE);
        o[n++] = FAILED(AFL_GRIP_PENDING);
        return n;
    default:
        o[n++] = DONE;
        if (may(w, WALK_KEEP) && p->op == AFL_OP_RELEASE)
            o[n++] = LEFT_OPEN;
        if (may(w, WALK_UNDO_FAILS)) {
            if (p->releaser || p->failures < w->failures)
                o[n++] = FAILED((afl_grip)p->grip);
            o[n++] = FAILED(AFL_GRIP_NONE);
        }
        if (may(w, WALK_UNDO_LATER) && p->failures < w->failures)
            o[n++] = NOT_YET((afl_grip)p->grip);
        return n;
    }
}

static size_t add(walk_move *moves, size_t n, walk_kind kind, size_t index, unsigned variant)
{
    must(n < WALK_MOVES);
    moves[n] = (walk_move){(uint8_t)kind, (uint8_t)index, (uint8_t)variant};
    return n + 1;
}

static size_t request_moves(const walk_world *w, size_t i, walk_move *moves, size_t n)
{
    const afl_request *r = &walk_now.requests[i];
    const walk_attributes *a = &w->requests[i];
    switch ((afl_state)r->state) {
    case AFL_IDLE:
        for (unsigned path = 0; path < w->paths; path++)
            if ((a->path == path || a->path == 2) && !(path == 1 && walk_now.merged))
                n = add(moves, n, WALK_SUBMIT, i, path);
        if (a->path == 1 && walk_now.merged)
            n = add(moves, n, WALK_SUBMIT, i, 0);
        break;
    case AFL_HELD:
        if (!may(w, WALK_ONLY_UNANSWERED))
            n = add(moves, n, WALK_RELEASE_ANSWERED, i, 0);
        if (may(w, WALK_UNANSWERED | WALK_ONLY_UNANSWERED | WALK_UNDO_FAILS))
            n = add(moves, n, WALK_RELEASE, i, 0);
        n = add(moves, n, WALK_CANCEL, i, 0);
        break;
    case AFL_GRANTED:
        n = add(moves, n, WALK_DELIVER, i, 0);
        n = add(moves, n, WALK_CANCEL, i, 0);
        break;
    case AFL_WAITING:
    case AFL_FAILING:
    case AFL_RELEASING:
        n = add(moves, n, WALK_CANCEL, i, 0);
        break;
    case AFL_ANSWERED:
    case AFL_RELEASED:
    case AFL_REHELD:
        n = add(moves, n, WALK_DELIVER, i, 0);
        n = add(moves, n, WALK_CANCEL, i, 0);
        break;
    }
    return n;
}

static size_t outside_moves(const walk_world *w, size_t i, walk_move *moves, size_t n)
{
    const walk_file *f = &walk_now.files[i];
    unsigned outside = 0;
    for (size_t k = 0; k < WALK_PATHS; k++)
        outside += walk_now.files[k].readers + walk_now.files[k].writer;
    if (may(w, WALK_MERGE) && i == 1)
        return n; /* it is the other file */
    if (f->writer)
        n = add(moves, n, WALK_LEAVE, i, EXCLUSIVE);
    if (f->readers)
        n = add(moves, n, WALK_LEAVE, i, SHARED);
    if (outside == w->outside || f->writer || (f->held && f->mode == EXCLUSIVE))
        return n;
    n = add(moves, n, WALK_TAKE, i, SHARED);
    if (f->readers == 0 && !f->held)
        n = add(moves, n, WALK_TAKE, i, EXCLUSIVE);
    return n;
}

static size_t path_moves(const walk_world *w, size_t i, walk_move *moves, size_t n)
{
    const afl_path *p = &walk_now.paths[i];
    afl_outcome o[WALK_OUTCOMES];
    size_t outcomes = p->op == AFL_OP_NONE ? 0 : walk_outcomes(w, p, o);
    for (unsigned k = 0; k < outcomes; k++)
        n = add(moves, n, WALK_FINISH, i, k);
    if (may(w, WALK_MERGE) && i == 1 && p->op == AFL_OP_TRY)
        n = add(moves, n, WALK_MERGED, i, 0);
    if (may(w, WALK_HINTS) && (p->head || p->watching))
        n = add(moves, n, WALK_HINT, i, 0);
    if (may(w, WALK_HINTS) && (p->head || walk_now.files[i].listening))
        n = add(moves, n, WALK_LOST, i, 0);
    if (may(w, WALK_END_RELEASE) && p->releaser)
        n = add(moves, n, WALK_END, i, 0);
    if (may(w, WALK_KEEP))
        n = add(moves, n, WALK_KEEPING, i, 0);
    if (may(w, WALK_YIELD) && p->holders)
        n = add(moves, n, WALK_YIELDS, i, 0);
    if (may(w, WALK_LOSE) && p->holders && !p->lost)
        n = add(moves, n, WALK_LOSES, i, 0);
    return outside_moves(w, i, moves, n);
}

size_t walk_moves(const walk_world *w, walk_move *moves)
{
    size_t n = 0;
    const afl_machine *m = &walk_now.machine;
    if (walk_now.watch_asked) {
        n = add(moves, n, WALK_WATCHED, walk_now.watch_asked - 1U, false);
        return add(moves, n, WALK_WATCHED, walk_now.watch_asked - 1U, true);
    }
    if (may(w, WALK_LATE) && m->ready)
        n = add(moves, n, WALK_PUMP, 0, 0);
    uint64_t deadline = afl_machine_deadline(m);
    if (may(w, WALK_LATE) && deadline <= walk_now.now)
        n = add(moves, n, WALK_EXPIRE, 0, 0);
    if (deadline != AFLOCK_FOREVER && deadline > walk_now.now)
        n = add(moves, n, WALK_TIME, 0, 0);
    if (may(w, WALK_TICKS))
        n = add(moves, n, WALK_TIME, 0, 1);
    for (size_t i = 0; i < w->count; i++)
        n = request_moves(w, i, moves, n);
    for (size_t i = 0; i < w->paths; i++)
        n = path_moves(w, i, moves, n);
    if (may(w, WALK_REPOLL))
        n = add(moves, n, WALK_POLL, 0, 0);
    return n;
}

/* ------------------------------------------------------------------------------------------------------ one step */

/* The attempt goes on by itself, and gives back what it gets. */
static void detach(afl_path *p, walk_file *f)
{
    f->grip = AFL_GRIP_NONE;
    f->elsewhere = f->listening;
    afl_machine_done(&walk_now.machine, p, &CONTENDED, walk_now.now);
}

static void take_action(const walk_world *w, const afl_action *a)
{
    size_t i = (size_t)(a->path - walk_now.paths);
    walk_file *f = &walk_now.files[i];
    driver_check_action(a);
    walk_judge_action(a);
    if (walk_tells)
        printf("  %s%s%s %c%s%c", driver_op_name(a->op), a->verify ? "+verify" : "", a->convert ? "+convert" : "",
               (char)('p' + i), a->request ? " " : "",
               a->request ? (char)('a' + (a->request - walk_now.requests)) : ' ');
    if (a->op == AFL_OP_TRY && a->request) {
        f->tried_need = a->request->need;
        f->hinted = false;
        a->path->parked = may(w, WALK_PARK) && f->grip == AFL_GRIP_KEPT && a->request->attempts > 1;
    }
    if (a->op == AFL_OP_DETACH && !may(w, WALK_ERRORS))
        detach(a->path, f);
    if (a->op == AFL_OP_UNWATCH)
        f->listening = f->elsewhere = false;
    if (a->op == AFL_OP_WATCH)
        walk_now.watch_asked = (uint8_t)(i + 1);
}

/* Asks the machine until it wants nothing more, or wants to know whether a watch succeeded. */
static void pump(const walk_world *w)
{
    enum { MOST = 32 }; /* more means that it does not come to rest */
    afl_action a;
    for (int i = 0; !walk_now.watch_asked && afl_machine_next(&walk_now.machine, walk_now.now, &a); i++) {
        must(i < MOST);
        take_action(w, &a);
    }
}

static void finish(const walk_world *w, size_t i, unsigned variant)
{
    afl_path *p = &walk_now.paths[i];
    walk_file *f = &walk_now.files[i];
    afl_outcome o[WALK_OUTCOMES];
    size_t n = walk_outcomes(w, p, o);
    must(variant < n);
    if (p->op == AFL_OP_TRY && o[variant].answer == AFL_WON) {
        f->mode = p->tried_mode;
        f->won_for = (uint8_t)(p->op_for ? p->op_for - walk_now.requests + 1 : 0);
    }
    if (p->op == AFL_OP_ADOPT && p->convert)
        f->mode = SHARED;
    if (p->op == AFL_OP_TRY || (p->op == AFL_OP_ADOPT && o[variant].answer == AFL_CONTENDED))
        f->stale = p->op == AFL_OP_ADOPT;
    if (p->op == AFL_OP_BEAT && p->grip == AFL_GRIP_HELD && o[variant].answer == AFL_ERROR)
        f->stale = f->lost = true;
    if (p->op == AFL_OP_TRY)
        f->lost = false;
    if (p->op == AFL_OP_TRY || p->op == AFL_OP_BEAT)
        f->due = walk_now.now + p->beat_interval / (o[variant].answer == AFL_CONTENDED ? 8 : 1);
    f->grip = (uint8_t)o[variant].grip;
    f->held = f->grip == AFL_GRIP_HELD;
    f->wanted = f->wanted && f->held && o[variant].answer != AFL_ERROR; /* what failed may be held again */
    if (o[variant].answer == AFL_PENDING || p->op == AFL_OP_BEAT)
        f->beaten = walk_now.now;
    if (p->op == AFL_OP_TRY || p->op == AFL_OP_BEAT)
        f->elsewhere = f->listening && (o[variant].renewed || !is_audible(f->grip) || f->elsewhere);
    afl_machine_done(&walk_now.machine, p, &o[variant], walk_now.now);
    must(p->op == AFL_OP_NONE);
}

static void submit(const walk_world *w, size_t i, size_t path)
{
    afl_path *p = &walk_now.paths[path];
    afl_request *r = &walk_now.requests[i];
    int status = afl_machine_submit(&walk_now.machine, p, r, walk_now.now);
    if (status)
        walk_judge_refusal(w, p, r, status);
    if (walk_tells && status)
        printf("  %s", driver_status_name(status));
}

static void cancel(size_t i)
{
    afl_request *r = &walk_now.requests[i];
    afl_state before = (afl_state)r->state;
    int status = afl_machine_cancel(&walk_now.machine, r, AFLOCK_ECANCELED, walk_now.now);
    bool holds = before == AFL_HELD || before == AFL_REHELD, late = before == AFL_RELEASING || before == AFL_RELEASED;
    must(status == (holds ? AFLOCK_EHELD : late ? AFLOCK_ESTALE : 0));
    must(r->state == (holds || late ? before : AFL_ANSWERED));
}

static void release(size_t i, bool answer)
{
    afl_request *r = &walk_now.requests[i];
    must(afl_machine_release(&walk_now.machine, r, answer, walk_now.now) == 0);
    must(answer ? r->state == AFL_RELEASING || r->state == AFL_RELEASED : r->state == AFL_IDLE);
}

static void come_and_go(const walk_move m)
{
    walk_file *f = &walk_now.files[m.index];
    bool takes = m.kind == WALK_TAKE;
    if (m.variant == EXCLUSIVE)
        f->writer = takes;
    else
        f->readers = (uint8_t)(takes ? f->readers + 1 : f->readers - 1);
}

static void pass(const walk_world *w, bool tick)
{
    uint64_t next = afl_machine_deadline(&walk_now.machine), end = walk_now.now + WALK_UNIT;
    bool late = may(w, WALK_LATE);
    walk_now.now = tick && (late || next > end) ? end : next;
    if (late)
        return;
    afl_machine_expire(&walk_now.machine, walk_now.now - 1);
    must(afl_machine_deadline(&walk_now.machine) == next && !walk_now.machine.ready); /* never early */
    afl_machine_expire(&walk_now.machine, walk_now.now);
}

static void watched(size_t i, bool yes)
{
    walk_now.watch_asked = 0;
    walk_now.files[i].listening = yes;
    afl_machine_watched(&walk_now.machine, &walk_now.paths[i], yes, walk_now.now);
}

static void change_poll(const walk_world *w)
{
    walk_now.poll = (walk_now.poll == w->poll * WALK_UNIT ? 1 : w->poll) * WALK_UNIT;
    for (size_t i = 0; i < w->paths; i++)
        afl_machine_repoll(&walk_now.machine, &walk_now.paths[i], walk_now.now);
}

static void perform(const walk_world *w, walk_move m)
{
    afl_machine *machine = &walk_now.machine;
    afl_path *p = &walk_now.paths[m.index < WALK_PATHS ? m.index : 0];
    switch ((walk_kind)m.kind) {
    case WALK_PUMP:
        break;
    case WALK_WATCHED:
        watched(m.index, m.variant);
        break;
    case WALK_FINISH:
        finish(w, m.index, m.variant);
        break;
    case WALK_MERGED:
        afl_machine_merge(machine, &walk_now.paths[0], &walk_now.paths[1], walk_now.now);
        walk_now.merged = true;
        break;
    case WALK_EXPIRE:
        afl_machine_expire(machine, walk_now.now);
        break;
    case WALK_TIME:
        pass(w, m.variant);
        break;
    case WALK_DELIVER:
        afl_machine_deliver(machine, &walk_now.requests[m.index]);
        break;
    case WALK_SUBMIT:
        submit(w, m.index, m.variant);
        break;
    case WALK_CANCEL:
        cancel(m.index);
        break;
    case WALK_RELEASE:
    case WALK_RELEASE_ANSWERED:
        release(m.index, m.kind == WALK_RELEASE_ANSWERED);
        break;
    case WALK_END:
        afl_machine_end_release(machine, p, AFLOCK_ECLOSED, walk_now.now);
        break;
    case WALK_TAKE:
    case WALK_LEAVE:
        come_and_go(m);
        break;
    case WALK_HINT:
    case WALK_LOST:
        walk_now.files[m.index].hinted = p->op == AFL_OP_TRY && p->head;
        afl_machine_hint(machine, p, m.kind == WALK_LOST, walk_now.now);
        break;
    case WALK_POLL:
        change_poll(w);
        break;
    case WALK_KEEPING:
        afl_machine_keep(machine, p, !p->keep);
        break;
    case WALK_YIELDS:
        afl_machine_yield(machine, p);
        walk_now.files[m.index].wanted = true;
        break;
    case WALK_LOSES:
        afl_machine_lose(machine, p, walk_now.now);
        walk_now.files[m.index].stale = walk_now.files[m.index].lost = true;
        break;
    }
}

void walk_make(const walk_world *w, walk_move move)
{
    afl_machine *m = &walk_now.machine;
    perform(w, move);
    if (!may(w, WALK_LATE) || move.kind == WALK_PUMP || move.kind == WALK_WATCHED)
        pump(w);
    walk_judge(w, move);
    for (afl_request *r = m->done, *next; r; r = next) {
        next = r->done_next;
        bool holds = r->state == AFL_GRANTED || r->state == AFL_REHELD;
        if (walk_tells)
            printf("  [%c %s]", (char)('a' + (r - walk_now.requests)),
                   r->state == AFL_REHELD ? "reheld"
                   : holds                ? "granted"
                   : r->status            ? driver_status_name(r->status)
                                          : "released");
        /* Without the lock, an answer makes no difference to anything but whether its request can be made again. */
        if (!holds && !may(w, WALK_LATE_ANSWERS))
            afl_machine_deliver(m, r);
    }
}

void walk_tell_move(const walk_world *w, walk_move m)
{
    static const char *const NAMES[] = {
        [WALK_PUMP] = "the machine is asked",
        [WALK_WATCHED] = "watched",
        [WALK_FINISH] = "finish",
        [WALK_MERGED] = "merge into p:",
        [WALK_EXPIRE] = "timers expire",
        [WALK_TIME] = "time passes",
        [WALK_DELIVER] = "deliver",
        [WALK_SUBMIT] = "submit",
        [WALK_CANCEL] = "cancel",
        [WALK_RELEASE] = "release",
        [WALK_RELEASE_ANSWERED] = "release",
        [WALK_END] = "end the release of",
        [WALK_TAKE] = "outside takes",
        [WALK_LEAVE] = "outside leaves",
        [WALK_HINT] = "hint to",
        [WALK_LOST] = "the watch is lost on",
        [WALK_POLL] = "another poll interval",
        [WALK_KEEPING] = "keep open or not",
        [WALK_YIELDS] = "somebody outside wants",
        [WALK_LOSES] = "lost is",
    };
    static const char *const ANSWERS[] = {"won", "contended", "pending", "error"};
    static const char *const GRIPS[] = {"none", "kept", "pending", "held"};
    printf("%s", NAMES[m.kind]);
    if (m.kind >= WALK_DELIVER && m.kind <= WALK_RELEASE_ANSWERED)
        printf(" %c", (char)('a' + m.index));
    else if (m.kind == WALK_TIME)
        printf(m.variant ? " (one unit)" : " (next timer)");
    else if (m.kind != WALK_PUMP && m.kind != WALK_EXPIRE && m.kind != WALK_POLL)
        printf(" %c", (char)('p' + m.index));
    if (m.kind == WALK_SUBMIT)
        printf(" to %c", (char)('p' + m.variant));
    if (m.kind == WALK_WATCHED)
        printf(m.variant ? ": yes" : ": no");
    if (m.kind == WALK_TAKE || m.kind == WALK_LEAVE)
        printf(m.variant == EXCLUSIVE ? " exclusively" : " shared");
    if (m.kind == WALK_RELEASE_ANSWERED)
        printf(", to be answered");
    if (m.kind == WALK_FINISH) {
        afl_outcome o[WALK_OUTCOMES];
        walk_outcomes(w, &walk_now.paths[m.index], o);
        printf(" %s: %s, grip %s%s", driver_op_name((afl_op)walk_now.paths[m.index].op), ANSWERS[o[m.variant].answer],
               GRIPS[o[m.variant].grip], o[m.variant].renewed ? ", another file" : "");
    }
    printf(":");
}

/* --------------------------------------------------------------------------------------------------------- the end */

bool walk_all_idle(const walk_world *w)
{
    for (size_t i = 0; i < w->count; i++)
        if (walk_now.requests[i].state != AFL_IDLE)
            return false;
    return true;
}

bool walk_is_over(const walk_world *w)
{
    const afl_machine *m = &walk_now.machine;
    bool over = walk_all_idle(w) && !m->waiting && !m->holding && !m->undelivered && !m->releasing && !m->owned &&
                !m->ready && afl_machine_deadline(m) == AFLOCK_FOREVER;
    for (size_t i = 0; i < w->paths; i++)
        over = over && walk_now.paths[i].op == AFL_OP_NONE &&
               (walk_now.paths[i].grip == AFL_GRIP_NONE ||
                (walk_now.paths[i].grip == AFL_GRIP_KEPT && walk_now.paths[i].keep)) &&
               !walk_now.files[i].held && !walk_now.files[i].listening;
    return over;
}

/* ------------------------------------------------------------------------------------------------- names of states
 *
 * Two states have one name if the machine will do the same in both, whatever comes. What is left out, and why that is
 * allowed (walk_search.c checks it by walking a small world with nothing left out):
 *
 * - When it all began: the machine compares and subtracts times and never looks at one alone. Times are relative to
 *   now. A time to come that has passed is as good as one that is due (`now < due` is all that is asked), an age beyond
 *   the limit that it is compared with is as good as the limit.
 * - Submission numbers: they are only compared, and only those of waiting requests. Their rank is kept.
 * - The shape of the heaps, the order in the owner table (newest first, so it goes by submission), marks of earlier
 *   searches (below the epoch of the next): they follow from the rest or are void.
 * - The order of answers: any may be delivered first here, and the machine does nothing else with it.
 * - What a path remembers of a hold while it has none (mode, run, checks, freshness) and of operations while none of
 *   the kind runs: it is set before it is read.
 * - What a request remembers while it is idle, its status (judged when it is given), the number of its attempts beyond
 *   the second (asked is whether there was one; a merge takes one back).
 * - Which of two requests with the same attributes is which: a request's part of the name says all that relates it to
 *   the rest (place in the queue, rank, what is under way for it), so sorting the parts of equal requests makes one
 *   name of all their permutations.
 */

typedef struct name {
    uint8_t *bytes;
    size_t length;
    bool exact;
} name;

static void put(name *n, unsigned byte)
{
    n->bytes[n->length++] = (uint8_t)byte;
}

static void put_wide(name *n, uint64_t value, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i++)
        put(n, (unsigned)(value >> (8 * i)) & 0xff);
}

/* A time to come. */
static void put_due(name *n, uint64_t at)
{
    if (n->exact)
        put_wide(n, at == 0 || at == AFLOCK_FOREVER ? at : at - walk_now.now + 1, 8);
    else
        put_wide(n, at <= walk_now.now ? 0 : at == AFLOCK_FOREVER ? UINT32_MAX : at - walk_now.now, 4);
}

/* A time that has passed, of which nobody asks more than whether it was `limit` ago. */
static void put_age(name *n, uint64_t since, uint64_t limit)
{
    uint64_t age = walk_now.now - since;
    if (n->exact)
        put_wide(n, since == 0 ? UINT64_MAX : age, 8);
    else
        put_wide(n, since == 0 || age > limit ? limit : age, 4);
}

static void name_hold(name *n, const afl_path *p)
{
    const afl_machine_config *c = &walk_now.machine.config;
    put(n, p->mode);
    put(n, p->have);
    put(n, p->spelling);
    put(n, (unsigned)p->stale << 2 | (unsigned)p->fresh << 1 | p->give_up);
    put(n, !n->exact && p->run_grants > c->handoff_grants ? c->handoff_grants : p->run_grants);
    put_age(n, p->run_started, c->handoff_time);
    put_age(n, p->checked, c->check_interval);
}

static void name_operation(name *n, const afl_path *p, const walk_file *f)
{
    if (n->exact || p->op == AFL_OP_TRY) {
        put(n, p->tried_mode);
        put(n, f->tried_need);
        put(n, p->spelling);
    }
    if (n->exact || p->op == AFL_OP_ADOPT) {
        put(n, p->verify);
        put(n, p->convert);
    }
}

static void name_path(const walk_world *w, name *n, size_t i)
{
    const afl_path *p = &walk_now.paths[i];
    const walk_file *f = &walk_now.files[i];
    put(n, (unsigned)p->grip << 4 | p->op);
    put(n, (unsigned)p->watching << 7 | (unsigned)p->watch << 6 | (unsigned)p->unwatch << 5 | (unsigned)p->notify << 4 |
               (unsigned)p->hinted << 3 | (unsigned)p->paused << 2 | (unsigned)p->foreign << 1 | p->is_ready);
    put(n, (unsigned)f->held << 7 | (unsigned)f->writer << 6 | (unsigned)f->listening << 5 |
               (unsigned)f->elsewhere << 3 | (unsigned)f->mode << 4 | f->readers);
    put(n, (unsigned)p->rung << 4 | p->failures);
    put(n, (unsigned)p->lost << 3 | (unsigned)f->wanted << 2 | (unsigned)p->keep << 1 | p->parked);
    if (n->exact || p->grip == AFL_GRIP_HELD)
        name_hold(n, p);
    name_operation(n, p, f);
    put_due(n, p->retry_at);
    put_due(n, p->pause_until);
    put_due(n, p->release_at);
    put_due(n, afl_timer_armed(&p->timer) ? p->timer.at : AFLOCK_FOREVER);
    bool beats = p->grip == AFL_GRIP_PENDING || (p->grip == AFL_GRIP_HELD && !p->lost);
    if (n->exact || (beats && p->beat_interval))
        put_due(n, p->beat_at);
    if (n->exact || p->paused)
        put_age(n, p->last_pause, walk_now.machine.config.pause_interval);
    if (w->may & WALK_REPOLL)
        put_age(n, p->tried, w->poll * WALK_UNIT);
    put(n, walk_now.machine.ready == p);
}

static unsigned position(const afl_request *first, const afl_request *r)
{
    unsigned n = 1;
    for (; first && first != r; first = first->next)
        n++;
    return n;
}

static unsigned rank(const walk_world *w, const afl_request *r)
{
    unsigned n = 0;
    for (size_t i = 0; i < w->count; i++) {
        const afl_request *other = &walk_now.requests[i];
        n += (other->state == AFL_WAITING || other->state == AFL_FAILING) && other->timer.order < r->timer.order;
    }
    return n;
}

static void name_request(const walk_world *w, name *n, const afl_request *r)
{
    put(n, r->state);
    if (r->state == AFL_IDLE)
        return;
    const afl_path *p = r->path;
    put(n, (unsigned)(p - walk_now.paths) << 3 | (unsigned)(p->op_for == r) << 2 | (unsigned)(p->failing == r) << 1 |
               (p->releaser == r));
    if (n->exact) {
        put(n, position(r->state == AFL_WAITING ? p->head : p->holders, r));
        unsigned answer = 0;
        for (const afl_request *d = walk_now.machine.done; d && d != r; d = d->done_next)
            answer++;
        put(n, answer);
        put(n, (unsigned)-r->status & 0xff);
        put(n, r->attempts);
    }
    if (r->state != AFL_WAITING && r->state != AFL_FAILING)
        return;
    put(n, r->state == AFL_WAITING ? position(p->head, r) : 0);
    put(n, rank(w, r));
    put(n, r->attempts > 2 ? 2 : r->attempts);
    put_due(n, afl_timer_armed(&r->timer) ? r->timer.at : AFLOCK_FOREVER);
}

static bool alike(const walk_attributes *a, const walk_attributes *b)
{
    return a->mode == b->mode && a->owner == b->owner && a->timeout == b->timeout && a->once == b->once &&
           a->adopt == b->adopt && a->need == b->need && a->spelling == b->spelling && a->path == b->path;
}

size_t walk_key(const walk_world *w, bool exact, uint8_t *key)
{
    enum { PART = 48 };
    uint8_t parts[WALK_REQUESTS][PART];
    name n = {.exact = exact};
    n.bytes = key;
    for (size_t i = 0; i < w->count; i++) {
        memset(parts[i], 0, PART);
        name part = {.bytes = parts[i], .exact = exact};
        name_request(w, &part, &walk_now.requests[i]);
        must(part.length <= PART);
        for (size_t j = i; !exact && j > 0 && alike(&w->requests[j], &w->requests[j - 1]); j--) {
            uint8_t swap[PART];
            if (memcmp(parts[j - 1], parts[j], PART) <= 0)
                break;
            memcpy(swap, parts[j], PART);
            memcpy(parts[j], parts[j - 1], PART);
            memcpy(parts[j - 1], swap, PART);
        }
    }
    for (size_t i = 0; i < w->paths; i++)
        name_path(w, &n, i);
    put(&n, (unsigned)walk_now.merged << 4 | walk_now.watch_asked);
    put_wide(&n, walk_now.poll, 4);
    for (size_t i = 0; i < w->count; i++) {
        size_t length = PART;
        while (length > 1 && parts[i][length - 1] == 0)
            length--;
        put(&n, (unsigned)length);
        memcpy(n.bytes + n.length, parts[i], length);
        n.length += length;
    }
    return n.length;
}
