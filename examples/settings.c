/* Settings in a JSON file that any number of programs change at the same time.
 *
 *     ./settings FILE                  print it
 *     ./settings FILE KEY VALUE        set a text
 *     ./settings FILE KEY +NUMBER      add to a number; what is missing counts as 0
 *
 * The change is made to what is in the file at that moment, under its lock; readers see the old or the new settings,
 * also those who take no lock, and so it is after a crash.
 */
#include <aflock/epoll.h>
#include <aflock/file.h>

#include <cjson/cJSON.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct change {
    const char *key, *value;
    int status;
};

static int set(cJSON *settings, const char *key, const char *value)
{
    cJSON *old = cJSON_GetObjectItemCaseSensitive(settings, key), *item;
    if (value[0] == '+')
        item = cJSON_CreateNumber((cJSON_IsNumber(old) ? old->valuedouble : 0) + strtod(value, NULL));
    else
        item = cJSON_CreateString(value);
    if (!item)
        return ENOMEM;
    if (old)
        return cJSON_ReplaceItemInObjectCaseSensitive(settings, key, item) ? 0 : ENOMEM;
    return cJSON_AddItemToObject(settings, key, item) ? 0 : ENOMEM;
}

/* On a worker thread, while the lock is held. What is no JSON is refused, and stays as it is. */
static int apply(const aflock_file_content *before, aflock_file_content *after, void *user)
{
    const struct change *change = user;
    cJSON *settings = before->length ? cJSON_ParseWithLength(before->data, before->length) : cJSON_CreateObject();
    if (!cJSON_IsObject(settings)) {
        cJSON_Delete(settings);
        return EINVAL;
    }
    int error = set(settings, change->key, change->value);
    char *text = error ? NULL : cJSON_Print(settings);
    cJSON_Delete(settings);
    if (!text)
        return error ? error : ENOMEM;
    after->data = text; /* cJSON takes it from malloc(3) */
    after->length = strlen(text);
    return 0;
}

static void on_done(const aflock_file_result *result, void *user)
{
    struct change *change = user;
    change->status = result->status;
    if (result->status != 0)
        fprintf(stderr, "settings: %s: %s: %s%s%s\n", result->path, result->step ? result->step : "lock",
                aflock_strerror(result->status), result->sys_errno ? ": " : "",
                result->sys_errno ? strerror(result->sys_errno) : "");
    else if (result->data)
        printf("%s\n", result->exists ? (const char *)result->data : "{}");
}

int main(int argc, char **argv)
{
    aflock_ctx *ctx;
    aflock_file_options file;
    aflock_acquire_options acquire;
    struct change change = {.status = -1};
    if (argc != 2 && argc != 4) {
        fprintf(stderr, "usage: settings FILE [KEY VALUE|+NUMBER]\n");
        return 2;
    }
    aflock_acquire_options_init(&acquire);
    acquire.timeout = 30 * AFLOCK_SECOND;
    aflock_file_options_init(&file);
    file.acquire = &acquire;
    int status = aflock_epoll_new(&ctx, NULL);
    if (status != 0) {
        fprintf(stderr, "settings: %s\n", aflock_strerror(status));
        return 1;
    }
    if (argc == 2) {
        status = aflock_file_read(ctx, argv[1], &file, on_done, &change);
    } else {
        change = (struct change){.key = argv[2], .value = argv[3], .status = -1};
        status = aflock_file_update(ctx, argv[1], apply, &file, on_done, &change);
    }
    if (status == 0)
        status = aflock_epoll_run(ctx);
    if (status != 0)
        fprintf(stderr, "settings: %s: %s\n", argv[1], aflock_strerror(status));
    aflock_ctx_free(ctx, AFLOCK_SECOND);
    return status != 0 || change.status != 0;
}
