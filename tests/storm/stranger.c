/* A process that knows nothing of aflock. See worker.h. */
#include "worker.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

enum { POLL = 300000, HOLD_MOST = 150000, THINK_MOST = 4000000 }; /* ns */

static void take(const protocol *p, dice *d, int fd, bool shared)
{
    if (dice_percent(d, 50)) {
        require(p->take(fd, shared, true));
        return;
    }
    while (!p->take(fd, shared, false))
        sleep_ns(POLL);
}

/* One hold. Returns the descriptor, or -1 if it was closed. */
static int hold_once(const protocol *p, dice *d, int fd, const interval *what, bool calm)
{
    hold h;
    take(p, d, fd, what->shared);
    hold_begin(&h, now_ns(), what, !what->shared);
    atomic_fetch_add(&the_board->seats[what->seat].calm, calm);
    for (unsigned steps = dice_below(d, 4); steps > 0; steps--) {
        sleep_ns(dice_up_to(d, HOLD_MOST));
        hold_stamp(&h);
    }
    bool dies = !calm && the_board->phase == STORM && dice_percent(d, 3);
    if (dies && dice_percent(d, 50))
        raise(SIGKILL);
    hold_end(&h);
    if (dies)
        _exit(0);
    if (!p->marker && dice_percent(d, 30)) {
        close(fd);
        return -1;
    }
    require(p->drop(fd));
    if (p->marker || dice_percent(d, 50))
        return fd;
    close(fd);
    return -1;
}

void stranger_run(const protocol *p, uint64_t seed, unsigned seat, unsigned life)
{
    dice d = dice_of(seed, seat, life);
    int fd = -1;
    while (the_board->phase != END) {
        interval what = {
            .life = life, .seat = (uint8_t)seat, .where = STRANGER, .shared = !p->marker && dice_percent(&d, 20)};
        bool calm = the_board->phase == CALM;
        if (fd < 0 && !p->marker)
            fd = open(LOCK_FILE, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
        require(p->marker || fd >= 0);
        fd = hold_once(p, &d, fd, &what, calm);
        sleep_ns(dice_up_to(&d, THINK_MOST));
    }
    exit(0);
}
