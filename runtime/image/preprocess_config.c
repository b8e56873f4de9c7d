/* preprocessor_config.json to struct preprocess_config. */
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/image/preprocess.h"

enum {
    MAX_SIDE = 4096,      /* of the picture that a vision tower gets */
    RESAMPLE_BICUBIC = 3, /* Pillow's number */
    MAX_PATCH = 256,
    MAX_MERGE = 16,
};

/* What the reference takes where a key is absent (or null). */
static const struct preprocess_config defaults = {
    .rescale_factor = 1.0 / 255,
    .mean = {0.48145466F, 0.4578275F, 0.40821073F},
    .std = {0.26862954F, 0.26130258F, 0.27577711F},
    .crop_size = 224,
    .has_resize = true,
    .shortest_edge = 224,
    .n_pinpoints = 5,
    .pinpoints = {{336, 672}, {672, 336}, {672, 672}, {1008, 336}, {336, 1008}},
    .patch = 14,
    .merge = 2,
    .min_pixels = 56 * 56,
    .max_pixels = 28 * 28 * 1280,
};

struct reader {
    const char *path;
    const json_t *root;
    struct error *err;
};

/* The value of a key, NULL where it is absent or null. */
static const json_t *value_of(const struct reader *r, const char *key)
{
    const json_t *value = json_object_get(r->root, key);
    return json_is_null(value) ? NULL : value;
}

static int unsupported(const struct reader *r, const char *key, const json_t *value,
                       const char *expected)
{
    char *text = value ? json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT) : NULL;
    error_set(r->err, ERROR_BAD_REQUEST, "%s: %s is %.100s%s; supported: %s", r->path, key,
              text ? text : "absent", text && strlen(text) > 100 ? "..." : "", expected);
    free(text);
    return -1;
}

/* The readers leave their out parameter as it is where the key is absent. */
static int read_bool(const struct reader *r, const char *key, bool *out)
{
    const json_t *value = value_of(r, key);
    if (!value) return 0;
    if (!json_is_boolean(value)) return unsupported(r, key, value, "true, false");
    *out = json_is_true(value);
    return 0;
}

static int read_int(const struct reader *r, const char *key, int min, int max, int *out)
{
    const json_t *value = value_of(r, key);
    if (!value) return 0;
    json_int_t i = json_integer_value(value);
    if (!json_is_integer(value) || i < min || i > max) {
        char expected[64];
        snprintf(expected, sizeof(expected), "whole numbers from %d to %d", min, max);
        return unsupported(r, key, value, expected);
    }
    *out = (int)i;
    return 0;
}

static bool is_side(const json_t *value)
{
    return json_is_integer(value) && json_integer_value(value) >= 1 &&
           json_integer_value(value) <= MAX_SIDE;
}

/* size: S, or {"shortest_edge": S} */
static int read_size(const struct reader *r, int *out)
{
    const json_t *value = value_of(r, "size");
    if (!value) return 0;
    const json_t *edge = json_is_object(value) ? json_object_get(value, "shortest_edge") : value;
    if (!is_side(edge) || (json_is_object(value) && json_object_size(value) != 1))
        return unsupported(r, "size", value, "S, {\"shortest_edge\": S}, with S from 1 to 4096");
    *out = (int)json_integer_value(edge);
    return 0;
}

/* crop_size: S, or {"height": S, "width": S} */
static int read_crop_size(const struct reader *r, int *out)
{
    const json_t *value = value_of(r, "crop_size");
    if (!value) return 0;
    const json_t *height = value, *width = value;
    if (json_is_object(value)) {
        height = json_object_get(value, "height");
        width = json_object_get(value, "width");
    }
    if (!is_side(height) || !is_side(width) || !json_equal(height, width))
        return unsupported(r, "crop_size", value,
                           "S, {\"height\": S, \"width\": S}, with S from 1 to 4096");
    *out = (int)json_integer_value(height);
    return 0;
}

static int read_factor(const struct reader *r, double *out)
{
    const json_t *value = value_of(r, "rescale_factor");
    if (!value) return 0;
    double factor = json_number_value(value);
    if (!(factor > 0) || !isfinite(factor))
        return unsupported(r, "rescale_factor", value, "a positive number");
    *out = factor;
    return 0;
}

/* min: the smallest value that makes sense. */
static int read_channels(const struct reader *r, const char *key, double min, float out[3])
{
    const json_t *value = value_of(r, key);
    if (!value) return 0;
    float channels[3];
    bool is_good = json_array_size(value) == 3;
    for (size_t c = 0; c < 3 && is_good; c++) {
        const json_t *channel = json_array_get(value, c);
        channels[c] = (float)json_number_value(channel);
        is_good = json_is_number(channel) && isfinite(channels[c]) && channels[c] >= (float)min;
    }
    if (!is_good) return unsupported(r, key, value, "three numbers, a std above 1e-6");
    memcpy(out, channels, sizeof(channels));
    return 0;
}

static int read_family(const struct reader *r, enum preprocess_family *out)
{
    static const struct {
        const char *name;
        enum preprocess_family family;
    } names[] = {{"CLIPImageProcessor", PREPROCESS_CLIP},
                 {"CLIPImageProcessorFast", PREPROCESS_CLIP},
                 {"CLIPFeatureExtractor", PREPROCESS_CLIP},
                 {"LlavaNextImageProcessor", PREPROCESS_ANYRES},
                 {"LlavaNextImageProcessorFast", PREPROCESS_ANYRES},
                 {"Qwen2VLImageProcessor", PREPROCESS_QWEN},
                 {"Qwen2VLImageProcessorFast", PREPROCESS_QWEN},
                 {"Qwen2_5_VLImageProcessor", PREPROCESS_QWEN}};
    const char *key = value_of(r, "image_processor_type") || !value_of(r, "feature_extractor_type")
                          ? "image_processor_type"
                          : "feature_extractor_type";
    const json_t *value = value_of(r, key);
    for (size_t i = 0; json_is_string(value) && i < sizeof(names) / sizeof(names[0]); i++)
        if (strcmp(json_string_value(value), names[i].name) == 0) {
            *out = names[i].family;
            return 0;
        }
    return unsupported(r, key, value,
                       "CLIPImageProcessor, LlavaNextImageProcessor, Qwen2VLImageProcessor");
}

static int check_resample(const struct reader *r)
{
    const json_t *value = value_of(r, "resample");
    if (!value || (json_is_integer(value) && json_integer_value(value) == RESAMPLE_BICUBIC))
        return 0;
    return unsupported(r, "resample", value, "3 (bicubic)");
}

/* A step that is switched on and that we do not know would change the pixels. */
static int check_other_steps(const struct reader *r, enum preprocess_family family)
{
    static const char *const known[] = {"do_resize",      "do_rescale",     "do_normalize",
                                        "do_convert_rgb", "do_center_crop", "do_pad"};
    static const size_t n_known[] = {
        [PREPROCESS_CLIP] = 5, [PREPROCESS_ANYRES] = 6, [PREPROCESS_QWEN] = 4};
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)r->root, key, value)
    {
        bool is_known = strncmp(key, "do_", 3) != 0;
        for (size_t i = 0; i < n_known[family]; i++)
            is_known = is_known || strcmp(key, known[i]) == 0;
        if (!is_known && !json_is_false(value) && !json_is_null(value))
            return unsupported(r, key, value, "false");
    }
    return 0;
}

/* A step that a family cannot do without. */
static int require_step(const struct reader *r, const char *key)
{
    bool is_on = true;
    if (read_bool(r, key, &is_on) != 0) return -1;
    return is_on ? 0 : unsupported(r, key, value_of(r, key), "true");
}

/* ---- families ------------------------------------------------------------------------------- */

static int read_clip(const struct reader *r, struct preprocess_config *cfg)
{
    /* Without the crop results would differ in size. */
    if (read_bool(r, "do_resize", &cfg->has_resize) != 0 ||
        require_step(r, "do_center_crop") != 0 || read_size(r, &cfg->shortest_edge) != 0)
        return -1;
    return read_crop_size(r, &cfg->crop_size);
}

static int read_pinpoints(const struct reader *r, struct preprocess_config *cfg)
{
    static const char expected[] = "up to 64 [height, width], multiples of crop_size up to 4096";
    const json_t *value = value_of(r, "image_grid_pinpoints");
    if (value) cfg->n_pinpoints = (int)json_array_size(value);
    bool is_good = cfg->n_pinpoints >= 1 && cfg->n_pinpoints <= MAX_PINPOINTS;
    for (int i = 0; is_good && i < cfg->n_pinpoints; i++) {
        const json_t *pinpoint = json_array_get(value, (size_t)i);
        is_good = !value || json_array_size(pinpoint) == 2;
        for (size_t axis = 0; is_good && axis < 2; axis++) {
            const json_t *side = json_array_get(pinpoint, axis);
            if (value) cfg->pinpoints[i][axis] = is_side(side) ? (int)json_integer_value(side) : 0;
            int pixels = cfg->pinpoints[i][axis];
            is_good = pixels > 0 && pixels % cfg->crop_size == 0;
        }
    }
    return is_good ? 0 : unsupported(r, "image_grid_pinpoints", value, expected);
}

static int read_anyres(const struct reader *r, struct preprocess_config *cfg)
{
    if (require_step(r, "do_resize") != 0 || require_step(r, "do_pad") != 0 ||
        read_clip(r, cfg) != 0)
        return -1;
    /* A tile is cut to crop_size, then resized to size: the same, else tiles would be scaled. */
    if (cfg->shortest_edge != cfg->crop_size)
        return unsupported(r, "size", value_of(r, "size"), "the same as crop_size");
    return read_pinpoints(r, cfg);
}

/* size: {"shortest_edge": min_pixels, "longest_edge": max_pixels}, as newer files name them. */
static int read_areas(const struct reader *r, struct preprocess_config *cfg)
{
    static const char *const keys[] = {"shortest_edge", "longest_edge"};
    int *const limits[] = {&cfg->min_pixels, &cfg->max_pixels};
    const json_t *value = value_of(r, "size");
    for (size_t i = 0; value && i < 2; i++) {
        const json_t *area = json_object_get(value, keys[i]);
        json_int_t pixels = json_integer_value(area);
        if (json_object_size(value) != 2 || pixels < 1 || pixels > MAX_PREPROCESS_PIXELS)
            return unsupported(r, "size", value,
                               "{\"shortest_edge\": pixels, \"longest_edge\": pixels}");
        *limits[i] = (int)pixels;
    }
    return 0;
}

static int read_qwen(const struct reader *r, struct preprocess_config *cfg)
{
    int frames = 2;
    if (require_step(r, "do_resize") != 0 || read_areas(r, cfg) != 0 ||
        read_int(r, "min_pixels", 1, MAX_PREPROCESS_PIXELS, &cfg->min_pixels) != 0 ||
        read_int(r, "max_pixels", 1, MAX_PREPROCESS_PIXELS, &cfg->max_pixels) != 0 ||
        read_int(r, "patch_size", 1, MAX_PATCH, &cfg->patch) != 0 ||
        read_int(r, "merge_size", 1, MAX_MERGE, &cfg->merge) != 0 ||
        read_int(r, "temporal_patch_size", 1, MAX_MERGE, &frames) != 0)
        return -1;
    if (cfg->min_pixels <= cfg->max_pixels) return 0;
    return error_set(r->err, ERROR_BAD_REQUEST, "%s: min_pixels is %d, more than max_pixels, %d",
                     r->path, cfg->min_pixels, cfg->max_pixels);
}

static int read_config(const struct reader *r, struct preprocess_config *out)
{
    static int (*const families[])(const struct reader *, struct preprocess_config *) = {
        [PREPROCESS_CLIP] = read_clip,
        [PREPROCESS_ANYRES] = read_anyres,
        [PREPROCESS_QWEN] = read_qwen,
    };
    bool has_rescale = true, has_normalize = true, is_rgb = true;
    struct preprocess_config cfg = defaults;
    if (!json_is_object(r->root))
        return error_set(r->err, ERROR_BAD_REQUEST, "%s: not a JSON object", r->path);
    if (read_family(r, &cfg.family) != 0) return -1;
    /* do_convert_rgb may be false: our pictures are RGB anyway. */
    if (check_resample(r) != 0 || check_other_steps(r, cfg.family) != 0 ||
        read_bool(r, "do_rescale", &has_rescale) != 0 ||
        read_bool(r, "do_normalize", &has_normalize) != 0 ||
        read_bool(r, "do_convert_rgb", &is_rgb) != 0 || read_factor(r, &cfg.rescale_factor) != 0 ||
        read_channels(r, "image_mean", -1e6, cfg.mean) != 0 ||
        read_channels(r, "image_std", 1e-6, cfg.std) != 0 || families[cfg.family](r, &cfg) != 0)
        return -1;
    if (!has_rescale) cfg.rescale_factor = 1.0;
    for (int c = 0; c < 3 && !has_normalize; c++) {
        cfg.mean[c] = 0.0F;
        cfg.std[c] = 1.0F;
    }
    *out = cfg;
    return 0;
}

int preprocess_config_load(struct preprocess_config *cfg, const char *path, struct error *err)
{
    json_error_t why;
    json_t *root = json_load_file(path, JSON_REJECT_DUPLICATES, &why);
    if (!root)
        return error_set(err, ERROR_BAD_REQUEST, "%s: line %d: %s", path, why.line, why.text);
    int result = read_config(&(struct reader){path, root, err}, cfg);
    json_decref(root);
    return result;
}

int preprocess_limit_pixels(struct preprocess_config *cfg, int min_pixels, int max_pixels,
                            struct error *err)
{
    if (min_pixels == 0 && max_pixels == 0) return 0;
    if (cfg->family != PREPROCESS_QWEN)
        return error_set(err, ERROR_BAD_REQUEST, "%s: this model's pictures have a fixed size",
                         min_pixels ? "--min-pixels" : "--max-pixels");
    if (min_pixels == 0) min_pixels = cfg->min_pixels;
    if (max_pixels == 0) max_pixels = cfg->max_pixels;
    if (max_pixels > MAX_PREPROCESS_PIXELS)
        return error_set(err, ERROR_BAD_REQUEST, "--max-pixels %d is more than %d", max_pixels,
                         MAX_PREPROCESS_PIXELS);
    if (min_pixels > max_pixels)
        return error_set(err, ERROR_BAD_REQUEST, "--min-pixels %d is more than --max-pixels %d",
                         min_pixels, max_pixels);
    cfg->min_pixels = min_pixels;
    cfg->max_pixels = max_pixels;
    return 0;
}
