#include "server/auth.h"

#include "runtime/mem.h"

#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

enum { HASH_LEN = 32, MAX_KEYS = 1024 };

struct auth {
    int n_keys;
    unsigned char hashes[MAX_KEYS][HASH_LEN];
};

static void hash_key(unsigned char out[HASH_LEN], const char *key, size_t len)
{
    crypto_generichash(out, HASH_LEN, (const unsigned char *)key, len, NULL, 0);
}

static int read_keys(struct auth *a, FILE *file, const char *path, struct error *err)
{
    char *line = NULL;
    size_t capacity = 0;
    ssize_t n;
    int rc = 0;
    while (rc == 0 && (n = getline(&line, &capacity, file)) >= 0) {
        size_t len = (size_t)n;
        while (len > 0 && strchr(" \t\r\n", line[len - 1])) len--;
        size_t start = strspn(line, " \t\r\n");
        if (start >= len || line[start] == '#') continue;
        if (a->n_keys == MAX_KEYS)
            rc = error_set(err, ERROR_BAD_REQUEST, "%s: more than %d keys", path, MAX_KEYS);
        else
            hash_key(a->hashes[a->n_keys++], line + start, len - start);
    }
    if (line) sodium_memzero(line, capacity);
    free(line);
    if (rc == 0 && a->n_keys == 0)
        rc = error_set(err, ERROR_BAD_REQUEST, "%s: no keys in it", path);
    return rc;
}

int auth_open(struct auth **out, const char *path, struct error *err)
{
    struct auth *a = xcalloc(1, sizeof(*a));
    FILE *file = NULL;
    struct stat st;
    if (sodium_init() < 0) {
        error_set(err, ERROR_INTERNAL, "libsodium does not start");
        goto failed;
    }
    file = fopen(path, "re");
    if (!file || fstat(fileno(file), &st) != 0) {
        error_set(err, ERROR_BAD_REQUEST, "%s: %s", path, strerror(errno));
        goto failed;
    }
    if (st.st_mode & (S_IRWXG | S_IRWXO)) {
        error_set(err, ERROR_BAD_REQUEST, "%s: its mode is %03o, it must be 600: keys are secrets",
                  path, (unsigned)st.st_mode & 0777);
        goto failed;
    }
    if (read_keys(a, file, path, err) != 0) goto failed;
    fclose(file);
    *out = a;
    return 0;

failed:
    if (file) fclose(file);
    auth_close(a);
    return -1;
}

void auth_close(struct auth *a)
{
    free(a);
}

bool auth_allows(const struct auth *a, const char *authorization, const char *x_api_key)
{
    if (!a) return true;
    const char *key = x_api_key;
    if (authorization && strncasecmp(authorization, "Bearer ", 7) == 0)
        key = authorization + 7 + strspn(authorization + 7, " ");
    if (!key) return false;
    unsigned char hash[HASH_LEN];
    hash_key(hash, key, strlen(key));
    int n_equal = 0;
    for (int i = 0; i < a->n_keys; i++) n_equal += sodium_memcmp(hash, a->hashes[i], HASH_LEN) == 0;
    return n_equal > 0;
}
