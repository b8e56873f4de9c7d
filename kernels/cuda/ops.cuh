/* The CUDA device's operations, by the names of ops.h; T is the type of activations, f16 or bf16.
 * Each is made for both types where it is written (FOR_BOTH_TYPES). */
#ifndef KERNELS_CUDA_OPS_CUH
#define KERNELS_CUDA_OPS_CUH

#include "kernels/cuda/cuda.cuh"

extern "C" const struct ops cuda_bf16_ops, cuda_f16_ops;

#define FOR_BOTH_TYPES(name, args)                                                                 \
    template void name<f16>(struct stream * s, const struct args *a);                              \
    template void name<bf16>(struct stream * s, const struct args *a);

template <class T>
struct packed *cuda_pack(struct device *dev, const void *w, enum dtype t, int n_out, int n_in,
                         int pair);
void cuda_packed_free(struct device *dev, struct packed *w);
template <class T> void cuda_gemm(struct stream *s, const struct gemm_args *a);
template <class T> void cuda_swiglu(struct stream *s, const struct swiglu_args *a);
template <class T> void cuda_qkv(struct stream *s, const struct qkv_args *a);
template <class T> void cuda_matmul(struct stream *s, const struct matmul_args *a);
template <class T> void cuda_embed(struct stream *s, const struct embed_args *a);
template <class T> void cuda_rmsnorm(struct stream *s, const struct norm_args *a);
template <class T> void cuda_layernorm(struct stream *s, const struct norm_args *a);
int cuda_max_rows(int n_heads, int n_kv_heads);
void cuda_plan(struct stream *s, const struct plan_args *a);
template <class T> void cuda_attention(struct stream *s, const struct attention_args *a);
template <class T>
void cuda_draft_attention(struct stream *s, const struct draft_attention_args *a);
template <class T> void cuda_vision_rope(struct stream *s, const struct vision_rope_args *a);
template <class T>
void cuda_vision_attention(struct stream *s, const struct vision_attention_args *a);
template <class T> void cuda_silu_mul(struct stream *s, const struct silu_mul_args *a);
template <class T> void cuda_patches(struct stream *s, const struct patches_args *a);
template <class T> void cuda_add_positions(struct stream *s, const struct add_positions_args *a);
template <class T> void cuda_pool_attention(struct stream *s, const struct pool_attention_args *a);
template <class T> void cuda_to_float(struct stream *s, const struct to_float_args *a);
template <class T> void cuda_gather_rows(struct stream *s, const struct gather_rows_args *a);
void cuda_apply(struct stream *s, const struct apply_args *a);
template <class T> void cuda_draft_input(struct stream *s, const struct draft_input_args *a);
template <class T> void cuda_carry(struct stream *s, const struct carry_args *a);
template <class T> void cuda_topk(struct stream *s, const struct topk_args *a);
void cuda_expand(struct stream *s, const struct expand_args *a);
void cuda_select(struct stream *s, const struct select_args *a);
template <class T> void cuda_head(struct stream *s, const struct head_args *a);
void cuda_logprobs(struct stream *s, const struct logprobs_args *a);
void cuda_filter(struct stream *s, const struct filter_args *a);
void cuda_pick(struct stream *s, const struct pick_args *a);
void cuda_accept(struct stream *s, const struct accept_args *a);
template <class T> void cuda_compact(struct stream *s, const struct compact_args *a);
void cuda_stamp(struct stream *s, const struct stamp_args *a);

#endif
