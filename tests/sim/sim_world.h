/* A simulated world: what exists in it, its weather, and the course of time from chaos through calm to the end. */
#ifndef SIM_WORLD_H
#define SIM_WORLD_H

#include "sim_host.h"

/* How likely mishaps are (per million occasions), and how large. Of each seed its own; no mishaps in the calm. */
typedef struct sim_weather {
    unsigned error;    /* a call fails */
    unsigned stall;    /* a call hangs */
    unsigned crash;    /* the process dies, at a call */
    unsigned memory;   /* an allocation fails */
    unsigned cold;     /* the kernel's cache does not know a path */
    unsigned refuse;   /* the executor does not take a job */
    unsigned deaf;     /* the notifier does not listen */
    unsigned lost;     /* a report of a change is lost */
    unsigned spurious; /* one comes without a change */
    unsigned overflow; /* reports are lost, and it is told */
    uint64_t stall_most;
    uint64_t local, remote;     /* duration of a call, at most */
    uint64_t lateness, latency; /* of timers; of wake-ups, turns and reports: at most */
} sim_weather;

extern sim_weather sim_weather_now;

/* How a lock protocol is simulated. A new protocol is one line of sim_protocols[]. */
typedef struct sim_protocol {
    const char *name;
    aflock_protocol protocol;
    bool shared;                                           /* has shared locks */
    bool database;                                         /* what is in the file is not ours */
    int (*lock)(sim_task *task, int fd, aflock_mode mode); /* how a program without the library does it */
    int (*unlock)(sim_task *task, int fd);
    aflock_mode (*held)(const sim_file *file, bool *any); /* what lock the kernel has for it */
} sim_protocol;

extern const sim_protocol sim_protocols[];
extern const unsigned sim_protocol_count;

enum { SIM_TARGETS = 6, SIM_SPELLINGS = 4 };

/* A file that is locked, and the paths that lead to it. Of one host, or of all. */
typedef struct sim_target {
    const char *spellings[SIM_SPELLINGS];
    unsigned spelling_count;
    uint32_t flags; /* AFLOCK_FOLLOW, AFLOCK_DIRECTORY: needed to lock it */
    const sim_protocol *protocol;
    bool remote;
    bool replaced; /* somebody gave the name to another file without asking: from then on only one file is one lock */
} sim_target;

typedef struct sim_world {
    sim_host hosts[SIM_HOSTS];
    unsigned host_count;
    sim_target targets[SIM_TARGETS];
    unsigned target_count;
    bool calm;      /* nothing goes wrong any more */
    bool quiet;     /* nobody asks for a lock any more */
    bool faultless; /* no call fails in this world */
    bool fair;      /* and none hangs, nobody dies, no clock jumps */
    uint64_t calm_at;
    uint64_t settling; /* so long after, nothing of the chaos is left */
    uint64_t hold_most, poll_most;
    unsigned living; /* processes that have not finished */
} sim_world;

extern sim_world sim_the_world;

/* What happened, for the summary. */
#define SIM_COUNTERS(X)             \
    X(seeds, "seeds")               \
    X(calls, "system calls")        \
    X(switches, "events")           \
    X(requests, "requests")         \
    X(grants, "grants")             \
    X(conflicts, "grant checks")    \
    X(crashes, "crashes")           \
    X(restarts, "restarts")         \
    X(frees, "contexts freed")      \
    X(stalls, "stalled calls")      \
    X(errors, "failed calls")       \
    X(lost, "lost reports")         \
    X(spurious, "false reports")    \
    X(refused, "refused jobs")      \
    X(parked, "looks while parked") \
    X(memory, "failed allocations") \
    X(pauses, "pauses")             \
    X(jumps, "clock jumps")         \
    X(replaced, "files replaced")   \
    X(outages, "server outages")    \
    X(cancels, "cancels")           \
    X(wanted, "told who waits")     \
    X(timeouts, "time-outs")

typedef struct sim_counters {
#define SIM_COUNTER(name, text) uint64_t name;
    SIM_COUNTERS(SIM_COUNTER)
#undef SIM_COUNTER
    uint64_t virtual_time;
    uint64_t longest_wait; /* in the calm */
} sim_counters;

extern sim_counters sim_count;

/* Runs one seed; returns its digest, or does not return. */
uint64_t sim_run(uint64_t seed);

#endif
