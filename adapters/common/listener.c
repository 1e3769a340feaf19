/* The notifier of the kit: inotify.
 *
 * The kernel gives one watch to each inode, however often it is asked, and a second request replaces the first one's
 * mask: so there is one `afl_inode` for each watch descriptor, with everybody who listens to it, and masks only grow.
 * Watches are added by /proc/self/fd/N: the file is open already, nothing is looked up, nothing can hang.
 *
 * One reading of the queue may hold hundreds of events of one file. Each file is reported once for it, except that
 * names of entries of a directory are passed as they come. What is reported may end any watch.
 *
 * Ending a watch costs the kernel some 20 us. Whoever hears that his lock is free stops listening at once, so inside a
 * dispatch that waits until the callbacks have run.
 */
#include "listener.h"

#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/inotify.h>

/* Somebody who listens (the `host` of an aflock_notify). */
struct afl_listening {
    aflock_notify *notify;
    struct afl_inode *inode;
    struct afl_listening *next;
};

struct afl_inode {
    int wd;           /* -1: the kernel has ended it */
    uint32_t changed; /* events that are to be reported */
    struct afl_listening *listening;
    struct afl_inode *next;         /* in its bucket */
    struct afl_inode *next_changed; /* to be reported after it */
    struct afl_inode *next_unused;  /* to be looked at after it */
    bool unused;                    /* nobody listened any more, a moment ago */
    bool gone;                      /* the file has ended, and the watch with it */
};

/* What makes a waiter look again, and who may be one to those who hold it. Markers are never watched for being closed:
 * whoever reads one closes it. Of a directory only entries that leave are of interest. */
static uint32_t mask_of(unsigned what)
{
    switch (what) {
    case AFLOCK_ON_FILE:
        return IN_CLOSE | IN_ATTRIB | IN_MOVE_SELF | IN_DELETE_SELF;
    case AFLOCK_ON_MARKER:
        return IN_ATTRIB | IN_MOVE_SELF | IN_DELETE_SELF;
    case AFLOCK_ON_OPEN:
        return IN_OPEN;
    default:
        return IN_DELETE | IN_MOVED_FROM | IN_ONLYDIR;
    }
}

static struct afl_inode **bucket(struct afl_listener *listener, int wd)
{
    return &listener->inodes[(unsigned)wd % AFL_INODE_BUCKETS];
}

static struct afl_inode *find_inode(struct afl_listener *listener, int wd)
{
    struct afl_inode *inode = *bucket(listener, wd);
    while (inode != NULL && inode->wd != wd)
        inode = inode->next;
    return inode;
}

static void put_into_bucket(struct afl_listener *listener, struct afl_inode *inode)
{
    inode->next = *bucket(listener, inode->wd);
    *bucket(listener, inode->wd) = inode;
}

static void take_from_bucket(struct afl_listener *listener, const struct afl_inode *inode)
{
    struct afl_inode **link = bucket(listener, inode->wd);
    while (*link != inode)
        link = &(*link)->next;
    *link = inode->next;
}

/* ------------------------------------------------------------------------------------------------ coming and going */

static int open_queue(struct afl_listener *listener)
{
    if (listener->fd >= 0)
        return 0;
    int fd = afl_beyond_streams(inotify_init1(IN_NONBLOCK | IN_CLOEXEC));
    if (fd < 0)
        return afl_status(errno);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = listener};
    if (epoll_ctl(listener->epoll, EPOLL_CTL_ADD, fd, &event) != 0) {
        int error = errno;
        close(fd);
        errno = error;
        return afl_status(error);
    }
    listener->fd = fd;
    return 0;
}

/* The one for the file that is open as `fd`. */
static int watch_inode(struct afl_listener *listener, int fd, uint32_t mask, struct afl_inode **out)
{
    char path[40];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    struct afl_inode *fresh = calloc(1, sizeof *fresh);
    if (fresh == NULL)
        return AFLOCK_ENOMEM;
    int wd = inotify_add_watch(listener->fd, path, mask | IN_MASK_ADD);
    struct afl_inode *inode = wd >= 0 ? find_inode(listener, wd) : NULL;
    if (wd < 0 || inode != NULL) {
        int error = errno;
        free(fresh);
        errno = error;
        *out = inode;
        return inode != NULL ? 0 : afl_status(error);
    }
    fresh->wd = wd;
    put_into_bucket(listener, fresh);
    *out = fresh;
    return 0;
}

/* The kernel has ended the watch; those who listen do not know it yet. */
static void lose_inode(struct afl_listener *listener, struct afl_inode *inode)
{
    take_from_bucket(listener, inode);
    inode->wd = -1;
    put_into_bucket(listener, inode);
}

/* Never while changes are reported: one of them may be its own. */
static void free_inode(struct afl_listener *listener, struct afl_inode *inode)
{
    if (inode->wd >= 0)
        inotify_rm_watch(listener->fd, inode->wd);
    take_from_bucket(listener, inode);
    free(inode);
}

static int listener_add(void *self, aflock_notify *notify)
{
    struct afl_listener *listener = self;
    struct afl_inode *inode;
    struct afl_listening *listening = calloc(1, sizeof *listening);
    if (listening == NULL)
        return AFLOCK_ENOMEM;
    int status = open_queue(listener);
    if (status == 0)
        status = watch_inode(listener, notify->fd, mask_of(notify->what), &inode);
    if (status != 0) {
        int error = errno;
        free(listening);
        errno = error;
        return status;
    }
    *listening = (struct afl_listening){notify, inode, inode->listening};
    inode->listening = listening;
    notify->host = listening;
    return 0;
}

static void listener_del(void *self, aflock_notify *notify)
{
    struct afl_listener *listener = self;
    struct afl_listening *listening = notify->host;
    if (listening == NULL)
        return;
    notify->host = NULL;
    if (listener->cursor == listening)
        listener->cursor = listening->next;
    struct afl_inode *inode = listening->inode;
    struct afl_listening **link = &inode->listening;
    while (*link != listening)
        link = &(*link)->next;
    *link = listening->next;
    free(listening);
    if (inode->listening != NULL || inode->unused)
        return;
    if (!listener->dispatching) {
        free_inode(listener, inode);
        return;
    }
    inode->unused = true;
    inode->next_unused = listener->unused;
    listener->unused = inode;
}

void afl_listener_tidy(struct afl_listener *listener)
{
    listener->dispatching = 0;
    while (listener->unused != NULL) {
        struct afl_inode *inode = listener->unused;
        listener->unused = inode->next_unused;
        inode->unused = false;
        if (inode->listening == NULL)
            free_inode(listener, inode);
    }
}

/* ------------------------------------------------------------------------------------------------------- reporting */

/* A change of an entry concerns those who listen to the directory; its own changes those who listen to it as a file. */
static bool concerns(const aflock_notify *notify, uint32_t events, const char *name)
{
    return (events & mask_of(notify->what)) != 0 && (name != NULL) == (notify->what == AFLOCK_ON_DIR);
}

static void tell(struct afl_listener *listener, aflock_ctx *ctx, const struct afl_inode *inode, uint32_t events,
                 const char *name)
{
    listener->cursor = inode->listening;
    while (listener->cursor != NULL) {
        const struct afl_listening *listening = listener->cursor;
        listener->cursor = listening->next;
        if (events & IN_IGNORED)
            aflock_host_changed(ctx, listening->notify, inode->gone ? AFLOCK_ON_GONE : AFLOCK_ON_LOST, NULL);
        else if (concerns(listening->notify, events, name))
            aflock_host_changed(ctx, listening->notify, listening->notify->what, name);
    }
}

static void note(struct afl_listener *listener, struct afl_inode *inode, uint32_t events)
{
    if (inode->changed == 0) {
        inode->next_changed = listener->changed;
        listener->changed = inode;
    }
    inode->changed |= events;
}

/* Events were lost: anybody may have missed one. */
static void note_all(struct afl_listener *listener)
{
    for (int i = 0; i < AFL_INODE_BUCKETS; i++)
        for (struct afl_inode *inode = listener->inodes[i]; inode != NULL; inode = inode->next)
            if (inode->wd >= 0)
                note(listener, inode, IN_IGNORED);
}

static void take(struct afl_listener *listener, aflock_ctx *ctx, const struct inotify_event *event)
{
    if (event->mask & IN_Q_OVERFLOW) {
        note_all(listener);
        return;
    }
    struct afl_inode *inode = find_inode(listener, event->wd);
    if (inode == NULL)
        return; /* of a watch that was ended since */
    if (event->mask & IN_DELETE_SELF)
        inode->gone = true;
    if (event->mask & IN_IGNORED)
        lose_inode(listener, inode);
    if (event->len > 0)
        tell(listener, ctx, inode, event->mask, event->name);
    else
        note(listener, inode, event->mask);
}

void afl_listener_report(struct afl_listener *listener, aflock_ctx *ctx)
{
    _Alignas(struct inotify_event) char events[16 * 1024];
    ssize_t size = read(listener->fd, events, sizeof events);
    for (ssize_t at = 0; at < size;) {
        const struct inotify_event *event = (const void *)(events + at);
        at += (ssize_t)(sizeof *event + event->len);
        take(listener, ctx, event);
    }
    while (listener->changed != NULL) {
        struct afl_inode *inode = listener->changed;
        uint32_t changed = inode->changed;
        listener->changed = inode->next_changed;
        inode->changed = 0;
        tell(listener, ctx, inode, changed, NULL);
    }
}

/* ------------------------------------------------------------------------------------------------------- the end */

/* A descriptor as the argument of a thread. */
union argument {
    void *pointer;
    int fd;
};

static void *close_on_thread(void *pointer)
{
    union argument argument = {.pointer = pointer};
    close(argument.fd);
    return NULL;
}

/* Closing an instance whose watches live, or did a moment ago, takes up to some 20 ms. Nobody waits for this thread. */
static void close_elsewhere(int fd)
{
    union argument argument = {.pointer = NULL};
    pthread_t thread;
    pthread_attr_t attributes;
    sigset_t all, before;
    argument.fd = fd;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    if (pthread_attr_init(&attributes) != 0) {
        close(fd);
    } else {
        pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
        if (pthread_create(&thread, &attributes, close_on_thread, argument.pointer) != 0)
            close(fd);
        pthread_attr_destroy(&attributes);
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/* In a child the descriptor is not the last one: closing it ends nothing. */
void afl_listener_close(struct afl_listener *listener, int forked)
{
    for (int i = 0; i < AFL_INODE_BUCKETS; i++) {
        while (listener->inodes[i] != NULL) {
            struct afl_inode *inode = listener->inodes[i];
            listener->inodes[i] = inode->next;
            while (inode->listening != NULL) {
                struct afl_listening *listening = inode->listening;
                inode->listening = listening->next;
                free(listening);
            }
            free(inode);
        }
    }
    listener->unused = NULL;
    if (listener->fd < 0)
        return;
    if (forked) {
        close(listener->fd);
    } else {
        epoll_ctl(listener->epoll, EPOLL_CTL_DEL, listener->fd, NULL); /* until it is closed, it would be reported */
        close_elsewhere(listener->fd);
    }
    listener->fd = -1;
}

static void listener_closed(void *self, int forked)
{
    afl_listener_close(self, forked);
}

void afl_listener_init(struct afl_listener *listener, int epoll)
{
    *listener = (struct afl_listener){
        .notifier = {.size = sizeof listener->notifier,
                     .self = listener,
                     .add = listener_add,
                     .del = listener_del,
                     .close = listener_closed},
        .fd = -1,
        .epoll = epoll,
    };
}
