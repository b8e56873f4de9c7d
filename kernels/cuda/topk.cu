/* topk: lm_head, and the best of log_softmax(row) = row - max - log(sum of e^(row - max)) (ops.h).
 *
 *   partials  struct row_tiles
 *
 *   topk_kernel   grid  max rows      block  ROW_THREADS
 *
 * The epilogue of gemm leaves the k best of a tile of a row and the sum of its e^x; logits are
 * written nowhere.  topk_kernel puts the tiles of a row together: the k best lie in those k tiles
 * whose bests are the best.  Bound by what gemm is bound by. */
#include "kernels/cuda/head.cuh"
#include "kernels/cuda/ops.cuh"

/* What the epilogue leaves; no_token behind a tile's last. */
struct row_tiles {
    struct scored *best; /* [max][n_tiles][k] */
    float *sum; /* [max][n_tiles] of e^(x - best[0].score); NaN if there is a NaN, or the best is
                   infinite */
    int n_tiles, k;
};

/* The best of a lane's tokens, `first` and those behind it, that ranks behind `last`. */
__device__ __forceinline__ struct scored next_of_lane(const float (&x)[LANE_TOKENS], int first,
                                                      int vocab, struct scored last)
{
    struct scored best = no_token();
    for (int i = 0; i < LANE_TOKENS; i++) {
        const struct scored s = {x[i] == x[i] ? x[i] : -INFINITY, first + i};
        if (first + i < vocab && ranks_before(last, s) && ranks_before(s, best)) best = s;
    }
    return best;
}

struct keep_best {
    struct row_tiles to;
    int vocab;

    using shared = struct head_rows;

    template <int N>
    __device__ __forceinline__ void take(struct head_rows *shared, float (&sum)[N][4], int tile,
                                         int row0, int n_rows) const
    {
        visit_rows(shared, sum, n_rows,
                   [=, this](int row, float4 four) { keep(row0 + row, tile, four); });
    }

    /* One warp. */
    __device__ __forceinline__ void keep(int row, int tile, float4 four) const
    {
        const float x[LANE_TOKENS] = {four.x, four.y, four.z, four.w};
        const int lane = threadIdx.x % 32, first = tile * GEMM_OUT + LANE_TOKENS * lane;
        const size_t place = (size_t)row * to.n_tiles + tile;
        struct scored mine = next_of_lane(x, first, vocab, {INFINITY, -1}), kept = mine;
        float max = 0, sum = 0;
        for (int j = 0; j < to.k; j++) {
            const struct scored best = warp_best(mine);
            if (j == 0) max = best.score;
            if (j == lane) kept = best;
            if (best.id == mine.id) mine = next_of_lane(x, first, vocab, mine);
        }
        for (int i = 0; i < LANE_TOKENS; i++)
            sum += first + i >= vocab || x[i] == -INFINITY ? 0 : expf(x[i] - max);
        sum = warp_sum(sum);
        if (lane == 0) to.sum[place] = sum;
        if (lane < to.k) to.best[place * to.k + lane] = kept;
    }
};
static_assert(MAX_TOP_K <= 32, "a lane keeps one");

/* What is ranked: the bests of the tiles, then all that the best tiles have. */
struct tile_heads {
    const struct scored *best;
    int k;

    __device__ __forceinline__ struct scored at(int tile) const
    {
        return best[(size_t)tile * k];
    }
};
struct tile_tokens {
    const struct scored *best;
    const int *tiles; /* [k] in shared memory */
    int k, n_tiles;

    __device__ __forceinline__ struct scored at(int i) const
    {
        const int tile = tiles[i / k];
        return tile < n_tiles ? best[(size_t)tile * k + i % k] : no_token();
    }
};

struct topk_shared {
    struct ranking ranking;
    int tiles[MAX_TOP_K];
    alignas(16) float sums[32];
};

static __global__ void __launch_bounds__(ROW_THREADS)
    topk_kernel(const __grid_constant__ struct topk_args a, struct row_tiles from)
{
    struct topk_shared *shared = (struct topk_shared *)shared_memory();
    const int r = blockIdx.x, j = threadIdx.x, k = a.k;
    grid_wait();
    if (r >= n_rows(a.n, a.max)) return;
    const struct scored *best = from.best + (size_t)r * from.n_tiles * k;
    const struct tile_heads heads = {best, k};
    find_best(&shared->ranking, heads, 0, from.n_tiles, k);
    const float max = shared->ranking.best[0].score;
    if (j < k) shared->tiles[j] = shared->ranking.best[j].id / GEMM_OUT;
    float sum = 0;
    for (int tile = j; tile < from.n_tiles; tile += ROW_THREADS)
        sum += from.sum[(size_t)r * from.n_tiles + tile] * expf(heads.at(tile).score - max);
    const float log_sum = logf(block_sum(sum, shared->sums));
    const struct tile_tokens tokens = {best, shared->tiles, k, from.n_tiles};
    find_best(&shared->ranking, tokens, 0, k * k, k);
    if (j >= k) return;
    const struct scored mine = shared->ranking.best[j];
    a.ids[(size_t)r * k + j] = a.ids_of != NULL ? a.ids_of[mine.id] : mine.id;
    a.logprobs[(size_t)r * k + j] = log_probability(mine.score, max, log_sum);
}

template <class T> void cuda_topk(struct stream *s, const struct topk_args *a)
{
    REQUIRE(a->k >= 1 && a->k <= MAX_TOP_K && a->k <= a->vocab && a->vocab == a->w->n_out);
    const int n_tiles = ceil_div(a->vocab, GEMM_OUT);
    const size_t n = (size_t)a->max * n_tiles, n_sums = (n + 1) / 2 * 2;
    static_assert(TOPK_TILE == GEMM_OUT && 3 * MAX_TOPK_BESTS <= PARTIAL_FLOATS, "bests have room");
    REQUIRE(n * a->k <= MAX_TOPK_BESTS);
    float *partials = cuda_stream_of(s)->partials;
    const struct row_tiles tiles = {(struct scored *)(partials + n_sums), partials, n_tiles, a->k};
    const struct keep_best epilogue = {tiles, a->vocab};
    launch_gemm<T>(s, a->w, a->x, a->ldx, a->n, a->max, epilogue);
    launch(s, topk_kernel, a->max, ROW_THREADS, sizeof(struct topk_shared), *a, tiles);
}

FOR_BOTH_TYPES(cuda_topk, topk_args)
