/* The model of interface_model.h. */
#include "fuzz/interface_model.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

model the_model;

bool is_status(int status)
{
    return status == 0 || (status < 0 && strcmp(aflock_error_name(status), "unknown") != 0);
}

/* ------------------------------------------------------------------------------------------------- looking things up
 */

lock_slot *slot_of(const aflock *lock)
{
    for (int i = 0; i < LOCKS; i++)
        if (the_model.locks[i].lock == lock)
            return &the_model.locks[i];
    return NULL;
}

bool has_state(const aflock *lock, stage wanted)
{
    for (int i = 0; i < REQUESTS; i++)
        if (the_model.requests[i].lock == lock && the_model.requests[i].stage == wanted)
            return true;
    return false;
}

static bool has_question(const aflock *lock)
{
    for (int i = 0; i < QUESTIONS; i++)
        if (the_model.questions[i].pending && the_model.questions[i].lock == lock)
            return true;
    return false;
}

bool is_active(const aflock *lock)
{
    return has_state(lock, PENDING) || has_state(lock, HELD) || has_question(lock);
}

bool is_releasing(const aflock *lock)
{
    return has_state(lock, RELEASING);
}

bool owes_answers(const world *w)
{
    for (int i = 0; i < REQUESTS; i++) {
        const request *r = &the_model.requests[i];
        if (r->world == w && (r->stage == PENDING || r->stage == RELEASING))
            return true;
    }
    for (int i = 0; i < QUESTIONS; i++)
        if (the_model.questions[i].pending && the_model.questions[i].world == w)
            return true;
    return w->drain_pending;
}

bool is_fired(const aflock_token *token)
{
    for (int i = TOKENS - 1; token && i >= 0; i--) /* the newest: an older one with this address is gone */
        if (the_model.tokens[i].token == token)
            return the_model.tokens[i].fired;
    return false;
}

request *free_request(void)
{
    request *ended = NULL;
    for (int i = 0; i < REQUESTS; i++) {
        request *r = &the_model.requests[i];
        if (r->stage == UNUSED)
            return r;
        if (r->stage == ENDED && !ended)
            ended = r;
    }
    return ended;
}

/* ------------------------------------------------------------------------------------------------------- exclusion */

bool kernel_holds(int fd, aflock_protocol protocol)
{
    char name[64];
    struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    int other = open(name, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* another open file description */
    fuzz_require(other >= 0);
    bool held;
    if (protocol == AFLOCK_OFD)
        held = fcntl(other, F_OFD_GETLK, &whole) == 0 && whole.l_type != F_UNLCK;
    else
        held = flock(other, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK;
    close(other);
    return held;
}

static bool may_share(const request *a, const request *b)
{
    if (a->options.mode == AFLOCK_SHARED && b->options.mode == AFLOCK_SHARED)
        return true;
    return a->world == b->world && a->options.owner && a->options.owner == b->options.owner &&
           a->options.mode == b->options.mode;
}

void became_holder(request *r, int fd)
{
    struct stat st;
    fuzz_require(!r->cancelled);
    fuzz_require(fd > 2 && fstat(fd, &st) == 0);
    r->fd = fd;
    r->dev = st.st_dev;
    r->ino = st.st_ino;
    for (int i = 0; i < REQUESTS; i++) {
        const request *other = &the_model.requests[i];
        if (other->stage == HELD && other->protocol == r->protocol && other->dev == r->dev && other->ino == r->ino)
            fuzz_require(may_share(r, other));
    }
    fuzz_require(kernel_holds(fd, r->protocol));
    r->stage = HELD;
}

/* ------------------------------------------------------------------------------------------------------- the answers
 */

/* Only in a turn or in aflock_ctx_free, one at a time, and not from inside a call. */
static void begin_callback(world *w)
{
    fuzz_require(the_model.calling == 0);
    fuzz_require(!w->answering && !w->forked);
    fuzz_require(w->host.turning);
    w->answering = true;
}

static void end_callback(world *w)
{
    act_in_callback(w);
    w->answering = false;
}

static void check_refusal(const request *r, const aflock_result *result)
{
    const aflock_acquire_options *o = &r->options;
    uint64_t waited = r->world->host.now - r->submitted;
    fuzz_require(result->fd == -1);
    switch (result->status) {
    case AFLOCK_ETIMEDOUT:
        fuzz_require(o->timeout > 0 && o->timeout != AFLOCK_FOREVER && waited >= o->timeout);
        break;
    case AFLOCK_EWOULDBLOCK:
        fuzz_require(o->timeout == 0);
        break;
    case AFLOCK_ECANCELED:
        fuzz_require(r->cancelled);
        break;
    case AFLOCK_ECLOSED:
        fuzz_require(r->world->ending);
        break;
    case AFLOCK_EDEADLK:
        fuzz_require(o->owner);
        break;
    case AFLOCK_EREFUSED:
        fuzz_require(o->on_acquired && result->sys_errno);
        break;
    case AFLOCK_EINVAL:
    case AFLOCK_ESTALE:
    case AFLOCK_EHELD:
    case AFLOCK_EBUSY:
    case AFLOCK_EFULL: /* those are returned, not delivered */
        fuzz_require(false);
        break;
    default:
        break;
    }
}

void on_answer(aflock *lock, const aflock_result *result, void *user)
{
    request *r = user;
    world *w = r->world;
    begin_callback(w);
    fuzz_require(lock == r->lock && result->size == sizeof *result);
    fuzz_require(is_status(result->status) && result->req.id == r->req.id);
    fuzz_require(result->owner == r->options.owner && result->mode == r->options.mode);
    fuzz_require(strcmp(result->path, aflock_path(lock)) == 0);
    fuzz_require(!result->step || *result->step);
    fuzz_require(r->stage == PENDING || r->stage == RELEASING); /* else it was answered before */
    if (r->stage == RELEASING) {
        fuzz_require(result->status != AFLOCK_ECLOSED || w->ending);
        r->stage = result->status == 0 || result->status == AFLOCK_ECLOSED ? ENDED : HELD;
    } else if (result->status == 0) {
        r->cancelled |= is_fired(r->options.token);
        became_holder(r, result->fd);
    } else {
        r->cancelled |= is_fired(r->options.token);
        check_refusal(r, result);
        r->stage = ENDED;
    }
    end_callback(w);
    fuzz_require(strcmp(result->path, aflock_path(lock)) == 0); /* both live until the callback returns */
}

/* Requests of the path, by whatever lock. */
static bool is_waited_for(const request *holder)
{
    for (int i = 0; i < REQUESTS; i++) {
        const request *r = &the_model.requests[i];
        if (r->stage == PENDING && r->world == holder->world && r->lock->place == holder->lock->place)
            return true;
    }
    return false;
}

void on_wanted(aflock *lock, aflock_req req, aflock_wanted who, void *user)
{
    request *r = user; /* NULL: the options were those of an older header */
    if (!r)
        return;
    begin_callback(r->world);
    fuzz_require(r->stage == HELD && lock == r->lock && req.id == r->req.id && r->options.on_wanted);
    fuzz_require(!r->let_go && !r->world->ending && !r->told[who]);
    fuzz_require(who == AFLOCK_WANTED_ELSEWHERE ? !slot_of(lock)->own : is_waited_for(r));
    r->told[who] = true;
    end_callback(r->world);
}

void on_verified(aflock *lock, const aflock_result *result, void *user)
{
    question *q = user;
    begin_callback(q->world);
    fuzz_require(q->pending && lock == q->lock && result->req.id == q->req.id);
    fuzz_require(is_status(result->status) && strcmp(result->path, aflock_path(lock)) == 0);
    q->pending = false;
    end_callback(q->world);
}

/* Whatever was released or freed meanwhile: the file is locked. */
int on_worker(int fd, void *user)
{
    question *q = user;
    fuzz_require(q->running && fd == q->fd);
    fuzz_require(q->own || kernel_holds(fd, q->protocol));
    q->running = false;
    return fd;
}

void on_ran(aflock *lock, const aflock_result *result, int value, void *user)
{
    question *q = user;
    world *w = q->world;
    begin_callback(w);
    fuzz_require(q->pending && lock == q->lock && result->req.id == q->req.id);
    fuzz_require(strcmp(result->path, aflock_path(lock)) == 0);
    fuzz_require(result->status == 0 ? !q->running && value == q->fd : value == 0);
    fuzz_require(result->status == 0 || result->status == AFLOCK_ESYS ||
                 (w->ending && (result->status == AFLOCK_ECLOSED || result->status == AFLOCK_EBUSY)));
    if (result->status != AFLOCK_EBUSY)
        q->running = false;
    q->pending = false;
    end_callback(w);
}

void on_inspected(aflock *lock, const aflock_holder *holder, void *user)
{
    question *q = user;
    begin_callback(q->world);
    fuzz_require(q->pending && lock == q->lock && holder->size == sizeof *holder);
    fuzz_require(is_status(holder->status) && !holder->held == !holder->count);
    q->pending = false;
    end_callback(q->world);
}

void on_drained(aflock_ctx *ctx, void *user)
{
    world *w = user;
    begin_callback(w);
    fuzz_require(w->drain_pending && ctx == w->host.ctx);
    w->drain_pending = false;
    fuzz_require(!owes_answers(w));
    end_callback(w);
}

/* ----------------------------------------------------------------------------------------------------------- the end
 */

void world_gone(world *w, bool abandoned)
{
    const fake_host *h = &w->host;
    fuzz_require(h->closed == 1 && h->closed_forked == abandoned && h->executor_closed == 1);
    fuzz_require(h->notifier_closed == (h->host.notifier != NULL));
    fuzz_require(abandoned || (!owes_answers(w) && h->listening_count == 0));
    fuzz_require(w->blocks == 0);
    for (int i = 0; i < REQUESTS; i++)
        if (the_model.requests[i].world == w)
            the_model.requests[i] = (request){.stage = UNUSED};
    for (int i = 0; i < LOCKS; i++)
        if (the_model.locks[i].world == w)
            the_model.locks[i] = (lock_slot){.lock = NULL};
    for (int i = 0; i < QUESTIONS; i++) {
        if (the_model.questions[i].world != w)
            continue;
        the_model.questions[i].pending = false;
        if (abandoned)
            the_model.questions[i].running = false; /* in the parent */
    }
    for (int i = 0; i < HUNG; i++) {
        if (the_model.hung[i].ctx != h->ctx)
            continue;
        the_model.hung[i].ctx = NULL;
        if (abandoned)
            the_model.hung[i].job = NULL; /* its worker is in the parent */
    }
    memset(w, 0, sizeof *w);
}
