#include "runtime/image/preprocess.h"

#include <jansson.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "runtime/image/decode.h"
#include "runtime/mem.h"
#include "test/golden.h"
#include "test/test.h"

#define CLIP_TYPE   "\"image_processor_type\": \"CLIPImageProcessor\""
#define ANYRES_TYPE "\"image_processor_type\": \"LlavaNextImageProcessor\""
#define QWEN_TYPE   "\"image_processor_type\": \"Qwen2VLImageProcessor\""

static char config_path[64];

static const char *write_config(const char *text)
{
    snprintf(config_path, sizeof(config_path), "/tmp/preprocess_test_%d.json", (int)getpid());
    FILE *f = fopen(config_path, "w");
    CHECK(f != NULL);
    fputs(text, f);
    fclose(f);
    return config_path;
}

static struct preprocess_config load(const char *text)
{
    struct preprocess_config cfg;
    struct error err = {0};
    int result = preprocess_config_load(&cfg, write_config(text), &err);
    unlink(config_path);
    if (result != 0) test_fail(__FILE__, __LINE__, "%s", err.text);
    return cfg;
}

/* Loading fails with one line that contains the file and the three parts. */
static void check_refused(const char *text, const char *key, const char *value,
                          const char *supported)
{
    struct preprocess_config cfg = {.crop_size = 7};
    struct error err = {0};
    CHECK_INT(preprocess_config_load(&cfg, write_config(text), &err), ==, -1);
    unlink(config_path);
    if (!strstr(err.text, config_path) || !strstr(err.text, key) || !strstr(err.text, value) ||
        !strstr(err.text, supported) || strchr(err.text, '\n'))
        test_fail(__FILE__, __LINE__, "not %s, %s, %s: %s", key, value, supported, err.text);
    CHECK_INT(err.kind, ==, ERROR_BAD_REQUEST);
    CHECK_INT(cfg.crop_size, ==, 7);
}

/* As published with LLaVA-1.5; 336 or another size. */
static struct preprocess_config llava_config(int size)
{
    char text[600];
    snprintf(text, sizeof(text),
             "{\"crop_size\": {\"height\": %d, \"width\": %d}, \"do_center_crop\": true, "
             "\"do_convert_rgb\": true, \"do_normalize\": true, \"do_rescale\": true, "
             "\"do_resize\": true, \"image_mean\": [0.48145466, 0.4578275, 0.40821073], "
             "\"image_std\": [0.26862954, 0.26130258, 0.27577711], " CLIP_TYPE
             ", \"processor_class\": \"LlavaProcessor\", \"resample\": 3, "
             "\"rescale_factor\": 0.00392156862745098, \"size\": {\"shortest_edge\": %d}}",
             size, size, size);
    return load(text);
}

static json_t *read_json(const char *relative)
{
    json_error_t why;
    json_t *json = json_load_file(test_path(relative), 0, &why);
    if (!json) test_fail(__FILE__, __LINE__, "%s: %s", relative, why.text);
    return json;
}

static struct picture read_picture(const char *relative)
{
    size_t len;
    uint8_t *bytes = golden_bytes(test_path(relative), &len);
    struct picture p;
    struct error err = {0};
    if (decode_image(bytes, len, &image_limits_default, &p, &err) != 0)
        test_fail(__FILE__, __LINE__, "%s: %s", relative, err.text);
    free(bytes);
    return p;
}

static struct image_layout layout_of(const struct preprocess_config *cfg, int width, int height)
{
    struct image_layout layout;
    struct error err;
    if (preprocess_layout(cfg, width, height, &layout, &err) != 0)
        test_fail(__FILE__, __LINE__, "%s", err.text);
    return layout;
}

static struct preprocess_geometry geometry_of(const struct preprocess_config *cfg, int width,
                                              int height)
{
    struct image_layout layout = layout_of(cfg, width, height);
    return preprocess_geometry_of(cfg, &layout);
}

static void preprocess(const struct preprocess_config *cfg, const struct picture *in, float *values)
{
    struct image_layout layout = layout_of(cfg, in->width, in->height);
    preprocess_picture(cfg, &layout, in, values);
}

/* As published with LLaVA-1.6. */
static struct preprocess_config anyres_config(void)
{
    return load("{\"image_processor_type\": \"LlavaNextImageProcessor\", \"do_pad\": true, "
                "\"do_center_crop\": true, \"crop_size\": {\"height\": 336, \"width\": 336}, "
                "\"size\": {\"shortest_edge\": 336}, \"image_grid_pinpoints\": [[336, 672], "
                "[672, 336], [672, 672], [1008, 336], [336, 1008]]}");
}

/* As published with Qwen2.5-VL. */
static struct preprocess_config qwen_config(void)
{
    return load("{\"min_pixels\": 3136, \"max_pixels\": 12845056, \"patch_size\": 14, "
                "\"temporal_patch_size\": 2, \"merge_size\": 2, "
                "\"image_mean\": [0.48145466, 0.4578275, 0.40821073], "
                "\"image_std\": [0.26862954, 0.26130258, 0.27577711], "
                "\"image_processor_type\": \"Qwen2_5_VLImageProcessor\"}");
}

TEST(a_config_as_published_is_read)
{
    struct preprocess_config cfg = llava_config(336);
    CHECK_INT(cfg.family, ==, PREPROCESS_CLIP);
    CHECK_INT(cfg.has_resize, ==, true);
    CHECK_INT(cfg.shortest_edge, ==, 336);
    CHECK_INT(cfg.crop_size, ==, 336);
    CHECK(cfg.rescale_factor == 1.0 / 255);
    CHECK(cfg.mean[1] == 0.4578275F && cfg.std[2] == 0.27577711F);
}

TEST(absent_and_null_keys_have_the_values_of_the_reference)
{
    struct preprocess_config cfg =
        load("{\"feature_extractor_type\": \"CLIPFeatureExtractor\", \"size\": null}");
    CHECK_INT(cfg.has_resize, ==, true);
    CHECK_INT(cfg.shortest_edge, ==, 224);
    CHECK_INT(cfg.crop_size, ==, 224);
    CHECK(cfg.rescale_factor == 1.0 / 255);
    CHECK(cfg.mean[0] == 0.48145466F && cfg.std[0] == 0.26862954F);
}

TEST(sizes_may_be_plain_numbers)
{
    struct preprocess_config cfg = load("{" CLIP_TYPE ", \"size\": 56, \"crop_size\": 48}");
    CHECK_INT(cfg.shortest_edge, ==, 56);
    CHECK_INT(cfg.crop_size, ==, 48);
}

TEST(steps_can_be_switched_off)
{
    struct preprocess_config cfg = load(
        "{" CLIP_TYPE ", \"do_resize\": false, \"do_rescale\": false, \"do_normalize\": false, "
        "\"do_pad\": false, \"crop_size\": 2}");
    struct picture in;
    picture_init(&in, 4, 4);
    for (int i = 0; i < 48; i++) in.rgb[i] = (uint8_t)(5 * i);
    float values[12];
    preprocess(&cfg, &in, values);
    for (int c = 0; c < 3; c++)
        for (int y = 0; y < 2; y++)
            for (int x = 0; x < 2; x++)
                CHECK(values[(c * 2 + y) * 2 + x] == in.rgb[((y + 1) * 4 + x + 1) * 3 + c]);
    picture_done(&in);
}

TEST(what_is_not_supported_is_refused_by_file_key_and_value)
{
    check_refused("{\"image_processor_type\": \"SiglipImageProcessor\"}", "image_processor_type",
                  "\"SiglipImageProcessor\"", "CLIPImageProcessor");
    check_refused("{}", "image_processor_type", "absent", "CLIPImageProcessor");
    check_refused("{" CLIP_TYPE ", \"resample\": 2}", "resample", "2", "3 (bicubic)");
    check_refused("{" CLIP_TYPE ", \"size\": {\"height\": 336, \"width\": 336}}", "size",
                  "{\"height\":336,\"width\":336}", "shortest_edge");
    check_refused("{" CLIP_TYPE ", \"size\": 0}", "size", "0", "1 to 4096");
    check_refused("{" CLIP_TYPE ", \"size\": 4097}", "size", "4097", "1 to 4096");
    check_refused("{" CLIP_TYPE ", \"crop_size\": {\"height\": 336, \"width\": 224}}", "crop_size",
                  "{\"height\":336,\"width\":224}", "1 to 4096");
    check_refused("{" CLIP_TYPE ", \"crop_size\": \"336\"}", "crop_size", "\"336\"", "1 to 4096");
    check_refused("{" CLIP_TYPE ", \"do_center_crop\": false}", "do_center_crop", "false", "true");
    check_refused("{" CLIP_TYPE ", \"do_resize\": 1}", "do_resize", "1", "true, false");
    check_refused("{" CLIP_TYPE ", \"do_pad\": true}", "do_pad", "true", "false");
    check_refused("{" CLIP_TYPE ", \"rescale_factor\": -1.5}", "rescale_factor", "-1.5",
                  "positive");
    check_refused("{" CLIP_TYPE ", \"image_mean\": [1, 2]}", "image_mean", "[1,2]",
                  "three numbers");
    check_refused("{" CLIP_TYPE ", \"image_mean\": [1, 2, \"3\"]}", "image_mean", "[1,2,\"3\"]",
                  "three numbers");
    check_refused("{" CLIP_TYPE ", \"image_std\": [1, 0, 1]}", "image_std", "[1,0,1]", "above");
    check_refused("[]", "not a JSON object", "", "");
    check_refused("{\n\"size\": }", "line 2", "", "");
}

TEST(settings_of_tiles_that_we_do_not_compute_are_refused)
{
    check_refused("{" ANYRES_TYPE ", \"do_pad\": false}", "do_pad", "false", "true");
    check_refused("{" ANYRES_TYPE ", \"size\": 336}", "size", "336", "the same as crop_size");
    check_refused("{" ANYRES_TYPE ", \"size\": 56, \"crop_size\": 56, "
                  "\"image_grid_pinpoints\": [[56, 60]]}",
                  "image_grid_pinpoints", "[[56,60]]", "multiples of crop_size");
    check_refused("{" ANYRES_TYPE ", \"image_grid_pinpoints\": []}", "image_grid_pinpoints", "[]",
                  "multiples of crop_size");
    check_refused("{" QWEN_TYPE ", \"do_center_crop\": true}", "do_center_crop", "true", "false");
    check_refused("{" QWEN_TYPE ", \"merge_size\": 0}", "merge_size", "0", "from 1 to 16");
    check_refused("{" QWEN_TYPE ", \"max_pixels\": 3000}", "min_pixels is 3136",
                  "more than max_pixels, 3000", "");
    check_refused("{" QWEN_TYPE ", \"size\": {\"shortest_edge\": 3136}}", "size",
                  "{\"shortest_edge\":3136}", "longest_edge");
}

TEST(limits_on_pixels_come_from_either_key_and_from_the_command_line)
{
    struct preprocess_config cfg = load("{" QWEN_TYPE "}"), clip = llava_config(56);
    struct error err;
    CHECK_INT(cfg.min_pixels, ==, 3136);
    CHECK_INT(cfg.max_pixels, ==, 1003520);
    cfg = load("{" QWEN_TYPE ", \"size\": {\"shortest_edge\": 784, \"longest_edge\": 78400}}");
    CHECK_INT(cfg.min_pixels, ==, 784);
    CHECK_INT(cfg.max_pixels, ==, 78400);
    CHECK_INT(preprocess_limit_pixels(&cfg, 0, 7840, &err), ==, 0);
    CHECK_INT(cfg.min_pixels, ==, 784);
    CHECK_INT(cfg.max_pixels, ==, 7840);
    CHECK_INT(preprocess_limit_pixels(&cfg, 7841, 0, &err), ==, -1);
    CHECK(strstr(err.text, "--min-pixels 7841 is more than --max-pixels 7840") != NULL);
    CHECK_INT(preprocess_limit_pixels(&cfg, 0, MAX_PREPROCESS_PIXELS + 1, &err), ==, -1);
    CHECK_INT(preprocess_limit_pixels(&clip, 0, 7840, &err), ==, -1);
    CHECK(strstr(err.text, "--max-pixels: this model's pictures have a fixed size") != NULL);
    CHECK_INT(preprocess_limit_pixels(&clip, 0, 0, &err), ==, 0);
}

TEST(a_file_that_is_not_there_is_named)
{
    struct preprocess_config cfg;
    struct error err = {0};
    CHECK_INT(preprocess_config_load(&cfg, "/nowhere/preprocessor_config.json", &err), ==, -1);
    CHECK(strstr(err.text, "/nowhere/preprocessor_config.json") != NULL);
}

TEST(sizes_and_crops_are_those_of_the_reference)
{
    struct preprocess_config cfg = llava_config(336);
    json_t *cases = read_json("golden/hf/preprocess/geometry.json");
    CHECK_INT(json_array_size(cases), ==, 200);
    size_t i;
    json_t *one;
    json_array_foreach(cases, i, one)
    {
        int width, height, want_width, want_height, top, left;
        CHECK(json_unpack(one, "{s:i, s:i, s:{s:[i,i], s:i, s:i}}", "width", &width, "height",
                          &height, "llava15", "resized_hw", &want_height, &want_width, "crop_top",
                          &top, "crop_left", &left) == 0);
        struct preprocess_geometry g = geometry_of(&cfg, width, height);
        CHECK_INT(g.resized_width, ==, want_width);
        CHECK_INT(g.resized_height, ==, want_height);
        CHECK_INT(g.left, ==, left);
        CHECK_INT(g.top, ==, top);
    }
    json_decref(cases);
}

TEST(tiles_and_their_padding_are_those_of_the_reference)
{
    struct preprocess_config cfg = anyres_config();
    json_t *cases = read_json("golden/hf/preprocess/geometry.json");
    size_t i;
    json_t *one;
    json_array_foreach(cases, i, one)
    {
        int width, height, best[2], size[2], top, bottom, left, right, n_tiles;
        CHECK(json_unpack(one, "{s:i, s:i, s:{s:[i,i], s:[i,i], s:i, s:i, s:i, s:i, s:i}}", "width",
                          &width, "height", &height, "llava_next", "best_resolution_hw", &best[0],
                          &best[1], "resized_hw", &size[0], &size[1], "pad_top", &top, "pad_bottom",
                          &bottom, "pad_left", &left, "pad_right", &right, "num_tiles",
                          &n_tiles) == 0);
        struct image_layout layout = layout_of(&cfg, width, height);
        struct preprocess_geometry g = preprocess_geometry_of(&cfg, &layout);
        CHECK_INT(g.height, ==, best[0]);
        CHECK_INT(g.width, ==, best[1]);
        CHECK_INT(g.resized_height, ==, size[0]);
        CHECK_INT(g.resized_width, ==, size[1]);
        CHECK_INT(-g.top, ==, top);
        CHECK_INT(g.height - g.resized_height + g.top, ==, bottom);
        CHECK_INT(-g.left, ==, left);
        CHECK_INT(g.width - g.resized_width + g.left, ==, right);
        CHECK_INT(layout.n_tiles, ==, n_tiles);
        CHECK_INT(layout.n_values, ==, (size_t)n_tiles * 3 * 336 * 336);
    }
    json_decref(cases);
}

TEST(patch_grids_are_those_of_the_reference_and_what_it_refuses_is_refused)
{
    struct preprocess_config cfg = qwen_config();
    json_t *cases = read_json("golden/hf/preprocess/geometry.json");
    size_t i;
    int n_refused = 0;
    json_t *one;
    json_array_foreach(cases, i, one)
    {
        struct image_layout layout;
        struct error err;
        int width, height, frames, grid_h, grid_w;
        CHECK(json_unpack(one, "{s:i, s:i}", "width", &width, "height", &height) == 0);
        int result = preprocess_layout(&cfg, width, height, &layout, &err);
        if (json_unpack(one, "{s:{s:[i,i,i]}}", "qwen", "grid_thw", &frames, &grid_h, &grid_w) !=
            0) {
            CHECK_INT(result, ==, -1);
            CHECK_STR(err.code, "image_too_small");
            n_refused++;
            continue;
        }
        CHECK_INT(result, ==, 0);
        CHECK_INT(layout.grid_h, ==, grid_h);
        CHECK_INT(layout.grid_w, ==, grid_w);
        CHECK_INT(layout.n_values, ==, (size_t)(grid_h * grid_w) * 3 * 14 * 14);
    }
    CHECK_INT(n_refused, ==, 4);
    json_decref(cases);
}

TEST(no_picture_has_more_tokens_than_the_largest_layout)
{
    struct preprocess_config cfg = qwen_config();
    const int limits[][2] = {{3136, 12845056}, {3136, 3136}, {784, 784}, {1, 1000}, {50000, 50176}};
    for (size_t k = 0; k < sizeof(limits) / sizeof(limits[0]); k++) {
        struct image_layout largest;
        cfg.min_pixels = limits[k][0];
        cfg.max_pixels = limits[k][1];
        preprocess_largest(&cfg, &largest);
        for (int width = 1; width <= 9000; width += 1 + width / 16)
            for (int height = (width + 199) / 200; height <= 200 * width && height <= 9000;
                 height += 1 + height / 16) {
                struct image_layout layout = layout_of(&cfg, width, height);
                CHECK_INT(layout.grid_h * layout.grid_w, <=, largest.grid_h * largest.grid_w);
            }
    }
}

/* We composite on white and reduce 16-bit grey by >> 8; the golden list has both that and what the
 * reference does by default. */
static bool is_our_behaviour(const char *key)
{
    static const char *const others[] = {"09_rgba", "11_palette4_trns", "12_gray16", "21_graya",
                                         "06_exif6_noexif"};
    for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++)
        if (strcmp(key, others[i]) == 0) return false;
    return true;
}

/* One family's values of a picture; the caller frees them.  QWEN's patches get their second frame
 * back, as the reference has it: [patches][3][2][p][p]. */
static float *reference_values(const struct preprocess_config *cfg, const struct picture *in,
                               size_t *n)
{
    struct image_layout layout = layout_of(cfg, in->width, in->height);
    float *values = xcalloc(layout.n_values, sizeof(*values));
    preprocess_picture(cfg, &layout, in, values);
    *n = layout.n_values;
    if (cfg->family != PREPROCESS_QWEN) return values;
    size_t plane = (size_t)cfg->patch * (size_t)cfg->patch;
    float *doubled = xcalloc(2 * layout.n_values, sizeof(*values));
    for (size_t i = 0; i < 2 * layout.n_values; i++)
        doubled[i] = values[i / plane / 2 * plane + i % plane];
    free(values);
    *n *= 2;
    return doubled;
}

/* Of the whole array, in which runs of `run` elements belong to the channels in turn. */
static void check_mean_and_std(const char *key, const json_t *want, const float *values, size_t n,
                               size_t run)
{
    for (size_t c = 0; c < 3; c++) {
        double sum = 0, squares = 0, count = (double)n / 3;
        for (size_t i = 0; i < n; i++)
            if (i / run % 3 == c) sum += (double)values[i];
        for (size_t i = 0; i < n; i++)
            if (i / run % 3 == c) squares += pow((double)values[i] - sum / count, 2);
        double mean = sum / count, std = sqrt(squares / count);
        double want_mean = json_number_value(json_array_get(json_object_get(want, "mean"), c));
        double want_std = json_number_value(json_array_get(json_object_get(want, "std"), c));
        /* Printed to 7 digits; the reference sums in float32. */
        if (!(fabs(mean - want_mean) < 3e-6 && fabs(std - want_std) < 3e-6))
            test_fail(__FILE__, __LINE__, "%s: channel %zu: mean %.7f, std %.7f, not %.7f, %.7f",
                      key, c, mean, std, want_mean, want_std);
    }
}

static void check_pixel_values(const struct preprocess_config *cfg, const char *golden_name)
{
    char name[200];
    snprintf(name, sizeof(name), "golden/hf/preprocess/%s.safetensors", golden_name);
    struct golden *golden = golden_open(test_path(name));
    json_t *cases = read_json("golden/hf/preprocess/preprocess.json");
    size_t n_checked = 0, i;
    json_t *one;
    json_array_foreach(cases, i, one)
    {
        const char *key = json_string_value(json_object_get(one, "key"));
        if (!is_our_behaviour(key)) continue;
        snprintf(name, sizeof(name), "golden/hf/images/%s",
                 json_string_value(json_object_get(one, "file")));
        struct picture p = read_picture(name);
        size_t n, n_samples;
        float *values = reference_values(cfg, &p, &n);
        picture_done(&p);

        snprintf(name, sizeof(name), "%s.val", key);
        const float *want = golden_f32(golden, name, &n_samples);
        CHECK_INT(n_samples, ==, golden_n_samples(n));
        for (size_t k = 0; k < n_samples; k++)
            if (values[golden_sample_index(n, k)] != want[k])
                test_fail(__FILE__, __LINE__, "%s %s: sample %zu is %.9g, not %.9g", golden_name,
                          key, k, (double)values[golden_sample_index(n, k)], (double)want[k]);
        size_t side = (size_t)(cfg->family == PREPROCESS_QWEN ? cfg->patch : cfg->crop_size);
        size_t run = side * side * (cfg->family == PREPROCESS_QWEN ? 2 : 1);
        check_mean_and_std(key, json_object_get(one, golden_name), values, n, run);
        free(values);
        n_checked++;
    }
    CHECK_INT(n_checked, ==, 22);
    json_decref(cases);
    golden_close(golden);
}

TEST(every_golden_picture_becomes_the_reference_s_pixel_values_in_every_bit)
{
    struct preprocess_config clip = llava_config(336), anyres = anyres_config();
    struct preprocess_config qwen = qwen_config();
    check_pixel_values(&clip, "llava-1.5");
    check_pixel_values(&anyres, "llava-next");
    check_pixel_values(&qwen, "qwen2.5-vl");
}

TEST(every_picture_of_the_tiny_model_s_cases_is_cropped_to_the_reference_s_pixels)
{
    static const char *const names[] = {"c3_one_image", "c4_two_images", "c5_image_second_turn",
                                        "c6_two_sizes", "c7_unicode"};
    struct preprocess_config cfg = llava_config(56);
    for (size_t k = 0; k < sizeof(names) / sizeof(names[0]); k++) {
        char path[200];
        snprintf(path, sizeof(path), "golden/hf/goldens/llava15-tiny/%s.json", names[k]);
        json_t *info = read_json(path);
        snprintf(path, sizeof(path), "golden/hf/goldens/llava15-tiny/%s.safetensors", names[k]);
        struct golden *golden = golden_open(test_path(path));
        size_t i;
        json_t *file;
        json_array_foreach(json_object_get(info, "images"), i, file)
        {
            snprintf(path, sizeof(path), "golden/hf/models/images/%s", json_string_value(file));
            struct picture p = read_picture(path), crop;
            struct preprocess_geometry g = geometry_of(&cfg, p.width, p.height);
            preprocess_resize(&g, &p, &crop);
            snprintf(path, sizeof(path), "pixels_u8.%zu", i);
            size_t n;
            const uint8_t *want = golden_u8(golden, path, &n);
            CHECK_INT(n, ==, 3 * 56 * 56);
            for (size_t at = 0; at < n; at++)
                CHECK_INT(crop.rgb[at % (56 * 56) * 3 + at / (56 * 56)], ==, want[at]);
            picture_done(&p);
            picture_done(&crop);
        }
        golden_close(golden);
        json_decref(info);
    }
}

TEST(a_picture_smaller_than_the_crop_lies_on_black)
{
    struct preprocess_config cfg = load("{" CLIP_TYPE ", \"size\": 4, \"crop_size\": 9}");
    struct picture in, out;
    picture_init(&in, 5, 4);
    memset(in.rgb, 200, 5 * 4 * 3);
    struct preprocess_geometry g = geometry_of(&cfg, 5, 4);
    preprocess_resize(&g, &in, &out);
    /* 9 - 5 = 4: 2 left and 2 right; 9 - 4 = 5: 3 above and 2 below, as the reference rounds. */
    for (int y = 0; y < 9; y++)
        for (int x = 0; x < 9; x++) {
            bool is_inside = y >= 3 && y < 7 && x >= 2 && x < 7;
            CHECK_INT(out.rgb[(y * 9 + x) * 3 + 1], ==, is_inside ? 200 : 0);
        }
    float values[3 * 9 * 9];
    preprocess(&cfg, &in, values);
    CHECK(values[0] == (0.0F - cfg.mean[0]) / cfg.std[0]);
    picture_done(&in);
    picture_done(&out);
}

TEST(pictures_of_every_size_from_1_to_64_and_of_extreme_aspect_are_preprocessed)
{
    struct preprocess_config cfg = llava_config(56);
    float *values = xcalloc((size_t)3 * 56 * 56, sizeof(*values));
    for (int i = 1; i <= 64 * 64 + 4; i++) {
        int n = i - 64 * 64;
        int width = n <= 0 ? 1 + i % 64 : n == 1 ? 200 : n == 2 ? 1 : n == 3 ? 16384 : 82;
        int height = n <= 0 ? 1 + i / 64 % 64 : n == 1 ? 1 : n == 2 ? 200 : n == 3 ? 82 : 16384;
        struct picture p;
        picture_init(&p, width, height);
        memset(p.rgb, 77, (size_t)width * (size_t)height * 3);
        preprocess(&cfg, &p, values);
        for (int k = 0; k < 56 * 56; k++)
            CHECK(values[k] == ((float)(77 * cfg.rescale_factor) - cfg.mean[0]) / cfg.std[0]);
        picture_done(&p);
    }
    free(values);
}
