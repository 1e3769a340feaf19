/* Runs a fuzz target on files, and on all files of directories, in every build: what a fuzzer once found stays found.
 *
 *   fuzz-TARGET FILE|DIRECTORY...
 */
#include "fuzz/fuzz.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>

static unsigned inputs;
static unsigned long long bytes;

static void give_up(const char *path)
{
    (void)fprintf(stderr, "%s: %s\n", path, strerror(errno));
    exit(EXIT_FAILURE);
}

/* In a block of its own size, so that the sanitizers see each byte that is read beyond it. */
static void run_file(const char *path, size_t size)
{
    FILE *file = fopen(path, "re");
    uint8_t *data = malloc(size ? size : 1);
    if (!file || !data || fread(data, 1, size, file) != size)
        give_up(path);
    (void)fclose(file);
    LLVMFuzzerTestOneInput(data, size);
    free(data);
    inputs++;
    bytes += size;
}

static void run_path(const char *path);

static int is_visible(const struct dirent *entry)
{
    return entry->d_name[0] != '.';
}

static void run_directory(const char *path)
{
    struct dirent **entries;
    int count = scandir(path, &entries, is_visible, alphasort);
    if (count < 0)
        give_up(path);
    for (int i = 0; i < count; i++) {
        char name[PATH_MAX];
        snprintf(name, sizeof name, "%s/%s", path, entries[i]->d_name);
        free(entries[i]);
        run_path(name);
    }
    free(entries);
}

static void run_path(const char *path)
{
    struct stat st;
    if (stat(path, &st) != 0)
        give_up(path);
    if (S_ISDIR(st.st_mode))
        run_directory(path);
    else
        run_file(path, (size_t)st.st_size);
}

int main(int argc, char **argv)
{
    const char *name = strrchr(argv[0], '/');
    for (int i = 1; i < argc; i++)
        run_path(argv[i]);
    printf("figure: %s: %u inputs of %llu bytes replayed\n", name ? name + 1 : argv[0], inputs, bytes);
    return inputs ? EXIT_SUCCESS : EXIT_FAILURE; /* no corpus proves nothing */
}
