/* See script.h. A chapter is written as if all went well: what could not be asked for is NULL from then on, and the
 * functions of this file take that. */
#include "script.h"

#include "support/folder.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* --------------------------------------------------------------------------------------------------- the protocols */

static bool take_flock(int fd, aflock_mode mode)
{
    return flock(fd, (mode == AFLOCK_SHARED ? LOCK_SH : LOCK_EX) | LOCK_NB) == 0;
}

/* A directory cannot be open for writing, as an exclusive one needs: then it is only looked for. */
static bool take_ofd(int fd, aflock_mode mode)
{
    struct flock whole = {.l_type = mode == AFLOCK_SHARED ? F_RDLCK : F_WRLCK, .l_whence = SEEK_SET};
    if (fcntl(fd, F_OFD_SETLK, &whole) == 0)
        return true;
    return errno == EBADF && fcntl(fd, F_OFD_GETLK, &whole) == 0 && whole.l_type == F_UNLCK;
}

/* The file has just been created. The parent of this process outlives it. */
static bool take_marker(int fd, aflock_mode mode)
{
    char host[256];
    (void)mode;
    return gethostname(host, sizeof host) == 0 && dprintf(fd, "%d\n%s\n", (int)getppid(), host) > 0;
}

static bool take_soft_rw(int fd, aflock_mode mode)
{
    return dprintf(fd, "ffffffffffffffffffffffffffffffff\n") > 0 && take_marker(fd, mode);
}

/* SQLite's bytes: the doorway or the claim, and the range. */
static bool take_rw(int fd, aflock_mode mode)
{
    const short type = mode == AFLOCK_SHARED ? F_RDLCK : F_WRLCK;
    struct flock door = {.l_type = type, .l_start = 0x40000000, .l_len = mode == AFLOCK_SHARED ? 1 : 2};
    struct flock range = {.l_type = type, .l_start = 0x40000002, .l_len = 510};
    if (fcntl(fd, F_OFD_SETLK, &door) != 0)
        return false;
    bool taken = fcntl(fd, F_OFD_SETLK, &range) == 0;
    door.l_type = F_UNLCK;
    if (!taken || mode == AFLOCK_SHARED)
        fcntl(fd, F_OFD_SETLK, &door);
    return taken;
}

const script_protocol script_protocols[SCRIPT_PROTOCOLS] = {
    {"native", AFLOCK_NATIVE, take_flock, false, false, ""},
    {"ofd", AFLOCK_OFD, take_ofd, false, false, ""},
    {"soft", AFLOCK_SOFT, take_marker, true, false, ""},
    {"lease", AFLOCK_LEASE, take_marker, true, false, ""},
    {"rw", AFLOCK_RW, take_rw, false, true, ""},
    {"soft-rw", AFLOCK_SOFT_RW, take_soft_rw, true, false, ".write"},
};

/* ------------------------------------------------------------------------------------------------------- the state */

enum { PEOPLE = 16, LOCKS = 8, PATIENCE_S = 20 };

/* A request, from the asking to the end of its release. */
typedef struct person {
    aflock *lock;
    aflock_req req;
    aflock_mode mode;
    int end; /* 0, or the status with which it ends: it must not win */
    bool waits, holds, releases;
    bool given; /* its release was asked for, once at least */
    fake_answer answer, released;
} person;

/* An open lock, and how it is looked at and used in the end. */
typedef struct subject {
    aflock *lock;
    aflock_acquire_options options;
    char path[PATH_MAX];
    bool idle; /* closed, or its path is nobody's any more */
} subject;

static fake_host h;
static const script_protocol *protocol;
static aflock_io io;
static const script_trouble *trouble;

static person people[PEOPLE];
static size_t people_count;
static subject subjects[LOCKS];
static size_t subject_count;
static aflock_token *token;
static unsigned questions, answers;
static bool draining, freed;
static bool stranded; /* a marker could neither be completed nor taken away, and somebody was told; or nobody knew it */

/* --------------------------------------------------------------------------------------------------------- looking */

/* Where the marker of the path is; until the next call. */
static const char *marker_of(const char *path)
{
    static char name[PATH_MAX + 16];
    snprintf(name, sizeof name, "%s%s", path, protocol->beside);
    return name;
}

/* What was put aside, and could not be taken away then, counts for nobody. */
static bool has_readers(const char *path)
{
    char name[PATH_MAX + 16];
    bool any = false;
    snprintf(name, sizeof name, "%s.readers", path);
    DIR *d = opendir(name);
    for (const struct dirent *e; d && (e = readdir(d)) != NULL;)
        any |= e->d_name[0] != '.' && !strstr(e->d_name, ".break.");
    if (d)
        closedir(d);
    return any;
}

static bool is_taken(const char *path, aflock_mode mode)
{
    char state[PATH_MAX + 16];
    if (access(marker_of(path), F_OK) == 0)
        return true;
    if (!*protocol->beside)
        return false;
    snprintf(state, sizeof state, "%s.state", path);
    return access(state, F_OK) == 0 || (mode == AFLOCK_EXCLUSIVE && has_readers(path));
}

/* Would another program get the lock? */
static bool is_free(const char *path, aflock_mode mode)
{
    if (protocol->marker)
        return !is_taken(path, mode);
    int fd = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 && errno == EISDIR)
        fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return true;
    bool taken = protocol->take(fd, mode);
    close(fd);
    return taken;
}

static subject *subject_of(const aflock *lock)
{
    for (size_t i = 0; i < subject_count; i++)
        if (subjects[i].lock == lock)
            return &subjects[i];
    return NULL;
}

/* 0, or a failure that the trouble explains. */
static bool went_well(int status, int sys_errno, const char *step)
{
    if (status != 0 && !trouble->explains(status, sys_errno, step) && !trouble->excuses(status))
        ck_abort_msg("unexplained: %s, errno %d, in %s %s", aflock_error_name(status), sys_errno, step ? step : "-",
                     fake_context);
    return status == 0;
}

static bool took(int status)
{
    return went_well(status, -1, NULL);
}

static void check_answer(person *p)
{
    const aflock_result *r = &p->answer.result;
    p->waits = false;
    fake_require(p->answer.count == 1);
    fake_require(r->req.id == p->req.id && r->mode == p->mode);
    fake_require(freed || strcmp(r->path, aflock_path(p->lock)) == 0);
    trouble->told(r->cleanup_errno);
    stranded |=
        protocol->marker && r->status != 0 && (r->cleanup_errno != 0 || (r->step && strcmp(r->step, "fstat") == 0));
    if (p->end == 0 || r->status != p->end)
        p->holds = went_well(r->status, r->sys_errno, r->step);
    fake_require(!p->holds || p->end == 0);
    fake_require((p->holds && !protocol->marker) == (r->fd >= 0));
}

static bool is_held(const person *p)
{
    const int fd = aflock_fd(p->lock, p->req);
    return protocol->marker ? fd == AFLOCK_ENOTSUP : fd >= 0;
}

static void check_release(person *p)
{
    const aflock_result *r = &p->released.result;
    p->releases = false;
    fake_require(p->released.count == 1);
    trouble->told(r->cleanup_errno);
    if (draining && r->status == AFLOCK_ECLOSED)
        return; /* counted by aflock_ctx_free */
    p->holds = !went_well(r->status, r->sys_errno, r->step);
    if (p->holds)
        fake_require(is_held(p));
}

static void check_hold(const person *p)
{
    const subject *s = subject_of(p->lock);
    fake_require(s);
    fake_require(!is_free(s->path, AFLOCK_EXCLUSIVE));
    bool beside = is_free(s->path, AFLOCK_SHARED);
    /* A writer who waits by another name of the file keeps readers out. */
    fake_require(p->mode == AFLOCK_SHARED ? beside || protocol->database : !beside);
}

/* After every step. */
static void look(void)
{
    for (person *p = people; p < people + people_count; p++) {
        if (p->waits && p->answer.count)
            check_answer(p);
        if (p->releases && p->released.count)
            check_release(p);
        if (p->holds && !freed)
            check_hold(p);
    }
}

static bool nobody_holds(void)
{
    for (const person *p = people; p < people + people_count; p++)
        if (p->holds)
            return false;
    return true;
}

static bool is_pending(void)
{
    for (const person *p = people; p < people + people_count; p++)
        if (p->waits || p->releases)
            return true;
    return answers < questions;
}

static void work(void)
{
    fake_work(&h);
    look();
}

static void pass(uint64_t ns)
{
    fake_advance(&h, ns);
    work();
}

/* Lets things happen until everything is answered. */
static void live(void)
{
    uint64_t end = h.now + PATIENCE_S * SEC;
    work();
    while (is_pending() && h.now < end && h.timer != AFLOCK_FOREVER)
        pass(h.timer > h.now ? h.timer - h.now : 0);
    fake_require(!is_pending());
}

/* ---------------------------------------------------------------------------------------------------------- asking */

static aflock *note_lock(aflock *lock, const char *path)
{
    subject *s = &subjects[subject_count++];
    fake_require(subject_count <= LOCKS);
    *s = (subject){.lock = lock, .options = fake_options(2 * SEC)};
    snprintf(s->path, sizeof s->path, "%s", path);
    return lock;
}

static aflock_options options_of_lock(void)
{
    aflock_options o;
    aflock_options_init(&o);
    o.protocol = protocol->number;
    o.io = io;
    return o;
}

static aflock *open_path_with(const char *path, int keep_open)
{
    aflock *lock;
    aflock_options o = options_of_lock();
    o.keep_open = keep_open;
    int status = aflock_open(&lock, h.ctx, path, &o);
    fake_require((status == 0) == (lock != NULL));
    if (!took(status))
        return NULL;
    fake_require(aflock_context(lock) == h.ctx);
    fake_require(took(aflock_set_poll_interval(lock, 5 * MS)));
    return note_lock(lock, aflock_path(lock));
}

static aflock *open_path(const char *path)
{
    return open_path_with(path, 0);
}

static aflock *open_name(const char *name)
{
    return open_path(fake_path(name));
}

static person *ask(aflock *lock, const aflock_acquire_options *o)
{
    if (!lock)
        return NULL;
    fake_require(people_count < PEOPLE);
    person *p = &people[people_count];
    *p = (person){.lock = lock, .mode = o->mode};
    if (!took(fake_acquire(lock, o, &p->answer, &p->req)))
        return NULL;
    people_count++;
    p->waits = true;
    look();
    return p;
}

/* Asks and waits; NULL: not got. */
static person *get(aflock *lock, const aflock_acquire_options *o)
{
    person *p = ask(lock, o);
    if (p)
        live();
    return p && p->holds ? p : NULL;
}

static person *get_plain(aflock *lock)
{
    aflock_acquire_options o = fake_options(2 * SEC);
    return get(lock, &o);
}

static void release(person *p, bool tell)
{
    if (!p || !p->holds)
        return;
    p->holds = false;
    p->given = true;
    p->released = (fake_answer){.count = 0};
    p->releases = tell;
    fake_require(fake_release(p->lock, p->req, tell ? &p->released : NULL) == 0);
    look();
}

static void give(person *p)
{
    release(p, true);
    live();
}

static void on_verified(aflock *lock, const aflock_result *r, void *user)
{
    (void)lock, (void)user;
    answers++;
    went_well(r->status, r->sys_errno, r->step);
}

static void on_inspected(aflock *lock, const aflock_holder *holder, void *user)
{
    (void)lock, (void)user;
    answers++;
    went_well(holder->status, holder->sys_errno, NULL);
}

static void verify(const person *p)
{
    if (p && took(aflock_verify(p->lock, p->req, on_verified, NULL)))
        questions++;
    live();
}

static int put_to_work(int fd, void *user)
{
    const person *p = user;
    fake_require((fd >= 0) == !protocol->marker);
    fake_require(!is_free(subject_of(p->lock)->path, AFLOCK_EXCLUSIVE));
    return fd;
}

static void on_ran(aflock *lock, const aflock_result *r, int value, void *user)
{
    (void)lock, (void)user;
    answers++;
    if (went_well(r->status, r->sys_errno, r->step))
        fake_require((value >= 0) == !protocol->marker);
}

static void run_function(person *p)
{
    if (p && took(aflock_run(p->lock, p->req, put_to_work, on_ran, p)))
        questions++;
}

static void inspect(aflock *lock)
{
    if (lock && took(aflock_inspect(lock, on_inspected, NULL)))
        questions++;
    fake_require(!lock || protocol->marker || aflock_break(lock, on_verified, NULL) == AFLOCK_ENOTSUP);
    fake_require(!lock || aflock_break_claim(lock, "claim", on_verified, NULL) == AFLOCK_ENOTSUP);
    live();
}

/* Another program holds it. */
static int foreign(const char *path, aflock_mode mode)
{
    int fd = open(marker_of(path), O_RDWR | O_CREAT | O_CLOEXEC | (protocol->marker ? O_EXCL : 0), 0666);
    fake_require(fd >= 0 && protocol->take(fd, mode));
    return fd;
}

/* It gives it back: what the path names, that is. */
static void foreign_end(const char *path, int fd)
{
    if (protocol->marker)
        fake_require(unlink(marker_of(path)) == 0);
    close(fd);
}

static void rename_marker(const char *from, const char *to)
{
    char name[PATH_MAX + 16];
    snprintf(name, sizeof name, "%s", marker_of(fake_path(from)));
    fake_require(rename(name, marker_of(fake_path(to))) == 0);
}

static void write_file(const char *name, const char *text)
{
    int fd = open(fake_path(name), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    fake_require(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
    close(fd);
}

/* ------------------------------------------------------------------------------------------------------- chapters */

static int count_entry(const aflock_dump_entry *entry, void *user)
{
    fake_require(entry->size == sizeof *entry);
    ++*(int *)user;
    return 0;
}

/* A relative path, directories that are missing, questions about a hold, releases with and without a callback. */
static void play_plain(void)
{
    int entries = 0;
    fake_require(strcmp(aflock_version(), AFLOCK_VERSION) == 0);
    fake_require(aflock_strerror(AFLOCK_ESYS) && aflock_error_name(AFLOCK_ESYS) &&
                 aflock_compromise_name(AFLOCK_LEASE_EXPIRED));
    fake_require(aflock_host_check(h.ctx) == 0 && aflock_host_loop(h.ctx) == &h.loop);
    aflock *lock = open_path("new/deep/f");
    person *p = get_plain(lock);
    if (p) {
        fake_require(is_held(p) && (protocol->marker || aflock_fd(lock, p->req) == p->answer.result.fd));
        fake_require(aflock_depth(lock, NULL) == 1);
        fake_require(aflock_wait_mode(lock, NULL) != AFLOCK_WAIT_AUTO);
        fake_require(aflock_dump(h.ctx, count_entry, &entries) == 0 && entries == 1);
        fake_require(aflock_close(lock) == AFLOCK_EBUSY);
    }
    verify(p);
    inspect(lock);
    run_function(p);
    live();
    run_function(p);
    give(p);
    inspect(lock);
    release(get_plain(lock), false);
    live();
}

static int fine(int fd, void *user)
{
    (void)fd, (void)user;
    return 0;
}

/* Opens what is locked in a way of its own. */
static aflock *open_special(const char *name, uint32_t flag, aflock_mode mode)
{
    aflock *lock = open_name(name);
    if (!lock)
        return NULL;
    subject_of(lock)->options.flags |= flag;
    subject_of(lock)->options.mode = mode;
    return lock;
}

static void get_and_give(aflock *lock)
{
    if (lock)
        give(get(lock, &subject_of(lock)->options));
}

/* What can be asked of the file, one request each. */
static void play_wishes(void)
{
    aflock *lock = open_name("f");
    aflock_acquire_options o = fake_options(2 * SEC);
    o.flags |= AFLOCK_REPORT_CLOSE;
    o.on_acquired = fine;
    if (!protocol->database) {
        o.flags |= AFLOCK_TRUNCATE;
        o.file_mode = 0600;
    }
    give(get(lock, &o));
    o = fake_options(2 * SEC);
    o.flags |= AFLOCK_READ_ONLY | AFLOCK_INHERIT;
    o.mode = AFLOCK_SHARED;
    give(get(lock, &o));
    get_and_give(open_special("link", AFLOCK_FOLLOW, AFLOCK_EXCLUSIVE));
    if (!protocol->database)
        get_and_give(open_special("dir", AFLOCK_DIRECTORY, AFLOCK_SHARED));
}

/* A holder, two readers, a writer behind them; a hold inside a hold. */
static void play_queue(void)
{
    char owner;
    aflock *lock = open_name("f");
    person *first = get_plain(lock);
    aflock_acquire_options o = fake_options(5 * SEC);
    o.mode = AFLOCK_SHARED;
    person *reader = ask(lock, &o), *other = ask(lock, &o);
    o.mode = AFLOCK_EXCLUSIVE;
    o.owner = &owner;
    person *writer = ask(lock, &o);
    release(first, true);
    for (uint64_t end = h.now + PATIENCE_S * SEC; is_pending() && h.now < end;) {
        work();
        if (reader && !reader->given)
            release(reader, true);
        if (other && !other->given)
            release(other, false);
        if (h.timer != AFLOCK_FOREVER)
            pass(h.timer > h.now ? h.timer - h.now : 0);
    }
    live();
    if (!writer || !writer->holds)
        return;
    person *again = get(lock, &o);
    fake_require(aflock_depth(lock, &owner) == (again ? 2 : 1));
    if (again)
        again->holds = false;
    writer->holds = false;
    writer->releases = true;
    fake_require(aflock_release_all(lock, writer->req, fake_answered, &writer->released) == 0);
    live();
}

/* Attempts without a callback. */
static void play_tries(void)
{
    aflock *lock = open_name("f");
    give(get_plain(lock)); /* the path is resolved now */
    for (int i = 0; i < 2 && lock; i++) {
        aflock_result r;
        person *p = &people[people_count];
        *p = (person){.lock = lock};
        int status = aflock_try(lock, NULL, &p->req, &r);
        trouble->told(r.cleanup_errno);
        if (status == AFLOCK_ENOTINLINE)
            continue;
        if (!went_well(status, r.sys_errno, r.step))
            continue;
        people_count++;
        p->holds = true;
        look();
        aflock_req other;
        fake_require(aflock_try(lock, NULL, &other, NULL) ==
                     (io == AFLOCK_IO_POOL ? AFLOCK_ENOTINLINE : AFLOCK_EWOULDBLOCK));
        release(p, i == 0);
        live();
    }
    aflock_acquire_options o = fake_options(0);
    give(get(lock, &o));
}

/* Another program holds it, then the path names another file, and then that is free. */
static void play_contended(void)
{
    int holder = foreign(fake_path("f"), AFLOCK_EXCLUSIVE);
    aflock *lock = open_name("f");
    aflock_acquire_options o = fake_options(5 * SEC);
    person *p = ask(lock, &o);
    for (int i = 0; i < 3; i++)
        pass(60 * MS);
    int second = foreign(fake_path("g"), AFLOCK_EXCLUSIVE);
    rename_marker("g", "f");
    close(holder);
    if (h.listening_count)
        aflock_host_changed(h.ctx, h.listening[0], h.listening[0]->what, NULL);
    pass(60 * MS);
    fake_require(!p || !p->holds);
    foreign_end(fake_path("f"), second);
    if (p && p->waits)
        live();
    give(p);
}

/* Requests that are left: by cancel, by their token, by time. */
static void play_cancelled(void)
{
    int holder = foreign(fake_path("f"), AFLOCK_EXCLUSIVE);
    aflock *lock = open_name("f");
    person *left[3];
    if (!took(aflock_token_new(&token, h.ctx)))
        token = NULL;
    aflock_acquire_options o = fake_options(SEC);
    left[0] = ask(lock, &o);
    o.token = token;
    o.on_acquired = protocol->marker ? NULL : fine;
    left[1] = token ? ask(lock, &o) : NULL;
    o.timeout = 20 * MS;
    left[2] = ask(lock, &o);
    static const int ENDS[] = {AFLOCK_ECANCELED, AFLOCK_ECANCELED, AFLOCK_ETIMEDOUT};
    for (int i = 0; i < 3; i++)
        if (left[i])
            left[i]->end = ENDS[i];
    pass(30 * MS);
    if (left[0] && left[0]->waits)
        fake_require(aflock_cancel(lock, left[0]->req) == 0);
    aflock_token_fire(token);
    fake_require(!token || aflock_token_fired(token));
    live();
    foreign_end(fake_path("f"), holder);
    o = fake_options(SEC);
    person *late = ask(lock, &o); /* leaves while its attempt is on its way */
    if (late && late->waits && aflock_cancel(lock, late->req) == 0)
        late->end = AFLOCK_ECANCELED;
    live();
}

static unsigned told_of[AFLOCK_WANTED_ELSEWHERE + 1];

static void on_wanted(aflock *lock, aflock_req req, aflock_wanted who, void *user)
{
    (void)user;
    fake_require(h.turning && !freed && aflock_fd(lock, req) >= 0);
    told_of[who]++;
}

/* A holder is told that somebody waits; who else does is looked up, and nobody misses it if that fails. */
static void play_wanted(void)
{
    aflock *lock = open_name("f");
    aflock_acquire_options o = fake_options(2 * SEC);
    memset(told_of, 0, sizeof told_of);
    o.on_wanted = on_wanted;
    person *p = get(lock, &o);
    o = fake_options(5 * SEC);
    person *q = ask(lock, &o);
    const bool listening = h.listening_count > 0;
    if (listening)
        aflock_host_changed(h.ctx, h.listening[0], h.listening[0]->what, NULL);
    work();
    fake_require(told_of[AFLOCK_WANTED_HERE] == (p && q));
    fake_require(told_of[AFLOCK_WANTED_ELSEWHERE] == (p && listening));
    give(p);
    give(q);
    fake_require(told_of[AFLOCK_WANTED_HERE] <= 1 && told_of[AFLOCK_WANTED_ELSEWHERE] <= 1);
}

/* A descriptor of the caller's. */
static int own = -1;

int script_descriptor(void)
{
    return own;
}

static void play_descriptor(void)
{
    if (protocol->database)
        return;
    own = open(fake_path("f"), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    fake_require(own >= 0);
    aflock *lock;
    aflock_options o = options_of_lock();
    if (!took(aflock_open_fd(&lock, h.ctx, own, &o)))
        return;
    note_lock(lock, fake_path("f"));
    person *p = get_plain(lock);
    inspect(lock);
    give(p);
    aflock_acquire_options shared = fake_options(SEC);
    shared.mode = AFLOCK_SHARED;
    release(get(lock, &shared), false);
    live();
}

/* Two texts, one file: two places that become one. */
static void play_spellings(void)
{
    aflock *lock = open_name("dir/f"), *other = open_name("to-dir/f");
    person *p = get_plain(lock);
    aflock_acquire_options o = fake_options(5 * SEC);
    person *q = ask(other, &o);
    work();
    release(p, true);
    live();
    give(q);
    if (other && !(q && q->holds)) {
        fake_require(aflock_close(other) == 0);
        subject_of(other)->idle = true;
    }
}

/* A file that stays open: it is wanted again, in other ways, when the path names another one, and while somebody else
 * has it. */
static void play_kept(void)
{
    aflock *lock = open_path_with(fake_path("f"), 1);
    give(get_plain(lock));
    aflock_acquire_options o = fake_options(2 * SEC);
    o.flags |= AFLOCK_READ_ONLY;
    o.mode = AFLOCK_SHARED;
    give(get(lock, &o));
    write_file("g", protocol->database ? "" : "text");
    if (nobody_holds())
        fake_require(rename(fake_path("g"), fake_path("f")) == 0);
    release(get_plain(lock), false);
    live();
    o = fake_options(2 * SEC);
    o.flags |= AFLOCK_INHERIT;
    give(get(lock, &o));
    give(get_plain(lock));
    if (!is_free(fake_path("f"), AFLOCK_EXCLUSIVE))
        return; /* a release has failed */
    int holder = foreign(fake_path("f"), AFLOCK_EXCLUSIVE);
    person *p = ask(lock, &o);
    pass(20 * MS);
    close(holder);
    live();
    give(p);
}

/* A process that is gone. */
static pid_t dead_pid(void)
{
    static pid_t pid;
    if (pid)
        return pid;
    pid = fork();
    fake_require(pid >= 0);
    if (pid == 0)
        _exit(EXIT_SUCCESS);
    fake_require(waitpid(pid, NULL, 0) == pid);
    return pid;
}

static void leave_marker(pid_t pid)
{
    char host[256], text[512];
    fake_require(gethostname(host, sizeof host) == 0);
    snprintf(text, sizeof text, "%d\n%s\n", (int)pid, host);
    write_file("f", text);
}

/* Somebody's marker: of one who is gone, of one who is not and whom we overrule, and what is none. */
static void play_markers(void)
{
    static const struct timespec OLD[2] = {{.tv_sec = 1}, {.tv_sec = 1}};
    leave_marker(dead_pid());
    aflock *lock = open_name("f");
    give(get_plain(lock));
    if (!nobody_holds() || !is_free(fake_path("f"), AFLOCK_EXCLUSIVE))
        return; /* it was not broken, or not given back */
    leave_marker(getppid());
    inspect(lock);
    if (lock && took(aflock_break(lock, on_verified, NULL)))
        questions++;
    live();
    write_file("f", "x");
    fake_require(utimensat(AT_FDCWD, fake_path("f"), OLD, 0) == 0);
    give(get_plain(lock));
}

/* Where somebody reads: a writer waits with a claim, gives up, and comes in at last; then readers together. */
static void play_claims(void)
{
    char path[PATH_MAX];
    aflock *lock = open_name("f");
    give(get_plain(lock)); /* the folder is there now */
    if (mkdir(fake_path("f.readers"), 0700) != 0)
        fake_require(errno == EEXIST);
    snprintf(path, sizeof path, "%s", fake_path("f.readers/0.1"));
    int reader = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    fake_require(reader >= 0 && protocol->take(reader, AFLOCK_SHARED));
    aflock_acquire_options o = fake_options(20 * MS);
    person *p = ask(lock, &o);
    if (p)
        p->end = AFLOCK_ETIMEDOUT;
    inspect(lock); /* and lives on until that is answered, too */
    o = fake_options(5 * SEC);
    p = ask(lock, &o);
    pass(60 * MS);
    fake_require(!p || !p->holds);
    close(reader);
    fake_require(unlink(path) == 0);
    if (h.listening_count)
        aflock_host_changed(h.ctx, h.listening[0], h.listening[0]->what, NULL);
    live();
    give(p);
    o.mode = AFLOCK_SHARED;
    p = ask(lock, &o);
    person *q = ask(lock, &o);
    live();
    verify(p && p->holds ? p : NULL);
    give(p);
    give(q);
}

static void on_drained(aflock_ctx *ctx, void *user)
{
    (void)ctx;
    ++*(unsigned *)user;
}

/* The graceful end. */
static void play_drain(void)
{
    unsigned drained = 0;
    aflock *lock = open_name("f");
    person *p = get_plain(lock);
    aflock_acquire_options o = fake_options(5 * SEC);
    person *q = ask(lock, &o);
    fake_require(aflock_ctx_drain(h.ctx, on_drained, &drained) == 0);
    draining = true;
    give(p);
    give(q);
    trouble->end();
    give(p);
    give(q);
    for (int i = 0; i < 100 && drained == 0; i++)
        pass(50 * MS);
    fake_require(drained == 1);
}

/* The end with a hold, with waiters, and with an attempt on its way. */
static void play_free(void)
{
    aflock *lock = open_name("f"), *other = open_name("g");
    person *p = get_plain(lock);
    aflock_acquire_options o = fake_options(5 * SEC);
    person *ended[] = {ask(lock, &o), ask(other, &o), ask(other, &o)};
    for (int i = 0; i < 3; i++)
        if (ended[i] && ended[i]->waits)
            ended[i]->end = AFLOCK_ECLOSED;
    if (p)
        p->holds = false;
    draining = freed = true;
    int unreleased = fake_free(&h, SEC);
    fake_require(unreleased == 0 || trouble->met());
    look();
    for (int i = 0; i < 3; i++)
        fake_require(!ended[i] || (!ended[i]->waits && !ended[i]->holds));
    /* What a close takes away goes in any case, a marker only with the call that unlinks it. */
    fake_require((protocol->marker && trouble->met()) ||
                 (is_free(fake_path("f"), AFLOCK_EXCLUSIVE) && is_free(fake_path("g"), AFLOCK_EXCLUSIVE)));
}

/* A job that the executor drops. */
static void play_dropped(void)
{
    aflock *lock = open_name("f");
    aflock_acquire_options o = fake_options(SEC);
    person *p = ask(lock, &o);
    if (h.job_count) {
        fake_drop(&h, 0); /* aflock_job_drop */
        fake_settle(&h);
        fake_require(!p || (p->answer.count == 1 && p->answer.result.status == AFLOCK_ESYS));
        if (p)
            p->waits = false;
    }
    live();
    give(p);
}

/* What a child may do with what it inherited. */
static void play_fork(void)
{
    int status;
    aflock *lock = open_name("f");
    person *p = get_plain(lock);
    pid_t child = fork();
    fake_require(child >= 0);
    if (child == 0) {
        fake_require(aflock_host_check(h.ctx) == AFLOCK_EFORKED);
        fake_require(aflock_ctx_abandon(h.ctx) == 0);
        fake_require(!p || !is_free(fake_path("f"), AFLOCK_SHARED));
        _exit(EXIT_SUCCESS);
    }
    fake_require(waitpid(child, &status, 0) == child && status == 0);
    look();
    give(p);
}

/* A program that has closed its standard input: the number must not become a locked file. */
static void play_streams(void)
{
    int saved = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3);
    fake_require(saved >= 0 && close(STDIN_FILENO) == 0);
    aflock *lock = open_name("f");
    person *p = get_plain(lock);
    fake_require(!p || aflock_fd(lock, p->req) > STDERR_FILENO);
    give(p);
    fake_require(dup2(saved, STDIN_FILENO) == STDIN_FILENO && close(saved) == 0);
}

/* A protocol that answers when a descriptor is readable, for what only such ones use. */
typedef struct bell {
    afl_watcher watcher;
    afl_work *work;
} bell;

static int bell_fd = -1;

static void bell_rings(afl_watcher *watcher, unsigned events)
{
    bell *b = (bell *)(void *)watcher;
    afl_work *w = b->work;
    fake_require(events == AFLOCK_READ);
    afl_work_unwatch(w, watcher);
    w->have = UINT32_MAX;
    if (w->op == AFL_OP_TRY)
        afl_work_won(w);
    else
        w->outcome = (afl_outcome){.answer = AFL_WON, .grip = AFL_GRIP_NONE};
    afl_work_done(w);
}

static void bell_start(afl_work *w)
{
    bell *b = w->state;
    *b = (bell){.watcher = {.watch = {.fd = bell_fd, .events = AFLOCK_READ}, .ready = bell_rings}, .work = w};
    fake_require(afl_work_watch(w, &b->watcher) == 0);
}

static void bell_stop(afl_work *w)
{
    bell *b = w->state;
    afl_work_unwatch(w, &b->watcher);
}

static void bell_nothing(afl_work *w)
{
    (void)w;
}

static const afl_protocol BELL = {.name = "bell",
                                  .state_size = sizeof(bell),
                                  .start = bell_start,
                                  .stop = bell_stop,
                                  .reconcile = bell_nothing,
                                  .abandon = bell_nothing};

static void ring(void)
{
    fake_settle(&h);
    while (h.watch) {
        aflock_host_ready(h.ctx, h.watch, AFLOCK_READ);
        fake_settle(&h);
    }
}

static void play_bell(void)
{
    aflock *lock;
    fake_answer a = {.count = 0}, b = {.count = 0};
    bell_fd = eventfd(0, EFD_CLOEXEC);
    if (took(afl_open_protocol(&lock, h.ctx, fake_path("bell"), &BELL, NULL))) {
        aflock_req req;
        if (took(fake_acquire(lock, NULL, &a, &req))) {
            ring();
            fake_require(a.count == 1 && went_well(a.result.status, a.result.sys_errno, a.result.step));
            fake_require(fake_release(lock, req, &b) == 0);
            ring();
            fake_require(b.count == 1 && b.result.status == 0);
        }
        fake_require(aflock_close(lock) == 0);
    }
    close(bell_fd);
}

const script_chapter script_chapters[] = {
    {"plain", play_plain, .hands_on = false, .on = ON_BOTH},
    {"wishes", play_wishes, .hands_on = false},
    {"queue", play_queue, .hands_on = true},
    {"tries", play_tries, .hands_on = false, .on = ON_BOTH},
    {"contended", play_contended, .replaces = true, .on = ON_BOTH},
    {"cancelled", play_cancelled, .walks_out = true, .on = ON_BOTH},
    {"wanted", play_wanted, .hands_on = true, .looks = true},
    {"descriptor", play_descriptor, .hands_on = false},
    {"spellings", play_spellings, .hands_on = true},
    {"kept", play_kept, .replaces = true},
    {"drain", play_drain, .hands_on = true, .on = ON_BOTH},
    {"free", play_free, .walks_out = true, .on = ON_BOTH},
    {"dropped", play_dropped, .walks_out = true, .on = ON_BOTH},
    {"fork", play_fork, .forks = true, .on = ON_BOTH},
    {"streams", play_streams, .hands_on = false},
    {"bell", play_bell, .hands_on = false},
    {"markers", play_markers, .on = ON_MARKERS},
    {"claims", play_claims, .on = ON_SOFT_RW},
};
const size_t script_chapter_count = sizeof script_chapters / sizeof script_chapters[0];

/* ------------------------------------------------------------------------------------------------- a run of a chapter
 */

bool script_applies(const script_chapter *chapter, const script_protocol *spoken)
{
    switch (chapter->on) {
    case ON_FILES:
        return !spoken->marker;
    case ON_BOTH:
        return true;
    default:
        return spoken->marker && (chapter->on == ON_SOFT_RW) == (*spoken->beside != '\0');
    }
}

/* What soft readers and writers have beside their paths. */
static void sweep(const char *folder)
{
    DIR *d = opendir(folder);
    for (const struct dirent *e; d && (e = readdir(d)) != NULL;) {
        char path[2 * PATH_MAX];
        const char *dot = strchr(e->d_name, '.');
        if (!dot || dot == e->d_name)
            continue;
        snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        if (strcmp(dot, ".readers") == 0)
            folder_remove(path);
        else
            fake_require(unlink(path) == 0);
    }
    if (d)
        closedir(d);
}

/* From what the last run left; making files anew takes longer than the rest. */
static void prepare_files(void)
{
    static const char *const GONE[] = {"new/deep/f", "new/deep", "new", "dir/f", "g", "bell", "f"};
    struct stat st;
    sweep(fake_path("new/deep"));
    sweep(fake_path("."));
    for (size_t i = 0; i < sizeof GONE / sizeof GONE[0] - !protocol->marker; i++)
        if (remove(fake_path(GONE[i])) != 0)
            fake_require(errno == ENOENT);
    fake_require(mkdir(fake_path("dir"), 0777) == 0 || errno == EEXIST);
    fake_require(symlink("dir", fake_path("to-dir")) == 0 || errno == EEXIST);
    fake_require(symlink("f", fake_path("link")) == 0 || errno == EEXIST);
    if (!protocol->marker && (stat(fake_path("f"), &st) != 0 || (st.st_size == 0) != protocol->database))
        write_file("f", protocol->database ? "" : "text");
    fake_require(chdir(fake_path(".")) == 0);
}

static void work_meanwhile(uint64_t timeout)
{
    if (h.job_count)
        fake_run(&h, 0);
    else
        h.now += timeout;
}

static void on_log(aflock_log_level level, const char *message, void *user)
{
    (void)level, (void)message, (void)user;
    trouble->told(-1);
}

/* A marker that could neither be told from others nor taken away, nor told of: who asked for it has left. */
static bool is_disowned(const char *path)
{
    char text[2];
    int fd = protocol->marker && trouble->met() ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0)
        return false;
    const bool disowned = read(fd, text, sizeof text) == 1 && text[0] == '?';
    close(fd);
    return disowned;
}

/* All goes well again: what is still held is released, and every lock works. */
static void use_again(void)
{
    for (person *p = people; p < people + people_count; p++) {
        give(p);
        fake_require(!p->holds);
    }
    for (subject *s = subjects; s < subjects + subject_count && !draining; s++) {
        if (s->idle)
            continue;
        if (stranded || is_disowned(s->path))
            unlink(s->path);
        people_count = 0;
        person *p = get(s->lock, &s->options);
        fake_require(p);
        give(p);
        fake_require(!p->holds && is_free(s->path, AFLOCK_EXCLUSIVE));
        fake_require(aflock_depth(s->lock, NULL) == 0);
    }
    for (subject *s = subjects; s < subjects + subject_count; s++)
        fake_require(s->idle || aflock_close(s->lock) == 0);
}

static bool begin(void)
{
    aflock_ctx_options o;
    aflock_ctx_options_init(&o);
    if (trouble->options)
        o = *trouble->options;
    o.log = on_log;
    people_count = subject_count = 0;
    questions = answers = 0;
    token = NULL;
    draining = freed = stranded = false;
    prepare_files();
    trouble->begin();
    if (!fake_start(&h, 4, true, &o)) {
        fake_require(trouble->explains(AFLOCK_ENOMEM, -1, NULL));
        return false;
    }
    h.no_threads = true;
    seam_waits = work_meanwhile;
    return true;
}

void script_play(const script_chapter *chapter, const script_protocol *spoken, aflock_io where,
                 const script_trouble *what)
{
    protocol = spoken;
    io = where;
    trouble = what;
    bool begun = begin();
    if (begun)
        chapter->play();
    trouble->end();
    if (begun && !freed) {
        live();
        use_again();
        fake_require(fake_free(&h, SEC) == 0);
    }
    aflock_token_free(token);
    if (own >= 0)
        close(own);
    own = -1;
}
