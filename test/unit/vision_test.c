#include "runtime/model/vision.h"

#include <jansson.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/image/decode.h"
#include "runtime/model/weights.h"
#include "test/folder.h"
#include "test/golden.h"
#include "test/kernels.h"
#include "test/test.h"

enum { MAX_TILES = 5, MAX_TOKENS = 256 };

static const struct vision_limits limits = {MAX_TILES, MAX_TOKENS};

/* An open tower and where its features go. */
struct fixture {
    struct device *dev;
    struct stream *s;
    struct safetensors *st;
    struct model_config cfg;
    struct vision *vision;
    float *features; /* [MAX_TOKENS][hidden] */
};

/* The config of a folder and the tensors of one at `path`. */
static struct fixture open_tensors(const char *folder, const char *path)
{
    struct fixture f = {.dev = kernels_device(2)};
    struct error err;
    f.s = stream_open(f.dev);
    if (config_load(test_path(folder), &f.cfg, &err) != 0 ||
        safetensors_open(&f.st, path, &err) != 0 ||
        vision_open(&f.vision, f.dev, f.st, &f.cfg.vision, &limits, f.cfg.lm.hidden, &err) != 0)
        test_fail(__FILE__, __LINE__, "%s", err.text);
    f.features =
        device_alloc(f.dev, MAX_TOKENS * (size_t)f.cfg.lm.hidden * sizeof(float), "features");
    return f;
}

static struct fixture open_fixture(const char *folder)
{
    return open_tensors(folder, test_path(folder));
}

static void close_fixture(struct fixture *f)
{
    stream_close(f->s);
    device_free(f->dev, f->features);
    vision_close(f->vision);
    safetensors_close(f->st);
    device_close(f->dev);
}

/* On a device of floats: sums of a row of features have the order of the reference in neither BLAS,
 * so 1e-5 is expected, and the smallest of the usual mistakes (tanh GELU in the projector) moves
 * them by 4e-4.  On one of 16 bits every activation is rounded, and what can be told is the error
 * of all features together: root mean square, in roundings of one. */
static const double tolerance = 5e-5, max_units = 4;

static void check_close(const struct fixture *f, const float *got, const float *wanted, size_t n,
                        const char *name)
{
    const enum dtype act = device_ops(f->dev)->act;
    double worst = 0, error = 0, square = 0;
    for (size_t i = 0; i < n; i++) {
        const double difference = (double)got[i] - (double)wanted[i];
        worst = fmax(worst, fabs(difference));
        error += difference * difference;
        square += (double)wanted[i] * (double)wanted[i];
    }
    const double units = sqrt(error / square) / (act == DTYPE_BF16 ? 0x1p-8 : 0x1p-11);
    printf("# %s: features differ by at most %.2g\n", name, worst);
    if (act == DTYPE_F32)
        CHECK_CLOSE(got, wanted, n, tolerance, 0);
    else
        CHECK(units < max_units);
}

static void check_features(struct fixture *f, const struct image_layout *layout, float *pixels,
                           const float *wanted, size_t n_wanted, const char *name)
{
    size_t n = (size_t)vision_n_tokens(&f->cfg.vision, layout) * (size_t)f->cfg.lm.hidden;
    CHECK_INT(n, ==, n_wanted);
    struct vision_input in = {*layout, pixels, vision_index_new(&f->cfg.vision, layout)};
    float *got = malloc(n * sizeof(float));
    vision_encode(f->vision, f->s, &in, f->features);
    stream_copy_out(f->s, got, f->features, n * sizeof(float));
    stream_wait(f->s);
    check_close(f, got, wanted, n, name);
    free(got);
    free(in.index);
}

/* CLIP's numbers, in the reference's steps. */
static void normalise(const uint8_t *u8, size_t n_pixels, float *out)
{
    static const float mean[3] = {0.48145466F, 0.4578275F, 0.40821073F};
    static const float std[3] = {0.26862954F, 0.26130258F, 0.27577711F};
    for (size_t c = 0; c < 3; c++)
        for (size_t i = 0; i < n_pixels; i++) {
            float x = (float)(u8[c * n_pixels + i] * (1.0 / 255));
            out[c * n_pixels + i] = (x - mean[c]) / std[c];
        }
}

/* CLIP takes one square, whatever the picture was. */
static const struct image_layout square = {.n_tiles = 1};

static void check_folder(const char *model, const char *goldens)
{
    static const char *const cases[] = {"c3_one_image", "c4_two_images", "c5_image_second_turn",
                                        "c6_two_sizes"};
    char path[256], name[64];
    snprintf(path, sizeof(path), "golden/hf/models/%s", model);
    struct fixture f = open_fixture(path);
    size_t side = (size_t)f.cfg.vision.image_size, n;
    float *pixels = malloc(3 * side * side * sizeof(float));
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        /* The pictures are kept once, beside the first folder's features. */
        snprintf(path, sizeof(path), "golden/hf/goldens/llava15-tiny/%s.safetensors", cases[i]);
        struct golden *pictures = golden_open(test_path(path));
        snprintf(path, sizeof(path), "golden/hf/goldens/%s/%s.safetensors", goldens, cases[i]);
        struct golden *g = golden_open(test_path(path));
        for (int image = 0;; image++) {
            snprintf(name, sizeof(name), "image_features.%d", image);
            if (!golden_has(g, name)) break;
            size_t n_wanted;
            const float *wanted = golden_f32(g, name, &n_wanted);
            snprintf(name, sizeof(name), "pixels_u8.%d", image);
            const uint8_t *u8 = golden_u8(pictures, name, &n);
            CHECK_INT(n, ==, 3 * side * side);
            normalise(u8, side * side, pixels);
            check_features(&f, &square, pixels, wanted, n_wanted, path);
        }
        golden_close(g);
        golden_close(pictures);
    }
    free(pixels);
    close_fixture(&f);
}

TEST(the_tower_gives_the_golden_features)
{
    check_folder("llava15-tiny", "llava15-tiny");
}

TEST(the_names_of_transformers_5_give_the_same_features)
{
    check_folder("llava15-tiny-v5names", "llava15-tiny");
}

TEST(a_tower_in_shards_gives_the_golden_features)
{
    check_folder("llava15-sharded-midnames", "llava15-sharded-midnames");
}

/* ---- from picture files -----------------------------------------------------------------------
 */

static struct picture read_picture(const char *path)
{
    size_t len;
    uint8_t *bytes = golden_bytes(test_path(path), &len);
    struct picture p;
    struct error err = {0};
    if (decode_image(bytes, len, &image_limits_default, &p, &err) != 0)
        test_fail(__FILE__, __LINE__, "%s: %s", path, err.text);
    free(bytes);
    return p;
}

static json_t *read_json(const char *path)
{
    json_t *json = json_load_file(test_path(path), 0, NULL);
    if (!json) test_fail(__FILE__, __LINE__, "%s cannot be read", path);
    return json;
}

static struct preprocess_config preprocess_config(const char *folder)
{
    struct preprocess_config cfg;
    struct error err;
    char path[300];
    snprintf(path, sizeof(path), "%.256s/preprocessor_config.json", folder);
    if (preprocess_config_load(&cfg, test_path(path), &err) != 0)
        test_fail(__FILE__, __LINE__, "%s", err.text);
    return cfg;
}

/* A picture file's features against n_wanted numbers. */
static void check_picture(struct fixture *f, const struct preprocess_config *cfg, const char *path,
                          const float *wanted, size_t n_wanted, int n_tokens)
{
    struct picture p = read_picture(path);
    struct image_layout layout;
    struct error err;
    CHECK_INT(preprocess_layout(cfg, p.width, p.height, &layout, &err), ==, 0);
    CHECK_INT(vision_n_tokens(&f->cfg.vision, &layout), ==, n_tokens);
    float *pixels = malloc(layout.n_values * sizeof(float));
    preprocess_picture(cfg, &layout, &p, pixels);
    check_features(f, &layout, pixels, wanted, n_wanted, path);
    free(pixels);
    picture_done(&p);
}

static void check_pictures(const char *model, const char *goldens)
{
    static const char *const cases[] = {"c3_one_image", "c4_two_images", "c5_image_second_turn",
                                        "c6_two_sizes", "c7_unicode"};
    char path[256], name[64];
    snprintf(path, sizeof(path), "golden/hf/models/%s", model);
    struct fixture f = open_fixture(path);
    struct preprocess_config cfg = preprocess_config(path);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        snprintf(path, sizeof(path), "golden/hf/goldens/%s/%s.json", goldens, cases[i]);
        json_t *info = read_json(path), *file;
        snprintf(path, sizeof(path), "golden/hf/goldens/%s/%s.safetensors", goldens, cases[i]);
        struct golden *g = golden_open(test_path(path));
        size_t k, n;
        json_array_foreach(json_object_get(info, "images"), k, file)
        {
            const json_t *n_tokens = json_object_get(info, "num_image_tokens");
            snprintf(path, sizeof(path), "golden/hf/models/images/%s", json_string_value(file));
            snprintf(name, sizeof(name), "image_features.%zu", k);
            const float *wanted = golden_f32(g, name, &n);
            check_picture(&f, &cfg, path, wanted, n,
                          (int)json_integer_value(json_array_get(n_tokens, k)));
        }
        golden_close(g);
        json_decref(info);
    }
    close_fixture(&f);
}

/* The conversation of two pictures that the ViSpec targets have. */
static void check_two_images(const char *model, const char *cases)
{
    char path[256];
    snprintf(path, sizeof(path), "golden/vispec/%s", model);
    struct fixture f = open_fixture(path);
    struct preprocess_config cfg = preprocess_config(path);
    snprintf(path, sizeof(path), "golden/vispec/%s/two_images.json", cases);
    json_t *info = read_json(path), *file;
    snprintf(path, sizeof(path), "golden/vispec/%s/two_images.safetensors", cases);
    struct golden *g = golden_open(test_path(path));
    size_t k, n;
    const float *wanted = golden_f32(g, "vision_features", &n);
    json_array_foreach(json_object_get(info, "images"), k, file)
    {
        snprintf(path, sizeof(path), "golden/vispec/%s", json_string_value(file));
        check_picture(&f, &cfg, path, wanted + k * n / 2, n / 2,
                      (int)(n / 2 / (size_t)f.cfg.lm.hidden));
    }
    json_decref(info);
    golden_close(g);
    close_fixture(&f);
}

static void check_refused(const struct fixture *f, const struct vision_config *cfg, int lm_hidden,
                          const char *wanted)
{
    struct vision *v = NULL;
    struct error err;
    CHECK_INT(vision_open(&v, f->dev, f->st, cfg, &limits, lm_hidden, &err), ==, -1);
    CHECK(v == NULL && strchr(err.text, '\n') == NULL);
    if (!strstr(err.text, wanted) || !strstr(err.text, "-tiny/model.safetensors: "))
        test_fail(__FILE__, __LINE__, "\"%s\" is not in: %s", wanted, err.text);
}

TEST(tiles_of_a_picture_give_the_golden_features_with_newlines_and_without_padding)
{
    check_pictures("llavanext-tiny", "llavanext-tiny");
    check_two_images("llava-next-tiny", "cases_llava");
}

TEST(token_counts_of_tiled_pictures_are_those_of_the_reference)
{
    const struct vision_config vision = {
        .kind = VISION_ANYRES, .image_size = 336, .patch = 14, .n_tokens = 576};
    struct preprocess_config cfg = {
        .family = PREPROCESS_ANYRES,
        .crop_size = 336,
        .n_pinpoints = 5,
        .pinpoints = {{336, 672}, {672, 336}, {672, 672}, {1008, 336}, {336, 1008}}};
    json_t *cases = read_json("golden/hf/preprocess/geometry.json"), *one;
    struct image_layout layout, largest;
    size_t i;
    preprocess_largest(&cfg, &largest);
    CHECK_INT(vision_n_tokens(&vision, &largest), ==, 576 + 48 * 49);
    json_array_foreach(cases, i, one)
    {
        struct error err;
        int width, height, n_tokens;
        CHECK(json_unpack(one, "{s:i, s:i, s:{s:i}}", "width", &width, "height", &height,
                          "llava_next", "tokens", &n_tokens) == 0);
        CHECK_INT(preprocess_layout(&cfg, width, height, &layout, &err), ==, 0);
        CHECK_INT(vision_n_tokens(&vision, &layout), ==, n_tokens);
        CHECK_INT(n_tokens, <=, vision_n_tokens(&vision, &largest));
    }
    json_decref(cases);
}

TEST(patches_of_a_picture_of_any_size_give_the_golden_features)
{
    check_pictures("qwen25vl-tiny", "qwen25vl-tiny");
    check_two_images("qwen2_5_vl-tiny", "cases_qwen");
}

TEST(the_names_of_transformers_5_give_the_same_features_of_patches)
{
    struct folder folder = folder_new();
    folder_write_renamed(&folder, "model.safetensors",
                         test_path("golden/hf/models/qwen25vl-tiny/model.safetensors"), "visual.",
                         "model.visual.");
    struct fixture f = open_tensors("golden/hf/models/qwen25vl-tiny", folder.path);
    struct preprocess_config cfg = preprocess_config("golden/hf/models/qwen25vl-tiny");
    struct golden *g =
        golden_open(test_path("golden/hf/goldens/qwen25vl-tiny/c6_two_sizes.safetensors"));
    size_t n;
    const float *wanted = golden_f32(g, "image_features.0", &n);
    check_picture(&f, &cfg, "golden/hf/models/images/m4.png", wanted, n,
                  (int)(n / (size_t)f.cfg.lm.hidden));
    golden_close(g);
    close_fixture(&f);
    folder_remove(&folder);
}

TEST(a_qwen_tower_that_does_not_fit_the_config_is_refused_with_both_shapes)
{
    struct fixture f = open_fixture("golden/hf/models/qwen25vl-tiny");
    struct vision_config cfg = f.cfg.vision;
    cfg.patch = 16;
    check_refused(&f, &cfg, 128,
                  "visual.patch_embed.proj.weight has shape [160, 3, 2, 14, 14], "
                  "not [160, 3, 2, 16, 16]");
    cfg = f.cfg.vision;
    cfg.n_layers = 4;
    check_refused(&f, &cfg, 128, "visual.blocks.3.attn.qkv.weight is missing");
    check_refused(&f, &f.cfg.vision, 256,
                  "visual.merger.mlp.2.weight has shape [128, 640], not "
                  "[256, 640]");
    close_fixture(&f);
}

/* ---- CLIP's settings ----------------------------------------------------------------------------
 */

TEST(full_features_keep_the_class_token_in_front)
{
    const char *model = "golden/hf/models/llava15-tiny";
    struct fixture f = open_fixture(model);
    struct golden *g =
        golden_open(test_path("golden/hf/goldens/llava15-tiny/c3_one_image.safetensors"));
    struct vision_config cfg = f.cfg.vision;
    cfg.drop_class = false;
    cfg.n_tokens += 1;
    struct vision *full;
    struct error err;
    CHECK_INT(vision_open(&full, f.dev, f.st, &cfg, &limits, f.cfg.lm.hidden, &err), ==, 0);
    size_t side = (size_t)cfg.image_size, width = (size_t)f.cfg.lm.hidden;
    size_t n = (size_t)cfg.n_tokens * width;
    float *pixels = malloc(3 * side * side * sizeof(float)), *got = malloc(n * sizeof(float));
    float *features = device_alloc(f.dev, n * sizeof(float), "features");
    normalise(golden_u8(g, "pixels_u8.0", NULL), side * side, pixels);
    const struct vision_input in = {square, pixels, NULL};
    vision_encode(full, f.s, &in, features);
    stream_copy_out(f.s, got, features, n * sizeof(float));
    stream_wait(f.s);
    check_close(&f, got + width, golden_f32(g, "image_features.0", NULL), n - width, "all rows");
    for (size_t i = 0; i < width; i++) CHECK(isfinite(got[i]));
    free(pixels);
    free(got);
    device_free(f.dev, features);
    vision_close(full);
    golden_close(g);
    close_fixture(&f);
}

TEST(a_tower_that_does_not_fit_the_config_is_refused_with_both_shapes)
{
    struct fixture f = open_fixture("golden/hf/models/llava15-tiny");
    struct vision_config cfg = f.cfg.vision;
    cfg.image_size = 70;
    check_refused(&f, &cfg, 128, "position_embedding.weight has shape [17, 128], not [26, 128]");
    cfg = f.cfg.vision;
    cfg.patch = 28;
    check_refused(&f, &cfg, 128,
                  "patch_embedding.weight has shape [128, 3, 14, 14], not [128, 3, 28, 28]");
    cfg = f.cfg.vision;
    cfg.n_layers = cfg.n_used_layers = 4;
    check_refused(&f, &cfg, 128, "encoder.layers.3.self_attn.q_proj.weight is missing");
    check_refused(&f, &f.cfg.vision, 256, "linear_1.weight has shape [128, 128], not [256, 128]");
    close_fixture(&f);
}
