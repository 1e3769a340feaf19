/* See order.h. */
#include "several/order.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static char *join(const char *begin, const char *rest)
{
    size_t room = strlen(begin) + strlen(rest) + 1;
    char *text = malloc(room);
    if (text)
        snprintf(text, room, "%s%s", begin, rest);
    return text;
}

order *order_new(size_t count)
{
    order *o = calloc(1, sizeof *o);
    if (!o)
        return NULL;
    atomic_init(&o->users, 1);
    o->count = count;
    o->paths = calloc(count, sizeof *o->paths);
    o->turn = calloc(count, sizeof *o->turn);
    if (!o->paths || !o->turn) {
        order_leave(o);
        return NULL;
    }
    return o;
}

bool order_set(order *o, size_t index, const char *text, bool follow)
{
    o->paths[index] =
        (order_path){.text = join(text, ""), .follow = follow, .index = index, .leads = index, .same = index};
    return o->paths[index].text;
}

void order_leave(order *o)
{
    if (atomic_fetch_sub(&o->users, 1) != 1)
        return;
    for (size_t i = 0; o->paths && i < o->count; i++) {
        free(o->paths[i].text);
        free(o->paths[i].resolved);
    }
    free(o->paths);
    free(o->turn);
    free(o);
}

/* ------------------------------------------------------------------------------------------------------ the file
 * system
 */

static size_t last_slash(const char *text)
{
    return (size_t)(strrchr(text, '/') - text);
}

/* As much of the path as is there, resolved, and the rest as it is written; what cannot be looked up, for whatever
 * reason, is not there. NULL: no memory. */
static char *resolve(const char *text, bool follow)
{
    char real[PATH_MAX] = "", *begin = join(text, "");
    if (!begin)
        return NULL;
    size_t cut = last_slash(text);
    if (follow || strcmp(text + cut, "/..") == 0)
        cut = strlen(text);
    for (; cut > 0; cut = last_slash(begin)) {
        begin[cut] = '\0';
        if (realpath(begin, real))
            break;
    }
    free(begin);
    return join(cut > 0 && real[1] ? real : "", text + cut); /* the root adds nothing */
}

static order_file look_at(const char *path)
{
    struct stat st;
    if (lstat(path, &st) != 0)
        return (order_file){.exists = false};
    return (order_file){.exists = true, .device = st.st_dev, .inode = st.st_ino};
}

static bool look_up(order_path *p)
{
    p->resolved = resolve(p->text, p->follow);
    char *directory = p->resolved ? join(p->resolved, "") : NULL;
    if (!directory)
        return false;
    directory[last_slash(directory) + (last_slash(directory) == 0)] = '\0';
    p->directory = look_at(directory);
    p->file = look_at(p->resolved);
    free(directory);
    return true;
}

/* ------------------------------------------------------------------------------------------------------- what is equal
 */

static int compare_numbers(unsigned long long a, unsigned long long b)
{
    return a < b ? -1 : a > b;
}

/* What does not exist equals nothing. */
static int compare_files(const order_file *a, const order_file *b)
{
    int by_device = compare_numbers(a->device, b->device);
    return by_device ? by_device : compare_numbers(a->inode, b->inode);
}

static int by_file(const void *a, const void *b)
{
    const order_path *const *one = a, *const *two = b;
    return compare_files(&(*one)->file, &(*two)->file);
}

static const char *name_of(const order_path *p)
{
    return strrchr(p->resolved, '/');
}

/* Also of files that are not there yet. */
static int by_entry(const void *a, const void *b)
{
    const order_path *const *one = a, *const *two = b;
    int by_directory = compare_files(&(*one)->directory, &(*two)->directory);
    return by_directory ? by_directory : strcmp(name_of(*one), name_of(*two));
}

static int by_path(const void *a, const void *b)
{
    const order_path *const *one = a, *const *two = b;
    int by_text = strcmp((*one)->resolved, (*two)->resolved);
    return by_text ? by_text : compare_numbers((*one)->index, (*two)->index);
}

static bool are_one_file(const order_path *a, const order_path *b)
{
    return a->file.exists && b->file.exists && by_file(&a, &b) == 0;
}

static bool are_one_entry(const order_path *a, const order_path *b)
{
    return a->directory.exists && b->directory.exists && by_entry(&a, &b) == 0;
}

static bool are_one_path(const order_path *a, const order_path *b)
{
    return strcmp(a->resolved, b->resolved) == 0;
}

static size_t leader(const order *o, size_t index)
{
    while (o->paths[index].leads != index)
        index = o->paths[index].leads;
    return index;
}

/* Those that are equal stand side by side then. */
static void find_equal(order *o, order_path **sorted, int (*compare)(const void *, const void *),
                       bool (*are_one)(const order_path *, const order_path *))
{
    qsort(sorted, o->count, sizeof(order_path *), compare);
    for (size_t i = 1; i < o->count; i++)
        if (are_one(sorted[i - 1], sorted[i]))
            o->paths[leader(o, sorted[i]->index)].leads = leader(o, sorted[i - 1]->index);
}

/* `sorted` by path: of those that are the same the first one stands for all. */
static void choose(order *o, order_path **sorted)
{
    for (size_t i = 0; i < o->count; i++) {
        order_path *first = &o->paths[leader(o, sorted[i]->index)];
        if (!first->chosen) {
            first->chosen = true;
            first->same = sorted[i]->index;
            o->turn[o->turns++] = sorted[i]->index;
        }
    }
    for (size_t i = 0; i < o->count; i++)
        if (o->paths[i].leads != i)
            o->paths[i].same = o->paths[leader(o, i)].same;
}

static int find(order *o)
{
    order_path **sorted = calloc(o->count, sizeof(order_path *));
    if (!sorted)
        return ENOMEM;
    for (size_t i = 0; i < o->count; i++) {
        sorted[i] = &o->paths[i];
        if (!look_up(sorted[i])) {
            free(sorted);
            return ENOMEM;
        }
    }
    find_equal(o, sorted, by_file, are_one_file);
    find_equal(o, sorted, by_entry, are_one_entry);
    find_equal(o, sorted, by_path, are_one_path);
    choose(o, sorted);
    free(sorted);
    return 0;
}

int order_find(int fd, void *user)
{
    order *o = user;
    (void)fd;
    int error = find(o);
    order_leave(o);
    return error;
}
