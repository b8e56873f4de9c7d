/* Rotary positions of prompts with pictures against transformers'. */
#include <jansson.h>
#include <stdio.h>

#include "runtime/engine/job.h"
#include "test/golden.h"
#include "test/test.h"

enum { IMAGE_TOKEN = 612, MERGE = 2 };

static int item(const json_t *array, size_t i)
{
    return (int)json_integer_value(json_array_get(array, i));
}

/* The pictures of a golden case, as prompt_build finds them. */
static void place_images(struct prompt *p, const json_t *ids, const json_t *grids)
{
    for (size_t i = 0; i < json_array_size(ids); i++) {
        if (item(ids, i) != IMAGE_TOKEN) continue;
        const json_t *grid = json_array_get(grids, (size_t)p->n_images);
        struct prompt_image *im = &p->images[p->n_images++];
        im->first = (int)i;
        im->n_columns = item(grid, 2) / MERGE;
        im->n = item(grid, 1) / MERGE * im->n_columns;
        i += (size_t)im->n - 1;
    }
    CHECK_INT(p->n_images, ==, json_array_size(grids));
    prompt_set_rope_deltas(p);
}

static void check_case(const char *name)
{
    char path[128];
    snprintf(path, sizeof(path), "golden/hf/goldens/qwen25vl-tiny/%s.json", name);
    json_t *info = json_load_file(test_path(path), 0, NULL);
    CHECK(info);
    const json_t *ids = json_object_get(info, "input_ids");
    const json_t *want = json_object_get(info, "position_ids"); /* none: text alone */
    struct prompt p = {0};
    place_images(&p, ids, json_object_get(info, "image_grid_thw"));
    int image = -1, delta = p.n_images > 0 ? p.images[p.n_images - 1].rope_delta : 0;
    for (int i = 0; i < (int)json_array_size(ids); i++) {
        int32_t pos[3];
        if (image + 1 < p.n_images && p.images[image + 1].first == i) image++;
        bool is_image = image >= 0 && i < p.images[image].first + p.images[image].n;
        prompt_rope_position(&p, i, image, is_image, pos);
        for (size_t axis = 0; axis < 3; axis++)
            CHECK_INT(pos[axis], ==, want ? item(json_array_get(want, axis), (size_t)i) : i);
    }
    CHECK_INT(delta, ==, json_integer_value(json_object_get(info, "rope_deltas")));
    json_decref(info);
}

TEST(text_alone_counts_on_all_axes)
{
    check_case("c1_text");
    check_case("c2_system_multiturn");
}

TEST(a_picture_counts_rows_and_columns_and_text_goes_on_behind_the_larger)
{
    check_case("c3_one_image");
    check_case("c5_image_second_turn");
    check_case("c7_unicode");
}

TEST(several_pictures_each_shift_what_follows)
{
    check_case("c4_two_images");
    check_case("c6_two_sizes");
}

TEST(pictures_without_axes_leave_positions_alone)
{
    struct prompt p = {.n_images = 1, .images = {{.first = 3, .n = 16}}};
    int32_t pos[3];
    prompt_set_rope_deltas(&p);
    prompt_rope_position(&p, 7, 0, true, pos);
    for (int axis = 0; axis < 3; axis++) CHECK_INT(pos[axis], ==, 7);
    prompt_rope_position(&p, 30, 0, false, pos);
    CHECK_INT(pos[0], ==, 30);
}
