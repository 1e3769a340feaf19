#include "sim_oracle.h"
#include "sim_trace.h"

static sim_hold *holds;
static unsigned hold_count;

void sim_oracle_start(void)
{
    holds = NULL;
    hold_count = 0;
}

static bool same_path(const sim_hold *a, const sim_hold *b)
{
    return a->target && a->target == b->target && a->host == b->host && !a->target->replaced;
}

static bool may_both_hold(const sim_hold *a, const sim_hold *b)
{
    if (a->mode == AFLOCK_SHARED && b->mode == AFLOCK_SHARED)
        return true;
    if (a->context && a->context == b->context && a->owner && a->owner == b->owner)
        return true;
    return a->inode != b->inode && !same_path(a, b);
}

void sim_hold_begins(sim_hold *hold)
{
    sim_require(!hold->held, "a hold begins once");
    for (const sim_hold *other = holds; other; other = other->next) {
        sim_count.conflicts++;
        sim_require(may_both_hold(hold, other), "process %u and process %u exclude each other (%s)", hold->process->pid,
                    other->process->pid, hold->target ? hold->target->spellings[0] : "a file");
    }
    hold->held = true;
    hold->prev = NULL;
    hold->next = holds;
    if (holds)
        holds->prev = hold;
    holds = hold;
    hold_count++;
}

void sim_hold_ends(sim_hold *hold)
{
    if (!hold->held)
        return;
    hold->held = false;
    *(hold->prev ? &hold->prev->next : &holds) = hold->next;
    if (hold->next)
        hold->next->prev = hold->prev;
    hold_count--;
}

unsigned sim_holds(void)
{
    return hold_count;
}

void sim_hold_is_real(const sim_hold *hold, const sim_protocol *protocol, int fd)
{
    const sim_file *f = sim_fs_file(&hold->process->task, fd);
    bool any = false;
    sim_require(f && f->inode == hold->inode, "the descriptor of a hold stays open on its file: %d", fd);
    aflock_mode mode = protocol->held(f, &any);
    sim_require(any && (mode == AFLOCK_EXCLUSIVE || hold->mode == AFLOCK_SHARED),
                "who holds a lock has it: descriptor %d, %s", fd, any ? "only shared" : "none");
}

void sim_hold_is_named(const sim_hold *hold, int fd, const char *path)
{
    sim_task task = hold->process->task;
    const sim_file *f = sim_fs_file(&hold->process->task, fd);
    if (f->inode->volume->remote || sim_fs_named(&task, path) == f->inode)
        return;
    sim_require(f->inode->lost_at >= f->locked_at, "the path named the locked file after it was locked: %s", path);
}
