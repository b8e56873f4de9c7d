/* Any bytes as each of the small JSON files of a model folder that are read by their path: the
 * index of the shards, the chat template, the preprocessor's and the generation's config, the
 * draft's. A reader takes the file, or refuses it with one line that names it.
 *
 * The folder is made once; all names in it are links to one file, which gets the bytes. */
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/image/preprocess.h"
#include "runtime/model/config.h"
#include "runtime/model/safetensors.h"
#include "runtime/text/chat_template.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len);

enum { INDEX, TEMPLATE, PREPROCESSOR, GENERATION, DRAFT, N_NAMES };
static const char *const names[N_NAMES] = {[INDEX] = "model.safetensors.index.json",
                                           [TEMPLATE] = "chat_template.json",
                                           [PREPROCESSOR] = "preprocessor_config.json",
                                           [GENERATION] = "generation_config.json",
                                           [DRAFT] = "config.json"};

static char folder[] = "/tmp/vispecd-fuzz-XXXXXX";
static char paths[N_NAMES][64], bytes_path[64], shard_path[64];

static void require(int condition)
{
    if (!condition) abort();
}

static void write_file(const char *path, const void *bytes, size_t len)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    require(fd >= 0 && write(fd, bytes, len) == (ssize_t)len && close(fd) == 0);
}

static void remove_folder(void)
{
    for (int i = 0; i < N_NAMES; i++) unlink(paths[i]);
    unlink(bytes_path);
    unlink(shard_path);
    rmdir(folder);
}

static void make_folder(void)
{
    /* One tensor "a", so that an index can be right. */
    static const char shard[] = "\x38\0\0\0\0\0\0\0{\"a\":{\"dtype\":\"F32\",\"shape\":[1],"
                                "\"data_offsets\":[0,4]}}  \0\0\0\0";
    require(mkdtemp(folder) != NULL);
    snprintf(bytes_path, sizeof(bytes_path), "%s/bytes", folder);
    snprintf(shard_path, sizeof(shard_path), "%s/1.safetensors", folder);
    write_file(shard_path, shard, sizeof(shard) - 1);
    for (int i = 0; i < N_NAMES; i++) {
        snprintf(paths[i], sizeof(paths[i]), "%s/%s", folder, names[i]);
        require(symlink("bytes", paths[i]) == 0);
    }
    require(atexit(remove_folder) == 0);
}

/* What a reader says: 0, or -1 with a line that names the folder. */
static bool is_read(int result, struct error *err)
{
    require(result == 0 || (result == -1 && strstr(err->text, folder) && !strchr(err->text, '\n')));
    err->text[0] = '\0';
    return result == 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
    static const struct lm_config target = {.hidden = 128, .vocab = 640};
    if (!bytes_path[0]) make_folder();
    write_file(bytes_path, bytes, len);

    struct error err = {.text = ""};
    struct safetensors *st = NULL;
    if (is_read(safetensors_open(&st, folder, &err), &err))
        require(safetensors_find(st, "a") != NULL);
    safetensors_close(st);

    const struct chat_template *t = NULL;
    if (is_read(chat_template_choose(&t, folder, NULL, &err), &err)) require(t != NULL);

    struct preprocess_config pre;
    if (is_read(preprocess_config_load(&pre, paths[PREPROCESSOR], &err), &err)) {
        struct image_layout layout;
        int result = preprocess_layout(&pre, 640, 480, &layout, &err);
        require(result == 0 ? layout.n_values > 0 : err.text[0] != '\0');
    }

    struct generation_config generation;
    if (is_read(config_load_generation(folder, &generation, &err), &err))
        require(generation.n_eos_ids >= 1 && generation.n_eos_ids <= MAX_EOS_IDS);

    struct draft_config draft;
    if (is_read(config_load_draft(folder, &target, &draft, &err), &err))
        require(draft.layer.hidden == target.hidden && draft.layer.vocab == target.vocab);
    return 0;
}
