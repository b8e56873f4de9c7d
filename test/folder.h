/* A temporary folder for tests of loaders.  Included by tests only; every mistake fails the test.
 */
#ifndef TEST_FOLDER_H
#define TEST_FOLDER_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "test/test.h"

struct folder {
    char path[64];
    char files[16][192];
    int n_files;
};

static inline struct folder folder_new(void)
{
    struct folder f = {.path = "/tmp/vispecd-test-XXXXXX"};
    if (!mkdtemp(f.path)) test_fail(__FILE__, __LINE__, "mkdtemp failed");
    return f;
}

/* Writes or replaces a file. */
static inline void folder_write(struct folder *f, const char *name, const void *bytes, size_t len)
{
    char path[192];
    snprintf(path, sizeof(path), "%s/%.100s", f->path, name);
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(bytes, 1, len, file) != len || fclose(file) != 0)
        test_fail(__FILE__, __LINE__, "%s: cannot be written", path);
    for (int i = 0; i < f->n_files; i++)
        if (strcmp(f->files[i], path) == 0) return;
    CHECK_INT(f->n_files, <, 16);
    snprintf(f->files[f->n_files++], sizeof(f->files[0]), "%s", path);
}

static inline void folder_write_text(struct folder *f, const char *name, const char *text)
{
    folder_write(f, name, text, strlen(text));
}

static inline void folder_remove(struct folder *f)
{
    for (int i = 0; i < f->n_files; i++) unlink(f->files[i]);
    rmdir(f->path);
}

/* A whole file in memory; freed by the caller. */
static inline char *folder_read(const char *path, size_t *len)
{
    FILE *file = fopen(path, "rb");
    if (!file) test_fail(__FILE__, __LINE__, "%s: cannot be opened", path);
    fseek(file, 0, SEEK_END);
    *len = (size_t)ftell(file);
    rewind(file);
    char *bytes = malloc(*len + 1);
    if (!bytes || fread(bytes, 1, *len, file) != *len)
        test_fail(__FILE__, __LINE__, "%s: cannot be read", path);
    bytes[*len] = 0;
    fclose(file);
    return bytes;
}

/* Copies the .safetensors file at `path`; names of tensors that begin with `from` then begin with
 * `to`. */
static inline void folder_write_renamed(struct folder *f, const char *name, const char *path,
                                        const char *from, const char *to)
{
    size_t len;
    char *file = folder_read(path, &len);
    uint64_t header_len;
    memcpy(&header_len, file, sizeof(header_len));
    const char *end = file + 8 + header_len;
    char *out = malloc(8 + header_len * (1 + strlen(to)) + len), *at = out + 8;
    for (const char *in = file + 8; in < end;) {
        bool is_name = *in == '"' && strncmp(in + 1, from, strlen(from)) == 0;
        *at++ = *in++;
        if (is_name) at = stpcpy(at, to), in += strlen(from);
    }
    header_len = (uint64_t)(at - out - 8);
    memcpy(out, &header_len, sizeof(header_len));
    memcpy(at, end, (size_t)(file + len - end));
    folder_write(f, name, out, (size_t)(at - out) + (size_t)(file + len - end));
    free(file);
    free(out);
}

#endif
