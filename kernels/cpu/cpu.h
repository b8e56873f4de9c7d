/* The CPU device's operations; kernels/ops.h says what each does. */
#ifndef KERNELS_CPU_CPU_H
#define KERNELS_CPU_CPU_H

#include "kernels/ops.h"

extern const struct ops cpu_ops; /* table.c */

int cpu_max_rows(int n_heads, int n_kv_heads);
struct packed *cpu_pack(struct device *dev, const void *w, enum dtype t, int n_out, int n_in,
                        int pair);
void cpu_packed_free(struct device *dev, struct packed *w);
void cpu_gemm(struct stream *s, const struct gemm_args *args);
void cpu_swiglu(struct stream *s, const struct swiglu_args *args);
void cpu_qkv(struct stream *s, const struct qkv_args *args);
void cpu_matmul(struct stream *s, const struct matmul_args *args);
void cpu_embed(struct stream *s, const struct embed_args *args);
void cpu_rmsnorm(struct stream *s, const struct norm_args *args);
void cpu_layernorm(struct stream *s, const struct norm_args *args);
void cpu_plan(struct stream *s, const struct plan_args *args);
void cpu_attention(struct stream *s, const struct attention_args *args);
void cpu_draft_attention(struct stream *s, const struct draft_attention_args *args);
void cpu_vision_rope(struct stream *s, const struct vision_rope_args *args);
void cpu_vision_attention(struct stream *s, const struct vision_attention_args *args);
void cpu_silu_mul(struct stream *s, const struct silu_mul_args *args);
void cpu_patches(struct stream *s, const struct patches_args *args);
void cpu_add_positions(struct stream *s, const struct add_positions_args *args);
void cpu_pool_attention(struct stream *s, const struct pool_attention_args *args);
void cpu_to_float(struct stream *s, const struct to_float_args *args);
void cpu_gather_rows(struct stream *s, const struct gather_rows_args *args);
void cpu_apply(struct stream *s, const struct apply_args *args);
void cpu_draft_input(struct stream *s, const struct draft_input_args *args);
void cpu_carry(struct stream *s, const struct carry_args *args);
void cpu_topk(struct stream *s, const struct topk_args *args);
void cpu_expand(struct stream *s, const struct expand_args *args);
void cpu_select(struct stream *s, const struct select_args *args);
void cpu_head(struct stream *s, const struct head_args *args);
void cpu_logprobs(struct stream *s, const struct logprobs_args *args);
void cpu_filter(struct stream *s, const struct filter_args *args);
void cpu_pick(struct stream *s, const struct pick_args *args);
void cpu_accept(struct stream *s, const struct accept_args *args);
void cpu_compact(struct stream *s, const struct compact_args *args);
void cpu_stamp(struct stream *s, const struct stamp_args *args);

/* gemm for an operation that runs. */
void cpu_gemm_now(const struct gemm_args *args);

#endif
