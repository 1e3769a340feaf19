/* with_recipes.c: what an outside program does with the recipes: it appends a line to a file. */
#include <aflock/epoll.h>
#include <aflock/file.h>
#include <stdio.h>

static void on_line(const aflock_file_result *result, void *user)
{
    *(int *)user = result->status;
}

int main(int argc, char **argv)
{
    aflock_ctx *ctx;
    int answer = 1;
    if (argc != 2 || aflock_epoll_new(&ctx, NULL) != 0)
        return 2;
    int status = aflock_file_append(ctx, argv[1], "a line", 6, NULL, on_line, &answer);
    if (status == 0)
        status = aflock_epoll_run(ctx);
    if (status != 0 || answer != 0) {
        fprintf(stderr, "aflock: %s, %s\n", aflock_strerror(status), aflock_strerror(answer));
        return 1;
    }
    return aflock_ctx_free(ctx, AFLOCK_SECOND) == 0 ? 0 : 1;
}
