/* bench_prescribe (prescribe.h).
 *
 *   grid  max rows      block  a warp; a lane looks at two nodes of the row's tree */
#include "kernels/cuda/ops.cuh"
#include "kernels/philox.h"

extern "C" {
#include "bench/gpu/prescribe.h"
}

static_assert(MAX_NODES == 64, "a lane has two nodes");

static __global__ void __launch_bounds__(32)
    prescribe_kernel(const __grid_constant__ struct pick_args a, const float *rate)
{
    const int i = blockIdx.x, lane = threadIdx.x, vocab = a.state.vocab;
    grid_wait();
    if (i >= n_rows(a.out.n, a.out.max)) return;
    const int seat = a.out.seat[i], node = a.out.node[i], n_nodes = a.tree.n_nodes[seat];
    const size_t base = (size_t)seat * MAX_NODES;
    int32_t child[2]; /* its token, -1 where there is none */
    for (int half = 0; half < 2; half++) {
        const int j = lane + 32 * half;
        const bool is_child = j < n_nodes && a.tree.parent[base + j] == node;
        child[half] = is_child ? a.tree.token[base + j] : -1;
    }
    const uint64_t low = __ballot_sync(~0u, child[0] >= 0),
                   high = __ballot_sync(~0u, child[1] >= 0);
    const int first = __ffsll((long long)(high << 32 | low)) - 1;
    const struct philox counter = {{(uint32_t)*a.state.round, (uint32_t)seat, (uint32_t)node, 0}};
    const struct philox words = philox4x32(counter, 0);
    int32_t picked = (int32_t)(words.word[1] % (uint32_t)vocab);
    while (__ballot_sync(~0u, child[0] == picked || child[1] == picked) != 0)
        picked = (picked + 1) % vocab;
    if (first >= 0 && (float)words.word[0] * 0x1p-32F < *rate) picked = a.tree.token[base + first];
    if (lane == 0) a.pick[i] = picked;
}

void bench_prescribe(struct stream *s, const struct pick_args *a, const float *rate)
{
    launch(s, prescribe_kernel, (unsigned)a->out.max, 32, 0, *a, rate);
}
