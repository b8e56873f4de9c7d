#include "kernels/cpu/cpu.h"
#include "kernels/cpu/queue.h"

const struct ops cpu_ops = {
    .pack = cpu_pack,
    .packed_free = cpu_packed_free,
    .gemm = cpu_gemm,
    .matmul = cpu_matmul,
    .embed = cpu_embed,
    .rmsnorm = cpu_rmsnorm,
    .layernorm = cpu_layernorm,
    .silu_mul = cpu_silu_mul,
    .rope_append = cpu_rope_append,
    .attention = cpu_attention,
    .draft_attention = cpu_draft_attention,
    .vision_rope = cpu_vision_rope,
    .vision_attention = cpu_vision_attention,
    .patches = cpu_patches,
    .add_positions = cpu_add_positions,
    .pool_attention = cpu_pool_attention,
    .to_float = cpu_to_float,
    .gather_rows = cpu_gather_rows,
    .apply = cpu_apply,
    .draft_input = cpu_draft_input,
    .draft_direct = cpu_draft_direct,
    .carry = cpu_carry,
    .topk = cpu_topk,
    .expand = cpu_expand,
    .select = cpu_select,
    .logprobs = cpu_logprobs,
    .filter = cpu_filter,
    .pick = cpu_pick,
    .accept = cpu_accept,
    .compact = cpu_compact,
    .stamp = cpu_stamp,
};

size_t dtype_size(enum dtype t)
{
    switch (t) {
    case DTYPE_F32:
        return 4;
    case DTYPE_F16:
    case DTYPE_BF16:
        return 2;
    }
    REQUIRE(!"a dtype");
    return 0;
}
