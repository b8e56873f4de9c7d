/* Rows of logits on their way out of lm_head: what the epilogues of topk and head share (gemm.cuh).
 *
 * A thread's sums are outputs 8 apart of pairs of rows.  They go through shared memory, so that a
 * warp has the 128 logits of a row, lane l those of tokens 4 l .. 4 l + 3 of the tile. */
#ifndef KERNELS_CUDA_HEAD_CUH
#define KERNELS_CUDA_HEAD_CUH

#include "kernels/cuda/gemm.cuh"
#include "kernels/cuda/scan.cuh"

constexpr int HEAD_ROWS = 32; /* at once: 16 KB beside the ring of few rows, also on sm_80 */
constexpr int LANE_TOKENS = GEMM_OUT / 32;
static_assert(LANE_TOKENS == 4, "a lane loads a float4");

struct alignas(16) head_rows {
    float logit[HEAD_ROWS][GEMM_OUT + 4]; /* the gap spreads a warp's sums over all banks */
};

/* Calls visit(row, logits of this lane's tokens) with each row of sum, a warp a row. */
template <int N, class Visit>
__device__ __forceinline__ void visit_rows(struct head_rows *shared, const float (&sum)[N][4],
                                           int n_rows, const Visit &visit)
{
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
    for (int j0 = 0; j0 < N; j0 += HEAD_ROWS / 8) {
        if (8 * j0 >= n_rows) break;
        __syncthreads(); /* nobody reads the rows before any more */
#pragma unroll
        for (int j = 0; j < HEAD_ROWS / 8; j++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                shared->logit[gemm_row(j, e)][gemm_out(0) + e / 2 * 8] = sum[j0 + j][e];
        __syncthreads();
        for (int row = warp; row < min(HEAD_ROWS, n_rows - 8 * j0); row += GEMM_THREADS / 32) {
            const float4 x = *(const float4 *)&shared->logit[row][LANE_TOKENS * lane];
            visit(8 * j0 + row, x);
        }
    }
}

#endif
