/* Feeds files to a fuzz target, so that its corpus and its old crashes are tests like any other.
 *
 *   fuzz_x FILE|FOLDER ...      a folder stands for every file directly in it
 *
 * Prints TAP: "ok" says that the target came back. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len);

static int n_tests;

static _Noreturn void stop(const char *path)
{
    fflush(stdout);
    perror(path);
    exit(1);
}

static void run_file(const char *path)
{
    FILE *f = fopen(path, "rb");
    if (!f || fseek(f, 0, SEEK_END) != 0) stop(path);
    size_t len = (size_t)ftell(f);
    rewind(f);
    uint8_t *bytes =
        malloc(len ? len : 1); /* exactly, so that a sanitizer sees a read behind them */
    if (!bytes || fread(bytes, 1, len, f) != len) stop(path);
    fclose(f);
    LLVMFuzzerTestOneInput(bytes, len);
    free(bytes);
    printf("ok %d - %s\n", ++n_tests, path);
}

static int is_visible(const struct dirent *entry)
{
    return entry->d_name[0] != '.';
}

static void run_folder(const char *path, struct dirent **entries, int n_entries)
{
    for (int i = 0; i < n_entries; i++) {
        char file[4096];
        snprintf(file, sizeof(file), "%s/%s", path, entries[i]->d_name);
        run_file(file);
        free(entries[i]);
    }
    free(entries);
}

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        struct dirent **entries;
        int n_entries = scandir(argv[i], &entries, is_visible, alphasort);
        if (n_entries >= 0)
            run_folder(argv[i], entries, n_entries);
        else
            run_file(argv[i]);
    }
    printf("1..%d\n", n_tests);
    return n_tests == 0;
}
