/* A process with aflock: an epoll context, locks under several spellings, and a few tasks that each ask, hold and
 * release in ways that the dice choose. See worker.h.
 *
 * Besides what the board finds out: every request is answered once, with a status that it asked for; never "acquired"
 * after a cancel that succeeded or a token that was fired; never a deadline that came early; nothing is left open.
 */
#include "worker.h"

#include <aflock/epoll.h>
#include <aflock/kit.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { TASKS = 3, LOCKS = 4, OWNERS = 2 };
enum {
    THINK_MOST = 2000000,
    HOLD_MOST = 80000,
    TIMEOUT_MOST = 4000000,
    CANCEL_MOST = 3000000,
    WISH_MOST = 5000000
}; /* ns */

/* One request at a time. */
typedef struct task {
    enum { IDLE, WAITING, HOLDING, RELEASING } state;
    aflock *lock;
    aflock_req req;
    aflock_acquire_options options;
    aflock_io io;
    bool cancelled; /* by aflock_cancel or the token, with success */
    bool calm;      /* asked in the calm */
    unsigned steps; /* that the hold still takes */
    hold hold;
} task;

static struct {
    const protocol *protocol;
    dice dice;
    unsigned seat, life;
    aflock_ctx *ctx;
    aflock *locks[LOCKS];
    aflock_io io[LOCKS];
    int fd; /* of the caller's own descriptor, behind the last of the locks; or -1 */
    task tasks[TASKS];
    bool again; /* the context was freed, and another one is to be made */
    bool draining;
    unsigned asked, answered;
} w;

static char owners[OWNERS]; /* their addresses matter */

static void ask(aflock_ctx *ctx, void *user);
static void step(aflock_ctx *ctx, void *user);
static void cancel(aflock_ctx *ctx, void *user);

static void later(void (*fire)(aflock_ctx *, void *), task *t, uint64_t most)
{
    require_status(aflock_epoll_timer(w.ctx, dice_up_to(&w.dice, most), fire, t), 0);
}

/* The holds of an owner on one path form a group. */
static uint32_t group_of(const task *t)
{
    if (!t->options.owner)
        return 0;
    uint32_t owner = (uint32_t)((const char *)t->options.owner - owners);
    return 1 + owner * 2 + (t->lock == w.locks[LOCKS - 1] && w.fd >= 0);
}

static interval what_of(const task *t, uint8_t kind)
{
    return (interval){.life = w.life,
                      .group = group_of(t),
                      .seat = (uint8_t)w.seat,
                      .shared = t->options.mode == AFLOCK_SHARED,
                      .where = (uint8_t)t->io,
                      .kind = kind};
}

/* --------------------------------------------------------------------------------------------------------- holding */

/* Ends at END: nobody asks again. */
static void rest(task *t)
{
    t->state = IDLE;
    if (the_board->phase != END)
        later(ask, t, THINK_MOST);
}

static void on_released(aflock *lock, const aflock_result *result, void *user)
{
    task *t = user;
    (void)lock;
    w.answered++;
    if (result->status != AFLOCK_ECLOSED) /* only where the context ends */
        require_status(result->status, 0);
    require(t->state == RELEASING);
    t->state = IDLE;
    if (!w.again)
        rest(t);
}

/* The other holds of this owner end with it. */
static void end_others(const task *t)
{
    for (unsigned i = 0; i < TASKS; i++) {
        task *other = &w.tasks[i];
        if (other == t || other->state != HOLDING || group_of(other) != group_of(t))
            continue;
        hold_end(&other->hold);
        require_status(aflock_epoll_timer_cancel(w.ctx, step, other), 0);
        rest(other);
    }
}

static void let_go(task *t)
{
    require(w.protocol->marker ? aflock_fd(t->lock, t->req) == AFLOCK_ENOTSUP : aflock_fd(t->lock, t->req) >= 0);
    require(aflock_depth(t->lock, t->options.owner) >= 1);
    hold_end(&t->hold);
    bool told = dice_percent(&w.dice, 50), all = t->options.owner && dice_percent(&w.dice, 30);
    if (all)
        end_others(t);
    t->state = RELEASING;
    w.asked += told;
    require_status((all ? aflock_release_all : aflock_release)(t->lock, t->req, told ? on_released : NULL, t), 0);
    if (!told)
        rest(t);
}

static bool context_ends(void)
{
    return the_board->phase == STORM && dice_below(&w.dice, 150) == 0;
}

static void end_context(void);

static void step(aflock_ctx *ctx, void *user)
{
    task *t = user;
    (void)ctx;
    require(t->state == HOLDING);
    hold_stamp(&t->hold);
    if (context_ends())
        end_context();
    else if (t->steps-- == 0)
        let_go(t);
    else
        later(step, t, HOLD_MOST);
}

/* A hold within the callback, or over some rounds of the loop. */
static void begin_hold(task *t, uint64_t start, uint8_t kind, bool may_sleep)
{
    interval what = what_of(t, kind);
    ledger *s = &the_board->seats[w.seat];
    t->state = HOLDING;
    hold_begin(&t->hold, start, &what, !what.shared && !what.group);
    atomic_fetch_add(&s->calm, t->calm);
    t->steps = dice_below(&w.dice, 3);
    if (!may_sleep || dice_percent(&w.dice, 40)) {
        later(step, t, HOLD_MOST);
        return;
    }
    for (; t->steps > 0; t->steps--) {
        sleep_ns(dice_up_to(&w.dice, HOLD_MOST));
        hold_stamp(&t->hold);
    }
    let_go(t);
}

/* ----------------------------------------------------------------------------------------------------------- asking */

/* What on_acquired has to know of a request that may be over before it runs. */
typedef union wish {
    struct {
        uint8_t shared, io, group, refuses;
        uint32_t sleep;
    } say;
    void *user;
} wish;

_Static_assert(sizeof(wish) == sizeof(void *), "all in one pointer");

static int on_acquired(int fd, void *user)
{
    uint64_t start = now_ns();
    wish x = {.user = user};
    interval what = {.life = w.life,
                     .group = x.say.group,
                     .seat = (uint8_t)w.seat,
                     .shared = x.say.shared,
                     .where = x.say.io,
                     .kind = ON_ACQUIRED};
    interval *i = interval_begin(start, &what);
    if (fcntl(fd, F_GETFD) < 0)
        return EBADF;
    sleep_ns(x.say.sleep);
    interval_stamp(i);
    if (i)
        atomic_store(&i->ended, 1);
    return x.say.refuses ? EPERM : 0;
}

static void add_wish(task *t)
{
    wish x = {.say = {.shared = t->options.mode == AFLOCK_SHARED,
                      .io = (uint8_t)t->io,
                      .group = (uint8_t)group_of(t),
                      .refuses = dice_percent(&w.dice, 15),
                      .sleep = dice_below(&w.dice, dice_percent(&w.dice, 95) ? HOLD_MOST : WISH_MOST)}};
    t->options.on_acquired = on_acquired;
    t->options.on_acquired_user = x.user;
}

/* What can be asked for where the lock is on a descriptor. */
static void choose_for_a_file(task *t, unsigned lock, bool own)
{
    aflock_acquire_options *o = &t->options;
    if (dice_percent(&w.dice, 30))
        o->mode = AFLOCK_SHARED;
    if (lock == 1) /* a spelling by way of a symbolic link to the directory; the link at the end is another matter */
        o->flags |= AFLOCK_FOLLOW;
    if (!own && !w.protocol->database && dice_percent(&w.dice, 10))
        o->flags |= AFLOCK_TRUNCATE;
    else if (!own && o->mode == AFLOCK_SHARED && dice_percent(&w.dice, 20))
        o->flags |= AFLOCK_READ_ONLY;
    if (dice_percent(&w.dice, 15))
        add_wish(t);
}

static void choose_options(task *t)
{
    aflock_acquire_options *o = &t->options;
    unsigned lock = dice_below(&w.dice, LOCKS);
    bool own = lock == LOCKS - 1 && w.fd >= 0;
    t->lock = w.locks[lock];
    t->io = w.io[lock];
    t->calm = the_board->phase == CALM;
    t->cancelled = false;
    aflock_acquire_options_init(o);
    if (dice_percent(&w.dice, 30))
        o->timeout = dice_percent(&w.dice, 40) ? 0 : dice_up_to(&w.dice, TIMEOUT_MOST) + 1;
    if (dice_percent(&w.dice, 25))
        o->owner = &owners[dice_below(&w.dice, OWNERS)];
    const bool changes = !own && !w.protocol->database;
    if (changes && dice_percent(&w.dice, 10))
        o->file_mode = 0600;
    if (!w.protocol->marker)
        choose_for_a_file(t, lock, own);
    if (dice_percent(&w.dice, 10))
        require_status(aflock_token_new(&o->token, w.ctx), 0);
}
static void cancel(aflock_ctx *ctx, void *user)
{
    task *t = user;
    (void)ctx;
    require(t->state == WAITING);
    if (t->options.token) {
        aflock_token_fire(t->options.token);
        t->cancelled = true;
        return;
    }
    require_status(aflock_cancel(t->lock, t->req), 0);
    t->cancelled = true;
}

static bool may_fail_with(const task *t, int status)
{
    switch (status) {
    case AFLOCK_ETIMEDOUT:
        return t->options.timeout != AFLOCK_FOREVER && t->options.timeout != 0;
    case AFLOCK_EWOULDBLOCK:
        return t->options.timeout == 0;
    case AFLOCK_ECANCELED:
        return t->cancelled;
    case AFLOCK_EDEADLK:
        return t->options.owner;
    case AFLOCK_EREFUSED:
        return t->options.on_acquired;
    default:
        return status == AFLOCK_ECLOSED && w.again;
    }
}

static void on_lock(aflock *lock, const aflock_result *result, void *user)
{
    uint64_t start = now_ns();
    task *t = user;
    w.answered++;
    require(t->state == WAITING && t->lock == lock && t->req.id == result->req.id);
    aflock_epoll_timer_cancel(w.ctx, cancel, t);
    aflock_token_free(t->options.token);
    t->options.token = NULL;
    if (result->status == 0) {
        atomic_fetch_add(&the_board->seats[w.seat].waits, result->attempts != 1);
        if (t->cancelled)
            fail("acquired, after a cancel that succeeded");
        begin_hold(t, start, result->attempts == 0 ? HANDED_ON : HOLD, true);
        return;
    }
    if (!may_fail_with(t, result->status))
        fail("answered %s at %s: %s", aflock_error_name(result->status), result->step ? result->step : "-",
             strerror(result->sys_errno));
    if (result->status == AFLOCK_ETIMEDOUT && result->waited < t->options.timeout)
        fail("a deadline of %lu ns was answered after %lu", t->options.timeout, result->waited);
    t->state = IDLE;
    if (!w.again)
        rest(t);
}

static void try_at_once(task *t)
{
    aflock_result result;
    int status = aflock_try(t->lock, &t->options, &t->req, &result);
    uint64_t start = now_ns();
    aflock_token_free(t->options.token); /* of no use here */
    t->options.token = NULL;
    if (status == 0)
        begin_hold(t, start, HOLD, false);
    else if (status == AFLOCK_EWOULDBLOCK || status == AFLOCK_ENOTINLINE ||
             (status == AFLOCK_EDEADLK && t->options.owner) || (status == AFLOCK_EREFUSED && t->options.on_acquired))
        rest(t);
    else
        fail("a try came to %s at %s: %s", aflock_error_name(status), result.step ? result.step : "-",
             strerror(result.sys_errno));
}

static void ask(aflock_ctx *ctx, void *user)
{
    task *t = user;
    (void)ctx;
    require(t->state == IDLE);
    if (the_board->phase == END)
        return;
    choose_options(t);
    if (dice_percent(&w.dice, 15)) {
        try_at_once(t);
        return;
    }
    int status = aflock_acquire(t->lock, &t->options, on_lock, t, &t->req);
    if (status == 0) {
        w.asked++;
        t->state = WAITING;
        if (t->options.token || dice_percent(&w.dice, 15))
            later(cancel, t, CANCEL_MOST);
        if (context_ends())
            end_context(); /* with the attempt under way */
        return;
    }
    aflock_token_free(t->options.token);
    t->options.token = NULL;
    if (status != (t->options.owner ? AFLOCK_EDEADLK : 0) &&
        status != (t->options.timeout == 0 ? AFLOCK_EWOULDBLOCK : 0))
        fail("a request was refused with %s", aflock_error_name(status));
    rest(t);
}

/* ------------------------------------------------------------------------------------------------------ the context */

/* Frees it in the middle of everything; holds end a moment earlier. */
static void end_context(void)
{
    for (unsigned i = 0; i < TASKS; i++) {
        if (w.tasks[i].state == HOLDING)
            hold_end(&w.tasks[i].hold);
    }
    w.again = true;
    /* A descriptor of our own must stay open as long as an attempt uses it. */
    uint64_t grace = w.fd >= 0 || dice_percent(&w.dice, 30) ? WATCHDOG * AFLOCK_SECOND : 0;
    int left = aflock_ctx_free(w.ctx, grace);
    require(grace == 0 ? left >= 0 : left == 0);
    require(w.asked == w.answered);
    w.ctx = NULL;
    for (unsigned i = 0; i < TASKS; i++)
        w.tasks[i].state = IDLE;
}

static void make_context(void)
{
    static const char *const SPELLINGS[LOCKS] = {LOCK_FILE, LINK_NAME "/" LOCK_FILE, "./" LINK_NAME "/./" LOCK_FILE,
                                                 LINK_NAME "/" LINK_NAME "/" LOCK_FILE};
    static const aflock_io KINDS[][2] = {
        {AFLOCK_IO_INLINE, AFLOCK_IO_INLINE}, {AFLOCK_IO_AUTO, AFLOCK_IO_AUTO}, {AFLOCK_IO_INLINE, AFLOCK_IO_AUTO},
        {AFLOCK_IO_POOL, AFLOCK_IO_POOL},     {AFLOCK_IO_POOL, AFLOCK_IO_AUTO}, /* one lock with a pool suffices for all
                                                                                   on the path */
    };
    aflock_pool_options pool;
    aflock_ctx_options context;
    aflock_epoll_options epoll;
    const aflock_io *io = KINDS[dice_below(&w.dice, sizeof KINDS / sizeof KINDS[0])];
    aflock_pool_options_init(&pool);
    aflock_ctx_options_init(&context);
    aflock_epoll_options_init(&epoll);
    pool.threads = 1 + dice_below(&w.dice, 3);
    context.handoff_grants = 1 + dice_below(&w.dice, 16);
    if (dice_percent(&w.dice, 50))
        context.stall_after = 2 * AFLOCK_MILLISECOND; /* who was stopped has stalled */
    epoll.pool = &pool;
    epoll.ctx = &context;
    require_status(aflock_epoll_new(&w.ctx, &epoll), 0);
    const bool own = !w.protocol->marker && !w.protocol->database && dice_percent(&w.dice, 30);
    w.fd = own ? open(LOCK_FILE, O_RDWR | O_CREAT | O_CLOEXEC, 0666) : -1;
    for (unsigned i = 0; i < LOCKS; i++) {
        aflock_options o;
        aflock_options_init(&o);
        o.protocol = w.protocol->number;
        o.io = w.io[i] = io[dice_below(&w.dice, 2)];
        o.poll_interval = 200 * AFLOCK_MICROSECOND + dice_up_to(&w.dice, 600 * AFLOCK_MICROSECOND);
        o.keep_open = dice_percent(&w.dice, 30);
        if (w.protocol->database && dice_percent(&w.dice, 30))
            o.wait = AFLOCK_WAIT_PARK;
        if (i == LOCKS - 1 && w.fd >= 0)
            require_status(aflock_open_fd(&w.locks[i], w.ctx, w.fd, &o), 0);
        else
            require_status(aflock_open(&w.locks[i], w.ctx, SPELLINGS[i], &o), 0);
    }
}

static void on_drained(aflock_ctx *ctx, void *user)
{
    (void)ctx, (void)user;
    w.draining = false;
}

/* Everything is given back, in good order. */
static void leave(void)
{
    for (unsigned i = 0; i < TASKS; i++)
        require(w.tasks[i].state == IDLE);
    w.draining = true;
    require_status(aflock_ctx_drain(w.ctx, on_drained, NULL), 0);
    require_status(aflock_epoll_run(w.ctx), 0);
    require(!w.draining);
    for (unsigned i = 0; i < LOCKS; i++)
        require_status(aflock_close(w.locks[i]), 0);
    require(aflock_ctx_free(w.ctx, WATCHDOG * AFLOCK_SECOND) == 0);
    require(w.asked == w.answered);
}

void worker_run(const protocol *p, uint64_t seed, unsigned seat, unsigned life)
{
    int descriptors = open_descriptors();
    w.protocol = p;
    w.dice = dice_of(seed, seat, life);
    w.seat = seat;
    w.life = life;
    do {
        w.again = false;
        make_context();
        for (unsigned i = 0; i < TASKS; i++)
            rest(&w.tasks[i]);
        require_status(aflock_epoll_run(w.ctx), 0);
        if (!w.again)
            leave();
        if (w.fd >= 0)
            close(w.fd);
    } while (w.again);
    for (int i = 0; i < 30000 && open_descriptors() != descriptors; i++)
        usleep(1000); /* the kit closes one on a thread */
    require(open_descriptors() == descriptors);
    exit(0);
}
