/* Markers and claims: taken, waited for, handed on and given up on every loop, wherever they are made. Somebody else's
 * are written by hand; they name the parent of this process, which outlives it. */
#include "kinds.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define TOKEN "ffffffffffffffffffffffffffffffff"
#define CLAIM "lock.filelock/claims/held-v1-" TOKEN ".claim"

static void print_record(const kind *k, char text[1024])
{
    char host[256] = "", hex[513] = "";
    const int pid = (int)getppid();
    require(gethostname(host, sizeof host - 1) == 0);
    for (size_t i = 0; host[i]; i++)
        snprintf(hex + 2 * i, 3, "%02x", (unsigned char)host[i]);
    if (k->protocol == AFLOCK_SOFT)
        snprintf(text, 1024, "%d\n%s\n", pid, host);
    else if (k->protocol == AFLOCK_LEASE)
        snprintf(text, 1024, "filelock/2\npid=%d\nhost=%s\nmode=lease\ntoken=" TOKEN "\nduration=30\n", pid, host);
    else
        snprintf(text, 1024, "filelock-strict-v1\n" TOKEN "\n%d\n%s\n\n", pid, hex);
}

/* Somebody else takes it. The lock was used before, so that folders are there. */
static int take_by_hand(const rig *r, const kind *k)
{
    char path[PATH_MAX], text[1024];
    print_record(k, text);
    rig_path(r, k->held, path);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    require(fd >= 0);
    require(write(fd, text, strlen(text)) == (ssize_t)strlen(text));
    close(fd);
    return -1;
}

static void give_by_hand(const rig *r, const kind *k, int fd)
{
    char path[PATH_MAX];
    (void)fd;
    rig_path(r, k->held, path);
    require(unlink(path) == 0);
}

static void look(rig *r, const kind *k, const answer *a)
{
    (void)r;
    (void)k;
    require(a->result.fd == -1);
}

static void look_after(rig *r, const kind *k)
{
    require(!kind_is_there(r, k->held));
}

static void remove_sentinel(rig *r, const kind *k)
{
    char path[PATH_MAX];
    rig_path(r, k->name, path);
    require(unlink(path) == 0);
}

static const kind_methods MARKER = {take_by_hand, give_by_hand, look, look_after, NULL};
static const kind_methods CLAIMS = {take_by_hand, give_by_hand, look, look_after, remove_sentinel};
static const kind KINDS[] = {
    {&MARKER, AFLOCK_SOFT, 0, AFLOCK_WAIT_AUTO, "lock", "lock"},
    {&MARKER, AFLOCK_LEASE, 0, AFLOCK_WAIT_AUTO, "lock", "lock"},
    {&CLAIMS, AFLOCK_STRICT, 0, AFLOCK_WAIT_AUTO, "lock", CLAIM},
};
enum { KIND_COUNT = sizeof KINDS / sizeof KINDS[0] };

static void a_marker_is_waited_for(rig *r)
{
    kind_each(r, KINDS, KIND_COUNT, kind_wait_for_it);
}

static void a_marker_is_handed_on(rig *r)
{
    kind_each(r, KINDS, KIND_COUNT, kind_hand_it_on);
}

static void a_wait_for_a_marker_is_cancelled(rig *r)
{
    kind_each(r, KINDS, KIND_COUNT, kind_give_the_wait_up);
}

static void freed_while_a_marker_is_held(rig *r)
{
    kind_free_while_held(r, KINDS, KIND_COUNT);
}

const conformance_case cases_markers[] = {
    {"a_marker_is_waited_for", a_marker_is_waited_for, 0},
    {"a_marker_is_handed_on", a_marker_is_handed_on, 0},
    {"a_wait_for_a_marker_is_cancelled", a_wait_for_a_marker_is_cancelled, 0},
    {"freed_while_a_marker_is_held", freed_while_a_marker_is_held, 0},
    {NULL, NULL, 0},
};
