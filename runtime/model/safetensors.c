#include "runtime/model/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/mem.h"

enum {
    LENGTH_SIZE = 8,            /* the header's length stands before it */
    MAX_HEADER_LEN = 100 << 20, /* the reference implementation's limit is 100 MB */
    MAX_INDEX_LEN = 64 << 20,
    MAX_SHARDS = 1024,
};

/* One tensor of a file.  Types that we do not compute with are kept, so that asking for one says
 * what it is instead of "missing". */
struct entry {
    struct tensor tensor; /* its name is owned */
    const char *type_name;
    bool is_computable;
    bool is_used; /* somebody looked it up */
    int file;
    size_t begin, end; /* bytes of the data area */
};

struct file {
    char *path;
    void *mapping; /* NULL if the bytes are borrowed */
    const uint8_t *bytes;
    size_t len;
};

struct safetensors {
    char *path;
    struct file *files;
    int n_files;
    struct entry *entries; /* sorted by name once all files are read */
    size_t n_entries, capacity;
};

static const struct type {
    const char *name;
    size_t size;
    bool is_computable;
    enum dtype dtype;
} types[] = {
    {"F32", 4, true, DTYPE_F32},      {"F16", 2, true, DTYPE_F16},
    {"BF16", 2, true, DTYPE_BF16},    {"BOOL", 1, false, DTYPE_F32},
    {"U8", 1, false, DTYPE_F32},      {"I8", 1, false, DTYPE_F32},
    {"F8_E4M3", 1, false, DTYPE_F32}, {"F8_E5M2", 1, false, DTYPE_F32},
    {"I16", 2, false, DTYPE_F32},     {"U16", 2, false, DTYPE_F32},
    {"I32", 4, false, DTYPE_F32},     {"U32", 4, false, DTYPE_F32},
    {"I64", 8, false, DTYPE_F32},     {"U64", 8, false, DTYPE_F32},
    {"F64", 8, false, DTYPE_F32},
};

static const struct type *find_type(const char *name)
{
    for (size_t i = 0; name && i < sizeof(types) / sizeof(types[0]); i++)
        if (strcmp(types[i].name, name) == 0) return &types[i];
    return NULL;
}

/* ---- one header ----------------------------------------------------------------------------- */

static int bad_tensor(const struct file *file, const char *name, const char *what,
                      struct error *err)
{
    return error_set(err, ERROR_BAD_REQUEST, "%s: tensor %.200s: %s", file->path, name, what);
}

/* Reads the sizes and counts the elements. */
static int read_shape(const struct file *file, const json_t *shape, struct tensor *t,
                      struct error *err)
{
    if (!json_is_array(shape)) return bad_tensor(file, t->name, "shape is not a list", err);
    if (json_array_size(shape) > TENSOR_MAX_DIMS)
        return bad_tensor(file, t->name, "shape has more than 8 dimensions", err);
    t->n_dims = (int)json_array_size(shape);
    uint64_t n = 1;
    for (int i = 0; i < t->n_dims; i++) {
        const json_t *size = json_array_get(shape, (size_t)i);
        if (!json_is_integer(size) || json_integer_value(size) < 0)
            return bad_tensor(file, t->name, "a size in shape is not a whole number", err);
        t->shape[i] = json_integer_value(size);
        if (__builtin_mul_overflow(n, (uint64_t)t->shape[i], &n) || n > SIZE_MAX / LENGTH_SIZE)
            return bad_tensor(file, t->name, "shape is too large", err);
    }
    t->n = n;
    return 0;
}

static int read_offsets(const struct file *file, const json_t *offsets, size_t data_len,
                        struct entry *e, struct error *err)
{
    const json_t *begin = json_array_get(offsets, 0), *end = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(begin) || !json_is_integer(end))
        return bad_tensor(file, e->tensor.name, "data_offsets is not two whole numbers", err);
    json_int_t b = json_integer_value(begin), n = json_integer_value(end);
    if (b < 0 || n < b || (uint64_t)n > data_len)
        return error_set(err, ERROR_BAD_REQUEST,
                         "%s: tensor %.200s: data_offsets [%lld, %lld] in %zu bytes of data%s",
                         file->path, e->tensor.name, (long long)b, (long long)n, data_len,
                         n > b && b >= 0 ? " (is the file complete?)" : "");
    e->begin = (size_t)b;
    e->end = (size_t)n;
    return 0;
}

static int read_entry(const struct file *file, const json_t *value, size_t data_len,
                      struct entry *e, struct error *err)
{
    const char *type_name = json_string_value(json_object_get(value, "dtype"));
    const struct type *type = find_type(type_name);
    if (!type)
        return error_set(err, ERROR_BAD_REQUEST, "%s: tensor %.200s: unknown dtype \"%.20s\"",
                         file->path, e->tensor.name, type_name ? type_name : "");
    e->type_name = type->name;
    e->is_computable = type->is_computable;
    e->tensor.dtype = type->dtype;
    if (read_shape(file, json_object_get(value, "shape"), &e->tensor, err) != 0) return -1;
    if (read_offsets(file, json_object_get(value, "data_offsets"), data_len, e, err) != 0)
        return -1;
    if (e->end - e->begin != e->tensor.n * type->size)
        return error_set(err, ERROR_BAD_REQUEST,
                         "%s: tensor %.200s: %zu bytes for %zu elements of %s", file->path,
                         e->tensor.name, e->end - e->begin, e->tensor.n, type->name);
    e->tensor.data = file->bytes + (file->len - data_len) + e->begin;
    return 0;
}

static struct entry *add_entry(struct safetensors *st, const char *name)
{
    if (st->n_entries == st->capacity) {
        st->capacity = st->capacity ? 2 * st->capacity : 64;
        st->entries = xrealloc(st->entries, st->capacity * sizeof(*st->entries));
    }
    struct entry *e = &st->entries[st->n_entries++];
    memset(e, 0, sizeof(*e));
    e->tensor.name = xstrdup(name);
    e->file = st->n_files - 1;
    return e;
}

static int by_begin(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    return x->end < y->end ? -1 : x->end > y->end;
}

static int by_name(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;
    return strcmp(x->tensor.name, y->tensor.name);
}

/* The entries of one file, from `first` on, share no byte. */
static int check_overlap(struct safetensors *st, size_t first, const struct file *file,
                         struct error *err)
{
    if (st->n_entries == first) return 0;
    qsort(st->entries + first, st->n_entries - first, sizeof(*st->entries), by_begin);
    for (size_t i = first + 1; i < st->n_entries; i++) {
        const struct entry *a = &st->entries[i - 1], *b = &st->entries[i];
        if (b->begin < a->end)
            return error_set(err, ERROR_BAD_REQUEST,
                             "%s: tensors %.150s at [%zu, %zu) and %.150s at [%zu, %zu) overlap",
                             file->path, a->tensor.name, a->begin, a->end, b->tensor.name, b->begin,
                             b->end);
    }
    return 0;
}

static int read_header(struct safetensors *st, const struct file *file, struct error *err)
{
    uint64_t header_len = 0;
    for (size_t i = 0; i < LENGTH_SIZE && i < file->len; i++)
        header_len |= (uint64_t)file->bytes[i] << (8 * i);
    if (file->len < LENGTH_SIZE || header_len > file->len - LENGTH_SIZE ||
        header_len > MAX_HEADER_LEN)
        return error_set(err, ERROR_BAD_REQUEST,
                         "%s: a header of %llu bytes in a file of %zu (is it complete?)",
                         file->path, (unsigned long long)header_len, file->len);

    json_error_t where;
    json_t *header = json_loadb((const char *)file->bytes + LENGTH_SIZE, header_len,
                                JSON_REJECT_DUPLICATES, &where);
    if (!json_is_object(header)) {
        json_decref(header);
        return error_set(err, ERROR_BAD_REQUEST, "%s: the header is not a JSON object: %s",
                         file->path, header ? "another type" : where.text);
    }
    size_t data_len = file->len - LENGTH_SIZE - header_len, first = st->n_entries;
    const char *name;
    json_t *value;
    int result = 0;
    json_object_foreach(header, name, value)
    {
        if (strcmp(name, "__metadata__") == 0) continue;
        result = read_entry(file, value, data_len, add_entry(st, name), err);
        if (result != 0) break;
    }
    json_decref(header);
    return result != 0 ? -1 : check_overlap(st, first, file, err);
}

/* ---- files ---------------------------------------------------------------------------------- */

static struct file *add_file(struct safetensors *st, const char *path)
{
    st->files = xrealloc(st->files, (size_t)(st->n_files + 1) * sizeof(*st->files));
    struct file *file = &st->files[st->n_files++];
    memset(file, 0, sizeof(*file));
    file->path = xstrdup(path);
    return file;
}

static int map_file(struct file *file, struct error *err)
{
    int fd = open(file->path, O_RDONLY | O_CLOEXEC);
    struct stat info;
    if (fd < 0 || fstat(fd, &info) != 0) {
        error_set(err, ERROR_BAD_REQUEST, "%s: %s", file->path, strerror(errno));
        if (fd >= 0) close(fd);
        return -1;
    }
    file->len = (size_t)info.st_size;
    if (!S_ISREG(info.st_mode) || file->len == 0) {
        close(fd);
        return error_set(err, ERROR_BAD_REQUEST, "%s: is empty or not a file", file->path);
    }
    void *mapping = mmap(NULL, file->len, PROT_READ, MAP_PRIVATE, fd, 0);
    close(fd);
    if (mapping == MAP_FAILED)
        return error_set(err, ERROR_INTERNAL, "%s: mapping %zu bytes: %s", file->path, file->len,
                         strerror(errno));
    file->mapping = mapping;
    file->bytes = mapping;
    return 0;
}

static int open_file(struct safetensors *st, const char *path, struct error *err)
{
    struct file *file = add_file(st, path);
    if (map_file(file, err) != 0) return -1;
    return read_header(st, file, err);
}

/* Sorts the entries for lookup; a name may not stand in two shards. */
static int finish(struct safetensors *st, struct error *err)
{
    if (st->n_entries == 0)
        return error_set(err, ERROR_BAD_REQUEST, "%s: has no tensors", st->path);
    qsort(st->entries, st->n_entries, sizeof(*st->entries), by_name);
    for (size_t i = 1; i < st->n_entries; i++) {
        const struct entry *a = &st->entries[i - 1], *b = &st->entries[i];
        if (strcmp(a->tensor.name, b->tensor.name) == 0)
            return error_set(err, ERROR_BAD_REQUEST, "%s: tensor %.200s is also in %s",
                             st->files[a->file].path, a->tensor.name, st->files[b->file].path);
    }
    return 0;
}

static struct entry *find_entry(const struct safetensors *st, const char *name)
{
    struct entry key = {.tensor.name = name};
    return bsearch(&key, st->entries, st->n_entries, sizeof(*st->entries), by_name);
}

/* ---- shards -----------------------------------------------------------------------------------
 */

/* Opens each file that the index names, once. */
static int open_shards(struct safetensors *st, const char *dir, json_t *weight_map,
                       const char *index_path, struct error *err)
{
    const char *name;
    json_t *value;
    json_t *seen = json_object();
    int result = 0;
    json_object_foreach(weight_map, name, value)
    {
        const char *shard = json_string_value(value);
        if (!shard || !*shard || strchr(shard, '/')) {
            result = error_set(err, ERROR_BAD_REQUEST, "%s: tensor %.200s: no file name",
                               index_path, name);
            break;
        }
        if (json_object_get(seen, shard)) continue;
        json_object_set_new(seen, shard, json_true());
        char *path = xprintf("%s/%s", dir, shard);
        result = st->n_files == MAX_SHARDS
                     ? error_set(err, ERROR_BAD_REQUEST, "%s: more than %d files", index_path,
                                 MAX_SHARDS)
                     : open_file(st, path, err);
        free(path);
        if (result != 0) break;
    }
    json_decref(seen);
    return result;
}

/* Every tensor of the index is in the files. */
static int check_index(const struct safetensors *st, json_t *weight_map, const char *index_path,
                       struct error *err)
{
    const char *name;
    json_t *value;
    json_object_foreach(weight_map, name, value)
    {
        if (!find_entry(st, name))
            return error_set(err, ERROR_BAD_REQUEST,
                             "%s: tensor %.200s is missing from its file %.100s", index_path, name,
                             json_string_value(value));
    }
    return 0;
}

static int open_index(struct safetensors *st, const char *dir, const char *index_path,
                      struct error *err)
{
    struct file index = {.path = (char *)index_path};
    if (map_file(&index, err) != 0) return -1;
    json_error_t where = {.text = "too long"};
    json_t *root = NULL;
    if (index.len <= MAX_INDEX_LEN)
        root = json_loadb((const char *)index.bytes, index.len, JSON_REJECT_DUPLICATES, &where);
    munmap(index.mapping, index.len);
    json_t *weight_map = json_object_get(root, "weight_map");
    int result = -1;
    if (!root)
        error_set(err, ERROR_BAD_REQUEST, "%s: %s", index_path, where.text);
    else if (!json_is_object(weight_map))
        error_set(err, ERROR_BAD_REQUEST, "%s: has no weight_map", index_path);
    else if (open_shards(st, dir, weight_map, index_path, err) == 0 && finish(st, err) == 0)
        result = check_index(st, weight_map, index_path, err);
    json_decref(root);
    return result;
}

static bool exists(const char *path)
{
    return access(path, F_OK) == 0;
}

/* ---- interface ------------------------------------------------------------------------------ */

int safetensors_open(struct safetensors **out, const char *dir, struct error *err)
{
    struct safetensors *st = xcalloc(1, sizeof(*st));
    char *single = xprintf("%s/model.safetensors", dir);
    char *index = xprintf("%s/model.safetensors.index.json", dir);
    char *pickle = xprintf("%s/pytorch_model.bin", dir);
    char *pickle_index = xprintf("%s/pytorch_model.bin.index.json", dir);
    int result;
    if (exists(single)) {
        st->path = xstrdup(single);
        result = open_file(st, single, err);
        if (result == 0) result = finish(st, err);
    } else if (exists(index)) {
        st->path = xstrdup(dir);
        result = open_index(st, dir, index, err);
    } else if (exists(pickle) || exists(pickle_index)) {
        result = error_set(err, ERROR_BAD_REQUEST,
                           "%s: has only pytorch_model*.bin, which is not read; "
                           "scripts/to-safetensors converts it",
                           dir);
    } else {
        result =
            error_set(err, ERROR_BAD_REQUEST,
                      "%s: has neither model.safetensors nor model.safetensors.index.json", dir);
    }
    free(single);
    free(index);
    free(pickle);
    free(pickle_index);
    if (result != 0) {
        safetensors_close(st);
        return -1;
    }
    *out = st;
    return 0;
}

int safetensors_parse(struct safetensors **out, const void *bytes, size_t len, const char *path,
                      struct error *err)
{
    struct safetensors *st = xcalloc(1, sizeof(*st));
    st->path = xstrdup(path);
    struct file *file = add_file(st, path);
    file->bytes = bytes;
    file->len = len;
    if (read_header(st, file, err) != 0 || finish(st, err) != 0) {
        safetensors_close(st);
        return -1;
    }
    *out = st;
    return 0;
}

void safetensors_close(struct safetensors *st)
{
    if (!st) return;
    for (int i = 0; i < st->n_files; i++) {
        if (st->files[i].mapping) munmap(st->files[i].mapping, st->files[i].len);
        free(st->files[i].path);
    }
    for (size_t i = 0; i < st->n_entries; i++) free((char *)st->entries[i].tensor.name);
    free(st->files);
    free(st->entries);
    free(st->path);
    free(st);
}

const char *safetensors_path(const struct safetensors *st)
{
    return st->path;
}

const struct tensor *safetensors_find(const struct safetensors *st, const char *name)
{
    struct entry *e = find_entry(st, name);
    if (e) e->is_used = true;
    return e && e->is_computable ? &e->tensor : NULL;
}

/* "[640, 128]" */
static const char *shape_text(char text[160], const int64_t *shape, int n_dims)
{
    int len = snprintf(text, 160, "[");
    for (int i = 0; i < n_dims && len < 130; i++)
        len +=
            snprintf(text + len, (size_t)(160 - len), "%s%lld", i ? ", " : "", (long long)shape[i]);
    snprintf(text + len, (size_t)(160 - len), "]");
    return text;
}

int safetensors_get(const struct safetensors *st, const char *name, const int64_t *shape,
                    int n_dims, const struct tensor **out, struct error *err)
{
    struct entry *e = find_entry(st, name);
    if (!e) return error_set(err, ERROR_BAD_REQUEST, "%s: tensor %s is missing", st->path, name);
    e->is_used = true;
    const char *path = st->files[e->file].path;
    if (!e->is_computable)
        return error_set(err, ERROR_BAD_REQUEST, "%s: tensor %s has dtype %s, not F32, F16 or BF16",
                         path, name, e->type_name);
    const struct tensor *t = &e->tensor;
    bool is_equal = t->n_dims == n_dims;
    for (int i = 0; is_equal && i < n_dims; i++) is_equal = t->shape[i] == shape[i];
    if (!is_equal) {
        char has[160], wanted[160];
        return error_set(err, ERROR_BAD_REQUEST, "%s: tensor %s has shape %s, not %s", path, name,
                         shape_text(has, t->shape, t->n_dims), shape_text(wanted, shape, n_dims));
    }
    *out = t;
    return 0;
}

int safetensors_check_used(const struct safetensors *st, const char *const *ignored,
                           struct error *err)
{
    for (size_t i = 0; i < st->n_entries; i++) {
        const struct entry *e = &st->entries[i];
        const struct tensor *t = &e->tensor;
        bool may_stay = e->is_used;
        for (const char *const *part = ignored; *part && !may_stay; part++)
            may_stay = strstr(t->name, *part) != NULL;
        char shape[160];
        if (!may_stay)
            return error_set(err, ERROR_BAD_REQUEST,
                             "%s: tensor %.200s of shape %s has no place in the model that "
                             "config.json describes",
                             st->files[e->file].path, t->name,
                             shape_text(shape, t->shape, t->n_dims));
    }
    return 0;
}
