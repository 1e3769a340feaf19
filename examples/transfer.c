/* Money moves between two accounts, which are files with a number in them.
 *
 *     ./transfer FROM TO AMOUNT
 *
 * Both are locked (FROM.lock, TO.lock) while they are changed: all or none, whichever way the money goes. So transfers
 * from a to b and from b to a, by any number of programs, never wait for each other in a circle, nor does one from an
 * account to itself, whatever it is called.
 */
#include <aflock/epoll.h>
#include <aflock/several.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct transfer {
    const char *from, *to;
    long amount;
    int failed;
};

static long balance_of(const char *account)
{
    long balance = 0;
    FILE *file = fopen(account, "re");
    if (file) {
        if (fscanf(file, "%ld", &balance) != 1)
            balance = 0;
        fclose(file);
    }
    return balance;
}

static int set_balance(const char *account, long balance)
{
    FILE *file = fopen(account, "we");
    if (!file)
        return -1;
    int written = fprintf(file, "%ld\n", balance);
    return fclose(file) == 0 && written > 0 ? 0 : -1;
}

/* Small files on a local disk; a program whose loop must not wait for them uses aflock_run or aflock/file.h. */
static int carry_out(const struct transfer *t)
{
    if (balance_of(t->from) < t->amount) {
        fprintf(stderr, "transfer: %s has not enough\n", t->from);
        return -1;
    }
    if (set_balance(t->from, balance_of(t->from) - t->amount) != 0 ||
        set_balance(t->to, balance_of(t->to) + t->amount) != 0) {
        perror("transfer");
        return -1;
    }
    return 0;
}

static void on_locks(aflock_several *locks, const aflock_several_result *result, void *user)
{
    struct transfer *t = user;
    if (result->status != 0) {
        fprintf(stderr, "transfer: %s: %s\n", result->path, aflock_strerror(result->status));
        return;
    }
    t->failed = carry_out(t) != 0;
    aflock_several_release(locks, NULL, NULL);
}

static int add(aflock_several *locks, const char *account)
{
    char path[4096];
    if (snprintf(path, sizeof path, "%s.lock", account) >= (int)sizeof path)
        return AFLOCK_ENAMETOOLONG;
    int index = aflock_several_add(locks, path, AFLOCK_EXCLUSIVE, NULL);
    return index < 0 ? index : 0;
}

int main(int argc, char **argv)
{
    aflock_ctx *ctx = NULL;
    aflock_several *locks = NULL;
    aflock_acquire_options options;
    if (argc != 4) {
        fprintf(stderr, "usage: transfer FROM TO AMOUNT\n");
        return 2;
    }
    struct transfer t = {.from = argv[1], .to = argv[2], .amount = strtol(argv[3], NULL, 10), .failed = 1};
    aflock_acquire_options_init(&options);
    options.timeout = 30 * AFLOCK_SECOND;
    int status = aflock_epoll_new(&ctx, NULL);
    if (status == 0)
        status = aflock_several_new(&locks, ctx);
    if (status == 0)
        status = add(locks, t.from);
    if (status == 0)
        status = add(locks, t.to);
    if (status == 0)
        status = aflock_several_all(locks, &options, on_locks, &t);
    if (status == 0)
        status = aflock_epoll_run(ctx);
    if (status != 0)
        fprintf(stderr, "transfer: %s\n", aflock_strerror(status));
    aflock_several_free(locks);
    aflock_ctx_free(ctx, AFLOCK_SECOND);
    return status != 0 || t.failed;
}
