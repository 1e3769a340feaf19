#include "peer.h"

#include "log.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { FRAME = SPOP_PREFIX + SPOP_SMALL, OUT_FIRST = 1024, OUT_FULL = 32768, NAME = 96 };

/* A NOTIFY whose ACK has not left. */
typedef struct request {
    struct request *next, **link;
    peer *peer;
    ticket *ticket; /* NULL: it asks for no lock, or that has ended */
    uint64_t stream, frame;
    const char *confirmed, *unlocked; /* what became of other messages in it; or NULL */
    uint64_t end;                     /* of its ACK in all that is sent */
} request;

/* What the peer has to do before the timer ends; in the order of what matters. */
typedef enum limit { NO_LIMIT, FINISH_LINGER, TAKE_OUTPUT, FINISH_HELLO, FINISH_FRAME, SAY_SOMETHING } limit;

struct peer {
    peers *all;
    peer *next, **link;
    int fd;
    ev_io reading, writing;
    ev_timer timer;
    limit limit;
    spop_session session;
    request *waiting;          /* without an ACK */
    request *answered, **last; /* whose ACK is queued, in that order */
    uint8_t *out;              /* from out_begin to out_end it waits to be sent */
    size_t out_begin, out_end, out_room;
    uint64_t queued, sent; /* bytes since the beginning */
    bool is_leaving;       /* the last frame is queued: nothing is read any more */
    bool is_lingering;     /* it was sent */
    size_t in_size;
    uint8_t in[SPOP_PREFIX + SPOP_MOST];
    char name[NAME];
};

/* --------------------------------------------------------------------------------------------------------- the limits
 */

static limit limit_of(const peer *p)
{
    if (p->is_lingering)
        return FINISH_LINGER;
    if (p->out_begin < p->out_end)
        return TAKE_OUTPUT;
    if (!p->session.is_open)
        return FINISH_HELLO;
    if (p->in_size > 0)
        return FINISH_FRAME;
    return p->waiting ? NO_LIMIT : SAY_SOMETHING;
}

/* Looks again what the peer has to do. It has more time only if it has done something. */
static void watch(peer *p, bool has_done_something)
{
    const limit now = limit_of(p);
    if (now == p->limit && !has_done_something)
        return;
    p->limit = now;
    ev_timer_stop(p->all->loop, &p->timer);
    if (now == NO_LIMIT)
        return;
    ev_now_update(p->all->loop);
    ev_timer_set(&p->timer, now == SAY_SOMETHING ? p->all->idle : p->all->patience, 0.);
    ev_timer_start(p->all->loop, &p->timer);
}

/* ----------------------------------------------------------------------------------------------------------- requests
 */

static void unlink_request(request *r)
{
    peer *p = r->peer;
    *r->link = r->next;
    if (r->next)
        r->next->link = r->link;
    if (p->last == &r->next)
        p->last = r->link;
}

static void request_free(request *r)
{
    unlink_request(r);
    free(r);
}

static request *request_new(peer *p, const spop_event *event)
{
    request *r = calloc(1, sizeof *r);
    if (!r)
        return NULL;
    r->peer = p;
    r->stream = event->stream;
    r->frame = event->frame;
    r->next = p->waiting;
    r->link = &p->waiting;
    if (r->next)
        r->next->link = &r->next;
    p->waiting = r;
    return r;
}

static void request_answered(request *r, uint64_t end)
{
    unlink_request(r);
    r->end = end;
    r->next = NULL;
    r->link = r->peer->last;
    *r->link = r;
    r->peer->last = &r->next;
}

/* Nobody will hear the answers. */
static void abandon(request *list)
{
    for (request *r = list, *next; r; r = next) {
        next = r->next;
        if (r->ticket)
            ticket_abandon(r->ticket);
        request_free(r);
    }
}

/* Those whose ACK has left. */
static void deliver(peer *p)
{
    while (p->answered && p->answered->end <= p->sent) {
        if (p->answered->ticket)
            ticket_delivered(p->answered->ticket);
        request_free(p->answered);
    }
}

static void peer_free(peer *p)
{
    abandon(p->waiting);
    abandon(p->answered);
    ev_io_stop(p->all->loop, &p->reading);
    ev_io_stop(p->all->loop, &p->writing);
    ev_timer_stop(p->all->loop, &p->timer);
    *p->link = p->next;
    if (p->next)
        p->next->link = p->link;
    p->all->count--;
    close(p->fd);
    free(p->out);
    free(p);
}

/* ------------------------------------------------------------------------------------------------------------- output
 */

/* Makes room behind what is queued. */
static bool make_room(peer *p, size_t size)
{
    if (p->out_begin > 0) {
        memmove(p->out, p->out + p->out_begin, p->out_end - p->out_begin);
        p->out_end -= p->out_begin;
        p->out_begin = 0;
    }
    if (p->out_room - p->out_end >= size)
        return true;
    const size_t room = p->out_room ? 2 * p->out_room : OUT_FIRST;
    uint8_t *out = realloc(p->out, room);
    if (!out)
        return false;
    p->out = out;
    p->out_room = room;
    return true;
}

/* Queues a frame, which is sent in this round of the loop, together with others. Returns the end of it in all that is
 * sent. Without memory the connection is of no use any more: the peer would wait for an answer that never comes. */
static uint64_t queue(peer *p, const uint8_t *frame, size_t size)
{
    if (p->out_room - p->out_end < size && !make_room(p, size)) {
        log_line(LOG_ERR, "%s: no memory for an answer", p->name);
        shutdown(p->fd, SHUT_RDWR); /* which is read as its end */
        return UINT64_MAX;
    }
    memcpy(p->out + p->out_end, frame, size);
    p->out_end += size;
    p->queued += size;
    ev_feed_event(p->all->loop, &p->writing, EV_WRITE);
    return p->queued;
}

/* The last frame. What was answered before is sent before. */
static void leave(peer *p, spop_status status)
{
    uint8_t frame[FRAME];
    abandon(p->waiting);
    p->is_leaving = true;
    queue(p, frame, spop_put_disconnect(frame, status, spop_status_text(status)));
}

static void refuse(peer *p, spop_status status, const char *why)
{
    log_line(LOG_WARNING, "%s: refused, status %d (%s): %s", p->name, (int)status, spop_status_text(status), why);
    leave(p, status);
}

static bool is_choked(const peer *p)
{
    return p->out_end - p->out_begin >= OUT_FULL;
}

/* ------------------------------------------------------------------------------------------------------------- answers
 */

static spop_variable text(const char *name, const char *value)
{
    return (spop_variable){name, {.type = WIRE_STRING, .bytes = {(const uint8_t *)value, strnlen(value, SPOP_TEXT)}}};
}

static void acknowledge(request *r, const ticket_answer *answer)
{
    static const char *const NAMES[] = {
        [TICKET_GRANTED] = "granted", [TICKET_TIMEOUT] = "timeout", [TICKET_BUSY] = "busy", [TICKET_ERROR] = "error"};
    spop_variable variables[5];
    size_t count = 0;
    uint8_t frame[FRAME];
    if (answer) {
        const uint64_t waited = answer->waited < UINT32_MAX ? answer->waited : UINT32_MAX;
        variables[count++] = text("status", NAMES[answer->status]);
        variables[count++] = (spop_variable){"wait", {.type = WIRE_UINT32, .number = waited}};
        if (answer->reason)
            variables[count++] = text("reason", answer->reason);
    }
    if (r->confirmed)
        variables[count++] = text("confirm", r->confirmed);
    if (r->unlocked)
        variables[count++] = text("unlock", r->unlocked);
    const size_t size = spop_put_ack(frame, r->stream, r->frame, variables, count);
    request_answered(r, queue(r->peer, frame, size));
}

static void on_answer(void *user, const ticket_answer *answer)
{
    request *r = user;
    acknowledge(r, answer);
}

/* NULL: each message is in order, and at most one is a `lock`. Nothing is done before that is known. */
static const char *look_at(const spop_event *event)
{
    wire_reader messages = event->messages;
    spop_message message;
    order o;
    bool has_lock = false;
    while (spop_next_message(&messages, &message)) {
        order_read(message, &o);
        if (o.wrong)
            return o.wrong;
        if (o.kind == ORDER_LOCK && has_lock)
            return "two locks are asked for at once";
        has_lock = has_lock || o.kind == ORDER_LOCK;
    }
    return NULL;
}

/* Does what the messages say; true: an answer will come later. */
static bool carry_out(request *r, const spop_event *event, ticket_answer *answer, bool *has_answer)
{
    tickets *t = r->peer->all->tickets;
    wire_reader messages = event->messages;
    spop_message message;
    order o;
    bool is_pending = false;
    while (spop_next_message(&messages, &message)) {
        order_read(message, &o);
        if (o.kind == ORDER_CONFIRM) {
            r->confirmed = tickets_confirm(t, o.id);
        } else if (o.kind == ORDER_UNLOCK) {
            r->unlocked = tickets_unlock(t, o.id);
        } else {
            is_pending = tickets_lock(t, &o, &r->ticket, on_answer, r, answer);
            *has_answer = !is_pending;
        }
    }
    return is_pending;
}

static void notify(peer *p, const spop_event *event)
{
    request *r = request_new(p, event);
    ticket_answer answer = {.status = TICKET_ERROR, .reason = look_at(event)};
    bool has_answer = answer.reason != NULL;
    if (!r) {
        refuse(p, SPOP_RESOURCES, "no memory for a request");
        return;
    }
    if (has_answer)
        log_line(LOG_WARNING, "%s: a message is refused: %s", p->name, answer.reason);
    if (has_answer || !carry_out(r, event, &answer, &has_answer))
        acknowledge(r, has_answer ? &answer : NULL);
}

/* -------------------------------------------------------------------------------------------------------------- input
 */

static void greet(peer *p, const spop_event *event)
{
    uint8_t frame[FRAME];
    if (event->healthcheck && p->all->is_draining) {
        leave(p, SPOP_ENDING);
        return;
    }
    queue(p, frame, spop_put_hello(&p->session, frame));
    p->is_leaving = event->healthcheck;
}

static void say_goodbye(peer *p, const spop_event *event)
{
    char words[LOG_TEXT];
    log_line(event->status == SPOP_NORMAL ? LOG_DEBUG : LOG_NOTICE, "%s: HAProxy disconnects, status %d: %s", p->name,
             (int)event->status, log_text(event->text, words));
    leave(p, SPOP_NORMAL);
}

static void on_frame(peer *p, const uint8_t *frame, size_t size)
{
    const spop_event event = spop_receive(&p->session, frame, size);
    char why[LOG_TEXT];
    switch (event.kind) {
    case SPOP_HELLO:
        greet(p, &event);
        break;
    case SPOP_NOTIFY:
        notify(p, &event);
        break;
    case SPOP_BYE:
        say_goodbye(p, &event);
        break;
    case SPOP_SKIP:
        break;
    case SPOP_REFUSED:
        snprintf(why, sizeof why, "%.*s", (int)event.text.size, (const char *)event.text.at);
        refuse(p, event.status, why);
        break;
    }
}

/* Carries out the whole frames that are there, and reads on, or not. Whether there were any. */
static bool take_frames(peer *p)
{
    size_t begin = 0;
    while (!p->is_leaving && !is_choked(p) && p->in_size - begin >= SPOP_PREFIX) {
        wire_reader prefix = {.at = p->in + begin, .end = p->in + begin + SPOP_PREFIX};
        uint32_t size;
        wire_read_u32(&prefix, &size);
        const spop_status status = spop_check_size(&p->session, size);
        if (status != SPOP_NORMAL)
            refuse(p, status, "the length of a frame");
        else if (p->in_size - begin - SPOP_PREFIX < size)
            break;
        else
            on_frame(p, p->in + begin + SPOP_PREFIX, size);
        begin += SPOP_PREFIX + (status == SPOP_NORMAL ? size : 0);
    }
    if (p->is_leaving)
        begin = p->in_size;
    p->in_size -= begin;
    memmove(p->in, p->in + begin, p->in_size);
    if (is_choked(p))
        ev_io_stop(p->all->loop, &p->reading);
    else
        ev_io_start(p->all->loop, &p->reading);
    return begin > 0;
}

static void on_readable(struct ev_loop *loop, ev_io *watcher, int events)
{
    (void)loop;
    (void)events;
    peer *p = watcher->data;
    const ssize_t size = recv(p->fd, p->in + p->in_size, sizeof p->in - p->in_size, MSG_DONTWAIT);
    if (size < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (size <= 0) {
        if (!p->is_leaving && (size < 0 || p->waiting || p->in_size > 0))
            log_line(LOG_NOTICE, "%s: gone: %s", p->name, size < 0 ? strerror(errno) : "it has closed the connection");
        peer_free(p);
        return;
    }
    if (!p->is_leaving)
        p->in_size += (size_t)size; /* else it is passed over */
    watch(p, take_frames(p));
}

/* Everything is out: the peer can read it, also if there is something from him that nobody reads. */
static void linger(peer *p)
{
    shutdown(p->fd, SHUT_WR);
    p->is_lingering = true;
    ev_io_start(p->all->loop, &p->reading);
}

static void on_writable(struct ev_loop *loop, ev_io *watcher, int events)
{
    (void)events;
    peer *p = watcher->data;
    const size_t left = p->out_end - p->out_begin;
    const ssize_t size = left ? send(p->fd, p->out + p->out_begin, left, MSG_DONTWAIT | MSG_NOSIGNAL) : 0;
    if (size < 0 && errno != EAGAIN && errno != EINTR) {
        log_line(LOG_NOTICE, "%s: gone: %s", p->name, strerror(errno));
        peer_free(p);
        return;
    }
    if (size > 0) {
        p->out_begin += (size_t)size;
        p->sent += (size_t)size;
        deliver(p);
    }
    if (p->out_begin < p->out_end) {
        ev_io_start(loop, &p->writing);
        watch(p, size > 0);
        return;
    }
    ev_io_stop(loop, &p->writing);
    p->out_begin = p->out_end = 0;
    if (p->is_leaving && !p->is_lingering)
        linger(p);
    else if (!ev_is_active(&p->reading))
        take_frames(p); /* those that came before it was choked */
    watch(p, size > 0);
}

static void on_limit(struct ev_loop *loop, ev_timer *timer, int events)
{
    (void)loop;
    (void)events;
    peer *p = timer->data;
    switch (p->limit) {
    case FINISH_HELLO:
        refuse(p, SPOP_TIMEOUT, "no HELLO");
        break;
    case FINISH_FRAME:
        refuse(p, SPOP_TIMEOUT, "a frame that does not end");
        break;
    case SAY_SOMETHING:
        log_line(LOG_DEBUG, "%s: idle", p->name);
        leave(p, SPOP_TIMEOUT);
        break;
    case TAKE_OUTPUT:
        log_line(LOG_WARNING, "%s: gone: it takes no answers", p->name);
        peer_free(p);
        return;
    default: /* it was told, and does not close */
        peer_free(p);
        return;
    }
    watch(p, true);
}

/* ------------------------------------------------------------------------------------------------------ begin and end
 */

/* A peer that is gone without a word is noticed within two minutes, one that is sent something within 30 s. Sockets
 * that are not TCP have no such options, and no need. */
static void set_up(int fd)
{
    const int on = 1, idle = 60, interval = 20, count = 3, unheard = 30000;
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof interval);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof count);
    setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &unheard, sizeof unheard);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

void peer_accept(peers *all, int fd, const char *name)
{
    peer *p = all->count < all->most ? calloc(1, sizeof *p) : NULL;
    if (!p) {
        log_line(LOG_WARNING, "%s: turned away: %s", name,
                 all->count < all->most ? "no memory" : "too many connections");
        close(fd);
        return;
    }
    p->all = all;
    p->fd = fd;
    snprintf(p->name, sizeof p->name, "%s", name);
    set_up(fd);
    ev_io_init(&p->reading, on_readable, fd, EV_READ);
    ev_io_init(&p->writing, on_writable, fd, EV_WRITE);
    ev_init(&p->timer, on_limit);
    p->reading.data = p->writing.data = p->timer.data = p;
    p->next = all->first;
    p->link = &all->first;
    p->last = &p->answered;
    if (p->next)
        p->next->link = &p->next;
    all->first = p;
    all->count++;
    ev_io_start(all->loop, &p->reading);
    watch(p, true);
    log_line(LOG_DEBUG, "%s: connected", p->name);
}

void peers_close(peers *all, spop_status status)
{
    while (all->first) {
        peer *p = all->first;
        if (!p->is_leaving)
            leave(p, status);
        if (p->out_begin < p->out_end)
            send(p->fd, p->out + p->out_begin, p->out_end - p->out_begin, MSG_DONTWAIT | MSG_NOSIGNAL);
        peer_free(p);
    }
}
