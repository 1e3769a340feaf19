/* What must hold in every state of walk_world.h and after every move.
 *
 * The judge shares nothing with the machine's decisions: it looks at the state before and after a move, at the file as
 * it really is, and at the rules in the public header.
 */
#include "walk_world.h"

#include <string.h>

typedef struct seen {
    uint8_t state, path, place; /* place in the queue, from 1; 0: does not wait */
    bool adopted;               /* the file is being prepared for it */
} seen;

static seen before[WALK_REQUESTS], after[WALK_REQUESTS];
static uint8_t op_before[WALK_PATHS];

static afl_request *request(size_t i)
{
    return &walk_now.requests[i];
}

static void look(const walk_world *w, seen *all)
{
    for (size_t i = 0; i < w->count; i++) {
        const afl_request *r = request(i);
        const afl_path *p = r->path;
        all[i] = (seen){.state = r->state, .path = p == &walk_now.paths[1]};
        all[i].adopted = r->state == AFL_WAITING && p->op == AFL_OP_ADOPT && p->op_for == r;
    }
    for (size_t k = 0; k < w->paths; k++) {
        uint8_t place = 0;
        for (const afl_request *r = walk_now.paths[k].head; r; r = r->next)
            all[r - walk_now.requests].place = ++place;
    }
}

void walk_note(const walk_world *w)
{
    look(w, before);
    for (size_t k = 0; k < w->paths; k++)
        op_before[k] = walk_now.paths[k].op;
}

static bool is_hold(unsigned state)
{
    return state == AFL_GRANTED || state == AFL_HELD || state == AFL_REHELD;
}

static bool mates(const afl_request *a, const afl_request *b)
{
    return a->owner && a->owner == b->owner;
}

/* ------------------------------------------------------------------------------------------- one answer per request */

/* From which state a request may come to which, as bits; only a move of its own makes it begin, hold and end. */
static void judge_life(size_t i, walk_move m)
{
#define TO(state) (1U << (state))
    static const unsigned BY_ITSELF[] = {
        [AFL_IDLE] = TO(AFL_IDLE),
        [AFL_WAITING] = TO(AFL_WAITING) | TO(AFL_GRANTED) | TO(AFL_FAILING) | TO(AFL_ANSWERED),
        [AFL_FAILING] = TO(AFL_FAILING) | TO(AFL_ANSWERED),
        [AFL_GRANTED] = TO(AFL_GRANTED),
        [AFL_HELD] = TO(AFL_HELD),
        [AFL_RELEASING] = TO(AFL_RELEASING) | TO(AFL_RELEASED) | TO(AFL_REHELD),
        [AFL_ANSWERED] = TO(AFL_ANSWERED),
        [AFL_RELEASED] = TO(AFL_RELEASED),
        [AFL_REHELD] = TO(AFL_REHELD),
    };
    static const unsigned BY_MOVE[][9] = {
        [WALK_SUBMIT] = {[AFL_IDLE] = TO(AFL_IDLE) | TO(AFL_WAITING) | TO(AFL_GRANTED) | TO(AFL_ANSWERED)},
        [WALK_CANCEL] =
            {[AFL_WAITING] = TO(AFL_ANSWERED), [AFL_FAILING] = TO(AFL_ANSWERED), [AFL_GRANTED] = TO(AFL_ANSWERED)},
        [WALK_DELIVER] = {[AFL_GRANTED] = TO(AFL_HELD),
                          [AFL_REHELD] = TO(AFL_HELD),
                          [AFL_ANSWERED] = TO(AFL_IDLE),
                          [AFL_RELEASED] = TO(AFL_IDLE)},
        [WALK_RELEASE] = {[AFL_HELD] = TO(AFL_IDLE)},
        [WALK_RELEASE_ANSWERED] = {[AFL_HELD] = TO(AFL_RELEASING) | TO(AFL_RELEASED)},
        [WALK_POLL] = {0},
    };
    bool own = m.kind >= WALK_DELIVER && m.kind <= WALK_RELEASE_ANSWERED && m.index == i;
    unsigned from = before[i].state, to = after[i].state;
    unsigned allowed = own ? BY_MOVE[m.kind][from] : 0;
    must((allowed ? allowed : BY_ITSELF[from]) & TO(to));
#undef TO
}

static void judge_answer(const walk_world *w, size_t i, walk_move m)
{
    const afl_request *r = request(i);
    bool own = m.kind == WALK_CANCEL && m.index == i;
    must(r->decided == walk_now.now);
    switch ((afl_state)after[i].state) {
    case AFL_GRANTED:
        must(r->status == 0 && r->sys_errno == 0);
        break;
    case AFL_RELEASED:
        must(r->status == (m.kind == WALK_END ? AFLOCK_ECLOSED : 0));
        break;
    case AFL_REHELD:
        must(r->status == AFLOCK_ESYS && m.kind == WALK_FINISH);
        break;
    default:
        if (own)
            must(r->status == AFLOCK_ECANCELED);
        else if (r->status == AFLOCK_ETIMEDOUT)
            must(!r->once && before[i].state != AFL_FAILING &&
                 walk_now.now - r->submitted >= r->timeout); /* never early */
        else if (r->status == AFLOCK_EWOULDBLOCK)
            must(r->once && before[i].state != AFL_FAILING);
        else if (r->status == AFLOCK_EDEADLK)
            must(r->owner);
        else if (r->status == AFLOCK_ECOMPROMISED)
            must(afl_machine_owner_holds(&walk_now.machine, r->path, r) && r->path->lost);
        else
            must(r->status == AFLOCK_ESYS && (w->may & (WALK_ERRORS | WALK_ADOPT_TROUBLE)));
    }
}

static void judge_request(const walk_world *w, size_t i, walk_move m)
{
    const afl_request *r = request(i);
    bool answered = is_hold(r->state) || r->state == AFL_ANSWERED || r->state == AFL_RELEASED;
    judge_life(i, m);
    if (before[i].state != after[i].state && answered && after[i].state != AFL_HELD)
        judge_answer(w, i, m);
    if (r->state == AFL_WAITING || r->state == AFL_FAILING) {
        uint64_t at = r->submitted + r->timeout;
        must(afl_timer_armed(&r->timer) == (r->timeout != AFLOCK_FOREVER));
        must(r->timeout == AFLOCK_FOREVER || r->timer.at == at);
        bool expired = m.kind == WALK_EXPIRE || (m.kind == WALK_TIME && !(w->may & WALK_LATE));
        must(!expired || r->timeout == AFLOCK_FOREVER || at > walk_now.now); /* nor late */
    } else {
        must(!afl_timer_armed(&r->timer) || r->state == AFL_IDLE);
    }
    if (r->state != AFL_HELD && r->state != AFL_IDLE) { /* what is not held cannot be released */
        bool early = r->state == AFL_WAITING || r->state == AFL_FAILING || r->state == AFL_GRANTED;
        must(afl_machine_release(&walk_now.machine, request(i), true, walk_now.now) ==
             (early ? AFLOCK_ENOTHELD : AFLOCK_ESTALE));
    }
    if (r->state == AFL_WAITING)
        must(!r->once || r->attempts <= 1);
    if (r->state == AFL_FAILING)
        must(r->path->failing == r);
    if (r->state == AFL_RELEASING)
        must(r->path->releaser == r);
}

/* Those whose answer waits for delivery are in the list, once each. */
static void judge_answers(const walk_world *w)
{
    uint64_t promised = 0, listed = 0;
    for (size_t i = 0; i < w->count; i++) {
        unsigned state = request(i)->state;
        promised += state == AFL_GRANTED || state == AFL_ANSWERED || state == AFL_RELEASED || state == AFL_REHELD;
    }
    for (const afl_request *r = walk_now.machine.done; r; r = r->done_next, listed++) {
        must(listed < promised);
        must(r->state == AFL_GRANTED || r->state == AFL_ANSWERED || r->state == AFL_RELEASED || r->state == AFL_REHELD);
    }
    must(listed == promised);
}

/* ------------------------------------------------------------------------------------------------------- the order */

/* A failed release, a merge and a held file that was replaced put the queue in order anew. */
static bool reorders(const walk_world *w, walk_move m)
{
    bool reheld = false;
    for (size_t i = 0; i < w->count; i++)
        reheld = reheld || (after[i].state == AFL_REHELD && before[i].state != AFL_REHELD);
    bool replaced =
        m.kind == WALK_LOSES ||
        (m.kind == WALK_FINISH && (op_before[m.index] == AFL_OP_ADOPT || op_before[m.index] == AFL_OP_BEAT) &&
         walk_now.files[m.index].stale);
    return reheld || replaced || m.kind == WALK_MERGED;
}

static bool owner_holds(const walk_world *w, const afl_request *r)
{
    for (size_t i = 0; i < w->count; i++)
        if (request(i) != r && mates(request(i), r) && request(i)->path == r->path && request(i)->mode == r->mode &&
            is_hold(request(i)->state))
            return true;
    return false;
}

/* Whether a request would be re-entrant is told before it is made. */
static void judge_re_entrance(const walk_world *w, size_t i)
{
    const afl_request *r = request(i);
    for (size_t k = 0; k < w->paths; k++) {
        bool held = false;
        for (const afl_request *h = walk_now.paths[k].holders; h; h = h->next)
            held = held || (mates(h, r) && h->mode == r->mode);
        must(afl_machine_owner_holds(&walk_now.machine, &walk_now.paths[k], r) == held);
    }
}

/* r was before other in the queue, or is a newcomer; both wait now. */
static void judge_pair(const walk_world *w, size_t r, size_t other, walk_move m)
{
    bool behind = after[r].place > after[other].place;
    const afl_request *a = request(r), *b = request(other);
    if (!a->owner && !b->owner) {
        must(behind == (a->timer.order > b->timer.order)); /* first come, first served */
        return;
    }
    if (mates(a, b) || reorders(w, m) || owner_holds(w, a) || owner_holds(w, b) || before[other].place == 0)
        return;
    if (before[r].place) {
        must(behind == (before[r].place > before[other].place));
        return;
    }
    for (size_t i = 0; i < w->count; i++)
        if (i != r && after[i].place && after[i].path == after[r].path && mates(request(i), a)) {
            must(behind == (after[i].place > after[other].place)); /* it stands beside its owner's others */
            return;
        }
    must(behind);
}

/* Does somebody hold the file who has held it before, or for whom it was prepared? */
static bool joins(const walk_world *w, size_t g)
{
    for (size_t i = 0; i < w->count; i++)
        if (i != g && after[i].path == after[g].path && is_hold(after[i].state) &&
            (is_hold(before[i].state) || before[i].adopted))
            return true;
    return owner_holds(w, request(g));
}

/* Does it join another reader, who may have been granted just now, too? */
static bool shares(const walk_world *w, size_t g)
{
    if (!(w->may & WALK_JOIN) || request(g)->mode != SHARED)
        return false;
    for (size_t i = 0; i < w->count; i++)
        if (i != g && after[i].path == after[g].path && is_hold(after[i].state) && request(i)->mode == SHARED)
            return true;
    return before[g].adopted; /* it was looked at for this one */
}

/* Who waited longer, and still waits, was not overtaken but by those whose owner has the lock. One for whom the file is
 * being prepared gets it, whoever came to stand in front of it meanwhile: by a merge, or because its owner held. */
static void judge_grant(const walk_world *w, size_t g, walk_move m)
{
    /* A file that was replaced is only for the owner who has it, or had it when the preparations began. */
    must(!walk_now.files[after[g].path].stale || owner_holds(w, request(g)) || before[g].adopted);
    must(!walk_now.files[after[g].path].wanted || joins(w, g) || before[g].adopted); /* it is not handed on */
    if (w->may & WALK_NO_HAND_ON)
        must(owner_holds(w, request(g)) || walk_now.files[after[g].path].won_for == g + 1 || shares(w, g));
    for (size_t i = 0; i < w->count; i++) {
        if (i == g || !after[i].place || !before[i].place || after[i].path != after[g].path)
            continue;
        if (before[g].adopted && (walk_now.merged || request(i)->owner))
            continue;
        bool overtaken =
            before[g].place == 0 || (before[g].path == before[i].path && before[i].place < before[g].place);
        if (overtaken && !reorders(w, m))
            must(owner_holds(w, request(g)));
        if (reorders(w, m) && !request(g)->owner && !request(i)->owner)
            must(request(g)->timer.order < request(i)->timer.order);
    }
}

static void judge_order(const walk_world *w, walk_move m)
{
    for (size_t i = 0; i < w->count; i++) {
        if (after[i].state == AFL_GRANTED && before[i].state != AFL_GRANTED)
            judge_grant(w, i, m);
        for (size_t j = 0; after[i].place && j < w->count; j++)
            if (j != i && after[j].place && after[j].path == after[i].path)
                judge_pair(w, i, j, m);
    }
    for (size_t k = 0; k < w->paths; k++) /* one owner's requests stand beside each other */
        for (const afl_request *r = walk_now.paths[k].head; r; r = r->next)
            for (const afl_request *o = r->next; o; o = o->next)
                must(!mates(r, o) || mates(o->prev, o));
}

/* ------------------------------------------------------------------------------------------------ who holds the file
 */

static void judge_file(const afl_path *p, const walk_file *f)
{
    must(!f->elsewhere || p->is_ready);
    must(p->grip == f->grip);
    must(p->watching == f->listening);
    if (!f->held) {
        must(!p->holders);
        return;
    }
    must(p->mode == f->mode && p->stale == f->stale && p->lost == f->lost);
    must(f->mode == SHARED ? !f->writer : !f->writer && f->readers == 0); /* the world itself */
    for (const afl_request *h = p->holders; h; h = h->next) {
        must(h->mode == SHARED || f->mode == EXCLUSIVE);
        must((h->need & ~p->have) == 0);
    }
}

/* A head that could share the lock does not wait, and the others know when it goes on. */
static void judge_rest(const walk_world *w, const afl_path *p)
{
    const afl_request *head = p->head;
    bool armed = afl_timer_armed(&p->timer);
    bool stays = p->grip == AFL_GRIP_KEPT && p->keep;
    must(!p->op_for || (p->op_for->state == AFL_WAITING && p->op_for->path == p));
    must(!p->failing || (p->grip == AFL_GRIP_HELD && !p->holders)); /* that waits to be given up */
    must(!p->failing || (p->failing->state == AFL_FAILING && p->failing->path == p));
    must(!p->releaser || (p->releaser->state == AFL_RELEASING && p->releaser->path == p));
    if (p->op == AFL_OP_RELEASE || p->op == AFL_OP_WITHDRAW || p->releaser || p->failing ||
        (p->grip != AFL_GRIP_NONE && p->op == AFL_OP_NONE && !p->holders && !head && !stays))
        must(p->counted); /* something is given up: the loop stays alive */
    if (stays && p->op == AFL_OP_NONE && !head)
        must(!p->counted && !p->watching && !armed);
    if (p->grip == AFL_GRIP_NONE || p->holders)
        must(p->counted == (p->failing != NULL || p->releaser != NULL));
    if (p->op != AFL_OP_NONE) {
        must(!armed);
        must(!p->parked || p->op == AFL_OP_TRY);
        must(!p->parked || !head || p->op_for); /* nobody waits for what nobody waits for */
        return;
    }
    must(!p->failing || armed);
    bool beats = p->holders && p->beat_interval && !p->lost;
    must(!p->holders || (beats ? armed && p->timer.at == walk_now.files[p - walk_now.paths].due : !armed));
    must(!armed || p->timer.at > walk_now.now || w->may & WALK_LATE);
    if (!head)
        return;
    if (p->grip == AFL_GRIP_PENDING && p->beat_interval && head->mode == EXCLUSIVE)
        must(armed && p->timer.at <= walk_now.files[p - walk_now.paths].beaten + p->beat_interval);
    if (!p->holders) {
        uint64_t longest = 16 * WALK_UNIT; /* of all intervals that a retry may wait for */
        must(armed && (p->grip == AFL_GRIP_HELD || p->timer.at <= walk_now.now + longest));
        must(head->attempts > 0 || p->grip >= AFL_GRIP_PENDING || p->pause_until > walk_now.now || w->may & WALK_LATE);
        return;
    }
    must(!head->once);
    must(!mates(head, p->holders) || head->mode != p->mode);
    must(p->mode == EXCLUSIVE || head->mode == EXCLUSIVE || !(p->hand_on || p->join) || p->stale ||
         (head->need & ~p->have));
}

/* --------------------------------------------------------------------------------------------------- owners in cycles
 *
 * Nodes: what each request waits for, and each owner. "x needs y" is a bit of a matrix; an owner that needs itself
 * waits for ever.
 */
enum { OWNERS = 4, NODES = WALK_REQUESTS + OWNERS };

static size_t owner_node(const walk_world *w, size_t i)
{
    return WALK_REQUESTS + (size_t)(w->requests[i].owner - 'A');
}

/* What `r` needs if it waits on p behind those that wait now, or where it stands. */
static void needs_of(const walk_world *w, size_t i, const afl_path *p, bool (*needs)[NODES])
{
    const afl_request *r = request(i);
    for (size_t j = 0; j < w->count; j++) {
        const afl_request *o = request(j);
        if (j == i || o->path != p || o->state == AFL_IDLE)
            continue;
        bool ahead = o->state == AFL_WAITING && (r->state != AFL_WAITING || after[j].place < after[i].place);
        if (ahead)
            needs[i][j] = true; /* nobody overtakes */
        if ((ahead || is_hold(o->state)) && o->owner && afl_path_conflict(p, r, o))
            needs[i][owner_node(w, j)] = true;
    }
}

/* Does anybody wait for itself? `extra`: as if this request waited, too. */
static bool somebody_waits_for_itself(const walk_world *w, const afl_path *p, const afl_request *extra)
{
    bool needs[NODES][NODES] = {{false}};
    for (size_t i = 0; i < w->count; i++) {
        if (request(i)->state != AFL_WAITING && request(i) != extra)
            continue;
        needs_of(w, i, request(i) == extra ? p : request(i)->path, needs);
        if (request(i)->owner)
            needs[owner_node(w, i)][i] = true;
    }
    for (size_t k = 0; k < NODES; k++)
        for (size_t i = 0; i < NODES; i++)
            for (size_t j = 0; j < NODES && needs[i][k]; j++)
                needs[i][j] = needs[i][j] || needs[k][j];
    for (size_t i = WALK_REQUESTS; i < NODES; i++)
        if (needs[i][i])
            return true;
    return false;
}

static bool has_owners(const walk_world *w)
{
    for (size_t i = 0; i < w->count; i++)
        if (w->requests[i].owner)
            return true;
    return false;
}

/* A request that was not taken: rightly? */
void walk_judge_refusal(const walk_world *w, const afl_path *p, afl_request *r, int status)
{
    look(w, after);
    must(r->state == AFL_IDLE);
    if (status == AFLOCK_EWOULDBLOCK) {
        must(r->once && (p->head || p->holders) && !owner_holds(w, r));
        return;
    }
    must((status == AFLOCK_EDEADLK || (status == AFLOCK_ECOMPROMISED && p->lost)) && r->owner);
    for (size_t i = 0; i < w->count; i++) {
        const afl_request *o = request(i);
        if (o == r || !mates(o, r) || o->path != p || !(is_hold(o->state) || o->state == AFL_WAITING))
            continue;
        if (o->mode != r->mode || (is_hold(o->state) && (r->need & ~p->have)))
            return;
        if (is_hold(o->state) && status == AFLOCK_ECOMPROMISED)
            return;
    }
    must(status == AFLOCK_EDEADLK);
    must(somebody_waits_for_itself(w, p, r));
}

/* ----------------------------------------------------------------------------------------------------------- timers */

/* The heap's shape is not part of a state's name, so it must be right in each. Returns how many there are. */
static size_t judge_timers(const afl_timer *first, const afl_timer *parent)
{
    size_t count = 0;
    const afl_timer *prev = parent;
    for (const afl_timer *t = first; t; prev = t, t = t->next) {
        must(t->prev == prev && afl_timer_armed(t));
        must(!parent || parent->at < t->at || (parent->at == t->at && parent->order <= t->order));
        count += 1 + judge_timers(t->child, t);
    }
    return count;
}

static void judge_heaps(const walk_world *w)
{
    size_t deadlines = 0, timers = 0;
    for (size_t i = 0; i < w->count; i++)
        deadlines += request(i)->state != AFL_IDLE && afl_timer_armed(&request(i)->timer);
    for (size_t i = 0; i < w->paths; i++)
        timers += afl_timer_armed(&walk_now.paths[i].timer);
    must(judge_timers(walk_now.machine.deadlines.root, NULL) == deadlines);
    must(judge_timers(walk_now.machine.timers.root, NULL) == timers);
}

/* ------------------------------------------------------------------------------------------------------ all together
 */

void walk_judge_action(const afl_action *a)
{
    const walk_file *f = &walk_now.files[a->path - walk_now.paths];
    must(a->op != AFL_OP_TRY || (!f->held && a->path->op_for == a->request));
    must(a->op != AFL_OP_TRY || (!a->request->once || a->request->attempts == 1));
    must(a->op != AFL_OP_TRY || a->path->grip != AFL_GRIP_PENDING || a->request->mode == EXCLUSIVE);
    must(a->op != AFL_OP_ADOPT || a->path->op_for == a->request);
    must(a->op != AFL_OP_ADOPT || !f->stale || afl_machine_owner_holds(&walk_now.machine, a->path, a->request));
    must(a->op != AFL_OP_BEAT || (f->held ? !f->lost && f->due <= walk_now.now : a->path->grip == AFL_GRIP_PENDING));
    must(a->op != AFL_OP_WATCH || !f->listening);
    must(a->op != AFL_OP_UNWATCH || f->listening);
    bool inherits = a->op == AFL_OP_INHERIT, detaches = a->op == AFL_OP_DETACH;
    must(!(inherits || detaches) || (a->path->op == AFL_OP_TRY && a->path->head));
    must(!inherits || (a->path->op_for == a->request && a->path->head == a->request && !a->request->once &&
                       a->request->parks && a->request->mode == a->path->tried_mode));
    must(!detaches || a->path->head->once || !a->path->head->parks || a->path->head->mode != a->path->tried_mode);
}

/* A wake-up makes the head try, at once or after the attempt that runs, unless somebody has or gets the file, or it is
 * left to others. */
static void judge_hint(const walk_world *w, walk_move m)
{
    if (m.kind != WALK_HINT && m.kind != WALK_FINISH)
        return;
    const afl_path *p = &walk_now.paths[m.index];
    bool now = m.kind == WALK_HINT && op_before[m.index] == AFL_OP_NONE;
    bool then = m.kind == WALK_FINISH && op_before[m.index] == AFL_OP_TRY && walk_now.files[m.index].hinted;
    if ((now || then) && !(w->may & WALK_LATE) && p->head && !p->holders)
        must(p->op != AFL_OP_NONE || walk_now.watch_asked || p->pause_until > walk_now.now ||
             p->release_at > walk_now.now);
}

void walk_judge(const walk_world *w, walk_move move)
{
    const afl_path *paths[WALK_PATHS] = {&walk_now.paths[0], &walk_now.paths[1]};
    look(w, after);
    driver_check_machine(&walk_now.machine, paths, w->paths);
    for (size_t i = 0; i < w->count; i++) {
        judge_request(w, i, move);
        if (request(i)->state == AFL_IDLE)
            judge_re_entrance(w, i);
    }
    judge_answers(w);
    judge_order(w, move);
    judge_hint(w, move);
    judge_heaps(w);
    for (size_t i = 0; i < w->paths; i++) {
        judge_file(&walk_now.paths[i], &walk_now.files[i]);
        if (!walk_now.paths[i].is_ready && !walk_now.watch_asked)
            judge_rest(w, &walk_now.paths[i]);
    }
    if (has_owners(w))
        must(!somebody_waits_for_itself(w, NULL, NULL));
}
