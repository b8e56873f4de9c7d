/* NVTX ranges (device.h), which the emulator writes down. */
#include "test/emu/include/nvtx3/nvToolsExt.h"
#include "test/kernels.h"
#include "test/roundbed.h"
#include "test/test.h"

static void on_event(void *user, const struct gen_event *event)
{
    (void)user;
    (void)event;
}

TEST(the_phases_of_a_round_are_named_where_it_is_recorded_and_where_it_runs)
{
    static const char *const phases =
        "apply()draft's extend()draft's first level()draft's next level()draft's next level()"
        "draft's next level()select()verify()sample()accept()compact()";
    const struct roundbed_limits limits = {1, 64, 64, 1};
    const struct roundbed_family *family = &roundbed_qwen;
    struct roundbed b;
    emu_take_ranges();
    roundbed_open(&b, kernels_device(), family->target, family->draft, &limits);
    CHECK_STR(emu_take_ranges(), phases);
    json_t *json = roundbed_case(family, 8);
    struct job *job = roundbed_case_job(&b, family, 8, json, false, on_event, NULL);
    CHECK(scheduler_admit(b.scheduler, job));
    CHECK(scheduler_step(b.scheduler) && scheduler_step(b.scheduler));
    CHECK_STR(emu_take_ranges(), "pictures()launch a round()finish a round(wait())");
    scheduler_cancel_all(b.scheduler, GEN_CANCELLED);
    while (scheduler_step(b.scheduler)) continue;
    json_decref(json);
    roundbed_close(&b);
}
