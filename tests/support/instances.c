/* See instances.h. */
#include "support/instances.h"

#include <check.h>
#include <dirent.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { TEXT = 300 };

static bool is_instance(const char *name)
{
    char path[TEXT], target[TEXT];
    snprintf(path, sizeof path, "/proc/self/fd/%s", name);
    ssize_t length = readlink(path, target, sizeof target - 1);
    target[length > 0 ? length : 0] = '\0';
    return strstr(target, "inotify") != NULL;
}

static int watches_of(const char *name)
{
    char text[TEXT];
    int count = 0;
    snprintf(text, sizeof text, "/proc/self/fdinfo/%s", name);
    FILE *info = fopen(text, "re");
    if (info == NULL)
        return 0; /* it was closed just now */
    while (fgets(text, sizeof text, info) != NULL)
        count += strncmp(text, "inotify wd:", strlen("inotify wd:")) == 0;
    fclose(info);
    return count;
}

static void look(int *instances, int *watches)
{
    DIR *all = opendir("/proc/self/fd");
    ck_assert_ptr_nonnull(all);
    *instances = *watches = 0;
    for (const struct dirent *entry; (entry = readdir(all)) != NULL;) {
        if (!is_instance(entry->d_name))
            continue;
        ++*instances;
        *watches += watches_of(entry->d_name);
    }
    closedir(all);
}

int inotify_instances(void)
{
    int instances, watches;
    look(&instances, &watches);
    return instances;
}

int inotify_watches(void)
{
    int instances, watches;
    look(&instances, &watches);
    return watches;
}
