/* The tables of the CUDA device. */
#include "kernels/cuda/ops.cuh"

template <class T> static constexpr struct ops ops_of(enum dtype act)
{
    return {
        .act = act,
        .max_rows = cuda_max_rows,
        .pack = cuda_pack<T>,
        .packed_free = cuda_packed_free,
        .gemm = cuda_gemm<T>,
        .swiglu = cuda_swiglu<T>,
        .qkv = cuda_qkv<T>,
        .matmul = cuda_matmul<T>,
        .embed = cuda_embed<T>,
        .rmsnorm = cuda_rmsnorm<T>,
        .layernorm = cuda_layernorm<T>,
        .plan = cuda_plan,
        .attention = cuda_attention<T>,
        .draft_attention = cuda_draft_attention<T>,
        .vision_rope = cuda_vision_rope<T>,
        .vision_attention = cuda_vision_attention<T>,
        .silu_mul = cuda_silu_mul<T>,
        .patches = cuda_patches<T>,
        .add_positions = cuda_add_positions<T>,
        .pool_attention = cuda_pool_attention<T>,
        .to_float = cuda_to_float<T>,
        .gather_rows = cuda_gather_rows<T>,
        .apply = cuda_apply,
        .draft_input = cuda_draft_input<T>,
        .carry = cuda_carry<T>,
        .topk = cuda_topk<T>,
        .expand = cuda_expand,
        .select = cuda_select,
        .head = cuda_head<T>,
        .logprobs = cuda_logprobs,
        .filter = cuda_filter,
        .pick = cuda_pick,
        .accept = cuda_accept,
        .compact = cuda_compact<T>,
        .stamp = cuda_stamp,
    };
}

extern "C" const struct ops cuda_bf16_ops = ops_of<bf16>(DTYPE_BF16);
extern "C" const struct ops cuda_f16_ops = ops_of<f16>(DTYPE_F16);
