/* The files of /proc that the library reads, see proc(5). */
#include "sim_clock.h"
#include "sim_fs.h"
#include "sim_trace.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>

static size_t mountinfo(const sim_view *view, char text[SIM_TEXT])
{
    size_t used = 0;
    for (unsigned i = 0; i < view->mount_count; i++) {
        const sim_mount *m = &view->mounts[i];
        used += (size_t)snprintf(text + used, SIM_TEXT - used, "%u 1 %u:%u / %s rw,relatime - %s source rw\n", m->id,
                                 m->volume->major, m->volume->minor, m->path, m->volume->type);
    }
    return used;
}

/* range: "0 EOF". */
static size_t lock_line(sim_file *f, uint8_t type, const char *kind, int pid, const char *range, char *text,
                        size_t room)
{
    struct stat st;
    sim_task task = {.fds[0].file = f};
    if (type == F_UNLCK || room < 80)
        return 0;
    sim_fs_fstat(&task, 0, &st);
    return (size_t)snprintf(text, room, "1: %s  ADVISORY  %s %d %02x:%02x:%llu %s\n", kind,
                            type == F_WRLCK ? "WRITE" : "READ", pid, f->inode->volume->major, f->inode->volume->minor,
                            (unsigned long long)st.st_ino, range);
}

/* Zones beside each other that are locked alike are one lock. */
static size_t ofd_lines(sim_file *f, char *text, size_t room)
{
    size_t used = 0;
    for (unsigned first = 0, end; first < SIM_ZONES; first = end) {
        char range[64], last[32] = "EOF";
        for (end = first + 1; end < SIM_ZONES && f->ofd[end] == f->ofd[first];)
            end++;
        if (end < SIM_ZONES)
            snprintf(last, sizeof last, "%ld", (long)sim_lock_bounds[end] - 1);
        snprintf(range, sizeof range, "%ld %s", (long)sim_lock_bounds[first], last);
        used += lock_line(f, f->ofd[first], "OFDLCK", -1, range, text + used, room - used);
    }
    return used;
}

static size_t locks(const sim_view *view, char text[SIM_TEXT])
{
    size_t used = 0;
    for (unsigned i = 0; i < sim_files_used; i++) {
        sim_file *f = &sim_files[i];
        if (!f->refs || !f->inode || f->view != view)
            continue;
        used += lock_line(f, f->flock, "FLOCK", f->pid, "0 EOF", text + used, SIM_TEXT - used);
        used += ofd_lines(f, text + used, SIM_TEXT - used);
    }
    return used;
}

size_t sim_fs_text(const sim_view *view, const char *proc, char text[SIM_TEXT])
{
    return strcmp(proc, "/proc/locks") == 0 ? locks(view, text) : mountinfo(view, text);
}

void sim_fs_note_locks(void)
{
    for (unsigned i = 0; i < sim_files_used; i++) {
        const sim_file *f = &sim_files[i];
        if (f->refs && f->inode && sim_lock_any(f))
            sim_note("is locked by", f->pid, (int64_t)(sim_now - f->locked_at),
                     f->inode->links ? "" : "without a name");
    }
}
