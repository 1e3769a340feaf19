/* What the tests of strict locks have in common: a lock named "lock" in the scene, and others' claims, written by hand
 * from the format and not by the library. */
#ifndef AFL_TEST_STRICT_SCENE_H
#define AFL_TEST_STRICT_SCENE_H

#include "support/scene.h"

#define FOLDER "lock.filelock/claims"
#define SENTINEL "1\nfilelock-strict-v1\0\n0\n"
enum { SENTINEL_SIZE = 24 };

/* Tokens below and above all that are made by chance. */
#define LOW "00000000000000000000000000000000"
#define HIGH "ffffffffffffffffffffffffffffffff"

#define A_MOMENT (30 * AFLOCK_MILLISECOND)

aflock_options strict_options(int io);
aflock *strict_open(int io); /* waits without polling */
answer strict_try(aflock *lock, uint64_t timeout);
aflock_req strict_hold(aflock *lock);
void strict_release(aflock *lock, aflock_req req);
void strict_must_get(aflock *lock); /* and leaves the sentinel and an empty folder */

/* Waits until it was found taken. */
aflock_req strict_wait_for(aflock *lock, answer *a);
void strict_must_be_woken(aflock *lock, const answer *a);

/* Others. A state is "held" or "intent"; the file lies in FOLDER, which is made. */
void strict_lay_out(void); /* sentinel and folders as a holder leaves them */
void strict_write(const char *name, const void *bytes, size_t size);
void strict_claim(const char *state, const char *token, pid_t pid, const char *host);
void strict_unclaim(const char *state, const char *token);
const char *strict_claim_name(const char *state, const char *token); /* until the next call */
size_t strict_record(char *text, size_t size, const char *token, pid_t pid, const char *host, const char *start);

/* The folder has exactly so many entries of any name. */
void strict_must_have(int entries);
pid_t strict_dead_pid(void);

/* Asked and answered. */
typedef struct strict_sight {
    int count;
    aflock_holder holder;
    char host[256];
    char detail[PATH_MAX];
    struct {
        int held, here, gone;
        int64_t pid;
        uint64_t age;
        char name[256], token[64], host[512];
    } claims[8];
} strict_sight;
strict_sight strict_look(aflock *lock);
answer strict_break(aflock *lock, const char *name);

#endif
