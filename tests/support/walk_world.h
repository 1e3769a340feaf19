/* A small world around the machine whose every state can be visited: up to 4 requests, 2 paths, 2 holders outside.
 *
 * Everything that can change lies in one struct at a fixed address (`walk_now`), the machine with its pointers
 * included, so that a state is saved and restored by copying it. A world (walk_world) says which requests there are and
 * what may happen to them; `walk_moves` lists what can happen now, `walk_make` lets it happen and checks what must hold
 * after every step (walk_check.c), `walk_key` names the state, so that states that will behave alike have one name.
 *
 * Time is a multiple of one unit. All intervals of a world are multiples of it, chosen so that deadlines, retries,
 * pauses and claims come in every order.
 */
#ifndef WALK_WORLD_H
#define WALK_WORLD_H

#include "support/machine_driver.h"

enum { WALK_REQUESTS = 4, WALK_PATHS = 2, WALK_MOVES = 96, WALK_KEY = 768 };

#define WALK_UNIT (2 * MS) /* the last rung of the machine's retry ladder, and a divisor of its delays of 10 ms */

/* What may happen in a world besides submit, won, contended, cancel, release, delivery and the next timer. */
enum {
    WALK_TICKS = 1,              /* time passes by the unit, not only to the next timer */
    WALK_LATE = 1 << 1,          /* timers are noticed late, and several inputs come before the machine is asked */
    WALK_LATE_ANSWERS = 1 << 2,  /* answers without the lock lie about, too */
    WALK_ERRORS = 1 << 3,        /* attempts fail */
    WALK_PENDING = 1 << 4,       /* attempts leave claims, which are beaten and lost */
    WALK_NOTIFY = 1 << 5,        /* changes are listened for, or listening is refused */
    WALK_HINTS = 1 << 6,         /* wake-ups, spurious ones included; listening is lost */
    WALK_RENEWED = 1 << 7,       /* an attempt finds another file than the one before */
    WALK_ADOPT_TROUBLE = 1 << 8, /* ADOPT: not handed on, lost, refused */
    WALK_UNDO_FAILS = 1 << 9,    /* RELEASE and WITHDRAW fail; `failures` times in a row if nobody is told */
    WALK_END_RELEASE = 1 << 10,  /* releases are answered before they are through */
    WALK_UNANSWERED = 1 << 11,   /* releases that are not answered; always there are, where releases fail */
    WALK_ONLY_UNANSWERED = 1 << 12,
    WALK_NO_HAND_ON = 1 << 13,
    WALK_REPOLL = 1 << 14,
    WALK_MERGE = 1 << 15,       /* the second path turns out to be the first one */
    WALK_LADDER = 1 << 16,      /* all rungs of the retry ladder, not only the last */
    WALK_NONE_KEPT = 1 << 17,   /* nothing is kept between attempts */
    WALK_UNCONTENDED = 1 << 18, /* there is nobody else, and the attempts succeed */
    WALK_KEEP = 1 << 19,        /* the file may stay open after a release, and whether it is to may change */
    WALK_YIELD = 1 << 21,       /* who holds hears that somebody outside wants the file */
    WALK_LOSE = 1 << 22,        /* what is held may be lost at any time, and beats of it fail */
    WALK_JOIN = 1 << 23,        /* shared requests join, though nothing is handed on */
    WALK_UNDO_LATER = 1 << 24,  /* RELEASE and WITHDRAW find others in the way, `failures` times in a row */
    WALK_PARK = 1 << 20         /* further attempts wait in the kernel; where there are errors, none can be detached */
};

typedef struct walk_attributes {
    uint8_t mode;
    char owner;      /* 'A' ...; 0: none */
    uint8_t timeout; /* in units; 0: for ever */
    bool once, adopt;
    uint8_t need, spelling;
    uint8_t path; /* where it asks: 0 or 1; 2: at either */
} walk_attributes;

typedef struct walk_world {
    const char *name;
    walk_attributes requests[WALK_REQUESTS];
    uint8_t count, paths, outside; /* requests, paths, holders outside */
    uint8_t failures;
    uint8_t poll, beat, grants, run, pause, pause_interval, check; /* in units but `grants` */
    uint32_t may;
} walk_world;

typedef enum walk_kind {
    WALK_PUMP, /* the machine is asked what to do */
    WALK_WATCHED,
    WALK_FINISH, /* the operation in flight, with the outcome `variant` */
    WALK_MERGED,
    WALK_EXPIRE,
    WALK_TIME,
    WALK_DELIVER,
    WALK_SUBMIT,
    WALK_CANCEL,
    WALK_RELEASE,
    WALK_RELEASE_ANSWERED,
    WALK_END,
    WALK_TAKE, /* a holder outside comes */
    WALK_LEAVE,
    WALK_HINT,
    WALK_LOST,
    WALK_POLL,
    WALK_KEEPING,
    WALK_YIELDS,
    WALK_LOSES
} walk_kind;

typedef struct walk_move {
    uint8_t kind, index, variant;
} walk_move;

/* The file: who really holds it. */
typedef struct walk_file {
    bool held, writer;         /* by us; exclusively by somebody outside */
    uint8_t mode;              /* ours */
    uint8_t grip;              /* what is left of ours */
    uint8_t readers;           /* outside */
    bool listening, elsewhere; /* elsewhere: to a file that is not the one that is kept */
    bool stale;                /* what we hold is not what the path names */
    bool hinted;               /* during the attempt in flight */
    uint8_t won_for;           /* request won_for - 1 */
    bool wanted;               /* by somebody outside, since it is held */
    uint32_t tried_need;
    bool lost;       /* what we hold is not ours any more, and the machine knows */
    uint64_t beaten; /* when the claim was last refreshed */
    uint64_t due;    /* when what is held is to be refreshed */
} walk_file;

typedef struct walk_state {
    afl_machine machine;
    uint64_t now, poll;
    afl_path paths[WALK_PATHS];
    afl_request requests[WALK_REQUESTS];
    walk_file files[WALK_PATHS];
    bool merged;
    uint8_t watch_asked; /* of path watch_asked - 1: nothing else happens before it is answered */
} walk_state;

extern walk_state walk_now;

void walk_begin(const walk_world *w);
size_t walk_moves(const walk_world *w, walk_move *moves);
void walk_make(const walk_world *w, walk_move move);

/* The name of the state. exact: nothing is left out but the beginning of time (for checking the other form). */
size_t walk_key(const walk_world *w, bool exact, uint8_t *key);

/* Nothing waits, is held, armed or in flight. */
bool walk_is_over(const walk_world *w);
bool walk_all_idle(const walk_world *w);

/* A step in words, and what the machine wanted and answered in it, if `walk_tells` is set. */
extern bool walk_tells;
void walk_tell_move(const walk_world *w, walk_move move);

/* The outcomes of the operation in flight; the first is success where the world outside allows it. */
enum { WALK_OUTCOMES = 10 };
size_t walk_outcomes(const walk_world *w, const afl_path *p, afl_outcome *o);

/* walk_check.c: notes the state before a move, and says whether the move has led to one that may follow. */
void walk_note(const walk_world *w);
void walk_judge(const walk_world *w, walk_move move);
void walk_judge_action(const afl_action *a);
void walk_judge_refusal(const walk_world *w, const afl_path *p, afl_request *r, int status);

#endif
